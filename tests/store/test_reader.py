"""Questions are answered; whatever else SQL can do is refused, and says why."""

import errno
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from optlang.cli.app import command
from optlang.interfaces import OptlangError, OutsideError
from optlang.plan.model import Plan
from optlang.store.reader import Reader, connect, query
from optlang.store.writer import Writer
from tests.store.example_study import end, make_plan, measurement, search_events, session, start


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reader") / "x.duckdb"
    with Writer(path) as store:
        for event in search_events(12):
            store.record(event)
    return path


@pytest.fixture(scope="module")
def reader(db: Path) -> Iterator[Reader]:
    with connect([db]) as found:
        yield found


WRITES = [
    "INSERT INTO trials (run) VALUES ('x')",
    "UPDATE trials SET state = 'complete'",
    "DELETE FROM trials",
    "DROP TABLE trials",
    "DROP VIEW front",
    "CREATE TABLE t (x INTEGER)",
    "CREATE TEMP TABLE t AS SELECT 1",
    "CREATE VIEW v AS SELECT 1",
    "ALTER TABLE trials RENAME TO t",
    "TRUNCATE trials",
    "WITH x AS (SELECT 1) DELETE FROM trials",
    "BEGIN",
    "VACUUM",
    "EXPLAIN ANALYZE DELETE FROM trials",
    "EXPLAIN (ANALYZE, FORMAT JSON) DELETE FROM trials",
    "PREPARE p AS DELETE FROM trials",
    "SELECT 1; DROP TABLE trials",
    "CREATE MACRO m() AS 1",
    "MERGE INTO trials t USING trials s ON t.run = s.run WHEN MATCHED THEN DELETE",
]
REACHES = [
    "COPY trials TO '{folder}/out.csv'",
    "COPY trials FROM '{folder}/in.csv'",
    "EXPORT DATABASE '{folder}/out'",
    "ATTACH '{folder}/other.duckdb'",
    "DETACH memory",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET threads = 1",
    "SET enable_external_access = true",
    "SET lock_configuration = false",
    "RESET threads",
    "USE memory",
    "PRAGMA threads = 1",
    "SELECT * FROM read_csv('{folder}/in.csv')",
    "SELECT * FROM '{folder}/in.csv'",
    "SELECT * FROM read_text('{folder}/in.csv')",
    "SELECT * FROM read_blob('{folder}/in.csv')",
    "SELECT * FROM read_json('{folder}/in.csv')",
    "SELECT * FROM read_parquet('{folder}/in.csv')",
    "SELECT * FROM glob('{folder}/*')",
    "SELECT * FROM read_duckdb('{folder}/x.duckdb')",
    "SELECT * FROM query('SELECT * FROM read_text(''{folder}/in.csv'')')",
    "SELECT * FROM sqlite_scan('{folder}/in.sqlite', 't')",
    "SELECT * FROM read_csv('https://example.org/a.csv')",
]


@pytest.mark.parametrize("sql", [*WRITES, *REACHES])
def test_what_is_no_question_is_refused(reader: Reader, tmp_path: Path, sql: str) -> None:
    (tmp_path / "in.csv").write_text("secret\n1\n")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OptlangError) as caught:
        reader.query(sql.replace("{folder}", str(tmp_path)))
    assert "secret" not in str(caught.value)
    assert caught.value.exit_code == 1
    if sql in WRITES:
        assert "only reads" in caught.value.message
    assert sorted(tmp_path.iterdir()) == before
    assert reader.query("SELECT count(*) FROM trials").rows == ((21,),), "nothing has changed"
    assert reader.query("SELECT current_setting('lock_configuration')").rows == ((True,),)


def test_reaching_out_is_refused_with_the_way_out(reader: Reader) -> None:
    with pytest.raises(OptlangError, match="no files") as caught:
        reader.query("COPY trials TO 'out.csv'")
    assert "--format csv" in str(caught.value.help)


@pytest.mark.parametrize(
    "sql",
    [
        "FROM front",
        "SHOW TABLES",
        "DESCRIBE results",
        "SUMMARIZE trials",
        "EXPLAIN FROM front",
        "VALUES (1)",
        "WITH best AS (FROM front LIMIT 1) FROM best",
        "PIVOT results ON state USING count(*) GROUP BY origin",
        "PRAGMA table_info('trials')",
        "SELECT point ->> 'precision' FROM trials",
        "SELECT 1; SELECT 2",
        "SELECT MAP {'a': 1}, [1, 2], {'x': 1}",
        "-- a comment\nFROM results",
    ],
)
def test_questions_of_every_kind_are_answered(reader: Reader, sql: str) -> None:
    assert reader.query(sql).columns


def test_of_several_statements_the_last_answers(reader: Reader) -> None:
    assert reader.query("SELECT 1; SELECT 2 AS x;").rows == ((2,),)


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELEC 1", "syntax error at or near"),
        ("SELECT accuracyy FROM results", '"accuracy"'),
        ("FROM result", 'Did you mean "results'),
        ("SELECT 'a'::INTEGER", "Could not convert"),
        ("", "no question"),
        ("-- nothing", "no question"),
    ],
)
def test_mistakes_are_told_in_duckdbs_own_words(reader: Reader, sql: str, said: str) -> None:
    with pytest.raises(OptlangError) as caught:
        reader.query(sql)
    assert said in caught.value.message
    assert caught.value.exit_code == 1


def test_parameters_are_values_and_never_sql(reader: Reader) -> None:
    assert reader.query("SELECT ? AS x", ["'; DROP TABLE trials; --"]).rows == (("'; DROP TABLE trials; --",),)


