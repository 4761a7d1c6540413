"""The tasks that a pipeline can do, as a table: a row a task.

A task says which of a family's classes does it, which class of this package drives that model, how its
results are called, and with which options it writes where neither the checkpoint nor the user sets any.

Nothing here needs torch: the command line reads this table to explain itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError


@dataclass(frozen=True)
class Task:
    """One row."""

    name: str
    model: str
    """The column of `models.auto` that holds the classes for it."""
    driver: str
    """The class that drives them, as "module:Class" of this package."""
    result: str
    """Results are called `{result}_text` and `{result}_token_ids`."""
    defaults: Mapping[str, Any]
    """Options of `generate` that apply where nobody sets them."""


TEXT_GENERATION = "text-generation"

_WRITING = {"max_new_tokens": 256, "num_beams": 4}
_GOING_ON = {"max_new_tokens": 256, "do_sample": True, "temperature": 0.7}

TASKS: tuple[Task, ...] = (
    Task("text2text-generation", "Seq2SeqLM", "text2text:Text2TextPipeline", "generated", _WRITING),
    Task("summarization", "Seq2SeqLM", "text2text:Text2TextPipeline", "summary", _WRITING),
    Task("translation", "Seq2SeqLM", "text2text:Text2TextPipeline", "translation", _WRITING),
    Task(TEXT_GENERATION, "CausalLM", "text_generation:TextGenerationPipeline", "generated", _GOING_ON),
)

_DIRECTION = re.compile(r"translation_[^_]+_to_[^_]+")
DIRECTED = "translation_XX_to_YY"
"""Translation may name its languages; checkpoints keep options for a direction under such names."""


def task_names() -> list[str]:
    """The names of all tasks, as messages list them."""
    return [*(task.name for task in TASKS), DIRECTED]


def find_task(name: object) -> Task:
    """The task of this name; UsageError, listing the tasks, if there is none."""
    plain = "translation" if isinstance(name, str) and _DIRECTION.fullmatch(name) else name
    for task in TASKS:
        if task.name == plain:
            return task
    raise UsageError(f"task is {name!r}; it must be one of {', '.join(task_names())}")
