"""The layout: what it does to small texts, and that it keeps words, comments and meaning, whatever it is given."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optlang import resources
from optlang.analysis.load import load
from optlang.diagnostics.render import render
from optlang.syntax import tree
from optlang.syntax.format import format_text
from optlang.syntax.parse import parse
from optlang.syntax.source import Source
from tests.syntax.nodes import shape, text
from tests.syntax.test_roundtrip import files

ROOT = Path(__file__).parents[2]
SHIPPED = sorted([*resources.stdlib().glob("*.opt"), *ROOT.glob("studies/*.opt"), *ROOT.glob("benchmarks/**/*.opt")])
RIGHT = sorted(ROOT.glob("tests/fixtures/o*/*.opt"))
CHANGES = sorted(ROOT.glob("tests/fixtures/fmt/*.opt"))


def laid_out(written: str) -> str:
    parsed = parse(Source("t", written))
    assert not parsed.diagnostics.found, render(parsed.diagnostics.found, {"t": written})
    return format_text(parsed)


def comments(written: str) -> list[str]:
    without = re.sub(r'"(\\.|[^"\\\n])*"', '""', written)
    return [re.sub(r"^#\s*", "", found.rstrip()) for found in re.findall(r"#[^\n]*", without)]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_files_have_the_layout(path: Path) -> None:
    written = path.read_text(encoding="utf-8")
    assert laid_out(written) == written


@pytest.mark.parametrize("path", CHANGES, ids=lambda path: path.stem)
def test_a_layout_is_the_expected_one(path: Path) -> None:
    expected = path.with_suffix(".txt").read_text(encoding="utf-8")
    assert laid_out(path.read_text(encoding="utf-8")) == expected
    assert laid_out(expected) == expected


@pytest.mark.parametrize("path", [*RIGHT, *ROOT.glob("studies/*.opt")], ids=lambda path: path.stem)
def test_the_plan_stays_the_same(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for other in path.parent.iterdir():
        if other.is_file():
            (tmp_path / other.name).write_bytes(other.read_bytes())
    monkeypatch.chdir(tmp_path)
    before = load(Path(path.name))
    Path(path.name).write_text(laid_out(squeezed(path.read_text(encoding="utf-8"))), encoding="utf-8")
    after = load(Path(path.name))
    assert [item.message for item in after.diagnostics] == [item.message for item in before.diagnostics]
    assert (before.plan is None) == (after.plan is None)
    if before.plan is not None and after.plan is not None:
        assert after.plan.meaning == before.plan.meaning


def squeezed(written: str) -> str:
    """The text with each run of spaces as one: no column is left."""
    return re.sub(r" +", " ", written)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(files)
def test_a_tree_is_laid_out_to_the_same_tree(file: tree.File) -> None:
    once = laid_out(text(file))
    parsed = parse(Source("t", once))
    assert shape(parsed.file) == shape(file)
    assert laid_out(once) == once


FILLERS = ("\n", "\n\n\n", "  ", "\t", " # note\n", "\n#note\n", " #! note\n\n\n", "\r\n", ";", ", ")


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.sampled_from([*SHIPPED, *RIGHT]), st.data())
def test_a_changed_study_keeps_its_words_and_comments(path: Path, data: st.DataObject) -> None:
    written = path.read_text(encoding="utf-8")
    gaps = [found.start() for found in re.finditer(r"[ \n]|(?<=[{(\[,=])|(?=[})\],])", written)]
    for at in sorted(data.draw(st.lists(st.sampled_from(gaps), min_size=1, max_size=12)), reverse=True):
        changed = written[:at] + data.draw(st.sampled_from(FILLERS)) + written[at:]
        if not parse(Source("t", changed)).diagnostics.found:
            written = changed
    once = laid_out(written)
    assert laid_out(once) == once
    assert sorted(comments(once)) == sorted(comments(written))


def test_lines_are_no_longer_than_allowed_apart_from_texts_and_comments() -> None:
    names = ", ".join(f"a_rather_long_name_{number}" for number in range(12))
    terms = " and ".join(f"latency.p{number} <= {number}ms" for number in range(50, 70))
    calls = ", ".join(f"parameter_{number} = {number}" for number in range(12))
    settings_ = "; ".join(f"parameter_{number} = {number}" for number in range(12))
    body = (f"maximize {names}\nrequire {terms}\nmodel net = zoo.net({calls})\nsteps {{ a {{ {settings_} }} }}\n"
            f"let x = {{{names}}}\nlet y = [{names}]\nlet z = {' + '.join(names.split(', '))}")
    found = laid_out(f"optlang 1\nstudy s {{\n{body}\n}}\n")
    assert max(map(len, found.split("\n"))) <= 120
    assert laid_out(found) == found


def test_line_ends_of_other_systems_stay() -> None:
    assert laid_out("optlang 1\r\n\r\nlet  a = 1\r\n") == "optlang 1\r\n\r\nlet a = 1\r\n"


def test_a_layout_that_would_say_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optlang.syntax.format._aligned", lambda lines: [*lines, "let b = 2"])
    with pytest.raises(ValueError, match="would change"):
        laid_out(dedent("""\
            optlang 1
            let a = 1
        """))
