"""Filling a module from a checkpoint: every tensor exactly once, every key accounted for.

The module was built on the meta device, so that it has shapes and no memory. Each of its parameters becomes
the tensor of the checkpoint itself, which lies in a mapped file, even where it is a stack (see `mapping`);
only a cast or another device makes a copy, of one tensor at a time. What does not fit is gathered and said in
one error; what is absent is newly initialised, and said in one warning.
"""

import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from seq2seq_zoo.checkpoint.keymap import KeyMap, Link, Rename, Stack
from seq2seq_zoo.checkpoint.plan import Plan, make_plan
from seq2seq_zoo.checkpoint.progress import progress
from seq2seq_zoo.checkpoint.weights import Weights
from seq2seq_zoo.errors import CheckpointError

MOST_LISTED = 8
NUMBER = re.compile(r"\d+")


@dataclass
class LoadReport:
    """What was not a plain fit, by full checkpoint keys."""

    missing_keys: list[str] = field(default_factory=list)
    """Absent from the checkpoint: their tensors were newly initialised."""

    unexpected_keys: list[str] = field(default_factory=list)
    """Present in the checkpoint, but not a part of this model."""

    mismatched_keys: list[str] = field(default_factory=list)
    """Of another shape in the checkpoint and, as asked, newly initialised."""


def load_weights(
    module: nn.Module,
    weights: Weights,
    key_map: KeyMap,
    *,
    initialise: Callable[[nn.Module], None],
    dtype: torch.dtype | None = None,
    keep_float32: Sequence[str] = (),
    device: torch.device | str | None = None,
    ignore_mismatched_sizes: bool = False,
) -> LoadReport:
    """Fill `module`, built on the meta device, with the tensors of a checkpoint.

    `dtype` is that of all floating-point tensors; None keeps them as stored. Names of ours that match a
    pattern of `keep_float32` (`*` stands for anything) are float32 wherever they would be float16. Without a
    `device` the parameters are the mapped tensors, on the CPU. `requires_grad` stays as in the module.

    `initialise(submodule)` sets the parameters and buffers that `submodule` owns directly. It is called once
    for each submodule that owns a missing tensor, or a buffer that no checkpoint stores and that is still on
    the meta device; what was loaded is kept.

    Missing and unexpected keys are reported and warned of. Raises CheckpointError, listing all faults at
    once, if a tensor has another shape (unless `ignore_mismatched_sizes`) or kind, or if only some rows of a
    stack are there; and if nothing of the model's body is there: the checkpoint is then another model's.
    """
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(f"dtype is {dtype}; it must be a floating-point dtype, or None")
    slots = _slots(module)
    plan = make_plan(module, key_map, {name: slot.tensor for name, slot in slots.items() if slot.stored})
    found = match_keys(plan, weights, key_map)
    faults, fitting = _check(found, plan, weights, ignore_mismatched_sizes)
    report = found.report
    body = [link for link in plan.links if key_map.is_body(link.keys[0])]
    if body and not any(key in found.sources for link in body for key in link.keys):
        raise CheckpointError(
            f"{weights.where} is not a checkpoint of {type(module).__name__}: it has none of its "
            f"{len(body)} body tensors, such as {_some([link.keys[0] for link in body])}; "
            f"it holds {_some(list(weights))}"
        )
    if faults:
        raise CheckpointError(
            f"{weights.where} does not fit {type(module).__name__}:\n"
            + "\n".join([*faults, *_told(report, plan.links, "")])
        )
    _warn_of_unequal_copies(found, weights)
    place = torch.device(device or "cpu")
    _check_room(plan, fitting, weights, dtype, place)

    filler = _Filler(slots, plan, place, dtype, keep_float32)
    for link in progress(fitting, plan.bytes_of, f"loading {weights.where}"):
        filler.fill(link, weights, [found.sources[key] for key in link.keys])
    filler.initialise_rest(initialise)
    told = _told(report, plan.links, ", newly initialised: train before use")
    if told:
        warnings.warn(f"{weights.where} → {type(module).__name__}:\n" + "\n".join(told), stacklevel=3)
    return report


# ---- which key is whose ----


