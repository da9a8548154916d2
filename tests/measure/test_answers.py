"""Answers at the target's batch: what calls of that size give, and which artifacts answer otherwise in others."""

import itertools
from dataclasses import replace

import numpy
import pytest

from optlang.measure import answers
from optlang.measure.answers import deployed, difference, same
from optlang.measure.chunks import all_of, chunked
from optlang.measure.latency import Bench, Repetitions
from optlang.measure.process import BareProcess

EFFORT = Repetitions(rounds=1, processes=1, seconds=0.0, calls=2)


class Watched(BareProcess):
    """A process that keeps how many samples it was asked to answer, in calls of how many."""

    def __init__(self, member):
        self.asked = []
        super().__init__(member)

    def answer(self, samples, folder, batch=None):
        self.asked.append((len(samples), batch))
        return super().answer(samples, folder, batch)


@pytest.fixture
def many():
    return {"x": numpy.random.default_rng(0).normal(size=(300, 3)) + 5}


@pytest.fixture
def answered(tmp_path):
    """The answers of a process to arrays, as they are deployed."""
    numbers = itertools.count()

    def ask(process, arrays):
        folder = tmp_path / f"asked {next(numbers)}"
        return deployed(process, chunked(folder / "given", arrays), folder / "answered")

    return ask


def values(rows, name="file"):
    return all_of(rows)[name]


def centered(values, batch):
    """By hand: each call's own mean is taken away, and the last call is filled up with the first samples."""
    pieces = []
    for start in range(0, len(values), batch):
        call = values[numpy.arange(start, start + batch) % len(values)]
        pieces.append((call - call.mean(axis=0))[: len(values) - start])
    return numpy.concatenate(pieces)


@pytest.mark.parametrize(("batch", "fixed"), [(1, False), (7, False), (64, False), (128, False), (7, True), (1, True)])
def test_all_answers_are_those_of_the_targets_calls(answered, member_of, many, batch, fixed):
    member = member_of(batch=1 if fixed else batch, about={"batch": batch} if fixed else None, wish="center")
    with BareProcess(member) as process:
        found = answered(process, many)
    numpy.testing.assert_allclose(values(found.outputs), centered(many["x"], batch), atol=1e-12)
    assert found.batch == batch
    assert set(found.others) == ((set() if batch == 1 else {batch}) if fixed else {1, 64} - {batch})
    # With one sample a call and no other number there is nothing to compare with.
    assert found.uniform is (fixed and batch == 1)


def test_a_larger_batch_stands_in_where_a_part_was_answered_alike(answered, member_of, many, monkeypatch):
    monkeypatch.setattr(answers, "CHEAP", -1.0)
    member = member_of(batch=2)
    with Watched(member) as process:
        found = answered(process, many)
        assert process.asked == [(128, 2), (32, 1), (128, 64), (300, 64)]
    assert found.uniform
    assert (values(found.outputs) == 2 * many["x"]).all()
    # A kernel that is wrong for many samples, a fixed batch, and seconds that are few: the target's own calls.
    for settings, about, cheap in (({"wish": "narrow"}, None, -1.0), ({}, {"batch": 2}, -1.0), ({}, None, 60.0)):
        monkeypatch.setattr(answers, "CHEAP", cheap)
        again = replace(member, settings=settings, artifact=replace(member.artifact, about=about or {}))
        with Watched(again) as process:
            found = answered(process, many)
            assert process.asked[-1] == (300, 2)
        assert (values(found.outputs) == 2 * many["x"]).all()
        assert found.uniform is (settings == {})


def test_few_samples_are_answered_once(answered, member_of, inputs):
    with Watched(member_of(factor=3)) as process:
        found = answered(process, inputs)
        assert process.asked == [(5, 1), (5, 5)]
    assert (values(found.outputs) == 3 * inputs["x"]).all()


def test_an_artifact_that_takes_no_other_batch_is_compared_with_none(answered, member_of, inputs):
    with BareProcess(member_of(wish="single")) as process:
        found = answered(process, inputs)
    assert (found.others, found.uniform) == ({}, True)


@pytest.mark.parametrize("wish", ["frail", "spoilt"])
def test_an_artifact_that_dies_of_another_batch_is_asked_again_without(wish, member_of, many, tmp_path):
    given = chunked(tmp_path / "given", many)
    with Bench(tmp_path / "lock") as bench:
        one = {"x": many["x"][:1]}
        found = bench.measure(member_of(wish=wish), None, one, EFFORT, answer=given, folder=tmp_path / "all").answers
    assert (values(found.outputs) == 2 * many["x"]).all()
    # What was not compared is not known to be alike.
    assert (found.others, found.uniform) == ({}, False)


def test_chance_is_told_from_neighbours(answered, member_of, many):
    member = member_of(wish="random")
    with BareProcess(member) as process:
        found = answered(process, many)
    assert not found.uniform
    assert found.noise > 0.5
    with BareProcess(replace(member, settings={"wish": "center"})) as process:
        assert answered(process, many).noise == 0


def test_same_forgives_what_float32_rounds_and_no_more():
    values = numpy.random.default_rng(1).normal(size=(50, 4)).astype(numpy.float32)
    assert same({"y": values}, {"y": values * numpy.float32(1 + 1e-6)})
    assert not same({"y": values}, {"y": values * numpy.float32(1.01)})
    assert same({"y": values}, {"y": values[:20]}), "those of the first samples"
    assert not same({"y": values.argmax(1)}, {"y": values.argmin(1)})
    bad = values.copy()
    bad[3, 1] = numpy.nan
    assert not same({"y": values}, {"y": bad})
    assert same({"y": bad}, {"y": bad})


def test_difference_is_a_share_of_what_samples_differ_by():
    generator = numpy.random.default_rng(2)
    values = generator.normal(size=(200, 4))
    other = values + 0.1 * generator.normal(size=values.shape)
    by_hand = [
        numpy.linalg.norm(a - b) / max(numpy.linalg.norm(a - values.mean(0)), numpy.linalg.norm(b - values.mean(0)))
        for a, b in zip(values, other, strict=True)
    ]
    expected = pytest.approx(numpy.mean(by_hand))
    assert difference({"y": values}, {"y": values}) == 0
    assert difference({"y": values}, {"y": other}) == expected
    assert difference({"y": values.reshape(200, 2, 2)}, {"y": other.reshape(200, 2, 2)}) == expected
    # A constant that all answers have in common says nothing of them, and of several outputs the worst counts.
    assert difference({"y": values + 1000}, {"y": other + 1000}) == expected
    assert difference({"a": values, "b": values}, {"a": values, "b": other}) == expected
    assert 0.8 < difference({"y": values}, {"y": generator.permutation(values)}) < 1.3
    # A few large answers do not hide that all others are gone.
    large = values * numpy.where(numpy.arange(200) % 10, 1, 100)[:, None]
    assert difference({"y": large}, {"y": numpy.where(numpy.abs(large) > 10, large, 0)}) > 0.1
    labels = generator.integers(4, size=400)
    assert difference({"y": labels}, {"y": numpy.where(numpy.arange(400) < 40, -1, labels)}) == pytest.approx(0.1)
    assert difference({"y": values}, {"y": numpy.full_like(values, numpy.nan)}) == numpy.inf
    assert difference({"y": numpy.ones((3, 2))}, {"y": numpy.zeros((3, 2))}) == 1
