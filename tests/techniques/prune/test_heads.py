"""Attention heads: the same answers as the whole layer with those heads silenced, real savings, and the way to disk."""

import copy
import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import nn

from optlang.interfaces import Context, Factory, ModelState, OptlangError, Refusal
from optlang.techniques.prune.attention import narrowed
from optlang.techniques.prune.channels import channels
from optlang.techniques.prune.heads import heads
from optlang.techniques.prune.magnitude import magnitude
from optlang.techniques.training.finetune import finetune
from optlang.workload.data import dataset as data_module
from optlang.workload.export.onnx import export
from optlang.workload.model.count import macs
from optlang.workload.model.make import make
from optlang.workload.model.save import load, save
from tests.techniques.states import NETWORKS


def check(state, result, data):
    assert result.notes["prune.removed_heads"] == pytest.approx(0.5)


REFUSES = {item: "the model computes no attention" for item in NETWORKS if item != "encoder"}
REFUSES["rows"] = "it has one head"

STUDY = Path(__file__).parents[2] / "fixtures" / "models"
SETTINGS = {"ratio": 0.5, "importance": "l2", "samples": 64, "scope": "layer", "keep": (), "only": ()}
TRAINING = {
    "epochs": 1, "lr": 3e-3, "optimizer": "adamw", "schedule": "cosine", "batch": 64, "weight_decay": 0.01,
    "momentum": 0.9, "amp": "none", "warmup": 0.0, "ema": 0.0, "label_smoothing": 0.0, "clip": 0.0, "patience": 0,
}
FIRST, SECOND = "encoder.layers.0.self_attn", "encoder.layers.1.self_attn"
WIDTH = 8
"""Of a head: 32 numbers in four heads."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lines():
    return data_module.load(Factory("optlang.zoo.transformer:digit_lines"), STUDY)


def start(name="networks.py:encoder", **arguments):
    factory = Factory(name, arguments)
    return ModelState("module", make(factory, STUDY), factory)


def run(state, data, seed=1, **changed):
    return heads(state, SETTINGS | changed, Context(data, seed, Path(), STUDY))


def silenced(module, left):
    """The module with the other heads' columns in the output projections at zero."""
    module = copy.deepcopy(module)
    for name, chosen in left.items():
        layer = module.get_submodule(name)
        for head in set(range(layer.num_heads)) - set(chosen):
            with torch.no_grad():
                layer.out_proj.weight[:, head * WIDTH : (head + 1) * WIDTH] = 0.0
    return module


def close(one, other):
    return torch.allclose(one, other, atol=2e-6)


