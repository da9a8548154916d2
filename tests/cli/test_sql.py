"""`optlang sql`: queries from files, their parameters, several databases, and Parquet."""

import io
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from optlang.cli.app import command
from optlang.store.reader import connect
from optlang.store.writer import Writer
from tests.store.example_study import end, make_plan, measurement, paused_events, search_events, session, start


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sql") / "x.duckdb"
    with Writer(path) as store:
        for event in search_events(12):
            store.record(event)
    return path


def test_a_query_is_read_from_a_file_or_the_input(
    db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "question.sql"
    file.write_text("-- how many\nSELECT count(*) AS trials\nFROM results\nWHERE trial = $trial;\n")
    asked = ["--db", str(db), "--format", "csv", "--param", "trial=3"]
    assert command(["sql", "-f", str(file), *asked]) == 0
    assert capsys.readouterr().out == "trials\n1\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(file.read_text()))
    assert command(["sql", "-f", "-", *asked]) == 0
    assert capsys.readouterr().out == "trials\n1\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "takes one query"),
        (["FROM front", "-f", "question.sql"], "takes one query"),
        (["-f", "none.sql"], "cannot read the query in none.sql: No such file"),
        (["SELECT $x", "--param", "x"], "`--param x` is no NAME=VALUE"),
        (["SELECT $x", "--param", "1=2"], "is no NAME=VALUE"),
        (["FROM front", "-f", ""], "takes one query"),
    ],
)
def test_wrong_use_is_said(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["sql", *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("3", "3,INTEGER"), ("0.5", "0.5,DOUBLE"), ("true", "true,BOOLEAN"), ("entropy", "entropy,VARCHAR"),
        ('"3"', "3,VARCHAR"), ("a=b", "a=b,VARCHAR"), ("", ",VARCHAR"), ("[1]", "[1],VARCHAR"),
        ("'; DROP TABLE trials; --", "'; DROP TABLE trials; --,VARCHAR"),
    ],
)
def test_parameters_are_values(db: Path, given: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["sql", "SELECT $x AS x, typeof($x) AS type", "--param", f"x={given}", "--db", str(db)]
    assert command([*arguments, "--format", "csv"]) == 0
    assert capsys.readouterr().out == f"x,type\n{shown}\n"


def test_a_parameter_without_a_value_and_a_value_without_a_parameter_are_named(
    db: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["sql", "SELECT $x + $y", "--param", "x=1", "--db", str(db)]) == 1
    assert "the parameter $y has no value\n  = help: --param y=VALUE sets it" in capsys.readouterr().err
    assert command(["sql", "SELECT $x", "--param", "x=1", "--param", "z=1", "--db", str(db)]) == 1
    assert "the SQL has no parameter $z" in capsys.readouterr().err


def test_parquet_is_read_by_other_programs(db: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    query = "SELECT trial, results.runtime, size, latency_p50, started FROM results JOIN trials USING (run, trial) "
    query += "WHERE trial <> $but ORDER BY trial; -- all but one"
    asked = [sys.executable, "-m", "optlang", "sql", query, "--param", "but=1", "--db", str(db)]
    with out.open("wb") as file:
        subprocess.run([*asked, "--format", "parquet"], check=True, stdout=file, cwd=Path(__file__).parents[2])
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]
    with duckdb.connect() as connection:
        read = connection.execute(f"FROM '{out}'")
        assert [(item[0], str(item[1])) for item in read.description or ()] == [
            ("trial", "INTEGER"), ("runtime", "VARCHAR"), ("size", "BIGINT"), ("latency_p50", "DOUBLE"),
            ("started", "TIMESTAMP"),
        ]
        rows = read.fetchall()
    assert len(rows) == 20
    assert rows[0][:4] == (0, None, 83_353, pytest.approx(188e-6))


def test_every_question_has_a_parquet_file(db: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    with connect([db], output=out) as reader, duckdb.connect() as connection:
        tables = reader.query("SHOW TABLES").rows
        for query in (
            "FROM front", "WITH best AS (FROM front LIMIT 1) FROM best", "VALUES (1)", "SELECT 1; SELECT 2 AS x;",
            "PIVOT results ON state USING count(*) GROUP BY origin ORDER BY origin", "SELECT * FROM results -- all",
            "SELECT machine FROM sessions",
        ):
            reader.write_parquet(query)
            assert connection.execute(f"FROM '{out}'").fetchall() == list(reader.query(query).rows), query
        assert reader.query("SHOW TABLES").rows == tables, "nothing is left"


def test_several_databases_have_a_column_that_names_them(
    db: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.duckdb"
    with Writer(other) as store:
        for event in [session("r2", plan=make_plan()), start("r2", 0), end("r2", 0, measurements=[
            measurement(metric, 1.0) for metric in ("latency.p50", "size", "accuracy")
        ])]:
            store.record(event)
    both = ["--db", str(db), "--db", str(other), "--format", "csv"]
    for view in ("results", "front", "tradeoffs"):
        assert command(["sql", f"SELECT DISTINCT db FROM {view} WHERE study = 'digits' ORDER BY db", *both]) == 0
        assert capsys.readouterr().out.splitlines() == ["db", *sorted([str(db), str(other)])], view
    for view in ("timeline", "learning", "rungs", "devices", "runs"):
        assert command(["sql", f"SELECT db FROM {view} LIMIT 1", *both]) == 0
        assert capsys.readouterr().out.startswith("db\n")
    assert command(["sql", "SELECT db FROM results", "--db", str(db)]) == 1
    assert "db" in capsys.readouterr().err


def test_the_views_are_of_the_newest_run_of_each_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    db = tmp_path / "x.duckdb"
    names = ("results", "front", "tradeoffs", "timeline", "learning", "rungs")
    with Writer(db) as store:
        for event in [*search_events(12, run="r1"), *paused_events("r1")]:
            store.record(event)
        for event in search_events(5, run="r2"):
            late = event["event"] == "session"
            store.record({**event, "started": "2026-05-05T12:00:00+00:00"} if late else event)
        store.record(session("r3", plan=make_plan("other")))
        store.record(start("r3", 0))
    with connect([db]) as newest, connect([db], all_runs=True) as every:
        assert newest.query("SELECT DISTINCT run FROM results ORDER BY run").rows == (("r2",), ("r3",))
        assert every.query("SELECT DISTINCT run FROM results ORDER BY run").rows == (("r1",), ("r2",), ("r3",))
        of_one = "SELECT count(*), count(DISTINCT trial) FROM results WHERE study = 'digits'"
        assert newest.query(of_one).rows == ((14, 14),)
        for view in names:
            columns = {column.name for column in newest.query(f"FROM {view}").columns}
            assert columns == {column.name for column in every.query(f"FROM {view}").columns}, view
        assert (newest.query("FROM rungs").rows, len(every.query("FROM rungs").rows)) == ((), 3)
        for view in ("timeline", "learning"):
            assert newest.query(f"SELECT DISTINCT run FROM {view}").rows == (("r2",),), view
            assert len(every.query(f"SELECT DISTINCT run FROM {view}").rows) == 2, view
        front = "SELECT run, trial, size, latency_x, tie_of FROM front"
        assert newest.query(front).rows == every.query(front).rows
        assert newest.query("SELECT count(DISTINCT run) FROM trials").rows == ((3,),), "the tables have all"
    asked = ["sql", "SELECT count(DISTINCT run) FROM results", "--db", str(db), "--format", "csv"]
    assert command([*asked, "--all-runs"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "3"
