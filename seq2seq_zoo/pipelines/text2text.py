"""Text to text: a pipeline around an encoder-decoder.

    texts → prefix + text → ids [B, S] → generate → ids [B · n, L] → {"generated_text": …}, n for each text

Where several places set an option, the first of these wins:

    the call  >  the pipeline  >  the config's task_specific_params  >  the checkpoint's generation config
              >  the task's defaults

max_length and max_new_tokens are two ways to say one thing: a place that sets one of them overrides both of
any later place.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError
from ..generation import GenerationConfig, generate
from ..generation.config import OPTIONS, can_be_none, nearest
from .tasks import Task

_OWN = ("batch_size", "truncation", "return_text", "return_tensors", "clean_up_tokenization_spaces")
_LENGTHS = frozenset(("max_length", "max_new_tokens"))
_GENERATE = tuple(
    name
    for name, parameter in inspect.signature(generate).parameters.items()
    if parameter.kind is not parameter.VAR_KEYWORD and name not in ("model", "inputs")
)


class Text2TextPipeline:
    """An encoder-decoder with its tokenizer, callable on texts.

    task          the row of the table
    name          the task as the user wrote it: translation_en_to_de has task_specific_params of its own
    options       for every call; a call's own options win

    `prefix` is put before every text: the config's `prefix`, or that of its task_specific_params.
    """

    def __init__(
        self, task: Task, model: Any, tokenizer: Any, *, name: str | None = None, **options: Any
    ) -> None:
        if not callable(tokenizer) or not hasattr(tokenizer, "decode"):
            raise UsageError(
                f"tokenizer is a {type(tokenizer).__name__}; it must be a tokenizer, or the place of one"
            )
        check_options(options)
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

    def __call__(self, inputs: str | Iterable[str], **options: Any) -> Any:
        """Write an answer to each text.

        A text gives its results: a list of dicts, one for each of num_return_sequences. A list of texts gives
        a list with one dict for each text, or, where there are several, a list of dicts for each text. Any
        other iterable (a generator, an open file) gives an iterator over lists of dicts, one for each text;
        it reads `batch_size` texts at a time.

        Each dict has `{result}_text`, or with return_tensors `{result}_token_ids` (int64 [L], on the CPU),
        where {result} is generated, summary or translation.

        batch_size                     texts in one pass through the model (1)
        truncation                     cut texts to what tokenizer and model can read
        return_tensors                 ids in place of text
        clean_up_tokenization_spaces   remove spaces before English punctuation (False)

        All other options are those of `generate`. Raises UsageError or GenerationError, naming the
        argument, before any work.
        """
        check_options(options, (n for n in self.model.generation_inputs if n.startswith("decoder_")))
        asked = _merged(options, self.options)
        if asked.get("return_text") is False and not asked.get("return_tensors"):
            raise UsageError("return_text is False and return_tensors is not True: nothing would be returned")
        size = asked.get("batch_size", 1)
        if size > 1 and self.tokenizer.pad_token_id is None:
            raise UsageError(f"batch_size is {size}, but the tokenizer has no pad_token for it")
        if isinstance(inputs, str):
            return next(self._results([inputs], 1, asked))
        if isinstance(inputs, (list, tuple)):
            _check_texts(inputs)
            results = list(self._results(inputs, size, asked))
            return [result for (result,) in results] if all(len(r) == 1 for r in results) else results
        return self._results(_stream(inputs), size, asked)

    def _results(
        self, texts: Iterable[str], batch_size: int, asked: Mapping[str, Any]
    ) -> Iterator[list[dict[str, Any]]]:
        """The results of each text in turn."""
        texts = iter(texts)
        while batch := list(islice(texts, batch_size)):
            _check_texts(batch)
            ids = self._write(batch, asked)  # [B · n, L]
            for rows in ids.view(len(batch), -1, ids.shape[-1]):  # [n, L]
                yield [self._record(row, asked) for row in rows]

    def _write(self, texts: list[str], asked: Mapping[str, Any]) -> Tensor:
        """Texts → ids [B · n, L], on the CPU."""
        truncation = asked.get("truncation", False)
        encoded = self.tokenizer(
            [self.prefix + text for text in texts],
            padding=len(texts) > 1,
            truncation=truncation,
            max_length=self._longest_source() if truncation else None,
            return_tensors="pt",
        )
        inputs = {name: encoded[name].to(self.device) for name in ("input_ids", "attention_mask")}
        options = {name: value for name, value in asked.items() if name not in _OWN}
        options.setdefault("tokenizer", self.tokenizer)  # stop_strings need it
        written = self._with_defaults(options).generate(**inputs, **options)
        ids: Tensor = written if isinstance(written, Tensor) else written.sequences
        return ids.cpu()

    def _longest_source(self) -> int | None:
        """How many tokens the encoder can read; None where the tokenizer's own limit is the only one."""
        config = getattr(self.model.config, "encoder", self.model.config)
        positions: int | None = getattr(config, "max_position_embeddings", None)
        return None if positions is None else min(positions, self.tokenizer.model_max_length)

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
        if not _LENGTHS.isdisjoint(asked):
            checkpoint = {name: value for name, value in checkpoint.items() if name not in _LENGTHS}
        model = copy.copy(self.model)
        model.generation_config = GenerationConfig(**checkpoint)
        return model

    def _record(self, ids: Tensor, asked: Mapping[str, Any]) -> dict[str, Any]:
        if asked.get("return_tensors"):
            return {f"{self._result}_token_ids": ids}
        text = self.tokenizer.decode(
            ids,
            skip_special_tokens=True,
            clean_up_tokenization_spaces=asked.get("clean_up_tokenization_spaces", False),
        )
        return {f"{self._result}_text": text}


