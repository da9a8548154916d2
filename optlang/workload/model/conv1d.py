"""Makes `nn.Linear` of the linear layers of Transformers' GPT-2 family, which have their weight the other way round.

`transformers.pytorch_utils.Conv1D` computes what `nn.Linear` does, and no tool that looks for linear layers finds it:
neither pruning nor quantization, ours or a runtime's.
"""

from __future__ import annotations

from collections import Counter

from torch import nn


def plain(module: nn.Module) -> nn.Module:
    """Put an `nn.Linear` with the same numbers in place of each Conv1D, in place.

    One whose weight another layer has too stays, and so does a subclass.
    """
    holders = Counter(id(item) for layer in module.modules() for item in layer.parameters(recurse=False))
    made: dict[nn.Module, nn.Linear] = {}
    for name, layer in list(module.named_modules(remove_duplicate=False)):
        if _is_conv1d(layer) and all(holders[id(item)] == 1 for item in layer.parameters()):
            if not name:
                return _linear(layer)
            holder, _, own = name.rpartition(".")
            if layer not in made:
                made[layer] = _linear(layer)
            setattr(module.get_submodule(holder), own, made[layer])
    return module


def _is_conv1d(layer: nn.Module) -> bool:
    # By name: transformers is imported where a study does so, and nowhere here.
    return (type(layer).__module__, type(layer).__name__) == ("transformers.pytorch_utils", "Conv1D")


def _linear(layer: nn.Module) -> nn.Linear:
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    inputs, outputs = weight.shape
    linear = nn.Linear(inputs, outputs, device="meta")
    linear.weight = nn.Parameter(weight.detach().t().contiguous(), weight.requires_grad)
    linear.bias = nn.Parameter(bias.detach().clone(), bias.requires_grad)
    return linear.train(layer.training)
