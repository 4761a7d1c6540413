"""A mixture of experts: a feed-forward block of which every token uses a small part (Shazeer et al. 2017,
arXiv:1701.06538).

    x ─ router ─→ for each token, experts and weights
      └ a copy for each choice, sorted by expert

           0 0 0 | 1 | 3 3        three tokens chose expert 0, one 1, none 2, two 3
           ─┬─ gate ─ activation ─┐
            └─ up ────────────── (×) ─ down ─        each group by the matrices of its own expert

      └ sorted back: y = Σ weight · (what the chosen expert made of x)

The experts' matrices lie in stacks, [N, …]; those of an expert that no token has chosen are not read. So a
single token costs as much as the experts it has chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .activations import Activation
from .linear import product
from .router import SparseMixer

LARGEST = 256.0
"""What hidden numbers are brought down to in float16, so that neither they nor the sums of their products
with a matrix leave its range."""


class Group(NamedTuple):
    """The rows from `start` to `stop` are `expert`'s."""

    expert: int
    start: int
    stop: int


class StackedLinear(nn.Module):
    """A linear map without bias for each expert: weight [N, outs, ins].

    x [n, ins], sorted into groups → [n, outs], row by row with the matrix of the group's expert.
    """

    def __init__(self, experts: int, ins: int, outs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, outs, ins))
        nn.init.normal_(self.weight, std=ins**-0.5)

    def forward(self, x: Tensor, groups: Sequence[Group]) -> Tensor:
        # The gradient of weight[i] is as large as the whole stack; unbind makes one for all i together.
        matrices = self.weight.unbind() if torch.is_grad_enabled() else self.weight
        return torch.cat([product(x[start:stop], matrices[expert]) for expert, start, stop in groups])


class Experts(nn.Module):
    """N gated feed-forward blocks, and for each token those it has chosen.

    y = Σ_k weight_k · down_e(a(gate_e(x)) ⊙ up_e(x)),  e = chosen_k
    (Shazeer et al. 2017, arXiv:1701.06538, equation 1; Shazeer 2020, arXiv:2002.05202, equation 5)

    x [T, D], chosen int64 [T, k], weights [T, k] → y [T, D]. From float16 it comes in float32, as from every
    gated block.
    """

    def __init__(self, width: int, hidden: int, experts: int, activation: Activation) -> None:
        super().__init__()
        self.gate = StackedLinear(experts, width, hidden)
        self.up = StackedLinear(experts, width, hidden)
        self.down = StackedLinear(experts, hidden, width)
        self.activation = activation

    def forward(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        tokens, k = chosen.shape
        if torch.compiler.is_compiling() or x.is_meta:
            return self._by_all(x, chosen, weights)
        if tokens == 0:
            return x
        if tokens == 1:  # a step of decoding: there is nothing to sort
            groups = [Group(expert, i, i + 1) for i, expert in enumerate(chosen[0].tolist())]
            return (weights[0, :, None] * self.run(x.expand(k, -1), groups)).sum(0, keepdim=True)
        order, groups = _sorted(chosen)
        made = self.run(x[order // k], groups)
        back = torch.empty_like(order)
        back[order] = torch.arange(order.shape[0], device=order.device)
        made = made[back].view(tokens, k, -1)  # [T · k, D], by expert → [T, k, D]
        return (weights[:, :, None] * made).sum(1)

    def _by_all(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """The same, from what every expert makes of every token: no traced graph turns on what is chosen, and
        on the meta device nothing is."""
        tokens, experts = x.shape[0], self.gate.weight.shape[0]
        groups = [Group(expert, expert * tokens, (expert + 1) * tokens) for expert in range(experts)]
        made = self.run(x.repeat(experts, 1), groups).view(experts, tokens, -1)
        shares = weights.new_zeros(tokens, experts).scatter_add(1, chosen, weights)  # [T, N]
        return (shares.t()[:, :, None] * made).sum(0)

    def run(self, x: Tensor, groups: Sequence[Group]) -> Tensor:
        """Each row by its group's expert: x [n, D] → [n, D]."""
        gate, up = self.gate(x, groups), self.up(x, groups)  # [n, D] → [n, F]
        if gate.dtype != torch.float16:
            return self.down(self.activation(gate) * up, groups)  # type: ignore[no-any-return]
        hidden = self.activation(gate.float()) * up.float()
        part = (hidden.detach().abs().amax(-1, keepdim=True) / LARGEST).clamp(min=1.0)
        return self.down((hidden / part).half(), groups).float() * part  # type: ignore[no-any-return]


def _sorted(chosen: Tensor) -> tuple[Tensor, list[Group]]:
    """The order that sorts the choices, numbered t · k + i for the i-th of token t, by expert; and the groups
    that they are in then."""
    choices = chosen.flatten()
    groups, start = [], 0
    for expert, count in enumerate(choices.bincount().tolist()):
        if count:
            groups.append(Group(expert, start, start + count))
            start += count
    return choices.argsort(stable=True), groups


class Mixed(NamedTuple):
    """What a mixture of experts makes of x [B, L, D], and its router's scores [B · L, experts]."""

    x: Tensor
    router_scores: Tensor


class MixtureOfExperts(nn.Module):
    """Router and experts, as the feed-forward block of a transformer layer.

    x [B, L, D] → Mixed. In training every number of x is first multiplied by one drawn between 1 - j and
    1 + j, j being `input_jitter` (Fedus et al. 2021, arXiv:2101.03961, appendix C).
    """

    def __init__(self, router: SparseMixer, experts: Experts, *, input_jitter: float = 0.0) -> None:
        super().__init__()
        self.router = router
        self.experts = experts
        self.input_jitter = input_jitter

    def forward(self, x: Tensor) -> Mixed:
        if self.training and self.input_jitter > 0:
            x = x * torch.empty_like(x).uniform_(1.0 - self.input_jitter, 1.0 + self.input_jitter)
        tokens = x.flatten(0, -2)  # [B, L, D] → [B · L, D]
        routing = self.router(tokens)
        y = self.experts(tokens, routing.chosen, routing.weights)
        return Mixed(y.view(x.shape), routing.scores)
