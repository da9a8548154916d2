"""INT8 in eager mode, held against torch's own float layers: answers, files, what stays in float, what is refused."""

import dataclasses
import json
import platform
from pathlib import Path

import numpy
import pytest
import safetensors.torch
import torch
from torch import nn

from optlang.interfaces import Factory, ModelState, Refusal, Request, TargetSpec
from optlang.runtimes.shared.artifact_files import described
from optlang.runtimes.shared.processor import overflows
from optlang.runtimes.torch import eager_int8, int8_layers
from optlang.runtimes.torch.eager import Eager
from optlang.runtimes.torch.layer_calls import LayerCalls
from optlang.runtimes.torch.split_attention import SplitAttention
from optlang.workload.data import dataset
from optlang.workload.model.call import call
from optlang.workload.model.make import make

STUDY = Path(__file__).parents[2] / "fixtures" / "models"
STATIC = {
    "calibrator": "minmax", "samples": 64, "granularity": "auto", "bias_correction": False, "keep": (), "only": (),
}
DYNAMIC = {"operators": "auto", "keep": (), "only": ()}
TARGET = TargetSpec("here")

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="static int8 is for x86"),
]


def state_of(network, **arguments):
    factory = Factory(f"networks.py:{network}", arguments)
    return ModelState("module", make(factory, STUDY), factory)


def asked(state, technique, **settings):
    known = {"static": STATIC, "dynamic": DYNAMIC}[technique]
    return dataclasses.replace(state, form="graph", requests=(Request(technique, {**known, **settings}),))


def build(state, data, folder, technique="static", **settings):
    folder.mkdir()
    return Eager().build(asked(state, technique, **settings), TARGET, {}, folder, data.bind(state.model), STUDY)


def answers(artifact, inputs):
    session = Eager().open(artifact, TARGET, {}, STUDY)
    found = session.collect(session.run(session.prepare(inputs)))
    session.close()
    return found


def compared(state, artifact, data, count=100):
    """The answers in int8 and in float, flat."""
    inputs = data.bind(state.model).arrays("validation", count)[0]
    with torch.no_grad():
        wanted = call(state.model, {name: torch.from_numpy(item) for name, item in inputs.items()})
    found = answers(artifact, inputs)
    assert list(found) == list(wanted)
    pairs = [(found[name], item.numpy()) for name, item in wanted.items() if item.is_floating_point()]
    return tuple(numpy.concatenate([pair[side].ravel() for pair in pairs]) for side in range(2))


def near(found, wanted, share=0.05):
    difference = numpy.linalg.norm(found - wanted)
    return 0 < difference < share * numpy.linalg.norm(wanted)


def trained_norms(module):
    with torch.no_grad():
        for item in module.modules():
            if isinstance(item, nn.modules.batchnorm._BatchNorm):
                item.running_mean.copy_(torch.linspace(-0.3, 0.4, item.num_features))
                item.running_var.copy_(torch.linspace(0.5, 2.0, item.num_features))


@pytest.mark.parametrize("network", ["residual", "depthwise", "joined", "rows", "mlp"])
def test_static_answers_as_float_in_a_file_of_integers(network, images, tmp_path):
    state = state_of(network)
    trained_norms(state.model)
    artifact = build(state, images, tmp_path / "static")
    assert near(*compared(state, artifact, images))
    learned = [name for name, item in state.model.named_parameters(recurse=False) if item.ndim > 1]
    assert artifact.about["int8"]["float"] == learned
    assert artifact.about["int8"]["all"] > 0.95
    assert artifact.about["stored"] == {"quantized": artifact.about["int8"]["all"], "halved": 0.0}
    assert artifact.files == described(tmp_path / "static", [path.name for path in (tmp_path / "static").iterdir()])
    stored = safetensors.torch.load_file(artifact.folder / "model.safetensors")
    large = {name: item for name, item in stored.items() if item.ndim > 1 and name not in learned}
    assert {item.dtype for item in large.values()} == {torch.int8}
    # The manifest has all that makes the layers.
    json.dumps(artifact.about)
    assert artifact.files == build(state, images, tmp_path / "again").files


@pytest.mark.parametrize("network", ["unet", "decoder"])
def test_transposed_convolutions_are_integers_or_said_to_be_float(network, images, tmp_path):
    state = state_of(network)
    trained_norms(state.model)
    artifact = build(state, images, tmp_path / "static")
    assert near(*compared(state, artifact, images))
    transposed = {name for name, item in state.model.named_modules() if isinstance(item, nn.ConvTranspose2d)}
    # oneDNN's kernel is wrong for some of them.
    assert transposed.issuperset(artifact.about["int8"]["float"])


def test_norms_and_relu_are_part_of_the_convolution_before_them(images, tmp_path):
    state = state_of("cnn")
    trained_norms(state.model)
    artifact = build(state, images, tmp_path / "static")
    layers = artifact.about["edits"][-1]["arguments"]
    norms = sum(isinstance(item, nn.BatchNorm2d) for item in state.model.modules())
    assert len(layers["norms"]) == norms > 0
    assert sum(settings["relu"] for _, _, settings in layers["layers"]) >= norms


