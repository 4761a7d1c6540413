"""mT5 against transformers in float64: every class, over its configurations, outputs, loss and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import seq2seq_zoo
from tests.oracle import (
    assert_gradients_agree,
    assert_outputs_agree,
    build,
    float64,
    needs_4,
    ours_of,
    relative_error,
)

SIZE: dict[str, Any] = {
    "vocab_size": 61,
    "d_model": 16,
    "d_kv": 6,
    "d_ff": 24,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "relu": {"feed_forward_proj": "relu"},
    "gated-relu": {"feed_forward_proj": "gated-relu"},
    "gated-silu": {"feed_forward_proj": "gated-silu"},
    "gelu": {"feed_forward_proj": "gelu"},
    "tied": {"tie_word_embeddings": True},
    "published buckets": {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128},
    "one head": {"num_heads": 1, "d_kv": 5},
    "equal depth": {"num_decoder_layers": None, "layer_norm_epsilon": 1e-3},
}
EVERYTHING = {"output_hidden_states": True, "output_attentions": True}


def pair(name: str, folder: Any, **options: Any) -> tuple[Any, Any]:
    theirs = build(name, transformers.MT5Config(**{**SIZE, **options}))
    return theirs, ours_of(theirs, getattr(seq2seq_zoo, name), folder)


def source(padding_side: str = "right", length: int = 20) -> tuple[Tensor, Tensor]:
    """ids [3, length] that end in the end token, and their mask."""
    ids = torch.randint(3, 61, (3, length), generator=torch.Generator().manual_seed(1))
    ids[:, -1] = 1
    mask = torch.ones(3, length, dtype=torch.long)
    for row, real in enumerate((length, length - 5, 3)):
        if padding_side == "right":
            ids[row, real - 1], ids[row, real:], mask[row, real:] = 1, 0, 0
        else:
            ids[row, : length - real], mask[row, : length - real] = 0, 0
    return ids, mask


def targets(length: int = 17) -> Tensor:
    return torch.randint(3, 61, (3, length), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("config", CONFIGS)
def test_conditional_generation(tmp_path: Any, config: str, side: str) -> None:
    with float64():
        theirs, ours = pair("MT5ForConditionalGeneration", tmp_path, **CONFIGS[config])
        ids, mask = source(side)
        labels = targets()
        labels[0, 9:] = -100
        call = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        expected = theirs(**call, **EVERYTHING)
        assert_outputs_agree(ours(**call, **EVERYTHING), expected)
        fused = ours(**call)
        assert relative_error(fused.logits, expected.logits) <= 1e-9
        assert assert_gradients_agree(ours, fused.loss, theirs, expected.loss) == len(
            list(ours.named_parameters())
        )


def test_long_input(tmp_path: Any) -> None:
    """Distances beyond the last bucket, in both directions."""
    with float64():
        theirs, ours = pair("MT5ForConditionalGeneration", tmp_path, **CONFIGS["published buckets"])
        ids, mask = source(length=300)
        call = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": targets(200)}
        assert relative_error(ours(**call).logits, theirs(**call).logits) <= 1e-9


@pytest.mark.parametrize("side", ["right", "left"])
def test_decoder_padding(tmp_path: Any, side: str) -> None:
    """Where decoder positions are padding nobody looks, so only the real ones are compared."""
    with float64():
        theirs, ours = pair("MT5Model", tmp_path)
        ids, mask = source()
        decoder_mask = torch.ones(3, 17, dtype=torch.long)
        decoder_mask[1, 9:] = 0
        decoder_mask[2, 2:] = 0
        if side == "left":
            decoder_mask = decoder_mask.flip(1)
        call = {
            "input_ids": ids,
            "attention_mask": mask,
            "decoder_input_ids": targets(),
            "decoder_attention_mask": decoder_mask,
        }
        mine, other = ours(**call).last_hidden_state, theirs(**call).last_hidden_state
        real = decoder_mask.bool()
        assert relative_error(mine[real], other[real]) <= 1e-9
        assert mine.isfinite().all()


def test_a_padded_row_equals_the_row_alone() -> None:
    """Positions are relative, so padding on either side changes nothing."""
    with float64():
        torch.manual_seed(0)
        model = seq2seq_zoo.MT5ForConditionalGeneration(seq2seq_zoo.MT5Config(**SIZE)).eval()
        text = targets()
        for side in ("left", "right"):
            ids, mask = source(side)
            batch = model(ids, mask, text).logits
            for row in range(3):
                alone = model(ids[row : row + 1, mask[row].bool()], None, text[row : row + 1]).logits
                assert relative_error(batch[row : row + 1], alone) <= 1e-12


def test_model_and_every_way_to_call_it(tmp_path: Any) -> None:
    with float64():
        theirs, ours = pair("MT5Model", tmp_path)
        ids, mask = source()
        call = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": targets()}
        assert_outputs_agree(ours(**call, **EVERYTHING), theirs(**call, **EVERYTHING))
        vectors, decoder_vectors = torch.randn(3, 20, 16), torch.randn(3, 4, 16)
        call = {"inputs_embeds": vectors, "decoder_inputs_embeds": decoder_vectors, "attention_mask": mask}
        expected = theirs(**call)
        assert_outputs_agree(ours(**call), expected)
        encoded = ours.get_encoder()(inputs_embeds=vectors, attention_mask=mask)
        for given in (encoded, (encoded.last_hidden_state,), encoded.to_tuple()):
            out = ours(encoder_outputs=given, attention_mask=mask, decoder_inputs_embeds=decoder_vectors)
            assert relative_error(out.last_hidden_state, expected.last_hidden_state) <= 1e-9
        with pytest.raises(ValueError, match="decoder_input_ids"):
            ours(input_ids=ids)


@pytest.mark.parametrize("side", ["right", "left"])
def test_encoder(tmp_path: Any, side: str) -> None:
    with float64():
        theirs, ours = pair("MT5EncoderModel", tmp_path)
        ids, mask = source(side)
        call = {"input_ids": ids, "attention_mask": mask}
        assert_outputs_agree(ours(**call, **EVERYTHING), theirs(**call, **EVERYTHING))


@pytest.mark.parametrize(
    ("options", "labels"),
    [
        ({"num_labels": 3}, torch.tensor([0, 2, 1])),
        ({"num_labels": 3}, torch.tensor([[0.0, 1, 1], [1, 0, 0], [0, 0, 0]])),
        ({"num_labels": 1}, torch.tensor([0.3, -1.0, 2.0])),
    ],
    ids=["single label", "several labels", "regression"],
)
def test_sequence_classification(tmp_path: Any, options: dict[str, Any], labels: Tensor) -> None:
    with float64():
        theirs, ours = pair("MT5ForSequenceClassification", tmp_path, **options)
        ids, mask = source()
        labels = labels.double() if labels.is_floating_point() else labels
        call = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        expected = theirs(**call, **EVERYTHING)
        assert_outputs_agree(ours(**call, **EVERYTHING), expected)
        assert_gradients_agree(ours, ours(**call).loss, theirs, expected.loss)


def test_token_classification(tmp_path: Any) -> None:
    with float64():
        theirs, ours = pair("MT5ForTokenClassification", tmp_path, num_labels=4)
        ids, mask = source("left")
        labels = targets(20) % 4
        labels[1, :6] = -100
        call = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        expected = theirs(**call, **EVERYTHING)
        assert_outputs_agree(ours(**call, **EVERYTHING), expected)
        assert_gradients_agree(ours, ours(**call).loss, theirs, expected.loss)


def test_question_answering(tmp_path: Any) -> None:
    with float64():
        theirs, ours = pair("MT5ForQuestionAnswering", tmp_path)
        ids, mask = source()
        call = {"input_ids": ids, "attention_mask": mask}
        assert relative_error(ours(**call).start_logits, theirs(**call).start_logits) <= 1e-9
        call |= {"start_positions": torch.tensor([1, 3, 90]), "end_positions": torch.tensor([2, 8, 7])}
        expected = theirs(**call, **EVERYTHING)
        mine = ours(**call, **EVERYTHING)
        for name in ("loss", "start_logits", "end_logits", "encoder_last_hidden_state"):
            assert relative_error(mine[name], expected[name]) <= 1e-9
        assert_gradients_agree(ours, ours(**call).loss, theirs, expected.loss)


def test_shift_right(tmp_path: Any) -> None:
    theirs, ours = pair("MT5ForConditionalGeneration", tmp_path)
    labels = targets()
    labels[1, 5:] = -100
    assert torch.equal(ours._shift_right(labels), theirs._shift_right(labels))
    assert torch.equal(ours.model._shift_right(labels), theirs._shift_right(labels))


@pytest.mark.parametrize("sizes", [(1,) * 17, (1, 3, 2, 11), (16, 1)])
def test_steps_of_any_size_equal_the_full_pass(sizes: tuple[int, ...]) -> None:
    with float64():
        torch.manual_seed(0)
        model = seq2seq_zoo.MT5ForConditionalGeneration(seq2seq_zoo.MT5Config(**SIZE)).eval()
        (ids, mask), text = source(), targets()
        decoder_mask = torch.ones(3, 17, dtype=torch.long)
        decoder_mask[1, :4] = 0
        full = model(ids, mask, text, decoder_mask).logits
        for grad in (True, False):
            with torch.set_grad_enabled(grad):
                encoded, state, done, logits = model.get_encoder()(ids, mask), None, 0, []
                for size in sizes:
                    out = model(
                        encoder_outputs=encoded,
                        attention_mask=mask,
                        decoder_input_ids=text[:, done : done + size],
                        decoder_attention_mask=decoder_mask[:, : done + size],
                        past_key_values=state,
                    )
                    state, done = out.past_key_values, done + size
                    logits.append(out.logits)
            assert relative_error(torch.cat(logits, 1), full) <= 1e-12


@needs_4
def test_the_float32_islands_of_the_oracle_are_where_we_say() -> None:
    """Without `float64()` the oracle differs by float32's rounding, with it by float64's: nothing else is
    patched away."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        theirs = build("MT5EncoderModel", transformers.MT5Config(**SIZE))
        ids, mask = source()
        rough = theirs(ids, mask).last_hidden_state
        with float64():
            exact = theirs(ids, mask).last_hidden_state
    finally:
        torch.set_default_dtype(before)
    assert 1e-9 < relative_error(rough, exact) < 1e-5
