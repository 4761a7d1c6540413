"""Loading fills every tensor once, without copies, and says everything that does not fit."""

import sys
import warnings
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from seq2seq_zoo.checkpoint import (
    Alias,
    Drop,
    KeyMap,
    LoadReport,
    Rules,
    Split,
    Stack,
    load_weights,
    open_weights,
    renames,
    save_weights,
)
from seq2seq_zoo.errors import CheckpointError
from tests.checkpoint.toy import (
    BODY,
    BODY_MAP,
    HEAD,
    HEAD_MAP,
    Toy,
    ToyWithHead,
    hub_state,
    initialise,
    on_meta,
    randomised,
    same,
)

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def body() -> Toy:
    return randomised(Toy())


@pytest.fixture(scope="module")
def headed() -> ToyWithHead:
    return randomised(ToyWithHead())


def write(folder: Path, state: State) -> Path:
    folder.mkdir(exist_ok=True)
    # clone: safetensors refuses tensors that share memory, which tied copies do
    safetensors.torch.save_file({key: t.clone() for key, t in state.items()}, folder / "model.safetensors")
    return folder


def load(folder: Path, module: nn.Module, key_map: KeyMap, **options: object) -> LoadReport:
    return load_weights(module, open_weights(folder), key_map, **{"initialise": initialise, **options})


def silently(folder: Path, module: nn.Module, key_map: KeyMap, **options: object) -> LoadReport:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load(folder, module, key_map, **options)


NOTHING = LoadReport([], [], [])


# ---- a plain fit ----


@pytest.mark.parametrize("tied", [True, False])
def test_every_tensor_arrives(tmp_path: Path, tied: bool) -> None:
    original = randomised(ToyWithHead(tied))
    write(tmp_path, hub_state(original, HEAD_MAP))
    module = on_meta(ToyWithHead, tied=tied)
    assert silently(tmp_path, module, HEAD_MAP) == NOTHING
    assert same(module, original)
    assert (module.lm_head.weight is module.model.embedding.weight) == tied


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_parameters_are_the_mapped_tensors(tmp_path: Path, body: Toy) -> None:
    write(tmp_path, hub_state(body, BODY_MAP))
    module = on_meta(Toy)
    load(tmp_path, module, BODY_MAP)
    path = str((tmp_path / "model.safetensors").resolve())
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    mapped = [[int(end, 16) for end in line[0].split("-")] for line in lines if line[-1] == path]
    for name, tensor in module.state_dict().items():
        inside = any(begin <= tensor.data_ptr() < end for begin, end in mapped)
        assert inside != name.endswith("experts"), name  # a stack is the one kind that copies
        assert tensor.is_contiguous()


def test_nothing_stays_on_meta(tmp_path: Path, body: Toy) -> None:
    write(tmp_path, hub_state(body, BODY_MAP))
    module = on_meta(Toy)
    load(tmp_path, module, BODY_MAP)
    assert not any(tensor.is_meta for tensor in [*module.parameters(), *module.buffers()])
    assert module.positions.tolist() == [7] * 4  # in no checkpoint: left to `initialise`
    assert "positions" not in module.state_dict()
    assert torch.equal(module.offsets, body.offsets)  # though `initialise` set the buffers of the same module


def test_requires_grad_stays(tmp_path: Path, body: Toy) -> None:
    write(tmp_path, hub_state(body, BODY_MAP))
    module = on_meta(Toy)
    module.embedding.weight.requires_grad_(False)
    load(tmp_path, module, BODY_MAP)
    assert [name for name, p in module.named_parameters() if not p.requires_grad] == ["embedding.weight"]
    module.layers[0].norm.weight.sum().backward()
    assert module.layers[0].norm.weight.grad is not None


def test_a_module_with_memory_can_be_filled_too(tmp_path: Path, body: Toy) -> None:
    write(tmp_path, hub_state(body, BODY_MAP))
    module = randomised(Toy(), seed=9)
    assert silently(tmp_path, module, BODY_MAP) == NOTHING
    assert same(module, body)


# ---- dtypes and devices ----


