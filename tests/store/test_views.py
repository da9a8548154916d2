"""The views: their columns, and their rows against a plain Python reading of the same events."""

import random
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from optlang.plan.model import FloatDomain, IntDomain, Knob, ListDomain, Metric, OrderDomain, SetDomain
from optlang.store import database
from optlang.store.reader import Reader, connect
from optlang.store.writer import Writer
from tests.store.example_study import METRICS, end, make_plan, measurement, search_events, session, start

RESULTS = (
    "study run trial state reason origin seconds "
    "runtime graph rounds ratio lr precision calibrator samples "
    "accuracy loss size size_compressed latency latency_p50 latency_p95 throughput parameters "
    "accuracy_lost loss_x size_x size_compressed_x latency_x latency_p50_x latency_p95_x throughput_lost parameters_x "
    "batch_dependent"
)


def read(tmp_path: Path, events: Sequence[dict[str, Any]]) -> Reader:
    with Writer(tmp_path / "x.duckdb") as store:
        for event in events:
            store.record(event)
    return connect([tmp_path / "x.duckdb"])


def columns(reader: Reader, view: str) -> dict[str, str]:
    return {column.name: column.type for column in reader.query(f"FROM {view}").columns}


def test_the_columns_are_the_promised_ones(tmp_path: Path) -> None:
    reader = read(tmp_path, list(search_events(20)))
    assert list(columns(reader, "results")) == RESULTS.split()
    assert list(columns(reader, "front")) == [*RESULTS.split(), "tie_of"]
    assert " ".join(columns(reader, "tradeoffs")) == (
        "study technique runtime size_x size_compressed_x latency_x latency_same_runtime_x accuracy_lost trial"
    )
    assert " ".join(columns(reader, "timeline")) == "study run trial step started seconds cached worker"
    assert " ".join(columns(reader, "learning")) == (
        "study run trial step technique target epoch epochs loss metric value seconds cached"
    )
    kinds = columns(reader, "results")
    assert {name: kinds[name] for name in ("rounds", "ratio", "lr", "precision", "samples", "size", "latency")} == {
        "rounds": "BIGINT",
        "ratio": "DOUBLE",
        "lr": "DOUBLE",
        "precision": "VARCHAR",
        "samples": "BIGINT",
        "size": "BIGINT",
        "latency": "DOUBLE",
    }


def test_the_views_are_in_the_file_itself_too(tmp_path: Path) -> None:
    reader = read(tmp_path, list(search_events(20)))
    connection = database.open_file(tmp_path / "x.duckdb")
    for view in ("results", "front", "tradeoffs", "timeline", "learning"):
        assert connection.execute(f"FROM {view}").fetchall() == list(reader.query(f"FROM {view}").rows)
    connection.close()


def test_a_run_that_has_only_begun_has_its_columns_and_rows(tmp_path: Path) -> None:
    reader = read(tmp_path, [session()])
    assert reader.query("SELECT latency, size, accuracy, precision, accuracy_lost FROM results").rows == ()
    assert (
        reader.query("FROM front").rows
        == reader.query("FROM tradeoffs").rows
        == reader.query("FROM timeline").rows
        == ()
    )
    figures = [measurement("size", 100.0), measurement("accuracy", 0.9), measurement("latency.p50", 2e-4)]
    reader = read(tmp_path, [session(number=1), start("r1", 0, number=1), end("r1", 0, measurements=figures)])
    for view in ("results", "front"):
        assert reader.query(f"SELECT trial, state, origin, size_x, latency_x, accuracy_lost FROM {view}").rows == (
            (0, "complete", "baseline", 1.0, 1.0, 0.0),
        )
    assert reader.query("SELECT technique, runtime, trial FROM tradeoffs").rows == (("none", "eager", 0),)


