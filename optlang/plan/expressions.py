"""Conditions and requirements as data, and their value at a point. Knows neither text nor search.

An absent knob is None (`none` in the language): equality with it is decided as usual, an order comparison with it is
false, and arithmetic with it is None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, cast

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt

Scalar: TypeAlias = StrictBool | StrictInt | StrictFloat | str
Value: TypeAlias = Scalar | tuple[Scalar, ...] | None


class Frozen(BaseModel):
    """The base of everything in a plan: immutable, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Const(Frozen):
    """A value; quantities in SI units (seconds, bytes), `%` as a ratio."""

    kind: Literal["const"] = "const"
    value: Value


class KnobRef(Frozen):
    """The value of a knob, by its full path; None where it is absent."""

    kind: Literal["knob"] = "knob"
    path: str


class RoundRef(Frozen):
    """Inside `repeat NAME`: the number of this round (from 1), or of all rounds."""

    kind: Literal["round"] = "round"
    path: str
    which: Literal["round", "rounds"]


class MetricRef(Frozen):
    """A metric of the trial, or of the baseline, on a target (None: the only one, or the worst of several)."""

    kind: Literal["metric"] = "metric"
    metric: str
    target: str | None = None
    baseline: bool = False

    @property
    def name(self) -> str:
        """The metric, with its target in front where it names one."""
        return f"{self.target}.{self.metric}" if self.target else self.metric


class Unary(Frozen):
    """`-x` or `not x`."""

    kind: Literal["unary"] = "unary"
    operator: Literal["-", "not"]
    operand: Expression


class Binary(Frozen):
    """Two operands joined by an arithmetic, comparison or logical operator."""

    kind: Literal["binary"] = "binary"
    operator: Literal["+", "-", "*", "/", "==", "!=", "<=", ">=", "<", ">", "and", "or"]
    left: Expression
    right: Expression


class In(Frozen):
    """Whether a value is one of some."""

    kind: Literal["member"] = "member"
    value: Expression
    options: tuple[Scalar | None, ...]


class If(Frozen):
    """`then` where a condition holds, else `otherwise`: a setting that is written for some points only."""

    kind: Literal["if"] = "if"
    condition: Expression
    then: Expression
    otherwise: Expression


Reference: TypeAlias = "KnobRef | RoundRef | MetricRef"
Expression: TypeAlias = Annotated[
    Const | KnobRef | RoundRef | MetricRef | Unary | Binary | In | If, Field(discriminator="kind")
]


@dataclass(frozen=True, slots=True)
class Environment:
    """Where an expression finds the values of what it names."""

    knob: Callable[[str], Value] = lambda path: _unknown("knob", path)
    metric: Callable[[MetricRef], float | None] = lambda ref: _unknown("metric", ref.metric)
    rounds: Callable[[RoundRef], int] = lambda ref: _unknown("round of", ref.path)


def _unknown(kind: str, name: str) -> Any:
    raise LookupError(f"the {kind} {name} has no value here")


def evaluate(expression: Expression, environment: Environment) -> Value:
    """The value of `expression`; raises ZeroDivisionError where it divides by zero."""
    # Asked millions of times: to match a model's class against one after another costs ten times as much.
    return _EVALUATE[type(expression)](expression, environment)


def _unary(expression: Unary, environment: Environment) -> Value:
    value = evaluate(expression.operand, environment)
    if expression.operator == "not":
        return not value
    return None if value is None else -_number(value)


def _in(expression: In, environment: Environment) -> Value:
    return _plain(evaluate(expression.value, environment)) in [_plain(option) for option in expression.options]


def _if(expression: If, environment: Environment) -> Value:
    return evaluate(expression.then if holds(expression.condition, environment) else expression.otherwise, environment)


def _plain(value: Value) -> Value:
    # A choice that stays out (`none`) and a knob that is absent are both `none` to the caller.
    return None if value == "none" else value


def _number(value: Value) -> float:
    assert isinstance(value, int | float), value
    return value


