"""A checkpoint that is saved anew while it is read: what is read is whole, the old one or the new one."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from seq2seq_zoo import CheckpointError, MT5Config, MT5ForConditionalGeneration
from seq2seq_zoo.checkpoint import load_weights, mapping, open_weights, save_weights, weights
from seq2seq_zoo.models import base
from tests.checkpoint.toy import HEAD_MAP, ToyWithHead, hub_state, initialise, on_meta, randomised, same

SIZES = {"one file": "50GB", "few shards": 500, "many shards": 200}
"""The shallow toy has 632 bytes."""


linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a file that was replaced is refused")


@linux
@pytest.mark.parametrize("after", SIZES)
@pytest.mark.parametrize("before", SIZES)
def test_saved_between_two_tensors(
    tmp_path: Path, old: ToyWithHead, new: ToyWithHead, before: str, after: str
) -> None:
    """Whatever way a tensor is read, it is of the files that were opened."""
    save_weights(old, HEAD_MAP, tmp_path, max_shard_size=SIZES[before])
    found, expected = open_weights(tmp_path), hub_state(old, HEAD_MAP)
    keys = list(found)
    rows = [key for key in keys if ".experts." in key]
    for key in keys[: len(keys) // 2]:
        assert torch.equal(found.tensor(key), expected[key])
    save_weights(new, HEAD_MAP, tmp_path, max_shard_size=SIZES[after])
    for key in keys:
        assert torch.equal(found.tensor(key), expected[key]), key
        read = torch.empty(found.shape(key), dtype=torch.float64)
        found.read(key, read)
        assert torch.equal(read, expected[key].double()), key
    stack = found.rows(rows)
    assert stack is None or torch.equal(stack, torch.stack([expected[key] for key in rows]))
    module = on_meta(ToyWithHead, depth=1)
    load_weights(module, found, HEAD_MAP, initialise=initialise)
    assert same(module, old)


@linux
def test_saved_in_another_dtype_between_two_tensors(tmp_path: Path, old: ToyWithHead) -> None:
    """The new file is shorter, and what was before where a tensor was is another's."""
    save_weights(old, HEAD_MAP, tmp_path)
    found, expected = open_weights(tmp_path), hub_state(old, HEAD_MAP)
    save_weights(randomised(ToyWithHead(depth=1), seed=2).bfloat16(), HEAD_MAP, tmp_path)
    assert all(torch.equal(found.tensor(key), expected[key]) for key in found)


@pytest.mark.parametrize("after", SIZES)
@pytest.mark.parametrize("before", SIZES)
@pytest.mark.parametrize("step", ["look for a file", "read the index", "open a file"])
def test_saved_while_it_is_opened(
    tmp_path: Path,
    old: ToyWithHead,
    new: ToyWithHead,
    before: str,
    after: str,
    step: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between any two files that are looked for, or read."""
    name = {"look for a file": "resolve_file", "read the index": "read_index", "open a file": "open_file"}[
        step
    ]
    act = getattr(weights, name)
    for moment in range(1, 12):
        folder = tmp_path / str(moment)
        save_weights(old, HEAD_MAP, folder, max_shard_size=SIZES[before])
        count = 0

        def then_save(*given: Any, **options: Any) -> Any:
            nonlocal count
            done = act(*given, **options)
            count += 1
            if count == moment:  # noqa: B023
                save_weights(new, HEAD_MAP, folder, max_shard_size=SIZES[after])  # noqa: B023
            return done

        with monkeypatch.context() as patch:
            patch.setattr(weights, name, then_save)
            module: nn.Module = on_meta(ToyWithHead, depth=1)
            load_weights(module, open_weights(folder), HEAD_MAP, initialise=initialise)
        assert same(module, new) if count >= moment else same(module, old)
        if count < moment:
            break


@pytest.mark.parametrize("moment", ["resolve_file", "open_weights", "read_config"])
def test_weights_and_settings_are_of_one_checkpoint(
    tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saved between any two of config.json, weights and generation_config.json."""
    sizes = {"vocab_size": 20, "d_model": 4, "d_kv": 2, "d_ff": 4, "num_heads": 2}
    old = MT5ForConditionalGeneration(MT5Config(**sizes, num_layers=1, feed_forward_proj="gated-relu"))
    new = MT5ForConditionalGeneration(MT5Config(**sizes, num_layers=2))
    old.generation_config.num_beams, new.generation_config.num_beams = 3, 7
    old.save_pretrained(tmp_path)
    act, saves = getattr(base, moment), []

    def then_save(*given: Any, **options: Any) -> Any:
        done = act(*given, **options)
        if not saves:
            saves.append(new.save_pretrained(tmp_path))
        return done

    monkeypatch.setattr(base, moment, then_save)
    found = MT5ForConditionalGeneration.from_pretrained(tmp_path)
    assert saves
    assert same(found, new)
    assert (found.config.num_layers, found.config.feed_forward_proj) == (2, "gated-gelu")
    assert found.generation_config.num_beams == 7


def test_where_files_cannot_be_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: ToyWithHead
) -> None:
    """There the safetensors library holds the file, and one that took its place is refused."""
    monkeypatch.setattr(mapping, "_known_system", lambda: False)
    save_weights(old, HEAD_MAP, tmp_path)
    found, expected = open_weights(tmp_path), hub_state(old, HEAD_MAP)
    save_weights(randomised(ToyWithHead(depth=1), seed=2), HEAD_MAP, tmp_path)
    for key in found:
        with pytest.raises(
            CheckpointError, match=r"model\.safetensors has been replaced since it was opened"
        ):
            found.tensor(key)
        read = torch.empty(found.shape(key), dtype=torch.float64)
        found.read(key, read)
        assert torch.equal(read, expected[key].double()), "it is held open"
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read any more"):
        found.tensor(next(iter(found)))


@linux
def test_threads_read_rows_of_one_file(tmp_path: Path, old: ToyWithHead) -> None:
    save_weights(old, HEAD_MAP, tmp_path)
    found, expected = open_weights(tmp_path), hub_state(old, HEAD_MAP)
    rows = [key for key in found if ".experts." in key]
    whole = torch.stack([expected[key] for key in rows])
    made: list[bool] = []

    def work() -> None:
        for _ in range(200):
            stack = found.rows(rows)
            made.append(stack is not None and torch.equal(stack, whole))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [True] * 800
