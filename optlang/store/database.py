"""The DuckDB file: opening it, its version, and rows in and out of its tables."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from optlang import resources
from optlang.interfaces import OutsideError
from optlang.store.plans import StoredRun, stored_runs
from optlang.store.projection import Row, Rows, Seen
from optlang.store.views import quoted, quoted_text, view_statements

if TYPE_CHECKING:
    import duckdb

T = TypeVar("T")

SCRIPTS = ("schema.sql", "schema_2.sql", "schema_3.sql", "schema_4.sql", "schema_5.sql", "schema_6.sql")
"""What brings a database forward: the first makes version 1, each further one the next version."""

TABLES = (
    "studies", "runs", "sessions", "trials", "steps", "measurements", "artifacts", "curves", "warm_starts", "pauses",
)
# Rows with equal values in these columns are replaced.
_KEYS = {
    "studies": ("study",), "runs": ("run",), "sessions": ("session",), "trials": ("run", "trial"),
    "steps": ("run", "trial"), "curves": ("run", "trial"), "pauses": ("run", "trial", "rung"),
    "artifacts": ("run", "trial"),
}
# What DuckDB says of a file that another process, or another connection of this one, has open.
_HELD = ("lock on file", "already attached", "different configuration", "file handle conflict")
_CONFIG = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}


class HeldError(OutsideError):
    """Another program has the database file open."""


def open_file(db: Path) -> duckdb.DuckDBPyConnection:
    """Open (or make) the database for writing; HeldError while another program has it open, OutsideError otherwise."""
    import duckdb

    try:
        return duckdb.connect(str(db), config=dict(_CONFIG))
    except duckdb.Error as error:
        raise _refused(db, error) from error


def open_memory() -> duckdb.DuckDBPyConnection:
    """An empty database in memory."""
    import duckdb

    return duckdb.connect(":memory:", config=dict(_CONFIG))


def attach(connection: duckdb.DuckDBPyConnection, db: Path, name: str, *, to_write: bool = False) -> None:
    """Attach the database file for reading; HeldError while a writer has it open, OutsideError otherwise."""
    import duckdb

    try:
        connection.execute(f"ATTACH {quoted_text(str(db))} AS {name}{'' if to_write else ' (READ_ONLY)'}")
    except duckdb.Error as error:
        raise _refused(db, error) from error


def patiently(attempt: Callable[[], T], seconds: float) -> T:
    """Try again for so many seconds while another program holds the file; then HeldError."""
    end = time.monotonic() + seconds
    pause = 0.005
    while True:
        try:
            return attempt()
        except HeldError:
            if time.monotonic() + pause > end:
                raise
            time.sleep(pause)
            pause = min(2 * pause, 0.1)


def _refused(db: Path, error: Exception) -> OutsideError:
    text = str(error)
    if any(sign in text for sign in _HELD):
        return HeldError(
            f"the database {db} is held open by another program",
            help="close the program that has it open (a DuckDB shell, DBeaver, a notebook) and try again",
        )
    if "not a valid DuckDB database" in text or "file is corrupted" in text.lower():
        return OutsideError(
            f"{db} is not a DuckDB database",
            help="name the database with --db PATH; a damaged one is made again from its journal when it is moved away",
        )
    return OutsideError(
        f"cannot open the database {db}: {text.splitlines()[0]}", help="name another database with --db PATH"
    )


def failed(db: Path, error: Exception) -> OutsideError:
    """Writing or reading the database failed for a reason of its own, say a full disk."""
    return OutsideError(
        f"the database {db} failed: {str(error).splitlines()[0]}", help="the journal next to it has everything"
    )


def bring_forward(connection: duckdb.DuckDBPyConnection, db: Path) -> bool:
    """Make the tables, or bring those of an older version to this one, and say whether anything was to be done.

    OutsideError where they are of a newer version.
    """
    version = stored_version(connection)
    if version > len(SCRIPTS):
        raise newer(db, version)
    if version == len(SCRIPTS):
        return False
    with transaction(connection):
        for script in SCRIPTS[version:]:
            connection.execute(resources.data("optlang.store", script).read_text(encoding="utf-8"))
        if version == 0:
            connection.execute("INSERT INTO optlang VALUES (?, NULL, 0, NULL)", [len(SCRIPTS)])
        else:
            connection.execute("UPDATE optlang SET version = ?, views = NULL", [len(SCRIPTS)])
    return True


@contextmanager
def transaction(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """All or nothing of what is executed inside; an error passes through as it is."""
    import duckdb

    connection.begin()
    try:
        yield
        connection.commit()
    except BaseException:
        # A commit that fails, on a full disk say, has ended the transaction already: what is to be reported is why.
        with suppress(duckdb.Error):
            connection.rollback()
        raise


def stored_version(connection: duckdb.DuckDBPyConnection, name: str | None = None) -> int:
    """The version of the tables of this or of an attached database; 0 where it has none."""
    import duckdb

    try:
        row = connection.execute(f"SELECT version FROM {f'{name}.main.' if name else ''}optlang").fetchone()
    except (duckdb.CatalogException, duckdb.BinderException):
        return 0
    return 0 if row is None else int(row[0])


def newer(db: Path, version: int) -> OutsideError:
    """The database is of a version that this release does not know."""
    return OutsideError(
        f"{db} was written by a newer optlang (version {version} of the tables; this one knows {len(SCRIPTS)})",
        help="upgrade optlang: pip install --upgrade optlang-dsl",
    )


def copy_tables(connection: duckdb.DuckDBPyConnection, source: str) -> None:
    """Copy all of an attached database's tables, as they are, into the current one."""
    names = connection.execute(
        "SELECT table_name FROM duckdb_tables() WHERE database_name = ? AND schema_name = 'main'", [source]
    ).fetchall()
    for (name,) in names:
        if name in TABLES or name == "optlang":
            connection.execute(f"CREATE TABLE {quoted(name)} AS FROM {source}.main.{quoted(name)}")
    connection.execute("UPDATE optlang SET views = NULL")  # the views themselves are not copied


