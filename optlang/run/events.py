"""The events of a run, as plain values: the scheduler passes them to a watcher, and never prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from optlang.interfaces import JSON


@dataclass(frozen=True, slots=True)
class TrialStarted:
    """A trial that starts: its number, where it came from, its knobs, what it will do (path, technique and settings of
    each step), on which runtime, and in which lane of the engine. One that was paused goes on after epoch `resumed`."""

    number: int
    origin: str
    point: Mapping[str, object]
    steps: Sequence[Mapping[str, object]]
    runtime: str
    resumed: int | None = None
    lane: int = 0


@dataclass(frozen=True, slots=True)
class RunStarted:
    """What a run consists of: the baseline, `ladder` trials of a technique alone, and `searched` drawn ones.

    `done` counts the finished ones of all three kinds, `drawn` those of the last. `whole_space` says that the study
    asks for more searched trials than its space has points. `searched` is None where the time alone ends the search;
    `timeout` are the seconds that this session may take.
    """

    study: str
    ladder: int
    searched: int | None
    done: int
    drawn: int
    whole_space: bool = False
    timeout: float | None = None

    @property
    def total(self) -> int | None:
        """All trials of the run, the baseline among them; None where the time alone ends the search."""
        return None if self.searched is None else 1 + self.ladder + self.searched


@dataclass(frozen=True, slots=True)
class Comparison:
    """A metric of a trial against the baseline's: `times` better where less is better, `lost` (baseline − trial) where
    more is; both are None where there is nothing to compare with.

    `baseline` is the baseline's value in the same measurement, None where the two were not measured together.
    """

    value: float
    unit: str
    times: float | None = None
    lost: float | None = None
    baseline: float | None = None


@dataclass(frozen=True, slots=True)
class TrialFinished:
    """A trial that is over, or paused: its figures by metric (with the target in front where the study has several).

    `done` of `total` trials of the run are finished, the baseline and the ladder included (None: the time alone ends
    the search); `seconds_left` is the time that the rest of the run is expected to take, or takes `at_least`, None
    while nothing is known. `dependent` says that an answer depends on the other samples of its call. `tie_of` is the
    member of the front that stands for the trial, where another does. `paused` trials of the run wait to go on.
    """

    number: int
    origin: str
    state: str
    reason: str | None
    seconds: float
    figures: Mapping[str, Comparison]
    front: Sequence[int]
    done: int
    total: int | None
    seconds_left: float | None
    dependent: bool = False
    tie_of: int | None = None
    at_least: bool = False
    paused: int = 0


class Watcher(Protocol):
    """Shows a run."""

    def message(self, text: str) -> None:
        """What the user should know besides the trials: what changed, what is missing, why the run stops."""

    def run_started(self, run: RunStarted) -> None:
        """The run starts, or goes on."""

    def trial_started(self, trial: TrialStarted) -> None:
        """A trial starts."""

    def progress(self, activity: Mapping[str, JSON]) -> None:
        """What a worker is doing: `{"doing": "finetune", "epoch": 2, "epochs": 3, "loss": 0.1}`, with its `lane` where
        there are several."""

    def trial_finished(self, trial: TrialFinished) -> None:
        """A trial has ended, or is paused: then it may start again, and end again."""
