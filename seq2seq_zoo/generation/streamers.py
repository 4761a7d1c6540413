"""Text as it is being written: to standard output, or to iterate over from another thread.

A streamer is any object with `put(ids)`, called with the prompt [1, n] and then with the new token [1] of
each step, and `end()`, called once. Tokens are no words, so text is held back until later tokens can no
longer change it:

    tokens  ▁un  break  able  ▁glass
    shown                     unbreakable␣          a word is shown when the next one begins
    tokens  你   好
    shown   你   好                                 a script without spaces is shown at once
"""

from __future__ import annotations

import queue
import sys
from typing import Any

from torch import Tensor

from seq2seq_zoo.errors import GenerationError

# Han, in all its blocks (Unicode 15, chapter 18): written without spaces, one token or more a character.
_HAN = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2EBEF),
    (0x2F800, 0x2FA1F),
    (0x30000, 0x323AF),
)


class TextStreamer:
    """Writes the text to standard output as it grows, one row only.

    tokenizer: anything with `decode(ids, **decode_options)`.
    skip_prompt: leave the prompt out.
    """

    def __init__(self, tokenizer: Any, skip_prompt: bool = False, **decode_options: Any) -> None:
        self.tokenizer, self.skip_prompt, self.decode_options = tokenizer, skip_prompt, decode_options
        self._line: list[int] = []  # the tokens since the last line break
        self._shown = 0  # how many characters of their text are out
        self._started = False

    def put(self, value: Tensor) -> None:
        """Take the prompt [1, n] or the next token [1]."""
        rows = value.shape[0] if value.dim() == 2 or self._started else 1
        if rows != 1:
            raise GenerationError(f"a text streamer follows one row, but was given {rows}")
        is_prompt, self._started = not self._started, True
        if is_prompt and self.skip_prompt:
            return
        self._line += value.flatten().tolist()
        text = self.tokenizer.decode(self._line, **self.decode_options)
        if text.endswith("\n"):
            self._line, shown, self._shown = [], self._shown, 0
            self.on_finalized_text(text[shown:])
            return
        settled = len(text) if _is_han(text[-1:]) else text.rfind(" ") + 1
        self.on_finalized_text(text[self._shown : settled])
        self._shown = max(self._shown, settled)

    def end(self) -> None:
        """Show what was held back, and end the line."""
        text = self.tokenizer.decode(self._line, **self.decode_options) if self._line else ""
        rest = text[self._shown :]
        self._line, self._shown, self._started = [], 0, False
        self.on_finalized_text(rest, stream_end=True)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """What to do with text that will not change any more; may be overridden."""
        sys.stdout.write(text + "\n" if stream_end else text)
        sys.stdout.flush()


class TextIteratorStreamer(TextStreamer):
    """Iterates over the pieces of text while `generate` runs in another thread.

    timeout: seconds to wait for the next piece before queue.Empty is raised; None waits for ever, which is
        unwise where `generate` may fail.
    """

    def __init__(
        self, tokenizer: Any, skip_prompt: bool = False, timeout: float | None = None, **decode_options: Any
    ) -> None:
        super().__init__(tokenizer, skip_prompt, **decode_options)
        self.timeout = timeout
        self.text_queue: queue.Queue[str | None] = queue.Queue()

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Hand the text over; None marks the end."""
        self.text_queue.put(text)
        if stream_end:
            self.text_queue.put(None)

    def __iter__(self) -> TextIteratorStreamer:
        return self

    def __next__(self) -> str:
        text = self.text_queue.get(timeout=self.timeout)
        if text is None:
            raise StopIteration
        return text


def _is_han(character: str) -> bool:
    return character != "" and any(low <= ord(character) <= high for low, high in _HAN)
