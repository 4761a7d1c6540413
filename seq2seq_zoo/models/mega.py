"""MEGA: moving average equipped gated attention (Ma et al. 2022, arXiv:2209.10655).

    tokens (+ token types) → N × [moving average and gated attention, cross-attention in decoders,
                                  feed-forward] → head
                                             ↑ simple or rotary bias, one number a distance
    one attention head; norms of five kinds, before the blocks or after

One stack, two roles: it sees both sides, or with `is_decoder` (and `bidirectional` false) it reads from
left to right. With `use_chunking`, attention stays within chunks of `chunk_size`, and only the moving
average carries anything over their borders; texts of any length will do, what does not fill a chunk is
padded inside. The classes with a head are in `mega_heads`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint import KeyMap, Rules, Split, renames
from ..config import (
    Config,
    counts,
    in_vocabulary,
    known_activation,
    not_negative,
    positive,
    probability,
    sizes,
)
from ..errors import ConfigError
from ..layers.activations import ACTIVATIONS
from ..layers.alike import alike
from ..layers.ema import DampedEma
from ..layers.embedding import InputEmbedding
from ..layers.feed_forward import FeedForward
from ..layers.gated_attention import (
    ATTENTION_ACTIVATIONS,
    FeatureDropout,
    GatedAttention,
    GatedCrossAttention,
)
from ..layers.gated_layer import GatedLayer, GatedStack
from ..layers.norms import BatchNorm, LayerNorm, RMSNorm, ScaleNorm, SyncBatchNorm
from ..layers.positions import RotaryBias, SimpleBias
from ..layers.state import DecodingState
from ..outputs import BaseModelOutputWithPoolingAndCrossAttentions
from .arguments import as_returned, check_state, either, one_input
from .base import Model

NORMS = ("scalenorm", "layernorm", "rmsnorm", "batchnorm", "syncbatchnorm")
BIASES = ("rotary", "simple")
NORM_EPS = 1e-5


class MegaConfig(Config):
    """Configuration of the MEGA classes; the defaults are a small model of mnaylor/mega-base-wikitext's
    build."""

    model_type = "mega"

    vocab_size: int = 30522
    """Number of tokens."""
    hidden_size: int = 128
    """Width of the hidden vectors."""
    num_hidden_layers: int = 4
    """Layers of the stack."""
    intermediate_size: int = 256
    """Size of the values of self-attention."""
    ema_projection_size: int = 16
    """Averages kept of each hidden number."""
    bidirectional: bool = True
    """Whether the moving average runs in both directions; a decoder's runs in one."""
    shared_representation_size: int = 64
    """Size of queries and keys."""
    use_chunking: bool = False
    """Whether attention stays within chunks."""
    chunk_size: int = -1
    """Positions in a chunk; -1: none were chosen."""
    truncation: int | None = None
    """How many positions the moving average reaches; None: all."""
    normalize_before_mega: bool = True
    """Whether the attentions' norms come before them or after."""
    normalization_type: str = "scalenorm"
    """scalenorm, layernorm, rmsnorm, batchnorm or syncbatchnorm."""
    norm_affine: bool = True
    """Whether the norms have weights."""
    activation: str = "silu"
    """Activation of values, candidates and the feed-forward block."""
    attention_activation: str = "softmax"
    """How scores become weights: softmax, laplace or relu2."""
    dropout_prob: float = 0.1
    """Dropout of moving averages and blocks."""
    hidden_dropout_prob: float = 0.1
    """Dropout of values, and of heads that have none of their own."""
    attention_probs_dropout_prob: float = 0.1
    """Dropout of attention weights."""
    use_feature_dropout: bool = False
    """Whether the first two, and that of the feed-forward block, drop a number at all positions of a row."""
    use_normalized_ffn: bool = True
    """Whether layers have a feed-forward block."""
    nffn_hidden_size: int = 256
    """Width inside the feed-forward block."""
    normalize_before_ffn: bool = True
    """Whether the feed-forward block's norm comes before it or after."""
    nffn_activation_dropout_prob: float = 0.1
    """Dropout inside the feed-forward block."""
    max_positions: int = 2048
    """Longest reach of attention that a simple bias has learnt; rotary ones have no limit."""
    add_token_type_embeddings: bool = False
    """Whether token types are added to the token vectors."""
    type_vocab_size: int = 2
    """Number of token types."""
    initializer_range: float = 0.02
    """Standard deviation of fresh weights."""
    ema_delta_alpha_range: float = 0.2
    """Standard deviation of fresh rates of the moving averages."""
    ema_beta_range: float = 0.02
    """Standard deviation of the fresh weights into the moving averages, around 1 and -1."""
    ema_gamma_omega_range: float = 1.0
    """Standard deviation of the fresh weights out of the moving averages and past them."""
    relative_positional_bias: str = "rotary"
    """What attention knows of distances: rotary or simple."""
    classifier_dropout: float | None = None
    """Dropout of the classification heads; None: hidden_dropout_prob."""
    add_lm_hidden_dense_layer: bool = True
    """Whether the heads that score tokens have a hidden layer."""
    num_attention_heads: int = 1
    """Always 1, whatever a config says."""
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2

    def check(self) -> None:
        super().check()
        sizes(self, "vocab_size", "hidden_size", "intermediate_size", "ema_projection_size")
        sizes(self, "shared_representation_size", "nffn_hidden_size", "max_positions", "type_vocab_size")
        counts(self, "num_hidden_layers")
        not_negative(self, "initializer_range", "ema_delta_alpha_range")
        not_negative(self, "ema_beta_range", "ema_gamma_omega_range")
        probability(self, "dropout_prob", "hidden_dropout_prob", "attention_probs_dropout_prob")
        probability(self, "nffn_activation_dropout_prob")
        if self.classifier_dropout is not None:
            probability(self, "classifier_dropout")
        if self.truncation is not None:
            positive(self, "truncation")
        known_activation(self, "activation")
        in_vocabulary(self, "pad_token_id")
        for name, known in (
            ("normalization_type", NORMS),
            ("attention_activation", tuple(ATTENTION_ACTIVATIONS)),
            ("relative_positional_bias", BIASES),
        ):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(known)}")
        if self.chunk_size != -1 or self.use_chunking:
            positive(self, "chunk_size")
        if self.relative_positional_bias == "rotary" and self.shared_representation_size % 2:
            raise ConfigError(
                f"shared_representation_size is {self.shared_representation_size}; it must be even with a "
                "rotary bias"
            )
        if self.relative_positional_bias == "simple" and self.chunk_size > self.max_positions:
            raise ConfigError(
                f"chunk_size is {self.chunk_size}; with a simple bias it must be at most max_positions, "
                f"{self.max_positions}"
            )


