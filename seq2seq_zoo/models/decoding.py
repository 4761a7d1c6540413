"""Decoding runs: a decoder stack, its state, and what it reads, behind the protocol that generation knows.

One class serves encoder-decoders and decoders alone: a source is memory for the cross-attention, or there is
none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..generation import StepOutput
from ..layers.masks import padding_mask
from ..layers.state import DecodingState
from ..layers.transformer import Stack


class StackDecoding:
    """R rows of text being continued by one stack (see `generation.protocol.Decoding`).

    decoder               a causal stack
    scores                from hidden vectors [R, D] to logits [R, V]
    prompt_mask           [sources, n] or None: which positions of the prompt are real; later ones all are
    prompt_positions      [sources, n] or None: the prompt's positions, where they are not 0 … n - 1; later
                          ones count on from the last
    prompt_vectors        [sources, n, D] or None: read in the first step in place of its ids
    memory, memory_mask   what cross-attention reads, a row a source, and which of its positions are real
    capacity              how many positions a row is expected to reach
    use_cache             False: every step computes all positions again
    """

    def __init__(
        self,
        decoder: Stack,
        scores: Callable[[Tensor], Tensor],
        *,
        rows_per_source: int,
        capacity: int,
        use_cache: bool,
        prompt_mask: Tensor | None = None,
        prompt_positions: Tensor | None = None,
        prompt_vectors: Tensor | None = None,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        encoder_outputs: Any = None,
    ) -> None:
        self.encoder_outputs = encoder_outputs
        self._decoder, self._scores = decoder, scores
        self._rows_per_source = rows_per_source
        self._prompt_mask = _for_rows(padding_mask(prompt_mask), rows_per_source)
        self._prompt_positions = prompt_positions
        if prompt_positions is not None and prompt_positions.shape[0] > 1:  # else one row serves all
            self._prompt_positions = _for_rows(prompt_positions, rows_per_source)
        self._prompt_vectors = _for_rows(prompt_vectors, rows_per_source)
        self._memory, self._memory_mask = memory, padding_mask(memory_mask)
        self._state: DecodingState | None = None
        if use_cache:
            self._state = decoder.new_state(
                capacity=capacity, rows_per_source=1 if memory is None else rows_per_source
            )
        self._ids: Tensor | None = None  # all ids so far, kept where there is no state

    def step(
        self, ids: Tensor, *, output_attentions: bool = False, output_hidden_states: bool = False
    ) -> StepOutput:
        """Append ids [R, n] to every row; logits [R, V] of what follows."""
        vectors = None
        if self._state is not None:
            if self._prompt_vectors is not None:
                vectors, self._prompt_vectors = self._prompt_vectors, None
        elif self._prompt_vectors is None:
            self._ids = ids = ids if self._ids is None else torch.cat([self._ids, ids], dim=1)
        else:  # the prompt's ids, if there are any, only name its vectors
            self._ids = ids[:, :0] if self._ids is None else torch.cat([self._ids, ids], dim=1)
            vectors = torch.cat([self._prompt_vectors, self._decoder.embedding.vectors(self._ids)], dim=1)
        past = 0 if self._state is None else self._state.length
        length = past + (ids if vectors is None else vectors).shape[1]
        out = self._decoder.run(
            ids if vectors is None else None,
            vectors,
            attention_mask=self._mask(length),
            positions=self._positions(past, length),
            memory=self._memory,
            memory_attention_mask=self._memory_mask,
            state=self._state,
            need_weights=output_attentions,
            need_hidden=output_hidden_states,
        )
        return StepOutput(
            logits=self._scores(out.last[:, -1]),
            attentions=out.self_weights,
            cross_attentions=out.cross_weights,
            hidden_states=out.hidden,
        )

    def _mask(self, length: int) -> Tensor | None:
        """The prompt's mask, and ones for what was written since: [R, length]."""
        if self._prompt_mask is None:
            return None
        held = self._prompt_mask.shape[1]
        if held < length:
            new = self._prompt_mask.new_ones(self._prompt_mask.shape[0], length - held)
            self._prompt_mask = torch.cat([self._prompt_mask, new], dim=1)
        return self._prompt_mask[:, :length]

    def _positions(self, start: int, end: int) -> Tensor | None:
        """The positions of columns start … end - 1, [R, end - start], or None where they are just those."""
        if self._prompt_positions is None:
            return None
        held = self._prompt_positions.shape[1]
        if held < end:
            on = torch.arange(1, end - held + 1, device=self._prompt_positions.device)
            more = self._prompt_positions[:, -1:] + on
            self._prompt_positions = torch.cat([self._prompt_positions, more], dim=1)
        return self._prompt_positions[:, start:end]

    def reorder(self, rows: Tensor) -> None:
        """Row r now continues what row rows[r] continued; rows stay with their source."""
        if self._state is not None:
            self._state.reorder(rows)
        if self._ids is not None:
            self._ids = self._ids[rows]

    def crop(self, length: int) -> None:
        """Forget all but the first `length` positions of every row."""
        if self._state is not None:
            self._state.crop(length)
        if self._ids is not None:
            prompt = 0 if self._prompt_vectors is None else self._prompt_vectors.shape[1]
            self._ids = self._ids[:, : max(length - prompt, 0)]


def _for_rows(tensor: Tensor | None, rows_per_source: int) -> Tensor | None:
    if tensor is None or rows_per_source == 1:
        return tensor
    return tensor.repeat_interleave(rows_per_source, dim=0)
