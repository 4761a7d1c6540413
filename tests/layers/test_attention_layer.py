"""Attention against loops over numbers, the fused path against the readable one, the oracle's two classes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import MT5Config
from transformers.models.mt5.modeling_mt5 import MT5Attention
from transformers.models.mvp.modeling_mvp import MvpAttention

from seq2seq_zoo.layers.attention import Attention, attend, attend_readably
from seq2seq_zoo.layers.masks import may_attend, padding_mask
from seq2seq_zoo.layers.prefix import Prefix
from seq2seq_zoo.layers.state import SourceKeyValues
from tests.layers.formulas import attention_by_loops, whole_attention
from tests.oracle import float64, needs_4, randomise, relative_error

few = settings(max_examples=25, deadline=None)


def make(width=6, heads=2, head_dim=3, seed=0, **options):
    module = Attention(width, heads, head_dim, **options).eval()
    randomise(module, seed)
    return module


def masks(rows, queries, keys):
    """The kinds of mask and bias that attention is given, by name."""
    padding = torch.ones(rows, keys, dtype=torch.bool)
    padding[0, 0] = padding[-1, -1] = False
    own = torch.rand(rows, 1, queries, keys) < 0.6
    own[..., 0] = True
    return {
        "none": (None, None),
        "padding": (padding[:, None, None, :], None),
        "of one's own": (own, None),
        "bias": (None, torch.randn(1, 4, queries, keys)),
        "mask and bias": (own, torch.randn(1, 4, queries, keys)),
        "bias a row": (None, torch.randn(rows, 4, queries, keys)),
    }


KINDS = ("none", "padding", "of one's own", "bias", "mask and bias", "bias a row")


@few
@given(
    st.integers(1, 2), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.data()
)
def test_readable_path_is_the_formula(rows, heads, queries, keys, size, data):
    torch.set_default_dtype(torch.float64)  # hypothesis runs examples after the fixture, in one test
    torch.manual_seed(data.draw(st.integers(0, 999)))
    query = torch.randn(rows, heads, queries, size)
    key, value = torch.randn(rows, heads, keys, size), torch.randn(rows, heads, keys, size)
    mask = torch.rand(rows, 1, queries, keys) < 0.7
    mask[..., data.draw(st.integers(0, keys - 1))] = True
    bias = torch.randn(1, heads, queries, keys) if data.draw(st.booleans()) else None
    scale = data.draw(st.sampled_from([1.0, size**-0.5]))
    mixed, weights = attend_readably(query, key, value, scale=scale, mask=mask, bias=bias)
    expected, expected_weights = attention_by_loops(query, key, value, scale, mask, bias)
    assert relative_error(mixed, expected) <= 1e-12
    assert relative_error(weights, expected_weights) <= 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_both_paths_agree_in_values_and_gradients(kind):
    mask, bias = masks(2, 5, 7)[kind]
    leaves = [torch.randn(2, 4, 5, 3), torch.randn(2, 4, 7, 3), torch.randn(2, 4, 7, 3)]
    if bias is not None:
        leaves.append(bias)
    direction = torch.randn(2, 4, 5, 3)

    def run(function):
        for leaf in leaves:
            leaf.requires_grad_().grad = None
        out = function(*leaves[:3], scale=0.4, mask=mask, bias=bias)
        out = out[0] if isinstance(out, tuple) else out
        (out * direction).sum().backward()
        return [out.detach(), *(leaf.grad.clone() for leaf in leaves)]

    for fused, readable in zip(run(attend), run(attend_readably), strict=True):
        assert relative_error(fused, readable) <= 1e-12


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2**-6), (torch.float16, 2**-9)])
def test_both_paths_agree_in_half_precision(kind, dtype, tolerance):
    """To two units in the last place of the largest result; and each is as near to float64 as that."""
    mask, bias = masks(2, 5, 7)[kind]
    wide = [torch.randn(2, 4, 5, 8), torch.randn(2, 4, 7, 8), torch.randn(2, 4, 7, 8)]
    half = [x.to(dtype) for x in wide]
    bias = None if bias is None else bias.to(dtype)
    exact, _ = attend_readably(
        *(x.double() for x in half), scale=0.3, mask=mask, bias=None if bias is None else bias.double()
    )
    fused = attend(*half, scale=0.3, mask=mask, bias=bias)
    readable, weights = attend_readably(*half, scale=0.3, mask=mask, bias=bias)
    assert fused.dtype == readable.dtype == weights.dtype == dtype
    assert relative_error(fused.double(), readable.double()) <= tolerance
    assert relative_error(fused.double(), exact) <= tolerance
    assert relative_error(readable.double(), exact) <= tolerance


GEOMETRIES = {
    "square": {"width": 6, "heads": 2, "head_dim": 3},
    "heads that do not divide the width": {"width": 5, "heads": 3, "head_dim": 2},
    "grouped heads": {"width": 6, "heads": 4, "head_dim": 2, "key_value_heads": 2},
    "one key-value head": {"width": 6, "heads": 4, "head_dim": 3, "key_value_heads": 1},
    "unscaled, no biases": {"width": 6, "heads": 2, "head_dim": 4, "scale": 1.0, "bias": False},
    "output without bias": {"width": 6, "heads": 2, "head_dim": 3, "output_bias": False},
    "output alone with bias": {"width": 6, "heads": 2, "head_dim": 3, "bias": False, "output_bias": True},
}


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("kind", ["none", "padding", "of one's own"])
@pytest.mark.parametrize("need_weights", [False, True])
def test_module_is_the_formula(geometry, kind, need_weights):
    module = make(**GEOMETRIES[geometry])
    x = torch.randn(2, 4, GEOMETRIES[geometry]["width"])
    mask, _ = masks(2, 4, 4)[kind]
    expected, expected_weights = whole_attention(module, x, mask=mask)
    y, weights = module(x, mask=mask, need_weights=need_weights)
    assert relative_error(y, expected) <= 1e-12
    assert (weights is not None) == need_weights
    if weights is not None:
        assert relative_error(weights, expected_weights) <= 1e-12


@pytest.mark.parametrize("need_weights", [False, True])
def test_cross_attention_to_a_memory_of_another_width(need_weights):
    module = make(width=6, heads=2, head_dim=3, memory_width=5)
    x, memory = torch.randn(2, 3, 6), torch.randn(2, 4, 5)
    y, _ = module(x, memory, need_weights=need_weights)
    assert relative_error(y, whole_attention(module, x, memory)[0]) <= 1e-12


@pytest.mark.parametrize("need_weights", [False, True])
def test_bias_is_added_to_the_scores(need_weights):
    module = make(heads=4, head_dim=2)
    x, bias = torch.randn(2, 4, 6), torch.randn(1, 4, 4, 4)
    y, _ = module(x, bias=bias, need_weights=need_weights)
    assert relative_error(y, whole_attention(module, x, bias=bias)[0]) <= 1e-12


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_prefix_stands_before_the_keys_and_is_always_seen(need_weights, padded):
    module = make()
    x = torch.randn(2, 4, 6)
    prefix = Prefix(torch.randn(2, 3, 3), torch.randn(2, 3, 3))
    padding = torch.tensor([[0, 1, 1, 1], [1, 1, 0, 0]]) if padded else None
    mask = may_attend(padding_mask(padding), queries=4, keys=4, prefix=3)
    y, weights = module(x, mask=mask, prefix=prefix, need_weights=need_weights)
    expected, expected_weights = whole_attention(module, x, mask=mask, prefix=prefix)
    assert relative_error(y, expected) <= 1e-12
    if weights is not None:
        assert list(weights.shape) == [2, 2, 4, 7]
        assert relative_error(weights, expected_weights) <= 1e-12
        assert (weights[..., :3] > 0).all()


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("kind", ["none", "padding", "of one's own", "bias", "mask and bias", "bias a row"])
@pytest.mark.parametrize("grouped", [False, True])
def test_rows_that_share_a_memory_row_equal_a_repeated_memory(need_weights, held, kind, grouped):
    """`held`: the memory comes from decoding state, filled by an earlier pass."""
    module = make(heads=4, head_dim=2, key_value_heads=2 if grouped else None)
    beams, sources = 3, 2
    x, memory = torch.randn(sources * beams, 5, 6), torch.randn(sources, 7, 6)
    mask, bias = masks(sources, 5, 7)[kind]
    state = None
    if held:
        state = SourceKeyValues()
        module(x[:sources], memory, state=state)

    def repeated(tensor):
        if tensor is None or tensor.shape[0] == 1:
            return tensor
        return tensor.repeat_interleave(beams, dim=0)

    y, weights = module(x, memory, mask=mask, bias=bias, state=state, need_weights=need_weights)
    expected, expected_weights = module(
        x, repeated(memory), mask=repeated(mask), bias=repeated(bias), need_weights=need_weights
    )
    assert relative_error(y, expected) <= 1e-12
    if weights is not None:
        assert relative_error(weights, expected_weights) <= 1e-12


def test_dropout_acts_on_weights_in_training_alone():
    module = make(dropout=0.5)
    x = torch.randn(2, 4, 6)
    calm, weights = module(x, need_weights=True)
    module.train()
    torch.manual_seed(3)
    y, still = module(x, need_weights=True)
    torch.manual_seed(3)
    dropped = torch.nn.functional.dropout(weights, 0.5)
    value = module.value(x).view(2, 4, 2, 3).transpose(1, 2)
    expected = module.output((dropped @ value).transpose(1, 2).flatten(2))
    assert torch.equal(still, weights), "the weights returned are those before dropout"
    assert relative_error(y, expected) <= 1e-12
    assert relative_error(y, calm) > 0.1


def test_fused_dropout_keeps_the_mean():
    module = make(dropout=0.3)
    x = torch.randn(1, 4, 6)
    calm, _ = module(x)
    module.train()
    with torch.no_grad():
        runs = torch.stack([module(x)[0] for _ in range(4000)])
    error = (runs.mean(0) - calm) / (runs.std(0) / 4000**0.5)
    assert runs.std() > 0.01
    assert error.abs().max() < 5, "the mean lies within five standard errors"


def test_key_value_heads_must_divide_heads():
    with pytest.raises(ValueError, match=r"key_value_heads is 3; it must divide the number of heads, 4"):
        Attention(8, 4, 2, key_value_heads=3)


# ---- the oracle ----


def of_oracle(ours, theirs, names):
    """Give our attention the oracle's weights."""
    with torch.no_grad():
        for mine, other in zip(("query", "key", "value", "output"), names, strict=True):
            getattr(ours, mine).load_state_dict(getattr(theirs, other).state_dict())
    return ours.eval()


