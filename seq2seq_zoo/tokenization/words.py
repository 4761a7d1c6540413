"""From a text to words, as BERT prepares it for WordPiece (Devlin et al. 2019; google-research/bert,
tokenization.py).

    "Olé,\\t三百 km!"  ──clean──▶  "Olé, 三百 km!"  ──ideographs apart──▶  "Olé,", "三", "百", "km!"
                     ──lower case, no accents──▶  "ole,", …  ──punctuation apart──▶  "ole", ",", …

Each step maps characters one by one, so each is a translation table; an entry is worked out from the Unicode
database when its character is first met.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Set
from dataclasses import dataclass

# CJK unified ideographs and their extensions A to E, and both blocks of compatibility ideographs.
_IDEOGRAPHS = (
    range(0x3400, 0x4DC0),
    range(0x4E00, 0xA000),
    range(0xF900, 0xFB00),
    range(0x20000, 0x2A6E0),
    range(0x2A700, 0x2B740),
    range(0x2B740, 0x2B820),
    range(0x2B820, 0x2CEB0),
    range(0x2F800, 0x2FA20),
)
_REPLACEMENT_CHARACTER = "\ufffd"


class _Table(dict[int, str | None]):
    """Code point → what stands for it, None for nothing; see str.translate."""

    def __init__(self, rule: Callable[[str], str | None]) -> None:
        super().__init__()
        self._rule = rule

    def __missing__(self, code: int) -> str | None:
        self[code] = found = self._rule(chr(code))
        return found


def _cleaned(char: str) -> str | None:
    """Spaces become one kind of space; control, format, private and unassigned characters vanish."""
    category = unicodedata.category(char)
    if char in "\t\n\r" or category == "Zs":
        return " "
    return None if category[0] == "C" or char == _REPLACEMENT_CHARACTER else char


def _cleaned_and_apart(char: str) -> str | None:
    # The blocks have places that are not assigned yet; these vanish.
    kept = _cleaned(char)
    return f" {char} " if kept and any(ord(char) in block for block in _IDEOGRAPHS) else kept


def _without_accent(char: str) -> str | None:
    return None if unicodedata.category(char) == "Mn" else char


def _punctuation_apart(char: str) -> str:
    # In ASCII every sign counts, such as "$" and "^", which Unicode calls symbols.
    ascii_sign = char.isascii() and char.isprintable() and not char.isalnum() and char != " "
    return f" {char} " if ascii_sign or unicodedata.category(char)[0] == "P" else char


_CLEAN = _Table(_cleaned)
_CLEAN_IDEOGRAPHS_APART = _Table(_cleaned_and_apart)
_NO_ACCENTS = _Table(_without_accent)
_PUNCTUATION_APART = _Table(_punctuation_apart)


@dataclass(frozen=True)
class WordSplitter:
    """The steps above, with the choices that checkpoints make."""

    lower_case: bool
    ideographs_apart: bool
    strip_accents: bool

    def __call__(self, text: str, never_split: Set[str]) -> list[str]:
        """The words of a text; a word of `never_split` stays as it is."""
        text = text.translate(_CLEAN_IDEOGRAPHS_APART if self.ideographs_apart else _CLEAN)
        words: list[str] = []
        for word in unicodedata.normalize("NFC", text).split():
            if word not in never_split:
                word = self._folded(word)
            words += [word] if word in never_split else word.translate(_PUNCTUATION_APART).split()
        return words

    def _folded(self, word: str) -> str:
        word = word.lower() if self.lower_case else word
        return unicodedata.normalize("NFD", word).translate(_NO_ACCENTS) if self.strip_accents else word


def lower_each(text: str) -> str:
    """Lower case, each character by itself: a capital sigma at the end of a word becomes σ, not ς."""
    return "".join(map(str.lower, text)) if "Σ" in text else text.lower()
