"""Pipelines: steps with parameters, declared in a module and applied like a technique.

An application is expanded where it stands: the pipeline's steps are read in the scope of the module that declares it,
with its parameters for names, and become a group under the application's label.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from optlang.analysis.conditions import MODELS
from optlang.analysis.knobs import Around, Knobs, Later, Once
from optlang.analysis.lower.choices import label_of
from optlang.analysis.lower.factories import Factories
from optlang.analysis.modules.declarations import Facts, example_of
from optlang.analysis.modules.names import Declared, Scope, duplicate
from optlang.analysis.settings import settings_of
from optlang.analysis.symbols import FIXED, Given
from optlang.analysis.values import Resolver
from optlang.diagnostics.model import Diagnostics, Label, Span, TooMuchError
from optlang.plan.model import Fixed, Location, Param, Step
from optlang.syntax import tree

if TYPE_CHECKING:
    from optlang.analysis.lower.steps import Steps

DEEPEST = 16
"""How deep pipelines may apply one another: each level is read within the one around it."""


def expand(
    reader: Steps, declared: Declared, block: tree.Block | None, around: Around, at: Span
) -> Later[tuple[Step, ...]] | None:
    """The steps of a pipeline that is applied at `at` with the settings in `block`; `around` is below its label."""
    if declared.qualified in reader.open:
        chain = [*reader.open[reader.open.index(declared.qualified) :], declared.qualified]
        reader.facts.broken.update(chain)
        reader.diagnostics.error(
            "E204",
            f"the pipeline `{declared.name}` applies itself",
            at,
            " → ".join(name.rpartition(".")[2] for name in chain),
            help="a pipeline is steps one after another: `repeat` is what does them again",
        )
        return None
    if len(reader.open) >= DEEPEST:
        raise TooMuchError(
            f"pipelines apply one another more than {DEEPEST} levels deep", at, "one level too many",
            "write the inner steps where they are applied",
        )
    pipeline = reader.facts.pipeline(declared)
    if pipeline is None or declared.incomplete or declared.qualified in reader.facts.broken:
        return None
    settings = Once(settings_of(reader.knobs, f"`{declared.name}`", pipeline.params, block, around, at))
    statements = block.statements if block is not None else ()
    written = {item.name.text: item for item in statements if isinstance(item, tree.Fix) and item.when is None}
    # What is searched, or said under a condition, is not known before the knobs are.
    named = {item.name.text for item in statements if isinstance(item, tree.Fix | tree.Vary)} - written.keys()
    given: dict[str, Given] = {}
    for param in pipeline.params:
        default = None if param.required else Fixed(value=param.default)
        fixed = None
        if param.name in written:
            fixed = _settled(reader.resolver, written[param.name], param)
        elif param.name not in named:
            fixed = default
        given[param.name] = Given(
            param, at, fixed, lambda param=param, default=default: settings().get(param.name, default)  # type: ignore[misc]
        )
    found = reader.diagnostics.found
    before = len(found)
    inner = _inner(reader, declared, given, around, at)
    made = inner.block(pipeline.steps.block.statements, replace(around, rounds=()))
    for path in inner.spans:
        reader.spans.setdefault(path, at)
    _applied_here(reader.diagnostics, before, declared, at)

    def build() -> tuple[Step, ...]:
        settings()
        before = len(found)
        steps = made()
        _applied_here(reader.diagnostics, before, declared, at)
        return steps

    return build


def check(
    declared: Declared, scope: Scope, facts: Facts, folder: Path, locate: Callable[[Span], Location]
) -> None:
    """Find what is wrong in the declaration of a pipeline: its steps are read with the defaults of its parameters."""
    from optlang.analysis.lower.steps import Steps

    if declared.incomplete or declared.qualified in facts.broken:
        return
    before = len(facts.diagnostics.found)
    pipeline = facts.pipeline(declared)
    if pipeline is not None:
        _clashes(declared, pipeline.params, pipeline.steps, facts.diagnostics)
        at = pipeline.steps.keyword
        given = {item.name: Given(item, at, Fixed(value=example_of(item)), _no) for item in pipeline.params}
        outer = Steps(Knobs(Resolver(facts.diagnostics, scope), locate), facts, scope, folder)
        around = Around(path=declared.name)
        inner = _inner(outer, declared, given, around, at)
        inner.block(pipeline.steps.block.statements, around)()
    if any(item.severity == "error" for item in facts.diagnostics.found[before:]):
        facts.broken.add(declared.qualified)


def _clashes(declared: Declared, params: tuple[Param, ...], steps: tree.Section, diagnostics: Diagnostics) -> None:
    """E202: a knob of the steps that would have the path of a parameter."""
    first = {member.node.name.text: member.at for member in declared.members}
    for item in steps.block.statements:
        label = label_of(item)
        if label not in {param.name for param in params} or not isinstance(item, tree.Vary | tree.Maybe | tree.Repeat):
            continue
        counted = isinstance(item, tree.Repeat) and isinstance(item.count, tree.Path) and item.count.text == label
        if not counted:
            duplicate(diagnostics, label, item.span, first[label], "give the step, or the parameter, another name")


def _inner(reader: Steps, declared: Declared, given: dict[str, Given], around: Around, at: Span) -> Steps:
    """Reads the steps of the pipeline: in its own scope, and among the knobs of the study."""
    from optlang.analysis.lower.steps import Steps

    scope = reader.facts.scope_of(declared)
    outer = reader.knobs
    resolver = Resolver(
        reader.diagnostics, scope, knobs=outer.resolver.knobs, metrics=outer.resolver.metrics, params=given,
        under=around.path,
    )
    knobs = Knobs(resolver, outer.locate, guards=outer.guards, only=outer.only, applied=outer.applied or at)
    knobs.models = Factories(knobs, reader.facts, scope, reader.folder).setting
    return Steps(
        knobs, reader.facts, scope, reader.folder, used=reader.used, open=(*reader.open, declared.qualified)
    )


def _settled(resolver: Resolver, written: tree.Fix, param: Param) -> Fixed | None:
    """The value of a setting where that is known before the knobs are."""
    if param.dimension in MODELS or any(
        name in resolver.params and resolver.params[name].fixed is None for name in _paths(written.value)
    ):
        return None
    kept, resolver.diagnostics = resolver.diagnostics, Diagnostics(budget=resolver.diagnostics.budget)
    try:
        return resolver.constant(written.value, param, FIXED)
    finally:
        resolver.diagnostics = kept


def _paths(node: tree.Domain) -> set[str]:
    match node:
        case tree.Path():
            return {node.text}
        case tree.Unary(operand=operand):
            return _paths(operand)
        case tree.Binary(left=left, right=right):
            return _paths(left) | _paths(right)
        case tree.ListOf(items=items):
            return {name for item in items for name in _paths(item)}
        case tree.Member(value=value):
            return _paths(value)
    return set()


def _applied_here(diagnostics: Diagnostics, before: int, declared: Declared, at: Span) -> None:
    # What is wrong with a pipeline as it is applied is told at its steps: the study must be named beside them.
    whole = _node(declared).span
    for index in range(before, len(diagnostics.found)):
        item = diagnostics.found[index]
        span = item.primary.span
        inside = span.file == whole.file and whole.start <= span.start < whole.end
        label = Label(at, "applied here")
        if inside and label not in item.labels:
            diagnostics.found[index] = replace(item, labels=(*item.labels, label))


def _node(declared: Declared) -> tree.Declaration:
    assert isinstance(declared.node, tree.Declaration)
    return declared.node


def _no() -> None:
    return None


