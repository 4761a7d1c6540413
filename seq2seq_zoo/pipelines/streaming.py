"""An answer on one line, shown as it is written.

    tokens   ▁un  break  able  ▁glass  .
    shown                      unbreakable    (the space behind it waits)    glass.

A later token can change the end of the text so far: it may go on with the last word, complete a character, or
take away a space. So that much is held back, and what is shown in the end is the text of all tokens.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any

from torch import Tensor


class LineStreamer:
    """Shows one row of `generate` by `show`, in pieces.

    tokenizer          has `decode`
    show               takes text
    before             stands before what is written
    decode_options     for `decode`
    """

    def __init__(
        self, tokenizer: Any, show: Callable[[str], Any], before: str = "", **decode_options: Any
    ) -> None:
        self._tokenizer, self._options = tokenizer, decode_options
        self._show, self._before = show, before
        self._prompt: str | None = None
        self._ids: list[int] = []
        self._shown = 0  # characters that are out

    def put(self, value: Tensor) -> None:
        """Take the prompt [1, n], then the new token [1] of each step."""
        self._ids += value.flatten().tolist()
        if self._prompt is None:
            self._prompt = self._decoded()
            self._up_to(self._before, len(self._before))
            return
        text = self._text()
        # Letters without case stand in scripts that do not part words, or do not mind being parted.
        whole = text != "" and unicodedata.category(text[-1]) == "Lo"
        self._up_to(text, len(text) if whole else text.rfind(" "))

    def end(self) -> None:
        """Show the rest."""
        text = self._text()
        self._up_to(text, len(text.rstrip("\n\r")))
        self._prompt, self._ids, self._shown = None, [], 0

    def _text(self) -> str:
        return self._before + self._decoded()[len(self._prompt or "") :]

    def _decoded(self) -> str:
        return str(self._tokenizer.decode(self._ids, **self._options))

    def _up_to(self, text: str, end: int) -> None:
        """Show the text up to a place, without line breaks at the end: what follows decides about them."""
        end = len(text[: max(end, 0)].rstrip("\n\r"))
        if end > self._shown:
            self._show(" ".join(text[self._shown : end].splitlines()))
            self._shown = end
