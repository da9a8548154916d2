"""Removes whole channels from a module in place with torch-pruning, and replays that on a fresh model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from optlang.interfaces import JSON, Refusal
from optlang.techniques.prune.importance import Scorer
from optlang.techniques.shared import coupled
from optlang.techniques.shared.coupled import drawn, forward, traceable
from optlang.workload.failures import FAILURES

if TYPE_CHECKING:
    from torch import Tensor, nn


# Keeps 10 * (1 - 0.8) = 1.9999999999999996 from counting as one channel.
_ROUNDING = 1e-9


class Broken(Exception):  # noqa: N818 - an answer, not an accident
    """torch-pruning failed at the channels of a layer."""

    def __init__(self, layer: str, why: str) -> None:
        super().__init__(layer, why)
        self.layer, self.why = layer, why


def replay(module: nn.Module, arguments: Mapping[str, Any], example: Mapping[str, Tensor]) -> nn.Module:
    """Remove the same channels from `module`, a fresh model of the shape that it had before the pruning."""
    with drawn(module, dict(example)) as graph:
        coupled.route(graph, arguments.get("routes", {}))
        graph.load_pruning_history([list(item) for item in arguments["history"]])
    tie(module, arguments.get("ties", []))
    return module


def tie(module: nn.Module, ties: Sequence[Sequence[str]]) -> None:
    """Make one of the parameters that were one before each layer was cut by itself."""
    for first, *others in ties:
        parameter = module.get_parameter(first)
        for name in others:
            holder, _, own = name.rpartition(".")
            setattr(module.get_submodule(holder), own, parameter)


@contextmanager
def following(depends: Literal["model", "settings"]) -> Iterator[None]:
    """Around torch-pruning's work on a whole model: what it cannot follow is a `Refusal`."""
    try:
        yield
    except FAILURES as error:
        raise Refusal(
            f"the channels of this model cannot be followed: {coupled.reason(error)}",
            help="magnitude and two_four remove single weights, and int8 makes all of them smaller", depends=depends,
        ) from error


def pruned(
    module: nn.Module, example: dict[str, Tensor], round_to: int, ratio: float, ratios: Mapping[str, float],
    score: Scorer, kept: set[str], parts: Mapping[str, int], routes: Mapping[str, Sequence[Sequence[int]]],
    everywhere: bool,
) -> list[JSON]:
    """Prune `module` in place, apart from the layers in `kept`; the history that `replay` takes.

    `ratios` hold for the groups of the layers that they name, in place of `ratio`; of those in `parts` as many go from
    each of so many blocks; `routes` are for `coupled.route`; `everywhere` ranks across layers. Raises `Broken` where a
    layer cannot be cut.
    """
    from torch import nn

    ratio -= _ROUNDING
    own = {module.get_submodule(name): item - _ROUNDING for name, item in ratios.items()}
    heads: dict[nn.Module, int] = {
        layer: layer.num_heads for layer in module.modules() if isinstance(layer, nn.MultiheadAttention)
    }
    heads |= {module.get_submodule(name): count for name, count in parts.items()}
    with following("settings"), traceable(module):
        pruner = _pruner(ratio, own, kept)(
            module, example_inputs=example, forward_fn=forward, importance=score, global_pruning=everywhere,
            pruning_ratio=ratio, pruning_ratio_dict=own, round_to=round_to,
            ignored_layers=[layer for name, layer in module.named_modules() if name in kept],
            in_channel_groups={}, out_channel_groups=heads,
        )
        coupled.limit(pruner.DG)
        coupled.route(pruner.DG, routes)
        pruner.pruned()
    history: list[JSON] = [
        [name, bool(outward), [int(index) for index in indices]] for name, outward, indices in pruner.pruning_history()
    ]
    return history


def _pruner(ratio: float, own: Mapping[nn.Module, float], kept: set[str]) -> Any:
    """torch-pruning's pruner, which rounds as `round_to` is declared and names the group where it fails.

    `own` are the ratios of single layers in place of `ratio`, `kept` the names of the layers left alone.
    """
    import torch_pruning

    class Pruner(torch_pruning.pruner.BasePruner):  # type: ignore[misc]
        _looked_at: Any = None

        def _is_atten_group(self, group: Any) -> Any:
            self._looked_at = group  # the one that is rounded next
            return super()._is_atten_group(group)

        def pruned(self) -> None:
            """One step; a group that torch-pruning cannot cut is named."""
            try:
                self.step()
            except FAILURES as error:
                why = coupled.reason(error)
                if self._looked_at is None:  # at a group that it had not made yet
                    broken = coupled.groups(self.DG, kept)[1]
                    if not broken:
                        raise
                    raise Broken(*next(iter(broken.items()))) from error
                raise Broken(self.DG._module2name[self._looked_at[0].dep.target.module], why) from error

        def estimate_importance(self, group: Any) -> Any:
            found = super().estimate_importance(group)
            self._looked_at = None
            return found

        def _round_to(self, n_pruned: int, current_channels: int, round_to: int) -> int:
            """Keep the nearest multiple (the smaller of two as near), and at least one of them.

            Grouped channels lose as many in each group: `n_pruned` counts those of one.
            """
            groups: int = self._get_channel_groups(self._looked_at)
            size, step = current_channels // groups, round_to // math.gcd(round_to, groups)
            remaining: float = size - n_pruned
            share = 1 - own.get(self._looked_at[0].dep.target.module, ratio)
            if remaining == int(size * share):
                remaining = size * share  # a layer's own share, before its fraction was cut off
            multiples = max(1, math.ceil(remaining / step - 0.5 - _ROUNDING))
            return max(0, size - multiples * step)

    return Pruner
