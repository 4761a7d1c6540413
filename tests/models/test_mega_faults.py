"""Where transformers 4.57.6 goes wrong on MEGA: each fault as it stands, and ours against the paper's
equations (tests/mega_formulas.py), one row without padding at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import seq2seq_zoo
from tests import mega_formulas
from tests.mega_oracle import CAUSAL, SIZE, forgetful, lifted, mended, needs_mega, pair, text
from tests.oracle import relative_error

pytestmark = needs_mega
CHUNKED = {"use_chunking": True, "chunk_size": 4}


def equations(model: Any, ids: Tensor, memory: Tensor | None = None) -> Tensor:
    """The last hidden vectors of one text, [L, D]."""
    with torch.no_grad():
        return mega_formulas.hidden(model, ids, memory)


def by_steps(model: Any, ids: Tensor, **options: Any) -> Tensor:
    """Last hidden vectors, one token at a time."""
    state, done = None, []
    with torch.no_grad():
        for n in range(ids.shape[1]):
            out = model(ids[:, n : n + 1], past_key_values=state, use_cache=True, **options)
            state = out.past_key_values
            done.append(out.last_hidden_state)
    return torch.cat(done, 1)


def test_rms_norm_does_not_normalise(tmp_path: Path) -> None:
    with lifted():
        theirs, ours = pair("MegaModel", tmp_path, normalization_type="rmsnorm")
        x = torch.randn(2, 3, 12)
        norm = theirs.layers[0].mega_layer.norm
        assert torch.equal(norm(x), x * norm.norm.weight)
        ids, _ = text(rows=1)
        expected = equations(ours, ids[0])
        assert relative_error(ours(ids).last_hidden_state[0], expected) <= 1e-10
        assert relative_error(theirs(ids).last_hidden_state[0], expected) > 1e-2


def test_layer_norm_without_weights_cannot_be_built(tmp_path: Path) -> None:
    options = {"normalization_type": "layernorm", "norm_affine": False}
    with pytest.raises(AttributeError):
        pair("MegaModel", tmp_path, **options)
    model = seq2seq_zoo.MegaModel(seq2seq_zoo.MegaConfig(**SIZE, **options))
    assert not any("norm" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize("activation", ["laplace", "relu2"])
def test_cached_laplace_and_relu2(tmp_path: Path, activation: str) -> None:
    """A step counts one key where the full pass counts all that stand before it."""
    with lifted():
        theirs, ours = pair("MegaModel", tmp_path, **CAUSAL, attention_activation=activation)
        ids, _ = text(9, rows=1)
        expected = equations(ours, ids[0])
        assert relative_error(theirs(ids).last_hidden_state[0], expected) <= 1e-9
        assert relative_error(by_steps(theirs, ids)[0], expected) > 1e-4
        assert relative_error(by_steps(ours, ids)[0], expected) <= 1e-10


def test_cached_truncation(tmp_path: Path) -> None:
    """A pass that keeps a cache forgets the truncation: even the first one, over the whole text."""
    with lifted():
        theirs, ours = pair("MegaModel", tmp_path, **CAUSAL, truncation=2)
        ids, _ = text(9, rows=1)
        expected = equations(ours, ids[0])
        assert relative_error(theirs(ids, use_cache=False).last_hidden_state[0], expected) <= 1e-9
        assert relative_error(theirs(ids, use_cache=True).last_hidden_state[0], expected) > 1e-4
        assert relative_error(ours(ids, use_cache=True).last_hidden_state[0], expected) <= 1e-10
        assert relative_error(by_steps(ours, ids)[0], expected) <= 1e-10


def test_cached_chunks(tmp_path: Path) -> None:
    """Steps crash, and so does a causal text shorter than a chunk."""
    with lifted():
        theirs, ours = pair("MegaModel", tmp_path, **CAUSAL, **CHUNKED)
        ids, _ = text(12, rows=1)
        expected = equations(ours, ids[0])
        assert relative_error(theirs(ids).last_hidden_state[0], expected) <= 1e-9
        with pytest.raises(RuntimeError):
            by_steps(theirs, ids)
        with pytest.raises(RuntimeError):
            theirs(ids[:, :3], use_cache=False)
        state = theirs(ids[:, :8]).past_key_values
        with pytest.raises((RuntimeError, AttributeError)):
            theirs(ids[:, 8:9], past_key_values=state)
        assert relative_error(by_steps(ours, ids)[0], expected) <= 1e-10
        assert relative_error(ours(ids[:, :3]).last_hidden_state[0], expected[:3]) <= 1e-10


def test_one_token_a_step(tmp_path: Path) -> None:
    with lifted():
        theirs, ours = pair("MegaModel", tmp_path, **CAUSAL)
        ids, _ = text(9, rows=1)
        with pytest.raises(ValueError, match="sequence length of 1"):
            theirs(ids[:, 4:], past_key_values=theirs(ids[:, :4]).past_key_values)
        rest = ours(ids[:, 4:], past_key_values=ours(ids[:, :4]).past_key_values)
        assert relative_error(rest.last_hidden_state[0], equations(ours, ids[0])[4:]) <= 1e-10


def test_cached_cross_attention(tmp_path: Path) -> None:
    """The second token is taken for the third, and so on: its distance to the source is off by one."""
    with lifted():
        theirs, ours = pair("MegaModel", tmp_path, **CAUSAL, add_cross_attention=True)
        ids, _ = text(6, rows=1)
        memory = torch.randn(1, 5, 12)
        expected = equations(ours, ids[0], memory[0])
        call = {"encoder_hidden_states": memory}
        assert relative_error(theirs(ids, **call).last_hidden_state[0], expected) <= 1e-9
        stepped = by_steps(theirs, ids, **call)[0]
        assert relative_error(stepped[:1], expected[:1]) <= 1e-9
        assert relative_error(stepped[1:], expected[1:]) > 1e-3
        assert relative_error(by_steps(ours, ids, **call)[0], expected) <= 1e-10


def test_the_kernel_of_the_moving_average_goes_stale(tmp_path: Path) -> None:
    """It is kept on the module in eval mode, with its graph, whatever weights are loaded afterwards."""
    with lifted():
        theirs, ours = pair("MegaModel", tmp_path)
        ids, _ = text(9, rows=1)
        for _ in range(2):
            ours(ids).last_hidden_state.sum().backward()
        theirs(ids).last_hidden_state.sum().backward()
        with pytest.raises(RuntimeError, match="second time"):
            theirs(ids).last_hidden_state.sum().backward()
        before = theirs(ids).last_hidden_state
        ours(ids)
        for model, name in ((theirs, "ema_gate.damping_factor"), (ours, "moving_average.alpha")):
            changed = {
                key: tensor + 1.0 if name in key else tensor for key, tensor in model.state_dict().items()
            }
            model.load_state_dict(changed)
        assert torch.equal(theirs(ids).last_hidden_state, before)
        expected = equations(ours, ids[0])
        assert relative_error(ours(ids).last_hidden_state[0], expected) <= 1e-10
        assert relative_error(before[0], expected) > 1e-3


@pytest.mark.parametrize("activation", ["softmax", "laplace", "relu2"])
@pytest.mark.parametrize("chunks", [{}, CHUNKED], ids=["whole", "chunks"])
def test_padding_on_the_left(tmp_path: Path, activation: str, chunks: dict[str, Any]) -> None:
    """softmax: NaN; laplace and relu2: padding counts as keys; chunks: they begin at the padding."""
    with lifted():
        theirs, ours = pair("MegaModel", tmp_path, **CAUSAL, **chunks, attention_activation=activation)
        ids, mask = text(12, side="left")
        ids, mask = ids[1:2], mask[1:2]  # three positions of padding
        real = mask[0].bool()
        expected = equations(ours, ids[0, real])
        other = theirs(ids, attention_mask=mask, use_cache=False).last_hidden_state[0, real]
        if activation == "softmax":
            assert other.isnan().any()
        else:
            assert relative_error(other, expected) > 1e-4
        mine = ours(ids, attention_mask=mask).last_hidden_state
        assert mine.isfinite().all()
        assert relative_error(mine[0, real], expected) <= 1e-10


def test_any_length_of_text(tmp_path: Path) -> None:
    with lifted():
        theirs, ours = pair("MegaModel", tmp_path, **CHUNKED)
        ids, _ = text(10, rows=1)
        with pytest.raises((ValueError, RuntimeError)):
            theirs(ids)
        assert relative_error(ours(ids).last_hidden_state[0], equations(ours, ids[0])) <= 1e-10


def test_feature_dropout_drops_whole_chunks_of_values(tmp_path: Path) -> None:
    """Meant to drop a feature of a row, it drops all features of a chunk."""
    theirs, ours = pair("MegaModel", tmp_path, use_feature_dropout=True, hidden_dropout_prob=0.5)
    torch.manual_seed(0)
    values = torch.ones(40, 3, 4, 10)  # [B, chunks, positions, features]
    dropped = theirs.train().layers[0].mega_layer.hidden_dropout(values, batch_first=True)
    by_chunk = dropped.flatten(2)
    assert torch.equal(by_chunk, by_chunk[..., :1].expand_as(by_chunk))
    assert {0.0, 2.0} == set(by_chunk.unique().tolist())
    dropped = ours.train().stack.layers[0].self_attention.value_dropout(values.flatten(1, 2))
    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped))
    assert not torch.equal(dropped, dropped[..., :1].expand_as(dropped))


def test_there_is_no_generate(tmp_path: Path) -> None:
    theirs, ours = pair("MegaForCausalLM", tmp_path, **CAUSAL)
    assert not hasattr(theirs, "generate")
    ids, _ = text(5, rows=1)
    written = ours.generate(ids, max_new_tokens=4, eos_token_id=None)
    for length in range(5, 9):
        assert written[0, length] == theirs(written[:, :length]).logits[0, -1].argmax()


def test_mended_norms_are_all_that_is_mended(tmp_path: Path) -> None:
    """`mended` differs from `lifted` for no other norm."""
    with lifted():
        theirs, _ = pair("MegaModel", tmp_path)
        ids, _ = text()
        expected = theirs(ids).last_hidden_state
    with mended():
        assert torch.equal(forgetful(theirs)(ids).last_hidden_state, expected)
