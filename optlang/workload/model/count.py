"""Counts on a torch module: parameters, multiply-accumulates, zeros.

A multiply-accumulate is a product that goes into a sum: convolutions, products of matrices and vectors however they
are written (linear, bilinear and recurrent layers, attention, einsum), distances, and sums of embeddings. What works
element by element, normalizes, pools or looks up counts nothing. Weights that a module computes from other tensors
(weight_norm, a mask) count as what it computes: that is what an artifact holds.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from optlang.interfaces import Measurement, OptlangError, Refusal
from optlang.workload.failures import FAILURES, first_line
from optlang.workload.model.layers import weights
from optlang.workload.model.parametrizations import plain_copy

if TYPE_CHECKING:
    from torch import Tensor, nn

# Operators that multiply and add, and whose work depends on more than shapes or is no sum of products.
_NO_FORMULA = re.compile(
    r"_fft_.*|grid_sampler.*|cudnn_grid_sampler|upsample_(bi|tri)?(linear|cubic).*|_upsample_.*_aa"
    r"|_?linalg_(?!vector_norm|cross|check_errors).*|(_?cholesky|lu_|triangular_solve|ormqr|geqrf|orgqr|_lu).*"
    r"|_?sparse_.*mm.*|sspaddmm|hspmm|segment_reduce|mkldnn_rnn_layer|miopen_rnn|_cudnn_rnn|_thnn_fused_lstm"
    r"|_native_multi_head_attention|_transformer_encoder_layer_fwd|.*_weight_only_.*|_weight_int\dpack.*"
)
_OWN = ("aten", "prim", "prims", "profiler", "c10d")


@dataclass(frozen=True, slots=True)
class Counted:
    """Measurements, and what `macs` leaves out: operators without a formula, or why there is no such measurement.

    `shapes` are those of the parameters by name, each tensor once: their sizes add up to `parameters`, whatever an
    artifact folds together.
    """

    measurements: tuple[Measurement, ...]
    uncounted: tuple[str, ...] = ()
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)


def count(module: nn.Module, inputs: Mapping[str, Tensor]) -> Counted:
    """`parameters` (shared ones once), `macs` for one sample, and `sparsity`.

    `inputs` are example inputs by name, first axis the batch; for macs see `operations`. They are absent
    where counting failed.
    """
    module = plain_copy(module)
    shapes = _shapes(module)
    found = [_exact("parameters", sum(map(math.prod, shapes.values())), "count")]
    done = operations(module, inputs)
    if done.macs is not None:
        found.append(_exact("macs", done.macs, "count"))
    found.append(_exact("sparsity", sparsity(module), "ratio"))
    return Counted(tuple(found), done.uncounted or ((f"all of it: {done.why}",) if done.why else ()), shapes)


def _exact(metric: str, value: float, unit: str) -> Measurement:
    return Measurement(metric, float(value), unit, 1, float(value), float(value))


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """The parameters' shapes; those that are one tensor in memory stand once, as a file of them has them."""
    names = {
        (item.data_ptr(), tuple(item.shape), item.stride(), item.dtype): name
        for name, item in module.named_parameters()
    }
    return {name: shape for (_, shape, _, _), name in names.items()}


def sparsity(module: nn.Module) -> float:
    """The share of exact zeros among the weights (see `layers.weights`). 0 where there are none."""
    found = list(weights(plain_copy(module)).values())
    total = sum(item.numel() for item in found)
    return sum(_zeros(item) for item in found) / total if total else 0.0


def sparsity_by_layer(module: nn.Module) -> dict[str, float]:
    """The same for each weight, by its name in the module."""
    return {name: _zeros(item) / item.numel() for name, item in weights(plain_copy(module)).items()}


def _zeros(weight: Tensor) -> int:
    return int((weight == 0).sum())


# ---- multiply-accumulates


@dataclass(frozen=True, slots=True)
class Operations:
    """Multiply-accumulates of one sample, and the operators that work without being counted, in order of their names.

    `macs` is None where nothing could be counted; `why` then has the reason.
    """

    macs: float | None
    uncounted: tuple[str, ...] = ()
    why: str = ""


def macs(module: nn.Module, inputs: Mapping[str, Tensor]) -> float:
    """Multiply-accumulates for one sample of `inputs` (see `operations`); `Refusal` where they cannot be counted."""
    found = operations(module, inputs)
    if found.macs is None:
        raise Refusal(f"the model's macs cannot be counted: {found.why}", help="resource = parameters")
    return found.macs


def operations(module: nn.Module, inputs: Mapping[str, Tensor]) -> Operations:
    """Count what one call of `module` does with the first sample of `inputs`; it is run once, in eval mode.

    Raises what the module raises when it is called, and nothing that comes from counting.
    """
    import torch

    from optlang.workload.model.call import call, in_mode

    if not len(next(iter(inputs.values()))):
        raise OptlangError("no example inputs to count operations with")
    sample = {name: item[:1] for name, item in inputs.items()}
    counter = _counter()
    # Not inference_mode: what operators are made of is seen only through autograd's dispatch.
    with in_mode(module, False), torch.no_grad(), _transparent(module):
        try:
            with counter:
                call(module, sample)
        except FAILURES as error:
            call(module, sample)  # what the model itself cannot do it says in its own words
            return Operations(None, (), first_line(error))
    return Operations(float(counter.total), tuple(sorted(counter.uncounted)))


