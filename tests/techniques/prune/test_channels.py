"""Channel pruning: counts worked out by hand, the settings' meaning, and layers that must be left alone."""

import copy
import types
from pathlib import Path

import numpy
import pytest
import torch
from torch import nn

from optlang.interfaces import Context, Factory, ModelState, OptlangError, Refusal
from optlang.techniques.prune.channels import channels
from optlang.techniques.prune.pruner import replay
from optlang.workload.model import save
from tests.techniques.contract import apply
from tests.techniques.states import NETWORKS, STUDY, answers, count, macs, start, wide

REFUSES = {"tied": r"first\.weight and second\.weight are one weight"}


def check(state, result, data):
    assert count(result) < 0.8 * count(state)
    assert macs(result) < 0.8 * macs(state)
    assert result.notes["prune.removed_parameters"] == pytest.approx(1 - count(result) / count(state))
    assert 0 < result.notes["prune.removed_channels"] <= 0.5


SETTINGS = {
    "ratio": 0.5, "importance": "l2", "samples": 64, "scope": "layer", "round_to": 4, "keep": (), "only": (),
    "recalibrate": 0,
}


def run(state, data, seed=1, **changed):
    return channels(state, SETTINGS | changed, Context(data, seed, Path(), STUDY))


class TestCounts:
    def test_half_of_a_plain_net(self, images):
        # 1-16-32-10 becomes 1-8-16-10: weights and biases, and the norm's scale and shift.
        before = 16 * 9 + 16 + 16 * 32 * 9 + 32 + 2 * 32 + 32 * 10 + 10
        after = 8 * 9 + 8 + 8 * 16 * 9 + 16 + 2 * 16 + 16 * 10 + 10
        state = start()
        assert sum(item.numel() for item in state.model.parameters()) == before
        result = run(state, images)
        assert sum(item.numel() for item in result.model.parameters()) == after
        assert result.notes["prune.removed_parameters"] == pytest.approx(1 - after / before)
        assert result.notes["prune.removed_channels"] == pytest.approx(24 / 58)

    def test_what_is_coupled_goes_together(self, images):
        model = run(start("residual"), images).model
        stream = {model.stem.out_channels, model.head.in_features}
        for block in model.blocks:
            stream |= {block.first.in_channels, block.second.out_channels, block.second_norm.num_features}
            assert block.first.out_channels == block.first_norm.num_features == block.second.in_channels == 8
        assert stream == {8}
        assert model.head.out_features == 10

    def test_depthwise_layers_follow(self, images):
        model = run(start("depthwise"), images).model
        for block in (model[2], model[3]):
            depthwise = block.depthwise[0]
            assert depthwise.groups == depthwise.in_channels == depthwise.out_channels == block.expand[0].out_channels
            assert block.squeeze[3].out_channels == depthwise.out_channels

    @pytest.mark.parametrize(
        ("ratio", "left"), [(0.1, 28), (0.2, 24), (0.3, 24), (0.4, 20), (0.5, 16), (0.8, 8), (0.9, 4), (0.95, 4)]
    )
    def test_ratios_and_multiples(self, images, ratio, left):
        # Of 32 channels 28.8, 25.6, 22.4, 19.2, 16, 6.4, 3.2 and 1.6: the nearest multiple of 4, and at least one.
        assert run(start(width=32), images, ratio=ratio).model[0].out_channels == left

    def test_groups_lose_as_many_each(self, images):
        model = run(start("grouped"), images, ratio=0.4).model
        assert (model.stem.out_channels, model.grouped.in_channels, model.grouped.out_channels) == (20, 20, 20)
        assert (model.grouped.groups, model.norm.num_groups, model.norm.num_channels) == (4, 4, 20)

    def test_exact_without_rounding(self, images):
        for ratio in (0.1, 0.2, 0.3, 0.7, 0.8, 0.9):
            left = run(start(width=10), images, ratio=ratio, round_to=1).model[0].out_channels
            assert left == round(10 * (1 - ratio))

    def test_rounds_add_up_to_one_share(self, images):
        state = start(width=32)
        twice = run(run(state, images, ratio=0.3), images, ratio=0.3)
        left = sum(item.numel() for item in twice.model.parameters())
        whole = sum(item.numel() for item in state.model.parameters())
        assert twice.notes["prune.removed_parameters"] == pytest.approx(1 - left / whole)


