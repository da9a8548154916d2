"""Static int8: the schemes, the settings, the kept layers, and real accuracy."""

from dataclasses import replace
from pathlib import Path

import numpy
import onnx
import onnxruntime
import openvino
import pytest
from onnx import TensorProto, helper, numpy_helper

from optlang.interfaces import Context, ModelState, QuantWants, Refusal
from optlang.techniques.quant.dynamic import dynamic
from optlang.techniques.quant.onnx_graph import covered, layer_of, operators_of
from optlang.techniques.quant.static import static
from tests.techniques.quant.integers import STATIC, WANTS, accuracy, constants, quantized
from tests.techniques.states import STUDY, start

REFUSES = {"lstm": r"only \d+% of the weights would be int8: not those of lstm \(LSTM\)"}


@pytest.fixture(scope="module")
def images(many_images):
    return many_images


def test_layers_of_nodes():
    assert layer_of("/layer1/layer1.0/conv1/Conv") == "layer1.0.conv1"
    assert layer_of("/0/Conv") == "0"
    assert layer_of("/blocks.3/attn/qkv/MatMul") == "blocks.3.attn.qkv"
    assert layer_of("/features/features.0/features.0.1/Relu") == "features.0.1"
    assert layer_of("/Add") == ""


@pytest.mark.slow
class TestScheme:
    def test_uint8_activations_int8_weights_per_channel_int32_biases(self, images, tmp_path):
        state = start(width=16)
        _, model = quantized(state, images, tmp_path)
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
            if node.op_type == "Conv":
                assert len(weight.input) == 2  # no zero point
            else:
                assert not held[weight.input[2]].any(), "ONNX Runtime wants it there"
            assert held[activation.input[2]].dtype == numpy.uint8
            assert held[activation.input[2]].shape == ()
            assert held[bias.input[0]].dtype == numpy.int32
            assert numpy.allclose(held[bias.input[1]], held[activation.input[1]] * held[weight.input[1]], rtol=1e-6)
            seen += 1
        assert seen == 3

    def test_weights_are_the_modules_own(self, images, tmp_path):
        state = start("mlp")
        _, model = quantized(state, images, tmp_path)
        held = constants(model)
        wanted = state.model[1].weight.detach().numpy()
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

    def test_products_of_a_transformer_answer_in_floats(self, images, tmp_path):
        _, model = quantized(start("encoder"), images, tmp_path)
        producer = {name: node for node in model.graph.node for name in node.output}
        products = {name for node in model.graph.node if node.op_type in ("MatMul", "Gemm") for name in node.output}
        assert len(products) > 4
        assert not any(
            products.intersection(node.input) and node.op_type == "QuantizeLinear" for node in model.graph.node
        )
        for node in model.graph.node:
            if node.op_type in ("MatMul", "Gemm"):
                assert {producer[name].op_type for name in node.input} == {"DequantizeLinear"}

    def test_openvino_calculates_in_integers(self, images, tmp_path):
        """Layers whose zero points are shared with another's ran in floats there."""
        result, _ = quantized(start("encoder"), images, tmp_path)
        core = openvino.Core()
        options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "SNIPPETS_MODE": "DISABLE"}
        compiled = core.compile_model(str(result.model), "CPU", options)
        kernels = [
            about["primitiveType"] for node in compiled.get_runtime_model().get_ops()
            if (about := node.get_rt_info())["layerType"].astype(str).startswith("FullyConnected")
        ]
        assert len(kernels) > 4
        assert all(item.astype(str).lower().endswith("i8") for item in kernels)

    @pytest.mark.parametrize("network", ["cnn", "mlp", "depthwise", "encoder"])
    def test_onnx_runtime_calculates_in_integers(self, images, tmp_path, network):
        """A Gemm whose weights have no zero point ran in floats there, behind a rounding of them at every call."""
        result, _ = quantized(start(network), images, tmp_path)
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        options.log_severity_level = 4
        onnxruntime.InferenceSession(str(result.model), options, providers=["CPUExecutionProvider"])
        graph = onnx.load(tmp_path / "optimized.onnx").graph
        weights = {item.name for item in graph.initializer if item.data_type == TensorProto.INT8 and len(item.dims) > 1}
        kinds = {node.op_type for node in graph.node if weights.intersection(node.input)}
        assert kinds
        assert kinds <= {"QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat"}

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
        state = start("residual")
        result, model = quantized(state, images, tmp_path, keep=("blocks.1", "head"))
        shapes = sorted(tuple(item.dims) for item in model.graph.initializer
                        if item.data_type == TensorProto.FLOAT and len(item.dims) > 1)
        assert shapes.count((16, 16, 3, 3)) == 2
        assert {(10, 16), (16, 10)} & set(shapes)
        eight = 16 * 9 + 2 * 16 * 16 * 9
        assert result.notes["quantize.weights"] == pytest.approx(eight / (eight + 2 * 16 * 16 * 9 + 160))

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
        from optlang.workload.export.onnx import export

        state = start()
        export(state, images.bind(state.model), tmp_path / "float.onnx", STUDY)
        given = ModelState("onnx", tmp_path / "float.onnx", state.factory)
        from_file, _ = quantized(given, images, tmp_path / "a")
        from_module, _ = quantized(state, images, tmp_path / "b")
        assert Path(from_file.model).read_bytes() == Path(from_module.model).read_bytes()
        kept, _ = quantized(given, images, tmp_path / "c", keep=("0",))
        assert kept.notes["quantize.weights"] < 1


