"""Weights alone in 8 or 4 bits: the rounding against others' own, the answers in two runtimes, recurrent layers."""

import numpy
import onnx
import onnxruntime
import openvino
import pytest
import torch
from onnx import TensorProto, numpy_helper
from onnxruntime.capi._pybind_state import quantize_matmul_4bits

from optlang.interfaces import Context, Factory, ModelState, Refusal
from optlang.runtimes.onnxruntime.build import OnnxRuntime
from optlang.techniques.quant.levels import grouped, rounded
from optlang.techniques.quant.weight_only import weight_only
from optlang.workload.model.make import make
from tests.techniques.states import STUDY, start

SETTINGS = {"bits": 8, "symmetric": True, "keep": (), "only": ()}
# What the file says: without rounding the inputs of layers with small weights, as it does on processors with VNNI.
OPENVINO = {
    "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "SNIPPETS_MODE": "DISABLE",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
}
FOUR = SETTINGS | {"bits": 4, "group": 32}


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


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_same_groups_as_onnx_runtimes_quantizer(axis, symmetric):
    inputs, outputs, group = 64, 6, 32
    weight = numpy.random.default_rng(1).normal(size=(inputs, outputs)).astype(numpy.float32)
    weight[:32, 2] = numpy.abs(weight[:32, 2])
    packed = numpy.zeros((outputs, inputs // group, group // 2), numpy.uint8)
    scales = numpy.zeros(outputs * inputs // group, numpy.float32)
    zeros = numpy.zeros(outputs, numpy.uint8)
    quantize_matmul_4bits(packed, weight, scales, zeros, group, outputs, inputs, symmetric)
    wanted = numpy.stack([packed & 15, packed >> 4], axis=-1).reshape(outputs, inputs).astype(int)
    offset = numpy.full((outputs, 2), 8) if symmetric else numpy.stack([zeros & 15, zeros >> 4], axis=-1).astype(int)
    levels, scale, zero = grouped(weight if axis == 1 else weight.T.copy(), axis, group, symmetric)
    if axis == 1:
        levels, scale, zero = levels.T, scale.T, zero.T
    assert levels.dtype.name == ("int4" if symmetric else "uint4")
    assert numpy.allclose(scale, scales.reshape(outputs, -1), rtol=1e-6)
    moved = (levels.astype(int).reshape(outputs, -1, group) - zero.astype(int)[..., None]).reshape(outputs, inputs)
    assert numpy.array_equal(moved, wanted - numpy.repeat(offset, group, axis=1))


def test_one_group_of_all_inputs_has_one_scale_an_output():
    weight = numpy.random.default_rng(1).normal(size=(10, 6)).astype(numpy.float32)
    weight[:, 1] = 0
    levels, scale, zero = grouped(weight, 1, 0, True)
    assert scale.shape == zero.shape == (6,)
    assert not levels[:, 1].astype(int).any()
    # The farthest value is -8 exactly; one nearly as far on the other side is cut to 7.
    assert (numpy.abs(levels.astype(numpy.float32) * scale - weight) <= 1.0001 * numpy.abs(scale)).all()


@pytest.mark.slow
@pytest.mark.parametrize("network", ["cnn", "unet", "rows", "encoder", "lstm", "recurrent", "tied", "grouped"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_answers_are_those_of_the_rounded_module_in_both_runtimes(images, tmp_path, network, symmetric):
    state = start(network)
    result = weight_only(state, SETTINGS | {"symmetric": symmetric}, Context(images, 1, tmp_path, STUDY))
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
        wanted = state.model(torch.from_numpy(pixels)).numpy()
    assert numpy.abs(found - wanted).max() < 0.03 * max(1.0, numpy.abs(wanted).max())
    assert not numpy.array_equal(found, wanted)
    other = openvino.Core().compile_model(str(result.model), "CPU", OPENVINO)(pixels)[0]
    assert numpy.allclose(other, found, rtol=1e-4, atol=1e-5)
    assert numpy.abs(fast - found).max() < 0.03 * max(1.0, numpy.abs(found).max())


class Again(torch.nn.Module):
    """A linear layer that runs twice."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layer = torch.nn.Linear(64, 64)

    def forward(self, image):
        return self.layer(torch.relu(self.layer(image.flatten(1))))[:, :10]


@pytest.mark.slow
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("network", ["cnn", "unet", "recurrent", "again"])
def test_onnx_runtime_makes_floats_once_where_it_multiplies_by_floats(network, symmetric, images, tmp_path):
    state = ModelState("module", Again().eval(), Factory("x:y")) if network == "again" else start(network)
    settings = SETTINGS | {"symmetric": symmetric}
    result = weight_only(state, settings, Context(images, 1, tmp_path, STUDY, OnnxRuntime().wants()))
    assert result.notes["quantize.weights"] > 0.95
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(result.model), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(tmp_path / "optimized.onnx").graph
    stored = {item.name: item.data_type for item in graph.initializer if len(item.dims) > 1}
    kinds = {node.op_type for node in graph.node for name in node.input if stored.get(name) == TensorProto.INT8}
    assert kinds <= {"MatMulNBits", "DequantizeLinear"}
    made = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    assert {node.op_type for node in graph.node if made.intersection(node.input)} <= {"MatMul", "Gemm"}
    assert "Cast" not in {node.op_type for node in graph.node if set(node.input) <= set(stored)}


@pytest.mark.slow
@pytest.mark.parametrize(("network", "products", "symmetric"), [
    ("mlp", 3, True), ("mlp", 3, False), ("rows", 7, False), ("encoder", 10, True), ("tied", 1, True),
])
def test_four_bits_in_both_runtimes(images, tmp_path, network, products, symmetric):
    state = start(network) if network == "tied" else start(network, width=64)
    result = weight_only(state, FOUR | {"symmetric": symmetric}, Context(images, 1, tmp_path / "4", STUDY))
    eight = weight_only(state, SETTINGS | {"symmetric": symmetric}, Context(images, 1, tmp_path / "8", STUDY))
    # Places of a sequence that are added to it are no layer's, and stay in float.
    places = {"rows": ["place"], "encoder": ["place"]}.get(network)
    assert result.notes.get("quantize.float") == places
    assert result.notes["quantize.four_bits"] > 0.98
    assert (result.notes["quantize.four_bits"] == 1) == (places is None)
    assert result.notes["quantize.eight_bits"] == []
    assert result.notes["quantize.weights"] > 0.95
    assert result.model.stat().st_size < 0.75 * eight.model.stat().st_size
    pixels = images.arrays("validation")[0]["input"][:8]
    rounded_module = make(state.factory, STUDY)
    in_four_bits(rounded_module, symmetric)
    with torch.no_grad():
        wanted = rounded_module(torch.from_numpy(pixels)).numpy()
    plain = onnxruntime.SessionOptions()
    plain.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    fast = onnxruntime.SessionOptions()
    fast.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    fast.log_severity_level = 4
    found, quick = (
        session.run(None, {session.get_inputs()[0].name: pixels})[0]
        for options in (plain, fast)
        for session in [onnxruntime.InferenceSession(str(result.model), options, providers=["CPUExecutionProvider"])]
    )
    assert numpy.allclose(found, wanted, rtol=1e-4, atol=1e-5)
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert kinds.count("MatMulNBits") == products
    # It rounds a product's inputs to 8 bits.
    assert numpy.abs(quick - wanted).max() < 0.03 * numpy.abs(wanted).max()
    other = openvino.Core().compile_model(str(result.model), "CPU", OPENVINO)(pixels)[0]
    assert numpy.allclose(other, wanted, rtol=1e-4, atol=1e-5)


def in_four_bits(module, symmetric):
    """Round each linear layer's weights as `grouped` does; attention keeps those of three layers in one."""
    def back(weight):
        inputs = weight.shape[1]
        group = 32 if inputs % 32 == 0 else 0
        levels, scale, zero = grouped(weight.detach().numpy(), 0, group, symmetric)
        shape = (len(weight), -1, group or inputs)
        apart = levels.astype(numpy.float32).reshape(shape) - zero.astype(numpy.float32).reshape(len(weight), -1, 1)
        return torch.from_numpy((apart * scale.reshape(len(weight), -1, 1)).reshape(weight.shape))

    with torch.no_grad():
        done = set()
        for layer in module.modules():
            name = "in_proj_weight" if isinstance(layer, torch.nn.MultiheadAttention) else "weight"
            weight = getattr(layer, name, None)
            if weight is not None and weight.ndim == 2 and id(weight) not in done:
                done.add(id(weight))
                weight.copy_(back(weight))


@pytest.mark.slow
def test_groups_that_do_not_divide_a_layers_inputs(images, tmp_path):
    result = weight_only(start("mlp", width=48), FOUR | {"group": 64}, Context(images, 1, tmp_path, STUDY))
    held = {item.name: item for item in onnx.load(result.model).graph.initializer}
    found = {
        tuple(held[node.input[0]].dims): [(item.name, item.i) for item in node.attribute]
        for node in onnx.load(result.model).graph.node if node.op_type == "DequantizeLinear"
    }
    assert found == {
        (64, 48): [("axis", 0), ("block_size", 64)], (48, 48): [("axis", 0), ("block_size", 16)],
        (48, 10): [("axis", 0), ("block_size", 16)],
    }
    result = weight_only(start("mlp", width=50), FOUR, Context(images, 1, tmp_path, STUDY))
    assert result.notes["quantize.eight_bits"] == ["3", "5"]
    assert result.notes["quantize.four_bits"] == pytest.approx(64 / 124)


@pytest.mark.slow
def test_four_bits_of_little(images, tmp_path):
    context = Context(images, 1, tmp_path, STUDY)
    with pytest.raises(Refusal, match=r"only 7% .* in 4 bits: not those of lstm \(LSTM\)"):
        weight_only(start("lstm"), FOUR, context)
    # Asked for by name it is done.
    result = weight_only(start("cnn"), FOUR | {"only": ("7", "0")}, context)
    assert result.notes["quantize.eight_bits"] == ["0"]


@pytest.mark.slow
@pytest.mark.parametrize("symmetric", [True, False])
def test_convolutions_in_four_bits_in_both_runtimes(images, tmp_path, symmetric):
    state = start("cnn", width=32)
    result = weight_only(state, FOUR | {"symmetric": symmetric}, Context(images, 1, tmp_path, STUDY))
    # The nine weights of a channel of the first one are left in 8.
    assert result.notes["quantize.eight_bits"] == ["0"]
    assert result.notes["quantize.weights"] == 1
    rounded_module = make(state.factory, STUDY)
    in_four_bits(rounded_module, symmetric)
    with torch.no_grad():
        for layer, group in ((rounded_module[0], None), (rounded_module[2], 32)):
            weight = layer.weight.detach().numpy()
            flat = weight.reshape(len(weight), -1)
            made = grouped(flat, 0, group, symmetric) if group else rounded(flat, 0, symmetric)
            levels, scale, zero = (item.astype(numpy.float32).reshape(len(flat), -1) for item in made)
            back = (levels - zero.repeat(levels.shape[1] // zero.shape[1], 1)) * scale.repeat(
                levels.shape[1] // scale.shape[1], 1
            )
            layer.weight.copy_(torch.from_numpy(back.reshape(weight.shape)))
        pixels = images.arrays("validation")[0]["input"][:8]
        wanted = rounded_module(torch.from_numpy(pixels)).numpy()
    plain = onnxruntime.SessionOptions()
    plain.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    for options, bound in ((plain, 1e-5), (None, 0.03 * numpy.abs(wanted).max())):
        session = onnxruntime.InferenceSession(str(result.model), options, providers=["CPUExecutionProvider"])
        assert numpy.abs(session.run(None, {session.get_inputs()[0].name: pixels})[0] - wanted).max() < bound
    other = openvino.Core().compile_model(str(result.model), "CPU", OPENVINO)(pixels)[0]
    assert numpy.allclose(other, wanted, rtol=1e-4, atol=1e-5)


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