class TestImportance:
    def test_the_smallest_channels_go(self, images):
        state = start("mlp", width=16)
        with torch.no_grad():
            for layer in (state.model[1], state.model[3], state.model[5]):
                layer.weight.fill_(1.0)
                layer.bias.fill_(1.0)
            state.model[1].weight[[2, 5, 7, 11]] = 0.01
            state.model[1].bias[:] = torch.arange(16.0)
        for importance in ("l1", "l2"):
            left = run(state, images, ratio=0.25, importance=importance, keep=("3",)).model[1].bias.tolist()
            assert left == [0, 1, 3, 4, 6, 8, 9, 10, 12, 13, 14, 15]

    def test_norms_differ(self, images):
        state = start("mlp", width=8)
        with torch.no_grad():
            for layer in (state.model[1], state.model[3], state.model[5]):
                layer.weight.zero_()
            # By the sum of all values the first four are larger, by their squares the last four.
            state.model[1].weight[:4] = 0.1
            state.model[1].weight[4:, 0] = 3.0
            state.model[1].bias[:] = torch.arange(8.0)
        left = {
            name: run(state, images, importance=name, keep=("3",)).model[1].bias.tolist() for name in ("l1", "l2")
        }
        assert left == {"l1": [0, 1, 2, 3], "l2": [4, 5, 6, 7]}

    def test_random_follows_the_seed(self, images):
        state = start(width=32)
        one, same, other = (
            run(state, images, seed=seed, importance="random").edits[0].arguments["history"] for seed in (1, 1, 2)
        )
        assert one == same != other

    def test_taylor_is_a_hand_made_sum_with_the_norms(self, images):
        # 1-16-32-10, the norm behind the second convolution: its own scale counts among the second's channels.
        state = start()
        left = run(state, images, importance="taylor", samples=64, round_to=1, seed=5).model
        reference = start().model.eval()
        inputs, targets = next(images.batches("train", 64, seed=5, shuffle=True))
        torch.nn.functional.cross_entropy(reference(*inputs.values()), targets).backward()
        first, second, norm = reference[0], reference[2], reference[3]
        change = {layer: (layer.weight * layer.weight.grad).abs() for layer in (first, second, norm)}
        head = next(item for item in reference if isinstance(item, torch.nn.Linear))
        change[head] = (head.weight * head.weight.grad).abs()
        one = change[first].sum((1, 2, 3)) + change[second].sum((0, 2, 3))
        two = change[second].sum((1, 2, 3)) + change[norm] + change[head].sum(0)
        assert torch.equal(left[0].bias, first.bias[one.topk(8).indices.sort().values])
        assert torch.equal(left[3].weight, norm.weight[two.topk(16).indices.sort().values])
        assert torch.equal(left[2].bias, second.bias[two.topk(16).indices.sort().values])

    def test_fisher_is_a_hand_made_sum_over_single_samples(self, images):
        state = start()
        left = run(state, images, importance="fisher", samples=24, round_to=1, seed=5).model
        inputs, targets = next(images.batches("train", 64, seed=5, shuffle=True))
        pixels = next(iter(inputs.values()))
        module = start().model.eval()
        layers = [module[0], module[2], module[3], module[7]]
        squares = [torch.zeros_like(layer.weight) for layer in layers]
        for sample in range(24):
            loss = torch.nn.functional.cross_entropy(module(pixels[sample : sample + 1]), targets[sample : sample + 1])
            gradients = torch.autograd.grad(loss, [layer.weight for layer in layers])
            squares = [total + item**2 for total, item in zip(squares, gradients, strict=True)]
        first, second, norm, head = (
            layer.weight.detach() ** 2 * total / 48 for layer, total in zip(layers, squares, strict=True)
        )
        one = first.sum((1, 2, 3)) + second.sum((0, 2, 3))
        two = second.sum((1, 2, 3)) + norm + head.sum(0)
        assert torch.equal(left[0].bias, module[0].bias[one.topk(8).indices.sort().values])
        assert torch.equal(left[2].bias, module[2].bias[two.topk(16).indices.sort().values])

    def test_taylor_compares_layers_by_what_the_loss_would_change(self, images):
        state = start("mlp", width=32)
        result = run(state, images, importance="taylor", scope="global", round_to=1, samples=64).model
        scored = start("mlp", width=32).model.eval()
        inputs, targets = next(images.batches("train", 64, seed=1, shuffle=True))
        torch.nn.functional.cross_entropy(scored(*inputs.values()), targets).backward()
        change = {index: (scored[index].weight * scored[index].weight.grad).abs() for index in (1, 3, 5)}
        scores = torch.cat([change[1].sum(1) + change[3].sum(0), change[3].sum(1) + change[5].sum(0)])
        kept = scores >= scores.sort().values[32]
        assert (result[1].out_features, result[3].out_features) == (int(kept[:32].sum()), int(kept[32:].sum()))

    def test_lamp_is_its_formula(self, images):
        state = start("mlp", width=32)
        with torch.no_grad():
            state.model[3].weight.mul_(3.0)
        first, second, last = (state.model[index].weight for index in (1, 3, 5))
        inner = first.square().sum(1) + second.square().sum(0), second.square().sum(1) + last.square().sum(0)
        scores = [torch.stack([item / squares[squares >= item].sum() for item in squares]) for squares in inner]
        kept = torch.cat(scores) >= torch.cat(scores).sort().values[32]
        result = run(state, images, importance="lamp", scope="global", round_to=1).model
        assert (result[1].out_features, result[3].out_features) == (int(kept[:32].sum()), int(kept[32:].sum()))
        assert torch.equal(result[1].bias, state.model[1].bias[kept[:32]])

    def test_the_scale_of_the_norm(self, images):
        state = start()
        norm = state.model[3]
        with torch.no_grad():
            norm.weight.copy_(torch.linspace(-1, 1, 32))
        result = run(state, images, importance="bn_scale").model
        assert torch.equal(result[3].weight, torch.cat([norm.weight[:8], norm.weight[24:]]))
        assert result[0].out_channels == 16  # no norm behind it

    def test_layers_without_a_norm_are_told(self, images):
        assert run(start(), images, importance="bn_scale").notes["prune.no_norm"] == ["0"]
        assert "prune.no_norm" not in run(start(), images, importance="bn_scale", keep=("0",)).notes
        assert "prune.no_norm" not in run(start(), images).notes

    def test_no_norm_at_all(self, images):
        with pytest.raises(Refusal, match="1 has none behind it"):
            run(start("mlp"), images, importance="bn_scale")

    def test_global_takes_more_where_less_matters(self, images):
        state = start("mlp", width=32)
        with torch.no_grad():
            for layer in (state.model[1], state.model[3], state.model[5]):
                layer.weight.normal_(generator=torch.Generator().manual_seed(0))
            state.model[3].weight[8:] *= 0.01
        module = run(state, images, scope="global").model
        assert module[1].out_features > module[3].out_features >= 4


