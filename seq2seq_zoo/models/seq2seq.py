"""Encoder-decoders: the wiring that MVP and mT5 share.

    input_ids ─→ encoder ─→ encoder_last_hidden_state [B, S, D]
                                   │ memory
    decoder_input_ids ─→ decoder ──┴─→ last_hidden_state [B, L, D] ─→ head

A family builds the two stacks and names what differs: how labels become decoder inputs, and how hidden
vectors become scores. The classes here take and return what the documentation says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from ..config import Config
from ..layers.heads import (
    ClassificationHead,
    at_last_end,
    check_labels,
    classification_loss,
    shift_right,
    span_loss,
    token_loss,
)
from ..layers.state import DecodingState
from ..layers.transformer import Stack
from ..outputs import (
    BaseModelOutput,
    BaseModelOutputWithPastAndCrossAttentions,
    ModelOutput,
    Seq2SeqLMOutput,
    Seq2SeqModelOutput,
    Seq2SeqQuestionAnsweringModelOutput,
    Seq2SeqSequenceClassifierOutput,
)
from .base import Model, Writes
from .decoding import StackDecoding

EncoderOutputs = BaseModelOutput | tuple[Any, ...] | list[Any]


def either(value: bool | None, default: bool) -> bool:
    """What the caller said, or what the config says."""
    return default if value is None else value


def one_input(ids: Tensor | None, vectors: Tensor | None, ids_name: str, vectors_name: str) -> None:
    """Refuse both and neither of two ways to give a sequence, and a sequence without positions."""
    if (ids is None) == (vectors is None):
        given = "neither" if ids is None else "both"
        raise ValueError(f"{given} of {ids_name} and {vectors_name} were given; exactly one must be")
    for name, value in ((ids_name, ids), (vectors_name, vectors)):
        if value is not None and not isinstance(value, Tensor):
            raise ValueError(f"{name} is a {type(value).__name__}; it must be a tensor")
    if ids is not None and ids.dim() != 2:
        raise ValueError(f"{ids_name} has shape {list(ids.shape)}; it must be [batch, length]")
    if vectors is not None and vectors.dim() != 3:
        raise ValueError(f"{vectors_name} has shape {list(vectors.shape)}; it must be [batch, length, width]")
    given_input = vectors if ids is None else ids
    if given_input is not None and 0 in given_input.shape[:2]:
        name = vectors_name if ids is None else ids_name
        raise ValueError(
            f"{name} has shape {list(given_input.shape)}; it must hold at least one row and one position"
        )


def check_state(past_key_values: DecodingState | None) -> DecodingState | None:
    """Refuse as past_key_values what no call has returned."""
    if past_key_values is not None and not isinstance(past_key_values, DecodingState):
        raise ValueError(
            f"past_key_values is a {type(past_key_values).__name__}; it must be what an earlier call returned"
        )
    return past_key_values


def as_returned(output: ModelOutput, return_dict: bool) -> Any:
    """The output, or the tuple of what it holds."""
    return output if return_dict else output.to_tuple()


def as_encoder_output(given: EncoderOutputs) -> BaseModelOutput:
    """What a caller gave as encoder_outputs, an encoder's output or the beginning of its tuple, as an
    output."""
    if isinstance(given, BaseModelOutput):
        return given
    if hasattr(given, "last_hidden_state"):
        return BaseModelOutput(
            given.last_hidden_state,
            getattr(given, "hidden_states", None),
            getattr(given, "attentions", None),
        )
    if not isinstance(given, (tuple, list)) or not 1 <= len(given) <= 3:
        raise ValueError(
            f"encoder_outputs is a {type(given).__name__}; it must be an encoder's output, or "
            "a tuple of (last_hidden_state, hidden_states, attentions) or its beginning"
        )
    return BaseModelOutput(*given)


class Encoder(Stack):
    """A stack that reads a whole sequence at once."""

    config: Config

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """input_ids int64 [B, S] or inputs_embeds [B, S, D]; attention_mask [B, S], 1 = real →
        BaseModelOutput."""
        one_input(input_ids, inputs_embeds, "input_ids", "inputs_embeds")
        out = self.run(
            input_ids,
            inputs_embeds,
            attention_mask=attention_mask,
            need_weights=either(output_attentions, self.config.output_attentions),
            need_hidden=either(output_hidden_states, self.config.output_hidden_states),
        )
        output = BaseModelOutput(out.last, out.hidden, out.self_weights)
        return as_returned(output, either(return_dict, self.config.return_dict))


class Decoder(Stack):
    """A stack that reads a sequence from left to right, and a memory beside it."""

    config: Config

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: DecodingState | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """input_ids int64 [B, L] or inputs_embeds [B, L, D] → BaseModelOutputWithPastAndCrossAttentions.

        attention_mask [B, past + L] covers what `past_key_values` holds as well; encoder_hidden_states [B, S,
        D] is the memory, encoder_attention_mask [B, S] says which of it is real. `past_key_values` is what an
        earlier call returned; it takes in the new positions and is returned again.
        """
        one_input(input_ids, inputs_embeds, "decoder_input_ids", "decoder_inputs_embeds")
        state = check_state(past_key_values)
        if state is None and either(use_cache, self.config.use_cache):
            state = DecodingState(len(self.layers))
        out = self.run(
            input_ids,
            inputs_embeds,
            attention_mask=attention_mask,
            memory=encoder_hidden_states,
            memory_attention_mask=encoder_attention_mask,
            state=state,
            need_weights=either(output_attentions, self.config.output_attentions),
            need_hidden=either(output_hidden_states, self.config.output_hidden_states),
        )
        output = BaseModelOutputWithPastAndCrossAttentions(
            out.last, state, out.hidden, out.self_weights, out.cross_weights
        )
        return as_returned(output, either(return_dict, self.config.return_dict))


class EncoderModel(Model):
    """An encoder alone, with its token vectors."""

    token_embedding: nn.Embedding
    encoder: Encoder

    def __init__(self, config: Config, token_embedding: nn.Embedding, encoder: Encoder) -> None:
        super().__init__(config)
        self.token_embedding = token_embedding
        self.encoder = encoder
        self.encoder.config = self.config
        self._initialise_own_parts()

    def get_encoder(self) -> Encoder:
        """The encoder, callable on its own."""
        return self.encoder

    def get_input_embeddings(self) -> nn.Embedding:
        """The token vectors, [V, D]."""
        return self.token_embedding

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """input_ids int64 [B, S] or inputs_embeds [B, S, D] → BaseModelOutput with last_hidden_state [B, S,
        D]."""
        return self.encoder(
            input_ids, attention_mask, inputs_embeds, output_attentions, output_hidden_states, return_dict
        )


class Seq2SeqModel(Model):
    """An encoder, a decoder, and the token vectors they share."""

    shifts_inputs: ClassVar[bool] = False
    """Whether decoder inputs that are not given are the encoder's, shifted right."""

    token_embedding: nn.Embedding
    encoder: Encoder
    decoder: Decoder

    def __init__(
        self, config: Config, token_embedding: nn.Embedding, encoder: Encoder, decoder: Decoder
    ) -> None:
        super().__init__(config)
        self.token_embedding = token_embedding
        self.encoder, self.decoder = encoder, decoder
        self.encoder.config = self.decoder.config = self.config
        self._initialise_own_parts()

    def get_encoder(self) -> Encoder:
        """The encoder, callable on its own."""
        return self.encoder

    def get_decoder(self) -> Decoder:
        """The decoder, callable on its own."""
        return self.decoder

    def get_input_embeddings(self) -> nn.Embedding:
        """The token vectors of both stacks, [V, D]."""
        return self.token_embedding

    def _shift_right(self, input_ids: Tensor) -> Tensor:
        """Labels as decoder inputs: a start token first, -100 as padding; int64 [B, L] → [B, L]."""
        start, padding = self.config.decoder_start_token_id, self.config.pad_token_id
        for name, value in (("decoder_start_token_id", start), ("pad_token_id", padding)):
            if value is None:
                raise ValueError(
                    f"the config's {name} is None; it must be set to shift labels into decoder inputs"
                )
        return shift_right(input_ids, start=start, padding=padding)

    def shifted_inputs(self, input_ids: Tensor | None) -> Tensor:
        """Decoder inputs that were not given: the encoder's, shifted right; int64 [B, L] → [B, L]."""
        if input_ids is None:
            raise ValueError(
                "neither decoder_input_ids nor decoder_inputs_embeds were given, "
                "and no input_ids to make them from"
            )
        one_input(input_ids, None, "input_ids", "inputs_embeds")
        return self._shift_right(input_ids)

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
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache_position: Tensor | None = None,
    ) -> Any:
        """input_ids [B, S] and decoder_input_ids [B, L] → Seq2SeqModelOutput.

        attention_mask [B, S] and decoder_attention_mask [B, past + L]: 1 = real. Either sequence may be given
        as vectors instead. encoder_outputs, an encoder's output or a tuple that begins with its last hidden
        state, spares the encoder's pass. past_key_values is what an earlier call returned; only new decoder
        positions are given with it, and `cache_position`, accepted for its sake, follows from it.
        """
        if self.shifts_inputs and decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = self.shifted_inputs(input_ids)
        one_input(decoder_input_ids, decoder_inputs_embeds, "decoder_input_ids", "decoder_inputs_embeds")
        encoded = self.encode(
            input_ids, attention_mask, inputs_embeds, encoder_outputs, output_attentions, output_hidden_states
        )
        decoded: BaseModelOutputWithPastAndCrossAttentions = self.decoder(
            decoder_input_ids,
            decoder_attention_mask,
            encoded.last_hidden_state,
            attention_mask,
            past_key_values,
            decoder_inputs_embeds,
            use_cache,
            output_attentions,
            output_hidden_states,
            return_dict=True,
        )
        output = Seq2SeqModelOutput(
            last_hidden_state=decoded.last_hidden_state,
            past_key_values=decoded.past_key_values,
            decoder_hidden_states=decoded.hidden_states,
            decoder_attentions=decoded.attentions,
            cross_attentions=decoded.cross_attentions,
            encoder_last_hidden_state=encoded.last_hidden_state,
            encoder_hidden_states=encoded.hidden_states,
            encoder_attentions=encoded.attentions,
        )
        return as_returned(output, either(return_dict, self.config.return_dict))

    def encode(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_outputs: EncoderOutputs | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> BaseModelOutput:
        """The encoder's output: the one given, as an object, or that of a pass."""
        if encoder_outputs is not None:
            given = as_encoder_output(encoder_outputs)
            width, found = self.token_embedding.embedding_dim, given.last_hidden_state.shape[-1]
            if found != width:
                raise ValueError(f"encoder_outputs are {found} wide; they must be {width}")
            return given
        return self.encoder(  # type: ignore[no-any-return]
            input_ids, attention_mask, inputs_embeds, output_attentions, output_hidden_states, True
        )


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


class Seq2SeqLM(Seq2SeqHead, Writes):
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

    lm_head: nn.Linear

    def get_output_embeddings(self) -> nn.Linear:
        """The head that scores tokens, D → V."""
        return self.lm_head

    def scores(self, x: Tensor) -> Tensor:
        """Hidden vectors [..., D] → scores of the next token [..., V]."""
        return self.lm_head(x)  # type: ignore[no-any-return]

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
        positions = self.model.decoder.embedding.positions
        return None if positions is None else positions.weight.shape[0] - positions.offset

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
