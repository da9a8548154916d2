"""Arrays of many samples in files, in chunks that are mapped into memory: inputs, targets and answers.

Reading them needs memory for a few samples, however many there are. Only numpy is imported: the process that measures
an artifact reads its inputs and writes its answers with this.
"""

from __future__ import annotations

import bisect
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from optlang.interfaces import Array, Arrays
from optlang.workload.data import ragged

BYTES = 2**24
"""The size of a chunk, of all arrays together; one sample that is larger has a chunk of its own."""

_ABOUT = "chunks.json"


class Rows(Protocol):
    """Samples by name of the array, first axis the sample, of which a part is read at a time.

    `runs` are ranges of samples (the first, and the one after the last) whose arrays have the same shapes and types, so
    that they can be in one call; data whose shapes differ are several runs.
    """

    names: tuple[str, ...]
    runs: tuple[tuple[int, int], ...]

    def __len__(self) -> int: ...

    def rows(self, start: int, stop: int) -> dict[str, Array]:
        """The samples from `start` to before `stop`, which belong to one run."""

    def sample_bytes(self, place: int) -> int:
        """The bytes of one sample, of all its arrays."""


class Held:
    """`Rows` of arrays that are in memory anyway; arrays of objects (see `ragged`) are as many runs as samples."""

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = dict(arrays)
        self.names = tuple(arrays)
        count = len(self)
        several = any(map(ragged.is_ragged, arrays.values()))
        self.runs: tuple[tuple[int, int], ...] = (
            tuple((place, place + 1) for place in range(count)) if several else ((0, count),)
        )

    def __len__(self) -> int:
        return len(next(iter(self._arrays.values())))

    def rows(self, start: int, stop: int) -> dict[str, Array]:
        """See `Rows`; not copied."""
        return ragged.taken(self._arrays, slice(start, stop))

    def sample_bytes(self, place: int) -> int:
        """See `Rows`."""
        return sum(item.nbytes for item in self.rows(place, place + 1).values())


def rows_of(value: Rows | Arrays) -> Rows:
    """`value` as `Rows`, where it is arrays."""
    return Held(value) if isinstance(value, Mapping) else value


