"""Classifier-free guidance: away from what a negative prompt would make the model say.

A second run reads the negative prompt, and then the same text as the first. With c and u the log-
probabilities of both, the scores are

    s = u + γ · (c − u)          γ = guidance_scale     (Sanchez et al. 2023, arXiv:2306.17806, equation 7)

For a decoder the negative prompt stands in place of the prompt, for an encoder-decoder in place of the
source. Where none is given, it is the last token of what it stands for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from seq2seq_zoo.errors import GenerationError
from seq2seq_zoo.generation.inputs import check_ids, check_length, check_mask
from seq2seq_zoo.generation.protocol import Decoding, GenerativeModel, StepOutput

# what belongs to the prompt itself, not to what it is read with
_OF_THE_PROMPT = ("input_ids", "inputs_embeds", "encoder_outputs", "attention_mask", "position_ids")


@dataclass(frozen=True)
class NegativePrompt:
    """What the second run reads: `inputs` as begin_decoding takes them; `prompt` [sources, n], the ids of the
    first step."""

    inputs: dict[str, Any]
    prompt: Tensor


def settle_negative_prompt(
    model: GenerativeModel,
    inputs: dict[str, Any],
    prompt: Tensor,
    source_ids: Tensor | None,
    given: Tensor | None,
    mask: Tensor | None,
    vocabulary: int,
    new_tokens: int,
) -> NegativePrompt:
    """The negative prompt, checked; `inputs`, `prompt` and `source_ids` are those of the run it guides."""
    name = "negative_prompt_ids"
    if given is None:
        if mask is not None:
            raise GenerationError(f"negative_prompt_attention_mask needs {name}, but there are none")
        if source_ids is None:
            raise GenerationError(
                f"guidance_scale needs {name} where the input has no ids, but there are none"
            )
        given = _last_tokens(source_ids, inputs.get("attention_mask") if model.is_encoder_decoder else None)
    ids = check_ids(name, given, vocabulary)
    if ids.shape[0] != prompt.shape[0]:
        raise GenerationError(f"{name} has {ids.shape[0]} rows, but the input has {prompt.shape[0]}")
    own = {key: value for key, value in inputs.items() if key not in _OF_THE_PROMPT}
    if mask is not None:
        check_mask("negative_prompt_attention_mask", mask, ids.shape)
        own["attention_mask"] = mask
    if model.is_encoder_decoder:
        check_length(name, ids, model.source_positions)
        return NegativePrompt(own | {"input_ids": ids}, prompt)
    positions = model.max_positions
    if positions is not None and ids.shape[1] + new_tokens - 1 > positions:
        raise GenerationError(
            f"{name} has {ids.shape[1]} tokens: with {new_tokens} new ones that needs "
            f"{ids.shape[1] + new_tokens - 1} positions, but the model has {positions}"
        )
    return NegativePrompt(own, ids)


def _last_tokens(ids: Tensor, mask: Tensor | None) -> Tensor:
    """The last token of each row that is real: [sources, length] → [sources, 1]."""
    if mask is None:
        return ids[:, -1:]
    at = torch.arange(ids.shape[1], device=ids.device)
    return ids.gather(1, (at * (mask != 0)).amax(dim=1, keepdim=True))


def guide(scores: Tensor, negative: Tensor, scale: float) -> Tensor:
    """Scores of both branches, [R, V] each → guided log-probabilities, which do not sum to one."""
    positive, negative = scores.log_softmax(dim=-1), negative.float().log_softmax(dim=-1)
    return scale * (positive - negative) + negative


class GuidedDecoding:
    """Two runs that write the same text: its steps bring the logits of both (`StepOutput.negative`).

    prompt: [R, n], what the second run reads in its first step.
    lead: how many positions fewer than the first run it has read.
    """

    def __init__(self, decoding: Decoding, negative: Decoding, prompt: Tensor, lead: int) -> None:
        self._decoding, self._negative = decoding, negative
        self._prompt: Tensor | None = prompt
        self._lead = lead

    @property
    def encoder_outputs(self) -> Any:
        """Of the first run."""
        return self._decoding.encoder_outputs

    @property
    def state(self) -> Any:
        """Of the first run."""
        return self._decoding.state

    def make_static(self, *, compiled: bool) -> None:
        """Both runs."""
        self._decoding.make_static(compiled=compiled)
        self._negative.make_static(compiled=compiled)

    def step(
        self, ids: Tensor, *, last: int | None = None, chunk: int | None = None, **flags: Any
    ) -> StepOutput:
        """As of any run; the second reads its own prompt in the first step."""
        output = self._decoding.step(ids, last=last, chunk=chunk, **flags)
        own, self._prompt = ids if self._prompt is None else self._prompt, None
        negative = self._negative.step(own, last=last, chunk=chunk)
        return replace(output, negative=negative.logits)

    def reorder(self, rows: Tensor) -> None:
        """Both runs go on with the same rows."""
        self._decoding.reorder(rows)
        self._negative.reorder(rows)

    def crop(self, length: int) -> None:
        """Both runs forget the same tokens; `length` counts the first run's."""
        self._decoding.crop(length)
        self._negative.crop(length - self._lead)
