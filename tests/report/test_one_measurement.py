"""All figures of a row come from one measurement: its seconds, its ratio and its interval, and the baseline's seconds.

A store of trials that were measured twice, on a machine that was busy the first time; and all that shows their figures.
"""

import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from optlang.analysis.load import load
from optlang.plan.model import Plan
from optlang.report.export.write import export
from optlang.report.front import load_front
from optlang.report.front_table import render_front
from optlang.report.member import Figure
from optlang.report.progress import PlainProgress, figure_text
from optlang.report.tables import render
from optlang.report.tradeoffs import load_tradeoffs, render_tradeoffs
from optlang.run.events import TrialFinished
from optlang.run.history import History
from optlang.space.space import Space
from optlang.store.reader import Reader, connect
from optlang.store.writer import Writer
from tests.report.export.test_write import artifact
from tests.store.example_study import end, session, start

STUDY = """\
optlang 1

study drifts {{
  model net  = zoo.digits_cnn(width = 8)
  data  seen = zoo.digits(seed = 0)
  {targets}
  steps {{ finetune {{ epochs in 1 .. 30 }} }}
  minimize latency, size
  maximize accuracy
}}
"""
TARGETS = {
    ("here",): "target here { runtime = onnxruntime }",
    ("here", "there"): "target here { runtime = onnxruntime }\n  target there { runtime = openvino }",
}

# Milliseconds of each trial, and of the baseline next to it: while searching, and when the front was measured again.
SEARCHED = {0: (32.2, 32.2), 1: (12.9, 107.0), 2: (40.0, 91.0), 3: (20.0, 60.0)}
AGAIN = {0: (30.1, 30.1), 1: (3.7, 30.1), 3: (7.5, 30.1)}
SIZES = {0: 80_000.0, 1: 30_000.0, 2: 40_000.0, 3: 20_000.0}


def timed(seconds: float, before: float, target: str) -> list[dict[str, Any]]:
    """The times of a trial next to the baseline's; on the second target all takes longer and less is won."""
    if target == "there":
        seconds, before = 2.0 * seconds * (1.0 if seconds == before else 1.5), 2.0 * before
    found = []
    for metric, factor, unit in (("latency.p50", 1e-3, "s"), ("latency.p95", 1.2e-3, "s"), ("load_time", 0.1, "s")):
        value, reference = factor * seconds, factor * before
        item = {
            "metric": metric, "value": value, "unit": unit, "n": 5, "low": 0.9 * value, "high": 1.3 * value,
            "target": target, "ratio": reference / value, "baseline": reference,
        }
        paired = metric != "load_time"
        found.append(item | {
            "ratio_low": 0.97 * reference / value if paired else None,
            "ratio_high": 1.04 * reference / value if paired else None,
        })
    rate, reference = 1e3 / seconds, 1e3 / before
    found.append({
        "metric": "throughput", "value": rate, "unit": "", "n": 5, "low": rate / 1.3, "high": rate / 0.9,
        "target": target, "ratio": rate / reference, "ratio_low": 0.97 * rate / reference,
        "ratio_high": 1.04 * rate / reference, "baseline": reference,
    })
    return found


def known(trial: int, target: str) -> list[dict[str, Any]]:
    accuracy = 0.99 - 0.01 * trial
    base = {"unit": "ratio", "n": 450, "target": target, "metric": "accuracy", "baseline": 0.99}
    size = {"metric": "size", "value": SIZES[trial], "unit": "B", "n": 1, "target": target, "baseline": None}
    ratio = accuracy / 0.99
    return [
        base | {
            "value": accuracy, "low": accuracy - 0.01, "high": accuracy + 0.005, "ratio": ratio,
            "ratio_low": ratio - 0.004, "ratio_high": ratio + 0.003,
        },
        size | {"low": SIZES[trial], "high": SIZES[trial], "ratio": None, "ratio_low": None, "ratio_high": None},
    ]


@pytest.fixture(params=list(TARGETS), ids=len)
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, Plan, Reader]]:
    names: tuple[str, ...] = request.param
    study = tmp_path / "drifts.opt"
    study.write_text(STUDY.format(targets=TARGETS[names]))
    plan = load(study).plan
    assert plan is not None
    events: list[Mapping[str, Any]] = [session(plan=plan, file=str(study))]
    for trial, pair in SEARCHED.items():
        point = {"finetune.epochs": trial} if trial else {}
        runtime = ", ".join(f"{name}.{use}" for name, use in zip(names, ("onnxruntime", "openvino"), strict=False))
        alone = {"origin": "ladder", "alone": "training.finetune", "in_space": True} if trial == 3 else {}
        events.append(start("r1", trial, point, runtime=runtime if len(names) > 1 else "onnxruntime", **alone))
        files = [
            artifact(tmp_path / ".optlang" / name / str(trial), {"model.onnx": b"weights"}, target=name)
            for name in names
        ]
        measured = [item for name in names for item in (*timed(*pair, name), *known(trial, name))]
        events.append(end("r1", trial, measurements=measured, artifacts=files))
    for trial, pair in AGAIN.items():
        measured = [item for name in names for item in timed(*pair, name)]
        events.append({
            "event": "measured", "run": "r1", "trial": trial, "pass": 1, "measurements": measured,
            "at": "2026-05-04T13:00:00+00:00",
        })
    with Writer(tmp_path / "x.duckdb") as store:
        for event in events:
            store.record(event)
    with connect([tmp_path / "x.duckdb"]) as reader:
        yield tmp_path, plan, reader


