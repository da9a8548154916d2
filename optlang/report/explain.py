"""The meaning of a name, for the terminal: declarations of the library, samplers, settings and parameters.

It reads declarations; nothing that they call is imported.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache

from optlang.analysis.load import module_at
from optlang.analysis.lower.axes import EXAMPLES
from optlang.analysis.lower.devices import EXAMPLES as DEVICES
from optlang.analysis.lower.search_settings import ABOUT, MEASURE, SAMPLERS, SEARCH
from optlang.analysis.lower.targets import PARAMS
from optlang.analysis.modules.library import library
from optlang.analysis.modules.names import Declared, Module, either
from optlang.analysis.modules.plugins import plugins
from optlang.diagnostics import field_words
from optlang.diagnostics.catalogue import ENTRIES
from optlang.diagnostics.field_words import METRICS, RUNTIMES, STEPS
from optlang.diagnostics.renamed import renamed
from optlang.diagnostics.suggest import closest
from optlang.interfaces import FORMS, NEEDS
from optlang.plan.domains import show_domain
from optlang.plan.metrics import ALIASES, full_name, short_name
from optlang.plan.model import TRIALS, Param
from optlang.plan.units import TYPES, show
from optlang.syntax import tree

_WIDTH = 100
_TYPE = {dimension: name for name, dimension in reversed(TYPES.items())}
_UNSET = {"time": "30min", "count": str(TRIALS), "bytes": "20GB"}
"""Values of settings without a default, for an example."""
_TITLES = {
    "technique": "Techniques", "pipeline": "Pipelines", "runtime": "Runtimes", "model": "Models", "data": "Data sets",
    "target": "Targets", "metric": "Metrics", "params": "Groups of parameters",
}
_LONG = ("names", "model", "models")
"""Types whose values are too long for an example."""

_SECTIONS: Mapping[str, tuple[Param, ...]] = {"search": SEARCH, "measure": MEASURE, "target": PARAMS}

_FACTS = {
    "needs": "needs",
    "takes": "takes",
    "gives": "gives",
    "traits": "traits",
    "after": "comes after",
    "excludes": "excludes",
    "performs": "carries out itself",
    "recovered_by": "recovered by",
    "stronger_with": "stronger with more",
    "milder_with": "milder with more",
}
_COST = {
    "settings": "Size and speed depend on the settings alone.",
    "weights": "Size and speed depend on the weights too.",
}


def explained(name: str) -> str | None:
    """All that `name` stands for: a code, something that is declared, a sampler, a setting; None where it is nothing.

    A thing is named by its own name (`static`) or its module's too (`quant.static`). Modules of installed
    distributions count as the library's.
    """
    entry = next((item for item in ENTRIES if item.code == name.upper()), None)
    if entry is not None:
        return entry.text()
    wanted = full_name(name)
    pages = [_declared(item) for item in _items() if wanted in (item.name, item.qualified)]
    if name in SAMPLERS:
        pages.append(_sampler(name))
    for section, params in _SECTIONS.items():
        pages += [_setting(section, param) for param in params if param.name == name]
    if not pages:
        pages += _parameters(name)
    return "\n".join(pages) or None


def suggestion(name: str) -> str:
    """What an unknown name was probably to be."""
    words: list[str] = []
    for table in (STEPS, RUNTIMES, METRICS, field_words.SAMPLERS):
        words += [word for word in field_words.meant(name, table) if re.fullmatch(r"[\w.]+", word)]
    if words:
        return f"did you mean {either(dict.fromkeys(words))}?"
    if re.fullmatch(r"[EW]\d\w{1,3}", name.upper()):
        near = closest(name.upper(), [item.code for item in ENTRIES])
        return f"did you mean `{near}`?" if near else f"codes go from {ENTRIES[0].code} to {ENTRIES[-1].code}"
    known = [item.name for item in _items()] + [item.qualified for item in _items()]
    settings = [param.name for params in _SECTIONS.values() for param in params]
    known += [*ALIASES, *SAMPLERS, *settings, *_names_of_parameters()]
    new = renamed(name, known)
    if new is not None:
        return f"it is called `{new}` now"
    near = closest(name, known)
    return f"did you mean `{near}`?" if near else "`optlang explain` lists all names"


def listed(kind: str) -> list[dict[str, str]]:
    """What there is of a kind (`techniques`, `samplers`): name, name with its module's, and a line of help each."""
    if kind == "samplers":
        return [{"name": name, "qualified": name, "help": text} for name, text in ABOUT.items()]
    return [
        {"name": item.name, "qualified": item.qualified, "help": _help(item)} for item in _items()
        if item.sort == kind.removesuffix("s")
    ]


