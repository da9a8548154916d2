"""One call that makes a model or data: which object makes it, with which arguments."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from optlang.analysis.declarations import Declarations
from optlang.analysis.definitions import Definition
from optlang.analysis.knobs import Around, Guard, Knobs, Later
from optlang.analysis.modules.names import (
    SORTS,
    Declared,
    PythonModule,
    Scope,
    Sort,
    definitions_of,
    duplicate,
    listed,
    only,
    suggestion,
)
from optlang.analysis.modules.python_files import Signature, find_object, inside
from optlang.analysis.symbols import FIXED, Allowed, Namespace
from optlang.diagnostics.field_words import SETTINGS
from optlang.diagnostics.model import Diagnostics, Span
from optlang.interfaces import WEIGHTS_FORMS, WEIGHTS_SUFFIXES
from optlang.plan.expressions import Value
from optlang.plan.model import Computed, Dimension, Fixed, Models, ModelUse, Param, Plain, Searched
from optlang.plan.units import Kind, value_of
from optlang.syntax import tree
from optlang.workload.sources import exists

WEIGHTS = Param(
    name="weights", dimension="string", domain=None, required=True, help="a file of weights, which optlang reads"
)
WEIGHTS_KEY = Param(
    name="weights_key", dimension="string", domain=None, required=True,
    help="the part of the file that holds the weights, or what their names begin with",
)
WEIGHTS_STRICT = Param(
    name="weights_strict", dimension="bool", domain=None, required=True,
    help="false: load what fits the model, and list what does not",
)
WEIGHTS_PARAMS = (WEIGHTS, WEIGHTS_KEY, WEIGHTS_STRICT)

Arguments: TypeAlias = "dict[str, tree.Fix | tree.Vary]"
Call: TypeAlias = "Later[ModelUse | None]"

_FIXED: dict[str, str] = {
    "model": "a model and its data have", "data": "a model and its data have", "metric": "a metric has"
}

_FREE: dict[Kind, Dimension] = {"plain": "number", "none": "string"}
"""What an argument of the user's own Python is, where the value's kind is no dimension."""


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights that optlang loads into a model: none where `file` is None."""

    file: str | None = None
    key: str | None = None
    strict: bool = True


@dataclass(frozen=True, slots=True)
class Where:
    """Where a call stands: what kind of thing it makes, what is around its knobs, and what its values may name.

    `around` is None in a study's own `model`, `data` and metrics, which have no knobs.
    """

    sort: Sort
    around: Around | None
    allowed: Allowed
    guards: tuple[Guard, ...] = ()


