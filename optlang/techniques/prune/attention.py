"""Multi-head attention that is narrower inside than outside: what is left of torch's own when heads are removed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everybody gives it
from torch import Tensor, nn

Attention: TypeAlias = "nn.MultiheadAttention | NarrowAttention"


class NarrowAttention(nn.Module):
    """Multi-head attention (Vaswani et al., NIPS 2017) over `num_heads` heads of any number and width.

    `nn.MultiheadAttention` needs heads that together are as wide as the model. This has the same inputs and outputs,
    in the same layouts, and its outputs are those of the whole layer with the columns of the missing heads in the
    output projection at zero. The attention weights are those of the heads that are left.
    """

    # What torch's encoder layers ask before they run a whole layer in a kernel of their own, which would count on the
    # model's width.
    in_proj_bias = None
    _qkv_same_embed_dim = False

    def __init__(
        self, q_proj: nn.Linear, k_proj: nn.Linear, v_proj: nn.Linear, out_proj: nn.Linear, *, heads: Sequence[int],
        whole: int, dropout: float, batch_first: bool,
    ) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = q_proj, k_proj, v_proj, out_proj
        self.heads = tuple(heads)
        """The numbers of the heads among the `whole` that there were: a mask may have a layer for each of those."""
        self.whole = whole
        self.dropout = dropout
        self.batch_first = batch_first

    @property
    def num_heads(self) -> int:
        """How many heads are left."""
        return len(self.heads)

    @property
    def embed_dim(self) -> int:
        """The width of what is given and what comes back."""
        return self.out_proj.out_features

    def extra_repr(self) -> str:
        """What the layers below do not say."""
        return f"{self.num_heads} of {self.whole} heads, batch_first={self.batch_first}"

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None,
        need_weights: bool = True, attn_mask: Tensor | None = None, average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """See `nn.MultiheadAttention.forward`: (N, L, E) or (L, N, E) by `batch_first`, or (L, E) without a batch."""
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
        batched = query.dim() == 3
        if not batched:
            query, key, value = query.unsqueeze(0), key.unsqueeze(0), value.unsqueeze(0)
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
        q, k, v = self._split(self.q_proj(query)), self._split(self.k_proj(key)), self._split(self.v_proj(value))
        mask = self._mask(attn_mask, key_padding_mask, q)
        dropout = self.dropout if self.training else 0.0
        # Of the layer, not of the tensor: in an exported graph it is a constant then.
        scale = (self.q_proj.out_features // self.num_heads) ** -0.5
        weights = None
        if need_weights:
            scores = q @ k.transpose(2, 3) * scale
            weights = F.dropout(torch.softmax(scores if mask is None else scores + mask, dim=-1), dropout)
            answers = weights @ v
            weights = weights.mean(dim=1) if average_attn_weights else weights
        else:
            answers = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scale)
        output = self.out_proj(answers.transpose(1, 2).flatten(2))
        if not batched:
            return output.squeeze(0), None if weights is None else weights.squeeze(0)
        return output if self.batch_first else output.transpose(0, 1), weights

    def _split(self, projected: Tensor) -> Tensor:
        """(N, L, heads * width) to (N, heads, L, width)."""
        return projected.reshape(*projected.shape[:2], self.num_heads, -1).transpose(1, 2)

    def _mask(self, attention: Tensor | None, padding: Tensor | None, like: Tensor) -> Tensor | None:
        """What is added to the scores, of a shape that spreads to (N, heads, L, S)."""
        found = None
        if attention is not None:
            found = _additive(attention, like)
            if attention.dim() == 3:
                found = found.reshape(-1, self.whole, *found.shape[1:])[:, list(self.heads)]
        if padding is not None:
            padded = _additive(padding, like)[:, None, None, :]
            found = padded if found is None else found + padded
        return found


def narrowed(layer: Attention, heads: Sequence[int]) -> NarrowAttention:
    """A copy of `layer` with these of its heads (counted from 0); what is frozen stays frozen."""
    width = layer.out_proj.in_features // layer.num_heads
    chosen = torch.cat([torch.arange(index * width, (index + 1) * width) for index in heads])
    q, k, v = (
        _linear(_like(weight[chosen], weight), None if bias is None else _like(bias[chosen], bias))
        for weight, bias in projections(layer)
    )
    out = layer.out_proj
    before = layer.heads if isinstance(layer, NarrowAttention) else range(layer.num_heads)
    made = NarrowAttention(
        q, k, v, _linear(_like(out.weight[:, chosen], out.weight), out.bias),
        heads=[before[index] for index in heads],
        whole=layer.whole if isinstance(layer, NarrowAttention) else layer.num_heads,
        dropout=layer.dropout, batch_first=layer.batch_first,
    )
    return made.train(layer.training)


def projections(layer: Attention) -> list[tuple[Tensor, Tensor | None]]:
    """Weight (heads * width, inputs) and bias of the projections to queries, keys and values; biases may be absent."""
    if isinstance(layer, NarrowAttention):
        return [(item.weight, item.bias) for item in (layer.q_proj, layer.k_proj, layer.v_proj)]
    if layer._qkv_same_embed_dim:
        weights = _thirds(layer.in_proj_weight)
    else:
        weights = [layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight]
    biases = [None] * 3 if layer.in_proj_bias is None else _thirds(layer.in_proj_bias)
    return list(zip(weights, biases, strict=True))


def _thirds(whole: Tensor) -> list[Tensor]:
    return [_like(part, whole) for part in whole.chunk(3)]


def _like(part: Tensor, whole: Tensor) -> Tensor:
    """A part that is trained where the whole is."""
    return part.detach().requires_grad_(whole.requires_grad)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    # On no device, so that nothing is drawn for weights that are there already.
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    made.weight = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)
    if bias is not None:
        made.bias = nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
    return made


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    """A mask that is true where nothing is to be seen as one of minus infinities; one of numbers as it is."""
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -math.inf)
