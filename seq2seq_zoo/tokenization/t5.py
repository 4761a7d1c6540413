"""sentencepiece tokenizers of mT5 and T5.

    "Hello world"  ──normalize, spaces → ▁──▶  "▁Hello▁world"  ──unigram model──▶  "▁Hello", "▁world"

    one text   A </s>          two texts   A </s> B </s>

Behind the pieces of the model stand `extra_ids` sentinels, <extra_id_0> with the highest id: span corruption
(Raffel et al. 2020, section 3.1.4) writes them for what it took out of a text.

MT5Tokenizer runs the sentencepiece library itself, with byte fallback where the model has it.
MT5TokenizerFast is the same model inside `tokenizers`: it knows offsets, but gives <unk> where the other
falls back to bytes.
"""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import tokenizers
from sentencepiece import SentencePieceProcessor
from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram

from seq2seq_zoo.errors import TokenizerError

from . import files, spiece
from .backend import BackendTokenizer, read_backend, refusing, with_settings
from .base import Tokenizer
from .options import EncodeOptions
from .pieces import Piece
from .special_tokens import ADDITIONAL, Token, check_tokens, text_of
from .spiece import SENTINEL, UNDERLINE
from .spiece_tokenizer import SpieceTokenizer

MOST_SENTINELS = 10_000
"""Each is a token to be looked for in every text; T5 has 100."""


class _T5Tokenizer(Tokenizer):
    """What the two classes share: sentinels, special tokens around a text."""

    vocab_files_names: ClassVar[dict[str, str]] = {
        "vocab_file": "spiece.model",
        "tokenizer_file": "tokenizer.json",
    }
    saved_settings: ClassVar[tuple[str, ...]] = ("extra_ids", "legacy", "sp_model_kwargs", "add_prefix_space")

    extra_ids: int
    """Number of sentinels behind the pieces of the model."""
    legacy: bool
    """True: a space goes before every stretch of text between special tokens; False: only before the text."""
    sp_model_kwargs: dict[str, Any]
    """Arguments of sentencepiece's processor, as for sampling."""

    def _eos(self) -> int:
        index = self.eos_token_id
        if index is None:
            raise TokenizerError("eos_token ends every text; it must be set")
        return index

    def get_sentinel_tokens(self) -> list[str]:
        """The sentinels among the special tokens."""
        return [text for text in self.additional_special_tokens if SENTINEL.fullmatch(text)]

    def get_sentinel_token_ids(self) -> list[int]:
        """Their ids."""
        return list(self.convert_tokens_to_ids(self.get_sentinel_tokens()))


