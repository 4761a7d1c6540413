"""mT5: a massively multilingual T5 (Xue et al. 2020, arXiv:2010.11934), on the build of T5 1.1 (Raffel et al.
2020, arXiv:1910.10683; Shazeer 2020, arXiv:2002.05202).

    tokens → N × [self-attention, cross-attention in the decoder, gated feed-forward] → norm → head
                   ↑ relative position bias, one table a stack, none in the cross-attention
    pre-norm with RMSNorm, no biases, no scaling of the scores, a head of its own (untied) in the released
    checkpoints

Heads need not divide the width: mt5-small has 6 heads of 64 in a width of 512. In float16 the residual stream
and the last matrix of each feed-forward block stay in float32, because the activations of the larger models
outgrow float16's range.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..checkpoint import Alias, Drop, KeyMap, Rules, Weights, renames
from ..config import Config, Place, counts, in_vocabulary, not_negative, probability, products, sizes
from ..errors import ConfigError
from ..layers.activations import ACTIVATIONS
from ..layers.alike import alike
from ..layers.attention import Attention
from ..layers.embedding import InputEmbedding
from ..layers.feed_forward import FeedForward, GatedFeedForward
from ..layers.heads import ClassificationHead, token_loss
from ..layers.norms import RMSNorm
from ..layers.positions import RelativePositionBias
from ..layers.transformer import TransformerLayer
from ..outputs import BaseModelOutput, TokenClassifierOutput
from .arguments import as_returned, either
from .base import Model
from .seq2seq import Decoder, Encoder, EncoderModel, Seq2SeqModel
from .seq2seq_heads import Seq2SeqClassifier, Seq2SeqHead, Seq2SeqLM, Seq2SeqSpanFinder


class MT5Config(Config):
    """Configuration of the mT5 classes; the defaults are google/mt5-small's."""

    model_type = "mt5"
    aliases: ClassVar[Mapping[str, str]] = {
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
        "head_dim": "d_kv",
        "layer_norm_eps": "layer_norm_epsilon",
    }
    derived: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "feed_forward_proj": ("dense_act_fn", "is_gated_act"),
    }

    vocab_size: int = 250112
    """Number of tokens."""
    d_model: int = 512
    """Width of the hidden vectors."""
    d_kv: int = 64
    """Size of a head."""
    d_ff: int = 1024
    """Width inside the feed-forward blocks."""
    num_layers: int = 8
    """Layers of the encoder."""
    num_decoder_layers: int | None = None
    """Layers of the decoder; as many as the encoder's if not given."""
    num_heads: int = 6
    """Heads of each attention."""
    relative_attention_num_buckets: int = 32
    """Buckets of distance, of both directions together."""
    relative_attention_max_distance: int = 128
    """Distance beyond which all share a bucket."""
    dropout_rate: float = 0.1
    """Dropout everywhere."""
    classifier_dropout: float = 0.0
    """Dropout of the classification heads."""
    layer_norm_epsilon: float = 1e-6
    """Added to the mean square in the norms."""
    initializer_factor: float = 1.0
    """Factor on the standard deviation of fresh weights."""
    feed_forward_proj: str = "gated-gelu"
    """Activation of the feed-forward blocks, after "gated-" if they are gated; "gated-gelu" means the tanh
    approximation."""
    dense_act_fn: str | None = None
    """The activation alone; from feed_forward_proj if not given."""
    is_gated_act: bool | None = None
    """Whether the blocks are gated; from feed_forward_proj if not given."""
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool = False
    pad_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 1
    decoder_start_token_id: int | None = 0

    def derive(self) -> None:
        if self.num_decoder_layers is None:
            self.num_decoder_layers = self.num_layers
        if isinstance(self.feed_forward_proj, str):
            kind, _, name = self.feed_forward_proj.rpartition("-")
            if kind not in ("", "gated"):
                raise ConfigError(
                    f"feed_forward_proj is {self.feed_forward_proj!r}; "
                    "it must be an activation, or 'gated-' and one"
                )
            if self.dense_act_fn is None:
                self.dense_act_fn = "gelu_new" if self.feed_forward_proj == "gated-gelu" else name
            if self.is_gated_act is None:
                self.is_gated_act = kind == "gated"

    def check(self) -> None:
        super().check()
        sizes(self, "vocab_size", "d_model", "d_kv", "d_ff", "num_heads")
        products(self, "num_heads", "d_kv")
        counts(self, "num_layers", "num_decoder_layers")
        not_negative(self, "layer_norm_epsilon", "initializer_factor")
        probability(self, "dropout_rate", "classifier_dropout")
        in_vocabulary(self, "pad_token_id")
        if self.dense_act_fn not in ACTIVATIONS:
            raise ConfigError(
                f"feed_forward_proj is {self.feed_forward_proj!r} with the activation {self.dense_act_fn!r}; "
                f"the activation must be one of {', '.join(ACTIVATIONS)}"
            )
        sizes(self, "relative_attention_num_buckets")
        if self.relative_attention_num_buckets < 4:
            raise ConfigError(
                f"relative_attention_num_buckets is {self.relative_attention_num_buckets}; "
                "it must be at least 4"
            )
        exact = self.relative_attention_num_buckets // 2  # of the decoder, which has the most
        if self.relative_attention_max_distance <= exact:
            raise ConfigError(
                f"relative_attention_max_distance is {self.relative_attention_max_distance}; it must be "
                f"above {exact}, half of relative_attention_num_buckets: nearer ones have their own bucket"
            )


