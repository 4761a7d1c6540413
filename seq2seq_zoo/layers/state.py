"""Decoding state: what a decoder remembers between steps.

It is an argument of a pass, never part of a module, so that two threads can decode with one model. One
`DecodingState` holds, for each layer, the memory that layer needs:

    GrowingKeyValues   self-attention: keys and values of the text so far, in a buffer with room to grow
    SourceKeyValues    cross-attention: keys and values of the source, computed once, one row a source

Rows and sources: with K beams a source, row r belongs to source r // K. Growing memory has a row for each
beam; source memory has a row for each source, which all its beams read.

                    buffer, R rows                        after reorder([1, 1])        after crop(3)
    append(a b c)   a b c · · ·    append(e)  a b c e · ·      A B C E · ·               A B C · · ·
                    A B C · · ·               A B C E · ·      A B C E · ·               A B C · · ·

Any number of tokens may be appended at a time. While gradients are recorded, nothing is overwritten: buffers
are replaced.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .prefix import Prefix

KeysValues = tuple[Tensor, Tensor]


def with_prefix(keys: Tensor, values: Tensor, prefix: Prefix | None) -> KeysValues:
    """Put a prompt's columns in front: [R, H, S, E] → [R, H, P + S, E], both."""
    if prefix is None:
        return keys, values
    rows = keys.shape[0]
    prompt_keys = prefix.keys.to(keys.dtype).expand(rows, -1, -1, -1)
    prompt_values = prefix.values.to(values.dtype).expand(rows, -1, -1, -1)
    return torch.cat([prompt_keys, keys], dim=2), torch.cat([prompt_values, values], dim=2)


class GrowingKeyValues:
    """Keys and values [R, H, P + S, E] of a self-attention, growing along S.

    `capacity` is the number of tokens expected in all; the buffer is made for so many and doubles when they
    run out. The first P columns are the prefix prompt's: they count neither as length nor for a crop, and a
    reorder leaves them alone.
    """

    def __init__(self, capacity: int = 0) -> None:
        self.length = 0
        self._capacity = capacity
        self._prefix = 0
        self._own = False  # whether the buffers were made here, under no recording of gradients
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def append(self, keys: Tensor, values: Tensor, prefix: Prefix | None = None) -> KeysValues:
        """Remember new keys and values [R, H, n, E]; return all so far, [R, H, P + length, E].

        Raises ValueError if R is not the number of rows held.
        """
        new = keys.shape[2]
        if self._keys is None or self._values is None:
            self._prefix = 0 if prefix is None else prefix.keys.shape[1]
            keys, values = with_prefix(keys, values, prefix)
            self._own = self._capacity > new and not torch.is_grad_enabled()
            if self._own:
                self._keys = self._with_room(keys, self._capacity)
                self._values = self._with_room(values, self._capacity)
            else:
                self._keys, self._values = keys, values  # a full pass hands them over as they are
            self.length = new
            return keys, values
        if keys.shape[0] != self._keys.shape[0]:
            raise ValueError(
                f"the decoding state holds {self._keys.shape[0]} rows; {keys.shape[0]} cannot continue them"
            )
        start, end = self._prefix + self.length, self._prefix + self.length + new
        if torch.is_grad_enabled():
            self._own = False
            self._keys = torch.cat([self._keys[:, :, :start], keys], dim=2)
            self._values = torch.cat([self._values[:, :, :start], values], dim=2)
        else:
            if end > self._keys.shape[2] or not self._may_overwrite(self._keys):
                self._own = True
                room = max(2 * end, self._capacity) - self._prefix
                self._keys = self._with_room(self._keys[:, :, :start], room)
                self._values = self._with_room(self._values[:, :, :start], room)
            self._keys[:, :, start:end] = keys
            self._values[:, :, start:end] = values
        self.length += new
        return self._keys[:, :, :end], self._values[:, :, :end]

    def _may_overwrite(self, buffer: Tensor) -> bool:
        """Whether nobody else counts on what the buffers hold: neither a graph of gradients, recorded now or
        earlier, nor an inference mode that has ended, whose tensors PyTorch lets nobody write to."""
        ended = buffer.is_inference() and not torch.is_inference_mode_enabled()
        return self._own and not torch.is_grad_enabled() and not ended

    def _with_room(self, held: Tensor, tokens: int) -> Tensor:
        """A buffer for `tokens` tokens behind the prefix that begins with what is held."""
        rows, heads, columns, size = held.shape
        buffer = held.new_empty(rows, heads, self._prefix + tokens, size)
        buffer[:, :, :columns] = held
        return buffer

    def reorder(self, rows: Tensor) -> None:
        """Row r now holds what row rows[r] held; `rows` may also be fewer or more than before."""
        if self._keys is None or self._values is None:
            return
        end = self._prefix + self.length
        if rows.shape[0] != self._keys.shape[0] or not self._may_overwrite(self._keys):
            self._own = not torch.is_grad_enabled()
            self._keys, self._values = self._keys[rows], self._values[rows]
            return
        text = slice(self._prefix, end)
        self._keys[:, :, text] = self._keys[rows, :, text]
        self._values[:, :, text] = self._values[rows, :, text]

    def crop(self, length: int) -> None:
        """Forget all tokens but the first `length`."""
        self.length = min(self.length, length)


