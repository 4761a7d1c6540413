"""Gated attention, its chunks and its stack, against the paper's equations taken position by position."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import seq2seq_zoo
from seq2seq_zoo.layers import chunks as chunks_module
from seq2seq_zoo.layers import gated_attention
from seq2seq_zoo.layers.chunks import Chunks
from seq2seq_zoo.layers.gated_attention import FeatureDropout
from seq2seq_zoo.layers.norms import BatchNorm, RMSNorm, ScaleNorm, SyncBatchNorm
from seq2seq_zoo.layers.positions import RotaryBias, SimpleBias
from seq2seq_zoo.layers.state import ChunkKeyValues
from tests import mega_formulas
from tests.mega_oracle import CAUSAL, SIZE, text
from tests.oracle import randomise, relative_error

GRID = [
    {**role, "attention_activation": activation, "relative_positional_bias": bias, **chunks}
    for role, activation, bias, chunks in itertools.product(
        ({}, CAUSAL),
        ("softmax", "laplace", "relu2"),
        ("rotary", "simple"),
        ({}, {"use_chunking": True, "chunk_size": 4}),
    )
]
OTHERS: list[dict[str, Any]] = [
    {"normalization_type": "layernorm", "normalize_before_mega": False},
    {"normalization_type": "rmsnorm", "normalize_before_ffn": False},
    {"use_normalized_ffn": False, "truncation": 3},
    {"activation": "relu", "truncation": 2, **CAUSAL},
    {"activation": "linear", "chunk_size": 12, "relative_positional_bias": "simple"},
]


def named(options: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in options.items())


def body(**options: Any) -> Any:
    model = seq2seq_zoo.MegaModel(seq2seq_zoo.MegaConfig(**{**SIZE, **options})).eval()
    randomise(model)
    return model


@pytest.mark.parametrize("options", GRID + OTHERS, ids=named)
def test_equals_the_equations(options: dict[str, Any]) -> None:
    model = body(**options)
    with torch.no_grad():
        for length in (1, 4, 11):
            ids, _ = text(length, rows=1)
            found = model(ids).last_hidden_state[0]
            assert relative_error(found, mega_formulas.hidden(model, ids[0])) <= 1e-10


@pytest.mark.parametrize("options", GRID, ids=named)
def test_padding_on_the_right_changes_nothing(options: dict[str, Any]) -> None:
    model = body(**options)
    ids, mask = text(13)
    with torch.no_grad():
        found = model(ids, mask).last_hidden_state
        for row in range(3):
            real = mask[row].bool()
            expected = mega_formulas.hidden(model, ids[row, real])
            assert relative_error(found[row, real], expected) <= 1e-10


@pytest.mark.parametrize("activation", ["softmax", "laplace", "relu2"])
@pytest.mark.parametrize("bias", ["rotary", "simple"])
def test_cross_attention_equals_the_equations(activation: str, bias: str) -> None:
    options = {"attention_activation": activation, "relative_positional_bias": bias}
    model = body(**CAUSAL, add_cross_attention=True, **options)
    ids, _ = text(7, rows=1)
    memory = torch.randn(1, 9, 12)
    with torch.no_grad():
        found = model(ids, encoder_hidden_states=memory).last_hidden_state[0]
        assert relative_error(found, mega_formulas.hidden(model, ids[0], memory[0])) <= 1e-10


def test_few_scores_at_a_time_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    for role in ({}, CAUSAL):
        model = body(use_chunking=True, chunk_size=4, attention_activation="laplace", **role)
        ids, mask = text(14)
        expected = model(ids, mask).last_hidden_state
        with monkeypatch.context() as patch:
            patch.setattr(gated_attention, "SCORES_AT_A_TIME", 2 * 3 * 16)
            assert torch.equal(model(ids, mask).last_hidden_state, expected)


CUT = [
    *(options for options in GRID if options.get("use_chunking")),
    *({**options, "use_chunking": True, "chunk_size": 3} for options in OTHERS),
    {"normalization_type": "batchnorm", "use_chunking": True, "chunk_size": 1},
]


@pytest.mark.parametrize("options", CUT, ids=named)
def test_long_texts_in_pieces_are_the_same(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without gradients, layers take a long text piece by piece; only their moving averages see all of it."""
    model = body(**options)
    for part in model.modules():
        if isinstance(part, BatchNorm):
            part.running_var.abs_().add_(0.1)
    monkeypatch.setattr(chunks_module, "PIECE", 8)
    met: list[int] = []
    mix = model.stack.layers[1].self_attention.mix

    def noting(x: Tensor, *others: Any, **further: Any) -> Any:
        met.append(x.shape[1])
        return mix(x, *others, **further)

    monkeypatch.setattr(model.stack.layers[1].self_attention, "mix", noting)
    for length, side in itertools.product((5, 16, 17, 23, 24), ("full", "right", "left")):
        ids, mask = text(length, side=side)
        mask = torch.ones_like(mask) if side == "full" else mask
        expected = model(ids, mask, use_cache=False).last_hidden_state
        met.clear()
        with torch.no_grad():
            found = model(ids, mask, use_cache=False).last_hidden_state
            shown = model(ids, mask, use_cache=False, output_attentions=True).last_hidden_state
        assert relative_error(found[mask.bool()], expected[mask.bool()]) <= 1e-12
        assert relative_error(shown, expected) <= 1e-12
        assert met[-1] == length  # attention weights are shown of the whole
        if length > 12 and not (side == "left" and "is_decoder" in options):
            assert len(met) > 2
            assert max(met[:-1]) <= 8 + options.get("chunk_size", 4)


