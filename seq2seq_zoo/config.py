"""Configurations: the fields of a hub's config.json, with their defaults, types and limits.

A family's config is a class whose annotated attributes are its fields. Saved configs leave defaults out, so a
default is part of the model. Keys that no field knows are kept, readable as attributes, and saved again. A
value of the wrong type, or one that no model can have, raises ConfigError naming field, value and what it
must be.
"""

from __future__ import annotations

import copy
import functools
import inspect
import json
import os
import sys
import typing
from collections.abc import Iterable, Mapping
from operator import itemgetter
from pathlib import Path
from types import NoneType, SimpleNamespace, UnionType
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints

import torch

from .checkpoint import CONFIG, resolve_file, write_json_atomically
from .errors import ConfigError
from .hub import Pushable, options_of_push, push_folder
from .json_file import read_json
from .layers.activations import ACTIVATIONS
from .layers.heads import PROBLEM_TYPES

ConfigT = TypeVar("ConfigT", bound="Config")
Place = str | os.PathLike[str]

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}
_NAMED_DTYPES = {**DTYPES, "float": torch.float32, "half": torch.float16, "double": torch.float64}


def dtype_named(value: object, field: str = "dtype") -> torch.dtype:
    """A floating-point torch.dtype from its name ("float16", "torch.float16", PyTorch's "half") or itself."""
    found = value if isinstance(value, torch.dtype) else _NAMED_DTYPES.get(str(value).removeprefix("torch."))
    if found is None or found not in DTYPES.values():
        raise ConfigError(f"{field} is {value!r}; it must be one of {', '.join(DTYPES)}")
    return found


LARGEST = 2**63 - 1
"""The largest id that a tensor can hold."""
WIDEST = 10**9
"""The largest width, or count of rows: PyTorch can count the bytes of a matrix that has two such sides."""
MOST_PARTS = 10_000
"""How many layers, or experts of a layer, a model can have: to build one takes time, whatever its size."""
MOST_LABELS = 1_000_000
"""How many labels a classifier can have: each has a name."""


def positive(config: Config, *names: str) -> None:
    """Refuse fields that are not at least 1, among them NaN and infinity."""
    _within(1, LARGEST, config, names)


def not_negative(config: Config, *names: str) -> None:
    """Refuse fields that are not at least 0, among them NaN and infinity."""
    _within(0, LARGEST, config, names)


def sizes(config: Config, *names: str) -> None:
    """Refuse sizes of tensors that are not at least 1, or of which no tensor could be made."""
    _within(1, WIDEST, config, names)


def products(config: Config, *names: str, at_most: int = WIDEST) -> None:
    """Refuse sizes, each possible alone, whose product is a side of a tensor, and too large for one."""
    before = 1
    for name in names:
        if before * getattr(config, name) > at_most:
            others = ", ".join(f"{other} {getattr(config, other)}" for other in names[: names.index(name)])
            raise ConfigError(
                f"{name} is {getattr(config, name)}; with {others} it must be at most {at_most // before}"
            )
        before *= getattr(config, name)


def counts(config: Config, *names: str) -> None:
    """Refuse counts of layers that are not at least 0, or so many that building them would not end."""
    _within(0, MOST_PARTS, config, names)


def _within(least: int, most: int, config: Config, names: tuple[str, ...]) -> None:
    for name in names:
        value = getattr(config, name)
        if not least <= value <= most:  # NaN compares false with everything
            limit = f"at most {most}" if value > most else f"at least {least}"
            raise ConfigError(f"{name} is {value}; it must be {limit}")


def probability(config: Config, *names: str) -> None:
    """Refuse fields outside 0 … 1."""
    for name in names:
        if not 0.0 <= getattr(config, name) <= 1.0:
            raise ConfigError(f"{name} is {getattr(config, name)}; it must be between 0 and 1")


def known_activation(config: Config, name: str) -> None:
    """Refuse an activation nobody has heard of."""
    if getattr(config, name) not in ACTIVATIONS:
        raise ConfigError(f"{name} is {getattr(config, name)!r}; it must be one of {', '.join(ACTIVATIONS)}")


