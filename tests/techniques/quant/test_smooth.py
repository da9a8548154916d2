"""SmoothQuant: the paper's formula, the same answers, which norms can take a scale, what int8 gains by it."""

from pathlib import Path

import numpy
import onnxruntime
import pytest
import torch
from torch import nn

from optlang.interfaces import Context, Factory, ModelState, Refusal
from optlang.runtimes.onnxruntime.build import OnnxRuntime
from optlang.techniques.quant.smooth import smooth
from optlang.techniques.quant.static import static
from optlang.workload.model.make import make
from tests.techniques.states import NETWORKS

REFUSES = {item: "no LayerNorm and no RMSNorm" for item in NETWORKS if item not in ("rows", "encoder")}
# Its norms are last: the residuals take what they give too.
REFUSES["encoder"] = "something else takes what encoder.layers.0.norm1 gives"

STUDY = Path(__file__).parents[2] / "fixtures" / "models"
STATIC = {
    "calibrator": "minmax", "percentile": None, "bins": None, "samples": 256, "granularity": "auto",
    "bias_correction": False, "keep": (), "only": (),
}


def start(network="rows", **arguments):
    torch.manual_seed(1)
    factory = Factory(f"networks.py:{network}", arguments)
    return ModelState("module", make(factory, STUDY), factory)


def run(state, data, alpha=0.5, samples=400):
    return smooth(state, {"alpha": alpha, "samples": samples}, Context(data, 1, STUDY, STUDY))


def answers(module, data, part="validation"):
    with torch.no_grad():
        return module(torch.from_numpy(data.arrays(part)[0]["input"]))


def with_outliers(module, channels=(3, 17), by=60.0):
    """As in large Transformers: a few channels behind each norm far wider than the others, the answers the same."""
    with torch.no_grad():
        for norm, layers in ((module.norm, (module.query, module.key, module.value)), (module.last, (module.wide,))):
            for channel in channels:
                norm.weight[channel] *= by
                norm.bias[channel] *= by
                for layer in layers:
                    layer.weight[:, channel] /= by


class Block(nn.Module):
    """An encoder layer of torch's over an image's rows, and whatever `last` is."""

    def __init__(self, first, last):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=first)
        self.last, self.head = last, nn.Linear(8, 10)

    def forward(self, image):
        return self.head(self.last(self.layer(image[:, 0]))[:, 0])


def block(first=True, last=None):
    torch.manual_seed(1)
    return ModelState("module", Block(first, last or nn.LayerNorm(8)).eval(), Factory("x:y"))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.8])
def test_the_papers_scales(images, alpha):
    state = start()
    with_outliers(state.model)
    taken = {}
    for name in ("query", "wide"):
        def keep(_, given, name=name):
            taken[name] = given[0].numpy()

        state.model.get_submodule(name).register_forward_pre_hook(keep)
    before = answers(state.model, images, "train")
    for layer in (state.model.query, state.model.wide):
        layer._forward_pre_hooks.clear()
    result = run(state, images, alpha)
    old, new = state.model, result.model
    for norm, first, layers in (("norm", "query", ("query", "key", "value")), ("last", "wide", ("wide",))):
        reached = numpy.abs(taken[first]).reshape(-1, 32).max(axis=0)
        held = numpy.max([
            numpy.abs(old.get_submodule(name).weight.detach().numpy()).max(axis=0) for name in layers
        ], axis=0)
        s = torch.from_numpy(reached**alpha / held ** (1 - alpha))
        assert torch.allclose(new.get_submodule(norm).weight, old.get_submodule(norm).weight / s, rtol=1e-4)
        for name in layers:
            wanted = old.get_submodule(name).weight * s
            assert torch.allclose(new.get_submodule(name).weight, wanted, rtol=1e-4, atol=1e-7)
    assert torch.allclose(answers(new, images, "train"), before, rtol=1e-4, atol=1e-5)
    assert result.notes["smooth.norms"] == 2
    assert result.notes["smooth.left"] == []
    if alpha:
        assert result.notes["smooth.spread"][1] < result.notes["smooth.spread"][0]


