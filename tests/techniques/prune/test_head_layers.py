"""Attention that is found by its structure: written by hand, in Transformers and in timm.

The reference is the whole model with gates of zero on the answers of the heads that went.
"""

import copy
import json
import runpy
from dataclasses import asdict

import pytest
import torch

from optlang.interfaces import Context, Factory, Refusal
from optlang.techniques.prune.channels import channels
from optlang.techniques.prune.head_code import rewrite
from optlang.techniques.prune.heads import heads
from optlang.techniques.shared.proof import proved
from optlang.techniques.training.finetune import finetune
from optlang.workload.data import dataset as data_module
from optlang.workload.export.onnx import export
from optlang.workload.model.call import call
from optlang.workload.model.save import load, save
from tests.techniques.conftest import TRAINING
from tests.techniques.states import STUDY, made, proved_by

SETTINGS = {"ratio": 0.5, "importance": "l2", "samples": 32, "scope": "layer", "keep": (), "only": ()}
CUT = {
    "ratio": 0.5, "importance": "l2", "samples": None, "scope": "layer", "round_to": 1, "keep": (), "only": (),
    "recalibrate": 0,
}
PACKAGED = runpy.run_path(str(STUDY / "packaged.py"))  # the study's module is imported by what is tested
MODELS, package = PACKAGED["MODELS"], PACKAGED["package"]

pytestmark = pytest.mark.slow


def start(calls="attention.py:net", **arguments):
    return made(calls, **arguments)


def run(state, data, seed=1, **changed):
    return proved_by(heads, state, data, SETTINGS | changed, seed)


def answers(model, data):
    with torch.no_grad():
        return model(*data.example(32).values())