def additive(mask):
    return torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float64).min)


@pytest.mark.parametrize("crosses", [False, True])
@pytest.mark.parametrize("prompted", [False, True])
@pytest.mark.parametrize("need_weights", [False, True])
def test_mvp_attention(crosses, prompted, need_weights):
    theirs = MvpAttention(12, 3).eval()
    randomise(theirs)
    ours = of_oracle(Attention(12, 3, 4), theirs, ("q_proj", "k_proj", "v_proj", "out_proj"))
    x = torch.randn(2, 5, 12)
    memory = torch.randn(2, 7, 12) if crosses else None
    keys = 7 if crosses else 5
    mask = masks(2, 5, keys)["of one's own"][0]
    prompt = torch.randn(2, 3, 4, 4) if prompted else None
    expected, expected_weights = theirs(
        x,
        key_value_states=memory,
        attention_mask=additive(mask),
        attn_prompt=prompt,
        output_attentions=need_weights,
    )
    prefix = None if prompt is None else Prefix(prompt[0], prompt[1])
    if prompted:
        mask = torch.cat([torch.ones(2, 1, 5, 4, dtype=torch.bool), mask], dim=-1)
    y, weights = ours(x, memory, mask=mask, prefix=prefix, need_weights=need_weights)
    assert relative_error(y, expected) <= 1e-12
    if need_weights:
        assert relative_error(weights, expected_weights) <= 1e-12


@needs_4
@pytest.mark.parametrize("crosses", [False, True])
@pytest.mark.parametrize("need_weights", [False, True])
def test_mt5_attention(crosses, need_weights):
    """The oracle takes its softmax in float32, lifted here by `oracle.float64`."""
    config = MT5Config(d_model=10, num_heads=3, d_kv=4, dropout_rate=0.0)
    theirs = MT5Attention(config, layer_idx=0).eval()
    randomise(theirs)
    ours = of_oracle(Attention(10, 3, 4, scale=1.0, bias=False), theirs, ("q", "k", "v", "o"))
    x = torch.randn(2, 5, 10)
    memory = torch.randn(2, 7, 10) if crosses else None
    keys = 7 if crosses else 5
    mask, bias = masks(2, 5, keys)["of one's own"][0], torch.randn(1, 3, 5, keys)
    with float64():
        expected, _, expected_weights = theirs(
            x,
            key_value_states=memory,
            position_bias=bias + additive(mask),
            output_attentions=True,
        )
    y, weights = ours(x, memory, mask=mask, bias=bias, need_weights=need_weights)
    assert relative_error(y, expected) <= 1e-12
    if need_weights:
        assert relative_error(weights, expected_weights) <= 1e-12
