"""Tensors whose bytes stay in their files: stacks made of rows that lie apart, models larger than memory, and
how much memory a load takes."""

import json
import mmap
import os
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from seq2seq_zoo.checkpoint import KeyMap, Rules, Stack, load_weights, mapping, open_weights, renames
from seq2seq_zoo.checkpoint.mapping import WINDOW, MappedFile, mapped_rows
from seq2seq_zoo.errors import CheckpointError

PAGE = mmap.PAGESIZE
linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere stacks are copied")


def random_file(path: Path, pages: int, seed: int = 0) -> bytes:
    data = torch.randint(0, 256, (pages * PAGE,), generator=torch.Generator().manual_seed(seed))
    content = bytes(data.tolist())
    path.write_bytes(content)
    return content


def as_tensor(content: bytes, begin: int, shape: tuple[int, ...]) -> Tensor:
    count = torch.Size(shape).numel()
    return torch.frombuffer(bytearray(content[begin : begin + 2 * count]), dtype=torch.int16).view(shape)


def rows_of(
    places: Sequence[tuple[Path, int]], shape: tuple[int, ...], dtype: torch.dtype
) -> torch.Tensor | None:
    return mapped_rows([(MappedFile(path), begin) for path, begin in places], shape, dtype)


def maps_of(path: Path) -> list[str]:
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]


@linux
@pytest.mark.parametrize("pages", [1, 3])
@pytest.mark.parametrize("behind", [0, 8, PAGE - 8])
def test_rows_that_lie_apart_become_one_tensor(tmp_path: Path, pages: int, behind: int) -> None:
    """In any order, from two files, at any distance behind a page's beginning; the seams are right."""
    a, b = tmp_path / "a", tmp_path / "b"
    of = {a: random_file(a, 20, 1), b: random_file(b, 20, 2)}
    shape = (pages, PAGE // 2)
    places = [(path, page * PAGE + behind) for path, page in ((a, 9), (b, 2), (a, 0), (a, 3), (b, 14))]
    whole = rows_of(places, shape, torch.int16)
    assert whole is not None
    assert whole.shape == (5, *shape)
    assert whole.is_contiguous()
    for row, (path, begin) in zip(whole, places, strict=True):
        assert torch.equal(row, as_tensor(of[path], begin, shape))


@linux
@pytest.mark.parametrize("begin", [0, 1, 2, 4094, 4096, 70_002, 70_003])
@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (4096,), (30_001,)])
def test_one_tensor_needs_no_whole_pages(tmp_path: Path, begin: int, shape: tuple[int, ...]) -> None:
    path = tmp_path / "a"
    content = random_file(path, 40)
    single = MappedFile(path).tensor(begin, shape, torch.int16)
    assert single is not None
    assert single.shape == shape
    assert torch.equal(single, as_tensor(content, begin, shape))


