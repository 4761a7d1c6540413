"""WordPiece: the tokenizers of BERT.

    "unaffable!"  ──words──▶  "unaffable", "!"  ──longest pieces first──▶  "un", "##aff", "##able", "!"

"##" marks a piece that continues a word. A word that cannot be spelled, or of more than 100 characters, is
unknown as a whole.

    one text   [CLS] A [SEP]          two texts   [CLS] A [SEP] B [SEP]
    types        0   0   0                          0   0   0   1   1

BertTokenizer and BertTokenizerFast give the same ids but where their transformers namesakes differ:
    - the first composes accents and characters (NFC) before it looks at them;
    - their Unicode tables are those of Python and of `tokenizers`, and these are not of the same age;
    - `never_split` and `do_basic_tokenize` concern the first only;
    - where special tokens are read as plain text, one that stands alone stays whole in the first;
    - with lower case, the first lowers the text before it looks for added tokens that are not special, so
      that it does not find those with capitals and without `normalized`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import tokenizers
from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

from seq2seq_zoo.errors import TokenizerError

from . import files
from .backend import BackendTokenizer, read_backend, with_settings
from .base import Tokenizer
from .options import EncodeOptions
from .pieces import Piece, PieceTokenizer
from .special_tokens import Token, state_of, text_of
from .words import WordSplitter, lower_each

Vocab = str | os.PathLike[str] | Mapping[str, int] | Sequence[str]
"""A path of a vocab.txt, token → id, or a list of tokens in the order of their ids."""

LONGEST_WORD = 100
"""Characters; longer words are unknown."""


class _BertTokenizer(Tokenizer):
    """What the two classes share: files, special tokens around a text, types."""

    vocab_files_names: ClassVar[dict[str, str]] = {
        "vocab_file": "vocab.txt",
        "tokenizer_file": "tokenizer.json",
    }
    saved_class_name: ClassVar[str] = "BertTokenizer"
    model_input_names: list[str] = ["input_ids", "token_type_ids", "attention_mask"]  # noqa: RUF012

    do_lower_case: bool
    tokenize_chinese_chars: bool
    """Ideographs are words of their own."""
    strip_accents: bool | None
    """None: as `do_lower_case`."""

    def _outer_ids(self) -> tuple[int, int]:
        cls, sep = self.cls_token_id, self.sep_token_id
        if cls is None or sep is None:
            raise TokenizerError("cls_token and sep_token go around every text; both must be set")
        return cls, sep

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """[CLS] A [SEP], or [CLS] A [SEP] B [SEP]."""
        cls, sep = self._outer_ids()
        row = [cls, *token_ids_0, sep]
        return row if token_ids_1 is None else [*row, *token_ids_1, sep]

    def _special_tokens_mask(self, token_ids_0: list[int], token_ids_1: list[int] | None) -> list[int]:
        mask = [1, *[0] * len(token_ids_0), 1]
        return mask if token_ids_1 is None else [*mask, *[0] * len(token_ids_1), 1]

    def create_token_type_ids_from_sequences(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """0 for [CLS] A [SEP], 1 for B [SEP]."""
        types = [0] * (len(token_ids_0) + 2)
        return types if token_ids_1 is None else types + [1] * (len(token_ids_1) + 1)


class BertTokenizer(PieceTokenizer, _BertTokenizer):
    """Words and added tokens are found in Python, pieces inside `tokenizers`; behaves as the BertTokenizer of
    transformers 4.57.6.

    Built from `vocab` (a path, or the data itself) or from a tokenizer.json. Words of `never_split` are kept
    whole, but with `do_lower_case` only those without capitals: the text is in lower case by then. Without
    `do_basic_tokenize` a text is as it is and only split at spaces.
    """

    saved_settings: ClassVar[tuple[str, ...]] = (
        "do_lower_case",
        "do_basic_tokenize",
        "never_split",
        "tokenize_chinese_chars",
        "strip_accents",
    )

    def __init__(
        self,
        vocab: Vocab | None = None,
        do_lower_case: bool = True,
        do_basic_tokenize: bool = True,
        never_split: Iterable[str] | None = None,
        unk_token: Token = "[UNK]",
        sep_token: Token | None = "[SEP]",
        pad_token: Token | None = "[PAD]",
        cls_token: Token | None = "[CLS]",
        mask_token: Token | None = "[MASK]",
        tokenize_chinese_chars: bool = True,
        strip_accents: bool | None = None,
        clean_up_tokenization_spaces: bool = True,
        *,
        vocab_file: str | os.PathLike[str] | None = None,
        tokenizer_file: str | os.PathLike[str] | None = None,
        added_tokens_decoder: Mapping[int, AddedToken] | None = None,
        **settings: Any,
    ) -> None:
        given = vocab if vocab is not None else vocab_file
        self._lines, source = _read_vocab(given, tokenizer_file, self, settings.get("name_or_path"))
        self._vocab = {piece: index for index, piece in enumerate(self._lines)}
        self._by_id = {index: piece for piece, index in self._vocab.items()}
        self.do_lower_case = do_lower_case
        self.do_basic_tokenize = do_basic_tokenize
        self.never_split = None if never_split is None else _texts("never_split", never_split)
        self.tokenize_chinese_chars = bool(tokenize_chinese_chars)
        self.strip_accents = strip_accents
        self._unknown = _check_unknown(unk_token, {**self._vocab, **_ids_of(added_tokens_decoder)}, source)
        self._load()
        super().__init__(
            unk_token=unk_token,
            sep_token=sep_token,
            pad_token=pad_token,
            cls_token=cls_token,
            mask_token=mask_token,
            clean_up_tokenization_spaces=clean_up_tokenization_spaces,
            added_tokens_decoder=added_tokens_decoder,
            **settings,
        )

    def _load(self) -> None:
        strips = self.do_lower_case if self.strip_accents is None else self.strip_accents
        self._words = WordSplitter(self.do_lower_case, self.tokenize_chinese_chars, strips)
        # The library needs to know the unknown token, which may be one of the added tokens.
        known = {**self._vocab, self._unknown: self._vocab.get(self._unknown, len(self._lines))}
        self._wordpiece = _wordpiece(known, self._unknown)

    @property
    def vocab_size(self) -> int:
        # Lines, not texts: a text that stands twice takes two ids, and new tokens come after the last line.
        return len(self._lines)

    def _base_vocab(self) -> dict[str, int]:
        return self._vocab

    def _base_id(self, piece: str) -> int | None:
        return self._vocab.get(piece)

    def _base_piece(self, index: int) -> str | None:
        return self._by_id.get(index, self.unk_token)

    def add_tokens(self, new_tokens: Token | Sequence[Token], special_tokens: bool = False) -> int:
        """Add tokens; returns how many have new ids. With `do_lower_case` those that are neither special nor
        kept from normalization are added in lower case.
        """
        tokens = [new_tokens] if isinstance(new_tokens, str | AddedToken) else list(new_tokens)
        if self._lowers and not special_tokens:
            tokens = [self._as_added(token) for token in tokens]
        return super().add_tokens(tokens, special_tokens)

    def _as_added(self, token: Token) -> Token:
        text = text_of(token)
        if isinstance(token, str):
            if text in self._added_ids or text in self.all_special_tokens:
                return token
            token = AddedToken(text, special=False, normalized=True)
        if token.special or not token.normalized:
            return token
        return AddedToken(**{**state_of(token), "content": text.lower()})

    @property
    def _lowers(self) -> bool:
        return self.do_basic_tokenize and self.do_lower_case

    def _tokenize(self, text: str, options: EncodeOptions) -> list[Piece]:
        return super()._tokenize(self._lowered(text) if self._lowers else text, options)

    def _lowered(self, text: str) -> str:
        """The text in lower case, but for special tokens and added tokens that are normalized."""
        kept = self.all_special_tokens
        kept += [text_of(token) for token in self._added.values() if not token.special and token.normalized]
        parts = re.split("(" + "|".join(map(re.escape, kept)) + ")", text)
        return "".join(part if i % 2 else lower_each(part) for i, part in enumerate(parts))

    def _pieces(self, text: str) -> list[Piece]:
        whole = frozenset(self.never_split or ())
        if not self.do_basic_tokenize:
            whole, words = frozenset(), text.split()
        else:
            words = self._words(text, whole | set(self.all_special_tokens))
        return [Piece(piece, 0, 0) for word in words for piece in self._spelled(word, whole)]

    def _spelled(self, word: str, whole: frozenset[str]) -> list[str]:
        return [word] if word in whole else [token.value for token in self._wordpiece.tokenize(word)]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Words with spaces between; pieces that continue a word are joined to it."""
        return " ".join(tokens).replace(" ##", "").strip()

    def _write_vocabulary(self, folder: files.Replacing) -> None:
        _write_lines(folder, self._lines)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_wordpiece", "_words")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._load()


