"""Calls that make a model or data: `model NAME = …`, `data NAME = …`, and settings that are models.

Which object makes it, with which arguments. A study's own model and data are fixed; a model that a setting names may
have knobs among its arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from optlang.analysis.definitions import Definition
from optlang.analysis.knobs import Around, Guard, Knobs, Later
from optlang.analysis.lower.calls import Call, CallReader, Where, nothing
from optlang.analysis.modules.names import Sort
from optlang.analysis.symbols import FIXED, Allowed, Namespace
from optlang.diagnostics.model import Diagnostics
from optlang.plan.model import FactoryUse, Fixed, Models, Param, Setting
from optlang.syntax import tree


@dataclass(slots=True, eq=False)
class Factories:
    """Reads calls of factories."""

    calls: CallReader
    own: Mapping[str, str] = field(default_factory=dict)
    """The names of the study's own model and data, with what makes them."""

    @property
    def knobs(self) -> Knobs:
        """Collects the knobs."""
        return self.calls.knobs

    @property
    def names(self) -> Namespace:
        """What can be named."""
        return self.knobs.names

    @property
    def diagnostics(self) -> Diagnostics:
        """Collects the problems."""
        return self.knobs.diagnostics

    def read(self, node: tree.Make) -> FactoryUse | None:
        """The factory of the study's model or data set."""
        if not isinstance(node.value, tree.Path | tree.Call):
            self.diagnostics.error(
                "E302", f"a {node.kind} is made by a call", node.value.span, "not a call",
                help=f"write `{node.kind} {node.name.text} = FACTORY(…)`",
            )
            return None
        return self._fixed(node.value, node.kind)

    def metric(self, node: tree.Metric) -> FactoryUse | None:
        """What makes the object that computes a metric: a class or function of Python."""
        value = node.value
        assert value is not None
        first = value.path if isinstance(value, tree.Call) else value
        if not isinstance(first, tree.Path) or first.parts[0].text not in self.names.scope.python:
            self.diagnostics.error(
                "E302", f"what computes `{node.path.text}` is made by a call of Python", value.span,
                "not a call of an imported module",
                help='write `import python "torchmetrics" as tm` and `= tm.F1Score(…)`; or let the task return it',
            )
            return None
        assert isinstance(value, tree.Path | tree.Call)
        return self._fixed(value, "metric")

    def _fixed(self, value: tree.Path | tree.Call, sort: Sort) -> FactoryUse | None:
        made = self.calls.make(value, Where(sort, None, FIXED))()
        if made is None:
            return None
        arguments = {name: item.value for name, item in made.arguments.items() if isinstance(item, Fixed)}
        return FactoryUse(
            name=made.name, calls=made.calls, arguments=arguments, weights=made.weights, weights_key=made.weights_key,
            weights_strict=made.weights_strict,
        )

    def setting(
        self, statement: tree.Fix, param: Param, around: Around, guards: tuple[Guard, ...]
    ) -> Later[Setting | None]:
        """`name = FACTORY(…)` for a parameter that is a model, or a list of them for one that is several."""
        if statement.block is not None:
            self.diagnostics.error(
                "E302", f"`{param.name}` is a model, and its arguments stand in parentheses", statement.block.span,
                "settings of what?", help=f"write `{param.name} = FACTORY(NAME = value)`",
            )
        value = self.names.unfold(statement.value)
        if isinstance(value, tree.Path) and value.text in self.names.params:
            return lambda: self._passed(value, param)
        if isinstance(value, tree.Path) and value.text == "none" and not param.required:
            return lambda: Fixed(value=None)
        several = param.dimension == "models"
        written = value.items if isinstance(value, tree.ListOf) and several else (value,)
        items = tuple(self.names.unfold(item) for item in written)
        where = Where("model", around.below(param.name), _allowed(param, around), guards)
        made: list[Call] = []
        counts: dict[str, int] = {}
        for item in items:
            if not isinstance(item, tree.Path | tree.Call) or getattr(item, "text", "") == "none":
                self._no_model(item, param)
                made.append(nothing)
            elif isinstance(item, tree.Path) and item.text in self.own:
                self._studys_own(item, param)
                made.append(nothing)
            else:
                listed = isinstance(value, tree.ListOf)
                made.append(self.calls.make(item, self._in_list(item, where, counts) if listed else where))
        if not items:
            self._no_model(value, param)

        def build() -> Setting | None:
            found = [use for use in (make() for make in made) if use is not None]
            if len(found) < len(made) or not found:
                return None
            return Models(models=tuple(found), several=several)

        return build

    def _in_list(self, item: tree.Path | tree.Call, where: Where, counts: dict[str, int]) -> Where:
        """The same for a model of a list: in paths of knobs it is called as its factory is, numbered if need be."""
        assert where.around is not None
        last = (item.path if isinstance(item, tree.Call) else item).parts[-1]
        counts[last.text] = number = counts.get(last.text, 0) + 1
        inside = where.around.below(f"{last.text}_{number}" if number > 1 else last.text)
        self.knobs.label(inside.path, Definition("word", last.text, last.span, fixed=True), where.around)
        return replace(where, around=inside)

    def _passed(self, node: tree.Path, param: Param) -> Setting | None:
        """What a parameter of the pipeline around is: a model, several or none."""
        self.names.find(node, FIXED)
        setting = self.names.params[node.text].setting()
        if isinstance(setting, Models) and (param.dimension == "models" or not setting.several):
            return setting.model_copy(update={"several": param.dimension == "models"})
        if setting == Fixed(value=None) and not param.required:
            return setting
        if setting is not None:
            self._no_model(node, param)
        return None

    def _studys_own(self, node: tree.Path, param: Param) -> None:
        """E302: the name that the study gives its model, which is no call."""
        call = f"{self.own[node.text]}(…)"
        written = f"[{call}]" if param.dimension == "models" else call
        without = param.help.partition("none: ")[2]
        self.diagnostics.error(
            "E302", f"`{node.text}` names the study's own model, and `{param.name}` is made by a call", node.span,
            "no call",
            help=f"write the call that makes it: `{param.name} = {written}`"
            + (f"; left out it is {without}" if without else ""),
        )

    def _no_model(self, node: tree.Domain, param: Param) -> None:
        several = param.dimension == "models"
        self.diagnostics.error(
            "E302", f"`{param.name}` is {'a list of models' if several else 'a model'}", node.span,
            "not made by a call", help=f"write `{param.name} = {'[FACTORY(…), …]' if several else 'FACTORY(…)'}`",
        )


def _allowed(param: Param, around: Around) -> Allowed:
    return FIXED if around.fixed is not None else Allowed(f"`{param.name}`", knobs=True, rounds=around.rounds)
