"""The lanes of an engine at work: all at the same time, as many as have room in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from optlang.plan.quantities import counted, quantity
from optlang.run import memory, waits
from optlang.run.dispatch import Dispatcher
from optlang.run.engine import WorkerDied
from optlang.run.stop import InterruptedRun, StopRequest
from optlang.run.waits import Waits

T = TypeVar("T")


class Lanes:
    """A dispatcher for each lane; `say` gets what the user should know. Where `local` is false, its engine has found
    out itself how many workers there is room for."""

    def __init__(
        self, dispatchers: Sequence[Dispatcher], stop: StopRequest, say: Callable[[str], None], *, local: bool
    ) -> None:
        self._dispatchers, self._stop, self._say = dispatchers, stop, say
        self.first = dispatchers[0]
        self._room = None if local and len(dispatchers) > 1 else len(dispatchers)
        """In how many lanes a worker has room, where that is known."""
        self._leads = False
        """Whether the first lane is at work, whose first trial shows what a worker needs."""

    def __len__(self) -> int:
        return len(self._dispatchers)

    def together(self, lane: Callable[[Dispatcher], Waits[T]]) -> list[T]:
        """Have all lanes work at the same time, each as `lane` makes it of its dispatcher."""
        def leading() -> Waits[T]:
            try:
                return (yield from lane(self.first))
            finally:
                self._leads = False

        self._leads = True
        return waits.together([leading(), *map(lane, self._dispatchers[1:])], InterruptedRun)

    def has_room(self, dispatcher: Dispatcher) -> Waits[bool]:
        """Whether a lane takes part: all but the first wait until it is known what a worker needs."""
        if dispatcher.lane == 0:
            return True
        while self._room is None and self._leads:
            yield waits.NEVER
        return self._room is not None and dispatcher.lane < self._room

    def look_for_room(self, dispatcher: Dispatcher) -> Waits[None]:
        """After the first trial of the session: how many workers there is room for."""
        if self._room is not None or self._stop.when:
            return
        from optlang.run.worker import peak_memory

        try:
            needed = yield from dispatcher.running(peak_memory, None, None)
        except WorkerDied:
            return
        lanes, free = len(self), memory.free()
        self._room = min(lanes, 1 + free // max(1, needed)) if free is not None else lanes
        for other in self._dispatchers[:self._room]:
            other.begin()
        if self._room < lanes:
            self._say(
                f"{self._room} of {counted(lanes, 'worker')} train: each needs up to {quantity(needed, 'B')} of "
                f"memory, and {quantity(free or 0, 'B')} are free"
            )
