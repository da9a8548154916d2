"""From the grammar's rules to the nodes of the tree: one function a rule."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import partial
from types import SimpleNamespace
from typing import Any, TypeAlias, TypeVar, cast

from lark import Tree

from optlang.diagnostics.model import MOST, Diagnostics, Span
from optlang.syntax import tree
from optlang.syntax.source import Source
from optlang.syntax.tokens import Token

DEEPEST = 100
"""How deep expressions may nest, or how many operators may follow one another."""

LARGEST_EXPONENT = 300
"""Numbers beyond ten to this power, times any unit, would be no number of the machine."""

_NUMBER = re.compile(r"([0-9][0-9_]*(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?![eE][+-]?[0-9]))([A-Za-z%]*)")
_ESCAPE = re.compile(r"\\(.)")
_ESCAPES = {"n": "\n", "t": "\t", '"': '"', "\\": "\\"}

Values: TypeAlias = list[Any]
Members: TypeAlias = "list[tree.StudyMember]"
_Kind = TypeVar("_Kind")


class TooDeepError(Exception):
    """An expression nests deeper than what comes after the parser could follow."""

    def __init__(self, span: Span) -> None:
        super().__init__(span)
        self.span = span


@dataclass(frozen=True, slots=True)
class _Because(tree.Node):
    """A reason on a line of its own, until its rule is found."""

    text: tree.String


@dataclass(frozen=True, slots=True)
class _Placed:
    """A node inside a larger stretch of text, such as parentheses: that counts for the spans of the nodes around it."""

    node: tree.Node
    span: Span


def begin(value: Any) -> int:
    """Where the text begins that a value of the parser's stack was made of."""
    if isinstance(value, Tree):
        return begin(value.children[0])
    return value.start_pos if isinstance(value, Token) else cast("int", value.span.start)


def end(value: Any) -> int:
    """Where the text ends that a value of the parser's stack was made of."""
    if isinstance(value, Tree):
        return end(value.children[-1])
    return value.end_pos if isinstance(value, Token) else cast("int", value.span.end)


