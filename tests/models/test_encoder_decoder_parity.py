"""Pairs against transformers in float64: every combination of halves, outputs, losses, gradients and text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import seq2seq_zoo
from seq2seq_zoo import ConfigError
from seq2seq_zoo.models.mvp import MvpEncoder
from tests.models import test_bert_generation_parity as bert
from tests.models import test_mt5_parity as mt5
from tests.models import test_mvp_parity as mvp
from tests.oracle import (
    MAJOR,
    assert_gradients_agree,
    assert_outputs_agree,
    build,
    float64,
    needs_4,
    ours_of,
    randomise,
    relative_error,
)

SIZE = bert.SIZE
DECODER = {"is_decoder": True, "add_cross_attention": True}
MVP = {**mvp.SIZE, "encoder_layers": 3}
# Each pair: the oracle's halves, by class, config and fields.
PAIRS: dict[str, tuple[tuple[str, dict[str, Any]], tuple[str, dict[str, Any]]]] = {
    "bert and bert": (("bert", {}), ("bert", {})),
    "narrow and wide": (("bert", {"hidden_size": 12, "num_attention_heads": 3}), ("bert", {})),
    "two vocabularies": (("bert", {"vocab_size": 40, "num_hidden_layers": 1}), ("bert", {})),
    "relative_key": (
        ("bert", {"position_embedding_type": "relative_key_query"}),
        ("bert", {"position_embedding_type": "relative_key"}),
    ),
    "relative_key_query": (
        ("bert", {"position_embedding_type": "relative_key"}),
        ("bert", {"position_embedding_type": "relative_key_query"}),
    ),
    "bert and mvp": (("bert", {}), ("mvp", {})),
    "narrow bert and mvp": (("bert", {"hidden_size": 12, "num_attention_heads": 3}), ("mvp", {})),
    "mt5 and bert": (("mt5", {"d_model": 12}), ("bert", {})),
    "mt5 and mvp": (("mt5", {}), ("mvp", {"tie_word_embeddings": False})),
    "untied bert": (("bert", {}), ("bert", {"tie_word_embeddings": False})),
}
EVERYTHING = {"output_hidden_states": True, "output_attentions": True}


def halves(name: str) -> tuple[Any, Any]:
    """The oracle's halves of a pair, in eval mode."""
    (kind, options), (decoder_kind, decoder_options) = PAIRS[name]
    for part in (options, decoder_options):
        bert.skip_what_the_oracle_lost(part)
        mvp.skip_what_the_oracle_lost(part if decoder_kind == "mvp" else {})
    if kind == "bert":
        encoder = build("BertGenerationEncoder", transformers.BertGenerationConfig(**{**SIZE, **options}))
    else:
        encoder = build("MT5EncoderModel", transformers.MT5Config(**{**mt5.SIZE, **options}))
    if decoder_kind == "bert":
        config = transformers.BertGenerationConfig(**{**SIZE, **DECODER, **decoder_options})
        decoder = build("BertGenerationDecoder", config, seed=1)
    else:
        decoder = build("MvpForCausalLM", transformers.MvpConfig(**{**MVP, **decoder_options}), seed=1)
    return encoder, decoder


def pair(name: str, folder: Path) -> tuple[Any, Any]:
    encoder, decoder = halves(name)
    theirs = transformers.EncoderDecoderModel(encoder=encoder, decoder=decoder).eval()
    if hasattr(theirs, "enc_to_dec_proj"):
        randomise(theirs.enc_to_dec_proj, 2)
    theirs.config.decoder_start_token_id, theirs.config.pad_token_id = 2, 0
    return theirs, ours_of(theirs, seq2seq_zoo.EncoderDecoderModel, folder)


def source(side: str = "right") -> dict[str, Tensor]:
    ids, mask = bert.source(side)
    return {"input_ids": ids.clamp(max=39), "attention_mask": mask}


