"""In step with other processes that hold parts of the same model (`synced_gpus`).

Where a model is spread over processes, each of its passes needs all of them. One that has finished its text
goes on with passes whose results nobody reads, until all have finished.
"""

from __future__ import annotations

import torch


def is_one_of_several() -> bool:
    """Whether other processes run beside this one, joined by torch.distributed."""
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def someone_writes(writing: bool, device: torch.device) -> bool:
    """Tell the others whether this process is still writing; whether any of them is."""
    count = torch.tensor(float(writing), device=device)
    torch.distributed.all_reduce(count)
    return float(count) > 0
