"""Sampling: which tokens may be drawn, and how boldly.

Each warper sets the scores of the tokens it removes to −∞; `keep` is how many of the best always stay, so
that beam sampling can go on after an end-of-sequence token. Unlike the processors before them, warpers
leave their argument as it is: a processor of the caller's may still hold it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from seq2seq_zoo.generation.peaks import WIDE, topk
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
        return _remove_in_order(scores, self._lower_tail)

    def _lower_tail(self, ascending: Tensor) -> Tensor:
        """What lies in the lower tail of mass 1 − p goes; the best come last."""
        removed = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - self.p
        removed[:, -self.keep :] = False
        return removed


class MinP(LogitsProcessor):
    """The tokens at least `p` times as likely as the best (Nguyen et al. 2024)."""

    def __init__(self, p: float, keep: int) -> None:
        self.p, self.keep = p, keep

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        likely = scores.softmax(dim=-1)
        removed = likely < self.p * likely.amax(dim=-1, keepdim=True)
        best = topk(scores, min(self.keep, scores.shape[1]))[1]
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


def _remove_in_order(scores: Tensor, judge: Callable[[Tensor], Tensor]) -> Tensor:
    """Scores [R, V] with −∞ for those that `judge` names, when it is shown them in ascending order [R, V].

    In a wide row after top-k few tokens are possible: only they are sorted, behind as many −∞ as there are.
    Where the line is drawn between equals, all are sorted, lest the sort's own choice be another.
    """
    width = scores.shape[1]
    places = [row.nonzero()[:, 0] for row in scores > NEVER] if width >= WIDE else []
    if not places or max(map(len, places)) > width // 8:
        return _remove_in_order_of_all(scores, judge)
    ascending, orders = torch.full_like(scores, NEVER), []
    for row, possible in enumerate(places):
        values, inner = scores[row, possible].sort()
        ascending[row, width - len(possible) :] = values
        orders.append(possible[inner])
    judged = judge(ascending)
    few = max(map(len, places))
    ranked, line = ascending[:, -few:], judged[:, -few:]
    equal = (ranked[:, 1:] == ranked[:, :-1]) & (ranked[:, 1:] > NEVER)
    if bool((equal & (line[:, 1:] != line[:, :-1])).any()):
        return _remove_in_order_of_all(scores, judge)
    removed = torch.zeros_like(judged)
    for row, order in enumerate(orders):
        removed[row, order] = judged[row, width - len(order) :]
    return scores.masked_fill(removed, NEVER)


def _remove_in_order_of_all(scores: Tensor, judge: Callable[[Tensor], Tensor]) -> Tensor:
    ascending, order = scores.sort(dim=-1)
    judged = judge(ascending)
    return scores.masked_fill(judged.scatter(1, order, judged), NEVER)


def _kth_best(scores: Tensor, k: int) -> Tensor:
    return topk(scores, min(k, scores.shape[1]))[0][:, -1:]
