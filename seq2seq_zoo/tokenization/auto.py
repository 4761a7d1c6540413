"""AutoTokenizer: from files to the class that reads them.

Asked in turn: `tokenizer_class` in tokenizer_config.json, `tokenizer_class` and `model_type` in config.json
(the encoder's, where two models are joined), and at last which vocabulary files there are.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from seq2seq_zoo.errors import TokenizerError

from .base import Tokenizer
from .bert import BertTokenizer, BertTokenizerFast
from .bert_generation import BertGenerationTokenizer
from .byte_level_bpe import MvpTokenizer, MvpTokenizerFast
from .files import CONFIG, TOKENIZER, Place
from .t5 import MT5Tokenizer, MT5TokenizerFast
from .tokenizer_json import LlamaTokenizerFast, PreTrainedTokenizerFast, TokenizersBackend


class _Family(NamedTuple):
    python: type[Tokenizer]
    fast: type[Tokenizer]


_BYTE_LEVEL_BPE = _Family(MvpTokenizer, MvpTokenizerFast)
_T5 = _Family(MT5Tokenizer, MT5TokenizerFast)
_BERT = _Family(BertTokenizer, BertTokenizerFast)
_BERT_GENERATION = _Family(BertGenerationTokenizer, BertGenerationTokenizer)
_LLAMA = _Family(LlamaTokenizerFast, LlamaTokenizerFast)
_FILE = _Family(TokenizersBackend, TokenizersBackend)

CLASSES = {
    "BartTokenizer": _BYTE_LEVEL_BPE,
    "MvpTokenizer": _BYTE_LEVEL_BPE,
    "RobertaTokenizer": _BYTE_LEVEL_BPE,
    "MT5Tokenizer": _T5,
    "T5Tokenizer": _T5,
    "BertTokenizer": _BERT,
    "BertGenerationTokenizer": _BERT_GENERATION,
    "LlamaTokenizer": _LLAMA,
}
"""tokenizer_class, without a final "Fast" → classes."""

MODEL_TYPES = {
    "bart": _BYTE_LEVEL_BPE,
    "mega": _BYTE_LEVEL_BPE,
    "mvp": _BYTE_LEVEL_BPE,
    "roberta": _BYTE_LEVEL_BPE,
    "mt5": _T5,
    "t5": _T5,
    "bert": _BERT,
    "bert-generation": _BERT_GENERATION,
    "phimoe": _LLAMA,
}
"""model_type of config.json → classes."""

VOCABULARIES = {
    ("vocab.json", "merges.txt"): _BYTE_LEVEL_BPE,
    ("spiece.model",): _T5,
    ("vocab.txt",): _BERT,
    (TOKENIZER,): _FILE,
}
"""Vocabulary files → classes."""

# Names that say which library reads a tokenizer.json and nothing about the family. Where the family's class
# would do nothing but read that file, they name the class.
_GENERIC = {
    "PreTrainedTokenizer": _Family(PreTrainedTokenizerFast, PreTrainedTokenizerFast),
    "TokenizersBackend": _FILE,
}


class AutoTokenizer:
    """Chooses a tokenizer class; not to be instantiated."""

    def __new__(cls) -> AutoTokenizer:
        raise TypeError("AutoTokenizer has no instances; use AutoTokenizer.from_pretrained(where)")

    @classmethod
    def from_pretrained(
        cls,
        where: str | os.PathLike[str],
        *,
        use_fast: bool = True,
        revision: str | None = None,
        subfolder: str = "",
        cache_dir: str | os.PathLike[str] | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool | None = None,
        **settings: Any,
    ) -> Tokenizer:
        """The tokenizer at `where`, of the class its files name; arguments as for the classes' own
        `from_pretrained`.

        `use_fast` chooses the class that runs inside `tokenizers`. Files that name a class or a model type
        which is not here raise TokenizerError.
        """
        place = Place(where, revision, subfolder, cache_dir, token, local_files_only)
        family, named_fast = _family(place)
        # A file names a Fast class where it cannot be read by the other one.
        return (family.fast if use_fast or named_fast else family.python)._from_place(place, settings)


def _family(place: Place) -> tuple[_Family, bool]:
    config = place.json("config.json")
    generic: _Family | None = None
    for source in (place.json(CONFIG), config):
        name = source.get("tokenizer_class")
        if name is None:
            continue
        plain = str(name).removesuffix("Fast")
        if plain in CLASSES:
            return CLASSES[plain], plain != name
        if plain not in _GENERIC:
            raise TokenizerError(
                f"{os.fspath(place.where)}: tokenizer_class is {name!r}; known are {', '.join(CLASSES)}, "
                f"each also with Fast, {' and '.join(_GENERIC)}"
            )
        generic = generic or _GENERIC[plain]
    model_type = config.get("model_type")
    if model_type == "encoder-decoder":
        # The text that a user writes is for the encoder.
        encoder = config.get("encoder")
        model_type = encoder.get("model_type") if isinstance(encoder, dict) else None
    family = MODEL_TYPES.get(str(model_type))
    if family is not None and (generic is None or family is not _LLAMA):
        return family, False
    if generic is not None and place.path(TOKENIZER) is not None:
        return generic, True
    if model_type is not None:
        raise TokenizerError(
            f"{os.fspath(place.where)}: no tokenizer is known for model_type {model_type!r}; known are "
            f"{', '.join(MODEL_TYPES)}"
        )
    for names, family in VOCABULARIES.items():
        if all(place.path(name) is not None for name in names):
            return family, False
    raise TokenizerError(
        f"{os.fspath(place.where)}: nothing says which tokenizer this is; tokenizer_config.json "
        f"should have a tokenizer_class, one of {', '.join(CLASSES)}"
    )
