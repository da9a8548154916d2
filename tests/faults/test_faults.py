"""Runs whose processes are killed, whose disk is full, and that meet each other: the store stays whole.

Real processes. What one trial alone can do wrong is in tests/run/test_study.py; the long form of the kills is
`python benchmarks/faults.py --kills 200`.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from optlang.store.reader import query
from tests.benchmark_files import loaded
from tests.command_line import ROOT, command, environment, optlang
from tests.run.disk_study import study

pytestmark = pytest.mark.slow


def events(db: Path, kind: str) -> list[dict[str, Any]]:
    try:
        lines = Path(f"{db}.journal").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line.startswith(f'{{"event":"{kind}"') and line.endswith("}")]


def whole(db: Path, searched: int) -> None:
    """So many searched trials, each once, none left as running."""
    rows = query("SELECT trial, state, origin, reason, point::VARCHAR FROM trials", [db]).rows
    assert len({row[0] for row in rows}) == len(rows)
    assert not [row for row in rows if row[1] == "running"]
    points = [row[4] for row in rows if row[2] == "sampler" and row[3] != "interrupted"]
    assert len(points) == len(set(points)) == searched


def begun(folder: Path, *words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command("run", "big.opt", "--progress", "plain", *words), cwd=folder, env=environment(), text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )


def test_kills_of_all_kinds_leave_the_store_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    faults = loaded("faults")
    drill = faults.Drill(tmp_path, random.Random(4))
    drill.run(4, pause=(0.1, 1.5))
    drill.finish(trials=1)
    assert drill.kills == 4
    assert drill.struck["driver"]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of a few megabytes, where one can be mounted here."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if done.returncode != 0:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_ends_the_run_and_more_of_it_goes_on(small: Path) -> None:
    study(small, 8, "disk = 1GB")
    done = optlang(small, "run", "big.opt", "--progress", "plain")
    assert done.returncode == 3, done.stderr
    assert "No space left on device" in done.stderr
    assert "free some space" in done.stderr
    told = query("SELECT count(*) FROM trials WHERE state = 'failed' AND reason <> 'interrupted'", [
        small / "optlang.duckdb"
    ]).rows
    assert told == ((0,),), "a full disk is no trial's fault"
    subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
    done = optlang(small, "run", "big.opt", "--progress", "plain")
    assert done.returncode in (0, 1), done.stderr
    whole(small / "optlang.duckdb", 8)


def test_two_databases_in_one_folder_and_a_second_run_on_each(tmp_path: Path) -> None:
    study(tmp_path, 3)
    a, b = tmp_path / "a.duckdb", tmp_path / "b.duckdb"
    runs = {db: begun(tmp_path, "--db", db) for db in (a, b)}
    try:
        deadline = time.monotonic() + 120
        while not all(events(db, "start") for db in runs):
            assert time.monotonic() < deadline
            assert all(process.poll() is None for process in runs.values())
            time.sleep(0.05)
        refused = optlang(tmp_path, "run", "big.opt", "--db", a)
        assert refused.returncode == 3
        run = events(a, "session")[0]["run"]
        assert re.search(
            rf"another run is writing to .*a\.duckdb \(process {runs[a].pid}, since .* UTC; study `big`, run {run}: "
            r"\d+ trials? finished in this session", refused.stderr,
        ), refused.stderr
        assert f"`--join {run}` waits for it" in refused.stderr
        runs[tmp_path] = begun(tmp_path, "--db", a, "--join", run, "--trials", 4)
        said = {db: process.communicate(timeout=200)[1] for db, process in runs.items()}
    finally:
        for process in runs.values():
            process.kill()
            process.communicate()
    assert all(process.returncode in (0, 1) for process in runs.values()), said
    assert "waiting until it has finished" in said[tmp_path]
    assert len({event["run"] for event in events(a, "session")}) == 1
    whole(a, 4)
    whole(b, 3)
    assert not list((tmp_path / ".optlang" / "scratch").iterdir())
