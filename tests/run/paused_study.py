"""A small study whose models and data have all that a training changes; and its steps, carried out with pauses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optlang.interfaces import Factory, ModelState, QuantWants
from optlang.run import steps
from optlang.run.cache import Cache, Clock
from optlang.run.job import StepJob, StepRun, Workload
from optlang.run.step_training import PausedTraining, Watch
from optlang.workload.data import dataset as data_module

OWN = '''\
import copy, dataclasses, os, pathlib, random, signal

import numpy
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Net(nn.Module):
    """Its layers keep more than weights: a counter, a mean that is no buffer, random numbers of its own."""

    def __init__(self, width=8):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width)
        self.second, self.drop = nn.Conv2d(width, width, 3, padding=1, stride=2), nn.Dropout(0.2)
        self.end = nn.Linear(width, 10)
        self.calls, self.seen = 0, torch.zeros(width)
        self.noise = torch.Generator().manual_seed(5)

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        if self.training:
            self.calls += 1
            self.seen = 0.9 * self.seen + 0.1 * x.detach().mean(dim=(0, 2, 3))
            x = x + 0.01 * torch.randn(x.shape, generator=self.noise) / self.calls
            x = x - 0.1 * self.seen[:, None, None]
        return self.end(self.drop(torch.relu(self.second(x)).mean(dim=(2, 3))))


def net(width=8):
    torch.manual_seed(0)
    return Net(width)


class Loud(Net):
    """Its gradients leave the numbers of float16 until they are scaled by less."""

    def forward(self, x):
        return 1000 * super().forward(x)


def loud():
    torch.manual_seed(0)
    return Loud()


def plain(width=8):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, stride=2),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(width, 10),
    )


def rows(count, seed):
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 10
    images = torch.randn(count, 1, 8, 8, generator=draw)
    images[torch.arange(count), 0, labels % 8, labels % 7] += 3
    return images, labels


def arrays(count=192):
    return {"train": rows(count, 1), "validation": rows(96, 2)}


def few():
    return {"train": rows(96, 1), "validation": rows(40, 2)}


class Noisy(Dataset):
    """Draws from all generators that there are."""

    fingerprint = "noisy"

    def __init__(self):
        self.images, self.labels = rows(192, 1)
        self.own, self.older = numpy.random.default_rng(3), random.Random(4)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        if os.environ.get("OPTLANG_KILL") and pathlib.Path(os.environ["OPTLANG_KILL"]).exists():
            pathlib.Path(os.environ["OPTLANG_KILL"]).unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        drawn = self.own.normal() + self.older.random() + random.random() + numpy.random.rand() + float(torch.rand(1))
        return self.images[index] + 0.1 * drawn, self.labels[index]


def noisy():
    return {"train": Noisy(), "validation": rows(96, 2)}


def loaded():
    shuffled = DataLoader(Noisy(), batch_size=32, shuffle=True, generator=torch.Generator().manual_seed(11))
    return {"train": shuffled, "validation": rows(96, 2), "fingerprint": "loaded"}


def whole(state, settings, context):
    """Trains, and knows nothing of pauses."""
    model = copy.deepcopy(state.model)
    for epoch in range(1, settings["epochs"] + 1):
        with torch.no_grad():
            next(model.parameters()).add_(0.01)
        context.report({"epoch": epoch, "epochs": settings["epochs"], "loss": 1 / epoch})
    return dataclasses.replace(state, model=model)


def walk(state, settings, context):
    """Trains by a walk at random, which a pause does not change."""
    model = copy.deepcopy(state.model)
    weight = next(model.parameters())
    torch.manual_seed(context.seed)
    moved, done = torch.zeros_like(weight), 0
    kept = context.resume(lambda: {"weight": weight.detach(), "moved": moved, "done": done, **settings.get("more", {})})
    if kept is not None:
        with torch.no_grad():
            weight.copy_(kept["weight"])
        moved, done = kept["moved"], kept["done"]
    for done in range(done + 1, settings["epochs"] + 1):
        moved = 0.5 * moved + torch.randn(weight.shape)
        with torch.no_grad():
            weight.add_(0.01 * moved)
        scores = {} if context.score is None else {"scores": context.score(model)}
        context.report({"epoch": done, "epochs": settings["epochs"], "loss": float(moved.square().mean()), **scores})
    return dataclasses.replace(state, model=model)


def rounds(state, settings, context):
    """Several trainings in one step."""
    for _ in range(settings["times"]):
        state = walk(state, settings, context)
    return state


def nothing(state, settings, context):
    """No training, though it may look at the data."""
    return dataclasses.replace(state, model=copy.deepcopy(state.model))


def odd(state, settings, context):
    return walk(state, {**settings, "more": {"of": [1, {"object": object()}]}}, context)
'''

TRAINING = {
    "epochs": 4, "lr": 1e-2, "optimizer": "adamw", "schedule": "cosine", "batch": 48, "weight_decay": 0.01,
    "momentum": 0.9, "amp": "none", "warmup": 0.1, "ema": 0.0, "label_smoothing": 0.0, "clip": 0.0, "patience": 0,
}
DISTILL = TRAINING | {
    "student": None, "teacher": None, "teachers": (), "width": 0.5, "start": "kept", "alpha": 0.5, "temperature": 4.0,
    "hint": 0.5, "attention": 0.2,
}
QAT = TRAINING | {
    "calibrator": "minmax", "percentile": None, "bins": None, "samples": 64, "keep": (), "only": (), "freeze": 0.6,
    "ranges": "running", "distill": 0.3, "temperature": 4.0,
}
WANTS = QuantWants("uint8", "int8", False, True, True, reduced=True)


def workload(folder: Path, model: str = "net", data: str = "arrays") -> Workload:
    """The study in `folder`, with a cache of its own."""
    study, home = folder / "study", folder / "home"
    study.mkdir(parents=True, exist_ok=True)
    home.mkdir(exist_ok=True)
    (study / "own.py").write_text(OWN)
    return Workload(Factory(f"own.py:{model}"), Factory(f"own.py:{data}"), study, home, "cpu")


def training(technique: str = "train", path: str = "fit", **changed: Any) -> StepJob:
    """A step of the standard library that trains."""
    module, settings, needs = {
        "train": ("training.train", TRAINING, ("training", "labels")),
        "finetune": ("training.finetune", TRAINING, ("training", "labels")),
        "distill": ("training.distill", DISTILL, ("training", "baseline")),
        "qat": ("quant.qat", QAT, ("training", "calibration", "runtime", "baseline")),
    }[technique]
    performed = changed.pop("performed", False)
    return StepJob(
        path, module, f"optlang.techniques.{module}:{technique}", {**settings, **changed}, needs, 7,
        performed=performed, prepares=technique == "qat",
    )


def own(name: str, path: str = "fit", **settings: Any) -> StepJob:
    """A step of the study's own that trains."""
    given = {name: item for name, item in {"epochs": 4, **settings}.items() if item is not None}
    return StepJob(path, f"own.{name}", f"own.py:{name}", given, ("training",), 7)


def applied(
    place: Workload, jobs: Sequence[StepJob], pause: int | None = None, watch: Watch | None = None
) -> tuple[ModelState | PausedTraining, list[StepRun]]:
    """The steps, carried out by a process that has just loaded the data: to their end, or to where they pause."""
    runs: list[StepRun] = []
    data = data_module.load(place.data, place.study)
    try:
        clock = Clock("none", lambda _: 0.0)
        done = steps.apply(jobs, place, data, lambda: WANTS, clock, lambda _: None, runs, watch, pause)
    except PausedTraining as paused:
        return paused, runs
    finally:
        steps.clear_scratch(place)
    return done.state, runs


def kept(place: Workload, runs: Sequence[StepRun]) -> dict[str, Any]:
    """All files of the last step's result, by name; of its curve all but the seconds."""
    assert runs[-1].key is not None
    folder = Cache(place.home / "cache").find(runs[-1].key)
    assert folder is not None
    files: dict[str, Any] = {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    del files["sums.json"]
    curve = json.loads(files.pop("curve.json"))
    return files | {"curve": [{**item, "seconds": None} for item in curve]}
