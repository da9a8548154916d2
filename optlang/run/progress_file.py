"""What a worker is doing, through a file: the worker appends lines, the scheduler reads those that are new.

An engine that reads no file has its workers report otherwise: see `report_to`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from optlang.interfaces import JSON

Report = Callable[[Mapping[str, JSON]], None]

_report: Report | None = None


def report_to(receiver: Report | None) -> None:
    """From now on what this process reports goes to `receiver`; None: nobody wants it."""
    global _report
    _report = receiver


def report(what: Mapping[str, JSON]) -> None:
    """Say what this process is doing."""
    if _report is not None:
        _report(what)


class ProgressWriter:
    """Appends what the worker is doing; a file survives whatever becomes of the worker."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, what: Mapping[str, JSON]) -> None:
        """Write one line."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(what, default=str) + "\n")


class ProgressReader:
    """Reads what was appended since the last look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.restart()

    def restart(self) -> None:
        """Forget what was written so far: another task begins."""
        self._offset = 0
        self._path.write_text("")

    def new(self) -> Iterator[dict[str, Any]]:
        """The whole lines that are new; one that is still being written waits for the next look."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                yield json.loads(line)
