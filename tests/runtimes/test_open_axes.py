"""Artifacts of models whose inputs have axes of any size: they answer as the module does, or the runtime refuses."""

import importlib.util
from pathlib import Path

import numpy
import pytest
import torch

from optlang.interfaces import Factory, ModelState, Refusal, TargetSpec
from optlang.plan.axes import AxisSizes
from optlang.workload import imports
from optlang.workload.data import dataset as data_module
from optlang.workload.export.tracing import plain_attention
from optlang.workload.model.make import make

STUDY = Path(__file__).parents[1] / "fixtures" / "models"
FACTORY = Factory("lines.py:reader")
RUNTIMES = {
    "onnxruntime": ("optlang.runtimes.onnxruntime.build:OnnxRuntime", "onnxruntime"),
    "openvino": ("optlang.runtimes.openvino.build:OpenVino", "openvino"),
    "torchscript": ("optlang.runtimes.torch.torchscript:TorchScript", "torch"),
    "inductor": ("optlang.runtimes.torch.inductor:Inductor", "torch"),
    "executorch": ("optlang.runtimes.executorch.build:ExecuTorch", "executorch"),
    "litert": ("optlang.runtimes.litert.build:LiteRT", "litert_torch"),
    "coreml": ("optlang.runtimes.coreml.build:CoreML", "coremltools"),
    "tensorrt": ("optlang.runtimes.tensorrt.build:TensorRT", "tensorrt_rtx"),
}

pytestmark = pytest.mark.slow


def runtime(name):
    calls, package = RUNTIMES[name]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    made = imports.find(calls, STUDY)()
    if name != "tensorrt" and made.available() is not None:
        pytest.skip(made.available())
    return made


def lines(**arguments):
    return data_module.load(Factory("lines.py:lines", arguments), STUDY)


@pytest.mark.parametrize("name", ["openvino", "torchscript", "inductor", "executorch"])
def test_every_size_is_answered_as_the_module_does(name, tmp_path, one_thread):
    adapter, module = runtime(name), make(FACTORY, STUDY).eval()
    data, target = lines().bind(module), TargetSpec("here", batch=2)
    artifact = adapter.build(ModelState("module", module, FACTORY), target, {}, tmp_path, data, STUDY)
    session = adapter.open(artifact, target, {}, STUDY)
    for size in (5, 7, 11):
        inputs = data.example(2, {"tokens_1": size})
        found = session.collect(session.run(session.prepare({key: item.numpy() for key, item in inputs.items()})))
        with torch.no_grad(), plain_attention():
            numpy.testing.assert_allclose(found["output"], module(**inputs).numpy(), atol=1e-5)
    session.close()


def test_litert_says_that_its_files_have_one_size(tmp_path):
    adapter, module = runtime("litert"), make(FACTORY, STUDY).eval()
    with pytest.raises(Refusal, match="LiteRT takes inputs of one size, and tokens:1 is of 5 to 11") as error:
        adapter.build(
            ModelState("module", module, FACTORY), TargetSpec("phone"), {}, tmp_path, lines().bind(module), STUDY
        )
    assert "max_length" in error.value.help


def test_core_ml_has_a_range_of_sizes(tmp_path):
    adapter, module = runtime("coreml"), make(FACTORY, STUDY).eval()
    data = lines(length=8).bind(module).opened([AxisSizes("tokens", 1, 2, 20)])
    adapter.build(ModelState("module", module, FACTORY), TargetSpec("phone"), {}, tmp_path, data, STUDY)
    import coremltools as ct

    spec = ct.utils.load_spec(str(tmp_path / "model.mlpackage"))
    for item in spec.description.input:
        ranges = item.type.multiArrayType.shapeRange.sizeRanges
        assert [(size.lowerBound, size.upperBound) for size in ranges] == [(1, 1), (2, 20)], item.name


def test_tensorrt_has_a_profile_of_sizes(tmp_path):
    adapter, module = runtime("tensorrt"), make(FACTORY, STUDY).eval()
    data = lines().bind(module).opened([], [AxisSizes("mask", 1, 9, 9)])
    settings = {"library": "rtx", "compute": "sm89"}
    target = TargetSpec("here", "cuda", batch=4)
    artifact = adapter.build(ModelState("module", module, FACTORY), target, settings, tmp_path, data, STUDY)
    sizes = {"min": [1, 5], "opt": [4, 9], "max": [64, 11]}
    assert artifact.about["profile"] == {"tokens": sizes, "mask": sizes}
