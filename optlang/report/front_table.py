"""The front of a study as a terminal shows it: one row a trial, what the signs mean, and the next command."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from optlang.diagnostics.command_line import command
from optlang.plan.metrics import TEST, validated
from optlang.plan.quantities import change, compared, counted, quantity, times
from optlang.report.front import Front
from optlang.report.member import Figure, TrialSummary
from optlang.report.tables import GAP, cells, framed, heading, one_line, printed
from optlang.report.trial_text import shortened
from optlang.store.projection import PAUSED

# What a row is stays readable down to so many characters; beyond that columns go.
_LEAST_WORDS = 20
_TRIAL = 5
# So many reasons why layers were not pruned are given, each with so many of its layers.
_REASONS, _LEFT = 3, 3
# So many trials are named that are within noise of another.
_TIES = 8


def render_front(front: Front, *, width: int | None = None, color: bool = False, db: Path | None = None) -> str:
    """The front (or what came nearest), how the trials ended, and the next command to type.

    In so many columns as `width` says the trials are described in few words, and figures that do not fit are left out;
    without it everything is shown.
    """
    parts = [f"{front.study}: {front.title}\n" if front.title else f"{front.study}\n"]
    if front.members:
        parts.append(_table(front.members, front.metrics, front.named, width, color, front.best, front.why, front.ties))
    found = [member for member in front.members if member.trial != 0]
    if front.nearest:
        parts.append(_nearest(front, width, color))
    elif not found:
        parts.append(_nothing(front))
    if front.states or (front.alone and not found):
        parts.append(printed(_counts(front), width, color))
    line = next_command(front, db=db)
    if line is not None:
        parts.append(f"Next: {line}\n")
    return "\n".join(parts)


def _nothing(front: Front) -> str:
    """Why the front has only the baseline."""
    if front.states.get("complete"):
        return "No trial is a better trade-off than the baseline.\n"
    if set(front.states) == {"failed"}:
        return "Each searched trial has failed.\n"
    if front.states.keys() <= {"failed", PAUSED} and front.states.get(PAUSED):
        return f"No searched trial has come to its end yet; {front.states[PAUSED]} paused in training.\n"
    if sum(front.states.values()):
        return "No trial has met the requirements yet.\n"
    if front.alone and front.alone == front.alone_failed:
        return "Nothing has been searched yet, and each technique alone has failed.\n"
    return "Nothing has been searched yet.\n"


def _counts(front: Front) -> str:
    """How the searched trials ended: the same number as in the study, the command line and while the run goes on."""
    ended = ", ".join(f"{count} {state}" for state, count in front.states.items())
    others = ["the baseline"]
    if front.alone:
        failed = f" ({front.alone_failed} failed)" if front.alone_failed else ""
        others.append(f"{counted(front.alone, 'trial')} of a technique alone{failed}")
    others += [f"{count} {state}" for state, count in front.uncounted.items()]
    if not ended and front.uncounted:
        ended = "none is over"
    return (
        f"{counted(sum(front.states.values()), 'trial')} searched{f': {ended}' if ended else ''}\n"
        f"Not counted: {', '.join(others)}\n"
    )


def next_command(front: Front, *, db: Path | None = None) -> str | None:
    """The command that exports the best trade-off, or what came nearest, or that shows why each technique alone failed;
    None where there is nothing to export or to look at."""
    trial = front.best
    if trial is None:
        trial = next((near.member.trial for near in front.nearest if near.member.figures), None)
    if trial is None:
        return command("tradeoffs", front.study, db=db) if front.alone_failed and not front.states else None
    return command("export", front.study, str(trial), "-o", _free(f"{front.study}-{trial}"), db=db)


def _free(name: str) -> str:
    """A folder of this name that export would write into: `name`, or `name-2` where it holds something already."""
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(
        folder for folder in names
        if not (path := Path(folder)).exists() or (path.is_dir() and not any(path.iterdir()))
    )


def figure_text(figure: Figure | None) -> str:
    """A figure with how it compares with the baseline's: `12.5 kB  ×6.7`, `98.9 %  −0.4`."""
    if figure is None:
        return "–"
    text = quantity(figure.value, figure.unit)
    against = compared(figure.times, figure.lost, figure.unit)
    return f"{text}  {against}" if against else text


