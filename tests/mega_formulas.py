"""MEGA a second time, from the paper's equations (Ma et al. 2022, arXiv:2209.10655), position by position and
for one row without padding: what our layers are tested against, and what the oracle's faults are judged by.

It reads the parameters of our modules, and calls none of them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


ACTIVATIONS = {"silu": silu, "relu": lambda x: x * (x > 0), "linear": lambda x: x}


def affine(linear: Any, x: Tensor) -> Tensor:
    return torch.einsum("fd,...d->...f", linear.weight, x) + linear.bias


def norm(config: Any, part: Any, x: Tensor) -> Tensor:
    if config.normalization_type == "layernorm":
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * part.weight + part.bias
    unit = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return unit * (part.weight if config.normalization_type == "rmsnorm" else part.scalar)


def recurrence(layer: Any, x: Tensor, rows: slice) -> Tensor:
    """Equations 5-8 of one direction: x [L, D] → y [L, D]; a truncated one begins anew for each position."""
    alpha, delta = sigmoid(layer.alpha[rows, :, 0]), sigmoid(layer.delta[rows, :, 0])
    beta, eta = layer.beta[rows, :, 0], layer.eta[rows]
    read = []
    for t in range(x.shape[0]):
        h = torch.zeros_like(eta)
        for i in range(0 if layer.truncation is None else max(0, t + 1 - layer.truncation), t + 1):
            h = alpha * beta * x[i][:, None] + (1 - alpha * delta) * h
        read.append((eta * h).sum(1) / math.sqrt(eta.shape[1]))
    return torch.stack(read)


def moving_average(layer: Any, x: Tensor) -> Tensor:
    y = recurrence(layer, x, slice(0, layer.width))
    if layer.bidirectional:
        y = y + recurrence(layer, x.flip(0), slice(layer.width, None)).flip(0)
    return silu(y + layer.omega * x)


def turned(vector: Tensor, place: int) -> Tensor:
    half = vector.shape[0] // 2
    angle = place * torch.tensor([10000 ** (-k / half) for k in range(half)])
    a, b = vector[:half], vector[half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()])


def bias(config: Any, part: Any, i: int, j: int) -> Tensor:
    """What the distance of a query at place i and a key at place j adds."""
    if config.relative_positional_bias == "rotary":
        return turned(part.alpha[0], i) @ turned(part.beta[0], j)
    reach = config.max_positions if config.chunk_size < 0 else config.chunk_size
    return part.weight[reach - 1 + j - i]


def weights(config: Any, scores: list[Tensor], biases: list[Tensor], size: int) -> Tensor:
    """Equations 13-16: what f makes of the scores of one query."""
    raw, added = torch.stack(scores), torch.stack(biases)
    if config.attention_activation == "softmax":
        powers = torch.exp(raw / math.sqrt(size) + added)
        return powers / powers.sum()
    x = raw / len(scores) + added
    if config.attention_activation == "relu2":
        return (x * (x > 0)) ** 2
    return (1 + torch.erf((x - 0.707107) / (0.282095 * math.sqrt(2)))) / 2


def self_attention(config: Any, layer: Any, x: Tensor, residual: Tensor) -> Tensor:
    f = ACTIVATIONS[config.activation]
    smooth = moving_average(layer.moving_average, x)
    shared = silu(affine(layer.shared, smooth))
    query, key = (layer.kappa[n] * shared + layer.mu[n] for n in (0, 1))
    value = f(affine(layer.value, x))
    length = x.shape[0]
    chunk = config.chunk_size if config.use_chunking else length
    mixed = []
    for i in range(length):
        first = i // chunk * chunk
        seen = range(first, i + 1 if config.is_decoder else min(first + chunk, length))
        scores = [query[i] @ key[j] for j in seen]
        added = [bias(config, layer.distance_bias, i - first, j - first) for j in seen]
        mixed.append(weights(config, scores, added, query.shape[1]) @ value[seen.start : seen.stop])
    gated = torch.stack(mixed) * silu(affine(layer.reset_gate, smooth))
    h = f(affine(layer.candidate, smooth) + affine(layer.output, gated))
    update = sigmoid(affine(layer.update_gate, smooth))
    return update * h + (1 - update) * residual


def cross_attention(config: Any, layer: Any, x: Tensor, residual: Tensor, memory: Tensor) -> Tensor:
    f = ACTIVATIONS[config.activation]
    query, key, value = affine(layer.query, x), affine(layer.key, memory), f(affine(layer.value, memory))
    mixed = []
    for i in range(x.shape[0]):
        scores = [query[i] @ key[j] for j in range(memory.shape[0])]
        added = [bias(config, layer.distance_bias, i, j) for j in range(memory.shape[0])]
        mixed.append(weights(config, scores, added, query.shape[1]) @ value)
    h = f(affine(layer.output, torch.stack(mixed) * silu(affine(layer.reset_gate, x))))
    update = sigmoid(affine(layer.update_gate, x))
    return update * h + (1 - update) * residual


def hidden(model: Any, ids: Tensor, memory: Tensor | None = None) -> Tensor:
    """The last hidden vectors [L, D] of a MegaModel for one text, ids [L]."""
    config = model.config
    x = model.stack.embedding.tokens.weight[ids]
    before, before_ffn = config.normalize_before_mega, config.normalize_before_ffn
    for layer in model.stack.layers:
        seen = norm(config, layer.self_attention_norm, x) if before else x
        x = self_attention(config, layer.self_attention, seen, x)
        x = x if before else norm(config, layer.self_attention_norm, x)
        if memory is not None:
            seen = norm(config, layer.cross_attention_norm, x) if before else x
            x = cross_attention(config, layer.cross_attention, seen, x, memory)
            x = x if before else norm(config, layer.cross_attention_norm, x)
        if layer.feed_forward is not None:
            seen = norm(config, layer.feed_forward_norm, x) if before_ffn else x
            inner = ACTIVATIONS[config.activation](affine(layer.feed_forward.up, seen))
            x = x + affine(layer.feed_forward.down, inner)
            x = x if before_ffn else norm(config, layer.feed_forward_norm, x)
    return x
