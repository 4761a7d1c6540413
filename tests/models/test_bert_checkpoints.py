"""Checkpoints of BertGeneration, of pairs, and of plain BERT: what the oracle saves we load, and back."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import seq2seq_zoo
from seq2seq_zoo import CheckpointError, ConfigError
from tests.hub_cache import make_hub_cache
from tests.models import test_bert_generation_parity as bert
from tests.models import test_encoder_decoder_parity as pairs
from tests.models.test_checkpoints import stored_keys
from tests.oracle import MAJOR, build, needs_4, needs_5, ours_of, randomise, relative_error

SIZE = bert.SIZE
DECODER = pairs.DECODER
NOTHING = {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": []}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("BertGenerationEncoder", {}),
    ("BertGenerationEncoder", DECODER),
    ("BertGenerationEncoder", {"position_embedding_type": "relative_key"}),
    ("BertGenerationDecoder", {"is_decoder": True}),
    ("BertGenerationDecoder", DECODER),
    ("BertGenerationDecoder", {**DECODER, "position_embedding_type": "relative_key_query"}),
    ("BertGenerationDecoder", {**DECODER, "tie_word_embeddings": False}),
]
IDS = [" ".join([name, *map(str, options)]) for name, options in VARIANTS]


def skip_what_5_stores_twice(options: dict[str, Any]) -> None:
    if MAJOR == 5 and options.get("tie_word_embeddings") is False:
        pytest.skip("transformers 5.x stores two biases with an untied head (tests/DIVERGENCES.md)")


def call() -> dict[str, Any]:
    ids, mask = bert.source()
    return {"input_ids": ids, "attention_mask": mask, "use_cache": False}


# ---- BertGeneration ----


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=IDS)
def test_the_oracle_loads_what_we_save(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    bert.skip_what_the_oracle_lost(options)
    skip_what_5_stores_twice(options)
    torch.manual_seed(0)
    ours = getattr(seq2seq_zoo, name)(seq2seq_zoo.BertGenerationConfig(**SIZE, **options)).eval()
    randomise(ours)
    ours.save_pretrained(tmp_path / "ours")
    theirs, info = getattr(transformers, name).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    with torch.no_grad():
        assert relative_error(ours(**call())[0], theirs.eval()(**call())[0]) <= 1e-5
    theirs.save_pretrained(tmp_path / "theirs")
    assert stored_keys(tmp_path / "ours") == stored_keys(tmp_path / "theirs")
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert config["architectures"] == [name]
    assert config["model_type"] == "bert-generation"


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=IDS)
def test_a_round_trip_is_bit_identical(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    bert.skip_what_the_oracle_lost(options)
    skip_what_5_stores_twice(options)
    build(name, transformers.BertGenerationConfig(**SIZE, **options)).save_pretrained(tmp_path / "theirs")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours, info = getattr(seq2seq_zoo, name).from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert info == NOTHING
    ours.save_pretrained(tmp_path / "ours", max_shard_size="20KB")
    assert len(list((tmp_path / "ours").glob("model-*.safetensors"))) > 1
    expected = load_file(tmp_path / "theirs" / "model.safetensors")
    written: dict[str, torch.Tensor] = {}
    for shard in (tmp_path / "ours").glob("*.safetensors"):
        written |= load_file(shard)
    assert set(written) == set(expected)
    assert all(torch.equal(written[key], expected[key]) for key in expected)


@needs_5
def test_the_bias_that_an_untied_head_of_5_uses(tmp_path: Path) -> None:
    """5.x stores lm_head.bias, which nothing reads, besides lm_head.decoder.bias."""
    theirs = build(
        "BertGenerationDecoder",
        transformers.BertGenerationConfig(**SIZE, is_decoder=True, tie_word_embeddings=False),
    )
    theirs.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = seq2seq_zoo.BertGenerationDecoder.from_pretrained(tmp_path)
    assert not torch.equal(theirs.lm_head.bias, theirs.lm_head.decoder.bias)
    assert torch.equal(ours.lm_head.bias, theirs.lm_head.decoder.bias)
    assert relative_error(ours(**call()).logits, theirs(**call()).logits) <= 1e-5


@pytest.mark.parametrize("size", [40, 70])
def test_resized_vocabulary(size: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = seq2seq_zoo.BertGenerationDecoder(
        seq2seq_zoo.BertGenerationConfig(**SIZE, is_decoder=True)
    ).eval()
    randomise(model)
    bias = model.lm_head.bias.clone()
    table = model.resize_token_embeddings(size)
    kept = min(size, 61)
    assert model.lm_head.weight is table.weight
    assert torch.equal(model.lm_head.bias[:kept], bias[:kept])
    assert not model.lm_head.bias[kept:].any()
    ids = torch.randint(3, 40, (2, 5))
    assert model(ids).logits.shape[-1] == size
    model.save_pretrained(tmp_path)
    again = seq2seq_zoo.BertGenerationDecoder.from_pretrained(tmp_path)
    assert torch.equal(again(ids).logits, model(ids).logits)


# ---- plain BERT ----

PLAIN = ["BertModel", "BertForPreTraining", "BertForMaskedLM", "legacy names"]


def plain_bert(folder: Path, kind: str) -> Any:
    """A BERT as the hub has them: with and without the prefix bert., with heads, with TensorFlow's names."""
    size = {**SIZE, "type_vocab_size": 2}
    name = "BertForPreTraining" if kind == "legacy names" else kind
    theirs = build(name, transformers.BertConfig(**size))
    theirs.save_pretrained(folder)
    if kind == "legacy names":
        tensors = load_file(folder / "model.safetensors")
        renamed = {
            key.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            ): tensor
            for key, tensor in tensors.items()
        }
        assert sum("gamma" in key for key in renamed) == 8
        renamed["bert.embeddings.position_ids"] = torch.arange(40)[None]
        renamed["cls.predictions.decoder.weight"] = theirs.bert.embeddings.word_embeddings.weight.detach()
        (folder / "model.safetensors").unlink()
        torch.save(renamed, folder / "pytorch_model.bin")
    return theirs