class TestLayer:
    """`NarrowAttention` beside torch's own layer."""

    @pytest.mark.parametrize(
        "made", [{}, {"batch_first": True}, {"bias": False}, {"kdim": 12, "vdim": 20}], ids=lambda made: " ".join(made)
    )
    @pytest.mark.parametrize("weights", [False, True])
    @pytest.mark.parametrize("mask", ["none", "places", "heads", "numbers"])
    def test_the_same_as_silenced_heads(self, made, weights, mask):
        torch.manual_seed(0)
        layer = nn.MultiheadAttention(32, 4, **made).eval()
        narrow = narrowed(layer, [0, 3])
        reference = silenced(nn.ModuleDict({"layer": layer}), {"layer": [0, 3]})["layer"]
        inputs = [torch.randn(5, 7, 32), torch.randn(5, 9, layer.kdim), torch.randn(5, 9, layer.vdim)]
        inputs = inputs if layer.batch_first else [item.transpose(0, 1) for item in inputs]
        masks = {
            "none": None, "places": torch.rand(7, 9) > 0.7, "heads": torch.rand(20, 7, 9) > 0.7,
            "numbers": torch.randn(7, 9),
        }
        chosen = masks[mask]
        if chosen is not None and chosen.dtype == torch.bool:
            chosen[..., 0] = False  # what sees nothing has no answer
        padding = torch.arange(9)[None, :] >= torch.tensor([9, 6, 9, 3, 9])[:, None]
        padding = padding if chosen is None or chosen.dtype == torch.bool else padding.float() * -1e9
        given = {"attn_mask": chosen, "key_padding_mask": padding, "need_weights": weights}
        wanted, found = reference(*inputs, **given), narrow(*inputs, **given)
        assert close(found[0], wanted[0])
        assert (found[1] is None) == (wanted[1] is None)
        if weights:
            each = reference(*inputs, **given, average_attn_weights=False)[1][:, [0, 3]]
            assert close(narrow(*inputs, **given, average_attn_weights=False)[1], each)
            assert close(found[1], each.mean(1))

    def test_without_a_batch(self):
        layer = nn.MultiheadAttention(32, 4, batch_first=True).eval()
        x = torch.randn(6, 32)
        found = narrowed(layer, [1])(x, x, x)
        wanted = narrowed(layer, [1])(x[None], x[None], x[None])
        assert close(found[0], wanted[0][0])
        assert found[1].shape == (6, 6)

    def test_all_heads_are_the_whole_layer_in_training_too(self):
        layer = nn.MultiheadAttention(32, 4, dropout=0.5, batch_first=True).train()
        x = torch.randn(3, 6, 32)
        answers = []
        for item in (layer, narrowed(layer, range(4))):
            torch.manual_seed(3)
            answers.append(item(x, x, x)[0])
        assert close(*answers)

    def test_a_causal_hint_needs_its_mask(self):
        layer = narrowed(nn.MultiheadAttention(32, 4), [0])
        with pytest.raises(RuntimeError, match="attn_mask"):
            layer(*[torch.zeros(2, 1, 32)] * 3, is_causal=True)

    def test_frozen_stays_frozen(self):
        layer = nn.MultiheadAttention(32, 4)
        layer.in_proj_weight.requires_grad_(False)
        with torch.no_grad():  # in which slices of parameters never ask for gradients
            found = {name: item.requires_grad for name, item in narrowed(layer, [2]).named_parameters()}
        assert [name for name, trained in found.items() if not trained] == [f"{x}_proj.weight" for x in "qkv"]


class TestModel:
    def test_half_of_an_encoder(self, images):
        state = start()
        result = run(state, images)
        left = result.edits[0].arguments["heads"]
        assert {name: len(chosen) for name, chosen in left.items()} == {FIRST: 2, SECOND: 2}
        inputs = images.example(9)["input"]
        with torch.no_grad():
            assert close(result.model(inputs), silenced(state.model, left)(inputs))
            assert not close(result.model(inputs), state.model(inputs))
        # Two heads of eight: rows and biases of three projections, columns of the one behind.
        gone = 2 * 2 * WIDTH * (3 * (32 + 1) + 32)
        before, after = (sum(p.numel() for p in item.model.parameters()) for item in (state, result))
        assert before - after == gone
        assert result.notes["prune.removed_parameters"] == pytest.approx(gone / before)
        assert result.notes["prune.removed_heads"] == 0.5
        assert result.notes["prune.heads"] == {FIRST: 2, SECOND: 2}
        # Eight places: four projections, and two products of places with places.
        saved = 2 * 2 * WIDTH * (4 * 8 * 32 + 2 * 8 * 8)
        example = images.bind(state.model).example(1)
        assert macs(state.model, example) - macs(result.model, example) == saved

    @pytest.mark.parametrize(("ratio", "left"), [(0.2, 3), (0.3, 3), (0.4, 2), (0.6, 2), (0.7, 1), (0.95, 1)])
    def test_the_nearest_number_of_heads(self, images, ratio, left):
        assert set(run(start(), images, ratio=ratio).notes["prune.heads"].values()) == {left}

    def test_global_takes_the_least_anywhere_and_leaves_one(self, images):
        state = start()
        with torch.no_grad():
            state.model.encoder.layers[1].self_attn.in_proj_weight.mul_(0.1)
        assert run(state, images, scope="global").notes["prune.heads"] == {FIRST: 3, SECOND: 1}

    def test_keep_and_only(self, images):
        assert run(start(), images, keep=(FIRST,)).notes["prune.heads"] == {FIRST: 4, SECOND: 2}
        assert run(start(), images, only=(FIRST,)).notes["prune.heads"] == {FIRST: 2, SECOND: 4}

    def test_padding_and_nested_batches(self, lines):
        # norm_first = False and an encoder that would make ragged batches of the padded ones.
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.embed, self.head = nn.Linear(8, 32), nn.Linear(32, 10)
                self.encoder = nn.TransformerEncoder(layer, 2)

            def forward(self, columns, padded):
                return self.head(self.encoder(self.embed(columns), src_key_padding_mask=padded))

        state = ModelState("module", Net().eval(), Factory("unused:here"))
        result = run(state, lines)
        inputs = lines.example(20)
        reference = silenced(state.model, result.edits[0].arguments["heads"]).train()  # no kernels of their own
        for item in reference.modules():
            if isinstance(item, nn.Dropout):
                item.p = 0.0
        for block in reference.encoder.layers:
            block.self_attn.dropout = 0.0
        seen = ~inputs["padded"]
        with torch.no_grad():
            assert close(result.model(**inputs)[seen], reference(**inputs)[seen])

    def test_a_decoder_with_both_kinds_of_attention(self, images):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.embed, self.head = nn.Linear(8, 32), nn.Linear(32, 10)
                self.decoder = nn.TransformerDecoderLayer(32, 4, 64, batch_first=True)

            def forward(self, image):
                rows = self.embed(image[:, 0])
                return self.head(self.decoder(rows, rows.flip(1), tgt_is_causal=False).mean(1))

        state = ModelState("module", Net().eval(), Factory("unused:here"))
        result = run(state, images)
        inputs = images.example(5)["input"]
        left = result.edits[0].arguments["heads"]
        assert list(left) == ["decoder.self_attn", "decoder.multihead_attn"]
        assert close(result.model(inputs), silenced(state.model, left)(inputs))


