"""Tiny checkpoints with tokenizers, random but talkative: what they write depends on what they read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
import torch
from tokenizers import ByteLevelBPETokenizer

import seq2seq_zoo
from tests.oracle import randomise

SENTENCES = [
    "the quick brown fox jumps over the lazy dog",
    "Iron Man is a fictional superhero, and Stan Lee created him.",
    "describe the following data: Stan Lee | creator | Iron Man",
    "summarize: plants make their food from light, water and air.",
    "Die Pflanzen wachsen. Les plantes poussent. Растения растут.",
]

NO_END = {"suppress_tokens": [1]}
"""The option for mT5 that forbids the end token: an answer is as long as it may be."""


def save_mt5(folder: Path, **config: Any) -> Path:
    """A tiny mT5 with untied head; `config` are further fields."""
    folder.mkdir()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_prefix=str(folder / "spiece"),
        vocab_size=120,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    tokenizer = seq2seq_zoo.MT5TokenizerFast(vocab_file=str(folder / "spiece.model"), extra_ids=0)
    tokenizer.save_pretrained(folder)
    sizes = {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 3}
    fixed = {"vocab_size": len(tokenizer), "decoder_start_token_id": 0, "tie_word_embeddings": False}
    torch.manual_seed(0)
    model = seq2seq_zoo.MT5ForConditionalGeneration(seq2seq_zoo.MT5Config(**sizes, **fixed, **config))
    randomise(model, seed=2)
    model.save_pretrained(folder)
    return folder


def save_mvp(folder: Path) -> Path:
    """A tiny MVP with prompts, which reads 64 tokens at most."""
    folder.mkdir()
    bpe = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe.train_from_iterator(SENTENCES, vocab_size=400, special_tokens=special)
    bpe.save_model(str(folder))
    tokenizer = seq2seq_zoo.MvpTokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(1)
    config = seq2seq_zoo.MvpConfig(
        vocab_size=len(tokenizer),
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        max_position_embeddings=64,
        init_std=0.6,
        use_prompt=True,
        prompt_length=3,
        prompt_mid_dim=8,
    )
    seq2seq_zoo.MvpForConditionalGeneration(config).save_pretrained(folder)
    return folder


CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def save_phimoe(folder: Path) -> Path:
    """A tiny PhiMoE that reads 64 tokens at most, with a tokenizer.json and a chat template."""
    folder.mkdir()
    special = ["<unk>", "<s>", "</s>"]
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace("▁", "first")
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=420,
        show_progress=False,
        special_tokens=[*special, *(f"<0x{byte:02X}>" for byte in range(256))],
    )
    backend.train_from_iterator(SENTENCES, trainer)
    chat = [f"<|{name}|>" for name in ("end", "assistant", "system", "user")]
    backend.add_special_tokens([tokenizers.AddedToken(token, rstrip=True) for token in chat])
    steps = tokenizers.decoders
    backend.decoder = steps.Sequence(
        [steps.Replace("▁", " "), steps.ByteFallback(), steps.Fuse(), steps.Strip(" ", 1, 0)]
    )
    tokenizer = seq2seq_zoo.LlamaTokenizerFast(
        tokenizer_object=backend, pad_token="</s>", add_bos_token=False, chat_template=CHAT_TEMPLATE
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = seq2seq_zoo.PhimoeConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=3,
        max_position_embeddings=64,
        pad_token_id=2,
    )
    model = seq2seq_zoo.PhimoeForCausalLM(config)
    randomise(model, seed=3, scale=0.6)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def phimoe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny PhiMoE with a chat template."""
    return save_phimoe(tmp_path_factory.mktemp("checkpoints") / "phimoe")


@pytest.fixture(scope="session")
def mt5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny mT5."""
    return save_mt5(tmp_path_factory.mktemp("checkpoints") / "mt5")


@pytest.fixture(scope="session")
def mvp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny MVP with prompts."""
    return save_mvp(tmp_path_factory.mktemp("checkpoints") / "mvp")


@pytest.fixture(scope="session")
def ours(mt5: Path) -> Any:
    """Our pipeline on the tiny mT5."""
    return seq2seq_zoo.pipeline("text2text-generation", mt5, device="cpu")
