"""Casts: against torch's own and numpy's rounding, what stays in float32, and every runtime that takes a module."""

from pathlib import Path

import numpy
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import nn

from optlang.interfaces import Context, Factory, ModelState, Refusal, TargetSpec
from optlang.runtimes.onnxruntime.build import OnnxRuntime
from optlang.runtimes.openvino.build import OpenVino
from optlang.runtimes.torch.eager import Eager
from optlang.techniques.cast.half import half
from optlang.techniques.training.train import train
from optlang.workload.export import tracing
from optlang.workload.export.onnx import export
from optlang.workload.model.call import call
from tests.techniques.states import STUDY, start


def check(state, result, data):
    assert 0.5 < result.notes["cast.share"] <= 1


SETTINGS = {"dtype": "float16", "sensitive": True, "keep": (), "only": ()}
# Half of the distance between neighbors, for numbers about as large as the largest.
ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8}

pytestmark = pytest.mark.slow


def given(module):
    """A state of a module that no factory makes."""
    return ModelState("module", module.eval(), Factory("networks.py:cnn"))


def cast(state, data, folder=Path(), **changed):
    return half(state, SETTINGS | changed, Context(data, 3, folder, STUDY))


def answers(state, data, count=16):
    bound = data.bind(state.model)
    with torch.no_grad():
        return call(state.model, bound.example(count))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("network", ["residual", "depthwise", "unet", "rows", "encoder", "lstm"])
def test_answers_are_those_of_the_float_model_but_for_rounding(network, dtype, images):
    state = start(network)
    wanted = answers(state, images)["output"]
    found = answers(cast(state, images, dtype=dtype), images)["output"]
    assert found.dtype == torch.float32
    assert 0 < float((found - wanted).abs().max()) < 8 * ROUNDING[dtype] * float(wanted.abs().max())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("network", ["cnn", "residual", "mlp"])
def test_without_exceptions_it_is_torchs_own_cast(network, dtype, images):
    state = start(network)
    found = answers(cast(state, images, dtype=dtype, sensitive=False), images)["output"]
    own = start(network).model.to(getattr(torch, dtype))
    with torch.no_grad():
        wanted = own(images.example(16)["input"].to(getattr(torch, dtype))).float()
    assert torch.equal(found, wanted)


def test_what_stays_in_float32(images):
    result = cast(start("residual"), images)
    assert result.edits[-1].arguments["float32"] == [
        "blocks.0.first_norm", "blocks.0.second_norm", "blocks.1.first_norm", "blocks.1.second_norm", "head",
    ]
    types = {name: item.dtype for name, item in result.model.state_dict().items() if item.is_floating_point()}
    assert {name for name, dtype in types.items() if dtype == torch.float32} == {
        name for name in types if "norm" in name or name.startswith("head")
    }
    halved = sum(item.numel() for item in result.model.parameters() if item.dtype == torch.float16)
    assert result.notes["cast.share"] == halved / sum(item.numel() for item in result.model.parameters())
    assert cast(start("residual"), images, sensitive=False).notes["cast.share"] == 1


class Wide(nn.Module):
    """Most of its weights are in the last layer."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(64, 8), nn.Linear(8, 200)

    def forward(self, image):
        return self.head(torch.relu(self.first(image.flatten(1))))[:, :10]


def test_little_is_refused(images):
    with pytest.raises(Refusal, match=r"only 24% .* would be float16: not those of head \(Linear\)") as error:
        cast(given(Wide()), images)
    assert "sensitive = false" in error.value.help
    assert cast(given(Wide()), images, sensitive=False).notes["cast.share"] == 1
    assert cast(given(Wide()), images, only=("first",)).notes["cast.share"] < 0.3
    assert cast(given(Wide()), images, keep=("head",)).notes["cast.share"] < 0.3


def test_layers_by_name(images):
    kept = cast(start("residual"), images, sensitive=False, keep=("blocks.1",)).model
    assert kept.blocks[1].first.weight.dtype == torch.float32
    assert kept.blocks[0].first.weight.dtype == kept.head.weight.dtype == torch.float16
    only = cast(start("residual"), images, only=("blocks.0.first",)).model
    assert [name for name, item in only.named_parameters() if item.dtype == torch.float16] == ["blocks.0.first.weight"]


class Keeping(nn.Module):
    """Keeps what it has computed of its parameters in a dictionary, from the first call on, and a plain constant."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(64, 32), nn.Linear(32, 10)
        self.places, self.known, self.scale = nn.Parameter(torch.randn(8, 32)), {}, torch.full((32, 32), 0.5)

    def forward(self, image):
        if "sum" not in self.known:
            self.known["sum"] = self.places.sum(0, keepdim=True)
        return self.head((self.first(image.flatten(1)) + self.known["sum"]) @ self.scale)


