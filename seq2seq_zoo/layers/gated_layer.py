"""MEGA's layer and the stack of them (Ma et al. 2022, MEGA, arXiv:2209.10655, section 3.4 and figure 2).

    x ─ self_attention ─ cross_attention (decoders) ─ feed_forward ─→

    norm first    x ← self_attention(norm(x), x)                 x ← x + feed_forward(norm(x))
    norm last     x ← norm(self_attention(x, x))                 x ← norm(x + feed_forward(x))

The attentions mix what they have found with the residual stream by gates of their own; only the feed-forward
block is added. The order of the norms is that of the attentions or of the feed-forward block, each its own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .chunks import Chunks
from .embedding import InputEmbedding
from .gated_attention import GatedAttention, GatedCrossAttention
from .masks import check_mask, padding_mask
from .state import DecodingState, GatedLayerState
from .transformer import LayerOutput, Stack, StackOutput


class GatedLayer(nn.Module):
    """Gated attention, gated cross-attention in decoders, and a feed-forward block, which may be absent.

    x [B, L, D] → x [B, L, D]. `norm` makes a normalisation of the width; each block has its own.
    """

    def __init__(
        self,
        self_attention: GatedAttention,
        cross_attention: GatedCrossAttention | None,
        feed_forward: nn.Module | None,
        *,
        norm: Callable[[], nn.Module],
        norm_first: bool,
        feed_forward_norm_first: bool,
        dropout: nn.Module,
    ) -> None:
        super().__init__()
        self.self_attention = self_attention
        self.self_attention_norm = norm()
        self.cross_attention = cross_attention
        self.cross_attention_norm = None if cross_attention is None else norm()
        self.feed_forward = feed_forward
        self.feed_forward_norm = None if feed_forward is None else norm()
        self.norm_first, self.feed_forward_norm_first = norm_first, feed_forward_norm_first
        self.dropout = dropout

    def forward(
        self,
        x: Tensor,
        *,
        chunks: Chunks,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        state: GatedLayerState | None = None,
        need_weights: bool = False,
    ) -> LayerOutput:
        """Raises ValueError if there is a cross-attention and no `memory`, or a memory and no
        cross-attention."""
        if (self.cross_attention is None) != (memory is None):
            raise ValueError(
                "the layer has a cross-attention, but no memory (encoder_hidden_states) is given"
                if memory is None
                else "a memory (encoder_hidden_states) is given, but the layer has no cross-attention"
            )
        seen = self.self_attention_norm(x) if self.norm_first else x
        smooth = self.self_attention.smoothed(seen, chunks, state)
        if (
            memory is None
            and state is None
            and not (
                need_weights or self.training or torch.is_grad_enabled() or torch.compiler.is_compiling()
            )
        ):
            # Piece by piece, what is computed on the way is small enough to stay in the cache.
            done = [self._mix(seen[:, at], smooth[:, at], x[:, at], part).x for at, part in chunks.pieces]
            if done:
                return LayerOutput(torch.cat(done, dim=1), None, None)
        return self._mix(seen, smooth, x, chunks, memory, memory_mask, state, need_weights)

    def _mix(
        self,
        seen: Tensor,
        smooth: Tensor,
        x: Tensor,
        chunks: Chunks,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        state: GatedLayerState | None = None,
        need_weights: bool = False,
    ) -> LayerOutput:
        """All that follows the moving average: it knows positions and chunks, but no whole."""
        first = self.norm_first
        x, self_weights = self.self_attention.mix(
            seen, smooth, x, chunks, state=state, need_weights=need_weights
        )
        x = x if first else self.self_attention_norm(x)

        cross_weights = None
        if self.cross_attention is not None and self.cross_attention_norm is not None:
            x, cross_weights = self.cross_attention(
                self.cross_attention_norm(x) if first else x,
                x,
                memory,
                past=chunks.past,
                mask=memory_mask,
                state=None if state is None else state.cross_attention,
                need_weights=need_weights,
            )
            x = x if first else self.cross_attention_norm(x)

        if self.feed_forward is not None and self.feed_forward_norm is not None:
            first = self.feed_forward_norm_first
            fed = self.feed_forward(self.feed_forward_norm(x) if first else x)
            x = x + self.dropout(fed.to(x.dtype))  # from float16, it comes in float32
            x = x if first else self.feed_forward_norm(x)
        return LayerOutput(x, self_weights, cross_weights)


class GatedStack(Stack):
    """An input embedding and gated layers; `chunk` is how far attention reaches (None: everywhere)."""

    def __init__(
        self,
        embedding: InputEmbedding,
        layers: list[GatedLayer],
        *,
        causal: bool,
        chunk: int | None = None,
    ) -> None:
        super().__init__(embedding, layers, causal=causal)
        self.chunk = chunk

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
        types: Tensor | None = None,
    ) -> StackOutput:
        """As any stack's. attention_mask must be [B, past + L]: a moving average has no queries and keys.

        There are neither absolute positions nor several heads, so positions and head_mask must be None. types
        int64 [B, L] are the token types.
        """
        if positions is not None or head_mask is not None:
            raise ValueError(
                "gated attention has no absolute positions and one head: it takes no such argument"
            )
        past = 0 if state is None else state.length
        x = self.embedding(ids, vectors, types=types)
        rows, length = x.shape[0], x.shape[1]
        check_mask(attention_mask, "attention_mask", rows=[rows], queries=length, keys=past + length)
        if attention_mask is not None and attention_mask.dim() != 2:
            raise ValueError(
                f"attention_mask has shape {list(attention_mask.shape)}; it must be [batch, positions]"
            )
        memory_mask = self._memory_mask(memory, memory_attention_mask, rows, length)
        padding = padding_mask(attention_mask)
        if padding is not None and padding.device.type == "cpu" and not torch.compiler.is_compiling():
            padding = None if bool(padding.all()) else padding  # elsewhere, looking would stall the device
        chunks = Chunks(
            length,
            past=past,
            size=self.chunk,
            padding=None if padding is None else padding.expand(rows, -1),
            causal=self.causal,
            device=x.device,
        )
        return self._through_layers(
            x,
            lambda number: {
                "chunks": chunks,
                "memory": memory,
                "memory_mask": memory_mask,
                "state": None if state is None else state.layers[number],
            },
            state=state,
            need_weights=need_weights,
            need_hidden=need_hidden,
        )

    def new_state(self, *, capacity: int = 0, rows_per_source: int = 1) -> DecodingState:
        return DecodingState(
            len(self.layers),
            capacity=capacity,
            rows_per_source=rows_per_source,
            memory=lambda tokens: GatedLayerState(tokens, chunk=self.chunk),
        )
