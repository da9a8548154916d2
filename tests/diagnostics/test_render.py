"""Diagnostics as text: frames, carets, tabs, wide characters, several labels and files, and formats for machines."""

from __future__ import annotations

import json
from textwrap import dedent

import pytest

from optlang.diagnostics.model import Diagnostic, Fix, Label, Span
from optlang.diagnostics.render import render

TEXT = "optlang 1\n\nsteps {\n  statc { samples = 64 }\n\tbits\t= 3\n  漢字 = é́ + x\n}\n"


def at(part: str, text: str = TEXT, file: str = "a.opt") -> Span:
    start = text.index(part)
    return Span(file, start, start + len(part))


def unknown(**changes: object) -> Diagnostic:
    values: dict[str, object] = {
        "code": "E201", "message": "unknown technique `statc`", "primary": Label(at("statc"), "not declared here"),
        "help": "did you mean `static`?",
    }
    return Diagnostic(**{**values, **changes})  # type: ignore[arg-type]


def full(*diagnostics: Diagnostic, texts: dict[str, str] | None = None, color: bool = False) -> str:
    return render(diagnostics, texts or {"a.opt": TEXT}, "full", color=color)


def test_the_full_form() -> None:
    assert full(unknown()) == dedent("""\
        error[E201]: unknown technique `statc`
         --> a.opt:4:3
          |
        4 |   statc { samples = 64 }
          |   ^^^^^ not declared here
          |
          = help: did you mean `static`?
        """)


def test_without_label_and_help_nothing_trails() -> None:
    assert full(unknown(primary=Label(at("statc")), help=None)).splitlines()[-1] == "  |   ^^^^^"


def test_problems_are_parted_by_an_empty_line() -> None:
    assert full(unknown(), unknown()).count("\n\nerror[E201]") == 1
    assert full() == ""


def test_help_of_several_lines_stays_aligned() -> None:
    lines = full(unknown(help="first\nsecond")).splitlines()
    assert lines[-1].index("second") == lines[-2].index("first")


def test_labels_in_one_file_stand_in_the_order_of_the_text() -> None:
    item = unknown(labels=(Label(at("steps"), "in these steps"), Label(at("}", TEXT), "same line")), help=None)
    assert full(item) == dedent("""\
        error[E201]: unknown technique `statc`
         --> a.opt:4:3
          |
        3 | steps {
          | ----- in these steps
        4 |   statc { samples = 64 }
          |   ^^^^^ not declared here
          |                        - same line
        """)


def test_lines_between_labels_are_left_out_but_for_a_single_one() -> None:
    text = "".join(f"line{number}\n" for number in range(1, 13))
    item = Diagnostic(
        "E202", "twice", Label(at("line12", text), "again"),
        labels=(Label(at("line1\n", text), "first"), Label(at("line3", text), "then")),
    )
    assert full(item, texts={"a.opt": text}) == dedent("""\
        error[E202]: twice
          --> a.opt:12:1
           |
         1 | line1
           | ----- first
         2 | line2
         3 | line3
           | ----- then
         ...
        12 | line12
           | ^^^^^^ again
        """)


def test_labels_in_a_second_file_have_a_frame_of_their_own() -> None:
    other = "optlang 1\nlet half = 50%\n"
    item = unknown(labels=(Label(at("half", other, "b.opt"), "declared here"),))
    assert full(item, texts={"a.opt": TEXT, "b.opt": other}) == dedent("""\
        error[E201]: unknown technique `statc`
         --> a.opt:4:3
          |
        4 |   statc { samples = 64 }
          |   ^^^^^ not declared here
         ::: b.opt:2:5
          |
        2 | let half = 50%
          |     ---- declared here
          |
          = help: did you mean `static`?
        """)


def test_tabs_become_spaces_and_carets_follow() -> None:
    lines = full(unknown(primary=Label(at("= 3"), "here"), help=None)).splitlines()
    assert lines[-2:] == ["5 |     bits    = 3", "  |             ^^^ here"]


