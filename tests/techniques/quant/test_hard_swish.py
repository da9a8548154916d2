"""HardSwish stays one operator: what is joined, what is not, and that the quantized file has it."""

import numpy
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from optlang.interfaces import Context, Factory, ModelState, QuantWants
from optlang.techniques.quant.hard_swish import joined
from optlang.techniques.quant.ort_quantizer import session_of
from optlang.techniques.quant.static import static
from tests.techniques.states import STUDY


def graph_of(alpha=1 / 6, beta=0.5, order=("x", "half"), opset=18, outputs=("y",)):
    nodes = [
        helper.make_node("HardSigmoid", ["x"], ["half"], "half", alpha=alpha, beta=beta),
        helper.make_node("Mul", order, ["y"], "product"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", *outputs)]
    graph = helper.make_graph(nodes, "net", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


@pytest.mark.parametrize("order", [("x", "half"), ("half", "x")])
def test_a_product_with_its_hard_sigmoid(order):
    model = graph_of(order=order)
    x = numpy.linspace(-5, 5, 12, dtype="float32").reshape(3, 4)
    (wanted,) = session_of(model.SerializeToString()).run(None, {"x": x})
    assert joined(model) == 1
    onnx.checker.check_model(model)
    assert [(node.op_type, node.name) for node in model.graph.node] == [("HardSwish", "product")]
    (found,) = session_of(model.SerializeToString()).run(None, {"x": x})
    numpy.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize(
    "changed",
    [{"alpha": 0.2}, {"beta": 0.4}, {"opset": 13}, {"outputs": ("y", "half")}, {"order": ("half", "half")}],
)
def test_other_products_stay(changed):
    model = graph_of(**changed)
    assert joined(model) == 0
    assert [node.op_type for node in model.graph.node] == ["HardSigmoid", "Mul"]


def test_the_quantized_file_has_it(images, tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.Hardswish(), nn.Conv2d(16, 32, 3, padding=1), nn.Hardswish(), nn.Flatten(),
        nn.Linear(2048, 10),
    ).eval()
    state = ModelState("module", net, Factory("unused:here"))
    wants = QuantWants("uint8", "int8", False, True, True)
    settings = {
        "samples": 64, "calibrator": "minmax", "granularity": "auto", "bias_correction": False, "keep": (), "only": (),
    }
    result = static(state, settings, Context(images, 1, tmp_path, STUDY, wants))
    kinds = [node.op_type for node in onnx.load(result.model).graph.node]
    assert kinds.count("HardSwish") == 2
    assert "HardSigmoid" not in kinds
