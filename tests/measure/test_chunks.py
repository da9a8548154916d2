"""Samples in files: what is read is what was written, a part at a time."""

import numpy
import pytest

from optlang.measure import chunks
from optlang.measure.chunks import Chunks, ChunkWriter, Held, all_of, chunked, pieces, taken


@pytest.fixture
def small(monkeypatch):
    """Chunks of about seven samples of three doubles."""
    monkeypatch.setattr(chunks, "BYTES", 7 * 24)


def written(folder, *parts):
    writer = ChunkWriter(folder)
    for part in parts:
        writer.add(part)
    return writer.close()


def test_parts_become_chunks_and_are_read_across_them(tmp_path, small):
    values = numpy.random.default_rng(0).normal(size=(40, 3))
    rows = written(tmp_path / "all", *({"a/b": values[start : start + 3]} for start in range(0, 40, 3)))
    assert len(rows) == 40
    assert rows.names == ("a/b",)
    assert rows.runs == ((0, 40),)
    assert len(list(tmp_path.glob("all/*.npy"))) == 5
    for start, stop in ((0, 40), (0, 1), (39, 40), (8, 10), (5, 25)):
        assert (rows.rows(start, stop)["a/b"] == values[start:stop]).all()
    places = numpy.array([39, 0, 17, 17, 8])
    assert (taken(rows, places)["a/b"] == values[places]).all()
    assert (taken(Held({"a/b": values}), places)["a/b"] == values[places]).all()
    assert rows.sample_bytes(11) == 24
    for start, stop in ((-1, 3), (3, 3), (39, 41)):
        with pytest.raises(IndexError, match=f"samples {start} to {stop} of 40"):
            rows.rows(start, stop)


def test_what_is_read_may_be_written_to(tmp_path):
    rows = chunked(tmp_path / "all", {"x": numpy.zeros((4, 2))})
    rows.rows(0, 4)["x"][:] = 1
    assert (all_of(rows)["x"] == 0).all()


def of_widths(*parts):
    return [numpy.full((count, width), width) for count, width in parts]


def test_samples_of_other_shapes_are_another_run(tmp_path):
    parts = of_widths((3, 5), (2, 5), (4, 2), (1, 5))
    rows = written(tmp_path / "all", *({"x": part} for part in parts))
    assert rows.runs == ((0, 5), (5, 9), (9, 10))
    assert [rows.rows(first, end)["x"].shape for first, end in rows.runs] == [(5, 5), (4, 2), (1, 5)]
    whole = all_of(rows, padding=-1)["x"]
    assert (whole[5:9, :2] == 2).all()
    assert (whole[5:9, 2:] == -1).all()
    assert [item.shape for item in taken(rows, numpy.array([6, 0]))["x"]] == [(2,), (5,)]
    answers = Held({"y": numpy.arange(10)})
    assert list(pieces([rows, answers])) == [(0, 5), (5, 9), (9, 10)]


def test_samples_of_equal_shapes_come_together_on_request(tmp_path, small):
    writer = ChunkWriter(tmp_path / "all", grouped=True)
    for number, part in enumerate(of_widths(*[(3, 5), (2, 2)] * 20)):
        writer.add({"x": part, ".": numpy.full(len(part), number)})
    rows = writer.close()
    assert rows.runs == ((0, 60), (60, 100))
    assert (rows.rows(0, 60)["x"] == 5).all()
    assert (rows.rows(60, 100)["x"] == 2).all()
    assert rows.rows(0, 60)["."].tolist() == [number for number in range(0, 40, 2) for _ in range(3)]
    assert Chunks(tmp_path / "all", ["."]).rows(99, 100).keys() == {"."}


def test_ranges_hold_as_many_bytes_as_are_allowed():
    rows = Held({"x": numpy.zeros((10, 3))})
    assert list(pieces([rows], 100)) == [(0, 4), (4, 8), (8, 10)]
    assert list(pieces([rows, rows], 100)) == [(start, start + 2) for start in range(0, 10, 2)]
    assert list(pieces([rows], 1)) == [(place, place + 1) for place in range(10)]