def pieces(several: Sequence[Rows], limit: int = BYTES) -> Iterator[tuple[int, int]]:
    """Ranges of samples to read one after another: each of one run in all of `several`, which have the same samples.

    Of the samples of a range together at most `limit` bytes are read, or one sample.
    """
    bounds = sorted({bound for rows in several for run in rows.runs for bound in run})
    for first, end in itertools.pairwise(bounds):
        count = max(1, limit // max(1, sum(rows.sample_bytes(first) for rows in several)))
        for start in range(first, end, count):
            yield start, min(start + count, end)


def taken(rows: Rows, places: Array) -> dict[str, Array]:
    """The samples at `places`, in that order; arrays of objects where their shapes differ."""
    import numpy

    order = numpy.argsort(places, kind="stable")
    found = [rows.rows(int(place), int(place) + 1) for place in places[order]]
    return ragged.in_order([(order[number : number + 1], piece) for number, piece in enumerate(found)])


def all_of(rows: Rows, padding: float = 0) -> dict[str, Array]:
    """All samples in memory, for what needs all of them at once.

    Where their shapes differ they are filled up with `padding` to the largest.
    """
    if len(rows.runs) == 1:
        return rows.rows(0, len(rows))
    parts = [rows.rows(first, end) for first, end in rows.runs]
    return {name: ragged.padded(ragged.column([part[name] for part in parts]), padding) for name in rows.names}


class Chunks:
    """`Rows` in a folder, in chunks that are mapped into memory one at a time; only the arrays of `names`, if given."""

    def __init__(self, folder: Path, names: Sequence[str] | None = None) -> None:
        about = json.loads((folder / _ABOUT).read_text())
        self.folder = folder
        self._numbers = {name: number for number, name in enumerate(about["names"])}
        self.names: tuple[str, ...] = tuple(self._numbers if names is None else names)
        self._files: list[int] = about["files"]
        self._starts: list[int] = [0, *itertools.accumulate(about["counts"])]
        self.runs = tuple((int(first), int(end)) for first, end in about["runs"])
        self._open: tuple[int, dict[str, Array]] = (-1, {})

    def __len__(self) -> int:
        return self._starts[-1]

    def rows(self, start: int, stop: int) -> dict[str, Array]:
        """See `Rows`; a copy."""
        import numpy

        if not 0 <= start < stop <= len(self):
            raise IndexError(f"samples {start} to {stop} of {len(self)}")
        parts: list[dict[str, Array]] = []
        for chunk in self._between(start, stop):
            first = self._starts[chunk]
            rows = slice(max(start - first, 0), stop - first)
            parts.append({name: item[rows] for name, item in self._mapped(chunk).items()})
        if len(parts) == 1:
            return {name: numpy.array(item) for name, item in parts[0].items()}
        return {name: numpy.concatenate([part[name] for part in parts]) for name in self.names}

    def sample_bytes(self, place: int) -> int:
        """See `Rows`."""
        chunk = self._between(place, place + 1)[0]
        size = self._starts[chunk + 1] - self._starts[chunk]
        return sum(item.nbytes for item in self._mapped(chunk).values()) // size

    def _between(self, start: int, stop: int) -> range:
        return range(bisect.bisect_right(self._starts, start) - 1, bisect.bisect_left(self._starts, stop))

    def _mapped(self, chunk: int) -> dict[str, Array]:
        import numpy

        if self._open[0] != chunk:
            # One chunk at a time: pages of a mapped file count as the process's memory.
            self._open = chunk, {
                name: numpy.load(
                    _file(self.folder, self._files[chunk], self._numbers[name]), mmap_mode="r", allow_pickle=False
                )
                for name in self.names
            }
        return self._open[1]


@dataclass(slots=True)
class _Run:
    """Samples of equal shapes: the files that have them, and those that are in none yet."""

    files: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    waiting: list[Mapping[str, Array]] = field(default_factory=list)
    bytes: int = 0


class ChunkWriter:
    """Writes samples into an empty folder, which `close` completes: until then `Chunks` cannot open it.

    With `grouped` samples of equal shapes become one run wherever they come; else all stay in the order in which they
    are added.
    """

    def __init__(self, folder: Path, *, grouped: bool = False) -> None:
        self._folder, self._grouped = folder, grouped
        self._names: tuple[str, ...] = ()
        self._runs: dict[object, _Run] = {}
        self._last: object = None
        self._changes = self._files = 0
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, arrays: Arrays) -> None:
        """Append the samples of `arrays` (by name, first axis the sample); the names are those of the first call."""
        self._names = self._names or tuple(arrays)
        kind = tuple((item.dtype, item.shape[1:]) for item in arrays.values())
        if kind != self._last:
            self._last = kind
            self._changes += 1
        run = self._runs.setdefault(kind if self._grouped else self._changes, _Run())
        run.waiting.append(arrays)
        run.bytes += sum(item.nbytes for item in arrays.values())
        if sum(item.bytes for item in self._runs.values()) >= BYTES:
            self._write(max(self._runs.values(), key=lambda item: item.bytes))

    def close(self) -> Chunks:
        """The samples, which can be read from now on."""
        for run in self._runs.values():
            self._write(run)
        runs = list(self._runs.values())
        bounds = [0, *itertools.accumulate(sum(run.counts) for run in runs)]
        about = {
            "names": self._names, "files": [number for run in runs for number in run.files],
            "counts": [count for run in runs for count in run.counts], "runs": list(itertools.pairwise(bounds)),
        }
        (self._folder / _ABOUT).write_text(json.dumps(about))
        return Chunks(self._folder)

    def _write(self, run: _Run) -> None:
        import numpy

        if not run.waiting:
            return
        whole = {name: numpy.concatenate([part[name] for part in run.waiting]) for name in self._names}
        for number, item in enumerate(whole.values()):
            numpy.save(_file(self._folder, self._files, number), item, allow_pickle=False)
        run.files.append(self._files)
        run.counts.append(len(next(iter(whole.values()))))
        run.waiting, run.bytes = [], 0
        self._files += 1


def chunked(folder: Path, arrays: Arrays) -> Chunks:
    """`arrays` (by name, first axis the sample, of one shape) in an empty folder."""
    writer = ChunkWriter(folder)
    writer.add(arrays)
    return writer.close()


def _file(folder: Path, chunk: int, array: int) -> Path:
    # By number: an array may have a name that no file can have.
    return folder / f"{chunk:06d}.{array}.npy"