def targets(seed: int = 2) -> Tensor:
    return torch.randint(3, 61, (3, 6), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", PAIRS)
def test_every_pair(tmp_path: Path, name: str, side: str) -> None:
    with float64():
        theirs, ours = pair(name, tmp_path)
        labels = targets()
        labels[0, 4:] = -100
        call = {**source(side), "labels": labels, "use_cache": False}
        expected = theirs(**call, **EVERYTHING)
        # Made from labels, the decoder inputs behind a row's end are padding, whose own vectors nobody uses …
        real = torch.cat([torch.ones(3, 1, dtype=torch.bool), labels[:, :-1] != -100], dim=1)
        mine = ours(**call, **EVERYTHING)
        assert_outputs_agree(mine, expected)
        fused = ours(**call)
        assert relative_error(fused.loss, expected.loss) <= 1e-9
        assert relative_error(fused.logits[real], expected.logits[real]) <= 1e-9
        told = torch.log_softmax(fused.logits, -1)
        own = [told[b, i, labels[b, i]] for b in range(3) for i in range(6) if labels[b, i] >= 0]
        assert relative_error(fused.loss, -torch.stack(own).mean()) <= 1e-12
        compared = assert_gradients_agree(ours, fused.loss, theirs, expected.loss)
        assert compared == len(list(ours.named_parameters()))
        # … and the tuple holds the same in the same order.
        listed = ours(**call, **EVERYTHING, return_dict=False)
        assert len(listed) == len(mine)
        assert torch.equal(listed[1], mine.logits)


@pytest.mark.parametrize("name", ["bert and bert", "narrow and wide", "mt5 and mvp"])
def test_every_way_to_call(tmp_path: Path, name: str) -> None:
    with float64():
        theirs, ours = pair(name, tmp_path)
        width = ours.config.encoder.hidden_size
        vectors, decoder_vectors = torch.randn(3, 8, width), torch.randn(3, 6, 16)
        mask = source()["attention_mask"]
        decoder_mask = torch.ones(3, 6, dtype=torch.long)
        decoder_mask[1, 3:] = 0
        for call in (
            {"inputs_embeds": vectors, "attention_mask": mask, "decoder_inputs_embeds": decoder_vectors},
            {**source(), "decoder_input_ids": targets(), "decoder_attention_mask": decoder_mask},
            {**source(), "decoder_input_ids": targets(), "labels": targets(5)},
            {"input_ids": source()["input_ids"], "decoder_input_ids": targets()},
        ):
            assert_outputs_agree(ours(**call, **EVERYTHING), theirs(**call, **EVERYTHING))
        encoded = ours.get_encoder()(inputs_embeds=vectors, attention_mask=mask, **EVERYTHING)
        their_encoded = theirs.encoder(inputs_embeds=vectors, attention_mask=mask, **EVERYTHING)
        call = {"attention_mask": mask, "decoder_inputs_embeds": decoder_vectors}
        expected = theirs(inputs_embeds=vectors, **call).logits
        for given in (encoded, (encoded.last_hidden_state,), encoded.to_tuple(), their_encoded):
            assert relative_error(ours(encoder_outputs=given, **call).logits, expected) <= 1e-9


def test_options_of_one_half(tmp_path: Path) -> None:
    with float64():
        theirs, ours = pair("bert and bert", tmp_path)
        places = torch.randint(0, 40, (3, 8))
        decoder_places = torch.randint(0, 40, (3, 6))
        call = {**source(), "decoder_input_ids": targets(), "position_ids": places}
        call["decoder_position_ids"] = decoder_places
        if MAJOR == 4:
            call |= {"head_mask": torch.rand(3, 2), "decoder_head_mask": torch.rand(2)}
        assert_outputs_agree(ours(**call), theirs(**call))
        with pytest.raises(TypeError, match="head_mas"):
            ours(**source(), decoder_input_ids=targets(), decoder_head_mas=torch.rand(2))


@pytest.mark.parametrize("name", PAIRS)
def test_steps_of_any_size_equal_the_full_pass(name: str) -> None:
    (kind, options), (decoder_kind, decoder_options) = PAIRS[name]
    encoder_config = (
        seq2seq_zoo.BertGenerationConfig(**{**SIZE, **options})
        if kind == "bert"
        else seq2seq_zoo.MT5Config(**{**mt5.SIZE, **options})
    )
    decoder_config = (
        seq2seq_zoo.BertGenerationConfig(**{**SIZE, **decoder_options})
        if decoder_kind == "bert"
        else seq2seq_zoo.MvpConfig(**{**MVP, **decoder_options})
    )
    with float64():
        torch.manual_seed(0)
        ours = seq2seq_zoo.EncoderDecoderModel(
            seq2seq_zoo.EncoderDecoderConfig.from_encoder_decoder_configs(encoder_config, decoder_config)
        ).eval()
        randomise(ours)
        given = source("left")
        full = ours(**given, decoder_input_ids=targets()).logits
        encoded = ours.get_encoder()(**given)
        for sizes, grad in (((1,) * 6, True), ((1, 3, 2), False), ((4, 2), True), ((1,) * 6, False)):
            state, done, logits = None, 0, []
            with torch.set_grad_enabled(grad):
                for size in sizes:
                    out = ours(
                        encoder_outputs=encoded,
                        attention_mask=given["attention_mask"],
                        decoder_input_ids=targets()[:, done : done + size],
                        past_key_values=state,
                    )
                    state, done = out.past_key_values, done + size
                    logits.append(out.logits)
            assert relative_error(torch.cat(logits, 1), full) <= 1e-12


def test_the_encoder_of_a_whole_model(tmp_path: Path) -> None:
    """What `get_encoder` of an MVP returns can be a half, as the oracle's can."""
    with float64():
        their_mvp = build("MvpModel", transformers.MvpConfig(**{**MVP, "d_model": 8}))
        our_mvp = ours_of(their_mvp, seq2seq_zoo.MvpModel, tmp_path / "mvp")
        config = transformers.BertGenerationConfig(**SIZE, **DECODER)
        their_decoder = build("BertGenerationDecoder", config)
        our_decoder = ours_of(their_decoder, seq2seq_zoo.BertGenerationDecoder, tmp_path / "bert")
        theirs = transformers.EncoderDecoderModel(encoder=their_mvp.encoder, decoder=their_decoder).eval()
        ours = seq2seq_zoo.EncoderDecoderModel(encoder=our_mvp.get_encoder(), decoder=our_decoder).eval()
        ours.enc_to_dec_proj.load_state_dict(theirs.enc_to_dec_proj.state_dict())
        call = {**source("left"), "decoder_input_ids": targets()}
        assert_outputs_agree(ours(**call, **EVERYTHING), theirs(**call, **EVERYTHING))
        assert ours.encoder.encoder is our_mvp.encoder
        assert type(ours.get_encoder()) is MvpEncoder
        ours.save_pretrained(tmp_path / "ours")
        again = seq2seq_zoo.EncoderDecoderModel.from_pretrained(tmp_path / "ours")
        assert torch.equal(again(**call).logits, ours(**call).logits)


@needs_4  # 5.x ties nothing
@pytest.mark.parametrize("positions", bert.POSITIONS)
def test_tied_halves(tmp_path: Path, positions: str) -> None:
    with float64():
        config = transformers.BertGenerationConfig(**SIZE, position_embedding_type=positions)
        their_encoder = build("BertGenerationEncoder", config)
        decoder_config = transformers.BertGenerationConfig(
            **SIZE, **DECODER, position_embedding_type=positions
        )
        their_decoder = build("BertGenerationDecoder", decoder_config, seed=1)
        joint = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(
            their_encoder.config, their_decoder.config, tie_encoder_decoder=True
        )
        joint.decoder_start_token_id, joint.pad_token_id = 2, 0
        theirs = transformers.EncoderDecoderModel(
            config=joint, encoder=their_encoder, decoder=their_decoder
        ).eval()
        ours = ours_of(theirs, seq2seq_zoo.EncoderDecoderModel, tmp_path)
        assert ours.num_parameters() == theirs.num_parameters()
        own = dict(ours.encoder.named_parameters())
        assert all(
            own[name] is parameter
            for name, parameter in ours.decoder.model.named_parameters()
            if "cross_attention" not in name
        )
        call = {**source(), "labels": targets(), "use_cache": False}
        mine, expected = ours(**call), theirs(**call)
        assert_outputs_agree(mine, expected)
        assert assert_gradients_agree_of_tied(ours, mine.loss, theirs, expected.loss) > 50


def assert_gradients_agree_of_tied(ours: Any, loss: Tensor, theirs: Any, their_loss: Tensor) -> int:
    """As `assert_gradients_agree`, for the names that are stored: those of the decoder."""
    loss.backward()
    their_loss.backward()
    other = dict(theirs.named_parameters(remove_duplicate=False))
    mine = dict(ours.named_parameters(remove_duplicate=False))
    largest = max(float(p.grad.abs().max()) for p in other.values() if p.grad is not None)
    compared = 0
    for link in type(ours).key_map(ours.config).links({name: p.shape for name, p in mine.items()}):
        a, b = mine[link.names[0]].grad, other[link.keys[0]].grad
        floor = max(float(b.abs().max()), 1e-4 * largest)
        assert float((a - b).abs().max()) <= 1e-9 * floor, link.names[0]
        compared += 1
    return compared


@needs_4
def test_a_start_token_that_is_the_padding_token(tmp_path: Path) -> None:
    """Fault of the oracle: it masks the start token like padding, and where a query may then see nothing, it
    sees everything, the labels to come included. Ours sees itself."""
    with float64():
        theirs, ours = pair("bert and bert", tmp_path)
        for model in (theirs, ours):
            model.config.decoder_start_token_id = 0
        labels, others = targets(), targets()
        others[:, 2:4] = 7
        assert labels[:, :2].tolist() == others[:, :2].tolist()

        def first(model: Any, labels: Tensor) -> Tensor:
            logits: Tensor = model(**source(), labels=labels).logits[:, 0]
            return logits

        assert relative_error(first(theirs, others), first(theirs, labels)) > 1e-5
        assert torch.equal(first(ours, others), first(ours, labels))
        mine, expected = ours(**source(), labels=labels).logits, theirs(**source(), labels=labels).logits
        assert relative_error(mine[:, 1:], expected[:, 1:]) <= 1e-9


# ---- text ----

OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {"max_new_tokens": 12},
    "greedy without repeats": {"max_new_tokens": 12, "no_repeat_ngram_size": 2, "repetition_penalty": 1.3},
    "beams": {"num_beams": 4, "max_length": 13, "length_penalty": 2.0, "early_stopping": True},
    "three of four": {"num_beams": 4, "max_length": 10, "num_return_sequences": 3},
}