def test_an_open_reader_holds_no_file(db: Path, reader: Reader) -> None:
    before = db.stat().st_mtime_ns
    with Writer(db) as store:
        store.record(session("r9", plan=make_plan("other")))
        assert store.sync(final=True)
        assert store.trouble is None
    assert db.stat().st_mtime_ns != before
    assert query("SELECT count(*) FROM runs", [db]).rows == ((2,),)
    assert reader.query("SELECT count(*) FROM runs").rows == ((1,),), "what it read stays as it was"


def test_the_copy_that_is_queried_is_gone_as_soon_as_it_is_open(
    db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with connect([db]) as found:
        if sys.platform != "win32":
            assert list(tmp_path.iterdir()) == []
        assert found.query("SELECT count(*) FROM results WHERE size > 0").rows[0][0] > 0
    assert list(tmp_path.iterdir()) == []


def test_a_full_folder_for_copies_is_said_with_the_way_out(
    db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: str, copy: str) -> None:
        if not source.endswith(".wal"):
            raise OSError(errno.ENOSPC, "No space left on device")
        raise FileNotFoundError

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(OutsideError, match="No space left on device") as caught:
        connect([db])
    assert "TMPDIR" in str(caught.value.help)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_program_left_in_the_log_of_the_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.duckdb"
    with Writer(path) as store:
        for event in search_events(3):
            store.record(event)
    killed = (
        "import duckdb, os, sys\n"
        "connection = duckdb.connect(sys.argv[1])\n"
        "connection.execute(\"UPDATE trials SET reason = 'by hand' WHERE trial = 2\")\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", killed, str(path)], check=True)
    assert Path(f"{path}.wal").exists()
    assert query("SELECT reason FROM results WHERE trial = 2", [path]).rows == (("by hand",),)


def test_several_databases_are_one(db: Path, tmp_path: Path) -> None:
    other = tmp_path / "y.duckdb"
    with Writer(other) as store:
        for event in [session("r2", plan=make_plan("other")), start("r2", 0), end("r2", 0)]:
            store.record(event)
    one = query("SELECT count(*) FROM results", [db]).rows[0][0]
    answer = query("SELECT study, count(*) FROM results GROUP BY study ORDER BY study", [db, other, db])
    assert answer.rows == (("digits", one), ("other", 1)), "the same database twice is there once"


def test_no_database_is_said_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(OutsideError, match="there is no database") as caught:
        connect([tmp_path / "none.duckdb"])
    assert "optlang run" in str(caught.value.help)
    assert list(tmp_path.iterdir()) == []


def test_a_database_of_something_else_is_said(tmp_path: Path) -> None:
    import duckdb

    other = tmp_path / "other.duckdb"
    duckdb.connect(str(other)).execute("CREATE TABLE t (x INTEGER)").close()
    with pytest.raises(OutsideError, match="holds no studies"):
        connect([other])
    lite = tmp_path / "lite.db"
    with sqlite3.connect(lite) as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    with pytest.raises(OutsideError):
        connect([lite])


def test_a_thousand_trials_are_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.duckdb"
    with Writer(path) as store:
        for event in search_events(1000):
            store.record(event)
    with connect([path]) as found:
        assert found.query("SELECT count(*), count(DISTINCT trial) FROM results").rows == ((1009, 1009),)
        assert (
            found.query("SELECT count(*) FROM measurements").rows
            == found.query("SELECT 8 * count(*) FROM trials WHERE state IN ('complete', 'infeasible')").rows
        )


def test_nothing_heavy_is_loaded_before_it_is_asked_for() -> None:
    code = (
        "import sys, optlang.store.writer, optlang.store.reader, optlang.report.front_table, optlang.report.front, "
        "optlang.report.export.write, optlang.report.tables; "
        "print([name for name in ('torch', 'duckdb', 'rich', 'optuna', 'numpy') if name in sys.modules])"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert told.stdout == "[]\n"


def old_plan(plan: Plan) -> dict[str, Any]:
    """A plan as a version of optlang might have stored it whose plans had other members."""
    stored = plan.model_dump(mode="json")
    stored["bits"] = stored.pop("measure")
    return stored


def test_a_run_that_another_version_stored_is_reported_and_the_others_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    db, old, new = tmp_path / "x.duckdb", make_plan("old"), make_plan("new")
    figures = [measurement("size", 100.0)]
    with Writer(db) as store:
        for number, (run, plan) in enumerate((("r1", old), ("r2", new))):
            stored = old_plan(plan) if plan is old else plan.model_dump(mode="json")
            store.record({**session(run, number, plan, optlang="0.0.9"), "plan": stored})
            store.record(start(run, 0, number=number))
            store.record(end(run, 0, measurements=figures))
    assert command(["sql", "SELECT study, size FROM results ORDER BY study", "--db", str(db), "--format", "csv"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "study,size\nnew,100\nold,100\n", "what a readable run has too"
    message = "run r1 of `old` was stored by optlang 0.0.9, in a form that this version cannot read"
    assert shown.err == f"warning: {message}: it is left out of front and tradeoffs, and its own columns of results\n"
    assert command(["front", "new", "--db", str(db)]) == 0
    capsys.readouterr()
    for view in ("front", "tradeoffs"):
        assert command([view, "old", "--db", str(db)]) == 3
        assert f"error: {message}\n" in capsys.readouterr().err
    assert command(["export", "old", "0", "-o", str(tmp_path / "out"), "--db", str(db)]) != 0
    assert "Traceback" not in capsys.readouterr().err
