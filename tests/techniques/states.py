"""What the tests of techniques begin with, networks of the fixtures, and what they look at."""

from pathlib import Path

import onnxruntime
import torch
from torch.utils.flop_counter import FlopCounterMode

from optlang.interfaces import Context, Factory, ModelState
from optlang.techniques.shared.proof import proved
from optlang.workload.model.call import call
from optlang.workload.model.make import make

STUDY = Path(__file__).parents[1] / "fixtures" / "models"
# Plain, residual with shared modules, depthwise, U-Net with concatenation, Transformer encoder, LSTM.
KINDS = ("cnn", "residual", "depthwise", "unet", "encoder", "lstm")
NETWORKS = (*KINDS, "mlp", "joined", "rows", "tied", "grouped")


def made(calls, **arguments):
    """The model that a factory of the fixtures makes."""
    factory = Factory(calls, arguments)
    return ModelState("module", make(factory, STUDY), factory)


def start(network="cnn", **arguments):
    return made(f"networks.py:{network}", **arguments)


def proved_by(technique, state, data, settings, seed=1):
    """What the technique makes of the state, proved as a run proves it."""
    context = Context(data, seed, Path(), STUDY)
    result = technique(state, settings, context)
    proved(state, result, context)
    return result


def wide(network, width=64):
    """The network with more channels, so that there is something to win; a U-Net's are more as it is."""
    return start(network) if network == "tied" else start(network, width=width // 4 if network == "unet" else width)


def answers(state, data, count=16):
    """The outputs for the first validation samples, as arrays by name."""
    inputs = {name: item[:count] for name, item in data.arrays("validation")[0].items()}
    if state.form == "module":
        inputs = dict(zip(data.bind(state.model).input_names, inputs.values(), strict=True))
        with torch.no_grad():
            tensors = {name: torch.from_numpy(item) for name, item in inputs.items()}
            return {name: item.numpy() for name, item in call(state.model, tensors).items()}
    session = onnxruntime.InferenceSession(str(state.model), providers=["CPUExecutionProvider"])
    given = dict(zip([item.name for item in session.get_inputs()], inputs.values(), strict=True))
    return dict(zip([item.name for item in session.get_outputs()], session.run(None, given), strict=True))


def macs(state):
    """By torch's counter, which knows nothing of the kernels that run a whole encoder layer or LSTM at once."""
    fast, onednn = torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled
    torch.backends.mha.set_fastpath_enabled(False)
    torch.backends.mkldnn.enabled = False
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            state.model(torch.zeros(1, 1, 8, 8))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch.backends.mkldnn.enabled = onednn
    return counter.get_total_flops() // 2


def count(state):
    return sum(item.numel() for item in state.model.parameters())
