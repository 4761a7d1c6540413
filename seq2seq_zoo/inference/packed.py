"""Weights laid out once for the matrix kernels of this machine.

A matrix kernel reads its weight in blocks. Given an ordinary weight it brings it into that order in every
call, or reads it in an order that memory dislikes; given a packed one it need not. `PackedLinear` keeps,
besides its weight, a copy that oneDNN has laid out, and uses whichever of the two is faster for the
number of rows at hand:

    float32     a few rows read the weight itself, in the forms of `layers.linear`; up to 64 the packed copy
    bfloat16    all read the packed copy

The copy is made when a pass first needs it: a layer that is only read for other numbers of rows, as those
of an encoder, costs nothing. It is remade where the weight has changed, unless through `.data`: of such
changes PyTorch keeps no count. The layer stays a whole linear layer: it saves, moves and loads as ever, and
training drops the copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.linear import Linear, is_free, processor, product, weight_and_bias

PackingT = TypeVar("PackingT", bound="Packing")

PACKED = (torch.float32, torch.bfloat16)
"""The dtypes of weights that are packed."""


class Pack(NamedTuple):
    """A packed copy, and what it is a copy of."""

    weight: Tensor
    source: tuple[int, ...]
    held: Tensor
    """The weight that was copied: while it is held, no other one can come to lie in its place."""


def source_of(tensors: Iterable[Tensor]) -> tuple[int, ...]:
    """The places and versions of tensors, which change when one of them is exchanged or written to; as long
    as somebody holds what they were, for else another tensor may be given the place."""
    return tuple(
        number
        for tensor in tensors
        for number in (tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version)
    )


class Packing(nn.Module):
    """What layers that keep packed copies have in common: when these go.

    Training makes a layer the plain one that it was. Moved or cast it packs anew, and what is copied or
    pickled of it has no packs.
    """

    plain: ClassVar[type[nn.Module]]
    _pack: Any = None
    """What is packed, if anything is yet."""

    def train(self: PackingT, mode: bool = True) -> PackingT:
        if mode:
            self.__dict__.pop("_pack", None)
            self.__class__ = self.plain  # type: ignore[assignment]
            return self.train()
        return super().train(mode)

    def _apply(self: PackingT, function: Callable[[Tensor], Tensor], recurse: bool = True) -> PackingT:
        """What `to`, `half`, `cuda` and their like come to: the copy is of what is no more."""
        self.__dict__.pop("_pack", None)
        return super()._apply(function, recurse)  # type: ignore[no-untyped-call,no-any-return]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_pack"}


class PackedLinear(Packing, Linear):
    """y = x Wᵀ + bias, x [..., D] → y [..., F], by a packed copy of W where that is faster.

    The numbers of nn.Linear but for rounding.
    """

    plain = nn.Linear
    _pack: Pack | None

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = weight_and_bias(self)
        if meets_packed(x, weight):
            return multiply(x, self.packed(weight), bias)
        return product(x, weight, bias)

    def packed(self, weight: Tensor) -> Tensor:
        """The packed copy of the weight as it is now."""
        pack, source = self._pack, source_of([weight])
        if pack is None or pack.source != source:
            weight = weight.detach()
            self._pack = pack = Pack(pack_weight(weight), source, weight)
        return pack.weight


def meets_packed(x: Tensor, weight: Tensor) -> bool:
    """Whether x [..., D] is to be multiplied by a packed copy of a weight [F, D], and not by the weight."""
    return (
        not torch.compiler.is_compiling()  # whose graph shall hold for other numbers of rows too
        and reads_packed(weight, x.numel() // weight.shape[1], processor())
        and is_free(x, weight, PACKED)
        and can_pack(weight.dtype)
    )


def reads_packed(weight: Tensor, rows: int, maker: str) -> bool:
    """Whether so many rows meet a packed weight [F, D] sooner than the weight itself."""
    if rows == 0 or not maker:
        return False
    if weight.dtype is torch.bfloat16:
        return True
    if weight.dtype is not torch.float32 or rows > 64:
        return False
    return rows >= 3 if maker == "amd" else rows >= 4 and weight.numel() >= 2**19


@cache
def can_pack(dtype: torch.dtype) -> bool:
    """Whether this machine and this PyTorch have the packed product, which is not a public one: tried on a
    small one, whose numbers must be right."""
    try:
        h, weight, bias = (torch.linspace(-1, 1, n, dtype=dtype) for n in (96, 64 * 32, 64))
        h, weight = h.view(3, 32), weight.view(64, 32)
        found = multiply(h, pack_weight(weight), bias)
        expected = F.linear(h.double(), weight.double(), bias.double())
        return torch.allclose(found.double(), expected, rtol=0.02, atol=0.02)
    except (AttributeError, RuntimeError, TypeError):
        return False


def pack_weight(weight: Tensor) -> Tensor:
    """A weight [F, D] in the order of oneDNN's kernels; an opaque tensor of the same shape and dtype."""
    return torch.ops.mkldnn._reorder_linear_weight(weight)  # type: ignore[no-any-return]


def multiply(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """x [..., D], packed weight [F, D] → x Wᵀ + bias [..., F]."""
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")  # type: ignore[no-any-return]
