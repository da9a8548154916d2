"""Puts images and the weights of convolutions into the memory order of torch.channels_last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from optlang.interfaces import Context, Edit, ModelState, Refusal
from optlang.techniques.graph.rewrite import runnable_copy
from optlang.techniques.shared.parametrizations import with_edit

if TYPE_CHECKING:
    from torch import Tensor, nn

_REPLAY = "optlang.techniques.graph.channels_last:replay"


def channels_last(state: ModelState, settings: Mapping[str, Any], context: Context) -> ModelState:
    """Images and the weights of convolutions in memory by pixel, not by channel (torch.channels_last).

    The numbers are the same; which order is faster is the processor's to say, and only eager has an order. Raises
    `Refusal` where no layer is a two-dimensional convolution, or it is done already.
    """
    from torch import nn

    state, module, _ = runnable_copy(state, context, "laid out")
    if not any(isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) for layer in module.modules()):
        raise Refusal(
            "no layer is a two-dimensional convolution: the others have no order of channels and pixels",
            depends="model",
        )
    if any(edit.calls == _REPLAY for edit in state.edits):
        raise Refusal("the model is in channels_last already")
    replay(module, {}, {})
    return with_edit(state, module, Edit(_REPLAY, {}), {})


def replay(module: nn.Module, arguments: Mapping[str, Any], example: Mapping[str, Tensor]) -> nn.Module:
    """Lay the weights of `module` out in the same way, and each image that it is given."""
    import torch
    from torch import nn

    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    module.register_forward_pre_hook(_by_pixel, with_kwargs=True)
    return module


def _by_pixel(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
    import torch

    def laid(value: Any) -> Any:
        image = isinstance(value, torch.Tensor) and value.ndim == 4 and value.is_floating_point()
        return value.contiguous(memory_format=torch.channels_last) if image else value

    return tuple(laid(item) for item in given), {name: laid(item) for name, item in named.items()}
