"""Linear layers of few rows: every form of the product agrees, and is used only where the choice is free."""

import copy
import threading

import pytest
import torch
from torch import nn

from seq2seq_zoo.layers import linear
from seq2seq_zoo.layers.linear import Linear, for_inference, parted, plain, train, turned


@pytest.fixture(params=["amd", "intel", ""])
def maker(request, monkeypatch):
    """Each maker's choices, wherever the test runs."""
    monkeypatch.setattr(linear, "processor", lambda: request.param)
    return request.param


def layer(inputs=64, outputs=96, *, bias=True):
    made = nn.Linear(inputs, outputs, bias=bias)
    for_inference(made)
    return made


def reference(made, x):
    bias = None if made.bias is None else made.bias.double()
    return torch.nn.functional.linear(x.double(), made.weight.double(), bias)


@pytest.mark.parametrize("product", [plain, turned, parted])
@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("outputs", [96, 97], ids=["divisible", "not divisible"])
def test_products_agree(product, rows, bias, outputs):
    torch.manual_seed(rows)
    h, weight = torch.randn(rows, 64).double(), torch.randn(outputs, 64).double()
    shift = torch.randn(outputs).double() if bias else None
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = product(h, weight, shift)
    finally:
        torch.set_num_threads(threads)
    expected = h @ weight.t() + (0 if shift is None else shift)
    assert found.is_contiguous()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(1,), (1, 1), (2, 1), (2, 3), (4, 1, 2), (40, 1), (0, 3)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(64, 96), (512, 1024)], ids=["small", "large"])
@torch.no_grad()
def test_a_layer_is_exact_to_rounding(maker, shape, bias, size):
    torch.manual_seed(0)
    made, x = layer(*size, bias=bias), torch.randn(*shape, size[0])
    found = made(x)
    assert found.shape == (*shape, size[1])
    assert found.is_contiguous()
    torch.testing.assert_close(found.double(), reference(made, x), rtol=0, atol=1e-5)


def test_the_forms_are_chosen_by_rows_and_maker(monkeypatch):
    used = []
    for name in ("turned", "parted"):
        form = getattr(linear, name)
        monkeypatch.setattr(linear, name, lambda *given, n=name, f=form: used.append(n) or f(*given))
    made = layer(512, 1024)
    table = {}
    for maker in ("amd", "intel", ""):
        monkeypatch.setattr(linear, "processor", lambda maker=maker: maker)
        for rows in (1, 3, 8, 100):
            used.clear()
            with torch.no_grad():
                made(torch.randn(rows, 512))
            table[maker, rows] = used[0] if used else "plain"
    assert [table["amd", rows] for rows in (1, 3, 8, 100)] == ["parted", "turned", "turned", "plain"]
    assert [table["intel", rows] for rows in (1, 3, 8, 100)] == ["plain", "plain", "turned", "plain"]
    assert {table["", rows] for rows in (1, 3, 8, 100)} == {"plain"}


@pytest.fixture
def only_plain(monkeypatch):
    """An AMD processor on which any form but the plain one fails."""

    def refuse(*given):
        raise AssertionError("the choice was not free")

    monkeypatch.setattr(linear, "processor", lambda: "amd")
    monkeypatch.setattr(linear, "turned", refuse)
    monkeypatch.setattr(linear, "parted", refuse)


def test_gradients_are_recorded_as_ever(only_plain):
    made, x = layer(), torch.randn(1, 64)
    made(x).sum().backward()
    torch.testing.assert_close(made.weight.grad, x.expand(96, 64))


@torch.no_grad()
def test_what_is_not_free(only_plain):
    with pytest.raises(AssertionError):
        layer()(torch.randn(1, 64))
    for dtype in (torch.float64, torch.bfloat16):
        assert layer().to(dtype)(torch.randn(1, 64, dtype=dtype)).dtype is dtype
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer()(torch.randn(1, 64)).dtype is torch.bfloat16
    assert layer().to("meta")(torch.randn(1, 64, device="meta")).is_meta
    made = layer()
    compiled = torch.compile(made, backend="eager", fullgraph=True)
    torch.testing.assert_close(
        compiled(torch.ones(1, 64)), nn.functional.linear(torch.ones(1, 64), made.weight, made.bias)
    )
    torch.export.export(made, (torch.ones(1, 64),))
    torch.jit.trace(made, (torch.ones(1, 64),), check_trace=False)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        made(torch.randn(1, 63))


def test_for_inference_changes_the_class_and_nothing_else():
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 2)), nn.LayerNorm(2))
    before = list(model.named_parameters())
    for_inference(model)
    assert type(model[0]) is type(model[1][0]) is Linear
    assert [(name, id(value)) for name, value in model.named_parameters()] == [(n, id(v)) for n, v in before]
    assert repr(model[0]) == "Linear(in_features=4, out_features=4, bias=True)"
    assert type(copy.deepcopy(model)[0]) is Linear
    for_inference(model, False)
    assert type(model[0]) is type(model[1][0]) is nn.Linear


def test_train_does_what_modules_do_and_chooses_the_class():
    class Own(nn.Module):
        """A way of its own to train."""

        def __init__(self):
            super().__init__()
            self.inner, self.modes = nn.Linear(4, 4), []

        def train(self, mode=True):
            self.modes.append(mode)
            return super().train(mode)

    frozen = nn.Dropout(0.5).eval()
    frozen.train = lambda mode=True: frozen  # as training scripts freeze a part
    scripted = torch.jit.script(nn.Dropout(1.0))
    model = nn.Sequential(nn.Linear(4, 4), Own(), nn.Sequential(frozen, nn.Linear(4, 2), None), scripted)
    train(model, False)
    assert not any(part.training for part in model.modules())
    assert torch.equal(scripted(torch.ones(3)), torch.ones(3))
    assert {type(part) for part in model.modules() if isinstance(part, nn.Linear)} == {Linear}
    train(model, True)
    assert [part for part in model.modules() if not part.training] == [frozen]
    assert torch.equal(scripted(torch.ones(3)), torch.zeros(3))
    assert {type(part) for part in model.modules() if isinstance(part, nn.Linear)} == {nn.Linear}
    assert model[1].modes == [False, True]


def test_a_kind_of_linear_that_is_not_ours_is_left_alone():
    class Other(nn.Linear):
        pass

    model = nn.Sequential(Other(4, 4))
    for_inference(model)
    assert type(model[0]) is Other


def test_threads_share_a_layer(maker):
    made, x = layer(512, 1024), torch.randn(5, 512)
    found = {}

    def work(rows):
        with torch.no_grad():
            found[rows] = [made(x[:rows]) for _ in range(20)]

    threads = [threading.Thread(target=work, args=(rows,)) for rows in (1, 2, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for rows, results in found.items():
        for result in results:
            torch.testing.assert_close(result.double(), reference(made, x[:rows]), rtol=0, atol=1e-5)