def intervals_text(figure: Figure | None) -> str:
    """The same with the 95 % interval that decides, in brackets after the number that it is of.

    That is the interval of the comparison where trial and baseline were measured together: `21.0 µs  ×9.4 [9.0, 9.8]`,
    `98.9 %  −0.4 [−1.1, +0.2]`. Else it is the figure's own, where it has one: `97.9 % [97.8, 98.0]  0.0`. One without
    a width is left out.
    """
    if figure is None:
        return "–"
    text = quantity(figure.value, figure.unit)
    against = compared(figure.times, figure.lost, figure.unit)
    if not against or (figure.times_low is None and figure.lost_low is None):
        own = figure.unit == "ratio" and figure.low is not None and figure.high is not None
        if own and figure.low != figure.high:
            text += f" [{100 * (figure.low or 0.0):.1f}, {100 * (figure.high or 0.0):.1f}]"
    elif figure.times_low is not None and figure.times_high is not None and figure.times_low != figure.times_high:
        against += f" [{times(figure.times_low)[1:]}, {times(figure.times_high)[1:]}]"
    elif figure.lost_low is not None and figure.lost_high is not None and figure.lost_low != figure.lost_high:
        against += f" [{change(figure.lost_high, figure.unit)}, {change(figure.lost_low, figure.unit)}]"
    return f"{text}  {against}" if against else text


def _table(
    members: Sequence[TrialSummary], metrics: Sequence[str], named: Collection[str], width: int | None, color: bool,
    best: int | None = None, why: str = "", ties: Mapping[int, Sequence[int]] = MappingProxyType({}),
) -> str:
    """One row a member, and what its signs mean; what does not fit is in further tables, by the number of the trial."""
    said: Sequence[str] = [member.words for member in members]
    common: Sequence[str] = ()
    if width is not None:
        said, common = shortened([member.recipe for member in members])
    room = (width or 10_000) - _TRIAL - _least(said) - GAP
    kept, rows, needs = _laid_out(members, metrics, named, room)
    parts = [printed("\n".join(common), width, color)] if common else []
    for first, last in _fitting(needs, room, (width or 10_000) - _TRIAL):
        words = ["what it is"] if first == 0 else []
        table = framed(["trial", *words, *map(heading, kept[first:last])], left=(1,) if words else ())
        for member, text, row in zip(members, said, rows, strict=True):
            mark = "*" if member.trial == best else ""
            what = [text] if words else []
            table.add_row(f"{mark}{member.trial}", *what, *row[first:last], style="bold" if mark and color else "")
        parts.append(printed(table, width, color))
    shown = [figure for member in members for name in kept if (figure := _shown(member, name))]
    note = ""
    if best is not None and len(members) > 2:
        note = f"* the best trade-off, trial {best}: {why}\n"
    legend = _legend(shown, any("[" in text for row in rows for text in row))
    lines = [
        *_tied(ties), *_tested(members, best), *_apart(members, kept), *_uncounted(members, kept),
        *_dependent(members), *_whole(members),
    ]
    notes = "".join(f"{line}\n" for line in lines)
    return "\n".join(parts) + printed(note + legend + notes, width, color)


def _tied(ties: Mapping[int, Sequence[int]]) -> Iterator[str]:
    """A line for each member with ties, which it stands for."""
    for member, others in ties.items():
        more = f" and {len(others) - _TIES} more" if len(others) > _TIES else ""
        yield f"Within noise of trial {member} in every goal: {_numbered(others[:_TIES])}{more}"


def _tested(members: Sequence[TrialSummary], best: int | None) -> Iterator[str]:
    """The first metric on the test data, of the baseline and the best trade-off, with its interval."""
    chosen = [member for member in members if member.trial in (0, best)]
    name = next((name for member in chosen for name in member.figures if name.startswith(TEST)), None)
    said = []
    for member in chosen:
        figure = member.figures.get(name) if name is not None else None
        if figure is not None:
            low, high = (quantity(value, figure.unit) for value in (figure.low, figure.high) if value is not None)
            who = "the baseline" if member.trial == 0 else f"trial {member.trial}"
            said.append(f"{who} {quantity(figure.value, figure.unit)} ({low} to {high})")
    if name is not None and said:
        yield f"{validated(name)} on the test data: {', '.join(said)}"


def _apart(members: Sequence[TrialSummary], metrics: Sequence[str]) -> Iterator[str]:
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
                f"{heading(metric)} of the baseline next to {_numbered(list(others))}, which the comparison is with: "
                f"{low if low == high else f'{low} to {high}'}"
            )


def _uncounted(members: Sequence[TrialSummary], metrics: Sequence[str]) -> Iterator[str]:
    """A line for each set of operators that macs leave out, where macs are shown."""
    if "macs" in metrics:
        for names in dict.fromkeys(member.uncounted for member in members if member.uncounted):
            trials = [member.trial for member in members if member.uncounted == names]
            yield f"macs of {_numbered(trials)} leave out what has no formula: {', '.join(names)}"


