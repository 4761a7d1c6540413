"""config.json: the defaults of both oracles, files they saved, and files we save, field by field."""

import json

import pytest
import torch
import transformers

from seq2seq_zoo import AutoConfig, MT5Config, MvpConfig
from tests.config.make_saved_configs import CASES, SAVED, SMALL_MT5, SMALL_MVP, saved_configs
from tests.oracle import MAJOR

VERSIONS = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(SAVED.glob("*.json"))}
OURS = {"mvp": MvpConfig, "mt5": MT5Config, "bart": MvpConfig}

# Fields of the oracle's configs that ours deliberately have not; a file's values of these are kept as extras.
GENERATION = """
    max_length min_length do_sample early_stopping num_beams temperature top_k top_p typical_p
    repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids
    num_return_sequences output_scores return_dict_in_generate forced_bos_token_id remove_invalid_values
    num_beam_groups diversity_penalty exponential_decay_length_penalty suppress_tokens begin_suppress_tokens
"""
"""Of GenerationConfig; read from a config.json that has them, but no fields of a model."""
OF_TRANSFORMERS = """
    torchscript pruned_heads chunk_size_feed_forward cross_attention_hidden_size tie_encoder_decoder prefix
    finetuning_task task_specific_params tf_legacy_loss use_bfloat16 transformers_version _name_or_path
"""
"""How transformers itself runs or was used: nothing a model is made of."""
OF_TOKENIZERS = "tokenizer_class sep_token_id"
AN_ALIAS_OF_OURS = "num_hidden_layers"
ABSENT = {*GENERATION.split(), *OF_TRANSFORMERS.split(), *OF_TOKENIZERS.split(), AN_ALIAS_OF_OURS}
ABSENT_FROM = {"mvp": ABSENT, "bart": ABSENT, "mt5": ABSENT | {"forced_eos_token_id"}}

# What one oracle says otherwise, and we with the other.
DIVERGENT = {
    ("5.23.0", "mt5", "tie_word_embeddings"),  # True there, False in 4.57.6 and in the released checkpoints
}
ONLY_OURS = {
    "4.57.6": {"mvp": set(), "mt5": set(), "bart": {"use_prompt", "prompt_length", "prompt_mid_dim"}},
    "5.23.0": {
        "mvp": {"forced_eos_token_id", "add_cross_attention"},
        "mt5": {"add_cross_attention"},
        "bart": {"use_prompt", "prompt_length", "prompt_mid_dim", "add_cross_attention"},
    },
}
"""Fields of ours that a version no longer has; those of prompts, BART never had."""


def as_json(value):
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    return json.loads(json.dumps(value))


def family(name):
    return name.split()[0]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", ["mvp", "mt5"])
def test_defaults_field_by_field(version, kind):
    full = VERSIONS[version][kind]["full"]
    ours = OURS[kind]()
    assert full["model_type"] == ours.model_type
    compared = 0
    for name, value in full.items():
        if name in ABSENT_FROM[kind] or name == "model_type":
            assert name not in ours.fields(), f"{name} is listed as absent"
        elif (version, kind, name) in DIVERGENT:
            assert as_json(getattr(ours, name)) != value, f"{name} is listed as divergent"
        else:
            assert as_json(getattr(ours, name)) == value, name
            compared += 1
    assert compared >= 25
    assert set(ours.fields()) - set(full) == ONLY_OURS[version][kind]


def test_both_oracles_are_represented():
    assert set(VERSIONS) == {"4.57.6", "5.23.0"} == set(ONLY_OURS)


@pytest.mark.skipif(transformers.__version__ not in VERSIONS, reason="no file of this version")
def test_the_file_of_the_installed_version_is_what_it_saves():
    assert saved_configs() == VERSIONS[transformers.__version__]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("auto", [False, True])
def test_what_an_oracle_saved_loads_with_equal_fields(version, name, auto, tmp_path):
    saved, full = VERSIONS[version][name]["saved"], VERSIONS[version][name]["full"]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    ours = (AutoConfig if auto else OURS[family(name)]).from_pretrained(tmp_path)
    assert type(ours) is OURS[family(name)]
    for field in ours.fields():
        if field in full:
            assert as_json(getattr(ours, field)) == full[field], field
        else:
            assert field in ONLY_OURS[version][family(name)]
            assert getattr(ours, field) == getattr(type(ours), field)
    for key, value in saved.items():
        if key in ABSENT_FROM[family(name)] and key != AN_ALIAS_OF_OURS:
            assert getattr(ours, key) == value, "a key that no field knows is readable"
            assert ours.to_dict()[key] == value, "and saved again"


