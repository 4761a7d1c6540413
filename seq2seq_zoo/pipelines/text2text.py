"""Text to text: a pipeline around an encoder-decoder.

texts → prefix + text → ids [B, S] → generate → ids [B · n, L] → {"generated_text": …}, n for each text
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from torch import Tensor

from ..errors import UsageError
from .base import Pipeline, one_by_one


class Text2TextPipeline(Pipeline):
    """An encoder-decoder with its tokenizer, callable on texts."""

    own_options: ClassVar[tuple[str, ...]] = (
        *("batch_size", "truncation"),
        *("return_text", "return_tensors", "clean_up_tokenization_spaces"),
    )
    cleans_up: ClassVar[bool] = False
    own_flags: ClassVar[tuple[str, ...]] = ("return_text", "return_tensors", "clean_up_tokenization_spaces")

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
        asked = self._asked(options)
        if asked.get("return_text") is False and not asked.get("return_tensors"):
            raise UsageError("return_text is False and return_tensors is not True: nothing would be returned")
        size = asked.get("batch_size", 1)
        if size > 1 and self.tokenizer.pad_token_id is None:
            raise UsageError(f"batch_size is {size}, but the tokenizer has no pad_token for it")
        if isinstance(inputs, str):
            return next(self._answers([inputs], 1, asked))
        if isinstance(inputs, (list, tuple)):
            _check_texts(inputs)
            results = list(self._answers(inputs, size, asked))
            return [result for (result,) in results] if all(len(r) == 1 for r in results) else results
        return self._answers(one_by_one(inputs), size, asked)

    def _answer(self, prompts: list[str], asked: Mapping[str, Any]) -> Iterable[list[dict[str, Any]]]:
        _check_texts(prompts)
        truncation = asked.get("truncation", False)
        encoded = self.tokenizer(
            [self.prefix + text for text in prompts],
            padding=len(prompts) > 1,
            truncation=truncation,
            max_length=self._longest_source() if truncation else None,
            return_tensors="pt",
        )
        inputs = {name: encoded[name] for name in ("input_ids", "attention_mask")}
        ids = self._generate(inputs, asked)  # [B · n, L]
        for rows in ids.view(len(prompts), -1, ids.shape[-1]):  # [n, L]
            yield [self._record(row, asked) for row in rows]

    def _longest_source(self) -> int | None:
        """How many tokens the encoder can read; None where the tokenizer's own limit is the only one."""
        config = getattr(self.model.config, "encoder", self.model.config)
        positions: int | None = getattr(config, "max_position_embeddings", None)
        return None if positions is None else min(positions, self.tokenizer.model_max_length)

    def _record(self, ids: Tensor, asked: Mapping[str, Any]) -> dict[str, Any]:
        if asked.get("return_tensors"):
            return {f"{self._result}_token_ids": ids}
        text = self.tokenizer.decode(
            ids,
            skip_special_tokens=True,
            clean_up_tokenization_spaces=asked.get("clean_up_tokenization_spaces", self.cleans_up),
        )
        return {f"{self._result}_text": text}


def _check_texts(texts: Iterable[Any]) -> None:
    for text in texts:
        if not isinstance(text, str):
            raise UsageError(f"inputs hold a {type(text).__name__}; each of them must be a text")
