"""MEGA's attention: one head is enough if a moving average prepares what it sees and gates decide what it
changes (Ma et al. 2022, MEGA, arXiv:2209.10655, sections 3.2-3.4).

    x ──┬─ moving_average ─→ x'┬─ shared ──┬─ · κ_q + μ_q ─→ query ─┐
        │                      │           └─ · κ_k + μ_k ─→ key ───┤
        ├─ value ──────────────│──────────────────────────→ value ──┴─ attention ─→ o
        │                      ├─ reset_gate ─→ γ ────────────────────── (×) ───────┘
        │                      ├─ candidate ──────────────────────────── (+) ─ output ─┘ ─→ h
    residual                   └─ update_gate ─→ φ
        └──────────────────────────────────────── φ ⊙ h + (1 - φ) ⊙ residual ─→

Three functions turn scores into weights. softmax divides them by √E and lets the keys compete; laplace and
relu2 divide by the number of keys and weigh each key alone.

        softmax   softmax(q kᵀ / √E + bias)            laplace, relu2   f(q kᵀ / n + bias)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .activations import Activation, laplace, relu_squared
from .chunks import Chunks
from .ema import DampedEma
from .positions import RotaryBias, SimpleBias
from .state import GatedLayerState, SourceKeyValues

ATTENTION_ACTIVATIONS: dict[str, Activation | None] = {
    "softmax": None,
    "laplace": laplace,
    "relu2": relu_squared,
}
"""How scores become weights; None: by softmax."""

SCORES_AT_A_TIME = 2**22
"""Scores that are held at a time where nobody asks for the weights."""


class FeatureDropout(nn.Module):
    """Dropout of whole features: one number of a row is dropped at all positions, x [B, L, D] → [B, L, D]."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.probability == 0.0:
            return x
        return x * F.dropout(x.new_ones(x.shape[0], 1, x.shape[2]), self.probability)


def gated_weights(
    query: Tensor,
    key: Tensor,
    bias: Tensor,
    *,
    activation: Activation | None,
    mask: Tensor | None,
    count: Tensor | int,
) -> Tensor:
    """query [..., L, E], key [..., S, E], bias [L, S] → weights [..., L, S] (equations 13, 15 and 16).

    `mask` bool, True = may attend. `count` is n above, of no use to softmax. Half-precision scores are
    computed in float32."""
    half = query.dtype in (torch.float16, torch.bfloat16)
    wide_query, wide_key, bias = (query.float(), key.float(), bias.float()) if half else (query, key, bias)
    if activation is None:
        scores = (wide_query * query.shape[-1] ** -0.5) @ wide_key.transpose(-1, -2) + bias
        scores = scores if mask is None else scores.masked_fill(~mask, float("-inf"))
        return torch.softmax(scores, dim=-1).to(query.dtype)
    weights = activation((wide_query / count) @ wide_key.transpose(-1, -2) + bias)
    weights = weights if mask is None else weights.masked_fill(~mask, 0.0)
    return weights.to(query.dtype)


