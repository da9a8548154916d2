"""The study that benchmarks/by_hand.py compares with what is written by hand: valid, laid out, and with models."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmark_files import loaded

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def by_hand():
    return loaded("by_hand")


def test_every_model_and_its_samples_are_functions(by_hand):
    def functions(name):
        tree = ast.parse((by_hand.FOLDER / name).read_text(encoding="utf-8"))
        return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}

    assert {*by_hand.MODELS, *by_hand.MODELS.values()} <= functions("models.py")
    assert set(by_hand.STUDIES) <= functions("studies.py")
    assert set(by_hand.STUDIES) == {path.stem for path in (ROOT / "studies" / "real").glob("*.opt")}


def test_the_study_is_valid_and_laid_out(by_hand, tmp_path):
    shutil.copy(by_hand.FOLDER / "models.py", tmp_path)
    study = tmp_path / "bert.opt"
    study.write_text(by_hand.STUDY.format(name="bert", samples="tokens"), encoding="utf-8")
    for words in (["check", study.name], ["fmt", "--check", study.name]):
        done = subprocess.run(
            [sys.executable, "-m", "optlang", *words], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def file(by_hand, maker, path, size, **found):
    path.write_bytes(bytes(size))
    return by_hand.File("onnxruntime", maker, path, {"size": size, "agreement": 1.0, **found})


def test_a_file_is_compared_in_size_time_and_error(by_hand, tmp_path):
    files = [
        file(by_hand, "float", tmp_path / "a", 4000, latency=1.0, error=0.0),
        file(by_hand, "quantize_dynamic", tmp_path / "b", 1000, latency=0.5, error=0.1),
        file(by_hand, "quantize_static", tmp_path / "c", 3990, latency=0.5, error=0.1),
        file(by_hand, "optlang: static", tmp_path / "d", 900, latency=0.6, error=0.1),
        file(by_hand, "optlang: dynamic", tmp_path / "e", 1000, latency=0.5, error=0.11),
    ]
    ((*_, chosen, _, _, _, _, verdict),) = by_hand.compared(by_hand.RANDOM, "net", files)
    assert (chosen, verdict) == ("dynamic", "yes")
    ((*_, chosen, _, _, _, _, verdict),) = by_hand.compared(by_hand.RANDOM, "net", files[:4])
    assert (chosen, verdict) == ("static", "no")


def test_what_does_not_run_is_said_and_beats_nothing(by_hand, tmp_path):
    files = [
        file(by_hand, "float", tmp_path / "a", 4000, latency=1.0, times=1.0, metric=0.9, wrong=0.1),
        by_hand.File("onnxruntime", "quantize_static", tmp_path / "b", {"size": 1000}),
        file(by_hand, "optlang: trial 3", tmp_path / "c", 900, latency=0.5, times=2.0, metric=0.9, wrong=0.1),
    ]
    files[1].path.write_bytes(bytes(1000))
    [line] = by_hand.compared(by_hand.TRAINED, "net", files)
    assert line[-1] == "does not run"
    assert len(line) == 3 + 3 + 1 + 3 + 1


def test_the_lines_of_a_model_take_the_place_of_those_it_had(by_hand, tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("Before.\n<!-- measured by_hand: begin -->\n<!-- measured by_hand: end -->\nBehind.\n")
    monkeypatch.setattr(by_hand, "PAGE", page)
    for name, size in (("lstm", "1"), ("bert", "2"), ("lstm", "3")):
        by_hand.write(by_hand.RANDOM, name, [(name, "onnxruntime", "quantize_dynamic", size, *["–"] * 9)])
    text = page.read_text()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith(("| bert", "| lstm"))]
    assert [(row[0], row[3]) for row in rows] == [("| bert", "2"), ("| lstm", "3")]
    assert text.startswith("Before.")
    assert text.endswith("Behind.\n")
