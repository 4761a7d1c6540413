"""Files go between the two libraries: what we save loads there, what transformers 5.x saves loads here."""

from __future__ import annotations

import json

import pytest
from tokenizers import AddedToken

from seq2seq_zoo import AutoTokenizer, MT5Tokenizer, MT5TokenizerFast, MvpTokenizer, MvpTokenizerFast
from tests.tokenization.tokenizer_cases import HARD_TEXTS, differences, needs_4, needs_5, quietly

transformers = pytest.importorskip("transformers")
TEXTS = [*HARD_TEXTS, "added a Left b <x> two words <BOS>"]


def changed(cls, folder, **settings):
    """A tokenizer with tokens of every kind added."""
    tokenizer = quietly(cls.from_pretrained, folder, model_max_length=77, **settings)
    tokenizer.add_tokens(["added", "two words", AddedToken("Left", lstrip=True)])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<x>"], "bos_token": "<BOS>"}, False)
    return tokenizer


def encode(tokenizer, text):
    return {"ids": tokenizer(text)["input_ids"], "pair": tokenizer(text, "b")["input_ids"]}


def decode(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    return tokenizer.decode(ids), tokenizer.decode(ids, skip_special_tokens=True)


MODEL_TYPES = {MvpTokenizer: "mvp", MvpTokenizerFast: "mvp", MT5Tokenizer: "mt5", MT5TokenizerFast: "mt5"}
FILES = {"mvp": "byte_level", "mt5": "unigram"}
every_class = pytest.mark.parametrize("cls", MODEL_TYPES, ids=lambda cls: cls.__name__)


@needs_4
@every_class
@pytest.mark.parametrize("settings", [{}, {"add_prefix_space": True}, {"padding_side": "left"}], ids=str)
def test_what_we_save_loads_in_transformers_4(cls, settings, request, tmp_path):
    ours = changed(cls, request.getfixturevalue(FILES[MODEL_TYPES[cls]]), **settings)
    ours.save_pretrained(tmp_path)
    named = getattr(transformers, cls.__name__).from_pretrained(tmp_path)
    auto = quietly(transformers.AutoTokenizer.from_pretrained, tmp_path, use_fast=cls.is_fast)
    for theirs in (named, auto):
        assert not differences(ours, theirs, TEXTS, encode)
        assert not differences(ours, theirs, TEXTS, decode)
        assert (len(ours), ours.get_vocab()) == (len(theirs), theirs.get_vocab())
        assert ours.special_tokens_map == theirs.special_tokens_map
        assert ours.model_max_length == theirs.model_max_length == 77
        assert ours.padding_side == theirs.padding_side
    # And back: what they save of ours is ours again.
    named.save_pretrained(tmp_path / "back")
    assert not differences(ours, cls.from_pretrained(tmp_path / "back"), TEXTS, encode)


@needs_4
@every_class
def test_auto_chooses_as_transformers_4_does(cls, request, tmp_path):
    """With either name in the files, with and without use_fast; our classes carry the family's one name."""
    folder = request.getfixturevalue(FILES[MODEL_TYPES[cls]])
    quietly(getattr(transformers, cls.__name__).from_pretrained, folder).save_pretrained(tmp_path)
    for use_fast in (True, False):
        ours = AutoTokenizer.from_pretrained(tmp_path, use_fast=use_fast)
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, use_fast=use_fast)
        assert type(ours).__name__ == type(theirs).__name__
        assert not differences(ours, theirs, TEXTS, encode)


