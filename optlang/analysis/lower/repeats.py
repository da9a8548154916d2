"""`repeat` among steps: its rounds, and the knob that counts them."""

from __future__ import annotations

from optlang.analysis.knobs import Around, Made, always
from optlang.analysis.lower.reader import StepReader
from optlang.plan.domains import values_of
from optlang.plan.expressions import Binary, Const, KnobRef
from optlang.plan.model import Computed, Domain, IntDomain, Param, Repeat, Searched
from optlang.plan.units import SAID
from optlang.syntax import tree

COUNT = Param(name="the count", dimension="count", domain=None, required=True)


def repeat(reader: StepReader, node: tree.Repeat, around: Around) -> Made | None:
    """`repeat NAME = COUNT { … }` or `repeat NAME in DOMAIN { … }`; its label is entered already."""
    path = around.at(node.name.text)
    guard = reader.knobs.when(node.when, around)
    outer = around.under(guard) if guard else around
    inside = outer.below(node.name.text, repeat=path)
    count: int | None = None
    knob: str | None = None
    given = reader.knobs.names.params.get(node.count.text) if isinstance(node.count, tree.Path) else None
    if given is not None:
        reader.knobs.symbols.table.refer(node.count.span, given.definition)
    counted = given.setting() if given is not None else None
    if node.fixed and isinstance(counted, Searched):
        knob = _counted(reader, node, counted.knob)
        if knob is None:
            return None
        if min(_ints(next(item.domain for item in reader.knobs.symbols.knobs if item.path == knob))) == 0:
            inside = inside.under(always(Binary(operator=">=", left=KnobRef(path=knob), right=Const(value=1))))
    elif node.fixed and isinstance(counted, Computed):
        reader.diagnostics.error(
            "E507", f"`{node.name.text}` would be repeated as often as something else says", node.count.span,
            "depends on knobs, or on a condition",
            help="where the pipeline is applied, give the count a fixed value, or search it: `NAME in 1 .. 3`",
        )
        return None
    elif node.fixed:
        count = _count(reader, node)
    else:
        domain = reader.knobs.domain(node.count, COUNT)
        domain = _rounds(reader, node, domain) if domain is not None else None
        if reader.knobs.add(path, "repeat", domain, COUNT, node.name.span, outer) and min(_ints(domain)) == 0:
            inside = inside.under(always(Binary(operator=">=", left=KnobRef(path=path), right=Const(value=1))))
    steps = reader.block(node.block.statements, inside)
    return lambda: Repeat(
        path=path,
        count=count,
        steps=steps(),
        knob=knob if knob != path else None,
        when=guard() if guard else None,
        location=reader.knobs.locate(node.span),
    )


def _counted(reader: StepReader, node: tree.Repeat, path: str) -> str | None:
    """The knob of a pipeline's parameter that counts the rounds; None, with its error, where it cannot."""
    draft = next(item for item in reader.knobs.symbols.knobs if item.path == path)
    if draft.dimension != "count":
        reader.diagnostics.error(
            "E302", f"the count of rounds is {SAID[draft.dimension]}", node.count.span, "not a count"
        )
        return None
    if _rounds(reader, node, draft.domain) is None:
        return None
    draft.role = "repeat"
    return path


def _count(reader: StepReader, node: tree.Repeat) -> int:
    fixed = reader.knobs.values.constant(node.count, COUNT)
    count = fixed.value if fixed is not None else 1
    assert isinstance(count, int)
    if count < 1:
        reader.diagnostics.error(
            "E507", f"repeated {count} times", node.count.span, "never" if count == 0 else "fewer than none",
            help="take the block away, or search the count: `in 0 .. 3`",
        )
        return 1
    return count


def _rounds(reader: StepReader, node: tree.Repeat, domain: Domain) -> Domain | None:
    counts = _ints(domain)
    if min(counts) < 0 or max(counts) < 1 or max(counts) > 1000:
        reader.diagnostics.error(
            "E507", "a count of rounds lies between 0 and 1000", node.count.span,
            "fewer than none" if min(counts) < 0 else "never" if max(counts) < 1 else "too many",
            help="write `0 .. 3` for none to three rounds",
        )
        return None
    return domain


def _ints(domain: Domain | None) -> list[int]:
    if isinstance(domain, IntDomain):
        return [domain.low, domain.high]
    return [int(value) for value in (values_of(domain) if domain is not None else None) or ()]