class TestImportance:
    def test_norms(self, images):
        state = start()
        with torch.no_grad():
            layer = state.model.encoder.layers[0].self_attn
            layer.in_proj_weight[32 + WIDTH : 32 + 2 * WIDTH] *= 0.01  # the second head's keys
            layer.out_proj.weight[:, 3 * WIDTH :] *= 0.01
        assert run(state, images, only=(FIRST,)).edits[0].arguments["heads"] == {FIRST: [0, 2]}

    def test_random_follows_the_seed(self, images):
        one, same, other = (run(start(), images, seed=seed, importance="random").edits for seed in (1, 1, 3))
        assert one == same != other

    @pytest.mark.parametrize("scope", ["layer", "global"])
    def test_taylor_is_the_gradient_of_gates(self, images, scope):
        state = start()
        result = run(state, images, importance="taylor", scope=scope, samples=64, seed=5)
        inputs, targets = next(images.batches("train", 64, seed=5, shuffle=True))
        pixels = next(iter(inputs.values()))
        module = start().model
        layers = [block.self_attn for block in module.encoder.layers]
        # The gates of Michel et al., as a factor of each head's columns, sample by sample.
        gates = torch.ones(2, 4, requires_grad=True)
        names = [f"{name}.out_proj.weight" for name in (FIRST, SECOND)]
        weights = [layer.out_proj.weight.detach() for layer in layers]
        scores = torch.zeros(2, 4)
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            for index in range(64):
                columns = gates.repeat_interleave(WIDTH, dim=1)
                gated = {name: weights[layer] * columns[layer] for layer, name in enumerate(names)}
                answer = torch.func.functional_call(module, gated, (pixels[index : index + 1],))
                loss = nn.functional.cross_entropy(answer, targets[index : index + 1])
                scores += torch.autograd.grad(loss, gates)[0].abs()
        finally:
            torch.backends.mha.set_fastpath_enabled(True)
        if scope == "layer":
            wanted = scores.topk(2, dim=1).indices.sort(1).values.tolist()
        else:
            kept = scores >= scores.flatten().sort().values[4]
            wanted = [row.nonzero().flatten().tolist() for row in kept]
        left = result.edits[0].arguments["heads"]
        assert [left.get(name, [0, 1, 2, 3]) for name in (FIRST, SECOND)] == wanted