def latest(reader: Reader) -> dict[tuple[int, str, str], dict[str, Any]]:
    """The last measurement of each trial, target and metric."""
    rows = reader.query("FROM measurements ORDER BY pass").dicts()
    return {(row["trial"], row["target"], row["metric"]): row for row in rows}


def test_views(stored: tuple[Path, Plan, Reader]) -> None:
    _, plan, reader = stored
    measured = latest(reader)
    several = [target.name for target in plan.targets] if len(plan.targets) > 1 else [""]
    tradeoffs = {row["trial"]: row for row in reader.query("FROM tradeoffs").dicts()}
    for view in ("results", "front"):
        printed = json.loads(render(reader.query(f"FROM {view} ORDER BY trial"), "json"))
        assert printed, view
        for row in printed:
            for target in several:
                there = f"{target}_" if target else ""
                for metric in ("latency", "latency_p50", "latency_p95", "load_time"):
                    name = {"latency": "latency.p50"}.get(metric, metric.replace("latency_", "latency."))
                    item = measured[row["trial"], target or "here", name]
                    assert row[f"{there}{metric}"] == item["value"]
                    assert row[f"{there}{metric}_baseline"] == item["baseline"]
                    assert row[f"{there}{metric}_x"] == pytest.approx(item["baseline"] / item["value"], rel=1e-12)
                lost = row[f"{there}accuracy_baseline"] - row[f"{there}accuracy"]
                assert row[f"{there}accuracy_lost"] == pytest.approx(lost, abs=1e-12)
                if len(several) == 1 and row["trial"] in tradeoffs:
                    assert tradeoffs[row["trial"]]["latency_x"] == row["latency_x"]
            if len(several) > 1:
                # Ratios of two targets have no one baseline.
                assert "latency_baseline" not in row
                assert row["latency_x"] == min(row["here_latency_x"], row["there_latency_x"])
    front = reader.query("SELECT DISTINCT columns('latency_p50_baseline') FROM front").rows
    assert len(front) == 1, "the front was measured in one cycle"


def check(figure: Figure) -> None:
    """The ratio or difference is that of the two values, and each interval contains what it is of."""
    better = figure.metric.endswith("throughput")
    if figure.baseline is not None and figure.times is not None:
        above, below = (figure.value, figure.baseline) if better else (figure.baseline, figure.value)
        assert figure.times == pytest.approx(above / below, rel=1e-12)
    if figure.baseline is not None and figure.lost is not None:
        assert figure.lost == pytest.approx(figure.baseline - figure.value, abs=1e-12)
    for value, low, high in (
        (figure.value, figure.low, figure.high), (figure.times, figure.times_low, figure.times_high),
        (figure.lost, figure.lost_low, figure.lost_high),
    ):
        if value is not None and low is not None and high is not None:
            assert low <= value <= high, figure


TIME = re.compile(r"([\d.]+) (s|ms|µs)(?:  ×([\d.]+)(?: \[([\d.]+), ([\d.]+)\])?)?")


def times_in(text: str) -> list[tuple[float, float | None, float | None, float | None]]:
    """The times in a line in seconds, each with its ratio and the ends of that where they follow."""
    scale = {"s": 1.0, "ms": 1e-3, "µs": 1e-6}
    return [
        (float(value) * scale[unit], *(float(item) if item else None for item in rest))  # type: ignore[misc]
        for value, unit, *rest in TIME.findall(text)
    ]


def test_the_printed_front(stored: tuple[Path, Plan, Reader]) -> None:
    reader = stored[2]
    front = load_front(reader)
    assert [member.trial for member in front.members] == [0, 1, 3]
    for member in front.members:
        for figure in member.figures.values():
            check(figure)
    text = render_front(front)
    assert "of the baseline next to" not in text, "the whole front was measured next to one baseline"
    rows = [line for line in text.splitlines() if re.match(r"\s*\*?\d+ ", line) and "· " in line]
    (first, *others) = rows
    assert len(others) == 2
    baseline = times_in(first)
    for row in others:
        found = times_in(row)
        assert len(found) == len(baseline) == 2
        for (seconds, ratio, low, high), (before, *_) in zip(found, baseline, strict=True):
            assert ratio is not None
            assert ratio == pytest.approx(before / seconds, rel=0.02)
            assert low is None or high is None or low <= ratio <= high


