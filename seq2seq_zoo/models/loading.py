"""What from_pretrained of every class asks of its arguments and of a checkpoint, and under what it builds.

The order of a load stands in `base.Model.from_pretrained`, the filling of parameters in `checkpoint.load`.
"""

from __future__ import annotations

import gc
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..checkpoint import Weights
from ..config import DTYPES, Config
from ..errors import CheckpointError

Device = torch.device | str | int


class WithoutValues(TorchFunctionMode):
    """Parts built inside are spared PyTorch's random start.

    On the meta device it would start nothing; but the first `normal_` there imports PyTorch's compiler, which
    takes seconds.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__ or func is Tensor.normal_:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


class Uncollected:
    """Without Python's search for garbage: a load makes none, and the search takes longer than the load."""

    def __enter__(self) -> None:
        self.searching = gc.isenabled()
        gc.disable()

    def __exit__(self, *_: object) -> None:
        if self.searching:
            gc.enable()


_OF_ROUNDED = {torch.int8, torch.uint8, torch.int32, torch.float8_e4m3fn, torch.float8_e5m2}


def drop_rounding(weights: Weights, config: Config) -> None:
    """Weights that were rounded before they were stored are not what their keys and shapes say, and refused.
    A config that speaks of rounding beside whole weights, as merged adapters leave it, is told to stop."""
    how = config.extra.pop("quantization_config", None)
    if not how:
        return
    # Whole weights have at least 16 bits, and what counts positions 64.
    first = next((key for key in weights if weights.dtype(key) in _OF_ROUNDED), None)
    if first is not None:
        method = how.get("quant_method") if isinstance(how, Mapping) else how
        raise CheckpointError(
            f"{weights.where} holds weights rounded by {method!r} (quantization_config in its config.json), "
            f"such as {first} in {weights.dtype(first)}; only whole weights are read: load the checkpoint "
            "that it was made from, and let a BitsAndBytesConfig or optimize() round it"
        )


def stored_dtype(weights: Weights) -> torch.dtype | None:
    """The dtype of most of the stored numbers: a model of several cannot multiply one by another."""
    numbers = Counter(dict.fromkeys(DTYPES.values(), 0))
    for info in weights.values():
        if info.dtype in numbers:
            numbers[info.dtype] += math.prod(info.shape)
    most = max(numbers, key=lambda dtype: (numbers[dtype], dtype.itemsize))
    return most if numbers[most] else None


def device_of(device: Device | None, device_map: Device | Mapping[str, Device] | None) -> torch.device | None:
    """The device that one of the two names; None where neither does. ValueError if there is no such one."""
    chosen = device if device_map is None else device_map
    if isinstance(chosen, Mapping) and set(chosen) == {""}:  # the documented way to say: all of it there
        chosen = chosen[""]
    if chosen is None:
        return None
    if chosen == "auto":  # one accelerator if there is one
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = "device" if device_map is None else "device_map"
    if type(chosen) is int and not torch.accelerator.is_available():
        raise ValueError(f"{name} is {chosen}, but no accelerator is available here")
    try:
        found = torch.device(chosen)  # type: ignore[arg-type]  # a mapping of parts is refused here
    except (RuntimeError, TypeError) as problem:
        raise ValueError(f"{name} is {chosen!r}; it must name one device, or be 'auto'") from problem
    if found.type == "meta":
        raise ValueError(
            f"{name} is 'meta', which holds no weights; build the class on it from a config instead"
        )
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"{name} is {chosen!r}, but no CUDA device is available here")
    return found
