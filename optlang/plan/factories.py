"""`model NAME = …` and `data NAME = …`: which object makes it, with which arguments."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from optlang.diagnostics import Diagnostics, Span
from optlang.plan.declared import Facts
from optlang.plan.expressions import Value
from optlang.plan.lookup import FIXED
from optlang.plan.model import Factory, Param
from optlang.plan.names import SORTS, Declared, PythonModule, Scope, closest, duplicate, listed, suggestion
from optlang.plan.python_files import find_object, inside
from optlang.plan.units import value_of
from optlang.plan.values import Resolver
from optlang.syntax import tree

WEIGHTS = Param(name="weights", dimension="string", domain=None, required=True)


@dataclass(slots=True, eq=False)
class Factories:
    """Reads calls of factories; their arguments are fixed."""

    resolver: Resolver
    facts: Facts
    scope: Scope
    folder: Path

    @property
    def diagnostics(self) -> Diagnostics:
        """Where problems go."""
        return self.resolver.diagnostics

    def read(self, node: tree.Make) -> Factory | None:
        """The factory of a model or data set."""
        value = node.value
        path: tree.Path
        arguments: tuple[tree.Expression | tree.Fix | tree.Vary, ...]
        if isinstance(value, tree.Path):
            path, arguments = value, ()
        elif isinstance(value, tree.Call):
            path, arguments = value.path, value.arguments
        else:
            self.diagnostics.error(
                "E302",
                f"a {node.kind} is made by a call",
                value.span,
                "not a call",
                help=f"write `{node.kind} {node.name.text} = FACTORY(…)`",
            )
            return None
        given = self._arguments(arguments)
        weights = self._weights(node, given)
        module = self.scope.python.get(path.parts[0].text)
        if module is not None and len(path.parts) == 2:
            self.scope.used.add(module.alias)
            return self._python(path, module, given, weights, value.span)
        declared = self.scope.find(path)
        if declared is not None and declared.sort == node.kind:
            return self._declared(path, declared, given, weights)
        self._read_all(given)
        if declared is not None:
            self.diagnostics.error(
                "E201", f"`{path.text}` is {SORTS[declared.sort]}, and {SORTS[node.kind]} is expected", path.span
            )
        elif not self.scope.silent(path):
            self.diagnostics.error(
                "E201",
                f"unknown {node.kind} `{path.text}`",
                path.span,
                "not declared in this study or the standard library",
                help=suggestion(
                    path.text,
                    self.scope.names(node.kind),
                    'a function of your own: `import python "models.py" as mine`',
                ),
            )
        return None

    def _arguments(self, arguments: tuple[tree.Expression | tree.Fix | tree.Vary, ...]) -> dict[str, tree.Fix]:
        found: dict[str, tree.Fix] = {}
        for item in arguments:
            if isinstance(item, tree.Vary):
                self.scope.unknown.add(item.name.text)
                self.diagnostics.error(
                    "E206",
                    "a model and its data have no knobs",
                    item.span,
                    "a knob",
                    help="fix it with `=`; what is searched stands in `steps` and in a target",
                )
                found.setdefault(item.name.text, tree.Fix(item.span, item.name, tree.Truth(item.span, False)))
            elif not isinstance(item, tree.Fix):
                self.diagnostics.error(
                    "E302", "an argument has a name", item.span, "which argument?", help="write `NAME = value`"
                )
            elif item.name.text in found:
                duplicate(self.diagnostics, item.name.text, item.name.span, found[item.name.text].name.span, "keep one")
            else:
                found[item.name.text] = item
        return found

    def _weights(self, node: tree.Make, given: dict[str, tree.Fix]) -> str | None:
        if node.kind != "model" or "weights" not in given:
            return None
        written = given.pop("weights")
        fixed = self.resolver.constant(written.value, WEIGHTS, FIXED)
        if fixed is None or not isinstance(fixed.value, str):
            return None
        place = inside(self.folder, fixed.value)
        if place is None or not place.is_file():
            self.diagnostics.error(
                "E203",
                f"there is no file `{fixed.value}` in the study's folder",
                written.value.span,
                "not found",
                help="the path of a .safetensors file, relative to the study's folder",
            )
        return fixed.value

    def _read_all(self, given: dict[str, tree.Fix]) -> None:
        # The arguments of something unknown are still read: they use inputs, and may be wrong themselves.
        for item in given.values():
            if not isinstance(item.value, tree.Path):
                self._plain(item)
            elif item.value.text in self.resolver.inputs or item.value.text in self.resolver.lets:
                self.resolver.used.add(item.value.text)

    def _declared(
        self, path: tree.Path, declared: Declared, given: dict[str, tree.Fix], weights: str | None
    ) -> Factory:
        maker = self.facts.maker(declared)
        params = {param.name: param for param in maker.params}
        arguments: dict[str, Value] = {}
        for name, item in given.items():
            param = params.get(name)
            if param is None:
                meant = closest(name, params)
                self.diagnostics.error(
                    "E205",
                    f"`{path.text}` has no parameter `{name}`",
                    item.name.span,
                    "not declared",
                    help=f"did you mean `{meant}`?"
                    if meant
                    else f"it has {listed(params)}"
                    if params
                    else "it has none",
                )
                continue
            fixed = self.resolver.constant(item.value, param, FIXED) if item.span != item.value.span else None
            if fixed is not None:
                arguments[name] = fixed.value
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
            arguments[param.name] = param.default
        ordered = {param.name: arguments[param.name] for param in maker.params if param.name in arguments}
        return Factory(name=path.text, calls=maker.calls, arguments=ordered, weights=weights)

    def _python(
        self, path: tree.Path, module: PythonModule, given: dict[str, tree.Fix], weights: str | None, span: Span
    ) -> Factory | None:
        name = path.parts[1]
        arguments = {key: self._plain(item) for key, item in given.items()}
        if module.text is None:
            return None
        found, signature = find_object(self.diagnostics, module.text, module.calls, name.text, name.span)
        if not found:
            return None
        if signature is not None:
            for key, item in given.items():
                if key not in signature.arguments and not signature.open:
                    known = signature.arguments
                    meant = closest(key, known)
                    self.diagnostics.error(
                        "E702",
                        f"`{name.text}` has no argument `{key}`",
                        item.name.span,
                        "not one of its arguments",
                        help=f"did you mean `{meant}`?"
                        if meant
                        else f"it takes {listed(known)}"
                        if known
                        else "it takes none",
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
        return Factory(name=path.text, calls=f"{module.calls}:{name.text}", arguments=arguments, weights=weights)

    def _plain(self, item: tree.Fix) -> Value:
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
        typed = self.resolver.expression(value, FIXED)
        return value_of(typed.constant, typed.kind) if typed is not None and typed.constant is not None else None
