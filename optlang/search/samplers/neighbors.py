"""Random points, and points near others: one knob changed, as SMAC's local search walks (Hutter et al., 2011)."""

from __future__ import annotations

from random import Random

from optlang.plan.domains import size
from optlang.plan.model import Knob, Plan
from optlang.search.samplers.encoding import genes_of, point_of, unordered, value_at
from optlang.space.recipe import Point
from optlang.space.space import Exhausted, Space

STEP = 0.2
"""How far a neighbor lies along an ordered domain (standard deviation; SMAC's)."""


def uniform(space: Space, random: Random) -> Point:
    """A random point, which may be forbidden; raises Exhausted as `Space.draw` does."""
    return space.draw(lambda knob, domain: value_at(domain, random.random()))


def drawn(space: Space, random: Random) -> Point | None:
    """A random point, which may be forbidden; None where this draw is none."""
    try:
        return uniform(space, random)
    except Exhausted:
        return None


def changed(plan: Plan, space: Space, point: Point, random: Random) -> Point | None:
    """The point with one of its knobs changed, which may be forbidden; what appears with that is drawn at random.

    None where this draw is none.
    """
    there = [knob for knob in plan.knobs if knob.path in point and size(knob.domain) != 1]
    if not there:
        return None
    genes = genes_of(plan.knobs, point, {knob.path: random.random() for knob in plan.knobs})
    knob = random.choice(there)
    genes[knob.path] = moved(knob, genes[knob.path], random)
    try:
        near = point_of(space, genes)
    except Exhausted:
        return None
    return near if near != point else None


def moved(knob: Knob, gene: float, random: Random) -> float:
    """Another gene: any other value of an unordered knob, a near one of an ordered knob."""
    count = size(knob.domain)
    if count is None:
        return min(1.0, max(0.0, random.gauss(gene, STEP)))
    index = min(count - 1, int(gene * count))
    others = [other for other in range(count) if other != index] if count <= 10_000 else [random.randrange(count)]
    if not unordered(knob.domain):
        aim = round(random.gauss(index, max(1.0, STEP * count)))
        others = [min(count - 1, max(0, aim if aim != index else index + random.choice((-1, 1))))]
    return (random.choice(others) + 0.5) / count
