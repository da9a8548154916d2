"""`input` and `--set`: what may be changed from outside, and the value that it has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from optlang.analysis.definitions import Symbols
from optlang.analysis.expressions import Expressions
from optlang.analysis.modules.names import Scope, listed, suggestion
from optlang.analysis.parameters import declare
from optlang.analysis.symbols import InputValue, Namespace
from optlang.analysis.typed import constant_of
from optlang.analysis.values import Values
from optlang.diagnostics.model import Diagnostics, Span
from optlang.plan.domains import contains, show_domain
from optlang.plan.expressions import Value
from optlang.plan.model import Input, Param
from optlang.plan.units import SAID
from optlang.syntax import tree
from optlang.syntax.parse import parse
from optlang.syntax.source import Source


@dataclass(slots=True, eq=False)
class Inputs:
    """Reads the inputs of a study, with the values that were given from outside."""

    values: Values
    texts: dict[str, str]
    overrides: Mapping[str, str]

    @property
    def names(self) -> Namespace:
        """What can be named."""
        return self.values.names

    @property
    def diagnostics(self) -> Diagnostics:
        """Collects the problems."""
        return self.names.diagnostics

    def read(self, nodes: list[tree.Input]) -> tuple[Input, ...]:
        """All inputs, in the order of the text; E201 for an override that names none of them."""
        found: list[Input] = []
        for node in nodes:
            made = self._input(node)
            if made is None:
                self.names.scope.break_name(node.name)
            elif node.name.text not in self.names.inputs:
                # Of two inputs with one name the first counts.
                bare = self._bare(node, self.overrides.get(made.name))
                self.names.inputs[made.name] = InputValue(constant_of(made.value, made.dimension), made.dimension, bare)
                found.append(made)
        self._unknown([node.name.text for node in nodes])
        return tuple(found)

    def _input(self, node: tree.Input) -> Input | None:
        """An input with its value; None where it has none, which is reported."""
        name = node.name.text
        if node.type.text in ("model", "models"):
            self.diagnostics.error(
                "E302", "an input is a value, and a model is made by a call", node.type.span, "no value",
                help="name it in the study, `let NAME = FACTORY(width = width)`, and let inputs be its arguments",
            )
            return None
        param = declare(self.values, node)
        if param is None:
            return None
        value: Value = param.default
        if name in self.overrides:
            value = self._override(param, self.overrides[name])
        elif param.required:
            self.diagnostics.error(
                "E107", f"the input `{name}` has no value", node.name.span, "neither a default nor `--set`",
                help=f"add a default, or give it one: `--set {name}=…`",
            )
            return None
        return Input(name=name, dimension=param.dimension, domain=param.domain, value=value, help=param.help)

    def _unknown(self, declared: list[str]) -> None:
        """E201: `--set` of what is no input."""
        for name, value_text in self.overrides.items():
            if name not in declared:
                file = f"--set {name}"
                self.texts[file] = f"{name}={value_text}"
                self.diagnostics.error(
                    "E201", f"the study has no input `{name}`", Span(file, 0, len(name)), "not an input",
                    help=suggestion(
                        name, declared, f"its inputs are {listed(declared)}" if declared else "it has none"
                    ),
                )

    @staticmethod
    def _bare(node: tree.Input, override: str | None) -> Span | None:
        """Where the input's value stands, if it is a number without a unit."""
        if override is not None:
            name = node.name.text
            start = len(name) + 1
            bare = re.fullmatch(r"\d+(\.\d+)?", override) is not None
            return Span(f"--set {name}", start, start + len(override)) if bare else None
        default = node.default
        return default.span if isinstance(default, tree.Number) and default.unit is None else None

    def _override(self, param: Param, text: str) -> Value:
        """The value of `--set NAME=text`; E304 where the input cannot have it, and then the default."""
        file = f"--set {param.name}"
        self.texts[file] = f"{param.name}={text}"
        span = Span(file, len(param.name) + 1, max(len(param.name) + 1 + len(text), len(param.name) + 2))
        reason, value = self._value(param, text)
        if reason is None and param.domain is not None and not contains(param.domain, value):
            reason = f"it is declared as {show_domain(param.domain, param.dimension)}"
            if param.dimension == "ratio" and re.fullmatch(r"\d+(\.\d+)?", text) and 1 < float(text) <= 100:
                reason = f"did you mean `--set {param.name}={text}%`? {reason}"
        if reason is None:
            return value
        self.diagnostics.error("E304", f"`{param.name}` cannot be set to `{text}`", span, "refused", help=reason)
        return param.default

    def _value(self, param: Param, text: str) -> tuple[str | None, Value]:
        if param.dimension == "string" and not text.startswith('"'):
            # A shell has taken the quotes away already.
            return None, text
        parsed = parse(Source(f"--set {param.name}", f"optlang 1\nlet value = {text}\n"))
        items = parsed.file.items if parsed.file is not None else ()
        if parsed.diagnostics.failed or len(items) != 1 or not isinstance(items[0], tree.Let) or "\n" in text:
            return "write the value as in a study: `5`, `30%`, `2ms`, `minmax`", None
        scope = Scope(self.names.scope.own, self.names.scope.library)
        ignored = Diagnostics(budget=self.diagnostics.budget)
        fixed = Values(Expressions(Namespace(ignored, scope, Symbols(scope.table)))).constant(
            items[0].value, param.model_copy(update={"domain": None}) if param.dimension != "name" else param
        )
        if fixed is None:
            reason = f"it is {SAID[param.dimension]}"
            if param.domain is not None:
                reason = f"it is declared as {show_domain(param.domain, param.dimension)}"
            return reason, None
        return None, fixed.value
