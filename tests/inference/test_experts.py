"""Experts in inference: packed and rounded ones give the numbers of those they were made of."""

import copy
import io

import pytest
import torch

import seq2seq_zoo as zoo
from seq2seq_zoo.errors import UsageError
from seq2seq_zoo.inference import packed
from seq2seq_zoo.inference.experts import FrozenExperts, PackedExperts
from seq2seq_zoo.inference.frozen import FrozenLinear
from seq2seq_zoo.inference.packed import can_pack
from seq2seq_zoo.layers.activations import ACTIVATIONS
from seq2seq_zoo.layers.experts import Experts, MixtureOfExperts
from seq2seq_zoo.layers.router import SparseMixer

D, F, N = 64, 96, 5
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
each_count = pytest.mark.parametrize("tokens", [0, 1, 3, 40])


def experts(dtype=torch.float32):
    torch.manual_seed(0)
    return Experts(D, F, N, ACTIVATIONS["silu"]).to(dtype).eval()


def choices(tokens, among=N):
    generator = torch.Generator().manual_seed(1)
    chosen = [torch.randperm(among, generator=generator)[:2] for _ in range(tokens)]
    return torch.stack(chosen) if chosen else torch.empty(0, 2, dtype=torch.int64)


def call(module, tokens, dtype, among=N):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(tokens, D, generator=generator).to(dtype)
    weights = torch.rand(tokens, 2, generator=generator).to(dtype)
    with torch.no_grad():
        return module(x, choices(tokens, among), weights)


def needs_packs(dtype):
    if not can_pack(dtype):
        pytest.skip("PyTorch has no packed product here")


@pytest.fixture
def always_packed(monkeypatch):
    monkeypatch.setattr(packed, "reads_packed", lambda weight, rows, maker: True)


def close(found, expected, dtype):
    """To a few roundings of the dtype, relative to the largest number."""
    assert found.dtype == expected.dtype
    if expected.numel():
        allowed = 8 * torch.finfo(dtype).eps * float(expected.abs().max())
        assert float((found - expected).abs().max()) <= allowed


# ---- packed ----


@each_dtype
@each_count
@pytest.mark.parametrize("packed_rows", ["all", "by rows", "none"])
def test_packed_experts_are_the_experts(dtype, tokens, packed_rows, monkeypatch):
    """Whether every group takes the packed copy, only those of more than one row, or none."""
    needs_packs(dtype)
    least = {"all": 1, "by rows": 2, "none": 1000}[packed_rows]
    monkeypatch.setattr(packed, "reads_packed", lambda weight, rows, maker: rows >= least)
    module = experts(dtype)
    expected = call(module, tokens, dtype)
    module.__class__ = PackedExperts
    close(call(module, tokens, dtype), expected, dtype)
    rows = choices(tokens).flatten().bincount(minlength=N).tolist()
    assert set(module._pack or ()) == {expert for expert in range(N) if rows[expert] >= least}


def test_only_chosen_experts_are_packed_and_read(always_packed):
    needs_packs(torch.bfloat16)
    module = experts(torch.bfloat16)
    expected = call(module, 9, torch.bfloat16, among=3)
    module.__class__ = PackedExperts
    with torch.no_grad():
        for parameter in module.parameters():
            parameter[3:] = torch.nan
    close(call(module, 9, torch.bfloat16, among=3), expected, torch.bfloat16)
    assert set(module._pack) <= {0, 1, 2}


@each_dtype
def test_a_pack_follows_its_matrices(dtype, always_packed):
    """Changed in place, replaced, or cast."""
    needs_packs(dtype)
    module = experts(dtype)
    module.__class__ = PackedExperts
    before = call(module, 4, dtype)
    with torch.no_grad():
        module.down.weight.mul_(2)
    close(call(module, 4, dtype), 2 * before, dtype)
    module.down.weight.data = module.down.weight.data / 2
    close(call(module, 4, dtype), before, dtype)
    module.double()
    close(call(module, 4, torch.float64).to(dtype), before, dtype)


def test_packed_experts_save_copy_and_train_as_ever(always_packed):
    needs_packs(torch.float32)
    module, plain = experts(), experts()
    module.__class__ = PackedExperts
    expected = call(module, 4, torch.float32)
    assert list(module.state_dict()) == list(plain.state_dict())
    for twin in (copy.deepcopy(module), pickled(module)):
        assert type(twin) is PackedExperts
        assert not twin._pack
        close(call(twin, 4, torch.float32), expected, torch.float32)
    module.train()
    assert type(module) is Experts
    assert not hasattr(module, "_pack")
    module(torch.randn(3, D), torch.tensor([[0, 1]] * 3), torch.ones(3, 2)).sum().backward()
    assert module.gate.weight.grad[0].abs().sum() > 0


def pickled(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def test_without_the_private_operators_the_public_ones_serve(monkeypatch, always_packed):
    module = experts()
    expected = call(module, 4, torch.float32)
    module.__class__ = PackedExperts
    monkeypatch.setattr(packed, "can_pack", lambda dtype: False)
    monkeypatch.setattr(packed, "pack_weight", None)
    assert torch.equal(call(module, 4, torch.float32), expected)


# ---- rounded, by optimize ----


def mixture():
    torch.manual_seed(0)
    return MixtureOfExperts(SparseMixer(D, N), Experts(D, F, N, ACTIVATIONS["silu"])).eval()


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({"dtype": "float16"}, 1e-3),
        ({"quantize": "int8"}, 0.02),
        ({"quantize": "int8-dynamic"}, 0.03),
        ({"quantize": "int4"}, 0.2),
    ],
    ids=str,
)
@pytest.mark.parametrize("tokens", [1, 40])
def test_rounded_experts_are_nearly_the_experts(options, allowed, tokens):
    """Each expert by frozen layers, the router left as it was: it chooses the same experts."""
    module = mixture()
    x = torch.randn(1, tokens, D)
    with torch.no_grad():
        expected = module(x)
        zoo.optimize(module, **options)
        found = module(x)
    assert torch.equal(found.router_scores, expected.router_scores)
    error = (found.x - expected.x).norm() / expected.x.norm()
    assert 0 < float(error) <= allowed
    assert type(module.experts) is FrozenExperts
    assert sum(isinstance(part, FrozenLinear) for part in module.modules()) == 2 * N
    assert all(p.is_meta for p in module.experts.parameters()), "the matrices were given up"


def test_rounded_experts_refuse_to_be_trained_or_saved():
    module = zoo.optimize(mixture(), quantize="int8")
    with pytest.raises(UsageError, match="cannot be saved"):
        module.state_dict()
    module.train()
    with pytest.raises(UsageError, match="cannot be trained"):
        module(torch.randn(1, 3, D))


def test_optimize_packs_experts_and_training_unpacks_them():
    module = zoo.optimize(mixture())
    assert type(module.experts) is PackedExperts
    zoo.optimize(module, dtype="bfloat16")
    assert type(module.experts) is PackedExperts
    module.train()
    assert type(module.experts) is Experts