class TestKept:
    @pytest.mark.parametrize(("keep", "left"), [(("0",), (16, 16)), (("2",), (8, 32)), (("[03]",), (16, 32))])
    def test_by_name_and_pattern(self, images, keep, left):
        module = run(start(), images, keep=keep).model if keep != ("[03]",) else None
        if module is None:
            with pytest.raises(Refusal, match="nothing was removed"):
                run(start(), images, keep=keep)
        else:
            assert (module[0].out_channels, module[2].out_channels) == left

    @pytest.mark.parametrize(("only", "left"), [(("0",), (8, 32)), (("2",), (16, 16)), (("[02]",), (8, 16))])
    def test_only(self, images, only, left):
        module = run(start(), images, only=only).model
        assert (module[0].out_channels, module[2].out_channels) == left

    def test_only_inside_a_block(self, images):
        model = run(start("residual"), images, only=("blocks.0.first",)).model
        assert (model.stem.out_channels, model.blocks[0].first.out_channels) == (16, 8)
        assert model.blocks[1].first.out_channels == 16

    def test_a_whole_block(self, images):
        model = run(start("residual"), images, keep=("blocks.0",)).model
        assert model.blocks[0].first.out_channels == 16
        assert model.blocks[1].first.out_channels == 8
        assert model.stem.out_channels == 16  # the kept block's channels are those of the whole stream

    def test_outputs_of_every_kind(self, images):
        model = run(start("joined"), images).model
        assert (model.features.out_features, model.head.out_features, model.head.in_features) == (12, 10, 12)
        assert model.mix.out_channels == 8

    def test_answers_without_gradients_are_refused_with_the_reason(self, images):
        state = start()
        state.model.forward = types.MethodType(torch.no_grad()(type(state.model).forward), state.model)
        with pytest.raises(Refusal, match="no answer of the model has a gradient") as caught:
            run(state, images)
        assert "torch.no_grad" in caught.value.help

    def test_frozen_parameters_stay_frozen(self, images):
        state = start()
        state.model[0].weight.requires_grad_(False)
        model = run(state, images).model
        assert not model[0].weight.requires_grad
        assert model[2].weight.requires_grad


    def test_channels_that_training_fills_by_a_mask_stay(self, images):
        class Masked(nn.Module):
            """Hides some positions in training by a vector of its own, as speech models do."""

            def __init__(self):
                super().__init__()
                self.first, self.middle, self.head = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 10)
                self.hidden = nn.Parameter(torch.ones(16))

            def forward(self, image):
                y = self.first(image[:, 0])
                if self.training:
                    mask = torch.zeros(y.shape[:2], dtype=torch.bool)
                    mask[:, :2] = True
                    y[mask] = self.hidden
                return self.head(self.middle(y).relu().mean(1))

        result = run(ModelState("module", Masked().eval(), Factory("x:y")), images, round_to=1)
        assert "in training mode" in result.notes["prune.left"]["first"]
        assert (result.model.first.out_features, result.model.middle.out_features) == (16, 8)
        result.model.train()(torch.zeros(2, 1, 8, 8))


