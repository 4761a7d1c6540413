"""Sparse-mixer routing: its choice, its draws, its gradient; and the load-balancing loss."""

import math

import pytest
import torch
from torch import Tensor, nn
from transformers.models.phimoe import modeling_phimoe

from seq2seq_zoo.layers.router import THIRD, SparseMixer, load_balancing_loss
from tests.oracle import randomise, relative_error


def mixer(scores: Tensor, jitter: float, *, training: bool = False) -> SparseMixer:
    """A router that scores a token by the token itself: x = z."""
    made = SparseMixer(scores.shape[1], scores.shape[1], jitter=jitter).train(training)
    with torch.no_grad():
        made.scores.weight.copy_(torch.eye(scores.shape[1]))
    return made.to(scores.dtype)


def near(scores: list[float], taken: set[int], jitter: float) -> dict[int, float]:
    """The experts that may be chosen, and their weights, number by number."""
    left = {i: z for i, z in enumerate(scores) if i not in taken}
    best = max(left.values())
    kept = {i: z for i, z in left.items() if best - z <= 2 * jitter * max(abs(z), best)}
    total = sum(math.exp(z) for z in kept.values())
    return {i: math.exp(z) / total for i, z in kept.items()}


# ---- inference ----


@pytest.mark.parametrize("jitter", [0.0, 0.01, 0.3, 2.0])
def test_inference_is_the_formula(jitter):
    x = torch.randn(20, 4)
    router = SparseMixer(4, 5, jitter=jitter).eval()
    randomise(router)
    with torch.no_grad():
        routing = router(x)
    assert relative_error(routing.scores, torch.einsum("td,nd->tn", x, router.scores.weight)) <= 1e-12
    for t, scores in enumerate(routing.scores.tolist()):
        taken: set[int] = set()
        for k in range(2):
            weights = near(scores, taken, jitter)
            expert = max(weights, key=lambda i: scores[i])
            assert int(routing.chosen[t, k]) == expert
            assert float(routing.weights[t, k]) == pytest.approx(weights[expert], rel=1e-12)
            taken.add(expert)


def test_a_clear_winner_is_used_whole_and_near_scores_share():
    """With the published jitter of 0.01: 1.00 and 0.99 are near, 0.5 is not."""
    z = torch.tensor([[1.0, 0.5, 0.2, 0.1], [1.0, 0.99, 0.2, 0.1]])
    routing = mixer(z, 0.01).eval()(z)
    assert routing.chosen.tolist() == [[0, 1], [0, 1]]
    assert routing.weights[0].tolist() == [1.0, 1.0]
    assert routing.weights[1].tolist() == pytest.approx([1 / (1 + math.exp(-0.01)), 1.0])


@pytest.mark.parametrize("value", [0.0, 2.0, -2.0])
def test_equal_scores_share_equally(value):
    """Also where all are 0, and near means 0 / 0."""
    z = torch.full((1, 4), value)
    routing = mixer(z, 0.01)(z)
    assert len(set(routing.chosen[0].tolist())) == 2
    assert routing.weights[0].tolist() == pytest.approx([1 / 4, 1 / 3])


def test_one_expert_is_not_enough():
    with pytest.raises(ValueError, match="experts is 1; a token needs 2"):
        SparseMixer(4, 1)


