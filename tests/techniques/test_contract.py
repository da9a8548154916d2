"""What every technique of the standard library must do, on networks of several structures."""

import copy
import re
from pathlib import Path

import numpy
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from torch.utils.flop_counter import FlopCounterMode

from optlang.interfaces import Context, Factory, ModelState, OptlangError, Refusal
from optlang.runtimes.onnxruntime.build import OnnxRuntime
from optlang.techniques.shared.proof import proved, shared
from optlang.workload import imports
from optlang.workload.data import dataset as data_module
from optlang.workload.model.call import call
from optlang.workload.model.make import make
from optlang.workload.model.save import load, save

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "tests" / "fixtures" / "models"
# Plain, residual with shared modules, depthwise, U-Net with concatenation, Transformer encoder, LSTM.
KINDS = ("cnn", "residual", "depthwise", "unet", "encoder", "lstm")
NETWORKS = (*KINDS, "mlp", "joined", "rows", "tied", "grouped")
# Enough to see a seed that is not used.
SEEDED = ("cnn", "residual", "encoder")
# What a technique cannot do: the refusal names the layer. Every other pair must work.
REFUSED = {("distill", "lstm"): "lstm is an LSTM"}
BY_CHANNELS = ("channels", "channels_to_budget", "channels_to_latency", "widths")
REFUSED |= dict.fromkeys([(item, "lstm") for item in BY_CHANNELS], "lstm is an LSTM")
ONE = r"first\.weight and second\.weight are one weight"
REFUSED |= dict.fromkeys([(item, "tied") for item in (*BY_CHANNELS, "distill")], ONE)
# What there is none of.
NORMED = ("cnn", "residual", "depthwise", "unet")
REFUSED |= {("fold", item): "no BatchNorm to fold" for item in NETWORKS if item not in NORMED}
REFUSED |= {("clean", item): "no Dropout and no Identity" for item in NETWORKS}
REFUSED |= {("untie", item): "nothing to untie" for item in NETWORKS if item not in ("residual", "unet")}
REFUSED |= {("heads", item): "no layer is an nn.MultiheadAttention" for item in NETWORKS if item != "encoder"}
REFUSED |= {("constants", item): "no constant to fold" for item in NETWORKS if item != "encoder"}
REFUSED |= {("units", item): "no layer is an nn.LSTM" for item in NETWORKS if item != "lstm"}
REFUSED |= {("channels_last", item): "no layer is a" for item in ("encoder", "lstm", "mlp", "rows", "tied")}
REFUSED |= {("equalize", "lstm"): "Select is before head", ("equalize", "tied"): "weights of second or first"}
REFUSED |= {("smooth", item): "no LayerNorm and no RMSNorm" for item in NETWORKS if item not in ("rows", "encoder")}
REFUSED |= {(item, "lstm"): r"only \d+% of the weights would be int8: not those of lstm \(LSTM\)"
            for item in ("static", "mixed", "qat")}
# Its norms are last: the residuals take what they give too.
REFUSED |= {("smooth", "encoder"): "something else takes what encoder.layers.0.norm1 gives"}
WANTS = OnnxRuntime().wants()

