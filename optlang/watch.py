"""What whoever watches a run is told. The loop calls these and never prints; everything is a plain value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from optlang.forms import JSON


@dataclass(frozen=True, slots=True)
class Begun:
    """A trial that starts: its number, where it came from, its knobs, what it will do (path, technique and settings of
    each step), and on which runtime."""

    trial: int
    origin: str
    point: Mapping[str, object]
    steps: Sequence[Mapping[str, object]]
    runtime: str


@dataclass(frozen=True, slots=True)
class Ended:
    """A trial that is over. `figures` are its metrics, `ratios` how many times better than the baseline they are."""

    trial: int
    origin: str
    state: str
    reason: str | None
    seconds: float
    figures: Mapping[str, float]
    ratios: Mapping[str, float]
    front: Sequence[int]
    done: int
    total: int
    seconds_left: float | None


class Watcher(Protocol):
    """Shows a run to somebody."""

    def note(self, text: str) -> None:
        """Something to know that is no trial: what changed, what is missing, why it stops."""

    def plan(self, study: str, trials: int, done: int) -> None:
        """The run begins, or goes on: so many searched trials are wanted, and so many are there."""

    def began(self, begun: Begun) -> None:
        """A trial starts."""

    def doing(self, what: Mapping[str, JSON]) -> None:
        """What the trial is doing: `{"doing": "finetune", "epoch": 2, "epochs": 3, "loss": 0.1}`."""

    def ended(self, ended: Ended) -> None:
        """A trial is over."""
