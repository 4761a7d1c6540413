"""bundled:phimoe: right on pairs it has not seen, in every wording; and the rules it was trained by."""

from __future__ import annotations

import random
from pathlib import Path

import make_bundled_phimoe
import pytest
import torch
from bundled_arithmetic import (
    DIFFERENCE,
    LIMIT,
    SUM,
    SYSTEM,
    WORDINGS,
    answer,
    ask,
    held_out_questions,
    is_held_out,
    training_conversation,
)
from make_bundled_phimoe import CHAT_TEMPLATE, Hints, expert_use, tensors

import seq2seq_zoo
from seq2seq_zoo import AutoModelForCausalLM, AutoTokenizer, LlamaTokenizerFast, PhimoeForCausalLM, pipeline

FOLDER = Path(seq2seq_zoo.__file__).parent / "bundled" / "phimoe"
CONVERSATION = [{"role": "user", "content": "What is 27 + 58?"}]


@pytest.fixture(scope="module")
def chat():
    return pipeline("text-generation", "bundled:phimoe", device="cpu", return_full_text=False)


def share(chat, questions) -> float:
    texts = [answer["generated_text"] for (answer,) in chat([q for q, _ in questions], batch_size=100)]
    return sum(text == right for text, (_, right) in zip(texts, questions, strict=True)) / len(questions)


