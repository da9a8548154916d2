"""Core ML packages read back from disk: answers by an interpreter of their programs, weights, types, and refusals."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
from torch.nn import functional

from optlang.interfaces import Context, Factory, ModelState, OptlangError, Refusal, Request, TargetSpec
from optlang.report.export.runners import runner
from optlang.runtimes.coreml import mil
from optlang.runtimes.coreml.build import CoreML
from optlang.workload import imports
from optlang.workload.data import dataset as data_module
from optlang.workload.model.call import call
from optlang.workload.model.make import make

STUDY = Path(__file__).parents[2] / "fixtures" / "models"
HALF = {"dtype": "float16", "sensitive": True, "keep": (), "only": ()}
INT8 = {"bits": 8, "symmetric": True, "keep": (), "only": ()}
INT4 = {**INT8, "bits": 4, "group": 32}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("coremltools") is None, reason="coremltools is not installed"),
]


@pytest.fixture(scope="module")
def images():
    return data_module.load(Factory("networks.py:images"), STUDY)


def named(network, *requests):
    factory = Factory(f"networks.py:{network}")
    module = make(factory, STUDY)
    with torch.no_grad():
        for item in module.modules():
            if isinstance(item, torch.nn.BatchNorm2d):
                item.running_mean.copy_(torch.linspace(-0.3, 0.4, item.num_features))
                item.running_var.copy_(torch.linspace(0.5, 2.0, item.num_features))
    return ModelState("graph" if requests else "module", module, factory, requests=requests)


def build(state, images, folder, batch=1, **settings):
    folder.mkdir()
    return CoreML().build(
        state, TargetSpec("phone", batch=batch), settings, folder, images.bind(state.model), STUDY
    )


def weighs(artifact):
    return sum(item.bytes for item in artifact.files)


# ---- the program on disk, run by torch


def padded(inputs, x):
    if inputs["pad_type"] == "custom":
        before_and_after = list(inputs["pad"])
        return functional.pad(x, [side for axis in (2, 0) for side in before_and_after[axis : axis + 2]])
    assert inputs["pad_type"] == "valid"
    return x


def conv(of):
    return functional.conv2d(padded(of, of["x"]), of["weight"], of.get("bias"), tuple(of["strides"]), 0,
                             tuple(of["dilations"]), int(of["groups"]))


OPERATIONS = {
    "conv": conv,
    "linear": lambda of: functional.linear(of["x"], of["weight"], of.get("bias")),
    "relu": lambda of: torch.relu(of["x"]),
    "add": lambda of: of["x"] + of["y"],
    "cast": lambda of: of["x"].to({"fp16": torch.float16, "fp32": torch.float32}[str(of["dtype"])]),
    "reshape": lambda of: of["x"].reshape(tuple(of["shape"])),
    "concat": lambda of: torch.cat(list(of["values"]), int(of["axis"])),
    "reduce_mean": lambda of: of["x"].mean(tuple(int(axis) for axis in of["axes"]), bool(of["keep_dims"])),
}


def run(artifact, inputs):
    """What the package's own program says of `inputs`, each operation by torch's of that name."""
    import coremltools as ct
    from coremltools.converters.mil.frontend.milproto.load import load

    with mil.workshop(artifact.folder):
        package = artifact.folder / "model.mlpackage"
        spec = ct.utils.load_spec(str(package))
        weights = package / "Data" / "com.apple.CoreML" / "weights"
        main = load(spec, spec.specificationVersion, str(weights)).functions["main"]
    known = {name: torch.from_numpy(item) for name, item in inputs.items()}

    def value(item):
        if isinstance(item, list | tuple):
            return [value(one) for one in item]
        if item.name in known:
            return known[item.name]
        array = item.val if item.op.op_type == "const" else item.op.materialized_val_inference()
        return torch.from_numpy(array) if isinstance(array, numpy.ndarray) and array.dtype.kind == "f" else array

    for operation in main.operations:
        if operation.op_type == "const" or operation.op_type.startswith("constexpr_"):
            continue
        given = {name: value(item) for name, item in operation.inputs.items() if item is not None}
        known[operation.outputs[0].name] = OPERATIONS[operation.op_type](given)
    return [known[name] for name in artifact.outputs]


@pytest.mark.parametrize(("network", "settings", "requests", "within"), [
    ("cnn", {}, (), 1e-5),
    ("residual", {}, (Request("half", HALF),), 2e-2),
    ("joined", {}, (Request("weight_only", INT8),), 2e-2),
    ("mlp", {"deployment": "ios18"}, (Request("weight_only", INT4),), 0.3),
    ("cnn", {"weights": "palettized8"}, (Request("half", HALF),), 2e-2),
])
def test_the_program_answers_as_the_module(network, settings, requests, within, images, tmp_path):
    state = named(network, *requests)
    artifact = build(state, images, tmp_path / "package", 3, **settings)
    inputs = images.bind(artifact.inputs).arrays("validation", 3)[0]
    with torch.no_grad():
        wanted = call(state.model, {name: torch.from_numpy(item) for name, item in inputs.items()})
    for (name, right), found in zip(wanted.items(), run(artifact, inputs), strict=True):
        assert found.dtype == torch.float32
        assert artifact.about["outputs"][name] == {"dtype": "float32", "shape": list(right.shape)}
        assert float((found - right).norm() / right.norm()) < within, name
    assert {item.name for item in artifact.files} == {
        str(path.relative_to(artifact.folder)) for path in artifact.folder.rglob("*") if path.is_file()
    }


# ---- what is stored


def test_weights_are_the_modules_own(images, tmp_path):
    state = named("mlp")
    stored = mil.decoded(build(state, images, tmp_path / "package").folder / "model.mlpackage")
    assert len(stored) == 3
    for layer, item in zip((1, 3, 5), stored.values(), strict=True):
        numpy.testing.assert_array_equal(item, state.model[layer].weight.detach().numpy())


def test_int8_weights_are_off_by_no_more_than_half_a_step(images, tmp_path):
    artifact = build(named("mlp", Request("weight_only", INT8)), images, tmp_path / "package")
    module = named("mlp").model
    for layer, item in zip((1, 3, 5), mil.decoded(artifact.folder / "model.mlpackage").values(), strict=True):
        weight = module[layer].weight.detach().numpy()
        step = numpy.abs(weight).max(axis=1, keepdims=True) / 127
        assert (numpy.abs(item - weight) <= 0.5001 * step).all()
    assert artifact.about["operations"]["constexpr_affine_dequantize"] == 3
    assert artifact.about["weights"] == {"share": 1.0, "as_is": []}
    assert artifact.about["error"] < 0.01
    # 3,392 weights lose three of their four bytes, and get scales.
    assert weighs(artifact) < weighs(build(named("mlp"), images, tmp_path / "float")) - 2 * 3392


def test_float16_keeps_what_is_sensitive_and_what_was_named(images, tmp_path):
    plain = build(named("encoder"), images, tmp_path / "float")
    half = build(named("encoder", Request("half", HALF)), images, tmp_path / "half")
    assert "cast" not in plain.about["operations"]
    assert 0.95 < half.about["half"] < 1  # the head stays
    assert weighs(half) < weighs(plain) - 25_000  # 17,034 weights, less what the casts take
    settings = {**HALF, "sensitive": False, "only": ("head",)}
    few = build(named("encoder", Request("half", settings)), images, tmp_path / "few")
    assert few.about["half"] == pytest.approx(1 - half.about["half"])


def test_zeros_are_left_out_where_they_are_half(images, tmp_path):
    prune = imports.find("optlang.techniques.prune.magnitude:magnitude", STUDY)
    settings = {"sparsity": 0.8, "relative_to": "all", "scope": "layer", "importance": "l1", "keep": ("5",), "only": ()}
    pruned = prune(named("mlp"), settings, Context(images, 1, tmp_path, STUDY))
    plain = build(pruned, images, tmp_path / "plain")
    sparse = build(pruned, images, tmp_path / "sparse", weights="sparse")
    assert sparse.about["operations"]["constexpr_sparse_to_dense"] == 2
    assert sparse.about["weights"]["as_is"] == ["5"]
    assert sparse.about["error"] == 0
    # A bit for each weight, and the fifth that is left.
    assert weighs(plain) - weighs(sparse) > 0.7 * 4 * 3072 - 1024
    with pytest.raises(Refusal, match="the sparsest one has 0%"):
        build(named("mlp"), images, tmp_path / "dense", weights="sparse")


def test_recurrent_layers_have_operations_of_their_own(images, tmp_path):
    artifact = build(named("lstm", Request("weight_only", {**INT8, "keep": ("embed",)})), images, tmp_path / "package")
    assert artifact.about["operations"]["lstm"] == 1
    assert artifact.about["weights"]["as_is"] == ["embed"]


def test_the_same_bytes_come_out_again_and_nothing_lies_elsewhere(images, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    first, second = (
        build(named("mlp", Request("half", HALF)), images, tmp_path / name, weights="palettized4")
        for name in ("first", "second")
    )
    assert first.files == second.files
    assert os.listdir(tmp_path / "home") == []  # noqa: PTH208
    assert [path.name for path in first.folder.iterdir()] == ["model.mlpackage"]


@pytest.mark.parametrize(("network", "settings", "requests", "reason"), [
    ("mlp", {}, (Request("half", {**HALF, "dtype": "bfloat16"}),), "does not support bfloat16"),
    ("mlp", {}, (Request("static", {}),), "does not carry out static"),
    ("mlp", {}, (Request("weight_only", INT4),), "ios17 does not support 4-bit weights"),
    ("mlp", {"weights": "sparse"}, (Request("weight_only", INT8),), "stored in one way"),
    ("mlp", {}, (Request("weight_only", {**INT8, "keep": ("*",)}),), "no weight is left"),
    ("mlp", {}, (Request("half", {**HALF, "keep": ("*",)}),), "no layer is left to cast"),
    ("cnn", {"deployment": "ios18"}, (Request("weight_only", INT4),), r"only 6% .*not those of 2 \(conv\), 0 \(conv\)"),
    ("choosing", {}, (), "cannot be exported for Core ML"),
])
def test_what_it_cannot_do_is_refused(network, settings, requests, reason, images, tmp_path):
    with pytest.raises(Refusal, match=reason):
        build(named(network, *requests), images, tmp_path / "refused", **settings)


def test_names_that_fit_nothing_are_told(images, tmp_path):
    with pytest.raises(OptlangError, match="has none"):
        build(named("mlp", Request("weight_only", {**INT8, "only": ("nowhere",)})), images, tmp_path / "none")


@pytest.mark.skipif(sys.platform == "darwin", reason="it runs here")
def test_elsewhere_it_says_where_it_runs(images, tmp_path):
    assert CoreML().runs() == "Core ML runs on macOS only"
    artifact = build(named("mlp"), images, tmp_path / "package")
    with pytest.raises(Refusal, match="on macOS only"):
        CoreML().open(artifact, TargetSpec("phone"), {}, STUDY)
    entry = {
        "files": [{"name": item.name} for item in artifact.files], "about": artifact.about,
        "inputs": [{"name": name} for name in artifact.inputs],
        "outputs": [{"name": name} for name in artifact.outputs],
    }
    program = artifact.folder / "run.py"
    program.write_text(runner("coreml", entry))
    assert "MLModel(str(HERE / 'model.mlpackage'), compute_units=coremltools.ComputeUnit.ALL)" in program.read_text()
    ran = subprocess.run([sys.executable, "-I", program], capture_output=True, text=True)
    assert ran.returncode == 1
    assert ran.stderr.endswith("Core ML runs on macOS only\n")
