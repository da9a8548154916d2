"""Cuts that prove themselves: networks whose own code moves channels, shared weights, and pruners of the user's own.

The reference is the whole network with the rows at zero that the cut one lacks, found by comparing weights.
"""

import copy
import time
from pathlib import Path

import pytest
import torch

from optlang.interfaces import Context, Edit, Factory, ModelState, Refusal
from optlang.techniques.prune.channels import channels
from optlang.techniques.prune.channels_to_budget import channels_to_budget
from optlang.techniques.prune.widths import widths
from optlang.techniques.shared.proof import proved, removed
from optlang.workload.model.make import edited, make
from optlang.workload.model.save import load, save
from tests.techniques.states import STUDY

SETTINGS = {
    "ratio": 0.5, "importance": "l2", "samples": 64, "scope": "layer", "round_to": 1, "keep": (), "only": (),
    "recalibrate": 0,
}


def start(network, **arguments):
    factory = Factory(f"regrouping.py:{network}", arguments)
    return ModelState("module", make(factory, STUDY), factory)


def context(data):
    return Context(data, 1, Path(), STUDY)


def run(state, data, **changed):
    result = channels(state, SETTINGS | changed, context(data))
    proved(state, result, context(data))
    return result


def outputs(model):
    return {name: len(item) for name, item in model.named_parameters() if name.endswith("weight") and item.ndim > 1}


def kept(whole, cut, size):
    """Which rows of a weight are left, by their biases."""
    return [int((whole.bias == item).nonzero()[0, 0]) for item in cut.bias][:size]


def answers(model, data):
    with torch.no_grad():
        return model(next(iter(data.example(64).values())))


def silent_answers(state, result, names, data):
    """The whole network's answers with the outputs of these layers at zero that the cut network lacks."""
    whole = copy.deepcopy(state.model)
    with torch.no_grad():
        for name in names:
            layer = whole.get_submodule(name)
            gone = sorted(set(range(len(layer.bias))) - set(kept(layer, result.model.get_submodule(name), None)))
            layer.weight[gone] = 0
            layer.bias[gone] = 0
    return answers(whole, data)


class TestLeftAlone:
    @pytest.mark.parametrize(("network", "left", "cut"), [
        ("shuffled", "a", "b"), ("rolled", "a", "b"), ("pixels", "a", "b"), ("gated", "a", "b"),
        ("multiplied", "a", "b"), ("turned", "up", "b"), ("contracted", "a", "b"),
        ("bilinear", "b", "a"), ("neighbours", "a", "b"), ("auxiliary", "a", "b"),
    ])
    def test_what_code_regroups_stays_and_the_rest_goes(self, network, left, cut, images):
        state = start(network)
        if network == "rolled":  # without all of these, what is left is rolled by the wrong number of places
            with torch.no_grad():
                state.model.a.weight[13:] *= 0.01
        began = time.process_time()
        result = run(state, images)
        assert time.process_time() - began < 60  # a search without a limit took minutes
        assert left in result.notes["prune.left"]
        assert "Error" not in result.notes["prune.left"][left].partition("(")[0]
        before, after = outputs(state.model), outputs(result.model)
        assert after[f"{left}.weight"] == before[f"{left}.weight"]
        assert after[f"{cut}.weight"] == before[f"{cut}.weight"] // 2
        wanted = silent_answers(state, result, [cut, *(["deep"] if network == "multiplied" else [])], images)
        assert torch.allclose(answers(result.model, images), wanted, atol=1e-5)

    def test_nothing_is_left(self, images):
        with pytest.raises(Refusal, match=r"no layer is left .*b: .*; a: its channels go with those of b"):
            run(start("padded"), images)

    def test_training_still_works(self, images):
        model = run(start("auxiliary"), images).model
        assert {name: item.shape for name, item in model.train()(next(iter(images.example(4).values()))).items()} == {
            "output": (4, 10), "aux": (4, 10),
        }

    def test_a_fused_projection_keeps_its_stream_and_the_hidden_layer_goes(self, images):
        result = run(start("vision"), images)
        assert {name: size for name, size in outputs(result.model).items() if size == 16} | {"up.weight": 16} == {
            "embed.weight": 16, "project.weight": 16, "up.weight": 16, "down.weight": 16,
        }
        assert outputs(result.model)["qkv.weight"] == 48
        assert set(result.notes["prune.left"]) == {"qkv", "down"}

    def test_the_other_techniques_leave_them_alone_too(self, images):
        for technique, settings in (
            (channels_to_budget, {"resource": "parameters", "share": 0.8}),
            (widths, {"resource": "parameters", "share": 0.8, "levels": 2, "scored": 64}),
        ):
            state = start("shuffled")
            result = technique(state, SETTINGS | settings, context(images))
            proved(state, result, context(images))
            assert outputs(result.model)["a.weight"] == 16
            assert set(result.notes["prune.left"]) == {"a"}
            wanted = silent_answers(state, result, ["b"], images)
            assert torch.allclose(answers(result.model, images), wanted, atol=1e-5)


