"""Names and values of config fields: aliases, labels, and every refusal."""

import copy
import json
import math
import os
import pickle
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from seq2seq_zoo import AutoConfig, CheckpointError, Config, ConfigError, MT5Config, MT5Model, MvpConfig
from seq2seq_zoo.config import DTYPES, dtype_named
from seq2seq_zoo.json_file import LONGEST, read_bytes
from seq2seq_zoo.models.auto import model_classes
from tests.oracle import MAJOR

CONFIGS = {"mvp": MvpConfig, "mt5": MT5Config}
WIDTHS = [(kind, alias) for kind, config in CONFIGS.items() for alias in config.aliases]

# ---- aliases ----


@pytest.mark.parametrize(("kind", "alias"), WIDTHS)
def test_aliases(kind, alias):
    config, field = CONFIGS[kind], CONFIGS[kind].aliases[alias]
    value = 0.25 if isinstance(getattr(config, field), float) else 1024
    built = config(**{alias: value, **({"d_model": 1024} if "heads" in alias else {})})
    assert getattr(built, alias) == getattr(built, field) == value
    assert alias not in built.to_dict()
    assert built.to_dict()[field] == value
    setattr(built, alias, 2 * value)
    assert getattr(built, field) == 2 * value
    setattr(built, field, value)
    assert getattr(built, alias) == value


@pytest.mark.parametrize(("kind", "alias"), WIDTHS)
def test_the_fields_own_name_wins_over_an_alias(kind, alias):
    config, field = CONFIGS[kind], CONFIGS[kind].aliases[alias]
    default = getattr(config(), field)
    for pair in ({alias: 3, field: default}, {field: default, alias: 3}):
        assert getattr(config.from_dict(pair), field) == default


@pytest.mark.parametrize(("kind", "alias"), WIDTHS)
def test_an_override_wins_by_either_name(kind, alias):
    config, field = CONFIGS[kind], CONFIGS[kind].aliases[alias]
    default = getattr(config(), field)
    saved = {field: default, alias: default}
    new = 0.5 if isinstance(default, float) else 2 * default
    if "heads" in field:
        saved["d_model"] = 64 * default
    for name in (alias, field):
        for stored in (saved, {field: default}, {alias: default}):
            assert getattr(config.from_dict({**saved, **stored}, **{name: new}), field) == new


def test_the_documented_names():
    mvp, mt5 = MvpConfig(), MT5Config()
    assert (mvp.hidden_size, mvp.num_hidden_layers, mvp.num_attention_heads) == (1024, 12, 16)
    assert (mt5.hidden_size, mt5.num_hidden_layers, mt5.num_attention_heads, mt5.head_dim) == (512, 8, 6, 64)


# ---- labels ----


def test_labels():
    assert MvpConfig().num_labels == 2
    assert MvpConfig().id2label == {0: "LABEL_0", 1: "LABEL_1"}
    assert MvpConfig().label2id == {"LABEL_0": 0, "LABEL_1": 1}
    config = MvpConfig(num_labels=3)
    assert config.num_labels == 3
    assert config.label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}
    config.num_labels = 1
    assert config.id2label == {0: "LABEL_0"}
    named = MvpConfig(id2label={"0": "no", "1": "yes", "2": "maybe"})
    assert named.id2label == {0: "no", 1: "yes", 2: "maybe"}
    assert named.label2id == {"no": 0, "yes": 1, "maybe": 2}
    assert named.num_labels == 3
    both = MvpConfig(num_labels=3, id2label={0: "no", 1: "yes", 2: "maybe"})
    assert both.id2label == named.id2label
    assert both.label2id == named.label2id


