"""PhiMoE decodes: whatever is cached, cropped, reordered or padded, every step equals a full computation of
the rows as they then stand, on both sides of LongRoPE's border and across it; and only rows that cross it are
computed again. In float64."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from seq2seq_zoo.layers.rotary_stack import LongRopeState
from tests.oracle import relative_error
from tests.phimoe_oracle import BORDER, LONGROPE, counted, ours_at_random, text, varied

CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "window": {"sliding_window": 3, "num_key_value_heads": 1},
    "longrope": {**LONGROPE, "attention_bias": True},
    "longrope and window": {**LONGROPE, "sliding_window": 4, "num_key_value_heads": 4},
}
STEPS = [(1,) * 13, (3, 1, 6, 3), (9, 4), (13,), (2, 1, 1, 9)]


@pytest.fixture(autouse=True)
def in_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def assert_equals_full(
    model: Any, out: Any, ids: Tensor, mask: Tensor, tolerance: float = 1e-11, **options: Any
) -> None:
    """The logits of a step, the last of ids, are those of one pass over all, where they are real."""
    size = out.logits.shape[1]
    full = model(ids, mask, use_cache=False, **options).logits[:, -size:]
    real = mask[:, -size:].bool()
    if real.any():
        assert relative_error(out.logits[real], full[real]) <= tolerance


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("side", ["full", "right", "left"])
@pytest.mark.parametrize("config", CONFIGS)
def test_every_step_equals_the_full_pass(config: str, side: str, grad: bool) -> None:
    model = ours_at_random(**CONFIGS[config])
    ids, mask = text(13, side)
    with torch.set_grad_enabled(grad):
        for sizes in STEPS:
            state, done = None, 0
            for size in sizes:
                done += size
                seen, part = mask[:, :done], ids[:, done - size : done]
                out = model(part, None if side == "full" else seen, past_key_values=state, use_cache=True)
                state = out.past_key_values
                assert_equals_full(model, out, ids[:, :done], seen)


@pytest.mark.parametrize("config", CONFIGS)
def test_gradients_through_steps(config: str) -> None:
    """Of the last step's loss, in which LongRoPE has computed again what earlier steps had computed."""
    model = ours_at_random(**CONFIGS[config])
    ids, mask = text(13, "left")
    found = []
    for sizes in ((13,), (7, 2, 4)):
        model.zero_grad()
        state, done = None, 0
        for size in sizes:
            done += size
            out = model(ids[:, done - size : done], mask[:, :done], past_key_values=state)
            state = out.past_key_values
        out.logits[:, -4:].square().sum().backward()
        found.append([p.grad.clone() for p in model.parameters()])
    for one, other in zip(*found, strict=True):
        assert relative_error(other, one) <= 1e-9


def test_positions_of_ones_own_in_steps() -> None:
    """They decide on which side of the border a row is, not the number of its tokens."""
    model = ours_at_random(**LONGROPE)
    ids, mask = text(6)
    positions = torch.tensor([[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 20, 4], [30, 1, 2, 3, 4, 5]])
    with torch.no_grad():
        state = None
        for at in range(6):
            out = model(
                ids[:, at : at + 1],
                position_ids=positions[:, at : at + 1],
                past_key_values=state,
                use_cache=True,
            )
            state = out.past_key_values
            assert_equals_full(
                model, out, ids[:, : at + 1], mask[:, : at + 1], position_ids=positions[:, : at + 1]
            )
            assert state.long.tolist() == [False, at >= 4, True]


def test_random_walks() -> None:
    """Steps of any size, reorders to more and fewer rows, and crops, across the border and back."""
    crossed = [walk(seed) for seed in range(12)]
    assert sum(crossed) >= 20


