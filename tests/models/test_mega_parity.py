"""MEGA against transformers 4.57.6 in float64, over the grid of its settings: every class, outputs, loss
and the gradients of every parameter. Where the oracle is at fault, test_mega_faults.py shows how."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.mega_oracle import CAUSAL, forgetful, mended, needs_mega, pair, text
from tests.oracle import assert_gradients_agree, assert_outputs_agree, relative_error

pytestmark = needs_mega
EVERYTHING = {"output_hidden_states": True, "output_attentions": True}
CHUNKED = {"use_chunking": True, "chunk_size": 4}

GRID = [
    {**role, "attention_activation": activation, "relative_positional_bias": bias, **chunks}
    for role, activation, bias, chunks in itertools.product(
        ({}, CAUSAL), ("softmax", "laplace", "relu2"), ("rotary", "simple"), ({}, CHUNKED)
    )
]
NORMS = [
    {**role, "normalization_type": norm, "normalize_before_mega": before, "norm_affine": affine}
    for role, norm, before, affine in itertools.product(
        ({}, CAUSAL),
        ("scalenorm", "layernorm", "rmsnorm", "batchnorm", "syncbatchnorm"),
        (True, False),
        (True, False),
    )
]
OTHERS = [
    {**role, **option}
    for role, option in itertools.product(
        ({}, CAUSAL),
        (
            {"truncation": 1},
            {"truncation": 5},
            {"truncation": 5, **CHUNKED},
            {"truncation": 100},
            {"use_normalized_ffn": False},
            {"normalize_before_ffn": False},
            {"normalize_before_mega": False, "normalize_before_ffn": False},
            {"activation": "relu"},
            {"activation": "gelu"},
            {"activation": "gelu_accurate"},
            {"activation": "linear"},
            {"add_token_type_embeddings": True, "type_vocab_size": 3},
            {"add_lm_hidden_dense_layer": False},
            {"tie_word_embeddings": False},
            {"ema_projection_size": 1},
            {"chunk_size": 20},
            {"chunk_size": 20, "relative_positional_bias": "simple"},
        ),
    )
]


def named(options: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in options.items() if name not in CAUSAL) + (
        " causal" if "is_decoder" in options else ""
    )


def language_model(options: dict[str, Any]) -> str:
    return "MegaForCausalLM" if options.get("is_decoder") else "MegaForMaskedLM"


@pytest.mark.parametrize("options", GRID + NORMS + OTHERS, ids=named)
def test_language_models(tmp_path: Path, options: dict[str, Any]) -> None:
    """Outputs, loss, hidden states, attentions and gradients, in full and with padding on the right."""
    with mended():
        theirs, ours = pair(language_model(options), tmp_path, **options)
        ids, mask = text()
        call: dict[str, Any] = {"input_ids": ids, "labels": ids}
        if options.get("add_token_type_embeddings"):
            call["token_type_ids"] = torch.arange(16).expand(3, -1) % 3
        padded = {"attention_mask": mask, "labels": torch.where(mask.bool(), ids, -100)}
        for further in ({}, padded):
            call |= further
            expected = forgetful(theirs)(**call, **EVERYTHING)
            mine = ours(**call, **EVERYTHING)
            if further and chunks_of_padding(options):
                real = mask.bool()
                assert relative_error(mine.logits[real], expected.logits[real]) <= 1e-9
                assert relative_error(mine.loss, expected.loss) <= 1e-9
            else:
                assert_outputs_agree(mine, expected)
            compared = assert_gradients_agree(ours, mine.loss, theirs, expected.loss)
            assert compared == len(list(ours.named_parameters()))
            with torch.no_grad():
                assert relative_error(ours(**call).logits, mine.logits) <= 1e-12


def chunks_of_padding(options: dict[str, Any]) -> bool:
    """Whether a chunk that is padding throughout attends to itself in the oracle, each of its positions
    here."""
    softmax = options.get("attention_activation", "softmax") == "softmax"
    return bool(options.get("use_chunking") and options.get("is_decoder") and softmax)


@pytest.mark.parametrize("role", [{}, CAUSAL], ids=["encoder", "causal"])
def test_model_and_every_way_to_call_it(tmp_path: Path, role: dict[str, Any]) -> None:
    with mended():
        theirs, ours = pair("MegaModel", tmp_path, **role)
        ids, mask = text()
        for call in (
            {"input_ids": ids},
            {"input_ids": ids, "attention_mask": mask},
            {"input_ids": ids, "attention_mask": mask.double()},
            {"inputs_embeds": torch.randn(3, 16, 12), "attention_mask": mask},
        ):
            expected, mine = theirs(**call, **EVERYTHING), ours(**call, **EVERYTHING)
            assert_outputs_agree(mine, expected)
            listed = ours(**call, return_dict=False)
            assert [type(item) for item in listed] == [type(item) for item in ours(**call).to_tuple()]
            assert torch.equal(listed[1], mine.pooler_output)
        loss, their_loss = mine.pooler_output.square().sum(), expected.pooler_output.square().sum()
        assert assert_gradients_agree(ours, loss, theirs, their_loss) == len(
            [name for name, _ in ours.named_parameters() if "tokens" not in name]
        )  # the last call brought vectors of its own


@pytest.mark.parametrize("activation", ["softmax", "laplace", "relu2"])
@pytest.mark.parametrize("bias", ["rotary", "simple"])
@pytest.mark.parametrize("first", [True, False])
def test_cross_attention(tmp_path: Path, activation: str, bias: str, first: bool) -> None:
    options = {
        "attention_activation": activation,
        "relative_positional_bias": bias,
        "normalize_before_mega": first,
    }
    with mended():
        theirs, ours = pair("MegaForCausalLM", tmp_path, **CAUSAL, add_cross_attention=True, **options)
        ids, mask = text()
        for keys in (5, 16, 20):
            memory_mask = torch.ones(3, keys, dtype=torch.long)
            memory_mask[1, 3:], memory_mask[2, :2] = 0, 0
            call = {
                "input_ids": ids,
                "attention_mask": mask,
                "labels": ids,
                "encoder_hidden_states": torch.randn(3, keys, 12),
                "encoder_attention_mask": memory_mask,
            }
            expected, mine = forgetful(theirs)(**call, **EVERYTHING), ours(**call, **EVERYTHING)
            assert_outputs_agree(mine, expected)
            assert assert_gradients_agree(ours, mine.loss, theirs, expected.loss) == len(
                list(ours.named_parameters())
            )


def test_a_causal_language_model_that_sees_both_sides(tmp_path: Path) -> None:
    """Without is_decoder, as in the oracle."""
    with mended(), pytest.warns(UserWarning, match="is_decoder"):
        theirs, ours = pair("MegaForCausalLM", tmp_path)
    with mended():
        ids, mask = text()
        call = {"input_ids": ids, "attention_mask": mask, "labels": ids}
        assert_outputs_agree(ours(**call, **EVERYTHING), theirs(**call, **EVERYTHING))


PROBLEMS = {
    "single label": ({"num_labels": 3}, torch.tensor([0, 2, 1])),
    "several labels": ({"num_labels": 3}, torch.tensor([[0.0, 1, 1], [1, 0, 0], [0, 0, 0]])),
    "regression": ({"num_labels": 1}, torch.tensor([0.3, -1.0, 2.0])),
    "regression of 3": (
        {"num_labels": 3, "problem_type": "regression"},
        torch.tensor([[0.0, 1, 1], [1, 0.5, 0], [0, 0, 0]]),
    ),
}


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("further", [{}, CHUNKED], ids=["whole", "chunks"])
def test_sequence_classification(tmp_path: Path, problem: str, further: dict[str, Any]) -> None:
    options, labels = PROBLEMS[problem]
    with mended():
        theirs, ours = pair("MegaForSequenceClassification", tmp_path, **options, **further)
        ids, mask = text()
        labels = labels.double() if labels.is_floating_point() else labels
        call = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        expected, mine = theirs(**call, **EVERYTHING), ours(**call, **EVERYTHING)
        assert_outputs_agree(mine, expected)
        assert_gradients_agree(ours, mine.loss, theirs, expected.loss)


def test_token_classification(tmp_path: Path) -> None:
    with mended():
        theirs, ours = pair("MegaForTokenClassification", tmp_path, num_labels=4)
        ids, mask = text()
        labels = torch.where(mask.bool(), ids % 4, -100)
        call = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        expected, mine = theirs(**call, **EVERYTHING), ours(**call, **EVERYTHING)
        assert_outputs_agree(mine, expected)
        assert_gradients_agree(ours, mine.loss, theirs, expected.loss)


def test_multiple_choice(tmp_path: Path) -> None:
    with mended():
        theirs, ours = pair("MegaForMultipleChoice", tmp_path, add_token_type_embeddings=True)
        (ids, mask), types = text(rows=6), torch.arange(16).expand(6, -1) % 2
        call = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        call = {name: value.view(2, 3, 16) for name, value in call.items()} | {"labels": torch.tensor([1, 2])}
        expected, mine = theirs(**call, **EVERYTHING), ours(**call, **EVERYTHING)
        assert_outputs_agree(mine, expected)
        assert_gradients_agree(ours, mine.loss, theirs, expected.loss)
        vectors = torch.randn(2, 3, 16, 12)
        assert_outputs_agree(ours(inputs_embeds=vectors), theirs(inputs_embeds=vectors))
        with pytest.raises(ValueError, match="choices"):
            ours(ids)


def test_question_answering(tmp_path: Path) -> None:
    with mended():
        theirs, ours = pair("MegaForQuestionAnswering", tmp_path)
        ids, mask = text(side="left")
        call = {"input_ids": ids, "attention_mask": mask}
        assert_outputs_agree(ours(**call, **EVERYTHING), theirs(**call, **EVERYTHING))
        # A position beyond the sequence does not count.
        call |= {"start_positions": torch.tensor([1, 3, 90]), "end_positions": torch.tensor([2, 8, 16])}
        expected, mine = theirs(**call), ours(**call)
        assert_outputs_agree(mine, expected)
        assert_gradients_agree(ours, mine.loss, theirs, expected.loss)


@pytest.mark.parametrize("norm", ["batchnorm", "syncbatchnorm"])
def test_batch_norms_train(tmp_path: Path, norm: str) -> None:
    """In training they normalise by the batch, padding included, and keep its means."""
    still = dict.fromkeys(
        (
            "dropout_prob",
            "hidden_dropout_prob",
            "attention_probs_dropout_prob",
            "nffn_activation_dropout_prob",
        ),
        0.0,
    )
    with mended():
        theirs, ours = pair("MegaForMaskedLM", tmp_path, normalization_type=norm, **CHUNKED, **still)
        ids, mask = text()
        call = {"input_ids": ids, "attention_mask": mask, "labels": ids}
        expected, mine = theirs.train()(**call), ours.train()(**call)
        assert relative_error(mine.loss, expected.loss) <= 1e-9
        assert_gradients_agree(ours, mine.loss, theirs, expected.loss)
        kept = dict(ours.named_buffers())
        for link in type(ours).key_map(ours.config).links({n: b.shape for n, b in kept.items()}):
            if "running" in link.names[0]:
                other = theirs.get_buffer(link.keys[0])
                assert relative_error(kept[link.names[0]], other) <= 1e-9
