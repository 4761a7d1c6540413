"""Saving writes the hub's layout, whole or not at all, whatever was there and wherever it is cut off."""

import errno
import json
import os
import shutil
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from seq2seq_zoo.checkpoint import (
    KeyMap,
    LoadReport,
    load_weights,
    open_weights,
    renames,
    save_weights,
    write_json_atomically,
)
from seq2seq_zoo.checkpoint.commit import alone
from seq2seq_zoo.errors import CheckpointError
from tests.checkpoint.toy import (
    BODY_MAP,
    HEAD_MAP,
    Toy,
    ToyWithHead,
    files_in,
    hub_state,
    initialise,
    on_meta,
    randomised,
    same,
)

INDEX = "model.safetensors.index.json"
# The shallow toy has 632 bytes: these give one file, two shards, and four.
ONE, FEW, MANY = "50GB", 500, 200


def load(folder: Path, cls: type = ToyWithHead, key_map: KeyMap = HEAD_MAP, **options: object) -> nn.Module:
    module = on_meta(cls, depth=1)
    report = load_weights(module, open_weights(folder), key_map, initialise=initialise, **options)
    assert report == LoadReport()
    return module


# ---- what is written ----


@pytest.mark.parametrize("size", [ONE, FEW, MANY, 1])
@pytest.mark.parametrize("tied", [True, False])
def test_round_trip(tmp_path: Path, size: int | str, tied: bool) -> None:
    original = randomised(ToyWithHead(tied)).bfloat16()
    save_weights(original, HEAD_MAP, tmp_path, max_shard_size=size)
    module = on_meta(ToyWithHead, tied=tied)
    load_weights(module, open_weights(tmp_path), HEAD_MAP, initialise=initialise)
    assert same(module, original)
    # and what was loaded is saved again as the same bytes
    save_weights(module, HEAD_MAP, tmp_path / "again", max_shard_size=size)
    assert files_in(tmp_path / "again") == [name for name in files_in(tmp_path) if name != "again"]
    for path in (tmp_path / "again").iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()


