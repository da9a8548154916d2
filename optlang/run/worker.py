"""What a worker process runs: it keeps the data and the baseline's process between trials, and never raises.

Whatever goes wrong in a trial is returned as a `Failure`. The death of a worker is handled in engine.py.
"""

from __future__ import annotations

import os
import resource
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from optlang.interfaces import Measurement, OptlangError, Refusal, Runtime
from optlang.measure import quiet
from optlang.measure.machine import available_cores
from optlang.measure.remote.faults import DeviceError
from optlang.plan.metrics import AGREEMENT
from optlang.run.hardware import lacking
from optlang.run.job import (
    CHECKPOINT,
    Failure,
    FrontJob,
    Prepared,
    PrepareJob,
    Refused,
    Result,
    RuntimeJob,
    StepRun,
    TestJob,
    TrialJob,
    UntrainedJob,
    Workload,
)
from optlang.run.progress_file import Report, report
from optlang.run.stopping import StoppedTraining
from optlang.workload import devices, process_state
from optlang.workload.failures import exhausted

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from optlang.run.trial import TrialContext
    from optlang.workload.data.dataset import Dataset
    from optlang.workload.data.tensors import Tensors

MEASURING = "something else is measured on this machine"
"""What a worker may have to wait for."""

LARGEST_THREADS = 4
"""On more threads than this small models do not train faster: the threads wait for each other."""


_kept: TrialContext | None = None


def availability(job: RuntimeJob) -> str | Failure | None:
    """Why the runtime cannot build on this machine, None where it can; imports none of the runtime's libraries."""
    return _ask(job, lambda runtime: runtime.available())


def running(job: RuntimeJob) -> str | Failure | None:
    """Why what the runtime builds cannot run on this machine, on the job's device; None where it can."""
    return _ask(job, lambda runtime: lacking(runtime, job.device, job.settings))


def _ask(job: RuntimeJob, question: Callable[[Runtime], str | None]) -> str | Failure | None:
    from optlang.workload import imports

    try:
        reason = question(imports.find(job.calls, job.study)())
    except Exception as error:  # noqa: BLE001 - a plug-in's code may raise anything: the scheduler reports why
        return _failure(error)
    return reason


def prepare(job: PrepareJob) -> Failure | Prepared:
    """Load the model and the data, and run the model on the data; what users are to know of how it was made."""
    try:
        from optlang.workload.model.make import initial, said
        from optlang.workload.model.returned import check_copies

        workload = job.workload
        context = _context(workload)
        data = context.data
        data.check_own_axes()
        for target in job.targets:
            context.opened(target)
        state = initial(workload.model, workload.study, data.example(1))
        _check_labels(data, job.learn_labels)
        _check_metrics(data, state.model, job.metrics, workload)
        check_copies(state.model)
        device = devices.resolved(workload.device)
        _check_device(data, state.model, device, workload)
        lines = (device.said(), *said(state), *_kept_aside(data, state.model))
        return Prepared(tuple(line for line in lines if line is not None), device.facts())
    except BaseException as error:  # noqa: BLE001 - also what the user's code leaves by: the scheduler reports why
        return _failure(error)


def carry_out(job: TrialJob) -> Result:
    """One trial, to its end or to where its job pauses it."""
    from optlang.run import pausing

    return _of_trial(pausing.carry_out, job)


def train(job: TrialJob) -> Result:
    """The trainings of a trial, where another worker builds and measures: they lie in the cache then."""
    from optlang.run import pausing

    result = _of_trial(pausing.train, job)
    if result.failure is not None:
        return result
    return replace(result, trained_on=devices.resolved(job.workload.device).kind)


def _of_trial(task: Callable[[TrialJob, TrialContext, Report, list[StepRun]], Result], job: TrialJob) -> Result:
    runs: list[StepRun] = []
    try:
        result = task(job, _context(job.workload), report, runs)
    except StoppedTraining as stop:
        result = Result(steps=tuple(runs), notes=stop.notes, ended=stop.verdict)
    except BaseException as error:  # noqa: BLE001 - also what the user's code leaves by: the scheduler reports why
        if devices.lost(error):
            # Nothing runs on the GPU any more in this process; the log has what happened.
            traceback.print_exception(error)
            os._exit(devices.LOST)
        result = Result(steps=tuple(runs), failure=_failure(error))
    if result.failure is not None and "torch" in sys.modules:
        devices.free_memory()
    ignored = [run.ignored for run in runs if run.ignored is not None]
    return replace(result, notes={**result.notes, CHECKPOINT: "; ".join(ignored)}) if ignored else result


