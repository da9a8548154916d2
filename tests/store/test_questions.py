"""Each question of docs/questions.md is one line of SQL, and has an answer on a database that a search wrote."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from operator import ge
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pytest

from optlang.measure.machine import described
from optlang.store.reader import Reader, connect
from optlang.store.writer import Writer
from tests.store.example_study import make_plan, paused_events, search_events, session

PAGE = (Path(__file__).parents[2] / "docs" / "questions.md").read_text(encoding="utf-8")
QUESTIONS = dict(re.findall(r"^## (.+)\n```sql\n(.+)\n```", PAGE, re.MULTILINE))


EVENTS = [*search_events(60, seed=3), *paused_events()]
OTHER = make_plan("other")
OTHERS = [*search_events(20, seed=5, run="r0"), *paused_events("r0")]


def written(db: Path, events: Iterable[dict[str, Any]]) -> Path:
    with Writer(db) as store:
        for event in events:
            store.record(event)
    return db


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    with connect([written(tmp_path_factory.mktemp("questions") / "x.duckdb", EVENTS)]) as found:
        yield found


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A database that another study of the same knobs is in, too."""
    others = [{**event, **session("r0", plan=OTHER)} if event["event"] == "session" else event for event in OTHERS]
    with connect([written(tmp_path_factory.mktemp("both") / "x.duckdb", [*others, *EVENTS])]) as found:
        yield found


def test_the_page_has_its_questions() -> None:
    assert len(QUESTIONS) == 20
    assert PAGE.count("\n## ") == len(QUESTIONS), "every question is one line of SQL"


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_has_an_answer_in_every_column(reader: Reader, question: str) -> None:
    answer = reader.query(QUESTIONS[question])
    assert answer.rows
    for column, values in zip(answer.columns, zip(*answer.rows, strict=True), strict=True):
        assert any(value is not None for value in values), column.name


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_is_of_the_study_that_it_names(reader: Reader, both: Reader, question: str) -> None:
    def shown(found: Reader) -> list[str]:
        answer = found.query(QUESTIONS[question]).rows
        return sorted(repr([f"{value:.9g}" if isinstance(value, float) else value for value in row]) for row in answer)

    assert shown(both) == shown(reader)


def rows(reader: Reader, words: str) -> tuple[tuple[object, ...], ...]:
    return reader.query(next(sql for question, sql in QUESTIONS.items() if words in question)).rows


def test_the_answers_are_those_of_the_events(reader: Reader) -> None:
    events = EVENTS
    ends = {event["trial"]: event for event in events if event["event"] == "end"}
    starts = {event["trial"]: event for event in events if event["event"] == "start"}
    assert rows(reader, "won most bytes")[0][0] == "prune.channels"
    assert rows(reader, "failed") == tuple(
        (trial, event["reason"]) for trial, event in sorted(ends.items()) if event["state"] == "failed"
    )
    static = [
        (starts[trial]["point"]["precision.static.calibrator"], event["measurements"][0]["value"])
        for trial, event in ends.items()
        if starts[trial]["point"].get("precision") == "static" and event["measurements"]
    ]
    for calibrator, _, mean, worst in rows(reader, "calibrator"):
        values = [accuracy for name, accuracy in static if name == calibrator]
        assert mean == pytest.approx(sum(values) / len(values))
        assert worst == min(values)
    steps = [step for event in ends.values() for step in event["steps"]]
    (share,) = rows(reader, "cache")[0]
    assert share == pytest.approx(sum(step["cached"] for step in steps) / len(steps))
    ends_of = {event["trial"]: event["curves"][0]["loss"][-1] for event in ends.values() if event.get("curves")}
    learned = rows(reader, "training learn")
    assert {row[0] for row in learned} == ends_of.keys()
    assert all(row[1] == "rounds[1].recover" and row[4] == ends_of[row[0]] for row in learned)
    baseline = {item["metric"]: item["value"] for item in ends[0]["measurements"]}
    kept = {
        trial: {item["metric"]: item["value"] for item in event["measurements"]}
        for trial, event in ends.items()
        if event["state"] == "complete"
    }
    smallest = min(
        (found["size"], trial) for trial, found in kept.items() if baseline["accuracy"] - found["accuracy"] < 0.01
    )
    assert rows(reader, "smallest")[0][1] == smallest[0]


def figures(event: dict[str, Any]) -> dict[str, float]:
    return {item["metric"]: item["value"] for item in event["measurements"]}


ENDS = {event["trial"]: event for event in EVENTS if event["event"] == "end"}
STARTS = {event["trial"]: event for event in EVENTS if event["event"] == "start"}
COMPLETE = {trial: figures(event) for trial, event in ENDS.items() if event["state"] == "complete"}