def test_an_absent_knob_is_null_and_none_is_a_value(tmp_path: Path) -> None:
    reader = read(
        tmp_path,
        [
            session(),
            start("r1", 1, {"laptop.runtime": "eager", "rounds": 0, "precision": "none"}),
            start(
                "r1",
                2,
                {
                    "laptop.runtime": "onnxruntime",
                    "laptop.runtime.onnxruntime.graph": "all",
                    "rounds": 2,
                    "rounds.prune.ratio": 0.3,
                    "precision": "static",
                    "precision.static.calibrator": "entropy",
                },
            ),
        ],
    )
    assert reader.query(
        "SELECT runtime, graph, rounds, ratio, precision, calibrator FROM results ORDER BY trial"
    ).rows == (
        ("eager", None, 0, None, "none", None),
        ("onnxruntime", "all", 2, 0.3, "static", "entropy"),
    )
    assert reader.query("SELECT trial FROM results WHERE ratio = 0.3").rows == ((2,),), "30 % means exactly that"


def test_knobs_of_every_kind_have_their_type(tmp_path: Path) -> None:
    def knob(path: str, domain: Any, role: Any = "value", dimension: Any = "number") -> Knob:
        return Knob(path=path, column=path, role=role, domain=domain, dimension=dimension)

    plan = make_plan(
        knobs=[
            knob("on", SetDomain(values=(False, True)), "maybe", "bool"),
            knob("whole", IntDomain(low=0, high=9), dimension="count"),
            knob("real", FloatDomain(low=0.0, high=1.0)),
            knob("mixed", ListDomain(values=(1, 2.5))),
            knob("sizes", ListDomain(values=(64, 128)), dimension="count"),
            knob("way", OrderDomain(labels=("a", "b")), "order", "name"),
            knob("odd.name-1", SetDomain(values=("x", "y'z")), dimension="name"),
            knob("order", SetDomain(values=("p", "q")), dimension="name"),
        ]
    )
    point = {
        "on": True,
        "whole": 3,
        "real": 0.25,
        "mixed": 2.5,
        "sizes": 64,
        "way": ["b", "a"],
        "odd.name-1": "y'z",
        "order": "q",
    }
    reader = read(tmp_path, [session(plan=plan), start("r1", 1, point)])
    names = ["on", "whole", "real", "mixed", "sizes", "way", "odd_name-1", "order"]
    quoted = ", ".join(f'"{name}"' for name in names)
    assert reader.query(f"SELECT {quoted} FROM results").rows == ((True, 3, 0.25, 2.5, 64, "b, a", "y'z", "q"),)
    kinds = columns(reader, "results")
    assert [kinds[name] for name in names] == [
        "BOOLEAN",
        "BIGINT",
        "DOUBLE",
        "DOUBLE",
        "BIGINT",
        "VARCHAR",
        "VARCHAR",
        "VARCHAR",
    ]


def test_two_studies_share_columns_and_disagreeing_types_are_text(tmp_path: Path) -> None:
    def study(name: str, domain: Any, path: str) -> Any:
        return make_plan(name, knobs=[Knob(path=path, column="ratio", role="value", domain=domain, dimension="number")])

    events = []
    for run, plan, point in (
        ("a", study("first", FloatDomain(low=0, high=1), "prune.ratio"), {"prune.ratio": 0.5}),
        ("b", study("second", SetDomain(values=("low", "high")), "slim.ratio"), {"slim.ratio": "high"}),
        ("c", study("third", IntDomain(low=0, high=9), "ratio"), {"ratio": 7}),
    ):
        figures = [measurement("size", 10.0)]
        events += [
            session(run, plan=plan),
            start(run, 0),
            end(run, 0, measurements=figures),
            start(run, 1, point),
            end(run, 1, measurements=figures),
        ]
    reader = read(tmp_path, events)
    assert columns(reader, "results")["ratio"] == columns(reader, "front")["ratio"] == "VARCHAR"
    assert reader.query("SELECT study, ratio FROM results WHERE trial = 1 ORDER BY study").rows == (
        ("first", "0.5"),
        ("second", "high"),
        ("third", "7"),
    )
    assert reader.query("SELECT count(DISTINCT study) FROM front").rows == ((3,),)