# ---- chunks ----


def seen_by(chunks: Chunks, rows: int) -> Tensor:
    """bool [B, L, end]: which column each query's mask lets it see, by way of split and join."""
    columns = torch.arange(chunks.end, dtype=torch.get_default_dtype()).expand(rows, -1)[..., None] + 1
    keys = chunks.split(columns, 0).squeeze(-1)  # [B, m, s], 0 where nothing stands
    mask = chunks.mask
    if mask is None:
        mask = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    mask = mask.expand(rows, chunks.chunks, chunks.queries_of_a_chunk, chunks.keys)
    every = torch.zeros(rows, chunks.chunks, chunks.queries_of_a_chunk, chunks.end)
    for b, m, i, j in itertools.product(*(range(size) for size in mask.shape)):
        if mask[b, m, i, j] and keys[b, m, j] > 0:
            every[b, m, i, int(keys[b, m, j]) - 1] = 1
    own = torch.zeros(rows, chunks.queries, chunks.end)
    own[:, torch.arange(chunks.queries), chunks.past + torch.arange(chunks.queries)] = 1
    return chunks.join(every, own).bool()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("size", [None, 1, 3, 4, 20])
@pytest.mark.parametrize("side", ["full", "left", "right", "holes"])
def test_who_sees_whom(causal: bool, size: int | None, side: str) -> None:
    end = 10
    padding = torch.ones(3, end, dtype=torch.bool)
    for row, lost in ((1, 3), (2, 5)):
        if side == "left":
            padding[row, :lost] = False
        elif side == "right":
            padding[row, end - lost :] = False
        elif side == "holes":
            padding[row, lost : lost + 2] = False
    for past in range(end) if causal else (0,):
        chunks = Chunks(
            end - past,
            past=past,
            size=size,
            padding=None if side == "full" else padding,
            causal=causal,
        )
        seen = seen_by(chunks, 3)
        for row in range(3):
            begin = int((~padding[row]).long().cumprod(0).sum()) if causal else 0
            for i in range(past, end):
                wide = end if size is None else size
                piece = {
                    j
                    for j in range(end)
                    if (j - begin) // wide == (i - begin) // wide and (j <= i or not causal)
                }
                expected = {j for j in piece if padding[row, j]}
                if not expected:
                    expected = {i} if causal else piece
                assert set(seen[row, i - past].nonzero().flatten().tolist()) == expected, (past, row, i)