def test_what_a_layer_has_kept_of_an_earlier_call_is_cast_too(images):
    state = given(Keeping())
    wanted = answers(state, images)["output"]
    result = cast(state, images)
    assert state.model.known["sum"].dtype is torch.float32
    found = answers(result, images)["output"]
    assert 0 < float((found - wanted).abs().max()) < 8 * ROUNDING["float16"] * float(wanted.abs().max())


class Padded(nn.Module):
    """An encoder of which torch makes nested tensors, without its padded positions."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(8, 10)

    def forward(self, image):
        rows = image[:, 0]
        padding = torch.zeros(rows.shape[:2], dtype=torch.bool)
        padding[:, -2:] = True
        return self.head(self.encoder(rows, src_key_padding_mask=padding)[:, :-2].mean(dim=1))


def test_an_encoder_with_a_padding_mask_is_cast(images):
    state = given(Padded())
    with tracing.plain_attention():
        wanted = answers(state, images)["output"]
    found = answers(cast(state, images), images)["output"]
    assert 0 < float((found - wanted).abs().max()) < 8 * ROUNDING["float16"] * float(wanted.abs().max())


class Sharing(nn.Module):
    """A language model's way: the first layer's matrix is the last one's too."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(64, 64)
        self.middle = nn.Linear(64, 64)
        self.last = nn.Linear(64, 64)
        self.last.weight = self.first.weight

    def forward(self, image):
        return self.last(self.middle(torch.relu(self.first(image.flatten(1)))))


def test_shared_weights_stay_shared(images):
    result = cast(given(Sharing()), images)
    assert result.model.first.weight is result.model.last.weight
    assert result.edits[-1].arguments["float32"] == []
    result = cast(given(Sharing()), images, keep=("last",))
    assert result.model.first.weight is result.model.last.weight
    assert result.model.first.weight.dtype == torch.float32
    assert result.model.middle.weight.dtype == torch.float16


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_eager_loads_half_the_bytes_and_answers_the_same(dtype, images, tmp_path):
    state = start("residual", width=64)
    result = cast(state, images, dtype=dtype)
    sizes = []
    for name, item in (("float", state), ("half", result)):
        (tmp_path / name).mkdir()
        artifact = Eager().build(item, TargetSpec("here"), {}, tmp_path / name, images.bind(item.model), STUDY)
        sizes.append(sum(file.bytes for file in artifact.files))
    assert sizes[0] / sizes[1] > 1.9
    session = Eager().open(artifact, TargetSpec("here"), {}, STUDY)
    given = {name: item.numpy() for name, item in images.bind(result.model).example(16).items()}
    found = session.collect(session.run(session.prepare(given)))["output"]
    session.close()
    assert found.dtype == numpy.float32
    assert numpy.array_equal(found, answers(result, images)["output"].numpy())


