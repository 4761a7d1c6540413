"""From a config.json to a class: which family a checkpoint is of, and which of its classes does a task.

The table of `families`, and a row for pairs of them, says it all: a row a family, a column a task.
`AutoModelFor…` reads the checkpoint's model_type and hands on to the class in its column.
"""

from __future__ import annotations

import os
from typing import Any, ClassVar

from ..config import Config, Place, read_config
from ..errors import CheckpointError, ConfigError
from .base import Model
from .encoder_decoder import EncoderDecoderConfig, EncoderDecoderModel
from .families import FAMILIES as SINGLE_FAMILIES
from .families import Family as Family
from .families import find_family

FAMILIES: tuple[Family, ...] = (
    *SINGLE_FAMILIES,
    Family(EncoderDecoderConfig, EncoderDecoderModel, {"Seq2SeqLM": EncoderDecoderModel}),
)


def family_of(model_type: object, what: str) -> Family:
    """The family of a model_type; `what` names the checkpoint in the error."""
    return find_family(FAMILIES, model_type, what)


def model_classes() -> list[type[Model]]:
    """Every public model class of every family."""
    found = [cls for row in FAMILIES for cls in (row.model, *row.tasks.values(), row.encoder)]
    return [cls for cls in dict.fromkeys(found) if cls is not None]


_HUB_OPTIONS = ("revision", "subfolder", "cache_dir", "token", "local_files_only")


class AutoConfig:
    """The config of a checkpoint, whatever its family."""

    @staticmethod
    def from_pretrained(where: Place, **options: Any) -> Config:
        """The config of a folder, a hub repository or `bundled:NAME`; further keywords replace its fields,
        but for `trust_remote_code`, which changes nothing."""
        options.pop("trust_remote_code", None)
        hub = {name: options.pop(name) for name in _HUB_OPTIONS if name in options}
        values = read_config(where, **hub)
        return family_of(values.get("model_type"), os.fspath(where)).config.from_dict(values, **options)

    @staticmethod
    def for_model(model_type: str, **fields: Any) -> Config:
        """A config of the family with this model_type."""
        return family_of(model_type, "the call").config(**fields)


class AutoModel:
    """The model of a checkpoint without a head."""

    task: ClassVar[str | None] = None

    @classmethod
    def class_for(cls, model_type: object, what: str) -> type[Model]:
        """The class that does this task for a model_type."""
        family = family_of(model_type, what)
        if cls.task is None:
            return family.model
        if cls.task not in family.tasks:
            able = [other.config.model_type for other in FAMILIES if cls.task in other.tasks]
            raise CheckpointError(
                f"{what} has model_type {model_type!r}, which has no class for {cls.task}; "
                f"{', '.join(able) or 'none'} has"
            )
        return family.tasks[cls.task]

    @classmethod
    def from_pretrained(cls, where: Place, **options: Any) -> Any:
        """As `from_pretrained` of the class that the checkpoint's config.json asks for."""
        config = options.get("config")
        if isinstance(config, Config):
            model_type: object = config.model_type
        else:
            hub = {name: options[name] for name in _HUB_OPTIONS if name in options}
            model_type = read_config(where if config is None else config, **hub).get("model_type")
        return cls.class_for(model_type, os.fspath(where)).from_pretrained(where, **options)

    @classmethod
    def from_config(cls, config: Config) -> Model:
        """A model with random weights."""
        if not isinstance(config, Config):
            raise ConfigError(f"config is a {type(config).__name__}; it must be a config object")
        return cls.class_for(config.model_type, "the config")(config)


class AutoModelForSeq2SeqLM(AutoModel):
    """An encoder-decoder that writes."""

    task = "Seq2SeqLM"


class AutoModelForCausalLM(AutoModel):
    """A decoder that writes on."""

    task = "CausalLM"


class AutoModelForMaskedLM(AutoModel):
    """A model that fills in masked tokens."""

    task = "MaskedLM"


class AutoModelForSequenceClassification(AutoModel):
    """A model that labels texts."""

    task = "SequenceClassification"


class AutoModelForTokenClassification(AutoModel):
    """A model that labels tokens."""

    task = "TokenClassification"


class AutoModelForQuestionAnswering(AutoModel):
    """A model that finds an answer in a text."""

    task = "QuestionAnswering"


class AutoModelForMultipleChoice(AutoModel):
    """A model that picks one of several texts."""

    task = "MultipleChoice"