# ---- against the oracle ----


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("jitter", [0.01, 0.3, 2.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_routing_equals_the_oracles(training, jitter, dtype):
    """The same seed: the same experts and weights to the bit, the same gradient, and as many random numbers
    drawn. Tolerance: the gradient is summed in another order."""
    z = torch.randn(200, 6).to(dtype)
    ours, theirs = z.clone().requires_grad_(), z.clone().requires_grad_()
    torch.manual_seed(7)
    expected_weights, expected_chosen = modeling_phimoe.sparsemixer(theirs, jitter, training)
    expected_state = torch.get_rng_state()
    router = mixer(z, jitter, training=training)
    torch.manual_seed(7)
    routing = router(ours)
    assert torch.equal(torch.get_rng_state(), expected_state)
    assert torch.equal(routing.chosen, expected_chosen)
    assert torch.equal(routing.weights, expected_weights)

    sought = torch.randn_like(expected_weights)
    (expected_weights * sought).sum().backward()
    (routing.weights * sought).sum().backward()
    assert relative_error(ours.grad, theirs.grad) <= 8 * torch.finfo(dtype).eps
    assert theirs.grad.abs().max() > 0.01


# ---- training, without an oracle ----

SCORES = [0.9, 0.5, -0.2, -1.4]
JITTER = 0.8


def many(count: int) -> tuple[Tensor, nn.Module]:
    """The same token very often, and a router in training that finds the last expert too far away."""
    z = torch.tensor([SCORES] * count)
    return z.requires_grad_(), mixer(z, JITTER, training=True)


def test_experts_are_drawn_by_their_weights():
    """The first, and the second given the first; the best is used whole, others a third in 3 of 4 cases.

    Tolerance: five standard deviations of a frequency.
    """
    z, router = many(100_000)
    routing = router(z)
    first = near(SCORES, set(), JITTER)
    assert set(first) == {0, 1, 2}
    for i, chance in first.items():
        rows = routing.chosen[:, 0] == i
        assert abs(float(rows.double().mean()) - chance) < 5 * math.sqrt(chance * (1 - chance) / 100_000)
        second = near(SCORES, {i}, JITTER)
        assert set(routing.chosen[rows, 1].tolist()) == set(second)
        for j, weight in second.items():
            chosen = rows & (routing.chosen[:, 1] == j)
            of_rows = float(chosen.sum() / rows.sum())
            assert abs(of_rows - weight) < 5 * math.sqrt(weight * (1 - weight) / int(rows.sum()))
            parts = routing.weights[chosen, 1] / weight
            if weight == max(second.values()):
                assert torch.allclose(parts, torch.ones(()))
            else:
                whole = parts > 0.5
                assert torch.allclose(parts, torch.where(whole, 1.0, THIRD))
                assert abs(float(whole.double().mean()) - 0.25) < 5 * math.sqrt(0.1875 / len(parts))


def test_the_gradient_is_the_papers_formula():
    """∇ = f'(m π_D E_D) · E_D · ∂π_D/∂z, with ∂π_D/∂z_j = π_D (1{j = D} - π_j), for each of the two."""
    z, router = many(50)
    routing = router(z)
    slopes = torch.randn(50, 2)  # f'(m π_D E_D) · E_D, whatever it is
    (routing.weights * slopes).sum().backward()
    for t in range(50):
        expected, taken = [0.0] * 4, set()
        for k in range(2):
            weights = near(SCORES, taken, JITTER)
            drawn = int(routing.chosen[t, k])
            for j in weights:
                expected[j] += float(slopes[t, k]) * weights[drawn] * ((j == drawn) - weights[j])
            taken.add(drawn)
        assert z.grad[t].tolist() == pytest.approx(expected, abs=1e-14)


LOSSES = {
    "linear": lambda y: 1.3 * y,
    "cubic": lambda y: 0.8 * y - 1.1 * y**2 + 0.7 * y**3,
}


@pytest.mark.parametrize("kind", LOSSES)
def test_on_average_the_gradient_is_that_of_the_expected_loss(kind):
    """E ∇ = ∂/∂z Σ_i π_i (f(π_i E_i) - f(0)), the values held fixed: exact for a cubic loss, except the best
    expert's part, which is f'(π E) · π E as if f were linear.

    Tolerance: five standard errors. The far expert's value is large, so that using it would show.
    """
    f = LOSSES[kind]
    values = torch.tensor([1.0, -3.0, 5.0, 100.0])
    z, router = many(200_000)
    routing = router(z)
    f(routing.weights[:, 0] * values[routing.chosen[:, 0]]).sum().backward()
    mean = z.grad.mean(0)
    error = z.grad.std(0) / math.sqrt(200_000)

    def truth(*, best_is_exact: bool) -> Tensor:
        free = torch.tensor(SCORES, requires_grad=True)
        weights = free[:3].softmax(0)
        y = (weights.detach() * values[:3]).requires_grad_()
        (slope,) = torch.autograd.grad(f(y).sum(), y)
        gains = (f(y) - f(torch.zeros(()))).detach()
        if not best_is_exact:
            gains[0] = (slope * y)[0]
        (weights * gains).sum().backward()
        return free.grad

    assert (mean - truth(best_is_exact=kind == "linear")).abs().max() < 5 * error.max()
    # What it would be if every output were whole: the usual way, f'(π E) · π E for all experts.
    if kind == "cubic":
        usual = torch.tensor(SCORES, requires_grad=True)
        weights = usual[:3].softmax(0)
        y = (weights.detach() * values[:3]).requires_grad_()
        (slope,) = torch.autograd.grad(f(y).sum(), y)
        (weights * (slope * y).detach()).sum().backward()
        assert (mean - usual.grad).abs().max() > 50 * error.max(), "the test can tell them apart"


# ---- the load-balancing loss ----


def loss_by_loops(layers: list[Tensor], top_k: int, real: list[bool]) -> float:
    experts = layers[0].shape[1]
    used, probability, tokens = [0.0] * experts, [0.0] * experts, 0
    for layer in layers:
        for t, scores in enumerate(layer.tolist()):
            if real[t]:
                total = sum(math.exp(z) for z in scores)
                tokens += 1
                for i in sorted(range(experts), key=lambda i: -scores[i])[:top_k]:
                    used[i] += 1
                for i in range(experts):
                    probability[i] += math.exp(scores[i]) / total
    return experts * sum(f / tokens * p / tokens for f, p in zip(used, probability, strict=True))


MASK = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0], [1, 1, 1, 0]])


