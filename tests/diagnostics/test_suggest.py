"""What a word was probably meant to be, and where there is no doubt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optlang.diagnostics.suggest import certain, closest, slips


@pytest.mark.parametrize(
    ("word", "candidates", "meant"),
    [
        ("statc", ["dynamic", "static"], "static"),
        ("minimise", ["maximize", "minimize"], "minimize"),
        ("preicsion", ["precision"], "precision"),
        ("OnnxRuntime", ["onnxruntime"], "onnxruntime"),
        ("qt", ["dynamic"], None),
        ("tpee", ["tpe"], "tpe"),
        ("lr", ["ls"], None),
        ("banana", ["static", "dynamic"], None),
        ("lat", ["load_time", "latency", "latency.p50"], "latency"),
        ("dist", ["static", "distill", "training.distill"], "distill"),
        ("quant", ["static", "quant.static", "quant.dynamic", "untie"], None),
        ("quantize", ["untie", "static"], None),
        ("size_compressed", ["size", "size.compressed"], "size.compressed"),
        ("careful", ["carefully", "parts.careful"], "parts.careful"),
        ("train_set", ["train", "validation"], "train"),
        ("val", ["train", "validation"], "validation"),
        ("prune_ratio", ["ratio", "scope"], "ratio"),
        ("static", [], None),
        ("", ["a"], None),
        ("abcd", ["abce", "abcf"], "abce"),
    ],
)
def test_a_suggestion_only_where_it_is_close(word: str, candidates: list[str], meant: str | None) -> None:
    assert closest(word, candidates) == meant


@pytest.mark.parametrize(
    ("word", "candidates", "meant"),
    [
        ("statc", ["dynamic", "static"], "static"),
        ("minimise", ["maximize", "minimize"], "minimize"),
        ("acuracy", ["accuracy", "latency"], "accuracy"),
        ("minMax", ["minmax", "entropy"], "minmax"),
        ("careful", ["parts.careful"], "parts.careful"),
        # What may be another thing than the one that is near.
        ("float64", ["float16", "bfloat16"], None),
        ("nsga4", ["nsga2"], None),
        ("abcd", ["abce", "abcf"], None),
        ("tpee", ["tpe", "tpe2"], None),
        ("lat", ["latency"], None),
        ("mae", ["mse"], None),
        ("careful", ["a.careful", "b.careful"], None),
    ],
)
def test_a_fix_only_where_there_is_no_doubt(word: str, candidates: list[str], meant: str | None) -> None:
    assert certain(word, candidates) == meant


WORDS = st.text("abcdef_1", min_size=1, max_size=8)


@given(WORDS, st.lists(WORDS, max_size=5))
def test_what_is_certain_is_what_is_suggested(word: str, options: list[str]) -> None:
    meant = certain(word, options)
    assert meant is None or meant == closest(word, options)
    assert closest(word, [word, *options]) == word


@given(WORDS, WORDS, WORDS)
def test_slips_are_a_distance(a: str, b: str, c: str) -> None:
    assert slips(a, b) == slips(b, a)
    assert (slips(a, b) == 0) == (a == b)
    assert slips(a, b) <= len(a) + len(b)
    assert slips(a + c, b + c) <= slips(a, b)
