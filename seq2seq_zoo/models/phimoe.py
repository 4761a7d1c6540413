"""PhiMoE: a decoder of which every token uses a part (Abdin et al. 2024, Phi-3.5-MoE, arXiv:2404.14219; Liu
et al. 2024, GRIN, arXiv:2409.12136).

    tokens → N × [self-attention, mixture of experts] → norm
                   ↑ rotary positions (LongRoPE), grouped heads, a sliding window on request
    pre-norm, LayerNorm with biases; two of the experts serve each token

Its heads are in `phimoe_heads`.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from ..checkpoint import KeyMap, Rename, Rules, Split, Stack, Weights, renames
from ..config import (
    LARGEST,
    WIDEST,
    Config,
    counts,
    divides,
    in_vocabulary,
    known_activation,
    not_negative,
    positive,
    probability,
    products,
    sizes,
)
from ..errors import ConfigError
from ..layers.activations import ACTIVATIONS
from ..layers.alike import alike
from ..layers.attention import Attention
from ..layers.embedding import InputEmbedding
from ..layers.experts import Experts, MixtureOfExperts
from ..layers.norms import LayerNorm
from ..layers.rotary import LongContext, Rotary
from ..layers.rotary_stack import RotaryStack
from ..layers.router import SparseMixer
from ..layers.state import DecodingState
from ..layers.transformer import TransformerLayer
from ..outputs import MoeModelOutputWithPast
from .arguments import as_returned, check_state, either, one_input
from .base import Model

ConfigT = TypeVar("ConfigT", bound="PhimoeConfig")

MOST_EXPERTS = 100_000
"""How many there can be in all layers: a checkpoint has three keys for each."""
LEAST, MOST, HIGHEST_BASE = 1e-9, 1e9, 1e30
"""Where LongRoPE's numbers and rope_theta end, so that float32 holds what is made of them."""
FACTORS = ("short_factor", "long_factor")
SCALES = ("short_mscale", "long_mscale")
BORDER = "original_max_position_embeddings"


