"""The published parameter counts, on the meta device."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from seq2seq_zoo import (
    MT5Config,
    MT5ForConditionalGeneration,
    MvpConfig,
    MvpForConditionalGeneration,
)

SMALL: dict[str, Any] = {}
BASE = {"d_model": 768, "d_ff": 2048, "num_layers": 12, "num_heads": 12}
LARGE = {"d_model": 1024, "d_ff": 2816, "num_layers": 24, "num_heads": 16}
XL = {"d_model": 2048, "d_ff": 5120, "num_layers": 24, "num_heads": 32}
XXL = {"d_model": 4096, "d_ff": 10240, "num_layers": 24, "num_heads": 64}


@pytest.mark.parametrize(
    ("size", "count"),
    [
        (SMALL, 300_176_768),
        (BASE, 582_401_280),
        (LARGE, 1_229_581_312),
        (XL, 3_742_619_648),
        (XXL, 12_921_057_280),
    ],
    ids=["small", "base", "large", "xl", "xxl"],
)
def test_mt5(size: dict[str, Any], count: int) -> None:
    with torch.device("meta"):
        model = MT5ForConditionalGeneration(MT5Config(**size))
    assert model.num_parameters() == count
    assert all(p.is_meta for p in model.parameters())


def test_mvp() -> None:
    with torch.device("meta"):
        plain = MvpForConditionalGeneration(MvpConfig())
        prompted = MvpForConditionalGeneration(MvpConfig(use_prompt=True))
    assert plain.num_parameters() == 406_293_504
    assert prompted.num_parameters() == 468_116_832
    assert prompted.num_parameters(only_trainable=True) == 468_116_832
    prompted.set_lightweight_tuning()
    assert sum(p.numel() for p in prompted.parameters() if p.requires_grad) == 61_823_328
