"""Sampling: which tokens may be drawn, and how boldly.

Each warper sets the scores of the tokens it removes to −∞; `keep` is how many of the best always stay, so
that beam sampling can go on after an end-of-sequence token. Unlike the processors before them, warpers
leave their argument as it is: a processor of the caller's may still hold it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from seq2seq_zoo.generation.peaks import topk
from seq2seq_zoo.generation.processors import NEVER, LogitsProcessor


class Temperature(LogitsProcessor):
    """s / T: below 1 the likely become likelier."""

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores / self.temperature


class TopK(LogitsProcessor):
    """The k best, and what equals the k-th (Fan et al. 2018)."""

    def __init__(self, k: int, keep: int) -> None:
        self.k = max(k, keep)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores.masked_fill(scores < _kth_best(scores, self.k), NEVER)


class TopP(LogitsProcessor):
    """The fewest best whose probabilities reach p: the nucleus (Holtzman et al. 2020)."""

    def __init__(self, p: float, keep: int) -> None:
        self.p, self.keep = p, keep

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        ascending, order = scores.sort(dim=-1)
        # what lies in the lower tail of mass 1 - p goes; the best come last
        removed = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - self.p
        removed[:, -self.keep :] = False
        return scores.masked_fill(removed.scatter(1, order, removed), NEVER)


class MinP(LogitsProcessor):
    """The tokens at least `p` times as likely as the best (Nguyen et al. 2024)."""

    def __init__(self, p: float, keep: int) -> None:
        self.p, self.keep = p, keep

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        likely = scores.softmax(dim=-1)
        removed = likely < self.p * likely.amax(dim=-1, keepdim=True)
        best = scores.argsort(dim=-1, descending=True)[:, : self.keep]
        return scores.masked_fill(removed.scatter(1, best, False), NEVER)


class Typical(LogitsProcessor):
    """The tokens whose information −log p is nearest to the entropy, until their mass reaches p (Meister
    2022)."""

    def __init__(self, p: float, keep: int) -> None:
        self.p, self.keep = p, keep

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        log_p = scores.log_softmax(dim=-1)
        entropy = -(log_p.exp() * log_p).nansum(dim=-1, keepdim=True)
        distance, order = (-log_p - entropy).abs().sort(dim=-1)
        mass = scores.gather(1, order).softmax(dim=-1).cumsum(dim=-1)
        last = (mass < self.p).sum(dim=-1, keepdim=True).clamp_(max=scores.shape[1] - 1)
        removed = distance > distance.gather(1, last)
        removed[:, : self.keep] = False
        return scores.masked_fill(removed.scatter(1, order, removed), NEVER)


class Epsilon(LogitsProcessor):
    """The tokens with probability ≥ ε (Hewitt et al. 2022)."""

    def __init__(self, epsilon: float, keep: int) -> None:
        self.epsilon, self.keep = epsilon, keep

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        removed = (scores.softmax(dim=-1) < self.epsilon) & (scores < _kth_best(scores, self.keep))
        return scores.masked_fill(removed, NEVER)


class Eta(LogitsProcessor):
    """The tokens with probability ≥ min(ε, √ε · e^−entropy) (Hewitt et al. 2022)."""

    def __init__(self, epsilon: float, keep: int) -> None:
        self.epsilon, self.keep = epsilon, keep

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        log_p, likely = scores.log_softmax(dim=-1), scores.softmax(dim=-1)
        # 0 · log 0 = 0: the smallest number stands for −∞
        entropy = -(likely * log_p.clamp(min=torch.finfo(log_p.dtype).min)).sum(dim=-1, keepdim=True)
        cutoff = (math.sqrt(self.epsilon) * torch.exp(-entropy)).clamp_(max=self.epsilon)
        removed = (likely < cutoff) & (scores < _kth_best(scores, self.keep))
        return scores.masked_fill(removed, NEVER)


def _kth_best(scores: Tensor, k: int) -> Tensor:
    return topk(scores, min(k, scores.shape[1]))[0][:, -1:]
