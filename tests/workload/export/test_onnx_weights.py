"""Zeros in ONNX files against what the runtime makes of the same weights, and against small graphs counted by hand."""

from pathlib import Path

import numpy
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from optlang.interfaces import Context, Factory, ModelState, QuantWants
from optlang.techniques.prune.magnitude import magnitude
from optlang.techniques.quant.dynamic import dynamic
from optlang.techniques.quant.static import static
from optlang.techniques.quant.weight_only import weight_only
from optlang.workload.data import dataset as data_module
from optlang.workload.export.onnx import export
from optlang.workload.export.onnx_weights import sparsity
from optlang.workload.model import count
from optlang.workload.model.make import make

STUDY = Path(__file__).parents[2] / "fixtures" / "models"
ZEROED = {
    "sparsity": 0.6, "relative_to": "all", "scope": "layer",
    "importance": "l1", "samples": None, "keep": (), "only": (),
}
WANTS = QuantWants("uint8", "int8", False, True, True)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def images():
    return data_module.load(Factory("networks.py:images"), STUDY)


def start(network):
    factory = Factory(f"networks.py:{network}")
    return ModelState("module", make(factory, STUDY), factory)


def pruned(network, images):
    return magnitude(start(network), ZEROED, Context(images, 1, Path(), STUDY))


def zeros_of_the_runtime(path):
    """Zeros and all of the matrices that ONNX Runtime makes of a file's integers."""
    model = onnx.load(path)
    stored = {item.name: item for item in model.graph.initializer}
    # The scale of a group norm has axes too, but one that is longer than 1.
    levels = {
        name for name, item in stored.items()
        if sum(size > 1 for size in item.dims) > 1 and item.data_type != onnx.TensorProto.FLOAT
    }
    nodes = []
    for node in model.graph.node:
        if node.op_type in ("DequantizeLinear", "Cast", "Sub", "Mul") and node.input[0] in levels:
            nodes.append(node)
            levels.update(node.output if node.op_type in ("Cast", "Sub") else ())
    used = [stored[name] for node in nodes for name in node.input if name in stored]
    del model.graph.node[:], model.graph.output[:], model.graph.value_info[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend({item.name: item for item in used}.values())
    model.graph.output.extend(
        helper.make_empty_tensor_value_info(node.output[0]) for node in nodes
        if node.op_type in ("DequantizeLinear", "Mul")
    )
    given = {item.name: numpy.zeros([size.dim_value or 1 for size in item.type.tensor_type.shape.dim], numpy.float32)
             for item in model.graph.input}
    arrays = onnxruntime.InferenceSession(model.SerializeToString()).run(None, given)
    return sum(int((item == 0).sum()) for item in arrays), sum(item.size for item in arrays)


@pytest.mark.parametrize("network", ["cnn", "unet", "lstm", "tied", "grouped"])
def test_a_float_file_has_the_zeros_of_its_module(images, tmp_path, network):
    state = pruned(network, images)
    export(state, images.bind(state.model), tmp_path / "float.onnx", STUDY)
    assert sparsity(tmp_path / "float.onnx") == pytest.approx(count.sparsity(state.model), abs=1e-9)


@pytest.mark.parametrize(
    ("network", "bits"),
    [(network, bits) for network in ("cnn", "grouped", "tied") for bits in ("int8", "uint8", "static")]
    + [("tied", "uint4"), ("cnn", "uint4")],
)
def test_integers_are_zero_where_the_runtime_says_so(images, tmp_path, network, bits):
    state = pruned(network, images)
    if bits == "static":
        settings = {"calibrator": "minmax", "percentile": None, "bins": None, "samples": 64, "granularity": "auto",
                    "bias_correction": False, "keep": (), "only": ()}
        result = static(state, settings, Context(images, 1, tmp_path, STUDY, WANTS))
    else:
        four = bits == "uint4"
        settings = {"bits": 4 if four else 8, "group": 16 if four else None, "symmetric": bits == "int8"}
        result = weight_only(state, settings | {"keep": (), "only": ()}, Context(images, 1, tmp_path, STUDY))
    zeros, total = zeros_of_the_runtime(result.model)
    assert total == sum(item.numel() for item in state.model.parameters() if item.ndim > 1)
    assert sparsity(result.model) == zeros / total
    # No zero of the module is lost.
    assert zeros / total >= count.sparsity(state.model)


def test_dynamic(images, tmp_path):
    state = pruned("tied", images)
    settings = {"operators": "all", "keep": (), "only": ()}
    result = dynamic(state, settings, Context(images, 1, tmp_path, STUDY, WANTS))
    assert "MatMulInteger" in {node.op_type for node in onnx.load(result.model).graph.node}
    assert sparsity(result.model) == pytest.approx(0.6, abs=1e-3)


def test_small_weights_that_become_zero_count(images, tmp_path):
    state = start("tied")
    assert count.sparsity(state.model) == 0
    settings = {"bits": 4, "group": 64, "symmetric": True, "keep": (), "only": ()}
    result = weight_only(state, settings, Context(images, 1, tmp_path, STUDY))
    zeros, total = zeros_of_the_runtime(result.model)
    assert 0.05 < sparsity(result.model) == zeros / total


def saved(path, nodes, arrays):
    stored = [numpy_helper.from_array(item, name) for name, item in arrays.items()]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [], [], stored)), path)
    return path


LEVELS = numpy.array([[3, 5, 7], [5, 5, 7]], numpy.uint8)


