"""`metric` → the metrics that goals and requirements can name: those that optlang measures, and the user's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from optlang.analysis.definitions import Definition, Symbols
from optlang.analysis.modules.names import Scope, duplicate, listed, only, suggestion
from optlang.diagnostics.model import Diagnostics, Span
from optlang.plan.model import FactoryUse, Metric
from optlang.plan.units import TYPES
from optlang.syntax import tree

NO_METRIC = ("name", "names", "string", "bool", "model", "models")

Made: TypeAlias = "Callable[[tree.Metric], FactoryUse | None]"
"""Reads the call that makes the object which computes a metric."""


def metrics_of(
    scope: Scope, nodes: Iterable[tree.Metric], symbols: Symbols, diagnostics: Diagnostics, made: Made
) -> dict[str, Metric]:
    """The metrics of the standard library, of the file and of the study (`nodes`); E202 where a name comes twice."""
    found: dict[str, Metric] = {}
    for module in scope.library.values():
        for item in module.declared.values():
            if isinstance(item.node, tree.Metric):
                metric = metric_of(item.node, diagnostics, own=False)
                assert metric is not None
                found[metric.name] = metric
                symbols.metrics[metric.name] = item.definition
    first: dict[str, Span] = {}
    own = [item.node for item in scope.own.declared.values() if isinstance(item.node, tree.Metric)]
    for node in (*own, *nodes):
        name = node.path.text
        if name in first:
            duplicate(diagnostics, name, node.path.span, first[name])
            continue
        first[name] = node.path.span
        metric = metric_of(node, diagnostics, own=True, made=made)
        symbols.metrics[name] = symbols.table.define(Definition("metric", name, node.path.span, fixed=True))
        if metric is None:
            scope.break_name(tree.Name(node.path.span, name))
        else:
            found[name] = metric
    return found


def metric_of(
    node: tree.Metric, diagnostics: Diagnostics, *, own: bool, made: Made | None = None
) -> Metric | None:
    """The facts of a metric; E205 where one of the user's own is declared as measured: its values are the task's."""
    dimension = TYPES.get(node.type.text)
    if dimension is None or dimension in NO_METRIC:
        types = [name for name in TYPES if name not in NO_METRIC]
        diagnostics.error(
            "E201", f"a metric cannot be of type `{node.type.text}`", node.type.span,
            help=suggestion(node.type.text, types, f"it is one of {listed(types)}"),
            fix=only(node.type.span, node.type.text, types),
        )
        return None
    if own and node.measured:
        origin = "the task returns" if node.value is None else "Python computes"
        diagnostics.error(
            "E205", f"`measured` says nothing about `{node.path.text}`: {origin} it", node.path.span,
            help="take `measured` away; the library's metrics are those that optlang measures itself",
        )
    if node.value is not None and made is None:
        diagnostics.error(
            "E205", f"what computes `{node.path.text}` is named in a module", node.value.span, "not read here",
            help="write the metric in the study's own file",
        )
    return Metric(
        name=node.path.text,
        dimension=dimension,
        direction=node.direction,
        task=own or not node.measured,
        help=node.help.value if node.help else "",
        made_by=made(node) if node.value is not None and made is not None else None,
    )
