"""What tokenizer_config.json may say: of which kind each setting is.

Its keys become arguments of a constructor, and a file is not to say what only a program may: from where the
vocabulary is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken

from seq2seq_zoo.errors import TokenizerError

from .special_tokens import ADDITIONAL, ROLES

NOT_OF_FILES = frozenset(
    (
        # which class wrote the file, and from where
        *("tokenizer_class", "name_or_path", "special_tokens_map_file", "tokenizer_file", "vocab_file"),
        *("merges_file", "init_inputs", "backend", "is_local", "local_files_only"),
        # the vocabulary itself, or a path to it
        *("vocab", "merges", "tokenizer_object", "self"),
    )
)
"""Keys that are passed over."""

_FLAGS = (
    *("add_bos_token", "add_eos_token", "add_prefix_space", "clean_up_tokenization_spaces"),
    *("do_basic_tokenize", "do_lower_case", "legacy", "split_special_tokens", "strip_accents"),
    *("tokenize_chinese_chars", "trim_offsets"),
)
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    **dict.fromkeys(_FLAGS, ((bool,), "true or false")),
    "never_split": ((list,), "a list of texts"),
    "model_input_names": ((list,), "a list of texts, the first of them 'input_ids'"),
    **dict.fromkeys(ROLES, ((str, AddedToken), "a text, or an added token")),
    ADDITIONAL: ((list,), "a list of tokens"),
    "extra_special_tokens": ((list, dict), "a list of tokens, or an object of them"),
    "sp_model_kwargs": ((dict,), "an object"),
    "extra_ids": ((int,), "an integer from 0 on"),
    "model_max_length": ((int, float), "a number of tokens"),
    "errors": ((str,), "an error handler such as 'replace'"),
}


def check_settings(settings: Mapping[str, Any], source: str) -> None:
    """Raise TokenizerError for the first setting, read from `source`, that is of another kind than it must
    be; null says nothing."""
    for name, (kinds, needed) in _KINDS.items():
        value = settings.get(name)
        sound = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
        if "texts" in needed and isinstance(value, list):
            sound = all(isinstance(text, str) for text in value)
            sound &= name != "model_input_names" or value[:1] in ([], ["input_ids"])
        if value is not None and not sound:
            raise TokenizerError(f"{source}: {name} is {value!r:.200}; it must be {needed}")
