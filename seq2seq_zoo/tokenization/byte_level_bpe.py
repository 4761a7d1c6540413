"""Byte-level byte-pair encoding: the tokenizers of MVP, RoBERTa and BART.

    " Hello"  ──UTF-8 bytes as printable characters──▶  "ĠHello"  ──merges──▶  "ĠHe", "llo"

Every byte has a character of its own, so no text is unknown (Radford et al. 2019, section 2.2). A space
belongs to the word after it: "Hello" at the beginning of a text and " Hello" within it are different pieces,
unless `add_prefix_space` puts a space before the text.

    one text   <s> A </s>          two texts   <s> A </s></s> B </s>

MvpTokenizer and MvpTokenizerFast give the same ids but where their transformers namesakes differ: the first
puts the prefix space before the text (or before every word of a text split into words), the second before
every stretch of text between added tokens.
"""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import tokenizers
from tokenizers import AddedToken, decoders, pre_tokenizers, processors
from tokenizers.models import BPE

from seq2seq_zoo.errors import TokenizerError

from . import files
from .backend import BackendTokenizer, read_backend, with_settings
from .base import Tokenizer
from .options import EncodeOptions
from .pieces import Piece, PieceTokenizer
from .special_tokens import Token

Vocab = str | os.PathLike[str] | Mapping[str, int] | Sequence[str]
"""A path of a vocab.json, token → id, or a list of tokens in the order of their ids."""
Merges = str | os.PathLike[str] | Sequence[str] | Sequence[tuple[str, str]]
"""A path of a merges.txt, or pairs in the order of their rank, as "a b" or ("a", "b")."""


@dataclass(frozen=True, kw_only=True)
class ByteLevelOptions(EncodeOptions):
    """A call may override the tokenizer's add_prefix_space."""

    add_prefix_space: bool | None = None


class _ByteLevelTokenizer(Tokenizer):
    """What the two classes share: files, special tokens around a text."""

    vocab_files_names: ClassVar[dict[str, str]] = {
        "vocab_file": "vocab.json",
        "merges_file": "merges.txt",
        "tokenizer_file": "tokenizer.json",
    }
    saved_settings: ClassVar[tuple[str, ...]] = ("errors", "add_prefix_space", "trim_offsets")
    saved_class_name: ClassVar[str] = "MvpTokenizer"

    errors: str
    """What bytes that are no UTF-8 become in `decode`: an error handler of bytes.decode."""
    add_prefix_space: bool
    trim_offsets: bool

    def _outer_ids(self) -> tuple[int, int]:
        cls, sep = self.cls_token_id, self.sep_token_id
        if cls is None or sep is None:
            raise TokenizerError("cls_token and sep_token go around every text; both must be set")
        return cls, sep

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """<s> A </s>, or <s> A </s></s> B </s>."""
        cls, sep = self._outer_ids()
        row = [cls, *token_ids_0, sep]
        return row if token_ids_1 is None else [*row, sep, *token_ids_1, sep]

    def _special_tokens_mask(self, token_ids_0: list[int], token_ids_1: list[int] | None) -> list[int]:
        mask = [1, *[0] * len(token_ids_0), 1]
        return mask if token_ids_1 is None else [*mask, 1, *[0] * len(token_ids_1), 1]


