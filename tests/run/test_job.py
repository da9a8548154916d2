"""Jobs and results travel between processes as they are."""

from __future__ import annotations

import pickle
from pathlib import Path

from optlang.interfaces import Factory
from optlang.run.curves import Epoch
from optlang.run.job import Paused, Result, StepRun, TrialJob, Workload

WORKLOAD = Workload(Factory("mine.py:net"), Factory("mine.py:load"), Path("study"), Path("home"), "cpu")


def test_a_job_that_pauses_and_what_comes_back_travel_between_processes() -> None:
    job = TrialJob(3, WORKLOAD, (), judged=("accuracy",), pause=9)
    assert pickle.loads(pickle.dumps(job)) == job
    curve = (Epoch(9, 27, 0.5, "accuracy", 0.9, 4.5),)
    run = StepRun("fit", "training.train", None, None, 3.0, "2026-01-01T00:00:00+00:00", curve, resumed=3, earlier=1.5)
    result = Result(steps=(run,), paused=Paused(9, "fit", {"laptop": {"accuracy": 0.9}}))
    assert pickle.loads(pickle.dumps(result)) == result


def test_a_job_pauses_only_where_it_is_asked_to() -> None:
    assert TrialJob(3, WORKLOAD, ()).pause is None
    assert Result().paused is None
