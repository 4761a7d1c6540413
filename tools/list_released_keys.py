"""Write the lists of what released checkpoints hold: keys, dtypes and shapes, without downloading any.

    python tools/list_released_keys.py                 write tests/checkpoint/released/*.json
    python tools/list_released_keys.py --check         say whether they are up to date (exit code 1: no)
    python tools/list_released_keys.py --show NAME     a list, key by key, with the tensor of ours it becomes

The keys are those of the checkpoint's class in transformers 4.57.6, built on the meta device from the
published config; where that release is not installed, lists are shown, but not written or checked (exit code
2). A file made by an early release carries besides what that release left in it, tied copies and buffers; a
list names these apart, because the file may have been saved again since:

    {"class": …, "config": {…}, "tensors": {"encoder.block.{0..7}.…": "F32 [384, 512]"}, "may_carry": {…}}

A key with {0..7} stands for eight of them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "tests" / "checkpoint" / "released"
NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "I64": "int64"}

Shape = list[int]


@dataclass
class Released:
    """A checkpoint: its class, what its config.json says, and what else its file may hold."""

    cls: str
    config: dict[str, Any]
    source: str
    dtype: str = "F32"
    tied: list[str] = field(default_factory=list)
    """Keys of tied copies, which early files store and later ones leave out."""
    leftovers: dict[str, str] = field(default_factory=dict)
    """Keys that are no part of the class, and their tensors."""
    respelt: dict[str, str] = field(default_factory=dict)
    """How keys end in this file, where early releases spelt them otherwise."""


def mt5(**size: int) -> Released:
    buckets = f"F32 [32, {size['num_heads']}]"
    return Released(
        "MT5ForConditionalGeneration",
        {"model_type": "mt5", "vocab_size": 250112, "tie_word_embeddings": False, **size},
        "Xue et al. 2020, table 2, and the published parameter counts",
        tied=["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"],
        leftovers={"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": buckets},
    )


def mvp(prompts: bool) -> Released:
    return Released(
        "MvpForConditionalGeneration",
        {"model_type": "mvp", "vocab_size": 50267, "use_prompt": prompts},
        "the defaults of MvpConfig, which are this checkpoint's" + ", with prompts" * prompts,
        tied=["model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"],
    )


BART_LARGE = {"model_type": "bart", "vocab_size": 50265, "max_position_embeddings": 1024, "d_model": 1024}
BART_BASE = {
    **BART_LARGE,
    "d_model": 768,
    "encoder_layers": 6,
    "decoder_layers": 6,
    "encoder_ffn_dim": 3072,
    "decoder_ffn_dim": 3072,
    "encoder_attention_heads": 12,
    "decoder_attention_heads": 12,
}


def bart(cls: str, config: dict[str, Any]) -> Released:
    prefix = "" if cls == "BartModel" else "model."
    return Released(
        cls,
        config,
        "Lewis et al. 2019, section 3, and the fairseq checkpoints it was converted from",
        tied=[f"{prefix}encoder.embed_tokens.weight", f"{prefix}decoder.embed_tokens.weight"]
        + ["lm_head.weight"] * (cls == "BartForConditionalGeneration"),
        leftovers={f"{prefix}encoder.version": "F32 [1]", f"{prefix}decoder.version": "F32 [1]"},
    )


BERT_BASE = {"model_type": "bert", "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12}
BERT_BASE |= {"num_attention_heads": 12, "intermediate_size": 3072}
BERT_LARGE = {"model_type": "bert", "vocab_size": 30522, "hidden_size": 1024, "num_hidden_layers": 24}
BERT_LARGE |= {"num_attention_heads": 16, "intermediate_size": 4096}


def bert(config: dict[str, Any]) -> Released:
    return Released(
        "BertForPreTraining",
        config,
        "Devlin et al. 2018, section 3",
        tied=["cls.predictions.decoder.weight", "cls.predictions.decoder.bias"],
        leftovers={"bert.embeddings.position_ids": "I64 [1, 512]"},
        respelt={"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"},
    )


BERT_GENERATION = {"model_type": "bert-generation", "vocab_size": 50358}


def pair(vocab_size: int, positions: int = 512, **fields: Any) -> Released:
    half = {"model_type": "bert-generation", "vocab_size": vocab_size, "max_position_embeddings": positions}
    return Released(
        "EncoderDecoderModel",
        {
            "model_type": "encoder-decoder",
            "encoder": half,
            "decoder": {**half, "is_decoder": True, "add_cross_attention": True},
            **fields,
        },
        "Rothe et al. 2019, section 3: both halves of the size of BERT large, or RoBERTa large",
        tied=["decoder.lm_head.decoder.weight", "decoder.lm_head.decoder.bias"],
        leftovers={"encoder.embeddings.position_ids": f"I64 [1, {positions}]"},
    )


RELEASED: dict[str, Released] = {
    "google/mt5-small": mt5(d_model=512, d_ff=1024, num_layers=8, num_heads=6),
    "google/mt5-base": mt5(d_model=768, d_ff=2048, num_layers=12, num_heads=12),
    "google/mt5-large": mt5(d_model=1024, d_ff=2816, num_layers=24, num_heads=16),
    "google/mt5-xl": mt5(d_model=2048, d_ff=5120, num_layers=24, num_heads=32),
    "google/mt5-xxl": mt5(d_model=4096, d_ff=10240, num_layers=24, num_heads=64),
    "RUCAIBox/mvp": mvp(prompts=False),
    "RUCAIBox/mvp-summarization": mvp(prompts=True),
    "facebook/bart-base": bart("BartModel", BART_BASE),
    "facebook/bart-large": bart("BartModel", BART_LARGE),
    "facebook/bart-large-cnn": bart("BartForConditionalGeneration", {**BART_LARGE, "vocab_size": 50264}),
    "facebook/bart-large-mnli": bart("BartForSequenceClassification", {**BART_LARGE, "num_labels": 3}),
    "google-bert/bert-base-uncased": bert(BERT_BASE),
    "google-bert/bert-large-uncased": bert(BERT_LARGE),
    "google/bert_for_seq_generation_L-24_bbc_encoder": Released(
        "BertGenerationEncoder",
        BERT_GENERATION,
        "the defaults of BertGenerationConfig, which are this checkpoint's",
        leftovers={"embeddings.position_ids": "I64 [1, 512]"},
    ),
    "google/bert2bert_L-24_wmt_de_en": pair(50358),
    "google/roberta2roberta_L-24_discofuse": pair(50265, 514, tie_encoder_decoder=True),
    "mnaylor/mega-base-wikitext": Released(
        "MegaForMaskedLM",
        {"model_type": "mega", "vocab_size": 50265, "add_lm_hidden_dense_layer": False},
        "the defaults of MegaConfig, a model of this build, with RoBERTa's vocabulary",
        tied=["mlm_head.weight"],
    ),
    "microsoft/Phi-3.5-MoE-instruct": Released(
        "PhimoeForCausalLM",
        {"model_type": "phimoe", "attention_bias": True, "lm_head_bias": True},
        "the defaults of PhimoeConfig, which are this checkpoint's, with the biases of its config",
        dtype="BF16",
    ),
}
"""Repository → what it holds. RUCAIBox/mvp-* have the keys of mvp-summarization, mtl-* those of mvp; other
pairs of this size have those of the two that stand here."""


# ---- from a class to a list ----


def saved_by_the_oracle(released: Released) -> dict[str, str]:
    """Key → dtype and shape of everything the class has, its tied copies included."""
    import torch
    import transformers

    values = dict(released.config)
    if released.cls == "EncoderDecoderModel":
        halves = [
            transformers.BertGenerationConfig(**{k: v for k, v in values[half].items() if k != "model_type"})
            for half in ("encoder", "decoder")
        ]
        config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(*halves)
        config.tie_encoder_decoder = False  # on the meta device it would copy keys that are tied by name
    else:
        config = transformers.AutoConfig.for_model(**values)
    with torch.device("meta"):
        model = getattr(transformers, released.cls)(config)
    names = {torch.float32: released.dtype, torch.int64: "I64"}
    return {key: f"{names[t.dtype]} {list(t.shape)}" for key, t in model.state_dict().items()}


def make_list(released: Released) -> dict[str, Any]:
    """The content of a list."""
    found = saved_by_the_oracle(released)
    tied = {key: found.pop(key) for key in released.tied}
    if released.config.get("tie_encoder_decoder"):  # an encoder whose layers are the decoder's own
        shared = [f"encoder.{key[13:]}" for key in found if key.startswith("decoder.bert.")]
        tied |= {key: found.pop(key) for key in shared if key in found}
    for ours, theirs in released.respelt.items():
        found = {re.sub(rf"{re.escape(ours)}$", theirs, key): tensor for key, tensor in found.items()}
    return {
        "class": released.cls,
        "source": released.source,
        "config": released.config,
        "tensors": fold(found),
        "may_carry": {**fold(tied), **released.leftovers},
    }


def fold(tensors: dict[str, str]) -> dict[str, str]:
    """Keys that differ in numbers alone, and hold the same, as one key each: layers.{0..7}.weight."""
    groups: dict[tuple[str, str], list[tuple[int, ...]]] = {}
    for key, tensor in tensors.items():
        pattern = NUMBER.sub("{}", key)
        groups.setdefault((pattern, tensor), []).append(tuple(map(int, NUMBER.findall(key))))
    folded = {}
    for (pattern, tensor), numbers in groups.items():
        columns = [sorted(set(column)) for column in zip(*numbers, strict=True)]
        spans = [range(column[0], column[-1] + 1) for column in columns]
        if sorted(numbers) == list(itertools.product(*spans)):
            text = [f"{{{s[0]}..{s[-1]}}}" if len(s) > 1 else str(s[0]) for s in spans]
            folded[pattern.format(*text)] = tensor
        else:  # numbers with gaps: one by one
            folded |= {pattern.format(*each): tensor for each in numbers}
    return folded


def unfold(folded: dict[str, str]) -> dict[str, tuple[str, Shape]]:
    """The keys of a list one by one, with dtype and shape."""
    found: dict[str, tuple[str, Shape]] = {}
    for pattern, tensor in folded.items():
        dtype, _, shape = tensor.partition(" ")
        spans = [range(int(a), int(b) + 1) for a, b in RANGE.findall(pattern)]
        for numbers in itertools.product(*spans):
            found[RANGE.sub("{}", pattern).format(*numbers)] = (dtype, json.loads(shape))
    return found


# ---- from a list to our model ----


def open_list(name: str, *, with_leftovers: bool = True) -> Any:
    """A list as the headers of a checkpoint: a `Weights` whose tensors cannot be read."""
    import torch

    from seq2seq_zoo.checkpoint import TensorInfo, Weights
    from seq2seq_zoo.checkpoint.formats import WeightFile

    content = read_list(name)
    folded = content["tensors"] | (content["may_carry"] if with_leftovers else {})
    infos = {
        key: TensorInfo(tuple(shape), getattr(torch, DTYPES[dtype]), path_of(name))
        for key, (dtype, shape) in unfold(folded).items()
    }

    def tensor(key: str) -> Any:
        raise LookupError(f"{name} is a list: it has no values of {key}")

    return Weights(name, dict.fromkeys(infos, WeightFile(path_of(name), infos, tensor)))


def inspect_list(name: str, cls: Any = None, *, with_leftovers: bool = True) -> Any:
    """What `seq2seq-zoo inspect` would say of the checkpoint, read as `cls` or as its own class."""
    from seq2seq_zoo.inspection import find_class, inspect_weights
    from seq2seq_zoo.models.auto import family_of

    content = read_list(name)
    family = family_of(content["config"]["model_type"], name)
    return inspect_weights(
        cls or find_class(family, None, [content["class"]]),
        family.config.from_dict(content["config"]),
        open_list(name, with_leftovers=with_leftovers),
    )


def path_of(name: str) -> Path:
    return FOLDER / f"{name.rpartition('/')[2]}.json"


def read_list(name: str) -> Any:
    return json.loads(path_of(name).read_text(encoding="utf-8"))


def text_of(name: str) -> str:
    content = {"repository": name, **make_list(RELEASED[name])}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--show", metavar="NAME", choices=list(RELEASED), help="show a list beside our names")
    given = parser.parse_args(arguments)
    sys.path.insert(0, str(ROOT))
    if given.show:
        from seq2seq_zoo.inspection import count_lines, key_lines

        found = inspect_list(given.show)
        try:
            for line in (*count_lines(found), "", *key_lines(found)):
                print(line)
            sys.stdout.flush()
        except BrokenPipeError:  # the reader has seen enough; as Python ends, it flushes once more
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    try:
        import transformers
    except ImportError:
        parser.error("transformers is not installed here: pip install transformers==4.57.6")
    if not transformers.__version__.startswith("4."):
        parser.error(f"transformers is {transformers.__version__}; 4.57.6 is the last that has all families")
    stale = 0
    for name in RELEASED:
        path, text = path_of(name), text_of(name)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale += 1
            print(f"{path.relative_to(ROOT)} {'is out of date' if given.check else 'written'}")
            if not given.check:
                path.write_text(text, encoding="utf-8")
    return int(given.check and stale > 0)


if __name__ == "__main__":
    sys.exit(main())
