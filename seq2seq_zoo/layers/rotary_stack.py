"""A causal stack with rotary positions, and what it must remember where LongRoPE chooses by length.

    x [B, L, D] ─┬─ layer ─ layer ─ … ─ norm ─→
                 │    ↑       ↑
    positions ─ rotation of queries and keys, one for all layers

Positions are counted over a row's real tokens, so that a padded row is turned as it would be alone. A row's
length is the largest position of its real tokens, plus one; with LongRoPE it decides by which factors the
whole row is turned.

While a text is being written its length may cross that border. What was computed before, keys and values of
all layers, then belongs to the other factors, so the row is computed again: `LongRopeState` keeps what the
first layer read, one vector a token, and under which factors what is held was computed. Rows on the right
side of the border keep what they have. A crop may lead back across it; that, too, is noticed by the next
pass, and not before.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .embedding import InputEmbedding
from .masks import check_mask, may_attend, padding_mask
from .rotary import Rotary, Rotation
from .state import DecodingState, GrowingKeyValues
from .transformer import Stack, StackOutput


class LongRopeState(DecodingState):
    """What a stack with LongRoPE remembers of R rows of text.

    long      bool [R]: which rows' keys and values were computed with the long factors
    read      for every token so far, what the first layer read of it, [R, 1, S, D] where keys stand, and
              where values do [R, 1, S, 2]: its position, and the length that gives its row (0 for padding)
    """

    def __init__(self, layers: int, *, capacity: int = 0, rows_per_source: int = 1) -> None:
        super().__init__(layers, capacity=capacity, rows_per_source=rows_per_source)
        self.long: Tensor | None = None
        self.read = GrowingKeyValues(capacity)

    def reorder(self, rows: Tensor) -> None:
        super().reorder(rows)
        self.read.reorder(rows)
        self.long = None if self.long is None else self.long[rows]

    def crop(self, length: int) -> None:
        super().crop(length)
        self.read.crop(length)


class RotaryStack(Stack):
    """An input embedding, layers whose queries and keys turn with their position, and a final norm.

    Every query sees the `window` positions up to its own, or all.
    """

    def __init__(
        self,
        embedding: InputEmbedding,
        layers: Sequence[nn.Module],
        *,
        rotary: Rotary,
        window: int | None = None,
        final_norm: nn.Module | None = None,
    ) -> None:
        super().__init__(embedding, layers, causal=True, final_norm=final_norm)
        self.rotary, self.window = rotary, window

    @property
    def border(self) -> int | None:
        context = self.rotary.long_context
        return None if context is None else context.original_length

    def new_state(self, *, capacity: int = 0, rows_per_source: int = 1) -> DecodingState:
        kind = DecodingState if self.rotary.long_context is None else LongRopeState
        return kind(len(self.layers), capacity=capacity, rows_per_source=rows_per_source)

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
        """As any stack's. There is no cross-attention and no head is scaled, so memory and head_mask must be
        None.

        positions int64 [B or 1, L]: where absent, a token's position is the number of real tokens before it
        in its row (with an attention_mask of one's own for each query: of all tokens).
        """
        if memory is not None or head_mask is not None:
            raise ValueError("a stack with rotary positions takes neither a memory nor a head_mask")
        past = self._check_state(state)
        x = self.embedding(ids, vectors)
        rows, length = x.shape[0], x.shape[1]
        check_mask(attention_mask, "attention_mask", rows=[rows], queries=length, keys=past + length)
        padding = padding_mask(attention_mask)
        at = _positions(positions, padding, rows, past, length, x.device)
        long = self._long_rows(at, padding, x, state)
        if isinstance(state, LongRopeState) and long is not None:
            self._keep_to_the_factors(state, long, padding)
        return self._pass(x, at, long, padding, state, need_weights=need_weights, need_hidden=need_hidden)

    def _pass(
        self,
        x: Tensor,
        at: Tensor,
        long: Tensor | None,
        padding: Tensor | None,
        state: DecodingState | None,
        *,
        need_weights: bool = False,
        need_hidden: bool = False,
    ) -> StackOutput:
        """x [B, L, D] at positions `at` [B or 1, L] through the layers, behind what the state holds."""
        past, length = 0 if state is None else state.length, x.shape[1]
        mask = may_attend(
            padding,
            queries=length,
            keys=past + length,
            past=past,
            causal=True,
            window=self.window,
            device=x.device,
        )
        rotation: Rotation = self.rotary(at, long=long, dtype=x.dtype)
        return self._through_layers(
            x,
            lambda number: {
                "mask": mask,
                "rotation": rotation,
                "memory": None,
                "state": None if state is None else state.layers[number],
            },
            state=state,
            need_weights=need_weights,
            need_hidden=need_hidden,
        )

    def _long_rows(
        self, at: Tensor, padding: Tensor | None, x: Tensor, state: DecodingState | None
    ) -> Tensor | None:
        """Which rows are longer than LongRoPE's short factors serve, bool [B]; None without LongRoPE.

        The state, if there is one, takes in what the first layer is about to read.
        """
        context = self.rotary.long_context
        if context is None:
            return None
        rows, length = x.shape[:2]
        reach = (at + 1).expand(rows, length)
        if padding is not None:
            real = padding[..., -length:]
            reach = reach * (real if real.dim() == 2 else real.flatten(1, -2).any(1))
        if state is not None:
            if not isinstance(state, LongRopeState):
                raise ValueError("past_key_values is of a model without LongRoPE; this one has it")
            state.read.crop(state.length)  # a pass that failed may have left more
            marks = torch.stack([at.expand(rows, length), reach], dim=-1)  # [B, L, 2]
            _, held = state.read.append(x[:, None], marks[:, None])
            reach = held[:, 0, :, 1]
        return reach.amax(1) > context.original_length

    def _keep_to_the_factors(self, state: LongRopeState, long: Tensor, padding: Tensor | None) -> None:
        """Compute again, with the other factors, what the state holds of rows that have crossed."""
        past = state.length
        if state.long is not None and past and not torch.equal(state.long, long):
            rows = (state.long != long).nonzero()[:, 0]
            if padding is not None:
                if padding.dim() != 2:
                    raise ValueError(
                        f"attention_mask has {padding.dim()} dimensions, and a row has crossed "
                        "original_max_position_embeddings: for its earlier tokens to be computed again, the "
                        "mask must be [batch, keys]"
                    )
                padding = padding.expand(long.shape[0], -1)[rows, :past]
            read, marks = state.read.tokens()
            again = DecodingState(len(self.layers))
            self._pass(read[rows, 0, :past], marks[rows, 0, :past, 0], long[rows], padding, again)
            for layer, anew in zip(state.layers, again.layers, strict=True):
                held, new = layer.self_attention, anew.self_attention
                assert isinstance(held, GrowingKeyValues)
                assert isinstance(new, GrowingKeyValues)
                held.replace(rows, *new.tokens())
        state.long = long


def _positions(
    given: Tensor | None,
    padding: Tensor | None,
    rows: int,
    past: int,
    length: int,
    device: torch.device,
) -> Tensor:
    """The positions of the last `length` columns, int64 [B or 1, L]."""
    if given is None:
        if padding is None or padding.dim() != 2:
            return torch.arange(past, past + length, device=device)[None]
        return _counted_on(padding)[:, past:]
    if not isinstance(given, Tensor):
        raise ValueError(f"position_ids is a {type(given).__name__}; it must be a tensor")
    if given.dtype not in (torch.int64, torch.int32) or given.shape not in ((1, length), (rows, length)):
        raise ValueError(
            f"position_ids is {given.dtype} of shape {list(given.shape)}; it must be torch.int64 of shape "
            f"[{rows} or 1, {length}]"
        )
    return given


def _counted_on(padding: Tensor) -> Tensor:
    """The position of each column, bool [B, S] → int64 [B, S]: of a real one among the real ones; padding
    counts on from the real one before it, or from the row's start, so that a row padded on the right has
    the positions 0 … S - 1."""
    column = torch.arange(padding.shape[1], device=padding.device)
    last_real = torch.where(padding, column, -1).cummax(1).values
    return padding.cumsum(1) - 1 + column - last_real
