"""What a name stands for: modules, imports, the standard library's declarations, and what was misspelled.

What a declaration says: declarations.py; what a study says: lower/study.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from optlang.analysis.definitions import Definition, SymbolTable
from optlang.diagnostics import field_words
from optlang.diagnostics.field_words import SETTINGS, VALUES, Words
from optlang.diagnostics.model import Diagnostics, Fix, Label, Span
from optlang.diagnostics.renamed import renamed
from optlang.diagnostics.suggest import certain, closest
from optlang.syntax import tree

Sort = Literal["technique", "pipeline", "runtime", "model", "data", "target", "metric", "let", "params"]
Item: TypeAlias = "tree.Declaration | tree.Target | tree.Metric | tree.Let"


@dataclass(frozen=True, slots=True, eq=False)
class Declared:
    """One declaration: what it is, its name qualified by its module, its node, and the definition of its name."""

    sort: Sort
    name: str
    module: Module
    node: Item = field(repr=False)
    definition: Definition = field(repr=False)

    @property
    def qualified(self) -> str:
        """The name that the plan uses: the module's and its own."""
        return f"{self.module.name}.{self.name}"

    @property
    def members(self) -> tuple[DeclaredParam, ...]:
        """All parameters in the order of the text, those of groups where `with` stands."""
        return self.module.members.get(self.name, ())

    @property
    def incomplete(self) -> bool:
        """Whether a parameter, or a group of them, could not be read, so that there may be more parameters."""
        return self.name in self.module.incomplete


@dataclass(frozen=True, slots=True)
class DeclaredParam:
    """One parameter of a declaration, as if it were written out there.

    `at` is where the declaration says it: its name, or that of the `group` after `with`, with what is changed of it.
    """

    node: tree.Param
    at: Span
    group: Declared | None = None
    change: tree.Change | None = None

    def definition(self, declared: Declared) -> Definition:
        """The definition of its name. Python code knows the parameters of a technique by name, so these are fixed."""
        name = self.node.name
        fixed = self.group is not None or declared.sort != "pipeline"
        return Definition("parameter", name.text, name.span, fixed=fixed)


def definitions_of(declared: Declared) -> dict[str, Definition]:
    """The definitions of the parameters of a declaration, by their names."""
    return {member.node.name.text: member.definition(declared) for member in declared.members}


@dataclass(slots=True, eq=False)
class Module:
    """A file of declarations. `own` is set for a file of the user's, not for the standard library's.

    `members` are the parameters of its declarations, and `incomplete` those that may have more: see groups.py.
    `folder` is where it lies below the study's folder, "" in that folder itself.
    """

    name: str
    file: str
    own: bool
    folder: str = ""
    declared: dict[str, Declared] = field(default_factory=dict)
    members: dict[str, tuple[DeclaredParam, ...]] = field(default_factory=dict)
    incomplete: set[str] = field(default_factory=set)

    def python(self, source: str) -> str:
        """A Python file or module that it names, as the study finds it: a file by its path from the study's folder."""
        return f"{self.folder}/{source}" if self.folder and source.partition(":")[0].endswith(".py") else source


@dataclass(slots=True, eq=False)
class PythonModule:
    """`import python "models.py" as mine`: `calls` is what stands before the colon; `text` None where it is absent."""

    alias: str
    calls: str
    source: tree.String
    text: str | None


@dataclass(slots=True, eq=False)
class Scope:
    """What can be named in one file, nearest first: its own declarations, what it imports, the standard library."""

    own: Module
    library: Mapping[str, Module]
    table: SymbolTable = field(default_factory=SymbolTable)
    modules: dict[str, Module] = field(default_factory=dict)
    taken: dict[str, Declared] = field(default_factory=dict)
    python: dict[str, PythonModule] = field(default_factory=dict)
    imports: dict[str, Definition] = field(default_factory=dict)
    """What the file imports, by the names that it has here."""
    broken: dict[str, Definition] = field(default_factory=dict)
    """Names of what could not be read, which is reported: what refers to them means something, and is not reported."""
    meant: set[str] = field(default_factory=set)
    """What names that mean nothing were probably to be: these count as used."""

    def lookup(self, path: tree.Path) -> Declared | None:
        """What `path` would name, or None; enters no reference."""
        parts = path.parts
        if len(parts) == 2:
            module = self.module_of(parts[0].text)
            return module.declared.get(parts[1].text) if module is not None else None
        if len(parts) != 1:
            return None
        name = parts[0].text
        found = self.own.declared.get(name) or self.taken.get(name)
        if found is not None:
            return found
        return next((module.declared[name] for module in self.library.values() if name in module.declared), None)

    def find(self, path: tree.Path) -> Declared | None:
        """What `path` names, or None; enters the reference."""
        found = self.lookup(path)
        first = path.parts[0]
        if first.text in self.imports and (len(path.parts) > 1 or found is self.taken.get(first.text)):
            self.table.refer(first.span, self.imports[first.text])
        if found is not None:
            self.table.refer(path.parts[-1].span, found.definition)
        return found

    def break_name(self, name: tree.Name) -> None:
        """Define a name of what could not be read."""
        definition = self.table.define(Definition("setting", name.text, name.span, fixed=True, broken=True))
        self.broken.setdefault(name.text, definition)

    def module_of(self, name: str) -> Module | None:
        """The module that `name` means, an imported one before the standard library's."""
        return self.modules.get(name) or self.library.get(name)

    def names(self, *sorts: Sort) -> list[str]:
        """All that can be written for something of these sorts, qualified names of imported modules included."""
        found = [item.name for item in self.own.declared.values() if item.sort in sorts]
        found += [name for name, item in self.taken.items() if item.sort in sorts]
        for alias, module in self.modules.items():
            found += [f"{alias}.{item.name}" for item in module.declared.values() if item.sort in sorts]
        for module in self.library.values():
            for item in module.declared.values():
                if item.sort in sorts:
                    found += [item.name, f"{module.name}.{item.name}"]
        return found

    def missed(self, path: tree.Path, options: Iterable[str]) -> None:
        """Enter a name that means nothing. What it was probably to be counts as used: only the slip is reported."""
        self.table.refer(path.span, None)
        meant = closest(path.text, options)
        if meant is not None:
            self.meant |= {meant, meant.partition(".")[0]}

    def absorbs(self, path: tree.Path) -> bool:
        """Whether a part of `path` names what could not be read, which is reported already."""
        return any(part.text in self.broken for part in path.parts)