def _counter() -> Any:
    """A dispatch mode with `total`, the multiply-accumulates so far, and `uncounted`.

    Not torch's FlopCounterMode, whose formulas it has: that one follows modules too, which fails without gradients
    where a module is given a parameter, and it silently skips what it has no formula for.
    """
    from torch._ops import HigherOrderOperator
    from torch.utils._python_dispatch import TorchDispatchMode

    formulas = _formulas()

    class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
        supports_higher_order_operators = True

        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.total = 0.0
            self.uncounted: set[str] = set()

        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            named = kwargs or {}
            whole = isinstance(func, HigherOrderOperator)
            packet = func if whole else func._overloadpacket
            if packet not in formulas and not whole:
                before = self.total
                try:
                    with self:
                        parts = func.decompose(*args, **named)
                    if parts is not NotImplemented:
                        return parts
                except FAILURES:  # it is done whole, and says itself what is wrong with the model
                    self.total = before
                    self.uncounted.add(_name(packet))
            answer = func(*args, **named)
            try:
                self._count(packet, formulas.get(packet), args, named, answer)
            except FAILURES:  # an operator in a form that its formula does not know
                self.uncounted.add(_name(packet))
            return answer

        def _count(self, packet: Any, formula: Any, args: Any, named: Any, answer: Any) -> None:
            if formula is not None:
                self.total += formula(*args, **named, out_val=answer)
            elif _unknown(packet):
                self.uncounted.add(_name(packet))

    return Counter()


def _name(packet: Any) -> str:
    """An operator's name: torch's own without their namespace."""
    return str(getattr(packet, "_qualified_op_name", None) or packet.name()).removeprefix("aten::")


def _unknown(packet: Any) -> bool:
    """Whether an operator without a formula may multiply and add: those that are not torch's own may do anything."""
    library, _, name = str(getattr(packet, "_qualified_op_name", "")).rpartition("::")
    return library not in _OWN or _NO_FORMULA.fullmatch(name) is not None


def _formulas() -> dict[Any, Callable[..., float]]:
    """Multiply-accumulates of operators from their arguments and the answer `out_val`: torch's own formulas, and more.

    torch's count two floating-point operations for each.
    """
    import torch
    from torch.utils.flop_counter import flop_registry

    aten = torch.ops.aten

    def halved(formula: Callable[..., float]) -> Callable[..., float]:
        return lambda *args, **named: formula(*args, **named) / 2

    found: dict[Any, Callable[..., float]] = {key: halved(item) for key, item in flop_registry.items()}
    # Answers have a number for each sum; each sum is of as many products as the last axis is long.
    each = {
        aten.dot: 0, aten.vdot: 0, aten.mv: 0, aten.addmv: 1, aten._int_mm: 0, aten._cdist_forward: 0,
        aten._euclidean_dist: 0, aten._pdist_forward: 0, aten._grouped_mm: 0, aten.affine_grid_generator: 0,
    }
    for packet, index in each.items():
        found[packet] = _sums(index)
    found[aten.addbmm] = lambda _, left, right, *rest, out_val, **named: left.numel() * right.shape[-1]
    found[aten.conv_tbc] = lambda _, weight, *rest, out_val, **named: out_val.numel() * math.prod(weight.shape[:2])
    found[aten._trilinear] = _trilinear
    found[aten._embedding_bag] = found[aten._embedding_bag_forward_only] = _bags
    attention = aten._scaled_dot_product_flash_attention_for_cpu
    found[attention] = lambda query, key, value, *rest, out_val, **named: (
        math.prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])
    )
    return found


def _sums(index: int) -> Callable[..., float]:
    """As many as the answer has numbers, times the length of the last axis of argument `index`."""
    return lambda *args, out_val, **named: out_val.numel() * args[index].shape[-1]


def _trilinear(
    first: Tensor, second: Tensor, third: Tensor, expand1: Sequence[int], expand2: Sequence[int],
    expand3: Sequence[int], *rest: Any, out_val: Any, **named: Any,
) -> float:
    """nn.Bilinear's operator: the products of three tensors that are spread to one shape."""
    import torch

    shapes = []
    for item, added in ((first, expand1), (second, expand2), (third, expand3)):
        shape = list(item.shape)
        for place in sorted(added):
            shape.insert(place, 1)
        shapes.append(shape)
    return float(math.prod(torch.broadcast_shapes(*shapes)))  # type: ignore[no-untyped-call]


def _bags(
    weight: Tensor, indices: Tensor, offsets: Tensor, scale: bool = False, mode: int = 0, *rest: Any, out_val: Any,
    **named: Any,
) -> float:
    """Rows of a table that are added up; the largest of them (mode 2) is no sum."""
    return 0.0 if mode == 2 else float(indices.numel() * weight.shape[1])


@contextlib.contextmanager
def _transparent(module: nn.Module) -> Iterator[None]:
    """Without the kernels that do a whole layer at once, which have no formula."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    fast = torch.backends.mha.get_fastpath_enabled()
    onednn = torch.backends.mkldnn.enabled
    torch.backends.mha.set_fastpath_enabled(False)
    if any(isinstance(item, torch.nn.RNNBase) for item in module.modules()):
        # Not by its context manager, which warns of settings that only other devices have.
        torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch.backends.mkldnn.enabled = onednn