class PhimoeConfig(Config):
    """Configuration of the PhiMoE classes; the defaults are those of microsoft/Phi-3.5-MoE-instruct, but for
    its biases, its window and its LongRoPE.

    Rotary positions are told in either of two ways: `rope_theta` and `rope_scaling`, or both in one object,
    `rope_parameters`. What that object says goes before a `rope_theta` beside it, and a `rope_scaling`, which
    may be such an object too, before what that object says. A saved config has the first two, which all
    readers know.
    """

    model_type = "phimoe"
    aliases: ClassVar[Mapping[str, str]] = {
        "rope_parameters": "rope_parameters"
    }  # a property, and its setter
    derived: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "rope_parameters": ("rope_theta", "rope_scaling", BORDER),
        "rope_scaling": (BORDER,),
    }

    vocab_size: int = 32064
    """Number of tokens."""
    hidden_size: int = 4096
    """Width of the hidden vectors."""
    intermediate_size: int = 6400
    """Width inside one expert."""
    num_hidden_layers: int = 32
    """Layers of the stack."""
    num_attention_heads: int = 32
    """Query heads of each attention; they divide hidden_size, unless there is a head_dim."""
    num_key_value_heads: int | None = 8
    """Key-value heads, a divisor of the query heads: as many (None), fewer (grouped), or 1."""
    head_dim: int | None = None
    """Size of a head, as Phi-tiny-MoE-instruct gives it; None: hidden_size / num_attention_heads."""
    hidden_act: str = "silu"
    """Activation of the experts."""
    max_position_embeddings: int = 4096 * 32
    """Longest sequence, in tokens."""
    initializer_range: float = 0.02
    """Standard deviation of fresh weights."""
    rms_norm_eps: float = 1e-5
    """Added to the variance in the norms, which for all its name are LayerNorms."""
    rope_theta: float = 1e6
    """Base of the rotary angles."""
    rope_scaling: dict[str, Any] | None = None
    """LongRoPE: an object of type "longrope", short_factor and long_factor (a number for each pair of a
    head's), short_mscale, long_mscale, and original_max_position_embeddings. None: plain rotary positions."""
    sliding_window: int | None = None
    """How many positions attention reaches back, the query's own among them; None: all."""
    attention_dropout: float = 0.0
    """Dropout of attention weights."""
    num_experts_per_tok: int = 2
    """Experts that serve a token; sparse-mixer routing takes two."""
    num_local_experts: int = 16
    """Experts of each layer."""
    output_router_logits: bool = False
    """Whether outputs hold the routers' scores, and the loss that of load balance."""
    router_aux_loss_coef: float = 0.001
    """Weight of the load balancing loss."""
    router_jitter_noise: float = 0.01
    """How far below the best an expert may score and still be chosen, as a share of it, halved."""
    input_jitter_noise: float = 0.0
    """In training, how far the numbers that a mixture reads are stretched or shrunk at random."""
    attention_bias: bool = False
    """Whether the attentions' projections have biases."""
    lm_head_bias: bool = False
    """Whether the head that scores tokens has a bias."""
    pad_token_id: int | None = None
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    tie_word_embeddings: bool = False

    def __init__(self, /, **values: Any) -> None:
        super().__init__(**_in_two_fields(values))

    @classmethod
    def from_dict(cls: type[ConfigT], values: Mapping[str, Any], **overrides: Any) -> ConfigT:
        # An override of one of the two fields is to win over an object that holds both.
        return super().from_dict(
            _in_two_fields(values) if isinstance(values, Mapping) else values, **overrides
        )

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("rope_parameters", "rope_scaling"):
            for field, part in _in_two_fields({"rope_scaling": None, name: value}).items():
                super().__setattr__(field, part)
        else:
            super().__setattr__(name, value)

    @property
    def rope_parameters(self) -> dict[str, Any]:
        """rope_theta and rope_scaling in one object: rope_type, rope_theta and the rest."""
        scaling = dict(self.rope_scaling or {})
        kind = scaling.pop("rope_type", scaling.pop("type", "default"))
        scaling.pop("type", None)
        if self.rope_scaling is not None:
            scaling[BORDER] = self.original_length
        return {"rope_type": kind, "rope_theta": self.rope_theta, **scaling}

    @property
    def original_length(self) -> Any:
        """The longest row that LongRoPE's short factors serve: one stored beside rope_scaling goes before the
        one inside, for all readers."""
        beside = self.extra.get(BORDER)
        return (self.rope_scaling or {}).get(BORDER) if beside is None else beside

    def derive(self) -> None:
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads

    def check(self) -> None:
        super().check()
        sizes(self, "vocab_size", "hidden_size", "intermediate_size", "num_attention_heads")
        sizes(self, "num_key_value_heads")
        counts(self, "num_hidden_layers", "num_local_experts")
        positive(self, "max_position_embeddings")
        not_negative(self, "initializer_range", "rms_norm_eps", "router_aux_loss_coef", "router_jitter_noise")
        probability(self, "attention_dropout", "input_jitter_noise")
        if self.head_dim is None:
            divides(self, "num_attention_heads", "hidden_size")
        else:
            sizes(self, "head_dim")
            products(self, "num_attention_heads", "head_dim")
        divides(self, "num_key_value_heads", "num_attention_heads")
        known_activation(self, "hidden_act")
        in_vocabulary(self, "pad_token_id")
        if self.sliding_window is not None:
            positive(self, "sliding_window")
        experts = self.num_hidden_layers * self.num_local_experts
        if experts > MOST_EXPERTS:
            raise ConfigError(
                f"num_local_experts is {self.num_local_experts}; with {self.num_hidden_layers} layers it "
                f"must be at most {MOST_EXPERTS // self.num_hidden_layers}"
            )
        # The experts of a layer are one tensor.
        products(self, "num_local_experts", "intermediate_size", "hidden_size", at_most=WIDEST**2)
        if self.num_local_experts < 2:
            raise ConfigError(f"num_local_experts is {self.num_local_experts}; it must be at least 2")
        if self.num_experts_per_tok != 2:
            raise ConfigError(
                f"num_experts_per_tok is {self.num_experts_per_tok}; sparse-mixer routing takes 2"
            )
        if not 0 < self.rope_theta < float("inf"):
            raise ConfigError(f"rope_theta is {self.rope_theta}; it must be above 0, and finite")
        if not LEAST <= self.rope_theta <= HIGHEST_BASE:
            raise ConfigError(f"rope_theta is {self.rope_theta}; it must be from {LEAST} to {HIGHEST_BASE}")
        if self.head_size % 2:
            size = "hidden_size / num_attention_heads" if self.head_dim is None else "head_dim"
            raise ConfigError(f"{size} is {self.head_size}; rotary positions need an even size")
        self._check_scaling()

    def to_dict(self) -> dict[str, Any]:
        values = super().to_dict()
        if self.head_dim is None:
            del values["head_dim"]  # transformers 5.x takes a head_dim that is there for a number
        return values

    def validate_rope(self, ignore_keys: Collection[str] | None = None) -> None:
        """Raise ConfigError unless rotary positions can be made of what the config says of them, as `check`
        does; unknown keys are not looked at, so that there are none to ignore."""
        self.check()

    @property
    def head_size(self) -> int:
        """E, the numbers of one head."""
        return self.hidden_size // self.num_attention_heads if self.head_dim is None else self.head_dim

    def _check_scaling(self) -> None:
        scaling = self.rope_scaling
        if scaling is None:
            return
        kind = scaling.get("rope_type", scaling.get("type"))
        if kind != "longrope":
            raise ConfigError(
                f"rope_scaling's type is {kind!r}; it must be 'longrope' (or 'default'), as rope_parameters'"
            )
        pairs = self.head_size // 2
        for name in FACTORS:
            given = scaling.get(name)
            if not isinstance(given, (list, tuple)) or len(given) != pairs or not all(map(_is_factor, given)):
                raise ConfigError(
                    f"rope_scaling's {name} is {given!r}; it must be a list of {pairs} numbers from "
                    f"{LEAST} to {MOST}, half the size of a head"
                )
        for name in SCALES:
            if not _is_number(scaling.get(name)):
                raise ConfigError(
                    f"rope_scaling's {name} is {scaling.get(name)!r}; it must be a number of at most {MOST}"
                )
        border = self.original_length
        if not isinstance(border, int) or isinstance(border, bool) or not 1 <= border <= LARGEST:
            raise ConfigError(
                f"{BORDER} is {border!r}; with LongRoPE it must be a whole number of at least 1, and at most "
                f"{LARGEST}"
            )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= MOST


