"""PhimoeConfig: defaults of both oracles, rotary positions told in either of two ways, what is refused."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import transformers

from seq2seq_zoo import AutoConfig, ConfigError, PhimoeConfig
from tests.oracle import MAJOR

SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 61,
}
SCALING: dict[str, Any] = {
    "type": "longrope",
    "short_factor": [1.0, 1.3],
    "long_factor": [2, 5],
    "short_mscale": 1.1,
    "long_mscale": 1.3,
    "original_max_position_embeddings": 8,
}
OF_5 = {"rope_type": "longrope", "rope_theta": 77.0, **{k: v for k, v in SCALING.items() if k != "type"}}


def test_defaults_field_by_field() -> None:
    full, ours = transformers.PhimoeConfig().to_dict(), PhimoeConfig()
    compared = 0
    for name in ours.fields():
        if name in full and name != "dtype":
            value = getattr(ours, name)
            assert json.loads(json.dumps(value)) == json.loads(json.dumps(full[name])), name
            compared += 1
    assert compared >= 25
    if MAJOR == 5:
        assert ours.rope_parameters == full["rope_parameters"]


def test_two_ways_to_tell_rotary_positions() -> None:
    of_4 = PhimoeConfig(**SMALL, rope_theta=77.0, rope_scaling=SCALING)
    of_5 = PhimoeConfig(**SMALL, rope_parameters=OF_5)
    for config in (of_4, of_5):
        assert config.rope_theta == 77.0
        assert config.rope_parameters == OF_5
        assert config.original_length == 8
    plain = PhimoeConfig(rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    assert plain == PhimoeConfig(rope_theta=5e5)
    assert plain.rope_parameters == {"rope_type": "default", "rope_theta": 5e5}
    assert plain.rope_scaling is None
    assert PhimoeConfig(rope_parameters={"rope_type": "default"}).rope_theta == 1e6
    assert PhimoeConfig(rope_parameters=None) == PhimoeConfig()


def test_what_goes_before_what() -> None:
    """As in 5.x: the object before what stands beside it, but rope_scaling before the object's scaling."""
    other = {**SCALING, "long_mscale": 9.0}
    config = PhimoeConfig(**SMALL, rope_theta=3.0, rope_parameters=OF_5, rope_scaling=other)
    assert (config.rope_theta, config.rope_scaling) == (77.0, other)
    without = {name: value for name, value in OF_5.items() if name != "rope_theta"}
    assert PhimoeConfig(**SMALL, rope_theta=3.0, rope_parameters=without).rope_theta == 3.0
    if MAJOR == 5:
        arguments = copy.deepcopy({"rope_theta": 3.0, "rope_parameters": OF_5})
        theirs = transformers.PhimoeConfig(**SMALL, **arguments)
        assert theirs.rope_parameters["rope_theta"] == 77.0


def test_one_object_as_rope_scaling() -> None:
    """As in 5.x, where the two are one field; 4.57.6 overlooks a base in it, and refuses the plain kind."""
    for options in ({"rope_theta": 3.0}, {"rope_parameters": {"rope_type": "default", "rope_theta": 3.0}}):
        config = PhimoeConfig(**SMALL, rope_scaling=OF_5, **options)
        assert config.rope_theta == config.rope_parameters["rope_theta"] == 77.0
        assert "rope_theta" not in config.rope_scaling
    plain = {"rope_type": "default", "rope_theta": 9.0}
    config.rope_scaling = plain
    assert (config.rope_theta, config.rope_scaling) == (9.0, None)
    for given in (OF_5, plain):
        ours = PhimoeConfig(**SMALL, rope_scaling=given)
        if MAJOR == 5:
            theirs = transformers.PhimoeConfig(**SMALL, rope_scaling=dict(given))
            assert theirs.rope_parameters == ours.rope_parameters == given


def test_validate_rope() -> None:
    config = PhimoeConfig(**SMALL, rope_scaling=SCALING)
    config.validate_rope(ignore_keys={"short_mscale"})
    config.rope_scaling = {**SCALING, "short_factor": [1.0]}
    with pytest.raises(ConfigError, match="short_factor is"):
        config.validate_rope()


def test_assigning_to_a_config() -> None:
    config = PhimoeConfig(**SMALL, rope_scaling=SCALING)
    config.rope_parameters = {"rope_type": "default", "rope_theta": 9.0}
    assert (config.rope_theta, config.rope_scaling) == (9.0, None)
    config.rope_parameters = OF_5
    config.check()
    assert config.rope_parameters == OF_5


