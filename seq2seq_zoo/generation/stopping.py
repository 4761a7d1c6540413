"""When a row is finished, beyond its end-of-sequence tokens and its length.

A criterion maps (ids [R, L] so far, scores of the steps so far or None) to booleans: one for all rows, or
[R].
"""

from __future__ import annotations

import time
from collections.abc import Callable
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
            finished = finished | torch.as_tensor(verdict, device=input_ids.device).bool()
        return finished


class MaxTime(StoppingCriteria):
    """Everything is finished after `seconds`, counted from when this was made."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> bool:
        return time.monotonic() > self.end
