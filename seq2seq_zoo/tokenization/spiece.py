"""sentencepiece models: the file, the library's processor, and the few fields of the file that others need.

A spiece.model is a protocol buffer (google/sentencepiece, src/sentencepiece_model.proto). The library reads
it for encoding and decoding but does not show its normalization table, which `tokenizers` needs to do the
same, so the fields in question are read here:

    ModelProto       1 pieces*           2 trainer_spec      3 normalizer_spec
    SentencePiece    1 piece (text)      2 score (float)     3 type
    TrainerSpec      3 model_type        40 unk_id
    NormalizerSpec   2 precompiled_charsmap (bytes)          3 add_dummy_prefix (bool)
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sentencepiece import SentencePieceProcessor

from seq2seq_zoo.errors import TokenizerError

from . import files

UNDERLINE = "▁"
"""What stands for a space in pieces."""

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Types of pieces."""
UNIGRAM, BPE, WORD, CHAR = range(1, 5)
"""Types of models."""

# Appended to a model this is a second normalizer_spec, which a reader merges into the first: add_dummy_prefix
# off.
_NO_DUMMY_PREFIX = bytes([3 << 3 | 2, 2, 3 << 3 | 0, 0])


@dataclass(frozen=True)
class Spiece:
    """What a spiece.model says."""

    pieces: list[tuple[str, float]]
    """Text and score, in the order of the ids."""
    types: list[int]
    model_type: int
    unk_id: int
    charsmap: bytes
    """The compiled normalization table, empty if there is none."""


def read_spiece(path: str | os.PathLike[str]) -> bytes:
    """The content of a spiece.model; TokenizerError if it is missing, empty or no sentencepiece model."""
    content = files.read_bytes(path)
    load_processor(content, path)
    return content


def load_processor(
    content: bytes, path: str | os.PathLike[str], *, dummy_prefix: bool = True, **options: Any
) -> SentencePieceProcessor:
    """The library's processor; without `dummy_prefix` it puts no space before a text."""
    try:
        processor = SentencePieceProcessor(**options)
    except TypeError as error:
        raise TokenizerError(f"sp_model_kwargs is {options}: {error}") from error
    try:
        processor.LoadFromSerializedProto(content if dummy_prefix else content + _NO_DUMMY_PREFIX)
    except RuntimeError as error:
        raise TokenizerError(f"{os.fspath(path)} is no sentencepiece model: {error}") from error
    return processor


def parse_spiece(content: bytes, path: str | os.PathLike[str]) -> Spiece:
    """The fields named above; TokenizerError if the content is damaged."""
    try:
        return _parse(content)
    except (ValueError, IndexError, struct.error) as error:
        raise TokenizerError(f"{os.fspath(path)} is no sentencepiece model: {error}") from error


def _parse(content: bytes) -> Spiece:
    pieces: list[tuple[str, float]] = []
    types: list[int] = []
    model_type, unk_id, charsmap = UNIGRAM, 0, b""
    for number, value in _fields(content):
        if number == 1:
            text, score, kind = "", 0.0, NORMAL
            for inner, part in _fields(_message(value)):
                if inner == 1:
                    text = _message(part).decode("utf-8")
                elif inner == 2:
                    score = struct.unpack("<f", _message(part))[0]
                elif inner == 3:
                    kind = _integer(part)
            pieces.append((text, score))
            types.append(kind)
        elif number == 2:
            for inner, part in _fields(_message(value)):
                model_type = _integer(part) if inner == 3 else model_type
                unk_id = _integer(part) if inner == 40 else unk_id
        elif number == 3:
            for inner, part in _fields(_message(value)):
                charsmap = _message(part) if inner == 2 else charsmap
    if not pieces:
        raise ValueError("it has no pieces")
    return Spiece(pieces, types, model_type, unk_id, charsmap)


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a message: an integer, or the bytes of anything longer."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size, at = _varint(message, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"byte {at}: a field of the unknown kind {kind}")
        if at + size > end:
            raise ValueError(f"byte {at}: a field of {size} bytes goes past the end")
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """An integer in groups of seven bits, the lowest first, and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError(f"byte {at}: an integer of more than 64 bits")


def _message(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("an integer stands where bytes must")
    return value


def _integer(value: int | bytes) -> int:
    if isinstance(value, bytes):
        raise ValueError("bytes stand where an integer must")
    return value