def oracles_reading(name: str, folder: Path, **options: Any) -> Any:
    """The oracle's BertGeneration from a BERT."""
    return getattr(transformers, name).from_pretrained(folder, **options).eval()


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_bert_becomes_an_encoder(kind: str, tmp_path: Path) -> None:
    theirs = plain_bert(tmp_path / kind, kind)
    plain_bert(tmp_path / "modern", "BertForPreTraining" if kind == "legacy names" else kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # all keys are accounted for, by name
        ours, info = seq2seq_zoo.BertGenerationEncoder.from_pretrained(
            tmp_path / kind, output_loading_info=True
        )
    assert info == NOTHING
    assert ours.config.vocab_size == 61
    assert type(seq2seq_zoo.AutoModel.from_pretrained(tmp_path / kind)) is seq2seq_zoo.BertGenerationEncoder
    ids, mask = bert.source()
    expected = oracles_reading("BertGenerationEncoder", tmp_path / "modern")
    with torch.no_grad():
        mine = ours(ids, mask).last_hidden_state
        assert relative_error(mine, expected(ids, attention_mask=mask).last_hidden_state) <= 1e-5
        # It is BERT itself, but for the token types.
        body = getattr(theirs, "bert", theirs)
        body.embeddings.token_type_embeddings.weight.zero_()
        assert relative_error(mine, body(ids, attention_mask=mask).last_hidden_state) <= 1e-5


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_bert_becomes_a_decoder(kind: str, tmp_path: Path) -> None:
    theirs = plain_bert(tmp_path / kind, kind)
    plain_bert(tmp_path / "modern", "BertForPreTraining" if kind == "legacy names" else kind)
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="crossattention"):
        ours, info = seq2seq_zoo.BertGenerationDecoder.from_pretrained(
            tmp_path / kind, **DECODER, bos_token_id=7, eos_token_id=8, output_loading_info=True
        )
    fresh = set(info["missing_keys"])
    assert {key for key in fresh if ".crossattention." in key} == fresh - {"lm_head.bias"}
    assert len(fresh) == 3 * 10 + 1
    assert info["unexpected_keys"] == []
    weights = [p for n, p in ours.named_parameters() if ".cross_attention." in n and p.dim() == 2]
    assert 0.015 < float(torch.cat([p.detach().flatten() for p in weights]).std()) < 0.025
    assert not ours.lm_head.bias.any()
    table = getattr(theirs, "bert", theirs).embeddings.word_embeddings.weight
    assert torch.equal(ours.lm_head.weight, table)
    assert (ours.config.bos_token_id, ours.config.eos_token_id) == (7, 8)
    expected = oracles_reading("BertGenerationDecoder", tmp_path / "modern", is_decoder=True)
    with torch.no_grad():
        mine = ours(**call()).logits
        assert relative_error(mine, expected(**call()).logits) <= 1e-5
    ours.save_pretrained(tmp_path / "saved")  # from here on it is a BertGeneration
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["model_type"] == "bert-generation"
    assert config["type_vocab_size"] == 2  # what is not ours is kept
    assert (
        relative_error(
            seq2seq_zoo.BertGenerationDecoder.from_pretrained(tmp_path / "saved")(**call()).logits, mine
        )
        == 0
    )


