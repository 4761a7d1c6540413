"""Small models of every family, random and in eval mode."""

import copy

import pytest
import torch

import seq2seq_zoo as zoo

LENGTH = 7


def _mt5():
    return zoo.MT5ForConditionalGeneration(
        zoo.MT5Config(vocab_size=640, d_model=64, d_kv=16, d_ff=96, num_layers=2, num_heads=3)
    )


def _mvp(**fields):
    sizes = {"encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    config = zoo.MvpConfig(vocab_size=320, d_model=64, max_position_embeddings=64, **sizes, **heads, **fields)
    return zoo.MvpForConditionalGeneration(config)


def _bert2bert():
    sizes = {"vocab_size": 320, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 96, "max_position_embeddings": 64}
    config = zoo.EncoderDecoderConfig.from_encoder_decoder_configs(
        zoo.BertGenerationConfig(**sizes),
        zoo.BertGenerationConfig(**sizes, is_decoder=True, add_cross_attention=True),
    )
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 2, 0, 1
    return zoo.EncoderDecoderModel(config)


def _mega():
    config = zoo.MegaConfig(
        vocab_size=320,
        hidden_size=64,
        num_hidden_layers=2,
        intermediate_size=96,
        nffn_hidden_size=96,
        shared_representation_size=32,
        ema_projection_size=4,
        max_positions=64,
        is_decoder=True,
        bidirectional=False,
    )
    return zoo.MegaForCausalLM(config)


def _phimoe():
    sizes = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4}
    return zoo.PhimoeForCausalLM(zoo.PhimoeConfig(**sizes, max_position_embeddings=64))


BUILDERS = {
    "mt5": _mt5,
    "mvp": _mvp,
    "mvp-prompt": lambda: _mvp(use_prompt=True, prompt_length=5, prompt_mid_dim=32),
    "bert2bert": _bert2bert,
    "mega": _mega,
    "phimoe": _phimoe,
}
FAMILIES = list(BUILDERS)


@pytest.fixture(scope="session")
def built():
    made = {}
    for name, build in BUILDERS.items():
        torch.manual_seed(0)
        made[name] = build().eval()
    return made


@pytest.fixture
def model(built, request):
    """A copy of the family's model, free to be changed."""
    return copy.deepcopy(built[request.param])


def arguments(model, rows=2, length=LENGTH):
    """Keyword arguments of a forward pass."""
    ids = torch.randint(3, 300, (rows, length), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, -2:] = 0
    if model.config.is_encoder_decoder:
        return {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": ids[:, :4]}
    return {"input_ids": ids, "attention_mask": mask.flip(1)}


def logits(model, **kwargs):
    with torch.no_grad():
        return model(**arguments(model, **kwargs)).logits