def prone_to_end(theirs: Any) -> None:
    """Make the end token likely enough for texts of different lengths."""
    head = theirs.get_output_embeddings()
    if head.bias is not None:
        with torch.no_grad():
            head.bias[1] += 1.5


@pytest.mark.parametrize("name", ["bert and bert", "narrow and wide", "bert and mvp", "mt5 and bert"])
def test_the_oracle_writes_the_same(tmp_path: Path, name: str) -> None:
    theirs, _ = pair(name, tmp_path / "before")
    prone_to_end(theirs)
    ours = ours_of(theirs, seq2seq_zoo.EncoderDecoderModel, tmp_path / "after")
    for options in OPTIONS.values():
        for side in ("right", "left"):
            given = {**options, **source(side)}
            expected = theirs.generate(**given)
            for cached in (True, False):
                assert ours.generate(**given, use_cache=cached).tolist() == expected.tolist()


@pytest.mark.parametrize("name", ["relative_key", "relative_key_query"])
def test_relative_positions_write_what_the_oracle_writes_without_a_cache(tmp_path: Path, name: str) -> None:
    theirs, ours = pair(name, tmp_path)
    for options in OPTIONS.values():
        given = {**options, **source()}
        expected = theirs.generate(**given, use_cache=False)
        for cached in (True, False):
            assert ours.generate(**given, use_cache=cached).tolist() == expected.tolist()