class TestRight:
    @pytest.mark.parametrize("network", ["plain", "halves"])
    def test_answers_are_those_of_silent_channels(self, network, images):
        state = start(network)
        result = run(state, images)
        assert "prune.left" not in result.notes
        assert outputs(result.model) == {"a.weight": 8, "b.weight": 8, "head.weight": 10}
        wanted = silent_answers(state, result, ["a", "b"], images)
        if network == "plain":
            assert torch.allclose(answers(result.model, images), wanted, atol=1e-5)
        else:  # a silent gate is half open: only the pairs count
            rows = kept(state.model.a, result.model.a, None)
            assert [row + 8 for row in rows[:4]] == rows[4:]

    @pytest.mark.parametrize("norm", [False, True])
    def test_attention_written_by_hand_loses_as_many_channels_of_each_head(self, norm, images):
        state = start("attention", norm=norm)
        result = run(state, images, keep=("embed",))
        rows = {name: kept(getattr(state.model, name), getattr(result.model, name), None)
                for name in ("query", "key", "value")}
        for chosen in rows.values():
            assert [sum(row // 4 == head for row in chosen) for head in range(4)] == [2, 2, 2, 2]
        wanted = silent_answers(state, result, list(rows), images)
        assert torch.allclose(answers(result.model, images), wanted, atol=1e-4)

    def test_a_scale_by_the_width_of_the_heads(self, images):
        state = start("attention", scale="width")
        result = run(state, images, keep=("embed",))
        rows = kept(state.model.query, result.model.query, None)
        assert [sum(row // 4 == head for row in rows) for head in range(4)] == [2, 2, 2, 2]
        with torch.no_grad():  # of the whole model's scale, what the narrow one divides by less
            result.model.query.weight.div_(2**0.5)
            result.model.query.bias.div_(2**0.5)
        wanted = silent_answers(state, result, ["key", "value"], images)
        assert torch.allclose(answers(result.model, images), wanted, atol=1e-4)

    def test_heads_of_a_fixed_width_stay(self, images):
        result = run(start("attention", width="fixed"), images)
        assert set(result.notes["prune.left"]) & {"query", "key", "value"}
        assert outputs(result.model)["value.weight"] == 16
        assert outputs(result.model)["embed.weight"] == 8

    def test_statistics_over_channels_are_those_of_the_channels_left(self, images):
        state = start("own_norm")
        result = run(state, images)
        assert outputs(result.model) == {"a.weight": 8, "b.weight": 8, "head.weight": 10}
        # By hand: the same code on the rows that are left.
        whole = make(state.factory, STUDY)
        rows, later = kept(whole.a, result.model.a, None), kept(whole.b, result.model.b, None)
        x = next(iter(images.example(64).values()))
        with torch.no_grad():
            h = whole.a(x)[:, rows]
            h = (h - h.mean(1, keepdim=True)) / (h.var(1, keepdim=True) + 1e-5).sqrt()
            h = h * whole.scale[rows][:, None, None]
            y = torch.nn.functional.conv2d(h.relu(), whole.b.weight[later][:, rows], whole.b.bias[later], padding=1)
            wanted = y.relu().mean((2, 3)) @ whole.head.weight[:, later].T + whole.head.bias
        assert torch.allclose(answers(result.model, images), wanted, atol=1e-5)


class TestMoved:
    """Where channels arrive is found by running the network, and what they are cut by is what is found."""

    def test_dead_filters_before_a_flattening_by_pixel_change_no_answer(self, images, tmp_path):
        state, dead = start("channels_last"), [0, 3, 4, 7, 9, 10, 13, 14]
        with torch.no_grad():
            state.model.a.weight[dead] = 0
            state.model.a.bias[dead] = 0
            state.model.head.weight.view(10, 16, 16)[:, :, dead] = 0
        result = run(state, images, keep=("z",))
        assert outputs(result.model) == {"z.weight": 16, "a.weight": 8, "head.weight": 10}
        assert torch.allclose(answers(result.model, images), answers(state.model, images), atol=1e-6)
        save(result, tmp_path)
        loaded = load(tmp_path, STUDY).model
        assert torch.equal(answers(loaded, images), answers(result.model, images))

    @pytest.mark.parametrize("network", ["channels_last", "flipped", "stacked"])
    def test_answers_are_those_of_silent_channels(self, network, images):
        state = start(network)
        for ratio in (0.25, 0.5):
            result = run(state, images, ratio=ratio)
            assert outputs(result.model)["a.weight"] == 16 * (1 - ratio)
            names = [name for name in ("z", "a", "b") if hasattr(state.model, name)]
            wanted = silent_answers(state, result, names, images)
            assert torch.allclose(answers(result.model, images), wanted, atol=1e-5)

    def test_channels_that_pass_a_layer_by_go_with_those_that_do_not(self, images):
        state = start("partial")
        result = run(state, images)
        assert outputs(result.model) == {"a.weight": 12, "inner.weight": 4, "b.weight": 8, "head.weight": 10}
        wanted = silent_answers(state, result, ["a", "inner", "b"], images)
        assert torch.allclose(answers(result.model, images), wanted, atol=1e-5)


class TestShared:
    def test_a_table_and_the_layer_that_answers_stay_one(self, images, tmp_path):
        factory = Factory("networks.py:words")
        state = ModelState("module", make(factory, STUDY), factory)
        result = run(state, images)
        model = result.model
        assert model.head.weight is model.table.weight
        # 17 words of 16 once, 16 to 32 and back.
        assert sum(item.numel() for item in model.parameters()) == 17 * 16 + 16 * 32 + 32 + 32 * 16 + 16
        save(result, tmp_path / "saved")
        loaded = load(tmp_path / "saved", STUDY).model
        assert loaded.head.weight is loaded.table.weight
        assert torch.equal(answers(loaded, images), answers(model, images))

    def test_layers_that_would_be_cut_apart_are_left_alone(self, images):
        factory = Factory("networks.py:tied")
        state = ModelState("module", make(factory, STUDY), factory)
        with pytest.raises(Refusal, match=r"first\.weight and second\.weight are one weight"):
            run(state, images)


class TestOwnPruner:
    """A plug-in's pruner has no other proof than that of the contract."""

    def cut(self, data, **arguments):
        state = start("plain")
        edit = Edit("pruners.py:replay", arguments)
        model = edited(make(state.factory, STUDY), [edit], STUDY)
        return state, ModelState("module", model, state.factory, (edit,)), context(data)

    def test_a_right_one_passes(self, images):
        state, result, about = self.cut(images, rows=[0, 3, 5], columns=[0, 3, 5])
        proved(state, result, about)
        masks = removed(state.model, result.edits, STUDY).masks
        assert {name: int(mask.sum()) for name, mask in masks.items()} == {
            "a.weight": 13 * 9, "a.bias": 13, "b.weight": 16 * 13 * 9,
        }

    def test_a_wrong_one_is_refused_by_name(self, images):
        with pytest.raises(Refusal, match="without some channels of a the model gives another output") as error:
            proved(*self.cut(images, rows=[0, 3, 5], columns=[0, 3, 6]))
        assert error.value.help == 'leave those layers alone: keep = ["a"]'

    def test_a_model_that_its_edits_do_not_make(self, images):
        state, result, about = self.cut(images, rows=[0, 3, 5], columns=[0, 3, 5])
        edit = Edit("pruners.py:replay", {"rows": [0, 3], "columns": [0, 3]})
        with pytest.raises(Refusal, match=r"a\.weight is \(3, 1, 3, 3\) in the step's model, .* \(2, 1, 3, 3\)"):
            proved(state, ModelState("module", result.model, state.factory, (edit,)), about)

    def test_one_that_mixes_the_order_is_refused(self, images):
        with pytest.raises(Refusal, match="channels of a"):
            proved(*self.cut(images, rows=[0, 3, 5], columns=[3, 0, 5]))
