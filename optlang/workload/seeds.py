"""Random numbers of one's own: streams that leave the process's generators as they were."""

from __future__ import annotations

import random
from types import TracebackType
from typing import Any

import numpy
import torch


def _states() -> tuple[Any, ...]:
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = torch.cuda.get_rng_state_all() if started else None
    return random.getstate(), numpy.random.get_state(), torch.get_rng_state(), devices


def _restore(states: tuple[Any, ...]) -> None:
    python, arrays, tensors, devices = states
    random.setstate(python)
    numpy.random.set_state(arrays)
    torch.set_rng_state(tensors)
    if devices is not None:
        torch.cuda.set_rng_state_all(devices)


class Stream:
    """The random numbers of Python, numpy and torch from one seed: `with stream:` goes on where it stopped.

    Outside the block the process's own generators are untouched, so two streams never disturb each other.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._inner: tuple[Any, ...] | None = None
        self._outer: list[tuple[Any, ...]] = []

    def __enter__(self) -> Stream:
        self._outer.append(_states())
        if self._inner is None:
            random.seed(self._seed)
            numpy.random.seed(self._seed % 2**32)
            torch.manual_seed(self._seed)
        else:
            _restore(self._inner)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inner = _states()
        _restore(self._outer.pop())


def seeded(seed: int) -> Stream:
    """A fresh stream, to be used once: `with seeded(7): …`."""
    return Stream(seed)
