"""Replays the journal into the tables, each line once, and writes it again from the tables where it was lost."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from optlang.store import database
from optlang.store.curves import curves_of
from optlang.store.journal import Journal, Line, encode, journal_path, now, read
from optlang.store.projection import INTERRUPTED, PAUSED, Row, Rows

if TYPE_CHECKING:
    import duckdb

PATIENCE = 10.0
"""Seconds to wait for a file that another program holds, where nothing goes on without it."""
_BATCH = 20_000  # lines a transaction


def sync_batch(connection: duckdb.DuckDBPyConnection, db: Path, journal: str, viewed: set[tuple[str, ...]]) -> bool:
    """One transaction: the next lines of the journal and how far it has been read. Says whether lines are left.

    `viewed` is what the views were made for when the caller last looked; they are made again where it has grown.
    """
    if database.bring_forward(connection, db):
        viewed.clear()
    with database.transaction(connection):
        rows, left = fold(connection, db, journal, _BATCH)
        shown = _shown(rows)
        if not viewed or not shown <= viewed:
            database.refresh_views(connection)
    viewed |= shown | {("made",)}
    return left


def _shown(rows: Rows) -> set[tuple[str, ...]]:
    """What decides the columns of the views: the runs, by their last session, and what was measured in each."""
    return {("session", name) for name in rows.sessions} | {
        (row["run"], row["target"], row["metric"], "" if row["baseline"] is None else "baseline")
        for row in rows.table("measurements")
    }


def replay(lines: Iterable[Line], rows: Rows) -> None:
    """Apply the journal's lines to the rows, in order."""
    for line in lines:
        rows.apply(line.record)


def fold(connection: duckdb.DuckDBPyConnection, db: Path, journal: str, limit: int | None = None) -> tuple[Rows, bool]:
    """Bring the tables of a connection up to the journal of `db`; returns its rows, and whether lines are left."""
    drained, offset = connection.execute("SELECT journal, drained FROM optlang").fetchall()[0]
    known = drained == journal
    end = offset if known else 0
    rows = Rows()
    lines = list(itertools.islice(read(journal_path(db), end), limit))
    if lines:
        records = (line.record for line in lines)
        again = {(item["run"], item["trial"]) for item in records if item.get("event") in ("resume", "left")}
        rows = database.changeable(connection, known_journal=known, paused=again)
        replay(lines, rows)
        database.put(connection, rows)
        connection.execute("UPDATE optlang SET journal = ?, drained = ?", [journal, lines[-1].end])
    return rows, len(lines) == limit


def restore_journal(db: Path, path: Path) -> None:
    """The journal is gone and the database is there: write one that replays to the database."""

    def load() -> dict[str, list[Row]]:
        connection = database.open_memory()
        try:
            database.attach(connection, db, "source")
            version = database.stored_version(connection, "source")
            if version == 0:
                return {}
            if version > len(database.SCRIPTS):
                raise database.newer(db, version)
            database.copy_tables(connection, "source")
            database.bring_forward(connection, db)
            return database.all_rows(connection)
        finally:
            connection.close()

    tables = database.patiently(load, PATIENCE)
    if tables:
        write_journal(tables, path)


def write_journal(tables: Mapping[str, list[Row]], path: Path) -> None:
    """Write a new journal that replays to these rows; it appears at `path` whole or not at all."""
    aside = path.with_name(path.name + ".new")
    aside.unlink(missing_ok=True)
    journal = Journal(aside)
    journal.close()
    with aside.open("ab") as file:
        for event in _events(tables):
            file.write(encode(event))
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def _events(tables: Mapping[str, list[Row]]) -> Iterator[Row]:
    """Events that replay to these rows."""
    studies = {row["study"]: row for row in tables["studies"]}
    runs = {row["run"]: row for row in tables["runs"]}
    by_key: dict[str, dict[tuple[str, int], list[Row]]] = {}
    for name in ("steps", "measurements", "artifacts", "curves", "pauses"):
        groups = by_key[name] = {}
        for row in tables[name]:
            groups.setdefault((row["run"], row["trial"]), []).append(row)
    warm_starts: dict[str, list[Row]] = {}
    for row in tables["warm_starts"]:
        warm_starts.setdefault(row["run"], []).append(row)
    sessions = sorted(tables["sessions"], key=lambda row: row["started"] or "")
    trials: dict[str, list[Row]] = {}
    last = {row["run"]: row["session"] for row in sessions}
    known = {row["session"] for row in sessions}
    for row in sorted(tables["trials"], key=lambda row: (row["run"], row["trial"])):
        trials.setdefault(row["session"] if row["session"] in known else last[row["run"]], []).append(row)
    for session in sessions:
        run = runs[session["run"]]
        yield {
            **run, **session, "event": "session", "title": studies[run["study"]]["title"],
            "file": studies[run["study"]]["file"],
        }
        if session["run"] in warm_starts:
            yield {"event": "warm start", "run": session["run"], "taken": warm_starts.pop(session["run"])}
        for trial in trials.get(session["session"], ()):
            yield from _trial_events(trial, by_key)
        if session["finished"] is not None:
            yield {"event": "finish", **{name: session[name] for name in ("run", "session", "finished", "why")}}


def _trial_events(trial: Row, by_key: dict[str, dict[tuple[str, int], list[Row]]]) -> Iterator[Row]:
    key = (trial["run"], trial["trial"])
    steps = by_key["steps"].get(key, [])
    yield {**trial, "event": "start", "steps": steps}
    pauses = by_key["pauses"].get(key, ())
    if (trial["state"] == "running" and not pauses) or trial["reason"] == INTERRUPTED:
        return
    curves = curves_of(by_key["curves"].get(key, ()))
    for pause in pauses:
        yield {
            **trial, **pause, "event": "pause", "finished": pause["paused"], "steps": steps, "curves": curves,
        }
        yield {"event": "resume", "run": key[0], "trial": key[1]}
    if trial["state"] in ("running", PAUSED):
        return
    passes: dict[int, list[Row]] = {}
    for row in by_key["measurements"].get(key, ()):
        passes.setdefault(row["pass"], []).append(row)
    yield {
        **trial, "event": "end", "steps": steps, "measurements": passes.pop(0, []),
        "artifacts": by_key["artifacts"].get(key, []),
        "curves": curves,
    }
    for turn, measurements in passes.items():
        yield {
            "event": "measured", "run": key[0], "trial": key[1], "pass": turn, "measurements": measurements,
            "at": measurements[0]["measured"] or now(),
        }
