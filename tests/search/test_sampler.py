"""Samplers: one contract that each of them keeps."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
import torch

from optlang.interfaces import OptlangError
from optlang.plan.domains import every_value
from optlang.plan.model import Domain, FloatDomain, IntDomain, ListDomain, OrderDomain, Plan, SetDomain
from optlang.search.sampler import Observation, Sampler, Suggestion
from optlang.search.samplers.encoding import gene_of, value_at
from optlang.search.samplers.neighbors import changed
from optlang.space.recipe import resolve
from optlang.space.space import Exhausted, Space

Make = Callable[..., Plan]
GP = pytest.param("gp { startup = 4 }", marks=pytest.mark.slow)
SAMPLERS = [
    "tpe { startup = 4 }", GP, "nsga2 { population = 4 }", "nsga3 { population = 4 }", "qmc", "random", "auto",
]

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
        self.told: list[Observation] = []

    def ask(self) -> Suggestion:
        return self.sampler.ask(len(self.told))

    def step(self, *, failing: str | None = None) -> Suggestion:
        """Asks and tells; every trial on the runtime `failing` fails."""
        asked = self.ask()
        fails = failing is not None and asked.point["here.runtime"] == failing
        recipe = resolve(self.plan, asked.point)
        self.known.add(recipe.effect)
        made_up = random.Random(recipe.effect)
        values = None if fails else [made_up.random() for _ in self.plan.objectives]
        told = Observation(asked.point, values, [1.0] if fails else [made_up.random() - 0.8], asked.state)
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
        # On each runtime 3 · 3 less the forbidden one.
        assert (size.points, size.exact) == (3 * 8, True)
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


@pytest.mark.parametrize("sampler", [GP, "nsga2 { population = 4 }", "nsga3 { population = 4 }"])
@pytest.mark.parametrize("goals", ["minimize size", "minimize latency, size, macs\n  maximize accuracy"])
def test_one_objective_or_four(plan_of: Make, sampler: str, goals: str) -> None:
    search = Search(plan_of(STEPS, goals=goals, search=f"sampler = {sampler}; trials = 20; seed = 3"))
    for _ in range(14):
        assert search.space.contains(search.step().point)


@pytest.mark.parametrize("sampler", [
    pytest.param("gp { startup = 6 }", marks=pytest.mark.slow), "nsga2 { population = 6 }", "nsga3 { population = 6 }",
])
def test_what_fails_is_not_drawn_as_often_as_what_works(plan_of: Make, sampler: str) -> None:
    search = Search(plan_of(STEPS, search=f"sampler = {sampler}; trials = 40; seed = 3"))
    runtimes = [search.step(failing="openvino").point["here.runtime"] for _ in range(30)]
    assert runtimes[10:].count("openvino") <= 4


def test_optuna_and_torch_are_set_as_the_caller_wishes(plan_of: Make, capfd: pytest.CaptureFixture[str]) -> None:
    before = optuna.logging.get_verbosity(), torch.get_num_threads()
    for sampler in ("tpe { startup = 4 }", "gp { startup = 4 }", "nsga2 { population = 4 }"):
        search = Search(plan_of(STEPS, search=f"sampler = {sampler}; trials = 20; seed = 3"))
        for _ in range(6):
            search.step()
    assert (optuna.logging.get_verbosity(), torch.get_num_threads()) == before
    assert capfd.readouterr() == ("", "")


def test_an_optuna_with_another_gp_is_refused_by_name(plan_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    search = Search(plan_of(STEPS, search="sampler = gp { startup = 2 }; trials = 20; seed = 3"))
    for _ in range(3):
        search.step()
    monkeypatch.setattr(optuna.samplers.GPSampler, "sample_relative", lambda *_: {})
    with pytest.raises(OptlangError, match="changed GPSampler's acquisition interface") as caught:
        search.ask()
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (bound,) = (item for item in project["dependencies"] if item.startswith("optuna"))
    assert caught.value.help is not None
    assert bound in caught.value.help


class TestGrid:
    def test_every_point_once_in_an_order_of_the_seed(self, plan_of: Make) -> None:
        def drawn(seed: int) -> list[str]:
            search = Search(plan_of(SMALL, search=f"sampler = grid; trials = 20; seed = {seed}"))
            points = [search.space.explain(search.step().point) for _ in range(24)]
            with pytest.raises(Exhausted):
                search.ask()
            return points

        assert drawn(1) == drawn(1) != drawn(2)
        assert len(set(drawn(1))) == 24
        assert set(drawn(1)) == set(drawn(2))

    def test_a_resumed_grid_goes_on_where_it_was(self, plan_of: Make) -> None:
        search = Search(plan_of(SMALL, search="sampler = grid; trials = 20; seed = 3"))
        for _ in range(7):
            search.step()
        other = search.resumed()
        assert [search.step().point for _ in range(5)] == [other.step().point for _ in range(5)]

    def test_what_is_missing_here_moves_no_other_point(self, plan_of: Make) -> None:
        plan = plan_of(SMALL, search="sampler = grid; trials = 20; seed = 3")
        search = Search(plan)
        whole = [search.step().point for _ in range(24)]
        without = Sampler(plan, Space(plan, {"here.runtime.openvino": "gone"}), set())
        left = [point for point in whole if point["here.runtime"] != "openvino"]
        assert [without.ask(number).point for number in range(len(left))] == left

    def test_a_plan_that_no_checker_saw_is_refused(self, plan_of: Make) -> None:
        plan = plan_of(STEPS)
        grid = plan.search.model_copy(update={"sampler": plan.search.sampler.model_copy(update={"name": "grid"})})
        with pytest.raises(OptlangError, match="continuous"):
            Sampler(plan.model_copy(update={"search": grid}), Space(plan), set())


def test_points_are_those_that_the_space_counts(plan_of: Make) -> None:
    space = Space(plan_of(SMALL))
    points = list(space.points())
    assert len(points) == space.size().points == len({space.explain(point) for point in points})
    assert all(space.contains(point) for point in points)


def test_a_sequence_spreads_conditional_knobs_too(plan_of: Make) -> None:
    plan = plan_of("steps { maybe channels { ratio in 10% .. 50% } }", search="sampler = qmc; trials = 64; seed = 3")
    search = Search(plan)
    ratios = [point["channels.ratio"] for _ in range(64) if "channels.ratio" in (point := search.step().point)]
    counts = [sum(low <= float(str(ratio)) < low + 0.1 for ratio in ratios) for low in (0.1, 0.2, 0.3, 0.4)]
    # The points with `channels` that are new: half of 64, each quarter of the ratios with about a quarter of these.
    assert min(counts) >= 6


@pytest.mark.parametrize(
    "domain",
    [
        SetDomain(values=("layer", True, 3)), ListDomain(values=(0.1, 0.2, 0.5)), IntDomain(low=3, high=11),
        IntDomain(low=1, high=4096, log=True), OrderDomain(labels=("a", "b", "c")),
    ],
)
def test_genes_give_back_their_values(domain: Domain) -> None:
    for value in every_value(domain):
        assert value_at(domain, gene_of(domain, value)) == value
    assert {value_at(domain, gene) for gene in (0.0, 1.0)} <= set(every_value(domain))


@pytest.mark.parametrize("log", [False, True])
def test_genes_of_real_numbers(log: bool) -> None:
    domain = FloatDomain(low=1e-4, high=1e-1, log=log)
    for value in (1e-4, 3e-3, 1e-1):
        assert value_at(domain, gene_of(domain, value)) == pytest.approx(value)
    assert 1e-4 <= float(str(value_at(domain, 0.0))) <= float(str(value_at(domain, 1.0))) <= 1e-1


@pytest.mark.parametrize(
    "domain",
    [
        FloatDomain(low=1e-4, high=1e-2, log=True), FloatDomain(low=1e-6, high=1e3, log=True),
        FloatDomain(low=-1000, high=1000, log=False), FloatDomain(low=1e5, high=1e5 + 1, log=False),
    ],
)
def test_a_drawn_real_number_comes_back_exactly_from_its_gene(domain: FloatDomain) -> None:
    draws = random.Random(0)
    for _ in range(2000):
        value = value_at(domain, draws.random())
        assert value_at(domain, gene_of(domain, value)) == value


@pytest.mark.parametrize("sampler", ["tpe { startup = 4 }", "random", "qmc"])
def test_a_neighbor_differs_in_one_knob_only(plan_of: Make, sampler: str) -> None:
    """One whose rate differs in the last bits would be trained again, to the same figures."""
    steps = "steps { finetune { lr in 1e-4 .. 1e-2 log }; precision in { none; dynamic } }"
    plan = plan_of(steps, search=f"sampler = {sampler}")
    space = Space(plan)
    point = Sampler(plan, space, set()).ask(0).point
    draws = random.Random(0)
    rates = set()
    for _ in range(40):
        near = changed(plan, space, point, draws)
        if near is not None and near["precision"] != point["precision"]:
            rates.add(near["finetune.lr"])
            point = near
    assert rates == {point["finetune.lr"]}


@pytest.mark.slow
def test_tpe_stays_out_of_a_corner_that_fails(plan_of: Make) -> None:
    def failures(sampler: str, seed: int) -> int:
        search = Search(plan_of(STEPS, search=f"sampler = {sampler}; trials = 60; seed = {seed}"))
        return sum(search.step(failing="openvino").point["here.runtime"] == "openvino" for _ in range(60))

    taught, blind = (sum(failures(name, seed) for seed in (5, 6, 7)) for name in ("tpe { startup = 8 }", "random"))
    assert taught < 0.6 * blind
