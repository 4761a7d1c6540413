"""Where we differ from transformers on purpose (tests/DIVERGENCES.md): each test shows both results."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from seq2seq_zoo import MT5Tokenizer, MT5TokenizerFast, MvpTokenizer, MvpTokenizerFast
from seq2seq_zoo.errors import TokenizerError
from tests.tokenization.tokenizer_cases import CORPUS, needs_4, needs_5, quietly

transformers = pytest.importorskip("transformers")


@needs_4
def test_a_damaged_sentencepiece_model(unigram, tmp_path):
    (tmp_path / "spiece.model").write_bytes((unigram / "spiece.model").read_bytes()[:5000])
    assert transformers.T5Tokenizer.from_pretrained(tmp_path) is False
    with pytest.raises(TokenizerError, match=r"spiece\.model"):
        MT5Tokenizer.from_pretrained(tmp_path)


@needs_4
@pytest.mark.parametrize("change", ["no header", "no last line end"])
def test_merges_without_header_or_last_line_end(change, byte_level, tmp_path):
    shutil.copy(byte_level / "vocab.json", tmp_path)
    lines = (byte_level / "merges.txt").read_text().splitlines()
    text = "\n".join(lines[1:]) + "\n" if change == "no header" else "\n".join(lines)
    (tmp_path / "merges.txt").write_text(text)
    theirs = transformers.MvpTokenizer.from_pretrained(tmp_path)
    assert len(theirs.bpe_ranks) == len(lines) - 2  # one merge is taken for the header, or for an empty line
    lost = tuple(lines[1 if change == "no header" else -1].split())
    assert lost not in theirs.bpe_ranks
    whole = transformers.MvpTokenizer.from_pretrained(byte_level)
    assert theirs(CORPUS) != whole(CORPUS)
    for cls in (MvpTokenizer, MvpTokenizerFast):
        assert cls.from_pretrained(tmp_path)(CORPUS)["input_ids"] == whole(CORPUS)["input_ids"]


@needs_4
def test_rows_that_cannot_be_shortened_enough(byte_level):
    """The Python tokenizers of 4.57.6 log an error and return a row longer than max_length."""
    theirs, ours = (cls.from_pretrained(byte_level) for cls in (transformers.MvpTokenizer, MvpTokenizer))
    for args, options in (
        (("a b c",), {"truncation": True, "max_length": 1}),
        (("a", "b c d e f g"), {"truncation": "only_first", "max_length": 6}),
    ):
        assert len(theirs(*args, **options)["input_ids"]) > options["max_length"]
        with pytest.raises(TokenizerError, match="max_length"):
            ours(*args, **options)
    # Nothing but special tokens is short enough.
    options = {"truncation": True, "max_length": 2}
    assert len(theirs("a b c", **options)["input_ids"]) > 2
    assert ours("a b c", **options)["input_ids"] == [ours.cls_token_id, ours.sep_token_id]


@needs_4
def test_less_room_than_special_tokens_in_a_fast_tokenizer(byte_level):
    theirs, ours = (
        cls.from_pretrained(byte_level) for cls in (transformers.MvpTokenizerFast, MvpTokenizerFast)
    )
    assert len(theirs("a b c d", truncation=True, max_length=1)["input_ids"]) > 1
    with pytest.raises(TokenizerError, match="max_length is 1"):
        ours("a b c d", truncation=True, max_length=1)


@needs_4
def test_masks_of_a_text_that_ends_with_its_end(unigram):
    """A text with </s> gets no second one, but the masks of 4.57.6 count it."""
    theirs, ours = (cls.from_pretrained(unigram) for cls in (transformers.T5Tokenizer, MT5Tokenizer))
    options = {"return_special_tokens_mask": True, "return_token_type_ids": True}
    row, other = ours("a b</s>", **options), quietly(theirs, "a b</s>", **options)
    assert row["input_ids"] == other["input_ids"]
    assert len(other["special_tokens_mask"]) == len(other["token_type_ids"]) == len(other["input_ids"]) + 1
    assert {len(value) for value in row.values()} == {len(row["input_ids"])}
    assert row["special_tokens_mask"][-1] == 1


@needs_4
def test_special_tokens_that_are_no_sentinels(unigram):
    names = ["<other>", *(f"<extra_id_{i}>" for i in range(3))]
    settings = {"extra_ids": 3, "additional_special_tokens": names}
    theirs = transformers.T5Tokenizer.from_pretrained(unigram, **settings)
    assert "<other>" in theirs.get_sentinel_tokens()
    assert MT5Tokenizer.from_pretrained(unigram, **settings).get_sentinel_tokens() == names[1:]


@needs_4
def test_ids_of_sentinels_beside_other_special_tokens(unigram):
    """With other additional tokens the slow T5Tokenizer turns the sentinels round, the fast one does not."""
    size = MT5Tokenizer.from_pretrained(unigram).vocab_size
    expected = {"<extra_id_0>": size + 2, "<extra_id_1>": size + 1, "<extra_id_2>": size, "<other>": size + 3}

    def ids(cls):
        tokenizer = cls.from_pretrained(unigram, extra_ids=3, additional_special_tokens=["<other>"])
        return {name: tokenizer.convert_tokens_to_ids(name) for name in expected}

    assert ids(transformers.T5Tokenizer) != expected
    for cls in (transformers.T5TokenizerFast, MT5Tokenizer, MT5TokenizerFast):
        assert ids(cls) == expected


@needs_4
def test_special_tokens_in_any_script(byte_level):
    """The slow MvpTokenizer decodes special tokens as if they were pieces."""
    theirs, ours = (
        cls.from_pretrained(byte_level, eos_token="<ende schön>", bos_token="<始>")
        for cls in (transformers.MvpTokenizer, MvpTokenizer)
    )
    with pytest.raises(KeyError):
        theirs.decode(theirs("<始> a")["input_ids"])
    assert (
        ours.decode(ours("<始> a<ende schön>", add_special_tokens=False)["input_ids"]) == "<始> a<ende schön>"
    )


@needs_4
def test_special_tokens_of_fast_rows_and_of_calls(byte_level):
    """MvpTokenizerFast.build_inputs_with_special_tokens takes bos and eos where a call takes cls and sep."""
    settings = {"bos_token": "<bos>", "eos_token": "<eos>"}
    theirs, ours = (
        cls.from_pretrained(byte_level, **settings)
        for cls in (transformers.MvpTokenizerFast, MvpTokenizerFast)
    )
    ids = ours("a b", add_special_tokens=False)["input_ids"]
    assert ours("a b")["input_ids"] == theirs("a b")["input_ids"]
    assert theirs.build_inputs_with_special_tokens(ids) != theirs("a b")["input_ids"]
    assert ours.build_inputs_with_special_tokens(ids) == ours("a b")["input_ids"]


@needs_4
def test_state_of_a_call_stays_on_the_librarys_tokenizer(byte_level):
    theirs, ours = (
        cls.from_pretrained(byte_level) for cls in (transformers.MvpTokenizerFast, MvpTokenizerFast)
    )
    for tokenizer in (theirs, ours):
        tokenizer(["a", "b c"], padding="max_length", truncation=True, max_length=9)
    assert theirs.backend_tokenizer.padding is not None
    assert theirs.backend_tokenizer.truncation is not None
    assert (ours.backend_tokenizer.padding, ours.backend_tokenizer.truncation) == (None, None)


@needs_4
def test_files_of_an_earlier_tokenizer(byte_level, tmp_path):
    """A tokenizer.json of an earlier save stays beside the new files in 4.57.6, and loads instead of them."""
    earlier = transformers.MvpTokenizerFast.from_pretrained(byte_level, add_prefix_space=True)
    for library, name in ((transformers, "MvpTokenizer"), (None, None)):
        folder = tmp_path / str(name)
        earlier.save_pretrained(folder)
        later = getattr(library, name) if library else MvpTokenizer
        later.from_pretrained(byte_level).save_pretrained(folder)
        assert ("tokenizer.json" in os.listdir(folder)) == (library is not None)


@needs_4
def test_lists_of_further_special_tokens(byte_level, tmp_path):
    """5.x saves additional special tokens as a list under a name that is a dict in 4.57.6."""
    quietly(transformers.MvpTokenizerFast.from_pretrained, byte_level).save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"extra_special_tokens": ["<x>", "<y>"]}
    path.write_text(json.dumps(config))
    with pytest.raises(AttributeError):
        transformers.MvpTokenizerFast.from_pretrained(tmp_path)
    for cls in (MvpTokenizer, MvpTokenizerFast):
        assert cls.from_pretrained(tmp_path).additional_special_tokens == ["<x>", "<y>"]


@needs_4
def test_nothing_to_encode(byte_level):
    theirs = transformers.MvpTokenizerFast.from_pretrained(byte_level)
    with pytest.raises(IndexError):
        theirs([])
    with pytest.raises(TokenizerError, match="empty list"):
        MvpTokenizerFast.from_pretrained(byte_level)([])


@needs_4
def test_overlap_without_room(byte_level, capfd):
    """4.57.6 ends in a panic of the library, which is no Exception."""
    theirs, ours = (
        cls.from_pretrained(byte_level) for cls in (transformers.MvpTokenizerFast, MvpTokenizerFast)
    )
    pair, options = ("a b c d e f", "g h i j k l m n o p"), {"truncation": True, "max_length": 8, "stride": 2}
    with pytest.raises(BaseException, match="stride") as caught:
        theirs(*pair, **options)
    assert not isinstance(caught.value, Exception)
    # Rows only overlap where overflowing tokens are returned.
    assert len(ours(*pair, **options)["input_ids"]) == 8
    with pytest.raises(TokenizerError, match="stride"):
        ours(*pair, **options, return_overflowing_tokens=True)
    capfd.readouterr()  # the panics' traces


@needs_5
def test_the_space_before_a_mask(byte_level):
    """From vocab.json and merges.txt, 5.x makes a mask that leaves the space before it alone."""
    theirs, ours = (cls.from_pretrained(byte_level) for cls in (transformers.MvpTokenizer, MvpTokenizerFast))
    assert len(theirs("a <mask>")["input_ids"]) == len(ours("a <mask>")["input_ids"]) + 1
    assert ours("a <mask>")["input_ids"] == ours("a<mask>")["input_ids"]


@needs_5
def test_controls_that_count_as_spaces_elsewhere(unigram):
    """5.x splits at every Unicode space before sentencepiece's own rules; U+0085 is none to sentencepiece."""
    theirs = transformers.T5Tokenizer.from_pretrained(unigram)
    text = "next\x85line"
    for cls in (MT5Tokenizer, MT5TokenizerFast):
        ours = cls.from_pretrained(unigram)
        assert ours.unk_token_id in ours(text)["input_ids"]
        assert ours("next line")["input_ids"] != ours(text)["input_ids"]
    assert theirs(text)["input_ids"] == theirs("next line")["input_ids"]
