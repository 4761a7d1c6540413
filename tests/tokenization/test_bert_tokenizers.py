"""The tokenizers of BERT and BertGeneration: equal to transformers', and true where no oracle speaks."""

from __future__ import annotations

import copy
import io
import itertools
import json
import pickle
import re
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest
import sentencepiece
import tokenizers
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

import seq2seq_zoo
from seq2seq_zoo import AutoTokenizer, BertGenerationTokenizer, BertTokenizer, BertTokenizerFast
from seq2seq_zoo.errors import TokenizerError
from seq2seq_zoo.tokenization.words import WordSplitter
from tests.tokenization.tokenizer_cases import (
    CORPUS,
    HARD_TEXTS,
    MAJOR,
    differences,
    needs_4,
    needs_5,
    quietly,
)
from tests.tokenization.tokenizer_cases import PAIRS as COMMON_PAIRS
from tests.tokenization.tokenizer_cases import any_text as common_text

TEXTS = [
    *HARD_TEXTS,
    "[MASK]",
    " a [MASK]b[SEP][CLS]c [PAD] [UNK] [mask] [ MASK ]",
    "[[MASK]] [MASK",
    "Unaffable RÉSUMÉ Straße STRASSE İstanbul DŽ",
    "x" * 100,
    "x" * 101,
    "e\u0301" * 99,
    "e\u0323\u0301" * 60,
    "É" * 101 + " .",
    "$100 ^_^ `a` a~b |c| ¿qué? «x» 、。「」!?…—",
    "soft\u00adhyphen \ufffd \ufeffbom \ue000private \u0378unassigned",
    "ก็ เก่ง हिन्दी ক্ষ ṩ",
    "Å\u030a n\u0303 가 \u1100\u1161 \u0344",
    "㐀 𠀀x𠀀 豈 丽 々 〇 あ ア 﨎",
    "<::::> a<::::>b <:::>",
    "a\u2028b\u2029c\x85d\x1ce",
    "don't two Hello hello",
]
SIGMAS = "ΣΊΣΥΦΟΣ ΣΑΣ σας Σ"
"""5.x lowers words as wholes, which makes ς of the last one."""

PAIRS = [*COMMON_PAIRS, ("a [SEP]", "Über [MASK]"), ("", ""), ("三百", "x" * 101)]

any_text = st.lists(
    st.one_of(
        common_text, st.sampled_from(["[MASK]", "[SEP]", " [UNK]", "<::::>", "Σ", "İ", "##a", "É\u0323"])
    ),
    max_size=4,
).map("".join)


class Case(NamedTuple):
    """A class and its namesake over there, on the same files with the same settings."""

    name: str
    files: str
    settings: dict[str, Any] = {}  # noqa: RUF012

    def __str__(self) -> str:
        given_settings = "".join(f" {name}={value}" for name, value in self.settings.items())
        return f"{self.name} on {self.files}{given_settings}"


BERT_SETTINGS: list[dict[str, Any]] = [
    {},
    {"do_lower_case": False},
    {"strip_accents": False},
    {"do_lower_case": False, "strip_accents": True},
    {"tokenize_chinese_chars": False},
    {"do_basic_tokenize": False},
    {"never_split": ["two", "don't", "hello", "no_such_piece"]},
]
CASES = [
    *(Case("BertTokenizer", "uncased", options) for options in BERT_SETTINGS),
    Case("BertTokenizer", "cased", {"do_lower_case": False}),
    *(Case("BertTokenizerFast", "uncased", options) for options in BERT_SETTINGS[:5]),
    Case("BertTokenizerFast", "cased", {"do_lower_case": False}),
    Case("BertTokenizerFast", "uncased_json", {"do_lower_case": False, "strip_accents": True}),
    Case("BertGenerationTokenizer", "spiece"),
    Case("BertGenerationTokenizer", "spiece_without_separator", {"additional_special_tokens": ["<x>"]}),
]
PLAIN_CASES = [Case("BertTokenizer", "uncased"), Case("BertTokenizerFast", "uncased"), CASES[-2]]
every_case = pytest.mark.parametrize("case", CASES, ids=str)
plain_case = pytest.mark.parametrize("case", PLAIN_CASES, ids=str)


def _trained_wordpiece(folder, lower):
    trained = tokenizers.BertWordPieceTokenizer(lowercase=lower, strip_accents=lower)
    trained.train_from_iterator(CORPUS * 4, vocab_size=900, show_progress=False)
    trained.save_model(str(folder))
    return folder