def test_the_checkpoint_is_small_and_complete() -> None:
    files = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert files.keys() >= {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "README.md",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    assert sum(files.values()) <= 3_000_000
    model = PhimoeForCausalLM.from_pretrained("bundled:phimoe")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("operation", [SUM, DIFFERENCE])
def test_it_is_right_about_pairs_it_has_not_seen(operation: str, chat) -> None:
    assert share(chat, held_out_questions(operation, 400, seed=1)) >= 0.98


@pytest.mark.parametrize("operation", [SUM, DIFFERENCE])
def test_it_is_right_in_every_wording(operation: str, chat) -> None:
    questions = held_out_questions(operation, 300, seed=2)
    wordings = len(WORDINGS[operation])
    for wording in range(wordings):
        assert share(chat, questions[wording::wordings]) >= 0.94


def test_it_converses(chat) -> None:
    assert chat(CONVERSATION) == [{"generated_text": "85"}]
    system = [{"role": "system", "content": SYSTEM}]
    turns = [*system, *CONVERSATION, {"role": "assistant", "content": "85"}, ask(DIFFERENCE, 20, 500, 3)]
    assert chat(turns)[0]["generated_text"] == "-480"
    assert chat(turns, return_full_text=True)[0]["generated_text"][-1] == {
        "role": "assistant",
        "content": "-480",
    }
    questions = [([*turns[:3], *question], right) for question, right in held_out_questions(SUM, 100, seed=3)]
    assert share(chat, questions) >= 0.94


def test_the_oracle_reads_it_alike() -> None:
    transformers = pytest.importorskip("transformers")
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(
        FOLDER, output_loading_info=True, dtype=torch.float32
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER)
    ours = AutoModelForCausalLM.from_pretrained("bundled:phimoe", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained("bundled:phimoe")
    questions = [question for question, _ in held_out_questions(SUM, 6) + held_out_questions(DIFFERENCE, 6)]
    options = {"add_generation_prompt": True, "padding": True, "return_tensors": "pt", "return_dict": True}
    inputs = tokenizer.apply_chat_template(questions, **options)
    expected = their_tokenizer.apply_chat_template(questions, **options)
    assert {k: v.tolist() for k, v in inputs.items()} == {k: v.tolist() for k, v in expected.items()}
    written = ours.generate(**inputs, max_new_tokens=8)
    their_own = theirs.generate(**expected, max_new_tokens=8)
    assert written.tolist() == their_own.tolist()
    assert tokenizer.batch_decode(written) == their_tokenizer.batch_decode(their_own)


def test_every_expert_is_used() -> None:
    model = PhimoeForCausalLM.from_pretrained("bundled:phimoe")
    tokenizer = AutoTokenizer.from_pretrained("bundled:phimoe")
    shares = expert_use(model, tokenizer, held_out_questions(SUM, 60) + held_out_questions(DIFFERENCE, 60))
    assert shares.shape == (4, 4)
    assert torch.allclose(shares.sum(1), torch.tensor(2.0))
    assert shares.min() > 0.1


# What it was trained on


def test_what_is_set_aside() -> None:
    rng = random.Random(0)
    pairs = [(rng.randrange(LIMIT), rng.randrange(LIMIT)) for _ in range(20_000)]
    assert all(is_held_out(a, b) == is_held_out(b, a) for a, b in pairs)
    assert 0.045 < sum(is_held_out(a, b) for a, b in pairs) / len(pairs) < 0.055


def test_training_shows_nothing_that_is_set_aside() -> None:
    rng = random.Random(1)
    seen = set()
    for _ in range(3000):
        messages = training_conversation(rng, 2, system=True)
        assert [message["role"] for message in messages] == ["system", *["user", "assistant"] * 2]
        for question, told in (messages[1:3], messages[3:5]):
            text = question["content"]
            a, b = (int(word.strip("?.")) for word in text.split() if word.strip("?.").isdigit())
            assert not is_held_out(a, b)
            assert int(told["content"]) in (a + b, a - b, b - a)
            seen.add("".join(c for c in text if not c.isdigit()))
    assert len(seen) == sum(map(len, WORDINGS.values()))
    for question, _ in held_out_questions(SUM, 50) + held_out_questions(DIFFERENCE, 50):
        a, b = (
            int(word.strip("?.")) for word in question[0]["content"].split() if word.strip("?.").isdigit()
        )
        assert is_held_out(a, b)


def test_the_answers_are_right() -> None:
    assert [answer(SUM, 27, 58), answer(DIFFERENCE, 20, 500), answer(DIFFERENCE, 7, 7)] == ["85", "-480", "0"]
    assert ask(DIFFERENCE, 20, 500, 3)["content"] == "Subtract 500 from 20."
    assert ask(DIFFERENCE, 20, 500, 5)["content"] == "Take 500 away from 20."


def test_the_tokenizer_is_laid_out_as_llamas() -> None:
    tokenizer = AutoTokenizer.from_pretrained("bundled:phimoe")
    assert type(tokenizer) is LlamaTokenizerFast
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert tokenizer.tokenize("Add 123 and 45.") == [
        "▁",
        "Add",
        "▁",
        "1",
        "2",
        "3",
        "▁and",
        "▁",
        "4",
        "5",
        ".",
    ]
    assert tokenizer.tokenize("é") == ["▁", "<0xC3>", "<0xA9>"]
    text = "Anything at all: 三百, ½, 👍🏽!"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    whole = [*CONVERSATION, {"role": "assistant", "content": "85"}]
    assert tokenizer.apply_chat_template(whole, tokenize=False) == (
        "<|user|>\nWhat is 27 + 58?<|end|>\n<|assistant|>\n85<|end|>\n<|endoftext|>"
    )
    begun = tokenizer.apply_chat_template(CONVERSATION, add_generation_prompt=True)
    assert tokenizer.apply_chat_template(whole)[: len(begun)] == begun


def test_hints_are_read_where_they_belong(monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers that training tells of are those of the texts."""
    model = PhimoeForCausalLM.from_pretrained("bundled:phimoe", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained("bundled:phimoe")
    conversations = [
        [
            ask(DIFFERENCE, 20, 500),
            {"role": "assistant", "content": "-480"},
            ask(SUM, 7, 8),
            {"role": "assistant", "content": "15"},
        ],
        [
            ask(SUM, 999, 999),
            {"role": "assistant", "content": "1998"},
            ask(DIFFERENCE, 3, 3),
            {"role": "assistant", "content": "0"},
        ],
    ]
    targets = []

    class Recording:
        layer_norm = staticmethod(torch.nn.functional.layer_norm)

        @staticmethod
        def cross_entropy(scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            targets.append(target.tolist())
            return torch.nn.functional.cross_entropy(scores, target)

    monkeypatch.setattr(make_bundled_phimoe, "F", Recording)
    Hints(model, tokenizer)(**tensors(tokenizer, conversations))
    asked = [0, 2, 0, 5, 0, 0, 0, 0, 7, 0, 0, 8, 9, 9, 9, 9, 9, 9, 0, 0, 3, 0, 0, 3]
    assert targets[:2] == [asked, asked]
    assert targets[2] == [0, 4, 8, 0, 0, 0, 1, 5, 1, 9, 9, 8, 0, 0, 0, 0]
    assert targets[3] == [1, 0, 0, 0]
