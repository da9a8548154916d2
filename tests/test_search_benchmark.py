"""What benchmarks/search.py replays: the recorded trials still belong to their study, and few are wrongly stopped."""

from __future__ import annotations

import random
from types import ModuleType

import pytest

from tests.benchmark_files import loaded


@pytest.fixture(scope="module")
def stopping() -> ModuleType:
    return loaded("search/stopping")


def test_of_the_trials_that_are_stopped_few_would_be_in_the_front(stopping: ModuleType) -> None:
    plan, trials = stopping.recorded()
    searched = [number for number, trial in trials.items() if trial.origin == "sampler"]
    assert len(searched) >= 36
    draw = random.Random(1)
    found = [stopping.replay(plan, trials, draw.sample(searched, len(searched))) for _ in range(20)]
    stopped, wrong = sum(len(item.stopped) for item in found), sum(item.wrong for item in found)
    assert wrong <= 0.02 * stopped
    assert sum(item.saved(trials) for item in found) / len(found) >= 0.08
