"""Clashes that are too many to list beforehand, or hang on a continuous knob, are refused as the points are drawn."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from optlang.plan.domains import every_value
from optlang.plan.expressions import Value
from optlang.plan.model import Domain, FloatDomain, Knob, Plan
from optlang.search.sampler import Sampler
from optlang.space.combinations import ruled_out
from optlang.space.compatibility import incompatibility
from optlang.space.feasibility import listed
from optlang.space.recipe import Point
from optlang.space.space import Space

MAYBES = [f"m{number}" for number in range(18)]
STUDIES = {
    "many": (
        "steps { " + "; ".join(f"maybe {label} = channels" for label in MAYBES)
        + f"; maybe q = static when {' or '.join(MAYBES)}; maybe late = finetune }}"
    ),
    "a step": "steps { channels { ratio in 10% .. 50% }; maybe q = static when ratio > 30%; maybe late = finetune }",
    "a choice": (
        "steps { channels { ratio in 10% .. 50% }; "
        "when ratio > 30% { precision in { none; q = static } }; maybe late = finetune }"
    ),
}


def drawn(space: Space, seed: int) -> Point:
    random = Random(seed)

    def ask(knob: Knob, domain: Domain) -> Value:
        if isinstance(domain, FloatDomain):
            return random.uniform(domain.low, domain.high)
        return random.choice(list(every_value(domain)))

    return space.draw(ask)


@pytest.mark.parametrize("name", STUDIES)
def test_what_is_not_listed_is_refused_at_the_draw(name: str, plan_of: Callable[..., Plan]) -> None:
    plan = plan_of(STUDIES[name])
    assert not listed(plan)
    space = Space(plan)
    assert not space.size().exact
    points = [drawn(space, seed) for seed in range(150)]
    clashes = [point for point in points if not ruled_out(point, plan.impossible) and incompatibility(plan, point)]
    assert clashes
    for point in points:
        assert space.contains(point) is (incompatibility(plan, point) is None), point
    assert {space.forbidden(point) for point in clashes} <= {
        "late takes a PyTorch module; q leaves an ONNX file", "eager runs a PyTorch module; q leaves an ONNX file",
        "finetune comes before q", "q comes after late; here it runs before it",
    }


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2", "qmc"])
def test_a_sampler_never_draws_a_clash_and_goes_on(name: str, sampler: str, plan_of: Callable[..., Plan]) -> None:
    plan = plan_of(STUDIES[name], search=f"sampler = {sampler}; trials = 10; seed = 1")
    search = Sampler(plan, Space(plan), set())
    for number in range(20):
        assert incompatibility(plan, search.ask(number).point) is None


def test_where_all_is_listed_nothing_is_asked_again(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of("steps { maybe channels; precision in { none; static; dynamic }; maybe late = finetune }")
    assert listed(plan)
    assert Space(plan).size().exact