@pytest.mark.parametrize("network", ["residual", "rows", "lstm"])
def test_the_onnx_file_is_half_too(network, images, tmp_path):
    state = start(network, width=64)
    result = cast(state, images)
    bound = images.bind(state.model)
    export(state, bound, tmp_path / "float.onnx", STUDY)
    export(result, bound, tmp_path / "half.onnx", STUDY)
    assert (tmp_path / "float.onnx").stat().st_size > 1.85 * (tmp_path / "half.onnx").stat().st_size
    model = onnx.load(tmp_path / "half.onnx")
    outer = {item.type.tensor_type.elem_type for item in (*model.graph.input, *model.graph.output)}
    assert outer == {TensorProto.FLOAT}
    assert "Cast" in {node.op_type for node in model.graph.node}
    # The numbers in the file are numpy's rounding of the float ones.
    rounded = {item.detach().numpy().astype(numpy.float16).tobytes() for item in state.model.parameters()}
    rounded |= {item.detach().numpy().T.astype(numpy.float16).tobytes() for item in state.model.parameters()}
    stored = [item for item in model.graph.initializer if item.data_type == TensorProto.FLOAT16 and len(item.dims) == 2]
    if network == "rows":
        assert len(stored) >= 6
        assert all(numpy_helper.to_array(item).tobytes() in rounded for item in stored)
    wanted = answers(result, images)["output"].numpy()
    for runtime in (OnnxRuntime(), OpenVino()):
        folder = tmp_path / type(runtime).__name__
        folder.mkdir()
        artifact = runtime.build(result, TargetSpec("here"), {}, folder, bound, STUDY)
        session = runtime.open(artifact, TargetSpec("here"), {}, STUDY)
        found = session.collect(session.run(session.prepare({"image": bound.example(16)["image"].numpy()})))["output"]
        session.close()
        assert found.dtype == numpy.float32
        assert numpy.abs(found - wanted).max() < 8 * ROUNDING["float16"] * numpy.abs(wanted).max()


class Scattering(nn.Module):
    """Sums over what is scattered, as nets over graphs do, and asks for infinities."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(64, 32), nn.Linear(32, 10)
        self.register_buffer("ends", torch.arange(32) % 5)

    def forward(self, image):
        y = self.first(image.flatten(1))
        ends = self.ends.expand_as(y)
        summed = torch.zeros_like(y).scatter_add(1, ends, y)
        summed = summed.masked_fill(torch.isinf(summed), 0.0)
        return self.head(y + summed)


def test_operators_without_kernels_in_float16_calculate_in_float32(images, tmp_path):
    result = cast(given(Scattering()), images)
    export(result, images.bind(result.model), tmp_path / "model.onnx", STUDY)
    graph = onnx.load(tmp_path / "model.onnx").graph
    producer = {name: node for node in graph.node for name in node.output}
    (node,) = (item for item in graph.node if item.op_type.startswith("Scatter"))
    for name in (node.input[0], node.input[2]):
        assert (producer[name].op_type, producer[name].attribute[0].i) == ("Cast", TensorProto.FLOAT)
    (back,) = (item for item in graph.node if node.output[0] in item.input)
    assert (back.op_type, back.attribute[0].i) == ("Cast", TensorProto.FLOAT16)


def test_bfloat16_does_not_go_through_onnx(images, tmp_path):
    result = cast(start(), images, dtype="bfloat16")
    with pytest.raises(Refusal, match="bfloat16 cannot go through ONNX"):
        export(result, images, tmp_path / "model.onnx", STUDY)


def test_a_cast_model_is_not_trained_any_more(images):
    settings = {"epochs": 1, "lr": 1e-3, "optimizer": "adamw", "schedule": "cosine", "batch": 64, "weight_decay": 0.0}
    settings |= {"momentum": None, "amp": "none", "warmup": 0.0, "ema": 0.0, "label_smoothing": 0.0, "clip": 0.0}
    result = cast(start(), images)
    assert not any(item.requires_grad for item in result.model.parameters())
    with pytest.raises(Refusal, match="16 bits") as error:
        train(result, settings | {"patience": 0}, Context(images, 3, Path(), STUDY))
    assert "amp" in error.value.help


class TestRefusal:
    def test_twice(self, images):
        with pytest.raises(Refusal, match="16 bits already"):
            cast(cast(start(), images), images)

    def test_nothing_but_a_last_layer(self, images):
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        with pytest.raises(Refusal, match="no layer is left"):
            cast(given(net), images)
        assert cast(given(net), images, sensitive=False).model[1].weight.dtype == torch.float16

    def test_numbers_beyond_the_range(self, images):
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 10))
        nn.init.constant_(net[1].weight, 1e4)
        with pytest.raises(Refusal, match="layer 1 leaves its range") as error:
            cast(given(net), images)
        assert "bfloat16" in error.value.help
        cast(given(net), images, dtype="bfloat16")
