"""Counts against counting by hand, and against the products in the exported graph."""

import math
import warnings

import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name that everybody gives it
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrizations, prune
from torch.utils.flop_counter import FlopCounterMode

from optlang.interfaces import Factory, ModelState
from optlang.workload.data import dataset as data_module
from optlang.workload.export.onnx import export
from optlang.workload.export.onnx_weights import sparsity as sparsity_of_file
from optlang.workload.model.count import count, macs, operations, sparsity, sparsity_by_layer
from optlang.workload.model.make import make
from optlang.workload.model.parametrizations import modernized

pytestmark = pytest.mark.slow


def one(**shapes):
    return {name: torch.ones(shape) for name, shape in shapes.items()}


class Product(nn.Module):
    def forward(self, left, right):
        return left @ right


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


# Of a sequence of 10 with 32 numbers each: four projections, and two products of queries, keys and values.
ATTENTION = 4 * 10 * 32 * 32 + 2 * 10 * 10 * 32


class Call(nn.Module):
    """A module that calls a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def flash(x):
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return F.scaled_dot_product_attention(x, x, x)


class Table(nn.Module):
    """Gives a part of a parameter to a layer: torch's own counter raises `Expected gradient function to be set`."""

    def __init__(self):
        super().__init__()
        self.table, self.drop, self.layer = nn.Parameter(torch.randn(6, 8)), nn.Dropout(), nn.Linear(8, 8)

    def forward(self, x):
        return self.layer(x) @ self.layer(self.drop(self.table[:4])).T


class Softmax(torch.autograd.Function):
    """A function with a gradient of its own, as DeBERTa has one."""

    @staticmethod
    def forward(ctx, scores, axis):
        ctx.axis = axis
        answer = torch.softmax(scores, axis)
        ctx.save_for_backward(answer)
        return answer


