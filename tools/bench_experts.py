"""A mixture of experts beside transformers': one token against the machine's memory, 256 against its matrix
rate.

    python tools/bench_experts.py                 hidden 1024, 16 experts of 1600, bfloat16
    python tools/bench_experts.py --threads 1     on a machine that others use

The whole block, router and experts, of the same random weights:

    ours            as loaded
    ours, packed    after seq2seq_zoo.optimize
    transformers    each way that this Python's version has

The floor of one token is what reading two experts' matrices takes, that of many what their products take at
the rate of one large product; both are measured in the same rounds, all sides in turn, and of every side the
fastest round counts. Only the ratios mean anything on a shared machine. Many tokens are not tried with the
batched way of transformers 5.x, which copies two experts' matrices for each of them, and takes 60 times as
long.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import seq2seq_zoo
from seq2seq_zoo.layers.activations import ACTIVATIONS
from seq2seq_zoo.layers.experts import Experts, MixtureOfExperts
from seq2seq_zoo.layers.router import SparseMixer

WIDTH, HIDDEN, EXPERTS = 1024, 1600, 16
MATRIX = 2048
"""Rows and columns of the product that the matrix rate is measured by."""


def our_block() -> MixtureOfExperts:
    experts = Experts(WIDTH, HIDDEN, EXPERTS, ACTIVATIONS["silu"])
    return MixtureOfExperts(SparseMixer(WIDTH, EXPERTS), experts).to(torch.bfloat16).eval()


def their_blocks(ours: MixtureOfExperts) -> dict[str, torch.nn.Module]:
    """transformers' block in each of its ways, with our weights; none where it is not installed."""
    try:
        import transformers
        from transformers.models.phimoe.modeling_phimoe import PhimoeSparseMoeBlock
    except ImportError:
        return {}
    sizes = {"hidden_size": WIDTH, "intermediate_size": HIDDEN, "num_local_experts": EXPERTS}
    experts = ours.experts
    if int(transformers.__version__.split(".")[0]) == 4:
        weights = {"gate.weight": ours.router.scores.weight}
        for name, stack in (("w1", experts.gate), ("w3", experts.up), ("w2", experts.down)):
            weights |= {f"experts.{n}.{name}.weight": matrix for n, matrix in enumerate(stack.weight)}
        ways = [""]
    else:
        weights = {
            "router.weight": ours.router.scores.weight,
            "experts.gate_up_proj": torch.cat([experts.gate.weight, experts.up.weight], dim=1),
            "experts.down_proj": experts.down.weight,
        }
        ways = ["eager", "batched_mm", "grouped_mm"]
    blocks = {}
    for way in ways:
        config: Any = transformers.PhimoeConfig(**sizes)
        config._experts_implementation = way
        with torch.device("meta"):
            block = PhimoeSparseMoeBlock(config)
        block.load_state_dict(weights, assign=True)
        blocks[f"transformers {transformers.__version__} {way}".strip()] = block.eval()
    return blocks


def read_two_experts() -> Callable[[], object]:
    """A stream through as many bytes as two experts have, elsewhere every time."""
    bytes_read = 2 * 3 * WIDTH * HIDDEN * 2
    parts = torch.ones(EXPERTS // 2, bytes_read // 8, dtype=torch.int64)
    turn = iter(range(10**9))
    return lambda: parts[next(turn) % len(parts)].view(torch.float32).sum()


def one_product() -> Callable[[], object]:
    a, b = torch.randn(2, MATRIX, MATRIX).to(torch.bfloat16)
    return lambda: torch.nn.functional.linear(a, b)


def fastest(sides: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of each side's fastest call, all called in turn."""
    best = dict.fromkeys(sides, float("inf"))
    for _ in range(rounds):
        for name, call in sides.items():
            start = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def of_block(block: torch.nn.Module, tokens: int) -> Callable[[], object]:
    """Calls with other tokens every time, so that other experts are chosen."""
    inputs: list[Tensor] = [torch.randn(1, tokens, WIDTH).to(torch.bfloat16) for _ in range(16)]
    turn = iter(range(10**9))
    return lambda: block(inputs[next(turn) % len(inputs)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--threads", type=int, help="of all sides; by default PyTorch's")
    parser.add_argument("--rounds", type=int, default=200, help="calls of every side")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    plain = our_block()
    packed = seq2seq_zoo.optimize(copy.deepcopy(plain))
    blocks: dict[str, torch.nn.Module] = {"ours": plain, "ours, packed": packed, **their_blocks(plain)}
    print(f"hidden {WIDTH}, {EXPERTS} experts of {HIDDEN}, bfloat16, {torch.get_num_threads()} threads")

    sides = {"floor": read_two_experts(), **{name: of_block(block, 1) for name, block in blocks.items()}}
    best = fastest(sides, given.rounds)
    print("\none token                          ms   × floor   (aim: ≤ 2)")
    for name, seconds in best.items():
        print(f"{name:30} {seconds * 1e3:6.2f}   {seconds / best['floor']:7.2f}")

    tokens = 256
    blocks = {name: block for name, block in blocks.items() if not name.endswith("batched_mm")}
    sides = {"product": one_product(), **{name: of_block(block, tokens) for name, block in blocks.items()}}
    best = fastest(sides, max(given.rounds // 10, 3))
    rate = 2 * MATRIX**3 / best.pop("product")
    work = tokens * 2 * 3 * 2 * WIDTH * HIDDEN
    print(f"\n{tokens} tokens                         ms   of {rate / 1e9:.0f} GFLOP/s   (aim: ≥ 50 %)")
    for name, seconds in best.items():
        print(f"{name:30} {seconds * 1e3:6.1f}   {work / seconds / rate:7.0%}")


if __name__ == "__main__":
    main()
