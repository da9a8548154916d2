"""The rows of the tables, computed from the journal's events one by one. Knows neither files nor SQL."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeAlias

from optlang.store.curves import curve_rows

Row: TypeAlias = dict[str, Any]
Key: TypeAlias = "tuple[str, int]"

INTERRUPTED = "interrupted"
"""The reason of a trial whose run was ended before the trial was."""

PAUSED = "paused"
"""The state of a trial that may go on."""

_ENDED = ("reason", "error", "seconds", "notes", "violations", "sampler_state")
"""What a trial's row takes from its `end` event as it is."""

_VERDICT = ("state", "reason", "violations")
"""What measuring again may change in a trial's row."""

_MEASURED = ("target", "metric", "value", "unit", "n", "low", "high", "ratio", "ratio_low", "ratio_high", "baseline")


def was_interrupted(state: str, reason: str | None) -> bool:
    """Whether a trial failed only because its run was ended before it was."""
    return state == "failed" and reason == INTERRUPTED


@dataclass(slots=True)
class Seen:
    """What a database holds already of a journal that it has not read before: these events are skipped."""

    sessions: set[str] = field(default_factory=set)
    started: set[Key] = field(default_factory=set)
    ended: set[Key] = field(default_factory=set)
    passes: set[tuple[str, int, int]] = field(default_factory=set)
    warm_starts: set[str] = field(default_factory=set)
    pauses: set[tuple[str, int, int]] = field(default_factory=set)


