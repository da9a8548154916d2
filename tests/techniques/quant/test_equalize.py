"""Cross-layer equalization: the paper's own formulas, the same answers, what int8 with one scale a tensor gains."""

import copy

import numpy
import onnxruntime
import pytest
import torch
from torch import nn

from optlang.interfaces import Context, Factory, ModelState, Refusal
from optlang.runtimes.onnxruntime.build import OnnxRuntime
from optlang.techniques.quant.equalize import equalize
from optlang.techniques.quant.static import static
from optlang.techniques.training.train import train
from optlang.workload.data import dataset as data_module
from tests.techniques.states import STUDY, start

REFUSES = {"lstm": "Select is before head", "tied": "weights of second or first"}

TENSOR = {
    "calibrator": "minmax", "percentile": None, "bins": None, "samples": 256, "granularity": "tensor",
    "bias_correction": False, "keep": (), "only": (),
}
TRAINING = {
    "epochs": 6, "lr": 5e-3, "optimizer": "adamw", "schedule": "cosine", "batch": 64, "weight_decay": 0.01,
    "amp": "none", "warmup": 0.0, "ema": 0.0, "label_smoothing": 0.0, "clip": 0.0, "patience": 0,
}


@pytest.fixture(scope="module")
def images():
    return data_module.load(Factory("networks.py:images", {"count": 800}), STUDY)


def run(state, data):
    return equalize(state, {}, Context(data, 1, STUDY, STUDY))


def answers(module, data):
    pixels = torch.from_numpy(data.arrays("validation")[0]["input"])
    with torch.no_grad():
        return module(pixels)


