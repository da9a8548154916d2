"""Whether a run was asked to stop, and how soon: by Ctrl-C, SIGTERM or SIGHUP, once or twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from optlang.measure import signals


class InterruptedRun(Exception):  # noqa: N818 - the user's wish, not an error
    """Ctrl-C or another signal to stop for the second time, or a trial that did not finish in time after one."""


class StopRequest:
    """`when` is "" until a signal arrives, then "soon" (when the running trial is over), then "now"."""

    def __init__(self) -> None:
        self.when: Literal["", "soon", "now"] = ""
        self.terminated = False
        """Whether it was SIGTERM or SIGHUP: they may have reached processes below the worker, too."""
        self._deadline = float("inf")
        self._announced = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Ctrl-C lets the running trial finish, SIGTERM and SIGHUP for a time; a second signal ends at once."""
        last = 0.0

        def receive(number: int) -> None:
            # Nothing more here: a signal comes in the middle of anything, say of a line that is being printed.
            nonlocal last
            now, before = time.monotonic(), last
            if number != signals.INTERRUPT:
                if self.terminated and now - before < signals.TWICE:
                    return
                self.terminated, last = True, now
                self._deadline = min(self._deadline, now + signals.GRACE)
            self.when = "now" if self.when else "soon"

        with signals.heard_by(receive):
            yield

    def check(self, announce: Callable[[str], None]) -> None:
        """Announce a first signal, once; InterruptedRun at the second one, or past the deadline."""
        if self.when and not self._announced:
            self._announced = True
            limit, again = (
                (f", in {signals.GRACE:g} s at the latest", "a second signal") if self.terminated
                else ("", "Ctrl-C again")
            )
            announce(f"stopping when this trial is done{limit}; {again} stops now (nothing finished is lost)")
        if time.monotonic() > self._deadline:
            self.when = "now"
        if self.when == "now":
            raise InterruptedRun
