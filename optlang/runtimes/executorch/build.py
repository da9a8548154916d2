"""ExecuTorch with XNNPACK: the file that an Android or iOS app loads, measured here by the same runtime on this CPU.

The model is captured by torch.export and lowered ahead of time: what XNNPACK has kernels for becomes its graph inside
the file, the rest are calls of ExecuTorch's own operators, and all memory is planned.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from optlang.interfaces import JSON, Artifact, ModelState, QuantWants, Refusal, Request, Session, TargetSpec
from optlang.runtimes.executorch.session import NAME, ExecuTorchSession, method_of
from optlang.workload import failures

if TYPE_CHECKING:
    from torch import Tensor, nn

    from optlang.runtimes.executorch.operators import Operators
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

        Those of a float model with the module's, those of an int8 one with what its quantized graph gives in torch, as
        a whole or operator by operator; a layer whose kernel gives other values stays in float.
        Raises `Refusal` for other forms and devices, for what torch.export cannot capture, for settings that XNNPACK's
        quantizer has not, and where int8 leaves most weights in float or does not make the file smaller.
        """
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
            program = torch_export.program(module, example, "ExecuTorch", axes=data.axes, bounded=True)
            others = [(proof.inputs, proof.sizes) for proof in tracing.proofs(module, data)[1:]]
            prove = functools.partial(_prove, folder / NAME, example, others, tuple(wanted))
            if state.requests:
                made = _in_integers(program, module, example, state.requests[0], data, folder / NAME, prove)
                lowered, least, about["int8"] = made
            else:
                lowered = _lowered(program)
                (folder / NAME).write_bytes(lowered.buffer)
                least = prove(module, tracing.tolerance(module, example))
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


def _in_integers(
    program: Any, module: nn.Module, example: Mapping[str, Tensor], request: Request, data: Dataset, path: Path,
    prove: Callable[..., int],
) -> tuple[Any, int, dict[str, Any]]:
    """What was written to `path`, the least number of samples that it takes, and what became of the weights.

    A layer whose kernel gives other values than the graph is left in float, which `wrong` of the last says.
    """
    from optlang.runtimes.executorch import operators, quantize
    from optlang.workload.export import torch_export

    def lower(graph: nn.Module) -> Any:
        # Memory is planned for the largest sizes.
        return _lowered(torch_export.again(graph, example, "ExecuTorch", axes=data.axes, bounded=True))

    left: dict[str, str] = {}
    while True:
        graph, about = quantize.quantized(program, module, example, request, data, left)
        lowered = lower(graph)
        path.write_bytes(lowered.buffer)
        try:
            least = prove(graph, _ROUNDED, operators.Operators(graph, lower))
        except operators.WrongOperators as error:
            found = {item.layer: str(item) for item in error.operators}
            if not found.keys() - left.keys():
                raise Refusal(
                    f"ExecuTorch gives other values than torch for {', '.join(found.values())}, in float too",
                    help="use the runtime onnxruntime",
                ) from error
            left |= found
        else:
            _check_smaller(lowered, program)
            return lowered, least, about | ({"wrong": list(left.values())} if left else {})


def _prove(
    path: Path, example: Mapping[str, Tensor], others: Sequence[tuple[Mapping[str, Tensor], str]],
    outputs: tuple[str, ...], right: nn.Module, share: float, operators: Operators | None = None,
) -> int:
    """Compare the file's answers with those of `right`, the module or its graph; the least number of samples it takes.

    To `example`, and to the `others`, whose sizes are there in words. Where answers differ by more than `share`, the
    file's `operators` decide.
    """
    method = method_of(path)
    compare = functools.partial(_compare, method, outputs, right, share, operators)
    least = compare(example)
    batch = len(next(iter(example.values())))
    for inputs, sizes in others:
        given = {name: item[:batch] for name, item in inputs.items()}
        if least == 1 or len(next(iter(given.values()))) == batch:
            compare(given, f"with {sizes} ")
    return least


def _compare(
    method: Any, outputs: tuple[str, ...], right: nn.Module, share: float, operators: Operators | None,
    inputs: Mapping[str, Tensor], sizes: str = "",
) -> int:
    """The same for all samples of `inputs` and the first."""
    from optlang.workload.data.tensors import array
    from optlang.workload.export import tracing

    most = len(next(iter(inputs.values())))
    for count in dict.fromkeys((most, 1)):
        given = {name: item[:count].contiguous() for name, item in inputs.items()}
        try:
            answers = [array(item) for item in method.execute(tuple(given.values()))]
        except RuntimeError as error:
            if count < most:
                return most
            raise Refusal(f"{sizes}ExecuTorch does not run the model: {failures.message_of(error)}") from error
        wanted = dict(zip(outputs, tracing.answers_of(right, given).values(), strict=True))
        try:
            tracing.agree(wanted, answers, f"{sizes}the lowered model", share)
        except Refusal:
            if operators is None or any(
                item.shape != other.shape for item, other in zip(answers, wanted.values(), strict=True)
            ):
                raise
            operators.check(given, answers)
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
