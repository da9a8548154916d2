"""The journal: an append-only file of JSON lines, whole after any kill. Does not interpret the lines."""

from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from optlang.interfaces import OutsideError

SCHEMA = 1
"""The version of the events; a journal of a newer one is refused."""


@dataclass(frozen=True, slots=True)
class Line:
    """One record and the byte offset just behind its line."""

    end: int
    record: dict[str, Any]


def journal_path(db: Path) -> Path:
    """Where the journal of a database lies."""
    return Path(f"{db}.journal")


def now() -> str:
    """The time as the journal writes it: ISO 8601, UTC."""
    return datetime.now(UTC).isoformat()


def read(path: Path, offset: int = 0) -> Iterator[Line]:
    """The records behind byte `offset`, in order; nothing where the file is absent.

    A last line without its line end is still being written, or was cut by a kill: it is left for later. A line that is
    no JSON object was cut by a kill and gives nothing, whatever follows it.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                yield Line(offset, record)


def identity(path: Path) -> str | None:
    """The journal's own id, from its first line; None where there is none yet. OutsideError: of a newer version."""
    first = next(read(path), None)
    if first is None or first.record.get("event") != "journal":
        return None
    if first.record.get("schema", 0) > SCHEMA:
        raise OutsideError(
            f"{path} was written by a newer optlang "
            f"(version {first.record['schema']} of the events, this one knows {SCHEMA})",
            help="upgrade optlang: pip install --upgrade optlang-dsl",
        )
    return str(first.record["id"])


def encode(record: Mapping[str, Any]) -> bytes:
    """One line: ASCII, so that a torn line is a torn end and never a bad character; what is not finite is null."""
    return json.dumps(_finite(record), separators=(",", ":"), allow_nan=False, default=str).encode("ascii") + b"\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


class Journal:
    """A journal open for writing; its caller holds the database's write lock."""

    def __init__(self, path: Path) -> None:
        """Open or begin the journal at `path`, and end a line that a kill left torn."""
        self.path = path
        known = identity(path)
        try:
            self._file: BinaryIO = path.open("ab", buffering=0)
            if self._file.tell() and not _ends_line(path):
                self._write(b"\n")
                # What looked torn may have lacked nothing but its line end.
                known = identity(path)
            self.id = known or uuid.uuid4().hex
            if known is None:
                self._write(encode({"event": "journal", "id": self.id, "schema": SCHEMA, "created": now()}))
        except OSError as error:
            raise OutsideError(
                f"cannot write {path}: {error.strerror}",
                help="free some space, or name another database with --db PATH",
            ) from error

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one line and wait until it is on the disk. OutsideError where the disk takes no more."""
        try:
            self._write(encode(record))
        except OSError as error:
            raise OutsideError(
                f"cannot write {self.path}: {error.strerror}",
                help="free some space and run again: the run goes on where it stopped",
            ) from error

    def _write(self, line: bytes) -> None:
        before = self._file.seek(0, os.SEEK_END)
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            # A half line on a full disk would swallow the next one.
            os.ftruncate(self._file.fileno(), before)
            raise
        os.fsync(self._file.fileno())

    def gone(self) -> bool:
        """Whether the file was removed or replaced while it was open: what is written to it would be lost."""
        try:
            return not os.path.samestat(os.fstat(self._file.fileno()), self.path.stat())
        except FileNotFoundError:
            return True

    def close(self) -> None:
        """Close the file; nothing is left to write."""
        self._file.close()


def _ends_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