@dataclass(slots=True)
class Rows:
    """Rows by table, keyed by what makes a row unique. Filled with those that may still change, then with events."""

    studies: dict[str, Row] = field(default_factory=dict)
    runs: dict[str, Row] = field(default_factory=dict)
    sessions: dict[str, Row] = field(default_factory=dict)
    trials: dict[Key, Row] = field(default_factory=dict)
    steps: dict[Key, list[Row]] = field(default_factory=dict)
    measurements: dict[tuple[str, int, int], list[Row]] = field(default_factory=dict)
    artifacts: dict[Key, list[Row]] = field(default_factory=dict)
    curves: dict[Key, list[Row]] = field(default_factory=dict)
    judged: dict[Key, Row] = field(default_factory=dict)
    """New verdicts on trials whose rows are not here."""
    pruned: dict[Key, str | None] = field(default_factory=dict)
    """When artifacts were removed whose rows are not here."""
    warm_starts: dict[str, list[Row]] = field(default_factory=dict)
    newest: dict[str, int] = field(default_factory=dict)
    """The highest number of a trial, by run."""
    pauses: dict[Key, list[Row]] = field(default_factory=dict)
    first_started: dict[str, Any] = field(default_factory=dict)
    seen: Seen = field(default_factory=Seen)

    def apply(self, event: Mapping[str, Any]) -> None:
        """Fold one event in; kinds of events that are not known here change nothing."""
        match event.get("event"):
            case "session":
                self._session(event)
            case "warm start":
                self._warm_start(event)
            case "start":
                self._start(event)
            case "pause":
                self._pause(event)
            case "resume":
                self._resume(event)
            case "left":
                self._left(event)
            case "end":
                self._end(event)
            case "measured":
                self._measured(event)
            case "pruned":
                self._pruned(event)
            case "rebuilt":
                self._rebuilt(event)
            case "device":
                self._device(event)
            case "finish":
                self._finish(event)

    def interrupt(self) -> None:
        """Nobody writes any more: what was begun and not ended was interrupted; what had gone on is paused again."""
        for row in self.trials.values():
            if row["state"] != "running":
                continue
            if _has_paused(row):
                row["state"] = PAUSED
            else:
                row["state"], row["reason"] = "failed", INTERRUPTED
        for row in self.sessions.values():
            if row["finished"] is None and row["why"] is None:
                row["why"] = INTERRUPTED

    def table(self, name: str) -> Iterator[Row]:
        """All rows of a table."""
        rows = getattr(self, name)
        for value in rows.values():
            if isinstance(value, list):
                yield from value
            else:
                yield value

    def _session(self, event: Mapping[str, Any]) -> None:
        session, run, study = event["session"], event["run"], event["study"]
        if session in self.seen.sessions:
            return
        self.interrupt()  # one run writes at a time, so all others are over
        started = _time(event.get("started"))
        first = self.first_started.setdefault(run, started)
        self.studies[study] = {"study": study, "title": event.get("title"), "file": _text(event.get("file"))}
        self.runs[run] = {
            "run": run, "study": study, "inputs": event.get("inputs") or {}, "started": first,
            **_taken(event, "meaning", "seed", "text", "plan"),
        }
        self.sessions[session] = {
            "session": session, "run": run, "started": started, "finished": None, "why": None,
            **_taken(event, "machine", "versions", "git", "optlang"),
        }

    def _warm_start(self, event: Mapping[str, Any]) -> None:
        run = event["run"]
        if run in self.seen.warm_starts or run in self.warm_starts:
            return
        self.warm_starts[run] = [
            {
                "run": run, "position": position,
                **_taken(item, "from_run", "from_trial", "point", "objectives", "violations"),
            }
            for position, item in enumerate(event.get("taken") or ())
        ]

    def _start(self, event: Mapping[str, Any]) -> None:
        key = (event["run"], event["trial"])
        if key in self.seen.started or key in self.trials:
            return
        self.trials[key] = {
            "run": key[0], "trial": key[1], "state": "running", "in_space": bool(event.get("in_space", True)),
            "target": _text(event.get("target")), "runtime": _text(event.get("runtime")),
            "point": event.get("point") or {}, "started": _time(event.get("started")),
            **_taken(event, "session", "origin", "alone"), **dict.fromkeys((*_ENDED, "finished")),
        }
        self.steps[key] = [_step(key, position, step) for position, step in enumerate(event.get("steps") or ())]
        self.newest[key[0]] = max(key[1], self.newest.get(key[0], key[1]))

    def _end(self, event: Mapping[str, Any]) -> None:
        key = (event["run"], event["trial"])
        row = self.trials.get(key)
        if row is None or key in self.seen.ended or not _is_open(row):
            return
        row.update(state=event["state"], finished=_time(event.get("finished")), **_taken(event, *_ENDED))
        if event.get("runtime"):
            row["runtime"] = _text(event["runtime"])
        self.steps[key] = _merged(key, self.steps.get(key, []), event.get("steps") or ())
        self._measure(key, 0, event.get("measurements") or (), event.get("finished"))
        self.curves[key] = curve_rows(*key, event.get("curves") or ())
        self.artifacts[key] = _artifacts(key, event)

    def _pause(self, event: Mapping[str, Any]) -> None:
        key = (event["run"], event["trial"])
        row = self.trials.get(key)
        known = (*key, event["rung"]) in self.seen.pauses
        if row is None or key in self.seen.ended or known or not _is_open(row):
            return
        row.update(state=PAUSED, finished=_time(event.get("finished")), **_taken(event, *_ENDED))
        self.steps[key] = _merged(key, self.steps.get(key, []), event.get("steps") or ())
        self.curves[key] = curve_rows(*key, event.get("curves") or ())
        self.pauses.setdefault(key, []).append({
            "run": key[0], "trial": key[1], "paused": _time(event.get("finished")),
            **_taken(event, "rung", "epoch", "epochs", "step", "scores", "measured", "seconds"),
        })

    def _resume(self, event: Mapping[str, Any]) -> None:
        """What is known of the pause stays with the row: it counts again where the trial is interrupted."""
        row = self.trials.get((event["run"], event["trial"]))
        if row is not None and row["state"] == PAUSED:
            row["state"] = "running"

    def _left(self, event: Mapping[str, Any]) -> None:
        """Why the trial was not taken on when the search ended."""
        row = self.trials.get((event["run"], event["trial"]))
        if row is not None and row["state"] == PAUSED:
            row["reason"] = event["reason"]

    def _measured(self, event: Mapping[str, Any]) -> None:
        key = (event["run"], event["trial"])
        new = self._measure(key, event["pass"], event.get("measurements") or (), event.get("at"))
        if new and "state" in event:
            row = self.trials.get(key)
            if row is None:
                row = self.judged[key] = {"run": key[0], "trial": key[1]}
            row.update(_taken(event, *_VERDICT))

    def _pruned(self, event: Mapping[str, Any]) -> None:
        """The files of a trial's artifacts were removed: what is known of them stays."""
        key, at = (event["run"], event["trial"]), _time(event.get("at"))
        if key not in self.artifacts:
            self.pruned[key] = at
        for row in self.artifacts.get(key, ()):
            row["pruned"] = at

    def _rebuilt(self, event: Mapping[str, Any]) -> None:
        """They were built again: these are the files that are there now."""
        key = (event["run"], event["trial"])
        self.pruned.pop(key, None)
        self.artifacts[key] = _artifacts(key, event)

    def _measure(self, key: Key, turn: int, measurements: Any, at: Any) -> bool:
        """Whether this pass was not known yet."""
        if (*key, turn) in self.seen.passes or (*key, turn) in self.measurements:
            return False
        rows = []
        for item in measurements:
            row: Row = {"run": key[0], "trial": key[1], "pass": turn, **_taken(item, *_MEASURED)}
            rows.append(row | {"target": _text(row["target"]) or "", "measured": _time(at)})
        self.measurements[(*key, turn)] = rows
        return True

    def _device(self, event: Mapping[str, Any]) -> None:
        """What the session trains on, which its worker knows once it has begun."""
        session = self.sessions.get(event["session"])
        if session is not None and session["finished"] is None:
            session["machine"] = {**(session["machine"] or {}), "training": event.get("training")}

    def _finish(self, event: Mapping[str, Any]) -> None:
        session = self.sessions.get(event["session"])
        if session is not None and session["finished"] is None:
            self.interrupt()
            session.update(finished=_time(event.get("finished")), why=event.get("why"))


