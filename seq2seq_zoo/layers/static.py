"""Steps of decoding of which each is like the last: what a compiler or a graph of an accelerator can repeat.

An ordinary step attends to one position more than the one before, so that no two have the same shapes. Here
the buffers have their full length from the beginning, where they end is a number in a tensor, and what lies
beyond it is masked:

    buffer       a b c · · · · ·                   position 3: the new token's keys go to column 3,
    mask         ■ ■ ■ ■ □ □ □ □                   columns 0 … 3 are attended to

    steps = StaticSteps(decoder, state, capacity=64, memory=memory)    after a pass over the prompt
    hidden = steps.step(ids)                                           [R, 1] → [R, 1, D], again and again

It is the same decoding state: between such steps it can be reordered and cropped, and ordinary passes can go
on from it. `compute` is what all steps have in common, tensors alone, for a compiler:

    StaticSteps(…, compile=lambda step: torch.compile(step, mode="reduce-overhead"))    CUDA graphs of it
    torch.export.export(StepModule(steps), (ids, position))                             a file of it

A step reads all of the buffers, so that it costs what the last one will.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .masks import padding_mask
from .prefix import Prefix
from .rotary_stack import LongRopeState, RotaryStack
from .state import DecodingState, GrowingKeyValues, KeysValues, LayerState
from .transformer import Stack, TransformerLayer

Step = Callable[["StaticSteps", Tensor], Tensor]


class StaticKeyValues(GrowingKeyValues):
    """Keys and values in buffers [R, H, P + C, E] with room for C tokens from the beginning, and zeros where
    there are none yet: masked or not, they are multiplied, and must be numbers."""

    def __init__(self, held: GrowingKeyValues, capacity: int) -> None:
        super().__init__(capacity)
        keys, values = held.tokens()
        self.length, self._prefix = held.length, keys.shape[2] - held.length
        self._own = not torch.is_grad_enabled()
        self._keys, self._values = self._padded(keys), self._padded(values)

    @property
    def whole(self) -> KeysValues:
        """The buffers, [R, H, P + C, E] both."""
        assert self._keys is not None
        assert self._values is not None
        return self._keys, self._values

    def hold(self, keys: Tensor, values: Tensor) -> None:
        """Go on with other buffers of the same shape."""
        self._keys, self._values = keys, values

    def put(self, position: Tensor, keys: Tensor, values: Tensor) -> KeysValues:
        """Write a token's keys and values [R, H, 1, E] at `position` [1]; return the buffers. Whoever calls
        counts it in `length`, a number that no two steps have in common."""
        for buffer, new in zip(self.whole, (keys, values), strict=True):
            buffer.index_copy_(2, position + self._prefix, new)
        return self.whole

    def _padded(self, held: Tensor) -> Tensor:
        buffer = held.new_zeros(*held.shape[:2], self._prefix + self._capacity, held.shape[3])
        buffer[:, :, : held.shape[2]] = held
        return buffer


class NextColumn(GrowingKeyValues):
    """What attention takes for its memory in a static step: the column at `position` [1] of such buffers."""

    def __init__(self, buffers: StaticKeyValues, position: Tensor) -> None:
        super().__init__()
        self.buffers, self.position = buffers, position

    def append(self, keys: Tensor, values: Tensor, prefix: Prefix | None = None) -> KeysValues:
        return self.buffers.put(self.position, keys, values)


def can_repeat(decoder: Stack) -> bool:
    """Whether static steps serve a stack. They do not where a layer keeps more than keys and values, as
    MEGA's do, nor where attention counts distances from the last key, which here lies beyond the text; nor
    are there steps to repeat where there are no layers."""
    if type(decoder).run not in (Stack.run, RotaryStack.run) or not decoder.causal:
        return False
    return len(decoder.layers) > 0 and all(
        isinstance(layer, TransformerLayer) and layer.self_attention.distances is None
        for layer in decoder.layers
    )


class StaticSteps:
    """The steps that follow an ordinary pass of a decoder, one token at a time, all of the same shapes.

    decoder        a causal stack that `can_repeat`
    state          what that pass left behind, and the steps go on with; its buffers get all their room here
    capacity       C, how many tokens a row may reach
    memory, memory_mask   what cross-attention reads, and which of its positions are real, as in `Stack.run`
    prompt_mask    [R, length] which positions held are real; all are, if absent
    lead           [1 or R] how far a row's positions are ahead of its columns (padding: behind); 0, if absent
    compile        makes of `StaticSteps.compute` a function that does the same

    With LongRoPE, a row that outgrows the short factors is computed again, all of it. That takes an ordinary
    pass, after which static steps can follow: see `is_next`.
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
        lead: Tensor | None = None,
        compile: Callable[[Step], Step] | None = None,
    ) -> None:
        if not can_repeat(decoder):
            raise ValueError(
                f"static steps do not serve this {type(decoder).__name__}: it has no layers, keeps more than "
                "keys and values, or compares distances (can_repeat)"
            )
        if not state.length:
            raise ValueError("state holds no tokens; static steps go on from an ordinary pass")
        if state.length >= capacity:
            raise ValueError(f"capacity is {capacity}; it must be above the {state.length} tokens held")
        self.decoder, self.state, self.memory = decoder, state, memory
        self.capacity = capacity
        self.prefix = 0 if decoder.self_prompt is None else decoder.self_prompt.length
        held = next(_growing(layer) for layer in state.layers).tokens()[0]
        rows, device = held.shape[0], held.device
        self.position = torch.zeros(1, dtype=torch.long, device=device)  # of the token that comes next
        self.lead = torch.zeros_like(self.position) if lead is None else lead

        self.layers = [LayerState() for _ in state.layers]
        for layer, kept in zip(self.layers, state.layers, strict=True):
            kept.self_attention = buffers = StaticKeyValues(_growing(kept), capacity)
            layer.self_attention = NextColumn(buffers, self.position)
            layer.cross_attention = kept.cross_attention
        self.read: NextColumn | None = None
        if isinstance(state, LongRopeState):
            state.read = buffers = StaticKeyValues(state.read, capacity)
            self.read = NextColumn(buffers, self.position)

        self.open = torch.ones(1, self.prefix + capacity, dtype=torch.bool, device=device)
        real = padding_mask(prompt_mask)
        if real is not None:
            self.open = self.open.repeat(real.shape[0], 1)
            self.open[:, self.prefix : self.prefix + real.shape[1]] = real
        self.columns = torch.arange(self.prefix + capacity, device=device)
        self.count = self.open.cumsum(-1)  # of the real columns up to each
        self.source_mask = decoder._memory_mask(memory, memory_mask, rows, 1)
        border = decoder.border
        self.crossings = set() if border is None else set((border - self.lead).tolist())
        # not of `self`, a circle in which the buffers would wait for Python to look for garbage
        self._compute: Step = StaticSteps.compute if compile is None else compile(StaticSteps.compute)
        if compile is not None:
            sources = [layer.cross_attention.held or () for layer in self.layers]
            for tensors in [*sources, *(part.whole for part in self.memories())]:
                # A graph reads and writes them where they are, with no copy; for the next text's, which lie
                # elsewhere, nothing is compiled anew (no guard), only the CUDA graph is recorded again.
                for tensor in tensors:
                    torch._dynamo.mark_static_address(tensor, guard=False)

    @property
    def is_next(self) -> bool:
        """Whether a static step may come next, and not an ordinary pass must: there is room, and no row
        crosses LongRoPE's border. After a crop, with LongRoPE, an ordinary pass has to come first as well."""
        return self.state.length < self.capacity and self.state.length not in self.crossings

    def step(self, ids: Tensor) -> Tensor:
        """Append ids [R, 1]; hidden vectors [R, 1, D]. ValueError where no static step may come next."""
        if not self.is_next:
            raise ValueError(
                f"{self.state.length} tokens are held, and capacity is {self.capacity}; there must be room, "
                "and no row may become longer than original_max_position_embeddings"
            )
        self.position.fill_(self.state.length)
        hidden = self._compute(self, ids)
        for part in self.memories():
            part.length += 1
        self.state.advance(1)
        return hidden

    def compute(self, ids: Tensor) -> Tensor:
        """One step, but for the numbers that count it: ids [R, 1] → [R, 1, D]."""
        decoder, rows = self.decoder, ids.shape[0]
        at = (self.position + self.lead)[:, None]  # [1 or R, 1]
        x = decoder.embedding(ids, positions=at)
        if decoder.wide_residual and x.dtype == torch.float16:
            x = x.float()
        mask = self.open & (self.columns <= self.position + self.prefix)  # [1 or R, P + C]
        rotation = bias = None
        if isinstance(decoder, RotaryStack):
            if decoder.window is not None:
                mask = mask & (self.count > self.count.index_select(1, self.position) - decoder.window)
            long = self.state.long if isinstance(self.state, LongRopeState) else None
            rotation = decoder.rotary(at, long=long, dtype=x.dtype)
        if self.read is not None:
            marks = torch.stack([at, at + 1], dim=-1).expand(rows, 1, 2)
            self.read.append(x[:, None], marks[:, None])
        mask = mask[:, None, None]  # [1 or R, 1, 1, P + C]
        if decoder.position_bias is not None:
            bias = decoder.position_bias(1, self.capacity, self.position).masked_fill(~mask, float("-inf"))
        out = decoder._through_layers(
            x,
            lambda number: {
                "mask": mask if bias is None else None,
                "bias": bias,
                "rotation": rotation,
                "memory": self.memory,
                "memory_mask": self.source_mask,
                "state": self.layers[number],
            },
            state=None,
            need_weights=False,
            need_hidden=False,
        )
        return out.last

    def stand_at(self, position: Tensor) -> None:
        """Let the next call of `compute` take `position` [1] from this tensor."""
        self.position = position
        for column in self._next_columns():
            column.position = position

    def memories(self) -> list[StaticKeyValues]:
        """All the buffers."""
        return [column.buffers for column in self._next_columns()]

    def _next_columns(self) -> list[NextColumn]:
        every = [layer.self_attention for layer in self.layers] + [self.read]
        return [column for column in every if isinstance(column, NextColumn)]


