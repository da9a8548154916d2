"""A stored trial against the same one carried out again: what is the same, what agrees, what differs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from optlang.interfaces import Measurement
from optlang.report.repeated import Kept, TrialFigures, compare, load_trial
from optlang.report.repeated_table import render_repeated
from optlang.store.reader import connect
from optlang.store.writer import Writer
from tests.store.example_study import end, make_plan, measurement, search_events, session, start

PLAN = make_plan()
MACHINE = {"processor": "x", "cores": 2, "python": "3.12.1", "system": "Linux", "memory": 8}


def figure(
    metric: str, value: float, unit: str, low: float | None = None, high: float | None = None,
    ratio: tuple[float, float, float] | None = None,
) -> Measurement:
    found = Measurement(metric, value, unit, 100, value if low is None else low, value if high is None else high, "cpu")
    if ratio is None:
        return found
    return replace(found, ratio_low=ratio[0], ratio=ratio[1], ratio_high=ratio[2])


FIGURES = (
    figure("size", 1000, "B"), figure("parameters", 50, "count"),
    figure("accuracy", 0.9, "ratio", 0.85, 0.95), figure("latency.p50", 1e-3, "s", ratio=(1.9, 2.0, 2.1)),
    figure("latency.p99", 1e-3, "s", ratio=(1.9, 2.0, 2.1)), figure("build_time", 0.3, "s"),
)
STORED = TrialFigures(
    3, "sampler", None, "onnxruntime", {}, "complete", None, {(item.target, item.metric): item for item in FIGURES},
    {"cpu": Kept(1000, "a" * 64, "onnx")}, {"baseline.train": "k0", "prune": "k1"}, MACHINE, {"torch": "2.13"},
)


def again(*figures: Measurement, **changed: object) -> TrialFigures:
    measured = {**STORED.measurements, **{(item.target, item.metric): item for item in figures}}
    return replace(STORED, measurements=measured, **changed)  # type: ignore[arg-type]


def verdicts(stored: TrialFigures, found: TrialFigures) -> dict[str, str]:
    return {row.name: row.verdict for row in compare(PLAN, stored, found).rows}


def test_the_same_figures_are_the_same_and_times_within_their_intervals() -> None:
    found = compare(PLAN, STORED, again(figure("latency.p50", 5e-3, "s", ratio=(2.05, 2.3, 2.5))))
    # Of times the median counts, and what the study names.
    assert {row.name: row.verdict for row in found.rows} == {
        "files": "same", "size": "same", "parameters": "same", "accuracy": "same",
        "latency.p50": "within the intervals",
    }
    assert found.agrees
    assert found.changes == ()


@pytest.mark.parametrize("figures", [
    figure("size", 1001, "B"), figure("parameters", 49, "count"), figure("accuracy", 0.9001, "ratio", 0.85, 0.95),
    figure("latency.p50", 1e-3, "s", ratio=(2.11, 2.2, 2.3)), figure("latency.p50", 1e-3, "s", ratio=(1.5, 1.7, 1.89)),
], ids=lambda item: f"{item.metric} {item.ratio or item.value}")
def test_a_figure_that_differs_is_named(figures: Measurement) -> None:
    found = compare(PLAN, STORED, again(figures))
    assert [row.name for row in found.rows if row.verdict == "differs"] == [figures.metric]
    assert not found.agrees
    assert f"The trial was not repeated: {figures.metric} differs." in render_repeated("s", found)


@pytest.mark.parametrize(("changed", "said"), [
    ({"versions": {"torch": "2.14"}}, "torch 2.13 then, 2.14 now"),
    ({"versions": {"torch": "2.13", "onnx": "1"}}, "onnx was not installed then, 1 now"),
    ({"machine": {**MACHINE, "processor": "y"}}, "processor x then, y now"),
])
def test_answers_of_other_versions_and_machines_may_be_as_far_off_as_the_interval_says(
    changed: Mapping[str, object], said: str
) -> None:
    near, far = figure("accuracy", 0.94, "ratio", 0.9, 0.97), figure("accuracy", 0.84, "ratio", 0.8, 0.9)
    found = compare(PLAN, STORED, again(near, artifacts={"cpu": Kept(1000, "b" * 64, "onnx")}, **changed))
    assert {row.name: row.verdict for row in found.rows}["accuracy"] == "within the intervals"
    assert {row.name: row.verdict for row in found.rows}["files"] == "not compared"
    assert found.changes == (said,)
    assert said in render_repeated("s", found)
    assert verdicts(STORED, again(far, **changed))["accuracy"] == "differs"
    # Bytes are counted, whatever the versions are.
    assert verdicts(STORED, again(figure("size", 999, "B"), **changed))["size"] == "differs"


def test_the_memory_that_a_machine_has_does_not_make_it_another_one() -> None:
    assert compare(PLAN, STORED, again(machine={**MACHINE, "memory": 9})).changes == ()


def test_other_bytes_of_one_machine_and_one_version_differ() -> None:
    assert verdicts(STORED, again(artifacts={"cpu": Kept(1000, "b" * 64, "onnx")}))["files"] == "differs"


def test_what_a_compiler_built_may_be_other_bytes() -> None:
    stored = replace(STORED, artifacts={"cpu": Kept(1000, "a" * 64, "tensorrt")})
    other = again(figure("size", 1009, "B"), figure("accuracy", 0.91, "ratio"), artifacts={
        "cpu": Kept(1009, "b" * 64, "tensorrt")
    })
    found = verdicts(stored, other)
    assert found["files"] == "not compared"
    assert found["size"] == found["accuracy"] == "within the intervals"
    assert verdicts(stored, again(figure("size", 1011, "B")))["size"] == "differs"
    assert verdicts(stored, again(figure("parameters", 51, "count")))["parameters"] == "differs"


def test_the_first_step_that_is_computed_from_something_else_is_named() -> None:
    (line,) = compare(PLAN, STORED, again(keys={"baseline.train": "k0", "prune": "other"})).changes
    assert line.startswith("prune is computed from something else now than then")
    newer = again(keys={"baseline.train": "x", "prune": "y"}, versions={"torch": "2.14"})
    assert compare(PLAN, STORED, newer).changes == ("torch 2.13 then, 2.14 now",)


def test_a_trial_that_fails_now_or_no_longer_differs() -> None:
    failed = replace(STORED, state="failed", reason="there is no layer", measurements={}, artifacts={})
    assert verdicts(STORED, failed) == {"end": "differs"}
    assert verdicts(failed, STORED) == {"end": "differs"}
    assert verdicts(failed, failed) == {"end": "same"}
    assert verdicts(failed, replace(failed, reason="no memory")) == {"end": "differs"}
    text = render_repeated("s", compare(PLAN, STORED, failed))
    assert "again: failed: there is no layer\n" in text
    interrupted = replace(failed, reason="interrupted")
    assert compare(PLAN, interrupted, STORED).rows == ()
    assert "nothing to compare" in render_repeated("s", compare(PLAN, interrupted, STORED))


def test_a_ratio_without_an_interval_is_not_compared() -> None:
    bare = replace(STORED.measurements["cpu", "latency.p50"], ratio_low=None, ratio_high=None)
    assert verdicts(STORED, again(bare))["latency.p50"] == "not compared"


def test_a_figure_that_is_missing_now_differs() -> None:
    left = {key: item for key, item in STORED.measurements.items() if key[1] != "accuracy"}
    assert verdicts(STORED, replace(STORED, measurements=left))["accuracy"] == "differs"


def test_the_table_shows_both_figures_and_their_difference() -> None:
    found = compare(PLAN, STORED, again(
        figure("size", 990, "B"), figure("accuracy", 0.91, "ratio"),
        figure("latency.p50", 1e-3, "s", ratio=(2.0, 2.2, 2.4)),
    ))
    lines = {line.split()[0]: " ".join(line.split()) for line in render_repeated("s", found).splitlines() if line}
    assert lines["size"] == "size 1.00 kB 990 B −10 B differs"
    assert lines["accuracy"] == "accuracy 90.0 % 91.0 % +1.0 points differs"
    assert lines["latency.p50"] == (
        "latency.p50 ×2.0 [1.9, 2.1] ×2.2 [2.0, 2.4] +10.0 % within the intervals"
    )


@pytest.mark.parametrize("width", [60, 80])
def test_the_table_fits_and_breaks_no_word(width: int) -> None:
    found = compare(PLAN, STORED, again(figure("latency.p50", 1e-3, "s", ratio=(2.0, 2.2, 2.4))))
    lines = render_repeated("s", found, width=width).splitlines()
    assert max(map(len, lines)) <= width
    words = " ".join(lines).split()
    assert {"latency.p50", "verdict", "within", "the", "intervals"} <= set(words)
    assert ("difference" in words) == (width == 80)


def test_a_trial_is_read_with_its_newest_figures_and_the_keys_of_its_baseline(tmp_path: Path) -> None:
    with Writer(tmp_path / "x.duckdb") as store:
        for event in search_events(4):
            store.record(event)
    with connect([tmp_path / "x.duckdb"]) as reader:
        trial = max(row[0] for row in reader.query("SELECT trial FROM measurements").rows)
        found = load_trial(reader, "r1", trial)
        rows = reader.query(
            "SELECT target, metric, arg_max(value, pass) FROM measurements WHERE trial = ? GROUP BY ALL", [trial]
        ).rows
    assert {key: item.value for key, item in found.measurements.items()} == {row[:2]: row[2] for row in rows}
    assert found.artifacts
    assert found.versions


def test_a_trial_outside_the_space_has_no_point(tmp_path: Path) -> None:
    with Writer(tmp_path / "x.duckdb") as store:
        for event in (session(plan=PLAN), start("r1", 0, in_space=False), end("r1", 0, measurements=[
            measurement("size", 10.0)
        ])):
            store.record(event)
    with connect([tmp_path / "x.duckdb"]) as reader:
        assert load_trial(reader, "r1", 0).point is None
