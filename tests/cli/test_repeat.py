"""The command `repeat`: what cannot be repeated is wrong use, with the way out; nothing runs then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from optlang.cli.app import command
from optlang.cli.repeat import _said
from optlang.cli.stored import changed
from optlang.report.repeated import TrialFigures
from optlang.store.writer import Writer
from tests.store.example_study import end, finish, measurement, session, start


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """A baseline, a trial that failed, and one that still runs where a run has the database."""
    return stored(tmp_path, file=str(tmp_path / "gone.opt"))


def stored(folder: Path, **more: Any) -> Path:
    path = folder / "optlang.duckdb"
    with Writer(path) as store:
        for event in (
            session(**more), start("r1", 0), end("r1", 0, measurements=[measurement("size", 10.0)]), start("r1", 1),
            end("r1", 1, state="failed", reason="no layer"), finish(),
        ):
            store.record(event)
    return path


@pytest.mark.parametrize(("arguments", "words"), [
    (["digit", "0"], "did you mean `digits`?"),
    (["digits", "7"], "the nearest are 0, 1"),
    (["digits", "0"], "gone.opt"),
    (["digits", "-1"], "takes no number below 0: -1"),
], ids=lambda value: " ".join(value) if isinstance(value, list) else None)
def test_what_cannot_be_repeated_is_exit_code_2_with_a_way_out(
    arguments: list[str], words: str, db: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["repeat", *arguments, "--db", str(db)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "there.opt").write_text("")
    db = stored(tmp_path, file=str(tmp_path / "there.opt"))
    assert command(["repeat", "digits", "1", "--db", str(db), "-o", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert "is not empty" in captured.err
    # What is known of the trial is said before.
    assert "trial 1 failed: no layer; it is carried out again" in captured.err
    assert "there.opt has changed since the run" in captured.err


def test_a_database_that_is_not_there_is_exit_code_3(tmp_path: Path) -> None:
    assert command(["repeat", "digits", "1", "--db", str(tmp_path / "none.duckdb")]) == 3


def test_a_trial_without_figures_is_announced() -> None:
    def said(state: str, reason: str | None) -> str:
        return " ".join(_said(TrialFigures(3, "sampler", None, "", {}, state, reason, {}, {}, {}, {}, {})))

    assert "was interrupted" in said("failed", "interrupted")
    assert "trial 3 failed: no layer" in said("failed", "no layer")
    assert "before it was measured" in said("infeasible", "size > 3")


def test_a_study_that_is_as_it_ran_is_not_mentioned(tmp_path: Path) -> None:
    path = tmp_path / "x.opt"
    path.write_bytes(b"\xef\xbb\xbfoptlang 1\r\n")
    assert list(changed(path, "optlang 1\r\n")) == []
    assert len(list(changed(path, "optlang 1"))) == 1
