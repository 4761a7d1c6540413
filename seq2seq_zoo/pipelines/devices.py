"""Which device a user means."""

from __future__ import annotations

import torch

from ..errors import UsageError


def find_device(device: torch.device | str | int | None) -> torch.device:
    """The device that `device` names.

    None      the accelerator if there is one, else the CPU
    0, 1, …   the accelerator of this number; the CPU where there is no accelerator, so that one script
              runs on machines with and without
    -1        the CPU
    text      "cpu", "cuda", "cuda:1", …: this device and no other

    Raises UsageError for a device that cannot be understood or is not there.
    """
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if device is None:
        return accelerator or torch.device("cpu")
    if isinstance(device, bool) or not isinstance(device, (torch.device, str, int)):
        raise UsageError(f"device is {device!r}; it must be a device, its name, or a number")
    if isinstance(device, int):
        if device < -1:
            raise UsageError(f"device is {device}; it must be -1 (the CPU), 0 or above")
        if device == -1 or accelerator is None:
            return torch.device("cpu")
        found = torch.device(accelerator.type, device)
    else:
        try:
            found = torch.device(device)
        except RuntimeError as error:
            raise UsageError(
                f"device is {device!r}; it must be a name like 'cpu', 'cuda' or 'cuda:1'"
            ) from error
    if found.type in ("cpu", "meta"):
        return found
    count = torch.accelerator.device_count() if accelerator and accelerator.type == found.type else 0
    if (found.index or 0) >= count:
        there = f"{count} of {found.type}" if count else f"no {found.type} device"
        raise UsageError(f"device is {device!r}, but this machine has {there}")
    return found
