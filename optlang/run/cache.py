"""The cache of step results: the key of a result, a hash of all that it is computed from, and the folder it names."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from optlang.interfaces import JSON, Factory, ModelState, QuantWants
from optlang.run import elsewhere, partial
from optlang.run.job import StepJob, Workload
from optlang.run.machine import versions
from optlang.workload import imports

if TYPE_CHECKING:
    from optlang.workload.data.dataset import Dataset

# The libraries that a step's result depends on; a newer runtime does not make trained weights stale.
_MATTER = ("torch", "torch-pruning", "onnx", "onnxruntime", "numpy")

# Code that every step's result depends on besides its technique: its data, what is counted, how it is saved.
_SHARED = (
    "optlang.workload.data.dataset:load", "optlang.workload.model.count:count",
    "optlang.workload.export.onnx_weights:sparsity", "optlang.workload.model.save:save",
)


@dataclass(frozen=True, slots=True)
class Clock:
    """Times states on the trial's runtime and target, which `about` describes, in calls of `batch` samples."""

    about: JSON
    seconds: Callable[[ModelState], float]
    batch: int = 1


def libraries() -> dict[str, JSON]:
    """The versions of the libraries that the results of steps depend on."""
    return versions(_MATTER)


def key_of(*parts: JSON) -> str:
    """The SHA-256 of the parts as canonical JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def model_key(workload: Workload, data: Dataset) -> str:
    """The key of the untrained model with its data, which the first step begins with."""
    return key_of(
        "model", _factory(workload.model, workload.study), data.fingerprint,
        imports.fingerprint(workload.data.calls, workload.study), "cpu", libraries(),
        [imports.fingerprint(calls, workload.study) for calls in _SHARED],
    )


def workload_key(workload: Workload, data: Dataset) -> str:
    """The key of the untrained model with its data, and of the objects of Python that compute the study's metrics."""
    return key_of("workload", model_key(workload, data), [
        [metric.name, metric.direction, _factory(metric.factory, workload.study)]
        for metric in sorted(workload.metrics, key=lambda metric: metric.name)
    ])


def step_key(
    parent: str, step: StepJob, workload: Workload, wants: QuantWants | None, clock: Clock, opened: JSON = None,
    device: str = "cpu",
) -> str:
    """The key of a step's result: of its parent's key, its code, settings and seed, and what it gets of the runtime.

    `opened` are the axes that the target opens: training has nothing to do with them, a file that a step writes has.
    `device` is the kind of device that models are trained on ("cuda"): another one rounds otherwise.
    """
    return key_of(
        parent, step.technique, imports.fingerprint(step.calls, workload.study),
        {name: _setting(value, workload.study) for name, value in step.settings.items()}, step.seed,
        "left to the runtime" if step.left
        else asdict(wants) if wants is not None and "runtime" in step.needs else None,
        *(["finished by the runtime"] if step.performed and step.prepares else []),
        *([clock.about] if "latency" in step.needs else []),
        *([{"device": device}] if device != "cpu" and computes(step) else []),
        *([{"opened": opened}] if opened and ("training" not in step.needs or "runtime" in step.needs) else []),
    )


def computes(step: StepJob) -> bool:
    """Whether a step runs the model, or its gradients, on the device that trains.

    One that asks for training data does, or for calibration data where the ranges are not those of a runtime's file. It
    does not where its settings rank weights by what they are alone: the samples to rank them by are then no setting of
    it, and neither are batches that recompute norms.
    """
    calibrates = "calibration" in step.needs and "runtime" not in step.needs
    if step.left or not ("training" in step.needs or calibrates):
        return False
    ranks = "importance" in step.settings
    return not ranks or step.settings.get("samples") is not None or any(
        step.settings.get(name) for name in ("recalibrate", "scored")
    )


def _setting(value: JSON, study: Path) -> JSON:
    # Nothing but a model is a mapping.
    if isinstance(value, Mapping):
        return _factory(Factory(**value), study)  # type: ignore[arg-type]
    if isinstance(value, list | tuple):
        return [_setting(item, study) for item in value]
    return value


def _factory(factory: Factory, study: Path) -> JSON:
    weights = None
    if factory.weights is not None:
        from optlang.workload.model import checkpoints

        weights = [
            checkpoints.fingerprint(study / factory.weights) or factory.weights, factory.weights_key,
            factory.weights_strict,
        ]
    return [factory.calls, dict(factory.arguments), weights, imports.fingerprint(factory.calls, study)]


MEMO = "memo.json"
"""What a result inside a step is, in a folder of the cache."""

CHECKPOINT = "training.pt"
"""What the checkpoint of a training is there."""

SUMS = "sums.json"
"""The file of a result that has the SHA-256 of the others, by name."""


class Cache:
    """A folder of results. What `find` returns was written whole: a result appears under its name by a rename only.

    Another process may remove a result at any time, see `cache_files.remove`: it is gone as a whole then.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, key: str) -> Path | None:
        """The folder that holds the result, None where there is none. It counts as used now."""
        folder = self._path(key)
        try:
            # What was used last is removed last. A time of its own: the file system's has a coarse clock.
            now = time.time_ns()
            os.utime(folder, ns=(now, now))
        except FileNotFoundError:
            return folder if elsewhere.bring(folder) else None
        except OSError:
            # Another user's, or one that may only be read.
            return folder if folder.is_dir() else None
        return folder

    def put(self, key: str, write: Callable[[Path], None]) -> Path:
        """Have `write` fill an empty folder, and keep it under `key`; another process's same result wins a race."""
        folder = self._path(key)
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = partial.aside(folder.parent)
        aside.mkdir()
        try:
            write(aside)
            files = [path for path in aside.rglob("*") if path.is_file()]
            sums = {str(path.relative_to(aside)): sha256(path) for path in sorted(files)}
            (aside / SUMS).write_text(json.dumps(sums, indent=1), encoding="utf-8")
            for path in (*files, aside / SUMS):
                _sync(path)
            try:
                aside.rename(folder)
            except OSError:
                if not folder.is_dir():
                    # The one that was there has just been removed.
                    aside.rename(folder)
            _sync(folder.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        elsewhere.send(folder)
        return folder

    def text(self, key: str, name: str, compute: Callable[[], str]) -> str:
        """The text in the file `name` of what is kept under `key`; computed, and kept, where there is none."""
        found = self.find(key)
        if found is not None:
            with contextlib.suppress(FileNotFoundError):
                return (found / name).read_text()
        text = compute()

        def write(folder: Path) -> None:
            (folder / name).write_text(text)

        self.put(key, write)
        return text

    def replace(self, key: str, name: str, write: Callable[[Path], None]) -> None:
        """Have `write` write the file `name` of what is kept under `key`, in place of the one that may be there.

        `find` gives a folder with the one or the other, whole; where it was interrupted for the first time, with none.
        """
        folder = self._path(key)
        folder.mkdir(parents=True, exist_ok=True)
        aside = partial.aside(folder)
        try:
            write(aside)
            _sync(aside)
            aside.replace(folder / name)
            _sync(folder)
            _sync(folder.parent)
        finally:
            aside.unlink(missing_ok=True)
        elsewhere.send(folder)

    def remove(self, key: str) -> None:
        """Remove what is kept under `key`, where there is such."""
        folder = self._path(key)
        aside = partial.aside(folder.parent)
        with contextlib.suppress(FileNotFoundError):
            folder.rename(aside)
            shutil.rmtree(aside)
        elsewhere.drop(folder)

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / key


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Have the file, or the folder's list of names, on the disk before anything says so."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
