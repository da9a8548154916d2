"""ExecuTorch's own int8, held against torch: answers, sizes, what stays in float, and what is refused."""

import importlib.util
from pathlib import Path

import numpy
import pytest
import torch

from optlang.interfaces import Context, Factory, ModelState, OptlangError, Refusal, Request, TargetSpec
from optlang.runtimes.executorch import quantize
from optlang.runtimes.executorch.build import ExecuTorch, _lowered
from optlang.runtimes.executorch.operators import Operators
from optlang.workload import imports
from optlang.workload.data import dataset as data_module
from optlang.workload.export import torch_export
from optlang.workload.model.make import make

STUDY = Path(__file__).parents[2] / "fixtures" / "models"
STATIC = {
    "calibrator": "minmax", "samples": 64, "granularity": "auto", "bias_correction": False, "keep": (), "only": (),
}
DYNAMIC = {"operators": "auto", "keep": (), "only": ()}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(importlib.util.find_spec("executorch") is None, reason="executorch is not installed"),
]


@pytest.fixture(scope="module")
def trained(images, tmp_path_factory):
    """A residual network, one ReLU of which is used twice, after a few epochs."""
    factory = Factory("networks.py:residual", {})
    settings = {
        "epochs": 6, "lr": 1e-2, "optimizer": "adamw", "schedule": "cosine", "batch": 64, "weight_decay": 0.01,
        "momentum": 0.9, "amp": "none", "warmup": 0.0, "ema": 0.0, "label_smoothing": 0.0, "clip": 0.0, "patience": 0,
    }
    train = imports.find("optlang.techniques.training.train:train", STUDY)
    start = ModelState("module", make(factory, STUDY), factory)
    return train(start, settings, Context(images, 1, tmp_path_factory.mktemp("trained"), STUDY))


def asked(state, technique, settings):
    return ModelState("graph", state.model, state.factory, requests=(Request(technique, settings),))


def named(network):
    factory = Factory(f"networks.py:{network}")
    return ModelState("module", make(factory, STUDY), factory)


def build(state, images, folder, batch=1):
    folder.mkdir()
    return ExecuTorch().build(
        state, TargetSpec("phone", batch=batch), {}, folder, images.bind(state.model), STUDY
    )


def answered(artifact, images, count=200):
    inputs = images.bind(artifact.inputs).arrays("validation", count)[0]
    batch = artifact.about["batch"]
    session = ExecuTorch().open(artifact, TargetSpec("phone"), {}, STUDY)
    found = []
    for start in range(0, count, batch):
        prepared = session.prepare({name: item[start : start + batch] for name, item in inputs.items()})
        found.append(session.collect(session.run(prepared))["output"])
    session.close()
    return numpy.concatenate(found)


def test_static_int8_answers_as_float_from_half_of_the_bytes(trained, images, tmp_path):
    plain = build(trained, images, tmp_path / "float", batch=8)
    static = build(asked(trained, "static", STATIC), images, tmp_path / "static", batch=8)
    inputs = images.arrays("validation", 200)[0]
    with torch.no_grad():
        wanted = trained.model(torch.from_numpy(inputs["input"])).numpy()
    numpy.testing.assert_allclose(answered(plain, images), wanted, rtol=1e-4, atol=1e-4)
    found = answered(static, images)
    assert (found.argmax(axis=1) == wanted.argmax(axis=1)).mean() > 0.97
    assert not numpy.array_equal(found, wanted)
    assert static.about["int8"] == {"weights": 1.0, "all": 1.0, "float": []}
    # A small model pays for its scales.
    assert static.files[0].bytes < 0.52 * plain.files[0].bytes
    assert (static.about["batch"], static.about["samples"]) == (8, {"least": 1, "most": 8})
    assert static.about["inputs"] == {"image": {"dtype": "float32", "shape": [8, 1, 8, 8]}}
    assert static.about["outputs"] == {"output": {"dtype": "float32", "shape": [8, 10]}}
    assert static.about["backends"] == ["XnnpackBackend"]
    assert static.about["operators"] == ["aten::mean.out"]