def divides(config: Config, divisor: str, whole: str) -> None:
    """Refuse a count of heads that does not divide the width."""
    if getattr(config, whole) % getattr(config, divisor):
        raise ConfigError(
            f"{divisor} is {getattr(config, divisor)}; it must divide {whole}, {getattr(config, whole)}"
        )


def in_vocabulary(config: Config, *names: str) -> None:
    """Refuse token ids that the vocabulary does not have; None is none."""
    for name in names:
        value, size = getattr(config, name), config.vocab_size
        if value is not None and value >= size:
            raise ConfigError(f"{name} is {value}; it must be below vocab_size, {size}")


class Config(Pushable):
    """What all configs share. A family's config adds its own fields.

    `aliases` maps further names to fields; `derived` lists, for a field, those computed from it where they
    are not given.
    """

    model_type: ClassVar[str] = ""
    accepts: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Model types of other families whose checkpoints this one can hold, with the defaults that differ."""
    aliases: ClassVar[Mapping[str, str]] = {}
    derived: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    is_encoder_decoder: bool = False
    is_decoder: bool = False
    add_cross_attention: bool = False
    use_cache: bool = True
    output_attentions: bool = False
    output_hidden_states: bool = False
    return_dict: bool = True
    tie_word_embeddings: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    decoder_start_token_id: int | None = None
    problem_type: str | None = None
    """Which loss a sequence classifier is trained with; None: decided by the labels."""
    id2label: dict[int, str] | None = None
    label2id: dict[str, int] | None = None
    dtype: torch.dtype | None = None
    """The dtype of the stored weights."""
    architectures: list[str] | None = None
    """Class names the checkpoint was saved from."""

    extra: dict[str, Any]
    """Keys of a config.json that are not fields here."""

    def __init__(self, /, **values: Any) -> None:
        object.__setattr__(self, "extra", {})
        for name in self.fields():
            object.__setattr__(self, name, copy.copy(getattr(type(self), name)))
        labels = values.pop("num_labels", None)
        own = {name: value for name, value in values.items() if self.own_name(name) == name}
        for name, value in values.items():
            own.setdefault(self.own_name(name), value)
        for name, value in own.items():
            setattr(self, name, value)
        self._check_types()
        if labels is None and self.id2label is None and self.label2id:
            named = {number: label for label, number in sorted(self.label2id.items(), key=itemgetter(1))}
            if list(named) == list(range(len(self.label2id))):
                self.id2label = named
        if labels is not None or self.id2label is None:
            self.num_labels = 2 if labels is None else labels
        if self.label2id is None and self.id2label is not None:
            self.label2id = {label: number for number, label in self.id2label.items()}
        self.derive()
        self.check()

    @classmethod
    @functools.cache
    def fields(cls) -> Mapping[str, Any]:
        """Field name → type, in order of declaration."""
        return {
            name: _type(annotation, base.__module__)
            for base in reversed(cls.__mro__)
            for name, annotation in inspect.get_annotations(base).items()
            if "ClassVar[" not in str(annotation) and name != "extra"
        }

    @classmethod
    def own_name(cls, name: str) -> str:
        """The field that a name stands for: itself, unless it is an alias."""
        return "dtype" if name == "torch_dtype" else cls.aliases.get(name, name)

    def derive(self) -> None:
        """Fill fields that follow from others. Families override it."""

    def check(self) -> None:
        """Raise ConfigError for the first field with a wrong type or an impossible value. Families extend
        it."""
        self._check_types()
        for name in ("pad_token_id", "bos_token_id", "decoder_start_token_id"):
            if getattr(self, name) is not None:
                not_negative(self, name)
        for name in ("eos_token_id", "forced_eos_token_id"):
            ids = getattr(self, name, None)  # in some families one of them is a key that no field knows
            known = _is(ids, int | list[int] | None)
            if not known or ids == [] or any(i < 0 for i in ([ids] if isinstance(ids, int) else ids or [])):
                raise ConfigError(f"{name} is {ids}; it must be an id of at least 0, or a list of such ids")
        if self.problem_type is not None and self.problem_type not in PROBLEM_TYPES:
            raise ConfigError(
                f"problem_type is {self.problem_type!r}; it must be one of {', '.join(PROBLEM_TYPES)}"
            )

    def _check_types(self) -> None:
        for name, kind in self.fields().items():
            value = getattr(self, name)
            if not _is(value, kind):
                raise ConfigError(
                    f"{name} is {value!r}, of type {type(value).__name__}; it must be {_words(kind)}"
                )

    # ---- names ----

    def __setattr__(self, name: str, value: Any) -> None:
        name = self.own_name(name)
        if name == "dtype" and value is not None:
            value = dtype_named(value)
        elif name == "id2label" and value is not None:
            value = _labels_by_number(value)
        elif name == "label2id" and value is not None:
            value = _numbers_by_label(value)
        elif name == "model_type":
            _check_model_type(type(self), value)
            return
        computed = getattr(type(self), name, None)
        if name in self.fields() or (isinstance(computed, property) and computed.fset is not None):
            object.__setattr__(self, name, value)
        else:
            self.extra[name] = value

    def __getattr__(self, name: str) -> Any:
        # Reached only where there is no such field: an alias, or a key kept from a config.json.
        if name.startswith("__"):
            raise AttributeError(name)
        if self.own_name(name) != name:
            return getattr(self, self.own_name(name))
        extra = self.__dict__.get("extra", {})
        if name in extra:
            return extra[name]
        raise AttributeError(f"{type(self).__name__} has no field {name!r}")

    @property
    def num_labels(self) -> int:
        """How many labels a classifier tells apart."""
        return 0 if self.id2label is None else len(self.id2label)

    @num_labels.setter
    def num_labels(self, count: int) -> None:
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ConfigError(f"num_labels is {count!r}; it must be a whole number of at least 1")
        if count > MOST_LABELS:
            raise ConfigError(f"num_labels is {count}; it must be at most {MOST_LABELS}")
        if self.id2label is None or len(self.id2label) != count:
            self.id2label = {number: f"LABEL_{number}" for number in range(count)}
            self.label2id = {label: number for number, label in self.id2label.items()}

    @property
    def saved_by_5(self) -> bool:
        """Whether transformers 5.x wrote this config: some of its values then mean something else."""
        return str(self.extra.get("transformers_version", "")).startswith("5.")

    # ---- to and from files ----

    @classmethod
    def from_dict(cls: type[ConfigT], values: Mapping[str, Any], **overrides: Any) -> ConfigT:
        """A config from the content of a config.json; overrides win, also over what was derived from old
        values."""
        if not isinstance(values, Mapping):
            raise ConfigError(f"a config is made from an object, not from a {type(values).__name__}")
        found = values.get("model_type", cls.model_type)
        _check_model_type(cls, found)
        merged = {**cls.accepts.get(found, {}), **values}
        for name in overrides:
            own = cls.own_name(name)
            for stale in (own, *cls.derived.get(own, ())):
                merged.pop(stale, None)
            if name == "id2label":
                merged.pop("label2id", None)
                merged.pop("num_labels", None)
        return cls(**{**merged, **overrides})

    @classmethod
    def from_pretrained(
        cls: type[ConfigT],
        where: Place,
        *,
        revision: str | None = None,
        subfolder: str = "",
        cache_dir: Place | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool | None = None,
        **overrides: Any,
    ) -> ConfigT:
        """The config of a folder, a hub repository or `bundled:NAME`, with overrides of its fields.

        `trust_remote_code` changes nothing: no code of a checkpoint is ever run."""
        values = read_config(
            where,
            revision=revision,
            subfolder=subfolder,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
        )
        return cls.from_dict(values, **overrides)

    def to_dict(self) -> dict[str, Any]:
        """The content of a config.json: the family's own fields, shared ones that differ from their default,
        and extras."""
        shared = Config.fields()
        values: dict[str, Any] = {"model_type": self.model_type}
        for name in type(self).fields():
            value = getattr(self, name)
            own = name not in shared or getattr(type(self), name) != getattr(Config, name)
            if own or value != getattr(Config, name):
                values[name] = value
        if _plain_labels(self.id2label) == 2:
            values.pop("id2label", None)
            values.pop("label2id", None)
        if self.dtype is not None:
            values["dtype"] = str(self.dtype).removeprefix("torch.")
        return copy.deepcopy({**values, **self.extra})

    def to_json_string(self) -> str:
        """The text of a config.json."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    def save_pretrained(self, directory: Place, *, push_to_hub: bool = False, **push_options: Any) -> None:
        """Write `directory`/config.json; with push_to_hub upload it, under the options of the method
        push_to_hub and repo_id, without which the repository is called as the directory.

        Raises CheckpointError if `directory` cannot be written, or the hub refuses.
        """
        push = options_of_push(self, directory, push_to_hub, push_options)
        write_json_atomically(Path(directory) / CONFIG, json.loads(self.to_json_string()))
        if push_to_hub:
            push_folder(directory, names=[CONFIG], **push)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.to_dict() == self.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"