@dataclass
class KeyMatch:
    """The keys of a checkpoint, sorted by what they are to the module."""

    sources: dict[str, str] = field(default_factory=dict)
    """From the keys of the rules to the keys of the checkpoint that stand for them."""

    copies: list[tuple[str, str]] = field(default_factory=list)
    """Keys of the checkpoint of which the second should equal the first."""

    dropped: dict[str, str] = field(default_factory=dict)
    """Keys of the checkpoint that are no part of the model, and why."""

    report: LoadReport = field(default_factory=LoadReport)


def match_keys(plan: Plan, weights: Weights, key_map: KeyMap) -> KeyMatch:
    """Give every key of a checkpoint its meaning; only names are looked at, no tensor is read."""
    wanted = {key for link in plan.links for key in link.keys}
    found = KeyMatch({key: key for key in weights if key in wanted})
    candidates: dict[str, list[tuple[bool, bool, str]]] = {}
    for key in weights:
        if key in wanted:  # most often
            continue
        for rank, spelling in enumerate(key_map.spellings(key)):
            meant, is_copy = _meaning(spelling, wanted, plan, key_map)
            if meant is not None:
                candidates.setdefault(meant, []).append((is_copy, rank > 0, key))
                break
            why = key_map.why_dropped(spelling)
            if why is not None:
                found.dropped[key] = why
                break
        else:
            found.report.unexpected_keys.append(key)
    for meant, others in candidates.items():
        # The key itself goes before another spelling of it, and both before a tied copy.
        keys = [key for *_, key in sorted(others)]
        best = found.sources.setdefault(meant, keys[0])
        found.copies += [(best, key) for key in keys if key != best]
    for link in plan.links:
        if found.sources.keys().isdisjoint(link.keys):
            found.report.missing_keys += link.keys
    return found


def _meaning(spelling: str, wanted: set[str], plan: Plan, key_map: KeyMap) -> tuple[str | None, bool]:
    if spelling in wanted:
        return spelling, False
    original = key_map.same_as(spelling) or spelling
    original = plan.copies.get(original, original)
    return (original, True) if original in wanted else (None, False)


def _check(
    found: KeyMatch, plan: Plan, weights: Weights, ignore_mismatched_sizes: bool
) -> tuple[list[str], list[Link]]:
    """The faults, in words, and the links that can be loaded."""
    faults: list[str] = []
    fitting: list[Link] = []
    for link in plan.links:
        sources = [found.sources[key] for key in link.keys if key in found.sources]
        if not sources:
            continue
        floating = plan.tensors[link.names[0]].dtype.is_floating_point
        strange = [key for key in sources if weights.dtype(key).is_floating_point != floating]
        fits = tuple(map(weights.shape, sources)) == link.key_shapes
        if fits and not strange:
            fitting.append(link)
            continue
        ours = ", ".join(f"{name} {list(shape)}" for name, shape in zip(link.names, link.shapes, strict=True))
        if len(sources) < len(link.keys):
            absent = [key for key in link.keys if key not in found.sources]
            faults.append(f"  {len(absent)} of {len(link.keys)} tensors of {ours} absent: {_some(absent)}")
        elif strange:
            kind = "floating-point" if floating else "integer"
            faults += [f"  dtype: {key} is {weights.dtype(key)} → {ours} is {kind}" for key in strange]
        elif ignore_mismatched_sizes:
            found.report.mismatched_keys += sources
        else:
            faults += [
                f"  shape: {key} {list(weights.shape(key))} → {ours}"
                + (f", which needs {list(shape)}" if shape not in link.shapes else "")
                for key, shape in zip(sources, link.key_shapes, strict=True)
                if weights.shape(key) != shape
            ]
    return faults, fitting


def _check_room(
    plan: Plan, fitting: Sequence[Link], weights: Weights, dtype: torch.dtype | None, device: torch.device
) -> None:
    """Raise CheckpointError if what is absent could not be made anew: a config that asks for more than the
    machine has is no config of this checkpoint."""
    loaded = {name for link in fitting for name in link.names}
    absent = {name: plan.tensors[name] for name in plan.tied if name not in loaded}
    memory = _memory() if absent and device.type == "cpu" else None
    if memory is None:
        return
    size = sum(tensor.numel() * (dtype or tensor.dtype).itemsize for tensor in absent.values())
    if size > memory:
        raise CheckpointError(
            f"{weights.where} lacks {len(absent)} tensors of the config's sizes, which would take {size} "
            f"bytes anew, of the {memory} that this machine has: "
            + _some([f"{name} {list(tensor.shape)}" for name, tensor in absent.items()])
        )


