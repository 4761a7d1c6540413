"""Experts in inference: packed, or rounded.

Of the three matrices of an expert, two read the same x. Laid one upon the other they are one product of twice
the outputs:

    x ─ gate_up ─┬─ activation ─┐
                 └──────────── (×) ─ down ─

An expert is packed when a token first chooses it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..layers.experts import Experts, Group
from ..layers.linear import is_unwatched, processor
from . import packed
from .packed import Packing


class ExpertPack(NamedTuple):
    """The packed matrices of one expert, [2 F, D] and [D, F], and what they are copies of, which is held (see
    `packed.Pack`)."""

    gate_up: Tensor
    down: Tensor
    source: tuple[int, ...]
    held: tuple[Tensor, Tensor, Tensor]


class PackedExperts(Packing, Experts):
    """Experts that keep, besides their matrices, packed copies, and use them where they are faster.

    The numbers of Experts but for rounding.
    """

    plain = Experts
    _pack: dict[int, ExpertPack] | None

    def run(self, x: Tensor, groups: Sequence[Group]) -> Tensor:
        weight = self.gate.weight
        if not (is_unwatched() and x.is_cpu and x.dtype is weight.dtype and packed.can_pack(weight.dtype)):
            return super().run(x, groups)
        source = packed.source_of((weight, self.up.weight, self.down.weight))
        maker = processor()
        made = []
        for expert, start, stop in groups:
            rows = x[start:stop]
            if packed.reads_packed(weight[0], stop - start, maker):
                made.append(self._run_packed(rows, self._packed(expert, source)))
            else:
                made.append(super().run(rows, [Group(expert, 0, stop - start)]))
        return torch.cat(made)

    def _run_packed(self, x: Tensor, pack: ExpertPack) -> Tensor:
        gate, up = packed.multiply(x, pack.gate_up, None).chunk(2, dim=-1)
        return packed.multiply(self.activation(gate) * up, pack.down, None)

    def _packed(self, expert: int, source: tuple[int, ...]) -> ExpertPack:
        if self._pack is None:
            self._pack = {}
        pack = self._pack.get(expert)
        if pack is None or pack.source != source:
            gate, up, down = (stack.weight[expert].detach() for stack in (self.gate, self.up, self.down))
            gate_up, packed_down = packed.pack_weight(torch.cat([gate, up])), packed.pack_weight(down)
            pack = ExpertPack(gate_up, packed_down, source, (gate, up, down))
            self._pack[expert] = pack
        return pack


class FrozenExperts(Experts):
    """Experts that have given their matrices up for smaller ones: two frozen linear layers each."""

    rounded_gate_up: nn.ModuleList
    rounded_down: nn.ModuleList

    @classmethod
    def freeze(cls, experts: Experts, freeze: Callable[[nn.Linear], None]) -> None:
        """Turn experts into frozen ones, in place; `freeze` does it to a linear layer."""

        def frozen(matrix: Tensor) -> nn.Linear:
            outs, ins = matrix.shape
            linear = nn.Linear(ins, outs, bias=False, device="meta").eval()
            linear.weight = nn.Parameter(matrix, requires_grad=False)
            freeze(linear)
            return linear

        gates, ups, downs = (part.weight.detach() for part in (experts.gate, experts.up, experts.down))
        experts.rounded_gate_up = nn.ModuleList(
            frozen(torch.cat(pair)) for pair in zip(gates, ups, strict=True)
        )
        experts.rounded_down = nn.ModuleList(frozen(down) for down in downs)
        del experts.gate, experts.up, experts.down
        experts.__class__ = cls

    def run(self, x: Tensor, groups: Sequence[Group]) -> Tensor:
        made = []
        for expert, start, stop in groups:
            gate, up = self.rounded_gate_up[expert](x[start:stop]).chunk(2, dim=-1)
            made.append(self.rounded_down[expert](self.activation(gate) * up))
        return torch.cat(made)