def test_wide_and_combining_characters_keep_carets_under_what_they_mean() -> None:
    item = unknown(primary=Label(at("漢字"), "wide"), labels=(Label(at("x\n"), "after"),), help=None)
    lines = full(item).splitlines()
    assert lines[-2] == "  |   ^^^^ wide"
    # Two wide characters and one accent that takes no column of its own.
    assert lines[-1] == "  |              - after"


def test_a_span_over_several_lines_is_marked_on_its_first() -> None:
    lines = full(unknown(primary=Label(at("{\n  statc"), "opened"), help=None)).splitlines()
    assert lines[-2:] == ["3 | steps {", "  |       ^ opened"]


@pytest.mark.parametrize("offset", [len(TEXT), TEXT.index("\n")])
def test_an_empty_span_has_one_caret(offset: int) -> None:
    assert full(unknown(primary=Label(Span("a.opt", offset, offset), "here"))).count("^") == 1


def test_a_long_line_is_cut_around_what_is_meant() -> None:
    text = "a" * 500 + "WRONG" + "b" * 500
    lines = full(unknown(primary=Label(at("WRONG", text), "here")), texts={"a.opt": text}).splitlines()
    row, carets = lines[3], lines[4]
    assert max(map(len, lines)) < 200
    assert row[carets.index("^") : carets.rindex("^") + 1] == "WRONG"
    assert row.startswith("1 | …a")
    assert row.endswith("b…")


def test_a_file_without_text_is_named_without_a_frame() -> None:
    assert full(unknown(help=None), texts={"b.opt": ""}) == "error[E201]: unknown technique `statc`\n --> a.opt:1:1\n"


def test_nothing_of_a_file_is_obeyed_by_the_terminal() -> None:
    text = "let a = \x1b[31m\x07red\n"
    shown = full(unknown(message="bad \x1b[2J", primary=Label(at("red", text), "\x9b")), texts={"a.opt": text})
    assert all(character.isprintable() or character == "\n" for character in shown)


def test_color_only_where_asked() -> None:
    plain, painted = full(unknown()), full(unknown(), color=True)
    assert "\x1b" not in plain
    assert "\x1b[1;31merror[E201]\x1b[0m" in painted
    for code in ("\x1b[1;31m", "\x1b[1;34m", "\x1b[1;36m", "\x1b[1m", "\x1b[0m"):
        painted = painted.replace(code, "")
    assert painted == plain


def test_concise_is_one_line_each() -> None:
    warning = unknown(code="W208", severity="warning", message="never used")
    assert render([unknown(), warning], {"a.opt": TEXT}, "concise") == (
        "a.opt:4:3: error[E201] unknown technique `statc`\na.opt:4:3: warning[W208] never used\n"
    )


def test_a_new_line_in_a_file_name_ends_no_line() -> None:
    found = unknown(primary=Label(at("statc", file="a\nb.opt")))
    line = "a\\u000ab.opt:4:3: error[E201] unknown technique `statc`\n"
    assert render([found], {"a\nb.opt": TEXT}, "concise") == line


def test_json_is_a_list_of_typed_objects() -> None:
    fix = Fix(at("statc"), "static")
    found = json.loads(render([unknown(fix=fix), unknown(help=None)], {"a.opt": TEXT}, "json"))
    assert found[0] == {
        "code": "E201", "severity": "error", "message": "unknown technique `statc`", "file": "a.opt",
        "line": 4, "column": 3, "end_line": 4, "end_column": 8, "help": "did you mean `static`?",
        "fix": {"line": 4, "column": 3, "end_line": 4, "end_column": 8, "text": "static"},
    }
    assert found[1]["help"] is None
    assert json.loads(render([], {}, "json")) == []


def test_github_annotations_are_escaped() -> None:
    item = unknown(primary=Label(Span("a,b.opt", 0, 3)), message="50% of\nit", help=None)
    assert render([item], {"a,b.opt": "abc"}, "github") == (
        "::error file=a%2Cb.opt,line=1,endLine=1,col=1,endColumn=3,title=E201::50%25 of%0Ait\n"
    )
    assert "help: did you mean" in render([unknown()], {"a.opt": TEXT}, "github")
