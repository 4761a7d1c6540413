"""A mixture of experts: a feed-forward block of which every token uses a small part (Shazeer et al. 2017,
arXiv:1701.06538).

    x ─ router ─→ two experts and weights for each token
      └ sorted by expert: expert 0's tokens, expert 1's tokens, …

        one expert, as a GatedFeedForward:      ─┬─ gate ─ activation ─┐
                                                 └─ up ────────────── (×) ─ down ─

      └ in the tokens' order again: y = weight₁ · expert₁(x) + weight₂ · expert₂(x)

The experts' matrices lie in stacks, [experts, …]; a product reads the rows of one expert, and those of an
expert that no token has chosen are not read at all. So a single token costs as much as two experts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .activations import Activation
from .router import SparseMixer


class StackedLinear(nn.Module):
    """As many linear maps without bias as there are experts: weight [experts, outs, ins]."""

    def __init__(self, experts: int, ins: int, outs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, outs, ins))
        nn.init.normal_(self.weight, std=ins**-0.5)


class Experts(nn.Module):
    """N gated feed-forward blocks, and for each token those it has chosen.

    y = Σ_k weights_k · down_e(a(gate_e(x)) ⊙ up_e(x)),  e = chosen_k
    (Shazeer 2020, arXiv:2002.05202, equations 5-6, for each expert; Shazeer et al. 2017, arXiv:1701.06538,
    equation 1, for the sum)

    x [T, D], chosen int64 [T, k], weights [T, k] → y [T, D]; no expert may be chosen twice by a token.
    """

    def __init__(self, width: int, hidden: int, experts: int, activation: Activation) -> None:
        super().__init__()
        self.gate = StackedLinear(experts, width, hidden)
        self.up = StackedLinear(experts, width, hidden)
        self.down = StackedLinear(experts, hidden, width)
        self.activation = activation

    def forward(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        choices = chosen.flatten()  # number t · k + i: the i-th choice of token t
        order = choices.argsort(stable=True)
        counts = choices.bincount(minlength=self.gate.weight.shape[0]).tolist()
        sorted_x = x[order // chosen.shape[1]]
        gates, ups, downs = (part.weight.unbind() for part in (self.gate, self.up, self.down))
        made = []
        for expert, rows in enumerate(torch.split(sorted_x, counts)):
            if rows.shape[0]:
                made.append(self._apply_one(rows, gates[expert], ups[expert], downs[expert]))
        if not made:
            return x
        back = torch.empty_like(order)
        back[order] = torch.arange(order.shape[0], device=order.device)
        y = torch.cat(made)[back].view(*chosen.shape, -1)  # [T · k, D], by expert → [T, k, D]
        return (weights.unsqueeze(-1) * y).sum(1)

    def _apply_one(self, x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        """One expert, with its three matrices, on its tokens: [n, D] → [n, D]."""
        return F.linear(self.activation(F.linear(x, gate)) * F.linear(x, up), down)


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
