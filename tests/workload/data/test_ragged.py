"""Samples whose shapes differ: how they are held, taken together by shape, padded, and written to files."""

import numpy
import pytest

from optlang.workload.data import ragged


def rows(*sizes):
    return ragged.column([numpy.full((1, size), size, dtype=numpy.int64) for size in sizes])


@pytest.fixture
def inputs():
    return {"tokens": rows(3, 2, 3, 2, 3), "weight": numpy.arange(5.0)}


def test_pieces_of_one_shape_are_dense_and_others_are_objects():
    dense = ragged.column([numpy.zeros((2, 3)), numpy.ones((1, 3))])
    assert dense.shape == (3, 3)
    assert not ragged.is_ragged(dense)
    assert ragged.is_ragged(rows(1, 2))
    assert ragged.column([rows(1, 2)[:1], rows(1, 2)[:1]]).shape == (2, 1)


def test_calls_have_one_shape_and_are_filled_up_with_its_first_samples(inputs):
    calls = ragged.calls(inputs, 2)
    found = [(places.tolist(), call["tokens"].shape, call["weight"].tolist()) for places, call in calls]
    assert found == [([0, 2], (2, 3), [0, 2]), ([4], (2, 3), [4, 0]), ([1, 3], (2, 2), [1, 3])]


def test_calls_of_dense_data_are_those_in_their_order():
    inputs = {"x": numpy.arange(5)}
    assert [call["x"].tolist() for _, call in ragged.calls(inputs, 3)] == [[0, 1, 2], [3, 4, 0]]
    assert [call["x"].tolist() for call in ragged.batches(inputs, 3)] == [[0, 1, 2], [3, 4]]


def test_more_samples_a_call_than_there_are_of_a_shape(inputs):
    calls = {tuple(places.tolist()): call["weight"].tolist() for places, call in ragged.calls(inputs, 4)}
    assert calls == {(0, 2, 4): [0, 2, 4, 0], (1, 3): [1, 3, 1, 3]}


def test_answers_return_to_the_order_of_their_samples(inputs):
    answers = ragged.in_order([(places, call) for places, call in ragged.groups(inputs)])
    assert [row.tolist() for row in answers["tokens"]] == [row.tolist() for row in inputs["tokens"]]
    assert answers["weight"].tolist() == inputs["weight"].tolist()


def test_padding_stands_at_the_end(inputs):
    found = ragged.padded(inputs["tokens"], -100)
    assert found[:2].tolist() == [[3, 3, 3], [2, 2, -100]]
    one, other = ragged.one_size(numpy.ones((1, 2)), numpy.ones((1, 3)))
    assert (one.tolist(), other.tolist()) == ([[1, 1, 0]], [[1, 1, 1]])


def test_what_was_written_is_read(inputs, tmp_path):
    path = tmp_path / "inputs.npz"
    found = ragged.read(path, ["tokens", "weight"], ragged.save(path, inputs))
    assert [row.tolist() for row in found["tokens"]] == [row.tolist() for row in inputs["tokens"]]
    assert found["weight"].tolist() == inputs["weight"].tolist()
