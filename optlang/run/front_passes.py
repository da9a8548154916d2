"""Measures a front again, all members side by side with the baseline, until the same trials are in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from optlang.interfaces import Measurement
from optlang.measure.process import Deployment
from optlang.run.dispatch import Dispatcher
from optlang.run.engine import WorkerDied, WorkerTimeout
from optlang.run.history import History
from optlang.run.job import Failure, FrontJob, Workload
from optlang.run.job_builder import JobBuilder

PASSES = 3
"""How often the front is measured again at most."""

NEAR = 4
"""How many trials that are within one interval of the front are measured again with it."""

Measured = Mapping[int, tuple[Measurement, ...]]
"""New measurements by the trials' numbers."""


def passes(
    history: History, jobs: JobBuilder, dispatcher: Dispatcher, workload: Workload, message: Callable[[str], None]
) -> Iterator[Measured]:
    """The new measurements of one pass after the other; the caller adds each to `history` before it asks for the next.

    It ends where all of the front was measured again, after `PASSES`, or where measuring fails, which is reported.
    """
    measured: set[int] = set()
    for turn in range(PASSES):
        front = history.front()
        # Later passes are for those that the last one has brought into the front.
        candidates = [*front, *history.near(NEAR)] if turn == 0 else front
        numbers = [number for number in candidates if number not in (0, *measured) and history.timed(number)]
        if not numbers or (turn == 0 and history.front_is_settled()):
            return
        message(f"measuring the {len(numbers)} best again, side by side with the baseline")
        members = [(number, member) for number in numbers for member in jobs.members(number).values()]
        found = _measured(members, jobs, dispatcher, workload, message)
        if not found:
            return
        yield found
        measured |= set(found)


def _measured(
    members: Sequence[tuple[int, Deployment]], jobs: JobBuilder, dispatcher: Dispatcher, workload: Workload,
    message: Callable[[str], None],
) -> Measured:
    """The members' latencies next to the baseline's, those of one target in one cycle.

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
        job = FrontJob(workload, reference, alike, jobs.front_effort, dispatcher.progress)
        try:
            again = dispatcher.run(measure_front, job, None)
        except (WorkerDied, WorkerTimeout) as error:
            again = Failure(str(error), "")
        if isinstance(again, Failure):
            message(f"the front could not be measured again: {again.reason}")
            return found
        for number, measurements in again.items():
            if number != 0 or jobs.members(0)[target.name].target == target:
                found[number] = (*found.get(number, ()), *measurements)
    return found
