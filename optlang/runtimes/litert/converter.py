"""LiteRT's converter in a process of its own, as the process that builds sees it.

The converter is built on JAX, whose threads do not survive a fork, and DataLoaders fork the process that builds. One
converter is kept until that process ends: its imports take longer than most conversions.
"""

from __future__ import annotations

import atexit
import tempfile
from pathlib import Path
from typing import Any

from optlang.interfaces import OptlangError, OutsideError, Refusal
from optlang.workload import failures
from optlang.workload.child_process import ChildDied, ChildProcess, ChildTimeout

_MODULE = "optlang.runtimes.litert.converter_child"
# Longer than any sensible conversion: of a process that hangs nothing else is known.
_TIMEOUT = 1800.0
_REFUSED = "LiteRT's converter does not take the model"
_WAY_OUT = "use the runtime onnxruntime"

_kept: ChildProcess | None = None


def start() -> None:
    """Start the converter where it does not run yet, without waiting for its imports.

    Raises OutsideError where the system starts no process.
    """
    global _kept
    if _kept is not None and _kept.alive and not _kept.closed:
        return
    if _kept is not None:
        _kept.close()
    try:
        # Warnings are of the libraries' own code, and the report of progress is nobody's.
        _kept = ChildProcess(
            _MODULE, options=("-W", "ignore"), environment={"LITERT_TORCH_SHOW_PROGRESS": "n"}, apart=True
        )
    except OSError as error:
        raise OutsideError(f"no process could be started for LiteRT's converter: {error}") from error
    atexit.register(_kept.close)


def converted(program: Any, folder: Path) -> bytes:
    """The file in float32 for an ExportedProgram, with the sizes and by the order of its example inputs.

    `folder` is for temporary files. Raises `Refusal` for what cannot be saved or converted, MemoryError where that ran
    out, and OptlangError where the converter crashed or did not answer within half an hour: then the next model gets a
    new one.
    """
    import torch

    start()
    assert _kept is not None
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as name:
        given, made = Path(name) / "program.pt2", Path(name) / "model.tflite"
        with failures.refused(_REFUSED, help=_WAY_OUT):
            torch.export.save(program, given)
        try:
            answer = _kept.ask({"do": "convert", "program": str(given), "file": str(made)}, _TIMEOUT)
        except ChildDied as error:
            raise OptlangError(
                f"the process of LiteRT's converter {error.how}", help=error.advice or _WAY_OUT, details=_kept.tail
            ) from None
        except ChildTimeout:
            raise OptlangError(
                f"LiteRT's converter gave no answer for {_TIMEOUT:.0f} s", help=_WAY_OUT, details=_kept.tail
            ) from None
        if answer.get("exhausted"):
            raise MemoryError(answer["error"])
        if "error" in answer:
            raise Refusal(f"{_REFUSED}: {answer['error']}", help=_WAY_OUT)
        return made.read_bytes()