@dataclass(slots=True, eq=False)
class CallReader:
    """Reads calls."""

    knobs: Knobs
    declarations: Declarations
    folder: Path

    @property
    def names(self) -> Namespace:
        """What can be named."""
        return self.knobs.names

    @property
    def scope(self) -> Scope:
        """What is declared and imported."""
        return self.names.scope

    @property
    def diagnostics(self) -> Diagnostics:
        """Collects the problems."""
        return self.knobs.diagnostics

    def make(self, value: tree.Path | tree.Call, where: Where) -> Call:
        path = value if isinstance(value, tree.Path) else value.path
        given = self._arguments(value.arguments if isinstance(value, tree.Call) else (), where)
        weights = self._weights(where, given)
        module = self.scope.python.get(path.parts[0].text)
        if module is not None and len(path.parts) == 2:
            self.scope.table.refer(path.parts[0].span, self.scope.imports[module.alias])
            return self._python(path, module, given, weights, value.span, where)
        declared = self.scope.find(path)
        if declared is not None and declared.sort == where.sort:
            return self._declared(path, declared, given, weights, where)
        self._read_all(given)
        if declared is not None:
            self.diagnostics.error(
                "E201", f"`{path.text}` is {SORTS[declared.sort]}, and {SORTS[where.sort]} is expected", path.span
            )
        elif not self.scope.absorbs(path):
            self.scope.missed(path, [*self.scope.names(where.sort), *self.scope.python, *self.names.lets])
            self.diagnostics.error(
                "E201", f"unknown {where.sort} `{path.text}`", path.span,
                "not declared in this study or the standard library",
                fix=only(path.span, path.text, self.scope.names(where.sort)),
                help=suggestion(
                    path.text,
                    self.scope.names(where.sort),
                    'a function of your own: `import python "models.py" as mine`',
                ),
            )
        return nothing

    def _arguments(self, arguments: tuple[tree.Expression | tree.Fix | tree.Vary, ...], where: Where) -> Arguments:
        found: Arguments = {}
        for item in arguments:
            if isinstance(item, tree.Vary) and where.around is None:
                self.scope.break_name(item.name)
                self.diagnostics.error(
                    "E206", f"{_FIXED[where.sort]} no knobs", item.span, "a knob",
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

    def _weights(self, where: Where, given: Arguments) -> Weights:
        """What is loaded into the model, taken out of `given`. Without a file the others are the factory's own."""
        if where.sort != "model" or "weights" not in given:
            return Weights()
        written = given["weights"].value if isinstance(given["weights"], tree.Fix) else None
        file, key, strict = (
            self._constant(given.pop(param.name), param) if param.name in given else None for param in WEIGHTS_PARAMS
        )
        if not isinstance(file, str):
            return Weights()
        assert written is not None
        found = inside(self.folder, file)
        if found is None:
            self.diagnostics.error(
                "E203", f"`{file}` lies outside the study's folder", written.span, "not read",
                help="copy the file into the study's folder",
            )
        elif not exists(found):
            files = [item.name for item in _next_to(found) if item.name.endswith(WEIGHTS_SUFFIXES)]
            self.diagnostics.error(
                "E203", f"there is no file `{file}` in the study's folder", written.span, "not found",
                help=suggestion(Path(file).name, files, f"name {WEIGHTS_FORMS}"),
            )
        return Weights(file, str(key) if key is not None else None, strict is not False)

    def _constant(self, written: tree.Fix | tree.Vary, param: Param) -> Value:
        if isinstance(written, tree.Vary):
            self.diagnostics.error(
                "E302", f"`{param.name}` cannot be searched", written.span, "a knob", help="fix it with `=`"
            )
            return None
        if written.span == written.value.span:   # stands for a knob that is refused already
            return None
        fixed = self.knobs.values.constant(written.value, param, FIXED)
        return fixed.value if fixed is not None else None

    def _read_all(self, given: Arguments) -> None:
        # The arguments of something unknown are still read: they use inputs, and may be wrong themselves.
        for item in given.values():
            if isinstance(item, tree.Vary):
                self.scope.break_name(item.name)
            elif not isinstance(item.value, tree.Path):
                self._plain(item, FIXED)
            elif self.names.is_value(item.value):
                self.names.find(item.value, FIXED)

    def _searched(self, item: tree.Vary, param: Param, where: Where) -> Later[Plain | None]:
        assert where.around is not None
        path = where.around.at(item.name.text)
        domain = self.knobs.domain(item.domain, param)
        definition = Definition("setting", item.name.text, item.name.span, fixed=True)
        self.knobs.label(path, definition, where.around)
        added = self.knobs.add(path, "value", domain, param, item.name.span, where.around, *where.guards)
        return (lambda: Searched(knob=path)) if added else nothing

    def _declared(
        self, path: tree.Path, declared: Declared, given: Arguments, weights: Weights, where: Where
    ) -> Call:
        maker = self.declarations.maker(declared)
        params = {param.name: param for param in maker.params}
        definitions = definitions_of(declared)
        arguments: dict[str, Later[Plain | None]] = {}
        for name, item in given.items():
            param = params.get(name)
            self.scope.table.refer(item.name.span, definitions.get(name))
            if param is None and declared.incomplete:
                continue
            if param is None:
                self.diagnostics.error(
                    "E205", f"`{path.text}` has no parameter `{name}`", item.name.span, "not declared",
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
                    "E205", f"`{path.text}` needs `{param.name}`", path.span, "not given",
                    help=f"add `{param.name} = …`",
                )
            arguments[param.name] = partial(Fixed, value=param.default)
        ordered = {param.name: arguments[param.name] for param in maker.params if param.name in arguments}
        return _use(path.text, maker.calls, ordered, weights)

    def _fixed(self, value: tree.Domain, param: Param, where: Where) -> Later[Plain | None]:
        def build() -> Plain | None:
            setting = self.knobs.values.setting(value, param, where.allowed)
            assert not isinstance(setting, Models)
            return setting

        return build

    def _python(
        self, path: tree.Path, module: PythonModule, given: Arguments, weights: Weights, span: Span, where: Where
    ) -> Call:
        name = path.parts[1]
        arguments: dict[str, Later[Plain | None]] = {}
        for key, item in given.items():
            if isinstance(item, tree.Vary):
                arguments[key] = self._searched(item, self._free(item), where)
            else:
                arguments[key] = partial(self._plain, item, where.allowed)
        if module.text is None:
            return nothing
        found, signature = find_object(self.diagnostics, module.text, module.calls, name.text, name.span)
        if not found:
            return nothing
        if signature is not None:
            self._fits(name.text, module, signature, given, span, read=weights.file is not None)
        return _use(path.text, f"{module.calls}:{name.text}", arguments, weights)

    def _fits(
        self, name: str, module: PythonModule, signature: Signature, given: Arguments, span: Span, *, read: bool
    ) -> None:
        """E702 for what a Python function does not take, or needs; `read` says that optlang reads its weights."""
        for key, item in given.items():
            if key not in signature.arguments and not signature.open:
                known = signature.arguments
                self.diagnostics.error(
                    "E702", f"`{name}` has no argument `{key}`", item.name.span, "not one of its arguments",
                    fix=only(item.name.span, key, known),
                    help=suggestion(
                        key, known, f"it takes {listed(known)}" if known else "it takes none", SETTINGS
                    ),
                )
        for key in signature.required:
            if key not in given and not (read and key == "weights"):
                self.diagnostics.error(
                    "E702", f"`{name}` needs the argument `{key}`", span, "not given",
                    help=f"add `{key} = …`, or give it a default in {module.calls}",
                )

    def _plain(self, item: tree.Fix, allowed: Allowed) -> Plain | None:
        value = item.value
        if isinstance(value, tree.Range | tree.Block | tree.AnyValue | tree.AnyOrder):
            self.diagnostics.error(
                "E302", f"`{item.name.text} =` fixes one value, and this is a domain", value.span, "a domain",
                help="write one value",
            )
            return None
        typed = self.knobs.expressions.expression(value, allowed)
        if typed is None:
            return None
        if typed.constant is not None:
            return Fixed(value=value_of(typed.constant, typed.kind))
        return Computed(expression=typed.expression, dimension=_dimension(typed.kind))

    def _free(self, item: tree.Vary) -> Param:
        """What an argument of the user's own function is: its literals say it."""
        domain = self.names.unfold(item.domain)
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
            case tree.Path(parts=(_,)) if not self.names.is_value(first):
                dimension = "name"
            case tree.Range() | tree.Block() | tree.AnyValue() | tree.AnyOrder() | None:
                pass
            case tree.Number() | tree.String() | tree.Truth() | tree.Path() | tree.Unary() | tree.Binary():
                typed = self.knobs.expressions.expression(first, FIXED)
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


def _next_to(path: Path) -> list[Path]:
    """The files of the folder where a file was to be."""
    try:
        return sorted(path.parent.iterdir())
    except OSError:
        return []


def _dimension(kind: Kind) -> Dimension:
    found = _FREE.get(kind, kind)
    assert found != "plain"
    assert found != "none"
    return found


def _use(name: str, calls: str, arguments: dict[str, Later[Plain | None]], weights: Weights) -> Call:
    def build() -> ModelUse | None:
        found = {key: value for key, make in arguments.items() if (value := make()) is not None}
        return ModelUse(
            name=name, calls=calls, arguments=found, weights=weights.file, weights_key=weights.key,
            weights_strict=weights.strict,
        )

    return build


def nothing() -> None:
    """No model: what is wrong is reported."""


