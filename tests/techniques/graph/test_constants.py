"""Constant folding: what goes, what stays, and the same answers as ONNX's own reference."""

from pathlib import Path

import numpy
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from optlang.interfaces import Context, Factory, ModelState, Refusal
from optlang.techniques.graph.constants import constants
from optlang.workload.data import dataset as data_module
from tests.techniques.states import NETWORKS

REFUSES = {item: "no constant to fold" for item in NETWORKS if item != "encoder"}

STUDY = Path(__file__).parents[2] / "fixtures" / "models"
WEIGHT = numpy.arange(12, dtype=numpy.float32).reshape(3, 4) / 7


@pytest.fixture(scope="module")
def images():
    return data_module.load(Factory("networks.py:images", {"count": 20}), STUDY)


def written(path, nodes, stored):
    graph = helper.make_graph(
        nodes, "test", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", None])],
        [numpy_helper.from_array(item, name) for name, item in stored.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return ModelState("onnx", path, Factory("networks.py:mlp"))


def folded(state, images, folder):
    result = constants(state, {}, Context(images, 1, folder / "result", STUDY))
    return result, onnx.load(result.model)


def answers(path):
    values = numpy.linspace(-1, 1, 15, dtype=numpy.float32).reshape(5, 3)
    return ReferenceEvaluator(str(path)).run(None, {"x": values})[0]


def test_what_no_input_reaches_is_computed_once(images, tmp_path):
    state = written(tmp_path / "a.onnx", [
        helper.make_node("Sin", ["w"], ["sine"]), helper.make_node("Mul", ["sine", "s"], ["scaled"]),
        helper.make_node("MatMul", ["x", "scaled"], ["y"]),
    ], {"w": WEIGHT, "s": numpy.float32([2, 3, 4, 5])})
    result, model = folded(state, images, tmp_path)
    assert [node.op_type for node in model.graph.node] == ["MatMul"]
    ((name, stored),) = ((item.name, numpy_helper.to_array(item)) for item in model.graph.initializer)
    assert name == "scaled"
    numpy.testing.assert_allclose(stored, numpy.sin(WEIGHT) * [2, 3, 4, 5], rtol=1e-6)
    numpy.testing.assert_allclose(answers(result.model), answers(state.model), rtol=1e-6)
    assert result.notes["graph.constants"] == 2


def test_a_node_that_fills_a_large_tensor_stays(images, tmp_path):
    state = written(tmp_path / "a.onnx", [
        helper.make_node("Expand", ["one", "shape"], ["filled"]), helper.make_node("Neg", ["small"], ["less"]),
        helper.make_node("MatMul", ["x", "filled"], ["wide"]), helper.make_node("Add", ["wide", "less"], ["y"]),
    ], {"one": numpy.float32([1]), "shape": numpy.int64([3, 1000]), "small": numpy.float32([3])})
    result, model = folded(state, images, tmp_path)
    assert [node.op_type for node in model.graph.node] == ["Expand", "MatMul", "Add"]
    assert result.notes["graph.constants"] == 1
    assert numpy.array_equal(answers(result.model), answers(state.model))


def test_integer_weights_and_random_numbers_stay(images, tmp_path):
    state = written(tmp_path / "a.onnx", [
        helper.make_node("DequantizeLinear", ["w", "s"], ["weight"]),
        helper.make_node("RandomUniform", [], ["noise"], shape=[4]),
        helper.make_node("MatMul", ["x", "weight"], ["clean"]), helper.make_node("Add", ["clean", "noise"], ["y"]),
    ], {"w": numpy.arange(12, dtype=numpy.int8).reshape(3, 4), "s": numpy.float32(0.1)})
    with pytest.raises(Refusal, match="no constant to fold"):
        folded(state, images, tmp_path)


def test_a_value_that_a_graph_inside_reads_is_kept(images, tmp_path):
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node("Add", ["x", value], [f"{name}_y"])], name, [],
            [helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, ["batch", 3])],
        ) for name, value in (("then", "twice"), ("else", "w"))
    }
    state = written(tmp_path / "a.onnx", [
        helper.make_node("Add", ["w", "w"], ["twice"]), helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["y"], **branches),
    ], {"w": WEIGHT[:, 0].copy(), "zero": numpy.float32(-9)})
    result, model = folded(state, images, tmp_path)
    assert {item.name for item in model.graph.initializer} == {"w", "zero", "twice"}
    assert numpy.array_equal(answers(result.model), answers(state.model))