class BertTokenizerFast(BackendTokenizer, _BertTokenizer):
    """The whole line inside `tokenizers`; behaves as transformers 4.57.6's BertTokenizerFast.

    Built from a tokenizer.json or, if there is none, from `vocab` (a path, or the data itself).
    """

    saved_settings: ClassVar[tuple[str, ...]] = ("do_lower_case", "tokenize_chinese_chars", "strip_accents")

    def __init__(
        self,
        vocab: Vocab | None = None,
        tokenizer_file: str | os.PathLike[str] | None = None,
        do_lower_case: bool = True,
        unk_token: Token = "[UNK]",
        sep_token: Token | None = "[SEP]",
        pad_token: Token | None = "[PAD]",
        cls_token: Token | None = "[CLS]",
        mask_token: Token | None = "[MASK]",
        tokenize_chinese_chars: bool = True,
        strip_accents: bool | None = None,
        clean_up_tokenization_spaces: bool | None = None,
        *,
        vocab_file: str | os.PathLike[str] | None = None,
        **settings: Any,
    ) -> None:
        self.do_lower_case = do_lower_case
        self.tokenize_chinese_chars = bool(tokenize_chinese_chars)
        self.strip_accents = strip_accents
        if tokenizer_file is not None:
            backend = read_backend(tokenizer_file, "WordPiece")
            if isinstance(backend.normalizer, normalizers.BertNormalizer):
                backend = with_settings(backend, normalizer=self._normalizer_settings())
        else:
            given = vocab if vocab is not None else vocab_file
            lines, source = _read_vocab(given, None, self, settings.get("name_or_path"))
            pieces = {piece: index for index, piece in enumerate(lines)}
            backend = tokenizers.Tokenizer(_wordpiece(pieces, _check_unknown(unk_token, pieces, source)))
            backend.normalizer = normalizers.BertNormalizer(clean_text=True, **self._normalizer_settings())
            backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
            backend.decoder = decoders.WordPiece(prefix="##")
        # As there: a saved tokenizer.json does not have the habit of the vocab.txt.
        if clean_up_tokenization_spaces is None:
            clean_up_tokenization_spaces = tokenizer_file is None
        super().__init__(
            backend,
            unk_token=unk_token,
            sep_token=sep_token,
            pad_token=pad_token,
            cls_token=cls_token,
            mask_token=mask_token,
            clean_up_tokenization_spaces=clean_up_tokenization_spaces,
            **settings,
        )
        if tokenizer_file is None:
            cls, sep = self._outer_ids()
            backend.post_processor = processors.TemplateProcessing(
                single=[f"{self.cls_token}:0", "$A:0", f"{self.sep_token}:0"],
                pair=[f"{self.cls_token}:0", "$A:0", f"{self.sep_token}:0", "$B:1", f"{self.sep_token}:1"],
                special_tokens=[(str(self.cls_token), cls), (str(self.sep_token), sep)],
            )

    def _normalizer_settings(self) -> dict[str, Any]:
        return {
            "lowercase": self.do_lower_case,
            "strip_accents": self.strip_accents,
            "handle_chinese_chars": self.tokenize_chinese_chars,
        }

    def _write_vocabulary(self, folder: files.Replacing) -> None:
        lines = _in_order(json.loads(self._backend.to_str())["model"]["vocab"])
        # A vocab.txt cannot tell ids that no token has; tokenizer.json can.
        if lines is not None:
            _write_lines(folder, lines)


