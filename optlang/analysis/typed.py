"""Expressions of the plan with their kinds, and constants as they could have been written."""

from __future__ import annotations

from dataclasses import dataclass

from optlang.analysis.definitions import KnobSymbol
from optlang.plan.expressions import Const, Expression, Value
from optlang.plan.model import Dimension
from optlang.plan.units import Constant, Kind, exact, value_of
from optlang.syntax import tree


@dataclass(frozen=True, slots=True)
class Typed:
    """An expression with its kind; `constant` where its value is known, `knob` where it is a knob by itself."""

    expression: Expression
    kind: Kind
    constant: Constant | None = None
    knob: KnobSymbol | None = None


def constant_of(value: Value, dimension: Dimension) -> Constant:
    """A value of a plan as it could have been written."""
    if isinstance(value, tuple):
        return Constant(tuple(Constant(str(item), "string") for item in value), "names")
    if value is None or isinstance(value, bool | str):
        return Constant(value, dimension if value is not None else "none")
    return Constant(exact(value), dimension, isinstance(value, int))


def known(constant: Constant) -> Typed:
    """A constant as an expression."""
    return Typed(Const(value=value_of(constant, constant.kind)), constant.kind, constant)


def as_kind(typed: Typed, kind: Kind) -> Expression:
    """The expression as one of a kind: a count stays an integer, a ratio written as a plain number becomes a float."""
    if typed.constant is None:
        return typed.expression
    return Const(value=value_of(typed.constant, typed.kind if typed.kind == "plain" and kind != "ratio" else kind))


def text_of(node: tree.Domain) -> str:
    """A short expression as it could be written, for a help."""
    match node:
        case tree.Path():
            return node.text
        case tree.Number(value=value, unit=unit):
            return f"{value}{unit or ''}"
        case tree.Truth(value=truth):
            return "true" if truth else "false"
        case tree.String(value=text):
            return f'"{text}"'
        case tree.Unary(operator=operator, operand=operand):
            return f"{operator}{' ' if operator == 'not' else ''}{text_of(operand)}"
        case tree.Binary(operator=operator, left=left, right=right):
            return f"{text_of(left)} {operator} {text_of(right)}"
    return "…"
