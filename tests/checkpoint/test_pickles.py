"""Pickled weights, read without being unpickled: what torch reads we read, and nothing is done that a file
asks for."""

import io
import pickle
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from seq2seq_zoo.checkpoint import open_weights, pickles
from seq2seq_zoo.errors import CheckpointError

BIN = "pytorch_model.bin"
forms = pytest.mark.parametrize("archive", [True, False], ids=["archive", "bare"])


def read(folder: Path) -> dict[str, Tensor]:
    weights = open_weights(folder)
    return {key: weights.tensor(key) for key in weights}


def bits(tensor: Tensor) -> list[int]:
    return tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


# ---- what torch.save writes ----

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.complex64, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    *(torch.uint16, torch.uint32, torch.uint64),
]


@forms
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes(tmp_path: Path, dtype: torch.dtype, archive: bool) -> None:
    value = torch.randint(0, 2, (3, 5)).to(dtype)
    torch.save({"k": value}, tmp_path / BIN, _use_new_zipfile_serialization=archive)
    found = read(tmp_path)["k"]
    assert found.dtype == dtype
    assert bits(found) == bits(value)


def views() -> dict[str, Tensor]:
    whole = torch.arange(60.0).view(3, 4, 5)
    return {
        "whole": whole,
        "again": whole,
        "turned": whole.permute(2, 0, 1),
        "row": whole[1],
        "every second": whole[:, ::2, 1:4:2],
        "number": whole[2, 3, 4],
        "wide": whole[:1, :1, :1].expand(1, 4, 5),
        "nothing": whole[3:],
        "empty": torch.empty(0, 4),
    }


@forms
def test_views(tmp_path: Path, archive: bool) -> None:
    state = views()
    torch.save(state, tmp_path / BIN, _use_new_zipfile_serialization=archive)
    found = read(tmp_path)
    assert found.keys() == state.keys()
    for key, tensor in found.items():
        assert torch.equal(tensor, state[key]), key
        assert tensor.is_contiguous()
    found["whole"].zero_()
    assert torch.equal(found["again"], state["again"]), "two parameters share memory"


@forms
def test_modules_and_their_parameters(tmp_path: Path, archive: bool) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    module[0].weight.note = "an attribute"
    for state in (module.state_dict(), OrderedDict(module.named_parameters())):
        torch.save(state, tmp_path / BIN, _use_new_zipfile_serialization=archive)
        found = read(tmp_path)
        assert list(found) == list(state)
        assert all(torch.equal(found[key], state[key]) for key in state)


@forms
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_protocols(tmp_path: Path, archive: bool, protocol: int) -> None:
    torch.save(views(), tmp_path / BIN, _use_new_zipfile_serialization=archive, pickle_protocol=protocol)
    assert read(tmp_path).keys() == views().keys()


def test_numbers_of_other_machines(tmp_path: Path) -> None:
    program = program_of({"k": tensor(4, (2, 2), (1, 2))})
    write_archive(tmp_path / BIN, program, struct.pack(">4f", 1, 2, 3, 4), {"byteorder": b"big"})
    assert read(tmp_path)["k"].tolist() == [[1, 3], [2, 4]]


# ---- programs written by hand ----


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    return b"\x8a" + bytes([len(pickle.encode_long(value))]) + pickle.encode_long(value)


def many(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def call(name: str, *args: bytes) -> bytes:
    module, _, function = name.rpartition(".")
    return f"c{module}\n{function}\n".encode() + many(*args) + b"R"


VIEW = b"<here bare pickles have None, and archives nothing>"


def storage(length: int, key: str = "0", kind: str = "FloatStorage") -> bytes:
    kind_named = f"ctorch\n{kind}\n".encode()
    return many(text("storage"), kind_named, text(key), text("cpu"), number(length), VIEW) + b"Q"


def tensor(
    length: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    offset: int = 0,
    *metadata: bytes,
    **of: str,
) -> bytes:
    return call(
        "torch._utils._rebuild_tensor_v2",
        storage(length, **of),
        number(offset),
        many(*map(number, shape)),
        many(*map(number, strides)),
        b"\x89",
        call("collections.OrderedDict"),
        *metadata,
    )


def program_of(entries: dict[str, bytes]) -> bytes:
    return b"\x80\x02}(" + b"".join(text(key) + value for key, value in entries.items()) + b"u."


def write_archive(path: Path, program: bytes, data: bytes, others: dict[str, bytes] | None = None) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program.replace(VIEW, b""))
        archive.writestr("archive/data/0", data)
        archive.writestr("archive/version", "3")
        for name, content in (others or {}).items():
            archive.writestr(f"archive/{name}", content)


