"""What of the cache and the artifacts may be removed, and in which order. Removes it; how much is enough: disk.py.

First go results of the cache that were used least recently, then the artifacts of trials that are neither in a front
nor close to one, then of those that are close, then the results that the front's recipes begin with, and last the
artifacts of the front and those that were exported: all of them can be made again from what the store knows. A
baseline's artifact stays, and what a trial in flight uses, of whatever session.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from optlang.run import cache_files, in_use, partial
from optlang.run.cache_files import Entry
from optlang.run.history import NEAR, History
from optlang.space.space import Space
from optlang.store.artifacts import EXPORTED, KEPT
from optlang.store.journal import now
from optlang.store.plans import read_plan
from optlang.store.projection import PAUSED
from optlang.store.writer import Writer

CACHE = "cache"
"""The folder of the cache, in that of all files."""


class Tier(IntEnum):
    """What goes before what."""

    LEFT_OVER = 0
    UNUSED = 1
    CHECKPOINT = 2
    BEHIND = 3
    CLOSE = 4
    NEEDED = 5
    FRONT = 6


@dataclass(frozen=True, slots=True)
class Candidate:
    """What may be removed: an entry of the cache, or the artifacts of a trial of a run (`entry` is None)."""

    tier: Tier
    used: int
    folder: Path
    bytes: int
    entry: Entry | None = None
    run: str = ""
    trial: int = -1

    @property
    def kind(self) -> str:
        """What it is called."""
        return "artifact" if self.entry is None else self.entry.kind


@dataclass(frozen=True, slots=True)
class Stock:
    """All that there is: the bytes of everything, and what of it may be removed, first that which goes first."""

    bytes: int
    candidates: tuple[Candidate, ...]


class Pruning:
    """The cache in `home`, and the artifacts there of the runs of one database."""

    def __init__(
        self, home: Path, store: Writer | None, own: Mapping[str, History] | None = None, *,
        session: str | None = None, shown: Collection[tuple[str, int]] = (),
    ) -> None:
        """`own` are the histories of runs that go on, `session` the one that asks, `shown` the trials of each run that
        are treated as its front too; without a store there is the cache alone."""
        self._shown = frozenset(shown)
        self._home, self._store, self._session = home, store, session
        self._own = dict(own or {})
        self._others: dict[str, History | None] = {}

    def stock(self, *, searching: bool = False) -> Stock:
        """What there is now. While `searching`, checkpoints go after other results: trials may go on from them."""
        needed, artifacts, whole = self._needed_and_artifacts()
        used = in_use.used(self._home)
        alone = all(path.name == self._session for path in in_use.sessions(self._home))
        found = list(artifacts)
        whole += cache_files.size_of_folders(self._home / CACHE) + cache_files.size_of_folders(self._home / KEPT)
        for entry in cache_files.entries(self._home / CACHE):
            whole += entry.bytes
            if entry.kind == "partial":
                if cache_files.left_over(entry, alone=alone):
                    found.append(Candidate(Tier.LEFT_OVER, entry.used, entry.folder, entry.bytes, entry))
                continue
            if entry.key in used:
                continue
            tier = Tier.NEEDED if entry.key in needed else Tier.UNUSED
            if searching and entry.kind == "checkpoint":
                tier = Tier.CHECKPOINT
            found.append(Candidate(tier, entry.used, entry.folder, entry.bytes, entry))
        return Stock(whole, tuple(sorted(found, key=lambda item: (item.tier, item.used, item.trial))))

    def _needed_and_artifacts(self) -> tuple[set[str], list[Candidate], int]:
        """The keys that the fronts' recipes need, the artifacts that may be removed, and the bytes of all artifacts."""
        needed: set[str] = set()
        found: list[Candidate] = []
        whole = 0
        for run in [] if self._store is None else self._store.runs():
            folder = self._home / KEPT / run.run
            if not folder.is_dir():
                continue
            history = self._history(run.run, run.plan)
            # Nothing is known of what another version of optlang has stored.
            records = {} if history is None else {record.number: record for record in history.records}
            front = set() if history is None else set(history.front())
            close = set() if history is None else {*history.members(), *history.near(NEAR)} - front
            if history is not None:
                needed |= self._keys(run.run, front)
            for trial in self._trials(run.run, folder):
                path = folder / str(trial)
                size = cache_files.size_of(path)
                whole += size
                # A trial that is carried out now is not in the history.
                record = records.get(trial)
                if record is None or record.state == PAUSED or record.origin == "baseline":
                    continue
                if record.artifacts and record.origin == "sampler" and record.recipe is None:
                    # Its run went on with a changed study, which does not say how to build it.
                    continue
                wanted = trial in front or (run.run, trial) in self._shown or any(path.rglob(EXPORTED))
                tier = Tier.FRONT if wanted else Tier.CLOSE if trial in close else Tier.BEHIND
                if not record.artifacts:
                    # It failed behind its build, or was interrupted.
                    tier = Tier.LEFT_OVER
                with suppress(FileNotFoundError):
                    found.append(Candidate(tier, path.stat().st_mtime_ns, path, size, None, run.run, trial))
        return needed, found, whole

    def _trials(self, run: str, folder: Path) -> Iterator[int]:
        return (int(path.name) for path in folder.iterdir() if path.name.isdigit())

    def _history(self, run: str, plan: Mapping[str, object]) -> History | None:
        if run in self._own:
            return self._own[run]
        if run not in self._others:
            assert self._store is not None
            read = read_plan(plan)
            self._others[run] = (
                None if read is None else History(read, Space(read), self._store.trials(run), self._home)
            )
        return self._others[run]

    def _keys(self, run: str, trials: Collection[int]) -> set[str]:
        assert self._store is not None
        steps = (step for number in trials for step in self._store.trial(run, number).steps)
        return {str(step["key"]) for step in steps if step["key"]}

    def remove(self, candidate: Candidate) -> bool:
        """Remove it, and record it where it is a trial's; whether it is gone."""
        if candidate.entry is not None:
            return cache_files.remove(candidate.folder, candidate.used)
        assert self._store is not None
        if candidate.tier is Tier.LEFT_OVER:
            return cache_files.remove(candidate.folder)
        # Recorded first: a kill in between leaves files that the next session removes.
        self._store.record({
            "event": "pruned", "run": candidate.run, "trial": candidate.trial, "bytes": candidate.bytes, "at": now(),
        })
        return cache_files.remove(candidate.folder)

    def sweep(self) -> None:
        """Remove what killed processes left: artifacts that are recorded as removed, and half removed ones."""
        if self._store is None:
            return
        for run in self._store.runs():
            folder = self._home / KEPT / run.run
            if not folder.is_dir():
                continue
            for path in folder.glob(f".*{partial.PARTIAL}"):
                shutil.rmtree(path, ignore_errors=True)
            for row in self._store.trials(run.run):
                if row.artifacts and all(item["pruned"] for item in row.artifacts):
                    path = folder / str(row.trial)
                    if path.is_dir():
                        cache_files.remove(path)
