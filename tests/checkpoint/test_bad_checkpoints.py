"""Whole checkpoints with something wrong in them: `from_pretrained` loads them, or says what is wrong."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from seq2seq_zoo import (
    AutoModelForSeq2SeqLM,
    CheckpointError,
    MT5Config,
    MT5ForConditionalGeneration,
    ZooError,
)

SIZE = {"vocab_size": 20, "d_model": 4, "d_kv": 2, "d_ff": 4, "num_layers": 1, "num_heads": 2}
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights in shards, an index, two configs."""
    folder = tmp_path_factory.mktemp("sound")
    torch.manual_seed(0)
    MT5ForConditionalGeneration(MT5Config(**SIZE)).save_pretrained(folder, max_shard_size=600)
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sound, tmp_path / "folder")


def load(folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AutoModelForSeq2SeqLM.from_pretrained(folder)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_bytes_changed_at_random(sound: Path, tmp_path: Path, data: st.DataObject) -> None:
    """Where JSON stands, a few bytes replaced, cut out or put in: a ZooError, or a model without holes."""
    folder = tmp_path / "folder"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(sound, folder)
    path = data.draw(st.sampled_from(sorted(folder.iterdir(), key=lambda path: path.name)))
    content = path.read_bytes()
    at = data.draw(st.integers(0, min(len(content), 600)))
    cut = data.draw(st.integers(0, 6))
    put = data.draw(
        st.one_of(st.binary(max_size=6), st.sampled_from([b"9", b'"', b"null", b"-1", b"{}", b"1e99"]))
    )
    path.write_bytes(content[:at] + put + content[at + cut :])
    try:
        model = load(folder)
    except ZooError:
        return
    assert all(not p.is_meta for p in model.parameters())
    model(torch.tensor([[3, 1]]), decoder_input_ids=torch.tensor([[0]]))


@pytest.mark.parametrize("end", [0, 1, 7, 8, 9, 100])
@pytest.mark.parametrize("name", ["config.json", INDEX, "a shard"])
def test_a_truncated_file_is_named(folder: Path, name: str, end: int) -> None:
    path = next(iter(sorted(folder.glob("model-*")))) if name == "a shard" else folder / name
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(ZooError, match=path.name.replace(".", r"\.")):
        load(folder)


def test_a_tar_file(folder: Path) -> None:
    """The oldest layout of torch, which cannot be read without running what it holds."""
    for path in folder.glob("model*"):
        path.unlink()
    with tarfile.open(folder / "pytorch_model.bin", "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin cannot be read as weights"):
        load(folder)


def test_all_faults_come_in_one_message(folder: Path) -> None:
    """Both sides, the shapes, and the nearest name of what has no place."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "d_ff": 5, "num_layers": 2, "vocab_size": 21}))
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    said = str(caught.value)
    for part in (
        "does not fit MT5ForConditionalGeneration",
        "shape: shared.weight [20, 4] → model.token_embedding.weight [21, 4]",
        "shape: encoder.block.0.layer.1.DenseReluDense.wi_0.weight [4, 4] → "
        "model.encoder.layers.0.feed_forward.gate.weight [5, 4]",
        "lm_head.weight [20, 4] → lm_head.weight [21, 4]",
        "missing (9): encoder.block.1.layer.0.SelfAttention.q.weight",
    ):
        assert part in said, said


def test_more_layers_than_the_config_says(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_decoder_layers": 0}))
    with pytest.warns(UserWarning, match=r"unexpected, not used \(15\): .*decoder\.block\.0"):
        AutoModelForSeq2SeqLM.from_pretrained(folder)


def rounded(tensors: dict[str, Tensor], method: str) -> dict[str, Tensor]:
    """The matrices of the attentions in the layout of some method of rounding."""
    found: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        name = key.removesuffix(".weight")
        if "Attention" not in key or "bias" in key:
            found[key] = tensor
        elif method == "gptq":
            found |= {f"{name}.qweight": torch.zeros(1, 4, dtype=torch.int32), f"{name}.scales": tensor[:1]}
        elif method == "fp8":
            found |= {key: tensor.to(torch.float8_e4m3fn), f"{name}.weight_scale": torch.ones(1)}
        elif method == "bitsandbytes":
            found |= {key: torch.zeros(8, 1, dtype=torch.uint8), f"{key}.absmax": torch.ones(1)}
    return found


@pytest.mark.parametrize("method", ["gptq", "fp8", "bitsandbytes"])
def test_weights_that_were_rounded_are_refused_by_name(method: str, folder: Path) -> None:
    whole = MT5ForConditionalGeneration.from_pretrained(folder)
    whole.save_pretrained(folder)  # in one file
    config = json.loads((folder / "config.json").read_text())
    said = {"quantization_config": {"quant_method": method}}
    (folder / "config.json").write_text(json.dumps({**config, **said}))
    tensors = load_file(folder / "model.safetensors")
    # What merged adapters leave behind: the config speaks of rounding, the weights are whole.
    again = load(folder)
    assert torch.equal(again.lm_head.weight, whole.lm_head.weight)
    assert not hasattr(again.config, "quantization_config"), "saved again it would still say so"
    save_file(rounded(tensors, method), folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"rounded by '{method}' .*SelfAttention.* only whole weights"):
        load(folder)
