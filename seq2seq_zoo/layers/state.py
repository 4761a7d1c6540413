"""Decoding state: what a decoder remembers between steps.

It is an argument of a pass, never part of a module, so that two threads can decode with one model. One
`DecodingState` holds, for each layer, the memory that layer needs:

    GrowingKeyValues   self-attention: keys and values of the text so far, in a buffer with room to grow
    SourceKeyValues    cross-attention: keys and values of the source, computed once, one row a source
    ChunkKeyValues     self-attention within chunks: keys and values of the chunk that is being written
    MovingAverage      a recurrent layer: what its averages of the text so far have come to

Rows and sources: with K beams a source, row r belongs to source r // K. Growing memory has a row for each
beam; source memory has a row for each source, which all its beams read.

                    buffer, R rows                        after reorder([1, 1])        after crop(3)
    append(a b c)   a b c · · ·    append(e)  a b c e · ·      A B C E · ·               A B C · · ·
                    A B C · · ·               A B C E · ·      A B C E · ·               A B C · · ·

Any number of tokens may be appended at a time. While gradients are recorded, nothing is overwritten: buffers
are replaced.
"""

from __future__ import annotations

from collections.abc import Callable

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

    def tokens(self) -> KeysValues:
        """All keys and values so far, [R, H, P + length, E]; there must be some."""
        assert self._keys is not None
        assert self._values is not None
        end = self._prefix + self.length
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

    @property
    def rows(self) -> int:
        """R, or 0 where nothing is held."""
        return 0 if self._keys is None else self._keys.shape[0]

    def reorder(self, rows: Tensor, changed: Tensor | None = None) -> None:
        """Row r now holds what row rows[r] held; `rows` may also be fewer or more than before. `changed`, if
        somebody knows them, names the rows for which that is another one."""
        if self._keys is None or self._values is None:
            return
        if rows.shape[0] != self._keys.shape[0] or not self._may_overwrite(self._keys):
            self._own = not torch.is_grad_enabled()
            self._keys, self._values = self._keys[rows], self._values[rows]
            return
        text = slice(self._prefix, self._prefix + self.length)
        if changed is None:
            self._keys[:, :, text] = self._keys[rows, :, text]
            self._values[:, :, text] = self._values[rows, :, text]
            return
        origins = rows[changed]
        self._keys[changed, :, text] = self._keys[origins, :, text]
        self._values[changed, :, text] = self._values[origins, :, text]

    def crop(self, length: int) -> None:
        """Forget all tokens but the first `length`."""
        self.length = min(self.length, length)

    def replace(self, rows: Tensor, keys: Tensor, values: Tensor) -> None:
        """Hold other keys and values [len(rows), H, P + length, E] for the rows named; there must be some."""
        assert self._keys is not None
        assert self._values is not None
        if self._may_overwrite(self._keys):
            end = self._prefix + self.length
            self._keys[rows, :, :end], self._values[rows, :, :end] = keys, values
            return
        held_keys, held_values = self.tokens()
        self._own = False
        self._keys = held_keys.index_copy(0, rows, keys)
        self._values = held_values.index_copy(0, rows, values)


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


class ChunkKeyValues:
    """Keys and values [R, H, S, E] of a self-attention that does not look beyond chunks of `chunk` tokens.

    What no row's chunk reaches is forgotten when the next tokens come. As rows may begin at different
    columns, so may their chunks: the last `chunk` - 1 tokens are always kept, and what was appended last.
    `start` is the column of the first token held."""

    def __init__(self, chunk: int, capacity: int = 0) -> None:
        self.chunk = chunk
        self.start = 0
        self._capacity = min(capacity, 2 * chunk)
        self._held = GrowingKeyValues(self._capacity)

    def append(self, keys: Tensor, values: Tensor) -> KeysValues:
        """Remember new keys and values [R, H, n, E]; return those from `start` on."""
        done = (self._held.length + 1 - self.chunk) // self.chunk * self.chunk
        if done > 0:
            kept_keys, kept_values = self._held.tokens()
            self._held = GrowingKeyValues(self._capacity)
            self._held.append(kept_keys[:, :, done:], kept_values[:, :, done:])
            self.start += done
        return self._held.append(keys, values)

    @property
    def rows(self) -> int:
        """R, or 0 where nothing is held."""
        return self._held.rows

    def reorder(self, rows: Tensor, changed: Tensor | None = None) -> None:
        """Row r now holds what row rows[r] held."""
        self._held.reorder(rows, changed)

    def crop(self, length: int) -> None:
        """Forget all tokens but the first `length`."""
        if length == 0:
            self.start = 0
        self._held.crop(length - self.start)