# The vocabulary


def _read_vocab(
    vocab: Vocab | None,
    tokenizer_file: str | os.PathLike[str] | None,
    tokenizer: Tokenizer,
    where: str | None,
) -> tuple[list[str], str]:
    """Tokens in the order of their ids, and what they were read from."""
    if vocab is None and tokenizer_file is None:
        raise TokenizerError(
            f"{where or 'the arguments'}: vocab.txt and tokenizer.json are missing; "
            f"a {type(tokenizer).__name__} is built from one of them"
        )
    if isinstance(vocab, str | os.PathLike):
        return _read_lines(vocab), os.fspath(vocab)
    source = "vocab"
    if vocab is None:
        assert tokenizer_file is not None
        source, vocab = os.fspath(tokenizer_file), _vocab_of_json(tokenizer_file)
    lines = _in_order(vocab) if isinstance(vocab, Mapping) else _texts(source, vocab)
    if not lines:
        raise TokenizerError(f"{source} must map tokens to the ids from 0 on, without gaps; it does not")
    return lines, source


def _read_lines(path: str | os.PathLike[str]) -> list[str]:
    content = files.read_bytes(path)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{os.fspath(path)} is no UTF-8 text: {error}") from error
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]


def _vocab_of_json(path: str | os.PathLike[str]) -> Mapping[str, int]:
    model = files.read_json(path).get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict) or "merges" in model:
        kind = model.get("type") if isinstance(model, dict) else type(model).__name__
        raise TokenizerError(f"{os.fspath(path)} holds a {kind} model; this tokenizer needs WordPiece")
    return dict(model["vocab"])


