"""What a refusal depends on: the kinds of layers that the model has, which no setting changes, or the settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from optlang.interfaces import Context, Refusal
from optlang.workload import imports
from tests.techniques.conftest import TRAINING
from tests.techniques.states import STUDY, start

pytestmark = pytest.mark.slow

OPEN = {"keep": (), "only": ()}
CUT = {**OPEN, "ratio": 0.5, "importance": "l2", "scope": "layer", "round_to": 4, "recalibrate": 0, "samples": 64}

DIVERGING = TRAINING | {"epochs": 1, "lr": 1e6, "optimizer": "sgd", "momentum": 0.9}


@pytest.mark.parametrize(
    ("calls", "network", "settings", "depends"),
    [
        ("prune.heads:heads", "cnn", CUT, "model"),
        ("prune.heads:heads", "encoder", {**CUT, "ratio": 0.01}, "settings"),
        ("prune.heads:heads", "encoder", {**CUT, "keep": ("*",)}, "settings"),
        ("prune.units:units", "cnn", CUT, "model"),
        ("prune.units:units", "lstm", {**CUT, "keep": ("*",)}, "settings"),
        ("prune.channels:channels", "recurrent", CUT, "model"),
        ("prune.channels:channels", "cnn", {**CUT, "ratio": 0.01}, "settings"),
        ("graph.channels_last:channels_last", "mlp", {}, "model"),
        ("graph.clean:clean", "mlp", {}, "model"),
        ("training.finetune:finetune", "frozen", TRAINING, "model"),
        ("training.finetune:finetune", "mlp", DIVERGING, "settings"),
    ],
)
def test_no_layer_of_the_kind_is_the_models(many_images, calls, network, settings, depends):
    technique = imports.find(f"optlang.techniques.{calls}", STUDY)
    with pytest.raises(Refusal) as refused:
        technique(start(network), settings, Context(many_images, 1, Path(), STUDY))
    assert refused.value.depends == depends, refused.value.message
