"""What the tests of techniques begin with: a network of the fixtures, as a study would make it."""

from pathlib import Path

from optlang.interfaces import Factory, ModelState
from optlang.workload.model.make import make

STUDY = Path(__file__).parents[1] / "fixtures" / "models"


def start(network="cnn", **arguments):
    factory = Factory(f"networks.py:{network}", arguments)
    return ModelState("module", make(factory, STUDY), factory)
