"""Opening weights: every layout of the hub, mapped and not copied; every kind of damage refused by name."""

import gc
import io
import json
import os
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from seq2seq_zoo.checkpoint import formats, mapping, open_weights
from seq2seq_zoo.errors import CheckpointError
from tests.hub_cache import make_hub_cache

INDEX, BIN_INDEX = "model.safetensors.index.json", "pytorch_model.bin.index.json"
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        "a.weight": torch.randn(3, 5),
        "a.bias": torch.randn(5).bfloat16(),
        "b.scalar": torch.tensor(2.5, dtype=torch.float64),
        "b.empty": torch.empty(0, 4),
        "c.count": torch.tensor([1, 2, 3]),
        "c.flags": torch.tensor([True, False, True]),
    }


def save_shards(folder: Path, state: dict[str, Tensor], form: str) -> None:
    """Two shards and an index, either as safetensors or as pickles."""
    names = list(state)
    halves = [{k: state[k] for k in names[:2]}, {k: state[k] for k in names[2:]}]
    weight_map = {}
    for n, half in enumerate(halves, 1):
        if form == "safetensors":
            name = f"model-0000{n}-of-00002.safetensors"
            safetensors.torch.save_file(half, folder / name)
        else:
            name = f"pytorch_model-0000{n}-of-00002.bin"
            torch.save(half, folder / name)
        weight_map |= dict.fromkeys(half, name)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / (INDEX if form == "safetensors" else BIN_INDEX)).write_text(json.dumps(index))


WRITERS: dict[str, Callable[[Path, dict[str, Tensor]], object]] = {
    "safetensors": lambda folder, state: safetensors.torch.save_file(state, folder / "model.safetensors"),
    "safetensors shards": lambda folder, state: save_shards(folder, state, "safetensors"),
    "zip": lambda folder, state: torch.save(OrderedDict(state), folder / "pytorch_model.bin"),
    "legacy": lambda folder, state: torch.save(
        state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False
    ),
    "zip shards": lambda folder, state: save_shards(folder, state, "bin"),
}


@pytest.mark.parametrize("form", WRITERS)
def test_every_layout(tmp_path: Path, state: dict[str, Tensor], form: str) -> None:
    WRITERS[form](tmp_path, state)
    weights = open_weights(tmp_path)
    assert set(weights) == set(state)
    assert len(weights) == len(state)
    assert weights.where == str(tmp_path)
    for key, tensor in state.items():
        assert weights.shape(key) == tuple(tensor.shape)
        assert weights.dtype(key) == tensor.dtype
        assert weights[key].file.parent == tmp_path
        found = weights.tensor(key)
        assert found.dtype == tensor.dtype
        assert torch.equal(found, tensor)
    with pytest.raises(KeyError):
        weights.tensor("absent")


def test_order_of_preference(tmp_path: Path) -> None:
    written = {}
    for mark, form in enumerate(("zip shards", "zip", "safetensors shards", "safetensors")):
        written[form] = {"a": torch.tensor([mark]), "b": torch.tensor([mark]), "c": torch.tensor([mark])}
        WRITERS[form](tmp_path, written[form])
        assert open_weights(tmp_path).tensor("c").item() == mark


def test_hub_subfolder_and_revision(tmp_path: Path, state: dict[str, Tensor]) -> None:
    (tmp_path / "repo" / "deep").mkdir(parents=True)
    save_shards(tmp_path / "repo" / "deep", state, "safetensors")
    make_hub_cache(tmp_path / "cache", "org/name", tmp_path / "repo", revision="v2")
    weights = open_weights(
        "org/name", subfolder="deep", revision="v2", cache_dir=tmp_path / "cache", local_files_only=True
    )
    assert torch.equal(weights.tensor("a.weight"), state["a.weight"])
    with pytest.raises(CheckpointError, match="org/name"):
        open_weights("org/name", cache_dir=tmp_path / "cache", local_files_only=True)


# ---- mapped, not copied ----


def mapped_ranges(path: Path) -> list[range]:
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    ranges = [line[0].split("-") for line in lines if line[-1] == str(path.resolve())]
    return [range(int(begin, 16), int(end, 16)) for begin, end in ranges]


