"""Decoding state: growing keys and values against plain concatenation, and the rules for rows and sources."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seq2seq_zoo.layers.attention import Attention
from seq2seq_zoo.layers.prefix import Prefix
from seq2seq_zoo.layers.state import DecodingState, GrowingKeyValues, SourceKeyValues
from tests.oracle import randomise, relative_error

HEADS, SIZE = 2, 3


def numbers(rows, tokens):
    return torch.randn(rows, HEADS, tokens, SIZE), torch.randn(rows, HEADS, tokens, SIZE)


class Plain:
    """What growing keys and values mean: concatenate, index, cut off."""

    def __init__(self):
        self.prefix = self.text = None

    def append(self, pair, prefix=None):
        new = torch.stack(pair)
        if self.text is None:
            self.text = new
            if prefix is not None:
                self.prefix = torch.stack(list(prefix))
        else:
            self.text = torch.cat([self.text, new], dim=3)
        return self.all()

    def all(self):
        if self.prefix is None:
            return self.text
        rows = self.text.shape[1]
        return torch.cat([self.prefix[:, None].expand(-1, rows, -1, -1, -1), self.text], dim=3)

    def reorder(self, rows):
        self.text = self.text[:, rows]

    @torch.enable_grad()  # forgetting the end takes nothing from what is kept, the way back included
    def crop(self, length):
        self.text = self.text[:, :, :, :length]


MODES = {"gradients": torch.enable_grad, "no_grad": torch.no_grad, "inference": torch.inference_mode}

OPERATIONS = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 3)),
    st.tuples(st.just("reorder"), st.lists(st.integers(0, 2), min_size=3, max_size=3)),
    st.tuples(st.just("crop"), st.integers(0, 6)),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(OPERATIONS, st.sampled_from(["gradients", "no_grad"])), max_size=8),
    st.integers(0, 7),
    st.booleans(),
    st.sampled_from(["keys and values", "keys", "values", "neither"]),
)
def test_growing_memory_is_concatenation_in_values_and_gradients(operations, capacity, prompted, learning):
    """Appends, reorders and crops in any order, inside and outside of the recording of gradients. What an
    earlier step returned must keep its values and its way back, whatever comes later."""
    state, plain = GrowingKeyValues(capacity), Plain()
    prefix = Prefix(torch.randn(HEADS, 2, SIZE), torch.randn(HEADS, 2, SIZE)) if prompted else None
    leaves, ours, theirs = [], [], []
    query = torch.randn(3, HEADS, 1, SIZE, requires_grad=True)

    def append(tokens, mode):
        pair = numbers(3, tokens)
        pair[0].requires_grad_(learning in ("keys and values", "keys"))
        pair[1].requires_grad_(learning in ("keys and values", "values"))
        leaves.extend(leaf for leaf in pair if leaf.requires_grad)
        first = plain.text is None
        with MODES[mode]():
            pair = [1.0 * leaf for leaf in pair]  # as a layer makes them: under no_grad they need no gradient
            mine = state.append(*pair, prefix if first else None)
            other = plain.append(pair, prefix if first else None)
            # A product with a query that learns makes the graph hold the keys even where they do not learn.
            ours.append((torch.stack(mine) * query).sum(-1).sin())
            theirs.append((other * query).sum(-1).sin())
        assert torch.equal(torch.stack(mine), other)

    append(2, operations[0][1] if operations else "gradients")
    for (name, argument), mode in operations:
        if name == "append":
            append(argument, mode)
            continue
        with MODES[mode]():
            rows = torch.tensor(argument) if name == "reorder" else argument
            getattr(state, name)(rows)
            getattr(plain, name)(rows)
        assert state.length == plain.text.shape[3]

    recorded = [(mine, other) for mine, other in zip(ours, theirs, strict=True) if other.requires_grad]
    if recorded:
        found = torch.autograd.grad(
            sum(mine.sum() for mine, _ in recorded), [query, *leaves], allow_unused=True, retain_graph=True
        )
        expected = torch.autograd.grad(
            sum(other.sum() for _, other in recorded), [query, *leaves], allow_unused=True
        )
        for mine, other in zip(found, expected, strict=True):
            if mine is None or other is None:  # no way leads there, or one on which nothing passes
                assert not any(gradient is not None and gradient.any() for gradient in (mine, other))
            else:
                assert relative_error(mine, other) <= 1e-12


@pytest.mark.parametrize("then", MODES)
@pytest.mark.parametrize("first", ["no_grad", "inference"])
def test_steps_under_different_modes(first, then):
    state, plain = GrowingKeyValues(8), Plain()
    for mode in (first, first, then, first):
        pair = numbers(2, 2)
        with MODES[mode]():
            assert torch.equal(torch.stack(state.append(*pair)), plain.append(pair))
    with MODES[then]():
        state.reorder(torch.tensor([1, 0]))
        plain.reorder(torch.tensor([1, 0]))
        pair = numbers(2, 1)
        assert torch.equal(torch.stack(state.append(*pair)), plain.append(pair))


@torch.no_grad()
def test_a_buffer_of_the_expected_size_is_made_once():
    state = GrowingKeyValues(10)
    state.append(*numbers(2, 3))
    at = {state.append(*numbers(2, 1))[0].data_ptr() for _ in range(7)}
    assert len(at) == 1, "ten tokens fit without another allocation"
    assert state.append(*numbers(2, 1))[0].data_ptr() not in at


@torch.no_grad()
@pytest.mark.parametrize("capacity", [0, 2])
def test_a_buffer_doubles_when_it_runs_out(capacity):
    state = GrowingKeyValues(capacity)
    places, held = [], None
    for _ in range(100):
        held, _ = state.append(*numbers(1, 1))
        places.append(held.data_ptr())
    moves = sum(before != after for before, after in itertools.pairwise(places))
    assert held.shape[2] == 100
    assert 4 <= moves <= 8, "about log₂ 100, not 100"


@torch.no_grad()
def test_a_full_pass_hands_its_keys_over_uncopied():
    keys, values = numbers(2, 5)
    held = GrowingKeyValues().append(keys, values)
    assert held[0] is keys
    assert held[1] is values


@pytest.mark.parametrize("learning", ["query", "key", "value", "output"])
def test_steps_learn_as_a_full_pass_does_whatever_part_learns(learning):
    """With only the query or the value learning, a graph holds keys that themselves need no gradient."""
    module = Attention(4, 2, 2)
    randomise(module)
    module.requires_grad_(False)
    getattr(module, learning).requires_grad_(True)
    x = torch.randn(2, 4, 4)
    causal = torch.ones(4, 4, dtype=torch.bool).tril()
    state = GrowingKeyValues(8)

    def gradient(y):
        module.zero_grad()
        y.sin().sum().backward()
        return getattr(module, learning).weight.grad.clone()

    expected = gradient(module(x, mask=causal[None, None])[0])
    steps = torch.cat([module(x[:, i : i + 1], state=state)[0] for i in range(4)], dim=1)
    assert relative_error(gradient(steps), expected) <= 1e-12


def test_rows_that_were_not_there_cannot_continue():
    state = GrowingKeyValues()
    state.append(*numbers(2, 3))
    for rows in (1, 3):
        with pytest.raises(ValueError, match=f"holds 2 rows; {rows} cannot continue them"):
            state.append(*numbers(rows, 1))


def test_reordering_to_fewer_or_more_rows():
    state, plain = GrowingKeyValues(), Plain()
    pair = numbers(2, 3)
    state.append(*pair)
    plain.append(pair)
    for rows in ([1], [0, 0, 0], [2, 1]):
        state.reorder(torch.tensor(rows))
        plain.reorder(torch.tensor(rows))
        pair = numbers(len(rows), 1)
        assert torch.equal(torch.stack(state.append(*pair)), plain.append(pair))


def test_reordering_and_cropping_what_is_empty():
    state = GrowingKeyValues(4)
    state.reorder(torch.tensor([1, 0]))
    state.crop(3)
    assert state.length == 0


# ---- sources ----


def filled(sources=3, beams=2, layers=2, tokens=4):
    """A state whose keys are the number of their row, and whose memory is the number of the source."""
    state = DecodingState(layers, rows_per_source=beams)
    for layer in state.layers:
        row = torch.arange(float(sources * beams)).view(-1, 1, 1, 1).expand(-1, HEADS, tokens, SIZE)
        source = torch.arange(float(sources)).view(-1, 1, 1, 1).expand(-1, HEADS, 5, SIZE)
        layer.self_attention.append(row.clone(), row.clone())
        layer.cross_attention.fill(source.clone(), source.clone())
    state.advance(tokens)
    return state


def rows_of(state):
    one_more = torch.zeros(state.layers[0].self_attention._keys.shape[0], HEADS, 1, SIZE)
    keys, values = state.layers[0].self_attention.append(one_more, one_more)
    assert torch.equal(keys, values)
    return [int(row) for row in keys[:, 0, 0, 0]]


def sources_of(state):
    return [int(v) for v in state.layers[-1].cross_attention.held[0][:, 0, 0, 0]]


@pytest.mark.parametrize(
    ("rows", "sources"),
    [
        ([0, 1, 2, 3, 4, 5], [0, 1, 2]),  # as they were
        ([1, 0, 2, 3, 5, 4], [0, 1, 2]),  # exchanged within a source
        ([1, 1, 2, 2, 4, 5], [0, 1, 2]),  # one beam twice
        ([4, 5, 0, 1, 2, 2], [2, 0, 1]),  # whole sources exchanged
        ([2, 3, 3, 2], [1, 1]),  # fewer, one of them twice
        ([4, 4], [2]),
    ],
)
@pytest.mark.parametrize("mode", ["gradients", "no_grad"])
def test_reorder(rows, sources, mode):
    with MODES[mode]():
        state = filled()
        state.reorder(torch.tensor(rows))
        assert rows_of(state) == rows
        assert sources_of(state) == sources


def test_beams_that_stay_with_their_source_leave_its_memory_in_place():
    state = filled()
    before = [layer.cross_attention.held[0].data_ptr() for layer in state.layers]
    state.reorder(torch.tensor([1, 1, 3, 2, 4, 5]))
    assert [layer.cross_attention.held[0].data_ptr() for layer in state.layers] == before


@pytest.mark.parametrize("rows", [[0, 2, 1, 3, 4, 5], [2, 0, 2, 3, 4, 5], [0, 1, 2], [1, 2]])
def test_beams_of_one_source_cannot_be_torn_apart(rows):
    state = filled()
    with pytest.raises(ValueError, match="tear apart the 2 rows that continue one source"):
        state.reorder(torch.tensor(rows))
    assert rows_of(state) == [0, 1, 2, 3, 4, 5], "refused before anything moved"
    assert sources_of(state) == [0, 1, 2]


def test_crop():
    state = filled(tokens=4)
    state.crop(2)
    assert state.length == 2
    for layer in state.layers:
        assert layer.self_attention.append(*numbers(6, 1))[0].shape[2] == 3
        assert layer.cross_attention.held[0].shape[2] == 5, "the source stays"
    state.crop(9)
    assert state.length == 2
    with pytest.raises(ValueError, match="length is -1; it must be at least 0"):
        state.crop(-1)


def test_source_memory_stands_behind_its_prefix():
    source = SourceKeyValues()
    keys, values = numbers(2, 4)
    prefix = Prefix(torch.randn(HEADS, 3, SIZE), torch.randn(HEADS, 3, SIZE))
    held = source.fill(keys, values, prefix)
    assert torch.equal(held[0][:, :, :3], prefix.keys.expand(2, -1, -1, -1))
    assert torch.equal(held[0][:, :, 3:], keys)
    source.select(torch.tensor([1, 1]))
    assert torch.equal(source.held[1][0, :, 3:], values[1])
