"""A phone that runs artifacts by a program of their runtime's, for there is no Python: with the interface of a process.

The program is ExecuTorch's `executor_runner` (examples/portable/executor_runner, built for Android with XNNPACK, the
quantized kernels and logging). It is started for each call that is answered, and for each round that is timed: it says
how long all calls of a round took together, so every call of a round is said to have taken the mean.
"""

from __future__ import annotations

import contextlib
import io
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from optlang.interfaces import Array, Artifact, OptlangError, OutsideError, RemoteDevice
from optlang.measure.chunks import Chunks, ChunkWriter
from optlang.measure.remote.adb import Adb, pushed
from optlang.measure.remote.faults import DeviceError
from optlang.workload.child_process import ChildDied, ChildTimeout

FOLDER = "/data/local/tmp/optlang"
"""Where files are kept on a phone that names no other folder: what a shell may write to and execute."""

RUNNER = "executor_runner"
"""The program's name in that folder, where it is put once by hand."""

_TIMES = re.compile(r"executed successfully (\d+) time\(s\) in ([0-9.]+) ms")
_MOST = 100_000
_PROBE = 5
_TIMEOUT = 300.0


def folder_of(device: RemoteDevice) -> str:
    """Where files are kept on the phone."""
    return device.folder or FOLDER


