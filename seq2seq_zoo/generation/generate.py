"""`generate`: from source or prompt to finished texts, for every family, through one loop.

settle the request (refusals come first) → begin decoding (the encoder runs) → greedy search or sampling
                                                                             → the same, assisted
                                                                             → beam search or beam sampling
                                         → or a loop of one's own
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from seq2seq_zoo.errors import GenerationError
from seq2seq_zoo.generation.assisted import continue_with_drafts
from seq2seq_zoo.generation.beams import search_beams
from seq2seq_zoo.generation.config import GenerationConfig
from seq2seq_zoo.generation.custom import load_custom, own_keywords, run_custom
from seq2seq_zoo.generation.drafts import (
    Drafter,
    PromptLookup,
    begin_assistant,
    check_assistant,
)
from seq2seq_zoo.generation.guidance import GuidedDecoding
from seq2seq_zoo.generation.outputs import GenerateOutput, Trace
from seq2seq_zoo.generation.pace import is_one_of_several
from seq2seq_zoo.generation.protocol import Decoding, GenerativeModel
from seq2seq_zoo.generation.request import Request, settle, vocabularies
from seq2seq_zoo.generation.run import Run, make_criteria, make_processors
from seq2seq_zoo.generation.sampling import continue_rows

_ARGUMENTS = (
    *("logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn", "streamer", "tokenizer"),
    *("assistant_model", "negative_prompt_ids", "negative_prompt_attention_mask", "custom_generate"),
    *("trust_remote_code", "synced_gpus", "use_model_defaults"),
)


@torch.no_grad()
def generate(
    model: GenerativeModel,
    inputs: Tensor | None = None,
    generation_config: GenerationConfig | None = None,
    *,
    logits_processor: Iterable[Callable[[Tensor, Tensor], Tensor]] | None = None,
    stopping_criteria: Iterable[Callable[[Tensor, Any], Any]] | None = None,
    prefix_allowed_tokens_fn: Callable[[int, Tensor], Iterable[int]] | None = None,
    streamer: Any = None,
    tokenizer: Any = None,
    assistant_model: Any = None,
    negative_prompt_ids: Tensor | None = None,
    negative_prompt_attention_mask: Tensor | None = None,
    custom_generate: str | Callable[..., Any] | None = None,
    trust_remote_code: bool | None = None,
    synced_gpus: bool | None = None,
    use_model_defaults: bool | None = None,
    **kwargs: Any,
) -> Tensor | GenerateOutput:
    """Continue a prompt (decoder) or write an answer to a source (encoder-decoder).

    inputs: ids [sources, length], also as `input_ids`; without any, the text starts from bos_token_id.
    generation_config: options; keywords override it, it overrides the checkpoint's.
    logits_processor: callables (ids [R, L], scores [R, V]) → scores, after those the options switch on.
    stopping_criteria: callables (ids [R, L], scores of the steps so far) → bool or [R].
    prefix_allowed_tokens_fn: (source, ids [L]) → the tokens that may follow.
    streamer: has `put` and `end`; is put the prompt [R, n], then the new tokens [R] of each step.
    tokenizer: has `decode`; needed for stop_strings.
    assistant_model: a smaller model with the same tokenizer, which drafts what this one judges; one source,
        one row. prompt_lookup_num_tokens does the same without a model.
    negative_prompt_ids, negative_prompt_attention_mask: [sources, n], what guidance_scale leads away from.
    custom_generate, trust_remote_code: a decoding loop of one's own (see `custom`).
    synced_gpus: keep up passes until all processes of torch.distributed have finished their texts.
    use_model_defaults: with generation_config, False leaves out the checkpoint's options, except its
        special tokens.
    kwargs: any option of GenerationConfig, and the model's own inputs (`model.generation_inputs`).

    Returns ids [sources · num_return_sequences, longest], the prompt included (an encoder-decoder's starts
    with its start token), finished rows padded; or with return_dict_in_generate one of the output classes.

    Raises GenerationError, before any work, naming the argument that is unknown, out of range or in
    contradiction. No argument and nothing of the model is changed.
    """
    further = {
        "streamer": streamer,
        "tokenizer": tokenizer,
        "assistant_model": assistant_model,
        "synced_gpus": synced_gpus,
    }
    if isinstance(custom_generate, str):
        everything = {
            "inputs": inputs,
            "generation_config": generation_config,
            "logits_processor": logits_processor,
            "stopping_criteria": stopping_criteria,
            "prefix_allowed_tokens_fn": prefix_allowed_tokens_fn,
            "negative_prompt_ids": negative_prompt_ids,
            "negative_prompt_attention_mask": negative_prompt_attention_mask,
            "use_model_defaults": use_model_defaults,
        }
        given = {name: value for name, value in (everything | further).items() if value is not None}
        return load_custom(custom_generate, trust_remote_code)(model, **given, **kwargs)  # type: ignore[no-any-return]
    if custom_generate is not None:
        if not callable(custom_generate):
            raise GenerationError(f"custom_generate must be callable or a place, but is {custom_generate!r}")
        further |= {name: kwargs.pop(name) for name in own_keywords(custom_generate, model, kwargs)}

    request = settle(
        model,
        inputs,
        generation_config,
        kwargs,
        _ARGUMENTS,
        use_model_defaults,
        negative_prompt_ids,
        negative_prompt_attention_mask,
    )
    config = request.config
    custom = {
        "logits_processor": _callables("logits_processor", logits_processor),
        "stopping_criteria": _callables("stopping_criteria", stopping_criteria),
    }
    if prefix_allowed_tokens_fn is not None and not callable(prefix_allowed_tokens_fn):
        raise GenerationError(
            f"prefix_allowed_tokens_fn must be callable, but is {prefix_allowed_tokens_fn!r}"
        )
    if config.stop_strings is not None and not callable(getattr(tokenizer, "decode", None)):
        raise GenerationError(
            f"stop_strings needs the tokenizer, to decode with, but tokenizer is {tokenizer!r}"
        )
    _check_streamer(streamer, request)
    _check_assistance(model, assistant_model, request)
    if custom_generate is not None and request.negative is not None:
        raise GenerationError(
            f"custom_generate decodes without guidance, but guidance_scale is {config.guidance_scale}"
        )

    processors = make_processors(
        request, vocabularies(model)[1], custom["logits_processor"], prefix_allowed_tokens_fn
    )
    criteria = make_criteria(request, custom["stopping_criteria"], tokenizer)
    prompt = request.prompt.repeat_interleave(request.rows_per_source, dim=0)
    if streamer is not None:
        streamer.put(prompt.cpu())
    if custom_generate is not None:
        return run_custom(custom_generate, model, request, processors, criteria, further)  # type: ignore[no-any-return]
    trace = Trace.wanted(config, model.is_encoder_decoder)
    decoding = _begin(model, request, trace)
    if config.cache_implementation == "static":
        decoding.make_static(compiled=not config.disable_compile)
    synced = bool(synced_gpus) and is_one_of_several()
    run = Run(request, decoding, prompt, processors, criteria, trace, streamer, synced)
    if config.num_beams > 1:
        return search_beams(run, model.is_encoder_decoder)
    drafter: Drafter | None = None
    if assistant_model is not None:
        drafter = begin_assistant(assistant_model, request, processors)
    elif config.prompt_lookup_num_tokens is not None:
        drafter = PromptLookup(
            config.prompt_lookup_num_tokens,
            config.max_matching_ngram_size or 2,
            request.source_ids if model.is_encoder_decoder else None,
            vocabularies(model)[1],
        )
    if drafter is not None:
        return continue_with_drafts(run, drafter, model.is_encoder_decoder)
    return continue_rows(run, model.is_encoder_decoder)


def _begin(model: GenerativeModel, request: Request, trace: Trace) -> Decoding:
    """The run that writes, with a second one beside it where guidance leads away from a negative prompt."""
    config, rows = request.config, request.rows_per_source
    decoding = model.begin_decoding(
        request.inputs,
        rows_per_source=rows,
        capacity=request.capacity,
        use_cache=config.use_cache,
        output_attentions=trace.attentions is not None,
        output_hidden_states=trace.hidden_states is not None,
    )
    if request.negative is None:
        return decoding
    lead = request.prompt.shape[1] + request.hidden - request.negative.prompt.shape[1]
    negative = model.begin_decoding(
        request.negative.inputs,
        rows_per_source=rows,
        capacity=request.capacity - lead,
        use_cache=config.use_cache,
    )
    return GuidedDecoding(decoding, negative, request.negative.prompt.repeat_interleave(rows, dim=0), lead)


def _callables(name: str, given: Any) -> list[Any]:
    if given is None:
        return []
    functions = list(given) if isinstance(given, Iterable) else [given]
    for function in functions:
        if not callable(function):
            raise GenerationError(f"{name} must hold callables, but holds {function!r}")
    return functions


def _check_streamer(streamer: Any, request: Request) -> None:
    if streamer is None:
        return
    if not (callable(getattr(streamer, "put", None)) and callable(getattr(streamer, "end", None))):
        raise GenerationError(f"streamer must have the methods put and end, but is {streamer!r}")
    if request.config.num_beams > 1:
        raise GenerationError(
            f"streamer needs num_beams=1, but it is {request.config.num_beams}: beams change their past"
        )


def _check_assistance(model: GenerativeModel, assistant: Any, request: Request) -> None:
    """Refuse what cannot be assisted: beams, several rows, a model that does not fit."""
    config, name = request.config, "assistant_model"
    if config.prompt_lookup_num_tokens is not None:
        if assistant is not None:
            raise GenerationError("give either assistant_model or prompt_lookup_num_tokens, not both")
        name = "prompt_lookup_num_tokens"
    elif assistant is None:
        return
    rows = request.prompt.shape[0]
    for option, value in (
        ("num_beams", config.num_beams),
        ("num_return_sequences", config.num_return_sequences),
    ):
        if value > 1:
            raise GenerationError(f"{name} needs {option}=1, but it is {value}")
    if rows > 1:
        raise GenerationError(f"{name} needs one row of input, but there are {rows}")
    if assistant is not None:
        check_assistant(model, assistant, request)
