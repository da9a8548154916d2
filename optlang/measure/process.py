"""A process that runs one artifact, seen from outside: started, asked, watched, ended."""

from __future__ import annotations

import contextlib
import errno
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from optlang.interfaces import (
    JSON,
    Array,
    Arrays,
    Artifact,
    OptlangError,
    OutsideError,
    Refusal,
    RemoteDevice,
    TargetSpec,
)
from optlang.measure.chunks import Chunks, all_of, chunked
from optlang.measure.machine import cores
from optlang.measure.remote import devices
from optlang.measure.remote.faults import DeviceError
from optlang.measure.remote.phone import PhoneProcess
from optlang.measure.remote.process import RemoteProcess
from optlang.workload.child_process import ChildDied, ChildProcess, ChildTimeout
from optlang.workload.data import ragged

# Longer than any sensible load of a model; a slow call makes the limits of rounds longer.
_OPEN_TIMEOUT = 300.0
_CALL_TIMEOUT = 300.0


class ProcessDied(OptlangError):  # noqa: N818 - what happened, in a word
    """The process ended in mid-work; the message names the signal or exit code, `details` its last words."""


class ProcessTimeout(ProcessDied):
    """The process did not answer in time and was ended."""


class ProcessError(OptlangError):
    """The runtime or the user's model raised an exception in the process; `details` says where."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """A built artifact to run: `runtime` is its name for messages, `calls` the runtime's object, as declared."""

    name: str
    runtime: str
    calls: str
    artifact: Artifact
    target: TargetSpec
    settings: Mapping[str, JSON]
    study: Path


@dataclass(frozen=True, slots=True)
class Environment:
    """What a process is started with: the runtime by its name and its object, the threads, the study's folder, and the
    device that it runs on, None for this machine."""

    runtime: str
    calls: str
    threads: int
    study: Path
    remote: RemoteDevice | None = None

    @classmethod
    def of(cls, member: Deployment) -> Environment:
        """That of a member."""
        return cls(member.runtime, member.calls, member.target.threads, member.study, member.target.remote)


class LocalProcess(ChildProcess):
    """A process on this machine, which finds files where they are.

    `cores` are those that it is pinned to, `study` and `scratch` the study's folder and one for its own files.
    """

    def __init__(self, environment: Environment, scratch: Path) -> None:
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        super().__init__(
            "optlang.measure.child", folder=environment.study,
            environment=dict.fromkeys(names, str(environment.threads)),
        )
        self.cores = cores(environment.threads)
        self.scratch, self.study = str(scratch), str(environment.study.resolve())

    def given(self, path: Path) -> str:
        """A file, or a folder of files, as the process finds it."""
        return str(path.resolve())

    def artifact(self, artifact: Artifact) -> str:
        """The folder of the artifact's files, as the process finds it."""
        return str(artifact.folder.resolve())

    @contextlib.contextmanager
    def written(self, folder: Path) -> Iterator[str]:
        """The folder that the process writes to, which is `folder` when the block is over."""
        yield str(folder.resolve())


