"""Several workers: their trials go on at the same time, none twice, and what two share is computed once."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from optlang.plan.model import Plan
from optlang.run import memory
from optlang.run.job import TrialJob
from optlang.store.reader import query
from tests.command_line import command, environment, optlang
from tests.run.test_promotion import GOALS, SEARCH, STEPS, MadeUp, searched
from tests.run.test_study import NAPS, Study, study  # noqa: F401 - a fixture

SHARED = "parts.nap { number = 1; tenths = 8 }; again = parts.nap { number in 1 .. 1000; tenths = 15 }"


def rows(folder: Path, sql: str) -> list[tuple[object, ...]]:
    return [tuple(row) for row in query(sql, [folder / "optlang.duckdb"]).rows]


@pytest.mark.slow
def test_two_trials_go_on_at_the_same_time_and_none_twice(study: Study, tmp_path: Path) -> None:  # noqa: F811
    path = study(SHARED, trials=6)
    done = optlang(tmp_path, "run", path.name, "--workers", "2", "--progress", "plain")
    assert done.returncode == 0, done.stderr
    found = rows(tmp_path, "SELECT trial, state, started, finished FROM trials ORDER BY trial")
    assert [row[1] for row in found] == ["complete"] * len(found)
    times = [row[2:] for row in found[1:]]
    assert any(
        one[0] < other[1] and other[0] < one[1]  # type: ignore[operator]
        for index, one in enumerate(times) for other in times[:index]
    ), "none of them overlap"
    knobs = Counter(row[0] for row in rows(tmp_path, "SELECT to_json(point) FROM trials WHERE origin = 'sampler'"))
    assert len(knobs) == 6, "a point was tried twice"
    computed = Counter(
        row[0] for row in rows(tmp_path, "SELECT key FROM steps WHERE NOT cached AND key IS NOT NULL")
    )
    assert set(computed.values()) == {1}, "a step was carried out twice"


@pytest.mark.slow
def test_a_worker_that_dies_is_one_failed_trial(study: Study, tmp_path: Path) -> None:  # noqa: F811
    path = study("parts.explode { how in {fine, better, killed} }; " + NAPS, trials=6)
    done = optlang(tmp_path, "run", path.name, "--workers", "2", "--progress", "plain")
    assert done.returncode == 0, done.stderr
    failed = rows(tmp_path, "SELECT reason FROM trials WHERE state = 'failed'")
    assert failed
    assert all("SIGKILL" in str(row[0]) or "as before" in str(row[0]) for row in failed), failed
    assert rows(tmp_path, "SELECT count(*) FROM trials WHERE state = 'complete' AND origin = 'sampler'") != [(0,)]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_stopped_goes_on_without_a_gap(
    study: Study, tmp_path: Path, number: signal.Signals  # noqa: F811
) -> None:
    path = study(NAPS, trials=4)
    words = ("run", path.name, "--workers", "2", "--progress", "plain")
    with subprocess.Popen(
        command(*words), cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as run:
        assert run.stderr is not None
        for line in run.stderr:
            if re.match(r"\*? +[1-9]", line):
                break
        os.kill(run.pid, number)
        run.stderr.read()
    _gone(tmp_path)
    done = optlang(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    states = rows(tmp_path, "SELECT state, count(*) FROM trials WHERE origin = 'sampler' GROUP BY state ORDER BY state")
    assert dict(states)["complete"] == 4  # type: ignore[arg-type]
    numbers = [row[0] for row in rows(tmp_path, "SELECT trial FROM trials ORDER BY trial")]
    assert numbers == list(range(len(numbers)))


def _gone(folder: Path) -> None:
    """Wait until no process works in the folder."""
    deadline = time.monotonic() + 20
    while any(_works_in(path, folder) for path in Path("/proc").iterdir() if path.name.isdigit()):
        assert time.monotonic() < deadline, "a worker outlived its run"
        time.sleep(0.1)


def _works_in(process: Path, folder: Path) -> bool:
    try:
        return (process / "cwd").readlink() == folder
    except OSError:
        return False


@pytest.mark.slow
def test_a_worker_that_does_not_fit_does_not_start(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:
    from optlang.analysis.load import load
    from optlang.run.study import Options, run

    said: list[str] = []

    class Shown:
        def message(self, text: str) -> None:
            said.append(text)

        def __getattr__(self, name: str) -> Callable[..., None]:
            return lambda *_: None

    monkeypatch.setattr(memory, "free", lambda: 1000)
    path = study(NAPS, trials=2)
    plan = load(path).plan
    assert plan is not None
    run(plan, path.read_text(), path, tmp_path / "small.duckdb", Options(workers=3, home=tmp_path / "home"), Shown())  # type: ignore[arg-type]
    assert any(re.match(r"1 of 3 workers train: each needs up to [0-9.]+ [MG]B of memory, and 1.00 kB are free", text)
               for text in said), said


@dataclass
class Slow(MadeUp):
    """Trials that are made up and take some time, in several lanes."""

    lanes: ClassVar[int] = 3
    inside: set[int] = field(default_factory=set)
    most: int = 0

    def submit(self, task: Callable[[Any], Any], job: Any, lane: int = 0) -> Future[Any]:
        if job is None:
            future: Future[Any] = Future()
            future.set_result(1)
            return future
        done = super().submit(task, job, lane)
        if not isinstance(job, TrialJob):
            return done
        assert job.trial not in self.inside, "a trial goes on in two lanes"
        self.inside.add(job.trial)
        self.most = max(self.most, len(self.inside))
        later: Future[Any] = Future()

        def end() -> None:
            self.inside.discard(job.trial)
            later.set_result(done.result())

        threading.Timer(0.005 * (1 + job.trial * 7 % 5), end).start()
        return later


def test_trials_that_pause_go_on_in_any_lane(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    plan = plan_of(STEPS, goals=GOALS, search=SEARCH)
    engine, seen = searched(plan, tmp_path, Slow())
    assert isinstance(engine, Slow)
    assert engine.most == 3
    assert {item.lane for item in seen.started} == {0, 1, 2}
    numbers = [item.number for item in seen.started if item.resumed is None and item.origin == "sampler"]
    assert numbers == list(range(1, 10)), "as many are drawn as were asked for"
    db = [tmp_path / "x.duckdb"]
    [(first,), (second,)] = query("SELECT count(*) FROM rungs GROUP BY rung ORDER BY rung", db).rows
    assert (first, second >= 3) == (9, True)
    states = dict(query("SELECT state, count(*) FROM trials GROUP BY state", db).rows)
    assert set(states) == {"complete", "paused"}
    assert sum(states.values()) == 10
    points = query("SELECT count(DISTINCT point) FROM trials WHERE origin = 'sampler'", db).rows
    assert points == ((9,),)
