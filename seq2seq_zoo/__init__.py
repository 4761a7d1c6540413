"""seq2seq_zoo: MVP, mT5, MEGA, PhiMoE and BertGeneration from one small core of PyTorch layers.

Names are imported when they are first used, so that `import seq2seq_zoo` costs nothing but this table.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import Config as Config
    from .errors import CheckpointError as CheckpointError
    from .errors import ConfigError as ConfigError
    from .errors import GenerationError as GenerationError
    from .errors import MissingExtraError as MissingExtraError
    from .errors import TokenizerError as TokenizerError
    from .errors import UsageError as UsageError
    from .errors import ZooError as ZooError
    from .generation import GenerationConfig as GenerationConfig
    from .models.auto import AutoConfig as AutoConfig
    from .models.auto import AutoModel as AutoModel
    from .models.auto import AutoModelForCausalLM as AutoModelForCausalLM
    from .models.auto import AutoModelForSeq2SeqLM as AutoModelForSeq2SeqLM
    from .models.bert_generation import BertGenerationConfig as BertGenerationConfig
    from .models.bert_generation import BertGenerationDecoder as BertGenerationDecoder
    from .models.bert_generation import BertGenerationEncoder as BertGenerationEncoder
    from .models.encoder_decoder import EncoderDecoderConfig as EncoderDecoderConfig
    from .models.encoder_decoder import EncoderDecoderModel as EncoderDecoderModel
    from .models.mega import MegaConfig as MegaConfig
    from .models.mega_heads import MegaForCausalLM as MegaForCausalLM
    from .models.mega_heads import MegaForMaskedLM as MegaForMaskedLM
    from .models.mt5 import MT5Config as MT5Config
    from .models.mt5 import MT5ForConditionalGeneration as MT5ForConditionalGeneration
    from .models.mvp import MvpConfig as MvpConfig
    from .models.mvp import MvpForConditionalGeneration as MvpForConditionalGeneration
    from .pipelines import pipeline as pipeline

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
    "models.bert_generation": "BertGenerationConfig BertGenerationEncoder BertGenerationDecoder",
    "models.encoder_decoder": "EncoderDecoderConfig EncoderDecoderModel",
    "models.auto": """
        AutoConfig AutoModel AutoModelForSeq2SeqLM AutoModelForCausalLM AutoModelForMaskedLM
        AutoModelForSequenceClassification AutoModelForTokenClassification AutoModelForQuestionAnswering
        AutoModelForMultipleChoice
    """,
    "tokenization": """
        MvpTokenizer MvpTokenizerFast RobertaTokenizer MT5Tokenizer MT5TokenizerFast BertGenerationTokenizer
        BertTokenizer BertTokenizerFast AutoTokenizer
    """,
    "generation": """
        GenerationConfig LogitsProcessor LogitsProcessorList StoppingCriteria StoppingCriteriaList
        GenerateDecoderOnlyOutput GenerateEncoderDecoderOutput GenerateBeamDecoderOnlyOutput
        GenerateBeamEncoderDecoderOutput
    """,
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
