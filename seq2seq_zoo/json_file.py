"""The small files of a checkpoint, read with suspicion: settings in JSON, vocabularies, indexes.

They are read as a whole, so none may be endless; and what they hold is walked through and copied by functions
that call themselves, so it may not be nested without end.
"""

import json
import os
import re
from typing import Any

LONGEST = 100_000_000
"""Bytes of a file, as of a safetensors header; the longest known vocabularies have a third."""
PIECE = 1_000_000
"""Bytes to ask for where nobody says how many there are."""
DEEPEST = 64
"""Levels of lists and objects inside one another; configs have about five."""
HALF = re.compile(rb"\\u[dD][89a-fA-F]")
"""Half of a character that UTF-16 needs two for; with the other half beside it, it is one."""


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The content of a file. Raises OSError if it cannot be read, ValueError if it is too long."""
    with open(path, "rb") as file:
        pieces = [file.read(min(os.fstat(file.fileno()).st_size, LONGEST) + 1)]
        length = len(pieces[0])
        # What is no regular file tells no size. To ask for all at once would take memory for the longest.
        while pieces[-1] and length <= LONGEST:
            pieces.append(file.read(PIECE))
            length += len(pieces[-1])
    if length > LONGEST:
        raise ValueError(f"it has more than {LONGEST} bytes")
    return b"".join(pieces)


def read_json(path: str | os.PathLike[str]) -> Any:
    """The content of a JSON file. Raises OSError if it cannot be read, ValueError if it is no JSON, or too
    long, or nested too deep."""
    return parse_json(read_bytes(path))


def parse_json(text: bytes) -> Any:
    """What a JSON text says. Raises ValueError if it is no JSON, or nested too deep, or holds
    what is no text."""
    try:
        found = json.loads(text.decode("utf-8"))
    except RecursionError as error:
        raise ValueError(f"it is nested more than {DEEPEST} levels deep") from error
    level = [found]
    for _ in range(DEEPEST):
        held = [part for part in level if isinstance(part, list | dict)]
        if not held:
            break
        level = [inner for part in held for inner in (part.values() if isinstance(part, dict) else part)]
    else:
        raise ValueError(f"it is nested more than {DEEPEST} levels deep")
    if HALF.search(text):  # JSON can say it, but it is no text, nor can it be written again
        try:
            json.dumps(found, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"it holds half a character: {error}") from error
    return found
