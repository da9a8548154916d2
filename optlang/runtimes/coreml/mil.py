"""MIL, the language of Core ML's programs: modules converted to it, weights compressed in it, packages read back.

Modules go by torch.export, and those with recurrent layers by a trace: coremltools has those layers for traces only.
Of each operation is known which layer it comes from, so that layers can be chosen by name.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from optlang.workload import failures, process_state
from optlang.workload.export import torch_export, tracing

if TYPE_CHECKING:
    from torch import Tensor, nn

    from optlang.interfaces import Array, Arrays
    from optlang.workload.data.axes import OpenAxis

# Which parameters of an operation hold what it multiplies by, or looks up.
_WEIGHTS = {
    "conv": ("weight",), "conv_transpose": ("weight",), "linear": ("weight",), "matmul": ("x", "y"),
    "lstm": ("weight_ih", "weight_hh", "weight_ih_back", "weight_hh_back"), "gru": ("weight_ih", "weight_hh"),
    "rnn": ("weight_ih", "weight_hh"), "gather": ("x",),
}
_CONSTANT = ("const", "constexpr_")
_REMARKS: tuple[process_state.Remark, ...] = (
    *tracing.REMARKS,
    (r"Implicitly cleaning up", ResourceWarning),
    (r"", DeprecationWarning, r"coremltools\..*"),
    (r"", UserWarning, r"coremltools\..*"),
    (r"Function _TORCH_OPS_REGISTRY", DeprecationWarning),
)
Layers = Callable[[Any], str]


@dataclass(frozen=True, slots=True)
class Weight:
    """A constant that an operation of the kind `kind` multiplies by: its name, its layer and its shape."""

    name: str
    layer: str
    kind: str
    shape: tuple[int, ...]
    itemsize: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@contextlib.contextmanager
def workshop(folder: Path) -> Iterator[None]:
    """coremltools writes its packages into a folder inside `folder`, which goes; nothing is printed or warned of."""
    # Bars of progress, and the versions that it has been tested with.
    with (
        process_state.temporary_files_in(folder), process_state.quiet(("coremltools",), _REMARKS), torch_export.quiet(),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        yield


def convert(
    module: nn.Module, example: Mapping[str, Tensor], outputs: Arrays, target: Any,
    in_half: Callable[[str, str], bool] | None, axes: Sequence[OpenAxis] = (),
) -> tuple[Any, Layers]:
    """The ML program of `module` for the samples of `example`, and which layer an operation of it comes from.

    `in_half(layer, kind)` says of each operation whether it is in float16; None: all in float32. Inputs and outputs
    stay in float32. `axes` take any size between their smallest and their largest. Raises `Refusal` where there is no
    operation for one of torch's.
    """
    import coremltools as ct

    program = torch_export.program(module, example, "Core ML", fixed=True)
    recurrent = any(item.kind == "recurrent" for item in torch_export.weights(program.module()))
    if axes and not recurrent:
        program = torch_export.program(module, example, "Core ML", fixed=True, axes=axes, bounded=True)
    handles: dict[int, str] = {}
    options: dict[str, Any] = {
        "outputs": [ct.TensorType(name=name, dtype=_kind(item)) for name, item in outputs.items()]
    }
    if recurrent or axes:
        ranges = {item.name: ct.RangeDim(item.low, item.high, item.usual) for item in axes}
        opened = {place: ranges[item.name] for item in axes for place in item.places}
        options["inputs"] = [
            ct.TensorType(
                name, tuple(opened.get((name, axis), size) for axis, size in enumerate(item.shape)), dtype=_kind(item)
            )
            for name, item in example.items()
        ]
    source: Any
    if recurrent:
        wrapped = tracing.Positional(module, tuple(example)).eval()
        source = torch.jit.trace(wrapped, tuple(example.values()), check_trace=False)  # type: ignore[no-untyped-call]
    else:
        source = program.run_decompositions({})
        handles = _numbered(source)

    def layer_of(operation: Any) -> str:
        return _layer(operation, handles)

    precision = ct.precision.FLOAT32
    if in_half is not None:
        precision = ct.transform.FP16ComputePrecision(lambda item: in_half(layer_of(item), item.op_type))
    with failures.refused(
        "Core ML has no program for the model",
        help="write that part of forward with other operators, or use the runtime executorch",
    ):
        model = ct.convert(
            source, convert_to="mlprogram", minimum_deployment_target=target, compute_precision=precision,
            skip_model_load=True, **options,
        )
    return model, layer_of


def _kind(item: Any) -> Any:
    import numpy

    # Core ML's inputs and outputs are float32, float16 or int32.
    return numpy.float32 if "float" in str(item.dtype) else numpy.int32


def _numbered(program: Any) -> dict[int, str]:
    """A number for each node, which the converter hands on; a norm that it folds has that of its convolution."""
    layers: dict[int, str] = {}
    for number, node in enumerate(program.graph.nodes, 1):
        layers[number] = torch_export.layer_of(node)
        node.meta["debug_handle"] = number
        before: Any = node.args[0] if node.args else None
        if "batch_norm" in str(node.target) and getattr(before, "target", None) in torch_export.CONVOLUTIONS:
            node.meta["debug_handle"] = before.meta["debug_handle"]
    return layers


def _layer(operation: Any, handles: Mapping[int, str]) -> str:
    from coremltools.converters.mil.mil.scope import ScopeSource

    for handle in operation.scopes.get(ScopeSource.EXIR_DEBUG_HANDLE, ()):
        if handle in handles:
            return handles[handle]
    parts = [str(item) for item in operation.scopes.get(ScopeSource.TORCHSCRIPT_MODULE_NAME, ())][:-1]
    return ".".join(parts[parts.index(tracing.INNER) + 1 :]) if tracing.INNER in parts else ""


# ---- weights


def weights(model: Any, layer_of: Layers) -> list[Weight]:
    """What the operations of a program that was just converted multiply by, each constant once."""
    found: dict[str, Weight] = {}
    for operation in operations(model._mil_program.functions["main"]):
        for name in _WEIGHTS.get(operation.op_type, ()):
            value = operation.inputs.get(name)
            source = getattr(value, "op", None)
            if source is not None and source.op_type == "const" and len(value.shape) > 1:
                item = Weight(
                    source.name, layer_of(operation), operation.op_type, tuple(value.shape), value.val.dtype.itemsize
                )
                found.setdefault(item.name, item)
    return list(found.values())


def elements(model: Any) -> int:
    """The numbers in all constants of a program with two axes or more that are floats."""
    return sum(
        math.prod(item.outputs[0].shape) for item in operations(model._mil_program.functions["main"])
        if item.op_type == "const" and len(item.outputs[0].shape) > 1 and item.outputs[0].val.dtype.kind == "f"
    )


def operations(block: Any) -> Iterator[Any]:
    for operation in block.operations:
        yield operation
        for inner in operation.blocks:
            yield from operations(inner)


def decoded(package: Path) -> dict[str, Array]:
    """The weights of a package on disk as its operations see them, by the names that they had before compression."""
    import coremltools as ct
    from coremltools.converters.mil.frontend.milproto.load import load

    spec = ct.utils.load_spec(str(package))
    program = load(spec, spec.specificationVersion, str(package / "Data" / "com.apple.CoreML" / "weights"))
    found = {}
    for operation in operations(program.functions["main"]):
        for name in _WEIGHTS.get(operation.op_type, ()):
            source = getattr(operation.inputs.get(name), "op", None)
            if source is None or not source.op_type.startswith(_CONSTANT) or len(source.outputs[0].shape) < 2:
                continue
            whole = source.op_type == "const"
            plain = source.name
            for ending in ("_quantized", "_palettized", "_sparsified"):
                plain = plain.removesuffix(ending)
            found[plain] = source.val.val if whole else source.materialized_val_inference()
    return found


def census(package: Path) -> dict[str, int]:
    """How many operations of each kind the program on disk has, constants of its own aside."""
    import coremltools as ct

    counts: dict[str, int] = {}

    def count(block: Any) -> None:
        for operation in block.operations:
            if operation.type != "const":
                counts[operation.type] = counts.get(operation.type, 0) + 1
            for inner in operation.blocks:
                count(inner)

    for block in ct.utils.load_spec(str(package)).mlProgram.functions["main"].block_specializations.values():
        count(block)
    return dict(sorted(counts.items()))


# ---- the package


def write(model: Any, package: Path, inputs: Sequence[str]) -> tuple[list[str], Any]:
    """Save the program to `package` with these names of inputs, the same bytes each time; its files and description."""
    import coremltools as ct

    model.save(str(package))
    # Which operation came from which node, for another tool; Core ML reads none of it.
    (package / "executorch_debug_handle_mapping.json").unlink(missing_ok=True)
    path = package / "Data" / "com.apple.CoreML" / "model.mlmodel"
    spec = ct.utils.load_spec(str(package))
    for item, name in zip(list(spec.description.input), inputs, strict=True):
        if item.name != name:
            ct.utils.rename_feature(spec, item.name, name, rename_outputs=False)
    spec.description.metadata.userDefined.pop("com.github.apple.coremltools.conversion_date", None)
    path.write_bytes(spec.SerializeToString(deterministic=True))
    _number(package / "Manifest.json")
    names = sorted(str(item.relative_to(package.parent)) for item in package.rglob("*") if item.is_file())
    return names, spec.description


def _number(manifest: Path) -> None:
    """Give the package's parts identifiers that follow from their paths, where they are drawn by chance."""
    about = json.loads(manifest.read_text(encoding="utf-8"))
    again = {key: str(uuid.uuid5(uuid.NAMESPACE_URL, item["path"])) for key, item in about["itemInfoEntries"].items()}
    about["itemInfoEntries"] = {again[key]: item for key, item in about["itemInfoEntries"].items()}
    about["rootModelIdentifier"] = again[about["rootModelIdentifier"]]
    manifest.write_text(json.dumps(about, indent=4, sort_keys=True) + "\n", encoding="utf-8")
