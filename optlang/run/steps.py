"""Applies the steps of a trial, or finds their results in the cache. Knows nothing of runtimes and measurements."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from optlang.interfaces import (
    JSON,
    Context,
    Measurement,
    Memo,
    ModelState,
    OptlangError,
    QuantWants,
    Refusal,
    Request,
)
from optlang.run.cache import Cache, Clock, key_of, model_key, step_key
from optlang.run.job import BASELINE, StepJob, StepRun, Workload
from optlang.techniques.shared.proof import proved
from optlang.workload import imports
from optlang.workload.data.dataset import Dataset
from optlang.workload.export import onnx_weights
from optlang.workload.model.call import settled
from optlang.workload.model.count import Counted, count
from optlang.workload.model.make import make
from optlang.workload.model.save import load, save

Report = Callable[[Mapping[str, JSON]], None]

_STATE, _COUNTS, _MEMO = "state", "counts.json", "memo.json"

@dataclass(frozen=True, slots=True)
class Stepped:
    """The result of the steps: the state, what each step took, and what was counted.

    Parameters and macs are those of its last form as a torch module, the zeros those of its last form. `module` gives
    the last state that was a torch module (what the file was made of, where `state` is one); None where the cache
    no longer has it.
    """

    state: ModelState
    runs: tuple[StepRun, ...]
    counted: Counted
    module: Callable[[], ModelState | None]


def apply(
    steps: Sequence[StepJob], workload: Workload, data: Dataset, wants_of: Callable[[], QuantWants], clock: Clock,
    report: Report, runs: list[StepRun],
) -> Stepped:
    """The model of `workload` after `steps`. What was carried out is appended to `runs`, also where a step fails.

    The key of a step is the hash of its parent's key and of all that it depends on: the technique's own code, its
    settings (of a model in them its code and the content of its weights) and seed, what it gets of the runtime, the
    data, and the versions of the libraries.
    """
    cache = Cache(workload.home / "cache")
    # Some runtimes have no int8 at all: they are asked only for a step that needs it.
    wants = wants_of() if any("runtime" in step.needs and not step.performed for step in steps) else None
    root = model_key(workload, data)
    keys: list[str] = []
    for step in steps:
        keys.append(step_key(keys[-1] if keys else root, step, workload, wants, clock))
    # The last result in the cache stands for all steps before it.
    start = next((index + 1 for index in reversed(range(len(keys))) if cache.find(keys[index])), 0)
    for step, key in zip(steps[:start], keys, strict=False):
        runs.append(StepRun(step.path, step.technique, key, True, 0.0, _now()))
    if start:
        state, counted = _read(cache, keys[start - 1], workload.study)
    else:
        state = ModelState("module", make(workload.model, workload.study), workload.model)
        counted = count(state.model, data.example(1))
    references = [step for step in steps if step.path.startswith(BASELINE)]

    def baseline() -> ModelState:
        return apply(references, workload, data, wants_of, clock, report, []).state

    for index, (step, key) in enumerate(zip(steps, keys, strict=True)):
        if index < start:
            continue
        started, begin = _now(), time.monotonic()
        report({"doing": step.technique, "path": step.path})
        context = Context(
            # The folder is not removed here: what the technique wrote is copied into the cache first.
            data=data, seed=step.seed, folder=Path(tempfile.mkdtemp(prefix="step-", dir=scratch(workload))),
            study=workload.study, wants=wants if "runtime" in step.needs else None, device=workload.device,
            report=_epochs(step, report), baseline=baseline if "baseline" in step.needs else None,
            latency=clock.seconds if "latency" in step.needs else None,
            batch=clock.batch if "latency" in step.needs else None,
            memo=_memo(cache, keys[index - 1] if index else root, step, workload, wants, clock),
        )
        try:
            state, counted = _one(step, state, counted, context)
        except Refusal as refusal:
            refusal.step = step.path
            raise

        def write(folder: Path, state: ModelState = state, counted: Counted = counted) -> None:
            save(state, folder / _STATE)
            (folder / _COUNTS).write_text(json.dumps(asdict(counted)))

        cache.put(key, write)
        if state.form == "onnx":
            # The technique's own file was written to a temporary folder, which goes; the kept one stays.
            state, counted = _read(cache, key, workload.study)
        runs.append(StepRun(step.path, step.technique, key, False, time.monotonic() - begin, started))
    last = state

    def module() -> ModelState | None:
        if last.form in ("module", "graph"):
            return last
        for key in reversed(keys):
            if cache.find(key) is None:
                return None
            found, _ = _read(cache, key, workload.study)
            if found.form in ("module", "graph"):
                return found
        return ModelState("module", make(workload.model, workload.study), workload.model)

    return Stepped(state, tuple(runs), counted, module)


def _epochs(step: StepJob, report: Report) -> Report:
    def epoch(what: Mapping[str, JSON]) -> None:
        report({"doing": step.technique, "path": step.path, **what})

    return epoch


def _memo(
    cache: Cache, parent: str, step: StepJob, workload: Workload, wants: QuantWants | None, clock: Clock
) -> Memo:
    """Results inside a step, kept under all that they depend on: what the step depends on, but not its settings."""
    bare = replace(step, settings={})

    def memo(name: str, about: JSON, compute: Callable[[], JSON]) -> JSON:
        key = key_of("memo", step_key(parent, bare, workload, wants, clock), name, about)
        found = cache.find(key)
        if found is None:
            value = compute()
            found = cache.put(key, lambda folder: _written(folder / _MEMO, value))
        kept: JSON = json.loads((found / _MEMO).read_text())
        return kept

    return memo


def _written(path: Path, value: JSON) -> None:
    path.write_text(json.dumps(value))


def _one(
    step: StepJob, state: ModelState, counted: Counted, context: Context
) -> tuple[ModelState, Counted]:
    if step.performed:
        request = Request(step.technique.rpartition(".")[2], step.settings)
        # In fewer bits more weights become zero; what the runtime writes is not read back, so there is no such figure.
        counted = replace(
            counted, measurements=tuple(item for item in counted.measurements if item.metric != "sparsity")
        )
        return replace(state, form="graph", requests=(*state.requests, request)), counted
    technique, own = imports.find(step.calls, context.study), imports.is_file(step.calls)
    # A technique of the user's own that raises is shown with the user's own lines; ours say what is wrong themselves.
    with imports.user_code(f"the technique {step.technique}", context.study) if own else nullcontext():
        after = technique(state, step.settings, context)
    if not isinstance(after, ModelState):
        raise OptlangError(f"the technique {step.technique} gave no state but {type(after).__name__}")
    if after.form == "module":
        settled(after.model)
    proved(state, after, context)
    if after.form == "module":
        counted = count(after.model, context.data.example(1))
    elif after.form == "onnx":
        # What the file holds may have more zeros than the module had: small weights become zero in few bits.
        zeros = onnx_weights.sparsity(Path(after.model))
        measurements = tuple(
            replace(item, value=zeros, low=zeros, high=zeros) if item.metric == "sparsity" else item
            for item in counted.measurements
        )
        counted = replace(counted, measurements=measurements)
    return after, counted


def clear_scratch(workload: Workload) -> None:
    """Remove the temporary files of this process: those of the trial that it has just carried out."""
    shutil.rmtree(workload.scratch, ignore_errors=True)


def scratch(workload: Workload) -> Path:
    """The folder for temporary files of this process, made where it is absent."""
    workload.scratch.mkdir(parents=True, exist_ok=True)
    return workload.scratch


def _read(cache: Cache, key: str, study: Path) -> tuple[ModelState, Counted]:
    folder = cache.find(key)
    assert folder is not None, key
    state = load(folder / _STATE, study)
    kept = json.loads((folder / _COUNTS).read_text())
    measurements = tuple(Measurement(**item) for item in kept["measurements"])
    return state, Counted(measurements, tuple(kept["uncounted"]), kept["shapes"])


def _now() -> str:
    return datetime.now(UTC).isoformat()