class TestRecalibrate:
    def test_the_mean_of_batches(self, images):
        plain, again = run(start(), images).model, run(start(), images, recalibrate=3).model
        seen = []
        plain[3].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        for number, (inputs, _) in enumerate(images.batches("train", 64, seed=1, shuffle=True)):
            if number < 3:
                with torch.no_grad():
                    plain(*inputs.values())
        means = torch.stack([item.mean((0, 2, 3)) for item in seen]).mean(0)
        variances = torch.stack([item.var((0, 2, 3)) for item in seen]).mean(0)
        assert torch.allclose(again[3].running_mean, means, atol=1e-5)
        assert torch.allclose(again[3].running_var, variances, atol=1e-5)
        assert not torch.allclose(plain[3].running_mean, means, atol=1e-5)
        assert torch.equal(plain[2].weight, again[2].weight)
        assert again[3].momentum == 0.1
        assert not again[3].training

    def test_no_statistics(self, images):
        with pytest.raises(Refusal, match="recalibrate"):
            run(start("mlp"), images, recalibrate=1)


class TestReplay:
    def test_history_is_plain(self, images):
        import json

        edit = run(start(), images).edits[0]
        assert edit.calls == "optlang.techniques.prune.pruner:replay"
        assert json.loads(json.dumps(dict(edit.arguments))) == edit.arguments

    def test_shapes_from_examples_alone(self, images):
        from optlang.workload.data.tensors import imagined

        result = run(start("rows"), images)
        edit = result.edits[0]
        again = replay(start("rows").model, edit.arguments, imagined(edit.arguments["example"]))
        wanted = {name: item.shape for name, item in result.model.state_dict().items()}
        assert {name: item.shape for name, item in again.state_dict().items()} == wanted


class TestRefusal:
    def test_nothing_is_left_to_remove(self, images):
        with pytest.raises(Refusal, match=r"ratio 0\.01 with round_to 4") as error:
            run(start(), images, ratio=0.01)
        assert "round_to" in error.value.help

    def test_a_misspelt_layer(self, images):
        with pytest.raises(OptlangError, match=r"'blocks\.2'"):
            run(start("residual"), images, keep=("blocks.2",))

    def test_a_forward_that_breaks_is_the_users(self, images):
        with pytest.raises(OptlangError, match="the model's forward raised RuntimeError: mat1 and mat2"):
            run(start("linear", inputs=5), images)


FOLLOWED = [item for item in NETWORKS if item not in REFUSES]


