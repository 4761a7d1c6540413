"""Heads and losses against their formulas, and against the oracle's."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.mvp import modeling_mvp
from transformers.models.mvp.modeling_mvp import MvpClassificationHead

from seq2seq_zoo.layers.heads import (
    PROBLEM_TYPES,
    ClassificationHead,
    at_last_end,
    classification_loss,
    next_token_loss,
    problem_of,
    shift_right,
    span_loss,
    token_loss,
)
from tests.layers.formulas import affine
from tests.oracle import randomise, relative_error

# ---- the classification head ----


def test_classification_head_is_the_formula():
    head = ClassificationHead(5, 3).eval()
    randomise(head)
    x = torch.randn(4, 5)
    assert relative_error(head(x), affine(head.output, affine(head.hidden, x).tanh())) <= 1e-12


@pytest.mark.parametrize("training", [False, True])
def test_classification_head_equals_the_oracles(training):
    theirs = MvpClassificationHead(5, 6, 3, 0.4).train(training)
    ours = ClassificationHead(5, 3, dropout=0.4).train(training)
    theirs.dense = torch.nn.Linear(5, 5)  # the oracle's inner width is free, and always the outer one
    theirs.out_proj = torch.nn.Linear(5, 3)
    randomise(theirs)
    ours.hidden.load_state_dict(theirs.dense.state_dict())
    ours.output.load_state_dict(theirs.out_proj.state_dict())
    x = torch.randn(4, 5)
    torch.manual_seed(2)
    expected = theirs(x)
    torch.manual_seed(2)
    assert relative_error(ours(x), expected) <= 1e-12


# ---- the last end token ----


def test_at_last_end():
    ids = torch.tensor([[2, 7, 2, 1, 1], [5, 2, 6, 6, 2], [2, 2, 8, 1, 1]])
    x = torch.arange(15.0).view(3, 5, 1)
    assert at_last_end(x, ids, 2).tolist() == [[2.0], [9.0], [11.0]]


@pytest.mark.parametrize(
    ("ids", "counts"),
    [([[2, 1], [2, 2]], r"\[1, 2\]"), ([[3, 1], [3, 3]], r"\[0, 0\]"), ([[2, 1], [3, 3]], r"\[1, 0\]")],
)
def test_rows_that_differ_in_end_tokens_or_have_none(ids, counts):
    message = rf"input_ids hold {counts} end-of-sequence tokens \(id 2\) by row; every row must have the same"
    with pytest.raises(ValueError, match=message):
        at_last_end(torch.zeros(2, 2, 3), torch.tensor(ids), 2)


# ---- shifted labels ----


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([-100, 0, 1, 5, 9]), min_size=4, max_size=4), min_size=1, max_size=3)
)
def test_shift_right(rows):
    labels = torch.tensor(rows)
    before = labels.clone()
    shifted = shift_right(labels, start=7, padding=1)
    expected = [[7, *(1 if label == -100 else label for label in row[:-1])] for row in rows]
    assert shifted.tolist() == expected
    assert torch.equal(labels, before), "the caller's labels stay as they were"
    theirs = modeling_mvp.shift_tokens_right(labels, pad_token_id=1, decoder_start_token_id=7)
    assert torch.equal(shifted, theirs)


# ---- losses ----


def log_softmax(scores):
    total = math.log(sum(math.exp(score) for score in scores))
    return [score - total for score in scores]


def test_token_loss_is_the_mean_over_labels_that_count():
    scores, labels = torch.randn(2, 3, 5), torch.tensor([[4, -100, 0], [-100, 2, -100]])
    counted = [
        -log_softmax(scores[b, i].tolist())[labels[b, i]]
        for b in range(2)
        for i in range(3)
        if labels[b, i] >= 0
    ]
    assert float(token_loss(scores, labels)) == pytest.approx(sum(counted) / 3, rel=1e-12)


def test_regression():
    scores, labels = torch.randn(4, 1), torch.randn(4)
    expected = sum(float(s - t) ** 2 for s, t in zip(scores[:, 0], labels, strict=True)) / 4
    for shape in ([4], [4, 1]):
        for problem in ("regression", None):
            assert float(classification_loss(scores, labels.view(shape), problem)) == pytest.approx(expected)
    several, targets = torch.randn(4, 3), torch.randn(4, 3)
    expected = float((several - targets).square().sum() / 12)
    assert float(classification_loss(several, targets, "regression")) == pytest.approx(expected)


def test_single_label():
    scores, labels = torch.randn(4, 3), torch.tensor([2, 0, 0, 1])
    expected = sum(-log_softmax(row.tolist())[label] for row, label in zip(scores, labels, strict=True)) / 4
    for problem in ("single_label_classification", None):
        assert float(classification_loss(scores, labels, problem)) == pytest.approx(expected, rel=1e-12)


def test_several_labels():
    scores, labels = torch.randn(4, 3), torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])
    expected = 0.0
    for score, label in zip(scores.flatten().tolist(), labels.flatten().tolist(), strict=True):
        likely = 1 / (1 + math.exp(-score))
        expected -= (math.log(likely) if label else math.log(1 - likely)) / 12
    for problem in ("multi_label_classification", None):
        assert float(classification_loss(scores, labels, problem)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("labels", "count", "problem"),
    [
        (torch.tensor([1, 0]), 1, "regression"),
        (torch.tensor([1.0, 0]), 1, "regression"),
        (torch.tensor([1, 0]), 2, "single_label_classification"),
        (torch.tensor([1, 0], dtype=torch.int32), 2, "single_label_classification"),
        (torch.tensor([[1.0, 0]]), 2, "multi_label_classification"),
    ],
)
def test_what_labels_mean(labels, count, problem):
    assert problem_of(labels, count) == problem


def test_an_unknown_problem_is_refused():
    with pytest.raises(
        ValueError, match=f"problem_type is 'x'; it must be one of {', '.join(PROBLEM_TYPES)}"
    ):
        classification_loss(torch.zeros(2, 2), torch.zeros(2), "x")


def test_span_loss_is_the_mean_of_both_ends():
    start, end = torch.randn(2, 4), torch.randn(2, 4)
    first, last = torch.tensor([1, 3]), torch.tensor([2, 3])
    expected = 0.0
    for scores, places in ((start, first), (end, last)):
        for row, place in zip(scores, places, strict=True):
            expected -= log_softmax(row.tolist())[place] / 4
    assert float(span_loss(start, end, first, last)) == pytest.approx(expected, rel=1e-12)
    assert float(span_loss(start, end, first[:, None], last[:, None])) == pytest.approx(expected, rel=1e-12)


def test_an_end_beyond_the_sequence_does_not_count():
    start, end = torch.randn(2, 4), torch.randn(2, 4)
    both = span_loss(start, end, torch.tensor([1, 9]), torch.tensor([2, 4]))
    alone = span_loss(start[:1], end[:1], torch.tensor([1]), torch.tensor([2]))
    assert float(both) == pytest.approx(float(alone), rel=1e-12)


def test_labels_that_no_score_stands_for_are_refused() -> None:
    scores = torch.randn(2, 3, 5)
    for value in (5, -1, -99):
        labels = torch.tensor([[0, 1, 4], [-100, value, 2]])
        with pytest.raises(ValueError, match=rf"labels hold {value}; they must be in 0 … 4, or -100"):
            token_loss(scores, labels)
        with pytest.raises(ValueError, match=f"labels hold {value}"):
            classification_loss(scores[:, 0], torch.tensor([value, 1]), None)
    with pytest.raises(ValueError, match=r"labels are of torch\.float"):
        token_loss(scores, torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("loss", "scores", "labels", "said"),
    [
        (token_loss, (2, 5, 7), (5, 2), r"\[5, 2\]; they must have \[2, 5\]"),
        (token_loss, (2, 5, 7), (10,), r"\[10\]; they must have \[2, 5\]"),
        (next_token_loss, (2, 5, 7), (2, 4), r"\[2, 4\]; they must have \[2, 5\]"),
        (next_token_loss, (2, 5, 7), (5,), r"\[5\]; they must have \[2, 5\]"),
        (partial(classification_loss, problem=None), (4, 3), (2, 2), r"\[2, 2\].* \[4\] or \[4, 1\]"),
        (partial(classification_loss, problem="regression"), (4, 1), (1, 4), r"\[1, 4\].* \[4\] or \[4, 1\]"),
        (partial(classification_loss, problem="regression"), (4, 3), (4,), r"\[4\]; they must have \[4, 3\]"),
        (
            partial(classification_loss, problem="multi_label_classification"),
            (4, 3),
            (3, 4),
            r"\[3, 4\]; they must have \[4, 3\]",
        ),
    ],
)
def test_labels_of_another_shape_are_refused(loss, scores, labels, said) -> None:
    """Though some have as many numbers, or could be repeated."""
    with pytest.raises(ValueError, match=f"labels have shape {said}, as the scores"):
        loss(torch.zeros(scores), torch.zeros(labels, dtype=torch.int64))


@pytest.mark.parametrize("problem", ["regression", "single_label_classification"])
def test_one_label_for_each_row_in_every_form(problem: str) -> None:
    scores = torch.randn(1, 1 if problem == "regression" else 3)
    label = torch.tensor(1.0 if problem == "regression" else 1)
    losses = [classification_loss(scores, label.view(shape), problem) for shape in ((), (1,), (1, 1))]
    assert losses[0] == losses[1] == losses[2]
    with pytest.raises(ValueError, match=r"shape \[\]; they must have \[2\] or \[2, 1\]"):
        classification_loss(scores.expand(2, -1), label, problem)
