"""LiteRT's files in fewer bits, held against torch: answers, sizes, what stays in float, and what is refused."""

import importlib.util
from pathlib import Path

import numpy
import pytest
import torch
from torch import nn

from optlang.interfaces import Context, Factory, ModelState, OptlangError, Refusal, Request, TargetSpec
from optlang.runtimes.litert.build import LiteRT
from optlang.workload import imports
from optlang.workload.data import dataset as data_module
from optlang.workload.model.make import make

STUDY = Path(__file__).parents[2] / "fixtures" / "models"
STATIC = {
    "calibrator": "minmax", "samples": 64, "granularity": "auto", "bias_correction": False, "keep": (), "only": (),
}
DYNAMIC = {"operators": "auto", "keep": (), "only": ()}
WEIGHTS = {"bits": 8, "symmetric": True, "keep": (), "only": ()}
HALF = {"dtype": "float16", "sensitive": True, "keep": (), "only": ()}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(importlib.util.find_spec("litert_torch") is None, reason="litert-torch is not installed"),
]


@pytest.fixture(scope="module")
def trained(images, tmp_path_factory):
    """A residual network, one ReLU of which is used twice, after a few epochs."""
    factory = Factory("networks.py:residual", {"width": 48})
    settings = {
        "epochs": 4, "lr": 1e-2, "optimizer": "adamw", "schedule": "cosine", "batch": 64, "weight_decay": 0.01,
        "momentum": 0.9, "amp": "none", "warmup": 0.0, "ema": 0.0, "label_smoothing": 0.0, "clip": 0.0, "patience": 0,
    }
    train = imports.find("optlang.techniques.training.train:train", STUDY)
    start = ModelState("module", make(factory, STUDY), factory)
    return train(start, settings, Context(images, 1, tmp_path_factory.mktemp("trained"), STUDY))


@pytest.fixture(scope="module")
def plain(trained, images, tmp_path_factory):
    """The file of `trained` in float32."""
    return build(trained, images, tmp_path_factory.mktemp("plain") / "float", batch=8)


def asked(state, technique, settings):
    return ModelState("graph", state.model, state.factory, requests=(Request(technique, settings),))


def named(network, **arguments):
    factory = Factory(f"networks.py:{network}", arguments)
    return ModelState("module", make(factory, STUDY), factory)


def build(state, images, folder, batch=1):
    folder.mkdir()
    return LiteRT().build(state, TargetSpec("phone", batch=batch), {}, folder, images.bind(state.model), STUDY)


def answered(artifact, images, count=200):
    inputs = images.bind(artifact.inputs).arrays("validation", count)[0]
    batch = artifact.about["batch"]
    session = LiteRT().open(artifact, TargetSpec("phone"), {}, STUDY)
    found = []
    for start in range(0, count, batch):
        prepared = session.prepare({name: item[start : start + batch] for name, item in inputs.items()})
        found.append(session.collect(session.run(prepared))["output"])
    session.close()
    return numpy.concatenate(found)


@pytest.mark.parametrize(("technique", "settings", "share"), [
    ("static", STATIC, 0.29), ("dynamic", DYNAMIC, 0.28), ("weight_only", WEIGHTS, 0.28), ("half", HALF, 0.52),
    ("static", {**STATIC, "keep": ("blocks.1",), "granularity": "tensor"}, 0.66),
])
def test_fewer_bits_answer_as_float_from_a_smaller_file(technique, settings, share, trained, plain, images, tmp_path):
    small = build(asked(trained, technique, settings), images, tmp_path / technique, batch=8)
    assert small.files[0].bytes < share * plain.files[0].bytes
    inputs, labels = images.arrays("validation", 200)
    with torch.no_grad():
        wanted = trained.model(torch.from_numpy(inputs["input"])).numpy()
    numpy.testing.assert_allclose(answered(plain, images), wanted, rtol=1e-4, atol=1e-4)
    found = answered(small, images)
    assert not numpy.array_equal(found, wanted)
    lost = (wanted.argmax(axis=1) == labels.numpy()).mean() - (found.argmax(axis=1) == labels.numpy()).mean()
    assert lost <= 0.01
    became = small.about[technique]
    if technique == "half":
        assert became["float"] == ["head"]  # it is the last layer
        assert 0.98 < became["weights"] == became["all"] < 1
        assert small.about["stored"] == {"quantized": 0.0, "halved": became["all"]}
    else:
        assert (became["weights"], became["float"]) == (1.0, [])
        assert (became["all"] < 1) == bool(settings["keep"])
        assert small.about["stored"] == {"quantized": became["all"], "halved": 0.0}
    assert small.about["inputs"] == {"image": {"dtype": "float32", "shape": [8, 1, 8, 8]}}
    assert small.about["outputs"] == {"output": {"dtype": "float32", "shape": [8, 10]}}