@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "masked"])
@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_load_balancing_is_the_formula_and_the_oracles(mask, top_k):
    """To 1e-12 against the formula. The oracle counts in float32: to 1e-6 against it, and its gradient."""
    layers = [torch.randn(12, 5, requires_grad=True) for _ in range(2)]
    loss = load_balancing_loss(layers, top_k=top_k, attention_mask=mask)
    real = [True] * 12 if mask is None else mask.flatten().bool().tolist()
    assert loss.item() == pytest.approx(loss_by_loops(layers, top_k, real), rel=1e-12)

    theirs = modeling_phimoe.load_balancing_loss_func(tuple(layers), 5, top_k, mask)
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-6)
    for mine, other in zip(
        torch.autograd.grad(loss, layers), torch.autograd.grad(theirs, layers), strict=True
    ):
        assert relative_error(mine, other) <= 1e-6


def test_load_balancing_is_least_where_all_experts_are_used_alike():
    even = torch.eye(6)  # token i prefers expert i
    assert float(load_balancing_loss([even], top_k=1)) == pytest.approx(1.0)
    assert float(load_balancing_loss([even, even], top_k=1)) == pytest.approx(1.0)
    one_for_all = torch.zeros(6, 6)
    one_for_all[:, 2] = 50.0
    assert float(load_balancing_loss([one_for_all], top_k=1)) == pytest.approx(6.0)


def test_load_balancing_of_a_step_looks_at_its_own_tokens():
    """A mask of past and new columns, and the scores of the two new ones."""
    scores = torch.randn(6, 5)
    newest = load_balancing_loss([scores], attention_mask=MASK[:, 2:])
    assert torch.equal(load_balancing_loss([scores], attention_mask=MASK), newest)


def test_load_balancing_without_real_tokens_is_nothing():
    assert float(load_balancing_loss([torch.randn(4, 5)], attention_mask=torch.zeros(2, 2))) == 0.0


@pytest.mark.parametrize("shape", [(5, 2), (2, 3)])
def test_a_mask_of_other_tokens_is_refused(shape):
    with pytest.raises(ValueError, match=r"attention_mask has shape .* does not fit 12 tokens"):
        load_balancing_loss([torch.randn(12, 5)], attention_mask=torch.ones(shape))


def test_load_balancing_in_half_precision_counts_in_float32():
    """300 tokens for one expert: bfloat16 cannot count beyond 256, and would be wrong by a tenth."""
    scores = torch.zeros(300, 2, dtype=torch.bfloat16)
    scores[:, 0] = 4.0
    loss = load_balancing_loss([scores], top_k=1)
    assert loss.dtype == torch.float32
    exact = 2 / (1 + math.exp(-4.0))  # N f_1 P_1 with f_1 = 1
    # Each of 300 additions may round by half of float32's eps, in whatever order this machine adds.
    assert float(loss) == pytest.approx(exact, rel=300 * torch.finfo(torch.float32).eps)
