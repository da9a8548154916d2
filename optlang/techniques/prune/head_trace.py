"""Finds attention in a model by running it once: which numbers of its weights belong to which head.

Nothing is known of classes. Attention is softmax and a product with its result, or `scaled_dot_product_attention`.
Every linear map by weights gets its activations cut from autograd's graph, so gradients reach the nearest weights and
no others: what changes the queries, keys and values of one head are that head's rows, and a head's answer changes its
columns in the projection behind. Views, splits, rotations, norms within a head and repeated key heads need no rules of
their own.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everybody gives it
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from optlang.workload.failures import attempt, first_line

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

# Functions that multiply activations with weights or with attention weights, by the names that they have in torch.
_PRODUCTS = {
    "linear", "addmm", "addbmm", "baddbmm", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "einsum", "tensordot",
    "conv1d", "conv2d", "conv3d",
}
# More slots along an axis than this are no heads: they would take as many backward passes.
_MOST = 512
_NOISE = 0.1

Vectors = tuple[Tensor, ...]
"""For each axis of a weight, which indices along it a head has (booleans)."""


@dataclass(frozen=True, slots=True)
class Part:
    """How a weight is divided among heads: along `axis`, the indices of each head; heads may share theirs."""

    axis: int
    indices: tuple[tuple[int, ...], ...]


@dataclass(slots=True)
class Call:
    """One computation of attention: in which modules it ran (the innermost last), and its weights by head.

    `why` is the reason why its heads cannot be separated, None where they can. `operands` are the weights of linear
    maps among `parts`; `answers` those of the maps that take the heads' answers.
    """

    modules: tuple[str, ...]
    heads: int = 1
    parts: dict[str, Part] = field(default_factory=dict)
    operands: set[str] = field(default_factory=set)
    answers: set[str] = field(default_factory=set)
    why: str | None = None


def traced(module: nn.Module, run: Callable[[nn.Module], Any]) -> list[Call]:
    """The attention that `module` computes in `run(module)`, in order; it is left with changed `requires_grad` flags.

    torch's own `nn.MultiheadAttention` is no part of it, apart from its subclasses, which are named with a reason.
    """
    with _buffers(module), torch.enable_grad(), _stack(module) as stack:
        module.requires_grad_(True)
        watch = _Watch(module, stack)
        with watch:
            run(module)
    return watch.done()


@contextmanager
def _buffers(module: nn.Module) -> Iterator[None]:
    """Buffers of numbers belong to heads too (slopes of ALiBi), apart from the statistics of norms."""
    found = [
        item for layer in module.modules() if not isinstance(layer, nn.modules.batchnorm._NormBase)
        for item in layer.buffers(recurse=False) if item.is_floating_point() and item.is_leaf
    ]
    for item in found:
        item.requires_grad_(True)
    try:
        yield
    finally:
        for item in found:
            item.requires_grad_(False)


@contextmanager
def _stack(module: nn.Module) -> Iterator[list[str]]:
    """The names of the modules that are running, the innermost last."""
    running: list[str] = []
    hooks = []

    def enter(name: str) -> Callable[..., None]:
        return lambda *_: running.append(name)

    def leave(*_: Any) -> None:
        running.pop()

    for name, layer in module.named_modules():
        hooks.append(layer.register_forward_pre_hook(enter(name), prepend=True))
        hooks.append(layer.register_forward_hook(leave, always_call=True))
    try:
        yield running
    finally:
        for hook in hooks:
            hook.remove()


@dataclass(slots=True)
class _Open:
    """Attention whose answer has not reached a projection yet, or not all that it goes to."""

    call: Call
    answer: Tensor
    axis: int
    slots: list[list[int]]
    vectors: list[dict[str, Vectors]]
    reached: bool = False


class _Watch(TorchFunctionMode):
    """Looks at every function of torch that a model calls."""

    def __init__(self, module: nn.Module, stack: list[str]) -> None:
        super().__init__()
        self._types = {name: type(layer) for name, layer in module.named_modules()}
        self._stack = stack
        named = [*module.named_parameters(), *module.named_buffers()]
        self._names = {id(item): name for name, item in named if item.requires_grad}
        self._weights = [item for _, item in named if item.requires_grad]
        # Tensors computed from weights alone; attention weights with the scores that they come from. Both are kept,
        # since an id is one tensor's only as long as it lives.
        self._derived: dict[int, Tensor] = {}
        self._attention: dict[int, tuple[Tensor, Tensor, int]] = {}
        self._calls: list[Call] = []
        self._open: list[_Open] = []
        self._operands: set[str] = set()
        self._generator = torch.Generator().manual_seed(0)

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """See `TorchFunctionMode`."""
        given = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if func is F.scaled_dot_product_attention:
            return self._fused(func, list(args), given)
        if func is F.multi_head_attention_forward:
            self._opaque()
        if name == "softmax":
            return self._softmax(func, args, given)
        if name in _PRODUCTS:
            return self._product(func, list(args), given)
        result = func(*args, **given)
        self._follow(result, args, given)
        return result

    def done(self) -> list[Call]:
        """All calls; those whose answer reached no projection have the reason."""
        for item in self._open:
            self._close(item)
        self._open = []
        return self._calls

    # ---- what is seen

    def _softmax(self, func: Any, args: Sequence[Any], given: dict[str, Any]) -> Any:
        result = func(*args, **given)
        scores = args[0] if args else given.get("input", given.get("self"))
        dim = args[1] if len(args) > 1 and isinstance(args[1], int) else given.get("dim", given.get("axis", -1))
        if not isinstance(scores, Tensor) or not scores.requires_grad or scores.ndim < 2 or not isinstance(dim, int):
            return result
        weights = result.detach()
        self._attention[id(weights)] = (weights, scores, dim % scores.ndim)
        return weights

    def _fused(self, func: Any, args: list[Any], given: dict[str, Any]) -> Any:
        names = ("query", "key", "value", "attn_mask")
        q, k, v, mask = (args[at] if at < len(args) else given.get(name) for at, name in enumerate(names))
        assert isinstance(q, Tensor)
        answer = func(*args, **given)
        targets = [item for item in (q, k, v) if isinstance(item, Tensor) and item.requires_grad]
        if isinstance(mask, Tensor) and mask.requires_grad and mask.ndim == q.ndim:
            targets.append(mask)
        found = None
        for axis in reversed(range(q.ndim - 2)):
            if found is None and q.requires_grad and q.shape[axis] > 1:
                several = [(item, axis) for item in targets if item.shape[axis] > 1]
                found = self._slots(several, q.shape[axis], axis)
        return self._answered(answer, found, heads=q.shape[-3] if q.ndim > 2 else 1, targets=targets)

    def _product(self, func: Any, args: list[Any], given: dict[str, Any]) -> Any:
        flat = _tensors(args, given)
        attention = [item for item in flat if id(item) in self._attention]
        if len(attention) == 1 and len(flat) > 1 and any(item.requires_grad for item in flat):
            return self._eager(func, args, given, self._attention[id(attention[0])])
        weights = [item for item in flat if self._from_weights(item)]
        moved = [item for item in flat if item.is_floating_point() and not self._from_weights(item)]
        if func is F.linear or getattr(func, "__name__", "").startswith("conv"):
            # An activation may be a parameter too: learned queries.
            moved = flat[:1]
            weights = [item for item in flat[1:] if self._from_weights(item)]
        if not any(item.ndim > 1 for item in weights) or len(moved) != 1:
            result = func(*args, **given)
            self._follow(result, args, given)
            return result
        x = moved[0]
        operands = {name for item in weights if item.ndim > 1 for name in self._names_in(item)}
        for item in list(self._open):
            failed = attempt(partial(self._arrived, item, func, args, given, x, operands))
            if isinstance(failed, Exception):
                item.call.why = f"what follows it has no derivatives ({first_line(failed)})"
                self._open.remove(item)
        # Noise, since what is zero by chance would hide what it meets.
        args, given = _replaced(args, given, x, x.detach() + _NOISE * self._random(x))
        result = func(*args, **given)
        self._operands |= operands
        return result

    def _eager(
        self, func: Any, args: list[Any], given: dict[str, Any], seen: tuple[Tensor, Tensor, int]
    ) -> Any:
        _, scores, dim = seen
        answer = func(*args, **given)
        if not answer.requires_grad:
            return answer
        found = None
        if scores.ndim == answer.ndim + 1 and scores.shape[0] * scores.shape[1] == answer.shape[0]:
            scores = scores.flatten(0, 1)
            dim -= 1
        axes = sorted((axis for axis in range(scores.ndim) if axis != dim), key=lambda axis: abs(axis - dim) != 2)
        pairs = [
            (axis, other) for axis in axes for other in [axis, *(item for item in range(answer.ndim) if item != axis)]
            if scores.shape[axis] > 1 and other < answer.ndim and answer.shape[other] == scores.shape[axis]
        ]
        # As many samples as heads: the values tell which axis is which, unless all heads share them.
        pairs.sort(key=lambda pair: not self._differs(answer, pair[1]))
        for axis, other in pairs:
            if found is None:
                found = self._slots([(scores, axis), (answer, other)], scores.shape[axis], other)
        heads = scores.shape[1] if scores.ndim > 3 else 1
        return self._answered(answer, found, heads=heads, targets=[scores, answer])

    def _opaque(self) -> None:
        kind = self._types.get(self._stack[-1]) if self._stack else None
        if kind is not nn.MultiheadAttention:
            why = "it calls F.multi_head_attention_forward, which heads cannot look into"
            self._calls.append(Call(tuple(self._stack), why=why))

    # ---- whose weights they are

    def _slots(
        self, targets: Sequence[tuple[Tensor, int]], size: int, axis: int
    ) -> tuple[int, list[list[int]], list[dict[str, Vectors]]] | None:
        """The heads along an axis of `targets`, each by its slots there, and what changes it; None: that is no head's.

        Several slots are one head where the batch lies along the same axis.
        """
        if size > _MOST:
            return None
        first, last = self._changing(targets, 0, size), self._changing(targets, size - 1, size)
        if not first or _alike(first, last):
            return None
        found: list[dict[str, Vectors]] = []
        slots: list[list[int]] = []
        for slot in range(size):
            own = self._changing(targets, slot, size)
            known = next((index for index, other in enumerate(found) if _alike(own, other)), None)
            if known is None:
                found.append(own)
                slots.append([slot])
            else:
                slots[known].append(slot)
        if len({len(item) for item in slots}) != 1 or not any(_parts(found)[0].values()):
            return None
        return axis, slots, found

    def _differs(self, item: Tensor, axis: int) -> bool:
        """Whether the first and the last slot along an axis come from other weights."""
        size = item.shape[axis]
        return not _alike(self._changing([(item, axis)], 0, size), self._changing([(item, axis)], size - 1, size))

    def _changing(self, targets: Sequence[tuple[Tensor, int]], slot: int, size: int) -> dict[str, Vectors]:
        """The weights that change a slot, by the indices along each of their axes."""
        outputs = []
        for item, axis in targets:
            # Fewer key heads than query heads: each serves several.
            own = item.select(axis, slot * item.shape[axis] // size)
            outputs.append(own)
        return self._reached(outputs, [self._random(item) for item in outputs])

    def _reached(self, outputs: Sequence[Tensor], weights: Sequence[Tensor]) -> dict[str, Vectors]:
        found = torch.autograd.grad(outputs, self._weights, weights, retain_graph=True, allow_unused=True)
        return {
            self._names[id(item)]: _vectors(gradient)
            for item, gradient in zip(self._weights, found, strict=True) if gradient is not None
        }

    def _answered(
        self, answer: Tensor, found: tuple[int, list[list[int]], list[dict[str, Vectors]]] | None, heads: int,
        targets: Sequence[Tensor],
    ) -> Tensor:
        if not any(item.requires_grad for item in targets):
            return answer
        call = Call(tuple(self._stack))
        for item in [item for item in self._open if item.reached]:
            self._close(item)
            self._open.remove(item)
        self._calls.append(call)
        if found is None:
            call.why = (
                "it has one head" if heads == 1 else "the heads cannot be separated: weights in front of it change "
                "several of them at once"
            )
            return answer.detach()
        axis, slots, vectors = found
        leaf = answer.detach().requires_grad_(True)
        call.heads = len(slots)
        self._open.append(_Open(call, leaf, axis, slots, vectors))
        # No leaf itself: code may change the answer in place.
        return leaf.clone()

    def _arrived(
        self, item: _Open, func: Any, args: list[Any], given: dict[str, Any], x: Tensor, operands: AbstractSet[str]
    ) -> None:
        """Add what the weights of this product, and those on the path to it, take of each head's answer."""
        if not x.requires_grad:
            return
        direction = torch.ones_like(x, requires_grad=True)
        back, = torch.autograd.grad(
            x, item.answer, direction, retain_graph=True, create_graph=True, allow_unused=True
        )
        if back is None or not back.requires_grad:
            return
        item.reached = True
        item.call.answers |= operands
        for head, slots in enumerate(item.slots):
            towards = torch.zeros_like(item.answer)
            for slot in slots:
                own = towards.select(item.axis, slot)
                own.copy_(self._random(own))
            moved, = torch.autograd.grad(back, direction, towards, retain_graph=True)
            moved = moved.detach()
            # The part of the input that is this head's, by itself: its columns are what it meets in the weight.
            changed, rest = _replaced(args, given, x, moved)
            output = func(*changed, **rest)
            _add(item.vectors[head], self._reached([output], [self._random(output)]))
            _add(item.vectors[head], self._reached([x], [self._random(x) * (moved != 0)]))

    def _close(self, item: _Open) -> None:
        parts, mixed = _parts(item.vectors)
        call = item.call
        call.parts = {name: part for name, part in parts.items() if part is not None}
        call.operands = self._operands & set(call.parts)
        if not item.reached:
            call.why = "its answer reaches no projection"
        elif mixed:
            call.why = f"{mixed} has numbers that belong to several heads"
        elif not call.answers & set(call.parts):
            call.why = f"{', '.join(sorted(call.answers))} takes all of its heads' answers at once"

    # ---- tensors from weights alone

    def _from_weights(self, item: Tensor) -> bool:
        return id(item) in self._names or id(item) in self._derived

    def _names_in(self, item: Tensor) -> set[str]:
        if id(item) in self._names:
            return {self._names[id(item)]}
        found = torch.autograd.grad(item, self._weights, torch.ones_like(item), retain_graph=True, allow_unused=True)
        return {
            self._names[id(own)] for own, gradient in zip(self._weights, found, strict=True) if gradient is not None
        }

    def _follow(self, result: Any, args: Sequence[Any], given: Mapping[str, Any]) -> None:
        """Know a result of weights alone, and one of attention weights, for what it is."""
        found = result if isinstance(result, tuple | list) else (result,)
        made = [item for item in found if isinstance(item, Tensor) and item.is_floating_point()]
        if not made:
            return
        flat = _tensors(args, given)
        if flat and all(self._from_weights(item) for item in flat):
            self._derived.update((id(item), item) for item in made if item.requires_grad)
        known = next((self._attention[id(item)] for item in flat if id(item) in self._attention), None)
        if known is not None:
            self._attention.update((id(item), (item, known[1], known[2])) for item in made)

    def _random(self, like: Tensor) -> Tensor:
        return torch.rand(like.shape, generator=self._generator).to(like.dtype).to(like.device) + 0.5


