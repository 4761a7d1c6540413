"""Beam search and beam sampling: for each source the k most promising texts are continued side by side.

With n new tokens, the end token included, a finished text scores

    score(y) = (1 / n^α) Σₜ log p(yₜ | y₁ … yₜ₋₁, x)          α = length_penalty

A step, for each source, with E end tokens and K = k · max(2, 1 + E):

    k running texts  ──log p of every next token, added to the text's own──►  k · V candidates
                     ──the K best, or K drawn without replacement──►  K candidates, of which ≥ k go on
    finished: those of the first k that end here compete with the k best finished texts so far
    running:  the k best that do not end here

A source is closed when none of its running texts can beat the worst of its k finished ones any more. What
the best of them could still reach is judged by its score at the present length, which is a guess
(early_stopping=False), or at the length that suits it most ("never", exact); early_stopping=True closes as
soon as k texts are finished. The search ends when all sources are closed, or when no candidate goes on (all
have the longest length).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from seq2seq_zoo.generation.config import GenerationConfig
from seq2seq_zoo.generation.draws import draw
from seq2seq_zoo.generation.outputs import (
    GenerateBeamDecoderOnlyOutput,
    GenerateBeamEncoderDecoderOutput,
)
from seq2seq_zoo.generation.peaks import WIDE, log_sum_exp, topk
from seq2seq_zoo.generation.run import Run

# A score that no text has: that of empty places, and the malus of candidates that must not be chosen.  It is
# finite, so that even they keep an order.
HOPELESS = -1.0e9

# A record holds, for each position of a text, its token and the row of the step's scores it was chosen from.
TOKEN, ORIGIN = 0, 1


@dataclass
class Texts:
    """k texts of each source, best first.

    scores: [S, k] float32.
    records: [S, k, 2, limit] int64, tokens and origins; beyond the end the filling token and -1.
    """

    scores: Tensor
    records: Tensor


@dataclass
class Finished(Texts):
    """The k best finished texts; done [S, k]: which places hold one."""

    done: Tensor


def search_beams(
    run: Run, is_encoder_decoder: bool
) -> Tensor | GenerateBeamDecoderOnlyOutput | GenerateBeamEncoderDecoderOutput:
    """The num_return_sequences best texts of each source: ids [sources · that, longest], or the output
    object."""
    request, config = run.request, run.request.config
    beams, limit = config.num_beams, request.limit
    rows, prompt_length = run.prompt.shape
    sources, length = rows // beams, prompt_length
    first_row = torch.arange(0, rows, beams, device=run.prompt.device)[:, None]  # [S, 1], of each source

    is_among_first = torch.arange(_count(run), device=first_row.device) < beams  # [K]

    running = _first_texts(run, sources)
    finished = _no_texts(running)
    is_open = torch.ones(sources, dtype=torch.bool, device=first_row.device)
    fresh = run.prompt
    while True:
        step = run.step(fresh)
        if run.shows_scores or step.logits.shape[1] < WIDE:
            log_p = run.log_p(running.records[:, :, TOKEN, :length].flatten(0, 1), step)  # [R, V]
            run.trace.add(step, log_p)
            scores, parents, tokens = _candidates(run, log_p, running.scores)  # [S, K] each
        else:
            run.trace.add(step, step.logits)
            scores, parents, tokens = _candidates_of_logits(run, step.logits, running.scores)
        ends = _ends_here(run, running, parents, tokens, length)
        new_tokens = length + 1 - prompt_length
        finishing = ends & is_among_first  # the others are there to go on when these do not
        if bool(finishing.any()):
            texts = _extend(running.records, parents, tokens, first_row, length)
            _keep_best(finished, scores, texts, finishing, is_open, config, new_tokens)
        best = (scores + HOPELESS * ends).topk(beams, dim=-1)
        parents, tokens = parents.gather(1, best.indices), tokens.gather(1, best.indices)
        running = Texts(best.values, _extend(running.records, parents, tokens, first_row, length))
        length += 1

        is_open &= _can_improve(finished, running, config, new_tokens, limit - prompt_length)
        closed = ~is_open.any() | ends.all()
        if config.early_stopping is True:
            closed |= finished.done.all()
        if bool(closed):
            break
        run.decoding.reorder((parents + first_row).flatten())
        fresh = tokens.reshape(rows, 1)

    run.keep_pace(running.records[:, :, TOKEN, : length - 1].flatten(0, 1))
    returned = finished.records[:, : config.num_return_sequences].flatten(0, 1)  # [S · N, 2, limit]
    origins = returned[:, ORIGIN, prompt_length:]
    longest = int((origins >= 0).sum(dim=1).max())
    sequences = returned[:, TOKEN, : prompt_length + longest].contiguous()
    if not config.return_dict_in_generate:
        return sequences
    output = GenerateBeamEncoderDecoderOutput if is_encoder_decoder else GenerateBeamDecoderOnlyOutput
    return output(
        sequences,
        sequences_scores=finished.scores[:, : config.num_return_sequences].flatten()
        if config.output_scores
        else None,
        beam_indices=origins[:, :longest].int(),
        **run.fields(is_encoder_decoder),
    )


def _first_texts(run: Run, sources: int) -> Texts:
    """The prompt k times; all but the first hopeless, lest every beam continue it in the same way."""
    request, beams = run.request, run.request.config.num_beams
    length = run.prompt.shape[1]
    records = run.prompt.new_full((sources, beams, 2, request.limit), -1)
    records[:, :, TOKEN] = _filling_token(run)
    records[:, :, TOKEN, :length] = run.prompt.view(sources, beams, length)
    scores = torch.zeros(sources, beams, device=records.device)
    scores[:, 1:] = HOPELESS
    return Texts(scores, records)


def _filling_token(run: Run) -> int:
    """What follows the end of a text that is shorter than the longest returned.

    As in the oracle a padding token of id 0 gives way to the first end token here, unlike in greedy search.
    """
    request = run.request
    return request.pad or (0 if request.eos is None else int(request.eos[0]))


def _no_texts(running: Texts) -> Finished:
    scores = torch.full_like(running.scores, HOPELESS)
    return Finished(scores, running.records.clone(), torch.zeros_like(scores, dtype=torch.bool))


def _count(run: Run) -> int:
    """K: with every beam's end tokens among the candidates, at least k others are left."""
    ends = 0 if run.request.eos is None else len(run.request.eos)
    return run.request.config.num_beams * max(2, 1 + ends)


