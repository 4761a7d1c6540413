"""GenerationConfig: every option of `generate`, its default, its range, and its file.

    kwargs of generate  >  the config given to generate  >  the checkpoint's config  >  the defaults below

A config remembers which options were set: only those travel from one level to the next, so a value that
happens to equal the default still overrides. Field names and defaults are those of generation_config.json
on the hub (transformers 4.57.6); files are written with what was set, and keys that this version does not
know are kept.
"""

from __future__ import annotations

import copy
import difflib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from seq2seq_zoo.checkpoint import GENERATION_CONFIG, resolve_file, write_json_atomically
from seq2seq_zoo.errors import CheckpointError, GenerationError
from seq2seq_zoo.generation.ranges import RANGES
from seq2seq_zoo.hub import Pushable, options_of_push, push_folder
from seq2seq_zoo.json_file import read_json

# Bookkeeping of the library that wrote a file: kept, but no part of what two configs mean.
_METADATA = ("transformers_version", "_from_model_config", "_commit_hash")

# Options where None is a value of its own ("off") although the default is something else.
_OFF_WHEN_NONE = frozenset(
    (
        *("min_length", "temperature", "top_k", "top_p", "typical_p", "epsilon_cutoff", "eta_cutoff"),
        *("repetition_penalty", "encoder_repetition_penalty"),
        *("no_repeat_ngram_size", "encoder_no_repeat_ngram_size"),
    )
)


