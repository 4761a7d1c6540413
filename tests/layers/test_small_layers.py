"""Norms, feed-forward blocks, the input embedding and prefix prompts."""

import math

import pytest
import torch
from torch import nn
from transformers import MT5Config
from transformers.models.mt5.modeling_mt5 import MT5DenseActDense, MT5DenseGatedActDense, MT5LayerNorm
from transformers.models.mvp.modeling_mvp import MvpPrompt

from seq2seq_zoo.layers.activations import ACTIVATIONS
from seq2seq_zoo.layers.embedding import InputEmbedding, check_ids
from seq2seq_zoo.layers.feed_forward import FeedForward, GatedFeedForward
from seq2seq_zoo.layers.norms import LayerNorm, RMSNorm
from seq2seq_zoo.layers.positions import LearnedPositions
from seq2seq_zoo.layers.prefix import PrefixPrompt
from tests.layers.formulas import affine
from tests.oracle import float64, randomise, relative_error

# ---- norms ----


@pytest.mark.parametrize("eps", [1e-6, 0.1])
def test_rms_norm_is_the_formula(eps):
    norm = RMSNorm(5, eps=eps)
    randomise(norm)
    x = torch.randn(2, 3, 5)
    expected = torch.empty_like(x)
    for b in range(2):
        for i in range(3):
            root = math.sqrt(sum(float(v) ** 2 for v in x[b, i]) / 5 + eps)
            expected[b, i] = torch.stack([norm.weight[d] * x[b, i, d] / root for d in range(5)])
    assert relative_error(norm(x), expected) <= 1e-12


def test_rms_norm_equals_the_oracles():
    """The oracle takes the mean square in float32: to 1e-7 as it is, to 1e-12 with that lifted."""
    ours, theirs = RMSNorm(5), MT5LayerNorm(5)
    randomise(ours)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 5)
    assert relative_error(ours(x), theirs(x)) <= 1e-7
    with float64():
        assert relative_error(ours(x), theirs(x)) <= 1e-12