def _trained_spiece(folder, **options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 4),
        model_writer=model,
        vocab_size=700,
        character_coverage=0.99,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    (folder / "spiece.model").write_bytes(model.getvalue())
    return folder


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Name → a folder of vocabulary files."""
    new = tmp_path_factory.mktemp
    found = {
        "uncased": _trained_wordpiece(new("uncased"), True),
        "cased": _trained_wordpiece(new("cased"), False),
        # The separator is a piece of the released model.
        "spiece": _trained_spiece(new("spiece"), user_defined_symbols=["<::::>"]),
        "spiece_without_separator": _trained_spiece(new("spiece_without_separator")),
        "uncased_json": new("uncased_json"),
    }
    oracle("BertTokenizerFast").from_pretrained(found["uncased"]).save_pretrained(found["uncased_json"])
    (found["uncased_json"] / "vocab.txt").unlink(missing_ok=True)
    return found


def oracle(name):
    import transformers

    transformers.logging.set_verbosity_error()
    if MAJOR == 5 and name == "BertTokenizer":
        from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

        return BertTokenizerLegacy
    return getattr(transformers, name)


@pytest.fixture(scope="session")
def load(folders):
    """Fresh tokenizers of a case: ours and theirs."""

    def both(case):
        return (
            getattr(seq2seq_zoo, case.name).from_pretrained(folders[case.files], **case.settings),
            quietly(oracle(case.name).from_pretrained, folders[case.files], **case.settings),
        )

    return both


@pytest.fixture(scope="session")
def loaded(load):
    """The same, kept for the session: for tests that change nothing."""
    kept: dict[str, Any] = {}

    def both(case):
        if str(case) not in kept:
            kept[str(case)] = load(case)
        return kept[str(case)]

    return both


# Parity


@every_case
def test_texts(case, loaded):
    both = loaded(case)
    texts = [*TEXTS, SIGMAS] if MAJOR == 4 or case.name != "BertTokenizer" else TEXTS
    assert not differences(*both, texts, lambda t, text: t(text)["input_ids"])
    assert not differences(*both, texts, lambda t, text: t.tokenize(text))
    assert not differences(*both, texts, lambda t, text: t.encode(text, add_special_tokens=False))
    assert not differences(*both, texts, lambda t, text: t(text, split_special_tokens=True)["input_ids"])
    words = [text.split(" ") for text in texts]
    if case.name != "BertTokenizerFast":
        assert not differences(*both, words, lambda t, row: t(row, is_split_into_words=True)["input_ids"])
    if MAJOR == 4:
        assert not differences(*both, texts, lambda t, text: t(text))
        assert not differences(*both, [texts], lambda t, batch: t(batch, padding=True))


@every_case
def test_pairs(case, loaded):
    both = loaded(case)
    assert not differences(*both, PAIRS, lambda t, pair: t(*pair)["input_ids"])
    everything = {"return_attention_mask": True, "return_special_tokens_mask": True, "return_length": True}
    types: dict[str, Any] = {}
    if MAJOR == 5 and case.name == "BertTokenizer":
        types = {"return_token_type_ids": False}  # BertTokenizerLegacy gives none unless asked
    everything |= types
    assert not differences(*both, PAIRS, lambda t, pair: t(*pair, **types))
    assert not differences(*both, PAIRS, lambda t, pair: t(*pair, **everything))
    firsts, seconds = zip(*PAIRS, strict=True)
    assert not differences(
        *both, [0], lambda t, _: t(list(firsts), list(seconds), padding=True, **everything)
    )
    assert not differences(*both, PAIRS, lambda t, pair: t(*pair, add_special_tokens=False, **types))


@needs_4
@every_case
def test_decoding(case, loaded):
    ours, theirs = loaded(case)
    rows = [quietly(theirs, text)["input_ids"] for text in TEXTS]
    for skip, clean in itertools.product((False, True), (False, True, None)):
        options = {
            "skip_special_tokens": skip,
            "clean_up_tokenization_spaces": clean,
            "spaces_between_special_tokens": not clean,
        }
        assert not differences(ours, theirs, rows, lambda t, row: t.decode(row, **options))  # noqa: B023
        assert not differences(ours, theirs, rows, lambda t, row: t.convert_ids_to_tokens(row, skip))  # noqa: B023
    assert ours.batch_decode(rows) == theirs.batch_decode(rows)
    assert ours.decode(torch.tensor(rows[3])) == theirs.decode(torch.tensor(rows[3]))
    tokens = [[*theirs.convert_ids_to_tokens(row), "no such token"] for row in rows]
    assert not differences(ours, theirs, tokens, lambda t, row: t.convert_tokens_to_ids(row))
    assert not differences(ours, theirs, tokens, lambda t, row: t.convert_tokens_to_string(list(row)))
    for row in rows:
        assert ours.get_special_tokens_mask(row, already_has_special_tokens=True) == (
            theirs.get_special_tokens_mask(row, already_has_special_tokens=True)
        )


@needs_4
@every_case
def test_vocabulary_and_special_tokens(case, loaded):
    ours, theirs = loaded(case)
    _same_tokens(ours, theirs)
    for name in (
        "special_tokens_map",
        "padding_side",
        "model_input_names",
        "model_max_length",
        "is_fast",
        "pad_token_type_id",
        "clean_up_tokenization_spaces",
        "max_len_single_sentence",
        "max_len_sentences_pair",
        "bos_token_id",
        "mask_token_id",
        "sep_token",
        "sep_token_id",
    ):
        assert getattr(ours, name) == getattr(theirs, name), name
    for pair in (False, True):
        assert ours.num_special_tokens_to_add(pair) == theirs.num_special_tokens_to_add(pair)


def _same_tokens(ours, theirs):
    assert (len(ours), ours.vocab_size) == (len(theirs), theirs.vocab_size)
    assert ours.get_vocab() == theirs.get_vocab()
    assert ours.get_added_vocab() == theirs.get_added_vocab()
    assert repr(ours.added_tokens_decoder) == repr(theirs.added_tokens_decoder)
    assert ours.all_special_tokens == theirs.all_special_tokens
    assert ours.all_special_ids == theirs.all_special_ids


@needs_4
@plain_case
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_and_truncation(case, load, side):
    ours, theirs = load(case)
    ours.truncation_side = theirs.truncation_side = side
    texts = ["Hello world", "a b c d e f g h i j k l", "三百四十二 ab", ""]
    for padding, truncation, max_length in itertools.product(
        (False, True, "max_length"), (None, True, "only_first", "only_second"), (None, 7, 16)
    ):
        options = {
            "padding": padding,
            "truncation": truncation,
            "max_length": max_length,
            "padding_side": side,
        }
        if truncation in (None, True):
            assert not differences(ours, theirs, [texts], lambda t, batch: t(batch, **options))  # noqa: B023
        pairs = [(texts[1], texts[1]), *zip(texts, reversed(texts), strict=True)]
        if truncation in ("only_first", "only_second"):
            pairs = pairs[: 1 if max_length == 16 else 0]
        assert not differences(ours, theirs, pairs, lambda t, pair: t(*pair, **options))  # noqa: B023
    tensors = {"padding": True, "return_tensors": "pt", "pad_to_multiple_of": 8}
    mine, other = ours(texts, texts, **tensors), theirs(texts, texts, **tensors)
    assert mine.keys() == other.keys()
    assert all(mine[name].dtype == torch.int64 and torch.equal(mine[name], other[name]) for name in mine)
    cut = {"truncation": "only_first", "max_length": 6, "stride": 1, "return_overflowing_tokens": True}
    assert not differences(ours, theirs, texts, lambda t, text: t(text, **cut))
    ids = theirs.encode("Hello world", add_special_tokens=False)
    assert dict(ours.prepare_for_model(ids, ids)) == dict(theirs.prepare_for_model(ids, ids))
    rows = [{"input_ids": ids}, {"input_ids": ids[:2]}]
    assert dict(ours.pad(rows)) == dict(quietly(theirs.pad, copy.deepcopy(rows)))


@pytest.mark.parametrize("case", [case for case in CASES if case.name.endswith("Fast")], ids=str)
def test_places_in_the_text(case, loaded):
    both = loaded(case)
    texts = [*TEXTS, SIGMAS]
    assert not differences(*both, texts, lambda t, text: t(text, return_offsets_mapping=True))
    assert not differences(*both, PAIRS, lambda t, pair: t(*pair, return_offsets_mapping=True))
    for method in ("tokens", "word_ids", "sequence_ids"):
        assert not differences(*both, PAIRS, lambda t, pair: getattr(t(*pair), method)())  # noqa: B023
    assert not differences(*both, texts, _tokens_of_characters)
    text = "Ünaffable! 三百"
    mine = both[0](text, return_offsets_mapping=True, add_special_tokens=False)
    assert "".join(text[a:b] for a, b in mine["offset_mapping"]) == text.replace(" ", "")


def _tokens_of_characters(tokenizer, text):
    row = tokenizer(text)
    return [row.char_to_token(i) for i in range(len(text))]


def test_python_tokenizers_know_no_places(loaded):
    for name, files in (("BertTokenizer", "uncased"), ("BertGenerationTokenizer", "spiece")):
        with pytest.raises(TokenizerError, match=f"{name} knows no offsets"):
            loaded(Case(name, files))[0]("a", return_offsets_mapping=True)


@needs_4
@plain_case
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=any_text, second=any_text)
def test_random_texts(case, loaded, text, second):
    ours, theirs = loaded(case)
    row = theirs(text)
    assert dict(ours(text)) == dict(row)
    assert ours.decode(row["input_ids"]) == theirs.decode(row["input_ids"])
    assert dict(ours(text, second)) == dict(theirs(text, second))


@needs_5
@pytest.mark.parametrize("case", PLAIN_CASES[1:], ids=str)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=any_text, second=any_text)
def test_random_texts_against_5(case, loaded, text, second):
    ours, theirs = loaded(case)
    assert dict(ours(text)) == dict(theirs(text))
    assert dict(ours(text, second)) == dict(theirs(text, second))


@needs_4
@pytest.mark.parametrize("options", [{}, {"do_lower_case": False, "tokenize_chinese_chars": False}], ids=str)
def test_every_character_is_prepared_as_by_the_oracle(options):
    from transformers.models.bert.tokenization_bert import BasicTokenizer

    lower = options.get("do_lower_case", True)
    ours, theirs = (
        WordSplitter(lower, options.get("tokenize_chinese_chars", True), lower),
        BasicTokenizer(**options),
    )
    for start in [*range(0, 0x20000, 0x400), 0x20000, 0x2A400, 0x2B400, 0x2CC00, 0x2F800, 0xE0000, 0x10FC00]:
        text = " ".join(f"a{chr(code)}b" for code in range(start, start + 0x400))
        assert ours(text, frozenset()) == theirs.tokenize(text), hex(start)


# Added tokens


def add_texts(t):
    return t.add_tokens(["foo", "bar baz", "Hello"]), t.add_tokens("Single"), t.add_tokens(["foo", "FOO"])


def add_with_flags(t):
    return t.add_tokens(
        [
            AddedToken("single", single_word=True),
            AddedToken("LR", lstrip=True, rstrip=True),
            AddedToken("Kept", normalized=False),
            AddedToken("É", normalized=True),
            AddedToken("Spec", special=True),
            AddedToken("rr", rstrip=True, special=True, normalized=True),
        ]
    )


def add_special(t):
    added = t.add_special_tokens({"additional_special_tokens": ["<New>", "<x y>"], "pad_token": "<PAD>"})
    return added, t.pad_token_id, t.add_tokens(["Spec"], special_tokens=True)


def change_roles(t):
    t.pad_token = t.sep_token
    t.mask_token = "world"
    t.bos_token = None
    return t.pad_token_id, t.mask_token_id, t.bos_token_id


TEXTS_WITH_ADDED = [
    *TEXTS,
    "foo bar baz barbaz Hello world <PAD> foofoo FOO Foo",
    "single singles single. Single (single) SINGLE",
    "a LR b LRLR  c lr d Kept kept e Spec spec f\trr\ng",
    "É é E\u0301 e",
    "<New> a <x y> b <new> world",
]


@needs_4
@plain_case
@pytest.mark.parametrize(
    "changes",
    [
        (add_texts,),
        (add_with_flags,),
        (add_special,),
        (change_roles,),
        (add_special, add_texts, add_with_flags),
    ],
    ids=lambda functions: " ".join(f.__name__ for f in functions),
)
def test_added_tokens(case, load, changes):
    ours, theirs = load(case)
    for change in changes:
        assert change(ours) == change(theirs), change.__name__
    _same_tokens(ours, theirs)
    assert not differences(ours, theirs, TEXTS_WITH_ADDED, lambda t, text: t(text))
    assert not differences(ours, theirs, TEXTS_WITH_ADDED, lambda t, text: t.tokenize(text))
    rows = [theirs(text)["input_ids"] for text in TEXTS_WITH_ADDED]
    for skip in (False, True):
        assert not differences(ours, theirs, rows, lambda t, row: t.decode(row, skip_special_tokens=skip))  # noqa: B023


def test_adding_leaves_the_given_token_alone(load):
    ours, theirs = load(PLAIN_CASES[0])
    for tokenizer, content in ((ours, "Bar"), (theirs, "bar")):
        token = AddedToken("Bar")
        tokenizer.add_tokens([token])
        assert token.content == content


# Truths


def test_words_and_pieces(tmp_path):
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "un",
        "##aff",
        "##able",
        "!",
        "三",
        "cafe",
        "x",
        "##x",
    ]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    for cls in (BertTokenizer, BertTokenizerFast):
        t = cls.from_pretrained(tmp_path)
        assert t.tokenize("UNAFFABLE!三三 Café") == ["un", "##aff", "##able", "!", "三", "三", "cafe"]
        assert t("un un", "x")["token_type_ids"] == [0, 0, 0, 0, 1, 1]
        assert t("un", "x")["input_ids"] == [2, 5, 3, 11, 3]
        assert t.tokenize("x" * 100) == ["x", *["##x"] * 99]
        assert t.tokenize("x" * 101) == ["[UNK]"]
        assert t.tokenize("una") == ["[UNK]"]
        assert t.decode(t("Unaffable !")["input_ids"], skip_special_tokens=True) == "unaffable!"
        for vocab in (pieces, {piece: i for i, piece in enumerate(pieces)}):
            built = cls(vocab)
            assert built.get_vocab() == t.get_vocab()
            assert dict(built("unaffable", "café")) == dict(t("unaffable", "café"))
    slow = BertTokenizer.from_pretrained(tmp_path)
    assert slow.decode([2, 5, 99]) == "[CLS] un [UNK]"
    assert slow.convert_ids_to_tokens(99) == "[UNK]"
    assert BertTokenizer(pieces, do_basic_tokenize=False).tokenize("un ! UN") == ["un", "!", "[UNK]"]
    assert BertTokenizer(pieces, never_split=["un!"]).tokenize("un! x") == ["un!", "x"]


def test_generation_adds_nothing_around_a_text(loaded):
    ours, _ = loaded(Case("BertGenerationTokenizer", "spiece"))
    assert ours.tokenize("Hello", add_special_tokens=True) == ours.tokenize("Hello")
    ids = ours("Hello", "world")["input_ids"]
    assert ids == ours("Hello")["input_ids"] + ours("world")["input_ids"]
    assert ours("<s>Hello</s>")["input_ids"][:: len(ours("Hello")["input_ids"]) + 1] == [2, 1]
    assert ours.decode(ours("Hello world")["input_ids"]) == "Hello world"


@plain_case
def test_copies(case, loaded, folders):
    ours, _ = loaded(case)
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert not differences(ours, other, TEXTS, lambda t, text: t(text))
        other.add_tokens(["Hello"])
        assert len(other) == len(ours) + 1


@plain_case
def test_threads(case, loaded):
    ours, _ = loaded(case)
    expected = [dict(ours(text, truncation=True, max_length=9)) for text in TEXTS]
    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(lambda text: dict(ours(text, truncation=True, max_length=9)), TEXTS * 4))
    assert rows == expected * 4


# Sampling


SAMPLING = {"enable_sampling": True, "nbest_size": -1, "alpha": 0.1}
LONG = "The quick brown fox jumps over the lazy dog"


def _seeded(tokenizer):
    """Draws of a thread of its own, whose generator starts from the seed."""

    def draws():
        sentencepiece.set_random_generator_seed(11)
        return [tokenizer.tokenize(LONG) for _ in range(20)]

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(draws).result()


def test_sampling_draws_as_the_oracle_does(folders):
    for kwargs in (SAMPLING, {"enable_sampling": True, "nbest_size": 8, "alpha": 0.5}):
        ours = BertGenerationTokenizer.from_pretrained(folders["spiece"], sp_model_kwargs=kwargs)
        theirs = oracle("BertGenerationTokenizer").from_pretrained(folders["spiece"], sp_model_kwargs=kwargs)
        mine = _seeded(ours)
        assert mine == _seeded(theirs)
        assert len({tuple(tokens) for tokens in mine}) > 1
        assert all(ours.convert_tokens_to_string(tokens) == LONG for tokens in mine)
        assert len({tuple(tokens) for tokens in _seeded(copy.deepcopy(ours))}) > 1


def test_sampling_is_as_likely_as_the_model_says(folders):
    """Of two ways to split, each is drawn as e^(α·score), a score being the sum of the pieces'."""
    kwargs = {"enable_sampling": True, "nbest_size": 2, "alpha": 0.3}
    ours = BertGenerationTokenizer.from_pretrained(folders["spiece"], sp_model_kwargs=kwargs)
    plain = sentencepiece.SentencePieceProcessor(model_file=str(folders["spiece"] / "spiece.model"))
    ways = [tuple(way) for way in plain.nbest_encode_as_pieces("garden", 2)]
    first, second = (sum(plain.get_score(plain.piece_to_id(piece)) for piece in way) for way in ways)
    sentencepiece.set_random_generator_seed(5)
    counts = Counter(tuple(ours.tokenize("garden")) for _ in range(4000))
    assert set(counts) == set(ways)
    expected = 1 / (1 + 2.718281828459045 ** (0.3 * (second - first)))
    # Four standard errors of 4000 draws are at most 0.032.
    assert abs(counts[ways[0]] / 4000 - expected) < 0.032


