"""Tiny models of every family: lively, so that texts differ; in float64, so that rounding decides nothing."""

from __future__ import annotations

import functools

import torch

import seq2seq_zoo as zoo
from seq2seq_zoo.generation import GenerationConfig

V = 40
PAD, EOS, START = 1, 2, 3
TOKENS = {"pad_token_id": PAD, "eos_token_id": EOS, "bos_token_id": START, "decoder_start_token_id": START}
MVP = {
    "vocab_size": V,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "max_position_embeddings": 64,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "prompt_length": 3,
    "prompt_mid_dim": 7,
    "forced_eos_token_id": None,
}
MT5 = {"vocab_size": V, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 3}
BERT = {
    "vocab_size": V,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
}
MEGA = {
    "vocab_size": V,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "intermediate_size": 10,
    "nffn_hidden_size": 14,
    "ema_projection_size": 3,
    "shared_representation_size": 6,
    "is_decoder": True,
    "bidirectional": False,
}
PHIMOE = {
    "vocab_size": V,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 20,
    "num_key_value_heads": 2,
    "num_local_experts": 3,
    "max_position_embeddings": 64,
}
LONG = {
    "max_position_embeddings": 64,
    "original_max_position_embeddings": 12,
    "rope_scaling": {
        "type": "longrope",
        "short_factor": [1.0, 1.5],
        "long_factor": [2.0, 7.0],
        "short_mscale": 1.1,
        "long_mscale": 1.3,
        "original_max_position_embeddings": 12,
    },
}


def _pair():
    encoder = zoo.BertGenerationEncoder(zoo.BertGenerationConfig(**BERT))
    decoder = zoo.BertGenerationDecoder(
        zoo.BertGenerationConfig(**BERT, is_decoder=True, add_cross_attention=True)
    )
    return zoo.EncoderDecoderModel(encoder=encoder, decoder=decoder)


MAKE = {
    "mvp": lambda: zoo.MvpForConditionalGeneration(zoo.MvpConfig(**MVP)),
    "mvp with prompts": lambda: zoo.MvpForConditionalGeneration(zoo.MvpConfig(**MVP, use_prompt=True)),
    "mt5": lambda: zoo.MT5ForConditionalGeneration(zoo.MT5Config(**MT5)),
    "bert pair": _pair,
    "bert": lambda: zoo.BertGenerationDecoder(zoo.BertGenerationConfig(**BERT, is_decoder=True)),
    "mvp decoder": lambda: zoo.MvpForCausalLM(zoo.MvpConfig(**MVP)),
    "mega": lambda: zoo.MegaForCausalLM(zoo.MegaConfig(**MEGA)),
    "mega in chunks": lambda: zoo.MegaForCausalLM(zoo.MegaConfig(**MEGA, use_chunking=True, chunk_size=4)),
    "phimoe": lambda: zoo.PhimoeForCausalLM(zoo.PhimoeConfig(**PHIMOE)),
    "long phimoe": lambda: zoo.PhimoeForCausalLM(zoo.PhimoeConfig(**{**PHIMOE, **LONG})),
}
READS_A_SOURCE = ("mvp", "mvp with prompts", "mt5", "bert pair")


@functools.cache
def family(name, seed=0, scale=0.35):
    """The model of this name; another seed or scale makes another, which may assist it."""
    torch.manual_seed(seed)
    model = MAKE[name]().double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if parameter.dim() > 1:
                parameter.copy_(noise * scale)
            elif "norm" not in key:
                parameter.add_(noise * 0.1)
    model.generation_config = GenerationConfig(**TOKENS)
    return model


def like(name, strength=0.15):
    """A model that often agrees with `family(name)`: the same with noise."""
    return _noisy(name, strength)


@functools.cache
def _noisy(name, strength):
    model = family.__wrapped__(name)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(noise * strength * parameter.abs().mean())
    return model


def ragged(name, lengths=(7, 4, 2), seed=0):
    """Ids [rows, longest] and their mask, padded as the family needs it: a source behind, a prompt before."""
    generator = torch.Generator().manual_seed(seed)
    longest = max(lengths)
    ids, mask = torch.full((len(lengths), longest), PAD), torch.zeros(len(lengths), longest, dtype=torch.long)
    for row, length in enumerate(lengths):
        where = slice(length) if name in READS_A_SOURCE else slice(longest - length, None)
        ids[row, where] = torch.randint(4, V, (length,), generator=generator)
        mask[row, where] = 1
    return ids, mask


class Counting:
    """A model whose passes are counted, with the positions that each was asked to score."""

    def __init__(self, model):
        self.model, self.passes = model, []

    def __getattr__(self, name):
        return getattr(self.model, name)

    def begin_decoding(self, inputs, **options):
        decoding = self.model.begin_decoding(inputs, **options)
        step = decoding.step

        def counted(ids, *, last=None, **flags):
            self.passes.append(last)
            return step(ids, last=last, **flags)

        decoding.step = counted
        return decoding
