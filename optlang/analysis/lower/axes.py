"""`dynamic` and `shape` of a target: whether they name axes as they must. Which inputs there are, a worker checks."""

from __future__ import annotations

from collections.abc import Iterator

from optlang.diagnostics.model import Diagnostics, Label, Span
from optlang.plan.axes import parsed, wrong
from optlang.plan.model import Param
from optlang.syntax import tree

PARAMS = (
    Param(
        name="dynamic", dimension="names", domain=None, default=(),
        help='axes of inputs that any size is answered of, besides those whose sizes differ in the data: "tokens:1", '
        'or with the sizes "tokens:1 = 8..128"',
    ),
    Param(
        name="shape", dimension="names", domain=None, default=(),
        help='sizes to time with, of axes that have several: "tokens:1 = 32"; else those of the sample in the middle',
    ),
)
"""What a target declares of its inputs' axes."""

EXAMPLES = {"dynamic": '["tokens:1 = 8..128"]', "shape": '["tokens:1 = 32"]'}
_FORMS = {"dynamic": '"INPUT:AXIS" or "INPUT:AXIS = LEAST..MOST"', "shape": '"INPUT:AXIS = SIZE"'}


def check_axes(statement: tree.Fix, values: tuple[str, ...], diagnostics: Diagnostics) -> None:
    """Report texts that name no axis, the axis of the samples, sizes that are none, and an axis that is named twice."""
    name = statement.name.text
    first: dict[str, Span] = {}
    for text, span in zip(values, _spans(statement, len(values)), strict=True):
        item = parsed(text)
        if item is None or (name == "shape" and item.low is None):
            diagnostics.error(
                "E302", f'"{text}" names no axis' + (" with a size" if item is not None else ""), span,
                f"`{name}` is a list of {_FORMS[name]}",
                help=f"the axes of an input count from 0, the samples: {name} = {EXAMPLES[name]}",
            )
            continue
        why = wrong(name, item)
        if why is not None:
            diagnostics.error("E406", f'`{name}` cannot have "{text}"', span, why[0], help=why[1])
        elif item.place in first:
            diagnostics.error(
                "E202", f"`{item.place}` is named twice", span, "the second time",
                labels=(Label(first[item.place], "the first time"),), help="keep one of them",
            )
        first.setdefault(item.place, span)


def _spans(statement: tree.Fix, count: int) -> Iterator[Span]:
    """Where each text stands; of a list that is named elsewhere, where it is named."""
    listed = statement.value.items if isinstance(statement.value, tree.ListOf) else ()
    for index in range(count):
        yield listed[index].span if len(listed) == count else statement.value.span
