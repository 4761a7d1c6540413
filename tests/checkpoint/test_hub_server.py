"""Checkpoints by way of a hub: huggingface_hub itself, against a server on this machine that answers as the
hub does."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import seq2seq_zoo

COMMIT = "c" * 40
SIZE = {"vocab_size": 20, "d_model": 4, "d_kv": 2, "d_ff": 4, "num_layers": 1, "num_heads": 2}
REPOSITORIES = ("whole", "shards", "pickled", "below", "private", "gated", "empty")
LOADS: dict[str, tuple[str, dict[str, Any], str | None]] = {
    # What is refused comes first: files that are in the cache are given without asking twice.
    "private": ("org/private", {}, "the repository is private and needs a token"),
    "private, with another's token": ("org/private", {"token": "hf_wrong"}, "is private and needs a token"),
    "gated": ("org/gated", {}, "is gated: accept its conditions"),
    "nobody's": ("org/nobody", {}, "neither a folder nor a hub repository of this name"),
    "no such tag": ("org/whole", {"revision": "v2"}, "has no revision 'v2'"),
    "above the subfolder": ("org/below", {}, "has no file 'config.json'"),
    "no weights": ("org/empty", {}, "has no weights: looked for model.safetensors"),
    "absent in the cache": ("org/nobody", {"local_files_only": True}, "offline run"),
    "whole": ("org/whole", {}, None),
    "again, from the cache": ("org/whole", {"local_files_only": True}, None),
    "a tag": ("org/whole", {"revision": "v1"}, None),
    "shards": ("org/shards", {}, None),
    "a pickle, without a generation config": ("org/pickled", {}, None),
    "a subfolder": ("org/below", {"subfolder": "in/here"}, None),
    "private, with a token": ("org/private", {"token": "hf_right"}, None),
    "gated, with a token": ("org/gated", {"token": "hf_right"}, None),
}
SCRIPT = """
import json, sys
from seq2seq_zoo import AutoModelForSeq2SeqLM
found = {}
for name, (where, options, _) in json.load(sys.stdin).items():
    try:
        model = AutoModelForSeq2SeqLM.from_pretrained(where, **options)
        sums = sum(float(p.detach().double().sum()) for p in model.parameters())
        found[name] = [sums, model.generation_config.num_beams]
    except Exception as error:
        found[name] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""


def answer(root: Path, path: str, token: str | None) -> tuple[int, str, bytes]:
    """Status, kind of error and content, as the hub has them for GET ORG/NAME/resolve/REVISION/FILE."""
    if "/resolve/" not in path:
        return 404, "", b""
    _, org, name, _, revision, *inside = path.split("?")[0].split("/")
    right = token == "Bearer hf_right"
    if not (root / org / name).is_dir() or (name == "private" and not right):
        return 401, "RepoNotFound", b""
    if name == "gated" and not right:
        return 403, "GatedRepo", b""
    if revision not in ("main", "v1", COMMIT):
        return 404, "RevisionNotFound", b""
    file = root.joinpath(org, name, *inside)
    return (200, "", file.read_bytes()) if file.is_file() else (404, "EntryNotFound", b"")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    """The address of a hub with the folders of tmp_path."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            status, error, content = answer(tmp_path, self.path, self.headers.get("authorization"))
            self.send_response(status)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("X-Error-Code", error)
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_checkpoints_of_a_hub(hub: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = seq2seq_zoo.MT5ForConditionalGeneration(seq2seq_zoo.MT5Config(**SIZE))
    model.generation_config.num_beams = 3
    folders = {name: tmp_path / "org" / name for name in REPOSITORIES}
    folders["below"] = folders["below"] / "in" / "here"
    for name, folder in folders.items():
        model.save_pretrained(folder, max_shard_size=400 if name == "shards" else "1GB")
    assert len(list(folders["shards"].glob("model-*.safetensors"))) > 2
    weights = folders["pickled"] / "model.safetensors"
    torch.save(load_file(weights), folders["pickled"] / "pytorch_model.bin")
    for file in (weights, folders["pickled"] / "generation_config.json", folders["empty"] / weights.name):
        file.unlink()

    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "home"), "no_proxy": "*"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(LOADS),
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    total = sum(float(p.detach().double().sum()) for p in model.parameters())
    for name, (where, _, refusal) in LOADS.items():
        if refusal is None:
            beams = 1 if where == "org/pickled" else 3
            assert found[name] == [pytest.approx(total, abs=1e-9), beams], name
        else:
            assert str(found[name]).startswith("CheckpointError: "), (name, found[name])
            assert refusal in found[name], (name, found[name])
