"""From a place and a file name to a path on this disk.

A place is written in one of three ways:

    a folder         an existing folder wins over a hub repository of the same name
    bundled:NAME     a small checkpoint that ships inside the package
    ORG/NAME         a repository of the model hub; huggingface_hub downloads and caches the file

Files are asked for one at a time, because a reader knows only after opening an index which others it needs.
"""

import importlib.resources
import os
import re
from pathlib import Path, PurePosixPath

from seq2seq_zoo.errors import CheckpointError
from seq2seq_zoo.hub import HUB_ID, describe

BUNDLED = "bundled:"


def resolve_file(
    where: str | os.PathLike[str],
    name: str,
    *,
    revision: str | None = None,
    subfolder: str = "",
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    required: bool = True,
) -> Path | None:
    """The path of file `name` of the checkpoint at `where`, downloaded if need be.

    `name` and `subfolder` are relative, with forward slashes. `revision` (a branch, tag or commit),
    `cache_dir`, `token` and `local_files_only` concern hub repositories only and mean what they mean in
    huggingface_hub.

    A file that the place does not have gives None, or a CheckpointError if it is `required`. A place that
    does not exist or cannot be reached is always a CheckpointError: whether it has the file is then unknown.
    """
    if not isinstance(where, (str, os.PathLike)):
        kind = type(where).__name__
        raise CheckpointError(
            f"{where!r:.80} is a {kind}; a checkpoint is named by a folder, bundled:NAME or a hub id"
        )
    where = os.fspath(where)
    inside = relative_path(name, "file name")
    if subfolder:
        inside = relative_path(subfolder, "subfolder") / inside

    try:
        if where and Path(where).is_dir():
            folder, tried = Path(where), f"the folder {where!r}"
        elif where.startswith(BUNDLED):
            folder, tried = bundled_folder(where), f"the checkpoint {where!r} of the package"
        else:
            return _resolve_on_hub(where, inside, revision, cache_dir, token, local_files_only, required)

        path = folder / inside
        if path.is_file():
            return path
        if required:
            raise CheckpointError(
                f"{where}: no file {str(inside)!r} in {tried}, which holds {_listing(path.parent)}"
            )
    except OSError as error:  # no permission, or names longer than a system knows
        raise CheckpointError(
            f"{where:.200}: cannot look for {str(inside)!r:.200}: {error!s:.200}"
        ) from error
    return None


def relative_path(name: str, what: str) -> PurePosixPath:
    """`name` as a path that cannot leave the folder it is joined to; anything else is a CheckpointError."""
    path = PurePosixPath(name)
    # A backslash or a drive letter is a separator on Windows and never part of a file name on the hub.
    if not path.parts or path.is_absolute() or ".." in path.parts or re.search(r"[\\:\0]", name):
        raise CheckpointError(
            f"{what} {name!r} must be a relative path inside the checkpoint's folder, without '..'"
        )
    return path


def bundled_folder(where: str) -> Path:
    """The folder of `bundled:NAME`; an unknown NAME is a CheckpointError that lists those there are."""
    root = Path(str(importlib.resources.files("seq2seq_zoo"))) / "bundled"
    available = (
        sorted(p.name for p in root.iterdir() if p.is_dir() and p.name[0] not in "._")
        if root.is_dir()
        else []
    )
    name = where.removeprefix(BUNDLED)
    if name not in available:
        listed = ", ".join(BUNDLED + n for n in available) or "none"
        raise CheckpointError(f"{where!r} is not among the bundled checkpoints, which are: {listed}")
    return root / name


def _resolve_on_hub(
    where: str,
    inside: PurePosixPath,
    revision: str | None,
    cache_dir: str | os.PathLike[str] | None,
    token: str | bool | None,
    local_files_only: bool,
    required: bool,
) -> Path | None:
    if where and Path(where).exists():
        raise CheckpointError(f"{where!r} is a file; a checkpoint is the folder that holds it")
    if not HUB_ID.fullmatch(where):
        raise CheckpointError(
            f"{where!r} is neither an existing folder, nor bundled:NAME, nor a hub id like ORG/NAME"
        )

    import huggingface_hub
    from huggingface_hub import constants

    cache = Path(cache_dir or constants.HF_HUB_CACHE)
    place = f"hub repository {where!r}" + (f" at revision {revision!r}" if revision else "")
    try:
        found = huggingface_hub.hf_hub_download(
            where,
            str(inside),
            revision=revision,
            cache_dir=cache,
            token=token,
            local_files_only=local_files_only,
        )
        return Path(found)
    except Exception as error:
        # Between hub 0.34 and 2.x the exception classes moved and changed their bases, and the HTTP library
        # below them was replaced; their names stayed.
        kinds = {kind.__name__ for kind in type(error).__mro__}
        cause = error

    offline = local_files_only or bool(constants.HF_HUB_OFFLINE)
    if "LocalEntryNotFoundError" in kinds or "OfflineModeIsEnabled" in kinds:
        cached = _cached_snapshot(cache, where, revision)
        if offline and cached is not None and not required:
            return None
        if not required and _known_absent(where, str(inside), cache, revision):
            return None
        why = "this is an offline run" if offline else f"the hub could not be reached ({describe(cause)})"
        has = (
            "not cached at all" if cached is None else f"cached without this file (it has {_listing(cached)})"
        )
        advice = (
            "Download it on a connected machine, or give the path of a folder"
            if offline
            else "Check the connection, or give the path of a folder"
        )
        raise CheckpointError(
            f"{where}: cannot get {str(inside)!r}: no folder has this name, {why}, "
            f"and in the cache {str(cache)!r} the {place} is {has}. {advice}."
        ) from cause
    if "EntryNotFoundError" in kinds:
        if not required:
            return None
        raise CheckpointError(f"{where}: the {place} has no file {str(inside)!r}") from cause
    if "RevisionNotFoundError" in kinds:
        raise CheckpointError(f"{where}: the hub repository has no revision {revision!r}") from cause
    if "GatedRepoError" in kinds:
        raise CheckpointError(
            f"{where}: the {place} is gated: accept its conditions on the hub and pass a token that may read"
        ) from cause
    if "RepositoryNotFoundError" in kinds:
        raise CheckpointError(
            f"{where}: cannot get {str(inside)!r}: there is neither a folder nor a hub repository of this "
            "name, or the repository is private and needs a token"
        ) from cause
    raise CheckpointError(
        f"{where}: cannot get {str(inside)!r} from the {place}: {describe(cause)}"
    ) from cause


def _cached_snapshot(cache: Path, repo_id: str, revision: str | None) -> Path | None:
    """The cached folder of a revision: the file refs/BRANCH holds the commit that names the snapshot."""
    repo = cache / ("models--" + repo_id.replace("/", "--"))
    ref = repo / "refs" / (revision or "main")
    commit = ref.read_text().strip() if ref.is_file() else revision
    snapshot = repo / "snapshots" / commit if commit else None
    return snapshot if snapshot is not None and snapshot.is_dir() else None


def _known_absent(repo_id: str, name: str, cache: Path, revision: str | None) -> bool:
    """Whether the hub has said of the cached commit that it has no such file; the cache keeps a mark."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo_id, name, cache_dir=cache, revision=revision)
    return found is not None and not isinstance(found, str)


def _listing(folder: Path, most: int = 12) -> str:
    if not folder.is_dir():
        return f"no folder {folder.name!r}"
    names = sorted(p.name for p in folder.iterdir())
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "no files") + rest
