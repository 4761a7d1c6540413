"""`generate`: from source or prompt to finished texts, for every family, through one loop.

settle the request (refusals come first) → begin decoding (the encoder runs) → greedy search or sampling
                                                                             → beam search or beam sampling
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from seq2seq_zoo.errors import GenerationError
from seq2seq_zoo.generation.beams import search_beams
from seq2seq_zoo.generation.config import GenerationConfig
from seq2seq_zoo.generation.outputs import GenerateOutput, Trace
from seq2seq_zoo.generation.protocol import GenerativeModel
from seq2seq_zoo.generation.request import settle, vocabularies
from seq2seq_zoo.generation.run import Run, make_criteria, make_processors
from seq2seq_zoo.generation.sampling import continue_rows

_ARGUMENTS = (
    "logits_processor",
    "stopping_criteria",
    "prefix_allowed_tokens_fn",
    "streamer",
    "tokenizer",
    "synced_gpus",
    "use_model_defaults",
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
    synced_gpus: accepted; one process needs no synchronisation.
    use_model_defaults: with generation_config, False leaves out the checkpoint's options, except its
        special tokens.
    kwargs: any option of GenerationConfig, and the model's own inputs (`model.generation_inputs`).

    Returns ids [sources · num_return_sequences, longest], the prompt included (an encoder-decoder's starts
    with its start token), finished rows padded; or with return_dict_in_generate one of the output classes.

    Raises GenerationError, before any work, naming the argument that is unknown, out of range or in
    contradiction. No argument and nothing of the model is changed.
    """
    request = settle(model, inputs, generation_config, kwargs, _ARGUMENTS, use_model_defaults)
    config = request.config
    custom = {
        "logits_processor": _callables("logits_processor", logits_processor),
        "stopping_criteria": _callables("stopping_criteria", stopping_criteria),
    }
    if prefix_allowed_tokens_fn is not None and not callable(prefix_allowed_tokens_fn):
        raise GenerationError(
            f"prefix_allowed_tokens_fn must be callable, but is {prefix_allowed_tokens_fn!r}"
        )
    if streamer is not None:
        if not (callable(getattr(streamer, "put", None)) and callable(getattr(streamer, "end", None))):
            raise GenerationError(f"streamer must have the methods put and end, but is {streamer!r}")
        if config.num_beams > 1:
            raise GenerationError(
                f"streamer needs num_beams=1, but it is {config.num_beams}: beams change their past"
            )

    processors = make_processors(
        request, vocabularies(model)[1], custom["logits_processor"], prefix_allowed_tokens_fn
    )
    if config.stop_strings is not None and not callable(getattr(tokenizer, "decode", None)):
        raise GenerationError(
            f"stop_strings needs the tokenizer, to decode with, but tokenizer is {tokenizer!r}"
        )
    criteria = make_criteria(request, custom["stopping_criteria"], tokenizer)
    trace = Trace.wanted(config, model.is_encoder_decoder)
    prompt = request.prompt.repeat_interleave(request.rows_per_source, dim=0)
    if streamer is not None:
        streamer.put(prompt.cpu())
    decoding = model.begin_decoding(
        request.inputs,
        rows_per_source=request.rows_per_source,
        capacity=request.capacity,
        use_cache=config.use_cache,
        output_attentions=bool(trace.attentions is not None),
        output_hidden_states=bool(trace.hidden_states is not None),
    )
    run = Run(request, decoding, prompt, processors, criteria, trace, streamer)
    if config.num_beams > 1:
        return search_beams(run, model.is_encoder_decoder)
    return continue_rows(run, model.is_encoder_decoder)


def _callables(name: str, given: Any) -> list[Any]:
    if given is None:
        return []
    functions = list(given) if isinstance(given, Iterable) else [given]
    for function in functions:
        if not callable(function):
            raise GenerationError(f"{name} must hold callables, but holds {function!r}")
    return functions
