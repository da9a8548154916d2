"""What returns what it takes goes, what only looks like it stays; OpenVINO compiles int8 files, with positions too."""

import numpy
import onnx
import onnxruntime
import openvino
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from optlang.interfaces import Context, Factory, ModelState
from optlang.runtimes.openvino.build import OpenVino
from optlang.techniques.quant.idle_operators import without_idle
from optlang.techniques.quant.static import static
from optlang.techniques.quant.weight_only import weight_only
from tests.techniques.quant.integers import STATIC, quantized
from tests.techniques.states import STUDY


def made(operator, *constants, shape=("batch", 8, 4), result=None, first=False, **attributes):
    """input -> Relu -> the operator -> Neg -> output."""
    stored = [numpy_helper.from_array(numpy.asarray(item), f"c{number}") for number, item in enumerate(constants)]
    names = [item.name for item in stored]
    nodes = [
        helper.make_node("Relu", ["input"], ["given"]),
        helper.make_node(operator, [*names, "given"] if first else ["given", *names], ["made"], **attributes),
        helper.make_node("Neg", ["made"], ["output"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, own)
            for name, own in (("input", shape), ("output", result or shape))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def operators(model):
    return [node.op_type for node in model.graph.node]


def answers(model):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    given = numpy.random.default_rng(0).normal(size=(2, 8, 4)).astype(numpy.float32)
    return session.run(None, {"input": given})[0]


ONES, ZEROS = numpy.ones((8, 1), numpy.float32), numpy.zeros((8, 1), numpy.float32)


@pytest.mark.parametrize(("operator", "constants", "how"), [
    ("Identity", (), {}),
    ("Slice", ([0], [8], [1], [1]), {}),
    ("Slice", ([0], [8], [1]), {}),
    ("Pad", ([0, 0, 0, 0, 0, 0],), {}),
    ("Mul", (numpy.float32(1),), {}),
    ("Mul", (ONES,), {"first": True}),
    ("Div", (ONES,), {}),
    ("Add", (ZEROS,), {"first": True}),
    ("Sub", (ZEROS,), {}),
    ("Reshape", ([2, 8, 4],), {"shape": (2, 8, 4)}),
    ("Expand", ([1, 8, 1],), {"shape": (2, 8, 4)}),
])
def test_what_returns_what_it_takes_goes(operator, constants, how):
    model = made(operator, *constants, **how)
    before = answers(model)
    assert without_idle(model)
    onnx.checker.check_model(model)
    assert operators(model) == ["Relu", "Neg"]
    assert not model.graph.initializer
    assert numpy.array_equal(answers(model), before)


@pytest.mark.parametrize(("operator", "constants", "how"), [
    ("Slice", ([1], [8], [1], [1]), {"result": ("batch", 7, 4)}),
    ("Slice", ([7], [-9], [1], [-1]), {}),  # turned round
    ("Pad", ([0, 1, 0, 0, -1, 0],), {}),  # moved by one
    ("Mul", (2 * ONES,), {}),
    ("Div", (ONES,), {"first": True}),
    ("Sub", (ZEROS,), {"first": True}),
    ("Add", (numpy.zeros((3, 1, 1, 1), numpy.float32),), {"result": (3, "batch", 8, 4)}),  # repeated
    ("Reshape", ([2, 4, 8],), {"shape": (2, 8, 4), "result": (2, 4, 8)}),
])
def test_what_changes_something_stays(operator, constants, how):
    model = made(operator, *constants, **how)
    assert not without_idle(model)
    assert operator in operators(model)


def test_an_answer_keeps_its_name():
    model = made("Identity")
    del model.graph.node[2]
    model.graph.node[1].output[0] = "output"
    assert not without_idle(model)


class Ghost(nn.Module):
    """Half of its channels are made of the others and put next to them; as many are taken as were asked for."""

    def __init__(self):
        super().__init__()
        self.first, self.cheap = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Sequential(nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 10))

    def forward(self, image):
        x = torch.relu(self.first(image))
        return self.head(torch.cat([x, torch.relu(self.cheap(x))], dim=1)[:, :16])


def compiled(state, batch):
    """OpenVINO's model for one shape. What these tests are about made it end the process, or refuse the file."""
    core = openvino.Core()
    read = core.read_model(str(state.model))
    read.reshape([batch, 1, 8, 8])
    return core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "SNIPPETS_MODE": "DISABLE"})


