"""sentencepiece models: the file, the library's processor, and the few fields of the file that others need.

A spiece.model is a protocol buffer (google/sentencepiece, src/sentencepiece_model.proto). The library reads
it for encoding and decoding but does not show its normalization table, which `tokenizers` needs to do the
same, so the fields in question are read here:

    ModelProto       1 pieces*           2 trainer_spec      3 normalizer_spec
    SentencePiece    1 piece (text)      2 score (float)     3 type
    TrainerSpec      3 model_type        35 byte_fallback    40 unk_id
    NormalizerSpec   2 precompiled_charsmap (bytes)          3 add_dummy_prefix (bool)

The other way round, a unigram model that stands only in a tokenizer.json, as transformers 5.x saves it,
becomes a spiece.model again with the same fields.
"""

from __future__ import annotations

import base64
import os
import re
import struct
from collections.abc import Iterator, Mapping
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

MOST_SCORE = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]
"""The largest number of float32, in which models keep the scores of pieces."""

SENTINEL = re.compile(r"<extra_id_\d+>")
"""Tokens that T5 puts behind the pieces of its model."""
_OPTIONS = {
    **dict.fromkeys(("add_bos", "add_eos", "reverse", "emit_unk_piece", "enable_sampling"), (bool,)),
    **dict.fromkeys(("nbest_size", "num_threads"), (int,)),
    "alpha": (int, float),
}
"""Of the processor's arguments those that do not say which model it is."""
_BYTE_PIECES = frozenset(f"<0x{byte:02X}>" for byte in range(256))

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
    """The content of a spiece.model; TokenizerError if it is missing or empty.

    Whether it is a sentencepiece model shows in `load_processor` or `parse_spiece`: reading a large one twice
    would cost seconds.
    """
    return files.read_bytes(path)


def check_options(options: Mapping[str, Any]) -> None:
    """Raise TokenizerError unless these are arguments of a processor."""
    for name, value in options.items():
        if name not in _OPTIONS or type(value) not in _OPTIONS[name]:
            raise TokenizerError(
                f"sp_model_kwargs has {name}={value!r:.80}; it must have no other names than "
                + ", ".join(f"{name} ({kinds[-1].__name__})" for name, kinds in _OPTIONS.items())
            )


def load_processor(
    content: bytes, path: str | os.PathLike[str], *, dummy_prefix: bool = True, **options: Any
) -> SentencePieceProcessor:
    """The library's processor; without `dummy_prefix` it puts no space before a text."""
    # The documented way to say that nothing is sampled, which the library refuses at the first text.
    if options.get("nbest_size") in (0, 1):
        options["enable_sampling"] = False
    check_options(options)
    processor = SentencePieceProcessor(**options)
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


def spiece_of_json(path: str | os.PathLike[str]) -> bytes:
    """The unigram model of a tokenizer.json as a spiece.model; TokenizerError if it holds no such model.

    Sentinels (<extra_id_0>, …) are left out: they are no pieces of the model.  Special tokens become control
    symbols, other added tokens user-defined ones.
    """
    content = files.read_json(path)
    model = content.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), list) or not model["vocab"]:
        raise TokenizerError(f"{os.fspath(path)} holds no unigram model")
    try:
        pieces = [(str(text), float(score)) for text, score in model["vocab"]]
        flags = {token["content"]: bool(token["special"]) for token in content.get("added_tokens") or []}
        unk_id = int(model["unk_id"])
        charsmap = b"".join(base64.b64decode(table) for table in _charsmaps(content.get("normalizer")))
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise TokenizerError(f"{os.fspath(path)} is no valid tokenizer file: {error!r}") from error
    if not 0 <= unk_id < len(pieces):
        raise TokenizerError(f"{os.fspath(path)}: unk_id is {unk_id}, but there are {len(pieces)} pieces")
    if not all(abs(score) <= MOST_SCORE for _, score in pieces):
        raise TokenizerError(f"{os.fspath(path)}: a score of a piece is beyond what float32 holds")
    while pieces and SENTINEL.fullmatch(pieces[-1][0]):
        pieces.pop()
    texts = {text for text, _ in pieces}
    bytes_too = all(text in texts for text in _BYTE_PIECES)
    types = [
        UNKNOWN
        if i == unk_id
        else BYTE
        if bytes_too and text in _BYTE_PIECES
        else {True: CONTROL, False: USER_DEFINED}[flags[text]]
        if text in flags
        else NORMAL
        for i, (text, _) in enumerate(pieces)
    ]
    return _serialized(Spiece(pieces, types, UNIGRAM, unk_id, charsmap))


def _charsmaps(normalizer: Any) -> Iterator[str]:
    """The normalization tables (at most one) in a tokenizer.json's normalizer."""
    if isinstance(normalizer, dict):
        if normalizer.get("type") == "Precompiled":
            yield normalizer["precompiled_charsmap"]
        for inner in normalizer.get("normalizers") or []:
            yield from _charsmaps(inner)


def _serialized(model: Spiece) -> bytes:
    content = bytearray()
    for (text, score), kind in zip(model.pieces, model.types, strict=True):
        piece = (
            _field(1, text.encode("utf-8")) + bytes([2 << 3 | 5]) + struct.pack("<f", score) + _field(3, kind)
        )
        content += _field(1, piece)
    trainer = _field(3, model.model_type) + _field(35, int(BYTE in model.types)) + _field(40, model.unk_id)
    return bytes(content) + _field(2, trainer) + _field(3, _field(2, model.charsmap))


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return _packed(number << 3) + _packed(value)
    return _packed(number << 3 | 2) + _packed(len(value)) + value


def _packed(value: int) -> bytes:
    """An integer in groups of seven bits, the lowest first."""
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


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
