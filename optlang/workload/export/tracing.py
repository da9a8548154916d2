"""What the exporters that trace a module share: tensors in order, and the proof that both give the same answers.

Tracing records what one call did. So the call has two samples, and the recorded graph must answer three of them as the
module does: a number of samples that became a constant then shows. Where other axes are open (see `Dataset.axes`) it
must do so at their smallest, usual and largest sizes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.jit import TracerWarning  # type: ignore[attr-defined]
from torch.nn import functional

from optlang.interfaces import Array, Refusal
from optlang.workload import failures, imports, process_state
from optlang.workload.data.tensors import array
from optlang.workload.export import half_rounding
from optlang.workload.model.call import call, in_mode

if TYPE_CHECKING:
    from optlang.workload.data.dataset import Dataset

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
# A rounding to the eleven bits of a float16, or to the eight of a bfloat16; kernels round in places of their own.
_ROUNDED = {torch.float16: 2**-10, torch.bfloat16: 2**-7}
_ROUNDINGS = 20
# What is further away says nothing about whether it is the same model.
_FURTHEST = 0.25


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
    each layer is in the mode that it was in.
    """
    with in_mode(module, False), plain_attention(), torch.no_grad(), quiet or nullcontext():
        with imports.user_code("running the model", study):
            answers = answers_of(module, example)
        yield answers


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


def any_length() -> AbstractContextManager[None]:
    """Attention whose traced graph keeps the number of positions open.

    The step that torch makes of packed projections leaves the script exporter with a constant for it.
    """
    return process_state.attributes(functional, _in_projection_packed=_projected)


def _projected(
    q: Tensor, k: Tensor, v: Tensor, w: Tensor, b: Tensor | None = None
) -> tuple[Tensor, ...]:
    if q is k and k is v:
        # Contiguous, as the callers' views want it.
        return tuple(item.contiguous() for item in functional.linear(q, w, b).chunk(3, dim=-1))
    biases = (None, None, None) if b is None else b.chunk(3)
    return tuple(
        functional.linear(item, weight, bias)
        for item, weight, bias in zip((q, k, v), w.chunk(3), biases, strict=True)
    )


def tolerance(module: nn.Module, inputs: Mapping[str, Tensor] | None = None) -> float:
    """How far an exported graph's answers may be from the module's, as a share of the largest of them.

    In 16 bits a deep model has a rounding for each of its matrices, and no fewer than twenty. A net that answers to
    each of them is itself far from what its weights say: where `inputs` are given, a graph may be twice as far as that.
    """
    largest = _TOLERANCE
    for dtype, rounding in _ROUNDED.items():
        matrices = [item.ndim > 1 for item in module.parameters() if item.dtype is dtype]
        if matrices:
            largest = max(largest, rounding * max(_ROUNDINGS, sum(matrices)))
    if inputs is None or largest == _TOLERANCE:
        return largest
    return max(largest, min(2 * half_rounding.distance(module, inputs), _FURTHEST))


@dataclass(frozen=True, slots=True)
class Proof:
    """Inputs that an exported graph must answer as the module does; `sizes` says in words how large its open axes are,
    nothing where they are those of the traced call."""

    inputs: Mapping[str, Tensor]
    sizes: str = ""


def proofs(module: nn.Module, data: Dataset) -> list[Proof]:
    """`CHECKED` samples of the usual sizes, and where axes are open of the smallest and of the largest ones.

    Where nobody said which sizes there are, those next to the usual one stand in for what the module does not answer.
    Raises `Refusal` where it answers no other size at all.
    """
    found = [Proof(data.example(CHECKED))]
    if not data.axes:
        return found
    for end in ("low", "high"):
        sizes = {item.name: int(getattr(item, end)) for item in data.axes}
        guessed = {item.name for item in data.axes if item.guessed}
        step = -1 if end == "low" else 1
        near = {item.name: item.usual + step if item.guessed else sizes[item.name] for item in data.axes}
        for tried in (sizes, near) if guessed else (sizes,):
            inputs = data.example(CHECKED, tried)
            answer = failures.attempt(functools.partial(answers_of, module, inputs)) if guessed else None
            if not isinstance(answer, Exception):
                found.append(Proof(inputs, " and ".join(f"{item.text} of {tried[item.name]}" for item in data.axes)))
                break
            said = failures.first_line(answer)
    if len(found) == 1:
        item = data.axes[0]
        raise Refusal(
            f"`dynamic` opens {item.text}, and the module itself answers {item.usual} only: {said}",
            help=f'remove "{item.text}" from `dynamic`, or say which sizes there are: "{item.text} = 8..64"',
        )
    return found


def open_outputs(module: nn.Module, data: Dataset, usual: Mapping[str, Array]) -> dict[str, dict[int, str]]:
    """The axes of outputs, besides the samples, whose size depends on an open one, with a name for each.

    `usual` are the answers to samples of the usual sizes. An axis as large as the open one in both calls has its name.
    """
    found: dict[str, dict[int, str]] = {}
    for item in data.axes:
        for size in (item.low, item.high, item.usual + 1):
            if size == item.usual:
                continue
            inputs = data.example(TRACED, {item.name: size})
            answer = failures.attempt(functools.partial(answers_of, module, inputs))
            if isinstance(answer, Exception):
                continue
            for name, given in answer.items():
                for axis in range(1, given.ndim):
                    before = usual[name].shape[axis]
                    if before != given.shape[axis]:
                        same = (before, given.shape[axis]) == (item.usual, size)
                        found.setdefault(name, {})[axis] = item.name if same else f"{name}_{axis}"
            break
    return found


def prove(
    module: nn.Module, proof: Proof, what: str,
    answer: Callable[[list[str]], list[Array]],
) -> None:
    """Compare what `answer` gives for the names of outputs, in order, with what `module` gives for the proof's inputs.

    Raises `Refusal`, whose words call the thing `what`: where `answer` raises (by its error), where it gives another
    shape, and where values differ by more than `tolerance`.
    """
    constant = "forward must not turn the number of samples into a Python number (int(x.shape[0]), len(x))"
    doing = f"{what} does not run with {CHECKED} samples, though it was traced with {TRACED}"
    if proof.sizes:
        constant = (
            "forward must not turn the size of an axis into a Python number (int(x.shape[1]), a loop over it); or give "
            "all batches one size"
        )
        doing = f"{what} does not run with {proof.sizes}, though the module does"
        what = f"with {proof.sizes} {what}"
    with failures.refused(
        f"the module itself does not answer {proof.sizes or 'three samples'}", help="write in `dynamic` which sizes it "
        'answers: "NAME:AXIS = LOW..HIGH"' if proof.sizes else None,
    ):
        wanted = answers_of(module, proof.inputs)
    with failures.refused(doing, help=constant):
        answers = answer(list(wanted))
    agree(wanted, answers, what, tolerance(module, proof.inputs), constant)


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