def test_the_subject_is_left_as_it_was(images, tmp_path):
    state = state_of("residual")
    state.model.train()
    before = {name: item.clone() for name, item in state.model.state_dict().items()}
    build(state, images, tmp_path / "static")
    assert state.model.training
    assert all(torch.equal(item, before[name]) for name, item in state.model.state_dict().items())


def test_the_order_of_one_more_sample_changes_no_other_answer(images, tmp_path):
    state = state_of("residual")
    artifact = build(state, images, tmp_path / "static")
    inputs = images.bind(state.model).arrays("validation", 9)[0]
    whole = answers(artifact, inputs)["output"]
    alone = answers(artifact, {name: item[:1] for name, item in inputs.items()})["output"]
    numpy.testing.assert_allclose(alone, whole[:1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("technique", ["static", "dynamic"])
def test_attention_becomes_integers(technique, images, tmp_path):
    state = state_of("encoder")
    artifact = build(state, images, tmp_path / "int8", technique)
    inputs = {name: item.numpy() for name, item in images.bind(state.model).example(20).items()}
    # Kernels of whole encoder layers answer padded positions with zeros; the layers themselves do not.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            wanted = call(state.model, {name: torch.from_numpy(item) for name, item in inputs.items()})
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    for name, item in answers(artifact, inputs).items():
        assert near(item, wanted[name].numpy())
    assert torch.backends.mha.get_fastpath_enabled()
    assert artifact.about["stored"]["quantized"] > 0.9


@pytest.mark.parametrize("network", ["lstm", "both_ways"])
def test_recurrent_layers_are_dynamic_alone(network, images, tmp_path):
    state = state_of(network)
    artifact = build(state, images, tmp_path / "dynamic", "dynamic")
    assert near(*compared(state, artifact, images))
    with pytest.raises(Refusal, match="recurrent") as caught:
        build(state, images, tmp_path / "static", "static")
    assert "dynamic" in caught.value.help


@pytest.mark.parametrize("network", ["tied", "speller"])
def test_tied_weights_are_stored_once(network, images, tmp_path):
    state = state_of(network)
    images = images if network == "tied" else dataset.load(Factory("networks.py:tokens"), STUDY)
    artifact = build(state, images, tmp_path / "dynamic", "dynamic")
    integers = sum(
        item.numel() for item in safetensors.torch.load_file(artifact.folder / "model.safetensors").values()
        if item.dtype is torch.int8
    )
    assert integers == sum(item.numel() for item in state.model.parameters() if item.ndim > 1)
    assert near(*compared(state, artifact, images))


def test_kept_layers_stay_in_float_and_are_not_counted(images, tmp_path):
    state = state_of("mlp")
    first = next(name for name, layer in state.model.named_modules() if isinstance(layer, nn.Linear))
    artifact = build(state, images, tmp_path / "static", keep=(first,))
    stored = safetensors.torch.load_file(artifact.folder / "model.safetensors")
    assert stored[f"{first}.weight"].dtype is torch.float32
    assert artifact.about["int8"]["weights"] == 1.0
    assert artifact.about["int8"]["all"] < 1.0


@pytest.mark.parametrize("settings", [
    {"calibrator": "entropy", "bins": 512}, {"calibrator": "percentile", "percentile": 99.9},
    {"calibrator": "mse", "bins": 512},
], ids=lambda settings: settings["calibrator"])
def test_every_calibrator_gives_a_range_of_its_own(settings, images, tmp_path, capfd):
    state = state_of("cnn")
    ranges = []
    for number, chosen in enumerate(({}, settings)):
        artifact = build(state, images, tmp_path / str(number), **chosen)
        stored = safetensors.torch.load_file(artifact.folder / "model.safetensors")
        ranges.append(torch.cat([item.flatten() for name, item in stored.items() if name.endswith("ranges")]))
        assert near(*compared(state, artifact, images))
    assert not torch.equal(*ranges)
    assert not capfd.readouterr().out


def test_percentiles_are_those_of_the_values():
    from optlang.runtimes.torch.observers import observer

    values = torch.linspace(-1.0, 3.0, 100_000)
    looked = observer({"calibrator": "percentile", "percentile": 90.0})
    looked(values[::2])
    looked(values[1::2])
    scale, zero = looked.calculate_qparams()
    levels = 127 if overflows() else 255
    assert float(scale) * levels == pytest.approx(0.9 * 4, rel=0.01)
    assert -float(scale) * int(zero) == pytest.approx(-0.8, rel=0.05)


@pytest.mark.parametrize(("technique", "settings", "words"), [
    ("static", {"bias_correction": True}, "bias_correction = false"),
    ("dynamic", {"operators": "all"}, "no int8 kernels for convolutions"),
])
def test_settings_without_a_kernel_are_refused(technique, settings, words, images, tmp_path):
    with pytest.raises(Refusal, match=words):
        build(state_of("mlp"), images, tmp_path / "int8", technique, **settings)


def test_dynamic_of_a_convolutional_net_names_what_takes_it(images, tmp_path):
    with pytest.raises(Refusal, match=r"only \d+% of the weights") as caught:
        build(state_of("residual"), images, tmp_path / "dynamic", "dynamic")
    assert "static takes convolutions" in caught.value.help
    assert caught.value.depends == "model"
    # With other settings it may be another answer: layers that are not kept hold fewer weights.
    with pytest.raises(Refusal, match=r"no layer is left") as caught:
        build(state_of("residual"), images, tmp_path / "kept", "dynamic", keep=("head",))
    assert caught.value.depends == "settings"


@pytest.mark.parametrize("layer", [
    nn.Conv2d(48, 48, 3, padding=1, groups=48), nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
    nn.Conv2d(8, 8, 3, padding="same", dilation=2), nn.Conv1d(8, 4, 5, padding=2), nn.Conv3d(4, 4, 3),
    nn.ConvTranspose2d(8, 4, 4, stride=2, padding=1), nn.Linear(48, 20),
])
def test_kernels_compute_what_float_layers_do_with_rounded_numbers(layer):
    torch.manual_seed(0)
    axes = layer.weight.ndim - 2
    channels = getattr(layer, "in_channels", 48)
    # Large values of one sign: sums of pairs that were kept in 16 bits would overflow.
    given = torch.rand(2, channels, *[9] * axes) * 6 if axes else torch.rand(2, channels) * 6
    with torch.no_grad():
        layer.weight.copy_(torch.rand_like(layer.weight) - 0.1)
        new = getattr(int8_layers, eager_int8._kind(layer))(layer, static=True)
        new.fill(layer)
        answer = layer(given)
        low, high = min(float(answer.min()), 0.0), float(answer.max())
        step = (high - low) / 255
        new.ranges.copy_(torch.tensor([6 / 255, 0.0, step, round(-low / step)]))
        layer.weight.copy_(new.dequantized())
        rounded = torch.fake_quantize_per_tensor_affine(given, 6 / 255, 0, 0, 255)
        wanted = layer(rounded)
        int8_layers.ready(new)
        found = new(given)
    # One rounding of the answer.
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max()) < (step if axes else 1e-3 * high)


def test_a_bag_of_rows_is_summed_and_averaged_as_by_torch():
    for mode in ("sum", "mean", "max"):
        old = nn.EmbeddingBag(20, 8, mode=mode)
        new = int8_layers.Int8EmbeddingBag(old)
        with torch.no_grad():
            new.fill(old)
            old.weight.copy_(new.dequantized())
            indices, offsets = torch.tensor([1, 2, 4, 5, 4, 3]), torch.tensor([0, 3])
            int8_layers.ready(new)
            torch.testing.assert_close(new(indices, offsets), old(indices, offsets))
            torch.testing.assert_close(new(indices.reshape(2, 3)), old(indices.reshape(2, 3)))


@pytest.mark.parametrize("first", [True, False])
def test_split_attention_answers_as_torchs_own(first):
    torch.manual_seed(0)
    plain = nn.MultiheadAttention(24, 4, batch_first=first).eval()
    other = nn.MultiheadAttention(24, 4, batch_first=first, kdim=12, vdim=20, bias=False).eval()
    samples, length = 3, 5

    def values(size, count=length):
        return torch.randn((samples, count, size) if first else (count, samples, size))

    padding = torch.tensor([[False] * 4 + [True]] * samples)
    causal = torch.triu(torch.ones(length, length, dtype=torch.bool), 1)
    with torch.no_grad():
        for given in ({"key_padding_mask": padding}, {"attn_mask": causal}, {"need_weights": False}, {
            "attn_mask": torch.randn(samples * 4, length, length), "average_attn_weights": False,
        }):
            same = values(24)
            for found, wanted in zip(
                SplitAttention(plain)(same, same, same, **given), plain(same, same, same, **given), strict=True
            ):
                torch.testing.assert_close(found, wanted)
        query, key, value = values(24, 2), values(12), values(20)
        torch.testing.assert_close(SplitAttention(other)(query, key, value)[0], other(query, key, value)[0])


class Functional(nn.Module):
    """Hands the weight of one layer to a function, and asks another for its type."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, image):
        value = image.flatten(1).to(self.second.weight.dtype)
        value = nn.functional.linear(value, self.first.weight, self.first.bias)
        return self.third(self.second(value))


def test_weights_that_other_code_uses_stay_in_float(images, tmp_path):
    module = Functional()
    assert LayerCalls(module, images.bind(module).example(2)).outside == {"first"}
    done, edit, about = eager_int8.quantized(
        module, images.bind(module).example(2), Request("static", STATIC), images.bind(module)
    )
    assert about["float"] == ["first"]
    assert isinstance(done.first, nn.Linear)
    assert [name for name, _, _ in edit.arguments["layers"]] == ["second", "third"]
