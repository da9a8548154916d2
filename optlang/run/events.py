"""What whoever watches a run is told. The loop calls these and never prints; everything is a plain value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from optlang.interfaces import JSON


@dataclass(frozen=True, slots=True)
class TrialStarted:
    """A trial that starts: its number, where it came from, its knobs, what it will do (path, technique and settings of
    each step), and on which runtime."""

    number: int
    origin: str
    point: Mapping[str, object]
    steps: Sequence[Mapping[str, object]]
    runtime: str


@dataclass(frozen=True, slots=True)
class RunStarted:
    """What a run is to consist of: the baseline, `ladder` trials of a technique alone, and `searched` drawn ones.

    `done` counts those of all three kinds that are there already, `drawn` those of the last.
    """

    study: str
    ladder: int
    searched: int
    done: int
    drawn: int

    @property
    def total(self) -> int:
        """All trials of the run, the baseline among them."""
        return 1 + self.ladder + self.searched


@dataclass(frozen=True, slots=True)
class Comparison:
    """A metric of a trial against the baseline's: `times` better where less is better, `lost` (baseline − trial) where
    more is; both are None where there is nothing to compare with."""

    value: float
    unit: str
    times: float | None = None
    lost: float | None = None


@dataclass(frozen=True, slots=True)
class TrialFinished:
    """A trial that is over: its figures by metric (with the target in front where the study has several).

    `done` of `total` trials of the run are over, the baseline and the ladder among them; `seconds_left` is for the
    others, None as long as nothing is known of their time. `dependent` says that an answer depends on the other samples
    of its call.
    """

    number: int
    origin: str
    state: str
    reason: str | None
    seconds: float
    figures: Mapping[str, Comparison]
    front: Sequence[int]
    done: int
    total: int
    seconds_left: float | None
    dependent: bool = False


class Watcher(Protocol):
    """Shows a run to somebody."""

    def message(self, text: str) -> None:
        """Something to know that is no trial: what changed, what is missing, why it stops."""

    def run_started(self, run: RunStarted) -> None:
        """The run begins, or goes on."""

    def trial_started(self, trial: TrialStarted) -> None:
        """A trial starts."""

    def progress(self, activity: Mapping[str, JSON]) -> None:
        """What the trial is doing: `{"doing": "finetune", "epoch": 2, "epochs": 3, "loss": 0.1}`."""

    def trial_finished(self, trial: TrialFinished) -> None:
        """A trial is over."""
