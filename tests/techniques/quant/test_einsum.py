"""Sums over indices as products of matrices: the same answers, and what stays a sum."""

import numpy
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from optlang.interfaces import Context, Factory, ModelState
from optlang.techniques.quant.dynamic import dynamic
from optlang.techniques.quant.einsum import as_products
from optlang.techniques.quant.static import static
from optlang.techniques.quant.weight_only import weight_only
from tests.techniques.quant.integers import STATIC, WANTS, constants
from tests.techniques.states import STUDY

SIZES = {"b": 2, "l": 3, "d": 8, "h": 4, "e": 5}


def model(equation, weight_first=False):
    """A graph of one Einsum whose second (or first) operand is a constant, and a value for the other."""
    draw = numpy.random.default_rng(0)
    terms = equation.partition("->")[0].replace(" ", "").split(",")
    arrays = [draw.normal(size=[SIZES[index] for index in term]).astype(numpy.float32) for term in terms]
    value, weight = arrays[::-1] if weight_first else arrays
    names = ["w", "x"] if weight_first else ["x", "w"]
    node = helper.make_node("Einsum", names, ["y"], "/layer/Einsum", equation=equation)
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None] * value.ndim)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * len(equation.rpartition(">")[2].strip()))],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), value, weight


@pytest.mark.parametrize(("equation", "weight_first"), [
    ("bld,de->ble", False), ("bld,ed->ble", False), ("bld,hde->bhle", False), ("bhle,hed->bld", False),
    ("ed,bld->ble", True), ("bld, de -> lbe", False), ("dbl,hde->lehb", False), ("bd,dhe->ehb", False),
])
def test_a_product_of_matrices(equation, weight_first):
    graph, value, weight = model(equation, weight_first)
    assert as_products(graph)
    onnx.checker.check_model(graph, full_check=True)
    (product,) = (node for node in graph.graph.node if node.op_type == "MatMul")
    assert product.name == "/layer/Einsum"
    assert "Einsum" not in {node.op_type for node in graph.graph.node}
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = numpy.einsum(equation, *((weight, value) if weight_first else (value, weight)))
    assert numpy.allclose(session.run(None, {"x": value})[0], wanted, atol=1e-5)


@pytest.mark.parametrize("equation", ["bhl,hle->bhe", "bld,d->bl", "bld,de->be", "bl,de->blde", "bld,de"])
def test_other_sums_stay(equation):
    graph, _, _ = model(equation)
    before = graph.SerializeToString()
    assert not as_products(graph)
    assert graph.SerializeToString() == before


class Heads(torch.nn.Module):
    """Attention over the rows of an image whose weights are parameters of its own, a matrix for each head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.enter = torch.nn.Parameter(torch.randn(4, 8, 16) / 3)
        self.leave = torch.nn.Parameter(torch.randn(4, 16, 64) / 8)
        self.head = torch.nn.Linear(64, 10)

    def forward(self, image):
        given = torch.einsum("bld,hde->bhle", image[:, 0], self.enter)
        scores = torch.einsum("bhle,bhme->bhlm", given, given).softmax(-1)
        return self.head(torch.einsum("bhle,hed->bld", scores @ given, self.leave).mean(1))


@pytest.mark.slow
@pytest.mark.parametrize(("technique", "settings"), [
    (dynamic, {"operators": "auto"}), (static, STATIC), (weight_only, {"bits": 8, "symmetric": True}),
], ids=["dynamic", "static", "weight_only"])
def test_their_weights_become_integers(technique, settings, many_images, tmp_path):
    state = ModelState("module", Heads().eval(), Factory("x:y"))
    result = technique(state, {"keep": (), "only": ()} | settings, Context(many_images, 1, tmp_path, STUDY, WANTS))
    assert result.notes["quantize.weights"] == 1
    stored = constants(onnx.load(result.model)).values()
    assert sorted(item.size for item in stored if item.ndim == 2) == [8 * 64, 640, 64 * 64]
    given = next(iter(many_images.arrays("validation")[0].values()))[:16]
    with torch.no_grad():
        wanted = state.model(torch.from_numpy(given)).numpy()
    session = onnxruntime.InferenceSession(str(result.model), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: given})[0]
    assert 0 < numpy.abs(found - wanted).max() < 0.06 * numpy.abs(wanted).max()
