"""What the decoding loops share: a settled request, the model's state, and what watches over each step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seq2seq_zoo.generation import processors as p
from seq2seq_zoo.generation import warpers as w
from seq2seq_zoo.generation.guidance import guide
from seq2seq_zoo.generation.outputs import (
    GenerateDecoderOnlyOutput,
    GenerateEncoderDecoderOutput,
    Trace,
)
from seq2seq_zoo.generation.pace import someone_writes
from seq2seq_zoo.generation.protocol import Decoding, StepOutput
from seq2seq_zoo.generation.request import Request
from seq2seq_zoo.generation.stopping import Criterion, MaxTime, StoppingCriteriaList, StopStrings


@dataclass
class Run:
    """One run of a decoding loop.

    prompt: [R, n], the request's prompt, once for each row.
    processors, criteria: empty where nothing is switched on.
    streamer: an object with `put` and `end`, or None.
    synced: whether other processes run the same model in step with this one (see `pace`).
    """

    request: Request
    decoding: Decoding
    prompt: Tensor
    processors: p.LogitsProcessorList
    criteria: StoppingCriteriaList
    trace: Trace
    streamer: Any
    synced: bool = False
    _started: bool = False

    @property
    def shows_scores(self) -> bool:
        """Whether somebody needs the scores of all tokens, and not only the best ones."""
        config = self.request.config
        return bool(
            self.processors
            or config.do_sample
            or self.trace.scores is not None
            or self.request.negative is not None
        )

    def step(self, fresh: Tensor, last: int | None = None) -> StepOutput:
        """Let the model read new tokens [R, n], at first the prompt, and say what follows."""
        if self.synced:
            someone_writes(True, fresh.device)
        chunk = None if self._started else self.request.config.prefill_chunk_size
        self._started = True
        return self.decoding.step(fresh, last=last, chunk=chunk, **self.trace.flags)

    def crop(self, length: int) -> None:
        """Let the model forget all but the first `length` tokens of the text."""
        self.decoding.crop(length + self.request.hidden)

    def keep_pace(self, read: Tensor) -> None:
        """Go on with passes that change nothing while other processes need them; the model has read the ids
        `read` [R, n]."""
        again = read[:, -1:] if read.shape[1] else read.new_zeros(read.shape[0], 1)
        while self.synced and someone_writes(False, read.device):
            self.crop(read.shape[1] - 1)
            self.decoding.step(again)

    def scores(self, ids: Tensor, step: StepOutput) -> Tensor:
        """What one step says of the text `ids` [R, L], processed, in float32: [R, V].

        Choices are made in float32, whatever the model computes in. Without processors nothing is copied.
        """
        if step.negative is not None:
            return self.processors(ids, guide(step.logits.float(), step.negative, self._scale))
        if not self.processors:
            half = step.logits.dtype in (torch.float16, torch.bfloat16)  # the best is the best in any dtype
            return step.logits if half and not self.shows_scores else step.logits.float()
        return self.processors(ids, step.logits.to(torch.float32, copy=True))

    def log_p(self, ids: Tensor, step: StepOutput) -> Tensor:
        """The same for beams: processed log-probabilities."""
        log_p = step.logits.float().log_softmax(dim=-1)
        if step.negative is not None:
            log_p = guide(log_p, step.negative, self._scale)
        return self.processors(ids, log_p)

    @property
    def _scale(self) -> float:
        scale = self.request.config.guidance_scale
        return 1.0 if scale is None else scale

    def put(self, tokens: Tensor) -> None:
        """Show the streamer the new tokens [R]."""
        if self.streamer is not None:
            self.streamer.put(tokens.cpu())

    def is_finished(self, token: Tensor, ids: Tensor) -> bool:
        """Whether the only row, ids [1, L], ends with `token` [1]."""
        eos = self.request.eos
        return (
            ids.shape[1] == self.request.limit
            or (eos is not None and bool((token == eos).any()))
            or (bool(self.criteria) and bool(self.criteria(ids, self.trace.scores_so_far)))
        )

    def result(
        self, sequences: Tensor, is_encoder_decoder: bool
    ) -> Tensor | GenerateDecoderOnlyOutput | GenerateEncoderDecoderOutput:
        """What greedy search and sampling return, when all rows [R, length] are finished."""
        if self.streamer is not None:
            self.streamer.end()
        if not self.request.config.return_dict_in_generate:
            return sequences
        output = GenerateEncoderDecoderOutput if is_encoder_decoder else GenerateDecoderOnlyOutput
        return output(sequences, **self.fields(is_encoder_decoder))

    def fields(self, is_encoder_decoder: bool) -> dict[str, Any]:
        """What an output object holds besides its sequences."""
        fields = self.trace.fields(is_encoder_decoder, self.decoding.encoder_outputs)
        return fields | {"past_key_values": self.decoding.state}


def make_processors(
    request: Request, vocabulary: int, custom: list[p.Processor], allowed: Any
) -> p.LogitsProcessorList:
    """The processors that the options switch on, in the order the oracle applies them, then the caller's
    own, then (when sampling) the warpers."""
    config, length = request.config, request.prompt.shape[1]
    device, rows = request.prompt.device, request.rows_per_source
    padding = _for_rows(request.padding, rows)
    source, source_padding = _for_rows(request.source_ids, rows), _for_rows(request.source_padding, rows)

    def ids(option: Any) -> Tensor:
        return torch.tensor([option] if isinstance(option, int) else list(option), device=device)

    made = p.LogitsProcessorList()
    # a checkpoint's end token may lie outside a shrunken vocabulary: never written, it need not be masked
    eos = None if request.eos is None else request.eos[request.eos < vocabulary]
    if config.sequence_bias is not None:
        made.append(p.SequenceBias(p.biases_of(config.sequence_bias), vocabulary, device, padding))
    if source is not None and config.encoder_repetition_penalty not in (None, 1.0):
        real = source if source_padding is None else p.without_padding(source, source_padding)
        made.append(p.EncoderRepetitionPenalty(config.encoder_repetition_penalty, real))
    if config.repetition_penalty not in (None, 1.0):
        prompt = None
        if padding is not None:
            prompt = p.without_padding(request.prompt.repeat_interleave(rows, dim=0), padding)
        made.append(p.RepetitionPenalty(config.repetition_penalty, prompt))
    if config.no_repeat_ngram_size:
        made.append(p.NoRepeatNGram(config.no_repeat_ngram_size, padding))
    if source is not None and config.encoder_no_repeat_ngram_size:
        made.append(p.EncoderNoRepeatNGram(config.encoder_no_repeat_ngram_size, source, source_padding))
    if config.bad_words_ids is not None:
        ends = [] if eos is None else [(token,) for token in eos.tolist()]
        bad = {tuple(word): p.NEVER for word in config.bad_words_ids if tuple(word) not in ends}
        made.append(p.SequenceBias(bad, vocabulary, device, padding))
    if eos is not None and request.least > length:
        made.append(p.MinLength(request.least, eos))
    if allowed is not None:
        made.append(p.AllowedTokens(allowed, config.num_beams))
    if config.forced_bos_token_id is not None and length == 1:
        made.append(p.Forced(1, ids(config.forced_bos_token_id)))
    if config.forced_eos_token_id is not None:
        made.append(p.Forced(request.limit - 1, ids(config.forced_eos_token_id)))
    if config.remove_invalid_values:
        made.append(p.RemoveInvalid())
    if config.exponential_decay_length_penalty is not None and eos is not None:
        start, factor = config.exponential_decay_length_penalty
        made.append(p.ExponentialDecay(start + length, factor, eos))
    if config.suppress_tokens is not None:
        made.append(p.Suppress(ids(config.suppress_tokens)))
    if config.begin_suppress_tokens is not None:
        begin = length + 1 if length == 1 and config.forced_bos_token_id is not None else length
        made.append(p.Suppress(ids(config.begin_suppress_tokens), at_length=begin))
    made.extend(custom)
    if config.do_sample:
        made.extend(_make_warpers(request))
    if config.renormalize_logits:
        made.append(p.Renormalize())
    return made


def _for_rows(tensor: Tensor | None, rows: int) -> Tensor | None:
    return None if tensor is None else tensor.repeat_interleave(rows, dim=0)


def _make_warpers(request: Request) -> list[p.Processor]:
    config = request.config
    ends = 1 if request.eos is None else len(request.eos)
    keep = ends + 1 if config.num_beams > 1 else 1  # beams need a token to go on with
    made: list[p.Processor] = []
    if config.temperature not in (None, 1.0):
        made.append(w.Temperature(config.temperature))
    if config.top_k:
        made.append(w.TopK(config.top_k, keep))
    if config.top_p is not None and config.top_p < 1:
        made.append(w.TopP(config.top_p, keep))
    if config.min_p is not None:
        made.append(w.MinP(config.min_p, keep))
    if config.typical_p is not None and config.typical_p < 1:
        made.append(w.Typical(config.typical_p, keep))
    if config.epsilon_cutoff:
        made.append(w.Epsilon(config.epsilon_cutoff, keep))
    if config.eta_cutoff:
        made.append(w.Eta(config.eta_cutoff, keep))
    return made


def make_criteria(request: Request, custom: list[Criterion], tokenizer: Any) -> StoppingCriteriaList:
    """What may stop a row besides its length and its end tokens, which the loops see to themselves."""
    criteria = StoppingCriteriaList()
    if request.config.max_time is not None:
        criteria.append(MaxTime(request.config.max_time))
    texts = request.config.stop_strings
    if texts is not None:
        criteria.append(StopStrings([texts] if isinstance(texts, str) else texts, tokenizer))
    criteria.extend(custom)
    return criteria