def test_torchs_own_layer_with_its_norms_first(images):
    state = block()
    with torch.no_grad():
        for norm in (state.model.layer.norm1, state.model.layer.norm2, state.model.last):
            norm.weight.copy_(torch.rand(8) * 9 + 1)
            norm.bias.copy_(torch.randn(8))
    result = run(state, images)
    assert result.notes["smooth.norms"] == 3
    assert torch.allclose(answers(result.model, images), answers(state.model, images), rtol=1e-3, atol=1e-4)
    spread = result.model.layer.self_attn.in_proj_weight.abs().amax(0) / result.model.layer.norm1.weight.abs()
    assert not torch.allclose(spread, torch.ones(8))
    assert not torch.equal(result.model.layer.self_attn.in_proj_weight, state.model.layer.self_attn.in_proj_weight)


def test_norms_last_cannot_take_a_scale(images):
    with pytest.raises(Refusal, match=r"something else takes what layer\.norm1 gives: a residual") as error:
        run(block(first=False, last=nn.Tanh()), images)
    assert "norm_first" in error.value.help


def test_what_stays_is_noted(images):
    result = run(block(first=False), images)
    assert result.notes["smooth.norms"] == 1
    assert result.notes["smooth.left"] == ["layer.norm1", "layer.norm2"]


def test_a_norm_without_a_scale(images):
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.head = nn.LayerNorm(64, elementwise_affine=False), nn.Linear(64, 10)

        def forward(self, image):
            return self.head(self.norm(image.flatten(1)))

    with pytest.raises(Refusal, match="norm has no scale for each channel"):
        run(ModelState("module", Plain().eval(), Factory("x:y")), images)


def test_an_rms_norm_takes_one(images):
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.RMSNorm(16), nn.Linear(16, 10)).eval()
    result = run(ModelState("module", module, Factory("x:y")), images)
    assert torch.allclose(answers(result.model, images), answers(module, images), rtol=1e-4, atol=1e-5)
    assert not torch.equal(result.model[2].weight, module[2].weight)


def test_attention_to_something_else(images):
    class Cross(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.LayerNorm(8)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.head = nn.Linear(8, 10)

        def forward(self, image):
            rows = image[:, 0]
            return self.head(self.attention(self.norm(rows), rows, rows, need_weights=False)[0][:, 0])

    with pytest.raises(Refusal, match="no activations can be smoothed"):
        run(ModelState("module", Cross().eval(), Factory("x:y")), images)


@pytest.mark.slow
def test_int8_of_activations_with_outliers_gains(images, tmp_path):
    state = start()
    with_outliers(state.model)
    smoothed = run(state, images)
    wanted = answers(state.model, images).numpy()
    pixels = images.arrays("validation")[0]["input"]
    off = []
    for name, item in (("uneven", state), ("smoothed", smoothed)):
        result = static(item, STATIC, Context(images, 1, tmp_path / name, STUDY, OnnxRuntime().wants()))
        session = onnxruntime.InferenceSession(str(result.model), providers=["CPUExecutionProvider"])
        found = session.run(None, {session.get_inputs()[0].name: pixels})[0]
        off.append(float(numpy.abs(found - wanted).mean()))
    assert off[1] < 0.4 * off[0]


def test_a_layer_across_the_samples_rows_leaves_its_norm_as_it_is(images):
    class Mixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.first, self.last = nn.Linear(8, 12), nn.LayerNorm(12), nn.LayerNorm(12)
            self.tokens, self.channels, self.head = nn.Linear(8, 8), nn.Linear(12, 12), nn.Linear(12, 10)

        def forward(self, image):
            rows = self.embed(image[:, 0])
            rows = rows + self.tokens(self.first(rows).transpose(1, 2)).transpose(1, 2)
            rows = rows + self.channels(self.last(rows))
            return self.head(rows.mean(1))

    torch.manual_seed(0)
    state = ModelState("module", Mixer(), Factory("any:Mixer"))
    result = run(state, images)
    assert (result.notes["smooth.norms"], result.notes["smooth.left"]) == (1, ["first"])
    assert torch.allclose(answers(result.model, images), answers(state.model, images), rtol=1e-3, atol=1e-4)
