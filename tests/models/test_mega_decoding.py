"""MEGA decodes: steps of any size equal the full pass, for every activation, bias and chunk setting; a
padded row equals the row alone; generate writes the same whatever is cached, batched, reordered or run
beside it."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import pytest
import torch
from torch import Tensor

import seq2seq_zoo
from tests.mega_oracle import CAUSAL, SIZE, text
from tests.oracle import randomise, relative_error

SETTINGS = [
    {"attention_activation": activation, "relative_positional_bias": bias, **chunks}
    for activation, bias, chunks in itertools.product(
        ("softmax", "laplace", "relu2"),
        ("rotary", "simple"),
        ({}, {"use_chunking": True, "chunk_size": 4}, {"use_chunking": True, "chunk_size": 1}),
    )
]
FURTHER = [
    {"truncation": 3},
    {"truncation": 3, "use_chunking": True, "chunk_size": 4},
    {"normalize_before_mega": False, "normalization_type": "batchnorm"},
    {"use_normalized_ffn": False, "normalization_type": "rmsnorm"},
    {"add_token_type_embeddings": True, "add_lm_hidden_dense_layer": False},
]
STEPS = [(1,) * 14, (3, 1, 6, 4), (9, 5), (14,), (2, 1, 1, 10)]


def named(options: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in options.items())


@pytest.fixture(autouse=True)
def in_float64() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def writer(**options: Any) -> Any:
    model = seq2seq_zoo.MegaForCausalLM(seq2seq_zoo.MegaConfig(**{**SIZE, **CAUSAL, **options})).eval()
    randomise(model)
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.abs_().add_(0.1)
    return model


def stepwise(
    model: Any, ids: Tensor, sizes: tuple[int, ...], mask: Tensor | None = None, **options: Any
) -> Tensor:
    state, done, logits = None, 0, []
    for size in sizes:
        seen = None if mask is None else mask[:, : done + size]
        out = model(ids[:, done : done + size], seen, past_key_values=state, **options)
        state, done = out.past_key_values, done + size
        logits.append(out.logits)
    return torch.cat(logits, 1)


@pytest.mark.parametrize("options", SETTINGS + FURTHER, ids=named)
@pytest.mark.parametrize("side", ["full", "right", "left"])
def test_steps_equal_the_full_pass(options: dict[str, Any], side: str) -> None:
    model = writer(**options)
    ids, mask = text(14, side=side)
    mask = torch.ones_like(mask) if side == "full" else mask
    full = model(ids, mask, use_cache=False).logits
    assert full.isfinite().all()
    for sizes in STEPS:
        for grad in (True, False):
            with torch.set_grad_enabled(grad):
                logits = stepwise(model, ids, sizes, mask)
            assert relative_error(logits, full) <= 1e-10, sizes


@pytest.mark.parametrize("options", SETTINGS + FURTHER, ids=named)
def test_a_row_padded_on_the_left_equals_the_row_alone(options: dict[str, Any]) -> None:
    """Chunks begin at a row's first real token, and the count of laplace and relu2 does, too."""
    model = writer(**options)
    ids, mask = text(14, side="left")
    padded = model(ids, mask, use_cache=False).logits
    for row in range(3):
        real = mask[row].bool()
        alone = model(ids[row : row + 1, real]).logits
        assert relative_error(padded[row, real], alone[0]) <= 1e-10


@pytest.mark.parametrize("options", SETTINGS, ids=named)
def test_nothing_looks_ahead(options: dict[str, Any]) -> None:
    model = writer(**options)
    ids, _ = text(14, rows=2)
    ids = torch.cat([ids[:1], ids[:1]])
    ids[1, 9:] = 7
    logits = model(ids).logits
    assert torch.equal(logits[0, :9], logits[1, :9])
    assert not torch.allclose(logits[0, 9:], logits[1, 9:])


