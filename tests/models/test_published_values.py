"""Figures that the released checkpoints give. Needs the hub: set SEQ2SEQ_ZOO_HUB=1 to run them."""

from __future__ import annotations

import os

import pytest
import torch

import seq2seq_zoo

pytestmark = [
    pytest.mark.hub,
    pytest.mark.skipif(os.environ.get("SEQ2SEQ_ZOO_HUB") != "1", reason="needs the hub (SEQ2SEQ_ZOO_HUB=1)"),
]


def test_mt5_small_scores_a_text() -> None:
    tokenizer = seq2seq_zoo.AutoTokenizer.from_pretrained("google/mt5-small")
    model = seq2seq_zoo.MT5ForConditionalGeneration.from_pretrained("google/mt5-small")
    source = tokenizer("Hello there", return_tensors="pt").input_ids
    labels = tokenizer("Hi I am", return_tensors="pt").input_ids
    with torch.no_grad():
        loss = model(source, labels=labels).loss
    assert -labels.shape[-1] * loss.item() == pytest.approx(-84.9127, abs=1e-4)


def test_mvp_hidden_vectors() -> None:
    model = seq2seq_zoo.MvpModel.from_pretrained("RUCAIBox/mvp")
    ids = torch.tensor([[0, 31414, 232, 328, 740, 1140, 12695, 69, 46078, 1588, 2]])
    with torch.no_grad():
        found = model(ids, attention_mask=ids.ne(1)).last_hidden_state
    expected = torch.tensor([[0.3461, 0.3624, 0.2689], [0.3461, 0.3624, 0.2689], [-0.1562, 1.1637, -0.3784]])
    assert found.shape == (1, 11, 1024)
    torch.testing.assert_close(found[0, :3, :3], expected, atol=1e-3, rtol=1e-3)


def test_mvp_writes_the_documented_sentences() -> None:
    tokenizer = seq2seq_zoo.MvpTokenizer.from_pretrained("RUCAIBox/mvp")
    asked = (
        "Summarize: You may want to stick it to your boss and leave your job, but don't do it if these are "
        "your reasons."
    )
    data = (
        "Describe the following data: Iron Man | instance of | Superhero [SEP] Stan Lee | creator | Iron Man"
    )
    documented = [
        ("RUCAIBox/mvp", asked, "Why You Shouldn't Quit Your Job"),
        ("RUCAIBox/mvp-summarization", asked, "Don't do it if these are your reasons"),
        (
            "RUCAIBox/mvp",
            data,
            "Stan Lee created the character of Iron Man, a fictional superhero appearing in American comic",
        ),
        (
            "RUCAIBox/mtl-data-to-text",
            data,
            "Iron Man is a fictional superhero appearing in American comic books published by Marvel Comics.",
        ),
    ]
    for repository, text, expected in documented:
        model = seq2seq_zoo.MvpForConditionalGeneration.from_pretrained(repository)
        written = model.generate(**tokenizer(text, return_tensors="pt"))
        assert tokenizer.batch_decode(written, skip_special_tokens=True) == [expected]


def test_phimoe_scores_a_text() -> None:
    """84 GB of weights, memory-mapped."""
    model = seq2seq_zoo.PhimoeForCausalLM.from_pretrained("microsoft/Phi-3.5-MoE-instruct")
    ids = torch.tensor([[1212, 318, 281, 1672, 2643, 290, 428, 318, 257, 1332]])
    with torch.no_grad():
        found = model(ids).logits[0, 0, :5].float()
    expected = torch.tensor([-3.5312, -2.5000, -1.2734, 0.3555, -0.7578])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
