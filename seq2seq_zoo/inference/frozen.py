"""Linear layers that have given their weight up for a smaller one: what they have in common.

A rounded weight cannot be trained, nor saved in a checkpoint's layout, nor moved to another device. So a
frozen layer says what it is when any of these is asked of it; all else, its name, its place and its bias,
is as it was. Its `weight` has the shape and the dtype of the old one, and no values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import UsageError


class FrozenLinear(nn.Linear):
    """y = x Wᵀ + bias with a rounded W, x [..., D] → y [..., F]; a kind says how it rounds and multiplies."""

    kind: ClassVar[str]
    """What the weights are, in words."""

    @classmethod
    def freeze(cls, linear: nn.Linear, **options: Any) -> None:
        """Turn a linear layer into one of this kind, in place."""
        weight = linear.weight.detach()
        linear.weight = nn.Parameter(torch.empty_like(weight, device="meta"), requires_grad=False)
        linear.__class__ = cls
        assert isinstance(linear, FrozenLinear)
        with torch.no_grad():
            linear.take(weight, **options)

    def take(self, weight: Tensor) -> None:
        """Round the weight [F, D] and keep what `product` needs of it."""
        raise NotImplementedError

    def product(self, x: Tensor) -> Tensor:
        """x [R, D] → y [R, F], bias included."""
        raise NotImplementedError

    def cast(self, dtype: torch.dtype) -> None:
        """Make what is kept fit x of this dtype; nothing, where it fits any."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            raise UsageError(
                f"the layer's weights are {self.kind}, which cannot be trained; call eval() first"
            )
        flat = x.reshape(-1, self.in_features)
        return self.product(flat.to(self.weight.dtype)).view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.kind}"

    # ---- what a rounded weight cannot do ----

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        raise UsageError(
            f"{prefix}weight is {self.kind} and cannot be saved; save the model before optimize()"
        )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        raise UsageError(
            f"{prefix}weight is {self.kind} and cannot take other values; load them before optimize()"
        )

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenLinear:
        """What `to`, `half`, `cuda` and their like come to: a cast is of what is multiplied, not of W."""
        before = torch.zeros(1, dtype=self.weight.dtype)
        after = function(before)
        if after.device != before.device:
            raise UsageError(
                f"the weights are {self.kind} and cannot be moved to {after.device}; "
                "move the model before optimize(), and its other parts back"
            )
        self.weight = nn.Parameter(self.weight.to(after.dtype), requires_grad=False)
        if self.bias is not None:
            self.bias.data = self.bias.data.to(after.dtype)
        self.cast(after.dtype)
        return self
