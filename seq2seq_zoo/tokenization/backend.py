"""BackendTokenizer: the whole line from text to ids runs inside `tokenizers`.

The library keeps truncation and padding as state of its Tokenizer. Here that state is never changed on a
tokenizer in use: each combination that calls ask for gets a thin copy, which shares model, normalizer,
pre-tokenizer and decoder with the original and costs a fraction of a millisecond. So calls from several
threads do not meet.

This is the behaviour of the fast tokenizers of transformers 4.57.6.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import tokenizers
from tokenizers import AddedToken, Encoding

from seq2seq_zoo.errors import TokenizerError

from . import files
from .base import Row, Tokenizer
from .encoding import BatchEncoding
from .options import EncodeOptions, Lengths
from .special_tokens import Token, as_special, state_of, text_of


class _Setup(NamedTuple):
    """State that a call needs on its tokenizer."""

    truncation: tuple[tuple[str, Any], ...] | None
    padding: tuple[tuple[str, Any], ...] | None
    split_special_tokens: bool


class BackendTokenizer(Tokenizer):
    """A tokenizer around `tokenizers.Tokenizer`, which it owns."""

    is_fast: ClassVar[bool] = True

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        added_tokens_decoder: Mapping[int, AddedToken] | None = None,
        **settings: Any,
    ) -> None:
        # A saved backend may carry the state of its last call; only the sides and the padding token are meant
        # to stay.
        if backend.truncation is not None:
            settings.setdefault("truncation_side", backend.truncation["direction"])
            backend.no_truncation()
        if backend.padding is not None:
            settings.setdefault("padding_side", backend.padding["direction"])
            settings["pad_token"] = settings.get("pad_token") or backend.padding["pad_token"]
            backend.no_padding()
        backend.encode_special_tokens = False
        super().__init__(**settings)
        self._backend = backend
        self._thin = lru_cache(maxsize=32)(self._thin_copy)
        self._add_missing(added_tokens_decoder or {})

    def _add_missing(self, added: Mapping[int, AddedToken]) -> None:
        """Give the backend the added tokens of the files and of the roles, with the flags they have there."""
        present = {text_of(token): token for token in self._backend.get_added_tokens_decoder().values()}
        wanted = {text_of(token): token for _, token in sorted(added.items())}
        for token in self._held_tokens():
            if isinstance(token, AddedToken) or text_of(token) not in {**present, **wanted}:
                state = state_of(as_special(token))
                wanted[text_of(token)] = AddedToken(**{**state, "special": True})
        self._backend.add_tokens(
            [
                token
                for text, token in wanted.items()
                if text not in present or state_of(present[text]) != state_of(token)
            ]
        )

    @property
    def backend_tokenizer(self) -> tokenizers.Tokenizer:
        """The library's tokenizer, without truncation and padding; calls do not see changes made to it."""
        return self._backend

    # Vocabulary

    @property
    def vocab_size(self) -> int:
        return int(self._backend.get_vocab_size(with_added_tokens=False))

    def __len__(self) -> int:
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    def get_vocab(self) -> dict[str, int]:
        return dict(self._backend.get_vocab(with_added_tokens=True))

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        return dict(sorted(self._backend.get_added_tokens_decoder().items()))

    def add_tokens(self, new_tokens: Token | Sequence[Token], special_tokens: bool = False) -> int:
        """Add tokens; returns how many have new ids, which follow the last one."""
        listed = [new_tokens] if isinstance(new_tokens, str | AddedToken) else list(new_tokens)
        add = self._backend.add_special_tokens if special_tokens else self._backend.add_tokens
        count = int(add(listed))
        self._thin.cache_clear()
        return count

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        return self._id_of(tokens) if isinstance(tokens, str) else [self._id_of(token) for token in tokens]

    def _id_of(self, token: str) -> int:
        index = self._backend.token_to_id(token)
        if index is None and self.unk_token is not None:
            index = self._backend.token_to_id(self.unk_token)
        if index is None:
            raise TokenizerError(
                f"{token!r} is not in the vocabulary, and no unk_token with an id stands in for it"
            )
        return int(index)

    def _token_of_id(self, index: int) -> str | None:
        return self._backend.id_to_token(index) if index >= 0 else None

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        return int(self._backend.num_special_tokens_to_add(pair))

    # Text → rows

    def tokenize(
        self, text: str, pair: str | None = None, add_special_tokens: bool = False, **options: Any
    ) -> list[str]:
        """The tokens of a text, or of a text and a second one."""
        return self.encode_plus(text, pair, add_special_tokens=add_special_tokens, **options).tokens()

    def _encode(self, row: Row, options: EncodeOptions, lengths: Lengths) -> BatchEncoding:
        # An empty second text is no second text here, other than in a batch: as in transformers.
        batch = self._encode_batch([(row[0], row[1] or None)], options, lengths)
        if options.return_tensors is not None or options.return_overflowing_tokens:
            return batch
        single = {name: value[0] if isinstance(value[0], list) else value for name, value in batch.items()}
        return BatchEncoding(single, batch.encodings)

    def _encode_batch(self, rows: list[Row], options: EncodeOptions, lengths: Lengths) -> BatchEncoding:
        backend = self._thin(self._setup(rows, options, lengths))
        for row in rows:
            _check_row(row, options.is_split_into_words)
        texts = [first if second is None else (first, second) for first, second in rows]
        encodings = _encode_texts(backend, texts, options)
        kept: list[Encoding] = []
        sample: list[int] = []
        for i, encoding in enumerate(encodings):
            overflowing = encoding.overflowing if options.return_overflowing_tokens else []
            kept += [encoding, *overflowing]
            sample += [i] * (1 + len(overflowing))

        data: dict[str, Any] = {"input_ids": [e.ids for e in kept]}
        if self._wanted(options.return_token_type_ids, "token_type_ids"):
            data["token_type_ids"] = [e.type_ids for e in kept]
        if self._wanted(options.return_attention_mask, "attention_mask"):
            data["attention_mask"] = [e.attention_mask for e in kept]
        if options.return_special_tokens_mask:
            data["special_tokens_mask"] = [e.special_tokens_mask for e in kept]
        if options.return_offsets_mapping:
            data["offset_mapping"] = [e.offsets for e in kept]
        if options.return_length:
            data["length"] = [len(e.ids) for e in kept]
        if options.return_overflowing_tokens:
            data["overflow_to_sample_mapping"] = sample
        return BatchEncoding(data, kept, tensor_type=options.return_tensors)

    def _wanted(self, asked: bool | None, name: str) -> bool:
        return name in self.model_input_names if asked is None else asked

    def _setup(self, rows: list[Row], options: EncodeOptions, lengths: Lengths) -> _Setup:
        truncation: dict[str, Any] | None = None
        if lengths.truncation is not None and lengths.max_length is not None:
            pair = any(second is not None for _, second in rows)
            special = self.num_special_tokens_to_add(pair) if options.add_special_tokens else 0
            room = lengths.max_length - special
            # The library would count below zero here and truncate nothing, or stop the process's thread.
            if room < 0:
                raise TokenizerError(
                    f"max_length is {lengths.max_length}, less than the {special} special tokens of a row"
                )
            # Only the rows of overflowing tokens overlap.
            stride = options.stride if options.return_overflowing_tokens else 0
            if stride and stride >= room:
                raise TokenizerError(
                    f"stride is {stride}; it must be less than the {room} tokens of text in a row"
                )
            truncation = {
                "max_length": lengths.max_length,
                "stride": stride,
                "strategy": lengths.truncation,
                "direction": self.truncation_side,
            }
        padding: dict[str, Any] | None = None
        if lengths.padding is not None:
            padding = {
                "length": lengths.max_length if lengths.padding == "max_length" else None,
                "direction": options.padding_side or self.padding_side,
                "pad_id": self.pad_token_id,
                "pad_token": self.pad_token,
                "pad_type_id": self.pad_token_type_id,
                "pad_to_multiple_of": options.pad_to_multiple_of,
            }
        split = (
            self.split_special_tokens
            if options.split_special_tokens is None
            else options.split_special_tokens
        )
        return _Setup(
            truncation and tuple(truncation.items()),  # type: ignore[arg-type]
            padding and tuple(padding.items()),  # type: ignore[arg-type]
            split,
        )

    def _thin_copy(self, setup: _Setup) -> tokenizers.Tokenizer:
        backend = self._backend
        thin = tokenizers.Tokenizer(backend.model)
        if backend.normalizer is not None:
            thin.normalizer = backend.normalizer
        if backend.pre_tokenizer is not None:
            thin.pre_tokenizer = backend.pre_tokenizer
        if backend.post_processor is not None:
            thin.post_processor = backend.post_processor
        thin.add_tokens(list(self.added_tokens_decoder.values()))
        if setup.truncation is not None:
            thin.enable_truncation(**dict(setup.truncation))
        if setup.padding is not None:
            thin.enable_padding(**dict(setup.padding))
        thin.encode_special_tokens = setup.split_special_tokens
        return thin

    # Ids → text

    def _decode(self, ids: list[int], skip_special_tokens: bool, spaces_between_special_tokens: bool) -> str:
        for index in ids:
            if index < 0:
                raise TokenizerError(f"token_ids: id {index} has no token; ids run from 0 to {len(self) - 1}")
        return str(self._backend.decode(ids, skip_special_tokens=skip_special_tokens))

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        decoder = self._backend.decoder
        return " ".join(tokens) if decoder is None else str(decoder.decode(tokens))

    # Files and copies

    def _write_files(self, folder: files.Replacing) -> None:
        super()._write_files(folder)
        folder.write(files.TOKENIZER, self._backend.to_str(pretty=True).encode("utf-8"))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_thin"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._thin = lru_cache(maxsize=32)(self._thin_copy)


