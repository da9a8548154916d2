"""A trial carried out again as a terminal shows it: a row a figure, what differs, and what that may come from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optlang.interfaces import Measurement
from optlang.plan.quantities import apart, quantity, times
from optlang.report.repeated import Compared, Repeated, differing
from optlang.report.tables import GAP, cells, framed, printed

if TYPE_CHECKING:
    from rich.table import Table


def render_repeated(study: str, repeated: Repeated, *, width: int | None = None, color: bool = False) -> str:
    """The table of all figures, then what is not as it was then, and the answer in one line."""
    parts = [f"{study}, trial {repeated.trial}: as stored, and again\n"]
    if repeated.rows:
        parts.append(printed(_table(repeated, width), width, color))
    notes = "".join(f"{line}\n" for line in [*repeated.changes, *_ends(repeated)])
    if notes:
        parts.append(printed(notes, width, color))
    parts.append(printed(_answer(repeated), width, color))
    return "\n".join(parts)


def _table(repeated: Repeated, width: int | None) -> Table:
    """A row a figure; without the differences where the verdicts' words would be broken otherwise."""
    heads = ["metric", "stored", "again", "difference", "verdict"]
    rows = [[row.name, *_cells(row), row.verdict] for row in repeated.rows]
    words = max(cells(word) for row in rows for word in ["verdict", *row[4].split()])
    needs = sum(max(cells(heads[index]), *(cells(row[index]) for row in rows)) + GAP for index in range(4))
    kept = [0, 1, 2, 3, 4] if width is None or needs + words <= width else [0, 1, 2, 4]
    table = framed([heads[index] for index in kept], (0, len(kept) - 1))
    for row in rows:
        table.add_row(*(row[index] for index in kept))
    return table


def _answer(repeated: Repeated) -> str:
    if not repeated.rows:
        return "No figure of the trial is stored: there is nothing to compare with."
    names = differing(repeated.rows)
    if not names:
        return "The trial was repeated: no figure differs."
    verb = "differs" if len(names) == 1 else "differ"
    return f"The trial was not repeated: {', '.join(names)} {verb}."


def _ends(repeated: Repeated) -> list[str]:
    """The whole reasons of a trial that failed: a table has no room for them."""
    return [
        f"{when}: {text}"
        for row in repeated.rows if row.name == "end" and row.texts is not None
        for when, text in zip(("stored", "again"), row.texts, strict=True)
    ]


def _cells(row: Compared) -> tuple[str, str, str]:
    if row.texts is not None:
        stored, again = (text.partition(":")[0] for text in row.texts)
        return stored, again, ""
    assert row.stored is not None
    if row.again is None:
        return _figure(row.stored, paired=row.paired), "–", ""
    if row.paired:
        return _figure(row.stored, paired=True), _figure(row.again, paired=True), _drift(row.stored, row.again)
    stored, again, difference = apart(row.stored.value, row.again.value, row.stored.unit)
    sign = "" if row.again.value == row.stored.value else "+" if row.again.value > row.stored.value else "−"
    return stored, again, sign + difference if sign else ""


def _figure(item: Measurement, *, paired: bool) -> str:
    """A figure; what was compared side by side as times better than the baseline, with the interval of that."""
    if not paired:
        return quantity(item.value, item.unit)
    if item.ratio is None:
        return "–"
    if item.ratio_low is None or item.ratio_high is None:
        return times(item.ratio)
    return f"{times(item.ratio)} [{times(item.ratio_low)[1:]}, {times(item.ratio_high)[1:]}]"


def _drift(stored: Measurement, again: Measurement) -> str:
    """By what share the ratio changed."""
    if not stored.ratio or again.ratio is None:
        return ""
    text = f"{100 * (again.ratio / stored.ratio - 1):+.1f} %"
    return text.replace("-", "−")
