"""Expressions of the text → expressions of the plan, with their kinds checked. What names stand for: symbols.py."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from decimal import Decimal, DivisionByZero, InvalidOperation

from optlang.analysis.definitions import NO_VALUES, KnobSymbol
from optlang.analysis.modules.names import listed, only, suggestion
from optlang.analysis.symbols import Allowed, Given, InputValue, Namespace
from optlang.analysis.typed import Typed, as_kind, constant_of, known, text_of
from optlang.diagnostics.field_words import UNITS as UNIT_WORDS
from optlang.diagnostics.field_words import VALUES
from optlang.diagnostics.model import Diagnostics, Fix, Label, Span
from optlang.plan.domains import values_of
from optlang.plan.expressions import (
    Binary,
    Const,
    Environment,
    Expression,
    In,
    KnobRef,
    MetricRef,
    RoundRef,
    Scalar,
    Unary,
    holds,
)
from optlang.plan.model import Computed, Fixed, Models, Searched
from optlang.plan.units import (
    NUMERIC,
    SAID,
    UNITS,
    Constant,
    Kind,
    common,
    product,
    quantity,
    show,
    value_of,
)
from optlang.syntax import tree
from optlang.syntax.build import LARGEST_EXPONENT

_BY_ZERO = "this divides by zero"


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """A comparison of metrics as it was read: where it stands, and what it became in the plan's expression."""

    node: tree.Binary
    expression: Binary


