"""What is continued: a source, a prompt, their masks, checked and brought into one form.

    encoder-decoder   source: input_ids, inputs_embeds or encoder_outputs      prompt: decoder_input_ids
    decoder                                                                    prompt: input_ids,
    inputs_embeds

`inputs` is this call's own dictionary of the model's keywords: these functions take the prompt out of it
and leave one kind of source in it, while the tensors stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from seq2seq_zoo.errors import GenerationError
from seq2seq_zoo.generation.config import GenerationConfig
from seq2seq_zoo.generation.protocol import GenerativeModel


def settle_source(
    model: GenerativeModel, inputs: dict[str, Any], config: GenerationConfig, vocabulary: int
) -> tuple[int, Tensor | None]:
    """How many sources there are, and their ids; leaves one kind of source in `inputs`."""
    ids, embeds = inputs.get("input_ids"), inputs.get("inputs_embeds")
    outputs = inputs.get("encoder_outputs")
    if ids is not None and embeds is not None:
        raise GenerationError("give either input_ids or inputs_embeds, not both")
    if ids is None and embeds is None and outputs is None:
        inputs["input_ids"] = ids = _bos_prompt(model, inputs, config)
    if ids is not None:
        inputs["input_ids"] = ids = check_ids("input_ids", ids, vocabulary)
        if outputs is None:
            check_length("input_ids", ids, model.source_positions)
    if embeds is not None:
        _check_embeds(embeds)
        check_length("inputs_embeds", embeds, model.source_positions)
    if outputs is not None:
        hidden = (
            outputs[0] if isinstance(outputs, (tuple, list)) else getattr(outputs, "last_hidden_state", None)
        )
        if not isinstance(hidden, Tensor) or hidden.dim() != 3:
            raise GenerationError(
                "encoder_outputs must be the encoder's output or a tuple that starts with its hidden states "
                f"[sources, length, width], but is {kind_of(outputs)}"
            )
        if ids is not None and ids.shape[0] != hidden.shape[0]:
            raise GenerationError(
                f"encoder_outputs has {hidden.shape[0]} sources, but input_ids has {ids.shape[0]}"
            )
        if inputs.get("attention_mask") is not None:
            check_mask("attention_mask", inputs["attention_mask"], hidden.shape[:2])
        inputs.pop("input_ids", None)
        inputs.pop("inputs_embeds", None)
        return hidden.shape[0], ids
    main = ids if ids is not None else embeds
    assert main is not None
    return main.shape[0], ids


def settle_decoder_prompt(
    model: GenerativeModel, inputs: dict[str, Any], config: GenerationConfig, sources: int, vocabulary: int
) -> Tensor:
    """decoder_input_ids behind the start token; that token alone where there are none: [sources, n]."""
    given = inputs.pop("decoder_input_ids", None)
    start = (
        config.decoder_start_token_id if config.decoder_start_token_id is not None else config.bos_token_id
    )
    if start is None:
        raise GenerationError(
            "an encoder-decoder needs decoder_start_token_id or bos_token_id, but neither is set"
        )
    starts = ids_of(start)
    if len(starts) not in ((1,) if isinstance(start, int) else (sources,)):
        raise GenerationError(
            f"decoder_start_token_id must be one id or one a source, but has {len(starts)} ids for "
            f"{sources} sources"
        )
    for token in starts:
        if token >= vocabulary:
            raise GenerationError(
                f"decoder_start_token_id is {token}, but the vocabulary has {vocabulary} ids"
            )
    main = next((v for v in inputs.values() if isinstance(v, Tensor)), None)
    device = main.device if main is not None else model.device
    first = torch.tensor(starts, device=device).expand(sources).view(-1, 1)
    mask = inputs.get("decoder_attention_mask")
    if given is None:
        if mask is not None:
            raise GenerationError("decoder_attention_mask needs decoder_input_ids, but there are none")
        return first.contiguous()
    ids = check_ids("decoder_input_ids", given, vocabulary)
    if ids.shape[0] != sources:
        raise GenerationError(f"decoder_input_ids has {ids.shape[0]} rows, but there are {sources} sources")
    if mask is not None:
        check_mask("decoder_attention_mask", mask, ids.shape)
    if bool((ids[:, :1] != first).all()):
        ids = torch.cat((first, ids), dim=1)
        if mask is not None:
            inputs["decoder_attention_mask"] = torch.cat((torch.ones_like(mask[:, :1]), mask), dim=1)
    return ids


def settle_prompt(
    model: GenerativeModel, inputs: dict[str, Any], config: GenerationConfig, vocabulary: int
) -> tuple[Tensor, int]:
    """A decoder's prompt [sources, n], and how many positions it has beyond those ids (embeddings)."""
    ids, embeds = inputs.pop("input_ids", None), inputs.get("inputs_embeds")
    if embeds is not None:
        _check_embeds(embeds)
        if ids is None:
            return torch.empty(embeds.shape[0], 0, dtype=torch.long, device=embeds.device), embeds.shape[1]
    ids = check_ids("input_ids", ids if ids is not None else _bos_prompt(model, inputs, config), vocabulary)
    if embeds is not None and embeds.shape[:2] != ids.shape:
        raise GenerationError(
            f"inputs_embeds {list(embeds.shape)} must stand for input_ids {list(ids.shape)}: rows and length "
            "must agree"
        )
    return ids, 0