def test_labels_that_contradict():
    """The oracles disagree: 4.57.6 keeps the names, 5.x, as we do, the number (tests/DIVERGENCES.md)."""
    names = {0: "no", 1: "yes", 2: "maybe"}
    ours = MvpConfig(num_labels=2, id2label=names)
    assert ours.id2label == {0: "LABEL_0", 1: "LABEL_1"}
    assert ours.label2id == {"LABEL_0": 0, "LABEL_1": 1}
    theirs = transformers.MvpConfig(num_labels=2, id2label=names)
    assert theirs.num_labels == (3 if MAJOR == 4 else 2)


def test_labels_of_a_file_under_overrides():
    saved = {"id2label": {"0": "no", "1": "yes"}, "label2id": {"no": 0, "yes": 1}}
    same = MvpConfig.from_dict(saved, num_labels=2)
    assert (same.id2label, same.label2id) == ({0: "no", 1: "yes"}, {"no": 0, "yes": 1})
    more = MvpConfig.from_dict(saved, num_labels=3)
    assert more.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert more.label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}
    other = MvpConfig.from_dict({**saved, "num_labels": 2}, id2label={0: "a", 1: "b", 2: "c"})
    assert other.num_labels == 3
    assert other.label2id == {"a": 0, "b": 1, "c": 2}


def test_labels_out_of_a_table() -> None:
    """What transformers' training scripts save where the labels of a table are numbers; other spellings."""
    for values in ({"0": 0, "1": 1}, {0: "0", "1": "1"}):
        config = MvpConfig(id2label=values)
        assert (config.id2label, config.label2id) == ({0: "0", 1: "1"}, {"0": 0, "1": 1})
    config = MvpConfig(id2label={"0": False, "1": True}, label2id={False: 0, True: 1})
    assert (config.id2label, config.label2id) == ({0: "False", 1: "True"}, {"False": 0, "True": 1})
    for numbers in ({"no": "0", "yes": "1"}, {"no": 0.0, "yes": 1.0}):
        config = MvpConfig(id2label={"0": "no", "1": "yes"}, label2id=numbers)
        assert config.label2id == {"no": 0, "yes": 1}
        assert MvpConfig.from_dict(config.to_dict()) == config
    scripts_own = MvpConfig(id2label={0: 3, 1: 5}, label2id={3: 0, 5: 1})
    assert (scripts_own.id2label, scripts_own.label2id) == ({0: "3", 1: "5"}, {"3": 0, "5": 1})


def test_names_given_as_label2id_alone() -> None:
    config = MvpConfig(label2id={"no": 0, "yes": 1, "maybe": 2})
    assert config.num_labels == 3
    assert config.id2label == {0: "no", 1: "yes", 2: "maybe"}
    again = MvpConfig.from_dict(MvpConfig().to_dict(), label2id={"no": 0, "yes": 1})
    assert (again.id2label, again.label2id) == ({0: "no", 1: "yes"}, {"no": 0, "yes": 1})
    assert MvpConfig(num_labels=2, label2id={"no": 0, "yes": 1, "maybe": 2}).num_labels == 2
    assert list(MvpConfig(label2id={"yes": 1, "no": 0}).id2label.items()) == [(0, "no"), (1, "yes")]


@pytest.mark.parametrize("numbers", [{"a": 0, "b": 0}, {"a": 1, "b": 2}, {"a": 0, "b": 2}, {"a": -1, "b": 0}])
def test_label2id_that_does_not_number_the_labels(numbers):
    """Names of what else: two to one number would make a regression of a classification."""
    assert MvpConfig(label2id=numbers).id2label == {0: "LABEL_0", 1: "LABEL_1"}


# ---- access ----


def test_unknown_names():
    config = MvpConfig(of_nobody=3)
    assert config.of_nobody == 3
    config.of_nobody = 4
    assert config.to_dict()["of_nobody"] == 4
    with pytest.raises(AttributeError, match="MvpConfig has no field 'nothing'"):
        config.nothing  # noqa: B018  # the access is the test
    assert not hasattr(config, "nothing")


