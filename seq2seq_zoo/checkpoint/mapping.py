"""Stacks that are not copied: rows that lie in files, mapped side by side into one tensor.

A file may be mapped at any page of memory, from any of its own pages on. So the pages of rows that lie apart,
in any order and in several files, can be made neighbours:

    files     … w1 of expert 1 … w1 of expert 0 …          nothing is read until it is used, and what is read
                      └────────╲╱────────┘                 can be dropped and read again: a model may be
                      ┌────────╱╲────────┐                 larger than memory
    memory    [ row 0            | row 1            | … ]

It takes rows of whole pages, all of which begin equally far behind the beginning of a page. Where a page is
to hold the end of a row and the beginning of the next, both are copied into a page of memory.
"""

import ctypes
import mmap
import os
import sys
import weakref
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from seq2seq_zoo.checkpoint.formats import TensorInfo

FIXED, NO_RESERVE = 0x10, 0x4000  # of Linux's mmap, which Python's mmap module does not name
FAILED = ctypes.c_void_p(-1).value


def mapped_stack(rows: Sequence[TensorInfo]) -> Tensor | None:
    """Tensors of one shape and dtype as the rows of one, [len(rows), …]; None where they must be copied.

    The mapping is private: writing into the tensor does not reach the files.
    """
    first, page = rows[0], mmap.PAGESIZE
    size = first.bytes
    behind = first.begin % page if first.begin is not None else 0
    alike = all(
        row.begin is not None
        and row.begin % page == behind
        and (row.shape, row.dtype) == (first.shape, first.dtype)
        for row in rows
    )
    if not alike or not size or size % page or behind % first.dtype.itemsize or not _can_map():
        return None
    length = _up(behind + size * len(rows), page)
    start = _map(None, length, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE, -1, 0)
    if start is None:
        return None
    buffer = (ctypes.c_char * (size * len(rows))).from_address(start + behind)
    finalizer = weakref.finalize(buffer, _libc().munmap, start, length)
    finalizer.atexit = False  # the process's end unmaps everything
    for number, row in enumerate(rows):
        assert row.begin is not None
        offset, end = row.begin, row.begin + size
        inside, outside = _up(offset, page), end // page * page  # the row's whole pages in the file
        at = start + behind + size * number
        with open(row.file, "rb") as file:
            private = mmap.MAP_PRIVATE | FIXED | NO_RESERVE
            if outside > inside and not _map(
                at + inside - offset, outside - inside, private, file.fileno(), inside
            ):
                return None
            for begin, stop in ((offset, inside), (outside, end)):
                seam = os.pread(file.fileno(), stop - begin, begin)
                ctypes.memmove(at + begin - offset, seam, len(seam))
    return torch.frombuffer(buffer, dtype=first.dtype).view(len(rows), *first.shape)


def _up(number: int, page: int) -> int:
    return -(-number // page) * page


def _can_map() -> bool:
    """Whether this is a system whose mmap is known here."""
    return sys.platform == "linux" and sys.maxsize > 2**32


@cache
def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return libc


def _map(at: int | None, length: int, flags: int, file: int, offset: int) -> int | None:
    """The address of new pages that may be read and written; None where the system refuses."""
    found: int = _libc().mmap(at, length, mmap.PROT_READ | mmap.PROT_WRITE, flags, file, offset)
    return None if found == FAILED else found
