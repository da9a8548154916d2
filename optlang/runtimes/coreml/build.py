"""Core ML: the package that apps for iPhones and Macs load. It is built on Linux too and runs on macOS only.

An ML program of fixed shapes, which Apple's Neural Engine asks for; what is compressed are its weights.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from optlang.interfaces import (
    JSON,
    Arrays,
    Artifact,
    ModelState,
    OptlangError,
    QuantWants,
    Refusal,
    Session,
    TargetSpec,
)
from optlang.workload.model import quantized_share

if TYPE_CHECKING:
    import numpy
    from torch import Tensor, nn

    from optlang.runtimes.coreml.mil import Weight
    from optlang.workload.data.dataset import Dataset

NAME = "model.mlpackage"
_TARGETS = {"ios16": "iOS16", "ios17": "iOS17", "ios18": "iOS18", "ios26": "iOS26"}
_UNITS = {"all": "ALL", "cpu": "CPU_ONLY", "cpu_gpu": "CPU_AND_GPU", "cpu_engine": "CPU_AND_NE"}
_WEIGHTS = ("as_is", "sparse", "palettized8", "palettized6", "palettized4")
_PERFORMED = ("half", "weight_only")
# Operations whose arithmetic loses most by rounding.
_SENSITIVE = ("layer_norm", "batch_norm", "instance_norm", "l2_norm", "local_response_norm", "softmax")
# Apple's own least share of zeros that it stores without them.
_ZEROS = 0.5
_LEAST = 16


class CoreML:
    """The artifact is the folder `model.mlpackage`; it takes the target's batch of samples, in float32.

    `settings["deployment"]` is the oldest system that loads it (macOS versions of the same year too), `units` what Core
    ML may run it on, and `weights` how the weights are stored: "sparse" leaves out the zeros of layers that are zero by
    half or more, "palettized4" to "palettized8" replace each weight by one of 2^bits values of its tensor (k-means, Han
    et al., Deep Compression, ICLR 2016). The techniques half and weight_only are carried out by coremltools. Core ML
    chooses its threads itself; the target's number is not its to take. `about` has the inputs' and outputs' types and
    shapes, the number of operations of each kind, and how far the stored weights are from the module's.
    """

    imports: ClassVar[tuple[str, ...]] = ("coremltools",)
    """What `open` needs in memory first, so that the load time is the model's and not the library's."""

    def available(self) -> str | None:
        """None where coremltools and torch are installed."""
        found = all(importlib.util.find_spec(name) for name in ("coremltools", "torch"))
        return None if found else 'pip install "optlang-dsl[coreml]"'

    def runs(self) -> str | None:
        """None on macOS."""
        return None if sys.platform == "darwin" else "Core ML runs on macOS only"

    def wants(self) -> QuantWants:
        """Symmetric int8 by channel; no int8 graph is built here: the declaration takes modules only."""
        return QuantWants("int8", "int8", True, True, True)

    def build(
        self, state: ModelState, target: TargetSpec, settings: Mapping[str, Any], folder: Path, data: Dataset,
        study: Path,
    ) -> Artifact:
        """Convert, compress and write the model, and read it back: every weight that was asked for is compressed.

        Raises `Refusal` for other forms and devices, for what torch.export or Core ML cannot take, for settings that
        Core ML has nothing for, and where compressing changes nothing or makes the package no smaller.
        """
        import torch

        from optlang.runtimes.coreml import mil
        from optlang.runtimes.shared.artifact_files import described
        from optlang.workload import imports
        from optlang.workload.export import tracing
        from optlang.workload.model import dtypes
        from optlang.workload.model.call import call

        if state.form not in ("module", "graph") or not isinstance(state.model, torch.nn.Module):
            raise Refusal(f"coreml is made from torch modules, not from a model in the form {state.form}")
        if target.device != "cpu":
            raise Refusal(f"coreml's units are its own setting; the target's device is cpu, not {target.device}")
        chosen = _Chosen(state, settings)
        module: nn.Module = state.model
        if chosen.integers is not None:
            dtypes.refuse_others(dtypes.module_types(module))
        training = module.training
        module.eval()
        try:
            example = data.example(target.batch)
            with tracing.plain_attention(), torch.no_grad(), mil.workshop(folder):
                with imports.user_code("running the model", study):
                    outputs = call(module, example)
                in_half = _in_half(module, chosen.half) if chosen.half is not None else None
                about, names = _made(module, example, outputs, chosen, in_half, folder / NAME)
        finally:
            module.train(training)
        return Artifact(
            folder, "mlpackage", described(folder, names), data.input_names, tuple(outputs),
            {"batch": target.batch, "deployment": chosen.deployment, "units": chosen.units, **about},
        )

    def open(self, artifact: Artifact, target: TargetSpec, settings: Mapping[str, Any], study: Path) -> Session:
        """The package, compiled by this Mac for the chosen units. Raises `Refusal` on other systems."""
        reason = self.runs()
        if reason is not None:
            raise Refusal(reason, help="its size was measured where it was built; open it on a Mac")
        import coremltools as ct

        units = _one_of(settings, "units", "all", _UNITS)
        model = ct.models.MLModel(str(artifact.folder / NAME), compute_units=getattr(ct.ComputeUnit, _UNITS[units]))
        return _Open(model, artifact)


class _Chosen:
    """What was asked for, all of it known to Core ML."""

    def __init__(self, state: ModelState, settings: Mapping[str, Any]) -> None:
        self.deployment = _one_of(settings, "deployment", "ios17", _TARGETS)
        self.weights = _one_of(settings, "weights", "as_is", _WEIGHTS)
        self.units = _UNITS[_one_of(settings, "units", "all", _UNITS)]
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
            raise Refusal(f"Core ML has no {self.half['dtype']}", help="dtype = float16")
        if self.integers is not None and self.weights != "as_is":
            raise Refusal(
                f"weights are stored one way: weight_only, or weights = {self.weights}", help="weights = as_is"
            )
        if self.integers is not None and self.integers["bits"] == 4 and self.deployment in ("ios16", "ios17"):
            raise Refusal(f"{self.deployment} reads no weights of 4 bits", help="deployment = ios18")


def _one_of(settings: Mapping[str, Any], name: str, default: str, known: Any) -> str:
    value = str(settings.get(name, default))
    if value not in known:
        raise OptlangError(f"coreml has no {name} '{value}'", help=f"one of {', '.join(known)}")
    return value


def _made(
    module: nn.Module, example: Mapping[str, Tensor], outputs: Mapping[str, Tensor], chosen: _Chosen,
    in_half: Callable[[str, str], bool] | None, package: Path,
) -> tuple[dict[str, JSON], list[str]]:
    """Write the package; what there is to say of it, and its files."""
    import coremltools as ct

    from optlang.runtimes.coreml import mil

    target = getattr(ct.target, _TARGETS[chosen.deployment])
    model, layer_of = mil.convert(module, example, outputs, target, in_half)
    found = mil.weights(model, layer_of)
    # Before anything is compressed: those that no layer multiplies by count too.
    total = mil.elements(model) or 1
    halved = sum(item.elements for item in found if item.itemsize == 2)
    about: dict[str, JSON] = {}
    if in_half is not None:
        about["half"] = _share_in_half(found)
        _refuse_little(found, {item.name for item in found if item.itemsize == 2}, module, chosen.half, "float16")
    before = _bytes(Path(model.package_path))
    wanted = _configured(found, module, chosen, model)
    compressed = _compressed(model, wanted, chosen)
    names, description = mil.write(compressed, package, tuple(example))
    decoded = mil.decoded(package)
    if chosen.integers is not None:
        _refuse_little(found, wanted, module, chosen.integers, "in fewer bits")
    fewer = 0 if chosen.weights == "sparse" else sum(item.elements for item in found if item.name in wanted)
    still = halved - sum(item.elements for item in found if item.name in wanted and item.itemsize == 2)
    about["stored"] = quantized_share.stored(fewer / total, (halved if chosen.weights == "sparse" else still) / total)
    if wanted:
        after = sum((package.parent / name).stat().st_size for name in names)
        if after >= before:
            raise Refusal(
                f"compressed weights make this model larger: {after} bytes against {before}",
                help="scales and tables cost more than its few weights save",
            )
        about["weights"] = {
            "share": sum(item.elements for item in found if item.name in wanted) / sum(item.elements for item in found),
            "as_is": sorted({item.layer for item in found if item.name not in wanted}),
        }
        about["error"] = max(_off(decoded[name], value) for name, value in _values(model).items() if name in wanted)
    about["operations"] = dict(mil.census(package))
    about["inputs"], about["outputs"] = _tensors(description.input), _tensors(description.output)
    about["versions"] = {"coremltools": ct.__version__}
    return about, names


# ---- float16


def _in_half(module: nn.Module, settings: Mapping[str, Any]) -> Callable[[str, str], bool]:
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

    torch_export.chosen_layer("", module, settings)  # a name that fits no layer is told now
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


def _refuse_little(
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


def _share_in_half(found: list[Weight]) -> float:
    total = sum(item.elements for item in found)
    share = sum(item.elements for item in found if item.itemsize == 2) / total if total else 0.0
    if not share:
        raise Refusal(
            "no layer is left to cast to float16: all that have weights stay in float32",
            help="sensitive = false casts norms and the last layer too; shorten `keep`, or name more in `only`",
        )
    return share


# ---- compressed weights


def _configured(found: list[Weight], module: nn.Module, chosen: _Chosen, model: Any) -> dict[str, Any]:
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
            f"no weight is left to store otherwise: the model multiplies in {_kinds(found)}",
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
            f"only {fours / total:.0%} of the weights would be in 4 bits: not those of {named}", help="bits = 8"
        )


def _sparse(open_ones: list[Weight], model: Any) -> dict[str, Any]:
    from coremltools.optimize.coreml import OpThresholdPrunerConfig

    values = _values(model)
    zeros = {item.name: float((values[item.name] == 0).mean()) for item in open_ones}
    config = OpThresholdPrunerConfig(threshold=1e-12, minimum_sparsity_percentile=_ZEROS, weight_threshold=0)
    wanted = {name: config for name, share in zeros.items() if share >= _ZEROS}
    if not wanted:
        most = max(zeros.values(), default=0.0)
        raise Refusal(
            f"no layer is zero by half: the most that one has are {most:.0%} zeros",
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


def _compressed(model: Any, wanted: Mapping[str, Any], chosen: _Chosen) -> Any:
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
    left = sorted(set(_values(done)) & set(wanted))
    if left:
        raise Refusal(f"coremltools left weights as they are: {', '.join(left[:4])}", help="keep their layers")
    return done


def _values(model: Any) -> dict[str, numpy.ndarray[Any, Any]]:
    """The plain constants of a program by name."""
    from optlang.runtimes.coreml import mil

    operations = mil.operations(model._mil_program.functions["main"])
    return {item.name: item.outputs[0].val for item in operations if item.op_type == "const" and item.outputs[0].shape}


def _off(stored: numpy.ndarray[Any, Any], value: numpy.ndarray[Any, Any]) -> float:
    """How far the stored weights are from the others, as a share of their norm."""
    import numpy

    difference = stored.astype(numpy.float64) - value.astype(numpy.float64)
    return float(numpy.linalg.norm(difference) / max(float(numpy.linalg.norm(value.astype(numpy.float64))), 1e-30))


def _bytes(package: Path) -> int:
    return sum(path.stat().st_size for path in package.rglob("*") if path.is_file())


def _tensors(features: Any) -> dict[str, JSON]:
    from coremltools.proto import FeatureTypes_pb2

    kinds = FeatureTypes_pb2.ArrayFeatureType.ArrayDataType
    return {
        item.name: {
            "dtype": kinds.Name(item.type.multiArrayType.dataType).lower(),
            "shape": list(item.type.multiArrayType.shape),
        }
        for item in features
    }


class _Open:
    def __init__(self, model: Any, artifact: Artifact) -> None:
        self._model = model
        self._artifact = artifact
        self._kinds: Mapping[str, Any] = artifact.about["inputs"]  # type: ignore[assignment]

    def prepare(self, batch: Arrays) -> dict[str, numpy.ndarray[Any, Any]]:
        return {name: batch[name].astype(self._kinds[name]["dtype"]) for name in self._artifact.inputs}

    def run(self, prepared: dict[str, numpy.ndarray[Any, Any]]) -> Any:
        return self._model.predict(prepared)

    def collect(self, result: Any) -> dict[str, numpy.ndarray[Any, Any]]:
        import numpy

        return {name: numpy.asarray(result[name]) for name in self._artifact.outputs}

    def close(self) -> None:
        del self._model