@pytest.mark.parametrize("name", [name for name in CASES if family(name) != "bart"])
def test_what_we_save_loads_in_the_oracle_with_equal_fields(name, tmp_path):
    kind, fields = CASES[name]
    ours = OURS[family(name)](**fields)
    ours.save_pretrained(tmp_path)
    theirs = getattr(transformers, kind).from_pretrained(tmp_path)
    for field in ours.fields():
        value = getattr(theirs, field, getattr(ours, field))
        if MAJOR == 5 and field == "tie_word_embeddings" and family(name) == "mt5":
            assert value is True, "the oracle's config holds no other value"
        else:
            assert as_json(getattr(ours, field)) == as_json(value), field


@pytest.mark.parametrize("name", [name for name in CASES if family(name) != "bart"])
def test_our_own_round_trips(name, tmp_path):
    kind = OURS[family(name)]
    ours = kind(**CASES[name][1], of_nobody={"a": [1, None]})
    ours.save_pretrained(tmp_path)
    assert kind.from_pretrained(tmp_path) == ours
    assert kind.from_dict(ours.to_dict()) == ours
    assert kind.from_dict(json.loads(ours.to_json_string())) == ours
    assert AutoConfig.from_pretrained(tmp_path) == ours
    assert AutoConfig.for_model(ours.model_type, **CASES[name][1], of_nobody={"a": [1, None]}) == ours
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads(ours.to_json_string())


def test_configs_that_differ_are_not_equal():
    assert MvpConfig() == MvpConfig()
    assert MvpConfig() != MvpConfig(dropout=0.2)
    assert MvpConfig() != MvpConfig(of_nobody=1)
    assert MvpConfig() != MT5Config()
    assert MvpConfig() != MvpConfig().to_dict()


def test_a_config_owns_what_it_holds():
    labels = {0: "a", 1: "b"}
    config = MvpConfig(id2label=labels, eos_token_id=[2, 3], of_nobody=[1])
    inside = config.to_dict()
    inside["id2label"][0] = "changed"
    inside["eos_token_id"].append(9)
    inside["of_nobody"].append(9)
    labels[0] = "changed"
    assert config.id2label == {0: "a", 1: "b"}
    assert config.eos_token_id == [2, 3]
    assert config.of_nobody == [1]


# ---- keys of older files ----


@pytest.mark.parametrize(
    ("keys", "dtype"),
    [
        ({"torch_dtype": "float16"}, torch.float16),
        ({"dtype": "bfloat16"}, torch.bfloat16),
        ({"dtype": "float32", "torch_dtype": "float16"}, torch.float32),
        ({"torch_dtype": "float16", "dtype": "float32"}, torch.float32),
        ({"torch_dtype": None}, None),
        ({}, None),
    ],
)
def test_old_and_new_name_of_dtype(keys, dtype):
    config = MvpConfig.from_dict(keys)
    assert config.dtype == config.torch_dtype == dtype
    assert config.to_dict().get("dtype") == (None if dtype is None else as_json(dtype))
    assert "torch_dtype" not in config.to_dict()
    theirs = transformers.MvpConfig.from_dict(dict(keys))
    assert as_json(theirs.dtype) == as_json(dtype)