def _memory() -> int | None:
    """The bytes of memory that the machine has, where the system says it."""
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
    return pages * size if pages > 0 else None


def _warn_of_unequal_copies(found: KeyMatch, weights: Weights) -> None:
    def equal(key: str, copy: str) -> bool:
        if weights.shape(key) != weights.shape(copy):
            return False
        if weights[key].begin is not None and weights[key] == weights[copy]:
            return True  # the same bytes of the same file
        a, b = weights.tensor(key), weights.tensor(copy)
        return a.data_ptr() == b.data_ptr() or torch.equal(a, b.to(a.dtype))

    unequal = [f"{copy} (used: {key})" for key, copy in found.copies if not equal(key, copy)]
    if unequal:
        warnings.warn(
            f"{weights.where}: {len(unequal)} keys differ from the keys they are tied to: {_some(unequal)}",
            stacklevel=4,
        )


# ---- what is said ----


def _told(report: LoadReport, links: Iterable[Link], remedy: str) -> list[str]:
    """A line on each list of the report that is not empty."""
    expected = report.missing_keys or [key for link in links for key in link.keys]
    forms: dict[str, list[str]] = {}  # names that differ in numbers alone: there are few, whatever the depth
    for key in expected if report.unexpected_keys else ():
        forms.setdefault(NUMBER.sub("0", key), []).append(key)
    unexpected = [
        key + "".join(f" (nearest: {near})" for near in _nearest(key, forms))
        for key in report.unexpected_keys[:MOST_LISTED]
    ] + report.unexpected_keys[MOST_LISTED:]
    told = {
        f"missing{remedy}": report.missing_keys,
        f"of another shape{remedy}": report.mismatched_keys,
        "unexpected, not used": unexpected,
    }
    return [f"  {what} ({len(keys)}): {_some(keys)}" for what, keys in told.items() if keys]


def _nearest(key: str, forms: Mapping[str, Sequence[str]]) -> list[str]:
    """The key most like this one, if any is: of the likeliest form, with most of its numbers."""
    numbers = NUMBER.findall(key)

    def common(other: str) -> int:
        return sum(a == b for a, b in zip(numbers, NUMBER.findall(other), strict=False))

    likely = get_close_matches(NUMBER.sub("0", key), forms, n=1)
    return [max(forms[form], key=common) for form in likely]


def _some(names: Sequence[str]) -> str:
    more = len(names) - MOST_LISTED
    return ", ".join(names[:MOST_LISTED]) + (f" and {more} more" if more > 0 else "")


# ---- filling ----


class _Slot(NamedTuple):
    """Where a module holds a tensor."""

    owner: nn.Module
    held: dict[str, Any]
    """The parameters or the buffers of the owner: to put one there is what setattr does in the end, which
    first asks of every name what it is."""
    key: str
    tensor: Tensor
    """The one that was there."""
    stored: bool
    """Whether it is a part of a checkpoint."""


def _slots(module: nn.Module) -> dict[str, _Slot]:
    """All places of all tensors of a module, by name."""
    slots = {}

    def walk(owner: nn.Module, prefix: str) -> None:
        parameters, buffers = owner._parameters, owner._buffers
        for key, parameter in parameters.items():
            if parameter is not None:
                slots[prefix + key] = _Slot(owner, parameters, key, parameter, True)
        for key, buffer in buffers.items():
            if buffer is not None:
                stored = key not in owner._non_persistent_buffers_set
                slots[prefix + key] = _Slot(owner, buffers, key, buffer, stored)
        for name, part in owner._modules.items():
            if part is not None:
                walk(part, f"{prefix}{name}.")

    walk(module, "")
    return slots


