"""Pickled weights, read without being unpickled.

A pickle is a program for a little machine with a stack; it can call whatever Python has, and even what it may
be allowed to call can ask for any memory, or for none that was set. So it is not run here, but read: of its
instructions those are followed that a dict of tensors is made of, and what they would make is only noted.

    zip archive (since torch 1.6)    NAME/data.pkl: the program; NAME/data/KEY: the bytes of a storage
    bare pickles (before)            magic, version, system, the program, keys of the storages; then, for each
                                     of these, its count in 8 bytes, and its bytes
"""

import math
import pickletools
import struct
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch

from seq2seq_zoo.errors import CheckpointError
from seq2seq_zoo.json_file import LONGEST

MOST_INSTRUCTIONS = 5_000_000
"""Of a program: a tensor takes about forty."""
MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001

_STORAGES = {
    f"torch.{kind}Storage": dtype
    for kind, dtype in (
        ("Double", torch.float64),
        ("Float", torch.float32),
        ("Half", torch.float16),
        ("BFloat16", torch.bfloat16),
        ("ComplexFloat", torch.complex64),
        ("Long", torch.int64),
        ("Int", torch.int32),
        ("Short", torch.int16),
        ("Char", torch.int8),
        ("Byte", torch.uint8),
        ("Bool", torch.bool),
    )
}
_STORAGES["torch.storage.UntypedStorage"] = torch.uint8
_DTYPES = {
    f"torch.{name}": getattr(torch, name)
    for name in ("float8_e4m3fn", "float8_e5m2", "uint16", "uint32", "uint64")
}
"""What has no storage of its own name."""


class Storage(NamedTuple):
    """Numbers that lie one behind another: `length` of them, under a key of the file's own."""

    key: str
    dtype: torch.dtype
    length: int

    @property
    def bytes(self) -> int:
        """How many it takes."""
        return self.length * self.dtype.itemsize


class View(NamedTuple):
    """A tensor: what it sees of a storage."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    """In numbers of `dtype`, as the strides are."""
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def contiguous(self) -> bool:
        """Whether its numbers lie one behind another."""
        stride = 1
        for size, found in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size != 1 and found != stride:
                return False
            stride *= size
        return True


@dataclass(frozen=True)
class _Name:
    """Something of Python's that a program names: it is kept by its name."""

    name: str


class _RefusedError(Exception):
    """Why a program is none that makes tensors."""


@dataclass(frozen=True)
class Pickled:
    """What a file holds: its tensors, and at which byte each storage begins."""

    tensors: dict[str, View]
    begins: dict[str, int]
    swapped: bool
    """Whether the bytes of its numbers are in the order of other machines."""


def read_pickled(path: Path, opened: FileIO) -> Pickled:
    """What a pytorch_model.bin holds; CheckpointError unless it is whole, and a dict of tensors alone."""
    try:
        with open(opened.fileno(), "rb", closefd=False) as file:
            archive = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            found = _of_archive(path, file) if archive else _of_bare_pickles(path, file)
    except _RefusedError as reason:
        raise CheckpointError(f"{path} cannot be read as weights: {reason}") from None
    for key, view in found.tensors.items():
        if found.begins.get(view.storage.key) is None:
            raise CheckpointError(f"{path}: the data of {key!r} is not in the file")
    return found


# ---- the two layouts ----


def _of_archive(path: Path, file: BinaryIO) -> Pickled:
    try:
        with zipfile.ZipFile(file) as archive:
            records = archive.infolist()
            end = archive.start_dir
            programs = [record for record in records if record.filename.endswith("/data.pkl")]
            twice = [name for name, count in Counter(r.filename for r in records).items() if count > 1]
            packed = [record.filename for record in records if record.compress_type != zipfile.ZIP_STORED]
            if packed:
                # torch never compresses; a small archive could unpack to any size.
                raise CheckpointError(
                    f"{path}: the record {packed[0]!r} is compressed, as torch never writes it"
                )
            if twice or len(programs) != 1 or programs[0].file_size > LONGEST:
                raise _RefusedError(
                    f"it has the record {twice[0]!r} twice" if twice else "it has no data.pkl"
                )
            folder = programs[0].filename.removesuffix("data.pkl")
            made = _followed(_Limited(archive.open(programs[0])))
            order = f"{folder}byteorder"
            swapped = order in archive.namelist() and archive.read(order) == b"big"
    except CheckpointError:
        raise
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path} is a damaged archive, perhaps truncated: {error}") from error

    tensors = _tensors_of(path, made)
    lengths = {f"{folder}data/{view.storage.key}": view.storage.bytes for view in tensors.values()}
    begins = {}
    records.sort(key=lambda record: record.header_offset)
    for record, following in zip(records, [*records[1:], None], strict=True):
        size = lengths.get(record.filename)
        if size is None:
            continue
        file.seek(record.header_offset)
        header = file.read(30)
        name, extra = struct.unpack("<HH", header[26:]) if len(header) == 30 else (0, 0)
        begin = record.header_offset + 30 + name + extra
        limit = end if following is None else following.header_offset
        if size != record.file_size or begin + size > limit:
            key = next(k for k, p in tensors.items() if f"{folder}data/{p.storage.key}" == record.filename)
            raise CheckpointError(f"{path}: the data of {key!r} is not as long as the file says")
        begins[record.filename.removeprefix(f"{folder}data/")] = begin
    return Pickled(tensors, begins, swapped)