def _encode_texts(backend: tokenizers.Tokenizer, texts: list[Any], options: EncodeOptions) -> list[Encoding]:
    try:
        return backend.encode_batch(  # type: ignore[no-any-return]
            texts,
            add_special_tokens=options.add_special_tokens,
            is_pretokenized=options.is_split_into_words,
        )
    except BaseException as error:
        # A text shorter than what truncation has to take from it is a plain Exception; one of a pair that
        # keeps fewer tokens than the stride is a panic, which is no Exception.
        if type(error) is Exception or type(error).__name__ == "PanicException":
            raise TokenizerError(
                f"max_length {options.max_length}, truncation {options.truncation!r} and stride "
                f"{options.stride} do not fit these texts: {error}"
            ) from error
        raise


@contextlib.contextmanager
def refusing(why: str) -> Iterator[None]:
    """Errors of the library as a TokenizerError that begins with `why`.

    They are plain Exceptions or, where a fault of a file comes late to light, panics, which are none.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise TokenizerError(f"{why}: {error}") from error
        raise


def read_backend(path: str | os.PathLike[str], model: str | None = None) -> tokenizers.Tokenizer:
    """The tokenizer of a tokenizer.json; TokenizerError if it is damaged or its model is of another type than
    `model`."""
    content = files.read_bytes(path)
    with refusing(f"{os.fspath(path)} is no valid tokenizer file"):
        backend = tokenizers.Tokenizer.from_buffer(content)
    found = type(backend.model).__name__
    if model is not None and found != model:
        raise TokenizerError(f"{os.fspath(path)} holds a {found} model; this tokenizer needs {model}")
    return backend


def with_settings(backend: tokenizers.Tokenizer, **components: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """The tokenizer with other settings in components (`pre_tokenizer`, …), as far as they have them."""

    def changed(part: Any, settings: Mapping[str, Any]) -> Any:
        if isinstance(part, list):
            return [changed(item, settings) for item in part]
        if isinstance(part, dict):
            return {name: settings.get(name, changed(value, settings)) for name, value in part.items()}
        return part

    # The library's constructors renamed arguments between versions; the file format stayed.
    states = {
        name: json.loads(part.__getstate__()) for name in components if (part := getattr(backend, name))
    }
    new = {name: changed(state, components[name]) for name, state in states.items()}
    if new == states:
        return backend
    return tokenizers.Tokenizer.from_str(json.dumps({**json.loads(backend.to_str()), **new}))


def _check_row(row: Row, words: bool) -> None:
    for text in row:
        if text is None or (isinstance(text, str) and not words):
            continue
        if words and isinstance(text, list | tuple) and all(isinstance(word, str) for word in text):
            continue
        needed = "a list of words, as is_split_into_words is set" if words else "a string"
        raise TokenizerError(f"a text is {text!r}; it must be {needed}")
