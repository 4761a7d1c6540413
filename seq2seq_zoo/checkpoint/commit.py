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
another where the system lets them.
"""

import json
import os
import re
import secrets
import shutil
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
        with alone(directory):
            folder = directory / (STAGING + secrets.token_hex(4))
            folder.mkdir()
            try:
                yield folder, lambda: _commit(directory, folder)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise CheckpointError(f"cannot write into {str(directory)!r}: {error}") from error


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Wait until nobody else saves into the folder; nobody else does then, until the end of the block.

    The lock is the folder's own, and goes with the process. Where there are none (Windows, some network file
    systems), nobody waits.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _commit(directory: Path, staged: Path) -> None:
    names = sorted(path.name for path in staged.iterdir())
    for name in names:
        _flush(staged / name)
    _flush(staged)
    has_weights = SINGLE in names or INDEX in names
    steps = _Steps(directory, staged)
    try:
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
    except BaseException:
        steps.undo()
        raise
    _flush(directory)
    if has_weights:
        _remove_leftovers(directory, staged, names)


def _remove_leftovers(directory: Path, staged: Path, names: list[str]) -> None:
    """Remove the weights that are not among the new ones, and what crashed saves left."""
    for path in sorted(directory.iterdir()):
        if WEIGHTS.fullmatch(path.name) and path.name not in names:
            try:
                path.unlink()
            except OSError as error:
                raise CheckpointError(
                    f"{str(directory)!r} has its new weights, but the old {path.name!r} stays: {error}"
                ) from error
        elif path.name.startswith(STAGING) and path != staged:
            shutil.rmtree(path, ignore_errors=True)


class _Steps:
    """The renames of a commit, with what undoes those before the decisive one."""

    def __init__(self, directory: Path, staged: Path) -> None:
        self.directory = directory
        self.staged = staged
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
            _link(self.directory / name, self.directory / second)
            self.undoing.append((self.directory / second).unlink)
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
                _link(target, before)
                self.undoing.append(partial(os.replace, before, target))
            else:
                self.undoing.append(partial(target.unlink, missing_ok=True))
        for source, target in moves:
            os.replace(source, target)

    def decide(self, source: Path, target: Path, others: Sequence[str]) -> None:
        """Replace `others` and do the rename after which readers find the new checkpoint for good."""
        _flush(self.directory)
        self.decisive = source
        self.replace(others)
        os.replace(source, target)

    def undo(self) -> None:
        """Go back step by step, unless the decision has been made (an interrupt may come right after it).

        Should a step back fail, those before it stay: every state on the way is whole.
        """
        if self.decisive is None or self.decisive.exists():
            for undo in reversed(self.undoing):
                undo()


def _link(source: Path, second: Path) -> None:
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