class Builder:
    """Makes the nodes of one file; each method takes the values of a rule's symbols and the span that they cover."""

    def __init__(self, source: Source, diagnostics: Diagnostics) -> None:
        self._source = source
        self._diagnostics = diagnostics
        self._depths: dict[int, int] = {}

    def actions(self) -> SimpleNamespace:
        """The method of each rule under the rule's name, as Lark calls it: with the children of the rule only."""
        names = [name for name in vars(Builder) if name[0] != "_" and name != "actions"]
        return SimpleNamespace(**{name: partial(self._placed, getattr(self, name)) for name in names})

    def _placed(self, make: Callable[[Values, Span], Any], children: Values) -> Any:
        if children:
            span = Span(self._source.file, begin(children[0]), end(children[-1]))
        else:
            span = Span(self._source.file, len(self._source.text), len(self._source.text))
        node = make([child.node if isinstance(child, _Placed) else child for child in children], span)
        return node if node.span == span else _Placed(node, span)

    # ---- a file

    def start(self, values: Values, span: Span) -> tree.File:
        edition = values[0] if values and isinstance(values[0], tree.Number) else None
        imports = _all(values, tree.ImportModule, tree.ImportNames, tree.ImportPython)
        items = _all(values, tree.Study, tree.Declaration, tree.Target, tree.Metric, tree.Let)
        return tree.File(span, edition, imports, items)

    def edition(self, values: Values, span: Span) -> tree.Number:
        return self.number(values[1:], self._at(values[1]))

    def import_module(self, values: Values, span: Span) -> tree.ImportModule:
        return tree.ImportModule(span, values[1], self._name(values[3]) if len(values) > 2 else None)

    def import_names(self, values: Values, span: Span) -> tree.ImportNames:
        names = tuple(self._name(token) for token in values[3:] if token.type == "NAME")
        return tree.ImportNames(span, values[1], names)

    def import_python(self, values: Values, span: Span) -> tree.ImportPython:
        return tree.ImportPython(span, self._string(values[2]), self._name(values[4]))

    def let(self, values: Values, span: Span) -> tree.Let:
        return tree.Let(span, self._name(values[1]), values[3])

    def metric(self, values: Values, span: Span) -> tree.Metric:
        measured = any(isinstance(value, Token) and value.value == "measured" for value in values[5:6])
        name, kind, direction = values[1], self._name(values[3]), values[4].value
        return tree.Metric(span, name, kind, direction, measured, _after(values, "EQUAL"), self._help(values))

    # ---- a study

    def study(self, values: Values, span: Span) -> tree.Study:
        members: Members = []
        for value in values[2:]:
            if isinstance(value, _Because):
                self._attach(members, value)
            elif isinstance(value, tree.Node):
                members.append(cast("tree.StudyMember", value))
        return tree.Study(span, self._name(values[1]), self._help(values[:3]), tuple(members))

    def _attach(self, members: Members, reason: _Because) -> None:
        last = members[-1] if members else None
        if isinstance(last, tree.Rule) and last.because is None:
            whole = Span(last.span.file, last.span.start, reason.span.end)
            members[-1] = tree.Rule(whole, last.kind, last.keyword, last.expression, reason.text)
        else:
            self._diagnostics.error(
                "E101", "unexpected `because`", Span(reason.span.file, reason.span.start, reason.span.start + 7),
                "a reason follows its `forbid` or `require`",
            )

    def input(self, values: Values, span: Span) -> tree.Input:
        domain, default = _after(values, "IN"), _after(values, "EQUAL")
        return tree.Input(span, self._name(values[1]), self._name(values[3]), domain, default, self._help(values))

    def make(self, values: Values, span: Span) -> tree.Make:
        return tree.Make(span, values[0].value, self._name(values[1]), values[3])

    def target(self, values: Values, span: Span) -> tree.Target:
        base, block = _first(values, tree.Path), _first(values, tree.Block)
        return tree.Target(span, self._name(values[1]), base, block)

    def section(self, values: Values, span: Span) -> tree.Section:
        return tree.Section(span, values[0].value, self._at(values[0]), values[1])

    steps = section

    def rule(self, values: Values, span: Span) -> tree.Rule:
        return tree.Rule(span, values[0].value, self._at(values[0]), values[1], self._help(values[2:]))

    def because(self, values: Values, span: Span) -> _Because:
        return _Because(span, self._string(values[1]))

    def goal(self, values: Values, span: Span) -> tree.Goal:
        return tree.Goal(span, values[0].value, self._at(values[0]), _all(values, tree.Path))

    # ---- declarations

    def declaration(self, values: Values, span: Span) -> tree.Declaration:
        facts = _all(values, tree.Param, tree.Uses, tree.Calls, tree.Clause, tree.Section)
        return tree.Declaration(span, values[0].value, self._name(values[1]), self._help(values[:3]), facts)

    def calls(self, values: Values, span: Span) -> tree.Calls:
        return tree.Calls(span, self._string(values[1]))

    def param(self, values: Values, span: Span) -> tree.Param:
        domain, default, when = _after(values, "IN"), _after(values, "EQUAL"), _after(values, "WHEN")
        name, kind = self._name(values[1]), self._name(values[3])
        return tree.Param(span, name, kind, domain, default, when, self._help(values))

    def uses(self, values: Values, span: Span) -> tree.Uses:
        return tree.Uses(span, _all(values, tree.Use))

    def use(self, values: Values, span: Span) -> tree.Use:
        return tree.Use(span, values[0], _first(values, tree.Changes))

    def changes(self, values: Values, span: Span) -> tree.Changes:
        return tree.Changes(span, _all(values, tree.Change))

    def change(self, values: Values, span: Span) -> tree.Change:
        domain, default = _after(values, "IN"), _after(values, "EQUAL")
        return tree.Change(span, self._name(values[0]), domain, default, self._help(values))

    def clause(self, values: Values, span: Span) -> tree.Clause:
        return tree.Clause(span, values[0].value, _all(values, tree.Path))

    # ---- blocks

    def block(self, values: Values, span: Span) -> tree.Block:
        return tree.Block(
            span, _all(values, tree.Fix, tree.Vary, tree.Element, tree.Maybe, tree.Repeat, tree.Guard)
        )

    def fix(self, values: Values, span: Span) -> tree.Fix:
        block = values[3] if len(values) > 3 and isinstance(values[3], tree.Block) else None
        sign = self._sign(values[1])
        return tree.Fix(span, self._name(values[0]), values[2], block, _after(values, "WHEN"), sign)

    argument_fixed = fix

    def vary(self, values: Values, span: Span) -> tree.Vary:
        return tree.Vary(span, self._name(values[0]), values[2], _after(values, "WHEN"), self._sign(values[1]))

    argument_searched = vary

    def element(self, values: Values, span: Span) -> tree.Element:
        return tree.Element(span, values[0], _first(values[1:2], tree.Block), _after(values, "WHEN"))

    def maybe(self, values: Values, span: Span) -> tree.Maybe:
        return self._deep(tree.Maybe(span, values[1], self._at(values[0])), values[1])

    def repeat_fixed(self, values: Values, span: Span) -> tree.Repeat:
        fixed = values[2].type == "EQUAL"
        return tree.Repeat(span, self._name(values[1]), values[3], fixed, values[4], _after(values, "WHEN"))

    repeat_searched = repeat_fixed

    def guard(self, values: Values, span: Span) -> tree.Guard:
        return tree.Guard(span, values[1], values[2])

    # ---- domains

    def range(self, values: Values, span: Span) -> tree.Range:
        log = isinstance(values[-1], Token) and values[-1].type == "LOG"
        return tree.Range(span, values[0], values[2], _after(values, "STEP"), log)

    def any(self, values: Values, span: Span) -> tree.AnyValue:
        return tree.AnyValue(span)

    def any_order(self, values: Values, span: Span) -> tree.AnyOrder:
        return tree.AnyOrder(span, values[2])

    # ---- expressions

    def expression(self, values: Values, span: Span) -> tree.Binary:
        return self._deep(tree.Binary(span, values[1].value, values[0], values[2]), values[0], values[2])

    conjunction = comparison = sum = product = expression

    def negation(self, values: Values, span: Span) -> tree.Unary:
        return self._deep(tree.Unary(span, values[0].value, values[1]), values[1])

    minus = negation

    def member(self, values: Values, span: Span) -> tree.Member:
        return self._deep(tree.Member(span, values[0], values[2]), values[0], values[2])

    def group(self, values: Values, span: Span) -> Any:
        return values[1]

    def call(self, values: Values, span: Span) -> tree.Call:
        arguments = tuple(value for value in values[2:] if isinstance(value, tree.Node))
        return self._deep(tree.Call(span, values[0], cast("Any", arguments)), *arguments)

    def list(self, values: Values, span: Span) -> tree.ListOf:
        items = tuple(value for value in values if isinstance(value, tree.Node))
        return self._deep(tree.ListOf(span, cast("Any", items)), *items)

    def path(self, values: Values, span: Span) -> tree.Path:
        return tree.Path(span, tuple(self._name(token) for token in values if token.type == "NAME"))

    def number(self, values: Values, span: Span) -> tree.Number:
        match = _NUMBER.fullmatch(values[0].value)
        assert match, values
        digits, unit = match.groups()
        whole = not set(digits) & set(".eE")
        try:
            value = Decimal(digits)
        except InvalidOperation:
            # The exponent has more digits than exact arithmetic takes.
            value = Decimal("Infinity")
        if not value.is_finite() or (value and abs(value.adjusted()) > LARGEST_EXPONENT):
            if len(self._diagnostics.found) < MOST:
                self._diagnostics.error(
                    "E103", "this number is too large, or too near to 0", span,
                    f"numbers lie between 1e-{LARGEST_EXPONENT} and 1e{LARGEST_EXPONENT}",
                )
            value, whole = Decimal(1), True
        return tree.Number(span, value, unit or None, whole)

    def string(self, values: Values, span: Span) -> tree.String:
        return self._string(values[0])

    def truth(self, values: Values, span: Span) -> tree.Truth:
        return tree.Truth(span, values[0].value == "true")

    # ---- what the rules share

    def _at(self, token: Token) -> Span:
        return Span(self._source.file, token.start_pos, token.end_pos)

    def _sign(self, token: Token) -> Span | None:
        around = self._source.text[token.start_pos - 1 : token.end_pos + 1]
        return self._at(token) if around.strip() == around[1:-1] else None

    def _name(self, token: Token) -> tree.Name:
        return tree.Name(self._at(token), token.value)

    def _string(self, token: Token) -> tree.String:
        def resolved(match: re.Match[str]) -> str:
            if match[1] not in _ESCAPES and len(self._diagnostics.found) < MOST:
                at = token.start_pos + 1 + match.start()
                self._diagnostics.error(
                    "E103", f"unknown escape `{match[0]}`", Span(self._source.file, at, at + 2),
                    r"`\n`, `\t`, `\"` and `\\` are known",
                    help=r"a backslash itself is written `\\`; in file names `/` does everywhere",
                )
            return _ESCAPES.get(match[1], match[0])

        body = token.value[1:-1]
        return tree.String(self._at(token), _ESCAPE.sub(resolved, body) if "\\" in body else body)

    def _help(self, values: Sequence[Any]) -> tree.String | None:
        for value in values:
            if isinstance(value, Token) and value.type == "STRING":
                return self._string(value)
        return None

    def _deep(self, node: _Kind, *parts: Any) -> _Kind:
        depth = 1 + max((self._depths.get(id(part), 0) for part in parts), default=0)
        if depth > DEEPEST:
            raise TooDeepError(cast("tree.Node", node).span)
        self._depths[id(node)] = depth
        return node


def _all(values: Sequence[Any], *kinds: type[Any]) -> Any:
    return tuple(value for value in values if isinstance(value, kinds))


def _first(values: Sequence[Any], kind: type[_Kind]) -> _Kind | None:
    return next((value for value in values if isinstance(value, kind)), None)


def _after(values: Sequence[Any], kind: str) -> Any:
    """What stands behind the token of a kind, or None."""
    for index, value in enumerate(values):
        if isinstance(value, Token) and value.type == kind:
            return values[index + 1]
    return None
