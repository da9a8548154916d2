"""Screening: which of several points is taken, and when the sampler's own is."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from optlang.plan.model import Plan
from optlang.search import screening
from optlang.search.observation import Observation, Suggestion
from optlang.search.sampler import Sampler
from optlang.search.screening import STATE, Costs, Screening, _improvements
from optlang.space.recipe import Recipe, resolve
from optlang.space.space import Space

Make = Callable[..., Plan]

STEPS = """
steps {
  repeat rounds in 0 .. 2 {
    prune   = channels { ratio in [10%, 20%, 30%, 40%, 50%]; scope in {layer, global} }
    recover = finetune { lr in 1e-4 .. 1e-2 log }
  }
  precision in { none; dynamic; static { samples in [64, 256] } }
}
"""


def one_second(recipes: Sequence[Recipe]) -> list[float]:
    return [1.0 for _ in recipes]


def figures(recipe: Recipe) -> list[float]:
    """Latency, size and accuracy that follow from the recipe."""
    kept = 1.0
    for step in recipe.steps:
        ratio = step.settings.get("ratio", 0.0)
        assert isinstance(ratio, float)
        kept *= 1 - ratio
    small = 0.3 if any("quant" in step.technique for step in recipe.steps) else 1.0
    speed = {"eager": 1.0, "onnxruntime": 0.5, "openvino": 0.4}[recipe.label]
    return [speed * kept, small * kept, 0.9 + 0.1 * kept ** 0.3 - (0.01 if small < 1 else 0)]


def noise(recipe: Recipe) -> list[float]:
    made_up = random.Random(recipe.effect)
    return [made_up.random(), made_up.random(), made_up.random()]


class Search:
    """A search with screening whose results follow from the point."""

    def __init__(
        self, plan: Plan, batch: int = 16, values: Callable[[Recipe], list[float]] = figures,
        seconds: Callable[[Sequence[Recipe]], list[float]] = one_second, *, trains: bool = True,
    ) -> None:
        self.plan, self.known, self.values, self.batch = plan, set[str](), values, batch
        self.sampler = Sampler(plan, Space(plan), self.known)
        costs = Costs(seconds, lambda recipe: trains, lambda recipe: None)
        self.screening = Screening(plan, self.sampler, costs, batch)
        self.told: list[Observation] = []

    def step(self) -> Suggestion:
        asked = self.screening.ask(len(self.told))
        recipe = resolve(self.plan, asked.point)
        assert recipe.effect not in self.known
        self.tell(Observation(asked.point, self.values(recipe), [], asked.state))
        return asked

    def tell(self, told: Observation) -> None:
        self.known.add(resolve(self.plan, told.point).effect)
        self.told.append(told)
        self.sampler.recall(told)
        self.screening.tell(told)


@pytest.fixture
def plan(plan_of: Make) -> Plan:
    return plan_of(STEPS, search="sampler = tpe { startup = 4 }; trials = 40; seed = 3")


def test_points_are_chosen_among_several_once_enough_is_known(plan: Plan) -> None:
    search = Search(plan)
    states = [search.step().state.get(STATE) for _ in range(20)]
    assert states[:8] == [None] * 8
    chosen = [state for state in states if isinstance(state, dict) and "of" in state]
    assert len(chosen) > 6
    assert max(state["of"] for state in chosen) == 16
    assert any(state["taken"] for state in chosen)


def test_a_search_that_goes_on_chooses_as_it_would_have(plan: Plan) -> None:
    search = Search(plan)
    for _ in range(12):
        search.step()
    other = Search(plan)
    for told in search.told:
        other.tell(told)
    assert [search.step().point for _ in range(3)] == [other.step().point for _ in range(3)]


@pytest.mark.parametrize("sampler", ["random", "qmc", "gp { startup = 40 }"])
def test_other_samplers_are_left_as_they_are(plan_of: Make, sampler: str) -> None:
    plan = plan_of(STEPS, search=f"sampler = {sampler}; trials = 40; seed = 3")
    screened, plain = Search(plan), Search(plan, batch=0)
    assert [screened.step().point for _ in range(11)] == [plain.step().point for _ in range(11)]


def test_genetic_algorithms_choose_among_their_own_children(plan_of: Make) -> None:
    search = Search(plan_of(STEPS, search="sampler = nsga2 { population = 4 }; trials = 40; seed = 3"))
    states = [search.step().state for _ in range(14)]
    assert any(STATE in state for state in states)
    assert all("generation" in state for state in states)


def test_what_trains_nothing_new_is_screened_every_other_time(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def screened(plan: Plan) -> list[int]:
        search = Search(plan, trains=False)
        return [number for number in range(24) if STATE in search.step().state]

    found = screened(plan)
    assert found
    assert all(number % 4 == 2 for number in found)
    monkeypatch.setattr(screening, "MANY", 12)
    assert screened(plan) == [number for number in found if number <= 12]


def test_a_study_that_never_trains_is_left_to_the_sampler(plan_of: Make) -> None:
    plan = plan_of("steps { precision in { none; dynamic; static { samples in 1 .. 200 } } }")
    search, plain = Search(plan, trains=False), Search(plan, batch=0)
    assert [search.step() for _ in range(14)] == [plain.step() for _ in range(14)]


def test_what_cannot_be_predicted_is_left_to_the_sampler(plan: Plan) -> None:
    search = Search(plan, values=noise)
    for number in range(30):
        asked = search.screening.ask(number)
        if asked.state.get(STATE) == {"predicted": False}:
            assert asked.point == search.sampler.ask(number).point
            return
        search.step()
    raise AssertionError("random figures were predicted")


def test_of_equal_gains_the_cheaper_is_taken(plan: Plan) -> None:
    def by_rounds(recipes: Sequence[Recipe]) -> list[float]:
        return [1.0 + 1000.0 * sum(step.epochs > 0 for step in recipe.steps) for recipe in recipes]

    usual, cheap = Search(plan), Search(plan, seconds=by_rounds)
    for search in (usual, cheap):
        for _ in range(24):
            search.step()
    rounds = [sum(int(str(told.point["rounds"])) for told in search.told[8:]) for search in (usual, cheap)]
    assert rounds[1] < rounds[0]


def test_a_gain_is_the_volume_that_is_added() -> None:
    front = [(0.0, 1.0), (1.0, 0.0)]
    losses = np.array([[[0.5, 0.5], [0.0, 1.0], [0.0, 0.0]]])
    gains = _improvements(front, losses, np.zeros((1, 3, 0)), 3)
    # The box reaches a tenth behind the front: 1.1 · 1.1, of which the front leaves 1.0 free.
    assert gains == pytest.approx([0.25 / 1.21, 0.0, 1.0 / 1.21], abs=0.01)
    assert _improvements(front, losses, np.ones((1, 3, 1)), 3) == [0.0, 0.0, 0.0]
    # What is being tried gains nothing twice, unless it is not expected to meet the requirements.
    tried = np.concatenate([losses, losses[:, np.argmax(gains)][:, None]], axis=1)
    again = _improvements(front, tried, np.zeros((1, 4, 0)), 3)
    assert again[int(np.argmax(gains))] == 0.0
    missed = np.array([[[-1.0], [-1.0], [-1.0], [1.0]]])
    assert _improvements(front, tried, missed, 3) == gains


