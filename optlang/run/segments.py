"""The steps of a trial that was carried out in parts, between which it was paused, as if it had been in one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from optlang.run.curves import Epoch
from optlang.run.job import StepRun
from optlang.store.writer import TrialRow


def joined(before: Sequence[StepRun], now: Sequence[StepRun]) -> tuple[StepRun, ...]:
    """The steps of a trial that went on: with the seconds of both parts, and the curve that both make.

    A step counts as carried out where the trial did it in any part: in the next one its result is in the cache.
    """
    left = list(before)
    found = []
    for step in now:
        first = next((item for item in left if item.path == step.path), None)
        if first is None:
            found.append(step)
            continue
        left.remove(first)
        found.append(replace(
            step, cached=step.cached if first.cached is None else first.cached, seconds=first.seconds + step.seconds,
            started=first.started, curve=step.curve or first.curve, resumed=first.resumed, earlier=first.earlier,
        ))
    # A part that was broken off has not come to all that was done before.
    return (*found, *left)


def before_of(row: TrialRow, epochs: Iterable[Mapping[str, Any]]) -> tuple[StepRun, ...]:
    """The steps of a paused trial that were begun, as they are stored."""
    curves: dict[str, list[Epoch]] = {}
    for item in epochs:
        curves.setdefault(item["path"], []).append(Epoch(
            item["epoch"], item["epochs"], item["loss"], item["metric"], item["value"], item["seconds"], item["target"]
        ))
    return tuple(
        StepRun(
            str(step["path"]), str(step["technique"]), _text(step["key"]), step["cached"], float(step["seconds"]),  # type: ignore[arg-type]
            str(step["started"]), tuple(curves.get(str(step["path"]), ())),
        )
        for step in row.steps if step.get("seconds") is not None
    )


def epochs_of(steps: Iterable[StepRun]) -> list[dict[str, Any]]:
    """The epochs of a trial's steps, as they are stored."""
    return [{**asdict(epoch), "path": step.path, "cached": step.cached} for step in steps for epoch in step.curve]


def _text(value: object) -> str | None:
    return None if value is None else str(value)