def walk(seed: int) -> int:
    """One walk; how many of its steps led a row across."""
    draw = random.Random(seed)
    window = draw.choice([None, 3])
    model = ours_at_random(**LONGROPE, sliding_window=window, num_hidden_layers=2)
    rows = 3
    ids = torch.empty(rows, 0, dtype=torch.long)
    mask = torch.empty(rows, 0, dtype=torch.long)
    generator = torch.Generator().manual_seed(seed)
    state = model.model.stack.new_state(capacity=draw.choice([0, 5, 40]))
    crossed = 0
    with torch.inference_mode() if draw.random() < 0.5 else torch.no_grad():
        for _ in range(14):
            act = draw.random()
            if act < 0.6 or ids.shape[1] == 0:
                size = draw.choice([1, 1, 1, 2, 3, 6])
                if ids.shape[1] + size > 24:
                    continue
                new = torch.randint(1, 61, (ids.shape[0], size), generator=generator)
                real = torch.ones_like(new)
                if ids.shape[1] == 0:  # rows begin with ever more padding
                    real[torch.arange(ids.shape[0])[:, None] > torch.arange(size)] = 0
                    real[:, -1] = 1
                ids, mask = torch.cat([ids, new], 1), torch.cat([mask, real], 1)
                before = None if state.long is None else state.long.clone()
                if draw.random() < 0.3:
                    given = {"inputs_embeds": model.get_input_embeddings()(new)}
                else:
                    given = {"input_ids": new}
                out = model(**given, attention_mask=mask, past_key_values=state)
                assert out.past_key_values is state
                assert_equals_full(model, out, ids, mask)
                crossed += before is not None and not torch.equal(before, state.long)
            elif act < 0.8:
                chosen = torch.tensor([draw.randrange(ids.shape[0]) for _ in range(draw.choice([2, 3, 5]))])
                ids, mask = ids[chosen], mask[chosen]
                state.reorder(chosen)
            else:
                length = draw.randrange(ids.shape[1] + 1)
                ids, mask = ids[:, :length], mask[:, :length]
                state.crop(length)
    return crossed


def test_only_rows_that_cross_are_computed_again() -> None:
    model = ours_at_random(**LONGROPE)
    ids, mask = text(BORDER + 6, "left")  # rows with 0, 2 and 3 positions of padding
    read: list[int] = []
    model.model.stack.layers[0].register_forward_pre_hook(
        lambda _, x: read.append(x[0].shape[0] * x[0].shape[1])
    )
    with torch.no_grad():
        state = model(ids[:, :6], mask[:, :6]).past_key_values
        for at in range(6, BORDER + 6):
            model(ids[:, at : at + 1], mask[:, : at + 1], past_key_values=state)
        again = [BORDER, BORDER + 2, BORDER + 3]  # what each row holds, padding too, as its ninth token comes
        expected = [18, 3, 3, again[0], 3, 3, again[1], 3, again[2], 3, 3, 3]
        assert read == expected
        read.clear()
        state.crop(BORDER + 1)  # back across the border for two rows; nothing happens before it must
        assert read == []
        model(ids[:, BORDER + 1 : BORDER + 2], mask[:, : BORDER + 2], past_key_values=state)
        assert read == [2 * (BORDER + 1), 3]


def test_a_pass_that_fails_leaves_the_state_as_it_was() -> None:
    model = ours_at_random(**LONGROPE)
    ids, mask = text(12)
    with torch.no_grad():
        state = model(ids[:, :7]).past_key_values
        packed = torch.ones(3, 2, 9, dtype=torch.long)
        packed[0, 0, 0] = 0
        with pytest.raises(ValueError, match=r"attention_mask has 3 dimensions, and a row has crossed"):
            model(ids[:, 7:9], packed, past_key_values=state)
        out = model(ids[:, 7:9], past_key_values=state)
        assert_equals_full(model, out, ids[:, :9], mask[:, :9])


def test_a_state_of_another_model() -> None:
    model, state = ours_at_random(**LONGROPE), ours_at_random()(text()[0]).past_key_values
    with pytest.raises(ValueError, match="past_key_values is of a model without LongRoPE"):
        model(text()[0], past_key_values=state)


