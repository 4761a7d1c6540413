"""The command `seq2seq-zoo`.

    seq2seq-zoo run --task TASK --model WHERE [options] [TEXT ...]    write, a line a result
    seq2seq-zoo inspect WHERE                                         show a checkpoint without loading it

Results go to standard output; where one is written at a time, token by token, it shows as it grows. What goes
wrong goes to standard error, as one line, and the exit code says what it was: 2 for a command that makes no
sense, 1 for one that failed, 130 for Ctrl-C, 141 for a reader that went away. torch is imported when there is
work to do, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from . import __version__
from .errors import GenerationError, UsageError, ZooError
from .pipelines.tasks import TEXT_GENERATION, find_task, task_names

FAILED, MISUSED, INTERRUPTED, READER_GONE = 1, 2, 130, 141

_FLAG = argparse.BooleanOptionalAction
GENERATION: dict[str, tuple[Any, str]] = {
    "max_new_tokens": (int, "longest answer in tokens"),
    "max_length": (int, "longest answer in tokens, its start token included"),
    "min_length": (int, "shortest answer in tokens, its start token included"),
    "num_beams": (int, "answers searched in parallel; 1 is greedy search"),
    "length_penalty": (float, "above 0 beams favour long answers, below 0 short ones"),
    "early_stopping": (_FLAG, "stop when num_beams answers are complete"),
    "no_repeat_ngram_size": (int, "no run of this many tokens occurs twice"),
    "num_return_sequences": (int, "answers printed for each text"),
    "do_sample": (_FLAG, "draw tokens at random instead of taking the best"),
    "temperature": (float, "sampling: below 1 bolder for the likely tokens, above 1 flatter"),
    "top_k": (int, "sampling: only this many of the best tokens"),
    "top_p": (float, "sampling: only the best tokens that make up this probability"),
    "repetition_penalty": (float, "above 1 tokens of the answer so far become less likely"),
}
"""The options of `generate` that the command offers: how each is read, and its help."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with these arguments, by default those of the process; returns the exit code."""
    # The hub's client tells of every retry; what came of it is in the error.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    try:
        chosen = _parser().parse_args(arguments)
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            _speak_utf8(sys.stdout)
            chosen.command(chosen)
            sys.stdout.flush()
    except SystemExit as end:  # argparse: 0 after --help, MISUSED after a fault
        return int(end.code or 0)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # As the interpreter ends it flushes once more: into nothing, lest it complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    except (UsageError, GenerationError) as error:
        _tell("error", error)
        return MISUSED
    except (ZooError, ValueError, OSError) as error:
        _tell("error", error)
        return FAILED
    return 0


def run(chosen: argparse.Namespace) -> None:
    """Write an answer to each text."""
    import torch

    from .pipelines import pipeline

    continues = find_task(chosen.task).name == TEXT_GENERATION
    if not continues and (chosen.chat is not None or chosen.system is not None):
        raise UsageError(f"--chat and --system are for {TEXT_GENERATION}, but --task is {chosen.task}")
    generation = {name: getattr(chosen, name) for name in GENERATION}
    write = pipeline(
        chosen.task,
        chosen.model,
        tokenizer=chosen.tokenizer,
        revision=chosen.revision,
        device=chosen.device,
        dtype=chosen.dtype,
        batch_size=chosen.batch_size,
        truncation=chosen.truncation,
        **{name: value for name, value in generation.items() if value is not None},
    )
    if chosen.seed is not None:
        torch.manual_seed(chosen.seed)
    texts = iter(chosen.text) if chosen.text else _lines_of(sys.stdin)
    prompts: Iterator[Any] = texts
    if continues and _is_chat(chosen, write.tokenizer):
        system = [] if chosen.system is None else [{"role": "system", "content": chosen.system}]
        prompts = ([*system, {"role": "user", "content": text}] for text in texts)
        write.options["return_full_text"] = False
    if chosen.batch_size == write.option("num_beams") == write.option("num_return_sequences") == 1:
        for prompt in prompts:
            write.stream(prompt, lambda text: print(text, end="", flush=True))
            print(flush=True)
        return
    for results in write(prompts):
        for result in results:
            (answer,) = result.values()
            print(" ".join(answer.splitlines()), flush=True)


def _is_chat(chosen: argparse.Namespace, tokenizer: Any) -> bool:
    """Whether a text is a user's message: as asked for, or if the tokenizer can write conversations."""
    return tokenizer.chat_template is not None if chosen.chat is None else chosen.chat


