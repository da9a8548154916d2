"""Quantization-aware training: its rounding against ONNX Runtime's, its file against the module that was trained."""

import platform
import statistics
import time
from collections import Counter
from pathlib import Path

import numpy
import onnx
import onnxruntime
import pytest
import safetensors.torch
import torch
from onnxruntime.quantization.quant_utils import compute_scale_zp
from torch import nn

from optlang.interfaces import Context, Factory, ModelState, QuantWants, Refusal, Request, TargetSpec
from optlang.runtimes.shared.processor import overflows
from optlang.runtimes.torch.eager import Eager
from optlang.techniques.quant import qat as qat_module
from optlang.techniques.quant.fake_quantize import Input, Scheme, Weight, grid, levels
from optlang.techniques.quant.qat import qat
from optlang.techniques.quant.static import static
from optlang.techniques.shared.masks import with_masked
from optlang.techniques.training.train import train
from optlang.workload.data import dataset as data_module
from optlang.workload.model.make import initial
from optlang.workload.model.save import load, save
from tests.techniques.states import STUDY, start

REFUSES = {"lstm": r"only \d+% of the weights would be int8: not those of lstm \(LSTM\)"}

# Without the last bit no processor's kernels overflow, so that the file's answers are the same everywhere.
WANTS = QuantWants("uint8", "int8", False, True, True, reduced=True)
TRAINING = {
    "epochs": 8, "lr": 3e-3, "optimizer": "adamw", "schedule": "cosine", "batch": 32, "weight_decay": 0.01,
    "amp": "none", "momentum": 0.9, "warmup": 0.0, "ema": 0.0, "label_smoothing": 0.0, "clip": 0.0, "patience": 0,
}
RANGES = {"calibrator": "minmax", "percentile": None, "bins": None, "samples": 128, "keep": (), "only": ()}
STATIC = RANGES | {"granularity": "auto", "bias_correction": False}
QAT = TRAINING | RANGES | {
    "epochs": 2, "lr": 3e-4, "freeze": 0.6, "ranges": "running", "distill": 0.0, "temperature": 4.0,
}


@pytest.fixture(scope="module")
def images():
    return data_module.load(Factory("networks.py:images", {"count": 800}), STUDY)


def trained(network, data, **changed):
    return train(start(network), TRAINING | changed, Context(data, 1, STUDY, STUDY))


def right(scores, data):
    labels = data.arrays("validation")[1].numpy()
    return int((numpy.asarray(scores).argmax(1) == labels).sum())


def pixels(data):
    return next(iter(data.arrays("validation")[0].values()))


def answers(path, data):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: pixels(data)})[0]


@pytest.fixture
def simulated(monkeypatch):
    """The module as it stood when its training ended."""
    kept = []
    attach = qat_module.train

    def spy(module, *rest):
        attach(module, *rest)
        kept.append(module)

    monkeypatch.setattr(qat_module, "train", spy)
    return kept


class TestRounding:
    @pytest.mark.parametrize("scheme", [
        Scheme("uint8", False), Scheme("int8", True), Scheme("int8", False), Scheme("int8", True, True)
    ])
    @pytest.mark.parametrize(("low", "high"), [(-1.3, 2.7), (0.0, 4.1), (-0.5, -0.1), (0.2, 0.9)])
    def test_the_grid_is_onnx_runtimes(self, scheme, low, high):
        least, most = (numpy.array(end, dtype=numpy.int32) for end in levels(scheme))
        zero, scale = compute_scale_zp(
            numpy.array(low, numpy.float32), numpy.array(high, numpy.float32), least, most, scheme.symmetric
        )
        found = grid(torch.tensor(low), torch.tensor(high), scheme)
        assert (found[0].item(), found[1].item()) == (pytest.approx(float(scale), rel=1e-6), float(zero))

    def test_weights_are_numpys_rounding(self):
        weight = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(1))
        found = Weight(QuantWants("uint8", "int8", False, True, True), 0, None)(weight).numpy()
        values = weight.numpy()
        scale = (numpy.abs(values).max(axis=(1, 2, 3), keepdims=True) / 127).astype(numpy.float32)
        assert numpy.allclose(found, numpy.round(values / scale) * scale, rtol=1e-6, atol=0)

    def test_a_folded_norm_is_rounded_with_the_weight(self):
        layer, norm = nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5)
        with torch.no_grad():
            norm.running_var.copy_(torch.rand(5) + 0.1)
            norm.weight.copy_(torch.randn(5))
            folded = Weight(WANTS, 0, norm)(layer.weight)
            factor = (norm.weight / (norm.running_var + norm.eps).sqrt()).reshape(-1, 1, 1, 1)
            scale = (layer.weight * factor).abs().amax((1, 2, 3), keepdim=True) / 64
            steps = folded * factor / scale
        assert torch.allclose(steps, steps.round(), atol=1e-3)

    def test_the_gradient_goes_straight_through_and_stops_outside(self):
        values = torch.tensor([[-3.0, -0.4, 0.3, 3.0]], requires_grad=True)
        hook = Input(QuantWants("uint8", "int8", False, True, True), -1.0, 1.0, False)
        (result,) = hook(nn.Identity(), (values,))
        result.sum().backward()
        assert values.grad.tolist() == [[0.0, 1.0, 1.0, 0.0]]


