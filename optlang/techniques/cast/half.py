"""Casts a module's weights and arithmetic to 16 bits, some layers left in float32."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optlang.interfaces import Context, Edit, ModelState, Refusal
from optlang.techniques.shared.parametrizations import as_module, with_edit
from optlang.workload.failures import FAILURES, exhausted
from optlang.workload.model import quantized_share
from optlang.workload.model.layers import left_alone

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

_REPLAY = "optlang.techniques.cast.half:replay"


def half(state: ModelState, settings: Mapping[str, Any], context: Context) -> ModelState:
    """Weights and arithmetic in `dtype` (float16 or bfloat16); inputs and outputs stay float32.

    With `sensitive` what loses most by rounding stays in float32, as in the lists of torch.amp: norms, softmax layers
    and the last layer with weights (not one that shares its weight with another). So do the layers that `keep` names,
    and where `only` names some, all others. Parameters are frozen: 16 bits lose the small steps of a training
    (Micikevicius et al., Mixed Precision Training, ICLR 2018). Notes: `cast.share`, the share of the parameters in 16
    bits. Raises `Refusal` where no layer is left to cast, where most of the weights would stay in float32 (unless
    `only` names the layers), or where an answer is not finite, with the layer's name.
    """
    import torch

    from optlang.workload import imports
    from optlang.workload.export import tracing
    from optlang.workload.model.call import call

    state = as_module(state, "be cast", context)
    if is_half(state.model):
        raise Refusal("the model is in 16 bits already", help="cast once")
    dtype = str(settings["dtype"])
    example = context.data.bind(state.model).example(2)
    module = copy.deepcopy(state.model).eval()
    with imports.at_home(context.study):
        with (
            torch.no_grad(), tracing.plain_attention(), imports.user_code("the model's forward", context.study)
        ):
            wanted = call(module, example)
            last = _last(module, example) if settings["sensitive"] else ""
        kept = _kept(module, settings, last)
        replay(module, {"dtype": dtype, "float32": kept, "last": last}, {})
        total = sum(item.numel() for item in module.parameters())
        cast = sum(item.numel() for item in module.parameters() if item.dtype == getattr(torch, dtype))
        if not cast:
            raise Refusal(
                f"no layer is left to cast to {dtype}: all that have parameters stay in float32",
                help="sensitive = false casts norms and the last layer too; shorten `keep`, or name more in `only`",
            )
        _refuse_little(module, settings, dtype)
        _prove(module, example, wanted, dtype)
    edit = Edit(_REPLAY, {"dtype": dtype, "float32": kept, "last": last})
    return with_edit(state, module, edit, {"cast.share": cast / total})


def _refuse_little(module: nn.Module, settings: Mapping[str, Any], dtype: str) -> None:
    """Raise `Refusal` where most of the weights that `keep` does not name stayed in float32."""
    import torch

    alone = left_alone(settings["keep"], settings["only"], [name for name, _ in module.named_modules()])
    asked: dict[int, quantized_share.Weight] = {}
    for name, layer in module.named_modules():
        for own, item in layer.named_parameters(recurse=False):
            if item.ndim > 1 and name not in alone:
                done = item.dtype == getattr(torch, dtype)
                weight = quantized_share.Weight(name or own, type(layer).__name__, item.numel(), done)
                asked.setdefault(id(item), weight)
    if asked:
        more = "sensitive = false casts norms and the last layer too; or " if settings["sensitive"] else ""
        quantized_share.mostly(
            list(asked.values()), dtype, f"{more}name in `only` what is all that you want", named=bool(settings["only"])
        )


def replay(module: nn.Module, arguments: Mapping[str, Any], example: Mapping[str, Tensor]) -> nn.Module:
    """Cast `module` in place: all but the layers named in `float32`, which get casts of their inputs and outputs."""
    import torch
    from torch import nn

    dtype = getattr(torch, arguments["dtype"])
    kept = set(arguments["float32"])
    for name, layer in module.named_modules():
        own = torch.float32 if name in kept else dtype
        for parameter in layer.parameters(recurse=False):
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(own)  # in place, so that shared weights stay shared
        for key, buffer in layer.named_buffers(recurse=False):
            if buffer.is_floating_point():
                layer._buffers[key] = buffer.to(own)
        # Plain attributes: constants, and what a layer has kept of an earlier call.
        for key, value in list(vars(layer).items()):
            if not key.startswith("_") and _in_float32(value):
                setattr(layer, key, _cast(value, own))
        if isinstance(layer, nn.TransformerEncoder):
            # Layers with hooks do not take the nested tensors that it makes of padded samples.
            layer.use_nested_tensor = False
        # Between layers a forward may come to float32 by itself (a constant, a mask): each takes what it can use.
        stated = any(True for _ in layer.parameters(recurse=False)) or any(True for _ in layer.buffers(recurse=False))
        if stated or name in kept or layer is module:
            layer.register_forward_pre_hook(_Inputs(own), with_kwargs=True)
        if layer is not module and name in kept and name != arguments["last"]:
            layer.register_forward_hook(_Outputs(dtype))
    module.register_forward_hook(_Outputs(torch.float32))
    return module.requires_grad_(False)


def is_half(module: nn.Module) -> bool:
    """Whether any parameter is in 16 bits."""
    import torch

    return any(item.dtype in (torch.float16, torch.bfloat16) for item in module.parameters())


class _Inputs:
    """Casts what a layer is given."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __call__(self, _: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
        return tuple(_cast(item, self.dtype) for item in given), {
            name: _cast(item, self.dtype) for name, item in named.items()
        }


