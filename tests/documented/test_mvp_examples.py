"""The examples of MVP's documentation with the import line changed, on tiny models of the same names."""

from __future__ import annotations

import warnings

import pytest
import torch

ASKED = (
    "Summarize: You may want to stick it to your boss and leave your job, but don't do it if these are your "
    "reasons."
)


def test_summarization() -> None:
    from seq2seq_zoo import MvpForConditionalGeneration, MvpTokenizer

    tokenizer = MvpTokenizer.from_pretrained("RUCAIBox/mvp")
    model = MvpForConditionalGeneration.from_pretrained("RUCAIBox/mvp")
    model_with_prompt = MvpForConditionalGeneration.from_pretrained("RUCAIBox/mvp-summarization")

    inputs = tokenizer(ASKED, return_tensors="pt")
    generated_ids = model.generate(**inputs)
    texts = tokenizer.batch_decode(generated_ids, skip_special_tokens=True)
    assert len(texts) == 1
    assert isinstance(texts[0], str)

    generated_ids = model_with_prompt.generate(**inputs)
    assert len(tokenizer.batch_decode(generated_ids, skip_special_tokens=True)) == 1


def test_data_to_text() -> None:
    from seq2seq_zoo import MvpForConditionalGeneration, MvpTokenizerFast

    tokenizer = MvpTokenizerFast.from_pretrained("RUCAIBox/mvp")
    model_with_mtl = MvpForConditionalGeneration.from_pretrained("RUCAIBox/mtl-data-to-text")

    inputs = tokenizer(
        "Describe the following data: Iron Man | instance of | Superhero [SEP] Stan Lee | creator | Iron Man",
        return_tensors="pt",
    )
    generated_ids = model_with_mtl.generate(**inputs)
    assert generated_ids.shape[0] == 1
    assert generated_ids[0, 0] == 2
    assert len(tokenizer.batch_decode(generated_ids, skip_special_tokens=True)) == 1


def test_lightweight_tuning() -> None:
    from seq2seq_zoo import MvpForConditionalGeneration

    with pytest.warns(UserWarning, match="prompt"):
        model = MvpForConditionalGeneration.from_pretrained("RUCAIBox/mvp", use_prompt=True)
    everything = sum(p.numel() for p in model.parameters() if p.requires_grad)
    model.set_lightweight_tuning()
    tuned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert 0 < tuned < everything

    model = MvpForConditionalGeneration.from_pretrained("RUCAIBox/mtl-data-to-text")
    model.set_lightweight_tuning()
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == tuned

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = MvpForConditionalGeneration.from_pretrained("facebook/bart-large", use_prompt=True)
    model.set_lightweight_tuning()
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == tuned


def test_configuration() -> None:
    from seq2seq_zoo import MvpConfig, MvpModel

    configuration = MvpConfig()
    with torch.device("meta"):
        model = MvpModel(configuration)
    assert model.config is configuration


def test_roberta_tokenizer() -> None:
    from seq2seq_zoo import RobertaTokenizer

    tokenizer = RobertaTokenizer.from_pretrained("FacebookAI/roberta-base")
    plain = tokenizer("Hello world")["input_ids"]
    spaced = tokenizer(" Hello world")["input_ids"]
    assert plain[0] == spaced[0] == 0
    assert plain[-1] == spaced[-1] == 2
    assert plain != spaced  # a space before a word is a part of it
    assert tokenizer.decode(plain, skip_special_tokens=True) == "Hello world"


def test_conditional_generation() -> None:
    from seq2seq_zoo import AutoTokenizer, MvpForConditionalGeneration

    tokenizer = AutoTokenizer.from_pretrained("RUCAIBox/mvp")
    model = MvpForConditionalGeneration.from_pretrained("RUCAIBox/mvp")

    inputs = tokenizer(ASKED, return_tensors="pt")
    labels = tokenizer("Bad Reasons To Quit Your Job", return_tensors="pt")["input_ids"]
    loss = model(**inputs, labels=labels).loss
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())

    with torch.no_grad():
        generated_ids = model.generate(**inputs)
    assert tokenizer.batch_decode(generated_ids, skip_special_tokens=True)


def test_sequence_classification() -> None:
    from seq2seq_zoo import AutoTokenizer, MvpForSequenceClassification

    num_labels = 2
    tokenizer = AutoTokenizer.from_pretrained("RUCAIBox/mvp")
    with pytest.warns(UserWarning, match="classification_head"):
        model = MvpForSequenceClassification.from_pretrained("RUCAIBox/mvp", num_labels=num_labels)

    inputs = tokenizer("Classify: Hello, my dog is cute", return_tensors="pt")
    labels = torch.tensor(1)
    loss = model(**inputs, labels=labels).loss
    loss.backward()

    with torch.no_grad():
        logits = model(**inputs).logits
    assert logits.shape == (1, num_labels)
    assert logits.argmax() in (0, 1)


def test_question_answering() -> None:
    from seq2seq_zoo import AutoTokenizer, MvpForQuestionAnswering

    tokenizer = AutoTokenizer.from_pretrained("RUCAIBox/mvp")
    with pytest.warns(UserWarning, match="qa_outputs"):
        model = MvpForQuestionAnswering.from_pretrained("RUCAIBox/mvp")

    inputs = tokenizer(
        "Answer the following question: Who was Jim Henson? [SEP] Jim Henson was a nice puppet",
        return_tensors="pt",
    )
    target_start_index = torch.tensor([18])
    target_end_index = torch.tensor([19])
    loss = model(**inputs, start_positions=target_start_index, end_positions=target_end_index).loss
    loss.backward()

    with torch.no_grad():
        outputs = model(**inputs)
    answer_start_index = outputs.start_logits.argmax()
    answer_end_index = outputs.end_logits.argmax()
    predict_answer_tokens = inputs.input_ids[0, answer_start_index : answer_end_index + 1]
    assert isinstance(tokenizer.decode(predict_answer_tokens), str)


def test_causal_language_model() -> None:
    from seq2seq_zoo import AutoTokenizer, MvpForCausalLM

    tokenizer = AutoTokenizer.from_pretrained("RUCAIBox/mvp")
    with pytest.warns(UserWarning, match="encoder"):  # which a decoder alone has no use for
        model = MvpForCausalLM.from_pretrained("RUCAIBox/mvp", add_cross_attention=False)

    inputs = tokenizer("Hello, my dog is cute", return_tensors="pt")
    outputs = model(**inputs)
    logits = outputs.logits
    assert list(logits.shape) == [1, inputs.input_ids.shape[1], model.config.vocab_size]
