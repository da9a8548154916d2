"""What passes between a search and the samplers that draw for it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from optlang.interfaces import JSON
from optlang.plan.expressions import Value
from optlang.space.recipe import Point

TRIES = 200
"""After so many draws in a row that must not or need not run, a space is called exhausted."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What became of a point.

    `values` are the objectives' (None: it failed, or was never measured), `violations` how far each conjunct of the
    requirements is from being met (at most 0: met). A failure that would come again has no values and a positive
    violation: that keeps the sampler out of such corners. `state` is what `Sampler.ask` gave with the point.
    """

    point: Point
    values: Sequence[float] | None
    violations: Sequence[float]
    state: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A point to try, with what the sampler needs back along with its result, also in a later process."""

    point: Point
    state: Mapping[str, JSON]


class SamplerBackend(Protocol):
    """One way to draw points. It may draw what must not run or was run: the search asks it again then.

    The same history and the same seed make it draw the same, in another process too. `tries` is after how many draws
    in a row that were refused the space is called exhausted.
    """

    tries: int

    def add(self, told: Observation) -> None:
        """Take in what became of a point, its own or another's."""

    def expect(self, points: Sequence[Point]) -> None:
        """These points, and no others, are being tried now: other draws keep away from them, where it knows how to."""

    def draw(self, seed: int, attempt: int) -> Suggestion:
        """The point of this attempt; raises `Exhausted` where there is none left."""

    def postpone(self, asked: Suggestion) -> None:
        """A point that it drew may run, but in another trial: it may be drawn again then."""

    def refuse(self, asked: Suggestion, *, forbidden: bool) -> bool:
        """A point that it drew will not run: it is forbidden, or was run. True if a later process must know."""


def seed_of(*parts: object) -> int:
    """A seed that follows from the parts."""
    text = ":".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def value_of(value: Any) -> Value:
    """A knob's value, of what JSON made of it: an order comes back as a tuple."""
    return tuple(value) if isinstance(value, list) else value


def count_of(settings: Mapping[str, Value], name: str, default: int) -> int:
    """A count among a sampler's settings."""
    value = settings.get(name)
    return value if isinstance(value, int) else default
