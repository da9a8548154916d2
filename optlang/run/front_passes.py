"""Measures a front again, all members side by side with the baseline, until it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from optlang.interfaces import Measurement
from optlang.measure.process import Deployment
from optlang.run.dispatch import Dispatcher
from optlang.run.engine import WorkerDied, WorkerTimeout
from optlang.run.history import NEAR, History
from optlang.run.job import Failure, FrontJob, Workload
from optlang.run.job_builder import JobBuilder

PASSES = 3
"""How often the front is measured again at most."""

Measured = Mapping[int, tuple[Measurement, ...]]
"""New measurements by the trials' numbers."""


def passes(
    history: History, jobs: JobBuilder, dispatcher: Dispatcher, workload: Workload, message: Callable[[str], None],
    time_for: Callable[[Sequence[int]], bool] = lambda trials: True,
    ready: Callable[[Sequence[int]], Sequence[int]] = lambda trials: trials,
) -> Iterator[Measured]:
    """The new measurements of one pass after the other; the caller adds each to `history` before it asks for the next.

    A pass measures the whole front in one cycle, so that all of its rows compare with the same seconds of the baseline.
    It ends where the front holds (a pass has measured all that are in the front after it, ties aside), after `PASSES`,
    where there is no `time_for` another one of its trials, or where measuring fails. All but the first are reported.
    `ready` has the artifacts of its trials there, and says of which.
    """
    measured: set[int] = set()
    for turn in range(PASSES):
        numbers = due(history, turn)
        if not numbers or measured.issuperset(_timed(history, history.front())):
            return
        if turn and not time_for(numbers):
            message(
                "the front has changed, and the time is up before it could be measured again: the same command goes on "
                "with that"
            )
            return
        again = f"the front has changed (pass {turn + 1} of at most {PASSES}): " if turn else ""
        message(f"{again}measuring the {len(numbers)} best again, side by side with the baseline")
        members = [(number, member) for number in ready(numbers) for member in jobs.members(number).values()]
        found, failed = _measured(members, jobs, dispatcher, workload)
        if found:
            yield found
        if failed is not None:
            message(f"the front could not be measured again: {failed}")
            return
        measured = set(found)
    missing = [number for number in _timed(history, history.front()) if number not in measured]
    if missing:
        message(
            f"the front has changed in each of {PASSES} passes: {', '.join(map(str, missing))} came into it in the "
            "last one, measured next to the baseline and not next to the others"
        )


def due(history: History, turn: int = 0) -> list[int]:
    """The trials that a pass would measure now, the first one (`turn` 0) or a later one; none where the front holds."""
    front = _timed(history, history.front())
    if not front or (turn == 0 and history.front_is_settled()):
        return []
    return _timed(history, [*history.members(), *(history.near(NEAR) if turn == 0 else ())])


def _timed(history: History, numbers: Sequence[int]) -> list[int]:
    return [number for number in numbers if number != 0 and history.timed(number)]


def _measured(
    members: Sequence[tuple[int, Deployment]], jobs: JobBuilder, dispatcher: Dispatcher, workload: Workload
) -> tuple[Measured, str | None]:
    """The members' latencies next to the baseline's, those of one target in one cycle; and why not all are there.

    The baseline's own are among them, where it ran with the threads and samples a call that its trial has.
    """
    from optlang.run.worker import measure_front

    found: dict[int, tuple[Measurement, ...]] = {}
    for target in dict.fromkeys(member.target for _, member in members):
        reference = jobs.reference(target)
        if reference is None:
            continue
        dispatcher.load()
        alike = {number: member for number, member in members if member.target == target}
        job = FrontJob(workload, reference, alike, jobs.front_effort(target, len(alike)))
        try:
            again = dispatcher.run(measure_front, job, None)
        except (WorkerDied, WorkerTimeout) as error:
            again = Failure(str(error), "")
        if isinstance(again, Failure):
            return found, again.reason
        for number, measurements in again.items():
            if number != 0 or jobs.members(0)[target.name].target == target:
                found[number] = (*found.get(number, ()), *measurements)
    return found, None
