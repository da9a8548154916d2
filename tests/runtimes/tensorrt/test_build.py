"""Engines are really built, for GPUs that need not be here; what runs them is tried where one is."""

import dataclasses
import os
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy
import pytest
import torch

from optlang.interfaces import Context, Factory, ModelState, OutsideError, Refusal, TargetSpec
from optlang.measure.process import BareProcess, Deployment
from optlang.report.export.runners import builder, runner
from optlang.runtimes.shared import nvidia
from optlang.runtimes.tensorrt import build as adapter
from optlang.runtimes.tensorrt import cuda
from optlang.runtimes.tensorrt.build import TensorRT
from optlang.workload import imports
from optlang.workload.data import dataset as data_module
from optlang.workload.model.call import call
from optlang.workload.model.make import make

STUDY = Path(__file__).parents[2] / "fixtures" / "models"
CALLS = "optlang.runtimes.tensorrt.build:TensorRT"
TARGET = TargetSpec("there", device="cuda", batch=4)
NO_GPU = TensorRT().runs()
STATIC = {
    "calibrator": "minmax", "percentile": None, "bins": None, "samples": 64, "granularity": "auto",
    "bias_correction": False, "keep": (), "only": (),
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(TensorRT().available() is not None, reason=f"no TensorRT: {TensorRT().available()}"),
]
on_gpu = pytest.mark.skipif(NO_GPU is not None, reason=f"no engine can run here: {NO_GPU}")
off_gpu = pytest.mark.skipif(NO_GPU is None, reason="a GPU is here")


@pytest.fixture(scope="module")
def images():
    return data_module.load(Factory("networks.py:images"), STUDY)


def start(network):
    factory = Factory(f"networks.py:{network}")
    return ModelState("module", make(factory, STUDY), factory)


def made(network, kind, data, folder):
    """The network in float32, cast by `half`, or quantized by `static` as the runtime wants it."""
    folder.mkdir(parents=True, exist_ok=True)
    state = start(network)
    context = Context(data.bind(state.model), 1, folder, STUDY, TensorRT().wants())
    if kind == "float16":
        half = imports.find("optlang.techniques.cast.half:half", STUDY)
        return half(state, {"dtype": "float16", "sensitive": True, "keep": (), "only": ()}, context)
    if kind == "int8":
        return imports.find("optlang.techniques.quant.static:static", STUDY)(state, STATIC, context)
    return state


def built(state, data, folder, target=TARGET, **settings):
    folder.mkdir(parents=True, exist_ok=True)
    data = data.bind(state.model) if state.form == "module" else data
    return TensorRT().build(state, target, {"compute": "sm89", **settings}, folder, data, STUDY)


def saved(graph, folder, **changes):
    """An ONNX file of one input and one output by the nodes and initializers given."""
    import onnx
    from onnx import TensorProto, helper

    nodes, stored = graph
    shape = changes.get("shape", ["batch", 4])
    model = helper.make_model(
        helper.make_graph(
            nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)], stored,
        ),
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)], ir_version=9,
    )
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "mine.onnx")
    return ModelState("onnx", folder / "mine.onnx", Factory("networks.py:mlp"))


def relu():
    from onnx import helper

    return [helper.make_node("Relu", ["x"], ["y"], name="/act/Relu")], []