def listing_of(kind: str) -> str:
    """The same as text: a name and its help a line, and how to read on."""
    found = [(item["name"], item["help"]) for item in listed(kind)]
    rows = [line.removeprefix("  ") for line in _columns(found)]
    return "\n".join([*rows, "", f"`optlang explain {found[0][0]}` says all of one"]) + "\n"


def listing() -> str:
    """All names that can be explained, each with a line of help."""
    groups = {
        title: [(item.name, _help(item)) for item in _items() if item.sort == sort] for sort, title in _TITLES.items()
    }
    groups["Samplers"] = list(ABOUT.items())
    for section, params in _SECTIONS.items():
        groups[f"Settings of `{section}`"] = [(param.name, param.help) for param in params]
    rows: list[str] = []
    for title, found in groups.items():
        if found:
            rows += [title, *_columns(found), ""]
    codes = f"{ENTRIES[0].code} … {max(item.code for item in ENTRIES if item.code[0] == 'E')}"
    rows += ["Codes", f"  {codes} and warnings W…: the problems that `optlang check` reports"]
    return "\n".join(rows) + "\n"


def _columns(found: Iterable[tuple[str, str]]) -> Iterator[str]:
    rows = list(found)
    width = max(len(name) for name, _ in rows)
    for name, help_text in rows:
        yield from textwrap.wrap(
            help_text, _WIDTH, initial_indent=f"  {name:{width}}  ", subsequent_indent=" " * (width + 4)
        ) or [f"  {name}"]


# ---- where things are declared


@cache
def _modules() -> tuple[tuple[Module, ...], Mapping[str, str]]:
    """The library's modules and those of installed distributions, and the texts of all their files."""
    modules, texts = library()
    found, read = list(modules.values()), dict(texts)
    for plugin in plugins():
        if plugin.file is None or plugin.name in modules:
            continue
        brought = module_at(plugin.file, plugin.name)
        if brought is not None:
            found.append(brought[0])
            read |= brought[1]
    return tuple(found), read


def _items() -> Iterator[Declared]:
    for module in _modules()[0]:
        yield from (item for item in module.declared.values() if item.sort in _TITLES)


def _written(node: tree.Node) -> str:
    """What was written at `node`, in one line."""
    return " ".join(_modules()[1][node.span.file][node.span.start : node.span.end].split())


def _lines(node: tree.Node) -> str:
    """What was written at `node`, in its own lines."""
    text = _modules()[1][node.span.file]
    return textwrap.dedent(text[text.rfind("\n", 0, node.span.start) + 1 : node.span.end])


def _help(item: Declared) -> str:
    if isinstance(item.node, tree.Target):
        statements = item.node.block.statements if item.node.block is not None else ()
        return "; ".join(_written(statement) for statement in statements)
    help_text = getattr(item.node, "help", None)
    return help_text.value if help_text is not None else ""


# ---- pages


def _page(head: str, help_text: str, parts: Iterable[tuple[str, str]]) -> str:
    rows = [head, *textwrap.wrap(help_text, _WIDTH, initial_indent="  ", subsequent_indent="  ")]
    for title, body in parts:
        if body:
            rows += ["", f"{title}:", "", textwrap.indent(body, "    ")]
    return "\n".join(rows) + "\n"


