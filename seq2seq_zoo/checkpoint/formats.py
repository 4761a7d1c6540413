"""The two kinds of weight files, opened with suspicion.

A safetensors file is a length, a JSON header and the bytes of the tensors:

    8 bytes: N, little-endian | N bytes: {"key": {"dtype", "shape", "data_offsets": [begin, end]}, ...} | data

The header is checked here before the safetensors library sees the file, because the library does not say
which key is at fault and takes the last of duplicate keys. A pytorch_model.bin is a pickle, which is not
unpickled: see `pickles`.
"""

import json
import math
import os
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seq2seq_zoo.checkpoint.mapping import MappedFile
from seq2seq_zoo.checkpoint.pickles import View, read_pickled
from seq2seq_zoo.errors import CheckpointError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
LONGEST_HEADER = 100_000_000  # the format's own limit
LFS_POINTER = b"version https://git-lfs"
"""What a repository that was cloned without Git LFS has in place of a large file."""
PIECE = 2**24
"""How many bytes are mapped at once where they are converted."""


class TensorInfo(NamedTuple):
    """What a file says of a tensor before it is read."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    file: Path
    begin: int | None = None
    """Where in the file its bytes begin, if they lie there as they do in memory and the format says so."""

    @property
    def bytes(self) -> int:
        """How many it takes."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class WeightFile:
    """One opened file: what it holds, and a way to get a tensor."""

    path: Path
    infos: dict[str, TensorInfo]
    tensor: Callable[[str], Tensor]
    mapped: MappedFile | None = None
    """The file itself, held open, where its tensors lie in it as they do in memory."""

    def read(self, key: str, into: Tensor) -> None:
        """Copy a tensor into another of its shape: mapped, and converted to that one's dtype, in pieces.

        Mapped as a whole, all that was looked at would be in memory beside what it is converted to.
        """
        info = self.infos[key]
        if info.begin is None or self.mapped is None:
            into.copy_(self.tensor(key))
            return
        begin = info.begin
        for piece in into.view(-1).split(max(PIECE // info.dtype.itemsize, 1)):  # type: ignore[no-untyped-call]
            values = self.mapped.tensor(begin, piece.shape, info.dtype, alone=True)
            piece.copy_(_unmapped(self.mapped, begin, piece.shape, info.dtype) if values is None else values)
            begin += len(piece) * info.dtype.itemsize


def _unmapped(mapped: MappedFile, begin: int, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """The tensor that begins at this byte of a file, copied from it: where nothing can be mapped."""
    values = torch.empty(shape, dtype=dtype)
    mapped.read(begin, values.view(torch.uint8).numpy().data)
    return values


def open_file(path: Path) -> WeightFile:
    """Open a .safetensors file or a .bin file; CheckpointError if it is not whole and sound."""
    try:
        size = path.stat().st_size
        if size == 0:
            raise CheckpointError(f"{path} is empty")
        if size < 1024 and path.read_bytes().startswith(LFS_POINTER):
            raise CheckpointError(
                f"{path} is a pointer of Git LFS, not the weights it stands for: `git lfs pull` fetches them"
            )
        return open_safetensors(path) if path.suffix == ".safetensors" else open_pickle(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


# ---- safetensors ----


def open_safetensors(path: Path) -> WeightFile:
    """Read the header; the tensors are mapped when asked for, and stay valid when the WeightFile is gone."""
    mapped = MappedFile(path)
    infos = read_header(path, mapped.file)

    @cache
    def library() -> Any:  # maps the whole file: for systems that MappedFile does not know
        from safetensors import SafetensorError, safe_open

        try:
            found = safe_open(path, framework="pt", device="cpu")
            replaced = not os.path.samestat(path.stat(), os.fstat(mapped.file.fileno()))
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path} cannot be read any more: {error}") from error
        if replaced:
            raise CheckpointError(f"{path} has been replaced since it was opened")
        return found

    def tensor(key: str) -> Tensor:
        info = infos[key]
        found = mapped.tensor(info.begin or 0, info.shape, info.dtype)
        if found is not None:
            return found
        if not info.bytes:
            return torch.empty(info.shape, dtype=info.dtype)

        from safetensors import SafetensorError

        whole = library()
        try:
            value: Tensor = whole.get_tensor(key)
        except (SafetensorError, RuntimeError, OverflowError, ValueError) as error:
            raise CheckpointError(f"{path}: {key!r} of shape {info.shape} cannot be read: {error}") from error
        # Files of other writers may start the data at an odd byte, where vector instructions cannot read.
        return value.clone() if value.data_ptr() % value.element_size() else value

    return WeightFile(path, infos, tensor, mapped)


def read_header(path: Path, file: FileIO) -> dict[str, TensorInfo]:
    """The tensors a safetensors file announces, checked against each other and the file's length."""
    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
    if not 2 <= length <= min(size - 8, LONGEST_HEADER):
        what = f"announces a header of {length} bytes" if length >= 0 else "is shorter than any header"
        raise CheckpointError(f"{path} {what}, but has {size} bytes in all: truncated, or not safetensors")
    text = file.read(length)
    entries = parse_json_object(text, f"the header of {path}")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{path}: __metadata__ must map text to text")

    infos: dict[str, TensorInfo] = {}
    ranges = []
    for key, entry in entries.items():
        shape, dtype, begin, end = _read_entry(path, key, entry, size - 8 - length)
        infos[key] = TensorInfo(shape, dtype, path, 8 + length + begin)
        ranges.append((begin, end, key))

    # The format leaves no holes: the tensors' bytes follow one another up to the end of the file.
    reached, last = 0, "the header"
    for begin, end, key in sorted(ranges):
        if begin != reached:
            fault = "overlaps" if begin < reached else "leaves a hole after"
            raise CheckpointError(f"{path}: the data of {key!r} [{begin}, {end}) {fault} that of {last!r}")
        reached, last = end, key
    if reached != size - 8 - length:
        raise CheckpointError(f"{path}: {size - 8 - length - reached} bytes after the last tensor {last!r}")
    return infos


def _read_entry(
    path: Path, key: str, entry: Any, data_size: int
) -> tuple[tuple[int, ...], torch.dtype, int, int]:
    if not isinstance(entry, dict):
        raise CheckpointError(f"{path}: the entry of {key!r} is {entry!r:.80}; it must be an object")
    dtype = entry.get("dtype")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise CheckpointError(f"{path}: dtype {dtype!r:.80} of {key!r} must be one of {', '.join(DTYPES)}")
    shape = _counts(entry.get("shape"))
    if shape is None:
        raise CheckpointError(f"{path}: shape {entry.get('shape')!r:.80} of {key!r} must be a list of counts")
    offsets = _counts(entry.get("data_offsets"))
    if offsets is None or len(offsets) != 2 or not offsets[0] <= offsets[1] <= data_size:
        raise CheckpointError(
            f"{path}: data_offsets {entry.get('data_offsets')!r:.80} of {key!r} must be [begin, end] "
            f"within the {data_size} bytes of data"
        )
    begin, end = offsets
    if math.prod(shape) * DTYPES[dtype].itemsize != end - begin:
        raise CheckpointError(
            f"{path}: {key!r} has {end - begin} bytes of data, which is not a {dtype} of shape {shape!r:.80}"
        )
    return shape, DTYPES[dtype], begin, end


def _counts(value: Any) -> tuple[int, ...] | None:
    """A JSON list of a few counts that fit 63 bits, so that their product is cheap; otherwise None."""
    if not isinstance(value, list) or len(value) > 64:
        return None
    for count in value:
        if type(count) is not int or not 0 <= count < 2**63:
            return None
    return tuple(value)


def parse_json_object(text: bytes, what: str) -> dict[str, Any]:
    """`text` as a JSON object without duplicate keys, or a CheckpointError that calls it `what`."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            twice = next(key for key, count in counts.items() if count > 1)
            raise CheckpointError(f"{what} has the key {twice!r} twice")
        return found

    try:
        found = json.loads(text.decode(), object_pairs_hook=unique)
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{what} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{what} is JSON of another kind: it must be an object")
    return found


# ---- pickles ----


def open_pickle(path: Path) -> WeightFile:
    """Read what the file says of its tensors; they are mapped when asked for, and stay valid when the
    WeightFile is gone."""
    mapped = MappedFile(path)
    held = read_pickled(path, mapped.file)
    tensors_of = Counter(view.storage.key for view in held.tensors.values())

    def begin(view: View) -> int:
        return held.begins[view.storage.key] + view.offset * view.dtype.itemsize

    def tensor(key: str) -> Tensor:
        view = held.tensors[key]
        if view.contiguous or not math.prod(view.shape):
            first, shape = begin(view), view.shape
        else:  # all of the storage, of which the tensor takes some
            first = held.begins[view.storage.key]
            shape = (view.storage.bytes // view.dtype.itemsize,)
        # What a file holds once may be several tensors; written into, each is to keep its own values.
        found = mapped.tensor(first, shape, view.dtype, alone=tensors_of[view.storage.key] > 1)
        if found is None:
            found = _unmapped(mapped, first, torch.Size(shape), view.dtype)
        if shape != view.shape:
            found = found.as_strided(view.shape, view.strides, view.offset).contiguous()
        if held.swapped:
            found = found.view(torch.uint8).view(*view.shape, -1).flip(-1).view(view.dtype).view(view.shape)
        return found

    infos = {
        key: TensorInfo(
            view.shape, view.dtype, path, begin(view) if view.contiguous and not held.swapped else None
        )
        for key, view in held.tensors.items()
    }
    return WeightFile(path, infos, tensor, mapped)
