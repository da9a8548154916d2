"""INT8: the schemes, the calibrators against ONNX Runtime's own, the kept layers, and real accuracy."""

import contextlib
import io
from dataclasses import replace
from pathlib import Path

import numpy
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from onnxruntime.quantization.calibrate import HistogramCollector

from optlang.forms import Context, Factory, QuantWants, Refusal, Subject
from optlang.runtimes.onnxruntime import OnnxRuntime
from optlang.techniques.entropy import EntropyCollector
from optlang.techniques.mse import SquaredErrorCollector
from optlang.techniques.nodes import layer_of
from optlang.techniques.quantize import dynamic, static
from optlang.techniques.train import train
from optlang.workload import data as data_module
from optlang.workload import modules

STUDY = Path(__file__).parents[1] / "fixtures" / "models"
STATIC = {
    "calibrator": "minmax", "percentile": None, "bins": None, "samples": 64, "granularity": "auto",
    "bias_correction": False, "keep": (), "only": (),
}
# As this machine's processor runs it right: without VNNI the kernels overflow with eight bits.
WANTS = OnnxRuntime().wants()
TRAINING = {
    "epochs": 12, "lr": 3e-3, "optimizer": "adamw", "schedule": "cosine", "batch": 32, "weight_decay": 0.01,
    "amp": "none", "warmup": 0.0, "ema": 0.0, "label_smoothing": 0.0, "clip": 0.0, "patience": 0,
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def images():
    return data_module.load(Factory("networks.py:images", {"count": 1200}), STUDY)


def start(network="cnn", **arguments):
    factory = Factory(f"networks.py:{network}", arguments)
    return Subject("module", modules.make(factory, STUDY), factory)


@pytest.fixture(scope="module")
def trained(images):
    made = {}

    def get(network):
        if network not in made:
            settings = TRAINING | {"epochs": 30 if network == "rows" else 12}
            made[network] = train(start(network), settings, Context(images, 1, STUDY, STUDY))
        return made[network]

    return get


def quantized(subject, data, folder, wants=WANTS, seed=1, **changed):
    result = static(subject, STATIC | changed, Context(data, seed, folder, STUDY, wants))
    return result, onnx.load(result.model)


def accuracy(subject, data):
    inputs, labels = data.arrays("validation")
    values = next(iter(inputs.values()))
    if subject.form == "module":
        with torch.no_grad():
            return data.task.metrics(subject.model(torch.from_numpy(values)), labels)["accuracy"]
    session = onnxruntime.InferenceSession(str(subject.model), providers=["CPUExecutionProvider"])
    return data.task.metrics(session.run(None, {session.get_inputs()[0].name: values})[0], labels)["accuracy"]


def constants(model):
    return {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}


def test_layers_of_nodes():
    assert layer_of("/layer1/layer1.0/conv1/Conv") == "layer1.0.conv1"
    assert layer_of("/0/Conv") == "0"
    assert layer_of("/blocks.3/attn/qkv/MatMul") == "blocks.3.attn.qkv"
    assert layer_of("/features/features.0/features.0.1/Relu") == "features.0.1"
    assert layer_of("/Add") == ""


@pytest.mark.slow
class TestScheme:
    def test_uint8_activations_int8_weights_per_channel_int32_biases(self, images, tmp_path):
        subject = start(width=16)
        _, model = quantized(subject, images, tmp_path)
        held = constants(model)
        producer = {name: node for node in model.graph.node for name in node.output}
        seen = 0
        for node in model.graph.node:
            if node.op_type not in ("Conv", "Gemm"):
                continue
            activation, weight, bias = (producer[name] for name in node.input)
            channels = held[weight.input[0]].shape[0]
            assert held[weight.input[0]].dtype == numpy.int8
            assert held[weight.input[1]].shape == (channels,)
            assert not held[weight.input[2]].any()
            assert held[activation.input[2]].dtype == numpy.uint8
            assert held[activation.input[2]].shape == ()
            assert held[bias.input[0]].dtype == numpy.int32
            assert numpy.allclose(held[bias.input[1]], held[activation.input[1]] * held[weight.input[1]], rtol=1e-6)
            seen += 1
        assert seen == 3

    def test_weights_are_the_modules_own(self, images, tmp_path):
        subject = start("mlp")
        _, model = quantized(subject, images, tmp_path)
        held = constants(model)
        wanted = subject.model[1].weight.detach().numpy()
        first = ((32, 64), (64, 32))
        node = next(
            node for node in model.graph.node
            if node.op_type == "DequantizeLinear" and node.input[0] in held and held[node.input[0]].shape in first
        )
        stored = held[node.input[0]].astype(numpy.float32)
        stored = stored if stored.shape == wanted.shape else stored.T
        scale = held[node.input[1]][:, None]
        assert numpy.abs(stored * scale - wanted).max() <= scale.max() / 2 * 1.001
        assert numpy.allclose(scale[:, 0], numpy.abs(wanted).max(axis=1) / (64 if WANTS.reduced else 127), rtol=1e-5)

    def test_signed_symmetric(self, images, tmp_path):
        wants = QuantWants("int8", "int8", True, True, True)
        _, model = quantized(start(), images, tmp_path, wants)
        zero_points = [
            constants(model)[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"
        ]
        assert zero_points
        assert all(item.dtype == numpy.int8 and not item.any() for item in zero_points)

    def test_one_scale_a_weight(self, images, tmp_path):
        wants = QuantWants("uint8", "int8", False, True, False)
        _, model = quantized(start(), images, tmp_path, wants)
        held = constants(model)
        scales = [
            held[node.input[1]] for node in model.graph.node
            if node.op_type == "DequantizeLinear" and node.input[0] in held and held[node.input[0]].dtype == numpy.int8
        ]
        assert {item.size for item in scales} == {1}

    @pytest.mark.parametrize("technique", ["static", "dynamic"])
    def test_a_bit_of_the_weights_stays_unused_where_kernels_would_overflow(self, images, tmp_path, technique):
        largest = []
        for reduced in (False, True):
            context = Context(images, 1, tmp_path, STUDY, replace(WANTS, reduced=reduced))
            if technique == "static":
                result = static(start("mlp"), STATIC, context)
            else:
                result = dynamic(start("mlp"), {"operators": "linear", "keep": (), "only": ()}, context)
            held = constants(onnx.load(result.model)).values()
            largest.append(max(abs(item.astype(int)).max() for item in held if item.dtype == numpy.int8))
        assert largest == [127, 64]

    def test_operator_format(self, images, tmp_path):
        wants = QuantWants("uint8", "int8", False, True, True, "operator")
        result, model = quantized(start(), images, tmp_path, wants)
        assert {"QLinearConv"} <= {node.op_type for node in model.graph.node}
        assert 0 <= accuracy(result, images) <= 1

    def test_dynamic_scheme(self, images, tmp_path):
        context = Context(images, 1, tmp_path, STUDY, WANTS)
        result = dynamic(start("mlp"), {"operators": "linear", "keep": (), "only": ()}, context)
        held = constants(onnx.load(result.model))
        weights = [item for item in held.values() if item.ndim == 2]
        assert {item.dtype for item in weights} == {numpy.dtype("int8")}
        assert {item.shape for item in weights} == {(64, 32), (32, 32), (32, 10)}

    def test_nobody_said_for_which_runtime(self, images, tmp_path):
        with pytest.raises(Refusal, match="which runtime"):
            quantized(start(), images, tmp_path, wants=None)


@pytest.mark.slow
class TestSettings:
    def test_samples_and_seed_choose_the_ranges(self, images, tmp_path):
        def scales(**changed):
            _, model = quantized(start(), images, tmp_path / str(sorted(changed.items())), **changed)
            held = constants(model)
            return [float(held[n.input[1]]) for n in model.graph.node if n.op_type == "QuantizeLinear"]

        few = scales(samples=4)
        assert few == scales(samples=4, seed=1)
        assert few != scales(samples=4, seed=2)
        assert all(more >= less for more, less in zip(scales(samples=1200), few, strict=True))

    def test_percentile_clips_and_more_so_when_smaller(self, images, tmp_path):
        def widest(**changed):
            _, model = quantized(start(), images, tmp_path / str(sorted(changed.items())), samples=256, **changed)
            held = constants(model)
            return [float(held[n.input[1]]) for n in model.graph.node if n.op_type == "QuantizeLinear"]

        whole = widest()
        tight, loose = (widest(calibrator="percentile", percentile=share) for share in (95.0, 99.9))
        assert sum(tight) < sum(loose) < sum(whole)

    def test_entropy_and_its_bins(self, images, tmp_path):
        def scales(**changed):
            _, model = quantized(start(), images, tmp_path / str(sorted(changed.items())), samples=128, **changed)
            held = constants(model)
            return [float(held[n.input[1]]) for n in model.graph.node if n.op_type == "QuantizeLinear"]

        few, many = (scales(calibrator="entropy", bins=count) for count in (128, 2048))
        assert few == pytest.approx(scales(), rel=0.02)  # 128 bins leave nothing to clip
        assert sum(many) < sum(few)

    def test_kept_layers_stay_in_float(self, images, tmp_path):
        subject = start("residual")
        result, model = quantized(subject, images, tmp_path, keep=("blocks.1", "head"))
        shapes = sorted(tuple(item.dims) for item in model.graph.initializer
                        if item.data_type == TensorProto.FLOAT and len(item.dims) > 1)
        assert shapes.count((16, 16, 3, 3)) == 2
        assert {(10, 16), (16, 10)} & set(shapes)
        eight = 16 * 9 + 2 * 16 * 16 * 9
        assert result.notes["quantize.weights"] == pytest.approx(eight / (eight + 2 * 16 * 16 * 9 + 160))

    def test_kept_layers_of_dynamic(self, images, tmp_path):
        context = Context(images, 1, tmp_path, STUDY, WANTS)
        result = dynamic(start("mlp"), {"operators": "linear", "keep": ("3",), "only": ()}, context)
        shapes = {tuple(item.dims): item.data_type for item in onnx.load(result.model).graph.initializer}
        assert shapes[(32, 32)] == TensorProto.FLOAT
        assert shapes[(64, 32)] == shapes[(32, 10)] == TensorProto.INT8

    @pytest.mark.parametrize(("granularity", "per_channel", "sizes"), [
        ("auto", True, {32, 10}), ("auto", False, {1}), ("channel", False, {32, 10}), ("tensor", True, {1}),
    ])
    def test_granularity_goes_before_the_runtimes_wish(self, images, tmp_path, granularity, per_channel, sizes):
        wants = replace(WANTS, per_channel=per_channel)
        _, model = quantized(start("mlp"), images, tmp_path, wants, granularity=granularity)
        held = constants(model)
        scales = {
            held[node.input[1]].size for node in model.graph.node
            if node.op_type == "DequantizeLinear" and node.input[0] in held and held[node.input[0]].ndim == 2
        }
        assert scales == sizes

    @pytest.mark.parametrize("technique", ["static", "dynamic"])
    def test_only_the_layers_named(self, images, tmp_path, technique):
        context = Context(images, 1, tmp_path, STUDY, WANTS)
        settings = {"only": ("3", "5"), "keep": ("5",)}
        if technique == "static":
            result = static(start("mlp"), STATIC | settings, context)
        else:
            result = dynamic(start("mlp"), {"operators": "linear"} | settings, context)
        model = onnx.load(result.model)
        shapes = {tuple(item.dims): item.data_type for item in model.graph.initializer}
        assert shapes[(32, 32)] == TensorProto.INT8
        assert not {TensorProto.INT8} & {kind for shape, kind in shapes.items() if set(shape) & {64, 10}}
        # What lies between the other layers stays in float too.
        assert sum(node.op_type == "QuantizeLinear" for node in model.graph.node) <= 2

    def test_a_file_can_be_quantized_too(self, images, tmp_path):
        from optlang.workload.onnx_export import export

        subject = start()
        export(subject, images.bind(subject.model), tmp_path / "float.onnx", STUDY)
        given = Subject("onnx", tmp_path / "float.onnx", subject.factory)
        from_file, _ = quantized(given, images, tmp_path / "a")
        from_module, _ = quantized(subject, images, tmp_path / "b")
        assert Path(from_file.model).read_bytes() == Path(from_module.model).read_bytes()
        kept, _ = quantized(given, images, tmp_path / "c", keep=("0",))
        assert kept.notes["quantize.weights"] < 1


@pytest.mark.slow
class TestAccuracy:
    @pytest.mark.parametrize("network", ["cnn", "residual", "depthwise", "mlp", "rows"])
    @pytest.mark.parametrize("technique", ["static", "dynamic"])
    def test_little_is_lost(self, trained, images, tmp_path, network, technique):
        subject = trained(network)
        if technique == "static":
            result, _ = quantized(subject, images, tmp_path, samples=256)
        else:
            context = Context(images, 1, tmp_path, STUDY, WANTS)
            result = dynamic(subject, {"operators": "all", "keep": (), "only": ()}, context)
        assert accuracy(subject, images) >= 0.85
        assert accuracy(result, images) >= accuracy(subject, images) - 0.02

    @pytest.mark.parametrize("calibrator", [
        {"calibrator": "entropy", "bins": 2048}, {"calibrator": "mse", "bins": 2048},
        {"calibrator": "percentile", "percentile": 99.99},
    ])
    def test_by_every_calibrator(self, trained, images, tmp_path, calibrator):
        subject = trained("cnn")
        result, _ = quantized(subject, images, tmp_path, samples=256, **calibrator)
        assert accuracy(result, images) >= accuracy(subject, images) - 0.02

    def test_a_transformers_norms_and_mask_stay_in_float(self, images, tmp_path):
        _, model = quantized(start("rows"), images, tmp_path)
        producers = {name: node for node in model.graph.node for name in node.output}
        norms = [node for node in model.graph.node if node.op_type == "LayerNormalization"]
        assert len(norms) == 2
        for node in norms:
            assert producers[node.input[0]].op_type == "Add"
        quantized_kinds = {
            node.op_type for node in model.graph.node
            if {producers[name].op_type for name in node.input if name in producers} == {"DequantizeLinear"}
        }
        assert "MatMul" in quantized_kinds
        assert not quantized_kinds & {"Softmax", "LayerNormalization", "Relu"}


class TestEntropy:
    @pytest.mark.parametrize("bins", [128, 512, 2048])
    @pytest.mark.parametrize("shape", ["normal", "relu", "outlier", "few"])
    def test_the_same_range_as_onnx_runtimes(self, bins, shape):
        generator = numpy.random.default_rng(1)
        values = generator.normal(size=5000).astype(numpy.float32)
        if shape == "relu":
            values = numpy.maximum(values, 0)
        elif shape == "outlier":
            values[0] = 40
        elif shape == "few":
            values = values[:5]
        found = []
        for kind in (HistogramCollector, EntropyCollector):
            collector = kind("entropy", False, bins, 128, 99.99, "same")
            with contextlib.redirect_stdout(io.StringIO()):
                collector.collect({"t": [values]})
                collector.collect({"t": [values * 1.5]})
            histogram = collector.histogram_dict["t"]
            with numpy.errstate(all="ignore"):
                found.append(tuple(float(end) for end in collector.get_entropy_threshold(histogram, 128)))
        assert found[0] == found[1]


class TestSquaredError:
    @pytest.mark.parametrize("shape", ["normal", "relu", "outlier"])
    @pytest.mark.parametrize("symmetric", [False, True])
    def test_no_range_of_a_finer_grid_loses_much_less(self, shape, symmetric):
        generator = numpy.random.default_rng(1)
        values = generator.normal(size=20000).astype(numpy.float32)
        if shape == "relu":
            values = numpy.maximum(values, 0)
        elif shape == "outlier":
            values[0] = 20
        collector = SquaredErrorCollector("entropy", symmetric, 2048, 128, 99.99, "same")
        with contextlib.redirect_stdout(io.StringIO()):
            collector.collect({"t": [values]})
        low, high = map(float, collector.get_entropy_threshold(collector.histogram_dict["t"], 128))

        def lost(low, high):
            step = (high - low) / 255
            zero = round(-low / step)
            back = (numpy.clip(numpy.rint(values / step) + zero, 0, 255) - zero) * step
            return float(((values - back) ** 2).mean())

        least, most = min(0.0, float(values.min())), float(values.max())
        if symmetric:
            least, most = -max(-least, most), max(-least, most)
        grid = [(share * least, other * most) for share in numpy.linspace(0.1, 1, 40)
                for other in numpy.linspace(0.1, 1, 40) if not symmetric or share == other]
        assert lost(low, high) <= 1.05 * min(lost(*pair) for pair in grid)
        assert lost(low, high) <= 1.01 * lost(least, most)
        if shape == "outlier":
            assert lost(low, high) < 0.95 * lost(least, most)


@pytest.mark.slow
class TestBiasCorrection:
    def test_the_shift_is_the_change_of_the_weights_times_the_mean_input(self, images, tmp_path):
        subject = start("mlp")
        wants = replace(WANTS, per_channel=False, reduced=True)
        result, model = quantized(subject, images, tmp_path / "corrected", wants, samples=1200, bias_correction=True)
        _, plain = quantized(subject, images, tmp_path / "plain", wants, samples=1200)
        assert result.notes["quantize.corrected"] == 3
        pixels = images.arrays("train")[0]["input"].reshape(-1, 64)
        weight = subject.model[1].weight.detach().numpy()
        scale = numpy.abs(weight).max() / 64
        shift = (numpy.rint(weight / scale) * scale - weight) @ pixels.mean(axis=0)
        found = []
        for item in (model, plain):
            held = constants(item)
            producer = {name: node for node in item.graph.node for name in node.output}
            node = next(node for node in item.graph.node if node.op_type == "Gemm")
            bias = producer[node.input[2]]
            found.append((held[bias.input[0]] * held[bias.input[1]], float(held[bias.input[1]].max())))
        (corrected, step), (before, _) = found
        assert numpy.abs((before - corrected) - shift).max() <= 1.01 * step
        assert numpy.abs(shift).max() > 5 * step

    @pytest.mark.parametrize("network", ["cnn", "residual", "rows"])
    def test_means_of_the_answers_come_nearer_to_the_float_ones(self, trained, images, tmp_path, network):
        subject = trained(network)
        wants = replace(WANTS, per_channel=False, reduced=True)
        pixels = images.arrays("train")[0]["input"]
        with torch.no_grad():
            wanted = subject.model(torch.from_numpy(pixels)).numpy()
        off = []
        for corrected in (False, True):
            result, _ = quantized(
                subject, images, tmp_path / str(corrected), wants, samples=1200, bias_correction=corrected
            )
            session = onnxruntime.InferenceSession(str(result.model), providers=["CPUExecutionProvider"])
            answers = session.run(None, {session.get_inputs()[0].name: pixels})[0]
            off.append(float(numpy.abs((answers - wanted).mean(axis=0)).mean()))
        assert off[1] < off[0]

    def test_nothing_to_correct(self, images, tmp_path):
        with pytest.raises(Refusal, match="bias can be corrected"):
            quantized(start("unbiased"), images, tmp_path, bias_correction=True)
