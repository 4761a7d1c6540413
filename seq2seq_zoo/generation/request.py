"""From the arguments of `generate` to a request: everything checked and settled before any work is done.

    options   kwargs > given config > checkpoint's config > defaults          settle_options
    source    what the encoder reads, one row a source                        settle_source
    prompt    the ids that are continued                                      settle_prompt
    lengths   the longest and shortest result, in tokens with the prompt      _settle_lengths

Every refusal is a GenerationError that names argument, value and what it must be.
Nothing of the caller's is changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seq2seq_zoo.errors import GenerationError
from seq2seq_zoo.generation.config import OPTIONS, GenerationConfig, can_be_none, nearest
from seq2seq_zoo.generation.guidance import NegativePrompt, settle_negative_prompt
from seq2seq_zoo.generation.inputs import (
    ids_of,
    kind_of,
    settle_decoder_prompt,
    settle_mask,
    settle_prompt,
    settle_source,
)
from seq2seq_zoo.generation.protocol import GenerativeModel

_DEFAULT_NEW_TOKENS = 20
_SPECIAL = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")

# Documented options and arguments that generate does not offer, and the values that ask for nothing.
_UNSUPPORTED_OPTIONS: dict[str, tuple[Any, ...]] = {
    "token_healing": (False,),
    "watermarking_config": (None,),
    "assistant_early_exit": (None,),
    "low_memory": (None, False),
    "penalty_alpha": (None, 0),
    "dola_layers": (None,),
    "diversity_penalty": (None, 0),
    "num_beam_groups": (None, 1),
    "constraints": (None,),
    "force_words_ids": (None,),
}
_UNSUPPORTED_ARGUMENTS = ("assistant_tokenizer",)


@dataclass
class Request:
    """One call of generate, settled.

    config: all options, from all levels; asked: those that this very call sets.
    inputs: the model's own keywords, one row a source.
    prompt: [sources, n] int64; n = 0 only where embeddings stand for a decoder's prompt.
    source_ids: the ids the encoder (or the decoder alone) reads; None for embeddings or encoder outputs.
    padding, source_padding: of the same shape as prompt and source_ids, True where a mask hides a token; None
        where it hides none.
    limit, least: longest and shortest result, prompt included.
    hidden: positions before the prompt's ids that have none, being embeddings.
    negative: what guidance leads away from, or None.
    eos: end-of-sequence ids [E], or None.
    pad: fills finished rows; 0, and never used, where there is neither padding nor end token.
    """

    config: GenerationConfig
    asked: frozenset[str]
    inputs: dict[str, Any]
    prompt: Tensor
    source_ids: Tensor | None
    padding: Tensor | None
    source_padding: Tensor | None
    limit: int
    least: int
    hidden: int
    eos: Tensor | None
    pad: int
    negative: NegativePrompt | None

    @property
    def capacity(self) -> int:
        """Positions a row may need."""
        return self.limit + self.hidden

    @property
    def rows_per_source(self) -> int:
        return max(self.config.num_beams, self.config.num_return_sequences)


def settle(
    model: GenerativeModel,
    inputs: Tensor | None,
    given: GenerationConfig | None,
    keywords: Mapping[str, Any],
    arguments: Iterable[str],
    use_model_defaults: bool | None,
    negative_prompt_ids: Tensor | None = None,
    negative_prompt_attention_mask: Tensor | None = None,
) -> Request:
    """Check and settle a call; `keywords` are options and model inputs, `arguments` generate's other
    names."""
    config, model_inputs, asked = settle_options(model, given, keywords, arguments, use_model_defaults)
    source_vocabulary, vocabulary = vocabularies(model)
    _check_token_options(config, asked, vocabulary)
    eos = ids_of(config.eos_token_id)
    pad = config.pad_token_id if config.pad_token_id is not None or not eos else eos[0]

    if inputs is not None:
        if model_inputs.get("input_ids") is not None:
            raise GenerationError("give either inputs or input_ids, not both")
        model_inputs["input_ids"] = inputs
    model_inputs = {name: value for name, value in model_inputs.items() if value is not None}
    if model.is_encoder_decoder:
        sources, source_ids = settle_source(model, model_inputs, config, source_vocabulary)
        prompt = settle_decoder_prompt(model, model_inputs, config, sources, vocabulary)
        hidden = 0
    else:
        prompt, hidden = settle_prompt(model, model_inputs, config, vocabulary)
        source_ids = prompt if prompt.shape[1] > 0 else None
    settle_mask(model, model_inputs, source_ids, pad, eos)
    if source_ids is None:
        for name, off in (("encoder_repetition_penalty", 1.0), ("encoder_no_repeat_ngram_size", 0)):
            if name in asked and getattr(config, name) not in (off, None):
                raise GenerationError(f"{name} needs the input's ids, but there are none")

    limit, least = _settle_lengths(model, config, asked, prompt.shape[1], hidden)
    negative = None
    if config.guidance_scale not in (None, 1):
        negative = settle_negative_prompt(
            model,
            model_inputs,
            prompt,
            source_ids,
            negative_prompt_ids,
            negative_prompt_attention_mask,
            source_vocabulary,
            limit - prompt.shape[1],
        )
    elif negative_prompt_ids is not None and config.guidance_scale is None:
        raise GenerationError("negative_prompt_ids needs a guidance_scale, but it is None")
    of_prompt = "decoder_attention_mask" if model.is_encoder_decoder else "attention_mask"
    return Request(
        config=config,
        asked=asked,
        inputs=model_inputs,
        prompt=prompt,
        source_ids=source_ids,
        padding=_padding(prompt, model_inputs.get(of_prompt)),
        source_padding=_padding(source_ids, model_inputs.get("attention_mask")),
        limit=limit,
        least=least,
        hidden=hidden,
        eos=torch.tensor(eos, device=prompt.device) if eos else None,
        pad=pad or 0,
        negative=negative,
    )


def _padding(ids: Tensor | None, mask: Tensor | None) -> Tensor | None:
    """Which of the ids a mask hides; None if none, or if it is not a mask of them."""
    if ids is None or mask is None or mask.shape != ids.shape:
        return None
    hidden = mask == 0
    return hidden if bool(hidden.any()) else None


# ---- options ----


def settle_options(
    model: GenerativeModel,
    given: GenerationConfig | None,
    keywords: Mapping[str, Any],
    arguments: Iterable[str],
    use_model_defaults: bool | None,
) -> tuple[GenerationConfig, dict[str, Any], frozenset[str]]:
    """All levels as one config; the model's own keywords; the options that this very call sets."""
    if given is not None and not isinstance(given, GenerationConfig):
        raise GenerationError(f"generation_config must be a GenerationConfig, but is {kind_of(given)}")
    arguments = (*arguments, *_UNSUPPORTED_ARGUMENTS)
    known = OPTIONS | model.generation_inputs
    for name, value in keywords.items():
        if name in _UNSUPPORTED_ARGUMENTS:
            if value is not None:
                raise GenerationError(f"generate does not offer the argument {name}")
        elif name not in known:
            raise GenerationError(
                f"generate has no argument {name!r}{nearest(name, (*known, *arguments, 'inputs'))}"
            )

    checkpoint = model.generation_config.given
    if given is not None and use_model_defaults is False:
        checkpoint = {name: value for name, value in checkpoint.items() if name in _SPECIAL}
    config = GenerationConfig(**checkpoint)
    of_this_call = dict(given.given) if given is not None else {}
    of_this_call |= {
        name: value
        for name, value in keywords.items()
        # None asks for nothing where the option cannot be off
        if name in OPTIONS and not (value is None and not can_be_none(name))
    }
    for name, value in of_this_call.items():
        setattr(config, name, value)
    if keywords.get("max_length") is None and config.max_length == GenerationConfig.max_length:
        config.max_length = None  # type: ignore[assignment]  # in a config this value means the default
    if "max_length" not in config.given and config.max_new_tokens is None:
        of_this_call.pop("max_length", None)

    _check_combinations(config)
    model_inputs = {name: value for name, value in keywords.items() if name in model.generation_inputs}
    return config, {n: v for n, v in model_inputs.items() if n not in OPTIONS}, frozenset(of_this_call)


