"""Data of the models whose attention and blocks are found by their structure."""

import pytest

from optlang.interfaces import Factory
from optlang.workload.data import dataset as data_module
from tests.techniques.states import STUDY


@pytest.fixture(scope="session")
def lines():
    return data_module.load(Factory("attention.py:samples"), STUDY)
