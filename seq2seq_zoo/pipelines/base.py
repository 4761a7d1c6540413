"""What pipelines that write have in common: options from several places, batches, records.

    inputs → batches of prompts → ids → generate → rows of ids → records

Where several places set an option, the first of these wins:

    the call  >  the pipeline  >  the config's task_specific_params  >  the checkpoint's generation config
              >  the task's defaults

max_length and max_new_tokens are two ways to say one thing: a place that sets one of them overrides both of
any later place.
"""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import UsageError
from ..generation import GenerationConfig, generate
from ..generation.config import OPTIONS, can_be_none, nearest
from .streaming import LineStreamer
from .tasks import Task

LENGTHS = frozenset(("max_length", "max_new_tokens"))
_GENERATE = tuple(
    name
    for name, parameter in inspect.signature(generate).parameters.items()
    if parameter.kind is not parameter.VAR_KEYWORD and name not in ("model", "inputs")
)


class Pipeline(ABC):
    """A model that writes, with its tokenizer.

    task          the row of the table
    name          the task as the user wrote it: translation_en_to_de has task_specific_params of its own
    options       for every call; a call's own options win

    `prefix` is put before every text: the config's `prefix`, or that of its task_specific_params.
    """

    own_options: ClassVar[tuple[str, ...]]
    """Options that are the pipeline's own affair; all others are those of `generate`."""
    own_flags: ClassVar[tuple[str, ...]]
    """Those of them that are True, False or None."""

    cleans_up: ClassVar[bool]
    """Whether spaces before English punctuation are removed by default."""

    def __init__(
        self, task: Task, model: Any, tokenizer: Any, *, name: str | None = None, **options: Any
    ) -> None:
        if not callable(tokenizer) or not hasattr(tokenizer, "decode"):
            raise UsageError(
                f"tokenizer is a {type(tokenizer).__name__}; it must be a tokenizer, or the place of one"
            )
        self.check_options(options)
        self.task = name or task.name
        self.model = model
        self.tokenizer = tokenizer
        self.options = options
        self._result = task.result
        self._defaults = task.defaults
        config = model.config
        of_task = (getattr(config, "task_specific_params", None) or {}).get(self.task) or {}
        self._of_task = {option: value for option, value in of_task.items() if option in OPTIONS}
        self.prefix: str = of_task.get("prefix", getattr(config, "prefix", None)) or ""

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device  # type: ignore[no-any-return]

    def option(self, name: str) -> Any:
        """The value of an option of `generate` in a call that does not set it."""
        asked = self._for_generate(self._asked({}))
        return asked.get(name, getattr(self._with_defaults(asked).generation_config, name))

    __call__: Callable[..., Any]
    """The results of each input, called as the subclass says."""

    def stream(self, prompt: Any, show: Callable[[str], Any]) -> None:
        """Write one answer, as one line, and have its text shown as it grows.

        Needs greedy search or sampling, and one answer.
        """
        asked = self._asked({})
        streamer = LineStreamer(
            self.tokenizer,
            show,
            before=self._repeated(prompt, asked),
            skip_special_tokens=True,
            clean_up_tokenization_spaces=asked.get("clean_up_tokenization_spaces", self.cleans_up),
        )
        self(prompt, streamer=streamer)

    @classmethod
    def check_options(cls, options: Mapping[str, Any], further: Iterable[str] = ()) -> None:
        """Refuse options that neither the pipeline nor `generate` knows, and values out of their range.

        `further` are names that `generate` accepts for one model besides.
        """
        known = {*cls.own_options, *_GENERATE, *OPTIONS, *further}
        for name, value in options.items():
            if name not in known:
                raise UsageError(f"a pipeline has no option {name!r}{nearest(name, known)}")
            if name in OPTIONS:
                GenerationConfig(**{name: value})
        size = options.get("batch_size")
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise UsageError(f"batch_size is {size!r}; it must be an integer of at least 1")
        for name in cls.own_flags:
            if not isinstance(options.get(name), (bool, type(None))):
                raise UsageError(f"{name} is {options[name]!r}; it must be True or False")

    def _asked(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options of a call and of the pipeline, checked."""
        self.check_options(options, (n for n in self.model.generation_inputs if n.startswith("decoder_")))
        return _merged(options, self.options)

    def _repeated(self, prompt: Any, asked: Mapping[str, Any]) -> str:
        """What of a prompt stands before its answer in the result."""
        return ""

    @abstractmethod
    def _answer(self, prompts: list[Any], asked: Mapping[str, Any]) -> Iterable[list[dict[str, Any]]]:
        """The results of each prompt of a batch."""

    def _answers(
        self, prompts: Iterable[Any], batch_size: int, asked: Mapping[str, Any]
    ) -> Iterator[list[dict[str, Any]]]:
        """The results of each prompt in turn."""
        prompts = iter(prompts)
        while batch := list(islice(prompts, batch_size)):
            yield from self._answer(batch, asked)

    def _generate(self, inputs: Mapping[str, Tensor], asked: Mapping[str, Any]) -> Tensor:
        """Ids [B · n, L], on the CPU; inputs are input_ids and attention_mask."""
        options = self._for_generate(asked)
        options.setdefault("tokenizer", self.tokenizer)  # stop_strings need it
        given = {name: value.to(self.device) for name, value in inputs.items()}
        written = self._with_defaults(options).generate(**given, **options)
        ids: Tensor = written if isinstance(written, Tensor) else written.sequences
        return ids.cpu()

    def _for_generate(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in asked.items() if name not in self.own_options}

    def _with_defaults(self, asked: Mapping[str, Any]) -> Any:
        """The model, with what applies below the user's options as its own generation config.

        `generate` fits a checkpoint's options to the request where it would refuse the user's, such as a
        length beyond the model's positions; the task's defaults deserve the same. The copy shares every part
        with the model, and the model itself stays as it is.
        """
        checkpoint = dict(self.model.generation_config.given)
        if checkpoint.get("pad_token_id") is None and self.tokenizer.pad_token_id is not None:
            checkpoint["pad_token_id"] = self.tokenizer.pad_token_id
        if checkpoint.get("max_length") == GenerationConfig.max_length:
            del checkpoint["max_length"]  # files of other writers hold this default as well
        if "generation_config" not in asked:
            checkpoint = _merged(self._of_task, checkpoint, self._defaults)
        if not LENGTHS.isdisjoint(asked):
            checkpoint = {name: value for name, value in checkpoint.items() if name not in LENGTHS}
        model = copy.copy(self.model)
        model.generation_config = GenerationConfig(**checkpoint)
        return model


def _merged(*places: Mapping[str, Any]) -> dict[str, Any]:
    """The options of several places; the first wins. None asks for nothing or, where it can, for "off"."""
    merged: dict[str, Any] = {}
    for place in places:
        hidden = set(merged)
        if not LENGTHS.isdisjoint(merged):
            hidden |= LENGTHS
        if "generation_config" in merged:
            hidden |= OPTIONS
        for name, value in place.items():
            off = name in OPTIONS - LENGTHS and can_be_none(name)
            if name not in hidden and (value is not None or off):
                merged[name] = value
    return merged


def one_by_one(inputs: Any) -> Iterable[Any]:
    """Inputs that are no list; a dataset may know only its length and its items."""
    if not isinstance(inputs, (Mapping, bytes)):
        if isinstance(inputs, Iterable):
            return inputs
        if hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__"):
            return (inputs[i] for i in range(len(inputs)))
    raise UsageError(f"inputs is a {type(inputs).__name__}; it must be a text or an iterable of texts")
