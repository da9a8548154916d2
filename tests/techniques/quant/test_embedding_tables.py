"""Embedding tables in 8 bits: where they lie in the file, the answers in two runtimes, and tables that are tied."""

import numpy
import onnx
import onnxruntime
import openvino
import pytest
import torch

from optlang.interfaces import Context, Factory, ModelState, QuantWants, Refusal
from optlang.techniques.quant.dynamic import dynamic
from optlang.techniques.quant.embedding_tables import in_bytes
from optlang.techniques.quant.mixed import mixed
from optlang.techniques.quant.qat import qat
from optlang.techniques.quant.static import static
from optlang.techniques.quant.weight_only import weight_only
from optlang.workload.data import dataset as data_module
from tests.techniques.quant.integers import STATIC, WANTS, constants
from tests.techniques.states import STUDY, start

NONE = {"keep": (), "only": ()}
DYNAMIC = {"operators": "auto"} | NONE
WEIGHTS = {"bits": 8, "symmetric": True} | NONE
TRAINING = {
    "epochs": 1, "lr": 1e-5, "optimizer": "sgd", "momentum": 0.0, "schedule": "constant", "batch": 32,
    "weight_decay": 0.0, "freeze": 0.6, "ranges": "fixed", "distill": 0.0, "temperature": 4.0,
}
EVERY = [
    (dynamic, DYNAMIC), (static, STATIC), (weight_only, WEIGHTS), (weight_only, WEIGHTS | {"symmetric": False}),
    (qat, STATIC | TRAINING), (mixed, STATIC | {"budget": "size", "share": 0.5}),
]
NAMES = ["dynamic", "static", "weight_only", "asymmetric", "qat", "mixed"]
OPENVINO = {
    "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "SNIPPETS_MODE": "DISABLE",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def words():
    return data_module.load(Factory("networks.py:tokens"), STUDY)


def answers(path, given):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    other = openvino.Core().compile_model(str(path), "CPU", OPENVINO)
    return session.run(None, {session.get_inputs()[0].name: given})[0], other(given)[0]


def wanted(state, given):
    with torch.no_grad():
        return state.model(torch.from_numpy(given)).numpy()


def of_shape(model, *shape):
    return [(name, item) for name, item in constants(model).items() if item.shape == shape]


@pytest.mark.parametrize(("technique", "settings"), EVERY, ids=NAMES)
@pytest.mark.parametrize("skewed", [False, True])
def test_a_table_of_most_bytes_is_covered(technique, settings, skewed, words, tmp_path):
    state = start("bag")
    if skewed:  # a few frequent words have long vectors: one scale would round the others to little
        with torch.no_grad():
            state.model.table.weight[::100] *= 50
    result = technique(state, settings, Context(words, 1, tmp_path, STUDY, WANTS))
    model = onnx.load(result.model)
    ((name, levels),) = of_shape(model, 2000, 32)
    assert levels.dtype in (numpy.int8, numpy.uint8)
    assert result.notes["quantize.weights"] > (0.9 if technique is mixed else 0.999)
    # Integers are gathered, and no node makes floats of the whole table.
    assert {node.op_type for node in model.graph.node if name in node.input} == {"Gather"}
    # One scale where rows are alike, else one a row.
    assert len(of_shape(model, 2000, 1)) == (0 if not skewed else 2 if levels.dtype == numpy.uint8 else 1)
    given = words.arrays("validation")[0]["input"][:16]
    right = wanted(state, given)
    for found in answers(result.model, given):
        assert numpy.abs(found - right).max() < 0.04 * numpy.abs(right).max()
        assert not numpy.array_equal(found, right)


class Turned(torch.nn.Module):
    """Words whose vectors are turned before a layer takes them, as for a recurrent layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.table, self.layer = torch.nn.Embedding(500, 32), torch.nn.Conv1d(32, 4, 3)

    def forward(self, tokens):
        return self.layer(self.table(tokens).transpose(1, 2)).flatten(1)


@pytest.mark.parametrize(("technique", "settings"), EVERY, ids=NAMES)
def test_rows_that_are_turned_keep_their_sign(technique, settings, words, tmp_path):
    """ONNX Runtime rounds them again behind the Transpose: without a zero point, as unsigned integers."""
    state = ModelState("module", Turned().eval(), Factory("x:y"))
    settings = settings | ({"operators": "all"} if technique is dynamic else {})
    result = technique(state, settings, Context(words, 1, tmp_path, STUDY, WANTS))
    given = words.arrays("validation")[0]["input"][:16]
    right = wanted(state, given)
    for found in answers(result.model, given):
        assert numpy.abs(found - right).max() < 0.06 * numpy.abs(right).max()


class Bags(torch.nn.Module):
    """Bags of words: the exporter gathers their rows in a loop."""

    def __init__(self, mode):
        super().__init__()
        torch.manual_seed(1)
        self.table, self.layer = torch.nn.EmbeddingBag(500, 32, mode=mode), torch.nn.Linear(32, 4)

    def forward(self, tokens):
        return self.layer(self.table(tokens))


@pytest.mark.parametrize("skewed", [False, True])
@pytest.mark.parametrize(("technique", "settings"), EVERY[:4], ids=NAMES[:4])
def test_a_table_that_is_read_in_a_loop(technique, settings, skewed, words, tmp_path):
    state = ModelState("module", Bags("max" if skewed else "mean").eval(), Factory("x:y"))
    if skewed:
        with torch.no_grad():
            state.model.table.weight[::100] *= 50
    result = technique(state, settings, Context(words, 1, tmp_path, STUDY, WANTS))
    assert result.notes["quantize.weights"] == 1
    assert result.model.stat().st_size < (500 * 32 + 128) * 1.4 + 4000
    given = words.arrays("validation")[0]["input"][:16]
    right = wanted(state, given)
    for found in answers(result.model, given):
        assert 0 < numpy.abs(found - right).max() < 0.05 * numpy.abs(right).max()
    with pytest.raises(Refusal, match="no layer is left" if technique is weight_only else "."):
        technique(state, settings | {"keep": ("table", "layer")}, Context(words, 1, tmp_path / "k", STUDY, WANTS))


@pytest.mark.parametrize("symmetric", [True, False])
def test_rows_are_rounded_to_half_a_step(symmetric):
    table = numpy.random.default_rng(1).normal(size=(300, 8)).astype(numpy.float32)
    table[7] = 0
    levels, scale, zero = in_bytes(table, symmetric)
    assert scale.shape == ()
    assert numpy.abs((levels.astype(int) - int(zero)) * scale - table).max() <= 0.5001 * scale
    table[3] *= 100
    levels, scale, zero = in_bytes(table, symmetric)
    assert scale.shape == (300,)
    back = (levels.astype(int) - zero.astype(int)[:, None]) * scale[:, None]
    assert (numpy.abs(back - table) <= 0.5001 * scale[:, None]).all()
    assert in_bytes(table, symmetric, one_scale=True)[1].shape == ()


@pytest.mark.parametrize(("technique", "settings"), EVERY[:4], ids=NAMES[:4])
@pytest.mark.parametrize("flat", [True, False])
def test_a_tied_table_is_stored_once(technique, settings, flat, words, tmp_path):
    state = start("speller", flat=flat)
    result = technique(state, settings, Context(words, 1, tmp_path, STUDY, WANTS))
    model = onnx.load(result.model)
    tables = of_shape(model, 500, 32) + of_shape(model, 32, 500)
    assert [item.dtype.itemsize for _, item in tables] == [1]
    assert result.notes["quantize.weights"] == 1
    assert result.model.stat().st_size < 500 * 32 * 1.4 + 4000
    given = words.arrays("validation")[0]["input"][:16]
    right = wanted(state, given)
    for found in answers(result.model, given):
        assert numpy.abs(found - right).max() < 0.04 * numpy.abs(right).max()


def test_a_tied_table_beside_4_bits_is_in_8(words, tmp_path):
    settings = WEIGHTS | {"bits": 4, "group": 32, "only": ("table", "head", "hidden")}
    for flat in (True, False):
        state = start("speller", flat=flat)
        result = weight_only(state, settings, Context(words, 1, tmp_path, STUDY, WANTS))
        given = words.arrays("validation")[0]["input"][:16]
        right = wanted(state, given)
        for found in answers(result.model, given):
            assert numpy.abs(found - right).max() < 0.2 * numpy.abs(right).max()


@pytest.mark.parametrize(("technique", "settings"), EVERY[:3], ids=NAMES[:3])
def test_a_kept_table_stays_in_float(technique, settings, words, tmp_path):
    result = technique(start("bag"), settings | {"keep": ("table",)}, Context(words, 1, tmp_path, STUDY, WANTS))
    ((_, table),) = of_shape(onnx.load(result.model), 2000, 32)
    assert table.dtype == numpy.float32
    assert result.notes["quantize.weights"] < 0.05  # as it was asked for
    result = technique(start("bag"), settings | {"only": ("table",)}, Context(words, 1, tmp_path, STUDY, WANTS))
    ((_, table),) = of_shape(onnx.load(result.model), 2000, 32)
    assert table.dtype == numpy.int8
    assert result.notes["quantize.weights"] == pytest.approx(64000 / (64000 + 32 * 64 + 128))


def test_mixed_may_leave_the_table_in_float(words, tmp_path):
    settings = STATIC | {"budget": "size", "share": 0.99}
    result = mixed(start("bag"), settings, Context(words, 1, tmp_path, STUDY, WANTS))
    assert set(result.notes["mixed.sqnr"]) == {"table", "wide", "head"}


def test_ahead_for_compilers_that_take_integers_there_alone(words, tmp_path):
    wants = QuantWants("int8", "int8", True, True, True, biases="float", operators="weighted", tables="ahead")
    given = words.arrays("validation")[0]["input"][:16]
    for technique, settings in (EVERY[1], EVERY[2]):
        for network in ("bag", "speller"):
            state = start(network)
            result = technique(state, settings, Context(words, 1, tmp_path, STUDY, wants))
            model = onnx.load(result.model)
            held = {item.name for item in model.graph.initializer if item.data_type == onnx.TensorProto.INT8}
            takers = [node for node in model.graph.node if held.intersection(node.input)]
            assert {node.op_type for node in takers} <= {"DequantizeLinear", "QuantizeLinear"}
            assert result.notes["quantize.weights"] == 1
            right = wanted(state, given)
            for found in answers(result.model, given):
                assert numpy.abs(found - right).max() < 0.04 * numpy.abs(right).max()


def test_what_stays_in_float_is_named(words, tmp_path):
    class Placed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.places, self.inner = torch.nn.Parameter(torch.randn(12, 200)), start("bag", words=500, width=8).model
            self.head = torch.nn.Linear(200, 2)

        def forward(self, tokens):
            return self.inner(tokens) + self.head((self.places * tokens[..., None]).mean(dim=1))

    state = ModelState("module", Placed().eval(), Factory("x:y"))
    for technique, settings in EVERY[:3]:
        result = technique(state, settings, Context(words, 1, tmp_path, STUDY, WANTS))
        assert result.notes["quantize.float"] == ["places"]
        with pytest.raises(Refusal, match=r"only \d+% of the weights .*: not those of places \(constant of Mul\)"):
            technique(state, settings | {"keep": ("inner",)}, Context(words, 1, tmp_path, STUDY, WANTS))
