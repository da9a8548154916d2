"""`optlang check --fix`: each fixture's fixes, that a file is never made worse, and what the formats say of a fix."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from optlang.analysis.load import load
from optlang.cli.app import command
from optlang.cli.check import fix_file
from optlang.diagnostics.fixes import apart, applied
from optlang.diagnostics.model import Fix, Span
from tests.mutations import Mutator

FIXTURES = Path(__file__).parents[1] / "fixtures" / "err"
# Fixtures that the fixes mend wholly: what stood in the text, and what stands there then.
MENDED = {
    "E101_misspelt_keyword": ("minimise latency", "minimize latency"),
    "E101_misspelt_maybe": ("mayb static", "maybe static"),
    "E101_colon_for_equals": ("device : cpu", "device = cpu"),
    "E101_assignment_in_condition": ("accuracy = baseline", "accuracy == baseline"),
    "E101_unit_apart": ("2 ms", "2ms"),
    "E302_set_after_equals": ("calibrator = {minmax, entropy}", "calibrator in {minmax, entropy}"),
    "E302_value_after_in": ("calibrator in minmax", "calibrator = minmax"),
    "E103_percent_apart": ("1 %", "1%"),
    "E103_single_quotes": ("'a wrong study'", '"a wrong study"'),
    "E103_other_languages_and": ("&&", "and"),
    "E104_missing": ("study small", "optlang 1\n\nstudy small"),
    "E201_technique": ("maybe statc", "maybe static"),
    "E205_parameter": ("sampels", "samples"),
}


def errors(path: Path) -> int:
    return sum(item.severity == "error" for item in load(path).diagnostics)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for path in FIXTURES.iterdir():
        if path.suffix in (".opt", ".py"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", MENDED)
def test_what_is_certain_is_fixed(name: str, folder: Path) -> None:
    path = Path(f"{name}.opt")
    before, (wrong, right) = path.read_text(encoding="utf-8"), MENDED[name]
    assert command(["check", "--fix", str(path)]) == 0
    assert path.read_text(encoding="utf-8") == before.replace(wrong, right)


def test_a_word_does_not_grow_into_its_neighbours(folder: Path) -> None:
    path = Path("E302_set_after_equals.opt")
    tight = path.read_text(encoding="utf-8").replace("calibrator = {", "calibrator={")
    path.write_text(tight, encoding="utf-8")
    assert fix_file(path) == 0
    assert path.read_text(encoding="utf-8") == tight


def test_what_is_a_guess_stays(folder: Path) -> None:
    path = Path("E303_unit.opt")
    assert command(["check", "--fix", str(path)]) == 1
    assert "latency <= 2msec and size <= 4MB" in path.read_text(encoding="utf-8")


def test_no_file_is_made_worse(folder: Path) -> None:
    for path in sorted(Path().glob("[EW]*.opt")):
        before, count = path.read_bytes(), errors(path)
        written = fix_file(path)
        assert (written > 0) == (path.read_bytes() != before), path
        assert errors(path) < count if written else errors(path) == count, path


def test_what_could_have_been_meant_twice_is_left(folder: Path) -> None:
    path = Path("two.opt")
    path.write_text("optlang 1\n\ntechnique t {\n  calls \"models.py:net\"\n  param a: int = 1\n  takes modul\n}\n")
    assert fix_file(path) == 1
    text = path.read_text().replace("param a: int", "param aa1: int = 1\n  param aa2: int") + (
        "\nstudy s {\n  steps { t { aa3 = 1 } }\n}\n"
    )
    path.write_text(text)
    fix_file(path)
    assert "aa3" in path.read_text()


@pytest.mark.parametrize(("wrong", "right"), [
    ("require accuracy >= 95", "require accuracy >= 95%"),
    ("require accuracy >= baseline.accuracy - 2", "require accuracy >= baseline.accuracy - 2%"),
    ("minimize latncy", "minimize latency"),
    ("search { sampler = TPE }", "search { sampler = tpe }"),
])
def test_a_member_is_fixed(wrong: str, right: str, folder: Path) -> None:
    path = folder / "one.opt"
    before = (folder / "E302_set_after_equals.opt").read_text(encoding="utf-8").replace("calibrator =", "calibrator in")
    path.write_text(before.rstrip().removesuffix("}") + f"  {wrong}\n}}\n", encoding="utf-8")
    assert fix_file(path) == 1
    assert path.read_text(encoding="utf-8").endswith(f"  {right}\n}}\n")
    assert errors(path) == 0


def test_where_a_file_has_a_plan_nothing_is_fixed(folder: Path) -> None:
    right = [*sorted(Path().glob("W*.opt")), *sorted((FIXTURES.parent / "ok").glob("*.opt"))]
    for path in right:
        assert not any(item.fix for item in load(path).diagnostics), path


@pytest.mark.slow
def test_what_is_fixed_of_a_slip_is_what_was_meant() -> None:
    """Every 17th slip in a study that uses the whole language: where fixes leave a plan, it is the study's own."""
    path = FIXTURES.parent / "seeds" / "whole.opt"
    study = path.read_text(encoding="utf-8")
    plan = load(path).plan
    assert plan is not None
    fixed = 0
    for mutant in list(Mutator(study).all())[::17]:
        text, found = mutant.text, load(path, unsaved={path.resolve(): mutant.text})
        while found.failed:
            here = [item.fix for item in found.diagnostics if item.fix and item.fix.span.file == path.as_posix()]
            after = applied(text, apart(here))
            if after == text:
                break
            text, found = after, load(path, unsaved={path.resolve(): after})
        if text == mutant.text or found.plan is None:
            continue
        fixed += 1
        if found.plan.meaning != plan.meaning:
            # The slip is in a declaration, and the uses follow it: another name for the same thing.
            slip, word = (re.match(r"\w+", whole[mutant.at :]) for whole in (mutant.text, study))
            assert slip is not None
            assert word is not None
            assert text.replace(slip[0], word[0]) == study, mutant
    assert fixed > 40


