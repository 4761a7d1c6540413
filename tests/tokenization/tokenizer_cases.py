"""Texts that are hard to tokenize, a corpus to train tiny tokenizers on, and the pairs ours / theirs."""

from __future__ import annotations

import importlib.metadata
import warnings
from typing import Any, NamedTuple

import pytest
from hypothesis import strategies as st

MAJOR = int(importlib.metadata.version("transformers").split(".")[0])
needs_4 = pytest.mark.skipif(MAJOR != 4, reason="needs transformers 4.57.6")
needs_5 = pytest.mark.skipif(MAJOR != 5, reason="needs transformers 5.x")

CORPUS = """\
The quick brown fox jumps over the lazy dog, and the dog does not mind: it has seen 1,234 foxes since 1987.
Don't do it if these are your reasons; I'm sure they're right, we've seen them, and she'll say he'd know.
Summarize: the house by the river was sold to a family of six who had always wanted a garden.
Describe the following data: Ada Lovelace | occupation | mathematician [SEP] Ada Lovelace | born | 1815
Dreihundertzweiundvierzig ist eine große Zahl, aber übermäßig schön finde ich sie nicht. Straße, Fuß, Größe.
El niño comió una manzana; ¿qué pasó después? ¡Olé! Les élèves français étaient déjà là, devant la façade.
Trzysta czterdzieści dwa. Üç yüz kırk iki. Háromszáznegyvenkettő. Ba trăm bốn mươi hai.
Быстрая коричневая лиса прыгает через ленивую собаку. Триста сорок два. Три тисячі сорок.
Τριακόσια σαράντα δύο. Ο γρήγορος σκύλος κοιμάται κάτω από το δέντρο.
三百四十二是一个数字。这只狗很懒。日本語の文章です。猫は窓のそばで眠っている。한국어 문장도 있습니다.
ثلاثمائة واثنان وأربعون. الكلب الكسول نائم. שלוש מאות ארבעים ושתיים.
तीन सौ बयालीस एक संख्या है। สามร้อยสี่สิบสอง
Signs: 😀 👍🏽 👨‍👩‍👧‍👦 ❤️ ﬁne ﬂuid ½ ² ™ Ｆｕｌｌ ｗｉｄｔｈ € £ § {x} [y] <z> a@b.c #1 50%
""".splitlines()

HARD_TEXTS = [
    "",
    " ",
    "     ",
    "Hello world",
    " leading space",
    "trailing space ",
    "   three   spaces   everywhere   ",
    "a\nb\n\nc",
    "a\tb\r\nc\x0b\x0c",
    "\x00\x01\x1f\x7f control",
    "\x1cfile\x1dgroup\x1e separators\x1f",
    "no\xa0break, ideographic\u3000space, thin\u2009space",
    "zero\u200bwidth, line\u2028separator, next\x85line",
    "e\u0301 a\u0308 o\u0302\u0323 combining, é ä precomposed",
    "ﬁne ﬂuid ½ ² ™ Ａｂｃ ㈱ ℌ ǆ",
    "三百四十二是一个数字。吾輩は猫である。名前はまだ無い。",
    "한국어 문장 \u1112\u1161\u11ab",
    "ثلاثمائة واثنان وأربعون، مرحبا بالعالم! שלום",
    "👨‍👩‍👧‍👦 ❤️ 👍🏽 🇩🇪 😀😀",
    "ཀ་ཁ ქართული አማርኛ 𝕳𝖊𝖑𝖑𝖔",
    "don't I'm we'll they're she'd 'tis 'S 1,234.56 $5.00",
    "x" * 300,
    "ä" * 200 + " " + "三" * 100,
    "▁under ▁ score▁ ▁▁two",
    "Ġ Ċ Ã©",
    "a <mask> b",
    "a   <mask>b<mask> <mask>",
    "<mask>",
    "<s>x</s> y </s></s> z<pad>",
    "ends with </s>",
    "<unk> unknown <pad>",
    "Hello <extra_id_0> world <extra_id_1>.",
    "<extra_id_0><extra_id_99>  <extra_id_5>x <extra_id_100>",
    "\n<extra_id_3>\t</s>\u3000<mask>\x1c",
    "<|user|>\nWhat is 27 + 58?<|end|>\n<|assistant|>\n",
    " <|system|>  <|user|> a<|end|><|endoftext|>b <|assistant|>",
]
"""Empty, blank, control characters, normalization, scripts, emoji, markers, special tokens inside text."""

PHI_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' and message['content'] %}"
    "{{'<|system|>\\n' + message['content'] + '<|end|>\\n'}}"
    "{% elif message['role'] == 'user' %}{{'<|user|>\\n' + message['content'] + '<|end|>\\n'}}"
    "{% elif message['role'] == 'assistant' %}{{'<|assistant|>\\n' + message['content'] + '<|end|>\\n'}}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
)
"""The chat template of Phi-3.5-MoE-instruct."""

PAIRS = [
    ("Hello world", "a b c"),
    ("", "x"),
    ("x", ""),
    ("a <mask>", " 三百 </s>"),
    ("ends </s>", "ends </s>"),
]