def test_layers_that_are_kept_stay_in_float(images, tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    def types(name, **settings):
        artifact = build(asked(named("mlp"), "static", {**STATIC, **settings}), images, tmp_path / name)
        details = Interpreter(model_path=str(artifact.folder / "model.tflite")).get_tensor_details()
        return {item["name"].partition(":")[0]: item["dtype"] for item in details if len(item["shape"]) == 2
                and ":" in item["name"] and item["shape"][0] in (10, 32) and item["shape"][1] in (32, 64)}

    assert types("all") == {"1": numpy.int8, "3": numpy.int8, "5": numpy.int8}
    assert types("kept", keep=("5",)) == {"1": numpy.int8, "3": numpy.int8, "5": numpy.float32}
    assert types("only", only=("1",)) == {"1": numpy.int8, "3": numpy.float32, "5": numpy.float32}
    with pytest.raises(OptlangError, match="has none"):
        build(asked(named("mlp"), "static", {**STATIC, "keep": ("nowhere",)}), images, tmp_path / "none")


def test_the_same_again_is_the_same_file(images, tmp_path):
    first, second = (build(asked(named("mlp"), "static", STATIC), images, tmp_path / name) for name in ("one", "two"))
    assert first.files[0].bytes == second.files[0].bytes


class Pair(nn.Module):
    """Two inputs, one of them of integers, a layer that is used twice, and two outputs, one of them of integers."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(20, 8)
        self.twice = nn.Linear(8, 8)

    def forward(self, tokens, scale):
        hidden = self.twice(torch.relu(self.twice(self.words(tokens))))
        mean = hidden.mean(dim=1) * scale
        return {"mean": mean, "largest": mean.argmax(dim=-1)}


def test_integers_and_several_inputs_and_outputs_keep_names_types_and_order(tmp_path):
    model = Pair().eval()
    tokens, scale = torch.arange(40).reshape(8, 5) % 20, torch.rand(8, 1)
    data = _Two(tokens, scale)
    artifact = LiteRT().build(
        ModelState("module", model, Factory("pair.py:Pair")), TargetSpec("phone", batch=4), {}, tmp_path, data, tmp_path
    )
    assert (artifact.inputs, artifact.outputs) == (("tokens", "scale"), ("mean", "largest"))
    session = LiteRT().open(artifact, TargetSpec("phone"), {}, tmp_path)
    given = {"tokens": tokens[4:].numpy(), "scale": scale[4:].numpy()}
    found = session.collect(session.run(session.prepare(given)))
    with torch.no_grad():
        wanted = model(tokens[4:], scale[4:])
    numpy.testing.assert_allclose(found["mean"], wanted["mean"].numpy(), rtol=1e-5, atol=1e-6)
    assert found["largest"].dtype == numpy.int64
    assert (found["largest"] == wanted["largest"].numpy()).all()


class _Two:
    """As much of the data as `build` asks for."""

    input_names = ("tokens", "scale")
    axes = ()

    def __init__(self, tokens, scale):
        self.example = lambda batch: {"tokens": tokens[:batch], "scale": scale[:batch]}


@pytest.mark.parametrize(("technique", "settings", "reason"), [
    ("static", {**STATIC, "calibrator": "entropy"}, "no calibrator = entropy"),
    ("static", {**STATIC, "bias_correction": True}, "bias_correction = false"),
    ("weight_only", {**WEIGHTS, "bits": 4}, "4-bit weights"),
    ("weight_only", {**WEIGHTS, "symmetric": False}, "symmetric"),
    ("half", {**HALF, "dtype": "bfloat16"}, "bfloat16"),
    ("mixed", {}, "does not carry out mixed"),
    ("static", {**STATIC, "keep": ("*",)}, "no layer is left to quantize"),
    ("dynamic", {**DYNAMIC, "operators": "linear"}, r"only 6% .*2 \(convolution\)"),
])
def test_what_it_cannot_do_is_refused(technique, settings, reason, images, tmp_path):
    with pytest.raises(Refusal, match=reason):
        build(asked(named("cnn"), technique, settings), images, tmp_path / "refused")


def test_a_forward_that_chooses_by_values_is_refused(images, tmp_path):
    with pytest.raises(Refusal, match="cannot be exported for LiteRT"):
        build(named("choosing"), images, tmp_path / "choosing")


@pytest.mark.parametrize(
    ("technique", "settings"), [("static", STATIC), ("dynamic", DYNAMIC), ("weight_only", WEIGHTS)]
)
def test_weights_in_float16_are_named(technique, settings, images, tmp_path):
    with pytest.raises(Refusal, match="the model's weights are in float16, and int8 is made from weights in float32"):
        build(asked(named("typed"), technique, settings), images, tmp_path / "half")


@pytest.mark.parametrize(("technique", "settings"), [("static", STATIC), ("dynamic", DYNAMIC)])
@pytest.mark.parametrize("network", ["bag", "speller"])
def test_embedding_tables_are_covered(technique, settings, network, tmp_path):
    words = data_module.load(Factory("networks.py:tokens"), STUDY)
    torch.manual_seed(1)
    state = named(network)
    artifact = build(asked(state, technique, settings), words, tmp_path / network)
    assert artifact.about["stored"] == {"quantized": 1.0, "halved": 0.0}
    elements = {"bag": 2000 * 32 + 32 * 64 + 128, "speller": 500 * 32 + 32 * 32}[network]
    assert artifact.files[0].bytes < 1.3 * elements + 12_000
    given = words.bind(artifact.inputs).arrays("validation", 8)[0]
    with torch.no_grad():
        wanted = state.model(torch.from_numpy(next(iter(given.values())))).numpy()
    session = LiteRT().open(artifact, TargetSpec("phone"), {}, STUDY)
    for index in range(8):
        session.run(session.prepare({name: item[index : index + 1] for name, item in given.items()}))
        found = session.collect(None)["output"]
        assert numpy.abs(found - wanted[index]).max() < 0.1 * numpy.abs(wanted).max()
    session.close()
