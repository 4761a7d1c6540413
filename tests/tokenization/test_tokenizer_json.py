"""Tokenizers that are a tokenizer.json: which class reads it, what goes around texts, files to and fro.

That they encode and decode as their namesakes do is in test_tokenizer_parity.py.
"""

from __future__ import annotations

import copy
import json
import pickle
import shutil

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings

from seq2seq_zoo import (
    AutoTokenizer,
    CheckpointError,
    LlamaTokenizerFast,
    PreTrainedTokenizerFast,
    TokenizerError,
)
from seq2seq_zoo.tokenization.tokenizer_json import TokenizersBackend
from tests.tokenization.tokenizer_cases import HARD_TEXTS, any_text, differences, needs_4, needs_5, quietly

transformers = pytest.importorskip("transformers")

PHIMOE = {"model_type": "phimoe"}


def with_files(source, folder, config=None, model_config=None, **files):
    """A copy of a folder with another tokenizer_config.json and config.json; None for none."""
    shutil.copytree(source, folder, dirs_exist_ok=True)
    for name, content in (("tokenizer_config.json", config), ("config.json", model_config)):
        if content is not None:
            (folder / name).write_text(json.dumps(content))
    for name, content in files.items():
        (folder / name).write_text(content)
    return folder


@pytest.mark.parametrize(
    ("config", "model_config", "expected"),
    [
        (None, None, TokenizersBackend),
        (None, PHIMOE, LlamaTokenizerFast),
        ({}, PHIMOE, LlamaTokenizerFast),
        ({"tokenizer_class": "LlamaTokenizer"}, None, LlamaTokenizerFast),
        ({"tokenizer_class": "LlamaTokenizerFast"}, PHIMOE, LlamaTokenizerFast),
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, PHIMOE, PreTrainedTokenizerFast),
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, {"model_type": "mistral"}, PreTrainedTokenizerFast),
        ({"tokenizer_class": "TokenizersBackend"}, PHIMOE, TokenizersBackend),
        ({"tokenizer_class": "TokenizersBackend"}, None, TokenizersBackend),
        (None, {"tokenizer_class": "LlamaTokenizer", "model_type": "unheard-of"}, LlamaTokenizerFast),
    ],
)
def test_auto_finds_the_class(config, model_config, expected, llama_bare, tmp_path):
    folder = with_files(llama_bare, tmp_path, config, model_config)
    for use_fast in (True, False):  # there is no other way to read this file
        assert type(AutoTokenizer.from_pretrained(folder, use_fast=use_fast)) is expected
    found = AutoTokenizer.from_pretrained(folder, model_max_length=9, pad_token="<unk>", padding_side="right")
    assert (found.model_max_length, found.pad_token, found.padding_side) == (9, "<unk>", "right")


@needs_4
@pytest.mark.parametrize("name", ["LlamaTokenizer", "LlamaTokenizerFast", "PreTrainedTokenizerFast"])
def test_auto_equals_the_oracle_4(name, llama_bare, tmp_path):
    config = {"tokenizer_class": name, "pad_token": "<unk>", "unk_token": "<unk>"}
    folder = with_files(llama_bare, tmp_path, config, PHIMOE)
    ours, theirs = AutoTokenizer.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)
    assert type(ours).__name__ == type(theirs).__name__
    assert not differences(ours, theirs, HARD_TEXTS, lambda t, text: t(text, padding=True))


@needs_5
@pytest.mark.parametrize("name", ["TokenizersBackend", "PreTrainedTokenizerFast", "LlamaTokenizer"])
@pytest.mark.parametrize(
    "edges", [{}, {"add_bos_token": True, "bos_token": "<s>"}, {"add_bos_token": False}], ids=str
)
def test_auto_equals_the_oracle_5(name, edges, llama_bare, tmp_path):
    """5.x reads a PhiMoE's tokenizer.json as it stands, whatever class is named."""
    config = {"tokenizer_class": name, "pad_token": "<unk>", "unk_token": "<unk>", **edges}
    folder = with_files(llama_bare, tmp_path, config, PHIMOE)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    # What 4.57.6 has this class do is to follow the settings, of which the first is on by default.
    edges_off = {"add_bos_token": False} if name == "LlamaTokenizer" else {}
    ours = AutoTokenizer.from_pretrained(folder, **edges_off)
    assert not differences(ours, theirs, HARD_TEXTS, lambda t, text: t(text)["input_ids"])
    assert not differences(ours, theirs, HARD_TEXTS, lambda t, text: t.decode(t(text)["input_ids"]))


