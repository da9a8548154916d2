"""OpenVINO's own files and int8 by its makers' tool: what is in them, what they answer, and what is refused."""

from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy
import pytest
import torch
from torch import nn

from optlang.interfaces import Context, Factory, ModelState, Refusal, TargetSpec
from optlang.measure.process import BareProcess, Deployment
from optlang.runtimes.openvino import quantize
from optlang.runtimes.openvino import session as module
from optlang.runtimes.openvino.build import OpenVino
from optlang.techniques.training.train import train
from optlang.workload.data import dataset as data_module
from optlang.workload.model.make import make

STUDY = Path(__file__).parents[2] / "fixtures" / "models"
TARGET = TargetSpec("here")
TRAINING = {
    "epochs": 2, "lr": 3e-3, "optimizer": "adamw", "schedule": "cosine", "batch": 32, "weight_decay": 0.01,
    "amp": "none", "warmup": 0.0, "ema": 0.0, "label_smoothing": 0.0, "clip": 0.0, "patience": 0,
}

pytestmark = [pytest.mark.slow, pytest.mark.skipif(OpenVino().available() is not None, reason="no openvino here")]


@pytest.fixture(scope="module")
def digits():
    return data_module.load(Factory("optlang.zoo.digits:digits", {"seed": 0}), STUDY)


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    factory = Factory("optlang.zoo.digits:cnn", {"width": 32})
    state = ModelState("module", make(factory, STUDY), factory)
    digits = digits.bind(state.model)
    return train(state, TRAINING, Context(digits, 1, tmp_path_factory.mktemp("training"), STUDY))


def built(state, digits, folder, **settings):
    folder.mkdir()
    return OpenVino().build(state, TARGET, settings, folder, digits.bind(("input",)), STUDY)


def answers(artifact, digits, **settings):
    calls = "optlang.runtimes.openvino.build:OpenVino"
    member = Deployment("a model", "openvino", calls, artifact, TARGET, settings, STUDY)
    inputs, targets = digits.bind(artifact.inputs).arrays("validation")
    with BareProcess(member) as process:
        outputs = process.outputs(inputs)
    with torch.no_grad():
        return outputs, digits.task.metrics(outputs, targets)["accuracy"]


def weights_of(artifact):
    return next(item for item in artifact.files if item.name == "model.bin")


def layers(artifact, kind):
    tree = ElementTree.parse(artifact.folder / "model.xml")
    return [item for item in tree.iter("layer") if item.get("type") == kind]


def test_its_own_files_answer_as_the_onnx_file(trained, digits, tmp_path):
    onnx = built(trained, digits, tmp_path / "onnx")
    own = built(trained, digits, tmp_path / "own", file="ir")
    assert {item.name for item in own.files} == {"model.xml", "model.bin"}
    assert {path.name for path in own.folder.iterdir()} == {"model.xml", "model.bin"}
    # The weights are stored whole: their bytes are the parameters', and little beside.
    weights = sum(item.numel() for item in trained.model.parameters()) * 4
    assert weights * 0.98 < weights_of(own).bytes < weights * 1.02
    first, again = answers(onnx, digits), answers(own, digits)
    assert list(first[0]) == list(again[0]) == ["output"]
    numpy.testing.assert_allclose(first[0]["output"], again[0]["output"], rtol=1e-5, atol=1e-5)
    second = built(trained, digits, tmp_path / "second", file="ir")
    assert second.files == own.files


@pytest.mark.parametrize("way", ["nncf", "accuracy"])
def test_int8_is_small_and_right(way, trained, digits, tmp_path):
    pytest.importorskip("nncf", reason="NNCF is not installed")
    plain = built(trained, digits, tmp_path / "plain", file="ir")
    settings = {"int8": way, "samples": 200} | ({"max_drop": 0.01} if way == "accuracy" else {})
    small = built(trained, digits, tmp_path / "small", **settings)
    assert small.about["int8"] == way
    assert len(layers(small, "FakeQuantize")) >= 3
    assert weights_of(small).bytes < weights_of(plain).bytes / 3.5
    outputs, accuracy = answers(small, digits)
    before, wanted = answers(plain, digits)
    assert accuracy > wanted - 0.01
    assert numpy.abs(outputs["output"] - before["output"]).max() > 0
    again = built(trained, digits, tmp_path / "again", **settings)
    assert weights_of(again) == weights_of(small)


