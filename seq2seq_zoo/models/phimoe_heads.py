"""PhiMoE with a head: one that writes, and one that labels a text by its last token (`phimoe`)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..layers.heads import classification_loss, kept_positions
from ..layers.router import load_balancing_loss
from ..layers.state import DecodingState
from ..outputs import MoeCausalLMOutputWithPast, MoeModelOutputWithPast, SequenceClassifierOutputWithPast
from .arguments import as_returned, either, one_input
from .lm_heads import CausalLM, refuse_labels_of_few
from .phimoe import Phimoe, PhimoeConfig, PhimoeModel


class PhimoeForCausalLM(Phimoe, CausalLM):
    """PhiMoE that writes: scores of the next token, logits = x Wᵀ, with a bias on request."""

    head = "lm_head.{p} -> lm_head.{p}"
    generation_inputs: ClassVar[frozenset[str]] = frozenset(
        {"input_ids", "attention_mask", "position_ids", "inputs_embeds"}
    )

    def __init__(self, config: PhimoeConfig) -> None:
        super().__init__(config)
        self.model = PhimoeModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=config.lm_head_bias)
        self._initialise_own_parts()
        self.tie_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: DecodingState | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_router_logits: bool | None = None,
        cache_position: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """As the model without a head, with logits [B, L, V] → MoeCausalLMOutputWithPast.

        labels int64 [B, L], usually input_ids themselves: the scores at each position are compared with the
        label at the next, so labels are not to be shifted; -100 does not count. With output_router_logits
        there is an aux_loss, by which the experts of all layers are used evenly (padding does not count), and
        router_aux_loss_coef times it is part of the loss. logits_to_keep scores only the last so many
        positions (0: all), or those a tensor names; labels need all.
        """
        refuse_labels_of_few(labels, logits_to_keep)
        body: MoeModelOutputWithPast = self.model(
            input_ids,
            attention_mask,
            position_ids,
            past_key_values,
            inputs_embeds,
            use_cache,
            cache_position,
            output_attentions,
            output_hidden_states,
            output_router_logits,
            return_dict=True,
        )
        logits = self.scores(kept_positions(body.last_hidden_state, logits_to_keep))
        loss = None if labels is None else self.loss(logits, labels)
        aux_loss = None
        if body.router_logits is not None:
            aux_loss = load_balancing_loss(
                body.router_logits,
                top_k=self.config.num_experts_per_tok,
                attention_mask=_real_columns(attention_mask, body.last_hidden_state.shape[0]),
            )
            loss = None if loss is None else loss + self.config.router_aux_loss_coef * aux_loss
        output = MoeCausalLMOutputWithPast(
            loss,
            aux_loss,
            logits,
            body.past_key_values,
            body.hidden_states,
            body.attentions,
            body.router_logits,
        )
        return as_returned(output, either(return_dict, self.config.return_dict))

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        half = logits.dtype in (torch.float16, torch.bfloat16)
        return super().loss(logits.float() if half else logits, labels)


def _real_columns(attention_mask: Tensor | None, rows: int) -> Tensor | None:
    """Which columns any query may see, bool [rows, S], from any mask that a pass takes."""
    if attention_mask is None:
        return None
    seen = attention_mask != 0
    return (seen if seen.dim() == 2 else seen.flatten(1, -2).any(1)).expand(rows, -1)


class PhimoeForSequenceClassification(Phimoe):
    """PhiMoE that labels a text from its last real token."""

    head = "score.{p} -> classification_head.{p}"

    def __init__(self, config: PhimoeConfig) -> None:
        super().__init__(config)
        self.model = PhimoeModel(config)
        self.classification_head = nn.Linear(config.hidden_size, config.num_labels, bias=False)
        self._initialise_own_parts()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model.get_input_embeddings()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: DecodingState | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """input_ids [B, L] → SequenceClassifierOutputWithPast with logits [B, labels].

        A row's last real token is the last that is neither masked nor pad_token_id, with padding on either
        side. Several rows need one of the two. labels: int64 [B] (one of num_labels), float [B] (regression,
        num_labels 1) or float [B, num_labels] (each label on its own); config.problem_type says which, or
        their dtype does.
        """
        one_input(input_ids, inputs_embeds, "input_ids", "inputs_embeds")
        rows = 1 if input_ids is None else input_ids.shape[0]
        if rows > 1 and attention_mask is None and self.config.pad_token_id is None:
            raise ValueError(
                f"input_ids have {rows} rows, and pad_token_id is None; to find a row's last token, the "
                "config must have a pad_token_id, or attention_mask must be given"
            )
        body: MoeModelOutputWithPast = self.model(
            input_ids,
            attention_mask,
            position_ids,
            past_key_values,
            inputs_embeds,
            use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            output_router_logits=False,
            return_dict=True,
        )
        x = body.last_hidden_state
        last = self._last_real(input_ids, attention_mask, x.shape[1])
        logits = self.classification_head(x[torch.arange(x.shape[0], device=x.device), last])
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        output = SequenceClassifierOutputWithPast(
            loss, logits, body.past_key_values, body.hidden_states, body.attentions
        )
        return as_returned(output, either(return_dict, self.config.return_dict))

    def _last_real(self, ids: Tensor | None, attention_mask: Tensor | None, length: int) -> Tensor | int:
        """The column of each row's last real token, [B] or [1], or -1 if it is the last of all."""
        pad = self.config.pad_token_id
        real = None if ids is None or pad is None else ids != pad
        if attention_mask is not None and attention_mask.dim() == 2:
            attended = attention_mask[:, -length:] != 0
            real = attended if real is None else attended & real
        if real is None:
            return -1
        return torch.where(real, torch.arange(length, device=real.device), 0).amax(1)
