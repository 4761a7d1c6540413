"""Checkpoints that transformers takes or leaves behind and that are not what they say: see DIVERGENCES.md."""

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from seq2seq_zoo.checkpoint import KeyMap, load_weights, open_weights, renames, save_weights
from seq2seq_zoo.errors import CheckpointError

transformers = pytest.importorskip("transformers")
only_4 = pytest.mark.skipif(not transformers.__version__.startswith("4."), reason="a fault of 4.57.6")
INDEX = "model.safetensors.index.json"


def make(value: float) -> "transformers.MT5EncoderModel":
    """A tiny model all of whose parameters are `value`."""
    config = transformers.MT5Config(
        vocab_size=10, d_model=8, d_kv=4, d_ff=8, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu"
    )
    model = transformers.MT5EncoderModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    return model


def values(folder: Path) -> set[float]:
    """The values of the parameters that transformers loads from `folder`."""
    model = transformers.MT5EncoderModel.from_pretrained(folder)
    return {float(value) for parameter in model.parameters() for value in parameter.detach().unique()}


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    make(1.0).save_pretrained(folder, max_shard_size=600)
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    return folder


@only_4
def test_a_shard_that_lacks_a_promised_key(sharded: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sharded, tmp_path / "folder")
    key = "encoder.final_layer_norm.weight"
    shard = folder / json.loads((folder / INDEX).read_text())["weight_map"][key]
    rest = {k: t for k, t in safetensors.torch.load_file(shard).items() if k != key}
    safetensors.torch.save_file(rest or {"other": torch.ones(1)}, shard, {"format": "pt"})
    model, info = transformers.MT5EncoderModel.from_pretrained(folder, output_loading_info=True)
    assert model.encoder.final_layer_norm.weight.is_meta
    assert key not in info["missing_keys"]
    with pytest.raises(CheckpointError, match=rf"{shard.name} lacks the key '{key}'"):
        open_weights(folder)


@only_4
def test_an_index_that_leaves_the_folder(sharded: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sharded, tmp_path / "folder")
    index = json.loads((folder / INDEX).read_text())
    name = index["weight_map"]["shared.weight"]
    (folder / name).rename(tmp_path / "elsewhere.safetensors")
    index["weight_map"] = {
        key: "../elsewhere.safetensors" if file == name else file for key, file in index["weight_map"].items()
    }
    (folder / INDEX).write_text(json.dumps(index))
    assert values(folder) == {1.0}
    with pytest.raises(CheckpointError, match=r"'\.\./elsewhere\.safetensors' must be a relative path"):
        open_weights(folder)


def toy(value: float) -> tuple[torch.nn.Module, KeyMap]:
    """Parameters of ours that are named and shaped as those of the oracle's model."""
    module = torch.nn.ParameterDict(
        {
            key.replace(".", "_"): torch.nn.Parameter(tensor.clone())
            for key, tensor in make(value).state_dict().items()
            if key != "encoder.embed_tokens.weight"
        }
    )
    keys = [key for key in make(value).state_dict() if key != "encoder.embed_tokens.weight"]
    return module, KeyMap(renames("\n".join(f"{key} -> {key.replace('.', '_')}" for key in keys)))


def test_shards_over_a_single_file(tmp_path: Path) -> None:
    make(1.0).save_pretrained(tmp_path)
    make(2.0).save_pretrained(tmp_path, max_shard_size=600)
    if transformers.__version__.startswith("4."):
        assert values(tmp_path) == {1.0}  # what was saved last is not what loads
    module, key_map = toy(3.0)
    save_weights(module, key_map, tmp_path, max_shard_size=600)
    assert values(tmp_path) == {3.0}


def test_an_interrupted_save(sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def write(*args: object, **kwargs: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        original(*args, **kwargs)

    original = safetensors.torch.save_file
    module, key_map = toy(2.0)
    theirs, ours = (shutil.copytree(sharded, tmp_path / name) for name in ("theirs", "ours"))
    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", write)
    with pytest.raises(KeyboardInterrupt):
        make(2.0).save_pretrained(theirs, max_shard_size=600)
    if transformers.__version__.startswith("4."):
        assert values(theirs) == {1.0, 2.0}  # the old model in one part, the new in the other

    calls = 0
    monkeypatch.setattr("safetensors.torch.save_file", write)
    with pytest.raises(KeyboardInterrupt):
        save_weights(module, key_map, ours, max_shard_size=600)
    assert calls == 3
    assert values(ours) == {1.0}


def test_what_a_crash_of_ours_leaves_is_a_checkpoint_to_others(
    sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worst place: the old shards have second names, and some new ones are in place."""
    from seq2seq_zoo.checkpoint import commit

    folder = shutil.copytree(sharded, tmp_path / "folder")
    module, key_map = toy(2.0)
    moved = 0
    rename = commit.os.replace

    def replace(source: Path, target: Path) -> None:
        nonlocal moved
        moved += 1
        if moved > 2:
            raise OSError("the disk is gone")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", replace)
        patch.setattr("shutil.rmtree", lambda *_, **__: None)
        with pytest.raises(CheckpointError, match="the disk is gone"):
            save_weights(module, key_map, folder, max_shard_size=600)
    assert any("kept" in path.name for path in folder.iterdir())
    assert values(folder) == {1.0}
    with torch.device("meta"):
        again, _ = toy(0.0)
    load_weights(again, open_weights(folder), key_map, initialise=lambda part: None)
    assert {float(value) for parameter in again.parameters() for value in parameter.detach().unique()} == {
        1.0
    }
