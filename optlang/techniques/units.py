"""Removes hidden units of recurrent layers, and does so again on a fresh model. Knows no training and no runtime."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optlang.forms import JSON, Context, Edit, Refusal, Subject
from optlang.techniques.gradients import fisher, taylor
from optlang.techniques.prune import share_removed
from optlang.techniques.sparse import recounted
from optlang.workload.layers import left_alone

if TYPE_CHECKING:
    from torch import Tensor, nn

_REPLAY = "optlang.techniques.units:replay"
# Keeps 10 * (1 - 0.8) = 1.9999999999999996 from counting as one unit.
_ROUNDING = 1e-9
# Of the gates of a layer, the one that proposes the new state: without it a unit's state stays what it was, zero.
_PROPOSING = {"LSTM": 2, "GRU": 2, "RNN": 0}
_TOLERANCE = 1e-4


def units(subject: Subject, settings: Mapping[str, Any], context: Context) -> Subject:
    """Remove the hidden units that matter least from each `nn.LSTM`, `nn.GRU` and `nn.RNN` of one direction.

    A unit goes with its rows in all gates, its column in the matrix of the state, and its column in what takes the
    layer's answers: the next level, or the linear and recurrent layers behind, which a run on examples finds. All
    levels of a layer keep as many, the nearest multiple of `round_to`. `importance` is the sum over these weights of
    their squares ("l2"), of |weight times gradient| ("taylor": Molchanov et al., CVPR 2019) or of half of both squared
    ("fisher", see `gradients.fisher`), or chance ("random"); removing what is coupled together follows intrinsic sparse
    structures (Wen et al., ICLR 2018). The answers are those of the whole layer with these units' outputs at zero, and
    are compared with them on examples. Notes: `prune.removed_units` and `prune.removed_parameters`, the shares removed
    since the model was made.

    Raises `Refusal` where there is no such layer, where nothing would go, or where something else than linear and
    recurrent layers takes a layer's answers.
    """
    import torch

    from optlang.workload.modules import call
    from optlang.workload.objects import user_code

    if subject.form != "module":
        raise Refusal(f"only a module can lose hidden units, and the model is in the form {subject.form}")
    module: nn.Module = copy.deepcopy(subject.model).eval()
    chosen = _open(module, settings)
    cuts: list[JSON] = []
    example = context.data.bind(module).example(8)
    with torch.no_grad(), user_code("the model's forward", context.study):
        call(module, example)
    for name in chosen:
        count = _left(_layer(module, name).hidden_size, settings)
        if count is None:
            continue
        takers = _takers(module, name, count, example, context)
        kept = _kept(module, name, takers, count, settings, context)
        cut: dict[str, JSON] = {"layer": name, "kept": kept, "takers": takers}
        module = _proved(module, cut, example, context)
        cuts.append(cut)
    if not cuts:
        raise Refusal(
            f"nothing was removed: ratio {settings['ratio']:g} with round_to {settings['round_to']} leaves every layer "
            "as it is",
            help="a larger ratio, or a smaller round_to",
        )
    edit = Edit(_REPLAY, {"cuts": cuts})
    notes = {
        **subject.notes,
        "prune.removed_units": share_removed(subject, "units", _hidden(module) / _hidden(subject.model)),
        "prune.removed_parameters": share_removed(subject, "parameters", _count(module) / _count(subject.model)),
        **recounted(subject.notes, module),
    }
    return Subject("module", module, subject.factory, (*subject.edits, edit), notes)


def replay(module: nn.Module, arguments: Mapping[str, Any], example: Mapping[str, Tensor]) -> nn.Module:
    """Keep the same units of `module`, a fresh model of the shape that it had before."""
    for cut in arguments["cuts"]:
        module = _cut(module, cut["layer"], cut["kept"], cut["takers"])
    return module


def _layer(module: nn.Module, name: str) -> nn.RNNBase:
    from torch import nn

    layer = module.get_submodule(name)
    assert isinstance(layer, nn.RNNBase), name
    return layer


def _own_class(layer: nn.Module) -> bool:
    """Whether the layer is not torch's own, and may do anything with its weights."""
    from torch import nn

    return type(layer) not in (nn.Linear, nn.LSTM, nn.GRU, nn.RNN)


def _recurrent(module: nn.Module) -> dict[str, nn.RNNBase]:
    from torch import nn

    return {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.RNNBase)}