def _check_combinations(config: GenerationConfig) -> None:
    for name, nothing in _UNSUPPORTED_OPTIONS.items():
        value = getattr(config, name)
        if value not in nothing:
            raise GenerationError(f"generate does not offer the option {name}, but it is {value!r}")
    if config.num_return_sequences > 1:
        if config.num_beams == 1 and not config.do_sample:
            raise GenerationError(
                f"num_return_sequences is {config.num_return_sequences}, but greedy search has one result: "
                "it needs num_beams > 1 or do_sample=True"
            )
        if 1 < config.num_beams < config.num_return_sequences:
            raise GenerationError(
                f"num_return_sequences must be at most num_beams, but is {config.num_return_sequences} with "
                f"num_beams={config.num_beams}"
            )
    if config.do_sample and config.temperature == 0:
        raise GenerationError(
            "temperature must be > 0 with do_sample=True, but is 0 (do_sample=False is greedy)"
        )


def _check_token_options(config: GenerationConfig, asked: frozenset[str], vocabulary: int) -> None:
    """Every id an option names must be in the vocabulary.

    A checkpoint's own pad and eos may lie outside it (a shrunken model): then they just never occur.
    """
    named: dict[str, list[int]] = {
        name: ids_of(getattr(config, name))
        for name in ("forced_bos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens")
    }
    named |= {name: ids_of(getattr(config, name)) for name in _SPECIAL[:3] if name in asked}
    named["bad_words_ids"] = [token for ids in config.bad_words_ids or () for token in ids]
    bias = config.sequence_bias
    sequences = [] if bias is None else bias if isinstance(bias, dict) else [ids for ids, _ in bias]
    named["sequence_bias"] = [token for ids in sequences for token in ids]
    for name, tokens in named.items():
        for token in tokens:
            if token >= vocabulary:
                raise GenerationError(f"{name} holds the id {token}, but the vocabulary has {vocabulary} ids")


