"""The examples of MEGA's documentation with the import line changed, on a tiny model of the same name."""

from __future__ import annotations

import warnings

import pytest
import torch

NAME = "mnaylor/mega-base-wikitext"


def test_configuration() -> None:
    from seq2seq_zoo import MegaConfig, MegaModel

    configuration = MegaConfig()
    model = MegaModel(configuration)
    assert model.config is configuration


def test_model() -> None:
    from seq2seq_zoo import AutoTokenizer, MegaModel

    tokenizer = AutoTokenizer.from_pretrained(NAME)
    with pytest.warns(UserWarning, match="pooler"):
        model = MegaModel.from_pretrained(NAME)

    inputs = tokenizer("Hello, my dog is cute", return_tensors="pt")
    outputs = model(**inputs)

    last_hidden_states = outputs.last_hidden_state
    assert last_hidden_states.shape == (*inputs.input_ids.shape, 16)


def test_causal_lm() -> None:
    from seq2seq_zoo import AutoConfig, AutoTokenizer, MegaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(NAME)
    config = AutoConfig.from_pretrained(NAME)
    config.is_decoder = True
    config.bidirectional = False
    with pytest.warns(UserWarning, match="ema_gate"):
        model = MegaForCausalLM.from_pretrained(NAME, config=config, ignore_mismatched_sizes=True)

    inputs = tokenizer("Hello, my dog is cute", return_tensors="pt")
    outputs = model(**inputs)

    prediction_logits = outputs.logits
    assert prediction_logits.shape == (*inputs.input_ids.shape, config.vocab_size)
    assert outputs.past_key_values is not None
    assert model.generate(**inputs, max_new_tokens=3).shape[1] > inputs.input_ids.shape[1]


def test_masked_lm() -> None:
    from seq2seq_zoo import AutoTokenizer, MegaForMaskedLM

    tokenizer = AutoTokenizer.from_pretrained(NAME)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = MegaForMaskedLM.from_pretrained(NAME)

    inputs = tokenizer("The capital of France is <mask>.", return_tensors="pt")

    with torch.no_grad():
        logits = model(**inputs).logits

    # retrieve index of <mask>
    mask_token_index = (inputs.input_ids == tokenizer.mask_token_id)[0].nonzero(as_tuple=True)[0]
    assert len(mask_token_index) == 1

    predicted_token_id = logits[0, mask_token_index].argmax(axis=-1)
    assert isinstance(tokenizer.decode(predicted_token_id), str)

    labels = torch.where(inputs.input_ids == tokenizer.mask_token_id, 7, -100)
    outputs = model(**inputs, labels=labels)
    expected = -logits[0, mask_token_index].log_softmax(-1)[0, 7]
    assert round(outputs.loss.item(), 2) == round(expected.item(), 2)


@pytest.mark.parametrize("problem_type", [None, "multi_label_classification"])
def test_sequence_classification(problem_type: str | None) -> None:
    from seq2seq_zoo import AutoTokenizer, MegaForSequenceClassification

    options = {} if problem_type is None else {"problem_type": problem_type}
    tokenizer = AutoTokenizer.from_pretrained(NAME)
    with pytest.warns(UserWarning, match="classifier"):
        model = MegaForSequenceClassification.from_pretrained(NAME, **options)

    inputs = tokenizer("Hello, my dog is cute", return_tensors="pt")

    with torch.no_grad():
        logits = model(**inputs).logits

    predicted_class_ids = torch.arange(0, logits.shape[-1])[torch.sigmoid(logits).squeeze(dim=0) > -1]
    num_labels = len(model.config.id2label)
    with pytest.warns(UserWarning, match="classifier"):
        model = MegaForSequenceClassification.from_pretrained(NAME, num_labels=num_labels, **options)

    if problem_type is None:
        labels = torch.tensor([1])
    else:
        labels = torch.sum(
            torch.nn.functional.one_hot(predicted_class_ids[None, :].clone(), num_classes=num_labels), dim=1
        ).to(torch.float)
    loss = model(**inputs, labels=labels).loss
    loss.backward()
    assert loss.isfinite()


def test_multiple_choice() -> None:
    from seq2seq_zoo import AutoTokenizer, MegaForMultipleChoice

    tokenizer = AutoTokenizer.from_pretrained(NAME)
    with pytest.warns(UserWarning, match="classifier"):
        model = MegaForMultipleChoice.from_pretrained(NAME)

    prompt = "In Italy, pizza served in formal settings, such as at a restaurant, is presented unsliced."
    choice0 = "It is eaten with a fork and a knife."
    choice1 = "It is eaten while held in the hand."
    labels = torch.tensor(0).unsqueeze(0)  # choice0 is correct (according to Wikipedia ;)), batch size 1

    encoding = tokenizer([prompt, prompt], [choice0, choice1], return_tensors="pt", padding=True)
    outputs = model(**{k: v.unsqueeze(0) for k, v in encoding.items()}, labels=labels)  # batch size is 1

    loss = outputs.loss
    logits = outputs.logits
    assert logits.shape == (1, 2)
    assert loss.isfinite()


def test_token_classification() -> None:
    from seq2seq_zoo import AutoTokenizer, MegaForTokenClassification

    tokenizer = AutoTokenizer.from_pretrained(NAME)
    with pytest.warns(UserWarning, match="classifier"):
        model = MegaForTokenClassification.from_pretrained(NAME)

    inputs = tokenizer(
        "HuggingFace is a company based in Paris and New York", add_special_tokens=False, return_tensors="pt"
    )

    with torch.no_grad():
        logits = model(**inputs).logits

    predicted_token_class_ids = logits.argmax(-1)
    predicted_tokens_classes = [model.config.id2label[t.item()] for t in predicted_token_class_ids[0]]
    assert len(predicted_tokens_classes) == inputs.input_ids.shape[1]

    labels = predicted_token_class_ids
    loss = model(**inputs, labels=labels).loss
    assert round(loss.item(), 2) <= 0.7


def test_question_answering() -> None:
    from seq2seq_zoo import AutoTokenizer, MegaForQuestionAnswering

    tokenizer = AutoTokenizer.from_pretrained(NAME)
    with pytest.warns(UserWarning, match="qa_outputs"):
        model = MegaForQuestionAnswering.from_pretrained(NAME)

    question, text = "Who was Jim Henson?", "Jim Henson was a nice puppet"

    inputs = tokenizer(question, text, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)

    answer_start_index = outputs.start_logits.argmax()
    answer_end_index = outputs.end_logits.argmax()
    predict_answer_tokens = inputs.input_ids[0, answer_start_index : answer_end_index + 1]
    assert predict_answer_tokens.dim() == 1

    target_start_index = torch.tensor([14])
    target_end_index = torch.tensor([15])

    outputs = model(**inputs, start_positions=target_start_index, end_positions=target_end_index)
    loss = outputs.loss
    assert loss.isfinite()


def test_auto_classes() -> None:
    import seq2seq_zoo

    for task in (
        "",
        "ForMaskedLM",
        "ForSequenceClassification",
        "ForMultipleChoice",
        "ForTokenClassification",
        "ForQuestionAnswering",
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = getattr(seq2seq_zoo, f"AutoModel{task}").from_pretrained(NAME)
        assert type(model).__name__ == f"Mega{task or 'Model'}"
    config = seq2seq_zoo.MegaConfig(is_decoder=True, bidirectional=False)
    assert type(seq2seq_zoo.AutoModelForCausalLM.from_config(config)).__name__ == "MegaForCausalLM"
