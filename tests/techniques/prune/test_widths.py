"""Widths a layer: scores against a layer pruned by hand, the order of cuts, the budget by torch's own counter."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from optlang.interfaces import Context, Factory, Refusal
from optlang.techniques.prune.channels import channels
from optlang.techniques.prune.channels_to_budget import channels_to_budget
from optlang.techniques.prune.widths import ordered, widths
from optlang.techniques.training.train import train
from optlang.workload.data import dataset as data_module
from tests.techniques.prune import test_channels
from tests.techniques.states import STUDY, macs, start

# Most of it is in hidden units, which stay.
REFUSES = {**test_channels.REFUSES, "lstm": "cannot be reached by removing channels: .* the largest layer then is lstm"}


def check(state, result, data):
    assert macs(result) <= 0.5 * macs(state)
    assert result.notes["prune.reached"] <= 0.5


CHANNELS = {"importance": "l2", "round_to": 1, "keep": (), "only": (), "recalibrate": 0}
SETTINGS = CHANNELS | {"resource": "macs", "share": 0.5, "levels": 4, "scored": 128}
TRAINING = {
    "lr": 3e-3, "optimizer": "adamw", "schedule": "cosine", "batch": 32, "weight_decay": 0.01, "amp": "none",
    "warmup": 0.0, "ema": 0.0, "label_smoothing": 0.0, "clip": 0.0, "patience": 0,
}


@pytest.fixture(scope="module")
def images():
    return data_module.load(Factory("networks.py:images", {"count": 1200}), STUDY)


def run(state, data, memo=None, **changed):
    about = {} if memo is None else {"memo": memo}
    return widths(state, SETTINGS | changed, Context(data, 1, Path(), STUDY, **about))


class Kept(dict):
    """Scores by all that they were asked with."""

    def __call__(self, name, about, compute):
        key = name, repr(about)
        if key not in self:
            self[key] = compute()
        return self[key]


def size(state, resource="macs"):
    if resource == "parameters":
        return sum(item.numel() for item in state.model.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        state.model(torch.zeros(1, 1, 8, 8))
    return counter.get_total_flops() // 2


def loss(state, data, part="validation", count=None):
    inputs, labels = data.arrays(part, count)
    with torch.no_grad():
        return float(torch.nn.functional.cross_entropy(state.model(torch.from_numpy(inputs["input"])), labels))


class TestOrder:
    def test_the_least_loss_for_what_it_saves_comes_first(self):
        groups = {
            "a": [(0.25, 0.1, 0.1), (0.5, 0.2, 0.4)],  # 1 and then 3 for each unit
            "b": [(0.25, 0.2, 0.4), (0.5, 0.4, 0.9)],  # 2 and then 2.5
        }
        assert ordered(groups) == [("a", 0.25), ("b", 0.25), ("b", 0.5), ("a", 0.5)]

    def test_a_cut_above_the_hull_is_passed_over(self):
        # The first costs 4 for each unit, both together 2.
        assert ordered({"a": [(0.25, 0.1, 0.4), (0.5, 0.2, 0.4), (0.75, 0.3, 0.9)]}) == [("a", 0.5), ("a", 0.75)]

    def test_a_loss_that_falls_costs_nothing(self):
        groups = {"a": [(0.5, 0.1, -0.5), (0.9, 0.2, 0.1)], "b": [(0.5, 0.1, 0.05)]}
        assert ordered(groups) == [("a", 0.5), ("b", 0.5), ("a", 0.9)]

    def test_nothing_that_saves_nothing(self):
        assert ordered({"a": [(0.5, 0.0, 0.0)], "b": []}) == []


class TestScores:
    def test_of_a_layer_pruned_alone(self, images):
        state, kept = start(), Kept()
        run(state, images, kept, scored=64)
        (groups,) = kept.values()
        assert list(groups) == ["0", "2"]
        inputs, labels = next(images.batches("train", 64, seed=1, shuffle=True))

        def of(module):
            with torch.no_grad():
                return float(torch.nn.functional.cross_entropy(module(*inputs.values()), labels))

        for name, levels in groups.items():
            assert [ratio for ratio, _, _ in levels] == [0.2375, 0.475, 0.7125, 0.95]
            for ratio, saved, change in levels:
                settings = CHANNELS | {"scope": "layer", "ratio": ratio, "only": (name,)}
                alone = channels(state, settings, Context(images, 1, Path(), STUDY))
                assert saved["macs"] == pytest.approx(1 - size(alone) / size(state))
                assert saved["parameters"] == pytest.approx(1 - size(alone, "parameters") / size(state, "parameters"))
                assert change == pytest.approx(of(alone.model) - of(state.model), abs=1e-6)

    def test_another_budget_does_not_score_again(self, images):
        state, kept = start(), Kept()
        for changed in ({}, {"share": 0.3}, {"resource": "parameters"}):
            run(state, images, kept, **changed)
        assert len(kept) == 1
        run(state, images, kept, keep=("0",))
        assert len(kept) == 2

    def test_levels_that_rounding_makes_one_are_one(self, images):
        kept = Kept()
        run(start(), images, kept, round_to=8, share=0.6)
        (groups,) = kept.values()
        assert [ratio for ratio, _, _ in groups["0"]] == [0.475]  # of 16 channels 8


class TestBudget:
    @pytest.mark.parametrize(
        ("network", "resource", "share"),
        [("cnn", "macs", 0.33), ("residual", "parameters", 0.5), ("depthwise", "macs", 0.5), ("mlp", "macs", 0.2)],
    )
    def test_no_more_is_left_and_hardly_less(self, images, network, resource, share):
        state = start(network)
        result = run(state, images, resource=resource, share=share)
        left = size(result, resource) / size(state, resource)
        # One channel of these nets is some hundredths.
        assert share - 0.08 < left <= share
        assert result.notes["prune.reached"] == pytest.approx(left)
        assert result.model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)

    def test_what_multiples_take_too_much_is_left_again(self, images):
        state = start(width=64)
        result = run(state, images, share=0.2, round_to=4)
        assert 0.9 * 0.2 < size(result) / size(state) <= 0.2
        widths = {"0": result.model[0].out_channels, "2": result.model[2].out_channels}
        assert all(width % 4 == 0 for width in widths.values())
        for name, whole in (("0", 64), ("2", 128)):
            assert abs(result.notes["prune.ratios"].get(name, 0.0) - (1 - widths[name] / whole)) < 0.05

    def test_what_is_kept_keeps_its_width(self, images):
        result = run(start(), images, keep=("0",))
        assert result.model[0].out_channels == 16
        assert list(result.notes["prune.ratios"]) == ["2"]

    def test_a_layer_that_the_code_takes_for_granted(self, images):
        result = run(start("counting"), images, share=0.7)
        assert result.model.first.out_channels == 16
        assert result.model.second.out_channels < 16

    @pytest.mark.parametrize("importance", ["taylor", "bn_scale"])
    def test_any_importance(self, images, importance):
        result = run(start(), images, share=0.6, importance=importance, samples=64)
        # Only what has a norm behind it has a scale.
        assert (result.model[0].out_channels == 16) == (importance == "bn_scale")
        assert size(result) <= 0.6 * size(start())

    def test_out_of_reach(self, images):
        with pytest.raises(Refusal, match=r"5\.0% of the macs cannot .* 95% of each layer's leave .* is 7 \("):
            run(start(), images, share=0.05, only=("0",))

    def test_nothing_to_take(self, images):
        with pytest.raises(Refusal, match="nothing was removed"):
            run(start(), images, keep=("*",))


@pytest.mark.slow
def test_at_equal_macs_less_is_lost_than_with_one_ratio_for_all(images):
    lost = {"widths": 0.0, "uniform": 0.0}
    for network, epochs in (("mlp", 15), ("cnn", 4)):
        context = Context(images, 1, Path(), STUDY)
        state = train(start(network), TRAINING | {"epochs": epochs}, context)
        before, kept = loss(state, images), Kept()
        for share in (0.75, 0.5, 0.33):
            one = channels_to_budget(state, CHANNELS | {"scope": "layer", "resource": "macs", "share": share}, context)
            # Not more than the other has left.
            own = run(state, images, kept, share=one.notes["prune.reached"], levels=8, scored=512)
            assert size(own) <= size(one)
            lost["uniform"] += loss(one, images) - before
            lost["widths"] += loss(own, images) - before
    assert lost["widths"] < lost["uniform"], lost