@pytest.mark.parametrize("weight", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("stream", ["half", "float32"])
def test_rms_norm_in_half_precision(weight, stream):
    """300² overflows float16; the mean square is taken in float32. Tolerance: two roundings to the weight's
    dtype."""
    norm = RMSNorm(64).to(weight)
    x = (torch.randn(3, 64) * 300).to(weight)
    x = x.float() if stream == "float32" else x
    y = norm(x)
    expected = x.double() / torch.sqrt(x.double().square().mean(-1, keepdim=True) + 1e-6)
    assert y.dtype == weight
    assert relative_error(y.double(), expected) <= 2 * torch.finfo(weight).eps


def test_layer_norm_is_the_formula():
    norm = LayerNorm(5, eps=0.01)
    randomise(norm)
    x = torch.randn(2, 3, 5)
    mean = x.sum(-1, keepdim=True) / 5
    variance = (x - mean).square().sum(-1, keepdim=True) / 5
    expected = norm.weight * (x - mean) / (variance + 0.01).sqrt() + norm.bias
    assert relative_error(norm(x), expected) <= 1e-12


@pytest.mark.parametrize("weight", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [1.0, 1e5])
def test_layer_norm_takes_a_stream_wider_than_its_weights(weight, size):
    """Also one that float16 cannot hold. Tolerance: one rounding to the weight's dtype."""
    norm = LayerNorm(64)
    randomise(norm)
    norm = norm.to(weight)
    exact = LayerNorm(64)
    exact.load_state_dict(norm.state_dict())
    x = (torch.randn(3, 64) * size).float()
    y = norm(x)
    assert y.dtype == weight
    assert relative_error(y.double(), exact(x.double())) <= torch.finfo(weight).eps


# ---- feed-forward ----


@pytest.mark.parametrize("bias", [False, True])
def test_feed_forward_is_the_formula(bias):
    block = FeedForward(4, 7, torch.tanh, bias=bias)
    randomise(block)
    x = torch.randn(2, 3, 4)
    assert relative_error(block(x), affine(block.down, affine(block.up, x).tanh())) <= 1e-12


@pytest.mark.parametrize("bias", [False, True])
def test_gated_feed_forward_is_the_formula(bias):
    block = GatedFeedForward(4, 7, torch.tanh, bias=bias)
    randomise(block)
    x = torch.randn(2, 3, 4)
    hidden = affine(block.gate, x).tanh() * affine(block.up, x)
    assert relative_error(block(x), affine(block.down, hidden)) <= 1e-12


@pytest.mark.parametrize("kind", ["relu", "gated-gelu", "gated-silu"])
def test_feed_forward_equals_the_oracles(kind):
    config = MT5Config(d_model=6, d_ff=9, feed_forward_proj=kind, dropout_rate=0.0)
    activation = ACTIVATIONS[config.dense_act_fn]
    if config.is_gated_act:
        theirs, ours = MT5DenseGatedActDense(config), GatedFeedForward(6, 9, activation)
        pairs = {"gate": "wi_0", "up": "wi_1", "down": "wo"}
    else:
        theirs, ours = MT5DenseActDense(config), FeedForward(6, 9, activation, bias=False)
        pairs = {"up": "wi", "down": "wo"}
    randomise(theirs)
    for mine, other in pairs.items():
        getattr(ours, mine).load_state_dict(getattr(theirs, other).state_dict())
    x = torch.randn(2, 3, 6)
    assert relative_error(ours(x), theirs(x)) <= 1e-12


@pytest.mark.parametrize("make", [FeedForward, GatedFeedForward])
def test_dropout_acts_on_the_hidden_numbers_in_training_alone(make):
    block = make(4, 7, torch.tanh, dropout=0.5)
    randomise(block)
    x = torch.randn(2, 3, 4)
    calm = block.eval()(x)
    torch.manual_seed(1)
    shaken = block.train()(x)
    hidden = block.up(x).tanh() if make is FeedForward else block.gate(x).tanh() * block.up(x)
    torch.manual_seed(1)
    assert relative_error(shaken, block.down(nn.functional.dropout(hidden, 0.5))) <= 1e-12
    assert relative_error(shaken, calm) > 0.01


@pytest.mark.parametrize("down", [torch.float16, torch.float32])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", ["gated", "squared"])
def test_a_product_beyond_float16_stays_finite(down, bias, kind):
    """Hidden numbers near 400: their products, near 160,000, are beyond float16's 65,504.

    Tolerance: every hidden number is the product of two that were rounded to float16, 2⁻¹¹ each.
    """
    make, activation = {
        "gated": (GatedFeedForward, ACTIVATIONS["relu"]),
        "squared": (FeedForward, ACTIVATIONS["relu2"]),
    }[kind]
    block = make(4, 8, activation, bias=bias)
    randomise(block)
    with torch.no_grad():
        for name in {"gated": ("up", "gate"), "squared": ("up",)}[kind]:
            getattr(block, name).weight.abs_().add_(1.0)
    half = block.half()
    block_in_float32 = make(4, 8, activation, bias=bias).float()
    block_in_float32.load_state_dict(half.state_dict())
    half.down.to(down)
    x = torch.full((1, 2, 4), 75.0, dtype=torch.float16)

    hidden = activation(half.up(x)) if kind == "squared" else activation(half.gate(x)) * half.up(x)
    assert hidden.isinf().any(), "in float16 throughout, the product overflows"
    y = half(x)
    assert y.dtype == torch.float32
    assert y.isfinite().all()
    assert relative_error(y, block_in_float32(x.float())) <= 2**-9


@pytest.mark.parametrize("make", [FeedForward, GatedFeedForward])
def test_bfloat16_stays_bfloat16(make):
    block = make(4, 8, torch.tanh)
    randomise(block)
    x = torch.randn(2, 3, 4)
    expected = block(x)
    y = block.bfloat16()(x.bfloat16())
    assert y.dtype == torch.bfloat16
    assert relative_error(y.double(), expected) <= 2**-5


# ---- input embedding ----


def embedding(**options):
    made = InputEmbedding(nn.Embedding(11, 4), **options)
    randomise(made)
    return made.eval()


def test_input_embedding_is_the_formula():
    made = embedding(positions=LearnedPositions(9, 4, offset=2), norm=nn.LayerNorm(4, eps=1e-5), scale=2.0)
    ids = torch.tensor([[3, 0, 10], [5, 5, 1]])
    for start in (0, 4):
        x = torch.stack(
            [
                torch.stack(
                    [
                        2.0 * made.tokens.weight[t] + made.positions.weight[2 + start + i]
                        for i, t in enumerate(row)
                    ]
                )
                for row in ids
            ]
        )
        mean = x.mean(-1, keepdim=True)
        unit = (x - mean) / torch.sqrt((x - mean).square().mean(-1, keepdim=True) + 1e-5)
        expected = made.norm.weight * unit + made.norm.bias
        assert relative_error(made(ids, start=start), expected) <= 1e-12


def test_vectors_stand_for_tokens_unscaled_and_win():
    made = embedding(scale=2.0)
    ids, vectors = torch.tensor([[3, 0]]), torch.randn(1, 2, 4)
    assert torch.equal(made(None, vectors), vectors)
    assert torch.equal(made(ids, vectors), vectors)
    assert torch.equal(made(None, made.vectors(ids)), made(ids))
    assert torch.equal(made(ids), 2.0 * made.tokens.weight[ids])


def test_neither_ids_nor_vectors():
    with pytest.raises(ValueError, match="neither ids nor vectors were given"):
        embedding()(None)


@pytest.mark.parametrize(("ids", "found"), [([[0, 11]], 11), ([[-1, 3]], -1), ([[-100, 50]], -100)])
def test_ids_outside_the_vocabulary(ids, found):
    with pytest.raises(ValueError, match=rf"input_ids holds the id {found}; ids must be in 0 … 10"):
        embedding()(torch.tensor(ids))
    with pytest.raises(ValueError, match=rf"labels holds the id {found}"):
        check_ids(torch.tensor(ids), 11, "labels")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.uint8])
