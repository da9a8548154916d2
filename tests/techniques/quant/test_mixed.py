"""Mixed precision: scores against a file made by hand, budgets against their own measures, scores that are kept."""

import contextlib
import copy
import io
import math
import warnings
from pathlib import Path

import numpy
import onnx
import onnxruntime
import pytest
import torch
from onnxruntime.quantization import QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from optlang.interfaces import Context, Factory, ModelState, OptlangError, QuantWants, Refusal, TargetSpec
from optlang.measure.latency import Repetitions
from optlang.run import trial
from optlang.run.job import RuntimeJob, StepJob, TargetJob, TrialJob, Workload
from optlang.techniques.quant.mixed import mixed
from optlang.techniques.quant.onnx_graph import load
from optlang.techniques.quant.ort_quantizer import Reader
from optlang.techniques.quant.sensitivity import Layers, answers, sqnr
from optlang.techniques.quant.static import static
from optlang.techniques.training.train import train
from optlang.workload.data import dataset as data_module
from optlang.workload.export.minify import compact
from optlang.workload.export.onnx import export
from optlang.workload.model.make import make

REFUSES = {"lstm": r"only \d+% of the weights would be int8: not those of lstm \(LSTM\)"}

STUDY = Path(__file__).parents[2] / "fixtures" / "models"
SCALES = {
    "calibrator": "minmax", "percentile": None, "bins": None, "samples": 64, "granularity": "auto", "keep": (),
    "only": (),
}
SETTINGS = SCALES | {"budget": "accuracy", "max_drop": 0.01, "held_out": 512, "share": None}
# Wide enough everywhere: what is in question here is no processor's overflow.
WANTS = QuantWants("uint8", "int8", False, True, True)
TRAINING = {
    "epochs": 5, "lr": 3e-3, "optimizer": "adamw", "schedule": "cosine", "batch": 32, "weight_decay": 0.01,
    "amp": "none", "warmup": 0.0, "ema": 0.0, "label_smoothing": 0.0, "clip": 0.0, "patience": 0,
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def images():
    return data_module.load(Factory("networks.py:images", {"count": 1200}), STUDY)


@pytest.fixture(scope="module")
def trained(images):
    factory = Factory("networks.py:cnn", {})
    fresh = ModelState("module", make(factory, STUDY), factory)
    return train(fresh, TRAINING, Context(images, 1, STUDY, STUDY))


@pytest.fixture(scope="module")
def harmed(trained):
    """The same answers, but one channel between the convolutions has five hundred times the range of the others."""
    module = copy.deepcopy(trained.model)
    with torch.no_grad():
        module[0].weight[3] *= 500
        module[0].bias[3] *= 500
        module[2].weight[:, 3] /= 500
    return ModelState("module", module, trained.factory)


def run(state, data, folder, *, memo=None, latency=None, **changed):
    about = {"memo": memo} if memo else {}
    return mixed(state, SETTINGS | changed, Context(data, 1, folder, STUDY, WANTS, latency=latency, **about))


def session_answers(path, values):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: values})[0]


def accuracy(path, data, part="validation"):
    inputs, labels = data.arrays(part)
    return data.task.metrics(session_answers(path, next(iter(inputs.values()))), labels)["accuracy"]


def float_file(state, data, folder):
    export(state, data.bind(state.model), folder / "float.onnx", STUDY)
    return folder / "float.onnx"


