"""What the decoding loops share: a settled request, the model's state, and what watches over each step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seq2seq_zoo.generation import processors as p
from seq2seq_zoo.generation import warpers as w
from seq2seq_zoo.generation.outputs import Trace
from seq2seq_zoo.generation.protocol import Decoding
from seq2seq_zoo.generation.request import Request
from seq2seq_zoo.generation.stopping import Criterion, MaxTime, StoppingCriteriaList, StopStrings


@dataclass
class Run:
    """One run of a decoding loop.

    prompt: [R, n], the request's prompt, once for each row.
    processors, criteria: empty where nothing is switched on.
    streamer: an object with `put` and `end`, or None.
    """

    request: Request
    decoding: Decoding
    prompt: Tensor
    processors: p.LogitsProcessorList
    criteria: StoppingCriteriaList
    trace: Trace
    streamer: Any


def make_processors(
    request: Request, vocabulary: int, custom: list[p.Processor], allowed: Any
) -> p.LogitsProcessorList:
    """The processors that the options switch on, in the order the oracle applies them, then the caller's
    own, then (when sampling) the warpers."""
    config, prompt, source = request.config, request.prompt, request.source_ids
    rows, length = request.rows_per_source, prompt.shape[1]

    def ids(option: Any) -> Tensor:
        return torch.tensor([option] if isinstance(option, int) else list(option), device=prompt.device)

    made = p.LogitsProcessorList()
    # a checkpoint's end token may lie outside a shrunken vocabulary: never written, it need not be masked
    eos = None if request.eos is None else request.eos[request.eos < vocabulary]
    if config.sequence_bias is not None:
        made.append(p.SequenceBias(p.biases_of(config.sequence_bias), vocabulary, prompt.device))
    if source is not None and config.encoder_repetition_penalty not in (None, 1.0):
        made.append(p.EncoderRepetitionPenalty(config.encoder_repetition_penalty, source, rows))
    if config.repetition_penalty not in (None, 1.0):
        made.append(p.RepetitionPenalty(config.repetition_penalty))
    if config.no_repeat_ngram_size:
        made.append(p.NoRepeatNGram(config.no_repeat_ngram_size))
    if source is not None and config.encoder_no_repeat_ngram_size:
        made.append(p.EncoderNoRepeatNGram(config.encoder_no_repeat_ngram_size, source, rows))
    if config.bad_words_ids is not None:
        ends = [] if eos is None else [(token,) for token in eos.tolist()]
        bad = {tuple(word): p.NEVER for word in config.bad_words_ids if tuple(word) not in ends}
        made.append(p.SequenceBias(bad, vocabulary, prompt.device))
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