def test_one_path_under_two_names_keeps_to_its_own_run(tmp_path: Path) -> None:
    def study(run: str, column: str) -> list[dict[str, Any]]:
        knobs = [
            Knob(path="prune.ratio", column=column, role="value", domain=FloatDomain(low=0, high=1), dimension="ratio")
        ]
        return [session(run, plan=make_plan(run, knobs=knobs)), start(run, 1, {"prune.ratio": 0.5})]

    reader = read(tmp_path, study("a", "ratio") + study("b", "prune.ratio"))
    assert reader.query("SELECT study, ratio, prune_ratio FROM results ORDER BY study").rows == (
        ("a", 0.5, None),
        ("b", None, 0.5),
    )


def test_latency_is_compared_side_by_side_and_the_latest_pass_counts(tmp_path: Path) -> None:
    def figures(seconds: float, ratio: float | None) -> list[dict[str, Any]]:
        return [measurement("latency.p50", seconds, ratio=ratio)]

    events = [
        session(),
        start("r1", 0),
        end("r1", 0, measurements=figures(100e-6, None)),
        start("r1", 1),
        end("r1", 1, measurements=figures(50e-6, 1.5)),
    ]
    question = "SELECT latency, latency_x, latency_p50_x FROM results WHERE trial = 1"
    assert read(tmp_path, events).query(question).rows == ((50e-6, 1.5, 1.5),), "the pair was measured, not divided"
    again = {"event": "measured", "run": "r1", "trial": 1, "pass": 1, "at": "2026-05-04T13:00:00+00:00"}
    events = [{**again, "measurements": figures(40e-6, None)}]
    assert read(tmp_path, events).query(question).rows == ((40e-6, 2.5, 2.5),), (
        "an old ratio says nothing of a new time"
    )
    events = [{**again, "pass": 2, "measurements": figures(60e-6, 1.7)}]
    reader = read(tmp_path, events)
    assert reader.query(question).rows == ((60e-6, 1.7, 1.7),)
    assert reader.query("SELECT count(*) FROM measurements WHERE trial = 1").rows == ((3,),), "nothing measured is lost"


def test_a_row_compares_with_the_baseline_of_its_own_measurement(tmp_path: Path) -> None:
    def figures(seconds: float, before: float, accuracy: float, seen: float) -> list[dict[str, Any]]:
        return [
            measurement("latency.p50", seconds, ratio=before / seconds, baseline=before),
            measurement("accuracy", accuracy, ratio=accuracy / seen, baseline=seen),
            measurement("size", 10.0),
        ]

    events = [
        session(),
        start("r1", 0),
        end("r1", 0, measurements=figures(100e-6, 100e-6, 0.99, 0.99)),
        start("r1", 1),
        end("r1", 1, measurements=figures(50e-6, 160e-6, 0.97, 0.98)),
    ]
    reader = read(tmp_path, events)
    assert reader.query(
        "SELECT trial, latency, latency_baseline, latency_p50_baseline, latency_x, accuracy_baseline, accuracy_lost "
        "FROM front ORDER BY trial"
    ).rows == (
        (0, 100e-6, 100e-6, 100e-6, 1.0, 0.99, 0.0),
        (1, 50e-6, 160e-6, 160e-6, pytest.approx(3.2), 0.98, pytest.approx(0.01)),
    )
    assert "size_baseline" not in columns(reader, "results"), "a size is the file's: there is one baseline to all"


def test_a_front_of_throughput_is_that_of_its_ratios(tmp_path: Path) -> None:
    """The machine was slower while trial 1 was measured: next to it the baseline was, too."""
    def figures(samples: float, before: float) -> list[dict[str, Any]]:
        return [measurement("throughput", samples, ratio=samples / before, baseline=before)]

    events = [session(plan=make_plan(objectives=(("throughput", "maximize"),)))]
    for number, (samples, before) in enumerate(((1000.0, 1000.0), (2000.0, 500.0), (3000.0, 1000.0))):
        events += [start("r1", number), end("r1", number, measurements=figures(samples, before))]
    question = "SELECT trial, throughput_lost FROM front ORDER BY trial"
    assert read(tmp_path, events).query(question).rows == ((0, 0.0), (1, -1500.0))