def test_the_front_is_of_trials_that_none_is_better_than_in_every_goal(reader: Reader) -> None:
    def goals(trial: int) -> tuple[float, ...]:
        found = COMPLETE[trial]
        return -found["latency.p50"], -found["size"], found["accuracy"]

    front = [row[0] for row in rows(reader, "good enough")]
    assert front == sorted(front, key=lambda trial: COMPLETE[trial]["latency.p50"])
    searched = [trial for trial in COMPLETE if STARTS[trial]["in_space"]]
    best = {
        trial for trial in searched
        if not any(goals(other) != goals(trial) and all(map(ge, goals(other), goals(trial))) for other in searched)
    }
    tied = rows(reader, "as good as another")
    assert {*front} | {row[0] for row in tied} >= best
    assert {*front} <= best | {0}
    assert {row[1] for row in tied} <= {*front}
    sure = rows(reader, "How sure")
    assert [row[0] for row in sure] == sorted([*front, *(row[0] for row in tied)])
    assert all(low < value < high and n == 450 for _, value, low, high, n in sure)


def test_what_was_saved_and_what_paused_is_as_it_was_recorded(reader: Reader) -> None:
    early = {trial: event["notes"] for trial, event in ENDS.items() if "early.saved_seconds" in event["notes"]}
    assert [row[:2] + row[3:] for row in rows(reader, "before their training")] == [
        (trial, "infeasible", notes["early.saved_seconds"]) for trial, notes in early.items() if "early.size" in notes
    ]
    assert [row[:1] + row[2:] for row in rows(reader, "were stopped")] == [
        (trial, str(notes["early.epoch"]), str(notes["early.epochs"]), notes["early.saved_seconds"])
        for trial, notes in early.items() if "early.epoch" in notes
    ]
    assert rows(reader, "trials paused") == ((1, 2, 1), (3, 1, 0))
    assert rows(reader, "are paused") == ((901, 3, 9, "after epoch 3 of 9"), (902, 1, 9, "after epoch 1 of 9"))


def test_the_counts_and_means_are_those_of_the_trials(reader: Reader) -> None:
    states = Counter(event["state"] for event in ENDS.values()) + Counter(paused=2)
    assert rows(reader, "ended how") == tuple(sorted(states.items(), key=lambda item: (-item[1], item[0])))
    broken = sum(bool(event["violations"]) for event in ENDS.values())
    assert [row[:2] for row in rows(reader, "requirement")] == [("accuracy >= baseline.accuracy - 1%", broken)]
    fastest: dict[str, int] = {}
    for trial in sorted(COMPLETE, key=lambda number: COMPLETE[number]["latency.p50"]):
        runtime = STARTS[trial]["point"].get("laptop.runtime")
        if runtime is not None:
            fastest.setdefault(runtime, trial)
    assert rows(reader, "fastest trial of each") == tuple(
        (runtime, trial, COMPLETE[trial]["latency.p50"], COMPLETE[trial]["accuracy"])
        for runtime, trial in fastest.items()
    )
    taken: dict[str, list[float]] = {}
    for step in (step for event in ENDS.values() for step in event["steps"] if not step["cached"]):
        taken.setdefault(step["technique"], []).append(step["seconds"])
    steps = {technique: (times, seconds) for technique, times, seconds in rows(reader, "each step take")}
    assert steps == {name: (len(seconds), pytest.approx(fmean(seconds))) for name, seconds in taken.items()}


def test_speed_and_pruning_are_compared_with_the_baseline(reader: Reader) -> None:
    ratios = {
        trial: next(item["ratio"] for item in event["measurements"] if item["metric"] == "latency.p50")
        for trial, event in ENDS.items() if event["measurements"] and trial
    }
    speed: dict[tuple[str, str], list[float]] = {}
    for trial in (number for number in COMPLETE if STARTS[number]["origin"] == "sampler"):
        point = STARTS[trial]["point"]
        speed.setdefault((point["precision"], point["laptop.runtime"]), []).append(ratios[trial])
    found = {(precision, runtime): faster for precision, runtime, faster in rows(reader, "with the same precision")}
    assert found == {key: pytest.approx(median(values)) for key, values in speed.items()}
    base = figures(ENDS[0])
    pruned: dict[tuple[int, float], list[int]] = {}
    for trial, event in STARTS.items():
        if event["point"].get("rounds"):
            pruned.setdefault((event["point"]["rounds"], event["point"]["rounds.prune.ratio"]), []).append(trial)
    answer = {(row[0], row[1]): row[2:] for row in rows(reader, "does pruning cost")}
    assert answer.keys() == pruned.keys()
    for key, trials in pruned.items():
        measured = [figures(ENDS[trial]) for trial in trials if ENDS[trial]["measurements"]]
        count, smaller, lost = answer[key]
        assert count == len(trials)
        if not measured:
            assert (smaller, lost) == (None, None)
            continue
        assert smaller == pytest.approx(fmean(base["size"] / item["size"] for item in measured))
        assert lost == pytest.approx(fmean(base["accuracy"] - item["accuracy"] for item in measured))


def test_a_run_records_what_is_asked_of_its_machine(reader: Reader) -> None:
    assert [row[2:] for row in rows(reader, "which machine")] == [("x", 2, "2.13.0")]
    assert session()["machine"].keys() == described().keys(), "the events that are asked have the keys of a real run"
