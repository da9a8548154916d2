"""Data and trained networks that several families of techniques are tried on; trained once in a session."""

import pytest
import torch

from optlang.interfaces import Context, Factory
from optlang.techniques.training.train import train
from optlang.workload.data import dataset as data_module
from tests.techniques.states import STUDY, start

TRAINING = {
    "epochs": 12, "lr": 3e-3, "optimizer": "adamw", "schedule": "cosine", "batch": 32, "weight_decay": 0.01,
    "amp": "none", "warmup": 0.0, "ema": 0.0, "label_smoothing": 0.0, "clip": 0.0, "patience": 0,
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small tensors are slower on several threads, and sums on them are in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def images():
    return data_module.load(Factory("networks.py:images"), STUDY)


@pytest.fixture(scope="session")
def many_images():
    return data_module.load(Factory("networks.py:images", {"count": 1200}), STUDY)


@pytest.fixture(scope="session")
def trained(many_images):
    made = {}

    def get(network):
        if network not in made:
            settings = TRAINING | {"epochs": 30 if network == "rows" else 12}
            made[network] = train(start(network), settings, Context(many_images, 1, STUDY, STUDY))
        return made[network]

    return get