def inspect(chosen: argparse.Namespace) -> None:
    """Show config, parameters and key map of a checkpoint."""
    from .inspection import config_lines, count_lines, inspect_checkpoint, key_lines

    found = inspect_checkpoint(chosen.where, chosen.class_name, revision=chosen.revision)
    sections = [key_lines] if chosen.keys else [config_lines, count_lines, key_lines]
    for number, lines in enumerate(sections):
        if number:
            print()
        for line in lines(found):
            print(line)


def _lines_of(stream: Any) -> Iterator[str]:
    """The lines of standard input, one at a time."""
    if stream is None:
        raise UsageError("there are no TEXT arguments and no standard input to read texts from")
    _speak_utf8(stream)
    try:
        for line in stream:
            yield line.rstrip("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"standard input is not UTF-8: {error}") from error


def _speak_utf8(stream: Any) -> None:
    """Texts are UTF-8, in and out, whatever the locale says."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(encoding="utf-8")


# ---- what the command understands, and how it speaks ----


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(MISUSED, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="seq2seq-zoo", description="Models that read text and write text.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"seq2seq-zoo {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    about = "Write an answer to each TEXT, or to each line of standard input; a line a result."
    add = _command(commands, "run", run, about)
    add("text", nargs="*", metavar="TEXT", help="what to answer; standard input is read if there is none")
    add("--task", required=True, type=_task, metavar="TASK", help=" | ".join(task_names()))
    add("--model", required=True, metavar="WHERE", help="a folder, a hub id like ORG/NAME, or bundled:NAME")
    add("--tokenizer", metavar="WHERE", help="the tokenizer, if it is not with the model")
    add("--revision", metavar="NAME", help="branch, tag or commit of a hub id")
    add(
        "--device",
        type=_device,
        metavar="D",
        help="cpu, cuda, cuda:1, or a number; an accelerator if there is one",
    )
    add(
        "--dtype",
        default="auto",
        choices=["auto", "float32", "bfloat16", "float16", "float64"],
        metavar="T",
        help="float32, bfloat16, float16, float64, or auto for the checkpoint's own (auto)",
    )
    add("--batch-size", default=1, type=int, metavar="N", help="texts in one pass through the model (1)")
    add("--truncation", action="store_true", help="cut texts that are too long for the model")
    add(
        "--chat",
        action=_FLAG,
        default=None,
        help=f"{TEXT_GENERATION}: each text is a message to answer, not a text to continue; so by itself if "
        "the tokenizer has a chat template",
    )
    add("--system", metavar="TEXT", help=f"{TEXT_GENERATION}: the system message before each message")
    add("--seed", type=int, metavar="N", help="start of the random numbers, for sampling that repeats itself")
    for name, (kind, text) in GENERATION.items():
        reading = (
            {"action": kind} if kind is _FLAG else {"type": kind, "metavar": "N" if kind is int else "X"}
        )
        add("--" + name.replace("_", "-"), dest=name, default=None, help=text, **reading)

    about = "Show config, parameters and key map of a checkpoint without loading its weights."
    add = _command(commands, "inspect", inspect, about)
    add("where", metavar="WHERE", help="a folder, a hub id like ORG/NAME, or bundled:NAME")
    add("--revision", metavar="NAME", help="branch, tag or commit of a hub id")
    add("--class", dest="class_name", metavar="NAME", help="the class to read it as; the config names one")
    add("--keys", action="store_true", help="the key map alone")
    return parser


def _command(commands: Any, name: str, command: Any, about: str) -> Any:
    parser = commands.add_parser(name, help=about, description=about, allow_abbrev=False)
    parser.set_defaults(command=command)
    return parser.add_argument


def _task(name: str) -> str:
    try:
        find_task(name)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return name


def _device(name: str) -> str | int:
    if re.fullmatch(r"-?\d+", name):
        return int(name)
    if not re.fullmatch(r"[a-z]+(:\d+)?", name):
        raise argparse.ArgumentTypeError(f"{name!r} is neither a number nor a name like cpu, cuda or cuda:1")
    return name


def _tell(kind: str, what: object) -> None:
    """One line on standard error."""
    text = " ".join(str(what).split()) or type(what).__name__
    print(f"seq2seq-zoo: {kind}: {text}", file=sys.stderr)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    _tell("warning", message)
