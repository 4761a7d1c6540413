"""Text generation: a pipeline around a decoder, which goes on with a text or answers in a conversation.

    text      prefix + text ─────▶ ids ┐
    messages  chat template ─────▶ ids ┴ padded on the left [B, L] → generate → [B · n, L + new]
                               → {"generated_text": text and what follows it, or messages and the answer}

What is new is found as text: the text of all ids, without that of the prompt's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from ..errors import UsageError
from .base import LENGTHS, Pipeline, one_by_one

Messages: TypeAlias = Sequence[Mapping[str, Any]]
Prompt: TypeAlias = str | Messages
"""A text, or a conversation."""

_CONTENTS = ("return_full_text", "return_text", "return_tensors")


class TextGenerationPipeline(Pipeline):
    """A decoder with its tokenizer, callable on texts and on conversations."""

    cleans_up: ClassVar[bool] = True
    own_flags: ClassVar[tuple[str, ...]] = (
        *_CONTENTS,
        *("clean_up_tokenization_spaces", "skip_special_tokens", "add_special_tokens"),
        "continue_final_message",
    )
    own_options: ClassVar[tuple[str, ...]] = (
        *own_flags,
        *("batch_size", "truncation", "prefix", "handle_long_generation", "stop_sequence"),
        "tokenizer_encode_kwargs",
    )

    @classmethod
    def check_options(cls, options: Mapping[str, Any], further: Iterable[str] = ()) -> None:
        """Refuse options that neither the pipeline nor `generate` knows, and values out of their range."""
        super().check_options(options, further)
        if options.get("handle_long_generation") not in (None, "hole"):
            raise UsageError(
                f"handle_long_generation is {options['handle_long_generation']!r}; it must be None or 'hole'"
            )
        for name, kind in (("prefix", str), ("tokenizer_encode_kwargs", Mapping)):
            if not isinstance(options.get(name), (kind, type(None))):
                raise UsageError(f"{name} is {options[name]!r}; it must be a {kind.__name__}")
        contents = [name for name in _CONTENTS if options.get(name) is not None]
        if len(contents) > 1:
            raise UsageError(f"{' and '.join(contents)} are given; only one of them can say what is returned")

    def __call__(self, text_inputs: Any, **options: Any) -> Any:
        """Go on with each text, answer each conversation.

        A text gives its results: a list of dicts, one for each of num_return_sequences. So does a
        conversation, a list of messages with "role" and "content". A list of texts or of conversations gives
        a list of such lists, any other iterable an iterator over them, which reads `batch_size` at a time.

        Each dict has `generated_text`: the text and what follows it, or the messages with the assistant's
        answer among them.

        return_full_text               False for what is new alone
        return_tensors                 `generated_token_ids`, a list with the prompt's, in place of text
        batch_size                     prompts in one pass through the model (1)
        prefix                         stands before each text; what the config says by default
        continue_final_message         go on with the final message of a conversation instead of answering it;
                                       by default, if it is the assistant's
        handle_long_generation         "hole": cut the beginning of prompts that leave too little room
        stop_sequence                  text, or texts, that end an answer
        truncation, add_special_tokens, tokenizer_encode_kwargs
                                       how a prompt is encoded; the last are options of the tokenizer, or, for
                                       a conversation, of apply_chat_template
        skip_special_tokens            leave special tokens out of the text (True)
        clean_up_tokenization_spaces   remove spaces before English punctuation (True)

        All other options are those of `generate`; the defaults are do_sample=True, temperature=0.7 and
        max_new_tokens=256. Raises UsageError, GenerationError or TokenizerError, naming the argument.
        """
        asked = self._asked(options)
        if asked.get("return_text") is False:
            raise UsageError("return_text is False and return_tensors is not True: nothing would be returned")
        size = asked.get("batch_size", 1)
        if isinstance(text_inputs, str) or _is_conversation(text_inputs):
            _check_prompts([text_inputs])
            return next(self._answers([text_inputs], 1, asked))
        if isinstance(text_inputs, (list, tuple)):
            _check_prompts(text_inputs)
            return list(self._answers(text_inputs, size, asked))
        return self._answers(one_by_one(text_inputs), size, asked)

    def _repeated(self, prompt: Prompt, asked: Mapping[str, Any]) -> str:
        return prompt if isinstance(prompt, str) and asked.get("return_full_text") is not False else ""

    def _answer(self, prompts: list[Prompt], asked: Mapping[str, Any]) -> Iterator[list[dict[str, Any]]]:
        _check_prompts(prompts)
        rows = [self._encode(prompt, asked) for prompt in prompts]
        ids, mask = _padded_on_the_left(rows, self._pad())
        prefix = self._prefix(asked) if isinstance(prompts[0], str) else ""
        options = self._of_generate(asked, prefix)
        written = self._generate({"input_ids": ids, "attention_mask": mask}, options)
        ends = self._ends(asked)
        new = written[:, ids.shape[1] :].view(len(prompts), -1, written.shape[1] - ids.shape[1])
        for prompt, row, continuations in zip(prompts, rows, new, strict=True):
            yield [self._record(prompt, row, _until_end(ids, ends), asked) for ids in continuations]

    # Prompts → ids

    def _encode(self, prompt: Prompt, asked: Mapping[str, Any]) -> list[int]:
        options = dict(asked.get("tokenizer_encode_kwargs") or {})
        if asked.get("truncation") is not None:
            options = {
                "truncation": asked["truncation"],
                "max_length": asked.get("max_length") or self._longest_prompt(),
                **options,
            }
        if isinstance(prompt, str):
            if asked.get("add_special_tokens") is not None:
                options.setdefault("add_special_tokens", asked["add_special_tokens"])
            ids = self.tokenizer(self._prefix(asked) + prompt, **options)["input_ids"]
        else:
            going_on = _goes_on(prompt, asked)
            ids = self.tokenizer.apply_chat_template(
                list(prompt),
                add_generation_prompt=not going_on,
                continue_final_message=going_on,
                **options,
            )
        ids = self._with_room(list(ids), asked)
        if ids:
            return ids
        begin = self.model.generation_config.bos_token_id
        begin = self.tokenizer.bos_token_id if begin is None else begin
        if begin is None:
            raise UsageError(f"the prompt {prompt!r} has no tokens, and there is no bos_token to begin with")
        return [int(begin)]

    def _prefix(self, asked: Mapping[str, Any]) -> str:
        return str(asked.get("prefix", self.prefix))

    def _longest_prompt(self) -> int | None:
        """How many tokens tokenizer and model can read; None for any number."""
        limits = [
            limit
            for limit in (self.model.max_positions, self.tokenizer.model_max_length)
            if limit is not None and limit < 1e20
        ]
        return min(limits) if limits else None

    def _with_room(self, ids: list[int], asked: Mapping[str, Any]) -> list[int]:
        """The end of a prompt, where "hole" asks to leave room for what is to be written."""
        longest = self._longest_prompt()
        if asked.get("handle_long_generation") is None or longest is None:
            return ids
        settled = {
            **self._with_defaults(asked).generation_config.given,
            **{name: asked[name] for name in LENGTHS if name in asked},
        }
        new = settled.get("max_new_tokens") or settled["max_length"] - len(ids)
        if new < 0 or longest - new <= 0:
            raise UsageError(
                f"handle_long_generation is 'hole', but {new} new tokens leave no room for any of the "
                f"prompt's {len(ids)}, as tokenizer and model have {longest} in all"
            )
        return ids[-(longest - new) :]

    def _of_generate(self, asked: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        """The options for `generate`: a user's lengths do not count the prefix, which generate does; and a
        stop sequence is one of its stop_strings."""
        options = dict(asked)
        if prefix and "max_new_tokens" not in asked:
            special = bool(asked.get("add_special_tokens"))
            length = len(self.tokenizer(prefix, add_special_tokens=special)["input_ids"])
            for name in ("max_length", "min_length"):
                if asked.get(name):
                    options[name] = asked[name] + length
        if asked.get("stop_sequence") is not None:
            options["stop_strings"] = asked["stop_sequence"]
        return options

    def _pad(self) -> int:
        """Any id will do where the mask is 0."""
        pad = self.tokenizer.pad_token_id
        return 0 if pad is None else int(pad)

    # Ids → records

    def _ends(self, asked: Mapping[str, Any]) -> list[int]:
        """The ids that end a text."""
        given = asked.get("generation_config")
        ends = asked.get("eos_token_id", None if given is None else given.eos_token_id)
        ends = self._with_defaults(asked).generation_config.eos_token_id if ends is None else ends
        return [ends] if isinstance(ends, int) else list(ends or ())

    def _record(
        self, prompt: Prompt, row: list[int], new: list[int], asked: Mapping[str, Any]
    ) -> dict[str, Any]:
        if asked.get("return_tensors"):
            return {f"{self._result}_token_ids": row + new}
        text = self._text(row + new, asked)[len(self._text(row, asked)) :]
        if asked.get("return_full_text") is False:
            return {f"{self._result}_text": text}
        if isinstance(prompt, str):
            return {f"{self._result}_text": prompt + text}
        messages = [dict(message) for message in prompt]
        if _goes_on(prompt, asked):
            content = messages[-1]["content"]
            added = text if isinstance(content, str) else [{"type": "text", "text": text}]
            messages[-1]["content"] = content + added
        else:
            messages.append({"role": "assistant", "content": text})
        return {f"{self._result}_text": messages}

    def _text(self, ids: list[int], asked: Mapping[str, Any]) -> str:
        text: str = self.tokenizer.decode(
            ids,
            skip_special_tokens=asked.get("skip_special_tokens", True),
            clean_up_tokenization_spaces=asked.get("clean_up_tokenization_spaces", self.cleans_up),
        )
        return text


def _padded_on_the_left(rows: list[list[int]], pad: int) -> tuple[Tensor, Tensor]:
    """ids and mask, int64 [B, longest]."""
    longest = max(map(len, rows))
    ids = [[pad] * (longest - len(row)) + row for row in rows]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids), torch.tensor(mask)


def _until_end(new: Tensor, ends: list[int]) -> list[int]:
    """New ids without the padding behind the first that ends a text."""
    ids: list[int] = new.tolist()
    return ids[: next((i + 1 for i, index in enumerate(ids) if index in ends), len(ids))]


def _goes_on(messages: Messages, asked: Mapping[str, Any]) -> bool:
    """Whether the final message is to be continued."""
    chosen = asked.get("continue_final_message")
    return messages[-1]["role"] == "assistant" if chosen is None else bool(chosen)


def _is_conversation(inputs: Any) -> bool:
    return isinstance(inputs, (list, tuple)) and bool(inputs) and isinstance(inputs[0], Mapping)


def _check_prompts(prompts: Iterable[Any]) -> None:
    for prompt in prompts:
        if isinstance(prompt, str):
            continue
        if not _is_conversation(prompt):
            raise UsageError(
                f"inputs hold {prompt!r}; each of them must be a text, or a conversation: a list of messages"
            )
        for message in prompt:
            if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
                raise UsageError(
                    f"a message is {message!r}; it must be a dict with the keys 'role' and 'content'"
                )