def rebuild(job: TrialJob) -> Result:
    """The artifacts of a trial once more, with the figures of them that are no times."""
    runs: list[StepRun] = []
    try:
        from optlang.run import rebuilding

        return rebuilding.rebuild(job, _context(job.workload), report, runs)
    except BaseException as error:  # noqa: BLE001 - also what the user's code leaves by: the scheduler reports why
        return Result(steps=tuple(runs), failure=_failure(error))


def measure_untrained(job: UntrainedJob) -> tuple[Measurement, ...] | None:
    """What a trial's training leaves as it is; None where that cannot be measured, which its trial then reports."""
    try:
        from optlang.run import untrained

        return untrained.measure(job, _context(job.trial.workload), report)
    except BaseException:  # noqa: BLE001 - also what the user's code leaves by: the trial itself says why
        return None


def measure_front(job: FrontJob) -> Mapping[int, tuple[Measurement, ...]] | Failure:
    """The latencies of several artifacts, all in one cycle with the baseline, by trial."""
    try:
        from optlang.run import trial

        return trial.measure_front(job, _context(job.workload), report)
    except BaseException as error:  # noqa: BLE001 - also what the user's code leaves by: the scheduler reports why
        return _failure(error)


def score_test(job: TestJob) -> Mapping[int, tuple[Measurement, ...]] | Failure:
    """The metrics of several artifacts on the data's test part, by trial; nothing where there is none."""
    try:
        from optlang.run import test_scores

        return test_scores.score(job, _context(job.workload), report)
    except BaseException as error:  # noqa: BLE001 - also what the user's code leaves by: the scheduler reports why
        return _failure(error)


def _context(workload: Workload) -> TrialContext:
    """What trials share, loaded once."""
    global _kept
    if _kept is None or _kept.workload != workload:
        from optlang.run.trial import TrialContext
        from optlang.workload.data import dataset as data
        from optlang.workload.model.make import make

        _begin_torch(workload.threads)
        devices.resolved(workload.device)
        # The model first: data may take minutes to load, a mistake in the model shows at once.
        model = make(workload.model, workload.study)
        loaded = data.load(workload.data, workload.study, workload.metrics)
        _kept = TrialContext(workload, loaded.bind(model))
    _kept.bench.waiting = lambda waits, why=MEASURING: report({"waiting": why if waits else False})
    workers = workload.shared.parent / quiet.WORKERS
    if workers.is_dir():
        # Trainers of a GPU that are off the cores still keep the GPU busy: they are stopped.
        on_gpu = devices.resolved(workload.device).kind != devices.CPU
        _kept.bench.quiet = lambda measured: quiet.kept(workers, None if on_gpu else measured)
    return _kept


def peak_memory(_: None) -> int:
    """The bytes that this worker has needed at most, and the two processes that are measured side by side."""
    own, below = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return (own + 2 * below) * (1 if sys.platform == "darwin" else 1024)


def _begin_torch(threads: int | None) -> None:
    """Import torch so that its threads sleep while they wait for each other.

    Threads that spin cost a training three times its time as soon as anything else runs on the machine. It is set
    in this process only: the processes that measure keep what users have.
    """
    # OpenMP reads it when its library is loaded, and never again.
    with process_state.environment(OMP_WAIT_POLICY=os.environ.get("OMP_WAIT_POLICY", "PASSIVE")):
        import torch
    torch.set_num_threads(min(available_cores(), LARGEST_THREADS, threads or LARGEST_THREADS))


def _check_labels(data: Dataset, learning: Mapping[str, str]) -> None:
    """OptlangError where a step learns from labels, and the training data have none."""
    if data.labeled("train"):
        return
    for step, instead in learning.items():
        raise OptlangError(f"{step} learns from labels, and the data's 'train' has none", help=instead)


def _check_metrics(data: Dataset, module: object, wanted: tuple[str, ...], workload: Workload) -> None:
    """OptlangError where the answers are not one a sample, or have no metric of some name that the study names.

    Better now than after the training. Where the first samples have no metrics (no positive is among them), all have
    to.
    """
    answers = _answers(data, module, workload)
    outputs, targets = next(answers)
    given = _given(data, outputs, targets, answers) if data.labeled("validation") else {}
    missing = [name for name in wanted if name not in given and name not in AGREEMENT]
    if missing and not data.labeled("validation"):
        from optlang.workload.data.tasks import WITHOUT_LABELS

        raise OptlangError(
            f"`{missing[0]}` compares answers with labels, and 'validation' has none", help=WITHOUT_LABELS
        )
    if missing:
        raise OptlangError(
            f"the task of the data gives no metric `{missing[0]}`", help=f"it gives {', '.join(sorted(given))}"
        )
    _check_agreement(data, outputs, [name for name in wanted if name in AGREEMENT and name not in given])