def test_dtype_none_is_as_stored(tmp_path: Path, body: Toy) -> None:
    state = {key: t.bfloat16() if "q" in key else t for key, t in hub_state(body, BODY_MAP).items()}
    write(tmp_path, state)
    module = on_meta(Toy)
    load(tmp_path, module, BODY_MAP)
    assert module.layers[0].q_proj.weight.dtype == torch.bfloat16
    assert module.layers[0].k_proj.weight.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_dtype_is_cast_to(tmp_path: Path, headed: ToyWithHead, dtype: torch.dtype) -> None:
    write(tmp_path, hub_state(headed, HEAD_MAP))
    module = on_meta(ToyWithHead)
    load(tmp_path, module, HEAD_MAP, dtype=dtype, keep_float32=["*.norm.*", "model.layers.1.up"])
    for name, tensor in module.state_dict().items():
        kept = dtype == torch.float16 and (".norm." in name or name == "model.layers.1.up")
        expected = torch.int64 if name == "count" else torch.float32 if kept else dtype
        assert tensor.dtype == expected, name
        assert torch.equal(tensor, headed.state_dict()[name].to(expected)), name


def test_weights_are_not_cast_to_integers(tmp_path: Path, body: Toy) -> None:
    write(tmp_path, hub_state(body, BODY_MAP))
    with pytest.raises(ValueError, match=r"dtype is torch\.int8"):
        load(tmp_path, on_meta(Toy), BODY_MAP, dtype=torch.int8)


def test_float16_is_never_kept_where_it_overflows(tmp_path: Path, headed: ToyWithHead) -> None:
    # Stored in float16 and loaded as stored: the pattern still holds, and any name of a tied tensor will do.
    write(
        tmp_path,
        {k: t.half() if t.is_floating_point() else t for k, t in hub_state(headed, HEAD_MAP).items()},
    )
    module = on_meta(ToyWithHead)
    load(tmp_path, module, HEAD_MAP, keep_float32=["lm_head.*"])
    assert module.model.embedding.weight.dtype == torch.float32
    assert module.model.offsets.dtype == torch.float16


def test_integers_take_the_modules_dtype(tmp_path: Path, headed: ToyWithHead) -> None:
    write(tmp_path, {**hub_state(headed, HEAD_MAP), "count": torch.tensor([3], dtype=torch.int32)})
    module = on_meta(ToyWithHead)
    load(tmp_path, module, HEAD_MAP, dtype=torch.float16)
    assert module.count.dtype == torch.int64
    assert module.count.item() == 3


def test_rows_of_different_dtypes_are_stacked_without_loss(tmp_path: Path, body: Toy) -> None:
    state = hub_state(body, BODY_MAP)
    state["encoder.0.experts.0.weight"] = state["encoder.0.experts.0.weight"].half()
    write(tmp_path, state)
    module = on_meta(Toy)
    load(tmp_path, module, BODY_MAP)
    assert module.layers[0].experts.dtype == torch.float32
    assert torch.equal(module.layers[0].experts[1], body.layers[0].experts[1])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_device(tmp_path: Path, body: Toy) -> None:
    write(tmp_path, hub_state(body, BODY_MAP))
    module = on_meta(Toy)
    load(tmp_path, module, BODY_MAP, device="cuda")
    assert {tensor.device.type for tensor in [*module.parameters(), *module.buffers()]} == {"cuda"}
    assert same(module.cpu(), body)


# ---- spellings ----


def test_legacy_spellings(tmp_path: Path, body: Toy) -> None:
    legacy = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    state = {}
    for key, tensor in hub_state(body, BODY_MAP).items():
        for new, old in legacy.items():
            key = key.replace(new, old)
        state[key] = tensor
    assert any(key.endswith("gamma") for key in state)
    write(tmp_path, state)
    module = on_meta(Toy)
    assert silently(tmp_path, module, BODY_MAP) == NOTHING
    assert same(module, body)


def test_drops_are_silent_and_aliases_equal(tmp_path: Path, body: Toy) -> None:
    state = hub_state(body, BODY_MAP)
    state["encoder.position_ids"] = torch.arange(3)
    state["encoder.embed.weight"] = state["shared.weight"]
    write(tmp_path, state)
    module = on_meta(Toy)
    assert silently(tmp_path, module, BODY_MAP) == NOTHING
    assert same(module, body)


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_an_alias_stands_in_for_its_original(tmp_path: Path, body: Toy, form: str) -> None:
    state = hub_state(body, BODY_MAP)
    state["encoder.embed.weight"] = state.pop("shared.weight")
    if form == "bin":
        torch.save(state, tmp_path / "pytorch_model.bin")
    else:
        write(tmp_path, state)
    module = on_meta(Toy)
    assert silently(tmp_path, module, BODY_MAP) == NOTHING
    assert same(module, body)


