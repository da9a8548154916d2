"""The writer of a database: events are written to the journal at once, and to DuckDB every few seconds."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from optlang.interfaces import JSON, Measurement, OutsideError
from optlang.plan.metrics import MEDIAN
from optlang.store import database
from optlang.store.journal import Journal, encode, identity, journal_path, read
from optlang.store.lock import WriteLock
from optlang.store.projection import Row, Rows, was_interrupted
from optlang.store.sync import PATIENCE, replay, restore_journal, sync_batch, write_journal

_EVERY = 2.0  # seconds between two writes to DuckDB: each takes some 50 ms of a processor that is being measured on

_AS_STORED = (
    "state", "reason", "error", "origin", "in_space", "alone", "target", "runtime", "point", "sampler_state", "started",
    "finished", "seconds",
)
_MEASUREMENT = tuple(item.name for item in fields(Measurement))


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run: its meaning, and when it started."""

    run: str
    study: str
    meaning: str
    inputs: Mapping[str, JSON]
    seed: int | None
    plan: Any
    text: str
    started: str | None
    finished: str | None
    """When its last session ended; None where it was killed, or still goes on."""
    why: str | None


@dataclass(frozen=True, slots=True)
class TrialRow:
    """A trial as it stands: `measurements` are the latest of each metric and target."""

    run: str
    trial: int
    state: str
    reason: str | None
    error: str | None
    origin: str
    in_space: bool
    alone: str | None
    target: str | None
    runtime: str | None
    point: Mapping[str, JSON]
    steps: tuple[Mapping[str, JSON], ...]
    measurements: tuple[Measurement, ...]
    passes: int
    """How often it was timed: 0 where it never was."""
    artifacts: tuple[Mapping[str, JSON], ...]
    notes: Mapping[str, JSON]
    violations: tuple[Mapping[str, JSON], ...]
    sampler_state: Mapping[str, JSON] | None
    started: str | None
    finished: str | None
    seconds: float | None
    pauses: tuple[Mapping[str, Any], ...] = ()
    """Where it paused, in their order: see the table `pauses`."""

    @property
    def interrupted(self) -> bool:
        """Whether it failed only because its run was ended before it was."""
        return was_interrupted(self.state, self.reason)

    def measurement(self, metric: str, target: str | None = None) -> Measurement | None:
        """The latest measurement of a metric; of the only target where none is named."""
        return next(
            (item for item in self.measurements if item.metric == metric and target in (None, item.target)), None
        )


@dataclass(frozen=True, slots=True)
class SessionRow:
    """Where a session ran, and with which versions of the libraries."""

    session: str
    machine: Mapping[str, JSON]
    versions: Mapping[str, JSON]


@dataclass(frozen=True, slots=True)
class WarmRow:
    """A trial of an earlier run that a search was given: its point in this run's space, and what is known of it.

    `objectives` are None where it failed.
    """

    from_run: str
    from_trial: int
    point: Mapping[str, JSON]
    objectives: tuple[float, ...] | None
    violations: tuple[float, ...]