# ---- the parts list ----


def attention(config: MT5Config) -> Attention:
    return Attention(
        config.d_model,
        config.num_heads,
        config.d_kv,
        scale=1.0,
        bias=False,
        dropout=config.dropout_rate,
    )


def feed_forward(config: MT5Config) -> FeedForward | GatedFeedForward:
    block = GatedFeedForward if config.is_gated_act else FeedForward
    activation = ACTIVATIONS[str(config.dense_act_fn)]
    return block(config.d_model, config.d_ff, activation, bias=False, dropout=config.dropout_rate)


def norm(config: MT5Config) -> RMSNorm:
    return RMSNorm(config.d_model, eps=config.layer_norm_epsilon)


def layer(config: MT5Config, *, crosses: bool) -> TransformerLayer:
    return TransformerLayer(
        self_attention=attention(config),
        cross_attention=attention(config) if crosses else None,
        feed_forward=feed_forward(config),
        norm=lambda: norm(config),
        norm_first=True,
        dropout=config.dropout_rate,
    )


def position_bias(config: MT5Config, *, bidirectional: bool) -> RelativePositionBias:
    return RelativePositionBias(
        config.num_heads,
        buckets=config.relative_attention_num_buckets,
        max_distance=config.relative_attention_max_distance,
        bidirectional=bidirectional,
    )


def encoder(config: MT5Config, tokens: nn.Embedding) -> Encoder:
    return Encoder(
        InputEmbedding(tokens, dropout=config.dropout_rate),
        alike(lambda: layer(config, crosses=False), config.num_layers),
        causal=False,
        position_bias=position_bias(config, bidirectional=True) if config.num_layers else None,
        final_norm=norm(config),
        dropout=config.dropout_rate,
        wide_residual=True,
    )


def decoder(config: MT5Config, tokens: nn.Embedding) -> Decoder:
    layers = config.num_decoder_layers or 0
    return Decoder(
        InputEmbedding(tokens, dropout=config.dropout_rate),
        alike(lambda: layer(config, crosses=True), layers),
        causal=True,
        position_bias=position_bias(config, bidirectional=False) if layers else None,
        final_norm=norm(config),
        dropout=config.dropout_rate,
        wide_residual=True,
    )


# ---- theirs → ours ----

GATED = renames("""
    wi_0.weight -> gate.weight
    wi_1.weight -> up.weight
    wo.weight   -> down.weight
""")
NOT_GATED = renames("""
    wi.weight -> up.weight
    wo.weight -> down.weight
""")

ENCODER = renames("""
    shared.weight                                       -> token_embedding.weight
    encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight -> encoder.position_bias.weight
    encoder.block.{i}.layer.0.SelfAttention.q.weight    -> encoder.layers.{i}.self_attention.query.weight
    encoder.block.{i}.layer.0.SelfAttention.k.weight    -> encoder.layers.{i}.self_attention.key.weight
    encoder.block.{i}.layer.0.SelfAttention.v.weight    -> encoder.layers.{i}.self_attention.value.weight
    encoder.block.{i}.layer.0.SelfAttention.o.weight    -> encoder.layers.{i}.self_attention.output.weight
    encoder.block.{i}.layer.0.layer_norm.weight         -> encoder.layers.{i}.self_attention_norm.weight
    encoder.block.{i}.layer.1.layer_norm.weight         -> encoder.layers.{i}.feed_forward_norm.weight
    encoder.final_layer_norm.weight                     -> encoder.final_norm.weight
""") + Rules(Alias("encoder.embed_tokens.weight", "shared.weight"))

