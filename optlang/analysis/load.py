"""From a file to its plan: reads the file, what it imports and the standard library, and collects every problem."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from optlang.analysis.lower import pipelines
from optlang.analysis.lower.study import StudyBuilder
from optlang.analysis.modules import groups, plugins
from optlang.analysis.modules.declarations import Facts, metric_of
from optlang.analysis.modules.library import library, words
from optlang.analysis.modules.names import Declared, Module, PythonModule, Scope, collect, duplicate, only, suggestion
from optlang.analysis.modules.python_files import find_object, inside, text_of
from optlang.analysis.values import Resolver
from optlang.diagnostics.model import MOST, Diagnostic, Diagnostics, Label, Lines, Span, TooMuchError
from optlang.diagnostics.suggest import closest
from optlang.interfaces import OutsideError
from optlang.plan.model import Location, Plan
from optlang.syntax import tree
from optlang.syntax.parse import Parsed, parse_bytes, parse_file
from optlang.workload.sources import exists, file_of

DEEPEST = 50
"""How deep files may import one another: each is read within the one that imports it."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a file came to.

    `plan` is None where there is an error, or where the file is a module without a study. `diagnostics` stand in the
    order of the text; `texts` holds the text of every file that they speak of; `folder` is the study's.

    `parsed` is the file itself. `scope` and `facts` say what can be named in it, and read declarations; both are None
    where nothing of the file can be read.
    """

    plan: Plan | None
    diagnostics: tuple[Diagnostic, ...]
    texts: dict[str, str]
    folder: Path
    parsed: Parsed
    scope: Scope | None = None
    facts: Facts | None = None

    @property
    def failed(self) -> bool:
        """Whether any problem is an error."""
        return any(item.severity == "error" for item in self.diagnostics)


def load(
    path: Path, overrides: Mapping[str, str] | None = None, unsaved: Mapping[Path, str] | None = None
) -> Loaded:
    """Read the study at `path`; `overrides` are `--set NAME=VALUE`, written as in the language.

    `unsaved` holds texts that go before what lies on disk (or does not yet), by the resolved paths of their files.
    Runs no code of the user's. Raises OutsideError where the file cannot be read.
    """
    return _Loading(path.parent, unsaved or {}).load(path, overrides or {})


def module_at(path: Path, name: str) -> tuple[Module, Mapping[str, str]] | None:
    """The module of this name that an installed distribution has at `path`, and the texts that were read for it.

    None where its text has mistakes of syntax. Raises OutsideError where the file cannot be read.
    """
    loaded = _Loading(path.parent, brought={path: name}).load(path, {})
    return None if loaded.scope is None or loaded.parsed.diagnostics.failed else (loaded.scope.own, loaded.texts)


@dataclass(slots=True, eq=False)
class _Import:
    """One imported name of the file that is read, for W208."""

    names: tuple[str, ...]
    span: Span
    said: str


@dataclass(slots=True, eq=False)
class _Loading:
    """One run of `load`: all files that were read, and all problems."""

    folder: Path
    unsaved: Mapping[Path, str] = field(default_factory=dict)
    diagnostics: Diagnostics = field(default_factory=lambda: Diagnostics(most=MOST))
    texts: dict[str, str] = field(default_factory=dict)
    scopes: dict[str, Scope] = field(default_factory=dict)
    lines: dict[str, Lines] = field(default_factory=dict)
    imported: list[_Import] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    scope: Scope | None = None
    facts: Facts | None = None
    brought: dict[Path, str] = field(default_factory=dict)
    """The files that installed distributions bring, with the names of their modules."""
    _read: dict[Path, Scope | None] = field(default_factory=dict)

    def load(self, path: Path, overrides: Mapping[str, str]) -> Loaded:
        """Read the file and build its plan."""
        parsed = self._parse(path)
        plan: Plan | None = None
        try:
            plan = self._plan(path, parsed, overrides)
        except TooMuchError as error:
            self.diagnostics.found.append(error.said)
        except RecursionError:
            whole = Span(path.as_posix(), 0, 0)
            self.diagnostics.found.append(Diagnostic(
                "E105", "what this file says nests deeper than can be followed", Label(whole, "somewhere in it"),
                help="a name in it may lead back to itself, or lead through too many others: write inner parts out",
            ))
        self._count_dropped()
        self.diagnostics.found = parsed.sound(self.diagnostics.found)
        found = tuple(self._in_doubt(item) for item in self.diagnostics.sorted())
        for item in found:
            for label in (item.primary, *item.labels):
                if label.span.file not in self.texts:
                    self.texts[label.span.file] = library()[1][label.span.file]
        made = None if self.diagnostics.failed else plan
        return Loaded(made, found, self.texts, self.folder, parsed, self.scope, self.facts)

    def _in_doubt(self, item: Diagnostic) -> Diagnostic:
        """The problem without a fix that would replace a word which means something of its own."""
        fix = item.fix
        if fix is None or item.code.startswith("E1") or fix.span.file not in self.texts:
            return item
        word = self.texts[fix.span.file][fix.span.start : fix.span.end]
        return replace(item, fix=None) if word in words() else item

    def _count_dropped(self) -> None:
        """Say how many warnings were left out, where the first of them would have stood."""
        dropped = self.diagnostics.dropped
        if dropped:
            code, span = next(iter(dropped))
            message = f"{len(dropped)} more warning{'s' if len(dropped) != 1 else ''}, left out here"
            self.diagnostics.found.append(Diagnostic(
                code, message, Label(span, "the first of them"), "warning", help="fix what is reported, and check again"
            ))

    def _plan(self, path: Path, parsed: Parsed, overrides: Mapping[str, str]) -> Plan | None:
        """The plan of the study in the file, None where there is none."""
        plan: Plan | None = None
        if parsed.file is not None:
            broken = parsed.diagnostics.failed
            scope = self.scope = self._scope(path, parsed, parsed.file, (path.resolve(),))
            facts = self.facts = Facts(self.diagnostics, self._scope_of, self._check_calls, self.broken)
            for declared in scope.own.declared.values():
                self._declaration(declared, facts)
            studies = [item for item in parsed.file.items if isinstance(item, tree.Study)]
            self._metrics(scope, studies)
            for other in studies[1:]:
                self.diagnostics.error(
                    "E202",
                    "a file holds one study",
                    other.name.span,
                    "the second",
                    labels=(Label(studies[0].name.span, "the first"),),
                    help="give it a file of its own, and what both need a third, which they import",
                )
            if studies:
                builder = StudyBuilder(
                    study=studies[0],
                    edition=int(parsed.file.edition.value) if parsed.file.edition else 1,
                    scope=scope,
                    facts=facts,
                    diagnostics=self.diagnostics,
                    texts=self.texts,
                    folder=self.folder,
                    broken=broken,
                    locate=self.locate,
                    overrides=overrides,
                )
                plan = builder.build()
            if not broken and studies:
                self._unused(scope)
        return plan

    def _declaration(self, declared: Declared, facts: Facts) -> None:
        """Find what is wrong in a declaration of the user's own."""
        if declared.sort == "pipeline":
            pipelines.check(declared, self._scope_of(declared), facts, self.folder, self.locate)
        else:
            facts.read(declared)

    def _parse(self, path: Path) -> Parsed:
        shown = path.as_posix()
        try:
            text = self.unsaved.get(path.resolve()) if self.unsaved else None
            # Half of a character, which an editor may send, makes bytes that are told of as no text.
            data = text.encode("utf-8", "surrogatepass") if text is not None else None
            parsed = parse_file(path, shown) if data is None else parse_bytes(shown, data)
        except OSError as error:
            raise OutsideError(
                f"cannot read {shown}: {error.strerror or error}", help="give the path of an .opt file"
            ) from error
        self.texts[shown] = parsed.source.text
        self.diagnostics.found += parsed.diagnostics.found
        return parsed

    def locate(self, span: Span) -> Location:
        """The line and column of a span."""
        if span.file not in self.lines:
            text = self.texts.get(span.file)
            if text is None:
                text = self.texts[span.file] = library()[1][span.file]
            self.lines[span.file] = Lines(text)
        line, column = self.lines[span.file].at(span.start)
        return Location(file=span.file, line=line, column=column)

    # ---- files and scopes

    def _scope(self, path: Path, parsed: Parsed, file: tree.File, around: tuple[Path, ...]) -> Scope:
        modules, _ = library()
        stem = self.brought.get(path, path.stem)
        stem = stem if stem not in modules else f"{stem}_opt"
        own = Module(stem, path.as_posix(), own=True)
        collect(own, file, self.diagnostics)
        scope = self.scopes[own.file] = Scope(own, modules, unknown=set(parsed.lost))
        first: dict[str, Span] = {}
        for item in file.imports:
            self._import(item, scope, path, around, first, outermost=len(around) == 1)
        groups.link(own, self._scope_of, self.diagnostics)
        return scope

    def _scope_of(self, declared: Declared) -> Scope:
        scope = self.scopes.get(declared.module.file)
        if scope is None:
            scope = self.scopes[declared.module.file] = Scope(declared.module, library()[0])
        return scope

    def _module(self, path: tree.Path, folder: Path, around: tuple[Path, ...]) -> Module | None:
        """The module that an import names: a file beside the importing one, the library's, or a distribution's."""
        file = folder.joinpath(*(part.text for part in path.parts)).with_suffix(".opt")
        if not exists(file) and not (self.unsaved and file.resolve() in self.unsaved):
            module = library()[0].get(path.text)
            told = len(self.diagnostics.found)
            brought = plugins.claimed(path.text, path.span, self.diagnostics, library=module is not None)
            if brought is not None:
                self.brought[brought] = path.text
                return self._module_of(brought, path, around)
            if len(self.diagnostics.found) > told:
                return None
            if module is None:
                names = [item.stem for item in sorted(folder.glob("*.opt"))] + list(library()[0])
                names += [plugin.name for plugin in plugins.plugins()]
                self.diagnostics.error(
                    "E203",
                    f"there is no module `{path.text}`",
                    path.span,
                    f"no file {file.as_posix()}",
                    help=suggestion(path.text, names, "an import reads an .opt file beside this one"),
                    fix=only(path.span, path.text, names),
                )
            return module
        if not file.resolve().is_relative_to(folder.resolve()):
            self.diagnostics.error(
                "E203",
                f"`{path.text}` lies outside the folder of what imports it",
                path.span,
                "a link that leads out of it",
                help="put the file itself beside the one that imports it",
            )
            return None
        return self._module_of(file, path, around)

    def _module_of(self, file: Path, path: tree.Path, around: tuple[Path, ...]) -> Module | None:
        """What the file declares, read once; E204 where it stands in a circle with what imports it."""
        resolved = file.resolve()
        if resolved in around:
            chain = [item.stem for item in around[around.index(resolved) :]] + [resolved.stem]
            self.diagnostics.error(
                "E204",
                "these files import each other in a circle",
                path.span,
                " → ".join(chain),
                help="put what both need into a third file",
            )
            return None
        if len(around) >= DEEPEST:
            raise TooMuchError(
                f"files import one another more than {DEEPEST} levels deep", path.span, "one level too many",
                "import the module that declares what is used, not one that imports it",
            )
        if resolved not in self._read:
            parsed = self._parse(file)
            self._read[resolved] = None
            if parsed.file is not None:
                scope = self._scope(file, parsed, parsed.file, (*around, resolved))
                self._read[resolved] = scope
                facts = Facts(self.diagnostics, self._scope_of, self._check_calls, self.broken)
                for declared in scope.own.declared.values():
                    self._declaration(declared, facts)
        read = self._read[resolved]
        return read.own if read is not None else None

    def _import(
        self,
        item: tree.Import,
        scope: Scope,
        path: Path,
        around: tuple[Path, ...],
        first: dict[str, Span],
        *,
        outermost: bool,
    ) -> None:
        match item:
            case tree.ImportPython():
                self._claim(item.alias, first, scope)
                self._python(item, scope, path.parent)
                names, said = (item.alias.text,), item.alias.text
            case tree.ImportModule():
                alias = item.alias or item.path.parts[-1]
                self._claim(alias, first, scope)
                module = self._module(item.path, path.parent, around)
                if module is None:
                    scope.unknown.add(alias.text)
                else:
                    scope.modules[alias.text] = module
                names, said = (alias.text,), alias.text
            case tree.ImportNames():
                module = self._module(item.path, path.parent, around)
                for name in item.names:
                    self._claim(name, first, scope)
                    found = module.declared.get(name.text) if module is not None else None
                    if found is not None:
                        scope.taken[name.text] = found
                        if outermost:
                            self.imported.append(_Import((name.text,), name.span, name.text))
                        continue
                    scope.unknown.add(name.text)
                    if module is not None:
                        # The rest of the file may name it as it should be named.
                        scope.unknown |= {closest(name.text, module.declared) or name.text}
                        self.diagnostics.error(
                            "E201",
                            f"`{item.path.text}` declares no `{name.text}`",
                            name.span,
                            "not declared there",
                            help=suggestion(name.text, module.declared),
                            fix=only(name.span, name.text, module.declared),
                        )
                return
        if outermost:
            self.imported.append(_Import(names, item.span, said))

    def _claim(self, name: tree.Name, first: dict[str, Span], scope: Scope) -> None:
        if name.text in first:
            duplicate(self.diagnostics, name.text, name.span, first[name.text], "import one of them `as` another name")
        first.setdefault(name.text, name.span)

    def _python(self, item: tree.ImportPython, scope: Scope, folder: Path) -> None:
        source = item.source.value
        found = self._python_text(source, folder, item.source.span)
        scope.python[item.alias.text] = PythonModule(item.alias.text, source, item.source, found)
        if found is None:
            scope.unknown.add(item.alias.text)

    def _python_text(self, source: str, folder: Path, span: Span) -> str | None:
        """The text of a Python file or module; None, with E203 or E703, where there is none."""
        if source.endswith(".py") or "/" in source or "\\" in source:
            if any(folder.is_relative_to(file.parent) for file in self.brought):
                self.diagnostics.error(
                    "E703",
                    f"`{source}` is a file, and this module is an installed one's",
                    span,
                    "not in the study's folder",
                    help='name the installed Python module: `"package.module:object"`',
                )
                return None
            place = inside(folder, source)
            if place is None:
                self.diagnostics.error(
                    "E703",
                    f"`{source}` lies outside the study's folder",
                    span,
                    "not read",
                    help="move the file beside the study, or install it and import it by its module's name",
                )
                return None
            if not exists(place):
                files = [file.name for file in sorted(folder.glob("*.py"))]
                self.diagnostics.error(
                    "E203",
                    f"there is no file `{source}` in the study's folder",
                    span,
                    "not found",
                    help=suggestion(source, files, "the path is relative to the study's folder"),
                )
                return None
        else:
            installed = file_of(source)
            if installed is None:
                self.diagnostics.error(
                    "E203",
                    f"there is no installed module `{source}`",
                    span,
                    "not found",
                    help='install it, or name a file beside the study: `import python "models.py" as mine`',
                )
                return None
            place = installed
        try:
            return text_of(place)
        except (OSError, UnicodeError, SyntaxError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            self.diagnostics.error(
                "E701", f"`{source}` cannot be read", span, reason or "no text", help="correct it, or name another file"
            )
            return None

    # ---- declarations of the user's own files

    def _check_calls(self, declared: Declared, value: tree.String) -> None:
        module, colon, name = value.value.partition(":")
        if not colon or not module or not name:
            self.diagnostics.error(
                "E701",
                f'`calls "{value.value}"` does not name an object',
                value.span,
                help='write `calls "file.py:function"` or `calls "package.module:object"`',
            )
            return
        text = self._python_text(module, Path(declared.module.file).parent, value.span)
        if text is not None:
            _, signature = find_object(self.diagnostics, text, module, name, value.span)
            if signature is None or signature.open or declared.sort not in ("model", "data"):
                return
            for member in declared.members:
                argument = member.node.name.text
                if argument not in signature.arguments:
                    self.diagnostics.error(
                        "E702",
                        f"`{name}` has no argument `{argument}`",
                        member.at,
                        "not one of its arguments",
                        help=suggestion(argument, signature.arguments),
                    )

    def _metrics(self, scope: Scope, studies: list[tree.Study]) -> None:
        # A metric at the top of a file is declared as in the study itself; a module's are read when they are named.
        if not studies:
            for declared in scope.own.declared.values():
                if isinstance(declared.node, tree.Metric):
                    metric_of(declared.node, self.diagnostics, own=True)
                if isinstance(declared.node, tree.Let):
                    Resolver(self.diagnostics, scope).unfold(declared.node.value)

    def _unused(self, scope: Scope) -> None:
        for item in self.imported:
            if not any(name in scope.used or name in scope.unknown for name in item.names):
                self.diagnostics.warn(
                    "W208", f"`{item.said}` is imported and never used", item.span, help="take it away"
                )
