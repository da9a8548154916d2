"""ONNX Runtime's own settings: how a model becomes a file, what its session is told, what the program says again."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy
import onnx
import onnxruntime
import pytest
import torch

from optlang.interfaces import Context, Factory, ModelState, OutsideError, Refusal, TargetSpec
from optlang.measure.process import BareProcess, Deployment
from optlang.report.export.runners import runner
from optlang.runtimes.onnxruntime import session as sessions
from optlang.runtimes.onnxruntime.build import OnnxRuntime
from optlang.runtimes.shared import nvidia, onnx_file
from optlang.techniques.quant.onnx_graph import layer_of
from optlang.workload import imports
from optlang.workload.data import dataset as data_module
from optlang.workload.export.onnx import opset_of
from optlang.workload.model.call import call
from optlang.workload.model.make import make

STUDY = Path(__file__).parents[2] / "fixtures" / "models"
CALLS = "optlang.runtimes.onnxruntime.build:OnnxRuntime"
TARGET = TargetSpec("here")
STATIC = {
    "calibrator": "minmax", "percentile": None, "bins": None, "samples": 64, "granularity": "auto",
    "bias_correction": False, "keep": (), "only": (),
}
needs_onnxscript = pytest.mark.skipif(importlib.util.find_spec("onnxscript") is None, reason="no onnxscript")
on_gpu = pytest.mark.skipif(
    nvidia.missing() is not None or "CUDAExecutionProvider" not in onnxruntime.get_available_providers(),
    reason=f"no GPU for onnxruntime-gpu: {nvidia.missing()}; providers: {onnxruntime.get_available_providers()}",
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def images():
    return data_module.load(Factory("networks.py:images"), STUDY)


def start(network):
    factory = Factory(f"networks.py:{network}")
    return ModelState("module", make(factory, STUDY), factory)


def quantized(network, data, folder, **changed):
    folder.mkdir(parents=True)
    state = start(network)
    context = Context(data.bind(state.model), 1, folder, STUDY, OnnxRuntime().wants())
    return imports.find("optlang.techniques.quant.static:static", STUDY)(state, STATIC | changed, context)


def built(state, data, folder, target=TARGET, **settings):
    folder.mkdir(parents=True, exist_ok=True)
    data = data.bind(state.model) if state.form == "module" else data
    return OnnxRuntime().build(state, target, settings, folder, data, STUDY)


def answers(artifact, data, target=TARGET, count=5, **settings):
    """What the artifact says to a few samples, in this process."""
    inputs = {name: item.numpy() for name, item in data.bind(artifact.inputs).example(count).items()}
    session = OnnxRuntime().open(artifact, target, settings, STUDY)
    found = session.collect(session.run(session.prepare(inputs)))
    session.close()
    return inputs, found


def right(network, inputs):
    module = start(network).model.eval()
    with torch.no_grad():
        given = {name: torch.from_numpy(item) for name, item in inputs.items()}
        return {name: item.numpy() for name, item in call(module, given).items()}


def agree(network, artifact, data, target=TARGET, **settings):
    inputs, found = answers(artifact, data, target, **settings)
    for name, item in right(network, inputs).items():
        numpy.testing.assert_allclose(found[name], item, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opset", [13, 14, 17, 20])
def test_a_module_is_exported_in_the_opset_that_is_asked_for(opset, images, tmp_path):
    network = "joined" if opset == 13 else "encoder"
    artifact = built(start(network), images, tmp_path, opset=opset)
    assert opset_of(onnx.load(tmp_path / "model.onnx")) == opset
    agree(network, artifact, images)


def test_an_operator_that_an_old_opset_has_not_is_named(images, tmp_path):
    with pytest.raises(Refusal, match=r"scaled_dot_product_attention.* opset version 13 is not supported"):
        built(start("encoder"), images, tmp_path, opset=13)


def test_a_file_is_converted_or_refused_and_left_alone_by_default(images, tmp_path):
    int8 = quantized("cnn", images, tmp_path / "int8")
    plain = built(int8, images, tmp_path / "plain")
    assert (tmp_path / "plain" / "model.onnx").read_bytes() == int8.model.read_bytes()
    older = built(int8, images, tmp_path / "older", opset=15)
    assert opset_of(onnx.load(tmp_path / "older" / "model.onnx")) == 15
    for name, item in answers(plain, images)[1].items():
        numpy.testing.assert_array_equal(answers(older, images)[1][name], item)
    with pytest.raises(Refusal, match="has opset 18, and ONNX does not convert it to 13: ") as caught:
        built(quantized("encoder", images, tmp_path / "attention"), images, tmp_path / "no", opset=13)
    assert caught.value.help.startswith("opset = 18")


def test_converted_weights_beside_the_file_become_its_own(images, tmp_path):
    built(start("mlp"), images, tmp_path / "plain")
    (tmp_path / "split").mkdir()
    onnx.save(
        onnx.load(tmp_path / "plain" / "model.onnx"), tmp_path / "split" / "net.onnx", save_as_external_data=True,
        location="net.weights", size_threshold=0,
    )
    state = ModelState("onnx", tmp_path / "split" / "net.onnx", start("mlp").factory)
    artifact = built(state, images, tmp_path / "built", opset=17)
    assert [item.name for item in artifact.files] == ["model.onnx"]
    assert {path.name for path in (tmp_path / "built").iterdir()} == {"model.onnx"}
    agree("mlp", artifact, images)


@needs_onnxscript
def test_the_other_exporter_gives_a_file_as_clean(images, tmp_path):
    artifact = built(start("encoder"), images, tmp_path, exporter="dynamo")
    model = onnx.load(tmp_path / "model.onnx")
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx"}
    assert not model.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert not any("_optlang_inner" in item.name for item in model.graph.initializer)
    assert opset_of(model) == 18
    agree("encoder", artifact, images)


@needs_onnxscript
def test_nodes_have_the_names_of_their_layers_from_either_exporter(images, tmp_path):
    files = {how: built(start("separable"), images, tmp_path / how, exporter=how) for how in ("script", "dynamo")}
    weighted = {
        how: [layer_of(node.name) for node in onnx.load(artifact.folder / "model.onnx").graph.node
              if node.op_type in ("Conv", "Gemm")]
        for how, artifact in files.items()
    }
    # The norms behind them are folded into them.
    assert weighted["dynamo"] == weighted["script"] == ["0", "3", "6", "11"]


@needs_onnxscript
def test_what_is_kept_stays_in_float_from_the_other_exporter_too(images, tmp_path):
    whole = quantized("adding", images, tmp_path / "whole")
    kept = quantized("adding", images, tmp_path / "kept", keep=("second",))
    assert kept.notes["export.exporter"] == "dynamo"
    floats = {
        name: {tuple(item.dims) for item in onnx.load(state.model).graph.initializer
               if item.data_type == onnx.TensorProto.FLOAT and len(item.dims) == 2}
        for name, state in (("whole", whole), ("kept", kept))
    }
    assert [len(floats[name]) for name in ("whole", "kept")] == [0, 1]


@needs_onnxscript
def test_the_other_exporter_is_refused_where_it_does_not_do_what_was_asked(images, tmp_path, monkeypatch):
    with pytest.raises(Refusal, match="the exporter gives opset 18, and not 17") as caught:
        built(start("unet"), images, tmp_path / "old", opset=17, exporter="dynamo")
    assert caught.value.help == "opset = 18, or exporter = script"
    with pytest.raises(Refusal, match="comes as an ONNX file, and exporter = dynamo exports modules"):
        built(quantized("mlp", images, tmp_path / "int8"), images, tmp_path / "file", exporter="dynamo")
    with pytest.raises(Refusal, match="cannot be exported to ONNX: Could not guard on data-dependent expr") as caught:
        built(start("choosing"), images, tmp_path / "choosing", exporter="dynamo")
    assert caught.value.help.startswith("exporter = script")
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else found(name))
    with pytest.raises(OutsideError, match="needs onnxscript") as missing:
        built(start("mlp"), images, tmp_path / "none", exporter="dynamo")
    assert missing.value.help == 'pip install "optlang-dsl[dynamo]"'


@needs_onnxscript
def test_where_the_first_exporter_has_no_operator_the_second_is_tried_and_named(images, tmp_path):
    artifact = built(start("adding"), images, tmp_path / "plain")
    assert artifact.about["exporter"] == "dynamo"
    agree("adding", artifact, images)
    with pytest.raises(Refusal, match=r"'aten::logaddexp' to ONNX") as caught:
        built(start("adding"), images, tmp_path / "script", exporter="script")
    assert "aten::logaddexp" in caught.value.message
    state = quantized("adding", images, tmp_path / "int8")
    assert state.notes["export.exporter"] == "dynamo"
    assert built(state, images, tmp_path / "file").about["exporter"] == "dynamo"
    assert "exporter" not in built(start("mlp"), images, tmp_path / "mlp").about


@needs_onnxscript
def test_where_both_exporters_fail_both_reasons_and_the_line_are_given(images, tmp_path, monkeypatch):
    line = next(
        number for number, text in enumerate((STUDY / "networks.py").read_text().splitlines(), 1) if "erfinv" in text
    )
    words = rf"'aten::erfinv' to ONNX.* \(networks.py:{line}\); nor does .* \(dynamo\)"
    with pytest.raises(Refusal, match=words) as both:
        built(start("inverse"), images, tmp_path / "both")
    assert "other operators, or use the runtime eager" in both.value.help
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else found(name))
    with pytest.raises(Refusal, match=rf"\(networks.py:{line}\)") as missing:
        built(start("inverse"), images, tmp_path / "none")
    assert 'pip install "optlang-dsl[dynamo]"' in missing.value.help


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_its_own_format_answers_the_same(kind, images, tmp_path):
    state = start("residual") if kind == "float32" else quantized("residual", images, tmp_path / "int8")
    plain = built(state, images, tmp_path / "plain")
    artifact = built(state, images, tmp_path / "ort", format="ort")
    assert (artifact.format, [item.name for item in artifact.files]) == ("ort", ["model.ort"])
    assert {path.name for path in (tmp_path / "ort").iterdir()} == {"model.ort"}
    # A flatbuffer says what it is after its offset.
    assert (tmp_path / "ort" / "model.ort").read_bytes()[4:8] == b"ORTM"
    inputs, found = answers(artifact, images)
    for name, item in answers(plain, images)[1].items():
        numpy.testing.assert_allclose(found[name], item, rtol=1e-4, atol=1e-5)
    member = Deployment("a model", "onnxruntime", CALLS, artifact, TARGET, {"format": "ort"}, STUDY)
    with BareProcess(member) as process:
        again = process.outputs(inputs)
    assert all(numpy.array_equal(again[name], found[name]) for name in found)


def test_settings_reach_the_session():
    plain = sessions.options(sessions.DEFAULTS, 2)
    assert (plain.intra_op_num_threads, plain.inter_op_num_threads) == (2, 1)
    assert plain.execution_mode == onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    assert plain.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    assert plain.enable_cpu_mem_arena
    with pytest.raises(RuntimeError):
        plain.get_session_config_entry("session.intra_op.allow_spinning")
    asked = {"arena": False, "execution": "parallel", "inter_threads": 3, "spinning": False, "graph": "basic"}
    options = sessions.options({**sessions.DEFAULTS, **asked}, 1)
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_PARALLEL
    assert options.inter_op_num_threads == 3
    assert not options.enable_cpu_mem_arena
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.get_session_config_entry("session.inter_op.allow_spinning") == "0"


@pytest.mark.parametrize(
    "settings", [{"arena": False}, {"execution": "parallel", "inter_threads": 2}, {"spinning": False}]
)
def test_answers_do_not_hang_on_the_session(settings, images, tmp_path):
    target = TargetSpec("here", threads=2)
    agree("joined", built(start("joined"), images, tmp_path, target, **settings), images, target, **settings)


@pytest.mark.parametrize(
    "settings",
    [{}, {"arena": False, "execution": "parallel", "inter_threads": 2, "spinning": False, "graph": "off"},
     {"format": "ort"}],
)
def test_the_exported_program_opens_the_model_as_it_was_measured(settings, images, tmp_path):
    target = TargetSpec("here", threads=2)
    artifact = built(start("joined"), images, tmp_path, target, **settings)
    inputs, found = answers(artifact, images, target, **settings)
    numpy.savez(tmp_path / "example_inputs.npz", **inputs)
    numpy.savez(tmp_path / "example_outputs.npz", **found)
    entry = {
        "files": [{"name": item.name} for item in artifact.files], "about": artifact.about,
        "inputs": [{"name": item} for item in artifact.inputs],
        "outputs": [{"name": item} for item in artifact.outputs],
    }
    program = runner("runtime.onnxruntime", entry)
    (tmp_path / "run.py").write_text(program)
    assert "intra_op_num_threads = 2" in program
    for line in (
        "enable_cpu_mem_arena = False", "ExecutionMode.ORT_PARALLEL", "inter_op_num_threads = 2", "ORT_DISABLE_ALL",
        '"session.intra_op.allow_spinning", "0"',
    ):
        assert (line in program) is ("arena" in settings)
    ran = subprocess.run([sys.executable, "-I", tmp_path / "run.py"], capture_output=True, text=True, timeout=100)
    assert ran.returncode == 0, ran.stderr
    assert "largest difference 0 of" in ran.stdout


def test_a_provider_runs_on_its_own_device_and_not_without_its_build(images, tmp_path):
    card = TargetSpec("card", device="cuda")
    with pytest.raises(Refusal, match="on the CPU; the target's device is cuda") as caught:
        built(start("mlp"), images, tmp_path / "a", card)
    assert caught.value.help == "set provider = cuda or tensorrt"
    with pytest.raises(Refusal, match="provider = cuda runs on a GPU; the target's device is cpu"):
        built(start("mlp"), images, tmp_path / "b", provider="cuda")
    with pytest.raises(Refusal, match="no GPU kernels for int8") as caught:
        built(quantized("mlp", images, tmp_path / "int8"), images, tmp_path / "c", card, provider="tensorrt")
    assert "runtime tensorrt" in caught.value.help
    artifact = built(start("mlp"), images, tmp_path / "d", card, provider="cuda")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(Refusal, match=r"has no provider cuda: it has .*CPU") as caught:
            OnnxRuntime().open(artifact, card, {"provider": "cuda"}, STUDY)
        assert "onnxruntime-gpu" in caught.value.help


def test_bound_inputs_and_outputs_answer_as_given_ones(images, tmp_path):
    artifact = built(start("joined"), images, tmp_path)
    inputs, found = answers(artifact, images)
    session = sessions.GpuSession(onnxruntime.InferenceSession(tmp_path / "model.onnx"), artifact.outputs, "cpu")
    prepared = session.prepare(inputs)
    for _ in range(2):
        again = session.collect(session.run(prepared))
        assert list(again) == list(found)
        assert all(numpy.allclose(again[name], found[name]) for name in found)
    session.close()


def test_a_file_that_is_no_valid_onnx_is_refused(images, tmp_path):
    built(start("mlp"), images, tmp_path / "plain")
    model = onnx.load(tmp_path / "plain" / "model.onnx")
    model.graph.node[-1].op_type = "NoSuchOperator"
    onnx.save(model, tmp_path / "wrong.onnx")
    state = ModelState("onnx", tmp_path / "wrong.onnx", start("mlp").factory)
    with pytest.raises(Refusal, match=r"the file is not valid ONNX: .*NoSuchOperator"):
        onnx_file.build(state, "onnxruntime", tmp_path, images, STUDY)


@on_gpu
@pytest.mark.parametrize("network", ["cnn", "residual", "joined"])
def test_a_gpu_answers_as_the_module(network, images, tmp_path):
    card = TargetSpec("card", device="cuda")
    artifact = built(start(network), images, tmp_path, card, provider="cuda")
    member = Deployment("a model", "onnxruntime", CALLS, artifact, card, {"provider": "cuda"}, STUDY)
    inputs = {name: item.numpy() for name, item in images.bind(artifact.inputs).example(7).items()}
    wanted = right(network, inputs)
    with BareProcess(member) as process:
        for batch in (64, 3):
            found = process.outputs(inputs, batch)
            for name, item in wanted.items():
                numpy.testing.assert_allclose(found[name], item, rtol=1e-3, atol=1e-4)
