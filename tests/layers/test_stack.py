"""A layer and a stack of them: their wiring, cached steps against the full pass, threads, half precision."""

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import MT5Config, MvpConfig
from transformers.models.mt5.modeling_mt5 import MT5Block
from transformers.models.mvp.modeling_mvp import MvpDecoderLayer

from seq2seq_zoo.layers.activations import ACTIVATIONS
from seq2seq_zoo.layers.attention import Attention
from seq2seq_zoo.layers.feed_forward import FeedForward, GatedFeedForward
from seq2seq_zoo.layers.norms import RMSNorm
from seq2seq_zoo.layers.prefix import Prefix
from seq2seq_zoo.layers.state import DecodingState
from seq2seq_zoo.layers.transformer import TransformerLayer
from tests.layers.formulas import (
    STACKS,
    VOCABULARY,
    WIDTH,
    post_norm_stack,
    pre_norm_stack,
    some_ids,
    whole_attention,
)
from tests.oracle import float64, needs_4, randomise, relative_error

DECODERS = {
    "post-norm": lambda: post_norm_stack(causal=True, crosses=True),
    "post-norm with prompts": lambda: post_norm_stack(causal=True, crosses=True, prompt=3),
    "pre-norm": lambda: pre_norm_stack(causal=True, crosses=True),
}


@pytest.fixture(scope="module")
def decoders():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    made = {name: make() for name, make in DECODERS.items()}
    torch.set_default_dtype(before)
    return made


def memory_of(rows, length=5):
    generator = torch.Generator().manual_seed(9)
    return torch.randn(rows, length, WIDTH, generator=generator, dtype=torch.float64)


# ---- one layer ----


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("crosses", [False, True])
@pytest.mark.parametrize("memory", [False, True])
def test_a_layer_is_its_blocks_around_residuals(norm_first, crosses, memory):
    layer = TransformerLayer(
        Attention(WIDTH, 2, 3),
        FeedForward(WIDTH, 8, torch.tanh),
        Attention(WIDTH, 2, 3) if crosses else None,
        norm=lambda: nn.LayerNorm(WIDTH),
        norm_first=norm_first,
    ).eval()
    randomise(layer)
    start = x = torch.randn(2, 4, WIDTH)
    read = torch.randn(2, 5, WIDTH) if memory else None
    mask, bias = torch.ones(4, 4, dtype=torch.bool).tril()[None, None], torch.randn(1, 2, 4, 4)
    seen = torch.rand(2, 1, 1, 5) < 0.7
    seen[..., 0] = True
    own, across = (
        Prefix(torch.randn(2, 1, 3), torch.randn(2, 1, 3)),
        Prefix(torch.randn(2, 2, 3), torch.randn(2, 2, 3)),
    )

    def behind(tensor, columns, value):
        return torch.cat([tensor.new_full((*tensor.shape[:-1], columns), value), tensor], dim=-1)

    blocks = [
        (layer.self_attention_norm, lambda x: whole_attention(
            layer.self_attention, x, None, behind(mask, 1, True), behind(bias, 1, 0.0), own
        )[0])
    ]  # fmt: skip
    if crosses and memory:
        blocks.append(
            (layer.cross_attention_norm, lambda x: whole_attention(
                layer.cross_attention, x, read, behind(seen, 2, True), None, across
            )[0])
        )  # fmt: skip
    blocks.append((layer.feed_forward_norm, layer.feed_forward))
    for norm, block in blocks:
        x = x + block(norm(x)) if norm_first else norm(x + block(x))

    out = layer(
        start,
        mask=behind(mask, 1, True),
        bias=behind(bias, 1, 0.0),
        memory=read,
        memory_mask=behind(seen, 2, True),
        self_prefix=own,
        cross_prefix=across,
        need_weights=True,
    )
    assert relative_error(out.x, x) <= 1e-12
    assert list(out.self_weights.shape) == [2, 2, 4, 5]
    assert (out.cross_weights is not None) == (crosses and memory)


