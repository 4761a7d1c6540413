"""optimize(): the numbers of the model it was given, and a model that says what it can no longer do."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import seq2seq_zoo as zoo
from seq2seq_zoo.errors import UsageError
from seq2seq_zoo.inference import packed
from seq2seq_zoo.inference.frozen import FrozenLinear
from seq2seq_zoo.inference.packed import PackedLinear, can_pack, multiply, pack_weight
from seq2seq_zoo.layers.attention import Attention
from seq2seq_zoo.layers.linear import Linear
from tests.inference.conftest import FAMILIES, arguments, logits

each_family = pytest.mark.parametrize("model", FAMILIES, indirect=True)
an_mt5 = pytest.mark.parametrize("model", ["mt5"], indirect=True)
SHRINKING = [{"dtype": "float16"}, {"quantize": "int8"}, {"quantize": "int8-dynamic"}, {"quantize": "int4"}]
each_shrinking = pytest.mark.parametrize("options", SHRINKING, ids=str)

needs_packs = pytest.mark.skipif(not can_pack(torch.float32), reason="PyTorch has no packed product here")


@pytest.fixture
def always_packed(monkeypatch):
    """Every number of rows, and every size, takes the packed route."""
    monkeypatch.setattr(packed, "reads_packed", lambda weight, rows, maker: rows > 0)


def error(found, expected):
    return float((found.float() - expected.float()).norm().detach() / expected.float().norm().detach())


# ---- packed ----


@needs_packs
@pytest.mark.parametrize("rows", [1, 2, 5, 33])
@pytest.mark.parametrize("bias", [True, False])
def test_the_packed_product_is_the_public_one(rows, bias):
    torch.manual_seed(rows)
    h, weight = torch.randn(rows, 48), torch.randn(80, 48)
    shift = torch.randn(80) if bias else None
    expected = nn.functional.linear(h.double(), weight.double(), None if shift is None else shift.double())
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 0.2)):
        if can_pack(dtype):
            small = None if shift is None else shift.to(dtype)
            found = multiply(h.to(dtype), pack_weight(weight.to(dtype)), small)
            torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance)


@needs_packs
@each_family
def test_float32_is_exact_to_rounding(model, always_packed):
    expected = logits(model)
    returned = zoo.optimize(model)
    assert returned is model
    assert not model.training
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=2e-5)
    held = [part for part in model.modules() if isinstance(part, PackedLinear) and part._pack is not None]
    assert held, "packed weights were used"


@each_family
def test_the_same_tokens(model):
    kwargs = {name: value for name, value in arguments(model).items() if "decoder" not in name}
    settings = {"max_new_tokens": 6, "min_new_tokens": 6, "num_beams": 3}
    expected = model.generate(**kwargs, **settings)
    assert torch.equal(zoo.optimize(model).generate(**kwargs, **settings), expected)


def test_without_the_private_operators_the_public_ones_serve(built, monkeypatch):
    expected = logits(built["mt5"])
    model = zoo.optimize(copy.deepcopy(built["mt5"]))
    monkeypatch.setattr(packed, "reads_packed", lambda weight, rows, maker: True)
    monkeypatch.setattr(packed, "can_pack", lambda dtype: False)
    monkeypatch.setattr(packed, "pack_weight", None)
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=2e-5)


def test_an_operator_that_is_missing_or_wrong_is_found_out(monkeypatch):
    def missing(weight):
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_reorder_linear_weight'")

    for broken in (missing, lambda weight: weight + 1):
        packed.can_pack.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(packed, "pack_weight", broken)
            assert not can_pack(torch.float32)
    packed.can_pack.cache_clear()


@needs_packs
@an_mt5
def test_nothing_stale_is_kept(model, always_packed):
    zoo.optimize(model)
    logits(model)
    with torch.no_grad():
        model.lm_head.weight.mul_(2)  # in place
    doubled = logits(model)
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach() / 2)  # another tensor
    torch.testing.assert_close(logits(model) * 2, doubled)
    model.load_state_dict({name: torch.zeros_like(value) for name, value in model.state_dict().items()})
    assert not logits(model).any()


@needs_packs
def test_another_weight_in_the_same_place_is_another_weight(always_packed):
    """Exchanged twice between two passes, a weight could come to lie where the one before the last was."""
    linear, attention = nn.Linear(128, 128).eval(), Attention(128, 4, 32).eval()
    x = torch.randn(4, 128)
    for part in (linear, attention):
        zoo.optimize(part)
    with torch.inference_mode():
        for number in range(40):
            for weight in (torch.full((128, 128), float(number)), torch.full((128, 128), float(-number))):
                for part in (linear, attention.value):
                    part.weight = None
                    part.weight = nn.Parameter(weight.clone())
            for found in (linear(x) - linear.bias, attention._project(x[None])[2][0] - attention.value.bias):
                expected = -number * x.sum(1, keepdim=True).expand(4, 128)
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=0.01)


def packs_of(model):
    """The names of the parts that hold packed copies."""
    return [name for name, part in model.named_modules() if part.__dict__.get("_pack")]


@needs_packs
@pytest.mark.parametrize("model", ["mt5", "phimoe"], indirect=True)
@pytest.mark.parametrize("again", ["cast", "moved", "optimized", "rounded"])
def test_packs_go_with_what_they_are_copies_of(model, again, always_packed):
    zoo.optimize(model)
    expected = logits(model)
    assert packs_of(model)
    if again == "cast":
        model.double()
    elif again == "moved":
        model.to("meta")
    elif again == "optimized":
        zoo.optimize(model, dtype="bfloat16")
    else:
        zoo.optimize(model, quantize="int8")
    assert not packs_of(model)
    if again == "cast":
        torch.testing.assert_close(logits(model).float(), expected, rtol=0, atol=2e-5)


@pytest.fixture
def products(monkeypatch):
    """The shapes of the packed weights that were multiplied by, in order."""
    shapes, product = [], packed.multiply

    def noted(x, weight, bias):
        shapes.append(tuple(weight.shape))
        return product(x, weight, bias)

    monkeypatch.setattr(packed, "multiply", noted)
    return shapes


@needs_packs
@pytest.mark.parametrize("biases", [(True, True, True), (False, False, False), (True, False, True)])
def test_query_key_and_value_are_one_product(biases, always_packed, products):
    """Where each of them would be a product of its own, and until somebody watches or changes one."""
    torch.manual_seed(0)
    attention = Attention(32, 4, 8, key_value_heads=2).eval()
    for part, has_bias in zip((attention.query, attention.key, attention.value), biases, strict=True):
        part.bias = nn.Parameter(torch.randn_like(part.bias)) if has_bias else None
    plain, x = copy.deepcopy(attention), torch.randn(2, 3, 32)
    zoo.optimize(attention)

    def check(shapes, attention=attention):
        products.clear()
        with torch.inference_mode():
            torch.testing.assert_close(attention(x)[0], plain(x)[0], rtol=0, atol=1e-5)
        assert products == shapes

    joined, apart = [(64, 32), (32, 32)], [(32, 32), (16, 32), (16, 32), (32, 32)]
    check(joined)
    with torch.no_grad():
        attention.value.weight.mul_(2), plain.value.weight.mul_(2)
    check(joined)
    attention.key.weight = plain.key.weight = nn.Parameter(torch.randn(16, 32))
    check(joined)
    seen = []
    hook = attention.key.register_forward_hook(lambda *given: seen.append(given[2].shape))
    check(apart)
    assert seen == [(2, 3, 16)]
    hook.remove()
    check(joined)
    hook = nn.modules.module.register_module_forward_hook(lambda *given: None)  # of all modules there are
    check(apart)
    hook.remove()
    attention.key.forward = attention.key.forward
    check(apart)
    del attention.key.forward
    check(joined)
    check(joined, copy.deepcopy(attention))
    attention.train()
    assert type(attention) is Attention


@needs_packs
def test_parameters_that_are_worked_out(always_packed):
    """Pruned and parametrized layers, whose weights or biases are no parameters any more."""
    attention = zoo.optimize(Attention(32, 4, 8).eval())
    prune.l1_unstructured(attention.query, "weight", 0.5)
    prune.l1_unstructured(attention.key, "bias", 0.5)
    x = torch.randn(2, 3, 32)
    with torch.inference_mode():
        assert (attention.query.weight == 0).sum() == 32 * 16
        expected = nn.functional.linear(x, attention.query.weight, attention.query.bias)
        torch.testing.assert_close(attention.query(x), expected)
        expected = nn.functional.linear(x, attention.key.weight, attention.key.bias)
        torch.testing.assert_close(attention.key(x), expected)
        torch.testing.assert_close(attention._project(x)[1], expected)


@an_mt5
def test_a_packed_model_saves_and_is_resized_as_ever(model, tmp_path):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    zoo.optimize(model)
    logits(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    torch.testing.assert_close(logits(again), logits(model), rtol=0, atol=2e-5)
    model.resize_token_embeddings(700)
    assert logits(model).shape[-1] == 700
    assert logits(model.double()).dtype is torch.float64


@pytest.mark.parametrize("model", ["mt5", "mvp", "phimoe"], indirect=True)
@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_a_rounded_head_takes_no_tokens(model, quantize):
    """Whether it was tied to the embedding or not; nothing is changed by the attempt."""
    zoo.optimize(model, quantize=quantize)
    before = logits(model)
    with pytest.raises(zoo.UsageError, match=r"output head has rounded weights.*resize the model before opt"):
        model.resize_token_embeddings(700)
    assert model.resize_token_embeddings(model.config.vocab_size).num_embeddings == before.shape[-1]
    assert torch.equal(logits(model), before)


@needs_packs
@an_mt5
def test_training_undoes_it(model, always_packed):
    zoo.optimize(model)
    logits(model)
    model.train()
    assert {type(part) for part in model.modules() if isinstance(part, nn.Linear)} == {nn.Linear}
    model(**arguments(model)).logits.sum().backward()
    assert model.lm_head.weight.grad is not None
    model.eval()
    assert type(model.lm_head) is Linear


@needs_packs
@an_mt5
def test_gradients_are_those_of_the_model(model, always_packed):
    plain = copy.deepcopy(model)
    for each in (plain, zoo.optimize(model)):
        each(**arguments(each)).logits.square().mean().backward()
    for (name, ours), (_, theirs) in zip(model.named_parameters(), plain.named_parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None), name
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad)


@each_family
def test_a_cast_is_what_loading_in_that_dtype_gives(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, dtype="bfloat16")
    zoo.optimize(model, dtype="bfloat16")
    assert model.dtype is model.config.dtype is torch.bfloat16
    for (name, ours), (_, theirs) in zip(
        model.state_dict().items(), loaded.state_dict().items(), strict=True
    ):
        assert ours.dtype is theirs.dtype, name
        assert torch.equal(ours, theirs), name


@each_family
def test_bfloat16_stays_near(model):
    expected = logits(model)
    found = logits(zoo.optimize(model, dtype=torch.bfloat16))
    assert found.dtype is torch.bfloat16
    assert error(found, expected) < 0.05


def test_tied_weights_stay_tied(built):
    model = zoo.optimize(copy.deepcopy(built["mvp"]), dtype="bfloat16")
    assert model.lm_head.weight is model.get_input_embeddings().weight


# ---- 16, 8 and 4 bits ----

LIMITS = {"float16": 2e-3, "int8": 0.03, "int8-dynamic": 0.06, "int4": 0.25}


@each_shrinking
@pytest.mark.parametrize("model", ["mt5", "mvp", "bert2bert"], indirect=True)
def test_shrunken_weights_stay_near(model, options):
    expected = logits(model)
    zoo.optimize(model, **options)
    found = logits(model)
    assert found.dtype is torch.float32
    assert 0 < error(found, expected) < LIMITS[options.get("quantize", "float16")]
    assert not [part for part in model.modules() if type(part) in (nn.Linear, Linear)]


@each_shrinking
@an_mt5
def test_a_shrunken_model_can_be_cast(model, options):
    """Its arithmetic changes, its rounded weights do not."""
    before = logits(zoo.optimize(model, **options))
    found = logits(model.to(torch.bfloat16))
    assert found.dtype is torch.bfloat16
    assert error(found, before) < 0.03
    assert error(logits(model.float()), before) < 0.03


@each_shrinking
@an_mt5
@torch.no_grad()
def test_each_layer_multiplies_by_its_rounded_weight(model, options):
    """For one row and for many, which go different ways: the numbers of the rounded weight.

    Rounding what the product is of, and what it is, to bfloat16 makes an error of 2^-9 each time.
    """
    linear = copy.deepcopy(model.lm_head)
    zoo.optimize(model, **options)
    few, many = torch.randn(1, 3, 64), torch.randn(40, 64)
    whole = model.lm_head(torch.eye(64)).t()  # [F, D]: each column is what a unit vector brings back
    assert error(whole, linear.weight) < LIMITS[options.get("quantize", "float16")]
    limits = {"int8": (2**-8, 1e-5), "int4": (2**-8, 2**-8), "int8-dynamic": (0.02, 0.02)}
    for x, limit in zip((few, many), limits.get(options.get("quantize"), (1e-5, 1e-5)), strict=True):
        assert error(model.lm_head(x), x @ whole.t()) < limit


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("quantize", ["int8", "int4"])
@an_mt5
def test_quantized_weights_in_half_precision(model, dtype, quantize):
    expected = logits(model)
    found = logits(zoo.optimize(model, dtype=dtype, quantize=quantize))
    assert found.dtype is getattr(torch, dtype)
    assert error(found, expected) < LIMITS[quantize] + 0.03


def test_int4_gives_way_to_int8_where_a_shape_does_not_fit():
    model = nn.Sequential(nn.Linear(64, 96), nn.Linear(96, 7))
    zoo.optimize(model, quantize="int4")
    assert ["int4" in repr(part) for part in model] == [True, False]
    assert "int8" in repr(model[1])


@pytest.mark.parametrize("inputs", [12, 20, 24, 48])
def test_int8_of_any_width(inputs):
    """PyTorch's kernel reads sixteen inputs at a time, without asking whether there are so many."""
    linear, x = nn.Linear(inputs, 32).eval(), torch.randn(3, inputs)
    expected = linear(x)
    zoo.optimize(linear, quantize="int8")
    assert error(linear(x), expected) < LIMITS["int8"]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 40])
