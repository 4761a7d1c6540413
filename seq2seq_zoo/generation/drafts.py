"""Who proposes the next tokens in assisted decoding: a smaller model, or the text itself.

A drafter writes its proposal behind the text, in the same buffer, and hears how much of it was kept:

    text   t₁ t₂ t₃ │ d₁ d₂ d₃ d₄        draft(text, length=3, most) → 4 drafted
           t₁ t₂ t₃ d₁ d₂ t₆             judged(4, kept=2, standing=5)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from seq2seq_zoo.errors import GenerationError
from seq2seq_zoo.generation.draws import draw
from seq2seq_zoo.generation.inputs import kind_of
from seq2seq_zoo.generation.peaks import argmax
from seq2seq_zoo.generation.processors import LogitsProcessorList
from seq2seq_zoo.generation.protocol import Decoding, GenerativeModel
from seq2seq_zoo.generation.request import Request, vocabularies


@dataclass(frozen=True)
class Draft:
    """How many tokens were proposed, and the distribution each was drawn from, [V] each; None where they were
    not drawn."""

    count: int
    drawn_from: list[Tensor] | None = None


class Drafter(Protocol):
    """Proposes tokens for one row of text."""

    def draft(self, text: Tensor, length: int, most: int) -> Draft:
        """Write up to `most` ids behind the first `length` of text [1, limit]."""

    def judged(self, drafted: int, kept: int, standing: int) -> None:
        """Of `drafted` tokens the first `kept` were right; the first `standing` of the text are as they
        were."""


class PromptLookup:
    """The text repeats itself, or its source: after a sequence seen before comes what came then.

    The longest ending of the text, of up to `longest` tokens, that occurs earlier in the text or in the
    source, is continued as there, with up to `count` tokens (Saxena 2023, prompt lookup decoding). `source`
    [1, length] is what an encoder reads, or None.
    """

    def __init__(self, count: int, longest: int, source: Tensor | None, vocabulary: int) -> None:
        self.count, self.longest = count, longest
        if source is not None:  # ids that cannot be written break a sequence, and match nothing
            source = source.masked_fill(source >= vocabulary, -1)
        self.source = source

    def draft(self, text: Tensor, length: int, most: int) -> Draft:
        for size in range(min(self.longest, length), 0, -1):
            ending = text[0, length - size : length]
            for seen in (text[0, :length], *([] if self.source is None else [self.source[0]])):
                found = self._after(seen, ending)[: min(self.count, most)]
                if len(found):
                    text[0, length : length + len(found)] = found
                    return Draft(len(found))
        return Draft(0)

    @staticmethod
    def _after(seen: Tensor, ending: Tensor) -> Tensor:
        """What follows the first occurrence of `ending` in `seen`, up to an id that cannot be written."""
        size = ending.shape[0]
        if seen.shape[0] <= size:
            return seen[:0]
        places = (seen[:-1].unfold(0, size, 1) == ending).all(dim=1).nonzero()
        if len(places) == 0:
            return seen[:0]
        following = seen[int(places[0]) + size :]
        foreign = (following < 0).nonzero()
        return following if len(foreign) == 0 else following[: int(foreign[0])]

    def judged(self, drafted: int, kept: int, standing: int) -> None:
        """The text says all there is to know."""


class Assistant:
    """A smaller model writes ahead, token by token, in the way the text is written: greedily or sampling,
    under the same processors.

    The draft ends after an end token, after a token of which the assistant was less sure than `threshold`
    (Mamou et al. 2024, arXiv:2405.04304, without its adaptation), or after `count` tokens. With a schedule
    other than "constant", `count` grows by 2 when all were right, and shrinks by 1 when not.
    """

    def __init__(
        self, model: GenerativeModel, decoding: Decoding, processors: LogitsProcessorList, request: Request
    ) -> None:
        self._model, self._decoding, self._processors = model, decoding, processors
        self._eos = [] if request.eos is None else request.eos.tolist()
        self._samples = request.config.do_sample

        def option(name: str) -> Any:
            own = model.generation_config
            chosen = own if name not in request.asked and name in own.given else request.config
            return getattr(chosen, name)

        self._count = int(option("num_assistant_tokens"))
        self._adapts = option("num_assistant_tokens_schedule") != "constant"
        self._threshold = float(option("assistant_confidence_threshold") or 0.0)
        self._read = 0  # how many tokens of the text its run has read

    def draft(self, text: Tensor, length: int, most: int) -> Draft:
        most = min(most, self._count)
        positions = self._model.max_positions
        if positions is not None:
            most = min(most, positions + 1 - length)
        drawn_from: list[Tensor] = []
        count = 0
        while count < most:
            end = length + count
            step = self._decoding.step(text[:, self._read : end].to(self._model.device))
            self._read = end
            scores = step.logits.to(text.device, torch.float32, copy=True)
            scores = self._processors(text[:, :end], scores)
            if self._samples:
                likely = scores.softmax(dim=-1)
                token = draw(likely)[0]
                drawn_from.append(likely[0])
                sure = likely[0, token]
            else:
                token = argmax(scores)
                sure = (scores[0, token] - scores.logsumexp(dim=-1)).exp()
            text[0, end] = token
            count += 1
            if int(token) in self._eos or float(sure) < self._threshold:
                break
        return Draft(count, drawn_from if self._samples else None)

    def judged(self, drafted: int, kept: int, standing: int) -> None:
        if self._adapts and drafted:
            self._count = self._count + 2 if kept == drafted else max(1, self._count - 1)
        if self._read > standing:
            try:
                self._decoding.crop(standing)
                self._read = standing
            except ValueError:  # averages that do not go back so far: the text is read anew
                self._decoding.crop(0)
                self._read = 0


def check_assistant(model: GenerativeModel, assistant: Any, request: Request) -> None:
    """Refuse what cannot draft for `model`."""
    if not callable(getattr(assistant, "begin_decoding", None)):
        raise GenerationError(f"assistant_model must be a model that generates, but is {kind_of(assistant)}")
    if assistant.is_encoder_decoder != model.is_encoder_decoder:
        kinds = ("a decoder", "an encoder-decoder")
        raise GenerationError(
            f"assistant_model must be {kinds[model.is_encoder_decoder]} as the model is, but is "
            f"{kinds[assistant.is_encoder_decoder]}"
        )
    theirs, ours = vocabularies(assistant), vocabularies(model)
    if theirs != ours:
        raise GenerationError(
            f"assistant_model must have the model's tokenizer, but reads {theirs[0]} ids and writes "
            f"{theirs[1]}; the model reads {ours[0]} and writes {ours[1]}"
        )
    if request.source_ids is None:
        raise GenerationError("assistant_model needs the input's ids (input_ids), but there are none")


def begin_assistant(
    assistant: GenerativeModel, request: Request, processors: LogitsProcessorList
) -> Assistant:
    """The assistant's own run on the same source or prompt."""
    device = assistant.device
    inputs = {
        name: value.to(device) if isinstance(value, Tensor) else value
        for name, value in request.inputs.items()
        if name in assistant.generation_inputs and name not in ("inputs_embeds", "encoder_outputs")
    }
    if assistant.is_encoder_decoder:
        assert request.source_ids is not None
        inputs["input_ids"] = request.source_ids.to(device)
    decoding = assistant.begin_decoding(
        inputs, rows_per_source=1, capacity=request.capacity, use_cache=request.config.use_cache
    )
    return Assistant(assistant, decoding, processors, request)
