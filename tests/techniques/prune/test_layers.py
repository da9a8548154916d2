"""Whole blocks: the same answers as the model that skips them, real savings, and the path to disk."""

import copy
import json
import runpy
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import nn

from optlang.interfaces import Context, Factory, ModelState, OptlangError, Refusal
from optlang.techniques.prune.heads import heads
from optlang.techniques.prune.layers import layers
from optlang.techniques.prune.magnitude import magnitude
from optlang.techniques.shared.proof import proved
from optlang.techniques.training.finetune import finetune
from optlang.workload.data import dataset as data_module
from optlang.workload.export.onnx import export
from optlang.workload.model.call import call
from optlang.workload.model.save import load, save
from tests.techniques.conftest import TRAINING
from tests.techniques.states import NETWORKS, STUDY, made, proved_by

REFUSES = {
    item: "the model has no list" for item in NETWORKS if item not in ("residual", "depthwise", "encoder")
}
SETTINGS = {
    "amount": "ratio", "ratio": 0.5, "count": 1, "importance": "influence", "samples": 64, "keep": (), "only": (),
}
package = runpy.run_path(str(STUDY / "packaged.py"))["package"]

pytestmark = pytest.mark.slow


def check(state, result, data):
    assert result.notes["prune.removed_blocks"] == 0.5


def start(calls="blocks.py:net", **arguments):
    return made(calls, **arguments)


def run(state, data, seed=1, **changed):
    return proved_by(layers, state, data, SETTINGS | changed, seed)


def answers(model, data):
    with torch.no_grad():
        return model(data.example(32)["input"])


def skipped(model, names):
    """The model with the identity in the place of blocks."""
    model = copy.deepcopy(model)
    for name in names:
        holder, _, own = name.rpartition(".")
        model.get_submodule(holder)._modules[own] = nn.Identity()
    return model


class TestModel:
    @pytest.mark.parametrize("importance", ["influence", "loss", "last", "alternate", "random"])
    def test_the_answers_are_those_of_the_model_that_skips_them(self, lines, tmp_path, importance):
        state = start()
        result = run(state, lines, importance=importance)
        gone = result.notes["prune.gone"]
        assert len(gone) == 3
        assert result.notes["prune.blocks"] == {"blocks": 3}
        assert result.notes["prune.removed_blocks"] == 0.5
        assert len(result.model.blocks) == 3
        found = answers(result.model, lines)
        assert torch.equal(found, answers(skipped(state.model, gone), lines))
        assert not torch.allclose(found, answers(state.model, lines), atol=1e-3)
        whole, cut = (sum(item.numel() for item in one.model.parameters()) for one in (state, result))
        assert whole - cut == 3 * sum(item.numel() for item in state.model.blocks[0].parameters())
        assert result.notes["prune.removed_parameters"] == pytest.approx(1 - cut / whole)
        edits = [asdict(item) for item in result.edits]
        assert json.loads(json.dumps(edits)) == edits
        save(result, tmp_path)
        assert torch.equal(answers(load(tmp_path, STUDY).model, lines), found)

    @pytest.mark.parametrize(
        ("settings", "gone"),
        [
            ({"importance": "last"}, "345"), ({"importance": "alternate"}, "135"),
            ({"importance": "last", "ratio": 0.2}, "5"), ({"importance": "alternate", "ratio": 0.34}, "14"),
            ({"importance": "last", "amount": "count", "count": 2}, "45"),
            ({"importance": "last", "amount": "count", "count": 9}, "12345"),
            ({"importance": "last", "keep": ("blocks.5", "blocks.4.up"), "ratio": 0.5}, "23"),
            ({"importance": "last", "only": ("blocks.[01]",), "ratio": 0.5}, "1"),
        ],
    )
    def test_which_and_how_many(self, lines, settings, gone):
        found = run(start(), lines, **settings).notes["prune.gone"]
        assert found == [f"blocks.{number}" for number in gone]

    def test_numbers_of_blocks_follow(self, lines):
        result = run(start(style="range"), lines, importance="last", amount="count")
        assert result.model.depth == 5
        result = run(start(style="config"), lines, importance="alternate")
        assert result.model.config.num_hidden_layers == 3
        assert [block.layer_idx for block in result.model.blocks] == [0, 1, 2]
        assert run(start(), lines).model.depth == 6  # nothing reads it

    def test_twice_with_heads_and_training(self, images, tmp_path):
        context = Context(images, 1, tmp_path, STUDY)
        state = start("networks.py:encoder")
        once = layers(state, SETTINGS | {"importance": "last"}, context)
        cut = heads(
            once, {"ratio": 0.5, "importance": "l2", "samples": 64, "scope": "layer", "keep": (), "only": ()}, context
        )
        proved(once, cut, context)
        trained = finetune(cut, TRAINING | {"epochs": 1}, context)
        export(trained, images.bind(trained.model), tmp_path / "model.onnx", STUDY)  # compares the answers itself
        save(trained, tmp_path / "saved")
        loaded = load(tmp_path / "saved", STUDY)
        inputs = images.example(4)["input"]
        assert torch.equal(loaded.model(inputs), trained.model(inputs))
        with pytest.raises(Refusal, match="one always stays in each list"):
            layers(cut, SETTINGS, context)

    def test_zeros_stay_meant(self, lines):
        context = Context(lines, 1, Path(), STUDY)
        zeroed = {
            "sparsity": 0.5, "relative_to": "all", "scope": "layer", "importance": "l1", "samples": None, "keep": (),
            "only": ("blocks.0", "blocks.5"),
        }
        state = magnitude(start(), zeroed, context)
        result = run(state, lines, only=("blocks.[01]",), importance="random", seed=2)
        left = result.notes["prune.zeros"]
        assert result.notes["prune.gone"] in (["blocks.0"], ["blocks.1"])
        first = result.notes["prune.gone"] == ["blocks.1"]
        assert {name.rsplit(".", 2)[0] for name in left} == ({"blocks.0", "blocks.4"} if first else {"blocks.4"})


