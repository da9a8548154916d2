"""Samplers: one contract that each of them keeps."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from optlang.plan.model import Plan
from optlang.search.recipe import resolve
from optlang.search.sampler import Asked, Sampler, Told
from optlang.search.space import Exhausted, Space

Make = Callable[..., Plan]
SAMPLERS = ["tpe { startup = 4 }", "nsga2 { population = 4 }", "random", "auto"]

STEPS = """
steps {
  repeat rounds in 0 .. 2 {
    prune   = channels { ratio in 10% .. 50% step 10%; scope in {layer, global} }
    recover = finetune { lr in 1e-4 .. 1e-2 log }
  }
  precision in { none; dynamic; static { samples in [64, 256] } }
}
forbid precision == dynamic and rounds >= 1 because "no"
"""
SMALL = """
steps {
  maybe channels { ratio in [20%, 40%] }
  precision in { none; static { samples in [64, 256] } }
}
forbid precision == none and not channels because "that is the baseline"
"""


class Search:
    """A search with made-up but repeatable results."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.space, self.known = plan, Space(plan), set[str]()
        self.sampler = Sampler(plan, self.space, self.known)
        self.told: list[Told] = []

    def ask(self) -> Asked:
        return self.sampler.ask(len(self.told))

    def step(self, *, failing: str | None = None) -> Asked:
        """Asks and tells; every trial on the runtime `failing` fails."""
        asked = self.ask()
        fails = failing is not None and asked.point["here.runtime"] == failing
        recipe = resolve(self.plan, asked.point)
        self.known.add(recipe.effect)
        made_up = random.Random(recipe.effect)
        values = None if fails else [made_up.random() for _ in self.plan.objectives]
        told = Told(asked.point, values, [1.0] if fails else [made_up.random() - 0.8], asked.state)
        self.told.append(told)
        self.sampler.tell(told)
        return asked

    def resumed(self) -> Search:
        """The same search in another process: all it knows is what it was told."""
        other = Search(self.plan)
        other.known |= self.known
        for told in self.told:
            other.sampler.recall(told)
        other.told = list(self.told)
        return other


@pytest.mark.parametrize("sampler", SAMPLERS)
class TestContract:
    def test_points_are_in_the_space_and_never_twice(self, plan_of: Make, sampler: str) -> None:
        search = Search(plan_of(STEPS, search=f"sampler = {sampler}; trials = 20; seed = 3"))
        effects = []
        for _ in range(20):
            asked = search.step()
            assert search.space.contains(asked.point)
            effects.append(resolve(search.plan, asked.point).effect)
        assert len(set(effects)) == 20

    def test_a_finite_space_is_drawn_whole_and_then_exhausted(self, plan_of: Make, sampler: str) -> None:
        search = Search(plan_of(SMALL, search=f"sampler = {sampler}; trials = 20; seed = 3"))
        size = search.space.size()
        # eager: 2 ways of channels; the others: 3 · 3 less the forbidden one
        assert (size.points, size.exact) == (2 + 2 * 8, True)
        for _ in range(size.points):
            search.step()
        with pytest.raises(Exhausted):
            search.ask()

    def test_a_resumed_search_goes_on_with_the_same_draws(self, plan_of: Make, sampler: str) -> None:
        search = Search(plan_of(STEPS, search=f"sampler = {sampler}; trials = 20; seed = 3"))
        for _ in range(9):
            search.step()
        other = search.resumed()
        assert [search.step().point for _ in range(4)] == [other.step().point for _ in range(4)]

    def test_same_seed_same_draws_another_seed_others(self, plan_of: Make, sampler: str) -> None:
        def draws(seed: int) -> list[object]:
            search = Search(plan_of(STEPS, search=f"sampler = {sampler}; trials = 20; seed = {seed}"))
            return [search.step().point for _ in range(6)]

        assert draws(1) == draws(1) != draws(2)

    def test_points_of_a_runtime_that_is_gone_are_passed_over(self, plan_of: Make, sampler: str) -> None:
        search = Search(plan_of(STEPS, search=f"sampler = {sampler}; trials = 20; seed = 3"))
        for _ in range(8):
            search.step()
        narrowed = Sampler(search.plan, Space(search.plan, {"here.runtime.onnxruntime": "gone"}), search.known)
        for told in search.told:
            narrowed.recall(told)
        assert narrowed.ask(8).point["here.runtime"] != "onnxruntime"


@pytest.mark.slow
def test_tpe_stays_out_of_a_corner_that_fails(plan_of: Make) -> None:
    def failures(sampler: str, seed: int) -> int:
        search = Search(plan_of(STEPS, search=f"sampler = {sampler}; trials = 60; seed = {seed}"))
        return sum(search.step(failing="openvino").point["here.runtime"] == "openvino" for _ in range(60))

    taught, blind = (sum(failures(name, seed) for seed in (5, 6, 7)) for name in ("tpe { startup = 8 }", "random"))
    assert taught < 0.6 * blind
