"""Any tree, printed and parsed again, is the same tree; any text is answered, and never by an exception."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optlang import resources
from optlang.diagnostics.model import Span
from optlang.diagnostics.render import render
from optlang.syntax import tree
from optlang.syntax.parse import parse
from optlang.syntax.source import Source
from optlang.syntax.tokens import RESERVED
from tests.syntax.nodes import shape, text, walk

NOWHERE = Span("t", 0, 0)
STUDIES = Path(__file__).parents[2] / "studies"


def of(kind: type[Any], *parts: Any, **named: Any) -> st.SearchStrategy[Any]:
    return st.builds(kind, st.just(NOWHERE), *parts, **named)


def some(strategy: st.SearchStrategy[Any], most: int = 3, least: int = 0) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(strategy, min_size=least, max_size=most).map(tuple)


words = st.from_regex(r"[a-z_][a-z0-9_]{0,5}", fullmatch=True) | st.sampled_from(
    ["model", "data", "steps", "target", "params", "with", "shape", "order", "python", "study", "minimize", "none",
     "as"]
)
names = of(tree.Name, words.filter(lambda word: word not in RESERVED))
paths = of(tree.Path, some(names, 3, 1))
integers = of(tree.Number, st.integers(0, 10**6).map(Decimal), st.none(), st.just(True))
decimals = of(tree.Number, st.sampled_from(["0.5", "1e-3", "2.50", "3e10"]).map(Decimal), st.none(), st.just(False))
units = st.sampled_from(["ms", "%", "GiB", "min"])
quantities = of(tree.Number, st.integers(0, 99).map(Decimal), units, st.just(True))
characters = st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from('\n\t"\\')
strings = of(tree.String, st.text(characters, max_size=8))
truths = of(tree.Truth, st.booleans())
atoms = paths | integers | quantities | strings | truths


def deeper(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    operators = st.sampled_from(["+", "-", "*", "/", "==", "!=", "<=", ">=", "<", ">", "and", "or"])
    elements = of(tree.Element, inner, st.none(), st.none())
    blocks = of(tree.Block, some(elements))
    lists = of(tree.ListOf, some(inner))
    fixed = of(tree.Fix, names, inner, st.none(), st.none())
    arguments = inner | fixed | of(tree.Vary, names, inner | blocks, st.none())
    return (
        of(tree.Binary, operators, inner, inner) | of(tree.Unary, st.sampled_from(["-", "not"]), inner)
        | of(tree.Member, inner, blocks | lists) | of(tree.Call, paths, some(arguments)) | lists
    )


expressions = st.recursive(atoms | decimals, deeper, max_leaves=6)
ranges = of(tree.Range, expressions, expressions, st.none(), st.booleans()) | of(
    tree.Range, expressions, expressions, expressions, st.just(False)
)
guards = st.none() | expressions


def stated(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    blocks = of(tree.Block, some(inner))
    block_or_none = st.none() | blocks
    domains = ranges | blocks | of(tree.AnyValue) | of(tree.AnyOrder, blocks) | expressions
    return (
        of(tree.Fix, names, expressions, block_or_none, guards)
        | of(tree.Fix, names, blocks | ranges | of(tree.AnyValue), st.none(), guards)
        | of(tree.Vary, names, domains, guards)
        | of(tree.Element, expressions, block_or_none, guards)
        | of(tree.Maybe, inner, st.just(NOWHERE))
        | of(tree.Repeat, names, expressions, st.just(True), blocks, guards)
        | of(tree.Repeat, names, domains, st.just(False), blocks, guards)
        | of(tree.Guard, expressions, blocks)
    )


statements = st.recursive(of(tree.Element, atoms, st.none(), st.none()), stated, max_leaves=6)
blocks = of(tree.Block, some(statements))
domains = ranges | blocks | of(tree.AnyValue) | of(tree.AnyOrder, blocks) | expressions
notes = st.none() | strings
directions = st.sampled_from(["minimize", "maximize"])
lets = of(tree.Let, names, domains)
metrics = of(tree.Metric, paths, names, directions, st.booleans(), st.none() | expressions, notes)
targets = of(tree.Target, names, paths, st.none() | blocks) | of(tree.Target, names, st.none(), blocks)
sections = of(
    tree.Section, st.sampled_from(["baseline", "steps", "measure", "search"]), st.just(NOWHERE), blocks
)
members = (
    lets | metrics | targets | sections
    | of(tree.Input, names, names, st.none() | domains, guards, notes)
    | of(tree.Make, st.sampled_from(["model", "data"]), names, expressions)
    | of(tree.Rule, st.sampled_from(["require", "forbid"]), st.just(NOWHERE), expressions, notes)
    | of(tree.Goal, directions, st.just(NOWHERE), some(paths, 3, 1))
)
changes = (
    of(tree.Change, names, domains, st.none() | expressions, notes)
    | of(tree.Change, names, st.none(), expressions, notes) | of(tree.Change, names, st.none(), st.none(), strings)
)
used = of(tree.Use, paths, st.none() | of(tree.Changes, some(changes)))
clauses = st.sampled_from(
    ["needs", "takes", "gives", "traits", "after", "excludes", "performs", "recovered_by", "milder_with"]
)
facts = (
    of(tree.Param, names, names, st.none() | domains, guards, guards, notes) | of(tree.Calls, strings)
    | of(tree.Uses, some(used, 3, 1))
    | of(tree.Clause, clauses, some(paths, 3, 1)) | of(tree.Section, st.just("steps"), st.just(NOWHERE), blocks)
)
kinds = st.sampled_from(["technique", "pipeline", "runtime", "model", "data", "params"])
items = (
    of(tree.Study, names, notes, some(members)) | of(tree.Declaration, kinds, names, notes, some(facts))
    | targets | metrics | lets
)
imports = (
    of(tree.ImportModule, paths.filter(lambda path: path.parts[0].text != "python"), st.none() | names)
    | of(tree.ImportNames, paths, some(names, 3, 1)) | of(tree.ImportPython, strings, names)
)
editions = st.just(tree.Number(NOWHERE, Decimal(1), None, True))
files = of(tree.File, editions, some(imports, 2), some(items, 2))


def read(written: str) -> tree.File:
    parsed = parse(Source("t", written))
    assert parsed.file is not None, written
    assert not parsed.diagnostics.found, render(parsed.diagnostics.found, {"t": written})
    return parsed.file


@settings(max_examples=150, deadline=None, derandomize=True)
@given(files)
def test_a_tree_that_is_printed_is_parsed_to_the_same_tree(file: tree.File) -> None:
    assert shape(read(text(file))) == shape(file)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(files)
def test_every_span_covers_its_own_text(file: tree.File) -> None:
    written = text(file)
    for node in walk(read(written)):
        part = written[node.span.start : node.span.end]
        assert part == part.strip() or isinstance(node, tree.File)
        # Parentheses belong to no node, so a node's text is its printed form once the outermost pair is off.
        printed = text(node).strip()
        assert part.strip() in (printed, printed.removeprefix("(").removesuffix(")"))


@pytest.mark.parametrize(
    "path", sorted([*resources.stdlib().glob("*.opt"), *STUDIES.glob("*.opt")]), ids=lambda path: path.name
)
def test_the_shipped_files_survive_printing(path: Path) -> None:
    file = read(path.read_text(encoding="utf-8"))
    assert shape(read(text(file))) == shape(file)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_a_damaged_file_is_answered(data: st.DataObject) -> None:
    whole = (STUDIES / "digits.opt").read_text(encoding="utf-8")
    at = data.draw(st.integers(10, len(whole)))
    gone = data.draw(st.integers(0, 40))
    put = data.draw(st.text(st.sampled_from("{}()[]=,;.\"'+-*/<>!%#\n\t 1ax\\") | st.characters(), max_size=4))
    damaged = whole[:at] + put + whole[at + gone :]
    parsed = parse(Source("t", damaged))
    assert all(item.primary.span.end <= len(damaged) for item in parsed.diagnostics.found)
    assert render(parsed.diagnostics.sorted(), {"t": damaged}).count("error[") == len(parsed.diagnostics.sorted())


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.text(max_size=60))
def test_any_text_is_answered(written: str) -> None:
    parsed = parse(Source("t", written))
    assert parsed.diagnostics.failed or (parsed.file is not None and parsed.file.edition is not None)