@pytest.mark.parametrize("order", [1, -1])
def test_unequal_copies_are_told(tmp_path: Path, body: Toy, order: int) -> None:
    state = hub_state(body, BODY_MAP)
    state["encoder.embed.weight"] = state["shared.weight"] + 1
    torch.save(dict(list(state.items())[::order]), tmp_path / "pytorch_model.bin")  # a pickle keeps the order
    module = on_meta(Toy)
    with pytest.warns(UserWarning, match=r"1 keys differ.*encoder\.embed\.weight \(used: shared\.weight\)"):
        assert load(tmp_path, module, BODY_MAP) == NOTHING
    assert same(module, body)


@pytest.mark.parametrize("stored", [["model.shared.weight"], ["lm_head.weight"], ["encoder.embed.weight"]])
def test_any_name_of_a_tied_tensor_will_do(tmp_path: Path, headed: ToyWithHead, stored: list[str]) -> None:
    state = hub_state(headed, HEAD_MAP)
    shared = state.pop("model.shared.weight")
    write(tmp_path, {**state, **dict.fromkeys(stored, shared)})
    module = on_meta(ToyWithHead)
    assert silently(tmp_path, module, HEAD_MAP) == NOTHING
    assert same(module, headed)
    assert module.lm_head.weight is module.model.embedding.weight


def test_a_tied_copy_that_differs_is_told(tmp_path: Path, headed: ToyWithHead) -> None:
    state = hub_state(headed, HEAD_MAP)
    state["lm_head.weight"] = state["model.shared.weight"] * 2
    write(tmp_path, state)
    module = on_meta(ToyWithHead)
    with pytest.warns(UserWarning, match=r"lm_head\.weight \(used: model\.shared\.weight\)"):
        load(tmp_path, module, HEAD_MAP)
    assert same(module, headed)


def test_a_key_in_two_spellings(tmp_path: Path, body: Toy) -> None:
    state = hub_state(body, BODY_MAP)
    for other in ("encoder.0.LayerNorm.gamma", "model.encoder.0.LayerNorm.weight"):
        same_twice = {**state, other: state["encoder.0.LayerNorm.weight"]}
        module = on_meta(Toy)
        assert silently(write(tmp_path, same_twice), module, BODY_MAP) == NOTHING
        with pytest.warns(UserWarning, match=rf"{other} \(used: encoder\.0\.LayerNorm\.weight\)"):
            load(write(tmp_path, {**same_twice, other: torch.zeros(4)}), module, BODY_MAP)
        assert same(module, body)


# ---- head onto headless and back ----


def test_headless_model_from_a_headed_checkpoint(tmp_path: Path, headed: ToyWithHead) -> None:
    write(tmp_path, hub_state(headed, HEAD_MAP))
    module = on_meta(Toy)
    with pytest.warns(UserWarning, match=r"unexpected, not used \(1\): count"):
        report = load(tmp_path, module, BODY_MAP)
    assert report == LoadReport([], ["count"], [])
    assert same(module, headed.model)


@pytest.mark.parametrize("prefix", ["", "model."])
def test_headed_model_from_a_headless_checkpoint(tmp_path: Path, body: Toy, prefix: str) -> None:
    write(tmp_path, {prefix + key: tensor for key, tensor in hub_state(body, BODY_MAP).items()})
    module = on_meta(ToyWithHead, tied=False)
    with pytest.warns(UserWarning, match=r"missing, newly initialised.*\(2\): lm_head\.weight, count"):
        report = load(tmp_path, module, HEAD_MAP)
    assert report == LoadReport(["lm_head.weight", "count"], [], [])
    assert same(module.model, body)
    assert (module.lm_head.weight == 0.5).all()
    assert module.count.item() == 7


def test_missing_tensors_take_the_dtype_of_the_others(tmp_path: Path, body: Toy) -> None:
    write(tmp_path, {key: t.bfloat16() for key, t in hub_state(body, BODY_MAP).items()})
    for dtype in (None, torch.float16):
        module = on_meta(ToyWithHead, tied=False)
        with pytest.warns(UserWarning, match="missing"):
            load(tmp_path, module, HEAD_MAP, dtype=dtype)
        assert module.lm_head.weight.dtype == (dtype or torch.bfloat16)
        assert module.count.dtype == torch.int64


# ---- what is missing ----