# ---- the parts list ----


def norm(config: MegaConfig) -> nn.Module:
    width, affine = config.hidden_size, config.norm_affine
    match config.normalization_type:
        case "layernorm":
            return LayerNorm(width, eps=NORM_EPS, elementwise_affine=affine)
        case "rmsnorm":
            return RMSNorm(width, eps=NORM_EPS, affine=affine)
        case "batchnorm":
            return BatchNorm(width, eps=NORM_EPS, affine=affine)
        case "syncbatchnorm":
            return SyncBatchNorm(width, eps=NORM_EPS, affine=affine)
    return ScaleNorm(eps=NORM_EPS, affine=affine)


def dropout(config: MegaConfig, probability: float) -> nn.Module:
    return FeatureDropout(probability) if config.use_feature_dropout else nn.Dropout(probability)


def bias(config: MegaConfig) -> SimpleBias | RotaryBias:
    if config.relative_positional_bias == "rotary":
        return RotaryBias(config.shared_representation_size)
    return SimpleBias(config.max_positions, None if config.chunk_size < 0 else config.chunk_size)


def self_attention(config: MegaConfig) -> GatedAttention:
    return GatedAttention(
        config.hidden_size,
        config.shared_representation_size,
        config.intermediate_size,
        moving_average=DampedEma(
            config.hidden_size,
            config.ema_projection_size,
            bidirectional=config.bidirectional,
            truncation=config.truncation,
        ),
        bias=bias(config),
        activation=ACTIVATIONS[config.activation],
        attention_activation=ATTENTION_ACTIVATIONS[config.attention_activation],
        dropout=dropout(config, config.dropout_prob),
        value_dropout=dropout(config, config.hidden_dropout_prob),
        weights_dropout=config.attention_probs_dropout_prob,
    )


