"""Choices and orders among steps: their branches, the knob that says which is taken, or in which order they run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import factorial
from typing import TYPE_CHECKING

from optlang.analysis.knobs import Around, Guard, Later, Made, always
from optlang.diagnostics.model import Label, Span
from optlang.plan.expressions import Binary, Const, KnobRef
from optlang.plan.model import Apply, Branch, Choice, Group, Order, OrderDomain, SetDomain, Step
from optlang.syntax import tree

if TYPE_CHECKING:
    from optlang.analysis.lower.steps import Steps


def choice(reader: Steps, node: tree.Vary, block: tree.Block, around: Around) -> Made | None:
    """`NAME in { … }`: exactly one of the branches."""
    path = around.at(node.name.text)
    labels: dict[str, Span] = {}
    kept: list[tuple[str, tree.Statement]] = []
    whens: dict[str, tuple[tree.Expression, ...]] = {}
    items = list(branches_of(block))
    for item, conditions in items:
        label = _branch_label(reader, item)
        if label is None:
            continue
        if label[0] in labels:
            reader.diagnostics.error(
                "E405",
                f"`{label[0]}` is listed twice",
                label[1],
                "the second time",
                labels=(Label(labels[label[0]], "the first time"),),
                help=f"take one away, or give it a label of its own: `NAME = {label[0]}`",
            )
            continue
        labels[label[0]] = label[1]
        reader.spans[f"{path}.{label[0]}"] = label[1]
        whens[label[0]] = conditions
        kept.append((label[0], item))
    doubtful = len(kept) < len(items)
    if not kept:
        if not items:
            reader.diagnostics.error("E505", "a choice without branches", block.span, "nothing to choose from")
        return None
    if len(kept) == 1 and len(items) == 1:
        reader.diagnostics.error(
            "E505",
            f"a choice with one branch, `{kept[0][0]}`",
            block.span,
            "nothing to choose from",
            help="fix it with `=`, or add `none`" if kept[0][0] != "none" else "add a second branch",
        )
    guard = reader.knobs.when(node.when, around)
    outer = around.under(guard) if guard else around
    domain = SetDomain(values=tuple(label for label, _ in kept))
    only = {label: reader.knobs.branch(nodes, outer) for label, nodes in whens.items()}
    if reader.knobs.add(path, "choice", domain, "name", node.name.span, outer, only=given(only)):
        reader.resolver.knobs[-1].doubtful = doubtful
    branches = [
        (
            label,
            labels[label],
            _branch(reader, label, item, replace(outer, path=path, guards=(*outer.guards, _is(path, label)))),
        )
        for label, item in kept
    ]

    def build() -> Step | None:
        built = tuple(Branch(name=label, steps=steps()) for label, _, steps in branches)
        _equal(reader, built, [span for _, span, _ in branches])
        if around.fixed is not None:
            return None
        return Choice(
            path=path, branches=built, when=guard() if guard else None, location=reader.knobs.locate(node.span)
        )

    return build


def branches_of(
    block: tree.Block, around: tuple[tree.Expression, ...] = ()
) -> Iterator[tuple[tree.Statement, tuple[tree.Expression, ...]]]:
    """The branches of a choice without their conditions, and those of each; a `when` block holds several branches."""
    for item in block.statements:
        match item:
            case tree.Guard(condition=condition, block=inner):
                yield from branches_of(inner, (*around, condition))
            case tree.Maybe():
                yield item, around
            case _:
                yield replace(item, when=None), (*around, item.when) if item.when is not None else around


def given(only: Mapping[str, Guard | None]) -> dict[str, Guard]:
    """The conditions of those branches that have one."""
    return {label: guard for label, guard in only.items() if guard is not None}


def _branch_label(reader: Steps, item: tree.Statement) -> tuple[str, Span] | None:
    if isinstance(item, tree.Element):
        if isinstance(item.value, tree.Path):
            last = item.value.parts[-1]
            return last.text, last.span
        reader.no_step(item.value)
        return None
    if isinstance(item, tree.Fix | tree.Vary | tree.Repeat):
        return item.name.text, item.name.span
    assert isinstance(item, tree.Maybe)
    reader.diagnostics.error(
        "E505",
        "`maybe` cannot stand in a choice",
        item.keyword,
        "already a choice",
        help="add `none` to the choice, and take `maybe` away",
    )
    return None


def _branch(reader: Steps, label: str, item: tree.Statement, around: Around) -> Later[tuple[Step, ...]]:
    if isinstance(item, tree.Element) and isinstance(item.value, tree.Path) and item.value.text == "none":
        if item.block is not None:
            reader.diagnostics.error("E205", "`none` has no settings", item.block.span, help="take the braces away")
        return tuple
    made: Made | None
    if isinstance(item, tree.Fix) and isinstance(item.value, tree.Block):
        # The branch is the group: its steps stand right below the branch's label.
        return reader.block(item.value.statements, around.below(label))
    inner = (
        reader.resolver.unfold(item.value)
        if isinstance(item, tree.Element) and isinstance(item.value, tree.Path)
        else None
    )
    if isinstance(inner, tree.Block):
        return reader.block(inner.statements, around.below(label))
    made = reader.statement(item, around, {})

    def build() -> tuple[Step, ...]:
        step = made() if made is not None else None
        return (step,) if step is not None else ()

    return build


def _equal(reader: Steps, branches: tuple[Branch, ...], spans: list[Span]) -> None:
    seen: dict[tuple[str, ...], int] = {}
    for index, branch in enumerate(branches):
        if not branch.steps:
            continue
        shape = tuple(_shape(step) for step in branch.steps)
        if shape in seen:
            reader.diagnostics.error(
                "E505",
                f"`{branch.name}` does what `{branches[seen[shape]].name}` does",
                spans[index],
                "the same again",
                labels=(Label(spans[seen[shape]], "the first"),),
                help="take one away, or let them differ",
            )
        seen.setdefault(shape, index)


def order(reader: Steps, node: tree.Vary, members_of: tree.AnyOrder, around: Around) -> Made | None:
    """`NAME in any order { … }`: all of them, in an order that is a knob."""
    path = around.at(node.name.text)
    guard = reader.knobs.when(node.when, around)
    outer = around.under(guard) if guard else around
    members = list(_members(reader, members_of.block, outer, ()))
    if len(members) < 2:
        reader.diagnostics.error(
            "E505",
            "an order needs at least two steps",
            members_of.span,
            "nothing to put in order",
            help="write the step without `any order`",
        )
        return None
    if len(members) > 7:
        reader.diagnostics.error(
            "E605",
            f"{len(members)} steps have {factorial(len(members)):,} orders",
            members_of.span,
            "no sampler learns from so many",
            help="at most 7 steps are put in order: fix the order of some of them, in groups `NAME = { … }`",
        )
        return None
    domain = OrderDomain(labels=tuple(dict.fromkeys(label for label, _, _ in members)))
    reader.knobs.add(path, "order", domain, "names", node.name.span, outer)
    labels: dict[str, Span] = {}
    inside = replace(outer, path=path)
    made = [(label, guards, reader.statement(item, inside.under(*guards), labels)) for label, item, guards in members]

    def build() -> Step | None:
        if around.fixed is not None:
            return None
        found = [(label, _under(make(), guards)) for label, guards, make in made if make is not None]
        return Order(
            path=path,
            members=tuple(Branch(name=label, steps=(step,) if step is not None else ()) for label, step in found),
            when=guard() if guard else None,
            location=reader.knobs.locate(node.span),
        )

    return build


def _members(
    reader: Steps, block: tree.Block, around: Around, guards: tuple[Guard, ...]
) -> Iterator[tuple[str, tree.Statement, tuple[Guard, ...]]]:
    """The steps of an order with their labels, and the conditions of the `when` blocks that they stand in."""
    for item in block.statements:
        if isinstance(item, tree.Guard):
            guard = reader.knobs.when(item.condition, around)
            assert guard is not None
            yield from _members(reader, item.block, around, (*guards, guard))
            continue
        label = label_of(item)
        if label is not None:
            yield label, item, guards
        elif isinstance(item, tree.Element):
            reader.no_step(item.value)


def _under(step: Step | None, guards: tuple[Guard, ...]) -> Step | None:
    """The step, there only where the conditions hold."""
    for guard in reversed(guards):
        when = guard()
        if step is not None and when is not None:
            step = Group(path="", steps=(step,), when=when, location=step.location)
    return step


def _is(path: str, label: str) -> Guard:
    return always(Binary(operator="==", left=KnobRef(path=path), right=Const(value=label)))


def label_of(item: tree.Statement) -> str | None:
    """The label that a statement gives its step; None where it gives none."""
    match item:
        case tree.Element(value=tree.Path(parts=parts)):
            return parts[-1].text
        case tree.Fix(name=name) | tree.Vary(name=name) | tree.Repeat(name=name):
            return name.text
        case tree.Maybe(statement=inner):
            return label_of(inner)
    return None


def _shape(step: Step) -> str:
    # What a step does, without its place and its label.
    match step:
        case Apply(technique=technique, settings=settings):
            return f"{technique} {sorted((name, setting.model_dump_json()) for name, setting in settings.items())}"
        case Group(steps=steps, when=None):
            return " ".join(_shape(inner) for inner in steps)
    return step.model_dump_json(exclude={"location"})
