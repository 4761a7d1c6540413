"""Greedy search and sampling: every row is continued on its own.

greedy:    yₜ = argmax p(y | y₁ … yₜ₋₁, x)
sampling:  yₜ ~ softmax(processed scores)
"""

from __future__ import annotations

import torch
from torch import Tensor

from seq2seq_zoo.generation.draws import draw
from seq2seq_zoo.generation.outputs import (
    GenerateDecoderOnlyOutput,
    GenerateEncoderDecoderOutput,
)
from seq2seq_zoo.generation.peaks import argmax
from seq2seq_zoo.generation.run import Run


def continue_rows(
    run: Run, is_encoder_decoder: bool
) -> Tensor | GenerateDecoderOnlyOutput | GenerateEncoderDecoderOutput:
    """Write every row to its end: ids [R, longest], or the output object that was asked for.

    A row that met an end token is filled with the padding token. A row that only a criterion of the
    caller's finished goes on where there is no end token, since nothing then says what to fill it with.
    """
    request, config = run.request, run.request.config
    rows, length = run.prompt.shape
    text = run.prompt.new_empty(rows, request.limit)
    text[:, :length] = fresh = run.prompt
    unfinished = torch.ones(rows, dtype=torch.bool, device=text.device)
    while True:
        step = run.step(fresh)
        scores = run.scores(text[:, :length], step)
        run.trace.add(step, scores)

        if config.do_sample:
            tokens = draw(scores.softmax(dim=-1)).squeeze(1)
        else:
            tokens = argmax(scores)
        if request.eos is not None:
            tokens = tokens.masked_fill(~unfinished, request.pad)
        text[:, length] = tokens
        length += 1
        run.put(tokens)

        if request.eos is not None:
            unfinished &= ~torch.isin(tokens, request.eos)
        if run.criteria:
            unfinished &= ~run.criteria(text[:, :length], run.trace.scores_so_far)
        can_finish = request.eos is not None or bool(run.criteria)
        if length == request.limit or (can_finish and not bool(unfinished.any())):
            break
        fresh = tokens[:, None]
    run.keep_pace(text[:, : length - 1])
    return run.result(text[:, :length].contiguous(), is_encoder_decoder)