def test_prompts_of_the_decoder(tmp_path: Path) -> None:
    """A prompt padded on the left is read as a pass reads it."""
    theirs, ours = pair("bert and bert", tmp_path)
    prompt = torch.tensor([[2, 9, 8, 7], [2, 9, 9, 6], [2, 4, 3, 11]])
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1], [0, 1, 1, 1]])
    for beams in (1, 3):
        given = {**source(), "decoder_input_ids": prompt, "decoder_attention_mask": mask}
        given |= {"num_beams": beams, "max_new_tokens": 6}
        expected = theirs.generate(**given, use_cache=MAJOR == 4)
        for cached in (True, False):
            assert ours.generate(**given, use_cache=cached).tolist() == expected.tolist()


@pytest.mark.parametrize("positions", bert.POSITIONS)
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_decoder_alone(tmp_path: Path, positions: str, side: str) -> None:
    theirs, ours = bert.pair(
        "BertGenerationDecoder", tmp_path, is_decoder=True, position_embedding_type=positions
    )
    if side == "left":
        ids, mask = bert.source("left")
        prompts = {"input_ids": ids, "attention_mask": mask}
    else:
        prompts = {"input_ids": torch.randint(3, 61, (2, 4), generator=torch.Generator().manual_seed(4))}
    for options in OPTIONS.values():
        # the oracle's cache gives wrong distances (tests/DIVERGENCES.md)
        expected = theirs.generate(**prompts, **options, use_cache=positions == "absolute")
        for cached in (True, False):
            written = ours.generate(**prompts, **options, use_cache=cached)
            assert written.tolist() == expected.tolist()