@pytest.mark.parametrize("version", VERSIONS)
def test_bart_reads_with_barts_defaults(version):
    """Its vocabulary is two tokens smaller. BART's classes have three labels by default, but a file that says
    nothing of labels has two: no version leaves three out, and 5.x, as early ones, leaves two out."""
    full = VERSIONS[version]["bart"]["full"]
    bare = MvpConfig.from_dict({"model_type": "bart"})
    assert len(transformers.BartConfig.from_dict({}).id2label) == 3, "what the oracle makes of silence"
    assert bare.vocab_size == full["vocab_size"] == 50265
    assert bare.num_labels == 2
    assert "id2label" in VERSIONS[version]["bart"]["saved"]
    assert ("id2label" in VERSIONS[version]["bart two labels"]["saved"]) == (version == "4.57.6")
    for field in bare.fields():
        if field in full and field not in ("id2label", "label2id"):
            assert as_json(getattr(bare, field)) == full[field], field
    assert MvpConfig.from_dict({"model_type": "bart", "vocab_size": 57}).vocab_size == 57
    assert MvpConfig.from_dict({"model_type": "bart"}, vocab_size=58).vocab_size == 58
    assert MvpConfig.from_dict({"model_type": "bart", "num_labels": 3}).num_labels == 3
    assert MvpConfig.from_dict({"model_type": "bart", "id2label": {"0": "a"}}).id2label == {0: "a"}
    assert bare.to_dict()["model_type"] == "mvp", "it is saved as what it has become"
    assert MvpConfig.from_dict({"model_type": "mvp"}).vocab_size == 50267
    assert MvpConfig.from_dict({}).vocab_size == 50267


# ---- overrides ----

OVERRIDES = [
    ("mvp", {"dropout": 0.5, "encoder_layers": 2}),
    ("mvp", {"hidden_size": 24, "num_attention_heads": 4}),
    ("mvp", {"num_labels": 4}),
    ("mvp", {"num_labels": 2}),
    ("mvp", {"id2label": {0: "x", 1: "y", 2: "z", 3: "w"}, "label2id": {"x": 0, "y": 1, "z": 2, "w": 3}}),
    ("mvp", {"dtype": "bfloat16"}),
    ("mvp", {"problem_type": "regression"}),
    ("mt5", {"num_layers": 5}),
    ("mt5", {"num_heads": 7, "head_dim": 5, "num_decoder_layers": 4}),
    ("mt5", {"tie_word_embeddings": True}),
]


@pytest.mark.parametrize(("kind", "overrides"), OVERRIDES)
@pytest.mark.parametrize("labelled", [False, True])
def test_overrides_as_the_oracles(kind, overrides, labelled, tmp_path):
    small = SMALL_MVP if kind == "mvp" else SMALL_MT5
    labels = {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}} if labelled else {}
    their_class = getattr(transformers, OURS[kind].__name__)
    their_class(**small, **labels).save_pretrained(tmp_path)
    theirs = their_class.from_pretrained(tmp_path, **overrides)
    ours = OURS[kind].from_pretrained(tmp_path, **overrides)
    for name in overrides:
        value = overrides[name]
        assert as_json(getattr(ours, name)) == as_json(value), name
    for field in ours.fields():
        if hasattr(theirs, field):
            assert as_json(getattr(ours, field)) == as_json(getattr(theirs, field)), field


@pytest.mark.parametrize(
    ("saved", "override", "activation", "gated"),
    [
        ("gated-gelu", "relu", "relu", False),
        ("relu", "gated-gelu", "gelu_new", True),
        ("relu", "gated-silu", "silu", True),
        ("gated-silu", "gelu", "gelu", False),
    ],
)
def test_another_feed_forward_proj_takes_its_activation_along(saved, override, activation, gated, tmp_path):
    """The oracle keeps the activation of the file beside the new name (tests/DIVERGENCES.md)."""
    transformers.MT5Config(feed_forward_proj=saved).save_pretrained(tmp_path)
    ours = MT5Config.from_pretrained(tmp_path, feed_forward_proj=override)
    fresh = transformers.MT5Config(feed_forward_proj=override)
    assert (ours.dense_act_fn, ours.is_gated_act) == (activation, gated)
    assert (fresh.dense_act_fn, fresh.is_gated_act) == (activation, gated)
    theirs = transformers.MT5Config.from_pretrained(tmp_path, feed_forward_proj=override)
    assert theirs.feed_forward_proj == override
    assert (theirs.dense_act_fn, theirs.is_gated_act) != (activation, gated)


def test_an_activation_that_a_file_names_itself_is_kept():
    saved = {
        "model_type": "mt5",
        "feed_forward_proj": "gated-gelu",
        "dense_act_fn": "gelu",
        "is_gated_act": True,
    }
    assert MT5Config.from_dict(saved).dense_act_fn == "gelu"
    assert transformers.MT5Config.from_dict(dict(saved)).dense_act_fn == "gelu"
