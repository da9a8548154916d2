"""Weights set back: zeros and cuts stay, the rest is the earlier state's to the bit."""

from dataclasses import asdict
from pathlib import Path

import pytest
import safetensors.torch
import torch

from optlang.interfaces import Context, Factory, ModelState, Refusal
from optlang.techniques.prune.channels import channels
from optlang.techniques.prune.heads import heads
from optlang.techniques.prune.magnitude import magnitude
from optlang.techniques.prune.rewind import rewind
from optlang.techniques.prune.two_four import two_four
from optlang.techniques.training.finetune import finetune
from optlang.workload.model.make import make
from optlang.workload.model.weights import parameters
from tests.techniques.contract import apply


def begin(state, data, folder):
    """Pruned and trained: what a rewind sets back."""
    return apply("training.finetune", apply("prune.magnitude", state, data, folder), data, folder)


STUDY = Path(__file__).parents[2] / "fixtures" / "models"
SETTINGS = {"checkpoint": None, "to": "start"}
SPARSE = {
    "sparsity": 0.5, "relative_to": "all", "scope": "layer",
    "importance": "l1", "samples": None, "keep": (), "only": (),
}
CUT = {
    "ratio": 0.5, "importance": "l2", "samples": None, "scope": "layer", "round_to": 4, "keep": (), "only": (),
    "recalibrate": 0,
}
FEWER = {"ratio": 0.5, "importance": "random", "samples": None, "scope": "layer", "keep": (), "only": ()}
TRAINING = {
    "epochs": 1, "lr": 3e-3, "optimizer": "adamw", "schedule": "cosine", "batch": 64, "weight_decay": 0.01,
    "momentum": 0.9, "amp": "none", "warmup": 0.0, "ema": 0.0, "label_smoothing": 0.0, "clip": 0.0, "patience": 0,
}

pytestmark = pytest.mark.slow


def start(network="cnn", weights=None, **arguments):
    factory = Factory(f"networks.py:{network}", arguments, weights)
    return ModelState("module", make(factory, STUDY), factory)


def context(data, baseline=None):
    return Context(data, 1, Path(), STUDY, baseline=(lambda: baseline) if baseline else None)


def trained(state, data):
    return finetune(state, TRAINING, context(data))


def back(state, data, baseline=None, **changed):
    return rewind(state, SETTINGS | changed, context(data, baseline))


def same(one, other):
    one, other = one.model.state_dict(), other.model.state_dict()
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


class TestStates:
    @pytest.mark.parametrize("prune", [magnitude, two_four])
    def test_the_beginning_under_the_zeros(self, images, prune):
        pruned = trained(prune(trained(start(), images), SPARSE, context(images)), images)
        result = back(pruned, images)
        fresh = start().model.state_dict()
        masks = {f"{index}.weight": pruned.model[index].weight == 0 for index in (0, 2, 7)}
        assert sum(int(mask.sum()) for mask in masks.values()) > 0.4 * sum(mask.numel() for mask in masks.values())
        for name, item in result.model.state_dict().items():
            # Biases, norms and their running statistics too.
            wanted = fresh[name].masked_fill(masks[name], 0.0) if name in masks else fresh[name]
            assert torch.equal(item, wanted)
        assert result.notes == pruned.notes
        again = trained(result, images).model
        assert all(torch.equal(again[index].weight == 0, masks[f"{index}.weight"]) for index in (0, 2, 7))

    def test_the_baseline(self, images):
        baseline = trained(start(), images)
        pruned = magnitude(baseline, SPARSE, context(images))
        assert same(back(trained(pruned, images), images, baseline, to="baseline"), pruned)

    def test_weights_of_a_file_are_the_beginning(self, images, tmp_path):
        known = trained(start(), images)
        safetensors.torch.save_file(parameters(known.model), tmp_path / "known.safetensors")
        state = start(weights=str(tmp_path / "known.safetensors"))
        pruned = magnitude(state, SPARSE, context(images))
        assert same(back(trained(pruned, images), images), pruned)

    def test_a_checkpoint(self, images, tmp_path):
        early = trained(start(), images)
        safetensors.torch.save_file(parameters(early.model), tmp_path / "early.safetensors")
        checkpoint = asdict(Factory("networks.py:cnn", {}, str(tmp_path / "early.safetensors")))
        pruned = magnitude(trained(early, images), SPARSE, context(images))
        result = back(pruned, images, checkpoint=checkpoint)
        mask = pruned.model[2].weight == 0
        assert torch.equal(result.model[2].weight, early.model[2].weight.masked_fill(mask, 0.0))
        assert torch.equal(result.model[3].running_mean, early.model[3].running_mean)

    @pytest.mark.parametrize(("prune", "settings", "network"), [(channels, CUT, "residual"), (heads, FEWER, "encoder")])
    def test_what_was_cut_away_stays_away(self, images, prune, settings, network):
        # Cut before any training, the model is what its beginning comes to when it is cut in the same way.
        cut = prune(start(network), settings, context(images))
        assert same(back(trained(cut, images), images), cut)

    def test_cuts_after_the_baseline_are_made_in_it_too(self, images):
        baseline = channels(start(), CUT, context(images))
        baseline = trained(baseline, images)
        cut = channels(baseline, CUT | {"ratio": 0.4}, context(images))
        assert same(back(trained(cut, images), images, baseline, to="baseline"), cut)


class TestRefusal:
    def test_nothing_was_pruned(self, images):
        with pytest.raises(Refusal, match="nothing was pruned"):
            back(trained(start(), images), images)

    def test_no_training_between(self, images):
        with pytest.raises(Refusal, match="already"):
            back(magnitude(start(), SPARSE, context(images)), images)

    def test_zeros_of_the_beginning(self, images, tmp_path):
        early = start()
        with torch.no_grad():
            early.model[2].weight[3] = 0.0
        safetensors.torch.save_file(parameters(early.model), tmp_path / "early.safetensors")
        checkpoint = asdict(Factory("networks.py:cnn", {}, str(tmp_path / "early.safetensors")))
        with pytest.raises(Refusal, match=r"2\.weight has zeros in the checkpoint"):
            back(magnitude(start(), SPARSE, context(images)), images, checkpoint=checkpoint)

    def test_a_checkpoint_of_another_width(self, images):
        checkpoint = asdict(Factory("networks.py:cnn", {"width": 8}))
        with pytest.raises(Refusal, match=r"0\.weight is \(16, 1, 3, 3\) in the model and \(8, 1, 3, 3\)"):
            back(magnitude(start(), SPARSE, context(images)), images, checkpoint=checkpoint)

    def test_another_model_than_the_baseline(self, images):
        pruned = magnitude(start(width=8), SPARSE, context(images))
        with pytest.raises(Refusal, match="not made from the baseline"):
            back(pruned, images, start(), to="baseline")
