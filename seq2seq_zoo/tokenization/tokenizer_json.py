"""Tokenizers that are their tokenizer.json, such as PhiMoE's: a BPE in the file format of `tokenizers`.

    "<|user|> Olé"  ──added tokens──▶  "<|user|>", " Olé"  ──spaces──▶  "▁Olé"
                    ──merges, bytes──▶  "▁O", "l", "<0xC3>", "<0xA9>"

The file knows normalizer and merges, what becomes of a character without a piece (byte fallback: a token for
each byte of its UTF-8), and how tokens become text again. What is left to a class is which special tokens go
around a text:

    PreTrainedTokenizerFast, TokenizersBackend   those that the file says
    LlamaTokenizerFast                           <s> before each text, or what its settings say

The names are those by which tokenizer_config.json asks for them; transformers 5.x writes the second. Any
model that `tokenizers` knows will do, not only BPE.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import tokenizers
from tokenizers import models, processors

from seq2seq_zoo.errors import TokenizerError

from . import files
from .backend import BackendTokenizer, read_backend
from .special_tokens import Token

METASPACE = "▁"
"""What sentencepiece writes for a space."""


class _Part(NamedTuple):
    """A text, or a special token, of a row."""

    text: int | None
    """0 or 1 for a text, None for a special token."""
    id: int
    type: int


class PreTrainedTokenizerFast(BackendTokenizer):
    """A tokenizer.json, whatever is in it; behaves as its namesake of transformers 4.57.6.

    Built from the path of a file, or from a `tokenizers.Tokenizer`, of which it keeps a copy.
    """

    vocab_files_names: ClassVar[dict[str, str]] = {"tokenizer_file": files.TOKENIZER}
    saved_class_name: ClassVar[str] = "PreTrainedTokenizerFast"
    model_input_names: list[str] = ["input_ids", "token_type_ids", "attention_mask"]  # noqa: RUF012

    def __init__(
        self,
        *,
        tokenizer_file: str | None = None,
        tokenizer_object: tokenizers.Tokenizer | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(_open(self, tokenizer_file, tokenizer_object, settings), **settings)

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """The ids of one text, or of two, with the special tokens around them that calls put there."""
        texts = {0: token_ids_0, 1: token_ids_1 or []}
        parts = self._parts(token_ids_1 is not None)
        return [i for part in parts for i in ([part.id] if part.text is None else texts[part.text])]

    def _special_tokens_mask(self, token_ids_0: list[int], token_ids_1: list[int] | None) -> list[int]:
        return self._spread(token_ids_0, token_ids_1, lambda part: int(part.text is None))

    def create_token_type_ids_from_sequences(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """The type of each token of the row that calls make of these texts."""
        return self._spread(token_ids_0, token_ids_1, lambda part: part.type)

    def _spread(self, first: list[int], second: list[int] | None, value: Callable[[_Part], int]) -> list[int]:
        """The value of each part, once for each of its tokens."""
        sizes = {None: 1, 0: len(first), 1: len(second or [])}
        return [v for part in self._parts(second is not None) for v in [value(part)] * sizes[part.text]]

    def _parts(self, pair: bool) -> list[_Part]:
        """What a row consists of."""
        # The post-processor takes nothing but whole encodings, so it gets texts of one token, made by another
        # model.
        probe = tokenizers.Tokenizer(models.WordLevel({"x": 0}, unk_token="x"))
        if self._backend.post_processor is not None:
            probe.post_processor = self._backend.post_processor
        encoding = probe.encode("x", "x" if pair else None)
        return [
            _Part(*part) for part in zip(encoding.sequence_ids, encoding.ids, encoding.type_ids, strict=True)
        ]

    def _write_vocabulary(self, folder: files.Replacing) -> None:
        """Nothing: tokenizer.json holds the vocabulary."""


class TokenizersBackend(PreTrainedTokenizerFast):
    """The same with two inputs, as in transformers 5.x; and what no file says anything of."""

    model_input_names: list[str] = ["input_ids", "attention_mask"]  # noqa: RUF012

    def _config(self) -> dict[str, Any]:
        # transformers 4.x does not know this class and takes the other one, which has other inputs.
        return {**super()._config(), "model_input_names": self.model_input_names}


class LlamaTokenizerFast(PreTrainedTokenizerFast):
    """Llama's and PhiMoE's tokenizer; behaves as transformers 4.57.6's LlamaTokenizerFast.

    The file alone says how texts are cut; `legacy` is kept for its other readers. `add_prefix_space` changes
    whether a space goes before a text.
    """

    saved_class_name: ClassVar[str] = "LlamaTokenizerFast"
    saved_settings: ClassVar[tuple[str, ...]] = ("add_bos_token", "add_eos_token", "legacy")
    model_input_names: list[str] = ["input_ids", "attention_mask"]  # noqa: RUF012

    def __init__(
        self,
        *,
        tokenizer_file: str | None = None,
        tokenizer_object: tokenizers.Tokenizer | None = None,
        unk_token: Token | None = "<unk>",
        bos_token: Token | None = "<s>",
        eos_token: Token | None = "</s>",
        add_bos_token: bool = True,
        add_eos_token: bool = False,
        add_prefix_space: bool | None = None,
        legacy: bool | None = None,
        padding_side: str = "left",
        **settings: Any,
    ) -> None:
        backend = _open(self, tokenizer_file, tokenizer_object, settings)
        super().__init__(
            tokenizer_object=backend
            if add_prefix_space is None
            else _with_prefix_space(backend, add_prefix_space),
            unk_token=unk_token,
            bos_token=bos_token,
            eos_token=eos_token,
            padding_side=padding_side,
            **settings,
        )
        self.legacy = True if legacy is None else legacy
        self._add_bos_token, self._add_eos_token = add_bos_token, add_eos_token
        self.update_post_processor()

    @property
    def add_bos_token(self) -> bool:
        """Whether bos_token goes before each text."""
        return self._add_bos_token

    @add_bos_token.setter
    def add_bos_token(self, value: bool) -> None:
        self._add_bos_token = value
        self.update_post_processor()

    @property
    def add_eos_token(self) -> bool:
        """Whether eos_token goes behind each text."""
        return self._add_eos_token

    @add_eos_token.setter
    def add_eos_token(self, value: bool) -> None:
        self._add_eos_token = value
        self.update_post_processor()

    def update_post_processor(self) -> None:
        """Let calls put the present bos_token and eos_token around texts, after one of them was changed."""
        bos = self._edge("bos_token") if self._add_bos_token else []
        eos = self._edge("eos_token") if self._add_eos_token else []

        def row(kind: int, text: str) -> list[str]:
            return [f"{token}:{kind}" for token in (*bos, text, *eos)]

        self._backend.post_processor = processors.TemplateProcessing(
            single=row(0, "$A"),
            pair=row(0, "$A") + row(1, "$B"),
            special_tokens=[(token, self.convert_tokens_to_ids(token)) for token in {*bos, *eos}],
        )
        self._thin.cache_clear()

    def _edge(self, role: str) -> list[str]:
        token = getattr(self, role)
        if token is None:
            raise TokenizerError(f"add_{role} is True, but {role} is None; it must be a token")
        return [token]


def _open(
    tokenizer: PreTrainedTokenizerFast,
    path: str | None,
    given: tokenizers.Tokenizer | None,
    settings: dict[str, Any],
) -> tokenizers.Tokenizer:
    if given is not None:
        return copy.deepcopy(given)
    if path is None:
        raise TokenizerError(
            f"{settings.get('name_or_path') or 'the arguments'}: {files.TOKENIZER} is missing; a "
            f"{type(tokenizer).__name__} is built from it"
        )
    return read_backend(path)


def _with_prefix_space(backend: tokenizers.Tokenizer, wanted: bool) -> tokenizers.Tokenizer:
    """The tokenizer with or without a space before a text, which decoding takes off again.

    Files say it in one of two ways: a normalizer that prepends, or a pre-tokenizer of the type Metaspace.
    """
    state = json.loads(backend.to_str())
    prepend, strip = (
        {"type": "Prepend", "prepend": METASPACE},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    )
    before = state["pre_tokenizer"] or {}
    if before.get("type") == "Metaspace":
        before["prepend_scheme"] = "first" if wanted else "never"
    else:
        state["normalizer"] = _with_step(state["normalizer"], "normalizers", prepend, 0, wanted)
    if (state["decoder"] or {}).get("type") == "Metaspace":
        state["decoder"]["prepend_scheme"] = "first" if wanted else "never"
    else:
        state["decoder"] = _with_step(state["decoder"], "decoders", strip, -1, wanted)
    return tokenizers.Tokenizer.from_str(json.dumps(state))


def _with_step(
    part: dict[str, Any] | None, listed: str, step: dict[str, Any], place: int, wanted: bool
) -> dict[str, Any] | None:
    """A sequence of steps in which `step` stands first (0) or last (-1), or not at all."""
    steps = part[listed] if part and part["type"] == "Sequence" else [part] if part else []
    steps = [other for other in steps if other["type"] != step["type"]]
    if wanted:
        steps = [step, *steps] if place == 0 else [*steps, step]
    return {"type": "Sequence", listed: steps} if steps else None
