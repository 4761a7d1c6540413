"""The heads of encoder-decoders: the next token, a label, a span.

Seq2SeqModel ─→ last_hidden_state [B, L, D] ─┬─ every position         → Seq2SeqLM, [B, L, V]
                                             ├─ the last end position  → Seq2SeqClassifier, [B, labels]
                                             └─ two scores a position  → Seq2SeqSpanFinder, [B, L] each
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from ..layers.heads import (
    ClassificationHead,
    at_last_end,
    check_labels,
    classification_loss,
    span_loss,
    token_loss,
)
from ..layers.state import DecodingState
from ..outputs import (
    Seq2SeqLMOutput,
    Seq2SeqModelOutput,
    Seq2SeqQuestionAnsweringModelOutput,
    Seq2SeqSequenceClassifierOutput,
)
from .arguments import EncoderOutputs, as_returned, either
from .base import Model, Writes
from .decoding import StackDecoding
from .lm_heads import ScoresTokens
from .seq2seq import Decoder, Encoder, Seq2SeqModel


class Seq2SeqHead(Model):
    """A class around a Seq2SeqModel, which it calls `model`."""

    model: Seq2SeqModel

    def get_encoder(self) -> Encoder:
        """The encoder, callable on its own."""
        return self.model.encoder

    def get_decoder(self) -> Decoder:
        """The decoder, callable on its own."""
        return self.model.decoder

    def get_input_embeddings(self) -> nn.Embedding:
        """The token vectors of both stacks, [V, D]."""
        return self.model.token_embedding

    def _shift_right(self, input_ids: Tensor) -> Tensor:
        return self.model._shift_right(input_ids)


class Seq2SeqLM(Seq2SeqHead, ScoresTokens, Writes):
    """An encoder-decoder that scores the next token."""

    generation_inputs: ClassVar[frozenset[str]] = frozenset(
        {
            "input_ids",
            "attention_mask",
            "inputs_embeds",
            "encoder_outputs",
            "decoder_input_ids",
            "decoder_attention_mask",
        }
    )
    is_encoder_decoder: ClassVar[bool] = True
    caches_with_labels: ClassVar[bool] = True
    """Whether a pass with labels returns decoding state where nobody asked for it."""

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """Labels [B, L] as decoder inputs: shifted right, -100 as padding."""
        return self._shift_right(labels)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: EncoderOutputs | None = None,
        past_key_values: DecodingState | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache_position: Tensor | None = None,
    ) -> Any:
        """As the model without a head, with logits [B, L, V] → Seq2SeqLMOutput.

        labels int64 [B, L], -100 where they do not count: adds the mean cross-entropy as `loss`, and makes
        the decoder inputs where those are not given.
        """
        if labels is not None:
            check_labels(labels, self.lm_head.out_features)
            if not self.caches_with_labels:
                use_cache = False
            if decoder_input_ids is None and decoder_inputs_embeds is None:
                decoder_input_ids = self._shift_right(labels)
        body: Seq2SeqModelOutput = self.model(
            input_ids,
            attention_mask,
            decoder_input_ids,
            decoder_attention_mask,
            encoder_outputs,
            past_key_values,
            inputs_embeds,
            decoder_inputs_embeds,
            use_cache,
            output_attentions,
            output_hidden_states,
            True,
        )
        logits = self.scores(body.last_hidden_state)
        loss = None if labels is None else token_loss(logits, labels)
        output = Seq2SeqLMOutput(loss, logits, *_after_first(body))
        return as_returned(output, either(return_dict, self.config.return_dict))

    @property
    def max_positions(self) -> int | None:
        """How many positions the decoder has learnt; None where they are relative."""
        return self.model.decoder.embedding.limit

    @property
    def source_positions(self) -> int | None:
        """How many positions the encoder has learnt; None where they are relative."""
        return self.model.encoder.embedding.limit

    def begin_decoding(
        self,
        inputs: Mapping[str, Any],
        *,
        rows_per_source: int,
        capacity: int,
        use_cache: bool,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> StackDecoding:
        """Encode the source once and make ready to continue `rows_per_source` texts for each of its rows."""
        encoded = self.model.encode(
            inputs.get("input_ids"),
            inputs.get("attention_mask"),
            inputs.get("inputs_embeds"),
            inputs.get("encoder_outputs"),
            output_attentions,
            output_hidden_states,
        )
        return StackDecoding(
            self.model.decoder,
            self.scores,
            rows_per_source=rows_per_source,
            capacity=capacity,
            use_cache=use_cache,
            prompt_mask=inputs.get("decoder_attention_mask"),
            memory=encoded.last_hidden_state,
            memory_mask=inputs.get("attention_mask"),
            encoder_outputs=encoded,
        )


class Seq2SeqClassifier(Seq2SeqHead):
    """An encoder-decoder that reads the input twice and labels it from the decoder's last end-of-sequence
    position."""

    classification_head: ClassificationHead

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: EncoderOutputs | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """input_ids [B, S] → Seq2SeqSequenceClassifierOutput with logits [B, labels].

        labels: int64 [B] (one of num_labels), float [B] (regression, num_labels 1) or float [B, num_labels]
        (each label on its own); config.problem_type says which, or their dtype does. Every row must hold the
        same number of end tokens.
        """
        if input_ids is None:
            raise ValueError(
                "input_ids is None; the classifier finds the end of the text in it, so it must be given"
            )
        if labels is not None:
            use_cache = False
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = self.model.shifted_inputs(input_ids)
        body: Seq2SeqModelOutput = self.model(
            input_ids,
            attention_mask,
            decoder_input_ids,
            decoder_attention_mask,
            encoder_outputs,
            None,
            inputs_embeds,
            decoder_inputs_embeds,
            use_cache,
            output_attentions,
            output_hidden_states,
            True,
        )
        end = self.config.eos_token_id
        if not isinstance(end, int):
            raise ValueError(f"the config's eos_token_id is {end}; a classifier needs one id")
        logits = self.classification_head(at_last_end(body.last_hidden_state, input_ids, end))
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        output = Seq2SeqSequenceClassifierOutput(loss, logits, *_after_first(body))
        return as_returned(output, either(return_dict, self.config.return_dict))


class Seq2SeqSpanFinder(Seq2SeqHead):
    """An encoder-decoder that reads the input twice and finds an answer's first and last position in it."""

    span_head: nn.Linear

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: EncoderOutputs | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """input_ids [B, S] → Seq2SeqQuestionAnsweringModelOutput with start_logits and end_logits [B, S].

        start_positions and end_positions int64 [B] add the mean of both cross-entropies as `loss`; positions
        beyond the sequence do not count.
        """
        if start_positions is not None and end_positions is not None:
            use_cache = False
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = self.model.shifted_inputs(input_ids)
        body: Seq2SeqModelOutput = self.model(
            input_ids,
            attention_mask,
            decoder_input_ids,
            decoder_attention_mask,
            encoder_outputs,
            None,
            inputs_embeds,
            decoder_inputs_embeds,
            use_cache,
            output_attentions,
            output_hidden_states,
            True,
        )
        start, end = self.span_head(body.last_hidden_state).unbind(-1)  # [B, S, 2] → [B, S], [B, S]
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = span_loss(start, end, start_positions, end_positions)
        output = Seq2SeqQuestionAnsweringModelOutput(
            loss, start.contiguous(), end.contiguous(), *_after_first(body)
        )
        return as_returned(output, either(return_dict, self.config.return_dict))


def _after_first(body: Seq2SeqModelOutput) -> tuple[Any, ...]:
    """All fields of the body's output but its last hidden state, which the head has turned into scores."""
    return (
        body.past_key_values,
        body.decoder_hidden_states,
        body.decoder_attentions,
        body.cross_attentions,
        body.encoder_last_hidden_state,
        body.encoder_hidden_states,
        body.encoder_attentions,
    )