def test_berts_defaults_fill_what_an_old_config_leaves_out(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    config = seq2seq_zoo.BertGenerationConfig.from_pretrained(tmp_path)
    theirs = transformers.BertConfig()
    for name in SIZE:
        assert getattr(config, name) == getattr(theirs, name), name


def test_a_config_of_before_model_types(tmp_path: Path) -> None:
    """As in the BERTs of 2019, such as allenai/scibert_scivocab_uncased: the sizes are all it says."""
    theirs = plain_bert(tmp_path, "BertModel")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps({key: value for key, value in config.items() if key in BERT_OF_2019})
    )
    ours = seq2seq_zoo.BertGenerationEncoder.from_pretrained(tmp_path)
    assert torch.equal(ours.get_input_embeddings().weight, theirs.embeddings.word_embeddings.weight)
    expected = oracles_reading("BertGenerationEncoder", tmp_path)
    ids, mask = bert.source()
    with torch.no_grad():
        found = ours(ids, mask).last_hidden_state
        assert relative_error(found, expected(ids, attention_mask=mask).last_hidden_state) <= 1e-5
    with pytest.raises(CheckpointError, match="has model_type None; it must be one of"):
        seq2seq_zoo.AutoModel.from_pretrained(tmp_path)  # which has only the config to go by
    with pytest.raises(CheckpointError, match="is not a checkpoint of MT5Model"):
        seq2seq_zoo.MT5Model.from_pretrained(tmp_path)


BERT_OF_2019 = {
    *("attention_probs_dropout_prob", "hidden_act", "hidden_dropout_prob", "hidden_size"),
    *("initializer_range", "intermediate_size", "max_position_embeddings", "num_attention_heads"),
    *("num_hidden_layers", "type_vocab_size", "vocab_size"),
}


# ---- pairs ----


@pytest.mark.parametrize(
    "name", ["bert and bert", "narrow and wide", "relative_key", "bert and mvp", "untied bert"]
)
def test_the_oracle_loads_pairs(name: str, tmp_path: Path) -> None:
    if name == "untied bert":
        skip_what_5_stores_twice({"tie_word_embeddings": False})
    _, ours = pairs.pair(name, tmp_path / "theirs")
    randomise(ours, 5)
    ours.save_pretrained(tmp_path / "ours", max_shard_size="20KB")
    again, info = transformers.EncoderDecoderModel.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    given = {**pairs.source(), "labels": pairs.targets(), "use_cache": False}
    with torch.no_grad():
        mine, other = ours(**given), again.eval()(**given)
    assert relative_error(mine.logits, other.logits) <= 1e-5
    assert relative_error(mine.loss, other.loss) <= 1e-5
    assert stored_keys(tmp_path / "ours") == stored_keys(tmp_path / "theirs")