def read_config(where: Place, **options: Any) -> dict[str, Any]:
    """The content of the config.json of a folder, a hub repository or `bundled:NAME`."""
    path = resolve_file(where, CONFIG, **options)
    assert path is not None  # a required file is found or refused
    try:
        values = read_json(path)
    except (OSError, ValueError) as problem:
        raise ConfigError(f"{path} is not a readable JSON file: {problem}") from problem
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds a JSON {type(values).__name__}; it must hold an object")
    return values


def _check_model_type(cls: type[Config], found: object) -> None:
    known = (cls.model_type, *cls.accepts)
    if found not in known:
        raise ConfigError(f"model_type is {found!r}; {cls.__name__} reads {' or '.join(map(repr, known))}")


def _labels_by_number(labels: Any) -> dict[int, str]:
    """Training scripts that read labels out of a table write what stood there, often numbers: {"0": 0}."""
    try:
        by_number = {
            int(number): str(label) if isinstance(label, (bool, int, float)) else label
            for number, label in labels.items()
        }
    except (AttributeError, OverflowError, TypeError, ValueError):
        by_number = {}
    if not by_number or not all(isinstance(label, str) for label in by_number.values()):
        raise ConfigError(f"id2label is {labels!r}; it must name at least one label, each by a whole number")
    return by_number


