"""What the ladder shows to be hopeless: every sampler draws it less often, and a resumed search the same again."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import pytest

from optlang.plan.expressions import Value
from optlang.plan.model import Plan
from optlang.search.ablation import ablation_trials
from optlang.search.hopeless import FAR, Alone, Hopeless, LeftOut, hopeless
from optlang.search.sampler import Observation, Sampler, Suggestion
from optlang.space.recipe import Point, Recipe, resolve
from optlang.space.space import Exhausted, Space

Make = Callable[..., Plan]
ONE = "target here { runtime = onnxruntime }"
STEPS = """
steps {
  thin in {
    none
    slim = { channels { ratio in 10% .. 50% step 10% }; finetune { epochs in 1 .. 6; lr in [1e-3, 1e-2] } }
  }
  precision in { none; dynamic; static { samples in [64, 128, 256] } }
}
"""
SAMPLERS = [
    "tpe { startup = 4 }", pytest.param("gp { startup = 4 }", marks=pytest.mark.slow),
    "nsga2 { population = 4 }", "nsga3 { population = 4 }", "qmc", "random", "grid",
]


def shown(plan: Plan, missed: Mapping[str, float]) -> list[Hopeless]:
    """What a ladder shows that misses its only requirement by so much with these techniques, elsewhere by nothing."""
    return hopeless(plan, [Alone(0, "none", (), "eager", [0.0]), *(
        Alone(number, rung.alone, rung.recipe.steps, rung.recipe.label, [missed.get(rung.alone, 0.0)], "off")
        for number, rung in enumerate(ablation_trials(plan, Space(plan), {}), 1)
    )])


def at(plan: Plan, **values: Value) -> Recipe:
    """The recipe of the point with these values of knobs, dots for double underscores."""
    given = {name.replace("__", "."): value for name, value in values.items()}
    return resolve(plan, {"thin": "none", "precision": "none", **given})


def test_far_counts_and_only_what_the_technique_adds(plan_of: Make) -> None:
    plan = plan_of(STEPS, target=ONE)
    assert not shown(plan, {})
    assert not shown(plan, {"quant.static": FAR - 0.01})
    (found,) = shown(plan, {"quant.static": FAR})
    assert found.text == (
        "quant.static · onnxruntime is left out of three in four searched trials "
        "(at the settings of trial 4 or stronger ones): off"
    )
    # What the runtime misses without any step is none of the technique's doing.
    assert not shown(plan, {"none": 0.6, "quant.static": 0.7})
    assert len(shown(plan, {"none": 0.2, "quant.static": 0.6})) == 1
    assert not hopeless(plan, [Alone(1, "quant.static", (), "onnxruntime", [9.0])]), "the runtime alone is not known"


def test_settings_as_strong_as_those_that_were_tried_are_meant(plan_of: Make) -> None:
    plan = plan_of(STEPS, target=ONE)
    (static,) = shown(plan, {"quant.static": 1.0})
    assert static.has(plan, at(plan, precision="static", precision__static__samples=256))
    assert static.has(plan, at(plan, precision="static", precision__static__samples=64)), "fewer samples are no milder"
    assert not static.has(plan, at(plan, precision="dynamic"))
    (channels,) = shown(plan, {"prune.channels": 1.0})  # half of them, then 3 epochs

    def slim(ratio: float, epochs: int, precision: str = "none") -> Recipe:
        values = {"thin__slim__channels__ratio": ratio, "thin__slim__finetune__epochs": epochs}
        return at(plan, thin="slim", thin__slim__finetune__lr=1e-2, precision=precision, **values)

    assert channels.has(plan, slim(0.5, 3))
    assert channels.has(plan, slim(0.5, 1, "dynamic"))
    assert not channels.has(plan, slim(0.5, 4)), "a longer training may recover it"
    assert not channels.has(plan, slim(0.4, 3)), "a milder cut"
    # At the mildest cut of the space the whole technique is meant.
    mild = plan_of(STEPS.replace("10% .. 50% step 10%", "50% .. 90% step 10%"), target=ONE)
    (channels,) = shown(mild, {"prune.channels": 1.0})
    for ratio in (0.5, 0.7, 0.9):
        point = {"thin": "slim", "thin.slim.channels.ratio": ratio, "thin.slim.finetune.epochs": 2, "precision": "none"}
        assert channels.has(mild, resolve(mild, point | {"thin.slim.finetune.lr": 1e-3}))


def test_a_setting_without_a_direction_must_be_the_same(plan_of: Make) -> None:
    plan = plan_of("steps { maybe static { calibrator in {minmax, entropy} } }", target=ONE)
    (static,) = shown(plan, {"quant.static": 1.0})
    assert static.has(plan, resolve(plan, {"static": True, "static.calibrator": "minmax"}))
    assert not static.has(plan, resolve(plan, {"static": True, "static.calibrator": "entropy"}))


def test_weights_alone_are_the_same_on_every_runtime(plan_of: Make) -> None:
    plan = plan_of("steps { maybe magnitude { sparsity = 90% }; maybe finetune { epochs = 1 }; maybe static }")
    found = shown(plan, {"prune.magnitude": 1.0, "quant.static": 1.0})
    assert {(item.technique.name, item.runtime) for item in found} == {
        ("prune.magnitude", None), *(("quant.static", name) for name in ("eager", "onnxruntime", "openvino")),
    }
    (zeros,) = (item for item in found if item.runtime is None)
    point = {"magnitude": True, "finetune": False, "static": False}
    assert all(zeros.has(plan, resolve(plan, {"here.runtime": name, **point})) for name in ("onnxruntime", "openvino"))


class Search:
    """A search with made-up results, none of which meets the requirements unless `good` says so."""

    def __init__(self, plan: Plan, found: Sequence[Hopeless], good: Callable[[Recipe], bool] = lambda _: False) -> None:
        self.plan, self.found, self.good = plan, found, good
        self.known = set[str]()
        self.sampler = Sampler(plan, Space(plan), self.known, found)
        self.told: list[Observation] = []

    def step(self) -> Recipe:
        asked: Suggestion = self.sampler.ask(len(self.told))
        recipe = resolve(self.plan, asked.point)
        assert recipe.effect not in self.known
        self.known.add(recipe.effect)
        made_up = random.Random(recipe.effect)
        values = [made_up.random() for _ in self.plan.objectives]
        self.told.append(Observation(asked.point, values, [-1.0 if self.good(recipe) else 1.0], asked.state))
        self.sampler.tell(self.told[-1])
        return recipe

    def resumed(self) -> Search:
        other = Search(self.plan, self.found, self.good)
        other.known |= self.known
        for told in self.told:
            other.sampler.recall(told)
        other.told = list(self.told)
        return other


def static(recipe: Recipe) -> bool:
    return any(step.technique == "quant.static" for step in recipe.steps)


def study(plan_of: Make, sampler: str, steps: str = STEPS) -> Plan:
    return plan_of(steps, target=ONE, search=f"sampler = {sampler}; trials = 30; seed = 5")


@pytest.mark.parametrize("sampler", SAMPLERS)
class TestEverySampler:
    def test_it_is_left_out_of_most_trials(self, plan_of: Make, sampler: str) -> None:
        plan = study(plan_of, sampler)
        search = Search(plan, shown(plan, {"quant.static": 1.0}))
        left = LeftOut(plan, Space(plan), search.found)
        without = [bool(left.of(number)) for number in range(12)]
        assert 0 < without.count(False) < 6
        assert not any(static(search.step()) and out for out in without)

    def test_a_resumed_search_draws_the_same(self, plan_of: Make, sampler: str) -> None:
        plan = study(plan_of, sampler)
        search = Search(plan, shown(plan, {"quant.static": 1.0, "prune.channels": 1.0}))
        for _ in range(8):
            search.step()
        other = search.resumed()
        assert [search.step().effect for _ in range(3)] == [other.step().effect for _ in range(3)]

    def test_a_small_space_is_still_drawn_whole(self, plan_of: Make, sampler: str) -> None:
        plan = study(plan_of, sampler, "steps { precision in { none; dynamic; static { samples in [64, 256] } } }")
        search = Search(plan, shown(plan, {"quant.static": 1.0, "quant.dynamic": 1.0}))
        assert len({search.step().effect for _ in range(4)}) == Space(plan).size().points
        with pytest.raises(Exhausted):
            search.step()


def test_what_the_whole_space_has_is_never_left_out(plan_of: Make) -> None:
    plan = plan_of("steps { maybe finetune { epochs in 1 .. 9 }; static }", target=ONE)
    (found,) = shown(plan, {"quant.static": 1.0})
    left = LeftOut(plan, Space(plan), [found])
    assert not any(left.of(number) for number in range(40))
    # Two that share the space between them: never both at once.
    plan = plan_of("steps { maybe finetune { epochs in 1 .. 9 }; way in { dynamic; static } }", target=ONE)
    left = LeftOut(plan, Space(plan), shown(plan, {"quant.static": 1.0, "quant.dynamic": 1.0}))
    assert {len(left.of(number)) for number in range(80)} == {0, 1}


def test_one_trial_that_meets_all_requirements_ends_it(plan_of: Make) -> None:
    plan = study(plan_of, "random")
    (found,) = shown(plan, {"quant.static": 1.0})
    left = LeftOut(plan, Space(plan), [found])
    assert 20 < sum(bool(left.of(number)) for number in range(40)) < 38
    left.tell(at(plan, precision="dynamic"))
    assert any(left.of(number) for number in range(40))
    good: Point = {"precision.static.samples": 64}
    left.tell(at(plan, precision="static", **{key.replace(".", "__"): value for key, value in good.items()}))
    assert not any(left.of(number) for number in range(40))
