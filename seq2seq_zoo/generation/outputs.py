"""What generate returns with return_dict_in_generate, and how it is gathered step by step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from seq2seq_zoo.generation.config import GenerationConfig
from seq2seq_zoo.generation.protocol import StepOutput

# of each step: of each layer: a tensor
Steps = tuple[tuple[Tensor, ...], ...]


@dataclass
class GenerateOutput:
    """Readable as `out.scores`, `out["scores"]` and by position, where absent fields do not count."""

    sequences: Tensor
    """[rows, length] int64."""

    def to_tuple(self) -> tuple[Any, ...]:
        """All values that are present."""
        return tuple(value for _, value in self.items())

    def items(self) -> Iterator[tuple[str, Any]]:
        """The fields that are present."""
        pairs = ((entry.name, getattr(self, entry.name)) for entry in fields(self))
        return ((name, value) for name, value in pairs if value is not None)

    def keys(self) -> list[str]:
        """Names of the fields that are present."""
        return [name for name, _ in self.items()]

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a field, or `default` if it is absent."""
        return dict(self.items()).get(name, default)

    def __getitem__(self, key: str | int | slice) -> Any:
        return dict(self.items())[key] if isinstance(key, str) else self.to_tuple()[key]

    def __contains__(self, name: object) -> bool:
        return name in self.keys()

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())


@dataclass
class GenerateDecoderOnlyOutput(GenerateOutput):
    """Greedy search or sampling with a decoder."""

    scores: tuple[Tensor, ...] | None = None
    """Of each step: the processed scores [rows, V] in float32."""
    logits: tuple[Tensor, ...] | None = None
    """Of each step: the model's logits [rows, V] in float32."""
    attentions: Steps | None = None
    hidden_states: Steps | None = None
    past_key_values: Any = None
    """The state after the last token but one, which a forward pass takes to go on; None without a cache."""


@dataclass
class GenerateEncoderDecoderOutput(GenerateOutput):
    """Greedy search or sampling with an encoder-decoder; the encoder's tensors have one row a source."""

    scores: tuple[Tensor, ...] | None = None
    logits: tuple[Tensor, ...] | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_attentions: Steps | None = None
    cross_attentions: Steps | None = None
    decoder_hidden_states: Steps | None = None
    past_key_values: Any = None


@dataclass
class GenerateBeamDecoderOnlyOutput(GenerateOutput):
    """Beam search with a decoder."""

    sequences_scores: Tensor | None = None
    """[sequences] float32: Σ log p / length^length_penalty; with output_scores."""
    scores: tuple[Tensor, ...] | None = None
    """Of each step: the processed log-probabilities [sources · num_beams, V]."""
    logits: tuple[Tensor, ...] | None = None
    beam_indices: Tensor | None = None
    """[sequences, new tokens] int32: the row of `scores` each token was chosen from; -1 after the end."""
    attentions: Steps | None = None
    hidden_states: Steps | None = None
    past_key_values: Any = None


@dataclass
class GenerateBeamEncoderDecoderOutput(GenerateOutput):
    """Beam search with an encoder-decoder; the encoder's tensors have one row a source."""

    sequences_scores: Tensor | None = None
    scores: tuple[Tensor, ...] | None = None
    logits: tuple[Tensor, ...] | None = None
    beam_indices: Tensor | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_attentions: Steps | None = None
    cross_attentions: Steps | None = None
    decoder_hidden_states: Steps | None = None
    past_key_values: Any = None


@dataclass
class Trace:
    """What the caller wants to see of each step, in lists that grow; a list is None where nothing is
    asked."""

    scores: list[Tensor] | None = None
    logits: list[Tensor] | None = None
    attentions: list[Any] | None = None
    cross_attentions: list[Any] | None = None
    hidden_states: list[Any] | None = None
    flags: dict[str, bool] = field(default_factory=dict)
    """The arguments of `Decoding.step` that ask for it."""

    @classmethod
    def wanted(cls, config: GenerationConfig, is_encoder_decoder: bool) -> Trace:
        if not config.return_dict_in_generate:
            return cls()
        trace = cls(
            scores=[] if config.output_scores else None,
            logits=[] if config.output_logits else None,
            attentions=[] if config.output_attentions else None,
            cross_attentions=[] if config.output_attentions and is_encoder_decoder else None,
            hidden_states=[] if config.output_hidden_states else None,
        )
        for name in ("output_attentions", "output_hidden_states"):
            if getattr(config, name):
                trace.flags[name] = True
        return trace

    def add(self, step: StepOutput, scores: Tensor) -> None:
        """Keep what was asked for of one step; the model may reuse its logits, so they are copied."""
        if self.logits is not None:
            self.logits.append(step.logits.to(torch.float32, copy=True))
        if self.scores is not None:
            shared = scores.data_ptr() == step.logits.data_ptr()
            self.scores.append(scores.clone() if shared else scores)
        for kept, value in (
            (self.attentions, step.attentions),
            (self.cross_attentions, step.cross_attentions),
            (self.hidden_states, step.hidden_states),
        ):
            if kept is not None:
                kept.append(value)

    @property
    def scores_so_far(self) -> tuple[Tensor, ...] | None:
        """What stopping criteria are shown."""
        return None if self.scores is None else tuple(self.scores)

    def fields(self, is_encoder_decoder: bool, encoder_outputs: Any) -> dict[str, Any]:
        """The fields of the output object that this trace fills."""

        def steps(kept: list[Any] | None) -> tuple[Any, ...] | None:
            return None if kept is None else tuple(kept)

        common = {"scores": steps(self.scores), "logits": steps(self.logits)}
        attentions, hidden_states = steps(self.attentions), steps(self.hidden_states)
        if not is_encoder_decoder:
            return common | {"attentions": attentions, "hidden_states": hidden_states}
        return common | {
            "encoder_attentions": None
            if attentions is None
            else getattr(encoder_outputs, "attentions", None),
            "encoder_hidden_states": None
            if hidden_states is None
            else getattr(encoder_outputs, "hidden_states", None),
            "decoder_attentions": attentions,
            "cross_attentions": steps(self.cross_attentions),
            "decoder_hidden_states": hidden_states,
        }