def kept(state, result, layer="first"):
    """The heads that are left, found by their rows in a weight of the layer."""
    for name, axis, count in (("q.weight", 0, 4), ("c_attn.weight", 0, 12), ("qkv.weight", 0, 12), ("wq.weight", 0, 4),
                              ("to_q", 1, 4)):
        try:
            whole, cut = (item.model.get_parameter(f"{layer}.{name}") for item in (state, result))
        except AttributeError:
            continue
        rows = [item.flatten() for item in whole.movedim(axis, 0)]
        left = [next(i for i, row in enumerate(rows) if torch.equal(row, item.flatten())) for item in
                cut.movedim(axis, 0)]
        size = len(rows) // count
        return sorted({row // size % 4 for row in left})
    raise AssertionError("no weight of queries")


def silent(state, result):
    model = copy.deepcopy(state.model)
    for name in ("first", "second"):
        stay = kept(state, result, name)
        getattr(model, name).gates = [float(head in stay) for head in range(4)]
    return model


class TestByHand:
    @pytest.mark.parametrize("kind", ["separate", "fused", "literal", "sized", "grouped", "relative"])
    def test_the_answers_are_those_without_the_heads(self, lines, tmp_path, kind):
        state = start(first=kind)
        result = run(state, lines)
        assert result.notes["prune.removed_heads"] == 0.5
        assert result.notes["prune.heads"] == {"first": 2, "second": 2}
        assert "prune.left" not in result.notes
        assert [len(kept(state, result, name)) for name in ("first", "second")] == [2, 2]
        found = answers(result.model, lines)
        assert torch.allclose(found, answers(silent(state, result), lines), atol=2e-6)
        assert not torch.allclose(found, answers(state.model, lines), atol=1e-3)
        edits = [asdict(item) for item in result.edits]
        assert json.loads(json.dumps(edits)) == edits
        save(result, tmp_path)
        assert torch.equal(answers(load(tmp_path, STUDY).model, lines), found)
        # The batch is no number of the code.
        with torch.no_grad():
            assert result.model(lines.example(5)["input"]).shape == (5, 4)

    def test_layers_keep_the_mode_that_each_is_in(self, lines):
        state = start(first="literal")
        code = run(state, lines).edits[0].arguments["cuts"][0]["code"]
        assert code["module"] == "first"
        state.model.first.proj.train()
        before = {name: layer.training for name, layer in state.model.named_modules()}
        rewrite(state.model, code)
        assert {name: layer.training for name, layer in state.model.named_modules()} == before

    def test_query_heads_go_with_their_key_head(self, lines):
        state = start(first="grouped")
        result = run(state, lines)
        assert [kept(state, result, name) in ([0, 1], [2, 3]) for name in ("first", "second")] == [True, True]
        layer = result.model.first
        assert (layer.n_heads, layer.n_kv_heads, layer.head_dim) == (2, 1, 4)
        assert layer.wk.out_features == 4

    def test_all_parameters_of_a_head_go(self, lines):
        state = start(first="relative", second="separate")
        result = run(state, lines, ratio=0.25)
        model = result.model
        assert model.first.table.shape == (11, 3)
        assert model.first.to_q.shape == (16, 3, 4)
        assert model.first.out.shape == (3, 4, 16)
        second = model.second
        assert (second.num_heads, second.head_dim) == (3, 4)
        assert (second.q.out_features, second.out.in_features) == (12, 12)

    def test_as_many_samples_as_heads(self, lines):
        result = run(start(first="transposed"), lines)
        assert result.notes["prune.heads"] == {"first": 1, "second": 1}
        assert result.model.first.out.in_features == 8

    def test_one_layer_called_twice_is_cut_once(self, lines):
        state = start("attention.py:shared")
        result = run(state, lines)
        assert result.notes["prune.heads"] == {"first": 2}
        assert result.model.first is result.model.second
        assert torch.allclose(answers(result.model, lines), answers(silent(state, result), lines), atol=2e-6)

    def test_two_layers_in_one_forward(self, lines, tmp_path):
        result = run(start("attention.py:flat"), lines)
        assert result.notes["prune.heads"] == {"q": 2, "qkv": 4}
        twice = run(result, lines)
        assert twice.notes["prune.heads"] == {"q": 1, "qkv": 2}
        assert twice.notes["prune.removed_heads"] == 0.75
        save(twice, tmp_path)
        assert torch.equal(answers(load(tmp_path, STUDY).model, lines), answers(twice.model, lines))

    def test_heads_that_read_all_queries_and_keys_leave_those_whole(self, lines):
        state = start(first="mixing", second="separate")
        result = run(state, lines)
        first = result.model.first
        assert [layer.out_features for layer in (first.q, first.k, first.v, first.talk)] == [16, 16, 8, 2]

    @pytest.mark.parametrize("kind", ["separate", "fused", "literal"])
    def test_it_learns_on_and_exports(self, lines, tmp_path, kind):
        context = Context(lines, 1, tmp_path, STUDY)
        result = run(start(first=kind), lines)
        trained = finetune(result, TRAINING | {"epochs": 1}, context)
        assert not torch.equal(answers(trained.model, lines), answers(result.model, lines))
        export(trained, lines.bind(trained.model), tmp_path / "model.onnx", STUDY)  # compares the answers itself
        with torch.no_grad():
            torch.export.export(trained.model, (lines.example(2)["input"],))

    def test_dropout_of_changed_code_is_for_training_alone(self, lines):
        model = run(start(first="fused"), lines).model
        inputs = lines.example(4)["input"]
        with torch.no_grad():
            assert torch.equal(model(inputs), model(inputs))
            model.train()
            assert not torch.equal(model(inputs), model(inputs))

    def test_an_argument_that_was_absent_is_refused(self, lines):
        layer = run(start(first="fused"), lines).model.first
        x = torch.zeros(1, 6, 16)
        assert layer(x, mask=None).shape == x.shape
        with pytest.raises(ValueError, match="mask"):
            layer(x, mask=torch.zeros(6, 6))
        layer = run(start(first="sized"), lines).model.first
        assert layer(x, (2, 3)).shape == layer(x, size=[2, 3]).shape == x.shape
        with pytest.raises(ValueError, match="size"):
            layer(x, size=(6, 1))

    def test_channels_go_around_heads(self, lines, tmp_path):
        context = Context(lines, 1, tmp_path, STUDY)
        thin = channels(run(start(), lines), CUT, context)
        proved(run(start(), lines), thin, context)
        save(thin, tmp_path / "thin")
        assert torch.equal(answers(load(tmp_path / "thin", STUDY).model, lines), answers(thin.model, lines))


class TestImportance:
    def test_norms(self, lines):
        state = start()
        with torch.no_grad():
            state.model.first.k.weight[4:8] *= 0.01
            state.model.first.out.weight[:, 12:] *= 0.01
        result = run(state, lines, only=("first",))
        assert kept(state, result) == [0, 2]
        assert result.notes["prune.heads"] == {"first": 2, "second": 4}

    def test_taylor_is_the_gradient_of_gates(self, lines):
        state = start()
        result = run(state, lines, importance="taylor", samples=32, seed=5, keep=("second",))
        inputs, targets = next(iter(lines.batches("train", 64, seed=5, shuffle=True)))
        gates = torch.ones(4, requires_grad=True)
        scores = torch.zeros(4)
        weight = state.model.first.out.weight.detach()
        for index in range(32):
            own = {"first.out.weight": weight * gates.repeat_interleave(4)}
            x = next(iter(inputs.values()))[index : index + 1]
            answer = torch.func.functional_call(state.model, own, (x,))
            loss = torch.nn.functional.cross_entropy(answer, targets[index : index + 1])
            scores += torch.autograd.grad(loss, gates)[0].abs()
        assert kept(state, result) == sorted(scores.topk(2).indices.tolist())

    def test_random_follows_the_seed(self, lines):
        one, same, other = (run(start(), lines, seed=seed, importance="random").edits for seed in (1, 1, 4))
        assert one == same != other


class TestLeftAlone:
    def test_heads_that_belong_together_are_named(self, lines):
        result = run(start(first="whole", second="separate"), lines)
        assert result.notes["prune.heads"]["second"] == 2
        assert list(result.notes["prune.left"]) == ["first"]
        with pytest.raises(Refusal, match="no attention layer is left to prune: first: its code counts") as refused:
            run(start(first="whole"), lines)
        assert refused.value.depends == "model"

    def test_what_has_no_derivatives_is_named(self, lines):
        result = run(start(first="opaque", second="separate"), lines)
        assert result.notes["prune.heads"] == {"second": 2}
        assert "no derivatives" in result.notes["prune.left"]["first"]

    def test_everything_is_kept(self, lines):
        with pytest.raises(Refusal, match="no attention layer is left to prune") as refused:
            run(start(), lines, keep=("first", "second"))
        assert refused.value.depends == "settings"


# Parameters of two heads of four (of all layers): width 8 times 32, three projections and one behind, and biases.
GONE = {
    "BertForSequenceClassification": 2 * 16 * (4 * 32 + 3),
    "AlbertForSequenceClassification": 16 * (4 * 32 + 3),
    "DistilBertForSequenceClassification": 2 * 16 * (4 * 32 + 3),
    "DebertaV2ForSequenceClassification": 2 * 16 * (6 * 32 + 5),
    "LlamaModel": 2 * (2 * 16 + 2 * 8) * 32,
    "GPT2Model": 2 * 16 * (4 * 32 + 3),
    "T5EncoderModel": 2 * 16 * 4 * 32 + 2 * 32,
    "ViTForImageClassification": 2 * 16 * (4 * 32 + 3),
    "SwinForImageClassification": 2 * (8 * (4 * 16 + 3) + 49 + 16 * (4 * 32 + 3) + 2 * 49),
    "vit_tiny_patch16_224": 2 * 16 * (4 * 32 + 3),
    "beit_base_patch16_224": 2 * (16 * (4 * 32 + 2) + 2 * 52),
    "swin_tiny_patch4_window7_224": 2 * (8 * (4 * 16 + 3) + 49 + 16 * (4 * 32 + 3) + 2 * 49),
}


class TestPackages:
    """Layers of Transformers and timm; the reference is the engine's own proof, and the numbers of parameters."""

    @pytest.mark.parametrize("name", MODELS)
    def test_half_of_the_heads(self, torchvision, tmp_path, name):
        pytest.importorskip(package(name))
        data = data_module.load(Factory("packaged.py:samples", {"name": name}), STUDY)
        state = start("packaged.py:net", name=name)
        result = run(state, data)
        assert result.notes["prune.removed_heads"] == 0.5
        assert "prune.left" not in result.notes
        whole, cut = (sum(item.numel() for item in one.model.parameters()) for one in (state, result))
        assert whole - cut == GONE[name]
        save(result, tmp_path)
        example = data.bind(state.model).example(4)
        found, loaded = call(result.model.eval(), example), call(load(tmp_path, STUDY).model, example)
        assert all(torch.equal(found[key], loaded[key]) for key in found)

    @pytest.mark.filterwarnings("ignore:Exporting aten")  # of indices in the embedding, which heads leaves alone
    @pytest.mark.parametrize("name", ["BertForSequenceClassification", "beit_base_patch16_224"])
    def test_it_learns_on_and_exports(self, torchvision, tmp_path, name):
        pytest.importorskip(package(name))
        data = data_module.load(Factory("packaged.py:samples", {"name": name}), STUDY)
        context = Context(data, 1, tmp_path, STUDY)
        trained = finetune(run(start("packaged.py:net", name=name), data), TRAINING | {"epochs": 1}, context)
        export(trained, data.bind(trained.model), tmp_path / "model.onnx", STUDY)
