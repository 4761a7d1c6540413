"""torch.compile and torch.export: one graph, for any number of rows and positions, and the same numbers.

`fullgraph` refuses a graph with a break in it, whatever backend runs the graph; "eager" is the fastest.
"""

import shutil

import pytest
import torch

from seq2seq_zoo.layers.linear import Linear
from seq2seq_zoo.layers.transformer import Stack
from tests.inference.conftest import FAMILIES, arguments

pytestmark = pytest.mark.filterwarnings("ignore")  # of PyTorch's own compiler

each_family = pytest.mark.parametrize("model", FAMILIES, indirect=True)


@pytest.fixture
def model(model):
    """Of one layer a stack: a graph of more is no other, only longer."""
    for part in model.modules():
        if isinstance(part, Stack):
            part.layers = part.layers[:1]
    return model


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def inputs(model, rows, length, **kwargs):
    """With tensors of their own, whose strides say nothing about another's size."""
    given = arguments(model, rows=rows, length=length)
    return {name: tensor.contiguous() for name, tensor in given.items()} | kwargs


@each_family
@torch.no_grad()
def test_a_forward_is_one_graph(model):
    """With the decoding state it returns, and for other shapes than those it was traced with."""
    compiled = torch.compile(model, backend="eager", fullgraph=True, dynamic=True)
    for rows, length in ((2, 7), (3, 9)):
        given = inputs(model, rows, length)
        torch.testing.assert_close(compiled(**given).logits, model(**given).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("model", [name for name in FAMILIES if name != "mega"], indirect=True)
@torch.no_grad()
def test_a_forward_can_be_exported(model):
    """MEGA's, whose lengths fall into two ranges: in test_export."""
    rows, source, written = (torch.export.Dim(name, min=2, max=60) for name in ("rows", "source", "written"))
    given = inputs(model, 2, 7, use_cache=False)
    shapes = {name: {0: rows, 1: source} for name in given} | {"use_cache": None}
    if "decoder_input_ids" in given:
        shapes["decoder_input_ids"] = {0: rows, 1: written}
    exported = torch.export.export(model, (), given, dynamic_shapes=shapes).module()
    for shape in ((2, 7), (3, 12)):
        given = inputs(model, *shape, use_cache=False)
        found, expected = exported(**given), model(**given)
        assert type(found) is type(expected)
        assert found.keys() == expected.keys()
        torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("model", ["mt5"], indirect=True)
def test_gradients_pass_through_a_graph(model):
    given = inputs(model, 2, 7, use_cache=False)
    model(**given).logits.square().mean().backward()
    expected = {
        name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None
    }
    model.zero_grad()
    assert type(model.lm_head) is Linear
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    compiled(**given).logits.square().mean().backward()
    found = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    torch.testing.assert_close(found, expected)


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("model", ["mt5"], indirect=True)
@torch.no_grad()
def test_inductor_compiles_a_block(model):
    """One block, since the compiler takes its time."""
    block, x = model.get_decoder().layers[0].feed_forward, torch.randn(2, 3, 64)
    compiled = torch.compile(block, fullgraph=True)
    torch.testing.assert_close(compiled(x), block(x), rtol=0, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("model", ["mt5", "mvp"], indirect=True)
@torch.no_grad()
def test_cuda_graphs(model):
    model.cuda()
    given = {name: tensor.cuda() for name, tensor in inputs(model, 2, 7).items()} | {"use_cache": False}
    compiled = torch.compile(model, mode="reduce-overhead", fullgraph=True)
    expected = model(**given).logits
    for _ in range(3):  # the first runs record, the later ones replay
        torch.testing.assert_close(compiled(**given).logits.clone(), expected, rtol=1e-3, atol=1e-3)
