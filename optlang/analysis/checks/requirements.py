"""What is wrong with a `require`: no trial can meet it, every trial does, or it contradicts another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from math import inf

from optlang.analysis.checks.bounds import Ranges, decided, interval
from optlang.analysis.expressions import Compared, Expressions
from optlang.analysis.lower.study import ReadStudy
from optlang.analysis.typed import text_of
from optlang.diagnostics.model import Fix, Label, Span
from optlang.plan.expressions import Binary, Const, Expression, MetricRef, Unary, operands, references
from optlang.plan.expressions import show as show_expression
from optlang.plan.intervals import Interval
from optlang.plan.model import Dimension, Metric, Rule
from optlang.plan.units import plain, show
from optlang.syntax import tree

_NEEDLESS = "take it away, or compare with a value that the metric may miss"
_MORE = "; a metric that can be more is declared as `float`"


def requirements_decide(study: ReadStudy) -> None:
    """E603, E607 and W608: a requirement can be met, can be missed, and agrees with the others."""
    _Requirements(study.knobs.expressions).check(study.requires)


@dataclass(frozen=True, slots=True)
class _Bare:
    """A number that was written without a unit where a ratio belongs: 95 is 9500%."""

    span: Span
    value: Decimal
    text: str


class _Requirements:
    def __init__(self, expressions: Expressions) -> None:
        self._names = expressions.names
        self._compared = expressions.compared
        self._metrics: Mapping[str, Metric] = self._names.metrics
        self._space = Ranges(self._metrics)
        self._diagnostics = self._names.diagnostics

    def check(self, requires: list[tuple[tree.Rule, Rule]]) -> None:
        """All of them, and then whether they go together."""
        sound: list[Rule] = []
        for node, rule in requires:
            whole = decided(rule.expression, self._space)
            parts = list(self._parts(rule.expression))
            reported = [self._part(part, whole) for part in parts]
            if not any(reported) and whole is not None:
                self._whole(node, rule, whole)
            if whole is None and not any(reported):
                sound.append(rule)
        self._together(sound)

    def _parts(self, expression: Expression) -> Iterator[Compared]:
        """The comparisons of metrics in it, with where they stand."""
        match expression:
            case Unary(operand=operand):
                yield from self._parts(operand)
            case Binary(operator="and" | "or", left=left, right=right):
                yield from self._parts(left)
                yield from self._parts(right)
            case Binary():
                yield from (item for item in self._compared if item.expression is expression)

    def _part(self, part: Compared, whole: bool | None) -> bool:
        """Report a comparison that is decided before anything is measured; whether it is."""
        if not any(isinstance(item, MetricRef) for item in references(part.expression)):
            # Inputs alone decide it, which is what they are for.
            return False
        found = decided(part.expression, self._space)
        if found is None or (found and self._by_inputs(part.node) and self._bare(part) is None):
            return False
        bare = self._bare(part)
        if bare is not None:
            self._without_unit(part, bare)
            return True
        message = {
            False: "this requirement can never be met",
            True: "this requirement is always met",
            None: "this part of the requirement decides nothing",
        }[whole]
        label = "always true" if found else "never true"
        labels = tuple(self._ranges(part))
        if whole is False:
            self._diagnostics.error("E607", message, part.node.span, label, labels=labels, help=self._advice(part))
        else:
            self._diagnostics.warn("W608", message, part.node.span, label, labels=labels, help=self._needless(part))
        return True

    def _whole(self, node: tree.Rule, rule: Rule, whole: bool) -> None:
        """A requirement that no comparison of a metric decides."""
        if not whole:
            self._diagnostics.error(
                "E607", "this requirement can never be met", node.expression.span, "never true",
                help="require what a trial can have: `require accuracy >= 90%`",
            )
        elif not self._by_inputs(node.expression):
            self._diagnostics.warn(
                "W608", "this requirement is always met", node.expression.span, "always true", help=_NEEDLESS
            )

    def _by_inputs(self, node: tree.Expression) -> bool:
        """Whether inputs have a part in it: what they switch off is switched off on purpose."""
        return any(item.text in self._names.inputs for item in tree.paths(node))

    # ---- what is reported of a comparison

    def _ranges(self, part: Compared) -> Iterator[Label]:
        """What each side can be."""
        for node, side in ((part.node.left, part.expression.left), (part.node.right, part.expression.right)):
            found = interval(side, self._space)
            yield Label(node.span, _range(found, self._dimension(part.expression)))

    def _dimension(self, expression: Expression) -> Dimension:
        """The dimension of a comparison: that of the first metric whose sum it is."""
        return next(iter(_summed(expression, self._metrics)), "number")

    def _advice(self, part: Compared) -> str:
        name = self._ratio(part)
        if name is None:
            return "compare with a value that it can have"
        return f"`{name}` is a share between 0% and 100%{_MORE if self._own(name) else ''}"

    def _needless(self, part: Compared) -> str:
        name = self._ratio(part)
        return _NEEDLESS + (_MORE if name is not None and self._own(name) else "")

    def _ratio(self, part: Compared) -> str | None:
        names = [item.metric for item in references(part.expression) if isinstance(item, MetricRef)]
        return next((name for name in names if self._metrics[name].dimension == "ratio"), None)

    def _own(self, name: str) -> bool:
        return self._metrics[name].task and name != "accuracy"

    def _without_unit(self, part: Compared, bare: _Bare) -> None:
        shown = plain(bare.value * 100) + "%"
        meant = f"{plain(abs(bare.value))}%"
        here = (part.node.left, part.node.right)
        direct = next((side for side in here if side.span != bare.span and isinstance(side, tree.Path)), None)
        if direct is not None and any(_written(side) == bare.span for side in here):
            message = f"`{text_of(direct)}` cannot be {shown}"
        else:
            message = f"`{bare.text}` is {shown} here"
        fits = abs(bare.value) <= 100
        # A name that stands for it may be used elsewhere.
        here_only = bare.span.file == part.node.span.file and (
            part.node.span.start <= bare.span.start < part.node.span.end
        )
        self._diagnostics.error(
            "E607", message, bare.span, shown, labels=() if here_only else (Label(part.node.span, "compared here"),),
            help=f"write `{meant}`" if fits else "a ratio lies between 0% and 100%",
            fix=Fix(bare.span, meant) if fits and here_only else None,
        )

    def _bare(self, part: Compared) -> _Bare | None:
        """The number beyond 1 without a unit that a ratio is compared with, or that is added to one."""
        if self._dimension(part.expression) != "ratio":
            return None
        for side in (part.node.left, part.node.right):
            for found in self._numbers(side):
                if abs(found.value) > 1:
                    return found
        return None

    def _numbers(self, node: tree.Domain, seen: tuple[str, ...] = ()) -> Iterator[_Bare]:
        """The numbers without a unit in a sum, those that its names stand for among them."""
        match node:
            case tree.Number(value=value, unit=None):
                yield _Bare(node.span, value, text_of(node))
            case tree.Unary(operator="-", operand=operand):
                yield from self._numbers(operand, seen)
            case tree.Binary(operator="+" | "-", left=left, right=right):
                yield from self._numbers(left, seen)
                yield from self._numbers(right, seen)
            case tree.Path(text=text) if text in self._names.inputs:
                named = self._names.inputs[text]
                if named.bare is not None and isinstance(named.constant.value, Decimal):
                    yield _Bare(named.bare, named.constant.value, text)
            case tree.Path(text=text) if text not in seen:
                meant = self._names.peek(node)
                if meant is not None:
                    yield from self._numbers(meant.value, (*seen, text))

    # ---- several

    def _together(self, requires: list[Rule]) -> None:
        """E603: two requirements that no value of a metric meets."""
        first: dict[tuple[MetricRef, bool], tuple[float, bool, Span]] = {}
        for rule in requires:
            for part in operands(rule.expression, "and"):
                span = next((item.node.span for item in self._compared if item.expression is part), None)
                limit = _limit(part)
                if span is None or limit is None:
                    continue
                metric, upper, value, strict = limit
                against = first.get((metric, not upper))
                if against is not None and _exclude(upper, value, strict, against):
                    self._diagnostics.error(
                        "E603", f"no `{show_expression(metric)}` meets both requirements", span, "this one",
                        labels=(Label(against[2], "and this one"),), help="change one of them, or take it away",
                    )
                known = first.get((metric, upper))
                if known is None or (value < known[0] if upper else value > known[0]):
                    first[metric, upper] = (value, strict, span)


def _exclude(upper: bool, value: float, strict: bool, against: tuple[float, bool, Span]) -> bool:
    low, high = (against[0], value) if upper else (value, against[0])
    return low > high or (low == high and (strict or against[1]))


_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


def _limit(expression: Expression) -> tuple[MetricRef, bool, float, bool] | None:
    """`metric OP number` as metric, whether it is an upper limit, the number, and whether that is excluded."""
    if not isinstance(expression, Binary):
        return None
    left, right, operator = expression.left, expression.right, expression.operator
    if isinstance(left, Const):
        left, right, operator = right, left, _TURNED.get(operator, operator)  # type: ignore[assignment]
    if not isinstance(left, MetricRef) or not isinstance(right, Const) or operator not in _TURNED:
        return None
    if not isinstance(right.value, int | float) or isinstance(right.value, bool):
        return None
    return left, operator in ("<", "<="), float(right.value), operator in ("<", ">")


def _summed(expression: Expression, metrics: Mapping[str, Metric]) -> Iterator[Dimension]:
    """The dimensions of the metrics that are compared or summed, not of those that are factors."""
    match expression:
        case MetricRef(metric=name):
            yield metrics[name].dimension
        case Unary(operand=operand):
            yield from _summed(operand, metrics)
        case Binary(operator="/"):
            return
        case Binary(operator="*", left=left, right=right):
            # A number times a ratio is a plain number; times a time it is a time.
            for side in (left, right):
                yield from (found for found in _summed(side, metrics) if found in ("time", "bytes"))
        case Binary(left=left, right=right):
            yield from _summed(left, metrics)
            yield from _summed(right, metrics)


def _written(node: tree.Expression) -> Span:
    return node.operand.span if isinstance(node, tree.Unary) else node.span


def _range(found: Interval, dimension: Dimension) -> str:
    if found.low == found.high:
        return show(found.low, dimension)
    if found.low == -inf and found.high == inf:
        return "any number"
    if found.high == inf:
        return f"{show(found.low, dimension)} or more"
    if found.low == -inf:
        return f"{show(found.high, dimension)} or less"
    return f"{show(found.low, dimension)} to {show(found.high, dimension)}"
