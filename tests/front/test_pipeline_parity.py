"""pipeline against transformers 4.57.6's on the same folders (5.x has no such tasks any more)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import seq2seq_zoo
from tests.front.conftest import SENTENCES
from tests.oracle import MAJOR

pytestmark = pytest.mark.skipif(MAJOR != 4, reason="needs transformers 4.57.6")

Pair = tuple[Any, Any]


def both(task: str, folder: Path, **options: Any) -> Pair:
    """Our pipeline and theirs."""
    theirs = transformers.pipeline(task, str(folder), device="cpu", **options)
    return seq2seq_zoo.pipeline(task, folder, device="cpu", **options), theirs


@pytest.fixture(scope="module", params=["mt5", "mvp"])
def pair(request: pytest.FixtureRequest) -> Pair:
    return both("text2text-generation", request.getfixturevalue(request.param))


@pytest.fixture
def edited(mt5: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copies of the checkpoint with further entries in its files."""

    def copy(**files: dict[str, Any]) -> Path:
        folder = tmp_path / "edited"
        shutil.copytree(mt5, folder)
        for name, entries in files.items():
            path = folder / f"{name}.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | entries))
        return folder

    return copy


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 1},
        {"num_return_sequences": 3},
        {"num_beams": 5, "length_penalty": 2.0, "early_stopping": True, "no_repeat_ngram_size": 2},
        {"clean_up_tokenization_spaces": True},
        {"return_text": True, "return_tensors": False},
    ],
    ids=str,
)
def test_texts(pair: Pair, options: dict[str, Any]) -> None:
    ours, theirs = pair
    options = {"max_new_tokens": 8, **options}
    answers = ours(SENTENCES, **options)
    assert answers == theirs(SENTENCES, **options)
    assert len({str(answer) for answer in answers}) > 1  # what is read matters
    for text in SENTENCES:
        assert ours(text, **options) == theirs(text, **options)
    assert ours(SENTENCES[:1], **options) == theirs(SENTENCES[:1], **options)
    assert ours([]) == theirs([]) == []


@pytest.mark.parametrize("batch_size", [2, 3, 8])
@pytest.mark.parametrize("number", [1, 2])
def test_batches(pair: Pair, batch_size: int, number: int) -> None:
    options = {"batch_size": batch_size, "num_return_sequences": number, "max_new_tokens": 8}
    assert pair[0](SENTENCES, **options) == pair[1](SENTENCES, **options)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_generators(pair: Pair, batch_size: int) -> None:
    ours, theirs = (
        each((text for text in SENTENCES), batch_size=batch_size, max_new_tokens=5) for each in pair
    )
    assert list(ours) == list(theirs)


def test_ids(pair: Pair) -> None:
    options = {"return_tensors": True, "max_new_tokens": 6, "num_return_sequences": 2}
    ours, theirs = (each(SENTENCES[0], **options) for each in pair)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys() == {"generated_token_ids"}
        assert mine["generated_token_ids"].dtype == other["generated_token_ids"].dtype == torch.int64
        assert torch.equal(mine["generated_token_ids"], other["generated_token_ids"])


def test_sampling_draws_the_same_tokens(pair: Pair) -> None:
    options = {"do_sample": True, "num_beams": 1, "temperature": 1.5, "top_p": 0.9, "num_return_sequences": 3}
    answers = []
    for each in pair:
        torch.manual_seed(0)
        answers.append([each(text, max_new_tokens=8, **options) for text in SENTENCES])
    assert answers[0] == answers[1]


def test_without_a_length_answers_end_at_256_new_tokens(mt5: Path) -> None:
    ours, theirs = both("text2text-generation", mt5, suppress_tokens=[1], return_tensors=True)
    mine, other = (each(SENTENCES[0])[0]["generated_token_ids"] for each in (ours, theirs))
    assert len(mine) == 257
    assert torch.equal(mine, other)


@pytest.mark.parametrize(
    ("task", "key"),
    [
        ("summarization", "summary_text"),
        ("translation", "translation_text"),
        ("translation_en_to_de", "translation_text"),
    ],
)
def test_names_of_results(mvp: Path, task: str, key: str) -> None:
    ours, theirs = both(task, mvp, max_new_tokens=4)
    assert ours(SENTENCES[:2]) == theirs(SENTENCES[:2])
    assert [set(answer) for answer in ours(SENTENCES[:2])] == [{key}, {key}]


def test_options_of_the_pipeline(mt5: Path) -> None:
    ours, theirs = both("text2text-generation", mt5, max_new_tokens=7, num_beams=2, batch_size=2)
    assert ours(SENTENCES) == theirs(SENTENCES)
    assert ours(SENTENCES, max_new_tokens=3) == theirs(SENTENCES, max_new_tokens=3)


def test_prefix(edited: Callable[..., Path], ours: Any) -> None:
    mine, theirs = both("text2text-generation", edited(config={"prefix": "summarize: "}), max_new_tokens=8)
    assert mine(SENTENCES) == theirs(SENTENCES) != ours(SENTENCES, max_new_tokens=8)
    assert mine(SENTENCES[0]) == theirs(SENTENCES[0])


TASK_SPECIFIC = {
    "summarization": {"prefix": "summarize: ", "num_beams": 3, "length_penalty": 2.0, "min_length": 5},
    "translation_en_to_de": {"prefix": "translate English to German: ", "no_repeat_ngram_size": 2},
}


@pytest.mark.parametrize("task", ["summarization", "translation_en_to_de", "translation_en_to_fr"])
def test_task_specific_params(edited: Callable[..., Path], task: str) -> None:
    folder = edited(config={"task_specific_params": TASK_SPECIFIC})
    ours, theirs = both(task, folder)
    assert ours(SENTENCES, max_new_tokens=8) == theirs(SENTENCES, max_new_tokens=8)
    assert ours.prefix == TASK_SPECIFIC.get(task, {}).get("prefix", "")


def test_generation_config_of_the_checkpoint(edited: Callable[..., Path]) -> None:
    ours, theirs = both(
        "text2text-generation", edited(generation_config={"max_length": 9, "no_repeat_ngram_size": 2})
    )
    assert ours(SENTENCES) == theirs(SENTENCES)


def test_truncation(edited: Callable[..., Path], ours: Any) -> None:
    mine, theirs = both("text2text-generation", edited(tokenizer_config={"model_max_length": 6}))
    options = {"truncation": True, "max_new_tokens": 8}
    assert mine(SENTENCES, **options) == theirs(SENTENCES, **options) != ours(SENTENCES, max_new_tokens=8)


def test_objects(mvp: Path) -> None:
    model = seq2seq_zoo.AutoModelForSeq2SeqLM.from_pretrained(mvp)
    tokenizer = seq2seq_zoo.AutoTokenizer.from_pretrained(mvp)
    ours = seq2seq_zoo.pipeline("summarization", model=model, tokenizer=tokenizer)
    theirs = transformers.pipeline("summarization", str(mvp), device="cpu")
    assert ours(SENTENCES, max_new_tokens=5) == theirs(SENTENCES, max_new_tokens=5)
    assert ours.model is model