@pytest.mark.parametrize("name", pairs.PAIRS)
def test_a_round_trip_of_a_pair_is_bit_identical(name: str, tmp_path: Path) -> None:
    if name == "untied bert":
        skip_what_5_stores_twice({"tie_word_embeddings": False})
    _, ours = pairs.pair(name, tmp_path / "theirs")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours, info = seq2seq_zoo.EncoderDecoderModel.from_pretrained(
            tmp_path / "theirs", output_loading_info=True
        )
    assert info == NOTHING
    assert not ours.training
    ours.save_pretrained(tmp_path / "ours")
    expected = load_file(tmp_path / "theirs" / "model.safetensors")
    written = load_file(tmp_path / "ours" / "model.safetensors")
    assert set(written) == set(expected)
    assert all(torch.equal(written[key], expected[key]) for key in expected)


@needs_4  # 5.x ties nothing
def test_the_oracle_loads_tied_halves(tmp_path: Path) -> None:
    config = seq2seq_zoo.BertGenerationConfig(**SIZE)
    joint = seq2seq_zoo.EncoderDecoderConfig.from_encoder_decoder_configs(
        config, config, tie_encoder_decoder=True
    )
    torch.manual_seed(0)
    ours = seq2seq_zoo.EncoderDecoderModel(joint).eval()
    randomise(ours)
    ours.save_pretrained(tmp_path / "ours")
    assert not any(key.startswith("encoder.") for key in stored_keys(tmp_path / "ours"))
    theirs = transformers.EncoderDecoderModel.from_pretrained(tmp_path / "ours").eval()
    again = seq2seq_zoo.EncoderDecoderModel.from_pretrained(tmp_path / "ours")
    given = {**pairs.source(), "decoder_input_ids": pairs.targets()}
    with torch.no_grad():
        assert relative_error(ours(**given).logits, theirs(**given).logits) <= 1e-5
        assert torch.equal(ours(**given).logits, again(**given).logits)
    theirs.save_pretrained(tmp_path / "theirs")
    assert stored_keys(tmp_path / "ours") == stored_keys(tmp_path / "theirs")


@needs_5
def test_halves_that_5_only_calls_tied(tmp_path: Path) -> None:
    encoder, decoder = pairs.halves("bert and bert")
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(
        encoder.config, decoder.config, tie_encoder_decoder=True
    )
    theirs = transformers.EncoderDecoderModel(config=config, encoder=encoder, decoder=decoder).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = ours_of(theirs, seq2seq_zoo.EncoderDecoderModel, tmp_path)
    given = {**pairs.source(), "decoder_input_ids": pairs.targets()}
    assert relative_error(ours(**given).logits, theirs(**given).logits) <= 1e-5


def test_pairs_of_whole_berts_are_refused(tmp_path: Path) -> None:
    """Trained with token types and BERT's own head, they mean nothing without them."""
    config = transformers.BertConfig(**SIZE)
    theirs = transformers.EncoderDecoderModel(
        encoder=build("BertModel", config),
        decoder=build("BertLMHeadModel", transformers.BertConfig(**SIZE, **DECODER)),
    )
    theirs.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="whole BERTs"):
        seq2seq_zoo.EncoderDecoderModel.from_pretrained(tmp_path)


