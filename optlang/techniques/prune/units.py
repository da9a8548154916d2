"""Chooses the hidden units of recurrent layers that go, and proves the cut."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optlang.interfaces import JSON, Context, Edit, ModelState, Refusal
from optlang.techniques.prune.cutter import counted, share_removed
from optlang.techniques.prune.gradients import fisher, taylor
from optlang.techniques.prune.recurrent_units import cut, directions, ends, layer_called, recurrent, silence
from optlang.techniques.prune.sparsity import recounted
from optlang.techniques.shared import proof
from optlang.techniques.shared.parametrizations import as_module, with_edit
from optlang.techniques.shared.stand_ins import called
from optlang.workload.failures import refused
from optlang.workload.model.layers import left_alone

if TYPE_CHECKING:
    from torch import Tensor, nn

_REPLAY = "optlang.techniques.prune.units:replay"
# Keeps 10 * (1 - 0.8) = 1.9999999999999996 from counting as one unit.
_ROUNDING = 1e-9
_TOLERANCE = 1e-4


def units(state: ModelState, settings: Mapping[str, Any], context: Context) -> ModelState:
    """Remove the hidden units that matter least from each `nn.LSTM`, `nn.GRU` and `nn.RNN`, of one direction or two.

    A unit goes with its rows in all gates, its column in the matrix of the state, and its column in what takes the
    layer's answers: the next level, or the linear and recurrent layers behind, which a run on examples finds. All
    levels and both directions of a layer keep as many, each its own: the nearest multiple of `round_to`. `importance`
    is the sum over these weights of their squares ("l2"), of |weight times gradient| ("taylor": Molchanov et al., CVPR
    2019) or of half of both squared ("fisher", see `gradients.fisher`), or chance ("random"); removing what is coupled
    together follows intrinsic sparse structures (Wen et al., ICLR 2018). The answers are those of the whole layer with
    these units' outputs at zero, and are compared with them on examples. Notes: `prune.removed_units` and
    `prune.removed_parameters`, the shares removed since the model was made.

    Left alone, and named in `prune.left` with the reason, are layers that share a weight with another one, that project
    their state or are a class of their own, and those whose answers something else than linear and recurrent layers
    takes, or one that takes the sum of two directions. Raises `Refusal` where there is no other layer, or where nothing
    would go.
    """
    import torch

    from optlang.workload.imports import user_code
    from optlang.workload.model.call import call

    state = as_module(state, "lose hidden units", context)
    module: nn.Module = copy.deepcopy(state.model).eval()
    chosen = _open(module, settings)
    cuts: list[JSON] = []
    example = context.data.bind(module).example(8)
    with torch.no_grad(), user_code("the model's forward", context.study):
        call(module, example)
    refusals: dict[str, Refusal] = {}
    for name in chosen:
        count = _left(layer_called(module, name).hidden_size, settings)
        if count is None:
            continue
        try:
            made = _chosen(module, name, count, settings, example, context)
            module = _proved(module, made, example, context)
        except Refusal as error:
            refusals[name] = error
            continue
        cuts.append(made)
    if not cuts:
        for refusal in refusals.values():
            raise refusal
        ratio, multiple = settings["ratio"], settings["round_to"]
        raise Refusal(
            f"nothing was removed: ratio {ratio:g} with round_to {multiple} leaves every layer as it is",
            help="a larger ratio, or a smaller round_to",
        )
    edit = Edit(_REPLAY, {"cuts": cuts})
    return with_edit(state, module, edit, {
        "prune.removed_units": share_removed(state, "units", _hidden(module) / _hidden(state.model)),
        "prune.removed_parameters": share_removed(state, "parameters", counted(module)[0] / counted(state.model)[0]),
        **({"prune.left": {name: item.message for name, item in refusals.items()}} if refusals else {}),
        **recounted(state.notes, module),
    })


def replay(module: nn.Module, arguments: Mapping[str, Any], example: Mapping[str, Tensor]) -> nn.Module:
    """Keep the same units of `module`, a fresh model of the shape that it had before."""
    for about in arguments["cuts"]:
        module = cut(module, about["layer"], about["kept"], about["takers"], about.get("sides", {}))
    return module


def _own_class(layer: nn.Module) -> bool:
    """Whether the layer is not torch's own, and may do anything with its weights."""
    from torch import nn

    return type(layer) not in (nn.Linear, nn.LSTM, nn.GRU, nn.RNN)


