"""inspect: what it says of a checkpoint is so, and no tensor is read for it."""

from __future__ import annotations

import json
import math
import shutil
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import seq2seq_zoo
from seq2seq_zoo import CheckpointError
from seq2seq_zoo.checkpoint import Weights
from seq2seq_zoo.cli import main
from seq2seq_zoo.inspection import Inspection, count_parts, inspect_checkpoint, key_lines
from seq2seq_zoo.models.auto import model_classes
from tests.hub_cache import make_hub_cache


@pytest.fixture(autouse=True)
def _no_tensor_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Weights, key: str) -> None:
        raise AssertionError(f"{key} was read")

    monkeypatch.setattr(Weights, "tensor", refuse)


def edited(folder: Path, tensors: dict[str, torch.Tensor], to: Path, **config: Any) -> Path:
    """A copy of a checkpoint with other tensors and further fields in its config."""
    shutil.copytree(folder, to)
    save_file(tensors, to / "model.safetensors")
    values = json.loads((to / "config.json").read_text()) | config
    (to / "config.json").write_text(json.dumps(values))
    return to


def rows_of(found: Inspection) -> dict[str, list[str]]:
    """The indented lines of the key map, under the line before them, columns apart."""
    groups: dict[str, list[str]] = {}
    for line in key_lines(found):
        if line.startswith("  "):
            groups[list(groups)[-1]].append(line.strip())
        else:
            groups[line] = []
    return groups


SMALL = {"mvp": {"d_model": 16, "vocab_size": 30}, "mt5": {"d_model": 16, "vocab_size": 30, "d_ff": 8}}


@pytest.mark.parametrize(
    "cls",
    [cls for cls in model_classes() if cls.config_class.model_type in SMALL],
    ids=lambda cls: cls.__name__,
)
def test_counts_are_those_of_the_model(cls: Any) -> None:
    with torch.device("meta"):
        model = cls(cls.config_class(**SMALL[cls.config_class.model_type]))
    parts = count_parts(model)
    assert sum(part.parameters for part in parts) == model.num_parameters()
    assert sum(part.trainable for part in parts) == model.num_parameters(only_trainable=True)
    for part in parts:
        whole = sum(p.numel() for p in model.get_submodule(part.name).parameters())
        assert part.parameters == whole if not part.tied else part.parameters < whole


def test_trainable_parameters_are_counted_apart() -> None:
    config = seq2seq_zoo.MvpConfig(d_model=16, vocab_size=30, use_prompt=True, prompt_length=3)
    model = seq2seq_zoo.MvpForConditionalGeneration(config)
    model.set_lightweight_tuning()
    parts = {part.name: part for part in count_parts(model)}
    assert parts["model.token_embedding"].trainable == 0
    prompts = sum(p.numel() for p in model.model.encoder.self_prompt.parameters())
    assert parts["model.encoder"].trainable == prompts


@pytest.mark.parametrize("name", ["mt5", "mvp"])
def test_the_key_map_lists_every_key_and_every_parameter(name: str, request: Any) -> None:
    folder = request.getfixturevalue(name)
    found = inspect_checkpoint(folder)
    ((first, lines),) = rows_of(found).items()
    size = (folder / "model.safetensors").stat().st_size
    header = struct.unpack("<Q", (folder / "model.safetensors").read_bytes()[:8])[0]
    assert first.endswith(f"{found.cls.__name__}: {len(lines)}, {size - 8 - header:,} bytes")
    cells = [line.split("  ") for line in lines]
    rows = {key: [cell.strip() for cell in rest if cell.strip()] for key, *rest in cells}
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert rows.keys() == set(file.keys())
        model = found.cls(found.config)
        tensors = model.state_dict(keep_vars=True)
        for key, (arrow, ours, shape, dtype) in rows.items():
            assert arrow == "->"
            assert json.loads(shape) == file.get_slice(key).get_shape() == list(tensors[ours].shape)
            assert dtype == "float32"
    named = {id(tensors[ours]) for _, ours, *_ in rows.values()}
    assert named == {id(tensor) for tensor in tensors.values()}