def cross_attention(config: MegaConfig) -> GatedCrossAttention:
    return GatedCrossAttention(
        config.hidden_size,
        config.shared_representation_size,
        bias=bias(config),
        activation=ACTIVATIONS[config.activation],
        attention_activation=ATTENTION_ACTIVATIONS[config.attention_activation],
        dropout=dropout(config, config.dropout_prob),
        value_dropout=dropout(config, config.hidden_dropout_prob),
        weights_dropout=config.attention_probs_dropout_prob,
    )


def feed_forward(config: MegaConfig) -> FeedForward:
    return FeedForward(
        config.hidden_size,
        config.nffn_hidden_size,
        ACTIVATIONS[config.activation],
        dropout=dropout(config, config.nffn_activation_dropout_prob),
    )


def layer(config: MegaConfig) -> GatedLayer:
    return GatedLayer(
        self_attention=self_attention(config),
        cross_attention=cross_attention(config) if config.add_cross_attention else None,
        feed_forward=feed_forward(config) if config.use_normalized_ffn else None,
        norm=lambda: norm(config),
        norm_first=config.normalize_before_mega,
        feed_forward_norm_first=config.normalize_before_ffn,
        dropout=dropout(config, config.dropout_prob),
    )


def input_embedding(config: MegaConfig) -> InputEmbedding:
    types = None
    if config.add_token_type_embeddings:
        types = nn.Embedding(config.type_vocab_size, config.hidden_size)
    tokens = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
    return InputEmbedding(tokens, token_types=types)


def stack(config: MegaConfig) -> GatedStack:
    return GatedStack(
        input_embedding(config),
        alike(lambda: layer(config), config.num_hidden_layers),
        causal=config.is_decoder,
        chunk=config.chunk_size if config.use_chunking else None,
    )


# ---- theirs → ours ----


def _bias_rules(theirs: str, ours: str) -> Rules:
    return renames(f"""
        {theirs}.rel_pos_bias.rel_pos_bias   -> {ours}.distance_bias.weight
        {theirs}.rel_pos_bias.alpha          -> {ours}.distance_bias.alpha
        {theirs}.rel_pos_bias.b_param        -> {ours}.distance_bias.beta
        {theirs}.rel_pos_bias._float_tensor  -> {ours}.distance_bias.dtype_mark
    """)


LAYER = (
    renames("""
    mega_layer.norm.norm.{p}                      -> self_attention_norm.{p}
    mega_layer.ema_gate.damping_factor            -> self_attention.moving_average.alpha
    mega_layer.ema_gate.decay_factor              -> self_attention.moving_average.delta
    mega_layer.ema_gate.ema_expansion_matrix      -> self_attention.moving_average.beta
    mega_layer.ema_gate.kernel_projection_matrix  -> self_attention.moving_average.eta
    mega_layer.ema_gate.residual_weight           -> self_attention.moving_average.omega
    mega_layer.v_proj.{p}                         -> self_attention.value.{p}
    mega_layer.h_proj.{p}                         -> self_attention.output.{p}
    mega_layer.qk_weight                          -> self_attention.kappa
    mega_layer.qk_bias                            -> self_attention.mu

    cross_attn.norm.norm.{p}                      -> cross_attention_norm.{p}
    cross_attn.k_proj.{p}                         -> cross_attention.key.{p}
    cross_attn.v_proj.{p}                         -> cross_attention.value.{p}
    cross_attn.h_proj.{p}                         -> cross_attention.output.{p}

    nffn.norm.norm.{p}                            -> feed_forward_norm.{p}
    nffn.fc1.{p}                                  -> feed_forward.up.{p}
    nffn.fc2.{p}                                  -> feed_forward.down.{p}
""")
    + Rules(
        Split(
            "mega_layer.mx_proj.{p}",
            tuple(
                f"self_attention.{part}.{{p}}"
                for part in ("update_gate", "shared", "reset_gate", "candidate")
            ),
        ),
        Split(
            "cross_attn.q_proj.{p}",
            tuple(f"cross_attention.{part}.{{p}}" for part in ("update_gate", "reset_gate", "query")),
        ),
    )
    + _bias_rules("mega_layer", "self_attention")
    + _bias_rules("cross_attn", "cross_attention")
)
BODY = renames("""
    embedding_layer.word_embeddings.weight        -> stack.embedding.tokens.weight
    embedding_layer.token_type_embeddings.weight  -> stack.embedding.token_types.weight
    pooler.dense.{p}                              -> pooler.{p}
""") + LAYER.under(theirs="layers.{i}.", ours="stack.layers.{i}.")
PREFIX = "mega."
BODY_OF_A_HEAD = BODY.under(theirs=PREFIX, ours="model.")


