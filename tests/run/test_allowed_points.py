"""Points that the checker allows are really carried out, and none fails for a reason that the facts could have told.

`OPTLANG_POINTS=200` carries out so many.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from random import Random

import pytest

from optlang.analysis.load import load
from optlang.interfaces import Factory, Refusal, Runtime
from optlang.plan.domains import every_value
from optlang.plan.model import Plan
from optlang.run import steps
from optlang.run.cache import Clock
from optlang.run.job import StepJob, Workload
from optlang.space.recipe import Recipe, resolve
from optlang.space.space import Space
from optlang.workload import imports
from optlang.workload.data import dataset as data_module

pytestmark = pytest.mark.slow

POINTS = int(os.environ.get("OPTLANG_POINTS", "10"))
TECHNIQUES = (
    "train { epochs = 1 }", "finetune { epochs = 1 }", "distill { epochs = 1 }", "channels", "channels_to_budget",
    "widths { levels = 2; scored = 64 }", "magnitude", "two_four", "rewind", "equalize", "dynamic",
    "static { samples = 64 }", "mixed { samples = 64; held_out = 64 }", "weight_only",
    "qat { epochs = 1; samples = 64 }",
    "half", "fold", "clean", "channels_last", "untie", "constants",
)
RUNTIMES = ("eager", "torchscript", "onnxruntime", "openvino")
# What only the model itself, or how far a step before it went, can tell.
OF_THE_MODEL = re.compile(
    r"makes this model larger|no slimmer copy|already|nothing (to|is|was)|found no|not even|has no|leaves? no"
    r"|no (layer|module|constant|BatchNorm|Dropout|channel|weight)|only \d+% of the weights"
)


def study(random: Random, path: Path) -> Plan | None:
    """A study of a few random steps on all runtimes, None where the checker finds it wrong as a whole."""
    chosen = [f"s{number} = {step}" for number, step in enumerate(random.sample(TECHNIQUES, 4))]
    path.write_text(
        "optlang 1\n\nstudy s {\n  model net = zoo.digits_cnn(width = 8)\n  data seen = zoo.digits()\n"
        f"  baseline {{ train {{ epochs = 1 }} }}\n  target here {{ runtime in {{ {'; '.join(RUNTIMES)} }} }}\n"
        f"  steps {{ maybe {chosen[0]}; maybe {chosen[1]}; last in {{ none; {chosen[2]}; {chosen[3]} }} }}\n"
        "  minimize size\n}\n"
    )
    return load(path).plan


def jobs(plan: Plan, recipe: Recipe) -> list[StepJob]:
    runtime = plan.runtime(recipe.places[0].runtime)
    known = {item.name: item for item in plan.techniques}
    before = StepJob("baseline.train", "training.train", known["training.train"].calls, {
        "epochs": 1, "lr": 1e-3, "optimizer": "adamw", "schedule": "constant", "batch": 64, "weight_decay": 0.0,
        "momentum": None, "amp": "none", "warmup": 0.0, "ema": 0.0, "label_smoothing": 0.0, "clip": 0.0, "patience": 0,
    }, (), 1)
    return [before, *(
        StepJob(step.path, step.technique, known[step.technique].calls, step.settings, known[step.technique].needs, 1,
                performed=runtime.carries_out(step.technique), prepares=known[step.technique].prepares)
        for step in recipe.steps
    )]


def carry_out(plan: Plan, recipe: Recipe, workload: Workload, folder: Path) -> None:
    """The steps, the build, and one call."""
    place = recipe.places[0]
    runtime: Runtime = imports.find(plan.runtime(place.runtime).calls, workload.study)()
    data = data_module.load(workload.data, workload.study)
    clock = Clock("none", lambda _: 1e-3)
    done = steps.apply(jobs(plan, recipe), workload, data, runtime.wants, clock, lambda _: None, [])
    folder.mkdir()
    artifact = runtime.build(done.state, place.target, place.settings, folder, data, workload.study)
    session = runtime.open(artifact, place.target, place.settings, workload.study)
    try:
        inputs = {name: item.numpy() for name, item in data.example(1).items()}
        answer = session.collect(session.run(session.prepare(inputs)))
    finally:
        session.close()
    assert all(len(item) == 1 for item in answer.values())


def test_none_fails_for_want_of_a_form_an_order_or_a_need(tmp_path: Path) -> None:
    random = Random(3)
    home = tmp_path / "home"
    home.mkdir()
    workload = Workload(
        Factory("optlang.zoo.digits:cnn", {"width": 8}), Factory("optlang.zoo.digits:digits", {}), tmp_path, home, "cpu"
    )
    went, told = 0, []
    for number in range(POINTS):
        plan = None
        while plan is None:
            plan = study(random, tmp_path / "main.opt")
        space = Space(plan)
        point = space.draw(lambda knob, domain: random.choice([*every_value(domain)]))
        while space.forbidden(point) is not None:
            point = space.draw(lambda knob, domain: random.choice([*every_value(domain)]))
        recipe = resolve(plan, point)
        try:
            carry_out(plan, recipe, workload, tmp_path / str(number))
            went += 1
        except Refusal as error:
            told.append((recipe.label, [step.technique for step in recipe.steps], str(error)))
    assert not [item for item in told if not OF_THE_MODEL.search(item[2])]
    assert went >= POINTS // 2
    if POINTS > 10:
        print(went, *told, sep="\n")
