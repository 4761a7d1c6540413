"""MEGA on long texts beside transformers 4.57.6: time and peak memory of one forward pass, in one run.

    python tools/bench_mega.py                    16,384 tokens
    python tools/bench_mega.py --long             and 65,536
    python tools/bench_mega.py --tokens 4096      or as many as you say

Hidden 512, 4 layers, chunks of 128, float32, both directions, the same random weights. Each side runs in a
process of its own, which reports how far its resident memory rose above that of the loaded model; times are
the best of `--repeats` passes after one that is not counted. Only the ratios mean anything on a shared
machine.
"""

from __future__ import annotations

import argparse
import json
import resource
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


def measure(side: str, folder: str, tokens: int, repeats: int) -> None:
    """Print, as JSON, seconds and megabytes of a pass of one side, and its output's first numbers."""
    import torch

    if side == "ours":
        from seq2seq_zoo import MegaModel
    else:
        from transformers import MegaModel
    model = MegaModel.from_pretrained(folder).eval()
    ids = torch.randint(3, CONFIG["vocab_size"], (1, tokens), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    with torch.inference_mode():
        model(ids[:, :128], attention_mask=mask[:, :128])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seconds = []
        for _ in range(repeats + 1):
            for module in model.modules():  # the other side would keep its kernel
                if hasattr(module, "_kernel"):
                    module._kernel = module._coeffs = None
            start = time.perf_counter()
            out = model(ids, attention_mask=mask).last_hidden_state
            seconds.append(time.perf_counter() - start)
    risen = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    best = min(seconds[1:] or seconds)
    print(json.dumps({"seconds": best, "megabytes": risen, "values": out[0, ::4001, :4].tolist()}))


def run(side: str, folder: str, tokens: int, repeats: int) -> dict[str, Any]:
    """Measure one side in a process of its own."""
    command = [sys.executable, __file__, "--side", side, "--folder", folder]
    command += ["--tokens", str(tokens), "--repeats", str(repeats)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--tokens", type=int, help="length of the text (16,384)")
    parser.add_argument("--long", action="store_true", help="65,536 tokens as well")
    parser.add_argument("--repeats", type=int, default=2, help="passes that are timed")
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    given = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent.parent))
    if given.side is not None:
        measure(given.side, given.folder, given.tokens, given.repeats)
        return
    import torch

    from seq2seq_zoo import MegaConfig, MegaModel

    lengths = [given.tokens or 16_384] + [65_536] * given.long
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        MegaModel(MegaConfig(**CONFIG)).save_pretrained(folder)
        print("tokens     seconds ours / theirs (ratio)     peak MB ours / theirs (ratio)     difference")
        for tokens in lengths:
            ours, theirs = (run(side, folder, tokens, given.repeats) for side in ("ours", "theirs"))
            apart = (torch.tensor(ours["values"]) - torch.tensor(theirs["values"])).abs().max()
            cells = [
                f"{ours[what]:.{digits}f} / {theirs[what]:.{digits}f} ({ours[what] / theirs[what]:.2f})"
                for what, digits in (("seconds", 2), ("megabytes", 0))
            ]
            print(f"{tokens:<10} {cells[0]:<33} {cells[1]:<33} {apart:.1e}")


if __name__ == "__main__":
    main()
