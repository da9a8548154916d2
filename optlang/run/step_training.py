"""The training of one step: collects its curve, ends it where its trial is decided, pauses it and has it go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optlang.interfaces import JSON
from optlang.run.checkpoints import Checkpoint, Checkpoints, UnreadableError
from optlang.run.curves import CurveRecorder, Epoch, ended_with, epochs_in

Report = Callable[[Mapping[str, JSON]], None]
State = Callable[[], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Watch:
    """Looks at the trainings of a trial: `score` gives the metrics of a module, of those that are named in `metrics`.

    `ended` gets the path of a step and its curve so far at the end of each epoch, and may raise `StoppedTraining`.
    """

    score: Callable[[Any], Mapping[str, float]]
    ended: Callable[[str, Sequence[Epoch]], None]
    metrics: tuple[str, ...] = ()


class PausedTraining(BaseException):
    """The trainings of the trial, on one target, have had the epochs that they may have now.

    It is no `Exception`: a technique of the user's own must not take it for a failure. See `job.Paused`.
    """

    def __init__(self, epochs: int, step: str, scores: Mapping[str, float]) -> None:
        super().__init__(f"paused in {step} after {epochs} epochs")
        self.epochs, self.step, self.scores = epochs, step, scores


class StepTraining:
    """What a step reports and may be paused by; `before` are the epochs of the trial's earlier trainings.

    `key` is the step's. It pauses where these and its own are `pause` (None: nowhere), as far as its technique can go
    on from there: it has called `resume`, and its training is not over.
    """

    def __init__(
        self, path: str, key: str, checkpoints: Checkpoints, report: Report, watch: Watch | None, before: int,
        pause: int | None,
    ) -> None:
        self.resumed, self.earlier = 0, 0.0
        """The epochs that it went on after, and the seconds that they had taken."""
        self.ignored: str | None = None
        """Why a checkpoint was not used."""
        self._path, self._key, self._checkpoints = path, key, checkpoints
        self._report, self._watch, self._before, self._pause = report, watch, before, pause
        self._recorder = CurveRecorder()
        self._begin = time.monotonic()
        self._state: State | None = None
        self._trainings = 0

    @property
    def curve(self) -> tuple[Epoch, ...]:
        """The epochs so far, with those before a pause."""
        return self._recorder.curve

    @property
    def seconds(self) -> float:
        """What this attempt has taken so far."""
        return time.monotonic() - self._begin

    def resume(self, state: State) -> Mapping[str, Any] | None:
        """See `Context.resume`."""
        self._trainings += 1
        self._state = state
        kept = self._checkpoint()
        if kept is None or kept.training != self._trainings:
            return None
        self._recorder.go_on(kept.curve)
        self.resumed, self.earlier = epochs_in(kept.curve), kept.seconds
        if self._due and set(self._metrics) <= set(kept.scored):
            raise self._paused()
        kept.draw_on()
        return kept.state

    def report(self, activity: Mapping[str, JSON]) -> None:
        """See `Context.report`."""
        known = len(self.curve)
        self._recorder(activity)
        self._report(activity)
        if len(self.curve) == known:
            return
        last = self.curve[-1]
        if last.epoch == last.epochs or activity.get("last"):
            # After its last epoch a step is finished first, so that its result is kept.
            self._state = None
            return
        if self._watch is not None:
            self._watch.ended(self._path, self.curve)
        if self._state is not None and self._due:
            self._checkpoints.keep(self._key, Checkpoint.now(
                self._trainings, self.earlier + self.seconds, self.curve, self._metrics, self._state()
            ))
            raise self._paused()

    @property
    def _metrics(self) -> tuple[str, ...]:
        return () if self._watch is None else self._watch.metrics

    @property
    def _due(self) -> bool:
        return self._pause is not None and self._before + epochs_in(self.curve) >= self._pause

    def _checkpoint(self) -> Checkpoint | None:
        try:
            return self._checkpoints.find(self._key)
        except UnreadableError as error:
            self.ignored = f"the checkpoint of {self._path} is not used: {error}. It is trained from its start"
            return None

    def _paused(self) -> PausedTraining:
        found = ended_with(self.curve)
        scores = {name: found[name] for name in self._metrics if name in found}
        return PausedTraining(self._before + epochs_in(self.curve), self._path, scores)