def _open(module: nn.Module, settings: Mapping[str, Any]) -> list[str]:
    """The layers that `keep` and `only` leave open, in the order of the model."""
    found = recurrent(module)
    if not found:
        raise Refusal(
            "no layer is an nn.LSTM, nn.GRU or nn.RNN, whose hidden units could be removed",
            help="channels removes those of convolutions and linear layers", depends="model",
        )
    alone = left_alone(settings["keep"], settings["only"], [name for name, _ in module.named_modules()])
    chosen = [name for name in found if name not in alone]
    if not chosen:
        raise Refusal("no recurrent layer is left to prune", help="shorten keep, or widen only")
    return chosen


def _chosen(
    module: nn.Module, name: str, count: int, settings: Mapping[str, Any], example: Mapping[str, Tensor],
    context: Context,
) -> dict[str, JSON]:
    """The cut that leaves `count` units of a layer, as `replay` takes it; `Refusal` where it cannot be made rightly."""
    layer, others = layer_called(module, name), proof.partners(module)
    why = (
        "projects its state (proj_size)" if layer.proj_size
        else "is a class of its own" if _own_class(layer)
        else f"shares its weights with {others[name]}" if name in others
        else ""
    )
    if why:
        raise Refusal(
            f"{name or 'the model'} is {called(layer)} that {why}, which units does not cut", help=f'keep = ["{name}"]'
        )
    takers = _takers(module, name, count, example, context)
    kept = _kept(module, name, takers, count, settings, context)
    made: dict[str, JSON] = {"layer": name, "kept": kept, "takers": list(takers)}
    if layer.bidirectional or any(len(blocks) > 1 for blocks in takers.values()):
        made["sides"] = takers
    return made


def _left(size: int, settings: Mapping[str, Any]) -> int | None:
    """How many of `size` units stay: the nearest multiple, the smaller of two as near, one at least; None: all."""
    step = int(settings["round_to"])
    share = size * (1 - float(settings["ratio"]))
    count = max(1, math.ceil(share / step - 0.5 - _ROUNDING)) * step
    return count if count < size else None