class MovingAverage:
    """What the averages of a recurrent layer have come to: `after` the tokens so far.

    An average cannot be undone, so what was `before` the last tokens, and these (`recent`, [R, n, D]), are
    held as well: a crop goes back to any of them, and the layer computes `after` again. What `before` and
    `after` are is the layer's own affair; their first dimension is R."""

    def __init__(self) -> None:
        self.length = 0
        self.before: Tensor | None = None
        self.recent: Tensor | None = None
        self.after: Tensor | None = None

    def check_rows(self, rows: int) -> None:
        """Raise ValueError unless so many rows are held, or none yet."""
        held = self.after if self.recent is None else self.recent
        if held is not None and held.shape[0] != rows:
            raise ValueError(f"the decoding state holds {held.shape[0]} rows; {rows} cannot continue them")

    def advance(self, before: Tensor | None, recent: Tensor, after: Tensor) -> None:
        """Called by the layer when it has read `recent`."""
        self.before, self.recent, self.after = before, recent, after
        self.length += recent.shape[1]

    def reorder(self, rows: Tensor) -> None:
        """Row r now holds what row rows[r] held."""
        self.before, self.recent, self.after = (
            None if held is None else held[rows] for held in (self.before, self.recent, self.after)
        )

    def crop(self, length: int) -> None:
        """Forget all tokens but the first `length`.

        Raises ValueError, and changes nothing, if that reaches behind the tokens that came last, unless it is
        to the very beginning.
        """
        if length >= self.length:
            return
        first = self.length - (0 if self.recent is None else self.recent.shape[1])
        if length and length < first:
            raise ValueError(
                f"length is {length}; a moving average can be cropped to {first} … {self.length} tokens, "
                "within what was read last, or to 0"
            )
        if length > first and self.recent is not None:
            self.after, self.recent = None, self.recent[:, : length - first]
        else:
            self.after = self.before if length else None
            self.before = self.recent = None
        self.length = length


class LayerState:
    """What one transformer layer remembers."""

    def __init__(self, capacity: int = 0) -> None:
        self.self_attention: GrowingKeyValues | ChunkKeyValues = GrowingKeyValues(capacity)
        self.cross_attention = SourceKeyValues()

    def reorder(self, rows: Tensor, changed: Tensor | None = None) -> None:
        """Row r now holds what row rows[r] held; the source's keys and values stay where they are. `changed`
        names the rows for which that is another one."""
        self.self_attention.reorder(rows, changed)

    def crop(self, length: int) -> None:
        """Forget all tokens but the first `length`; ValueError, before anything changes, where that cannot
        be."""
        self.self_attention.crop(length)


class GatedLayerState(LayerState):
    """What a layer of gated attention remembers; `chunk` is None where attention reaches all tokens."""

    def __init__(self, capacity: int = 0, *, chunk: int | None = None) -> None:
        super().__init__(capacity)
        if chunk is not None:
            self.self_attention = ChunkKeyValues(chunk, capacity)
        self.moving_average = MovingAverage()

    def reorder(self, rows: Tensor, changed: Tensor | None = None) -> None:
        super().reorder(rows, changed)
        self.moving_average.reorder(rows)

    def crop(self, length: int) -> None:
        self.moving_average.crop(length)
        super().crop(length)


class DecodingState:
    """What a stack of layers remembers of R rows of text.

    `capacity` is how many tokens a row is expected to reach (0: not known), `rows_per_source` how many
    consecutive rows continue the same source. `memory` makes what one layer needs, from the capacity.
    """

    def __init__(
        self,
        layers: int,
        *,
        capacity: int = 0,
        rows_per_source: int = 1,
        memory: Callable[[int], LayerState] | None = None,
    ) -> None:
        self.layers = [LayerState(capacity) if memory is None else memory(capacity) for _ in range(layers)]
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
        order = rows.tolist()  # the only look at the values: it stalls an accelerator
        sources = [row // beams for row in order[::beams]]
        if len(order) % beams or any(row // beams != sources[at // beams] for at, row in enumerate(order)):
            raise ValueError(
                f"rows {order} tear apart the {beams} rows that continue one source; "
                f"each group of {beams} must come from one group"
            )
        held = next((layer.cross_attention.held for layer in self.layers), None)
        selected = None
        if held is not None and sources != list(range(held[0].shape[0])):
            selected = torch.tensor(sources, device=rows.device)
        changed = None
        if self.layers and self.layers[0].self_attention.rows == len(order):
            others = [at for at, row in enumerate(order) if at != row]
            if not others:
                return
            changed = torch.tensor(others, device=rows.device)
        for layer in self.layers:
            layer.reorder(rows, changed)
            if selected is not None:
                layer.cross_attention.select(selected)

    def crop(self, length: int) -> None:
        """Forget all tokens but the first `length` of every row; ValueError where a layer cannot."""
        if length < 0:
            raise ValueError(f"length is {length}; it must be at least 0")
        for layer in self.layers:
            layer.crop(length)
        self.length = min(self.length, length)
