"""The samples of a split in files: written in one pass over the user's data, read in parts as often as needed."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from optlang.measure.chunks import BYTES, Chunks, ChunkWriter, Held, Rows, all_of, pieces, taken

if TYPE_CHECKING:
    from optlang.interfaces import Array
    from optlang.workload.data.dataset import Dataset
    from optlang.workload.data.tensors import Tensors

_ABOUT = "about.json"
_AT_ONCE = 64
"""Samples that are read at once, where they are small."""

Structure = Literal["one", "tuple", "names"]


@dataclass(frozen=True, slots=True)
class Targets:
    """Targets of all samples, as the task takes them: one tensor, a tuple of them, or tensors by name."""

    rows: Rows
    structure: Structure

    def part(self, start: int, stop: int) -> Tensors:
        """Those of the samples from `start` to before `stop`, which belong to one run."""
        return self._tensors(self.rows.rows(start, stop))

    def parts(self) -> Iterator[Tensors]:
        """All of them, a part after another."""
        for start, stop in pieces([self.rows]):
            yield self.part(start, stop)

    def at(self, places: Array) -> Tensors:
        """Those of the samples at `places`, which belong to one run."""
        return self._tensors(taken(self.rows, places))

    def all(self, padding: float) -> Tensors:
        """All of them in memory; where they differ in size they are filled up with `padding`."""
        return self._tensors(all_of(self.rows, padding))

    def _tensors(self, arrays: Mapping[str, Array]) -> Tensors:
        import torch

        found = {name.partition(".")[2]: torch.from_numpy(item) for name, item in arrays.items()}
        if self.structure == "one":
            return next(iter(found.values()))
        return tuple(found.values()) if self.structure == "tuple" else found


def targets_of(value: Targets | Any) -> Targets | None:
    """`value` as `Targets`, where it is tensors or arrays; None where it is None or empty."""
    from optlang.workload.data.tensors import leaves, nested

    if value is None or isinstance(value, Targets):
        return value
    tensors = value if isinstance(value, tuple) and not value else nested(value, "the targets")
    if not leaves(tensors):
        return None
    arrays, structure = _flat(tensors)
    return Targets(Held(arrays), structure)


@dataclass(frozen=True, slots=True)
class Samples:
    """The inputs by name, and the targets where there are any. Samples of equal shapes are together."""

    inputs: Chunks
    targets: Targets | None

    def __len__(self) -> int:
        return len(self.inputs)


def kept(folder: Path, data: Dataset, split: str) -> Samples:
    """The split in `folder`, where it is written if it is not there yet; it appears there whole, by a rename."""
    if not folder.is_dir():
        aside = folder.parent / f".{uuid.uuid4().hex}.partial"
        try:
            _write(aside, data, split)
            try:
                aside.rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    about = json.loads((folder / _ABOUT).read_text())
    structure: Structure | None = about["structure"]
    targets = None if structure is None else Targets(Chunks(folder, about["targets"]), structure)
    return Samples(Chunks(folder, about["inputs"]), targets)


def _write(folder: Path, data: Dataset, split: str) -> None:
    """Inputs under their names, targets under names that no input has."""
    from optlang.workload.data.tensors import array, leaves

    writer = ChunkWriter(folder, grouped=True)
    structure: Structure | None = None
    inputs: dict[str, Array] = {}
    targets: dict[str, Array] = {}
    size = sum(item.numel() * item.element_size() for item in data.example(1).values())
    for given, wanted in data.batches(split, max(1, min(_AT_ONCE, BYTES // max(1, size)))):
        inputs = {name: array(item) for name, item in given.items()}
        if leaves(wanted):
            targets, structure = _flat(wanted)
        writer.add({**inputs, **targets})
    writer.close()
    about = {"inputs": list(inputs), "targets": list(targets), "structure": structure}
    (folder / _ABOUT).write_text(json.dumps(about))


def _flat(targets: Tensors) -> tuple[dict[str, Array], Structure]:
    from optlang.workload.data.tensors import array

    if isinstance(targets, dict):
        return {f".{name}": array(item) for name, item in targets.items()}, "names"
    if isinstance(targets, tuple):
        return {f".{number}": array(item) for number, item in enumerate(targets)}, "tuple"
    return {".": array(targets)}, "one"