def test_the_accuracy_control_scores_in_calls_of_the_targets_batch(digits):
    """A program that takes three samples a call, whose answer is what a sample has beyond the mean of its call."""
    import openvino
    from openvino import opset13 as ops

    given = ops.parameter([3, 10], numpy.float32, name="input")
    answer = ops.subtract(given, ops.reduce_mean(given, ops.constant(numpy.array([0])), keep_dims=True))
    answer.output(0).tensor.set_names({"output"})
    compiled = openvino.Core().compile_model(openvino.Model([answer], [given], "centered"), "CPU")
    values = numpy.random.default_rng(0).normal(size=(50, 10)).astype(numpy.float32)
    targets = torch.from_numpy(values.argmax(1))
    calls = numpy.arange(51).reshape(17, 3) % 50
    by_hand = numpy.concatenate([values[places] - values[places].mean(0) for places in calls])[:50]
    expected = float((by_hand.argmax(1) == targets.numpy()).mean())
    assert 0 < expected < 1
    given = quantize._quality({"input": values}, targets, 3, digits)(compiled)
    assert given == (pytest.approx(expected), True)


class Placed(nn.Module):
    """Attention with a bias by relative position, which is taken from a table by constants."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 96), nn.Linear(32, 10)
        self.bias = nn.Parameter(torch.randn(2, 8))
        self.register_buffer("places", (torch.arange(64).view(8, 8) * 5) % 8)

    def forward(self, input):
        q, k, v = (
            item.permute(0, 2, 1, 3) for item in self.qkv(input[:, 0]).view(-1, 8, 2, 48).split([16, 16, 16], 3)
        )
        scores = q @ k.transpose(-1, -2) * 0.25 + self.bias[:, self.places]
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2).mean(1))


def test_a_table_that_constants_are_taken_from(digits, tmp_path):
    pytest.importorskip("nncf", reason="NNCF is not installed")
    torch.manual_seed(0)
    state = ModelState("module", Placed().eval(), Factory("unused:here"))
    artifact = built(state, digits, tmp_path / "int8", int8="nncf")
    found, _ = answers(artifact, digits)
    wanted, _ = answers(built(state, digits, tmp_path / "float"), digits)
    assert abs(found["output"] - wanted["output"]).max() < 0.1 * abs(wanted["output"]).max()


def test_what_nncf_cannot_do_is_refused_with_its_reason(digits, tmp_path):
    pytest.importorskip("nncf", reason="NNCF is not installed")
    state = ModelState("module", nn.Flatten(), Factory("unused:here"))
    with pytest.raises(Refusal, match="NNCF"):
        built(state, digits, tmp_path / "int8", int8="nncf")


def test_what_cannot_be_done_is_refused(trained, digits, tmp_path, monkeypatch):
    onnx = built(trained, digits, tmp_path / "onnx")
    done = ModelState("onnx", onnx.folder / "model.onnx", trained.factory)
    with pytest.raises(Refusal, match="in the form onnx already"):
        built(done, digits, tmp_path / "twice", int8="nncf")
    core = SimpleNamespace(get_property=lambda device, name: ["FP32", "INT8"])
    monkeypatch.setattr(module.importlib, "import_module", lambda name: SimpleNamespace(Core=lambda: core))
    with pytest.raises(Refusal, match="no bfloat16 arithmetic"):
        OpenVino().open(onnx, TARGET, {"precision": "bfloat16"}, STUDY)


def test_bfloat16_is_what_it_calculates_in(trained, digits, tmp_path):
    import openvino

    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bfloat16 arithmetic")
    artifact = built(trained, digits, tmp_path / "half", precision="bfloat16")
    assert artifact.about["precision"] == "bf16"
    exact, wanted = answers(artifact, digits)
    rounded, accuracy = answers(artifact, digits, precision="bfloat16")
    off = numpy.abs(rounded["output"] - exact["output"]).max() / numpy.abs(exact["output"]).max()
    assert 1e-4 < off < 0.05
    assert abs(accuracy - wanted) < 0.01
