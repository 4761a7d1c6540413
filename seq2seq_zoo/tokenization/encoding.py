"""BatchEncoding: what a tokenizer returns.

A dict from names (`input_ids`, `attention_mask`, …) to lists or tensors. Rows are [B, L] where several texts
were given or tensors were asked for, [L] for one text. It also reads by attribute, moves to a device, unpacks
with `**`, and, where the text went through `tokenizers`, tells which token covers which character and which
word.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from seq2seq_zoo.errors import TokenizerError

if TYPE_CHECKING:
    import torch
    from tokenizers import Encoding
    from typing_extensions import Self


class CharSpan(NamedTuple):
    """Characters start … end - 1 of the text."""

    start: int
    end: int


class TokenSpan(NamedTuple):
    """Tokens start … end - 1 of the row."""

    start: int
    end: int


class BatchEncoding(dict[str, Any]):
    """Encoded texts.

    `encodings` holds one record of `tokenizers` a row and is None for a tokenizer that runs in Python; the
    methods that map tokens to characters and words then raise TokenizerError.
    """

    def __init__(
        self,
        data: dict[str, Any] | None = None,
        encodings: Sequence[Encoding] | None = None,
        tensor_type: str | None = None,
        prepend_batch_axis: bool = False,
    ) -> None:
        super().__init__(data or {})
        self._encodings = list(encodings) if encodings is not None else None
        self.convert_to_tensors(tensor_type, prepend_batch_axis)

    def __getitem__(self, key: Any) -> Any:
        """A value by name; a record of `tokenizers` by row number; a dict of part of the rows by a slice."""
        if isinstance(key, str):
            return super().__getitem__(key)
        if self._encodings is not None:
            return self._encodings[key]
        if isinstance(key, slice):
            return {name: value[key] for name, value in self.items()}
        raise KeyError(f"{key!r}: a BatchEncoding of this tokenizer has names and slices as keys")

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getitem__(name)
        except KeyError:
            held = ", ".join(self)
            raise AttributeError(f"no {name!r} in this BatchEncoding, which holds: {held}") from None

    @property
    def is_fast(self) -> bool:
        """Whether the texts went through `tokenizers` as a whole."""
        return self._encodings is not None

    @property
    def encodings(self) -> list[Encoding] | None:
        """The records of `tokenizers`, one a row."""
        return self._encodings

    @property
    def n_sequences(self) -> int | None:
        """Texts in a row: 1, or 2 for pairs; None where unknown."""
        return int(self._encodings[0].n_sequences) if self._encodings else None

    # Tensors

    def convert_to_tensors(self, tensor_type: str | None = None, prepend_batch_axis: bool = False) -> Self:
        """Turn all values into tensors of int64, in place: "pt" for torch, "np" for numpy.

        Rows of different lengths raise TokenizerError.
        """
        if tensor_type is None:
            return self
        convert = {"pt": _torch_tensor, "np": _numpy_array}.get(tensor_type)
        if convert is None:
            raise TokenizerError(f"return_tensors is {tensor_type!r}; it must be 'pt', 'np' or None")
        for name, value in self.items():
            try:
                self[name] = convert([value] if prepend_batch_axis else value)
            except (ValueError, TypeError) as error:
                raise TokenizerError(
                    f"{name!r} cannot become a tensor, most likely because its rows differ in length; "
                    "padding=True and truncation=True make them equal"
                ) from error
        return self

    def to(self, device: str | int | torch.device, *, non_blocking: bool = False) -> Self:
        """Move all tensors to a device, in place; returns itself."""
        import torch

        if not isinstance(device, str | int | torch.device):
            raise TypeError(f"device is {device!r}; ids move to a device and are never cast to a dtype")
        for name, value in self.items():
            if isinstance(value, torch.Tensor):
                self[name] = value.to(device, non_blocking=non_blocking)
        return self

    # Tokens, words and characters. Each method takes (index) where there is one row and (row, index)
    # otherwise.

    def tokens(self, batch_index: int = 0) -> list[str]:
        """The tokens of a row as text pieces."""
        return list(self._row(batch_index, "tokens").tokens)

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token the number of its word, None for special tokens."""
        return list(self._row(batch_index, "word_ids").word_ids)

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token 0 or 1 for the first or second text of a pair, None for special tokens."""
        return list(self._row(batch_index, "sequence_ids").sequence_ids)

    def token_to_sequence(self, row: int, token: int | None = None) -> int | None:
        """Which text of a pair a token belongs to."""
        encoding, token = self._located(row, token, "token_to_sequence")
        return _optional_int(encoding.token_to_sequence(_from_end(token, len(encoding))))

    def token_to_word(self, row: int, token: int | None = None) -> int | None:
        """The word of a token."""
        encoding, token = self._located(row, token, "token_to_word")
        return _optional_int(encoding.token_to_word(_from_end(token, len(encoding))))

    def token_to_chars(self, row: int, token: int | None = None) -> CharSpan | None:
        """The characters of a token, None for a special token."""
        encoding, token = self._located(row, token, "token_to_chars")
        span = encoding.token_to_chars(_from_end(token, len(encoding)))
        return CharSpan(*span) if span is not None else None

    def word_to_tokens(self, row: int, word: int | None = None, sequence_index: int = 0) -> TokenSpan | None:
        """The tokens of a word, None if it gave none."""
        encoding, word = self._located(row, word, "word_to_tokens")
        span = encoding.word_to_tokens(word, sequence_index)
        return TokenSpan(*span) if span is not None else None

    def word_to_chars(self, row: int, word: int | None = None, sequence_index: int = 0) -> CharSpan | None:
        """The characters of a word, None if it has no token."""
        encoding, word = self._located(row, word, "word_to_chars")
        span = encoding.word_to_chars(word, sequence_index)
        return CharSpan(*span) if span is not None else None

    def char_to_token(self, row: int, char: int | None = None, sequence_index: int = 0) -> int | None:
        """The token that covers a character, None where a trimmed space stands."""
        encoding, char = self._located(row, char, "char_to_token")
        return _optional_int(encoding.char_to_token(char, sequence_index))

    def char_to_word(self, row: int, char: int | None = None, sequence_index: int = 0) -> int | None:
        """The word that covers a character."""
        encoding, char = self._located(row, char, "char_to_word")
        return _optional_int(encoding.char_to_word(char, sequence_index))

    def _located(self, first: int, second: int | None, method: str) -> tuple[Encoding, int]:
        row, index = (0, first) if second is None else (first, second)
        return self._row(row, method), index

    def _row(self, index: int, method: str) -> Encoding:
        if self._encodings is None:
            raise TokenizerError(
                f"{method}() needs a tokenizer whose class ends in Fast; this one runs in Python"
            )
        return self._encodings[index]


def _from_end(index: int, length: int) -> int:
    return index + length if index < 0 else index


def _optional_int(value: Any) -> int | None:
    return None if value is None else int(value)


def _torch_tensor(value: Any) -> torch.Tensor:
    import torch

    return value if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=torch.int64)


def _numpy_array(value: Any) -> Any:
    import numpy as np

    return value if isinstance(value, np.ndarray) else np.asarray(value, dtype=np.int64)