def _declared(item: Declared) -> str:
    pages: Mapping[type, Callable[[Declared], str]] = {
        tree.Declaration: _declaration, tree.Target: _target, tree.Metric: _metric,
    }
    return pages[type(item.node)](item)


def _declaration(item: Declared) -> str:
    node = item.node
    assert isinstance(node, tree.Declaration)
    steps = [statement for fact in node.facts if isinstance(fact, tree.Section) for statement in fact.block.statements]
    said = facts(node)
    sort = "group of parameters" if item.sort == "params" else item.sort
    return _page(f"{sort} {item.name} ({item.qualified})", _help(item), (
        ("It does, one after another", "\n".join(_lines(statement) for statement in steps)),
        ("Parameters", "\n".join(_param(member.node) for member in item.members) or "none"),
        ("What it needs, accepts and returns", "\n".join(said)),
        ("Example", example(item)),
    ))


def _param(param: tree.Param) -> str:
    """A parameter as it is declared, and its help on the next line."""
    parts = (("in", param.domain), ("=", param.default), ("when", param.when))
    declared = f"{param.name.text}: {param.type.text}"
    declared += "".join(f" {word} {_written(node)}" for word, node in parts if node is not None)
    help_text = param.help.value if param.help else ""
    rows = [declared, *textwrap.wrap(help_text, _WIDTH - 8, initial_indent="    ", subsequent_indent="    ")]
    return "\n".join(rows)


def _target(item: Declared) -> str:
    assert isinstance(item.node, tree.Target)
    body = item.node.block.statements if item.node.block else ()
    return _page(
        f"target {item.name} ({item.qualified})", "A target to start from; a study overrides its settings.",
        (("It says", "\n".join(_written(statement) for statement in body)), ("Example", example(item))),
    )


def _metric(item: Declared) -> str:
    node = item.node
    assert isinstance(node, tree.Metric)
    better = "less is better" if node.direction == "minimize" else "more is better"
    origin = "measured on every trial" if node.measured else "returned by the task of the data"
    if node.value is not None:
        origin = "computed by an object of Python"
    column = item.name.replace(".", "_")
    said = f"a {node.type.text}: {better}\n{origin}\nthe column {column} of the views"
    return _page(f"metric {item.name}", _help(item), (("It is", said), ("Example", example(item))))


def _sampler(name: str) -> str:
    return _page(f"sampler {name}", ABOUT[name], (
        ("Parameters", "\n".join(_given(param) for param in SAMPLERS[name]) or "none"),
        ("Example", f"search {{ sampler = {name}{_settings(SAMPLERS[name])} }}"),
    ))


def _settings(params: tuple[Param, ...]) -> str:
    settings = "; ".join(f"{param.name} = {show(param.default, param.dimension)}" for param in params)
    return f" {{ {settings} }}" if settings else ""


def _given(param: Param) -> str:
    domain = f" in {show_domain(param.domain, param.dimension)}" if param.domain is not None else ""
    default = f"{_TYPE[param.dimension]}{domain} = {show(param.default, param.dimension)}"
    return f"{param.name}: {default}\n    {param.help}"


def _setting(section: str, param: Param) -> str:
    value = show(param.default, param.dimension) if param.default is not None else _UNSET[param.dimension]
    if section == "target":
        value = EXAMPLES.get(param.name, value)
    start = f"{section} {{ "
    if section == "target":
        where = f"device = {DEVICES['ssh']}; " if param.name == "reconnect" else ""
        start = f"{section} here {{ {where}runtime = onnxruntime; "
    return _page(f"setting {param.name} of `{section}`", param.help, (
        ("It is", _given(param).split("\n")[0]), ("Example", f"{start}{param.name} = {value} }}"),
    ))


def _names_of_parameters() -> set[str]:
    return {member.node.name.text for item in _items() for member in item.members}