def test_the_layout_is_the_hubs(tmp_path: Path) -> None:
    module = randomised(ToyWithHead())
    expected = hub_state(module, HEAD_MAP)
    save_weights(module, HEAD_MAP, tmp_path, metadata={"step": "7"})
    with safetensors.safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "step": "7"}
        assert set(file.keys()) == set(expected)
        assert all(torch.equal(file.get_tensor(key), expected[key]) for key in expected)

    save_weights(module, HEAD_MAP, tmp_path, max_shard_size=FEW)
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"] == {"total_size": sum(tensor.nbytes for tensor in expected.values())}
    assert set(index["weight_map"]) == set(expected)
    count = len(set(index["weight_map"].values()))
    assert count > 1
    names = [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    assert files_in(tmp_path) == [*names, INDEX]
    for name in names:
        shard = safetensors.torch.load_file(tmp_path / name)
        assert sum(tensor.nbytes for tensor in shard.values()) <= FEW
        assert set(shard) == {key for key, file in index["weight_map"].items() if file == name}


def test_memory_of_any_kind_can_be_saved(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            whole = torch.arange(24.0).view(4, 6)
            self.transposed = nn.Parameter(whole.t())
            self.column = nn.Parameter(whole[:, 1])
            self.rows = nn.Parameter(whole[1:3])
            self.overlapping = nn.Parameter(whole[2:])
            self.expanded = nn.Parameter(torch.ones(1).expand(5))
            self.same_memory = nn.Parameter(self.rows.detach())
            self.empty = nn.Parameter(torch.empty(0, 3))

    odd = Odd()
    key_map = KeyMap(renames("{p} -> {p}"))
    save_weights(odd, key_map, tmp_path)
    stored = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert stored.keys() == odd.state_dict().keys()
    for name, tensor in odd.state_dict().items():
        assert torch.equal(stored[name], tensor), name


@pytest.mark.parametrize("size", [0, -1, True, 1.5, "", "50", "fifty GB", "-1GB", "0MB", "50GiB", None])
def test_impossible_shard_sizes(tmp_path: Path, size: object) -> None:
    with pytest.raises(ValueError, match="max_shard_size"):
        save_weights(Toy(), BODY_MAP, tmp_path / "new", max_shard_size=size)
    assert not (tmp_path / "new").exists()


def test_shard_sizes_in_words(tmp_path: Path) -> None:
    for size, count in (("0.2kb", None), (200, None), ("1MB", 1), ("1 TB", 1)):
        save_weights(Toy(), BODY_MAP, tmp_path, max_shard_size=size)
        shards = [name for name in files_in(tmp_path) if name != INDEX]
        assert len(shards) == (count or 6)


def test_a_module_without_values(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"Toy cannot be saved: offsets is on the meta device"):
        save_weights(on_meta(Toy), BODY_MAP, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_files_have_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").write_text("")
    usual = stat.S_IMODE((tmp_path / "usual").stat().st_mode)
    save_weights(Toy(), BODY_MAP, tmp_path / "new", max_shard_size=FEW, also={"config.json": {}})
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").iterdir()} == {usual}


def test_an_unwritable_target(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for target in (tmp_path / "file", tmp_path / "file" / "folder"):
        with pytest.raises(CheckpointError, match=r"cannot write into '.*file"):
            save_weights(Toy(), BODY_MAP, target)
    assert (tmp_path / "file").read_text() == "mine"


# ---- over what was there ----


def bin_file(module: nn.Module, folder: Path) -> None:
    torch.save(hub_state(module, HEAD_MAP), folder / "pytorch_model.bin")


def bin_shards(module: nn.Module, folder: Path) -> None:
    state = list(hub_state(module, HEAD_MAP).items())
    weight_map = {}
    for n, part in enumerate((state[:5], state[5:]), 1):
        name = f"pytorch_model-0000{n}-of-00002.bin"
        torch.save(dict(part), folder / name)
        weight_map |= {key: name for key, _ in part}
    (folder / "pytorch_model.bin.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )


def saved(size: int | str) -> Callable[[nn.Module, Path], None]:
    return lambda module, folder: save_weights(module, HEAD_MAP, folder, max_shard_size=size)


LAYOUTS = {
    "nothing": lambda module, folder: None,
    "one file": saved(ONE),
    "few shards": saved(FEW),
    "many shards": saved(MANY),
    ".bin": bin_file,
    ".bin shards": bin_shards,
}
NEW_LAYOUTS = {"one file": ONE, "few shards": FEW, "many shards": MANY}
TRANSITIONS = [
    ("nothing", "one file"),
    ("nothing", "few shards"),
    ("one file", "one file"),
    ("one file", "few shards"),
    ("few shards", "one file"),
    ("few shards", "few shards"),
    ("few shards", "many shards"),
    ("many shards", "few shards"),
    (".bin", "one file"),
    (".bin shards", "few shards"),
]
transitions = pytest.mark.parametrize(("before", "after"), TRANSITIONS)


@transitions
def test_earlier_weights_do_not_survive(
    tmp_path: Path, old: ToyWithHead, new: ToyWithHead, before: str, after: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    LAYOUTS[before](old, folder)
    mine = ["README.md", "config.json", "model.fp16.safetensors", "spiece.model", "training_args.bin"]
    for name in mine:
        (folder / name).write_text("mine")
    save_weights(new, HEAD_MAP, folder, max_shard_size=NEW_LAYOUTS[after])
    save_weights(new, HEAD_MAP, tmp_path / "fresh", max_shard_size=NEW_LAYOUTS[after])
    assert files_in(folder) == sorted([*mine, *files_in(tmp_path / "fresh")])
    assert same(load(folder), new)
    assert all((folder / name).read_text() == "mine" for name in mine)


@pytest.mark.parametrize("size", [ONE, FEW])
def test_saving_over_the_files_one_is_mapped_from(tmp_path: Path, old: ToyWithHead, size: int | str) -> None:
    save_weights(old, HEAD_MAP, tmp_path, max_shard_size=size)
    module = load(tmp_path)
    untouched = load(tmp_path)
    with torch.no_grad():
        module.model.offsets.add_(1)
    save_weights(module, HEAD_MAP, tmp_path, max_shard_size=size)
    assert same(load(tmp_path), module)
    assert same(untouched, old)  # still mapped from the files that have gone


def test_a_link_of_the_hub_cache_is_replaced_not_followed(
    tmp_path: Path, old: ToyWithHead, new: ToyWithHead
) -> None:
    save_weights(old, HEAD_MAP, tmp_path / "blobs")
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "model.safetensors").symlink_to(tmp_path / "blobs" / "model.safetensors")
    save_weights(new, HEAD_MAP, tmp_path / "snapshot")
    assert same(load(tmp_path / "snapshot"), new)
    assert same(load(tmp_path / "blobs"), old)


def test_without_hard_links(
    tmp_path: Path, old: ToyWithHead, new: ToyWithHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    save_weights(old, HEAD_MAP, tmp_path, max_shard_size=FEW, also={"config.json": {"version": 1}})
    fresh = files_in(tmp_path)
    monkeypatch.setattr(os, "link", no_link)
    save_weights(new, HEAD_MAP, tmp_path, max_shard_size=FEW, also={"config.json": {"version": 2}})
    assert files_in(tmp_path) == fresh
    assert same(load(tmp_path), new)


# ---- cut off ----
#
# An audit hook sees each call of Python that touches files (open, rename, link, remove, mkdir ...), so that
# "at every step" needs no knowledge of what the steps are.

watch: Callable[[str, tuple[object, ...]], None] | None = None


def audit(event: str, args: tuple[object, ...]) -> None:
    if watch is not None and event.partition(".")[0] in ("open", "os", "shutil"):
        watch(event, args)


@pytest.fixture(scope="module", autouse=True)
def install_audit_hook() -> None:
    sys.addaudithook(audit)  # there is no removing it; outside `interrupted` it does nothing


@contextmanager
def interrupted(folder: Path, at: int, how: Callable[[], None]) -> Iterator[list[str]]:
    """Calls `how` when the `at`-th event of this block touches `folder`; yields the list of events so far."""
    global watch
    seen: list[str] = []

    def count(event: str, args: tuple[object, ...]) -> None:
        if any(isinstance(arg, (str, os.PathLike)) and str(folder) in os.fspath(arg) for arg in args):
            seen.append(event)
            if len(seen) >= at:
                how()

    watch = count
    try:
        yield seen
    finally:
        watch = None


def read_as_others_do(folder: Path) -> dict[str, Tensor]:
    """The weights that a reader of the hub's layout finds, with nothing of ours in use."""
    if (folder / "model.safetensors").exists():
        return safetensors.torch.load_file(folder / "model.safetensors")
    for index, read in ((INDEX, safetensors.torch.load_file), ("pytorch_model.bin.index.json", torch.load)):
        if index.startswith("pytorch") and (folder / "pytorch_model.bin").exists():
            return torch.load(folder / "pytorch_model.bin")
        if (folder / index).exists():
            weight_map = json.loads((folder / index).read_text())["weight_map"]
            shards = {name: read(folder / name) for name in set(weight_map.values())}
            return {key: shards[name][key] for key, name in weight_map.items()}
    return {}


def version(folder: Path, old: ToyWithHead, new: ToyWithHead) -> int:
    """0: no weights; 1: the old ones, whole; 2: the new ones, whole. Ours and others' readers agree on it."""
    found = read_as_others_do(folder)
    if not found:
        with pytest.raises(CheckpointError, match="has no weights"):
            open_weights(folder)
        return 0
    ours = open_weights(folder)
    assert set(ours) == set(found)
    assert all(torch.equal(ours.tensor(key), found[key]) for key in found)
    for number, module in ((1, old), (2, new)):
        state = hub_state(module, HEAD_MAP)
        if found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in state):
            return number
    raise AssertionError(f"neither the old nor the new weights: {files_in(folder)}")


def config_version(folder: Path) -> int:
    return int(json.loads((folder / "config.json").read_text())["version"])


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory, old: ToyWithHead) -> Path:
    """A folder of each layout with the old weights and config."""
    root = tmp_path_factory.mktemp("templates")
    for before, write in LAYOUTS.items():
        (root / before).mkdir()
        write(old, root / before)
        (root / before / "config.json").write_text('{"version": 1}')
    return root


@pytest.fixture
def without_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # slow, and of no effect unless the power fails


def save_new(new: ToyWithHead, folder: Path, after: str) -> None:
    save_weights(
        new, HEAD_MAP, folder, max_shard_size=NEW_LAYOUTS[after], also={"config.json": {"version": 2}}
    )


def check_next_save(old: ToyWithHead, new: ToyWithHead, folder: Path, after: str) -> None:
    """Whatever was left behind, the next save succeeds and clears it away."""
    save_new(new, folder, after)
    assert version(folder, old, new) == config_version(folder) == 2
    assert not [name for name in files_in(folder) if name.startswith(".") or "kept" in name]


@pytest.mark.usefixtures("without_fsync")
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@transitions
def test_an_error_at_any_step(
    tmp_path: Path,
    templates: Path,
    old: ToyWithHead,
    new: ToyWithHead,
    before: str,
    after: str,
    lasting: bool,
) -> None:
    """An OSError at the k-th step: the old checkpoint is there, or, late enough, the new one.

    Where it happens once, undoing works; where every later step fails too, the disk is as after a crash.
    """
    start = 0 if before == "nothing" else 1
    reached, mixed = {start}, 0
    for step in range(1, 1000):
        folder = tmp_path / str(step)
        shutil.copytree(templates / before, folder)
        entries = files_in(folder)
        failures = 0

        def fail() -> None:
            nonlocal failures
            failures += 1
            if lasting or failures == 1:
                raise OSError(errno.EIO, "the disk is gone")

        try:
            with interrupted(folder, step, fail):
                save_new(new, folder, after)
            found = 2
        except CheckpointError as error:
            assert "the disk is gone" in str(error)  # noqa: PT017
            found = version(folder, old, new)
            if found == start and not lasting:
                assert files_in(folder) == entries  # undone without a trace
        reached.add(found)
        assert version(folder, old, new) == found
        mixed += config_version(folder) != max(found, 1)
        check_next_save(old, new, folder, after)
        if not failures:
            break
    else:
        raise AssertionError("the save never came to its end")
    assert reached == {start, 2}
    # Weights and config cannot be replaced in one step: where not even undoing works, they may differ.
    assert mixed <= (1 if lasting else 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.usefixtures("without_fsync")
def test_death_at_any_step(tmp_path: Path, templates: Path, old: ToyWithHead, new: ToyWithHead) -> None:
    """The process ends at the k-th step of the hardest transition, and nothing can be undone."""
    before = after = "few shards"
    start = found = 1
    mixed = 0
    for step in range(1, 1000):
        folder = tmp_path / str(step)
        shutil.copytree(templates / before, folder)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with interrupted(folder, step, lambda: os._exit(9)):
                    save_new(new, folder, after)
                code = 0
            finally:
                os._exit(code)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert ended in (0, 9)
        earlier, found = found, version(folder, old, new)
        assert found in (start, 2)
        assert earlier <= found  # once the new checkpoint is there, it stays
        mixed += config_version(folder) != max(found, 1)
        check_next_save(old, new, folder, after)
        if ended == 0:
            break
    else:
        raise AssertionError("the save never came to its end")
    assert found == 2
    assert mixed <= 1


@pytest.mark.usefixtures("without_fsync")
@transitions
def test_an_interrupt_right_after_any_rename(
    tmp_path: Path,
    templates: Path,
    old: ToyWithHead,
    new: ToyWithHead,
    before: str,
    after: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C may come when a rename is done and Python does not know it yet: also when it was decisive."""
    start = 0 if before == "nothing" else 1
    rename, renames_done, stop_after = os.replace, 0, 0

    def replace(source: Path, target: Path) -> None:
        nonlocal renames_done
        rename(source, target)
        renames_done += 1
        if renames_done == stop_after:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", replace)
    reached = []
    while renames_done >= stop_after:
        folder = tmp_path / str(stop_after)
        shutil.copytree(templates / before, folder)
        renames_done, stop_after = 0, stop_after + 1
        try:
            save_new(new, folder, after)
        except KeyboardInterrupt:
            found = version(folder, old, new)
            assert config_version(folder) == max(found, 1)
            reached.append(found)
    assert sorted(reached) == reached
    assert set(reached) == {start, 2}
    assert reached.count(2) == 1  # after the decisive one, which is the last


def children(number: int, work: Callable[[int], None]) -> list[int]:
    """The exit codes of so many processes that work at the same time."""
    started = []
    for child in range(number):
        process = os.fork()
        if process == 0:
            code = 1
            try:
                work(child)
                code = 0
            finally:
                os._exit(code)
        started.append(process)
    return [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in started]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.usefixtures("without_fsync")
@transitions
def test_many_processes_save_at_once(
    tmp_path: Path, templates: Path, old: ToyWithHead, new: ToyWithHead, before: str, after: str
) -> None:
    """As all those of a training run do where nobody thought of it: none fails, the result is that of one."""
    for attempt in range(2):
        folder = tmp_path / str(attempt)
        shutil.copytree(templates / before, folder)

        def save(child: int) -> None:
            for turn in range(2):
                save_new(new, folder, after if child + turn else "many shards")  # noqa: B023

        assert children(4, save) == [0] * 4
        assert version(folder, old, new) == config_version(folder) == 2
        assert not [name for name in files_in(folder) if name.startswith(".") or "kept" in name]


@pytest.mark.usefixtures("without_fsync")
def test_saving_again_and_again_after_errors(
    tmp_path: Path, templates: Path, old: ToyWithHead, new: ToyWithHead
) -> None:
    """Errors that even undoing cannot mend, one after another in one folder: always one whole checkpoint."""
    folder = tmp_path / "folder"
    shutil.copytree(templates / "few shards", folder)
    found = 1
    for step in range(1, 120):
        target, size = ((new, FEW), (old, FEW), (new, MANY), (old, ONE))[step % 4]

        def fail() -> None:
            raise OSError(errno.EIO, "the disk is gone")

        try:
            with interrupted(folder, step % 61, fail):
                save_weights(target, HEAD_MAP, folder, max_shard_size=size)
            found = 2 if target is new else 1
            assert version(folder, old, new) == found
        except CheckpointError:
            after = version(folder, old, new)
            assert after in (found, 2 if target is new else 1)
            found = after


# ---- JSON ----


def test_json(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "vocab.json"
    write_json_atomically(path, {"b": 1, "a": ["é", None]})
    assert path.read_text(encoding="utf-8") == '{\n  "b": 1,\n  "a": [\n    "é",\n    null\n  ]\n}\n'
    write_json_atomically(path, {})
    assert path.read_text() == "{}\n"
    assert files_in(path.parent) == ["vocab.json"]
    with pytest.raises(TypeError):
        write_json_atomically(path, {"a": object()})
    assert path.read_text() == "{}\n"


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_json_round_trip(content: object) -> None:
    from seq2seq_zoo.checkpoint.commit import json_bytes

    assert json.loads(json_bytes(content)) == content


def test_json_at_any_step(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for step in range(1, 100):
        path.write_text('{"version": 1}')

        def fail() -> None:
            raise OSError(errno.EIO, "the disk is gone")

        try:
            with interrupted(tmp_path, step, fail) as seen:
                write_json_atomically(path, {"version": 2})
        except CheckpointError:
            assert config_version(tmp_path) in (1, 2)
        if len(seen) < step:
            break
    assert config_version(tmp_path) == 2


@pytest.mark.usefixtures("without_fsync")
@pytest.mark.parametrize("ends", [False, True], ids=["goes on", "ends"])
@pytest.mark.parametrize("inner", ["one file", "few shards"])
@pytest.mark.parametrize(("before", "after"), [pair for pair in TRANSITIONS if "nothing" not in pair[0]])
def test_a_save_by_a_signal_handler_within_a_save(
    tmp_path: Path,
    templates: Path,
    old: ToyWithHead,
    new: ToyWithHead,
    before: str,
    after: str,
    inner: str,
    ends: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a job does that is about to be preempted, after any act of the file system: both saves come to their
    end, or that of the handler alone if it ends the process; what is there is one whole checkpoint."""
    acts, moment = 0, 0
    latest = randomised(ToyWithHead(depth=1), seed=3)

    def then_save(act: Callable[..., object]) -> Callable[..., object]:
        def done(*given: object, **options: object) -> object:
            nonlocal acts
            result = act(*given, **options)
            acts += 1
            if acts == moment:
                size, also = NEW_LAYOUTS[inner], {"config.json": {"version": 3}}
                save_weights(latest, HEAD_MAP, folder, max_shard_size=size, also=also)
                if ends:
                    raise SystemExit
            return result

        return done

    for name in ("mkdir", "link", "replace", "unlink"):
        monkeypatch.setattr(os, name, then_save(getattr(os, name)))
    fresh = tmp_path / "fresh"
    found = set()
    while acts >= moment:
        folder = tmp_path / str(moment)
        moment = 10**9
        shutil.copytree(templates / before, folder)
        acts, moment = 0, int(folder.name) + 1
        with suppress(SystemExit):
            save_new(new, folder, after)
        if acts >= moment:
            saved = 3 if same(load(folder), latest) else 2
            assert saved == 3 or (same(load(folder), new) and not ends)
            assert config_version(folder) == saved
            layout = NEW_LAYOUTS[inner if saved == 3 else after]
            save_weights(new, HEAD_MAP, fresh, max_shard_size=layout, also={"config.json": {}})
            assert [name for name in files_in(folder) if ".saving" not in name or not ends] == files_in(fresh)
            found.add(saved)
    assert found == ({3} if ends else {2, 3})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_process_forked_while_a_folder_is_saved_into_does_not_keep_the_folder(tmp_path: Path) -> None:
    """Such as a data loader's worker, which lives on; nor does it give the folder free when its copy of the
    block ends."""
    fcntl = pytest.importorskip("fcntl")
    descriptor = os.open(tmp_path, os.O_RDONLY)
    stay, leave = os.pipe()
    with alone(tmp_path):
        child = os.fork()
        if child == 0:
            os.close(leave)
            os.read(stay, 1)  # until the parent is done
            os._exit(0)
        with alone(tmp_path) as within, pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert within
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    block = alone(tmp_path)
    block.__enter__()
    other = os.fork()
    if other == 0:
        block.__exit__(None, None, None)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]) == 0
    with pytest.raises(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    block.__exit__(None, None, None)
    for end in (leave, stay, descriptor):
        os.close(end)
    os.waitpid(child, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_signal_handler_waits_for_another_process_as_the_save_it_interrupts_does(tmp_path: Path) -> None:
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        with alone(tmp_path):
            os.write(tell, b"x")
            time.sleep(0.3)
            (tmp_path / "done").touch()
        os._exit(0)
    os.read(ready, 1)
    found = []

    def save_too(*_: object) -> None:
        with alone(tmp_path) as within:
            found.append((within, (tmp_path / "done").exists()))

    before = signal.signal(signal.SIGALRM, save_too)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with alone(tmp_path):
            assert (tmp_path / "done").exists()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert found == [(True, True)]
    os.waitpid(child, 0)
    for end in (ready, tell):
        os.close(end)