def as_in_older_releases(folder, size):
    """Files as released checkpoints have them, from before tokenizer_config.json listed the added tokens."""

    def token(content, **flags):
        return {
            "content": content,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": True,
        } | flags

    config = {
        "errors": "replace",
        "model_max_length": 1024,
        "unk_token": {"__type": "AddedToken", **token("<unk>")},
        "pad_token": {"__type": "AddedToken", **token("<pad>")},
        "special_tokens_map_file": None,
        "name_or_path": "somewhere",
        "tokenizer_file": None,
    }
    roles = {
        "unk_token": "<unk>",
        "mask_token": token("<mask>", lstrip=True, normalized=False),
        "additional_special_tokens": ["<extra_id_0>", token("<sp>", rstrip=True)],
        "sep_token": token("</s>"),
    }
    added = {"<new>": size, "<sp>": size + 1, "two words": size + 2, "<extra_id_0>": size + 3}
    for name, content in (
        ("tokenizer_config", config),
        ("special_tokens_map", roles),
        ("added_tokens", added),
    ):
        (folder / f"{name}.json").write_text(json.dumps(content))


@needs_4
@pytest.mark.parametrize("with_json", [False, True])
@pytest.mark.parametrize("name", ["MvpTokenizer", "MvpTokenizerFast"])
@pytest.mark.parametrize("settings", [{}, {"mask_token": "<new>", "unk_token": "<s>"}], ids=str)
def test_files_of_older_releases(name, with_json, settings, byte_level, tmp_path):
    MvpTokenizerFast.from_pretrained(byte_level).save_pretrained(tmp_path)
    if not with_json:
        (tmp_path / "tokenizer.json").unlink()
    as_in_older_releases(tmp_path, 800)
    ours = globals()[name].from_pretrained(tmp_path, **settings)
    theirs = getattr(transformers, name).from_pretrained(tmp_path, **settings)
    texts = [*TEXTS, "a <sp>  b <new>c<new> two words  <mask> x", "<extra_id_0> <sp>"]
    assert not differences(ours, theirs, texts, encode)
    assert not differences(ours, theirs, texts, decode)
    assert (len(ours), ours.get_vocab()) == (len(theirs), theirs.get_vocab())
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert ours.all_special_ids == theirs.all_special_ids
    # Without a normalizer the flag `normalized` says nothing; the oracle's fast class sets it as it comes.
    flags = [
        {
            i: {**token.__getstate__(), "normalized": None}
            for i, token in tokenizer.added_tokens_decoder.items()
        }
        for tokenizer in (ours, theirs)
    ]
    assert flags[0] == flags[1]


@needs_4
@pytest.mark.parametrize("name", ["MT5Tokenizer", "MT5TokenizerFast"])
def test_files_of_the_released_mt5(name, unigram, tmp_path):
    """mt5-small's tokenizer_config.json: no sentinels at all."""
    (tmp_path / "spiece.model").write_bytes((unigram / "spiece.model").read_bytes())
    roles = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    config = {
        "additional_special_tokens": None,
        "extra_ids": 0,
        "sp_model_kwargs": {},
        "tokenizer_class": "T5Tokenizer",
    }
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(roles))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(roles | config))
    ours = globals()[name].from_pretrained(tmp_path)
    theirs = getattr(transformers, name).from_pretrained(tmp_path)
    assert not differences(ours, theirs, TEXTS, encode)
    assert not differences(ours, theirs, TEXTS, decode)
    assert (len(ours), ours.get_vocab()) == (len(theirs), theirs.get_vocab())
    assert ours.get_sentinel_tokens() == []
    assert type(AutoTokenizer.from_pretrained(tmp_path, use_fast=ours.is_fast)) is type(ours)


@needs_5
@every_class
@pytest.mark.parametrize("with_config", [True, False])
def test_what_we_save_loads_in_transformers_5(cls, with_config, request, tmp_path):
    ours = changed(cls, request.getfixturevalue(FILES[MODEL_TYPES[cls]]))
    ours.save_pretrained(tmp_path)
    if with_config:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": MODEL_TYPES[cls]}))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    # 5.x has no tokenizer that runs in Python: it adds </s> to a text that ends with one, and rebuilds T5's.
    texts = [t for t in TEXTS if cls is not MT5Tokenizer or not (t.endswith("</s>") or "\x85" in t)]
    assert not differences(ours, theirs, texts, encode)
    assert (len(ours), ours.get_vocab()) == (len(theirs), theirs.get_vocab())
    assert ours.all_special_tokens == theirs.all_special_tokens
    assert ours.model_max_length == theirs.model_max_length == 77
    if ours.is_fast:
        assert not differences(ours, theirs, texts, decode)
        offsets = {"return_offsets_mapping": True, "return_special_tokens_mask": True}
        assert not differences(ours, theirs, texts, lambda t, text: t(text, **offsets))


