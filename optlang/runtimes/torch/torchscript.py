"""TorchScript, on the CPU or a GPU: one file that libtorch runs without the Python that made the model.

torch calls TorchScript deprecated and keeps it: the file is what C++ programs load, and its interpreter calls the same
kernels as eager with less around each.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from optlang.interfaces import Artifact, ModelState, QuantWants, Refusal, Session, TargetSpec
from optlang.workload import failures

if TYPE_CHECKING:

    from optlang.workload.data.dataset import Dataset

NAME = "model.pt"


class TorchScript:
    """The artifact is `model.pt`, a frozen graph: its forward takes the inputs in order and gives a tuple of outputs.

    `settings["mode"]` is how the graph is got: by "trace" of one call, or by "script", which compiles the source of
    `forward` and keeps its branches and loops. `settings["graph"]` is how far it is changed: "frozen" makes the weights
    constants of one graph, "folded" also folds norms into the convolutions before them, "optimized" lets torch choose
    this machine's oneDNN kernels when the file is loaded. The defaults are torch's own for tracing and freezing;
    "optimized" helps linear layers and large convolutions, and took a small convolutional network of 8 × 8 pixels from
    38 µs to 127.
    """

    imports: ClassVar[tuple[str, ...]] = ("torch",)

    def available(self) -> str | None:
        """None where torch is installed."""
        return None if importlib.util.find_spec("torch") else 'pip install "torch>=2.10,<2.14"'

    def missing(self, device: str, settings: Mapping[str, Any]) -> str | None:
        """None where torch computes on the device here, else what is missing."""
        from optlang.runtimes.shared import nvidia

        return nvidia.torch_missing() if device == "cuda" else None

    def wants(self) -> QuantWants:
        """What torch's own x86 kernels take; TorchScript runs no int8 graph here: it is built from modules only."""
        return QuantWants("uint8", "int8", False, True, True)

    def build(
        self, state: ModelState, target: TargetSpec, settings: Mapping[str, Any], folder: Path, data: Dataset,
        study: Path,
    ) -> Artifact:
        """Write the graph, proven with another number of samples than it was traced with.

        What `optimize_for_inference` does is not written into it: torch saves such a graph without an error and cannot
        load it again. Raises `Refusal` for other forms, for what cannot be traced or compiled, and where the graph's
        answers are not the module's.
        """
        from optlang.runtimes.shared.artifact_files import described
        from optlang.runtimes.shared.torch_module import module_of
        from optlang.runtimes.torch import session
        from optlang.workload.export import torchscript
        from optlang.workload.model import dtypes

        module = module_of(state, target, "torchscript", devices=session.BOTH)
        mode, graph = settings.get("mode", "trace"), settings.get("graph", "folded")
        outputs = torchscript.export(module, data, folder / NAME, study, mode=mode, fold=graph != "frozen")
        return Artifact(
            folder, "torchscript", described(folder, [NAME]), data.input_names, outputs,
            {
                "graph": graph, "stored": dtypes.stored(module),
                **({"tf32": session.tf32()} if target.device == session.CUDA else {}),
            },
        )

    def open(self, artifact: Artifact, target: TargetSpec, settings: Mapping[str, Any], study: Path) -> Session:
        """The graph on `target.threads` threads (torch's own setting, for the whole process)."""
        import torch

        from optlang.runtimes.torch.session import GraphSession, threads
        from optlang.workload import process_state
        from optlang.workload.export import tracing

        with ExitStack() as stack:
            stack.enter_context(threads(target.threads))
            try:
                with process_state.quiet(remarks=tracing.REMARKS):
                    module = torch.jit.load(str(artifact.folder / NAME), map_location=target.device).eval()  # type: ignore[no-untyped-call]
                    if artifact.about["graph"] == "optimized" and target.device == "cpu":
                        module = torch.jit.optimize_for_inference(module)
            except RuntimeError as error:
                raise Refusal(f"TorchScript does not load the model: {failures.last_line(error)}") from error
            return GraphSession(
                module, artifact.inputs, artifact.outputs, stack.pop_all(), device=target.device
            )
