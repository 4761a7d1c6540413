"""`bundled:bert2bert`: small, right on unseen sentences, and read by the oracle alike; its pre-training."""

import random
import re
from pathlib import Path

import pytest
import torch
from bundled_fusion import LINKS, apart, fused, held_out_examples, known_words
from bundled_training import accuracy, answers
from make_bundled_bert2bert import SPECIAL, MaskedLanguageModel, fusions, masked_texts

import seq2seq_zoo
from seq2seq_zoo import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BertGenerationConfig,
    BertGenerationDecoder,
    BertGenerationEncoder,
    BertTokenizerFast,
    EncoderDecoderModel,
    pipeline,
)
from seq2seq_zoo.cli import main

WHERE = "bundled:bert2bert"
FOLDER = Path(seq2seq_zoo.__file__).parent / "bundled" / "bert2bert"
TALL = "Anna is tall. Anna likes tea."
TALL_FUSED = "Anna is tall and likes tea."


@pytest.fixture(scope="module")
def bert2bert():
    return AutoModelForSeq2SeqLM.from_pretrained(WHERE), AutoTokenizer.from_pretrained(WHERE)


def test_the_folder_is_small_and_complete() -> None:
    files = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert files.keys() >= {"config.json", "generation_config.json", "model.safetensors", "README.md"}
    assert files.keys() >= {"vocab.txt", "tokenizer_config.json"}
    assert sum(files.values()) <= 3_000_000


def test_the_classes(bert2bert) -> None:
    model, tokenizer = bert2bert
    assert type(model) is EncoderDecoderModel
    assert type(model.encoder) is BertGenerationEncoder
    assert type(model.decoder) is BertGenerationDecoder
    assert type(tokenizer) is BertTokenizerFast
    assert tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))) == [*SPECIAL, *known_words()]


@pytest.mark.parametrize("split", ["combinations", "pairs"])
def test_it_fuses_sentences_it_has_not_seen(bert2bert, split: str) -> None:
    pairs = [(apart(example), fused(example)) for example in held_out_examples(split, 300)]
    assert accuracy(*bert2bert, pairs) >= 0.95


@pytest.mark.parametrize("link", ["", *LINKS])
def test_it_knows_every_link(bert2bert, link: str) -> None:
    examples = [example for example in held_out_examples("combinations", 600) if example.link == link]
    assert accuracy(*bert2bert, [(apart(example), fused(example)) for example in examples[:60]]) >= 0.9


def test_the_examples_of_the_card(bert2bert) -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    examples = re.findall(r"^ {4}(\w.*?\.) {2,}(\w.*\.)$", card, re.MULTILINE)
    assert (TALL, TALL_FUSED) in examples
    assert len(examples) == 6
    assert answers(*bert2bert, [sentences for sentences, _ in examples]) == [
        sentence for _, sentence in examples
    ]


def test_the_pipeline_and_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    fuse = pipeline("text2text-generation", WHERE, device="cpu")
    assert fuse(TALL) == [{"generated_text": TALL_FUSED}]
    assert main(["run", "--task", "text2text-generation", "--model", WHERE, "--device", "cpu", TALL]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == (TALL_FUSED + "\n", "")


def test_beams_and_no_cache_write_the_same(bert2bert) -> None:
    model, tokenizer = bert2bert
    inputs = tokenizer([TALL, "Ben left. Meanwhile, Eva danced."], padding=True, return_tensors="pt")
    plain = model.generate(**inputs)
    assert torch.equal(model.generate(**inputs, use_cache=False), plain)
    beams = model.generate(**inputs, num_beams=3)
    assert tokenizer.batch_decode(beams, skip_special_tokens=True) == [
        TALL_FUSED,
        "While Ben left, Eva danced.",
    ]


def test_the_oracle_reads_the_files_alike(bert2bert) -> None:
    transformers = pytest.importorskip("transformers")
    model, tokenizer = bert2bert
    theirs, report = transformers.EncoderDecoderModel.from_pretrained(FOLDER, output_loading_info=True)
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    texts = [apart(example) for example in held_out_examples("pairs", 20)]
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    their_inputs = their_tokenizer(texts, padding=True, return_tensors="pt")
    assert their_inputs.keys() == inputs.keys()
    assert all(torch.equal(their_inputs[name], tensor) for name, tensor in inputs.items())
    written, expected = model.generate(**inputs), theirs.generate(**their_inputs)
    assert torch.equal(written, expected)
    assert tokenizer.batch_decode(written, skip_special_tokens=True) == their_tokenizer.batch_decode(
        expected, skip_special_tokens=True
    )


# ---- how it was made ----


def test_masked_texts_keep_their_length_and_are_texts_of_the_task() -> None:
    texts = next(masked_texts(random.Random(3)))
    either_side = {text for pair in next(fusions(random.Random(3))) for text in pair}
    tokenizer = AutoTokenizer.from_pretrained(WHERE)
    masks = words = 0
    for masked, text in texts:
        assert text in either_side
        one, other = tokenizer.tokenize(masked), tokenizer.tokenize(text)
        assert len(one) == len(other)
        assert all(a in (b, "[MASK]") for a, b in zip(one, other, strict=True))
        masks += one.count("[MASK]")
        words += len(re.findall(r"\w+", text))
    assert 0.2 < masks / words < 0.3


def test_pretraining_restores_masked_words_from_both_sides() -> None:
    torch.manual_seed(0)
    config = BertGenerationConfig(
        vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    model = MaskedLanguageModel(BertGenerationEncoder(config)).eval()
    ids = torch.tensor([[2, 4, 6, 3]])
    labels = torch.tensor([[2, 5, 6, -100]])
    out = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels)
    scores = out.logits.log_softmax(-1)[0]
    torch.testing.assert_close(out.loss, -(scores[0, 2] + scores[1, 5] + scores[2, 6]) / 3)
    changed = model(
        input_ids=torch.tensor([[2, 4, 6, 7]]), attention_mask=torch.ones_like(ids), labels=labels
    )
    assert not torch.allclose(changed.logits[0, 0], out.logits[0, 0])
    out.loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_card_compares_the_warm_start_with_random_weights() -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| .*, (\d+) steps \| ([\d.]+) % \| ([\d.]+) % \|$", card, re.MULTILINE)
    assert len(rows) == 6
    assert len({steps for steps, _, _ in rows}) == 3
