"""bundled:mega-text and the grammar it was made from: the grammar has what it should and nothing else, the
model writes its sentences, cached and not, and the oracle agrees."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import bundled_grammar
import pytest
import torch
from bundled_grammar import accepts
from make_bundled_mega_text import written

import seq2seq_zoo
from seq2seq_zoo import MegaForCausalLM, RobertaTokenizer
from tests.mega_oracle import needs_mega

FOLDER = Path(seq2seq_zoo.__file__).parent / "bundled" / "mega-text"


@pytest.mark.parametrize(
    "sentence",
    [
        "the dog sleeps.",
        "many old owls see an ant.",
        "the singer who the owls see thinks that a lamp shines.",
        "every singer who thinks that the mice that the fox bites run laughs today.",
        "the old singer who the owls that chase a mouse see thinks that every lamp shines.",
        "an ice cube that covers some knives falls.",
    ],
)
def test_sentences_of_the_grammar(sentence: str) -> None:
    assert accepts(sentence)


@pytest.mark.parametrize(
    "sentence",
    [
        "the dog sleep.",  # number
        "the dogs sleeps.",
        "these dog sleeps.",
        "every dogs sleep.",
        "a owl sleeps.",  # the article and the word that follows
        "an dog sleeps.",
        "a old dog sleeps.",
        "the dog who sees an ant sleeps.",  # the pronoun
        "the singer that sleeps runs.",
        "the singer who the owl see laughs.",  # number within a clause
        "the owls that the singer sees sleeps.",  # and over it
        "the lamp sleeps.",  # kinds
        "the dog shines.",
        "the dog thinks that the lamp shines.",
        "the singer who the owls see the ant laughs.",  # nothing is missing in the clause
        "the singer sees.",
        "the singer thinks.",
        "the dog sleeps",
        "the  dog sleeps.",
        "the dog sleeps..",
        "",
        ".",
        "the dog that.",
    ],
)
def test_sentences_it_does_not_have(sentence: str) -> None:
    assert not accepts(sentence)


def test_what_is_drawn_is_accepted_and_little_else() -> None:
    rng = random.Random(0)
    sentences = [bundled_grammar.draw(rng) for _ in range(400)]
    assert all(map(accepts, sentences))
    words = sorted({word for sentence in sentences for word in sentence[:-1].split()})
    spoilt = []
    for sentence in sentences:
        changed = sentence[:-1].split()
        changed[rng.randrange(len(changed))] = rng.choice(words)
        spoilt.append(accepts(" ".join(changed) + "."))
    assert sum(spoilt) / len(spoilt) < 0.12


@pytest.fixture(scope="module")
def mega_text() -> tuple[Any, Any]:
    where = "bundled:mega-text"
    return MegaForCausalLM.from_pretrained(where), RobertaTokenizer.from_pretrained(where)


def test_the_checkpoint_is_small_and_complete() -> None:
    files = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert files.keys() >= {"config.json", "model.safetensors", "README.md", "vocab.json", "merges.txt"}
    assert sum(files.values()) <= 1_500_000


def test_mega_text_writes_sentences_of_the_grammar(mega_text: tuple[Any, Any]) -> None:
    sentences = written(*mega_text, 200, seed=11)
    assert sum(map(accepts, sentences)) / 200 >= 0.9
    assert len(set(sentences)) >= 180
    lengths = [len(mega_text[1](sentence)["input_ids"]) for sentence in sentences]
    assert max(lengths) > mega_text[0].config.chunk_size  # some go over the borders of chunks


@pytest.mark.parametrize("beginning", ["the owls that the singer", "every farmer who the"])
def test_mega_text_goes_on_from_a_beginning(mega_text: tuple[Any, Any], beginning: str) -> None:
    """With and without a cache, greedily and with beams."""
    model, tokenizer = mega_text
    prompt = tokenizer(beginning, return_tensors="pt").input_ids[:, :-1]
    for how in ({}, {"num_beams": 4}):
        ids = model.generate(prompt, max_length=48, **how)
        assert torch.equal(ids, model.generate(prompt, max_length=48, use_cache=False, **how))
        text = tokenizer.decode(ids[0], skip_special_tokens=True).strip()
        assert text.startswith(beginning)
        assert how or accepts(text), text  # beams look for likely sentences, which nest in circles


@needs_mega
def test_the_oracle_expects_the_same_words(mega_text: tuple[Any, Any]) -> None:
    import transformers

    theirs, report = transformers.MegaForCausalLM.from_pretrained(FOLDER, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    model, tokenizer = mega_text
    ids = tokenizer(bundled_grammar.draw(random.Random(8)), return_tensors="pt").input_ids
    padded = torch.nn.functional.pad(ids, (0, -ids.shape[1] % model.config.chunk_size), value=1)
    with torch.no_grad():
        expected = theirs.eval()(padded, attention_mask=(padded != 1).long()).logits[:, : ids.shape[1]]
        torch.testing.assert_close(model(ids).logits, expected, rtol=1e-3, atol=1e-3)


def test_words_are_tokens(mega_text: tuple[Any, Any]) -> None:
    tokenizer = mega_text[1]
    counts = Counter(
        len(tokenizer.tokenize(word))
        for _ in range(50)
        for word in bundled_grammar.draw(random.Random(5))[:-1].split()
    )
    assert counts[1] / counts.total() > 0.9
