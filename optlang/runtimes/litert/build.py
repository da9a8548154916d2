"""LiteRT (TensorFlow Lite) with XNNPACK: the file that Android and microcontrollers' tools load, measured on this CPU.

Google's converter takes torch's own exported program to the file; no TensorFlow is needed for it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from optlang.interfaces import (
    JSON,
    Array,
    Arrays,
    Artifact,
    ModelState,
    QuantWants,
    Refusal,
    Request,
    Session,
    TargetSpec,
)
from optlang.runtimes.litert.session import LiteRTSession

if TYPE_CHECKING:
    from torch import Tensor

    from optlang.workload.data.dataset import Dataset

NAME = "model.tflite"
# Twenty roundings to the eleven bits of a float16, of weights alone.
_HALF = 2e-2
_LOGGERS = ("absl", "torchao", "torch.utils._pytree")


class LiteRT:
    """The artifact is `model.tflite`, with the inputs and outputs of the module: images stay N × C × H × W.

    It takes the target's batch and no other number of samples: the converter has dynamic shapes for some operators
    only. Inputs and outputs are float32 in int8 files too, which quantize and dequantize them inside; integers of 64
    bits are of 32 in the file, and given back as the module gives them. `half`, `static`, `dynamic` and `weight_only`
    are carried out by ai-edge-quantizer. Float16 and weight-only int8 are what the file holds: XNNPACK on this CPU
    multiplies in float32. `about` has the operators that an app must have, and the versions that wrote the file.
    """

    imports: ClassVar[tuple[str, ...]] = ("ai_edge_litert.interpreter",)

    def available(self) -> str | None:
        """None where the converter, the quantizer and the runtime are installed."""
        needed = ("torch", "litert_torch", "ai_edge_quantizer", "ai_edge_litert")
        found = all(importlib.util.find_spec(name) for name in needed)
        return None if found else 'pip install "optlang-dsl[litert]"'

    def wants(self) -> QuantWants:
        """LiteRT's scheme: asymmetric int8 activations, symmetric int8 weights by channel."""
        return QuantWants("int8", "int8", False, True, True)

    def build(
        self, state: ModelState, target: TargetSpec, settings: Mapping[str, Any], folder: Path, data: Dataset,
        study: Path,
    ) -> Artifact:
        """Convert and, where that was asked for, quantize the model; the float file's answers are the module's.

        Raises `Refusal` for other forms and devices, for what torch.export or the converter cannot take, for settings
        that the quantizer has not, and where most weights stay as they are or the file does not become smaller.
        """
        from optlang.runtimes.litert import converter, quantize, tflite
        from optlang.runtimes.shared.artifact_files import arrays_described, described, refuse_larger
        from optlang.runtimes.shared.torch_module import module_of, refuse_open
        from optlang.workload.export import torch_export, tracing
        from optlang.workload.model import dtypes, quantized_share

        module = module_of(state, target, "litert", ("module", "graph"))
        quantize.refuse_unknown(state.requests)
        if any(item.technique != "half" for item in state.requests):
            dtypes.refuse_others(dtypes.module_types(module))
        refuse_open("LiteRT", data.axes)
        converter.start()
        about: dict[str, JSON] = {"stored": dtypes.stored(module)}
        example = data.example(target.batch)
        with tracing.first_call(module, example, study, _quiet()) as wanted:
            program = torch_export.program(module, example, "LiteRT")
            content = converter.converted(program, folder)
            graph = tflite.Graph(content, program)
            file = tflite.named(content, graph, example, wanted)
            (folder / NAME).write_bytes(file)
            given = {name: item.numpy() for name, item in example.items()}
            _prove(folder, given, wanted, target, tracing.tolerance(module, example))
            for request in state.requests:
                half = request.technique == "half"
                content, became = quantize.quantized(content, graph, module, request, _samples(data, request, example))
                smaller = tflite.named(content, graph, example, wanted)
                refuse_larger(request.technique, len(smaller), len(file))
                (folder / NAME).write_bytes(smaller)
                # An int8 file runs, in the right shapes; how right its answers are is what the study measures.
                _prove(folder, given, wanted, target, _HALF if half else None)
                shares = (0.0, became["all"]) if half else (became["all"], 0.0)
                about |= {request.technique: became, "stored": quantized_share.stored(*shares)}
        about |= {
            "batch": target.batch, "inputs": arrays_described(given), "outputs": arrays_described(wanted),
            "operators": tflite.kinds((folder / NAME).read_bytes()), "versions": _versions(),
        }
        return Artifact(folder, "tflite", described(folder, [NAME]), data.input_names, tuple(wanted), about)

    def open(self, artifact: Artifact, target: TargetSpec, settings: Mapping[str, Any], study: Path) -> Session:
        """The interpreter with XNNPACK on `target.threads` threads, its memory laid out."""
        about: Mapping[str, Any] = artifact.about
        return LiteRTSession(artifact.folder / NAME, about["outputs"], target.threads)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch and the quantizer say of their own code."""
    from optlang.workload import process_state
    from optlang.workload.export import torch_export

    with process_state.quiet(_LOGGERS), torch_export.quiet():
        yield


def _prove(
    folder: Path, given: Arrays, wanted: Mapping[str, Array], target: TargetSpec, share: float | None
) -> None:
    """Compare the file's answers with the module's; `share` None: their shapes alone."""
    from optlang.runtimes.shared.artifact_files import arrays_described
    from optlang.workload.export import tracing

    session = LiteRTSession(folder / NAME, arrays_described(wanted), target.threads)
    prepared = session.prepare(given)
    session.run(prepared)
    answers = session.collect(None)
    session.close()
    if share is not None:
        tracing.agree(wanted, list(answers.values()), "the converted model", share)
    for name, item in answers.items():
        if item.shape != wanted[name].shape:
            raise Refusal(f"the file answers {name} with the shape {item.shape}, the module {wanted[name].shape}")


def _samples(data: Dataset, request: Request, example: Mapping[str, Tensor]) -> list[dict[str, Array]]:
    """Calibration samples in the file's batches and types, by its converter's names; the last one fills its batch."""
    import numpy

    from optlang.runtimes.shared import pt2e

    count: Any = request.settings.get("samples", 1)
    small = {"int64": "int32", "float64": "float32"}
    return [
        {
            f"args_{index}": numpy.asarray(item, dtype=small.get(str(item.dtype), item.dtype))
            for index, item in enumerate(arrays)
        }
        for arrays in pt2e.calibration(example, data, int(count))
    ]


def _versions() -> dict[str, JSON]:
    from importlib import metadata

    names = ("ai-edge-litert", "litert-torch", "ai-edge-quantizer", "torch")
    return {name: metadata.version(name).partition("+")[0] for name in names}