class _Filler:
    """Puts tensors into a module in place of those of the meta device."""

    def __init__(
        self,
        slots: dict[str, _Slot],
        plan: Plan,
        device: torch.device,
        dtype: torch.dtype | None,
        keep_float32: Sequence[str],
    ) -> None:
        self.slots = slots
        self.plan = plan
        self.device = device
        self.dtype = dtype
        self.keep_float32 = keep_float32
        self.stored: torch.dtype | None = None  # of the first floating-point tensor loaded
        self.filled: set[str] = set()

    def fill(self, link: Link, weights: Weights, keys: Sequence[str]) -> None:
        kinds = {weights.dtype(key) for key in keys}
        stored = reduce(torch.promote_types, kinds)
        if self.stored is None and stored.is_floating_point:
            self.stored = stored
        dtypes = [self._dtype(name, stored) for name in link.names]
        as_stored = self.device.type == "cpu" and kinds.union(dtypes) == {stored}
        if isinstance(link.rule, Stack):
            whole = weights.rows(keys) if as_stored else None
            if whole is None:
                whole = torch.empty(link.shapes[0], dtype=dtypes[0], device=self.device)
                for row, key in zip(whole, keys, strict=True):
                    weights.read(key, row)
            self._put(link.names[0], whole)
        elif as_stored and isinstance(link.rule, Rename):  # most often
            self._put(link.names[0], weights.tensor(keys[0]))
        else:
            if as_stored:
                tensor = weights.tensor(keys[0])
            else:  # not mapped: the file's pages would stay in memory beside what they are converted to
                tensor = torch.empty(link.key_shapes[0], dtype=reduce(torch.promote_types, dtypes))
                weights.read(keys[0], tensor)
            ours = link.rule.to_ours([tensor], link.shapes, dtypes, self.device)
            for name, tensor in zip(link.names, ours, strict=True):
                self._put(name, tensor)

    def _dtype(self, name: str, stored: torch.dtype) -> torch.dtype:
        declared = self.plan.tensors[name].dtype
        if not declared.is_floating_point:
            return declared
        dtype = self.dtype or stored
        if dtype == torch.float16:
            names = self.plan.tied[name]
            if any(fnmatchcase(n, pattern) for n in names for pattern in self.keep_float32):
                return torch.float32
        return dtype

    def _put(self, name: str, tensor: Tensor) -> Tensor:
        old = self.plan.tensors[name]
        new = nn.Parameter(tensor, old.requires_grad) if isinstance(old, nn.Parameter) else tensor
        for tied in self.plan.tied[name]:
            slot = self.slots[tied]
            slot.held[slot.key] = new
        self.filled.add(name)
        return new

    def initialise_rest(self, initialise: Callable[[nn.Module], None]) -> None:
        """Give memory to what was not loaded, and let `initialise` set it, one owning submodule at a time."""
        fresh: dict[nn.Module, list[Tensor]] = {}
        for name in self.plan.tied:
            if name not in self.filled:
                old = self.plan.tensors[name]
                dtype = self._dtype(name, self.stored or old.dtype)
                tensor = self._put(name, _unset(old.shape, dtype, self.device))
                fresh.setdefault(self.slots[name].owner, []).append(tensor)
        for slot in self.slots.values():
            if not slot.stored and slot.held[slot.key].is_meta:
                unset = _unset(slot.tensor.shape, slot.tensor.dtype, self.device)
                slot.held[slot.key] = unset
                fresh.setdefault(slot.owner, []).append(unset)
        for owner, tensors in fresh.items():
            _initialise(owner, {id(tensor) for tensor in tensors}, initialise)


def _initialise(owner: nn.Module, fresh: set[int], initialise: Callable[[nn.Module], None]) -> None:
    """Let `initialise` set those tensors of `owner` that are `fresh`, and keep its others as they are."""
    own = {**dict(owner.named_parameters(recurse=False)), **dict(owner.named_buffers(recurse=False))}
    loaded = {key: tensor for key, tensor in own.items() if id(tensor) not in fresh}
    for key, tensor in loaded.items():
        stand_in = torch.empty_like(tensor)
        setattr(owner, key, nn.Parameter(stand_in, False) if isinstance(tensor, nn.Parameter) else stand_in)
    with torch.no_grad():
        initialise(owner)
    for key, tensor in loaded.items():
        setattr(owner, key, tensor)
    for key, tensor in own.items():
        if key not in loaded and tensor.is_floating_point() and tensor.isnan().any():
            raise CheckpointError(
                f"{key!r} of a {type(owner).__name__} is not in the checkpoint, nor set by initialisation"
            )


def _unset(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory to be initialised; NaN shows where that was forgotten."""
    empty = torch.empty(shape, dtype=dtype, device=device)
    return empty.fill_(torch.nan) if dtype.is_floating_point else empty.zero_()
