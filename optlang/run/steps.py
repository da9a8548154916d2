"""Applies the steps of a trial, or finds their results in the cache."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path

from optlang.interfaces import (
    FORMS,
    JSON,
    Context,
    Measurement,
    Memo,
    ModelState,
    OptlangError,
    OutsideError,
    QuantWants,
    Refusal,
    Request,
)
from optlang.measure.lock import alone
from optlang.run import in_use
from optlang.run.cache import MEMO, Cache, Clock, computes, key_of, model_key, step_key
from optlang.run.checkpoints import Checkpoints, checkpoint_key
from optlang.run.curves import Epoch, ended_with, epochs_in, read_curve, write_curve
from optlang.run.job import BASELINE, StepJob, StepRun, Workload
from optlang.run.step_training import PausedTraining, StepTraining, Watch
from optlang.techniques.shared.proof import proved
from optlang.workload import imports
from optlang.workload.data.dataset import Dataset
from optlang.workload.devices import resolved
from optlang.workload.export import onnx_weights
from optlang.workload.model.call import settled
from optlang.workload.model.count import Counted, count
from optlang.workload.model.make import initial
from optlang.workload.model.save import load, save

Report = Callable[[Mapping[str, JSON]], None]

_STATE, _COUNTS = "state", "counts.json"


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
    report: Report, runs: list[StepRun], watch: Watch | None = None, pause: int | None = None,
) -> Stepped:
    """The model of `workload` after `steps`. What was carried out is appended to `runs`, also where a step fails.

    A step that is broken off leaves nothing in the cache; one that is paused leaves a checkpoint there, and goes on
    from it. `watch` looks at all trainings but the baseline's own. Raises PausedTraining where these have had `pause`
    epochs and have more before them.
    """
    return _Steps(steps, workload, data, wants_of, clock, report, watch, pause).applied(runs)


def result_key(
    steps: Sequence[StepJob], workload: Workload, data: Dataset, wants_of: Callable[[], QuantWants], clock: Clock
) -> str:
    """The key of the result of `steps`; carries out none of them."""
    return _Steps(steps, workload, data, wants_of, clock, lambda _: None).key


class _GoneError(Exception):
    """A result was in the cache, and another process has removed it."""


_TURNS = 5
"""How often a trial begins again at most because results were removed that it was about to read."""

SAME_STEP = "another trial carries out the same step"
"""What a trial may have to wait for."""


class _Steps:
    """The steps of a trial with their keys; see `cache.step_key` for what a result depends on."""

    def __init__(
        self, steps: Sequence[StepJob], workload: Workload, data: Dataset, wants_of: Callable[[], QuantWants],
        clock: Clock, report: Report, watch: Watch | None = None, pause: int | None = None,
    ) -> None:
        self._watch, self._pause = watch, pause
        self._steps, self._workload, self._data, self._clock, self._report = steps, workload, data, clock, report
        self._cache = Cache(workload.home / "cache")
        self._checkpoints = Checkpoints(self._cache)
        self._wants_of = wants_of
        # Some runtimes have no int8 at all: they are asked only for a step that needs it.
        asks = any("runtime" in step.needs and not step.left for step in steps)
        self._wants = wants_of() if asks else None
        # The key of what each step begins with, and at the end of the last result.
        self._keys = [model_key(workload, data)]
        for step in steps:
            self._keys.append(self._key(self._keys[-1], step))
        in_use.add(workload, (*self._keys, *map(checkpoint_key, self._keys[1:])))

    @property
    def key(self) -> str:
        """The key of the last step's result."""
        return self._keys[-1]

    def applied(self, runs: list[StepRun]) -> Stepped:
        """See `apply`."""
        before = len(runs)
        for _ in range(_TURNS):
            try:
                return self._applied(runs)
            except _GoneError:
                del runs[before:]
        raise OptlangError(
            "results in the cache are removed as fast as they are read", help="set a larger `disk` in search { }"
        )

    def _applied(self, runs: list[StepRun]) -> Stepped:
        results = self._keys[1:]
        # The last result in the cache stands for all steps before it.
        start = next((number for number in range(len(results), 0, -1) if self._cache.find(results[number - 1])), 0)
        runs += [
            StepRun(step.path, step.technique, key, True, 0.0, _now(), read_curve(self._cache.find(key)))
            for step, key in zip(self._steps[:start], results, strict=False)
        ]
        self._pause_behind(start, runs)
        if start:
            state, counted = self._read(results[start - 1])
        else:
            state = self._untrained()
            counted = count(state.model, self._data.example(1))
        for number in range(start, len(self._steps)):
            key = results[number]
            with alone(self._workload.shared / "steps" / f"{key}.lock", self._waiting):
                found = self._cache.find(key)
                if found is None:
                    state, counted = self._carried_out(number, state, counted, runs)
                else:
                    # Another trial has carried it out meanwhile.
                    step = self._steps[number]
                    runs.append(StepRun(step.path, step.technique, key, True, 0.0, _now(), read_curve(found)))
                    state, counted = self._read(key)
            self._pause_behind(number + 1, runs, state)
        return Stepped(state, tuple(runs), counted, lambda: self._module(state))

    def _waiting(self, waits: bool) -> None:
        self._report({"waiting": SAME_STEP if waits else False})

    def _carried_out(
        self, number: int, state: ModelState, counted: Counted, runs: list[StepRun]
    ) -> tuple[ModelState, Counted]:
        """What the step of this number makes of `state`; its result is kept."""
        step, parent, key = self._steps[number], self._keys[number], self._keys[number + 1]
        started, training = _now(), self._training(number, key, runs)
        self._report({"doing": step.technique, "path": step.path})

        def run(key: str | None) -> StepRun:
            return StepRun(
                step.path, step.technique, key, None if key is None else False, training.seconds, started,
                training.curve, training.resumed, training.earlier, training.ignored,
            )

        try:
            state, counted = _one(step, state, counted, self._context(step, parent, training))
        except BaseException as error:
            if isinstance(error, Refusal):
                error.step = step.path
            if training.curve:
                runs.append(run(None))
            raise
        self._keep(key, state, counted, training.curve)
        self._checkpoints.remove(key)
        if state.form == "onnx":
            # The technique's own file was written to a temporary folder, which goes; the kept one stays.
            state, counted = self._read(key)
        runs.append(run(key))
        watch = self._watching(step)
        if watch is not None and training.curve:
            watch.ended(step.path, training.curve)
        return state, counted

    def _training(self, number: int, key: str, runs: Sequence[StepRun]) -> StepTraining:
        """What looks at a step's training, and pauses it where it is one that counts."""
        step = self._steps[number]

        def report(activity: Mapping[str, JSON]) -> None:
            self._report({"doing": step.technique, "path": step.path, **activity})

        return StepTraining(
            step.path, key, self._checkpoints, report, self._watching(step), self._epochs(runs),
            self._pause if _trains(step) else None,
        )

    def _epochs(self, runs: Sequence[StepRun]) -> int:
        """The epochs of the trainings that are over; as many as were asked for where a result has no curve."""
        return sum(
            epochs_in(run.curve) or _declared(step)
            for run, step in zip(runs, self._steps, strict=False) if _trains(step)
        )

    def _pause_behind(self, done: int, runs: Sequence[StepRun], state: ModelState | None = None) -> None:
        """Pause where the trainings among the steps that are `done` have had enough epochs, and more come behind them.

        `state` is the last step's result where it has just been carried out.
        """
        last = next((number for number in reversed(range(done)) if _trains(self._steps[number])), None)
        if self._pause is None or last is None or self._epochs(runs) < self._pause:
            return
        if not any(map(_trains, self._steps[done:])):
            return
        watch = self._watching(self._steps[last])
        scores: Mapping[str, float] = {}
        if watch is not None:
            # Of results that answered from the cache, one before the last may be gone.
            state = state or self._read(next(filter(self._cache.find, self._keys[last + 1:]), self._keys[last + 1]))[0]
            on_file = {name: value for name, value in ended_with(runs[last].curve).items() if name in watch.metrics}
            scores = on_file if state.form not in ("module", "graph") else watch.score(state.model)
        raise PausedTraining(self._epochs(runs), self._steps[last].path, scores)

    def _key(self, parent: str, step: StepJob) -> str:
        return step_key(
            parent, step, self._workload, self._wants, self._clock, [asdict(item) for item in self._data.declared],
            self._kind(step),
        )

    def _kind(self, step: StepJob) -> str:
        """The kind of device that the step is carried out on, or was in another worker."""
        trained_on = self._workload.trained_on
        if trained_on is not None and step in takewhile(lambda other: "latency" not in other.needs, self._steps):
            return trained_on
        return resolved(self._workload.device).kind

    def _untrained(self) -> ModelState:
        return initial(self._workload.model, self._workload.study, self._data.example(1))

    def _baseline(self) -> ModelState:
        own = [step for step in self._steps if step.path.startswith(BASELINE)]
        return apply(own, self._workload, self._data, self._wants_of, self._clock, self._report, []).state

    def _context(self, step: StepJob, parent: str, training: StepTraining) -> Context:
        """What the technique gets: only what its declaration says that it needs."""
        watch = self._watching(step)
        if computes(step) and self._kind(step) != resolved(self._workload.device).kind:
            raise OutsideError(
                f"{step.path} was carried out on `{self._kind(step)}` by another worker, and the cache has its "
                "result no longer", help="let it have more room: `disk` in search { }",
            )
        return Context(
            # The folder is not removed here: what the technique wrote is copied into the cache first.
            data=self._data, seed=step.seed,
            folder=Path(tempfile.mkdtemp(prefix="step-", dir=scratch(self._workload))), study=self._workload.study,
            wants=self._wants if "runtime" in step.needs else None, device=resolved(self._workload.device).torch_name,
            report=training.report, baseline=self._baseline if "baseline" in step.needs else None,
            performed=step.performed, latency=self._clock.seconds if "latency" in step.needs else None,
            batch=self._clock.batch if "latency" in step.needs else None, memo=self._memo(step, parent),
            score=watch.score if watch is not None and "training" in step.needs else None, resume=training.resume,
        )

    def _watching(self, step: StepJob) -> Watch | None:
        return None if step.path.startswith(BASELINE) else self._watch

    def _memo(self, step: StepJob, parent: str) -> Memo:
        """Results inside a step, kept under all that they depend on: what the step depends on, but not its settings."""
        def memo(name: str, about: JSON, compute: Callable[[], JSON]) -> JSON:
            key = key_of("memo", self._key(parent, replace(step, settings={})), name, about)
            kept: JSON = json.loads(self._cache.text(key, MEMO, lambda: json.dumps(compute())))
            return kept

        return memo

    def _module(self, state: ModelState) -> ModelState | None:
        """See `Stepped.module`."""
        if state.form in ("module", "graph"):
            return state
        for key in reversed(self._keys[1:]):
            try:
                found, _ = self._read(key)
            except _GoneError:
                return None
            if found.form in ("module", "graph"):
                return found
        return self._untrained()

    def _keep(self, key: str, state: ModelState, counted: Counted, curve: Sequence[Epoch]) -> None:
        def write(folder: Path) -> None:
            write_curve(folder, curve)
            save(state, folder / _STATE)
            _written(folder / _COUNTS, json.dumps(asdict(counted)))

        self._cache.put(key, write)

    def _read(self, key: str) -> tuple[ModelState, Counted]:
        """Raises _GoneError where it is not there, or another process removes it while it is read."""
        folder = self._cache.find(key)
        if folder is None:
            raise _GoneError(key)
        try:
            kept = json.loads((folder / _COUNTS).read_text())
            measurements = tuple(Measurement(**item) for item in kept["measurements"])
            state = load(folder / _STATE, self._workload.study)
        except (OSError, OptlangError) as error:
            if folder.is_dir():
                raise
            raise _GoneError(key) from error
        return state, Counted(measurements, tuple(kept["uncounted"]), kept["shapes"])


