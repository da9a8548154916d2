"""A data set's own random numbers: a pass is the same however many were made before it, and leaves nothing behind."""

from __future__ import annotations

import functools
import random
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler

from optlang.workload import generators
from optlang.workload.data.splits import split_of
from optlang.workload.data.tensors import leaves
from optlang.workload.seeds import Stream, random_states, set_random_states

STUDY = Path()


GLOBAL = numpy.random.default_rng(5)


class Augmented(Dataset[Any]):
    """Samples with noise from generators that lie in lists, functions and attributes of attributes."""

    def __init__(self) -> None:
        torches, older = torch.Generator().manual_seed(1), numpy.random.RandomState(2)
        self.transforms = [Noise(numpy.random.default_rng(3)), functools.partial(_plus, random.Random(4))]
        self.drawn = lambda: float(torch.rand(1, generator=torches)) + older.rand()

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        value: Any = self.drawn() + GLOBAL.random()
        for transform in self.transforms:
            value = transform(value)
        return torch.tensor([float(value), float(index)]), index


class Noise:
    def __init__(self, generator: numpy.random.Generator) -> None:
        self.generator = generator

    def __call__(self, value: float) -> float:
        return value + float(self.generator.normal())


def _plus(generator: random.Random, value: float) -> float:
    return value + generator.random()


class Flowing(IterableDataset[Any]):
    def __init__(self) -> None:
        self.items = Augmented()

    def __iter__(self) -> Any:
        return (self.items[index] for index in range(12))


class Plain(Dataset[Any]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.rand(1), index


def read(split: Any, seed: int) -> torch.Tensor:
    return torch.cat([leaves(inputs)[0].flatten() for inputs, _ in split.batches(4, None, seed)])


SOURCES = {
    "Dataset": Augmented,
    "stream": Flowing,
    "loader": lambda: DataLoader(Augmented(), batch_size=5),
    "shuffled loader": lambda: DataLoader(
        Augmented(), batch_size=5, shuffle=True, generator=torch.Generator().manual_seed(7)
    ),
    "sampler": lambda: DataLoader(
        Augmented(), batch_size=5, sampler=RandomSampler(Augmented(), generator=torch.Generator().manual_seed(7))
    ),
}


@pytest.mark.parametrize("source", SOURCES)
def test_a_pass_is_the_same_whatever_was_read_before(source: str) -> None:
    split, fresh = (split_of("train", SOURCES[source](), STUDY, True) for _ in range(2))
    first, second = read(split, 1), read(split, 2)
    assert not torch.equal(first, second)
    assert torch.equal(read(fresh, 2), second)
    assert torch.equal(read(split, 1), first)
    # Two at once do not disturb each other.
    one, other = split.batches(4, None, 1), split.batches(4, None, 2)
    pairs = [(leaves(a)[0].flatten(), leaves(b)[0].flatten()) for (a, _), (b, _) in zip(one, other, strict=True)]
    for column, wanted in enumerate((first, second)):
        assert torch.equal(torch.cat([pair[column] for pair in pairs]), wanted)


def test_the_seed_that_a_user_gave_counts() -> None:
    orders = [
        read(split_of("train", DataLoader(
            [(torch.tensor([float(n)]), n) for n in range(12)], batch_size=4, shuffle=True,  # type: ignore[arg-type]
            generator=torch.Generator().manual_seed(seed),
        ), STUDY, True), 1) for seed in (1, 1, 2)
    ]
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])


@pytest.mark.slow
def test_workers_that_stay_begin_each_pass_again() -> None:
    """In worker processes that serve several passes random numbers would go on from the pass before."""
    split = split_of("train", DataLoader(Plain(), batch_size=4, num_workers=1, persistent_workers=True), STUDY, True)
    first, second = read(split, 1), read(split, 2)
    assert not torch.equal(first, second)
    assert torch.equal(read(split, 1), first)


def test_the_processes_own_generators_belong_to_nobody() -> None:
    held = [numpy.random.mtrand._rand, random._inst, torch.default_generator]
    mine = torch.Generator()
    assert generators.of({"all": [held, mine, mine]}) == [mine]
    assert generators.of([list(range(10**6)), "text", torch.zeros(3), None]) == []


@pytest.mark.parametrize("generator", [
    torch.Generator(), numpy.random.default_rng(), numpy.random.Generator(numpy.random.MT19937()),
    numpy.random.RandomState(), random.Random(),
], ids=lambda item: type(item).__name__)
def test_a_stream_leaves_each_kind_where_it_stood(generator: Any) -> None:
    def draw() -> float:
        if isinstance(generator, torch.Generator):
            return float(torch.rand(1, generator=generator))
        return float(generator.random())

    before = generators.state(generator)
    numbers = []
    for seed in (5, 5, 6):
        stream = Stream(seed, [generator])
        with stream:
            numbers.append(draw())
        with stream:
            assert draw() != numbers[-1]
    assert numbers[0] == numbers[1] != numbers[2]
    following = draw()
    generators.set_state(generator, before)
    assert draw() == following


def test_random_numbers_go_on_from_what_is_kept(tmp_path: Path) -> None:
    def draw() -> tuple[float, ...]:
        return random.gauss(0, 1), random.random(), float(numpy.random.normal()), float(torch.rand(1))

    with Stream(3):
        draw()
        torch.save(random_states(), tmp_path / "states")
        wanted = [draw(), draw()]
    with Stream(4):
        set_random_states(torch.load(tmp_path / "states", weights_only=True))
        assert [draw(), draw()] == wanted
