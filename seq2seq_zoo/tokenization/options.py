"""How a call to a tokenizer is meant: the options, their ranges, and the lengths that follow from them.

    padding      False | True = "longest" | "max_length"
    truncation   None | False | True = "longest_first" | "only_first" | "only_second"
    max_length   what both refer to; by default the model's own limit

Everything out of range raises TokenizerError before any text is read.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from numbers import Integral
from typing import NamedTuple

from seq2seq_zoo.errors import TokenizerError

NO_LIMIT = int(1e30)
"""model_max_length of a tokenizer that has none; files carry this number."""
_LIMIT_AT_MOST = int(1e20)

_PADDING = {
    True: "longest",
    False: None,
    "longest": "longest",
    "max_length": "max_length",
    "do_not_pad": None,
}
_TRUNCATION = {
    True: "longest_first",
    False: None,
    None: None,
    "longest_first": "longest_first",
    "only_first": "only_first",
    "only_second": "only_second",
    "do_not_truncate": None,
}


class Lengths(NamedTuple):
    """What is to be done about length: None means nothing."""

    padding: str | None
    truncation: str | None
    max_length: int | None


@dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """The keyword arguments of a call."""

    add_special_tokens: bool = True
    """Put the family's beginning, separating and ending tokens around the text."""
    padding: bool | str = False
    """Fill rows up to the longest row (True or "longest") or to max_length ("max_length")."""
    truncation: bool | str | None = None
    """Shorten rows to max_length: the longer text of a pair first (True), or only one text of the pair."""
    max_length: int | None = None
    """Tokens in a row, special tokens included.  Alone it also turns truncation on."""
    stride: int = 0
    """Tokens repeated between a row and the tokens cut from it."""
    is_split_into_words: bool = False
    """Texts are lists of words."""
    pad_to_multiple_of: int | None = None
    """Round the padded length up."""
    padding_side: str | None = None
    """The side for this call, "left" or "right"."""
    return_tensors: str | None = None
    """Tensors of torch ("pt") or numpy ("np") instead of lists."""
    return_token_type_ids: bool | None = None
    return_attention_mask: bool | None = None
    return_overflowing_tokens: bool = False
    return_special_tokens_mask: bool = False
    return_offsets_mapping: bool = False
    return_length: bool = False
    split_special_tokens: bool | None = None
    """Read special tokens in the text as plain text."""
    verbose: bool = True
    """Warn where a request has no effect."""

    def __post_init__(self) -> None:
        _one_of("padding", self.padding, _PADDING)
        _one_of("truncation", self.truncation, _TRUNCATION)
        _one_of("padding_side", self.padding_side, (None, "left", "right"))
        _one_of("return_tensors", self.return_tensors, (None, "pt", "np"))
        _at_least("max_length", self.max_length, 1)
        _at_least("stride", self.stride, 0)
        _at_least("pad_to_multiple_of", self.pad_to_multiple_of, 1)

    def lengths(self, model_max_length: int) -> Lengths:
        """The plan for a tokenizer whose model reads at most `model_max_length` tokens."""
        padding, truncation, max_length = (
            _PADDING[self.padding],
            _TRUNCATION[self.truncation],
            self.max_length,
        )
        if max_length is not None and self.padding is False and self.truncation is None:
            self._warn("max_length is given without truncation: texts are truncated as by truncation=True")
            truncation = "longest_first"
        elif max_length is not None and padding == "longest" and truncation is None:
            self._warn("max_length has no effect with padding=True alone; padding='max_length' pads up to it")

        if max_length is None and model_max_length <= _LIMIT_AT_MOST:
            if padding == "max_length" or truncation is not None:
                max_length = model_max_length
        elif max_length is None:
            if padding == "max_length":
                self._warn("padding='max_length' has no effect: neither the call nor the model sets a length")
                padding = None
            if truncation is not None:
                self._warn("truncation has no effect: neither the call nor the model sets a length")
                truncation = None

        multiple = self.pad_to_multiple_of
        if truncation and padding and multiple and max_length is not None and max_length % multiple:
            raise TokenizerError(
                f"max_length is {max_length}; with padding and truncation it must be a multiple of "
                f"pad_to_multiple_of, which is {multiple}"
            )
        return Lengths(padding, truncation, max_length)

    def _warn(self, message: str) -> None:
        if self.verbose:
            warnings.warn(message, stacklevel=5)


def _one_of(name: str, value: object, allowed: object) -> None:
    # 1 == True finds the key of True, but a number is no choice.
    if isinstance(value, bool | str | None) and value in allowed:  # type: ignore[operator]
        return
    choices = ", ".join(repr(choice) for choice in allowed)  # type: ignore[attr-defined]
    raise TokenizerError(f"{name} is {value!r}; it must be one of {choices}")


def _at_least(name: str, value: int | None, least: int) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise TokenizerError(f"{name} is {value!r}; it must be an integer of at least {least}")
