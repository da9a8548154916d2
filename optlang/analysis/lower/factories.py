"""Calls that make a model or data: `model NAME = …`, `data NAME = …`, and settings that are models.

Which object makes it, with which arguments. A study's own model and data are fixed; a model that a setting names may
have knobs among its arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from optlang.analysis.knobs import Around, Guard, Knobs, Later
from optlang.analysis.modules.declarations import Facts
from optlang.analysis.modules.names import (
    SORTS,
    Declared,
    PythonModule,
    Scope,
    Sort,
    duplicate,
    listed,
    only,
    suggestion,
)
from optlang.analysis.modules.python_files import find_object, inside
from optlang.analysis.symbols import FIXED, Place
from optlang.analysis.values import Resolver
from optlang.diagnostics.field_words import SETTINGS
from optlang.diagnostics.model import Diagnostics, Span
from optlang.interfaces import WEIGHTS_FORMS, WEIGHTS_SUFFIXES
from optlang.plan.model import Computed, Dimension, FactoryUse, Fixed, Models, ModelUse, Param, Plain, Searched, Setting
from optlang.plan.units import Kind, value_of
from optlang.syntax import tree
from optlang.workload.sources import exists

WEIGHTS = Param(name="weights", dimension="string", domain=None, required=True)

Given: TypeAlias = "dict[str, tree.Fix | tree.Vary]"
Call: TypeAlias = "Later[ModelUse | None]"

_FREE: dict[Kind, Dimension] = {"plain": "number", "none": "string"}
"""What an argument of the user's own Python is, where the value's kind is no dimension."""


@dataclass(frozen=True, slots=True)
class _Where:
    """Where a call stands: what kind of thing it makes, what is around its knobs, and what its values may name.

    `around` is None in a study's own `model` and `data`, which have no knobs.
    """

    sort: Sort
    around: Around | None
    place: Place
    guards: tuple[Guard, ...] = ()


@dataclass(slots=True, eq=False)
class Factories:
    """Reads calls of factories."""

    knobs: Knobs
    facts: Facts
    scope: Scope
    folder: Path
    own: Mapping[str, str] = field(default_factory=dict)
    """The names of the study's own model and data, with what makes them."""

    @property
    def resolver(self) -> Resolver:
        """Reads expressions and domains."""
        return self.knobs.resolver

    @property
    def diagnostics(self) -> Diagnostics:
        """Where problems go."""
        return self.knobs.diagnostics

    def read(self, node: tree.Make) -> FactoryUse | None:
        """The factory of the study's model or data set."""
        if not isinstance(node.value, tree.Path | tree.Call):
            self.diagnostics.error(
                "E302",
                f"a {node.kind} is made by a call",
                node.value.span,
                "not a call",
                help=f"write `{node.kind} {node.name.text} = FACTORY(…)`",
            )
            return None
        made = self._call(node.value, _Where(node.kind, None, FIXED))()
        if made is None:
            return None
        arguments = {name: item.value for name, item in made.arguments.items() if isinstance(item, Fixed)}
        return FactoryUse(name=made.name, calls=made.calls, arguments=arguments, weights=made.weights)

    def setting(
        self, statement: tree.Fix, param: Param, around: Around, guards: tuple[Guard, ...]
    ) -> Later[Setting | None]:
        """`name = FACTORY(…)` for a parameter that is a model, or a list of them for one that is several."""
        if statement.block is not None:
            self.diagnostics.error(
                "E302",
                f"`{param.name}` is a model, and its arguments stand in parentheses",
                statement.block.span,
                "settings of what?",
                help=f"write `{param.name} = FACTORY(NAME = value)`",
            )
        value = self.resolver.unfold(statement.value)
        if isinstance(value, tree.Path) and value.text in self.resolver.params:
            return lambda: self._passed(value, param)
        if isinstance(value, tree.Path) and value.text == "none" and not param.required:
            return lambda: Fixed(value=None)
        several = param.dimension == "models"
        written = value.items if isinstance(value, tree.ListOf) and several else (value,)
        items = tuple(self.resolver.unfold(item) for item in written)
        inside = around.below(param.name)
        place = FIXED if around.fixed is not None else Place(f"`{param.name}`", knobs=True, rounds=around.rounds)
        made: list[Call] = []
        counts: dict[str, int] = {}
        for item in items:
            if not isinstance(item, tree.Path | tree.Call) or getattr(item, "text", "") == "none":
                self._no_model(item, param)
                made.append(_nothing)
                continue
            if isinstance(item, tree.Path) and item.text in self.own:
                self._studys_own(item, param)
                made.append(_nothing)
                continue
            where = _Where("model", inside, place, guards)
            if isinstance(value, tree.ListOf):
                # In the paths of knobs each model of a list has a name of its own: its factory's, numbered if need be.
                name = (item.path if isinstance(item, tree.Call) else item).parts[-1].text
                counts[name] = counts.get(name, 0) + 1
                where = replace(where, around=inside.below(f"{name}_{counts[name]}" if counts[name] > 1 else name))
            made.append(self._call(item, where))
        if not items:
            self._no_model(value, param)

        def build() -> Setting | None:
            found = [use for use in (make() for make in made) if use is not None]
            if len(found) < len(made) or not found:
                return None
            return Models(models=tuple(found), several=several)

        return build

    def _passed(self, node: tree.Path, param: Param) -> Setting | None:
        """What a parameter of the pipeline around is: a model, several or none."""
        setting = self.resolver.params[node.text].setting()
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
            "E302",
            f"`{param.name}` is {'a list of models' if several else 'a model'}",
            node.span,
            "not made by a call",
            help=f"write `{param.name} = {'[FACTORY(…), …]' if several else 'FACTORY(…)'}`",
        )

    # ---- one call

    def _call(self, value: tree.Path | tree.Call, where: _Where) -> Call:
        path = value if isinstance(value, tree.Path) else value.path
        given = self._arguments(value.arguments if isinstance(value, tree.Call) else (), where)
        weights = self._weights(where, given)
        module = self.scope.python.get(path.parts[0].text)
        if module is not None and len(path.parts) == 2:
            self.scope.used.add(module.alias)
            return self._python(path, module, given, weights, value.span, where)
        declared = self.scope.find(path)
        if declared is not None and declared.sort == where.sort:
            return self._declared(path, declared, given, weights, where)
        self._read_all(given)
        if declared is not None:
            self.diagnostics.error(
                "E201", f"`{path.text}` is {SORTS[declared.sort]}, and {SORTS[where.sort]} is expected", path.span
            )
        elif not self.scope.silent(path):
            self.scope.missed(path.text, [*self.scope.names(where.sort), *self.scope.python, *self.resolver.lets])
            self.diagnostics.error(
                "E201",
                f"unknown {where.sort} `{path.text}`",
                path.span,
                "not declared in this study or the standard library",
                fix=only(path.span, path.text, self.scope.names(where.sort)),
                help=suggestion(
                    path.text,
                    self.scope.names(where.sort),
                    'a function of your own: `import python "models.py" as mine`',
                ),
            )
        return _nothing

    def _arguments(self, arguments: tuple[tree.Expression | tree.Fix | tree.Vary, ...], where: _Where) -> Given:
        found: Given = {}
        for item in arguments:
            if isinstance(item, tree.Vary) and where.around is None:
                self.scope.unknown.add(item.name.text)
                self.diagnostics.error(
                    "E206",
                    "a model and its data have no knobs",
                    item.span,
                    "a knob",
                    help="fix it with `=`; what is searched stands in `steps` and in a target",
                )
                found.setdefault(item.name.text, tree.Fix(item.span, item.name, tree.Truth(item.span, False)))
            elif not isinstance(item, tree.Fix | tree.Vary):
                self.diagnostics.error(
                    "E302", "an argument has a name", item.span, "which argument?", help="write `NAME = value`"
                )
            elif item.name.text in found:
                duplicate(self.diagnostics, item.name.text, item.name.span, found[item.name.text].name.span, "keep one")
            else:
                found[item.name.text] = item
        return found

    def _weights(self, where: _Where, given: Given) -> str | None:
        if where.sort != "model" or "weights" not in given:
            return None
        written = given.pop("weights")
        if isinstance(written, tree.Vary):
            self.diagnostics.error(
                "E302", "`weights` cannot be searched", written.span, "a knob", help="fix it with `=`: one file"
            )
            return None
        fixed = self.resolver.constant(written.value, WEIGHTS, FIXED)
        if fixed is None or not isinstance(fixed.value, str):
            return None
        place = inside(self.folder, fixed.value)
        if place is None:
            self.diagnostics.error(
                "E203",
                f"`{fixed.value}` lies outside the study's folder",
                written.value.span,
                "not read",
                help="copy the file beside the study",
            )
        elif not exists(place):
            files = [item.name for item in _beside(place) if item.suffix in WEIGHTS_SUFFIXES]
            self.diagnostics.error(
                "E203",
                f"there is no file `{fixed.value}` in the study's folder",
                written.value.span,
                "not found",
                help=suggestion(Path(fixed.value).name, files, f"name {WEIGHTS_FORMS}"),
            )
        return fixed.value

    def _read_all(self, given: Given) -> None:
        # The arguments of something unknown are still read: they use inputs, and may be wrong themselves.
        for item in given.values():
            if isinstance(item, tree.Vary):
                self.scope.unknown.add(item.name.text)
            elif not isinstance(item.value, tree.Path):
                self._plain(item, FIXED)
            elif item.value.text in self.resolver.inputs or item.value.text in self.resolver.lets:
                self.resolver.used.add(item.value.text)

    def _searched(self, item: tree.Vary, param: Param, where: _Where) -> Later[Plain | None]:
        assert where.around is not None
        path = where.around.at(item.name.text)
        domain = self.resolver.domain(item.domain, param)
        if domain is None:
            self.scope.unknown.add(item.name.text)
            return _nothing
        added = self.knobs.add(
            path, "value", domain, param.dimension, item.name.span, where.around, param.help, *where.guards
        )
        return (lambda: Searched(knob=path)) if added else _nothing

    def _declared(
        self, path: tree.Path, declared: Declared, given: Given, weights: str | None, where: _Where
    ) -> Call:
        maker = self.facts.maker(declared)
        params = {param.name: param for param in maker.params}
        arguments: dict[str, Later[Plain | None]] = {}
        for name, item in given.items():
            param = params.get(name)
            if param is None and declared.incomplete:
                continue
            if param is None:
                self.diagnostics.error(
                    "E205",
                    f"`{path.text}` has no parameter `{name}`",
                    item.name.span,
                    "not declared",
                    fix=only(item.name.span, name, params),
                    help=suggestion(name, params, f"it has {listed(params)}" if params else "it has none", SETTINGS),
                )
                continue
            if isinstance(item, tree.Vary):
                arguments[name] = self._searched(item, param, where)
            elif item.span != item.value.span:
                arguments[name] = self._fixed(item.value, param, where)
        for param in maker.params:
            if param.name in given:
                continue
            if param.required:
                self.diagnostics.error(
                    "E205",
                    f"`{path.text}` needs `{param.name}`",
                    path.span,
                    "not given",
                    help=f"add `{param.name} = …`",
                )
            arguments[param.name] = lambda value=param.default: Fixed(value=value)  # type: ignore[misc]
        ordered = {param.name: arguments[param.name] for param in maker.params if param.name in arguments}
        return _use(path.text, maker.calls, ordered, weights)

    def _fixed(self, value: tree.Domain, param: Param, where: _Where) -> Later[Plain | None]:
        def build() -> Plain | None:
            setting = self.resolver.setting(value, param, where.place)
            assert not isinstance(setting, Models)
            return setting

        return build

    def _python(
        self, path: tree.Path, module: PythonModule, given: Given, weights: str | None, span: Span, where: _Where
    ) -> Call:
        name = path.parts[1]
        arguments: dict[str, Later[Plain | None]] = {}
        for key, item in given.items():
            if isinstance(item, tree.Vary):
                arguments[key] = self._searched(item, self._free(item), where)
            else:
                arguments[key] = lambda item=item: self._plain(item, where.place)  # type: ignore[misc]
        if module.text is None:
            return _nothing
        found, signature = find_object(self.diagnostics, module.text, module.calls, name.text, name.span)
        if not found:
            return _nothing
        if signature is not None:
            for key, item in given.items():
                if key not in signature.arguments and not signature.open:
                    known = signature.arguments
                    self.diagnostics.error(
                        "E702",
                        f"`{name.text}` has no argument `{key}`",
                        item.name.span,
                        "not one of its arguments",
                        fix=only(item.name.span, key, known),
                        help=suggestion(
                            key, known, f"it takes {listed(known)}" if known else "it takes none", SETTINGS
                        ),
                    )
            for key in signature.required:
                if key not in given and not (weights is not None and key == "weights"):
                    self.diagnostics.error(
                        "E702",
                        f"`{name.text}` needs the argument `{key}`",
                        span,
                        "not given",
                        help=f"add `{key} = …`, or give it a default in {module.calls}",
                    )
        return _use(path.text, f"{module.calls}:{name.text}", arguments, weights)

    def _plain(self, item: tree.Fix, place: Place) -> Plain | None:
        value = item.value
        if isinstance(value, tree.Range | tree.Block | tree.AnyValue | tree.AnyOrder):
            self.diagnostics.error(
                "E302",
                f"`{item.name.text} =` fixes one value, and this is a domain",
                value.span,
                "a domain",
                help="write one value",
            )
            return None
        typed = self.resolver.expression(value, place)
        if typed is None:
            return None
        if typed.constant is not None:
            return Fixed(value=value_of(typed.constant, typed.kind))
        return Computed(expression=typed.expression, dimension=_dimension(typed.kind))

    def _free(self, item: tree.Vary) -> Param:
        """What an argument of the user's own function is: its literals say it."""
        domain = self.resolver.unfold(item.domain)
        first: tree.Domain | tree.Statement | None = domain
        match domain:
            case tree.Range(low=low):
                first = low
            case tree.ListOf(items=items):
                first = next(iter(items), None)
            case tree.Block(statements=statements):
                first = next((one.value for one in statements if isinstance(one, tree.Element)), None)
        dimension: Dimension = "number"
        match first:
            case tree.Path(parts=(_,)) if first.text not in self.resolver.inputs and self.resolver.let(first) is None:
                dimension = "name"
            case tree.Range() | tree.Block() | tree.AnyValue() | tree.AnyOrder() | None:
                pass
            case tree.Number() | tree.String() | tree.Truth() | tree.Path() | tree.Unary() | tree.Binary():
                typed = self.resolver.expression(first, FIXED)
                if typed is not None:
                    whole = typed.constant is not None and typed.constant.whole
                    dimension = "count" if typed.kind == "plain" and whole else _dimension(typed.kind)
        # `1 .. 2.5` begins with a whole number and is none.
        if dimension == "count" and not self._whole(domain):
            dimension = "number"
        return Param(name=item.name.text, dimension=dimension, domain=None, required=True)

    def _whole(self, domain: tree.Domain) -> bool:
        match domain:
            case tree.Range(low=low, high=high, step=step):
                parts: list[tree.Domain | tree.Statement] = [low, high, *([step] if step is not None else [])]
            case tree.ListOf(items=items):
                parts = list(items)
            case tree.Block(statements=statements):
                parts = [one.value if isinstance(one, tree.Element) else one for one in statements]
            case _:
                return True
        return all(item.whole for item in parts if isinstance(item, tree.Number))


def _beside(place: Path) -> list[Path]:
    """The files of the folder where a file was to be."""
    try:
        return sorted(place.parent.iterdir())
    except OSError:
        return []


def _dimension(kind: Kind) -> Dimension:
    found = _FREE.get(kind, kind)
    assert found != "plain"
    assert found != "none"
    return found


def _use(name: str, calls: str, arguments: dict[str, Later[Plain | None]], weights: str | None) -> Call:
    def build() -> ModelUse | None:
        found = {key: value for key, make in arguments.items() if (value := make()) is not None}
        return ModelUse(name=name, calls=calls, arguments=found, weights=weights)

    return build


def _nothing() -> None:
    return None