@dataclass(slots=True, eq=False)
class Expressions:
    """Reads the expressions of one scope. What cannot be read is reported once, and None is returned for it."""

    names: Namespace
    compared: list[Compared] = field(default_factory=list)
    _open: list[str] = field(default_factory=list)

    @property
    def diagnostics(self) -> Diagnostics:
        """Collects the problems."""
        return self.names.diagnostics

    def with_siblings(self, siblings: dict[str, Given]) -> Expressions:
        """Expressions that may name the other settings of one step too."""
        return Expressions(self.names.with_siblings(siblings), self.compared)

    def _path(self, node: tree.Path, allowed: Allowed) -> Typed | None:
        if node.text == "none":
            return Typed(Const(value=None), "none", Constant(None, "none"))
        match self.names.find(node, allowed):
            case Given() as given:
                return self._param(given)
            case InputValue(constant=constant):
                return known(constant)
            case tree.Let(value=value):
                return self._let(node, value, allowed)
            case RoundRef() as rounds:
                return Typed(rounds, "count")
            case MetricRef(metric=name) as metric if allowed.metrics:
                return Typed(metric, self.names.metrics[name].dimension)
            case KnobSymbol(path=path, dimension=dimension) as knob if allowed.knobs:
                return Typed(KnobRef(path=path), dimension, knob=knob)
            case KnobSymbol():
                self.names.misplaced(node, "a knob", "a metric" if allowed.metrics else "a fixed value", allowed)
            case MetricRef():
                self.names.misplaced(node, "a metric", "a knob" if allowed.knobs else "a fixed value", allowed)
            case None:
                self.names.unknown(node, allowed)
        return None

    def _param(self, given: Given) -> Typed | None:
        param, setting = given.param, given.setting()
        domain = param.domain if param.domain is not None else NO_VALUES
        symbol = KnobSymbol(param.name, "value", domain, param.dimension, given.span, -1, param.help)
        match setting:
            case Fixed(value=value):
                constant = constant_of(value, param.dimension)
                return Typed(Const(value=value), constant.kind, constant, symbol)
            case Searched(knob=path):
                return Typed(KnobRef(path=path), param.dimension, knob=symbol)
            case Computed(expression=expression):
                return Typed(expression, param.dimension, knob=symbol)
            case Models():
                return Typed(Const(value="a model"), param.dimension, Constant("a model", param.dimension), symbol)
        return None

    def _let(self, node: tree.Path, value: tree.Domain, allowed: Allowed) -> Typed | None:
        if node.text in self._open:
            self.diagnostics.error(
                "E408", f"`{node.text}` is defined by itself", node.span, "this leads back to where it began",
                help="give one of the names in the circle a value",
            )
            return None
        if isinstance(value, tree.Range | tree.Block | tree.AnyValue | tree.AnyOrder):
            self.diagnostics.error(
                "E302", f"`{node.text}` is a domain, not a value", node.span, "a value is expected",
                labels=(Label(value.span, "the domain"),), help=f"`in {node.text}` makes it a knob",
            )
            return None
        self._open.append(node.text)
        try:
            return self.expression(value, allowed)
        finally:
            self._open.pop()

    # ---- expressions

    def expression(self, node: tree.Expression, allowed: Allowed) -> Typed | None:
        """The expression with its kind; None where a part of it is wrong, which is then reported."""
        self.diagnostics.budget.spend(node.span)
        match node:
            case tree.Number():
                return self._number(node)
            case tree.String(value=text):
                return known(Constant(text, "string"))
            case tree.Truth(value=truth):
                return known(Constant(truth, "bool"))
            case tree.Path():
                return self._path(node, allowed)
            case tree.ListOf(items=items):
                read = [self._item(item, allowed) for item in items]
                found = [item.constant for item in read if item is not None and item.constant is not None]
                return known(Constant(tuple(found), "names")) if len(found) == len(items) else None
            case tree.Unary():
                return self._unary(node, allowed)
            case tree.Binary():
                return self._binary(node, allowed)
            case tree.Member():
                return self._member(node, allowed)
            case tree.Call():
                if not self.names.scope.absorbs(node.path):
                    self.diagnostics.error(
                        "E302", f"`{node.path.text}(…)` is a call, and a value is expected", node.span, "not a value",
                        help="a model or data set is made by `model NAME = …` or `data NAME = …`",
                    )
        return None

    def _item(self, node: tree.Expression, allowed: Allowed) -> Typed | None:
        # A bare word in a list of names stands for itself, unless it is an input or a `let`.
        if (
            isinstance(node, tree.Path)
            and len(node.parts) == 1
            and not self.names.is_value(node)
        ):
            return known(Constant(node.text, "name"))
        return self.expression(node, allowed)

    def _number(self, node: tree.Number) -> Typed | None:
        constant = quantity(node.value, node.unit, node.whole)
        if constant is None:
            assert node.unit is not None
            alike = [unit for unit in UNITS if unit.lower() == node.unit.lower()]
            unit_span = Span(node.span.file, node.span.end - len(node.unit), node.span.end)
            # `Mb` may be a megabit.
            sure = len(alike) == 1 and not re.fullmatch(r"[A-Zk]b", node.unit)
            self.diagnostics.error(
                "E303", f"unknown unit `{node.unit}`", node.span, "not a unit of the language",
                help=f"did you mean `{alike[0]}`?"
                if alike
                else suggestion(node.unit, UNITS, f"units are {listed(UNITS, 20)}", UNIT_WORDS),
                fix=Fix(unit_span, alike[0]) if sure else None,
            )
            return None
        return known(constant)

    def _unary(self, node: tree.Unary, allowed: Allowed) -> Typed | None:
        operand = self.expression(node.operand, allowed)
        if operand is None:
            return None
        if node.operator == "not":
            if not self._truth(operand, node.operand):
                return None
            if operand.constant is not None:
                return known(Constant(not operand.constant.value, "bool"))
            return Typed(Unary(operator="not", operand=operand.expression), "bool")
        if operand.kind not in NUMERIC:
            self.mistyped(node.operand.span, f"`-` needs a number, and this is {SAID[operand.kind]}")
            return None
        if operand.constant is not None and isinstance(operand.constant.value, Decimal):
            return known(Constant(-operand.constant.value, operand.kind, operand.constant.whole))
        return Typed(Unary(operator="-", operand=operand.expression), operand.kind)

    def _truth(self, typed: Typed, node: tree.Expression) -> bool:
        if typed.kind == "bool":
            return True
        advice = None
        if typed.knob is not None:
            options = values_of(typed.knob.domain)
            shown = show(options[-1], typed.knob.dimension) if options else "…"
            advice = f"compare it with a value: `{text_of(node)} == {shown}`"
        self.mistyped(node.span, f"a condition is expected, and this is {SAID[typed.kind]}", help=advice)
        return False

    def condition(self, node: tree.Expression, allowed: Allowed) -> Expression | None:
        """A true-or-false expression; E302 where it is anything else."""
        typed = self.expression(node, allowed)
        return typed.expression if typed is not None and self._truth(typed, node) else None

    def _binary(self, node: tree.Binary, allowed: Allowed) -> Typed | None:
        operator = node.operator
        if operator in ("and", "or"):
            left, right = self.expression(node.left, allowed), self.expression(node.right, allowed)
            fine = [
                item is not None and self._truth(item, side) for item, side in ((left, node.left), (right, node.right))
            ]
            if left is None or right is None or not all(fine):
                return None
            for one, other in ((left, right), (right, left)):
                if one.constant is not None and (one.constant.value is (operator == "or")):
                    return one
                if one.constant is not None:
                    return other
            return Typed(Binary(operator=operator, left=left.expression, right=right.expression), "bool")
        left, right = self._sides(node.left, node.right, allowed)
        if left is None or right is None:
            return None
        if operator in ("==", "!=", "<=", ">=", "<", ">"):
            return self._comparison(node, left, right, allowed)
        return self._arithmetic(node, left, right)

    def _sides(
        self, left: tree.Expression, right: tree.Expression, allowed: Allowed
    ) -> tuple[Typed | None, Typed | None]:
        for one, other, turned in ((left, right, False), (right, left, True)):
            if not (
                allowed.knobs and isinstance(one, tree.Path) and isinstance(other, tree.Path) and len(other.parts) == 1
            ):
                continue
            if one.text in self.names.params:
                typed = self.expression(one, allowed)
                if typed is None:
                    # What the other word means depends on it.
                    return None, None
                knob = typed.knob
            elif self.names.is_value(one):
                continue
            else:
                knob = self.names.only_knob(one)
            if knob is None or knob.dimension != "name" or other.text == "none":
                continue
            typed, word = self.expression(one, allowed), self._word(other, knob, allowed)
            return (word, typed) if turned else (typed, word)
        return self.expression(left, allowed), self.expression(right, allowed)

    def _word(self, node: tree.Path, knob: KnobSymbol, allowed: Allowed) -> Typed | None:
        options = [str(value) for value in values_of(knob.domain) or ()]
        if node.text in options:
            self.names.refer_value(node, knob)
            return known(Constant(node.text, "name"))
        if self.names.is_value(node) or self.names.only_knob(node) is not None:
            return self.expression(node, allowed)
        if not knob.broken and not self.names.scope.absorbs(node):
            self.diagnostics.error(
                "E201", f"`{knob.path}` is never `{node.text}`", node.span, "not one of its values",
                labels=(Label(knob.span, "its values"),),
                help=suggestion(node.text, options, f"it is one of {listed(options)}", VALUES),
                fix=only(node.span, node.text, options),
            )
        return None

    def _comparison(self, node: tree.Binary, left: Typed, right: Typed, allowed: Allowed) -> Typed | None:
        order = node.operator not in ("==", "!=")
        kind = common(left.kind, right.kind)
        if "none" in (left.kind, right.kind):
            kind = right.kind if left.kind == "none" else left.kind
        if kind is None and {left.kind, right.kind} == {"name", "string"}:
            kind = "string"
        if kind is None:
            self._mismatch(node, left, right)
            return None
        if order and kind not in NUMERIC:
            self.mistyped(
                node.span, f"`{node.operator}` compares numbers, and these are {SAID[kind]}", help="use `==` or `!=`"
            )
            return None
        sides = [as_kind(item, kind) for item in (left, right)]
        compared = Binary(operator=node.operator, left=sides[0], right=sides[1])
        if left.constant is not None and right.constant is not None and (left.knob or right.knob):
            # A parameter that the study fixes decides it now.
            return known(Constant(holds(compared, Environment()), "bool"))
        if allowed.metrics:
            self.compared.append(Compared(node, compared))
        return Typed(compared, "bool")

    def _arithmetic(self, node: tree.Binary, left: Typed, right: Typed) -> Typed | None:
        for item, side in ((left, node.left), (right, node.right)):
            if item.kind not in NUMERIC:
                self.mistyped(side.span, f"`{node.operator}` needs numbers, and this is {SAID[item.kind]}")
                return None
        if node.operator in ("+", "-"):
            kind = common(left.kind, right.kind)
        else:
            kind = product(node.operator, left.kind, right.kind)
        if kind is None:
            self._mismatch(node, left, right)
            return None
        a, b = left.constant, right.constant
        if a is not None and b is not None and isinstance(a.value, Decimal) and isinstance(b.value, Decimal):
            return self._folded(node, a, b, kind)
        if node.operator == "/" and b is not None and b.value == 0:
            self.mistyped(node.span, _BY_ZERO)
            return None
        sides = [as_kind(item, item.kind) for item in (left, right)]
        return Typed(Binary(operator=node.operator, left=sides[0], right=sides[1]), kind)

    def _folded(self, node: tree.Binary, left: Constant, right: Constant, kind: Kind) -> Typed | None:
        a, b = left.value, right.value
        assert isinstance(a, Decimal)
        assert isinstance(b, Decimal)
        try:
            value = {"+": a.__add__, "-": a.__sub__, "*": a.__mul__, "/": a.__truediv__}[node.operator](b)
        except (DivisionByZero, InvalidOperation):
            self.mistyped(node.span, _BY_ZERO)
            return None
        if value and abs(value.adjusted()) > LARGEST_EXPONENT:
            self.mistyped(node.span, f"this is {value:.0e}, and numbers end at 1e{LARGEST_EXPONENT}")
            return None
        return known(Constant(value, kind, left.whole and right.whole and value == value.to_integral_value()))

    def _member(self, node: tree.Member, allowed: Allowed) -> Typed | None:
        value = self.expression(node.value, allowed)
        written = node.options.statements if isinstance(node.options, tree.Block) else node.options.items
        options: list[Scalar | None] = []
        failed = value is None
        for item in written:
            inner = item.value if isinstance(item, tree.Element) and item.block is None and item.when is None else item
            if isinstance(inner, tree.Fix | tree.Vary | tree.Element | tree.Maybe | tree.Repeat | tree.Guard):
                self.mistyped(item.span, "a value is expected")
                failed = True
                continue
            word = isinstance(inner, tree.Path) and inner.text != "none"
            if word and value is not None and value.knob is not None and value.kind == "name":
                assert isinstance(inner, tree.Path)
                option = self._word(inner, value.knob, allowed)
            else:
                option = self.expression(inner, allowed)
            if option is None or value is None:
                failed = True
                continue
            kind = common(value.kind, option.kind)
            if option.constant is None or (kind is None and option.kind != "none"):
                self.mistyped(inner.span, f"{SAID[value.kind]} is expected, and this is {SAID[option.kind]}")
                failed = True
                continue
            single = value_of(option.constant, kind or "none")
            assert not isinstance(single, tuple)
            options.append(single)
        if failed or value is None:
            return None
        return Typed(In(value=value.expression, options=tuple(options)), "bool")

    def mistyped(self, span: Span, message: str, help: str | None = None) -> None:
        self.diagnostics.error("E302", message, span, help=help)

    def _mismatch(self, node: tree.Binary, left: Typed, right: Typed) -> None:
        numeric = left.kind in NUMERIC and right.kind in NUMERIC
        advice = None
        if numeric and "ratio" in (left.kind, right.kind) and node.operator in ("+", "-"):
            base, part, shown = (left, right, node.left) if right.kind == "ratio" else (right, left, node.right)
            if part.constant is not None and isinstance(part.constant.value, Decimal) and base.constant is None:
                share = 1 - part.constant.value if node.operator == "-" else 1 + part.constant.value
                advice = f"a share of it is a product: `{share.normalize():f} * {text_of(shown)}`"
        elif numeric and "plain" in (left.kind, right.kind):
            other = right.kind if left.kind == "plain" else left.kind
            if other in ("time", "bytes"):
                advice = f"write the number with its unit: `{'2ms' if other == 'time' else '4MB'}`"
        self.diagnostics.error(
            "E301" if numeric else "E302", f"`{node.operator}` cannot join {SAID[left.kind]} and {SAID[right.kind]}",
            node.span, labels=(Label(node.left.span, SAID[left.kind]), Label(node.right.span, SAID[right.kind])),
            help=advice,
        )