DECODER = renames("""
    decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight -> decoder.position_bias.weight
    decoder.block.{i}.layer.0.SelfAttention.q.weight    -> decoder.layers.{i}.self_attention.query.weight
    decoder.block.{i}.layer.0.SelfAttention.k.weight    -> decoder.layers.{i}.self_attention.key.weight
    decoder.block.{i}.layer.0.SelfAttention.v.weight    -> decoder.layers.{i}.self_attention.value.weight
    decoder.block.{i}.layer.0.SelfAttention.o.weight    -> decoder.layers.{i}.self_attention.output.weight
    decoder.block.{i}.layer.0.layer_norm.weight         -> decoder.layers.{i}.self_attention_norm.weight
    decoder.block.{i}.layer.1.EncDecAttention.q.weight  -> decoder.layers.{i}.cross_attention.query.weight
    decoder.block.{i}.layer.1.EncDecAttention.k.weight  -> decoder.layers.{i}.cross_attention.key.weight
    decoder.block.{i}.layer.1.EncDecAttention.v.weight  -> decoder.layers.{i}.cross_attention.value.weight
    decoder.block.{i}.layer.1.EncDecAttention.o.weight  -> decoder.layers.{i}.cross_attention.output.weight
    decoder.block.{i}.layer.1.layer_norm.weight         -> decoder.layers.{i}.cross_attention_norm.weight
    decoder.block.{i}.layer.2.layer_norm.weight         -> decoder.layers.{i}.feed_forward_norm.weight
    decoder.final_layer_norm.weight                     -> decoder.final_norm.weight
""") + Rules(
    Alias("decoder.embed_tokens.weight", "shared.weight"),
    Drop(
        "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
        "early checkpoints store a bias that cross-attention never had a use for",
    ),
)

