"""Dynamic int8: what becomes int8 and what does not, LSTM in both runtimes, and what is said of the rest."""

import numpy
import onnx
import onnxruntime
import openvino
import pytest
import torch
from onnx import TensorProto
from torch import nn

from optlang.interfaces import Context, Factory, ModelState, Refusal
from optlang.runtimes.openvino.build import OpenVino
from optlang.techniques.quant.dynamic import dynamic
from optlang.techniques.quant.qat import qat
from optlang.techniques.quant.static import static
from tests.techniques.quant.integers import STATIC, WANTS, constants
from tests.techniques.states import STUDY, start

SETTINGS = {"operators": "linear", "keep": (), "only": ()}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def images(many_images):
    return many_images


def run(state, data, folder, **changed):
    result = dynamic(state, SETTINGS | changed, Context(data, 1, folder, STUDY, WANTS))
    return result, onnx.load(result.model)


@pytest.mark.parametrize(
    ("network", "same"), [("cnn", "all"), ("depthwise", "all"), ("mlp", "linear"), ("lstm", "linear")]
)
def test_auto_takes_convolutions_where_they_hold_most_of_the_weights(network, same, images, tmp_path):
    files = []
    for operators in ("auto", same):
        (tmp_path / operators).mkdir()
        files.append(run(start(network), images, tmp_path / operators, operators=operators)[0].model.read_bytes())
    assert files[0] == files[1]


@pytest.mark.parametrize(("operators", "floats"), [("auto", ["0"]), ("linear", ["0"]), ("all", None)])
def test_few_convolutions_become_int8_where_all_is_asked_for(operators, floats, images, tmp_path):
    torch.manual_seed(1)
    module = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)).eval()
    result, model = run(ModelState("module", module, Factory("x:y")), images, tmp_path, operators=operators)
    assert result.notes.get("quantize.float") == floats
    assert ("ConvInteger" in {node.op_type for node in model.graph.node}) == (operators == "all")


class Recurrent(nn.Module):
    """Recurrent layers over an image's rows, and a linear one of `wide` outputs of which ten are answers."""

    def __init__(self, cell, width=32, wide=10, **about):
        super().__init__()
        self.cell = cell(8, width, batch_first=True, **about)
        self.head = nn.Linear(width * (2 if about.get("bidirectional") else 1), wide)

    def forward(self, image):
        return self.head(self.cell(image[:, 0])[0][:, -1])[:, :10]


def recurrent(cell, **about):
    torch.manual_seed(1)
    return ModelState("module", Recurrent(cell, **about).eval(), Factory("x:y"))