@pytest.mark.slow
class TestAccuracy:
    @pytest.mark.parametrize("network", ["cnn", "residual", "depthwise", "mlp", "rows"])
    @pytest.mark.parametrize("technique", ["static", "dynamic"])
    def test_little_is_lost(self, trained, images, tmp_path, network, technique):
        state = trained(network)
        if technique == "static":
            result, _ = quantized(state, images, tmp_path, samples=256)
        else:
            context = Context(images, 1, tmp_path, STUDY, WANTS)
            result = dynamic(state, {"operators": "all", "keep": (), "only": ()}, context)
        assert accuracy(state, images) >= 0.85
        assert accuracy(result, images) >= accuracy(state, images) - 0.02

    @pytest.mark.parametrize("calibrator", [
        {"calibrator": "entropy", "bins": 2048}, {"calibrator": "mse", "bins": 2048},
        {"calibrator": "percentile", "percentile": 99.99},
    ])
    def test_by_every_calibrator(self, trained, images, tmp_path, calibrator):
        state = trained("cnn")
        result, _ = quantized(state, images, tmp_path, samples=256, **calibrator)
        assert accuracy(result, images) >= accuracy(state, images) - 0.02

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

    def test_a_softmax_whose_answer_is_masked_makes_a_transformer_too(self):
        # As torch exports scaled_dot_product_attention with a mask: rows that see nothing become 0, not NaN.
        nodes = [
            onnx.helper.make_node("Add", ["scores", "mask"], ["sum"], "sum"),
            onnx.helper.make_node("Softmax", ["sum"], ["shares"], "softmax"),
            onnx.helper.make_node("IsNaN", ["shares"], ["none"], "none"),
            onnx.helper.make_node("Where", ["none", "zero", "shares"], ["seen"], "seen"),
            onnx.helper.make_node("MatMul", ["seen", "values"], ["output"], "product"),
        ]
        graph = onnx.helper.make_graph(nodes, "attention", [], [])
        assert operators_of(graph, WANTS) == ["MatMul"]


@pytest.mark.parametrize(("name", "counts"), [("/attn/Constant_output_0", False), ("attn.bias", True)])
def test_what_the_exporter_computes_is_no_weight(name, counts):
    """A bias by relative position is computed and added; a parameter that is added is a weight."""
    stored = {"layer.weight": (8, 8), name: (16, 8)}
    nodes = [
        helper.make_node("MatMul", ["x", "layer.weight"], ["product"], "/layer/MatMul"),
        helper.make_node("Add", ["product", name], ["y"], "/attn/Add"),
    ]
    graph = helper.make_graph(
        nodes, "g", [], [],
        [numpy_helper.from_array(numpy.zeros(shape, numpy.float32), name) for name, shape in stored.items()],
    )
    if counts:
        with pytest.raises(Refusal, match=r"only 33% .* be int8: not those of attn.bias \(constant of Add\)"):
            covered(graph, ["/layer/MatMul"], [], {"only": ()}, "")
    else:
        assert covered(graph, ["/layer/MatMul"], [], {"only": ()}, "") == {}