@pytest.mark.slow
class TestNetworks:
    @pytest.mark.parametrize("network", FOLLOWED)
    def test_pruning_twice_replays_in_order(self, network, images, tmp_path):
        once = apply("prune.channels", wide(network, 32), images, tmp_path, ratio=0.4)
        twice = apply("prune.channels", once, images, tmp_path, ratio=0.4, scope="global", importance="random")
        save.save(twice, tmp_path / "saved")
        loaded = save.load(tmp_path / "saved", STUDY)
        assert len(loaded.edits) == 2
        assert count(loaded) == count(twice) < count(once)
        wanted, found = answers(twice, images), answers(loaded, images)
        assert all(numpy.array_equal(wanted[name], found[name]) for name in wanted)

    @pytest.mark.parametrize("network", FOLLOWED)
    def test_a_pruned_model_learns_again_and_becomes_int8(self, network, images, tmp_path):
        pruned = apply("prune.channels", wide(network), images, tmp_path)
        recovered = apply("training.finetune", pruned, images, tmp_path)
        # Static int8 has no kernel for an LSTM.
        small = apply(f"quant.{'dynamic' if network == 'lstm' else 'static'}", recovered, images, tmp_path)
        assert small.notes["prune.removed_parameters"] == recovered.notes["prune.removed_parameters"]
        wanted, found = answers(recovered, images), answers(small, images)
        name = "logits" if "logits" in wanted else "output"
        assert (wanted[name].argmax(1) == found[name].argmax(1)).mean() >= 0.8

    def test_less_than_one_multiple(self, images, tmp_path):
        with pytest.raises(Refusal, match="round_to 64"):
            apply("prune.channels", start("cnn"), images, tmp_path, round_to=64)

    def test_a_forward_that_counts_its_channels(self, images, tmp_path):
        result = apply("prune.channels", start("counting"), images, tmp_path)
        assert result.model.first.out_channels == 16
        assert result.model.second.out_channels == 8


class Reader(torch.nn.Module):
    """Convolutions, a recurrent layer and linear layers behind it, as recognizers of speech have them."""

    def __init__(self, kind, way, **about):
        super().__init__()
        self.first, self.second = torch.nn.Conv1d(8, 32, 3, padding=1), torch.nn.Conv1d(32, 24, 3, padding=1)
        self.cell = kind(24, 16, batch_first=True, **about)
        width = 32 if about.get("bidirectional") else 16
        self.start, self.skip = torch.nn.Linear(24, 16), torch.nn.Linear(24, width)
        self.middle, self.head, self.way = torch.nn.Linear(width, 32), torch.nn.Linear(32, 10), way

    def forward(self, image):
        rows = torch.relu(self.second(torch.relu(self.first(image[:, 0])))).transpose(1, 2)
        state = self.start(rows.mean(1))[None] if self.way == "started" else None
        if self.way == "packed":
            rows = torch.nn.utils.rnn.pack_padded_sequence(rows, torch.full((len(rows),), 8), batch_first=True)
        answer, last = self.cell(rows, state)
        if self.way == "packed":
            answer, _ = torch.nn.utils.rnn.pad_packed_sequence(answer, batch_first=True)
        if self.way == "added":
            answer = answer + self.skip(rows)
        if self.way == "state":
            last = last[0] if isinstance(last, tuple) else last
            answer = last.transpose(0, 1).flatten(1)[:, None]
        return self.head(torch.relu(self.middle(answer[:, -1])))


def read(images, kind, way, **about):
    torch.manual_seed(0)
    state = ModelState("module", Reader(kind, way, **about).eval(), Factory("unused:here"))
    return state, run(state, images)


class TestRecurrentLayers:
    @pytest.mark.parametrize(
        ("kind", "way", "both"),
        [("LSTM", "last", False), ("LSTM", "packed", True), ("GRU", "state", True), ("GRU", "last", True),
         ("RNN", "packed", False)],
    )
    def test_layers_before_and_behind_are_cut(self, images, kind, way, both):
        state, result = read(images, getattr(torch.nn, kind), way, bidirectional=both)
        model = result.model
        assert (model.first.out_channels, model.second.out_channels, model.cell.input_size) == (16, 12, 12)
        assert (model.cell.hidden_size, model.middle.out_features, model.head.in_features) == (16, 16, 16)
        assert result.notes["prune.left"]["cell"].endswith(f"{kind}, whose hidden units channels cannot remove")
        fresh = replay(copy.deepcopy(state.model), result.edits[-1].arguments, images.bind(state.model).example(2))
        fresh.load_state_dict(model.state_dict())
        example = images.bind(state.model).example(4)
        with torch.no_grad():
            assert torch.equal(fresh(**example), model(**example))

    @pytest.mark.parametrize(
        ("way", "layer", "why"),
        [("added", "skip", "its channels go with the hidden units of cell, which is a GRU"),
         ("started", "start", "its channels are the first state of cell, which is a GRU")],
    )
    def test_channels_that_go_with_hidden_units_stay(self, images, way, layer, why):
        _, result = read(images, torch.nn.GRU, way)
        assert result.notes["prune.left"][layer] == why
        assert getattr(result.model, layer).out_features == 16
        assert result.model.cell.input_size == 12

    def test_a_layer_of_its_own_class_keeps_its_inputs(self, images):
        class Own(torch.nn.LSTM):
            pass

        _, result = read(images, Own, "last")
        assert result.notes["prune.left"]["second"].startswith("cell behind it is an Own, a class of its own")
        assert (result.model.first.out_channels, result.model.cell.input_size) == (16, 24)

    def test_nothing_but_a_recurrent_layer(self, images):
        with pytest.raises(Refusal, match=r"no layer is left .* cell: it is a GRU, whose hidden units") as error:
            run(start("recurrent"), images)
        assert error.value.depends == "model"
        assert error.value.help.startswith("units removes hidden units")


