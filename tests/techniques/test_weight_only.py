"""Weights alone in 8 bits: the rounding against torch's own, the answers in two runtimes, recurrent layers."""

from pathlib import Path

import numpy
import onnx
import onnxruntime
import openvino
import pytest
import torch
from onnx import TensorProto, numpy_helper

from optlang.forms import Context, Factory, Refusal, Subject
from optlang.techniques.weight_only import rounded, weight_only
from optlang.workload import data as data_module
from optlang.workload import modules

STUDY = Path(__file__).parents[1] / "fixtures" / "models"
SETTINGS = {"symmetric": True, "keep": (), "only": ()}


@pytest.fixture(scope="module")
def images():
    return data_module.load(Factory("networks.py:images"), STUDY)


def start(network, **arguments):
    factory = Factory(f"networks.py:{network}", arguments)
    return Subject("module", modules.make(factory, STUDY), factory)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_same_levels_as_torchs(axis, symmetric):
    weight = numpy.random.default_rng(1).normal(size=(6, 8)).astype(numpy.float32)
    weight[2] = numpy.abs(weight[2])
    weight[:, 3] = 0
    levels, scale, zero = rounded(weight, axis, symmetric)
    ends = (-127, 127) if symmetric else (0, 255)
    wanted = torch.fake_quantize_per_channel_affine(
        torch.from_numpy(weight), torch.from_numpy(scale), torch.from_numpy(zero.astype(numpy.int32)), axis, *ends
    ).numpy()
    shape = [-1 if index == axis else 1 for index in range(2)]
    back = (levels.astype(numpy.float32) - zero.astype(numpy.float32).reshape(shape)) * scale.reshape(shape)
    assert numpy.allclose(back, wanted, atol=1e-6)
    assert (numpy.abs(back - weight) <= 0.5001 * scale.reshape(shape) + (0 if symmetric else 1e-6)).all()


@pytest.mark.slow
@pytest.mark.parametrize("network", ["cnn", "unet", "rows", "encoder", "lstm", "recurrent", "tied", "grouped"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_answers_are_those_of_the_rounded_module_in_both_runtimes(images, tmp_path, network, symmetric):
    subject = start(network)
    result = weight_only(subject, SETTINGS | {"symmetric": symmetric}, Context(images, 1, tmp_path, STUDY))
    held = onnx.load(result.model).graph.initializer
    assert any(item.data_type in (TensorProto.INT8, TensorProto.UINT8) and len(item.dims) > 1 for item in held)
    assert result.notes["quantize.weights"] > 0.9
    pixels = images.arrays("validation")[0]["input"][:8]
    # Without its optimizer ONNX Runtime computes what the file says; with it, linear layers round their inputs.
    plain = onnxruntime.SessionOptions()
    plain.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    found, fast = (
        session.run(None, {session.get_inputs()[0].name: pixels})[0]
        for options in (plain, None)
        for session in [onnxruntime.InferenceSession(str(result.model), options, providers=["CPUExecutionProvider"])]
    )
    with torch.no_grad():
        wanted = subject.model(torch.from_numpy(pixels)).numpy()
    assert numpy.abs(found - wanted).max() < 0.03 * max(1.0, numpy.abs(wanted).max())
    assert not numpy.array_equal(found, wanted)
    config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "SNIPPETS_MODE": "DISABLE"}
    other = openvino.Core().compile_model(str(result.model), "CPU", config)(pixels)[0]
    assert numpy.allclose(other, found, rtol=1e-4, atol=1e-5)
    assert numpy.abs(fast - found).max() < 0.03 * max(1.0, numpy.abs(found).max())


@pytest.mark.slow
def test_kept_and_only(images, tmp_path):
    settings = SETTINGS | {"only": ("3", "5"), "keep": ("5",)}
    result = weight_only(start("mlp"), settings, Context(images, 1, tmp_path, STUDY))
    shapes = {numpy_helper.to_array(item).shape: item.data_type for item in onnx.load(result.model).graph.initializer}
    assert shapes[(32, 32)] == TensorProto.INT8
    assert {kind for shape, kind in shapes.items() if set(shape) & {64, 10}} == {TensorProto.FLOAT}


@pytest.mark.slow
def test_everything_kept(images, tmp_path):
    with pytest.raises(Refusal, match="no layer is left"):
        weight_only(start("mlp"), SETTINGS | {"keep": ("*",)}, Context(images, 1, tmp_path, STUDY))