def test_initialise_leaves_what_was_loaded(tmp_path: Path, body: Toy) -> None:
    state = hub_state(body, BODY_MAP)
    del state["encoder.0.q.bias"]
    write(tmp_path, state)
    module = on_meta(Toy)
    seen: list[nn.Module] = []
    with pytest.warns(UserWarning, match=r"encoder\.0\.q\.bias"):
        load(tmp_path, module, BODY_MAP, initialise=lambda m: (seen.append(m), initialise(m)))
    assert seen == [module.layers[0].q_proj, module]  # the second for `positions`
    assert (module.layers[0].q_proj.bias == 0.5).all()
    assert torch.equal(module.layers[0].q_proj.weight, body.layers[0].q_proj.weight)
    with torch.no_grad():
        module.layers[0].q_proj.bias.copy_(body.layers[0].q_proj.bias)
    assert same(module, body)


def test_a_missing_tied_tensor_is_one_tensor(tmp_path: Path, headed: ToyWithHead) -> None:
    state = hub_state(headed, HEAD_MAP)
    del state["model.shared.weight"]
    write(tmp_path, state)
    module = on_meta(ToyWithHead)
    seen: list[nn.Module] = []
    with pytest.warns(UserWarning, match=r"missing.*\(1\): model\.shared\.weight"):
        report = load(tmp_path, module, HEAD_MAP, initialise=lambda m: (seen.append(m), initialise(m)))
    assert report.missing_keys == ["model.shared.weight"]
    assert seen == [module.model.embedding, module.model]
    assert module.lm_head.weight is module.model.embedding.weight


def test_a_module_registered_twice(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(2, 2)
            self.second = self.first
            self.body = nn.Linear(2, 2)

    key_map = KeyMap(renames("t.{p} -> second.{p}\n b.{p} -> body.{p}"))
    write(tmp_path, {"b.weight": torch.ones(2, 2), "b.bias": torch.ones(2), "t.weight": torch.ones(2, 2)})
    module = on_meta(Twice)
    with pytest.warns(UserWarning, match=r"missing.*t\.bias"):
        load(tmp_path, module, key_map)
    assert module.first.bias.tolist() == [0.5, 0.5]
    assert module.first.weight is module.second.weight
    assert (module.first.weight == 1).all()


def test_what_initialise_forgets_is_an_error(tmp_path: Path, body: Toy) -> None:
    state = hub_state(body, BODY_MAP)
    del state["encoder.0.q.bias"]
    write(tmp_path, state)
    with pytest.raises(CheckpointError, match="'bias' of a Linear is not in the checkpoint, nor set"):
        load(tmp_path, on_meta(Toy), BODY_MAP, initialise=lambda module: None)


# ---- what does not fit ----


def test_all_faults_in_one_error(tmp_path: Path, body: Toy) -> None:
    state = hub_state(body, BODY_MAP)
    state["shared.weight"] = torch.zeros(12, 4)
    state["encoder.0.gate_up"] = torch.zeros(7, 4)
    state["encoder.1.experts.2.weight"] = torch.zeros(5, 4)
    state["encoder.1.k.bias"] = torch.zeros(4, dtype=torch.int64)
    del state["encoder.0.experts.1.weight"]
    state["encoder.0.k.waight"] = state.pop("encoder.0.k.weight")
    write(tmp_path, state)
    module = on_meta(Toy)
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path, module, BODY_MAP)
    assert str(caught.value).splitlines() == [
        f"{tmp_path} does not fit Toy:",
        "  shape: shared.weight [12, 4] → embedding.weight [11, 4]",
        "  dtype: encoder.1.k.bias is torch.int64 → layers.1.k_proj.bias [4] is floating-point",
        "  shape: encoder.0.gate_up [7, 4] → layers.0.gate [3, 4], layers.0.up [3, 4], which needs [6, 4]",
        "  1 of 3 tensors of layers.0.experts [3, 3, 4] absent: encoder.0.experts.1.weight",
        "  shape: encoder.1.experts.2.weight [5, 4] → layers.1.experts [3, 3, 4], which needs [3, 4]",
        "  missing (1): encoder.0.k.weight",
        "  unexpected, not used (1): encoder.0.k.waight (nearest: encoder.0.k.weight)",
    ]
    assert all(tensor.is_meta for tensor in module.state_dict().values())  # nothing was begun


