"""A transformer layer, and the stack of them: the shape that all families share.

post-norm (MVP, BertGeneration)              pre-norm (mT5, PhiMoE)

x ─┬─ self_attention ─ (+) ─ norm ─┐         x ─┬─ norm ─ self_attention ─ (+) ─┐
   └────────────────────┘          │            └───────────────────────────┘   │
   ┌───────────────────────────────┘            ┌───────────────────────────────┘
   ├─ cross_attention ─ (+) ─ norm ─┐           ├─ norm ─ cross_attention ─ (+) ─┐     (decoders)
   └─────────────────────┘          │           └────────────────────────────┘   │
   ┌────────────────────────────────┘           ┌────────────────────────────────┘
   ├─ feed_forward ─ (+) ─ norm ─→              ├─ norm ─ feed_forward ─ (+) ─→
   └──────────────────┘                         └─────────────────────────┘
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .attention import Attention
from .embedding import InputEmbedding
from .experts import Mixed
from .masks import check_mask, may_attend, padding_mask
from .positions import RelativePositionBias
from .prefix import Prefix, PrefixPrompt
from .rotary import Rotation
from .state import DecodingState, LayerState


class LayerOutput(NamedTuple):
    """x [B, L, D]; the weights [B, H, L, P + S] of both attentions where they were asked for; and the scores
    [B · L, experts] of the router where the feed-forward block is a mixture of experts."""

    x: Tensor
    self_weights: Tensor | None
    cross_weights: Tensor | None
    router_scores: Tensor | None = None


class TransformerLayer(nn.Module):
    """Self-attention, cross-attention in decoders, and a feed-forward block, each around a residual.

    post-norm: x ← norm(x + dropout(block(x)))    (Vaswani et al. 2017, arXiv:1706.03762, section 3.1)
    pre-norm:  x ← x + dropout(block(norm(x)))    (Xiong et al. 2020, arXiv:2002.04745, section 3.1)

    x [B, L, D] → x [B, L, D]. `norm` makes a normalisation of the width; each block has its own.
    """

    def __init__(
        self,
        self_attention: Attention,
        feed_forward: nn.Module,
        cross_attention: Attention | None = None,
        *,
        norm: Callable[[], nn.Module],
        norm_first: bool,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.self_attention = self_attention
        self.self_attention_norm = norm()
        self.cross_attention = cross_attention
        self.cross_attention_norm = None if cross_attention is None else norm()
        self.feed_forward = feed_forward
        self.feed_forward_norm = norm()
        self.norm_first = norm_first
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        rotation: Rotation | None = None,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        head_mask: Tensor | None = None,
        self_prefix: Prefix | None = None,
        cross_prefix: Prefix | None = None,
        state: LayerState | None = None,
        need_weights: bool = False,
    ) -> LayerOutput:
        """`mask`, `bias` and `rotation` are of the self-attention, `head_mask` [H] of both; without `memory`
        the cross-attention is passed over."""
        attended, self_weights = self.self_attention(
            self._before(self.self_attention_norm, x),
            mask=mask,
            bias=bias,
            rotation=rotation,
            head_mask=head_mask,
            prefix=self_prefix,
            state=None if state is None else state.self_attention,
            need_weights=need_weights,
        )
        x = self._after(self.self_attention_norm, x, attended)

        cross_weights = None
        if self.cross_attention is not None and self.cross_attention_norm is not None and memory is not None:
            attended, cross_weights = self.cross_attention(
                self._before(self.cross_attention_norm, x),
                memory,
                mask=memory_mask,
                head_mask=head_mask,
                prefix=cross_prefix,
                state=None if state is None else state.cross_attention,
                need_weights=need_weights,
            )
            x = self._after(self.cross_attention_norm, x, attended)

        fed = self.feed_forward(self._before(self.feed_forward_norm, x))
        fed, router_scores = fed if isinstance(fed, Mixed) else (fed, None)
        x = self._after(self.feed_forward_norm, x, fed)
        return LayerOutput(x, self_weights, cross_weights, router_scores)

    def _before(self, norm: nn.Module, x: Tensor) -> Tensor:
        return norm(x) if self.norm_first else x

    def _after(self, norm: nn.Module, x: Tensor, change: Tensor) -> Tensor:
        x = x + (self.dropout(change) if self.training else change)
        return x if self.norm_first else norm(x)


class StackOutput(NamedTuple):
    """What a pass through a stack leaves behind.

    last [B, L, D]; and where asked for, the hidden vectors before each layer and after the last, and for each
    layer the attention weights [B, H, L, P + S]; and the scores [B · L, experts] of each layer's router, if
    there are any.
    """

    last: Tensor
    hidden: tuple[Tensor, ...] | None
    self_weights: tuple[Tensor, ...] | None
    cross_weights: tuple[Tensor, ...] | None
    router_scores: tuple[Tensor, ...] | None = None


class Stack(nn.Module):
    """An input embedding, layers, and a final norm: an encoder, or (`causal`) a decoder.

    ids [B, L] → embedding → N layers → norm → dropout → [B, L, D]

    What all layers of a pass share is computed here, once: the masks, the relative position bias, the prefix
    prompts. `layer_drop` is the probability that training passes over a layer (Fan et al. 2019,
    arXiv:1909.11556). In float16, `wide_residual` keeps the residual stream in float32.
    """

    def __init__(
        self,
        embedding: InputEmbedding,
        layers: Sequence[nn.Module],
        *,
        causal: bool,
        final_norm: nn.Module | None = None,
        position_bias: RelativePositionBias | None = None,
        self_prompt: PrefixPrompt | None = None,
        cross_prompt: PrefixPrompt | None = None,
        layer_drop: float = 0.0,
        dropout: float = 0.0,
        wide_residual: bool = False,
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.layers = nn.ModuleList(layers)
        self.final_norm = final_norm
        self.position_bias = position_bias
        self.self_prompt = self_prompt
        self.cross_prompt = cross_prompt
        self.causal = causal
        self.layer_drop = layer_drop
        self.dropout = nn.Dropout(dropout)
        self.wide_residual = wide_residual

    def run(
        self,
        ids: Tensor | None,
        vectors: Tensor | None = None,
        *,
        attention_mask: Tensor | None = None,
        positions: Tensor | None = None,
        head_mask: Tensor | None = None,
        memory: Tensor | None = None,
        memory_attention_mask: Tensor | None = None,
        state: DecodingState | None = None,
        need_weights: bool = False,
        need_hidden: bool = False,
    ) -> StackOutput:
        """One pass over ids [B, L] or vectors [B, L, D].

        attention_mask [B, past + L] and memory_attention_mask [B, S]: non-zero = real (all are, if absent).
        positions int64 [B or 1, L] replace past … past + L - 1 in the input embedding. head_mask [N, H]
        scales each head of each layer. memory [B or B / rows_per_source, S, D'] is what cross-attention
        reads. `state` holds the `past` positions of earlier passes and takes in the new ones.
        """
        past = self._check_state(state)
        x = self.embedding(ids, vectors, start=past, positions=positions)
        if self.wide_residual and x.dtype == torch.float16:
            x = x.float()
        rows, length = x.shape[0], x.shape[1]
        check_mask(attention_mask, "attention_mask", rows=[rows], queries=length, keys=past + length)
        memory_mask = self._memory_mask(memory, memory_attention_mask, rows, length)

        # A state that has started holds the prompts' keys and values already.
        fresh = state is None or not state.started
        self_prefixes = self.self_prompt() if self.self_prompt is not None and fresh else None
        cross_prefixes = (
            self.cross_prompt() if self.cross_prompt is not None and fresh and memory is not None else None
        )
        mask = may_attend(
            padding_mask(attention_mask),
            queries=length,
            keys=past + length,
            past=past,
            causal=self.causal,
            prefix=0 if self.self_prompt is None else self.self_prompt.length,
            device=x.device,
        )
        bias = None
        if self.position_bias is not None:
            bias = self.position_bias(length, past + length, past)
            if mask is not None:
                bias, mask = bias.masked_fill(~mask, float("-inf")), None

        return self._through_layers(
            x,
            lambda number: {
                "mask": mask,
                "bias": bias,
                "memory": memory,
                "memory_mask": memory_mask,
                "head_mask": None if head_mask is None else head_mask[number],
                "self_prefix": None if self_prefixes is None else self_prefixes[number],
                "cross_prefix": None if cross_prefixes is None else cross_prefixes[number],
                "state": None if state is None else state.layers[number],
            },
            state=state,
            need_weights=need_weights,
            need_hidden=need_hidden,
        )

    @property
    def border(self) -> int | None:
        """The length beyond which a row's earlier positions are computed otherwise; None where there is no
        such length."""
        return None

    def new_state(self, *, capacity: int = 0, rows_per_source: int = 1) -> DecodingState:
        """An empty state for a decoding run: see `DecodingState`."""
        return DecodingState(len(self.layers), capacity=capacity, rows_per_source=rows_per_source)

    def _check_state(self, state: DecodingState | None) -> int:
        """How many positions the state holds; ValueError for one of another number of layers."""
        if state is None:
            return 0
        if len(state.layers) != len(self.layers):
            raise ValueError(
                f"the decoding state is of {len(state.layers)} layers; it must be of {len(self.layers)}"
            )
        return state.length

    def _memory_mask(
        self, memory: Tensor | None, memory_attention_mask: Tensor | None, rows: int, length: int
    ) -> Tensor | None:
        """The mask of cross-attention, a row a source; ValueError for a memory that does not fit the rows."""
        if memory is None:
            return None
        sources, keys = memory.shape[0], memory.shape[1]
        if sources == 0 or rows % sources:
            raise ValueError(f"memory has {sources} rows; it must have {rows}, or a divisor of that")
        name = "the attention mask of what is attended to"
        fitting = [rows] if rows == sources else [sources, rows]
        check_mask(memory_attention_mask, name, rows=fitting, queries=length, keys=keys)
        padding = padding_mask(memory_attention_mask)
        if padding is not None and padding.shape[0] != sources:
            padding = padding[:: rows // sources]  # a row for each beam of a source
        prefix = 0 if self.cross_prompt is None else self.cross_prompt.length
        return may_attend(padding, queries=length, keys=keys, prefix=prefix)

    def _through_layers(
        self,
        x: Tensor,
        given: Callable[[int], dict[str, Any]],
        *,
        state: DecodingState | None,
        need_weights: bool,
        need_hidden: bool,
    ) -> StackOutput:
        """x [B, L, D] through the layers, of which number i is called with `given(i)`, and the final norm."""
        length = x.shape[1]
        hidden: list[Tensor] = []
        self_weights: list[Tensor] = []
        cross_weights: list[Tensor] = []
        router_scores: list[Tensor] = []
        crosses = False
        for number, layer in enumerate(self.layers):
            if need_hidden:
                hidden.append(x)
            arguments = given(number)
            crosses = arguments["memory"] is not None
            if self.training and self.layer_drop and float(torch.rand([])) < self.layer_drop:
                continue
            out: LayerOutput = layer(x, need_weights=need_weights, **arguments)
            x = out.x
            if out.self_weights is not None:
                self_weights.append(out.self_weights)
            if out.cross_weights is not None:
                cross_weights.append(out.cross_weights)
            if out.router_scores is not None:
                router_scores.append(out.router_scores)
        if state is not None:
            state.advance(length)
        if self.final_norm is not None:
            x = self.final_norm(x)
        x = self.dropout(x)
        if need_hidden:
            hidden.append(x)
        return StackOutput(
            x,
            tuple(hidden) if need_hidden else None,
            tuple(self_weights) if need_weights else None,
            tuple(cross_weights) if need_weights and crosses else None,
            tuple(router_scores) or None,
        )
