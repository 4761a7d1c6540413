"""GenerationConfig: defaults, precedence, files, ranges."""

import json

import pytest
import torch
import transformers

from seq2seq_zoo.errors import CheckpointError, GenerationError
from seq2seq_zoo.generation import GenerationConfig
from seq2seq_zoo.generation.config import OPTIONS
from seq2seq_zoo.generation.request import settle_options

OLD_ORACLE = transformers.__version__.startswith("4.")


@pytest.mark.skipif(
    not OLD_ORACLE, reason="transformers 5 moved the defaults into generate: a config's are all None"
)
def test_fields_and_defaults_are_the_oracles():
    theirs = transformers.GenerationConfig().to_dict()
    theirs.pop("transformers_version")
    theirs.pop("_from_model_config")
    theirs.pop("is_assistant")  # an inner mark of assisted decoding
    theirs["compile_config"] = None  # left out of its dictionary
    assert GenerationConfig().to_dict() == theirs


def test_an_option_is_given_or_has_its_default():
    config = GenerationConfig(num_beams=1, eos_token_id=torch.tensor([1, 2]))
    assert config.given == {"num_beams": 1, "eos_token_id": [1, 2]}
    assert config.max_length == 20
    config.num_beams = None
    assert config.num_beams == 1
    assert "num_beams" not in config.given
    config.top_k = None
    assert config.top_k is None
    assert "top_k" in config.given


def test_update_returns_what_is_no_option():
    config = GenerationConfig()
    assert config.update(num_beams=3, input_ids=7) == {"input_ids": 7}
    assert config.num_beams == 3


def test_equality():
    assert GenerationConfig(num_beams=2) == GenerationConfig(num_beams=2)
    assert GenerationConfig(num_beams=1) == GenerationConfig()
    assert GenerationConfig(num_beams=2) != GenerationConfig(num_beams=3)
    assert GenerationConfig() != {}
    assert GenerationConfig.from_dict({"transformers_version": "4.1"}) == GenerationConfig()
    assert GenerationConfig.from_dict({"house_key": 1}) != GenerationConfig()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 4, "length_penalty": 0.5, "eos_token_id": [2, 3], "early_stopping": "never"},
        {
            "do_sample": True,
            "top_k": 0,
            "bad_words_ids": [[1], [2, 3]],
            "sequence_bias": {(4, 5): -1.5, (6,): 2.0},
        },
    ],
)
def test_files_are_read_by_both(tmp_path, options):
    ours = GenerationConfig(**options)
    ours.save_pretrained(tmp_path / "new")
    assert GenerationConfig.from_pretrained(tmp_path / "new").to_json_string() == ours.to_json_string()
    theirs = transformers.GenerationConfig.from_pretrained(tmp_path / "new")
    for name, value in options.items():
        if name == "sequence_bias":
            value = [[list(ids), bias] for ids, bias in value.items()]
        assert getattr(theirs, name) == value
    theirs.save_pretrained(tmp_path / "back")
    assert GenerationConfig.from_pretrained(tmp_path / "back").given == json.loads(ours.to_json_string())


def test_unknown_keys_are_kept_and_saved_again(tmp_path):
    (tmp_path / "generation_config.json").write_text(
        '{"num_beams": 2, "house_key": [1], "transformers_version": "4.0"}'
    )
    config = GenerationConfig.from_pretrained(tmp_path, num_beams=5)
    assert config.num_beams == 5
    config.save_pretrained(tmp_path / "again")
    saved = json.loads((tmp_path / "again" / "generation_config.json").read_text())
    assert saved == {"num_beams": 5, "house_key": [1], "transformers_version": "4.0"}


DEEP = [f'{{"x": {"[" * n}{"]" * n}}}' for n in (500, 50_000)]


@pytest.mark.parametrize("text", ["{", "[]", "", *DEEP], ids=lambda text: text[:9])
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"generation_config\.json"):
        GenerationConfig.from_pretrained(tmp_path)


def test_a_file_with_an_impossible_value_is_named(tmp_path):
    (tmp_path / "generation_config.json").write_text('{"num_beams": 0}')
    with pytest.raises(
        GenerationError, match=r"generation_config\.json.*num_beams must be an integer ≥ 1, but is 0"
    ):
        GenerationConfig.from_pretrained(tmp_path)


def test_options_in_an_old_config_json():
    config = GenerationConfig.from_model_config(
        {"model_type": "mvp", "d_model": 3, "early_stopping": None, "num_beams": 5, "forced_eos_token_id": 2}
    )
    assert config.given == {"num_beams": 5, "forced_eos_token_id": 2}
    pair = GenerationConfig.from_model_config(
        {
            "is_encoder_decoder": True,
            "eos_token_id": 3,
            "pad_token_id": None,
            "decoder": {"eos_token_id": 9, "pad_token_id": 8},
        }
    )
    assert (pair.eos_token_id, pair.pad_token_id) == (3, 8)
    assert GenerationConfig.from_model_config({"output_attentions": True}).return_dict_in_generate


