"""Domains of the text → domains of the plan: sets, lists and ranges, no wider than what is declared."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from optlang.analysis.expressions import Expressions
from optlang.analysis.symbols import FIXED, Namespace
from optlang.analysis.typed import Typed, known, text_of
from optlang.analysis.values import Values, declared_as, elements_of, without_percent
from optlang.diagnostics.model import Diagnostics, Fix, Label, Span
from optlang.diagnostics.suggest import slips
from optlang.plan.domains import contains, subset
from optlang.plan.expressions import Scalar
from optlang.plan.model import Domain, FloatDomain, IntDomain, ListDomain, Param, SetDomain
from optlang.plan.units import SAID, Constant, Kind, common, scalar, show
from optlang.syntax import tree


@dataclass(frozen=True, slots=True)
class Domains:
    """Reads the domains of one scope. What cannot be read is reported once, and None is returned for it."""

    values: Values

    @property
    def expressions(self) -> Expressions:
        """Reads the values."""
        return self.values.expressions

    @property
    def names(self) -> Namespace:
        """What can be named."""
        return self.expressions.names

    @property
    def diagnostics(self) -> Diagnostics:
        """Collects the problems."""
        return self.values.diagnostics

    def read(self, node: tree.Domain, param: Param, sign: Span | None = None) -> Domain | None:
        """What `param` may be by `in node`: E4xx where that is no domain, E406 where more than is declared.

        `sign` is where `in` stands.
        """
        node = self.names.unfold(node)
        found: Domain | None
        match node:
            case tree.AnyValue():
                if param.domain is None:
                    self.diagnostics.error(
                        "E302", f"`{param.name}` has no declared domain to search", node.span, "`any` of what?",
                        help=f"say which values: `{param.name} in {{…}}`",
                    )
                return param.domain
            case tree.Block(statements=statements):
                found = self._values(node.span, elements_of(statements), param, ordered=False)
            case tree.ListOf(items=items):
                found = self._values(node.span, items, param, ordered=True)
            case tree.Range():
                found = self._range(node, param)
            case tree.AnyOrder():
                advice = f"`{param.name} in {{…}}` lists values"
                self.expressions.mistyped(node.span, "only steps have an order", help=advice)
                return None
            case _:
                self._not_a_domain(node, param, sign)
                return None
        if found is not None and param.domain is not None and not subset(found, param.domain):
            self.diagnostics.error(
                "E406", f"`{param.name}` is declared narrower than this", node.span, "not a subset of what is declared",
                help=declared_as(param, without_percent(node, param)),
            )
            return None
        return found

    def _not_a_domain(self, node: tree.Expression, param: Param, sign: Span | None) -> None:
        if isinstance(node, tree.Path) and self.names.scope.absorbs(node):
            return
        misspelt = isinstance(node, tree.Path) and self._is_any(node, param)
        self.diagnostics.error(
            "E302", f"`{param.name} in` needs a domain, and this is a value", node.span, "one value",
            help="did you mean `any`?"
            if misspelt
            else f"`=` fixes it; `{param.name} in {{{text_of(node)}, …}}` searches among several",
            fix=Fix(sign, "=") if sign is not None and not misspelt else None,
        )

    def _is_any(self, node: tree.Path, param: Param) -> bool:
        """Whether a word that stands for a domain is `any` misspelt, and no value, `let` or `input`."""
        own = param.domain is not None and contains(param.domain, node.text)
        names = self.names
        named = node.text in names.inputs or node.text in names.lets
        return not own and not named and slips(node.text.lower(), "any") == 1

    def _values(
        self, span: Span, items: Iterable[tree.Expression | tree.Statement], param: Param, *, ordered: bool,
    ) -> Domain | None:
        read: list[tuple[Span, Constant]] = []
        failed = False
        for item in items:
            typed = self._value(item, param)
            if typed is None or typed.constant is None:
                failed = True
            else:
                read.append((item.span, typed.constant))
        if failed:
            return None
        if not read:
            self.diagnostics.error("E401", "an empty domain", span, "no value in it", help="list at least one value")
            return None
        if not self._alike(read) or not all(self.values.suits(at, known(item), param) for at, item in read):
            return None
        values: list[Scalar] = []
        seen: set[Scalar] = set()
        for at, constant in read:
            assert isinstance(constant.value, bool | Decimal | str)
            value = scalar(constant.value, param.dimension)
            if value in seen:
                self.diagnostics.error(
                    "E405", f"`{show(value, param.dimension)}` is listed twice", at, "the second time",
                    labels=(Label(read[values.index(value)][0], "the first time"),), help="take one away",
                )
                return None
            values.append(value)
            seen.add(value)
        return ListDomain(values=tuple(values)) if ordered else SetDomain(values=tuple(values))

    def _value(self, item: tree.Expression | tree.Statement, param: Param) -> Typed | None:
        if isinstance(item, tree.Fix | tree.Vary | tree.Element | tree.Maybe | tree.Repeat | tree.Guard):
            self.expressions.mistyped(item.span, "a value is expected", help="settings belong to steps and runtimes")
            return None
        bare = isinstance(item, tree.Path) and len(item.parts) == 1 and item.text not in self.names.params
        if bare and param.dimension == "name":
            assert isinstance(item, tree.Path)
            if param.domain is None or contains(param.domain, item.text):
                return known(Constant(item.text, "name"))
            if self.values.is_plain_word(item):
                self.values.not_a_value(item, param)
                return None
        typed = self.expressions.expression(item, FIXED)
        if typed is not None and typed.constant is None:
            self.expressions.mistyped(item.span, "a domain lists fixed values")
        if (
            typed is not None
            and typed.constant is not None
            and not isinstance(typed.constant.value, bool | Decimal | str)
        ):
            self.expressions.mistyped(
                item.span, f"`{param.name}` is {SAID[param.dimension]}, and this is {SAID[typed.kind]}"
            )
            return None
        return typed

    def _alike(self, read: list[tuple[Span, Constant]]) -> bool:
        kind: Kind = read[0][1].kind
        for at, item in read[1:]:
            joined = common(kind, item.kind)
            if joined is None and {kind, item.kind} == {"name", "string"}:
                joined = "string"
            if joined is None:
                self.diagnostics.error(
                    "E404",
                    f"{SAID[item.kind]} among {SAID[kind].removeprefix('a ')}s"
                    if kind != "bool"
                    else f"{SAID[item.kind]} among truths",
                    at, SAID[item.kind], labels=(Label(read[0][0], SAID[kind]),),
                    help="the values of one domain are of one kind",
                )
                return False
            kind = joined
        return True

    def _range(self, node: tree.Range, param: Param) -> Domain | None:
        constants = self._ends(node)
        if constants is None:
            return None
        joined = common(constants[0].kind, constants[1].kind)
        if joined is None or (len(constants) == 3 and common(joined, constants[2].kind) is None):
            kinds = [SAID[item.kind] for item in constants]
            self.diagnostics.error(
                "E404", f"a range of mixed kinds: {', '.join(kinds)}", node.span, "both ends are of one kind",
                help="write the unit at each number",
            )
            return None
        whole = param.dimension == "count"
        spans = (node.low.span, node.high.span, node.step.span if node.step is not None else node.span)
        if not all(self.values.suits(at, known(item), param) for at, item in zip(spans, constants, strict=False)):
            return None
        low, high = (item.value for item in constants[:2])
        assert isinstance(low, Decimal)
        assert isinstance(high, Decimal)
        if low > high:
            self.diagnostics.error(
                "E401", "this range is reversed", node.span, "ends before it begins",
                help=f"write `{text_of(node.high)} .. {text_of(node.low)}`",
            )
            return None
        if node.log and low <= 0:
            self.diagnostics.error(
                "E402", "a logarithmic range cannot reach 0", node.low.span, "must be above 0",
                help="begin above 0, or leave `log` away",
            )
            return None
        if node.step is not None:
            step = constants[2].value
            assert isinstance(step, Decimal)
            return self._stepped(node.step, low, high, step, param)
        if whole or (
            param.dimension == "bytes" and low == low.to_integral_value() and high == high.to_integral_value()
        ):
            return IntDomain(low=int(low), high=int(high), log=node.log)
        return FloatDomain(low=float(low), high=float(high), log=node.log)

    def _ends(self, node: tree.Range) -> list[Constant] | None:
        """The numbers of a range: its ends, and its step where it has one."""
        nodes = [item for item in (node.low, node.high, node.step) if item is not None]
        ends = [(item.span, self.expressions.expression(item, FIXED)) for item in nodes]
        if any(item is None for _, item in ends):
            return None
        constants: list[Constant] = []
        for at, item in ends:
            assert item is not None
            if item.constant is None or not isinstance(item.constant.value, Decimal):
                self.expressions.mistyped(
                    at, f"a range goes from a fixed number to another, and this is {SAID[item.kind]}"
                )
                return None
            constants.append(item.constant)
        return constants

    def _stepped(
        self, node: tree.Expression, low: Decimal, high: Decimal, step: Decimal, param: Param
    ) -> Domain | None:
        if step <= 0:
            self.diagnostics.error(
                "E403", "a step must be above 0", node.span, "never arrives", help="leave `step` away for all values"
            )
            return None
        count = (high - low) / step
        if count != count.to_integral_value():
            last = low + step * int(count)
            shown = show(scalar(last, param.dimension), param.dimension)
            self.diagnostics.error(
                "E403", "this step does not reach the end of the range", node.span, f"the last value would be {shown}",
                help=f"end at {shown}, or choose a step that fits",
            )
            return None
        if count > 100_000:
            self.diagnostics.error(
                "E403", "more than 100,000 values", node.span, "too small a step",
                help="choose a larger one, or leave `step` away for all values",
            )
            return None
        return ListDomain(values=tuple(scalar(low + step * index, param.dimension) for index in range(int(count) + 1)))
