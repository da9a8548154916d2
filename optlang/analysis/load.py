"""From a file to its plan: runs the passes of this package one after another, and collects every problem.

Files and imports (modules/imports.py) → declarations → the study (lower/study.py) → checks → the plan (assemble.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from optlang.analysis.assemble import plan_of
from optlang.analysis.checks.all import check
from optlang.analysis.checks.goals import trials_pause
from optlang.analysis.checks.names import imports_are_used
from optlang.analysis.declarations import Declarations
from optlang.analysis.definitions import Symbols
from optlang.analysis.expressions import Expressions
from optlang.analysis.knobs import Knobs
from optlang.analysis.lower import pipelines
from optlang.analysis.lower.steps import Steps
from optlang.analysis.lower.study import StudyReader
from optlang.analysis.metrics import metric_of
from optlang.analysis.modules.imports import Files
from optlang.analysis.modules.library import library, words
from optlang.analysis.modules.names import Declared, Module, Scope, suggestion
from optlang.analysis.modules.python_files import find_object
from optlang.analysis.symbols import Namespace
from optlang.analysis.values import Values
from optlang.diagnostics.model import MOST, Diagnostic, Diagnostics, Label, Lines, Span, TooMuchError
from optlang.plan.model import Location, Plan
from optlang.syntax import tree
from optlang.syntax.parse import Parsed


@dataclass(frozen=True, slots=True)
class Loaded:
    """A file as far as it can be read.

    `plan` is None where there is an error, or where the file is a module without a study. `diagnostics` stand in the
    order of the text; `texts` holds the text of every file that they speak of; `folder` is the study's.

    `parsed` is the file itself. `scope` and `declarations` say what can be named in it, and read declarations; both are
    None where nothing of the file can be read. `symbols` are what its study and its declarations give names to.
    """

    plan: Plan | None
    diagnostics: tuple[Diagnostic, ...]
    texts: dict[str, str]
    folder: Path
    parsed: Parsed
    scope: Scope | None = None
    declarations: Declarations | None = None
    symbols: tuple[Symbols, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether any problem is an error."""
        return any(item.severity == "error" for item in self.diagnostics)


def load(
    path: Path, overrides: Mapping[str, str] | None = None, unsaved: Mapping[Path, str] | None = None
) -> Loaded:
    """Read the study at `path`; `overrides` are `--set NAME=VALUE`, written as in the language.

    `unsaved` holds texts that replace what is on disk (or is not yet), by the resolved paths of their files.
    Runs no code of the user's. Raises OutsideError where the file cannot be read.
    """
    return _Loading(path.parent, unsaved or {}).load(path, overrides or {})


def module_at(path: Path, name: str) -> tuple[Module, Mapping[str, str]] | None:
    """The module of this name that an installed distribution has at `path`, and the texts that were read for it.

    None where its text has mistakes of syntax. Raises OutsideError where the file cannot be read.
    """
    loaded = _Loading(path.parent, {}, {path: name}).load(path, {})
    return None if loaded.scope is None or loaded.parsed.diagnostics.failed else (loaded.scope.own, loaded.texts)


