"""Chooses layers of a model by name or pattern, and says what its weights are."""

from __future__ import annotations

import fnmatch
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from optlang.diagnostics.suggest import closest
from optlang.interfaces import OptlangError

if TYPE_CHECKING:
    from torch import Tensor, nn


def weights(module: nn.Module) -> dict[str, Tensor]:
    """The weights of `module` by name: parameters of two and more dimensions; what is one tensor in memory once.

    Of parameters outside torch's own layers only those with two axes longer than 1: tables, and neither the one token
    nor the scale of each channel.
    """
    found: dict[tuple[object, ...], tuple[str, Tensor]] = {}
    for name, item in module.named_parameters():
        layer = module.get_submodule(name.rpartition(".")[0])
        table = sum(size > 1 for size in item.shape) > 1
        if item.ndim > 1 and item.numel() and (table or type(layer).__module__.startswith("torch.nn.")):
            found.setdefault((item.data_ptr(), tuple(item.shape), item.stride(), item.dtype), (name, item))
    return dict(found.values())


def reasons(left: Mapping[str, str]) -> str:
    """Why layers were left alone, the first three by name and reason; "" where none was."""
    some = "; ".join(f"{name}: {reason}" for name, reason in itertools.islice(left.items(), 3))
    return some + (f"; and {len(left) - 3} more" if len(left) > 3 else "")


def left_alone(keep: Sequence[str], only: Sequence[str], names: Iterable[str]) -> set[str]:
    """The names that a technique is not to touch: those that `keep` matches, and where `only` names some, all others.

    What holds a chosen layer is not chosen with it: of `only = ["layer1.conv"]` "layer1" itself is left alone. Raises
    OptlangError for a pattern that matches nothing.
    """
    known = [name for name in names if name]
    alone = chosen(keep, known)
    return alone | (set(known) - chosen(only, known, "only") if only else set())


def chosen(patterns: Sequence[str], names: Iterable[str], setting: str = "keep") -> set[str]:
    """The names that a pattern matches ("head", "*.norm"), with everything below them ("layer1" has "layer1.conv").

    Raises OptlangError for a pattern that matches nothing; `setting` is the one that holds the patterns.
    """
    known = [name for name in names if name]
    found: set[str] = set()
    for pattern in patterns:
        tops = [name for name in known if fnmatch.fnmatchcase(name, pattern)]
        if not tops:
            near = closest(pattern, known)
            some = ", ".join(known[:8]) + (", …" if len(known) > 8 else "")
            raise OptlangError(
                f"{setting} names the layer '{pattern}', and the model has none",
                help=f"did you mean '{near}'?" if near else f"its layers are {some or 'without names'}",
            )
        found.update(name for name in known for top in tops if name == top or name.startswith(top + "."))
    return found


def replaced(module: nn.Module, name: str, new: nn.Module) -> nn.Module:
    """`module`, changed in place, with `new` for the layer `name` under every name that it has; `new` itself for ""."""
    old = module.get_submodule(name)
    for parent in list(module.modules()):
        for key, child in parent._modules.items():
            if child is old:
                parent._modules[key] = new
    return module if name else new


def own_weights(module: nn.Module) -> Callable[[nn.Module], bool]:
    """Whether a layer's parameters are plain ones that no other layer of `module` has."""
    from torch.nn.utils import parametrize

    owners = Counter(id(item) for layer in module.modules() for item in layer.parameters(recurse=False))
    return lambda layer: not parametrize.is_parametrized(layer) and all(
        owners[id(item)] == 1 for item in layer.parameters()
    )
