"""Zeros in single weights: compared with torch's own pruning and with hand counts, and held through training."""

from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto
from torch.nn.utils import prune as reference

from optlang.interfaces import Context, QuantWants, Refusal
from optlang.techniques.prune.channels import channels
from optlang.techniques.prune.heads import heads
from optlang.techniques.prune.magnitude import magnitude
from optlang.techniques.prune.two_four import two_four
from optlang.techniques.prune.units import units
from optlang.techniques.quant.static import static
from optlang.techniques.training.finetune import finetune
from tests.techniques.states import STUDY, start


def check(state, result, data):
    assert 0.25 < result.notes["prune.sparsity"] <= 0.51


SETTINGS = {
    "sparsity": 0.5, "relative_to": "all", "scope": "layer",
    "importance": "l1", "samples": 128, "keep": (), "only": (),
}
TRAINING = {
    "epochs": 1, "lr": 3e-3, "optimizer": "adamw", "schedule": "cosine", "batch": 64, "weight_decay": 0.01,
    "momentum": 0.9, "amp": "none", "warmup": 0.0, "ema": 0.0, "label_smoothing": 0.0, "clip": 0.0, "patience": 0,
}


def run(state, data, seed=1, **changed):
    return magnitude(state, SETTINGS | changed, Context(data, seed, Path(), STUDY))


def layers(module):
    return [item for item in module.modules() if isinstance(item, torch.nn.Conv2d | torch.nn.Linear)]


def masks(module):
    return [item.weight == 0 for item in layers(module)]


