"""Channels under a target: what is left by torch's own counter, the smallest ratio that does, what is out of reach."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from optlang.interfaces import Context, Refusal
from optlang.techniques.prune.channels import channels
from optlang.techniques.prune.channels_to_budget import channels_to_budget
from optlang.techniques.prune.units import units
from tests.techniques.prune import test_channels, test_units
from tests.techniques.states import STUDY, macs, start

# Most of it is in hidden units, which stay.
REFUSES = {**test_channels.REFUSES, "lstm": "cannot be reached by removing channels: .* the largest layer then is lstm"}


def check(state, result, data):
    assert macs(result) <= 0.5 * macs(state)
    assert result.notes["prune.reached"] <= 0.5


CHANNELS = {"importance": "l2", "scope": "layer", "round_to": 1, "keep": (), "only": (), "recalibrate": 0}


def until(state, data, resource, share, **changed):
    settings = {**CHANNELS, "resource": resource, "share": share, **changed}
    return channels_to_budget(state, settings, Context(data, 1, Path(), STUDY))


def size(state, resource):
    if resource == "parameters":
        return sum(item.numel() for item in state.model.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        state.model(torch.zeros(1, 1, 8, 8))
    return counter.get_total_flops() // 2


class TestUntil:
    @pytest.mark.parametrize(
        ("network", "resource", "scope"),
        [("cnn", "macs", "layer"), ("residual", "parameters", "global"), ("depthwise", "macs", "layer")],
    )
    def test_no_more_is_left_and_a_smaller_ratio_leaves_more(self, images, network, resource, scope):
        state = start(network, width=32)
        result = until(state, images, resource, 0.33, scope=scope)
        left = size(result, resource) / size(state, resource)
        assert 0.2 < left <= 0.33
        assert result.notes["prune.reached"] == pytest.approx(left)
        ratio = result.notes["prune.ratio"]
        settings = CHANNELS | {"scope": scope}
        context = Context(images, 1, Path(), STUDY)
        same, less = (channels(state, settings | {"ratio": item}, context) for item in (ratio, ratio - 0.001))
        assert size(less, resource) / size(state, resource) > 0.33
        # The same layers lose as many channels, or one multiple less where that fits.
        wanted, found = (
            {root: len(gone) for root, _, gone in item.edits[0].arguments["history"]} for item in (same, result)
        )
        assert all(count - found.get(root, 0) in range(5) for root, count in wanted.items())

    @pytest.mark.parametrize("scope", ["layer", "global"])
    @pytest.mark.parametrize("share", [0.1, 0.2, 0.4])
    def test_what_multiples_take_too_much_is_left_again(self, images, share, scope):
        state = start(width=64)
        result = until(state, images, "macs", share, scope=scope, round_to=4)
        assert 0.92 * share < size(result, "macs") / size(state, "macs") <= share
        assert all(item.out_channels % 4 == 0 for item in (result.model[0], result.model[2]))

    def test_shares_of_what_it_comes_with(self, images):
        state = start(width=32)
        once = until(state, images, "macs", 0.5)
        twice = until(once, images, "macs", 0.5)
        assert 0.2 < size(twice, "macs") / size(state, "macs") <= 0.25
        assert twice.notes["prune.removed_parameters"] == pytest.approx(
            1 - size(twice, "parameters") / size(state, "parameters")
        )

    def test_outputs_are_no_channels(self, images):
        for network in ("residual", "joined"):
            module = until(start(network, width=32), images, "parameters", 0.1).model
            with torch.no_grad():
                answer = module(torch.zeros(2, 1, 8, 8))
            shapes = {tuple(item.shape) for item in (answer.values() if isinstance(answer, dict) else [answer])}
            assert shapes == ({(2, 10), (2, 12)} if network == "joined" else {(2, 10)})

    def test_kept_layers_count_and_stay(self, images):
        state = start(width=32)
        result = until(state, images, "macs", 0.5, keep=("0",))
        assert result.model[0].out_channels == 32
        assert size(result, "macs") <= 0.5 * size(state, "macs")

    def test_statistics_are_set_anew_after_the_last_cut(self, images):
        plain, again = (until(start(), images, "macs", 0.5, recalibrate=item).model for item in (0, 2))
        assert plain[2].weight.shape == again[2].weight.shape
        assert not torch.allclose(plain[3].running_mean, again[3].running_mean, atol=1e-5)

    def test_out_of_reach(self, images):
        with pytest.raises(Refusal, match=r"1\.0% of the macs cannot be .* 95% leaves .*% of .* is \d") as error:
            until(start(), images, "macs", 0.01, keep=("2",))
        assert "keep" in error.value.help

    def test_nothing_to_take(self, images):
        with pytest.raises(Refusal, match=r"nothing was removed: not even ratio 0\.95"):
            until(start("mlp"), images, "macs", 0.5, keep=("*",))

    def test_what_channels_cannot_reach_units_can(self, images):
        state = start("lstm", width=32)
        with pytest.raises(Refusal, match=r"30\.0% of the parameters cannot be reached") as error:
            until(state, images, "parameters", 0.3)
        assert "the step units before it, which removes hidden units, as those of lstm" in str(error.value.help)
        narrow = units(state, test_units.SETTINGS, Context(images, 1, Path(), STUDY))
        assert size(narrow, "parameters") / size(state, "parameters") < 0.5
        less = until(narrow, images, "parameters", 0.6)
        assert size(less, "parameters") / size(state, "parameters") <= 0.3

    def test_without_recurrent_layers_units_are_not_named(self, images):
        with pytest.raises(Refusal, match="cannot be reached") as error:
            until(start(), images, "parameters", 0.01, round_to=8)
        assert "units" not in str(error.value.help)