def _is_factor(value: Any) -> bool:
    return _is_number(value) and value >= LEAST


def _in_two_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """Config values with rope_theta and rope_scaling, each without the other, where there was
    rope_parameters, or a rope_scaling that holds both."""
    found = dict(values)
    given = found.pop("rope_parameters", None)
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError(
            f"rope_parameters is {given!r}, of type {type(given).__name__}; it must be an object"
        )
    both = found.get("rope_scaling")
    for held in (given, both if isinstance(both, Mapping) else None):  # the later goes first
        if not held:
            continue
        scaling = dict(held)
        if "rope_theta" in scaling:
            found["rope_theta"] = scaling.pop("rope_theta")
        if held is given and both:
            continue
        kind = scaling.get("rope_type", scaling.get("type", "default" if held is given else None))
        found["rope_scaling"] = None if kind == "default" else scaling
    return found


# ---- the parts list ----


def rotary(config: PhimoeConfig) -> Rotary:
    scaling, context = config.rope_scaling, None
    if scaling is not None:
        context = LongContext(
            short_factors=tuple(scaling["short_factor"]),
            long_factors=tuple(scaling["long_factor"]),
            short_scale=scaling["short_mscale"],
            long_scale=scaling["long_mscale"],
            original_length=config.original_length,
        )
    return Rotary(config.head_size, base=config.rope_theta, long_context=context)


def attention(config: PhimoeConfig) -> Attention:
    return Attention(
        config.hidden_size,
        config.num_attention_heads,
        config.head_size,
        key_value_heads=config.num_key_value_heads,
        bias=config.attention_bias,
        dropout=config.attention_dropout,
    )


def mixture_of_experts(config: PhimoeConfig) -> MixtureOfExperts:
    return MixtureOfExperts(
        SparseMixer(config.hidden_size, config.num_local_experts, jitter=config.router_jitter_noise),
        Experts(
            config.hidden_size,
            config.intermediate_size,
            config.num_local_experts,
            ACTIVATIONS[config.hidden_act],
        ),
        input_jitter=config.input_jitter_noise,
    )


def norm(config: PhimoeConfig) -> LayerNorm:
    return LayerNorm(config.hidden_size, eps=config.rms_norm_eps)


def layer(config: PhimoeConfig) -> TransformerLayer:
    return TransformerLayer(
        self_attention=attention(config),
        feed_forward=mixture_of_experts(config),
        norm=lambda: norm(config),
        norm_first=True,
    )


def stack(config: PhimoeConfig) -> RotaryStack:
    return RotaryStack(
        InputEmbedding(nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)),
        alike(lambda: layer(config), config.num_hidden_layers),
        rotary=rotary(config),
        window=config.sliding_window,
        final_norm=norm(config),
    )