def _dependent(members: Sequence[TrialSummary]) -> Iterator[str]:
    """A line for each member whose answers depend on the batch: its figures are those of the target's."""
    for member in members:
        for target, text in member.dependence.items():
            yield f"Trial {member.trial}{f' on {target}' if target else ''}: {text}"


def _whole(members: Sequence[TrialSummary]) -> Iterator[str]:
    """A line for each set of layers that pruning left as they were, by the reason."""
    for left in dict.fromkeys(member.left for member in members if member.left):
        trials = [member.trial for member in members if member.left == left]
        reasons: dict[str, list[str]] = {}
        for layer, why in left:
            reasons.setdefault(why, []).append(layer)
        shown = list(reasons.items())[:_REASONS]
        some = "; ".join(f"{_few(layers)}: {why}" for why, layers in shown)
        others = len(left) - sum(len(layers) for _, layers in shown)
        yield f"Not pruned in {_numbered(trials)}: {some}" + (f"; and {others} more" if others else "")


def _few(layers: Sequence[str]) -> str:
    more = f" and {len(layers) - _LEFT} more" if len(layers) > _LEFT else ""
    return ", ".join(layers[:_LEFT]) + more


def _numbered(trials: Sequence[int]) -> str:
    return f"trial{'s' if len(trials) > 1 else ''} {', '.join(map(str, trials))}"


def _shown(member: TrialSummary, metric: str) -> Figure | None:
    """A member's figure; the baseline's is compared with nothing."""
    figure = member.figures.get(metric)
    return figure if figure is None or member.trial != 0 else replace(figure, times=None, lost=None)


def _laid_out(
    members: Sequence[TrialSummary], metrics: Sequence[str], named: Collection[str], room: int
) -> tuple[list[str], list[list[str]], list[int]]:
    """The metrics that are shown, the rows of their texts, and how wide each is.

    Where there is too little room the intervals go, then the p95 if the study does not ask for it; then a figure and
    what it is against the baseline are in two lines, if all fits so.
    """
    fewer = [name for name in metrics if name != "latency.p95" or name in named]
    tries = ((metrics, intervals_text), (metrics, figure_text), (fewer, figure_text), (fewer, _stacked))
    found = [_texts(members, kept, named, text) for kept, text in tries]
    fits = (item for item in found if sum(item[2]) + GAP * len(item[2]) <= room)
    return next(fits, found[2])


def _texts(
    members: Sequence[TrialSummary], kept: Sequence[str], named: Collection[str], text: Callable[[Figure | None], str]
) -> tuple[list[str], list[list[str]], list[int]]:
    """These metrics, the rows of their texts, and how wide each is."""
    rows = [
        [
            (figure_text if text is intervals_text and name == "latency.p95" and name not in named else text)(
                _shown(member, name)
            )
            for name in kept
        ]
        for member in members
    ]
    needs = [max([cells(heading(name)), *(cells(row[index]) for row in rows)]) for index, name in enumerate(kept)]
    return list(kept), rows, needs


def _stacked(figure: Figure | None) -> str:
    return figure_text(figure).replace("  ", "\n")


def _least(words: Sequence[str]) -> int:
    """The fewest characters that what the members are is readable in; none of its words is broken."""
    longest = max((cells(word) for text in words for word in text.split()), default=0)
    return max(longest, min(_LEAST_WORDS, max(map(cells, words), default=0)))


def _fitting(needs: Sequence[int], room: int, more: int) -> list[tuple[int, int]]:
    """Which columns go into one table each: as many as there is room for, at least one; `more` from the second on."""
    found: list[tuple[int, int]] = []
    first = used = 0
    for index, need in enumerate(needs):
        used += need + GAP
        if used > (more if found else room) and index > first:
            found.append((first, index))
            first, used = index, need + GAP
    return [*found, (first, len(needs))]


def _legend(figures: Sequence[Figure], intervals: bool) -> str:
    said = []
    if any(figure.times is not None for figure in figures):
        said.append("× times better than the baseline")
    if any(figure.lost is not None and figure.unit == "ratio" for figure in figures):
        said.append("+ and − points against the baseline")
    if intervals:
        said.append("[ ] 95 % interval of the number before it")
    return "; ".join(said) + "\n" if said else ""


def _nearest(front: Front, width: int | None, color: bool) -> str:
    table = _table([near.member for near in front.nearest], front.metrics, front.named, width, color)
    lines = [
        f"Trial {near.member.trial}: {'; '.join(one_line(item.said) for item in near.missed if item.by > 0)}\n"
        for near in front.nearest
    ]
    return f"No trial met all requirements. The nearest:\n\n{table}\n{printed(''.join(lines), width, color)}"