def moved(module, pairs, seed=1):
    """Channels scaled by powers of 2 from 1/16 to 16 and back in the next layer: the same answers, uneven ranges."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for first, second in pairs:
            one, other = module.get_submodule(first), module.get_submodule(second)
            factor = 2.0 ** torch.randint(-4, 5, (len(one.weight),), generator=generator)
            one.weight.mul_(factor.reshape(-1, *[1] * (one.weight.ndim - 1)))
            if one.bias is not None:
                one.bias.mul_(factor)
            back = 1 / factor.repeat_interleave(other.weight.shape[1] // len(factor) or 1)
            if getattr(other, "groups", 1) > 1:
                other.weight.mul_(back.reshape(-1, 1, 1, 1))
            else:
                other.weight.mul_(back.reshape(1, -1, *[1] * (other.weight.ndim - 2)))


def test_ranges_of_a_pair_meet_at_their_geometric_mean(images):
    state = start("dropping")
    moved(state.model, [("1", "4")])
    first, second = (state.model.get_submodule(name).weight.detach().numpy().copy() for name in ("1", "4"))
    r1, r2 = numpy.abs(first).max(axis=1), numpy.abs(second).max(axis=0)
    result = run(state, images)
    s = numpy.sqrt(r1 / r2)
    assert numpy.allclose(result.model[1].weight.detach().numpy(), first / s[:, None], rtol=1e-4)
    assert numpy.allclose(result.model[4].weight.detach().numpy(), second * s[None], rtol=1e-4)
    assert result.notes["equalize.pairs"] == 1
    assert result.notes["equalize.spread"][0] > 5


def test_a_depthwise_layer_between_two_shares_one_range_with_both(images):
    """Nagel et al., 2019, appendix A: the three ranges of a channel meet at their cubic root."""
    module = start("separable").model
    last = module[6].weight.detach().abs().amax((0, 2, 3))
    ranges = [
        torch.nn.utils.fusion.fuse_conv_bn_eval(module[layer], module[layer + 1]).weight.detach().abs().amax((1, 2, 3))
        for layer in (0, 3)
    ]
    wanted = (ranges[0] * ranges[1] * last) ** (1 / 3)
    short = nn.Sequential(*module[:7], nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    result = run(ModelState("module", short, Factory("x:y")), images)
    assert result.notes["equalize.pairs"] == 2
    for layer, others in ((0, (1, 2, 3)), (3, (1, 2, 3)), (6, (0, 2, 3))):
        assert torch.allclose(result.model[layer].weight.detach().abs().amax(others), wanted, rtol=5e-3)


class Net(nn.Module):
    def __init__(self, first, between, second):
        super().__init__()
        self.first, self.between, self.second = first, between, second

    def forward(self, image):
        return self.second(self.between(self.first(image))).flatten(1)[:, :10]


PAIRS = {
    "grouped": (nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3, groups=4)),
    "grouped_first": (nn.Conv2d(1, 8, 3), nn.LeakyReLU(0.1), nn.Conv2d(8, 8, 3, groups=2, bias=False)),
    "transposed": (nn.ConvTranspose2d(1, 8, 2, stride=2), nn.ReLU(), nn.Conv2d(8, 4, 3)),
    "to_transposed": (nn.Conv2d(1, 8, 3), nn.AvgPool2d(2), nn.ConvTranspose2d(8, 12, 2, stride=2, groups=4)),
    "flat": (nn.Conv2d(1, 8, 3), nn.Sequential(nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()), nn.Linear(72, 12)),
    "nothing": (nn.Conv2d(1, 8, 3), nn.Identity(), nn.Conv2d(8, 4, 1)),
    "pixels": (nn.Conv2d(1, 8, 3).to(memory_format=torch.channels_last), nn.ReLU(),
               nn.Conv2d(8, 4, 3).to(memory_format=torch.channels_last)),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_kinds_of_layers_and_of_what_is_between_them(images, kind):
    torch.manual_seed(1)
    module = Net(*copy.deepcopy(PAIRS[kind])).eval()
    moved_by = 2.0 ** torch.arange(-3, 5).float()
    with torch.no_grad():
        axis = 1 if kind == "transposed" else 0
        module.first.weight.mul_(moved_by.reshape([-1 if index == axis else 1 for index in range(4)]))
        module.first.bias.mul_(moved_by)
    before = answers(module, images)
    result = run(ModelState("module", module, Factory("x:y")), images)
    assert torch.allclose(answers(result.model, images), before, rtol=1e-4, atol=1e-4 * float(before.abs().max()))
    first = result.model.first.weight.detach()
    second = result.model.second.weight.detach()
    ranges = first.abs().amax([index for index in range(4) if index != axis])
    groups = getattr(result.model.second, "groups", 1)
    per = 8 // groups
    for channel in range(8):
        if kind == "flat":
            own = second[:, 9 * channel : 9 * channel + 9]
        elif kind == "to_transposed":
            own = second[channel]
        else:
            group, place = divmod(channel, per)
            size = len(second) // groups
            own = second[group * size : (group + 1) * size, place]
        assert float(own.abs().max()) == pytest.approx(float(ranges[channel]), rel=2e-3)


@pytest.mark.parametrize(("between", "reason"), [
    (nn.ReLU6(), "ReLU6"), (nn.GELU(), "Gelu"), (nn.BatchNorm2d(8, track_running_stats=False), "BatchNorm is"),
])
def test_what_is_not_homogeneous_is_no_pair(images, between, reason):
    module = Net(nn.Conv2d(1, 8, 3), between, nn.Conv2d(8, 4, 3)).eval()
    with pytest.raises(Refusal, match=f"no two layers.*{reason}"):
        run(ModelState("module", module, Factory("x:y")), images)


def test_what_something_else_takes_too_is_no_pair(images):
    class Both(Net):
        def forward(self, image):
            found = torch.relu(self.first(image))
            return self.second(found).flatten(1)[:, :10] + found.flatten(1)[:, :10]

    torch.manual_seed(1)
    module = Both(nn.Conv2d(1, 8, 3), nn.Identity(), nn.Conv2d(8, 4, 3)).eval()
    with pytest.raises(Refusal, match="something else takes what first gives"):
        run(ModelState("module", module, Factory("x:y")), images)


def test_twice_is_once(images):
    once = run(start("mlp"), images)
    with pytest.raises(Refusal, match="equal ranges already"):
        run(once, images)


@pytest.mark.slow
def test_int8_of_one_scale_a_tensor_gains(images, tmp_path):
    state = train(start("separable"), TRAINING, Context(images, 1, tmp_path, STUDY))
    wanted = answers(state.model, images)
    # The norms behind the layers take the scales on: what is moved are the layers they are folded into.
    folded = run(state, images)
    moved(folded.model, [("0", "3"), ("3", "6"), ("6", "11")])
    assert torch.allclose(answers(folded.model, images), wanted, atol=1e-3)
    again = run(folded, images)
    assert again.notes["equalize.spread"][0] > 4 > 2 > again.notes["equalize.spread"][1]
    assert torch.allclose(answers(again.model, images), wanted, atol=1e-3)
    labels = images.arrays("validation")[1]
    found = {}
    for name, item in (("uneven", folded), ("equalized", again)):
        context = Context(images, 1, tmp_path / name, STUDY, OnnxRuntime().wants())
        result = static(item, TENSOR, context)
        session = onnxruntime.InferenceSession(str(result.model), providers=["CPUExecutionProvider"])
        pixels = images.arrays("validation")[0]["input"]
        given = session.run(None, {session.get_inputs()[0].name: pixels})[0]
        found[name] = images.task.metrics(given, labels)["accuracy"]
    plain = images.task.metrics(wanted.numpy(), labels)["accuracy"]
    assert plain > 0.9
    assert found["uneven"] < plain - 0.1
    assert found["equalized"] > plain - 0.03
