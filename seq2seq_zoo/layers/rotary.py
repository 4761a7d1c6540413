"""Rotary positions: queries and keys turn with the place they stand at.

A head's E numbers are E / 2 pairs, entry k with entry k + E / 2. At position m pair k is turned by the angle
m · f_k, so that the product of a query at m and a key at n knows of m - n only:

    f_k = base^(-2k / E)                      (Su et al. 2021, RoFormer, arXiv:2104.09864, equations 14-16)
    f_k = base^(-2k / E) / λ_k                (LongRoPE, Ding et al. 2024, arXiv:2402.13753, equations 1-3)

LongRoPE's factors λ stretch the turns that a model was trained with, each pair's by its own, so that it reads
longer texts. There are two sets, one for rows as long as those of the first training and one for longer rows,
and with each set a scale by which what has turned is multiplied.

Angles, their sines and cosines are computed in float32, as the checkpoints were trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Rotation(NamedTuple):
    """How far the pairs of each position turn: cosine and sine, each [B or 1, 1, L, E / 2]."""

    cosine: Tensor
    sine: Tensor

    def turn(self, x: Tensor) -> Tensor:
        """The vectors x [B, H, L, E], turned."""
        first, second = x.chunk(2, dim=-1)
        return torch.cat(
            [first * self.cosine - second * self.sine, second * self.cosine + first * self.sine], dim=-1
        )


@dataclass(frozen=True)
class LongContext:
    """LongRoPE's two sets of factors, E / 2 numbers each, and scales.

    A row of more than `original_length` positions is turned by the long ones, all of it, any other by the
    short ones.
    """

    short_factors: Sequence[float]
    long_factors: Sequence[float]
    short_scale: float
    long_scale: float
    original_length: int


class Rotary:
    """The turns of heads of `size` numbers, E, by position; `long_context` adds LongRoPE."""

    def __init__(self, size: int, *, base: float, long_context: LongContext | None = None) -> None:
        self.size, self.base, self.long_context = size, base, long_context

    def __call__(self, positions: Tensor, *, long: Tensor | None = None, dtype: torch.dtype) -> Rotation:
        """positions int64 [B or 1, L] → Rotation in `dtype`; `long` bool [B] says which rows take the long
        factors (none, if absent)."""
        device = positions.device
        pair = torch.arange(0, self.size, 2, device=device).to(torch.float32) / self.size
        period = self.base**pair  # [E / 2]
        scale: Tensor | float = 1.0
        context = self.long_context
        if context is not None:

            def chosen(of_long: object, of_short: object) -> Tensor:
                by_kind = torch.tensor([of_short, of_long], dtype=torch.float32, device=device)
                return by_kind[
                    torch.zeros(1, dtype=torch.long, device=device) if long is None else long.long()
                ]

            period = (
                chosen(context.long_factors, context.short_factors)[:, None] * period
            )  # [B or 1, 1, E / 2]
            scale = chosen(context.long_scale, context.short_scale)[:, None, None]
        angle = positions.to(torch.float32)[..., None] * (1.0 / period)  # [B or 1, L, E / 2]
        cosine, sine = (angle.cos() * scale).to(dtype), (angle.sin() * scale).to(dtype)
        return Rotation(cosine[:, None], sine[:, None])
