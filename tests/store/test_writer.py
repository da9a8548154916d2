"""Kills, other programs and lost files: nothing is doubled, nothing that was recorded is lost."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from optlang.interfaces import OutsideError
from optlang.store import database
from optlang.store.journal import journal_path
from optlang.store.reader import connect, query
from optlang.store.writer import Writer
from tests.store.example_study import (
    PAUSED_STEPS,
    end,
    finish,
    make_plan,
    measurement,
    pause,
    resume,
    search_events,
    session,
    start,
)

# Records trials without an end, telling each event that is safe. `every` is the time between two drains.
WRITER = """
import itertools, sys
from pathlib import Path
from optlang.store import writer as store
from tests.store.example_study import end, make_plan, measurement, session, start
store._EVERY = float(sys.argv[2])
plan = make_plan()
with store.Writer(Path(sys.argv[1])) as writer:
    number = len(writer.runs())
    known = writer.find(plan.study, plan.meaning, {"epochs": 3}, 7)
    run = known.run if known else "r1"
    writer.record(session(run, int(sys.argv[3]), plan))
    for trial in itertools.count(writer.next_trial(run)):
        print("start", trial, flush=True)
        steps = [{"path": "a", "technique": "t", "settings": {}}]
        writer.record(start(run, trial, {"rounds": trial % 4}, number=int(sys.argv[3]), steps=steps))
        print("started", trial, flush=True)
        writer.record(end(run, trial, measurements=[measurement("size", 100.0 + trial), measurement("accuracy", 0.9)]))
        print("ended", trial, flush=True)
"""
# Files may grow to 48 kB and no further for a while, as on a disk that is full.
FULL = """
import resource, sys
from pathlib import Path
from optlang.store import writer as store
from tests.store.example_study import end, measurement, session, start
store._EVERY = 0.0
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
with store.Writer(Path(sys.argv[1])) as writer:
    writer.record(session())
    resource.setrlimit(resource.RLIMIT_FSIZE, (48_000, most))
    for trial in range(20):
        writer.record(start("r1", trial))
        writer.record(end("r1", trial, measurements=[measurement(f"m{number}", 1.0) for number in range(5)]))
        if writer.trouble:
            break
    print(trial, writer.trouble)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
"""
HOLD = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1], read_only=len(sys.argv) > 2)
print("held", flush=True)
sys.stdin.read()
"""


