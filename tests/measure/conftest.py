"""Members that run in a process with numpy alone."""

import numpy
import pytest

from optlang.interfaces import Artifact, TargetSpec
from optlang.measure.process import Deployment
from tests.measure.numbers_runtime import RUNTIME


@pytest.fixture
def member_of(tmp_path):
    """A member with the given settings, whose runtime lies in the study's folder."""
    study = tmp_path / "study"
    study.mkdir()
    (study / "mine.py").write_text(RUNTIME)
    # Files of a study may have the names of modules that everybody imports.
    (study / "json.py").write_text("raise RuntimeError('not yours')")

    def make(name="it", batch=1, about=None, **settings):
        artifact = Artifact(tmp_path, "plain", (), ("x",), ("file", "pid"), about or {})
        return Deployment(name, "plain", "mine.py:Plain", artifact, TargetSpec("here", batch=batch), settings, study)

    return make


@pytest.fixture
def inputs():
    """Five samples by the input's name."""
    return {"x": numpy.arange(10.0).reshape(5, 2)}