def test_no_sampling_unless_asked(folders):
    plain = BertGenerationTokenizer.from_pretrained(folders["spiece"])
    for kwargs in ({}, {"enable_sampling": True, "nbest_size": 1, "alpha": 0.1}):
        ours = BertGenerationTokenizer.from_pretrained(folders["spiece"], sp_model_kwargs=kwargs)
        assert {tuple(ours.tokenize(LONG)) for _ in range(20)} == {tuple(plain.tokenize(LONG))}
    with pytest.raises(ValueError, match="nbest_size"):
        oracle("BertGenerationTokenizer").from_pretrained(folders["spiece"], sp_model_kwargs=kwargs).tokenize(
            LONG
        )
    with pytest.raises(TokenizerError, match="sp_model_kwargs"):
        BertGenerationTokenizer.from_pretrained(folders["spiece"], sp_model_kwargs={"no_such": 1})


def test_sampling_is_saved(folders, tmp_path):
    BertGenerationTokenizer.from_pretrained(folders["spiece"], sp_model_kwargs=SAMPLING).save_pretrained(
        tmp_path
    )
    for cls in (BertGenerationTokenizer, oracle("BertGenerationTokenizer")):
        assert cls.from_pretrained(tmp_path).sp_model_kwargs == SAMPLING


# Files