class Joined(nn.Module):
    """Two features joined by nn.Bilinear, a table made by a layer, and distances to prototypes."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.join = nn.Linear(64, 16), nn.Linear(64, 16), nn.Bilinear(16, 16, 32)
        self.places, self.prototypes = nn.Linear(8, 32), nn.Parameter(torch.randn(4, 32))

    def forward(self, x):
        x = x.flatten(1)
        joined = self.join(self.a(x), self.b(x)) + self.places(torch.ones(1, 8))
        return -torch.cdist(joined, self.prototypes)


@pytest.mark.parametrize(
    ("function", "shape", "expected"),
    [
        (lambda x: x @ torch.ones(4), (1, 3, 4), 3 * 4),
        (lambda x: torch.ones(3) @ x[0], (1, 3, 4), 3 * 4),
        (lambda x: torch.addmv(torch.ones(3), x[0], torch.ones(4)), (1, 3, 4), 3 * 4),
        (lambda x: x[0] @ torch.ones(4), (1, 4), 4),
        (lambda x: torch.vdot(x[0], torch.ones(4)), (1, 4), 4),
        (lambda x: torch.baddbmm(torch.ones(1, 3, 5), x, torch.ones(1, 4, 5)), (1, 3, 4), 3 * 4 * 5),
        (lambda x: torch.addbmm(torch.ones(3, 5), x, torch.ones(1, 4, 5)), (1, 3, 4), 3 * 4 * 5),
        (lambda x: torch.einsum("bij,j->bi", x, torch.ones(4)), (1, 3, 4), 3 * 4),
        (lambda x: torch.einsum("bi,ijk,bk->bj", x, torch.ones(4, 6, 5), torch.ones(1, 5)), (1, 4), 4 * 6 * 5),
        (lambda x: torch.tensordot(x, torch.ones(5, 4, 6), ([1, 2], [1, 0])), (1, 4, 5), 4 * 5 * 6),
        (lambda x: F.bilinear(x, x[:, :5], torch.ones(6, 8, 5)), (1, 8), 6 * 8 * 5),
        (lambda x: torch.cdist(x, torch.ones(5, 4)), (1, 3, 4), 3 * 5 * 4),
        (lambda x: torch.cdist(x, torch.ones(5, 4), p=1), (1, 3, 4), 3 * 5 * 4),
        (lambda x: torch.cdist(x, torch.ones(50, 4)), (1, 30, 4), 30 * 50 * 4),
        (lambda x: F.pdist(x[0]), (1, 5, 4), 10 * 4),
        (lambda x: torch.conv_tbc(x.movedim(0, 1), torch.ones(3, 3, 4), torch.ones(4)), (1, 7, 3), 5 * 4 * 3 * 3),
        (lambda x: F.conv_transpose2d(x, torch.ones(6, 2, 3, 3), groups=2), (1, 6, 4, 4), 16 * 6 * 2 * 9),
        (lambda x: F.scaled_dot_product_attention(x, x, x), (1, 2, 5, 4), 2 * 2 * 5 * 5 * 4),
        (flash, (1, 2, 5, 4), 2 * 2 * 5 * 5 * 4),
        (lambda x: F.embedding_bag(x.long(), torch.ones(10, 4)), (1, 5), 5 * 4),
        (lambda x: F.embedding_bag(x.long(), torch.ones(10, 4), mode="max"), (1, 5), 0),
        (lambda x: Softmax.apply(x, -1) @ torch.ones(4, 2), (1, 4), 4 * 2),
        (lambda x: F.softmax(F.layer_norm(x * 2 + 1, (4,)), -1).mean(1), (1, 3, 4), 0),
    ],
)
def test_macs_of_functions_are_those_counted_by_hand(function, shape, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the first use of sdpa_kernel
        found = operations(Call(function), one(x=shape))
    assert (found.macs, found.uncounted) == (expected, ())


@pytest.mark.parametrize(
    ("function", "shape", "names"),
    [
        (lambda x: torch.fft.irfft(torch.fft.rfft(x)), (1, 8), ("_fft_c2r", "_fft_r2c")),
        (lambda x: F.grid_sample(x, torch.zeros(1, 3, 3, 2), align_corners=False), (1, 2, 4, 4), ("grid_sampler_2d",)),
        (lambda x: torch.linalg.inv(x + torch.eye(3)), (1, 3, 3), ("linalg_inv_ex",)),
        (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), (1, 2, 4, 4), ("upsample_bilinear2d",)),
        (lambda x: F.interpolate(x, scale_factor=2) + torch.linalg.vector_norm(x), (1, 2, 4, 4), ()),
    ],
)
def test_what_multiplies_and_has_no_formula_is_named(function, shape, names):
    found = count(Call(function), one(x=shape))
    assert found.uncounted == names
    assert {item.metric: item.value for item in found.measurements}["macs"] == 0


def test_an_operator_of_the_users_own_is_named():
    @torch.library.custom_op("optlang_tests::twice", mutates_args=())
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    found = operations(Call(lambda x: twice(x) @ torch.ones(4, 2)), one(x=(1, 4)))
    assert (found.macs, found.uncounted) == (8, ("optlang_tests::twice",))


def test_counting_follows_no_modules():
    net = Table().eval()
    with pytest.raises(AssertionError, match="Expected gradient"), torch.no_grad(), FlopCounterMode(display=False):
        net(torch.ones(1, 8))
    assert macs(net, one(x=(1, 8))) == 64 + 4 * 64 + 4 * 8


def test_what_the_model_raises_is_its_own():
    with pytest.raises(ZeroDivisionError):
        operations(Call(lambda x: x * (1 // 0)), one(x=(1, 4)))


def test_a_layer_that_does_not_depend_on_the_batch_counts_once():
    assert macs(Joined(), one(x=(1, 1, 8, 8))) == 1024 + 1024 + 16 * 16 * 32 + 8 * 32 + 4 * 32
    assert macs(Joined(), one(x=(5, 1, 8, 8))) == 10624


def products(path, inputs):
    """Multiply-accumulates of the file's products for `inputs`, from the shapes that the runtime has on the way."""
    model = onnx.load(path)
    names = [name for node in model.graph.node for name in node.output if name]
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    answers = onnxruntime.InferenceSession(model.SerializeToString()).run(None, inputs)
    shapes = {item.name: tuple(item.dims) for item in model.graph.initializer}
    shapes |= {name: item.shape for name, item in (*inputs.items(), *zip(names, answers, strict=True))}
    total = 0
    for node in model.graph.node:
        first, weight = (shapes.get(name, ()) for name in (*node.input[:2], "")[:2])
        answer = shapes.get(node.output[0], ())
        if node.op_type == "Conv":
            total += math.prod(answer) * math.prod(weight[1:])
        elif node.op_type == "ConvTranspose":
            total += math.prod(first) * math.prod(weight[1:])
        elif node.op_type == "MatMul":
            total += math.prod(answer) * first[-1]
        elif node.op_type == "Gemm":
            flags = {item.name: item.i for item in node.attribute}
            total += math.prod(answer) * first[0 if flags.get("transA") else 1]
        elif node.op_type in ("LSTM", "GRU"):
            recurrent = shapes[node.input[2]]
            total += math.prod(first[:2]) * (math.prod(weight) + math.prod(recurrent))
    return total


ZOO = {
    "digits:cnn": "digits:digits", "convolutional:residual_cnn": "digits:digits",
    "convolutional:depthwise_cnn": "digits:digits", "recurrent:recurrent": "recurrent:digit_rows",
    "transformer:transformer": "transformer:digit_lines", "tabular:tabular_mlp": "tabular:diabetes",
}


