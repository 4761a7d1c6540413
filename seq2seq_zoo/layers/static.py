"""Steps of decoding of which each is like the last: what a compiler or a graph of an accelerator can repeat.

An ordinary step attends to one position more than the one before, so that no two have the same shapes. Here
the buffers have their full length from the beginning, where they end is a number in a tensor, and what lies
beyond it is masked:

    buffer       a b c · · · · ·                   position 3: the new token's keys go to column 3,
    mask         ■ ■ ■ ■ □ □ □ □                   columns 0 … 3 are attended to

    steps = StaticSteps(decoder, state, capacity=64, memory=memory)    after a pass over the prompt
    step = torch.compile(steps.step, fullgraph=True)                   on a GPU with mode="reduce-overhead"
    hidden = step(ids)                                                 [R, 1] → [R, 1, D], again and again

A step reads all of the buffers, so that it costs what the last one will.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .masks import padding_mask
from .prefix import Prefix
from .state import DecodingState, GrowingKeyValues, KeysValues
from .transformer import Stack


class StaticKeyValues(GrowingKeyValues):
    """Keys and values [R, H, P + C, E] in buffers that never grow; `position` int64 [1] counts the tokens."""

    def __init__(self, keys: Tensor, values: Tensor, prefix: int, position: Tensor) -> None:
        super().__init__()
        self._prefix = prefix
        self.buffers = keys, values
        self.position = position

    def append(self, keys: Tensor, values: Tensor, prefix: Prefix | None = None) -> KeysValues:
        """Put one token's keys and values [R, H, 1, E] in their place; return the whole buffers."""
        at = self.position + self._prefix
        for buffer, new in zip(self.buffers, (keys, values), strict=True):
            buffer.index_copy_(2, at, new)
        return self.buffers


class StaticSteps:
    """The steps that follow an ordinary pass of a decoder, one token at a time, all of the same shapes.

    decoder        a causal stack without positions that turn (rotary ones have a stack of their own)
    state          what that pass left behind; it is copied from, not changed
    capacity       C, how many tokens a row may reach
    memory, memory_mask   what cross-attention reads, and which of its positions are real, as in `Stack.run`
    prompt_mask    [R, length] which positions of the prompt are real; all are, if absent
    """

    def __init__(
        self,
        decoder: Stack,
        state: DecodingState,
        *,
        capacity: int,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        prompt_mask: Tensor | None = None,
    ) -> None:
        if type(decoder).run is not Stack.run:
            raise ValueError(f"the decoder is a {type(decoder).__name__}; static steps need a plain stack")
        if not 0 < state.length < capacity:
            raise ValueError(f"capacity is {capacity}; it must be above the {state.length} tokens held")
        self.decoder, self.memory = decoder, memory
        self.capacity = capacity
        self.prefix = 0 if decoder.self_prompt is None else decoder.self_prompt.length
        grown = [layer.self_attention for layer in state.layers]
        held = [part.tokens() for part in grown if isinstance(part, GrowingKeyValues)]
        device = held[0][0].device
        self.position = torch.tensor([state.length], device=device)  # of the token that comes next
        self.state = DecodingState(len(state.layers), rows_per_source=state.rows_per_source)
        for layer, old, (keys, values) in zip(self.state.layers, state.layers, held, strict=True):
            layer.cross_attention = old.cross_attention
            layer.self_attention = StaticKeyValues(
                self._room(keys), self._room(values), self.prefix, self.position
            )
        self.open = torch.ones(1, self.prefix + capacity, dtype=torch.bool, device=device)
        real = padding_mask(prompt_mask)
        if real is not None:
            self.open = self.open.repeat(real.shape[0], 1)
            self.open[:, self.prefix : self.prefix + real.shape[1]] = real
        self.source_mask = decoder._memory_mask(memory, memory_mask, held[0][0].shape[0], 1)

    def _room(self, held: Tensor) -> Tensor:
        buffer = held.new_zeros(*held.shape[:2], self.prefix + self.capacity, held.shape[3])
        buffer[:, :, : held.shape[2]] = held
        return buffer

    def step(self, ids: Tensor) -> Tensor:
        """Append ids [R, 1]; hidden vectors [R, 1, D]. There must be room for them."""
        decoder, columns = self.decoder, torch.arange(self.prefix + self.capacity, device=ids.device)
        x = decoder.embedding(ids, positions=self.position[None])
        if decoder.wide_residual and x.dtype == torch.float16:
            x = x.float()
        mask = (self.open & (columns <= self.position + self.prefix))[:, None, None]  # [1 or R, 1, 1, P + C]
        bias = None
        if decoder.position_bias is not None:
            bias = decoder.position_bias(1, self.capacity, self.position).masked_fill(~mask, float("-inf"))
        out = decoder._through_layers(
            x,
            lambda number: {
                "mask": mask if bias is None else None,
                "bias": bias,
                "memory": self.memory,
                "memory_mask": self.source_mask,
                "state": self.state.layers[number],
            },
            state=None,
            need_weights=False,
            need_hidden=False,
        )
        self.position += 1
        return out.last

    def reorder(self, rows: Tensor) -> None:
        """Row r now continues what row rows[r] continued, of the same source."""
        for layer in self.state.layers:
            assert isinstance(layer.self_attention, StaticKeyValues)
            for buffer in layer.self_attention.buffers:
                buffer.copy_(buffer[rows])