def test_warm_start_from_two_checkpoints(tmp_path: Path) -> None:
    plain_bert(tmp_path / "bert", "BertForPreTraining")
    build("MvpForConditionalGeneration", transformers.MvpConfig(**pairs.MVP)).save_pretrained(
        tmp_path / "mvp"
    )
    start = seq2seq_zoo.EncoderDecoderModel.from_encoder_decoder_pretrained
    with pytest.warns(UserWarning, match=r"layer\.2|crossattention") as told:
        model = start(
            tmp_path / "bert",
            tmp_path / "bert",
            encoder_hidden_dropout_prob=0.3,
            decoder_bos_token_id=7,
            encoder_num_hidden_layers=2,
            decoder_start_token_id=9,
            tie_encoder_decoder=False,
            pad_token_id=0,
        )
    assert model.config.decoder_start_token_id == 9  # the pair's own, whatever its prefix
    assert ["crossattention" in str(warning.message) for warning in told] == [False, True]
    assert not model.training
    assert model.config.encoder.hidden_dropout_prob == 0.3
    assert model.config.decoder.hidden_dropout_prob == 0.1
    assert len(model.encoder.stack.layers) == 2
    assert model.config.decoder.bos_token_id == 7
    assert model.config.pad_token_id == 0
    assert not model.config.encoder.is_decoder
    assert model.config.decoder.add_cross_attention
    encoder = seq2seq_zoo.BertGenerationEncoder.from_pretrained(tmp_path / "bert", num_hidden_layers=2)
    ids, mask = bert.source()
    assert torch.equal(model.encoder(ids, mask).last_hidden_state, encoder(ids, mask).last_hidden_state)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mixed = start(encoder_model=encoder, decoder_pretrained_model_name_or_path=tmp_path / "mvp")
        other = start(tmp_path / "mvp", decoder_model=mixed.decoder)
    assert mixed.encoder is encoder
    assert type(mixed.decoder) is seq2seq_zoo.MvpForCausalLM
    full = seq2seq_zoo.MvpForConditionalGeneration.from_pretrained(tmp_path / "mvp")
    assert torch.equal(
        other.encoder(ids, mask).last_hidden_state, full.get_encoder()(ids, mask).last_hidden_state
    )
    assert torch.equal(mixed.get_output_embeddings().weight, full.lm_head.weight)


def test_what_warm_starts_refuse(tmp_path: Path) -> None:
    plain_bert(tmp_path / "bert", "BertModel")
    build("MT5Model", transformers.MT5Config(**pairs.mt5.SIZE)).save_pretrained(tmp_path / "mt5")
    start = seq2seq_zoo.EncoderDecoderModel.from_encoder_decoder_pretrained
    with pytest.raises(ValueError, match="encoder_pretrained_model_name_or_path nor encoder_model"):
        start(decoder_pretrained_model_name_or_path=tmp_path / "bert")
    with pytest.raises(ConfigError, match="hiden_size"):
        start(tmp_path / "bert", tmp_path / "bert", encoder_hiden_size=5)
    with pytest.raises(ConfigError, match="mt5 cannot be a decoder"):
        start(tmp_path / "bert", tmp_path / "mt5")
    encoder, decoder = pairs.our_halves()
    with pytest.raises(ConfigError, match="tie_encoders"):
        start(encoder_model=encoder, decoder_model=decoder, tie_encoders=True)
    with pytest.raises(ValueError, match="it takes no hidden_size"):
        start(encoder_model=encoder, decoder_model=decoder, encoder_hidden_size=5)


def test_dtypes_of_a_pair(tmp_path: Path) -> None:
    _, ours = pairs.pair("mt5 and bert", tmp_path / "pair")
    load = seq2seq_zoo.EncoderDecoderModel.from_pretrained
    half = load(tmp_path / "pair", dtype=torch.float16)
    kept = {n for n, p in half.named_parameters() if p.dtype == torch.float32}
    assert kept == {
        n
        for n, _ in half.named_parameters()
        if n.endswith("feed_forward.down.weight") and n.startswith("encoder.")
    }
    given = {**pairs.source(), "decoder_input_ids": pairs.targets()}
    with torch.no_grad():
        for dtype, tolerance in ((torch.float16, 2e-2), (torch.bfloat16, 1e-1)):
            logits = load(tmp_path / "pair", dtype=dtype)(**given).logits
            assert logits.dtype == dtype
            assert relative_error(logits.float(), ours(**given).logits) < tolerance


