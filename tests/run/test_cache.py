"""The cache of steps: whole results only, whoever writes and whoever dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from optlang.interfaces import JSON, Factory, QuantWants
from optlang.run.cache import Cache, Clock, key_of, step_key
from optlang.run.job import StepJob, Workload


def test_a_key_follows_from_the_content_alone() -> None:
    assert key_of("a", {"x": 1, "y": [1, 2]}) == key_of("a", {"y": [1, 2], "x": 1})
    assert len({key_of("a"), key_of("a", None), key_of(["a"]), key_of("a", 1), key_of("a", 1.5), key_of("a", "1")}) == 6


@pytest.mark.parametrize(
    ("technique", "needs", "depends"),
    [
        ("training.train", ("training",), False), ("quant.qat", ("training", "runtime"), True),
        ("quant.static", ("calibration", "runtime"), True), ("quant.weight_only", (), True),
    ],
)
def test_files_depend_on_the_axes_that_a_target_opens_and_training_does_not(
    tmp_path: Path, technique: str, needs: tuple[str, ...], depends: bool
) -> None:
    module, _, name = technique.partition(".")
    step = StepJob(name, technique, f"optlang.techniques.{module}.{name}:{name}", {}, needs, 1)
    workload = Workload(Factory("x:y"), Factory("x:y"), tmp_path, tmp_path, "cpu")
    wants, clock = QuantWants("uint8", "int8", False, True, True), Clock(None, lambda _: 0.0)
    keys = {
        step_key("parent", step, workload, wants, clock, opened)
        for opened in ([], [{"input": "tokens", "axis": 1}], [{"input": "mask", "axis": 1}])
    }
    assert len(keys) == (3 if depends else 1)


@pytest.mark.parametrize(
    ("technique", "needs", "settings", "depends"),
    [
        ("training.train", ("training", "labels"), {"epochs": 2}, True),
        ("quant.qat", ("training", "calibration", "runtime", "baseline"), {"samples": 64}, True),
        ("quant.smooth", ("calibration",), {"samples": 64}, True),
        ("quant.static", ("calibration", "runtime"), {"samples": 64}, False),
        ("prune.magnitude", ("training",), {"importance": "l1"}, False),
        ("prune.magnitude", ("training",), {"importance": "taylor", "samples": 64}, True),
        ("prune.channels", ("training",), {"importance": "l2", "recalibrate": 0}, False),
        ("prune.channels", ("training",), {"importance": "l2", "recalibrate": 4}, True),
        ("graph.fold", (), {}, False),
    ],
)
def test_the_kind_of_device_is_in_the_key_of_what_is_computed_on_it(
    tmp_path: Path, technique: str, needs: tuple[str, ...], settings: dict[str, JSON], depends: bool
) -> None:
    module, _, name = technique.partition(".")
    step = StepJob(name, technique, f"optlang.techniques.{module}.{name}:{name}", settings, needs, 1)
    workload = Workload(Factory("x:y"), Factory("x:y"), tmp_path, tmp_path, "auto")
    wants, clock = QuantWants("uint8", "int8", False, True, True), Clock(None, lambda _: 0.0)
    before, *keys = (
        step_key("parent", step, workload, wants, clock, *more)
        for more in ((), (None, "cpu"), (None, "cuda"), (None, "mps"))
    )
    assert before == keys[0]
    assert len(set(keys)) == (3 if depends else 1)


def test_what_was_put_is_found(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    key = key_of("x")
    assert cache.find(key) is None
    cache.put(key, lambda folder: (folder / "sub").mkdir() or (folder / "sub" / "file").write_text("here"))
    found = cache.find(key)
    assert found is not None
    assert (found / "sub" / "file").read_text() == "here"


def test_a_writer_that_raises_leaves_nothing(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def write(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        cache.put(key_of("x"), write)
    assert cache.find(key_of("x")) is None
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_second_of_two_writers_gives_way(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    key = key_of("x")

    def slow(folder: Path) -> None:
        (folder / "file").write_text("slow")
        Cache(tmp_path).put(key, lambda other: (other / "file").write_text("fast"))

    place = cache.put(key, slow)
    assert (place / "file").read_text() == "fast"


def test_a_writer_that_is_killed_leaves_no_result(tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        from optlang.run.cache import Cache, key_of

        def write(folder):
            (folder / "half").write_text("x")
            os.kill(os.getpid(), signal.SIGKILL)

        Cache(Path(sys.argv[1])).put(key_of("x"), write)
    """)
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    cache = Cache(tmp_path)
    assert cache.find(key_of("x")) is None
    cache.put(key_of("x"), lambda folder: (folder / "whole").write_text("y"))
    assert sorted(path.name for path in Path(cache.find(key_of("x")) or "").iterdir()) == ["sums.json", "whole"]


def test_a_result_is_used_when_it_is_found(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    folder = cache.put(key_of("x"), lambda folder: (folder / "file").write_text("x"))
    os.utime(folder, (1, 1))
    assert cache.find(key_of("x")) == folder
    assert time.time() - folder.stat().st_mtime < 60


def test_a_text_whose_result_is_removed_while_it_is_read_is_computed_again(tmp_path: Path) -> None:
    cache, key = Cache(tmp_path), key_of("x")
    assert cache.text(key, "text", lambda: "first") == "first"
    assert cache.text(key, "text", lambda: "second") == "first"
    (Path(cache.find(key) or "") / "text").unlink()
    assert cache.text(key, "text", lambda: "third") == "third"
