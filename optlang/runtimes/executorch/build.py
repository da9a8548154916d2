"""ExecuTorch with XNNPACK: the file that an Android or iOS app loads, measured here by the same runtime on this CPU.

The model is captured by torch.export and lowered ahead of time: what XNNPACK has kernels for becomes its graph inside
the file, the rest are calls of ExecuTorch's own operators, and all memory is planned.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from optlang.interfaces import JSON, Artifact, ModelState, QuantWants, Refusal, Session, TargetSpec
from optlang.runtimes.executorch.session import NAME, ExecuTorchSession, method_of
from optlang.workload import failures

if TYPE_CHECKING:
    from torch import Tensor, nn

    from optlang.workload.data.dataset import Dataset

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
        from optlang.runtimes.executorch import quantize
        from optlang.runtimes.shared import pt2e
        from optlang.runtimes.shared.artifact_files import arrays_described, described
        from optlang.runtimes.shared.torch_module import module_of
        from optlang.workload.export import torch_export, tracing
        from optlang.workload.model import dtypes, quantized_share

        module = module_of(state, target, "executorch", ("module", "graph"))
        pt2e.refuse_unknown("executorch", state.requests)
        if state.requests:
            dtypes.refuse_others(dtypes.module_types(module))
        about: dict[str, JSON] = {}
        example = data.example(target.batch)
        with tracing.first_call(module, example, study, torch_export.quiet()) as wanted:
            # Memory is planned for the largest sizes.
            axes: Any = {"axes": data.axes, "bounded": True}
            program = torch_export.program(module, example, "ExecuTorch", **axes)
            right, share = module, tracing.tolerance(module, example)
            if state.requests:
                graph, about["int8"] = quantize.quantized(program, module, example, state.requests[0], data)
                lowered = _lowered(torch_export.again(graph, example, "ExecuTorch", **axes))
                _check_smaller(lowered, program)
                right, share = graph, _ROUNDED
            else:
                lowered = _lowered(program)
            (folder / NAME).write_bytes(lowered.buffer)
            least = _prove(folder / NAME, example, right, tuple(wanted), share)
            for proof in tracing.proofs(module, data)[1:]:
                given = {name: item[: target.batch] for name, item in proof.inputs.items()}
                if len(given[data.input_names[0]]) == target.batch or least == 1:
                    _prove(folder / NAME, given, right, tuple(wanted), share, f"with {proof.sizes} ")
        int8: Any = about.get("int8")
        about |= {
            "stored": dtypes.stored(module) if int8 is None else quantized_share.stored(int8["all"]),
            "batch": target.batch, "samples": {"least": least, "most": target.batch},
            "inputs": arrays_described({name: item.numpy() for name, item in example.items()}),
            "outputs": arrays_described(wanted), **_facts(lowered),
            "largest": {item.text: item.high for item in data.axes},
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
            return ExecuTorchSession(artifact)


def _lowered(program: Any) -> Any:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower


    with failures.refused("ExecuTorch cannot lower the model", help="use the runtime onnxruntime"):
        return to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()


def _check_smaller(lowered: Any, program: Any) -> None:
    """`Refusal` where the float file is no larger; it is made only where its weights alone do not say so."""
    from optlang.runtimes.shared.artifact_files import refuse_larger

    size = len(lowered.buffer)
    weights = sum(item.numel() * item.element_size() for item in program.state_dict.values() if item.ndim > 1)
    if size >= weights:
        refuse_larger("int8", size, len(_lowered(program).buffer))


def _prove(
    path: Path, example: Mapping[str, Tensor], right: nn.Module, outputs: tuple[str, ...], share: float, sizes: str = ""
) -> int:
    """Compare the file's answers with those of `right`, the module or its graph, to all samples of `example` and to
    the first; the least number of samples that the file takes."""
    from optlang.workload.data.tensors import array
    from optlang.workload.export import tracing

    method = method_of(path)
    most = len(next(iter(example.values())))
    for count in dict.fromkeys((most, 1)):
        given = {name: item[:count].contiguous() for name, item in example.items()}
        try:
            answers = [array(item) for item in method.execute(tuple(given.values()))]
        except RuntimeError as error:
            if count < most:
                return most
            raise Refusal(f"{sizes}ExecuTorch does not run the model: {failures.message_of(error)}") from error
        wanted = tracing.answers_of(right, given).values()
        tracing.agree(dict(zip(outputs, wanted, strict=True)), answers, f"{sizes}the lowered model", share)
    return 1


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
