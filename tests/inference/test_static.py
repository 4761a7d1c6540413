"""Static steps: the tokens of ordinary ones, from one graph that no step makes anew."""

import gc
import weakref

import pytest
import torch

import seq2seq_zoo as zoo
from seq2seq_zoo.layers.static import StaticSteps, StepModule
from tests.generation.families import LONG, PHIMOE
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


def ordinary(stack, options, state):
    """The way to take a step that has other shapes each time."""
    return lambda new: stack.run(new, state=state, **options).last


def static(stack, options, state, **kwargs):
    memory, mask = options["memory"], options["memory_attention_mask"]
    return StaticSteps(stack, state, capacity=20, memory=memory, memory_mask=mask, **kwargs)


@pytest.fixture
def graphs():
    """Those that were kept: the compiler knows of none before, and of none after."""
    torch._dynamo.reset()
    yield []
    torch._dynamo.reset()


def kept_in(graphs, **options):
    """A compiler that runs a graph as it is, and keeps it."""

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    return lambda step: torch.compile(step, backend=backend, **options)


def head_of(model):
    return model.get_output_embeddings()


@each_family
@pytest.mark.parametrize("rows_per_source", [1, 3])
@torch.no_grad()
def test_static_steps_write_the_same(model, rows_per_source):
    head = head_of(model)
    stack, options, ids, state, last = begin(model, rows_per_source)
    expected, expected_end = tokens_of(ordinary(stack, options, state), last, head)
    state = begin(model, rows_per_source)[3]
    found, end = tokens_of(static(stack, options, state).step, last, head)
    assert torch.equal(found, expected)
    torch.testing.assert_close(end, expected_end, rtol=0, atol=1e-5)
    assert state.length == ids.shape[1] + STEPS


@pytest.mark.parametrize("model", ["mt5", "mvp-prompt"], indirect=True)
@torch.no_grad()
def test_one_graph_serves_all_steps_of_all_texts(model, graphs):
    """Of one layer: a graph of more is no other, only longer."""
    model.get_decoder().layers = model.get_decoder().layers[:1]
    stack, options, _, state, last = begin(model)
    expected, _ = tokens_of(ordinary(stack, options, state), last, head_of(model))
    compile = kept_in(graphs, fullgraph=True, dynamic=False)  # one: another would make graphs of its own
    for _ in range(2):
        steps = static(stack, options, begin(model)[3], compile=compile)
        assert torch.equal(tokens_of(steps.step, last, head_of(model))[0], expected)
    assert len(graphs) == 1


@pytest.mark.parametrize("model", ["mt5"], indirect=True)
@torch.no_grad()
def test_texts_of_many_lengths_share_a_graph(model, graphs):
    """The second length makes the compiler leave the length open, and the others find that graph."""
    model.get_decoder().layers = model.get_decoder().layers[:1]
    stack, options, _, state, last = begin(model)
    expected, _ = tokens_of(ordinary(stack, options, state), last, head_of(model))
    memory, mask = options["memory"], options["memory_attention_mask"]
    compile = kept_in(graphs)
    for capacity in (20, 24, 31, 40):
        steps = StaticSteps(
            stack,
            begin(model)[3],
            capacity=capacity,
            memory=memory,
            memory_mask=mask,
            compile=compile,
        )
        assert torch.equal(tokens_of(steps.step, last, head_of(model))[0], expected)
    assert len(graphs) == 2


@torch.no_grad()
def test_one_graph_serves_rotary_steps(graphs):
    """Around a window of 4, beside the experts, and on both sides of LongRoPE's border at 12."""
    torch.manual_seed(0)
    fields = PHIMOE | LONG | {"sliding_window": 4, "num_hidden_layers": 1}
    model = zoo.PhimoeForCausalLM(zoo.PhimoeConfig(**fields)).eval()
    stack, ids = model.model.stack, torch.randint(4, 40, (2, 9))
    states = [stack.new_state(capacity=20) for _ in range(2)]
    for state in states:
        stack.run(ids, state=state)
    steps = StaticSteps(
        stack,
        states[0],
        capacity=20,
        compile=kept_in(graphs, fullgraph=True, dynamic=False),
    )
    taken = 0
    for new in torch.randint(4, 40, (8, 2, 1)):
        expected = stack.run(new, state=states[1]).last
        if steps.is_next:
            found, taken = steps.step(new), taken + 1
        else:
            with pytest.raises(ValueError, match="no row may become longer than original_max_position"):
                steps.step(new)
            found = stack.run(new, state=states[0]).last
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert taken == 7
    assert len(graphs) == 1