@pytest.mark.parametrize("name", ["LlamaTokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend"])
def test_what_we_save_loads_in_the_oracle(name, llama, tmp_path):
    cls = {"LlamaTokenizerFast": LlamaTokenizerFast, "TokenizersBackend": TokenizersBackend}.get(
        name, PreTrainedTokenizerFast
    )
    ours = cls.from_pretrained(llama, model_max_length=77)
    ours.add_tokens(["added", tokenizers.AddedToken("Left", lstrip=True)])
    ours.add_special_tokens({"additional_special_tokens": ["<x>"]})
    ours.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(PHIMOE))
    texts = [*HARD_TEXTS, "added a Left b <x>"]
    for theirs in (
        quietly(transformers.AutoTokenizer.from_pretrained, tmp_path),
        AutoTokenizer.from_pretrained(tmp_path),
    ):
        assert not differences(ours, theirs, texts, lambda t, text: t(text)["input_ids"])
        assert not differences(ours, theirs, texts, lambda t, text: t(text, "b")["input_ids"])
        assert len(ours) == len(theirs)
        assert theirs.model_max_length == 77
        assert theirs.padding_side == ours.padding_side
        assert theirs.chat_template == ours.chat_template
        assert (theirs.pad_token, theirs.eos_token, theirs.bos_token) == (
            "<|endoftext|>",
            "<|endoftext|>",
            "<s>",
        )
    theirs = quietly(transformers.AutoTokenizer.from_pretrained, tmp_path)
    theirs.save_pretrained(tmp_path / "back")
    (tmp_path / "back" / "config.json").write_text(json.dumps(PHIMOE))
    assert not differences(
        ours, AutoTokenizer.from_pretrained(tmp_path / "back"), texts, lambda t, text: t(text)["input_ids"]
    )


@given(text=any_text)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_decoding_gives_the_text_back(text, llama_bare):
    """Byte fallback loses nothing, but for the spaces that the tokens of the chat take with them."""
    tokenizer = AutoTokenizer.from_pretrained(llama_bare)
    if not any(f"<|{name}|>" in text for name in ("assistant", "user", "system", "placeholder1")):
        plain = text.replace("▁", " ")
        ids = tokenizer(text, split_special_tokens=True)["input_ids"]
        assert tokenizer.decode(ids) == plain
        assert all(0 <= index < tokenizer.vocab_size for index in ids)


def test_what_goes_around_texts(llama):
    tokenizer = LlamaTokenizerFast.from_pretrained(llama, add_bos_token=True, add_eos_token=True)
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    plain = tokenizer.encode("a b", add_special_tokens=False)
    assert tokenizer.encode("a b") == tokenizer.build_inputs_with_special_tokens(plain) == [bos, *plain, eos]
    pair = [bos, *plain, eos, bos, *plain, eos]
    assert tokenizer.encode("a b", "a b") == tokenizer.build_inputs_with_special_tokens(plain, plain) == pair
    assert tokenizer.get_special_tokens_mask(plain, plain) == [int(i in (bos, eos)) for i in pair]
    types = tokenizer("a b", "a b", return_token_type_ids=True)["token_type_ids"]
    assert tokenizer.create_token_type_ids_from_sequences(plain, plain) == types
    assert tokenizer.num_special_tokens_to_add() == 2

    tokenizer.add_eos_token = False
    assert tokenizer.encode("a b") == [bos, *plain]
    tokenizer.bos_token = "<unk>"
    tokenizer.update_post_processor()
    assert tokenizer.encode("a b") == [tokenizer.unk_token_id, *plain]
    tokenizer.add_bos_token = False
    assert tokenizer.encode("a b") == plain
    tokenizer.bos_token = None
    with pytest.raises(TokenizerError, match="add_bos_token is True, but bos_token is None"):
        tokenizer.add_bos_token = True


