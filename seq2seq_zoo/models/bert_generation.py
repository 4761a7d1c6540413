"""BertGeneration: BERT as half of a sequence-to-sequence model (Rothe et al. 2019, arXiv:1907.12461), on the
build of BERT (Devlin et al. 2018, arXiv:1810.04805).

    tokens + learned positions → norm → N × [self-attention, cross-attention on request, feed-forward] → head
                                             ↑ learned distances, on request
    post-norm, biases everywhere, the head shares the token vectors and has a bias

One stack, two roles. With `is_decoder` it reads from left to right, with `add_cross_attention` it reads a
memory besides; `EncoderDecoderModel` joins one of each kind. Plain BERT checkpoints load as they are: their
token types, pooler and pre-training heads are dropped, and cross-attention, which they do not have, starts
anew.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from ..checkpoint import Alias, Drop, KeyMap, Respell, Rules, renames
from ..config import (
    Config,
    counts,
    divides,
    in_vocabulary,
    known_activation,
    not_negative,
    probability,
    sizes,
)
from ..errors import ConfigError
from ..layers.activations import ACTIVATIONS
from ..layers.alike import alike
from ..layers.attention import Attention
from ..layers.embedding import InputEmbedding
from ..layers.feed_forward import FeedForward
from ..layers.norms import LayerNorm
from ..layers.positions import LearnedPositions, RelativeDistances
from ..layers.state import DecodingState
from ..layers.transformer import Stack, TransformerLayer
from ..outputs import BaseModelOutputWithPastAndCrossAttentions
from .arguments import as_returned, check_state, either, one_input
from .base import Model
from .lm_heads import CausalLM

POSITION_TYPES = ("absolute", "relative_key", "relative_key_query")


class BertGenerationConfig(Config):
    """Configuration of the BertGeneration classes; the defaults are those of
    google/bert_for_seq_generation_L-24_bbc_encoder."""

    model_type = "bert-generation"
    accepts: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "bert": {
            "vocab_size": 30522,
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
        },
    }

    vocab_size: int = 50358
    """Number of tokens."""
    hidden_size: int = 1024
    """Width of the hidden vectors."""
    num_hidden_layers: int = 24
    """Layers of the stack."""
    num_attention_heads: int = 16
    """Heads of each attention; they divide hidden_size."""
    intermediate_size: int = 4096
    """Width inside the feed-forward blocks."""
    hidden_act: str = "gelu"
    """Activation of the feed-forward blocks."""
    hidden_dropout_prob: float = 0.1
    """Dropout of embeddings and blocks."""
    attention_probs_dropout_prob: float = 0.1
    """Dropout of attention weights."""
    max_position_embeddings: int = 512
    """Longest sequence, in tokens."""
    initializer_range: float = 0.02
    """Standard deviation of fresh weights."""
    layer_norm_eps: float = 1e-12
    """Added to the variance in the norms."""
    position_embedding_type: str = "absolute"
    """What self-attention knows of distances: nothing beyond the learned positions ("absolute"), vectors
    compared with queries ("relative_key"), or with queries and keys ("relative_key_query")."""
    pad_token_id: int | None = 0
    bos_token_id: int | None = 2
    eos_token_id: int | list[int] | None = 1

    def check(self) -> None:
        super().check()
        sizes(self, "vocab_size", "hidden_size", "num_attention_heads", "intermediate_size")
        sizes(self, "max_position_embeddings")
        counts(self, "num_hidden_layers")
        not_negative(self, "initializer_range", "layer_norm_eps")
        probability(self, "hidden_dropout_prob", "attention_probs_dropout_prob")
        divides(self, "num_attention_heads", "hidden_size")
        known_activation(self, "hidden_act")
        in_vocabulary(self, "pad_token_id")
        if self.position_embedding_type not in POSITION_TYPES:
            raise ConfigError(
                f"position_embedding_type is {self.position_embedding_type!r}; "
                f"it must be one of {', '.join(POSITION_TYPES)}"
            )


# ---- the parts list ----


def distances(config: BertGenerationConfig) -> RelativeDistances | None:
    """What a self-attention compares with queries and keys; every layer has its own."""
    if config.position_embedding_type == "absolute":
        return None
    return RelativeDistances(
        config.max_position_embeddings,
        config.hidden_size // config.num_attention_heads,
        compares_keys=config.position_embedding_type == "relative_key_query",
    )


def attention(config: BertGenerationConfig, distances: RelativeDistances | None = None) -> Attention:
    return Attention(
        config.hidden_size,
        config.num_attention_heads,
        config.hidden_size // config.num_attention_heads,
        distances=distances,
        dropout=config.attention_probs_dropout_prob,
    )


def norm(config: BertGenerationConfig) -> LayerNorm:
    return LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


def layer(config: BertGenerationConfig) -> TransformerLayer:
    return TransformerLayer(
        self_attention=attention(config, distances(config)),
        cross_attention=attention(config) if config.add_cross_attention else None,
        feed_forward=FeedForward(
            config.hidden_size, config.intermediate_size, ACTIVATIONS[config.hidden_act]
        ),
        norm=lambda: norm(config),
        norm_first=False,
        dropout=config.hidden_dropout_prob,
    )


def input_embedding(config: BertGenerationConfig) -> InputEmbedding:
    return InputEmbedding(
        nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id),
        positions=LearnedPositions(config.max_position_embeddings, config.hidden_size),
        norm=norm(config),
        dropout=config.hidden_dropout_prob,
    )


def stack(config: BertGenerationConfig) -> Stack:
    return Stack(
        input_embedding(config),
        alike(lambda: layer(config), config.num_hidden_layers),
        causal=config.is_decoder,
    )


# ---- theirs → ours ----

BODY = renames("""
    embeddings.word_embeddings.weight                         -> stack.embedding.tokens.weight
    embeddings.position_embeddings.weight                     -> stack.embedding.positions.weight
    embeddings.LayerNorm.{p}                                  -> stack.embedding.norm.{p}
    encoder.layer.{i}.attention.self.query.{p}                -> stack.layers.{i}.self_attention.query.{p}
    encoder.layer.{i}.attention.self.key.{p}                  -> stack.layers.{i}.self_attention.key.{p}
    encoder.layer.{i}.attention.self.value.{p}                -> stack.layers.{i}.self_attention.value.{p}
    encoder.layer.{i}.attention.self.distance_embedding.{p}   -> stack.layers.{i}.self_attention.distances.{p}
    encoder.layer.{i}.attention.output.dense.{p}              -> stack.layers.{i}.self_attention.output.{p}
    encoder.layer.{i}.attention.output.LayerNorm.{p}          -> stack.layers.{i}.self_attention_norm.{p}
    encoder.layer.{i}.crossattention.self.query.{p}           -> stack.layers.{i}.cross_attention.query.{p}
    encoder.layer.{i}.crossattention.self.key.{p}             -> stack.layers.{i}.cross_attention.key.{p}
    encoder.layer.{i}.crossattention.self.value.{p}           -> stack.layers.{i}.cross_attention.value.{p}
    encoder.layer.{i}.crossattention.output.dense.{p}         -> stack.layers.{i}.cross_attention.output.{p}
    encoder.layer.{i}.crossattention.output.LayerNorm.{p}     -> stack.layers.{i}.cross_attention_norm.{p}
    encoder.layer.{i}.intermediate.dense.{p}                  -> stack.layers.{i}.feed_forward.up.{p}
    encoder.layer.{i}.output.dense.{p}                        -> stack.layers.{i}.feed_forward.down.{p}
    encoder.layer.{i}.output.LayerNorm.{p}                    -> stack.layers.{i}.feed_forward_norm.{p}
