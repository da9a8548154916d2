"""What is kept up to date trial by trial is what all trials together give."""

from random import Random

from optlang.interfaces import Measurement
from optlang.run.standing import Standing
from optlang.search import pareto
from optlang.search.objectives import Measured
from tests.store.example_study import make_plan

PLAN = make_plan(objectives=[("latency.p50", "minimize"), ("size", "minimize"), ("accuracy", "maximize")])


def trial(draw: Random) -> Measured:
    times, accuracy = draw.choice([1.0, 1.5, 2.0, 3.0]), draw.choice([0.8, 0.9, 0.95])
    low, high = times * draw.choice([0.7, 0.99]), times * draw.choice([1.01, 1.4])
    found = [
        Measurement("latency.p50", 8 / times, "s", 5, 8 / high, 8 / low, "", times, low, high, 8.0),
        Measurement("size", draw.choice([1000.0, 1004.0, 1500.0]), "B", 1, 0.0, 0.0),
        Measurement("accuracy", accuracy, "ratio", 100, accuracy - 0.02, accuracy + 0.02),
    ]
    return {(None, item.metric): item for item in found}


def test_a_trial_more_changes_what_all_together_would() -> None:
    draw = Random(0)
    baseline = trial(draw)
    standing = Standing(PLAN, baseline)
    standing.add_baseline(0, baseline)
    trials: dict[int, Measured] = {}
    for number in range(1, 40):
        trials[number] = trial(draw)
        standing.add(number, trials[number], complete=number % 7 > 0)
        whole = Standing(PLAN, baseline)
        # The ends of all first: those that leave the front must be near it in whatever order they come.
        for other in sorted(trials, reverse=True):
            whole.add(other, trials[other], complete=other % 7 > 0)
        whole.add_baseline(0, baseline)
        assert sorted(standing.members) == sorted(whole.members) == sorted(pareto.front(standing.losses))
        assert standing.near(40) == whole.near(40)
        assert standing.kept == whole.kept
        assert standing.ties == whole.ties
        assert {key: standing.tied_with(key) for key in trials} == {key: standing.ties.get(key) for key in trials}
    assert standing.near(40)
    assert standing.ties