@pytest.mark.parametrize("length", range(1, 14))
@pytest.mark.parametrize("role", [{}, CAUSAL], ids=["encoder", "causal"])
def test_any_length_is_padded_inside(length: int, role: dict[str, Any]) -> None:
    """A text that does not fill its chunks equals itself padded and masked by hand."""
    options = {**SIZE, **role, "use_chunking": True, "chunk_size": 4, "attention_activation": "laplace"}
    model = seq2seq_zoo.MegaModel(seq2seq_zoo.MegaConfig(**options)).eval()
    randomise(model)
    ids, _ = text(length, rows=1)
    by_hand = torch.cat([ids, torch.ones(1, -length % 4, dtype=torch.long)], 1)
    mask = torch.tensor([[1] * length + [0] * (-length % 4)])
    expected = model(by_hand, mask, output_attentions=True)
    found = model(ids, output_attentions=True)
    assert relative_error(found.last_hidden_state, expected.last_hidden_state[:, :length]) <= 1e-12
    for weights, padded in zip(found.attentions, expected.attentions, strict=True):
        if length > 4:
            assert weights.shape == padded.shape == (1, -(-length // 4), 4, 4)
        else:
            assert weights.shape == (1, 1, length, length)


def test_state_is_cropped_and_reordered() -> None:
    for options in ({}, {"use_chunking": True, "chunk_size": 4}, {"truncation": 3}):
        model = writer(**options)
        ids, _ = text(14)
        full = model(ids, use_cache=False).logits
        with torch.no_grad():
            for length in (8, 5, 3):
                state = model(ids[:, :3]).past_key_values
                model(ids[:, 3:11], past_key_values=state)
                state.crop(length + 1)
                state.crop(length)
                rest = model(ids[:, length:11], past_key_values=state).logits
                assert relative_error(rest, full[:, length:11]) <= 1e-10
            state.crop(3)
            with pytest.raises(ValueError, match="length is 2"):
                state.crop(2)
            assert state.length == 3
            order = torch.tensor([2, 0, 0])
            state.reorder(order)
            rest = model(ids[order, 3:], past_key_values=state).logits
            assert relative_error(rest, full[order, 3:]) <= 1e-10
            state.crop(0)
            assert relative_error(model(ids, past_key_values=state).logits, full) <= 1e-10


def test_keys_of_finished_chunks_are_forgotten() -> None:
    model = writer(use_chunking=True, chunk_size=4)
    ids, _ = text(14)
    state = None
    with torch.no_grad():
        for token in ids.repeat(1, 4).split(1, 1):
            state = model(token, past_key_values=state).past_key_values
            held = state.layers[0].self_attention._held
            assert held.length <= 8
    assert state.length == 56


# ---- cross-attention ----


@pytest.mark.parametrize("activation", ["softmax", "laplace", "relu2"])
@pytest.mark.parametrize("bias", ["rotary", "simple"])
def test_cross_attention_in_steps_and_for_beams(activation: str, bias: str) -> None:
    model = writer(add_cross_attention=True, attention_activation=activation, relative_positional_bias=bias)
    ids, mask = text(14, rows=4)
    memory = torch.randn(2, 5, 12)
    memory_mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    by_row = {
        "encoder_hidden_states": memory.repeat_interleave(2, 0),
        "encoder_attention_mask": memory_mask.repeat_interleave(2, 0),
    }
    by_source = {"encoder_hidden_states": memory, "encoder_attention_mask": memory_mask}
    full = model(ids, mask, use_cache=False, output_attentions=True, **by_row)
    for sizes in STEPS:
        assert relative_error(stepwise(model, ids, sizes, mask, **by_row), full.logits) <= 1e-10
    shared = model(ids, mask, output_attentions=True, **by_source)
    assert relative_error(shared.logits, full.logits) <= 1e-12
    assert relative_error(shared.cross_attentions[1], full.cross_attentions[1]) <= 1e-12
    assert shared.cross_attentions[0].shape == (4, 14, 5)
    alone = model(ids[2:3], mask[2:3], encoder_hidden_states=memory[1:, :2]).logits
    assert relative_error(alone, full.logits[2:3]) <= 1e-10
    with pytest.raises(ValueError, match="encoder_hidden_states"):
        model(ids)
    with pytest.raises(ValueError, match="no cross-attention"):
        writer()(ids, encoder_hidden_states=memory)


@pytest.mark.parametrize("chunks", [{}, {"use_chunking": True, "chunk_size": 4}], ids=["whole", "chunks"])
def test_a_pair_of_megas(chunks: dict[str, Any]) -> None:
    """EncoderDecoderModel with MEGA on both sides: cached, uncached and row by row alike."""
    torch.manual_seed(0)
    encoder = seq2seq_zoo.MegaModel(seq2seq_zoo.MegaConfig(**{**SIZE, **chunks, "hidden_size": 10}))
    model = seq2seq_zoo.EncoderDecoderModel(
        encoder=encoder, decoder=writer(add_cross_attention=True, **chunks)
    ).eval()
    model.config.decoder_start_token_id, model.config.pad_token_id = 0, 1
    ids, mask = text(11)
    labels = text(6, seed=3)[0]
    out = model(ids, mask, labels=labels)
    out.loss.backward()
    idle = {n for n, p in model.named_parameters() if p.grad is None}
    assert idle == {"encoder.pooler.weight", "encoder.pooler.bias"}
    for options in ({}, {"num_beams": 3}):
        written = [
            model.generate(ids, attention_mask=mask, max_length=9, use_cache=cached, **options)
            for cached in (True, False)
        ]
        assert torch.equal(*written)
        for row in range(3):
            alone = model.generate(ids[row : row + 1, mask[row].bool()], max_length=9, **options)
            assert written[0][row, : alone.shape[1]].tolist() == alone[0].tolist()


# ---- generate ----

WRITING: list[dict[str, Any]] = [
    {},
    {"num_beams": 3},
    {"num_beams": 3, "num_return_sequences": 2, "no_repeat_ngram_size": 2},
    {"do_sample": True, "top_k": 5},
    {"num_beams": 2, "do_sample": True},
]


@pytest.mark.parametrize("options", WRITING, ids=named)
@pytest.mark.parametrize("setting", [SETTINGS[0], SETTINGS[1], SETTINGS[7], FURTHER[1]], ids=named)
def test_generate_is_the_same_without_a_cache(setting: dict[str, Any], options: dict[str, Any]) -> None:
    model = writer(**setting)
    ids, mask = text(7, side="left")
    written = []
    for cached in (True, False):
        torch.manual_seed(0)
        written.append(
            model.generate(ids, attention_mask=mask, max_new_tokens=12, use_cache=cached, **options)
        )
    assert torch.equal(*written)
    assert written[0].shape[1] > 7


@pytest.mark.parametrize("setting", [SETTINGS[0], SETTINGS[1], SETTINGS[7]], ids=named)
def test_generate_greedily_is_what_the_full_pass_says(setting: dict[str, Any]) -> None:
    model = writer(**setting)
    ids, mask = text(7, side="left")
    written = model.generate(ids, attention_mask=mask, max_new_tokens=10, eos_token_id=None)
    for row in range(3):
        alone = ids[row : row + 1, mask[row].bool()]
        for _ in range(10):
            alone = torch.cat([alone, model(alone, use_cache=False).logits[:, -1:].argmax(-1)], 1)
        assert written[row, 7 - int(mask[row].sum()) :].tolist() == alone[0].tolist()


def test_generate_from_vectors_and_on_a_memory() -> None:
    model = writer(use_chunking=True, chunk_size=4)
    ids, _ = text(6)
    expected = model.generate(ids, max_new_tokens=9, num_beams=2)
    vectors = model.get_input_embeddings()(ids)
    for cached in (True, False):
        written = model.generate(inputs_embeds=vectors, max_new_tokens=9, num_beams=2, use_cache=cached)
        assert torch.equal(written, expected[:, 6:])
    model = writer(add_cross_attention=True)
    memory = torch.randn(3, 5, 12)
    together = model.generate(ids, encoder_hidden_states=memory, max_new_tokens=5, num_beams=2)
    for row in range(3):
        of_row = slice(row, row + 1)
        alone = model.generate(
            ids[of_row], encoder_hidden_states=memory[of_row], max_new_tokens=5, num_beams=2
        )
        assert together[row, : alone.shape[1]].tolist() == alone[0].tolist()


def test_two_threads_write_with_one_model() -> None:
    model = writer(use_chunking=True, chunk_size=4)
    texts = [text(5 + seed, seed=seed)[0] for seed in range(4)]
    expected = [model.generate(ids, max_new_tokens=15, num_beams=3) for ids in texts]
    written: list[Any] = [None] * 4

    def write(number: int) -> None:
        written[number] = model.generate(texts[number], max_new_tokens=15, num_beams=3)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(a, b) for a, b in zip(written, expected, strict=True))


def test_what_cannot_decode_is_refused() -> None:
    ids, _ = text(6)
    with pytest.warns(UserWarning, match="is_decoder"):
        both_sides = seq2seq_zoo.MegaForCausalLM(seq2seq_zoo.MegaConfig(**SIZE))
    with pytest.raises(ValueError, match="is_decoder is False and bidirectional is True"):
        both_sides.generate(ids)
    with pytest.raises(ValueError, match="is_decoder"):
        both_sides(ids, past_key_values=writer()(ids).past_key_values)
    leaking = writer(bidirectional=True)
    with pytest.raises(ValueError, match="use_cache=False"):
        leaking(ids)
    assert leaking(ids, use_cache=False).past_key_values is None
    with pytest.raises(ValueError, match="is_decoder is True and bidirectional is True"):
        leaking.generate(ids)
    model = writer(relative_positional_bias="simple")
    with pytest.raises(ValueError, match="max_positions"):
        model(torch.full((1, 41), 5))
    assert model.generate(ids, max_length=40, eos_token_id=None).shape[1] == 40
    with pytest.raises(ValueError, match="max_length"):  # the 41st would be written, but never read
        model.generate(ids, max_length=42)
    assert (
        writer().generate(ids, max_length=60, eos_token_id=None).shape[1] == 60
    )  # rotary: beyond max_positions
    for mask in (torch.ones(3, 6, 6), torch.ones(3, 5)):
        with pytest.raises(ValueError, match="attention_mask"):
            writer()(ids, mask)
