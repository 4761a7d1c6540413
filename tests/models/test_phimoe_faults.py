"""Where PhiMoE of transformers is wrong: each fault as it stands, beside what is right by the oracle's own
account (a row alone, a pass without cache), and beside ours (tests/DIVERGENCES.md)."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from tests.oracle import MAJOR, needs_4, needs_5, relative_error
from tests.phimoe_oracle import BORDER, LONGROPE, counted, exactly, pair, text, their_config, theirs_at_random


def rows_alone(model: Any, ids: Tensor, mask: Tensor) -> list[Tensor]:
    """The logits of each row without its padding, by one pass without cache: right by any account."""
    return [
        model(ids[row : row + 1, mask[row].bool()], use_cache=False).logits[0] for row in range(ids.shape[0])
    ]


@needs_4
def test_cached_sliding_window(tmp_path: Any) -> None:
    """4.57.6 keeps fewer keys than the window has, and gives them the mask of others."""
    with exactly(), torch.no_grad():
        theirs, ours = pair("PhimoeForCausalLM", tmp_path, sliding_window=4)
        ids, _ = text(13)
        full = theirs(ids, use_cache=False).logits
        assert relative_error(ours(ids, use_cache=False).logits, full) <= 1e-9
        for model, right in ((theirs, False), (ours, True)):
            state, errors = None, []
            for at in range(13):
                out = model(ids[:, at : at + 1], past_key_values=state, use_cache=True)
                state = out.past_key_values
                errors.append(relative_error(out.logits[:, 0], full[:, at]))
            assert max(errors[:4]) <= 1e-9
            assert max(errors[4:]) <= 1e-9 if right else min(errors[4:]) >= 1e-2


def test_a_long_row_switches_its_batch(tmp_path: Any) -> None:
    """Rows of 10, 8 and 7 tokens, of which only the first is longer than the short factors serve; the oracle
    turns all of them by the long ones."""
    with exactly(), torch.no_grad():
        theirs, ours = pair("PhimoeForCausalLM", tmp_path, **LONGROPE)
        for side in ("left", "right"):
            ids, mask = text(BORDER + 2, side)
            call = {"attention_mask": mask, "position_ids": counted(mask), "use_cache": False}
            batch, mine, alone = (
                theirs(ids, **call).logits,
                ours(ids, **call).logits,
                rows_alone(theirs, ids, mask),
            )
            for row, long in enumerate((True, False, False)):
                real = mask[row].bool()
                error = relative_error(batch[row, real], alone[row])
                assert error <= 1e-9 if long else error >= 1e-2
                assert relative_error(mine[row, real], alone[row]) <= 1e-9


def test_steps_across_the_border(tmp_path: Any) -> None:
    """By hand: what was computed with the short factors stays."""
    with exactly(), torch.no_grad():
        theirs, ours = pair("PhimoeForCausalLM", tmp_path, **LONGROPE)
        ids, _ = text(BORDER + 2)
        full = theirs(ids, use_cache=False).logits[:, BORDER:]
        for model, right in ((theirs, False), (ours, True)):
            state = model(ids[:, :BORDER], use_cache=True).past_key_values
            error = relative_error(model(ids[:, BORDER:], past_key_values=state).logits, full)
            assert error <= 1e-9 if right else error >= 1e-2


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("side", ["full", "left"])
def test_generate_across_the_border(tmp_path: Any, side: str, attention: str) -> None:
    """The scores of every step against those of the text so far, each row alone, in one pass.

    4.57.6 computes again with a mask that lets a token see the next (with eager attention, or padding); both
    versions switch the whole batch where its padded length crosses."""
    with exactly(), torch.no_grad():
        judge, ours = pair("PhimoeForCausalLM", tmp_path, **LONGROPE)
        theirs = judge
        if attention == "sdpa":
            config = their_config(**copy.deepcopy(LONGROPE))
            theirs = transformers.PhimoeForCausalLM._from_config(config, attn_implementation="sdpa").eval()
            theirs.load_state_dict(judge.state_dict())
            theirs.model.rotary_emb = judge.model.rotary_emb
        ids, mask = text(BORDER - 1, side)
        asked = {"max_new_tokens": 9, "eos_token_id": 60, "pad_token_id": 0, "suppress_tokens": [60]}
        asked |= {"output_logits": True, "return_dict_in_generate": True, "do_sample": False}
        errors = []
        for model in (theirs, ours):
            out = model.generate(ids, attention_mask=mask, **asked)
            worst = 0.0
            for step, logits in enumerate(out.logits):
                seen = torch.cat([mask, torch.ones(3, step, dtype=torch.long)], 1)
                right = rows_alone(judge, out.sequences[:, : BORDER - 1 + step], seen)
                worst = max(worst, relative_error(logits.double(), torch.stack([row[-1] for row in right])))
            errors.append(worst)
        wrong = side == "left" or (attention == "eager" and MAJOR == 4)
        # (logits of generate are in float32)
        assert errors[0] >= 1e-2 if wrong else errors[0] <= 1e-6
        assert errors[1] <= 1e-6


def test_rows_padded_on_the_left_in_float64(tmp_path: Any) -> None:
    """Eager attention takes its softmax in float32, where the mask's lowest float64 is -∞: a query that may
    see nothing becomes NaN, and with it, through keys and values of weight 0, the whole row."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad():
            theirs, ours = pair("PhimoeForCausalLM", tmp_path)
            ids, mask = text(12, "left")
            call = {"attention_mask": mask, "position_ids": counted(mask)}
            alone = rows_alone(theirs, ids, mask)
            batch, mine = theirs(ids, **call).logits, ours(ids, **call).logits
            for row, padded in enumerate((False, True, True)):
                real = mask[row].bool()
                assert bool(batch[row, real].isnan().any()) == padded
                assert (
                    relative_error(mine[row, real], alone[row]) <= 1e-6
                )  # the oracle's softmax is float32's
    finally:
        torch.set_default_dtype(before)


@needs_5
def test_the_second_oracle_never_uses_the_long_factors(tmp_path: Any) -> None:
    """5.23 chooses them, and computes with the short ones; only the long scale is applied. (Elsewhere
    `tests.phimoe_oracle` mends it.)"""
    other = copy.deepcopy(LONGROPE)
    other["rope_scaling"]["long_factor"] = [7.0, 9.0]
    with exactly(), torch.no_grad():
        ids, _ = text(BORDER + 5)
        as_it_is = [
            theirs_at_random("PhimoeForCausalLM", mend=False, **x)(ids).logits for x in (LONGROPE, other)
        ]
        assert torch.equal(*as_it_is)
        mended = [
            pair("PhimoeForCausalLM", tmp_path / name, **x)
            for name, x in (("one", LONGROPE), ("other", other))
        ]
        assert relative_error(mended[1][0](ids).logits, as_it_is[0]) >= 1e-2
        for theirs, ours in mended:
            assert relative_error(ours(ids).logits, theirs(ids).logits) <= 1e-9