_TRAINING = {
    "epochs": 2, "lr": 3e-3, "optimizer": "adamw", "schedule": "cosine", "batch": 64, "weight_decay": 0.01,
    "momentum": 0.9, "amp": "none", "warmup": 0.0, "ema": 0.0, "label_smoothing": 0.0, "clip": 0.0, "patience": 0,
}
_CHANNELS = {
    "importance": "l2", "samples": None, "scope": "layer", "round_to": 4, "keep": (), "only": (), "recalibrate": 0,
}
SETTINGS = {
    "equalize": {},
    "smooth": {"alpha": 0.5, "samples": 64},
    "fold": {},
    "clean": {},
    "untie": {},
    "constants": {},
    "channels_last": {},
    "train": _TRAINING,
    "finetune": _TRAINING,
    "distill": _TRAINING | {
        "student": None, "teacher": None, "teachers": None, "width": 0.5, "start": "kept", "alpha": 0.5,
        "temperature": 4.0, "hint": 0.0, "attention": 0.0,
    },
    "channels": {"ratio": 0.5, **_CHANNELS},
    "channels_to_budget": {"resource": "macs", "share": 0.5, **_CHANNELS},
    "channels_to_latency": {"limit": "share", "share": 0.5, "time": None, **_CHANNELS},
    "widths": {"resource": "macs", "share": 0.5, "levels": 2, "scored": 64, **_CHANNELS},
    "heads": {"ratio": 0.5, "importance": "l2", "samples": None, "scope": "layer", "keep": (), "only": ()},
    "units": {"ratio": 0.5, "importance": "l2", "samples": None, "round_to": 4, "keep": (), "only": ()},
    "magnitude": {
        "sparsity": 0.5, "relative_to": "all", "scope": "layer", "importance": "l1", "samples": None, "keep": (),
        "only": (),
    },
    "two_four": {"keep": (), "only": ()},
    "rewind": {"checkpoint": None, "to": "start"},
    "dynamic": {"operators": "auto", "keep": (), "only": ()},
    "half": {"dtype": "float16", "sensitive": True, "keep": (), "only": ()},
    "static": {
        "calibrator": "minmax", "percentile": None, "bins": None, "samples": 64, "granularity": "auto",
        "bias_correction": False, "keep": (), "only": (),
    },
    "mixed": {
        "budget": "accuracy", "max_drop": 0.1, "held_out": 64, "share": None, "calibrator": "minmax",
        "percentile": None, "bins": None, "samples": 64, "granularity": "auto", "keep": (), "only": (),
    },
    "weight_only": {"bits": 8, "group": None, "symmetric": True, "keep": (), "only": ()},
    "qat": _TRAINING | {
        "epochs": 1, "freeze": 0.6, "ranges": "running", "calibrator": "minmax", "percentile": None, "bins": None,
        "samples": 64, "distill": 0.0, "temperature": 4.0, "keep": (), "only": (),
    },
}
GIVES = dict.fromkeys(("train", "finetune", "distill", "channels", "heads", "magnitude", "two_four", "half"), "module")
GIVES |= {"rewind": "module", "units": "module"}
GIVES |= {"equalize": "module", "smooth": "module"}
GIVES |= dict.fromkeys(("fold", "clean", "untie", "channels_last"), "module")
GIVES |= dict.fromkeys(("dynamic", "static", "weight_only", "qat", "constants"), "onnx")
GIVES |= {"mixed": "onnx"}
GIVES |= dict.fromkeys(BY_CHANNELS, "module")
MODELS = ("student", "teacher", "teachers", "checkpoint")
# Those that choose layers by name.
CHOOSING = (
    *BY_CHANNELS, "heads", "units", "magnitude", "two_four", "dynamic", "static", "mixed", "weight_only", "qat", "half",
)

pytestmark = pytest.mark.slow


def pairs(networks, techniques=tuple(SETTINGS)):
    """The techniques with the networks that they do not refuse."""
    return [(item, network) for item in techniques for network in networks if (item, network) not in REFUSED]


