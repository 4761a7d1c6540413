"""SpieceTokenizer: a PieceTokenizer whose piece model is a processor of the sentencepiece library.

The content of the file is kept beside the processor: saving writes the same bytes again, and a copy of the
tokenizer loads a processor of its own with the same arguments.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from sentencepiece import SentencePieceProcessor

from . import files, spiece
from .pieces import Piece, PieceTokenizer


class SpieceTokenizer(PieceTokenizer):
    """What the sentencepiece tokenizers share. A subclass sets the four attributes before it calls the
    constructor of PieceTokenizer.
    """

    vocab_file: str
    sp_model_kwargs: dict[str, Any]
    """Arguments of sentencepiece's processor, as for sampling."""
    _spiece: bytes
    _processor: SentencePieceProcessor

    def _load(self) -> SentencePieceProcessor:
        return spiece.load_processor(self._spiece, self.vocab_file, **self.sp_model_kwargs)

    @property
    def vocab_size(self) -> int:
        return int(self._processor.get_piece_size())

    def _base_vocab(self) -> dict[str, int]:
        return {self._processor.id_to_piece(i): i for i in range(self.vocab_size)}

    @cached_property
    def _ids_met(self) -> dict[str, int]:
        """Ids of the pieces met so far: asking the library takes longer than splitting the text."""
        return {}

    def _base_id(self, piece: str) -> int | None:
        index = self._ids_met.get(piece)
        if index is None:
            index = int(self._processor.piece_to_id(piece))
            if index == self._processor.unk_id() and self._base_piece(index) != piece:
                return None
            self._ids_met[piece] = index
        return index

    def _base_piece(self, index: int) -> str | None:
        return self._processor.id_to_piece(index) if 0 <= index < self.vocab_size else None

    def _unknown_id(self, token: str) -> int:
        return int(self._processor.unk_id())

    def _pieces(self, text: str) -> list[Piece]:
        return [Piece(token, 0, 0) for token in self._encode_text(text)]

    def _encode_text(self, text: str) -> list[str]:
        return list(self._processor.encode(text, out_type=str))

    def _write_vocabulary(self, folder: files.Replacing) -> None:
        folder.write("spiece.model", self._spiece)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_processor"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._processor = self._load()