class TestScores:
    def test_of_a_layer_alone(self, trained, images, tmp_path):
        found = run(trained, images, tmp_path / "mixed").notes["mixed.sqnr"]
        assert list(found) == sorted(found, key=found.get)
        values = images.calibration(64, 1)
        with torch.no_grad():
            wanted = trained.model(torch.from_numpy(values["input"])).numpy().astype(float)
        prepared, alone = tmp_path / "prepared.onnx", tmp_path / "alone.onnx"
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            quant_pre_process(float_file(trained, images, tmp_path), prepared)
            # The layer, and what follows it without weights.
            for layer, nodes in (
                ("0", ["/0/Conv", "/1/Relu"]),
                ("2", ["/2/Conv", "/4/Relu", "/5/GlobalAveragePool", "/6/Flatten"]), ("7", ["/7/Gemm"]),
            ):
                quantize_static(
                    prepared, alone, Reader(values), nodes_to_quantize=nodes, per_channel=True,
                    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                )
                error = wanted - session_answers(alone, values["input"])
                ratio = 10 * math.log10((wanted**2).mean() / (error**2).mean())
                assert found[layer] == pytest.approx(ratio, abs=0.01), layer

    def test_in_calls_of_the_targets_batch(self, tmp_path):
        values = onnx.helper.make_tensor_value_info
        mean = onnx.helper.make_node("ReduceMean", ["x"], ["m"], axes=[0])
        less = onnx.helper.make_node("Sub", ["x", "m"], ["y"])
        x, y = (values(name, onnx.TensorProto.FLOAT, ["n", 2]) for name in ("x", "y"))
        graph = onnx.helper.make_graph([mean, less], "g", [x], [y])
        opset = [onnx.helper.make_opsetid("", 13)]
        onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "m")
        x = numpy.arange(10, dtype=numpy.float32).reshape(5, 2)
        for batch in (1, 2, 5):
            calls = [x[first : first + batch] for first in range(0, 5, batch)]
            wanted = numpy.concatenate([call - call.mean(0) for call in calls])
            assert numpy.array_equal(answers(tmp_path / "m", {"x": x}, batch)["y"], wanted)

    def test_by_hand(self):
        wanted = {"a": numpy.array([3.0, 4.0]), "labels": numpy.array([1, 2])}
        assert sqnr(wanted, {"a": numpy.array([3.0, 4.5]), "labels": numpy.array([9, 9])}) == pytest.approx(20)
        assert sqnr(wanted, wanted) == pytest.approx(200)
        assert sqnr(wanted | {"b": numpy.array([1.0])}, wanted | {"b": numpy.array([2.0])}) == pytest.approx(0)
        with pytest.raises(Refusal, match="no output has numbers"):
            sqnr({"labels": numpy.array([1])}, {"labels": numpy.array([1])})

    def test_what_has_no_weights_goes_with_the_layers_before_it(self, images, tmp_path):
        factory = Factory("networks.py:residual", {})
        path = float_file(ModelState("module", make(factory, STUDY), factory), images, tmp_path)
        layers = Layers(load(path).graph, [])
        blocks = ("blocks.0.first", "blocks.0.second", "blocks.1.first", "blocks.1.second")
        assert layers.names == ("stem", *blocks, "head")
        alone = set(layers.kept(["blocks.0.first"]))
        assert {"/blocks/blocks.0/first/Conv", "/blocks/blocks.0/relu/Relu"} == alone
        # The sum has the stem before it too.
        assert not any(name.endswith("Add") for name in layers.kept(["blocks.0.second"]))
        assert "/blocks/blocks.0/Add" in layers.kept(["blocks.0.second", "stem"])

    def test_another_budget_does_not_score_again(self, trained, images, tmp_path):
        kept, computed = {}, []

        def memo(name, about, compute):
            key = name, repr(about)
            if key not in kept:
                computed.append(key)
                kept[key] = compute()
            return kept[key]

        for number, changed in enumerate((
            {"max_drop": 0.01}, {"max_drop": 0.05, "held_out": 100}, {"budget": "size", "share": 0.6},
            {"budget": "latency", "share": 0.9, "latency": lambda state: 1.0 if state.form == "module" else 0.5},
        )):
            run(trained, images, tmp_path / str(number), memo=memo, **changed)
        assert len(computed) == 1
        run(trained, images, tmp_path / "other", memo=memo, samples=32)
        run(trained, images, tmp_path / "fewer", memo=memo, keep=("7",))
        assert len(computed) == 3