def test_a_decoder_alone_reads_vectors_and_a_memory(tmp_path: Path) -> None:
    """The oracle's cache takes the keys of the memory for those of the text, so it must do without, and its
    beams do not repeat the memory."""
    theirs, ours = bert.pair("BertGenerationDecoder", tmp_path, **DECODER)
    ids = torch.randint(3, 61, (3, 4), generator=torch.Generator().manual_seed(4))
    given = {**bert.memory(), "max_new_tokens": 6}
    expected = theirs.generate(ids, **given, use_cache=False)
    for cached in (True, False):
        assert ours.generate(ids, **given, use_cache=cached).tolist() == expected.tolist()
        vectors = ours.get_input_embeddings()(ids)
        written = ours.generate(inputs_embeds=vectors, **given, use_cache=cached)
        assert written.tolist() == expected[:, 4:].tolist()
    beams = ours.generate(ids, num_beams=3, **given)
    vectors, real = bert.memory().values()
    for row in range(3):
        alone = ours.generate(
            ids[row : row + 1],
            num_beams=3,
            max_new_tokens=6,
            encoder_hidden_states=vectors[row : row + 1, real[row].bool()],
        )
        assert beams[row, : alone.shape[1]].tolist() == alone[0].tolist()


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "uncached"])
def test_given_positions_count_on(cached: bool) -> None:
    torch.manual_seed(0)
    config = seq2seq_zoo.BertGenerationConfig(**SIZE, is_decoder=True, eos_token_id=None)
    model = seq2seq_zoo.BertGenerationDecoder(config).eval()
    randomise(model)
    ids = torch.randint(3, 61, (2, 3), generator=torch.Generator().manual_seed(4))
    places = torch.tensor([[7, 9, 20]])
    written = model.generate(ids, position_ids=places, max_new_tokens=4, use_cache=cached)
    for _ in range(4):  # greedy search by passes
        ids = torch.cat([ids, model(ids, position_ids=places).logits[:, -1:].argmax(-1)], dim=1)
        places = torch.cat([places, places[:, -1:] + 1], dim=1)
    assert written.tolist() == ids.tolist()


def test_rows_write_the_same_alone_and_in_a_batch(tmp_path: Path) -> None:
    _, ours = pair("narrow and wide", tmp_path)
    given = source()
    for options in ({"num_beams": 4, "no_repeat_ngram_size": 2}, {}):
        batch = ours.generate(**given, **options, max_new_tokens=8)
        for row in range(3):
            real = given["attention_mask"][row].bool()
            alone = ours.generate(given["input_ids"][row : row + 1, real], **options, max_new_tokens=8)
            assert batch[row, : alone.shape[1]].tolist() == alone[0].tolist()


def test_sources_are_encoded_once_and_their_keys_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seq2seq_zoo.layers.state import SourceKeyValues

    _, ours = pair("narrow and wide", tmp_path)
    filled: list[int] = []
    fill = SourceKeyValues.fill

    def counting(self: Any, keys: Any, values: Any, prefix: Any = None) -> Any:
        filled.append(keys.shape[0])
        return fill(self, keys, values, prefix)

    monkeypatch.setattr(SourceKeyValues, "fill", counting)
    ours.generate(**source(), num_beams=4, min_new_tokens=6, max_new_tokens=6)
    assert filled == [3, 3, 3]  # three layers, once each, three sources


