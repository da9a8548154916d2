"""What a person sees while a run goes on: a line a trial, or a live picture."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from optlang.plan.expressions import Binary, MetricRef
from optlang.plan.model import Metric, Plan, Rule
from optlang.report.front import columns, named_metrics
from optlang.report.progress import LiveProgress, PlainProgress, outline, remaining
from optlang.report.trial_text import describe
from optlang.run.events import Comparison, RunStarted, TrialFinished, TrialStarted
from tests.store.example_study import METRICS, make_plan

ACCURACY = "accuracy 91.2 % is below the limit 98.3 % (baseline.accuracy - 1%) by 7.1 points"


def words(trial: TrialStarted) -> str:
    return describe(make_plan(), trial.number, trial.point, trial.runtime, trial.steps)


def shown(there: Collection[str]) -> Sequence[str]:
    return [name for name in ("size", "latency.p50", "accuracy", "edge_f1") if name in there]


def begun(trial: int, technique: str = "", origin: str = "sampler") -> TrialStarted:
    steps = [{"path": "x", "technique": technique, "settings": {}}] if technique else []
    return TrialStarted(trial, origin, {}, steps, "onnxruntime")


def figures(size: float, ratio: float, lost: float) -> dict[str, Comparison]:
    return {
        "accuracy": Comparison(0.993 - lost, "ratio", None, lost), "size": Comparison(size, "B", 83_353 / size),
        "latency.p50": Comparison(188e-6 / ratio, "s", ratio, None, 188e-6),
        "edge_f1": Comparison(0.8, "ratio", None, 0.05),
        "loss": Comparison(0.1, "", 1.0),
    }


def ended(trial: int, state: str = "complete", reason: str | None = None, **more: Any) -> TrialFinished:
    given: dict[str, Any] = {
        "origin": "sampler", "seconds": 2.5, "figures": figures(12_510, 9.4, 0.002), "front": (0, 1), "done": trial + 1,
        "total": 20, "seconds_left": 45.0,
    }
    return TrialFinished(trial, state=state, reason=reason, **(given | more))


def follow(progress: PlainProgress | LiveProgress) -> None:
    progress.run_started(RunStarted("digits", 9, 10, 0, 0))
    first = {name: Comparison(item.value, item.unit) for name, item in figures(83_353, 1.0, 0.0).items()}
    progress.trial_started(begun(0, origin="baseline"))
    progress.trial_finished(ended(0, figures=first, origin="baseline"))
    progress.trial_started(begun(1, "quant.static"))
    progress.trial_finished(ended(1))
    progress.trial_started(begun(2, "prune.channels"))
    progress.trial_finished(ended(2, "infeasible", ACCURACY, figures=figures(12_000, 8.0, 0.081)))
    progress.trial_started(begun(3, "quant.dynamic"))
    progress.trial_finished(ended(3, "failed", "the model has no linear layer", figures={}))
    progress.trial_started(begun(4, "quant.qat"))
    progress.progress({"doing": "qat", "epoch": 1, "epochs": 3, "loss": 0.25})


def test_a_log_has_a_head_and_a_line_a_trial_with_every_metric_that_the_study_is_about() -> None:
    stream = io.StringIO()
    follow(PlainProgress(stream, words, shown))
    assert stream.getvalue().splitlines() == [
        "digits: 10 trials to search, besides the baseline and 9 trials of a technique alone",
        " trial  size            latency.p50     accuracy        edge_f1         took     what it is "
        "(* in the front so far)",
        "*    0  83.4 kB         188 µs          99.3 %          80.0 %          2.50 s   baseline · onnxruntime"
        "  [19 left, about 45.0 s]",
        "        × of times is against the baseline timed next to the same trial, not against the row of trial 0",
        "*    1  12.5 kB ×6.7    20.0 µs ×9.4    99.1 % −0.2     80.0 % −5.0     2.50 s   static · onnxruntime"
        "  [18 left, about 45.0 s]",
        "     2  12.0 kB ×6.9    23.5 µs ×8.0    91.2 % −8.1     80.0 % −5.0     2.50 s   channels · onnxruntime"
        f"  infeasible: {ACCURACY}  [17 left, about 45.0 s]",
        "     3  –               –               –               –               2.50 s   dynamic · onnxruntime"
        "  failed: the model has no linear layer  [16 left, about 45.0 s]",
    ]


@pytest.mark.parametrize("width", [80, 160])
def test_the_live_view_has_the_front_and_what_was_missed(width: int) -> None:
    console = Console(file=io.StringIO(), width=width, height=60, force_terminal=True, color_system=None)
    live = LiveProgress(console, words, shown)
    follow(live)
    picture = Console(file=io.StringIO(), width=width)
    picture.print(live._live.renderable)
    live.close()
    assert isinstance(picture.file, io.StringIO)
    lines = picture.file.getvalue().splitlines()
    text = " ".join(" ".join(lines).split())
    assert max(map(len, lines)) <= width
    assert "4 of 20 trials" in text, "baseline and ladder count as the others do"
    assert "trial 4: qat · onnxruntime [qat · epoch 1/3 · loss 0.25]" in text
    assert "front size latency p50 accuracy edge_f1 what it is" in text
    assert "against the baseline timed next to the same trial" in text
    assert "1 12.5 kB ×6.7 20.0 µs ×9.4 99.1 % −0.2 80.0 % −5.0 static" in text
    assert "1 infeasible; 1 failed, the last:" in text
    assert f"2 channels · onnxruntime: infeasible: {ACCURACY}" in text
    assert "3 dynamic · onnxruntime: failed: the model has no linear layer" in text
    assert isinstance(console.file, io.StringIO)
    assert "trial 3 failed: the model has no linear layer" in console.file.getvalue(), "and stays above the picture"


@pytest.mark.parametrize(
    ("planned", "text"),
    [
        ((9, 6, 0, 0), "6 trials to search, besides the baseline and 9 trials of a technique alone"),
        ((1, 1, 0, 0), "1 trial to search, besides the baseline and 1 trial of a technique alone"),
        ((0, 6, 0, 0), "6 trials to search, after the baseline"),
        ((9, 0, 0, 0), "the baseline and 9 trials of a technique alone"),
        (
            (9, 6, 12, 2),
            "6 trials to search (2 done), besides the baseline and 9 trials of a technique alone; "
            "12 of these 16 are done",
        ),
    ],
)
def test_what_a_run_consists_of_is_said_first(planned: tuple[int, int, int, int], text: str) -> None:
    ladder, searched, done, drawn = planned
    assert outline(RunStarted("x", ladder, searched, done, drawn)) == text


def test_a_trial_that_is_paused_is_said_to_be() -> None:
    width = 120
    stream = io.StringIO()
    reason = "after epoch 1 of 9"
    live = LiveProgress(Console(file=io.StringIO(), width=width, height=60, force_terminal=True), words, shown)
    for progress in (PlainProgress(stream, words, shown), live):
        progress.run_started(RunStarted("digits", 0, 2, 0, 0))
        progress.trial_started(begun(0, origin="baseline"))
        progress.trial_finished(ended(0, origin="baseline", total=3))
        for number in (1, 2):
            progress.trial_started(begun(number, "quant.qat"))
            progress.trial_finished(ended(number, "paused", reason, figures={}, front=(0,), total=3, paused=number))
        progress.trial_started(replace(begun(1, "quant.qat"), resumed=1))
    assert stream.getvalue().splitlines()[-2:] == [
        "     1  –               –               –               –               2.50 s   qat · onnxruntime"
        "  paused: after epoch 1 of 9  [1 left, about 45.0 s]",
        "     2  –               –               –               –               2.50 s   qat · onnxruntime"
        "  paused: after epoch 1 of 9  [2 paused, about 45.0 s]",
    ]
    picture = Console(file=io.StringIO(), width=width)
    picture.print(live._live.renderable)
    live.close()
    assert isinstance(picture.file, io.StringIO)
    text = " ".join(picture.file.getvalue().split())
    assert "3 of 3 trials, 2 paused" in text
    assert "trial 1: qat · onnxruntime (goes on after epoch 1)" in text
    assert "paused: after" not in text, "it is nothing that went wrong"


def test_a_space_with_fewer_points_than_trials_is_said() -> None:
    assert outline(RunStarted("x", 4, 2, 5, 0, True)) == (
        "2 trials to search (the space has no more points), besides the baseline and 4 trials of a technique alone; "
        "5 of these 7 are done"
    )
    assert outline(RunStarted("x", 4, 0, 0, 0, True)) == (
        "the baseline and 4 trials of a technique alone (the space has no more points)"
    )


def test_goals_and_required_metrics_are_shown_the_tasks_own_among_them() -> None:
    own = [Metric(name=name, dimension="ratio", direction="maximize", task=True) for name in ("miou", "edge_f1")]

    def at_least(name: str) -> Binary:
        return Binary(operator=">=", left=MetricRef(metric=name), right=MetricRef(metric=name, baseline=True))

    def requiring(expression: Binary) -> Plan:
        plan = make_plan(objectives=[("latency.p50", "minimize"), ("miou", "maximize")], metrics=[*METRICS, *own])
        return plan.model_copy(update={"requires": (Rule(expression=expression, text=""),)})

    plan = requiring(Binary(operator="and", left=at_least("miou"), right=at_least("edge_f1")))
    assert named_metrics(plan) == ["latency.p50", "miou", "edge_f1"]
    there = ["edge_f1", "latency.p50", "latency.p95", "loss", "miou", "size"]
    assert columns(plan, there) == ("size", "latency.p50", "miou", "edge_f1")
    assert columns(plan, [*there, "accuracy"]) == ("size", "latency.p50", "accuracy", "miou", "edge_f1")
    plan = requiring(at_least("latency.p95"))
    assert columns(plan, there) == ("size", "latency.p50", "latency.p95", "miou"), "latencies stand together"
    assert columns(make_plan(metrics=METRICS), ["size", "loss"]) == ("size", "loss")


def test_a_search_that_time_ends_says_so() -> None:
    assert outline(RunStarted("x", 4, None, 0, 0, timeout=7200.0)) == (
        "trials to search, besides the baseline and 4 trials of a technique alone, for 2 h 00 min"
    )
    assert outline(RunStarted("x", 4, None, 12, 7, timeout=600.0)) == (
        "trials to search (7 done), besides the baseline and 4 trials of a technique alone, for another 10 min; "
        "12 are done"
    )
    assert outline(RunStarted("x", 0, 6, 0, 0, timeout=600.0)) == (
        "6 trials to search, after the baseline, in 10 min at most"
    )


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"seconds_left": None}, "18 left"), ({}, "18 left, about 45.0 s"),
        ({"at_least": True}, "18 left, at least 45.0 s"), ({"total": 2}, ""),
        ({"seconds_left": 0.0}, "18 left, time is up"), ({"total": None, "seconds_left": 0.0}, "time is up"),
        ({"total": None}, "about 45.0 s left"), ({"total": None, "seconds_left": None}, ""),
    ],
)
def test_what_is_left_is_said_as_far_as_it_is_known(more: dict[str, Any], text: str) -> None:
    assert remaining(ended(1, **more)) == text


def test_the_live_view_of_a_search_that_time_ends_counts_its_trials() -> None:
    console = Console(file=io.StringIO(), width=80, height=60, force_terminal=True, color_system=None)
    live = LiveProgress(console, words, shown)
    live.run_started(RunStarted("digits", 9, None, 0, 0, timeout=600.0))
    live.trial_started(begun(1, "quant.static"))
    live.trial_finished(ended(1, total=None))
    picture = Console(file=io.StringIO(), width=80)
    picture.print(live._live.renderable)
    live.close()
    assert isinstance(picture.file, io.StringIO)
    assert picture.file.getvalue().split("\n")[0].split() == ["digits", "2", "trials", "about", "45.0", "s", "left"]


def test_the_live_view_has_a_line_for_each_worker() -> None:
    console = Console(file=io.StringIO(), width=100, height=40, force_terminal=True)
    live = LiveProgress(console, words, shown)
    live.run_started(RunStarted("digits", 9, 10, 0, 0))
    live.trial_started(begun(1, "quant.static"))
    live.trial_started(replace(begun(2, "prune.channels"), lane=1))
    live.progress({"doing": "train", "epoch": 2, "epochs": 3, "lane": 1})
    live.progress({"doing": "measure", "lane": 0})
    assert [str(line) for line in live._lanes()] == [
        "trial 1: static · onnxruntime  [measure]", "trial 2: channels · onnxruntime  [train · epoch 2/3]",
    ]
    live.trial_finished(ended(1))
    assert [str(line) for line in live._lanes()] == ["trial 2: channels · onnxruntime  [train · epoch 2/3]"]
    live.close()