@pytest.mark.parametrize("config", CONFIGS.values())
def test_copies(config):
    one = config(num_labels=3, dtype="float16", of_nobody=[1])
    for other in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert other == one
    deep = copy.deepcopy(one)
    deep.of_nobody.append(2)
    deep.dropout_or_so = 1
    assert one.of_nobody == [1]
    assert not hasattr(one, "dropout_or_so")


@pytest.mark.parametrize("config", CONFIGS.values())
def test_what_it_shows(config):
    assert repr(config()).startswith(config.__name__)
    assert json.loads(repr(config()).removeprefix(config.__name__)) == json.loads(config().to_json_string())


@pytest.mark.parametrize("name", [*DTYPES, *(f"torch.{name}" for name in DTYPES)])
def test_dtypes_by_name(name):
    dtype = getattr(torch, name.removeprefix("torch."))
    assert dtype_named(name) is dtype_named(dtype) is dtype
    assert MvpConfig(dtype=name).dtype is dtype


@pytest.mark.parametrize("name", ["half", "torch.float", "double"])
def test_dtypes_by_pytorchs_other_names(name):
    assert dtype_named(name) is getattr(torch, name.removeprefix("torch."))


# ---- refusals ----

INF, NAN = math.inf, math.nan

WRONG = {
    int: ["12", 1.5, True, None, [3], {}],
    float: ["0.1", True, None, [0.1], {}],
    bool: [1, 0, "true", None, []],
    str: [3, None, ["gelu"], {}],
    int | None: ["12", 1.5, False, [3]],
    int | list[int] | None: ["2", 2.5, True, ["2"], [2.5], [True], {}],
    str | None: [3, True, ["x"]],
    bool | None: [1, "true"],
    list[str] | None: ["MvpModel", [3], {}],
    dict[int, str] | None: [
        "x",
        5,
        ["a", "b"],
        {"a": "b"},
        {"1.5": "b"},
        {"0": None},
        {"0": ["a"]},
        {INF: "a"},
        {},
    ],
    dict[str, int] | None: ["x", 5, ["a"], {"a": "b"}, {"a": 1.5}, {"a": True}, {"a": None}, {"a": INF}],
    torch.dtype | None: ["float8", "int64", torch.int64, 3, True, "auto", ["float32"]],
}


def wrong_types():
    for kind, config in CONFIGS.items():
        for field, annotated in config.fields().items():
            for value in WRONG[annotated]:
                yield pytest.param(kind, field, value, id=f"{kind}-{field}-{value!r}")


@pytest.mark.parametrize(("kind", "field", "value"), list(wrong_types()))
def test_a_value_of_a_wrong_type_names_field_value_and_requirement(kind, field, value):
    config = CONFIGS[kind]
    for build in (
        lambda: config(**{field: value}),
        lambda: config.from_dict({"model_type": kind, field: value}),
        lambda: config.from_dict({"model_type": kind}, **{field: value}),
    ):
        with pytest.raises(ConfigError) as caught:
            build()
        message = str(caught.value)
        assert message.startswith(f"{field} is {value!r}"), message
        assert "must" in message


SIZES = {
    "mvp": (
        "vocab_size max_position_embeddings d_model encoder_ffn_dim decoder_ffn_dim encoder_attention_heads "
        "decoder_attention_heads prompt_length prompt_mid_dim"
    ),
    "mt5": "vocab_size d_model d_kv d_ff num_heads",
}
DEPTHS = {"mvp": "encoder_layers decoder_layers", "mt5": "num_layers num_decoder_layers"}
PROBABILITIES = {
    "mvp": (
        "dropout attention_dropout activation_dropout classifier_dropout encoder_layerdrop decoder_layerdrop"
    ),
    "mt5": "dropout_rate classifier_dropout",
}
POSITIVE = {"mvp": "init_std", "mt5": "layer_norm_epsilon initializer_factor"}
IDS = dict.fromkeys(CONFIGS, "pad_token_id bos_token_id decoder_start_token_id")
GATED = ("", "Relu", "gated-", "gelu-gated", "gated-gelu-new", "gated-x")

