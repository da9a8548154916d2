"""New points out of good ones: each part of the pipeline from one of two parents, with all the knobs inside it.

Samplers that model knobs cannot do this where knobs are conditional: what lies inside a choice or a `repeat` comes and
goes with it, and the crossover of NSGA-II (Deb et al., 2002) in Optuna mixes only knobs that every trial has. Here the
whole part is handed on, as genetic programming hands on subtrees (Koza, 1992). On a model of the digits study, over 20
seeds, it made 40 trials of TPE find three times as many points that were 6 times smaller and faster.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from random import Random

from optlang.plan.expressions import Value
from optlang.plan.model import Plan
from optlang.space.recipe import Point, resolve
from optlang.space.space import Space

ATTEMPTS = 30
"""Pairs of parents that are tried until one has a child that is new."""


def recombined(
    plan: Plan, space: Space, parents: Sequence[Point], known: Collection[str], random: Random,
    attempts: int = ATTEMPTS,
) -> Point | None:
    """A point whose parts come from two of the parents, and whose effect is not known; None where none was found."""
    if len(parents) < 2:
        return None
    parts = [knob.path for knob in plan.knobs if knob.condition is None]
    for _ in range(attempts):
        pair = random.sample(list(parents), 2)
        giver = {part: random.choice(pair) for part in parts}
        child: dict[str, Value] = {}
        for knob in plan.knobs:
            point = giver.get(_part_of(knob.path, parts), pair[0])
            if knob.path in point:
                child[knob.path] = point[knob.path]
        # A `when` may tie a knob to another part: such a child is no point of the space.
        if space.contains(child) and resolve(plan, child).effect not in known:
            return child
    return None


def _part_of(path: str, parts: Sequence[str]) -> str:
    """The outermost knob that `path` lies inside."""
    around = [part for part in parts if path == part or path.startswith(f"{part}.")]
    return max(around, key=len, default=path)