def _of_bare_pickles(path: Path, file: BinaryIO) -> Pickled:
    program = _Limited(file)
    if _followed(program) != MAGIC or _followed(program) != VERSION:
        raise _RefusedError("it is damaged, or holds something other than tensors that torch.save wrote")
    system = _followed(program)
    tensors = _tensors_of(path, _followed(program))
    keys = _followed(program)
    storages = {view.storage.key: view.storage for view in tensors.values()}
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in storages for key in keys):
        raise _RefusedError("its storages are not those of its tensors")
    size, begins = path.stat().st_size, {}
    for key in keys:
        count = struct.unpack("<q", file.read(8).ljust(8, b"\xff"))[0]
        begin, length = file.tell(), storages[key].bytes
        if count != storages[key].length or begin + length > size or key in begins:
            name = next(name for name, view in tensors.items() if view.storage.key == key)
            raise CheckpointError(f"{path}: the data of {name!r} is not as long as the file says")
        begins[key] = begin
        file.seek(begin + length)
    little = system.get("little_endian", True) if isinstance(system, dict) else True
    return Pickled(tensors, begins, swapped=little is False)


def _tensors_of(path: Path, made: Any) -> dict[str, View]:
    if not isinstance(made, dict):
        raise CheckpointError(f"{path} holds a {_kind(made)}; it must hold a dict of tensors")
    for key, value in made.items():
        if not isinstance(key, str) or not isinstance(value, View):
            raise CheckpointError(f"{path}: the entry {key!r:.80} is a {_kind(value)}, not a tensor")
        if _problem(value):
            raise CheckpointError(f"{path}: {key!r} of shape {value.shape!r:.80} {_problem(value)}")
    counts: dict[str, Storage] = {}
    for key, value in made.items():
        if counts.setdefault(value.storage.key, value.storage) != value.storage:
            raise CheckpointError(f"{path}: {key!r} and another tensor disagree about the data they share")
    return made


def _problem(view: View) -> str:
    """What is wrong with a tensor, if anything is."""
    sizes = (*view.shape, *view.strides, view.offset, view.storage.length)
    if len(view.shape) > 64 or not all(type(n) is int and 0 <= n < 2**63 for n in sizes):
        return "has sizes that no tensor has"
    length, wanted = view.storage.bytes // view.dtype.itemsize, math.prod(view.shape)
    if wanted > length:  # strides of zero let a few bytes pose as a huge tensor
        return "has too few bytes of data"
    reach = sum((size - 1) * stride for size, stride in zip(view.shape, view.strides, strict=True))
    return "reaches beyond its data" if wanted and view.offset + reach >= length else ""


def _kind(value: Any) -> str:
    return "Tensor" if isinstance(value, View) else type(value).__name__


# ---- the machine ----


