"""Random numbers of one's own: streams that leave the process's generators as they were."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy
import torch

from optlang.workload import generators
from optlang.workload.generators import Generator


def _states(own: Sequence[Generator]) -> tuple[Any, ...]:
    devices = torch.cuda.get_rng_state_all() if _on_devices() else None
    inner = [generators.state(item) for item in own]
    return random.getstate(), numpy.random.get_state(), torch.get_rng_state(), devices, inner


def _restore(states: tuple[Any, ...], own: Sequence[Generator]) -> None:
    python, arrays, tensors, devices, inner = states
    random.setstate(python)
    numpy.random.set_state(arrays)
    torch.set_rng_state(tensors)
    if devices is not None:
        torch.cuda.set_rng_state_all(devices)
    for item, kept in zip(own, inner, strict=True):
        generators.set_state(item, kept)


def _on_devices() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


class Stream:
    """The random numbers of Python, numpy and torch from one seed: `with stream:` goes on where it stopped.

    Outside the block the process's own generators are untouched, so two streams never disturb each other. `own` are
    generators that belong to objects (see `generators`), for which the same holds.
    """

    def __init__(self, seed: int, own: Sequence[Generator] = ()) -> None:
        self._seed, self._own = seed, own
        self._inner: tuple[Any, ...] | None = None
        self._outer: list[tuple[Any, ...]] = []

    def __enter__(self) -> Stream:
        self._outer.append(_states(self._own))
        if self._inner is None:
            random.seed(self._seed)
            numpy.random.seed(self._seed % 2**32)
            torch.manual_seed(self._seed)
            for number, item in enumerate(self._own):
                generators.seed(item, _mixed(self._seed, number, item))
        else:
            _restore(self._inner, self._own)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inner = _states(self._own)
        _restore(self._outer.pop(), self._own)


def _mixed(seed: int, number: int, generator: Generator) -> int:
    """A seed for the nth of the generators, by the one that its user gave it, where it knows that."""
    users = generator.initial_seed() if isinstance(generator, torch.Generator) else 0
    return int.from_bytes(hashlib.sha256(f"{seed}:{number}:{users}".encode()).digest()[:4], "big")


def seeded(seed: int) -> Stream:
    """A fresh stream, to be used once: `with seeded(7): …`."""
    return Stream(seed)


def random_states() -> dict[str, Any]:
    """Where the process's generators stand, in plain values and tensors."""
    version, words, gauss = random.getstate()
    _, keys, *rest = numpy.random.get_state()
    return {
        "python": [version, torch.tensor(words, dtype=torch.int64), gauss],
        "numpy": [torch.from_numpy(numpy.asarray(keys).astype(numpy.int64)), *rest], "torch": torch.get_rng_state(),
        "devices": torch.cuda.get_rng_state_all() if _on_devices() else [],
    }


def set_random_states(kept: Mapping[str, Any]) -> None:
    """Have the process's generators stand where they stood; a device that is not there now has none."""
    version, words, gauss = kept["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    keys, *rest = kept["numpy"]
    numpy.random.set_state(("MT19937", keys.numpy().astype(numpy.uint32), *rest))
    torch.set_rng_state(kept["torch"])
    for device, state in enumerate(kept["devices"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state, device)
