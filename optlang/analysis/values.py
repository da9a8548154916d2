"""Settings of the text → values of the plan, of the kind that the declaration asks for. Domains: domains.py."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from optlang.analysis.expressions import Expressions
from optlang.analysis.modules.names import listed, only, suggestion
from optlang.analysis.symbols import FIXED, Allowed, Namespace
from optlang.analysis.typed import Typed, text_of
from optlang.diagnostics.field_words import VALUES
from optlang.diagnostics.model import Diagnostics, Fix, Label, Span
from optlang.diagnostics.suggest import closest
from optlang.plan.domains import contains, show_domain, subset, values_of
from optlang.plan.expressions import Const, If, KnobRef, outcomes
from optlang.plan.model import Computed, Fixed, Param, Searched
from optlang.plan.units import NUMERIC, SAID, Constant, fits, plain, show, value_of
from optlang.syntax import tree


@dataclass(slots=True, eq=False)
class Values:
    """Reads the settings of one scope. What cannot be read is reported once, and None is returned for it."""

    expressions: Expressions

    @property
    def names(self) -> Namespace:
        """What can be named."""
        return self.expressions.names

    @property
    def diagnostics(self) -> Diagnostics:
        """Collects the problems."""
        return self.names.diagnostics

    def constant(self, node: tree.Domain, param: Param, allowed: Allowed = FIXED) -> Fixed | None:
        """A value that must be known now, for `param`; None where it is wrong."""
        setting = self.setting(node, param, allowed)
        return setting if isinstance(setting, Fixed) else None

    def setting(
        self, node: tree.Domain, param: Param, allowed: Allowed, sign: Span | None = None
    ) -> Fixed | Searched | Computed | None:
        """`name = node` for a declared parameter: its value, or the expression that gives it.

        `sign` is where `=` stands.
        """
        if isinstance(node, tree.Range | tree.Block | tree.AnyValue | tree.AnyOrder):
            self.diagnostics.error(
                "E302", f"`{param.name} =` fixes one value, and this is a domain", node.span, "a domain",
                help=f"`in` searches: `{param.name} in …`", fix=Fix(sign, "in") if sign is not None else None,
            )
            return None
        if isinstance(node, tree.Path):
            word = self._passed(node, param) if node.text in self.names.params else self._own_word(node, param)
            if word is not None:
                return word
            if self._is_wrong_word(node, param):
                return None
        typed = self.expressions.expression(node, allowed)
        if typed is None:
            return None
        if param.dimension == "names" and isinstance(node, tree.String):
            self._not_a_list(node.span, param, f"[{text_of(node)}]")
            return None
        if typed.kind == "none" and typed.constant is not None and param.default is None and not param.required:
            return Fixed(value=None)
        if not self.suits(node.span, typed, param):
            return None
        if typed.constant is not None:
            return self._fixed(node, typed.constant, param)
        if isinstance(typed.expression, If) and not self._outcomes_suit(node.span, typed.expression, param):
            return None
        return Computed(expression=typed.expression, dimension=param.dimension)

    def _fixed(self, node: tree.Expression, constant: Constant, param: Param) -> Fixed | None:
        if isinstance(constant.value, tuple) and any(isinstance(item.value, Decimal) for item in constant.value):
            self.expressions.mistyped(
                node.span, f"`{param.name}` is {SAID[param.dimension]}", help='write names or texts: ["head", "*.norm"]'
            )
            return None
        value = value_of(constant, param.dimension)
        if param.domain is not None and not contains(param.domain, value):
            self.diagnostics.error(
                "E406", f"`{param.name}` cannot be {show(value, param.dimension)}", node.span,
                "outside what is declared", help=declared_as(param, without_percent(node, param)),
                fix=_percent(node, param),
            )
            return None
        return Fixed(value=value)

    def _outcomes_suit(self, span: Span, expression: If, param: Param) -> bool:
        # A pipeline's parameter that is set under a condition: each of its values must be one of this parameter's.
        for outcome in outcomes(expression) if param.domain is not None else ():
            assert param.domain is not None
            wrong = ""
            if isinstance(outcome, Const) and not contains(param.domain, outcome.value):
                wrong = show(outcome.value, param.dimension)
            elif isinstance(outcome, KnobRef):
                knob = next(item for item in self.names.symbols.knobs if item.path == outcome.path)
                wrong = "" if subset(knob.domain, param.domain) else show_domain(knob.domain, knob.dimension)
            if wrong:
                self.diagnostics.error(
                    "E406", f"`{param.name}` is declared narrower than this", span,
                    f"{wrong} where its condition says so", help=declared_as(param),
                )
                return False
        return True

    def _passed(self, node: tree.Path, param: Param) -> Searched | None:
        """A pipeline's parameter that the study searches: the knob, wherever the pipeline passes it on as it is."""
        given = self.names.params[node.text]
        setting = given.setting()
        if not isinstance(setting, Searched) or setting.when is not None or given.param.dimension != param.dimension:
            return None
        self.names.find(node, FIXED)
        knob = next(item for item in self.names.symbols.knobs if item.path == setting.knob)
        if param.domain is not None and not subset(knob.domain, param.domain):
            self.diagnostics.error(
                "E406", f"`{param.name}` is declared narrower than this", node.span,
                f"{show_domain(knob.domain, knob.dimension)} here", labels=(Label(knob.span, "searched here"),),
                help=declared_as(param),
            )
        return setting

    def _own_word(self, node: tree.Path, param: Param) -> Fixed | None:
        own = param.dimension == "name" and len(node.parts) == 1
        return Fixed(value=node.text) if own and (param.domain is None or contains(param.domain, node.text)) else None

    def _is_wrong_word(self, node: tree.Path, param: Param) -> bool:
        """Whether a word is no value of the parameter and names nothing, which is then reported."""
        if param.dimension == "name" and self.is_plain_word(node):
            self.not_a_value(node, param)
            return True
        if param.dimension == "names" and self._names_nothing(node):
            self._not_a_list(node.span, param, f'["{node.text}"]')
            return True
        return False

    def is_plain_word(self, node: tree.Path) -> bool:
        """Whether a word names nothing."""
        return len(node.parts) == 1 and not self.names.is_value(node) and self.names.only_knob(node) is None

    def _names_nothing(self, node: tree.Path) -> bool:
        """Whether a path is neither a value nor a knob here, so that it is a layer's name without its quotes."""
        names = self.names
        if names.scope.absorbs(node) or node.text == "none" or names.peek(node) is not None:
            return False
        # A word that is near to a known name is probably that name.
        if closest(node.text, [*names.params, *names.inputs, *names.lets, *names.scope.names("let")]) is not None:
            return False
        return names.only_knob(node) is None and names.metric(node) is None

    def _not_a_list(self, span: Span, param: Param, written: str) -> None:
        self.diagnostics.error(
            "E302", f"`{param.name}` is a list of names, and this is one name", span, "not a list",
            help=f"write `{param.name} = {written}`", fix=Fix(span, written),
        )

    def not_a_value(self, node: tree.Path, param: Param) -> None:
        """E406: a word that is none of a parameter's."""
        if self.names.scope.absorbs(node):
            return
        options = [str(value) for value in values_of(param.domain) or ()] if param.domain is not None else []
        self.diagnostics.error(
            "E406", f"`{param.name}` cannot be `{node.text}`", node.span, "outside what is declared",
            help=suggestion(node.text, options, f"it is one of {listed(options)}", VALUES),
            fix=only(node.span, node.text, options),
        )

    def suits(self, span: Span, typed: Typed, param: Param) -> bool:
        """Whether an expression is of the parameter's kind; E301 or E302 where not."""
        if not fits(typed.kind, param.dimension):
            numeric = typed.kind in NUMERIC and param.dimension in NUMERIC
            advice = _example(param)
            self.diagnostics.error(
                "E301" if numeric else "E302",
                f"`{param.name}` is {SAID[param.dimension]}, and this is {SAID[typed.kind]}", span, SAID[typed.kind],
                help=advice,
            )
            return False
        constant = typed.constant
        if param.dimension != "count" or constant is None or not isinstance(constant.value, Decimal):
            return True
        nearest = constant.value.to_integral_value()
        if (constant.whole or constant.kind == "count") and constant.value == nearest:
            return True
        self.expressions.mistyped(span, f"`{param.name}` is a whole number", help=f"write `{nearest:f}`")
        return False


