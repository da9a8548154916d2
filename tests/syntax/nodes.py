"""What the tests of the tree share: walking it, comparing it without places, and printing it as text again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from optlang.syntax import tree


def walk(node: Any) -> Iterator[tree.Node]:
    """A node and all below it."""
    if isinstance(node, tree.Node):
        yield node
        for field in dataclasses.fields(node):
            yield from walk(getattr(node, field.name))
    elif isinstance(node, tuple):
        for item in node:
            yield from walk(item)


def shape(node: Any) -> Any:
    """A node as nested tuples, without the places in the text."""
    if isinstance(node, tree.Node):
        fields = [field.name for field in dataclasses.fields(node) if field.name not in ("span", "keyword")]
        if isinstance(node, tree.Clause):
            fields.append("keyword")
        return (type(node).__name__, *(shape(getattr(node, name)) for name in fields))
    return tuple(shape(item) for item in node) if isinstance(node, tuple) else node


def text(node: Any) -> str:
    """The node as text; every expression that has parts stands in parentheses."""
    match node:
        case tree.Name():
            return node.text
        case tree.Number():
            return f"{node.value}{node.unit or ''}"
        case tree.String():
            escaped = node.value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
            return f'"{escaped}"'
        case tree.Truth():
            return "true" if node.value else "false"
        case tree.Path():
            return node.text
        case tree.Call():
            return f"{text(node.path)}({', '.join(map(text, node.arguments))})"
        case tree.ListOf():
            return f"[{', '.join(map(text, node.items))}]"
        case tree.Unary():
            return f"({node.operator} {text(node.operand)})"
        case tree.Binary():
            return f"({text(node.left)} {node.operator} {text(node.right)})"
        case tree.Member():
            return f"({text(node.value)} in {text(node.options)})"
        case tree.Range():
            end = " log" if node.log else f" step {text(node.step)}" if node.step is not None else ""
            return f"{text(node.low)} .. {text(node.high)}{end}"
        case tree.AnyValue():
            return "any"
        case tree.AnyOrder():
            return f"any order {text(node.block)}"
        case tree.Block():
            return "{ " + "; ".join(map(text, node.statements)) + " }"
        case tree.Fix():
            return f"{text(node.name)} = {text(node.value)}{_block(node.block)}{_when(node.when)}"
        case tree.Vary():
            return f"{text(node.name)} in {text(node.domain)}{_when(node.when)}"
        case tree.Element():
            return f"{text(node.value)}{_block(node.block)}{_when(node.when)}"
        case tree.Maybe():
            return f"maybe {text(node.statement)}"
        case tree.Repeat():
            sign = "=" if node.fixed else "in"
            return f"repeat {text(node.name)} {sign} {text(node.count)} {text(node.block)}{_when(node.when)}"
        case tree.Guard():
            return f"when {text(node.condition)} {text(node.block)}"
        case tree.Section():
            return f"{node.kind} {text(node.block)}"
        case tree.Let():
            return f"let {text(node.name)} = {text(node.value)}"
        case tree.Input():
            return f"input {text(node.name)}: {text(node.type)}{_in(node.domain)}{_is(node.default)}{_help(node.help)}"
        case tree.Param():
            middle = f"{_in(node.domain)}{_is(node.default)}{_when(node.when)}"
            return f"param {text(node.name)}: {text(node.type)}{middle}{_help(node.help)}"
        case tree.Metric():
            measured = " measured" if node.measured else ""
            middle = f"{node.direction}{measured}{_is(node.value)}"
            return f"metric {text(node.path)}: {text(node.type)} {middle}{_help(node.help)}"
        case tree.Make():
            return f"{node.kind} {text(node.name)} = {text(node.value)}"
        case tree.Target():
            base = f" = {text(node.base)}" if node.base is not None else ""
            return f"target {text(node.name)}{base}{_block(node.block)}"
        case tree.Rule():
            because = f" because {text(node.because)}" if node.because is not None else ""
            return f"{node.kind} {text(node.expression)}{because}"
        case tree.Goal():
            return f"{node.direction} {', '.join(map(text, node.metrics))}"
        case tree.Change():
            return f"{text(node.name)}{_in(node.domain)}{_is(node.default)}{_help(node.help)}"
        case tree.Changes():
            return "{ " + "; ".join(map(text, node.items)) + " }"
        case tree.Use():
            return text(node.group) + (f" {text(node.changes)}" if node.changes is not None else "")
        case tree.Uses():
            return f"with {', '.join(map(text, node.groups))}"
        case tree.Calls():
            return f"calls {text(node.value)}"
        case tree.Clause():
            return f"{node.keyword} {', '.join(map(text, node.paths))}"
        case tree.Study():
            return f"study {text(node.name)}{_help(node.title)} {{\n" + _lines(node.members) + "}"
        case tree.Declaration():
            return f"{node.kind} {text(node.name)}{_help(node.help)} {{\n" + _lines(node.facts) + "}"
        case tree.ImportModule():
            return f"import {text(node.path)}" + (f" as {text(node.alias)}" if node.alias is not None else "")
        case tree.ImportNames():
            return f"from {text(node.path)} import {', '.join(map(text, node.names))}"
        case tree.ImportPython():
            return f"import python {text(node.source)} as {text(node.alias)}"
        case tree.File():
            return "optlang 1\n" + "".join(f"{text(item)}\n" for item in (*node.imports, *node.items))
    raise AssertionError(node)


def _lines(nodes: tuple[Any, ...]) -> str:
    return "".join(f"  {text(node)}\n" for node in nodes)


def _block(block: tree.Block | None) -> str:
    return f" {text(block)}" if block is not None else ""


def _when(condition: Any) -> str:
    return f" when {text(condition)}" if condition is not None else ""


def _in(domain: Any) -> str:
    return f" in {text(domain)}" if domain is not None else ""


def _is(default: Any) -> str:
    return f" = {text(default)}" if default is not None else ""


def _help(words: tree.String | None) -> str:
    return f" {text(words)}" if words is not None else ""
