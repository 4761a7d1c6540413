"""Both libraries on the same text: the error at every layer, in a table.

    python tools/parity.py google/mt5-small                       a hub repository
    python tools/parity.py FOLDER --text "Iron Man | instance of | Superhero"
    python tools/parity.py bundled:bert2bert --dtype float32 --plot errors.png

The checkpoint is loaded by this package and by transformers, each with its own loader, as the class that its
config.json names (--class: another). Both get the token ids of the text, in one pass that returns all hidden
vectors. The error of a layer is the largest difference, relative to the largest value of transformers'.

In float64 the two should agree to rounding, 1e-9. Where transformers computes in float32 whatever the
model's dtype (the mean square of T5's norm, softmaxes, MEGA's sines), that is lifted to float64 first, or the
table would show its rounding instead. Its faults, which tests/DIVERGENCES.md lists, stay and show.

Exit code: 0 if every layer is within the tolerance, 1 if not, 2 if there was nothing to compare or the figure
cannot be written.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
TOLERANCES = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 5e-2, "float16": 1e-2}
TEXT = "The quick brown fox jumps over the lazy dog, and nobody minds."
WITHIN, APART, NOTHING = 0, 1, 2


class NothingToCompareError(Exception):
    """There is no pair of models, or nothing to give them."""


@dataclass(frozen=True)
class Row:
    """One tensor of the output: a layer's hidden vectors, or scores."""

    name: str
    shape: tuple[int, ...]
    largest: float
    """The largest value of transformers' tensor."""
    error: float
    """The largest difference, relative to it; NaN and infinity where only one side has them count as such."""


# ---- the two models ----


def theirs_of(name: str, model_type: str) -> Any:
    """The class of transformers that reads this checkpoint as ours does."""
    import transformers

    if model_type == "bart":
        name = name.replace("Mvp", "Bart")
    elif model_type == "bert":
        nothing(
            "plain BERT is read as BertGeneration, which leaves out its token types: no class there does so"
        )
    found = getattr(transformers, name, None)
    if found is None:
        nothing(
            f"transformers {transformers.__version__} has no {name}; 4.57.6 is the last that has them all"
        )
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return found


def load_both(
    where: str, class_name: str | None, dtype: Any, revision: str | None
) -> tuple[Any, Any, list[str]]:
    """Our model and theirs, in eval mode, and the keys the checkpoint lacks, where theirs starts as ours."""
    from seq2seq_zoo.checkpoint.plan import make_plan
    from seq2seq_zoo.checkpoint.resolve import BUNDLED, bundled_folder
    from seq2seq_zoo.config import read_config
    from seq2seq_zoo.inspection import find_class
    from seq2seq_zoo.models.auto import family_of

    values = read_config(where, revision=revision)
    family = family_of(values.get("model_type"), where)
    cls = find_class(family, class_name, family.config.from_dict(values).architectures or ())
    other = theirs_of(cls.__name__, values["model_type"])
    ours, info = cls.from_pretrained(where, dtype=dtype, revision=revision, output_loading_info=True)

    place = str(bundled_folder(where)) if where.startswith(BUNDLED) else where
    options: dict[str, Any] = {"revision": revision or "main", "torch_dtype": dtype}
    if other.config_class.model_type == "phimoe":  # 5.x applies experts in several ways; one takes any dtype
        config = other.config_class.from_pretrained(place, revision=options["revision"])
        config._experts_implementation = "eager"
        options["config"] = config
    theirs = other.from_pretrained(place, attn_implementation="eager", **options).to(dtype).eval()
    plan, absent = make_plan(ours, cls.key_map(ours.config)), info["missing_keys"]
    for link in plan.links:
        if not set(absent).isdisjoint(link.keys):
            tensors = link.rule.to_theirs([plan.tensors[name].detach() for name in link.names])
            theirs.load_state_dict(dict(zip(link.keys, tensors, strict=True)), strict=False)
    return ours, theirs, absent


# ---- what both are given ----


