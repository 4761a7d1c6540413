"""Pairs: the encoder of one family and the decoder of another, or of the same, as one sequence-to-sequence
model (Rothe et al. 2019, arXiv:1907.12461).

    input_ids ─→ encoder ─→ encoder_last_hidden_state [B, S, D']
                                   │ enc_to_dec_proj, where the widths differ
    decoder_input_ids ─→ decoder ──┴─→ logits [B, L, V]

`families` names the classes that can be a half: a family's `encoder`, and its class for CausalLM if it reads
a memory. The pair's own parameters are those of `enc_to_dec_proj`, if there is one.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..checkpoint import KeyMap, Weights, renames
from ..config import Config, Place, read_config
from ..errors import CheckpointError, ConfigError
from ..generation import GenerateOutput, GenerationConfig
from ..layers.heads import shift_right, token_loss
from ..layers.state import DecodingState
from ..layers.transformer import Stack
from ..outputs import BaseModelOutput, CausalLMOutputWithCrossAttentions, Seq2SeqLMOutput
from .arguments import EncoderOutputs, as_encoder_output, as_returned, either, one_input
from .base import Model, Writes
from .families import FAMILIES, find_family
from .seq2seq import Encoder
from .seq2seq_heads import Seq2SeqLM

HALVES = ("encoder", "decoder")
OF_WHOLE_BERTS = (
    *("encoder.embeddings.token_type_embeddings.", "decoder.bert.embeddings.token_type_embeddings."),
    "decoder.cls.",
)
"""Keys of pairs that were trained as BERTs, with what BertGeneration leaves out."""


class EncoderDecoderConfig(Config):
    """The configs of both halves, and what the pair adds."""

    model_type = "encoder-decoder"

    encoder: Config = None  # type: ignore[assignment]  # there is no default
    """The encoder's config, or the content of its config.json."""
    decoder: Config = None  # type: ignore[assignment]
    """The decoder's config, or the content of its config.json."""
    tie_encoder_decoder: bool = False
    """Whether the encoder's layers are the decoder's, but for cross-attention."""
    is_encoder_decoder: bool = True

    def __init__(self, /, **values: Any) -> None:
        absent = [half for half in HALVES if values.get(half) is None]
        if absent:
            raise ConfigError(
                f"{absent[0]} is None; an EncoderDecoderConfig needs the configs of both halves"
            )
        super().__init__(**values)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in HALVES:
            value = _config_of(name, value)
        super().__setattr__(name, value)

    def derive(self) -> None:
        if "transformers_version" in self.extra:  # said once, for both halves
            for half in HALVES:
                extra = getattr(self, half).extra
                extra.setdefault("transformers_version", self.extra["transformers_version"])

    def check(self) -> None:
        super().check()
        for half in HALVES:
            getattr(self, half).check()

    @classmethod
    def from_encoder_decoder_configs(
        cls, encoder_config: Config, decoder_config: Config, **fields: Any
    ) -> EncoderDecoderConfig:
        """The config of a pair. The decoder's is copied, with is_decoder and add_cross_attention set."""
        decoder_config = copy.deepcopy(decoder_config)
        decoder_config.is_decoder = decoder_config.add_cross_attention = True
        return cls(encoder=copy.deepcopy(encoder_config), decoder=decoder_config, **fields)

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), **{half: getattr(self, half).to_dict() for half in HALVES}}


def _config_of(half: str, given: Any) -> Config:
    """The config of one half, from a config or from the content of a config.json."""
    if isinstance(given, Mapping):
        family = find_family(FAMILIES, given.get("model_type"), f"the {half}'s config")
        return family.config.from_dict(given)
    if not isinstance(given, Config):
        raise ConfigError(
            f"{half} is a {type(given).__name__}; it must be a config, or the content of a config.json"
        )
    return given


def encoder_class(model_type: object) -> type[Model]:
    """The class of a family that is the reading half of a pair."""
    family = find_family(FAMILIES, model_type, "the encoder")
    if family.encoder is None:
        able = [other.config.model_type for other in FAMILIES if other.encoder is not None]
        raise ConfigError(f"a {model_type} cannot be an encoder in a pair; {', '.join(able)} can")
    return family.encoder