class MvpTokenizer(PieceTokenizer, _ByteLevelTokenizer):
    """Byte-level BPE with added tokens cut out in Python; the merges run inside `tokenizers`.

    Built from `vocab` and `merges` (paths, or the data itself) or from a tokenizer.json. Behaves as
    transformers 4.57.6's MvpTokenizer and RobertaTokenizer, and knows offsets besides: `trim_offsets` leaves
    spaces out of them.
    """

    options_class: ClassVar[type[EncodeOptions]] = ByteLevelOptions
    has_offsets: ClassVar[bool] = True

    def __init__(
        self,
        vocab: Vocab | None = None,
        merges: Merges | None = None,
        errors: str = "replace",
        bos_token: Token | None = "<s>",
        eos_token: Token | None = "</s>",
        sep_token: Token | None = "</s>",
        cls_token: Token | None = "<s>",
        unk_token: Token | None = "<unk>",
        pad_token: Token | None = "<pad>",
        mask_token: Token | None = "<mask>",
        add_prefix_space: bool = False,
        trim_offsets: bool = True,
        *,
        vocab_file: str | None = None,
        merges_file: str | None = None,
        tokenizer_file: str | None = None,
        **settings: Any,
    ) -> None:
        vocab, merges = (
            vocab if vocab is not None else vocab_file,
            merges if merges is not None else merges_file,
        )
        if vocab is None and merges is None and tokenizer_file is not None:
            self._vocab, self._merges = _bpe_of_json(tokenizer_file)
        else:
            self._vocab, self._merges = _read_bpe(vocab, merges, self, settings.get("name_or_path"))
        self._by_id = {index: piece for piece, index in self._vocab.items()}
        self.errors = _known_handler(errors)
        self.add_prefix_space = bool(add_prefix_space)
        self.trim_offsets = bool(trim_offsets)
        self._load()
        super().__init__(
            bos_token=_special(bos_token),
            eos_token=_special(eos_token),
            sep_token=_special(sep_token),
            cls_token=_special(cls_token),
            unk_token=_special(unk_token),
            pad_token=_special(pad_token),
            # The mask stands for a word and takes the space before it, as words do.
            mask_token=_special(mask_token, lstrip=True),
            **settings,
        )

    def _load(self) -> None:
        self._backend = tokenizers.Tokenizer(_bpe(self._vocab, self._merges))
        self._backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        # Here only for trimming offsets; which tokens go around a text does not matter.
        self._backend.post_processor = processors.RobertaProcessing(
            ("", 0), ("", 0), self.trim_offsets, False
        )
        # With all 256 characters in the vocabulary nothing is unknown; the library drops what is.
        self._missing = set(_byte_of()) - self._vocab.keys()

    @property
    def vocab_size(self) -> int:
        return len(self._vocab)

    def _base_vocab(self) -> dict[str, int]:
        return self._vocab

    def _base_id(self, piece: str) -> int | None:
        return self._vocab.get(piece)

    def _base_piece(self, index: int) -> str | None:
        return self._by_id.get(index)

    def _tokenize(self, text: str, options: EncodeOptions) -> list[Piece]:
        assert isinstance(options, ByteLevelOptions)
        prefix = self.add_prefix_space if options.add_prefix_space is None else options.add_prefix_space
        if not (prefix or options.is_split_into_words) or not text or text[0].isspace():
            return super()._tokenize(text, options)
        pieces = super()._tokenize(" " + text, options)
        return [Piece(token, max(start - 1, 0), max(end - 1, 0)) for token, start, end in pieces]

    def _pieces(self, text: str) -> list[Piece]:
        if self._missing:
            return self._pieces_around_gaps(text)
        encoding = self._backend.encode(text, add_special_tokens=False)
        return [Piece(token, *span) for token, span in zip(encoding.tokens, encoding.offsets, strict=True)]

    def _pieces_around_gaps(self, text: str) -> list[Piece]:
        """Pieces where the vocabulary lacks some bytes: each of these is a piece, with the unknown id."""
        pieces: list[Piece] = []
        for word, (start, end) in self._backend.pre_tokenizer.pre_tokenize_str(text):
            # One character of the word stands for one byte; the bytes of a character share its place.
            places = [start + i for i, char in enumerate(text[start:end]) for _ in char.encode("utf-8")]
            run = ""
            for i, symbol in enumerate([*word, None]):
                if symbol is not None and symbol not in self._missing:
                    run += symbol
                    continue
                at = i - len(run)
                for token in self._backend.model.tokenize(run):
                    pieces.append(Piece(token.value, places[at], places[at + len(token.value) - 1] + 1))
                    at += len(token.value)
                if symbol is not None:
                    pieces.append(Piece(symbol, places[i], places[i] + 1))
                run = ""
        return pieces

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text whose bytes the pieces spell; special tokens are text already."""
        byte_of, content = _byte_of(), bytearray()
        for token in tokens:
            plain = token in self._added_ids or any(symbol not in byte_of for symbol in token)
            content += token.encode("utf-8") if plain else bytes(byte_of[symbol] for symbol in token)
        return content.decode("utf-8", errors=self.errors)

    def _write_vocabulary(self, folder: files.Replacing) -> None:
        _write_bpe(folder, self._vocab, self._merges)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_backend"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._load()


RobertaTokenizer = MvpTokenizer


class MvpTokenizerFast(BackendTokenizer, _ByteLevelTokenizer):
    """Byte-level BPE inside `tokenizers`; behaves as transformers 4.57.6's MvpTokenizerFast.

    Built from a tokenizer.json, or from `vocab` and `merges` (paths, or the data itself). Texts split into
    words need `add_prefix_space=True`. `decode` replaces what is no UTF-8, whatever `errors` says.
    """

    def __init__(
        self,
        vocab: Vocab | None = None,
        merges: Merges | None = None,
        errors: str = "replace",
        bos_token: Token | None = "<s>",
        eos_token: Token | None = "</s>",
        sep_token: Token | None = "</s>",
        cls_token: Token | None = "<s>",
        unk_token: Token | None = "<unk>",
        pad_token: Token | None = "<pad>",
        mask_token: Token | None = "<mask>",
        add_prefix_space: bool = False,
        trim_offsets: bool = True,
        *,
        vocab_file: str | None = None,
        merges_file: str | None = None,
        tokenizer_file: str | None = None,
        **settings: Any,
    ) -> None:
        self.errors = _known_handler(errors)
        self.add_prefix_space = bool(add_prefix_space)
        self.trim_offsets = bool(trim_offsets)
        if tokenizer_file is not None:
            backend = with_settings(
                read_backend(tokenizer_file, "BPE"),
                pre_tokenizer={"add_prefix_space": self.add_prefix_space},
                post_processor={"add_prefix_space": self.add_prefix_space, "trim_offsets": self.trim_offsets},
            )
        else:
            vocab, merges = (
                vocab if vocab is not None else vocab_file,
                merges if merges is not None else merges_file,
            )
            backend = tokenizers.Tokenizer(
                _bpe(*_read_bpe(vocab, merges, self, settings.get("name_or_path")))
            )
            backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=self.add_prefix_space)
            backend.decoder = decoders.ByteLevel()
        super().__init__(
            backend,
            bos_token=bos_token,
            eos_token=eos_token,
            sep_token=sep_token,
            cls_token=cls_token,
            unk_token=unk_token,
            pad_token=pad_token,
            mask_token=_special(mask_token, lstrip=True),
            **settings,
        )
        if tokenizer_file is None:
            cls, sep = self._outer_ids()
            outer = (str(self.sep_token), sep), (str(self.cls_token), cls)
            backend.post_processor = processors.RobertaProcessing(
                *outer, self.trim_offsets, self.add_prefix_space
            )

    def _encode_batch(self, rows: Any, options: EncodeOptions, lengths: Any) -> Any:
        if options.is_split_into_words and not self.add_prefix_space:
            raise TokenizerError("is_split_into_words needs a MvpTokenizerFast with add_prefix_space=True")
        return super()._encode_batch(rows, options, lengths)

    def _write_vocabulary(self, folder: files.Replacing) -> None:
        model = json.loads(self._backend.to_str())["model"]
        _write_bpe(folder, model["vocab"], [_pair(merge) for merge in model["merges"]])


@lru_cache(maxsize=1)
def _byte_of() -> dict[str, int]:
    """Character → the byte it stands for.

    The printable characters of Latin-1 but for spaces and the soft hyphen stand for themselves; the other
    bytes, in order, are the characters from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}


