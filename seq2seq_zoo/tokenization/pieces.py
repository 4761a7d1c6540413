"""PieceTokenizer: added tokens are cut out in Python, a piece model splits what is left, ids are joined in
Python.

    "a <mask>b"  ──▶  "a", "<mask>", "b"  ──▶  pieces of "a", <mask>, pieces of "b"

An added token is found wherever its text stands, the leftmost first and the longest of those that begin
there. Its flags say whether it takes the spaces beside it (lstrip, rstrip) and whether it must stand alone
(single_word). This is the behaviour of the slow tokenizers of transformers 4.57.6.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from tokenizers import AddedToken

from seq2seq_zoo.errors import TokenizerError

from .base import Row, Text, Tokenizer
from .encoding import BatchEncoding
from .lengths import Tokens, assemble, build_row, pad_rows
from .options import EncodeOptions, Lengths
from .special_tokens import Token, state_of, text_of

Span = tuple[int, int]


class Piece(NamedTuple):
    """A token and the characters start … end - 1 it stands for."""

    token: str
    start: int
    end: int


class PieceTokenizer(Tokenizer):
    """A tokenizer of Python parts around a piece model.

    A subclass loads its piece model before it calls this constructor, because adding tokens needs the
    vocabulary.
    """

    is_fast: ClassVar[bool] = False
    has_offsets: ClassVar[bool] = False
    """Whether the piece model tells which characters a piece stands for."""

    def __init__(
        self, *, added_tokens_decoder: Mapping[int, AddedToken] | None = None, **settings: Any
    ) -> None:
        super().__init__(**settings)
        self._added = dict(added_tokens_decoder or {})
        self._added_ids = {text_of(token): index for index, token in self._added.items()}
        self._size = self.vocab_size + sum(self._base_id(text) is None for text in self._added_ids)
        # A role held as an AddedToken decides about the flags; one held as text takes them as they are.
        self.add_tokens(
            [t for t in self._held_tokens() if not isinstance(t, str) or t not in self._added_ids],
            special_tokens=True,
        )

    # What subclasses provide

    @abstractmethod
    def _base_vocab(self) -> dict[str, int]:
        """Piece → id of the piece model."""

    @abstractmethod
    def _base_id(self, piece: str) -> int | None:
        """The id of a piece, None if the piece model does not have it."""

    @abstractmethod
    def _base_piece(self, index: int) -> str | None:
        """The piece of an id, None if the piece model has none."""

    @abstractmethod
    def _pieces(self, text: str) -> list[Piece]:
        """Pieces of a text without added tokens."""

    # Vocabulary

    def get_vocab(self) -> dict[str, int]:
        return {**self._base_vocab(), **self._added_ids}

    def __len__(self) -> int:
        return self._size

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        return dict(sorted(self._added.items()))

    def add_tokens(self, new_tokens: Token | Sequence[Token], special_tokens: bool = False) -> int:
        """Add tokens; returns how many have new ids, which follow the last one.

        A text that is in the vocabulary keeps its id and is from now on cut out of texts as a whole.
        """
        size = self._size
        for given in [new_tokens] if isinstance(new_tokens, str | AddedToken) else new_tokens:
            text = text_of(given)
            if not text or (isinstance(given, str) and text in self._added_ids):
                continue
            known_as_special = text in self.all_special_tokens
            if isinstance(given, str):
                special = special_tokens or known_as_special
                token = AddedToken(given, special=special, normalized=not special)
            else:
                token = AddedToken(**{**state_of(given), "special": special_tokens or given.special})
            if token.special and not known_as_special:
                self._additional.append(token)
            index = self._added_ids.get(text)
            index = self._base_id(text) if index is None else index
            if index is None:
                index = self._size
                self._size += 1
            self._added[index] = token
            self._added_ids[text] = index
        self._prepare_cutting()
        return self._size - size

    def _prepare_cutting(self) -> None:
        texts = sorted(filter(None, self._added_ids), key=len, reverse=True)
        self._cutter = re.compile("|".join(map(re.escape, texts))) if texts else None

    def _unknown_id(self, token: str) -> int:
        """The id that stands for a token the vocabulary does not have."""
        unknown = self.unk_token
        if unknown is None or unknown == token:
            raise TokenizerError(
                f"{token!r} is not in the vocabulary, and no unk_token with an id stands in for it"
            )
        return self._id_of(unknown)

    def _id_of(self, token: str) -> int:
        index = self._added_ids.get(token)
        index = self._base_id(token) if index is None else index
        return self._unknown_id(token) if index is None else index

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        return self._id_of(tokens) if isinstance(tokens, str) else [self._id_of(token) for token in tokens]

    def _token_of_id(self, index: int) -> str | None:
        token = self._added.get(index)
        return self._base_piece(index) if token is None else text_of(token)

    # Text → pieces

    def tokenize(
        self, text: str, pair: str | None = None, add_special_tokens: bool = False, **options: Any
    ) -> list[str]:
        """The tokens of a text, or of a text and a second one."""
        asked = self.options_class(**options)
        pieces = [self._tokenize(part, asked) for part in (text, pair) if part is not None]
        tokens = [[piece.token for piece in part] for part in pieces]
        if not add_special_tokens:
            return [token for part in tokens for token in part]
        row = self.build_inputs_with_special_tokens(*map(self.convert_tokens_to_ids, tokens))
        mask = self.get_special_tokens_mask(*map(self.convert_tokens_to_ids, tokens))
        own = iter([token for part in tokens for token in part])
        return [
            str(self._token_of_id(i)) if special else next(own) for i, special in zip(row, mask, strict=True)
        ]

    def _tokenize(self, text: str, options: EncodeOptions) -> list[Piece]:
        """Pieces of a text, added tokens among them."""
        split_special = (
            self.split_special_tokens
            if options.split_special_tokens is None
            else options.split_special_tokens
        )
        if split_special:
            return self._pieces(text)
        pieces: list[Piece] = []
        for start, end in self._cut(text):
            part = text[start:end]
            if part in self._added_ids:
                pieces.append(Piece(part, start, end))
            elif part:
                own = self._pieces(part)
                pieces += [Piece(p.token, start + p.start, start + p.end) for p in own] if start else own
        return pieces

    def _cut(self, text: str) -> list[Span]:
        """Spans of added tokens and of what stands between them."""
        if self._cutter is None:
            return [(0, len(text))]
        spans: list[Span] = []
        end = 0
        for match in self._cutter.finditer(text):
            spans += [(end, match.start()), match.span()]
            end = match.end()
        spans = [span for span in (*spans, (end, len(text))) if span[0] < span[1]]

        for i, (start, end) in enumerate(spans):
            index = self._added_ids.get(text[start:end])
            if index is None:
                continue
            token = self._added[index]
            left = spans[i - 1] if i > 0 else None
            right = spans[i + 1] if i + 1 < len(spans) else None
            if token.rstrip and right:
                spans[i + 1] = (right[1] - len(text[slice(*right)].lstrip()), right[1])
            if token.lstrip and left:
                spans[i - 1] = (left[0], left[0] + len(text[slice(*left)].rstrip()))
            # A token that must be a word of its own and is not becomes part of the text beside it.
            if token.single_word and left and text[slice(*left)][-1:] not in ("", " "):
                spans[i - 1 : i + 1] = [(left[0], end), (end, end)]
            elif token.single_word and right and text[slice(*right)][:1] not in ("", " "):
                spans[i : i + 2] = [(start, start), (start, right[1])]
        return spans

    # Pieces → rows

    def _encode(self, row: Row, options: EncodeOptions, lengths: Lengths) -> BatchEncoding:
        return assemble(self, *self._row_tokens(row, options), options, lengths)

    def _encode_batch(self, rows: list[Row], options: EncodeOptions, lengths: Lengths) -> BatchEncoding:
        built = []
        for row in rows:
            data = build_row(self, *self._row_tokens(row, options), options, lengths)
            if options.return_length:
                data["length"] = len(data["input_ids"])
            built.append(data)
        return BatchEncoding(pad_rows(self, built, options, lengths), tensor_type=options.return_tensors)

    def _row_tokens(self, row: Row, options: EncodeOptions) -> tuple[Tokens, Tokens | None]:
        if options.return_offsets_mapping and not self.has_offsets:
            raise TokenizerError(
                f"return_offsets_mapping is True, but {type(self).__name__} knows no offsets; tokenizers "
                "whose class ends in Fast do"
            )
        first, second = row
        return self._tokens(first, options), None if second is None else self._tokens(second, options)

    def _tokens(self, text: Text, options: EncodeOptions) -> Tokens:
        """The tokens of a text, of a list of words, or of what is a list of tokens or ids already."""
        if isinstance(text, str):
            pieces = self._tokenize(text, options)
        elif not isinstance(text, list | tuple):
            raise TokenizerError(f"a text is {text!r}; it must be a string or a list")
        elif options.is_split_into_words:
            pieces = [piece for word in text for piece in self._tokenize(str(word), options)]
        elif options.return_offsets_mapping:
            raise TokenizerError("return_offsets_mapping needs a text; tokens and ids have no offsets")
        elif text and all(isinstance(item, int) for item in text):
            return Tokens([int(item) for item in text])
        elif text and all(isinstance(item, str) for item in text):
            return Tokens([self._id_of(str(item)) for item in text])
        else:
            raise TokenizerError(f"a text is {text!r}; a list must be of words, of tokens or of ids")
        ids = [self._id_of(piece.token) for piece in pieces]
        return Tokens(ids, [(p.start, p.end) for p in pieces] if options.return_offsets_mapping else None)

    # Ids → text

    def _decode(self, ids: list[int], skip_special_tokens: bool, spaces_between_special_tokens: bool) -> str:
        special = set(self.all_special_tokens)
        skipped = special if skip_special_tokens else set()
        tokens = [token for index in ids if (token := self._token_at(index, "token_ids")) not in skipped]

        # Added tokens without a role are texts of their own; special tokens with a role go through the piece
        # model.
        apart = set(self._added_ids) - special
        apart |= {
            text
            for text in self.additional_special_tokens
            if self.convert_tokens_to_ids(text) >= self.vocab_size
        }
        texts: list[str] = []
        run: list[str] = []
        for token in tokens:
            if token not in apart:
                run.append(token)
                continue
            text = self.convert_tokens_to_string(run) if run else ""
            texts += [text, token] if text else [token]
            run = []
        if run:
            texts.append(self.convert_tokens_to_string(run))
        return (" " if spaces_between_special_tokens else "").join(texts)
