"""Draws from distributions over hundreds of thousands of tokens: torch.multinomial's own, sooner.

torch draws token i, of probability pᵢ, as the one whose turn comes first: each waits for a time
tᵢ = −log(1 − uᵢ), exponentially distributed, and argmax pᵢ / tᵢ is drawn (the first n, without replacement).
On most CPUs the times are made one after the other; here the uniform numbers uᵢ are, as there, and the
logarithms are vectorised, or taken for the possible tokens alone. The same seed gives the same tokens, and
leaves the generator in the same state. Where torch makes its times in another way, it is left to it.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from seq2seq_zoo.generation.peaks import WIDE, topk

FEW = 1024


def draw(likely: Tensor, count: int = 1) -> Tensor:
    """torch.multinomial(likely, count): `count` different tokens of each row, [R, V] float32 → [R, count].

    Raises RuntimeError for rows that are no distribution, as torch does.
    """
    rows, width = likely.shape
    ours = width >= WIDE and likely.device.type == "cpu" and likely.dtype == torch.float32
    if not ours or not bool(likely.sum().isfinite()) or not times_are_made_one_by_one():
        return torch.multinomial(likely, num_samples=count)
    uniform = torch.empty(rows, width, dtype=torch.float64).uniform_()
    possible = [row.nonzero()[:, 0] for row in likely]
    if all(count <= len(places) <= FEW for places in possible):
        drawn = [
            places[(row[places] / _times(u[places])).topk(count).indices]
            for row, u, places in zip(likely, uniform, possible, strict=True)
        ]
        return torch.stack(drawn)
    return topk(likely / _times(uniform), count)[1]


def _times(uniform: Tensor) -> Tensor:
    """Exponentially distributed times of uniform numbers, as torch rounds them: float64 → float32."""
    return uniform.neg().log1p_().neg_().float()


@functools.cache
def times_are_made_one_by_one() -> bool:
    """Whether torch makes them of the uniform numbers that a generator gives next; some builds do not."""
    theirs, ours = torch.Generator(), torch.Generator()
    theirs.manual_seed(0)
    ours.manual_seed(0)
    times = torch.empty(2 * WIDE).exponential_(generator=theirs)
    made = _times(torch.empty(2 * WIDE, dtype=torch.float64).uniform_(generator=ours))
    return torch.equal(times, made) and torch.equal(theirs.get_state(), ours.get_state())
