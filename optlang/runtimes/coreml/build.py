"""Core ML: the package that apps for iPhones and Macs load. It is built on Linux too and runs on macOS only.

An ML program of fixed shapes, which Apple's Neural Engine asks for, but for axes that the data or the study open. What
is compressed are its weights.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from optlang.interfaces import JSON, Arrays, Artifact, ModelState, QuantWants, Refusal, Session, TargetSpec
from optlang.runtimes.coreml import quantize
from optlang.runtimes.coreml.session import CoreMLSession
from optlang.workload.model import quantized_share

if TYPE_CHECKING:
    from torch import Tensor, nn

    from optlang.workload.data.axes import OpenAxis
    from optlang.workload.data.dataset import Dataset

NAME = "model.mlpackage"


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
        from optlang.runtimes.coreml import mil
        from optlang.runtimes.shared.artifact_files import described
        from optlang.runtimes.shared.torch_module import module_of
        from optlang.workload.export import tracing
        from optlang.workload.model import dtypes

        module = module_of(state, target, "coreml", ("module", "graph"))
        chosen = quantize.Chosen(state, settings)
        if chosen.integers is not None:
            dtypes.refuse_others(dtypes.module_types(module))
        example = data.example(target.batch)
        with tracing.first_call(module, example, study, mil.workshop(folder)) as outputs:
            about, names = _made(module, example, outputs, chosen, folder / NAME, data.axes)
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

        units = getattr(ct.ComputeUnit, quantize.UNITS[settings.get("units", "all")])
        model = ct.models.MLModel(str(artifact.folder / NAME), compute_units=units)
        return CoreMLSession(model, artifact)


def _made(
    module: nn.Module, example: Mapping[str, Tensor], outputs: Arrays, chosen: quantize.Chosen, package: Path,
    axes: Sequence[OpenAxis],
) -> tuple[dict[str, JSON], list[str]]:
    """Write the package; what there is to say of it, and its files."""
    import coremltools as ct

    from optlang.runtimes.coreml import mil
    from optlang.runtimes.shared.artifact_files import refuse_larger

    in_half = None if chosen.half is None else quantize.in_float16(module, chosen.half)
    target = getattr(ct.target, quantize.TARGETS[chosen.deployment])
    model, layer_of = mil.convert(module, example, outputs, target, in_half, axes)
    found = mil.weights(model, layer_of)
    # Before anything is compressed: those that no layer multiplies by count too.
    total = mil.elements(model) or 1
    halved = sum(item.elements for item in found if item.itemsize == 2)
    about: dict[str, JSON] = {}
    if in_half is not None:
        about["half"] = quantize.share_in_half(found)
        done = {item.name for item in found if item.itemsize == 2}
        quantize.refuse_little(found, done, module, chosen.half, "float16")
    before = _bytes(Path(model.package_path))
    wanted = quantize.configured(found, module, chosen, model)
    compressed = quantize.compressed(model, wanted, chosen)
    names, description = mil.write(compressed, package, tuple(example))
    decoded = mil.decoded(package)
    if chosen.integers is not None:
        quantize.refuse_little(found, wanted, module, chosen.integers, "in fewer bits")
    fewer = 0 if chosen.weights == "sparse" else sum(item.elements for item in found if item.name in wanted)
    still = halved - sum(item.elements for item in found if item.name in wanted and item.itemsize == 2)
    about["stored"] = quantized_share.stored(fewer / total, (halved if chosen.weights == "sparse" else still) / total)
    if wanted:
        after = sum((package.parent / name).stat().st_size for name in names)
        refuse_larger("compressing the weights", after, before)
        about["weights"] = {
            "share": sum(item.elements for item in found if item.name in wanted) / sum(item.elements for item in found),
            "as_is": sorted({item.layer for item in found if item.name not in wanted}),
        }
        plain = quantize.values(model)
        about["error"] = max(quantize.off(decoded[name], plain[name]) for name in wanted)
    about["operations"] = dict(mil.census(package))
    about["inputs"], about["outputs"] = _tensors(description.input), _tensors(description.output)
    about["versions"] = {"coremltools": ct.__version__}
    return about, names


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


