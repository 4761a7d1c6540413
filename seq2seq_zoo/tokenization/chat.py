"""apply_chat_template: conversations to ids.

    messages ──chat template──▶ text ──as any text, but without special tokens around it──▶ ids

The special tokens of a conversation are its template's affair. Templates are text in Jinja (see
`chat_templates`); a tokenizer has one, or several by name, of which "default" and "tool_use" are chosen by
themselves.

Behaves as transformers 4.57.6: ids come alone unless return_dict is given (5.x returns the dict by default).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from seq2seq_zoo.errors import MissingExtraError, TokenizerError

from . import files
from .encoding import BatchEncoding
from .pretrained import PretrainedTokens
from .tool_schemas import schema_of

Message = Mapping[str, Any]
Tool = Mapping[str, Any] | Callable[..., Any]


class ChatTokens(PretrainedTokens):
    """The part of a tokenizer that reads conversations."""

    is_fast: ClassVar[bool]
    """Whether the whole line from text to ids runs inside `tokenizers`."""

    @abstractmethod
    def __call__(self, text: Any = None, **options: Any) -> BatchEncoding:
        """Encode texts."""

    @property
    def chat_template(self) -> str | dict[str, str] | None:
        """The template, or several by name, or None."""
        return self._chat_template

    @chat_template.setter
    def chat_template(self, template: Any) -> None:
        if isinstance(template, list | tuple):  # as tokenizer_config.json lists several
            template = {_entry(entry, "name"): _entry(entry, "template") for entry in template}
        texts = list(template.values()) if isinstance(template, dict) else [template]
        if template is not None and not all(isinstance(text, str) for text in texts):
            raise TokenizerError(f"chat_template is {template!r}; it must be a text, or texts by name")
        self._chat_template: str | dict[str, str] | None = template

    def _write_files(self, folder: files.Replacing) -> None:
        super()._write_files(folder)
        if isinstance(self.chat_template, str):
            folder.write(files.CHAT_TEMPLATE, self.chat_template.encode("utf-8"))

    def get_chat_template(self, chat_template: str | None = None, tools: Sequence[Tool] | None = None) -> str:
        """The template that a conversation is written with: of this name, or this text itself, or the
        tokenizer's own.
        """
        held = self.chat_template
        if isinstance(held, dict):
            if chat_template is not None:
                return held.get(chat_template, chat_template)
            for name in ("tool_use", "default") if tools is not None else ("default",):
                if name in held:
                    return held[name]
            raise TokenizerError(
                f"chat_template must name one of {', '.join(held)}, because none is called 'default'"
            )
        template = held if chat_template is None else chat_template
        if template is None:
            raise TokenizerError(
                "the tokenizer has no chat_template; set the attribute, or give one as an argument"
            )
        return template

    def apply_chat_template(
        self,
        conversation: Sequence[Message] | Sequence[Sequence[Message]],
        tools: Sequence[Tool] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        return_dict: bool = False,
        return_assistant_tokens_mask: bool = False,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Write a conversation, or several, with the chat template, and encode it.

        conversation              messages, each with "role" and "content"; or a list of conversations
        tools                     functions or JSON schemas, for templates that show them
        documents                 dicts with "title" and "text", for templates that show them
        chat_template             a template or the name of one, in place of the tokenizer's
        add_generation_prompt     end with what stands before the assistant's answer
        continue_final_message    end inside the final message, for the model to go on with it
        tokenize                  False gives the text
        padding, truncation, max_length, return_tensors, tokenizer_kwargs   as for any text; the last are
                                  options of a call
        return_dict               a BatchEncoding instead of the ids alone
        return_assistant_tokens_mask   with return_dict: `assistant_masks`, 1 for the tokens inside the
                                  template's generation blocks (tokenizers with offsets only)
        kwargs                    further variables of the template; they win over the special tokens, which
                                  it can name too

        Raises TokenizerError for arguments that do not fit, and where the template fails
        (`chat_templates.ChatTemplateError`) or is not safe (`chat_templates.UnsafeTemplateError`).
        """
        if return_dict and not tokenize:
            raise TokenizerError("return_dict is True, but with tokenize=False there is a text and no dict")
        if return_assistant_tokens_mask and not return_dict:
            raise TokenizerError("return_assistant_tokens_mask is True, which needs return_dict=True")
        if return_assistant_tokens_mask and not self.is_fast:
            raise TokenizerError(
                "return_assistant_tokens_mask needs a tokenizer whose class ends in Fast; "
                f"this is a {type(self).__name__}"
            )
        if continue_final_message and (add_generation_prompt or return_assistant_tokens_mask):
            other = "add_generation_prompt" if add_generation_prompt else "return_assistant_tokens_mask"
            raise TokenizerError(
                f"continue_final_message and {other} are both True; one of them must be False"
            )
        conversations, batched = _conversations(conversation)
        _check_documents(documents)
        template = self.get_chat_template(chat_template, tools)
        variables = {
            **self.special_tokens_map,
            **kwargs,
            "tools": None if tools is None else [schema_of(tool) for tool in tools],
            "documents": documents,
            "add_generation_prompt": add_generation_prompt,
        }
        texts, answers = _write(template, conversations, variables, continue_final_message)
        if not tokenize:
            return texts if batched else texts[0]
        encoded = self(
            texts if batched else texts[0],
            **{
                "add_special_tokens": False,
                "padding": padding,
                "truncation": truncation,
                "max_length": max_length,
                "return_tensors": return_tensors,
                **(tokenizer_kwargs or {}),
            },
        )
        if not return_dict:
            return encoded["input_ids"]
        if return_assistant_tokens_mask:
            masks = [
                _mask(encoding.offsets, spans)
                for encoding, spans in zip(encoded.encodings or (), answers, strict=True)
            ]
            encoded["assistant_masks"] = masks if batched or return_tensors else masks[0]
            encoded.convert_to_tensors(return_tensors)
        return encoded


