"""What the grammar takes, where statements end, and how mistakes are told and survived."""

from __future__ import annotations

import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from optlang import resources
from optlang.diagnostics.model import MOST
from optlang.diagnostics.render import render
from optlang.syntax import parse as parsing
from optlang.syntax import tree
from optlang.syntax.parse import Parsed, parse, parse_file
from optlang.syntax.source import Source
from optlang.syntax.tokens import RESERVED

GRAMMAR = (resources.grammar() / "optlang.lark").read_text(encoding="utf-8")


def file_of(text: str) -> tree.File:
    parsed = parse(Source("t", text))
    assert not parsed.diagnostics.found, render(parsed.diagnostics.found, {"t": text})
    assert parsed.file is not None
    return parsed.file


def items(text: str) -> tuple[Any, ...]:
    return file_of(f"optlang 1\n{text}\n").items


def value(text: str) -> Any:
    """What `let x = …` is given."""
    [item] = items(f"let x = {text}")
    return item.value


def members(text: str) -> tuple[Any, ...]:
    [study] = items(f"study s {{\n{text}\n}}")
    return tuple(study.members)


def statements(text: str) -> tuple[Any, ...]:
    [section] = members(f"steps {{\n{text}\n}}")
    return tuple(section.block.statements)


def mistakes(text: str) -> list[tuple[str, int, int]]:
    """The code, line and column of each problem of a file."""
    parsed = parse(Source("t", text))
    return [(item.code, *parsed.source.lines.at(item.primary.span.start)) for item in parsed.diagnostics.sorted()]


# ---- the grammar and its table


def test_the_grammar_has_no_conflicts() -> None:
    pytest.importorskip("interegular")
    parsing.make_table(GRAMMAR, strict=True)


def test_the_shipped_table_belongs_to_the_grammar() -> None:
    shipped = json.loads(parsing.TABLE.read_text(encoding="utf-8"))
    made = parsing.make_table(GRAMMAR)
    stale = "run `python -m optlang.syntax.parse` and commit the table"
    assert shipped["grammar"] == made["grammar"], stale
    assert ordered(shipped) == ordered(made), stale


def ordered(table: dict[str, Any]) -> tuple[list[Any], list[dict[str, Any]]]:
    """Terminals and states, in an order that follows from the grammar alone: Lark's differs from run to run."""
    parser = parsing._loaded(table).lark
    built = parser.parser.parser._parse_table
    order = {built.start_states["start"]: 0}
    rows = []
    for state in (queue := list(order)):
        row: dict[str, Any] = {}
        for symbol, (action, target) in sorted(built.states[state].items()):
            if str(action) == "Shift" and target not in order:
                order[target] = len(order)
                queue.append(target)
            row[symbol] = order[target] if str(action) == "Shift" else (str(target), target.order)
        rows.append(row)
    return sorted((term.name, term.priority, term.pattern.to_regexp()) for term in parser.terminals), rows


def test_a_table_for_another_grammar_is_made_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "optlang.lark").write_text(GRAMMAR + "\n// another\n", encoding="utf-8")
    monkeypatch.setattr(resources, "grammar", lambda: tmp_path)
    parsing._ready.cache_clear()
    try:
        assert len(items("let a = 1\nlet b = 2")) == 2
    finally:
        parsing._ready.cache_clear()


