"""Scoring a module in training: what it computes, and that it changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn

from optlang.interfaces import Context, Factory, ModelState, NamedMetric
from optlang.measure import samples as samples_module
from optlang.measure.chunks import Held
from optlang.run.scoring import LEAST, Scorer
from optlang.techniques.training.train import train
from optlang.workload.data import dataset as data_module
from optlang.workload.data.dataset import Dataset
from optlang.workload.model import make as making

OWN = """\
import torch
from torch import nn

from optlang.zoo.digits import digits


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(32, 10)

    def forward(self, image):
        image.sub_(0.5)
        return self.head(self.body(image))


def net():
    torch.manual_seed(0)
    return Net()


def few(train=400, validation=200):
    known = digits()
    return {
        "train": tuple(item[:train] for item in known["train"]),
        "validation": tuple(item[:validation] for item in known["validation"]),
    }


def bare():
    known = few()
    return {name: torch.utils.data.TensorDataset(known[name][0]) for name in ("train", "validation")}


class Hits:
    def __call__(self, predictions, references):
        return float((predictions.argmax(1) == references).sum())
"""
SETTINGS: dict[str, Any] = {
    "epochs": 2, "lr": 1e-2, "optimizer": "adamw", "schedule": "cosine", "batch": 64, "weight_decay": 0.0,
    "momentum": 0.9, "amp": "none", "warmup": 0.0, "ema": 0.9, "label_smoothing": 0.0, "clip": 0.0, "patience": 0,
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    (folder / "own.py").write_text(OWN)
    return folder


def loaded(study: Path, name: str = "few", metrics: tuple[NamedMetric, ...] = (), **arguments: int) -> Dataset:
    return data_module.load(Factory(f"own.py:{name}", arguments), study, metrics).bind(["image"])


def scorer(study: Path, folder: Path, data: Dataset, *metrics: str, answers: Any = None) -> Scorer:
    kept = samples_module.kept(folder / "validation", data, "validation")
    return Scorer(data, kept, metrics, study, None if answers is None else lambda: Held(answers))


def start(study: Path) -> ModelState:
    factory = Factory("own.py:net", {})
    return ModelState("module", making.make(factory, study), factory)


def answered(module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = module(inputs.clone())
    return found


def test_a_training_gives_the_same_weights_whether_it_is_scored_or_not(study: Path, tmp_path: Path) -> None:
    data = loaded(study)
    score = scorer(study, tmp_path, data, "accuracy", "loss")
    reports: list[Any] = []
    context = Context(data, 3, tmp_path, study, report=reports.append, score=score)
    scored = train(start(study), SETTINGS, context).model
    alone = train(start(study), SETTINGS, Context(data, 3, tmp_path, study)).model
    for name, item in alone.state_dict().items():
        assert torch.equal(item, scored.state_dict()[name]), name
    assert [sorted(told["scores"]) for told in reports] == [["accuracy", "loss"]] * 2
    # The last scores are those of the weights that are kept: the averaged ones, whose norms are averaged too.
    inputs, labels = (torch.cat(items) for items in zip(*(
        (batch["image"], targets) for batch, targets in data.batches("validation", 64)
    ), strict=True))
    places = score.places
    assert len(places) == 120, "three tenths of 400"
    outputs = answered(scored, inputs[places])
    right = (outputs.argmax(1) == labels[places]).float()
    assert reports[-1]["scores"]["accuracy"] == pytest.approx(float(right.mean()))
    assert reports[-1]["scores"]["loss"] == pytest.approx(
        float(nn.functional.cross_entropy(outputs, labels[places])), rel=1e-5
    )
    assert score.seconds > 0


def test_modes_and_random_numbers_are_left_as_they_were(study: Path, tmp_path: Path) -> None:
    score = scorer(study, tmp_path, loaded(study), "accuracy")
    module = making.make(Factory("own.py:net", {}), study).train()
    module.body[2].eval()
    modes = [layer.training for layer in module.modules()]
    before, statistics = torch.get_rng_state(), module.body[2].running_mean.clone()
    first, again = score(module), score(module)
    assert first == again
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(statistics, module.body[2].running_mean)
    assert [layer.training for layer in module.modules()] == modes


def test_too_few_samples_are_not_scored(study: Path, tmp_path: Path) -> None:
    module = making.make(Factory("own.py:net", {}), study)
    assert scorer(study, tmp_path / "a", loaded(study, train=LEAST * 3), "accuracy")(module) == {}
    assert scorer(study, tmp_path / "b", loaded(study, validation=LEAST - 1), "accuracy")(module) == {}
    assert len(scorer(study, tmp_path / "c", loaded(study, validation=LEAST), "accuracy").places) == LEAST


def test_a_metric_that_needs_all_answers_at_once_gets_them(study: Path, tmp_path: Path) -> None:
    metric = NamedMetric("hits", "maximize", Factory("own.py:Hits", {}))
    module = making.make(Factory("own.py:net", {}), study).eval()
    score = scorer(study, tmp_path, loaded(study, metrics=(metric,)), "hits", "accuracy")
    found = score(module)
    assert list(found) == ["hits", "accuracy"]
    assert found["hits"] == pytest.approx(found["accuracy"] * len(score.places))


def test_without_labels_answers_are_compared_with_the_baselines(study: Path, tmp_path: Path) -> None:
    data = loaded(study, "bare")
    module = making.make(Factory("own.py:net", {}), study).eval()
    inputs = torch.cat([batch["image"] for batch, _ in data.batches("validation", 64)])
    mine = answered(module, inputs).numpy()
    others = mine + numpy.random.default_rng(0).normal(0, 0.2, mine.shape).astype("float32")
    score = scorer(study, tmp_path, data, "accuracy", "agreement", "agreement.error", answers={"output": others})
    found = score(module)
    places = score.places
    assert list(found) == ["agreement", "agreement.error"]
    same = mine[places].argmax(1) == others[places].argmax(1)
    assert 0 < same.mean() < 1
    assert found["agreement"] == pytest.approx(float(same.mean()))
    error = numpy.linalg.norm(mine[places] - others[places]) / numpy.linalg.norm(others[places])
    assert found["agreement.error"] == pytest.approx(float(error), rel=1e-5)
    assert scorer(study, tmp_path, data, "agreement")(module) == {}, "the baseline has no answers here"
