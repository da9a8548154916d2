"""What is done to the weights of a Core ML program: float16, integers, zeros left out, tables.

`half` and `weight_only` are techniques that the runtime carries out; sparse and palettized weights are settings of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from optlang.interfaces import Array, ModelState, Refusal
from optlang.workload.model import quantized_share

if TYPE_CHECKING:
    from torch import nn

    from optlang.runtimes.coreml.mil import Weight

TARGETS = {"ios16": "iOS16", "ios17": "iOS17", "ios18": "iOS18", "ios26": "iOS26"}
UNITS = {"all": "ALL", "cpu": "CPU_ONLY", "cpu_gpu": "CPU_AND_GPU", "cpu_engine": "CPU_AND_NE"}
_PERFORMED = ("half", "weight_only")
# Operations whose arithmetic loses most by rounding.
_SENSITIVE = ("layer_norm", "batch_norm", "instance_norm", "l2_norm", "local_response_norm", "softmax")
# Apple's own least share of zeros that it stores without them.
_ZEROS = 0.5
_LEAST = 16


class Chosen:
    """What was asked for, all of it known to Core ML."""

    def __init__(self, state: ModelState, settings: Mapping[str, Any]) -> None:
        self.deployment = str(settings.get("deployment", "ios17"))
        self.weights = str(settings.get("weights", "as_is"))
        self.units = UNITS[settings.get("units", "all")]
        self.half: Mapping[str, Any] | None = None
        self.integers: Mapping[str, Any] | None = None
        for request in state.requests:
            if request.technique not in _PERFORMED:
                raise Refusal(f"coreml does not carry out {request.technique}", help=" or ".join(_PERFORMED))
            if request.technique == "half":
                self.half = request.settings
            else:
                self.integers = request.settings
        if self.half is not None and self.half["dtype"] != "float16":
            raise Refusal(f"Core ML does not support {self.half['dtype']}", help="set dtype = float16")
        if self.integers is not None and self.weights != "as_is":
            raise Refusal(
                f"weights are stored in one way, not by weight_only and as {self.weights}",
                help="set weights = as_is, or remove weight_only",
            )
        if self.integers is not None and self.integers["bits"] == 4 and self.deployment in ("ios16", "ios17"):
            raise Refusal(f"{self.deployment} does not support 4-bit weights", help="set deployment = ios18")


# ---- float16


def in_float16(module: nn.Module, settings: Mapping[str, Any]) -> Callable[[str, str], bool]:
    """Which operations are in float16: as in optlang's own half, which has its lists from torch.amp."""
    from torch import nn as layers

    from optlang.workload.export import torch_export

    norms = (
        layers.modules.batchnorm._NormBase, layers.LayerNorm, layers.GroupNorm, layers.RMSNorm,
        layers.LocalResponseNorm, layers.Softmax, layers.Softmax2d, layers.LogSoftmax,
    )
    kept = {name for name, item in module.named_modules() if isinstance(item, norms)} | {_last(module)}

    def in_half(layer: str, kind: str) -> bool:
        if settings["sensitive"] and (kind in _SENSITIVE or (layer and layer in kept)):
            return False
        return torch_export.chosen_layer(layer, module, settings)

    torch_export.chosen_layer("", module, settings)  # a name that fits no layer is reported now
    return in_half


def _last(module: nn.Module) -> str:
    """The last layer with a matrix of weights in the module's order, unless it shares it with another."""
    owners: dict[int, list[str]] = {}
    for name, item in module.named_modules(remove_duplicate=False):
        for parameter in item.parameters(recurse=False):
            if parameter.ndim > 1:
                owners.setdefault(id(parameter), []).append(name)
    last = list(owners.values())[-1] if owners else [""]
    return last[0] if len(last) == 1 else ""


def refuse_little(
    found: list[Weight], done: Collection[str], module: nn.Module, settings: Mapping[str, Any] | None, what: str
) -> None:
    """Raise `Refusal` where most of the weights that a technique was asked for stay as they are."""
    from optlang.workload.export import torch_export

    settings = settings or {}
    asked = [
        quantized_share.Weight(item.layer, item.kind, item.elements, item.name in done) for item in found
        if torch_export.chosen_layer(item.layer, module, settings)
    ]
    more = "sensitive = false casts norms and the last layer too; or " if settings.get("sensitive") else ""
    quantized_share.mostly(
        asked, what, f"{more}name in `only` what is all that you want",
        named=bool(settings.get("only")),
    )


def share_in_half(found: list[Weight]) -> float:
    total = sum(item.elements for item in found)
    share = sum(item.elements for item in found if item.itemsize == 2) / total if total else 0.0
    if not share:
        raise Refusal(
            "no layer is left to cast to float16: all that have weights stay in float32",
            help="sensitive = false casts norms and the last layer too; shorten `keep`, or name more in `only`",
        )
    return share


# ---- compressed weights