@pytest.mark.parametrize("kept", ["", "{", "{}", "of another version"])
def test_a_table_that_cannot_be_used_is_made_anew(
    kept: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shipped = json.loads(parsing.TABLE.read_text(encoding="utf-8"))
    other = json.dumps({**shipped, "lark": "1.0", "data": {}})
    (tmp_path / "table.json").write_text(other if kept == "of another version" else kept, encoding="utf-8")
    monkeypatch.setattr(parsing, "TABLE", tmp_path / "table.json")
    parsing._ready.cache_clear()
    try:
        assert len(items("let a = 1\nlet b = 2")) == 2
    finally:
        parsing._ready.cache_clear()


def test_parsing_loads_nothing_heavy() -> None:
    program = (
        "import sys; from pathlib import Path; from optlang.syntax.parse import parse_file; "
        f"assert parse_file(Path({str(resources.stdlib() / 'quant.opt')!r})).file; "
        "print([name for name in ('torch', 'pydantic', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_shipped_module_parses() -> None:
    for path in sorted(resources.stdlib().glob("*.opt")):
        parsed = parse_file(path)
        assert not parsed.diagnostics.found, render(parsed.diagnostics.found, {parsed.source.file: parsed.source.text})


# ---- values


@pytest.mark.parametrize(
    ("text", "number", "unit", "whole"),
    [
        ("3", "3", None, True), ("3.0", "3.0", None, False), ("1e3", "1e3", None, False), ("1_000", "1000", None, True),
        ("2ms", "2", "ms", True), ("4GiB", "4", "GiB", True), ("97%", "97", "%", True), ("0.5%", "0.5", "%", False),
        ("1e-3s", "1e-3", "s", False), ("2E", "2", "E", True), ("3epochs", "3", "epochs", True),
    ],
)
def test_numbers_are_exact_and_carry_their_unit(text: str, number: str, unit: str | None, whole: bool) -> None:
    node = value(text)
    assert isinstance(node, tree.Number)
    assert (node.value, node.unit, node.whole) == (Decimal(number), unit, whole)


@pytest.mark.parametrize(
    ("text", "meant"),
    [(r'"a\"b"', 'a"b'), (r'"a\\b"', r"a\b"), (r'"a\nb\t"', "a\nb\t"), ('"# no comment"', "# no comment")],
)
def test_texts(text: str, meant: str) -> None:
    assert value(text).value == meant


def show(node: Any) -> str:
    match node:
        case tree.Binary() | tree.Member():
            right = node.right if isinstance(node, tree.Binary) else node.options
            operator = node.operator if isinstance(node, tree.Binary) else "in"
            return f"({show(node.left if isinstance(node, tree.Binary) else node.value)} {operator} {show(right)})"
        case tree.Unary():
            return f"({node.operator} {show(node.operand)})"
        case tree.Path():
            return node.text
        case tree.Number():
            return str(node.value)
        case tree.ListOf():
            return f"[{', '.join(map(show, node.items))}]"
    raise AssertionError(node)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("a + b * c - d", "((a + (b * c)) - d)"),
        ("a or b and not c == d", "(a or (b and (not (c == d))))"),
        ("not a == b or c", "((not (a == b)) or c)"),
        ("-a * b", "((- a) * b)"),
        ("(a + b) * c", "((a + b) * c)"),
        ("x in [1, 2] and y", "((x in [1, 2]) and y)"),
        ("a - b - c", "((a - b) - c)"),
        ("a / b / c <= 2", "(((a / b) / c) <= 2)"),
        ("not not a", "(not (not a))"),
    ],
)
def test_operators_bind_as_they_do_in_python(text: str, meant: str) -> None:
    assert show(value(text)) == meant


def test_domains() -> None:
    assert isinstance(value("{a, b}"), tree.Block)
    assert isinstance(value("any"), tree.AnyValue)
    stepped = value("10% .. 80% step 10%")
    assert isinstance(stepped, tree.Range)
    assert (stepped.step is not None, stepped.log) == (True, False)
    assert value("1e-5 .. 1e-2 log").log
    assert isinstance(value("any order { a; b }"), tree.AnyOrder)
    assert value("[1, 2, ]").items == value("[1, 2, ]").items
    assert value("[]").items == ()


# ---- statements and where they end


def test_statements_end_at_lines_semicolons_and_commas() -> None:
    assert len(statements("a; b, c\nd;\n\n;e,\nf")) == 6


def test_lines_run_on_where_a_statement_cannot_end() -> None:
    [rule] = members("require a ==\n  b and\n  not\n  c +\n 1")
    assert isinstance(rule, tree.Rule)
    [let] = items("let a = [\n 1\n ,\n 2 ]")
    assert len(let.value.items) == 2
    assert len(members("minimize a,\n\n # a comment\n b")) == 1
    assert len(statements("x in\n 1 ..\n 3 when\n y")) == 1


def test_blocks_inside_parentheses_have_lines_of_their_own() -> None:
    [make] = members("model m = mine.net(width in {\n 8\n 16\n}, depth = 2)")
    [width, depth] = make.value.arguments
    assert isinstance(width, tree.Vary)
    assert isinstance(width.domain, tree.Block)
    assert len(width.domain.statements) == 2
    assert isinstance(depth, tree.Fix)


def test_a_reason_may_stand_on_its_own_line() -> None:
    text = 'optlang 1\nstudy s {\n  forbid a == b\n    because "x"\n  require c <= 1 because\n  "y"\n}\n'
    [study] = file_of(text).items
    assert isinstance(study, tree.Study)
    forbid, require = study.members
    assert isinstance(forbid, tree.Rule)
    assert isinstance(require, tree.Rule)
    assert forbid.because is not None
    assert forbid.because.value == "x"
    assert text[forbid.span.start : forbid.span.end] == 'forbid a == b\n    because "x"'
    assert require.because is not None


