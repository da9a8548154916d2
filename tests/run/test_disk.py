"""The limit of the disk: what goes first, what stays, and that what went is built again as it was."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from optlang.run.cache import sha256
from tests.command_line import optlang
from tests.run.disk_study import MODEL, rows, study, watched, weight

pytestmark = pytest.mark.slow

TRIAL = 2 * MODEL
LIMIT = 4 * TRIAL


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, int]:
    """A run of many more trials than its disk has room for."""
    folder = tmp_path_factory.mktemp("limited")
    study(folder, 12, f"disk = {LIMIT}B")
    code, said, most = watched(folder)
    assert code in (0, 1), said
    return folder, said, most


def test_a_run_stays_within_its_limit_and_finishes(limited: tuple[Path, str, int]) -> None:
    folder, said, most = limited
    assert most <= LIMIT + 1.2 * TRIAL
    assert weight(folder) <= LIMIT
    states = rows(folder, "SELECT state, count(*) FROM trials WHERE origin = 'sampler' GROUP BY state")
    assert states == [("complete", 12)]
    assert "what was used least recently is removed" in said
    assert re.search(r"to stay within `disk = [^`]*`, .* were removed: .*the artifacts of \d+ trials", said)


def test_the_front_and_the_baseline_are_kept_and_the_store_says_what_was_removed(
    limited: tuple[Path, str, int]
) -> None:
    folder, _, _ = limited
    front = {trial for (trial,) in rows(folder, "SELECT trial FROM front WHERE tie_of IS NULL")} | {0}
    pruned = {trial for (trial,) in rows(folder, "SELECT trial FROM artifacts WHERE pruned IS NOT NULL")}
    assert pruned
    assert not front & pruned
    for trial, path in rows(folder, "SELECT trial, path FROM artifacts"):
        assert Path(path).exists() == (trial not in pruned), trial


def test_what_was_removed_is_exported_as_it_was_measured(limited: tuple[Path, str, int], tmp_path: Path) -> None:
    folder, _, _ = limited
    (trial, files), *_ = rows(folder, "SELECT trial, files FROM artifacts WHERE pruned IS NOT NULL ORDER BY trial")
    done = optlang(folder, "export", "big", trial, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert f"the artifact of trial {trial} was removed" in done.stderr
    assert "byte for byte what was measured" in done.stderr
    for file in json.loads(files):
        assert sha256(tmp_path / "out" / file["name"]) == file["sha256"]
    assert (tmp_path / "out" / "example_outputs.npz").is_file()


def test_what_is_built_again_and_is_not_what_was_measured_is_not_exported(
    limited: tuple[Path, str, int], tmp_path: Path
) -> None:
    folder = limited[0]
    (trial, _), *_ = rows(folder, "SELECT trial, files FROM artifacts WHERE pruned IS NOT NULL ORDER BY trial")
    parts = (folder / "parts.py").read_text()
    (folder / "parts.py").write_text(parts.replace('settings["number"] / 1e4', '7 * settings["number"]'))
    try:
        done = optlang(folder, "export", "big", trial, "-o", tmp_path / "out")
    finally:
        (folder / "parts.py").write_text(parts)
    assert done.returncode == 1
    assert f"trial {trial}, built again, is not what was measured: " in done.stderr
    assert "optlang repeat" in done.stderr
    assert not (tmp_path / "out").exists()


def test_artifacts_of_the_front_that_are_gone_are_built_again_before_they_are_measured(tmp_path: Path) -> None:
    study(tmp_path, 2)
    assert watched(tmp_path)[0] in (0, 1)
    front = [trial for (trial,) in rows(tmp_path, "SELECT trial FROM front WHERE trial > 0 AND tie_of IS NULL")]
    paths = dict(rows(tmp_path, "SELECT trial, path FROM artifacts"))
    for trial in front:
        shutil.rmtree(paths[trial])
    _, said, _ = watched(tmp_path, "--trials", 3)
    built = re.search(r"building the artifacts of trials? ([\d, ]+) again", said)
    still = {trial for (trial,) in rows(tmp_path, "SELECT trial FROM front WHERE tie_of IS NULL")} & set(front)
    if still:
        assert built is not None
        assert still <= set(map(int, built[1].split(", ")))
    assert "could not be measured again" not in said


def test_a_limit_that_is_too_small_for_one_trial_is_an_error_with_the_numbers(tmp_path: Path) -> None:
    study(tmp_path, 1, f"disk = {MODEL // 2}B")
    code, said, _ = watched(tmp_path)
    assert code == 1
    assert re.search(r"`disk = [\d.]+ kB` is too small for one trial: the baseline takes .* of artifacts", said), said
    assert re.search(r"set `disk` in search { } to [\d.]+ [kM]B or more", said)
    study(tmp_path, 1, "disk = 1GB")
    assert watched(tmp_path)[0] in (0, 1)
    assert rows(tmp_path, "SELECT count(DISTINCT run), count(*) FROM trials") == [(1, 2)], "it goes on where it stopped"