IMPOSSIBLE = [
    (kind, field, value)
    for fields, values in (
        (SIZES, (0, -1, -(10**30), 10**9 + 1, 2**63)),
        (DEPTHS, (-1, 10_001, 10**7, 2**63)),
        (PROBABILITIES, (-0.1, 1.1, NAN, INF, -INF, 2, 10**400)),
        (POSITIVE, (-1e-9, NAN, INF, -INF, 10**400)),
        (IDS, (-1,)),
        (dict.fromkeys(CONFIGS, "forced_eos_token_id"), (-1, [], "2", [[2]], 0.5, {"a": 1})),
        ({"mvp": "encoder_attention_heads decoder_attention_heads"}, (3, 1025)),
        ({"mvp": "activation_function"}, ("", "Gelu", "prelu", "gated-gelu")),
        ({"mvp": "pad_token_id"}, (50267, 10**30)),
        ({"mt5": "pad_token_id"}, (250112, 10**30)),
        (dict.fromkeys(CONFIGS, "problem_type"), ("generation", "")),
        (dict.fromkeys(CONFIGS, "num_labels"), (0, -1, 2.0, "2", True, [2], 10**6 + 1, 10**18)),
        (dict.fromkeys(CONFIGS, "model_type"), ("t5", "", None, 3, ["mvp"])),
        ({"mt5": "relative_attention_num_buckets"}, (-1, 0, 3)),
        ({"mt5": "relative_attention_max_distance"}, (-1, 0, 16)),
        ({"mt5": "feed_forward_proj"}, GATED),
    )
    for kind, names in fields.items()
    for field in names.split()
    for value in values
]


@pytest.mark.parametrize(("kind", "field", "value"), IMPOSSIBLE)
def test_an_impossible_value_names_field_value_and_requirement(kind, field, value):
    config = CONFIGS[kind]
    builds = [lambda: config.from_dict({field: value})]
    if field != "model_type":
        builds += [lambda: config(**{field: value}), lambda: config.from_dict({}, **{field: value})]
    for build in builds:
        with pytest.raises(ConfigError) as caught:
            build()
        message = str(caught.value)
        shown = (repr(value), str(value))
        assert message.startswith(tuple(f"{field} is {text}" for text in shown)), message
        assert "must" in message or "reads" in message


def test_both_fields_of_a_pair_are_named():
    with pytest.raises(ConfigError, match=r"encoder_attention_heads is 3; it must divide d_model, 1024"):
        MvpConfig(encoder_attention_heads=3)
    with pytest.raises(ConfigError, match=r"pad_token_id is 60; it must be below vocab_size, 57"):
        MT5Config(vocab_size=57, pad_token_id=60)
    with pytest.raises(
        ConfigError, match=r"relative_attention_max_distance is 16; .* 16, half of relative_att"
    ):
        MT5Config(relative_attention_max_distance=16)


def test_errors_are_also_value_errors_and_check_finds_what_was_changed_later():
    assert issubclass(ConfigError, ValueError)
    config = MvpConfig(encoder_layers=0, decoder_layers=0)
    config.dropout = 3.0
    with pytest.raises(ConfigError, match=r"dropout is 3\.0; it must be between 0 and 1"):
        config.check()


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_model_refuses_a_config_of_another_kind_or_spoilt_before_it_builds_anything(kind):
    spoilt, field = CONFIGS[kind](), {"mvp": "dropout", "mt5": "dropout_rate"}[kind]
    setattr(spoilt, field, 3.0)
    others = [MvpConfig() if kind == "mt5" else MT5Config(), {}, None]
    models = [cls for cls in model_classes() if cls.config_class is CONFIGS[kind]]
    assert len(models) >= 5
    for cls in models:
        with torch.device("meta"):
            with pytest.raises(ConfigError, match=rf"{field} is 3\.0; it must be between 0 and 1"):
                cls(spoilt)
            for other in others:
                with pytest.raises(ConfigError, match=f"{cls.__name__} was given a {type(other).__name__}"):
                    cls(other)


