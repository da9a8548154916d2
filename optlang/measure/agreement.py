"""How far answers agree with the baseline's on the same samples, right or wrong: no label is needed.

- `agreement`: the share of answers that name the baseline's class (top-1), where answers are scores of classes;
- `agreement.cosine`: the cosine of the angle between an answer and the baseline's, the mean over samples;
- `agreement.error`: the difference to the baseline's answers over these, both as the root of the sum of squares over
  all samples (10 to the power of -SQNR/20).

Of several outputs the worst one counts for the last two. The baseline's own values are 1, 1 and 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from optlang.interfaces import Array, Arrays, Measurement
from optlang.measure import intervals

if TYPE_CHECKING:
    from optlang.workload.data.tasks import Task


class Agreement:
    """Reduces answers, which come in parts, to what each sample adds to the sums."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._same: list[tuple[Array, Array]] | None = []
        self._cosines: dict[str, list[Array]] = {}
        self._squares: dict[str, list[tuple[Array, Array]]] = {}
        self._comparable = True

    def add(self, outputs: Arrays, baseline: Arrays, targets: Any) -> None:
        """Count these samples; `targets` (None: there are none) say which answers count."""
        others = _by_name(outputs, baseline)
        if others is None:
            self._comparable = False
            return
        self._count_classes(outputs, others, targets)
        for name, item in outputs.items():
            if item.dtype.kind in "fc":
                mine, other = _flat(item), _flat(others[name])
                self._cosines.setdefault(name, []).append(_cosine(mine, other))
                self._squares.setdefault(name, []).append((_squared(mine - other), _squared(other)))

    def _count_classes(self, outputs: Arrays, others: Arrays, targets: Any) -> None:
        first, second = self._task.choices(dict(outputs)), self._task.choices(dict(others))
        if self._same is None or first is None or second is None:
            self._same = None
            return
        counts = None if targets is None else self._task.counted(targets)
        same = (first == second).double()
        counts = same.new_ones(same.shape) if counts is None else counts.double()
        above, below = ((item.reshape(len(same), -1).sum(dim=1).numpy()) for item in (same * counts, counts))
        self._same.append((above, below))

    def values(self) -> dict[str, float]:
        """The metrics without their intervals, which take long to draw."""
        shares, cosines, squares = self._shares(), self._worst_cosines(), self._worst_squares()
        found = {} if shares is None else {"agreement": float(shares[0].sum() / shares[1].sum())}
        if cosines is not None:
            found["agreement.cosine"] = float(cosines.mean())
        if squares is not None:
            found["agreement.error"] = _relative(*squares)
        return found

    def _shares(self) -> tuple[Array, Array] | None:
        """How many answers of each sample name the baseline's class, and how many count."""
        import numpy

        if not self._comparable or not self._same:
            return None
        above, below = (numpy.concatenate([part[index] for part in self._same]) for index in (0, 1))
        return (above, below) if below.sum() else None

    def _worst_cosines(self) -> Array | None:
        """By sample, of the output that is farthest from the baseline's."""
        import numpy

        if not self._comparable or not self._cosines:
            return None
        return min((numpy.concatenate(parts) for parts in self._cosines.values()), key=lambda item: float(item.mean()))

    def _worst_squares(self) -> tuple[Array, Array] | None:
        """By sample the squared differences and the squared answers, of the output that is farthest off."""
        import numpy

        if not self._comparable or not self._squares:
            return None
        sums = [
            (numpy.concatenate([part[0] for part in parts]), numpy.concatenate([part[1] for part in parts]))
            for parts in self._squares.values()
        ]
        return max(sums, key=lambda item: _relative(*item))

    def measurements(self, seed: int) -> Iterator[Measurement]:
        """What there is to say: nothing where the answers have other shapes than the baseline's."""
        shares, cosines, squares = self._shares(), self._worst_cosines(), self._worst_squares()
        if shares is not None:
            yield _share(*shares, seed)
        if cosines is not None:
            value = float(cosines.mean())
            low, high = intervals.mean(cosines, seed)
            low, high = min(low, value), max(high, value)
            yield Measurement("agreement.cosine", value, "", len(cosines), low, high, baseline=1.0)
        if squares is not None:
            yield _error(*squares, seed)


def _share(above: Array, below: Array, seed: int) -> Measurement:
    value = float(above.sum() / below.sum())
    if (below == 1).all():
        low, high = intervals.wilson(int(above.sum()), len(above))
    else:
        def drawn(chosen: Array) -> float | None:
            counted = float(below[chosen].sum())
            return float(above[chosen].sum()) / counted if counted else None

        low, high = intervals.resampled(drawn, len(above), seed)
    low, high = min(low, value), max(high, value)
    # The baseline agrees with itself on all samples: what is measured is the ratio to that.
    return Measurement("agreement", value, "ratio", len(above), low, high, "", value, low, high, 1.0)


def _error(differences: Array, references: Array, seed: int) -> Measurement:
    value = _relative(differences, references)
    low, high = intervals.resampled(
        lambda chosen: _relative(differences[chosen], references[chosen]), len(differences), seed
    )
    n = len(differences)
    return Measurement("agreement.error", value, "", n, min(low, value), max(high, value), baseline=0.0)


def _relative(differences: Array, references: Array) -> float:
    above, below = float(differences.sum()), float(references.sum())
    # Against answers that are all zero every difference is the whole.
    return float((above / below) ** 0.5) if below else float(above > 0)


def _by_name(outputs: Arrays, baseline: Arrays) -> Mapping[str, Array] | None:
    """The baseline's answers by the names of `outputs`; None where they are others.

    Some formats rename outputs, and keep their order.
    """
    if len(outputs) != len(baseline):
        return None
    others = baseline if set(outputs) == set(baseline) else dict(zip(outputs, baseline.values(), strict=True))
    return others if all(item.shape == others[name].shape for name, item in outputs.items()) else None


def _flat(item: Array) -> Array:
    import numpy

    if item.dtype.kind == "c":
        item = numpy.stack([item.real, item.imag], axis=-1)
    return item.reshape(len(item), -1).astype(numpy.float64)


def _squared(item: Array) -> Array:
    import numpy

    found: Array = numpy.einsum("ij,ij->i", item, item)
    return found


def _cosine(mine: Array, other: Array) -> Array:
    """One a sample; of two answers that are zero 1, of one 0."""
    import numpy

    product, lengths = numpy.einsum("ij,ij->i", mine, other), numpy.sqrt(_squared(mine) * _squared(other))
    zero = (_squared(mine) == 0) & (_squared(other) == 0)
    cosine = numpy.divide(product, lengths, out=numpy.zeros_like(product), where=lengths > 0)
    return numpy.where(zero, 1.0, numpy.clip(cosine, -1.0, 1.0))
