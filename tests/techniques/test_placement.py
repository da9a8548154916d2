"""Techniques on another device than the processor: all that meets lies there, and what is left lies on the processor.

Where there is no GPU it is made up (see elsewhere.py): values are the processor's own, and results equal.
"""


import pytest
import torch

from optlang.interfaces import Context, QuantWants, Refusal
from optlang.techniques.prune.channels import channels
from optlang.techniques.prune.heads import heads
from optlang.techniques.prune.layers import layers
from optlang.techniques.prune.magnitude import magnitude
from optlang.techniques.prune.units import units
from optlang.techniques.prune.widths import widths
from optlang.techniques.quant.layer_ranges import layer_ranges
from optlang.techniques.quant.rounded_training import attach, plain
from optlang.techniques.quant.rounded_training import train as rounded
from optlang.techniques.quant.smooth import smooth
from optlang.techniques.training.distill import distill
from optlang.techniques.training.train import train
from optlang.workload.data import resident
from optlang.workload.model.call import call
from tests.elsewhere import NAME, Elsewhere
from tests.techniques.conftest import TRAINING
from tests.techniques.declarations import standard
from tests.techniques.states import STUDY, start

SHORT = TRAINING | {"epochs": 2}
WANTS = QuantWants("uint8", "int8", False, True, True)
CASES = {
    "train": (train, "cnn", SHORT | {"patience": 1, "ema": 0.9, "clip": 1.0}),
    "train, recurrent": (train, "lstm", SHORT),
    "distill": (distill, "cnn", SHORT | {"width": 0.5, "hint": 1.0, "attention": 1.0}),
    "channels by taylor": (channels, "cnn", {"importance": "taylor", "samples": 64, "recalibrate": 2}),
    "magnitude by fisher": (magnitude, "mlp", {"importance": "fisher", "samples": 64}),
    "units by taylor": (units, "lstm", {"importance": "taylor", "samples": 64}),
    "heads by taylor": (heads, "encoder", {"importance": "taylor", "samples": 64}),
    "layers by influence": (layers, "encoder", {"importance": "influence", "samples": 64}),
    "layers by loss": (layers, "encoder", {"importance": "loss", "samples": 64}),
    "widths": (widths, "cnn", {"levels": 2, "scored": 64}),
    "smooth": (smooth, "rows", {"samples": 64}),
}


@pytest.fixture(params=["made up", pytest.param("cuda", marks=pytest.mark.gpu)])
def there(request, monkeypatch):
    """A device's name, and what may differ between results there and on the processor."""
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("no GPU that torch can compute on")
        yield "cuda:0", 1e-2, None
        return
    monkeypatch.setattr(resident, "_free", lambda device: 1e9)
    with Elsewhere() as mode:
        yield NAME, 0.0, mode


def declared(technique, settings):
    """The settings with the declared defaults of all others."""
    found = next(item for item in standard().values() if item.name.rpartition(".")[2] == technique.__name__)
    return {param.name: param.default for param in found.params} | settings


def applied(case, device, data, folder):
    technique, network, settings = CASES[case]
    state = start(network)
    context = Context(data, 1, folder, STUDY, device=device, baseline=lambda: start(network))
    return technique(state, declared(technique, settings), context).model


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_technique_there_leaves_a_model_on_the_processor(case, there, images, tmp_path):
    name, differs, mode = there
    found = applied(case, name, images, tmp_path)
    tensors = list(found.state_dict().values())
    assert {item.device.type for item in tensors} == {"cpu"}
    assert {type(item) for item in tensors} == {torch.Tensor}
    assert mode is None or mode.moves
    expected = applied(case, "cpu", images, tmp_path).state_dict()
    if differs:
        assert [item.shape for item in tensors] == [item.shape for item in expected.values()]
    else:
        assert all(torch.equal(one, other) for one, other in zip(tensors, expected.values(), strict=True))


@pytest.mark.slow
def test_a_training_in_int8_and_its_ranges_there(there, images, tmp_path):
    name, _, mode = there
    state = start("cnn")
    context = Context(images, 1, tmp_path, STUDY, wants=WANTS, device=name)
    data = images.bind(state.model)
    settings = {"calibrator": "minmax", "samples": 64}
    every = [layer for layer, _ in state.model.named_modules()]
    ranges = layer_ranges(state.model, every, data, settings, context)
    assert ranges
    assert {item.device.type for item in state.model.state_dict().values()} == {"cpu"}
    module = start("cnn").model.to(name)
    weights, inputs = attach(module, data, ranges, (), WANTS, moving=True, transposed=True, device=name)
    rounding = {"distill": 0.5, "temperature": 1.0, "freeze": 0.5}
    rounded(module, data, inputs, state, SHORT | rounding, context)
    result = plain(module, state, weights)
    assert {type(item) for item in result.state_dict().values()} == {torch.Tensor}
    assert mode is None or mode.moves


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can compute on")
@pytest.mark.parametrize("amp", ["float16", "bfloat16"])
def test_mixed_precision_on_a_gpu_learns(amp, images, tmp_path):
    losses = []
    context = Context(images, 1, tmp_path, STUDY, device="cuda:0", report=lambda item: losses.append(item["loss"]))
    train(start("cnn"), declared(train, TRAINING | {"amp": amp, "epochs": 4}), context)
    assert losses[-1] < losses[0]


def test_arrays_that_fit_move_once_and_others_batch_by_batch(there, images, monkeypatch):
    name, _, mode = there
    if mode is None:
        pytest.skip("moves are counted where the device is made up")
    kept = resident.resident(images, name)
    assert mode.moves == 4  # inputs and labels of two splits
    for inputs, targets in kept.batches("train", 32, 1, shuffle=True):
        resident.to_device(inputs, targets, name)
    assert mode.moves == 4
    monkeypatch.setattr(resident, "_free", lambda device: 100.0)
    large = resident.resident(images, name)
    batches = [resident.to_device(*batch, name) for batch in large.batches("train", 32)]
    assert mode.moves == 4 + 2 * len(batches)


def test_the_made_up_device_refuses_tensors_that_lie_elsewhere():
    with Elsewhere(), pytest.raises(RuntimeError, match="same device"):
        torch.ones(2, device=NAME) + torch.ones(2)
    with Elsewhere(), pytest.raises(RuntimeError, match="same device"):
        call(start("mlp").model.to(NAME), {"image": torch.zeros(1, 1, 8, 8)})


def test_a_refusal_leaves_the_model_on_the_processor(there, images, tmp_path):
    name, _, _ = there
    state = start("mlp")
    with pytest.raises(Refusal):
        smooth(state, declared(smooth, {}), Context(images, 1, tmp_path, STUDY, device=name))
    assert {item.device.type for item in state.model.state_dict().values()} == {"cpu"}
