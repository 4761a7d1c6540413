"""Write what the installed transformers saves as config.json, for configs of several kinds.

    python -m tests.config.make_saved_configs

makes saved/VERSION.json: for each name, the config.json ("saved") and all fields of the config it came from
("full"). Committed for 4.57.6 and 5.23.0; the test of the installed version remakes its file and compares.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import transformers

SAVED = Path(__file__).parent / "saved"

SMALL_MVP = {
    "vocab_size": 57,
    "max_position_embeddings": 33,
    "d_model": 12,
    "encoder_layers": 3,
    "encoder_ffn_dim": 11,
    "encoder_attention_heads": 2,
    "decoder_layers": 1,
    "decoder_ffn_dim": 13,
    "decoder_attention_heads": 3,
    "encoder_layerdrop": 0.25,
    "decoder_layerdrop": 0.5,
    "activation_function": "relu",
    "dropout": 0.2,
    "attention_dropout": 0.3,
    "activation_dropout": 0.4,
    "classifier_dropout": 0.5,
    "init_std": 0.5,
    "scale_embedding": True,
    "use_cache": False,
    "use_prompt": True,
    "prompt_length": 5,
    "prompt_mid_dim": 7,
    "pad_token_id": 3,
    "bos_token_id": 4,
    "eos_token_id": [5, 7],
    "decoder_start_token_id": 6,
}
SMALL_MT5 = {
    "vocab_size": 57,
    "d_model": 10,
    "d_kv": 4,
    "d_ff": 11,
    "num_layers": 3,
    "num_decoder_layers": 1,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "dropout_rate": 0.2,
    "classifier_dropout": 0.3,
    "layer_norm_epsilon": 1e-5,
    "initializer_factor": 0.5,
    "use_cache": False,
    "pad_token_id": 3,
    "eos_token_id": 5,
    "decoder_start_token_id": 6,
}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "mvp": ("MvpConfig", {}),
    "mvp small": ("MvpConfig", SMALL_MVP),
    "mvp labels": (
        "MvpConfig",
        {"id2label": {0: "no", 1: "yes", 2: "maybe"}, "label2id": {"no": 0, "yes": 1}},
    ),
    "mvp float16": (
        "MvpConfig",
        {"dtype": "float16", "output_attentions": True, "output_hidden_states": True},
    ),
    "mt5": ("MT5Config", {}),
    "mt5 small": ("MT5Config", {**SMALL_MT5, "feed_forward_proj": "gated-silu"}),
    "mt5 relu": ("MT5Config", {"feed_forward_proj": "relu", "num_layers": 2}),
    "mt5 labels": ("MT5Config", {"num_labels": 5, "problem_type": "multi_label_classification"}),
    "bart": ("BartConfig", {}),
    "bart two labels": ("BartConfig", {"num_labels": 2, "dtype": "float32"}),
}


def saved_configs() -> dict[str, dict[str, Any]]:
    """Name → {"saved": the content of config.json, "full": all fields}, as JSON reads them."""
    made = {}
    for name, (kind, fields) in CASES.items():
        config = getattr(transformers, kind)(**fields)
        made[name] = {"saved": json.loads(config.to_json_string()), "full": config.to_dict()}
    return json.loads(json.dumps(made))  # type: ignore[no-any-return]


if __name__ == "__main__":
    SAVED.mkdir(exist_ok=True)
    text = json.dumps(saved_configs(), indent=1, sort_keys=True)
    (SAVED / f"{transformers.__version__}.json").write_text(text + "\n", encoding="utf-8")
