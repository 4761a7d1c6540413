"""What a checkpoint is, told from its config and the headers of its files: no tensor is read.

The model is built on the meta device, where parameters have shapes and no memory; the files say the shape and
dtype of each key; the family's key map says which key is which parameter.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .checkpoint import TensorInfo, Weights, open_weights
from .checkpoint.formats import DTYPES, WeightFile
from .checkpoint.load import KeyMatch, match_keys
from .checkpoint.plan import Plan, make_plan
from .checkpoint.resolve import BUNDLED
from .config import Config, Place, read_config
from .errors import CheckpointError, UsageError
from .models.auto import Family, family_of
from .models.base import Model
from .models.loading import WithoutValues


@dataclass
class Part:
    """A part of a model, such as its encoder."""

    name: str
    parameters: int = 0
    """How many numbers it has learnt, those of earlier parts left out."""
    trainable: int = 0
    """How many of them training changes."""
    tied: str = ""
    """An earlier part with which it shares parameters."""


@dataclass(frozen=True)
class Inspection:
    """A checkpoint, and how the class `cls` reads it."""

    where: str
    cls: type[Model]
    config: Config
    parts: tuple[Part, ...]
    weights: Weights
    plan: Plan
    match: KeyMatch

    @property
    def parameters(self) -> int:
        """How many numbers the model has learnt; tied ones count once."""
        return sum(part.parameters for part in self.parts)

    @property
    def trainable(self) -> int:
        """How many of them training changes."""
        return sum(part.trainable for part in self.parts)

    @property
    def stored_bytes(self) -> int:
        """The size of all tensors in the files."""
        return sum(math.prod(info.shape) * info.dtype.itemsize for info in self.weights.values())


def inspect_checkpoint(where: Place, class_name: str | None = None, **hub: Any) -> Inspection:
    """Inspect the checkpoint at `where`: a folder, a hub repository, or `bundled:NAME`.

    It is read as the class named; or as the one its config.json names; or as its family's first class with a
    head. `hub` are further arguments of `open_weights`. Raises UsageError for an unknown class,
    CheckpointError and ConfigError as `from_pretrained` does; keys that do not fit the model are a result.
    """
    values = read_config(where, **hub)
    family = family_of(values.get("model_type"), os.fspath(where))
    config = family.config.from_dict(values)
    cls = find_class(family, class_name, config.architectures or ())
    return inspect_weights(cls, config, open_headers(where, **hub))


def inspect_weights(cls: type[Model], config: Config, weights: Weights) -> Inspection:
    """How `cls` with this config reads these weights."""
    cls.settle_config(config, weights)
    with torch.device("meta"), WithoutValues():
        model = cls(config)
    key_map = cls.stored_key_map(config, weights)
    plan = make_plan(model, key_map)
    match = match_keys(plan, weights, key_map)
    return Inspection(weights.where, cls, config, count_parts(model), weights, plan, match)


def open_headers(where: Place, **hub: Any) -> Weights:
    """The weights at `where`, good for keys, shapes and dtypes; of a hub repository that is not in the cache
    only the headers are downloaded."""
    place = os.fspath(where)
    if os.path.isdir(place) or place.startswith(BUNDLED):
        return open_weights(where, **hub)
    try:
        return open_weights(where, **{**hub, "local_files_only": True})
    except CheckpointError:
        if not (hub.get("local_files_only") or hub.get("subfolder")):
            # If the headers cannot be had alone, open_weights gets the files, or says what is wrong.
            with contextlib.suppress(Exception):
                return _remote_headers(place, hub.get("revision"), hub.get("token"))
    return open_weights(where, **hub)


def _remote_headers(repository: str, revision: str | None, token: str | bool | None) -> Weights:
    import huggingface_hub

    def tensor(key: str) -> Tensor:
        raise CheckpointError(f"{repository}: only the header of {key!r} was downloaded")

    files: dict[str, WeightFile] = {}
    found = huggingface_hub.get_safetensors_metadata(repository, revision=revision, token=token)
    for name, header in found.files_metadata.items():
        infos = {
            key: TensorInfo(tuple(entry.shape), DTYPES[entry.dtype], Path(name))
            for key, entry in header.tensors.items()
        }
        files |= dict.fromkeys(infos, WeightFile(Path(name), infos, tensor))
    return Weights(repository, files)


def find_class(family: Family, wanted: str | None, architectures: Iterable[str] = ()) -> type[Model]:
    """The class of a family named `wanted`; where that is None, the one nearest to `architectures`."""
    found = (family.model, *family.tasks.values(), family.encoder)
    classes = {cls.__name__: cls for cls in found if cls is not None}
    if wanted is not None:
        if wanted not in classes:
            raise UsageError(f"the class is {wanted!r}; it must be one of {', '.join(classes)}")
        return classes[wanted]
    for name in architectures:
        if name in classes:
            return classes[name]
    for name in architectures:  # BartForSequenceClassification is read as MvpForSequenceClassification
        for own in classes:
            if "For" in name and own.endswith(name[name.index("For") :]):
                return classes[own]
    return next(iter(family.tasks.values()), family.model)


def count_parts(model: Model) -> tuple[Part, ...]:
    """The parameters of each part. A body inside a head's class counts by its own parts."""
    parts: dict[str, Part] = {}
    owners: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        first, *rest = name.split(".")
        path = f"{first}.{rest[0]}" if isinstance(getattr(model, first), Model) else first
        part = parts.setdefault(path, Part(path))
        owner = owners.setdefault(id(parameter), name)
        if owner == name:
            part.parameters += parameter.numel()
            part.trainable += parameter.numel() if parameter.requires_grad else 0
        elif not owner.startswith(f"{path}."):
            part.tied = next(other for other in parts if owner.startswith(f"{other}."))
    return tuple(parts.values())


