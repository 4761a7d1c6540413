"""Writing a module as a checkpoint in the hub's layout: the key map read from right to left.

Each tensor is written once, tied ones under the key of the first rule that gives one of their names, so that
the keys are those which the oracle would write. The files come into place as `commit` tells.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from seq2seq_zoo.checkpoint.commit import json_bytes, staging
from seq2seq_zoo.checkpoint.keymap import KeyMap
from seq2seq_zoo.checkpoint.plan import Plan, make_plan
from seq2seq_zoo.checkpoint.progress import progress
from seq2seq_zoo.checkpoint.weights import INDEX, SINGLE
from seq2seq_zoo.errors import CheckpointError

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def save_weights(
    module: nn.Module,
    key_map: KeyMap,
    directory: str | os.PathLike[str],
    *,
    max_shard_size: int | str = "50GB",
    metadata: Mapping[str, str] | None = None,
    also: Mapping[str, object] | None = None,
) -> None:
    """Write the parameters and persistent buffers of `module` into `directory`, replacing any weights there.

    One file model.safetensors, or shards of at most `max_shard_size` (bytes, or text such as "200MB"; a
    larger tensor has a shard of its own) with an index. `metadata` goes into each header. `also` gives names
    and contents of JSON files (config.json) that must change together with the weights.

    An error or a crash leaves the old checkpoint loadable. A model may be saved over the files it is
    mapped from. Raises CheckpointError if `directory` cannot be written or a tensor has no values,
    ValueError for an impossible `max_shard_size`.
    """
    largest = _bytes_of(max_shard_size)
    plan = make_plan(module, key_map)
    unset = [name for name, tensor in plan.tensors.items() if tensor.is_meta]
    if unset:
        raise CheckpointError(f"{type(module).__name__} cannot be saved: {unset[0]} is on the meta device")
    shapes = _planned(plan)
    files = _shards(shapes, largest)
    texts = {name: json_bytes(content) for name, content in (also or {}).items()}
    if len(files) > 1:
        texts[INDEX] = json_bytes(
            {
                "metadata": {"total_size": sum(tensor.nbytes for tensor in shapes.values())},
                "weight_map": {key: name for name, keys in files.items() for key in keys},
            }
        )
    with staging(Path(directory)) as (folder, commit):
        for name, text in texts.items():
            (folder / name).write_bytes(text)
        for name in progress(files, lambda name: sum(shapes[key].nbytes for key in files[name]), "saving"):
            _write(folder / name, _tensors(plan, set(files[name])), {**(metadata or {}), "format": "pt"})
        commit()


def _bytes_of(size: int | str) -> int:
    found = (
        re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]B)\s*", size, re.IGNORECASE)
        if isinstance(size, str)
        else None
    )
    largest = int(float(found[1]) * UNITS[found[2].upper()]) if found else size
    if isinstance(largest, bool) or not isinstance(largest, int) or largest < 1:
        raise ValueError(
            f"max_shard_size is {size!r}; it must be a positive number of bytes, or text like '50GB'"
        )
    return largest


def _planned(plan: Plan) -> dict[str, Tensor]:
    """The tensors to write, by key, without their values."""
    shapes = {}
    for link in plan.links:
        dtype = plan.tensors[link.names[0]].dtype
        for key, shape in zip(link.keys, link.key_shapes, strict=True):
            shapes[key] = torch.empty(shape, dtype=dtype, device="meta")
    return shapes


def _shards(shapes: dict[str, Tensor], largest: int) -> dict[str, list[str]]:
    """Which file takes which keys, planned by the hub's own library."""
    from huggingface_hub import split_torch_state_dict_into_shards

    split = split_torch_state_dict_into_shards(shapes, max_shard_size=largest)
    return dict(split.filename_to_tensors) or {SINGLE: []}


def _tensors(plan: Plan, keys: set[str]) -> dict[str, Tensor]:
    """The values of `keys`: contiguous, as the format wants them, and no two in the same memory."""
    tensors: dict[str, Tensor] = {}
    for link in plan.links:
        if not keys.isdisjoint(link.keys):
            theirs = link.rule.to_theirs([plan.tensors[name].detach() for name in link.names])
            found = zip(link.keys, theirs, strict=True)
            tensors.update((key, tensor.contiguous()) for key, tensor in found if key in keys)

    def place(item: tuple[str, Tensor]) -> tuple[str, int]:
        return str(item[1].device), item[1].data_ptr()

    device, end = "", 0
    for key, tensor in sorted(tensors.items(), key=place):
        if (str(tensor.device), tensor.data_ptr()) < (device, end):
            tensors[key] = tensor.clone()
        else:
            device, end = str(tensor.device), tensor.data_ptr() + tensor.nbytes
    return tensors


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(tensors, path, metadata)
    except SafetensorError as error:
        raise CheckpointError(f"cannot write {str(path)!r}: {error}") from error
    path.chmod(mode)  # safetensors lets nobody but the owner read what it writes
