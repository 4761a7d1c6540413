"""Chunks: attention that stays within pieces of a sequence, so that its cost grows with the length only.

    columns   0 1 2 3 │ 4 5 6 7 │ 8 9            chunks of 4, a pass over all: 3 chunks, [B, 3, 4, ·]
    past 6                  6 7 │ 8 9            a pass over four more: 2 chunks, queries from 6 on
    past 8                        8 9            a pass within one chunk: [B, 1, 2, ·]

One `Chunks` a pass lays queries, keys and values out in chunks, and says who may attend to whom there; all
layers share it. Without chunks, everything is one. What does not fill a chunk is padded here, and masked.

In a causal model, chunks begin at a row's first real token, so that padding on the left changes nothing: rows
are laid out one by one where they begin at different places. In an encoder they begin at the first column.
"""

from __future__ import annotations

from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from .masks import may_attend

PIECE = 1024
"""About so many positions are in one of the `pieces` of a pass."""


class Chunks:
    """How one pass falls into chunks: m of them, with l queries and s keys each.

    queries            L, the positions of this pass; `past` more stand before them
    size               of a chunk; None: one chunk holds all
    padding            bool [B, past + L], True = real, or None if all are
    causal             whether a position sees those before it only

    mask               bool [B or 1, m or 1, l, s], True = may attend, or None if all may; a query that may
                       attend to nothing attends to itself (in an encoder, to its chunk)
    strict_mask        the same, but that such a query attends to nothing
    count              how many keys a query's chunk has; in a causal model, how many stand from the first
                       real one to the query, both included, and padding between: a number, or [l, 1],
                       or [B, m, l or 1, 1]
    first              the place in its chunk of the first query
    real               padding of the L positions themselves, [B, L], or None
    """

    def __init__(
        self,
        queries: int,
        *,
        past: int = 0,
        size: int | None = None,
        padding: Tensor | None = None,
        causal: bool,
        device: torch.device | None = None,
    ) -> None:
        self.queries, self.past, self.end = queries, past, past + queries
        self.real = None if padding is None else padding[:, past:]
        self._size = self.end if size is None else size
        self._base = past // self._size * self._size  # the column where the first chunk of the pass begins
        self._columns: Tensor | None = None  # [B, m · s]: which column stands where, if rows differ in that
        self._places: Tensor | None = None  # [B, L]: where the pass's positions stand
        if size is not None and causal and padding is not None:
            self._begin_at_real_tokens(padding, size)
        if self._columns is None:
            self.chunks = 1 if size is None else (self.end - self._base + size - 1) // size
            self.first = past - self._base
        self._alone = self._columns is None and self.chunks == 1
        if not self._alone:
            self.first = 0
        self._given = padding, causal, device
        self._see(padding, causal, device)

    def _begin_at_real_tokens(self, padding: Tensor, size: int) -> None:
        """Lay the rows out one by one, unless their chunks begin at the same columns as everybody's."""
        leading = (~padding).cumprod(1).sum(1)  # [B]
        base = leading + (self.past - leading).clamp(min=0) // size * size  # [B]
        if torch.compiler.is_compiling():  # a graph cannot look where they begin
            self._base = 0
        elif bool((leading % size == 0).all()):
            return
        else:
            self._base = int(base.min())
        self.chunks = max(1, (self.end - self._base + size - 1) // size)
        at = torch.arange(self.chunks * size, device=padding.device)
        self._columns = base[:, None] + at
        self._places = torch.arange(self.past, self.end, device=padding.device) - base[:, None]

    def _see(self, padding: Tensor | None, causal: bool, device: torch.device | None) -> None:
        """Work out masks and counts."""
        queries, keys, held = self._size, self._size, padding
        if self._alone:
            queries, keys = self.queries, self.end - self._base
            held = None if padding is None else padding[:, self._base :]
        elif self._columns is not None and padding is not None:
            held = padding.gather(1, self._columns.clamp(max=self.end - 1)) & (self._columns < self.end)
        else:
            over = self._base + self.chunks * self._size - self.end
            if padding is not None:
                held = F.pad(padding[:, self._base :], (0, over))
            elif not causal and (torch.compiler.is_compiling() or over):  # causal, nobody looks so far ahead
                held = torch.arange(self.chunks * self._size, device=device)[None] < self.end - self._base
        if held is not None:
            held = held.reshape(held.shape[0] * self.chunks, keys)
        mask = may_attend(held, queries=queries, keys=keys, past=self.first, causal=causal, device=device)
        strict = mask if mask is None or held is None else mask & held[:, None, None]
        self.mask = None if mask is None else self._by_chunk(mask)
        self.strict_mask = None if strict is None else self._by_chunk(strict)
        count: Tensor | int = keys
        if causal:
            count = torch.arange(self.first + 1, self.first + queries + 1, device=device)[:, None]
            if held is not None:
                count = (count - (~held).cumprod(1).sum(1)[:, None, None, None]).clamp(min=1)
        elif held is not None:
            count = held.sum(1)[:, None, None, None].clamp(min=1)
        self.count = count if isinstance(count, int) or count.dim() == 2 else self._by_chunk(count)

    def _by_chunk(self, x: Tensor) -> Tensor:
        """[B · m, 1, l, s] → [B, m, l, s]"""
        return x if x.shape[0] == 1 else x.view(-1, self.chunks, *x.shape[2:])

    @cached_property
    def pieces(self) -> list[tuple[slice, Chunks]]:
        """The pass cut where chunks end: which positions a piece has, and how it falls into chunks itself.

        Nobody attends from one piece to another. There is none where a pass cannot be cut: it has but one
        chunk, something stands before it, or its rows begin at different places.
        """
        if self._alone or self.past or self._columns is not None:
            return []
        padding, causal, device = self._given
        length = max(1, PIECE // self._size) * self._size
        starts = [*range(0, max(1, self.queries - self._size), length)]  # no last chunk stands alone
        pieces = []
        for start, end in zip(starts, [*starts[1:], self.queries], strict=True):
            at = slice(start, end)
            held = None if padding is None else padding[:, at]
            part = Chunks(end - start, size=self._size, padding=held, causal=causal, device=device)
            pieces.append((at, part))
        return pieces

    @property
    def keys(self) -> int:
        """s, the keys of a chunk."""
        return self.end - self._base if self._alone else self._size

    @property
    def queries_of_a_chunk(self) -> int:
        """l, the queries of a chunk."""
        return self.queries if self._alone else self._size

    def split(self, x: Tensor, start: int) -> Tensor:
        """x [B, n, E], of columns start … start + n - 1 = end - 1, in chunks: [B, m, l or s, E]."""
        if self._columns is not None:
            at = (self._columns - start).clamp(0, x.shape[1] - 1).unsqueeze(-1).expand(-1, -1, x.shape[-1])
            return x.gather(1, at).view(x.shape[0], self.chunks, self._size, -1)
        if start < self._base:
            x = x[:, self._base - start :]
        if self._alone:
            return x.unsqueeze(1)
        before = max(0, start - self._base)
        x = F.pad(x, (0, 0, before, self.chunks * self._size - before - x.shape[1]))
        return x.reshape(x.shape[0], self.chunks, self._size, -1)

    def join(self, x: Tensor, own: Tensor) -> Tensor:
        """What the queries have got, [B, m, l, E], by position again: [B, L, E]. Padding before a row's first
        chunk gets its `own`, [B, L, E]."""
        if self._alone:
            return x.flatten(1, 2)
        if self._places is not None:
            places = self._places.unsqueeze(-1)
            return torch.where(places < 0, own, x.flatten(1, 2).gather(1, places.clamp(min=0).expand_as(own)))
        first = self.past - self._base
        if torch.compiler.is_compiling():  # what is cut off a whole number of chunks would be of one length
            at = torch.arange(first, first + self.queries, device=x.device)
            return x[:, at // self._size, at % self._size]
        return x.flatten(1, 2)[:, first : first + self.queries]