def test_only_longrope_pays_for_it() -> None:
    assert not isinstance(ours_at_random()(text()[0]).past_key_values, LongRopeState)
    assert isinstance(ours_at_random(**LONGROPE)(text()[0]).past_key_values, LongRopeState)


@pytest.mark.parametrize("config", CONFIGS)
def test_padding_in_the_middle(config: str) -> None:
    """A batch padded on the right and then continued: each row as it would be without the holes."""
    model = ours_at_random(**CONFIGS[config])
    (ids, mask), (more, _) = text(9, "right"), text(5, seed=2)
    with torch.no_grad():
        state = model(ids, mask, use_cache=True).past_key_values
        whole = torch.cat([mask, torch.ones_like(more)], 1)
        found = model(more, whole, past_key_values=state).logits
        for row in range(3):
            alone = torch.cat([ids[row, mask[row].bool()], more[row]])[None]
            assert relative_error(found[row], model(alone).logits[0, -5:]) <= 1e-11


# ---- generate ----

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "several ends": {"eos_token_id": [7, 9, 12]},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("config", CONFIGS)
def test_generate_writes_the_same_cached_and_not_batched_and_alone(config: str, way: str) -> None:
    """Prompts of 7, 5 and 4 tokens, padded on the left, continued across the border at different times."""
    model = varied(ours_at_random(**CONFIGS[config]))
    ids, mask = text(7, "left")
    options = {"max_new_tokens": 9, "pad_token_id": 0, "eos_token_id": 2, **WAYS[way]}
    cached = model.generate(ids, attention_mask=mask, **options)
    again = model.generate(ids, attention_mask=mask, use_cache=False, **options)
    assert cached.tolist() == again.tolist()
    assert len(set(cached[:, 7:].flatten().tolist())) > 3
    returned = options.get("num_return_sequences", 1)
    for row in range(3):
        prompt = ids[row : row + 1, mask[row].bool()]
        alone = model.generate(prompt, **options)[:, prompt.shape[1] :]
        together = cached[row * returned : (row + 1) * returned, 7 : 7 + alone.shape[1]]
        assert together.tolist() == alone.tolist()


@pytest.mark.parametrize("config", CONFIGS)
def test_sampling_with_a_seed(config: str) -> None:
    model = varied(ours_at_random(**CONFIGS[config]))
    ids, mask = text(7, "left")
    written = []
    for use_cache in (True, False):
        torch.manual_seed(5)
        options = {"do_sample": True, "max_new_tokens": 9, "use_cache": use_cache, "num_return_sequences": 2}
        written.append(model.generate(ids, attention_mask=mask, **options).tolist())
    assert written[0] == written[1]


@pytest.mark.parametrize("config", CONFIGS)
def test_generate_from_vectors_and_positions(config: str) -> None:
    model = varied(ours_at_random(**CONFIGS[config]))
    ids, mask = text(7, "left")
    options = {"attention_mask": mask, "max_new_tokens": 6, "pad_token_id": 0}
    expected = model.generate(ids, **options)[:, 7:].tolist()
    vectors = model.get_input_embeddings()(ids).detach()
    assert model.generate(inputs_embeds=vectors, **options).tolist() == expected
    assert model.generate(ids, position_ids=counted(mask), **options)[:, 7:].tolist() == expected


def test_two_threads_write_with_one_model() -> None:
    model = varied(ours_at_random(**LONGROPE))
    ids, mask = text(7, "left")
    expected = [
        model.generate(ids[r : r + 1], attention_mask=mask[r : r + 1], max_new_tokens=8) for r in range(2)
    ]
    found: dict[int, Tensor] = {}

    def write(row: int) -> None:
        found[row] = model.generate(ids[row : row + 1], attention_mask=mask[row : row + 1], max_new_tokens=8)

    threads = [threading.Thread(target=write, args=(row,)) for row in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[row], expected[row]) for row in range(2))