def _open(module: nn.Module, settings: Mapping[str, Any]) -> list[str]:
    """The layers that `keep` and `only` leave open, in the order of the model."""
    found = _recurrent(module)
    if not found:
        raise Refusal(
            "no layer is an nn.LSTM, nn.GRU or nn.RNN, whose hidden units could be removed",
            help="channels removes those of convolutions and linear layers",
        )
    alone = left_alone(settings["keep"], settings["only"], [name for name, _ in module.named_modules()])
    chosen = [name for name in found if name not in alone]
    if not chosen:
        raise Refusal("no recurrent layer is left to prune", help="shorten keep, or widen only")
    for name in chosen:
        layer = found[name]
        why = (
            "reads in both directions" if layer.bidirectional
            else "projects its state (proj_size)" if layer.proj_size
            else "is a class of its own" if _own_class(layer)
            else ""
        )
        if why:
            raise Refusal(
                f"{name or 'the model'} is an {type(layer).__name__} that {why}, which units does not cut",
                help=f'keep = ["{name}"]',
            )
    return chosen


def _left(size: int, settings: Mapping[str, Any]) -> int | None:
    """How many of `size` units stay: the nearest multiple, the smaller of two as near, one at least; None: all."""
    step = int(settings["round_to"])
    share = size * (1 - float(settings["ratio"]))
    count = max(1, math.ceil(share / step - 0.5 - _ROUNDING)) * step
    return count if count < size else None


def _takers(
    module: nn.Module, name: str, count: int, example: Mapping[str, Tensor], context: Context
) -> list[str]:
    """The linear and recurrent layers that take the answers of the layer `name`.

    They are those that get numbers of an unwonted width when the layer is narrow; each is given what is missing as
    zeros, so that the model runs on.
    """
    import torch
    from torch import nn

    size, levels = _layer(module, name).hidden_size, _layer(module, name).num_layers
    narrow = _cut(copy.deepcopy(module), name, [list(range(count))] * levels, [])
    found: list[str] = []

    def filled(taker: str) -> Any:
        def fill(_: nn.Module, given: tuple[Any, ...]) -> Any:
            first = given[0]
            if not isinstance(first, torch.Tensor) or first.shape[-1] != count:
                return None
            found.append(taker)
            return torch.nn.functional.pad(first, (0, size - count)), *given[1:]

        return fill

    for taker, layer in narrow.named_modules():
        width = layer.in_features if isinstance(layer, nn.Linear) else getattr(layer, "input_size", None)
        if taker != name and isinstance(layer, nn.Linear | nn.RNNBase) and width == size:
            layer.register_forward_pre_hook(filled(taker))
    _run(narrow, example, name, context)
    shared = _shared(module)
    for taker in found:
        if _own_class(module.get_submodule(taker)):
            raise Refusal(_elsewhere(name, f"{taker} is a class of its own"), help=f'keep = ["{name}"]')
        if taker in shared:
            raise Refusal(_elsewhere(name, f"{taker} shares its weights with others"), help=f'keep = ["{name}"]')
    return list(dict.fromkeys(found))


def _shared(module: nn.Module) -> set[str]:
    """The layers with a parameter that another layer has too."""
    holders: dict[int, list[str]] = {}
    for name, layer in module.named_modules():
        for item in layer.parameters(recurse=False):
            holders.setdefault(id(item), []).append(name)
    return {name for names in holders.values() if len(names) > 1 for name in names}


def _elsewhere(name: str, why: str) -> str:
    return f"the answers of {name or 'the model'} go where units cannot follow them: {why}"


def _run(module: nn.Module, example: Mapping[str, Tensor], name: str, context: Context) -> dict[str, Tensor]:
    import torch

    from optlang.workload.modules import call

    try:
        with torch.no_grad():
            return call(module, dict(example))
    except Exception as error:
        first = str(error).splitlines()[0] if str(error) else ""
        raise Refusal(
            _elsewhere(name, f"{type(error).__name__}: {first}"), help=f'keep = ["{name}"]'
        ) from error


def _proved(
    module: nn.Module, cut: Mapping[str, Any], example: Mapping[str, Tensor], context: Context
) -> nn.Module:
    """The module with the cut made, whose answers are those of the whole one with these units silent."""
    name = cut["layer"]
    whole = copy.deepcopy(module)
    silence(_layer(whole, name), cut["kept"])
    wanted = _run(whole, example, name, context)
    module = _cut(module, name, cut["kept"], cut["takers"])
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


def silence(layer: nn.RNNBase, kept: Sequence[Sequence[int]]) -> None:
    """Make the outputs and states of all other units zero, in place: what begins at zero and adds nothing stays there.

    Without the gate that proposes the new state an LSTM's cell, a GRU's and a plain layer's state stay zero.
    """
    import torch

    size, gate = layer.hidden_size, _PROPOSING[type(layer).__name__]
    with torch.no_grad():
        for level, chosen in enumerate(kept):
            rows = [gate * size + index for index in range(size) if index not in set(chosen)]
            for own, item in layer.named_parameters():
                if own.endswith(f"_l{level}"):
                    item[rows] = 0.0