class GatedAttention(nn.Module):
    """A moving average, attention within chunks, and gates.

    x' = moving_average(x)                      z = silu(shared(x')),  q = κ_q ⊙ z + μ_q,  k = κ_k ⊙ z + μ_k
    v = a(value(x))                             o = f(q kᵀ + bias) v
    γ = silu(reset_gate(x'))                    φ = σ(update_gate(x'))
    h = a(candidate(x') + output(γ ⊙ o))        y = φ ⊙ h + (1 - φ) ⊙ residual

    x [B, L, D] → y [B, L, D] and, if asked for, weights [B, m, l, s] by chunk. E is the size of queries and
    keys, V that of values.

    activation             a above
    attention_activation   f above; None: softmax
    dropout                of the moving average and of h; value_dropout of the values: modules
    weights_dropout        of the weights
    """

    def __init__(
        self,
        width: int,
        key_size: int,
        value_size: int,
        *,
        moving_average: DampedEma,
        bias: SimpleBias | RotaryBias,
        activation: Activation,
        attention_activation: Activation | None,
        dropout: nn.Module,
        value_dropout: nn.Module,
        weights_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.moving_average = moving_average
        self.value = nn.Linear(width, value_size)
        self.update_gate = nn.Linear(width, width)
        self.shared = nn.Linear(width, key_size)
        self.reset_gate = nn.Linear(width, value_size)
        self.candidate = nn.Linear(width, width)
        self.output = nn.Linear(value_size, width)
        self.kappa = nn.Parameter(torch.empty(2, key_size))  # of queries and of keys
        self.mu = nn.Parameter(torch.zeros(2, key_size))
        nn.init.normal_(self.kappa)
        self.distance_bias = bias
        self.activation = activation
        self.attention_activation = attention_activation
        self.dropout, self.value_dropout = dropout, value_dropout
        self.weights_dropout = weights_dropout

    def forward(
        self,
        x: Tensor,
        residual: Tensor,
        chunks: Chunks,
        *,
        state: GatedLayerState | None = None,
        need_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """x is the residual stream, normalised or not, `residual` that stream itself."""
        smooth = self.smoothed(x, chunks, state)
        return self.mix(x, smooth, residual, chunks, state=state, need_weights=need_weights)

    def smoothed(self, x: Tensor, chunks: Chunks, state: GatedLayerState | None = None) -> Tensor:
        """x', [B, L, D]: the only part that looks beyond chunks."""
        average = None if state is None else state.moving_average
        return self.dropout(self.moving_average(x, chunks.real, average))  # type: ignore[no-any-return]

    def mix(
        self,
        x: Tensor,
        smooth: Tensor,
        residual: Tensor,
        chunks: Chunks,
        *,
        state: GatedLayerState | None = None,
        need_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """All the rest, from x' on."""
        shared = F.silu(self.shared(smooth))  # [B, L, E]
        query, key = shared * self.kappa[0] + self.mu[0], shared * self.kappa[1] + self.mu[1]
        value = self.activation(self.value(x))  # [B, L, V]
        start = chunks.past
        if state is not None:
            held = state.self_attention
            keys, values = held.append(key.unsqueeze(1), value.unsqueeze(1))  # one head
            key, value = keys.squeeze(1), values.squeeze(1)
            start = chunks.end - key.shape[1]
        mixed, weights = self._attend(query, key, value, start, chunks, need_weights)
        mixed = mixed * F.silu(self.reset_gate(smooth))
        h = self.dropout(self.activation(self.candidate(smooth) + self.output(mixed)))
        return torch.lerp(residual, h, self.update_gate(smooth).sigmoid()), weights

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, start: int, chunks: Chunks, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """query [B, L, E], key and value [B, n, ·] of columns from `start` on → mixed [B, L, V], weights."""
        value = self.value_dropout(value)
        own = value[:, -chunks.queries :]  # what a position gets that attends to itself
        query, key = chunks.split(query, chunks.past), chunks.split(key, start)  # [B, m, l or s, E]
        value = chunks.split(value, start)
        bias = self.distance_bias(chunks.queries_of_a_chunk, chunks.keys, chunks.first)
        mask = chunks.mask if self.attention_activation is None else chunks.strict_mask
        count = chunks.count
        rows, many, queries, _ = query.shape
        pieces = [slice(None)]
        if not (need_weights or torch.compiler.is_compiling()):
            at_a_time = max(1, SCORES_AT_A_TIME // (rows * queries * key.shape[2]))
            pieces = [slice(at, at + at_a_time) for at in range(0, many, at_a_time)]
        parts: list[Tensor] = []
        weights: Tensor | None = None
        for these in pieces:
            weights = gated_weights(
                query[:, these],
                key[:, these],
                bias,
                activation=self.attention_activation,
                mask=None if mask is None else _of(mask, these),
                count=count if isinstance(count, int) else _of(count, these),
            )
            parts.append(F.dropout(weights, self.weights_dropout, self.training) @ value[:, these])
        mixed = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        own = own if self.attention_activation is None else torch.zeros_like(own)
        return chunks.join(mixed, own), weights if need_weights else None


def _of(x: Tensor, chunks: slice) -> Tensor:
    """The part of [B, m, l, s] that belongs to these chunks; what is the same for all stays."""
    return x if x.dim() < 4 or x.shape[1] == 1 else x[:, chunks]


class GatedCrossAttention(nn.Module):
    """Attention from x to a memory, with the same gates.

    q = query(x),  k = key(memory),  v = a(value(memory)),  o = f(q kᵀ + bias) v
    γ = silu(reset_gate(x)),  φ = σ(update_gate(x)),  h = a(output(γ ⊙ o)),  y = φ ⊙ h + (1 - φ) ⊙ residual

    x [B, L, D], memory [B, S, D] → y [B, L, D] and, if asked for, weights [B, L, S]. The bias knows the
    distance of positions in the two texts."""

    def __init__(
        self,
        width: int,
        key_size: int,
        *,
        bias: SimpleBias | RotaryBias,
        activation: Activation,
        attention_activation: Activation | None,
        dropout: nn.Module,
        value_dropout: nn.Module,
        weights_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.update_gate = nn.Linear(width, width)
        self.reset_gate = nn.Linear(width, width)
        self.query = nn.Linear(width, key_size)
        self.key = nn.Linear(width, key_size)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.distance_bias = bias
        self.activation = activation
        self.attention_activation = attention_activation
        self.dropout, self.value_dropout = dropout, value_dropout
        self.weights_dropout = weights_dropout

    def forward(
        self,
        x: Tensor,
        residual: Tensor,
        memory: Tensor,
        *,
        past: int = 0,
        mask: Tensor | None = None,
        state: SourceKeyValues | None = None,
        need_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """mask bool [B or 1, 1, L or 1, S]; `past` positions stand before x. Where memory has fewer rows
        than x, each of its rows, and of the mask's, serves as many consecutive rows of x."""
        if state is not None and state.held is not None:
            key, value = (held.squeeze(1) for held in state.held)
        else:
            key, value = self.key(memory), self.activation(self.value(memory))  # [B, S, E], [B, S, D]
            if state is not None:
                state.fill(key.unsqueeze(1), value.unsqueeze(1))
        sources, length = key.shape[0], x.shape[1]
        query = self.query(x).unflatten(0, (sources, -1))  # [B, L, E] → [sources, beams, L, E]
        bias = self.distance_bias(length, key.shape[1], past)
        count: Tensor | int = key.shape[1] if mask is None else mask.sum(-1, keepdim=True).clamp(min=1)
        weights = gated_weights(
            query, key.unsqueeze(1), bias, activation=self.attention_activation, mask=mask, count=count
        )
        value = self.value_dropout(value)
        mixed = (F.dropout(weights, self.weights_dropout, self.training) @ value.unsqueeze(1)).flatten(0, 1)
        h = self.dropout(self.activation(self.output(mixed * F.silu(self.reset_gate(x)))))
        y = torch.lerp(residual, h, self.update_gate(x).sigmoid())
        return y, weights.flatten(0, 1) if need_weights else None