def _numbers_by_label(numbers: Any) -> dict[str, int]:
    """The same scripts, and editors of a config.json by hand, write {"no": "0"} or {"no": 0.0}."""
    try:
        by_label = {str(label): int(number) for label, number in numbers.items()}
        whole = all(float(n) == int(n) and not isinstance(n, bool) for n in numbers.values())
    except (AttributeError, OverflowError, TypeError, ValueError):
        whole = False
    if not whole:
        raise ConfigError(f"label2id is {numbers!r}; it must give each label a whole number")
    return by_label


def _plain_labels(labels: dict[int, str] | None) -> int:
    """How many labels there are if they are the default ones, else 0."""
    plain = labels is not None and all(label == f"LABEL_{number}" for number, label in labels.items())
    return len(labels) if plain and labels is not None else 0


@functools.cache
def _type(annotation: Any, module: str) -> Any:
    """What an annotation in a module means. A class has dozens of fields, and few different annotations."""
    annotated = SimpleNamespace(__annotations__={"": annotation})
    # A class made by a program can be of a module that is not there; Python's types are known all the same.
    return get_type_hints(annotated, vars(sys.modules.get(module, typing)))[""]


def _is(value: Any, kind: Any) -> bool:
    """Whether a value read from JSON is of an annotated type; whole numbers pass as float, booleans not as
    numbers."""
    if kind is Any or type(value) is kind:
        return True
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return any(_is(value, option) for option in get_args(kind))
    if origin is list:
        return isinstance(value, (list, tuple)) and _are(value, get_args(kind)[0])
    if origin is dict:
        key, item = get_args(kind)
        return isinstance(value, dict) and _are(value, key) and _are(value.values(), item)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _are(values: Iterable[Any], kind: Any) -> bool:
    """Whether all values are of an annotated type: of those that hold no others, one of each Python type is
    looked at, for there may be a million labels."""
    held = {id(value) if isinstance(value, (list, tuple, dict)) else type(value): value for value in values}
    return all(_is(value, kind) for value in held.values())


_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a string",
    NoneType: "null",
    torch.dtype: "a floating-point dtype",
}


def _words(kind: Any) -> str:
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return " or ".join(_words(option) for option in get_args(kind))
    if origin is list:
        return f"a list, each item {_words(get_args(kind)[0])}"
    if origin is dict:
        return "an object"
    return _WORDS.get(kind, str(kind))
