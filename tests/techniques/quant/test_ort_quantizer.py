"""Where int8 begins: models that are not in float32, shapes that cannot be inferred, and what a process keeps."""

import logging
import sys
from pathlib import Path

import numpy
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quant_utils

from optlang.interfaces import Context, Factory, ModelState, QuantWants, Refusal
from optlang.techniques.quant.dynamic import dynamic
from optlang.techniques.quant.mixed import mixed
from optlang.techniques.quant.qat import qat
from optlang.techniques.quant.static import static
from optlang.techniques.quant.weight_only import weight_only
from tests.techniques.quant.integers import STATIC, WANTS, constants
from tests.techniques.states import STUDY, start

NONE = {"keep": (), "only": ()}
PERCENTILE = {"calibrator": "percentile", "percentile": 99.9}
TRAINING = {
    "epochs": 1, "lr": 1e-4, "optimizer": "sgd", "momentum": 0.0, "schedule": "constant", "batch": 32,
    "weight_decay": 0.0, "freeze": 0.6, "ranges": "fixed", "distill": 0.0, "temperature": 4.0,
}
EVERY = [
    (dynamic, {"operators": "auto"} | NONE), (static, STATIC), (weight_only, {"bits": 8, "symmetric": True} | NONE),
    (qat, STATIC | TRAINING), (mixed, STATIC | {"budget": "size", "share": 0.9}),
]
pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("technique", "settings"), EVERY, ids=["dynamic", "static", "weight_only", "qat", "mixed"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_weights_in_another_type_are_named(technique, settings, dtype, images, tmp_path):
    context = Context(images, 1, tmp_path, STUDY, WANTS)
    with pytest.raises(Refusal, match=f"the weights of first are in {dtype}, and int8 is made") as error:
        technique(start("typed", dtype=dtype, first=True), settings, context)
    assert "model.float()" in error.value.help
    if dtype != "float64":  # a model all in float64 is converted to float32
        with pytest.raises(Refusal, match=f"the model's weights are in {dtype}"):
            technique(start("typed", dtype=dtype), settings, context)


def test_so_are_those_of_a_file(images, tmp_path):
    weight = numpy_helper.from_array(numpy.ones((64, 10), numpy.float16), "head.weight")
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["input"], ["flat"]), helper.make_node("Cast", ["flat"], ["half"], to=10),
         helper.make_node("MatMul", ["half", "head.weight"], ["out"])], "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT16, ["n", 10])], [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "half.onnx")
    state = ModelState("onnx", tmp_path / "half.onnx", Factory("x:y"))
    with pytest.raises(Refusal, match="the model's weights are in float16"):
        static(state, STATIC, Context(images, 1, tmp_path, STUDY, WANTS))


@pytest.mark.parametrize(("technique", "settings"), EVERY, ids=["dynamic", "static", "weight_only", "qat", "mixed"])
@pytest.mark.parametrize("signed", [False, True])
def test_a_transposed_convolution_in_groups(technique, settings, signed, images, tmp_path):
    wants = QuantWants("int8", "int8", True, True, True, biases="float", operators="weighted") if signed else WANTS
    state = start("decoder")
    if technique is dynamic:
        with pytest.raises(Refusal, match=r"only \d+% .*wide \(ConvTranspose\), grouped \(ConvTranspose\)") as error:
            technique(state, settings, Context(images, 1, tmp_path, STUDY, wants))
        assert error.value.help.startswith("static and weight_only take transposed convolutions")
        return
    result = technique(state, settings, Context(images, 1, tmp_path, STUDY, wants))
    if technique is not mixed:
        assert result.notes["quantize.weights"] == 1
    pixels = images.arrays("validation")[0]["input"][:16]
    session = onnxruntime.InferenceSession(str(result.model), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: pixels})[0]
    with torch.no_grad():
        wanted = state.model(torch.from_numpy(pixels)).numpy()
    assert numpy.abs(found - wanted).max() < 0.05 * numpy.abs(wanted).max()


def test_it_has_one_scale_and_may_be_kept(images, tmp_path):
    model = onnx.load(static(start("decoder"), STATIC, Context(images, 1, tmp_path, STUDY, WANTS)).model)
    stored = constants(model)
    scales = {
        stored[node.input[0]].shape: stored[node.input[1]].shape for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in stored and stored[node.input[0]].ndim == 4
    }
    assert scales == {(8, 1, 3, 3): (8,), (8, 12, 2, 2): (12,), (12, 2, 3, 3): ()}
    settings = STATIC | {"keep": ("grouped",)}
    kept = static(start("decoder"), settings, Context(images, 1, tmp_path, STUDY, WANTS))
    assert constants(onnx.load(kept.model))
    assert kept.notes["quantize.weights"] == pytest.approx(1 - 216 / (72 + 384 + 216 + 80))


def unknown_shapes(path):
    """A graph with an operator whose shapes nothing infers in symbols, and a layer behind it."""
    weight = numpy.random.default_rng(0).normal(size=(64, 10)).astype(numpy.float32)
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["input"], ["flat"]),
         helper.make_node("Unique", ["flat"], ["values", "places", "back", "counts"], sorted=1),
         helper.make_node("Gather", ["values", "back"], ["again"]),
         helper.make_node("Shape", ["flat"], ["shape"]), helper.make_node("Reshape", ["again", "shape"], ["rows"]),
         helper.make_node("MatMul", ["rows", "weight"], ["out"])], "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(weight, "weight")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return ModelState("onnx", path, Factory("x:y"))


def test_the_process_stays_as_it_was(images, tmp_path, monkeypatch, capsys):
    """What int8 writes lies in folders of its own, and the root logger and standard output are the caller's."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    root, output, handlers = logging.getLogger(), sys.stdout, list(logging.getLogger().handlers)
    seen = []

    class Watched(logging.Handler):
        def emit(self, record):
            seen.append(record)

    watched = Watched()
    root.addHandler(watched)
    try:
        for state in (unknown_shapes(tmp_path / "odd.onnx"), start("cnn")):
            for technique, settings in (*EVERY[:3], (static, STATIC | PERCENTILE)):
                if state.form == "onnx" or technique is not dynamic:
                    technique(state, settings, Context(images, 1, tmp_path / "out", STUDY, WANTS))
        logging.warning("the caller's own")
    finally:
        root.removeHandler(watched)
    assert [record.getMessage() for record in seen] == ["the caller's own"]
    assert capsys.readouterr().out == ""
    assert (sys.stdout, root.handlers, root.disabled) == (output, handlers, False)
    assert quant_utils.logging is logging
    assert not hasattr(quant_utils, "print")
    assert Path.cwd() == here
    assert not list(here.iterdir())
