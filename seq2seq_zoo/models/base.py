"""What every public model class can do, whatever its family: be built, loaded, saved, initialised, resized,
and generate.

A family's classes say four things about themselves, and the rest is here:

    config_class      the config they are built from
    key_map           which key of a hub checkpoint is which of our parameters
    initial_std       the published initialisation, a standard deviation for each part
    float32_parts     what must not be stored in float16
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol, TypeVar, overload, runtime_checkable

import torch
from torch import Tensor, nn

from ..checkpoint import (
    CONFIG,
    GENERATION_CONFIG,
    KeyMap,
    LoadReport,
    Weights,
    load_weights,
    open_weights,
    resolve_file,
    save_weights,
    unchanged,
    weight_files,
)
from ..config import Config, Place, dtype_named, read_config
from ..errors import CheckpointError, ConfigError, UsageError
from ..generation import Decoding, GenerateOutput, GenerationConfig, compute_transition_scores, generate
from ..hub import Pushable, options_of_push, push_folder
from ..layers.experts import StackedLinear
from ..layers.linear import train
from ..layers.norms import RMSNorm
from ..layers.positions import LearnedPositions, RelativeDistances, RelativePositionBias
from .loading import Device, Uncollected, WithoutValues, device_of, drop_rounding, stored_dtype

ModelT = TypeVar("ModelT", bound="Model")

_POSITIONS = (LearnedPositions, RelativeDistances, RelativePositionBias)


@runtime_checkable
class Quantization(Protocol):
    """How the weights of a loaded model are rounded."""

    def check(self, model_class: str) -> None:
        """Raise an error where that cannot be done here."""

    def quantize(self, model: nn.Module) -> None:
        """Round the weights of a model, in place."""


class Model(nn.Module, Pushable):
    """Base of the public model classes."""

    config_class: ClassVar[type[Config]]
    float32_parts: Sequence[str] = ()
    """Patterns of parameter names that a float16 model keeps in float32."""

    config: Any
    generation_config: GenerationConfig

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.check_config(config)
        self.config = config
        self.generation_config = GenerationConfig.from_model_config(config)

    @classmethod
    def check_config(cls, config: Config) -> None:
        """Raise ConfigError unless the config is of this class's kind and possible.

        A class that has work to do before it comes to this one's constructor calls it first.
        """
        if not isinstance(config, cls.config_class):
            raise ConfigError(
                f"{cls.__name__} was given a {type(config).__name__}; it is built from a "
                f"{cls.config_class.__name__}"
            )
        config.check()

    # ---- what a family says about itself ----

    @classmethod
    def key_map(cls, config: Any) -> KeyMap:
        """The two-way map between the keys of the hub's layout and this class's parameter names."""
        raise TypeError(f"{cls.__name__} does not say how its checkpoints are laid out")

    @classmethod
    def stored_key_map(cls, config: Any, weights: Weights) -> KeyMap:
        """The map of these weights' keys: the one by which they would be saved, unless the family has been
        laid out in several ways."""
        return cls.key_map(config)

    @classmethod
    def settle_config(cls, config: Any, weights: Weights) -> None:
        """Correct a checkpoint's config where only its weights tell what was meant; most have no need."""

    def initial_std(self, name: str) -> float:
        """The standard deviation with which the part of this name starts."""
        raise TypeError(f"{type(self).__name__} does not say how {name} starts")

    # ---- random weights ----

    def initialise(self, module: nn.Module) -> None:
        """Give the parameters that `module` itself owns the family's random start; biases and unused rows are
        0."""
        name = next(name for name, part in self.named_modules() if part is module)
        self._initialise(name, module)

    def _initialiser(self) -> Callable[[nn.Module], None]:
        """`initialise` for many parts: to look for each in turn would take the square of their number."""
        if type(self).initialise is not Model.initialise:
            return self.initialise
        names: dict[nn.Module, str] = {}

        def start(module: nn.Module) -> None:
            if not names:
                names.update((part, name) for name, part in self.named_modules())
            self._initialise(names[module], module)

        return start

    @torch.no_grad()
    def _initialise(self, name: str, module: nn.Module) -> None:
        if isinstance(module, (nn.LayerNorm, RMSNorm)):
            if module.weight is not None:
                module.weight.fill_(1.0)
            if isinstance(module, nn.LayerNorm):
                module.bias.zero_()
        elif isinstance(module, (nn.Linear, StackedLinear, nn.Embedding, *_POSITIONS)):
            module.weight.normal_(0.0, self.initial_std(name))
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.zero_()
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx].zero_()

    def _initialise_own_parts(self) -> None:
        """Start every part that does not belong to a model inside this one, which has started its own."""
        if any(parameter.is_meta for parameter in self.parameters()):
            return
        inner = {
            part
            for child in self.modules()
            if child is not self and isinstance(child, Model)
            for part in child.modules()
        }
        for name, module in self.named_modules():
            if module not in inner:
                self._initialise(name, module)

    # ---- loading and saving ----

    @overload
    @classmethod
    def from_pretrained(
        cls: type[ModelT], where: Place, *, output_loading_info: Literal[True], **options: Any
    ) -> tuple[ModelT, dict[str, list[str]]]: ...

    @overload
    @classmethod
    def from_pretrained(
        cls: type[ModelT], where: Place, *, output_loading_info: Literal[False] = False, **options: Any
    ) -> ModelT: ...

    @classmethod
    def from_pretrained(
        cls: type[ModelT],
        where: Place,
        *,
        config: Config | Place | None = None,
        dtype: torch.dtype | str | None = "auto",
        device: Device | None = None,
        revision: str | None = None,
        subfolder: str = "",
        cache_dir: Place | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        ignore_mismatched_sizes: bool = False,
        output_loading_info: bool = False,
        torch_dtype: torch.dtype | str | None = None,
        device_map: Device | Mapping[str, Device] | None = None,
        quantization_config: Quantization | None = None,
        trust_remote_code: bool | None = None,
        **config_overrides: Any,
    ) -> ModelT | tuple[ModelT, dict[str, list[str]]]:
        """The model of a checkpoint, in eval mode.

        where                     a folder, a hub repository id (a folder of that name wins), or
                                  `bundled:NAME`
        config                    a config to use in place of the checkpoint's
        dtype                     "auto": the one config.json names, else that of most of what is stored;
                                  `torch_dtype` is its old name
        device                    where the weights go; `device_map` may name a device too, alone or as
                                  {"": device}
        ignore_mismatched_sizes   start parameters anew whose stored shape does not fit, instead of refusing
        output_loading_info       return (model, info) with the lists missing_keys, unexpected_keys,
                                  mismatched_keys
        quantization_config       rounds the weights once they are loaded, such as a BitsAndBytesConfig
        trust_remote_code         changes nothing: no code of a checkpoint is ever run
        config_overrides          config fields that replace the checkpoint's, such as num_labels

        Parameters the checkpoint does not have start at random, and a warning names them. Raises
        CheckpointError for a missing or damaged checkpoint and for one of another family, ConfigError for a
        config no model can have.
        """
        hub: dict[str, Any] = {
            "revision": revision,
            "subfolder": subfolder,
            "cache_dir": cache_dir,
            "token": token,
            "local_files_only": local_files_only,
        }
        if quantization_config is not None:
            if not isinstance(quantization_config, Quantization):
                kind = type(quantization_config).__name__
                raise ConfigError(f"quantization_config is a {kind}; it must be a BitsAndBytesConfig")
            quantization_config.check(cls.__name__)

        def read() -> tuple[Config, Weights, GenerationConfig | None]:
            cfg = cls._config_for(where, config, hub, config_overrides)
            weights = open_weights(where, **hub)
            path = resolve_file(where, GENERATION_CONFIG, required=False, **hub)
            return cfg, weights, None if path is None else GenerationConfig.from_file(path)

        with Uncollected():
            cfg, weights, generation_config = unchanged(where, subfolder, read)
            wanted = dtype if torch_dtype is None else torch_dtype
            if wanted in ("auto", None):
                chosen = cfg.dtype if wanted == "auto" else torch.get_default_dtype()
            else:
                chosen = dtype_named(wanted)
            drop_rounding(weights, cfg)
            chosen = chosen or stored_dtype(weights)
            cls.settle_config(cfg, weights)
            with torch.device("meta"), WithoutValues():
                model = cls(cfg)
            report = load_weights(
                model,
                weights,
                cls.stored_key_map(cfg, weights),
                dtype=chosen,
                keep_float32=model.float32_parts,
                device=device_of(device, device_map),
                ignore_mismatched_sizes=ignore_mismatched_sizes,
                initialise=model._initialiser(),
            )
            if generation_config is not None:
                model.generation_config = generation_config
            model.config.dtype = model.dtype
            model.eval()
        if quantization_config is not None:
            quantization_config.quantize(model)
        return (model, _info(report)) if output_loading_info else model

    @classmethod
    def _config_for(
        cls, where: Place, given: Config | Place | None, hub: Mapping[str, Any], overrides: Mapping[str, Any]
    ) -> Config:
        if isinstance(given, Config):
            values = given.to_dict()
        else:
            values = read_config(where if given is None else given, **hub)
        accepted = (cls.config_class.model_type, *cls.config_class.accepts)
        found = values.get("model_type", accepted[0])  # early checkpoints do not say, and the class does
        if found not in accepted:
            what = "the given config" if isinstance(given, Config) else os.fspath(where)
            raise CheckpointError(
                f"{what} has model_type {found!r}; {cls.__name__} loads {' and '.join(map(repr, accepted))}"
            )
        known = {*cls.config_class.fields(), *cls.config_class.aliases, "num_labels", *values}
        unknown = sorted(set(overrides) - known)
        if unknown:
            raise ConfigError(
                f"from_pretrained was given {', '.join(unknown)}; "
                f"{cls.config_class.__name__} has no such field"
            )
        return cls.config_class.from_dict(values, **overrides)

    def save_pretrained(
        self,
        directory: Place,
        *,
        max_shard_size: int | str = "50GB",
        safe_serialization: bool = True,
        push_to_hub: bool = False,
        **push_options: Any,
    ) -> None:
        """Write config.json, generation_config.json and safetensors in the hub's layout into `directory`.

        max_shard_size        up to which shards grow: "200MB", "50GB", or bytes
        safe_serialization    True; pickled weights are read, but not written
        push_to_hub           upload what was written; push_options are those of the method push_to_hub, and
                              repo_id, without which the repository is called as the directory

        An interrupted save leaves what was there. Raises CheckpointError if `directory` cannot be written, or
        the hub refuses.
        """
        if not safe_serialization:
            raise ValueError("safe_serialization is False; weights are written as safetensors alone")
        push = options_of_push(self, directory, push_to_hub, push_options)
        self._save(directory, max_shard_size)
        if push_to_hub:
            names = (CONFIG, GENERATION_CONFIG, *weight_files(directory))
            push_folder(directory, names=names, **push)

    def _save(self, directory: Place, max_shard_size: int | str) -> None:
        """Write the files of `save_pretrained`."""
        config = copy.deepcopy(self.config)
        config.architectures = [type(self).__name__]
        config.dtype = self.dtype
        save_weights(
            self,
            type(self).key_map(self.config),
            directory,
            max_shard_size=max_shard_size,
            also={
                CONFIG: json.loads(config.to_json_string()),
                GENERATION_CONFIG: json.loads(self.generation_config.to_json_string()),
            },
        )

    # ---- parts and properties ----

    def train(self: ModelT, mode: bool = True) -> ModelT:
        """Train, or (`mode` False, as `eval` says it) infer; then linear layers suit themselves to the number
        of rows (see `layers.linear`)."""
        if not isinstance(mode, bool):
            raise ValueError(f"mode is {mode!r}; it must be True or False")
        self.training = mode
        for part in self.children():
            if isinstance(part, Model):
                part.train(mode)
            else:
                train(part, mode)
        return self

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of most of the model: of its first floating-point parameter."""
        return next(p.dtype for p in self.parameters() if p.is_floating_point())

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """How many numbers the model has learnt; tied ones count once. Embeddings are all tables that are
        looked up: of tokens, of positions and distances, of prompts."""
        tables = (
            {id(m.weight) for m in self.modules() if isinstance(m, (nn.Embedding, *_POSITIONS))}
            if exclude_embeddings
            else set()
        )
        return sum(
            p.numel()
            for p in self.parameters()
            if id(p) not in tables and (p.requires_grad or not only_trainable)
        )

    def get_input_embeddings(self) -> nn.Embedding:
        """The table of token vectors, [V, D]."""
        raise TypeError(f"{type(self).__name__} has no input embeddings")

    def get_output_embeddings(self) -> nn.Linear | None:
        """The head that scores tokens, or None."""
        return None

    def tie_weights(self) -> None:
        """Let the head that scores tokens use the token vectors, where the config says so."""
        head = self.get_output_embeddings()
        if head is not None and self.config.tie_word_embeddings:
            head.weight = self.get_input_embeddings().weight

    def token_tables(self) -> Sequence[nn.Embedding]:
        """The tables of token vectors, the one of the input first: one, unless stacks have tables of their
        own."""
        return [self.get_input_embeddings()]

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> nn.Embedding:
        """Give the vocabulary `new_num_tokens` entries (None: as many as now), and as many more as make it a
        multiple of `pad_to_multiple_of`. New ones start at the mean of the old, or without `mean_resizing` at
        random as in a new model. Returns the table.

        Raises UsageError where the output head has given its weight up for a rounded one."""
        table = self.get_input_embeddings()
        for name, value in (("new_num_tokens", new_num_tokens), ("pad_to_multiple_of", pad_to_multiple_of)):
            whole = value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1)
            if not whole:
                raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1")
        rows, step = new_num_tokens or table.num_embeddings, pad_to_multiple_of or 1
        rows = -(-rows // step) * step
        if rows == table.num_embeddings:
            return table

        def resized(part: nn.Module, weight: Tensor) -> nn.Parameter:
            name = next(name for name, module in self.named_modules() if module is part)
            return _resized(weight, rows, None if mean_resizing else self.initial_std(name))

        head = self.get_output_embeddings()
        if head is not None and head.weight.is_meta and not table.weight.is_meta:
            raise UsageError(
                f"{type(self).__name__}'s output head has rounded weights, which take no more tokens, nor "
                "fewer; resize the model before optimize()"
            )
        tied = head is not None and head.weight is table.weight
        for part in self.token_tables():
            part.weight = resized(part, part.weight)
            part.num_embeddings = rows
            if part.padding_idx is not None and part.padding_idx >= rows:
                part.padding_idx = None
        if head is not None:
            head.weight = table.weight if tied else resized(head, head.weight)
            if head.bias is not None:
                kept = head.bias[:rows]
                start = kept.mean() if mean_resizing and not tied else kept.new_zeros(())
                new = start.detach().expand(rows - kept.shape[0])
                head.bias = nn.Parameter(torch.cat([kept, new]).detach(), head.bias.requires_grad)
            head.out_features = rows
        self.config.vocab_size = rows
        return table


class Writes(Model):
    """A model that writes: it can begin a decoding run, so `generate` can drive it.

    A family says which keywords of `generate` are its own, whether ids continue a source's answer or the
    input itself, how many positions it can read, and how a run begins (see
    `generation.protocol.GenerativeModel`).
    """

    generation_inputs: ClassVar[frozenset[str]]
    is_encoder_decoder: ClassVar[bool]

    @property
    def max_positions(self) -> int | None:
        """How many positions the decoder can read; None where nothing limits it."""
        return None

    @property
    def source_positions(self) -> int | None:
        """How many positions the encoder can read; None where nothing limits it, or there is none."""
        return None

    @property
    def reads_memory(self) -> bool:
        """Whether a decoder alone has cross-attention, so that it can be the writing half of a pair."""
        return False

    def begin_decoding(
        self,
        inputs: Mapping[str, Any],
        *,
        rows_per_source: int,
        capacity: int,
        use_cache: bool,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> Decoding:
        """Encode the source, if there is one, and make ready to continue `rows_per_source` texts for each of
        its rows."""
        raise TypeError(f"{type(self).__name__} does not say how it begins to decode")

    def generate(
        self, inputs: Tensor | None = None, generation_config: GenerationConfig | None = None, **kwargs: Any
    ) -> Tensor | GenerateOutput:
        """Write: see `seq2seq_zoo.generation.generate`, which takes the same arguments."""
        return generate(self, inputs, generation_config, **kwargs)

    def compute_transition_scores(
        self,
        sequences: Tensor,
        scores: Sequence[Tensor],
        beam_indices: Tensor | None = None,
        normalize_logits: bool = False,
    ) -> Tensor:
        """The score of each token that was chosen: see `seq2seq_zoo.generation.compute_transition_scores`."""
        return compute_transition_scores(sequences, scores, beam_indices, normalize_logits)


@torch.no_grad()
def _resized(weight: Tensor, rows: int, std: float | None) -> nn.Parameter:
    """The first `rows` rows; those that are not there yet are normal of this `std`, or the mean row."""
    kept = weight[:rows]
    new = weight.new_empty(rows - kept.shape[0], weight.shape[1])
    if std is None:
        new.copy_(weight.mean(0, keepdim=True).expand_as(new))
    else:
        new.normal_(0.0, std)
    return nn.Parameter(torch.cat([kept, new]), requires_grad=weight.requires_grad)


def _info(report: LoadReport) -> dict[str, list[str]]:
    return {
        "missing_keys": list(report.missing_keys),
        "unexpected_keys": list(report.unexpected_keys),
        "mismatched_keys": list(report.mismatched_keys),
    }
