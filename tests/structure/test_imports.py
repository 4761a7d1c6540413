"""What `import seq2seq_zoo` costs and offers, each question in a fresh interpreter."""

import ast
import json
import os
import subprocess
import sys

import pytest

import seq2seq_zoo
from tests.structure.package import ROOT

# ---- the names of the contract ----

MVP = """
    MvpConfig MvpModel MvpForConditionalGeneration MvpForSequenceClassification MvpForQuestionAnswering
    MvpForCausalLM
"""
MT5 = """
    MT5Config MT5Model MT5ForConditionalGeneration MT5EncoderModel MT5ForSequenceClassification
    MT5ForTokenClassification MT5ForQuestionAnswering
"""
MEGA = """
    MegaConfig MegaModel MegaForCausalLM MegaForMaskedLM MegaForSequenceClassification MegaForMultipleChoice
    MegaForTokenClassification MegaForQuestionAnswering
"""
PHIMOE = "PhimoeConfig PhimoeModel PhimoeForCausalLM PhimoeForSequenceClassification"
BERT_GENERATION = """
    BertGenerationConfig BertGenerationEncoder BertGenerationDecoder EncoderDecoderConfig EncoderDecoderModel
"""
TOKENIZERS = """
    MvpTokenizer MvpTokenizerFast RobertaTokenizer MT5Tokenizer MT5TokenizerFast BertGenerationTokenizer
    BertTokenizer AutoTokenizer
"""
FRONT_DOOR = """
    AutoConfig AutoModel AutoModelForSeq2SeqLM AutoModelForCausalLM AutoModelForMaskedLM
    AutoModelForSequenceClassification AutoModelForTokenClassification AutoModelForQuestionAnswering
    AutoModelForMultipleChoice pipeline
"""
GENERATION = """
    GenerationConfig LogitsProcessor LogitsProcessorList StoppingCriteria StoppingCriteriaList TextStreamer
    TextIteratorStreamer GenerateDecoderOnlyOutput GenerateBeamDecoderOnlyOutput GenerateEncoderDecoderOutput
    GenerateBeamEncoderDecoderOutput
"""
ERRORS = "ZooError CheckpointError ConfigError"

CONTRACT = set(
    " ".join([MVP, MT5, MEGA, PHIMOE, BERT_GENERATION, TOKENIZERS, FRONT_DOOR, GENERATION, ERRORS]).split()
)
NOT_YET: set[str] = set()
"""Names of later issues. Whoever adds one takes it off this list."""
BESIDES = {
    "BitsAndBytesConfig",
    "BertTokenizerFast",
    "Config",
    "GenerationError",
    "LlamaTokenizerFast",
    "MissingExtraError",
    "PreTrainedTokenizerFast",
    "TokenizerError",
    "UsageError",
    "optimize",
}
"""Names we add to the contract's."""


@pytest.mark.parametrize("name", sorted(CONTRACT - NOT_YET))
def test_a_name_of_the_contract(name):
    assert getattr(seq2seq_zoo, name) is not None
    assert name in seq2seq_zoo.__all__
    assert name in dir(seq2seq_zoo)


@pytest.mark.parametrize("name", sorted(NOT_YET))
def test_a_name_of_a_later_issue(name):
    assert name in CONTRACT
    assert not hasattr(seq2seq_zoo, name), f"{name} is there now: take it off the list NOT_YET"


def test_no_name_goes_unlisted():
    assert set(seq2seq_zoo.__all__) == (CONTRACT - NOT_YET) | BESIDES


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="module 'seq2seq_zoo' has no attribute 'Nothing'"):
        seq2seq_zoo.Nothing  # noqa: B018  # the access is the test


# ---- what is imported ----