def test_fixes_that_overlap_are_not_both_applied() -> None:
    fixes = [Fix(Span("t", start, end), word) for start, end, word in ((4, 6, "b"), (0, 3, "a"), (5, 9, "c"))]
    assert [fix.replacement for fix in apart(fixes)] == ["a", "b"]
    assert applied("012 45 789", apart(fixes)) == "a b 789"


def test_json_tells_the_fix_and_the_summary_counts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["check", "E201_technique.opt", "--format", "json"]) == 1
    fix = json.loads(capsys.readouterr().out)[0]["fix"]
    assert fix == {"line": 7, "column": 17, "end_line": 7, "end_column": 22, "text": "static"}
    assert command(["check", "E201_technique.opt"]) == 1
    assert "1 error, 1 fixable with `--fix`" in capsys.readouterr().err
    assert command(["check", "E201_technique.opt", "--fix"]) == 0
    assert "no problems, 1 fixed" in capsys.readouterr().err


def test_a_byte_order_mark_and_line_ends_stay(folder: Path) -> None:
    path = Path("E201_technique.opt")
    whole = b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n")
    path.write_bytes(whole)
    assert fix_file(path) == 1
    assert path.read_bytes() == whole.replace(b"maybe statc", b"maybe static")


def test_a_fix_in_a_file_that_was_not_named_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("parts.opt").write_text("optlang 1\n\npipeline small { steps { statc } }\n")
    Path("whole.opt").write_text("optlang 1\nimport parts\n\nlet half = 50%\n")
    assert command(["check", "whole.opt"]) == 1
    assert capsys.readouterr().err == "1 file checked: 1 error\n"
    assert command(["check", "whole.opt", "parts.opt"]) == 1
    assert capsys.readouterr().err == "2 files checked: 1 error, 1 fixable with `--fix`\n"
