"""The reader's side of the store: SQL on snapshots of the databases as they are now; nothing else can be reached.

The files are held for milliseconds only, so neither a long question nor an open shell keeps a run from writing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from optlang.diagnostics.command_line import command
from optlang.interfaces import OptlangError, OutsideError
from optlang.store import database
from optlang.store.journal import identity, journal_path
from optlang.store.lock import holder
from optlang.store.plans import StoredRun
from optlang.store.snapshot import Snapshots
from optlang.store.sync import fold
from optlang.store.views import quoted_text

if TYPE_CHECKING:
    import duckdb

    from optlang.plan.model import Plan

Parameters: TypeAlias = "Sequence[Any] | Mapping[str, Any]"

PATIENCE = 10.0
"""Seconds to wait for a database that another program holds, where there is no journal to read instead."""

LONGEST_WRITE = 1.0
"""Seconds to wait where there is one: a run holds the file for some hundredths of a second at a time."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of an answer: its name and its SQL type."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a query gave: typed columns and rows of Python values (times are UTC without a zone)."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]

    def dicts(self) -> list[dict[str, Any]]:
        """The rows by column name."""
        names = [column.name for column in self.columns]
        return [dict(zip(names, row, strict=True)) for row in self.rows]


def connect(
    dbs: Sequence[Path], *, patience: float = PATIENCE, output: Path | None = None, all_runs: bool = False
) -> Reader:
    """Read databases, with what their journals say beyond them, into one place.

    The views are of the newest run of each study, or of `all_runs`. Of several databases, the views and `runs` have a
    column `db`. `output` is the one file that `write_parquet` writes.

    A file that another program holds open is left to it, and the journal read in its place. OutsideError: there is no
    database, it has no journal and is held open for longer than `patience` seconds, it is none of ours, or of a newer
    version.
    """
    connection = database.open_memory()
    snapshots = Snapshots()
    try:
        if len(dbs) == 1:
            _load(connection, dbs[0], "store", patience, snapshots)
        else:
            database.bring_forward(connection, Path("memory"))
            connection.execute("ALTER TABLE runs ADD COLUMN db VARCHAR")
            for number, db in enumerate(dbs):
                _join(connection, db, f"db{number}", patience, snapshots)
        runs = database.refresh_views(connection, several=len(dbs) > 1, all_runs=all_runs)
        if output is not None:
            connection.execute("SET allowed_paths = ?", [[str(output)]])
        # From here on: no files, no other databases, no extensions, and no way back.
        connection.execute("PRAGMA disable_checkpoint_on_shutdown")
        connection.execute("SET enable_external_access = false; SET lock_configuration = true")
    except BaseException:
        connection.close()
        raise
    finally:
        # What has a file open reads it on, so nothing is left behind however this process ends.
        snapshots.remove()
    return Reader(connection, tuple(dbs), runs, snapshots, output)


def query(sql: str, dbs: Sequence[Path], parameters: Parameters = ()) -> Answer:
    """Ask one question; see `Reader.query`."""
    with connect(dbs) as reader:
        return reader.query(sql, parameters)


def _load(
    connection: duckdb.DuckDBPyConnection, db: Path, name: str, patience: float, snapshots: Snapshots
) -> None:
    """Attach a copy of a database, with what its journal says beyond it, and make it the current one."""
    db = db.resolve()
    journal = journal_path(db)
    if not db.exists() and not journal.exists():
        raise OutsideError(
            f"there is no database {db}",
            help=f"`{command('run', 'STUDY.opt', db=db)}` makes one; --db PATH names one that lies elsewhere",
        )
    live = holder(db) is not None
    known = identity(journal)
    version = _attach(connection, db, name, patience, known is not None, snapshots)
    if version > len(database.SCRIPTS):
        raise database.newer(db, version)
    if version == 0:
        if known is None:
            raise OutsideError(f"{db} holds no studies of optlang", help="--db PATH names the database of a run")
        connection.execute(f"ATTACH ':memory:' AS {name}")
    connection.execute(f"USE {name}")
    database.bring_forward(connection, db)
    if known is not None:
        fold(connection, db, known)
    # A run that began meanwhile is as alive as one that was there before.
    if not live and holder(db) is None:
        rows = database.changeable(connection, known_journal=True)
        rows.interrupt()
        database.put(connection, rows)


def _attach(
    connection: duckdb.DuckDBPyConnection, db: Path, name: str, patience: float, journal: bool, snapshots: Snapshots
) -> int:
    """Attach a copy of the file; returns the version of its tables, 0 where nothing is attached."""
    if not db.exists():
        return 0
    try:
        return database.patiently(
            lambda: snapshots.attach(connection, db, name), min(patience, LONGEST_WRITE) if journal else patience
        )
    except database.HeldError:
        # Some other program has the file open. The journal holds all that the file does, and takes longer to read.
        if not journal:
            raise
        return 0


def _join(
    connection: duckdb.DuckDBPyConnection, db: Path, name: str, patience: float, snapshots: Snapshots
) -> None:
    """Load a database and add those of its runs that are not there yet."""
    _load(connection, db, name, patience, snapshots)
    connection.execute("USE memory")
    for table in reversed(database.TABLES):
        key = "study" if table == "studies" else "run"
        others = "studies" if table == "studies" else "runs"
        named = f", {quoted_text(str(db))} AS db" if table == "runs" else ""
        connection.execute(
            f"INSERT INTO {table} BY NAME SELECT *{named} FROM {name}.main.{table} new "
            f"WHERE new.{key} NOT IN (SELECT {key} FROM memory.main.{others})"
        )
    connection.execute(f"DETACH {name}")


