"""Which trial of a front trades best, and the sentence that says why."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence

from optlang.plan.model import Plan
from optlang.plan.quantities import change, in_percent, times
from optlang.report.member import Figure, TrialSummary
from optlang.report.tables import heading

_MOST = 0.01
"""What may be lost of quality: a point of a ratio, a share of the baseline's of anything else."""


def recommended(plan: Plan, judged: Collection[str], members: Sequence[TrialSummary]) -> tuple[int | None, str]:
    """The trial with the largest gain over the other goals together, for at most a point lost where that is to be had;
    and why, as a sentence's end. None and "" where there is none.

    What may be lost is what the task is judged by (`judged`): points of a ratio, of anything else a share of the
    baseline's.
    """
    goals = [objective.metric.name for objective in plan.objectives]
    quality = [name for name in goals if name in judged]
    others = [name for name in goals if name not in judged]
    if not members:
        return None, ""
    cheap = [member for member in members if _most_lost(member, quality) <= _MOST]
    if not cheap:
        best = min(members, key=lambda member: (_most_lost(member, quality), -_gain(member, others)))
        least = f"and it the least{_losses(best, quality)}"
        return best.trial, f"each trial loses more than {_limit(best, quality)}, {least}"
    best = max(cheap, key=lambda member: (_gain(member, others), -member.trial))
    limit = _limit(best, quality)
    if len(cheap) == 1 and len(members) > 1:
        return best.trial, f"it alone loses at most {limit}{_gains(best, others, before=', with ')}"
    most = f" that loses at most {limit}" if limit else ""
    gained = [name for name in others if (figure := best.figures.get(name)) and figure.times]
    if not gained:
        return best.trial, f"the first{most}" if most else "the first"
    together = " together" if len(gained) > 1 else ""
    return best.trial, f"{_gains(best, others)}, the largest gain{together} of a trial{most}"


def _gain(member: TrialSummary, names: Iterable[str]) -> float:
    return sum(math.log(figure.times) for name in names if (figure := member.figures.get(name)) and figure.times)


def _most_lost(member: TrialSummary, names: Iterable[str]) -> float:
    return max((_lost(member.figures[name]) for name in names if name in member.figures), default=0.0)


def _lost(figure: Figure) -> float:
    """How much worse than the baseline a figure is: a difference of ratios, a share of anything else."""
    if figure.lost is not None:
        worse, before = figure.lost, figure.value + figure.lost
    elif figure.times:
        before = figure.value * figure.times
        worse = figure.value - before
    else:
        return 0.0
    return worse if figure.unit == "ratio" or not before else worse / abs(before)


def _limit(member: TrialSummary, quality: Iterable[str]) -> str:
    """What may be lost: `a point of accuracy`, `1 % of mse`."""
    shown = [(name, figure) for name in quality if (figure := member.figures.get(name))]
    return _listed([
        f"{'a point' if figure.unit == 'ratio' else '1 %'} of {heading(name)}" for name, figure in shown
    ])


def _gains(member: TrialSummary, names: Iterable[str], before: str = "") -> str:
    found = [
        f"{heading(name)} {times(figure.times)}" for name in names
        if (figure := member.figures.get(name)) and figure.times
    ]
    return f"{before}{_listed(found)}" if found else ""


def _losses(member: TrialSummary, quality: Iterable[str]) -> str:
    """How each quality compares: ` (accuracy −1.9)`."""
    said = []
    for name in quality:
        figure = member.figures.get(name)
        if figure is not None and figure.unit == "ratio" and figure.lost is not None:
            said.append(f"{heading(name)} {change(figure.lost, figure.unit)}")
        elif figure is not None:
            said.append(f"{heading(name)} {in_percent(_lost(figure))} worse")
    return f" ({', '.join(said)})" if said else ""


def _listed(texts: Sequence[str]) -> str:
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)
