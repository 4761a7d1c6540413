"""A bar for work that takes long, and silence for work that does not."""

import time
from collections.abc import Callable, Collection, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

PATIENCE = 2.0
"""Seconds of work that need no bar."""


def progress(items: Collection[T], size: Callable[[T], int], what: str) -> Iterator[T]:
    """The items one after another; a bar in bytes, each item of its `size`, once they have taken a while.

    The bar is the hub's: HF_HUB_DISABLE_PROGRESS_BARS and its disable_progress_bars() take it away, and where
    standard error is no terminal there is none.
    """
    start, bar = time.monotonic(), None
    try:
        for number, item in enumerate(items):
            yield item
            if bar is not None:
                bar.update(size(item))
            elif time.monotonic() - start > PATIENCE and number + 1 < len(items):
                sizes = list(map(size, items))
                bar = _bar(sum(sizes[: number + 1]), sum(sizes), what)
    finally:
        if bar is not None:
            bar.close()


def _bar(done: int, total: int, what: str) -> Any:
    from huggingface_hub import utils  # not before it is needed: the import takes its time

    bar: Any = utils.tqdm  # type: ignore[attr-defined]  # it is exported, in a way type checkers do not see
    return bar(initial=done, total=total, desc=what, unit="B", unit_scale=True, leave=False, disable=None)