@pytest.mark.parametrize("kind", ["float32", "float16", "int8"])
@pytest.mark.parametrize("network", ["cnn", "residual", "joined", "encoder", "unet"])
def test_an_engine_is_built_in_the_types_of_the_graph(network, kind, images, tmp_path):
    from onnx import TensorProto, load

    artifact = built(made(network, kind, images, tmp_path / "made"), images, tmp_path / "built")
    assert [item.name for item in artifact.files] == ["model.engine"]
    engine = (artifact.folder / "model.engine").read_bytes()
    assert (artifact.files[0].bytes, artifact.files[0].sha256) == (len(engine), sha256(engine).hexdigest())
    assert {path.name for path in artifact.folder.iterdir()} == {"model.engine", "model.onnx"}
    about = artifact.about
    assert about["beside"] == [{
        "name": "model.onnx", "bytes": (artifact.folder / "model.onnx").stat().st_size,
        "sha256": sha256((artifact.folder / "model.onnx").read_bytes()).hexdigest(),
    }]
    assert about["compute"] == "sm89"
    assert about["seconds"] > 0
    for shapes in about["profile"].values():
        assert [shapes[end][0] for end in ("min", "opt", "max")] == [1, 4, 64]
    kinds = {item.data_type for item in load(artifact.folder / "model.onnx").graph.initializer if len(item.dims) > 1}
    held = {"int8": TensorProto.INT8, "float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT}
    assert about["precision"].startswith(kind)
    assert {held[word] for word in about["precision"].split(", ")} <= kinds


def test_integers_are_what_tensorrt_takes_and_lose_little(images, tmp_path):
    import onnx
    import onnxruntime
    from onnx import TensorProto, numpy_helper

    state = start("residual")
    int8 = made("residual", "int8", images, tmp_path)
    graph = onnx.load(int8.model).graph
    stored = {item.name: item for item in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    channels = 0
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            if node.input[0] in stored:
                assert stored[node.input[0]].data_type == TensorProto.INT8
            else:
                assert len(node.input) == 3
            for name in node.input[2:]:  # no zero point is one of 0
                assert stored[name].data_type == TensorProto.INT8
                assert not numpy_helper.to_array(stored[name]).any()
            scale = stored[node.input[1]].dims
            channels += len(scale) == 1 and scale[0] > 1
        if node.op_type in ("Conv", "Gemm"):
            assert makers[node.input[0]].op_type == makers[node.input[1]].op_type == "DequantizeLinear"
            assert stored[node.input[2]].data_type == TensorProto.FLOAT
        if node.op_type == "Relu":
            # Nothing stands between a convolution and what is fused into it.
            assert makers[node.input[0]].op_type in ("Conv", "Add")
    assert channels == sum(node.op_type in ("Conv", "Gemm") for node in graph.node)
    inputs = images.bind(state.model).example(100)
    session = onnxruntime.InferenceSession(int8.model, providers=["CPUExecutionProvider"])
    found = session.run(None, {name: item.numpy() for name, item in inputs.items()})[0]
    with torch.no_grad():
        wanted = next(iter(call(state.model.eval(), inputs).values())).numpy()
    assert 0 < numpy.abs(found - wanted).max() < 0.05 * numpy.abs(wanted).max()


def test_trained_integers_and_chosen_ones_are_built_too(images, tmp_path):
    qat = imports.find("optlang.techniques.quant.qat:qat", STUDY)
    mixed = imports.find("optlang.techniques.quant.mixed:mixed", STUDY)
    state = start("cnn")
    training = {
        "epochs": 1, "lr": 1e-3, "optimizer": "adamw", "schedule": "cosine", "batch": 128, "weight_decay": 0.0,
        "momentum": 0.9, "freeze": 0.5, "ranges": "running", "calibrator": "minmax", "samples": 32, "distill": 0.0,
        "temperature": 4.0, "keep": (), "only": (),
    }
    choice = STATIC | {"budget": "size", "share": 0.5, "held_out": 32}
    for technique, settings in ((qat, training), (mixed, choice)):
        folder = tmp_path / technique.__name__
        folder.mkdir()
        context = Context(images.bind(state.model), 1, folder, STUDY, TensorRT().wants())
        artifact = built(technique(state, settings, context), images, tmp_path / f"{technique.__name__}_built")
        assert artifact.about["precision"].startswith("int8")


def test_integers_of_another_scheme_are_refused_with_a_way_out(images, tmp_path):
    from optlang.runtimes.onnxruntime.build import OnnxRuntime

    state = start("cnn")
    context = Context(images.bind(state.model), 1, tmp_path / "cpu", STUDY, OnnxRuntime().wants())
    for name, settings, message in (
        ("static", STATIC, "signed integers with zero point 0, and .* is in (uint8|int32)"),
        ("dynamic", {"operators": "all", "keep": (), "only": ()}, "TensorRT has no DynamicQuantizeLinear"),
    ):
        other = imports.find(f"optlang.techniques.quant.{name}:{name}", STUDY)(state, settings, context)
        with pytest.raises(Refusal, match=message) as caught:
            built(other, images, tmp_path / name)
        assert caught.value.help


def test_weights_alone_in_few_bits_are_built(images, tmp_path):
    weight_only = imports.find("optlang.techniques.quant.weight_only:weight_only", STUDY)
    settings = {"bits": 4, "group": 32, "symmetric": True, "keep": (), "only": ()}
    for bits, precision in ((8, "int8"), (4, "int4")):
        (tmp_path / precision).mkdir()
        context = Context(images, 1, tmp_path / precision, STUDY)
        state = weight_only(start("mlp"), settings | {"bits": bits}, context)
        assert precision in built(state, images, tmp_path / f"{bits}").about["precision"]
    shifted = weight_only(start("mlp"), settings | {"bits": 8, "symmetric": False}, context)
    with pytest.raises(Refusal, match="in uint8") as caught:
        built(shifted, images, tmp_path / "shifted")
    assert "symmetric = true" in caught.value.help


def test_an_operator_that_the_parser_does_not_know_is_named(images, tmp_path):
    from onnx import helper

    state = saved(([helper.make_node("Fancy", ["x"], ["y"], name="/head/Fancy", domain="mine")], []), tmp_path)
    with pytest.raises(Refusal, match=r"does not take the operator Fancy of /head/Fancy: .*not found"):
        built(state, images, tmp_path / "built")


def test_axes_without_a_length_are_refused_and_a_fixed_batch_has_no_profile(images, tmp_path):
    with pytest.raises(Refusal, match=r"input x has an axis without a fixed length besides the batch: \[-1, -1\]"):
        built(saved(relu(), tmp_path, shape=["batch", "length"]), images, tmp_path / "open")
    artifact = built(saved(relu(), tmp_path, shape=[4, 7]), images, tmp_path / "fixed")
    assert (artifact.about["batch"], artifact.about["profile"]) == (4, {})
    assert "Shapes" not in artifact.about["command"]
    with pytest.raises(Refusal, match="the target's batch is 4, and the engine takes 2 samples"):
        built(saved(relu(), tmp_path), images, tmp_path / "small", max_batch=2)


@pytest.mark.parametrize("compute", ["portable", "sm75", "sm80", "sm86", "sm89", "sm120", "sm121"])
def test_it_builds_for_gpus_that_are_not_here(compute, images, tmp_path):
    if adapter.importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("TensorRT-RTX is not installed")
    artifact = built(saved(relu(), tmp_path), images, tmp_path / "built", compute=compute)
    assert artifact.about["module"] == "tensorrt_rtx"
    assert artifact.about["compute"] == compute


def test_settings_reach_the_builder():
    import tensorrt_rtx as module

    builder_ = module.Builder(module.Logger())
    plain = adapter._config(module, builder_, {}, "portable", {})
    flags = module.BuilderFlag
    assert [plain.get_flag(flag) for flag in (flags.TF32, flags.SPARSE_WEIGHTS)] == [False, False]
    assert (plain.builder_optimization_level, plain.num_compute_capabilities) == (3, 0)
    settings = {"level": 5, "workspace": 2**28, "tf32": True, "sparse": True}
    config = adapter._config(module, builder_, settings, "sm120", {})
    assert [config.get_flag(flag) for flag in (flags.TF32, flags.SPARSE_WEIGHTS)] == [True, True]
    assert config.builder_optimization_level == 5
    assert config.get_memory_pool_limit(module.MemoryPoolType.WORKSPACE) == 2**28
    assert config.get_compute_capability(0) == module.ComputeCapability.SM120


def test_the_command_says_what_was_built():
    import tensorrt_rtx as module

    profile = {"image:0": {"min": [1, 3, 8], "opt": [4, 3, 8], "max": [16, 3, 8]}}
    settings = {"workspace": 1024, "sparse": True}
    assert adapter._command(module, settings, "sm86", profile) == (
        "tensorrt_rtx --onnx=model.onnx --saveEngine=model.engine --skipInference "
        "'--minShapes='\"'\"'image:0'\"'\"':1x3x8' '--optShapes='\"'\"'image:0'\"'\"':4x3x8' "
        "'--maxShapes='\"'\"'image:0'\"'\"':16x3x8' --builderOptimizationLevel=3 --memPoolSize=workspace:1024B "
        "--noTF32 --sparsity=enable --computeCapabilities=86"
    )
    assert adapter._command(module, {"tf32": True}, "current", {}).endswith("--builderOptimizationLevel=3 --useGpu")


def test_tensorrt_itself_builds_for_the_gpu_that_is_here(images, tmp_path):
    with pytest.raises(Refusal, match=r"builds for this machine.s GPU, not for sm89") as caught:
        built(start("mlp"), images, tmp_path, library="tensorrt")
    assert "library = rtx" in caught.value.help


@off_gpu
def test_without_a_gpu_it_says_so_and_what_can_be_done(images, tmp_path, monkeypatch):
    with pytest.raises(Refusal, match=r"for this machine.s GPU cannot be built: ") as caught:
        built(start("mlp"), images, tmp_path, compute="current")
    assert "portable, sm89" in caught.value.help
    artifact = built(start("mlp"), images, tmp_path / "built")
    with pytest.raises(OutsideError, match="the engine cannot run here: "):
        TensorRT().open(artifact, TARGET, {}, STUDY)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert nvidia.missing() == "CUDA_VISIBLE_DEVICES hides every GPU"
    if cuda.missing() is None:
        with pytest.raises(OutsideError, match="CUDA's cudaSetDevice failed: "):
            cuda.Stream()


def exported(artifact, inputs=None, outputs=None):
    """`run.py` and `build.sh` beside the engine, as `optlang export` writes them, and what running the first gives."""
    entry = {
        "files": [{"name": item.name} for item in artifact.files], "about": artifact.about,
        "inputs": [{"name": item} for item in artifact.inputs],
        "outputs": [{"name": item} for item in artifact.outputs],
    }
    program, script = runner("runtime.tensorrt", entry), builder(entry)
    assert "optlang" not in program
    assert artifact.about["command"] in script
    (artifact.folder / "run.py").write_text(program)
    if inputs is not None:
        numpy.savez(artifact.folder / "example_inputs.npz", **inputs)
        numpy.savez(artifact.folder / "example_outputs.npz", **outputs)
    return subprocess.run(
        [sys.executable, "-I", artifact.folder / "run.py"], capture_output=True, text=True, timeout=100
    )


@off_gpu
@pytest.mark.skipif(cuda.missing() is not None, reason="no cuda-bindings")
def test_the_exported_program_says_that_there_is_no_driver(images, tmp_path):
    ran = exported(built(start("joined"), images, tmp_path))
    assert ran.returncode == 1
    assert ran.stderr.startswith("error: cudaStreamCreate: ")


def test_build_sh_runs_the_command_in_its_own_folder(images, tmp_path):
    artifact = built(start("mlp"), images, tmp_path / "built")
    script = artifact.folder / "build.sh"
    script.write_text(builder({"about": artifact.about}))
    tools = tmp_path / "tools"
    tools.mkdir()
    # It stands for NVIDIA's own, which is in no package: what it is given is what counts here.
    (tools / "tensorrt_rtx").write_text('#!/bin/sh\npwd\nprintf "%s\\n" "$@"\n')
    (tools / "tensorrt_rtx").chmod(0o755)
    path = {"PATH": os.pathsep.join([str(tools), os.environ["PATH"]])}
    shell = shutil.which("sh")
    ran = subprocess.run([shell, script, "--verbose"], capture_output=True, text=True, check=True, env=path)
    lines = ran.stdout.splitlines()
    assert Path(lines[0]).samefile(artifact.folder)
    assert lines[1:3] == ["--onnx=model.onnx", "--saveEngine=model.engine"]
    assert lines[-2:] == ["--computeCapabilities=89", "--verbose"]
    assert "--optShapes=input:4x1x8x8" in lines


# ---- where a GPU is


@on_gpu
@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize(("kind", "off"), [("float32", 1e-3), ("float16", 2e-2), ("int8", 5e-2)])
@pytest.mark.parametrize("network", ["cnn", "residual", "joined"])
def test_the_engine_answers_as_the_module(network, kind, off, graph, images, tmp_path):
    state = made(network, kind, images, tmp_path / "made")
    settings = {"compute": "current", "cuda_graph": graph, "max_batch": 8}
    artifact = built(state, images, tmp_path / "built", **settings)
    member = Deployment("an engine", "tensorrt", CALLS, artifact, TARGET, settings, STUDY)
    module = start(network).model.eval()
    inputs = {name: item.numpy() for name, item in images.bind(module).example(20).items()}
    with torch.no_grad():
        wanted = call(module, {name: torch.from_numpy(item) for name, item in inputs.items()})
    timed = {name: item[:4] for name, item in inputs.items()}
    with BareProcess(member) as process:
        # 20 samples are more than the profile takes in one call.
        for batch in (64, 3):
            found = process.outputs(inputs, batch)
            for name, item in wanted.items():
                limit = off * float(item.abs().max())
                numpy.testing.assert_allclose(found[name], item.numpy(), atol=limit, rtol=0)
        process.warm(timed, seconds=0.0, calls=4)
        assert (process.round(seconds=0.0, calls=20, skip=2) > 0).all()
        again = process.outputs(inputs, 64)
        assert all(numpy.allclose(found[name], again[name], atol=1e-3) for name in found)
    ran = exported(artifact, inputs, again)
    assert ran.returncode == 0, ran.stderr
    assert "largest difference" in ran.stdout


@on_gpu
def test_the_gpus_clock_times_replayed_calls(images, tmp_path):
    artifact = built(start("cnn"), images, tmp_path, compute="current")
    session = TensorRT().open(artifact, TARGET, {}, STUDY)
    inputs = {name: item.numpy() for name, item in images.bind(start("cnn").model).example(4).items()}
    prepared = session.prepare(inputs)
    first = session.collect(session.run(prepared))
    durations = session.durations(prepared, 0.01, 30, 3)
    assert len(durations) >= 30
    assert sum(durations) >= 1e7
    assert all(0 < item < 1e9 for item in durations)
    later = session.collect(session.run(prepared))
    assert all(numpy.allclose(first[name], later[name]) for name in first)
    session.close()


@on_gpu
def test_an_engine_that_is_broken_is_refused(images, tmp_path):
    artifact = built(start("mlp"), images, tmp_path, compute="current")
    (artifact.folder / "model.engine").write_bytes(b"no engine at all")
    with pytest.raises(Refusal, match="does not load the engine"):
        TensorRT().open(dataclasses.replace(artifact), TARGET, {}, STUDY)