def near(module, found, values):
    with torch.no_grad():
        wanted = module(torch.from_numpy(values)).numpy()
    return numpy.abs(found - wanted).max() < 0.1 * numpy.abs(wanted).max()


@pytest.mark.slow
def test_a_slice_of_the_whole_is_no_rounding_of_its_own(many_images, tmp_path):
    torch.manual_seed(0)
    state = ModelState("module", Ghost().eval(), Factory("x:y"))
    result, model = quantized(state, many_images, tmp_path)
    assert "Slice" not in operators(model)
    values = many_images.arrays("validation", 1)[0]["input"]
    assert near(state.model, compiled(result, 1)(values)[0], values)


class Dense(nn.Module):
    """Concatenates, and then scales: by a norm that no convolution is before, or by constants."""

    def __init__(self, scale):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.scale = scale
        self.last, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8 * 64, 10)

    def forward(self, image):
        x = torch.relu(self.first(image))
        x = self.scale(torch.cat([x, torch.relu(self.second(x))], dim=1))
        return self.head(torch.relu(self.last(torch.relu(x))).flatten(1))


class Shifted(nn.Module):
    def __init__(self):
        super().__init__()
        self.by = nn.Parameter(torch.rand(8, 1, 1))

    def forward(self, x):
        return x + self.by


@pytest.mark.slow
@pytest.mark.parametrize("scale", [nn.BatchNorm2d(8), Shifted()])
def test_a_concatenation_that_is_scaled_next_is_not_rounded(scale, many_images, tmp_path):
    torch.manual_seed(0)
    state = ModelState("module", Dense(scale).eval(), Factory("x:y"))
    result, model = quantized(state, many_images, tmp_path)
    joint = next(node for node in model.graph.node if node.op_type == "Concat")
    readers = {node.op_type for node in model.graph.node if joint.output[0] in node.input}
    assert "QuantizeLinear" not in readers
    weights = [item.data_type for item in model.graph.initializer if len(item.dims) == 4]
    assert weights == [TensorProto.INT8] * 3
    values = many_images.arrays("validation", 1)[0]["input"]
    assert near(state.model, compiled(result, 1)(values)[0], values)


class Placed(nn.Module):
    """A convolution computes positions, the same in each call, which are added to what comes of the image."""

    def __init__(self):
        super().__init__()
        self.look, self.place = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(2, 16, 1)
        self.head = nn.Linear(16 * 64, 10)

    def forward(self, image):
        ones = torch.ones_like(image)
        places = torch.cat([ones.cumsum(2).sin(), ones.cumsum(3).cos()], dim=1)
        return self.head(torch.relu(self.look(image) + self.place(places)).flatten(1))


@pytest.mark.slow
@pytest.mark.parametrize("technique", [static, weight_only])
def test_what_is_the_same_in_each_call_stays_in_float(technique, many_images, tmp_path):
    torch.manual_seed(0)
    state = ModelState("module", Placed().eval(), Factory("x:y"))
    settings = STATIC | {"bits": 8, "group": None, "symmetric": False}
    result = technique(state, settings, Context(many_images, 1, tmp_path, STUDY, OpenVino().wants()))
    assert result.notes["quantize.float"] == ["place"]
    stored = onnx.load(result.model).graph.initializer
    kinds = {tuple(item.dims): item.data_type for item in stored if len(item.dims) == 4 and item.dims[0] == 16}
    assert kinds[16, 2, 1, 1] == TensorProto.FLOAT != kinds[16, 1, 3, 3]
    values = many_images.arrays("validation", 2)[0]["input"]
    assert near(state.model, compiled(result, 2)(values)[0], values)
