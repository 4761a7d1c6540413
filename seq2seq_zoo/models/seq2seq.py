"""Encoder-decoders: the wiring that MVP and mT5 share.

    input_ids ─→ encoder ─→ encoder_last_hidden_state [B, S, D]
                                   │ memory
    decoder_input_ids ─→ decoder ──┴─→ last_hidden_state [B, L, D] ─→ head (seq2seq_heads.py)

A family builds the two stacks and names what differs: how labels become decoder inputs, and how hidden
vectors become scores. The classes here take and return what the documentation says.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from ..config import Config
from ..layers.heads import shift_right
from ..layers.state import DecodingState
from ..layers.transformer import Stack
from ..outputs import BaseModelOutput, BaseModelOutputWithPastAndCrossAttentions, Seq2SeqModelOutput
from .arguments import EncoderOutputs, as_encoder_output, as_returned, check_state, either, one_input
from .base import Model


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
