"""Tokenizer files: reading what transformers 4.x and 5.x write, and writing what both read.

    tokenizer_config.json     settings, special tokens, and (4.x) all added tokens with their ids
    special_tokens_map.json   special tokens once more (4.x)
    added_tokens.json         added tokens beyond the vocabulary: text → id (4.x, Python tokenizers)
    chat_template.jinja       the chat template; older files have it in tokenizer_config.json
    additional_chat_templates/NAME.jinja   further ones, where there are several
    tokenizer.json            everything, for `tokenizers`; the only vocabulary file of 5.x
    vocab.json, merges.txt    byte-level BPE
    spiece.model              sentencepiece
    vocab.txt                 WordPiece

An added token is described in one of three places. Where tokenizer_config.json has `added_tokens_decoder`, it
is the whole truth; otherwise special_tokens_map.json, added_tokens.json and the list in tokenizer.json are
read, in this order.
"""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken

from seq2seq_zoo import json_file
from seq2seq_zoo.errors import TokenizerError

from .settings import NOT_OF_FILES, check_settings
from .special_tokens import ADDITIONAL, ROLES, SpecialTokens, Token, state_of, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from typing_extensions import Self

    from .base import Tokenizer

CONFIG, SPECIAL_TOKENS_MAP, ADDED_TOKENS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
TOKENIZER = "tokenizer.json"
CHAT_TEMPLATE, FURTHER_TEMPLATES = "chat_template.jinja", "additional_chat_templates"

LARGEST_ID = 2**32 - 1
"""The largest id that `tokenizers` can hold."""
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True)
class Place:
    """Where a tokenizer's files are; see `checkpoint.resolve` for the ways to write it."""

    where: str | os.PathLike[str]
    revision: str | None = None
    subfolder: str = ""
    cache_dir: str | os.PathLike[str] | None = None
    token: str | bool | None = None
    local_files_only: bool = False

    def path(self, name: str) -> Path | None:
        """The path of a file, downloaded if need be; None if the place does not have it."""
        from seq2seq_zoo.checkpoint.resolve import resolve_file

        return resolve_file(
            self.where,
            name,
            revision=self.revision,
            subfolder=self.subfolder,
            cache_dir=self.cache_dir,
            token=self.token,
            local_files_only=self.local_files_only,
            required=False,
        )

    def json(self, name: str) -> dict[str, Any]:
        """The content of a JSON file, {} if the place does not have it."""
        path = self.path(name)
        return {} if path is None else read_json(path)


# Reading


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A JSON object; TokenizerError, naming the file, if it is missing, empty, damaged or no object."""
    text = read_bytes(path)
    try:
        content = json_file.parse_json(text)
    except ValueError as error:
        raise TokenizerError(f"{os.fspath(path)} is no valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise TokenizerError(
            f"{os.fspath(path)} holds a {type(content).__name__}; it must hold a JSON object"
        )
    return content


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The content of a file; TokenizerError if it cannot be read, or is empty or too long."""
    try:
        content = json_file.read_bytes(path)
    except OSError as error:
        raise TokenizerError(f"{os.fspath(path)} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise TokenizerError(f"{os.fspath(path)} cannot be read: {error}") from error
    if not content:
        raise TokenizerError(f"{os.fspath(path)} is empty")
    return content


def _read_text(path: Path) -> str:
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path} is no UTF-8 text: {error}") from error


def read_settings(place: Place, overrides: dict[str, Any]) -> dict[str, Any]:
    """Constructor arguments: what the files say, with `overrides` on top, and the added tokens by id."""
    path = place.path(CONFIG)
    config = {} if path is None else read_json(path)
    settings = {key: _revived(value) for key, value in config.items() if key not in NOT_OF_FILES}
    check_settings(settings, f"{path}")
    described = settings.pop("added_tokens_decoder", None)
    if described is not None:
        added = described = _by_id(described, CONFIG)
    else:
        settings |= _special_tokens_map(place, settings, overrides)
        described = _tokens_of_json(place)
        added = {**_tokens_beyond_vocabulary(place, {**settings, **overrides}), **described}

    settings |= _chat_templates(place, path) | overrides
    # transformers 5.x renamed the list of additional tokens; 4.x used the new name for a dict of further
    # roles.
    extra = settings.pop("extra_special_tokens", None)
    if extra:
        listed = [list(t) if isinstance(t, tuple) else t for t in (settings.get(ADDITIONAL) or [], extra)]
        check_settings(dict(zip((ADDITIONAL, "extra_special_tokens"), listed, strict=True)), "the arguments")
        settings[ADDITIONAL] = [*listed[0], *(extra.values() if isinstance(extra, dict) else extra)]
    # A role given as plain text means the added token of that text, with its flags.
    known = {text_of(token): token for token in described.values()}
    for role in ROLES:
        token = settings.get(role)
        if isinstance(token, str) or (isinstance(token, AddedToken) and role not in overrides):
            settings[role] = known.get(text_of(token), token)
    return {**settings, "added_tokens_decoder": added}


