"""Compares the samplers on two made-up models of a study: what each has found after 20, 40 and 80 trials.

    .venv/bin/python benchmarks/samplers.py [--seeds 10] [SAMPLER …]

The spaces are those of real studies: rounds of pruning and fine-tuning that come and go with their knobs, a choice of
precisions, three runtimes, a forbid and a requirement. The measurements are formulas, so that a search costs seconds
and the same seed gives the same table: they say how samplers compare, not what a model gains. The figure is the share
of the space between the baseline and the impossible (no bytes, no time, nothing lost) that the trials that meet the
requirement dominate (hypervolume), the mean over the seeds with its standard deviation. A grid takes finite knobs only.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import optlang
from optlang.plan.expressions import Value
from optlang.plan.model import Plan
from optlang.search import pareto
from optlang.search.sampler import Observation, Sampler
from optlang.space.recipe import Point, resolve
from optlang.space.space import Space

AFTER = (20, 40, 80)
SAMPLERS = ("tpe", "gp", "nsga2 { population = 12 }", "nsga3 { population = 12 }", "qmc", "grid", "random")

STUDY = """\
optlang 1

study compared {{
  model net  = zoo.digits_cnn()
  data  seen = zoo.digits()
  target here {{ runtime in {{ eager; onnxruntime; openvino }} }}
  steps {{
{steps}
  }}
  forbid precision == dynamic and here.runtime == openvino because "to have one"
  minimize latency, size
  maximize accuracy
  require accuracy >= 95%
  search {{ sampler = {sampler}; trials = 80; seed = {seed} }}
}}
"""
PROBLEMS = {
    "one round, finite": """\
    repeat rounds in 0 .. 1 {
      prune   = channels { ratio in [10%, 20%, 30%, 40%, 50%, 60%]; scope in {layer, global} }
      recover = finetune { lr in [1e-4, 3e-4, 1e-3, 3e-3] }
    }
    precision in { none; dynamic; static { samples in [32, 64, 128, 256] } }""",
    "three rounds, continuous": """\
    repeat rounds in 0 .. 3 {
      prune   = channels { ratio in 5% .. 60%; scope in {layer, global} }
      recover = finetune { lr in 1e-5 .. 1e-1 log; epochs in 1 .. 8 }
    }
    precision in { none; dynamic; static { samples in [32, 64, 128, 256]; calibrator in {minmax, entropy} } }""",
}


def measured(point: Point) -> tuple[float, float, float]:
    """Latency and size as shares of the baseline's, and the share of answers that are right."""
    named = {path.rsplit(".", 1)[-1]: value for path, value in point.items()}
    rounds = _number(named["rounds"])
    ratio = _number(named.get("ratio", 0.0)) if rounds else 0.0
    kept = (1 - ratio) ** rounds
    rate = math.log10(_number(named.get("lr", 1e-3))) + 3
    recovered = math.exp(-0.5 * rate * rate) * (1 - math.exp(-_number(named.get("epochs", 4)) / 2))
    cut = 0.35 * rounds * ratio ** 2 * (1.0 if named.get("scope") == "layer" else 0.8)
    lost = cut * (1 - 0.9 * recovered)
    runtime, precision = named["runtime"], named["precision"]
    speed = {"eager": 1.0, "onnxruntime": 0.4, "openvino": 0.33}[str(runtime)]
    size, time = {"none": (1.0, 1.0), "dynamic": (0.45, 0.8), "static": (0.28, 0.45)}[str(precision)]
    if precision == "static":
        calibrated = 0.7 if named.get("calibrator") == "entropy" else 1.0
        lost += 0.012 * math.sqrt(32 / _number(named["samples"])) * calibrated
        lost += 0.15 * cut
    return speed * time * (0.1 + 0.9 * kept ** 1.3), size * kept ** 1.7, 0.99 - lost


def _number(value: Value) -> float:
    assert isinstance(value, int | float), value
    return float(value)


def plan_of(steps: str, sampler: str, seed: int) -> Plan:
    """The study with this sampler and seed."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "compared.opt"
        file.write_text(STUDY.format(steps=steps, sampler=sampler, seed=seed))
        loaded = optlang.load(file)
    assert loaded.plan is not None, [item.message for item in loaded.diagnostics]
    return loaded.plan


def search(plan: Plan) -> list[tuple[float, ...]]:
    """The losses of each trial, in the order of the trials; those that miss the requirement are all ones."""
    space, known = Space(plan), set[str]()
    sampler = Sampler(plan, space, known)
    found = []
    for number in range(AFTER[-1]):
        asked = sampler.ask(number)
        known.add(resolve(plan, asked.point).effect)
        latency, size, accuracy = measured(asked.point)
        violation = 0.95 - accuracy
        sampler.tell(Observation(asked.point, (latency, size, accuracy), [violation], asked.state))
        # Five points of accuracy are what may be lost.
        losses = (latency, size, min(1.0, max(0.0, (0.99 - accuracy) / 0.05)))
        found.append(losses if violation <= 0 else (1.0, 1.0, 1.0))
    return found


def hypervolume(losses: Sequence[Sequence[float]]) -> float:
    """The volume of the unit cube that the points dominate, by slices along the last axis (three losses)."""
    members = pareto.front({number: item for number, item in enumerate(losses) if max(item) < 1.0})
    points = sorted((losses[member] for member in members), key=lambda item: item[2])
    total = 0.0
    for index, point in enumerate(points):
        ceiling = points[index + 1][2] if index + 1 < len(points) else 1.0
        area, floor = 0.0, 1.0
        for across, up, _ in sorted(points[:index + 1]):
            if up < floor:
                area += (1.0 - across) * (floor - up)
                floor = up
        total += area * (ceiling - point[2])
    return total


def compared(samplers: Sequence[str], seeds: int) -> Mapping[tuple[str, str], list[list[float]]]:
    """For each problem and sampler, the hypervolumes after so many trials, a list a seed."""
    found = {}
    for problem, steps in PROBLEMS.items():
        for sampler in samplers:
            if sampler == "grid" and "finite" not in problem:
                continue
            runs = [search(plan_of(steps, sampler, seed)) for seed in range(seeds)]
            rows = found[problem, sampler] = [[hypervolume(run[:count]) for count in AFTER] for run in runs]
            columns = list(zip(*rows, strict=True))
            cells = (f"{statistics.mean(column):.3f} ± {statistics.stdev(column):.3f}" for column in columns)
            print(f"| {problem} | {sampler} | {' | '.join(cells)} |", flush=True)
    return found


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("samplers", nargs="*", metavar="SAMPLER", default=SAMPLERS)
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    print(f"| study | sampler | {' | '.join(f'{count} trials' for count in AFTER)} |")
    print(f"|---|---|{'---|' * len(AFTER)}")
    compared(options.samplers, options.seeds)


if __name__ == "__main__":
    main()