def _known_handler(errors: str) -> str:
    try:
        codecs.lookup_error(errors)
    except (LookupError, TypeError) as error:
        raise TokenizerError(
            f"errors is {errors!r}; it must be an error handler such as 'replace'"
        ) from error
    return errors


def _special(token: Token | None, **flags: bool) -> Token | None:
    return AddedToken(token, special=True, normalized=False, **flags) if isinstance(token, str) else token


# Vocabulary and merges


def _read_bpe(
    vocab: Vocab | None, merges: Merges | None, tokenizer: Tokenizer, where: str | None
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    if vocab is None or merges is None:
        missing = [name for name, given in (("vocab.json", vocab), ("merges.txt", merges)) if given is None]
        raise TokenizerError(
            f"{where or 'the arguments'}: {' and '.join(missing)} missing; a {type(tokenizer).__name__} "
            "is built from vocab.json and merges.txt, or from a tokenizer.json"
        )
    return _read_vocab(vocab), _read_merges(merges)


def _read_vocab(vocab: Vocab) -> dict[str, int]:
    source = "vocab"
    if isinstance(vocab, str | os.PathLike):
        source = os.fspath(vocab)
        vocab = files.read_json(vocab)
    pieces = (
        dict(vocab) if isinstance(vocab, Mapping) else {piece: index for index, piece in enumerate(vocab)}
    )
    for piece, index in pieces.items():
        if not isinstance(index, int) or index < 0:
            raise TokenizerError(
                f"{source}: the id of {piece!r} is {index!r}; it must be an integer from 0 on"
            )
    if not pieces:
        raise TokenizerError(f"{source} holds no tokens")
    return pieces


def _read_merges(merges: Merges) -> list[tuple[str, str]]:
    if not isinstance(merges, str | os.PathLike):
        return [_pair(merge) for merge in merges]
    # Only "\n" ends a line: the characters of a piece may count as line ends elsewhere.
    content = files.read_bytes(merges)
    try:
        lines = content.decode("utf-8").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{os.fspath(merges)} is no UTF-8 text: {error}") from error
    pairs = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or (number == 1 and line.startswith("#version")):
            continue
        pair = tuple(line.split())
        if len(pair) != 2:
            raise TokenizerError(
                f"{os.fspath(merges)}, line {number}: {line!r} must be two pieces and a space between"
            )
        pairs.append(pair)
    return pairs


def _bpe_of_json(path: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    model = files.read_json(path).get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict) or "merges" not in model:
        kind = model.get("type") if isinstance(model, dict) else type(model).__name__
        raise TokenizerError(f"{path} holds a {kind} model; this tokenizer needs BPE")
    return _read_vocab(model["vocab"]), [_pair(merge) for merge in model["merges"]]


def _pair(merge: Any) -> tuple[str, str]:
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if len(parts) != 2 or not all(isinstance(part, str) for part in parts):
        raise TokenizerError(f"the merge {merge!r} must be two pieces")
    return parts[0], parts[1]


def _bpe(vocab: dict[str, int], merges: list[tuple[str, str]]) -> BPE:
    try:
        return BPE(vocab, merges, continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False)
    except Exception as error:  # the library raises nothing more specific
        raise TokenizerError(f"vocabulary and merges do not fit together: {error}") from error


def _write_bpe(folder: files.Replacing, vocab: dict[str, int], merges: list[tuple[str, str]]) -> None:
    ordered = dict(sorted(vocab.items(), key=lambda item: item[1]))
    folder.write_json("vocab.json", ordered, sort=False)
    lines = ["#version: 0.2", *(f"{first} {second}" for first, second in merges)]
    folder.write("merges.txt", ("\n".join(lines) + "\n").encode("utf-8"))
