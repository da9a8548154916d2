"""Settings and domains of the text → values and domains of the plan, fit for what the declaration asks for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from optlang.analysis.expressions import Expressions, Typed, known, text_of
from optlang.analysis.modules.names import listed, only, suggestion
from optlang.analysis.symbols import FIXED, Given, Place
from optlang.diagnostics.field_words import VALUES
from optlang.diagnostics.model import Fix, Label, Span
from optlang.diagnostics.suggest import closest, slips
from optlang.plan.domains import contains, show_domain, subset, values_of
from optlang.plan.expressions import Const, If, KnobRef, Scalar, outcomes
from optlang.plan.model import Computed, Domain, Fixed, FloatDomain, IntDomain, ListDomain, Param, Searched, SetDomain
from optlang.plan.units import NUMERIC, SAID, Constant, Kind, common, fits, plain, scalar, show, value_of
from optlang.syntax import tree


@dataclass(slots=True, eq=False)
class Resolver(Expressions):
    """Reads settings and domains too. What it cannot read it reports once, and returns None."""

    def constant(self, node: tree.Domain, param: Param, place: Place = FIXED) -> Fixed | None:
        """A value that must be known now, for `param`; None where it is wrong."""
        setting = self.setting(node, param, place)
        return setting if isinstance(setting, Fixed) else None

    def setting(
        self, node: tree.Domain, param: Param, place: Place, sign: Span | None = None
    ) -> Fixed | Searched | Computed | None:
        """`name = node` for a declared parameter: its value, or the expression that gives it.

        `sign` is where `=` stands.
        """
        if isinstance(node, tree.Range | tree.Block | tree.AnyValue | tree.AnyOrder):
            self.diagnostics.error(
                "E302",
                f"`{param.name} =` fixes one value, and this is a domain",
                node.span,
                "a domain",
                help=f"`in` searches: `{param.name} in …`",
                fix=Fix(sign, "in") if sign is not None else None,
            )
            return None
        if isinstance(node, tree.Path) and node.text in self.params:
            passed = self._passed(node, self.params[node.text], param)
            if passed is not None:
                return passed
        elif isinstance(node, tree.Path) and len(node.parts) == 1 and self._own_word(node, param):
            return Fixed(value=node.text)
        if param.dimension == "name" and isinstance(node, tree.Path) and self._plain_word(node, place):
            self._not_a_value(node, param)
            return None
        if param.dimension == "names" and isinstance(node, tree.Path) and self._names_nothing(node, place):
            self._not_a_list(node.span, param, f'["{node.text}"]')
            return None
        typed = self.expression(node, place)
        if typed is None:
            return None
        if param.dimension == "names" and isinstance(node, tree.String):
            self._not_a_list(node.span, param, f"[{text_of(node)}]")
            return None
        if typed.kind == "none" and typed.constant is not None and param.default is None and not param.required:
            return Fixed(value=None)
        if not self._suits(node.span, typed, param):
            return None
        if typed.constant is None:
            if isinstance(typed.expression, If) and not self._outcomes_suit(node.span, typed.expression, param):
                return None
            return Computed(expression=typed.expression, dimension=param.dimension)
        if isinstance(typed.constant.value, tuple) and any(
            isinstance(item.value, Decimal) for item in typed.constant.value
        ):
            self._type(
                node.span, f"`{param.name}` is {SAID[param.dimension]}", help='write names or texts: ["head", "*.norm"]'
            )
            return None
        value = value_of(typed.constant, param.dimension)
        if param.domain is not None and not contains(param.domain, value):
            self.diagnostics.error(
                "E406",
                f"`{param.name}` cannot be {show(value, param.dimension)}",
                node.span,
                "outside what is declared",
                help=_allowed(param, _without_percent(node, param)),
                fix=_percent(node, param),
            )
            return None
        return Fixed(value=value)

    def _is_any(self, node: tree.Path, param: Param) -> bool:
        """Whether a word that stands for a domain is `any` misspelt, and no value, `let` or `input`."""
        own = param.domain is not None and contains(param.domain, node.text)
        named = node.text in self.inputs or node.text in self.lets
        return not own and not named and slips(node.text.lower(), "any") == 1

    def _outcomes_suit(self, span: Span, expression: If, param: Param) -> bool:
        # A pipeline's parameter that is set under a condition: each of its values must be one of this parameter's.
        for outcome in outcomes(expression) if param.domain is not None else ():
            assert param.domain is not None
            wrong = ""
            if isinstance(outcome, Const) and not contains(param.domain, outcome.value):
                wrong = show(outcome.value, param.dimension)
            elif isinstance(outcome, KnobRef):
                knob = next(item for item in self.knobs if item.path == outcome.path)
                wrong = "" if subset(knob.domain, param.domain) else show_domain(knob.domain, knob.dimension)
            if wrong:
                self.diagnostics.error(
                    "E406",
                    f"`{param.name}` is declared narrower than this",
                    span,
                    f"{wrong} where its condition says so",
                    help=f"it is declared as {show_domain(param.domain, param.dimension)}",
                )
                return False
        return True

    def _passed(self, node: tree.Path, given: Given, param: Param) -> Searched | None:
        # A pipeline's parameter that the study searches is the knob, wherever the pipeline hands it on as it is.
        setting = given.setting()
        if not isinstance(setting, Searched) or setting.when is not None or given.param.dimension != param.dimension:
            return None
        knob = next(item for item in self.knobs if item.path == setting.knob)
        if param.domain is not None and not subset(knob.domain, param.domain):
            self.diagnostics.error(
                "E406",
                f"`{param.name}` is declared narrower than this",
                node.span,
                f"{show_domain(knob.domain, knob.dimension)} here",
                labels=(Label(knob.span, "searched here"),),
                help=f"it is declared as {show_domain(param.domain, param.dimension)}",
            )
        return setting

    def _own_word(self, node: tree.Path, param: Param) -> bool:
        if param.dimension != "name":
            return False
        return param.domain is None or contains(param.domain, node.text)

    def _plain_word(self, node: tree.Path, place: Place) -> bool:
        return (
            node.text not in self.params
            and node.text not in self.inputs
            and self.let(node) is None
            and len(node.parts) == 1
            and self.knob(node, place, quiet=True) is None
        )

    def _names_nothing(self, node: tree.Path, place: Place) -> bool:
        """Whether a path is neither a value nor a knob here, so that it is a layer's name without its quotes."""
        if self.silent(node) or node.text == "none" or self.let(node) is not None:
            return False
        # What is near to a name that there is was to be that.
        if closest(node.text, [*self.params, *self.inputs, *self.lets, *self.scope.names("let")]) is not None:
            return False
        return self.knob(node, place, quiet=True) is None and self.metric(node) is None

    def _not_a_list(self, span: Span, param: Param, written: str) -> None:
        self.diagnostics.error(
            "E302", f"`{param.name}` is a list of names, and this is one name", span, "not a list",
            help=f"write `{param.name} = {written}`", fix=Fix(span, written),
        )

    def _not_a_value(self, node: tree.Path, param: Param) -> None:
        if self.silent(node):
            return
        options = [str(value) for value in values_of(param.domain) or ()] if param.domain is not None else []
        self.diagnostics.error(
            "E406",
            f"`{param.name}` cannot be `{node.text}`",
            node.span,
            "outside what is declared",
            help=suggestion(node.text, options, f"it is one of {listed(options)}", VALUES),
            fix=only(node.span, node.text, options),
        )

    def _suits(self, span: Span, typed: Typed, param: Param) -> bool:
        if not fits(typed.kind, param.dimension):
            numeric = typed.kind in NUMERIC and param.dimension in NUMERIC
            advice = _example(param)
            self.diagnostics.error(
                "E301" if numeric else "E302",
                f"`{param.name}` is {SAID[param.dimension]}, and this is {SAID[typed.kind]}",
                span,
                SAID[typed.kind],
                help=advice,
            )
            return False
        constant = typed.constant
        if param.dimension != "count" or constant is None or not isinstance(constant.value, Decimal):
            return True
        nearest = constant.value.to_integral_value()
        if (constant.whole or constant.kind == "count") and constant.value == nearest:
            return True
        self._type(span, f"`{param.name}` is a whole number", help=f"write `{nearest:f}`")
        return False

    def domain(
        self, node: tree.Domain, param: Param, place: Place = FIXED, sign: Span | None = None
    ) -> Domain | None:
        """What `param` may be by `in node`: E4xx where that is no domain, E406 where more than is declared.

        `sign` is where `in` stands.
        """
        node = self.unfold(node)
        found: Domain | None
        match node:
            case tree.AnyValue():
                if param.domain is None:
                    self.diagnostics.error(
                        "E302",
                        f"`{param.name}` has no declared domain to search",
                        node.span,
                        "`any` of what?",
                        help=f"say which values: `{param.name} in {{…}}`",
                    )
                return param.domain
            case tree.Block(statements=statements):
                found = self._values(node.span, _elements(statements), param, place, ordered=False)
            case tree.ListOf(items=items):
                found = self._values(node.span, items, param, place, ordered=True)
            case tree.Range():
                found = self._range(node, param, place)
            case tree.AnyOrder():
                self._type(node.span, "only steps have an order", help=f"`{param.name} in {{…}}` lists values")
                return None
            case _:
                if not (isinstance(node, tree.Path) and self.silent(node)):
                    misspelt = isinstance(node, tree.Path) and self._is_any(node, param)
                    self.diagnostics.error(
                        "E302",
                        f"`{param.name} in` needs a domain, and this is a value",
                        node.span,
                        "one value",
                        help="did you mean `any`?"
                        if misspelt
                        else f"`=` fixes it; `{param.name} in {{{text_of(node)}, …}}` searches among several",
                        fix=Fix(sign, "=") if sign is not None and not misspelt else None,
                    )
                return None
        if found is not None and param.domain is not None and not subset(found, param.domain):
            self.diagnostics.error(
                "E406",
                f"`{param.name}` is declared narrower than this",
                node.span,
                "not a subset of what is declared",
                help=_allowed(param, _without_percent(node, param)),
            )
            return None
        return found

    def _values(
        self,
        span: Span,
        items: Iterable[tree.Expression | tree.Statement],
        param: Param,
        place: Place,
        *,
        ordered: bool,
    ) -> Domain | None:
        read: list[tuple[Span, Constant]] = []
        failed = False
        for item in items:
            typed = self._value(item, param, place)
            if typed is None or typed.constant is None:
                failed = True
            else:
                read.append((item.span, typed.constant))
        if failed:
            return None
        if not read:
            self.diagnostics.error("E401", "an empty domain", span, "no value in it", help="list at least one value")
            return None
        if not self._alike(read) or not all(self._suits(at, known(item), param) for at, item in read):
            return None
        values: list[Scalar] = []
        seen: set[Scalar] = set()
        for at, constant in read:
            assert isinstance(constant.value, bool | Decimal | str)
            value = scalar(constant.value, param.dimension)
            if value in seen:
                self.diagnostics.error(
                    "E405",
                    f"`{show(value, param.dimension)}` is listed twice",
                    at,
                    "the second time",
                    labels=(Label(read[values.index(value)][0], "the first time"),),
                    help="take one away",
                )
                return None
            values.append(value)
            seen.add(value)
        return ListDomain(values=tuple(values)) if ordered else SetDomain(values=tuple(values))

    def _value(self, item: tree.Expression | tree.Statement, param: Param, place: Place) -> Typed | None:
        if isinstance(item, tree.Fix | tree.Vary | tree.Element | tree.Maybe | tree.Repeat | tree.Guard):
            self._type(item.span, "a value is expected", help="settings belong to steps and runtimes")
            return None
        bare = isinstance(item, tree.Path) and len(item.parts) == 1 and item.text not in self.params
        if bare and param.dimension == "name":
            assert isinstance(item, tree.Path)
            if param.domain is None or contains(param.domain, item.text):
                return known(Constant(item.text, "name"))
            if self._plain_word(item, place):
                self._not_a_value(item, param)
                return None
        typed = self.expression(item, place)
        if typed is not None and typed.constant is None:
            self._type(item.span, "a domain lists fixed values")
        if (
            typed is not None
            and typed.constant is not None
            and not isinstance(typed.constant.value, bool | Decimal | str)
        ):
            self._type(item.span, f"`{param.name}` is {SAID[param.dimension]}, and this is {SAID[typed.kind]}")
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
                    at,
                    SAID[item.kind],
                    labels=(Label(read[0][0], SAID[kind]),),
                    help="the values of one domain are of one kind",
                )
                return False
            kind = joined
        return True

    def _range(self, node: tree.Range, param: Param, place: Place) -> Domain | None:
        ends = [self.expression(item, place) for item in (node.low, node.high, node.step) if item is not None]
        if any(item is None for item in ends):
            return None
        constants: list[Constant] = []
        for item, at in zip(ends, (node.low, node.high, node.step), strict=False):
            assert item is not None
            assert at is not None
            if item.constant is None or not isinstance(item.constant.value, Decimal):
                self._type(at.span, f"a range goes from a fixed number to another, and this is {SAID[item.kind]}")
                return None
            constants.append(item.constant)
        joined = common(constants[0].kind, constants[1].kind)
        if joined is None or (len(constants) == 3 and common(joined, constants[2].kind) is None):
            kinds = [SAID[item.kind] for item in constants]
            self.diagnostics.error(
                "E404",
                f"a range of mixed kinds: {', '.join(kinds)}",
                node.span,
                "both ends are of one kind",
                help="write the unit at each number",
            )
            return None
        whole = param.dimension == "count"
        spans = (node.low.span, node.high.span, node.step.span if node.step is not None else node.span)
        if not all(self._suits(at, known(item), param) for at, item in zip(spans, constants, strict=False)):
            return None
        low, high = (item.value for item in constants[:2])
        assert isinstance(low, Decimal)
        assert isinstance(high, Decimal)
        if low > high:
            self.diagnostics.error(
                "E401",
                "this range is reversed",
                node.span,
                "ends before it begins",
                help=f"write `{text_of(node.high)} .. {text_of(node.low)}`",
            )
            return None
        if node.log and low <= 0:
            self.diagnostics.error(
                "E402",
                "a logarithmic range cannot reach 0",
                node.low.span,
                "must be above 0",
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
                "E403",
                "this step does not reach the end of the range",
                node.span,
                f"the last value would be {shown}",
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


def _allowed(param: Param, bare: str | None) -> str:
    """What a parameter may be; `bare` is a number in it that was written without its `%`."""
    assert param.domain is not None
    declared = f"it is declared as {show_domain(param.domain, param.dimension)}"
    return f"did you mean `{bare}%`? {declared}" if bare is not None else declared


def _without_percent(node: tree.Domain | tree.Statement, param: Param) -> str | None:
    """The first number from 1 to 100 among the values of a ratio that has no `%`."""
    match node:
        case tree.Number(value=value, unit=None) if param.dimension == "ratio" and 1 < value <= 100:
            return plain(value)
        case tree.Range(low=low, high=high):
            parts: Iterable[tree.Domain | tree.Statement] = (low, high)
        case tree.ListOf(items=items):
            parts = items
        case tree.Block(statements=statements):
            parts = _elements(statements)
        case _:
            return None
    return next((found for part in parts if (found := _without_percent(part, param)) is not None), None)


def _percent(node: tree.Domain, param: Param) -> Fix | None:
    """The fix of a single ratio without its `%`, where it is allowed with it."""
    bare = _without_percent(node, param) if isinstance(node, tree.Number) else None
    if bare is None or param.domain is None or not contains(param.domain, float(Decimal(bare) / 100)):
        return None
    return Fix(node.span, f"{bare}%")


def _elements(statements: tuple[tree.Statement, ...]) -> list[tree.Expression | tree.Statement]:
    return [
        item.value if isinstance(item, tree.Element) and item.block is None and item.when is None else item
        for item in statements
    ]


def _example(param: Param) -> str | None:
    if param.domain is not None:
        return f"it is declared as {show_domain(param.domain, param.dimension)}"
    return {"time": "write it with a unit: `10min`, `50ms`", "bytes": "write it with a unit: `4GiB`"}.get(
        param.dimension
    )
