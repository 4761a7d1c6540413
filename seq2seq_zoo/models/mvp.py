"""MVP: multi-task supervised pre-training for generation (Tang et al. 2022, arXiv:2206.12131).

BART's build (Lewis et al. 2019, arXiv:1910.13461) and a prefix prompt for each of its three kinds of
attention:

    tokens · scale + learned positions → norm → N × [self-attention, cross-attention in the decoder,
    feed-forward] → head
                                                      ↑ prompt           ↑ prompt
    post-norm, biases everywhere, one table of token vectors for encoder, decoder and head

The prompts are a stack's own: `encoder.self_prompt`, `decoder.self_prompt`, `decoder.cross_prompt`.
`set_lightweight_tuning` trains them alone. A BART checkpoint loads as it is; asked for with
`use_prompt=True`, it gets fresh prompts.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..checkpoint import Alias, Drop, KeyMap, Rules, Weights, renames
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
from ..layers.activations import ACTIVATIONS
from ..layers.alike import alike
from ..layers.attention import Attention
from ..layers.embedding import InputEmbedding
from ..layers.feed_forward import FeedForward
from ..layers.heads import ClassificationHead, token_loss
from ..layers.norms import LayerNorm
from ..layers.positions import LearnedPositions
from ..layers.prefix import PrefixPrompt
from ..layers.state import DecodingState
from ..layers.transformer import TransformerLayer
from ..outputs import BaseModelOutputWithPastAndCrossAttentions
from .lm_heads import CausalLM, refuse_labels_of_few
from .seq2seq import Decoder, Encoder, EncoderModel, Seq2SeqModel
from .seq2seq_heads import Seq2SeqClassifier, Seq2SeqHead, Seq2SeqLM, Seq2SeqSpanFinder

UNUSED_POSITIONS = 2
"""Rows in front of the position table that no position uses, in every BART checkpoint."""


class MvpConfig(Config):
    """Configuration of the MVP classes; the defaults are RUCAIBox/mvp's."""

    model_type = "mvp"
    accepts: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "bart": {"vocab_size": 50265},
    }
    aliases: ClassVar[Mapping[str, str]] = {
        "hidden_size": "d_model",
        "num_attention_heads": "encoder_attention_heads",
        "num_hidden_layers": "encoder_layers",
    }

    vocab_size: int = 50267
    """Number of tokens."""
    max_position_embeddings: int = 1024
    """Longest sequence, in tokens, of either stack."""
    d_model: int = 1024
    """Width of the hidden vectors."""
    encoder_layers: int = 12
    """Layers of the encoder."""
    encoder_ffn_dim: int = 4096
    """Width inside the encoder's feed-forward blocks."""
    encoder_attention_heads: int = 16
    """Heads of each attention of the encoder; they divide d_model."""
    decoder_layers: int = 12
    """Layers of the decoder."""
    decoder_ffn_dim: int = 4096
    """Width inside the decoder's feed-forward blocks."""
    decoder_attention_heads: int = 16
    """Heads of each attention of the decoder; they divide d_model."""
    encoder_layerdrop: float = 0.0
    """Probability that training passes over a layer of the encoder."""
    decoder_layerdrop: float = 0.0
    """Probability that training passes over a layer of the decoder."""
    activation_function: str = "gelu"
    """Activation of the feed-forward blocks."""
    dropout: float = 0.1
    """Dropout of embeddings, blocks and prompts."""
    attention_dropout: float = 0.0
    """Dropout of attention weights."""
    activation_dropout: float = 0.0
    """Dropout inside the feed-forward blocks."""
    classifier_dropout: float = 0.0
    """Dropout of the classification head."""
    init_std: float = 0.02
    """Standard deviation of fresh weights."""
    scale_embedding: bool = False
    """Whether token vectors are multiplied by the square root of d_model."""
    use_prompt: bool = False
    """Whether the attentions have prefix prompts."""
    prompt_length: int = 100
    """Columns of a prompt."""
    prompt_mid_dim: int = 800
    """Width inside a prompt's perceptron."""
    is_encoder_decoder: bool = True
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2
    decoder_start_token_id: int | None = 2
    forced_eos_token_id: int | list[int] | None = 2

    def check(self) -> None:
        super().check()
        sizes(self, "vocab_size", "max_position_embeddings", "d_model", "encoder_ffn_dim", "decoder_ffn_dim")
        sizes(self, "encoder_attention_heads", "decoder_attention_heads", "prompt_length", "prompt_mid_dim")
        counts(self, "encoder_layers", "decoder_layers")
        not_negative(self, "init_std")
        probability(self, "dropout", "attention_dropout", "activation_dropout", "classifier_dropout")
        probability(self, "encoder_layerdrop", "decoder_layerdrop")
        divides(self, "encoder_attention_heads", "d_model")
        divides(self, "decoder_attention_heads", "d_model")
        known_activation(self, "activation_function")
        in_vocabulary(self, "pad_token_id")


