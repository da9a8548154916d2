"""The front and the trade-offs as a terminal shows them. Knows nothing of where the figures come from."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from optlang.plan.quantities import points, quantity, times
from optlang.report.front import Figure, Front, Member, Tradeoffs
from optlang.report.tables import cells, printed

if TYPE_CHECKING:
    from rich.table import Table

# What a row is stays readable down to so many characters; beyond that columns go.
_LEAST_WORDS = 24


def render_front(
    front: Front, *, width: int | None = None, color: bool = False, command: str = "optlang", db: str | None = None
) -> str:
    """The front (or what came nearest), how the trials ended, and the next command to type."""
    parts = [f"{front.study}: {front.title}\n" if front.title else f"{front.study}\n"]
    names = [_heading(name) for name in front.metrics]
    if front.members:
        parts.append(_table(front.members, front.metrics, names, width, color, front.best))
    found = [member for member in front.members if member.trial != 0]
    if front.nearest:
        parts.append(_nearest(front, width, color))
    elif not found:
        parts.append(
            "No trial has met the requirements yet.\n"
            if sum(front.states.values())
            else "Nothing has been searched yet.\n"
        )
    if front.states:
        total = sum(front.states.values())
        ended = ", ".join(f"{count} {state}" for state, count in front.states.items())
        parts.append(f"{total} trial{'s' if total != 1 else ''} searched: {ended}\n")
    line = next_command(front, command=command, db=db)
    if line is not None:
        parts.append(f"Next: {line}\n")
    return "\n".join(parts)


def next_command(front: Front, *, command: str = "optlang", db: str | None = None) -> str | None:
    """The command that exports the best trade-off, or what came nearest; None where there is nothing to export."""
    trial = front.best
    if trial is None and front.nearest:
        trial = front.nearest[0].member.trial
    if trial is None:
        return None
    words = [command, "export", front.study, str(trial), "-o", f"{front.study}-{trial}"]
    return shlex.join([*words, "--db", db] if db else words)


def _heading(metric: str) -> str:
    return metric.replace(".compressed", ", zstd").replace(".", " ")


def figure_text(figure: Figure | None) -> str:
    """A figure with how it compares: `12.5 kB ×6.7`, `98.9 % −0.4`."""
    if figure is None:
        return "–"
    text = quantity(figure.value, figure.unit)
    if figure.times is not None:
        return f"{text}  {times(figure.times)}"
    if figure.lost is not None and figure.unit == "ratio":
        return f"{text}  {points(figure.lost).replace('-', '−')}"
    return text


def interval_text(figure: Figure | None) -> str:
    """The interval that decides: of what was measured side by side, else of the figure itself; ratios in points.

    Nothing where it has no width: the baseline beside itself.
    """
    if figure is None or (figure.times_low is not None and figure.times_low == figure.times_high):
        return ""
    if figure.times_low is not None and figure.times_high is not None:
        return f"[{times(figure.times_low)[1:]}, {times(figure.times_high)[1:]}]"
    if figure.unit != "ratio":
        return ""
    if figure.lost_low is not None and figure.lost_high is not None:
        if figure.lost_low == figure.lost_high:
            return ""
        return f"[{_points(figure.lost_high)}, {_points(figure.lost_low)}]"
    if figure.low is not None and figure.high is not None and figure.high > figure.low:
        return f"± {100 * (figure.high - figure.low) / 2:.1f}"
    return ""


def _points(lost: float) -> str:
    return points(lost).replace("-", "−")


def _line(text: str) -> str:
    """A text of the study on one line, however it was laid out."""
    return " ".join(text.split())


def _table(
    members: Sequence[Member],
    metrics: Sequence[str],
    names: Sequence[str],
    width: int | None,
    color: bool,
    best: int | None,
) -> str:
    """One row a member; the p95 and then the intervals go where the terminal is narrow."""
    kept = list(zip(metrics, names, strict=True))
    intervals = True
    words = max((cells(member.words) for member in members), default=0)
    while True:
        rows = [[_cell(member.figures.get(metric), metric, intervals) for metric, _ in kept] for member in members]
        needs = [max([cells(name), *(cells(row[index]) for row in rows)]) for index, (_, name) in enumerate(kept)]
        free = (width or 10_000) - sum(needs) - 3 * (len(needs) + 1) - 6
        if free >= min(words, _LEAST_WORDS):
            break
        if intervals:
            intervals = False
        elif any(metric == "latency.p95" for metric, _ in kept):
            kept = [item for item in kept if item[0] != "latency.p95"]
        else:
            break
    table = _frame(["trial", "what it is", *(name for _, name in kept)], left=(1,))
    for member, row in zip(members, rows, strict=True):
        mark = "*" if member.trial == best else ""
        table.add_row(f"{mark}{member.trial}", member.words, *row, style="bold" if mark and color else "")
    shares = any(
        figure.unit == "ratio" for member in members for metric, _ in kept if (figure := member.figures.get(metric))
    )
    note = f"* the best trade-off: the largest gain for at most {'a point' if shares else '1 % lost'}\n"
    notes = [note] if best is not None and len(members) > 2 else []
    notes += (textwrap.fill(line, width or 10_000) + "\n" for line in _apart(members, [metric for metric, _ in kept]))
    return printed(table, width, color) + "".join(notes)


def _apart(members: Sequence[Member], metrics: Sequence[str]) -> Iterator[str]:
    """A line a metric that is compared with other figures than the baseline's row shows: those of the same measurement.

    Trials that were measured in one cycle have one figure of the baseline in common, which is its row's.
    """
    reference = next((member.figures for member in members if member.trial == 0), {})
    for metric in metrics:
        shown = reference.get(metric)
        if shown is None:
            continue
        others = {
            member.trial: figure.baseline for member in members
            if (figure := member.figures.get(metric)) is not None and figure.baseline is not None
            and quantity(figure.baseline, figure.unit) != quantity(shown.value, shown.unit)
        }
        if others:
            low, high = (quantity(end(others.values()), shown.unit) for end in (min, max))
            yield (
                f"{_heading(metric)} of the baseline next to {_numbered(list(others))}, which the comparison is with: "
                f"{low if low == high else f'{low} to {high}'}"
            )


def _numbered(trials: Sequence[int]) -> str:
    return f"trial{'s' if len(trials) > 1 else ''} {', '.join(map(str, trials))}"


def _cell(figure: Figure | None, metric: str, intervals: bool) -> str:
    text = figure_text(figure)
    extra = interval_text(figure) if intervals and metric != "latency.p95" else ""
    return f"{text} {extra}" if extra else text


def _nearest(front: Front, width: int | None, color: bool) -> str:
    table = _frame(["trial", "what it is", *map(_heading, front.metrics)], left=(1,))
    lines = []
    for near in front.nearest:
        row = [figure_text(near.member.figures.get(metric)) for metric in front.metrics]
        table.add_row(str(near.member.trial), near.member.words, *row)
        missed = "; ".join(_line(item.said) for item in near.missed if item.by > 0)
        lines.append(f"Trial {near.member.trial}: {missed}\n")
    shown = printed(table, width, color)
    return f"No trial met all requirements. The nearest:\n\n{shown}\n{printed(''.join(lines), width, color)}"


def render_tradeoffs(tradeoffs: Tradeoffs, *, width: int | None = None, color: bool = False) -> str:
    """Each technique alone against the baseline, and against the float32 model in the same runtime."""
    in_points = tradeoffs.quality.endswith("_lost")
    lost: Callable[[float], str] = _points if in_points else times
    name = tradeoffs.quality.removesuffix("_lost").removesuffix("_x").replace("_", " ")
    table = _frame(
        [
            "technique",
            "runtime",
            "smaller",
            "zstd",
            "faster",
            "in its runtime",
            f"{name}{', points' if in_points else ''}",
            "trial",
        ],
        left=(0, 1),
    )
    notes = []
    for row in tradeoffs.rows:
        values = [row["size_x"], row["size_compressed_x"], row["latency_x"], row["latency_same_runtime_x"]]
        quality = row[tradeoffs.quality]
        technique = "(as it is)" if row["technique"] == "none" else row["technique"]
        table.add_row(
            technique,
            row["runtime"] or "–",
            *("–" if value is None else times(value) for value in values),
            "–" if quality is None else lost(quality),
            str(row["trial"]),
        )
        if row["trial"] in tradeoffs.failed:
            notes.append(
                f"{technique} on {row['runtime']} (trial {row['trial']}): {_line(tradeoffs.failed[row['trial']])}"
            )
    if not tradeoffs.rows:
        return f"{tradeoffs.study}: no technique has been tried alone yet (optlang run --ladder does that)\n"
    told = "".join(f"{note}\n" for note in notes)
    return f"{tradeoffs.study}: each technique alone\n\n{printed(table, width, color)}" + (f"\n{told}" if told else "")


def _frame(names: Sequence[str], left: Sequence[int]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for index, name in enumerate(names):
        table.add_column(name, justify="left" if index in left else "right", no_wrap=index not in left, overflow="fold")
    return table