@pytest.mark.parametrize("name", ZOO)
def test_the_exported_file_has_as_many_products_and_zeros(name, tmp_path):
    study = tmp_path
    factory = Factory(f"optlang.zoo.{name}")
    module = make(factory, study)
    with torch.no_grad():
        for item in module.parameters():
            if item.ndim > 1:
                item[torch.rand(item.shape, generator=torch.Generator().manual_seed(1)) < 0.3] = 0
    data = data_module.load(Factory(f"optlang.zoo.{ZOO[name]}"), study).bind(module)
    export(ModelState("module", module, factory), data, tmp_path / "model.onnx", study)
    found = {item.metric: item.value for item in count(module, data.example(2)).measurements}
    one_sample = {key: item.numpy() for key, item in data.example(1).items()}
    assert products(tmp_path / "model.onnx", one_sample) == found["macs"]
    # Of a table of places the file has the rows that are used.
    tolerance = 1e-3 if name.startswith("transformer") else 1e-9
    assert sparsity_of_file(tmp_path / "model.onnx") == pytest.approx(found["sparsity"], abs=tolerance)
    assert 0.25 < found["sparsity"] < 0.35


def test_weights_that_are_computed_count_as_what_they_are():
    net = nn.Sequential(nn.Linear(10, 4), nn.ReLU(), nn.Linear(4, 2, bias=False))
    parametrizations.weight_norm(net[0])
    prune.l1_unstructured(net[2], "weight", 0.25)
    modernized(net)
    found = {item.metric: item.value for item in count(net, one(input=(1, 10))).measurements}
    assert found == {"parameters": 44 + 8, "macs": 48, "sparsity": 2 / 48}


def test_a_token_and_the_scales_of_channels_are_no_weights():
    net = Call(nn.Linear(10, 1))
    net.token, net.scales, net.places = (nn.Parameter(torch.zeros(*size)) for size in ((1, 1, 6), (6, 1, 1), (3, 6)))
    assert sparsity(net) == 18 / 28


def test_two_parameters_of_one_memory_count_once():
    net = nn.Sequential(nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False))
    net[1].weight.data = net[0].weight.data
    found = {item.metric: item.value for item in count(net, one(input=(1, 5))).measurements}
    assert (found["parameters"], found["macs"]) == (25, 50)


@pytest.mark.parametrize(
    ("module", "inputs", "expected"),
    [
        (nn.Conv2d(3, 16, 3, padding=1), one(input=(1, 3, 8, 8)), 8 * 8 * 16 * 3 * 9),
        (nn.Conv2d(3, 16, 3, stride=2), one(input=(1, 3, 9, 9)), 4 * 4 * 16 * 3 * 9),
        (nn.Conv2d(16, 16, 3, padding=1, groups=16), one(input=(1, 16, 8, 8)), 8 * 8 * 16 * 9),
        (nn.Conv1d(4, 6, 5), one(input=(1, 4, 12)), 8 * 6 * 4 * 5),
        (nn.Linear(20, 30), one(input=(1, 20)), 600),
        (nn.Linear(20, 30), one(input=(1, 7, 20)), 7 * 600),
        (Product(), one(left=(1, 5, 6), right=(1, 6, 7)), 5 * 6 * 7),
        (Attending(), one(x=(1, 10, 32)), ATTENTION),
        (nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), one(src=(1, 10, 32)), ATTENTION + 2 * 10 * 32 * 64),
        (nn.LSTM(6, 8, batch_first=True), one(input=(1, 5, 6)), 5 * 4 * 8 * (6 + 8)),
        (nn.GRU(6, 8, batch_first=True), one(input=(1, 5, 6)), 5 * 3 * 8 * (6 + 8)),
        (nn.ReLU(), one(input=(1, 5)), 0),
    ],
    ids=lambda item: type(item).__name__ if isinstance(item, nn.Module) else "",
)
def test_macs_are_those_counted_by_hand_for_one_sample(module, inputs, expected):
    before = torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled
    module.train()
    assert macs(module, inputs) == expected
    repeated = {name: torch.cat([item] * 4) for name, item in inputs.items()}
    assert macs(module, repeated) == expected
    assert module.training
    assert (torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled) == before


def test_all_counts_of_a_small_network():
    net = nn.Sequential(nn.Linear(10, 4), nn.ReLU(), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        net[0].weight[:2] = 0
        net[0].bias.zero_()
    found = {item.metric: item for item in count(net, {"input": torch.ones(1, 10)}).measurements}
    assert {name: item.value for name, item in found.items()} == {
        "parameters": 44 + 8, "macs": 48, "sparsity": 20 / 48,
    }
    assert {name: item.unit for name, item in found.items()} == {
        "parameters": "count", "macs": "count", "sparsity": "ratio",
    }
    assert sparsity_by_layer(net) == {"0.weight": 0.5, "2.weight": 0.0}


def test_shared_weights_count_once():
    net = nn.Sequential(nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False))
    net[1].weight = net[0].weight
    found = {item.metric: item.value for item in count(net, {"input": torch.ones(1, 5)}).measurements}
    assert (found["parameters"], found["macs"]) == (25, 50)


def test_a_model_without_weights_has_no_zeros():
    assert sparsity(nn.ReLU()) == 0.0