def test_mismatched_shapes_may_be_ignored(tmp_path: Path, headed: ToyWithHead) -> None:
    state = hub_state(headed, HEAD_MAP)
    state["model.encoder.0.experts.1.weight"] = torch.zeros(5, 4)
    state["model.encoder.0.gate_up"] = torch.zeros(5, 4)
    write(tmp_path, state)
    module = on_meta(ToyWithHead)
    with pytest.warns(UserWarning, match=r"of another shape, newly initialised.*\(4\)"):
        report = load(tmp_path, module, HEAD_MAP, ignore_mismatched_sizes=True)
    experts = [f"model.encoder.0.experts.{e}.weight" for e in range(3)]
    assert report == LoadReport([], [], ["model.encoder.0.gate_up", *experts])
    assert (module.model.layers[0].experts == 0.5).all()
    assert (module.model.layers[0].gate == 0.5).all()
    assert torch.equal(module.model.layers[1].experts, headed.model.layers[1].experts)


def test_deeper_and_shallower_checkpoints(tmp_path: Path, body: Toy) -> None:
    write(tmp_path, hub_state(body, BODY_MAP))
    module = on_meta(Toy, depth=1)
    with pytest.warns(UserWarning, match=r"unexpected, not used \(10\).* and 2 more"):
        report = load(tmp_path, module, BODY_MAP)
    assert len(report.unexpected_keys) == 10
    assert all(key.startswith("encoder.1.") for key in report.unexpected_keys)
    module = on_meta(Toy, depth=3)
    with pytest.warns(UserWarning, match=r"missing, newly initialised.*\(10\).* and 2 more"):
        report = load(tmp_path, module, BODY_MAP)
    assert all(key.startswith("encoder.2.") for key in report.missing_keys)


def test_more_experts_than_the_model_has(tmp_path: Path, body: Toy) -> None:
    write(tmp_path, hub_state(body, BODY_MAP))
    with pytest.warns(UserWarning, match="unexpected"):
        report = load(tmp_path, on_meta(Toy, experts=2), BODY_MAP)
    assert report.unexpected_keys == ["encoder.0.experts.2.weight", "encoder.1.experts.2.weight"]


def test_a_checkpoint_of_another_family(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"h.0.attn.weight": torch.ones(4, 4), "count": torch.zeros(1, dtype=torch.int64)},
    )
    module = on_meta(ToyWithHead)
    said = r"not a checkpoint of ToyWithHead.*model\.shared\.weight.*it holds count, h\.0\.attn\.weight"
    with pytest.raises(CheckpointError, match=said):
        load(tmp_path, module, HEAD_MAP)


def test_a_map_that_is_not_the_modules(tmp_path: Path, body: Toy) -> None:
    write(tmp_path, hub_state(body, BODY_MAP))
    with pytest.raises(
        CheckpointError, match=r"no checkpoint key for 2 tensors of ToyWithHead: count, lm_head\.weight"
    ):
        load(tmp_path, on_meta(ToyWithHead, tied=False), KeyMap(BODY.under(ours="model.")))


def test_tied_tensors_that_two_stacks_fill(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.zeros(2, 3))
            self.b = self.a

    write(tmp_path, {"x.0": torch.zeros(3), "x.1": torch.zeros(3), "y": torch.zeros(2, 3)})
    for rules in (
        Rules(Stack("x.{e}", "a"), Split("y", ("b",))),
        Rules(Split("y", ("a", "b"))),
    ):
        with pytest.raises(CheckpointError, match="tied tensor"):
            load(tmp_path, on_meta(Tied), KeyMap(rules))


def test_a_chain_of_aliases_and_ties(tmp_path: Path, headed: ToyWithHead) -> None:
    # old.head is a copy of lm_head, which is tied to the embedding, which alone is stored under neither name.
    state = hub_state(headed, HEAD_MAP)
    state["old.head"] = state.pop("model.shared.weight")
    write(tmp_path, {**state, "extra": torch.ones(1)})
    rules = BODY.under(theirs="model.", ours="model.") + HEAD + Rules(Alias("old.head", "lm_head.weight"))
    key_map = KeyMap(rules + Rules(Drop("extra", "a test")), base_prefix="model.")
    module = on_meta(ToyWithHead)
    assert silently(tmp_path, module, key_map) == NOTHING
    assert same(module, headed)


def test_save_and_load_agree_on_the_state(tmp_path: Path, headed: ToyWithHead) -> None:
    save_weights(headed, HEAD_MAP, tmp_path)
    stored = safetensors.torch.load_file(tmp_path / "model.safetensors")
    expected = hub_state(headed, HEAD_MAP)
    assert stored.keys() == expected.keys()
    assert all(torch.equal(stored[key], expected[key]) for key in expected)
