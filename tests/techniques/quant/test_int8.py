"""INT8 weights by every technique that makes them: the file, its options, and what each of them refuses."""

from pathlib import Path

import numpy
import onnx
import pytest
import torch
from onnx import TensorProto

from optlang.interfaces import Refusal
from tests.techniques.contract import apply, own
from tests.techniques.declarations import standard
from tests.techniques.states import NETWORKS, STUDY, answers, start, wide

ALL = [
    (name, network) for name in ("dynamic", "static", "weight_only", "qat") for network in NETWORKS
    if network not in own(standard()[f"quant.{name}"], "REFUSES", {})
]

pytestmark = pytest.mark.slow


class TestFile:
    @pytest.mark.parametrize(("technique", "network"), ALL)
    def test_quantizing_makes_weights_int8_and_the_file_smaller(self, technique, network, images, tmp_path):
        from optlang.workload.export.onnx import export

        state = wide(network)
        export(state, images.bind(state.model), tmp_path / "float.onnx", STUDY)
        result = apply(f"quant.{technique}", state, images, tmp_path / "result")
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
        ("weight_only", {"bits": 4, "group": 32}), ("dynamic", {"keep": ("head",)}),
    ])
    def test_of_int8(self, technique, changed, images, tmp_path):
        state = wide("rows")
        result = apply(f"quant.{technique}", state, images, tmp_path, **changed)
        wanted, found = answers(state, images)["output"], answers(result, images)["output"]
        assert found.shape == wanted.shape
        assert numpy.abs(found - wanted).mean() < 0.2 * numpy.abs(wanted).mean()
        plain = apply(f"quant.{technique}", state, images, tmp_path / "plain")
        assert Path(result.model).read_bytes() != Path(plain.model).read_bytes()

    def test_of_linear_layers_in_a_convolutional_net(self, images, tmp_path):
        with pytest.raises(Refusal, match=r"only \d+% .* be int8: not those of blocks\.0\.first"):
            apply("quant.dynamic", start("residual"), images, tmp_path, operators="linear")
        result = apply("quant.weight_only", start("residual"), images, tmp_path, bits=4, group=32)
        # The nine weights of a channel of the first one are left in 8.
        assert result.notes["quantize.eight_bits"] == ["stem"]
        assert result.notes["quantize.four_bits"] > 0.95


class TestRefusal:
    @pytest.mark.parametrize("technique", ["dynamic", "static", "mixed", "qat"])
    def test_no_layer_that_int8_knows(self, technique, images, tmp_path):
        with pytest.raises(Refusal, match="GRU"):
            apply(f"quant.{technique}", start("recurrent"), images, tmp_path)

    @pytest.mark.parametrize("technique", ["dynamic", "static", "mixed", "weight_only"])
    def test_quantizing_twice(self, technique, images, tmp_path):
        once = apply(f"quant.{technique}", start("cnn"), images, tmp_path / "once")
        with pytest.raises(Refusal, match="already"):
            apply(f"quant.{technique}", once, images, tmp_path / "twice")

    @pytest.mark.parametrize("technique", ["dynamic", "static", "mixed", "weight_only", "qat"])
    def test_a_model_too_small_to_win(self, technique, images, tmp_path):
        with pytest.raises(Refusal, match="larger"):
            apply(f"quant.{technique}", start("mlp", width=1), images, tmp_path)
