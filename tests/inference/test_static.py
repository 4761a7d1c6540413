"""Static steps: the tokens of ordinary ones, from one graph that no step makes anew."""

import pytest
import torch

from seq2seq_zoo.layers.static import StaticSteps
from tests.inference.conftest import arguments

pytestmark = pytest.mark.filterwarnings("ignore")  # of PyTorch's own compiler

STEPS = 8
each_family = pytest.mark.parametrize("model", ["mt5", "mvp", "mvp-prompt", "bert2bert"], indirect=True)


def begin(model, rows_per_source=1, device="cpu"):
    """Decoder, memory, its mask, first ids, and the state after them."""
    given = {name: value.to(device) for name, value in arguments(model).items()}
    encoded = model.get_encoder()(given["input_ids"], attention_mask=given["attention_mask"])
    ids = given["decoder_input_ids"].repeat_interleave(rows_per_source, 0)
    decoder = model.get_decoder()
    stack = getattr(getattr(decoder, "model", decoder), "stack", decoder)
    state = stack.new_state(capacity=32, rows_per_source=rows_per_source)
    memory, mask = encoded.last_hidden_state, given["attention_mask"]
    options = {"memory": memory, "memory_attention_mask": mask}
    last = stack.run(ids, state=state, **options).last[:, -1:]
    return stack, options, ids, state, last


def tokens_of(step, last, head):
    """What greedy decoding writes with a way to take a step."""
    written = []
    for _ in range(STEPS):
        written.append(head(last).argmax(-1))
        last = step(written[-1])
    return torch.cat(written, 1), last


def head_of(model):
    return model.get_output_embeddings()


@each_family
@pytest.mark.parametrize("rows_per_source", [1, 3])
@torch.no_grad()
def test_static_steps_write_the_same(model, rows_per_source):
    stack, options, ids, state, last = begin(model, rows_per_source)
    head = head_of(model)
    steps = StaticSteps(
        stack, state, capacity=20, memory=options["memory"], memory_mask=options["memory_attention_mask"]
    )
    found, end = tokens_of(steps.step, last, head)
    expected, expected_end = tokens_of(
        lambda new: stack.run(new, state=state, **options).last, last, head
    )  # after the static steps: they have left the state as it was
    assert torch.equal(found, expected)
    torch.testing.assert_close(end, expected_end, rtol=0, atol=1e-5)
    assert int(steps.position) == ids.shape[1] + STEPS


@pytest.mark.parametrize("model", ["mt5", "mvp-prompt"], indirect=True)
@torch.no_grad()
def test_one_graph_serves_all_steps(model):
    stack, options, _, state, last = begin(model)
    torch._dynamo.reset()
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    mask = options["memory_attention_mask"]
    steps = StaticSteps(stack, state, capacity=20, memory=options["memory"], memory_mask=mask)
    compiled = torch.compile(steps.step, backend=backend, fullgraph=True, dynamic=False)
    found, _ = tokens_of(compiled, last, head_of(model))
    expected, _ = tokens_of(lambda new: stack.run(new, state=state, **options).last, last, head_of(model))
    assert torch.equal(found, expected)
    assert len(graphs) == 1
    torch._dynamo.reset()


@pytest.mark.parametrize("model", ["mt5"], indirect=True)
@torch.no_grad()
def test_beams_and_padded_prompts(model):
    stack, options, ids, _, _ = begin(model)
    prompt = torch.ones_like(ids)
    prompt[1, :2] = 0
    state = stack.new_state(capacity=32)
    stack.run(ids, attention_mask=prompt, state=state, **options)
    mask = options["memory_attention_mask"]
    steps = StaticSteps(
        stack, state, capacity=20, memory=options["memory"], memory_mask=mask, prompt_mask=prompt
    )
    swapped, new = torch.tensor([1, 0]), ids[:, :1]
    for each in (new, new + 1):
        prompt = torch.cat([prompt, prompt.new_ones(2, 1)], 1)
        expected = stack.run(each, attention_mask=prompt, state=state, **options).last
        torch.testing.assert_close(steps.step(each), expected, rtol=0, atol=1e-5)
    held = [layer.self_attention.buffers[0].clone() for layer in steps.state.layers]
    steps.reorder(swapped)
    for before, layer in zip(held, steps.state.layers, strict=True):
        assert torch.equal(layer.self_attention.buffers[0], before[swapped])


@pytest.mark.parametrize("model", ["mt5"], indirect=True)
@torch.no_grad()
def test_refusals(model):
    stack, _, _, state, _ = begin(model)
    with pytest.raises(ValueError, match="capacity is 4; it must be above the 4 tokens held"):
        StaticSteps(stack, state, capacity=4)


@pytest.mark.parametrize("model", ["phimoe"], indirect=True)
@torch.no_grad()
def test_a_stack_of_another_kind_is_refused(model):
    stack = model.model.stack
    with pytest.raises(ValueError, match="static steps need a plain stack"):
        StaticSteps(stack, stack.new_state(), capacity=4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("model", ["mt5", "mvp"], indirect=True)
@torch.no_grad()
def test_cuda_graphs_of_steps(model):
    model.cuda()
    stack, options, _, state, last = begin(model, device="cuda")
    mask = options["memory_attention_mask"]
    steps = StaticSteps(stack, state, capacity=20, memory=options["memory"], memory_mask=mask)
    compiled = torch.compile(steps.step, mode="reduce-overhead", fullgraph=True, dynamic=False)
    found, _ = tokens_of(lambda new: compiled(new).clone(), last, head_of(model))
    expected, _ = tokens_of(lambda new: stack.run(new, state=state, **options).last, last, head_of(model))
    assert torch.equal(found, expected)