def test_dynamic_takes_convolutions_where_they_hold_the_weights(trained, images, tmp_path):
    dynamic = build(asked(trained, "dynamic", DYNAMIC), images, tmp_path / "dynamic")
    # XNNPACK takes a convolution of one channel for one of groups.
    assert dynamic.about["int8"]["float"] == ["stem"]
    assert 0.9 < dynamic.about["int8"]["weights"] < 1
    with torch.no_grad():
        inputs = images.arrays("validation", 100)[0]
        wanted = trained.model(torch.from_numpy(inputs["input"])).numpy()
    assert (answered(dynamic, images, 100).argmax(axis=1) == wanted.argmax(axis=1)).mean() > 0.97


class Shaky(torch.nn.Module):
    """A net that is far off where one value between its layers is a step off."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.wide = torch.nn.Conv2d(1, 64, 3, padding=1)
        self.narrow = torch.nn.Conv2d(64, 32, 3, padding=1)

    def forward(self, image):
        clamped = torch.nn.functional.relu6(self.wide(image))
        return torch.sin(torch.nn.functional.hardswish(self.narrow(clamped), inplace=True) / 1e-3)


def shaky():
    return ModelState("module", Shaky(), Factory("shaky.py:shaky", {}))


@pytest.mark.parametrize(("technique", "settings"), [
    ("static", STATIC), ("dynamic", {**DYNAMIC, "operators": "all"}),
])
def test_a_net_that_answers_to_each_rounding_is_compared_by_its_operators(
    technique, settings, images, tmp_path, monkeypatch
):
    asked_for = []
    check = Operators.check
    monkeypatch.setattr(Operators, "check", lambda self, *given: asked_for.append(check(self, *given)))
    artifact = build(asked(shaky(), technique, settings), images, tmp_path / "int8", batch=8)
    assert asked_for
    assert artifact.about["int8"]["weights"] > 0.9
    assert "wrong" not in artifact.about["int8"]


@pytest.mark.parametrize(("technique", "settings"), [
    ("static", STATIC), ("dynamic", {**DYNAMIC, "operators": "all"}),
])
def test_a_layer_with_a_wrong_kernel_stays_in_float_and_is_named(technique, settings, images, tmp_path, monkeypatch):
    monkeypatch.setattr("optlang.runtimes.executorch.build._lowered", miscompiled)
    torch.manual_seed(0)
    layers = (
        torch.nn.Conv2d(1, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 3), torch.nn.ReLU(),
        torch.nn.Conv2d(16, 32, 3), torch.nn.Flatten(), torch.nn.Linear(128, 10),
    )
    state = ModelState("module", torch.nn.Sequential(*layers), Factory("layers.py:layers", {}))
    artifact = build(asked(state, technique, settings), images, tmp_path / "int8", batch=8)
    about = artifact.about["int8"]
    (wrong,) = about["wrong"]
    assert wrong.startswith("2 (conv2d, off by ")
    assert "2" in about["float"]
    inputs = images.arrays("validation", 40)[0]
    with torch.no_grad():
        wanted = state.model(torch.from_numpy(inputs["input"])).numpy()
    numpy.testing.assert_allclose(answered(artifact, images, 40), wanted, rtol=0, atol=0.1 * numpy.abs(wanted).max())


def miscompiled(program):
    """What a wrong kernel of the second convolution in integers would compute."""
    for name, item in program.state_dict.items():
        if item.dtype is torch.int8 and item.shape == (16, 16, 3, 3):
            program.state_dict[name] = item.flip(0)
    return _lowered(program)


def test_a_clamp_behind_a_layer_is_part_of_its_kernel(images, tmp_path):
    state = shaky()
    bound = images.bind(state.model)
    example = bound.example(8)
    program = torch_export.program(state.model.eval(), example, "ExecuTorch")
    graph, _ = quantize.quantized(program, state.model, example, Request("static", STATIC), bound)
    (clamp,) = (node for node in graph.graph.nodes if "relu6" in str(node.target))
    assert clamp.args[0].target is torch.ops.aten.conv2d.default
    (rounded,) = clamp.users
    scale, zero, low, high = rounded.args[1:5]
    assert (low - zero) * scale == 0
    assert (high - zero) * scale <= 6.001


def test_settings_of_static_are_kept_to(images, tmp_path):
    settings = {**STATIC, "calibrator": "mse", "bins": 128, "granularity": "tensor", "keep": ("1", "5")}
    some = build(asked(named("mlp"), "static", settings), images, tmp_path / "some")
    all_of_them = build(asked(named("mlp"), "static", STATIC), images, tmp_path / "all")
    assert some.files[0].bytes > all_of_them.files[0].bytes + 64 * 32 * 2
    with pytest.raises(OptlangError, match="has none"):
        build(asked(named("mlp"), "static", {**STATIC, "keep": ("nowhere",)}), images, tmp_path / "none")


@pytest.mark.parametrize(("network", "technique", "settings", "reason"), [
    ("mlp", "static", {**STATIC, "calibrator": "entropy"}, "no observer for calibrator = entropy"),
    ("mlp", "static", {**STATIC, "bias_correction": True}, "bias_correction = false"),
    ("mlp", "weight_only", {}, "does not carry out weight_only"),
    ("mlp", "static", {**STATIC, "keep": ("*",)}, "no layer is left to quantize"),
    ("cnn", "dynamic", {**DYNAMIC, "operators": "linear"}, r"only 6% .*2 \(convolution\), 0 \(convolution\)"),
    ("lstm", "dynamic", DYNAMIC, r"only 7% of the weights would be int8: not those of lstm \(recurrent\)"),
    ("joined", "static", STATIC, "int8 makes this model larger: 1"),
])
def test_what_it_cannot_do_is_refused(network, technique, settings, reason, images, tmp_path):
    with pytest.raises(Refusal, match=reason) as error:
        build(asked(named(network), technique, settings), images, tmp_path / "refused")
    # Without kernels for its layers, no other setting helps: then a search asks once.
    assert error.value.depends == ("model" if network == "lstm" else "settings")


def test_a_forward_that_chooses_by_values_is_refused(images, tmp_path):
    with pytest.raises(Refusal, match="cannot be exported for ExecuTorch"):
        build(named("choosing"), images, tmp_path / "choosing")


@pytest.mark.parametrize(("technique", "settings"), [("static", STATIC), ("dynamic", DYNAMIC)])
def test_weights_in_float16_are_named(technique, settings, images, tmp_path):
    with pytest.raises(Refusal, match="the model's weights are in float16, and int8 is made from weights in float32"):
        build(asked(named("typed"), technique, settings), images, tmp_path / "half")


def test_embedding_tables_become_int8_and_whole_numbers_stay_whole(tmp_path):
    words = data_module.load(Factory("networks.py:tokens"), STUDY)
    state = named("placed")
    artifact = build(asked(state, "static", STATIC), words, tmp_path / "placed", batch=32)
    assert artifact.about["int8"] == {"weights": 1.0, "all": 1.0, "float": []}
    float32 = build(state, words, tmp_path / "float", batch=32)
    assert artifact.files[0].bytes < float32.files[0].bytes / 2.5
    found, wanted = answered(artifact, words, 32), answered(float32, words, 32)
    assert 0 < numpy.linalg.norm(found - wanted) < 0.05 * numpy.linalg.norm(wanted)


def test_a_kept_table_stays_in_float(tmp_path):
    words = data_module.load(Factory("networks.py:tokens"), STUDY)
    settings = {**STATIC, "keep": ("table",)}
    artifact = build(asked(named("bag"), "static", settings), words, tmp_path / "bag")
    assert artifact.about["int8"]["weights"] == 1.0
    assert artifact.about["int8"]["all"] < 0.1


def test_float16_is_half_the_bytes_and_answers_as_the_module(images, tmp_path):
    half = imports.find("optlang.techniques.cast.half:half", STUDY)
    settings = {"dtype": "float16", "sensitive": False, "keep": (), "only": ()}
    plain = named("mlp")
    state = half(plain, settings, Context(images, 1, tmp_path, STUDY))
    artifact = build(state, images, tmp_path / "half")
    assert artifact.files[0].bytes < 0.8 * build(plain, images, tmp_path / "float").files[0].bytes
    assert artifact.about["stored"]["halved"] == 1.0
