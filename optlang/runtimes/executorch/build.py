"""ExecuTorch with XNNPACK: the file that an Android or iOS app loads, measured here by the same runtime on this CPU.

The model is captured by torch.export and lowered ahead of time: what XNNPACK has kernels for becomes its graph inside
the file, the rest are calls of ExecuTorch's own operators, and all memory is planned.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from optlang.interfaces import JSON, Arrays, Artifact, ModelState, QuantWants, Refusal, Session, TargetSpec
from optlang.workload import failures

if TYPE_CHECKING:
    import numpy
    from torch import Tensor, nn

    from optlang.workload.data.dataset import Dataset

NAME = "model.pte"
# XNNPACK's integers round in other places than the operators that stand for them do.
_ROUNDED = 0.1


class ExecuTorch:
    """The artifact is `model.pte`: a method `forward` that takes the inputs in order and gives the outputs in order.

    It takes from one to the target's batch of samples, `about["samples"]` says which, since memory is planned for the
    largest; with a batch of 1 shapes are fixed. `static` and `dynamic` are XNNPACK's own int8, whose kernels answer
    here as on a phone; latencies are this processor's, and only their order says something of a phone's. `about` has
    the types and shapes of inputs and outputs, the backends and operators that an app must link, the bytes of planned
    memory, and the versions that wrote the file: ExecuTorch reads files of its own and of older versions.
    """

    imports: ClassVar[tuple[str, ...]] = ("torch", "executorch.runtime")
    """What `open` needs in memory first, so that the load time is the model's and not the library's."""

    def available(self) -> str | None:
        """None where ExecuTorch and torch are installed."""
        found = all(importlib.util.find_spec(name) for name in ("executorch", "torch"))
        return None if found else 'pip install "optlang-dsl[executorch]"'

    def wants(self) -> QuantWants:
        """XNNPACK's scheme: asymmetric int8 activations, symmetric int8 weights by channel."""
        return QuantWants("int8", "int8", False, True, True)

    def build(
        self, state: ModelState, target: TargetSpec, settings: Mapping[str, Any], folder: Path, data: Dataset,
        study: Path,
    ) -> Artifact:
        """Capture, quantize where that was asked for, lower and write the model; its answers are compared.

        Those of a float model with the module's, those of an int8 one with what its quantized graph gives in torch.
        Raises `Refusal` for other forms and devices, for what torch.export cannot capture, for settings that XNNPACK's
        quantizer has not, and where int8 leaves most weights in float or does not make the file smaller.
        """
        import torch

        from optlang.runtimes.executorch import quantize
        from optlang.runtimes.shared.artifact_files import described
        from optlang.workload import imports
        from optlang.workload.export import torch_export, tracing
        from optlang.workload.model import dtypes, quantized_share

        if state.form not in ("module", "graph") or not isinstance(state.model, torch.nn.Module):
            raise Refusal(f"executorch is made from torch modules, not from a model in the form {state.form}")
        if target.device != "cpu":
            raise Refusal(f"executorch is measured on the CPU only, not on {target.device}")
        quantize.refuse_unknown(state.requests)
        module: nn.Module = state.model
        if state.requests:
            dtypes.refuse_others(dtypes.module_types(module))
        training = module.training
        module.eval()
        about: dict[str, JSON] = {}
        try:
            example = data.example(target.batch)
            with tracing.plain_attention(), torch.no_grad(), torch_export.quiet():
                # The first call is the user's own code: what it raises is told as theirs, not as a failed export.
                with imports.user_code("running the model", study):
                    wanted = tracing.answers_of(module, example)
                program = torch_export.program(module, example, "ExecuTorch")
                right, share = module, tracing.tolerance(module)
                if state.requests:
                    graph, about["int8"] = quantize.quantized(program, module, example, state.requests[0], data)
                    lowered = _lowered(torch_export.again(graph, example, "ExecuTorch"))
                    _check_smaller(lowered, program)
                    right, share = graph, _ROUNDED
                else:
                    lowered = _lowered(program)
                (folder / NAME).write_bytes(lowered.buffer)
                least = _prove(folder / NAME, example, right, tuple(wanted), share)
        finally:
            module.train(training)
        int8: Any = about.get("int8")
        about |= {
            "stored": dtypes.stored(module) if int8 is None else quantized_share.stored(int8["all"]),
            "batch": target.batch, "samples": {"least": least, "most": target.batch},
            "inputs": _tensors({name: item.numpy() for name, item in example.items()}), "outputs": _tensors(wanted),
            **_facts(lowered),
        }
        return Artifact(folder, "pte", described(folder, [NAME]), data.input_names, tuple(wanted), about)

    def open(self, artifact: Artifact, target: TargetSpec, settings: Mapping[str, Any], study: Path) -> Session:
        """The method `forward`, loaded; XNNPACK's threads are the target's, in the pool that the process has."""
        from optlang.workload.export import torch_export

        with torch_export.quiet():
            from executorch.extension.pybindings import portable_lib

            # Before anything is loaded: XNNPACK asks for the pool when it makes a graph ready.
            if portable_lib._threadpool_get_thread_count() != target.threads:
                portable_lib._unsafe_reset_threadpool(target.threads)
            return _Open(artifact)