def _binary(expression: Binary, environment: Environment) -> Value:
    operator = expression.operator
    left = evaluate(expression.left, environment)
    if operator == "and":
        return bool(left) and bool(evaluate(expression.right, environment))
    if operator == "or":
        return bool(left) or bool(evaluate(expression.right, environment))
    right = evaluate(expression.right, environment)
    if operator in ("==", "!="):
        return (_plain(left) == _plain(right)) is (operator == "==")
    if operator in ("<", "<=", ">", ">="):
        if left is None or right is None:
            return False
        a, b = _number(left), _number(right)
        return {"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b}[operator]
    if left is None or right is None:
        return None
    a, b = _number(left), _number(right)
    if operator == "/":
        return a / b
    return {"+": a + b, "-": a - b, "*": a * b}[operator]


_EVALUATE: Mapping[type[Any], Callable[[Any, Environment], Value]] = {
    Const: lambda expression, environment: cast("Value", expression.value),
    KnobRef: lambda expression, environment: environment.knob(expression.path),
    RoundRef: lambda expression, environment: environment.rounds(expression),
    MetricRef: lambda expression, environment: environment.metric(expression),
    Unary: _unary,
    Binary: _binary,
    In: _in,
    If: _if,
}


def holds(expression: Expression, environment: Environment) -> bool:
    """Whether a condition is true; one that divides by zero has no value, and does not hold."""
    try:
        return bool(evaluate(expression, environment))
    except ZeroDivisionError:
        return False


# The smallest scale a violation is measured against, so that `x <= 0` does not divide by zero.
FLOOR = 1e-9


def violations(expression: Expression, environment: Environment) -> list[float]:
    """How far a requirement is from being met: one number a conjunct, at most 0 where it holds.

    `a <= b` gives (a - b) / max(|b|, FLOOR); `or` the least of its sides' worst, `and` both lists. A condition that is
    no comparison gives 0 or 1. A side without a value (not measured, or a division by zero) violates by 1.
    """
    match expression:
        case Binary(operator="and"):
            return violations(expression.left, environment) + violations(expression.right, environment)
        case Binary(operator="or"):
            sides = (violations(expression.left, environment), violations(expression.right, environment))
            return [min(max(side) for side in sides)]
        case Binary(operator="<" | "<=" | ">" | ">="):
            try:
                left, right = evaluate(expression.left, environment), evaluate(expression.right, environment)
            except ZeroDivisionError:
                return [1.0]
            if left is None or right is None:
                return [1.0]
            a, b = _number(left), _number(right)
            gap = (a - b if expression.operator in ("<", "<=") else b - a) / max(abs(b), FLOOR)
            # A strict comparison that is met with equality is broken, though by nothing.
            return [FLOOR if gap == 0 and expression.operator in ("<", ">") else gap]
        case Unary(operator="not", operand=Unary(operator="not", operand=inner)):
            return violations(inner, environment)
        case _:
            return [0.0 if holds(expression, environment) else 1.0]


def replaced(expression: Expression, by: Callable[[Reference], Expression]) -> Expression:
    """The expression with something else for each knob, round and metric that it names."""
    match expression:
        case KnobRef() | RoundRef() | MetricRef():
            return by(expression)
        case Unary(operand=operand):
            return expression.model_copy(update={"operand": replaced(operand, by)})
        case Binary(left=left, right=right):
            return expression.model_copy(update={"left": replaced(left, by), "right": replaced(right, by)})
        case In(value=value):
            return expression.model_copy(update={"value": replaced(value, by)})
        case If(condition=condition, then=then, otherwise=otherwise):
            parts = {"condition": condition, "then": then, "otherwise": otherwise}
            return expression.model_copy(update={name: replaced(part, by) for name, part in parts.items()})
    return expression


def references(expression: Expression) -> Iterator[Reference]:
    """All knobs, rounds and metrics that `expression` names, in the order of the text."""
    # As in `evaluate`, classes are not matched one by one.
    waiting: list[Any] = [expression]
    while waiting:
        item = waiting.pop()
        kind = item.kind
        if kind in ("knob", "round", "metric"):
            yield item
        elif kind == "unary":
            waiting.append(item.operand)
        elif kind == "binary":
            waiting += (item.right, item.left)
        elif kind == "member":
            waiting.append(item.value)
        elif kind == "if":
            waiting += (item.otherwise, item.condition, item.then)


def outcomes(expression: Expression) -> Iterator[Expression]:
    """What an expression may come to by its conditions; itself where it has none."""
    if isinstance(expression, If):
        yield from outcomes(expression.then)
        yield from outcomes(expression.otherwise)
    else:
        yield expression


def operands(expression: Expression, operator: Literal["and", "or"]) -> Iterator[Expression]:
    """What a chain of `and`, or of `or`, joins; the expression itself where it is none."""
    if isinstance(expression, Binary) and expression.operator == operator:
        yield from operands(expression.left, operator)
        yield from operands(expression.right, operator)
    else:
        yield expression


def conjunction(*conditions: Expression | None) -> Expression | None:
    """The conditions joined by `and`; None where there are none."""
    present = [item for item in conditions if item is not None]
    if not present:
        return None
    joined = present[0]
    for item in present[1:]:
        joined = Binary(operator="and", left=joined, right=item)
    return joined


def show(expression: Expression) -> str:
    """The expression as text, in the language's own words (values in plain SI numbers)."""
    match expression:
        case Const(value=value):
            return show_value(value)
        case KnobRef(path=path):
            return path
        case RoundRef(path=path, which=which):
            return f"{path}.round" if which == "round" else path
        case MetricRef(metric=metric, target=target, baseline=baseline):
            return ".".join(part for part in ("baseline" if baseline else "", target or "", metric) if part)
        case Unary(operator=operator, operand=operand):
            return f"{operator}{' ' if operator == 'not' else ''}{_wrapped(operand)}"
        case In(value=value, options=options):
            return f"{_wrapped(value)} in {{{', '.join(show_value(option) for option in options)}}}"
        case Binary(operator=operator, left=left, right=right):
            return f"{_wrapped(left)} {operator} {_wrapped(right)}"
        case If(condition=condition, then=then, otherwise=otherwise):
            return f"{_wrapped(then)} when {show(condition)}, else {_wrapped(otherwise)}"
    raise AssertionError(expression)


def _wrapped(expression: Expression) -> str:
    text = show(expression)
    return f"({text})" if isinstance(expression, Binary | In | If) else text


def show_value(value: Value) -> str:
    """A value in the language's own words."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ", ".join(show_value(item) for item in value) + "]"
    return str(value)


def names_rounds(expression: Expression) -> bool:
    """Whether it depends on the number of the round."""
    return any(isinstance(item, RoundRef) for item in references(expression))
