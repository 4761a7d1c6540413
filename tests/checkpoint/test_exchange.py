"""Checkpoints between the libraries, for every class: what one saves the other loads, bit for bit, in half
precision too.

That both then compute the same is shown class by class in tests/models, in float32 and float64.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import seq2seq_zoo
from tests.checkpoint.test_parity_tool import CLASSES, checkpoint
from tests.oracle import MAJOR

transformers = pytest.importorskip("transformers")

PAIR = "EncoderDecoderModel"


def stored(folder: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file in folder.glob("*.safetensors"):
        tensors |= load_file(file)
    return tensors


def small(name: str, folder: Path) -> Any:
    """Our tiny random model of a class."""
    where = "bundled:bert2bert" if name == PAIR else checkpoint(name, folder)
    return getattr(seq2seq_zoo, name).from_pretrained(where)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, torch.bfloat16) for name in (*CLASSES, PAIR)),
        ("MT5ForConditionalGeneration", torch.float16),
        (PAIR, torch.float16),
        (PAIR, torch.float32),
    ],
)
def test_ours_theirs_and_back(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    if MAJOR == 5 and name.startswith("Mega"):
        pytest.skip("transformers 5.x has no MEGA")
    ours = small(name, tmp_path / "small").to(dtype)
    ours.save_pretrained(tmp_path / "ours", max_shard_size=200_000 if name == PAIR else 4_000)
    assert (tmp_path / "ours" / "model.safetensors.index.json").exists()

    kind = getattr(transformers, name)
    theirs, info = kind.from_pretrained(tmp_path / "ours", dtype="auto", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    theirs.save_pretrained(tmp_path / "theirs")
    sent, returned = stored(tmp_path / "ours"), stored(tmp_path / "theirs")
    tied = {"lm_head.decoder.bias", "decoder.lm_head.decoder.bias"}  # 5.x stores a copy of the head's bias
    assert set(sent) <= set(returned)
    assert set(returned) - set(sent) <= (tied if MAJOR == 5 else set())
    kept = {torch.float32, dtype} if dtype == torch.float16 else {dtype}  # T5's last matrix, in float16
    for key, tensor in sent.items():
        # (in 4.57.6 MEGA's probe for the dtype of its sines is a buffer, and stays what it was)
        assert returned[key].dtype in kept or key.endswith("_float_tensor"), key
        assert torch.equal(returned[key].to(dtype), tensor), key

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="(?s).*(newly initialised|not used|tied to)")
        again = getattr(seq2seq_zoo, name).from_pretrained(tmp_path / "theirs")
    assert again.dtype == dtype
    mine, other = dict(ours.state_dict()), dict(again.state_dict())
    assert mine.keys() == other.keys()
    assert all(torch.equal(mine[key], other[key].to(dtype)) for key in mine)
