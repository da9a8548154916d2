"""The limit of one session: its default, what it keeps free for several workers, and what it looks at first."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from optlang.interfaces import OptlangError
from optlang.run.cache import CHECKPOINT, Cache, key_of
from optlang.run.cache_files import size_of
from optlang.run.disk import DiskLimit
from optlang.run.pruning import Pruning, Tier

SIZE = 100_000


class Known:
    """A history of trials that each have an artifact; `best` are its front, `near` what is close to it."""

    def __init__(self, count: int, best: Sequence[int], near: Sequence[int] = ()) -> None:
        self.records = [
            SimpleNamespace(
                number=number, origin="sampler" if number else "baseline", state="complete", artifacts={"here": 1},
                recipe=1,
            )
            for number in range(count)
        ]
        self._best, self._near = list(best), list(near)

    def front(self) -> list[int]:
        return self._best

    def members(self) -> list[int]:
        return self._best

    def near(self, limit: int) -> list[int]:
        return self._near


class Stored:
    """A store of one run, which keeps what is recorded; trial N was made by the step of key N."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def runs(self) -> list[Any]:
        return [SimpleNamespace(run="r1", plan={})]

    def trials(self, run: str) -> list[Any]:
        return []

    def trial(self, run: str, number: int) -> Any:
        return SimpleNamespace(steps=[{"key": key_of(number), "cached": False}])

    def record(self, event: dict[str, Any]) -> None:
        self.events.append(event)


def place(home: Path, number: int, file: str = "state") -> None:
    """A step and an artifact; the higher the number, the later they were used."""
    def write(folder: Path) -> None:
        (folder / file).write_bytes(bytes(SIZE))

    folder = Cache(home / "cache").put(key_of(number), write)
    artifact = home / "artifacts" / "r1" / str(number)
    artifact.mkdir(parents=True)
    (artifact / "model.onnx").write_bytes(bytes(SIZE))
    for path in (folder, artifact):
        os.utime(path, (1000 + number, 1000 + number))


def test_what_goes_first(tmp_path: Path) -> None:
    for number in range(6):
        place(tmp_path, number, CHECKPOINT if number == 1 else "state")
    history: Any = Known(6, best=[0, 4], near=[3])
    store: Any = Stored()
    stock = Pruning(tmp_path, store, {"r1": history}).stock(searching=True)
    order = [(item.kind, item.trial if item.entry is None else item.entry.key[:6]) for item in stock.candidates]
    key = {number: key_of(number)[:6] for number in range(6)}
    assert order == [
        ("step", key[2]), ("step", key[3]), ("step", key[5]), ("checkpoint", key[1]),
        ("artifact", 1), ("artifact", 2), ("artifact", 5), ("artifact", 3),
        ("step", key[0]), ("step", key[4]), ("artifact", 4),
    ]
    assert stock.bytes >= 12 * SIZE


def test_what_has_no_trial_in_the_history_stays_while_it_may_be_built(tmp_path: Path) -> None:
    place(tmp_path, 7)
    history: Any = Known(3, best=[0])
    store: Any = Stored()
    stock = Pruning(tmp_path, store, {"r1": history}).stock()
    assert [item.tier for item in stock.candidates] == [Tier.UNUSED]


def limited(home: Path, history: Known, limit: int | None, said: list[str], lanes: int = 1) -> DiskLimit:
    store: Any = Stored()
    known: Any = history
    return DiskLimit(home, "r1", "s", limit, lanes, known, store, said.append)


def test_the_default_is_a_tenth_of_what_is_free_and_grows_for_a_large_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        place(tmp_path, number)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=SIZE))
    said: list[str] = []
    history = Known(3, best=[0])
    disk = limited(tmp_path, history, None, said)
    disk.begin()
    assert "a tenth of the free space" in said[0]
    left = sorted(int(path.name) for path in (tmp_path / "artifacts" / "r1").iterdir())
    assert left == [0], "the limit has less room than all the others"
    disk.after(history.records[0])  # type: ignore[arg-type]
    assert "the limit is now" in said[-1]
    assert "to stay within" in str(disk.summary())


def test_a_limit_of_the_study_does_not_grow(tmp_path: Path) -> None:
    place(tmp_path, 0)
    history = Known(1, best=[0])
    disk = limited(tmp_path, history, SIZE // 2, [])
    disk.begin()
    with pytest.raises(OptlangError, match="is too small for one trial: the baseline takes"):
        disk.after(history.records[0])  # type: ignore[arg-type]


def test_several_workers_leave_room_for_what_is_in_progress(tmp_path: Path) -> None:
    for lanes in (1, 4):
        home = tmp_path / str(lanes)
        history = Known(12, best=[0])
        disk = limited(home, history, 22 * SIZE, [], lanes)
        disk.begin()
        for number in range(12):
            place(home, number)
            disk.after(history.records[number])  # type: ignore[arg-type]
            taken = size_of(home / "cache") + size_of(home / "artifacts")
            assert taken <= (22 - 2 * (lanes - 1)) * SIZE
        assert taken > 8 * SIZE