@pytest.mark.parametrize("positions", bert.POSITIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(tmp_path: Path, positions: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = seq2seq_zoo.BertGenerationDecoder(
        seq2seq_zoo.BertGenerationConfig(**SIZE, **DECODER, position_embedding_type=positions)
    ).eval()
    randomise(model)
    model.save_pretrained(tmp_path)
    half = seq2seq_zoo.BertGenerationDecoder.from_pretrained(tmp_path, dtype=dtype)
    given = {**call(), **bert.memory()}
    halved = {
        key: value.to(dtype) if torch.is_tensor(value) and value.is_floating_point() else value
        for key, value in given.items()
    }
    with torch.no_grad():
        for options in ({}, {"output_attentions": True}):
            logits = half(**halved, **options).logits
            assert logits.dtype == dtype
            assert relative_error(logits.float(), model(**given).logits) < (
                2e-2 if dtype == torch.float16 else 1e-1
            )
    assert half.generate(given["input_ids"], num_beams=2, max_new_tokens=3).shape[0] == 3


# ---- the documented examples, from a hub cache ----


WORDS = [
    "this",
    "is",
    "a",
    "long",
    "article",
    "to",
    "summarize",
    "short",
    "summary",
    "plants",
    "create",
    "energy",
    "through",
]


def vocabulary() -> list[str]:
    """120 pieces with BERT's special tokens at their places."""
    pieces = ["[PAD]", *(f"[unused{number}]" for number in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return [*pieces, *WORDS, *(f"##{letter}" for letter in "abc")]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A small BERT, a small BertGeneration and a pair under the names of the documentation."""
    size = {**SIZE, "vocab_size": 120}
    build("BertForMaskedLM", transformers.BertConfig(**size)).save_pretrained(tmp_path / "bert")
    (tmp_path / "bert" / "vocab.txt").write_text("\n".join(vocabulary()) + "\n")
    generation = transformers.BertGenerationConfig(**size)
    encoder = build("BertGenerationEncoder", generation)
    encoder.save_pretrained(tmp_path / "bbc")
    decoder = build("BertGenerationDecoder", transformers.BertGenerationConfig(**size, **DECODER))
    pair = transformers.EncoderDecoderModel(encoder=encoder, decoder=decoder)
    pair.save_pretrained(tmp_path / "discofuse")
    for name, folder in (
        ("google-bert/bert-large-uncased", "bert"),
        ("google/bert_for_seq_generation_L-24_bbc_encoder", "bbc"),
        ("google/roberta2roberta_L-24_discofuse", "discofuse"),
    ):
        make_hub_cache(tmp_path / "hub", name, tmp_path / folder)
    return {"cache_dir": tmp_path / "hub", "local_files_only": True}


def test_documented_bert2bert(hub: dict[str, Any]) -> None:
    """The example of the notes."""
    from seq2seq_zoo import BertGenerationDecoder, BertGenerationEncoder, BertTokenizer, EncoderDecoderModel

    encoder = BertGenerationEncoder.from_pretrained(
        "google-bert/bert-large-uncased", bos_token_id=101, eos_token_id=102, **hub
    )
    with pytest.warns(UserWarning, match="crossattention"):
        decoder = BertGenerationDecoder.from_pretrained(
            "google-bert/bert-large-uncased",
            add_cross_attention=True,
            is_decoder=True,
            bos_token_id=101,
            eos_token_id=102,
            **hub,
        )
    bert2bert = EncoderDecoderModel(encoder=encoder, decoder=decoder)
    tokenizer = BertTokenizer.from_pretrained("google-bert/bert-large-uncased", **hub)
    input_ids = tokenizer(
        "This is a long article to summarize", add_special_tokens=False, return_tensors="pt"
    ).input_ids
    labels = tokenizer("This is a short summary", return_tensors="pt").input_ids
    assert labels[0, 0] == 101
    assert labels[0, -1] == 102
    loss = bert2bert(input_ids=input_ids, decoder_input_ids=labels, labels=labels).loss
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None for p in bert2bert.parameters())
    assert bert2bert.eval().generate(input_ids, max_new_tokens=4)[0, 0] == 101  # BERT's cls, as bos
    # What the tokenizer makes of a text goes in as it is, token types included.
    texts = tokenizer(["This is long", "a summary"], padding=True, return_tensors="pt")
    assert encoder(**texts).last_hidden_state.shape == (*texts["input_ids"].shape, 16)


def test_documented_pair(hub: dict[str, Any]) -> None:
    """The examples for sentence fusion, from token ids: `dtype="auto"`, and float16."""
    from seq2seq_zoo import AutoModelForSeq2SeqLM, EncoderDecoderModel

    name = "google/roberta2roberta_L-24_discofuse"
    model = EncoderDecoderModel.from_pretrained(name, dtype="auto", **hub)
    input_ids = torch.randint(3, 100, (1, 6))
    assert model.generate(input_ids).shape[0] == 1
    half = AutoModelForSeq2SeqLM.from_pretrained(name, dtype=torch.float16, **hub)
    assert type(half) is EncoderDecoderModel
    assert half.dtype == torch.float16
    assert half.generate(input_ids, max_new_tokens=3).shape[0] == 1


def test_documented_decoder(hub: dict[str, Any]) -> None:
    from seq2seq_zoo import BertGenerationConfig, BertGenerationDecoder

    name = "google/bert_for_seq_generation_L-24_bbc_encoder"
    config = BertGenerationConfig.from_pretrained(name, **hub)
    config.is_decoder = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lm_head.bias is new
        model = BertGenerationDecoder.from_pretrained(name, config=config, **hub)
    assert model.config.is_decoder
    assert model(input_ids=torch.randint(3, 100, (1, 7))).logits.shape == (1, 7, 120)


def test_documented_configuration() -> None:
    from seq2seq_zoo import BertGenerationConfig, BertGenerationEncoder

    configuration = BertGenerationConfig()
    theirs = transformers.BertGenerationConfig()
    for name in type(configuration).fields():
        if name not in ("dtype", "architectures", "label2id", "id2label", "position_embedding_type"):
            assert getattr(configuration, name) == getattr(theirs, name, getattr(configuration, name)), name
    with torch.device("meta"):
        assert BertGenerationEncoder(configuration).config is configuration


def test_counts() -> None:
    """The published ones."""
    with torch.device("meta"):
        encoder = seq2seq_zoo.BertGenerationEncoder(seq2seq_zoo.BertGenerationConfig())
        decoder = seq2seq_zoo.BertGenerationDecoder(seq2seq_zoo.BertGenerationConfig(**DECODER))
        both = seq2seq_zoo.EncoderDecoderModel(encoder=encoder, decoder=decoder)
    assert encoder.num_parameters() == 354_402_304
    assert decoder.num_parameters() == 455_263_414
    assert both.num_parameters() == 354_402_304 + 455_263_414
    assert all(p.is_meta for p in both.parameters())


def test_another_familys_checkpoint_is_refused(tmp_path: Path) -> None:
    build("MT5Model", transformers.MT5Config(**pairs.mt5.SIZE)).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="'bert-generation' and 'bert'"):
        seq2seq_zoo.BertGenerationEncoder.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="'encoder-decoder'"):
        seq2seq_zoo.EncoderDecoderModel.from_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(seq2seq_zoo.BertGenerationConfig(**SIZE).to_dict()))
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="none of its"):
        seq2seq_zoo.BertGenerationEncoder.from_pretrained(tmp_path)
