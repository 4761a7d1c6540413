"""Text to ids and back.

    text ──cut at added tokens──▶ segments ──piece model──▶ pieces ──vocabulary──▶ ids
         ──special tokens, truncation, padding──▶ BatchEncoding

Two kinds of tokenizer share one surface (`base`). In a `PieceTokenizer` (`pieces`) the piece model is a
library and the rest is Python, as in the slow tokenizers of transformers 4.x; in a `BackendTokenizer`
(`backend`) the whole line runs inside `tokenizers`, which also knows offsets. The families are
`byte_level_bpe` (MVP, RoBERTa, BART), `t5` (mT5, T5), `bert_generation`, `bert` and `tokenizer_json` (PhiMoE,
Llama); `auto` chooses among them. `chat` and `chat_templates` write a conversation as one text.

Reading order: encoding, options, special_tokens, base, pieces, backend, byte_level_bpe, spiece,
spiece_tokenizer, t5, bert_generation, words, bert, tokenizer_json, chat, chat_templates, tool_schemas, files,
auto. The names below are loaded when first used, so that importing this package loads no tokenizer library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .auto import AutoTokenizer as AutoTokenizer
    from .base import Tokenizer as Tokenizer
    from .bert import BertTokenizer as BertTokenizer
    from .bert import BertTokenizerFast as BertTokenizerFast
    from .bert_generation import BertGenerationTokenizer as BertGenerationTokenizer
    from .byte_level_bpe import MvpTokenizer as MvpTokenizer
    from .byte_level_bpe import MvpTokenizerFast as MvpTokenizerFast
    from .byte_level_bpe import RobertaTokenizer as RobertaTokenizer
    from .encoding import BatchEncoding as BatchEncoding
    from .t5 import MT5Tokenizer as MT5Tokenizer
    from .t5 import MT5TokenizerFast as MT5TokenizerFast
    from .tokenizer_json import LlamaTokenizerFast as LlamaTokenizerFast
    from .tokenizer_json import PreTrainedTokenizerFast as PreTrainedTokenizerFast

_MODULES = {
    "AutoTokenizer": "auto",
    "BatchEncoding": "encoding",
    "BertGenerationTokenizer": "bert_generation",
    "BertTokenizer": "bert",
    "BertTokenizerFast": "bert",
    "LlamaTokenizerFast": "tokenizer_json",
    "MT5Tokenizer": "t5",
    "MT5TokenizerFast": "t5",
    "MvpTokenizer": "byte_level_bpe",
    "MvpTokenizerFast": "byte_level_bpe",
    "PreTrainedTokenizerFast": "tokenizer_json",
    "RobertaTokenizer": "byte_level_bpe",
    "Tokenizer": "base",
}

__all__ = [
    "AutoTokenizer",
    "BatchEncoding",
    "BertGenerationTokenizer",
    "BertTokenizer",
    "BertTokenizerFast",
    "LlamaTokenizerFast",
    "MT5Tokenizer",
    "MT5TokenizerFast",
    "MvpTokenizer",
    "MvpTokenizerFast",
    "PreTrainedTokenizerFast",
    "RobertaTokenizer",
    "Tokenizer",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
