"""Which experts read which token: sparse-mixer routing, and the loss that keeps the experts evenly used.

    x ─ scores ─┬─ near the best? ─ softmax ─ draw ─→ first expert, its weight
                └─ without the first: near the best? ─ softmax ─ draw ─→ second expert, its weight

Liu et al. 2023 (SparseMixer, arXiv:2310.00811) and Liu et al. 2024 (GRIN, arXiv:2409.12136, section 2: the
second version, for two experts a token), whose released model is PhiMoE.

A choice has no derivative; what is trained is the expected loss of choosing at random. With weights π from
scores z, expert D drawn with probability π_D, its output E_D and the loss f of the weighted output,

    ∂/∂z Σ_i π_i f(π_i E_i), the choice's part of it:   ∇ = Σ_i (f(π_i E_i) - f(0)) ∂π_i/∂z

The loss is known only where the drawn expert was used, so the difference is had from slopes on the way from
π_i E_i back to 0, as a solver of differential equations steps there. Heun's method of third order takes one
slope where it starts, with weight 1/4, and one two thirds along, with weight 3/4:

    f(x) - f(0) ≈ (1/4 f'(x) + 3/4 f'(x/3)) · x        exact where f is a cubic

Drawing one of the two by these weights leaves one pass through one expert: the output is scaled by π_D in a
quarter of the cases, by π_D / 3 in the others, and the way back is that of π_D:

    ∇ ≈ f'(m π_D E_D) · E_D · ∂π_D/∂z        m = 1 with probability 1/4, else 1/3

What is most probable is what will be used once training is over, so for the best expert m is always 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

THIRD = 0.3333
"""1/3, as the published training code rounds it: the same seed is to give the same loss."""


class Routing(NamedTuple):
    """For each of T tokens: the experts chosen and their weights [T, 2], int64 and floating; and the scores
    [T, experts] they were chosen by."""

    chosen: Tensor
    weights: Tensor
    scores: Tensor


class SparseMixer(nn.Module):
    """Two experts for each token, and their weights.

    z = scores(x);   near(z)_i  where  (max z - z_i) / max(|z_i|, max z) ≤ 2 · jitter
    π = softmax of z over the near;   D = argmax z in inference, ~ π in training
    (Liu et al. 2024, arXiv:2409.12136, section 2; the file's head says how the draw is trained)

    The second expert is chosen in the same way, without the first; its weight does not know of the first's,
    so the two need not sum to 1. x [T, D] → Routing. In training, random numbers are drawn in the published
    order.
    """

    def __init__(self, width: int, experts: int, *, jitter: float = 0.01) -> None:
        super().__init__()
        if experts < 2:
            raise ValueError(f"experts is {experts}; a token needs 2 of them")
        self.scores = nn.Linear(width, experts, bias=False)
        self.jitter = jitter

    def forward(self, x: Tensor) -> Routing:
        scores = self.scores(x)  # [T, D] → [T, experts]
        first, first_weight = self._choose(scores, scores)
        without = scores.scatter(-1, first, float("-inf"))
        second, second_weight = self._choose(scores, without, again=True)
        return Routing(torch.cat([first, second], -1), torch.cat([first_weight, second_weight], -1), scores)

    def _choose(self, scores: Tensor, left: Tensor, *, again: bool = False) -> tuple[Tensor, Tensor]:
        """One of the experts `left`, those without a score of -inf: its number and weight, [T, 1] each."""
        with torch.no_grad():
            best, at = left.max(-1, keepdim=True)
            far = (best - scores) / scores.abs().clamp(min=best) > 2 * self.jitter
        near = left.masked_fill(far, float("-inf"))
        weights = near.softmax(-1)
        if not self.training:
            return at, weights.gather(-1, at)
        # Gumbel's trick: the largest of z_i - log(exponential noise) is i with probability softmax(z)_i.
        noise = torch.empty_like(near, memory_format=torch.contiguous_format).exponential_()
        drawn = (near - noise.log()).max(-1, keepdim=True).indices
        chance = torch.rand_like(best)
        if again:
            chance.uniform_()  # the published code draws twice here; the order of draws is kept
        whole = (drawn == weights.max(-1, keepdim=True).indices) | (chance > 0.75)
        part = torch.where(whole, 1.0, THIRD).to(weights.dtype)
        weight: Tensor = _Shortened.apply(weights.gather(-1, drawn), part)  # type: ignore[no-untyped-call]
        return drawn, weight


class _Shortened(torch.autograd.Function):
    """A weight π, forward only a part m of it: m · π, with the gradient of π."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, part: Tensor) -> Tensor:
        return weight * part

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def load_balancing_loss(
    scores: Sequence[Tensor], *, top_k: int = 2, attention_mask: Tensor | None = None
) -> Tensor:
    """How unevenly experts are used; `top_k` at its least, when all are used alike.

    loss = N Σ_i f_i P_i    (Fedus et al. 2021, Switch Transformer, arXiv:2101.03961, equations 4-6, with
                             top_k experts a token and their factor α left to the caller)

    f_i is the share of tokens that have expert i among their top_k, P_i its mean probability, both over the
    tokens of all layers together. scores: for each layer [B · L, N]. attention_mask [B, past + L]: tokens
    where it is 0 do not count. Returns a number, in float32 at least.
    """
    rows, experts = scores[0].shape
    device = scores[0].device
    dtype = torch.promote_types(scores[0].dtype, torch.float32)
    real = torch.ones(rows, dtype=dtype, device=device)
    if attention_mask is not None:
        texts = attention_mask.shape[0]
        length = rows // max(texts, 1)
        if texts * length != rows or length > attention_mask.shape[1]:
            raise ValueError(
                f"attention_mask has shape {list(attention_mask.shape)}; it does not fit {rows} tokens"
            )
        newest = attention_mask[:, attention_mask.shape[1] - length :]
        real = newest.reshape(-1).to(device, dtype)
    used = probability = torch.zeros(experts, dtype=dtype, device=device)
    for layer in scores:
        probabilities = layer.to(device, dtype).softmax(-1)  # [B · L, N]
        best = probabilities.topk(top_k, dim=-1).indices
        used = used + real @ F.one_hot(best, experts).sum(1).to(dtype)
        probability = probability + real @ probabilities
    tokens = (len(scores) * real.sum()).clamp(min=1)
    return experts * (used / tokens * (probability / tokens)).sum()
