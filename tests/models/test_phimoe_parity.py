"""PhiMoE against transformers in float64: every class, its configurations, outputs, loss and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import seq2seq_zoo
from tests.oracle import assert_gradients_agree, needs_4, needs_5, relative_error
from tests.phimoe_oracle import (
    BORDER,
    EVERYTHING,
    LONGROPE,
    SIZE,
    as_stored,
    assert_real_parts_agree,
    counted,
    exactly,
    ours_at_random,
    pair,
    text,
    varied,
)

CONFIGS: dict[str, dict[str, Any]] = {
    "grouped heads": {},
    "a head's own keys": {"num_key_value_heads": 4},
    "one key head": {"num_key_value_heads": 1},
    "biases": {"attention_bias": True, "lm_head_bias": True},
    "window": {"sliding_window": 4},
    "window of one": {"sliding_window": 1, "num_key_value_heads": 1},
    "wide window": {"sliding_window": 40},
    "tied": {"tie_word_embeddings": True, "rms_norm_eps": 1e-3, "hidden_act": "gelu"},
    "base": {"rope_theta": 100.0, "router_jitter_noise": 0.3},
    "longrope": {**LONGROPE, "attention_bias": True},
    "longrope and window": {**LONGROPE, "sliding_window": 3, "rope_theta": 500.0},
}


def call_with(length: int, side: str, *, labels: bool = False) -> tuple[dict[str, Tensor], Tensor]:
    """Arguments for both libraries, and the mask. With padding on the left positions are given, because the
    oracle counts the padding if they are not."""
    ids, mask = text(length, side)
    call = {"input_ids": ids}
    if side != "full":
        call["attention_mask"] = mask
    if side == "left":
        call["position_ids"] = counted(mask)
    if labels:
        unread = (mask == 0) | (counted(mask) == 0)  # what stands before a row's first token is padding
        call["labels"] = ids.masked_fill(unread, -100)
    return call, mask


# LongRoPE's factors go by length: rows of 10, 11 and 13 positions, and of up to 8
@pytest.mark.parametrize("side", ["full", "right", "left"])
@pytest.mark.parametrize(
    ("config", "length"),
    [*((config, 13) for config in CONFIGS), *((c, BORDER) for c in CONFIGS if c.startswith("longrope"))],
)
def test_causal_language_model(tmp_path: Any, config: str, side: str, length: int) -> None:
    with exactly():
        theirs, ours = pair("PhimoeForCausalLM", tmp_path, **CONFIGS[config])
        call, mask = call_with(length, side, labels=True)
        expected = theirs(**call, **EVERYTHING, use_cache=False)
        assert_real_parts_agree(ours(**call, **EVERYTHING, use_cache=False), expected, mask)
        fused = ours(**call, output_router_logits=True)
        assert relative_error(fused.logits[mask.bool()], expected.logits[mask.bool()]) <= 1e-9
        compared = assert_gradients_agree(ours, fused.loss, theirs, expected.loss, as_stored)
        assert compared == len(list(ours.named_parameters()))


@pytest.mark.parametrize("config", CONFIGS)
def test_training_with_a_seed(tmp_path: Any, config: str) -> None:
    """The same draws: which experts serve, how their slopes are taken, which weights are dropped."""
    with exactly():
        options = {**CONFIGS[config], "attention_dropout": 0.2, "router_jitter_noise": 0.4}
        theirs, ours = pair("PhimoeForCausalLM", tmp_path, **options)
        theirs.train()
        ours.train()
        call, mask = call_with(13, "right", labels=True)
        for seed in (3, 4):
            torch.manual_seed(seed)
            expected = theirs(**call, **EVERYTHING, use_cache=False)
            torch.manual_seed(seed)
            mine = ours(**call, **EVERYTHING, use_cache=False)
            # ours are the weights before the dropout, theirs after it
            assert_real_parts_agree(mine, expected, mask, but="attentions")
            assert_gradients_agree(ours, mine.loss, theirs, expected.loss, as_stored)


@needs_5  # 4.57.6 knows no head_dim
@pytest.mark.parametrize("longrope", [False, True])
def test_heads_of_a_size_of_their_own(tmp_path: Any, longrope: bool) -> None:
    """As in Phi-tiny-MoE-instruct: 16 heads of 128 in a width of 4096."""
    options: dict[str, Any] = {"head_dim": 6, "attention_bias": True}
    if longrope:
        factors = {"short_factor": [1.0, 1.3, 1.1], "long_factor": [2.0, 5.0, 3.0]}
        options["rope_scaling"] = {**LONGROPE["rope_scaling"], **factors}
    with exactly():
        theirs, ours = pair("PhimoeForCausalLM", tmp_path, **options)
        assert ours.model.stack.layers[0].self_attention.query.weight.shape == (24, 16)
        for side in ("full", "right"):
            call, mask = call_with(BORDER, side, labels=True)
            expected = theirs(**call, **EVERYTHING, use_cache=False)
            assert_real_parts_agree(ours(**call, **EVERYTHING, use_cache=False), expected, mask)
        steps = ours(call["input_ids"][:1, :5])
        found = ours(call["input_ids"][:1, 5:], past_key_values=steps.past_key_values).logits
        assert relative_error(found, ours(call["input_ids"][:1]).logits[:, 5:]) <= 1e-9


@needs_4
def test_training_with_jittered_input(tmp_path: Any) -> None:
    """5.x jitters twice: tests/layers has the formula."""
    with exactly():
        theirs, ours = pair("PhimoeForCausalLM", tmp_path, input_jitter_noise=0.2)
        call, _ = call_with(13, "full", labels=True)
        losses = []
        for model in (theirs.train(), ours.train()):
            torch.manual_seed(0)
            losses.append(model(**call).loss)
        assert relative_error(losses[1], losses[0]) <= 1e-9
        assert_gradients_agree(ours, losses[1], theirs, losses[0], as_stored)


@pytest.mark.parametrize("wanted", [True, False])
def test_loss_of_balance(tmp_path: Any, wanted: bool) -> None:
    """With a mask it leaves the padding out; the config has its weight in the loss, and may ask for it."""
    with exactly():
        options = {"router_aux_loss_coef": 7.5, "output_router_logits": wanted}
        theirs, ours = pair("PhimoeForCausalLM", tmp_path, **options)
        for side in ("full", "right"):
            call, mask = call_with(13, side, labels=True)
            expected, mine = theirs(**call), ours(**call)
            assert (mine.aux_loss is not None) == (mine.router_logits is not None) == wanted
            assert_real_parts_agree(mine, expected, mask)
            if wanted:
                plain = ours(**call, output_router_logits=False).loss
                assert relative_error(mine.loss, plain + 7.5 * mine.aux_loss) <= 1e-12


@pytest.mark.parametrize("config", ["grouped heads", "longrope", "window"])
def test_body_and_every_way_to_call_it(tmp_path: Any, config: str) -> None:
    with exactly():
        theirs, ours = pair("PhimoeModel", tmp_path, **CONFIGS[config])
        ids, mask = text(13)
        assert_real_parts_agree(ours(ids, **EVERYTHING), theirs(ids, **EVERYTHING), mask)
        vectors = torch.randn(3, 13, 16, generator=torch.Generator().manual_seed(0))
        expected = theirs(inputs_embeds=vectors).last_hidden_state
        assert relative_error(ours(inputs_embeds=vectors).last_hidden_state, expected) <= 1e-9
        columns = torch.arange(13)  # which follow from the cache, and are accepted
        as_tuple = ours(inputs_embeds=vectors, use_cache=False, cache_position=columns, return_dict=False)
        assert len(as_tuple) == 1
        assert relative_error(as_tuple[0], expected) <= 1e-9
        with pytest.raises(ValueError, match="neither of input_ids and inputs_embeds"):
            ours()
        with pytest.raises(ValueError, match=r"position_ids is .* of shape \[2, 13\]; it must be"):
            ours(ids, position_ids=torch.zeros(2, 13, dtype=torch.long))


@pytest.mark.parametrize("config", ["grouped heads", "longrope"])
def test_positions_of_ones_own(tmp_path: Any, config: str) -> None:
    with exactly():
        theirs, ours = pair("PhimoeForCausalLM", tmp_path, **CONFIGS[config])
        ids, mask = text(13)
        for positions in (torch.arange(13).flip(0)[None], torch.arange(39).view(3, 13) % 13):
            # (without a mask 5.x takes positions that do not count on for the starts of packed texts)
            expected = theirs(ids, attention_mask=mask, position_ids=positions, use_cache=False)
            mine = ours(ids, attention_mask=mask, position_ids=positions, use_cache=False)
            assert_real_parts_agree(mine, expected, mask)


@pytest.mark.parametrize("config", ["grouped heads", "one key head", "biases"])
def test_padding_on_the_right_to_the_last_column(tmp_path: Any, config: str) -> None:
    """What stands at padding means nothing; but labels that are the ids themselves are compared with it."""
    with exactly():
        theirs, ours = pair("PhimoeForCausalLM", tmp_path, **CONFIGS[config])
        ids, mask = text(13, "right")
        call = {"attention_mask": mask, "labels": ids, **EVERYTHING}
        assert_real_parts_agree(ours(ids, **call), theirs(ids, **call), torch.ones_like(mask))


@pytest.mark.parametrize("side", ["full", "right"])
def test_loss_of_balance_with_every_kind_of_mask(side: str) -> None:
    """One for each query, one for each query and head, and one for all rows."""
    with exactly():
        model = ours_at_random()
        ids, mask = text(13, side)
        by_query = mask[:, None] * torch.ones(13, 13, dtype=torch.long).tril()
        call = {"labels": ids, "output_router_logits": True, "position_ids": torch.arange(13)[None]}
        expected = model(ids, mask, **call)
        others = [by_query, by_query[:, None], 3 * mask] + ([mask[:1]] if side == "full" else [])
        for other in others:
            found = model(ids, other, **call)
            assert relative_error(found.aux_loss, expected.aux_loss) <= 1e-12
            assert relative_error(found.loss, expected.loss) <= 1e-12


def test_ill_arguments_are_named() -> None:
    model = ours_at_random()
    ids, mask = text(13)
    for call, message in (
        ({"attention_mask": mask.tolist()}, "attention_mask is a list; it must be a tensor"),
        ({"position_ids": counted(mask).tolist()}, "position_ids is a list; it must be a tensor"),
        (
            {"past_key_values": ours_at_random(num_hidden_layers=4)(ids).past_key_values},
            "the decoding state is of 4 layers; it must be of 3",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            model(ids, **call)


@pytest.mark.parametrize("config", ["grouped heads", "longrope and window"])
def test_shapes_on_the_meta_device(config: str) -> None:
    with torch.device("meta"):
        model = seq2seq_zoo.PhimoeForCausalLM(seq2seq_zoo.PhimoeConfig(**{**SIZE, **CONFIGS[config]}))
        out = model(torch.zeros(2, 13, dtype=torch.long), use_cache=False, output_router_logits=True)
    assert out.logits.is_meta
    assert out.logits.shape == (2, 13, SIZE["vocab_size"])
    assert out.aux_loss.shape == ()


def test_logits_to_keep(tmp_path: Any) -> None:
    with exactly():
        theirs, ours = pair("PhimoeForCausalLM", tmp_path)
        ids, _ = text(13)
        for keep in (0, 1, 4, torch.tensor([2, 0, 9])):
            mine, expected = ours(ids, logits_to_keep=keep).logits, theirs(ids, logits_to_keep=keep).logits
            assert relative_error(mine, expected) <= 1e-9
        for keep, message in ((-1, "must be at least 0"), (2, "must be 0 with them")):
            with pytest.raises(ValueError, match=message):
                ours(ids, labels=ids if keep > 0 else None, logits_to_keep=keep)


LABELS = [
    ({"num_labels": 3}, torch.tensor([0, 2, 1])),
    ({"num_labels": 3}, torch.tensor([[0.0, 1, 1], [1, 0, 0], [0, 0, 0]])),
    ({"num_labels": 1}, torch.tensor([0.3, -1.0, 2.0])),
    ({"num_labels": 3, "problem_type": "regression"}, torch.ones(3, 3)),
]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(("options", "labels"), LABELS, ids=["one", "several", "number", "numbers"])
def test_sequence_classification(tmp_path: Any, options: dict[str, Any], labels: Tensor, side: str) -> None:
    with exactly():
        theirs, ours = pair("PhimoeForSequenceClassification", tmp_path, **options)
        call, mask = call_with(13, side)
        call["labels"] = labels.double() if labels.is_floating_point() else labels
        asked = {"output_hidden_states": True, "output_attentions": True, "use_cache": False}
        expected, mine = theirs(**call, **asked), ours(**call, **asked)
        assert_real_parts_agree(mine, expected, mask)
        assert_gradients_agree(ours, ours(**call).loss, theirs, expected.loss, as_stored)
        vectors = ours.get_input_embeddings()(call.pop("input_ids"))
        again = ours(inputs_embeds=vectors, **call)
        assert relative_error(again.logits, expected.logits) <= 1e-12


def test_the_last_real_token() -> None:
    """By mask or by padding id, and only where one of them is known."""
    with exactly():
        model = ours_at_random("PhimoeForSequenceClassification")
        ids, mask = text(13, "right")
        without_mask = model(ids).logits
        assert relative_error(model(ids, mask).logits, without_mask) <= 1e-12
        alone = torch.cat([model(row[real.bool()][None]).logits for row, real in zip(ids, mask, strict=True)])
        assert relative_error(without_mask, alone) <= 1e-12

        model = ours_at_random("PhimoeForSequenceClassification", pad_token_id=None)
        assert model(ids[:1]).logits.shape == (1, 2)
        assert relative_error(model(ids, mask).logits[1], model(ids[1:2, :11]).logits[0]) <= 1e-12
        with pytest.raises(ValueError, match="pad_token_id is None"):
            model(ids)


@pytest.mark.parametrize("config", CONFIGS)
def test_a_padded_row_equals_the_row_alone(config: str) -> None:
    """On either side, without position_ids, with rows on both sides of LongRoPE's border."""
    with exactly():
        model = ours_at_random(**CONFIGS[config])
        for side in ("left", "right"):
            ids, mask = text(BORDER + 2, side)
            batch = model(ids, mask).logits
            weights = model(ids, mask, output_attentions=True).logits
            assert batch.isfinite().all()
            assert relative_error(weights, batch) <= 1e-12
            for row in range(3):
                real = mask[row].bool()
                alone = model(ids[row : row + 1, real]).logits[0]
                assert relative_error(batch[row, real], alone) <= 1e-12