# ---- theirs → ours ----

_OURS = "stack.layers.{i}.feed_forward."
BODY = renames("""
    embed_tokens.weight                         -> stack.embedding.tokens.weight
    layers.{i}.input_layernorm.{p}              -> stack.layers.{i}.self_attention_norm.{p}
    layers.{i}.self_attn.q_proj.{p}             -> stack.layers.{i}.self_attention.query.{p}
    layers.{i}.self_attn.k_proj.{p}             -> stack.layers.{i}.self_attention.key.{p}
    layers.{i}.self_attn.v_proj.{p}             -> stack.layers.{i}.self_attention.value.{p}
    layers.{i}.self_attn.o_proj.{p}             -> stack.layers.{i}.self_attention.output.{p}
    layers.{i}.post_attention_layernorm.{p}     -> stack.layers.{i}.feed_forward_norm.{p}
    norm.{p}                                    -> stack.final_norm.{p}
""")
_APART = "layers.{i}.block_sparse_moe."
EXPERTS_APART = Rules(
    Rename(_APART + "gate.weight", _OURS + "router.scores.weight"),
    Stack(_APART + "experts.{n}.w1.weight", _OURS + "experts.gate.weight"),
    Stack(_APART + "experts.{n}.w3.weight", _OURS + "experts.up.weight"),
    Stack(_APART + "experts.{n}.w2.weight", _OURS + "experts.down.weight"),
)
_STACKED = "layers.{i}.mlp."
EXPERTS_STACKED = Rules(
    Rename(_STACKED + "router.weight", _OURS + "router.scores.weight"),
    Split(
        _STACKED + "experts.gate_up_proj", (_OURS + "experts.gate.weight", _OURS + "experts.up.weight"), dim=1
    ),
    Rename(_STACKED + "experts.down_proj", _OURS + "experts.down.weight"),
)
"""What transformers 5.x has in memory, and writes with save_original_format=False."""
PREFIX = "model."


@functools.cache
def _key_map(head: str, experts: Rules = EXPERTS_APART) -> KeyMap:
    body = BODY + experts
    return KeyMap(
        body.under(theirs=PREFIX, ours="model.") + renames(head) if head else body, base_prefix=PREFIX
    )


class Phimoe(Model):
    """What the classes of PhiMoE share."""

    config_class = PhimoeConfig
    head: ClassVar[str] = ""
    """The head's part of the key map, theirs → ours; without one the class is the body itself."""

    @classmethod
    def key_map(cls, config: PhimoeConfig) -> KeyMap:
        return _key_map(cls.head)

    @classmethod
    def stored_key_map(cls, config: PhimoeConfig, weights: Weights) -> KeyMap:
        stacked = any(key.endswith(".mlp.experts.gate_up_proj") for key in weights)
        return _key_map(cls.head, EXPERTS_STACKED if stacked else EXPERTS_APART)

    def initial_std(self, name: str) -> float:
        return float(self.config.initializer_range)


class PhimoeModel(Phimoe):
    """PhiMoE without a head."""

    def __init__(self, config: PhimoeConfig) -> None:
        super().__init__(config)
        self.stack = stack(config)
        self._initialise_own_parts()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.stack.embedding.tokens

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: DecodingState | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        cache_position: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        output_router_logits: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """input_ids int64 [B, L] or inputs_embeds [B, L, D] → MoeModelOutputWithPast.

        attention_mask [B, past + L], 1 = real, covers what `past_key_values` holds as well; cache_position,
        accepted for its sake, follows from it. position_ids int64 [B or 1, L]: where absent, tokens are
        counted without the padding, so that a padded row is read as it would be alone. With
        output_router_logits the output holds the scores of each layer's router, [B · L, experts].
        """
        one_input(input_ids, inputs_embeds, "input_ids", "inputs_embeds")
        state = check_state(past_key_values)
        if state is None and either(use_cache, self.config.use_cache):
            state = self.stack.new_state()
        out = self.stack.run(
            input_ids,
            inputs_embeds,
            attention_mask=attention_mask,
            positions=position_ids,
            state=state,
            need_weights=either(output_attentions, self.config.output_attentions),
            need_hidden=either(output_hidden_states, self.config.output_hidden_states),
        )
        wanted = either(output_router_logits, self.config.output_router_logits)
        output = MoeModelOutputWithPast(
            out.last, state, out.hidden, out.self_weights, out.router_scores if wanted else None
        )
        return as_returned(output, either(return_dict, self.config.return_dict))
