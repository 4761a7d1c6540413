"""When a row is finished, beyond its end-of-sequence tokens and its length.

A criterion maps (ids [R, L] so far, scores of the steps so far or None) to booleans: one for all rows, or
[R].
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Criterion = Callable[[Tensor, Any], "Tensor | bool"]


class StoppingCriteria:
    """Base class for criteria of one's own; any callable (ids, scores) → bool or [R] serves as well."""

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor | bool:
        """`input_ids` [R, L] int64; `scores` the tuple of step scores if they are kept → True for finished
        rows."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__(input_ids, scores)")


class StoppingCriteriaList(list[Criterion]):
    """A row is finished as soon as one criterion says so."""

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        finished = torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
        for criterion in self:
            verdict = criterion(input_ids, scores, **kwargs)
            if isinstance(verdict, Tensor):
                finished = finished | verdict.to(input_ids.device).bool()
            elif verdict:
                finished = torch.ones_like(finished)
        return finished


class MaxLength(StoppingCriteria):
    """Everything is finished at so many tokens, the prompt included."""

    def __init__(self, length: int) -> None:
        self.max_length = length

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> bool:
        return input_ids.shape[1] >= self.max_length


class EndTokens(StoppingCriteria):
    """A row is finished when it ends with one of these tokens, [E]."""

    def __init__(self, eos: Tensor) -> None:
        self.eos_token_id = eos

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return torch.isin(input_ids[:, -1], self.eos_token_id)


class MaxTime(StoppingCriteria):
    """Everything is finished after `seconds`, counted from when this was made."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> bool:
        return time.monotonic() > self.end


class StopStrings(StoppingCriteria):
    """A row is finished when its last token completes one of the texts, or runs past its end.

    Tokens and texts do not end together ("stop" may come as "sto", "pper"), so the end of the row is
    decoded with and without its last token: a match must reach beyond what was there before.
    """

    # tokens of context beyond one a character: what decoding does at its edge stays out of the match
    MARGIN = 8

    def __init__(self, texts: Sequence[str], tokenizer: Any) -> None:
        self.texts, self.tokenizer = list(texts), tokenizer
        self.window = max(map(len, self.texts)) + self.MARGIN

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        rows = input_ids[:, -self.window :].tolist()
        return torch.tensor([self._completes(ids) for ids in rows], device=input_ids.device)

    def _completes(self, ids: list[int]) -> bool:
        text, before = self.tokenizer.decode(ids), len(self.tokenizer.decode(ids[:-1]))
        return any(text.find(stop, max(0, before - len(stop) + 1)) >= 0 for stop in self.texts)