def _chat_templates(place: Place, config: Path | None) -> dict[str, Any]:
    """The templates that have files of their own; where there are any, they are all."""
    path = place.path(CHAT_TEMPLATE)
    folder = (path or config or place.path(TOKENIZER) or Path(CONFIG)).parent / FURTHER_TEMPLATES
    found = {} if path is None else {"default": _read_text(path)}
    # What is no file, such as a pipe, could keep a reader waiting for ever.
    others = [other for other in sorted(folder.glob("*.jinja")) if other.is_file()]
    found |= {other.stem: _read_text(other) for other in others}
    if found.keys() == {"default"}:
        return {"chat_template": found["default"]}
    return {"chat_template": found} if found else {}


def _special_tokens_map(place: Place, settings: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for role, value in place.json(SPECIAL_TOKENS_MAP).items():
        if overrides.get(role):
            continue
        if isinstance(value, list) and role == ADDITIONAL:
            listed = list(settings.get(ADDITIONAL) or [])
            texts = {text_of(token) for token in listed if isinstance(token, Token)}
            new = [_special(role, token) for token in value]
            found[role] = listed + [token for token in new if text_of(token) not in texts]
        elif role == ADDITIONAL and value is not None:
            raise TokenizerError(
                f"{SPECIAL_TOKENS_MAP}: {role} is {value!r:.200}; it must be a list of tokens"
            )
        else:
            found[role] = _special(role, value)
    return found


def _tokens_beyond_vocabulary(place: Place, settings: dict[str, Any]) -> dict[int, AddedToken]:
    """The tokens of added_tokens.json, which says nothing about their flags."""
    held = [settings.get(role) for role in ROLES] + list(settings.get(ADDITIONAL) or [])
    special = {text_of(token) for token in held if isinstance(token, str | AddedToken)}
    added: dict[int, AddedToken] = {}
    for text, index in place.json(ADDED_TOKENS).items():
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index <= LARGEST_ID:
            raise TokenizerError(
                f"{ADDED_TOKENS}: the id of {text!r} is {index!r:.40}; it must be an integer from 0 to "
                f"{LARGEST_ID}"
            )
        added[index] = AddedToken(text, special=text in special, normalized=text not in special)
    return added


def _tokens_of_json(place: Place) -> dict[int, AddedToken]:
    path = place.path(TOKENIZER)
    if path is None:
        return {}
    try:
        listed = {entry["id"]: entry for entry in read_json(path).get("added_tokens") or []}
    except (KeyError, TypeError) as error:
        raise TokenizerError(f"{path} lists added tokens without an id") from error
    return _by_id(listed, TOKENIZER)


def _by_id(tokens: Any, source: str) -> dict[int, AddedToken]:
    found = {}
    if not isinstance(tokens, dict):
        raise TokenizerError(f"{source}: the added tokens are {tokens!r}; they must be an object")
    for index, token in tokens.items():
        if isinstance(token, dict):
            token = _added_token(token)
        if not isinstance(token, AddedToken):
            raise TokenizerError(
                f"{source}: the added token of id {index} is {token!r}; it must be an object"
            )
        digits = str(index)
        small = digits.isascii() and digits.isdecimal() and len(digits) <= len(str(LARGEST_ID))
        number = int(digits) if small else -1
        if not 0 <= number <= LARGEST_ID:
            raise TokenizerError(
                f"{source}: the id of an added token is {index!r:.40}; it must be a number up to {LARGEST_ID}"
            )
        found[number] = token
    return found


def _special(role: str, value: Any) -> Token:
    if isinstance(value, dict):
        return _added_token({**value, "special": True})
    if not isinstance(value, str | None) and role in (*ROLES, ADDITIONAL):
        raise TokenizerError(
            f"{SPECIAL_TOKENS_MAP}: {role} is {value!r:.200}; it must be a text or an object"
        )
    return value


def _added_token(state: dict[str, Any]) -> AddedToken:
    flags = {flag: state[flag] for flag in _FLAGS if flag in state}
    if not isinstance(state.get("content"), str) or not all(isinstance(v, bool) for v in flags.values()):
        raise TokenizerError(
            f"an added token is {state}; it must have a text as content, and true or false as "
            f"{', '.join(_FLAGS)}"
        )
    return AddedToken(state["content"], **flags)


def _revived(value: Any) -> Any:
    """A JSON value in which the objects that stand for added tokens have become added tokens."""
    if isinstance(value, list):
        return [_revived(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("__type") == "AddedToken":
        return _added_token(value)
    return {key: _revived(item) for key, item in value.items()}


# Writing


def config_of(tokenizer: Tokenizer) -> dict[str, Any]:
    """What tokenizer_config.json says about a tokenizer."""
    config = dict(tokenizer._other_settings)
    config |= {name: getattr(tokenizer, name) for name in tokenizer.saved_settings}
    config |= tokenizer.special_tokens_map
    config |= {
        "added_tokens_decoder": {
            index: state_of(token) for index, token in tokenizer.added_tokens_decoder.items()
        },
        "clean_up_tokenization_spaces": tokenizer.clean_up_tokenization_spaces,
        "model_max_length": tokenizer.model_max_length,
        "padding_side": tokenizer.padding_side,
        "tokenizer_class": tokenizer.saved_class_name,
        "truncation_side": tokenizer.truncation_side,
    }
    if isinstance(tokenizer.chat_template, dict):  # a single one has a file of its own
        config["chat_template"] = [
            {"name": name, "template": text} for name, text in tokenizer.chat_template.items()
        ]
    if tokenizer.split_special_tokens:
        config["split_special_tokens"] = True
    if tokenizer.model_input_names != type(tokenizer).model_input_names:
        config["model_input_names"] = tokenizer.model_input_names
    return {key: _stored(value) for key, value in config.items()}


def special_tokens_map_of(tokenizer: SpecialTokens) -> dict[str, Any]:
    """What special_tokens_map.json says: the roles, without the flag `special` that all share."""

    def stored(token: Token) -> Any:
        if isinstance(token, str):
            return token
        return {key: value for key, value in state_of(token).items() if key != "special"}

    return {
        role: [stored(t) for t in token] if isinstance(token, list) else stored(token)
        for role, token in tokenizer.special_tokens.items()
    }


def _stored(value: Any) -> Any:
    if isinstance(value, AddedToken):
        return {"__type": "AddedToken", **state_of(value)}
    if isinstance(value, list | tuple):
        return [_stored(item) for item in value]
    if isinstance(value, dict):
        return {key: _stored(item) for key, item in value.items()}
    return value


class Replacing:
    """A folder whose tokenizer files are replaced when the `with` block ends without an error.

    Files are first written beside their place and then renamed into it, so that each is either the old or the
    new one. Those of an earlier tokenizer that the new one does not have are removed: a reader would prefer
    them. Raises TokenizerError if the folder cannot be written.
    """

    def __init__(
        self, folder: str | os.PathLike[str], prefix: str | None, remove_others: bool = True
    ) -> None:
        self._folder = Path(folder)
        self._prefix = f"{prefix}-" if prefix else ""
        self._remove_others = remove_others
        self._names: list[str] = []
        self.paths: tuple[str, ...] = ()
        """The files written, once the block has ended."""

    def __enter__(self) -> Self:
        from seq2seq_zoo.checkpoint.commit import STAGING, alone

        with self._writing(), ExitStack() as entered:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
            except FileExistsError:
                raise TokenizerError(
                    f"{self._folder} is a file; a tokenizer is saved into a folder"
                ) from None
            entered.enter_context(alone(self._folder))
            self._temporary = tempfile.TemporaryDirectory(dir=self._folder, prefix=STAGING)
            self._entered = entered.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._entered, self._writing():
            with self._temporary as temporary:
                if kind is not None:
                    return
                for name in self._names:
                    os.replace(Path(temporary, name), self._folder / (self._prefix + name))
            if self._remove_others:
                for name in _ALL_FILES - set(self._names):
                    (self._folder / (self._prefix + name)).unlink(missing_ok=True)
                for path in (self._folder / FURTHER_TEMPLATES).glob("*.jinja"):
                    path.unlink()
        self.paths = tuple(str(self._folder / (self._prefix + name)) for name in self._names)

    def write(self, name: str, content: bytes) -> None:
        """Write one file."""
        with self._writing():
            Path(self._temporary.name, name).write_bytes(content)
        self._names.append(name)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TokenizerError(f"cannot write into {str(self._folder)!r}: {error}") from error

    def write_json(self, name: str, content: dict[str, Any], *, sort: bool = True) -> None:
        """Write one JSON file."""
        text = json.dumps(content, indent=2, sort_keys=sort, ensure_ascii=False)
        self.write(name, (text + "\n").encode("utf-8"))


_VOCABULARIES = {"vocab.json", "merges.txt", "spiece.model", "vocab.txt"}
_ALL_FILES = {CONFIG, SPECIAL_TOKENS_MAP, ADDED_TOKENS, TOKENIZER, CHAT_TEMPLATE, *_VOCABULARIES}
