"""MEGA with a head: what is made of its hidden vectors (`mega`).

tokens            MegaForCausalLM, which writes; MegaForMaskedLM      hidden → tanh → lm_head
a text            MegaForSequenceClassification                       first position → classification_head
                  MegaForMultipleChoice                               first position → pooler → choice_head
its positions     MegaForTokenClassification, MegaForQuestionAnswering
"""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..checkpoint import KeyMap, renames
from ..errors import ConfigError
from ..layers.heads import ClassificationHead, classification_loss, span_loss, token_loss
from ..layers.state import DecodingState
from ..outputs import (
    BaseModelOutputWithPoolingAndCrossAttentions,
    MaskedLMOutput,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from .arguments import as_returned, either
from .lm_heads import CausalLM, ScoresTokens
from .mega import BODY_OF_A_HEAD, PREFIX, Mega, MegaConfig, MegaModel


@functools.cache
def _key_map(head: str) -> KeyMap:
    return KeyMap(BODY_OF_A_HEAD + renames(head), base_prefix=PREFIX)


class _MegaHead(Mega):
    """A class around a MegaModel, which it calls `model`."""

    head: ClassVar[str]
    """The head's part of the key map, theirs → ours."""
    pools: ClassVar[bool] = False
    model: MegaModel

    def __init__(self, config: MegaConfig) -> None:
        super().__init__(config)
        self.model = MegaModel(config, add_pooling_layer=self.pools)

    @classmethod
    def key_map(cls, config: MegaConfig) -> KeyMap:
        return _key_map(cls.head)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model.get_input_embeddings()


class _MegaLM(_MegaHead, ScoresTokens):
    """A head that scores tokens: logits = x' Eᵀ + b, with x' = tanh(hidden(x)) or x itself."""

    def __init__(self, config: MegaConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.hidden = nn.Linear(width, width) if config.add_lm_hidden_dense_layer else None
        self.lm_head = nn.Linear(width, config.vocab_size)
        self._initialise_own_parts()
        self.tie_weights()

    def scores(self, x: Tensor) -> Tensor:
        return super().scores(x if self.hidden is None else torch.tanh(self.hidden(x)))


class MegaForCausalLM(_MegaLM, CausalLM):
    """MEGA that writes: scores of the next token.

    For it to read from left to right, `is_decoder` must be set and `bidirectional` not; else it sees both
    sides, and warns."""

    head = """
        dense.{p}   -> hidden.{p}
        lm_head.{p} -> lm_head.{p}
    """
    generation_inputs: ClassVar[frozenset[str]] = frozenset(
        {"input_ids", "attention_mask", "inputs_embeds", "encoder_hidden_states", "encoder_attention_mask"}
    )

    def __init__(self, config: MegaConfig) -> None:
        super().__init__(config)
        if not config.is_decoder:
            warnings.warn(
                "MegaForCausalLM has is_decoder=False: it will look at both sides of a token. Set "
                "is_decoder=True and bidirectional=False for a language model",
                stacklevel=2,
            )

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        past_key_values: DecodingState | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """As the model without a head, with logits [B, L, V] → CausalLMOutputWithCrossAttentions.

        labels int64 [B, L], usually input_ids themselves: the scores at each position are compared with the
        label at the next, so labels are not to be shifted; -100 does not count.
        """
        body: BaseModelOutputWithPoolingAndCrossAttentions = self.model(
            input_ids,
            attention_mask,
            token_type_ids,
            inputs_embeds,
            encoder_hidden_states,
            encoder_attention_mask,
            past_key_values,
            use_cache if labels is None else False,
            output_attentions,
            output_hidden_states,
            return_dict=True,
        )
        return self.scored(body, labels, return_dict)

    @property
    def max_positions(self) -> int | None:
        """How many positions a simple bias has learnt; None where chunks or a rotary bias set no limit."""
        config = self.config
        if config.relative_positional_bias == "rotary" or (config.use_chunking and not self.reads_memory):
            return None
        return int(config.max_positions if config.chunk_size < 0 else config.chunk_size)

    @property
    def reads_memory(self) -> bool:
        """Whether the model was built with cross-attention."""
        return bool(self.config.add_cross_attention)

    def prompt_and_memory(self, inputs: Mapping[str, Any]) -> dict[str, Tensor | None]:
        if not self.config.is_decoder or self.config.bidirectional:
            raise ConfigError(
                f"is_decoder is {self.config.is_decoder} and bidirectional is {self.config.bidirectional}; "
                "to write, a MegaForCausalLM must be built or loaded with is_decoder=True and "
                "bidirectional=False"
            )
        return {**super().prompt_and_memory(inputs), "prompt_positions": None}  # it has none


class MegaForMaskedLM(_MegaLM):
    """MEGA that fills in masked tokens."""

    head = """
        dense.{p}    -> hidden.{p}
        mlm_head.{p} -> lm_head.{p}
    """

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """As the model without a head, with logits [B, L, V] → MaskedLMOutput.

        labels int64 [B, L], -100 where they do not count: adds the mean cross-entropy as `loss`.
        """
        body: BaseModelOutputWithPoolingAndCrossAttentions = self.model(
            input_ids,
            attention_mask,
            token_type_ids,
            inputs_embeds,
            encoder_hidden_states,
            encoder_attention_mask,
            use_cache=False,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.scores(body.last_hidden_state)
        loss = None if labels is None else token_loss(logits, labels)
        output = MaskedLMOutput(loss, logits, body.hidden_states, body.attentions)
        return as_returned(output, either(return_dict, self.config.return_dict))


class _Reads(_MegaHead):
    """A head that reads a text and says something about it."""

    def body(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        token_type_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        output_attentions: bool | None,
        output_hidden_states: bool | None,
    ) -> BaseModelOutputWithPoolingAndCrossAttentions:
        """The output of the model without a head, as an object, without decoding state."""
        return self.model(  # type: ignore[no-any-return]
            input_ids,
            attention_mask,
            token_type_ids,
            inputs_embeds,
            use_cache=False,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )


def head_dropout(config: MegaConfig) -> float:
    chosen = config.classifier_dropout
    return config.hidden_dropout_prob if chosen is None else chosen


class MegaForSequenceClassification(_Reads):
    """MEGA that labels a text from its first position."""

    head = """
        classifier.dense.{p}    -> classification_head.hidden.{p}
        classifier.out_proj.{p} -> classification_head.output.{p}
    """

    def __init__(self, config: MegaConfig) -> None:
        super().__init__(config)
        self.classification_head = ClassificationHead(
            config.hidden_size, config.num_labels, dropout=head_dropout(config)
        )
        self._initialise_own_parts()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """input_ids [B, L] → SequenceClassifierOutput with logits [B, labels].

        labels: int64 [B] (one of num_labels), float [B] (regression, num_labels 1) or float [B, num_labels]
        (each label on its own); config.problem_type says which, or their dtype does.
        """
        body = self.body(
            input_ids, attention_mask, token_type_ids, inputs_embeds, output_attentions, output_hidden_states
        )
        logits = self.classification_head(body.last_hidden_state[:, 0])
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        output = SequenceClassifierOutput(loss, logits, body.hidden_states, body.attentions)
        return as_returned(output, either(return_dict, self.config.return_dict))


class MegaForMultipleChoice(_Reads):
    """MEGA that picks one of several texts, by a score of each one's pooled first position."""

    head = "classifier.{p} -> choice_head.{p}"
    pools = True

    def __init__(self, config: MegaConfig) -> None:
        super().__init__(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.choice_head = nn.Linear(config.hidden_size, 1)
        self._initialise_own_parts()

    def forward(
        self,
        input_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """input_ids [B, choices, L] (or inputs_embeds [B, choices, L, D]) → MultipleChoiceModelOutput with
        logits [B, choices].

        labels int64 [B] are the numbers of the right choices. Hidden vectors are [B · choices, L, D].
        """
        for name, value, dims in (("input_ids", input_ids, 3), ("inputs_embeds", inputs_embeds, 4)):
            if value is not None and value.dim() != dims:
                shape = "[batch, choices, length" + ("]" if dims == 3 else ", width]")
                raise ValueError(f"{name} has shape {list(value.shape)}; it must be {shape}")
        given = input_ids if inputs_embeds is None else inputs_embeds
        if given is None:
            raise ValueError("neither of input_ids and inputs_embeds were given; exactly one must be")
        ids, mask, types, vectors = (
            None if x is None else x.flatten(0, 1)
            for x in (input_ids, attention_mask, token_type_ids, inputs_embeds)
        )
        body = self.body(ids, mask, types, vectors, output_attentions, output_hidden_states)
        assert body.pooler_output is not None
        # [B · choices, D] → [B, choices]
        logits = self.choice_head(self.dropout(body.pooler_output)).view(-1, given.shape[1])
        loss = None if labels is None else token_loss(logits, labels)
        output = MultipleChoiceModelOutput(loss, logits, body.hidden_states, body.attentions)
        return as_returned(output, either(return_dict, self.config.return_dict))


class MegaForTokenClassification(_Reads):
    """MEGA that labels each token."""

    head = "classifier.{p} -> token_head.{p}"

    def __init__(self, config: MegaConfig) -> None:
        super().__init__(config)
        self.dropout = nn.Dropout(head_dropout(config))
        self.token_head = nn.Linear(config.hidden_size, config.num_labels)
        self._initialise_own_parts()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """input_ids [B, L] → TokenClassifierOutput with logits [B, L, labels].

        labels int64 [B, L], -100 where they do not count.
        """
        body = self.body(
            input_ids, attention_mask, token_type_ids, inputs_embeds, output_attentions, output_hidden_states
        )
        logits = self.token_head(self.dropout(body.last_hidden_state))
        loss = None if labels is None else token_loss(logits, labels)
        output = TokenClassifierOutput(loss, logits, body.hidden_states, body.attentions)
        return as_returned(output, either(return_dict, self.config.return_dict))


class MegaForQuestionAnswering(_Reads):
    """MEGA that finds an answer in a text."""

    head = "qa_outputs.{p} -> span_head.{p}"

    def __init__(self, config: MegaConfig) -> None:
        config = copy.deepcopy(config)
        config.num_labels = 2
        super().__init__(config)
        self.span_head = nn.Linear(config.hidden_size, 2)
        self._initialise_own_parts()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """input_ids [B, L] → QuestionAnsweringModelOutput with start_logits and end_logits [B, L].

        start_positions and end_positions int64 [B] add the mean of both cross-entropies as `loss`; positions
        beyond the sequence do not count.
        """
        body = self.body(
            input_ids, attention_mask, token_type_ids, inputs_embeds, output_attentions, output_hidden_states
        )
        start, end = self.span_head(body.last_hidden_state).unbind(-1)  # [B, L, 2] → [B, L], [B, L]
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = span_loss(start, end, start_positions, end_positions)
        output = QuestionAnsweringModelOutput(
            loss, start.contiguous(), end.contiguous(), body.hidden_states, body.attentions
        )
        return as_returned(output, either(return_dict, self.config.return_dict))