def test_what_comes_back_besides_text(tmp_path: Path) -> None:
    theirs, ours = pair("narrow and wide", tmp_path)
    for options in ({"max_new_tokens": 5}, {"num_beams": 3, "max_new_tokens": 6}):
        given = {**source(), **options, "return_dict_in_generate": True, "output_scores": True}
        given |= {"output_attentions": True, "output_hidden_states": True}
        mine, other = ours.generate(**given), theirs.generate(**given)
        assert mine.sequences.tolist() == other.sequences.tolist()
        for x, y in zip(mine.scores, other.scores, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)
        for name in ("encoder_hidden_states", "encoder_attentions"):
            for x, y in zip(getattr(mine, name), getattr(other, name), strict=True):
                torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)
        for name in ("decoder_hidden_states", "cross_attentions"):
            first, second = getattr(mine, name), getattr(other, name)
            assert len(first) == len(second)
            torch.testing.assert_close(first[0][0], second[0][0], rtol=1e-4, atol=1e-4)


# ---- building ----


def our_halves(**options: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)
    encoder = seq2seq_zoo.BertGenerationEncoder(seq2seq_zoo.BertGenerationConfig(**SIZE))
    decoder = seq2seq_zoo.BertGenerationDecoder(
        seq2seq_zoo.BertGenerationConfig(**{**SIZE, **DECODER, **options})
    )
    return encoder, decoder


def test_halves_are_taken_as_they_are() -> None:
    encoder, decoder = our_halves(hidden_size=8)
    before = {name: p.clone() for part in (encoder, decoder) for name, p in part.named_parameters()}
    model = seq2seq_zoo.EncoderDecoderModel(encoder=encoder, decoder=decoder)
    assert model.get_encoder() is encoder
    assert model.get_decoder() is decoder
    assert model.config.encoder is encoder.config
    assert model.config.decoder is decoder.config
    after = {name: p for part in (encoder, decoder) for name, p in part.named_parameters()}
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [n for n, _ in model.named_parameters() if not n.startswith(("encoder.", "decoder."))] == [
        "enc_to_dec_proj.weight",
        "enc_to_dec_proj.bias",
    ]
    same = seq2seq_zoo.EncoderDecoderModel(encoder=our_halves()[0], decoder=our_halves()[1])
    assert same.enc_to_dec_proj is None
    assert model.get_input_embeddings() is encoder.get_input_embeddings()
    assert model.get_output_embeddings() is decoder.lm_head
    with pytest.raises(NotImplementedError, match=r"model\.encoder\.resize_token_embeddings"):
        model.resize_token_embeddings(70)


def test_a_joint_config_builds_both_halves() -> None:
    plain = seq2seq_zoo.BertGenerationConfig(**SIZE)
    config = seq2seq_zoo.EncoderDecoderConfig.from_encoder_decoder_configs(
        plain, plain, decoder_start_token_id=2, pad_token_id=0
    )
    assert not plain.is_decoder  # the given config is left alone
    assert config.decoder.is_decoder
    assert config.decoder.add_cross_attention
    again = seq2seq_zoo.EncoderDecoderConfig.from_dict(config.to_dict())
    assert again == config
    assert seq2seq_zoo.EncoderDecoderConfig(encoder=plain.to_dict(), decoder=plain).encoder == plain
    torch.manual_seed(0)
    model = seq2seq_zoo.EncoderDecoderModel(config)
    assert type(model.encoder) is seq2seq_zoo.BertGenerationEncoder
    weights = [p for n, p in model.named_parameters() if p.dim() == 2 and "norm" not in n]
    assert 0.018 < float(torch.cat([p.detach().flatten() for p in weights]).std()) < 0.022
    loss = model(input_ids=source()["input_ids"], labels=targets()).loss
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_the_config_of_a_pair_on_either_side(tmp_path: Path) -> None:
    theirs, ours = pair("narrow bert and mvp", tmp_path / "theirs")
    ours.config.save_pretrained(tmp_path / "ours")
    read = transformers.EncoderDecoderConfig.from_pretrained(tmp_path / "ours")
    assert read.encoder.to_dict().items() >= {"model_type": "bert-generation", "hidden_size": 12}.items()
    assert read.decoder.d_model == theirs.config.decoder.d_model
    assert read.decoder_start_token_id == 2
    assert seq2seq_zoo.AutoConfig.from_pretrained(tmp_path / "theirs") == ours.config
    assert type(seq2seq_zoo.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "theirs")) is type(ours)