@dataclass(init=False, eq=False, repr=False)
class GenerationConfig(Pushable):
    """Options of `generate`.

    `GenerationConfig(num_beams=4)` sets one of them; reading another gives its default. Setting None means
    the default again, or "off" where the option can be off. A value of the wrong type or outside its range
    raises GenerationError at once; options that contradict each other are found by `generate`, where all
    levels meet.
    """

    # How long
    max_length: int = 20
    """Longest result in tokens, the prompt included.  The default counts new tokens only."""
    max_new_tokens: int | None = None
    """Longest result in new tokens; wins over max_length."""
    min_length: int | None = 0
    """No end-of-sequence token before this many tokens, the prompt included."""
    min_new_tokens: int | None = None
    """No end-of-sequence token before this many new tokens; wins over min_length."""
    early_stopping: bool | str = False
    """Beams: True stops at num_beams finished texts; False when an improvement is unlikely; "never" when it
    is impossible."""
    max_time: float | None = None
    """Seconds after which to stop."""
    stop_strings: str | list[str] | None = None
    """Texts that end a row."""

    # In which way
    do_sample: bool = False
    """Draw tokens instead of taking the best."""
    num_beams: int = 1
    """Texts kept in parallel for each source."""
    num_return_sequences: int = 1
    """Texts returned for each source."""
    length_penalty: float = 1.0
    """Exponent α in score = Σ log p / length^α."""
    use_cache: bool = True
    """Keep keys and values between steps; False recomputes them."""
    cache_implementation: str | None = None
    """"dynamic", or "static", which writes the same: steps read buffers of the full length, so that all have
    the same shapes, and on a GPU are compiled into one graph. Worth it there; on a CPU it costs a bit more.
    What cannot be done so stays dynamic: use_cache=False, drafts, steps of which attentions or hidden states
    are asked for, MEGA, and BertGeneration with relative distances."""
    disable_compile: bool = False
    """On a GPU: static steps one kernel at a time."""
    cache_config: dict[str, Any] | None = None
    return_legacy_cache: bool | None = None
    prefill_chunk_size: int | None = None
    """Read a long prompt so many positions at a time, which takes less memory."""

    # How the scores are changed
    temperature: float | None = 1.0
    """Sampling: scores are divided by it."""
    top_k: int | None = 50
    """Sampling: only the k best tokens; 0 for all."""
    top_p: float | None = 1.0
    """Sampling: only the fewest best tokens that hold this much probability."""
    min_p: float | None = None
    """Sampling: only tokens at least this likely relative to the best."""
    typical_p: float | None = 1.0
    """Sampling: only the tokens nearest to the expected information, up to this much probability."""
    epsilon_cutoff: float | None = 0.0
    """Sampling: only tokens at least this likely."""
    eta_cutoff: float | None = 0.0
    """Sampling: the same with a cutoff that follows the entropy."""
    repetition_penalty: float | None = 1.0
    """Above 1, tokens of the text so far become less likely."""
    encoder_repetition_penalty: float | None = 1.0
    """Above 1, tokens of the source become more likely."""
    no_repeat_ngram_size: int | None = 0
    """No n-gram of this size occurs twice; 0 for off."""
    encoder_no_repeat_ngram_size: int | None = 0
    """No n-gram of this size is taken from the source; 0 for off."""
    bad_words_ids: list[list[int]] | None = None
    """Token sequences that must not be completed."""
    sequence_bias: Any = None
    """A bias for completing a token sequence: {(ids, …): bias} or [[[ids, …], bias], …]."""
    renormalize_logits: bool = False
    """Make the processed scores log-probabilities again."""
    forced_bos_token_id: int | None = None
    """The first token after a prompt of one token."""
    forced_eos_token_id: int | list[int] | None = None
    """The last token where max_length is reached."""
    remove_invalid_values: bool = False
    """Replace NaN and infinities among the scores."""
    exponential_decay_length_penalty: tuple[int, float] | None = None
    """(start, factor): after `start` new tokens the end becomes exponentially more likely."""
    suppress_tokens: list[int] | None = None
    """Tokens that are never written."""
    begin_suppress_tokens: list[int] | None = None
    """Tokens that are not written first."""
    guidance_scale: float | None = None
    """Classifier-free guidance: above 1 away from the negative prompt, below 1 towards it."""
    token_healing: bool = False
    watermarking_config: Any = None

    # What comes back
    return_dict_in_generate: bool = False
    """An output object instead of the ids alone."""
    output_scores: bool = False
    """With it: the processed scores of each step (and the beams' final ones)."""
    output_logits: bool | None = None
    """With it: the unprocessed logits of each step."""
    output_attentions: bool = False
    """With it: attention weights of each step."""
    output_hidden_states: bool = False
    """With it: hidden states of each step."""

    # Special tokens
    pad_token_id: int | None = None
    """Fills finished rows; the first end-of-sequence token if unset."""
    bos_token_id: int | None = None
    """The prompt where none is given."""
    eos_token_id: int | list[int] | None = None
    """Ends a row; one or several."""
    decoder_start_token_id: int | list[int] | None = None
    """What an encoder-decoder's text starts with: one for all, or one a source; bos_token_id if unset."""

    # Assisted decoding
    num_assistant_tokens: int = 20
    """Tokens the assistant drafts at a time."""
    num_assistant_tokens_schedule: str = "constant"
    """"constant"; or "heuristic" and "heuristic_transient", which are one here: two more after a draft that
    was all right, one less after another."""
    assistant_confidence_threshold: float | None = 0.4
    """A draft ends where the assistant is less sure than this."""
    prompt_lookup_num_tokens: int | None = None
    """Draft this many tokens from earlier text instead of from a model."""
    max_matching_ngram_size: int | None = None
    """Longest n-gram that prompt lookup matches."""
    assistant_early_exit: int | None = None
    assistant_lookbehind: int = 10
    target_lookbehind: int = 10

    # Names of the documentation that stand for nothing here, or for what is not supported
    compile_config: Any = None
    low_memory: bool | None = None
    penalty_alpha: float | None = None
    dola_layers: Any = None
    diversity_penalty: float | None = 0.0
    num_beam_groups: int = 1
    constraints: Any = None
    force_words_ids: Any = None

    # The options that were set are the instance's own attributes; defaults are found on the class.

    def __init__(self, **options: Any) -> None:
        self.__dict__["_unknown"] = {}
        for name, value in options.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in OPTIONS:
            raise GenerationError(f"GenerationConfig has no option {name!r}{nearest(name, OPTIONS)}")
        if value is None and not can_be_none(name):
            self.__dict__.pop(name, None)
            return
        if value is not None and name in RANGES:
            allowed, description = RANGES[name]
            value = _plain(value)
            if not allowed(value):
                raise GenerationError(f"{name} must be {description}, but is {value!r}")
        self.__dict__[name] = value

    @property
    def given(self) -> dict[str, Any]:
        """The options that were set, by name."""
        return {name: value for name, value in self.__dict__.items() if name in OPTIONS}

    def update(self, **options: Any) -> dict[str, Any]:
        """Set the options among the keywords; return the keywords that are none."""
        for name in options.keys() & OPTIONS:
            setattr(self, name, options[name])
        return {name: value for name, value in options.items() if name not in OPTIONS}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GenerationConfig):
            return NotImplemented
        mine, theirs = self.to_dict(), other.to_dict()
        for name in _METADATA:
            mine.pop(name, None)
            theirs.pop(name, None)
        return mine == theirs

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"GenerationConfig({', '.join(f'{name}={value!r}' for name, value in self.given.items())})"

    # ---- dictionaries and files ----

    def to_dict(self) -> dict[str, Any]:
        """Every option and every unknown key, as plain values."""
        return copy.deepcopy({name: getattr(self, name) for name in sorted(OPTIONS)} | self._unknown_keys())

    def to_diff_dict(self) -> dict[str, Any]:
        """What was set and every unknown key: the content of the file."""
        return copy.deepcopy(self.given | self._unknown_keys())

    def to_json_string(self) -> str:
        """The text of the file."""
        return json.dumps(_jsonable(self.to_diff_dict()), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_dict(cls, options: Mapping[str, Any], **overrides: Any) -> GenerationConfig:
        """Options from a dictionary; unknown keys are kept, unknown overrides raise GenerationError."""
        known = {name: value for name, value in options.items() if name in OPTIONS}
        config = cls(**copy.deepcopy(known))
        config.__dict__["_unknown"] = copy.deepcopy({k: v for k, v in options.items() if k not in known})
        for name, value in overrides.items():
            setattr(config, name, value)
        return config

    @classmethod
    def from_model_config(cls, config: Any) -> GenerationConfig:
        """The generation options found in a model's config: a dictionary, or an object with `to_dict`.

        A pair of models (EncoderDecoderModel) keeps some of them in its decoder's part: those count where
        the outer part has none.
        """
        outer = config if isinstance(config, Mapping) else config.to_dict()
        inner = outer.get("decoder")
        found = {**inner} if isinstance(inner, Mapping) else {}
        found.update({name: value for name, value in outer.items() if value is not None})
        options = {name: value for name, value in found.items() if name in OPTIONS and value is not None}
        if any(options.get(name) for name in _EXTRA_OUTPUTS):
            options.setdefault("return_dict_in_generate", True)
        return cls(**copy.deepcopy(options))

    @classmethod
    def from_pretrained(
        cls,
        where: str | os.PathLike[str],
        config_file_name: str = GENERATION_CONFIG,
        *,
        revision: str | None = None,
        subfolder: str = "",
        cache_dir: str | os.PathLike[str] | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        **overrides: Any,
    ) -> GenerationConfig:
        """Read generation_config.json from a folder, a hub repository or `bundled:NAME`.

        Raises CheckpointError for a missing or damaged file, GenerationError for an option out of its
        range.
        """
        path = resolve_file(
            where,
            config_file_name,
            revision=revision,
            subfolder=subfolder,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
        )
        if path is None:
            raise CheckpointError(f"{where} has no {config_file_name}")
        return cls.from_file(path, **overrides)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], **overrides: Any) -> GenerationConfig:
        """Read a generation_config.json; errors as those of `from_pretrained`."""
        try:
            options = read_json(path)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error
        except ValueError as error:
            raise CheckpointError(f"{path} is not valid JSON: {error}") from error
        if not isinstance(options, dict):
            raise CheckpointError(f"{path} must hold a JSON object, but holds a {type(options).__name__}")
        try:
            return cls.from_dict(options, **overrides)
        except GenerationError as error:
            raise GenerationError(f"{path}: {error}") from error

    def save_pretrained(
        self,
        directory: str | os.PathLike[str],
        config_file_name: str = GENERATION_CONFIG,
        *,
        push_to_hub: bool = False,
        **push_options: Any,
    ) -> None:
        """Write generation_config.json into `directory`, which is made if need be; with push_to_hub upload
        it, under the options of the method push_to_hub and repo_id, without which the repository is called as
        the directory."""
        folder = Path(directory)
        if folder.is_file():
            raise GenerationError(f"save_pretrained needs a directory, but {folder} is a file")
        push = options_of_push(self, folder, push_to_hub, push_options)
        write_json_atomically(folder / config_file_name, _jsonable(self.to_diff_dict()))
        if push_to_hub:
            push_folder(folder, names=[config_file_name], **push)

    def _unknown_keys(self) -> dict[str, Any]:
        unknown: dict[str, Any] = self.__dict__["_unknown"]
        return unknown


OPTIONS = frozenset(field.name for field in fields(GenerationConfig))

_EXTRA_OUTPUTS = ("output_attentions", "output_hidden_states", "output_scores", "output_logits")


def can_be_none(name: str) -> bool:
    """Whether None is a value of the option, rather than the wish for its default."""
    return name in _OFF_WHEN_NONE or getattr(GenerationConfig, name) is None


def nearest(name: str, names: Iterable[str]) -> str:
    """' (did you mean …?)' with the name most like the unknown `name`, or nothing."""
    close = difflib.get_close_matches(name, sorted(names), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _plain(value: Any) -> Any:
    """A tensor or array of ids as the numbers it holds."""
    return value.tolist() if hasattr(value, "tolist") else value


def _jsonable(options: dict[str, Any]) -> dict[str, Any]:
    bias = options.get("sequence_bias")
    if isinstance(bias, dict):  # JSON has no tuple keys; both spellings mean the same
        options = options | {"sequence_bias": [[list(ids), value] for ids, value in bias.items()]}
    return options
