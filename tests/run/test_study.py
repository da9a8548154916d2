"""Whole runs through the command line, in processes of their own that may be interrupted and killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from optlang.plan.quantities import in_bytes, in_seconds
from optlang.store.reader import query
from tests.command_line import command, environment, optlang
from tests.noise import NOISE

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow

PARTS = """\
optlang 1

technique explode "go wrong in a way of one's choice" {
  calls "parts.py:explode"
  param how: name in {fine, better, broken, killed, crashed, hungry, stuck, nan} = fine
  takes module
  gives module
}

technique nap "take some time" {
  calls "parts.py:nap"
  param tenths: int in 0 .. 100 = 0
  param number: int in 0 .. 1000 = 0
  takes module
  gives module
}
"""
PYTHON = """\
import copy, ctypes, dataclasses, os, resource, signal, time
import torch


def scaled(subject, by):
    model = copy.deepcopy(subject.model)
    with torch.no_grad():
        next(model.parameters()).mul_(by)
    return dataclasses.replace(subject, model=model)


def explode(subject, settings, context):
    how = settings["how"]
    if how == "broken":
        raise ValueError("as asked")
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "crashed":
        ctypes.string_at(0)
    if how == "hungry":
        held = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (2**33, held[1]))
        try:
            torch.zeros(2**40)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, held)
    if how == "stuck":
        time.sleep(600)
    return scaled(subject, {"fine": 0.999, "better": 1.001, "nan": float("nan")}[how])


def nap(subject, settings, context):
    time.sleep(settings["tenths"] / 10)
    return scaled(subject, 1 + settings["number"] / 1e6)


""" + NOISE
# Nothing is trained here: the first optimizer of a process costs it a second, and so does scikit-learn.
STUDY = """\
optlang 1

import parts
import python "parts.py" as own

