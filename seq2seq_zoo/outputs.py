"""What a forward pass returns.

An output is a dataclass that can also be read like the tuple it replaces: `out.logits`, `out["logits"]`,
`out[0]`. Fields that are None are absent from the order, so `out[0]` is the loss where labels were given and
the first result where not.

Shapes, in the glossary's letters: hidden vectors [B, L, D], attention weights [B, H, L, S] one tensor a
layer, hidden vectors of all layers one tensor for the input and one after each layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor
from torch.utils._pytree import register_pytree_node

from .layers.state import DecodingState

Tensors = tuple[Tensor, ...]


class ModelOutput:
    """A dataclass of results that reads as a mapping and as a tuple of what is present.

    To PyTorch's exporter it is the tree of what is present.
    """

    def __init_subclass__(cls) -> None:
        register_pytree_node(
            cls,
            lambda output: (output.values(), output.keys()),
            lambda values, names: cls(**dict(zip(names, values, strict=True))),
            serialized_type_name=f"{cls.__module__}.{cls.__qualname__}",
        )

    def items(self) -> list[tuple[str, Any]]:
        """Name and value of every field that is not None, in order."""
        named = ((field.name, getattr(self, field.name)) for field in fields(self))  # type: ignore[arg-type]
        return [(name, value) for name, value in named if value is not None]

    def keys(self) -> list[str]:
        """Names of the fields that are not None."""
        return [name for name, _ in self.items()]

    def values(self) -> list[Any]:
        """Values of the fields that are not None."""
        return [value for _, value in self.items()]

    def to_tuple(self) -> tuple[Any, ...]:
        """All values that are present."""
        return tuple(self.values())

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a field, or `default` if it is absent."""
        return dict(self.items()).get(name, default)

    def __getitem__(self, key: str | int | slice) -> Any:
        if isinstance(key, str):
            return dict(self.items())[key]
        return self.to_tuple()[key]

    def __contains__(self, name: object) -> bool:
        return name in self.keys()

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.items())


@dataclass
class BaseModelOutput(ModelOutput):
    """An encoder's result."""

    last_hidden_state: Tensor
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


@dataclass
class BaseModelOutputWithPastAndCrossAttentions(ModelOutput):
    """A decoder's result."""

    last_hidden_state: Tensor
    past_key_values: DecodingState | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None
    cross_attentions: Tensors | None = None


@dataclass
class BaseModelOutputWithPoolingAndCrossAttentions(ModelOutput):
    """The result of a body that can be an encoder or a decoder; pooler_output [B, D] sums up each row."""

    last_hidden_state: Tensor
    pooler_output: Tensor | None = None
    hidden_states: Tensors | None = None
    past_key_values: DecodingState | None = None
    attentions: Tensors | None = None
    cross_attentions: Tensors | None = None


@dataclass
class Seq2SeqModelOutput(ModelOutput):
    """The result of an encoder and a decoder."""

    last_hidden_state: Tensor
    past_key_values: DecodingState | None = None
    decoder_hidden_states: Tensors | None = None
    decoder_attentions: Tensors | None = None
    cross_attentions: Tensors | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: Tensors | None = None
    encoder_attentions: Tensors | None = None


@dataclass
class Seq2SeqLMOutput(ModelOutput):
    """Scores of the next token, logits [B, L, V]."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: DecodingState | None = None
    decoder_hidden_states: Tensors | None = None
    decoder_attentions: Tensors | None = None
    cross_attentions: Tensors | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: Tensors | None = None
    encoder_attentions: Tensors | None = None


@dataclass
class Seq2SeqSequenceClassifierOutput(Seq2SeqLMOutput):
    """Scores of the labels of a sequence, logits [B, labels]."""


@dataclass
class Seq2SeqQuestionAnsweringModelOutput(ModelOutput):
    """Scores of an answer's first and last position, [B, L] each."""

    loss: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    past_key_values: DecodingState | None = None
    decoder_hidden_states: Tensors | None = None
    decoder_attentions: Tensors | None = None
    cross_attentions: Tensors | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: Tensors | None = None
    encoder_attentions: Tensors | None = None


@dataclass
class CausalLMOutputWithCrossAttentions(ModelOutput):
    """Scores of the next token from a decoder alone, logits [B, L, V]."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: DecodingState | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None
    cross_attentions: Tensors | None = None


@dataclass
class TokenClassifierOutput(ModelOutput):
    """Scores of the labels of each token, logits [B, L, labels]."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


@dataclass
class MaskedLMOutput(ModelOutput):
    """Scores of the token at each position, logits [B, L, V]."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


@dataclass
class SequenceClassifierOutput(ModelOutput):
    """Scores of the labels of a sequence, logits [B, labels]."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


@dataclass
class MultipleChoiceModelOutput(ModelOutput):
    """Scores of the choices, logits [B, choices]."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


@dataclass
class QuestionAnsweringModelOutput(ModelOutput):
    """Scores of an answer's first and last position, [B, L] each."""

    loss: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


@dataclass
class MoeModelOutputWithPast(ModelOutput):
    """The result of a body with mixtures of experts; router_logits [B · L, experts] one tensor a layer."""

    last_hidden_state: Tensor
    past_key_values: DecodingState | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None
    router_logits: Tensors | None = None


@dataclass
class MoeCausalLMOutputWithPast(ModelOutput):
    """Scores of the next token, logits [B, L, V]; aux_loss says how unevenly the experts were used."""

    loss: Tensor | None = None
    aux_loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: DecodingState | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None
    router_logits: Tensors | None = None


@dataclass
class SequenceClassifierOutputWithPast(ModelOutput):
    """Scores of the labels of a sequence that a decoder has read, logits [B, labels]."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: DecodingState | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None
