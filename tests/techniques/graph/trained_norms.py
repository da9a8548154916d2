"""Networks whose norms are as if they had been trained, for rewritings of them."""

from pathlib import Path

import torch
from torch import nn

from optlang.interfaces import Context, Factory, ModelState
from optlang.runtimes.onnxruntime.build import OnnxRuntime
from optlang.workload.model.call import call
from optlang.workload.model.make import make

STUDY = Path(__file__).parents[2] / "fixtures" / "models"


def unlike(module):
    """Its norms as if they had been trained."""
    generator = torch.Generator().manual_seed(5)
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            for item in (layer.running_mean, layer.running_var, layer.weight, layer.bias):
                if item is not None:
                    item.data = torch.rand(item.shape, generator=generator) + 0.3
    return module.eval()


def start(network="cnn", **arguments):
    factory = Factory(f"networks.py:{network}", arguments)
    return ModelState("module", unlike(make(factory, STUDY)), factory)


def given(module):
    """A state of a module that no factory makes."""
    return ModelState("module", unlike(module), Factory("networks.py:cnn"))


def apply(technique, state, data, folder=Path(), settings=None):
    return technique(state, settings or {}, Context(data, 3, folder, STUDY, OnnxRuntime().wants()))


def answers(state, data, count=16):
    with torch.no_grad():
        return call(state.model, data.bind(state.model).example(count))["output"]


def count(module):
    return sum(item.numel() for item in module.parameters())


def norms(module):
    return [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
