"""LiteRT (TensorFlow Lite) with XNNPACK: the file that Android and microcontrollers' tools load, measured on this CPU.

Google's converter takes torch's own exported program to the file; no TensorFlow is needed for it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from optlang.interfaces import JSON, Arrays, Artifact, ModelState, QuantWants, Refusal, Session, TargetSpec
from optlang.workload import failures

if TYPE_CHECKING:
    import numpy
    from torch import Tensor, nn

    from optlang.workload.data.dataset import Dataset

    Array = numpy.ndarray[Any, Any]

NAME = "model.tflite"
# Calibration has no seed of its own here: a model is built the same each time.
_SEED = 0
# Twenty roundings to the eleven bits of a float16, of weights alone.
_HALF = 2e-2
_LOGGERS = ("absl", "torchao", "torch.utils._pytree", "jax")


class LiteRT:
    """The artifact is `model.tflite`, with the inputs and outputs of the module: images stay N × C × H × W.

    It takes the target's batch and no other number of samples: the converter has dynamic shapes for some operators
    only. Inputs and outputs are float32 in int8 files too, which quantize and dequantize them inside; integers of 64
    bits are of 32 in the file, and given back as the module gives them. `half`, `static`, `dynamic` and `weight_only`
    are carried out by ai-edge-quantizer. Float16 and weight-only int8 are what the file holds: XNNPACK on this CPU
    multiplies in float32. `about` has the operators that an app must have, and the versions that wrote the file.
    """

    imports: ClassVar[tuple[str, ...]] = ("ai_edge_litert.interpreter",)
    """What `open` needs in memory first, so that the load time is the model's and not the library's."""

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
        import torch

        from optlang.runtimes.litert import quantize, tflite
        from optlang.runtimes.shared.artifact_files import described
        from optlang.workload import imports
        from optlang.workload.export import torch_export, tracing
        from optlang.workload.model import dtypes, quantized_share

        if state.form not in ("module", "graph") or not isinstance(state.model, torch.nn.Module):
            raise Refusal(f"litert is made from torch modules, not from a model in the form {state.form}")
        if target.device != "cpu":
            raise Refusal(f"litert is measured on the CPU only, not on {target.device}")
        quantize.refuse_unknown(state.requests)
        module: nn.Module = state.model
        if any(item.technique != "half" for item in state.requests):
            dtypes.refuse_others(dtypes.module_types(module))
        training = module.training
        module.eval()
        about: dict[str, JSON] = {}
        try:
            example = data.example(target.batch)
            with tracing.plain_attention(), torch.no_grad(), _quiet():
                # The first call is the user's own code: what it raises is told as theirs, not as a failed export.
                with imports.user_code("running the model", study):
                    wanted = tracing.answers_of(module, example)
                program = torch_export.program(module, example, "LiteRT")
                content = _converted(module, example)
            graph = tflite.Graph(content, program)
            file = tflite.named(content, graph, example, wanted)
            (folder / NAME).write_bytes(file)
            given = {name: item.numpy() for name, item in example.items()}
            _prove(folder, given, wanted, target, tracing.tolerance(module))
            for request in state.requests:
                count: Any = request.settings.get("samples", 1)
                samples = _samples(data, int(count), target.batch, example)
                content, about[request.technique] = quantize.quantized(content, graph, module, request, samples)
                smaller = tflite.named(content, graph, example, wanted)
                _check_smaller(smaller, file, request.technique)
                (folder / NAME).write_bytes(smaller)
                # An int8 file runs, in the right shapes; how right its answers are is what the study measures.
                _prove(folder, given, wanted, target, _HALF if request.technique == "half" else None)
        finally:
            module.train(training)
        about["stored"] = dtypes.stored(module)
        for request in state.requests:
            became: Any = about[request.technique]
            halved = request.technique == "half"
            about["stored"] = quantized_share.stored(0.0 if halved else became["all"], became["all"] if halved else 0.0)
        about |= {
            "batch": target.batch, "inputs": _tensors(given), "outputs": _tensors(wanted),
            "operators": tflite.kinds((folder / NAME).read_bytes()), "versions": _versions(),
        }
        return Artifact(folder, "tflite", described(folder, [NAME]), data.input_names, tuple(wanted), about)

    def open(self, artifact: Artifact, target: TargetSpec, settings: Mapping[str, Any], study: Path) -> Session:
        """The interpreter with XNNPACK on `target.threads` threads, its memory laid out."""
        about: Mapping[str, Any] = artifact.about
        return _Open(artifact.folder / NAME, about["outputs"], target.threads)


class _Open:
    def __init__(self, path: Path, outputs: Mapping[str, Mapping[str, Any]], threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        try:
            self._interpreter = Interpreter(model_path=str(path), num_threads=threads)
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise Refusal(f"LiteRT does not load the model: {error}") from error
        self._inputs = {item["name"]: item for item in self._interpreter.get_input_details()}
        places = {item["name"]: item["index"] for item in self._interpreter.get_output_details()}
        self._outputs = [(name, places[name], about["dtype"]) for name, about in outputs.items()]

    def prepare(self, batch: Arrays) -> list[tuple[int, Array]]:
        """The inputs in the file's types, by the places that they go to."""
        import numpy

        return [
            (item["index"], numpy.ascontiguousarray(batch[name], dtype=item["dtype"]))
            for name, item in self._inputs.items()
        ]

    def run(self, prepared: list[tuple[int, Array]]) -> None:
        """Copy the inputs in and call the graph once; its answers stay where it wrote them."""
        for place, item in prepared:
            self._interpreter.set_tensor(place, item)
        self._interpreter.invoke()

    def collect(self, result: None) -> dict[str, Array]:
        """The answers in the types that the module gives."""
        return {
            name: self._interpreter.get_tensor(place).astype(dtype, copy=False)
            for name, place, dtype in self._outputs
        }

    def close(self) -> None:
        del self._interpreter


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the converter and torch say of their own code, and its report of progress."""
    from optlang.workload import process_state
    from optlang.workload.export import torch_export

    with process_state.environment(LITERT_TORCH_SHOW_PROGRESS="n"), process_state.quiet(_LOGGERS), torch_export.quiet():
        yield


def _converted(module: nn.Module, example: Mapping[str, Tensor]) -> bytes:
    import litert_torch

    from optlang.workload.export import tracing

    wrapped = tracing.Positional(module, tuple(example)).eval()
    with failures.refused("LiteRT's converter does not take the model", help="keep to the runtime onnxruntime"):
        return bytes(litert_torch.convert(wrapped, tuple(example.values())).model_content())


def _prove(
    folder: Path, given: Arrays, wanted: Mapping[str, Array], target: TargetSpec, share: float | None
) -> None:
    """Compare the file's answers with the module's; `share` None: their shapes alone."""
    from optlang.workload.export import tracing

    session = _Open(folder / NAME, _tensors(wanted), target.threads)
    prepared = session.prepare(given)
    session.run(prepared)
    answers = session.collect(None)
    session.close()
    if share is not None:
        tracing.agree(wanted, list(answers.values()), "the converted model", share)
    for name, item in answers.items():
        if item.shape != wanted[name].shape:
            raise Refusal(f"the file answers {name} with the shape {item.shape}, the module {wanted[name].shape}")


def _samples(data: Dataset, count: int, batch: int, example: Mapping[str, Tensor]) -> list[dict[str, Array]]:
    """Calibration samples in the file's batches and types, by its converter's names; the last one fills its batch."""
    import numpy

    arrays = data.calibration(count, _SEED)
    total = len(next(iter(arrays.values())))
    small = {"int64": "int32", "float64": "float32"}
    found = []
    for start in range(0, total, batch):
        places = [min(place, total - 1) for place in range(start, start + batch)]
        batches = [arrays[name][places] for name in example]
        found.append({
            f"args_{index}": numpy.asarray(item, dtype=small.get(str(item.dtype), item.dtype))
            for index, item in enumerate(batches)
        })
    return found


def _check_smaller(small: bytes, large: bytes, technique: str) -> None:
    if len(small) >= len(large):
        raise Refusal(
            f"{technique} makes this model larger: {len(small)} bytes against {len(large)} in float32",
            help="scales and the operators around them cost more than its few weights save",
        )


def _tensors(arrays: Arrays) -> dict[str, Any]:
    return {name: {"dtype": str(item.dtype), "shape": list(item.shape)} for name, item in arrays.items()}


def _versions() -> dict[str, JSON]:
    from importlib import metadata

    names = ("ai-edge-litert", "litert-torch", "ai-edge-quantizer", "torch")
    return {name: metadata.version(name).partition("+")[0] for name in names}