class TestAfterwards:
    def test_twice_from_disk(self, images, tmp_path):
        twice = run(run(start(), images, ratio=0.25), images, ratio=0.34)
        assert twice.notes["prune.heads"] == {FIRST: 2, SECOND: 2}
        assert twice.notes["prune.removed_heads"] == pytest.approx(0.5)
        assert json.loads(json.dumps([asdict(item) for item in twice.edits])) == [asdict(item) for item in twice.edits]
        save(twice, tmp_path)
        loaded = load(tmp_path, STUDY)
        inputs = images.example(4)["input"]
        assert torch.equal(loaded.model(inputs), twice.model(inputs))
        assert loaded.model.encoder.layers[0].self_attn.heads == twice.model.encoder.layers[0].self_attn.heads

    def test_learns_on_and_exports(self, images, tmp_path):
        context = Context(images, 1, tmp_path, STUDY)
        result = finetune(run(start(), images), TRAINING, context)
        export(result, images.bind(result.model), tmp_path / "model.onnx", STUDY)  # compares the answers itself

    def test_with_channels_on_either_side(self, images, tmp_path):
        context = Context(images, 1, tmp_path, STUDY)
        cut = {
            "ratio": 0.5, "importance": "l2", "samples": None, "scope": "layer", "round_to": 4, "keep": (), "only": (),
            "recalibrate": 0,
        }
        thin = channels(run(start(), images), cut, context)
        layer = thin.model.encoder.layers[0].self_attn
        assert (layer.embed_dim, layer.q_proj.in_features, layer.q_proj.out_features) == (16, 16, 2 * WIDTH)
        other = run(channels(start(), cut, context), images)
        layer = other.model.encoder.layers[0].self_attn
        assert (layer.embed_dim, layer.q_proj.in_features, layer.q_proj.out_features) == (16, 16, WIDTH)
        for number, item in enumerate((thin, other)):
            save(item, tmp_path / str(number))
            inputs = images.example(4)["input"]
            assert torch.equal(load(tmp_path / str(number), STUDY).model(inputs), item.model(inputs))

    def test_zeros_stay_meant(self, images, tmp_path):
        context = Context(images, 1, tmp_path, STUDY)
        zeroed = {
            "sparsity": 0.5, "relative_to": "all", "scope": "layer", "importance": "l1", "samples": None, "keep": (),
            "only": (FIRST,),
        }
        result = finetune(run(magnitude(start(), zeroed, context), images, only=(FIRST,)), TRAINING, context)
        layer = result.model.encoder.layers[0].self_attn
        zeros = sum(int((getattr(layer, f"{name}_proj").weight == 0).sum()) for name in "qkv")
        assert zeros > 0.3 * 3 * layer.q_proj.weight.numel()


class TestRefusal:
    def test_no_head_to_spare(self, images):
        with pytest.raises(Refusal, match=f"{FIRST} has 4"):
            run(start(), images, ratio=0.1)

    def test_a_misspelt_layer(self, images):
        with pytest.raises(OptlangError, match="encodre"):
            run(start(), images, only=("encodre",))

    def test_keys_of_its_own(self, images):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.attention = nn.MultiheadAttention(8, 2, add_bias_kv=True, batch_first=True)

            def forward(self, image):
                return self.attention(*[image[:, 0]] * 3)[0].mean(1)

        with pytest.raises(Refusal, match="attention: it adds a key"):
            run(ModelState("module", Net().eval(), Factory("unused:here")), images)

    def test_code_that_looks_inside(self, images):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

            def forward(self, image):
                return self.attention(*[image[:, 0] * self.attention.in_proj_weight.mean()] * 3)[0].mean(1)

        with pytest.raises(Refusal, match="in_proj_weight"):
            run(ModelState("module", Net().eval(), Factory("unused:here")), images)