# ---- the parts list ----


def token_embedding(config: MvpConfig) -> nn.Embedding:
    """The token vectors; the padding token's learns nothing from being read."""
    return nn.Embedding(config.vocab_size, config.d_model, padding_idx=config.pad_token_id)


def tokens_apart(config: MvpConfig) -> bool:
    """Whether each stack has a table of its own, as transformers 5.x has it in models that are not tied."""
    return config.saved_by_5 and not config.tie_word_embeddings


def share_where_shared(config: MvpConfig, weights: Weights) -> None:
    """A config that 5.x wrote beside weights of other origin, with one table for both stacks, means one."""
    own = [key for key in weights if key.endswith("coder.embed_tokens.weight")]
    if tokens_apart(config) and len(own) < 2:
        config.extra.pop("transformers_version")


def input_embedding(config: MvpConfig, tokens: nn.Embedding) -> InputEmbedding:
    return InputEmbedding(
        tokens,
        positions=LearnedPositions(config.max_position_embeddings, config.d_model, offset=UNUSED_POSITIONS),
        norm=LayerNorm(config.d_model),
        scale=math.sqrt(config.d_model) if config.scale_embedding else 1.0,
        dropout=config.dropout,
    )


def attention(config: MvpConfig, heads: int) -> Attention:
    return Attention(config.d_model, heads, config.d_model // heads, dropout=config.attention_dropout)


def layer(config: MvpConfig, heads: int, ffn_dim: int, *, crosses: bool) -> TransformerLayer:
    return TransformerLayer(
        self_attention=attention(config, heads),
        cross_attention=attention(config, heads) if crosses else None,
        feed_forward=FeedForward(
            config.d_model,
            ffn_dim,
            ACTIVATIONS[config.activation_function],
            dropout=config.activation_dropout,
        ),
        norm=lambda: LayerNorm(config.d_model),
        norm_first=False,
        dropout=config.dropout,
    )


def prompt(config: MvpConfig, layers: int, heads: int) -> PrefixPrompt:
    return PrefixPrompt(
        config.prompt_length,
        config.d_model,
        config.prompt_mid_dim,
        layers=layers,
        heads=heads,
        dropout=config.dropout,
    )


def encoder(config: MvpConfig, tokens: nn.Embedding) -> Encoder:
    heads, layers = config.encoder_attention_heads, config.encoder_layers
    return Encoder(
        input_embedding(config, tokens),
        alike(lambda: layer(config, heads, config.encoder_ffn_dim, crosses=False), layers),
        causal=False,
        self_prompt=prompt(config, layers, heads) if config.use_prompt else None,
        layer_drop=config.encoder_layerdrop,
    )


def decoder(config: MvpConfig, tokens: nn.Embedding, *, prompts: bool) -> Decoder:
    heads, layers = config.decoder_attention_heads, config.decoder_layers
    return Decoder(
        input_embedding(config, tokens),
        alike(lambda: layer(config, heads, config.decoder_ffn_dim, crosses=True), layers),
        causal=True,
        self_prompt=prompt(config, layers, heads) if prompts else None,
        cross_prompt=prompt(config, layers, heads) if prompts else None,
        layer_drop=config.decoder_layerdrop,
    )


# ---- theirs → ours ----

ENCODER = renames("""
    encoder.embed_positions.weight                         -> encoder.embedding.positions.weight
    encoder.layernorm_embedding.{p}                        -> encoder.embedding.norm.{p}
    encoder.layers.{i}.self_attn.q_proj.{p}                -> encoder.layers.{i}.self_attention.query.{p}
    encoder.layers.{i}.self_attn.k_proj.{p}                -> encoder.layers.{i}.self_attention.key.{p}
    encoder.layers.{i}.self_attn.v_proj.{p}                -> encoder.layers.{i}.self_attention.value.{p}
    encoder.layers.{i}.self_attn.out_proj.{p}              -> encoder.layers.{i}.self_attention.output.{p}
    encoder.layers.{i}.self_attn_layer_norm.{p}            -> encoder.layers.{i}.self_attention_norm.{p}
    encoder.layers.{i}.fc1.{p}                             -> encoder.layers.{i}.feed_forward.up.{p}
    encoder.layers.{i}.fc2.{p}                             -> encoder.layers.{i}.feed_forward.down.{p}
    encoder.layers.{i}.final_layer_norm.{p}                -> encoder.layers.{i}.feed_forward_norm.{p}

    encoder.self_attn_prompt.prompt_embedding.weight       -> encoder.self_prompt.embedding.weight
    encoder.self_attn_prompt.prompt_trans.0.{p}            -> encoder.self_prompt.up.{p}
    encoder.self_attn_prompt.prompt_trans.2.{p}            -> encoder.self_prompt.down.{p}
""")

DECODER = renames("""
    decoder.embed_positions.weight                         -> decoder.embedding.positions.weight
    decoder.layernorm_embedding.{p}                        -> decoder.embedding.norm.{p}
    decoder.layers.{i}.self_attn.q_proj.{p}                -> decoder.layers.{i}.self_attention.query.{p}
    decoder.layers.{i}.self_attn.k_proj.{p}                -> decoder.layers.{i}.self_attention.key.{p}
    decoder.layers.{i}.self_attn.v_proj.{p}                -> decoder.layers.{i}.self_attention.value.{p}
    decoder.layers.{i}.self_attn.out_proj.{p}              -> decoder.layers.{i}.self_attention.output.{p}
    decoder.layers.{i}.self_attn_layer_norm.{p}            -> decoder.layers.{i}.self_attention_norm.{p}
    decoder.layers.{i}.encoder_attn.q_proj.{p}             -> decoder.layers.{i}.cross_attention.query.{p}
    decoder.layers.{i}.encoder_attn.k_proj.{p}             -> decoder.layers.{i}.cross_attention.key.{p}
    decoder.layers.{i}.encoder_attn.v_proj.{p}             -> decoder.layers.{i}.cross_attention.value.{p}
    decoder.layers.{i}.encoder_attn.out_proj.{p}           -> decoder.layers.{i}.cross_attention.output.{p}
    decoder.layers.{i}.encoder_attn_layer_norm.{p}         -> decoder.layers.{i}.cross_attention_norm.{p}
    decoder.layers.{i}.fc1.{p}                             -> decoder.layers.{i}.feed_forward.up.{p}
    decoder.layers.{i}.fc2.{p}                             -> decoder.layers.{i}.feed_forward.down.{p}
    decoder.layers.{i}.final_layer_norm.{p}                -> decoder.layers.{i}.feed_forward_norm.{p}

    decoder.{x:self|cross}_attn_prompt.prompt_embedding.weight -> decoder.{x}_prompt.embedding.weight
    decoder.{x:self|cross}_attn_prompt.prompt_trans.0.{p}      -> decoder.{x}_prompt.up.{p}
    decoder.{x:self|cross}_attn_prompt.prompt_trans.2.{p}      -> decoder.{x}_prompt.down.{p}
""")

OF_FAIRSEQ = "a number by which fairseq told apart its layouts; early BART checkpoints kept it"

ENCODER_ALONE = (
    renames("shared.weight -> token_embedding.weight")
    + ENCODER
    + renames("encoder.embed_tokens.weight -> encoder.embedding.tokens.weight")
    + Rules(Drop("encoder.version", OF_FAIRSEQ))
)
DECODER_ALONE = (
    renames("decoder.embed_tokens.weight -> decoder.embedding.tokens.weight")
    + DECODER
    + Rules(Drop("decoder.version", OF_FAIRSEQ))
)
BODY = ENCODER_ALONE + DECODER_ALONE
BODY_OF_A_HEAD = BODY.under(theirs="model.", ours="model.")
PREFIX = "model."


class MvpModel(Seq2SeqModel):
    """MVP without a head: hidden vectors of the decoder."""

    config_class = MvpConfig
    shifts_inputs = True

    def __init__(self, config: MvpConfig) -> None:
        self.check_config(config)
        tokens = token_embedding(config)
        read, written = (token_embedding(config) if tokens_apart(config) else tokens for _ in range(2))
        super().__init__(
            config, tokens, encoder(config, read), decoder(config, written, prompts=config.use_prompt)
        )

    @classmethod
    def key_map(cls, config: MvpConfig) -> KeyMap:
        return KeyMap(BODY, base_prefix=PREFIX)

    @classmethod
    def settle_config(cls, config: MvpConfig, weights: Weights) -> None:
        share_where_shared(config, weights)

    def token_tables(self) -> Sequence[nn.Embedding]:
        """One; in an untied model of transformers 5.x one of each stack besides, and those are read."""
        tables = (self.token_embedding, self.encoder.embedding.tokens, self.decoder.embedding.tokens)
        return list(dict.fromkeys(tables))

    def initial_std(self, name: str) -> float:
        return float(self.config.init_std)

    def set_lightweight_tuning(self) -> None:
        """Freeze everything but the prompts (Li and Liang 2021, arXiv:2101.00190)."""
        if not self.config.use_prompt:
            raise ValueError("the model has no prompts to tune; build or load it with use_prompt=True")
        self.requires_grad_(False)
        for part in (self.encoder.self_prompt, self.decoder.self_prompt, self.decoder.cross_prompt):
            if part is not None:
                part.requires_grad_(True)


class _MvpHead(Seq2SeqHead):
    """What the heads on an MvpModel share."""

    config_class = MvpConfig
    head: ClassVar[str]
    """The head's part of the key map, theirs → ours."""
    model: MvpModel

    @classmethod
    def key_map(cls, config: MvpConfig) -> KeyMap:
        return KeyMap(BODY_OF_A_HEAD + renames(cls.head), base_prefix=PREFIX)

    @classmethod
    def settle_config(cls, config: MvpConfig, weights: Weights) -> None:
        share_where_shared(config, weights)

    def token_tables(self) -> Sequence[nn.Embedding]:
        return self.model.token_tables()

    def initial_std(self, name: str) -> float:
        return float(self.config.init_std)

    def set_lightweight_tuning(self) -> None:
        """Freeze everything but the prompts, the head included."""
        self.model.set_lightweight_tuning()
        for name, parameter in self.named_parameters():
            if not name.startswith("model."):
                parameter.requires_grad_(False)


class MvpForConditionalGeneration(_MvpHead, Seq2SeqLM):
    """MVP that writes: scores of the next token, logits = x Eᵀ + final_logits_bias."""

    head = """
        final_logits_bias -> final_logits_bias
        lm_head.weight    -> lm_head.weight
    """
    caches_with_labels = False
    final_logits_bias: Tensor

    def __init__(self, config: MvpConfig) -> None:
        super().__init__(config)
        self.model = MvpModel(config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.register_buffer("final_logits_bias", torch.zeros(1, config.vocab_size))
        self._initialise_own_parts()
        self.tie_weights()

    def _initialise(self, name: str, module: nn.Module) -> None:
        super()._initialise(name, module)
        if module is self:
            self.final_logits_bias.zero_()

    def scores(self, x: Tensor) -> Tensor:
        return self.lm_head(x) + self.final_logits_bias  # type: ignore[no-any-return]

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> nn.Embedding:
        table = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        kept = self.final_logits_bias[:, : table.num_embeddings]
        new = kept.new_zeros(1, table.num_embeddings - kept.shape[1])
        self.final_logits_bias = torch.cat([kept, new], dim=1)
        return table


class MvpForSequenceClassification(_MvpHead, Seq2SeqClassifier):
    """MVP that labels a text."""

    head = """
        classification_head.dense.{p}    -> classification_head.hidden.{p}
        classification_head.out_proj.{p} -> classification_head.output.{p}
    """

    def __init__(self, config: MvpConfig) -> None:
        super().__init__(config)
        self.model = MvpModel(config)
        self.classification_head = ClassificationHead(
            config.d_model, config.num_labels, dropout=config.classifier_dropout
        )
        self._initialise_own_parts()


class MvpForQuestionAnswering(_MvpHead, Seq2SeqSpanFinder):
    """MVP that finds an answer in a text."""

    head = "qa_outputs.{p} -> span_head.{p}"

    def __init__(self, config: MvpConfig) -> None:
        self.check_config(config)
        config = copy.deepcopy(config)
        config.num_labels = 2
        super().__init__(config)
        self.model = MvpModel(config)
        self.span_head = nn.Linear(config.d_model, 2)
        self._initialise_own_parts()


class MvpEncoder(EncoderModel):
    """MVP's encoder alone: the reading half of an EncoderDecoderModel."""

    config_class = MvpConfig

    def __init__(self, config: MvpConfig) -> None:
        self.check_config(config)
        tokens = token_embedding(config)
        super().__init__(config, tokens, encoder(config, tokens))

    @classmethod
    def key_map(cls, config: MvpConfig) -> KeyMap:
        return KeyMap(ENCODER_ALONE, base_prefix=PREFIX)

    def initial_std(self, name: str) -> float:
        return float(self.config.init_std)


class MvpForCausalLM(CausalLM):
    """MVP's decoder alone, as a language model; given encoder_hidden_states, it reads them by
    cross-attention.

    It has no prompts. Its token vectors come from the full model's where its own were not stored.
    """

    config_class = MvpConfig
    generation_inputs: ClassVar[frozenset[str]] = frozenset(
        {"input_ids", "attention_mask", "inputs_embeds", "encoder_hidden_states", "encoder_attention_mask"}
    )

    def __init__(self, config: MvpConfig) -> None:
        self.check_config(config)
        config = copy.deepcopy(config)
        config.is_decoder, config.is_encoder_decoder = True, False
        super().__init__(config)
        self.decoder = decoder(config, token_embedding(config), prompts=False)
        self.decoder.config = config
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self._initialise_own_parts()
        self.tie_weights()

    @classmethod
    def key_map(cls, config: MvpConfig) -> KeyMap:
        shared = Alias("shared.weight", "decoder.embed_tokens.weight")
        unused = Drop("shared.weight", "a third table, which neither stack of an untied model of 5.x reads")
        own = DECODER_ALONE + Rules(unused if tokens_apart(config) else shared)
        return KeyMap(
            own.under(theirs="model.") + renames("lm_head.weight -> lm_head.weight"), base_prefix=PREFIX
        )

    def initial_std(self, name: str) -> float:
        return float(self.config.init_std)

    def get_decoder(self) -> Decoder:
        """The decoder, callable on its own."""
        return self.decoder

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: DecodingState | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache_position: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
    ) -> Any:
        """input_ids int64 [B, L] → CausalLMOutputWithCrossAttentions with logits [B, L, V].

        labels int64 [B, L] are compared with the scores at their own position, not the one before: shift
        them. -100 does not count. logits_to_keep scores only the last so many positions (0: all), or those a
        tensor names.
        """
        refuse_labels_of_few(labels, logits_to_keep)
        body: BaseModelOutputWithPastAndCrossAttentions = self.decoder(
            input_ids,
            attention_mask,
            encoder_hidden_states,
            encoder_attention_mask,
            past_key_values,
            inputs_embeds,
            use_cache,
            output_attentions,
            output_hidden_states,
            return_dict=True,
        )
        return self.scored(body, labels, return_dict, logits_to_keep)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """How far logits [B, L, V] are from labels [B, L], position by position."""
        return token_loss(logits, labels)

    @property
    def reads_memory(self) -> bool:
        """Every MVP decoder has cross-attention."""
        return True
