"""Assisted decoding: a draft of several tokens is judged in one pass of the model.

    text so far   t₁ … tₙ, of which the model has read all but the last
    draft         d₁ … dₖ, by a smaller model or a look at the text itself   (`drafts`)
    one step      reads tₙ d₁ … dₖ; its k + 1 scores say what follows tₙ, d₁, …, dₖ
    kept          d₁ … dₘ as far as they are right, and one token of the model's own; the rest is taken back

Greedily a drafted token is right if it is the best one, so the text is that of greedy search. In sampling,
with p the model's distribution and q that from which d was drawn, d is kept with probability
min(1, p(d) / q(d)), and otherwise replaced by a draw from max(0, p − q), normalised: the text has the
distribution of the model alone (Leviathan et al. 2023, arXiv:2211.17192, algorithm 1; Chen et al. 2023,
arXiv:2302.01318). A draft that was not drawn is right if the model draws the same: with prompt lookup, the
same seed gives the text of plain sampling.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from seq2seq_zoo.generation.drafts import Draft, Drafter
from seq2seq_zoo.generation.draws import draw
from seq2seq_zoo.generation.outputs import (
    GenerateDecoderOnlyOutput,
    GenerateEncoderDecoderOutput,
)
from seq2seq_zoo.generation.peaks import argmax
from seq2seq_zoo.generation.protocol import StepOutput
from seq2seq_zoo.generation.run import Run


def continue_with_drafts(
    run: Run, drafter: Drafter, is_encoder_decoder: bool
) -> Tensor | GenerateDecoderOnlyOutput | GenerateEncoderDecoderOutput:
    """Write one row to its end: ids [1, length], or the output object that was asked for.

    The prompt is read without a draft. Where attentions or hidden states of every step are asked for, steps
    are of one token and nothing is drafted.
    """
    request, config = run.request, run.request.config
    length = run.prompt.shape[1]
    text = run.prompt.new_empty(1, request.limit)
    text[:, :length] = run.prompt
    single = run.trace.attentions is not None or run.trace.hidden_states is not None
    read, draft, finished = 0, Draft(0), False  # the model has read so much of the text
    while not finished:
        if read and not single:
            draft = drafter.draft(text, length, request.limit - length - 1)
        steps = run.step(text[:, read : length + draft.count], last=draft.count + 1)
        for place in range(draft.count + 1):
            step = _at(steps, place)
            scores = run.scores(text[:, :length], step)
            run.trace.add(step, scores)
            drafted = text[:, length].clone() if place < draft.count else None
            token = _choose(scores, drafted, draft.drawn_from, place, config.do_sample)
            text[:, length] = token
            length += 1
            run.put(token)
            finished = run.is_finished(token, text[:, :length])
            right = drafted is not None and bool(token == drafted)
            if finished or not right:
                break
        read = length - 1
        run.crop(read)
        drafter.judged(draft.count, place + right, read)
    run.keep_pace(text[:, :read])
    return run.result(text[:, :length].contiguous(), is_encoder_decoder)


def _at(steps: StepOutput, place: int) -> StepOutput:
    """One of several positions that were scored together."""
    negative = None if steps.negative is None else steps.negative[:, place]
    return replace(steps, logits=steps.logits[:, place], negative=negative)


def _choose(
    scores: Tensor, drafted: Tensor | None, drawn_from: list[Tensor] | None, place: int, samples: bool
) -> Tensor:
    """The token [1] that follows, by the scores [1, V]: the drafted one if it is right, else another."""
    if not samples:
        return argmax(scores)
    likely = scores.softmax(dim=-1)
    if drafted is None or drawn_from is None:
        return draw(likely).squeeze(1)
    drafts = drawn_from[place][None]
    if bool(torch.rand(1, device=scores.device) * drafts[:, drafted] < likely[:, drafted]):
        return drafted
    rest = (likely - drafts).clamp_(min=0)
    # nothing is left where both agree but for rounding: then either is the model's own distribution
    return draw(rest if bool(rest.any()) else likely).squeeze(1)
