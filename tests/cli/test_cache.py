"""The commands of the cache: what is listed and checked, what is removed, and what stays."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from optlang.cli.app import command
from optlang.interfaces import Factory
from optlang.run import in_use
from optlang.run.cache import Cache, key_of
from optlang.run.job import Workload
from optlang.run.scratch import Scratch
from optlang.store.artifacts import EXPORTED
from optlang.store.reader import query
from optlang.store.writer import Writer
from tests.store.example_study import search_events

DAY = 86400
KEYS = [key_of(number) for number in range(4)]


def filled(folder: Path, number: int, age: float, name: str = "state") -> Path:
    found = Cache(folder / ".optlang" / "cache").put(
        KEYS[number], lambda aside: (aside / name).write_bytes(bytes(100_000))
    )
    os.utime(found, (time.time() - age, time.time() - age))
    return found


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A database of a run whose artifacts are there, and a cache of four results, in the current folder."""
    monkeypatch.chdir(tmp_path)
    home = tmp_path / ".optlang"
    with Writer(tmp_path / "optlang.duckdb") as store:
        for event in search_events(6):
            for item in event.get("artifacts", ()) if event["event"] == "end" else ():
                folder = home / "artifacts" / event["run"] / str(event["trial"])
                folder.mkdir(parents=True)
                (folder / "model.onnx").write_bytes(bytes(50_000))
                item |= {
                    "path": str(folder),
                    "files": [{"name": "model.onnx", "bytes": 50_000, "sha256": key_of_zeros(50_000)}],
                }
            if event["event"] == "end" and event["trial"] == 5:
                event["steps"] = [*event["steps"], {"path": "p", "technique": "own.t", "key": KEYS[3], "cached": False}]
            store.record(event)
    for number in range(4):
        filled(tmp_path, number, (4 - number) * 10 * DAY)
    return tmp_path


def key_of_zeros(count: int) -> str:
    import hashlib

    return hashlib.sha256(bytes(count)).hexdigest()


