"""synced_gpus: processes that share a model keep up its passes until all have finished."""

import json
from pathlib import Path

import pytest
import torch

from seq2seq_zoo.generation import generate
from tests.generation.families import Counting, family, ragged

LENGTHS = (3, 9)


def write_in_step(rank, folder):
    """Write this process's share of tokens: how many passes that took, and whether the text is as alone."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=len(LENGTHS)
    )
    try:
        model = family("phimoe")
        ids = ragged("phimoe")[0][:1]
        results = []
        for mode in ({}, {"num_beams": 2}, {"prompt_lookup_num_tokens": 2}):
            counted = Counting(model)
            options = {"max_new_tokens": LENGTHS[rank], "eos_token_id": None, **mode}
            output = generate(counted, ids, synced_gpus=True, return_dict_in_generate=True, **options)
            plain = model.generate(ids, **options)
            results.append([len(counted.passes), torch.equal(output.sequences, plain)])
            assert output.past_key_values.length == plain.shape[1] - 1
    finally:
        torch.distributed.destroy_process_group()
    Path(folder, f"result-{rank}").write_text(json.dumps(results))


def test_a_process_that_has_finished_keeps_pace(tmp_path):
    """Both take as many passes as the longer text needs, and write what they write alone."""
    other = torch.multiprocessing.get_context("spawn").Process(target=write_in_step, args=(1, str(tmp_path)))
    other.start()
    write_in_step(0, str(tmp_path))
    other.join(60)
    assert other.exitcode == 0
    both = [json.loads(Path(tmp_path, f"result-{rank}").read_text()) for rank in (0, 1)]
    assert both[0] == both[1]
    assert all(same for _, same in both[0])


@pytest.mark.parametrize("synced", [None, False, True])
def test_one_process_alone_needs_no_pace(synced):
    model, ids = family("mt5"), ragged("mt5")[0]
    assert torch.equal(model.generate(ids, synced_gpus=synced), model.generate(ids))