def ids_of(text: str | None, where: str, revision: str | None, model: Any) -> tuple[list[int], str]:
    """Token ids, and a word on where they are from."""
    from seq2seq_zoo import AutoTokenizer, ZooError

    try:
        tokenizer = AutoTokenizer.from_pretrained(where, revision=revision)
    except ZooError as problem:
        if text is not None:
            nothing(f"--text needs a tokenizer, and {where} has none that can be read: {problem}")
        return _ids_at_random(model), "random ids (there is no tokenizer)"
    ids = tokenizer(TEXT if text is None else text).input_ids
    return ids, _tokens_agree(ids, TEXT if text is None else text, where, revision)


def _tokens_agree(ids: list[int], text: str, where: str, revision: str | None) -> str:
    import transformers

    from seq2seq_zoo.checkpoint.resolve import BUNDLED, bundled_folder

    place = str(bundled_folder(where)) if where.startswith(BUNDLED) else where
    try:
        theirs = transformers.AutoTokenizer.from_pretrained(place, revision=revision or "main")(
            text
        ).input_ids
    except Exception as problem:  # whatever it is, it is no matter of the models
        return f"{len(ids)} token ids (transformers' tokenizer fails: {type(problem).__name__})"
    if theirs == ids:
        return f"{len(ids)} token ids, the same from both tokenizers"
    return f"{len(ids)} token ids of ours, given to both; transformers' tokenizer makes {theirs}"


def _ids_at_random(model: Any) -> list[int]:
    import torch

    config = getattr(model.config, "encoder", model.config)
    size = min(config.vocab_size, getattr(model.config, "decoder", config).vocab_size)
    ids = torch.randint(min(3, size - 1), size, (12,), generator=torch.Generator().manual_seed(0)).tolist()
    end = config.eos_token_id
    return [*ids, end] if isinstance(end, int) and end < size else ids


def readable(ids: Sequence[int], config: Any) -> list[int]:
    """The ids that both can read: of too many the first, and the last one, which ends the text.

    In chunks transformers reads any number up to one chunk, beyond it whole ones; a decoder needs the first
    whole as well, and reads too few again and again.
    """
    count = len(ids)
    longest = getattr(config, "max_position_embeddings", None) or count
    if config.model_type == "mega" and config.use_chunking:
        chunk = config.chunk_size
        if count < chunk and config.is_decoder:
            return list(islice(cycle(ids), chunk))
        longest = max(count - count % chunk, chunk)
    elif config.model_type == "mega" and config.relative_positional_bias == "simple":
        longest = config.max_positions if config.chunk_size < 0 else config.chunk_size
    return [*ids[: longest - 1], ids[-1]] if longest < count else list(ids)


def arguments_of(model: Any, ids: Sequence[int]) -> dict[str, Any]:
    """The keywords of a pass that returns all hidden vectors."""
    import torch

    row = torch.tensor([readable(ids, getattr(model.config, "encoder", model.config))])
    given: dict[str, Any] = {"input_ids": row, "attention_mask": torch.ones_like(row)}
    if type(model).__name__.endswith("MultipleChoice"):  # [rows, choices, length]
        given = {name: torch.stack([value, value.flip(1)], 1) for name, value in given.items()}
    reads_twice = type(model).__name__.endswith(("SequenceClassification", "QuestionAnswering"))
    if "decoder_input_ids" in signature(model.forward).parameters and not reads_twice:
        started = [model.config.decoder_start_token_id or 0, *row[0].tolist()]
        started = readable(started, getattr(model.config, "decoder", model.config))
        given["decoder_input_ids"] = torch.tensor([started])
    if "use_cache" in signature(model.forward).parameters:
        given["use_cache"] = False
    return given | {"output_hidden_states": True, "return_dict": True}


