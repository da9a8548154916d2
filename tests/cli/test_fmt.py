"""`optlang fmt`: what it writes, what it leaves alone, and its exit codes."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from optlang.cli.app import command
from optlang.syntax.format import format_text
from optlang.syntax.parse import parse
from optlang.syntax.source import Source
from tests.pages import examples

ROUGH = "optlang 1\nlet  a=1\n"
SMOOTH = "optlang 1\n\nlet a = 1\n"
WRONG = "optlang 1\nlet a b\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, text in {"rough.opt": ROUGH, "below/smooth.opt": SMOOTH, ".hidden/rough.opt": ROUGH}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_files_below_a_folder_are_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["fmt", "."]) == 0
    assert capsys.readouterr().err == "changed rough.opt\n2 files: 1 changed\n"
    assert (folder / "rough.opt").read_text() == SMOOTH
    assert (folder / ".hidden" / "rough.opt").read_text() == ROUGH
    assert command(["fmt", "."]) == 0
    assert capsys.readouterr().err == "2 files: 0 changed\n"


def test_check_and_diff_write_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["fmt", "--check", "."]) == 1
    assert "would change rough.opt" in capsys.readouterr().err
    assert command(["fmt", "--diff", "rough.opt"]) == 1
    assert " optlang 1\n-let  a=1\n+\n+let a = 1\n" in capsys.readouterr().out
    assert (folder / "rough.opt").read_text() == ROUGH
    assert command(["fmt", "--check", "below"]) == 0


def test_a_file_with_errors_is_left_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "wrong.opt").write_text(WRONG)
    assert command(["fmt", "wrong.opt", "rough.opt"]) == 1
    reported = capsys.readouterr().err
    assert "error[E101]" in reported
    assert "wrong.opt:2:7" in reported
    assert "1 left alone for its errors" in reported
    assert (folder / "wrong.opt").read_text() == WRONG
    assert (folder / "rough.opt").read_text() == SMOOTH


@pytest.mark.parametrize(("text", "code", "out"), [(ROUGH, 0, SMOOTH), (WRONG, 1, "")], ids=["right", "wrong"])
def test_standard_input_is_answered_on_standard_output(
    text: str, code: int, out: str, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert command(["fmt", "-"]) == code
    assert capsysbinary.readouterr().out.decode() == out


@pytest.mark.parametrize("arguments", [["absent"], ["empty"], ["-", "rough.opt"]], ids=" ".join)
def test_wrong_use_is_exit_code_2(arguments: list[str], folder: Path) -> None:
    (folder / "empty").mkdir()
    assert command(["fmt", *arguments]) == 2


@pytest.mark.parametrize(
    "text", [item.text for item in examples() if not {"study", "steps", "goals", "wrong"} & {*item.words}]
)
def test_files_that_the_docs_show_have_the_layout(text: str) -> None:
    assert format_text(parse(Source("shown.opt", text))) == text