class Mega(Model):
    """What all MEGA classes share: how their parts start."""

    config_class = MegaConfig

    def __init__(self, config: MegaConfig) -> None:
        super().__init__(config)
        if config.add_cross_attention and not config.is_decoder:
            raise ConfigError(
                "add_cross_attention is true and is_decoder false; only a decoder reads a memory, so "
                "is_decoder must be true as well"
            )

    def initial_std(self, name: str) -> float:
        return float(self.config.initializer_range)

    @torch.no_grad()
    def _initialise(self, name: str, module: nn.Module) -> None:
        std = self.initial_std(name)
        if isinstance(module, DampedEma):
            module.start_at_random(
                self.config.ema_delta_alpha_range,
                self.config.ema_beta_range,
                self.config.ema_gamma_omega_range,
            )
        elif isinstance(module, RotaryBias):
            module.alpha.normal_(0.0, std)
            module.beta.normal_(0.0, std)
            module.get_buffer("dtype_mark").zero_()
        elif isinstance(module, SimpleBias):
            module.weight.normal_(0.0, std)
        elif isinstance(module, GatedAttention):
            module.kappa.normal_(0.0, std)
            module.mu.zero_()
        elif isinstance(module, (BatchNorm, SyncBatchNorm)):
            module.reset_parameters()
        elif isinstance(module, (LayerNorm, RMSNorm, ScaleNorm)):
            for own, value in (("weight", 1.0), ("scalar", 1.0), ("bias", 0.0)):
                parameter = getattr(module, own, None)
                if parameter is not None:
                    parameter.fill_(value)
        else:
            super()._initialise(name, module)


class MegaModel(Mega):
    """MEGA without a head: an encoder, or with `is_decoder` a decoder's body."""

    def __init__(self, config: MegaConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.stack = stack(config)
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size) if add_pooling_layer else None
        self._initialise_own_parts()

    @classmethod
    def key_map(cls, config: MegaConfig) -> KeyMap:
        return KeyMap(BODY, base_prefix=PREFIX)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.stack.embedding.tokens

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: DecodingState | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """input_ids int64 [B, L] or inputs_embeds [B, L, D] → BaseModelOutputWithPoolingAndCrossAttentions.

        attention_mask [B, past + L], 1 = real, covers what `past_key_values` holds as well. token_type_ids
        int64 [B, L] mean nothing to a model without token types. encoder_hidden_states [B, S, D] is the
        memory of a model with add_cross_attention, encoder_attention_mask [B, S] says which of it is real.
        attentions are [B, m, l, s] by chunk, cross_attentions [B, L, S]. pooler_output is the tanh of a
        linear layer on the first position."""
        one_input(input_ids, inputs_embeds, "input_ids", "inputs_embeds")
        state = check_state(past_key_values)
        if state is not None and not self.config.is_decoder:
            raise ValueError("past_key_values is given; only a model with is_decoder can go on from it")
        if state is None and self.config.is_decoder and either(use_cache, self.config.use_cache):
            state = self.stack.new_state()
        out = self.stack.run(
            input_ids,
            inputs_embeds,
            types=token_type_ids,
            attention_mask=attention_mask,
            memory=encoder_hidden_states,
            memory_attention_mask=encoder_attention_mask,
            state=state,
            need_weights=either(output_attentions, self.config.output_attentions),
            need_hidden=either(output_hidden_states, self.config.output_hidden_states),
        )
        output = BaseModelOutputWithPoolingAndCrossAttentions(
            last_hidden_state=out.last,
            pooler_output=None if self.pooler is None else torch.tanh(self.pooler(out.last[:, 0])),
            hidden_states=out.hidden,
            past_key_values=state,
            attentions=out.self_weights,
            cross_attentions=out.cross_weights,
        )
        return as_returned(output, either(return_dict, self.config.return_dict))
