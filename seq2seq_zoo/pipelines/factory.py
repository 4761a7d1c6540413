"""`pipeline`: find the task, load the model and its tokenizer, and hand them to the class that drives them.

summarize = pipeline("summarization", "RUCAIBox/mvp-summarization")
summarize("Summarize: You may want to stick it to your boss …")    → [{"summary_text": "…"}]
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch

from ..config import Config, Place
from ..errors import UsageError
from ..models import auto
from ..models.base import Model
from ..tokenization import AutoTokenizer
from .base import Pipeline
from .devices import find_device
from .tasks import TASKS, Task, find_task, task_names


def pipeline(
    task: str | None = None,
    model: Place | Model | None = None,
    *,
    config: Config | Place | None = None,
    tokenizer: Any = None,
    device: torch.device | str | int | None = None,
    device_map: torch.device | str | int | None = None,
    dtype: torch.dtype | str | None = "auto",
    torch_dtype: torch.dtype | str | None = None,
    revision: str | None = None,
    subfolder: str = "",
    cache_dir: Place | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    model_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> Any:
    """A callable that does `task` with `model`.

    task           a name of the table in `tasks`; None for the first task that the model can do
    model          a checkpoint's place (folder, hub id, `bundled:NAME`), or a model of this package
    config         a config to use in place of the checkpoint's
    tokenizer      a tokenizer or its place; the model's place by default
    device         see `devices.find_device`; a model that is given stays where it is by default
    device_map     a device too, or "auto" for the accelerator if there is one
    dtype          of the weights; "auto" is the checkpoint's own. `torch_dtype` is its old name
    model_kwargs   further arguments of `from_pretrained`
    options        of the pipeline (`batch_size`, `truncation`, …) and of `generate`, for every call

    revision, subfolder, cache_dir, token and local_files_only say where the files are, as in
    `from_pretrained`.

    Raises UsageError for arguments that are unknown or contradict each other, before anything is loaded,
    and CheckpointError, ConfigError or TokenizerError for files that are missing or damaged.
    """
    row = None if task is None else find_task(task)
    if device is not None and device_map is not None:
        raise UsageError(f"device is {device!r} and device_map is {device_map!r}; give one of them")
    loading = _loading_options(config, dtype, torch_dtype, model_kwargs or {})
    hub: dict[str, Any] = {
        "revision": revision,
        "subfolder": subfolder,
        "cache_dir": cache_dir,
        "token": token,
        "local_files_only": local_files_only,
    }
    hub |= {name: loading.pop(name) for name in hub.keys() & loading.keys()}
    here = device if device_map in (None, "auto") else device_map

    if isinstance(model, Model):
        _refuse_for_model(model, loading, tokenizer)
        row = _task_of_class(type(model), row)
        _driver(row).check_options(options)
        opened = model if device is None and device_map is None else model.to(find_device(here))
    elif isinstance(model, (str, os.PathLike)):
        loading["device"] = find_device(here)
        row = row or _task_of_place(model, loading.get("config"), hub)
        _driver(row).check_options(options)
        opened = getattr(auto, f"AutoModelFor{row.model}").from_pretrained(model, **hub, **loading)
        tokenizer = model if tokenizer is None else tokenizer
    else:
        raise UsageError(f"model is {model!r}; it must be a checkpoint's place or a model of this package")
    if isinstance(tokenizer, (str, os.PathLike)):
        tokenizer = AutoTokenizer.from_pretrained(tokenizer, **hub)
    return _driver(row)(row, opened, tokenizer, name=task or row.name, **options)


def _driver(row: Task) -> type[Pipeline]:
    """The class that does a task."""
    module, _, name = row.driver.partition(":")
    driver: type[Pipeline] = getattr(import_module(f"{__package__}.{module}"), name)
    return driver


def _loading_options(
    config: Config | Place | None,
    dtype: torch.dtype | str | None,
    torch_dtype: torch.dtype | str | None,
    model_kwargs: Mapping[str, Any],
) -> dict[str, Any]:
    """What concerns loading and was given, each thing once."""
    given: dict[str, Any] = {} if config is None else {"config": config}
    if dtype != "auto":
        given["dtype"] = dtype
    if torch_dtype is not None:
        given["torch_dtype"] = torch_dtype
    twice = [name for name in given if name in model_kwargs]
    if twice:
        raise UsageError(f"{twice[0]} is given both by itself and in model_kwargs; give it once")
    loading = {**given, **model_kwargs}
    if "dtype" in loading and "torch_dtype" in loading:
        raise UsageError("dtype and torch_dtype are two names of one argument; give one of them")
    return loading


def _refuse_for_model(model: Model, loading: Mapping[str, Any], tokenizer: Any) -> None:
    kind = type(model).__name__
    if loading:
        raise UsageError(f"{', '.join(loading)} concern loading, but model is a {kind} already")
    if tokenizer is None:
        raise UsageError(f"tokenizer is None; it must be given where model is a {kind}, not a place")


def _task_of_class(cls: type[Model], row: Task | None) -> Task:
    """The task itself if models of this class can do it; the first one that they can do if it is None."""
    for candidate in TASKS if row is None else (row,):
        able = [family.tasks[candidate.model] for family in auto.FAMILIES if candidate.model in family.tasks]
        if issubclass(cls, tuple(able)):
            return candidate
    if row is None:
        raise UsageError(f"task is None, and a {cls.__name__} can do none of {', '.join(task_names())}")
    names = ", ".join(sorted(c.__name__ for c in able))
    raise UsageError(f"model is a {cls.__name__}; for {row.name} it must be one of {names}")


def _task_of_place(model: Place, config: Config | Place | None, hub: Mapping[str, Any]) -> Task:
    """The first task that the family of a checkpoint can do."""
    place = model if config is None else config
    read = place if isinstance(place, Config) else auto.AutoConfig.from_pretrained(place, **hub)
    family = auto.family_of(read.model_type, os.fspath(model))
    for row in TASKS:
        if row.model in family.tasks:
            return row
    raise UsageError(f"task is None, and {os.fspath(model)} can do none of {', '.join(task_names())}")