def settle_mask(
    model: GenerativeModel, inputs: dict[str, Any], ids: Tensor | None, pad: int | None, eos: list[int]
) -> None:
    """Check the attention mask; without one, padding tokens say what it is, unless they are end tokens
    too."""
    mask = inputs.get("attention_mask")
    embeds = inputs.get("inputs_embeds")
    if mask is not None:
        if embeds is not None:
            check_mask("attention_mask", mask, embeds.shape[:2])
        elif ids is not None:
            check_mask("attention_mask", mask, ids.shape)
        return
    if "attention_mask" not in model.generation_inputs or "encoder_outputs" in inputs:
        return
    if ids is not None and embeds is None and pad is not None and pad not in eos:
        present = ids != pad
        if not bool(present.all()):
            inputs["attention_mask"] = present.long()


def _bos_prompt(model: GenerativeModel, inputs: Mapping[str, Any], config: GenerationConfig) -> Tensor:
    if config.bos_token_id is None:
        raise GenerationError("generate needs inputs, or a bos_token_id to start from, but neither is given")
    other = next((v for v in inputs.values() if isinstance(v, Tensor)), None)
    rows = 1 if other is None else other.shape[0]
    return torch.full((rows, 1), config.bos_token_id, device=model.device)


def check_ids(name: str, ids: Any, vocabulary: int) -> Tensor:
    """Ids [rows, length] within the vocabulary, as int64; refused otherwise."""
    if not isinstance(ids, Tensor):
        raise GenerationError(f"{name} must be a tensor [rows, length] of integers, but is {kind_of(ids)}")
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool or ids.dim() != 2:
        raise GenerationError(
            f"{name} must be a tensor [rows, length] of integers, but is {ids.dtype} {list(ids.shape)}"
        )
    if ids.numel() == 0:
        raise GenerationError(f"{name} must have at least one row and one token, but is {list(ids.shape)}")
    low, high = torch.stack(ids.aminmax()).tolist()
    if low < 0 or high >= vocabulary:
        wrong = low if low < 0 else high
        raise GenerationError(
            f"{name} holds the id {wrong}, but the vocabulary has {vocabulary} ids (0 and up)"
        )
    return ids.long()


def check_length(name: str, source: Tensor, positions: int | None) -> None:
    """Refuse a source [rows, length, …] that is longer than the encoder can read."""
    if positions is not None and source.shape[1] > positions:
        raise GenerationError(
            f"{name} has {source.shape[1]} tokens, but the model reads {positions} (max_position_embeddings)"
        )


def _check_embeds(embeds: Any) -> None:
    if not isinstance(embeds, Tensor) or embeds.dim() != 3 or not embeds.is_floating_point():
        raise GenerationError(
            f"inputs_embeds must be a tensor [rows, length, width] of floats, but is {kind_of(embeds)}"
        )
    if embeds.numel() == 0:
        raise GenerationError(f"inputs_embeds must not be empty, but is {list(embeds.shape)}")


def check_mask(name: str, mask: Any, shape: Iterable[int]) -> None:
    """Refuse a mask of another shape."""
    if not isinstance(mask, Tensor) or tuple(mask.shape) != tuple(shape):
        raise GenerationError(f"{name} must be a tensor of shape {list(shape)}, but is {kind_of(mask)}")


def ids_of(option: Any) -> list[int]:
    """The token ids of an option that may be None, one id, or several."""
    return [] if option is None else [option] if isinstance(option, int) else list(option)


def kind_of(value: Any) -> str:
    """What a value is, in the words of an error."""
    if isinstance(value, Tensor):
        return f"a tensor {value.dtype} {list(value.shape)}"
    return f"a {type(value).__name__}"
