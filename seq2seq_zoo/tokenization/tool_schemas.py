"""A Python function as a chat template shows it to a model: name, description and arguments, as JSON schema.

    def weather(city: str, days: int = 1) -> str:
        \"""Forecast the weather.

        Args:
            city: Where.
            days: How far ahead (choices: [1, 3, 7])
        \"""

    name         weather                      description   Forecast the weather.
    parameters   city: string, "Where."       days: integer, "How far ahead", one of 1, 3, 7
    required     city, the arguments without a default

Types come from the hints, descriptions from the docstring, which is in Google's style. The schemas are those
of transformers 5.23 (utils.get_json_schema); 4.57.6 forgets what a list holds where it may be no list.
"""

from __future__ import annotations

import inspect
import json
import re
import types
from collections.abc import Callable, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from seq2seq_zoo.errors import TokenizerError

_NAMES: dict[Any, str] = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null"}
_SECTION = re.compile(r"\s*(Args|Returns|Raises):\s*")
_ARGUMENT = re.compile(r"\s*(\w+):\s*(.*)")
_CHOICES = re.compile(r"\s*\(choices:\s*(.*?)\)\s*$", re.IGNORECASE | re.DOTALL)


def schema_of(tool: Mapping[str, Any] | Callable[..., Any]) -> Mapping[str, Any]:
    """The schema of a function; one that is given as such stays as it is.

    Raises TokenizerError for anything else, for a function without docstring, and for an argument without a
    type hint or a description.
    """
    if isinstance(tool, Mapping):
        return tool
    if not (inspect.isfunction(tool) or inspect.ismethod(tool)):
        raise TokenizerError(f"a tool is {tool!r}; it must be a function, or a JSON schema as a dict")
    name = tool.__name__
    text = inspect.getdoc(tool)
    if not text:
        raise TokenizerError(f"the tool {name} has no docstring to describe it")
    sections = _sections(text)
    described = _descriptions(sections.get("Args", []))
    hints = get_type_hints(tool)
    properties, required = {}, []
    for argument, parameter in inspect.signature(tool).parameters.items():
        if argument not in hints:
            raise TokenizerError(f"the argument {argument} of the tool {name} has no type hint")
        if argument not in described:
            raise TokenizerError(
                f"the docstring of the tool {name} does not describe its argument {argument}"
            )
        properties[argument] = {**_type(hints[argument]), **_description(described[argument], argument, name)}
        if parameter.default is parameter.empty:
            required.append(argument)

    parameters = {"type": "object", "properties": properties} | ({"required": required} if required else {})
    function = {"name": name, "description": _joined(sections["description"]), "parameters": parameters}
    if "return" in hints:
        returned = _joined(sections.get("Returns", []))
        function["return"] = {**_type(hints["return"]), **({"description": returned} if returned else {})}
    return {"type": "function", "function": function}


def _sections(text: str) -> dict[str, list[str]]:
    """The lines of a docstring by section; those before the first one are the description."""
    sections: dict[str, list[str]] = {"description": []}
    current = "description"
    for line in text.strip().splitlines():
        heading = _SECTION.fullmatch(line)
        if heading:
            current = heading[1]
        sections.setdefault(current, []).extend([] if heading else [line])
    return sections


def _joined(lines: list[str]) -> str:
    return "\n".join(lines).strip()


def _descriptions(lines: list[str]) -> dict[str, str]:
    """Argument → its description, whose lines are joined by spaces."""
    found: dict[str, list[str]] = {}
    for line in lines:
        match = _ARGUMENT.fullmatch(line)
        if match:
            found[match[1]] = [match[2].strip()]
        elif found and line.strip():
            found[next(reversed(found))].append(line.strip())
    return {name: " ".join(parts).strip() for name, parts in found.items()}


def _description(text: str, argument: str, tool: str) -> dict[str, Any]:
    match = _CHOICES.search(text)
    if match is None:
        return {"description": text}
    try:
        choices = json.loads(match[1])
    except ValueError as error:
        raise TokenizerError(
            f"the choices of the argument {argument} of {tool} are {match[1]}; they must be a JSON list"
        ) from error
    return {"enum": choices, "description": text[: match.start()]}


def _type(hint: Any) -> dict[str, Any]:
    """The schema of a type hint."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return {}
    if origin is Union or origin is types.UnionType:
        return _union(inner)
    if origin is Literal:
        kinds = list(dict.fromkeys(_NAMES[type(value)] for value in inner))
        return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": list(inner)}
    if origin is list and inner:
        return {"type": "array", "items": _type(inner[0])}
    if origin is tuple and len(inner) > 1 and Ellipsis not in inner:
        return {"type": "array", "prefixItems": [_type(item) for item in inner]}
    if origin is dict and len(inner) == 2:
        return {"type": "object", "additionalProperties": _type(inner[1])}
    if origin is not None:
        raise TokenizerError(f"a tool has the type hint {hint}, which no JSON schema says")
    return {"type": "array" if hint in (list, tuple) else _NAMES.get(hint, "object")}


def _union(members: tuple[Any, ...]) -> dict[str, Any]:
    kinds = [_type(member) for member in members if member is not type(None)]
    if len(kinds) == 1:
        schema = kinds[0]
    elif all(isinstance(kind.get("type"), str) and len(kind) == 1 for kind in kinds):
        schema = {"type": sorted(kind["type"] for kind in kinds)}
    else:
        schema = {"anyOf": kinds}
    return {**schema, "nullable": True} if type(None) in members else schema
