"""Techniques that read data, on lines of 5 to 11 tokens, in padded batches or not; files answer other sizes."""

import numpy
import onnxruntime
import pytest
import torch

from optlang.interfaces import Factory, ModelState
from optlang.workload.data import dataset as data_module
from optlang.workload.model.make import make
from tests.techniques import contract
from tests.techniques.states import STUDY

pytestmark = pytest.mark.slow

CALIBRATORS = ("minmax", "entropy", "percentile", "mse")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def begin(loader):
    """A model with an answer for each token (in padded batches) or for each line, and its data."""
    factory = Factory("lines.py:reader", {"width": 64, "several": loader})
    data = data_module.load(Factory("lines.py:lines", {"loader": loader, "several": loader}), STUDY)
    return ModelState("module", make(factory, STUDY), factory), data


@pytest.mark.parametrize("loader", [True, False], ids=["loader", "dataset"])
@pytest.mark.parametrize(
    ("technique", "changed"),
    [
        ("training.train", {"epochs": 1, "patience": 1}), ("training.distill", {"epochs": 1}),
        ("prune.channels", {"importance": "taylor"}), ("prune.magnitude", {"importance": "taylor"}),
        ("prune.heads", {}), ("quant.smooth", {}),
    ],
)
def test_modules_are_trained_pruned_and_smoothed(technique, changed, loader, tmp_path):
    state, data = begin(loader)
    result = contract.apply(technique, state, data, tmp_path, **changed)
    old, new = (torch.cat([item.flatten() for item in one.model.parameters()]) for one in (state, result))
    assert len(old) != len(new) or not torch.equal(old, new)


@pytest.mark.parametrize(
    ("technique", "changed"),
    [
        *(("quant.static", {"calibrator": name, "bias_correction": name == "minmax"}) for name in CALIBRATORS),
        ("quant.mixed", {"samples": 8, "held_out": 16}), ("quant.qat", {"epochs": 1}), ("quant.dynamic", {}),
        ("quant.weight_only", {}), ("graph.constants", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else value.get("calibrator", ""),
)
def test_files_keep_their_axes_open(technique, changed, tmp_path):
    state, data = begin(loader=True)
    result = contract.apply(technique, state, data, tmp_path, **changed)
    session = onnxruntime.InferenceSession(str(result.model), providers=["CPUExecutionProvider"])
    assert [item.shape for item in session.get_inputs()] == [["batch", "tokens_1"]] * 2
    bound = data.bind(state.model)
    for size in (5, 8, 30):
        inputs = bound.example(1, {"tokens_1": size})
        (found,) = session.run(None, {name: item.numpy() for name, item in inputs.items()})
        with torch.no_grad():
            right = state.model.eval()(**inputs).numpy()
        assert found.shape == right.shape
        # qat trains; the others round.
        if technique != "quant.qat":
            assert numpy.corrcoef(found.flatten(), right.flatten())[0, 1] > 0.98
