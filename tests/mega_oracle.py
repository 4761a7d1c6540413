"""transformers' MEGA as the oracle: what must be lifted or mended before it can be compared to 1e-9.

The sines and cosines of its rotary bias are computed in float32 whatever the model's dtype. Its RMSNorm
returns what it was given, and with LayerNorms without weights it cannot be built. `lifted` computes the
first in float64; `mended` also does right by the norms. Nothing else is changed, and
tests/models/test_mega_faults.py shows the faults as they stand.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import seq2seq_zoo
from tests.oracle import MAJOR, build, float64, ours_of

if MAJOR == 4:
    from transformers.models.deprecated.mega import modeling_mega

needs_mega = pytest.mark.skipif(MAJOR != 4, reason="transformers 5.x has no MEGA; 4.57.6 is its last oracle")

SIZE: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "intermediate_size": 10,
    "ema_projection_size": 3,
    "shared_representation_size": 6,
    "nffn_hidden_size": 14,
    "max_positions": 40,
}
CAUSAL = {"is_decoder": True, "bidirectional": False}


def _sinusoids(max_positions: int, embedding_dim: int) -> tuple[Tensor, Tensor]:
    half = embedding_dim // 2
    speed = torch.exp(torch.arange(half, dtype=torch.float64) * -(math.log(10000) / half))
    angle = torch.arange(max_positions, dtype=torch.float64)[:, None] * speed
    return angle.sin(), angle.cos()


def _normalised(self: Any, given: Tensor) -> Tensor:
    unit = given * torch.rsqrt(given.square().mean(-1, keepdim=True) + self.eps)
    return unit if self.weight is None else self.weight * unit


@contextlib.contextmanager
def lifted() -> Iterator[None]:
    """float64 throughout, the sinusoids included."""
    with float64(), pytest.MonkeyPatch.context() as patch:
        if MAJOR == 4:
            rotary = modeling_mega.MegaRotaryRelativePositionalBias
            patch.setattr(rotary, "get_sinusoid_embeddings", staticmethod(_sinusoids))
        yield


@contextlib.contextmanager
def mended() -> Iterator[None]:
    """As `lifted`, with an RMSNorm that normalises, and LayerNorms that may be without weights."""
    with lifted(), pytest.MonkeyPatch.context() as patch:
        if MAJOR == 4:
            patch.setattr(modeling_mega.MegaRMSNorm, "forward", _normalised)
            start = modeling_mega.MegaPreTrainedModel._init_weights
            patch.setattr(
                modeling_mega.MegaPreTrainedModel,
                "_init_weights",
                lambda self, part: None if getattr(part, "bias", 0) is None else start(self, part),
            )
        yield


def pair(name: str, folder: Path, **options: Any) -> tuple[Any, Any]:
    """The oracle's class and ours with the same random weights."""
    theirs = build(name, transformers.MegaConfig(**{**SIZE, **options}))
    theirs.to(torch.get_default_dtype())  # a buffer, which tells the sinusoids their dtype, is float32
    with torch.no_grad():
        for module in theirs.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_var.abs_().add_(0.1)
    return theirs, ours_of(theirs, getattr(seq2seq_zoo, name), folder)


def text(length: int = 16, rows: int = 3, side: str = "right", seed: int = 1) -> tuple[Tensor, Tensor]:
    """ids [rows, length] and their mask; the rows hold ever fewer real tokens."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 61, (rows, length), generator=generator)
    mask = torch.ones(rows, length, dtype=torch.long)
    for row in range(1, rows):
        real = max(1, length - 3 * row)
        empty = slice(real, None) if side == "right" else slice(None, length - real)
        ids[row, empty], mask[row, empty] = 1, 0
    return ids, mask


def forgetful(theirs: Any) -> Any:
    """The oracle without the kernels that its modules keep in eval mode, with their graph of gradients."""
    for module in theirs.modules():
        if hasattr(module, "_kernel"):
            module._kernel = module._coeffs = None
    return theirs
