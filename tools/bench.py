"""Decoding beside transformers and CTranslate2: every side in a process of its own, all measured in turn.

    python tools/bench.py                           all workloads, beside the transformers of this Python
    python tools/bench.py mt5-greedy mvp-beam5      some of them (--list shows all)
    python tools/bench.py --peer-python PATH        beside what that Python has too: another transformers,
                                                    CTranslate2; may be given several times
    python tools/bench.py --markdown                the table as README has it

The weights are random, at real sizes; the source has 128 tokens, and no text ends before it is told to. A
step is the difference between a long and a short run of `generate`, divided by the steps between them; the
first token is a run of one. Of all rounds the fastest counts, of every side and of the floor alike.

The floor is what this machine needs to read, once, every weight that a step multiplies by: their bytes over
the bandwidth of a long read, measured in the same rounds. Only ratios mean anything on a shared machine;
beside each stands what was aimed at.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SOURCE = 128

# ---- the models ----

BERT = {"vocab_size": 50358, "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
MODELS: dict[str, dict[str, Any]] = {
    "mt5-small": {"class": "MT5ForConditionalGeneration", "config": "MT5Config"},
    "mvp": {"class": "MvpForConditionalGeneration", "config": "MvpConfig"},
    "mvp-prompt": {
        "class": "MvpForConditionalGeneration",
        "config": "MvpConfig",
        "fields": {"use_prompt": True},
    },
    "bert2bert": {"class": "EncoderDecoderModel", "config": "EncoderDecoderConfig", "halves": BERT},
    "phimoe": {
        "class": "PhimoeForCausalLM",
        "config": "PhimoeConfig",
        "dtype": "bfloat16",
        "fields": {
            "hidden_size": 1024,
            "intermediate_size": 1600,
            "num_hidden_layers": 8,
            "num_attention_heads": 16,
            "num_key_value_heads": 4,
            "num_local_experts": 16,
        },
    },
}


def make(name: str, folder: Path) -> None:
    """Save a model of this name with random weights."""
    import torch

    import seq2seq_zoo as zoo

    what = MODELS[name]
    torch.manual_seed(0)
    if "halves" in what:
        halves = [zoo.BertGenerationConfig(**what["halves"]) for _ in range(2)]
        halves[1].is_decoder = halves[1].add_cross_attention = True
        config: Any = zoo.EncoderDecoderConfig.from_encoder_decoder_configs(*halves)
        config.decoder_start_token_id, config.pad_token_id = 2, 0
    else:
        config = getattr(zoo, what["config"])(**what.get("fields", {}))
    model = getattr(zoo, what["class"])(config)
    if "dtype" in what:
        model.to(getattr(torch, what["dtype"]))
    model.save_pretrained(folder)


# ---- the workloads ----


@dataclass(frozen=True)
class Workload:
    """One line of the table: a model, how it writes, and what we aimed at."""

    model: str
    title: str
    beams: int = 1
    batch: int = 1
    dtype: str = "float32"
    """What the peers load the weights in."""
    ours: dict[str, Any] | None = field(default_factory=dict)
    """Options of optimize(), or of a BitsAndBytesConfig, or None: the model as it was loaded."""
    ct2: str | None = None
    """CTranslate2's compute type, where it has the model."""
    bits: int = 32
    """Of a weight, for the floor."""
    floor: float | None = None
    peer: float | None = None
    other: float | None = None
    """Aims: at most so many times the floor, transformers' time, CTranslate2's time."""
    until: int = 99
    """The last major version of transformers that does this work."""