def write_bare(path: Path, program: bytes, data: bytes, keys: tuple[str, ...] = ("0",)) -> None:
    with open(path, "wb") as file:
        for start in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            pickle.dump(start, file, 2)
        file.write(program.replace(VIEW, b"N"))
        pickle.dump(list(keys), file, 2)
        for _ in keys:
            file.write(struct.pack("<q", len(data) // 4) + data)


SIXTEEN = struct.pack("<4f", 1, 2, 3, 4)


@pytest.mark.parametrize("write", [write_archive, write_bare])
def test_a_program_written_by_hand(tmp_path: Path, write: Callable[..., None]) -> None:
    """The control of the cases below: what they change is sound before, and torch reads it too."""
    write(tmp_path / BIN, program_of({"k": tensor(4, (4,), (1,))}), SIXTEEN)
    assert read(tmp_path)["k"].tolist() == [1, 2, 3, 4]
    assert torch.load(tmp_path / BIN, weights_only=True)["k"].tolist() == [1, 2, 3, 4]


def doubled(times: int) -> bytes:
    """A tuple of two equal tuples of two equal tuples …; to look for it in a dict takes 2^times steps."""
    return b")" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(times))


def grown(times: int) -> bytes:
    value = call("_codecs.encode", text("a" * 100), text("latin1"))
    for _ in range(times):
        value = call("_codecs.encode", value, text("hex"))
    return value


GOOD = tensor(4, (4,), (1,))
HOSTILE = {
    # What torch's restricted unpickler does for a file, and what it costs.
    "memory for nothing": (
        {"k": call("builtins.bytearray", number(10**11))},
        r"asks to run builtins\.bytearray",
    ),
    "text that doubles": ({"k": grown(40)}, r"asks to run _codecs\.encode"),
    "numbers nobody set": ({"k": call("torch.Tensor", number(10))}, "calls what is no function"),
    "more of them": ({"k": call("torch.FloatTensor", number(10))}, r"asks to run torch\.FloatTensor"),
    "sizes": ({"k": tensor(4, (8,), (1,))}, "'k' of shape .* too few bytes"),
    "strides of zero": ({"k": tensor(4, (10**12,), (0,))}, "'k' of shape .* too few bytes"),
    "sizes beyond all": ({"k": tensor(4, (2**62, 2**62), (0, 0))}, "'k' of shape .* too few bytes"),
    "strides": ({"k": tensor(4, (2,), (4,))}, "'k' of shape .* reaches beyond its data"),
    "offset": ({"k": tensor(4, (4,), (1,), 1)}, "'k' of shape .* reaches beyond its data"),
    "negative offset": ({"k": tensor(4, (4,), (1,), -1)}, "'k' of shape .* no tensor has"),
    "negative stride": ({"k": tensor(4, (2,), (-1,), 2)}, "'k' of shape .* no tensor has"),
    "negative length": ({"k": tensor(-4, (4,), (1,))}, "'k' of shape .* no tensor has"),
    "length": ({"k": tensor(5, (4,), (1,))}, "data of 'k' is not as long as the file says"),
    "two lengths": ({"k": GOOD, "l": tensor(2, (2,), (1,))}, "disagree about the data"),
    "two dtypes": ({"k": GOOD, "l": tensor(8, (8,), (1,), kind="HalfStorage")}, "disagree about the data"),
    "data elsewhere": (
        {"k": tensor(4, (4,), (1,), key="../x")},
        "data of 'k' is not in the file|storages are",
    ),
    "a negated view": ({"k": tensor(4, (4,), (1,), 0, b"}" + text("neg") + b"\x88s")}, "changes its data"),
    "no shape": (
        {"k": call("torch._utils._rebuild_tensor_v2", storage(4), number(0), b")", b"N")},
        "no shape",
    ),
    "no storage": (
        {"k": call("torch._utils._rebuild_tensor_v2", *[b")"] * 4)},
        "something else than a storage",
    ),
    "no arguments": ({"k": call("torch._utils._rebuild_tensor_v2")}, "damaged"),
    "a name alone": ({"k": b"ctorch\nFloatStorage\n"}, "'k' is a _Name, not a tensor"),
}


@pytest.mark.parametrize("write", [write_archive, write_bare])
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_tensors(tmp_path: Path, kind: str, write: Callable[..., None]) -> None:
    entries, said = HOSTILE[kind]
    write(tmp_path / BIN, program_of(entries), SIXTEEN)
    with pytest.raises(CheckpointError, match=rf"pytorch_model\.bin.*({said})"):
        open_weights(tmp_path)


PROGRAMS = {
    "a key that takes for ever": b"\x80\x02}" + doubled(60) + GOOD + b"s.",
    "a list as key": b"\x80\x02}]" + GOOD + b"s.",
    "methods hidden": b"\x80\x02"
    + call("collections.OrderedDict")
    + b"}"
    + text("items")
    + b"Nsb"
    + b"0" * 9
    + b".",
    "an empty stack": b"\x80\x02tR.",
    "no end": b"\x80\x02}",
    "nothing": b"",
    "an unknown place": b"\x80\x02h\x07.",
    "text without end": b"\x80\x02X\xff\xff\xff\xffa.",
    "text longer than any file": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"a.",
    "a deep list": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
}


@pytest.mark.parametrize("write", [write_archive, write_bare])
@pytest.mark.parametrize("kind", PROGRAMS)
def test_hostile_programs(tmp_path: Path, kind: str, write: Callable[..., None]) -> None:
    """Some would take for ever, or all memory."""
    write(tmp_path / BIN, PROGRAMS[kind], SIXTEEN)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        open_weights(tmp_path)


@pytest.mark.parametrize("write", [write_archive, write_bare])
def test_a_program_of_too_many_instructions(
    tmp_path: Path, write: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pickles, "MOST_INSTRUCTIONS", 1000)
    write(tmp_path / BIN, b"\x80\x02" + b"}" * 999 + b".", SIXTEEN)
    with pytest.raises(CheckpointError, match="its program has more than 1000 instructions"):
        open_weights(tmp_path)


@pytest.mark.parametrize("keys", [(), ("0", "0"), ("1",), ("0", "1")])
def test_bare_pickles_whose_data_is_not_there(tmp_path: Path, keys: tuple[str, ...]) -> None:
    """torch leaves such tensors as memory happened to be, or takes the later data."""
    write_bare(tmp_path / BIN, program_of({"k": GOOD}), SIXTEEN, keys)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        open_weights(tmp_path)


def test_records_of_archives(tmp_path: Path) -> None:
    good = program_of({"k": GOOD})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's own, of names that are there twice
        write_archive(tmp_path / BIN, good, SIXTEEN, {"data/0": SIXTEEN})
        with pytest.raises(CheckpointError, match=r"record 'archive/data/0' twice"):
            open_weights(tmp_path)
    with zipfile.ZipFile(tmp_path / BIN, "w") as archive:
        archive.writestr("archive/data/0", SIXTEEN)
    with pytest.raises(CheckpointError, match=r"no data\.pkl"):
        open_weights(tmp_path)
    # A record may say of itself that it goes on into the next one.
    write_archive(tmp_path / BIN, program_of({"k": tensor(64, (64,), (1,))}), SIXTEEN, {"x": b"." * 400})
    content = bytearray((tmp_path / BIN).read_bytes())
    entry = content.rfind(b"archive/data/0") - 46
    assert content[entry : entry + 4] == b"PK\x01\x02"
    content[entry + 20 : entry + 28] = struct.pack("<II", 256, 256)
    (tmp_path / BIN).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"data of 'k' is not as long as the file says"):
        open_weights(tmp_path)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), archive=st.booleans())
def test_mangled_programs_say_what_torch_reads_in_them(
    tmp_path: Path, data: st.DataObject, archive: bool
) -> None:
    """Bytes changed in the program: it is refused, or means what it means to torch, where torch takes it."""
    program = bytearray(program_of({"k": GOOD, "l": tensor(4, (2, 2), (1, 2))}))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(program) - 1))
        put = data.draw(
            st.one_of(st.binary(max_size=3), st.sampled_from([b"0", b"2", b"h\x00", b"}", b"]", b"t", b"R"]))
        )
        program[at : at + data.draw(st.integers(0, 3))] = put
    (write_archive if archive else write_bare)(tmp_path / BIN, bytes(program), SIXTEEN)
    try:
        found = read(tmp_path)
    except CheckpointError:
        return
    try:
        theirs: Any = torch.load(io.BytesIO((tmp_path / BIN).read_bytes()), weights_only=True)
    except Exception:
        return
    assert found.keys() == theirs.keys()
    for key, value in found.items():
        assert (value.dtype, value.shape) == (theirs[key].dtype, theirs[key].shape)
        assert bits(value) == bits(theirs[key])
