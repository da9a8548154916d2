"""Weights that a model computes from other tensors: finds them, and makes plain parameters of them.

It knows torch's parametrizations (weight_norm, spectral_norm, orthogonal, a user's own) and the older hooks of
torch.nn.utils (weight_norm, spectral_norm, prune), no technique and no state.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook
from torch.nn.utils.weight_norm import WeightNorm

from optlang.interfaces import OptlangError, Refusal
from optlang.workload.model.call import in_mode

MASK = "mask"
"""How `parametrized` calls the zeros of torch.nn.utils.prune."""

_INSIDE = ".parametrizations."
# What the kinds of torch are called by the functions that users write.
_CALLED = {"_WeightNorm": "weight_norm", "_SpectralNorm": "spectral_norm", "_Orthogonal": "orthogonal", "Masked": MASK}
# The two forms calculate the same in another order.
_TOLERANCE = 1e-5


class Masked(nn.Module):
    """A parametrization: a weight times a mask of zeros and ones, as torch.nn.utils.prune has it."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask: Tensor
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        """The masked weight."""
        return weight * self.mask

    def right_inverse(self, weight: Tensor) -> Tensor:
        """A weight that gives `weight` where the mask leaves it."""
        return weight


def modernized(module: nn.Module) -> nn.Module:
    """Turn the hooks of torch.nn.utils (weight_norm, spectral_norm, prune) into parametrizations, in place.

    They train and answer as before, but a hook's weight is a tensor in the middle of autograd's graph, which cannot be
    copied. Parameters stay the same objects. Raises `Refusal` with the layer's name where that is not so.
    """
    for name, layer in list(module.named_modules()):
        hooks = [item for item in layer._forward_pre_hooks.values() if _tensor(item)]
        norms = {_tensor(item) for item in hooks if not isinstance(item, prune.BasePruningMethod)}
        for hook in hooks:
            own = _tensor(hook)
            if isinstance(hook, prune.BasePruningMethod) and own.rpartition("_")[0] in norms:
                raise Refusal(
                    f"{name or 'the model'} has a mask on {own}, from which a norm computes its weight",
                    help=f'torch.nn.utils.prune.remove(layer, "{own}") in the factory, or the mask on the plain weight',
                )
        for hook in hooks:
            _modernize(layer, hook, name)
        # torch leaves this one behind when it removes a spectral_norm: every later load of a state would fail.
        for key, loading in list(layer._load_state_dict_pre_hooks.items()):
            if isinstance(getattr(loading, "hook", loading), SpectralNormLoadStateDictPreHook):
                del layer._load_state_dict_pre_hooks[key]
    return module


def _tensor(hook: Any) -> str:
    """The name of the tensor that one of torch's hooks computes; empty for other hooks."""
    if isinstance(hook, prune.BasePruningMethod):
        return str(hook._tensor_name)
    return hook.name if isinstance(hook, WeightNorm | SpectralNorm) else ""


def _modernize(layer: nn.Module, hook: Any, name: str) -> None:
    own, dtype = _tensor(hook), torch.float64
    with in_mode(layer, False):
        with torch.no_grad():
            before = _computed(layer, hook).to(dtype)
        if isinstance(hook, WeightNorm):
            g, v = layer._parameters[f"{own}_g"], layer._parameters[f"{own}_v"]
            remove_weight_norm(layer, own)
            parametrizations.weight_norm(layer, own, hook.dim)
            made: Any = _list(layer, own)
            made.original0, made.original1 = g, v
        elif isinstance(hook, SpectralNorm):
            original = layer._parameters[f"{own}_orig"]
            u, w = (getattr(layer, f"{own}_{item}").clone() for item in "uv")
            remove_spectral_norm(layer, own)
            parametrizations.spectral_norm(layer, own, hook.n_power_iterations, hook.eps, hook.dim)
            made = _list(layer, own)
            made.original = original
            made[0]._u.copy_(u)
            made[0]._v.copy_(w)
        else:
            original, mask = layer._parameters[f"{own}_orig"], getattr(layer, f"{own}_mask").clone()
            assert original is not None
            values = original.detach().clone()
            prune.remove(layer, own)  # type: ignore[no-untyped-call]
            with torch.no_grad():
                original.copy_(values)
            parametrize.register_parametrization(layer, own, Masked(mask), unsafe=True)
            _list(layer, own).original = original
        with torch.no_grad():
            after = getattr(layer, own).to(dtype)
    if not torch.allclose(before, after, rtol=_TOLERANCE, atol=_TOLERANCE * float(before.abs().max())):
        raise Refusal(
            f"{name or 'the model'} computes its {own} by a hook, and as a parametrization it would be another",
            help="torch.nn.utils.parametrizations has the same norms without hooks",
        )


