"""How a run's best trials score on the data's `test` part, which the search never sees.

The front is the best of many trials on the same validation data, and so looks better there than it is. Its members are
scored once on samples that decided nothing; the figures are stored next to the others, as `test.accuracy` and so on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from optlang.interfaces import Measurement
from optlang.plan.metrics import TEST
from optlang.plan.model import Plan
from optlang.plan.quantities import counted, quantity
from optlang.run.dispatch import Dispatcher
from optlang.run.engine import WorkerDied, WorkerTimeout
from optlang.run.job import Failure, TestJob

Scored = Mapping[int, Sequence[Measurement]]
"""Measurements by the trials' numbers."""


def measured(dispatcher: Dispatcher, job: TestJob, message: Callable[[str], None]) -> Scored:
    """The figures of the job's trials; nothing where the data have no test part, or scoring failed, which is said."""
    from optlang.run.worker import score_test

    dispatcher.load()
    try:
        found = dispatcher.run(score_test, job, None)
    except (WorkerDied, WorkerTimeout) as error:
        found = Failure(str(error), "")
    if isinstance(found, Failure):
        message(f"the front could not be scored on the test data: {found.reason}")
        return {}
    return found


def said(plan: Plan, front: Scored) -> str | None:
    """How optimistic the front is, in a sentence; None where there are no test figures to compare.

    That is what its members lose against the baseline on the test data less what they lose on the validation data, on
    average, by the first metric that answers are judged by.
    """
    there = {item.metric for item in front.get(0, ())}
    first = next((name for name in plan.judging if {name, TEST + name} <= there), None)
    if first is None:
        return None
    gaps = [gap for number, items in front.items() if number for gap in _gaps(plan, items, first)]
    if not gaps:
        return None
    baseline = next(item for item in front[0] if item.metric == TEST + first)
    gap = sum(gaps) / len(gaps)
    size = f"{100 * abs(gap):.1f} points" if baseline.unit == "ratio" else quantity(abs(gap), baseline.unit)
    trials = len(front) - 1
    who = f"the {trials} trials of the front lose on average" if trials > 1 else "the trial of the front loses"
    return (
        f"{first} on {counted(baseline.n, 'sample')} of test data: the baseline has "
        f"{quantity(baseline.value, baseline.unit)}, and {who} {size} {'more' if gap >= 0 else 'less'} against it than "
        "on the validation data"
    )


def _gaps(plan: Plan, items: Sequence[Measurement], first: str) -> Iterator[float]:
    """On each target, what a trial loses on the test data less what it loses on the validation data."""
    sign = 1 if plan.metric(first).direction == "maximize" else -1
    before = {item.target: item for item in items if item.metric == first}
    for item in items:
        other = before.get(item.target)
        if item.metric == TEST + first and other is not None and None not in (item.baseline, other.baseline):
            assert item.baseline is not None
            assert other.baseline is not None
            yield sign * ((item.baseline - item.value) - (other.baseline - other.value))