class TestImportance:
    def test_influence_is_how_far_tokens_turn(self, lines):
        state = start()
        with torch.no_grad():
            for index, factor in enumerate((1.0, 0.01, 3.0, 0.02, 2.0, 1.5)):
                state.model.blocks[index].down.weight.mul_(factor)
                state.model.blocks[index].down.bias.mul_(factor)
        assert run(state, lines, ratio=0.34).notes["prune.gone"] == ["blocks.1", "blocks.3"]
        # Of all by hand.
        seen = {}
        for index, block in enumerate(state.model.blocks):
            block.register_forward_hook(lambda _, x, y, index=index: seen.setdefault(index, []).append((x[0], y)))
        inputs, _ = next(iter(lines.batches("train", 64, seed=1, shuffle=True)))
        with torch.no_grad():
            state.model(next(iter(inputs.values())))
        scores = [1 - nn.functional.cosine_similarity(*seen[index][0], dim=-1).mean() for index in range(6)]
        order = sorted(range(6), key=lambda index: scores[index])
        fresh = start()
        fresh.model.load_state_dict(state.model.state_dict())
        for count in range(1, 6):
            gone = run(fresh, lines, amount="count", count=count).notes["prune.gone"]
            assert gone == [f"blocks.{index}" for index in sorted(order[:count])]

    def test_loss_is_that_without_the_block(self, lines):
        state = start()
        inputs, targets = next(iter(lines.batches("train", 64, seed=1, shuffle=True)))
        rises = []
        for index in range(6):
            with torch.no_grad():
                answer = skipped(state.model, [f"blocks.{index}"])(next(iter(inputs.values())))
            rises.append(float(nn.functional.cross_entropy(answer, targets)))
        gone = run(state, lines, importance="loss", amount="count").notes["prune.gone"]
        assert gone == [f"blocks.{rises.index(min(rises))}"]

    def test_random_follows_the_seed(self, lines):
        one, same, other = (run(start(), lines, seed=seed, importance="random").edits for seed in (1, 1, 3))
        assert one == same != other