@pytest.mark.parametrize("told", ["rope_scaling", "rope_parameters"])
def test_overrides_win(told: str, tmp_path: Path) -> None:
    way = {"rope_scaling": {"rope_theta": 77.0, "rope_scaling": SCALING}, "rope_parameters": {told: OF_5}}[
        told
    ]
    values = {"model_type": "phimoe", **SMALL, **way, "original_max_position_embeddings": 8}
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert PhimoeConfig.from_pretrained(tmp_path).rope_parameters == OF_5
    assert type(AutoConfig.from_pretrained(tmp_path)) is PhimoeConfig
    found = PhimoeConfig.from_pretrained(tmp_path, rope_theta=5.0)
    assert found.rope_parameters == {**OF_5, "rope_theta": 5.0}
    found = PhimoeConfig.from_pretrained(tmp_path, rope_scaling=None)
    assert found.rope_parameters == {"rope_type": "default", "rope_theta": 77.0}
    other = {**SCALING, "original_max_position_embeddings": 20}
    assert PhimoeConfig.from_pretrained(tmp_path, rope_scaling=other).original_length == 20
    plain = {"rope_type": "default", "rope_theta": 4.0}
    found = PhimoeConfig.from_pretrained(tmp_path, rope_parameters=plain)
    assert found.rope_parameters == plain


@pytest.mark.parametrize("options", [{}, {"rope_theta": 5e5}, {"rope_parameters": OF_5, "sliding_window": 7}])
def test_the_oracle_reads_what_we_save(options: dict[str, Any], tmp_path: Path) -> None:
    ours = PhimoeConfig(**SMALL, **copy.deepcopy(options))
    ours.save_pretrained(tmp_path)
    theirs = transformers.PhimoeConfig.from_pretrained(tmp_path)
    for name in ours.fields():
        if name in theirs.to_dict() and name not in ("dtype", "rope_scaling", "architectures"):
            assert getattr(theirs, name) == getattr(ours, name), name
    if MAJOR == 5:
        found = {key: value for key, value in theirs.rope_parameters.items() if key != "type"}
        assert found == ours.rope_parameters
    else:
        assert theirs.rope_theta == ours.rope_theta
        found = None if theirs.rope_scaling is None else {**theirs.rope_scaling}
        assert found == ours.rope_scaling
    theirs.save_pretrained(tmp_path / "theirs")
    again = PhimoeConfig.from_pretrained(tmp_path / "theirs")
    assert again.rope_parameters == ours.rope_parameters
    for name in ours.fields():
        if name not in ("rope_scaling", "dtype"):
            assert getattr(again, name) == getattr(ours, name), name
    assert PhimoeConfig.from_pretrained(tmp_path) == ours


def test_a_border_beside_the_object() -> None:
    """Both oracles let it go before the one inside."""
    inside = {**SCALING, "original_max_position_embeddings": 20}
    config = PhimoeConfig(**SMALL, rope_scaling=inside, original_max_position_embeddings=8)
    assert config.original_length == 8
    del inside["original_max_position_embeddings"]
    config = PhimoeConfig(**SMALL, rope_scaling=inside, original_max_position_embeddings=8)
    assert config.original_length == config.rope_parameters["original_max_position_embeddings"] == 8


def test_heads() -> None:
    assert PhimoeConfig(num_key_value_heads=None).num_key_value_heads == 32
    assert PhimoeConfig(num_attention_heads=16).num_key_value_heads == 8
    assert PhimoeConfig().head_size == 128
    assert "head_dim" not in PhimoeConfig().to_dict()
    apart = PhimoeConfig(num_attention_heads=24, head_dim=64)  # 4096 / 24 is not whole
    assert apart.head_size == apart.head_dim == apart.to_dict()["head_dim"] == 64
    assert PhimoeConfig.from_dict(apart.to_dict()) == apart


