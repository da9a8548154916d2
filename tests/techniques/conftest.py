"""Data and trained networks that several families of techniques are tried on; trained once in a session."""

from pathlib import Path

import pytest

from optlang.forms import Context, Factory, Subject
from optlang.techniques.train import train
from optlang.workload import data as data_module
from optlang.workload import modules

STUDY = Path(__file__).parents[1] / "fixtures" / "models"
TRAINING = {
    "epochs": 12, "lr": 3e-3, "optimizer": "adamw", "schedule": "cosine", "batch": 32, "weight_decay": 0.01,
    "amp": "none", "warmup": 0.0, "ema": 0.0, "label_smoothing": 0.0, "clip": 0.0, "patience": 0,
}


@pytest.fixture(scope="session")
def many_images():
    return data_module.load(Factory("networks.py:images", {"count": 1200}), STUDY)


@pytest.fixture(scope="session")
def trained(many_images):
    made = {}

    def get(network):
        if network not in made:
            factory = Factory(f"networks.py:{network}")
            subject = Subject("module", modules.make(factory, STUDY), factory)
            settings = TRAINING | {"epochs": 30 if network == "rows" else 12}
            made[network] = train(subject, settings, Context(many_images, 1, STUDY, STUDY))
        return made[network]

    return get
