"""A split in files: what is written is what the data give, read once, and never held whole."""

import gc
import weakref

import numpy
import pytest
import torch

from optlang.interfaces import Factory
from optlang.measure import chunks, samples
from optlang.measure.chunks import pieces
from optlang.measure.quality import score, tally
from optlang.workload.data import dataset
from optlang.workload.data.tasks import Classification, Unlabeled

COUNT = 900
SHAPE = (3, 8, 8)


class Counted:
    """Images that are made when they are asked for, with how many of them there are at one time."""

    fingerprint = "counted"

    def __init__(self):
        self.read = self.most = 0
        self.there = weakref.WeakSet()

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        self.read += 1
        image = torch.full(SHAPE, float(index))
        self.there.add(image)
        self.most = max(self.most, len(self.there))
        return image, index % 4


@pytest.fixture
def counted(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "BYTES", 40_000)
    monkeypatch.setattr(samples, "BYTES", 40_000)
    items = Counted()
    few = (torch.zeros(4, *SHAPE), torch.arange(4))
    monkeypatch.setattr(dataset.imports, "find", lambda *_: lambda: {"train": few, "validation": items})
    return items, dataset.load(Factory("mine.py:data"), tmp_path)


def test_samples_are_read_once_and_few_at_a_time(counted, tmp_path):
    items, data = counted
    data.example(1)
    gc.collect()
    items.read = items.most = 0
    kept = samples.kept(tmp_path / "kept", data, "validation")
    assert items.read == COUNT
    assert items.most < 200, "a batch, and what waits to be written"
    assert len(kept) == COUNT
    for start, stop in pieces([kept.inputs, kept.targets.rows], 40_000):
        rows = kept.inputs.rows(start, stop)["input"]
        assert len(rows) < 60
        numpy.testing.assert_array_equal(rows[:, 0, 0, 0], numpy.arange(start, stop))
        assert kept.targets.part(start, stop).tolist() == [index % 4 for index in range(start, stop)]
    samples.kept(tmp_path / "kept", data, "validation")
    assert items.read == COUNT, "what is there is not read again"
    assert len(list((tmp_path / "kept").glob("*.npy"))) > 30


def test_answers_are_scored_few_at_a_time(counted, tmp_path, monkeypatch):
    _, data = counted
    targets = samples.kept(tmp_path / "kept", data, "validation").targets
    writer = chunks.ChunkWriter(tmp_path / "answers")
    scores = numpy.random.default_rng(0).normal(size=(COUNT, 4, 6, 6)).astype(numpy.float32)
    for start in range(0, COUNT, 50):
        writer.add({"output": scores[start : start + 50]})
    answers, seen = writer.close(), []
    rows = chunks.Chunks.rows
    monkeypatch.setattr(chunks.Chunks, "rows", lambda self, a, b: seen.append(b - a) or rows(self, a, b))
    monkeypatch.setattr(chunks.pieces, "__defaults__", (40_000,))
    found = score(Unlabeled(), answers, None, answers)
    assert {item.metric: item.value for item in found} == {"agreement.cosine": 1.0, "agreement.error": 0.0}
    assert max(seen) <= 40_000 // (4 * 6 * 6 * 4)
    pixels = samples.targets_of(targets.all(-100)[:, None, None].repeat(1, 6, 6))
    own = tally(Classification(), answers, pixels)
    assert own.values["accuracy"] == pytest.approx(
        (scores.argmax(1) == (numpy.arange(COUNT) % 4)[:, None, None]).mean()
    )
    assert own.sums["accuracy"][0].shape == (COUNT,), "a number a sample, not one a pixel"


def test_targets_keep_their_structure(tmp_path):
    for value in (torch.arange(5), (torch.arange(5), torch.ones(5, 2)), {"a": torch.arange(5), "b": torch.ones(5)}):
        targets = samples.targets_of(value)
        found = targets.all(0)
        assert type(found) is type(value)
        parts = found if isinstance(found, tuple) else found.values() if isinstance(found, dict) else [found]
        assert [len(item) for item in parts] == [5] * len(parts)
    assert samples.targets_of(()) is None
    assert samples.targets_of(None) is None
