"""The process that LiteRT's converter runs in: `python -m optlang.runtimes.litert.converter_child`, JSON lines.

`{"do": "convert", "program": …, "file": …}` reads what torch.export.save wrote, writes the LiteRT file of it, and is
answered by `{}`, or by `{"error": …, "exhausted": …}`: the first line of what was raised, and whether memory ran out.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import queue
import threading
from pathlib import Path
from typing import Any, BinaryIO

from optlang.workload import failures


def _convert(program: str, file: str) -> None:
    import litert_torch
    import torch

    exported = torch.export.load(program)
    arguments, _ = exported.example_inputs
    model = litert_torch.convert(exported.module(check_guards=False), arguments)
    Path(file).write_bytes(model.model_content())


def _listen(source: BinaryIO, requests: queue.SimpleQueue[Any]) -> None:
    """Hand on requests; where there are no more, nobody waits for what still runs."""
    for line in source:
        requests.put(json.loads(line))
    os._exit(0)


def main() -> None:
    """Answer requests until `close` or the end of standard input."""
    # What the libraries print goes to standard error: the pipes are the protocol's own.
    source, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(source, requests), daemon=True).start()
    # While the caller still captures its model. What is wrong with the library is raised again by the first request.
    with contextlib.suppress(Exception):
        importlib.import_module("litert_torch")
    while (request := requests.get())["do"] != "close":
        answer: dict[str, Any] = {}
        try:
            _convert(request["program"], request["file"])
        except Exception as error:  # noqa: BLE001 - what the converter raises is the caller's to report
            answer = {"error": failures.message_of(error), "exhausted": failures.exhausted(error)}
        answers.write(json.dumps(answer).encode() + b"\n")
    # JAX's threads are not waited for.
    os._exit(0)


if __name__ == "__main__":
    main()
