"""What is recorded of a trial when it ends, or pauses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from optlang.interfaces import Artifact
from optlang.run.history import TrialRecord
from optlang.run.job import BASELINE, Result
from optlang.store.artifacts import whole_sum
from optlang.store.curves import curve_event
from optlang.store.journal import now
from optlang.store.projection import PAUSED


def end_event(run: str, record: TrialRecord, result: Result, seconds: float) -> dict[str, Any]:
    """The event of a trial that has ended or paused, after so many seconds in all."""
    # The baseline's own steps are recorded with the baseline; every other trial found them in the cache.
    steps = [step for step in result.steps if record.origin == "baseline" or not step.path.startswith(BASELINE)]
    curves = [
        curve for step in steps if step.curve
        for curve in curve_event(step.path, step.cached, [asdict(epoch) for epoch in step.curve])
    ]
    paused = {} if record.state != PAUSED else {
        "rung": (last := record.pauses[-1]).rung, "epoch": last.epoch, "epochs": last.epochs, "step": last.step,
        "scores": last.scores, "measured": [asdict(item) for item in last.measured],
    }
    return {
        "event": "pause" if paused else "end", "run": run, "trial": record.number, "state": record.state,
        "reason": record.reason, **paused,
        "error": record.error, "finished": now(), "seconds": seconds,
        "steps": [asdict(replace(step, curve=())) for step in steps],
        "measurements": [asdict(item) for item in result.measurements],
        "artifacts": [_artifact_event(target, artifact) for target, artifact in result.artifacts.items()],
        "notes": dict(result.notes), "violations": [asdict(item) for item in record.violations],
        "sampler_state": dict(record.sampler_state),
        **({"curves": curves} if curves else {}),
    }


def rebuilt_event(run: str, number: int, artifacts: Mapping[str, Artifact]) -> dict[str, Any]:
    """The event of artifacts that are there again, after they were removed."""
    return {
        "event": "rebuilt", "run": run, "trial": number, "at": now(),
        "artifacts": [_artifact_event(target, artifact) for target, artifact in artifacts.items()],
    }


def _artifact_event(target: str, artifact: Artifact) -> dict[str, Any]:
    files = [asdict(file) for file in artifact.files]
    return {
        "target": target, "path": str(artifact.folder), "format": artifact.format,
        "bytes": sum(file.bytes for file in artifact.files), "sha256": whole_sum(artifact.files), "files": files,
        "inputs": list(artifact.inputs), "outputs": list(artifact.outputs), "about": dict(artifact.about),
    }
