"""Decoding runs: a decoder stack, its state, and what it reads, behind the protocol that generation knows.

One class serves encoder-decoders and decoders alone: a source is memory for the cross-attention, or there is
none.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..generation import StepOutput
from ..layers.masks import padding_mask
from ..layers.state import DecodingState
from ..layers.static import StaticSteps, Step, can_repeat
from ..layers.transformer import Stack, StackOutput


class StackDecoding:
    """R rows of text being continued by one stack (see `generation.protocol.Decoding`).

    decoder               a causal stack
    scores                from hidden vectors [..., D] to logits [..., V]
    prompt_mask           [sources, n] or None: which positions of the prompt are real; later ones all are
    prompt_positions      [sources, n] or None: the prompt's positions, where they are not 0 … n - 1; later
                          ones count on from the last
    prompt_vectors        [sources, n, D] or None: read in the first step in place of its ids
    memory, memory_mask   what cross-attention reads, a row a source, and which of its positions are real
    capacity              how many positions a row is expected to reach
    use_cache             False: every step computes all positions again, though not the memory's keys
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
        self._rows_per_source, self._capacity = rows_per_source, capacity
        self._mask = _for_rows(padding_mask(prompt_mask), rows_per_source)
        self._positions = prompt_positions
        if prompt_positions is not None and prompt_positions.shape[0] > 1:  # else one row serves all
            self._positions = _for_rows(prompt_positions, rows_per_source)
        # where a state keeps what was read, they are needed once, perhaps a row a source
        self._vectors = prompt_vectors if use_cache else _for_rows(prompt_vectors, rows_per_source)
        self._memory, self._memory_mask = memory, padding_mask(memory_mask)
        self._state = self._new_state() if use_cache else None
        self._source_memory: DecodingState | None = None  # without a cache: holds the memory's keys
        self._ids: Tensor | None = None  # all ids so far, kept where there is no state
        self._wants_static = self._compiles = False  # see make_static
        self._can_be_static = False  # whether there was an ordinary pass, from which static steps can go on
        self._static: StaticSteps | None = None  # they, once one was taken

    @property
    def state(self) -> DecodingState | None:
        """What a forward pass takes as past_key_values to go on from here."""
        return self._state

    def make_static(self, *, compiled: bool) -> None:
        """Take the steps of one token that follow the prompt in buffers of the full length, all of the same
        shapes (`layers.static`), where the model allows it and nothing but logits is asked for; on a GPU as
        one graph, if `compiled`. Other steps, and those in which a row crosses LongRoPE's border, are
        ordinary ones, on the same state."""
        self._wants_static = (
            self._state is not None and not self._decoder.training and can_repeat(self._decoder)
        )
        self._compiles = compiled

    def step(
        self,
        ids: Tensor,
        *,
        last: int | None = None,
        chunk: int | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> StepOutput:
        """Append ids [R, n] to every row; logits [R, V] of what follows, or [R, last, V] of what follows each
        of the last positions.

        `chunk` reads a long prompt in pieces of so many positions. It is passed over where every position is
        asked for its attentions or hidden states, and where nothing is kept from one piece to the next.
        """
        if last is not None and last > 1:
            first = self._up_to_a_border(ids.shape[1], last)
            if first:
                rest = ids.shape[1] - first
                parts = [
                    self.step(ids[:, :first], last=last - rest).logits,
                    self.step(ids[:, first:], last=rest).logits,
                ]
                return StepOutput(torch.cat(parts, dim=1))
        if self._state is None:
            return self._scored(self._again(ids, output_attentions, output_hidden_states), last)
        if self._can_be_static and ids.shape[1] == 1 and not output_attentions and not output_hidden_states:
            if self._static is None:
                self._static = self._static_steps(self._state)
            if self._static.is_next:
                return self._scored(StackOutput(self._static.step(ids), None, None, None), last)
        vectors, self._vectors = self._vectors, None
        # the prompt is read once for each source where only its rows depend on it
        first = not self._state.started and self._memory is None and not self._decoder.training
        shared = self._rows_per_source if first else 1
        ids = ids[::shared]
        if vectors is not None and shared == 1:
            vectors = _for_rows(vectors, self._rows_per_source)
        length = (ids if vectors is None else vectors).shape[1]
        wanted = 1 if last is None else last
        if chunk is not None and not output_attentions and not output_hidden_states:
            for start in range(0, max(length - wanted, 0), chunk):
                end = min(start + chunk, length - wanted)
                self._read(ids[:, start:end], None if vectors is None else vectors[:, start:end], shared)
            ids, vectors = ids[:, -wanted:], None if vectors is None else vectors[:, -wanted:]
        out = self._read(ids, vectors, shared, output_attentions, output_hidden_states)
        self._can_be_static = self._wants_static and self._state.length < self._capacity
        step = self._scored(out, last)
        if shared == 1:
            return step
        sources = step.logits.shape[0]
        self._state.reorder(torch.arange(sources, device=ids.device).repeat_interleave(shared))
        return StepOutput(
            _repeated(step.logits, shared),
            _all_repeated(step.attentions, shared),
            None,
            _all_repeated(step.hidden_states, shared),
        )

    def _up_to_a_border(self, new: int, last: int) -> int:
        """How many of `new` positions to read at first where, among the last ones, a row crosses the border
        beyond which all its positions are computed otherwise; 0 where none does."""
        if self._decoder.border is None:
            return 0
        start = self._length
        end = start + new
        lag = torch.zeros(1, dtype=torch.long)  # how far a row's positions are behind its columns
        positions = self._positions_of(start, end)
        if positions is not None:
            lag = torch.arange(start, end, device=positions.device)[-1] - positions[:, -1]
        columns = [column for column in (self._decoder.border + lag).tolist() if end - last < column < end]
        return min(columns) - start if columns else 0

    @property
    def _length(self) -> int:
        """How many positions were read."""
        if self._state is not None:
            return self._state.length
        if self._ids is None:
            return 0
        return self._ids.shape[1] + (0 if self._vectors is None else self._vectors.shape[1])

    def _read(
        self,
        ids: Tensor,
        vectors: Tensor | None,
        every: int = 1,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> StackOutput:
        """A pass over new positions, of every so many rows."""
        state = self._state
        start = 0 if state is None else state.length
        end = start + (ids if vectors is None else vectors).shape[1]
        mask, positions = self._mask_of(end), self._positions_of(start, end)
        if positions is not None and positions.shape[0] > 1:
            positions = positions[::every]
        return self._decoder.run(
            ids if vectors is None else None,
            vectors,
            attention_mask=None if mask is None else mask[::every],
            positions=positions,
            memory=self._memory,
            memory_attention_mask=self._memory_mask,
            state=self._source_memory if state is None else state,
            need_weights=output_attentions,
            need_hidden=output_hidden_states,
        )

    def _static_steps(self, state: DecodingState) -> StaticSteps:
        """Steps that go on from the state."""
        length = state.length
        lead = self._positions_of(length - 1, length)
        device = next(self._decoder.parameters()).device
        # CUDA graphs are kept by the main thread
        main = threading.current_thread() is threading.main_thread()
        return StaticSteps(
            self._decoder,
            state,
            capacity=self._capacity,
            memory=self._memory,
            memory_mask=self._memory_mask,
            prompt_mask=self._mask_of(length),
            lead=None if lead is None else lead[:, 0] - (length - 1),
            compile=_repeated_graph if self._compiles and main and device.type == "cuda" else None,
        )

    def _again(self, ids: Tensor, output_attentions: bool, output_hidden_states: bool) -> StackOutput:
        """A pass over all positions, the new ones among them."""
        vectors = self._vectors
        if vectors is None:
            self._ids = ids if self._ids is None else torch.cat([self._ids, ids], dim=1)
        else:  # the prompt's ids, if there are any, only name its vectors
            self._ids = ids[:, :0] if self._ids is None else torch.cat([self._ids, ids], dim=1)
            vectors = torch.cat([vectors, self._decoder.embedding.vectors(self._ids)], dim=1)
        if self._memory is not None:
            held, self._source_memory = self._source_memory, self._new_state(capacity=0)
            if held is not None:
                for layer, before in zip(self._source_memory.layers, held.layers, strict=True):
                    layer.cross_attention = before.cross_attention
        return self._read(self._ids, vectors, 1, output_attentions, output_hidden_states)

    def _new_state(self, capacity: int | None = None) -> DecodingState:
        return self._decoder.new_state(
            capacity=self._capacity if capacity is None else capacity,
            rows_per_source=1 if self._memory is None else self._rows_per_source,
        )

    def _scored(self, out: StackOutput, last: int | None) -> StepOutput:
        return StepOutput(
            self._scores(out.last[:, -1] if last is None else out.last[:, -last:]),
            out.self_weights,
            out.cross_weights,
            out.hidden,
        )

    def _mask_of(self, length: int) -> Tensor | None:
        """The prompt's mask, and ones for what was written since: [R, length]."""
        if self._mask is None:
            return None
        missing = self._room(length, self._mask)
        if missing:
            self._mask = F.pad(self._mask, (0, missing), value=True)
        return self._mask[:, :length]

    def _positions_of(self, start: int, end: int) -> Tensor | None:
        """The positions of columns start … end - 1, [R, end - start], or None where they are just those."""
        if self._positions is None:
            return None
        missing = self._room(end, self._positions)
        if missing:
            on = torch.arange(1, missing + 1, device=self._positions.device)
            self._positions = torch.cat([self._positions, self._positions[:, -1:] + on], dim=1)
        return self._positions[:, start:end]

    def _room(self, length: int, held: Tensor) -> int:
        """How many columns to add to `held`, which grows seldom: to the capacity, then by doubling."""
        columns = held.shape[1]
        return 0 if length <= columns else max(self._capacity, length, 2 * columns) - columns

    def reorder(self, rows: Tensor) -> None:
        """Row r now continues what row rows[r] continued; rows stay with their source."""
        if self._state is not None:
            self._state.reorder(rows)
        if self._ids is not None:
            self._ids = self._ids[rows]

    def crop(self, length: int) -> None:
        """Forget all but the first `length` positions of every row."""
        self._can_be_static = False
        if self._state is not None:
            self._state.crop(length)
        if self._ids is not None:
            prompt = 0 if self._vectors is None else self._vectors.shape[1]
            self._ids = self._ids[:, : max(length - prompt, 0)]


def _repeated_graph(step: Step) -> Step:
    """A step as CUDA graphs: launched once, not kernel by kernel."""
    return torch.compile(step, mode="reduce-overhead")


def _for_rows(tensor: Tensor | None, rows_per_source: int) -> Tensor | None:
    if tensor is None or rows_per_source == 1:
        return tensor
    return _repeated(tensor, rows_per_source)


def _repeated(tensor: Tensor, rows: int) -> Tensor:
    return tensor.repeat_interleave(rows, dim=0)


def _all_repeated(tensors: tuple[Tensor, ...] | None, rows: int) -> tuple[Tensor, ...] | None:
    return None if tensors is None else tuple(_repeated(tensor, rows) for tensor in tensors)
