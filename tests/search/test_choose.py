"""What `auto` stands for, and why."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from optlang.plan.model import Plan
from optlang.search.choose import Chosen, chosen, screened

Make = Callable[..., Plan]

FINITE = "steps { maybe channels { ratio in [20%, 40%] } }"
CONTINUOUS = "steps { maybe channels { ratio in 20% .. 40% } }"
FOUR = "minimize latency, size, macs\n  maximize accuracy"


@pytest.mark.parametrize(("steps", "search", "goals", "expected"), [
    (FINITE, "trials = 9", "minimize size", Chosen("grid", "the space has 9 points: all are tried")),
    (FINITE, "trials = 8", "minimize size", Chosen("tpe", "of 8 trials it learns most")),
    (FINITE, "trials = 9; timeout = 1h", "minimize size", Chosen("tpe", "of 9 trials it learns most")),
    (FINITE, "timeout = 1h", "minimize size", Chosen(
        "tpe", "the time alone ends the search, and TPE learns from few trials"
    )),
    (CONTINUOUS, "trials = 1000", "minimize size", Chosen("tpe", "of 1,000 trials it learns most")),
    (CONTINUOUS, "trials = 1001", "minimize size", Chosen(
        "nsga2", "1,001 trials are more than 1,000, with which TPE takes long to draw"
    )),
    (CONTINUOUS, "trials = 1001", FOUR, Chosen(
        "nsga3", "1,001 trials are more than 1,000, with which TPE takes long to draw, and 4 goals are more than 3"
    )),
    (FINITE, "trials = 9; sampler = random", "minimize size", Chosen("random")),
])
def test_it_goes_by_the_space_the_budget_and_the_goals(
    plan_of: Make, steps: str, search: str, goals: str, expected: Chosen
) -> None:
    assert chosen(plan_of(steps, search=search, goals=goals)) == expected


@pytest.mark.parametrize(("steps", "search", "expected"), [
    ("steps { maybe finetune { lr in 1e-4 .. 1e-2 log } }", "trials = 9", True),
    ("steps { maybe finetune { lr in 1e-4 .. 1e-2 log } }", "trials = 9; screening = off", False),
    ("steps { maybe finetune { lr in 1e-4 .. 1e-2 log } }", "trials = 9; screening = 1", False),
    ("steps { maybe finetune { lr in 1e-4 .. 1e-2 log } }", "trials = 9; sampler = random", False),
    (FINITE, "trials = 8", False),
])
def test_points_are_screened_where_something_is_trained(
    plan_of: Make, steps: str, search: str, expected: bool
) -> None:
    assert screened(plan_of(steps, search=search)) is expected