SAVED = [
    Case("BertTokenizer", "uncased"),
    Case("BertTokenizer", "cased", {"do_lower_case": False, "never_split": ["don't"]}),
    Case("BertTokenizer", "uncased_json"),
    Case("BertTokenizerFast", "uncased", {"strip_accents": False}),
    Case("BertTokenizerFast", "cased", {"do_lower_case": False}),
    Case("BertGenerationTokenizer", "spiece"),
    Case("BertGenerationTokenizer", "spiece_without_separator"),
]


def _changed(case, folders):
    ours = getattr(seq2seq_zoo, case.name).from_pretrained(
        folders[case.files], model_max_length=77, padding_side="left", some_key=[1], **case.settings
    )
    # Both oracles read these alike; the text "Added" is lowered by one of the classes when it is added.
    ours.add_tokens(["added", AddedToken("new\u4e09", rstrip=True)])
    ours.add_special_tokens({"additional_special_tokens": ["<Extra>"]})
    return ours


SAVED_TEXTS = [*TEXTS, "added <Extra> <extra> new三  x", "<Extra>added"]


@pytest.mark.parametrize("case", SAVED, ids=str)
def test_what_we_save_the_oracle_loads(case, folders, tmp_path):
    ours = _changed(case, folders)
    ours.save_pretrained(tmp_path)
    again = type(ours).from_pretrained(tmp_path)
    assert not differences(ours, again, SAVED_TEXTS, lambda t, text: t(text))
    assert again.get_vocab() == ours.get_vocab()
    assert repr(again) == repr(ours).replace(ours.name_or_path, again.name_or_path)

    theirs = quietly(oracle(case.name).from_pretrained, tmp_path)
    assert not differences(ours, theirs, SAVED_TEXTS, lambda t, text: t(text)["input_ids"])
    assert (theirs.model_max_length, theirs.padding_side, len(theirs)) == (77, "left", len(ours))
    if MAJOR == 4:
        _same_tokens(ours, theirs)
    for use_fast in (False, True):
        mine = AutoTokenizer.from_pretrained(tmp_path, use_fast=use_fast)
        other = quietly(oracle("AutoTokenizer").from_pretrained, tmp_path, use_fast=use_fast)
        if MAJOR == 4:
            assert type(mine).__name__ == type(other).__name__
        if MAJOR == 4 or mine.is_fast == other.is_fast:
            assert not differences(mine, other, SAVED_TEXTS, lambda t, text: t(text)["input_ids"])


