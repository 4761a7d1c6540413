"""Normalisation over the width, with the mean subtracted (LayerNorm) or not (RMSNorm).

Both take a residual stream that is wider than their weights, such as a sum kept in float32 because it may
outgrow float16, and return the dtype of their weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm(nn.LayerNorm):
    """Move a vector to mean 0 and scale it to variance 1.

    y = weight · (x - mean(x)) / √(var(x) + eps) + bias    (Ba et al. 2016, arXiv:1607.06450, equation 4)

    x [..., D] → y [..., D], in the dtype of `weight`, computed in the wider of the two.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == self.weight.dtype:
            return super().forward(x)
        wide = torch.promote_types(x.dtype, self.weight.dtype)
        weight, bias = self.weight.to(wide), self.bias.to(wide)
        return F.layer_norm(x.to(wide), self.normalized_shape, weight, bias, self.eps).to(self.weight.dtype)


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
