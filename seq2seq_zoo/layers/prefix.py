"""Prefix prompts: learnt keys and values that stand before everybody's.

    prompt ids 0 … P-1 ─ embedding ─ in ─ GELU ─ out ─ dropout ─→ for each layer: keys [H, P, E], values [H,
    P, E]

The prompt does not depend on the input: a pass computes it once for all its layers, and cached decoding once
for all its steps.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn


class Prefix(NamedTuple):
    """One attention's prompt: keys and values [H, P, E], shared by all rows."""

    keys: Tensor
    values: Tensor


class PrefixPrompt(nn.Module):
    """Keys and values for every layer of a stack, from P learnt vectors through a two-layer perceptron.

    [K_1, V_1, …, K_N, V_N] = out(GELU(in(embedding)))
    (Li and Liang 2021, arXiv:2101.00190, section 4.3; one prompt a stack as in Tang et al. 2022,
    arXiv:2206.12131, 3.2.2)

    → N pairs (keys [H, P, E], values [H, P, E]) with H · E = D.
    """

    def __init__(
        self, length: int, width: int, hidden: int, *, layers: int, heads: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(length, width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, layers * 2 * width)
        self.dropout = nn.Dropout(dropout)
        self.layers, self.heads, self.head_dim = layers, heads, width // heads

    @property
    def length(self) -> int:
        """P, the number of columns the prompt puts before the keys."""
        return self.embedding.num_embeddings

    def forward(self) -> list[Prefix]:
        prompt = self.dropout(self.down(F.gelu(self.up(self.embedding.weight))))  # [P, D] → [P, N · 2 · D]
        prompt = prompt.view(self.length, self.layers, 2, self.heads, self.head_dim)
        prompt = prompt.permute(1, 2, 3, 0, 4)  # → [N, 2, H, P, E]
        return [Prefix(pair[0], pair[1]) for pair in prompt]
