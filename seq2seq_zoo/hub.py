"""From a folder to a repository of the model hub, in one commit.

Whatever has a `save_pretrained` can be pushed: it is saved, then huggingface_hub uploads the files. As in a
folder, weights of an earlier save never survive beside new ones: the commit that brings the new files takes
the old ones away.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from inspect import signature
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from .errors import CheckpointError

HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?", re.ASCII)
WEIGHTS = tuple(
    pattern.format(end)
    for end in (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json")
    for pattern in ("model{}", "model-*-of-*{}", "pytorch_model{}", "pytorch_model-*-of-*{}")
)
"""What files of weights are called on the hub."""


class Pushable:
    """What saves itself into a folder, and can so be pushed to the hub."""

    def save_pretrained(self, *args: Any, **options: Any) -> Any:
        """Write the files into a directory."""
        raise TypeError(f"{type(self).__name__} does not say how it is saved")

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        **options: Any,
    ) -> str:
        """Save, and upload as one commit to the hub repository `repo_id`, which is made if need be.

        commit_message      its first line; without one it names what is uploaded
        private             whether a repository that has to be made is; None: as its owner's default is
        token               a token that may write; None: the one that was logged in with
        revision            the branch to commit to, made if need be; None: the main one
        create_pr           propose the commit as a pull request instead
        options             those of save_pretrained, such as max_shard_size

        Returns the hub's account of the commit, with commit_url and pr_url. Raises CheckpointError if the hub
        refuses or cannot be reached; nothing is uploaded then.
        """
        check_repository(repo_id)
        with TemporaryDirectory(prefix="seq2seq-zoo-") as folder:
            self.save_pretrained(folder, **options)
            return push_folder(
                folder,
                repo_id,
                commit_message=commit_message or f"Upload {type(self).__name__}",
                commit_description=commit_description,
                private=private,
                token=token,
                revision=revision,
                create_pr=create_pr,
            )


def options_of_push(
    what: object, directory: str | os.PathLike[str], push_to_hub: bool, options: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of `push_folder` that `save_pretrained(directory, push_to_hub=..., **options)` means.

    Raises ValueError, before anything is saved, for options that it does not know or that need push_to_hub.
    """
    known = set(signature(push_folder).parameters) - {"folder", "names"}
    unknown = sorted(set(options) - known)
    if unknown:
        raise ValueError(
            f"save_pretrained was given {', '.join(unknown)}; with push_to_hub=True it takes "
            f"{', '.join(sorted(known))}"
        )
    if options and not push_to_hub:
        raise ValueError(f"save_pretrained was given {', '.join(sorted(options))}, but not push_to_hub=True")
    found = {"repo_id": Path(directory).resolve().name, **options}
    found["commit_message"] = options.get("commit_message") or f"Upload {type(what).__name__}"
    if push_to_hub:
        check_repository(found["repo_id"])
    return found


def check_repository(repo_id: object) -> None:
    """Refuse with a ValueError what cannot be the name of a hub repository."""
    if not isinstance(repo_id, str) or not HUB_ID.fullmatch(repo_id):
        raise ValueError(f"repo_id is {repo_id!r}; it must be a hub id like NAME or ORG/NAME")


def describe(error: BaseException) -> str:
    """The root of an error of huggingface_hub, in one line."""
    root = error.__cause__ or error
    text = str(root).strip().splitlines()
    return f"{type(root).__name__}: {text[0]}" if text else type(root).__name__


def push_folder(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    names: Collection[str] | None = None,
    commit_message: str,
    commit_description: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> str:
    """Upload the files of `folder`, those called `names` or all, in one commit; see `Pushable`."""
    import huggingface_hub

    found = {path.name for path in Path(folder).iterdir()}
    chosen = found if names is None else found.intersection(names)
    has_weights = any(name.endswith(".safetensors") for name in chosen)
    try:
        api = huggingface_hub.HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        done: str = api.upload_folder(
            repo_id=repo_id,
            folder_path=Path(folder),
            allow_patterns=sorted(chosen),
            delete_patterns=list(WEIGHTS) if has_weights else None,
            commit_message=commit_message,
            commit_description=commit_description,
            revision=revision,
            create_pr=create_pr,
        )
    except Exception as error:
        # The hub's own errors share no base between its versions.
        raise CheckpointError(f"cannot push to the hub repository {repo_id!r}: {describe(error)}") from error
    return done
