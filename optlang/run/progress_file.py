"""What a worker is doing, through a file: the worker appends lines, the scheduler reads those that are new."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from optlang.interfaces import JSON


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
        self._offset = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")

    def new(self) -> Iterator[dict[str, Any]]:
        """The whole lines that are new; one that is still being written waits for the next look."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                yield json.loads(line)
