"""Keeps the cache and the artifacts of a run within their limit: looks at them after trials, and has some removed."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from optlang.interfaces import OptlangError
from optlang.plan.quantities import counted, in_bytes
from optlang.run.cache_files import size_of
from optlang.run.history import History, TrialRecord
from optlang.run.pruning import CACHE, Pruning, Stock, Tier
from optlang.store.artifacts import KEPT
from optlang.store.projection import PAUSED
from optlang.store.writer import Writer

SHARE = 10
"""Which part of the free space is the limit where a study has none."""

BLOCK = 4096
"""The bytes of a folder, about."""

ROOM = 0.1
"""The share of the limit that is made free at once, as far as it takes no artifact that is wanted: looking at all files
takes time."""

_SELDOM = 100
"""How many times as long as it takes to look at all files passes before that is done again without need."""

_NAMES: Mapping[str, Callable[[int], str]] = {
    "artifact": lambda number: f"the artifacts of {counted(number, 'trial')}",
    "step": lambda number: f"the results of {counted(number, 'step')}",
    "memo": lambda number: counted(number, "result") + " inside steps",
    "checkpoint": lambda number: counted(number, "checkpoint"),
    "partial": lambda number: f"{counted(number, 'result')} that a kill left half written",
}


@dataclass(slots=True)
class DiskLimit:
    """The limit of one session, which holds from `begin` on. `limit` is the study's, None where it has none."""

    home: Path
    run: str
    session: str
    limit: int | None
    lanes: int
    history: History
    store: Writer
    message: Callable[[str], None]
    removed: Counter[str] = field(default_factory=Counter)
    freed: int = 0
    _pruning: Pruning | None = None
    _allowed: int = 0
    _known: int = 0
    """The bytes of all when they were last looked at, and of what trials have added since."""
    _looked: float = 0.0
    _took: float = 0.0
    _largest: int = 0
    _searching: bool = True

    def begin(self) -> None:
        """Learn what there is, and remove what is too much of it."""
        self._pruning = Pruning(self.home, self.store, {self.run: self.history}, session=self.session)
        self._pruning.sweep()
        stock = self._look()
        self._allowed = self.limit or (shutil.disk_usage(self.home).free + stock.bytes) // SHARE
        self._keep(stock)

    def after(self, record: TrialRecord) -> None:
        """A trial has ended or paused, and is recorded. OptlangError where the limit is too small for it."""
        if self._pruning is None:
            return
        steps, artifact, new = self._parts(record)
        self._largest = max(self._largest, steps + artifact)
        self._known += new
        self._check(record, steps, artifact)
        seldom = time.monotonic() - self._looked > _SELDOM * self._took
        if seldom or self._known > self._most or record.state == PAUSED:
            self._keep(self._look())

    def searched(self) -> None:
        """No trial goes on from a checkpoint in this session."""
        self._searching = False

    def fits(self, more: int, wanted: Collection[int] = ()) -> bool:
        """Whether so many bytes more fit in, where anything but the artifacts of the `wanted` trials may go."""
        if self._pruning is None:
            return True
        stock = self._look()
        self._remove(stock, self._allowed - more, self._allowed - more, wanted)
        return self._known + more <= self._allowed

    def added(self, wanted: Collection[int]) -> None:
        """Artifacts of the trials that are `wanted` were built again, with steps that the cache did not have."""
        if self._pruning is not None:
            self._remove(self._look(), self._allowed, self._allowed, wanted)

    def summary(self) -> str | None:
        """What was removed in this session; None where nothing was."""
        if not self.removed:
            return None
        parts = ", ".join(_NAMES[kind](number) for kind, number in sorted(self.removed.items()))
        freed = in_bytes(self.freed)
        return f"to stay within {self._said()}, {freed} were removed: {parts}; what is needed is made again"

    @property
    def _most(self) -> int:
        """What there may be before the next trials begin: one may pass the limit, and others run next to it."""
        return max(self._allowed - (self.lanes - 1) * self._largest, self._allowed // 2)

    def _said(self) -> str:
        if self.limit is not None:
            return f"`disk = {in_bytes(self._allowed)}`"
        return f"{in_bytes(self._allowed)} (a tenth of the free space; `disk` in search {{ }} sets another limit)"

    def _look(self) -> Stock:
        assert self._pruning is not None
        begin = time.monotonic()
        stock = self._pruning.stock(searching=self._searching)
        self._looked = time.monotonic()
        self._took, self._known = self._looked - begin, stock.bytes
        return stock

    def _keep(self, stock: Stock) -> None:
        if stock.bytes > self._most:
            self._remove(stock, int(self._most - ROOM * self._allowed), self._most)

    def _remove(self, stock: Stock, easily: int, most: int, wanted: Collection[int] = ()) -> None:
        """Remove what goes first until `easily` bytes are left, of artifacts that are wanted only down to `most`."""
        assert self._pruning is not None
        first = not self.removed
        for item in stock.candidates:
            if self._known <= (most if item.tier > Tier.BEHIND else easily):
                break
            if (item.run == self.run and item.trial in wanted) or not self._pruning.remove(item):
                continue
            self._known -= item.bytes
            self.freed += item.bytes
            self.removed[item.kind] += 1
        if first and self.removed:
            self.message(f"the cache and the artifacts reach {self._said()}: what was used least recently is removed")

    def _parts(self, record: TrialRecord) -> tuple[int, int, int]:
        """The bytes of a trial's steps in the cache, of its artifacts, and of what of these is new."""
        steps = new = 0
        for step in self.store.trial(self.run, record.number).steps:
            if step["key"]:
                folder = self.home / CACHE / str(step["key"])[:2] / str(step["key"])
                size = size_of(folder)
                steps += size
                # The folder around it may be new too.
                new += 0 if step["cached"] else size + BLOCK
        artifact = self._artifact(record.number)
        return steps, artifact, new + artifact

    def _artifact(self, number: int) -> int:
        return size_of(self.home / KEPT / self.run / str(number))

    def _check(self, record: TrialRecord, steps: int, artifact: int) -> None:
        """OptlangError where a trial and the baseline are too large for the limit; one of our own choice grows."""
        baseline = 0 if record.origin == "baseline" else self._artifact(0)
        needed = baseline + steps + artifact
        if needed <= self._allowed:
            return
        if self.limit is None:
            self._allowed = 2 * needed
            self.message(
                f"a trial takes {in_bytes(needed)} on the disk, more than a tenth of the free space: the limit is now "
                f"{in_bytes(self._allowed)} (`disk` in search {{ }} sets it)"
            )
            return
        who = "the baseline" if record.origin == "baseline" else f"trial {record.number}"
        parts = f"{in_bytes(steps)} of steps and {in_bytes(artifact)} of artifacts"
        more = f", and the baseline's artifacts {in_bytes(baseline)}" if baseline else ""
        raise OptlangError(
            f"`disk = {in_bytes(self._allowed)}` is too small for one trial: {who} takes {parts}{more}",
            help=f"set `disk` in search {{ }} to {in_bytes(2 * needed)} or more: the run goes on where it stopped",
        )
