"""Heads: from hidden vectors to answers, and the losses that train them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ClassificationHead(nn.Module):
    """A label's score from one vector.

    scores = output(dropout(tanh(hidden(dropout(x)))))    (BART's head: Lewis et al. 2019, arXiv:1910.13461,
                                                          section 3.1)

    x [B, D] → scores [B, labels]
    """

    def __init__(self, width: int, labels: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, width)
        self.output = nn.Linear(width, labels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.dropout(torch.tanh(self.hidden(self.dropout(x)))))  # type: ignore[no-any-return]


def at_last_end(x: Tensor, ids: Tensor, end: int) -> Tensor:
    """The vectors at each row's last end-of-sequence token: x [B, L, D], ids [B, L] → [B, D].

    Raises ValueError unless every row has the same, positive number of end tokens: rows that differ in it are
    most likely rows of different kinds.
    """
    is_end = ids == end
    counts = is_end.sum(1)
    alike = torch.compiler.is_compiling() or counts.numel() == 0 or int(counts.min()) == int(counts.max()) > 0
    if not alike:
        raise ValueError(
            f"input_ids hold {counts.tolist()} end-of-sequence tokens (id {end}) by row; "
            "every row must have the same number of them, at least one"
        )
    at = torch.arange(ids.shape[1], device=ids.device)
    last = torch.where(is_end, at, -1).amax(1)  # [B]
    return x[torch.arange(x.shape[0], device=x.device), last]


def shift_right(labels: Tensor, *, start: int, padding: int) -> Tensor:
    """Labels as decoder input: a start token before them, the last dropped, -100 as padding; int64 [..., L] →
    [..., L]."""
    shifted = torch.empty_like(labels)
    shifted[..., 0] = start
    shifted[..., 1:] = labels[..., :-1]
    return shifted.masked_fill(shifted == -100, padding)


def kept_positions(x: Tensor, keep: int | Tensor) -> Tensor:
    """The positions of x [B, L, D] to score: the last `keep` (0: all), or those `keep` names."""
    if isinstance(keep, Tensor):
        return x[:, keep]
    if keep < 0:
        raise ValueError(f"logits_to_keep is {keep}; it must be at least 0")
    return x[:, -keep:] if keep else x


def check_labels(labels: Tensor, count: int) -> None:
    """Raise ValueError for labels that are no whole numbers, or neither in 0 … count - 1 nor -100."""
    if labels.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"labels are of {labels.dtype}; they must be of torch.int64")
    if labels.device.type != "cpu" or torch.compiler.is_compiling():  # there, looking would stall the device
        return
    outside = labels[((labels < 0) & (labels != -100)) | (labels >= count)]
    if outside.numel():
        raise ValueError(f"labels hold {int(outside[0])}; they must be in 0 … {count - 1}, or -100")


def check_shape(labels: Tensor, *shapes: Sequence[int]) -> None:
    """Raise ValueError for labels of none of these shapes: PyTorch's losses take any of as many numbers."""
    if not any(labels.shape == torch.Size(shape) for shape in shapes):
        wanted = " or ".join(str(list(shape)) for shape in shapes)
        raise ValueError(f"labels have shape {list(labels.shape)}; they must have {wanted}, as the scores")


def token_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of scores [..., V] against labels [...]; labels of -100 do not count."""
    check_shape(labels, scores.shape[:-1])
    check_labels(labels, scores.shape[-1])
    return F.cross_entropy(scores.flatten(0, -2), labels.to(scores.device).flatten())


def next_token_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of scores [B, L, V] against the labels one position later, [B, L]; -100 does not
    count."""
    check_shape(labels, scores.shape[:-1])
    return token_loss(scores[:, :-1], labels[:, 1:])


PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")


def problem_of(labels: Tensor, count: int) -> str:
    """What labels of this dtype mean to a head of `count` outputs, where the config does not say."""
    if count == 1:
        return "regression"
    if labels.dtype in (torch.int64, torch.int32):
        return "single_label_classification"
    return "multi_label_classification"


def classification_loss(scores: Tensor, labels: Tensor, problem: str | None) -> Tensor:
    """The loss of scores [B, labels] for one of the PROBLEM_TYPES, or for what the labels' dtype suggests.

    regression: mean squared error with labels [B, labels], or [B] for one; single label: cross-entropy of
    labels [B]; several labels: binary cross-entropy of labels [B, labels]. What is [B] may be [B, 1], and for
    one row a number alone.
    """
    labels = labels.to(scores.device)
    rows, count = scores.shape
    one_each = [[rows], [rows, 1], *([[]] if rows == 1 else [])]
    problem = problem_of(labels, count) if problem is None else problem
    if problem == "regression":
        check_shape(labels, *(one_each if count == 1 else [scores.shape]))
        return F.mse_loss(scores, labels.view(scores.shape))
    if problem == "single_label_classification":
        check_shape(labels, *one_each)
        check_labels(labels, count)
        return F.cross_entropy(scores, labels.view(-1))
    if problem == "multi_label_classification":
        check_shape(labels, scores.shape)
        return F.binary_cross_entropy_with_logits(scores, labels)
    raise ValueError(f"problem_type is {problem!r}; it must be one of {', '.join(PROBLEM_TYPES)}")


def span_loss(start_scores: Tensor, end_scores: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Mean of the cross-entropies of a span's start and end: scores [B, L], positions [B].

    A position beyond the sequence (a truncated answer) does not count.
    """
    length = start_scores.shape[1]

    def loss(scores: Tensor, position: Tensor) -> Tensor:
        position = position.to(scores.device).reshape(-1).clamp(0, length)
        return F.cross_entropy(scores, position, ignore_index=length)

    return (loss(start_scores, start) + loss(end_scores, end)) / 2