class TestLeftAlone:
    def test_blocks_that_others_count_on_are_named(self, lines):
        state = start(style="tapped")
        result = run(state, lines, importance="last")
        assert list(result.notes["prune.left"]) == ["blocks.3"]
        assert "other answers" in result.notes["prune.left"]["blocks.3"]
        assert result.notes["prune.gone"] == ["blocks.2", "blocks.4", "blocks.5"]

    def test_a_shared_block_is_named(self, lines):
        with pytest.raises(Refusal, match=r"blocks\.0: it is called 6 times") as refused:
            run(start(style="shared"), lines)
        assert refused.value.depends == "model"

    def test_stages_hold_blocks(self, images):
        result = run(start("blocks.py:stages"), images, importance="last", ratio=0.95)
        assert result.notes["prune.gone"] == ["stages.0.1", "stages.1.1", "stages.1.2"]
        assert list(result.notes["prune.left"]) == ["stages.1.0"]

    def test_a_gate_within_a_residual_block_is_no_block_of_its_own(self, images):
        class Gate(nn.Module):
            def __init__(self):
                super().__init__()
                self.down, self.up = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)

            def forward(self, given):
                return given * self.up(self.down(given.mean((2, 3), keepdim=True)).relu()).sigmoid()

        class Gated(nn.Module):
            def __init__(self, stride=1):
                super().__init__()
                self.block = nn.Sequential(nn.Conv2d(8, 8, 3, stride, 1), nn.ReLU(), Gate(), nn.Conv2d(8, 8, 1))
                self.stride = stride

            def forward(self, given):
                return given + self.block(given) if self.stride == 1 else self.block(given)

        torch.manual_seed(0)
        head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
        net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), Gated(), Gated(2), Gated(), Gated(), *head).eval()
        result = run(ModelState("module", net, Factory("x:y")), images, importance="last", amount="count", count=2)
        assert result.notes["prune.gone"] == ["3", "4"]
        assert torch.equal(answers(result.model, images), answers(skipped(net, ["3", "4"]), images))

    def test_none_to_spare(self, lines):
        with pytest.raises(Refusal, match="blocks has 6"):
            run(start(), lines, ratio=0.05)

    def test_everything_is_kept(self, lines):
        with pytest.raises(Refusal, match="no block is left to remove") as refused:
            run(start(), lines, keep=("blocks",))
        assert refused.value.depends == "settings"

    def test_a_misspelt_block(self, lines):
        with pytest.raises(OptlangError, match="blokcs"):
            run(start(), lines, only=("blokcs.1",))


class TestPackages:
    @pytest.mark.parametrize(
        ("name", "settings", "gone"),
        [
            ("BertForSequenceClassification", {"num_hidden_layers": 4}, ["encoder.layer.2", "encoder.layer.3"]),
            ("GPT2Model", {"n_layer": 4}, ["h.2", "h.3"]),
            ("LlamaModel", {"num_hidden_layers": 4}, ["layers.2", "layers.3"]),
            ("T5EncoderModel", {"num_layers": 4}, ["block.2", "block.3"]),
            ("vit_tiny_patch16_224", {"depth": 4}, ["blocks.2", "blocks.3"]),
            ("SwinForImageClassification", {}, ["layers.0.blocks.1", "layers.1.blocks.1"]),
        ],
    )
    def test_half_of_the_blocks(self, torchvision, tmp_path, name, settings, gone):
        pytest.importorskip(package(name))
        data = data_module.load(Factory("packaged.py:samples", {"name": name}), STUDY)
        state = start("packaged.py:net", name=name, **settings)
        result = run(state, data, importance="last")
        assert [item.split("encoder.")[-1] for item in result.notes["prune.gone"]] == [
            item.removeprefix("encoder.") for item in gone
        ]
        save(result, tmp_path)
        example = data.bind(state.model).example(4)
        found, loaded = call(result.model.eval(), example), call(load(tmp_path, STUDY).model, example)
        assert all(torch.equal(found[key], loaded[key]) for key in found)

    def test_one_shared_block_is_named(self, torchvision):
        pytest.importorskip("transformers")
        name = "AlbertForSequenceClassification"
        data = data_module.load(Factory("packaged.py:samples", {"name": name}), STUDY)
        with pytest.raises(Refusal, match="it is called 2 times, with one set of weights"):
            run(start("packaged.py:net", name=name), data)
