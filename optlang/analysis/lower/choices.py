"""Choices and orders among steps: their branches, the knob that says which is taken, or in which order they run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import factorial

from optlang.analysis.definitions import Definition
from optlang.analysis.knobs import Around, Guard, Later, Made, always
from optlang.analysis.lower.reader import StepReader
from optlang.diagnostics.model import Label, Span
from optlang.plan.expressions import Binary, Const, KnobRef
from optlang.plan.model import Apply, Branch, Choice, Group, Order, OrderDomain, SetDomain, Step
from optlang.syntax import tree


def choice(reader: StepReader, node: tree.Vary, block: tree.Block, around: Around) -> Made | None:
    """`NAME in { … }`: exactly one of the branches."""
    path = around.at(node.name.text)
    items = list(branches_of(block))
    kept = _labeled(reader, items)
    if not kept:
        if not items:
            reader.diagnostics.error("E505", "a choice without branches", block.span, "nothing to choose from")
        return None
    if len(kept) == 1 and len(items) == 1:
        label = next(iter(kept))
        reader.diagnostics.error(
            "E505", f"a choice with one branch, `{label}`", block.span, "nothing to choose from",
            help="fix it with `=`, or add `none`" if label != "none" else "add a second branch",
        )
    guard = reader.knobs.when(node.when, around)
    outer = around.under(guard) if guard else around
    only = {label: reader.knobs.branch(branch.conditions, outer) for label, branch in kept.items()}
    knob = reader.knobs.add(
        path, "choice", SetDomain(values=tuple(kept)), "name", node.name.span, outer, only=given(only)
    )
    branches = [
        (
            label,
            branch.name.span,
            _branch(reader, branch, replace(outer, path=path, guards=(*outer.guards, _is(path, label)))),
        )
        for label, branch in kept.items()
    ]
    if knob is not None:
        knob.broken = len(kept) < len(items) or any(steps is None for _, _, steps in branches)

    def build() -> Step | None:
        built = tuple(Branch(name=label, steps=steps() if steps else ()) for label, _, steps in branches)
        _equal(reader, built, [span for _, span, _ in branches])
        if around.fixed is not None:
            return None
        return Choice(
            path=path, branches=built, when=guard() if guard else None, location=reader.knobs.locate(node.span)
        )

    return build


@dataclass(frozen=True, slots=True)
class _Branch:
    """A branch of a choice before it is read; `name` is where its label stands."""

    name: tree.Name
    item: tree.Statement
    conditions: tuple[tree.Expression, ...]


def _labeled(
    reader: StepReader, items: list[tuple[tree.Statement, tuple[tree.Expression, ...]]]
) -> dict[str, _Branch]:
    """The branches that have a label, by it; E405 where two have the same."""
    found: dict[str, _Branch] = {}
    for item, conditions in items:
        name = _branch_label(reader, item)
        if name is None:
            continue
        label = name.text
        if label in found:
            reader.diagnostics.error(
                "E405", f"`{label}` is listed twice", name.span, "the second time",
                labels=(Label(found[label].name.span, "the first time"),),
                help=f"take one away, or give it a label of its own: `NAME = {label}`",
            )
            continue
        found[label] = _Branch(name, item, conditions)
    return found


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


def _branch_label(reader: StepReader, item: tree.Statement) -> tree.Name | None:
    if isinstance(item, tree.Element):
        if isinstance(item.value, tree.Path):
            return item.value.parts[-1]
        reader.no_step(item.value)
        return None
    if isinstance(item, tree.Fix | tree.Vary | tree.Repeat):
        return item.name
    assert isinstance(item, tree.Maybe)
    reader.diagnostics.error(
        "E505", "`maybe` cannot stand in a choice", item.keyword, "already a choice",
        help="add `none` to the choice, and take `maybe` away",
    )
    return None


def _branch(reader: StepReader, branch: _Branch, around: Around) -> Later[tuple[Step, ...]] | None:
    """The steps of a branch; None where something is wrong with its only one."""
    item, label = branch.item, branch.name
    value = item.value if isinstance(item, tree.Element) else None
    if isinstance(value, tree.Path) and value.text == "none":
        reader.knobs.label(around.at("none"), Definition("word", "none", label.span, fixed=True), around)
        if isinstance(item, tree.Element) and item.block is not None:
            reader.diagnostics.error("E205", "`none` has no settings", item.block.span, help="take the braces away")
        return tuple
    group = item.value if isinstance(item, tree.Fix) else None
    if isinstance(value, tree.Path):
        group = reader.knobs.names.unfold(value)
    if isinstance(group, tree.Block):
        # The branch is the group: its steps stand right below the branch's label.
        whole = value.span if value is not None else None
        reader.knobs.label(around.at(label.text), Definition("step", label.text, label.span, whole), around)
        return reader.block(group.statements, around.below(label.text))
    made = reader.statement(item, around, {})
    if made is None:
        return None

    def build() -> tuple[Step, ...]:
        step = made()
        return (step,) if step is not None else ()

    return build


def _equal(reader: StepReader, branches: tuple[Branch, ...], spans: list[Span]) -> None:
    seen: dict[tuple[str, ...], int] = {}
    for index, branch in enumerate(branches):
        if not branch.steps:
            continue
        shape = tuple(_shape(step) for step in branch.steps)
        if shape in seen:
            reader.diagnostics.error(
                "E505", f"`{branch.name}` does what `{branches[seen[shape]].name}` does", spans[index],
                "the same again", labels=(Label(spans[seen[shape]], "the first"),),
                help="take one away, or let them differ",
            )
        seen.setdefault(shape, index)


def order(reader: StepReader, node: tree.Vary, members_of: tree.AnyOrder, around: Around) -> Made | None:
    """`NAME in any order { … }`: all of them, in an order that is a knob."""
    path = around.at(node.name.text)
    guard = reader.knobs.when(node.when, around)
    outer = around.under(guard) if guard else around
    members = list(_members(reader, members_of.block, outer, ()))
    if len(members) < 2:
        reader.diagnostics.error(
            "E505", "an order needs at least two steps", members_of.span, "nothing to put in order",
            help="write the step without `any order`",
        )
        return None
    if len(members) > 7:
        reader.diagnostics.error(
            "E605", f"{len(members)} steps have {factorial(len(members)):,} orders", members_of.span,
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
    reader: StepReader, block: tree.Block, around: Around, guards: tuple[Guard, ...]
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
    # What a step does, without its path and its label.
    match step:
        case Apply(technique=technique, settings=settings):
            return f"{technique} {sorted((name, setting.model_dump_json()) for name, setting in settings.items())}"
        case Group(steps=steps, when=None):
            return " ".join(_shape(inner) for inner in steps)
    return step.model_dump_json(exclude={"location"})