def test_several_targets_have_columns_of_their_own_and_the_worst_has_none(tmp_path: Path) -> None:
    def figures(
        laptop: float, phone: float, ratios: tuple[float, float], accuracy: tuple[float, float]
    ) -> list[dict[str, Any]]:
        return [
            measurement("latency.p50", laptop, target="laptop", ratio=ratios[0]),
            measurement("accuracy", accuracy[0], target="laptop"),
            measurement("latency.p50", phone, target="phone", ratio=ratios[1]),
            measurement("accuracy", accuracy[1], target="phone"),
        ]

    reader = read(
        tmp_path,
        [
            session(plan=make_plan(targets=("laptop", "phone"))),
            start("r1", 0),
            end("r1", 0, measurements=figures(1e-4, 4e-4, (1, 1), (0.9, 0.9))),
            start("r1", 1),
            end("r1", 1, measurements=figures(5e-5, 3e-4, (2.0, 1.3), (0.89, 0.91))),
        ],
    )
    assert reader.query(
        "SELECT laptop_latency_p50, phone_latency, latency, phone_latency_x, latency_x, accuracy, "
        "laptop_accuracy_lost FROM results WHERE trial = 1"
    ).rows == ((5e-5, 3e-4, 3e-4, 1.3, 1.3, 0.89, pytest.approx(0.01)),)


def test_the_front_is_that_of_the_newest_run(tmp_path: Path) -> None:
    events = []
    for number, run in enumerate(("old", "new")):
        events += [session(run, number), start(run, 0), end(run, 0), start(run, 1), end(run, 1)]
    question = "SELECT DISTINCT run FROM front"
    assert read(tmp_path, events).query(question).rows == (("new",),)
    assert read(tmp_path, [session("old", 5)]).query(question).rows == (("old",),), "going on makes a run the newest"


def test_tradeoffs_credit_a_technique_with_its_own(tmp_path: Path) -> None:
    def trial(
        number: int, alone: str | None, runtime: str, ratio: float, state: str = "complete"
    ) -> list[dict[str, Any]]:
        figures = [
            measurement("size", 100.0 / number if number else 100.0),
            measurement("latency.p50", 1e-4 / ratio, ratio=ratio),
            measurement("accuracy", 0.9),
        ]
        return [
            start(
                "r1", number, alone=alone, runtime=runtime, origin="ladder" if number else "baseline", in_space=False
            ),
            end("r1", number, state, figures if state == "complete" else []),
        ]

    reader = read(
        tmp_path,
        [
            session(),
            *trial(0, None, "eager", 1.0),
            *trial(1, "none", "onnxruntime", 5.0),
            *trial(2, "quant.static", "onnxruntime", 6.0),
            *trial(3, "prune.channels", "eager", 1.5),
            *trial(4, "quant.static", "openvino", 3.0),
            *trial(5, "quant.dynamic", "onnxruntime", 1.0, "failed"),
        ],
    )
    assert reader.query("SELECT technique, runtime, latency_x, latency_same_runtime_x, trial FROM tradeoffs").rows == (
        ("none", "eager", 1.0, 1.0, 0),
        ("none", "onnxruntime", 5.0, 1.0, 1),
        ("quant.static", "onnxruntime", 6.0, 1.2, 2),
        ("prune.channels", "eager", 1.5, 1.5, 3),
        ("quant.static", "openvino", 3.0, None, 4),
        ("quant.dynamic", "onnxruntime", None, None, 5),
    )


def test_a_task_without_accuracy_is_judged_by_its_own_metric(tmp_path: Path) -> None:
    metrics = (
        Metric(name="mse", dimension="number", direction="minimize", task=True),
        Metric(name="r2", dimension="number", direction="maximize", task=True),
        *(metric for metric in METRICS if not metric.task),
    )
    figures = [
        [measurement("r2", 0.9), measurement("mse", 2.0), measurement("size", 8.0)],
        [measurement("r2", 0.8), measurement("mse", 4.0), measurement("size", 2.0)],
    ]
    for goal, column, value in (("r2", "r2_lost", pytest.approx(0.1)), ("mse", "mse_x", 0.5)):
        folder = tmp_path / goal
        folder.mkdir()
        plan = make_plan(
            metrics=metrics, objectives=[("size", "minimize"), (goal, "maximize" if goal == "r2" else "minimize")]
        )
        reader = read(
            folder,
            [
                session(plan=plan),
                start("r1", 0),
                end("r1", 0, measurements=figures[0]),
                start("r1", 1, alone="quant.static"),
                end("r1", 1, measurements=figures[1]),
            ],
        )
        assert reader.query(f"SELECT size_x, {column} FROM tradeoffs WHERE trial = 1").rows == ((4.0, value),)


