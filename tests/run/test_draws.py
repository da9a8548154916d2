"""The points of a run's search: what the screening is given of the store, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from optlang.plan.model import Plan
from optlang.run.draws import Draws
from optlang.run.history import History
from optlang.search.observation import Suggestion
from optlang.search.sampler import Sampler
from optlang.search.screening import STATE
from optlang.space.recipe import resolve
from optlang.space.space import Space
from optlang.store.writer import Writer
from tests.run.test_warm_start import MACHINE, figures
from tests.store.example_study import end, session, start

Make = Callable[..., Plan]

STEPS = """
steps {
  prune = channels { ratio in [10%, 20%, 30%, 40%, 50%] }
  recover = finetune { epochs in 1 .. 4; lr in 1e-4 .. 1e-2 log }
  precision in { none; dynamic }
}
"""
SEARCH = "sampler = tpe { startup = 2 }; trials = 40; seed = 3"


class Run:
    """A run whose trials are made up, each with its steps and seconds, as the scheduler records them."""

    def __init__(self, plan: Plan, store: Writer, folder: Path, pace: float = 1.0) -> None:
        self.plan, self.store, self.said, self.pace = plan, store, list[str](), pace
        self.history = History(plan, Space(plan), store.trials("r1"), folder)
        self.draws = Draws(
            plan, lambda: Sampler(plan, Space(plan), self.history.known), store, "r1", self.history.observations(),
            self.said.append,
        )

    def step(self) -> Suggestion:
        asked = self.draws.ask()
        number = self.store.next_trial("r1")
        for event in made_up(self.plan, number, asked, self.pace):
            self.store.record(event)
        self.history._keep(self.history._read(self.store.trial("r1", number)))
        self.draws.tell(number, self.history.observation(self.history.trial(number)))
        return asked


def made_up(plan: Plan, number: int, asked: Suggestion, pace: float) -> Iterator[dict[str, Any]]:
    recipe = resolve(plan, asked.point)
    steps = [{"path": step.path, "technique": step.technique, "settings": dict(step.settings)} for step in recipe.steps]
    yield start("r1", number, dict(asked.point), steps=steps, runtime=recipe.label)
    done = [
        {**step, "key": None, "cached": False, "seconds": 2.0 * (applied.epochs or 0.1) ** pace, "started": None}
        for step, applied in zip(steps, recipe.steps, strict=True)
    ]
    ratio = asked.point["prune.ratio"]
    assert isinstance(ratio, float)
    small = 0.4 if asked.point["precision"] == "dynamic" else 1.0
    yield end(
        "r1", number, measurements=figures(0.9 - 0.2 * ratio ** 2, 1000 * small * (1 - ratio), 1 / (1 - ratio)),
        steps=done, seconds=3.0 + sum(step["seconds"] for step in done), sampler_state=dict(asked.state),
    )


@pytest.fixture
def store(tmp_path: Path, plan_of: Make) -> Iterator[Writer]:
    with Writer(tmp_path / "x.duckdb") as store:
        store.record(session("r1", plan=plan_of(STEPS, search=SEARCH), machine=MACHINE))
        store.record(start("r1", 0))
        store.record(end("r1", 0, measurements=figures(0.9, 1000.0, 1.0)))
        yield store


def test_a_run_that_goes_on_chooses_as_it_would_have(plan_of: Make, store: Writer, tmp_path: Path) -> None:
    plan = plan_of(STEPS, search=SEARCH)
    run = Run(plan, store, tmp_path)
    states = [run.step().state.get(STATE) for _ in range(12)]
    assert any(states[8:]), "some were screened"
    # Another process knows what is stored, and nothing else.
    again = Run(plan, store, tmp_path)
    one, other = again.draws.ask(), run.draws.ask()
    assert (one.point, one.state.get(STATE)) == (other.point, other.state.get(STATE))
    summary = run.draws.summary()
    assert summary is not None
    assert "each among up to 16 points by the gain and the time that were expected" in summary


def test_without_a_goal_on_a_time_seconds_decide_nothing(plan_of: Make, tmp_path: Path) -> None:
    plan = plan_of(STEPS, search=SEARCH, goals="maximize accuracy\nminimize size")
    assert not plan.timed
    found = []
    for pace in (0.1, 3.0):
        with Writer(tmp_path / f"{pace}.duckdb") as store:
            store.record(session("r1", plan=plan, machine=MACHINE))
            store.record(start("r1", 0))
            store.record(end("r1", 0, measurements=figures(0.9, 1000.0, 1.0)))
            run = Run(plan, store, tmp_path, pace)
            asked = [run.step() for _ in range(16)]
        assert any("of" in item.state.get(STATE, {}) for item in asked), "some were screened"
        found.append([item.point for item in asked])
    assert found[0] == found[1]


def test_off_is_off(plan_of: Make, store: Writer, tmp_path: Path) -> None:
    run = Run(plan_of(STEPS, search=f"{SEARCH}; screening = off"), store, tmp_path)
    assert not any(STATE in run.step().state for _ in range(11))
    assert run.draws.summary() is None


def test_points_that_are_tried_at_the_same_time_are_different(plan_of: Make, store: Writer, tmp_path: Path) -> None:
    plan = plan_of(STEPS, search=SEARCH)
    run = Run(plan, store, tmp_path)
    for _ in range(10):
        run.step()
    known = set(run.history.known)
    draws = Draws(
        plan, lambda: Sampler(plan, Space(plan), known), store, "r1", run.history.observations(), run.said.append,
        lanes=3,
    )
    asked = []
    for _ in range(3):
        asked.append(draws.ask())
        known.add(resolve(plan, asked[-1].point).effect)
        store.record(start("r1", store.next_trial("r1"), point=dict(asked[-1].point)))
    assert len({resolve(plan, item.point).effect for item in asked}) == 3
    assert len(draws._sampler._draws._expected) == 2, "TPE knows of those that are tried"  # type: ignore[attr-defined]
    # One that ends before an earlier one costs nothing: nothing that was learned is thrown away.
    before = draws._sampler
    for number in (13, 12):
        draws.tell(number, None)
    draws.tell(11, run.history.observation(run.history.trial(10)))
    draws.ask()
    assert draws._sampler is before