def changeable(
    connection: duckdb.DuckDBPyConnection, *, known_journal: bool, paused: Collection[tuple[str, int]] = ()
) -> Rows:
    """The rows that further events may change; with all keys where the journal's lines may be in the tables already.

    `paused` are the trials that these events say more of: of those that are paused, no others are read.
    """
    rows = Rows()
    again = [] if known_journal else ["t.state = 'paused'"]
    again += [f"(t.run = {quoted_text(run)} AND t.trial = {trial:d})" for run, trial in sorted(paused)]
    which = "t.state = 'running'"
    if again:
        which += f" OR (t.state = 'paused' AND ({' OR '.join(again)}))"
    for row in _dicts(connection, f"SELECT t.* FROM trials t WHERE {which}"):
        rows.trials[row["run"], row["trial"]] = row
        rows.steps[row["run"], row["trial"]] = []
    for row in _dicts(
        connection,
        f"SELECT s.* FROM steps s SEMI JOIN (FROM trials t WHERE {which}) t ON t.run = s.run AND t.trial = s.trial "
        "ORDER BY s.position",
    ):
        rows.steps[row["run"], row["trial"]].append(row)
    for row in _dicts(connection, "SELECT * FROM sessions WHERE why IS NULL"):
        rows.sessions[row["session"]] = row
    rows.first_started = {row["run"]: row["started"] for row in _dicts(connection, "SELECT run, started FROM runs")}
    if not known_journal:
        rows.seen = Seen(
            {row["session"] for row in _dicts(connection, "SELECT session FROM sessions")},
            _keys(connection, "SELECT run, trial FROM trials"),
            _keys(connection, "SELECT run, trial FROM trials WHERE state NOT IN ('running', 'paused')"),
            _keys(connection, "SELECT DISTINCT run, trial, pass FROM measurements"),
            {run for (run,) in _keys(connection, "SELECT DISTINCT run FROM warm_starts")},
            _keys(connection, "SELECT run, trial, rung FROM pauses"),
        )
    return rows


def _keys(connection: duckdb.DuckDBPyConnection, sql: str) -> set[Any]:
    return set(connection.execute(sql).fetchall())


def _dicts(connection: duckdb.DuckDBPyConnection, sql: str) -> list[Row]:
    cursor = connection.execute(sql)
    columns = [(item[0], str(item[1])) for item in cursor.description or ()]
    return [
        {name: _plain(value, kind) for (name, kind), value in zip(columns, row, strict=True)}
        for row in cursor.fetchall()
    ]


def _plain(value: Any, kind: str) -> Any:
    if value is None:
        return None
    if kind == "JSON":
        return json.loads(value)
    return value.isoformat(sep=" ") if kind.startswith("TIMESTAMP") else value