@linux
@pytest.mark.parametrize("form", ["safetensors", "safetensors shards", "zip", "zip shards"])
def test_tensors_lie_in_the_mapped_file(tmp_path: Path, state: dict[str, Tensor], form: str) -> None:
    WRITERS[form](tmp_path, state)
    weights = open_weights(tmp_path)
    found = {key: weights.tensor(key) for key in state}
    files = {key: weights[key].file for key in state}
    del weights
    gc.collect()
    for key, tensor in found.items():
        if tensor.numel():
            assert any(tensor.data_ptr() in mapped for mapped in mapped_ranges(files[key])), key
        assert torch.equal(tensor, state[key])  # still there, though whoever opened the file is gone


@linux
def test_opening_reads_no_data(tmp_path: Path) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    size = 64 * 2**20
    safetensors.torch.save_file({"big": torch.ones(size // 4)}, tmp_path / "model.safetensors")
    gc.collect()
    before = resident()
    tensor = open_weights(tmp_path).tensor("big")
    assert resident() - before < size // 8
    assert tensor[-1] == 1
    assert resident() - before < size // 8


@pytest.mark.parametrize("form", ["safetensors", "zip"])
def test_writing_into_a_tensor_leaves_the_file(tmp_path: Path, state: dict[str, Tensor], form: str) -> None:
    WRITERS[form](tmp_path, state)
    open_weights(tmp_path).tensor("a.weight").zero_()
    assert torch.equal(open_weights(tmp_path).tensor("a.weight"), state["a.weight"])


def test_views_of_a_pickle_come_contiguous(tmp_path: Path) -> None:
    whole = torch.arange(12.0).view(3, 4)
    torch.save({"t": whole.t(), "row": whole[1]}, tmp_path / "pytorch_model.bin")
    weights = open_weights(tmp_path)
    assert weights.tensor("t").is_contiguous()
    assert torch.equal(weights.tensor("t"), whole.t())
    assert torch.equal(weights.tensor("row"), whole[1])


# ---- damaged safetensors ----


def safetensors_file(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(begin: int = 0, end: int = 16, shape: object = (4,), dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


SIXTEEN = bytes(range(16))
DAMAGED = {
    "empty": (b"", "is empty"),
    "seven bytes": (b"1234567", "shorter than any header"),
    "no header": (safetensors_file(b"", length=0), "announces a header of 0 bytes"),
    "header beyond the end": (safetensors_file({}, length=99), "announces a header of 99 bytes"),
    "huge header": (safetensors_file({}, length=2**63), f"announces a header of {2**63} bytes"),
    "text": (b"These are not the weights you are looking for.", "truncated, or not safetensors"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "is a pointer of Git LFS"),
    "not JSON": (safetensors_file(b"{'a': 1}"), "not JSON"),
    "not text": (safetensors_file(b"\xff\xfe{}"), "not JSON"),
    "deep JSON": (safetensors_file(b"[" * 200_000), "not JSON"),
    "a list": (safetensors_file([]), "must be an object"),
    "metadata a number": (safetensors_file({"__metadata__": 3}), "__metadata__ must map text to text"),
    "metadata of numbers": (
        safetensors_file({"__metadata__": {"x": 3}}),
        "__metadata__ must map text to text",
    ),
    "entry a number": (safetensors_file({"k": 3}), "entry of 'k' is 3"),
    "no dtype": (
        safetensors_file({"k": {"shape": [4], "data_offsets": [0, 16]}}, SIXTEEN),
        "dtype None of 'k'",
    ),
    "dtype unknown": (safetensors_file({"k": entry(dtype="F33")}, SIXTEEN), "dtype 'F33' of 'k'"),
    "dtype a list": (safetensors_file({"k": entry(dtype=["F32"])}, SIXTEEN), r"dtype \['F32'\] of 'k'"),
    "shape text": (safetensors_file({"k": entry(shape="4")}, SIXTEEN), "shape '4' of 'k'"),
    "shape negative": (safetensors_file({"k": entry(shape=[-4])}, SIXTEEN), r"shape \[-4\] of 'k'"),
    "shape true": (safetensors_file({"k": entry(shape=[4, True])}, SIXTEEN), r"shape \[4, True\] of 'k'"),
    "shape fractional": (safetensors_file({"k": entry(shape=[4.0])}, SIXTEEN), r"shape \[4.0\] of 'k'"),
    "shape astronomic": (safetensors_file({"k": entry(shape=[10**4000] * 60)}, SIXTEEN), r"shape \[1000"),
    "shape wrong": (safetensors_file({"k": entry(shape=[5])}, SIXTEEN), "'k' has 16 bytes of data"),
    "dtype wrong": (safetensors_file({"k": entry(dtype="F64")}, SIXTEEN), "'k' has 16 bytes of data"),
    "offsets beyond": (safetensors_file({"k": entry(end=20, shape=[5])}, SIXTEEN), "data_offsets.*of 'k'"),
    "offsets reversed": (safetensors_file({"k": entry(begin=16, end=0)}, SIXTEEN), "data_offsets.*of 'k'"),
    "offsets negative": (safetensors_file({"k": entry(begin=-16, end=0)}, SIXTEEN), "data_offsets.*of 'k'"),
    "offsets three": (
        safetensors_file({"k": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16, 16]}}, SIXTEEN),
        "data_offsets.*of 'k'",
    ),
    "overlap": (
        safetensors_file({"k": entry(0, 16), "l": entry(8, 16, [2])}, SIXTEEN),
        "data of 'l'.*overlaps that of 'k'",
    ),
    "same data twice": (safetensors_file({"k": entry(), "l": entry()}, SIXTEEN), "overlaps"),
    "hole": (
        safetensors_file({"k": entry(0, 4, [1]), "l": entry(8, 16, [2])}, SIXTEEN),
        "leaves a hole after",
    ),
    "truncated": (safetensors_file({"k": entry()}, SIXTEEN[:-1]), "within the 15 bytes"),
    "too long": (safetensors_file({"k": entry()}, SIXTEEN + b"!"), "1 bytes after the last tensor 'k'"),
    "duplicate key": (
        safetensors_file(b'{"k":%b,"k":%b}' % ((json.dumps(entry()).encode(),) * 2), SIXTEEN),
        "key 'k' twice",
    ),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_safetensors(tmp_path: Path, kind: str) -> None:
    content, said = DAMAGED[kind]
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors.*" + said):
        open_weights(tmp_path)


def test_the_undamaged_file_is_read(tmp_path: Path) -> None:
    # The control of the cases above: what they spoil is sound before.
    data = torch.arange(4, dtype=torch.float32).numpy().tobytes()
    (tmp_path / "model.safetensors").write_bytes(safetensors_file({"k": entry()}, data))
    assert open_weights(tmp_path).tensor("k").tolist() == [0, 1, 2, 3]


def test_data_at_an_odd_byte(tmp_path: Path) -> None:
    data = torch.arange(4, dtype=torch.float32).numpy().tobytes()
    for spaces in range(8):
        header = json.dumps({"k": entry()}).encode() + b" " * spaces
        (tmp_path / "model.safetensors").write_bytes(safetensors_file(header, data))
        tensor = open_weights(tmp_path).tensor("k")
        assert tensor.data_ptr() % 4 == 0
        assert tensor.tolist() == [0, 1, 2, 3]


def test_every_truncation(tmp_path: Path, state: dict[str, Tensor]) -> None:
    whole = safetensors.torch.save(state)
    for length in range(len(whole)):
        (tmp_path / "model.safetensors").write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            open_weights(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def mangled_headers(draw: st.DrawFn) -> bytes:
    """A sound file with one thing in its header replaced, or bytes overwritten anywhere."""
    header: dict[str, object] = {
        "k": entry(0, 8, [2]),
        "l": entry(8, 16, [2]),
        "__metadata__": {"format": "pt"},
    }
    if draw(st.booleans()):
        key = draw(st.sampled_from([*header, "m"]))
        if key in ("k", "l") and draw(st.booleans()):
            field = draw(st.sampled_from(["dtype", "shape", "data_offsets"]))
            value = draw(
                JSON | st.lists(st.integers(0, 20), max_size=3) | st.sampled_from(["F32", "I64", "BF16"])
            )
            header[key] = {**header[key], field: value}  # type: ignore[dict-item]
        else:
            header[key] = draw(JSON)
        return safetensors_file(header, SIXTEEN)
    content = bytearray(safetensors_file(header, SIXTEEN))
    at = draw(st.integers(0, len(content) - 1))
    content[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(content)


@settings(max_examples=400, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mangled_headers())
def test_mangled_headers(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    try:
        weights = open_weights(tmp_path)
    except CheckpointError:
        return
    # What is accepted must be what the format's own library reads.
    expected = safetensors.torch.load_file(path)
    assert set(weights) == set(expected)
    for key, tensor in expected.items():
        assert (weights.shape(key), weights.dtype(key)) == (tuple(tensor.shape), tensor.dtype)
        assert torch.equal(bits(weights.tensor(key)), bits(tensor))


def bits(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8)


# ---- damaged pickles ----


def test_a_repository_cloned_without_lfs(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is a pointer of Git LFS.*git lfs pull"):
        open_weights(tmp_path)


class Runs:
    """Unpickled without care, this runs a command."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch executed",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickle_that_would_execute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for new_format in (True, False):
        torch.save({"w": Runs()}, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=new_format)
        with pytest.raises(CheckpointError, match=r"pytorch_model\.bin.*asks to run \w+\.system.*refused"):
            open_weights(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Runs()))
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin.*refused"):
        open_weights(tmp_path)
    assert not (tmp_path / "executed").exists()


def sparse() -> Tensor:
    return torch.eye(3).to_sparse()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([torch.ones(2)], "holds a list"),
        ({"k": 3}, "'k' is a int, not a tensor"),
        ({3: torch.ones(2)}, "entry 3 is a Tensor"),
        ({"k": {"l": torch.ones(2)}}, "'k' is a dict"),
        ({"k": sparse()}, r"asks to run torch\._utils\._rebuild_sparse_tensor"),
        ({"k": torch.empty(3, device="meta")}, r"asks to run torch\._utils\._rebuild_meta_tensor"),
        ({"k": torch.ones(1).expand(10**12)}, "'k' of shape .* has too few bytes"),
    ],
)
def test_pickles_of_other_things(tmp_path: Path, content: object, said: str) -> None:
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin.*" + said):
        open_weights(tmp_path)


@pytest.mark.parametrize("new_format", [True, False])
def test_truncated_pickles(tmp_path: Path, state: dict[str, Tensor], new_format: bool) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=new_format)
    whole = buffer.getvalue()
    for length in range(0, len(whole), 17):
        (tmp_path / "pytorch_model.bin").write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
            open_weights(tmp_path)


def test_an_archive_that_lies_about_lengths(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"k": torch.ones(64), "l": torch.zeros(640)}, path)
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    # The pickle says 64 floats (BININT1 64, K@); make it say 65, which would read into the next record.
    name = next(name for name in records if name.endswith("data.pkl"))
    assert records[name].count(b"K@") == 2  # of the storage, and of the tensor in it
    records[name] = records[name].replace(b"K@", b"KA")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for record, data in records.items():
            archive.writestr(record, data)
    with pytest.raises(CheckpointError, match=r"data of 'k' is not as long"):
        open_weights(tmp_path)


def test_a_compressed_archive(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"k": torch.ones(64)}, path)
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for record, data in records.items():
            archive.writestr(record, data)
    with pytest.raises(CheckpointError, match="compressed"):
        open_weights(tmp_path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@settings(max_examples=100, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_mangled_pickles(tmp_path: Path, data: st.DataObject) -> None:
    buffer = io.BytesIO()
    state = {"k": torch.arange(4.0), "l": torch.ones(2, 3)}
    torch.save(state, buffer, _use_new_zipfile_serialization=data.draw(st.booleans()))
    content = bytearray(buffer.getvalue())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(min_size=1, max_size=3))
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    try:
        weights = open_weights(tmp_path)
    except CheckpointError:
        return
    for key in weights:
        assert weights.tensor(key).numel() <= 64


# ---- shards ----


def edited_index(folder: Path, state: dict[str, Tensor], edit: Callable[[dict[str, str]], object]) -> None:
    save_shards(folder, state, "safetensors")
    index = json.loads((folder / INDEX).read_text())
    edit(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"a.bias": "../x.safetensors"}, r"a\.bias.*'\.\./x\.safetensors' must be a relative path"),
        ({"a.bias": "/tmp/x.safetensors"}, r"a\.bias.*must be a relative path"),
        ({"a.bias": "s/../../x.safetensors"}, r"a\.bias.*must be a relative path"),
        ({"a.bias": "..\\x.safetensors"}, r"a\.bias.*must be a relative path"),
        ({"a.bias": "config.json"}, r"'a\.bias' is said to be in 'config\.json'"),
        ({"a.bias": 3}, r"'a\.bias' is said to be in 3"),
        (
            {"a.bias": "model-00003-of-00002.safetensors"},
            r"names the shard 'model-00003-of-00002\.safetensors'",
        ),
        ({"new": FIRST}, rf"{FIRST} lacks the key 'new'"),
        ({"a.bias": SECOND}, rf"key 'a\.bias' is in both '{SECOND}' and '{FIRST}'"),
    ],
)
def test_false_indexes(tmp_path: Path, state: dict[str, Tensor], edit: dict[str, str], said: str) -> None:
    (tmp_path / "folder").mkdir()
    safetensors.torch.save_file(state, tmp_path / "x.safetensors")
    edited_index(tmp_path / "folder", state, lambda weight_map: weight_map.update(edit))
    with pytest.raises(CheckpointError, match=said):
        open_weights(tmp_path / "folder")


def test_keys_the_index_forgot_are_there(tmp_path: Path, state: dict[str, Tensor]) -> None:
    edited_index(tmp_path, state, lambda weight_map: weight_map.pop("a.bias"))
    assert torch.equal(open_weights(tmp_path).tensor("a.bias"), state["a.bias"])


def test_a_key_in_two_shards(tmp_path: Path, state: dict[str, Tensor]) -> None:
    edited_index(tmp_path, state, lambda weight_map: None)
    second = {**safetensors.torch.load_file(tmp_path / SECOND), "extra": torch.ones(1)}
    safetensors.torch.save_file(second, tmp_path / SECOND)
    first = {**safetensors.torch.load_file(tmp_path / FIRST), "extra": torch.zeros(1)}
    safetensors.torch.save_file(first, tmp_path / FIRST)
    with pytest.raises(CheckpointError, match=f"'extra' is in both '{FIRST}' and '{SECOND}'"):
        open_weights(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "must be an object"),
        ("{}", "weight_map is None"),
        ('{"weight_map": {}}', "weight_map is {}"),
        ('{"weight_map": ["a"]}', "weight_map is"),
        ('{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}', "key 'a' twice"),
    ],
)
def test_broken_indexes(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(CheckpointError, match=rf"{INDEX}.*{said}"):
        open_weights(tmp_path)


@settings(max_examples=150, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    JSON
    | st.dictionaries(
        st.sampled_from(["weight_map", "metadata"]), JSON | st.dictionaries(st.text(), st.text())
    )
)
def test_random_indexes(tmp_path: Path, index: object) -> None:
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=INDEX):
        open_weights(tmp_path)


# ---- nothing there ----


def test_no_weights(tmp_path: Path) -> None:
    (tmp_path / "tf_model.h5").write_bytes(b"x")
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors, .*pytorch_model\.bin.*holds tf_model\.h5"
    ):
        open_weights(tmp_path)
    (tmp_path / "sub").mkdir()
    with pytest.raises(CheckpointError, match=r"subfolder 'sub' has no weights.*holds nothing"):
        open_weights(tmp_path, subfolder="sub")
    make_hub_cache(tmp_path / "cache", "org/name", tmp_path / "sub")
    with pytest.raises(CheckpointError, match="'org/name' has no weights: looked for") as caught:
        open_weights("org/name", cache_dir=tmp_path / "cache", local_files_only=True)
    # The hub may well have them: nobody asked it.
    assert "this is an offline run, and in the cache" in str(caught.value)


def test_an_unreadable_file(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    (tmp_path / "model.safetensors").write_bytes(b"x")
    (tmp_path / "model.safetensors").chmod(0)
    with pytest.raises(CheckpointError, match="cannot be read"):
        open_weights(tmp_path)


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    """Said, where reading on would end the process: there is nothing behind a mapped file's end."""
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(50_000)}, path)
    weights = open_weights(tmp_path)
    os.truncate(path, 100_000)
    said = r"model\.safetensors has shrunk to 100000 bytes since it was opened"
    with pytest.raises(CheckpointError, match=said):
        weights.read("a", torch.empty(50_000, dtype=torch.bfloat16))
    if sys.platform == "linux":
        with pytest.raises(CheckpointError, match=said):
            weights.tensor("a")


@pytest.mark.parametrize("known", [True, False])
def test_reading_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    """Converted, whether or not pieces can be mapped, the last one shorter than the others."""
    monkeypatch.setattr(formats, "PIECE", 4096)
    if not known:
        monkeypatch.setattr(mapping, "_known_system", lambda: False)
    tensors = {"a": torch.randn(7, 1000), "b": torch.randn(()), "c": torch.empty(0, 3)}
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    weights = open_weights(tmp_path)
    for key, tensor in tensors.items():
        into = torch.empty(tensor.shape, dtype=torch.bfloat16)
        weights.read(key, into)
        assert torch.equal(into, tensor.bfloat16())