class _Loading:
    """One run of `load`."""

    def __init__(self, folder: Path, unsaved: Mapping[Path, str], brought: dict[Path, str] | None = None) -> None:
        self.folder = folder
        self.diagnostics = Diagnostics(most=MOST, rules=[self._in_doubt])
        self.files = Files(self.diagnostics, unsaved, brought or {})
        self.declarations = Declarations(self.diagnostics, self.files.scope_of, self._check_calls)
        self._lines: dict[str, Lines] = {}

    def load(self, path: Path, overrides: Mapping[str, str]) -> Loaded:
        """Read the file and make its plan."""
        parsed = self.files.parse(path)
        plan: Plan | None = None
        try:
            plan = self._plan(path, parsed, overrides)
        except TooMuchError as error:
            self.diagnostics.found.append(error.problem)
        except RecursionError:
            self.diagnostics.found.append(Diagnostic(
                "E105", "what this file says nests deeper than can be followed",
                Label(Span(path.as_posix(), 0, 0), "somewhere in it"),
                help="a name in it may lead back to itself, or lead through too many others: write inner parts out",
            ))
        self._count_dropped()
        found = self.diagnostics.sorted()
        texts = self.files.texts
        for item in found:
            for label in (item.primary, *item.labels):
                if label.span.file not in texts:
                    texts[label.span.file] = library()[1][label.span.file]
        made = None if self.diagnostics.failed else plan
        scope = self.files.scopes.get(path.as_posix())
        own = tuple(item for item in self.declarations.symbols if item.file == path.as_posix())
        return Loaded(
            made, found, texts, self.folder, parsed, scope, self.declarations if scope is not None else None, own
        )

    def _in_doubt(self, item: Diagnostic) -> Diagnostic:
        """The problem without a fix that would replace a word which means something of its own."""
        fix = item.fix
        if fix is None or fix.span.file not in self.files.texts:
            return item
        word = self.files.texts[fix.span.file][fix.span.start : fix.span.end]
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
        if parsed.file is None:
            return None
        partial = parsed.diagnostics.failed
        scope = self.files.scope(path, parsed, parsed.file, (path.resolve(),))
        for item in [item for item in self.files.scopes.values() if item.own.own]:
            for declared in item.own.declared.values():
                self._declaration(declared, item)
        studies = [item for item in parsed.file.items if isinstance(item, tree.Study)]
        if not studies:
            self._module(scope)
            return None
        for other in studies[1:]:
            self.diagnostics.error(
                "E202", "a file holds one study", other.name.span, "the second",
                labels=(Label(studies[0].name.span, "the first"),),
                help="give it a file of its own, and what both need a third, which they import",
            )
        names = self._names(scope, studies[0].name.text)
        study = StudyReader(
            studies[0], names, self.declarations, self.files.texts, self.folder, partial, self._locate, overrides
        ).read()
        check(study)
        plan = plan_of(study, int(parsed.file.edition.value) if parsed.file.edition else 1, self.declarations)
        if plan is not None:
            trials_pause(study, plan)
        if not partial:
            imports_are_used(scope, self.diagnostics)
        return plan

    def _names(self, scope: Scope, owner: str) -> Namespace:
        """What a study or a pipeline of the file can name, before it names anything itself."""
        symbols = Symbols(scope.table, owner, scope.own.file)
        self.declarations.symbols.append(symbols)
        return Namespace(self.diagnostics, scope, symbols)

    def _declaration(self, declared: Declared, scope: Scope) -> None:
        """Find what is wrong in a declaration of the user's own."""
        if declared.sort == "pipeline":
            knobs = Knobs(Values(Expressions(self._names(scope, declared.name))), self._locate)
            pipelines.check(Steps(knobs, self.declarations, self.folder), declared)
        else:
            self.declarations.read(declared)

    def _module(self, scope: Scope) -> None:
        """Find what is wrong in the metrics and the lets of a file without a study; elsewhere the study reads them."""
        for declared in scope.own.declared.values():
            if isinstance(declared.node, tree.Metric):
                metric_of(declared.node, self.diagnostics, own=True)
            if isinstance(declared.node, tree.Let):
                Namespace(self.diagnostics, scope, Symbols(scope.table)).unfold(declared.node.value)

    def _locate(self, span: Span) -> Location:
        """The line and column of a span."""
        if span.file not in self._lines:
            text = self.files.texts.get(span.file)
            if text is None:
                text = self.files.texts[span.file] = library()[1][span.file]
            self._lines[span.file] = Lines(text)
        line, column = self._lines[span.file].at(span.start)
        return Location(file=span.file, line=line, column=column)

    def _check_calls(self, declared: Declared, value: tree.String) -> None:
        module, colon, name = value.value.partition(":")
        if not colon or not module or not name:
            self.diagnostics.error(
                "E701", f'`calls "{value.value}"` does not name an object', value.span,
                help='write `calls "file.py:function"` or `calls "package.module:object"`',
            )
            return
        text = self.files.python_text(module, Path(declared.module.file).parent, value.span)
        if text is None:
            return
        _, signature = find_object(self.diagnostics, text, module, name, value.span)
        if signature is None or signature.open or declared.sort not in ("model", "data"):
            return
        for member in declared.members:
            argument = member.node.name.text
            if argument not in signature.arguments:
                self.diagnostics.error(
                    "E702", f"`{name}` has no argument `{argument}`", member.at, "not one of its arguments",
                    help=suggestion(argument, signature.arguments),
                )
