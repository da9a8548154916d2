"""How much of the weights is in few bits: the rule for too little, and counts of modules and graphs done by hand."""

import numpy
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from optlang.interfaces import Refusal
from optlang.workload.export import onnx_weights
from optlang.workload.model import dtypes, quantized_share
from optlang.workload.model.quantized_share import Weight


def test_less_than_half_is_refused_with_the_largest_layers_that_stay():
    found = [
        Weight("head", "Gemm", 49, True), Weight("table", "embedding table", 40, False), Weight("a", "LSTM", 11, False),
    ]
    with pytest.raises(Refusal, match=r"^only 49% .* be int8: not those of table \(embedding table\), a \(LSTM\)$"):
        quantized_share.mostly(found, "int8", "another way", named=False)
    # Those that were named were chosen deliberately.
    assert quantized_share.mostly(found, "int8", "another way", named=True) == (0.49, ["a", "table"])
    assert quantized_share.mostly([*found, Weight("b", "Gemm", 2, True)], "int8", "", named=False)[0] == 51 / 102
    assert quantized_share.share(found) == 0.49
    assert quantized_share.share([]) == 0.0


@pytest.mark.parametrize(("without", "elements", "depends"), [
    (("Conv",), 90, "model"), (("Conv",), 89, "settings"), (("LSTM",), 99, "settings"), ((), 99, "settings"),
])
def test_no_setting_makes_other_layers_of_nine_tenths_of_the_weights(without, elements, depends):
    found = [Weight("body", "Conv", elements, False), Weight("head", "Gemm", 100 - elements, True)]
    with pytest.raises(Refusal) as refused:
        quantized_share.mostly(found, "int8", "another way", named=False, without=without)
    assert refused.value.depends == depends


def test_a_modules_weights_by_their_type():
    net = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2), nn.LayerNorm(2))
    assert dtypes.stored(net) == {"quantized": 0.0, "halved": 0.0}
    net[0].half()
    assert dtypes.stored(net) == {"quantized": 0.0, "halved": 32 / 40}
    assert dtypes.module_types(net) == {"float16": ["0"], "float32": ["1"]}
    said = r"^the weights of 0 are in float16, and int8 is made from weights in float32$"
    with pytest.raises(Refusal, match=said) as refused:
        dtypes.refuse_others(dtypes.module_types(net))
    assert refused.value.depends == "settings"
    # No setting and no pruning changes the type: a search does not ask again.
    with pytest.raises(Refusal, match=r"^the model's weights are in bfloat16, and") as refused:
        dtypes.refuse_others(dtypes.module_types(net.to(torch.bfloat16)))
    assert refused.value.depends == "model"
    dtypes.refuse_others(dtypes.module_types(net.float()))


def test_a_graphs_weights_are_its_matrices_without_scales_indices_and_biases():
    def stored(name, *shape, kind="float32"):
        return numpy_helper.from_array(numpy.ones(shape, kind), name)

    nodes = [
        # An embedding table with a scale for each of its 100 rows.
        helper.make_node("Gather", ["table", "tokens"], ["levels"]),
        helper.make_node("Cast", ["levels"], ["floats"], to=1),
        helper.make_node("Gather", ["rows", "tokens"], ["scales"]),
        helper.make_node("Mul", ["floats", "scales"], ["x"]),
        helper.make_node("DequantizeLinear", ["wide", "steps", "zero"], ["w"], axis=0),
        helper.make_node("Gemm", ["x", "w"], ["y"], transB=1), helper.make_node("MatMul", ["y", "narrow"], ["z"]),
        helper.make_node("LSTM", ["z", "in", "state", "biases"], ["a"], hidden_size=3),
        helper.make_node("Gather", ["a", "places"], ["b"]),
    ]
    constants = [
        stored("table", 100, 8, kind="int8"), stored("rows", 100, 1), stored("wide", 16, 8, kind="int8"),
        stored("steps", 16), stored("zero", 16, kind="int8"), stored("narrow", 16, 4, kind="float16"),
        stored("in", 1, 12, 4), stored("state", 1, 12, 3), stored("biases", 1, 24),
        stored("places", 2, 2, kind="int64"),
    ]
    graph = helper.make_graph(nodes, "g", [], [], constants)
    small, all_of_them = 100 * 8 + 16 * 8, 100 * 8 + 16 * 8 + 16 * 4 + 12 * 4 + 12 * 3
    assert onnx_weights.shares(graph) == (small / all_of_them, 64 / all_of_them)
    assert set(onnx_weights.bits_of(graph)) == {"table", "wide", "narrow", "in", "state"}
    assert onnx_weights.shares(helper.make_graph([], "g", [], [])) == (0.0, 0.0)


def test_four_bits_count_as_many_weights_as_there_are():
    item = helper.make_tensor("four", TensorProto.INT4, (4, 6), [1] * 24)
    other = numpy_helper.from_array(numpy.ones((2, 4), "float32"), "other")
    steps = numpy_helper.from_array(numpy.array(1, "float32"), "steps")
    node = helper.make_node("DequantizeLinear", ["four", "steps"], ["w"])
    assert onnx_weights.shares(helper.make_graph([node], "g", [], [], [item, steps, other])) == (24 / 32, 0.0)


def test_masks_and_columns_of_a_float_graph_are_not_taken_for_integers_of_weights():
    constants = [
        numpy_helper.from_array(numpy.ones((6, 6), "uint8"), "mask"),
        numpy_helper.from_array(numpy.ones((9, 1), "float32"), "bias"),
        numpy_helper.from_array(numpy.ones((6, 4), "float32"), "weight"),
    ]
    nodes = [
        helper.make_node("Gather", ["mask", "places"], ["row"]), helper.make_node("Cast", ["seen"], ["some"], to=1),
        helper.make_node("Gather", ["bias", "tokens"], ["own"]), helper.make_node("Mul", ["own", "some"], ["x"]),
        helper.make_node("MatMul", ["x", "weight"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", [], [], constants)
    assert not onnx_weights.is_quantized(graph)
    assert onnx_weights.bits_of(graph) == {"bias": (9, 32), "weight": (24, 32)}