def vocabularies(model: GenerativeModel) -> tuple[int, int]:
    """How many ids the encoder reads, and how many the decoder writes."""
    config = model.config
    both = (getattr(config, "encoder", config), getattr(config, "decoder", config))
    return both[0].vocab_size, both[1].vocab_size


# ---- lengths ----


def _settle_lengths(
    model: GenerativeModel, config: GenerationConfig, asked: frozenset[str], prompt: int, hidden: int
) -> tuple[int, int]:
    """Longest and shortest result in tokens, the prompt's `prompt` included, `hidden` embeddings not.

    The last token is written but never read, so a model of P positions can end at P + 1.
    """
    positions = model.max_positions
    room = None if positions is None else positions + 1 - hidden
    if config.max_new_tokens is not None:
        option, limit = "max_new_tokens", prompt + config.max_new_tokens
    elif "max_length" in config.given:
        option, limit = "max_length", config.max_length - hidden
        if limit <= prompt:
            raise GenerationError(
                f"max_length must be greater than the prompt's {prompt + hidden} tokens, but is "
                f"{config.max_length} (max_new_tokens counts new tokens only)"
            )
    else:
        option, limit = "", prompt + _DEFAULT_NEW_TOKENS
        if positions is not None:
            limit = min(limit, positions - hidden)
    if room is not None and limit > room:
        if option in asked:
            raise GenerationError(
                f"{option} is {getattr(config, option)}: with a prompt of {prompt + hidden} tokens that "
                f"needs {limit + hidden - 1} positions, but the model has {positions}"
            )
        limit = room
    if limit <= prompt:
        name = "decoder_input_ids" if model.is_encoder_decoder else "inputs_embeds" if hidden else "input_ids"
        raise GenerationError(
            f"{name} has {prompt + hidden} tokens, which leaves nothing to generate: the model has "
            f"{positions} positions"
        )

    if config.min_new_tokens is not None:
        option, least = "min_new_tokens", prompt + config.min_new_tokens
    else:
        option, least = "min_length", max((config.min_length or 0) - hidden, 0)
    if least > limit and option in asked:
        raise GenerationError(
            f"{option} is {getattr(config, option)}, which asks for at least {least - prompt} new tokens, "
            f"but the longest result has {limit - prompt}"
        )
    return limit, least