def _write(
    template: str, conversations: list[list[Message]], variables: Mapping[str, Any], leave_open: bool
) -> tuple[list[str], list[list[tuple[int, int]]]]:
    """The text of each conversation, and the characters of it that are the assistant's."""
    try:
        from .chat_templates import render, render_open
    except ImportError as error:
        raise MissingExtraError(
            f"chat templates need Jinja2 ({error}); install it with: pip install 'seq2seq-zoo[chat]'"
        ) from error
    if leave_open:
        return [render_open(template, messages, **variables) for messages in conversations], []
    written = [render(template, messages=messages, **variables) for messages in conversations]
    return [text for text, _ in written], [answers for _, answers in written]


def _conversations(given: Any) -> tuple[list[list[Message]], bool]:
    """The conversations, and whether several were given."""
    batched = isinstance(given, list | tuple) and bool(given) and isinstance(given[0], list | tuple)
    conversations = list(given) if batched else [given]
    for messages in conversations:
        if not isinstance(messages, list | tuple) or not messages:
            raise TokenizerError(
                f"a conversation is {messages!r}; it must be a list of messages, at least one"
            )
        for message in messages:
            if not isinstance(message, Mapping):
                raise TokenizerError(
                    f"a message is {message!r}; it must be a dict like {{'role': 'user', 'content': 'Hello'}}"
                )
    return [list(messages) for messages in conversations], batched


def _check_documents(documents: Any) -> None:
    for document in documents or ():
        if not isinstance(document, Mapping):
            raise TokenizerError(f"a document is {document!r}; it must be a dict with 'title' and 'text'")


def _mask(offsets: Sequence[tuple[int, int]], answers: list[tuple[int, int]]) -> list[int]:
    """1 for each token between the first and the last one that has characters of an answer."""
    mask = [0] * len(offsets)
    for start, end in answers:
        inside = [i for i, (first, last) in enumerate(offsets) if max(first, start) < min(last, end)]
        if inside:
            mask[inside[0] : inside[-1] + 1] = [1] * (inside[-1] + 1 - inside[0])
    return mask


def _entry(entry: Any, name: str) -> Any:
    if not isinstance(entry, Mapping) or not isinstance(entry.get(name), str):
        raise TokenizerError(
            f"chat_template lists {entry!r}; each entry must have the texts name and template"
        )
    return entry[name]