def check_options(options: Mapping[str, Any], further: Iterable[str] = ()) -> None:
    """Refuse options that neither the pipeline nor `generate` knows, and values out of their range.

    `further` are names that `generate` accepts for one model besides.
    """
    known = {*_OWN, *_GENERATE, *OPTIONS, *further}
    for name, value in options.items():
        if name not in known:
            raise UsageError(f"a pipeline has no option {name!r}{nearest(name, known)}")
        if name in OPTIONS:
            GenerationConfig(**{name: value})
    size = options.get("batch_size")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise UsageError(f"batch_size is {size!r}; it must be an integer of at least 1")
    for name in ("return_text", "return_tensors", "clean_up_tokenization_spaces"):
        if not isinstance(options.get(name), (bool, type(None))):
            raise UsageError(f"{name} is {options[name]!r}; it must be True or False")


def _merged(*places: Mapping[str, Any]) -> dict[str, Any]:
    """The options of several places; the first wins. None asks for nothing or, where it can, for "off"."""
    merged: dict[str, Any] = {}
    for place in places:
        hidden = set(merged)
        if not _LENGTHS.isdisjoint(merged):
            hidden |= _LENGTHS
        if "generation_config" in merged:
            hidden |= OPTIONS
        for name, value in place.items():
            off = name in OPTIONS - _LENGTHS and can_be_none(name)
            if name not in hidden and (value is not None or off):
                merged[name] = value
    return merged


def _check_texts(texts: Iterable[Any]) -> None:
    for text in texts:
        if not isinstance(text, str):
            raise UsageError(f"inputs hold a {type(text).__name__}; each of them must be a text")


def _stream(inputs: Any) -> Iterable[Any]:
    """Inputs of any other kind, one by one; a dataset may know only its length and its items."""
    if not isinstance(inputs, (Mapping, bytes)):
        if isinstance(inputs, Iterable):
            return inputs
        if hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__"):
            return (inputs[i] for i in range(len(inputs)))
    raise UsageError(f"inputs is a {type(inputs).__name__}; it must be a text or an iterable of texts")