def decoder_class(model_type: object) -> type[Writes]:
    """The class of a family that is the writing half of a pair."""
    family = find_family(FAMILIES, model_type, "the decoder")
    found = family.tasks.get("CausalLM")
    if found is None or not issubclass(found, Writes):
        able = [other.config.model_type for other in FAMILIES if "CausalLM" in other.tasks]
        raise ConfigError(f"a {model_type} cannot be a decoder in a pair; {', '.join(able)} can")
    return found


class EncoderDecoderModel(Writes):
    """Any encoder and any decoder that reads a memory, as one model that writes.

    EncoderDecoderModel(encoder=…, decoder=…) takes both as they are; EncoderDecoderModel(config) builds them
    with random weights; from_encoder_decoder_pretrained loads each from its own checkpoint.
    """

    config_class = EncoderDecoderConfig
    generation_inputs: ClassVar[frozenset[str]] = Seq2SeqLM.generation_inputs
    is_encoder_decoder: ClassVar[bool] = True

    def __init__(
        self,
        config: EncoderDecoderConfig | None = None,
        encoder: Model | Encoder | None = None,
        decoder: Writes | None = None,
    ) -> None:
        if isinstance(encoder, Encoder):
            encoder = _alone(encoder)
        if config is None:
            if encoder is None or decoder is None:
                raise ValueError("neither config nor both of encoder and decoder were given")
            config = EncoderDecoderConfig.from_encoder_decoder_configs(encoder.config, decoder.config)
        super().__init__(copy.deepcopy(config))
        config = self.config
        self.encoder: Model = encoder or encoder_class(config.encoder.model_type)(config.encoder)
        self.decoder: Writes = decoder or decoder_class(config.decoder.model_type)(config.decoder)
        self._check_halves()
        # From here on a half and the pair share the half's config.
        self.decoder.config.is_decoder = self.decoder.config.add_cross_attention = True
        config.encoder, config.decoder = self.encoder.config, self.decoder.config

        width, memory_width = config.decoder.hidden_size, config.encoder.hidden_size
        self.enc_to_dec_proj: nn.Linear | None = None
        if memory_width != width:
            self.enc_to_dec_proj = nn.Linear(memory_width, width).to(self.decoder.device, self.decoder.dtype)
        self.float32_parts = [
            f"{half}.{pattern}" for half in HALVES for pattern in getattr(self, half).float32_parts
        ]
        self.generation_config = GenerationConfig.from_model_config(config)
        self._generation_as_built = copy.deepcopy(self.generation_config)
        self._initialise_own_parts()
        self.tie_weights()

    def _check_halves(self) -> None:
        for half, class_for in (("encoder", encoder_class), ("decoder", decoder_class)):
            part, wanted = getattr(self, half), getattr(self.config, half)
            expected = class_for(part.config.model_type)
            if type(part) is not expected:
                raise ValueError(f"{half} is a {type(part).__name__}; it must be a {expected.__name__}")
            if type(wanted) is not type(part.config):
                raise ConfigError(
                    f"config.{half} is a {type(wanted).__name__}, but {half} is a {type(part).__name__}"
                )
            mine, theirs = part.config.to_dict(), wanted.to_dict()
            unlike = [
                name
                for name in type(wanted).fields()
                if name not in _OF_NO_CONSEQUENCE and mine.get(name) != theirs.get(name)
            ]
            if unlike:
                raise ConfigError(
                    f"config.{half} and the {half}'s own config differ in {', '.join(unlike)}; give one of "
                    "them, or make them agree"
                )
        if not self.decoder.reads_memory:
            raise ConfigError(
                "the decoder has no cross-attention, so it cannot read what the encoder makes; build or load "
                "it with is_decoder=True and add_cross_attention=True"
            )

    # ---- weights ----

    @classmethod
    def key_map(cls, config: EncoderDecoderConfig) -> KeyMap:
        # The decoder comes first: of weights that both halves share, its keys are the ones that are stored.
        rules = renames("enc_to_dec_proj.{p} -> enc_to_dec_proj.{p}")
        for half, class_for in (("decoder", decoder_class), ("encoder", encoder_class)):
            part = getattr(config, half)
            own = class_for(part.model_type).key_map(part).rules
            rules = rules + own.under(theirs=f"{half}.", ours=f"{half}.")
        return KeyMap(rules)

    @classmethod
    def settle_config(cls, config: EncoderDecoderConfig, weights: Weights) -> None:
        for key in weights:
            if key.startswith(OF_WHOLE_BERTS):
                raise CheckpointError(
                    f"{weights.where} holds {key}: its halves are whole BERTs, trained with token types and "
                    "a head that BertGeneration does not have, and mean nothing without them"
                )
        # transformers 5.x keeps the flag and ties nothing.
        if config.saved_by_5 and any(key.startswith("encoder.") for key in weights):
            config.tie_encoder_decoder = False

    def _initialise(self, name: str, module: nn.Module) -> None:
        half, _, inner = name.partition(".")
        if half in HALVES:
            getattr(self, half)._initialise(inner, module)
        elif isinstance(module, nn.Linear):
            module.reset_parameters()  # PyTorch's own start; nothing was published for this part

    def tie_weights(self) -> None:
        """Tie what each half ties, and both halves where the config says so."""
        self.encoder.tie_weights()
        self.decoder.tie_weights()
        if not self.config.tie_encoder_decoder:
            return
        body = next((part for part in self.decoder.modules() if type(part) is type(self.encoder)), None)
        if body is None:
            raise ConfigError(
                f"tie_encoder_decoder is true, but a {type(self.decoder).__name__} has no "
                f"{type(self.encoder).__name__} inside that the encoder could share"
            )
        own = dict(self.encoder.named_parameters(remove_duplicate=False))
        for name, parameter in body.named_parameters(remove_duplicate=False):
            if any(part.startswith("cross_attention") for part in name.split(".")):
                continue
            if name not in own or own[name].shape != parameter.shape:
                raise ConfigError(
                    f"tie_encoder_decoder is true, but the encoder has no {name} of shape "
                    f"{list(parameter.shape)}; both halves must have the same sizes"
                )
            owner, _, leaf = name.rpartition(".")
            setattr(self.encoder.get_submodule(owner), leaf, parameter)

    @classmethod
    def from_encoder_decoder_pretrained(
        cls,
        encoder_pretrained_model_name_or_path: Place | None = None,
        decoder_pretrained_model_name_or_path: Place | None = None,
        **options: Any,
    ) -> EncoderDecoderModel:
        """A pair from a checkpoint for each half, in eval mode.

        Options that begin with encoder_ or decoder_ go to that half's from_pretrained (encoder_dtype,
        decoder_num_hidden_layers, …); encoder_model and decoder_model are halves that are there already,
        encoder_config and decoder_config are used as they are. All others are fields of the pair's config.
        Cross-attention that a decoder's checkpoint does not have starts at random, and a warning names it.
        """
        places = {
            "encoder": encoder_pretrained_model_name_or_path,
            "decoder": decoder_pretrained_model_name_or_path,
        }
        halves: dict[str, Any] = {}
        fields = EncoderDecoderConfig.fields()  # among them decoder_start_token_id
        for half, where in places.items():
            own = [name for name in options if name.startswith(f"{half}_") and name not in fields]
            halves[half] = _half(half, where, {name[len(half) + 1 :]: options.pop(name) for name in own})
        unknown = sorted(set(options) - set(fields))
        if unknown:
            raise ConfigError(
                f"from_encoder_decoder_pretrained was given {', '.join(unknown)}; an EncoderDecoderConfig "
                "has no such field, and options of one half begin with encoder_ or decoder_"
            )
        config = EncoderDecoderConfig.from_encoder_decoder_configs(
            halves["encoder"].config, halves["decoder"].config, **options
        )
        return cls(config, **halves).eval()

    def _save(self, directory: Place, max_shard_size: int | str) -> None:
        self._follow_config()
        for half in HALVES:  # transformers asks each half for its own
            getattr(self.config, half).dtype = getattr(self, half).dtype
        super()._save(directory, max_shard_size)

    # ---- parts ----

    def get_encoder(self) -> Model:
        """The encoder, callable on its own."""
        return self.encoder

    def get_decoder(self) -> Writes:
        """The decoder, callable on its own."""
        return self.decoder

    def get_input_embeddings(self) -> nn.Embedding:
        """The encoder's token vectors."""
        return self.encoder.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Linear | None:
        """The decoder's head."""
        return self.decoder.get_output_embeddings()

    def resize_token_embeddings(self, *_: Any, **__: Any) -> nn.Embedding:
        """Refused: each half has a vocabulary of its own, and a method of this name."""
        raise NotImplementedError(
            "a pair has two vocabularies: use model.encoder.resize_token_embeddings or "
            "model.decoder.resize_token_embeddings"
        )

    # ---- a pass ----

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """Labels [B, L] as decoder inputs: shifted right behind a start token, -100 as padding."""
        start, padding = self.config.decoder_start_token_id, self.config.pad_token_id
        for name, value in (("decoder_start_token_id", start), ("pad_token_id", padding)):
            if value is None:
                raise ValueError(
                    f"the config's {name} is None; it must be set (model.config.{name} = …) to shift labels "
                    "into decoder inputs"
                )
        return shift_right(labels, start=start, padding=padding)

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
        **options: Any,
    ) -> Any:
        """input_ids [B, S] and decoder_input_ids [B, L] → Seq2SeqLMOutput with logits [B, L, V].

        labels int64 [B, L] add the mean cross-entropy with the logits at their own position as `loss`, -100
        not counted; and they make the decoder inputs where those are not given, shifted right, their padding
        masked. Other options go to the decoder, if they begin with decoder_, or to the encoder (head_mask,
        decoder_head_mask). The rest is as for every encoder-decoder.
        """
        if labels is not None and decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
            if decoder_attention_mask is None:
                decoder_attention_mask = decoder_input_ids != self.config.pad_token_id
        one_input(decoder_input_ids, decoder_inputs_embeds, "decoder_input_ids", "decoder_inputs_embeds")
        of_decoder = {name: options.pop(name) for name in list(options) if name.startswith("decoder_")}
        encoded = self._encode(
            input_ids,
            attention_mask,
            inputs_embeds,
            encoder_outputs,
            either(output_attentions, self.config.output_attentions),
            either(output_hidden_states, self.config.output_hidden_states),
            **options,
        )
        decoded: CausalLMOutputWithCrossAttentions = self.decoder(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            encoder_hidden_states=self._memory(encoded),
            encoder_attention_mask=attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=decoder_inputs_embeds,
            use_cache=use_cache,
            output_attentions=either(output_attentions, self.config.output_attentions),
            output_hidden_states=either(output_hidden_states, self.config.output_hidden_states),
            return_dict=True,
            **{name.removeprefix("decoder_"): value for name, value in of_decoder.items()},
        )
        assert decoded.logits is not None
        output = Seq2SeqLMOutput(
            loss=None if labels is None else token_loss(decoded.logits, labels),
            logits=decoded.logits,
            past_key_values=decoded.past_key_values,
            decoder_hidden_states=decoded.hidden_states,
            decoder_attentions=decoded.attentions,
            cross_attentions=decoded.cross_attentions,
            encoder_last_hidden_state=encoded.last_hidden_state,
            encoder_hidden_states=encoded.hidden_states,
            encoder_attentions=encoded.attentions,
        )
        return as_returned(output, either(return_dict, self.config.return_dict))

    def _encode(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        inputs_embeds: Tensor | None,
        encoder_outputs: EncoderOutputs | None,
        output_attentions: bool,
        output_hidden_states: bool,
        **options: Any,
    ) -> BaseModelOutput:
        """The encoder's output: the one given, as an object, or that of a pass."""
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                input_ids=input_ids,
                attention_mask=attention_mask,
                inputs_embeds=inputs_embeds,
                output_attentions=output_attentions,
                output_hidden_states=output_hidden_states,
                return_dict=True,
                **options,
            )
        assert encoder_outputs is not None
        return as_encoder_output(encoder_outputs)

    def _memory(self, encoded: BaseModelOutput) -> Tensor:
        """What the decoder reads: [B, S, D'] → [B, S, D]."""
        memory = encoded.last_hidden_state
        return memory if self.enc_to_dec_proj is None else self.enc_to_dec_proj(memory)

    # ---- writing ----

    @property
    def max_positions(self) -> int | None:
        """How many positions the decoder can read."""
        return self.decoder.max_positions

    @property
    def source_positions(self) -> int | None:
        """How many positions the encoder has learnt; None where it has none to learn."""
        stack = next(part for part in self.encoder.modules() if isinstance(part, Stack))
        return stack.embedding.limit

    def begin_decoding(
        self,
        inputs: Mapping[str, Any],
        *,
        rows_per_source: int,
        capacity: int,
        use_cache: bool,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> Any:
        """Encode the source once and let the decoder begin to continue texts about it."""
        encoded = self._encode(
            inputs.get("input_ids"),
            inputs.get("attention_mask"),
            inputs.get("inputs_embeds"),
            inputs.get("encoder_outputs"),
            output_attentions,
            output_hidden_states,
        )
        prompt_mask = inputs.get("decoder_attention_mask")
        positions = None
        if prompt_mask is not None:  # as in a pass, padding counts
            positions = torch.arange(prompt_mask.shape[1], device=prompt_mask.device)[None]
        decoding: Any = self.decoder.begin_decoding(
            {
                "attention_mask": prompt_mask,
                "position_ids": positions,
                "encoder_hidden_states": self._memory(encoded),
                "encoder_attention_mask": inputs.get("attention_mask"),
            },
            rows_per_source=rows_per_source,
            capacity=capacity,
            use_cache=use_cache,
        )
        decoding.encoder_outputs = encoded
        return decoding

    def generate(
        self, inputs: Tensor | None = None, generation_config: GenerationConfig | None = None, **kwargs: Any
    ) -> Tensor | GenerateOutput:
        """Write: see `seq2seq_zoo.generation.generate`, which takes the same arguments.

        Special tokens are usually given to a pair after it was built (model.config.decoder_start_token_id =
        …): as long as nobody has touched model.generation_config, it follows the config.
        """
        self._follow_config()
        return super().generate(inputs, generation_config, **kwargs)

    def _follow_config(self) -> None:
        now = GenerationConfig.from_model_config(self.config)
        if self.generation_config == self._generation_as_built != now:
            self.generation_config, self._generation_as_built = now, copy.deepcopy(now)


_OF_NO_CONSEQUENCE = (
    *("is_decoder", "add_cross_attention", "is_encoder_decoder", "architectures", "dtype"),
    *("id2label", "label2id", "problem_type"),
)
"""Fields in which a half's config may differ from the pair's."""


def _alone(encoder: Encoder) -> Model:
    """The encoder of a model, such as `mvp.get_encoder()`, as its family's class for an encoder alone."""
    with torch.device("meta"):
        model: Any = encoder_class(encoder.config.model_type)(encoder.config)
    model.token_embedding, model.encoder = encoder.embedding.tokens, encoder
    return model  # type: ignore[no-any-return]


def _half(half: str, where: Place | None, options: dict[str, Any]) -> Model:
    """One half of a pair: the model among the options, or the checkpoint at `where`."""
    given = options.pop("model", None)
    if given is not None:
        if options:
            raise ValueError(f"{half}_model is there already; it takes no {', '.join(sorted(options))}")
        return given  # type: ignore[no-any-return]
    if where is None:
        raise ValueError(f"neither {half}_pretrained_model_name_or_path nor {half}_model was given")
    config = options.get("config")
    if isinstance(config, Config):
        model_type: object = config.model_type
    else:
        hub = ("revision", "subfolder", "cache_dir", "token", "local_files_only")
        values = read_config(
            where if config is None else config, **{name: options[name] for name in hub if name in options}
        )
        model_type = values.get("model_type")
        role = half == "decoder"
        options = {"is_decoder": role, "add_cross_attention": role, **options}
    find_family(FAMILIES, model_type, os.fspath(where))  # a type nobody knows is refused with its place
    cls: type[Model] = decoder_class(model_type) if half == "decoder" else encoder_class(model_type)
    return cls.from_pretrained(where, **options)  # type: ignore[no-any-return]