def test_words_are_keywords_only_where_they_fit() -> None:
    [section] = members("steps {\n" + "\n".join(f"{word} = 1" for word in sorted(_keywords() - RESERVED)) + "\n}")
    assert len(section.block.statements) == len(_keywords() - RESERVED)
    assert items("let steps = data\nlet because = 1\nlet order = because")


@pytest.mark.parametrize("word", sorted(RESERVED))
def test_reserved_words_name_nothing(word: str) -> None:
    assert mistakes(f"optlang 1\nlet {word} = 3\n") == [("E101", 2, 5)]


@pytest.mark.parametrize("word", sorted(RESERVED))
def test_reserved_words_name_the_arguments_of_a_call(word: str) -> None:
    parsed = parsing.parse(Source("a.opt", f"optlang 1\nlet a = own.f(\n  {word} = 3, b = 1, {word} in [1, 2]\n)\n"))
    assert not parsed.diagnostics.found
    assert parsed.file is not None
    [item] = parsed.file.items
    assert [argument.name.text for argument in item.value.arguments] == [word, "b", word]


@pytest.mark.parametrize("word", sorted(RESERVED))
def test_reserved_words_follow_the_dot_of_a_path(word: str) -> None:
    assert not mistakes(f"optlang 1\nlet a = student.{word}\n")


@pytest.mark.parametrize("line", ["repeat r in 0 .. 3 { a }", "when b { a }", "maybe a"])
def test_a_dot_at_the_end_of_a_line_makes_no_name_of_the_next_lines_first_word(line: str) -> None:
    text = f"optlang 1\nstudy s {{\n  steps {{\n    // First smaller.\n    {line}\n  }}\n}}\n"
    assert mistakes(text) == [("E101", 4, 5)]


@pytest.mark.parametrize(
    "call", ["(step = 3)", "f(step)", "f(a = step)", "f([step = 3])", "f({ step = 3 })", "f(not == 3)"]
)
def test_elsewhere_in_parentheses_reserved_words_name_nothing(call: str) -> None:
    assert mistakes(f"optlang 1\nlet a = {call}\n")


def _keywords() -> set[str]:
    return set(parsing._ready().keywords)


def test_members_may_come_in_any_order() -> None:
    text = """
      search { trials = 3 }
      maximize accuracy
      steps { a }
      target t = targets.cpu
      baseline { b }
      metric top5: ratio maximize "help"
      measure { rounds = 3 }
      input n: int in 1 .. 2 = 1 "help"
      data d = e()
      model m = f()
      let l = 3
    """
    assert len(members(text)) == 11


def test_imports() -> None:
    file = file_of('optlang 1\nimport a.b as c\nimport d\nfrom e import f, g\nimport python "h.py" as i\n')
    kinds = [type(item).__name__ for item in file.imports]
    assert kinds == ["ImportModule", "ImportModule", "ImportNames", "ImportPython"]


def test_steps_of_every_form() -> None:
    text = """
      static { samples = 256; calibrator in {minmax, entropy} }
      prune = channels { ratio in 10% .. 50% step 10% }
      precision in { none; static {}; light = qat {}; both = { static; finetune } }
      maybe sparse = two_four when batch >= 8
      repeat rounds in 0 .. 3 { finetune { epochs = 1 } } when sparse
      repeat twice = 2 { finetune }
      group = { a; b }
      shuffled in any order { a; b }
      when precision == static { finetune }
      parts.careful { epochs = 2 }
    """
    kinds = [type(item).__name__ for item in statements(text)]
    assert kinds == ["Element", "Fix", "Vary", "Maybe", "Repeat", "Repeat", "Fix", "Vary", "Guard", "Element"]


def test_a_wrong_value_after_the_equals_sign_is_kept_for_later() -> None:
    [ranged, chosen, either] = statements("a = 1 .. 3\nb = {c, d}\ne = any")
    assert isinstance(ranged.value, tree.Range)
    assert isinstance(chosen.value, tree.Block)
    assert isinstance(either.value, tree.AnyValue)


# ---- mistakes


STUDY = """\
optlang 1

study s {
  model m = zoo.a(width = 8)
  steps {
    maybe static { samples in [64, 128] }
    precision in {
      none
      dynamic
    }
  }
  require accuracy >= 90%
  minimize latency, size
}
"""


def broken(*changes: tuple[str, str]) -> Parsed:
    text = STUDY
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    return parse(Source("t", text))