def _written(path: Path, text: str) -> None:
    path.write_text(text)


def _trains(step: StepJob) -> bool:
    """Whether the step is a training of the trial, which counts for a pause: the baseline's own do not."""
    return "training" in step.needs and not step.left and not step.path.startswith(BASELINE) and _declared(step) > 0


def _declared(step: StepJob) -> int:
    epochs = step.settings.get("epochs")
    return epochs if isinstance(epochs, int) and not isinstance(epochs, bool) else 0


def _one(
    step: StepJob, state: ModelState, counted: Counted, context: Context
) -> tuple[ModelState, Counted]:
    if step.left:
        request = Request(step.technique.rpartition(".")[2], step.settings)
        return replace(state, form="graph", requests=(*state.requests, request)), _without_sparsity(counted)
    technique, own = imports.find(step.calls, context.study), imports.is_file(step.calls)
    # A technique of the user's own that raises is shown with the user's own lines; ours say what is wrong themselves.
    with imports.user_code(f"the technique {step.technique}", context.study) if own else nullcontext():
        after = technique(state, step.settings, context)
    if not isinstance(after, ModelState):
        raise OptlangError(f"the technique {step.technique} gave no state but {type(after).__name__}")
    if step.performed and after.form != "graph":
        raise OptlangError(f"the technique {step.technique} left its runtime no graph, but {FORMS[after.form]}")
    if after.form in ("module", "graph"):
        settled(after.model)
    proved(state, replace(after, form="module") if after.form == "graph" else after, context)
    if after.form in ("module", "graph"):
        counted = count(after.model, context.data.example(1))
        counted = _without_sparsity(counted) if step.performed else counted
    elif after.form == "onnx":
        # What the file holds may have more zeros than the module had: small weights become zero in few bits.
        zeros = onnx_weights.sparsity(Path(after.model))
        measurements = tuple(
            replace(item, value=zeros, low=zeros, high=zeros) if item.metric == "sparsity" else item
            for item in counted.measurements
        )
        counted = replace(counted, measurements=measurements)
    return after, counted


def _without_sparsity(counted: Counted) -> Counted:
    """In fewer bits more weights become zero; what the runtime writes is not read back, so there is no such figure."""
    return replace(counted, measurements=tuple(item for item in counted.measurements if item.metric != "sparsity"))


def clear_scratch(workload: Workload) -> None:
    """Remove the temporary files of this process: those of the trial that it has just carried out."""
    shutil.rmtree(workload.scratch, ignore_errors=True)


def scratch(workload: Workload) -> Path:
    """The folder for temporary files of this process, made where it is absent."""
    workload.scratch.mkdir(parents=True, exist_ok=True)
    return workload.scratch


def _now() -> str:
    return datetime.now(UTC).isoformat()
