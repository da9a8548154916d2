"""Recombination: children take whole parts from their parents."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from optlang.plan.model import Plan
from optlang.search.samplers.crossover import recombined
from optlang.space.recipe import Point, resolve
from optlang.space.space import Space

Make = Callable[..., Plan]

STEPS = """
steps {
  repeat rounds in 0 .. 2 { prune = channels { ratio in [10%, 30%] }; finetune }
  precision in { none; static { samples in [64, 256] } }
}
forbid rounds >= 2 and precision == none because "no"
"""
LARGE: Point = {"here.runtime": "onnxruntime", "rounds": 0, "precision": "static", "precision.static.samples": 256}
SMALL: Point = {
    "here.runtime": "openvino", "rounds": 2, "rounds.prune.ratio": 0.3, "precision": "static",
    "precision.static.samples": 64,
}
FLOAT: Point = {"here.runtime": "torchscript", "rounds": 1, "rounds.prune.ratio": 0.1, "precision": "none"}


def part(point: Point, name: str) -> dict[str, object]:
    return {path: value for path, value in point.items() if path == name or path.startswith(f"{name}.")}


def test_every_part_comes_whole_from_one_of_two_parents(plan_of: Make) -> None:
    plan = plan_of(STEPS, target="target here { runtime in { torchscript; onnxruntime; openvino } }")
    space = Space(plan)
    parents = [LARGE, SMALL, FLOAT]
    known = {resolve(plan, point).effect for point in parents}
    children = []
    for seed in range(200):
        child = recombined(plan, space, parents, known, Random(seed))
        assert child is not None
        assert space.contains(child)
        for name in ("here.runtime", "rounds", "precision"):
            assert part(child, name) in [part(parent, name) for parent in parents]
        children.append(child)
    assert {"here.runtime": "onnxruntime", **part(SMALL, "rounds"), **part(LARGE, "precision")} in children
    # torchscript runs no ONNX file, and two rounds in float are forbidden
    assert not [child for child in children if child["here.runtime"] == "torchscript" and child["precision"] != "none"]
    assert not [child for child in children if child["rounds"] == 2 and child["precision"] == "none"]


def test_what_is_known_is_not_made_again(plan_of: Make) -> None:
    plan = plan_of(STEPS)
    space = Space(plan)
    known = {resolve(plan, point).effect for point in (LARGE, SMALL)}
    made = 0
    while (child := recombined(plan, space, [LARGE, SMALL], known, Random(made))) is not None:
        known.add(resolve(plan, child).effect)
        made += 1
    # two runtimes, two ways to prune, two to quantize, less the parents
    assert made == 2**3 - 2


def test_one_parent_has_no_child(plan_of: Make) -> None:
    plan = plan_of(STEPS)
    assert recombined(plan, Space(plan), [LARGE], set(), Random(0)) is None