@pytest.mark.slow
class TestFile:
    @pytest.mark.parametrize("network", ["cnn", "residual"])
    def test_it_answers_as_the_training_did_and_is_built_as_the_static_one(self, network, images, tmp_path, simulated):
        state = trained(network, images)
        result = qat(state, QAT, Context(images, 1, tmp_path / "qat", STUDY, WANTS))
        with torch.no_grad():
            wanted = right(simulated[0](torch.from_numpy(pixels(images))).numpy(), images)
        # The file rounds the sums and the answers too.
        assert abs(right(answers(result.model, images), images) - wanted) <= 1
        other = static(state, STATIC, Context(images, 1, tmp_path / "static", STUDY, WANTS))
        kinds = [Counter(n.op_type for n in onnx.load(item.model).graph.node) for item in (result, other)]
        assert kinds[0] == kinds[1]
        assert result.notes["quantize.weights"] == other.notes["quantize.weights"]

    def test_it_wins_back_what_static_loses(self, images, tmp_path):
        """One large row in a weight of one scale: the same function, and hardly a level left for the other rows."""
        state = trained("mlp", images)
        with torch.no_grad():
            state.model[1].weight[0] *= 60
            state.model[1].bias[0] *= 60
            state.model[3].weight[:, 0] /= 60
        wants = QuantWants("uint8", "int8", False, True, False, reduced=True)
        lost = static(state, STATIC, Context(images, 1, tmp_path / "static", STUDY, wants))
        won = qat(state, QAT | {"epochs": 8, "lr": 3e-3}, Context(images, 1, tmp_path / "qat", STUDY, wants))
        plain = right(state.model(torch.from_numpy(pixels(images))).detach().numpy(), images)
        assert right(answers(lost.model, images), images) <= plain - 2
        assert right(answers(won.model, images), images) > right(answers(lost.model, images), images)

    def test_it_runs_as_fast_as_the_static_one(self, images, tmp_path):
        state = start(width=32)
        context = [Context(images, 1, tmp_path / name, STUDY, WANTS) for name in ("qat", "static")]
        files = [qat(state, QAT | {"epochs": 1}, context[0]).model, static(state, STATIC, context[1]).model]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        sessions = [
            onnxruntime.InferenceSession(str(item), options, providers=["CPUExecutionProvider"]) for item in files
        ]
        given = {sessions[0].get_inputs()[0].name: pixels(images)[:32]}

        def ratio():
            times = ([], [])
            for _ in range(60):
                for session, taken in zip(sessions, times, strict=True):
                    began = time.perf_counter()
                    session.run(None, given)
                    taken.append(time.perf_counter() - began)
            return statistics.median(times[0]) / statistics.median(times[1])

        assert min(ratio() for _ in range(5)) <= 1.1

    def test_zeros_stay_zero(self, images, tmp_path, simulated):
        state = trained("mlp", images, epochs=1)
        with torch.no_grad():
            state.model[1].weight[:, ::2] = 0
        state = ModelState("module", state.model, state.factory, (), with_masked(state, ["1.weight"]))
        qat(state, QAT, Context(images, 1, tmp_path, STUDY, WANTS))
        assert not simulated[0][1].weight[:, ::2].any()
        assert simulated[0][1].weight[:, 1::2].any()

    def test_what_is_frozen_stays(self, images, tmp_path, simulated):
        state = trained("cnn", images, epochs=1)
        mean = state.model[3].running_mean.clone()
        qat(state, QAT | {"freeze": 0.0}, Context(images, 1, tmp_path / "a", STUDY, WANTS))
        qat(state, QAT | {"freeze": 1.0}, Context(images, 1, tmp_path / "b", STUDY, WANTS))
        assert torch.equal(simulated[0][3].running_mean, mean)
        assert not torch.equal(simulated[1][3].running_mean, mean)

    def test_distilling_asks_the_baseline(self, images, tmp_path):
        state, asked = trained("mlp", images, epochs=1), []

        def baseline():
            asked.append(True)
            return state

        files = [
            Path(qat(
                state, QAT | {"epochs": 1, "distill": share},
                Context(images, 1, tmp_path / str(share), STUDY, WANTS, baseline=baseline),
            ).model).read_bytes()
            for share in (0.0, 0.5)
        ]
        assert asked == [True]
        assert files[0] != files[1]