class Writer:
    """A database that a run writes to. One process at a time; close it, or use it in a `with` statement.

    An event survives any kill once `record` has returned. DuckDB follows when it can: while another program holds
    the file, the lines wait in the journal, and `trouble` says so.
    """

    def __init__(self, db: Path) -> None:
        """Take the write lock of `db` and read what happened so far.

        OutsideError: another run writes to it, it is no database of ours or of a newer version, or its folder is not
        to be written to; also where the journal is gone and somebody holds the database open.
        """
        self.db = db.resolve()
        self.trouble: str | None = None
        self._lock = WriteLock(db)
        try:
            path = journal_path(self.db)
            if identity(path) is None and self.db.exists():
                restore_journal(self.db, path)
            self._journal = Journal(path)
            try:
                self._rows = Rows()
                replay(read(path), self._rows)
                self._rows.interrupt()
                self._viewed: set[tuple[str, ...]] = set()
                self._waiting = True
                self._next_sync = 0.0
                try:
                    self._sync()
                except database.HeldError as error:
                    self._postpone(error)
            except BaseException:
                self._journal.close()
                raise
        except BaseException:
            self._lock.release()
            raise

    def record(self, event: Mapping[str, Any]) -> None:
        """Write an event to the journal; and to DuckDB if the last time was two seconds ago."""
        if self._journal.gone():
            self._renew()
        # An event that cannot be read must not get into the journal.
        self._rows.apply(json.loads(encode(event)))
        self._journal.append(event)
        self._waiting = True
        self.sync()

    def sync(self, final: bool = False) -> bool:
        """Bring DuckDB up to date where two seconds have passed since the last time, and say whether it is.

        `final` asks for no such pause, and waits a few for a program that holds the file. Never raises for what
        keeps DuckDB back: the journal has it all, and `trouble` says what it was.
        """
        if not self._waiting:
            return True
        if not final and time.monotonic() < self._next_sync:
            return False
        try:
            if final:
                database.patiently(self._sync, PATIENCE)
            else:
                self._sync()
        except OutsideError as error:
            self._postpone(error)
        return not self._waiting

    def runs(self, study: str | None = None) -> list[RunRow]:
        """The runs of a study (or all), oldest first by the session that was started last."""
        last: dict[str, Row] = {}
        for session in self._rows.sessions.values():
            last.pop(session["run"], None)
            last[session["run"]] = session
        return [
            RunRow(
                run=name, study=row["study"], meaning=row["meaning"], inputs=row["inputs"], seed=row["seed"],
                plan=row["plan"], text=row["text"] or "", started=row["started"], finished=session["finished"],
                why=session["why"],
            )
            for name, session in last.items()
            if study in (None, (row := self._rows.runs[name])["study"])
        ]

    def file(self, study: str) -> str | None:
        """The file that a study of this name was last run from."""
        row = self._rows.studies.get(study)
        return None if row is None else row["file"]

    def resumable(self, study: str) -> list[RunRow]:
        """The runs of a study that have their baseline, oldest first: only those can go on."""
        return [
            row for row in self.runs(study)
            if any(trial.trial == 0 and trial.state == "complete" for trial in self.trials(row.run))
        ]

    def find(self, study: str, meaning: str, inputs: Mapping[str, JSON], seed: int | None) -> RunRow | None:
        """The newest run of the same meaning, inputs and seed that has its baseline: the one to go on with."""
        wanted = json.loads(encode({"inputs": inputs}))["inputs"]
        for row in reversed(self.resumable(study)):
            if (row.meaning, row.inputs, row.seed) == (meaning, wanted, seed):
                return row
        return None

    def trials(self, run: str) -> list[TrialRow]:
        """The trials of a run so far, by number; those that a kill left behind are `failed`, "interrupted"."""
        return [self._trial(key) for key in sorted(key for key in self._rows.trials if key[0] == run)]

    def session(self, run: str, trial: int) -> SessionRow | None:
        """The session that a trial ran in; None where it is not known."""
        row = self._rows.sessions.get(self._rows.trials[run, trial]["session"])
        return None if row is None else SessionRow(row["session"], row["machine"] or {}, row["versions"] or {})

    def warm_start(self, run: str) -> list[WarmRow] | None:
        """What the run was given of earlier runs' trials, in its order; None where nothing was recorded of that."""
        rows = self._rows.warm_starts.get(run)
        return None if rows is None else [
            WarmRow(
                row["from_run"], row["from_trial"], row["point"],
                None if row["objectives"] is None else tuple(row["objectives"]), tuple(row["violations"]),
            )
            for row in rows
        ]

    def curves(self, run: str) -> dict[int, list[Row]]:
        """The learning curves of a run by trial, a row for each epoch (see `curve_rows`)."""
        return {trial: rows for (name, trial), rows in self._rows.curves.items() if name == run and rows}

    def curve(self, run: str, number: int) -> list[Row]:
        """Those of one trial."""
        return self._rows.curves.get((run, number), [])

    def trial(self, run: str, number: int) -> TrialRow:
        """One trial of a run, as `trials` has it."""
        return self._trial((run, number))

    def next_trial(self, run: str) -> int:
        """The number of the next trial: no number is used twice, not even an interrupted trial's."""
        return self._rows.newest.get(run, -1) + 1

    def next_pass(self, run: str, trial: int) -> int:
        """The number of the next `measured` event of a trial."""
        return max(self._passes((run, trial)), default=-1) + 1

    def _passes(self, key: tuple[str, int]) -> dict[int, list[Row]]:
        """What was measured of a trial, by pass; the first may be missing, where the trial itself measured nothing."""
        found: dict[int, list[Row]] = {}
        for turn in itertools.count():
            rows = self._rows.measurements.get((*key, turn))
            if rows is not None:
                found[turn] = rows
            elif turn:
                return found
        return found

    def close(self) -> None:
        """Write to DuckDB what is left, and let others write."""
        try:
            self.sync(final=True)
        finally:
            self._journal.close()
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _trial(self, key: tuple[str, int]) -> TrialRow:
        row = self._rows.trials[key]
        latest: dict[tuple[str, str], Row] = {}
        passes = 0
        for rows in self._passes(key).values():
            # What was scored again only, on the test data, was not timed again.
            passes += any(item["metric"] == MEDIAN for item in rows)
            latest.update({(item["target"], item["metric"]): item for item in rows})
        return TrialRow(
            run=key[0], trial=key[1], passes=passes,
            steps=tuple(self._rows.steps.get(key, ())), artifacts=tuple(self._rows.artifacts.get(key, ())),
            measurements=tuple(Measurement(**{name: item[name] for name in _MEASUREMENT}) for item in latest.values()),
            notes=row["notes"] or {}, violations=tuple(row["violations"] or ()),
            pauses=tuple(self._rows.pauses.get(key, ())),
            **{name: row[name] for name in _AS_STORED},
        )

    def _renew(self) -> None:
        """The journal was removed while it was open: write it again from memory."""
        self._journal.close()
        write_journal({name: list(self._rows.table(name)) for name in database.TABLES}, self._journal.path)
        self._journal = Journal(self._journal.path)

    def _postpone(self, error: OutsideError) -> None:
        self.trouble = error.message
        self._next_sync = time.monotonic() + _EVERY

    def _sync(self) -> None:
        import duckdb

        connection = database.open_file(self.db)
        try:
            while sync_batch(connection, self.db, self._journal.id, self._viewed):
                pass
        except (duckdb.Error, OSError) as error:
            raise database.failed(self.db, error) from error
        finally:
            connection.close()
            self._next_sync = time.monotonic() + _EVERY
        self._waiting = False
        self.trouble = None
