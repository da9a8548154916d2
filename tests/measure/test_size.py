"""Bytes on disk and bytes after zstd, and that the files are those that were built."""

import hashlib
from dataclasses import replace

import numpy
import pytest
import zstandard

from optlang.interfaces import Artifact, ArtifactFile, OptlangError
from optlang.measure.size import LEVEL, in_few_bits, weigh


@pytest.fixture
def artifact(tmp_path):
    generator = numpy.random.default_rng(1)
    weights = generator.normal(size=600_000).astype("float32")
    weights[generator.random(len(weights)) < 0.7] = 0
    contents = {"graph.bin": b"graph " * 1000, "weights.bin": weights.tobytes()}
    files = []
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        files.append(ArtifactFile(name, len(content), hashlib.sha256(content).hexdigest()))
    (tmp_path / "notes.txt").write_text("not an artifact's file")
    return Artifact(tmp_path, "plain", tuple(files), ("x",), ("y",))


def test_size_is_all_files_and_compressed_is_zstds(artifact):
    found = {item.metric: item for item in weigh(artifact)}
    contents = [(artifact.folder / item.name).read_bytes() for item in artifact.files]
    assert found["size"].value == sum(len(item) for item in contents)
    packer = zstandard.ZstdCompressor(level=LEVEL)
    packed = [packer.compress(item) for item in contents]
    # Fed in pieces the blocks may fall a little differently.
    assert found["size.compressed"].value == pytest.approx(sum(len(item) for item in packed), rel=0.001)
    assert found["size.compressed"].value < 0.5 * found["size"].value
    for item in found.values():
        assert (item.unit, item.low, item.high) == ("B", item.value, item.value)


def test_zeros_alone_make_no_smaller_file_but_a_smaller_compressed_one(artifact):
    path = artifact.folder / "weights.bin"
    path.write_bytes(numpy.random.default_rng(2).normal(size=600_000).astype("float32").tobytes())
    dense = ArtifactFile("weights.bin", path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
    full = Artifact(artifact.folder, "plain", (artifact.files[0], dense), ("x",), ("y",))
    before = {item.metric: item.value for item in weigh(full)}
    assert before["size.compressed"] > 0.9 * before["size"]


def test_changed_and_missing_files_are_told(artifact):
    path = artifact.folder / "graph.bin"
    path.write_bytes(b"something else")
    with pytest.raises(OptlangError, match="changed after it was built"):
        weigh(artifact)
    path.unlink()
    with pytest.raises(OptlangError, match="is missing"):
        weigh(artifact)


def test_weights_in_few_bits_are_those_that_the_runtime_counted(artifact):
    assert in_few_bits(artifact) == []
    found = in_few_bits(replace(artifact, about={"stored": {"quantized": 0.75, "halved": 0.25}}))
    assert [(item.metric, item.value, item.unit) for item in found] == [
        ("quantized", 0.75, "ratio"), ("halved", 0.25, "ratio"),
    ]