def test_int8_sums_do_not_outgrow_float16(rows, bias):
    """The integers are up to 127 times what they stand for: Σ x · q is 243,840 here, Σ x · W is 960."""
    linear = nn.Linear(64, 32, bias=bias).eval()
    nn.init.constant_(linear.weight, 0.5)
    x = torch.full((rows, 64), 30.0, dtype=torch.float16)
    expected = linear(x.float())
    zoo.optimize(linear, dtype="float16", quantize="int8")
    found = linear(x)
    assert found.dtype == torch.float16
    assert error(found, expected) < LIMITS["int8"]


def test_columns_of_zeros():
    for quantize in ("int8", "int8-dynamic", "int4"):
        model = nn.Sequential(nn.Linear(32, 32))
        nn.init.zeros_(model[0].weight)
        bias = model[0].bias.detach().clone()
        zoo.optimize(model, quantize=quantize)
        with torch.no_grad():
            torch.testing.assert_close(model(torch.randn(2, 32)), bias.expand(2, -1))


@each_shrinking
@an_mt5
def test_what_a_shrunken_model_refuses(model, options, tmp_path):
    count = model.num_parameters()
    zoo.optimize(model, **options)
    assert model.num_parameters() == count
    model.to("cpu")
    model.to(torch.float32)
    before = logits(model)
    with pytest.raises(UsageError, match="cannot be saved; save the model before optimize"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="cannot be saved"):
        model.state_dict()
    with pytest.raises(UsageError, match="cannot be moved to meta"):
        model.lm_head.to("meta")
    with pytest.raises(UsageError, match="optimize another copy"):
        zoo.optimize(model)
    model.train()
    with pytest.raises(UsageError, match="cannot be trained; call eval"):
        model(**arguments(model))
    model.eval()
    assert torch.equal(logits(model), before)


