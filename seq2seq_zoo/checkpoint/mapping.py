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

It takes rows of whole pages, all of which begin equally far behind the beginning of a page. Where a page is
to hold the end of a row and the beginning of the next, both are copied into a page of memory.
"""

import ctypes
import math
import mmap
import os
import platform
import sys
import weakref
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
    [len(places), *shape]. None where that needs a copy, or a system that is not known here.

    The mapping is private: writing into the tensor does not reach the files.
    """
    page, rows = mmap.PAGESIZE, len(places)
    size = math.prod(shape) * dtype.itemsize
    behind = places[0][1] % page
    fits = all(begin % page == behind for _, begin in places) and (rows == 1 or size % page == 0)
    if not fits or not size or behind % dtype.itemsize or not _known_system():
        return None
    length = _up(behind + size * rows, page)
    start = _map(None, length, NEW, -1, 0)
    if start is None:
        return None
    buffer = (ctypes.c_char * (size * rows)).from_address(start + behind)
    finalizer = weakref.finalize(buffer, _libc().munmap, start, length)
    finalizer.atexit = False  # the end of the process unmaps everything
    for number, (path, begin) in enumerate(places):
        # What a page holds besides the first row's beginning and the last one's end is nobody's concern.
        end, at = begin + size, start + behind + size * number
        first = _up(begin, page) if number else begin - behind
        last = end // page * page if number < rows - 1 else _up(end, page)
        with open(path, "rb") as file:
            if last > first and not _map(at + first - begin, last - first, OVER, file.fileno(), first):
                return None
            for here, there in ((begin, first), (last, end)):
                seam = os.pread(file.fileno(), max(there - here, 0), here)
                ctypes.memmove(at + here - begin, seam, len(seam))
    return torch.frombuffer(buffer, dtype=dtype).view(rows, *shape)


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