def test_chunk_keys_and_values() -> None:
    held = ChunkKeyValues(3)
    tokens = torch.arange(20.0).view(1, 1, 20, 1)
    with torch.no_grad():
        done = 0
        for new in (1, 1, 4, 2, 7, 1, 1, 3):
            keys, values = held.append(tokens[:, :, done : done + new], -tokens[:, :, done : done + new])
            assert torch.equal(keys, tokens[:, :, held.start : done + new])
            assert torch.equal(values, -keys)
            assert held.start % 3 == 0
            assert held.start <= max(0, done - 2)  # a chunk of any row is whole
            assert done - held.start < 5
            done += new
        held.crop(18)
        keys, _ = held.append(tokens[:, :, 18:], -tokens[:, :, 18:])
        assert torch.equal(keys, tokens[:, :, held.start :])


# ---- biases, norms, dropout ----


def test_biases() -> None:
    for first, queries, keys in ((0, 5, 5), (3, 1, 4), (2, 4, 9)):
        rotary, simple = RotaryBias(6), SimpleBias(20, 10)
        for part, options in ((rotary, {}), (simple, {"chunk_size": 10})):
            kind = "rotary" if part is rotary else "simple"
            config = seq2seq_zoo.MegaConfig(
                relative_positional_bias=kind, max_positions=20, shared_representation_size=6, **options
            )
            found = part(queries, keys, first).detach()
            for i, j in itertools.product(range(queries), range(keys)):
                expected = mega_formulas.bias(config, part, first + i, j).detach()
                torch.testing.assert_close(found[i, j], expected, rtol=1e-11, atol=1e-12)
    with pytest.raises(ValueError, match=r"reaches over 11 positions; .* 10"):
        SimpleBias(20, 10)(1, 11, 10)


def test_norms() -> None:
    x = torch.randn(2, 5, 6)
    unit = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    for affine in (True, False):
        scale, rms = ScaleNorm(affine=affine), RMSNorm(6, 1e-5, affine=affine)
        randomise(scale)
        randomise(rms)
        torch.testing.assert_close(scale(x), unit * (scale.scalar if affine else 1))
        torch.testing.assert_close(rms(x), unit * (rms.weight if affine else 1))
        for kind in (BatchNorm, SyncBatchNorm):
            batch = kind(6, affine=affine)
            randomise(batch)
            batch.running_var.abs_()
            batch.train()
            flat = x.flatten(0, 1)
            normal = (x - flat.mean(0)) / (flat.var(0, unbiased=False) + 1e-5).sqrt()
            torch.testing.assert_close(batch(x), normal * batch.weight + batch.bias if affine else normal)
            batch.eval()
            normal = (x - batch.running_mean) / (batch.running_var + 1e-5).sqrt()
            torch.testing.assert_close(batch(x), normal * batch.weight + batch.bias if affine else normal)


def test_feature_dropout() -> None:
    drop = FeatureDropout(0.4)
    x = torch.ones(50, 7, 20)
    kept = drop(x)
    assert torch.equal(kept, kept[:, :1].expand_as(kept))  # a number is dropped at all positions or at none
    assert kept.unique().tolist() == pytest.approx([0, 1 / 0.6])
    assert 0.5 < float((kept > 0).double().mean()) < 0.7
    assert drop.eval()(x) is x


@pytest.mark.parametrize(
    "options", [{}, {"use_feature_dropout": True}, {"use_chunking": True, "chunk_size": 4}]
)
def test_every_dropout_acts_in_training_only(options: dict[str, Any]) -> None:
    ids, _ = text(12)
    probabilities = (
        "dropout_prob",
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
        "nffn_activation_dropout_prob",
    )
    still = dict.fromkeys(probabilities, 0.0)
    for name in probabilities:
        model = body(**{**options, **still, name: 0.5})
        expected = model(ids).last_hidden_state
        assert torch.equal(model(ids).last_hidden_state, expected)
        assert not torch.allclose(model.train()(ids).last_hidden_state, expected), name
    model = body(**options, **still).train()
    assert torch.equal(model(ids).last_hidden_state, model.eval()(ids).last_hidden_state)
