"""Folders, bundled checkpoints and a hub cache resolve to paths; the missing is said, escapes are refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from seq2seq_zoo.checkpoint import resolve
from seq2seq_zoo.checkpoint.resolve import resolve_file
from seq2seq_zoo.errors import CheckpointError
from tests.hub_cache import make_hub_cache


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "folder"
    (root / "sub").mkdir(parents=True)
    (root / "config.json").write_text("{}")
    (root / "sub" / "config.json").write_text('{"sub": 1}')
    return root


@pytest.fixture
def cache(tmp_path: Path, folder: Path) -> Path:
    make_hub_cache(tmp_path / "cache", "org/name", folder)
    (folder / "config.json").write_text('{"second": true}')
    make_hub_cache(tmp_path / "cache", "org/name", folder, revision="second")
    return tmp_path / "cache"


def test_folder(folder: Path) -> None:
    assert resolve_file(folder, "config.json") == folder / "config.json"
    assert resolve_file(str(folder), "config.json", subfolder="sub") == folder / "sub" / "config.json"
    assert resolve_file(folder, "sub/config.json") == folder / "sub" / "config.json"
    assert resolve_file(folder, "absent.json", required=False) is None
    assert resolve_file(folder, "config.json", subfolder="nowhere", required=False) is None
    with pytest.raises(CheckpointError, match=r"absent\.json.*config\.json, sub"):
        resolve_file(folder, "absent.json")


@pytest.mark.parametrize("bad", ["../x", "/etc/passwd", "a/../../x", "", ".", "..\\x", "c:x", "a\0b"])
def test_paths_cannot_leave_the_folder(folder: Path, bad: str) -> None:
    with pytest.raises(CheckpointError, match="must be a relative path"):
        resolve_file(folder, bad, required=False)
    if bad:
        with pytest.raises(CheckpointError, match="must be a relative path"):
            resolve_file(folder, "config.json", subfolder=bad, required=False)


def test_hub_cache(cache: Path) -> None:
    def read(**options: object) -> str:
        path = resolve_file("org/name", "config.json", cache_dir=cache, local_files_only=True, **options)
        return path.read_text()

    assert read() == "{}"
    assert read(subfolder="sub") == '{"sub": 1}'
    assert read(revision="second") == '{"second": true}'


def test_folder_wins_over_hub(
    cache: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    make_hub_cache(cache, "folder", folder / "sub")
    options = {"cache_dir": cache, "local_files_only": True}
    assert resolve_file("folder", "config.json", **options) == Path("folder/config.json")
    folder.rename(tmp_path / "elsewhere")
    assert resolve_file("folder", "config.json", **options).read_text() == '{"sub": 1}'


def test_absent_in_the_cache(cache: Path) -> None:
    options = {"cache_dir": cache, "local_files_only": True}
    assert resolve_file("org/name", "absent.json", required=False, **options) is None
    with pytest.raises(
        CheckpointError, match=r"org/name.*absent\.json.*offline.*without this file.*config\.json"
    ):
        resolve_file("org/name", "absent.json", **options)
    # A repository of which nothing is cached may well have the file: that is not "absent".
    for required in (True, False):
        with pytest.raises(CheckpointError, match=r"org/other.*no folder.*offline.*not cached at all"):
            resolve_file("org/other", "config.json", required=required, **options)
        with pytest.raises(CheckpointError, match="third"):
            resolve_file("org/name", "config.json", required=required, revision="third", **options)


def test_offline_environment(cache: Path) -> None:
    script = (
        "from seq2seq_zoo.checkpoint.resolve import resolve_file\n"
        "print(resolve_file('org/name', 'config.json').read_text())\n"
        "print(resolve_file('org/name', 'absent.json', required=False))\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["{}", "None"]


@pytest.mark.parametrize("where", ["./nowhere", "/no/such/folder", "a/b/c", "", "../x", "has space"])
def test_neither_folder_nor_hub_id(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")  # beside which there is no x
    with pytest.raises(CheckpointError, match="neither an existing folder"):
        resolve_file(where, "config.json", required=False)


@pytest.mark.parametrize("where", [None, 3, b"folder", {"model_type": "mvp"}, ["folder"]])
def test_what_names_no_place(where: object) -> None:
    with pytest.raises(
        CheckpointError, match=r"is a \w+; a checkpoint is named by a folder, bundled:NAME or"
    ):
        resolve_file(where, "config.json", required=False)


def test_a_file_is_not_a_place(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="is a file"):
        resolve_file(folder / "config.json", "config.json")


def raised(name: str, *bases: type[Exception]) -> Exception:
    return type(name, bases or (Exception,), {})("told by the hub")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (raised("RepositoryNotFoundError", OSError), "neither a folder nor a hub repository"),
        (raised("GatedRepoError", type(raised("RepositoryNotFoundError"))), "gated"),
        (raised("RevisionNotFoundError", OSError), "no revision 'v1'"),
        (
            raised("LocalEntryNotFoundError", type(raised("EntryNotFoundError"))),
            "could not be reached.*told by",
        ),
        (raised("HFValidationError", ValueError), "HFValidationError: told by the hub"),
        (ConnectionError("no route"), "ConnectionError: no route"),
    ],
)
def test_hub_errors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, said: str) -> None:
    def fail(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    for required in (True, False):
        with pytest.raises(CheckpointError, match=said) as caught:
            resolve_file("org/name", "config.json", revision="v1", cache_dir=tmp_path, required=required)
        assert caught.value.__cause__ is error


def test_the_hub_says_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise raised("RemoteEntryNotFoundError", OSError, type(raised("EntryNotFoundError")))

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    assert resolve_file("org/name", "config.json", required=False) is None
    with pytest.raises(CheckpointError, match=r"no file 'config\.json'"):
        resolve_file("org/name", "config.json")


def test_a_cached_copy_does_not_hide_a_lost_connection(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise raised("LocalEntryNotFoundError")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(CheckpointError, match="could not be reached"):
        resolve_file("org/name", "config.json", cache_dir=cache, required=False)


def test_what_the_hub_once_said_absent_stays_so_without_a_connection(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise raised("LocalEntryNotFoundError")

    # The hub's library leaves a mark where the hub said of a commit that it has no such file.
    repo = cache / "models--org--name"
    mark = repo / ".no_exist" / (repo / "refs" / "main").read_text() / "absent.json"
    mark.parent.mkdir(parents=True)
    mark.touch()
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    assert resolve_file("org/name", "absent.json", cache_dir=cache, required=False) is None
    with pytest.raises(CheckpointError, match="could not be reached"):
        resolve_file("org/name", "absent.json", cache_dir=cache)
    with pytest.raises(CheckpointError, match="could not be reached"):
        resolve_file("org/name", "absent.json", revision="second", cache_dir=cache, required=False)


def test_bundled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path) -> None:
    (tmp_path / "bundled").mkdir()
    folder.rename(tmp_path / "bundled" / "toy")
    (tmp_path / "bundled" / "__pycache__").mkdir()
    monkeypatch.setattr(resolve.importlib.resources, "files", lambda _: tmp_path)
    assert resolve_file("bundled:toy", "config.json").read_text() == "{}"
    assert resolve_file("bundled:toy", "absent", required=False) is None
    for name in ("tot", "", "..", "toy/sub", "__pycache__"):
        with pytest.raises(CheckpointError, match=r"which are: bundled:toy$"):
            resolve_file(f"bundled:{name}", "config.json", required=False)


@pytest.mark.parametrize("name", ["a" * 5000, "a/" * 5000 + "b"])
def test_names_longer_than_a_system_knows(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=r"cannot look for 'a.*(too long|names)"):
        resolve_file(tmp_path, name)
    with pytest.raises(CheckpointError, match=r"a.a.*cannot look for 'config\.json'"):
        resolve_file(str(tmp_path / name), "config.json")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the administrator may read everything")
def test_a_folder_that_may_not_be_looked_into(tmp_path: Path) -> None:
    tmp_path.chmod(0)
    try:
        with pytest.raises(CheckpointError, match=r"cannot look for 'config\.json'.*denied"):
            resolve_file(tmp_path, "config.json")
    finally:
        tmp_path.chmod(0o700)