def test_ids_that_are_no_whole_numbers(dtype):
    with pytest.raises(ValueError, match=f"input_ids is of {dtype}; ids must be of torch.int64"):
        embedding()(torch.ones(1, 2, dtype=dtype))


@pytest.mark.parametrize("ids", [[[0, 10]], [[]]])
def test_ids_inside_the_vocabulary(ids):
    check_ids(torch.tensor(ids, dtype=torch.int64), 11)


# ---- prefix prompts ----


def test_prompt_is_the_formula():
    prompt = PrefixPrompt(3, 6, 5, layers=2, heads=2).eval()
    randomise(prompt)
    hidden = affine(prompt.up, prompt.embedding.weight)
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    flat = affine(prompt.down, hidden)  # [P, layers · (keys, values) · heads · 3]
    for layer, (keys, values) in enumerate(prompt()):
        for head in range(2):
            for i in range(3):
                at = layer * 12 + head * 3
                assert relative_error(keys[head, i], flat[i, at : at + 3]) <= 1e-12
                assert relative_error(values[head, i], flat[i, at + 6 : at + 9]) <= 1e-12
    assert prompt.length == 3


@pytest.mark.parametrize("training", [False, True])
def test_prompt_equals_the_oracles(training):
    class Config:
        prompt_length, d_model, prompt_mid_dim, dropout = 3, 6, 5, 0.4

    theirs = MvpPrompt(Config, num_layers=2, num_heads=2).train(training)
    randomise(theirs)
    ours = PrefixPrompt(3, 6, 5, layers=2, heads=2, dropout=0.4).train(training)
    ours.embedding.load_state_dict(theirs.prompt_embedding.state_dict())
    ours.up.load_state_dict(theirs.prompt_trans[0].state_dict())
    ours.down.load_state_dict(theirs.prompt_trans[2].state_dict())
    torch.manual_seed(5)
    expected = theirs(torch.arange(3))
    torch.manual_seed(5)
    made = ours()
    assert len(made) == len(expected) == 2
    for (keys, values), pair in zip(made, expected, strict=True):
        assert relative_error(keys, pair[0]) <= 1e-12
        assert relative_error(values, pair[1]) <= 1e-12
