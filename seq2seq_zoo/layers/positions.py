"""How positions enter.

    LearnedPositions        a vector a position, added to the token's           (MVP, BertGeneration)
    RelativePositionBias    a number a head and bucket of distance, added to the scores   (mT5)
    RelativeDistances       a vector a distance, compared with queries and keys  (BertGeneration, on request)

The first is part of the input embedding; the second is handed to a stack, which computes it once a pass for
all layers; the third is handed to each attention, because it needs the attention's own queries and keys.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LearnedPositions(nn.Module):
    """A learnt vector for each absolute position.

    positions start … start + L - 1 → [L, D]

    The table has `offset` rows in front that no position uses: fairseq kept them for its padding index, and
    BART's checkpoints still carry them. Raises ValueError for a position beyond the table.
    """

    def __init__(self, positions: int, width: int, *, offset: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(positions + offset, width))
        nn.init.normal_(self.weight)
        self.offset = offset

    def forward(self, start: int, length: int) -> Tensor:
        known = self.weight.shape[0] - self.offset
        if start + length > known:
            raise ValueError(
                f"the sequence reaches position {start + length}; the model has learnt positions for {known} "
                "(max_position_embeddings)"
            )
        first = self.offset + start
        return self.weight[first : first + length]

    def at(self, positions: Tensor) -> Tensor:
        """The vectors of positions that a caller names: int64 [...] → [..., D].

        Raises ValueError for a position outside the table (on the CPU, where looking costs nothing).
        """
        known = self.weight.shape[0] - self.offset
        if positions.device.type == "cpu" and positions.numel() and not torch.compiler.is_compiling():
            low, high = (int(bound) for bound in positions.aminmax())
            if low < 0 or high >= known:
                raise ValueError(
                    f"position_ids holds {low if low < 0 else high}; the model has learnt positions for "
                    f"0 … {known - 1} (max_position_embeddings)"
                )
        return F.embedding(positions + self.offset, self.weight)


def relative_position_buckets(
    distance: Tensor, *, buckets: int, max_distance: int, bidirectional: bool
) -> Tensor:
    """The bucket of each distance (key position minus query position), int64 of any shape → int64 of that
    shape.

    With n buckets for a direction and n/2 = e: distances below e have a bucket each; from e to `max_distance`
    the other n - e grow logarithmically, e + ⌊(n - e) · ln(d/e) / ln(max_distance/e)⌋; all beyond share the
    last. Bidirectional attention gives half of the buckets to keys behind the query and half to keys ahead of
    it; causal attention sees no keys ahead. (Raffel et al. 2020, arXiv:1910.10683, section 2.1; the
    boundaries are Mesh TensorFlow's, with the logarithm taken in float32, as the checkpoints were trained.)
    """
    if bidirectional:
        buckets //= 2
        first = (distance > 0).long() * buckets
        distance = distance.abs()
    else:
        first = torch.zeros_like(distance)
        distance = (-distance).clamp(min=0)
    exact = buckets // 2
    ratio = torch.log(distance.float() / exact) / math.log(max_distance / exact)
    logarithmic = exact + (ratio * (buckets - exact)).long()
    logarithmic = logarithmic.clamp(max=buckets - 1)
    return first + torch.where(distance < exact, distance, logarithmic)


class RelativePositionBias(nn.Module):
    """A learnt number for each head and bucket of distance, added to the attention scores.

    bias[h, i, j] = weight[bucket(j - i), h]    (Raffel et al. 2020, arXiv:1910.10683, section 2.1)

    → [1, H, L, S], for queries at positions past … past + L - 1 and keys at 0 … S - 1. `past` may be a tensor
    of one number, which a traced graph takes as it comes.
    """

    def __init__(self, heads: int, *, buckets: int, max_distance: int, bidirectional: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(buckets, heads))
        nn.init.normal_(self.weight)
        self.buckets, self.max_distance, self.bidirectional = buckets, max_distance, bidirectional

    def forward(self, queries: int, keys: int, past: int | Tensor = 0) -> Tensor:
        device = self.weight.device
        # Only the distance matters: look up the L + S - 1 that occur, then lay them out.  → [distances, H]
        distance = torch.arange(1 - queries, keys, device=device) - past
        bucket = relative_position_buckets(
            distance,
            buckets=self.buckets,
            max_distance=self.max_distance,
            bidirectional=self.bidirectional,
        )
        return laid_out(self.weight[bucket].t(), keys)[None]  # [H, L + S - 1] → [1, H, L, S]


def laid_out(by_distance: Tensor, keys: int) -> Tensor:
    """Numbers by distance, from the last query's to the first key to the first query's to the last, as
    scores: [..., L + S - 1] → [..., L, S]."""
    # Row i of the layout is the window of S distances that ends i columns before the last.
    if torch.compiler.is_compiling():  # a traced graph would hold for this number of keys alone
        queries = by_distance.shape[-1] - keys + 1
        first = torch.arange(queries - 1, -1, -1, device=by_distance.device)[:, None]
        return by_distance[..., first + torch.arange(keys, device=by_distance.device)]
    return by_distance.unfold(-1, keys, 1).flip(-2)


class RelativeDistances(nn.Module):
    """A learnt vector for each distance between a query and a key, compared with both.

    With a_ij = weight[clip(i - j, -(K - 1), K - 1) + K - 1] for the query at position i and the key at j, the
    score q_i · k_j of attention gains

        q_i · a_ij                 (Shaw et al. 2018, arXiv:1803.02155, equations 3-5)
        q_i · a_ij + k_j · a_ij    with `compares_keys` (Huang et al. 2020, arXiv:2009.13658, method 4)

    queries [B, H, L, E], keys [B, H, S, E] → [B, H, L, S], not yet scaled. The keys stand at positions
    0 … S - 1 and the queries at the last L of them. One table [2K - 1, E] serves all heads.
    """

    def __init__(self, positions: int, head_dim: int, *, compares_keys: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(2 * positions - 1, head_dim))
        nn.init.normal_(self.weight)
        self.compares_keys = compares_keys

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        length, size = queries.shape[2], keys.shape[2]
        device = self.weight.device
        # L + S - 1 distances occur, from 1 - L to S - 1. Both are compared with each of them once, and pair
        # (i, j) picks its own: query l, at position S - L + l, has key s at distance S - L + l - s.
        furthest = self.weight.shape[0] // 2
        distances = torch.arange(1 - length, size, device=device).clamp(-furthest, furthest)
        by_distance = self.weight[distances + furthest].t().to(queries.dtype)  # [E, L + S - 1]
        column = torch.arange(length, device=device)[:, None] + (size - 1) - torch.arange(size, device=device)
        scores = (queries @ by_distance).gather(-1, column.expand(*queries.shape[:2], length, size))
        if self.compares_keys:
            back = column.t().expand(*keys.shape[:2], size, length)
            scores = scores + (keys @ by_distance).gather(-1, back).transpose(-1, -2)
        return scores


class SimpleBias(nn.Module):
    """A learnt number for each distance, added to the scores of a single head.

    bias[i, j] = weight[limit - 1 + j - i]    (Ma et al. 2022, MEGA, arXiv:2209.10655, section 3.3)

    → [L, S], for queries at places first … first + L - 1 and keys at 0 … S - 1. No place may be `limit` or
    beyond: with chunks it is their size, else `positions`, the number of positions that the table of
    2 · positions - 1 numbers was made for.
    """

    def __init__(self, positions: int, limit: int | None = None) -> None:
        super().__init__()
        self.limit = positions if limit is None else limit
        self.weight = nn.Parameter(torch.empty(2 * positions - 1))
        nn.init.normal_(self.weight)

    def forward(self, queries: int, keys: int, first: int = 0) -> Tensor:
        longest = max(first + queries, keys)
        if longest > self.limit:
            raise ValueError(
                f"attention reaches over {longest} positions; the simple bias has learnt {self.limit} "
                "(max_positions, or chunk_size where there is one)"
            )
        lowest = self.limit - first - queries  # the index of the last query's distance to the first key
        return laid_out(self.weight[lowest : lowest + queries + keys - 1], keys)


class RotaryBias(nn.Module):
    """A number for each distance, from two learnt vectors that turn with it, added to the scores of a
    single head.

    bias[i, j] = (R_i α) · (R_j β)    (Ma et al. 2022, MEGA, arXiv:2209.10655, section 3.3; R_i turns the k-th
                                      pair of n = E / 2, entries k and n + k, by the angle i · 10000^(-k / n))

    → [L, S], for queries at places first … first + L - 1 and keys at 0 … S - 1, any of them. As a turn by i
    and one back by j is one by i - j, only distances are computed."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(1, size))
        self.beta = nn.Parameter(torch.empty(1, size))
        nn.init.normal_(self.alpha)
        nn.init.normal_(self.beta)
        # Every checkpoint holds this 0, by which the authors' code knew its own dtype.
        self.register_buffer("dtype_mark", torch.zeros(1))

    def forward(self, queries: int, keys: int, first: int = 0) -> Tensor:
        a, b = self.alpha[0].chunk(2), self.beta[0].chunk(2)
        pairs, device = a[0].shape[0], self.alpha.device
        wide = (
            torch.float32 if device.type == "mps" else torch.float64
        )  # distances may be large: turn exactly
        speed = 10000.0 ** (-torch.arange(pairs, dtype=wide, device=device) / pairs)
        distance = torch.arange(1 - first - queries, keys - first, dtype=wide, device=device)
        angle = distance[:, None] * speed  # [L + S - 1, E / 2]
        cosine, sine = angle.cos().to(a[0].dtype), angle.sin().to(a[0].dtype)
        by_distance = cosine @ (a[0] * b[0] + a[1] * b[1]) + sine @ (a[1] * b[0] - a[0] * b[1])
        return laid_out(by_distance, keys)
