"""What `plan` says of a run's time, from stored trials of given durations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from optlang.plan.model import Plan
from optlang.plan.quantities import in_seconds
from optlang.run.how_long import PastRun, past_run, said
from optlang.search.ablation import ablation_trials
from optlang.space.space import Space
from optlang.store.writer import Writer
from tests.store.example_study import at, end, finish, measurement, session, start

Make = Callable[..., Plan]
STEPS = "steps { maybe finetune { epochs in [2, 4] }; maybe static }"
TARGET = "target here { runtime = onnxruntime }"


def step(technique: str, seconds: float, *, cached: bool = False) -> dict[str, Any]:
    path = technique.rpartition(".")[2]
    return {"path": path, "technique": technique, "key": "k", "cached": cached, "seconds": seconds, "started": at(0.0)}


def record(store: Writer, plan: Plan, run: str = "a", *, number: int = 0, cached: bool = False) -> None:
    """The baseline for 5 s, three rungs, three searched trials, one of them with a training, and 900 − 20.5 s."""
    store.record(session(run, number, plan))
    rows: list[tuple[str, float, Sequence[tuple[str, int, float]]]] = [
        ("baseline", 5.0, ()),
        ("ladder", 2.0, ()),
        ("ladder", 22.0, (("training.finetune", 2, 20.0),)),
        ("ladder", 3.0, (("quant.static", 0, 1.0),)),
        ("sampler", 2.0, ()),
        ("sampler", 42.0, (("training.finetune", 4, 40.0),)),
        ("sampler", 4.0, ()),
    ]
    for trial, (origin, seconds, done) in enumerate(rows):
        planned = [
            {"path": name.rpartition(".")[2], "technique": name, "settings": {"epochs": epochs} if epochs else {}}
            for name, epochs, _ in done
        ]
        store.record(start(run, trial, number=number, origin=origin, runtime="onnxruntime", steps=planned))
        spent = sum(took for *_, took in done) if cached else 0.0
        store.record(end(
            run, trial, measurements=[measurement("size", 100.0)], seconds=seconds - spent,
            steps=[step(name, 0.0 if cached else took, cached=cached) for name, _, took in done],
        ))
    store.record(finish(run, number))


def recipes(plan: Plan) -> list[Any]:
    return [rung.recipe for rung in ablation_trials(plan, Space(plan), {})]


def test_the_newest_run_of_the_same_model_and_data_says_how_long(plan_of: Make, tmp_path: Path) -> None:
    plan, db = plan_of(STEPS, target=TARGET), tmp_path / "x.duckdb"
    assert past_run(plan, db) is None
    with Writer(db) as store:
        record(store, plan)
    past = past_run(plan, db)
    assert past is not None
    assert (past.run, past.own, len(past.trials)) == ("a", True, 7)
    assert past.end == 900.0 - (3.0 * 6 + 2.5), "from the end of the last trial to that of the session"
    assert past_run(plan.model_copy(update={"data": plan.data.model_copy(update={"calls": "mine.other"})}), db) is None


def test_it_is_said_part_by_part(plan_of: Make, tmp_path: Path) -> None:
    plan, db = plan_of(STEPS, target=TARGET), tmp_path / "x.duckdb"
    with Writer(db) as store:
        record(store, plan)
    past = past_run(plan, db)
    assert past is not None
    rungs = recipes(plan)
    assert len(rungs) == 3
    lines = said(plan, PastRun("a", True, past.trials, 10.0), rungs, 10)
    # Without their steps they took 14 s / 6 on average; an epoch of finetune took 10 s.
    epochs = next(step.settings["epochs"] for rung in rungs for step in rung.steps if "epochs" in step.settings)
    assert isinstance(epochs, int)
    ladder = 3 * 14 / 6 + 10.0 * epochs + 1.0
    assert lines == [
        "how long",
        f"  about {in_seconds(5.0 + ladder + 160.0 + 10.0)} in all",
        "  the baseline 5.00 s",
        f"  3 trials of one technique alone about {in_seconds(ladder)}",
        "  10 searched trials about 3 min",
        "  measuring the best again 10.0 s",
        "  as 7 trials of run a took, with nothing in the cache",
    ]


def test_a_run_that_found_all_in_the_cache_does_not_make_trainings_free(plan_of: Make, tmp_path: Path) -> None:
    plan, db = plan_of(STEPS, target=TARGET), tmp_path / "x.duckdb"
    with Writer(db) as store:
        record(store, plan, cached=True)
    past = past_run(plan, db)
    assert past is not None
    lines = said(plan, past, recipes(plan), 10)
    assert "at least" in lines[1], "no training was timed"


def test_a_time_says_how_many_trials_fit_in(plan_of: Make, tmp_path: Path) -> None:
    plan, db = plan_of(STEPS, target=TARGET, search="timeout = 10min"), tmp_path / "x.duckdb"
    with Writer(db) as store:
        record(store, plan)
    past = past_run(plan, db)
    assert past is not None
    known = PastRun(past.run, True, past.trials, 10.0)
    lines = said(plan, known, [], None)
    # 600 s less 5 s and 10 s; a searched trial takes 16 s on average.
    assert lines[1:3] == ["  10 min in all", "  time for about 36 searched trials, each about 16.0 s"]
    assert said(plan, known, [], 2)[1] == "  about 47.0 s in all", "fewer points than there is time for"


def test_another_studys_search_says_nothing_of_this_ones(plan_of: Make, tmp_path: Path) -> None:
    plan, db = plan_of(STEPS, target=TARGET), tmp_path / "x.duckdb"
    with Writer(db) as store:
        record(store, plan.model_copy(update={"study": "other"}))
    past = past_run(plan, db)
    assert past is not None
    assert not past.own
    lines = said(plan, PastRun("a", False, past.trials, 10.0), [], 10)
    assert lines[1] == "  at least 35.0 s in all"
    assert "of another study" in lines[-1]
