"""What the tests of int8 share: static int8 in this machine's scheme, and what became of a model."""

import onnx
import onnxruntime
import torch
from onnx import numpy_helper

from optlang.interfaces import Context
from optlang.runtimes.onnxruntime.build import OnnxRuntime
from optlang.techniques.quant.static import static
from tests.techniques.states import STUDY

STATIC = {
    "calibrator": "minmax", "percentile": None, "bins": None, "samples": 64, "granularity": "auto",
    "bias_correction": False, "keep": (), "only": (),
}
# As this machine's processor runs it right: without VNNI the kernels overflow with eight bits.
WANTS = OnnxRuntime().wants()


def quantized(state, data, folder, wants=WANTS, seed=1, **changed):
    result = static(state, STATIC | changed, Context(data, seed, folder, STUDY, wants))
    return result, onnx.load(result.model)


def accuracy(state, data):
    inputs, labels = data.arrays("validation")
    values = next(iter(inputs.values()))
    if state.form == "module":
        with torch.no_grad():
            return data.task.metrics(state.model(torch.from_numpy(values)), labels)["accuracy"]
    session = onnxruntime.InferenceSession(str(state.model), providers=["CPUExecutionProvider"])
    return data.task.metrics(session.run(None, {session.get_inputs()[0].name: values})[0], labels)["accuracy"]


def constants(model):
    return {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
