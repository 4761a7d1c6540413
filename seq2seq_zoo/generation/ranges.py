"""The range of every option: what a value must be, as a test and in words."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

Range = tuple[Callable[[Any], bool], str]


LARGEST = 2**63 - 1
"""The largest integer that PyTorch can hold, or multiply by."""


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST


def _is_number(value: Any) -> bool:
    return _is_integer(value) or (isinstance(value, float) and not math.isnan(value))


def _integer(low: int) -> Range:
    return lambda value: _is_integer(value) and value >= low, f"an integer ≥ {low}"


def _above(low: float) -> Range:
    return lambda value: _is_number(value) and value > low, f"a number > {low:g}"


def _between(interval: str, low: float, high: float) -> Range:
    """`interval` is written as in mathematics: "(0, 1]" leaves 0 out and 1 in."""

    def inside(value: Any) -> bool:
        if not _is_number(value):
            return False
        at_edge = (value == low and interval[0] == "(") or (value == high and interval[-1] == ")")
        return bool(low <= value <= high) and not at_edge

    return inside, f"a number in {interval}"


def _one_of(*values: Any) -> Range:
    # 1 == True in Python: the type has to agree as well
    return (
        lambda value: any(type(value) is type(allowed) and bool(value == allowed) for allowed in values),
        " or ".join(repr(allowed) for allowed in values),
    )


def _is_id(value: Any) -> bool:
    return _is_integer(value) and value >= 0


def _is_ids(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) > 0 and all(_is_id(token) for token in value)


def _is_sequences(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) > 0 and all(_is_ids(ids) for ids in value)


def _is_bias(value: Any) -> bool:
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, (list, tuple)) and all(
        isinstance(p, (list, tuple)) and len(p) == 2 for p in value
    ):
        pairs = [tuple(pair) for pair in value]
    else:
        return False
    return len(pairs) > 0 and all(_is_ids(ids) and _is_number(bias) for ids, bias in pairs)


def _is_decay(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and _is_integer(value[0])
        and value[0] >= 0
        and _is_number(value[1])
        and value[1] > 0
    )


def _is_strings(value: Any) -> bool:
    texts = [value] if isinstance(value, str) else value
    return (
        isinstance(texts, (list, tuple))
        and len(texts) > 0
        and all(isinstance(text, str) and text != "" for text in texts)
    )


_SWITCH = _one_of(True, False)
_ID: Range = (_is_id, "a token id (an integer ≥ 0)")
_ID_OR_IDS: Range = (
    lambda value: _is_id(value) or _is_ids(value),
    "a token id or a non-empty list of token ids",
)
_IDS: Range = (_is_ids, "a non-empty list of token ids")

RANGES: dict[str, Range] = {
    "max_length": _integer(1),
    "max_new_tokens": _integer(1),
    "min_length": _integer(0),
    "min_new_tokens": _integer(0),
    "early_stopping": _one_of(True, False, "never"),
    "max_time": _above(0),
    "stop_strings": (_is_strings, "a non-empty text or a list of non-empty texts"),
    "do_sample": _SWITCH,
    "num_beams": _integer(1),
    "num_return_sequences": _integer(1),
    "length_penalty": (
        lambda value: _is_number(value) and abs(value) != float("inf"),
        "a finite number",
    ),
    "use_cache": _SWITCH,
    "cache_implementation": _one_of("dynamic", "static"),
    "disable_compile": _SWITCH,
    "temperature": _between("[0, inf)", 0, float("inf")),
    "top_k": _integer(0),
    "top_p": _between("(0, 1]", 0, 1),
    "min_p": _between("[0, 1]", 0, 1),
    "typical_p": _between("(0, 1]", 0, 1),
    "epsilon_cutoff": _between("[0, 1)", 0, 1),
    "eta_cutoff": _between("[0, 1)", 0, 1),
    "repetition_penalty": _above(0),
    "encoder_repetition_penalty": _above(0),
    "no_repeat_ngram_size": _integer(0),
    "encoder_no_repeat_ngram_size": _integer(0),
    "bad_words_ids": (_is_sequences, "a non-empty list of non-empty lists of token ids"),
    "sequence_bias": (_is_bias, "{(ids, …): number} or [[[ids, …], number], …], not empty"),
    "renormalize_logits": _SWITCH,
    "forced_bos_token_id": _ID,
    "forced_eos_token_id": _ID_OR_IDS,
    "remove_invalid_values": _SWITCH,
    "exponential_decay_length_penalty": (_is_decay, "a pair of an integer ≥ 0 and a number > 0"),
    "suppress_tokens": _IDS,
    "begin_suppress_tokens": _IDS,
    "prefill_chunk_size": _integer(1),
    "guidance_scale": _between("[0, inf)", 0, float("inf")),
    "return_dict_in_generate": _SWITCH,
    "output_scores": _SWITCH,
    "output_logits": _SWITCH,
    "output_attentions": _SWITCH,
    "output_hidden_states": _SWITCH,
    "pad_token_id": _ID,
    "bos_token_id": _ID,
    "eos_token_id": _ID_OR_IDS,
    "decoder_start_token_id": _ID_OR_IDS,
    "num_assistant_tokens": _integer(1),
    "num_assistant_tokens_schedule": _one_of("constant", "heuristic", "heuristic_transient"),
    "assistant_confidence_threshold": _between("[0, 1]", 0, 1),
    "prompt_lookup_num_tokens": _integer(1),
    "max_matching_ngram_size": _integer(1),
}