class Begun:
    """A process that imports its runtime while the artifact that it is to run is still being made.

    Raises OutsideError where the system starts no process, and DeviceError where its device cannot be used; whatever
    goes wrong in it is raised by the `BareProcess` that takes it.
    """

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.folder = Path(tempfile.mkdtemp(prefix="optlang-measure-"))
        try:
            self.child = _started(environment, self.folder)
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        self._imported: dict[str, Any] | None = None
        self._failed: ChildDied | ChildTimeout | None = None
        try:
            self.child.send({
                "do": "import", "calls": environment.calls, "study": self.child.study, "cores": self.child.cores,
                "scratch": self.child.scratch,
            })
        except ChildDied as error:
            self._failed = error

    def wait(self, timeout: float = _OPEN_TIMEOUT) -> dict[str, Any]:
        """What it answered when the runtime was imported; see `ChildProcess.ask`."""
        if self._failed is not None:
            raise self._failed
        if self._imported is None:
            try:
                self._imported = self.child.answer(timeout)
            except (ChildDied, ChildTimeout) as error:
                self._failed = error
                raise
        return self._imported

    def close(self) -> None:
        """End the process, and remove its files."""
        self.child.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Begun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class BareProcess:
    """One artifact, open in a process of its own that holds its runtime and nothing else.

    `begun` is a process for such members, which is closed with this one; without it one is started.

    `load_time` and `memory` (bytes; both None where they are not known) and `compile_time` (None where the runtime
    compiles nothing) are known after `warm`. Every method raises
    `ProcessDied` where the process ends, `ProcessTimeout` where it hangs, `Refusal` where the runtime refuses the
    model, and `ProcessError` for every other exception in it; after the first two it is closed. On another device also
    `DeviceLost` and `DeviceError`, see remote/faults.py.
    """

    def __init__(self, member: Deployment, timeout: float = _OPEN_TIMEOUT, begun: Begun | None = None) -> None:
        self.member = member
        self.load_time: float | None = None
        self.compile_time: float | None = None
        self.import_time = 0.0
        self.memory: int | None = None
        self._call = 0.0
        begun = begun or Begun(Environment.of(member))
        assert begun.environment == Environment.of(member), "it was begun for something else"
        self._folder, self._child = begun.folder, begun.child
        try:
            self.import_time = self._answered("import", lambda: begun.wait(timeout), timeout)["imported"]
            opened = self._ask(
                {
                    "do": "open", "artifact": _plain(member.artifact, self._child.artifact(member.artifact)),
                    # Where it runs, it is at home.
                    "target": asdict(replace(member.target, remote=None)), "settings": dict(member.settings),
                },
                timeout,
            )
        except BaseException:
            self.close()
            raise
        self.load_time, self.compile_time = opened["loaded"], opened["compiled"]

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._child.pid

    @property
    def alive(self) -> bool:
        """Whether the process is there."""
        return self._child.alive

    def _ask(self, command: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        return self._answered(str(command["do"]), lambda: self._child.ask(command, timeout), timeout)

    def _answered(self, doing: str, ask: Callable[[], dict[str, Any]], timeout: float) -> dict[str, Any]:
        try:
            answer = ask()
        except ChildDied as error:
            raise self._died(error, doing) from None
        except ChildTimeout:
            self.close()
            raise ProcessTimeout(
                f"the process that runs {self.member.name} in {self.member.runtime} gave no answer to "
                f"`{doing}` for {timeout:.0f} s",
                details=self._child.tail,
            ) from None
        if "error" in answer:
            raise self._told(answer["error"])
        found: dict[str, Any] = answer["ok"]
        return found

    def _died(self, error: ChildDied, doing: str) -> ProcessDied:
        self.close()
        return ProcessDied(
            f"the process that runs {self.member.name} in {self.member.runtime} {error.how} during `{doing}`",
            help=error.advice, details=self._child.tail,
        )

    def _check_open(self) -> None:
        if self._child.closed:
            raise self._died(self._child.died(), "writing its inputs")

    def _told(self, error: Mapping[str, Any]) -> OptlangError:
        message, advice, kind = error["message"], error["help"], error["type"]
        if kind == "Refusal":
            return Refusal(message, help=advice)
        if error["exit_code"] == OutsideError.exit_code:
            return OutsideError(message, help=advice)
        if self.member.target.remote is not None and kind == "OSError" and f"[Errno {errno.ENOSPC}]" in message:
            return DeviceError(f"the disk of {self.member.target.remote} is full: {message}")
        if kind == "MemoryError":
            message = f"{self.member.runtime} ran out of memory"
        return ProcessError(message, help=advice, details=error["details"])

    def warm(self, inputs: Arrays, seconds: float = 0.1, calls: int = 5, *, between: Arrays | None = None) -> None:
        """Choose the inputs to time (the target's batch of samples) and run them, at least `seconds` and `calls`.

        `between` are such inputs of another shape, which are run before each call that is timed.
        """
        path = self._written("timed", inputs)
        other = None
        if between is not None:
            other = self._child.given(self._written("between", {name: between[name] for name in inputs}))
        answer = self._ask(
            {
                "do": "warm", "inputs": self._child.given(path), "between": other, "names": list(inputs),
                "seconds": seconds, "calls": calls,
            },
            _CALL_TIMEOUT,
        )
        self._call, self.memory = answer["call"], answer["memory"]

    def round(self, seconds: float = 0.02, calls: int = 20, skip: int = 3) -> Array:
        """The durations of all calls of one round in seconds, as long as `seconds` and at least `calls` of them."""
        import numpy

        limit = _CALL_TIMEOUT + 10 * seconds + 10 * (calls + skip) * self._call
        answer = self._ask({"do": "round", "seconds": seconds, "calls": calls, "skip": skip}, limit)
        return numpy.asarray(answer["durations"], dtype=numpy.float64) * 1e-9

    @property
    def fixed(self) -> bool:
        """Whether the artifact takes one number of samples a call and no other."""
        return self.member.artifact.fixed_batch is not None

    @property
    def batch(self) -> int:
        """Samples a call: those that the artifact is fixed to, else the target's."""
        return self.member.artifact.fixed_batch or self.member.target.batch

    def answer(self, samples: Chunks, folder: Path, batch: int | None = None) -> Chunks:
        """The answers to all `samples`, by output name, of the artifact itself in calls of `batch` samples.

        They are written to the empty `folder`. None is the target's batch. A call has samples of one run; its last one
        is filled up with its first samples. An artifact that takes a fixed number is called with that.
        """
        with self._child.written(folder) as written:
            self._ask(
                {
                    "do": "outputs", "inputs": self._child.given(samples.folder), "names": samples.names,
                    "outputs": written, "batch": batch or self.batch,
                },
                _CALL_TIMEOUT + 10 * len(samples) * self._call,
            )
        return Chunks(folder)

    def outputs(self, inputs: Arrays, batch: int | None = None) -> dict[str, Array]:
        """As `answer`, for few samples: from arrays by input name to arrays by output name.

        Where samples differ in shape (see workload/data/ragged.py) a call has samples of one shape.
        """
        self._check_open()
        found = []
        for places, group in ragged.groups(inputs):
            with tempfile.TemporaryDirectory(dir=self._folder, ignore_cleanup_errors=True) as name:
                given = chunked(Path(name) / "given", group)
                found.append((places, all_of(self.answer(given, Path(name) / "answered", batch))))
        return ragged.in_order(found)

    def _written(self, name: str, inputs: Arrays) -> Path:
        import numpy

        self._check_open()
        path = self._folder / f"{name}.npz"
        numpy.savez(path, *inputs.values())
        return path

    def close(self) -> None:
        """End the process, at once where it does not end by itself, and remove its files."""
        self._child.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> BareProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _started(environment: Environment, scratch: Path) -> LocalProcess | RemoteProcess | PhoneProcess:
    if environment.remote is not None:
        return devices.started(environment.remote, environment.calls, environment.threads)
    try:
        return LocalProcess(environment, scratch)
    except OSError as error:
        raise OutsideError(f"no process could be started to measure {environment.runtime}: {error}") from error


def _plain(artifact: Artifact, folder: str) -> dict[str, Any]:
    return {
        "folder": folder, "format": artifact.format,
        "files": [asdict(item) for item in artifact.files], "inputs": list(artifact.inputs),
        "outputs": list(artifact.outputs), "about": dict(artifact.about),
    }
