"""What the decoding loops cost beyond the model: milliseconds a step, of the loop alone and of the whole.

    python tools/bench_generate.py                  all ways to decode
    python tools/bench_generate.py greedy "beam 4"  some of them
    python tools/bench_generate.py --profile greedy where the time goes

"loop" runs `generate` on a model that knows the scores of every step beforehand, over 250,112 tokens as
mT5 has them: what remains is choosing. "step" is a pass of an mt5-small with random weights, and "whole" is
generate with it; their difference is the loop again, seen from outside, and noisier. The fastest of several
rounds counts.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import seq2seq_zoo as zoo
from seq2seq_zoo.generation import GenerationConfig, StepOutput, generate

VOCABULARY, SOURCE, STEPS, ROUNDS = 250112, 128, 24, 3
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "greedy, no repeats": {"no_repeat_ngram_size": 3, "repetition_penalty": 1.2},
    "beam 4": {"num_beams": 4},
    "beam 4, no repeats": {"num_beams": 4, "no_repeat_ngram_size": 3},
    "sampling": {"do_sample": True, "top_k": 0},
    "sampling, top_k 50": {"do_sample": True, "top_k": 50},
    "sampling, top_p 0.9": {"do_sample": True, "top_k": 50, "top_p": 0.9, "temperature": 0.8},
    "beam sampling 4": {"do_sample": True, "num_beams": 4},
}


class Foreknowing:
    """A model that costs nothing: step n has the scores it had in every other run."""

    is_encoder_decoder = True
    generation_inputs = frozenset({"input_ids"})
    max_positions = source_positions = None
    device = torch.device("cpu")
    config = SimpleNamespace(vocab_size=VOCABULARY)
    generation_config = GenerationConfig(decoder_start_token_id=0, eos_token_id=1, pad_token_id=0)

    def __init__(self) -> None:
        self.scores = torch.randn(4, 4, VOCABULARY)  # of four steps, for up to four rows

    def begin_decoding(self, inputs: Any, *, rows_per_source: int, **_: Any) -> Any:
        steps = iter(range(STEPS))
        return SimpleNamespace(
            encoder_outputs=None,
            state=None,
            step=lambda ids, **_: StepOutput(self.scores[next(steps) % 4][:rows_per_source]),
            reorder=lambda rows: None,
        )


def fastest(run: Callable[[], Any]) -> float:
    """Milliseconds a step of the best round."""
    run()
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1000 * min(times) / STEPS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("ways", nargs="*", metavar="WAY", help=", ".join(WAYS))
    parser.add_argument("--profile", action="store_true", help="show what the loop calls")
    parser.add_argument("--loop-only", action="store_true", help="leave the real model out")
    chosen = parser.parse_args()
    unknown = set(chosen.ways) - set(WAYS)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(WAYS)}")
    torch.manual_seed(0)
    known = Foreknowing()
    ids = torch.randint(2, VOCABULARY, (1, SOURCE))
    free = {"max_new_tokens": STEPS, "eos_token_id": None}
    if not chosen.loop_only:
        model = zoo.MT5ForConditionalGeneration(zoo.MT5Config(vocab_size=VOCABULARY)).eval()
        model.generation_config = known.generation_config
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, ms a step")
    print(f"{'':24}{'loop':>8}{'step':>8}{'whole':>8}")
    for name in chosen.ways or WAYS:
        way = WAYS[name]
        if chosen.profile:
            with cProfile.Profile() as profile:
                generate(known, ids, **free, **way)
            pstats.Stats(profile).sort_stats("tottime").print_stats(18)
            continue
        line = f"{name:24}{fastest(lambda way=way: generate(known, ids, **free, **way)):8.2f}"
        if not chosen.loop_only:
            line += f"{fastest(lambda way=way: steps_alone(model, ids, way.get('num_beams', 1))):8.2f}"
            line += f"{fastest(lambda way=way: model.generate(ids, **free, **way)):8.2f}"
        print(line, flush=True)


@torch.no_grad()
def steps_alone(model: Any, ids: torch.Tensor, rows: int) -> None:
    """As many passes as a text needs, whatever comes out."""
    decoding = model.begin_decoding(
        {"input_ids": ids}, rows_per_source=rows, capacity=STEPS + 1, use_cache=True
    )
    for _ in range(STEPS):
        decoding.step(torch.zeros(rows, 1, dtype=torch.long))


if __name__ == "__main__":
    main()
