"""What is divided stays in float: linear attention in int8, and which nodes count as divided."""

import numpy
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from optlang.interfaces import Context, Factory, ModelState
from optlang.techniques.quant.divisions import divided, noted
from optlang.techniques.quant.static import static
from tests.techniques.quant.integers import STATIC, WANTS
from tests.techniques.states import STUDY


def graph(*nodes, **constants):
    made = [helper.make_node(kind, inputs.split(), [name], name) for kind, inputs, name in nodes]
    return helper.make_graph(made, "g", [helper.make_tensor_value_info(name, 1, None) for name in ("x", "y")], [], [
        numpy_helper.from_array(numpy.asarray(value, numpy.float32), name) for name, value in constants.items()
    ])


W = numpy.ones((2, 2))


def test_what_lies_between_layers_and_a_division():
    nodes = graph(
        ("MatMul", "x w", "layer"), ("Relu", "layer", "rectified"), ("MatMul", "rectified y", "product"),
        ("Add", "product e", "sum"), ("Div", "product sum", "quotient"), ("Relu", "quotient", "after"), w=W, e=1e-5,
    )
    assert set(divided(nodes)) == {"rectified", "product", "sum", "quotient"}
    assert noted(nodes, ["MatMul"]) == {"quantize.divided": [""]}
    assert noted(nodes, ["Conv"]) == {}


@pytest.mark.parametrize(("nodes", "wanted"), [
    ([("Relu", "x", "a"), ("Div", "a c", "b")], set()),  # scores by the root of their width
    ([("Shape", "x", "a"), ("Cast", "a", "f"), ("Relu", "x", "r"), ("Div", "r f", "b")], set()),  # a mean by its count
    ([("Relu", "x", "a"), ("Log", "a", "b")], {"a", "b"}),
    ([("Relu", "x", "a"), ("Sqrt", "a", "s"), ("Div", "c s", "r"), ("Mul", "y r", "m")], {"a", "s", "r", "m"}),
    ([("Relu", "x", "a"), ("Reciprocal", "a", "r"), ("Squeeze", "r", "u"), ("Mul", "y u", "m")], set("arum")),
    ([("Relu", "x", "a"), ("Pow", "a n", "r"), ("Mul", "y r", "m")], {"a", "r", "m"}),
    ([("Relu", "x", "a"), ("Pow", "a c", "r"), ("Mul", "y r", "m")], set()),
    ([("Relu", "x", "a"), ("Softmax", "a", "s"), ("Div", "y s", "d")], {"s", "d"}),
    ([("MatMul", "x w", "a"), ("Div", "y a", "d")], {"d"}),
])
def test_which_divisions_count(nodes, wanted):
    assert set(divided(graph(*nodes, c=2, n=-0.5, w=W))) == wanted


class Linear(nn.Module):
    """Linear attention over the positions of an image, between convolutions; no softmax and no norm."""

    def __init__(self, normed):
        super().__init__()
        torch.manual_seed(5)
        self.stem = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.Hardswish(), nn.Conv2d(32, 96, 1))
        self.norm = nn.LayerNorm(32) if normed else nn.Identity()
        self.head = nn.Sequential(nn.Conv2d(32, 32, 1), nn.ReLU(), nn.Flatten(), nn.Linear(2048, 10))
        with torch.no_grad():
            self.stem[2].weight[:64] *= 4  # queries and keys of very different lengths, as trained ones have

    def forward(self, image):
        queries, keys, values = self.stem(image).flatten(2).transpose(1, 2).chunk(3, -1)
        keys, values = (keys - 0.5).relu(), nn.functional.pad(values, (0, 1), value=1.0)
        mixed = (queries - 0.5).relu() @ (keys.transpose(1, 2) @ values)
        mixed = self.norm(mixed[..., :-1] / (mixed[..., -1:] + 1e-5))
        return self.head(mixed.transpose(1, 2).unflatten(2, (8, 8)))


@pytest.mark.slow
@pytest.mark.parametrize("normed", [True, False])
def test_linear_attention_in_int8(normed, many_images, tmp_path):
    module = Linear(normed).eval()
    state = ModelState("module", module, Factory("x:y"))
    result = static(state, STATIC, Context(many_images, 1, tmp_path, STUDY, WANTS))
    assert result.notes["quantize.weights"] == 1
    assert result.notes["quantize.divided"]
    given = next(iter(many_images.arrays("validation")[0].values()))[:64]
    with torch.no_grad():
        wanted = module(torch.from_numpy(given)).numpy()
    session = onnxruntime.InferenceSession(str(result.model), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: given})[0]
    a, b = ((item - wanted.mean(0)).ravel() for item in (found, wanted))
    assert a @ b / numpy.linalg.norm(a) / numpy.linalg.norm(b) > 0.96
