"""Positions: learnt vectors, and buckets of distance with their bias."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.mt5.modeling_mt5 import MT5Attention
from transformers.models.mvp.modeling_mvp import MvpLearnedPositionalEmbedding

from seq2seq_zoo.layers.positions import LearnedPositions, RelativePositionBias, relative_position_buckets
from tests.oracle import randomise

# (buckets, max_distance): the published one, and odd, small, and far ones
GEOMETRIES = [(32, 128), (32, 20), (8, 12), (4, 3), (5, 9), (64, 1000), (30, 77)]


@pytest.mark.parametrize(("start", "length"), [(0, 5), (3, 4), (0, 9), (8, 1)])
def test_learned_positions(start, length):
    ours = LearnedPositions(9, 4, offset=2)
    theirs = MvpLearnedPositionalEmbedding(9, 4)
    randomise(ours)
    theirs.load_state_dict(ours.state_dict())
    assert torch.equal(ours(start, length), ours.weight[2 + start : 2 + start + length])
    assert torch.equal(ours(start, length), theirs(torch.zeros(1, length), start)[0])


@pytest.mark.parametrize(("start", "length"), [(0, 10), (9, 1), (5, 7)])
def test_positions_beyond_the_table_are_refused(start, length):
    with pytest.raises(ValueError, match=rf"reaches position {start + length}; .* positions for 9"):
        LearnedPositions(9, 4, offset=2)(start, length)


@pytest.mark.parametrize(("buckets", "max_distance"), GEOMETRIES)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_buckets_equal_the_oracles(buckets, max_distance, bidirectional):
    distance = torch.arange(-1500, 1501)
    ours = relative_position_buckets(
        distance, buckets=buckets, max_distance=max_distance, bidirectional=bidirectional
    )
    theirs = MT5Attention._relative_position_bucket(distance, bidirectional, buckets, max_distance)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("buckets", "max_distance"), GEOMETRIES)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_buckets_follow_the_formula(buckets, max_distance, bidirectional):
    """Where the exact logarithm comes within 1e-5 of a boundary, float32 may fall on either side of it."""
    directed = buckets // 2 if bidirectional else buckets
    exact = directed // 2
    on_a_boundary = 0
    for distance in range(-300, 301):
        far = abs(distance) if bidirectional else max(-distance, 0)
        first = directed if bidirectional and distance > 0 else 0
        bucket = int(
            relative_position_buckets(
                torch.tensor(distance),
                buckets=buckets,
                max_distance=max_distance,
                bidirectional=bidirectional,
            )
        )
        if far < exact:
            assert bucket == first + far
            continue
        place = (directed - exact) * math.log(far / exact) / math.log(max_distance / exact)
        near = abs(place - round(place)) < 1e-5
        on_a_boundary += near
        possible = {math.floor(place), round(place), round(place) - 1} if near else {math.floor(place)}
        assert bucket - first in {min(exact + step, directed - 1) for step in possible}
    assert on_a_boundary < 60, "the test would prove little otherwise"


@settings(max_examples=60, deadline=None)
@given(st.integers(4, 40), st.integers(1, 100), st.booleans())
def test_properties_of_buckets(buckets, further, bidirectional):
    max_distance = buckets // 2 + further
    distance = torch.arange(0, 2 * max_distance + 3)

    def bucket(distances):
        return relative_position_buckets(
            distances, buckets=buckets, max_distance=max_distance, bidirectional=bidirectional
        )

    behind, ahead = bucket(-distance), bucket(distance)
    directed = buckets // 2 if bidirectional else buckets
    assert (behind.diff() >= 0).all(), "further away is never a lower bucket"
    assert int(behind.min()) == 0
    assert int(behind.max()) == directed - 1
    assert (behind[distance >= max_distance] == directed - 1).all(), "all beyond share the last"
    assert torch.equal(behind[: directed // 2], distance[: directed // 2]), "near ones have their own"
    if bidirectional:
        assert torch.equal(ahead[1:], behind[1:] + directed), "both directions alike"
        assert int(ahead.max()) < buckets
    else:
        assert (ahead == 0).all(), "keys ahead are not told apart"


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(
    ("queries", "keys", "past"),
    [(1, 1, 0), (4, 4, 0), (1, 6, 5), (3, 8, 5), (5, 3, 0), (2, 9, 4), (40, 40, 0)],
)
def test_the_layout_is_a_direct_lookup(bidirectional, queries, keys, past):
    bias = RelativePositionBias(3, buckets=8, max_distance=12, bidirectional=bidirectional)
    randomise(bias)
    laid_out = bias(queries, keys, past)
    assert list(laid_out.shape) == [1, 3, queries, keys]
    for i in range(queries):
        for j in range(keys):
            bucket = relative_position_buckets(
                torch.tensor(j - (past + i)), buckets=8, max_distance=12, bidirectional=bidirectional
            )
            assert torch.equal(laid_out[0, :, i, j], bias.weight[bucket])


def test_the_bias_learns_through_the_layout():
    bias = RelativePositionBias(2, buckets=8, max_distance=12, bidirectional=False)
    direction = torch.randn(1, 2, 5, 7)
    (bias(5, 7, 2) * direction).sum().backward()
    expected = torch.zeros(8, 2)
    for i in range(5):
        for j in range(7):
            bucket = relative_position_buckets(
                torch.tensor(j - 2 - i), buckets=8, max_distance=12, bidirectional=False
            )
            expected[bucket] += direction[0, :, i, j]
    assert torch.allclose(bias.weight.grad, expected, rtol=1e-12, atol=1e-12)