class _Outputs:
    """Casts what a layer gives."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __call__(self, _: nn.Module, given: Any, answer: Any) -> Any:
        return _cast(answer, self.dtype)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    from torch import Tensor

    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, tuple):
        items = [_cast(item, dtype) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, list):
        return [_cast(item, dtype) for item in value]
    if isinstance(value, Mapping):
        changed: Any = copy.copy(value)
        for key, item in value.items():
            changed[key] = _cast(item, dtype)
        return changed
    return value


def _in_float32(value: Any) -> bool:
    """Whether it is a tensor in float32, or a dictionary, list or tuple with one."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.dtype is torch.float32
    if isinstance(value, Mapping):
        return any(_in_float32(item) for item in value.values())
    return isinstance(value, list | tuple) and any(_in_float32(item) for item in value)


def _kept(module: nn.Module, settings: Mapping[str, Any], last: str) -> list[str]:
    """The names of the layers that stay in float32, in the model's order."""
    from torch import nn

    names = [name for name, _ in module.named_modules()]
    kept = left_alone(settings["keep"], settings["only"], names)
    if settings["sensitive"]:
        norms = (
            nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm, nn.Softmax,
            nn.Softmax2d, nn.LogSoftmax,
        )
        kept |= {name for name, layer in module.named_modules() if name and isinstance(layer, norms)}
        kept |= {last} - {""}
    # One tensor has one type: who shares a weight with a kept layer is kept.
    owners: dict[int, set[str]] = {}
    for name, layer in module.named_modules():
        for parameter in layer.parameters(recurse=False):
            owners.setdefault(id(parameter), set()).add(name)
    for sharing in owners.values():
        if sharing & kept:
            kept |= sharing
    return [name for name in names if name in kept]


def _last(module: nn.Module, example: Mapping[str, Tensor]) -> str:
    """The layer with a matrix of its own that is called last; "" where it shares that with another layer."""
    from optlang.workload.model.call import call

    called: list[str] = []
    hooks = [
        layer.register_forward_hook(lambda *_, name=name: called.append(name))
        for name, layer in module.named_modules()
        if any(item.ndim > 1 for item in layer.parameters(recurse=False)) and not any(True for _ in layer.children())
    ]
    try:
        call(module, example)
    finally:
        for hook in hooks:
            hook.remove()
    if not called:
        return ""
    own = {id(item) for item in module.get_submodule(called[-1]).parameters()}
    shared = any(
        id(item) in own for name, layer in module.named_modules() if name != called[-1]
        for item in layer.parameters(recurse=False)
    )
    return "" if shared else called[-1]


def _prove(module: nn.Module, example: Mapping[str, Tensor], wanted: Mapping[str, Tensor], dtype: str) -> None:
    """Run the cast module; raise `Refusal` with the layer where it fails, or where numbers become infinite."""
    import torch

    from optlang.workload.model.call import call

    path: list[str] = []
    broken: list[str] = []

    def before(name: str) -> Any:
        return lambda *_: path.append(name)

    def after(name: str) -> Any:
        def look(_: nn.Module, given: Any, answer: Any) -> None:
            path.pop()
            if not broken and _infinite(answer) and not _infinite(given):
                broken.append(name)

        return look

    hooks = []
    for name, layer in module.named_modules():
        hooks += [layer.register_forward_pre_hook(before(name)), layer.register_forward_hook(after(name))]
    try:
        with torch.no_grad():
            found = call(module, example)
    except FAILURES as error:
        if exhausted(error):
            raise
        where = next((f"layer {name}" for name in reversed(path) if name), "the model's own forward")
        first = (str(error).splitlines() or [""])[0]
        raise Refusal(
            f"{where} does not run in {dtype}: {first}", help="keep it, and what it hands on to, in float32"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    for name, item in found.items():
        if _infinite(item) and not _infinite(wanted[name]):
            where = f"layer {broken[0]}" if broken and broken[0] else "the model's own forward"
            raise Refusal(
                f"the answer {name} is not finite in {dtype}: {where} leaves its range",
                help="bfloat16 has the range of float32; or keep it, and what it hands on to, in float32",
            )


def _infinite(value: Any) -> bool:
    import torch

    if isinstance(value, torch.Tensor):
        return value.is_floating_point() and not bool(torch.isfinite(value).all())
    if isinstance(value, Mapping):
        return any(_infinite(item) for item in value.values())
    return isinstance(value, Sequence) and not isinstance(value, str) and any(_infinite(item) for item in value)