class Words(torch.nn.Module):
    """Tables of embeddings that a recurrent layer takes, and a head."""

    def __init__(self, kind, way, **about):
        super().__init__()
        self.words, self.places = torch.nn.Embedding(20, 24), torch.nn.Embedding(8, 24)
        self.cell = kind(24, 16, batch_first=True, **about)
        self.head, self.way = torch.nn.Linear(32 if about.get("bidirectional") else 16, 10), way

    def forward(self, image):
        rows = self.words((image[:, 0, 2] * 19).long().clamp(0, 19))
        if self.way == "placed":
            rows = rows + self.places(torch.arange(8))
        if self.way == "packed":
            lengths = torch.full((len(rows),), rows.shape[1])
            rows = torch.nn.utils.rnn.pack_padded_sequence(rows, lengths, batch_first=True)
        answer, _ = self.cell(rows)
        if self.way == "packed":
            answer, _ = torch.nn.utils.rnn.pad_packed_sequence(answer, batch_first=True)
        return self.head(answer[:, -1])


def worded(images, kind, way, both=False, **changed):
    torch.manual_seed(0)
    state = ModelState("module", Words(kind, way, bidirectional=both).eval(), Factory("unused:here"))
    return state, run(state, images, **changed)


class TestTables:
    """The width of embeddings that a recurrent layer takes."""

    @pytest.mark.parametrize(
        ("kind", "way", "both"),
        [("LSTM", "plain", False), ("LSTM", "packed", True), ("GRU", "placed", True), ("RNN", "plain", False)],
    )
    def test_it_is_cut_with_the_inputs_of_the_layer(self, images, kind, way, both):
        state, result = worded(images, getattr(torch.nn, kind), way, both)
        model = result.model
        assert (model.words.embedding_dim, model.cell.input_size, model.cell.hidden_size) == (12, 12, 16)
        assert model.places.embedding_dim == (12 if way == "placed" else 24)
        assert result.notes["prune.removed_channels"] == pytest.approx((24 if way == "placed" else 12) / 58)
        example = images.bind(state.model).example(4)
        (cut,) = result.edits[-1].arguments["history"]
        silent = copy.deepcopy(state.model)
        with torch.no_grad():
            for name, item in silent.named_parameters():
                if name.startswith("cell.weight_ih_l0"):
                    item[:, cut[2]] = 0
            wanted = silent(**example)
            assert torch.allclose(model(**example), wanted, atol=1e-6)
        fresh = replay(copy.deepcopy(state.model), result.edits[-1].arguments, images.bind(state.model).example(2))
        fresh.load_state_dict(model.state_dict())
        with torch.no_grad():
            assert torch.equal(fresh(**example), model(**example))

    def test_those_with_the_least_weights_go(self, images):
        torch.manual_seed(0)
        model = Words(torch.nn.LSTM, "plain").eval()
        with torch.no_grad():
            model.words.weight[:, ::2] *= 0.01
        result = run(ModelState("module", model, Factory("unused:here")), images)
        assert result.edits[-1].arguments["history"][0][2] == [*range(0, 24, 2)]

    @pytest.mark.parametrize("importance", ["l1", "taylor", "fisher", "lamp", "random"])
    def test_each_importance(self, images, importance):
        _, result = worded(images, torch.nn.LSTM, "plain", importance=importance)
        assert result.model.cell.input_size == 12

    def test_only_and_keep(self, images):
        for changed in ({"only": ("head",)}, {"keep": ("words",)}):
            with pytest.raises(Refusal, match="nothing was removed"):
                worded(images, torch.nn.LSTM, "plain", **changed)
        _, result = worded(images, torch.nn.LSTM, "plain", only=("words",))
        assert result.model.words.embedding_dim == 12
