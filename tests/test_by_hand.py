"""The study that benchmarks/by_hand.py compares with what is written by hand: valid, laid out, and with models."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def by_hand():
    spec = importlib.util.spec_from_file_location("by_hand", ROOT / "benchmarks" / "by_hand.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["by_hand"] = module
    spec.loader.exec_module(module)
    return module


def test_every_model_and_its_samples_are_functions(by_hand):
    tree = ast.parse(by_hand.FACTORIES.read_text(encoding="utf-8"))
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert {*by_hand.MODELS, *by_hand.MODELS.values()} <= functions


def test_the_study_is_valid_and_laid_out(by_hand, tmp_path):
    (tmp_path / "models.py").write_text(by_hand.FACTORIES.read_text(encoding="utf-8"), encoding="utf-8")
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
    ((*_, chosen, _, _, _, _, verdict),) = by_hand.compared("net", files)
    assert (chosen, verdict) == ("dynamic", "yes")
    ((*_, chosen, _, _, _, _, verdict),) = by_hand.compared("net", files[:4])
    assert (chosen, verdict) == ("static", "no")