def test_the_model_type_cannot_be_changed():
    config = MvpConfig(model_type="mvp")
    config.model_type = "mvp"
    for change in (lambda: setattr(config, "model_type", "mt5"), lambda: MvpConfig(model_type="mt5")):
        with pytest.raises(ConfigError, match=r"model_type is 'mt5'; MvpConfig reads 'mvp' or 'bart'"):
            change()
    assert config.to_dict()["model_type"] == "mvp"


FILES = {
    "a list": (b"[]", "holds a JSON list; it must hold an object"),
    "a number": (b"3", "holds a JSON int"),
    "a string": (b'"mvp"', "holds a JSON str"),
    "null": (b"null", "holds a JSON NoneType"),
    "empty": (b"", "is not a readable JSON file"),
    "cut off": (b'{"model_type": "mvp", "d_mo', "is not a readable JSON file"),
    "binary": (b"\xff\xfe\x00\x01", "is not a readable JSON file"),
    "too deep": (b'{"model_type":' + b"[" * 200_000, "is not a readable JSON file"),
    "deep": (
        b'{"model_type": "mvp", "x": ' + b"[" * 500 + b"]" * 500 + b"}",
        "nested more than 64 levels",
    ),
    "a number of 5000 digits": (
        b'{"model_type": "mvp", "x": 1' + b"0" * 5000 + b"}",
        "is not a readable JSON",
    ),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("reader", [MvpConfig, MT5Config, AutoConfig])
def test_a_file_that_is_no_config(name, reader, tmp_path):
    content, message = FILES[name]
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        reader.from_pretrained(tmp_path)
    assert "config.json" in str(caught.value)


def test_a_file_without_end(tmp_path):
    """As sparse as it may be on disk, its content would have to be in memory as a whole."""
    with open(tmp_path / "config.json", "wb") as file:
        file.truncate(10**12)
    with pytest.raises(ConfigError, match=r"config\.json is not a readable JSON file: it has more than"):
        AutoConfig.from_pretrained(tmp_path)


def test_a_small_file_takes_little_memory(tmp_path):
    MvpConfig().save_pretrained(tmp_path)
    tracemalloc.start()
    try:
        MvpConfig.from_pretrained(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
@pytest.mark.parametrize("size", [2_500_000, LONGEST + 1])
def test_a_file_that_tells_no_size(tmp_path, size):
    os.mkfifo(tmp_path / "pipe")
    content = b"x" * size
    with ThreadPoolExecutor(1) as other:
        other.submit((tmp_path / "pipe").write_bytes, content)
        if size > LONGEST:
            with pytest.raises(ValueError, match=f"more than {LONGEST} bytes"):
                read_bytes(tmp_path / "pipe")
        else:
            assert read_bytes(tmp_path / "pipe") == content


def test_a_key_that_is_called_as_what_is_computed():
    config = MvpConfig(saved_by_5=True)
    assert config.saved_by_5 is False
    assert config.to_dict()["saved_by_5"] is True


def test_200_000_labels_take_no_time():
    names = {str(number): "label" for number in range(200_000)}
    start = time.perf_counter()
    assert MvpConfig(id2label=names).num_labels == 200_000
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("values", [[], 3, "mvp", None])
def test_what_is_no_mapping(values):
    with pytest.raises(ConfigError, match=f"not from a {type(values).__name__}"):
        MvpConfig.from_dict(values)


def test_no_config_at_all(tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json"):
        MvpConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize("model_type", ["t5", None, 3, ["mvp"]])
def test_auto_refuses_a_family_it_does_not_know(model_type, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(ValueError, match=r"model_type .* must be one of"):
        AutoConfig.from_pretrained(tmp_path)


def test_a_family_of_a_module_that_is_not_there():
    """Such as one that a program makes, or loads from a file, without leave to be imported."""
    made = type(
        "Made", (MT5Config,), {"__module__": "nowhere", "__annotations__": {"more": "int"}, "more": 3}
    )
    assert made(more=4).to_dict()["more"] == 4
    with pytest.raises(ConfigError, match="more is 'x'"):
        made(more="x")


def test_lists_within_a_list_are_all_looked_at():
    made = type(
        "Made", (Config,), {"__module__": __name__, "__annotations__": {"ids": list[list[int]]}, "ids": []}
    )
    assert made(ids=[[1], [2, 3], (4,)]).ids == [[1], [2, 3], (4,)]
    for wrong in ([["a"], [1]], [[1], ["a"]], [[1], ["a"], [2]]):
        with pytest.raises(ConfigError, match="ids is"):
            made(ids=wrong)


def test_heads_and_their_size_together():
    """Each may be large, but the matrix that makes them has a side of the product."""
    with pytest.raises(
        ConfigError, match=r"d_kv is 1000001; with num_heads 1000 it must be at most 1000000$"
    ):
        MT5Config(num_heads=1000, d_kv=1_000_001)
    with pytest.raises(ConfigError, match="d_kv is 1000000000; with num_heads 1000000000"):
        MT5Config(num_heads=10**9, d_kv=10**9, d_model=10**9)
    with torch.device("meta"):
        model = MT5Model(MT5Config(num_heads=1000, d_kv=10**6, d_model=10**9, num_layers=1, dtype="float64"))
    assert model.num_parameters() > 10**18


def test_the_shared_base_refuses_nothing_it_cannot_know():
    assert Config().num_labels == 2


# ---- fuzz ----

NUMBERS = st.one_of(st.integers(-3, 70), st.sampled_from([2**31, 2**63, -(2**63), 10**30]), st.floats())
TEXTS = st.one_of(
    st.text(max_size=5), st.sampled_from(["gelu", "gated-relu", "float16", "mvp", "mt5", "regression"])
)
ANY = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.text(max_size=3), st.just("0")), inner, max_size=3),
    ),
    max_leaves=4,
)
SPECIAL = [
    "model_type", "torch_dtype", "num_labels", "self", "cls", "values", "extra", "fields", "check", "derive",
    "__class__", "__dict__", "__len__", "use_return_dict", "return_dict", "_name_or_path", "to_dict", "",
]  # fmt: skip


