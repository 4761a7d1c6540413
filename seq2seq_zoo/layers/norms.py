"""Normalisation over the width.

`nn.LayerNorm` serves the families that subtract the mean; this file adds the one that does not.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Scale a vector to unit root mean square.

    y = weight · x / √(mean(x²) + eps)    (Zhang and Sennrich 2019, arXiv:1910.07467, equation 4)

    x [..., D] → y [..., D], in the dtype of `weight`. The mean square of half-precision input is taken in
    float32, and float32 input meets half-precision weights where a residual stream is kept in float32.
    """

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        unit = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * unit.to(self.weight.dtype)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, eps={self.eps}"