def test_what_the_task_returns_beyond_the_declared_is_a_column(tmp_path: Path) -> None:
    reader = read(tmp_path, [session(), start("r1", 0), end("r1", 0, measurements=[measurement("f1.macro", 0.7)])])
    assert reader.query("SELECT f1_macro FROM results").rows == ((0.7,),)


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    return all(x >= y for x, y in zip(a, b, strict=True)) and any(x > y for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("seed", range(12))
def test_the_front_is_what_brute_force_finds(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    goals = draw.sample(
        [
            ("latency.p50", "minimize"),
            ("size", "minimize"),
            ("accuracy", "maximize"),
            ("loss", "minimize"),
            ("parameters", "minimize"),
        ],
        draw.randint(1, 5),
    )
    events = [session(plan=make_plan(objectives=goals))]
    scores: dict[int, tuple[float, ...]] = {}
    # Few distinct values make ties and equal trials; the last seeds have more trials than the first round takes.
    steps = draw.choice([3, 8, 1000])
    for trial in range(250 if seed >= 10 else 40):
        figures = {name: (1 + draw.randrange(steps)) * (0.001 if name == "accuracy" else 1.0) for name, _ in goals}
        ratio = (1 + draw.randrange(steps)) / 2 if trial else 1.0
        state = draw.choices(["complete", "infeasible", "stopped", "failed"], [8, 1, 1, 1])[0] if trial else "complete"
        in_space = draw.random() < 0.9 and trial > 0
        measured = [
            measurement(name, value, ratio=ratio if name == "latency.p50" else None) for name, value in figures.items()
        ]
        events += [
            start("r1", trial, in_space=in_space),
            end("r1", trial, state, [] if state == "failed" else measured),
        ]
        if state == "complete" and (in_space or trial == 0):
            scores[trial] = tuple(
                ratio if name == "latency.p50" else figures[name] if way == "maximize" else -figures[name]
                for name, way in goals
            )
    members = {0} | {
        trial for trial, score in scores.items() if not any(dominates(other, score) for other in scores.values())
    }
    expected = dict.fromkeys(members) | within_noise(scores, members, [name == "latency.p50" for name, _ in goals])
    assert dict(read(tmp_path, events).query("SELECT trial, tie_of FROM front").rows) == expected


def within_noise(
    scores: Mapping[int, tuple[float, ...]], members: Collection[int], timed: Sequence[bool]
) -> dict[int, int]:
    """Each trial whose intervals (4 % of a ratio, 3 % of the rest) overlap a better member's, with that member."""
    def overlap(one: int, two: int) -> bool:
        pairs = zip(scores[one], scores[two], timed, strict=True)
        sizes = [(abs(a), abs(b), 0.04 if ratio else 0.03) for a, b, ratio in pairs]
        return all(max(a, b) * (1 - width) <= min(a, b) * (1 + width) for a, b, width in sizes)

    best = sorted(set(members) & scores.keys() - {0}, key=lambda trial: (*(-value for value in scores[trial]), trial))
    kept: list[int] = []
    for trial in best:
        if not any(overlap(trial, other) for other in kept):
            kept.append(trial)
    return {
        trial: next(other for other in kept if overlap(trial, other)) for trial in scores
        if trial not in (0, *kept) and any(overlap(trial, other) for other in kept)
    }


def test_a_trial_that_lacks_a_goal_is_not_in_the_front(tmp_path: Path) -> None:
    figures = [measurement("size", 5.0), measurement("accuracy", 0.9), measurement("latency.p50", 1e-4, ratio=2.0)]
    reader = read(
        tmp_path,
        [
            session(),
            start("r1", 0),
            end("r1", 0, measurements=figures),
            start("r1", 1),
            end("r1", 1, measurements=figures[:2]),
        ],
    )
    assert reader.query("SELECT trial FROM front").rows == ((0,),)