def _tensors(args: Any, given: Mapping[str, Any]) -> list[Tensor]:
    """The tensors among arguments, those in lists too."""
    found: list[Tensor] = []
    for item in [*args, *given.values()]:
        if isinstance(item, Tensor):
            found.append(item)
        elif isinstance(item, tuple | list):
            found += [inner for inner in item if isinstance(inner, Tensor)]
    return found


def _replaced(args: Any, given: Mapping[str, Any], old: Tensor, new: Tensor) -> tuple[list[Any], dict[str, Any]]:
    """Arguments with one tensor in another's stead."""

    def of(item: Any) -> Any:
        if item is old:
            return new
        return type(item)(of(inner) for inner in item) if type(item) in (tuple, list) else item

    return [of(item) for item in args], {name: of(item) for name, item in given.items()}


def _vectors(gradient: Tensor) -> Vectors:
    return along_axes(gradient != 0)


def along_axes(changed: Tensor) -> Vectors:
    """For each axis, at which indices along it something is true."""
    if changed.ndim < 2:
        return (changed.reshape(-1),)
    return tuple(changed.movedim(axis, 0).flatten(1).any(1) for axis in range(changed.ndim))


def _alike(one: Mapping[str, Vectors], other: Mapping[str, Vectors]) -> bool:
    return set(one) == set(other) and all(
        torch.equal(mine, yours) for name in one for mine, yours in zip(one[name], other[name], strict=True)
    )


