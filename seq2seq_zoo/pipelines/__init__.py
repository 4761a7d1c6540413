"""The front door: from a task and a checkpoint to a callable that takes texts and returns texts.

Reading order: `tasks` (the table of what there is), `factory` (the function `pipeline`), `text2text` (what it
returns), `devices`. The names below are loaded when first used: the command line reads `tasks` without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .factory import pipeline as pipeline
    from .text2text import Text2TextPipeline as Text2TextPipeline

_MODULES = {"Text2TextPipeline": "text2text", "pipeline": "factory"}

__all__ = ["Text2TextPipeline", "pipeline"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
