"""Blocks of a model that are skipped: what comes in goes out again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


@contextmanager
def skipping(module: nn.Module, names: Collection[str]) -> Iterator[None]:
    """Inside, each of these blocks gives its first input in place of its first output; what else it gives stays."""

    def skip(_: nn.Module, args: tuple[Any, ...], given: dict[str, Any], output: Any) -> Any:
        return _with_first(output, first_tensor([*args, *given.values()]))

    hooks = [module.get_submodule(name).register_forward_hook(skip, with_kwargs=True) for name in names]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def watching(module: nn.Module, names: Collection[str], see: Callable[[str, Any, Any], None]) -> Iterator[None]:
    """Inside, `see` gets the name of each of these blocks with the first tensors of its inputs and outputs."""

    def hook(name: str) -> Callable[..., None]:
        return lambda _, args, given, output: see(name, first_tensor([*args, *given.values()]), first_tensor(output))

    hooks = [module.get_submodule(name).register_forward_hook(hook(name), with_kwargs=True) for name in names]
    try:
        yield
    finally:
        for item in hooks:
            item.remove()


def first_tensor(value: Any) -> Tensor | None:
    """The first tensor in what a layer is given, or gives: a tensor, or a nesting of sequences and mappings."""
    from torch import Tensor

    if isinstance(value, Tensor):
        return value
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return next((found for found in map(first_tensor, items) if found is not None), None)


def _with_first(value: Any, new: Any) -> Any:
    """An output with another first tensor."""
    from torch import Tensor

    if isinstance(value, Tensor):
        return new
    old = first_tensor(value)

    def of(item: Any) -> Any:
        if item is old:
            return new
        if isinstance(item, Mapping):
            changed = type(item)()
            for key, inner in item.items():
                changed[key] = of(inner)  # type: ignore[index]
            return changed
        if isinstance(item, list | tuple):
            inner = [of(part) for part in item]
            return type(item)(*inner) if hasattr(item, "_fields") else type(item)(inner)
        return item

    return of(value)