def configured(found: list[Weight], module: nn.Module, chosen: Chosen, model: Any) -> dict[str, Any]:
    """How each weight is to be stored, by name, those left out that stay as they are."""
    from optlang.workload.export import torch_export

    if chosen.integers is None and chosen.weights == "as_is":
        return {}
    settings = chosen.integers or {}
    open_ones = [item for item in found if torch_export.chosen_layer(item.layer, module, settings)]
    if chosen.integers is not None:
        wanted = {item.name: _integers(item, chosen.integers) for item in open_ones}
        _check_bits(open_ones, chosen.integers)
    elif chosen.weights == "sparse":
        wanted = _sparse(open_ones, model)
    else:
        wanted = _palettes(open_ones, int(chosen.weights.removeprefix("palettized")))
    if not wanted:
        raise Refusal(
            f"no weight is left to compress; the operations with weights are {_kinds(found)}",
            help="shorten `keep`, or name more in `only`",
        )
    return wanted


def _kinds(found: list[Weight]) -> str:
    return ", ".join(sorted({item.kind for item in found})) or "no layer"


def _bits(item: Weight, settings: Mapping[str, Any]) -> tuple[int, int]:
    """The bits of a weight and how many inputs of it share a scale, 0 for all of an output's."""
    if settings["bits"] == 8 or item.kind != "linear" or len(item.shape) != 2:
        return 8, 0
    group, inputs = int(settings["group"]), item.shape[1]
    common = math.gcd(inputs, group)
    if common >= _LEAST:
        return 4, common
    return (4, 0) if inputs <= group else (8, 0)


def _integers(item: Weight, settings: Mapping[str, Any]) -> Any:
    from coremltools.optimize.coreml import OpLinearQuantizerConfig

    bits, group = _bits(item, settings)
    granularity = {"granularity": "per_block", "block_size": group} if group else {"granularity": "per_channel"}
    return OpLinearQuantizerConfig(
        mode="linear_symmetric" if settings["symmetric"] else "linear", dtype="int8" if bits == 8 else "int4",
        weight_threshold=0, **granularity,
    )


def _check_bits(open_ones: list[Weight], settings: Mapping[str, Any]) -> None:
    total = sum(item.elements for item in open_ones)
    fours = sum(item.elements for item in open_ones if _bits(item, settings)[0] == 4)
    if settings["bits"] == 4 and fours < total / 2 and not settings["only"]:
        others = sorted((item for item in open_ones if _bits(item, settings)[0] == 8), key=lambda item: -item.elements)
        named = ", ".join(dict.fromkeys(f"{item.layer} ({item.kind})" for item in others[:4]))
        raise Refusal(
            f"only {fours / total:.0%} of the weights would be in 4 bits: not those of {named}", help="set bits = 8"
        )


def _sparse(open_ones: list[Weight], model: Any) -> dict[str, Any]:
    from coremltools.optimize.coreml import OpThresholdPrunerConfig

    plain = values(model)
    zeros = {item.name: float((plain[item.name] == 0).mean()) for item in open_ones}
    config = OpThresholdPrunerConfig(threshold=1e-12, minimum_sparsity_percentile=_ZEROS, weight_threshold=0)
    wanted = {name: config for name, share in zeros.items() if share >= _ZEROS}
    if not wanted:
        most = max(zeros.values(), default=0.0)
        raise Refusal(
            f"no layer has zeros in half of its weights: the sparsest one has {most:.0%}",
            help="prune.magnitude sets weights to zero; or weights = as_is",
        )
    return wanted


def _palettes(open_ones: list[Weight], bits: int) -> dict[str, Any]:
    from coremltools.optimize.coreml import OpPalettizerConfig

    config = OpPalettizerConfig(mode="kmeans", nbits=bits, weight_threshold=0)
    # A table of its own must pay.
    return {
        item.name: config for item in open_ones
        if item.elements * bits / 8 + 2**bits * item.itemsize < item.elements * item.itemsize
    }


def compressed(model: Any, wanted: Mapping[str, Any], chosen: Chosen) -> Any:
    """The program with its weights stored so; `Refusal` with the names of those that coremltools left as they are."""
    import coremltools.optimize.coreml as compress

    if not wanted:
        return model
    config = compress.OptimizationConfig(op_name_configs=dict(wanted))
    if chosen.integers is not None:
        done = compress.linear_quantize_weights(model, config)
    elif chosen.weights == "sparse":
        done = compress.prune_weights(model, config)
    else:
        done = compress.palettize_weights(model, config)
    left = sorted(set(values(done)) & set(wanted))
    if left:
        raise Refusal(
            f"coremltools did not compress these weights: {', '.join(left[:4])}",
            help="exclude their layers by `keep`",
        )
    return done


def values(model: Any) -> dict[str, Array]:
    """The plain constants of a program by name."""
    from optlang.runtimes.coreml import mil

    operations = mil.operations(model._mil_program.functions["main"])
    return {item.name: item.outputs[0].val for item in operations if item.op_type == "const" and item.outputs[0].shape}


def off(stored: Array, value: Array) -> float:
    """How far the stored weights are from the others, as a share of their norm."""
    import numpy

    difference = stored.astype(numpy.float64) - value.astype(numpy.float64)
    return float(numpy.linalg.norm(difference) / max(float(numpy.linalg.norm(value.astype(numpy.float64))), 1e-30))