WORKLOADS = {
    "mt5-greedy": Workload(
        "mt5-small", "mt5-small fp32 greedy", ct2="float32", floor=1.3, peer=0.33, other=0.67
    ),
    "mt5-beam4": Workload(
        "mt5-small", "mt5-small fp32 beam 4", beams=4, ct2="float32", floor=1.7, peer=0.24, other=0.52
    ),
    "mt5-batch4-beam4": Workload(
        "mt5-small",
        "mt5-small fp32 batch 4 beam 4",
        beams=4,
        batch=4,
        ct2="float32",
        floor=2.6,
        peer=0.31,
        other=0.3,
    ),
    "mt5-plain-greedy": Workload("mt5-small", "mt5-small fp32 greedy, not optimized", ours=None),
    "mt5-plain-beam4": Workload("mt5-small", "mt5-small fp32 beam 4, not optimized", beams=4, ours=None),
    "mt5-bf16": Workload(
        "mt5-small", "mt5-small bf16 greedy", dtype="bfloat16", ours={"dtype": "bfloat16"}, bits=16, peer=0.5
    ),
    "mt5-fp16": Workload(
        "mt5-small",
        "mt5-small fp16 greedy",
        dtype="bfloat16",
        ours={"dtype": "float16"},
        bits=16,
        floor=1.9,
        peer=0.5,
    ),
    "mt5-fp16-beam4": Workload(
        "mt5-small", "mt5-small fp16 beam 4", beams=4, dtype="bfloat16", ours={"dtype": "float16"}, bits=16
    ),
    "mt5-int8": Workload(
        "mt5-small",
        "mt5-small int8 greedy",
        ours={"quantize": "int8-dynamic"},
        ct2="int8",
        bits=8,
        floor=2.8,
        other=0.65,
    ),
    "mt5-int8-beam4": Workload(
        "mt5-small",
        "mt5-small int8 beam 4",
        beams=4,
        ours={"quantize": "int8-dynamic"},
        ct2="int8",
        bits=8,
        other=0.47,
    ),
    "mt5-int8-weights": Workload(
        "mt5-small", "mt5-small int8 weights greedy", ours={"quantize": "int8"}, bits=8
    ),
    "mt5-int4": Workload("mt5-small", "mt5-small int4 greedy", ours={"quantize": "int4"}, bits=4),
    "mt5-nf4": Workload(
        "mt5-small",
        "mt5-small bitsandbytes nf4 greedy",
        ours={"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        bits=4,
    ),
    "mt5-bnb-int8": Workload(
        "mt5-small", "mt5-small bitsandbytes int8 greedy", ours={"load_in_8bit": True}, bits=8
    ),
    "mvp-greedy": Workload("mvp", "MVP fp32 greedy", ct2="float32", floor=1.3, peer=0.55, other=1.2),
    "mvp-beam5": Workload("mvp", "MVP fp32 beam 5", beams=5, ct2="float32", floor=1.5, peer=0.28, other=1.0),
    "mvp-prompt-beam5": Workload(
        "mvp-prompt", "MVP fp32 with prompts beam 5", beams=5, floor=1.5, peer=0.18, until=4
    ),
    "bert2bert-greedy": Workload("bert2bert", "bert2bert 24 layers fp32 greedy", floor=1.4, peer=0.5),
    "phimoe-greedy": Workload(
        "phimoe",
        "PhiMoE 1024 x 16 experts bf16 greedy",
        dtype="bfloat16",
        ours={"dtype": "bfloat16"},
        bits=16,
        floor=2.0,
        peer=0.45,
    ),
}


def needs_bitsandbytes(work: Workload) -> bool:
    return any(name.startswith("load_in_") for name in work.ours or {})


# ---- a side: runs in a process of its own ----


class Ours:
    """seq2seq_zoo."""

    def __init__(self, folder: str, work: Workload) -> None:
        import seq2seq_zoo as zoo

        self.work, self.kind, self.folder = work, getattr(zoo, MODELS[work.model]["class"]), folder
        self.version = "seq2seq_zoo"

    def load(self) -> None:
        import seq2seq_zoo as zoo

        options = self.work.ours
        if needs_bitsandbytes(self.work):
            config = zoo.BitsAndBytesConfig(**options)
            self.model = self.kind.from_pretrained(self.folder, quantization_config=config)
        else:
            self.model = self.kind.from_pretrained(self.folder)
            if options is not None:
                zoo.optimize(self.model, **options)
        self.model.generation_config.eos_token_id = None
        self.model.generation_config.forced_eos_token_id = None

    def write(self, ids: Any, tokens: int) -> None:
        new = {"max_new_tokens": tokens, "num_beams": self.work.beams, "do_sample": False}
        self.model.generate(ids, attention_mask=ids.new_ones(ids.shape), **new)

    def weights_a_step(self) -> int:
        """How many weights one row's step multiplies by: the writing stack's, but for what is computed once a
        source, and the head's."""
        from torch import nn

        def is_read(name: str) -> bool:
            once = ("encoder.", "cross_attention.key", "cross_attention.value", "_prompt.", "enc_to_dec_proj")
            return not any(part in name for part in once)

        config, count = self.model.config, 0
        for name, part in self.model.named_modules():
            inner = name.replace("decoder.model.", "decoder.")
            if not is_read(inner):
                continue
            if isinstance(part, nn.Linear):
                count += part.in_features * part.out_features
            elif type(part).__name__ == "StackedLinear":  # all experts' weights, of which a token meets some
                count += part.weight.numel() * config.num_experts_per_tok // config.num_local_experts
        return count

    def error(self) -> float:
        """How far the scores are from those of the weights as they were stored, relative to these."""
        import torch

        generator = torch.Generator().manual_seed(1)
        ids = torch.randint(3, 30000, (1, 32), generator=generator)
        given = {"input_ids": ids}
        if self.model.config.is_encoder_decoder:
            given["decoder_input_ids"] = ids[:, :8]
        with torch.inference_mode():
            found = self.model(**given).logits.float()
            exact = self.kind.from_pretrained(self.folder)(**given).logits.float()
        return float((found - exact).norm() / exact.norm())


class Transformers:
    """transformers, of whatever version this Python has."""

    def __init__(self, folder: str, work: Workload) -> None:
        import transformers

        transformers.logging.set_verbosity_error()
        self.work, self.folder = work, folder
        self.version = f"transformers {transformers.__version__}"
        self.kind = getattr(transformers, MODELS[work.model]["class"])

    def load(self) -> None:
        import torch

        model = self.kind.from_pretrained(self.folder, dtype=getattr(torch, self.work.dtype))
        model.eval()
        for config in (model.generation_config, model.config):
            config.eos_token_id = None
            config.forced_eos_token_id = None
        model.generation_config.pad_token_id = 0
        self.model = model

    def write(self, ids: Any, tokens: int) -> None:
        import torch

        new = {"max_new_tokens": tokens, "num_beams": self.work.beams, "do_sample": False}
        with torch.inference_mode():
            found = self.model.generate(ids, attention_mask=ids.new_ones(ids.shape), **new)
        written = found.shape[1] - (1 if self.model.config.is_encoder_decoder else ids.shape[1])
        assert written == tokens, f"{written} tokens were written, not {tokens}"


class CTranslate2:
    """CTranslate2, on the model converted by its own converter."""

    def __init__(self, folder: str, work: Workload) -> None:
        import ctranslate2

        self.work, self.version = work, f"ctranslate2 {ctranslate2.__version__}"
        self.converted = Path(folder) / "ctranslate2"
        if not self.converted.exists():
            self._convert(Path(folder))

    def _convert(self, folder: Path) -> None:
        from ctranslate2.converters import TransformersConverter

        config = json.loads((folder / "config.json").read_text())
        size = config["vocab_size"]

        class Tokens:
            """Names for ids, which is all that the converter asks of a tokenizer."""

            unk_token, bos_token, eos_token, pad_token = "t3", "t0", "t1", "t2"
            unk_token_id, bos_token_id, eos_token_id, pad_token_id = 3, 0, 1, 2
            additional_special_tokens: list[str] = []  # noqa: RUF012

            def get_vocab(self) -> dict[str, int]:
                return {f"t{number}": number for number in range(size)}

            def convert_ids_to_tokens(self, ids: Any) -> Any:
                return f"t{ids}" if isinstance(ids, int) else [f"t{number}" for number in ids]

        class Converter(TransformersConverter):  # type: ignore[misc]
            def load_tokenizer(self, *given: Any, **options: Any) -> Tokens:
                return Tokens()

        with tempfile.TemporaryDirectory() as place:
            if config["model_type"] == "mvp":  # without prompts it is a BART, which the converter knows
                config |= {"model_type": "bart", "architectures": ["BartForConditionalGeneration"]}
                config |= {"normalize_before": False, "normalize_embedding": True}
            (Path(place) / "config.json").write_text(json.dumps(config))
            for file in folder.glob("*.safetensors*"):
                (Path(place) / file.name).symlink_to(file)
            Converter(place).convert(str(self.converted))

    def load(self) -> None:
        import ctranslate2

        threads = int(os.environ["OMP_NUM_THREADS"])
        self.model = ctranslate2.Translator(
            str(self.converted), compute_type=self.work.ct2, intra_threads=threads, inter_threads=1
        )

    def write(self, ids: Any, tokens: int) -> None:
        texts = [[f"t{number}" for number in row] for row in ids.tolist()]
        new = {"max_decoding_length": tokens, "min_decoding_length": tokens, "beam_size": self.work.beams}
        found = self.model.translate_batch(texts, **new)
        assert len(found[0].hypotheses[0]) in (tokens - 1, tokens), "texts have the length asked for"


LIBRARIES = ("transformers", "ctranslate2", "bitsandbytes")
SIDES = {"ours": Ours, "transformers": Transformers, "ctranslate2": CTranslate2}


def serve(side: str, folder: str, name: str) -> None:
    """Load, say so, and time what is asked for, a line a time, until the input ends."""
    work = WORKLOADS[name]
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed shall not disturb the answers

    def answer(**values: Any) -> None:
        print(json.dumps(values), file=out, flush=True)

    import torch  # every side has it; what counts is what comes on top

    start = time.perf_counter()
    if side == "ours":
        sys.path.insert(0, str(ROOT))
    runner = SIDES[side](folder, work)
    imported = time.perf_counter()
    runner.load()
    loaded = time.perf_counter()
    ids = torch.randint(3, 30000, (work.batch, SOURCE), generator=torch.Generator().manual_seed(0))
    answer(version=runner.version, imported=imported - start, loaded=loaded - imported)
    for line in sys.stdin:
        request = json.loads(line)
        if "tokens" in request:
            start = time.perf_counter()
            runner.write(ids, request["tokens"])
            answer(seconds=time.perf_counter() - start)
        elif "end" in request:
            peak = peak_megabytes()
            more = {}
            if isinstance(runner, Ours):
                more = {"weights": runner.weights_a_step(), "error": runner.error()}
            answer(peak=peak, **more)


def peak_megabytes() -> float:
    """The most memory this process has held; getrusage alone would count its parent's."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Side:
    """The parent's end of such a process."""

    def __init__(self, python: str, side: str, folder: Path, name: str) -> None:
        command = [python, __file__, "--serve", side, "--folder", str(folder), name]
        self.side = side
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about = self._answer()
        self.runs: dict[int, list[float]] = {}

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the process of {self.side} ended with {self.process.wait()}")
        return json.loads(line)  # type: ignore[no-any-return]

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def run(self, tokens: int) -> None:
        self.runs.setdefault(tokens, []).append(self.ask(tokens=tokens)["seconds"])

    def end(self) -> None:
        self.about |= self.ask(end=True)
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def step(self, steps: int) -> float:
        """Seconds a step: of each length the fastest run."""
        return (min(self.runs[steps + 1]) - min(self.runs[1])) / steps


# ---- the floor ----


class Machine:
    """The bandwidth of a long read and the rate of a large matrix product, the best seen."""

    def __init__(self) -> None:
        import torch

        self.bandwidth = self.rate = 0.0
        self.numbers = torch.ones(2**28)  # 1 GiB, which no cache holds
        self.square = torch.rand(1536, 1536)

    def measure(self) -> None:
        import torch

        halves, vectors = self.numbers.view(2, -1, 1024), torch.ones(2, 1024, 1)
        for read in (self.numbers.sum, lambda: torch.bmm(halves, vectors)):
            start = time.perf_counter()
            read()
            self.bandwidth = max(self.bandwidth, self.numbers.nbytes / (time.perf_counter() - start))
        start = time.perf_counter()
        self.square @ self.square
        self.rate = max(self.rate, 2 * 1536**3 / (time.perf_counter() - start))


# ---- the table ----


def measure(
    name: str, folder: Path, pythons: dict[str, list[str]], machine: Machine, given: Any
) -> dict[str, Any]:
    """All sides of one workload, in turn."""
    work = WORKLOADS[name]
    ours = pythons["bitsandbytes"][0] if needs_bitsandbytes(work) else sys.executable
    sides = [Side(ours, "ours", folder, name)]
    for python in pythons["transformers"] if work.peer is not None or not given.quick else []:
        side = Side(python, "transformers", folder, name)
        major = int(side.about["version"].split()[1].split(".")[0])
        if major <= work.until and side.about["version"] not in [other.about["version"] for other in sides]:
            sides.append(side)
        else:
            side.end()
    if work.ct2 is not None:
        sides += [Side(python, "ctranslate2", folder, name) for python in pythons["ctranslate2"][:1]]
    for side in sides:
        side.ask(tokens=3)
    for _ in range(given.rounds):
        machine.measure()
        for side in sides:
            side.run(1)
            side.run(given.steps + 1)
    for side in sides:
        side.end()
    weights = sides[0].about["weights"]
    floor = weights * work.bits / 8 / machine.bandwidth
    return {
        "name": name,
        "floor": floor,
        "error": sides[0].about["error"],
        "sides": [
            {
                "side": side.side,
                "version": side.about["version"],
                "step": side.step(given.steps),
                "first": min(side.runs[1]),
                "load": side.about["loaded"],
                "import": side.about["imported"],
                "peak": side.about["peak"],
            }
            for side in sides
        ],
    }


def with_aim(ratio: float | None, aim: float | None) -> str:
    if ratio is None:
        return "–"
    return f"{ratio:.2f}" if aim is None else f"{ratio:.2f} (≤ {aim:g})"


def lines_of(result: dict[str, Any]) -> list[str]:
    """Workload, ms a step, floor, ratios to floor, best transformers and CTranslate2, error."""
    work = WORKLOADS[result["name"]]
    step = {kind: [s["step"] for s in result["sides"] if s["side"] == kind] for kind in SIDES}
    ours, floor = step["ours"][0], result["floor"]
    peer = min(step["transformers"], default=None)
    other = min(step["ctranslate2"], default=None)

    def milliseconds(value: float | None) -> str:
        return "–" if value is None else f"{value * 1e3:.1f}"

    return [
        work.title,
        milliseconds(ours),
        milliseconds(floor),
        milliseconds(peer),
        milliseconds(other),
        with_aim(ours / floor, work.floor),
        with_aim(None if peer is None else ours / peer, work.peer),
        with_aim(None if other is None else ours / other, work.other),
        f"{result['error']:.0e}" if result["error"] else "0",
    ]


HEADS = [
    "workload",
    "ms a step",
    "floor",
    "transformers",
    "CTranslate2",
    "/ floor",
    "/ transformers",
    "/ CTranslate2",
    "error",
]
MORE = ["workload", "side", "first token ms", "load s", "import s", "peak MB"]


def table(heads: list[str], rows: list[list[str]], markdown: bool) -> str:
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    if markdown:
        lines = [heads, ["---"] * len(heads), *rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in [heads, *rows]
    )


def report(results: list[dict[str, Any]], machine: Machine, markdown: bool) -> str:
    more = [
        [
            WORKLOADS[result["name"]].title,
            side["version"],
            f"{side['first'] * 1e3:.0f}",
            f"{side['load']:.2f}",
            f"{side['import']:.2f}",
            f"{side['peak']:.0f}",
        ]
        for result in results
        for side in result["sides"]
    ]
    versions = sorted({side["version"] for result in results for side in result["sides"]})
    about = (
        f"{datetime.date.today()}, {processor_name()}, {os.environ['OMP_NUM_THREADS']} threads: "
        f"{machine.bandwidth / 1e9:.0f} GB/s read, {machine.rate / 1e9:.0f} GFLOP/s in float32; "
        f"{', '.join(versions)}"
    )
    return "\n\n".join(
        [about, table(HEADS, [lines_of(r) for r in results], markdown), table(MORE, more, markdown)]
    )


def processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def has(python: str, library: str) -> bool:
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({library!r}) is None)"
    return subprocess.run([python, "-c", code], check=False).returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workloads", nargs="*", help="names of workloads; all if none is given")
    parser.add_argument("--list", action="store_true", help="list the workloads")
    parser.add_argument(
        "--peer-python", action="append", default=[], help="another Python whose libraries take part"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of every side")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of which the fastest counts")
    parser.add_argument("--steps", type=int, default=16, help="steps between the long run and the short")
    parser.add_argument("--quick", action="store_true", help="no peers where there is no aim beside them")
    parser.add_argument("--markdown", action="store_true", help="write tables in Markdown")
    parser.add_argument("--json", type=Path, help="write all figures to this file as well")
    parser.add_argument("--models", type=Path, help="keep the random models in this folder")
    parser.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve, given.folder, given.workloads[0])
        return
    if given.list:
        print("\n".join(f"{name:<18} {work.title}" for name, work in WORKLOADS.items()))
        return
    names = given.workloads or list(WORKLOADS)
    if unknown := [name for name in names if name not in WORKLOADS]:
        parser.error(f"no workload {unknown[0]!r}; there are {', '.join(WORKLOADS)}")
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.path.insert(0, str(ROOT))
    everyone = [sys.executable, *given.peer_python]
    pythons = {library: [p for p in everyone if has(p, library)] for library in LIBRARIES}
    machine, results = Machine(), []
    with tempfile.TemporaryDirectory() as place:
        folder = given.models or Path(place)
        for name in names:
            if needs_bitsandbytes(WORKLOADS[name]) and not pythons["bitsandbytes"]:
                print(f"{name}: bitsandbytes is not installed", file=sys.stderr)
                continue
            model = folder / WORKLOADS[name].model
            if not (model / "config.json").exists():
                make(WORKLOADS[name].model, model)
            results.append(measure(name, model, pythons, machine, given))
            print("  ".join(lines_of(results[-1])), file=sys.stderr, flush=True)
            if given.json:
                given.json.write_text(json.dumps(results, indent=1))
    print(report(results, machine, given.markdown))


if __name__ == "__main__":
    main()
