"""Learning curves: what a technique reports at the end of each epoch, with the seconds since its step began.

A curve is kept in the cache next to the result of its step, so that a step that is answered from the cache has it too.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from optlang.interfaces import JSON

_FILE = "curve.json"
_DIGITS = 6
"""Significant digits that are kept: more would only make the journal longer."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """The end of an epoch: its number (from 1) of `epochs`, the mean loss of the training in it, and what was held out.

    `metric` names what `value` is, measured on 'validation'; both are None where nothing was. `seconds` are those since
    the step began. `target` is given only where the step's results differ from target to target.
    """

    epoch: int
    epochs: int | None
    loss: float | None
    metric: str | None
    value: float | None
    seconds: float
    target: str | None = None


class CurveRecorder:
    """Collects the curve of one step from what its technique reports; other reports are left out of account.

    An epoch of which several metrics are known stands once for each.
    """

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._epochs: list[Epoch] = []

    @property
    def curve(self) -> tuple[Epoch, ...]:
        """The epochs so far."""
        return tuple(self._epochs)

    def go_on(self, curve: Sequence[Epoch]) -> None:
        """Begin again with the curve of a training that was paused: what comes next follows its last epoch."""
        self._epochs = list(curve)
        self._begin = time.monotonic() - (curve[-1].seconds if curve else 0.0)

    def __call__(self, activity: Mapping[str, JSON]) -> None:
        """Take in one report of a technique, which may be the user's own and report whatever it likes."""
        number, of = activity.get("epoch"), activity.get("epochs")
        if not _whole(number):
            return
        assert isinstance(number, int)
        epochs = of if isinstance(of, int) and _whole(of) else None
        seconds = round(time.monotonic() - self._begin, 3)
        self._epochs += (
            Epoch(number, epochs, _number(activity.get("loss")), metric, value, seconds)
            for metric, value in _held_out(activity) or ((None, None),)
        )


def _held_out(activity: Mapping[str, JSON]) -> tuple[tuple[str, float], ...]:
    """The metrics on 'validation' that a report has: its own `metric`, and `scores`, which win over it."""
    metric, scores = activity.get("metric"), activity.get("scores")
    named = {metric: activity.get("value")} if isinstance(metric, str) else {}
    given = {**named, **(scores if isinstance(scores, Mapping) else {})}
    found = ((name, _number(value)) for name, value in given.items())
    return tuple((name, value) for name, value in found if value is not None)


def epochs_in(curve: Sequence[Epoch]) -> int:
    """How many epochs ended; one that stands once for each of several metrics is one."""
    ends = [(item.epoch, item.seconds) for item in curve]
    return sum(end != before for end, before in zip(ends, [None, *ends], strict=False))


def ended_with(curve: Sequence[Epoch]) -> dict[str, float]:
    """What was held out at the end of the last epoch, by metric."""
    last = curve[-1] if curve else None
    return {
        item.metric: item.value for item in curve
        if last is not None and item.metric is not None and item.value is not None
        and (item.epoch, item.seconds) == (last.epoch, last.seconds)
    }


def write_curve(folder: Path, curve: Sequence[Epoch]) -> None:
    """Keep a curve in the folder of its step's result; nothing where it has no epochs."""
    if curve:
        (folder / _FILE).write_text(json.dumps([asdict(item) for item in curve]))


def read_curve(folder: Path | None) -> tuple[Epoch, ...]:
    """The curve of a result in the cache; empty where the result is gone, or was written before curves were kept."""
    if folder is None:
        return ()
    try:
        listed = json.loads((folder / _FILE).read_text())
    except FileNotFoundError:
        return ()
    known = {item.name for item in fields(Epoch)}
    return tuple(Epoch(**{name: value for name, value in item.items() if name in known}) for item in listed)


def _whole(value: JSON) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: JSON) -> float | None:
    """The number, shortened; None for what is none, or not finite."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(f"{value:.{_DIGITS}g}")