def _candidates(run: Run, log_p: Tensor, running: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, parents (beam 0 … k-1) and tokens of the K candidates of each source, [S, K] each.

    log_p: [S · k, V]; running: [S, k], the scores of the texts that are continued.
    """
    sources, beams = running.shape
    vocabulary, count = log_p.shape[1], _count(run)
    if not run.request.config.do_sample and vocabulary >= WIDE:
        return _best_of_all(*topk(log_p, count), running)
    joint = (log_p.view(sources, beams, vocabulary) + running[..., None]).flatten(1)  # [S, k · V]
    if run.request.config.do_sample:
        chosen = draw(joint.softmax(dim=-1), count)
        return joint.gather(1, chosen), chosen // vocabulary, chosen % vocabulary
    scores, places = joint.topk(count, dim=-1)
    return scores, places // vocabulary, places % vocabulary


def _candidates_of_logits(run: Run, logits: Tensor, running: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same, where nobody else looks at the scores: log p is worked out for the best of each row alone."""
    values, tokens = topk(logits, _count(run))
    values = values.float()
    return _best_of_all(values - log_sum_exp(logits, values[:, :1]), tokens, running)


def _best_of_all(values: Tensor, tokens: Tensor, running: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The K best of all beams, which are among the K best of each: values and tokens [S · k, K]."""
    sources, beams = running.shape
    count = values.shape[1]
    joint = (values.view(sources, beams, count) + running[..., None]).flatten(1)
    scores, places = joint.topk(count, dim=-1)
    return scores, places // count, tokens.view(sources, -1).gather(1, places)


def _ends_here(run: Run, running: Texts, parents: Tensor, tokens: Tensor, length: int) -> Tensor:
    """Which candidates are finished by their new token: [S, K]."""
    ends = torch.full_like(tokens, length + 1 == run.request.limit, dtype=torch.bool)
    if run.request.eos is not None:
        ends |= torch.isin(tokens, run.request.eos)
    if run.criteria:
        ids = running.records[:, :, TOKEN, : length + 1]
        ids = ids.gather(1, parents[..., None].expand(-1, -1, length + 1))  # a copy: [S, K, length + 1]
        ids[..., length] = tokens
        ends |= run.criteria(ids.flatten(0, 1), run.trace.scores_so_far).view_as(ends)
    return ends


def _extend(records: Tensor, parents: Tensor, tokens: Tensor, first_row: Tensor, length: int) -> Tensor:
    """Records of the texts `parents` [S, M], each with one more token: [S, M, 2, limit]."""
    extended = _take(records, parents)
    extended[:, :, TOKEN, length] = tokens
    extended[:, :, ORIGIN, length] = parents + first_row
    return extended


def _keep_best(
    finished: Finished,
    scores: Tensor,
    texts: Tensor,
    finishing: Tensor,
    is_open: Tensor,
    config: GenerationConfig,
    new_tokens: int,
) -> None:
    """Let the candidates [S, K] that finish compete with the texts in `finished`, which is changed."""
    eligible = finishing & is_open[:, None]
    if config.early_stopping is True:
        eligible &= ~finished.done.all(dim=1, keepdim=True)
    final = scores / new_tokens**config.length_penalty + HOPELESS * ~eligible
    best = torch.cat((finished.scores, final), dim=1).topk(config.num_beams, dim=-1)
    finished.scores = best.values
    finished.records = _take(torch.cat((finished.records, texts), dim=1), best.indices)
    finished.done = torch.cat((finished.done, finishing), dim=1).gather(1, best.indices)


def _can_improve(
    finished: Finished, running: Texts, config: GenerationConfig, new_tokens: int, most_tokens: int
) -> Tensor:
    """Whether a source's best running text may still beat its worst finished one, or take an empty place:
    [S]."""
    suits_best = most_tokens if config.early_stopping == "never" and config.length_penalty > 0 else new_tokens
    reachable = running.scores[:, :1] / suits_best**config.length_penalty
    worst = torch.where(finished.done, finished.scores.amin(dim=1, keepdim=True), HOPELESS)
    return torch.any(reachable > worst, dim=1)


def _take(records: Tensor, which: Tensor) -> Tensor:
    """records [S, k, 2, limit], which [S, M] → [S, M, 2, limit]."""
    return records.gather(1, which[..., None, None].expand(-1, -1, *records.shape[2:]))