""") + Rules(
    Drop("embeddings.token_type_embeddings.weight", "BERT's token types; BertGeneration has none"),
    Drop("embeddings.position_ids", "a buffer of early checkpoints that counts 0, 1, 2 …"),
    Drop("pooler.dense.{p}", "BERT's summary of a text, which nothing here reads"),
)
OF_BERT = Rules(
    Drop("cls.predictions.bias", "BERT's head for masked tokens, which saw both sides"),
    Drop("cls.predictions.decoder.{p}", "BERT's head for masked tokens"),
    Drop("cls.predictions.transform.dense.{p}", "BERT's head for masked tokens"),
    Drop("cls.predictions.transform.LayerNorm.{p}", "BERT's head for masked tokens"),
    Drop("cls.seq_relationship.{p}", "BERT's head for pairs of sentences"),
    Respell("LayerNorm.gamma", "LayerNorm.weight"),
    Respell("LayerNorm.beta", "LayerNorm.bias"),
)
HEAD = renames("""
    lm_head.decoder.weight -> lm_head.weight
    lm_head.bias           -> lm_head.bias
""") + Rules(Alias("lm_head.decoder.bias", "lm_head.bias"))
HEAD_UNTIED_BY_5 = renames("lm_head.decoder.{p} -> lm_head.{p}") + Rules(
    Drop("lm_head.bias", "a second bias that transformers 5.x stores with an untied head, and does not use")
)
PREFIX = "bert."


class BertGenerationEncoder(Model):
    """BertGeneration without a head: an encoder, or with `is_decoder` a decoder's body."""

    config_class = BertGenerationConfig

    def __init__(self, config: BertGenerationConfig) -> None:
        super().__init__(config)
        if config.add_cross_attention and not config.is_decoder:
            raise ConfigError(
                "add_cross_attention is true and is_decoder false; only a decoder reads a memory, so "
                "is_decoder must be true as well"
            )
        self.stack = stack(config)
        self._initialise_own_parts()

    @classmethod
    def key_map(cls, config: BertGenerationConfig) -> KeyMap:
        return KeyMap(BODY + OF_BERT, base_prefix=PREFIX)

    def initial_std(self, name: str) -> float:
        return float(self.config.initializer_range)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.stack.embedding.tokens

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: DecodingState | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        token_type_ids: Tensor | None = None,
    ) -> Any:
        """input_ids int64 [B, L] or inputs_embeds [B, L, D] → BaseModelOutputWithPastAndCrossAttentions.

        attention_mask [B, past + L], 1 = real, covers what `past_key_values` holds as well. position_ids
        int64 [B or 1, L] replace past … past + L - 1 in the position table. head_mask [H] or [N, H] scales
        what each head brings back, in both attentions: 0 takes it out. encoder_hidden_states [B, S, D] is the
        memory and encoder_attention_mask [B, S] says which of it is real; without `is_decoder` both are
        passed over, and there is no cache. token_type_ids, which BERT's tokenizer makes, mean nothing here.
        """
        one_input(input_ids, inputs_embeds, "input_ids", "inputs_embeds")
        state = check_state(past_key_values)
        if state is not None and not self.config.is_decoder:
            raise ValueError("past_key_values is given; only a model with is_decoder can go on from it")
        if state is None and self.config.is_decoder and either(use_cache, self.config.use_cache):
            state = DecodingState(len(self.stack.layers))
        out = self.stack.run(
            input_ids,
            inputs_embeds,
            attention_mask=attention_mask,
            positions=position_ids,
            head_mask=self._head_mask(head_mask),
            memory=self.memory(encoder_hidden_states),
            memory_attention_mask=encoder_attention_mask,
            state=state,
            need_weights=either(output_attentions, self.config.output_attentions),
            need_hidden=either(output_hidden_states, self.config.output_hidden_states),
        )
        output = BaseModelOutputWithPastAndCrossAttentions(
            out.last, state, out.hidden, out.self_weights, out.cross_weights
        )
        return as_returned(output, either(return_dict, self.config.return_dict))

    def memory(self, encoder_hidden_states: Tensor | None) -> Tensor | None:
        """What cross-attention reads of it; ValueError where a decoder has none to read it with."""
        if encoder_hidden_states is None or not self.config.is_decoder:
            return None
        if not self.config.add_cross_attention:
            raise ValueError(
                "encoder_hidden_states is given, but the model has no cross-attention; build or load it with "
                "add_cross_attention=True"
            )
        return encoder_hidden_states

    def _head_mask(self, given: Tensor | None) -> Tensor | None:
        """A factor for each head, [H] for all layers or [N, H] → [N, H]."""
        layers, heads = self.config.num_hidden_layers, self.config.num_attention_heads
        if given is None:
            return None
        if given.shape not in ((heads,), (layers, heads)):
            raise ValueError(
                f"head_mask has shape {list(given.shape)}; it must be [{heads}] or [{layers}, {heads}] "
                "(layers, heads)"
            )
        return given.expand(layers, heads)


