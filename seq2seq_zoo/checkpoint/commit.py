"""How a folder passes from one checkpoint to the next without ever holding half of each.

New files are first written, whole, into a hidden folder beside the old ones. What follows are renames, each
of which the file system does completely or not at all, in an order such that a reader who comes between any
two of them (or after a crash there) finds one checkpoint. It rests on the order in which every reader of the
hub's layout looks for weights: model.safetensors, then the index and its shards, then pytorch_model.bin.

    old weights          new weights   steps; * is the one after which readers find the new checkpoint
    nothing, .bin, one   one           * model.safetensors
    shards               one           * model.safetensors; remove index, shards
    nothing, .bin        shards        shards; * index
    one                  shards        shards; index; * remove model.safetensors
    shards               shards        shards; * index; remove old shards

Old and new shards of the same names are the hard case: a new one may not replace an old one while the old
index is in force. The old ones first get second names (hard links), and the old index is replaced by one that
says so.

JSON files such as config.json are replaced right before *, a rename away from the weights they belong to.
An error before * undoes the steps in reverse; a crash leaves at worst files that nothing refers to, which the
next save removes. Processes that save into one folder, such as all those of a training run, wait for one
another where the system lets them; so do threads. A thread cannot wait for itself: if a signal handler saves
into the folder whose save it interrupted, it does so at once, and an interrupted commit that goes on leaves
alone what has been saved meanwhile.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path

from seq2seq_zoo.checkpoint.weights import INDEX, SINGLE, read_index
from seq2seq_zoo.errors import CheckpointError

WEIGHTS = re.compile(
    r"model\.safetensors|model\.safetensors\.index\.json|model-\d{5}-of-\d{5}(\.kept-\w+)?\.safetensors"
    r"|pytorch_model\.bin|pytorch_model\.bin\.index\.json|pytorch_model-\d{5}-of-\d{5}\.bin"
)
STAGING = ".saving-"


def write_json_atomically(path: str | os.PathLike[str], content: object) -> None:
    """Replace the file by `content` as JSON, keys in the given order; a crash leaves the old file whole."""
    path = Path(path)
    text = json_bytes(content)
    with staging(path.parent) as (folder, commit):
        (folder / path.name).write_bytes(text)
        commit()


def weight_files(directory: str | os.PathLike[str]) -> list[str]:
    """The names of the files of weights in a folder."""
    return [path.name for path in Path(directory).iterdir() if WEIGHTS.fullmatch(path.name)]


def json_bytes(content: object) -> bytes:
    """The bytes of a JSON file as the hub writes it: indented, in UTF-8, with a newline at the end."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