def _in_order(vocab: Mapping[str, int]) -> list[str] | None:
    """Tokens in the order of their ids, None unless these are 0, 1, 2, …"""
    by_id = {index: piece for piece, index in vocab.items()}
    return [by_id[i] for i in range(len(vocab))] if by_id.keys() == set(range(len(vocab))) else None


def _texts(name: str, values: Iterable[str]) -> list[str]:
    texts = [] if isinstance(values, str) else list(values)
    if isinstance(values, str) or not all(isinstance(text, str) for text in texts):
        raise TokenizerError(f"{name} is {values!r}; it must be a list of texts")
    return texts


def _ids_of(added: Mapping[int, AddedToken] | None) -> dict[str, int]:
    return {text_of(token): index for index, token in (added or {}).items()}


def _check_unknown(unknown: Token | None, known: Mapping[str, int], source: str) -> str:
    """The text of the unknown token; a vocabulary without it is cut short or another file altogether."""
    if unknown is None:
        raise TokenizerError("unk_token is None; it must be the token of words that cannot be spelled")
    if text_of(unknown) not in known:
        raise TokenizerError(f"{source} has no {text_of(unknown)!r}, the unk_token; it must have it")
    return text_of(unknown)


def _wordpiece(vocab: dict[str, int], unknown: str) -> WordPiece:
    return WordPiece(vocab, unk_token=unknown, max_input_chars_per_word=LONGEST_WORD)


def _write_lines(folder: files.Replacing, lines: list[str]) -> None:
    folder.write("vocab.txt", "".join(f"{line}\n" for line in lines).encode("utf-8"))
