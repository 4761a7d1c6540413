"""Packed layers that read the same x, as one product.

    x ─┬─ query                         ┌─ query
       ├─ key          is        x ─ W ─┼─ key             W: the three weights, one upon the other
       └─ value                         └─ value

In a step of decoding a product of few rows has to be begun, and its weight found in memory, before it reads
at full speed: one large product does that once. Where query would read its own weight and not a packed copy,
or one of the three is watched by a hook, or is no longer a packed layer, each makes its own product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from ..layers.attention import Attention
from ..layers.linear import weight_and_bias
from . import packed
from .packed import PackedLinear, Packing


class Together(NamedTuple):
    """The packed weights of several layers [F1 + F2 + …, D], their biases, how many outputs each has, and
    what these are copies of, which is held (see `packed.Pack`)."""

    weight: Tensor
    bias: Tensor | None
    outputs: list[int]
    source: tuple[int, ...]
    held: list[Tensor]


class PackedAttention(Packing, Attention):
    """Attention whose query, key and value of x itself are one product of a packed weight.

    The numbers of Attention but for rounding.
    """

    plain = Attention
    _pack: Together | None

    def _project(self, x: Tensor) -> tuple[Tensor, ...]:
        linears = self.query, self.key, self.value
        if not may_join(linears, x):
            return super()._project(x)
        parameters = [weight_and_bias(linear) for linear in linears]
        source = packed.source_of(tensor for pair in parameters for tensor in pair if tensor is not None)
        joined = self._pack
        if joined is None or joined.source != source:
            self._pack = joined = join(parameters, source)
        return packed.multiply(x, joined.weight, joined.bias).split_with_sizes(joined.outputs, dim=-1)


def may_join(linears: Sequence[nn.Module], x: Tensor) -> bool:
    """Whether the first of these layers would multiply x by a packed weight, and nobody minds that all do so
    together."""
    if _has_any_global_hook():  # type: ignore[no-untyped-call]
        return False
    for linear in linears:
        if type(linear) is not PackedLinear or linear._forward_hooks or linear._forward_pre_hooks:
            return False
        if "forward" in linear.__dict__:  # exchanged by somebody who wants to be called
            return False
    return packed.meets_packed(x, weight_and_bias(linears[0])[0])  # type: ignore[arg-type]


def join(parameters: Sequence[tuple[Tensor, Tensor | None]], source: tuple[int, ...]) -> Together:
    """Weights and biases of several layers as those of one."""
    weights = [weight.detach() for weight, _ in parameters]
    biases = [None if bias is None else bias.detach() for _, bias in parameters]
    held = [*weights, *(bias for bias in biases if bias is not None)]
    whole = None
    if len(held) > len(weights):
        pairs = zip(weights, biases, strict=True)
        whole = torch.cat([weight.new_zeros(len(weight)) if bias is None else bias for weight, bias in pairs])
    outputs = [len(weight) for weight in weights]
    return Together(packed.pack_weight(torch.cat(weights)), whole, outputs, source, held)
