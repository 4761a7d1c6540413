"""BitsAndBytesConfig: as documented, beside transformers on the same file, and without the library."""

import importlib.util

import pytest
import torch

import seq2seq_zoo as zoo
from seq2seq_zoo.errors import ConfigError, MissingExtraError, UsageError
from seq2seq_zoo.inference.bitsandbytes import BitsAndBytesLinear
from tests.inference.conftest import arguments, logits

needs_library = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None,
    reason="bitsandbytes is not installed (extra: bitsandbytes)",
)
quiet = pytest.mark.filterwarnings("ignore")  # of the library's


@pytest.fixture(scope="module")
def folders(built, tmp_path_factory):
    made = {}
    for name in ("mt5", "bert2bert", "phimoe"):
        made[name] = tmp_path_factory.mktemp(name)
        built[name].save_pretrained(made[name])
    return made


def error(found, expected):
    return float((found.float() - expected.float()).norm() / expected.float().norm())


OPTIONS = {
    "nf4": ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, 0.25),
    "nf4 twice": (
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
        0.25,
    ),
    "fp4 in bfloat16": ({"load_in_4bit": True, "bnb_4bit_compute_dtype": "bfloat16"}, 0.35),
    "int8": ({"load_in_8bit": True}, 0.05),
}


@needs_library
@quiet
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("family", ["mt5", "bert2bert", "phimoe"])
def test_rounded_weights_stay_near(built, folders, family, options):
    fields, limit = OPTIONS[options]
    kind = type(built[family])
    model = kind.from_pretrained(folders[family], quantization_config=zoo.BitsAndBytesConfig(**fields))
    assert not model.training
    found = logits(model)
    # A random mT5, whose scores nobody scales, makes more of an error; in PhiMoE tokens change their experts.
    limit = {"bert2bert": limit, "mt5": 2 * limit, "phimoe": 1.0}[family]
    assert 0 < error(found, logits(built[family])) < limit
    rounded = [name for name, part in model.named_modules() if isinstance(part, BitsAndBytesLinear)]
    assert rounded
    assert not [name for name in rounded if "lm_head" in name or "router" in name]
    given = {name: value for name, value in arguments(model).items() if "decoder" not in name}
    assert model.generate(**given, max_new_tokens=3, min_new_tokens=3, num_beams=2).shape[0] == 2


@needs_library
@quiet
@pytest.mark.parametrize("options", OPTIONS)
def test_as_transformers_rounds(tmp_path, options):
    """The oracle's layers, of the same library, on the same file: the same numbers.

    All shapes are multiples of 64: of others the oracle's nf4 and fp4 fail on a CPU with 16-bit products.
    """
    transformers = pytest.importorskip("transformers")
    if importlib.util.find_spec("accelerate") is None:
        pytest.skip("transformers quantizes with accelerate only, which is not installed")
    config = zoo.MT5Config(vocab_size=640, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4)
    torch.manual_seed(0)
    zoo.MT5ForConditionalGeneration(config).save_pretrained(tmp_path)
    fields, _ = OPTIONS[options]
    skipped = ["lm_head"]  # what the oracle keeps besides, the last matrix of a block, we name for both
    ours = zoo.MT5ForConditionalGeneration.from_pretrained(
        tmp_path, quantization_config=zoo.BitsAndBytesConfig(**fields, llm_int8_skip_modules=["down"])
    )
    theirs = transformers.MT5ForConditionalGeneration.from_pretrained(
        tmp_path,
        dtype=torch.float32,  # which it would make float16 by itself
        quantization_config=transformers.BitsAndBytesConfig(**fields, llm_int8_skip_modules=[*skipped, "wo"]),
    )
    with torch.no_grad():
        expected = theirs(**arguments(ours)).logits
    assert error(logits(ours), expected) < 0.02


@needs_library
@quiet
def test_a_layer_is_the_librarys_own(folders, built):
    from bitsandbytes import functional

    config = zoo.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = zoo.MT5ForConditionalGeneration.from_pretrained(folders["mt5"], quantization_config=config)
    name = "model.encoder.layers.0.feed_forward.up"
    weight = built["mt5"].get_submodule(name).weight.detach()
    rounded = functional.dequantize_4bit(*functional.quantize_4bit(weight, quant_type="nf4"))
    x = torch.randn(3, 64)
    with torch.no_grad():
        assert error(model.get_submodule(name)(x), x @ rounded.t()) < 0.01


@needs_library
@quiet
def test_what_stays(folders, tmp_path):
    config = zoo.BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["encoder", "layers.0"])
    model = zoo.MT5ForConditionalGeneration.from_pretrained(folders["mt5"], quantization_config=config)
    rounded = {name for name, part in model.named_modules() if isinstance(part, BitsAndBytesLinear)}
    assert rounded
    assert all(name.startswith("model.decoder.layers.1.") for name in rounded)
    with pytest.raises(UsageError, match="cannot be saved"):
        model.save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="optimize another copy"):
        zoo.optimize(model)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "neither of load_in_4bit and load_in_8bit are set"),
        ({"load_in_4bit": True, "load_in_8bit": True}, "both of load_in_4bit and load_in_8bit are set"),
        ({"load_in_4bit": 1}, "load_in_4bit is 1; it must be True or False"),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "int4"}, "bnb_4bit_quant_type is 'int4'; it must be"),
        ({"load_in_4bit": True, "bnb_4bit_compute_dtype": "int8"}, "bnb_4bit_compute_dtype is 'int8'"),
        ({"load_in_8bit": True, "llm_int8_threshold": "6"}, "llm_int8_threshold is '6'; it must be a number"),
    ],
)
def test_impossible_configs(fields, message):
    with pytest.raises(ConfigError, match=message):
        zoo.BitsAndBytesConfig(**fields)


def test_names_of_dtypes():
    config = zoo.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype="bfloat16")
    assert config.bnb_4bit_compute_dtype is torch.bfloat16
    assert config == zoo.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16)


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    config = zoo.BitsAndBytesConfig(load_in_8bit=True)
    with pytest.raises(MissingExtraError, match=r"pip install 'seq2seq-zoo\[bitsandbytes\]'"):
        zoo.MT5ForConditionalGeneration.from_pretrained("nowhere", quantization_config=config)
    with pytest.raises(ConfigError, match="quantization_config is a dict; it must be a BitsAndBytesConfig"):
        zoo.MT5ForConditionalGeneration.from_pretrained("nowhere", quantization_config={"load_in_8bit": True})