def test_keys_that_do_not_fit_are_told(mt5: Path, tmp_path: Path) -> None:
    tensors = load_file(mt5 / "model.safetensors")
    tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"].clone()
    tensors["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = torch.zeros(32, 3)
    tensors["encoder.block.7.extra"] = torch.zeros(5, dtype=torch.float16)
    tensors["lm_head.weight"] = torch.zeros(7, 16)
    del tensors["decoder.final_layer_norm.weight"]
    groups = rows_of(inspect_checkpoint(edited(mt5, tensors, tmp_path / "edited")))
    _, missing, misshapen, copies, dropped, unexpected = groups.items()
    assert missing[0] == "missing, new when loaded: 1"
    assert missing[1][0].split() == [
        "decoder.final_layer_norm.weight",
        "->",
        "model.decoder.final_norm.weight",
        "[16]",
    ]
    assert misshapen[0] == "of another shape: 1"
    vocabulary = tensors["shared.weight"].shape[0]
    assert misshapen[1] == [f"lm_head.weight  [7, 16]  the model has [{vocabulary}, 16]"]
    assert copies == (
        "copies of other keys: 1",
        ["encoder.embed_tokens.weight  =  shared.weight"],
    )
    assert dropped[0] == "dropped: 1"
    assert "early checkpoints store a bias" in dropped[1][0]
    assert unexpected == ("unexpected, not used: 1", ["encoder.block.7.extra  [5]  float16"])


@pytest.mark.parametrize("names", [1, True, [5], {"a": 1}])
def test_architectures_that_are_no_names(
    names: object, mt5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = edited(mt5, load_file(mt5 / "model.safetensors"), tmp_path / "edited", architectures=names)
    assert main(["inspect", str(folder)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("seq2seq-zoo: error: architectures is ")
    assert err.count("\n") == 1


def test_names_of_any_characters_take_one_line(mt5: Path, tmp_path: Path, capsysbinary: Any) -> None:
    """A mangled checkpoint is what one inspects: keys that no text can hold, or that command a terminal."""
    folder = edited(mt5, load_file(mt5 / "model.safetensors"), tmp_path / "edited")
    content = (folder / "model.safetensors").read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    odd = {"shared\ud800": "shared\\ud800", "a\x1b[2Jb\nc": "a\\x1b[2Jb\\nc", "größe.²": "größe.²"}
    for old, new in zip([key for key in header if "layer_norm" in key], odd, strict=False):
        header[new] = header.pop(old)
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    assert main(["inspect", str(folder)]) == 0
    out, err = (stream.decode() for stream in capsysbinary.readouterr())
    assert err == ""
    lines = [line.split("  ")[1] for line in out.splitlines() if line.startswith("  ")]
    assert set(odd.values()) <= set(lines)
    assert "\x1b" not in out


def test_the_class_can_be_chosen(mt5: Path, mvp: Path, tmp_path: Path) -> None:
    assert inspect_checkpoint(mt5).cls is seq2seq_zoo.MT5ForConditionalGeneration
    encoder = inspect_checkpoint(mt5, "MT5EncoderModel")
    assert encoder.cls is seq2seq_zoo.MT5EncoderModel
    assert encoder.match.report.unexpected_keys
    assert not encoder.match.report.missing_keys

    tensors = load_file(mvp / "model.safetensors")
    bart = edited(mvp, tensors, tmp_path / "bart", model_type="bart", use_prompt=False)
    for name, cls in {
        "BartForSequenceClassification": seq2seq_zoo.MvpForSequenceClassification,
        "BartForConditionalGeneration": seq2seq_zoo.MvpForConditionalGeneration,
        "BartModel": seq2seq_zoo.MvpForConditionalGeneration,
    }.items():
        values = json.loads((bart / "config.json").read_text()) | {"architectures": [name]}
        (bart / "config.json").write_text(json.dumps(values))
        assert inspect_checkpoint(bart).cls is cls


def test_a_large_checkpoint_is_inspected_by_its_header(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The published count of MVP with prompts, from a file whose tensors nobody has written."""
    config = seq2seq_zoo.MvpConfig(use_prompt=True)
    with torch.device("meta"):
        model = seq2seq_zoo.MvpForConditionalGeneration(config)
    config.save_pretrained(tmp_path)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    header: dict[str, Any] = {}
    end = 0
    for link in type(model).key_map(config).links(shapes):
        for key, shape in zip(link.keys, link.key_shapes, strict=True):
            begin, end = end, end + 4 * math.prod(shape)
            header[key] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with open(tmp_path / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)  # a hole: it takes no room on the disk
    assert main(["inspect", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "468,116,832" in next(line for line in out.splitlines() if line.strip().startswith("total"))
    for line in ('"prompt_length": 100', "model.decoder.layers.11.fc2.weight", "[50267, 1024]"):
        assert line in out


def test_of_the_hub_only_headers_are_downloaded(
    mt5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hub where the weights cannot be had, but their header; then the same repository in the cache."""
    (tmp_path / "config").mkdir()
    shutil.copy(mt5 / "config.json", tmp_path / "config")
    make_hub_cache(tmp_path / "cache", "someone/tiny", tmp_path / "config")
    asked = []

    def header(repository: str, **options: Any) -> Any:
        asked.append((repository, options))
        with safe_open(mt5 / "model.safetensors", framework="pt") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
            tensors = {
                key: SimpleNamespace(shape=s.get_shape(), dtype=s.get_dtype()) for key, s in slices.items()
            }
        return SimpleNamespace(files_metadata={"model.safetensors": SimpleNamespace(tensors=tensors)})

    monkeypatch.setattr(huggingface_hub, "get_safetensors_metadata", header)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    expected = list(key_lines(inspect_checkpoint(mt5)))[1:]
    found = inspect_checkpoint("someone/tiny", revision="main", token="secret")
    assert asked == [("someone/tiny", {"revision": "main", "token": "secret"})]
    assert list(key_lines(found))[1:] == expected

    with pytest.raises(CheckpointError, match="someone/tiny"):
        inspect_checkpoint("someone/tiny", local_files_only=True)
    make_hub_cache(tmp_path / "cache", "someone/tiny", mt5)
    assert list(key_lines(inspect_checkpoint("someone/tiny")))[1:] == expected
    assert len(asked) == 1


def test_the_command_shows_config_counts_and_keys(mt5: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(mt5)]) == 0
    whole = capsys.readouterr().out
    assert main(["inspect", str(mt5), "--keys"]) == 0
    keys = capsys.readouterr().out
    assert whole.endswith("\n\n" + keys)
    config = whole[whole.index("{") : whole.index("}\n") + 1]
    assert json.loads(config) == seq2seq_zoo.AutoConfig.from_pretrained(mt5).to_dict()
    model = seq2seq_zoo.MT5ForConditionalGeneration(seq2seq_zoo.AutoConfig.from_pretrained(mt5))
    total = next(line.split() for line in whole.splitlines() if line.strip().startswith("total"))
    assert total[1:] == [f"{model.num_parameters():,}"] * 2
