"""The child process that runs one artifact and times it: `python -m optlang.measure.child`, JSON lines in and out.

It holds the artifact's runtime and nothing else that is heavy, since what else is loaded slows small models down. It
knows no study, no plan and no statistics: durations go back as they are. Commands are objects with `do`:

- `import` (`calls`, `study`, `cores`, `scratch`) → `imported` (seconds)
- `open` (`artifact`, `target`, `settings`) → `loaded`, `compiled` (seconds; `compiled`, which `loaded` is without, is
  null where nothing is compiled)
- `warm` (`inputs`: .npz, `between`: .npz or null, `names`, `seconds`, `calls`) → `call` (seconds), `memory` (peak
  resident bytes, or null); with `between`, a call of that goes before each one that is timed
  (the load time, the memory and the durations are the session's own where it has `loaded`, `memory`, `durations`)
- `round` (`seconds`, `calls`, `skip`) → `durations` (nanoseconds of each call that counts)
- `outputs` (`inputs`: the folder of `Chunks`, `names`, `outputs`: the folder to write such to, `batch`) → `samples`
- `memory` → `memory`;  `close` → the process ends

An answer is `{"ok": …}` or `{"error": {"type", "message", "help", "details"}}`.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import queue
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from optlang.interfaces import Array, Artifact, ArtifactFile, OptlangError, Session, TargetSpec
from optlang.measure import quiet, signals
from optlang.measure.chunks import Chunks, ChunkWriter

# How long the process may go on with a call after its parent has gone, in seconds.
_PATIENCE = 2.0


class _Bench:
    """One open artifact and the inputs that it is timed on."""

    def __init__(self) -> None:
        self._runtime: Any = None
        self._study = Path()
        self._session: Session | None = None
        self._artifact: Artifact | None = None
        self._batch = 1
        self._prepared: Any = None
        self._between: Any = None
        self._scratch: str | None = None

    def imported(self, command: Mapping[str, Any]) -> dict[str, Any]:
        self._study = Path(command["study"])
        self._scratch = command.get("scratch")
        cores = command.get("cores")
        # Before the runtime is imported: some size their thread pools by the cores that they see then.
        if cores and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cores)
        start = time.perf_counter()
        self._runtime = _found(command["calls"], self._study)()
        for name in getattr(self._runtime, "imports", ()):
            importlib.import_module(name)
        return {"imported": time.perf_counter() - start}

    def open(self, command: Mapping[str, Any]) -> dict[str, Any]:
        if self._runtime is None:
            raise OptlangError("there is no runtime: `import` comes first")
        self._artifact = _artifact(command["artifact"])
        target = TargetSpec(**command["target"])
        self._batch = self._artifact.fixed_batch or target.batch
        start = time.perf_counter()
        self._session = self._runtime.open(self._artifact, target, command["settings"], self._study)
        loaded = time.perf_counter() - start
        compiled = getattr(self._session, "compiled", None)
        if compiled is not None:
            loaded -= compiled
        return {"loaded": getattr(self._session, "loaded", loaded), "compiled": compiled}

    @property
    def session(self) -> Session:
        if self._session is None:
            raise OptlangError("nothing is open: `open` comes first")
        return self._session

    def warm(self, command: Mapping[str, Any]) -> dict[str, Any]:
        inputs, between = self._inputs(command, "inputs"), self._inputs(command, "between")
        if any(len(item) != self._batch for item in [*inputs.values(), *between.values()]):
            raise OptlangError(f"the inputs to time are not {self._batch} samples")
        self._prepared = self.session.prepare(inputs)
        self._between = self.session.prepare(between) if between else None
        last = self._timed(float(command["seconds"]), int(command["calls"]), 0)[-1:]
        gc.collect()
        gc.freeze()
        return {"call": last[0] * 1e-9 if last else 0.0, **self.memory(command)}

    def round(self, command: Mapping[str, Any]) -> dict[str, Any]:
        if self._prepared is None:
            raise OptlangError("no inputs to time: `warm` comes first")
        gc.disable()
        try:
            durations = self._timed(float(command["seconds"]), int(command["calls"]), int(command["skip"]))
        finally:
            gc.enable()
        return {"durations": durations}

    def _timed(self, seconds: float, calls: int, skip: int) -> list[int]:
        """The nanoseconds of each call, by the session's own clock where it has one.

        A runtime may do more where a call has another shape than the one before it (OpenVINO infers all shapes again),
        so where calls of the deployed model differ in shape, they do here. A session with a clock of its own times
        calls of one shape.
        """
        own = getattr(self.session, "durations", None)
        if own is not None:
            return [int(item) for item in own(self._prepared, seconds, calls, skip)]
        run, prepared, between, clock = self.session.run, self._prepared, self._between, time.perf_counter_ns
        least = int(seconds * 1e9)
        durations: list[int] = []
        for _ in range(skip):
            run(prepared)
        start = now = clock()
        while now - start < least or len(durations) < calls:
            if between is not None:
                run(between)
            began = clock()
            run(prepared)
            now = clock()
            durations.append(now - began)
        return durations

    def outputs(self, command: Mapping[str, Any]) -> dict[str, Any]:
        import numpy

        given = Chunks(Path(command["inputs"]), command["names"])
        answered = ChunkWriter(Path(command["outputs"]))
        self._check_names(given.names)
        assert self._artifact is not None
        step = self._artifact.fixed_batch or max(1, int(command["batch"]))
        for first, end in given.runs:
            for start in range(first, end, step):
                size = min(step, end - start)
                inputs = _call(given, first, end, start, step)
                result = self.session.collect(self.session.run(self.session.prepare(inputs)))
                for name, item in result.items():
                    if item.shape[:1] != (step,):
                        raise OptlangError(
                            f"the answer {name} to {step} samples has the shape {item.shape}: its first axis must be "
                            "the samples"
                        )
                # A copy: a runtime may write its next answer to the same memory.
                answered.add({name: numpy.array(item[:size]) for name, item in result.items()})
        answered.close()
        return {"samples": len(given)}

    def _check_names(self, names: Collection[str]) -> None:
        if self._artifact is None:
            raise OptlangError("nothing is open: `open` comes first")
        if any(name not in names for name in self._artifact.inputs):
            raise OptlangError(f"the model takes {', '.join(self._artifact.inputs)}, and was given {', '.join(names)}")

    def _inputs(self, command: Mapping[str, Any], which: str) -> dict[str, Array]:
        """The arrays in that file; none where there is no such file."""
        import numpy

        self._check_names(command["names"])
        if command[which] is None:
            return {}
        # By their order: an input may have a name that savez takes for its own.
        with numpy.load(command[which], allow_pickle=False) as stored:
            return {name: stored[f"arr_{index}"] for index, name in enumerate(command["names"])}

    def memory(self, command: Mapping[str, Any]) -> dict[str, Any]:
        own = getattr(self.session, "memory", None)
        return {"memory": _peak() if own is None else own()}

    def close(self) -> None:
        self._prepared = self._between = None
        if self._session is not None:
            self._session.close()
            self._session = None

    def tidy(self) -> None:
        """Take away the folder of inputs and outputs: a parent that was killed could not."""
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def told(self, error: BaseException) -> dict[str, Any]:
        """An exception as data; of an OptlangError its own words, of the rest where it was raised."""
        kind = type(error).__name__
        if not isinstance(error, OptlangError):
            # Imported only now: a bare process that goes well holds its runtime alone.
            from optlang.workload import imports

            told = imports.told("running the model", error, getattr(self, "_study", Path.cwd()))
            if told.details:
                error = told
        if isinstance(error, OptlangError):
            return {
                "type": kind, "message": error.message, "help": error.help,
                "exit_code": error.exit_code, "details": getattr(error, "details", ""),
            }
        return {
            "type": kind, "help": None, "exit_code": 1,
            "message": "".join(traceback.format_exception_only(error)).strip(),
            "details": "".join(traceback.format_exception(error)),
        }


def _call(given: Chunks, first: int, end: int, start: int, step: int) -> dict[str, Array]:
    """The inputs of the call that begins with the sample `start`, of the run from `first` to before `end`.

    Every call is of as many samples: an answer may depend on its neighbours. The first ones fill up the last.
    """
    import numpy

    if start + step <= end:
        return given.rows(start, start + step)
    pieces = [given.rows(start, end)]
    missing = step - (end - start)
    while missing:
        more = given.rows(first, min(first + missing, end))
        pieces.append(more)
        missing -= len(next(iter(more.values())))
    return {name: numpy.concatenate([piece[name] for piece in pieces]) for name in given.names}


def _found(calls: str, study: Path) -> Any:
    place, _, name = calls.rpartition(":")
    if place.endswith(".py"):
        from optlang.workload import imports

        return imports.find(calls, study)
    return getattr(importlib.import_module(place), name)


def _artifact(value: Mapping[str, Any]) -> Artifact:
    return Artifact(
        Path(value["folder"]), value["format"], tuple(ArtifactFile(**item) for item in value["files"]),
        tuple(value["inputs"]), tuple(value["outputs"]), value["about"],
    )


def _peak() -> int | None:
    """The most memory this process has held, in bytes; None where the system does not say."""
    try:
        # Not getrusage here: its figure begins with the parent's, which exec does not take back.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _listen(source: BinaryIO, commands: queue.SimpleQueue[bytes | None], bench: _Bench) -> None:
    """Hand on lines; at the end of the pipe the parent has gone, and a call that still runs is of use to nobody."""
    for line in source:
        commands.put(line)
    commands.put(None)
    time.sleep(_PATIENCE)
    bench.tidy()
    os._exit(0)


def main() -> None:
    """Answer commands until `close` or the end of standard input."""
    signals.outlive()
    # Another worker's measurement may have stopped it (see quiet.py) when its own worker is killed.
    quiet.go_on_without_parent()
    # What the runtime prints goes to standard error, and what it reads is nothing: the pipes are the protocol's own.
    source, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    commands: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    # A thread that waits for a line costs the timed one nothing, and notices a parent that dies in mid-call.
    bench = _Bench()
    threading.Thread(target=_listen, args=(source, commands, bench), daemon=True).start()
    handlers = {
        "import": bench.imported, "open": bench.open, "warm": bench.warm, "round": bench.round,
        "outputs": bench.outputs, "memory": bench.memory,
    }
    while (line := commands.get()) is not None:
        command = json.loads(line)
        if command["do"] == "close":
            break
        answer: dict[str, Any]
        try:
            answer = {"ok": handlers[command["do"]](command)}
        except Exception as error:  # noqa: BLE001 - what runtimes and the user's code raise is the parent's to report
            answer = {"error": bench.told(error)}
        try:
            answers.write(json.dumps(answer).encode() + b"\n")
        except BrokenPipeError:
            break
    bench.tidy()
    bench.close()
    sys.stderr.flush()
    # Not by the interpreter's own way out: runtimes' threads are known to hang or crash there.
    os._exit(0)


if __name__ == "__main__":
    main()
