"""The standard library's modules, read once a process, and the words that they declare."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from optlang import resources
from optlang.analysis.modules import groups
from optlang.analysis.modules.names import Module, Scope, collect
from optlang.diagnostics.model import Diagnostics
from optlang.syntax import tree
from optlang.syntax.parse import parse_file


@cache
def library() -> tuple[Mapping[str, Module], Mapping[str, str]]:
    """The modules of the standard library, and their texts by the name they are shown under."""
    modules: dict[str, Module] = {}
    texts: dict[str, str] = {}
    for path in sorted(resources.stdlib().glob("*.opt")):
        shown = f"stdlib/{path.name}"
        parsed = parse_file(path, shown)
        texts[shown] = parsed.source.text
        module = modules[path.stem] = Module(path.stem, shown, own=False)
        assert parsed.file is not None, parsed.diagnostics.found
        collect(module, parsed.file, parsed.diagnostics)
        assert not parsed.diagnostics.failed, parsed.diagnostics.found
    problems = Diagnostics()
    for module in modules.values():
        groups.link(module, lambda declared: Scope(declared.module, modules), problems)
    assert not problems.failed, problems.found
    return modules, texts


@cache
def words() -> frozenset[str]:
    """All that the standard library declares: modules, things, their parameters, and the words that these may be."""
    modules, _ = library()
    found = set(modules)
    for module in modules.values():
        for name, declared in module.declared.items():
            if declared.sort != "params":
                found.add(name)
            if isinstance(declared.node, tree.Declaration):
                for param in declared.node.facts:
                    if isinstance(param, tree.Param):
                        found.add(param.name.text)
                        found |= _listed(param.domain)
    return frozenset(found)


def _listed(domain: tree.Domain | None) -> set[str]:
    """The bare words among the values of a domain."""
    if not isinstance(domain, tree.Block):
        return set()
    items = [item.value for item in domain.statements if isinstance(item, tree.Element)]
    return {item.text for item in items if isinstance(item, tree.Path)}
