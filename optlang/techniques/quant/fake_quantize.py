"""Rounds weights and activations in a module's forward as an int8 file will; the gradient goes straight through.

It knows a scheme (`QuantWants`) and layers, and no graph, no training and no runtime. torch's and torchao's own fake
quantizers do not export to ONNX, or export as pairs that ONNX Runtime does not fuse.

Source: Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference
(CVPR 2018); the scale of a folded batch normalization as in Krishnamoorthi, Quantizing deep convolutional networks for
efficient inference (2018), with the running statistics throughout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from optlang.interfaces import QuantWants

# A batch moves a running range by this share (Jacob et al. smooth over many steps; this is torch's own default).
_MOVE = 0.01


@dataclass(frozen=True, slots=True)
class Scheme:
    """The integers of one kind of tensor: "uint8" or "int8", with a fixed zero point, with a bit left unused."""

    kind: str
    symmetric: bool
    reduced: bool = False


def levels(scheme: Scheme) -> tuple[int, int]:
    """The least and the greatest integer, as ONNX Runtime has them; symmetric int8 leaves -128 out."""
    if scheme.reduced:
        return (0, 127) if scheme.kind == "uint8" else (-64, 64)
    if scheme.kind == "uint8":
        return 0, 255
    return (-127 if scheme.symmetric else -128), 127


def grid(low: Tensor, high: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor]:
    """Scale and zero point of ranges (tensors of one shape), by ONNX Runtime's formula; zero is always a level."""
    least, most = levels(scheme)
    low, high = low.double().clamp(max=0), high.double().clamp(min=0)
    if scheme.symmetric:
        high = torch.maximum(-low, high)
        low = -high
    scale = (high - low) / (most - least)
    tiny = scale < torch.finfo(torch.float32).tiny
    scale = torch.where(tiny, 1.0, scale)
    zero = torch.full_like(scale, round((least + most) / 2)) if scheme.symmetric else torch.round(least - low / scale)
    return scale.float(), torch.where(tiny, 0.0, zero).float()


def rounded(values: Tensor, scale: Tensor, zero: Tensor, scheme: Scheme) -> Tensor:
    """`values` on their grid. The gradient is 1 inside the range and 0 outside."""
    least, most = levels(scheme)
    inside = torch.minimum(torch.maximum(values, (least - zero) * scale), (most - zero) * scale)
    with torch.no_grad():
        exact = (torch.clamp(torch.round(values / scale) + zero, least, most) - zero) * scale
    return inside + (exact - inside).detach()


class Weight(nn.Module):
    """A parametrization: a layer's weight, rounded as it will be once the norm behind the layer is folded into it.

    Output channels lie on `axis`. Where there is a `norm`, the weight is multiplied by its
    gamma / sigma of the running variance, rounded, and divided again.
    """

    def __init__(self, wants: QuantWants, axis: int, norm: nn.Module | None) -> None:
        super().__init__()
        self._scheme = Scheme(wants.weights, wants.symmetric_weights, wants.reduced)
        self._per_channel, self._axis = wants.per_channel, axis
        self._norm = (norm,)  # in a tuple, so that the norm does not become a child of the layer

    def forward(self, weight: Tensor) -> Tensor:
        factor = self._factor(weight)
        folded = weight if factor is None else weight * factor
        others = [axis for axis in range(weight.ndim) if axis != self._axis] if self._per_channel else None
        with torch.no_grad():
            low = folded.amin(others, keepdim=True) if others else folded.amin()
            high = folded.amax(others, keepdim=True) if others else folded.amax()
            scale, zero = grid(low, high, self._scheme)
        result = rounded(folded, scale, zero, self._scheme)
        return result if factor is None else result / factor

    def _factor(self, weight: Tensor) -> Tensor | None:
        norm = self._norm[0]
        if norm is None:
            return None
        assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
        assert norm.running_var is not None
        factor = torch.rsqrt(norm.running_var + norm.eps)
        if norm.weight is not None:
            factor = factor * norm.weight
        # A channel that the norm switches off has nothing to round, and must not become 0 / 0.
        factor = torch.where(factor == 0, 1.0, factor)
        return factor.reshape([-1 if axis == self._axis else 1 for axis in range(weight.ndim)])


class Input:
    """A forward pre-hook: rounds a layer's first input on a range that follows the data until it is frozen."""

    def __init__(self, wants: QuantWants, low: float, high: float, moving: bool) -> None:
        self._scheme = Scheme(wants.activations, wants.symmetric_activations)
        self.low, self.high, self.moving = low, high, moving

    def state(self) -> dict[str, float | bool]:
        """The range, and whether it is frozen."""
        return {"low": self.low, "high": self.high, "moving": self.moving}

    def go_on(self, state: Mapping[str, Any]) -> None:
        """Go on with a range that `state` gave."""
        self.low, self.high, self.moving = state["low"], state["high"], state["moving"]

    def __call__(self, module: nn.Module, values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        first, *rest = values
        if self.moving and module.training:
            least, most = torch.aminmax(first.detach())
            self.low += _MOVE * (float(least) - self.low)
            self.high += _MOVE * (float(most) - self.high)
        low, high = torch.tensor([self.low, self.high], device=first.device)
        scale, zero = grid(low, high, self._scheme)
        return (rounded(first.float(), scale, zero, self._scheme).to(first.dtype), *rest)
