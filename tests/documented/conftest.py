"""A hub cache that holds the repositories the documentation's examples name, with tiny random models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import sentencepiece
import tokenizers
import torch

import seq2seq_zoo
from tests.hub_cache import make_hub_cache
from tests.tokenization.tokenizer_cases import PHI_TEMPLATE

TEXT = """
Summarize: You may want to stick it to your boss and leave your job,
but don't do it if these are your reasons.
Describe the following data: Iron Man | instance of | Superhero [SEP] Stan Lee | creator | Iron Man
Studies have been shown that owning a dog is good for you. Studies show that a cute dog walks in the park.
Answer the following question: Who was Jim Henson? [SEP] Jim Henson was a nice puppet. Hello, my dog is cute.
HuggingFace is a company based in Paris and New York. Bad Reasons To Quit Your Job. Classify: hello world.
Plants are remarkable organisms that produce their own food using a method called photosynthesis.
This process involves converting sunlight, carbon dioxide, and water into glucose,
which provides energy for growth.
Plants play a crucial role in sustaining life on Earth by generating oxygen and serving as the foundation.
"""


def byte_level_bpe(folder: Path) -> int:
    """vocab.json and merges.txt as RoBERTa has them; returns the size of the vocabulary."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe = tokenizers.ByteLevelBPETokenizer()
    bpe.train_from_iterator(TEXT.splitlines(), vocab_size=500, min_frequency=1, special_tokens=special)
    bpe.save_model(str(folder))
    return int(bpe.get_vocab_size())


def unigram(folder: Path) -> int:
    """spiece.model as T5 has it, with 100 sentinels behind; returns the size of the vocabulary."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines() * 4),
        model_prefix=str(folder / "spiece"),
        vocab_size=150,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (folder / "spiece.vocab").unlink()
    return (
        sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model")).get_piece_size() + 100
    )


def mvp(folder: Path, **options: Any) -> None:
    vocabulary = byte_level_bpe(folder)
    size = {
        "vocab_size": vocabulary,
        "d_model": 16,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 24,
        "decoder_ffn_dim": 24,
        "max_position_embeddings": 128,
        "prompt_length": 4,
        "prompt_mid_dim": 6,
        "max_length": 30,
        "num_beams": 3,
    }
    seq2seq_zoo.MvpForConditionalGeneration(seq2seq_zoo.MvpConfig(**size, **options)).save_pretrained(folder)


def mt5(folder: Path) -> None:
    size = {
        "vocab_size": unigram(folder),
        "d_model": 16,
        "d_kv": 6,
        "d_ff": 24,
        "num_layers": 2,
        "num_heads": 2,
        "tokenizer_class": "T5Tokenizer",
    }
    seq2seq_zoo.MT5ForConditionalGeneration(seq2seq_zoo.MT5Config(**size)).save_pretrained(folder)


def mega(folder: Path) -> None:
    size = {
        "vocab_size": byte_level_bpe(folder),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "intermediate_size": 12,
        "shared_representation_size": 8,
        "nffn_hidden_size": 24,
        "ema_projection_size": 4,
        "use_chunking": True,
        "chunk_size": 8,
        "tokenizer_class": "RobertaTokenizer",
    }
    seq2seq_zoo.MegaForMaskedLM(seq2seq_zoo.MegaConfig(**size)).save_pretrained(folder)


def phimoe(folder: Path) -> None:
    """As microsoft/Phi-3.5-MoE-instruct: Llama's BPE, Phi's tokens and template, LongRoPE."""
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    backend.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
    )
    special = ["<unk>", "<s>", "</s>"]
    pieces = [*special, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=400, special_tokens=pieces, show_progress=False)
    backend.train_from_iterator(TEXT.splitlines(), trainer)
    added = {name: name not in ("endoftext",) for name in ("endoftext", "assistant", "system", "end", "user")}
    backend.add_special_tokens(
        [
            tokenizers.AddedToken(f"<|{name}|>", normalized=False, rstrip=strips)
            for name, strips in added.items()
        ]
    )
    steps = tokenizers.decoders
    backend.decoder = steps.Sequence(
        [steps.Replace("▁", " "), steps.ByteFallback(), steps.Fuse(), steps.Strip(" ", 1, 0)]
    )
    backend.save(str(folder / "tokenizer.json"))
    settings = {
        "add_bos_token": False,
        "bos_token": "<s>",
        "chat_template": PHI_TEMPLATE,
        "eos_token": "<|endoftext|>",
        "legacy": False,
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "LlamaTokenizer",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config = seq2seq_zoo.PhimoeConfig(
        vocab_size=backend.get_vocab_size(),
        hidden_size=16,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        max_position_embeddings=2048,
        attention_bias=True,
        lm_head_bias=True,
        rope_scaling={
            "type": "longrope",
            "short_factor": [1.0, 1.1],
            "long_factor": [1.0, 4.0],
            "short_mscale": 1.2,
            "long_mscale": 1.2,
            "original_max_position_embeddings": 512,
        },
    )
    seq2seq_zoo.PhimoeForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    cache = tmp_path_factory.mktemp("hub")
    repositories: dict[str, Any] = {
        "RUCAIBox/mvp": lambda folder: mvp(folder),
        "RUCAIBox/mvp-summarization": lambda folder: mvp(folder, use_prompt=True),
        "RUCAIBox/mtl-data-to-text": lambda folder: mvp(folder, use_prompt=True),
        "facebook/bart-large": lambda folder: mvp(folder),
        "FacebookAI/roberta-base": byte_level_bpe,
        "google/mt5-small": mt5,
        "csebuetnlp/mT5_multilingual_XLSum": mt5,
        "mnaylor/mega-base-wikitext": mega,
        "microsoft/Phi-3.5-MoE-instruct": phimoe,
    }
    for name, make in repositories.items():
        folder = tmp_path_factory.mktemp("repository")
        make(folder)
        config = folder / "config.json"
        if name == "facebook/bart-large":
            config.write_text(config.read_text().replace('"model_type": "mvp"', '"model_type": "bart"'))
        make_hub_cache(cache, name, folder)
    return cache


@pytest.fixture(autouse=True)
def offline(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