def test_the_printed_tradeoffs(stored: tuple[Path, Plan, Reader]) -> None:
    _, plan, reader = stored
    line = next(line for line in render_tradeoffs(load_tradeoffs(reader)).splitlines() if "finetune" in line)
    # ×4.0 is the ratio of 30.1 and 7.5 ms; of the second target's it is two thirds of that.
    assert ("×4.0" if len(plan.targets) == 1 else "×2.7") in line


def test_a_line_of_the_run_and_the_live_view(stored: tuple[Path, Plan, Reader]) -> None:
    folder, plan, reader = stored
    measured = latest(reader)
    with Writer(folder / "x.duckdb") as store:
        history = History(plan, Space(plan), store.trials("r1"), folder)
    for trial in (0, 1, 2, 3):
        figures = history.comparisons(history.trial(trial))
        for metric, figure in figures.items():
            if figure.baseline is not None and figure.times is not None and not metric.endswith("throughput"):
                assert figure.times == pytest.approx(figure.baseline / figure.value)
        for target in plan.targets:
            name = "latency.p50" if len(plan.targets) == 1 else f"{target.name}.latency.p50"
            found, item = figures[name], measured[trial, target.name, "latency.p50"]
            assert (found.value, found.baseline) == (item["value"], item["baseline"] if trial else None)
            if trial:
                ((seconds, ratio, *_),) = times_in(figure_text(found).replace(" ×", "  ×"))
                assert ratio == pytest.approx(item["baseline"] / seconds, rel=0.02)
    stream = io.StringIO()
    figures = history.comparisons(history.trial(1))
    shown = [name for name in figures if name.endswith("latency.p50")][-1:]
    PlainProgress(stream, lambda _: "", lambda _: shown).trial_finished(
        TrialFinished(1, "sampler", "complete", None, 1.0, figures, history.front(), 2, 4, None)
    )
    assert figure_text(figures[shown[0]]) in stream.getvalue()


def test_exports(stored: tuple[Path, Plan, Reader]) -> None:
    folder, plan, reader = stored
    measured = latest(reader)
    for trial in (1, 2, 3):
        manifest = export(reader, "drifts", trial, folder / f"out{trial}").manifest
        assert {item["target"] for item in manifest["figures"]} == {target.name for target in plan.targets}
        for item in manifest["figures"]:
            row = measured[trial, item["target"], item["metric"]]
            assert item["value"] == row["value"]
            assert item["low"] <= item["value"] <= item["high"]
            if row["baseline"] is None:
                continue
            assert item["baseline"] == row["baseline"]
            if item["metric"] == "accuracy":
                assert item["lost"] == pytest.approx(item["baseline"] - item["value"])
                assert item["lost_low"] <= item["lost"] <= item["lost_high"]
                continue
            above, below = item["baseline"], item["value"]
            if item["metric"] == "throughput":
                above, below = below, above
            assert item["times_better"] == pytest.approx(above / below)
            assert item["times_low"] is None or item["times_low"] <= item["times_better"] <= item["times_high"]
        page = (folder / f"out{trial}" / "README.md").read_text()
        lines = [line for line in page.splitlines() if line.startswith(("| latency.p50", "| latency.p95"))]
        assert len(lines) == 2 * len(plan.targets)
        for line in lines:
            _, value, _, before, ratio = (cell.strip() for cell in line.strip("|").split("|"))
            ((seconds, *_),), ((reference, *_),) = times_in(value), times_in(before)
            assert float(ratio.strip("×")) == pytest.approx(reference / seconds, rel=0.02)


def test_what_an_earlier_version_stored_has_a_ratio_and_no_seconds_that_belong_to_it(tmp_path: Path) -> None:
    """Versions of before stored the ratio of a pair and not the baseline's seconds: those of trial 0 are others."""
    study = tmp_path / "drifts.opt"
    study.write_text(STUDY.format(targets=TARGETS["here",]))
    plan = load(study).plan
    assert plan is not None
    files = [artifact(tmp_path / ".optlang" / "1", {"model.onnx": b"weights"}, target="here")]
    with Writer(tmp_path / "x.duckdb") as store:
        store.record(session(plan=plan, file=str(study)))
        for trial, pair in list(SEARCHED.items())[:2]:
            measured = [item | {"baseline": None} for item in (*timed(*pair, "here"), *known(trial, "here"))]
            store.record(start("r1", trial, {"finetune.epochs": 1} if trial else {}, runtime="onnxruntime"))
            store.record(end("r1", trial, measurements=measured, artifacts=files if trial else []))
    with connect([tmp_path / "x.duckdb"]) as reader:
        manifest = export(reader, "drifts", 1, tmp_path / "out").manifest
    figures = {item["metric"]: item for item in manifest["figures"]}
    assert figures["latency.p50"]["baseline"] is None
    assert figures["latency.p50"]["times_better"] == pytest.approx(107 / 12.9)
    assert (figures["size"]["baseline"], figures["accuracy"]["baseline"]) == (80_000, 0.99)
    assert "| 12.9 ms | 11.6 ms to 16.8 ms |  | ×8.3 |" in (tmp_path / "out" / "README.md").read_text()
