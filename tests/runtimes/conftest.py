"""What the tests of several runtimes need: data, and torch on one thread."""

from pathlib import Path

import pytest
import torch

from optlang.interfaces import Factory
from optlang.workload.data import dataset as data_module

STUDY = Path(__file__).parents[1] / "fixtures" / "models"


@pytest.fixture(scope="module")
def images():
    return data_module.load(Factory("networks.py:images"), STUDY)


@pytest.fixture(scope="module")
def one_thread():
    """Small tensors are slower on several threads, and sums on them are in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