def run(code, *, blocked=()):
    """The JSON that `code` prints in a fresh interpreter, where importing a blocked module fails."""
    blocker = f"""
import importlib.abc, sys
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {set(blocked)!r}:
            raise ImportError(f"{{name}} is not installed here")
sys.meta_path.insert(0, Blocker())
"""
    done = subprocess.run(
        [sys.executable, "-c", blocker + code],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


LOADED = """
import json, sys
print(json.dumps(sorted(sys.modules)))
"""
HEAVY = {
    "torch",
    "numpy",
    "safetensors",
    "tokenizers",
    "sentencepiece",
    "huggingface_hub",
    "transformers",
    "tqdm",
}


def test_the_import_alone_loads_nothing_but_a_table():
    loaded = run("import seq2seq_zoo" + LOADED)
    assert [name for name in loaded if name.startswith("seq2seq_zoo")] == ["seq2seq_zoo"]
    assert not HEAVY & set(loaded)


@pytest.mark.parametrize(
    ("name", "absent"),
    [
        ("ZooError", HEAVY),
        ("MvpModel", {"tokenizers", "sentencepiece", "transformers"}),
        ("GenerationConfig", {"tokenizers", "sentencepiece", "transformers"}),
        ("MvpTokenizer", {"transformers"}),
    ],
)
def test_a_name_loads_no_more_than_it_needs(name, absent):
    loaded = set(run(f"from seq2seq_zoo import {name}" + LOADED))
    assert not absent & loaded
    assert "seq2seq_zoo.pipelines" not in loaded
    if name != "MvpTokenizer":
        assert "seq2seq_zoo.tokenization" not in loaded


OPTIONAL = ("transformers", "accelerate", "matplotlib", "jinja2", "torchao", "bitsandbytes", "google")


def test_everything_works_without_optional_libraries():
    """Every public name, and a model that is built, saved, loaded and writes."""
    found = run(
        """
import json, tempfile, torch, seq2seq_zoo
names = [name for name in seq2seq_zoo.__all__ if getattr(seq2seq_zoo, name) is not None]
written = []
for config, model in (
    (seq2seq_zoo.MvpConfig(vocab_size=9, d_model=4, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=4,
        decoder_ffn_dim=4, encoder_attention_heads=2, decoder_attention_heads=2, max_position_embeddings=20),
     seq2seq_zoo.MvpForConditionalGeneration),
    (seq2seq_zoo.MT5Config(vocab_size=9, d_model=4, d_kv=2, d_ff=4, num_layers=1, num_heads=2),
     seq2seq_zoo.MT5ForConditionalGeneration),
):
    with tempfile.TemporaryDirectory() as folder:
        model(config).save_pretrained(folder)
        loaded = model.from_pretrained(folder)
        text = loaded.generate(torch.tensor([[3, 4, 5]]), max_new_tokens=3, min_new_tokens=3)
        written.append(list(text.shape))
print(json.dumps([names, written]))
""",
        blocked=OPTIONAL,
    )
    assert set(found[0]) == set(seq2seq_zoo.__all__)
    assert found[1] == [[1, 4], [1, 4]]


def test_loading_does_not_wait_for_the_compiler():
    """PyTorch's compiler takes seconds to import, and the meta device is quick to ask for it."""
    loaded = run(
        """
import tempfile, torch, seq2seq_zoo
for cls, config in (
    (seq2seq_zoo.MegaForMaskedLM, seq2seq_zoo.MegaConfig(vocab_size=9, hidden_size=4, num_hidden_layers=1)),
    (seq2seq_zoo.BertGenerationDecoder, seq2seq_zoo.BertGenerationConfig(vocab_size=9, hidden_size=4,
        num_hidden_layers=1, num_attention_heads=2, is_decoder=True)),
    (seq2seq_zoo.MT5ForConditionalGeneration,
     seq2seq_zoo.MT5Config(vocab_size=9, d_model=4, d_kv=2, d_ff=4, num_layers=1, num_heads=2)),
):
    with tempfile.TemporaryDirectory() as folder:
        cls(config).save_pretrained(folder)
        model = cls.from_pretrained(folder)
model.generate(torch.tensor([[3, 4]]), max_new_tokens=3, num_beams=2)
"""
        + LOADED
    )
    assert "seq2seq_zoo.models.mt5" in loaded
    assert "torch._dynamo" not in loaded


def test_the_blocker_blocks():
    code = """
import json
try:
    import transformers
except ImportError as problem:
    print(json.dumps(str(problem)))
"""
    assert run(code, blocked=OPTIONAL) == "transformers is not installed here"


def test_type_checkers_see_the_same_names() -> None:
    stub = ast.parse((ROOT / "seq2seq_zoo" / "__init__.pyi").read_text())
    named = {
        alias.asname: f"{node.module}.{alias.name}"
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert named == {name: f"{module}.{name}" for name, module in seq2seq_zoo._HOME.items()}
