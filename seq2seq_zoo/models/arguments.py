"""What the forward of every class does with its arguments, and with what it returns.

Bad input is refused here, by the argument's name, before any layer runs.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..layers.state import DecodingState
from ..outputs import BaseModelOutput, ModelOutput

EncoderOutputs = BaseModelOutput | tuple[Any, ...] | list[Any]


def either(value: bool | None, default: bool) -> bool:
    """What the caller said, or what the config says."""
    return default if value is None else value


def one_input(ids: Tensor | None, vectors: Tensor | None, ids_name: str, vectors_name: str) -> None:
    """Refuse both and neither of two ways to give a sequence, and a sequence without positions."""
    if (ids is None) == (vectors is None):
        given = "neither" if ids is None else "both"
        raise ValueError(f"{given} of {ids_name} and {vectors_name} were given; exactly one must be")
    for name, value in ((ids_name, ids), (vectors_name, vectors)):
        if value is not None and not isinstance(value, Tensor):
            raise ValueError(f"{name} is a {type(value).__name__}; it must be a tensor")
    if ids is not None and ids.dim() != 2:
        raise ValueError(f"{ids_name} has shape {list(ids.shape)}; it must be [batch, length]")
    if vectors is not None and vectors.dim() != 3:
        raise ValueError(f"{vectors_name} has shape {list(vectors.shape)}; it must be [batch, length, width]")
    given_input = vectors if ids is None else ids
    if given_input is not None and 0 in given_input.shape[:2]:
        name = vectors_name if ids is None else ids_name
        raise ValueError(
            f"{name} has shape {list(given_input.shape)}; it must hold at least one row and one position"
        )


def check_state(past_key_values: DecodingState | None) -> DecodingState | None:
    """Refuse as past_key_values what no call has returned."""
    if past_key_values is not None and not isinstance(past_key_values, DecodingState):
        raise ValueError(
            f"past_key_values is a {type(past_key_values).__name__}; it must be what an earlier call returned"
        )
    return past_key_values


def as_returned(output: ModelOutput, return_dict: bool) -> Any:
    """The output, or the tuple of what it holds."""
    return output if return_dict else output.to_tuple()


def as_encoder_output(given: EncoderOutputs) -> BaseModelOutput:
    """What a caller gave as encoder_outputs, an encoder's output or the beginning of its tuple, as an
    output."""
    if isinstance(given, BaseModelOutput):
        return given
    if hasattr(given, "last_hidden_state"):
        return BaseModelOutput(
            given.last_hidden_state,
            getattr(given, "hidden_states", None),
            getattr(given, "attentions", None),
        )
    if not isinstance(given, (tuple, list)) or not 1 <= len(given) <= 3:
        raise ValueError(
            f"encoder_outputs is a {type(given).__name__}; it must be an encoder's output, or "
            "a tuple of (last_hidden_state, hidden_states, attentions) or its beginning"
        )
    return BaseModelOutput(*given)
