"""What goes on while something else does: a generator that yields the future that it waits for."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, TypeAlias, TypeVar

POLL = 0.1
"""Seconds between two looks at what is reported and asked for meanwhile."""

NEVER: Future[None] = Future()
"""What waits for nothing but what others do meanwhile yields it, and is gone on with after `POLL` seconds."""

T = TypeVar("T")

Waits: TypeAlias = Generator[Future[Any], None, T]
"""It goes on when the future is done, or `POLL` seconds are over, and returns what came of it."""


def alone(steps: Waits[T]) -> T:
    """Carry it out, and nothing else meanwhile."""
    while True:
        try:
            future = next(steps)
        except StopIteration as end:
            found: T = end.value
            return found
        wait([future], POLL, FIRST_COMPLETED)


def together(all_steps: Iterable[Waits[T]], last: type[BaseException]) -> list[T]:
    """Carry them out at the same time, and return what came of each, in their order.

    Where one raises `last`, the others are carried on to their end before that is raised; any other exception is
    raised at once, and ends the others where they stand.
    """
    lanes = list(all_steps)
    waiting: dict[int, Future[Any]] = {}
    found: dict[int, T] = {}
    raised: BaseException | None = None
    going = list(range(len(lanes)))
    try:
        while going:
            for number in list(going):
                try:
                    waiting[number] = next(lanes[number])
                except StopIteration as end:
                    found[number] = end.value
                except last as error:
                    raised = raised or error
                else:
                    continue
                going.remove(number)
                waiting.pop(number, None)
            if waiting:
                wait(waiting.values(), POLL, FIRST_COMPLETED)
    finally:
        for lane in lanes:
            lane.close()
    if raised is not None:
        raise raised
    return [found[number] for number in range(len(lanes))]
