"""MEGA against transformers 4.57.6 in float64, over the grid of its settings: every class, outputs, loss
and the gradients of every parameter. Where the oracle is at fault, test_mega_faults.py shows how."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.mega_oracle import CAUSAL, mended, needs_mega, pair, text
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


@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("options", GRID + NORMS + OTHERS, ids=named)
def test_language_models(tmp_path: Path, options: dict[str, Any], padded: bool) -> None:
    """Outputs, loss, hidden states, attentions and gradients; padding stands on the right."""
    with mended():
        theirs, ours = pair(language_model(options), tmp_path, **options)
        ids, mask = text()
        labels = torch.where(mask.bool(), ids, -100) if padded else ids
        call: dict[str, Any] = {"input_ids": ids, "labels": labels}
        if padded:
            call["attention_mask"] = mask
        if options.get("add_token_type_embeddings"):
            call["token_type_ids"] = torch.arange(16).expand(3, -1) % 3
        expected = theirs(**call, **EVERYTHING)
        mine = ours(**call, **EVERYTHING)
        chunked_away = options.get("use_chunking") and options.get("is_decoder") and padded
        if chunked_away and options.get("attention_activation", "softmax") == "softmax":
            # Where a chunk is padding throughout, its positions attend to the chunk in the oracle, to
            # themselves here.
            real = mask.bool()
            assert relative_error(mine.logits[real], expected.logits[real]) <= 1e-9
            assert relative_error(mine.loss, expected.loss) <= 1e-9
        else:
            assert_outputs_agree(mine, expected)
        plain = ours(**call)
        assert relative_error(plain.logits, mine.logits) <= 1e-12
        assert assert_gradients_agree(ours, plain.loss, theirs, expected.loss) == len(
            list(ours.named_parameters())
        )
