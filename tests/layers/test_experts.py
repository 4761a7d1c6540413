"""The mixture of experts: sorted groups against a loop over tokens, against the oracle's block, and in a
stack."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PhimoeConfig
from transformers.models.phimoe.modeling_phimoe import PhimoeSparseMoeBlock

from seq2seq_zoo.layers.activations import ACTIVATIONS
from seq2seq_zoo.layers.attention import Attention
from seq2seq_zoo.layers.embedding import InputEmbedding
from seq2seq_zoo.layers.experts import Experts, MixtureOfExperts
from seq2seq_zoo.layers.norms import LayerNorm
from seq2seq_zoo.layers.router import SparseMixer
from seq2seq_zoo.layers.transformer import Stack, TransformerLayer
from tests.layers.formulas import pre_norm_stack, some_ids
from tests.oracle import MAJOR, needs_4, needs_5, randomise, relative_error

D, F, N, JITTER = 6, 10, 5, 0.6
silu = ACTIVATIONS["silu"]


def experts() -> Experts:
    made = Experts(D, F, N, silu)
    randomise(made, scale=0.7)
    return made


def mixture(*, input_jitter: float = 0.0) -> MixtureOfExperts:
    made = MixtureOfExperts(SparseMixer(D, N, jitter=JITTER), experts(), input_jitter=input_jitter)
    randomise(made.router, seed=1)
    return made


def some_choices(tokens: int, *, among: int = N) -> tuple[Tensor, Tensor]:
    """Two different experts for each token, and weights."""
    chosen = torch.stack([torch.randperm(among)[:2] for _ in range(tokens)]).view(tokens, 2)
    return chosen, torch.rand(tokens, 2)


def by_loops(module: Experts, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """Token by token and choice by choice."""
    rows = []
    for t in range(x.shape[0]):
        y = torch.zeros(x.shape[1], dtype=x.dtype)
        for k, e in enumerate(chosen[t].tolist()):
            gate = torch.einsum("d,fd->f", x[t], module.gate.weight[e])
            up = torch.einsum("d,fd->f", x[t], module.up.weight[e])
            hidden = gate / (1 + torch.exp(-gate)) * up
            y = y + weights[t, k] * torch.einsum("f,df->d", hidden, module.down.weight[e])
        rows.append(y)
    return torch.stack(rows)


# ---- the experts ----


@pytest.mark.parametrize("tokens", [1, 2, 7, 60])
def test_experts_are_the_formula(tokens):
    """Outputs, and the gradients of everything."""
    module = experts()
    x, (chosen, weights) = torch.randn(tokens, D, requires_grad=True), some_choices(tokens)
    weights.requires_grad_()
    y, expected = module(x, chosen, weights), by_loops(module, x, chosen, weights)
    assert relative_error(y, expected) <= 1e-12
    sought, inputs = torch.randn_like(y), [x, weights, *module.parameters()]
    mine = torch.autograd.grad((y * sought).sum(), inputs)
    other = torch.autograd.grad((expected * sought).sum(), inputs)
    for a, b in zip(mine, other, strict=True):
        assert relative_error(a, b) <= 1e-12


@pytest.mark.parametrize("k", [1, 3])
def test_any_number_of_choices_will_do(k):
    module, x = experts(), torch.randn(9, D)
    chosen = torch.stack([torch.randperm(N)[:k] for _ in range(9)])
    weights = torch.rand(9, k)
    assert relative_error(module(x, chosen, weights), by_loops(module, x, chosen, weights)) <= 1e-12


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("tokens", [1, 8])
def test_what_nobody_chose_is_not_read(tokens, grad):
    """NaN in the other experts' matrices changes nothing, and they learn nothing."""
    module = experts()
    x, (chosen, weights) = torch.randn(tokens, D), some_choices(tokens, among=3)
    with torch.no_grad():
        expected = module(x, chosen, weights)
        for parameter in module.parameters():
            parameter[3:] = torch.nan
    with torch.set_grad_enabled(grad):
        y = module(x, chosen, weights)
    assert torch.equal(y, expected)
    if grad:
        y.sum().backward()
        used = sorted(set(chosen.flatten().tolist()))
        for parameter in module.parameters():
            for expert in range(N):
                assert bool(parameter.grad[expert].abs().sum() > 0) == (expert in used)


