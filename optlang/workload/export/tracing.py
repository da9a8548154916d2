"""What the exporters that trace a module share: tensors in order, and the proof that both give the same answers.

Tracing records what one call did. So the call has two samples, and the recorded graph must answer three of them as the
module does: a number of samples that became a constant then shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.jit import TracerWarning  # type: ignore[attr-defined]

from optlang.interfaces import Array, Refusal
from optlang.workload import failures, imports, process_state
from optlang.workload.data.tensors import array
from optlang.workload.model.call import call

INNER = "_optlang_inner"
"""The wrapper's attribute: an unlikely name, since the ONNX exporter takes it out of all names afterwards."""

TRACED, CHECKED = 2, 3
"""How many samples a module is traced with, and how many the proof takes."""

REMARKS: tuple[process_state.Remark, ...] = (
    (r".*torch\.jit\..* is deprecated", DeprecationWarning),
    # Of values that became constants; the proof with another batch size answers that.
    (r".*", TracerWarning),
)
"""The warnings of tracing that say nothing to the user, as patterns of their messages."""

_TOLERANCE = 1e-3
# Twenty roundings to the eleven bits of a float16, or to the eight of a bfloat16: kernels round in places of their own.
_ROUNDED = {torch.float16: 2e-2, torch.bfloat16: 1.6e-1}


class Positional(nn.Module):
    """Takes tensors in the order of `inputs`, gives a tuple of tensors: tracers know no dictionaries."""

    def __init__(self, inner: nn.Module, inputs: tuple[str, ...]) -> None:
        super().__init__()
        self._inputs = inputs
        setattr(self, INNER, inner)

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        """The answers of `call` in their order, to as many tensors as there are inputs."""
        named = dict(zip(self._inputs, values, strict=True))
        return tuple(call(getattr(self, INNER), named).values())


@contextmanager
def first_call(
    module: nn.Module, example: Mapping[str, Tensor], study: Path, quiet: AbstractContextManager[None] | None = None
) -> Iterator[dict[str, Array]]:
    """`module` as exporters take it, in eval mode and without gradients, and its answers to `example` by name.

    The first call is the user's own code: what it raises is reported as theirs, not as a failed export. After the block
    the module is in the mode that it was in.
    """
    training = module.training
    module.eval()
    try:
        with plain_attention(), torch.no_grad(), quiet or nullcontext():
            with imports.user_code("running the model", study):
                answers = answers_of(module, example)
            yield answers
    finally:
        module.train(training)


@contextmanager
def plain_attention() -> Iterator[None]:
    """Without the kernels of their own that attention and encoder layers have in eval mode.

    There is no ONNX for them, and they answer padded positions with zeros, as the layers by definition do not.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def tolerance(module: nn.Module) -> float:
    """How far an exported graph's answers may be from the module's, as a share of the largest of them."""
    return max((_ROUNDED.get(item.dtype, _TOLERANCE) for item in module.parameters()), default=_TOLERANCE)


def prove(
    module: nn.Module, inputs: Mapping[str, Tensor], what: str,
    answer: Callable[[list[str]], list[Array]],
) -> None:
    """Compare what `answer` gives for the names of outputs, in order, with what `module` gives for `inputs`.

    Raises `Refusal`, whose words call the thing `what`: where `answer` raises (by its error), where it gives another
    shape, and where values differ by more than `tolerance`.
    """
    constant = "forward must not turn the number of samples into a Python number (int(x.shape[0]), len(x))"
    wanted = answers_of(module, inputs)
    with failures.refused(
        f"{what} does not run with {CHECKED} samples, though it was traced with {TRACED}", help=constant
    ):
        answers = answer(list(wanted))
    agree(wanted, answers, what, tolerance(module), constant)


def answers_of(module: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Array]:
    """What `module` gives for `inputs`, as arrays by name, those of 16 bits in float32."""
    return {name: array(item) for name, item in call(module, inputs).items()}


def agree(
    wanted: Mapping[str, Array], answers: Sequence[Array], what: str, share: float,
    shapes: str | None = None,
) -> None:
    """Raise `Refusal` where `answers`, in the order of `wanted`, have other shapes (with the help `shapes`) or values.

    Values may be off by `share` of the largest of them.
    """
    import numpy

    for (name, right), given in zip(wanted.items(), answers, strict=True):
        if given.shape != right.shape:
            raise Refusal(
                f"{what} answers {name} with the shape {given.shape}, the module with {right.shape}", help=shapes
            )
        if not _close(given, right, share):
            raise Refusal(
                f"{what} gives other answers than the module: {name} differs by up to "
                f"{float(numpy.nanmax(numpy.abs(given - right))):.3g}",
                help="forward must not choose by the values of its inputs, and must not draw random numbers",
            )


def _close(answer: Array, right: Array, tolerance: float) -> bool:
    import numpy

    if right.dtype.kind != "f":
        return bool((answer == right).all())
    scale = float(numpy.abs(right[numpy.isfinite(right)]).max(initial=0.0))
    return bool(numpy.allclose(answer, right, rtol=tolerance, atol=tolerance * max(scale, 1e-6), equal_nan=True))