def _check_device(data: Dataset, module: torch.nn.Module, device: devices.Device, workload: Workload) -> None:
    """OptlangError where the model does not run on what it is to be trained on, though it runs on the processor."""
    import copy

    import torch

    from optlang.workload import imports
    from optlang.workload.data.resident import to_device
    from optlang.workload.model.call import call

    if device.kind == devices.CPU:
        return
    with torch.no_grad():
        moved = copy.deepcopy(module).to(device.torch_name)
        inputs, _ = to_device(data.example(2), (), device.torch_name)
        try:
            with imports.user_code("running the model on the data", workload.study):
                call(moved, inputs)
        except imports.UserCodeError as error:
            raise OptlangError(
                f"the model runs on the processor and not on {device.torch_name}: {error.message}",
                help="tensors that its forward makes or keeps must lie where its inputs do: `device=input.device`, or "
                "`register_buffer` in __init__; or train on the processor: `device = cpu` in search { }",
                details=error.details,
            ) from error


def _given(
    data: Dataset, outputs: dict[str, Tensor], targets: Tensors, rest: Iterator[tuple[dict[str, Tensor], Tensors]]
) -> Mapping[str, float]:
    from optlang.workload.data import tensors

    try:
        return data.task.metrics(outputs, targets)
    except OptlangError:
        every = [(outputs, targets), *rest]
        if len(every) == 1:
            raise
        whole = tensors.joined([item for item, _ in every])
        assert isinstance(whole, dict)
        return data.task.metrics(whole, tensors.joined([item for _, item in every], data.task.padding))


def _check_agreement(data: Dataset, outputs: Mapping[str, Tensor], wanted: Sequence[str]) -> None:
    """OptlangError where the study names a metric of agreement that such answers do not have."""
    numbers = any(item.is_floating_point() or item.is_complex() for item in outputs.values())
    for name in wanted:
        if name == "agreement" and data.task.choices(outputs) is None:
            shapes = ", ".join(f"{key} {tuple(item.shape)}" for key, item in outputs.items())
            raise OptlangError(
                f"`agreement` compares classes, and the answers are not known to be scores of classes: {shapes}",
                help='return "task": "classification" from the data factory (classes on axis 1) or "sequence" (on the '
                "last of three), or use `agreement.cosine` and `agreement.error`",
            )
        if name != "agreement" and not numbers:
            raise OptlangError(f"`{name}` compares numbers, and the answers are classes", help="use `agreement`")


def _kept_aside(data: Dataset, module: torch.nn.Module) -> tuple[str, ...]:
    """What of the model's answer is no answer of a task, in words."""
    import torch

    from optlang.workload.data.tensors import caches
    from optlang.workload.model.call import arguments

    positional, named = arguments(module, data.example(1))
    with torch.inference_mode():
        found = caches(module(*positional, **named))
    return tuple(
        f"{name} is a cache of attention, and left out of the model's answers; without making it "
        "(`config.use_cache = False`) the model is faster" for name in found
    )


def _answers(data: Dataset, module: object, workload: Workload) -> Iterator[tuple[dict[str, Tensor], Tensors]]:
    """The model's answers to 'validation', batch by batch, with the targets."""
    import torch

    from optlang.workload import imports
    from optlang.workload.data import tensors
    from optlang.workload.model import dtypes
    from optlang.workload.model.call import call

    assert isinstance(module, torch.nn.Module)
    for inputs, targets in data.batches("validation", 32):
        try:
            with torch.inference_mode(), imports.user_code("running the model on the data", workload.study):
                outputs = call(module, inputs)
        except imports.UserCodeError as error:
            dtypes.refuse_inputs(module, error)
            raise
        tensors.check_batched(outputs, len(next(iter(inputs.values()))))
        yield outputs, targets


def _failure(error: BaseException) -> Failure:
    text = "".join(traceback.format_exception(error))
    on_gpu = devices.out_of_memory(error)
    if on_gpu is not None:
        return Failure(on_gpu, text)
    if isinstance(error, OptlangError):
        # The user's own frames where it was their code; what to do about it where we know.
        parts = [error.details, error.help or ""]
        refused = Refused(error.depends, error.step, error.target) if isinstance(error, Refusal) else None
        outside = isinstance(error, DeviceError)
        return Failure(
            _line(error.message), "\n".join(part for part in parts if part), not outside, refused, outside
        )
    if exhausted(error):
        return Failure("out of memory", text)
    return Failure(_line(f"{type(error).__name__}: {error}"), text)


def _line(text: str) -> str:
    return " ".join(text.split())
