"""A point as one number in [0, 1] for each knob of the study, present or not: the form that genetic algorithms cross,
low-discrepancy sequences fill and Gaussian processes measure distances in.

Conditional knobs fit none of these by themselves: they come and go with others. So each has its gene everywhere, which
counts only where the knob is there; where it is not, it is carried along (genetic algorithms) or is `ABSENT` (models).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from optlang.plan.domains import contains, every_value, size
from optlang.plan.expressions import Value
from optlang.plan.model import Domain, FloatDomain, IntDomain, Knob, OrderDomain, SetDomain
from optlang.space.recipe import Point
from optlang.space.space import Space

ABSENT = 0.5
"""The gene of a knob that is not there, where nothing else is known of it."""

DIGITS = 11
"""Digits of a continuous value behind its first."""

Genes = Mapping[str, float]
"""By the knob's path."""


def point_of(space: Space, genes: Genes) -> Point:
    """The point that the genes stand for; raises `Exhausted` where the facts leave nothing.

    A value that the facts rule out at this point gives way to the one that lies where it lay, among those that are
    left. Forbids are not looked at.
    """
    def value(knob: Knob, domain: Domain) -> Value:
        wanted = value_at(knob.domain, genes[knob.path])
        return wanted if domain is knob.domain or contains(domain, wanted) else value_at(domain, genes[knob.path])

    return space.draw(value)


def genes_of(knobs: tuple[Knob, ...], point: Point, others: Genes | None = None) -> dict[str, float]:
    """The genes of a point; `others` are those of the knobs that it has not."""
    others = others or {}
    return {
        knob.path: gene_of(knob.domain, point[knob.path]) if knob.path in point else others.get(knob.path, ABSENT)
        for knob in knobs
    }


def value_at(domain: Domain, gene: float) -> Value:
    """The value that lies so far along the domain; each of n values has an n-th of the way."""
    match domain:
        case FloatDomain(low=low, high=high, log=False):
            return rounded(domain, low + gene * (high - low))
        case FloatDomain(low=low, high=high):
            return rounded(domain, math.exp(math.log(low) + gene * math.log(high / low)))
        case IntDomain(low=low, high=high, log=True):
            first, last = math.log(low - 0.5), math.log(high + 0.5)
            return min(high, max(low, round(math.exp(first + gene * (last - first)))))
        case IntDomain(low=low, high=high):
            return low + _index(gene, high - low + 1)
    values = list(every_value(domain))
    return values[_index(gene, len(values))]


def rounded(domain: FloatDomain, value: float) -> float:
    """The value with so many digits that its gene gives it back: one that differs in the last bits is another point."""
    # Of the value, or of the domain's width: in these a gene is exact.
    size = abs(value) if domain.log else domain.high - domain.low
    digits = DIGITS - math.floor(math.log10(size)) if size else 0
    # Rounding must not lead out of the domain.
    return min(domain.high, max(domain.low, round(value, digits)))


def gene_of(domain: Domain, value: Value) -> float:
    """Where the value lies: the middle of its share, so that `value_at` gives it back."""
    match domain:
        case FloatDomain(low=low, high=high) if low == high:
            return ABSENT
        case FloatDomain(low=low, high=high, log=log):
            assert isinstance(value, int | float), value
            return math.log(value / low) / math.log(high / low) if log else (value - low) / (high - low)
        case IntDomain(low=low, high=high, log=True):
            assert isinstance(value, int), value
            first, last = math.log(low - 0.5), math.log(high + 0.5)
            return (math.log(value) - first) / (last - first)
    return (position(domain, value) + 0.5) / (size(domain) or 1)


def position(domain: Domain, value: Value) -> int:
    """The index of the value in a finite domain."""
    if isinstance(domain, IntDomain):
        assert isinstance(value, int), value
        return value - domain.low
    return next(
        index for index, item in enumerate(every_value(domain)) if item == value and type(item) is type(value)
    )


def unordered(domain: Domain) -> bool:
    """Whether nearness of two values says nothing."""
    return isinstance(domain, SetDomain | OrderDomain)


def _index(gene: float, count: int) -> int:
    return min(count - 1, int(gene * count))