def holding(db: Path, *arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(db), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def dump(db: Path) -> dict[str, list[str]]:
    """All rows of the tables in the file itself, in an order of their own."""
    connection = database.open_file(db)
    try:
        return {
            name: sorted(json.dumps(row, sort_keys=True, default=str) for row in rows)
            for name, rows in database.all_rows(connection).items()
        }
    finally:
        connection.close()


def write(db: Path, events: Sequence[dict[str, Any]]) -> None:
    with Writer(db) as store:
        for event in events:
            store.record(event)


@pytest.mark.parametrize(
    "every", [pytest.param("0", marks=pytest.mark.slow), "0.05", pytest.param("1000", marks=pytest.mark.slow)]
)
def test_a_killed_writer_loses_and_doubles_nothing(tmp_path: Path, every: str) -> None:
    db = tmp_path / "x.duckdb"
    draw = random.Random(int(float(every) * 100))
    told: set[tuple[str, int]] = set()
    for number in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(db), every, str(number)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        ) as process:
            assert process.stdout is not None
            # Killed at no particular moment: somewhere in an append, a drain or between.
            for _ in range(draw.randint(20, 90) // (3 if every == "0" else 1)):
                word, trial = process.stdout.readline().split()
                told.add((word, int(trial)))
            time.sleep(draw.random() * 0.03)
            process.send_signal(signal.SIGKILL)
            told |= {(line.split()[0], int(line.split()[1])) for line in process.stdout if line.endswith("\n")}
    with Writer(db) as store:
        trials = store.trials("r1")
    numbers = [row.trial for row in trials]
    assert numbers == list(range(len(numbers))), "no number twice, none left out"
    states = {row.trial: row.state for row in trials}
    assert {trial for word, trial in told if word == "started"} <= states.keys()
    assert {trial for word, trial in told if word == "ended"} <= {
        trial for trial, state in states.items() if state == "complete"
    }
    assert sum(state == "failed" for state in states.values()) <= 4, "a kill costs the trial that ran, no more"
    rows = query("SELECT count(*), count(DISTINCT trial), count(*) FILTER (state = 'complete') FROM trials", [db]).rows
    complete = sum(row.state == "complete" for row in trials)
    assert rows == ((len(trials), len(trials), complete),)
    assert query("SELECT count(*) FROM measurements", [db]).rows == ((2 * complete,),)
    assert query("SELECT count(*) FROM steps", [db]).rows == ((len(trials),),)
    assert query("SELECT count(*), count(finished) FROM sessions", [db]).rows == ((4, 0),)
    # What was drained piece by piece between kills is what one drain of the whole journal gives.
    pieces = dump(db)
    db.unlink()
    Writer(db).close()
    assert dump(db) == pieces


@pytest.mark.parametrize("stored", [False, True])
def test_what_a_session_trains_on_is_with_its_machine(tmp_path: Path, stored: bool) -> None:
    db = tmp_path / "x.duckdb"
    training = {"device": "cuda:0", "name": "NVIDIA H200", "memory": 150_000_000_000}
    with Writer(db) as store:
        store.record(session())
        if stored:
            # The session's row is in DuckDB alone when its worker has begun.
            store.sync(final=True)
        store.record({"event": "device", "session": "r1-s0", "training": training})
        store.record({"event": "device", "session": "another", "training": training})
    (row,) = query("SELECT machine->>'$.training.name', machine->>'$.processor' FROM sessions", [db]).rows
    assert row == ("NVIDIA H200", "x")
    journal_path(db).unlink()
    with Writer(db):
        pass
    assert query("SELECT machine->>'$.training.device' FROM sessions", [db]).rows == (("cuda:0",),)


def test_scored_again_is_not_timed_again(tmp_path: Path) -> None:
    timed = [measurement("latency.p50", 1e-4, ratio=2.0), measurement("accuracy", 0.9)]
    again = {"event": "measured", "run": "r1", "trial": 1, "at": "2026-05-04T13:00:00+00:00"}
    with Writer(tmp_path / "x.duckdb") as store:
        for event in (session(), start("r1", 1), end("r1", 1, measurements=timed)):
            store.record(event)
        found = [store.trials("r1")[0].passes]
        for turn, measurements in enumerate(([measurement("test.accuracy", 0.8)], timed[:1]), start=1):
            store.record({**again, "pass": turn, "measurements": measurements})
            found.append(store.trials("r1")[0].passes)
    assert found == [1, 1, 2]


def test_what_is_measured_again_is_judged_again(tmp_path: Path) -> None:
    db = tmp_path / "x.duckdb"
    measured = {"event": "measured", "run": "r1", "trial": 1, "pass": 1, "at": "2026-05-04T13:00:00+00:00"}
    violation = {"text": "latency <= 0.1ms", "by": 0.2, "said": "latency 0.12 ms is above the limit", "missed": []}
    with Writer(db) as store:
        for event in (session(), start("r1", 1), end("r1", 1, measurements=[measurement("latency.p50", 9e-5)])):
            store.record(event)
        # The trial's row is in DuckDB alone when the verdict on it changes.
        store.sync(final=True)
        store.record({
            **measured, "measurements": [measurement("latency.p50", 1.2e-4)], "state": "infeasible",
            "reason": violation["said"], "violations": [violation],
        })
        (row,) = store.trials("r1")
        assert (row.state, row.reason, row.violations) == ("infeasible", violation["said"], (violation,))
    select = "SELECT state, reason, violations ->> '$[0].said', seconds IS NOT NULL FROM trials"
    assert query(select, [db]).rows == (("infeasible", violation["said"], violation["said"], True),)
    before = dump(db)
    db.unlink()
    Writer(db).close()
    assert dump(db) == before
    journal_path(db).unlink()
    Writer(db).close()
    assert dump(db) == before


def test_a_run_goes_on_while_another_program_holds_the_file(tmp_path: Path) -> None:
    db = tmp_path / "x.duckdb"
    events = list(search_events(5))
    write(db, events[:4])
    with Writer(db) as store:
        for arguments in ((), ("read only",)):
            with holding(db, *arguments) as other:
                store._next_sync = 0.0
                half = len(events) // 2
                for event in events[4:half] if not arguments else events[half:-1]:
                    store.record(event)
                assert store.trouble is not None
                assert "held open by another program" in store.trouble
                other.kill()
        store.record(events[-1])
        assert store.sync(final=True)
        assert store.trouble is None
    assert query("SELECT count(*) FROM trials", [db]).rows == ((14,),)


def test_close_does_not_wait_for_ever_and_readers_have_the_rest_from_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = tmp_path / "x.duckdb"
    events = list(search_events(3))
    write(db, events[:2])
    monkeypatch.setattr("optlang.store.writer.PATIENCE", 0.1)
    with holding(db, "read only") as other:
        write(db, events[2:])
        assert query("SELECT count(*) FROM results", [db]).rows == ((12,),), "a reader beside a reader"
        other.kill()
    assert query("SELECT count(*) FROM results", [db]).rows == ((12,),)
    write(db, [])
    connection = database.open_file(db)
    assert connection.execute("SELECT count(*) FROM results").fetchall() == [(12,)]
    connection.close()


def test_a_reader_gives_up_in_the_end_and_says_what_to_do(tmp_path: Path) -> None:
    db = tmp_path / "x.duckdb"
    write(db, list(search_events(1)))
    journal_path(db).unlink()
    with holding(db) as other:
        with pytest.raises(OutsideError, match="held open by another program") as caught:
            connect([db], patience=0.1)
        assert caught.value.exit_code == 3
        other.kill()


def test_a_file_that_is_held_is_left_alone_and_the_journal_read(tmp_path: Path) -> None:
    db = tmp_path / "x.duckdb"
    write(db, list(search_events(3)))
    expected = query("FROM results ORDER BY trial", [db]).rows
    with holding(db) as other:
        assert query("FROM results ORDER BY trial", [db]).rows == expected
        other.kill()


def test_readers_answer_while_a_writer_writes(tmp_path: Path) -> None:
    db = tmp_path / "x.duckdb"
    write(db, [session()])
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(db), "0", "1"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        seen = -1
        for _ in range(8):
            for _ in range(9):
                word, trial = process.stdout.readline().split()
            rows = query(
                "SELECT max(trial), count(*), count(DISTINCT trial), count(*) FILTER (state = 'running') FROM results",
                [db],
            ).rows
            newest, count, distinct, running = rows[0]
            assert count == distinct == newest + 1
            assert running <= 1
            assert newest >= int(trial) - 1, f"{word} {trial} was told before the question"
            assert newest >= seen
            seen = newest
        process.kill()


def test_a_trial_is_running_while_its_run_lives_and_interrupted_after(tmp_path: Path) -> None:
    db = tmp_path / "x.duckdb"
    question = "SELECT trial, state, reason FROM results ORDER BY trial"
    store = Writer(db)
    for event in [session(), start("r1", 0), end("r1", 0), start("r1", 1)]:
        store.record(event)
    assert query(question, [db]).rows == ((0, "complete", None), (1, "running", None))
    assert [row.state for row in store.trials("r1")] == ["complete", "running"]
    store.close()
    over = ((0, "complete", None), (1, "failed", "interrupted"))
    assert query(question, [db]).rows == over
    with Writer(db) as store:
        assert store.trials("r1")[1].interrupted
        assert store.next_trial("r1") == 2
        store.record(session(number=1))
        store.record(start("r1", 2, number=1))
        assert query(question, [db]).rows == (*over, (2, "running", None))
        store.record(end("r1", 2, "infeasible", reason="too slow"))
        store.record(finish(number=1))
    assert query(question, [db]).rows == (*over, (2, "infeasible", "too slow"))


def test_a_deleted_database_is_made_again_from_its_journal(tmp_path: Path) -> None:
    db = tmp_path / "x.duckdb"
    write(db, list(search_events(20)))
    before = dump(db)
    db.unlink()
    assert query("SELECT count(*) FROM trials", [db]).rows == ((29,),), "a reader needs no file"
    assert not db.exists()
    write(db, [])
    assert dump(db) == before


def test_a_deleted_journal_is_made_again_from_its_database(tmp_path: Path) -> None:
    db = tmp_path / "x.duckdb"
    events = list(search_events(20))
    write(db, events[:-9])
    with Writer(db) as store:
        store.record(
            {
                "event": "measured",
                "run": "r1",
                "trial": 0,
                "pass": 1,
                "at": "2026-05-04T13:00:00+00:00",
                "measurements": [measurement("latency.p50", 2e-4)],
            }
        )
        known = store.trials("r1")
    before = dump(db)
    journal_path(db).unlink()
    with Writer(db) as store:
        assert store.trials("r1") == known
        assert [row.run for row in store.runs()] == ["r1"]
        assert store.runs()[0].plan == make_plan().model_dump(mode="json")
    assert dump(db) == before
    write(db, [session(number=1), start("r1", 99, number=1), end("r1", 99)])
    assert query("SELECT count(*) FROM trials", [db]).rows == ((len(known) + 1,),)
    db.unlink()
    write(db, [])
    assert query("SELECT count(*) FROM trials", [db]).rows == ((len(known) + 1,),)


def test_files_that_go_while_a_run_writes_come_again(tmp_path: Path) -> None:
    db = tmp_path / "x.duckdb"
    events = list(search_events(10))
    with Writer(db) as store:
        for number, event in enumerate(events):
            if number == 6:
                store.sync(final=True)
                journal_path(db).unlink()
            if number == 17:
                db.unlink()
            store.record(event)
    whole = tmp_path / "y.duckdb"
    write(whole, events)
    assert dump(db) == dump(whole)


def test_the_same_lines_again_change_nothing(tmp_path: Path) -> None:
    db = tmp_path / "x.duckdb"
    write(db, list(search_events(8)))
    before = dump(db)
    connection = database.open_file(db)
    connection.execute("UPDATE optlang SET journal = 'another', drained = 7")
    connection.close()
    write(db, [])
    assert dump(db) == before


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    db = tmp_path / "x.duckdb"
    write(db, list(search_events(1)))
    connection = database.open_file(db)
    connection.execute("UPDATE optlang SET version = 99")
    connection.close()
    for refused in (lambda: Writer(db), lambda: connect([db])):
        with pytest.raises(OutsideError, match="newer optlang") as caught:
            refused()
        assert caught.value.exit_code == 3


def test_an_older_version_is_brought_forward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    db = tmp_path / "x.duckdb"
    write(db, list(search_events(3)))
    next_script = tmp_path / "next.sql"
    next_script.write_text("ALTER TABLE trials ADD COLUMN mood VARCHAR; UPDATE trials SET mood = 'good';")
    monkeypatch.setattr(database, "SCRIPTS", (*database.SCRIPTS, str(next_script)))
    assert query("SELECT DISTINCT mood FROM trials", [db]).rows == (("good",),), "a reader brings its copy forward"
    write(db, [session(number=1)])
    connection = database.open_file(db)
    assert connection.execute("SELECT version FROM optlang").fetchall() == [(len(database.SCRIPTS),)]
    assert connection.execute("SELECT count(mood), count(*) FROM trials").fetchall() == [(12, 12)]
    connection.close()


def test_measurements_of_version_1_are_kept_and_have_no_baseline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = tmp_path / "x.duckdb"
    with monkeypatch.context() as old:
        old.setattr(database, "SCRIPTS", database.SCRIPTS[:1])
        connection = database.open_file(db)
        database.bring_forward(connection, db)
        connection.execute("INSERT INTO runs (run, study) VALUES ('r', 's')")
        connection.execute("INSERT INTO measurements (run, trial, pass, metric, value) VALUES ('r', 0, 0, 'size', 7)")
        connection.close()
    assert query("SELECT value, baseline FROM measurements", [db]).rows == ((7.0, None),)


def without(db: Path, version: int, *tables: str) -> None:
    """Make the database one of an older version, which did not have these tables."""
    connection = database.open_file(db)
    for name in tables:
        connection.execute(f"DROP TABLE {name}")
    connection.execute("UPDATE optlang SET version = ?, views = NULL", [version])
    connection.close()


def test_a_database_of_version_2_gets_a_table_of_curves(tmp_path: Path) -> None:
    db = tmp_path / "x.duckdb"
    curve = {"path": "a", "cached": True, "epochs": 2, "epoch": [1, 2], "loss": [0.5, 0.25], "value": [None, None],
             "seconds": [1.0, 2.0]}
    write(db, [session(), start("r1", 0), end("r1", 0)])
    without(db, 2, "curves", "warm_starts", "pauses")
    question = "SELECT trial, step, technique, epoch, epochs, loss, metric, value, seconds, cached FROM learning"
    assert query(question, [db]).rows == (), "a reader brings its copy forward"
    assert query("SELECT count(*) FROM trials", [db]).rows == ((1,),)
    steps = [{"path": "a", "technique": "t", "settings": {}}]
    write(db, [session(number=1), start("r1", 1, number=1, steps=steps), end("r1", 1, steps=steps, curves=[curve])])
    rows = query(question, [db]).rows
    assert rows == tuple(
        (1, "a", "t", epoch, 2, loss, None, None, seconds, True) for epoch, loss, seconds in ((1, 0.5, 1), (2, 0.25, 2))
    )
    journal_path(db).unlink()
    write(db, [])
    db.unlink()
    write(db, [])
    assert query(question, [db]).rows == rows, "the journal that is made from the tables has the curves"


def test_a_database_of_version_3_gets_a_table_of_warm_starts(tmp_path: Path) -> None:
    db = tmp_path / "x.duckdb"
    write(db, [session(), start("r1", 0), end("r1", 0)])
    without(db, 3, "warm_starts", "pauses")
    question = "SELECT run, position, from_run, from_trial, point ->> 'a', objectives, violations FROM warm_starts"
    assert query(question, [db]).rows == (), "a reader brings its copy forward"
    taken = [
        {"from_run": "r0", "from_trial": number, "point": {"a": number}, "objectives": [0.5, number], "violations": []}
        for number in (7, 3)
    ]
    event = {"event": "warm start", "run": "r1", "taken": taken}
    write(db, [session(number=1), event, event])
    rows = query(question, [db]).rows
    assert [row[:5] for row in rows] == [("r1", 0, "r0", 7, "7"), ("r1", 1, "r0", 3, "3")], "once only"
    journal_path(db).unlink()
    with Writer(db) as store:
        assert [(item.from_trial, item.objectives) for item in store.warm_start("r1") or ()] == [
            (7, (0.5, 7)), (3, (0.5, 3))
        ]
        assert store.warm_start("r2") is None
    db.unlink()
    write(db, [])
    assert query(question, [db]).rows == rows, "the journal that is made from the tables has them"


def test_what_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    db = tmp_path / "notes.txt"
    db.write_text("dear diary\n" * 1000)
    for refused in (lambda: Writer(db), lambda: connect([db])):
        with pytest.raises(OutsideError, match="is not a DuckDB database"):
            refused()
    assert db.read_text() == "dear diary\n" * 1000
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_second_run_is_refused_while_the_first_writes(tmp_path: Path) -> None:
    db = tmp_path / "x.duckdb"
    with Writer(db), pytest.raises(OutsideError, match="another run is writing"):
        Writer(db)
    Writer(db).close()


def test_steps_stand_in_the_order_in_which_they_were_done(tmp_path: Path) -> None:
    db = tmp_path / "x.duckdb"
    planned = [{"path": path, "technique": "t", "settings": {"x": number}} for number, path in enumerate("aab")]
    done = [{"path": path, "cached": path == "z", "seconds": 1.0, "key": str(n)} for n, path in enumerate("zaa")]
    write(db, [session(), start("r1", 1, steps=planned), end("r1", 1, "failed", steps=done)])
    rows = query("SELECT path, settings ->> 'x', key, cached FROM steps ORDER BY position", [db]).rows
    assert rows == (("z", None, "0", True), ("a", "0", "1", False), ("a", "1", "2", False), ("b", "2", None, None))


def test_a_full_disk_is_reported_as_such_and_nothing_is_lost(tmp_path: Path) -> None:
    db = tmp_path / "x.duckdb"
    told = subprocess.run(
        [sys.executable, "-c", FULL, str(db)], capture_output=True, text=True, check=True, timeout=100
    ).stdout
    last, _, trouble = told.strip().partition(" ")
    assert "File too large" in trouble, "the reason, not what became of the transaction"
    assert "rollback" not in trouble
    assert query("SELECT count(*), count(DISTINCT trial) FROM trials", [db]).rows == ((int(last) + 1, int(last) + 1),)


def test_a_database_of_version_4_gets_a_table_of_pauses(tmp_path: Path) -> None:
    db = tmp_path / "x.duckdb"
    write(db, [session(), start("r1", 0), end("r1", 0)])
    without(db, 4, "pauses")
    question = "SELECT trial, rung, epoch, epochs, state, went_on, seconds FROM rungs"
    assert query(question, [db]).rows == (), "a reader brings its copy forward"
    write(db, [
        session(number=1), start("r1", 1, number=1, steps=PAUSED_STEPS), pause(1, 1, 1, 2.0),
        start("r1", 2, number=1, steps=PAUSED_STEPS), pause(2, 1, 1, 3.0), resume(1), pause(1, 3, 4, 5.0),
        {"event": "left", "run": "r1", "trial": 2, "reason": "after epoch 1 of 9: 1 of 1 other trial was better there"},
    ])
    rows = query(question, [db]).rows
    assert rows == (
        (1, 1, 1, 9, "paused", True, 2.0), (2, 1, 1, 9, "paused", False, 3.0), (1, 3, 4, 9, "paused", False, 5.0),
    )
    told = "SELECT trial, state, reason, seconds FROM results WHERE trial > 0"
    states = query(told, [db]).rows
    assert states == (
        (1, "paused", "after epoch 4 of 9", 5.0),
        (2, "paused", "after epoch 1 of 9: 1 of 1 other trial was better there", 3.0),
    )
    learned = "SELECT trial, count(*) FROM learning GROUP BY trial ORDER BY trial"
    assert query(learned, [db]).rows == ((1, 4), (2, 1)), "each epoch once"
    journal_path(db).unlink()
    with Writer(db) as store:
        assert [item["rung"] for item in store.trial("r1", 1).pauses] == [1, 3]
        assert store.trial("r1", 2).pauses[0]["scores"] == {"laptop": {"accuracy": 0.1}}
    db.unlink()
    write(db, [])
    assert query(question, [db]).rows == rows, "the journal that is made from the tables has them"
    assert query(told, [db]).rows == states


def test_a_trial_that_goes_on_and_is_killed_is_paused_again(tmp_path: Path) -> None:
    db = tmp_path / "x.duckdb"
    write(db, [session(), start("r1", 0), end("r1", 0), start("r1", 1, steps=PAUSED_STEPS), pause(1, 1, 1, 2.0)])
    with Writer(db) as store:
        store.record(session(number=1))
        store.record(resume(1))
        assert store.sync(final=True)
        assert query("SELECT state FROM results WHERE trial = 1", [db]).rows == (("running",),)
    told = "SELECT state, reason, seconds FROM results WHERE trial = 1"
    assert query(told, [db]).rows == (("paused", "after epoch 1 of 9", 2.0),)
    with Writer(db) as store:
        assert not store.trial("r1", 1).interrupted
        store.record(session(number=2))
        store.record(resume(1))
        store.record(end("r1", 1, steps=PAUSED_STEPS, seconds=7.0))
        assert store.trial("r1", 1).state == "complete"
    assert query(told, [db]).rows == (("complete", None, 7.0),)
    assert query("SELECT rung, went_on, accuracy FROM rungs", [db]).rows == ((1, True, 0.1),)


def pruned(trial: int) -> dict[str, Any]:
    return {"event": "pruned", "run": "r1", "trial": trial, "at": "2026-01-02T03:04:05+00:00"}


def test_a_database_of_version_5_says_which_artifacts_were_pruned_and_built_again(tmp_path: Path) -> None:
    db = tmp_path / "x.duckdb"
    artifact = {
        "target": "laptop", "path": "a/1", "format": "onnx", "bytes": 7, "sha256": "old", "files": [], "inputs": [],
        "outputs": [], "about": {},
    }
    trials = [event for number in (1, 2, 3) for event in (start("r1", number), end("r1", number, artifacts=[artifact]))]
    write(db, [session(), *trials])
    connection = database.open_file(db)
    connection.execute("ALTER TABLE artifacts DROP COLUMN pruned")
    connection.execute("UPDATE optlang SET version = 5, views = NULL")
    connection.close()
    question = "SELECT trial, sha256, pruned FROM artifacts ORDER BY trial"
    assert query(question, [db]).rows == tuple((number, "old", None) for number in (1, 2, 3)), "brought forward"
    again = {"event": "rebuilt", "run": "r1", "trial": 2, "artifacts": [{**artifact, "sha256": "new"}]}
    write(db, [session(number=1), pruned(1), pruned(2), again, start("r1", 4), end("r1", 4, artifacts=[artifact])])
    write(db, [session(number=2), pruned(4)])
    at = datetime(2026, 1, 2, 3, 4, 5)  # noqa: DTZ001 - the tables hold UTC without its zone
    rows = query(question, [db]).rows
    assert rows == ((1, "old", at), (2, "new", None), (3, "old", None), (4, "old", at))
    journal_path(db).unlink()
    with Writer(db) as store:
        assert [row.artifacts[0]["pruned"] is None for row in store.trials("r1")] == [False, True, True, False]
    db.unlink()
    write(db, [])
    assert query(question, [db]).rows == rows, "the journal that is made from the tables has them"