class _Limited:
    """A file of which an instruction cannot ask for more than a program is long."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def read(self, size: int) -> bytes:
        if size > LONGEST:
            raise ValueError(f"an instruction asks for {size} bytes")
        found: bytes = self.file.read(size)
        return found

    def readline(self) -> bytes:
        found: bytes = self.file.readline(LONGEST)
        return found


def _tensor(args: tuple[Any, ...]) -> View:
    storage, offset, shape, strides, *_ = args
    if not isinstance(storage, Storage):
        raise _RefusedError("a tensor is made of something else than a storage")
    if not isinstance(shape, tuple) or not isinstance(strides, tuple) or len(shape) != len(strides):
        raise _RefusedError("a tensor has no shape")
    if len(args) == 7 and args[6]:  # metadata: the numbers are those of the storage negated, or conjugated
        raise _RefusedError("a tensor is a view that changes its data")
    return View(storage, storage.dtype, offset, shape, strides)


def _tensor_of_dtype(args: tuple[Any, ...]) -> View:
    found, dtype = _tensor(args[:6]), args[6]
    if not isinstance(dtype, _Name) or dtype.name not in _DTYPES or args[7:] not in ((), ({},)):
        raise _RefusedError("a tensor is of a dtype that weights do not have")
    return found._replace(dtype=_DTYPES[dtype.name])


def _parameter(args: tuple[Any, ...]) -> View:
    if not isinstance(args[0], View):
        raise _RefusedError("a parameter is made of something else than a tensor")
    return args[0]


def _ordered(args: tuple[Any, ...]) -> dict[Any, Any]:
    pairs = args[0] if args else []
    if not isinstance(pairs, list) or not all(isinstance(p, list | tuple) and len(p) == 2 for p in pairs):
        raise _RefusedError("a dict is made of something else than pairs")
    found: dict[Any, Any] = {}
    for key, value in pairs:
        _put(found, key, value)
    return found


def _with_attributes(args: tuple[Any, ...]) -> Any:
    function, kind, its_args, _ = args
    made_by = _MAKERS.get(function.name) if isinstance(function, _Name) else None
    if made_by is None or not isinstance(kind, _Name) or kind.name not in _KINDS:
        raise _RefusedError("it makes something else than a tensor")
    return made_by(its_args)


_MAKERS: Mapping[str, Callable[[tuple[Any, ...]], Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _with_attributes,
    "collections.OrderedDict": _ordered,
    "torch.Size": lambda args: args[0],
}
"""What a program may call: the call is answered here with a note of what it would make."""
_KINDS = {"torch.Tensor", "torch.nn.parameter.Parameter"}
_KNOWN = {*_MAKERS, *_STORAGES, *_DTYPES, *_KINDS}


def _put(into: Any, key: Any, value: Any) -> None:
    if not isinstance(into, dict) or not isinstance(key, str | int):  # the hash of a tuple may take for ever
        raise _RefusedError("it puts something into what is no dict, or under what is no key")
    into[key] = value


def _storage(pid: Any) -> Storage:
    kind, name, key, _, count, *view = pid if isinstance(pid, tuple) and 5 <= len(pid) <= 6 else (None,) * 5
    if (
        kind != "storage"
        or not isinstance(name, _Name)
        or name.name not in _STORAGES
        or view not in ([], [None])
    ):
        raise _RefusedError("it asks for something else than the data of a tensor")
    if not isinstance(key, str) or type(count) is not int:
        raise _RefusedError("it asks for data without a key, or of no count")
    return Storage(key, _STORAGES[name.name], count)


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_PUSHED = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINSTRING", "BINSTRING", "INT", "LONG", "UNICODE"),
}
_EMPTY: Mapping[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _followed(program: _Limited) -> Any:
    """What the next program of a file would make, in notes; _RefusedError if it does anything else."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def popped(count: int) -> list[Any]:
        if count > len(stack):
            raise IndexError("the stack is empty")
        taken = stack[len(stack) - count :]
        del stack[len(stack) - count :]
        return taken

    def marked() -> list[Any]:
        return popped(len(stack) - marks.pop())

    try:
        instructions: Iterable[tuple[Any, Any, Any]] = pickletools.genops(program)  # type: ignore[arg-type]
        for count, (instruction, argument, _) in enumerate(instructions):
            if count == MOST_INSTRUCTIONS:
                raise _RefusedError(f"its program has more than {MOST_INSTRUCTIONS} instructions")
            name: str = instruction.name
            if name in _PUSHED:
                stack.append(argument)
            elif name in ("BINPUT", "LONG_BINPUT"):
                memo[argument] = stack[-1]
            elif name == "MEMOIZE":
                memo[len(memo)] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                stack.append(memo[argument])
            elif name == "MARK":
                marks.append(len(stack))
            elif name == "TUPLE":
                stack.append(tuple(marked()))
            elif name in _TUPLES:
                stack.append(tuple(popped(_TUPLES[name])))
            elif name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            elif name in _EMPTY:
                stack.append(_EMPTY[name]())
            elif name in ("GLOBAL", "STACK_GLOBAL"):
                wanted = ".".join(argument.split(" ", 1) if name == "GLOBAL" else popped(2))
                if wanted not in _KNOWN:
                    raise _RefusedError(
                        f"it asks to run {wanted:.80}, which weights never need; it was refused"
                    )
                stack.append(_Name(wanted))
            elif name == "REDUCE":
                called, args = popped(2)
                if not isinstance(called, _Name) or called.name not in _MAKERS:
                    raise _RefusedError("it calls what is no function")
                stack.append(_MAKERS[called.name](args))
            elif name == "BINPERSID":
                stack.append(_storage(*popped(1)))
            elif name == "SETITEM":
                key, value = popped(2)
                _put(stack[-1], key, value)
            elif name == "SETITEMS":
                items = marked()
                for key, value in zip(items[::2], items[1::2], strict=True):
                    _put(stack[-1], key, value)
            elif name in ("APPEND", "APPENDS"):
                items = popped(1) if name == "APPEND" else marked()
                if not isinstance(stack[-1], list):
                    raise _RefusedError("it appends to what is no list")
                stack[-1].extend(items)
            elif name == "BUILD":  # the attributes of a dict: _metadata, which says nothing of tensors
                popped(1)
                if not isinstance(stack[-1], dict):
                    raise _RefusedError("it gives attributes to what is no dict")
            elif name == "STOP":
                return popped(1)[0]
            elif name not in ("PROTO", "FRAME"):
                raise _RefusedError(f"it has the instruction {name}, which weights never need")
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise _RefusedError(f"it is damaged: {error!s:.200}") from error
    raise _RefusedError("it is damaged: it does not end")
