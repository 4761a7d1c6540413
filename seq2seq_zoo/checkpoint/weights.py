"""A checkpoint's tensors by key, in however many files they lie.

Of the layouts of the hub the first one present is taken:

    model.safetensors                 one file
    model.safetensors.index.json      {"weight_map": {key: file}} over shards
    pytorch_model.bin                 the same two as pickles
    pytorch_model.bin.index.json
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from seq2seq_zoo.checkpoint.formats import TensorInfo, WeightFile, open_file, parse_json_object
from seq2seq_zoo.checkpoint.mapping import mapped_rows
from seq2seq_zoo.checkpoint.resolve import relative_path, resolve_file
from seq2seq_zoo.errors import CheckpointError
from seq2seq_zoo.json_file import read_bytes

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
LAYOUTS = (SINGLE, INDEX, "pytorch_model.bin", "pytorch_model.bin.index.json")
CONFIG, GENERATION_CONFIG = SETTINGS = ("config.json", "generation_config.json")
MOST_TRIES = 100
"""How often a checkpoint is read that another process replaces meanwhile."""
T = TypeVar("T")


class Weights(Mapping[str, TensorInfo]):
    """A read-only mapping from checkpoint keys to what is known of their tensors, which come when asked for.

    `where` is the place as the user wrote it, for messages.
    """

    def __init__(self, where: str, files: Mapping[str, WeightFile]) -> None:
        self.where = where
        self._files = files
        self._infos = {key: file.infos[key] for key, file in files.items()}

    def __getitem__(self, key: str) -> TensorInfo:
        return self._infos[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._infos)

    def __len__(self) -> int:
        return len(self._infos)

    def shape(self, key: str) -> tuple[int, ...]:
        return self._infos[key].shape

    def dtype(self, key: str) -> torch.dtype:
        return self._infos[key].dtype

    def tensor(self, key: str) -> Tensor:
        """The tensor, on the CPU: a view of the mapped file where the format allows, never a copy of all.

        The mapping is private: writing into the tensor does not reach the file.
        """
        return self._files[key].tensor(key)

    def rows(self, keys: Sequence[str]) -> Tensor | None:
        """Tensors of one shape and dtype as the rows of one, mapped as far as may be; None where it is not
        known how to do that."""
        infos = [self[key] for key in keys]
        places = [
            (file.mapped, info.begin)
            for file, info in zip((self._files[key] for key in keys), infos, strict=True)
            if file.mapped is not None and info.begin is not None
        ]
        return mapped_rows(places, infos[0].shape, infos[0].dtype) if len(places) == len(keys) else None

    def read(self, key: str, into: Tensor) -> None:
        """Copy the tensor into another of its shape, contiguous, of any dtype and on any device."""
        self._files[key].read(key, into)


def open_weights(
    where: str | os.PathLike[str],
    *,
    revision: str | None = None,
    subfolder: str = "",
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Weights:
    """Open the weights of the checkpoint at `where` (see `resolve_file`), reading headers and indexes only.

    Raises CheckpointError, naming file and key, if there are no weights, or if files or keys are missing,
    damaged, contradictory or outside the checkpoint's folder.
    """
    resolve = partial(
        resolve_file,
        where,
        revision=revision,
        subfolder=subfolder,
        cache_dir=cache_dir,
        token=token,
        local_files_only=local_files_only,
    )
    return unchanged(where, subfolder, lambda: _open_layout(where, subfolder, resolve))


def unchanged(where: str | os.PathLike[str], subfolder: str, read: Callable[[], T]) -> T:
    """What `read` finds in the folder of a checkpoint, if nobody saves into it meanwhile; else it reads
    again."""
    for _ in range(MOST_TRIES):
        before = _state(where, subfolder)
        try:
            found = read()
        except Exception:
            if _state(where, subfolder) == before:
                raise
        else:
            if _state(where, subfolder) == before:
                return found
    raise CheckpointError(f"{os.fspath(where)!r} is saved to again and again while it is read")


def _open_layout(
    where: str | os.PathLike[str], subfolder: str, resolve: Callable[..., Path | None]
) -> Weights:
    for layout in LAYOUTS:
        path = resolve(layout, required=False)
        if path is not None:
            files = _open_shards(path, resolve) if path.name.endswith(".json") else _open_single(path)
            return Weights(os.fspath(where), files)
    place = f"{os.fspath(where)!r}" + (f", subfolder {subfolder!r}" if subfolder else "")
    raise CheckpointError(
        f"{place} has no weights: looked for {', '.join(LAYOUTS)}{_present(where, subfolder, resolve)}"
    )


def _state(where: str | os.PathLike[str], subfolder: str) -> list[tuple[int, int, int] | None]:
    """Which files a folder has that say what the checkpoint is. As long as they stay, so do all shards that
    an index names: a save replaces these files before it touches the shards (see `commit`)."""
    found: list[tuple[int, int, int] | None] = []
    for name in (*LAYOUTS, *SETTINGS):
        try:
            state = os.stat(os.path.join(where, subfolder, name))
        except (OSError, TypeError, ValueError):  # a repository's id, or no place at all
            found.append(None)
        else:
            found.append((state.st_dev, state.st_ino, state.st_mtime_ns))
    return found


def _present(where: str | os.PathLike[str], subfolder: str, resolve: Callable[..., Path | None]) -> str:
    folder = Path(where) / subfolder
    if not folder.is_dir():
        try:
            resolve(SINGLE)
        except CheckpointError as error:  # which says whether the hub was asked, or only the cache
            return f"; {error}"
        return ""
    names = sorted(path.name for path in folder.iterdir())
    return "; the folder holds " + (", ".join(names[:20]) + (", ..." if len(names) > 20 else "") or "nothing")


def _open_single(path: Path) -> dict[str, WeightFile]:
    file = open_file(path)
    return dict.fromkeys(file.infos, file)


def _open_shards(index: Path, resolve: Callable[..., Path | None]) -> dict[str, WeightFile]:
    weight_map = read_index(index)
    shards = {}
    for name in dict.fromkeys(weight_map.values()):
        try:
            path = resolve(name)
        except CheckpointError as error:
            raise CheckpointError(
                f"{index} names the shard {name!r}, which cannot be had: {error}"
            ) from error
        assert path is not None  # required
        shards[name] = open_file(path)

    files: dict[str, WeightFile] = {}
    for name, shard in shards.items():
        for key in shard.infos:
            promised = weight_map.get(key, name)
            if promised != name or key in files:
                first = promised if promised != name else files[key].path.name
                raise CheckpointError(f"{index.parent}: the key {key!r} is in both {first!r} and {name!r}")
            files[key] = shard
    for key, name in weight_map.items():
        if key not in files:
            raise CheckpointError(
                f"{shards[name].path} lacks the key {key!r}, which {index.name} promises in it"
            )
    return {key: files[key] for key in (*weight_map, *(k for k in files if k not in weight_map))}


def read_index(path: Path) -> dict[str, str]:
    """The weight_map of an index: key to file name, every name inside the index's own folder."""
    try:
        text = read_bytes(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    weight_map = parse_json_object(text, str(path)).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path}: weight_map is {weight_map!r:.80}; it must map keys to file names")
    suffix = ".safetensors" if path.name == INDEX else ".bin"
    for key, name in weight_map.items():
        if not isinstance(name, str) or not name.endswith(suffix):
            raise CheckpointError(
                f"{path}: {key!r} is said to be in {name!r:.80}; it must be a {suffix} file"
            )
        relative_path(name, f"{path}: the file of {key!r},")
    return weight_map