def answered(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert command(["cache", *arguments]) == code, capsys.readouterr()
    return capsys.readouterr().out


def keys(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [row["key"] for row in json.loads(answered(capsys, "list", "--format", "json"))]


def front() -> set[int]:
    return {trial for (trial,) in query("SELECT trial FROM front", [Path("optlang.duckdb")]).rows}


def there(folder: Path) -> set[int]:
    return {int(path.name) for path in (folder / ".optlang" / "artifacts" / "r1").iterdir()}


def test_results_are_listed_with_their_study_and_last_use(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, Any]] = json.loads(answered(capsys, "list", "--format", "json"))
    assert [row["key"] for row in rows] == [key[:12] for key in KEYS]
    assert {row["kind"] for row in rows} == {"step"}
    assert all(row["bytes"] >= 100_000 for row in rows)
    assert rows[3]["step"] == "p (own.t)"
    assert rows[3]["study"]
    assert rows[0]["study"] is None


def test_the_sizes_add_up(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["what"]: row for row in json.loads(answered(capsys, "size", "--format", "json"))}
    assert rows["results of steps"]["folders"] == 4
    parts = [row for what, row in rows.items() if what != "all"]
    assert rows["all"]["bytes"] == sum(row["bytes"] for row in parts)
    assert rows["artifacts of fronts"]["folders"] == len(front() & there(place))


def test_what_was_not_used_for_long_goes(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = there(place)
    assert "would go: 2 folders" in answered(capsys, "prune", "--older", "25d", "--dry-run")
    assert len(keys(capsys)) == 4
    answered(capsys, "prune", "--older", "25d")
    assert keys(capsys) == [key[:12] for key in KEYS[2:]]
    assert there(place) == before


def test_results_go_first_then_artifacts_and_never_the_front(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = there(place)
    alone = set(range(1, 5)) & before - front()
    exported = min(alone)
    (place / ".optlang" / "artifacts" / "r1" / str(exported) / EXPORTED).touch()
    total = json.loads(answered(capsys, "size", "--format", "json"))[-1]["bytes"]
    answered(capsys, "prune", "--to", f"{total - 150_000}B")
    assert keys(capsys) == [key[:12] for key in KEYS[2:]]
    assert there(place) == before
    answered(capsys, "prune", "--to", "1kB")
    assert keys(capsys) == []
    removed = before - there(place)
    assert alone - {exported} <= removed
    assert not removed & (front() | {0, exported})
    pruned = {trial for (trial,) in query("SELECT trial FROM artifacts WHERE pruned IS NOT NULL", [
        Path("optlang.duckdb")
    ]).rows}
    assert pruned == before - there(place)
    assert answered(capsys, "verify").endswith("checked, nothing wrong\n")


def test_what_a_session_uses_stays_and_what_it_writes_to_too(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = there(place)
    home = place / ".optlang"
    with Scratch(home) as scratch, Writer(place / "optlang.duckdb"):
        workload = Workload(Factory("x:y"), Factory("x:y"), place, home, "cpu", scratch.session)
        in_use.add(workload, [KEYS[0], KEYS[1]])
        aside = home / "cache" / KEYS[2][:2] / ".0.partial"
        aside.mkdir()
        assert command(["cache", "prune", "--to", "1kB"]) == 0
        assert "no artifact is removed" in capsys.readouterr().err
        assert set(keys(capsys)) == {KEYS[0][:12], KEYS[1][:12], ".0.partial"}
        assert there(place) == before
    assert aside.exists()
    answered(capsys, "prune", "--to", "1kB")
    assert keys(capsys) == []


def test_a_result_that_is_found_while_others_are_removed_stays(tmp_path: Path) -> None:
    from optlang.run import cache_files

    folder = filled(tmp_path, 0, 10 * DAY)
    (entry,) = cache_files.entries(tmp_path / ".optlang" / "cache")
    Cache(tmp_path / ".optlang" / "cache").find(KEYS[0])
    assert not cache_files.remove(entry.folder, entry.used)
    assert (folder / "state").is_file()
    (entry,) = cache_files.entries(tmp_path / ".optlang" / "cache")
    assert cache_files.remove(entry.folder, entry.used)
    assert list(cache_files.entries(tmp_path / ".optlang" / "cache")) == []


def test_what_is_damaged_is_named(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = place / ".optlang"
    results = [home / "cache" / key[:2] / key for key in KEYS]
    (results[0] / "state").write_bytes(b"other")
    (results[1] / "state").unlink()
    artifact = home / "artifacts" / "r1"
    (artifact / "1" / "model.onnx").write_bytes(b"other")
    shutil.rmtree(artifact / "2")
    (home / "artifacts" / "r9" / "0").mkdir(parents=True)
    found = answered(capsys, "verify", code=1)
    for line in (
        f"{results[0]}: state has changed", f"{results[1]}: state is gone",
        f"{artifact / '1'}: model.onnx is no longer what was measured", f"{artifact / '2'}: gone",
        f"{home / 'artifacts' / 'r9'}: of a run that no database here knows",
    ):
        assert line in found
    assert "5 wrong" in found


def test_wrong_uses_say_what_to_write(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        (["prune"], "say --to 5GB, or --older 30d"), (["prune", "--to", "5s"], "that is no size"),
        (["prune", "--older", "5GB"], "that is no time"), (["size", "--db", str(place / "no" / "x.db")], "no folder"),
    ):
        assert command(["cache", *arguments]) == 2
        assert said in capsys.readouterr().err


RACE = """
import sys
from pathlib import Path
from optlang.run import cache_files
from optlang.run.cache import Cache, key_of
folder, cache = Path(sys.argv[1]), Cache(Path(sys.argv[1]))
for turn in range(int(sys.argv[3])):
    if sys.argv[2] == "remove":
        for entry in cache_files.entries(folder):
            if entry.kind != "partial":
                cache_files.remove(entry.folder, entry.used)
    else:
        for number in range(3):
            text = cache.text(key_of(number), "memo.json", lambda: str(number) * 1000)
            assert text == str(number) * 1000, text
"""


def test_two_readers_and_two_removers_at_once_lose_nothing(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", RACE, str(tmp_path), does, "60"])
        for does in ("read", "read", "remove", "remove")
    ]
    assert [process.wait(timeout=100) for process in processes] == [0, 0, 0, 0]
