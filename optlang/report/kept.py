"""What the databases of a folder say of the results and artifacts in it: whose they are, and whether they are whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from optlang.store.artifacts import KEPT
from optlang.store.reader import Answer, Column, Reader, connect

_FRONT, _OTHERS, _FOREIGN, _LEFT = (
    "artifacts of fronts", "other artifacts", "artifacts of no database here", "artifacts of no trial"
)
_WORDS = {
    "step": "results of steps", "memo": "results inside steps", "checkpoint": "checkpoints of trainings",
    "partial": "half written or removed",
}


class Held:
    """The databases `dbs`, as far as they say something of the artifacts in `home`; close it."""

    def __init__(self, home: Path, dbs: Sequence[Path]) -> None:
        self._home = home
        self._readers = [connect([db]) for db in dbs]
        self.checked = 0
        """How many artifacts `wrong` has looked at."""
        self._runs = {run for reader in self._readers for (run,) in reader.query("SELECT run FROM runs").rows}
        self._artifacts: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self._front: set[tuple[str, str]] = set()
        for reader in self._readers:
            for row in reader.query("SELECT run, trial, path, files, pruned FROM artifacts").dicts():
                self._artifacts.setdefault((row["run"], str(row["trial"])), []).append(row)
            self._front |= {(run, str(trial)) for run, trial in _front(reader)}

    def close(self) -> None:
        """Forget the databases."""
        for reader in self._readers:
            reader.close()

    def steps(self) -> dict[str, tuple[str, str]]:
        """The study and the step that results are of, by their keys."""
        return {
            key: (study, step) for reader in self._readers for key, study, step in reader.query(
                "SELECT s.key, any_value(r.study), any_value(s.path || ' (' || s.technique || ')') FROM steps s "
                "JOIN runs r ON r.run = s.run WHERE s.key IS NOT NULL GROUP BY s.key"
            ).rows
        }

    def what(self, run: str, trial: str) -> str:
        """What the artifacts in a folder are called."""
        if run not in self._runs:
            return _FOREIGN
        if (run, trial) not in self._artifacts:
            return _LEFT
        return _FRONT if (run, trial) in self._front else _OTHERS

    def wrong(self) -> Iterator[tuple[Path, str]]:
        """The artifacts that are not what was measured, and the folders that are no run's, with the reason."""
        for (run, trial), rows in self._artifacts.items():
            for row in rows:
                folder = self._home / KEPT / run / trial
                if len(rows) > 1:
                    folder /= Path(row["path"]).name
                if row["pruned"] is not None:
                    continue
                self.checked += 1
                if not folder.is_dir():
                    yield folder, "gone, and not by a limit of the disk"
                    continue
                for file in json.loads(row["files"]):
                    reason = _changed(folder / file["name"], file["sha256"])
                    if reason is not None:
                        yield folder, reason
        for folder in sorted((self._home / KEPT).glob("*")):
            if folder.name not in self._runs:
                yield folder, "of a run that no database here knows"
                continue
            for path in sorted(folder.glob("*")):
                if path.name.startswith("."):
                    yield path, "half removed"
                elif (folder.name, path.name) not in self._artifacts:
                    yield path, "of a trial without an artifact (it runs, failed, or was interrupted)"


def _front(reader: Reader) -> tuple[tuple[Any, ...], ...]:
    """The trials of fronts, with those that tie; none where there is no study yet."""
    return reader.query("SELECT run, trial FROM front").rows if reader.query("SELECT 1 FROM runs LIMIT 1").rows else ()


def _changed(path: Path, digest: str) -> str | None:
    if not path.is_file():
        return f"{path.name} is gone"
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    return None if found == digest else f"{path.name} is no longer what was measured"


def cached(held: Held, entries: Sequence[tuple[str, str, int, Any]]) -> Answer:
    """A table of results of the cache: (key, kind, bytes, last use) of each, with the study and the step."""
    columns = (
        Column("key", "VARCHAR"), Column("kind", "VARCHAR"), Column("study", "VARCHAR"), Column("step", "VARCHAR"),
        Column("bytes", "BIGINT"), Column("used", "TIMESTAMP"),
    )
    steps = held.steps()
    rows = [(key[:12], kind, *steps.get(key, (None, None)), size, used) for key, kind, size, used in entries]
    return Answer(columns, tuple(rows))


def sizes(numbers: Mapping[str, int], taken: Mapping[str, int]) -> Answer:
    """A table of what there is, by kind, with the sum."""
    rows = [(_WORDS.get(kind, kind), numbers[kind], taken[kind]) for kind in sorted(numbers, key=_order)]
    rows.append(("all", sum(numbers.values()), sum(taken.values())))
    return Answer((Column("what", "VARCHAR"), Column("folders", "BIGINT"), Column("bytes", "BIGINT")), tuple(rows))


def _order(kind: str) -> int:
    return [*_WORDS, _FRONT, _OTHERS, _LEFT, _FOREIGN].index(kind)
