"""What a forward pass returns, read as an object, a mapping and a tuple, beside the oracle's outputs."""

import copy
import dataclasses

import pytest
import torch
import transformers.modeling_outputs
from hypothesis import given, settings
from hypothesis import strategies as st

from seq2seq_zoo import outputs

CLASSES = {
    name: kind
    for name, kind in vars(outputs).items()
    if dataclasses.is_dataclass(kind) and kind.__module__ == outputs.__name__ and not name.startswith("_")
}


def theirs_of(name):
    return getattr(transformers.modeling_outputs, name)


def filled(kind, present):
    """An output whose field number n holds n, or None where it is not present; what must be there is."""
    fields = dataclasses.fields(kind)
    return {
        field.name: torch.tensor(float(number))
        for number, field in enumerate(fields)
        if present[number] or field.default is dataclasses.MISSING
    }


def test_the_documented_classes_are_here():
    assert set(CLASSES) >= {
        "BaseModelOutput",
        "BaseModelOutputWithPastAndCrossAttentions",
        "Seq2SeqModelOutput",
        "Seq2SeqLMOutput",
        "Seq2SeqSequenceClassifierOutput",
        "Seq2SeqQuestionAnsweringModelOutput",
        "CausalLMOutputWithCrossAttentions",
        "TokenClassifierOutput",
    }


@pytest.mark.parametrize("name", CLASSES)
def test_fields_stand_in_the_documented_order(name):
    ours = [field.name for field in dataclasses.fields(CLASSES[name])]
    assert ours == [field.name for field in dataclasses.fields(theirs_of(name))]


@pytest.mark.parametrize("name", CLASSES)
@settings(max_examples=20, deadline=None)
@given(present=st.lists(st.booleans(), min_size=12, max_size=12), data=st.data())
def test_an_output_reads_as_the_oracles(name, present, data):
    values = filled(CLASSES[name], present)
    ours, theirs = CLASSES[name](**values), theirs_of(name)(**values)
    assert list(ours.keys()) == list(theirs.keys()) == list(values)
    assert list(ours) == list(theirs)
    assert len(ours) == len(theirs) == len(values)
    assert all(a is b for a, b in zip(ours.values(), theirs.values(), strict=True))
    assert all(a is b for a, b in zip(ours.to_tuple(), theirs.to_tuple(), strict=True))
    assert [key for key, _ in ours.items()] == [key for key, _ in theirs.items()]
    assert {**ours}.keys() == values.keys()
    for number, (key, value) in enumerate(values.items()):
        assert ours[key] is ours[number] is getattr(ours, key) is ours.get(key) is value
        assert ours[number - len(values)] is value
        assert key in ours
    start, stop = data.draw(st.integers(-3, 12)), data.draw(st.integers(-3, 12))
    assert ours[start:stop] == theirs[start:stop]


@pytest.mark.parametrize("name", CLASSES)
def test_what_is_absent(name):
    values = filled(CLASSES[name], [False] * 12)
    ours, theirs = CLASSES[name](**values), theirs_of(name)(**values)
    absent = [field.name for field in dataclasses.fields(CLASSES[name]) if field.name not in values]
    assert absent
    for key in absent:
        assert getattr(ours, key) is getattr(theirs, key) is None
        assert key not in ours
        assert ours.get(key, 5) == 5
    for key in (absent[0], "nothing"):
        with pytest.raises(KeyError):
            ours[key]
    with pytest.raises(IndexError):
        ours[len(values)]
    assert not hasattr(ours, "nothing")


def test_the_loss_comes_first_where_there_is_one():
    logits = torch.zeros(1)
    without = outputs.Seq2SeqLMOutput(logits=logits)
    assert without[0] is logits
    loss = torch.ones(1)
    both = outputs.Seq2SeqLMOutput(loss=loss, logits=logits)
    assert both[0] is loss
    assert both[:2] == (loss, logits)


def test_an_encoders_output_is_never_without_its_result():
    with pytest.raises(TypeError, match="last_hidden_state"):
        outputs.BaseModelOutput()


def test_copies_stand_alone():
    out = outputs.BaseModelOutput(torch.zeros(2), hidden_states=(torch.zeros(1),))
    other = copy.deepcopy(out)
    other.last_hidden_state.add_(1)
    assert float(out.last_hidden_state.sum()) == 0.0
    assert list(other.keys()) == list(out.keys())
    assert dataclasses.replace(out, hidden_states=None).to_tuple() == (out.last_hidden_state,)
