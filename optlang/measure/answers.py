"""An artifact's answers as it is deployed, at the target's samples a call, and whether another number changes them.

Most artifacts answer a sample alike whatever is called with it. Some do not: dynamic INT8 chooses one range a call, a
model may normalize over its batch, a kernel may be wrong for some shapes. So all answers are those of the target's
batch; a larger one stands in for it, where that saves seconds, only after a part of the data was answered in both ways
and nothing differed but the rounding.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from optlang.interfaces import Array, Arrays
from optlang.measure.chunks import Chunks, Rows, chunked, taken
from optlang.measure.process import BareProcess, ProcessError
from optlang.workload.data import ragged

LARGER = 64
"""Samples a call that answers are compared with, and that may stand in for a smaller batch."""

PART = 128
"""Samples that are answered in several ways."""

MOST = 2**26
"""Bytes of inputs that such samples have at most, all together."""

SINGLE = 32
"""Samples of these that are answered one by one, where the target's batch is larger."""

CHEAP = 2.0
"""Seconds that all samples may take at the target's batch before a larger one is considered."""


@dataclass(frozen=True, slots=True)
class Answers:
    """`outputs` to all samples by output name, in calls of `batch` samples.

    `part` are the places of the samples that were answered in other ways too, `alike` the answers to them in calls of
    `batch`, `others` those in calls of another number of samples (to the first ones, as many as there are); for an
    artifact that takes a fixed number, in calls with other neighbours. `uniform` says that none of them differs; where
    one does, `noise` is the `difference` of two calls with the same samples.
    """

    outputs: Rows
    batch: int
    part: Array
    alike: dict[str, Array]
    others: Mapping[int, dict[str, Array]]
    uniform: bool
    noise: float = 0.0


def deployed(process: BareProcess, samples: Chunks, folder: Path, *, compare: bool = True) -> Answers:
    """The answers to all `samples` as the target's calls give them; raises what `BareProcess` raises.

    They are written to `folder`, where nothing may be. Without `compare` nothing is answered in any other way, and
    `others` is empty: whether they are alike is not known.
    """
    batch, part = process.batch, places(samples)
    if not compare:
        outputs = process.answer(samples, folder, batch)
        return Answers(outputs, batch, part, taken(outputs, part), {}, False)
    few = taken(samples, part)
    began = time.monotonic()
    alike = process.outputs(few, batch)
    seconds = (time.monotonic() - began) * len(samples) / len(part)
    others = dict(_otherwise(process, few))
    uniform = all(same(alike, other) for other in others.values())
    noise = 0.0 if uniform else difference(alike, process.outputs(few, batch))
    one_shape = len(samples.runs) == 1
    if one_shape and len(part) == len(samples):
        return Answers(chunked(folder, alike), batch, part, alike, others, uniform, noise)
    larger = uniform and seconds > CHEAP and batch < LARGER and not process.fixed and LARGER in others
    # Of each shape there may be few, and every call is filled up.
    larger = larger and one_shape
    outputs = process.answer(samples, folder, LARGER if larger else batch)
    return Answers(outputs, batch, part, alike, others, uniform, noise)


def places(samples: Rows) -> Array:
    """The samples that are answered in several ways: `PART` of them, or as many as `MOST` bytes hold, evenly spread."""
    import numpy

    total = len(samples)
    count = max(1, min(total, PART, MOST // max(1, samples.sample_bytes(total // 2))))
    return numpy.unique(numpy.linspace(0, total - 1, count).astype(numpy.int64))


def _otherwise(process: BareProcess, few: Arrays) -> Iterator[tuple[int, dict[str, Array]]]:
    """Answers to (the first of) `few` in other calls than the target's, by the number of samples a call."""
    import numpy

    count, batch = len(next(iter(few.values()))), process.batch
    if process.fixed:
        if batch > 1:
            order = numpy.random.default_rng(0).permutation(count)
            found = process.outputs(ragged.taken(few, order), batch)
            yield batch, {name: item[numpy.argsort(order)] for name, item in found.items()}
        return
    for size, most in ((1, SINGLE), (min(LARGER, count), count)):
        if size != batch:
            try:
                yield size, process.outputs(ragged.taken(few, slice(most)), size)
            except ProcessError:
                # It takes no other number of samples than the target's: nobody can call it with one.
                continue


def same(one: Arrays, other: Arrays) -> bool:
    """Whether answers (of `other`, which may be to the first samples only) differ by no more than float32 rounds."""
    import numpy

    for _, wanted, found in _pairs(one, other):
        if wanted.dtype.kind != "f":
            if not numpy.array_equal(wanted, found):
                return False
            continue
        known = numpy.isfinite(wanted)
        if not numpy.array_equal(known, numpy.isfinite(found)):
            return False
        wanted, found = wanted[known].astype(numpy.float64), found[known].astype(numpy.float64)
        most = 1e-5 * numpy.abs(wanted).max(initial=0.0) + 1e-4 * (wanted.std() if wanted.size else 0.0)
        if numpy.abs(wanted - found).max(initial=0.0) > most:
            return False
    return True


def difference(one: Arrays, other: Arrays) -> float:
    """How far two answers to the same samples are apart, of the worst output: 0 the same, about 1 as other samples'.

    Of each sample it is the distance of its two answers as a share of how far they are from the mean answer, so that
    a few large ones do not hide the rest, and then the mean over samples; of outputs that are whole numbers the share
    that differs. Infinite where only one of them is a number. `other` may be the answers to the first samples only.
    """
    import numpy

    worst = 0.0
    for _, wanted, found in _pairs(one, other):
        if wanted.dtype.kind != "f":
            worst = max(worst, float((wanted != found).mean()) if wanted.size else 0.0)
            continue
        known = numpy.isfinite(wanted)
        if not numpy.array_equal(known, numpy.isfinite(found)):
            return float("inf")
        if not wanted.size:
            continue
        first, second = (
            numpy.where(known, item, 0).astype(numpy.float64).reshape(len(item), -1) for item in (wanted, found)
        )
        apart = numpy.linalg.norm(first - second, axis=1)
        middle = first.mean(axis=0)
        scale = numpy.maximum(*(numpy.linalg.norm(item - middle, axis=1) for item in (first, second)))
        worst = max(worst, float(numpy.divide(apart, scale, out=numpy.zeros_like(apart), where=apart > 0).mean()))
    return worst


def _pairs(one: Arrays, other: Arrays) -> Iterator[tuple[str, Array, Array]]:
    """The answers of both to the samples that `other` has, by output name; complex numbers as pairs.

    Answers of different sizes are filled up with zeros, both alike.
    """
    import numpy

    for name, found in other.items():
        wanted, found = ragged.one_size(one[name][: len(found)], found)
        if found.dtype.kind == "c":
            wanted, found = (numpy.stack([item.real, item.imag], axis=-1) for item in (wanted, found))
        yield name, wanted, found