def all_rows(connection: duckdb.DuckDBPyConnection) -> dict[str, list[Row]]:
    """Every row of every table, JSON decoded."""
    order = {
        "steps": " ORDER BY run, trial, position", "measurements": " ORDER BY run, trial, pass",
        "curves": " ORDER BY run, trial, path, target, seconds, epoch",
        "warm_starts": " ORDER BY run, position", "pauses": " ORDER BY run, trial, rung",
    }
    return {name: _dicts(connection, f"SELECT * FROM {name}{order.get(name, '')}") for name in TABLES}


def put(connection: duckdb.DuckDBPyConnection, rows: Rows) -> None:
    """Write the rows, replacing what they are newer versions of."""
    for table in TABLES:
        listed = list(rows.table(table))
        if listed:
            _insert(connection, table, _types(connection, table), listed)
    for row in rows.judged.values():
        connection.execute(
            "UPDATE trials SET state = ?, reason = ?, violations = ?::JSON WHERE run = ? AND trial = ?",
            [row["state"], row["reason"], json.dumps(row["violations"]), row["run"], row["trial"]],
        )
    for (run, trial), at in rows.pruned.items():
        connection.execute("UPDATE artifacts SET pruned = ? WHERE run = ? AND trial = ?", [at, run, trial])


def _types(connection: duckdb.DuckDBPyConnection, table: str) -> dict[str, str]:
    cursor = connection.execute(f"SELECT * FROM {table} LIMIT 0")
    return {item[0]: str(item[1]) for item in cursor.description or ()}


def _insert(connection: duckdb.DuckDBPyConnection, table: str, types: dict[str, str], listed: list[Row]) -> None:
    # One JSON text a table is parsed by DuckDB in bulk: a thousand times faster than a statement a row.
    text = json.dumps(listed, separators=(",", ":"), default=str)
    shape = json.dumps([types])
    source = f"(SELECT unnest(from_json(?::JSON, {quoted_text(shape)}), max_depth := 2))"
    keys = _KEYS.get(table)
    if keys:
        same = " AND ".join(f"{table}.{key} = fresh.{key}" for key in keys)
        shape = json.dumps([{key: types[key] for key in keys}])
        found = json.dumps([{key: row[key] for key in keys} for row in listed])
        connection.execute(
            f"DELETE FROM {table} USING (SELECT unnest(from_json(?::JSON, {quoted_text(shape)}), "
            f"max_depth := 2)) fresh"
            f" WHERE {same}",
            [found],
        )
    values = ", ".join(
        # JSON's own null is no value in SQL.
        f"nullif({quoted(name)}, 'null'::JSON) AS {quoted(name)}" if kind == "JSON" else quoted(name)
        for name, kind in types.items()
    )
    connection.execute(f"INSERT INTO {table} BY NAME SELECT {values} FROM {source}", [text])


def refresh_views(
    connection: duckdb.DuckDBPyConnection, *, several: bool = False, all_runs: bool = False
) -> list[StoredRun]:
    """Make the views that people query, where the studies' knobs or metrics have changed since they were made.

    They show the newest run of each study, or `all_runs`. `several` says that the tables are those of several
    databases, which the column `db` of `runs` names.
    Returns all runs; those whose plans this version cannot read add no columns, and are in `results` only.
    """
    stored = stored_runs(connection)
    runs = [(item.run, item.study, item.plan) for item in stored if item.plan is not None]
    known = {run for run, _, _ in runs}
    measured = connection.execute(
        "SELECT run, target, metric, bool_or(baseline IS NOT NULL) FROM measurements GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    newest = connection.execute(
        "SELECT r.study, arg_max(r.run, coalesce(s.started, r.started, TIMESTAMP '1970-01-01')) FROM runs r "
        f"LEFT JOIN sessions s ON s.run = r.run GROUP BY r.study{', r.db' if several else ''} ORDER BY ALL"
    ).fetchall()
    statements = view_statements(
        runs, [item for item in measured if item[0] in known], [run for _, run in newest if run in known],
        several=several, shown=None if all_runs else [run for _, run in newest],
    )
    digest = hashlib.sha256(";".join(statements).encode()).hexdigest()
    made = connection.execute("SELECT views FROM optlang").fetchone()
    if made is None or made[0] != digest:
        for statement in statements:
            connection.execute(statement)
        connection.execute("UPDATE optlang SET views = ?", [digest])
    return stored