class TestMagnitude:
    def test_the_same_zeros_as_torch_layer_by_layer(self, images):
        state = start("residual")
        wanted = start("residual").model
        for layer in layers(wanted):
            reference.l1_unstructured(layer, "weight", 0.7)
            reference.remove(layer, "weight")
        found = run(state, images, sparsity=0.7)
        assert all(torch.equal(one, other) for one, other in zip(masks(found.model), masks(wanted), strict=True))

    def test_the_same_zeros_as_torch_globally(self, images):
        wanted = start("residual").model
        chosen = [(layer, "weight") for layer in layers(wanted)]
        reference.global_unstructured(chosen, pruning_method=reference.L1Unstructured, amount=0.6)
        for layer, name in chosen:
            reference.remove(layer, name)
        found = run(start("residual"), images, sparsity=0.6, scope="global")
        assert all(torch.equal(one, other) for one, other in zip(masks(found.model), masks(wanted), strict=True))

    def test_counts_by_hand(self, images):
        result = run(start("mlp"), images, sparsity=0.25, keep=("5",))
        zeros = 64 * 32 // 4 + 32 * 32 // 4
        assert result.notes["prune.sparsity"] == zeros / (64 * 32 + 32 * 32 + 32 * 10)
        assert result.notes["prune.sparsity_by_layer"] == {"1": 0.25, "3": 0.25, "5": 0.0}
        assert result.notes["prune.zeros"] == ["1.weight", "3.weight"]
        assert not any(bool((item.bias == 0).any()) for item in layers(result.model))

    def test_only(self, images):
        result = run(start("mlp"), images, only=("3",))
        assert result.notes["prune.sparsity_by_layer"] == {"1": 0.0, "3": 0.5, "5": 0.0}

    @pytest.mark.parametrize("importance", ["l1", "random", "taylor"])
    def test_a_second_step_keeps_the_zeros(self, images, importance):
        once = run(start(), images, importance=importance)
        twice = run(once, images, sparsity=0.8, importance=importance, seed=2)
        for before, after in zip(masks(once.model), masks(twice.model), strict=True):
            assert bool((after | ~before).all())
            assert after.float().mean() == pytest.approx(0.8, abs=0.01)

    def test_a_share_of_what_is_left(self, images):
        found = start("mlp")
        for number in (1, 2, 3):
            found = run(found, images, sparsity=0.2, relative_to="remaining", scope="global")
            whole = sum(item.weight.numel() for item in layers(found.model))
            zeros = sum(int(mask.sum()) for mask in masks(found.model))
            assert zeros / whole == pytest.approx(1 - 0.8**number, abs=1 / whole)

    def test_fisher_is_half_of_weight_and_gradient_squared(self, images):
        # Each sample's own gradient: squares of a batch's would be others.
        state = start("mlp", width=8)
        found = run(state, images, importance="fisher", samples=40, seed=5)
        inputs, targets = next(images.batches("train", 64, seed=5, shuffle=True))
        pixels = next(iter(inputs.values()))
        module = start("mlp", width=8).model
        for index in (1, 3, 5):
            weight = module[index].weight
            squares = torch.zeros_like(weight)
            for sample in range(40):
                answer = module(pixels[sample : sample + 1])
                loss = torch.nn.functional.cross_entropy(answer, targets[sample : sample + 1])
                squares += torch.autograd.grad(loss, weight)[0] ** 2
            score = (weight**2 * squares / 40 / 2).detach().flatten()
            zeroed = (found.model[index].weight == 0).flatten()
            assert int(zeroed.sum()) == round(0.5 * weight.numel())
            assert score[zeroed].max() <= score[~zeroed].min()

    def test_taylor_spares_what_the_loss_hangs_on(self, images):
        state = start("mlp", width=8)
        with torch.no_grad():
            # The first pixel is black in every image: no gradient reaches its weights, however large.
            state.model[1].weight[:, 0] = 5.0
        left = {
            name: run(state, images, importance=name, sparsity=0.9, only=("1",)).model[1].weight[:, 0].count_nonzero()
            for name in ("l1", "taylor")
        }
        assert left == {"l1": 8, "taylor": 0}

    def test_recurrent_and_attention_layers(self, images):
        lstm = run(start("lstm"), images)
        assert lstm.notes["prune.sparsity_by_layer"] == {"embed": 0.5, "lstm": 0.5, "head": 0.5}
        encoder = run(start("encoder"), images)
        assert encoder.notes["prune.sparsity_by_layer"]["encoder.layers.0.self_attn"] == 0.5

    def test_tied_weights_are_pruned_once_and_kept_together(self, images):
        result = run(start("tied"), images)
        assert result.model.first.weight is result.model.second.weight
        assert result.notes["prune.sparsity_by_layer"] == {"first": 0.5, "head": 0.5}
        kept = run(start("tied"), images, keep=("second",))
        assert kept.notes["prune.sparsity_by_layer"] == {"first": 0.0, "head": 0.5}

    @pytest.mark.parametrize(
        ("network", "cut", "settings"),
        [("cnn", channels, {"scope": "layer", "recalibrate": 0}), ("encoder", heads, {"scope": "layer"}),
         ("lstm", units, {})],
    )
    def test_a_later_cut_counts_again(self, images, network, cut, settings):
        given = {"ratio": 0.5, "importance": "l2", "round_to": 4, "keep": (), "only": ()} | settings
        sparse = run(start(network), images, sparsity=0.7)
        result = cut(sparse, given, Context(images, 1, Path(), STUDY))
        parameters = {name: item for name, item in result.model.named_parameters() if item.ndim > 1}
        zeros = sum(int((item == 0).sum()) for item in parameters.values())
        assert result.notes["prune.sparsity"] == zeros / sum(item.numel() for item in parameters.values())
        assert result.notes["prune.sparsity"] != sparse.notes["prune.sparsity"]
        layer = "encoder.layers.1.self_attn.k_proj" if network == "encoder" else "7" if network == "cnn" else "head"
        weight = result.model.get_submodule(layer).weight
        assert result.notes["prune.sparsity_by_layer"][layer] == int((weight == 0).sum()) / weight.numel()

    def test_there_already(self, images):
        with pytest.raises(Refusal, match=r"0\.5 is there already"):
            run(run(start(), images), images)

    def test_a_layer_that_would_be_emptied(self, images):
        state = start("mlp")
        with torch.no_grad():
            state.model[3].weight *= 1e-6
        with pytest.raises(Refusal, match=r"3\.weight nothing but zeros"):
            run(state, images, scope="global", sparsity=0.6)


@pytest.mark.slow
@pytest.mark.parametrize("pruned", ["magnitude", "two_four"])
def test_zeros_outlast_training_and_int8(images, tmp_path, pruned):
    if pruned == "magnitude":
        sparse = run(start(width=32), images, sparsity=0.9)
    else:
        sparse = two_four(start(width=32), {"keep": (), "only": ()}, Context(images, 1, Path(), STUDY))
    trained = finetune(sparse, TRAINING, Context(images, 1, tmp_path, STUDY))
    for before, after, old, new in zip(
        masks(sparse.model), masks(trained.model), layers(sparse.model), layers(trained.model), strict=True
    ):
        assert bool((after | ~before).all())
        assert not torch.equal(old.weight, new.weight)
    wants = QuantWants("uint8", "int8", False, True, True)
    settings = {
        "calibrator": "minmax", "percentile": None, "bins": None, "samples": 64, "granularity": "auto",
        "bias_correction": False, "keep": (), "only": (),
    }
    small = static(trained, settings, Context(images, 1, tmp_path / "int8", STUDY, wants))
    eight = [
        onnx.numpy_helper.to_array(item) for item in onnx.load(small.model).graph.initializer
        if item.data_type == TensorProto.INT8 and len(item.dims) > 1
    ]
    assert sum(int((item == 0).sum()) for item in eight) >= sum(int(item.sum()) for item in masks(trained.model))