class Reader:
    """Answers queries of the databases that `connect` has read."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, dbs: tuple[Path, ...], runs: Sequence[StoredRun],
        snapshots: Snapshots, output: Path | None = None,
    ) -> None:
        self._connection = connection
        self._output = output
        self._snapshots = snapshots
        self._runs = {item.run: item for item in runs}
        self.dbs = dbs

    def plan(self, run: str) -> Plan:
        """The plan of a run; OutsideError where another version of optlang stored it, in another form."""
        return self._runs[run].readable()

    @property
    def unreadable(self) -> list[str]:
        """A message for each run that another version stored: it is not in `front` and `tradeoffs`."""
        return [item.unreadable for item in self._runs.values() if item.plan is None]

    def query(self, sql: str, parameters: Parameters = ()) -> Answer:
        """The answer to one question (of several statements, to the last).

        `parameters` are the values of `?` in their order, or of `$name` by their names. OptlangError: the SQL is wrong
        (in DuckDB's words, with what it suggests), or does something else than ask; a parameter has no value, or a
        value no parameter.
        """
        with _own_errors():
            cursor = self._execute(self._statements(sql, parameters), parameters)
            columns = tuple(Column(item[0], str(item[1])) for item in cursor.description or ())
            return Answer(columns, tuple(cursor.fetchall()))

    def write_parquet(self, sql: str, parameters: Parameters = ()) -> None:
        """Write the answer to the output that `connect` was given, with its types of SQL; errors as of `query`."""
        with _own_errors():
            *others, last = self._statements(sql, parameters)
            # The end of a statement, and a comment behind it, may stand here, and not in the brackets of COPY (…) TO.
            self._execute([*others, f"CREATE OR REPLACE TEMP TABLE answer AS\n{last.query}"], parameters)
            try:
                self._connection.execute(
                    f"COPY temp.answer TO {quoted_text(str(self._output))} (FORMAT parquet, USE_TMP_FILE false)"
                )
            finally:
                self._connection.execute("DROP TABLE temp.answer")

    def _statements(self, sql: str, parameters: Parameters) -> list[Any]:
        statements = list(self._connection.extract_statements(sql))
        if not statements:
            raise OptlangError("there is no question in this SQL", help='for example: optlang sql "FROM front"')
        for statement in statements:
            _only_asks(self._connection, statement)
        if isinstance(parameters, Mapping):
            _check_names(statements[-1].named_parameters, parameters)
        return statements

    def _execute(self, statements: Sequence[Any], parameters: Parameters) -> duckdb.DuckDBPyConnection:
        """Execute the statements; the parameters are those of the last."""
        cursor = self._connection
        for statement in statements[:-1]:
            cursor = cursor.execute(statement)
        given = dict(parameters) if isinstance(parameters, Mapping) else list(parameters)
        return cursor.execute(statements[-1], given or None)

    def close(self) -> None:
        """Forget what was read."""
        self._connection.close()
        self._snapshots.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def _own_errors() -> Iterator[None]:
    """DuckDB's errors as optlang's."""
    import duckdb

    try:
        yield
    except duckdb.PermissionException as error:
        raise _closed() from error
    except duckdb.Error as error:
        if "configuration has been locked" in str(error):
            raise _closed() from error
        raise OptlangError(_plain_error(str(error))) from error


def _check_names(wanted: Collection[str], parameters: Mapping[str, Any]) -> None:
    for name in sorted(wanted):
        if name not in parameters:
            raise OptlangError(f"the parameter ${name} has no value", help=f"--param {name}=VALUE sets it")
    for name in parameters:
        if name not in wanted:
            known = ", ".join(f"${item}" for item in sorted(wanted)) or "none"
            raise OptlangError(
                f"the SQL has no parameter ${name}", help=f"it has {known}; write ${name} where the value belongs"
            )


_ASKING = {"SELECT", "PRAGMA", "CALL", "MULTI", "EXPLAIN"}
_EXPLAIN = re.compile(r"\s*explain\s+(\([^)]*\)\s*)?(analyze\s+)?", re.IGNORECASE)


def _only_asks(connection: duckdb.DuckDBPyConnection, statement: Any) -> None:
    """Refuse statements that do not only read. `MULTI` is a PIVOT, which DuckDB takes apart into several statements."""
    kind = statement.type.name
    if kind not in _ASKING or (kind == "MULTI" and re.search(r"\bpivot", statement.query, re.IGNORECASE) is None):
        if kind in ("SET", "VARIABLE_SET", "ATTACH", "DETACH", "LOAD", "COPY", "COPY_DATABASE", "EXPORT"):
            raise _closed()
        raise OptlangError(
            f"`optlang sql` only reads: {kind.replace('_', ' ')} statements are refused",
            help="a script of your own may open a copy of the file with DuckDB",
        )
    if kind == "EXPLAIN":
        for inner in connection.extract_statements(_EXPLAIN.sub("", statement.query, count=1)):
            _only_asks(connection, inner)


def _closed() -> OptlangError:
    return OptlangError(
        "`optlang sql` reaches only the tables and views of its databases: no files, no other databases, no settings",
        help="name further databases with --db PATH; write to a file with the shell: optlang sql … --format csv > FILE",
    )


def _plain_error(text: str) -> str:
    """DuckDB's message, without its class of error where that does not help the user."""
    return re.sub(r"^(Parser|Binder|Catalog|Conversion|Invalid Input|Out of Range) Error: ", "", text)