FIVE = {
    "MvpTokenizer": ("byte_level", MvpTokenizerFast),
    "RobertaTokenizer": ("byte_level", MvpTokenizerFast),
    "T5Tokenizer": ("unigram", MT5TokenizerFast),
}


@needs_5
@pytest.mark.parametrize("name", FIVE)
def test_what_transformers_5_saves_loads_here(name, request, tmp_path):
    files, expected = FIVE[name]
    theirs = getattr(transformers, name).from_pretrained(request.getfixturevalue(files))
    theirs.add_tokens(["added", AddedToken("Left", lstrip=True)])
    theirs.add_special_tokens({"additional_special_tokens": ["<x>", "<y>"]} if files == "byte_level" else {})
    theirs.save_pretrained(tmp_path)
    ours = AutoTokenizer.from_pretrained(tmp_path)
    assert type(ours) is expected
    assert (len(ours), ours.get_vocab()) == (len(theirs), theirs.get_vocab())
    assert ours.all_special_tokens == theirs.all_special_tokens
    assert not differences(ours, theirs, TEXTS, encode)
    assert not differences(ours, theirs, TEXTS, decode)
    assert not differences(ours, theirs, TEXTS, lambda t, text: t.tokenize(text))
    everything = {"return_offsets_mapping": True, "return_special_tokens_mask": True, "padding": True}
    assert not differences(ours, theirs, [TEXTS], lambda t, texts: t(texts, **everything))
    for options in (
        {"padding": "max_length", "max_length": 9, "truncation": True, "padding_side": "left"},
        {"truncation": True, "max_length": 8, "stride": 1, "return_overflowing_tokens": True},
    ):
        batch = ["a b c d e f g h i", "x"]
        assert dict(ours(batch, **options)) == dict(theirs(batch, **options))


@needs_5
@pytest.mark.parametrize("cls", [MvpTokenizer, MT5Tokenizer])
def test_the_python_classes_read_what_transformers_5_saves(cls, request, tmp_path):
    name = {MvpTokenizer: "MvpTokenizer", MT5Tokenizer: "T5Tokenizer"}[cls]
    theirs = getattr(transformers, name).from_pretrained(request.getfixturevalue(FILES[MODEL_TYPES[cls]]))
    theirs.save_pretrained(tmp_path)
    ours = cls.from_pretrained(tmp_path)
    texts = [text for text in HARD_TEXTS if "<" not in text and "\x85" not in text]
    assert not differences(ours, theirs, texts, encode)
    assert ours.get_vocab() == theirs.get_vocab()
    assert ours.decode(ours(HARD_TEXTS[3])["input_ids"], skip_special_tokens=True) == HARD_TEXTS[3]


@needs_5
@pytest.mark.parametrize("cls", MODEL_TYPES, ids=lambda cls: cls.__name__)
def test_bare_vocabulary_files_as_in_transformers_5(cls, request):
    folder = request.getfixturevalue(FILES[MODEL_TYPES[cls]])
    name = "MvpTokenizer" if MODEL_TYPES[cls] == "mvp" else "T5Tokenizer"
    ours, theirs = cls.from_pretrained(folder), getattr(transformers, name).from_pretrained(folder)
    # Special tokens and U+0085 are where the versions differ; see test_tokenizer_divergences.
    texts = [text for text in HARD_TEXTS if "<" not in text and "\x85" not in text]
    assert not differences(ours, theirs, texts, encode)
    if ours.is_fast:
        assert not differences(ours, theirs, texts, decode)
