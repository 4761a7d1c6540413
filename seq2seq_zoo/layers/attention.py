"""Attention for four families: who looks at whom, and what is brought back.

          x [B, L, D]                 memory [B, S, D'] (x itself, in self-attention)
              │                           │              │
            query                        key           value
              │ turned                    │ turned       │        by rotary positions
              │ [B, H, L, E]              │ [B, G, S, E] │        a prefix prompt puts P columns in front,
              └────── scores ─────────────┘              │        decoding state those of earlier steps
                        │ + bias, where mask             │
                     softmax ─────── mix ────────────────┘
                                      │ [B, L, H · E]
                                    output → [B, L, D]

The arithmetic stands here twice. `attend_readably` is the formula; `attend` hands the same to PyTorch's fused
kernel and is what runs where nobody asks for the weights. Both are tested to agree.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .positions import RelativeDistances
from .prefix import Prefix
from .rotary import Rotation
from .state import GrowingKeyValues, SourceKeyValues, with_prefix


def attend_readably(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    dropout: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """softmax(scale · Q Kᵀ + bias) V, with masked scores at -∞  (Vaswani et al. 2017, arXiv:1706.03762,
    equation 1).

    query [B, H, L, E], key and value [B, G, S, E], mask bool and bias broadcast to [B, H, L, S]
    → mixed values [B, H, L, E] and weights [B, H, L, S] (before dropout). Half-precision scores are computed
    in float32. Key-value head g serves the query heads g · H / G … (g + 1) · H / G - 1.
    """
    key, value = for_heads(key, query.shape[1]), for_heads(value, query.shape[1])
    half = query.dtype in (torch.float16, torch.bfloat16)
    wide_query, wide_key = (query.float(), key.float()) if half else (query, key)
    scores = scale * (wide_query @ wide_key.transpose(-1, -2))  # [B, H, L, E] · [B, H, E, S] → [B, H, L, S]
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = torch.softmax(scores, dim=-1).to(value.dtype)
    return F.dropout(weights, dropout) @ value, weights


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """The mixed values of `attend_readably`, by the fused kernel."""
    if bias is not None:
        bias = bias.to(query.dtype)
        mask = bias if mask is None else bias.masked_fill(~mask, float("-inf"))
    grouped = query.shape[1] != key.shape[1]
    if grouped and query.shape[2] > 1 and query.device.type != "cpu":
        # The kernels of an accelerator that take a mask share no keys. A copy is small beside the scores.
        key, value, grouped = for_heads(key, query.shape[1]), for_heads(value, query.shape[1]), False
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        scale=scale,
        enable_gqa=grouped,  # shares the keys among the heads, without copies
    )


def for_heads(x: Tensor, heads: int) -> Tensor:
    """Keys or values of G heads, each repeated for the query heads it serves: [B, G, S, E] → [B, H, S, E]."""
    shared = heads // x.shape[1]
    return x if shared == 1 else x.repeat_interleave(shared, dim=1)


class Attention(nn.Module):
    """Multi-head attention with any geometry.

    head_h = softmax(scale · q_h k_gᵀ + bias) v_g,   y = output([head_1 … head_H])
    (Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2; H / G query heads share a key-value head g as in
    Ainslie et al. 2023, arXiv:2305.13245)

    x [B, L, D] → y [B, L, D] and, if asked for, weights [B, H, L, P + S].

    width              D, of x and of y
    heads, head_dim    H and E; H · E need not be D
    key_value_heads    G, a divisor of H; by default H
    memory_width       the width of what keys and values are made from; by default D
    scale              by default 1 / √E
    bias               whether query, key and value have biases; `output_bias`, by default the same, whether
                       output has one
    distances          what a self-attention without prefix prompts adds for the distance of query and key
    dropout            of the weights
    """

    def __init__(
        self,
        width: int,
        heads: int,
        head_dim: int,
        *,
        key_value_heads: int | None = None,
        memory_width: int | None = None,
        scale: float | None = None,
        bias: bool = True,
        output_bias: bool | None = None,
        distances: RelativeDistances | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.key_value_heads = heads if key_value_heads is None else key_value_heads
        if heads % self.key_value_heads:
            raise ValueError(
                f"key_value_heads is {self.key_value_heads}; it must divide the number of heads, {heads}"
            )
        self.scale = head_dim**-0.5 if scale is None else scale
        self.dropout = dropout
        memory_width = width if memory_width is None else memory_width
        self.query = nn.Linear(width, heads * head_dim, bias=bias)
        self.key = nn.Linear(memory_width, self.key_value_heads * head_dim, bias=bias)
        self.value = nn.Linear(memory_width, self.key_value_heads * head_dim, bias=bias)
        self.output = nn.Linear(heads * head_dim, width, bias=bias if output_bias is None else output_bias)
        self.distances = distances

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        rotation: Rotation | None = None,
        head_mask: Tensor | None = None,
        prefix: Prefix | None = None,
        state: GrowingKeyValues | SourceKeyValues | None = None,
        need_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from x to `memory`, or to x itself.

        mask bool [B or 1, 1, L or 1, P + S] and bias [B or 1, H, L or 1, P + S] broadcast over the scores.
        `rotation` turns queries and keys, in self-attention. `state` brings the keys and values of earlier
        steps and keeps the new ones. Where memory (or its state) has fewer rows than x, each of its rows
        serves as many consecutive rows of x, and so does each row of mask and bias. `head_mask` [H] scales
        what each head has mixed, and its weights: 0 takes the head out.
        """
        if isinstance(state, SourceKeyValues) and state.held is not None:
            query = self._heads(self.query(x), self.heads)  # [B, L, D] → [B, H, L, E]
            key, value = state.held
        else:
            query, key, value = (
                self._project(x) if memory is None else (self.query(x), self.key(memory), self.value(memory))
            )
            query = self._heads(query, self.heads)
            key = self._heads(key, self.key_value_heads)  # [B, S, G · E] → [B, G, S, E]
            value = self._heads(value, self.key_value_heads)
            if rotation is not None:
                query, key = rotation.turn(query), rotation.turn(key)
            if isinstance(state, SourceKeyValues):
                key, value = state.fill(key, value, prefix)
            elif state is not None:
                key, value = state.append(key, value, prefix)
            else:
                key, value = with_prefix(key, value, prefix)
        mixed, weights = self._attend(query, key, value, mask, bias, need_weights)
        if head_mask is not None:
            factor = head_mask.to(mixed.dtype)[:, None, None]
            mixed, weights = mixed * factor, None if weights is None else weights * factor
        return self.output(
            mixed.transpose(1, 2).flatten(2)
        ), weights  # [B, H, L, E] → [B, L, H · E] → [B, L, D]

    def _project(self, x: Tensor) -> tuple[Tensor, ...]:
        """Query, key and value of x itself: [B, L, D] → [B, L, H · E] and, twice, [B, L, G · E]."""
        return self.query(x), self.key(x), self.value(x)

    def _heads(self, x: Tensor, heads: int) -> Tensor:
        """[B, L, heads · E] → [B, heads, L, E]"""
        return x.view(*x.shape[:-1], heads, self.head_dim).transpose(1, 2)

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        bias: Tensor | None,
        need_weights: bool,
    ) -> tuple[Tensor, Tensor | None]:
        if self.distances is not None:
            by_distance = self.scale * self.distances(query, for_heads(key, self.heads))
            bias = by_distance if bias is None else bias + by_distance
        rows, sources, length = query.shape[0], key.shape[0], query.shape[2]
        beams = rows // sources
        if rows != sources:
            # The rows of one source stand as more queries of one row: [sources · K, H, L, E] → [sources, H, K
            # · L, E].
            query = query.view(sources, beams, *query.shape[1:]).transpose(1, 2).flatten(2, 3)
            if mask is not None and mask.shape[-2] != 1:
                mask = mask.repeat(1, 1, beams, 1)
            if bias is not None and bias.shape[-2] != 1:
                bias = bias.repeat(1, 1, beams, 1)
        dropout = self.dropout if self.training else 0.0
        weights: Tensor | None = None
        if need_weights:
            mixed, weights = attend_readably(
                query, key, value, scale=self.scale, mask=mask, bias=bias, dropout=dropout
            )
        else:
            mixed = attend(query, key, value, scale=self.scale, mask=mask, bias=bias, dropout=dropout)
        if rows != sources:
            mixed = _rows_apart(mixed, beams, length)
            weights = None if weights is None else _rows_apart(weights, beams, length)
        return mixed, weights


def _rows_apart(x: Tensor, beams: int, length: int) -> Tensor:
    """[sources, H, K · L, …] → [sources · K, H, L, …]"""
    sources, heads, _, size = x.shape
    return x.reshape(sources, heads, beams, length, size).transpose(1, 2).flatten(0, 1)
