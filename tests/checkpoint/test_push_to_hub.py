"""push_to_hub, with a stand-in for the hub's client that keeps repositories in memory.

It refuses arguments that the installed huggingface_hub does not have, and lets its patterns choose the files.
"""

import json
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.utils import filter_repo_objects

from seq2seq_zoo import (
    AutoConfig,
    BertTokenizer,
    CheckpointError,
    GenerationConfig,
    MT5Config,
    MT5ForConditionalGeneration,
    MT5Tokenizer,
)

SIZE = {"vocab_size": 30, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}


class Hub(huggingface_hub.HfApi):
    """Repositories in memory: (repository, branch) → file name → content."""

    files: dict[tuple[str, str], dict[str, bytes]]
    commits: list[dict[str, Any]]
    made: list[dict[str, Any]]
    fails_at = ""

    def create_repo(self, repo_id: str, **options: Any) -> Any:
        self._may("create_repo")
        signature(huggingface_hub.HfApi.create_repo).bind(self, repo_id, **options)
        self.made.append({"repo_id": repo_id, "token": self.token, **options})
        repo_id = repo_id if "/" in repo_id else f"me/{repo_id}"
        self.files.setdefault((repo_id, "main"), {".gitattributes": b""})
        return SimpleNamespace(repo_id=repo_id)

    def create_branch(self, repo_id: str, *, branch: str, exist_ok: bool, **_: Any) -> None:
        assert exist_ok
        self.files.setdefault((repo_id, branch), dict(self.files[repo_id, "main"]))

    def upload_folder(self, **options: Any) -> Any:
        self._may("upload_folder")
        signature(huggingface_hub.HfApi.upload_folder).bind(self, **options)
        repo_id, folder = options["repo_id"], options["folder_path"]
        files = self.files[repo_id, options.get("revision") or "main"]
        names = [path.name for path in folder.iterdir()]
        added = set(filter_repo_objects(names, allow_patterns=options["allow_patterns"]))
        if options["delete_patterns"] is not None:
            for name in (
                set(filter_repo_objects(list(files), allow_patterns=options["delete_patterns"])) - added
            ):
                del files[name]
        files.update((name, (folder / name).read_bytes()) for name in added)
        self.commits.append(options)
        url = f"https://huggingface.co/{repo_id}/commit/{len(self.commits)}"
        return huggingface_hub.CommitInfo(
            commit_url=url, commit_message=options["commit_message"], commit_description="", oid="1"
        )

    def _may(self, step: str) -> None:
        if step == self.fails_at:
            raise huggingface_hub.errors.LocalTokenNotFoundError("this token may not write")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[Hub]:
    class Fresh(Hub):
        files, commits, made = {}, [], []

    monkeypatch.setattr(huggingface_hub, "HfApi", Fresh)
    return Fresh


def model(seed: int = 0) -> MT5ForConditionalGeneration:
    torch.manual_seed(seed)
    return MT5ForConditionalGeneration(MT5Config(**SIZE)).eval()


def downloaded(hub: type[Hub], repo_id: str, folder: Path, branch: str = "main") -> Path:
    """The files of a branch in a folder."""
    folder.mkdir()
    for name, content in hub.files[repo_id, branch].items():
        (folder / name).write_bytes(content)
    return folder


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_a_model(hub: type[Hub], tmp_path: Path) -> None:
    pushed = model()
    done = pushed.push_to_hub("me/mt5", private=True, token="secret")
    assert done.commit_url == "https://huggingface.co/me/mt5/commit/1"
    assert hub.made == [{"repo_id": "me/mt5", "token": "secret", "private": True, "exist_ok": True}]
    (commit,) = hub.commits
    assert commit["commit_message"] == "Upload MT5ForConditionalGeneration"
    assert not commit["create_pr"]
    again = MT5ForConditionalGeneration.from_pretrained(downloaded(hub, "me/mt5", tmp_path / "folder"))
    assert same(again, pushed)


def test_shards_replace_a_single_file_and_the_other_way_round(hub: type[Hub], tmp_path: Path) -> None:
    weights = {".safetensors", ".json", ".bin"}
    for number, size in enumerate(("50GB", "2KB", "3KB", 10**9)):
        pushed = model(number)
        hub.files.setdefault(("me/mt5", "main"), {})["pytorch_model.bin"] = b"of an earlier time"
        hub.files["me/mt5", "main"]["README.md"] = b"stays"
        pushed.push_to_hub("me/mt5", max_shard_size=size)
        folder = downloaded(hub, "me/mt5", tmp_path / str(number))
        pushed.save_pretrained(tmp_path / f"{number} here", max_shard_size=size)
        here, there = (
            {path.name for path in place.iterdir() if path.suffix in weights}
            for place in (tmp_path / f"{number} here", folder)
        )
        assert there == here
        assert (len([name for name in here if name.startswith("model-")]) > 1) == isinstance(size, str) * (
            size != "50GB"
        )
        assert (folder / "README.md").read_text() == "stays"
        assert same(MT5ForConditionalGeneration.from_pretrained(folder), pushed)