@pytest.mark.parametrize("kind", ["normalizer", "Metaspace"])
def test_a_space_before_texts_on_request(kind, llama_bare, tmp_path):
    state = json.loads((llama_bare / "tokenizer.json").read_text())
    if kind == "Metaspace":
        state["normalizer"] = None
        state["pre_tokenizer"] = {
            "type": "Metaspace",
            "replacement": "▁",
            "prepend_scheme": "first",
            "split": False,
        }
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    as_filed = LlamaTokenizerFast.from_pretrained(tmp_path, add_bos_token=False)
    with_space = LlamaTokenizerFast.from_pretrained(tmp_path, add_bos_token=False, add_prefix_space=True)
    without = LlamaTokenizerFast.from_pretrained(tmp_path, add_bos_token=False, add_prefix_space=False)
    for text in ("dog", "Olé 三", "a dog"):
        assert with_space(text) == as_filed(text)
        assert without(" " + text)["input_ids"] == with_space(text)["input_ids"]
    for text in ("dog", " dog", "Olé 三", "a <s> dog"):
        assert without.decode(without(text)["input_ids"]) == text
    assert without.tokenize("dog") != with_space.tokenize("dog")


@needs_5
def test_a_space_before_texts_as_in_the_oracle_5(llama_bare):
    state = json.loads((llama_bare / "tokenizer.json").read_text())
    merges = [tuple(merge) for merge in state["model"]["merges"]]
    theirs = transformers.LlamaTokenizer(vocab=state["model"]["vocab"], merges=merges, add_prefix_space=False)
    ours = LlamaTokenizerFast.from_pretrained(llama_bare, add_bos_token=False, add_prefix_space=False)
    texts = [text for text in HARD_TEXTS if "<|" not in text and "</s>" not in text and "<s>" not in text]
    assert not differences(ours, theirs, texts, lambda t, text: t(text)["input_ids"])


def test_an_object_is_copied(llama_bare):
    backend = tokenizers.Tokenizer.from_file(str(llama_bare / "tokenizer.json"))
    before = backend.to_str()
    ours = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="[PAD]")
    assert ours.pad_token_id == ours.vocab_size + 6
    assert backend.to_str() == before
    for twin in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert twin("Olé 27") == ours("Olé 27")
        assert twin.pad_token_id == ours.pad_token_id


def test_nothing_is_remembered_of_trust(llama, tmp_path):
    for cls in (AutoTokenizer, LlamaTokenizerFast):
        cls.from_pretrained(llama, trust_remote_code=True).save_pretrained(tmp_path)
        assert "trust_remote_code" not in (tmp_path / "tokenizer_config.json").read_text()


def test_models_of_other_types_are_read(tmp_path):
    words = {word: index for index, word in enumerate(["[UNK]", "a", "b"])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.save(str(tmp_path / "tokenizer.json"))
    assert AutoTokenizer.from_pretrained(tmp_path)("b a c")["input_ids"] == [2, 1, 0]


def test_missing_empty_and_damaged_files_are_named(llama, tmp_path):
    for cls in (LlamaTokenizerFast, PreTrainedTokenizerFast):
        with pytest.raises(
            TokenizerError, match=rf"{tmp_path.name}: tokenizer\.json is missing.*{cls.__name__}"
        ):
            cls.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(PHIMOE))
    with pytest.raises(TokenizerError, match=r"tokenizer\.json is missing"):
        AutoTokenizer.from_pretrained(tmp_path)
    whole = (llama / "tokenizer.json").read_text()
    for content, message in (
        ("", "is empty"),
        (whole[: len(whole) // 2], "valid"),
        ("{}", "valid"),
        ("[]", "object"),
    ):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(TokenizerError, match=rf"tokenizer\.json.*{message}"):
            AutoTokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(whole)
    (tmp_path / "chat_template.jinja").write_text("")
    with pytest.raises(TokenizerError, match=r"chat_template\.jinja is empty"):
        AutoTokenizer.from_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(TokenizerError, match=r"chat_template\.jinja is no UTF-8"):
        AutoTokenizer.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError):
        AutoTokenizer.from_pretrained(tmp_path / "nowhere")
