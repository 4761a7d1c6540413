"""seq2seq_zoo: MVP, mT5, MEGA, PhiMoE and BertGeneration from one small core of PyTorch layers.

Names are imported when they are first used, so that `import seq2seq_zoo` costs nothing but this table. Type
checkers read the same names in __init__.pyi.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_NAMES = {
    "errors": """
        ZooError CheckpointError ConfigError GenerationError MissingExtraError TokenizerError
        UsageError
    """,
    "config": "Config",
    "models.mvp": """
        MvpConfig MvpModel MvpForConditionalGeneration MvpForSequenceClassification MvpForQuestionAnswering
        MvpForCausalLM
    """,
    "models.mt5": """
        MT5Config MT5Model MT5ForConditionalGeneration MT5EncoderModel MT5ForSequenceClassification
        MT5ForTokenClassification MT5ForQuestionAnswering
    """,
    "models.mega": "MegaConfig MegaModel",
    "models.mega_heads": """
        MegaForCausalLM MegaForMaskedLM MegaForSequenceClassification MegaForMultipleChoice
        MegaForTokenClassification MegaForQuestionAnswering
    """,
    "models.phimoe": "PhimoeConfig PhimoeModel",
    "models.phimoe_heads": "PhimoeForCausalLM PhimoeForSequenceClassification",
    "models.bert_generation": "BertGenerationConfig BertGenerationEncoder BertGenerationDecoder",
    "models.encoder_decoder": "EncoderDecoderConfig EncoderDecoderModel",
    "models.auto": """
        AutoConfig AutoModel AutoModelForSeq2SeqLM AutoModelForCausalLM AutoModelForMaskedLM
        AutoModelForSequenceClassification AutoModelForTokenClassification AutoModelForQuestionAnswering
        AutoModelForMultipleChoice
    """,
    "tokenization": """
        MvpTokenizer MvpTokenizerFast RobertaTokenizer MT5Tokenizer MT5TokenizerFast BertGenerationTokenizer
        BertTokenizer BertTokenizerFast LlamaTokenizerFast PreTrainedTokenizerFast AutoTokenizer
    """,
    "generation": """
        GenerationConfig LogitsProcessor LogitsProcessorList StoppingCriteria StoppingCriteriaList
        GenerateDecoderOnlyOutput GenerateEncoderDecoderOutput GenerateBeamDecoderOnlyOutput
        GenerateBeamEncoderDecoderOutput TextStreamer TextIteratorStreamer
    """,
    "inference": "BitsAndBytesConfig optimize",
    "pipelines": "pipeline",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'seq2seq_zoo' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_HOME]
