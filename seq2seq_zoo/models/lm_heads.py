"""Heads that score tokens, and the decoders alone that write with one.

last_hidden_state [B, L, D] ─→ lm_head ─→ logits [B, L, V]

ScoresTokens ─┬─ CausalLM           a decoder alone, the next token: MVP, BertGeneration, MEGA, PhiMoE
              ├─ MegaForMaskedLM    a stack that sees both sides, a token that was masked
              └─ Seq2SeqLM          a decoder beside an encoder, the next token (seq2seq_heads.py)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from ..layers.heads import kept_positions, next_token_loss
from ..layers.masks import real_positions
from ..layers.transformer import Stack
from ..outputs import (
    BaseModelOutputWithPastAndCrossAttentions,
    BaseModelOutputWithPoolingAndCrossAttentions,
    CausalLMOutputWithCrossAttentions,
)
from .arguments import as_returned, either
from .base import Model, Writes
from .decoding import StackDecoding


class ScoresTokens(Model):
    """A model with a head that scores tokens: logits = x Wᵀ, with a bias where the family has one."""

    lm_head: nn.Linear

    def get_output_embeddings(self) -> nn.Linear:
        """The head that scores tokens, D → V."""
        return self.lm_head

    def scores(self, x: Tensor) -> Tensor:
        """Hidden vectors [..., D] → scores of tokens [..., V]."""
        return self.lm_head(x)  # type: ignore[no-any-return]


class CausalLM(ScoresTokens, Writes):
    """A decoder alone: one stack, and scores of the next token.

    A family builds the body and says what its forward takes; where it departs from the others, it has its own
    `loss` or `prompt_and_memory`.
    """

    is_encoder_decoder: ClassVar[bool] = False

    @property
    def writer(self) -> Stack:
        """The stack that writes: the model has no other."""
        return next(part for part in self.modules() if isinstance(part, Stack))

    def get_input_embeddings(self) -> nn.Embedding:
        return self.writer.embedding.tokens

    @property
    def max_positions(self) -> int | None:
        """How many positions the model has learnt, or is meant for."""
        return int(self.config.max_position_embeddings)

    # ---- a pass ----

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """How far logits [B, L, V] are from labels [B, L], each position's from the label at the next."""
        return next_token_loss(logits, labels)

    def scored(
        self,
        body: BaseModelOutputWithPastAndCrossAttentions | BaseModelOutputWithPoolingAndCrossAttentions,
        labels: Tensor | None,
        return_dict: bool | None,
        logits_to_keep: int | Tensor = 0,
    ) -> Any:
        """The body's output with scores in place of the last hidden vectors, as the caller asked for it."""
        logits = self.scores(kept_positions(body.last_hidden_state, logits_to_keep))
        loss = None if labels is None else self.loss(logits, labels)
        output = CausalLMOutputWithCrossAttentions(
            loss, logits, body.past_key_values, body.hidden_states, body.attentions, body.cross_attentions
        )
        return as_returned(output, either(return_dict, self.config.return_dict))

    # ---- writing ----

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
        """Make ready to continue `rows_per_source` texts for each row of the prompt."""
        return StackDecoding(
            self.writer,
            self.scores,
            rows_per_source=rows_per_source,
            capacity=capacity,
            use_cache=use_cache and self.writer.causal,  # else a new token changes all before it
            **self.prompt_and_memory(inputs),
        )

    def prompt_and_memory(self, inputs: Mapping[str, Any]) -> dict[str, Tensor | None]:
        """What a decoding run is given to read, by the names it has there: see `StackDecoding`.

        Where no position_ids are given, as a pair gives them, the first real token of a prompt stands at
        position 0, so that a prompt padded on the left is continued as it would be alone.
        """
        positions = inputs.get("position_ids")
        if positions is None:
            positions = real_positions(inputs.get("attention_mask"))
        return {
            "prompt_mask": inputs.get("attention_mask"),
            "prompt_positions": positions,
            "prompt_vectors": inputs.get("inputs_embeds"),
            "memory": inputs.get("encoder_hidden_states"),
            "memory_mask": inputs.get("encoder_attention_mask"),
        }


def refuse_labels_of_few(labels: Tensor | None, logits_to_keep: int | Tensor) -> None:
    """ValueError for labels of positions whose scores are not kept."""
    if labels is not None and not (isinstance(logits_to_keep, int) and logits_to_keep == 0):
        raise ValueError("labels need the scores of all positions; logits_to_keep must be 0 with them")
