"""The examples of the documentation of BertGeneration that need a pair and its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch

import seq2seq_zoo
from tests.documented.conftest import TEXT
from tests.hub_cache import make_hub_cache

NAME = "google/roberta2roberta_L-24_discofuse"


@pytest.fixture(scope="module", autouse=True)
def discofuse(hub: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A pair of tiny stacks, its tokenizer, and its wishes for generation, under the documented name."""
    folder = tmp_path_factory.mktemp("discofuse")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines() * 4),
        model_prefix=str(folder / "spiece"),
        vocab_size=150,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        minloglevel=2,
    )
    tokenizer = seq2seq_zoo.BertGenerationTokenizer(str(folder / "spiece.model"))
    size: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 64,
    }
    torch.manual_seed(0)
    encoder = seq2seq_zoo.BertGenerationEncoder(seq2seq_zoo.BertGenerationConfig(**size))
    decoder = seq2seq_zoo.BertGenerationDecoder(
        seq2seq_zoo.BertGenerationConfig(**size, is_decoder=True, add_cross_attention=True)
    )
    pair = seq2seq_zoo.EncoderDecoderModel(encoder=encoder, decoder=decoder)
    pair.generation_config.decoder_start_token_id = 2
    saved = tmp_path_factory.mktemp("saved")
    pair.save_pretrained(saved)
    tokenizer.save_pretrained(saved)
    make_hub_cache(hub, NAME, saved)


def test_pipeline() -> None:
    """As documented but for the device, which is not everywhere."""
    from seq2seq_zoo import pipeline

    fuse = pipeline(task="text2text-generation", model=NAME, dtype=torch.float16)
    written = fuse("Plants create energy through ")
    assert list(written[0]) == ["generated_text"]
    assert fuse.model.dtype == torch.float16


def test_pair() -> None:
    """As documented but for the quantization."""
    from seq2seq_zoo import AutoTokenizer, EncoderDecoderModel

    model = EncoderDecoderModel.from_pretrained(NAME, dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(NAME)
    assert isinstance(tokenizer, seq2seq_zoo.BertGenerationTokenizer)
    input_ids = tokenizer(
        "Plants create energy through ", add_special_tokens=False, return_tensors="pt"
    ).input_ids
    outputs = model.generate(input_ids)
    assert outputs[0, 0] == 2
    assert isinstance(tokenizer.decode(outputs[0]), str)