@contextmanager
def staging(directory: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A new folder to write files into, and the function that moves them all into `directory`.

    If the files include weights, they replace all weights there were. What goes wrong is a CheckpointError.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with alone(directory) as within_another:
            folder = directory / (STAGING + secrets.token_hex(4))
            folder.mkdir()
            try:
                yield folder, lambda: _commit(directory, folder, within_another)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise CheckpointError(f"cannot write into {str(directory)!r}: {error}") from error


_locks: dict[tuple[int, int, int, int], int] = {}
"""The descriptor by which a thread of a process holds a folder, or waits for it: the four in numbers."""


@contextmanager
def alone(directory: Path) -> Iterator[bool]:
    """Wait until nobody else saves into the folder; nobody else does then, until the end of the block.

    Gives whether the thread was in such a block of the same folder already. The lock is the folder's own, and
    goes with the process. Where there are none (Windows, some network file systems), nobody waits.
    """
    try:
        import fcntl
    except ImportError:
        yield False
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        status, process = os.fstat(descriptor), os.getpid()
        key = process, threading.get_ident(), status.st_dev, status.st_ino
        if key in _locks:
            # The same descriptor: it has the lock already, or the thread was interrupted while it waited, and
            # waits here.
            with suppress(OSError):
                fcntl.flock(_locks[key], fcntl.LOCK_EX)
            yield True
            return
        try:
            _locks[key] = descriptor
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield False
        finally:
            # A process forked meanwhile shares the lock: here it is not enough to close the descriptor, and
            # there the end of the block is not that of the save.
            if os.getpid() == process:
                with suppress(OSError):
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
            _locks.pop(key, None)
    finally:
        os.close(descriptor)


def _commit(directory: Path, staged: Path, within_another: bool) -> None:
    names = sorted(path.name for path in staged.iterdir())
    for name in names:
        _flush(staged / name)
    _flush(staged)
    steps = _Steps(directory, staged, names)
    _commits.append(steps)
    try:
        try:
            _replace_all(steps)
            steps.overtake()
        except BaseException:
            steps.undo()
            raise
        _flush(directory)
        if steps.has_weights:
            _remove_leftovers(steps, also_staged=not within_another)
    except (OSError, CheckpointError):
        if not steps.overtaken:  # else the later save moved or removed the file
            raise
    finally:
        _commits.remove(steps)


def _replace_all(steps: _Steps) -> None:
    directory, staged, names = steps.directory, steps.staged, steps.names
    if SINGLE in names:
        steps.decide(staged / SINGLE, directory / SINGLE, [name for name in names if name != SINGLE])
    elif INDEX in names:
        shards = [name for name in names if WEIGHTS.fullmatch(name) and name != INDEX]
        others = [name for name in names if name not in shards and name != INDEX]
        steps.keep_apart(shards)
        steps.replace(shards)
        if (directory / SINGLE).exists():
            steps.replace([INDEX])
            steps.decide(directory / SINGLE, staged / "replaced", others)
        else:
            steps.decide(staged / INDEX, directory / INDEX, others)
    else:
        steps.replace(names)


def _remove_leftovers(steps: _Steps, also_staged: bool) -> None:
    """Remove the weights that are not among the new ones, and what crashed saves left."""
    directory = steps.directory
    for path in sorted(directory.iterdir()):
        if WEIGHTS.fullmatch(path.name) and path.name not in steps.names:
            try:
                steps.unless_overtaken(os.unlink, path)
            except OSError as error:
                raise CheckpointError(
                    f"{str(directory)!r} has its new weights, but the old {path.name!r} stays: {error}"
                ) from error
        elif also_staged and path.name.startswith(STAGING) and path != steps.staged:
            shutil.rmtree(path, ignore_errors=True)


class _Steps:
    """The renames of a commit, with what undoes those before the decisive one."""

    def __init__(self, directory: Path, staged: Path, names: list[str]) -> None:
        self.directory = directory
        self.staged = staged
        self.names = names
        self.has_weights = SINGLE in names or INDEX in names
        self.overtaken = False
        self.undoing: list[Callable[[], object]] = []
        self.decisive: Path | None = None

    def keep_apart(self, shards: list[str]) -> None:
        """Give shards in force second names, on disk and in the index, if new ones of their names come."""
        index = self.directory / INDEX
        if (self.directory / SINGLE).exists() or not index.is_file():
            return
        try:
            weight_map = read_index(index)
        except CheckpointError:
            return  # nothing that a reader could have loaded
        mark = self.staged.name.removeprefix(STAGING)
        kept = {
            name: f"{name.removesuffix('.safetensors')}.kept-{mark}.safetensors"
            for name in set(weight_map.values()).intersection(shards)
            if (self.directory / name).is_file()
        }
        if not kept:
            return
        for name, second in kept.items():
            self.unless_overtaken(_link, self.directory / name, self.directory / second)
            self.undoing.append(partial(os.unlink, self.directory / second))
        content = json.loads(index.read_bytes())
        content["weight_map"] = {key: kept.get(name, name) for key, name in weight_map.items()}
        renamed = self.staged / "kept.index.json"
        renamed.write_bytes(json_bytes(content))
        _flush(renamed)
        self._replace([(renamed, index)])
        _flush(self.directory)

    def replace(self, names: Iterable[str]) -> None:
        """Move these files into place."""
        self._replace([(self.staged / name, self.directory / name) for name in names])

    def _replace(self, moves: Sequence[tuple[Path, Path]]) -> None:
        for _, target in moves:
            before = self.staged / f"before-{secrets.token_hex(4)}"
            if target.exists():
                self.unless_overtaken(_link, target, before)
                self.undoing.append(partial(os.replace, before, target))
            else:
                self.undoing.append(partial(target.unlink, missing_ok=True))
        for source, target in moves:
            self.unless_overtaken(os.replace, source, target)

    def decide(self, source: Path, target: Path, others: Sequence[str]) -> None:
        """Replace `others` and do the rename after which readers find the new checkpoint for good."""
        _flush(self.directory)
        self.decisive = source
        self.replace(others)
        self.unless_overtaken(os.replace, source, target)

    def undo(self) -> None:
        """Go back step by step, unless the decision has been made (an interrupt may come right after it).

        Should a step back fail, those before it stay: every state on the way is whole.
        """
        if self.decisive is not None and not self.decisive.exists():
            self.overtake()
            return
        for undo in reversed(self.undoing):
            self.unless_overtaken(undo)

    def unless_overtaken(self, step: Callable[..., object], *paths: Path) -> None:
        """Do a step, unless what it would change has been saved anew meanwhile."""
        names = [str(path) for path in paths]
        if not self.overtaken:  # no signal is looked at between this and a function of the system
            step(*names)

    def overtake(self) -> None:
        """Tell the commits that this one interrupted that it has replaced what they were about to."""
        for other in _commits:
            both = self.has_weights and other.has_weights
            if other is not self and (both or set(other.names) <= set(self.names)):
                other.overtaken |= other.directory.samefile(self.directory)


_commits: list[_Steps] = []
"""Those under way in this process. Of two in one folder, the later has interrupted the other."""


def _link(source: str, second: str) -> None:
    try:
        os.link(source, second)
    except OSError:  # a file system without hard links, or a cache's link to another one
        shutil.copyfile(source, second)


def _flush(path: Path) -> None:
    """Have a file, or a folder's list of names, on the disk before the next step."""
    # Some systems cannot do this to a folder; there the order of renames is what protects.
    with suppress(OSError) if path.is_dir() else nullcontext():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