TOKEN_VECTORS = {"shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
PREFIX = "transformer."


def encoder_rules(config: MT5Config) -> Rules:
    """The keys of the token vectors and the encoder."""
    fed = GATED if config.is_gated_act else NOT_GATED
    return ENCODER + fed.under(
        theirs="encoder.block.{i}.layer.1.DenseReluDense.", ours="encoder.layers.{i}.feed_forward."
    )


def body_rules(config: MT5Config) -> Rules:
    """The keys of the token vectors and both stacks."""
    fed = GATED if config.is_gated_act else NOT_GATED
    decoder_fed = fed.under(
        theirs="decoder.block.{i}.layer.2.DenseReluDense.", ours="decoder.layers.{i}.feed_forward."
    )
    return encoder_rules(config) + DECODER + decoder_fed


def published_std(config: MT5Config, name: str) -> float:
    """Standard deviations of Mesh TensorFlow's T5, which let attention do without scaling its scores."""
    inner, width = config.num_heads * config.d_kv, config.d_model
    deviations = {
        "token_embedding": 1.0,
        "tokens": 1.0,
        "lm_head": 1.0,
        "token_head": 1.0,
        "query": (width * config.d_kv) ** -0.5,
        "output": inner**-0.5,
        "down": config.d_ff**-0.5,
    }
    if name.startswith("classification_head"):
        deviations = {}
    return float(config.initializer_factor * deviations.get(name.rpartition(".")[2], width**-0.5))


class MT5Model(Seq2SeqModel):
    """mT5 without a head: hidden vectors of the decoder."""

    config_class = MT5Config
    float32_parts = ("*.feed_forward.down.weight",)

    def __init__(self, config: MT5Config) -> None:
        self.check_config(config)
        tokens = nn.Embedding(config.vocab_size, config.d_model)
        super().__init__(config, tokens, encoder(config, tokens), decoder(config, tokens))

    @classmethod
    def key_map(cls, config: MT5Config) -> KeyMap:
        return KeyMap(body_rules(config), base_prefix=PREFIX)

    def initial_std(self, name: str) -> float:
        return published_std(self.config, name)


class _MT5Head(Seq2SeqHead):
    """What the heads on an MT5Model share."""

    config_class = MT5Config
    float32_parts = MT5Model.float32_parts
    model: MT5Model

    def initial_std(self, name: str) -> float:
        return published_std(self.config, name)


class MT5ForConditionalGeneration(_MT5Head, Seq2SeqLM):
    """mT5 that writes: scores of the next token.

    logits = W x with a head of its own; with tied vectors, E x / √D (Mesh TensorFlow's scaling).

    transformers 5.x writes tie_word_embeddings=true into every config, tied or not, and does not scale; its
    checkpoints are read as they are meant: tied where no head is stored, and not scaled.
    """

    def __init__(self, config: MT5Config) -> None:
        super().__init__(config)
        self.model = MT5Model(config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self._initialise_own_parts()
        self.tie_weights()

    @classmethod
    def key_map(cls, config: MT5Config) -> KeyMap:
        head = renames("lm_head.weight -> lm_head.weight")
        return KeyMap(body_rules(config).under(ours="model.") + head, base_prefix=PREFIX)

    @classmethod
    def settle_config(cls, config: MT5Config, weights: Weights) -> None:
        if config.saved_by_5 and "lm_head.weight" in weights and not TOKEN_VECTORS.isdisjoint(weights):
            config.tie_word_embeddings = False

    @property
    def _tied_unscaled(self) -> bool:
        return bool(self.config.tie_word_embeddings and self.config.saved_by_5)

    def _save(self, directory: Place, max_shard_size: int | str) -> None:
        """As every model's; a tied head that is not scaled, as transformers 5.x has it, is written as what it
        computes in any version: a head of its own, equal to the token vectors."""
        if not self._tied_unscaled:
            super()._save(directory, max_shard_size)
            return
        config = copy.deepcopy(self.config)
        config.tie_word_embeddings = False
        with torch.device("meta"):
            untied = type(self)(config)
        untied.load_state_dict(self.state_dict(), assign=True)
        untied.lm_head.weight = nn.Parameter(self.lm_head.weight.detach().clone())
        untied.generation_config = self.generation_config
        untied._save(directory, max_shard_size)

    def scores(self, x: Tensor) -> Tensor:
        if self.config.tie_word_embeddings and not self._tied_unscaled:
            x = x * self.config.d_model**-0.5
        return self.lm_head(x)  # type: ignore[no-any-return]


class MT5ForSequenceClassification(_MT5Head, Seq2SeqClassifier):
    """mT5 that labels a text."""

    def __init__(self, config: MT5Config) -> None:
        super().__init__(config)
        self.model = MT5Model(config)
        self.classification_head = ClassificationHead(
            config.d_model, config.num_labels, dropout=config.classifier_dropout
        )
        self._initialise_own_parts()

    @classmethod
    def key_map(cls, config: MT5Config) -> KeyMap:
        head = renames("""
            classification_head.dense.{p}    -> classification_head.hidden.{p}
            classification_head.out_proj.{p} -> classification_head.output.{p}
        """)
        body = body_rules(config).under(theirs=PREFIX, ours="model.")
        return KeyMap(body + head, base_prefix=PREFIX)


class MT5ForQuestionAnswering(_MT5Head, Seq2SeqSpanFinder):
    """mT5 that finds an answer in a text."""

    def __init__(self, config: MT5Config) -> None:
        self.check_config(config)
        config = copy.deepcopy(config)
        config.num_labels = 2  # a span has two ends
        super().__init__(config)
        self.model = MT5Model(config)
        self.span_head = nn.Linear(config.d_model, 2)
        self._initialise_own_parts()

    @classmethod
    def key_map(cls, config: MT5Config) -> KeyMap:
        head = renames("qa_outputs.{p} -> span_head.{p}")
        return KeyMap(body_rules(config).under(ours="model.") + head, base_prefix=PREFIX)


class MT5EncoderModel(EncoderModel):
    """mT5's encoder alone."""

    config_class = MT5Config
    float32_parts = MT5Model.float32_parts

    def __init__(self, config: MT5Config) -> None:
        self.check_config(config)
        tokens = nn.Embedding(config.vocab_size, config.d_model)
        super().__init__(config, tokens, encoder(config, tokens))

    @classmethod
    def key_map(cls, config: MT5Config) -> KeyMap:
        return KeyMap(encoder_rules(config), base_prefix=PREFIX)

    def initial_std(self, name: str) -> float:
        return published_std(self.config, name)


class MT5ForTokenClassification(Model):
    """mT5's encoder, labelling every token."""

    config_class = MT5Config
    float32_parts = MT5Model.float32_parts

    def __init__(self, config: MT5Config) -> None:
        super().__init__(config)
        self.model = MT5EncoderModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.token_head = nn.Linear(config.d_model, config.num_labels)
        self._initialise_own_parts()

    @classmethod
    def key_map(cls, config: MT5Config) -> KeyMap:
        body = encoder_rules(config).under(theirs=PREFIX, ours="model.")
        return KeyMap(body + renames("classifier.{p} -> token_head.{p}"), base_prefix=PREFIX)

    def initial_std(self, name: str) -> float:
        return published_std(self.config, name)

    def get_encoder(self) -> Encoder:
        """The encoder, callable on its own."""
        return self.model.encoder

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model.token_embedding

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """input_ids [B, S] → TokenClassifierOutput with logits [B, S, labels]; labels [B, S], -100 does not
        count."""
        body: BaseModelOutput = self.model(
            input_ids, attention_mask, inputs_embeds, output_attentions, output_hidden_states, True
        )
        logits = self.token_head(self.dropout(body.last_hidden_state))
        loss = None if labels is None else token_loss(logits, labels)
        output = TokenClassifierOutput(loss, logits, body.hidden_states, body.attentions)
        return as_returned(output, either(return_dict, self.config.return_dict))
