"""Tensors that are not copied: their bytes stay in files, and memory is mapped to them.

What is mapped is read from the file when it is used, and can be dropped and read again when memory is short:
so a model may be larger than memory. Each tensor is mapped by itself, because a system may refuse to map at
once a file that is larger than memory.

A file may be mapped at any page of memory, from any of its own pages on. So the pages of tensors that lie
apart, in any order and in several files, can be made neighbours, and the tensors the rows of one:

    files     … w1 of expert 1 … w1 of expert 0 …
                      └────────╲╱────────┘
                      ┌────────╱╲────────┐
    memory    [ row 0            | row 1            | … ]

It takes rows of whole pages, which begin equally far behind the beginning of a page: all do that lie in one
file, in a model of usual sizes. What does not fit is copied into pages of memory: rows that begin elsewhere,
and where one row ends and the next begins within a page, the two ends.
"""

import ctypes
import math
import mmap
import platform
import sys
import weakref
from collections.abc import Sequence
from functools import cache
from io import FileIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seq2seq_zoo.errors import CheckpointError

# Numbers of Linux's mmap on these machines; Python's mmap module can map nothing to a given address.
MACHINES = ("x86_64", "aarch64")
READ_AND_WRITE = 0x1 | 0x2
PRIVATE, FIXED, ANONYMOUS, NO_RESERVE = 0x02, 0x10, 0x20, 0x4000
NEW = PRIVATE | ANONYMOUS | NO_RESERVE
OVER = PRIVATE | FIXED | NO_RESERVE
FAILED = ctypes.c_void_p(-1).value


def mapped_rows(
    places: Sequence[tuple[Path, int]], shape: Sequence[int], dtype: torch.dtype
) -> Tensor | None:
    """The tensors of one shape and dtype that begin at these bytes of these files, as the rows of one:
    [len(places), *shape]. None for nothing, or on a system that is not known here.

    The mapping is private: writing into the tensor does not reach the files. Raises CheckpointError where a
    file ends too early.
    """
    page, rows = mmap.PAGESIZE, len(places)
    size = math.prod(shape) * dtype.itemsize
    if not size * rows or not _known_system():
        return None
    # How far behind a page's beginning the first row must stand, for each row to be mapped where it belongs.
    wanted = [(begin - number * size) % page for number, (_, begin) in enumerate(places)]
    behind = max(set(wanted), key=wanted.count)
    behind = 0 if behind % dtype.itemsize else behind
    length = _up(behind + size * rows, page)
    start = _map(None, length, NEW, -1, 0)
    if start is None:
        return None
    buffer = (ctypes.c_char * (size * rows)).from_address(start + behind)
    finalizer = weakref.finalize(buffer, _libc().munmap, start, length)
    finalizer.atexit = False  # the end of the process unmaps everything
    for number, (path, begin) in enumerate(places):
        end, shift = begin + size, start + behind + number * size - begin  # from the file to memory
        first = last = begin  # of the pages that are mapped
        if wanted[number] == behind:
            # What else there is before the first row and behind the last is nobody's concern.
            first = _up(begin, page) if number else begin // page * page
            last = end // page * page if number < rows - 1 else _up(end, page)
        with open(path, "rb", buffering=0) as file:
            if last <= first:
                first = last = begin
            elif _map(shift + first, last - first, OVER, file.fileno(), first) is None:
                return None
            for here, there in ((begin, first), (max(last, begin), end)):
                _read(file, here, there, shift)
    return torch.frombuffer(buffer, dtype=dtype).view(rows, *shape)


def _read(file: FileIO, begin: int, end: int, shift: int) -> None:
    """Copy the bytes `begin` … `end` of a file to their addresses, `shift` beyond."""
    file.seek(begin)
    while begin < end:
        got = file.readinto((ctypes.c_char * (end - begin)).from_address(shift + begin))
        if not got:
            raise CheckpointError(f"{file.name!s} has lost bytes {begin} … {end} since it was opened")
        begin += got


def _up(number: int, page: int) -> int:
    return -(-number // page) * page


def _known_system() -> bool:
    return sys.platform == "linux" and platform.machine() in MACHINES and sys.maxsize > 2**32


@cache
def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return libc


def _map(at: int | None, length: int, flags: int, file: int, offset: int) -> int | None:
    """The address of new pages that may be read and written; None where the system refuses."""
    found: int = _libc().mmap(at, length, READ_AND_WRITE, flags, file, offset)
    return None if found == FAILED else found