def key_of(config):
    return st.one_of(
        st.sampled_from(sorted({*config.fields(), *config.aliases})),
        st.sampled_from(SPECIAL),
        st.text(max_size=6),
    )


def bounded(values):
    """Without counts of labels so large that naming each would be the test."""
    count = values.get("num_labels")
    return {**values, "num_labels": 5} if isinstance(count, int) and count > 1000 else values


@pytest.mark.parametrize("kind", CONFIGS)
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_mangled_config_is_read_or_refused_and_never_anything_else(kind, data):
    config = CONFIGS[kind]
    saved = json.loads(config(d_model=48).to_json_string())
    for key in data.draw(st.lists(st.sampled_from(sorted(saved)), max_size=3)):
        saved.pop(key, None)
    saved.update(data.draw(st.dictionaries(key_of(config), ANY, max_size=4)))
    overrides = data.draw(
        st.dictionaries(key_of(config).filter(lambda key: key not in ("cls", "values")), ANY, max_size=2)
    )
    try:
        read = config.from_dict(bounded(saved), **bounded(overrides))
    except ConfigError:
        return
    again = config.from_dict(json.loads(read.to_json_string()))
    assert again.to_json_string() == read.to_json_string(), "what was read is saved and read again alike"


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_a_mangled_file_is_read_or_refused(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("mangled")
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ConfigError):
        AutoConfig.from_pretrained(folder)
