"""The best of a wide row: argmax and top-k over a vocabulary of hundreds of thousands of tokens.

torch's own kernels read such a row one element at a time on a CPU.  A maximum per block is a vectorised
reduction, and the k largest elements lie in the k blocks with the largest maxima:

    row     · · · · 7 · | · 3 · · · · | 9 · · · · · | · · 8 · · ·        blocks of BLOCK elements
    maxima        7     |      3      |      9      |      8             one pass
    k = 2                               ^^^^^^^^^^^   ^^^^^^^^^^^        search only these

So both are exact.  Narrow rows and other devices take torch's kernels. The sum under a softmax is taken
block by block as well, so that no copy of the row is made.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 256
WIDE = 8192
PIECE = 2**18
"""Numbers that are summed at a time: 1 MiB, which stays in a core's own cache."""
LOW = -80.0
"""A score so far below the best adds nothing to a sum that has the best in it: V · e^-80 is below any eps."""


def argmax(scores: Tensor) -> Tensor:
    """Index of the largest of each row, the first one if several are: [R, V] → [R]."""
    width = scores.shape[1]
    if width < WIDE or scores.device.type != "cpu":
        return scores.argmax(dim=-1)
    whole = width // BLOCK * BLOCK
    maxima = _blocks(scores[:, :whole]).amax(dim=-1)  # [R, V] → [R, V / BLOCK]
    if whole < width:
        maxima = torch.cat((maxima, scores[:, whole:].amax(dim=-1, keepdim=True)), dim=1)
    # the short last block is searched as the row's last BLOCK elements; chosen, it beats all before it
    start = (maxima.argmax(dim=-1, keepdim=True) * BLOCK).clamp_(max=width - BLOCK)
    inside = start + torch.arange(BLOCK)  # [R, BLOCK]
    place = scores.gather(1, inside).argmax(dim=-1, keepdim=True)
    return inside.gather(1, place).squeeze(1)


def topk(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and indices of the k largest of each row, in descending order: [R, V] → [R, k] twice."""
    rows, width = scores.shape
    blocks = width // BLOCK
    if width < WIDE or k > blocks // 4 or scores.device.type != "cpu":
        values, indices = scores.topk(k, dim=-1)
        return values, indices
    maxima = _blocks(scores[:, : blocks * BLOCK]).amax(dim=-1)
    starts = maxima.topk(k, dim=-1).indices * BLOCK  # [R, k]
    inside = (starts[..., None] + torch.arange(BLOCK)).flatten(1)  # [R, k · BLOCK]
    rest = torch.arange(blocks * BLOCK, width).expand(rows, -1)
    inside = torch.cat((inside, rest), dim=1)
    values, places = scores.gather(1, inside).topk(k, dim=-1)
    return values, inside.gather(1, places)


def log_sum_exp(scores: Tensor, largest: Tensor) -> Tensor:
    """log Σ exp(s) of each row, whose `largest` [R, 1] is known: [R, V], of any dtype → [R, 1] float32."""
    rows, width = scores.shape
    total = torch.zeros_like(largest)
    piece = max(PIECE // max(rows, 1), BLOCK)
    for start in range(0, width, piece):
        below = scores[:, start : start + piece] - largest
        # some processors take forty times as long for an exponential that underflows
        total += below.clamp_(min=LOW).exp_().sum(dim=-1, keepdim=True)
    return total.log_() + largest


def _blocks(scores: Tensor) -> Tensor:
    """[R, B · BLOCK] → [R, B, BLOCK], a view whatever the strides are."""
    row, element = scores.stride()
    return scores.as_strided(
        (scores.shape[0], scores.shape[1] // BLOCK, BLOCK), (row, element * BLOCK, element)
    )