study small "a small study" {{
  model net = zoo.digits_cnn(width = 4)
  data seen = own.noise()
  baseline {{ parts.nap }}
  target here {{ device = cpu; runtime = onnxruntime }}
  steps {{ {steps} }}
  {more}
  minimize latency, size
  maximize accuracy
  measure {{ rounds = 2; front_rounds = 2; front_processes = 1; round_seconds = 2ms; round_calls = 5 }}
  search {{ trials = {trials}; seed = 1; sampler = random; trial_timeout = {patience} }}
}}
"""
NAPS = "parts.nap { number in 1 .. 1000; tenths = 5 }"

Study = Callable[..., Path]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """A study in a folder of its own; everything beside it is filled in."""

    def make(steps: str = NAPS, more: str = "", trials: int = 4, patience: str = "2min") -> Path:
        (tmp_path / "parts.opt").write_text(PARTS)
        (tmp_path / "parts.py").write_text(PYTHON)
        path = tmp_path / "small.opt"
        path.write_text(STUDY.format(steps=steps, more=textwrap.dedent(more), trials=trials, patience=patience))
        return path

    return make


def typed(folder: Path, line: str) -> subprocess.CompletedProcess[str]:
    """What a shell makes of a line."""
    return subprocess.run(
        ["sh", "-c", line], cwd=folder, env=environment(), capture_output=True, text=True, check=False, timeout=300
    )


def rows(folder: Path, sql: str) -> list[dict[str, Any]]:
    answer = query(sql, [folder / "optlang.duckdb"])
    names = [column.name for column in answer.columns]
    return [dict(zip(names, row, strict=True)) for row in answer.rows]


def started(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command("run", "small.opt", "--progress", "plain"), cwd=folder, env=environment(), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "it takes too long"
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    """The whole lines of a kind in the journal."""
    try:
        text = (folder / "optlang.duckdb.journal").read_text()
    except FileNotFoundError:
        return []
    found = []
    for line in text.splitlines(keepends=True):
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if line.endswith("\n") and event.get("event") == kind:
            found.append(event)
    return found


def running(folder: Path, ended: int) -> Callable[[], bool]:
    """Whether a trial runs, and so many are over."""
    return lambda: len(events(folder, "start")) > len(events(folder, "end")) >= ended


def trials(folder: Path) -> list[tuple[int, str, str, str | None]]:
    found = rows(folder, "SELECT trial, origin, state, reason FROM results ORDER BY trial")
    return [(row["trial"], row["origin"], row["state"], row["reason"]) for row in found]


@pytest.fixture
def ended() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that are ended, with all that they started, whatever becomes of the test."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_a_run_goes_to_its_end_and_on(study: Study, tmp_path: Path) -> None:
    path = study(NAPS.replace("tenths = 5", "tenths = 0"))
    first = optlang(tmp_path, "run", path, "--progress", "plain")
    assert first.returncode == 0, first.stderr
    assert "optlang export small" in first.stdout
    found = trials(tmp_path)
    assert [number for number, *_ in found] == list(range(len(found)))
    assert found[0][1:] == ("baseline", "complete", None)
    assert [origin for _, origin, _, _ in found].count("sampler") == 4
    assert all(state == "complete" for _, _, state, _ in found)
    check_seconds_and_ratios(tmp_path)
    (made,) = rows(tmp_path, "SELECT path, technique, settings::JSON AS settings FROM steps WHERE trial = 0")
    assert (made["path"], made["technique"]) == ("baseline.nap", "parts.nap")
    assert json.loads(made["settings"]) == {"tenths": 0, "number": 0}

    again = optlang(tmp_path, "run", path, "--progress", "plain")
    assert again.returncode == 0
    # On a busy machine the front may change in each pass; then this run has gone on with measuring it.
    assert again.stdout == first.stdout or "has changed in each of" in first.stdout + first.stderr
    assert trials(tmp_path) == found

    more = optlang(tmp_path, "run", path, "--trials", "6")
    assert more.returncode == 0
    assert [number for number, *_ in trials(tmp_path)] == list(range(len(found) + 2))
    numbers = rows(tmp_path, "SELECT number FROM results WHERE origin = 'sampler'")
    assert len({row["number"] for row in numbers}) == 6

    fresh = optlang(tmp_path, "run", path, "--trials", "1", "--new")
    assert fresh.returncode == 0
    assert len(rows(tmp_path, "FROM runs")) == 2
    timeline = rows(tmp_path, "SELECT cached FROM timeline WHERE run = (SELECT arg_max(run, started) FROM runs)")
    # Another run, the same steps: the baseline's is not done again.
    assert any(row["cached"] for row in timeline)


def check_seconds_and_ratios(folder: Path, *, alike: bool = True) -> None:
    """One row, one measurement: in tables, views, the printed front and what is exported.

    `alike`: the front was measured in this run, so its rows have seconds of the baseline that were measured with it.
    """
    timed = rows(folder, "FROM measurements WHERE metric LIKE 'latency.%' OR metric IN ('load_time', 'memory.peak')")
    assert timed
    for row in timed:
        assert row["ratio"] == pytest.approx(row["baseline"] / row["value"], rel=1e-9)
    front = rows(folder, "FROM front ORDER BY trial")
    # A noisy machine may need a second cycle for trials that came close: the baseline has its seconds of each.
    own = {item["value"] for item in timed if item["trial"] == 0}
    for row in front:
        for metric in ("latency", "latency_p50", "latency_p95"):
            assert row[f"{metric}_x"] == pytest.approx(row[f"{metric}_baseline"] / row[metric], rel=1e-9)
            if alike:
                # The passes end after three: on a noisy machine a trial may come into the front after the last one.
                pair = {item["baseline"] for item in timed if item["trial"] == row["trial"]}
                assert row[f"{metric}_baseline"] in own | pair
        assert row["accuracy_lost"] == pytest.approx(row["accuracy_baseline"] - row["accuracy"])
    last = front[-1]
    assert optlang(folder, "export", "small", last["trial"], "-o", "out", "--force").returncode == 0
    manifest = json.loads((folder / "out" / "manifest.json").read_text())
    figure = next(item for item in manifest["figures"] if item["metric"] == "latency.p50")
    assert (figure["baseline"], figure["value"]) == (last["latency_baseline"], last["latency"])
    assert figure["times_better"] == pytest.approx(figure["baseline"] / figure["value"], rel=1e-9)
    page = (folder / "out" / "README.md").read_text()
    line = next(line for line in page.splitlines() if line.startswith("| latency.p50 "))
    assert line.split(" | ")[1] == in_seconds(last["latency"])
    assert line.split(" | ")[3] == in_seconds(last["latency_baseline"])


def test_a_changed_study_begins_another_run_and_says_so(study: Study, tmp_path: Path) -> None:
    path = study(trials=1)
    assert optlang(tmp_path, "run", path).returncode == 0
    study("parts.nap { number in 1 .. 500; tenths = 0 }", trials=1)
    changed = optlang(tmp_path, "run", path, "--progress", "plain")
    assert changed.returncode == 0
    assert "steps changed" in changed.stderr
    assert len(rows(tmp_path, "FROM runs")) == 2
    offered = re.search(r"add (--join \w+)\)", changed.stderr)
    assert offered is not None
    joined = optlang(tmp_path, "run", path, "--trials", "2", *offered[1].split())
    assert joined.returncode == 0, joined.stderr
    continued = optlang(tmp_path, "run", path, "--continue", "--trials", "3")
    assert continued.returncode == 0, continued.stderr
    assert len(rows(tmp_path, "FROM runs")) == 2
    (first, second) = rows(tmp_path, "SELECT count(*) AS n FROM trials WHERE origin = 'sampler' GROUP BY run")
    assert sorted([first["n"], second["n"]]) == [1, 3], "the joined run has become the newest"
    path.write_text(path.read_text().replace("width = 4", "width = 8"))
    refused = optlang(tmp_path, "run", path, "--continue")
    assert refused.returncode == 1
    assert "model changed" in refused.stderr
    again = optlang(tmp_path, "run", path, "--progress", "plain", "--trials", "1")
    assert again.returncode == 0
    assert "model changed" in again.stderr
    assert "--join" not in again.stderr
    assert "--continue" not in again.stderr
    shown = re.search(r"`(\S+ -m optlang sql .*)`", again.stderr)
    assert shown is not None
    assert typed(tmp_path, shown[1]).stdout.count("\n") > 3


def test_the_printed_commands_work_as_they_are_typed(study: Study, tmp_path: Path) -> None:
    study(trials=1)
    away = tmp_path / "my results"
    away.mkdir()
    path = (tmp_path / "small.opt").rename(away / "my study.opt")
    for name in ("parts.opt", "parts.py"):
        (tmp_path / name).rename(away / name)
    words = ("run", path, "--db", away / "all of it.duckdb", "--home", tmp_path / "my home", "--progress", "plain")
    for folder in ("small-", "small-\\d+-2"):
        done = optlang(tmp_path, *words)
        assert done.returncode == 0, done.stderr
        line = re.search(rf"^Next: (.* export small \d+ -o ({folder}\S*) --db .*)$", done.stdout, re.MULTILINE)
        assert line is not None, done.stdout
        exported = typed(tmp_path, line[1])
        assert exported.returncode == 0, exported.stderr
        assert (tmp_path / line[2] / "manifest.json").is_file()
    other = optlang(tmp_path, "front", "small", "--db", away / "all of it.duckdb")
    assert other.returncode == 0
    # Another file's study of this name, in the same database.
    copy = away / "copy.opt"
    copy.write_text(path.read_text().replace("number in 1 .. 1000", "number in 1 .. 10"))
    second = optlang(tmp_path, "run", copy, *words[2:])
    assert second.returncode == 0, second.stderr
    assert "my study.opt has a study `small` too, in this database" in second.stderr
    wrong = optlang(tmp_path, "front", path, "--db", away / "all of it.duckdb")
    assert wrong.returncode == 1
    offered = re.search(r"`(.* front small --db .*)` shows it", wrong.stderr)
    assert offered is not None
    assert typed(tmp_path, offered[1]).returncode == 0


def test_every_way_to_fail_is_one_failed_trial_with_its_reason(study: Study, tmp_path: Path) -> None:
    ways = "{fine, better, broken, killed, crashed, hungry, stuck, nan}"
    path = study(f"parts.explode {{ how in {ways} }}", trials=8, patience="25s")
    done = optlang(tmp_path, "run", path, "--progress", "plain")
    assert done.returncode == 0, done.stderr
    found = {
        row["how"]: (row["state"], row["reason"])
        for row in rows(tmp_path, "SELECT how, state, reason FROM results WHERE how IS NOT NULL")
    }
    assert {how for how, (state, _) in found.items() if state == "complete"} == {"fine", "better"}
    assert "ValueError: as asked" in found["broken"][1]
    assert "parts.py:" in found["broken"][1]
    assert "SIGKILL" in found["killed"][1]
    assert "SIGSEGV" in found["crashed"][1]
    assert "can't allocate memory" in found["hungry"][1]
    assert "longer than 25 s" in found["stuck"][1]
    assert "parts.explode took longer than `trial_timeout`: it is skipped from now on" in done.stderr
    assert "NaN" in found["nan"][1]
    errors = rows(tmp_path, "SELECT error FROM trials WHERE reason LIKE '%as asked%'")
    assert 'raise ValueError("as asked")' in errors[0]["error"]
    assert "optlang/run" not in errors[0]["error"]


def test_nothing_that_meets_the_requirements_shows_the_nearest(study: Study, tmp_path: Path) -> None:
    path = study(NAPS.replace("5", "0"), more="require size <= 100B", trials=2)
    done = optlang(tmp_path, "run", path, "--progress", "plain")
    assert done.returncode == 1
    assert "optlang export small" in done.stdout
    states = {state for number, _, state, _ in trials(tmp_path) if number}
    assert states == {"infeasible"}
    for row in rows(tmp_path, "SELECT trial, reason, size FROM results WHERE trial > 0"):
        value, over = row["size"], row["size"] - 100
        assert row["reason"] == f"size {in_bytes(value)} is above the limit 100 B by {in_bytes(over)}"
        assert row["reason"] in done.stdout


def test_a_kill_loses_the_running_trial_at_most(
    study: Study, tmp_path: Path, ended: list[subprocess.Popen[str]]
) -> None:
    study(trials=5)
    process = started(tmp_path)
    ended.append(process)
    until(running(tmp_path, 4), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {event["trial"] for event in events(tmp_path, "end")}
    lost = {event["trial"] for event in events(tmp_path, "start")} - before
    assert len(lost) == 1

    done = optlang(tmp_path, "run", "small.opt")
    assert done.returncode == 0, done.stderr
    found = trials(tmp_path)
    assert [number for number, *_ in found] == list(range(len(found)))
    assert {number for number, _, state, _ in found if state == "failed"} == lost
    assert {reason for _, _, state, reason in found if state == "failed"} == {"interrupted"}
    assert sum(origin == "sampler" and state == "complete" for _, origin, state, _ in found) == 5
    assert before <= {number for number, _, state, _ in found if state == "complete"}
    numbers = rows(tmp_path, "SELECT number FROM results WHERE state = 'complete' AND number IS NOT NULL")
    assert len({row["number"] for row in numbers}) == len(numbers)


def test_ctrl_c_finishes_the_running_trial(
    study: Study, tmp_path: Path, ended: list[subprocess.Popen[str]]
) -> None:
    study(trials=50)
    process = started(tmp_path)
    ended.append(process)
    until(running(tmp_path, 3), process)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Ctrl-C again" in err
    assert "Traceback" not in err
    found = trials(tmp_path)
    assert all(state == "complete" for _, _, state, _ in found)
    assert len(found) < 50
    assert "small" in out


def test_a_second_ctrl_c_ends_at_once(study: Study, tmp_path: Path, ended: list[subprocess.Popen[str]]) -> None:
    study(NAPS.replace("tenths = 5", "tenths = 100"), trials=3)
    process = started(tmp_path)
    ended.append(process)
    # The baseline naps for no time, all others for ten seconds.
    until(running(tmp_path, 1), process)
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    found = trials(tmp_path)
    assert found[-1][2:] == ("failed", "interrupted")


def test_the_ladder_can_be_left_out_and_had_later(study: Study, tmp_path: Path) -> None:
    path = study("maybe parts.nap { number = 3 }", trials=2)
    path.write_text(path.read_text().replace("seed = 1;", "seed = 1; ladder = false;"))
    assert optlang(tmp_path, "run", "small.opt").returncode == 0
    assert [origin for _, origin, *_ in trials(tmp_path)] == ["baseline", "sampler", "sampler"]
    # Both points of the space are known: the ladder has nothing left to measure.
    assert optlang(tmp_path, "run", "small.opt", "--ladder").returncode == 0
    assert len(trials(tmp_path)) == 3
    assert optlang(tmp_path, "run", "small.opt", "--new", "--ladder").returncode == 0
    assert [event["origin"] for event in events(tmp_path, "start")][-3:] == ["baseline", "ladder", "ladder"]
    assert [event["in_space"] for event in events(tmp_path, "start")][-2:] == [True, True]


def test_of_the_ladder_only_what_the_search_needs_comes_before_it(study: Study, tmp_path: Path) -> None:
    path = study("maybe parts.nap { number in 1 .. 3 }", trials=3)
    path.write_text(path.read_text().replace("runtime = onnxruntime", "runtime in { eager; onnxruntime }"))
    assert optlang(tmp_path, "run", path).returncode == 0
    found = [(item["origin"], item["alone"], item["runtime"]) for item in events(tmp_path, "start")]
    assert found[:3] == [
        ("baseline", None, "eager"), ("ladder", "none", "onnxruntime"), ("ladder", "parts.nap", "onnxruntime")
    ]
    assert [origin for origin, *_ in found[3:6]] == ["sampler"] * 3
    assert found[6:] == [("ladder", "parts.nap", "eager")]
    table = rows(tmp_path, "SELECT technique, runtime FROM tradeoffs")
    assert sorted((row["technique"], row["runtime"]) for row in table) == [
        ("none", "eager"), ("none", "onnxruntime"), ("parts.nap", "eager"), ("parts.nap", "onnxruntime")
    ]


def test_reading_goes_on_while_it_runs_and_running_while_it_is_read(
    study: Study, tmp_path: Path, ended: list[subprocess.Popen[str]]
) -> None:
    study(trials=4)
    process = started(tmp_path)
    ended.append(process)
    until(lambda: len(events(tmp_path, "end")) >= 2, process)
    seen = optlang(tmp_path, "sql", "SELECT trial FROM results", "--format", "json")
    assert seen.returncode == 0, seen.stderr
    assert len(json.loads(seen.stdout)) >= 2
    assert process.poll() is None
    holder = subprocess.Popen(
        [sys.executable, "-c", "import duckdb, sys; held = duckdb.connect('optlang.duckdb'); sys.stdin.read()"],
        cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )
    ended.append(holder)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    holder.communicate()
    found = trials(tmp_path)
    assert sum(origin == "sampler" for _, origin, _, _ in found) == 4
    assert len(found) == len(events(tmp_path, "start")) == len(events(tmp_path, "end"))


def test_a_second_run_on_the_same_database_is_refused(
    study: Study, tmp_path: Path, ended: list[subprocess.Popen[str]]
) -> None:
    study(trials=50)
    process = started(tmp_path)
    ended.append(process)
    until(lambda: bool(events(tmp_path, "session")), process)
    second = optlang(tmp_path, "run", "small.opt")
    assert second.returncode == 3
    assert str(process.pid) in second.stderr


MISTAKES: list[tuple[str, str, Sequence[str]]] = [
    ("raise RuntimeError('no such layer')", "return {}", ["no such layer", "models.py:4"]),
    ("return 7", "return {}", ["torch.nn.Module"]),
    ("return torch.nn.Linear(2, 2)", "return {'train': 1}", ["train"]),
    ("return torch.nn.Linear(3, 2)", "return {'train': (x, y), 'validation': (x, y)}", ["running the model", "mat1"]),
]


@pytest.mark.parametrize(("model", "data", "words"), MISTAKES)
def test_mistakes_in_the_users_python_come_back_with_their_lines(
    tmp_path: Path, model: str, data: str, words: Sequence[str]
) -> None:
    (tmp_path / "models.py").write_text(
        f"import torch\n\ndef net():\n    {model}\n\n"
        f"def data():\n    x, y = torch.zeros(8, 2), torch.zeros(8).long()\n    {data}\n"
    )
    (tmp_path / "s.opt").write_text(textwrap.dedent("""
        optlang 1
        import python "models.py" as mine
        study s {
          model m = mine.net()
          data d = mine.data()
          target t { runtime = onnxruntime }
          steps { maybe static }
          minimize size
        }
    """))
    done = optlang(tmp_path, "run", "s.opt")
    assert done.returncode in (1, 3), done.stderr
    assert "Traceback" not in done.stderr
    assert "optlang/" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_a_metric_that_the_task_does_not_give_is_said_before_anything_is_trained(study: Study, tmp_path: Path) -> None:
    path = study()
    text = path.read_text().replace("model net", "metric top5: ratio maximize\n  model net")
    path.write_text(text.replace("maximize accuracy", "maximize top5"))
    done = optlang(tmp_path, "run", path)
    assert done.returncode == 1
    assert "`top5`" in done.stderr
    assert "accuracy" in done.stderr
    assert not events(tmp_path, "start")


def test_a_trial_is_compared_with_the_baseline_at_its_own_batch(study: Study, tmp_path: Path) -> None:
    path = study(steps="parts.explode { how in {fine, better} }", trials=4)
    path.write_text(path.read_text().replace("runtime = onnxruntime", "batch in [1, 4]; runtime = onnxruntime"))
    done = optlang(tmp_path, "run", "small.opt", "--progress", "plain")
    assert done.returncode == 0, done.stderr
    assert "could not be measured" not in done.stderr
    found = rows(tmp_path, "SELECT batch, state, latency_x, latency FROM results WHERE origin = 'sampler'")
    assert {(row["batch"], row["state"]) for row in found} == {(1, "complete"), (4, "complete")}
    assert all(row["latency_x"] > 0 for row in found)
    check_seconds_and_ratios(tmp_path, alike=False)


def test_a_run_killed_in_its_baseline_begins_anew(
    study: Study, tmp_path: Path, ended: list[subprocess.Popen[str]]
) -> None:
    path = study(NAPS.replace("tenths = 5", "tenths = 0"), trials=1)
    path.write_text(path.read_text().replace("baseline { parts.nap }", "baseline { parts.nap { tenths = 20 } }"))
    process = started(tmp_path)
    ended.append(process)
    until(running(tmp_path, 0), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for _ in range(2):
        done = optlang(tmp_path, "run", path, "--progress", "plain")
        assert done.returncode == 0, done.stderr
    found = rows(tmp_path, "SELECT trial, origin, state FROM results WHERE state = 'complete' ORDER BY trial")
    assert [row["trial"] for row in found] == list(range(len(found)))
    assert found[0]["origin"] == "baseline"


def test_a_baseline_that_failed_is_done_again(study: Study, tmp_path: Path) -> None:
    path = study(NAPS.replace("tenths = 5", "tenths = 0"), trials=1)
    python = tmp_path / "parts.py"
    right = python.read_text()
    heading = "def nap(subject, settings, context):"
    python.write_text(right.replace(heading, f"{heading}\n    1 / 0"))
    failed = optlang(tmp_path, "run", path, "--progress", "plain")
    assert failed.returncode == 1
    assert "parts.py" in failed.stderr
    python.write_text(right)
    done = optlang(tmp_path, "run", path, "--progress", "plain")
    assert done.returncode == 0, done.stderr


def test_a_run_whose_time_is_up_says_so_and_goes_on(study: Study, tmp_path: Path) -> None:
    path = study(trials=1)
    first = optlang(tmp_path, "run", path, "--progress", "plain", "--timeout", "0.1s")
    assert first.returncode == 1, "the baseline alone meets nothing that was asked of a trial"
    assert "time is up" in first.stderr
    assert "the same command goes on" in first.stderr
    assert [origin for _, origin, _, _ in trials(tmp_path)] == ["baseline"]
    again = optlang(tmp_path, "run", path, "--progress", "plain")
    assert again.returncode == 0, again.stderr
    assert [origin for _, origin, _, _ in trials(tmp_path)].count("sampler") == 1