class MT5Tokenizer(SpieceTokenizer, _T5Tokenizer):
    """sentencepiece with added tokens cut out in Python; behaves as transformers 4.57.6's T5Tokenizer.

    Built from a spiece.model or, if there is none, from the same model in a tokenizer.json.
    """

    # The name that released checkpoints have and that every version of transformers finds.
    saved_class_name: ClassVar[str] = "T5Tokenizer"

    def __init__(
        self,
        vocab_file: str | None = None,
        eos_token: Token | None = "</s>",
        unk_token: Token | None = "<unk>",
        pad_token: Token | None = "<pad>",
        extra_ids: int = 100,
        additional_special_tokens: list[Token] | None = None,
        sp_model_kwargs: dict[str, Any] | None = None,
        legacy: bool | None = None,
        add_prefix_space: bool = True,
        *,
        tokenizer_file: str | None = None,
        added_tokens_decoder: dict[int, AddedToken] | None = None,
        **settings: Any,
    ) -> None:
        _check_files(self, vocab_file, tokenizer_file, settings.get("name_or_path"))
        _check_count(extra_ids)
        self.vocab_file = str(vocab_file or tokenizer_file)
        self.extra_ids = extra_ids
        self.sp_model_kwargs = dict(sp_model_kwargs or {})
        self.legacy = True if legacy is None else legacy
        self.add_prefix_space = add_prefix_space
        self._spiece = (
            spiece.read_spiece(vocab_file) if vocab_file else spiece.spiece_of_json(self.vocab_file)
        )
        self._processor = self._load()

        additional = with_sentinels(additional_special_tokens, extra_ids)
        last = self.vocab_size - 1 + sum("<extra_id_" in text_of(token) for token in additional)
        sentinels = {
            last - i: _special(f"<extra_id_{i}>", lstrip=True, rstrip=True)
            for i in range(last - self.vocab_size + 1)
        }
        super().__init__(
            eos_token=_special(eos_token) if isinstance(eos_token, str) else eos_token,
            unk_token=_special(unk_token) if isinstance(unk_token, str) else unk_token,
            pad_token=_special(pad_token) if isinstance(pad_token, str) else pad_token,
            additional_special_tokens=additional,
            added_tokens_decoder={**sentinels, **(added_tokens_decoder or {})},
            **settings,
        )

    def _load(self) -> SentencePieceProcessor:
        return spiece.load_processor(
            self._spiece, self.vocab_file, dummy_prefix=self.legacy, **self.sp_model_kwargs
        )

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """A </s>, or A </s> B </s>; a text that ends with </s> already gets no second one."""
        eos = self._eos()
        texts = [token_ids_0] if token_ids_1 is None else [token_ids_0, token_ids_1]
        return [i for ids in texts for i in (ids if ids[-1:] == [eos] else [*ids, eos])]

    def _special_tokens_mask(self, token_ids_0: list[int], token_ids_1: list[int] | None) -> list[int]:
        eos = self._eos()
        texts = [token_ids_0] if token_ids_1 is None else [token_ids_0, token_ids_1]
        return [m for ids in texts for m in (*[0] * (len(ids) - (ids[-1:] == [eos])), 1)]

    def _tokenize(self, text: str, options: EncodeOptions) -> list[Piece]:
        if self.legacy or not text:
            return super()._tokenize(text, options)
        text = text.replace(UNDERLINE, " ")
        pieces = super()._tokenize(UNDERLINE + text if self.add_prefix_space else text, options)
        # The prefix is there for the first word; before a special token it stands alone and is dropped.
        if len(pieces) > 1 and pieces[0].token == UNDERLINE and pieces[1].token in self.all_special_tokens:
            return pieces[1:]
        return pieces

    def _encode_text(self, text: str) -> list[str]:
        if self.legacy or not text.startswith((UNDERLINE, " ")):
            return super()._encode_text(text)
        # The library drops a leading space; behind other text it stays, and that text's pieces are taken off
        # again.
        guard = str(self.unk_token)
        tokens = list(self._processor.encode(guard + text, out_type=str))
        taken = len(self._processor.encode(guard))
        return tokens[taken:] if len(tokens) >= taken else tokens

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text of pieces; special tokens stand in it as they are."""
        if tokens and self.add_prefix_space:
            tokens = [tokens[0].removeprefix(UNDERLINE), *tokens[1:]]
        special = set(self.all_special_tokens)
        text, run, after_special = "", [], False
        for token in tokens:
            if token not in special:
                run.append(token)
                after_special = False
                continue
            text += ("" if after_special else " ") + str(self._processor.decode(run)) + token
            run, after_special = [], True
        return (text + str(self._processor.decode(run))).strip()


class MT5TokenizerFast(BackendTokenizer, _T5Tokenizer):
    """The same model inside `tokenizers`; behaves as transformers 4.57.6's T5TokenizerFast.

    Built from a tokenizer.json or, if there is none or `add_prefix_space` is set, from a spiece.model.
    """

    saved_class_name: ClassVar[str] = "MT5Tokenizer"

    def __init__(
        self,
        vocab_file: str | None = None,
        tokenizer_file: str | None = None,
        eos_token: Token | None = "</s>",
        unk_token: Token | None = "<unk>",
        pad_token: Token | None = "<pad>",
        extra_ids: int = 100,
        additional_special_tokens: list[Token] | None = None,
        add_prefix_space: bool | None = None,
        sp_model_kwargs: dict[str, Any] | None = None,
        legacy: bool | None = None,
        **settings: Any,
    ) -> None:
        _check_files(self, vocab_file, tokenizer_file, settings.get("name_or_path"))
        _check_count(extra_ids)
        self.extra_ids = extra_ids
        self.legacy = True if legacy is None else legacy
        self.sp_model_kwargs = dict(sp_model_kwargs or {})
        spiece.check_options(self.sp_model_kwargs)
        self.add_prefix_space = add_prefix_space
        self._spiece = None if vocab_file is None else spiece.read_spiece(vocab_file)

        scheme = "never" if add_prefix_space is False else "always" if self.legacy else "first"
        if self._spiece is not None and (tokenizer_file is None or add_prefix_space is not None):
            backend = _backend_of(self._spiece, str(vocab_file), extra_ids, scheme)
        else:
            backend = read_backend(str(tokenizer_file), "Unigram")
            if add_prefix_space is not None:
                prefix = {"prepend_scheme": scheme}
                backend = with_settings(backend, pre_tokenizer=prefix, decoder=prefix)
        super().__init__(
            backend,
            eos_token=eos_token,
            unk_token=unk_token,
            pad_token=pad_token,
            additional_special_tokens=with_sentinels(additional_special_tokens, extra_ids),
            **settings,
        )
        if backend.post_processor is None:
            backend.post_processor = processors.TemplateProcessing(
                single=["$A", "</s>"],
                pair=["$A", "</s>", "$B", "</s>"],
                special_tokens=[("</s>", self.convert_tokens_to_ids("</s>"))],
            )

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """A </s>, or A </s> B </s>."""
        eos = self._eos()
        row = [*token_ids_0, eos]
        return row if token_ids_1 is None else [*row, *token_ids_1, eos]

    def _special_tokens_mask(self, token_ids_0: list[int], token_ids_1: list[int] | None) -> list[int]:
        mask = [*[0] * len(token_ids_0), 1]
        return mask if token_ids_1 is None else [*mask, *[0] * len(token_ids_1), 1]

    def _write_vocabulary(self, folder: files.Replacing) -> None:
        if self._spiece is not None:
            folder.write("spiece.model", self._spiece)


def with_sentinels(additional: list[Token] | None, extra_ids: int) -> list[Token]:
    """The additional special tokens, with the sentinels behind them if there are none among them."""
    tokens = check_tokens(ADDITIONAL, additional or [])
    given = sum("<extra_id_" in text_of(token) for token in tokens)
    if not given:
        return [*tokens, *(f"<extra_id_{i}>" for i in range(extra_ids))]
    if extra_ids not in (0, given):
        raise TokenizerError(
            f"extra_ids is {extra_ids}, but additional_special_tokens has {given} sentinels; they must agree"
        )
    return tokens


def _check_files(tokenizer: Tokenizer, spiece: str | None, json: str | None, where: str | None) -> None:
    if spiece is None and json is None:
        raise TokenizerError(
            f"{where or 'the arguments'}: spiece.model and tokenizer.json are missing; "
            f"a {type(tokenizer).__name__} is built from one of them"
        )


def _check_count(extra_ids: object) -> None:
    if isinstance(extra_ids, bool) or not isinstance(extra_ids, int) or not 0 <= extra_ids <= MOST_SENTINELS:
        raise TokenizerError(f"extra_ids is {extra_ids!r}; it must be an integer from 0 to {MOST_SENTINELS}")


def _special(token: str, **flags: bool) -> AddedToken:
    return AddedToken(token, special=True, normalized=False, **flags)


def _backend_of(content: bytes, path: str, extra_ids: int, scheme: str) -> tokenizers.Tokenizer:
    """A sentencepiece model as a tokenizer of `tokenizers`, without the tokens around a text."""
    model = spiece.parse_spiece(content, path)
    if model.model_type != spiece.UNIGRAM:
        raise TokenizerError(
            f"{path} is no unigram model; MT5Tokenizer reads the other types of sentencepiece models"
        )
    if spiece.BYTE in model.types:
        warnings.warn(
            f"{path} falls back to bytes for what it does not know; MT5TokenizerFast gives <unk> instead, "
            "MT5Tokenizer the bytes",
            stacklevel=4,
        )
    sentinels = [(f"<extra_id_{i}>", 0.0) for i in reversed(range(extra_ids))]
    with refusing(f"{path} is no sentencepiece model"):
        backend = tokenizers.Tokenizer(Unigram(model.pieces + sentinels, model.unk_id, False))
        # Spaces at the end are dropped and runs of them count once, as sentencepiece does.
        steps: list[Any] = [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    steps += [normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), UNDERLINE)]
    backend.add_tokens(
        [
            AddedToken(piece, normalized=False, special=kind == spiece.CONTROL)
            for (piece, _), kind in zip(model.pieces, model.types, strict=True)
            if kind in (spiece.CONTROL, spiece.USER_DEFINED)
        ]
    )
    backend.normalizer = normalizers.Sequence(steps)
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement=UNDERLINE, prepend_scheme=scheme)
    backend.decoder = decoders.Metaspace(replacement=UNDERLINE, prepend_scheme=scheme)
    return backend