@pytest.mark.parametrize("case", SAVED, ids=str)
def test_what_the_oracle_saves_we_load(case, folders, tmp_path):
    if case == Case("BertTokenizer", "uncased_json"):
        pytest.skip("the oracle's BertTokenizer reads vocab.txt alone")
    theirs = quietly(oracle(case.name).from_pretrained, folders[case.files], **case.settings)
    theirs.add_tokens(["added", AddedToken("new\u4e09", rstrip=True)])
    theirs.add_special_tokens({"additional_special_tokens": ["<Extra>"]})
    theirs.save_pretrained(tmp_path)
    ours = getattr(seq2seq_zoo, case.name).from_pretrained(tmp_path)
    assert not differences(ours, theirs, SAVED_TEXTS, lambda t, text: t(text)["input_ids"])
    if MAJOR == 4:
        _same_tokens(ours, theirs)
    if case.name == "BertTokenizerFast":
        # The Python class reads the same folder, whether or not it has a vocab.txt.
        slow = BertTokenizer.from_pretrained(tmp_path)
        assert slow.get_vocab() == ours.get_vocab()
        assert slow.tokenize("Hello world [MASK] added") == ours.tokenize("Hello world [MASK] added")


def test_files(folders, tmp_path):
    common = {"tokenizer_config.json", "special_tokens_map.json"}
    saved = {
        BertTokenizer: ("uncased", {*common, "vocab.txt"}),
        BertTokenizerFast: ("uncased", {*common, "vocab.txt", "tokenizer.json"}),
        BertGenerationTokenizer: ("spiece", {*common, "spiece.model"}),
    }
    # One after the other in the same folder: what an earlier one left would mislead a reader.
    for cls, (files, names) in saved.items():
        ours = cls.from_pretrained(folders[files])
        paths = ours.save_pretrained(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == names
        assert set(paths) == {str(tmp_path / name) for name in names}
        for name in {"vocab.txt", "spiece.model"} & names:
            assert (tmp_path / name).read_bytes() == (folders[files] / name).read_bytes()
    for cls, (files, _) in saved.items():
        target = tmp_path / cls.__name__
        (path,) = cls.from_pretrained(folders[files]).save_vocabulary(target, "tiny")
        name = "spiece.model" if files == "spiece" else "vocab.txt"
        assert [p.name for p in target.iterdir()] == [f"tiny-{name}"]
        with open(path, "rb") as written:
            assert written.read() == (folders[files] / name).read_bytes()


def test_a_text_that_stands_twice_in_the_vocabulary(folders, tmp_path):
    lines = (folders["uncased"] / "vocab.txt").read_text(encoding="utf-8").splitlines()
    lines[len(lines) // 2] = lines[7]
    (tmp_path / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    ours = BertTokenizer.from_pretrained(tmp_path)
    assert (ours.vocab_size, len(ours.get_vocab())) == (len(lines), len(lines) - 1)
    assert ours.convert_tokens_to_ids(lines[7]) == len(lines) // 2
    assert ours.convert_tokens_to_ids(lines[-1]) == len(lines) - 1
    ours.save_pretrained(tmp_path / "again")
    assert BertTokenizer.from_pretrained(tmp_path / "again").get_vocab() == ours.get_vocab()
    assert ours.add_tokens(["brandnew"]) == 1
    assert ours.convert_tokens_to_ids("brandnew") == len(lines)
    assert ours.convert_ids_to_tokens(len(lines) - 1) == lines[-1]

    theirs = quietly(oracle("BertTokenizer").from_pretrained, tmp_path)
    theirs.save_pretrained(tmp_path / "theirs")
    shifted = quietly(oracle("BertTokenizer").from_pretrained, tmp_path / "theirs")
    assert shifted.convert_tokens_to_ids(lines[-1]) != theirs.convert_tokens_to_ids(lines[-1])
    theirs.add_tokens(["brandnew"])
    assert theirs.convert_tokens_to_ids("brandnew") == theirs.convert_tokens_to_ids(lines[-1])


NO_VOCABULARY = {
    "missing": None,
    "empty": b"",
    "binary": bytes(range(256)),
    "blank": b"\n\n\n",
    "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
}


@pytest.mark.parametrize("content", NO_VOCABULARY.values(), ids=NO_VOCABULARY)
@pytest.mark.parametrize("cls", [BertTokenizer, BertTokenizerFast, BertGenerationTokenizer])
def test_bad_vocabulary_files_are_named(cls, content, tmp_path):
    name = "spiece.model" if cls is BertGenerationTokenizer else "vocab.txt"
    tmp_path.joinpath("tokenizer_config.json").write_text("{}")
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(TokenizerError, match=re.escape(name)):
        cls.from_pretrained(tmp_path)


def test_damaged_vocabulary_files_are_named(folders, tmp_path):
    spiece = (folders["spiece"] / "spiece.model").read_bytes()
    for content in (spiece[: len(spiece) // 2 + 1], b"\xff" + spiece[1:]):
        (tmp_path / "spiece.model").write_bytes(content)
        with pytest.raises(TokenizerError, match=r"spiece\.model"):
            BertGenerationTokenizer.from_pretrained(tmp_path)
    vocab = (folders["uncased"] / "vocab.txt").read_bytes()
    for content in (vocab[:6], vocab + b"\xe4\xb8\n"):
        (tmp_path / "vocab.txt").write_bytes(content)
        for cls in (BertTokenizer, BertTokenizerFast):
            with pytest.raises(TokenizerError, match=r"vocab\.txt"):
                cls.from_pretrained(tmp_path)


def _bpe(content):
    content["model"] = {"type": "BPE", "vocab": {"a": 0}, "merges": []}


def _gap(content):
    content["model"]["vocab"]["[PAD]"] = 10**6


def _no_model(content):
    content.pop("model")


@pytest.mark.parametrize("change", [_bpe, _gap, _no_model, dict.clear])
def test_bad_tokenizer_json_is_named(change, folders, tmp_path):
    content = json.loads((folders["uncased_json"] / "tokenizer.json").read_text(encoding="utf-8"))
    change(content)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"added_tokens_decoder": {}}')
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        BertTokenizer.from_pretrained(tmp_path)
    if change is not _gap:  # tokenizer.json can hold it
        with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
            BertTokenizerFast.from_pretrained(tmp_path)


def test_bad_arguments_are_named(folders):
    vocab = str(folders["uncased"] / "vocab.txt")
    for cls in (BertTokenizer, BertTokenizerFast):
        with pytest.raises(TokenizerError, match="unk_token is None"):
            cls(vocab, unk_token=None)
        with pytest.raises(TokenizerError, match=r"vocab\.txt has no '<unk>'"):
            cls(vocab, unk_token="<unk>")
        with pytest.raises(TokenizerError, match="without gaps"):
            cls({"[UNK]": 0, "a": 2})
        with pytest.raises(TokenizerError, match=r"vocab\.txt and tokenizer\.json are missing"):
            cls()
    with pytest.raises(TokenizerError, match="never_split"):
        BertTokenizer(vocab, never_split="two")
    with pytest.raises(TokenizerError, match=r"spiece\.model is missing"):
        BertGenerationTokenizer()


# AutoTokenizer

CONFIGS = [
    ({"model_type": "bert"}, "uncased", "BertTokenizerFast"),
    ({"model_type": "bert-generation"}, "spiece", "BertGenerationTokenizer"),
    (
        {
            "model_type": "encoder-decoder",
            "encoder": {"model_type": "bert"},
            "decoder": {"model_type": "bert"},
        },
        "uncased",
        "BertTokenizerFast",
    ),
    (
        {
            "model_type": "encoder-decoder",
            "encoder": {"model_type": "bert-generation"},
            "decoder": {"model_type": "bert-generation"},
        },
        "spiece",
        "BertGenerationTokenizer",
    ),
    (
        {"model_type": "encoder-decoder", "encoder": {}, "tokenizer_class": "BertTokenizer"},
        "cased",
        "BertTokenizerFast",
    ),
    ({}, "uncased", "BertTokenizerFast"),
]


@pytest.mark.parametrize(("config", "files", "name"), CONFIGS, ids=lambda value: str(value)[:40])
def test_auto(config, files, name, folders, tmp_path):
    shutil.copytree(folders[files], tmp_path, dirs_exist_ok=True)
    if config:
        (tmp_path / "config.json").write_text(json.dumps(config))
    ours = AutoTokenizer.from_pretrained(tmp_path)
    assert type(ours).__name__ == name
    slow = AutoTokenizer.from_pretrained(tmp_path, use_fast=False)
    assert type(slow).__name__ == name.removesuffix("Fast")
    if config.get("encoder", True):
        expected = "BertTokenizer" if MAJOR == 5 and name == "BertTokenizerFast" else name
        if config:
            theirs = quietly(oracle("AutoTokenizer").from_pretrained, tmp_path)
            assert type(theirs).__name__ == expected
            assert not differences(ours, theirs, TEXTS, lambda t, text: t(text)["input_ids"])


@pytest.mark.parametrize("encoder", [None, "x", {}, {"model_type": "unknown"}], ids=str)
def test_auto_refuses_what_it_does_not_know(encoder, folders, tmp_path):
    shutil.copytree(folders["uncased"], tmp_path, dirs_exist_ok=True)
    (tmp_path / "vocab.txt").unlink()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "encoder-decoder", "encoder": encoder}))
    with pytest.raises(TokenizerError):
        AutoTokenizer.from_pretrained(tmp_path)


# Where the oracle is wrong; see DIVERGENCES.md


@needs_4
def test_token_types_are_as_long_as_the_row(loaded):
    ours, theirs = loaded(Case("BertGenerationTokenizer", "spiece"))
    given_pair = {"text": "a b", "text_pair": "c", "return_token_type_ids": True}
    other = theirs(**given_pair)
    assert len(other["token_type_ids"]) == len(other["input_ids"]) + 2
    mine = ours(**given_pair)
    assert mine["token_type_ids"] == [0, 0, 1]
    assert mine["input_ids"] == other["input_ids"]
    batch = {"text": ["a b", "c"], "return_token_type_ids": True, "padding": True, "return_tensors": "pt"}
    assert ours(**batch)["token_type_ids"].shape == ours(**batch)["input_ids"].shape
