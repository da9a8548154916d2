"""Which parameters a declaration has: its own, and where `with` stands those of the groups that it uses.

A pass over the names of one module whose imports are read. What the parameters' types, domains and defaults mean is
declarations.py's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from optlang.analysis.modules.names import (
    SORTS,
    Declared,
    DeclaredParam,
    Module,
    Scope,
    duplicate,
    listed,
    only,
    suggestion,
)
from optlang.diagnostics.model import Diagnostics
from optlang.syntax import tree

_DECLARED = "a group is declared by `params NAME { … }`"


def link(module: Module, scope_of: Callable[[Declared], Scope], diagnostics: Diagnostics) -> None:
    """Enter the parameters of all declarations into the module; `scope_of` gives the scope that one is read in.

    Codes: E201 for what is no group, E202 for a parameter that comes twice, E204 for groups that use one another in a
    circle, E205 for a change to what the group does not have. A declaration with a group that is not known is
    `incomplete`.
    """
    for declared in module.declared.values():
        _members(declared, scope_of, diagnostics, ())


def _members(
    declared: Declared, scope_of: Callable[[Declared], Scope], diagnostics: Diagnostics, around: tuple[Declared, ...]
) -> tuple[DeclaredParam, ...]:
    """The parameters of a declaration; `around` are the groups whose own are being collected."""
    known = declared.module.members
    if declared.name not in known and isinstance(declared.node, tree.Declaration):
        collected = _Collected(declared, scope_of, diagnostics, (*around, declared))
        for fact in declared.node.facts:
            if isinstance(fact, tree.Param):
                collected.own(fact)
            elif isinstance(fact, tree.Uses):
                for use in fact.groups:
                    collected.use(use)
        known[declared.name] = tuple(collected.found.values())
    return declared.members


@dataclass(slots=True, eq=False)
class _Collected:
    """The parameters of one declaration so far, by their names."""

    declared: Declared
    scope_of: Callable[[Declared], Scope]
    diagnostics: Diagnostics
    around: tuple[Declared, ...]
    found: dict[str, DeclaredParam] = field(default_factory=dict)
    _used: dict[str, tree.Path] = field(default_factory=dict)

    def own(self, node: tree.Param) -> None:
        name = node.name.text
        first = self.found.setdefault(name, DeclaredParam(node, node.name.span))
        if first.node is not node:
            advice = _otherwise(first.group.name, name) if first.group is not None else None
            duplicate(self.diagnostics, name, node.name.span, first.at, advice)

    def use(self, use: tree.Use) -> None:
        group = self._group(use.group)
        if group is None:
            self.declared.module.incomplete.add(self.declared.name)
            return
        if group.qualified in self._used:
            duplicate(
                self.diagnostics, use.group.text, use.group.span, self._used[group.qualified].span,
                "the parameters of a group are there once: take one of the two away",
            )
            return
        self._used[group.qualified] = use.group
        changes = self._changes(group, use)
        clashes = [member.node.name.text for member in group.members if member.node.name.text in self.found]
        for name in clashes[:1]:
            first = self.found[name]
            advice = "use one of the two groups, or put what both have into a third that is used once"
            if first.group is None:
                advice = _otherwise(use.group.text, name)
            duplicate(self.diagnostics, name, use.group.span, first.at, advice)
        for member in group.members:
            name = member.node.name.text
            if name not in self.found:
                change = changes.get(name)
                node = member.node if change is None else _with(member.node, change)
                self.found[name] = DeclaredParam(node, use.group.span, group, change)

    def _group(self, path: tree.Path) -> Declared | None:
        """The group that `path` names, with its parameters collected; None where there is none, which is reported."""
        scope = self.scope_of(self.declared)
        found = scope.find(path)
        if found is None:
            if not scope.absorbs(path):
                options = scope.names("params")
                scope.missed(path, options)
                self.diagnostics.error(
                    "E201", f"unknown group of parameters `{path.text}`", path.span,
                    "not declared in this file or the standard library", help=suggestion(path.text, options, _DECLARED),
                    fix=only(path.span, path.text, options),
                )
            return None
        if found.sort != "params":
            self.diagnostics.error(
                "E201", f"`{path.text}` is {SORTS[found.sort]}, and {SORTS['params']} is expected", path.span,
                help=_DECLARED,
            )
            return None
        if found in self.around:
            circle = [item.name for item in (*self.around[self.around.index(found) :], found)]
            self.diagnostics.error(
                "E204", f"the group `{found.name}` uses itself", path.span, " → ".join(circle),
                help="put the parameters that both need into a third group",
            )
            return None
        _members(found, self.scope_of, self.diagnostics, self.around)
        if found.incomplete:
            self.declared.module.incomplete.add(self.declared.name)
        return found

    def _changes(self, group: Declared, use: tree.Use) -> dict[str, tree.Change]:
        """What is changed of the group's parameters, by their names."""
        changes: dict[str, tree.Change] = {}
        known = {member.node.name.text: member for member in group.members}
        table = self.scope_of(self.declared).table
        for item in use.changes.items if use.changes is not None else ():
            name = item.name.text
            if name in changes:
                duplicate(self.diagnostics, name, item.name.span, changes[name].name.span, "keep one of them")
            elif name in known:
                table.refer(item.name.span, known[name].definition(group))
                changes[name] = item
            elif not group.incomplete:
                self.diagnostics.error(
                    "E205", f"`{use.group.text}` has no parameter `{name}`", item.name.span, "not declared",
                    help=suggestion(name, known, f"it has {listed(known)}" if known else "it has none"),
                    fix=only(item.name.span, name, known),
                )
        return changes


def _with(node: tree.Param, change: tree.Change) -> tree.Param:
    """The parameter as it would be written with the change."""
    return replace(
        node, domain=change.domain or node.domain, default=change.default or node.default, help=change.help or node.help
    )


def _otherwise(group: str, name: str) -> str:
    """The help where a declaration repeats a parameter of a group."""
    return f"give one of them another name; what the group says is changed by `with {group} {{ {name} = … }}`"
