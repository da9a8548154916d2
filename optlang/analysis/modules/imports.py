"""A file and all that it imports → scopes: what can be named in each file. Each file is read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from optlang.analysis.definitions import Definition, SymbolTable
from optlang.analysis.modules import groups, plugins
from optlang.analysis.modules.library import library
from optlang.analysis.modules.names import Declared, Module, PythonModule, Scope, collect, duplicate, only, suggestion
from optlang.analysis.modules.python_files import read_python
from optlang.diagnostics.model import Diagnostics, Span, TooMuchError
from optlang.diagnostics.suggest import closest
from optlang.interfaces import OutsideError
from optlang.syntax import tree
from optlang.syntax.parse import Parsed, parse_bytes, parse_file
from optlang.workload.sources import exists

DEEPEST = 50
"""How deep files may import one another: each is read within the one that imports it."""


@dataclass(slots=True, eq=False)
class Files:
    """The files of one run: their texts by the names that messages call them, and their scopes.

    `unsaved` are texts that replace those on disk, by resolved paths. `brought` are the files of installed
    distributions, with the names of their modules.
    """

    diagnostics: Diagnostics
    unsaved: Mapping[Path, str] = field(default_factory=dict)
    brought: dict[Path, str] = field(default_factory=dict)
    table: SymbolTable = field(default_factory=SymbolTable)
    texts: dict[str, str] = field(default_factory=dict)
    scopes: dict[str, Scope] = field(default_factory=dict)
    """By the names of their files; those of the user's files in the order in which they were read."""
    _read: dict[Path, Scope | None] = field(default_factory=dict)

    def parse(self, path: Path) -> Parsed:
        """Read the text of a file. Raises OutsideError where it cannot be read."""
        shown = path.as_posix()
        try:
            text = self.unsaved.get(path.resolve()) if self.unsaved else None
            # Half of a character, which an editor may send, makes bytes that are reported as no text.
            data = text.encode("utf-8", "surrogatepass") if text is not None else None
            parsed = parse_file(path, shown) if data is None else parse_bytes(shown, data)
        except OSError as error:
            raise OutsideError(
                f"cannot read {shown}: {error.strerror or error}", help="give the path of an .opt file"
            ) from error
        self.texts[shown] = parsed.source.text
        self.diagnostics.found += parsed.diagnostics.found
        self.diagnostics.rules.append(parsed.unless_echo)
        return parsed

    def scope(self, path: Path, parsed: Parsed, file: tree.File, around: tuple[Path, ...]) -> Scope:
        """What can be named in a file; `around` are the files whose imports are being read, this one the last."""
        modules, _ = library()
        name, folder = self._name(path, around)
        own = Module(name if name not in modules else f"{name}_opt", path.as_posix(), True, folder)
        collect(own, file, self.diagnostics)
        nowhere = Span(own.file, 0, 0)
        lost = {word: Definition("word", word, nowhere, broken=True) for word in parsed.lost}
        scope = Scope(own, modules, self.table, broken=lost)
        for item in file.imports:
            self._import(item, scope, path, around)
        self.scopes[own.file] = scope
        for declared in own.declared.values():
            self.table.define(declared.definition)
        groups.link(own, self.scope_of, self.diagnostics)
        return scope

    def _name(self, path: Path, around: tuple[Path, ...]) -> tuple[str, str]:
        """A module's name in the plan, its path from the folder of the study or distribution; and its folder there.

        So files of one name in two folders stay apart. Python of a distribution is named by its module, never its file.
        """
        if path in self.brought:
            return self.brought[path], ""
        brought = {file.resolve(): name for file, name in self.brought.items()}
        top = next((file for file in reversed(around[:-1]) if file in brought), around[0])
        below = around[-1].relative_to(top.parent).with_suffix("").parts
        return (".".join((brought[top], *below)), "") if top in brought else (".".join(below), "/".join(below[:-1]))

    def scope_of(self, declared: Declared) -> Scope:
        """The scope of the file that a declaration stands in."""
        scope = self.scopes.get(declared.module.file)
        if scope is None:
            scope = self.scopes[declared.module.file] = Scope(declared.module, library()[0], self.table)
        return scope

    def _module(self, path: tree.Path, folder: Path, around: tuple[Path, ...]) -> Module | None:
        """The module that an import names: a file next to the importing one, the library's, or a distribution's."""
        file = folder.joinpath(*(part.text for part in path.parts)).with_suffix(".opt")
        if not exists(file) and not (self.unsaved and file.resolve() in self.unsaved):
            module = library()[0].get(path.text)
            before = len(self.diagnostics.found)
            brought = plugins.claimed(path.text, path.span, self.diagnostics, library=module is not None)
            if brought is not None:
                self.brought[brought] = path.text
                return self._module_of(brought, path, around)
            if len(self.diagnostics.found) > before:
                return None
            if module is None:
                names = [item.stem for item in sorted(folder.glob("*.opt"))] + list(library()[0])
                names += [plugin.name for plugin in plugins.plugins()]
                self.diagnostics.error(
                    "E203", f"there is no module `{path.text}`", path.span, f"no file {file.as_posix()}",
                    help=suggestion(path.text, names, "an import reads an .opt file of this folder"),
                    fix=only(path.span, path.text, names),
                )
            return module
        if not file.resolve().is_relative_to(folder.resolve()):
            self.diagnostics.error(
                "E203", f"`{path.text}` lies outside the folder of what imports it", path.span,
                "a link that leads out of it", help="put the file itself into the folder of the one that imports it",
            )
            return None
        return self._module_of(file, path, around)

    def _module_of(self, file: Path, path: tree.Path, around: tuple[Path, ...]) -> Module | None:
        """What the file declares, read once; E204 where it stands in a circle with what imports it."""
        resolved = file.resolve()
        if resolved in around:
            chain = [item.stem for item in around[around.index(resolved) :]] + [resolved.stem]
            self.diagnostics.error(
                "E204", "these files import each other in a circle", path.span, " → ".join(chain),
                help="put what both need into a third file",
            )
            return None
        if len(around) >= DEEPEST:
            raise TooMuchError(
                f"files import one another more than {DEEPEST} levels deep", path.span, "one level too many",
                "import the module that declares what is used, not one that imports it",
            )
        if resolved not in self._read:
            parsed = self.parse(file)
            self._read[resolved] = None
            if parsed.file is not None:
                self._read[resolved] = self.scope(file, parsed, parsed.file, (*around, resolved))
        read = self._read[resolved]
        return read.own if read is not None else None

    def _import(self, item: tree.Import, scope: Scope, path: Path, around: tuple[Path, ...]) -> None:
        match item:
            case tree.ImportPython(source=source, alias=alias):
                self._claim(alias, scope, item.span)
                text = self.python_text(source.value, path.parent, source.span)
                scope.python[alias.text] = PythonModule(alias.text, scope.own.python(source.value), source, text)
                if text is None:
                    scope.break_name(alias)
            case tree.ImportModule():
                alias = item.alias or item.path.parts[-1]
                self._claim(alias, scope, item.span)
                module = self._module(item.path, path.parent, around)
                if module is None:
                    scope.break_name(alias)
                else:
                    scope.modules[alias.text] = module
            case tree.ImportNames():
                module = self._module(item.path, path.parent, around)
                for name in item.names:
                    self._claim(name, scope)
                    found = module.declared.get(name.text) if module is not None else None
                    if found is not None:
                        scope.taken[name.text] = found
                        continue
                    scope.break_name(name)
                    if module is not None:
                        # The rest of the file may name it as it should be named.
                        scope.break_name(tree.Name(name.span, closest(name.text, module.declared) or name.text))
                        self.diagnostics.error(
                            "E201", f"`{item.path.text}` declares no `{name.text}`", name.span, "not declared there",
                            help=suggestion(name.text, module.declared),
                            fix=only(name.span, name.text, module.declared),
                        )

    def _claim(self, name: tree.Name, scope: Scope, whole: Span | None = None) -> None:
        definition = self.table.define(Definition("import", name.text, name.span, whole, fixed=True))
        first = scope.imports.setdefault(name.text, definition)
        if first is not definition:
            duplicate(self.diagnostics, name.text, name.span, first.span, "import one of them `as` another name")

    def python_text(self, source: str, folder: Path, span: Span) -> str | None:
        """The text of a Python file or module that a file of `folder` names; None, with an error, where it has none."""
        installed = any(folder.is_relative_to(file.parent) for file in self.brought)
        return read_python(self.diagnostics, source, folder, span, installed=installed)