@linux
def test_a_mapping_is_private_outlives_its_file_and_ends_with_its_tensor(tmp_path: Path) -> None:
    path = tmp_path / "a"
    content = random_file(path, 8)
    whole = rows_of([(path, 4 * PAGE), (path, PAGE)], (PAGE // 2,), torch.int16)
    assert whole is not None
    assert maps_of(path)
    whole.fill_(7)
    assert path.read_bytes() == content
    row = whole[1]
    del whole
    assert bool((row == 7).all())
    assert maps_of(path), "a view keeps it"
    del row
    assert not maps_of(path)

    single = MappedFile(path).tensor(3 * PAGE + 8, (PAGE // 2,), torch.int16)
    assert single is not None
    assert maps_of(path)
    single[0] = 7
    assert path.read_bytes() == content
    single = single[1:]
    path.unlink()
    assert torch.equal(single, as_tensor(content, 3 * PAGE + 10, (PAGE // 2 - 1,)))
    del single
    assert not maps_of(Path(f"{path} (deleted)"))


@linux
def test_small_neighbours_share_a_mapping(tmp_path: Path) -> None:
    """And no large one does, nor one that lies far away; each is held by itself."""
    path, large = tmp_path / "a", WINDOW // 4 // 2 + 1
    with path.open("wb") as file:
        file.truncate(3 * WINDOW)
        places = [8, PAGE + 8, WINDOW - 6, 2 * WINDOW + 10, 3 * WINDOW - 6]
        for number, begin in enumerate(places):
            file.seek(begin)
            file.write(bytes([number + 1, 0] * 3))
    whole = MappedFile(path)
    found = [whole.tensor(begin, (3,), torch.int16) for begin in places]
    assert [tensor is not None and tensor.tolist() for tensor in found] == [[n + 1] * 3 for n in range(5)]
    assert len(maps_of(path)) == 2
    assert {tensor.untyped_storage().nbytes() for tensor in found if tensor is not None} == {6}
    alone = whole.tensor(2 * PAGE, (large,), torch.int16)
    assert alone is not None
    assert len(maps_of(path)) == 3
    del whole, found[:2]
    assert len(maps_of(path)) == 3, "the third lies in the first window"
    del found[0]
    assert len(maps_of(path)) == 2
    del found, alone
    assert not maps_of(path)


@linux
@pytest.mark.parametrize(
    ("begins", "shape", "as_pages"),
    [
        ([0, 9 * PAGE, 3 * PAGE], (PAGE,), [0, 1, 2]),
        ([8, 9 * PAGE, 3 * PAGE + 8], (PAGE,), [0, 2]),  # one is not as far behind a page as the others
        ([0, 9 * PAGE + 2, 3 * PAGE + 2], (PAGE,), [1, 2]),
        ([0, 9 * PAGE - 2, 6 * PAGE - 4], (PAGE - 1,), [0, 1, 2]),  # odd sizes, in places that suit them
        ([0, 2 * PAGE - 2, 4 * PAGE - 4], (30,), []),  # less than a page
        ([1, 9 * PAGE + 1, 3 * PAGE + 1], (PAGE,), []),  # between two numbers
    ],
)
def test_what_does_not_fit_is_copied(
    tmp_path: Path, begins: list[int], shape: tuple[int, ...], as_pages: list[int]
) -> None:
    """Row by row: the middle of those that fit is a page of the file."""
    path = tmp_path / "a"
    content = random_file(path, 12)
    whole = rows_of([(path, begin) for begin in begins], shape, torch.int16)
    assert whole is not None
    regions = [[int(end, 16) for end in line.split()[0].split("-")] for line in maps_of(path)]
    for number, (row, begin) in enumerate(zip(whole, begins, strict=True)):
        assert torch.equal(row, as_tensor(content, begin, shape))
        middle = row.data_ptr() + 2 * (row.numel() // 2)
        assert any(start <= middle < stop for start, stop in regions) == (number in as_pages)


@linux
def test_nothing_is_left_to_others(tmp_path: Path) -> None:
    path = tmp_path / "a"
    random_file(path, 1)
    assert rows_of([(path, 0), (path, 8)], (0, 5), torch.int16) is None
    assert rows_of([], (5,), torch.int16) is None
    assert MappedFile(path).tensor(0, (0, 5), torch.int16) is None


@linux
def test_a_file_that_has_shrunk(tmp_path: Path) -> None:
    path = tmp_path / "a"
    random_file(path, 2)
    for lost in ([(path, 0), (path, PAGE + 4)], [(path, 2 * PAGE), (path, PAGE)]):
        with pytest.raises(CheckpointError, match=rf"a has shrunk to {2 * PAGE} bytes since it was opened"):
            rows_of(lost, (PAGE // 2,), torch.int16)
    for begin in (PAGE + 4, 2 * PAGE, 9 * PAGE):
        with pytest.raises(CheckpointError, match=rf"a has shrunk to {2 * PAGE} bytes since it was opened"):
            MappedFile(path).tensor(begin, (PAGE // 2,), torch.int16)


@linux
def test_a_refusal_by_the_system_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    random_file(path, 4)
    allowed = iter([True, True, False])
    real = mapping._map
    monkeypatch.setattr(mapping, "_map", lambda *call: real(*call) if next(allowed) else None)
    assert rows_of([(path, 0), (path, PAGE)], (PAGE // 2,), torch.int16) is None
    assert not maps_of(path)
    monkeypatch.setattr(mapping, "_map", lambda *call: None)
    assert MappedFile(path).tensor(0, (PAGE // 2,), torch.int16) is None


# ---- loading ----


class Mixture(nn.Module):
    """Layers of stacked experts, and a head."""

    def __init__(self, layers: int, experts: int, rows: int, width: int) -> None:
        super().__init__()
        self.layers = nn.ParameterList(
            [nn.Parameter(torch.empty(experts, rows, width)) for _ in range(layers)]
        )
        self.head = nn.Parameter(torch.empty(rows, width))


MAP = KeyMap(Rules(Stack("layers.{i}.experts.{n}", "layers.{i}")) + renames("head -> head"))


def load(folder: Path, *sizes: int, dtype: torch.dtype | None = None) -> Mixture:
    with torch.device("meta"):
        module = Mixture(*sizes)
    load_weights(module, open_weights(folder), MAP, initialise=lambda part: None, dtype=dtype)
    return module


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("width", [32, 33], ids=["whole pages", "odd rows"])
def test_a_loaded_stack_is_what_was_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool, dtype: torch.dtype | None, width: int
) -> None:
    """However it comes: mapped, read and copied, cast, or on a system that is not known."""
    if not known:
        monkeypatch.setattr(mapping, "_known_system", lambda: False)
    saved = write_sharded(tmp_path, layers=2, experts=3, rows=32, width=width, shards=2)
    module = load(tmp_path, 2, 3, 32, width, dtype=dtype)
    for i, stack in enumerate(module.layers):
        rows = torch.stack([saved[f"layers.{i}.experts.{n}"] for n in range(3)])
        assert torch.equal(stack.detach(), rows.to(dtype or rows.dtype))
    assert torch.equal(module.head.detach(), saved["head"].to(dtype or torch.float32))


def write_sharded(
    folder: Path, *, layers: int, experts: int, rows: int, width: int, shards: int
) -> dict[str, Tensor]:
    """A checkpoint of float32 tensors in the order of their keys, cut into shards between experts."""
    import safetensors.torch

    keys = ["head", *(f"layers.{i}.experts.{n}" for i in range(layers) for n in range(experts))]
    state = {key: torch.randn(rows, width) for key in keys}
    length = -(-len(keys) // shards)
    weight_map = {}
    for shard in range(shards):
        name = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = keys[shard * length : (shard + 1) * length]
        safetensors.torch.save_file({key: state[key] for key in part}, folder / name)
        weight_map |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return state


@linux
def test_a_model_larger_than_memory_loads(tmp_path: Path) -> None:
    """One file, larger than the machine's memory, of which little more than a stack is made: a hole, which
    takes no place."""
    memory = os.sysconf("SC_PHYS_PAGES") * PAGE
    rows, width = memory // (2 * 4 * 4096) // 1024 * 1024 + 1024, 4096
    write_holes(
        tmp_path / "model.safetensors", (rows, width), ["head", *(f"layers.0.experts.{n}" for n in range(4))]
    )
    module = load(tmp_path, 1, 4, rows, width)
    assert sum(p.numel() * 2 for p in module.parameters()) > memory
    assert module.layers[0][3, -1, -1] == 0


def write_holes(path: Path, shape: tuple[int, int], keys: list[str]) -> None:
    size = 2 * shape[0] * shape[1]
    header = {
        key: {"dtype": "BF16", "shape": shape, "data_offsets": [i * size, (i + 1) * size]}
        for i, key in enumerate(keys)
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + size * len(keys))


PEAK = """
import sys
from pathlib import Path
import torch
from seq2seq_zoo.checkpoint import progress
from tests.checkpoint.test_mapping import load

progress.PATIENCE = 1000  # a bar's imports take memory too

def kilobytes(what):
    return int(Path("/proc/self/status").read_text().split(what + ":")[1].split()[0])

Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
before = kilobytes("VmRSS")
load(Path(sys.argv[1]), 6, 4, 1024, 1024, dtype=getattr(torch, sys.argv[2]))
print(kilobytes("VmHWM") - before)
"""
LAYER = 4 * 1024 * 1024 * 4 / 2**20
"""Megabytes of a layer in float32."""


@linux
@pytest.mark.parametrize(
    ("dtype", "most"),
    [
        ("float32", LAYER),  # mapped, but for some rows of the layer that lies in two shards
        ("bfloat16", 6.25 * LAYER / 2 + LAYER),  # the model, and the layer it is made from
    ],
)
def test_a_sharded_load_peaks_at_the_model_and_a_layer(tmp_path: Path, dtype: str, most: float) -> None:
    """Pages of the files counted. The margin, Python's own, is less than another layer; the whole model would
    be 100."""
    write_sharded(tmp_path, layers=6, experts=4, rows=1024, width=1024, shards=3)
    command = [sys.executable, "-c", PEAK, str(tmp_path), dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) / 1024 <= most + 0.75 * LAYER