def _kept(
    module: nn.Module, name: str, takers: Sequence[str], count: int, settings: Mapping[str, Any], context: Context
) -> list[list[int]]:
    """The units that stay, level by level, in order."""
    import torch

    layer = _layer(module, name)
    levels, size = layer.num_layers, layer.hidden_size
    if settings["importance"] == "random":
        generator = torch.Generator().manual_seed(context.seed)
        scores = [torch.rand(size, generator=generator) for _ in range(levels)]
    else:
        worth = _worth(module, settings, context)
        prefix = f"{name}." if name else ""
        own = {key.removeprefix(prefix): item for key, item in worth.items() if key.startswith(prefix)}
        scores = []
        for level in range(levels):
            inputs, state = own[f"weight_ih_l{level}"], own[f"weight_hh_l{level}"]
            # Rows of all gates; the column through which the unit speaks to the state.
            total = inputs.sum(1).reshape(-1, size).sum(0) + state.sum(1).reshape(-1, size).sum(0) + state.sum(0)
            if level + 1 < levels:
                total = total + own[f"weight_ih_l{level + 1}"].sum(0)
            else:
                total = sum((worth[f"{taker}.{_input(module, taker)}"].sum(0) for taker in takers), total)
            scores.append(total)
    return [sorted(item.topk(count).indices.tolist()) for item in scores]


def _worth(module: nn.Module, settings: Mapping[str, Any], context: Context) -> dict[str, Tensor]:
    """What each single weight is worth."""
    weights = {name: item for name, item in module.named_parameters() if item.ndim > 1}
    if settings["importance"] == "l2":
        return {name: item.detach().square() for name, item in weights.items()}
    score = taylor if settings["importance"] == "taylor" else fisher
    return score(module, weights, int(settings["samples"]), context)


def _input(module: nn.Module, taker: str) -> str:
    from torch import nn

    return "weight" if isinstance(module.get_submodule(taker), nn.Linear) else "weight_ih_l0"


def _cut(module: nn.Module, name: str, kept: Sequence[Sequence[int]], takers: Sequence[str]) -> nn.Module:
    """Replace the layer by a narrower one, and narrow the first matrices of what takes its answers; in place."""
    import torch
    from torch import nn

    layer = _layer(module, name)
    size = layer.hidden_size
    gates = len(layer.get_parameter("weight_hh_l0")) // size
    parts: dict[str, Tensor] = {}
    for level, chosen in enumerate(kept):
        rows = torch.cat([torch.tensor(chosen) + gate * size for gate in range(gates)])
        for own, item in layer.named_parameters():
            if not own.endswith(f"_l{level}"):
                continue
            part = item.detach()[rows]
            if own.startswith("weight_hh"):
                part = part[:, list(chosen)]
            elif own.startswith("weight_ih") and level:
                part = part[:, list(kept[level - 1])]
            parts[own] = part
    module = _put(module, name, _remade(layer, layer.input_size, len(kept[0]), parts))
    for taker in takers:
        old = module.get_submodule(taker)
        if isinstance(old, nn.Linear):
            weight = old.weight.detach()[:, list(kept[-1])].clone()
            old.weight = nn.Parameter(weight, requires_grad=old.weight.requires_grad)
            old.in_features = weight.shape[1]
        else:
            again = _layer(module, taker)
            parts = {own: item.detach() for own, item in again.named_parameters()}
            parts["weight_ih_l0"] = parts["weight_ih_l0"][:, list(kept[-1])]
            module = _put(module, taker, _remade(again, len(kept[-1]), again.hidden_size, parts))
    return module


def _remade(layer: nn.RNNBase, inputs: int, hidden: int, parts: Mapping[str, Tensor]) -> nn.RNNBase:
    """A layer of the same kind with these weights."""
    import torch
    from torch import nn

    kind: Any = type(layer)
    about = {"nonlinearity": layer.nonlinearity} if isinstance(layer, nn.RNN) else {}
    with torch.random.fork_rng(devices=[]):  # what is drawn for it is written over
        made: nn.RNNBase = kind(
            inputs, hidden, layer.num_layers, bias=layer.bias, batch_first=layer.batch_first, dropout=layer.dropout,
            **about,
        )
    first = next(layer.parameters())
    made = made.to(first.device, first.dtype).train(layer.training)
    made.load_state_dict(dict(parts))
    for (_, item), (_, old) in zip(made.named_parameters(), layer.named_parameters(), strict=True):
        item.requires_grad_(old.requires_grad)
    return made


def _put(module: nn.Module, name: str, layer: nn.Module) -> nn.Module:
    """The module with `layer` in the place of the one called `name`, and wherever else that one is used."""
    if not name:
        return layer
    old = module.get_submodule(name)
    for holder in list(module.modules()):
        for own, child in list(holder.named_children()):
            if child is old:
                setattr(holder, own, layer)
    return module


def _hidden(module: nn.Module) -> int:
    return sum(layer.hidden_size * layer.num_layers for layer in _recurrent(module).values())


def _count(module: nn.Module) -> int:
    return sum(item.numel() for item in module.parameters())