def test_branches_requests_and_words(hub: type[Hub]) -> None:
    model().push_to_hub("mt5", revision="trial", commit_message="Say it", commit_description="At length")
    assert ("me/mt5", "trial") in hub.files
    assert "model.safetensors" in hub.files["me/mt5", "trial"]
    assert "model.safetensors" not in hub.files["me/mt5", "main"]
    model().push_to_hub("mt5", create_pr=True)
    first, second = hub.commits
    assert (first["commit_message"], first["commit_description"]) == ("Say it", "At length")
    assert (first["revision"], second["create_pr"]) == ("trial", True)


def test_saving_can_push(hub: type[Hub], tmp_path: Path) -> None:
    """Only what was saved goes up, and a repository without a name is called as the folder."""
    folder = tmp_path / "my-mt5"
    folder.mkdir()
    (folder / "notes.txt").write_text("private")
    pushed = model()
    pushed.save_pretrained(folder, push_to_hub=True)
    assert set(hub.files["me/my-mt5", "main"]) == {
        ".gitattributes",
        "config.json",
        "generation_config.json",
        "model.safetensors",
    }
    pushed.save_pretrained(folder, max_shard_size="2KB", push_to_hub=True, repo_id="you/mt5", token="t")
    assert "model.safetensors.index.json" in hub.files["you/mt5", "main"]
    assert hub.made[-1]["token"] == "t"
    assert same(MT5ForConditionalGeneration.from_pretrained(folder), pushed)


def test_configs(hub: type[Hub], tmp_path: Path) -> None:
    MT5Config(**SIZE).push_to_hub("me/config")
    MT5Config(**SIZE).save_pretrained(tmp_path / "config", push_to_hub=True, repo_id="me/again")
    assert hub.files["me/config", "main"] == hub.files["me/again", "main"]
    folder = downloaded(hub, "me/config", tmp_path / "folder")
    assert AutoConfig.from_pretrained(folder) == MT5Config(**SIZE)

    GenerationConfig(num_beams=3).push_to_hub("me/config")
    folder = downloaded(hub, "me/config", tmp_path / "both")
    assert GenerationConfig.from_pretrained(folder).num_beams == 3
    assert (folder / "config.json").exists()
    GenerationConfig(num_beams=4).save_pretrained(tmp_path / "g", push_to_hub=True, repo_id="me/config")
    assert json.loads(hub.files["me/config", "main"]["generation_config.json"])["num_beams"] == 4


@pytest.mark.parametrize(("cls", "where"), [(MT5Tokenizer, "mt5"), (BertTokenizer, "bert2bert")])
def test_tokenizers(cls: Any, where: str, hub: type[Hub], tmp_path: Path) -> None:
    """Beside weights, which a commit without weights leaves alone."""
    model().push_to_hub("me/both")
    tokenizer = cls.from_pretrained(f"bundled:{where}")
    tokenizer.push_to_hub("me/both")
    folder = downloaded(hub, "me/both", tmp_path / "folder")
    assert (folder / "model.safetensors").exists()
    assert cls.from_pretrained(folder)("two words").input_ids == tokenizer("two words").input_ids
    tokenizer.save_pretrained(tmp_path / "t", push_to_hub=True, repo_id="me/alone")
    both, alone = hub.files["me/both", "main"], hub.files["me/alone", "main"]
    assert set(alone) <= set(both)
    assert all(both[name] == content for name, content in alone.items())


@pytest.mark.parametrize("step", ["create_repo", "upload_folder"])
def test_what_the_hub_refuses(step: str, hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "fails_at", step)
    with pytest.raises(CheckpointError, match=r"cannot push to the hub repository 'me/mt5': .*may not write"):
        model().push_to_hub("me/mt5")


def test_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"cannot push to the hub repository 'me/mt5': .*[Oo]ffline"):
        model().push_to_hub("me/mt5", token="none")


def test_bad_arguments_before_any_work(hub: type[Hub], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for name in ("", "a/b/c", "no spaces", "../up", None):
        with pytest.raises(ValueError, match="repo_id is"):
            model().push_to_hub(name)
        with pytest.raises(ValueError, match="repo_id is"):
            model().save_pretrained(folder, push_to_hub=True, repo_id=name)
    with pytest.raises(ValueError, match="save_pretrained was given repo_id, but not push_to_hub=True"):
        model().save_pretrained(folder, repo_id="me/mt5")
    with pytest.raises(ValueError, match="save_pretrained was given privat; with push_to_hub=True it takes"):
        model().save_pretrained(folder, push_to_hub=True, privat=True)
    with pytest.raises(ValueError, match="safe_serialization is False; weights are written as safetensors"):
        model().push_to_hub("me/mt5", safe_serialization=False)
    with pytest.raises(ValueError, match="max_shard_size is 'huge'"):
        model().push_to_hub("me/mt5", max_shard_size="huge")
    assert not folder.exists()
    assert not hub.made