def _add(known: dict[str, Vectors], new: Mapping[str, Vectors]) -> None:
    for name, vectors in new.items():
        old = known.get(name)
        known[name] = vectors if old is None else tuple(a | b for a, b in zip(old, vectors, strict=True))


def _parts(heads: Sequence[Mapping[str, Vectors]]) -> tuple[dict[str, Part | None], str | None]:
    """How each weight is divided among heads, None where all heads have all of it; the first that is not divided so."""
    found: dict[str, Part | None] = {}
    mixed = None
    for name in dict.fromkeys(name for head in heads for name in head):
        part = part_of([head.get(name) for head in heads])
        if isinstance(part, bool):
            mixed = mixed or name
        else:
            found[name] = part
    return found, mixed


def part_of(vectors: Sequence[Vectors | None]) -> Part | bool | None:
    """The division of one weight among heads; None where it is one for all, False where it is mixed."""
    own = [item for item in vectors if item is not None]
    if len(own) == len(vectors) and all(
        torch.equal(one, other) for item in own[1:] for one, other in zip(own[0], item, strict=True)
    ):
        return None
    if len(own) < len(vectors):
        return False
    for axis in range(len(own[0])):
        sets = [frozenset(item[axis].nonzero().flatten().tolist()) for item in own]
        common = frozenset.intersection(*sets)  # one key head for all of them stays
        sets = [item - common for item in sets]
        if all(sets) and len({len(item) for item in sets}) == 1 and len(clusters(sets)) > 1:
            return Part(axis, tuple(tuple(sorted(item)) for item in sets))
    return False


def clusters(sets: Sequence[AbstractSet[Hashable]]) -> list[list[int]]:
    """The positions of sets that have members in common, directly or by others, in order."""
    found: list[tuple[list[int], set[Hashable]]] = []
    for index, item in enumerate(sets):
        near = [known for known in found if known[1] & item]
        merged = (
            sorted([index, *(other for known in near for other in known[0])]),
            set(item).union(*(known[1] for known in near)),
        )
        found = [*(known for known in found if known not in near), merged]
    return sorted(indices for indices, _ in found)