WRONG = {
    "max_length": [0, -3, 2.5, True, "20", 2**63],
    "max_new_tokens": [0, -1, 1.0],
    "min_length": [-1, 0.5],
    "min_new_tokens": [-1],
    "num_beams": [0, -2, 2.0, True, 2**70],
    "num_return_sequences": [0, -1, 1.5],
    "early_stopping": ["sometimes", 1, 0],
    "do_sample": [1, "yes"],
    "use_cache": [1],
    "cache_implementation": ["quick"],
    "length_penalty": [float("nan"), float("inf"), "1"],
    "temperature": [-0.1, float("nan"), float("inf"), "hot"],
    "top_k": [-1, 1.5],
    "top_p": [0, 0.0, 1.01, -0.5],
    "min_p": [-0.1, 1.5],
    "typical_p": [0.0, 1.1],
    "epsilon_cutoff": [-0.1, 1.0],
    "eta_cutoff": [-0.1, 1.0],
    "repetition_penalty": [0, -1.0, 2**70],
    "encoder_repetition_penalty": [0.0],
    "no_repeat_ngram_size": [-1, 1.5],
    "encoder_no_repeat_ngram_size": [-1],
    "bad_words_ids": [[], [[]], [3], [[-1]], [["a"]]],
    "sequence_bias": [{}, {(): 1.0}, {(1,): "a"}, [[1, 2.0]], 3],
    "forced_bos_token_id": [-1, [1]],
    "forced_eos_token_id": [-1, []],
    "suppress_tokens": [[-1], 3],
    "exponential_decay_length_penalty": [(1,), (1, 0), (-1, 1.1), 3, (5, 10**400)],
    "pad_token_id": [-1, 1.0, [1], 2**63],
    "eos_token_id": [-1, [1, -1], [], "a", 2**63, [1, 2**70]],
    "decoder_start_token_id": [-1, []],
    "max_time": [0, -1.0],
    "guidance_scale": [-1, float("inf"), 2**70],
    "prefill_chunk_size": [0, 2.5],
    "prompt_lookup_num_tokens": [0],
    "stop_strings": ["", [], [1]],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_values_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be .*, but is ") as caught:
        GenerationConfig(**{name: value})
    assert isinstance(caught.value, GenerationError)
    config = GenerationConfig()
    with pytest.raises(GenerationError, match=name):
        setattr(config, name, value)
    assert config == GenerationConfig()


def test_a_misspelt_option_is_refused_with_the_nearest():
    with pytest.raises(GenerationError, match=r"num_beam'.*num_beams"):
        GenerationConfig(num_beam=3)
    with pytest.raises(GenerationError, match="save"):
        GenerationConfig().save = 1


def test_every_option_has_a_documented_default():
    assert len(OPTIONS) > 60
    assert GenerationConfig().given == {}


# ---- precedence: kwargs > given > checkpoint's > defaults ----


class Named:
    generation_inputs = frozenset(("input_ids",))

    def __init__(self, **options):
        self.generation_config = GenerationConfig(**options)


def settled(model, given=None, keywords=None, use_model_defaults=None):
    return settle_options(model, given, keywords or {}, (), use_model_defaults)[0]


def test_precedence():
    model = Named(num_beams=4, length_penalty=2.0, eos_token_id=7, min_length=3)
    given = GenerationConfig(num_beams=2, length_penalty=1.0, min_length=5)
    config = settled(model, given, {"min_length": 6})
    assert (config.num_beams, config.length_penalty, config.min_length, config.eos_token_id) == (2, 1.0, 6, 7)
    # a given value overrides although it is the default
    assert settled(model, GenerationConfig(num_beams=1)).num_beams == 1
    # None: off where that is possible, no wish elsewhere
    config = settled(model, None, {"eos_token_id": None, "num_beams": None})
    assert (config.eos_token_id, config.num_beams) == (None, 4)
    config = settled(model, GenerationConfig(min_length=5), None, use_model_defaults=False)
    assert (config.num_beams, config.eos_token_id, config.min_length) == (1, 7, 5)


def test_the_levels_are_not_changed():
    model, given = Named(num_beams=4), GenerationConfig(min_length=2)
    settled(model, given, {"num_beams": 2, "max_length": 9})
    assert model.generation_config.given == {"num_beams": 4}
    assert given.given == {"min_length": 2}
