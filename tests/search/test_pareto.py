"""Pareto dominance against comparing all pairs, and one front: the search's, the SQL view's and the report's."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from optlang.analysis.load import load
from optlang.interfaces import Measurement
from optlang.plan.model import Plan
from optlang.report.front import load_front
from optlang.run.history import History, TrialRecord
from optlang.run.job import Result
from optlang.search import pareto
from optlang.search.ablation import baseline_recipe
from optlang.space.recipe import resolve
from optlang.space.space import Space
from optlang.store.reader import connect
from optlang.store.writer import Writer
from tests.store.example_study import end, session, start

STUDY = """\
optlang 1

study {name} {{
  model net  = zoo.digits_cnn(width = 8)
  data  seen = zoo.digits(seed = 0)
  {targets}
  steps {{ finetune {{ epochs in 1 .. 30 }} }}
  {goals}
  search {{ trials = 10 }}
}}
"""
ONE = "target here { runtime = onnxruntime }"
TWO = "target a { runtime = onnxruntime }\n  target b { runtime = openvino }"
GOALS = {
    "one_goal": (ONE, "minimize size"),
    "a_ratio": (ONE, "minimize latency\n  require accuracy >= 50%"),
    "both_directions": (ONE, "minimize latency, size\n  maximize accuracy\n  require size <= 2 * baseline.size"),
    "more_is_better": (ONE, "maximize throughput, accuracy\n  minimize loss"),
    "the_worst_of_two_targets": (TWO, "minimize latency, size\n  maximize throughput\n  require latency.p95 <= 2s"),
    "each_of_two_targets": (TWO, "minimize a.latency, b.latency, a.size\n  maximize b.accuracy"),
}
METRICS = ("size", "latency.p50", "latency.p95", "throughput", "accuracy", "loss")
RELATIVE = ("latency.p50", "latency.p95", "throughput")


@given(st.dictionaries(st.integers(), st.tuples(*[st.integers(0, 4)] * 3), max_size=25))
def test_the_front_is_what_comparing_all_pairs_gives(points: dict[int, tuple[int, int, int]]) -> None:
    worse = {
        a for a, x in points.items() for b, y in points.items()
        if a != b and all(j <= i for i, j in zip(x, y, strict=True)) and x != y
    }
    assert pareto.front(points) == [key for key in points if key not in worse]


@cache
def plan_of(name: str) -> Plan:
    targets, goals = GOALS[name]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sample.opt"
        path.write_text(STUDY.format(name=name, targets=targets, goals=goals))
        found = load(path).plan
    assert found is not None
    return found


# Few values, so that trials tie; one that is missing, and some that are no number.
SOME = st.sampled_from([0.25, 0.5, 1.0, 3.0, 1e-3])
VALUE = st.one_of(SOME, SOME, SOME, SOME, SOME, SOME, SOME, st.sampled_from([None, math.nan, math.inf]))


def around(value: float) -> tuple[float, float]:
    """An interval that overlaps those of some of the other values."""
    width = 0.2 if value < 1 else 0.9
    return (1 - width) * value, (1 + width) * value


@st.composite
def trials(draw: st.DrawFn, targets: Sequence[str]) -> tuple[list[list[Measurement]], list[int]]:
    """The baseline's measurements, then each trial's; and which trials lie outside the space."""
    found = []
    for number in range(draw(st.integers(1, 14))):
        measurements = []
        for target in targets:
            for metric in METRICS:
                value = draw(VALUE if number else SOME)
                # The baseline is what the others are timed next to; some were timed alone.
                if value is not None:
                    relative = metric in RELATIVE and math.isfinite(value)
                    ratio = (draw(st.one_of(st.none(), SOME)) if number else 1.0) if relative else None
                    own = around(value) if metric != "size" and math.isfinite(value) else (value, value)
                    # Of equal ratios the intervals are equal: which of two targets is the worst does not matter then.
                    ends = around(ratio) if ratio not in (None, 0.5) else (None, None)
                    measurements.append(Measurement(metric, value, "", 1, *own, target, ratio, *ends))
        found.append(measurements)
    return found, draw(st.lists(st.integers(1, 14), max_size=3))


def judged(plan: Plan, measured: Sequence[Sequence[Measurement]], outside: Sequence[int]) -> tuple[
    History, list[TrialRecord]
]:
    history = History(plan, Space(plan), (), Path.cwd())
    baseline = baseline_recipe(plan)
    records = [history.add(0, baseline, "baseline", None, None, Result(measurements=tuple(measured[0])), {})]
    for number, measurements in enumerate(measured[1:], start=1):
        point = {"finetune.epochs": number}
        inside = number not in outside
        records.append(history.add(
            number, resolve(plan, point), "sampler" if inside else "ladder", point if inside else None,
            None if inside else "training.finetune", Result(measurements=tuple(measurements)), {},
        ))
    return history, records


def events(plan: Plan, records: Sequence[TrialRecord]) -> list[Mapping[str, Any]]:
    run = plan.study
    found: list[Mapping[str, Any]] = [session(run, plan=plan)]
    for item in records:
        point = None if item.point is None else dict(item.point)
        found.append(start(
            run, item.number, point, origin=item.origin, in_space=item.point is not None, alone=item.alone,
        ))
        found.append(end(
            run, item.number, item.state, [asdict(each) for each in item.measurements], reason=item.reason,
            violations=[asdict(each) for each in item.violations],
        ))
    return found


@settings(max_examples=6, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(st.data())
def test_search_view_and_report_name_the_same_front(data: st.DataObject) -> None:
    histories: dict[str, History] = {}
    with tempfile.TemporaryDirectory() as folder:
        db = Path(folder) / "x.duckdb"
        with Writer(db) as store:
            for name in GOALS:
                plan = plan_of(name)
                measured, outside = data.draw(trials([target.name for target in plan.targets]))
                histories[name], records = judged(plan, measured, outside)
                for event in events(plan, records):
                    store.record(event)
            store.sync(final=True)
            again = {
                name: History(plan, Space(plan), store.trials(name), Path(folder))
                for name, plan in zip(GOALS, map(plan_of, GOALS), strict=True)
            }
        reader = connect([db])
        rows = reader.query("SELECT run, trial, tie_of FROM front ORDER BY trial").rows
        shown = {name: sorted(member.trial for member in load_front(reader, name).members) for name in GOALS}
        reader.close()
    for name, history in histories.items():
        viewed = [trial for run, trial, tie in rows if run == name and tie is None]
        tied = {trial: tie for run, trial, tie in rows if run == name and tie is not None}
        assert (name, viewed) == (name, shown[name]) == (name, sorted(history.front()))
        assert (name, viewed) == (name, sorted(again[name].front()))
        assert (name, tied) == (name, history.ties()) == (name, again[name].ties())
