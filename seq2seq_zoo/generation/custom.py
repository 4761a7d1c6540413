"""A decoding loop of one's own: `custom_generate`.

A callable gets what the loops here get, after the usual preparation:

    custom_generate(model, input_ids, logits_processor, stopping_criteria, generation_config, **kwargs)

input_ids [R, n] is the prompt of every row; the criteria include the longest length and the end tokens;
kwargs are the model's own inputs (attention_mask, encoder_outputs, … one row for each of R), use_cache, what
else was given to generate (streamer, tokenizer, …), and keywords that only the callable knows. What it
returns is what generate returns.

A text names a place, a folder or a hub repository, whose custom_generate/generate.py holds a function
`generate(model, **arguments)`: it replaces everything, the preparation included.
"""

from __future__ import annotations

import copy
import importlib.util
import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from seq2seq_zoo.checkpoint import resolve_file
from seq2seq_zoo.errors import GenerationError
from seq2seq_zoo.generation.config import OPTIONS
from seq2seq_zoo.generation.processors import LogitsProcessorList
from seq2seq_zoo.generation.protocol import GenerativeModel
from seq2seq_zoo.generation.request import Request
from seq2seq_zoo.generation.stopping import EndTokens, MaxLength, StoppingCriteriaList

FILE = "custom_generate/generate.py"


def own_keywords(
    function: Callable[..., Any], model: GenerativeModel, keywords: Mapping[str, Any]
) -> list[str]:
    """The names among `keywords` that only the callable knows."""
    names = inspect.signature(function).parameters
    return [name for name in keywords if name in names and name not in OPTIONS | model.generation_inputs]


def run_custom(
    function: Callable[..., Any],
    model: GenerativeModel,
    request: Request,
    processors: LogitsProcessorList,
    criteria: StoppingCriteriaList,
    further: Mapping[str, Any],
) -> Any:
    """Prepare, and hand over to the callable; `further` are other arguments it may want."""
    config, rows = request.config, request.rows_per_source
    prompt = request.prompt.repeat_interleave(rows, dim=0)
    inputs = dict(request.inputs)
    if model.is_encoder_decoder:
        decoding = model.begin_decoding(
            request.inputs,
            rows_per_source=1,
            capacity=request.capacity,
            use_cache=config.use_cache,
            output_attentions=config.output_attentions,
            output_hidden_states=config.output_hidden_states,
        )
        for name in ("input_ids", "inputs_embeds"):
            inputs.pop(name, None)
        encoded = copy.copy(decoding.encoder_outputs)  # the given ones stay as they are
        encoded.last_hidden_state = encoded.last_hidden_state.repeat_interleave(rows, dim=0)
        inputs["encoder_outputs"] = encoded
    config.max_length, config.pad_token_id = request.limit, request.pad
    lengths: list[Any] = [MaxLength(request.limit)]
    ends = [] if request.eos is None else [EndTokens(request.eos)]
    kwargs = {name: _for_rows(value, rows) for name, value in inputs.items()}
    kwargs |= {"use_cache": config.use_cache, **{k: v for k, v in further.items() if v is not None}}
    names = inspect.signature(function).parameters
    if all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in names.values()):
        kwargs = {name: value for name, value in kwargs.items() if name in names}
    return function(
        model,
        prompt,
        logits_processor=processors,
        stopping_criteria=StoppingCriteriaList([*lengths, *ends, *criteria]),
        generation_config=config,
        **kwargs,
    )


def _for_rows(value: Any, rows: int) -> Any:
    return value.repeat_interleave(rows, dim=0) if isinstance(value, Tensor) else value


def load_custom(where: str, trust_remote_code: bool | None) -> Callable[..., Any]:
    """The function `generate` of a place's custom_generate/generate.py, whose code is run by this.

    Raises GenerationError for a hub repository unless `trust_remote_code` is true, and where there is no such
    function; CheckpointError where there is no such file.
    """
    if not os.path.isdir(where) and not trust_remote_code:
        raise GenerationError(
            f"custom_generate is {where!r}, code from the hub that would run on this machine: read it, and "
            "then set trust_remote_code=True"
        )
    path = resolve_file(where, FILE)
    assert path is not None
    spec = importlib.util.spec_from_file_location("custom_generate", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function = getattr(module, "generate", None)
    if not callable(function):
        raise GenerationError(f"custom_generate is {where!r}, but {path} has no function generate")
    return function  # type: ignore[no-any-return]
