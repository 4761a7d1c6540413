"""Which families there are: a row a family, a column a task.

A row also says which of its classes can be one half of an `EncoderDecoderModel`: `encoder` the reading half,
the class for CausalLM the writing half, if it takes encoder_hidden_states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..config import Config
from ..errors import UnknownFamilyError
from .base import Model
from .bert_generation import BertGenerationConfig, BertGenerationDecoder, BertGenerationEncoder
from .mega import MegaConfig, MegaModel
from .mega_heads import (
    MegaForCausalLM,
    MegaForMaskedLM,
    MegaForMultipleChoice,
    MegaForQuestionAnswering,
    MegaForSequenceClassification,
    MegaForTokenClassification,
)
from .mt5 import (
    MT5Config,
    MT5EncoderModel,
    MT5ForConditionalGeneration,
    MT5ForQuestionAnswering,
    MT5ForSequenceClassification,
    MT5ForTokenClassification,
    MT5Model,
)
from .mvp import (
    MvpConfig,
    MvpEncoder,
    MvpForCausalLM,
    MvpForConditionalGeneration,
    MvpForQuestionAnswering,
    MvpForSequenceClassification,
    MvpModel,
)
from .phimoe import PhimoeConfig, PhimoeModel
from .phimoe_heads import PhimoeForCausalLM, PhimoeForSequenceClassification


@dataclass(frozen=True)
class Family:
    """A family's config, its model without a head, its classes by task, and its encoder alone."""

    config: type[Config]
    model: type[Model]
    tasks: Mapping[str, type[Model]] = field(default_factory=dict)
    encoder: type[Model] | None = None


FAMILIES: tuple[Family, ...] = (
    Family(
        MvpConfig,
        MvpModel,
        {
            "Seq2SeqLM": MvpForConditionalGeneration,
            "CausalLM": MvpForCausalLM,
            "SequenceClassification": MvpForSequenceClassification,
            "QuestionAnswering": MvpForQuestionAnswering,
        },
        encoder=MvpEncoder,
    ),
    Family(
        MT5Config,
        MT5Model,
        {
            "Seq2SeqLM": MT5ForConditionalGeneration,
            "SequenceClassification": MT5ForSequenceClassification,
            "TokenClassification": MT5ForTokenClassification,
            "QuestionAnswering": MT5ForQuestionAnswering,
        },
        encoder=MT5EncoderModel,
    ),
    Family(
        MegaConfig,
        MegaModel,
        {
            "CausalLM": MegaForCausalLM,
            "MaskedLM": MegaForMaskedLM,
            "SequenceClassification": MegaForSequenceClassification,
            "MultipleChoice": MegaForMultipleChoice,
            "TokenClassification": MegaForTokenClassification,
            "QuestionAnswering": MegaForQuestionAnswering,
        },
        encoder=MegaModel,
    ),
    Family(
        PhimoeConfig,
        PhimoeModel,
        {"CausalLM": PhimoeForCausalLM, "SequenceClassification": PhimoeForSequenceClassification},
    ),
    Family(
        BertGenerationConfig,
        BertGenerationEncoder,
        {"CausalLM": BertGenerationDecoder},
        encoder=BertGenerationEncoder,
    ),
)


def find_family(families: Sequence[Family], model_type: object, what: str) -> Family:
    """The family of a model_type; `what` names the checkpoint in the error."""
    for family in families:
        if model_type in (family.config.model_type, *family.config.accepts):
            return family
    known = [name for family in families for name in (family.config.model_type, *family.config.accepts)]
    raise UnknownFamilyError(f"{what} has model_type {model_type!r}; it must be one of {', '.join(known)}")
