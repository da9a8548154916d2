"""Compact ONNX files: the same answers from fewer bytes."""

import numpy
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from optlang.workload.export.minify import compact


@pytest.fixture
def model():
    """(x + 1) * 1 + 2, with constants that repeat and documentation everywhere."""
    def constant(name, value):
        item = helper.make_tensor(name, TensorProto.FLOAT, [3], [value] * 3)
        item.doc_string = "a constant"
        return item

    nodes = [
        helper.make_node("Add", ["x", "a_constant_with_a_long_name"], ["a_sum_with_a_long_name"], name="/first/Add"),
        helper.make_node("Mul", ["a_sum_with_a_long_name", "the_same_constant"], ["a_product"], doc_string="why"),
        helper.make_node("Add", ["a_product", "another_constant"], ["y"]),
    ]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("x", "y", "a_product")]
    constants = [
        constant("a_constant_with_a_long_name", 1.0), constant("the_same_constant", 1.0),
        constant("another_constant", 2.0),
    ]
    graph = helper.make_graph(nodes, "a graph", value[:1], value[1:2], constants, value_info=value[2:])
    made = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)], ir_version=8
    )
    helper.set_model_props(made, {"onnx.infer": "onnxruntime.quant"})
    return made


def answer(model, value):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": value})[0]


def test_the_same_answers_from_fewer_bytes(model):
    value = numpy.random.default_rng(0).normal(size=(4, 3)).astype(numpy.float32)
    wanted, size = answer(model, value), model.ByteSize()
    small = compact(model)
    onnx.checker.check_model(small, full_check=True)
    assert numpy.array_equal(answer(small, value), wanted)
    assert small.ByteSize() < 0.6 * size
    assert len(small.graph.initializer) == 2
    assert [item.name for item in (*small.graph.input, *small.graph.output)] == ["x", "y"]
    assert [item.domain for item in small.opset_import] == [""]
    text = str(small)
    assert "doc_string" not in text.replace('doc_string: ""', "")
    assert "long_name" not in text
    assert not small.metadata_props
    assert not small.graph.value_info


def test_twice_is_once(model):
    once = compact(model).SerializeToString(deterministic=True)
    assert compact(model).SerializeToString(deterministic=True) == once


def test_an_output_that_is_a_constant_keeps_its_name(model):
    model.graph.output.append(helper.make_tensor_value_info("the_same_constant", TensorProto.FLOAT, [3]))
    small = compact(model)
    onnx.checker.check_model(small)
    session = onnxruntime.InferenceSession(small.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(["the_same_constant"], {"x": numpy.zeros((1, 3), numpy.float32)})[0].tolist() == [1, 1, 1]


def test_names_that_look_short_already_do_not_clash(model):
    for node in model.graph.node:
        node.input[:] = ["t3" if name == "x" else name for name in node.input]
        node.output[:] = ["t4" if name == "y" else name for name in node.output]
    model.graph.input[0].name, model.graph.output[0].name = "t3", "t4"
    small = compact(model)
    onnx.checker.check_model(small, full_check=True)
    session = onnxruntime.InferenceSession(small.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(["t4"], {"t3": numpy.zeros((1, 3), numpy.float32)})[0].tolist() == [[3, 3, 3]]


def test_a_name_used_inside_a_branch_stays(model):
    out = helper.make_tensor_value_info("inner", TensorProto.FLOAT, ["batch", 3])
    branch = helper.make_graph([helper.make_node("Identity", ["a_product"], ["inner"])], "branch", [], [out])
    model.graph.initializer.append(helper.make_tensor("truth", TensorProto.BOOL, [], [True]))
    model.graph.node.insert(
        2, helper.make_node("If", ["truth"], ["chosen"], then_branch=branch, else_branch=branch)
    )
    model.graph.node[3].input[0] = "chosen"
    small = compact(model)
    onnx.checker.check_model(small, full_check=True)
    assert answer(small, numpy.zeros((1, 3), numpy.float32)).tolist() == [[3, 3, 3]]


def test_weights_of_layers_need_no_zero_point_of_0():
    """Where the point says nothing; and only where a layer alone reads the weights."""
    def dequantized(name, *points):
        return helper.make_node("DequantizeLinear", [f"{name}_levels", "scale", *points], [name])

    nodes = [
        dequantized("plain", "none"), dequantized("shifted", "three"), dequantized("turned", "none"),
        helper.make_node("Transpose", ["turned"], ["back"]),
        *(helper.make_node("MatMul", ["x", name], [f"{name}_y"]) for name in ("plain", "shifted", "back")),
        helper.make_node("Sum", ["plain_y", "shifted_y", "back_y"], ["y"]),
    ]
    levels = numpy.arange(-4, 5, dtype=numpy.int8).reshape(3, 3)
    stored = {f"{name}_levels": levels for name in ("plain", "shifted", "turned")} | {
        "scale": numpy.float32(0.5), "none": numpy.int8(0), "three": numpy.int8(3),
    }
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("x", "y")]
    graph = helper.make_graph(
        nodes, "g", values[:1], values[1:], [numpy_helper.from_array(item, name) for name, item in stored.items()]
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    value = numpy.random.default_rng(0).normal(size=(4, 3)).astype(numpy.float32)
    right = answer(made, value)
    small = compact(made)
    assert [len(node.input) for node in small.graph.node if node.op_type == "DequantizeLinear"] == [2, 3, 3]
    assert numpy.array_equal(answer(small, value), right)


def test_weights_of_a_gemm_keep_a_zero_point_of_their_own():
    """ONNX Runtime runs it in floats without one, OpenVINO where another layer has the same."""
    def dequantized(name, point):
        return helper.make_node("DequantizeLinear", [name + "_levels", "scale", point], [name], axis=0)

    nodes = [dequantized("one", "first"), dequantized("other", "second"), dequantized("bias", "third")]
    nodes += [
        helper.make_node("Gemm", ["x", "one", "bias"], ["h"], transB=1), helper.make_node("Gemm", ["h", "other"], ["y"])
    ]
    levels = numpy.arange(-4, 5, dtype=numpy.int8).reshape(3, 3)
    zeros = numpy.zeros(3, numpy.int8)
    stored = {
        "one_levels": levels, "other_levels": levels[::-1].copy(), "bias_levels": levels[0].astype(numpy.int32),
        "scale": numpy.full(3, 0.5, numpy.float32), "first": zeros, "second": zeros, "third": zeros.astype(numpy.int32),
    }
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("x", "y")]
    graph = helper.make_graph(
        nodes, "g", values[:1], values[1:], [numpy_helper.from_array(item, name) for name, item in stored.items()]
    )
    small = compact(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    found = [list(node.input) for node in compact(small).graph.node if node.op_type == "DequantizeLinear"]
    assert [len(item) for item in found] == [3, 3, 2]
    assert found[0][2] != found[1][2]
