"""EncoderDecoderModel with a MEGA that reads and a MEGA that writes: steps equal the full pass, a cache and a
batch change no text, files come back as they were. And MEGA's decoding state taken back: to anywhere within
the last step, in every setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import seq2seq_zoo
from tests.mega_oracle import SIZE, text
from tests.models.test_mega_decoding import FURTHER, SETTINGS, named, stepwise, writer
from tests.oracle import randomise, relative_error

CHUNKS = {"use_chunking": True, "chunk_size": 4}
HALVES = [
    {},
    CHUNKS,
    {"attention_activation": "laplace", "relative_positional_bias": "simple"},
    {"attention_activation": "laplace", **CHUNKS},
    {"attention_activation": "relu2", "truncation": 3},
    {"normalize_before_mega": False, "normalization_type": "layernorm"},
]


@pytest.fixture(autouse=True)
def in_float64() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def pair(*, width: int = 10, **options: Any) -> Any:
    """A pair at random; the encoder, of another width, sees both sides."""
    torch.manual_seed(0)
    config = seq2seq_zoo.MegaConfig(**{**SIZE, **options, "hidden_size": width})
    encoder = seq2seq_zoo.MegaModel(config)
    model = seq2seq_zoo.EncoderDecoderModel(
        encoder=encoder, decoder=writer(add_cross_attention=True, **options)
    )
    randomise(model)
    model.config.decoder_start_token_id, model.config.pad_token_id = 0, 1
    return model.eval()


@pytest.mark.parametrize("options", HALVES, ids=named)
@pytest.mark.parametrize("side", ["right", "left"])
def test_steps_of_a_pair_equal_the_full_pass(options: dict[str, Any], side: str) -> None:
    """For sources padded on either side, read once and then held in the state."""
    model = pair(**options)
    (ids, mask), written = text(11, side=side), text(9, seed=3)[0]
    full = model(ids, mask, decoder_input_ids=written, use_cache=False)
    assert full.past_key_values is None
    memory = (full.encoder_last_hidden_state,)
    for sizes in ((1,) * 9, (5, 1, 3), (2, 7)):
        state, done = None, 0
        for size in sizes:
            out = model(
                attention_mask=mask,
                encoder_outputs=memory,
                decoder_input_ids=written[:, done : done + size],
                past_key_values=state,
            )
            assert relative_error(out.logits, full.logits[:, done : done + size]) <= 1e-10
            state, done = out.past_key_values, done + size
    if side == "right":  # a padded source equals the source alone
        for row in range(3):
            alone = model(ids[row : row + 1, mask[row].bool()], decoder_input_ids=written[row : row + 1])
            assert relative_error(alone.logits[0], full.logits[row]) <= 1e-9


@pytest.mark.parametrize("options", HALVES, ids=named)
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"num_beams": 3},
        {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 0.5},
        {"do_sample": True},
    ],
    ids=named,
)
def test_a_pair_writes_the_same_without_a_cache(options: dict[str, Any], how: dict[str, Any]) -> None:
    model = pair(**options)
    ids, mask = text(11)
    written = []
    for cached in (True, False):
        torch.manual_seed(0)
        written.append(model.generate(ids, attention_mask=mask, max_length=12, use_cache=cached, **how))
    assert torch.equal(*written)
    assert written[0].shape[0] == 3 * how.get("num_return_sequences", 1)
    if not how:  # greedily: what the full pass says, one token after the other
        for row in range(3):
            so_far = torch.tensor([[0]])
            for token in written[0][row, 1:].tolist():
                logits = model(ids[row : row + 1], mask[row : row + 1], decoder_input_ids=so_far).logits
                assert int(logits[0, -1].argmax()) == token
                so_far = torch.cat([so_far, torch.tensor([[token]])], 1)
                if token == model.generation_config.eos_token_id:
                    break


@pytest.mark.parametrize("width", [10, 12], ids=["two widths", "one width"])
def test_a_pair_is_saved_and_loaded(width: int, tmp_path: Path) -> None:
    model = pair(width=width, **CHUNKS)
    ids, mask = text(7)
    call = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": text(6, seed=3)[0]}
    model.save_pretrained(tmp_path / "one")
    again, info = seq2seq_zoo.EncoderDecoderModel.from_pretrained(tmp_path / "one", output_loading_info=True)
    assert info == {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": []}
    assert again.config.encoder.model_type == again.config.decoder.model_type == "mega"
    assert again.config.decoder.bidirectional is False
    assert (again.enc_to_dec_proj is None) == (width == 12)
    assert torch.equal(again(**call).logits, model(**call).logits)
    again.save_pretrained(tmp_path / "two")
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_pair_from_two_checkpoints(tmp_path: Path) -> None:
    """A masked language model becomes the encoder, and, told to, the decoder: cross-attention is new."""
    torch.manual_seed(0)
    masked = seq2seq_zoo.MegaForMaskedLM(seq2seq_zoo.MegaConfig(**SIZE))
    randomise(masked)
    masked.save_pretrained(tmp_path)
    causal = writer()
    causal.save_pretrained(tmp_path / "causal")
    with pytest.warns(UserWarning, match="cross_attn"):
        model = seq2seq_zoo.EncoderDecoderModel.from_encoder_decoder_pretrained(
            tmp_path, tmp_path / "causal", decoder_start_token_id=0, pad_token_id=1
        )
    own = dict(causal.named_parameters())
    new = {name for name in dict(model.decoder.named_parameters()) if name not in own}
    assert new
    assert all("cross_attention" in name for name in new)
    assert all(torch.equal(p, own[n]) for n, p in model.decoder.named_parameters() if n in own)
    body = dict(masked.model.named_parameters())
    for name, parameter in model.encoder.named_parameters():
        assert name.startswith("pooler.") or torch.equal(parameter, body[name])
    ids, mask = text(7)
    out = model(ids, mask, labels=ids.masked_fill(mask == 0, -100))
    out.loss.backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if not n.startswith("encoder.pooler"))
    assert model.generate(ids, attention_mask=mask, num_beams=2, max_length=6).shape[0] == 3


def test_a_decoder_that_sees_both_sides_is_refused() -> None:
    model = pair()
    model.decoder.config.bidirectional = True
    with pytest.raises(ValueError, match="bidirectional is True"):
        model.generate(text(5)[0])


# ---- the state, taken back ----

TAKEN_BACK: list[dict[str, Any]] = [
    *SETTINGS,
    *FURTHER,
    {"use_chunking": True, "chunk_size": 40},
    {"truncation": 1},
    {"truncation": 40, "use_chunking": True, "chunk_size": 2},
]


@pytest.mark.parametrize("options", TAKEN_BACK, ids=named)
def test_a_state_goes_back_within_its_last_step(options: dict[str, Any]) -> None:
    """After steps of several tokens over borders of chunks, with rows padded on the left: to every place in
    the last step, to its beginning, twice, and on from there with steps of other sizes."""
    model = writer(**options)
    ids, mask = text(16, side="left")
    full = model(ids, mask, use_cache=False).logits
    with torch.no_grad():
        for before, length in ((1, 3), (5, 7), (8, 4)):
            for kept in range(length + 1):
                state = read(model, ids, mask, (before, length))
                state.crop(before + (kept + length) // 2)
                state.crop(before + kept)
                assert state.length == before + kept
                for size in (1, 3):
                    done = state.length
                    logits = model(
                        ids[:, done : done + size], mask[:, : done + size], past_key_values=state
                    ).logits
                    assert relative_error(logits, full[:, done : done + size]) <= 1e-10
                state.crop(state.length - 2)  # and again, within a step that followed a crop: of 3 tokens
                done = state.length
                logits = model(ids[:, done:], mask, past_key_values=state).logits
                assert relative_error(logits, full[:, done:]) <= 1e-10


def read(model: Any, ids: Tensor, mask: Tensor, sizes: tuple[int, ...]) -> Any:
    """The state after steps of these sizes."""
    state, done = None, 0
    for size in sizes:
        out = model(ids[:, done : done + size], mask[:, : done + size], past_key_values=state)
        state, done = out.past_key_values, done + size
    return state


def test_a_refused_crop_changes_nothing() -> None:
    for options in ({}, CHUNKS, {"truncation": 3}):
        model = writer(**options)
        ids, mask = text(14)
        full = model(ids, use_cache=False).logits
        with torch.no_grad():
            state = read(model, ids, torch.ones_like(mask), (6, 4))
            for length in (1, 5):
                with pytest.raises(ValueError, match="6 … 10 tokens, within what was read last, or to 0"):
                    state.crop(length)
            assert state.length == 10
            assert relative_error(model(ids[:, 10:], past_key_values=state).logits, full[:, 10:]) <= 1e-10
            state.crop(0)
            assert relative_error(model(ids, past_key_values=state).logits, full) <= 1e-10


@pytest.mark.parametrize("options", [{}, CHUNKS, {"truncation": 3, **CHUNKS}], ids=named)
def test_drafts_are_taken_back(options: dict[str, Any]) -> None:
    """Assisted by another MEGA, or by its own text, it writes what it writes alone."""
    model, other = writer(**options), writer(**options)
    randomise(other, 5)
    ids = text(6)[0][:1].repeat(1, 2)
    alone = model.generate(ids, max_new_tokens=20, eos_token_id=None)
    for how in ({"assistant_model": other}, {"assistant_model": model}, {"prompt_lookup_num_tokens": 3}):
        assert torch.equal(model.generate(ids, max_new_tokens=20, eos_token_id=None, **how), alone)
    assert relative_error(stepwise(model, alone, (12, 20)), model(alone).logits) <= 1e-10