class TestAccuracy:
    def test_layers_that_do_harm_stay_in_float(self, harmed, images, tmp_path):
        settings = SCALES | {"bias_correction": False}
        plain = static(harmed, settings, Context(images, 1, tmp_path / "static", STUDY, WANTS))
        result = run(harmed, images, tmp_path / "mixed")
        whole = float_file(harmed, images, tmp_path)
        assert accuracy(plain.model, images) < accuracy(whole, images) - 0.05
        assert accuracy(result.model, images) >= accuracy(whole, images) - 0.01
        assert set(result.notes["mixed.float"]) == {"0", "2"}
        stored = {item.name: item for item in onnx.load(result.model).graph.initializer if len(item.dims) > 1}
        eight = [item for item in stored.values() if item.data_type == onnx.TensorProto.INT8]
        assert [list(item.dims) for item in eight] == [[10, 32]]

    def test_what_was_lost_is_noted_as_it_is(self, harmed, images, tmp_path):
        # Of 1200 training samples 64 set the ranges: all others were asked.
        result = run(harmed, images, tmp_path, held_out=100000, max_drop=1.0)
        inputs, labels = images.held_out(100000, 1, 64)
        values = inputs["input"]
        assert len(values) == 1136
        with torch.no_grad():
            whole = images.task.metrics(harmed.model(torch.from_numpy(values)), labels)["accuracy"]
        left = images.task.metrics(session_answers(result.model, values), labels)["accuracy"]
        assert result.notes["mixed.reached"] == pytest.approx(whole - left)
        assert result.notes["mixed.float"] == []

    def test_no_choice_is_good_enough(self, harmed, images, tmp_path):
        with pytest.raises(Refusal, match=r"at most 1\.00%: the least that was reached is \d+\.\d\d%, with every"):
            run(harmed, images, tmp_path, only=("2",))

    def test_a_task_without_accuracy(self, harmed, tmp_path):
        class Task:
            def loss(self, outputs, targets):
                return torch.nn.functional.cross_entropy(outputs, targets)

            def metrics(self, outputs, targets):
                return {"right": (outputs.argmax(1) == targets).float().mean()}

        data = data_module.load(Factory("networks.py:images", {"count": 1200, "task": Task()}), STUDY)
        result = run(harmed, data, tmp_path, max_drop=0.05)
        assert set(result.notes["mixed.float"]) == {"0", "2"}
        assert result.notes["mixed.reached"] <= 0.05


class TestSize:
    def test_what_fits_stays_in_float(self, trained, images, tmp_path):
        result = run(trained, images, tmp_path, budget="size", share=0.4)
        whole = compact(onnx.load(float_file(trained, images, tmp_path))).ByteSize()
        chosen = result.notes["mixed.float"]
        assert Path(result.model).stat().st_size == pytest.approx(result.notes["mixed.reached"] * whole, abs=0.5)
        assert result.notes["mixed.reached"] <= 0.4
        # The second convolution is 91 % of the weights: passed over, and the next one fits.
        assert list(result.notes["mixed.sqnr"]) == ["0", "2", "7"]
        assert chosen == ["0", "7"]

    def test_out_of_reach(self, trained, images, tmp_path):
        with pytest.raises(Refusal, match=r"has 3\d\.\d% of the float file's bytes, and 5\.0% was asked for; 0 suf"):
            run(trained, images, tmp_path, budget="size", share=0.05)


