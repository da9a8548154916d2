"""What benchmarks/search.py replays: the recorded trials still belong to their study, and few are wrongly stopped."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def stopping() -> ModuleType:
    spec = importlib.util.spec_from_file_location("stopping_replay", ROOT / "benchmarks" / "search" / "stopping.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_of_the_trials_that_are_stopped_few_would_be_in_the_front(stopping: ModuleType) -> None:
    plan, trials = stopping.recorded()
    searched = [number for number, trial in trials.items() if trial.origin == "sampler"]
    assert len(searched) >= 36
    draw = random.Random(1)
    found = [stopping.replay(plan, trials, draw.sample(searched, len(searched))) for _ in range(20)]
    stopped, wrong = sum(len(item.stopped) for item in found), sum(item.wrong for item in found)
    assert wrong <= 0.02 * stopped
    assert sum(item.saved(trials) for item in found) / len(found) >= 0.08
