"""The sentencepiece tokenizer of BertGeneration.

    "Hello world"  ──normalize, spaces → ▁──▶  "▁Hello▁world"  ──unigram model──▶  "▁Hello", "▁world"

    one text   A          two texts   A B

No special tokens go around a text: fusion, splitting, summarization and translation need none before it and
no end behind it (Rothe et al. 2020). Whoever wants them writes them: "<s>", "</s>" and the separator "<::::>"
are found in the text.

With `sp_model_kwargs={"enable_sampling": True, "nbest_size": -1, "alpha": 0.1}` a text is split anew at every
call, each way as often as the model finds it likely (subword regularization, Kudo 2018, section 3).
`sentencepiece.set_random_generator_seed` seeds the draws.
"""

from __future__ import annotations

import os
from typing import Any, ClassVar

from seq2seq_zoo.errors import TokenizerError

from . import spiece
from .special_tokens import Token
from .spiece_tokenizer import SpieceTokenizer


class BertGenerationTokenizer(SpieceTokenizer):
    """sentencepiece with added tokens cut out in Python; behaves as transformers 4.57.6's namesake."""

    vocab_files_names: ClassVar[dict[str, str]] = {"vocab_file": "spiece.model"}
    saved_settings: ClassVar[tuple[str, ...]] = ("sp_model_kwargs",)
    saved_class_name: ClassVar[str] = "BertGenerationTokenizer"

    def __init__(
        self,
        vocab_file: str | os.PathLike[str] | None = None,
        bos_token: Token | None = "<s>",
        eos_token: Token | None = "</s>",
        unk_token: Token | None = "<unk>",
        pad_token: Token | None = "<pad>",
        sep_token: Token | None = "<::::>",
        sp_model_kwargs: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        if vocab_file is None:
            raise TokenizerError(
                f"{settings.get('name_or_path') or 'the arguments'}: spiece.model is missing; "
                "a BertGenerationTokenizer is built from it"
            )
        self.vocab_file = os.fspath(vocab_file)
        self.sp_model_kwargs = dict(sp_model_kwargs or {})
        self._spiece = spiece.read_spiece(vocab_file)
        self._processor = self._load()
        super().__init__(
            bos_token=bos_token,
            eos_token=eos_token,
            unk_token=unk_token,
            pad_token=pad_token,
            sep_token=sep_token,
            **settings,
        )

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """A, or A B."""
        return [*token_ids_0, *(token_ids_1 or [])]

    def _special_tokens_mask(self, token_ids_0: list[int], token_ids_1: list[int] | None) -> list[int]:
        return [0] * len(self.build_inputs_with_special_tokens(token_ids_0, token_ids_1))

    def create_token_type_ids_from_sequences(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """0 for the first text, 1 for the second."""
        return [0] * len(token_ids_0) + [1] * len(token_ids_1 or [])

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text of pieces; special tokens stand in it as they are, without spaces of their own."""
        special = set(self.all_special_tokens)
        text = ""
        run: list[str] = []
        for token in tokens:
            if token in special:
                text += str(self._processor.decode(run)) + token
                run = []
            else:
                run.append(token)
        return (text + str(self._processor.decode(run))).strip()
