"""The examples of mT5's documentation with the import line changed, on tiny models of the same names."""

from __future__ import annotations

import pytest
import torch

ARTICLE = """Plants are remarkable organisms that produce their own food using a method called photosynthesis.
This process involves converting sunlight, carbon dioxide, and water into glucose,
which provides energy for growth.
Plants play a crucial role in sustaining life on Earth by generating oxygen and serving as the foundation."""


def test_pipeline() -> None:
    """As documented but for the device, which is not everywhere."""
    from seq2seq_zoo import pipeline

    summarize = pipeline(
        task="text2text-generation", model="csebuetnlp/mT5_multilingual_XLSum", dtype=torch.float16
    )
    written = summarize(ARTICLE)
    assert list(written[0]) == ["generated_text"]
    assert summarize.model.dtype == torch.float16


def test_auto_classes() -> None:
    from seq2seq_zoo import AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained("csebuetnlp/mT5_multilingual_XLSum")
    model = AutoModelForSeq2SeqLM.from_pretrained(
        "csebuetnlp/mT5_multilingual_XLSum",
        dtype=torch.float16,
        device_map="auto",
    )
    input_ids = tokenizer(ARTICLE, return_tensors="pt").to(model.device)
    output = model.generate(**input_ids, cache_implementation="static")
    assert isinstance(tokenizer.decode(output[0], skip_special_tokens=True), str)
    assert torch.equal(output, model.generate(**input_ids))


def test_model() -> None:
    from seq2seq_zoo import AutoTokenizer, MT5Model

    tokenizer = AutoTokenizer.from_pretrained("google/mt5-small")
    with pytest.warns(UserWarning, match="lm_head"):
        model = MT5Model.from_pretrained("google/mt5-small")
    input_ids = tokenizer(
        "Studies have been shown that owning a dog is good for you", return_tensors="pt"
    ).input_ids
    decoder_input_ids = tokenizer("Studies show that", return_tensors="pt").input_ids
    decoder_input_ids = model._shift_right(decoder_input_ids)
    outputs = model(input_ids=input_ids, decoder_input_ids=decoder_input_ids)
    last_hidden_states = outputs.last_hidden_state
    assert last_hidden_states.shape == (*decoder_input_ids.shape, model.config.d_model)


def test_conditional_generation() -> None:
    from seq2seq_zoo import AutoTokenizer, MT5ForConditionalGeneration

    tokenizer = AutoTokenizer.from_pretrained("google/mt5-small")
    model = MT5ForConditionalGeneration.from_pretrained("google/mt5-small")

    input_ids = tokenizer("The <extra_id_0> walks in <extra_id_1> park", return_tensors="pt").input_ids
    labels = tokenizer("<extra_id_0> cute dog <extra_id_1> the <extra_id_2>", return_tensors="pt").input_ids
    assert {tokenizer.convert_tokens_to_ids(f"<extra_id_{i}>") for i in (0, 1)} <= set(input_ids[0].tolist())
    outputs = model(input_ids=input_ids, labels=labels)
    assert outputs.loss.isfinite()
    assert outputs.logits.shape[:2] == labels.shape

    input_ids = tokenizer(
        "summarize: studies have shown that owning a dog is good for you", return_tensors="pt"
    ).input_ids
    outputs = model.generate(input_ids)
    assert isinstance(tokenizer.decode(outputs[0], skip_special_tokens=True), str)


def test_encoder() -> None:
    from seq2seq_zoo import AutoTokenizer, MT5EncoderModel

    tokenizer = AutoTokenizer.from_pretrained("google/mt5-small")
    with pytest.warns(UserWarning, match="decoder"):
        model = MT5EncoderModel.from_pretrained("google/mt5-small")
    input_ids = tokenizer(
        "Studies have been shown that owning a dog is good for you", return_tensors="pt"
    ).input_ids
    outputs = model(input_ids=input_ids)
    assert outputs.last_hidden_state.shape == (*input_ids.shape, model.config.d_model)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_sequence_classification() -> None:
    from seq2seq_zoo import AutoTokenizer, MT5ForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained("google/mt5-small")
    model = MT5ForSequenceClassification.from_pretrained("google/mt5-small")
    inputs = tokenizer("Hello, my dog is cute", return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits
    predicted_class_id = logits.argmax().item()
    assert model.config.id2label[predicted_class_id] in ("LABEL_0", "LABEL_1")

    num_labels = len(model.config.id2label)
    model = MT5ForSequenceClassification.from_pretrained("google/mt5-small", num_labels=num_labels)
    labels = torch.tensor([1])
    loss = model(**inputs, labels=labels).loss
    assert round(loss.item(), 2) >= 0


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_multi_label_classification() -> None:
    from seq2seq_zoo import AutoTokenizer, MT5ForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained("google/mt5-small")
    model = MT5ForSequenceClassification.from_pretrained(
        "google/mt5-small", problem_type="multi_label_classification"
    )
    inputs = tokenizer("Hello, my dog is cute", return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits
    predicted_class_ids = torch.arange(0, logits.shape[-1])[torch.sigmoid(logits).squeeze(dim=0) > 0.5]
    num_labels = len(model.config.id2label)
    model = MT5ForSequenceClassification.from_pretrained(
        "google/mt5-small", num_labels=num_labels, problem_type="multi_label_classification"
    )
    labels = torch.sum(
        torch.nn.functional.one_hot(predicted_class_ids[None, :].clone(), num_classes=num_labels), dim=1
    ).to(torch.float)
    assert model(**inputs, labels=labels).loss.isfinite()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_token_classification() -> None:
    from seq2seq_zoo import AutoTokenizer, MT5ForTokenClassification

    tokenizer = AutoTokenizer.from_pretrained("google/mt5-small")
    model = MT5ForTokenClassification.from_pretrained("google/mt5-small")
    inputs = tokenizer(
        "HuggingFace is a company based in Paris and New York", add_special_tokens=False, return_tensors="pt"
    )
    with torch.no_grad():
        logits = model(**inputs).logits
    predicted_token_class_ids = logits.argmax(-1)
    predicted_tokens_classes = [model.config.id2label[t.item()] for t in predicted_token_class_ids[0]]
    assert len(predicted_tokens_classes) == inputs.input_ids.shape[1]
    loss = model(**inputs, labels=predicted_token_class_ids).loss
    assert loss.isfinite()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_question_answering() -> None:
    from seq2seq_zoo import AutoTokenizer, MT5ForQuestionAnswering

    tokenizer = AutoTokenizer.from_pretrained("google/mt5-small")
    model = MT5ForQuestionAnswering.from_pretrained("google/mt5-small")
    question, text = "Who was Jim Henson?", "Jim Henson was a nice puppet"
    inputs = tokenizer(question, text, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
    answer_start_index = outputs.start_logits.argmax()
    answer_end_index = outputs.end_logits.argmax()
    predict_answer_tokens = inputs.input_ids[0, answer_start_index : answer_end_index + 1]
    assert isinstance(tokenizer.decode(predict_answer_tokens, skip_special_tokens=True), str)

    target_start_index = torch.tensor([14])
    target_end_index = torch.tensor([15])
    outputs = model(**inputs, start_positions=target_start_index, end_positions=target_end_index)
    assert outputs.loss.isfinite()
