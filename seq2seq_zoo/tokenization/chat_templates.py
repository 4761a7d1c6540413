"""Chat templates: programs in Jinja that come with a checkpoint and write a conversation as one text.

    [{"role": "user", "content": "What is 27 + 58?"}]
        ──template──▶  "<|user|>\\nWhat is 27 + 58?<|end|>\\n<|assistant|>\\n"

A template is somebody else's code, so it runs in Jinja's sandbox, which shows it the conversation and nothing
of Python; reaching for more raises. What templates of the hub expect to find, beyond Jinja itself:

    trim_blocks, lstrip_blocks               the line of a block leaves no line behind
    {% break %}, {% continue %}              in loops
    {% generation %} … {% endgeneration %}   around what the assistant wrote: its characters are reported
    raise_exception(message)                 refuses a conversation
    strftime_now(format)                     the time
    tojson(ensure_ascii=False, …)            plain JSON, not escaped for HTML

Importing this module needs Jinja2, which comes with the extra `chat`.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from seq2seq_zoo.errors import TokenizerError

_LEAST = "3.1.6"
"""Jinja2's sandbox had holes before."""


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:3]]


if _numbers(importlib.metadata.version("jinja2")) < _numbers(_LEAST):
    raise ImportError(f"Jinja2 {importlib.metadata.version('jinja2')} is older than {_LEAST}")


class ChatTemplateError(TokenizerError, jinja2.TemplateError):
    """A chat template is no valid template, or it fails on, or refuses, a conversation."""


class UnsafeTemplateError(ChatTemplateError, SecurityError):
    """A chat template reaches for what is not shown to it."""


class _Writing:
    """The text that a template has written so far, and which of its characters are the assistant's."""

    def __init__(self) -> None:
        self.length = 0
        self.answers: list[tuple[int, int]] = []


# One template serves several threads at once, so what it has written is not kept in it.
_writing: ContextVar[_Writing] = ContextVar("_writing")


def render(template: str, **variables: Any) -> tuple[str, list[tuple[int, int]]]:
    """The text of a template, and the characters (start, end) of it that stand in generation blocks.

    Raises ChatTemplateError, or UnsafeTemplateError if the template is after more than its variables.
    """
    writing = _Writing()
    token = _writing.set(writing)
    parts = []
    try:
        for part in _compiled(template).generate(**variables):
            parts.append(part)
            writing.length += len(part)
    except SecurityError as error:
        raise UnsafeTemplateError(f"the chat template is not safe: {error}") from error
    except jinja2.TemplateSyntaxError as error:
        raise ChatTemplateError(f"the chat template, line {error.lineno}: {error.message}") from error
    except Exception as error:  # whatever the template does with its variables
        raise ChatTemplateError(f"the chat template cannot write this conversation: {error}") from error
    finally:
        _writing.reset(token)
    return "".join(parts), writing.answers


@lru_cache(maxsize=32)
def _compiled(template: str) -> jinja2.Template:
    environment = _Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(template)


class _Sandbox(ImmutableSandboxedEnvironment):
    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        # Jinja would hand out an undefined value here, which raises only once it is used.
        raise SecurityError(f"it asks for {attribute!r} of a {type(obj).__name__}")


class _GenerationBlock(Extension):
    """The block `generation`: written as it stands, its place noted."""

    tags = {"generation"}  # noqa: RUF012  (as the base class declares it)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_note"), [], [], body).set_lineno(line)

    @staticmethod
    def _note(caller: Callable[[], str]) -> str:
        text = caller()
        writing = _writing.get()
        writing.answers.append((writing.length, writing.length + len(text)))
        return text


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


# Stands behind the final message while it is written. The space at its end shows whether the template strips
# what it writes.
_HERE = "<the final message goes on here> "


def render_open(template: str, messages: list[Mapping[str, Any]], **variables: Any) -> str:
    """The text of a template up to the end of the final message, so that a model goes on with it."""
    final, content = messages[-1], messages[-1].get("content")
    if isinstance(content, str):
        marked: Any = content + _HERE
    elif isinstance(content, list | tuple) and any(_has_text(part) for part in content):
        last = max(i for i, part in enumerate(content) if _has_text(part))
        content, marked = content[last]["text"], [dict(part) for part in content]
        marked[last]["text"] += _HERE
    else:
        raise ChatTemplateError(
            f"continue_final_message is True, but the final message has no text: {final!r}"
        )
    text, _ = render(template, messages=[*messages[:-1], {**final, "content": marked}], **variables)
    end = text.rfind(_HERE.rstrip())
    if end < 0 or content.strip() not in text:
        raise ChatTemplateError(
            "continue_final_message is True, but the chat template leaves out or changes the final message: "
            f"{content!r}"
        )
    return text[:end] if text.startswith(_HERE, end) else text[:end].rstrip()


def _has_text(part: Any) -> bool:
    return isinstance(part, Mapping) and isinstance(part.get("text"), str)