def _parameters(name: str) -> list[str]:
    """Where `name` is a parameter: `samples`, or `static.samples` of one thing."""
    owner, _, last = name.rpartition(".")
    found: dict[str, list[str]] = {}
    for item in _items():
        if owner not in ("", item.name, item.qualified) or (not owner and item.sort == "params"):
            continue
        for member in item.members:
            if member.node.name.text == last:
                found.setdefault(_param(member.node), []).append(item.name)
    if not found:
        return []
    parts = [(f"Of {', '.join(owners)}", declared) for declared, owners in found.items()]
    return [_page(f"parameter {last}", "", parts)]


# ---- examples


def example(item: Declared) -> str:
    """Members of a study that use the thing, below the import of a module that is not the library's."""
    if item.module.name in library()[0]:
        return _use(item, item.name)
    return f"import {item.module.name}\n\n{_use(item, item.qualified)}"


def _use(item: Declared, called: str) -> str:
    match item.node:
        case tree.Metric(direction=direction, type=kind, measured=measured):
            name = short_name(item.name)
            bound = f"{name} {'<=' if direction == 'minimize' else '>='} "
            more = f"baseline.{name} - 1%" if kind.text == "ratio" else f"0.9 * baseline.{name}"
            if kind.text == "ratio" and measured:
                more = "30%"
            return f"{direction} {name}\nrequire {bound}{more}"
        case tree.Target():
            return f"target here = {item.qualified} {{ batch = 8 }}"
        case tree.Declaration(kind="runtime"):
            needs = {path.text for fact in item.node.facts if isinstance(fact, tree.Clause) and fact.keyword == "needs"
                     for path in fact.paths}
            device = {"gpu": "device = cuda; ", "browser": "device = browser; "}
            before = "".join(text for need, text in device.items() if need in needs)
            return f"target here {{ {before}runtime = {called}{_braced(item)} }}"
        case tree.Declaration(kind="params"):
            return f'technique mine {{ calls "mine.py:mine"; with {item.qualified}{_braced(item, "=")} }}'
        case tree.Declaration(kind="model" | "data" as kind):
            arguments = ", ".join(_chosen(item, "="))
            return f"{kind} {'net' if kind == 'model' else 'seen'} = {item.qualified}({arguments})"
    return f"steps {{ maybe {called}{_braced(item)} }}"


def _braced(item: Declared, only: str = "") -> str:
    chosen = "; ".join(_chosen(item, only))
    return f" {{ {chosen} }}" if chosen else ""


def _chosen(item: Declared, only: str = "") -> list[str]:
    """Up to two of the parameters, with their defaults, or searched among their words where `only` is not `=`."""
    found: list[str] = []
    for param in (member.node for member in item.members):
        if param.when is not None or param.type.text in _LONG:
            continue
        name, default = param.name.text, _written(param.default) if param.default is not None else ""
        listed = param.domain.statements if isinstance(param.domain, tree.Block) else ()
        words = [_written(word) for word in listed]
        others = [word for word in words if word not in (default, "none")]
        if others and only != "=":
            found.append(f"{name} in {{{default}, {others[0]}}}")
        elif default:
            found.append(f"{name} = {default}")
    return found[:2]


def facts(node: tree.Declaration) -> Iterator[str]:
    """What a declaration needs, takes, gives, comes after, excludes and carries out itself: a line each."""
    clauses: dict[str, list[str]] = {}
    for fact in node.facts:
        if isinstance(fact, tree.Clause):
            clauses.setdefault(fact.keyword, []).extend(path.text for path in fact.paths)
    for keyword, title in _FACTS.items():
        if keyword not in clauses:
            continue
        words: Mapping[str, str] = NEEDS if keyword == "needs" else FORMS if keyword in ("takes", "gives") else {}
        shown = [words.get(name, f"`{name}`") for name in clauses[keyword]]
        if keyword == "after":
            shown = [f"all of `{name}`" if name in library()[0] else f"`{name}`" for name in clauses[keyword]]
        yield f"{title}: {(' or ' if keyword == 'takes' else ', ').join(shown)}"
    if node.kind == "technique":
        yield _COST[clauses.get("cost_depends_on", ["settings"])[0]]