def _takers(
    module: nn.Module, name: str, count: int, example: Mapping[str, Tensor], context: Context
) -> dict[str, list[int]]:
    """The linear and recurrent layers that take the answers of the layer `name`, with the directions that each takes.

    They are those that take whole blocks of hidden size, and get narrower ones when the layer is narrow; each is given
    what is missing as zeros, so that the model runs on.
    """
    import torch
    from torch import nn

    layer = layer_called(module, name)
    size, per_level = layer.hidden_size, directions(layer)
    narrow = cut(copy.deepcopy(module), name, [list(range(count))] * len(ends(layer)), [], {})
    found: dict[str, int] = {}

    def filled(taker: str, blocks: int) -> Any:
        def fill(_: nn.Module, given: tuple[Any, ...]) -> Any:
            first = given[0]
            if not isinstance(first, torch.Tensor) or first.shape[-1] != blocks * count:
                return None
            found[taker] = blocks
            return torch.nn.functional.pad(first, (0, blocks * (size - count))), *given[1:]

        return fill

    for taker, other in narrow.named_modules():
        width = other.in_features if isinstance(other, nn.Linear) else getattr(other, "input_size", 0)
        # Several blocks: both directions, the states at several times, or one of them more than once.
        if taker != name and isinstance(other, nn.Linear | nn.RNNBase) and width and width % size == 0:
            other.register_forward_pre_hook(filled(taker, width // size))
    _run(narrow, example, name, context)
    shared = proof.partners(module)
    for taker in found:
        if _own_class(module.get_submodule(taker)):
            raise Refusal(_elsewhere(name, f"{taker} is a class of its own"), help=f'keep = ["{name}"]')
        if taker in shared:
            why = f"{taker} shares its weights with {shared[taker]}"
            raise Refusal(_elsewhere(name, why), help=f'keep = ["{name}"]')
    if per_level == 1:
        return {taker: [0] * blocks for taker, blocks in found.items()}
    return _sides(module, name, found, example, context)


def _sides(
    module: nn.Module, name: str, takers: Mapping[str, int], example: Mapping[str, Tensor], context: Context
) -> dict[str, list[int]]:
    """Which direction each block of a taker's inputs is: the one without which they are zero."""
    import torch

    layer = layer_called(module, name)
    size, end_count = layer.hidden_size, len(ends(layer))
    # By the direction that is silent, by taker: whether anything is in each block, over all calls.
    heard: list[dict[str, Tensor]] = []
    for silent in (0, 1):
        whole = copy.deepcopy(module)
        silence(layer_called(whole, name), [
            [] if index == end_count - 2 + silent else list(range(size)) for index in range(end_count)
        ])
        spoken = {taker: torch.zeros(blocks, dtype=torch.bool) for taker, blocks in takers.items()}

        def listening(found: Tensor) -> Any:
            def listen(_: nn.Module, given: tuple[Any, ...]) -> None:
                found.logical_or_(given[0].reshape(-1, len(found), size).ne(0).any(2).any(0))

            return listen

        for taker, found in spoken.items():
            whole.get_submodule(taker).register_forward_pre_hook(listening(found))
        _run(whole, example, name, context)
        heard.append(spoken)
    sides: dict[str, list[int]] = {}
    for taker in takers:
        without = torch.stack([spoken[taker] for spoken in heard])
        # Exactly one direction in each block.
        if not bool(without[0].ne(without[1]).all()):
            raise Refusal(
                _elsewhere(name, f"{taker} takes numbers that its two directions make together"),
                help=f'keep = ["{name}"]',
            )
        sides[taker] = without[0].int().tolist()
    return sides


def _elsewhere(name: str, why: str) -> str:
    return f"the answers of {name or 'the model'} go where units cannot follow them: {why}"


def _run(module: nn.Module, example: Mapping[str, Tensor], name: str, context: Context) -> dict[str, Tensor]:
    import torch

    from optlang.workload.model.call import call

    with torch.no_grad(), refused(_elsewhere(name, "the model does not run"), help=f'keep = ["{name}"]'):
        return call(module, dict(example))


def _proved(
    module: nn.Module, about: Mapping[str, Any], example: Mapping[str, Tensor], context: Context
) -> nn.Module:
    """The module with the cut made, whose answers are those of the whole one with these units silent."""
    name = about["layer"]
    whole = copy.deepcopy(module)
    silence(layer_called(whole, name), about["kept"])
    wanted = _run(whole, example, name, context)
    module = replay(copy.deepcopy(module), {"cuts": [about]}, example)
    found = _run(module, example, name, context)
    for key, item in wanted.items():
        other = found.get(key)
        if other is None or other.shape != item.shape:
            raise Refusal(_elsewhere(name, f"they are the model's own output {key}"), help=f'keep = ["{name}"]')
        if item.is_floating_point() and float((item - other).abs().max()) > _TOLERANCE * (1 + float(item.abs().max())):
            raise Refusal(
                _elsewhere(name, f"the model's output {key} is another one without these units than with them silent"),
                help=f'keep = ["{name}"]',
            )
    return module


def _kept(
    module: nn.Module, name: str, takers: Mapping[str, Sequence[int]], count: int, settings: Mapping[str, Any],
    context: Context,
) -> list[list[int]]:
    """The units that stay, by level and direction, in order."""
    import torch

    layer = layer_called(module, name)
    size, per_level, own = layer.hidden_size, directions(layer), ends(layer)
    if settings["importance"] == "random":
        generator = torch.Generator().manual_seed(context.seed)
        scores = [torch.rand(size, generator=generator) for _ in own]
    else:
        importances = _importances(module, settings, context)
        prefix = f"{name}." if name else ""
        scores = []
        for index, end in enumerate(own):
            inputs, hidden = importances[f"{prefix}weight_ih_{end}"], importances[f"{prefix}weight_hh_{end}"]
            # Rows of all gates; the column through which the unit speaks to the state.
            total = inputs.sum(1).reshape(-1, size).sum(0) + hidden.sum(1).reshape(-1, size).sum(0) + hidden.sum(0)
            side, first = index % per_level, (index // per_level + 1) * per_level
            for behind in own[first : first + per_level]:
                total = total + importances[f"{prefix}weight_ih_{behind}"].sum(0).reshape(per_level, size)[side]
            for taker, sides in takers.items() if first == len(own) else ():
                for weight in _inputs(module, taker):
                    blocks = importances[weight].sum(0).reshape(-1, size)
                    total = total + sum(block for block, at in zip(blocks, sides, strict=True) if at == side)
            scores.append(total)
    return [sorted(item.topk(count).indices.tolist()) for item in scores]


def _importances(module: nn.Module, settings: Mapping[str, Any], context: Context) -> dict[str, Tensor]:
    """The importance of each single weight."""
    weights = {name: item for name, item in module.named_parameters() if item.ndim > 1}
    if settings["importance"] == "l2":
        return {name: item.detach().square() for name, item in weights.items()}
    score = taylor if settings["importance"] == "taylor" else fisher
    return score(module, weights, int(settings["samples"]), context)


def _inputs(module: nn.Module, taker: str) -> list[str]:
    """The names of the matrices that multiply what the layer takes."""
    from torch import nn

    layer = module.get_submodule(taker)
    names = ["weight"] if isinstance(layer, nn.Linear) else [
        f"weight_ih_{end}" for end in ends(layer_called(module, taker))[: directions(layer_called(module, taker))]
    ]
    return [f"{taker}.{own}" for own in names]


def _hidden(module: nn.Module) -> int:
    return sum(layer.hidden_size * len(ends(layer)) for layer in recurrent(module).values())