def test_a_layer_under_two_names_is_trained_once(images, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.stem = nn.Linear(64, 16)\n        self.first = self.second = nn.Linear(16, 16)\n"
        "        self.head = nn.Linear(16, 10)\n\n    def forward(self, images):\n"
        "        x = self.stem(images.flatten(1)).relu()\n"
        "        return self.head(self.second(self.first(x).relu()).relu())\n"
    )
    made = initial(Factory("mine.py:Net"), tmp_path, images.example(1))
    result = qat(made, QAT | {"epochs": 1}, Context(images, 1, tmp_path, tmp_path, WANTS))
    assert result.form == "onnx"
    assert numpy.isfinite(answers(result.model, images)).all()


@pytest.mark.slow
@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="eager's int8 with ranges is for x86")
class TestLeftToTheRuntime:
    """Eager makes int8 of a module itself, and is left the weights and the ranges."""

    def context(self, data, folder):
        return Context(data, 1, folder, STUDY, Eager().wants(), performed=True)

    def built(self, state, data, folder):
        folder.mkdir()
        return Eager().build(state, TargetSpec("here"), {}, folder, data.bind(state.model), STUDY)

    def scores(self, artifact, data):
        session = Eager().open(artifact, TargetSpec("here"), {}, STUDY)
        found = session.collect(session.run(session.prepare(data.bind(artifact.inputs).arrays("validation")[0])))
        session.close()
        return found["output"]

    @pytest.mark.parametrize(("network", "settings"), [
        ("residual", {}), ("mlp", {"calibrator": "percentile", "percentile": 99.0, "ranges": "fixed"}),
    ])
    def test_it_answers_as_the_training_did_in_a_file_like_the_static_one(
        self, network, settings, images, tmp_path, simulated
    ):
        state = trained(network, images, epochs=2)
        result = qat(state, QAT | settings, self.context(images, tmp_path))
        assert (result.form, result.requests[0].technique) == ("graph", "qat")
        save(result, tmp_path / "saved")
        result = load(tmp_path / "saved", STUDY)
        artifact = self.built(result, images, tmp_path / "qat")
        with torch.no_grad():
            wanted = right(simulated[0](torch.from_numpy(pixels(images))).numpy(), images)
        # The kernels of convolutions round what they give too.
        assert abs(right(self.scores(artifact, images), images) - wanted) <= 1
        other = ModelState("graph", state.model, state.factory, requests=(Request("static", STATIC),))
        plain = self.built(other, images, tmp_path / "static")
        assert artifact.files[0].bytes == plain.files[0].bytes
        assert artifact.about["int8"] == plain.about["int8"]
        learned = result.requests[0].settings["learned"]
        assert len(learned) == result.notes["qat.layers"] > 2
        stored = safetensors.torch.load_file(artifact.folder / "model.safetensors")
        before = safetensors.torch.load_file(plain.folder / "model.safetensors")
        for layer, (low, high) in learned.items():
            levels = 127 if overflows() else 255
            step = (max(high, 0.0) - min(low, 0.0)) / levels
            assert stored[f"{layer}.ranges"][0].item() == pytest.approx(step, rel=1e-5)
        assert any(not torch.equal(stored[f"{layer}.ranges"][:2], before[f"{layer}.ranges"][:2]) for layer in learned)

    def test_code_that_cannot_be_exported_is_trained(self, images, tmp_path):
        (tmp_path / "choice.py").write_text(
            "from torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
            "        self.stem, self.head = nn.Linear(64, 64), nn.Linear(64, 10)\n\n    def forward(self, images):\n"
            "        x = self.stem(images.flatten(1))\n"
            "        return self.head(x.relu() if images.sum().item() > 3 else x)\n"
        )
        state = initial(Factory("choice.py:Net"), tmp_path, images.example(1))
        context = Context(images, 1, tmp_path, tmp_path, Eager().wants(), performed=True)
        result = qat(state, QAT | {"epochs": 1}, context)
        assert list(result.requests[0].settings["learned"]) == ["stem", "head"]
        artifact = Eager().build(result, TargetSpec("here"), {}, tmp_path, images.bind(state.model), tmp_path)
        assert artifact.about["int8"]["weights"] == 1.0

    def test_layers_without_kernels_are_refused_before_the_training(self, images, tmp_path, simulated):
        with pytest.raises(Refusal, match=r"only \d+% .* int8: not those of lstm \(recurrent\)") as error:
            qat(start("lstm"), QAT, self.context(images, tmp_path))
        assert error.value.depends == "model"
        assert not simulated