def test_defaults_are_the_oracles() -> None:
    theirs, ours = transformers.PhimoeConfig(), seq2seq_zoo.PhimoeConfig()
    for name in ours.fields():
        if name not in ("rope_theta", "rope_scaling") and hasattr(theirs, name):
            assert getattr(ours, name) == getattr(theirs, name), name


WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "beams": {"do_sample": False, "num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.5},
    "sampling": {"do_sample": True, "num_return_sequences": 2, "top_k": 9},
    "several ends": {"do_sample": False, "eos_token_id": [7, 9, 12, 24, 30]},
    # (padding, which the oracle takes for written, is not to be written)
    "no repeats": {
        "do_sample": False,
        "repetition_penalty": 1.4,
        "no_repeat_ngram_size": 2,
        "suppress_tokens": [0],
    },
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("config", ["grouped heads", "biases", "longrope"])
def test_generate_writes_what_the_oracle_writes(tmp_path: Any, config: str, way: str) -> None:
    """A batch padded on the left; with LongRoPE, within its border (beyond it, see test_phimoe_faults)."""
    with exactly():
        theirs, ours = pair("PhimoeForCausalLM", tmp_path, **CONFIGS[config])
        ids, mask = text(5, "left")
        options = {"attention_mask": mask, "pad_token_id": 0, "max_new_tokens": 3, **WAYS[way]}
        if config != "longrope":
            options["max_new_tokens"] = 12
        written = []
        for model in (varied(theirs), varied(ours)):
            torch.manual_seed(7)
            written.append(model.generate(ids, **options))
        assert written[0].tolist() == written[1].tolist()
        assert len(set(written[0][:, 5:].flatten().tolist())) > 3