@pytest.mark.parametrize("tokens", [1, 2, 30])
def test_a_token_costs_two_experts(tokens):
    """Three products of 2 · D · F operations for each of its two experts, however many experts there are."""
    module = experts().eval()
    x, (chosen, weights) = torch.randn(tokens, D), some_choices(tokens)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(x, chosen, weights)
    assert counter.get_total_flops() == tokens * 2 * 3 * 2 * D * F


def test_a_token_has_no_neighbours():
    """A token's output is its own, whoever else is there and in whatever order."""
    module = experts()
    x, (chosen, weights) = torch.randn(12, D), some_choices(12)
    together = module(x, chosen, weights)
    order = torch.randperm(12)
    assert relative_error(module(x[order], chosen[order], weights[order]), together[order]) <= 1e-12
    for t in range(12):
        alone = module(x[t : t + 1], chosen[t : t + 1], weights[t : t + 1])
        assert relative_error(alone, together[t : t + 1]) <= 1e-12


@pytest.mark.parametrize("tokens", [1, 40])
def test_in_bfloat16(tokens):
    """Against float64. Tolerance: a few roundings of 2⁻⁸ each."""
    module = experts()
    x, (chosen, weights) = torch.randn(tokens, D), some_choices(tokens)
    expected = module(x, chosen, weights)
    y = module.bfloat16()(x.bfloat16(), chosen, weights.bfloat16())
    assert y.dtype == torch.bfloat16
    assert relative_error(y.double(), expected) <= 2**-5


@pytest.mark.parametrize("tokens", [1, 40])
@pytest.mark.parametrize("size", [1.0, 300.0])
def test_a_product_beyond_float16_stays_finite(tokens, size):
    """Hidden numbers of 300 · 300 and more are beyond float16; tokens with small ones keep their precision.

    Against float64. Tolerance: a few roundings of 2⁻¹¹ each, relative to the token's own size.
    """
    x, (chosen, weights) = torch.randn(tokens, D), some_choices(tokens)
    x[::2] *= size
    half, exact = experts().half(), experts()
    exact.load_state_dict(half.state_dict())
    x, weights = x.half(), weights.half()
    expected = exact(x.double(), chosen, weights.double())
    y = half(x, chosen, weights)
    assert y.dtype == torch.float32
    if size > 1:
        gate, up = (x.double() @ part.weight.transpose(1, 2) for part in (exact.gate, exact.up))
        assert (silu(gate) * up).abs().max() > 65_504, "in float16 throughout, the product overflows"
    for mine, other in zip(y.double(), expected, strict=True):
        assert relative_error(mine, other) <= 2**-7


# ---- the mixture ----


def oracle_block(*, input_jitter: float = 0.0) -> nn.Module:
    config = PhimoeConfig(
        hidden_size=D,
        intermediate_size=F,
        num_local_experts=N,
        num_experts_per_tok=2,
        router_jitter_noise=JITTER,
        input_jitter_noise=input_jitter,
    )
    config._experts_implementation = "eager"
    block = PhimoeSparseMoeBlock(config)
    randomise(block)
    return block


def stacks_of(block: nn.Module, *, gradients: bool = False) -> dict[str, Tensor]:
    """The oracle's weights, or their gradients, by our names; 5.x stacks them too, gate upon up."""

    def of(parameter: nn.Parameter) -> Tensor:
        if not gradients:
            return parameter.detach()
        return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad

    if MAJOR == 4:
        found = {"router.scores.weight": of(block.gate.weight)}
        for ours, theirs in (("gate", "w1"), ("up", "w3"), ("down", "w2")):
            matrices = [of(getattr(expert, theirs).weight) for expert in block.experts]
            found[f"experts.{ours}.weight"] = torch.stack(matrices)
        return found
    gate, up = of(block.experts.gate_up_proj).chunk(2, dim=1)
    down = of(block.experts.down_proj)
    return {
        "router.scores.weight": of(block.router.weight),
        "experts.gate.weight": gate,
        "experts.up.weight": up,
        "experts.down.weight": down,
    }


