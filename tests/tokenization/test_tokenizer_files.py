"""Tokenizers come from folders, the hub and tokenizer.json, go back to files, and say which file is bad."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer

from seq2seq_zoo import AutoTokenizer, MT5Tokenizer, MT5TokenizerFast, MvpTokenizer, MvpTokenizerFast
from seq2seq_zoo.checkpoint import KeyMap, renames, resolve, save_weights
from seq2seq_zoo.errors import CheckpointError, TokenizerError
from seq2seq_zoo.tokenization import spiece
from tests.hub_cache import make_hub_cache
from tests.tokenization.tokenizer_cases import HARD_TEXTS, quietly

FILES = {
    MvpTokenizer: "byte_level",
    MvpTokenizerFast: "byte_level",
    MT5Tokenizer: "unigram",
    MT5TokenizerFast: "unigram",
}
every_class = pytest.mark.parametrize("cls", FILES, ids=lambda cls: cls.__name__)


@pytest.fixture
def make(request):
    return lambda cls, **settings: cls.from_pretrained(request.getfixturevalue(FILES[cls]), **settings)


@pytest.fixture
def changed(make):
    """A tokenizer with added tokens, roles, sides and settings that differ from the defaults."""

    def change(cls, **settings):
        tokenizer = make(
            cls, model_max_length=77, padding_side="left", truncation_side="left", some_key=[1], **settings
        )
        tokenizer.add_tokens(["added", AddedToken("Left", lstrip=True)])
        tokenizer.add_special_tokens({"additional_special_tokens": ["<x>"], "bos_token": "<BOS>"}, False)
        return tokenizer

    return change


TEXTS = [*HARD_TEXTS, "added a Left b <x> <BOS>"]


def same(one, other):
    assert [quietly(one, text) for text in TEXTS] == [quietly(other, text) for text in TEXTS]
    rows = [quietly(one, text)["input_ids"] for text in TEXTS]
    assert [one.decode(row, skip_special_tokens=True) for row in rows] == [
        other.decode(row, skip_special_tokens=True) for row in rows
    ]
    assert one.special_tokens_map == other.special_tokens_map
    assert (len(one), one.get_vocab()) == (len(other), other.get_vocab())
    for name in ("model_max_length", "padding_side", "truncation_side", "clean_up_tokenization_spaces"):
        assert getattr(one, name) == getattr(other, name)


# Saving and loading


@every_class
def test_what_is_saved_loads_again(cls, changed, tmp_path):
    tokenizer = changed(cls)
    paths = tokenizer.save_pretrained(tmp_path / "new" / "folder")
    assert sorted(map(os.path.basename, paths)) == sorted(os.listdir(tmp_path / "new" / "folder"))
    again = cls.from_pretrained(tmp_path / "new" / "folder")
    same(again, tokenizer)
    again.save_pretrained(tmp_path / "twice")
    cls.from_pretrained(tmp_path / "twice").save_pretrained(tmp_path / "thrice")
    for name in map(os.path.basename, paths):
        assert (tmp_path / "thrice" / name).read_bytes() == (tmp_path / "twice" / name).read_bytes()
    assert json.loads((tmp_path / "twice" / "tokenizer_config.json").read_text())["some_key"] == [1]


@every_class
def test_both_classes_of_a_family_read_what_either_saved(cls, changed, tmp_path):
    changed(cls).save_pretrained(tmp_path)
    for other in (c for c in FILES if c is not cls and FILES[c] == FILES[cls]):
        same(quietly(other.from_pretrained, tmp_path), quietly(changed, other))


@pytest.mark.parametrize("cls", [MvpTokenizer, MvpTokenizerFast, MT5Tokenizer, MT5TokenizerFast])
def test_a_tokenizer_json_is_enough(cls, make, tmp_path):
    fast = MvpTokenizerFast if FILES[cls] == "byte_level" else MT5TokenizerFast
    make(fast).save_pretrained(tmp_path)
    for name in os.listdir(tmp_path):
        if name not in ("tokenizer.json", "tokenizer_config.json"):
            (tmp_path / name).unlink()
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    del config["added_tokens_decoder"]  # as in the files of transformers 5.x
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer, whole = cls.from_pretrained(tmp_path), make(cls)
    if cls is MT5Tokenizer:
        # tokenizer.json says that sentinels leave the spaces beside them alone; spiece.model does not.
        texts = [text for text in TEXTS if "extra_id" not in text]
        assert [quietly(tokenizer, text) for text in texts] == [quietly(whole, text) for text in texts]
        assert tokenizer.get_vocab() == whole.get_vocab()
        tokenizer.save_pretrained(tmp_path / "again")
        same(MT5Tokenizer.from_pretrained(tmp_path / "again"), tokenizer)
    else:
        same(tokenizer, whole)


def test_a_model_with_byte_pieces_comes_back_from_tokenizer_json(unigram_with_bytes, tmp_path):
    whole = MT5Tokenizer.from_pretrained(unigram_with_bytes)
    quietly(MT5TokenizerFast.from_pretrained, unigram_with_bytes).save_pretrained(tmp_path)
    (tmp_path / "spiece.model").unlink()
    rebuilt = MT5Tokenizer.from_pretrained(tmp_path)
    texts = [text for text in TEXTS if "extra_id" not in text]
    assert [quietly(rebuilt, text) for text in texts] == [quietly(whole, text) for text in texts]
    assert rebuilt("ქ")["input_ids"] != rebuilt("😀")["input_ids"]
    assert (
        rebuilt.decode(rebuilt("ქართული 👨‍👩‍👧")["input_ids"], skip_special_tokens=True) == "ქართული 👨‍👩‍👧"
    )


@every_class
def test_settings_override_what_is_saved(cls, changed, tmp_path):
    changed(cls).save_pretrained(tmp_path)
    tokenizer = cls.from_pretrained(
        tmp_path,
        model_max_length=5,
        padding_side="right",
        pad_token="<other>",
        clean_up_tokenization_spaces=True,
    )
    assert (tokenizer.model_max_length, tokenizer.padding_side, tokenizer.pad_token) == (
        5,
        "right",
        "<other>",
    )
    assert tokenizer.pad_token_id == len(tokenizer) - 1
    assert tokenizer("a", padding="max_length")["input_ids"][-1] == tokenizer.pad_token_id
    assert tokenizer.decode(tokenizer("well , .", add_special_tokens=False)["input_ids"]) == "well,."


@every_class
def test_a_prefix_names_the_files(cls, make, tmp_path):
    paths = make(cls).save_pretrained(tmp_path, filename_prefix="my")
    assert all(os.path.basename(path).startswith("my-") for path in paths)
    (vocabulary, *_) = make(cls).save_vocabulary(tmp_path / "vocabulary")
    assert os.path.getsize(vocabulary) > 0


@every_class
def test_files_of_an_earlier_tokenizer_do_not_stay(cls, make, tmp_path):
    fast = make(MvpTokenizerFast)
    fast.add_tokens(["earlier"])
    fast.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_text("not of a tokenizer")
    tokenizer = make(cls)
    paths = tokenizer.save_pretrained(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([*map(os.path.basename, paths), "model.safetensors"])
    same(quietly(AutoTokenizer.from_pretrained, tmp_path, use_fast=tokenizer.is_fast), tokenizer)


@every_class
def test_an_interrupted_save_leaves_the_old_files(cls, make, tmp_path, monkeypatch):
    old = make(cls)
    old.save_pretrained(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}

    new = make(cls)
    new.add_tokens(["new"])

    def stop(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(new, "_write_vocabulary", stop)
    with pytest.raises(KeyboardInterrupt):
        new.save_pretrained(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before


def test_a_folder_cannot_be_a_file(make, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TokenizerError, match="file is a file"):
        make(MvpTokenizer).save_pretrained(tmp_path / "file")
    with pytest.raises(TokenizerError, match=r"cannot write into '.*below': .*[Nn]ot a directory"):
        make(MvpTokenizer).save_pretrained(tmp_path / "file" / "below")


def test_beside_a_model_that_is_saved(make, tmp_path, monkeypatch):
    """By another process of the same training run: its save takes what is half written for a leftover."""
    tokenizer, model = make(MvpTokenizer), torch.nn.Linear(2, 3)
    save = partial(save_weights, model, KeyMap(renames("{p} -> {p}")))
    save(tmp_path / "before")  # the next one imports nothing, and takes no time
    other = threading.Thread(target=save, args=[tmp_path / "here"])
    write = tokenizer._write_vocabulary

    def and_wait(folder):
        other.start()
        other.join(0.5)
        write(folder)

    monkeypatch.setattr(tokenizer, "_write_vocabulary", and_wait)
    tokenizer.save_pretrained(tmp_path / "here")
    other.join()
    assert AutoTokenizer.from_pretrained(tmp_path / "here").get_vocab() == tokenizer.get_vocab()
    assert (tmp_path / "here" / "model.safetensors").exists()


def test_a_full_disk(make, tmp_path, monkeypatch):
    """At any step, in words that are ours; what was there stays."""
    tokenizer = make(MvpTokenizer)
    tokenizer.save_pretrained(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}

    def full(*_):
        raise OSError(errno.ENOSPC, "no space left")

    tokenizer.add_tokens(["new"])
    for owner, step in ((Path, "write_bytes"), (os, "mkdir"), (os, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, step, full)
            with pytest.raises(TokenizerError, match=r"cannot write into '.*no space left"):
                tokenizer.save_pretrained(tmp_path)
            if step == "write_bytes":
                with pytest.raises(TokenizerError, match=r"cannot write into '.*no space left"):
                    tokenizer.save_vocabulary(tmp_path)
        assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before


def test_vocabulary_and_merges_as_data(byte_level):
    vocab = json.loads((byte_level / "vocab.json").read_text())
    lines = (byte_level / "merges.txt").read_text().splitlines()[1:]
    from_files = MvpTokenizer.from_pretrained(byte_level)
    for cls in (MvpTokenizer, MvpTokenizerFast):
        for merges in (lines, [tuple(line.split()) for line in lines]):
            for pieces in (vocab, sorted(vocab, key=vocab.get)):
                tokenizer = cls(pieces, merges)
                assert (
                    tokenizer("Hello <mask> world")["input_ids"]
                    == from_files("Hello <mask> world")["input_ids"]
                )
        by_path = cls(str(byte_level / "vocab.json"), str(byte_level / "merges.txt"))
        by_keyword = cls(vocab_file=byte_level / "vocab.json", merges_file=byte_level / "merges.txt")
        assert by_path.get_vocab() == by_keyword.get_vocab() == from_files.get_vocab()


# Places


@every_class
def test_hub_repositories_and_subfolders(cls, make, tmp_path):
    tokenizer = make(cls)
    tokenizer.save_pretrained(tmp_path / "repository" / "inner")
    make_hub_cache(tmp_path / "cache", "someone/something", tmp_path / "repository", revision="v2")
    place = {
        "cache_dir": tmp_path / "cache",
        "local_files_only": True,
        "revision": "v2",
        "subfolder": "inner",
    }
    loaded = cls.from_pretrained("someone/something", **place)
    assert loaded.name_or_path == "someone/something"
    assert loaded("Hello world") == tokenizer("Hello world")
    auto = AutoTokenizer.from_pretrained("someone/something", use_fast=cls.is_fast, **place)
    assert type(auto) is cls
    with pytest.raises(CheckpointError, match="someone/other"):
        cls.from_pretrained("someone/other", **place)
    with pytest.raises(CheckpointError, match="no/such"):
        cls.from_pretrained(tmp_path / "no/such/folder")


# Missing, empty and damaged files

BAD = {"empty": b"", "no JSON": b'{"a": ', "no object": b"[1, 2]", "binary": b"\xff\xfe\x00garbage"}


def broken(make, cls, tmp_path, name, content):
    """A folder of a saved tokenizer in which one file has another content, or is missing if that is None."""
    make(cls).save_pretrained(tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (MvpTokenizer, "vocab.json"),
        (MvpTokenizer, "tokenizer_config.json"),
        (MvpTokenizerFast, "tokenizer.json"),
        (MvpTokenizerFast, "tokenizer_config.json"),
        (MT5Tokenizer, "tokenizer_config.json"),
        (MT5TokenizerFast, "tokenizer.json"),
    ],
)
def test_bad_json_is_named(cls, name, bad, make, tmp_path):
    with pytest.raises(TokenizerError, match=name):
        cls.from_pretrained(broken(make, cls, tmp_path, name, BAD[bad]))


@pytest.mark.parametrize("name", ["special_tokens_map.json", "added_tokens.json"])
@pytest.mark.parametrize("bad", BAD)
def test_bad_files_of_older_versions_are_named(name, bad, make, tmp_path):
    broken(make, MvpTokenizer, tmp_path, "tokenizer_config.json", b"{}")
    (tmp_path / name).write_bytes(BAD[bad])
    with pytest.raises(TokenizerError, match=name):
        MvpTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("cls", [MT5Tokenizer, MT5TokenizerFast])
@pytest.mark.parametrize("bad", ["empty", "binary", "half", "bit flips", "another file"])
def test_a_bad_sentencepiece_model_is_named(cls, bad, unigram, tmp_path):
    model = (unigram / "spiece.model").read_bytes()
    content = {
        "empty": b"",
        "binary": BAD["binary"],
        "half": model[: len(model) // 2],
        "bit flips": bytes(byte ^ 0xFF for byte in model[:200]) + model[200:],
        "another file": b'{"vocab": {}}',
    }[bad]
    (tmp_path / "spiece.model").write_bytes(content)
    with pytest.raises(TokenizerError, match=r"spiece\.model"):
        cls.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("cls", "missing"),
    [
        (MvpTokenizer, "vocab.json and merges.txt"),
        (MvpTokenizerFast, "vocab.json and merges.txt"),
        (MT5Tokenizer, "spiece.model"),
        (MT5TokenizerFast, "spiece.model"),
    ],
)
def test_missing_files_are_named(cls, missing, byte_level, tmp_path):
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(TokenizerError, match=missing) as caught:
        cls.from_pretrained(tmp_path)
    assert str(tmp_path) in str(caught.value)
    if FILES[cls] == "byte_level":
        shutil.copy(byte_level / "vocab.json", tmp_path)
        with pytest.raises(TokenizerError, match=r"merges\.txt missing"):
            cls.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("vocab.json", '{"a": "b"}', "'a' is 'b'"),
        ("vocab.json", "{}", "no tokens"),
        ("merges.txt", "#version: 0.2\nĠ a\na b c\n", "line 3"),
        ("merges.txt", "#version: 0.2\nĠ qqq\n", "do not fit"),
        ("merges.txt", b"\xff\xff", "merges.txt"),
        ("merges.txt", "", "merges.txt"),
        ("tokenizer_config.json", '{"model_max_length": "many"}', "model_max_length"),
        ("tokenizer_config.json", '{"padding_side": "top"}', "padding_side"),
        ("tokenizer_config.json", '{"errors": "never heard of"}', "errors"),
        ("tokenizer_config.json", '{"pad_token": 3}', "pad_token"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {"content": "a"}}}', "added token"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"3": "a"}}', "added token"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"3": {"text": "a"}}}', "added token"),
        ("tokenizer_config.json", '{"additional_special_tokens": "<x>"}', "additional_special_tokens"),
        ("tokenizer_config.json", '{"model_max_length": 1e999}', "model_max_length is inf"),
        ("tokenizer_config.json", '{"model_max_length": NaN}', "model_max_length is nan"),
        ("tokenizer_config.json", '{"unk_token": 3}', "tokenizer_config.json: unk_token is 3"),
        (
            "tokenizer_config.json",
            '{"extra_special_tokens": 3}',
            "extra_special_tokens is 3; it must be a list",
        ),
        ("tokenizer_config.json", '{"model_input_names": 3}', "model_input_names is 3; it must be a list"),
        ("tokenizer_config.json", '{"model_input_names": ["a"]}', "the first of them 'input_ids'"),
        (
            "tokenizer_config.json",
            '{"add_prefix_space": "no"}',
            "add_prefix_space is 'no'; it must be true or",
        ),
        ("tokenizer_config.json", '{"trim_offsets": 1}', "trim_offsets is 1; it must be true or false"),
        ("tokenizer_config.json", '{"split_special_tokens": []}', "split_special_tokens is"),
        (
            "tokenizer_config.json",
            '{"added_tokens_decoder": {"4294967296": {"content": "a"}}}',
            "is '429496729",
        ),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"²": {"content": "a"}}}', "added token is '²'"),
        (
            "tokenizer_config.json",
            '{"added_tokens_decoder": {"%s": {"content": "a"}}}' % ("9" * 5000),
            "'9999",
        ),
        ("tokenizer_config.json", '{"x": "\\ud800"}', "tokenizer_config.json.*half a character"),
        (
            "tokenizer_config.json",
            '{"x": %s}' % ("[" * 500 + "]" * 500),
            "tokenizer_config.json.*nested more",
        ),
        ("tokenizer_config.json", '{"x": %s}' % ("[" * 50_000), "tokenizer_config.json.*nested more"),
        ("special_tokens_map.json", '{"additional_special_tokens": [3]}', "special_tokens_map.json: .* is 3"),
        ("special_tokens_map.json", '{"additional_special_tokens": {"content": "a"}}', "be a list of tokens"),
        ("special_tokens_map.json", '{"unk_token": [3]}', r"special_tokens_map.json: unk_token is \[3\]"),
        ("added_tokens.json", '{"a": -1}', "added_tokens.json: the id of 'a' is -1"),
        ("added_tokens.json", '{"a": true}', "added_tokens.json: the id of 'a' is True"),
    ],
    ids=lambda part: str(part)[:60],
)
def test_bad_content_is_named(name, content, match, byte_level, tmp_path):
    for file in ("vocab.json", "merges.txt"):
        shutil.copy(byte_level / file, tmp_path)
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    for cls in (MvpTokenizer, MvpTokenizerFast):
        with pytest.raises(TokenizerError, match=match):
            cls.from_pretrained(tmp_path)


def test_a_file_does_not_say_where_the_vocabulary_is(byte_level, tmp_path):
    """Only its own folder; the names of constructor arguments mean nothing in a file."""
    shutil.copytree(byte_level, tmp_path, dirs_exist_ok=True)
    elsewhere = {"vocab": "/etc/passwd", "merges": "/etc/passwd", "tokenizer_object": 3, "self": 3}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(elsewhere))
    for cls in (MvpTokenizer, MvpTokenizerFast):
        assert cls.from_pretrained(tmp_path).get_vocab() == cls.from_pretrained(byte_level).get_vocab()


@pytest.mark.parametrize("cls", [MvpTokenizer, MvpTokenizerFast])
@pytest.mark.parametrize("name", ["add_prefix_space", "trim_offsets", "split_special_tokens"])
def test_null_is_no(cls, name, byte_level, tmp_path):
    shutil.copytree(byte_level, tmp_path, dirs_exist_ok=True)
    for value in (None, False):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({name: value}))
        tokenizer = cls.from_pretrained(tmp_path)
        assert getattr(tokenizer, name) is False
        assert tokenizer("Hello <mask>")["input_ids"]


@pytest.mark.parametrize("cls", [MT5Tokenizer, MT5TokenizerFast])
@pytest.mark.parametrize(
    "setting",
    [
        {"additional_special_tokens": [3]},
        {"extra_ids": 10**12},
        {"sp_model_kwargs": [1]},
        {"sp_model_kwargs": {"model_file": "/etc/passwd"}},
        {"sp_model_kwargs": {"alpha": "0.1"}},
        {"sp_model_kwargs": {"nbest_size": True}},
    ],
    ids=str,
)
def test_sentencepiece_settings_out_of_range(cls, setting, unigram, tmp_path):
    shutil.copy(unigram / "spiece.model", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(setting))
    with pytest.raises(TokenizerError, match=next(iter(setting))):
        cls.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"unk_id": -1}, "unk_id is -1"),
        ({"unk_id": 10**9}, "unk_id is 1000000000"),
        ({"vocab": [["a", 1e300], ["b", 0.0], ["c", 0.0]]}, "beyond what float32 holds"),
        ({"vocab": [["a", float("inf")], ["b", 0.0], ["c", 0.0]]}, "beyond what float32 holds"),
        ({"vocab": [["a"]]}, "no valid tokenizer file"),
        ({"vocab": [3]}, "no valid tokenizer file"),
    ],
    ids=str,
)
def test_a_unigram_model_that_no_spiece_model_can_hold(change, said, unigram, tmp_path):
    MT5TokenizerFast.from_pretrained(unigram).save_pretrained(tmp_path)
    (tmp_path / "spiece.model").unlink()
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["model"] |= change
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match=f"tokenizer.json.*{said}"):
        MT5Tokenizer.from_pretrained(tmp_path)


def test_a_damaged_normalization_table_is_named(unigram, tmp_path):
    MT5TokenizerFast.from_pretrained(unigram).save_pretrained(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    tables = [step for step in content["normalizer"]["normalizers"] if step["type"] == "Precompiled"]
    for damage in ("[]", "="):
        tables[0]["precompiled_charsmap"] = damage + tables[0]["precompiled_charsmap"][2:]
        (tmp_path / "tokenizer.json").write_text(json.dumps(content))
        with pytest.raises(TokenizerError, match=r"tokenizer\.json is no valid tokenizer file"):
            MT5TokenizerFast.from_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    model = (tmp_path / "spiece.model").read_bytes()
    table = spiece.parse_spiece(model, "").charsmap
    assert len(table) > 100
    assert model.count(table) == 1
    (tmp_path / "spiece.model").write_bytes(model.replace(table, b"\xff" * len(table)))
    with pytest.raises(TokenizerError, match=r"spiece\.model is no sentencepiece model"):
        MT5TokenizerFast.from_pretrained(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without pipes")
def test_nobody_waits_for_a_pipe(byte_level, tmp_path):
    shutil.copytree(byte_level, tmp_path, dirs_exist_ok=True)
    (tmp_path / "additional_chat_templates").mkdir()
    os.mkfifo(tmp_path / "additional_chat_templates" / "x.jinja")
    os.mkfifo(tmp_path / "special_tokens_map.json")
    code = f"from seq2seq_zoo import MvpTokenizer; MvpTokenizer.from_pretrained({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_tokenizer_of_another_kind_is_refused(byte_level, unigram, tmp_path):
    MvpTokenizerFast.from_pretrained(byte_level).save_pretrained(tmp_path / "bpe")
    MT5TokenizerFast.from_pretrained(unigram).save_pretrained(tmp_path / "unigram")
    for folder in ("bpe", "unigram"):
        for name in os.listdir(tmp_path / folder):
            if name != "tokenizer.json":
                (tmp_path / folder / name).unlink()
    for cls in (MvpTokenizer, MvpTokenizerFast):
        with pytest.raises(TokenizerError, match=r"tokenizer\.json holds a Unigram model.*BPE"):
            cls.from_pretrained(tmp_path / "unigram")
    for cls in (MT5Tokenizer, MT5TokenizerFast):
        with pytest.raises(TokenizerError, match=r"tokenizer\.json holds"):
            cls.from_pretrained(tmp_path / "bpe")


def test_other_sentencepiece_models_need_the_python_class(tmp_path):
    import io

    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c ab bc abc"] * 20),
        model_writer=model,
        model_type="bpe",
        vocab_size=12,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (tmp_path / "spiece.model").write_bytes(model.getvalue())
    tokenizer = MT5Tokenizer.from_pretrained(tmp_path)
    assert tokenizer.decode(tokenizer("abc ab")["input_ids"], skip_special_tokens=True) == "abc ab"
    with pytest.raises(TokenizerError, match="no unigram model"):
        MT5TokenizerFast.from_pretrained(tmp_path)


def test_arguments_of_t5_are_checked(unigram):
    for cls in (MT5Tokenizer, MT5TokenizerFast):
        with pytest.raises(TokenizerError, match="extra_ids is -1"):
            cls.from_pretrained(unigram, extra_ids=-1)
        with pytest.raises(TokenizerError, match="extra_ids is 5, but additional_special_tokens has 1"):
            cls.from_pretrained(unigram, extra_ids=5, additional_special_tokens=["<extra_id_0>"])
    with pytest.raises(TokenizerError, match="sp_model_kwargs"):
        MT5Tokenizer.from_pretrained(unigram, sp_model_kwargs={"no_such_argument": 1})


# AutoTokenizer


@pytest.mark.parametrize(
    ("config", "model_config", "expected"),
    [
        ({"tokenizer_class": "MvpTokenizer"}, None, MvpTokenizerFast),
        ({"tokenizer_class": "RobertaTokenizerFast"}, None, MvpTokenizerFast),
        ({"tokenizer_class": "BartTokenizer"}, {"model_type": "bart"}, MvpTokenizerFast),
        (None, {"model_type": "mvp"}, MvpTokenizerFast),
        ({}, {"model_type": "mega"}, MvpTokenizerFast),
        ({"tokenizer_class": "TokenizersBackend"}, {"model_type": "mvp"}, MvpTokenizerFast),
        (None, {"tokenizer_class": "RobertaTokenizer", "model_type": "unheard-of"}, MvpTokenizerFast),
        (None, None, MvpTokenizerFast),
        ({"tokenizer_class": "T5Tokenizer"}, None, MT5TokenizerFast),
        ({"tokenizer_class": "MT5Tokenizer"}, {"model_type": "mvp"}, MT5TokenizerFast),
        (None, {"model_type": "mt5"}, MT5TokenizerFast),
    ],
)
def test_auto_finds_the_class(config, model_config, expected, request, tmp_path):
    shutil.copytree(request.getfixturevalue(FILES[expected]), tmp_path, dirs_exist_ok=True)
    for name, content in (("tokenizer_config.json", config), ("config.json", model_config)):
        if content is not None:
            (tmp_path / name).write_text(json.dumps(content))
    assert type(AutoTokenizer.from_pretrained(tmp_path)) is expected
    slow = AutoTokenizer.from_pretrained(tmp_path, use_fast=False)
    if (config or {}).get("tokenizer_class", "").endswith("Fast"):
        assert type(slow) is expected  # such a name says that the files are for this class alone
    else:
        assert type(slow) is {MvpTokenizerFast: MvpTokenizer, MT5TokenizerFast: MT5Tokenizer}[expected]
    settings = AutoTokenizer.from_pretrained(tmp_path, model_max_length=9, pad_token="<unk>")
    assert (settings.model_max_length, settings.pad_token) == (9, "<unk>")


def test_auto_names_what_it_does_not_know(tmp_path, unigram):
    with pytest.raises(TokenizerError, match="nothing says which tokenizer"):
        AutoTokenizer.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "xlnet"}')
    with pytest.raises(TokenizerError, match="'xlnet'"):
        AutoTokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "XLNetTokenizer"}')
    with pytest.raises(TokenizerError, match="'XLNetTokenizer'"):
        AutoTokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json"):
        AutoTokenizer.from_pretrained(tmp_path)
    with pytest.raises(TypeError, match="from_pretrained"):
        AutoTokenizer()


def test_further_tokens_as_arguments_beside_those_of_the_file(byte_level, tmp_path):
    """Any sequence, as without those of the file; what is wrong with an argument is not the file's fault."""
    shutil.copytree(byte_level, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer_config.json").write_text('{"extra_special_tokens": ["<x>"]}')
    for given in (["<y>"], ("<y>",)):
        tokenizer = MvpTokenizerFast.from_pretrained(tmp_path, additional_special_tokens=given)
        assert tokenizer.additional_special_tokens == ["<y>", "<x>"]
    tokenizer = MvpTokenizerFast.from_pretrained(tmp_path, extra_special_tokens=("<z>",))
    assert tokenizer.additional_special_tokens == ["<z>"]
    for wrong in ({"additional_special_tokens": "<y>"}, {"extra_special_tokens": 3}):
        with pytest.raises(TokenizerError, match=f"the arguments: {next(iter(wrong))} is"):
            MvpTokenizerFast.from_pretrained(tmp_path, **wrong)


def test_the_settings_are_asked_for_once(byte_level, monkeypatch):
    """On the hub every question is a request."""
    asked, resolve_file = [], resolve.resolve_file
    monkeypatch.setattr(
        resolve, "resolve_file", lambda where, name, **o: asked.append(name) or resolve_file(where, name, **o)
    )
    MvpTokenizerFast.from_pretrained(byte_level)
    assert asked.count("tokenizer_config.json") == 1


def test_state_in_tokenizer_json_is_not_kept(byte_level, tmp_path):
    """A tokenizer.json may carry truncation and padding; the sides stay, the rest is each call's own."""
    MvpTokenizerFast.from_pretrained(byte_level).save_pretrained(tmp_path)
    backend = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    backend.enable_truncation(3, direction="left")
    backend.enable_padding(direction="left", pad_id=1, pad_token="<pad>", length=9)
    backend.save(str(tmp_path / "tokenizer.json"))
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    for side in ("padding_side", "truncation_side"):
        del config[side]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = MvpTokenizerFast.from_pretrained(tmp_path)
    assert (tokenizer.padding_side, tokenizer.truncation_side) == ("left", "left")
    assert len(tokenizer("a b c d e f")["input_ids"]) > 6
    assert (tokenizer.backend_tokenizer.truncation, tokenizer.backend_tokenizer.padding) == (None, None)