def load(ours, theirs, names):
    for mine, other in names.items():
        ours.get_submodule(mine).load_state_dict(theirs.get_submodule(other).state_dict())


@needs_4
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_mvp_decoder_layer(activation):
    config = MvpConfig(
        d_model=12, decoder_attention_heads=3, decoder_ffn_dim=10, activation_function=activation
    )
    theirs = MvpDecoderLayer(config, layer_idx=0).eval()
    randomise(theirs)
    ours = TransformerLayer(
        Attention(12, 3, 4),
        FeedForward(12, 10, ACTIVATIONS[activation]),
        Attention(12, 3, 4),
        norm=lambda: nn.LayerNorm(12),
        norm_first=False,
    ).eval()
    names = {
        "self_attention_norm": "self_attn_layer_norm",
        "cross_attention_norm": "encoder_attn_layer_norm",
        "feed_forward.up": "fc1",
        "feed_forward.down": "fc2",
        "feed_forward_norm": "final_layer_norm",
    }
    for mine, other in (("self_attention", "self_attn"), ("cross_attention", "encoder_attn")):
        for part, name in {
            "query": "q_proj",
            "key": "k_proj",
            "value": "v_proj",
            "output": "out_proj",
        }.items():
            names[f"{mine}.{part}"] = f"{other}.{name}"
    load(ours, theirs, names)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    x, memory = torch.randn(2, 4, 12), torch.randn(2, 5, 12)
    expected, self_weights, cross_weights = theirs(x, encoder_hidden_states=memory, output_attentions=True)
    out = ours(x, memory=memory, need_weights=True)
    assert relative_error(out.x, expected) <= 1e-12
    assert relative_error(out.self_weights, self_weights) <= 1e-12
    assert relative_error(out.cross_weights, cross_weights) <= 1e-12


@needs_4
@pytest.mark.parametrize("kind", ["relu", "gated-gelu"])
def test_mt5_block(kind):
    """The oracle's mean square and softmax in float32 are lifted by `oracle.float64`."""
    config = MT5Config(d_model=10, num_heads=3, d_kv=4, d_ff=9, feed_forward_proj=kind, is_decoder=True)
    theirs = MT5Block(config, layer_idx=0).eval()
    randomise(theirs)
    block = GatedFeedForward if config.is_gated_act else FeedForward
    ours = TransformerLayer(
        Attention(10, 3, 4, scale=1.0, bias=False),
        block(10, 9, ACTIVATIONS[config.dense_act_fn], bias=False),
        Attention(10, 3, 4, scale=1.0, bias=False),
        norm=lambda: RMSNorm(10),
        norm_first=True,
    ).eval()
    fed = {"gate": "wi_0", "up": "wi_1", "down": "wo"} if config.is_gated_act else {"up": "wi", "down": "wo"}
    names = {f"feed_forward.{mine}": f"layer.2.DenseReluDense.{other}" for mine, other in fed.items()}
    names |= {
        f"self_attention.{mine}": f"layer.0.SelfAttention.{mine[0]}" for mine in ("query", "key", "value")
    }
    names |= {
        f"cross_attention.{mine}": f"layer.1.EncDecAttention.{mine[0]}" for mine in ("query", "key", "value")
    }
    names |= {
        "self_attention.output": "layer.0.SelfAttention.o",
        "cross_attention.output": "layer.1.EncDecAttention.o",
    }
    names |= {
        "self_attention_norm": "layer.0.layer_norm",
        "cross_attention_norm": "layer.1.layer_norm",
        "feed_forward_norm": "layer.2.layer_norm",
    }
    load(ours, theirs, names)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    x, memory, bias = torch.randn(2, 4, 10), torch.randn(2, 5, 10), torch.randn(1, 3, 4, 4)
    with float64():
        expected = theirs(
            x, position_bias=bias, encoder_hidden_states=memory, cache_position=torch.arange(4)
        )[0]
    assert relative_error(ours(x, bias=bias, memory=memory).x, expected) <= 1e-12