def _computed(layer: nn.Module, hook: Any) -> Tensor:
    """What a hook makes of its layer's tensors, as in eval mode."""
    found: Tensor
    if isinstance(hook, WeightNorm):
        found = hook.compute_weight(layer)
    elif isinstance(hook, SpectralNorm):
        found = hook.compute_weight(layer, do_power_iteration=False)
    else:
        found = hook.apply_mask(layer)
    return found.detach().clone()


def _list(layer: nn.Module, own: str) -> Any:
    """The parametrizations of one tensor of a layer."""
    return layer.parametrizations[own]  # type: ignore[index]


def parametrized(module: nn.Module) -> dict[str, str]:
    """The tensors of `module` that are computed, by name ("a.weight"), and by what ("weight_norm", "mask", a class)."""
    found: dict[str, str] = {}
    for name, layer in module.named_modules():
        if not parametrize.is_parametrized(layer) or _INSIDE in f".{name}.":
            continue
        for own, items in layer.parametrizations.items():
            kinds = [_CALLED.get(type(item).__name__, type(item).__name__) for item in items]
            found[f"{name}.{own}" if name else own] = " and ".join(kinds)
    return found


def undecayed(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that weight decay would break: torch's orthogonal takes ones on a diagonal for whole numbers."""
    return [
        item for layer in module.modules() if isinstance(layer, parametrize.ParametrizationList)
        and any(type(made).__name__ == "_Orthogonal" for made in layer) for item in layer.parameters()
    ]


def plain_copy(module: nn.Module) -> nn.Module:
    """`module` where it computes no weight, else a copy whose weights are what it computes in eval mode."""
    names = parametrized(module)
    return bake(copy.deepcopy(module), names) if names else module


def bake(module: nn.Module, names: Iterable[str]) -> nn.Module:
    """Make plain parameters of the computed tensors `names`, with what they are in eval mode; in place.

    All computed tensors of a layer together.
    """
    for holder in dict.fromkeys(name.rpartition(".")[0] for name in names):
        layer = module.get_submodule(holder)
        made: dict[str, Tensor] = {}
        for own, items in layer.parametrizations.items():  # type: ignore[union-attr,operator]
            parameters = list(items.parameters())
            value = value_of(layer, own)
            learns = any(item.requires_grad for item in parameters)
            made[own] = nn.Parameter(value, requires_grad=learns) if parameters else value
        # Not by torch's own function: it takes the tensor off the class, which copies of the layer share, and writes
        # the value into the original, which other layers may share.
        del layer.parametrizations
        layer.__class__ = type(layer).__bases__[0]
        for own, value in made.items():
            if isinstance(value, nn.Parameter):
                setattr(layer, own, value)
            else:
                layer.register_buffer(own, value)
    return module


def value_of(layer: nn.Module, own: str) -> Tensor:
    """The computed tensor `own` of `layer` as it is in eval mode, and no part of any graph."""
    with in_mode(layer, False), torch.no_grad():
        value: Tensor = getattr(layer, own).detach().clone()
    return value


def replay(module: nn.Module, arguments: Mapping[str, Any], example: Mapping[str, Tensor]) -> nn.Module:
    """Make plain parameters of the same tensors of `module`, a fresh model."""
    names = list(arguments["names"])
    known = parametrized(module)
    lost = [name for name in names if name not in known]
    if lost:
        raise OptlangError(
            f"{lost[0]} was computed by a parametrization when the model was changed, and is a plain parameter now"
        )
    return bake(module, names)