def scaled(**changes: Any) -> dict[str, Any]:
    scaling = {**SCALING, **changes}
    return {"rope_scaling": {name: value for name, value in scaling.items() if value is not ...}}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_key_value_heads": 3}, "num_key_value_heads is 3; it must divide num_attention_heads, 4"),
        ({"num_key_value_heads": 0}, "num_key_value_heads is 0; it must be at least 1"),
        ({"num_attention_heads": 3}, "num_attention_heads is 3; it must divide hidden_size, 16"),
        ({"hidden_size": 12}, "hidden_size / num_attention_heads is 3; rotary positions need an even size"),
        ({"head_dim": 0}, "head_dim is 0; it must be at least 1"),
        ({"head_dim": 3}, "head_dim is 3; rotary positions need an even size"),
        ({"head_dim": 4.0}, "head_dim is 4.0, of type float; it must be a whole number or null"),
        ({"sliding_window": 0}, "sliding_window is 0; it must be at least 1"),
        ({"sliding_window": 2.5}, "sliding_window is 2.5, of type float; it must be"),
        ({"num_local_experts": 1}, "num_local_experts is 1; it must be at least 2"),
        ({"num_experts_per_tok": 3}, "num_experts_per_tok is 3; sparse-mixer routing takes 2"),
        ({"hidden_act": "no"}, "hidden_act is 'no'; it must be one of"),
        ({"attention_dropout": 1.5}, "attention_dropout is 1.5; it must be between 0 and 1"),
        ({"router_jitter_noise": -0.1}, "router_jitter_noise is -0.1; it must be at least 0"),
        ({"rope_theta": 0}, "rope_theta is 0; it must be above 0"),
        ({"rope_theta": math.inf}, "rope_theta is inf; it must be above 0, and finite"),
        ({"rope_theta": "big"}, "rope_theta is 'big', of type str; it must be a number"),
        ({"pad_token_id": 61}, "pad_token_id is 61; it must be below vocab_size, 61"),
        ({"rope_scaling": "longrope"}, "rope_scaling is 'longrope', of type str; it must be"),
        ({"rope_parameters": [1]}, "rope_parameters is [1], of type list; it must be an object"),
        (scaled(type="linear"), "rope_scaling's type is 'linear'; it must be 'longrope'"),
        (scaled(type=...), "rope_scaling's type is None; it must be 'longrope'"),
        (scaled(short_factor=[1.0]), "rope_scaling's short_factor is [1.0]; it must be a list of 2 numbers"),
        (scaled(long_factor=[1.0, 0]), "rope_scaling's long_factor is [1.0, 0]; it must be a list of 2"),
        (scaled(long_factor=["1", "2"]), "rope_scaling's long_factor is ['1', '2']; it must be"),
        (scaled(short_mscale=...), "rope_scaling's short_mscale is None; it must be a number of at most"),
        (scaled(long_mscale="1"), "rope_scaling's long_mscale is '1'; it must be a number"),
        (
            scaled(original_max_position_embeddings=...),
            "original_max_position_embeddings is None; with LongRoPE it must be a whole number of at least 1",
        ),
        (scaled(original_max_position_embeddings=0), "original_max_position_embeddings is 0; with LongRoPE"),
        (
            scaled(original_max_position_embeddings=2**63),
            f"original_max_position_embeddings is {2**63};",
        ),
        # Numbers of which float32 makes infinite angles, or none at all.
        ({"rope_theta": 1e-300}, "rope_theta is 1e-300; it must be from 1e-09 to 1e+30"),
        ({"rope_theta": 10**400}, "rope_theta is 1000"),
        (scaled(short_factor=[1e-320, 1.0]), "short_factor is [1e-320, 1.0]; it must be a list of 2"),
        (scaled(long_factor=[1, 10**400]), "rope_scaling's long_factor is [1, 1000"),
        (
            scaled(long_mscale=1e39),
            "rope_scaling's long_mscale is 1e+39; it must be a number of at most",
        ),
        ({"head_dim": 10**18}, "head_dim is 1000000000000000000; it must be at most 1000000000"),
        (
            {"num_attention_heads": 10**6, "num_key_value_heads": 1, "head_dim": 1002},
            "head_dim is 1002; with num_attention_heads 1000000 it must be at most 1000",
        ),
        (
            {"num_local_experts": 100, "intermediate_size": 10**8, "hidden_size": 10**9},
            "with num_local_experts 100, intermediate_size 100000000 it must be at most 100000000",
        ),
        # Experts are built one by one.
        (
            {"num_hidden_layers": 1000, "num_local_experts": 101},
            "num_local_experts is 101; with 1000 layers it must be at most 100",
        ),
        ({"num_local_experts": 10**9}, "num_local_experts is 1000000000; it must be at most 10000"),
    ],
    ids=str,
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        PhimoeConfig(**{**SMALL, **options})
    assert message in str(refusal.value)