@pytest.mark.parametrize(
    ("old", "new", "line", "column"),
    [
        ("minimize", "minimise", 13, 3), ("maybe", "mybe", 6, 5), ("steps {", "stpes {", 5, 3),
        ("study", "stduy", 3, 1),
        ("width = 8", "width := 8", 4, 25), (" >= ", " = ", 12, 20), (" >= ", " => ", 12, 20),
        ("[64, 128]", "[64 128]", 6, 35), ("{ samples", "{ samples samples", 6, 28), ("steps {", "steps foo {", 5, 9),
        ("latency, size", "latency size", 13, 20), ("      none\n", "      none none\n", 8, 12), ("90%", "", 13, 12),
        ("model m =", "model =", 4, 9), ("in [64", "[64", 6, 28),
    ],
)
def test_one_mistake_is_told_once_where_it_is(old: str, new: str, line: int, column: int) -> None:
    parsed = broken((old, new))
    [problem] = parsed.diagnostics.sorted()
    assert problem.code in ("E101", "E102")
    assert parsed.source.lines.at(problem.primary.span.start) == (line, column)


def test_what_stands_around_a_mistake_is_read() -> None:
    parsed = broken(("minimize", "minimise"), ("90%", "90% 4 5 6"), ("      dynamic\n", "      } dynamic\n"))
    assert parsed.file is not None
    [study] = parsed.file.items
    assert isinstance(study, tree.Study)
    kinds = [type(member).__name__ for member in study.members]
    assert kinds[:2] == ["Make", "Section"]
    misspelt = broken(("minimize", "minimise"))
    assert misspelt.file is not None
    [study] = misspelt.file.items
    assert isinstance(study, tree.Study)
    goal = study.members[-1]
    assert isinstance(goal, tree.Goal)
    assert goal.direction == "minimize"


def test_a_line_that_goes_on_by_mistake_is_told_why() -> None:
    [problem] = broken(("90%", "")).diagnostics.found
    assert problem.help == "the line before ends in `>=`, so this line goes on with it"


def test_a_misspelt_keyword_can_be_mended_by_its_fix() -> None:
    parsed = broken(("minimize", "minimise"))
    [problem] = parsed.diagnostics.found
    assert problem.fix is not None
    span, text = problem.fix.span, parsed.source.text
    assert text[: span.start] + problem.fix.replacement + text[span.end :] == STUDY


def test_words_of_what_was_left_out_are_known_to_be_lost() -> None:
    parsed = broken(("model m =", "modle of mine ="))
    assert {"modle", "mine"} <= parsed.lost


def test_echoes_of_a_mistake_are_told_apart() -> None:
    parsed = broken(("[64, 128]", "[64 128]"))
    found = parsed.diagnostics
    own = list(found.found)
    place = STUDY.index("samples")
    found.error("E205", "unknown parameter", parsed.source.span(place, place + 7))
    elsewhere = STUDY.index("accuracy")
    found.error("E602", "unknown metric", parsed.source.span(elsewhere, elsewhere + 8))
    kept = [item.code for item in found.found if parsed.unless_echo(item) is not None]
    assert kept == [*(item.code for item in own), "E602"]


def test_after_many_mistakes_nothing_more_is_told() -> None:
    text = "optlang 1\nstudy s {\n" + "  foo\n" * 1000 + "}\n"
    found = parse(Source("t", text)).diagnostics.found
    assert len(found) == MOST + 1
    assert found[-1].message == f"more than {MOST} mistakes"


@pytest.mark.parametrize(
    "text", ["(" * 51 + "1" + ")" * 51, "1" + " + 1" * 101, "-" * 101 + "1", "not " * 101 + "a", "[" * 51 + "]" * 51]
)
def test_what_is_too_deep_is_refused(text: str) -> None:
    parsed = parse(Source("t", f"optlang 1\nlet x = {text}\n"))
    assert parsed.file is None
    assert [item.code for item in parsed.diagnostics.found] == ["E105"]


@pytest.mark.parametrize(
    "text", ["(" * 49 + "1" + ")" * 49, "1" + " + 1" * 99, "-" * 99 + "1", "not " * 99 + "a"]
)
def test_what_is_just_deep_enough_is_read(text: str) -> None:
    assert value(text) is not None


def test_the_edition_comes_first() -> None:
    assert mistakes("") == [("E104", 1, 1)]
    assert mistakes("# only a comment\n") == [("E104", 1, 1)]
    assert mistakes("# a comment\nlet a = 1\n") == [("E104", 2, 1)]
    assert mistakes("optlang 2\nlet a = § what ?\n") == [("E104", 1, 9)]
    assert mistakes("let a = 1\noptlang 1\n") == [("E104", 1, 1), ("E101", 2, 1)]
    assert mistakes("# a comment\n\noptlang 1  # and one more\n") == []
