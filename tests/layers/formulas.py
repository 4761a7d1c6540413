"""What the layers compute, written a second time: number by number where that is short, and tiny stacks."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from seq2seq_zoo.layers.attention import Attention
from seq2seq_zoo.layers.embedding import InputEmbedding
from seq2seq_zoo.layers.feed_forward import FeedForward, GatedFeedForward
from seq2seq_zoo.layers.norms import LayerNorm, RMSNorm
from seq2seq_zoo.layers.positions import LearnedPositions, RelativePositionBias
from seq2seq_zoo.layers.prefix import Prefix, PrefixPrompt
from seq2seq_zoo.layers.transformer import Stack, TransformerLayer
from tests.oracle import randomise

VOCABULARY, WIDTH, HEADS, HEAD_DIM, HIDDEN, POSITIONS = 13, 6, 2, 3, 8, 40


def attention_by_loops(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Mixed values [B, H, L, E] and weights [B, H, L, S], one number at a time; query head h reads key-value
    head h // (H / G)."""
    query, key, value = query.detach(), key.detach(), value.detach()
    rows, heads, queries, size = query.shape
    keys, shared = key.shape[2], heads // key.shape[1]
    shape = (rows, heads, queries, keys)
    seen = torch.ones(shape, dtype=torch.bool) if mask is None else mask.expand(shape)
    added = torch.zeros(shape) if bias is None else bias.expand(shape)
    mixed, weights = torch.zeros(query.shape), torch.zeros(shape)
    for b in range(rows):
        for h in range(heads):
            g = h // shared
            for i in range(queries):
                scores = {
                    j: scale * sum(float(query[b, h, i, e] * key[b, g, j, e]) for e in range(size))
                    + float(added[b, h, i, j])
                    for j in range(keys)
                    if seen[b, h, i, j]
                }
                total = sum(math.exp(score) for score in scores.values())
                for j, score in scores.items():
                    weights[b, h, i, j] = math.exp(score) / total
                    mixed[b, h, i] += weights[b, h, i, j] * value[b, g, j]
    return mixed, weights


def affine(linear: nn.Linear, x: Tensor) -> Tensor:
    y = torch.einsum("...d,fd->...f", x, linear.weight)
    return y if linear.bias is None else y + linear.bias


def whole_attention(
    module: Attention,
    x: Tensor,
    memory: Tensor | None = None,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    prefix: Prefix | None = None,
) -> tuple[Tensor, Tensor]:
    """An Attention's result and weights, from its parameters."""
    source = x if memory is None else memory
    size = module.head_dim

    def heads(y: Tensor) -> Tensor:
        return torch.stack(y.split(size, dim=-1), dim=1)

    key, value = heads(affine(module.key, source)), heads(affine(module.value, source))
    if prefix is not None:
        key = torch.stack([torch.cat([prefix.keys, row], dim=1) for row in key])
        value = torch.stack([torch.cat([prefix.values, row], dim=1) for row in value])
    mixed, weights = attention_by_loops(heads(affine(module.query, x)), key, value, module.scale, mask, bias)
    return affine(module.output, torch.cat(list(mixed.unbind(1)), dim=-1)), weights


def post_norm_stack(
    *, causal: bool, layers: int = 2, crosses: bool = False, prompt: int = 0, **options: float
) -> Stack:
    """A stack of MVP's kind: learnt positions, biases, LayerNorm behind every block."""

    def attention() -> Attention:
        return Attention(WIDTH, HEADS, HEAD_DIM)

    def prefixes() -> PrefixPrompt:
        return PrefixPrompt(prompt, WIDTH, 5, layers=layers, heads=HEADS)

    stack = Stack(
        InputEmbedding(
            nn.Embedding(VOCABULARY, WIDTH),
            positions=LearnedPositions(POSITIONS, WIDTH, offset=2),
            norm=LayerNorm(WIDTH),
            scale=1.5,
        ),
        [
            TransformerLayer(
                attention(),
                FeedForward(WIDTH, HIDDEN, torch.tanh),
                attention() if crosses else None,
                norm=lambda: LayerNorm(WIDTH),
                norm_first=False,
            )
            for _ in range(layers)
        ],
        causal=causal,
        self_prompt=prefixes() if prompt else None,
        cross_prompt=prefixes() if prompt and crosses else None,
        **options,
    )
    randomise(stack)
    return stack.eval()


def pre_norm_stack(*, causal: bool, layers: int = 2, crosses: bool = False, **options: bool) -> Stack:
    """A stack of mT5's kind: relative positions, no biases, RMSNorm before every block, heads that do not
    divide the width."""

    def attention() -> Attention:
        return Attention(WIDTH, HEADS, 4, scale=1.0, bias=False)

    stack = Stack(
        InputEmbedding(nn.Embedding(VOCABULARY, WIDTH)),
        [
            TransformerLayer(
                attention(),
                GatedFeedForward(WIDTH, HIDDEN, torch.tanh),
                attention() if crosses else None,
                norm=lambda: RMSNorm(WIDTH),
                norm_first=True,
            )
            for _ in range(layers)
        ],
        causal=causal,
        position_bias=RelativePositionBias(HEADS, buckets=8, max_distance=12, bidirectional=not causal),
        final_norm=RMSNorm(WIDTH),
        **options,
    )
    randomise(stack)
    return stack.eval()


STACKS = {"post-norm": post_norm_stack, "pre-norm": pre_norm_stack}


def some_ids(rows: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(0, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))
