"""How long trials will take, from given durations of those before: nothing is run, no clock is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from optlang.interfaces import TargetSpec
from optlang.plan.model import Plan
from optlang.run.forecast import Estimate, Forecast, PastStep, PastTrial, trained
from optlang.space.recipe import Applied, Place, Recipe

Make = Callable[..., Plan]
STEPS = "steps { maybe channels { ratio in [20%, 40%] }; maybe finetune { epochs in [2, 4] }; maybe static }"


def recipe(*steps: tuple[str, int], runtime: str = "onnxruntime") -> Recipe:
    applied = tuple(Applied(name, name, {"epochs": epochs} if epochs else {}) for name, epochs in steps)
    return Recipe(applied, (Place(TargetSpec("here"), runtime, runtime),))


def past(
    origin: str, seconds: float, *steps: tuple[str, int, float | None], runtime: str = "onnxruntime"
) -> PastTrial:
    """A trial whose steps are name, epochs and seconds (None: the result was in the cache)."""
    done = tuple(
        PastStep(name, {"epochs": epochs} if epochs else {}, took is None, took or 0.0) for name, epochs, took in steps
    )
    return PastTrial(origin, runtime, seconds, done)


@pytest.fixture
def forecast(plan_of: Make) -> Forecast:
    return Forecast(plan_of(STEPS))


def test_nothing_is_known_of_the_first_trials(forecast: Forecast) -> None:
    assert forecast.ladder([recipe()]) == Estimate(0.0, whole=False)
    assert forecast.searched(5) == Estimate(0.0, whole=False)
    assert forecast.ladder([]) == forecast.searched(0) == Estimate(0.0)


def test_a_ladder_trial_is_its_steps_by_their_rates_with_the_rest_of_its_runtime(forecast: Forecast) -> None:
    forecast.add(past("baseline", 90.0, ("training.train", 8, 80.0), runtime="eager"))
    forecast.add(past("ladder", 2.0))
    forecast.add(past("ladder", 16.0, ("prune.channels", 0, 4.0), ("training.finetune", 2, 8.0)))
    # The rests are 2 and 4 s; channels took 4 s; an epoch of finetune 4 s.
    assert forecast.ladder([recipe(("prune.channels", 0), ("training.finetune", 3))]) == Estimate(3.0 + 12.0), (
        "channels is in the cache, three epochs are not"
    )
    assert forecast.ladder([recipe(("training.finetune", 2))]) == Estimate(3.0 + 8.0), "another model is trained"


def test_each_of_several_trials_is_taken_to_be_the_next(forecast: Forecast) -> None:
    assert forecast.each([recipe()]) == [0.0]
    forecast.add(past("ladder", 2.0))
    forecast.add(past("ladder", 16.0, ("prune.channels", 0, 4.0), ("training.finetune", 2, 8.0)))
    cut = ("prune.channels", 0)
    found = forecast.each([
        recipe(cut, ("training.finetune", 2)), recipe(cut, ("training.finetune", 3)),
        recipe(("training.finetune", 2)), recipe(runtime="openvino"), recipe(("quant.static", 0)),
    ])
    # What has not run costs what the others do: a runtime 3 s, a technique 4.
    assert found == [3.0, 3.0 + 12.0, 3.0 + 8.0, 3.0, 3.0 + 4.0]


def test_what_several_trials_of_the_ladder_train_is_counted_once(forecast: Forecast) -> None:
    forecast.add(past("ladder", 12.0, ("training.finetune", 1, 10.0)))
    twice = [recipe(("training.finetune", 4)), recipe(("training.finetune", 4), ("quant.static", 0))]
    forecast.add(past("ladder", 3.0, ("quant.static", 0, 1.0)))
    assert forecast.ladder(twice) == Estimate(2.0 + 40.0 + 2.0 + 1.0)


def test_what_needs_the_runtime_is_counted_once_a_runtime(forecast: Forecast) -> None:
    forecast.add(past("ladder", 5.0, ("quant.static", 0, 3.0)))
    forecast.add(past("ladder", 4.0, runtime="openvino"))
    assert forecast.ladder([recipe(("quant.static", 0), runtime="openvino")]) == Estimate(4.0 + 3.0)
    assert forecast.ladder([recipe(("quant.static", 0))]) == Estimate(2.0), "this one is in the cache"


def test_a_new_technique_or_runtime_takes_at_least_what_is_known(forecast: Forecast) -> None:
    forecast.add(past("ladder", 2.0))
    assert forecast.ladder([recipe(("prune.channels", 0))]) == Estimate(2.0, whole=False)
    assert forecast.ladder([recipe(runtime="openvino")]) == Estimate(2.0, whole=False)


def test_searched_trials_are_known_when_some_have_run_and_one_has_trained(forecast: Forecast) -> None:
    forecast.add(past("ladder", 12.0, ("training.finetune", 2, 10.0)))
    assert forecast.searched(10) == Estimate(20.0, whole=False), "at least what the ladder took without its training"
    for _ in range(3):
        forecast.add(past("sampler", 3.0, ("training.finetune", 2, None)))
    assert forecast.searched(10) == Estimate(20.0, whole=False), "none of them has trained"
    forecast.add(past("sampler", 23.0, ("training.finetune", 4, 20.0)))
    assert forecast.searched(10) == Estimate(80.0)
    assert forecast.one_searched() == 8.0


def test_without_a_training_in_the_study_some_trials_are_enough(plan_of: Make) -> None:
    forecast = Forecast(plan_of("steps { maybe static { samples in [64, 128] } }"))
    for seconds in (1.0, 2.0):
        forecast.add(past("sampler", seconds))
    assert forecast.searched(4) == Estimate(4.0, whole=False)
    forecast.add(past("sampler", 3.0))
    assert forecast.searched(4) == Estimate(8.0)


def test_a_fresh_run_has_to_train_what_was_in_the_cache(plan_of: Make) -> None:
    fresh = Forecast(plan_of(STEPS), fresh=True)
    fresh.add(past("ladder", 12.0, ("training.finetune", 2, 10.0)))
    # In the cache from an earlier run: 4 epochs of 5 s; the second one finds the result of the first.
    for _ in range(2):
        fresh.add(past("sampler", 2.0, ("training.finetune", 4, None)))
    fresh.add(past("sampler", 2.0, ("training.finetune", 2, None)))
    assert fresh.searched(3) == Estimate(2.0 + 20.0 + 2.0 + 2.0)
    assert fresh.ladder([recipe(("training.finetune", 2))]) == Estimate(2.0 + 10.0)


def test_a_trial_that_goes_on_costs_the_epochs_up_to_its_next_pause(forecast: Forecast) -> None:
    forecast.add(past("ladder", 16.0, ("prune.channels", 0, 4.0), ("training.finetune", 2, 8.0)))
    new = recipe(("graph.other", 0), ("training.finetune", 9), ("quant.static", 0))
    # An epoch takes 4 s, building and measuring too; what has not run yet is not known.
    assert forecast.going_on(new, 1, 3) == Estimate(8.0)
    assert forecast.going_on(new, 3, None) == Estimate(4.0 + 24.0, whole=False)
    assert forecast.going_on(new, 0, 1) == Estimate(4.0, whole=False)


def test_steps_up_to_a_pause(forecast: Forecast) -> None:
    steps = recipe(("a", 0), ("b", 3), ("c", 0), ("d", 6), ("e", 0)).steps

    def named(epochs: int, pause: int | None) -> list[tuple[str, int]]:
        return [(step.path, count) for step, count in trained(steps, epochs, pause)]

    assert named(0, 1) == [("a", 0), ("b", 1)]
    assert named(1, 3) == [("b", 2)]
    assert named(3, 4) == [("c", 0), ("d", 1)]
    assert named(4, None) == [("d", 5), ("e", 0)]
    assert named(0, None) == [("a", 0), ("b", 3), ("c", 0), ("d", 6), ("e", 0)]


def test_a_trial_that_paused_is_counted_once(forecast: Forecast) -> None:
    trial = past("sampler", 3.0, ("training.finetune", 4, 2.0))
    forecast.add(replace(trial, number=7, measured=False))
    forecast.add(replace(past("sampler", 9.0, ("training.finetune", 4, 6.0)), number=7))
    assert forecast.searched_trials == 1
    assert forecast.one_searched() == 9.0
