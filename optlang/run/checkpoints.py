"""Checkpoints of trainings: what one that was paused needs to go on, in the cache under the key of its step.

A step has one at most: a later one replaces it, and the step's result removes it. The random numbers of the process
are part of it, as they were at the end of its last epoch.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from optlang.interfaces import OptlangError
from optlang.run.cache import CHECKPOINT, Cache, key_of
from optlang.run.curves import Epoch
from optlang.workload.seeds import random_states, set_random_states

_FORMAT = 1
"""Another number where what a checkpoint holds is changed; what it is computed by is part of its step's key."""

_PLAIN = (bool, int, float, str, type(None), torch.Tensor)


class UnreadableError(Exception):
    """There is a checkpoint, and it cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A training after the last epoch of `curve`; `state` is what its technique gave to go on with.

    `training` is its number among the trainings of its step (from 1), `seconds` what the step has taken so far, and
    `scored` are the metrics that the training was to be scored by.
    """

    training: int
    seconds: float
    curve: tuple[Epoch, ...]
    scored: tuple[str, ...]
    state: Mapping[str, Any]
    random: Mapping[str, Any]

    @classmethod
    def now(
        cls, training: int, seconds: float, curve: tuple[Epoch, ...], scored: tuple[str, ...], state: Mapping[str, Any]
    ) -> Checkpoint:
        """One with the random numbers of this moment."""
        return cls(training, seconds, curve, scored, state, random_states())

    def draw_on(self) -> None:
        """Have the process's random numbers go on as they would have."""
        set_random_states(self.random)


class Checkpoints:
    """The checkpoints of a cache, by the keys of their steps."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def find(self, step: str) -> Checkpoint | None:
        """The checkpoint of a step, None where there is none. Raises UnreadableError for one that cannot be used."""
        folder = self._cache.find(checkpoint_key(step))
        if folder is None or not (folder / CHECKPOINT).is_file():
            return None
        # A file that is torn fails wherever it is torn.
        try:
            return _read(folder / CHECKPOINT)
        except UnreadableError:
            raise
        except FileNotFoundError:
            # Another process has removed it.
            return None
        except Exception as error:
            raise UnreadableError(f"it cannot be read ({_line(error)})") from error

    def keep(self, step: str, checkpoint: Checkpoint) -> None:
        """Keep the checkpoint of a step, in place of an earlier one.

        Raises OptlangError, naming it, where the technique's state has anything but plain values and tensors.
        """
        _check(checkpoint.state, "")
        content = {
            "format": _FORMAT, "training": checkpoint.training, "seconds": checkpoint.seconds,
            "curve": [asdict(item) for item in checkpoint.curve], "scored": list(checkpoint.scored),
            "state": dict(checkpoint.state), "random": dict(checkpoint.random),
        }
        self._cache.replace(checkpoint_key(step), CHECKPOINT, lambda path: torch.save(content, path))

    def remove(self, step: str) -> None:
        """Remove the checkpoint of a step, where there is one."""
        self._cache.remove(checkpoint_key(step))


def checkpoint_key(step: str) -> str:
    """The key of the checkpoint of the step whose result has this key."""
    return key_of("checkpoint", step)


def _read(path: Path) -> Checkpoint:
    # torch reads a changed byte of a tensor as it stands, without a look at the check sums that it wrote.
    with zipfile.ZipFile(path) as archive:
        broken = archive.testzip()
    if broken is not None:
        raise UnreadableError(f"{broken} in it is damaged")
    content = torch.load(path, map_location="cpu", weights_only=True)
    if content["format"] != _FORMAT:
        raise UnreadableError(f"it has the format {content['format']}, and {_FORMAT} is read here")
    return Checkpoint(
        content["training"], content["seconds"], tuple(Epoch(**item) for item in content["curve"]),
        tuple(content["scored"]), content["state"], content["random"],
    )


def _check(value: Any, place: str) -> None:
    if isinstance(value, Mapping):
        for name, item in value.items():
            _check(name, f"{place} (a key)")
            _check(item, f"{place}[{name!r}]")
    elif type(value) in (list, tuple):
        for index, item in enumerate(value):
            _check(item, f"{place}[{index}]")
    elif not isinstance(value, _PLAIN):
        raise OptlangError(
            f"what the training is to go on with has a {type(value).__name__} at state(){place}",
            help="return tensors, numbers, texts, None, and lists, tuples and dictionaries of these",
        )


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
