"""Tensors that are not copied: their bytes stay in files, and memory is mapped to them.

What is mapped is read from the file when it is used, and can be dropped and read again when memory is short:
so a model may be larger than memory. A large tensor is mapped by itself, because a system may refuse to map
at once a file that is larger than memory. Small ones that are neighbours in the file share a mapping: to make
one takes longer than all else that is done for a tensor.

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
import os
import platform
import sys
import threading
import weakref
from collections.abc import Sequence
from functools import cache
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

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


WINDOW = 2**24
"""Bytes of a file that are mapped at once for the sake of small tensors, those of up to a quarter of it."""


class Pages(NamedTuple):
    """The bytes `begin` … `end` of a file, in memory."""

    begin: int
    end: int
    memory: Any
    """A buffer, upon which whatever lies in it holds fast."""


class MappedFile:
    """A file of which tensors are mapped as they are asked for. They stay when it is gone.

    It is held open: should another take its place meanwhile, all tensors still come from the one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = FileIO(path)
        self._reading = threading.Lock()
        weakref.finalize(self, self.file.close)
        self._windows: dict[int, Pages] = {}

    def tensor(
        self, begin: int, shape: tuple[int, ...], dtype: torch.dtype, *, alone: bool = False
    ) -> Tensor | None:
        """The tensor that begins at this byte of the file. None for an empty one, or on a system that is not
        known here. What is mapped `alone` is let go of with the tensor.

        The mapping is private: writing into the tensor does not reach the file. Raises CheckpointError if the
        file does not go so far any more.
        """
        size = math.prod(shape) * dtype.itemsize
        if not size or not _known_system():
            return None
        if begin % dtype.itemsize:  # vector instructions cannot read it where it would lie
            rows = mapped_rows([(self, begin)], shape, dtype)
            return None if rows is None else rows[0]
        number = begin // WINDOW
        pages = self._windows.get(number)
        if alone or size > WINDOW // 4:
            pages = self._pages(begin, size, begin + size)
        elif pages is None or begin + size > pages.end:
            # So far that all small tensors which begin in this window end there.
            pages = self._pages(number * WINDOW, WINDOW + WINDOW // 4, begin + size)
            if pages is not None:
                self._windows[number] = pages
        if pages is None:
            return None
        count, offset = size // dtype.itemsize, begin - pages.begin
        return torch.frombuffer(pages.memory, dtype=dtype, count=count, offset=offset).view(shape)

    def _pages(self, begin: int, size: int, end: int) -> Pages | None:
        """`size` bytes or, if the file ends before, what there is of them: those before `end` must be."""
        behind = begin % mmap.PAGESIZE
        size = min(size, self.reaches(end) - begin)
        start = _map(None, behind + size, PRIVATE | NO_RESERVE, self.file.fileno(), begin - behind)
        return None if start is None else Pages(begin, begin + size, _memory(start, behind, size))

    def reaches(self, end: int) -> int:
        """The length of the file, which went at least as far as `end` when it was opened."""
        length = os.fstat(self.file.fileno()).st_size
        if length < end:
            raise _shrunk(self.path, length)
        return length

    def read(self, begin: int, into: memoryview) -> None:
        """Copy bytes from `begin` on, as many as there is room for."""
        self.reaches(begin + into.nbytes)
        with self._reading:
            self.file.seek(begin)
            while into:
                got = self.file.readinto(into)
                if not got:
                    raise _shrunk(self.path, self.file.tell())
                into = into[got:]


def mapped_rows(
    places: Sequence[tuple[MappedFile, int]], shape: Sequence[int], dtype: torch.dtype
) -> Tensor | None:
    """The tensors of one shape and dtype that begin at these bytes of these files, as the rows of one:
    [len(places), *shape]. None as above, and private as above.

    Raises CheckpointError where a file ends too early.
    """
    page, rows = mmap.PAGESIZE, len(places)
    size = math.prod(shape) * dtype.itemsize
    if not size * rows or not _known_system():
        return None
    # How far behind a page's beginning the first row must stand, for each row to be mapped where it belongs.
    wanted = [(begin - number * size) % page for number, (_, begin) in enumerate(places)]
    behind = max(set(wanted), key=wanted.count)
    behind = 0 if behind % dtype.itemsize else behind
    start = _map(None, behind + size * rows, NEW, -1, 0)
    if start is None:
        return None
    buffer = _memory(start, behind, size * rows)
    for number, (mapped, begin) in enumerate(places):
        end, shift = begin + size, start + behind + number * size - begin  # from the file to memory
        first = last = begin  # of the pages that are mapped
        if wanted[number] == behind:
            # What else there is before the first row and behind the last is nobody's concern.
            first = _up(begin, page) if number else begin // page * page
            last = end // page * page if number < rows - 1 else _up(end, page)
        mapped.reaches(end)
        if last <= first:
            first = last = begin
        elif _map(shift + first, last - first, OVER, mapped.file.fileno(), first) is None:
            return None
        for here, there in ((begin, first), (max(last, begin), end)):
            if here < there:
                seam = (ctypes.c_char * (there - here)).from_address(shift + here)
                mapped.read(here, memoryview(seam).cast("B"))
    return torch.frombuffer(buffer, dtype=dtype).view(rows, *shape)


def _memory(start: int, behind: int, size: int) -> Any:
    """The memory of `size` bytes that begins `behind` a mapping's start; it is unmapped once out of use."""
    buffer = (ctypes.c_char * size).from_address(start + behind)
    finalizer = weakref.finalize(buffer, _libc().munmap, start, behind + size)
    finalizer.atexit = False  # the end of the process unmaps everything
    return buffer


def _shrunk(path: object, length: int) -> CheckpointError:
    return CheckpointError(f"{path} has shrunk to {length} bytes since it was opened")


def _up(number: int, page: int) -> int:
    return -(-number // page) * page


@cache
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