class StepModule(nn.Module):
    """One step as a module, for torch.export: ids [R, 1] and position [1] → hidden vectors [R, 1, D].

    The state is its buffers, which each call writes to, and so do calls of the graph it is exported to. The
    `position` is the number of tokens held: counting, and what `is_next` says, are the caller's affair.
    """

    def __init__(self, steps: StaticSteps) -> None:
        super().__init__()
        self.decoder, self.steps = steps.decoder, steps
        for number, part in enumerate(steps.memories()):
            for name, buffer in zip(("keys", "values"), part.whole, strict=True):
                self.register_buffer(f"{name}{number}", buffer.clone())

    def forward(self, ids: Tensor, position: Tensor) -> Tensor:
        """A tracer puts its own tensors in the place of the buffers, so these are handed over each time."""
        steps, parts = self.steps, self.steps.memories()
        before = steps.position, [part.whole for part in parts]
        try:
            steps.stand_at(position)
            for number, part in enumerate(parts):
                part.hold(getattr(self, f"keys{number}"), getattr(self, f"values{number}"))
            return steps.compute(ids)
        finally:
            steps.stand_at(before[0])
            for part, buffers in zip(parts, before[1], strict=True):
                part.hold(*buffers)


def _growing(layer: LayerState) -> GrowingKeyValues:
    assert isinstance(layer.self_attention, GrowingKeyValues)
    return layer.self_attention
