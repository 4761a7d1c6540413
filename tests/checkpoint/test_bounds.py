"""Checkpoints that would take all time, or all memory: they are loaded in time, or refused in time."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from seq2seq_zoo import (
    CheckpointError,
    MT5Config,
    MT5EncoderModel,
    MvpConfig,
    MvpForConditionalGeneration,
)
from seq2seq_zoo.checkpoint import Weights, open_weights

MT5 = {"vocab_size": 20, "d_model": 4, "d_kv": 2, "d_ff": 4, "num_layers": 1, "num_heads": 2}
SIZES = ("vocab_size", "d_model", "encoder_ffn_dim", "decoder_ffn_dim", "max_position_embeddings")
MVP = dict.fromkeys(SIZES, 16) | {"encoder_layers": 1, "decoder_layers": 1}


def changed(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def test_absent_layers_are_not_looked_for_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which would take the square of their number."""
    MT5EncoderModel(MT5Config(**MT5)).save_pretrained(tmp_path)
    changed(tmp_path, num_layers=20)
    searches, named_modules = [], MT5EncoderModel.named_modules

    def counted(self: MT5EncoderModel, *given: object, **options: object) -> object:
        searches.append(self)
        return named_modules(self, *given, **options)

    monkeypatch.setattr(MT5EncoderModel, "named_modules", counted)
    with pytest.warns(UserWarning, match="newly initialised"):
        made = MT5EncoderModel.from_pretrained(tmp_path)
    assert not any(parameter.isnan().any() for parameter in made.parameters())
    assert len(searches) < 10


@pytest.mark.parametrize("layers", [320, 310])
def test_the_nearest_of_many_names(tmp_path: Path, layers: int) -> None:
    """Names that differ in numbers alone are looked through as one, and the one with the same numbers is
    said; or one of those that are absent."""
    MT5EncoderModel(MT5Config(**{**MT5, "num_layers": 320})).save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    for layer in range(300, 308):
        key = f"encoder.block.{layer}.layer.0.SelfAttention.q.weight"
        state[key + "s"] = state.pop(key)
    save_file(state, tmp_path / "model.safetensors")
    changed(tmp_path, num_layers=layers)
    near = r"encoder\.block\.305\.layer\.0\.SelfAttention\.q\.weight"
    with pytest.warns(UserWarning, match=rf"{near}s \(nearest: {near}\)"):
        MT5EncoderModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("field", ["prompt_length", "prompt_mid_dim"])
def test_what_no_machine_can_make_anew_is_refused(tmp_path: Path, field: str) -> None:
    MvpForConditionalGeneration(MvpConfig(**MVP)).save_pretrained(tmp_path)
    changed(tmp_path, use_prompt=True, **{field: 10**9, "d_model": 16})
    with pytest.raises(CheckpointError, match=r"lacks \d+ tensors .* bytes .*encoder\.self_prompt"):
        MvpForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float64)


def test_an_index_without_end(tmp_path: Path) -> None:
    """As sparse as it may be on disk, its content would have to be in memory as a whole."""
    with open(tmp_path / "model.safetensors.index.json", "wb") as file:
        file.truncate(10**12)
    with pytest.raises(CheckpointError, match=r"index\.json cannot be read: it has more than"):
        open_weights(tmp_path)


@pytest.mark.parametrize("answer", [-1, ValueError("unrecognized configuration name")])
def test_a_system_that_does_not_say_how_much_memory_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: int | ValueError
) -> None:
    def sysconf(name: str) -> int:
        if isinstance(answer, ValueError):
            raise answer
        return answer

    MT5EncoderModel(MT5Config(**MT5)).save_pretrained(tmp_path)
    changed(tmp_path, num_layers=2)
    monkeypatch.setattr(os, "sysconf", sysconf)
    with pytest.warns(UserWarning, match="newly initialised"):
        MT5EncoderModel.from_pretrained(tmp_path)


def test_a_class_with_a_start_of_its_own(tmp_path: Path) -> None:
    class Half(MT5EncoderModel):
        def initialise(self, module: torch.nn.Module) -> None:
            for parameter in module.parameters(recurse=False):
                parameter.fill_(0.5)

    MT5EncoderModel(MT5Config(**MT5)).save_pretrained(tmp_path)
    changed(tmp_path, num_layers=2)
    with pytest.warns(UserWarning, match="newly initialised"):
        made = Half.from_pretrained(tmp_path)
    assert all(bool((parameter == 0.5).all()) for parameter in made.encoder.layers[1].parameters())


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_copies_that_lie_in_one_place_are_not_read(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table of token vectors has gigabytes."""
    model = MT5EncoderModel(MT5Config(**MT5))
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state["encoder.embed_tokens.weight"] = state["shared.weight"]
    (tmp_path / "model.safetensors").unlink()
    if name == "pytorch_model.bin":
        torch.save(state, tmp_path / name)
    else:
        save_file({key: tensor.clone() for key, tensor in state.items()}, tmp_path / name)
    read, tensor = [], Weights.tensor
    monkeypatch.setattr(Weights, "tensor", lambda self, key: read.append(key) or tensor(self, key))
    MT5EncoderModel.from_pretrained(tmp_path)
    assert ("encoder.embed_tokens.weight" in read) == (name == "model.safetensors")
