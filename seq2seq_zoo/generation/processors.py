"""What changes the scores before a token is chosen.

A processor maps (ids [R, L] so far, scores [R, V] in float32) to new scores. Greedy search and sampling
hand it the logits, beam search the log-probabilities. Those made here are given a copy of the model's
scores that nobody else holds and write into it; a processor of one's own may do either. Only processors
that are switched on exist, so the others cost nothing.

They are stateless: each reads what it needs off the ids, so that beams may be reordered under it. Padding
before a prompt or behind a source is no text: what a row has written, and may write, does not depend on the
rows beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from seq2seq_zoo.errors import GenerationError

Processor = Callable[[Tensor, Tensor], Tensor]
NEVER = float("-inf")


class LogitsProcessor:
    """Base class for processors of one's own; any callable (ids, scores) → scores serves as well."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """`input_ids` [R, L] int64 and `scores` [R, V] float32 → the new scores [R, V]."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__(input_ids, scores)")


class LogitsProcessorList(list[Processor]):
    """Processors applied in order."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        for processor in self:
            scores = processor(input_ids, scores)
        return scores


# ---- when a text may end ----


class MinLength(LogitsProcessor):
    """No end-of-sequence token while the text is shorter than `length`, the prompt included."""

    def __init__(self, length: int, eos: Tensor) -> None:
        self.length, self.eos = length, eos

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores.index_fill_(1, self.eos, NEVER) if input_ids.shape[1] < self.length else scores


class ExponentialDecay(LogitsProcessor):
    """After `start` tokens the end becomes likelier: s ← s + |s| · (factor^(length − start) − 1).

    Where it is impossible, it stays so.
    """

    def __init__(self, start: int, factor: float, eos: Tensor) -> None:
        self.start, self.factor, self.eos = start, factor, eos

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        beyond = input_ids.shape[1] - self.start
        if beyond <= 0:
            return scores
        ends = scores[:, self.eos]
        bonus = ends.abs() * (self.factor**beyond - 1)
        return scores.index_copy_(1, self.eos, torch.where(ends.isinf(), ends, ends + bonus))


# ---- what must be written, what must not ----


class Forced(LogitsProcessor):
    """At one length only the given tokens are possible, each with score 0: forced bos and eos."""

    def __init__(self, at_length: int, tokens: Tensor) -> None:
        self.at_length, self.tokens = at_length, tokens

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if input_ids.shape[1] != self.at_length:
            return scores
        return scores.fill_(NEVER).index_fill_(1, self.tokens, 0.0)


class Suppress(LogitsProcessor):
    """The given tokens are impossible: always, or at one length only."""

    def __init__(self, tokens: Tensor, at_length: int | None = None) -> None:
        self.tokens, self.at_length = tokens, at_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.at_length is not None and input_ids.shape[1] != self.at_length:
            return scores
        return scores.index_fill_(1, self.tokens, NEVER)


class SequenceBias(LogitsProcessor):
    """Adds a bias to the token that would complete a sequence; −∞ forbids it (bad words).

    A sequence of n tokens counts once the text has n tokens. `biases` maps token sequences to numbers;
    `padding` [R, n] is True where the text begins with padding.
    """

    def __init__(
        self,
        biases: Mapping[tuple[int, ...], float],
        vocabulary: int,
        device: torch.device,
        padding: Tensor | None = None,
    ) -> None:
        self.missing = None if padding is None else padding.sum(dim=1, keepdim=True)  # [R, 1]
        self.single = torch.zeros(vocabulary, device=device)
        by_length: dict[int, list[tuple[tuple[int, ...], float]]] = {}
        for ids, bias in biases.items():
            if len(ids) == 1:
                self.single[ids[0]] = bias
            else:
                by_length.setdefault(len(ids), []).append((ids, bias))
        # per length n: beginnings [N, n - 1], last tokens [N], biases [N] of N sequences
        self.longer = [
            (
                torch.tensor([ids[:-1] for ids, _ in group], device=device),
                torch.tensor([ids[-1] for ids, _ in group], device=device),
                torch.tensor([float(bias) for _, bias in group], device=device),
            )
            for _, group in sorted(by_length.items())
        ]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        bias = self.single
        for beginnings, last, biases in self.longer:
            n = beginnings.shape[1] + 1
            if input_ids.shape[1] < n:
                break
            matches = (input_ids[:, None, 1 - n :] == beginnings).all(dim=-1)  # [R, N]
            if self.missing is not None:
                matches &= input_ids.shape[1] - self.missing >= n
            if bias.dim() == 1:
                bias = bias.repeat(scores.shape[0], 1)
            bias.index_add_(1, last, torch.where(matches, biases, 0.0))
        return scores.add_(bias)


class AllowedTokens(LogitsProcessor):
    """Only the tokens that `allowed(source, ids of the row)` lists: prefix_allowed_tokens_fn."""

    def __init__(self, allowed: Callable[[int, Tensor], Iterable[int]], rows_per_source: int) -> None:
        self.allowed, self.rows_per_source = allowed, rows_per_source

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        possible = torch.full_like(scores, NEVER)
        for row, ids in enumerate(input_ids):
            tokens = torch.as_tensor(list(self.allowed(row // self.rows_per_source, ids)), dtype=torch.long)
            if tokens.numel() == 0:
                raise GenerationError(
                    f"prefix_allowed_tokens_fn must allow at least one token, but allows none for source "
                    f"{row // self.rows_per_source} after {ids.tolist()}"
                )
            possible[row, tokens.to(scores.device)] = 0.0
        return scores.add_(possible)


# ---- repetition ----


class NoRepeatNGram(LogitsProcessor):
    """No n-gram occurs twice: a token that would complete one seen before is impossible.

    All n-grams of the text are compared with its last n − 1 tokens at once: O(R · L · n) elementwise work a
    step. `padding` [R, n] is True where the text begins with padding.
    """

    def __init__(self, n: int, padding: Tensor | None = None) -> None:
        self.n, self.padding = n, padding

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        padding = self.padding
        if padding is not None:
            padding = F.pad(padding, (0, input_ids.shape[1] - padding.shape[1]))
        return _forbid_completions(input_ids, padding, input_ids, self.n, scores)


class EncoderNoRepeatNGram(LogitsProcessor):
    """No n-gram of the source is written.  `source` and its `padding` [R, length]."""

    def __init__(self, n: int, source: Tensor, padding: Tensor | None = None) -> None:
        self.n, self.source, self.padding = n, source, padding

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return _forbid_completions(self.source, self.padding, input_ids, self.n, scores)


def _forbid_completions(
    seen: Tensor, padding: Tensor | None, input_ids: Tensor, n: int, scores: Tensor
) -> Tensor:
    """Forbid every token that follows, somewhere in `seen` [R, M] outside its padding, the last n − 1 tokens
    of `input_ids` [R, L]."""
    length = input_ids.shape[1]
    if seen.shape[1] < n or length < n - 1:
        return scores
    grams = seen.unfold(1, n, 1)  # [R, M] → [R, M - n + 1, n], a view
    repeats = (grams[..., :-1] == input_ids[:, None, length - n + 1 :]).all(dim=-1)
    if padding is not None:
        repeats &= ~padding.unfold(1, n, 1).any(dim=-1)
    # one token may complete several n-grams, only some of which repeat: the minimum forbids it if any does
    verdict = torch.where(repeats, NEVER, float("inf")).to(scores.dtype)
    return scores.scatter_reduce_(1, grams[..., -1], verdict, "amin")


class RepetitionPenalty(LogitsProcessor):
    """Tokens of the text so far: a positive score is divided by the penalty, a negative one multiplied
    (CTRL). `prompt` [R, n] stands for the first n tokens, where those hold padding."""

    def __init__(self, penalty: float, prompt: Tensor | None = None) -> None:
        self.penalty, self.prompt = penalty, prompt

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.prompt is not None:
            input_ids = torch.cat((self.prompt, input_ids[:, self.prompt.shape[1] :]), dim=1)
        return _penalise(input_ids, self.penalty, scores)


class EncoderRepetitionPenalty(LogitsProcessor):
    """The inverse for the tokens of the source [R, length]: above 1 they become likelier."""

    def __init__(self, penalty: float, source: Tensor) -> None:
        self.penalty, self.source = 1 / penalty, source

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return _penalise(self.source, self.penalty, scores)


def _penalise(tokens: Tensor, penalty: float, scores: Tensor) -> Tensor:
    chosen = scores.gather(1, tokens)
    return scores.scatter_(1, tokens, torch.where(chosen < 0, chosen * penalty, chosen / penalty))


def without_padding(ids: Tensor, padding: Tensor) -> Tensor:
    """ids [R, length] with a row's first real token in place of its padding: the same tokens, as a set."""
    first = (~padding).int().argmax(dim=1, keepdim=True)
    return torch.where(padding, ids.gather(1, first), ids)


# ---- clean-up ----


class RemoveInvalid(LogitsProcessor):
    """NaN becomes 0, ±∞ the largest and smallest finite number."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return torch.nan_to_num_(scores, nan=0.0)


class Renormalize(LogitsProcessor):
    """Log-probabilities of whatever the others left."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores.log_softmax(dim=-1)


def biases_of(option: Any) -> dict[tuple[int, ...], float]:
    """sequence_bias in either spelling as {ids: bias}."""
    pairs: Sequence[Any] = list(option.items()) if isinstance(option, Mapping) else option
    return {tuple(ids): float(bias) for ids, bias in pairs}
