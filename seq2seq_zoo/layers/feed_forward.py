"""Position-wise feed-forward blocks: every position alone, up to F numbers and back to D.

    FeedForward            x ─ up ─ activation ─ dropout ─ down ─
    GatedFeedForward       x ─┬─ gate ─ activation ─┐
                              └─ up ────────────── (×) ─ dropout ─ down ─

The hidden product is where half precision runs out of range first: two numbers near 300 make 90,000, and
float16 ends at 65,504. So in float16 what follows the activation, the product and the way down, is computed
in float32 and stays in float32; the residual stream it is added to becomes float32 with it. A loader that
keeps `down` in float32 spares the conversion of its weight in every call.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .activations import Activation


def _within_range(x: Tensor) -> Tensor:
    return x.float() if x.dtype == torch.float16 else x


def _project(down: nn.Linear, hidden: Tensor) -> Tensor:
    """down(hidden), in float32 where the activations left float16's range to others."""
    if hidden.dtype == down.weight.dtype:
        return down(hidden)  # type: ignore[no-any-return]
    if down.weight.dtype == torch.float16:
        bias = None if down.bias is None else down.bias.float()
        return F.linear(hidden, down.weight.float(), bias)
    return down(hidden.to(down.weight.dtype))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """Two linear layers around an activation.

    y = down(a(up(x)))    (Vaswani et al. 2017, arXiv:1706.03762, equation 2, with any activation a)

    x [B, L, D] → y [B, L, D]; `dropout`, a probability or a module, acts on the F hidden numbers.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        activation: Activation,
        *,
        bias: bool = True,
        dropout: float | nn.Module = 0.0,
    ) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden, bias=bias)
        self.down = nn.Linear(hidden, width, bias=bias)
        self.dropout = dropout if isinstance(dropout, nn.Module) else nn.Dropout(dropout)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.activation(_within_range(self.up(x)))  # [B, L, D] → [B, L, F]
        return _project(self.down, self.dropout(hidden))  # [B, L, F] → [B, L, D]


class GatedFeedForward(nn.Module):
    """A feed-forward block whose hidden numbers are gated by a second projection.

    y = down(a(gate(x)) ⊙ up(x))    (Shazeer 2020, arXiv:2002.05202, equations 5-6)

    x [B, L, D] → y [B, L, D]; `dropout` acts on the F hidden numbers.
    """

    def __init__(
        self, width: int, hidden: int, activation: Activation, *, bias: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=bias)
        self.up = nn.Linear(width, hidden, bias=bias)
        self.down = nn.Linear(hidden, width, bias=bias)
        self.dropout = nn.Dropout(dropout)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        gate = self.activation(_within_range(self.gate(x)))  # [B, L, D] → [B, L, F]
        hidden = gate * _within_range(self.up(x))
        return _project(self.down, self.dropout(hidden))  # [B, L, F] → [B, L, D]