def declared_as(param: Param, bare: str | None = None) -> str:
    """What a parameter may be; `bare` is a number in it that was written without its `%`."""
    assert param.domain is not None
    declared = f"it is declared as {show_domain(param.domain, param.dimension)}"
    return f"did you mean `{bare}%`? {declared}" if bare is not None else declared


def without_percent(node: tree.Domain | tree.Statement, param: Param) -> str | None:
    """The first number from 1 to 100 among the values of a ratio that has no `%`."""
    match node:
        case tree.Number(value=value, unit=None) if param.dimension == "ratio" and 1 < value <= 100:
            return plain(value)
        case tree.Range(low=low, high=high):
            parts: Iterable[tree.Domain | tree.Statement] = (low, high)
        case tree.ListOf(items=items):
            parts = items
        case tree.Block(statements=statements):
            parts = elements_of(statements)
        case _:
            return None
    return next((found for part in parts if (found := without_percent(part, param)) is not None), None)


def _percent(node: tree.Domain, param: Param) -> Fix | None:
    """The fix of a single ratio without its `%`, where it is allowed with it."""
    bare = without_percent(node, param) if isinstance(node, tree.Number) else None
    if bare is None or param.domain is None or not contains(param.domain, float(Decimal(bare) / 100)):
        return None
    return Fix(node.span, f"{bare}%")


def elements_of(statements: tuple[tree.Statement, ...]) -> list[tree.Expression | tree.Statement]:
    """The members of a set, those without settings and conditions as expressions."""
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