# ---- as text ----


def config_lines(found: Inspection) -> Iterator[str]:
    """The config as JSON, with the defaults that its file leaves out."""
    yield f"{_shown(found.where)}: {type(found.config).__name__}"
    yield from map(_shown, found.config.to_json_string().split("\n")[:-1])


def count_lines(found: Inspection) -> Iterator[str]:
    """A table of the parts, their sum last."""
    total = Part("total", found.parameters, found.trainable)
    rows = [
        (
            part.name,
            f"{part.parameters:,}",
            f"{part.trainable:,}",
            f"tied to {part.tied}" if part.tied else "",
        )
        for part in (*found.parts, total)
    ]
    header = (found.cls.__name__, "parameters", "trainable", "")
    yield from _table([header, *rows], right=(1, 2))


def key_lines(found: Inspection) -> Iterator[str]:
    """Each key of the checkpoint with the tensor of ours that it is, then the keys that are none."""
    weights, match, links = found.weights, found.match, found.plan.links
    rows: list[tuple[str, ...]] = []
    missing: list[tuple[str, ...]] = []
    misshapen: list[tuple[str, ...]] = []
    for link in links:
        for row, (key, expected) in enumerate(zip(link.keys, link.key_shapes, strict=True)):
            one_of_many = f"[{row}]" if len(link.keys) > 1 else ""
            ours = ", ".join(name + one_of_many for name in link.names)
            if key not in match.sources:
                missing.append((key, "->", ours, _shape(expected)))
                continue
            theirs = match.sources[key]
            info = weights[theirs]
            rows.append((theirs, "->", ours, _shape(info.shape), _dtype(info.dtype)))
            if info.shape != expected:
                misshapen.append((theirs, _shape(info.shape), f"the model has {_shape(expected)}"))
    size = f"{len(rows)}, {found.stored_bytes:,} bytes"
    yield f"keys of {_shown(found.where)} -> tensors of {found.cls.__name__}: {size}"
    yield from _table(sorted(rows, key=lambda row: _by_number(row[0])))
    groups: dict[str, list[tuple[str, ...]]] = {
        "missing, new when loaded": missing,
        "of another shape": misshapen,
        "copies of other keys": [(copy, "=", key) for key, copy in match.copies],
        "dropped": [(key, why) for key, why in match.dropped.items()],
        "unexpected, not used": [
            (key, _shape(weights.shape(key)), _dtype(weights.dtype(key)))
            for key in match.report.unexpected_keys
        ],
    }
    for what, group in groups.items():
        if group:
            yield f"{what}: {len(group)}"
            yield from _table(group)


def _table(rows: Iterable[tuple[str, ...]], right: tuple[int, ...] = ()) -> Iterator[str]:
    """Rows as lines with columns below each other; the columns `right` end together."""
    rows = [tuple(map(_shown, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield ("  " + "  ".join(cells)).rstrip()


def _shown(text: str) -> str:
    """What a file says, as a part of one line: a checkpoint's names may hold anything, were it a terminal's
    commands."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _by_number(key: str) -> list[tuple[int, str]]:
    """What sorts keys so that layer 10 comes after layer 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in key.split(".")]


def _shape(shape: tuple[int, ...]) -> str:
    return str(list(shape))


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
