"""Loading beside transformers, in one run: seconds, memory and import.

    python tools/bench_load.py                       the shape of google/mt5-small, float32, random weights
    python tools/bench_load.py --dtype bfloat16      and cast while loading
    python tools/bench_load.py --shards 200MB        the same in shards
    python tools/bench_load.py --where FOLDER        a checkpoint of your own

Each side runs in processes of its own, in turn, and the best of `--runs` counts. `import` is what the library
costs beyond torch; `first load` is what a script waits for, which loads once, and `later load` the best of
ten more (the file is in the system's cache for all). `memory` is how far resident memory rose at its peak,
as a share of the model's size: while loading, and until every weight has been read, when 1.00 is the mapped
file and no copy. Only the ratios mean anything on a shared machine.
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

ROOT = Path(__file__).resolve().parent.parent


def measure(side: str, folder: str, name: str, dtype: str) -> None:
    """Print, as JSON, the figures of one side."""
    import torch

    start = time.perf_counter()
    if side == "ours":
        import seq2seq_zoo as library

        cls, options = getattr(library, name), {"dtype": dtype}
    else:
        import transformers as library

        library.utils.logging.disable_progress_bar()
        newer = int(library.__version__.split(".")[0]) >= 5
        cls, options = getattr(library, name), {"dtype" if newer else "torch_dtype": dtype}
    figures: dict[str, float] = {"import": time.perf_counter() - start}

    def load() -> tuple[Any, float]:
        start = time.perf_counter()
        model = cls.from_pretrained(folder, **options)
        return model, time.perf_counter() - start

    before = peak()
    model, figures["first load"] = load()
    figures["size"] = size = sum(p.numel() * p.element_size() for p in model.parameters())
    figures["while loading"] = (peak() - before) / size
    with torch.no_grad():
        figures["checksum"] = sum(float(p.sum()) for p in model.parameters())
    figures["once read"] = (peak() - before) / size
    del model
    figures["later load"] = min(load()[1] for _ in range(10))
    print(json.dumps(figures))


def peak() -> int:
    """The most bytes of memory that were resident so far; not getrusage's, which knows what a parent had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def run(side: str, folder: str, name: str, dtype: str) -> dict[str, float]:
    """Measure one side in a process of its own."""
    command = [sys.executable, __file__, "--side", side, "--where", folder, "--class", name]
    done = subprocess.run([*command, "--dtype", dtype], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{side}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def make(folder: str, shards: str) -> None:
    """A checkpoint of mt5-small's shape."""
    import torch

    from seq2seq_zoo import MT5Config, MT5ForConditionalGeneration

    torch.manual_seed(0)
    MT5ForConditionalGeneration(MT5Config()).save_pretrained(folder, max_shard_size=shards)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--where", help="a folder with a checkpoint")
    parser.add_argument("--class", dest="name", default="MT5ForConditionalGeneration", help="its class")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16, float16")
    parser.add_argument("--shards", default="50GB", help="largest file of the checkpoint that is made")
    parser.add_argument("--runs", type=int, default=3, help="processes of each side")
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if given.side is not None:
        measure(given.side, given.where, given.name, given.dtype)
        return
    runs: dict[str, list[dict[str, float]]] = {"ours": [], "theirs": []}
    with tempfile.TemporaryDirectory() as made:
        if given.where is None:
            make(made, given.shards)
        for _ in range(given.runs):
            for side, found in runs.items():
                found.append(run(side, given.where or made, given.name, given.dtype))
                found[-1]["import and first load"] = found[-1]["import"] + found[-1]["first load"]
    ours, theirs = ({what: min(each[what] for each in found) for what in found[0]} for found in runs.values())
    print(f"{given.name}, {ours['size'] / 2**20:,.0f} MiB, dtype {given.dtype}, best of {given.runs}")
    print(f"{'':<30}{'ours':>8}{'theirs':>8}{'ratio':>8}")
    for what in ("import", "first load", "import and first load", "later load"):
        a, b = ours[what], theirs[what]
        print(f"{what + ', seconds':<30}{a:>8.3f}{b:>8.3f}{a / b:>8.2f}")
    for what in ("while loading", "once read"):
        print(f"{'memory ' + what + ', × size':<30}{ours[what]:>8.2f}{theirs[what]:>8.2f}")
    print("the weights are the same" if ours["checksum"] == theirs["checksum"] else "THE WEIGHTS DIFFER")


if __name__ == "__main__":
    main()
