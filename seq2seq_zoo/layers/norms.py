"""Normalisation: over the width, with the mean subtracted (LayerNorm) or not (RMSNorm, ScaleNorm), or of each
of the width's numbers over all positions of a batch (BatchNorm, SyncBatchNorm).

LayerNorm and RMSNorm take a residual stream that is wider than their weights, such as a sum kept in float32
because it may outgrow float16, and return the dtype of their weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HALF = (torch.float16, torch.bfloat16)


class LayerNorm(nn.LayerNorm):
    """Move a vector to mean 0 and scale it to variance 1.

    y = weight · (x - mean(x)) / √(var(x) + eps) + bias    (Ba et al. 2016, arXiv:1607.06450, equation 4)

    x [..., D] → y [..., D], in the dtype of `weight`, computed in the wider of the two.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.elementwise_affine or x.dtype == self.weight.dtype:
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

    def __init__(self, width: int, eps: float = 1e-6, *, affine: bool = True) -> None:
        super().__init__()
        self.width, self.eps = width, eps
        self.weight = nn.Parameter(torch.ones(width)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        if x.dtype not in HALF and (weight is None or weight.dtype == x.dtype):
            return F.rms_norm(x, (self.width,), weight, self.eps)  # the same in one call
        unit = _unit(x, self.eps)
        return unit.to(x.dtype) if weight is None else weight * unit.to(weight.dtype)

    def extra_repr(self) -> str:
        return f"{self.width}, eps={self.eps}"


class ScaleNorm(nn.Module):
    """Scale a vector to unit root mean square, and all of it by one learnt number.

    y = scalar · x / √(mean(x²) + eps)    (Nguyen and Salazar 2019, arXiv:1910.05895, equation 5, with the
                                          root mean square for the length, as MEGA has it)

    x [..., D] → y [..., D], in the dtype of `scalar`.
    """

    def __init__(self, eps: float = 1e-5, *, affine: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.scalar = nn.Parameter(torch.ones(1)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        unit = _unit(x, self.eps)
        return unit.to(x.dtype) if self.scalar is None else self.scalar * unit.to(self.scalar.dtype)


def _unit(x: Tensor, eps: float) -> Tensor:
    """x at unit root mean square; of half precision, in float32."""
    wide = x.float() if x.dtype in HALF else x
    return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)


class BatchNorm(nn.BatchNorm1d):
    """Move each of the D numbers to mean 0 and variance 1 over all positions of a batch, padding among
    them; in inference by the means that training has kept (Ioffe and Szegedy 2015, arXiv:1502.03167).

    x [B, L, D] → [B, L, D]
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class SyncBatchNorm(nn.SyncBatchNorm):
    """BatchNorm over the batches of all processes that train together."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)