class SourceKeyValues:
    """Keys and values [sources, H, P + S, E] of a cross-attention, filled by the first pass."""

    def __init__(self) -> None:
        self.held: KeysValues | None = None

    def fill(self, keys: Tensor, values: Tensor, prefix: Prefix | None = None) -> KeysValues:
        """Remember the source's keys and values, [sources, H, S, E]; return them behind the prefix."""
        self.held = with_prefix(keys, values, prefix)
        return self.held

    def select(self, sources: Tensor) -> None:
        """Keep the sources named by `sources`, in that order."""
        if self.held is not None:
            self.held = self.held[0][sources], self.held[1][sources]


class LayerState:
    """What one transformer layer remembers."""

    def __init__(self, capacity: int = 0) -> None:
        self.self_attention = GrowingKeyValues(capacity)
        self.cross_attention = SourceKeyValues()


class DecodingState:
    """What a stack of layers remembers of R rows of text.

    `capacity` is how many tokens a row is expected to reach (0: not known), `rows_per_source` how many
    consecutive rows continue the same source.
    """

    def __init__(self, layers: int, *, capacity: int = 0, rows_per_source: int = 1) -> None:
        self.layers = [LayerState(capacity) for _ in range(layers)]
        self.rows_per_source = rows_per_source
        self.length = 0
        self.started = False

    def advance(self, tokens: int) -> None:
        """Called by a stack when all its layers have appended `tokens` tokens."""
        self.length += tokens
        self.started = True

    def reorder(self, rows: Tensor) -> None:
        """Row r now continues what row rows[r] continued, rows int64 [R].

        Rows that stay with their source, as beams do, leave the source's keys and values where they are.
        """
        beams = self.rows_per_source
        sources = rows.view(-1, beams)[:, 0] // beams if rows.shape[0] % beams == 0 else None
        together = sources is not None and bool((rows.view(-1, beams) // beams == sources[:, None]).all())
        if sources is None or not together:
            raise ValueError(
                f"rows {rows.tolist()} tear apart the {beams} rows that continue one source; "
                f"each group of {beams} must come from one group"
            )
        held = next((layer.cross_attention.held for layer in self.layers), None)
        moved = held is not None and (
            sources.shape[0] != held[0].shape[0]
            or not torch.equal(sources, torch.arange(sources.shape[0], device=sources.device))
        )
        for layer in self.layers:
            layer.self_attention.reorder(rows)
            if moved:
                layer.cross_attention.select(sources)

    def crop(self, length: int) -> None:
        """Forget all tokens but the first `length` of every row."""
        if length < 0:
            raise ValueError(f"length is {length}; it must be at least 0")
        self.length = min(self.length, length)
        for layer in self.layers:
            layer.self_attention.crop(length)
