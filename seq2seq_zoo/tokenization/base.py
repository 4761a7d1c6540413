"""Tokenizer: the surface that all tokenizers share.

    __call__, encode, batch_encode_plus …   text → BatchEncoding
    tokenize, convert_…                     text ↔ tokens ↔ ids
    decode, batch_decode                    ids → text
    pad, prepare_for_model                  ids → ids of the wanted length
    apply_chat_template                     conversations → BatchEncoding (see `chat`)
    from_pretrained, save_pretrained        files (see `pretrained`)

A subclass says how texts become ids (`_encode`, `_encode_batch`), how ids become text (`_decode`), what its
vocabulary is, and which special tokens go around a text (`build_inputs_with_special_tokens`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, TypeAlias, overload

from seq2seq_zoo.errors import TokenizerError

from . import files
from .chat import ChatTokens
from .encoding import BatchEncoding
from .lengths import Tokens, assemble, pad_encoded, padding_id
from .options import NO_LIMIT, EncodeOptions, Lengths
from .special_tokens import ROLES, Token

Text: TypeAlias = str | Sequence[str] | Sequence[int]
"""One text: a string; a list of words with is_split_into_words; or, in a PieceTokenizer, tokens or ids."""
Row: TypeAlias = tuple[Text, Text | None]
"""A text and the second text of a pair, if there is one."""

Side: TypeAlias = Literal["left", "right"]


class _Side:
    """The side "left" or "right", checked when it is set."""

    def __set_name__(self, owner: type[Tokenizer], name: str) -> None:
        self.name = name

    def __get__(self, tokenizer: Tokenizer | None, owner: type[Tokenizer]) -> Side:
        return "right" if tokenizer is None else tokenizer.__dict__[self.name]

    def __set__(self, tokenizer: Tokenizer, side: str) -> None:
        if side not in ("left", "right"):
            raise TokenizerError(f"{self.name} is {side!r}; it must be 'left' or 'right'")
        tokenizer.__dict__[self.name] = side


class Tokenizer(ChatTokens):
    """What every tokenizer can do; families subclass PieceTokenizer or BackendTokenizer.

    `settings` that no argument takes are kept and saved again: tokenizer_config.json carries keys of many
    versions.
    """

    options_class: ClassVar[type[EncodeOptions]] = EncodeOptions

    padding_side = _Side()
    """Where padding goes."""
    truncation_side = _Side()
    """Where tokens are cut off."""
    model_input_names: list[str] = ["input_ids", "attention_mask"]  # noqa: RUF012  (set on instances only)

    def __init__(
        self,
        *,
        additional_special_tokens: Sequence[Token] | None = None,
        model_max_length: int | None = None,
        padding_side: str = "right",
        truncation_side: str = "right",
        clean_up_tokenization_spaces: bool | None = False,
        split_special_tokens: bool = False,
        model_input_names: list[str] | None = None,
        chat_template: str | dict[str, str] | list[dict[str, str]] | None = None,
        name_or_path: str = "",
        **settings: Any,
    ) -> None:
        roles = {role: settings.pop(role, None) for role in ROLES}
        super().__init__(roles, additional_special_tokens)
        self.padding_side = padding_side
        self.truncation_side = truncation_side
        if model_max_length is not None and not _is_finite(model_max_length):
            raise TokenizerError(f"model_max_length is {model_max_length!r}; it must be a number of tokens")
        self.model_max_length = NO_LIMIT if model_max_length is None else int(model_max_length)
        self.clean_up_tokenization_spaces = bool(clean_up_tokenization_spaces)
        self.split_special_tokens = bool(split_special_tokens)
        self.model_input_names = list(model_input_names or type(self).model_input_names)
        self.chat_template = chat_template
        self.name_or_path = name_or_path
        self._other_settings = settings

    # What subclasses provide

    @abstractmethod
    def get_vocab(self) -> dict[str, int]:
        """Token → id, added tokens included."""

    @abstractmethod
    def __len__(self) -> int:
        """Tokens in all: what the model's embeddings must hold at least."""

    @abstractmethod
    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Text of tokens of the piece model."""

    @abstractmethod
    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """The ids of one text, or of two, with the family's special tokens around them."""

    @abstractmethod
    def _special_tokens_mask(self, token_ids_0: list[int], token_ids_1: list[int] | None) -> list[int]:
        """1 where build_inputs_with_special_tokens puts a special token, 0 for the ids given to it."""

    @abstractmethod
    def _encode(self, row: Row, options: EncodeOptions, lengths: Lengths) -> BatchEncoding:
        """One row, without a batch axis unless tensors or overflowing rows are asked for."""

    @abstractmethod
    def _encode_batch(self, rows: list[Row], options: EncodeOptions, lengths: Lengths) -> BatchEncoding:
        """Rows, each value a list with an entry a row."""

    @abstractmethod
    def _token_of_id(self, index: int) -> str | None:
        """The token of an id, None if there is none."""

    @abstractmethod
    def _decode(self, ids: list[int], skip_special_tokens: bool, spaces_between_special_tokens: bool) -> str:
        """Text of ids."""

    # Text → ids

    def __call__(
        self,
        text: Any = None,
        text_pair: Any = None,
        text_target: Any = None,
        text_pair_target: Any = None,
        **options: Any,
    ) -> BatchEncoding:
        """Encode a text, a list of texts, or pairs of either.

        `options` are the fields of EncodeOptions. With `is_split_into_words` a text is a list of words. The
        ids of `text_target` become `labels` beside the ids of `text`, or `input_ids` if there is no text.
        """
        if text is None and text_target is None:
            raise TokenizerError("text is None; a text, a list of texts or text_target is needed")
        asked = self.options_class(**options)
        encoded = self._call_one("text", text, text_pair, asked) if text is not None else None
        if text_target is None:
            assert encoded is not None
            return encoded
        target = self._call_one("text_target", text_target, text_pair_target, asked)
        if encoded is None:
            return target
        encoded["labels"] = target["input_ids"]
        return encoded

    def encode(self, text: Any, text_pair: Any = None, **options: Any) -> Any:
        """The ids of one text or pair: a list, or [1, L] where return_tensors is given."""
        return self.encode_plus(text, text_pair, **options)["input_ids"]

    def encode_plus(self, text: Any, text_pair: Any = None, **options: Any) -> BatchEncoding:
        """Encode one text or pair."""
        asked = self.options_class(**options)
        if text is None:
            raise TokenizerError("text is None; it must be a text")
        return self._encode((text, text_pair), asked, self._plan(asked))

    def batch_encode_plus(self, batch_text_or_text_pairs: Sequence[Any], **options: Any) -> BatchEncoding:
        """Encode a list of texts, or of pairs as tuples of two texts."""
        asked = self.options_class(**options)
        if not isinstance(batch_text_or_text_pairs, list | tuple):
            raise TokenizerError(
                f"the batch is {batch_text_or_text_pairs!r}; it must be a list of texts or pairs"
            )
        rows = [_as_row(item, asked.is_split_into_words) for item in batch_text_or_text_pairs]
        return self._encode_rows("the batch", rows, asked)

    def _call_one(self, name: str, text: Any, pair: Any, options: EncodeOptions) -> BatchEncoding:
        _check_text(name, text, options.is_split_into_words)
        words = options.is_split_into_words
        batched = isinstance(text, list | tuple) and not (
            words and not (text and isinstance(text[0], list | tuple))
        )
        if not batched:
            if pair is not None:
                _check_text(f"the second {name}", pair, words)
            return self._encode((text, pair), options, self._plan(options))
        if pair is None:
            return self._encode_rows(name, [(item, None) for item in text], options)
        if not isinstance(pair, list | tuple) or len(pair) != len(text):
            size = f"{len(pair)} texts" if isinstance(pair, list | tuple) else repr(pair)
            raise TokenizerError(
                f"{name} has {len(text)} texts, so its pair must be a list of as many, not {size}"
            )
        _check_text(f"the second {name}", pair, words)
        return self._encode_rows(name, list(zip(text, pair, strict=True)), options)

    def _encode_rows(self, name: str, rows: list[Row], options: EncodeOptions) -> BatchEncoding:
        if not rows:
            raise TokenizerError(f"{name} is an empty list; at least one text is needed")
        if any(first is None for first, _ in rows):
            raise TokenizerError(f"{name} holds None; it must hold texts")
        return self._encode_batch(rows, options, self._plan(options))

    def _plan(self, options: EncodeOptions) -> Lengths:
        lengths = options.lengths(self.model_max_length)
        if lengths.padding is not None:
            padding_id(self)
        return lengths

    @abstractmethod
    def tokenize(
        self, text: str, pair: str | None = None, add_special_tokens: bool = False, **options: Any
    ) -> list[str]:
        """The tokens of a text."""

    # Ids → text

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        spaces_between_special_tokens: bool = True,
    ) -> str:
        """The text of ids: an id, a list, or a tensor of one dimension.

        `clean_up_tokenization_spaces` removes spaces before English punctuation.
        `spaces_between_special_tokens` concerns tokenizers that run in Python: they put spaces around added
        tokens.
        """
        text = self._decode(self._ids_of(token_ids), skip_special_tokens, spaces_between_special_tokens)
        if clean_up_tokenization_spaces is None:
            clean_up_tokenization_spaces = self.clean_up_tokenization_spaces
        return self.clean_up_tokenization(text) if clean_up_tokenization_spaces else text

    def batch_decode(
        self,
        sequences: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        spaces_between_special_tokens: bool = True,
    ) -> list[str]:
        """The texts of rows of ids: a list of lists or a tensor [B, L]."""
        return [
            self.decode(row, skip_special_tokens, clean_up_tokenization_spaces, spaces_between_special_tokens)
            for row in sequences
        ]

    @staticmethod
    def clean_up_tokenization(text: str) -> str:
        """Without the spaces that splitting leaves before English punctuation and contractions."""
        for spaced in (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're"):
            text = text.replace(spaced, spaced.strip())
        return text

    @overload
    def convert_ids_to_tokens(self, ids: int, skip_special_tokens: bool = False) -> str | None: ...
    @overload
    def convert_ids_to_tokens(
        self, ids: Sequence[int], skip_special_tokens: bool = False
    ) -> list[str | None]: ...
    def convert_ids_to_tokens(
        self, ids: int | Sequence[int], skip_special_tokens: bool = False
    ) -> str | list[str | None] | None:
        """The tokens of ids; None for an id that has no token."""
        if isinstance(ids, int):
            return self._token_of_id(ids)
        skipped = set(self.all_special_ids) if skip_special_tokens else ()
        return [self._token_of_id(int(index)) for index in ids if int(index) not in skipped]

    def _token_at(self, index: int, name: str) -> str:
        token = self._token_of_id(index)
        if token is None:
            raise TokenizerError(f"{name}: id {index} has no token; ids run from 0 to {len(self) - 1}")
        return token

    def _ids_of(self, value: Any) -> list[int]:
        """Ids as a list, whatever holds them."""
        if hasattr(value, "tolist"):
            value = value.tolist()
        try:
            return [int(index) for index in (value if isinstance(value, list | tuple) else [value])]
        except (TypeError, ValueError) as error:
            raise TokenizerError(
                f"token_ids is {value!r}; it must be one row of ids, see batch_decode"
            ) from error

    # Length

    def pad(
        self,
        encoded_inputs: Any,
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Pad what calls returned: one encoding, a batch, or a list of encodings, of lists or of tensors.

        Pads input_ids, attention_mask, token_type_ids and special_tokens_mask; the given object stays as it
        is.
        """
        options = EncodeOptions(
            padding=padding,
            max_length=max_length,
            pad_to_multiple_of=pad_to_multiple_of,
            padding_side=padding_side,
            return_attention_mask=return_attention_mask,
            return_tensors=return_tensors,
            truncation=False,
            verbose=verbose,
        )
        return pad_encoded(self, encoded_inputs, options)

    def prepare_for_model(
        self,
        ids: list[int],
        pair_ids: list[int] | None = None,
        prepend_batch_axis: bool = False,
        **options: Any,
    ) -> BatchEncoding:
        """Truncate, surround with special tokens and pad the ids of a text or a pair.

        Tensors are [L], or [1, L] with `prepend_batch_axis`.
        """
        asked = self.options_class(**options)
        plan = self._plan(asked)
        second = None if pair_ids is None else Tokens(pair_ids)
        return assemble(self, Tokens(ids), second, asked, plan, prepend_batch_axis)

    @property
    def max_len_single_sentence(self) -> int:
        """Tokens that one text can have beside the special tokens."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=False)

    @property
    def max_len_sentences_pair(self) -> int:
        """Tokens that two texts can have together beside the special tokens."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=True)

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many special tokens go around one text, or around a pair."""
        return len(self._special_tokens_mask([], [] if pair else None))

    def get_special_tokens_mask(
        self,
        token_ids_0: list[int],
        token_ids_1: list[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """1 for special tokens, 0 for others: of the row these texts will give, or of a row as it is."""
        if not already_has_special_tokens:
            return self._special_tokens_mask(token_ids_0, token_ids_1)
        if token_ids_1 is not None:
            raise TokenizerError(
                "token_ids_1 must be None where already_has_special_tokens: a row is one list"
            )
        special = set(self.all_special_ids)
        return [int(index in special) for index in token_ids_0]

    def create_token_type_ids_from_sequences(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Zeros as long as the row: these families do not tell the texts of a pair apart."""
        return [0] * len(self.get_special_tokens_mask(token_ids_0, token_ids_1))

    def _config(self) -> dict[str, Any]:
        return files.config_of(self)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(name_or_path={self.name_or_path!r}, vocab_size={self.vocab_size}, "
            f"tokens={len(self)}, model_max_length={self.model_max_length}, "
            f"padding_side={self.padding_side!r}, truncation_side={self.truncation_side!r}, "
            f"special_tokens={self.special_tokens_map})"
        )


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) < float("inf")  # NaN compares false


def _as_row(item: Any, words: bool) -> Row:
    """An entry of a batch: a text, or a pair of texts."""
    if not isinstance(item, list | tuple) or (words and not (item and isinstance(item[0], list | tuple))):
        return item, None
    if len(item) != 2:
        raise TokenizerError(f"the batch holds {item!r}; it must hold texts, or pairs of two texts")
    return item[0], item[1]


def _check_text(name: str, text: Any, words: bool) -> None:
    """A string, a list of strings, or a list of lists of strings, as far as the first entries show."""
    entry = text
    for _ in range(3):
        if isinstance(entry, str):
            break
        if not isinstance(entry, list | tuple):
            kind = type(entry).__name__
            raise TokenizerError(
                f"{name} holds a {kind}; it must be a string, a list of strings, or lists of words"
            )
        if not entry:
            return
        entry = entry[0]
    else:
        raise TokenizerError(
            f"{name} is nested too deep; it must be a string, a list of strings, or lists of words"
        )
    if words and isinstance(text, str):
        raise TokenizerError(f"{name} is a string; with is_split_into_words it must be a list of words")