class _Open:
    def __init__(self, artifact: Artifact) -> None:
        self._outputs = artifact.outputs
        self._inputs = artifact.inputs
        try:
            self._method = _method(artifact.folder / NAME)
        except RuntimeError as error:
            raise Refusal(f"ExecuTorch does not load the model: {error}") from error
        self._execute = self._method.execute

    def prepare(self, batch: Arrays) -> tuple[Tensor, ...]:
        import torch

        return tuple(torch.tensor(batch[name]) for name in self._inputs)

    def run(self, prepared: tuple[Tensor, ...]) -> Any:
        return self._execute(prepared)

    def collect(self, result: Any) -> dict[str, numpy.ndarray[Any, Any]]:
        return dict(zip(self._outputs, _arrays(result), strict=True))

    def close(self) -> None:
        del self._execute, self._method


def _lowered(program: Any) -> Any:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower


    with failures.refused("ExecuTorch cannot lower the model", help="keep to the runtime onnxruntime"):
        return to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()


def _check_smaller(lowered: Any, program: Any) -> None:
    """`Refusal` where the float file is no larger; it is made only where its weights alone do not say so."""
    size = len(lowered.buffer)
    weights = sum(item.numel() * item.element_size() for item in program.state_dict.values() if item.ndim > 1)
    if size < weights:
        return
    old = len(_lowered(program).buffer)
    if size >= old:
        raise Refusal(
            f"int8 makes this model larger: {size} bytes against {old} in float32",
            help="scales and operators around them cost more than its few weights save",
        )


def _prove(path: Path, example: Mapping[str, Tensor], right: nn.Module, outputs: tuple[str, ...], share: float) -> int:
    """Compare the file's answers with those of `right`, the module or its graph, to all samples of `example` and to
    the first; the least number of samples that the file takes."""
    from optlang.workload.export import tracing

    method = _method(path)
    most = len(next(iter(example.values())))
    for count in dict.fromkeys((most, 1)):
        given = {name: item[:count].contiguous() for name, item in example.items()}
        try:
            answers = _arrays(method.execute(tuple(given.values())))
        except RuntimeError as error:
            if count < most:
                return most
            raise Refusal(f"ExecuTorch does not run the model: {failures.message_of(error)}") from error
        wanted = tracing.answers_of(right, given).values()
        tracing.agree(dict(zip(outputs, wanted, strict=True)), answers, "the lowered model", share)
    return 1


def _method(path: Path) -> Any:
    from executorch.runtime import Runtime, Verification

    runtime = Runtime.get()
    program = runtime.load_program(path, verification=Verification.Minimal)
    return program.load_method("forward")


def _arrays(result: Any) -> list[numpy.ndarray[Any, Any]]:
    import torch

    halves = (torch.float16, torch.bfloat16)
    return [(item.float() if item.dtype in halves else item).numpy(force=True) for item in result]


def _facts(lowered: Any) -> dict[str, JSON]:
    """What an app must bring to run the file, read from the file's own plan."""
    from importlib import metadata

    plan = lowered.executorch_program.execution_plan[0]
    operators = sorted({f"{item.name}.{item.overload}" if item.overload else item.name for item in plan.operators})
    kernels = ["kernels_optimized"]
    if any(name.startswith("quantized_decomposed::") for name in operators):
        kernels.append("kernels_quantized")
    version = metadata.version("executorch").partition("+")[0]
    return {
        "backends": sorted({item.id for item in plan.delegates}), "operators": operators,
        "memory": sum(plan.non_const_buffer_sizes),
        "android": f"org.pytorch:executorch-android:{version}", "ios": ["executorch", "backend_xnnpack", *kernels],
        "versions": {"executorch": version, "torch": metadata.version("torch").partition("+")[0]},
    }


def _tensors(arrays: Arrays) -> dict[str, JSON]:
    return {name: {"dtype": str(item.dtype), "shape": list(item.shape)} for name, item in arrays.items()}
