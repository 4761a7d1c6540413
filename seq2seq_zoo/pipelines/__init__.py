"""The front door: from a task and a checkpoint to a callable that takes texts and returns texts.

Reading order: `tasks` (the table of what there is), `factory` (the function `pipeline`), `base`, `text2text`
and `text_generation` (what it returns), `streaming`, `devices`. The names below are loaded when first used:
the command line reads `tasks` without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .factory import pipeline as pipeline
    from .text2text import Text2TextPipeline as Text2TextPipeline
    from .text_generation import TextGenerationPipeline as TextGenerationPipeline

_MODULES = {
    "Text2TextPipeline": "text2text",
    "TextGenerationPipeline": "text_generation",
    "pipeline": "factory",
}

__all__ = ["Text2TextPipeline", "TextGenerationPipeline", "pipeline"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