@pytest.mark.parametrize("model", ["mt5", "mvp-prompt", "phimoe"], indirect=True)
@torch.no_grad()
def test_a_step_is_exported(model):
    """The graph's state is its own: it is what changes, and the steps can go on from theirs."""
    if model.config.is_encoder_decoder:
        stack, options, ids, state, _ = begin(model)
        steps = static(stack, options, begin(model)[3])
    else:
        stack, options, ids = model.model.stack, {}, torch.randint(4, 300, (2, 4))
        state, other = stack.new_state(capacity=20), stack.new_state(capacity=20)
        for each in (state, other):
            stack.run(ids, state=each)
        steps = StaticSteps(stack, other, capacity=20)
    example = ids[:, :1].contiguous(), torch.tensor([4])
    graph = torch.export.export(StepModule(steps).eval(), example).module()
    for new in torch.randint(4, 300, (3, 2, 1)):
        position = torch.tensor([state.length])
        expected = stack.run(new, state=state, **options).last
        torch.testing.assert_close(graph(new, position), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(steps.step(new), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("model", ["mt5"], indirect=True)
@torch.no_grad()
def test_the_state_is_reordered_and_cropped_between_steps(model):
    """Below a prompt padded in front, whose rows turn their places."""
    stack, options, ids, _, _ = begin(model)
    prompt = torch.ones_like(ids)
    prompt[1, :2] = 0
    states = [stack.new_state(capacity=32) for _ in range(2)]
    for state in states:
        stack.run(ids, attention_mask=prompt, state=state, **options)
    steps = static(stack, options, states[0], prompt_mask=prompt)

    def step(new):
        nonlocal prompt
        prompt = torch.cat([prompt, prompt.new_ones(2, 1)], 1)
        expected = stack.run(new, attention_mask=prompt, state=states[1], **options).last
        torch.testing.assert_close(steps.step(new), expected, rtol=0, atol=1e-5)

    new = ids[:, :1]
    for each in (new, new + 1):
        step(each)
    for state in states:
        state.crop(5)
    prompt = prompt[:, :5]
    step(new + 2)
    mask = torch.ones_like(options["memory_attention_mask"])  # of rows that stay where they are
    states = [stack.new_state(capacity=32, rows_per_source=2) for _ in range(2)]
    options = {"memory": options["memory"][:1], "memory_attention_mask": mask[:1]}
    for state in states:
        stack.run(ids, state=state, **options)
    steps = static(stack, options, states[0])
    prompt = torch.ones_like(ids)
    step(new)
    for state in states:
        state.reorder(torch.tensor([1, 1]))
    step(new + 1)


@pytest.mark.parametrize("model", ["mt5"], indirect=True)
@torch.no_grad()
def test_refusals(model):
    stack, _, ids, state, _ = begin(model)
    with pytest.raises(ValueError, match="capacity is 4; it must be above the 4 tokens held"):
        StaticSteps(stack, state, capacity=4)
    with pytest.raises(ValueError, match="state holds no tokens; static steps go on from an ordinary pass"):
        StaticSteps(stack, stack.new_state(capacity=8), capacity=8)
    steps = StaticSteps(stack, state, capacity=5)
    steps.step(ids[:, :1])
    with pytest.raises(ValueError, match="5 tokens are held, and capacity is 5; there must be room"):
        steps.step(ids[:, :1])


@pytest.mark.parametrize("model", ["mt5"], indirect=True)
@torch.no_grad()
def test_the_buffers_go_with_the_steps(model):
    """At once, and not when Python next looks for garbage: they are large."""
    stack, options, ids, state, _ = begin(model)
    steps = static(stack, options, state)
    steps.step(ids[:, :1])
    held = weakref.ref(steps.memories()[0].whole[0])
    gc.disable()
    try:
        assert held() is not None
        del steps, state
        assert held() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("model", ["mega"], indirect=True)
@torch.no_grad()
def test_a_stack_that_keeps_more_is_refused(model):
    stack = model.model.stack
    with pytest.raises(ValueError, match="static steps do not serve this GatedStack"):
        StaticSteps(stack, stack.new_state(), capacity=4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("model", ["mt5", "mvp"], indirect=True)
@torch.no_grad()
def test_cuda_graphs_of_steps(model):
    model.cuda()
    stack, options, _, state, last = begin(model, device="cuda")
    expected, _ = tokens_of(ordinary(stack, options, state), last, head_of(model))
    for _ in range(2):
        steps = static(
            stack,
            options,
            begin(model, device="cuda")[3],
            compile=lambda step: torch.compile(step, mode="reduce-overhead", fullgraph=True, dynamic=False),
        )
        found, _ = tokens_of(lambda new, steps=steps: steps.step(new).clone(), last, head_of(model))
        assert torch.equal(found, expected)