@pytest.mark.parametrize(
    ("operator", "inputs", "point", "about", "zeros"),
    [
        ("DequantizeLinear", ["w", "s", "z"], numpy.array([3, 5], numpy.uint8), {"axis": 0}, 1 + 2),
        ("DequantizeLinear", ["w", "s", "z"], numpy.array([3, 5, 7], numpy.uint8), {}, 1 + 2 + 2),
        ("DequantizeLinear", ["w", "s", "z"], numpy.array(5, numpy.uint8), {}, 3),
        ("DequantizeLinear", ["w", "s"], None, {}, 0),
        ("DequantizeLinear", ["w", "s", "z"], numpy.array([[3, 5, 7]], numpy.uint8), {"axis": 0, "block_size": 2}, 5),
        ("DequantizeLinear", ["w", "s", "z"], numpy.array([[3, 7], [5, 7]], numpy.uint8), {"block_size": 2}, 5),
        ("MatMulInteger", ["x", "w", "a", "z"], numpy.array([3, 5, 7], numpy.uint8), {}, 5),
        ("MatMulInteger", ["w", "x", "z", "a"], numpy.array([3, 5], numpy.uint8), {}, 3),
        ("QLinearConv", ["x", "a", "a", "w", "s", "z", "o", "o"], numpy.array([3, 5], numpy.uint8), {}, 3),
    ],
)
def test_by_hand(tmp_path, operator, inputs, point, about, zeros):
    nodes = [helper.make_node(operator, inputs, ["y"], **about), helper.make_node("MatMul", ["v", "y"], ["u"])]
    arrays = {"w": LEVELS, "s": numpy.ones((2, 3), numpy.float32)} | ({} if point is None else {"z": point})
    assert sparsity(saved(tmp_path / "a.onnx", nodes, arrays)) == pytest.approx(zeros / 6)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_what_is_zero_in_sixteen_bits(tmp_path, kind):
    # The least number of float16 is 6e-8; bfloat16 has the range of float32.
    weight = torch.tensor([[0.0, 1e-9, 1.0], [2.0, -0.0, 3.0]])
    item = onnx.TensorProto(
        name="w", data_type=onnx.TensorProto.FLOAT16 if kind == "float16" else onnx.TensorProto.BFLOAT16, dims=(2, 3),
        raw_data=weight.to(getattr(torch, kind)).view(torch.uint8).numpy().tobytes(),
    )
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [], [], [item])
    onnx.save(helper.make_model(graph), tmp_path / "a.onnx")
    layer = torch.nn.Linear(3, 2, bias=False, dtype=getattr(torch, kind))
    layer.weight.data = weight.to(layer.weight.dtype)
    assert sparsity(tmp_path / "a.onnx") == count.sparsity(layer) == (3 if kind == "float16" else 2) / 6


def test_both_matrices_of_a_quantized_lstm(tmp_path):
    levels = numpy.array([[[1, 2], [2, 2]], [[4, 5], [5, 4]]], numpy.uint8)
    inputs = ["x", "w", "r", "", "", "", "", "", "ws", "wz", "rs", "rz"]
    arrays = {
        "w": levels, "r": levels, "wz": numpy.array([2, 4], numpy.uint8),
        "rz": numpy.array([[1, 2], [4, 4]], numpy.uint8), "ws": numpy.ones((2, 2), numpy.float32),
    }
    path = saved(tmp_path / "a.onnx", [helper.make_node("DynamicQuantizeLSTM", inputs, ["y"])], arrays)
    assert sparsity(path) == (3 + 2 + 3 + 2) / 16


def test_what_is_no_weight(tmp_path):
    arrays = {
        "w": numpy.array([[0, 1, 2]], numpy.float32),  # of one output: a layer's all the same
        "places": numpy.array([[0, 1], [1, 1]], numpy.float32), "shift": numpy.zeros((5, 1, 1), numpy.float32),
        "bias": numpy.zeros(7, numpy.float32), "index": numpy.zeros((3, 3), numpy.int64),
        "never": numpy.zeros((3, 3), bool),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "w", "bias"], ["y"], transB=1), helper.make_node("Add", ["y", "places"], ["z"]),
        helper.make_node("Mul", ["z", "shift"], ["v"]), helper.make_node("Gather", ["v", "index"], ["u"]),
    ]
    assert sparsity(saved(tmp_path / "a.onnx", nodes, arrays)) == (1 + 1) / (3 + 4)


def test_a_transposed_weight_and_none(tmp_path):
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["y"]), helper.make_node("Transpose", ["y"], ["t"]),
        helper.make_node("MatMul", ["x", "t"], ["u"]),
    ]
    arrays = {"w": numpy.array([[5], [6]], numpy.uint8), "s": numpy.float32(1), "z": numpy.array(6, numpy.uint8)}
    assert sparsity(saved(tmp_path / "a.onnx", nodes, arrays)) == 0.5
    assert sparsity(saved(tmp_path / "b.onnx", [], {})) == 0.0


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("factor", [1, 50])
@pytest.mark.parametrize("network", ["bag", "speller"])
def test_zeros_of_an_embedding_table(network, factor, symmetric, tmp_path):
    words = data_module.load(Factory("networks.py:tokens"), STUDY)
    state = start(network)
    with torch.no_grad():  # with long rows among others, each row has a scale of its own
        state.model.table.weight[::50] *= factor
    state = magnitude(state, ZEROED, Context(words, 1, Path(), STUDY))
    settings = {"bits": 8, "symmetric": symmetric, "keep": (), "only": ()}
    result = weight_only(state, settings, Context(words, 1, tmp_path, STUDY))
    # Every weight of the module, as the file holds it: its zeros stay zeros, and few others become such.
    weights = {item.data_ptr(): item for item in state.model.parameters() if item.ndim > 1}.values()
    zeros = sum(int((item == 0).sum()) for item in weights) / sum(item.numel() for item in weights)
    assert zeros - 1e-9 <= sparsity(Path(result.model)) < zeros + 0.02