# ---- a stack ----


@pytest.mark.parametrize("kind", STACKS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("need_weights", [False, True])
def test_a_stack_is_its_layers_in_order(kind, causal, need_weights):
    stack = STACKS[kind](causal=causal, layers=3, crosses=causal)
    ids = some_ids(2, 4)
    memory = memory_of(2) if causal else None
    mask = torch.ones(4, 4, dtype=torch.bool).tril()[None, None] if causal else None
    bias = None if stack.position_bias is None else stack.position_bias(4, 4)
    x = stack.embedding(ids)
    hidden = [x]
    for layer in stack.layers:
        x = layer(x, mask=mask, bias=bias, memory=memory).x
        hidden.append(x)
    if stack.final_norm is not None:
        x = hidden[-1] = stack.final_norm(x)
    out = stack.run(ids, memory=memory, need_hidden=True, need_weights=need_weights)
    assert relative_error(out.last, x) <= 1e-12
    assert len(out.hidden) == 4
    for mine, other in zip(out.hidden, hidden, strict=True):
        assert relative_error(mine, other) <= 1e-12
    if not need_weights:
        assert out.self_weights is out.cross_weights is None
        return
    assert len(out.self_weights) == 3
    assert all(list(w.shape) == [2, 2, 4, 4] for w in out.self_weights)
    if causal:
        assert all(list(w.shape) == [2, 2, 4, 5] for w in out.cross_weights)
    else:
        assert out.cross_weights is None


@pytest.mark.parametrize("name", DECODERS)
def test_weights_cost_nothing_but_time(decoders, name):
    ids, memory = some_ids(2, 4), memory_of(2)
    plain = decoders[name].run(ids, memory=memory)
    shown = decoders[name].run(ids, memory=memory, need_weights=True, need_hidden=True)
    assert plain.hidden is None
    assert relative_error(shown.last, plain.last) <= 1e-12
    for weights in (*shown.self_weights, *shown.cross_weights):
        assert torch.allclose(weights.sum(-1), torch.ones(()))


@pytest.mark.parametrize("kind", STACKS)
def test_without_memory_the_cross_attention_is_passed_over(kind):
    stack = STACKS[kind](causal=True, crosses=True)
    alone = STACKS[kind](causal=True)
    alone.load_state_dict({k: v for k, v in stack.state_dict().items() if "cross" not in k})
    ids = some_ids(2, 4)
    assert relative_error(stack.run(ids).last, alone.run(ids).last) <= 1e-12


def test_vectors_stand_for_ids():
    stack = post_norm_stack(causal=True)
    ids = some_ids(2, 4)
    assert relative_error(stack.run(None, stack.embedding.vectors(ids)).last, stack.run(ids).last) <= 1e-12


@pytest.mark.parametrize("need_weights", [False, True])
def test_prompts_of_each_attention_are_seen(need_weights):
    """Each prompt changes the result, and only the attention it belongs to has its columns."""
    stack = post_norm_stack(causal=True, crosses=True, prompt=3)
    ids, memory = some_ids(2, 4), memory_of(2)
    before = stack.run(ids, memory=memory, need_weights=need_weights)
    if need_weights:
        assert all(list(w.shape) == [2, 2, 4, 7] for w in before.self_weights)
        assert all(list(w.shape) == [2, 2, 4, 8] for w in before.cross_weights)
    for prompt in (stack.self_prompt, stack.cross_prompt):
        with torch.no_grad():
            prompt.embedding.weight.add_(1.0)
        after = stack.run(ids, memory=memory, need_weights=need_weights)
        assert relative_error(after.last, before.last) > 1e-6
        before = after


# ---- decoding state ----


def steps(stack, ids, sizes, state, **options):
    """The stack's results of consecutive passes over ids, joined."""
    mask = options.pop("attention_mask", None)
    parts, at = [], state.length
    for size in sizes:
        options["attention_mask"] = None if mask is None else mask[:, : at + size]
        parts.append(stack.run(ids[:, at : at + size], state=state, **options).last)
        at += size
    return torch.cat(parts, dim=1)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(DECODERS)),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    capacity=st.sampled_from([0, 3, 30]),
    padding=st.lists(st.integers(0, 3), min_size=2, max_size=2),
    grad=st.booleans(),
    need_weights=st.booleans(),
)
def test_steps_of_any_size_equal_the_full_pass(decoders, name, sizes, capacity, padding, grad, need_weights):
    """Also for the padding itself, whose results mean nothing but must not depend on the steps."""
    stack, memory = decoders[name], memory_of(2)
    ids = some_ids(2, sum(sizes))
    mask = torch.ones(2, sum(sizes), dtype=torch.int64)
    for row, count in enumerate(padding):
        mask[row, :count] = 0
    with torch.set_grad_enabled(grad):
        full = stack.run(ids, attention_mask=mask, memory=memory).last
        state = DecodingState(len(stack.layers), capacity=capacity)
        parts = steps(stack, ids, sizes, state, attention_mask=mask, memory=memory, need_weights=need_weights)
    assert state.length == sum(sizes)
    assert relative_error(parts, full) <= 1e-12


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("need_weights", [False, True])
def test_beams_that_share_a_source_equal_a_repeated_source(decoders, name, padded, need_weights):
    stack, memory = decoders[name], memory_of(2)
    seen = torch.tensor([[1, 1, 1, 0, 0], [0, 1, 1, 1, 1]]) if padded else None
    ids = some_ids(6, 5)
    repeated = None if seen is None else seen.repeat_interleave(3, dim=0)
    expected = stack.run(ids, memory=memory.repeat_interleave(3, dim=0), memory_attention_mask=repeated).last
    for given_mask in (seen, repeated):
        state = DecodingState(2, capacity=9, rows_per_source=3)
        with torch.no_grad():
            out = steps(
                stack, ids, [2, 1, 2], state,
                memory=memory, memory_attention_mask=given_mask, need_weights=need_weights,
            )  # fmt: skip
        assert relative_error(out, expected) <= 1e-12
        for layer in state.layers:
            assert layer.cross_attention.held[0].shape[0] == 2, "one row a source"


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [1, 0, 2, 3], [1, 1, 3, 3], [2, 3, 1, 0], [3, 3, 2, 3]])
@pytest.mark.parametrize("capacity", [0, 20])
def test_reordered_rows_continue_what_they_now_are(decoders, name, rows, capacity):
    stack, memory, ids = decoders[name], memory_of(2), some_ids(4, 6)
    rows = torch.tensor(rows)
    state = DecodingState(2, capacity=capacity, rows_per_source=2)
    with torch.no_grad():
        steps(stack, ids, [2, 1], state, memory=memory)
        state.reorder(rows)
        moved = torch.cat([ids[rows, :3], ids[:, 3:]], dim=1)
        out = steps(stack, moved, [1, 2], state, memory=memory)
        sources = (rows // 2)[::2].repeat_interleave(2)
        full = stack.run(moved, memory=memory[sources]).last
    assert relative_error(out, full[:, 3:]) <= 1e-12


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("length", [0, 1, 3, 5])
@pytest.mark.parametrize("capacity", [0, 20])
def test_a_cropped_state_continues_from_there(decoders, name, length, capacity):
    stack, memory, ids = decoders[name], memory_of(2), some_ids(2, 5)
    state = DecodingState(2, capacity=capacity)
    with torch.no_grad():
        steps(stack, ids, [2, 3], state, memory=memory)
        state.crop(length)
        other = torch.cat([ids[:, :length], some_ids(2, 3, seed=7)], dim=1)
        out = steps(stack, other, [1, 2], state, memory=memory)
        full = stack.run(other, memory=memory).last
    assert relative_error(out, full[:, length:]) <= 1e-12


def test_prompts_are_computed_once_for_all_steps():
    stack = post_norm_stack(causal=True, crosses=True, prompt=3)
    calls = []
    for prompt in (stack.self_prompt, stack.cross_prompt):
        prompt.register_forward_hook(lambda *_: calls.append(1))
    state = DecodingState(2)
    steps(stack, some_ids(2, 6), [1, 2, 1, 2], state, memory=memory_of(2))
    assert len(calls) == 2


@pytest.mark.parametrize("name", DECODERS)
def test_steps_learn_as_the_full_pass_does(decoders, name):
    """Gradients of every parameter, and of the memory, through the decoding state."""
    stack, ids = decoders[name], some_ids(2, 5)

    def gradients(run):
        memory = memory_of(2).requires_grad_()
        stack.zero_grad()
        run(memory).sin().sum().backward()
        return {name: p.grad.clone() for name, p in stack.named_parameters()} | {"memory": memory.grad}

    full = gradients(lambda memory: stack.run(ids, memory=memory).last)
    for capacity in (0, 20):
        state = DecodingState(2, capacity=capacity)
        stepped = gradients(lambda memory, state=state: steps(stack, ids, [2, 1, 1, 1], state, memory=memory))
        assert set(stepped) == set(full)
        largest = max(float(g.abs().max()) for g in full.values())
        for part, gradient in full.items():
            # Some are zero but for rounding, such as a key bias's, which moves all scores of a row alike.
            floor = max(float(gradient.abs().max()), 1e-4 * largest)
            assert float((stepped[part] - gradient).abs().max()) <= 1e-11 * floor, part
    stack.zero_grad()


@pytest.mark.parametrize("name", DECODERS)
def test_two_threads_decode_with_one_model(decoders, name):
    stack = decoders[name]
    texts = [some_ids(2, 12, seed=seed) for seed in (1, 2)]
    memories = [memory_of(2), -memory_of(2)]

    def decode(number):
        with torch.no_grad():
            state = DecodingState(2, capacity=12)
            return steps(stack, texts[number], [1] * 12, state, memory=memories[number])

    expected = [decode(0), decode(1)]
    together, found, problems = threading.Barrier(2), [[], []], []

    def work(number):
        try:
            for _ in range(5):
                together.wait(timeout=20)
                found[number].append(decode(number))
        except Exception as problem:  # a thread's error must fail the test, not vanish with the thread
            problems.append(problem)

    threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not problems
    for number in (0, 1):
        assert len(found[number]) == 5
        assert all(torch.equal(one, expected[number]) for one in found[number])


# ---- refusals ----


def test_memory_rows_must_divide_the_rows(decoders):
    stack = decoders["pre-norm"]
    for rows, sources in ((3, 2), (2, 4), (2, 0)):
        with pytest.raises(ValueError, match=f"memory has {sources} rows; it must have {rows}, or a divisor"):
            stack.run(some_ids(rows, 3), memory=memory_of(sources))


@pytest.mark.parametrize("value", [0, 1])
def test_masks_of_a_wrong_shape(decoders, value):
    stack = decoders["pre-norm"]
    ids, memory = some_ids(2, 3), memory_of(2)
    with pytest.raises(ValueError, match=r"attention_mask has shape \[2, 4\]; .* all 3 positions"):
        stack.run(ids, memory=memory, attention_mask=torch.full((2, 4), value))
    with pytest.raises(ValueError, match=r"what is attended to has shape \[2, 4\]; .* all 5 positions"):
        stack.run(ids, memory=memory, memory_attention_mask=torch.full((2, 4), value))
    state = DecodingState(2)
    stack.run(ids, memory=memory, state=state)
    with pytest.raises(ValueError, match=r"attention_mask has shape \[2, 1\]; .* all 4 positions"):
        stack.run(ids[:, :1], memory=memory, state=state, attention_mask=torch.full((2, 1), value))
    assert state.length == 3, "refused before any work"


def test_a_state_of_another_depth(decoders):
    with pytest.raises(ValueError, match="the decoding state is of 3 layers; it must be of 2"):
        decoders["pre-norm"].run(some_ids(1, 2), memory=memory_of(1), state=DecodingState(3))


def test_positions_that_were_not_learnt():
    stack = post_norm_stack(causal=True)
    state = DecodingState(2)
    with torch.no_grad():
        stack.run(some_ids(1, 39), state=state)
        stack.run(some_ids(1, 1), state=state)
        with pytest.raises(ValueError, match="reaches position 41; the model has learnt positions for 40"):
            stack.run(some_ids(1, 1), state=state)


# ---- training ----


def test_layer_drop_passes_over_layers_in_training_alone():
    stack = post_norm_stack(causal=False, layers=4, layer_drop=0.5)
    ids = some_ids(2, 4)
    whole = stack.run(ids).last
    stack.train()
    torch.manual_seed(4)
    kept = [layer for layer in stack.layers if float(torch.rand([])) >= 0.5]
    assert 0 < len(kept) < 4
    torch.manual_seed(4)
    out = stack.run(ids).last
    x = stack.embedding(ids)
    for layer in kept:
        x = layer(x).x
    assert relative_error(out, x) <= 1e-12
    assert relative_error(out, whole) > 1e-3


def test_dropout_comes_last_and_in_training_alone():
    stack = pre_norm_stack(causal=False)
    stack.dropout.p = 0.5
    ids = some_ids(2, 4)
    calm = stack.run(ids, need_hidden=True)
    stack.train()
    torch.manual_seed(8)
    out = stack.run(ids, need_hidden=True)
    torch.manual_seed(8)
    assert relative_error(out.last, nn.functional.dropout(calm.last, 0.5)) <= 1e-12
    assert torch.equal(out.hidden[-1], out.last)


# ---- half precision ----


def large(stack):
    """Blocks whose sum outgrows float16 after a few layers, while each stays within it."""
    with torch.no_grad():
        for layer in stack.layers:
            layer.feed_forward.down.weight.fill_(4500.0)
            layer.feed_forward_norm.weight.abs_().add_(1.0)
            layer.feed_forward.gate.weight.abs_().add_(0.5)
            layer.feed_forward.up.weight.copy_(layer.feed_forward.gate.weight)
        stack.final_norm.weight.fill_(1.0)
        stack.embedding.tokens.weight.abs_().add_(0.5)
    return stack


def test_a_wide_residual_outlives_float16():
    """Tolerance: norms, projections and weights are rounded to float16, 2⁻¹¹ each, over four layers."""
    ids = some_ids(2, 5) % VOCABULARY
    stack = large(pre_norm_stack(causal=True, layers=4, wide_residual=True)).half()
    in_float32 = pre_norm_stack(causal=True, layers=4).float()
    in_float32.load_state_dict(stack.state_dict())
    expected = in_float32.run(ids, need_hidden=True)
    assert expected.hidden[-2].abs().max() > 65504
    out = stack.run(ids, need_hidden=True)
    assert all(h.dtype == torch.float32 for h in out.hidden[:-1])
    assert all(h.isfinite().all() for h in out.hidden)
    assert relative_error(out.last.float(), expected.last) <= 2**-7


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_steps_run_and_stay_near(name, dtype):
    """Tolerance: eight units in the last place, over two layers."""
    stack, ids, memory = DECODERS[name](), some_ids(2, 5), memory_of(2)
    expected = stack.run(ids, memory=memory).last
    stack = stack.to(dtype)
    with torch.no_grad():
        out = steps(stack, ids, [2, 1, 2], DecodingState(2, capacity=5), memory=memory.to(dtype))
    assert out.isfinite().all()
    assert relative_error(out.double(), expected) <= 8 * torch.finfo(dtype).eps