def declared():
    """The techniques that the standard library declares, with the objects that they name."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "stdlib").glob("*.opt")))
    return dict(re.findall(r'^technique (\w+) [^\n]*\n\s+calls "([^"]+)"', text, flags=re.MULTILINE))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def images():
    return data_module.load(Factory("networks.py:images"), STUDY)


def start(network, **arguments):
    factory = Factory(f"networks.py:{network}", arguments)
    return ModelState("module", make(factory, STUDY), factory)


def wide(network, width=64):
    """The network with more channels, so that there is something to win; a U-Net's are more as it is."""
    return start(network) if network == "tied" else start(network, width=width // 4 if network == "unet" else width)


def given(technique, network, data, folder):
    """What the technique begins with: the network, and where one sets a pruning back, that pruned and trained."""
    state = start(network)
    if technique == "rewind":
        state = apply("finetune", apply("magnitude", state, data, folder), data, folder)
    return state


def apply(technique, state, data, folder, seed=3, **changed):
    function = imports.find(declared()[technique], STUDY)
    # As long as there is to multiply: what really takes how long is not in question here.
    clock = {"latency": lambda item: 1e-9 * macs(item)}
    context = Context(data, seed, folder, STUDY, WANTS, baseline=lambda: state, **clock)
    settings = SETTINGS[technique] | changed
    # A study gives no setting whose `when` does not hold; only a model may be none.
    there = {name: value for name, value in settings.items() if value is not None or name in MODELS}
    result = function(state, there, context)
    proved(state, result, context)  # as a run does after each step
    return result


def choosing(technique):
    """A network that has layers for the technique to choose among, and a "head"."""
    return {"heads": "encoder", "units": "lstm"}.get(technique, "residual")


def answers(state, data, count=16):
    inputs = {name: item[:count] for name, item in data.arrays("validation")[0].items()}
    if state.form == "module":
        data = data.bind(state.model)
        inputs = dict(zip(data.input_names, inputs.values(), strict=True))
        with torch.no_grad():
            tensors = {name: torch.from_numpy(item) for name, item in inputs.items()}
            return {name: item.numpy() for name, item in call(state.model, tensors).items()}
    session = onnxruntime.InferenceSession(str(state.model), providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]
    given = dict(zip(names, inputs.values(), strict=True))
    return dict(zip([item.name for item in session.get_outputs()], session.run(None, given), strict=True))


def macs(state):
    """By torch's counter, which knows nothing of the kernels that run a whole encoder layer or LSTM at once."""
    fast, onednn = torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled
    torch.backends.mha.set_fastpath_enabled(False)
    torch.backends.mkldnn.enabled = False
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            state.model(torch.zeros(1, 1, 8, 8))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch.backends.mkldnn.enabled = onednn
    return counter.get_total_flops() // 2


def count(state):
    return sum(item.numel() for item in state.model.parameters())


def test_every_declared_technique_is_held_to_the_contract():
    assert set(declared()) == set(SETTINGS)


def test_what_is_refused_is_declared():
    assert {technique for technique, _ in REFUSED} <= set(SETTINGS)
    assert {network for _, network in REFUSED} <= set(NETWORKS)


class TestContract:
    @pytest.mark.parametrize(("technique", "network"), pairs(NETWORKS))
    def test_answers_keep_their_shapes_and_the_given_subject_stays(
        self, technique, network, images, tmp_path, monkeypatch
    ):
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        state = given(technique, network, images, tmp_path)
        before = copy.deepcopy(state.model.state_dict())
        wanted = answers(state, images)
        result = apply(technique, state, images, tmp_path)
        found = answers(result, images)
        assert result.form == GIVES[technique]
        assert {name: item.shape for name, item in found.items()} == {name: item.shape for name, item in wanted.items()}
        assert all(numpy.isfinite(item).all() for item in found.values())
        after = state.model.state_dict()
        assert list(after) == list(before)
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert not state.model.training
        assert not list((tmp_path / "here").iterdir())

    @pytest.mark.parametrize(("technique", "network"), pairs(KINDS))
    def test_result_survives_the_disk(self, technique, network, images, tmp_path):
        result = apply(technique, given(technique, network, images, tmp_path), images, tmp_path / "result")
        save(result, tmp_path / "saved")
        loaded = load(tmp_path / "saved", STUDY)
        assert (loaded.form, loaded.edits, loaded.factory) == (result.form, result.edits, result.factory)
        assert loaded.notes == result.notes
        wanted, found = answers(result, images), answers(loaded, images)
        assert all(numpy.array_equal(wanted[name], found[name]) for name in wanted)
        assert not list((tmp_path / "saved").glob("*.p*"))

    @pytest.mark.parametrize(("technique", "network"), pairs(SEEDED))
    def test_one_seed_one_result(self, technique, network, images, tmp_path):
        state = given(technique, network, images, tmp_path)
        first, second = (apply(technique, state, images, tmp_path / name) for name in ("a", "b"))
        if first.form == "module":
            one, other = first.model.state_dict(), second.model.state_dict()
            assert all(torch.equal(one[name], other[name]) for name in one)
        else:
            assert Path(first.model).read_bytes() == Path(second.model).read_bytes()

    @pytest.mark.parametrize(("technique", "network"), REFUSED)
    def test_a_refusal_names_the_layer(self, technique, network, images, tmp_path):
        state = start(network)
        before = copy.deepcopy(state.model.state_dict())
        with pytest.raises(Refusal, match=REFUSED[technique, network]):
            apply(technique, state, images, tmp_path)
        assert all(torch.equal(before[name], item) for name, item in state.model.state_dict().items())


class TestSharing:
    """Two linear layers with one weight, and a table of words that is the last layer's matrix too."""

    @pytest.mark.parametrize("network", ["tied", "words"])
    @pytest.mark.parametrize("technique", [name for name, gives in GIVES.items() if gives == "module"])
    def test_weights_that_layers_share_stay_shared(self, technique, network, images, tmp_path):
        state = given(technique, network, images, tmp_path)
        # What there is nothing of in these networks, or would cut the weight in one layer alone.
        why = REFUSED.get((technique, "mlp" if network == "words" else network))
        if why:
            with pytest.raises(Refusal, match=why):
                apply(technique, state, images, tmp_path)
            return
        result = apply(technique, state, images, tmp_path)
        assert shared(result.model) == shared(state.model)
        one, other = shared(result.model)[0]
        assert result.model.get_parameter(one) is result.model.get_parameter(other)
        save(result, tmp_path / "saved")
        loaded = load(tmp_path / "saved", STUDY)
        assert shared(loaded.model) == shared(state.model)
        assert count(loaded) == count(result) <= count(state)


class TestEffect:
    @pytest.mark.parametrize(("technique", "network"), pairs(KINDS, ("train", "finetune")))
    def test_training_lowers_the_loss_and_nothing_else(self, technique, network, images, tmp_path):
        state = start(network)
        epochs = []
        function = imports.find(declared()[technique], STUDY)
        result = function(state, _TRAINING, Context(images, 3, tmp_path, STUDY, report=epochs.append))
        losses = [
            images.task.metrics(answers(item, images, 200), images.arrays("validation")[1])["loss"]
            for item in (state, result)
        ]
        assert losses[1] < losses[0]
        assert [(item["epoch"], item["epochs"]) for item in epochs] == [(1, 2), (2, 2)]
        assert epochs[1]["loss"] < epochs[0]["loss"]
        assert (count(result), macs(result), result.edits) == (count(state), macs(state), ())

    @pytest.mark.parametrize(("technique", "network"), pairs(NETWORKS, ("channels",)))
    def test_pruning_removes_parameters_and_operations(self, technique, network, images, tmp_path):
        state = start(network)
        result = apply(technique, state, images, tmp_path)
        assert count(result) < 0.8 * count(state)
        assert macs(result) < 0.8 * macs(state)
        assert result.notes["prune.removed_parameters"] == pytest.approx(1 - count(result) / count(state))
        assert 0 < result.notes["prune.removed_channels"] <= 0.5

    @pytest.mark.parametrize(("technique", "network"), pairs(NETWORKS, ("channels",)))
    def test_pruning_twice_replays_in_order(self, technique, network, images, tmp_path):
        once = apply(technique, wide(network, 32), images, tmp_path, ratio=0.4)
        twice = apply(technique, once, images, tmp_path, ratio=0.4, scope="global", importance="random")
        save(twice, tmp_path / "saved")
        loaded = load(tmp_path / "saved", STUDY)
        assert len(loaded.edits) == 2
        assert count(loaded) == count(twice) < count(once)
        wanted, found = answers(twice, images), answers(loaded, images)
        assert all(numpy.array_equal(wanted[name], found[name]) for name in wanted)

    @pytest.mark.parametrize(("technique", "network"), pairs(NETWORKS, ("channels",)))
    def test_a_pruned_model_learns_again_and_becomes_int8(self, technique, network, images, tmp_path):
        pruned = apply(technique, wide(network), images, tmp_path)
        recovered = apply("finetune", pruned, images, tmp_path)
        small = apply("static", recovered, images, tmp_path)
        assert small.notes["prune.removed_parameters"] == recovered.notes["prune.removed_parameters"]
        wanted, found = answers(recovered, images), answers(small, images)
        name = "logits" if "logits" in wanted else "output"
        assert (wanted[name].argmax(1) == found[name].argmax(1)).mean() >= 0.8

    @pytest.mark.parametrize(("technique", "network"), pairs(NETWORKS, ("dynamic", "static", "weight_only", "qat")))
    def test_quantizing_makes_weights_int8_and_the_file_smaller(self, technique, network, images, tmp_path):
        from optlang.workload.export.onnx import export

        state = wide(network)
        export(state, images.bind(state.model), tmp_path / "float.onnx", STUDY)
        result = apply(technique, state, images, tmp_path / "result")
        model = onnx.load(result.model)
        onnx.checker.check_model(model, full_check=True)
        known = [torch.nn.Conv2d, torch.nn.Linear] + ([torch.nn.ConvTranspose2d] if technique != "dynamic" else [])
        layers = [m for m in state.model.modules() if isinstance(m, tuple(known))]
        attention = [m for m in state.model.modules() if isinstance(m, torch.nn.MultiheadAttention)]
        recurrent = [m for m in state.model.modules() if isinstance(m, torch.nn.LSTM)]
        found = [*(m.weight for m in layers), *(m.in_proj_weight for m in attention)]
        found += [item for m in recurrent for item in m.parameters() if item.ndim > 1]
        weights = {id(item): item.numel() for item in found}
        eight = [
            onnx.numpy_helper.to_array(item) for item in model.graph.initializer
            if item.data_type in (TensorProto.INT8, TensorProto.UINT8) and len(item.dims) > 1
        ]
        # The scale of a group norm may be among them.
        assert sum(weights.values()) <= sum(item.size for item in eight) <= 1.05 * sum(weights.values())
        assert result.notes["quantize.weights"] > (0.8 if (technique, network) == ("dynamic", "unet") else 0.95)
        assert Path(result.model).stat().st_size < 0.5 * (tmp_path / "float.onnx").stat().st_size
        kinds = {node.op_type for node in model.graph.node}
        if technique == "weight_only":
            assert "DequantizeLinear" in kinds
            assert not kinds & {"QuantizeLinear", "DynamicQuantizeLinear"}
        elif technique != "dynamic":
            assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
            biased = sum(m.bias is not None for m in layers)
            stored = [item for item in model.graph.initializer if item.data_type == TensorProto.INT32]
            assert biased == 0 or stored
        else:
            assert kinds & {"MatMulInteger", "ConvInteger"}
            assert ("DynamicQuantizeLSTM" in kinds) == bool(recurrent)
        assert not model.metadata_props
        assert all(not node.doc_string for node in model.graph.node)


class TestOptions:
    @pytest.mark.parametrize(("technique", "changed"), [
        ("static", {"calibrator": "entropy", "bins": 512}), ("static", {"calibrator": "mse", "bins": 512}),
        ("static", {"calibrator": "percentile", "percentile": 99.9}), ("static", {"granularity": "tensor"}),
        ("static", {"bias_correction": True}), ("weight_only", {"symmetric": False}),
        ("weight_only", {"bits": 4, "group": 32}), ("dynamic", {"operators": "all"}),
        ("dynamic", {"keep": ("head",)}),
    ])
    def test_of_int8(self, technique, changed, images, tmp_path):
        state = wide("rows")
        result = apply(technique, state, images, tmp_path, **changed)
        wanted, found = answers(state, images)["output"], answers(result, images)["output"]
        assert found.shape == wanted.shape
        assert numpy.abs(found - wanted).mean() < 0.2 * numpy.abs(wanted).mean()
        plain = apply(technique, state, images, tmp_path / "plain")
        assert Path(result.model).read_bytes() != Path(plain.model).read_bytes()

    @pytest.mark.parametrize(("technique", "changed", "what"), [
        ("weight_only", {"bits": 4, "group": 32}, "in 4 bits"), ("dynamic", {"operators": "linear"}, "int8"),
    ])
    def test_of_linear_layers_in_a_convolutional_net(self, technique, changed, what, images, tmp_path):
        with pytest.raises(Refusal, match=rf"only \d+% .* be {what}: not those of blocks\.0\.first"):
            apply(technique, start("residual"), images, tmp_path, **changed)


class TestRefusal:
    @pytest.mark.parametrize(
        "technique",
        [
            "train", "finetune", *BY_CHANNELS, "heads", "magnitude", "two_four", "rewind", "half", "fold", "untie",
            "equalize", "smooth",
        ],
    )
    def test_a_file_is_no_module(self, technique, images, tmp_path):
        with pytest.raises(Refusal, match="onnx"):
            apply(technique, ModelState("onnx", tmp_path / "model.onnx", Factory("x:y")), images, tmp_path)

    @pytest.mark.parametrize("technique", ["train", "finetune", "qat"])
    def test_nothing_to_train(self, technique, images, tmp_path):
        with pytest.raises(Refusal, match="frozen"):
            apply(technique, start("frozen"), images, tmp_path)

    @pytest.mark.parametrize("technique", CHOOSING)
    def test_an_unknown_layer_in_keep(self, technique, images, tmp_path):
        with pytest.raises(OptlangError, match="haed") as error:
            apply(technique, start(choosing(technique)), images, tmp_path, keep=("haed",))
        assert error.value.help == "did you mean 'head'?"

    @pytest.mark.parametrize("technique", CHOOSING)
    def test_everything_kept(self, technique, images, tmp_path):
        with pytest.raises(Refusal):
            apply(technique, start(choosing(technique)), images, tmp_path, keep=("*",))

    def test_pruning_less_than_one_multiple(self, images, tmp_path):
        with pytest.raises(Refusal, match="round_to 64"):
            apply("channels", start("cnn"), images, tmp_path, round_to=64)

    def test_pruning_a_forward_that_counts_its_channels(self, images, tmp_path):
        result = apply("channels", start("counting"), images, tmp_path)
        assert result.model.first.out_channels == 16
        assert result.model.second.out_channels == 8

    @pytest.mark.parametrize("technique", ["dynamic", "static", "mixed", "qat"])
    def test_no_layer_that_int8_knows(self, technique, images, tmp_path):
        with pytest.raises(Refusal, match="GRU"):
            apply(technique, start("recurrent"), images, tmp_path)

    @pytest.mark.parametrize("technique", ["dynamic", "static", "mixed", "weight_only"])
    def test_quantizing_twice(self, technique, images, tmp_path):
        once = apply(technique, start("cnn"), images, tmp_path / "once")
        with pytest.raises(Refusal, match="already"):
            apply(technique, once, images, tmp_path / "twice")

    @pytest.mark.parametrize("technique", ["dynamic", "static", "mixed", "weight_only", "qat"])
    def test_a_model_too_small_to_win(self, technique, images, tmp_path):
        with pytest.raises(Refusal, match="larger"):
            apply(technique, start("mlp", width=1), images, tmp_path)