def assert_equals_the_oracles(block: nn.Module, ours: MixtureOfExperts, tokens: int) -> None:
    """Output, scores where the oracle gives them, every gradient, and as many random numbers drawn."""
    ours.load_state_dict(stacks_of(block))
    block.zero_grad()
    x = torch.randn(3, tokens, D)
    theirs_x, ours_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    torch.manual_seed(3)
    expected = block(theirs_x * 1.0)  # the oracle's jitter overwrites its input
    state = torch.get_rng_state()
    torch.manual_seed(3)
    mixed = ours(ours_x)
    assert torch.equal(torch.get_rng_state(), state)
    if MAJOR == 4:
        expected, scores = expected
        assert relative_error(mixed.router_scores, scores) <= 1e-12
    assert relative_error(mixed.x, expected) <= 1e-12
    sought = torch.randn_like(expected)
    (expected * sought).sum().backward()
    (mixed.x * sought).sum().backward()
    assert relative_error(ours_x.grad, theirs_x.grad) <= 1e-12
    gradients = stacks_of(block, gradients=True)
    for name, parameter in ours.named_parameters():
        assert relative_error(parameter.grad, gradients[name]) <= 1e-12, name


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("tokens", [1, 40])
def test_mixture_equals_the_oracles(training, tokens):
    block = oracle_block().train(training)
    assert_equals_the_oracles(block, mixture().train(training), tokens)


@needs_4
@pytest.mark.parametrize("tokens", [1, 40])
def test_input_jitter_equals_the_oracles(tokens):
    block = oracle_block(input_jitter=0.3).train()
    assert_equals_the_oracles(block, mixture(input_jitter=0.3).train(), tokens)
    block.eval()
    assert_equals_the_oracles(block, mixture(input_jitter=0.3).eval(), tokens)


@needs_5
def test_transformers_5_jitters_its_input_twice():
    """In the block and, in place, again in the router: what experts see of ones is not within 0.7 … 1.3."""
    block = oracle_block(input_jitter=0.3).train()
    seen: list[Tensor] = []
    block.experts.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach().clone()))
    block(torch.ones(3, 40, D))
    assert seen[0].max() > 1.35
    assert seen[0].min() < 0.65

    ours = mixture(input_jitter=0.3).train()
    given: list[Tensor] = []
    ours.experts.register_forward_pre_hook(lambda _, x: given.append(x[0].detach().clone()))
    ours(torch.ones(3, 40, D))
    assert 0.7 <= given[0].min() < 0.75
    assert 1.25 < given[0].max() <= 1.3


def test_input_jitter_leaves_the_input_alone():
    x = torch.randn(2, 3, D)
    before = x.clone()
    mixture(input_jitter=0.5).train()(x)
    assert torch.equal(x, before)


def test_the_mixture_is_router_then_experts():
    module = mixture().eval()
    x = torch.randn(2, 3, D)
    mixed = module(x)
    routing = module.router(x.flatten(0, 1))
    expected = by_loops(module.experts, x.flatten(0, 1), routing.chosen, routing.weights)
    assert relative_error(mixed.x, expected.view(2, 3, D)) <= 1e-12
    assert torch.equal(mixed.router_scores, routing.scores)


@pytest.mark.parametrize("training", [False, True])
def test_no_tokens(training):
    mixed = mixture(input_jitter=0.1).train(training)(torch.randn(2, 0, D))
    assert mixed.x.shape == (2, 0, D)
    assert mixed.router_scores.shape == (0, N)


# ---- in a stack ----


def stack_of_mixtures(layers: int = 2) -> Stack:
    made = Stack(
        InputEmbedding(nn.Embedding(13, D)),
        [
            TransformerLayer(Attention(D, 2, 3), mixture(), norm=lambda: LayerNorm(D), norm_first=True)
            for _ in range(layers)
        ],
        causal=True,
        final_norm=LayerNorm(D),
    )
    randomise(made)
    return made.eval()


def test_a_stack_collects_its_routers_scores():
    stack = stack_of_mixtures()
    ids = some_ids(2, 4)
    seen: list[Tensor] = []
    for layer in stack.layers:
        layer.feed_forward.register_forward_hook(lambda *call: seen.append(call[2].router_scores))
    out = stack.run(ids)
    assert len(out.router_scores) == 2
    for scores, expected in zip(out.router_scores, seen, strict=True):
        assert scores.shape == (8, N)
        assert torch.equal(scores, expected)


def test_a_stack_without_routers_has_no_scores():
    assert pre_norm_stack(causal=True).run(some_ids(2, 4)).router_scores is None


def test_steps_equal_the_full_pass():
    stack = stack_of_mixtures()
    ids = some_ids(3, 7)
    whole = stack.run(ids)
    state = stack.new_state(capacity=7)
    with torch.no_grad():
        parts = [stack.run(piece, state=state) for piece in ids.split([3, 1, 1, 2], dim=1)]
    assert relative_error(torch.cat([part.last for part in parts], dim=1), whole.last) <= 1e-12