class Case(NamedTuple):
    """A tokenizer of ours and one of theirs on the same files with the same settings."""

    ours: str
    theirs: str
    files: str
    """Name of the fixture that makes the folder; the oracle's class that saved it once more, if any."""
    saved_by: str | None = None
    settings: dict[str, Any] = {}  # noqa: RUF012

    def __str__(self) -> str:
        saved = f" saved by {self.saved_by}" if self.saved_by else ""
        settings = "".join(f" {name}={value}" for name, value in self.settings.items())
        return f"{self.ours} on {self.files}{saved}{settings}"


def _cases() -> list[Case]:
    byte_level = [
        Case("MvpTokenizer", "MvpTokenizer", "byte_level", saved_by, settings)
        for saved_by in (None, "MvpTokenizer", "MvpTokenizerFast")
        for settings in ({}, {"add_prefix_space": True})
    ]
    byte_level += [
        Case("MvpTokenizerFast", "MvpTokenizerFast", "byte_level", saved_by, settings)
        for saved_by in (None, "MvpTokenizer", "MvpTokenizerFast")
        for settings in ({}, {"add_prefix_space": True}, {"trim_offsets": False})
    ]
    byte_level += [
        Case("RobertaTokenizer", "RobertaTokenizer", "byte_level"),
        Case("MvpTokenizerFast", "RobertaTokenizerFast", "byte_level"),
        Case("MvpTokenizer", "BartTokenizer", "byte_level"),
        Case("MvpTokenizer", "MvpTokenizer", "byte_level_with_gaps"),
    ]
    legacy: list[dict[str, Any]] = [{}, {"legacy": False}]
    prefix: list[dict[str, Any]] = [{"add_prefix_space": False}, {"legacy": False, "add_prefix_space": False}]
    pieces = [
        Case(f"MT5Tokenizer{fast}", f"T5Tokenizer{fast}", files, saved_by, settings)
        for fast in ("", "Fast")
        for files, saved_by, all_settings in (
            ("unigram", None, legacy + prefix),
            ("unigram", "T5Tokenizer", legacy),
            ("unigram", "T5TokenizerFast", legacy),
            ("unigram_with_bytes", None, legacy),
        )
        for settings in all_settings
    ]
    pieces += [
        Case("MT5Tokenizer", "MT5Tokenizer", "unigram", None, {"extra_ids": 7}),
        Case("MT5TokenizerFast", "MT5TokenizerFast", "unigram", None, {"extra_ids": 0}),
        Case("MT5TokenizerFast", "T5TokenizerFast", "unigram_identity"),
        Case("MT5Tokenizer", "T5Tokenizer", "unigram_identity"),
    ]
    llama = [
        Case("LlamaTokenizerFast", "LlamaTokenizerFast", "llama", saved_by, settings)
        for saved_by in (None, "LlamaTokenizerFast", "PreTrainedTokenizerFast")
        for settings in ({}, {"add_eos_token": True, "pad_token": "<|endoftext|>"})
    ]
    llama += [
        Case("LlamaTokenizerFast", "LlamaTokenizerFast", "llama_bare", None, {"pad_token": "<unk>"}),
        Case("LlamaTokenizerFast", "LlamaTokenizerFast", "llama", None, {"add_bos_token": True}),
        Case("PreTrainedTokenizerFast", "PreTrainedTokenizerFast", "llama"),
        Case("PreTrainedTokenizerFast", "PreTrainedTokenizerFast", "llama", "LlamaTokenizerFast"),
        Case(
            "PreTrainedTokenizerFast",
            "PreTrainedTokenizerFast",
            "llama_bare",
            settings={"pad_token": "<unk>", "unk_token": "<unk>"},
        ),
    ]
    return byte_level + pieces + llama


CASES = _cases()
PLAIN_CASES = [case for case in CASES if not case.saved_by and not case.settings]


def quietly(make: Any, *args: Any, **kwargs: Any) -> Any:
    """Call without the warnings about byte fallback and about lengths."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make(*args, **kwargs)


def differences(ours: Any, theirs: Any, texts: Any, call: Any) -> list[str]:
    """What `call(tokenizer, text)` gives, wherever the two tokenizers do not agree."""
    found = []
    for text in texts:
        mine, other = quietly(call, ours, text), quietly(call, theirs, text)
        mine, other = (dict(v) if hasattr(v, "items") else v for v in (mine, other))
        if mine != other:
            found.append(f"{text!r}\n  ours   {mine}\n  theirs {other}")
    return found


# Characters that all Unicode versions in use agree about; those that tokenizers treat specially come often.
characters = st.one_of(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cn", "Co")),
    st.sampled_from(" \t\n\xa0\u3000▁Ġ'<>/sé\u0301三👍🏽\u200d0."),
)
any_text = st.lists(
    st.one_of(
        st.text(characters, max_size=12),
        st.sampled_from(
            [
                "<mask>",
                "</s>",
                "<s>",
                "<pad>",
                "<|user|>",
                " <|end|> ",
                "<|assistant|>\n",
                "<extra_id_0>",
                "<extra_id_12>",
                " ",
                "'re",
                "the",
                "▁",
            ]
        ),
    ),
    max_size=6,
).map("".join)