@each_shrinking
@an_mt5
def test_a_copy_of_a_shrunken_model(model, options):
    zoo.optimize(model, **options)
    assert torch.equal(logits(copy.deepcopy(model)), logits(model))


# ---- refusals ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "dtype is 'int8'; it must be float32, bfloat16 or float16"),
        ({"dtype": "nonsense"}, "dtype is 'nonsense'; it must be"),
        ({"dtype": torch.float64}, "dtype is torch.float64; it must be"),
        ({"quantize": "int3"}, "quantize is 'int3'; it must be one of 'int8', 'int8-dynamic', 'int4'"),
        ({"dtype": "bfloat16", "quantize": "int8-dynamic"}, "give it dtype='float32'"),
    ],
)
def test_refusals_come_before_any_work(built, options, message):
    model = copy.deepcopy(built["mt5"]).train()
    with pytest.raises(UsageError, match=message):
        zoo.optimize(model, **options)
    assert model.training
    assert not [part for part in model.modules() if isinstance(part, (FrozenLinear, PackedLinear))]
    assert model.dtype is torch.float32


def test_a_model_without_weights_is_refused():
    with torch.device("meta"):
        model = nn.Linear(2, 2)
    with pytest.raises(UsageError, match="on the meta device"):
        zoo.optimize(model)
    with pytest.raises(UsageError, match="model is a str; it must be a model"):
        zoo.optimize("google/mt5-small")