class TestLatency:
    def clock(self, timed):
        """Time as if each weight took a second in float and a tenth of one in int8."""

        def seconds(state):
            if state.form == "module":
                return float(sum(item.numel() for item in state.model.parameters() if item.ndim > 1))
            timed.append(state)
            weights = [item for item in onnx.load(state.model).graph.initializer if len(item.dims) > 1]
            eight = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
            return sum(math.prod(item.dims) * (0.1 if item.data_type in eight else 1) for item in weights)

        return seconds

    # The worst is the first (144 weights of 5072), then the second (4608), then the last (320).
    @pytest.mark.parametrize(("share", "left"), [(0.11, []), (0.5, ["0"]), (0.95, ["0", "2"])])
    def test_as_many_in_float_as_there_is_time_for(self, trained, images, tmp_path, share, left):
        timed = []
        result = run(trained, images, tmp_path, budget="latency", share=share, latency=self.clock(timed))
        assert list(result.notes["mixed.sqnr"]) == ["0", "2", "7"]
        assert result.notes["mixed.float"] == left
        assert result.notes["mixed.reached"] <= share
        assert len(timed) <= 3

    def test_out_of_reach(self, trained, images, tmp_path):
        timed = []
        with pytest.raises(Refusal, match=r"at most 9\.0% of .*: the best takes 10\.0%, with every layer in int8"):
            run(trained, images, tmp_path, budget="latency", share=0.09, latency=self.clock(timed))
        assert len(timed) == 3

    def test_where_int8_is_slower(self, trained, images, tmp_path):
        def slower(state):
            return 2.0 - self.clock([])(state) / 5072 if state.form == "onnx" else 2.0

        # All in int8 would take 0.95 of the time, the first in float 0.94, the first two 0.53.
        result = run(trained, images, tmp_path, budget="latency", share=0.9, latency=slower)
        assert result.notes["mixed.float"] == ["0", "2"]

    def test_through_the_trials_runtime_and_its_cache(self, tmp_path):
        for name in ("study", "home"):
            (tmp_path / name).mkdir()
        workload = Workload(
            Factory("optlang.zoo.digits:cnn", {"width": 48}), Factory("optlang.zoo.digits:digits", {"seed": 0}),
            tmp_path / "study", tmp_path / "home", "cpu",
        )
        data = data_module.load(workload.data, workload.study)
        trial_context = trial.TrialContext(workload, data.bind(make(workload.model, workload.study)))
        calls = "optlang.runtimes.onnxruntime.build:OnnxRuntime"
        runtime = RuntimeJob("onnxruntime", calls, {"graph": "all"}, workload.study)
        needs = ("training", "calibration", "runtime", "latency")

        def notes(**budget):
            # As a study gives them: what a condition rules out is not there.
            settings = {name: item for name, item in (SETTINGS | budget).items() if item is not None}
            step = StepJob("mixed", "mixed", "optlang.techniques.quant.mixed:mixed", settings, needs, 1)
            effort = Repetitions(3, 1, 0.01, 10)
            place = TargetJob(TargetSpec("here", batch=32), runtime, (step,), tmp_path / "artifact", None, effort)
            job = TrialJob(1, workload, (place,))
            return trial.carry_out(job, trial_context, lambda _: None, []).notes

        try:
            found = notes(budget="latency", share=0.99, max_drop=None, held_out=None)
            assert 0 < found["mixed.reached"] <= 0.99
            other = notes(budget="size", share=0.6, max_drop=None, held_out=None)
        finally:
            trial_context.bench.close()
        assert other["mixed.sqnr"] == found["mixed.sqnr"]
        assert len(list((workload.home / "cache").rglob("memo.json"))) == 1


class TestGraph:
    def test_a_file_is_taken_as_the_module_is(self, trained, images, tmp_path):
        file = ModelState("onnx", float_file(trained, images, tmp_path), trained.factory)
        one, other = (run(item, images, tmp_path / item.form, budget="size", share=0.4) for item in (trained, file))
        assert one.notes == other.notes
        assert Path(one.model).read_bytes() == Path(other.model).read_bytes()


class TestRefusal:
    def test_no_training_sample_is_left_to_measure_with(self, trained, images, tmp_path):
        with pytest.raises(OptlangError, match="all 1200 training samples are taken for calibration"):
            run(trained, images, tmp_path, samples=1200)

    def test_the_held_out_are_not_those_that_set_the_ranges(self, images):
        drawn = {item.tobytes() for item in images.calibration(64, 7)["input"]}
        inputs, targets = images.held_out(200, 7, 64)
        assert len(inputs["input"]) == len(targets) == 200
        assert not drawn.intersection(item.tobytes() for item in inputs["input"])
