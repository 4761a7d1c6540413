"""Who may attend to whom, against the three rules read one by one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seq2seq_zoo.layers.attention import attend, attend_readably
from seq2seq_zoo.layers.masks import check_mask, may_attend, padding_mask
from tests.layers.formulas import STACKS, post_norm_stack, pre_norm_stack, some_ids
from tests.oracle import relative_error


def by_rules(padding, row, query, key, *, past, causal, prefix, keys):
    """Whether this query sees this key, key < 0 being a column of the prefix."""

    def real(j):
        return padding is None or bool(padding[row, j] if padding.dim() == 2 else padding[row, query, j])

    def allowed(j):
        return real(j) and (not causal or j <= past + query)

    if key < 0:
        return True
    if prefix == 0 and not any(allowed(j) for j in range(keys)):
        return key == past + query if causal else True
    return allowed(key)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_the_three_rules(data):
    rows, queries, past = (
        data.draw(st.integers(1, 2)),
        data.draw(st.integers(1, 4)),
        data.draw(st.integers(0, 3)),
    )
    causal, prefix = data.draw(st.booleans()), data.draw(st.integers(0, 2))
    keys = past + queries if causal else data.draw(st.integers(1, 5))
    kind = data.draw(st.sampled_from(["none", "keys", "queries", "queries, 4-D"]))
    padding = None
    if kind != "none":
        shape = (rows, keys) if kind == "keys" else (rows, queries, keys)
        bits = data.draw(
            st.lists(st.booleans(), min_size=rows * queries * keys, max_size=rows * queries * keys)
        )
        padding = torch.tensor(bits[: torch.Size(shape).numel()]).view(shape)
    given_mask = padding[:, None] if kind == "queries, 4-D" else padding
    mask = may_attend(given_mask, queries=queries, keys=keys, past=past, causal=causal, prefix=prefix)
    expected = torch.tensor(
        [
            [
                [
                    by_rules(padding, b, i, j, past=past, causal=causal, prefix=prefix, keys=keys)
                    for j in range(-prefix, keys)
                ]
                for i in range(queries)
            ]
            for b in range(rows)
        ]
    )[:, None]
    seen = torch.ones_like(expected) if mask is None else mask.expand(expected.shape)
    assert torch.equal(seen, expected)
    assert mask is None or mask.dtype == torch.bool


def test_the_picture():
    mask = may_attend(torch.tensor([[True, True, False]]), queries=3, keys=3, causal=True)
    assert mask.tolist() == [[[[True, False, False], [True, True, False], [True, True, False]]]]
    mask = may_attend(torch.tensor([[True, True, False]]), queries=1, keys=3, past=2, causal=True)
    assert mask.tolist() == [[[[True, True, False]]]]


def test_nothing_hidden_is_none():
    assert padding_mask(None) is None
    assert padding_mask(torch.ones(2, 3)) is None
    assert may_attend(None, queries=3, keys=5) is None
    assert may_attend(None, queries=1, keys=5, past=4, causal=True) is None
    assert may_attend(None, queries=1, keys=5, past=4, causal=True, prefix=3) is None


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.int64, torch.int32, torch.uint8, torch.float32, torch.float64]
)
def test_any_dtype_non_zero_is_real(dtype):
    assert padding_mask(torch.tensor([[0, 1, 1]]).to(dtype)).tolist() == [[False, True, True]]


@pytest.mark.parametrize("mask", [[[0.0, float("-inf")]], [[0.0, -1e9]], [[0, -10000]]])
def test_a_mask_to_be_added_to_scores_is_refused(mask):
    """Its 0 means what ours says with 1: read as ours, it would hide what is real."""
    with pytest.raises(
        ValueError, match=r"the attention mask holds -\S+; it must be 1 where a position is real"
    ):
        padding_mask(torch.tensor(mask))


@pytest.mark.parametrize("path", [attend, attend_readably])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_rows_that_see_nothing_are_finite_and_so_are_their_gradients(path, biased, causal):
    padding = torch.tensor([[0, 0, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1]])
    mask = may_attend(padding_mask(padding), queries=4, keys=4, causal=causal)
    bias = torch.randn(1, 2, 4, 4, requires_grad=True) if biased else None
    leaves = [torch.randn(3, 2, 4, 3, requires_grad=True) for _ in range(3)]
    out = path(*leaves, scale=1.0, mask=mask, bias=bias)
    out = out[0] if isinstance(out, tuple) else out
    out.square().sum().backward()
    assert out.isfinite().all()
    for leaf in [*leaves, bias] if biased else leaves:
        assert leaf.grad.isfinite().all()


@pytest.mark.parametrize("kind", STACKS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("need_weights", [False, True])
def test_an_empty_row_in_a_batch_is_finite_and_disturbs_nobody(kind, causal, need_weights):
    stack = STACKS[kind](causal=causal)
    ids = some_ids(2, 5)
    padding = torch.tensor([[0, 0, 0, 0, 0], [1, 1, 1, 1, 1]])
    out = stack.run(ids, attention_mask=padding, need_weights=need_weights).last
    alone = stack.run(ids[1:]).last
    assert out.isfinite().all()
    assert relative_error(out[1:], alone) <= 1e-12
    out.square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in stack.parameters())


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_leaves_relative_positions_alone(causal, side):
    stack = pre_norm_stack(causal=causal)
    ids, filler = some_ids(1, 4), some_ids(1, 3, seed=1)
    parts, ones = ([filler, ids], [0] * 3 + [1] * 4) if side == "left" else ([ids, filler], [1] * 4 + [0] * 3)
    out = stack.run(torch.cat(parts, dim=1), attention_mask=torch.tensor([ones])).last
    real = out[:, 3:] if side == "left" else out[:, :4]
    assert relative_error(real, stack.run(ids).last) <= 1e-12


@pytest.mark.parametrize("causal", [False, True])
def test_right_padding_leaves_learnt_positions_alone(causal):
    stack = post_norm_stack(causal=causal, prompt=2)
    ids = some_ids(1, 7)
    out = stack.run(ids, attention_mask=torch.tensor([[1, 1, 1, 1, 0, 0, 0]])).last
    assert relative_error(out[:, :4], stack.run(ids[:, :4]).last) <= 1e-12


@pytest.mark.parametrize("causal", [False, True])
def test_packed_rows_keep_to_themselves(causal):
    """Two texts in one row, told apart by a mask of their own [B, L, S], equal each text alone (positions are
    relative)."""
    stack = pre_norm_stack(causal=causal)
    first, second = some_ids(1, 3), some_ids(1, 4, seed=1)
    text = torch.tensor([0] * 3 + [1] * 4)
    own = (text[:, None] == text[None, :])[None]
    packed = stack.run(torch.cat([first, second], dim=1), attention_mask=own.long()).last
    assert relative_error(packed[:, :3], stack.run(first).last) <= 1e-12
    assert relative_error(packed[:, 3:], stack.run(second).last) <= 1e-12


@pytest.mark.parametrize("kind", STACKS)
def test_a_causal_stack_does_not_look_ahead(kind):
    stack = STACKS[kind](causal=True)
    ids = some_ids(2, 6)
    changed = ids.clone()
    changed[:, 4:] = (ids[:, 4:] + 1) % 13
    before, after = stack.run(ids).last, stack.run(changed).last
    assert torch.equal(before[:, :4], after[:, :4])
    assert (before[:, 4:] != after[:, 4:]).any()


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 4), r"mask has shape \[2, 4\]; its last dimension must cover all 5 positions"),
        ((3, 5), r"mask has shape \[3, 5\]; it must have 2 rows"),
        ((2, 4, 5), r"mask has shape \[2, 4, 5\]; it must have a row for each of 3 queries"),
        ((5,), r"mask has shape \[5\]; it must be \[batch, keys\] or \[batch, queries, keys\]"),
    ],
)
def test_a_mask_of_the_wrong_shape_is_refused_even_if_it_hides_nothing(shape, message):
    with pytest.raises(ValueError, match=message):
        check_mask(torch.ones(shape), "mask", rows=[2], queries=3, keys=5)


@pytest.mark.parametrize("shape", [(2, 5), (1, 5), (2, 3, 5), (2, 1, 5), (2, 1, 3, 5)])
def test_masks_of_a_right_shape_pass(shape):
    check_mask(torch.ones(shape), "mask", rows=[2], queries=3, keys=5)