class BertGenerationDecoder(CausalLM):
    """BertGeneration that writes: scores of the next token, logits = x Eᵀ + b.

    `is_decoder` must be set for it to read from left to right; without it, it sees both sides, and warns.
    """

    config_class = BertGenerationConfig
    generation_inputs: ClassVar[frozenset[str]] = frozenset(
        {
            "input_ids",
            "attention_mask",
            "position_ids",
            "inputs_embeds",
            "encoder_hidden_states",
            "encoder_attention_mask",
        }
    )

    def __init__(self, config: BertGenerationConfig) -> None:
        super().__init__(config)
        if not config.is_decoder:
            warnings.warn(
                "BertGenerationDecoder has is_decoder=False: it will look at both sides of a token. Set "
                "is_decoder=True for a language model",
                stacklevel=2,
            )
        self.model = BertGenerationEncoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        self._initialise_own_parts()
        self.tie_weights()

    @classmethod
    def key_map(cls, config: BertGenerationConfig) -> KeyMap:
        head = HEAD_UNTIED_BY_5 if config.saved_by_5 and not config.tie_word_embeddings else HEAD
        return KeyMap(BODY.under(theirs=PREFIX, ours="model.") + head + OF_BERT, base_prefix=PREFIX)

    def initial_std(self, name: str) -> float:
        return float(self.config.initializer_range)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        past_key_values: DecodingState | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        token_type_ids: Tensor | None = None,
    ) -> Any:
        """As the model without a head, with logits [B, L, V] → CausalLMOutputWithCrossAttentions.

        labels int64 [B, L], usually input_ids themselves: the scores at each position are compared with the
        label at the next, so labels are not to be shifted; -100 does not count.
        """
        body: BaseModelOutputWithPastAndCrossAttentions = self.model(
            input_ids,
            attention_mask,
            position_ids,
            head_mask,
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
    def reads_memory(self) -> bool:
        """Whether the model was built with cross-attention."""
        return any(layer.cross_attention is not None for layer in self.model.stack.layers)

    def prompt_and_memory(self, inputs: Mapping[str, Any]) -> dict[str, Tensor | None]:
        memory = self.model.memory(inputs.get("encoder_hidden_states"))
        return {**super().prompt_and_memory(inputs), "memory": memory}