@contextlib.contextmanager
def lifted(dtype: Any) -> Iterator[None]:
    """In float64: what transformers computes in float32 whatever the dtype, in float64 as well."""
    import torch
    from torch.nn import functional

    if dtype != torch.float64:
        yield
        return
    to_float, softmax, before = torch.Tensor.float, functional.softmax, torch.get_default_dtype()

    def own_softmax(x: Any, *arguments: Any, **options: Any) -> Any:
        if x.dtype == torch.float64:
            options.pop("dtype", None)
        return softmax(x, *arguments, **options)

    with contextlib.ExitStack() as undo:
        for owner, name, value in (
            (torch.Tensor, "float", lambda x: x if x.dtype == torch.float64 else to_float(x)),
            (functional, "softmax", own_softmax),
            *_of_families(),
        ):
            if name in vars(owner):
                undo.callback(setattr, owner, name, vars(owner)[name])
            else:  # inherited
                undo.callback(delattr, owner, name)
            setattr(owner, name, value)
        torch.set_default_dtype(torch.float64)
        undo.callback(torch.set_default_dtype, before)
        yield


def _of_families() -> Iterator[tuple[Any, str, Any]]:
    """Classes of transformers that name float32 themselves, and what they say in float64."""
    import torch
    from transformers.models.mt5.modeling_mt5 import MT5LayerNorm

    def norm(self: Any, x: Any) -> Any:
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)

    def sines(positions: int, width: int) -> tuple[Any, Any]:
        speeds = torch.exp(torch.arange(width // 2) * -(math.log(10000) / (width // 2)))
        angles = torch.arange(positions)[:, None] * speeds
        return angles.sin(), angles.cos()

    yield MT5LayerNorm, "forward", norm
    with contextlib.suppress(ImportError):  # 5.x has no MEGA
        from transformers.models.deprecated.mega import modeling_mega

        rotary = modeling_mega.MegaRotaryRelativePositionalBias
        yield rotary, "get_sinusoid_embeddings", staticmethod(sines)


# ---- the comparison ----


def compare(
    where: str,
    *,
    text: str | None = None,
    ids: Sequence[int] | None = None,
    dtype: str = "float64",
    class_name: str | None = None,
    revision: str | None = None,
) -> tuple[str, list[Row]]:
    """What was compared, in words, and a row for each tensor of the output, first layers first."""
    import torch

    precision = getattr(torch, dtype)
    with lifted(precision):
        ours, theirs, absent = load_both(where, class_name, precision, revision)
        source = f"{len(ids)} token ids as given" if ids is not None else ""
        if ids is None:
            ids, source = ids_of(text, where, revision, ours)
        arguments = arguments_of(ours, ids)
        count = arguments["input_ids"].shape[-1]
        if count != len(ids):
            source += f", {'cut' if count < len(ids) else 'repeated'} to the {count} that both can read"
        if absent:
            source += f"; not in the checkpoint, of the same random start in both: {', '.join(absent)}"
        with torch.no_grad():
            mine, other = ours(**arguments), theirs(**arguments)
    rows = [Row(name, *_errors(a, b)) for name, a, b in _tensors(mine, other)]
    return f"{where} as {type(ours).__name__} and {type(theirs).__name__}, {dtype}; {source}", rows


def _tensors(ours: Any, theirs: Any) -> Iterator[tuple[str, Any, Any]]:
    """The tensors that both outputs hold, by name: hidden vectors before what is made of them."""
    import torch

    def is_hidden(name: str) -> tuple[bool, bool]:
        return "hidden_states" not in name, not name.startswith("encoder")

    for name in sorted(theirs.keys(), key=is_hidden):
        mine, other = ours.get(name), theirs[name]
        if isinstance(other, torch.Tensor):
            yield name, mine, other
        elif name.endswith("hidden_states") and other:
            for number, (a, b) in enumerate(zip(mine or [None] * len(other), other, strict=True)):
                what = "embedding" if number == 0 else f"layer {number}"
                yield f"{name.removesuffix('hidden_states').strip('_')} {what}".strip(), a, b


def _errors(ours: Any, theirs: Any) -> tuple[tuple[int, ...], float, float]:
    import torch

    shape = tuple(theirs.shape)
    largest = float(theirs.abs().max())
    if ours is None or tuple(ours.shape) != shape:
        return shape, largest, math.inf
    apart = (ours.to(torch.float64) - theirs.to(torch.float64)).abs().max()
    return shape, largest, float(apart) / max(largest, 1e-300)


def is_within(row: Row, tolerance: float) -> bool:
    return row.error <= tolerance  # NaN is not


def lines_of(rows: Sequence[Row], tolerance: float) -> Iterator[str]:
    """The table."""
    width = max(len(row.name) for row in rows)
    yield f"{'':<{width}}  {'shape':<16}  {'largest':>10}  {'error':>8}"
    for row in rows:
        mark = "" if is_within(row, tolerance) else f"  > {tolerance:.0e}"
        shape = " ".join(map(str, row.shape))
        yield f"{row.name:<{width}}  {shape:<16}  {row.largest:>10.4g}  {row.error:>8.1e}{mark}"


def plot(rows: Sequence[Row], tolerance: float, title: str, path: str) -> None:
    """The errors, layer after layer, as a figure."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(max(6.0, 0.3 * len(rows)), 4.5))
    axes.semilogy([max(row.error, 1e-18) for row in rows], "o-", markersize=4)
    axes.axhline(tolerance, color="grey", linestyle="--", linewidth=1, label=f"tolerance {tolerance:.0e}")
    axes.set_xticks(range(len(rows)), [row.name for row in rows], rotation=90, fontsize=7)
    axes.set_ylabel("largest difference / largest value")
    axes.set_title(textwrap.fill(title, 90), fontsize=8)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


# ---- the command ----


def nothing(why: str) -> NoReturn:
    raise NothingToCompareError(why)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="parity.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("where", metavar="WHERE", help="a folder, a hub repository, or bundled:NAME")
    parser.add_argument("--text", help="what both read")
    parser.add_argument("--ids", help='token ids instead, as "5 17 2"')
    parser.add_argument("--class", dest="class_name", metavar="NAME", help="the class; config.json names one")
    parser.add_argument("--dtype", default="float64", choices=list(TOLERANCES), help="float64")
    parser.add_argument("--tolerance", type=float, help="largest relative error; by dtype, 1e-9 in float64")
    parser.add_argument("--revision", help="branch, tag or commit of a hub repository")
    parser.add_argument("--plot", metavar="FILE", help="a figure of the errors (extra: plots)")
    try:
        given = parser.parse_args(arguments)
        tolerance = TOLERANCES[given.dtype] if given.tolerance is None else given.tolerance
        if given.text is not None and given.ids is not None:
            nothing("both of --text and --ids were given; one is enough")
        _need("transformers", "transformers==4.57.6")
        if given.plot is not None:
            _need("matplotlib", '"seq2seq-zoo[plots]"')
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            title, rows = compare(
                given.where,
                text=given.text,
                ids=None if given.ids is None else _numbers(given.ids),
                dtype=given.dtype,
                class_name=given.class_name,
                revision=given.revision,
            )
        apart = [row.name for row in rows if not is_within(row, tolerance)]
        verdict = f"{len(apart)} of {len(rows)} apart, the first: {apart[0]}" if apart else ""
        show(title, *lines_of(rows, tolerance), verdict or "all within the tolerance")
        if given.plot is not None:
            plot(rows, tolerance, title, given.plot)
    except SystemExit as end:  # argparse: 0 after --help
        return int(end.code or 0)
    except Exception as problem:
        what = " ".join(str(problem).split()) or type(problem).__name__
        print(f"parity.py: error: {what}", file=sys.stderr)
        return NOTHING
    return APART if apart else WITHIN


def show(*lines: str) -> None:
    """Print lines, to whoever reads them: one who has seen enough may go away."""
    try:
        for line in lines:
            print(line)
        sys.stdout.flush()
    except BrokenPipeError:  # as Python ends, it flushes once more: into nothing
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _numbers(text: str) -> list[int]:
    try:
        found = [int(number) for number in text.replace(",", " ").split()]
    except ValueError:
        found = []
    if not found:
        nothing(f"--ids is {text!r}; it must be whole numbers, such as '5 17 2'")
    return found


def _need(library: str, requirement: str) -> None:
    try:
        import_module(library)
    except ImportError:
        nothing(f"{library} is not installed here: pip install {requirement}")


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
