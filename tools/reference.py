"""Writes the reference pages of the docs: the standard library as it is declared, and the catalogue of codes.

`python -m tools.reference docs` writes them into the folder `docs`. It knows what stands in the declarations,
and nothing of the Python that they call.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from optlang.analysis.modules.library import library
from optlang.analysis.modules.names import Declared
from optlang.diagnostics.catalogue import ENTRIES, Entry
from optlang.report.explain import facts
from optlang.syntax import tree
from tools.ebnf import grammar_page

_MADE = "<!-- Made by `python -m tools.reference docs`: do not edit. -->"

def library_page() -> str:
    """`docs/library.md`: everything that a study can name without an import."""
    declared = [item for module in library()[0].values() for item in module.declared.values()]
    lines = [
        "# The standard library", "", _MADE, "",
        "What a study can name without an import, by its own name (`static`) or its module's (`quant.static`). A",
        "parameter that a study does not set has its default; what a study searches must be allowed here. How these",
        "are written into a study: [the language](language.md). `optlang explain static` prints what is said here in a",
        "terminal, with an example; `optlang explain` lists all names. Groups of parameters are for",
        "[declarations](language/declarations.md#groups-of-parameters) of your own, which name them after `with`.", "",
    ]
    sections: tuple[tuple[str, str, Callable[[Declared], Iterator[str]]], ...] = (
        ("technique", "Techniques", _declaration),
        ("pipeline", "Pipelines", _declaration),
        ("runtime", "Runtimes", _declaration),
        ("model", "Models", _declaration),
        ("data", "Data sets", _declaration),
        ("target", "Targets", _target),
        ("params", "Groups of parameters", _declaration),
    )
    for sort, title, write in sections:
        found = [item for item in declared if item.sort == sort]
        if found:
            lines += [f"## {title}", ""]
            for item in found:
                lines += write(item)
    lines += ["## Metrics", "", *_metrics([item for item in declared if item.sort == "metric"])]
    return "\n".join(lines).rstrip() + "\n"


def _text(node: tree.Node) -> str:
    """What was written at `node`, in one line."""
    whole = library()[1][node.span.file]
    return " ".join(whole[node.span.start : node.span.end].split())


def _lines(item: Declared, node: tree.Node) -> str:
    """What was written at `node`, in its own lines."""
    whole = library()[1][item.module.file]
    start = whole.rfind("\n", 0, node.span.start) + 1
    return textwrap.dedent(whole[start : node.span.end])


def _declaration(item: Declared) -> Iterator[str]:
    node = item.node
    assert isinstance(node, tree.Declaration)
    yield f"### {item.name}"
    yield ""
    yield f"`{item.qualified}`{': ' + node.help.value if node.help else ''}."
    yield ""
    if node.kind == "pipeline":
        yield "Applied like a technique; it does, one after another:"
        yield ""
        yield "```text"
        for fact in node.facts:
            if isinstance(fact, tree.Section):
                for statement in fact.block.statements:
                    yield _lines(item, statement)
        yield "```"
        yield ""
    clauses = list(facts(node))
    if clauses:
        yield from (f"- {fact}" for fact in clauses)
        yield ""
    params = [member.node for member in item.members]
    if not params:
        yield "No parameters."
        yield ""
        return
    yield "| parameter | type | allowed | default | |"
    yield "|---|---|---|---|---|"
    for param in params:
        when = f"only when `{_text(param.when)}`" if param.when else ""
        said = "; ".join(part for part in (param.help.value if param.help else "", when) if part)
        allowed = f"`{_text(param.domain)}`" if param.domain else "any"
        default = f"`{_text(param.default)}`" if param.default else "must be set"
        yield f"| `{param.name.text}` | {param.type.text} | {allowed} | {default} | {said} |"
    yield ""


def _target(item: Declared) -> Iterator[str]:
    node = item.node
    assert isinstance(node, tree.Target)
    yield f"### {item.name}"
    yield ""
    yield f"`target here = {item.qualified}` starts from this; what a study says itself takes its place:"
    yield ""
    yield "```text"
    for statement in node.block.statements if node.block else ():
        yield _text(statement)
    yield "```"
    yield ""


def _metrics(found: list[Declared]) -> Iterator[str]:
    yield "The task of the data gives its own (see [the guide](guide.md#data)); the others are measured on every trial."
    yield "`latency` alone is `latency.p50`. With `baseline.` before it, a metric is the reference model's."
    yield ""
    yield "| metric | type | better | from | |"
    yield "|---|---|---|---|---|"
    for item in found:
        node = item.node
        assert isinstance(node, tree.Metric)
        better = "lower" if node.direction == "minimize" else "higher"
        origin = "measuring" if node.measured else "the task"
        said = node.help.value if node.help else ""
        yield f"| `{node.path.text}` | {node.type.text} | {better} | {origin} | {said} |"


_FAMILIES = {
    "1": "Syntax", "2": "Names", "3": "Types", "4": "Domains", "5": "Steps", "6": "Goals", "7": "Plug-ins and Python",
}


def errors_page() -> str:
    """`docs/errors.md`: every code of the catalogue."""
    lines = [
        "# Errors and warnings", "", _MADE, "",
        "What `optlang check` may find, by code; `optlang explain E201` prints the same. Codes that begin with W are",
        "warnings: the study runs. An example is a part of a study unless it begins with a study, a declaration or an",
        "edition of its own.", "",
    ]
    family = ""
    for entry in ENTRIES:
        if entry.code[1] != family:
            family = entry.code[1]
            lines += [f"## {_FAMILIES[family]}", ""]
        lines += _entry(entry)
    return "\n".join(lines).rstrip() + "\n"


def _entry(entry: Entry) -> Iterator[str]:
    yield f"### {entry.code}: {entry.title}"
    yield ""
    yield entry.means
    yield ""
    yield f"Why it matters: {entry.why}"
    yield ""
    for title, example in (("Wrong", entry.wrong), ("Right", entry.right)):
        yield f"{title}:"
        yield "```text"
        yield example.rstrip("\n")
        yield "```"
    yield ""


PAGES: Mapping[str, Callable[[], str]] = {
    "library.md": library_page, "errors.md": errors_page, "language/grammar.md": grammar_page,
}
"""The generated pages, by their file's name in the docs."""


def main(arguments: list[str]) -> int:
    """Write the pages into the folder that is named, and say which."""
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        sys.stderr.write("usage: python -m tools.reference FOLDER\n")
        return 2
    for name, write in PAGES.items():
        path = Path(arguments[0]) / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(write(), encoding="utf-8")
        sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
