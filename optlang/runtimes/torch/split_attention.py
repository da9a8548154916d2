"""nn.MultiheadAttention as four linear layers and torch's own attention between them, so that each can become int8.

The layer itself multiplies by weights that it hands to a function, past the layers that hold them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def splits(layer: nn.Module) -> bool:
    """Whether `SplitAttention` answers as this attention does: it has torch's own forward, and no added keys."""
    return (
        isinstance(layer, nn.MultiheadAttention) and type(layer).forward is nn.MultiheadAttention.forward
        and layer.bias_k is None and not layer.add_zero_attn
    )


class SplitAttention(nn.Module):
    """Takes and returns what nn.MultiheadAttention does, of inputs in batches; see its documentation for the shapes."""

    def __init__(self, old: nn.MultiheadAttention) -> None:
        super().__init__()
        self.embed_dim, self.num_heads, self.head_dim = old.embed_dim, old.num_heads, old.head_dim
        self.kdim, self.vdim, self.batch_first, self.dropout = old.kdim, old.vdim, old.batch_first, old.dropout
        # Encoder layers ask for these before they choose a kernel of their own.
        self._qkv_same_embed_dim, self.in_proj_weight, self.in_proj_bias = False, None, None
        with torch.no_grad():
            self.query, self.key, self.value = _projections(old)
            self.out_proj = nn.Linear(old.embed_dim, old.embed_dim, bias=old.out_proj.bias is not None)
            self.out_proj.load_state_dict(old.out_proj.state_dict())
        self.eval()

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None,
        need_weights: bool = True, attn_mask: Tensor | None = None, average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As nn.MultiheadAttention.forward in eval mode."""
        queries = self._heads(self.query(query))
        keys, values = self._heads(self.key(key)), self._heads(self.value(value))
        mask = self._mask(queries.dtype, key_padding_mask, attn_mask)
        weights: Tensor | None = None
        if need_weights:
            scores = queries @ keys.transpose(-2, -1) / self.head_dim**0.5
            shares = torch.softmax(scores if mask is None else scores + mask, dim=-1)
            answer = shares @ values
            weights = shares.mean(dim=1) if average_attn_weights else shares
        else:
            answer = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        answer = self.out_proj(answer.transpose(1, 2).flatten(2))
        return answer if self.batch_first else answer.transpose(0, 1), weights

    def _heads(self, value: Tensor) -> Tensor:
        """Samples × heads × positions × features of a head."""
        value = value if self.batch_first else value.transpose(0, 1)
        return value.reshape(*value.shape[:2], self.num_heads, -1).transpose(1, 2)

    def _mask(self, dtype: torch.dtype, padding: Tensor | None, mask: Tensor | None) -> Tensor | None:
        """What is added to the scores, of four axes; true in a mask of booleans is a place that is not attended to."""
        parts = []
        if mask is not None:
            mask = _added(mask, dtype)
            parts.append(mask.reshape(-1, self.num_heads, *mask.shape[1:]) if mask.ndim == 3 else mask)
        if padding is not None:
            parts.append(_added(padding, dtype)[:, None, None, :])
        return sum(parts[1:], parts[0]) if parts else None


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype is not torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, float("-inf"))


def _projections(old: nn.MultiheadAttention) -> list[nn.Linear]:
    whole: Any = old.in_proj_weight
    parts = whole.chunk(3) if whole is not None else (old.q_proj_weight, old.k_proj_weight, old.v_proj_weight)
    biases = [None] * 3 if old.in_proj_bias is None else old.in_proj_bias.chunk(3)
    layers = []
    for weight, bias in zip(parts, biases, strict=True):
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
        layers.append(layer)
    return layers