SORTS: dict[Sort, str] = {
    "technique": "a technique",
    "pipeline": "a pipeline",
    "runtime": "a runtime",
    "model": "a model",
    "data": "a data set",
    "target": "a target",
    "metric": "a metric",
    "let": "a `let`",
    "params": "a group of parameters",
}


def sort_of(item: Item) -> Sort:
    """What kind of thing an item declares."""
    if isinstance(item, tree.Declaration):
        return item.kind
    if isinstance(item, tree.Target):
        return "target"
    return "metric" if isinstance(item, tree.Metric) else "let"


def name_of(item: Item) -> tuple[str, Span]:
    """The name that an item declares, and where it stands."""
    if isinstance(item, tree.Metric):
        return item.path.text, item.path.span
    return item.name.text, item.name.span


def collect(module: Module, file: tree.File, diagnostics: Diagnostics) -> None:
    """Enter a file's declarations into its module; E202 where a name comes twice."""
    for item in file.items:
        if isinstance(item, tree.Study):
            continue
        name, span = name_of(item)
        if name in module.declared:
            first = name_of(module.declared[name].node)[1]
            duplicate(diagnostics, name, span, first)
            continue
        definition = Definition("declaration", name, span, fixed=True)
        module.declared[name] = Declared(sort_of(item), name, module, item, definition)


def duplicate(diagnostics: Diagnostics, name: str, span: Span, first: Span, help: str | None = None) -> None:
    """E202: one name for two things; `first` is where it stood before."""
    diagnostics.error(
        "E202", f"`{name}` is named twice", span, "the second time", labels=(Label(first, "the first time"),),
        help=help or "give one of them another name, or take one away",
    )


def second(diagnostics: Diagnostics, kind: str, span: Span, first: Span) -> None:
    """E202: a part of a study that there is one of."""
    diagnostics.error(
        "E202", f"a second `{kind}`", span, "the second", labels=(Label(first, "the first"),),
        help=f"a study has one `{kind}`: put the two together, or take one away",
    )


def suggestion(
    word: str, options: Iterable[str], otherwise: str | None = None, words: Words | None = None
) -> str | None:
    """A help that says what was meant, or `otherwise`. `words` are what the field calls such things."""
    known = list(dict.fromkeys(options))
    new = renamed(word, known)
    if new is not None:
        return f"it is called `{new}` now"
    if words is not None:
        # A setting or a value is one of what is declared; techniques, runtimes and metrics of the library always are.
        answers = field_words.meant(word, words, known if words is SETTINGS or words is VALUES else None)
        if answers:
            return f"did you mean {either(answers)}?"
    meant = closest(word, known) if not field_words.is_other(word) else None
    return f"did you mean `{meant}`?" if meant is not None else otherwise


def only(span: Span, word: str, options: Iterable[str]) -> Fix | None:
    """The fix of a word that is an old name of one of the options, or can only be a misspelling of it."""
    known = list(dict.fromkeys(options))
    new = renamed(word, known)
    meant = certain(word, known) if new is None and not field_words.is_known(word) else new
    return Fix(span, meant) if meant is not None else None


def either(options: Iterable[str]) -> str:
    """`a, b or c` in backquotes."""
    *others, last = [f"`{option}`" for option in options]
    return f"{', '.join(others)} or {last}" if others else last


def listed(options: Iterable[str], limit: int = 12) -> str:
    """`a, b and c` in backquotes, cut after `limit`."""
    quoted = [f"`{option}`" for option in options]
    if len(quoted) > limit:
        return ", ".join(quoted[:limit]) + f" and {len(quoted) - limit} more"
    return quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + f" and {quoted[-1]}" if quoted else "none"
