"""A hub cache on disk, as huggingface_hub lays it out, made from a folder: hub ids resolve offline."""

import hashlib
import shutil
from pathlib import Path


def make_hub_cache(cache_dir: Path | str, repo_id: str, folder: Path | str, revision: str = "main") -> Path:
    """Copy `folder` (with its subfolders) into `cache_dir` as a revision of `repo_id`; return the snapshot.

    Use it with `cache_dir=...` and `local_files_only=True`, or with HF_HUB_CACHE and HF_HUB_OFFLINE=1 set
    before huggingface_hub is imported. Every revision has its own made-up commit, the snapshot's name.
    """
    repo = Path(cache_dir) / ("models--" + repo_id.replace("/", "--"))
    commit = hashlib.sha1(f"{repo_id}@{revision}".encode()).hexdigest()
    snapshot = repo / "snapshots" / commit
    for source in sorted(Path(folder).rglob("*")):
        if source.is_file():
            blob = repo / "blobs" / hashlib.sha256(source.read_bytes()).hexdigest()
            blob.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, blob)
            link = snapshot / source.relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(blob.resolve())
    snapshot.mkdir(parents=True, exist_ok=True)
    ref = repo / "refs" / revision
    ref.parent.mkdir(parents=True, exist_ok=True)
    ref.write_text(commit)
    return snapshot