def _artifacts(key: Key, event: Mapping[str, Any]) -> list[Row]:
    return [
        {
            "run": key[0], "trial": key[1], "target": _text(item.get("target")) or "", "path": _text(item["path"]),
            **_taken(item, "format", "bytes", "sha256", "files", "inputs", "outputs", "about"),
            "pruned": _time(item.get("pruned")),
        }
        for item in event.get("artifacts") or ()
    ]


def _is_open(row: Row) -> bool:
    """Whether a trial may end: it runs, or was taken to be interrupted while another process still wrote."""
    return row["state"] in ("running", PAUSED) or row["reason"] == INTERRUPTED


def _has_paused(row: Row) -> bool:
    """Whether a trial that runs has gone on from a pause."""
    return row["reason"] is not None


def _taken(event: Mapping[str, Any], *names: str) -> Row:
    """What an event says under these names; None where it does not."""
    return {name: event.get(name) for name in names}


def _step(key: Key, position: int, step: Mapping[str, Any]) -> Row:
    return {
        "run": key[0], "trial": key[1], "position": position, "started": _time(step.get("started")),
        "worker": _text(step.get("worker")),
        **_taken(step, "path", "technique", "settings", "key", "cached", "seconds"),
    }


def _merged(key: Key, planned: list[Row], done: Any) -> list[Row]:
    """The steps in the order in which they were done, then the others; the nth of a path is its nth planned."""
    free = list(planned)
    rows = []
    for step in done:
        new = _step(key, 0, step)
        row = next((item for item in free if item["path"] == new["path"]), None)
        if row is not None:
            free = [item for item in free if item is not row]
            new = {name: row[name] if value is None else value for name, value in new.items()}
        rows.append(new)
    return [{**row, "position": position} for position, row in enumerate([*rows, *free])]


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, default=str)


def _time(value: Any) -> str | None:
    """A time as UTC without its zone, which is what the tables hold."""
    if value is None:
        return None
    moment = datetime.fromtimestamp(value, UTC) if isinstance(value, int | float) else datetime.fromisoformat(value)
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    return moment.isoformat(sep=" ")
