"""The score of each token that was chosen, read off the scores of the steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seq2seq_zoo.errors import GenerationError


def compute_transition_scores(
    sequences: Tensor,
    scores: Sequence[Tensor],
    beam_indices: Tensor | None = None,
    normalize_logits: bool = False,
) -> Tensor:
    """Scores [N, T] of the last T tokens of `sequences` [N, length], T = the longest continuation.

    scores: of each step [rows, V], from an output with output_scores.
    beam_indices: [N, steps], of beam search: the row each token was chosen from, -1 after the end (score
    0). normalize_logits: make each step's scores log-probabilities first.

    For beams without sampling, the sum of a row over its length^length_penalty is its sequences_scores.
    """
    if len(scores) == 0:
        raise GenerationError(
            "scores must hold at least one step, but is empty (output_scores=True keeps them)"
        )
    rows = beam_indices
    if rows is None:
        rows = torch.arange(scores[0].shape[0], device=sequences.device)[:, None].expand(-1, len(scores))
    longest = int((rows >= 0).sum(dim=1).max())
    rows = rows[:, :longest].long()
    tokens = sequences[:, sequences.shape[1] - longest :]
    chosen = []
    for at, step in enumerate(scores[:longest]):  # [R, V]
        row = rows[:, at].clamp(min=0)
        score = step[row, tokens[:, at]]
        chosen.append(score - step.logsumexp(dim=-1)[row] if normalize_logits else score)
    return torch.stack(chosen, dim=1).masked_fill(rows < 0, 0.0)
