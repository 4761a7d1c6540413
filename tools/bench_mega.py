"""MEGA on long texts beside transformers 4.57.6: time and peak memory of one forward pass, in one run.

    python tools/bench_mega.py                    16,384 tokens
    python tools/bench_mega.py --long             and 65,536
    python tools/bench_mega.py --tokens 4096      or as many as you say

Hidden 512, 4 layers, chunks of 128, both directions, the same random weights; ours in float32, and in
bfloat16 made by `optimize`, theirs in float32, which is all that its Fourier transforms can do. The sides
take turns, each time in a process of its own, which makes a pass that is not counted and one that is, and
reports how far its memory rose above that of the loaded model (on Linux). Of each side's `--rounds`, the best
time counts. Only the ratios mean anything on a shared machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CONFIG: dict[str, Any] = {
    "vocab_size": 1000,
    "hidden_size": 512,
    "num_hidden_layers": 4,
    "intermediate_size": 1024,
    "nffn_hidden_size": 1024,
    "shared_representation_size": 128,
    "ema_projection_size": 16,
    "use_chunking": True,
    "chunk_size": 128,
}


SIDES = ("float32", "bfloat16", "theirs")
"""The first two are ours."""


def measure(side: str, folder: str, tokens: int, threads: int) -> None:
    """Print, as JSON, seconds (by the clock, and of the processor) and megabytes of a pass of one side, and
    some numbers of its output."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    if side == "theirs":
        from transformers import MegaModel

        model = MegaModel.from_pretrained(folder).eval()
    else:
        from seq2seq_zoo import MegaModel, optimize

        model = MegaModel.from_pretrained(folder)
        if side != "float32":
            optimize(model, dtype=side)
    ids = torch.randint(3, CONFIG["vocab_size"], (1, tokens), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    with torch.inference_mode():
        model(ids[:, :128], attention_mask=mask[:, :128])
        before = peak_megabytes(anew=True)
        for _ in range(2):
            for module in model.modules():  # the other side would keep its kernel
                if hasattr(module, "_kernel"):
                    module._kernel = module._coeffs = None
            start, busy = time.perf_counter(), time.process_time()
            out = model(ids, attention_mask=mask).last_hidden_state
            seconds, processor = time.perf_counter() - start, time.process_time() - busy
    numbers = {"seconds": seconds, "processor": processor, "megabytes": peak_megabytes() - before}
    print(json.dumps({**numbers, "values": out[0, ::4001, :4].float().tolist()}))


def peak_megabytes(*, anew: bool = False) -> float:
    """The most memory this process had at a time, on Linux; `anew`: from now on."""
    if anew:
        Path("/proc/self/clear_refs").write_text("5")
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) / 1024


def run(side: str, folder: str, tokens: int, threads: int) -> dict[str, Any]:
    """Measure one side in a process of its own."""
    command = [sys.executable, __file__, "--side", side, "--folder", folder]
    command += ["--tokens", str(tokens), "--threads", str(threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--tokens", type=int, help="length of the text (16,384)")
    parser.add_argument("--long", action="store_true", help="65,536 tokens as well")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side")
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch (as many as it likes)")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    given = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent.parent))
    if given.side is not None:
        measure(given.side, given.folder, given.tokens, given.threads)
        return
    import torch

    from seq2seq_zoo import MegaConfig, MegaModel

    lengths = [given.tokens or 16_384] + [65_536] * given.long
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        MegaModel(MegaConfig(**CONFIG)).save_pretrained(folder)
        print("ours / theirs (ratio)")
        print(
            f"{'tokens':<10} {'ours in':<10} {'seconds':<26} {'processor seconds':<26} {'peak MB':<26} apart"
        )
        for tokens in lengths:
            rounds = [
                {side: run(side, folder, tokens, given.threads) for side in SIDES}
                for _ in range(given.rounds)
            ]
            for side in SIDES[:2]:
                cells = []
                for what, digits in (("seconds", 2), ("processor", 2), ("megabytes", 0)):
                    ours, theirs = (min(turn[each][what] for turn in rounds) for each in (side, "theirs"))
                    cells.append(f"{ours:.{digits}f} / {theirs:.{digits}f} ({ours / theirs:.2f})")
                values = [torch.tensor(rounds[0][each]["values"]) for each in (side, "theirs")]
                apart = (values[0] - values[1]).norm() / values[1].norm()
                print(
                    f"{tokens:<10} {side:<10} {cells[0]:<26} {cells[1]:<26} {cells[2]:<26} {apart:.1e}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