def test_special_tokens_may_come_after_building() -> None:
    """As in the usual training script: the config is told its start token when the model is there."""
    encoder, decoder = our_halves(bos_token_id=None)
    model = seq2seq_zoo.EncoderDecoderModel(encoder=encoder, decoder=decoder).eval()
    given = source()
    with pytest.raises(ValueError, match="decoder_start_token_id"):
        model(**given, labels=targets())
    with pytest.raises(ValueError, match="decoder_start_token_id"):
        model.generate(**given)
    model.config.decoder_start_token_id, model.config.pad_token_id = 7, 0
    assert model.prepare_decoder_input_ids_from_labels(targets())[:, 0].tolist() == [7, 7, 7]
    assert model.generate(**given, max_new_tokens=3)[:, 0].tolist() == [7, 7, 7]
    model.generation_config.decoder_start_token_id = 9  # from here on the user's word counts
    model.config.decoder_start_token_id = 8
    assert model.generate(**given, max_new_tokens=3)[:, 0].tolist() == [9, 9, 9]


def test_what_does_not_fit_is_refused() -> None:
    encoder, decoder = our_halves()
    build_pair = seq2seq_zoo.EncoderDecoderModel
    with pytest.raises(ValueError, match="neither config nor both"):
        build_pair(encoder=encoder)
    _, blind = our_halves(add_cross_attention=False)
    with pytest.raises(ConfigError, match="no cross-attention"):
        build_pair(encoder=encoder, decoder=blind)
    with pytest.raises(ValueError, match="encoder is a BertGenerationDecoder"):
        build_pair(encoder=decoder, decoder=decoder)
    whole = seq2seq_zoo.MvpModel(seq2seq_zoo.MvpConfig(**MVP))
    with pytest.raises(ValueError, match="encoder is a MvpModel; it must be a MvpEncoder"):
        build_pair(encoder=whole, decoder=decoder)
    with pytest.raises(ValueError, match="decoder is a MvpModel; it must be a MvpForCausalLM"):
        build_pair(encoder=encoder, decoder=whole)
    small = seq2seq_zoo.MT5Config(**mt5.SIZE)
    with pytest.raises(ConfigError, match="mt5 cannot be a decoder"):
        build_pair(seq2seq_zoo.EncoderDecoderConfig(encoder=encoder.config, decoder=small))
    with pytest.raises(ConfigError, match="decoder is None; an EncoderDecoderConfig needs"):
        seq2seq_zoo.EncoderDecoderConfig(encoder=encoder.config)
    with pytest.raises(ValueError, match="'gpt2'"):
        seq2seq_zoo.EncoderDecoderConfig(encoder={"model_type": "gpt2"}, decoder=decoder.config)
    other = seq2seq_zoo.EncoderDecoderConfig.from_encoder_decoder_configs(
        seq2seq_zoo.BertGenerationConfig(**{**SIZE, "hidden_size": 8}), decoder.config
    )
    with pytest.raises(ConfigError, match="differ in hidden_size"):
        build_pair(other, encoder=encoder, decoder=decoder)
    tied = {"tie_encoder_decoder": True}
    for unlike in (
        seq2seq_zoo.BertGenerationConfig(**{**SIZE, "hidden_size": 8}),
        seq2seq_zoo.BertGenerationConfig(**{**SIZE, "num_hidden_layers": 2}),
        small,
    ):
        config = seq2seq_zoo.EncoderDecoderConfig.from_encoder_decoder_configs(unlike, decoder.config, **tied)
        with pytest.raises(ConfigError, match="tie_encoder_decoder"):
            build_pair(config)