class PhoneProcess:
    """What `RemoteProcess` is for a machine with Python; see there. Requests are those of measure/child.py."""

    def __init__(self, device: RemoteDevice, threads: int) -> None:
        self._device, self._threads, self._adb = device, threads, Adb(device)
        self._home = folder_of(device)
        self.scratch = self.study = f"{self._home}/run-{secrets.token_hex(6)}"
        self._shell("mkdir", "-p", self.scratch)
        self.pid = 0
        self.cores: list[int] | None = None
        self.closed = False
        self.tail = ""
        self._artifact: Mapping[str, Any] = {}
        self._model = ""
        self._batch = 1
        self._call = 0.0
        self._timed: list[str] = []
        self._waiting: list[dict[str, Any]] = []

    @property
    def alive(self) -> bool:
        """Whether it can still be asked."""
        return not self.closed

    def send(self, request: Mapping[str, Any]) -> None:
        """Carry the request out; its answer waits for `answer`."""
        if self.closed:
            raise self.died()
        handler = getattr(self, f"do_{request['do']}")
        try:
            self._waiting.append({"ok": handler(request)})
        except (DeviceError, ChildDied):
            raise
        except OptlangError as error:
            self._waiting.append({"error": {
                "type": type(error).__name__, "message": error.message, "help": error.help,
                "exit_code": error.exit_code, "details": error.details,
            }})

    def ask(self, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """See `ChildProcess.ask`."""
        self.send(request)
        return self.answer(timeout)

    def answer(self, _timeout: float) -> dict[str, Any]:
        """See `ChildProcess.answer`."""
        return self._waiting.pop(0)

    def died(self) -> ChildDied:
        """See `ChildProcess.died`."""
        self.close()
        return ChildDied("was ended", None)

    # ---- requests

    def do_import(self, _: Mapping[str, Any]) -> dict[str, Any]:
        return {"imported": 0.0}

    def do_open(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Load the model once, with inputs of ones: what cannot be loaded shows now."""
        self._artifact = request["artifact"]
        [file] = self._artifact["files"]
        self._model = f"{self._artifact['folder']}/{file['name']}"
        self._batch = int(request["target"]["batch"])
        self._run([], 1)
        return {"loaded": None, "compiled": None}

    def do_warm(self, request: Mapping[str, Any]) -> dict[str, Any]:
        import numpy

        if request["between"] is not None:
            raise OutsideError("the phone's program calls a model with one shape", help="name the sizes with `shape`")
        with numpy.load(io.BytesIO(self._adb.pull(request["inputs"])), allow_pickle=False) as stored:
            named = {name: stored[f"arr_{index}"] for index, name in enumerate(request["names"])}
        self._timed = self._inputs(named)
        self._call = self._seconds(_PROBE)
        self._seconds(self._calls(float(request["seconds"]), int(request["calls"])))
        return {"call": self._call, "memory": None}

    def do_round(self, request: Mapping[str, Any]) -> dict[str, Any]:
        count = self._calls(float(request["seconds"]), int(request["calls"]) + int(request["skip"]))
        mean = self._seconds(count)
        return {"durations": [round(mean * 1e9)] * count}

    def do_outputs(self, request: Mapping[str, Any]) -> dict[str, Any]:
        import numpy

        # What the caller has of them: the phone gets the raw bytes of each call.
        given = Chunks(Path(request["inputs"]), request["names"])
        answered = ChunkWriter(Path(request["outputs"]))
        step = self._batch
        if int(request["batch"]) != step:
            raise OptlangError(f"the phone's program calls the model with {step} samples, the most that it takes")
        for first, end in given.runs:
            for start in range(first, end, step):
                size = min(step, end - start)
                places = [first + (start - first + index) % (end - first) for index in range(step)]
                rows = [given.rows(place, place + 1) for place in places]
                call = {name: numpy.concatenate([row[name] for row in rows]) for name in given.names}
                answered.add({name: item[:size] for name, item in self._outputs(call, step).items()})
        answered.close()
        return {"samples": len(given)}

    def do_memory(self, _: Mapping[str, Any]) -> dict[str, Any]:
        return {"memory": None}

    # ---- the program

    def _calls(self, seconds: float, least: int) -> int:
        return min(_MOST, max(least, round(seconds / self._call) if self._call else least))

    def _seconds(self, count: int) -> float:
        """The mean of so many calls, by the phone's own clock."""
        said = self._run(self._timed, count)
        found = _TIMES.search(said)
        if found is None:
            raise OutsideError(
                f"{RUNNER} on {self._device} says no times", help="build it with EXECUTORCH_ENABLE_LOGGING=ON",
                details=said[-2000:],
            )
        return float(found[2]) / 1000 / int(found[1])

    def _outputs(self, inputs: Mapping[str, Array], samples: int) -> dict[str, Array]:
        import numpy

        base = f"{self.scratch}/answer"
        self._run(self._inputs(inputs), 1, f"--output_file={base}")
        found: dict[str, Array] = {}
        about = self._artifact["about"]["outputs"]
        for index, name in enumerate(self._artifact["outputs"]):
            content = numpy.frombuffer(self._adb.pull(f"{base}-{index}.bin"), dtype=about[name]["dtype"])
            found[name] = content.reshape(samples, *(_size(item) for item in about[name]["shape"][1:])).copy()
        return found

    def _inputs(self, arrays: Mapping[str, Array]) -> list[str]:
        import numpy

        paths = []
        for index, name in enumerate(self._artifact["inputs"]):
            path = f"{self.scratch}/input-{index}"
            self._adb.push(io.BytesIO(numpy.ascontiguousarray(arrays[name]).tobytes()), path)
            paths.append(path)
        return paths

    def _run(self, inputs: list[str], count: int, *more: str) -> str:
        arguments = [
            f"{self._home}/{RUNNER}", f"--model_path={self._model}", f"--num_executions={count}",
            f"--cpu_threads={self._threads}", *more,
        ]
        if inputs:
            arguments.append(f"--inputs={','.join(inputs)}")
        try:
            ended = self._adb.run(arguments, _TIMEOUT)
        except TimeoutError:
            self.close()
            raise ChildTimeout from None
        said = (ended.stderr + ended.stdout).decode(errors="replace")
        self.tail = "\n".join(said.splitlines()[-40:])
        if ended.code in (126, 127):
            raise DeviceError(f"{self._device} has no {self._home}/{RUNNER} that can be run", details=said)
        if ended.code >= 128:
            raise ChildDied(f"was ended by signal {ended.code - 128}", None)
        if ended.code:
            raise OptlangError(f"{RUNNER} ended with exit code {ended.code}", details=self.tail)
        return said

    def _shell(self, *arguments: str) -> None:
        ended = self._adb.run(arguments)
        if ended.code:
            raise DeviceError(f"{self._device}: {ended.stderr.decode(errors='replace').strip() or arguments[0]}")

    # ---- files

    def given(self, path: Path) -> str:
        """A file as the process finds it; samples stay where they are, and are sent call by call."""
        if path.is_dir():
            return str(path.resolve())
        there = f"{self.scratch}/{path.name}"
        pushed(self._adb, path, there)
        return there

    def artifact(self, artifact: Artifact) -> str:
        """The folder with the artifact's files."""
        for item in artifact.files:
            place = PurePosixPath(self.scratch, item.name)
            pushed(self._adb, artifact.folder / item.name, str(place))
        return self.scratch

    @contextlib.contextmanager
    def written(self, folder: Path) -> Iterator[str]:
        """The folder that the answers are written to."""
        try:
            yield str(folder.resolve())
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def close(self) -> None:
        """Remove its files."""
        if not self.closed:
            self.closed = True
            with contextlib.suppress(OutsideError, TimeoutError):
                self._adb.run(["rm", "-rf", self.scratch])


def _size(item: object) -> int:
    if not isinstance(item, int):
        raise OutsideError("the phone's program needs answers of one size")
    return item


def facts(device: RemoteDevice) -> dict[str, Any]:
    """What the phone is and has, as facts.py says it of a machine with Python. DeviceError, DeviceLost."""
    adb = Adb(device)
    folder = folder_of(device)

    def said(*arguments: str) -> str:
        ended = adb.run(arguments)
        return ended.stdout.decode(errors="replace").strip() if not ended.code else ""

    made = adb.run(["mkdir", "-p", folder])
    if made.code:
        raise DeviceError(f"nothing can be kept on {device}: {made.stderr.decode(errors='replace').strip()}")
    memory = re.search(r"MemTotal:\s+(\d+) kB", said("cat", "/proc/meminfo"))
    free = said("df", "-k", folder).splitlines()
    cores = said("nproc")
    governor = said("cat", "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return {
        "system": f"Android {said('getprop', 'ro.build.version.release')}",
        "processor": said("getprop", "ro.soc.model") or said("getprop", "ro.board.platform"),
        "architecture": said("getprop", "ro.product.cpu.abi"), "model": said("getprop", "ro.product.model"),
        "python": None, "cores": int(cores) if cores.isdecimal() else None,
        "memory": int(memory[1]) * 1024 if memory else None, "instructions": None, "folder": folder,
        "free": int(free[-1].split()[3]) * 1024 if free else 0, "governors": [governor] if governor else [],
        "temperature": None, "clock": None, "packages": {},
        "runner": not adb.run(["test", "-x", f"{folder}/{RUNNER}"]).code,
    }