@pytest.mark.parametrize(("network", "kinds"), [("encoder", {"MatMul", "Gemm"}), ("lstm", {"LSTM", "MatMul", "Gemm"})])
def test_openvino_has_weights_in_integers_alone(network, kinds, images, tmp_path):
    state, wants = start(network), OpenVino().wants()
    result = dynamic(state, SETTINGS, Context(images, 1, tmp_path, STUDY, wants))
    model = onnx.load(result.model)
    assert result.notes["quantize.weights"] > 0.95
    operators = {node.op_type for node in model.graph.node}
    assert not {"DynamicQuantizeLinear", "MatMulInteger", "DynamicQuantizeLSTM"} & operators
    levels = {name for name, item in constants(model).items() if item.dtype == numpy.int8 and item.ndim > 1}
    for operators in (("Cast", "DequantizeLinear"), ("Mul",)):  # an LSTM's in plain operators
        levels |= {
            node.output[0] for node in model.graph.node if levels.intersection(node.input) and node.op_type in operators
        }
    found = {node.op_type for node in model.graph.node if levels.intersection(node.input)}
    assert found - {"Cast", "DequantizeLinear", "Mul"} == kinds
    compiled = openvino.Core().compile_model(str(result.model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    given = next(iter(images.arrays("validation")[0].values()))[:16]
    with torch.no_grad():
        right = state.model(torch.from_numpy(given)).numpy()
    assert numpy.abs(compiled(given)[0] - right).max() < 0.05 * numpy.abs(right).max()


def test_openvino_keeps_what_is_kept(images, tmp_path):
    settings = SETTINGS | {"keep": ("3",)}
    result = dynamic(start("mlp"), settings, Context(images, 1, tmp_path, STUDY, OpenVino().wants()))
    kinds = {item.shape: item.dtype for item in constants(onnx.load(result.model)).values() if item.ndim == 2}
    assert sorted(str(item) for item in kinds.values()) == ["float32", "int8", "int8"]


class TestLinear:
    def test_scheme(self, images, tmp_path):
        result, model = run(start("mlp"), images, tmp_path)
        weights = [item for item in constants(model).values() if item.ndim == 2]
        assert {item.dtype for item in weights} == {numpy.dtype("int8")}
        assert {item.shape for item in weights} == {(64, 32), (32, 32), (32, 10)}
        assert "quantize.float" not in result.notes

    def test_kept_layers(self, images, tmp_path):
        _, model = run(start("mlp"), images, tmp_path, keep=("3",))
        shapes = {tuple(item.dims): item.data_type for item in model.graph.initializer}
        assert shapes[(32, 32)] == TensorProto.FLOAT
        assert shapes[(64, 32)] == shapes[(32, 10)] == TensorProto.INT8

    def test_a_convolutional_net_has_little_to_quantize(self, images, tmp_path):
        with pytest.raises(Refusal, match=r"only 6% .* int8: not those of 2 \(Conv\), 0 \(Conv\)") as error:
            run(start("cnn"), images, tmp_path)
        assert error.value.help == "operators = all takes convolutions too"
        assert error.value.depends == "settings"
        result, _ = run(start("cnn", width=32), images, tmp_path, only=("7",))
        assert result.notes["quantize.weights"] < 0.1
        # What `keep` leaves in float was not to become int8.
        result, _ = run(start("cnn", width=32), images, tmp_path, keep=("0", "2"))
        assert "quantize.float" not in result.notes


class TestRecurrent:
    @pytest.mark.parametrize("about", [{}, {"bidirectional": True}, {"num_layers": 2, "bidirectional": True}])
    def test_an_lstm_in_both_runtimes(self, images, tmp_path, about):
        state = recurrent(nn.LSTM, **about)
        result, model = run(state, images, tmp_path)
        kinds = [node.op_type for node in model.graph.node]
        assert kinds.count("DynamicQuantizeLSTM") == about.get("num_layers", 1)
        assert result.notes["quantize.weights"] == 1
        assert "quantize.float" not in result.notes
        pixels = images.arrays("validation")[0]["input"][:32]
        with torch.no_grad():
            wanted = state.model(torch.from_numpy(pixels)).numpy()
        session = onnxruntime.InferenceSession(str(result.model), providers=["CPUExecutionProvider"])
        found = session.run(None, {session.get_inputs()[0].name: pixels})[0]
        assert not numpy.array_equal(found, wanted)
        assert numpy.abs(found - wanted).max() < 0.03 * numpy.abs(wanted).max()
        config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "SNIPPETS_MODE": "DISABLE"}
        other = openvino.Core().compile_model(str(result.model), "CPU", config)(pixels)[0]
        assert numpy.abs(other - wanted).max() < 0.03 * numpy.abs(wanted).max()

    def test_weights_are_the_modules_own_by_gate(self, images, tmp_path):
        state = recurrent(nn.LSTM)
        _, model = run(state, images, tmp_path)
        held = constants(model)
        node = next(node for node in model.graph.node if node.op_type == "DynamicQuantizeLSTM")
        for index, name, places in ((1, "weight_ih_l0", (8, 9)), (2, "weight_hh_l0", (10, 11))):
            weight = state.model.cell.get_parameter(name).detach().numpy()
            # torch has input, forget, cell and output gates; ONNX input, output, forget and cell.
            first, forget, cell, output = numpy.split(weight, 4)
            wanted = numpy.concatenate([first, output, forget, cell])
            # One scale: one for each output of a gate costs time.
            scale, zero = (held[node.input[place]].item() for place in places)
            levels = held[node.input[index]][0].T
            assert levels.dtype == numpy.int8
            assert zero == 0
            assert numpy.abs(levels * scale - wanted).max() <= 0.5001 * scale

    def test_a_kept_lstm_stays_in_float(self, images, tmp_path):
        result, model = run(recurrent(nn.LSTM), images, tmp_path, keep=("cell",))
        assert "LSTM" in {node.op_type for node in model.graph.node}
        assert result.notes["quantize.weights"] < 0.1

    def test_a_gru_is_said_to_stay_in_float(self, images, tmp_path):
        with pytest.raises(Refusal, match=r"only \d+% .* int8: not those of cell \(GRU\)") as error:
            run(recurrent(nn.GRU, width=64), images, tmp_path)
        assert "weight_only" in error.value.help
        assert error.value.depends == "model"
        result, _ = run(recurrent(nn.GRU, wide=400), images, tmp_path)
        assert result.notes["quantize.float"] == ["cell"]

    @pytest.mark.parametrize("technique", [static, qat])
    def test_with_ranges_it_stays_in_float(self, images, tmp_path, technique):
        settings = STATIC | {"ranges": "fixed", "epochs": 1, "distill": 0.0}
        context = Context(images, 1, tmp_path, STUDY, WANTS)
        with pytest.raises(Refusal, match=r"only \d+% .* int8: not those of cell \(LSTM\)") as error:
            technique(recurrent(nn.LSTM), settings, context)
        assert error.value.depends == "model"
        if technique is static:
            result = static(recurrent(nn.LSTM, wide=400), settings, context)
            assert result.notes["quantize.float"] == ["cell"]
            named = static(recurrent(nn.LSTM, width=64), settings | {"only": ("head",)}, context)
            assert named.notes["quantize.weights"] < 0.1
