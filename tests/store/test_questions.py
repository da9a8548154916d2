"""Each question of docs/questions.md is one line of SQL, and has an answer on a database that a search wrote."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from optlang.store.reader import Reader, connect
from optlang.store.writer import Writer
from tests.store.example_study import paused_events, search_events

PAGE = (Path(__file__).parents[2] / "docs" / "questions.md").read_text(encoding="utf-8")
QUESTIONS = dict(re.findall(r"^## (.+)\n```sql\n(.+)\n```", PAGE, re.MULTILINE))


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    db = tmp_path_factory.mktemp("questions") / "x.duckdb"
    with Writer(db) as store:
        for event in (*search_events(60, seed=3), *paused_events()):
            store.record(event)
    with connect([db]) as found:
        yield found


def test_the_page_has_its_questions() -> None:
    assert len(QUESTIONS) >= 10
    assert PAGE.count("\n## ") == len(QUESTIONS), "every question is one line of SQL"


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_has_an_answer(reader: Reader, question: str) -> None:
    answer = reader.query(QUESTIONS[question])
    assert answer.rows
    assert any(value is not None for row in answer.rows for value in row)


def rows(reader: Reader, words: str) -> tuple[tuple[object, ...], ...]:
    return reader.query(next(sql for question, sql in QUESTIONS.items() if words in question)).rows


def test_the_answers_are_those_of_the_events(reader: Reader) -> None:
    events = list(search_events(60, seed=3))
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
        (figures["size"], trial) for trial, figures in kept.items() if baseline["accuracy"] - figures["accuracy"] < 0.01
    )
    assert rows(reader, "smallest")[0][1] == smallest[0]
