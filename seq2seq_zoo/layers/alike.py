"""Layers that are built alike.

Where a model is built on the meta device, to be loaded, building it is most of what loading costs: PyTorch's
constructors take longer than reading the file's header and mapping all tensors. But the layers of a stack
have the same parts and, before they are loaded, no values to tell them apart. So there one of them is built,
and the others are copied from it.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from types import FunctionType, NoneType
from typing import Any, TypeVar

import torch
from torch import nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)

UNCHANGING = frozenset({bool, int, float, str, NoneType, FunctionType})
HOLDING = frozenset({dict, OrderedDict, set})


def alike(build: Callable[[], ModuleT], count: int) -> list[ModuleT]:
    """`count` modules as `build` makes them: the same each time, but for random values. What it makes shares
    no parameter with anything else: a copy has its own."""
    if count < 1:
        return []
    first = build()
    with torch._C.DisableTorchFunction():  # to which a mode turns each look at a parameter, as torch.device's
        parameters = list(first.parameters())
        # One that is not to be trained is none that was just built: whoever builds so may do more to it.
        if parameters and all(parameter.is_meta and parameter.requires_grad for parameter in parameters):
            return [first, *(copied(first, {}) for _ in range(count - 1))]
    return [first, *(build() for _ in range(count - 1))]


def copied(module: ModuleT, known: dict[int, Any]) -> ModuleT:
    """What `copy.deepcopy(module, known)` makes of a module on the meta device, in a twentieth of the time:
    most of what PyTorch's modules hold is empty, or cannot change.

    `known` are the copies made so far, by the id of what they were made from.
    """
    made = object.__new__(type(module))
    known[id(module)] = made
    own = made.__dict__
    for name, held in module.__dict__.items():
        kind = type(held)
        if kind in UNCHANGING:
            own[name] = held
        elif kind in HOLDING and not held:
            own[name] = kind()
        elif kind is dict:  # of parameters, buffers or modules
            own[name] = {key: _part(part, known) for key, part in held.items()}
        else:
            own[name] = copy.deepcopy(held, known)
    return made


def _part(part: Any, known: dict[int, Any]) -> Any:
    if part is None:
        return None
    if id(part) not in known:
        if type(part) is nn.Parameter:
            known[id(part)] = nn.Parameter(part)
        elif isinstance(part, nn.Module):
            copied(part, known)
        else:
            return copy.deepcopy(part, known)
    return known[id(part)]
