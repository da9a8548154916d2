"""How long a call takes, next to the baseline: processes that run in turn, in rounds, and what their figures say.

It knows processes and statistics, no model and no runtime. Candidate and baseline live in a process each, pinned to the
same cores, and run a round at a time in an order that alternates; so a machine that drifts (heat, clock, other load)
drifts for both, and their ratio is more exact than either time. Only ratios decide between trials; seconds are shown. A
measurement carries the baseline's seconds of the same rounds, and its ratio is the quotient of the two: `baseline /
value`, exactly.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from optlang.interfaces import Array, Arrays, Measurement, TargetSpec
from optlang.measure import intervals
from optlang.measure.answers import Answers, deployed
from optlang.measure.chunks import Chunks
from optlang.measure.lock import alone, held
from optlang.measure.machine import cores
from optlang.measure.process import BareProcess, Begun, Deployment, Environment, ProcessDied, ProcessError
from optlang.measure.remote import devices
from optlang.workload.child_process import ChildDied, ChildTimeout

_PERCENTILES = {"latency.p50": 50.0, "latency.p90": 90.0, "latency.p95": 95.0, "latency.p99": 99.0}


@dataclass(frozen=True, slots=True)
class Repetitions:
    """How carefully to measure: rounds a process, processes a member, and how long a round is at least."""

    rounds: int = 5
    processes: int = 1
    seconds: float = 0.02
    calls: int = 20


@dataclass(slots=True)
class Timings:
    """What was seen of one member: `rounds[process][round]` holds the durations of its calls in seconds."""

    batch: int
    rounds: list[list[Array]] = field(default_factory=list)
    load_times: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    compile_times: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Measured:
    """The measurements of a candidate, and its answers where inputs for them were given.

    Seconds: `start` of its processes, `rounds` of its own (half of what it and the baseline took in turn), `answering`.
    """

    measurements: tuple[Measurement, ...]
    answers: Answers | None = None
    start: float = 0.0
    rounds: float = 0.0
    answering: float = 0.0


class Bench:
    """Measures candidates one after another next to a baseline whose process is kept warm, one a target.

    `lock` is the file through which everybody who measures on this machine takes turns (see `lock.machine_lock`).
    """

    def __init__(self, lock: Path) -> None:
        self._lock = lock
        self.waiting: Callable[..., object] | None = None
        """Called where somebody else measures, see `lock.alone`, and where a device is away, see `devices.steadily`."""
        self.quiet: Callable[[Sequence[int] | None], AbstractContextManager[object]] = lambda _: nullcontext()
        """Keeps what else the caller runs off the cores that are given, see `quiet.kept`."""
        self._begun: Begun | None = None
        self._warmed: dict[str, tuple[BareProcess, dict[str, bytes]]] = {}
        """By target: a study with several has a baseline on each."""

    def begin(self, environment: Environment) -> None:
        """Start the next candidate's process, which imports its runtime while the candidate is still being made.

        Not while something is measured: it would be disturbed.
        """
        if held(self._lock):
            return
        begun = self._begun
        if begun is None or not begun.child.alive or begun.environment != environment:
            self._drop()
            self._begun = Begun(environment)

    def _taken(self, candidate: Deployment) -> Begun | None:
        """The process that was begun for the candidate, once; None where there is none such."""
        begun = self._begun
        if begun is None or begun.environment != Environment.of(candidate):
            return None
        self._begun = None
        return begun

    def _drop(self) -> None:
        if self._begun is not None:
            self._begun.close()
            self._begun = None

    def measure(
        self, candidate: Deployment, baseline: Deployment | None, inputs: Arrays, effort: Repetitions, *,
        between: Arrays | None = None, answer: Chunks | None = None, folder: Path | None = None, seed: int = 0,
    ) -> Measured:
        """Time `candidate` on `inputs` (the target's batch of samples), in turn with `baseline`.

        With `between`, samples of another shape, each call comes after one of these.
        Without one (it is the baseline itself) all ratios are 1. `answer` are inputs, say the validation data, that the
        same process answers in calls of the target's batch, into `folder`, where nothing may be. Raises what
        `BareProcess` raises; a baseline that died is started again by the next call. On a device whose connection is
        lost all of it begins again, see `devices.steadily`.
        """

        def whole() -> Measured:
            if folder is not None:
                # Of a measurement that was cut.
                shutil.rmtree(folder, ignore_errors=True)
            return self._measured(candidate, baseline, inputs, effort, between, answer, folder, seed)

        return devices.steadily(candidate.target.remote, whole, self.waiting)

    def _measured(
        self, candidate: Deployment, baseline: Deployment | None, inputs: Arrays, effort: Repetitions,
        between: Arrays | None, answer: Chunks | None, folder: Path | None, seed: int,
    ) -> Measured:
        pair = (candidate,) if baseline is None else (baseline, candidate)
        timings = {item.name: Timings(item.target.batch) for item in pair}
        assert len(timings) == len(pair), "a candidate needs a name of its own"
        answers = None
        start = rounds = answering = 0.0
        for number in range(effort.processes):
            with self._alone(candidate.target):
                reference = None if baseline is None else self._warm(baseline, inputs, between, fresh=number > 0)
                begin = time.perf_counter()
                with BareProcess(candidate, begun=self._taken(candidate)) as process:
                    process.warm(inputs, effort.seconds, between=between)
                    start += time.perf_counter() - begin
                    running = ([] if reference is None else [reference]) + [process]
                    begin = time.perf_counter()
                    self._turns(running, timings, effort)
                    rounds += (time.perf_counter() - begin) / len(running)
                    begin = time.perf_counter()
                    if answer is not None and folder is not None and answers is None:
                        answers = _answered(process, answer, folder)
                    answering += time.perf_counter() - begin
        against = timings[candidate.name if baseline is None else baseline.name]
        found = tuple(measurements(timings[candidate.name], against, candidate.target.name, seed))
        return Measured(found, answers, start, rounds, answering)

    @contextlib.contextmanager
    def _alone(self, target: TargetSpec) -> Iterator[None]:
        """Be the only one that measures where the target is; on this machine what else runs makes room."""
        with _turn(target, self._lock, self.waiting):
            if target.remote is not None:
                yield
                return
            with self.quiet(cores(target.threads)):
                yield

    def _turns(self, running: Sequence[BareProcess], timings: Mapping[str, Timings], effort: Repetitions) -> None:
        try:
            _take_turns(running, timings, effort)
        except BaseException:
            # Whichever of the two failed: a baseline in an unknown state is not measured against.
            self.close()
            raise

    def _warm(self, baseline: Deployment, inputs: Arrays, between: Arrays | None, fresh: bool) -> BareProcess:
        content = {
            f"{which} {name}": item.tobytes() for which, arrays in (("timed", inputs), ("between", between or {}))
            for name, item in arrays.items()
        }
        target = baseline.target.name
        held, known = self._warmed.get(target, (None, {}))
        if held is not None and not fresh and held.alive and held.member == baseline and content == known:
            return held
        if held is not None:
            del self._warmed[target]
            held.close()
        process = BareProcess(baseline)
        try:
            process.warm(inputs, between=between)
        except BaseException:
            process.close()
            raise
        self._warmed[target] = (process, content)
        return process

    def close(self) -> None:
        """End the baselines' processes, and the one that was begun."""
        self._drop()
        while self._warmed:
            _, (process, _) = self._warmed.popitem()
            process.close()

    def __enter__(self) -> Bench:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _answered(process: BareProcess, samples: Chunks, folder: Path) -> Answers:
    try:
        return deployed(process, samples, folder)
    except (ProcessDied, ProcessError):
        # A call of another size than the target's may have been too much for it; what is asked for may work.
        shutil.rmtree(folder, ignore_errors=True)
        with BareProcess(process.member) as again:
            return deployed(again, samples, folder, compare=False)


def compare(
    baseline: Deployment, candidates: Sequence[Deployment], inputs: Arrays, effort: Repetitions, lock: Path, *,
    between: Arrays | None = None, seed: int = 0, waiting: Callable[..., object] | None = None,
) -> dict[str, list[Measurement]]:
    """Time all of them side by side in one cycle, `effort.processes` fresh processes each; by member's name.

    The baseline is in the answer, with ratios of 1. All must have the same inputs, so the same target. Raises what
    `BareProcess` raises; ProcessDied and the others name the member. `between`: see `Bench.measure`. `waiting`: see
    `lock.alone`. On a device whose connection is lost all of it begins again, see `devices.steadily`.
    """

    def whole() -> dict[str, list[Measurement]]:
        return _compared(baseline, candidates, inputs, effort, lock, between, seed, waiting)

    return devices.steadily(baseline.target.remote, whole, waiting)


def _compared(
    baseline: Deployment, candidates: Sequence[Deployment], inputs: Arrays, effort: Repetitions, lock: Path,
    between: Arrays | None, seed: int, waiting: Callable[..., object] | None,
) -> dict[str, list[Measurement]]:
    members = (baseline, *candidates)
    timings = {item.name: Timings(item.target.batch) for item in members}
    assert len(timings) == len(members), "each member needs a name of its own"
    for _ in range(effort.processes):
        with _turn(baseline.target, lock, waiting), contextlib.ExitStack() as open_:
            # The runtimes are imported at the same time; what is loaded and timed is so alone.
            begun = [open_.enter_context(Begun(Environment.of(item))) for item in members]
            running = [open_.enter_context(process) for process in _opened(members, begun)]
            for process in running:
                process.warm(inputs, effort.seconds, between=between)
            _take_turns(running, timings, effort)
    return {
        item.name: measurements(timings[item.name], timings[baseline.name], item.target.name, seed) for item in members
    }


def _turn(
    target: TargetSpec, lock: Path, waiting: Callable[..., object] | None
) -> contextlib.AbstractContextManager[None]:
    """Be the only one that measures where the target is: on this machine by its lock, on a device by the device's."""
    return alone(lock, waiting) if target.remote is None else devices.alone(target.remote, lock.parent, waiting)


def _opened(members: Sequence[Deployment], begun: Sequence[Begun]) -> Iterator[BareProcess]:
    """The members in their processes, one after the other, when all of these have imported their runtimes."""
    for process in begun:
        # What went wrong in it is raised where it is opened.
        with contextlib.suppress(ChildDied, ChildTimeout):
            process.wait()
    for member, process in zip(members, begun, strict=True):
        yield BareProcess(member, begun=process)


def _take_turns(running: Sequence[BareProcess], timings: Mapping[str, Timings], effort: Repetitions) -> None:
    """`effort.rounds` rounds of each; first forwards, then backwards, so that none always follows the same one."""
    for process in running:
        timing = timings[process.member.name]
        if process.load_time is not None:
            timing.load_times.append(process.load_time)
        if process.compile_time is not None:
            timing.compile_times.append(process.compile_time)
        if process.memory is not None:
            timing.memory.append(process.memory)
        timing.rounds.append([])
    for number in range(effort.rounds):
        for process in running if number % 2 == 0 else reversed(running):
            timings[process.member.name].rounds[-1].append(process.round(effort.seconds, effort.calls))


def measurements(timing: Timings, baseline: Timings, target: str, seed: int = 0) -> list[Measurement]:
    """Latency, throughput, load and compile time and peak memory of a member, and the baseline's in the same rounds.

    A round's percentile is that round's figure; a value is the median over rounds and processes, and so is `baseline`;
    the ratio is the quotient of the two. The intervals come from resampling processes and rounds, for the ratio in
    pairs. `n` is the number of rounds, for load and compile times and memory the number of processes. What compiles
    nothing has no compile time.
    """
    found = [_timed(name, timing, baseline, share, target, seed) for name, share in _PERCENTILES.items()]
    mean = _timed("latency.mean", timing, baseline, None, target, seed)
    found.append(mean)
    found.append(
        Measurement(
            "throughput", timing.batch / mean.value, "", mean.n, timing.batch / mean.high, timing.batch / mean.low,
            target, *(None if item is None else item * timing.batch / baseline.batch
                      for item in (mean.ratio, mean.ratio_low, mean.ratio_high)),
            *(() if mean.baseline is None else (baseline.batch / mean.baseline,)),
        )
    )
    if timing.load_times:
        found.append(_by_process("load_time", "s", timing.load_times, baseline.load_times, target))
    if timing.compile_times:
        found.append(_by_process("compile_time", "s", timing.compile_times, baseline.compile_times, target))
    if timing.memory:
        found.append(_by_process("memory.peak", "B", timing.memory, baseline.memory, target))
    return found


def _figures(timing: Timings, share: float | None) -> list[list[float]]:
    import numpy

    return [
        [float(calls.mean() if share is None else numpy.percentile(calls, share)) for calls in process]
        for process in timing.rounds
    ]


def _timed(
    name: str, timing: Timings, baseline: Timings, share: float | None, target: str, seed: int
) -> Measurement:
    mine, others = _figures(timing, share), _figures(baseline, share)
    value, low, high = intervals.rounds(mine, seed)
    reference, *_ = intervals.rounds(others, seed)
    ratios = intervals.quotient(others, mine, seed)
    return Measurement(name, value, "s", sum(map(len, mine)), low, high, target, *ratios, reference)


def _by_process(
    name: str, unit: str, mine: Sequence[float], others: Sequence[float], target: str
) -> Measurement:
    """One figure a process: of so few the range is all that can be said, and of one process nothing."""
    import numpy

    value = float(numpy.median(mine))
    reference = float(numpy.median(others)) if others else None
    ratio = reference / value if reference is not None and value > 0 else None
    return Measurement(
        name, value, unit, len(mine), float(min(mine)), float(max(mine)), target, ratio, baseline=reference
    )
