"""Chat templates: the oracles' texts, ids and masks; the sandbox; files; refusals.

return_dict is always given: by default 4.57.6 returns ids, as we do, and 5.x a dict.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, Literal, Union

import jinja2
import pytest
import torch

from seq2seq_zoo import AutoTokenizer, MvpTokenizer, MvpTokenizerFast, TokenizerError
from seq2seq_zoo.tokenization.chat_templates import ChatTemplateError, UnsafeTemplateError
from seq2seq_zoo.tokenization.tool_schemas import schema_of
from tests.tokenization.tokenizer_cases import MAJOR, PHI_TEMPLATE, quietly

transformers = pytest.importorskip("transformers")

SHORT = [{"role": "user", "content": "What is 27 + 58?"}]
LONG = [
    {"role": "system", "content": "You are a helpful AI assistant."},
    {"role": "user", "content": 'Can you eat <b>bananas</b> & "dragonfruits"?\nOlé 三百'},
    {"role": "assistant", "content": "Sure! Here are some ways:  1. A smoothie  "},
    {"role": "user", "content": "What about solving an 2x + 3 = 7 equation?"},
    {"role": "assistant", "content": " x = 2 "},
]
CONVERSATIONS = [SHORT, LONG, LONG[1:], LONG[:-1]]

MASKED = """\
{% for message in messages %}
{% if message.role == 'assistant' %}
<|assistant|>
{% generation %}{{ message.content }}<|end|>{% endgeneration %}

{% else %}
<|{{ message.role }}|>
{{ message.content }}<|end|>
{% endif %}
{% endfor %}
{%- if add_generation_prompt %}<|assistant|>
{% endif %}"""

TEMPLATES = {
    "Phi": PHI_TEMPLATE,
    "masked": MASKED,
    "stripped": "{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}{{ eos_token }}{% endfor %}",
    "loops": """\
{% for m in messages %}
    {% if m.role == 'system' %}
        {% continue %}
    {% endif %}
    {% if loop.index > 3 %}{% break %}{% endif %}
    {{ loop.index0 }}: {{ m['content'][:10] }}
{% endfor %}""",
    "tojson": "{{ messages | tojson }}"
    "{{ messages[0] | tojson(indent=2, sort_keys=True, ensure_ascii=True) }}"
    "{{ messages[-1].content | tojson(separators=(',', ':')) }}",
    "names": "{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ custom }}{{ tools }}{{ documents }}"
    "{{ add_generation_prompt }}{% set ns = namespace(n=0) %}{% for m in messages %}"
    "{% set ns.n = ns.n + m.content | length %}{% endfor %}{{ ns.n }}",
    "macros": "{% macro say(m) %}<{{ m.role | upper }}>{{ m.content }}{% endmacro %}"
    "{% for m in messages if m.role != 'system' %}{{ say(m) }}{% endfor %}{{ '%.2f' | format(1.5) }}",
    "shown": "{% if tools %}{{ tools | tojson(indent=4) }}{% endif %}{% for d in documents or [] %}"
    "{{ d.title }}: {{ d.text }}{% endfor %}",
}


@pytest.fixture(scope="module")
def pair(llama):
    return AutoTokenizer.from_pretrained(llama), transformers.AutoTokenizer.from_pretrained(llama)


def plain(value: Any) -> Any:
    """Tensors as lists with their dtype, encodings as dicts."""
    if hasattr(value, "items"):
        return {name: plain(entry) for name, entry in value.items()}
    return (str(value.dtype), value.tolist()) if hasattr(value, "dtype") else value


def same(pair: Any, conversation: Any, **options: Any) -> Any:
    """What both give, which must be equal."""
    results = [plain(quietly(t.apply_chat_template, conversation, **options)) for t in pair]
    assert results[0] == results[1]
    return results[0]


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("prompt", [False, True])
def test_texts(name, prompt, pair):
    options = {"chat_template": TEMPLATES[name], "add_generation_prompt": prompt, "custom": "own"}
    written = [same(pair, messages, tokenize=False, **options) for messages in CONVERSATIONS]
    assert same(pair, CONVERSATIONS, tokenize=False, **options) == written
    if name not in ("shown",):
        assert len(set(written)) > 1
    for messages in CONVERSATIONS:
        same(pair, messages, return_dict=False, **options)


def test_the_text_of_phi(pair):
    text = pair[0].apply_chat_template(LONG[:-1], tokenize=False, add_generation_prompt=True)
    assert text.startswith("<|system|>\nYou are a helpful AI assistant.<|end|>\n<|user|>\nCan you")
    assert text.endswith("<|user|>\nWhat about solving an 2x + 3 = 7 equation?<|end|>\n<|assistant|>\n")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"return_tensors": "pt", "padding": True},
        {"return_tensors": "np", "padding": True},
        {"padding": "max_length", "max_length": 90},
        {"truncation": True, "max_length": 12},
        {"truncation": True, "max_length": 12, "padding": True, "return_tensors": "pt"},
        {"max_length": 5},
        {"tokenizer_kwargs": {"add_special_tokens": False, "return_length": True}},
    ],
    ids=str,
)
@pytest.mark.parametrize("return_dict", [False, True])
def test_ids(options, return_dict, pair):
    if "add_special_tokens" in options.get("tokenizer_kwargs", {}):
        options = {"tokenizer_kwargs": {"return_length": True}}  # theirs is given twice there
    same(pair, CONVERSATIONS, return_dict=return_dict, **options)
    for messages in CONVERSATIONS:
        same(pair, messages, return_dict=return_dict, add_generation_prompt=True, **options)


def test_ids_come_alone_by_default(pair):
    ids = pair[0].apply_chat_template(SHORT)
    assert (
        ids
        == pair[0](pair[0].apply_chat_template(SHORT, tokenize=False), add_special_tokens=False)["input_ids"]
    )
    assert pair[0].apply_chat_template(SHORT, return_tensors="pt").shape == (1, len(ids))
    both = pair[0].apply_chat_template([SHORT, LONG], return_dict=True, padding=True, return_tensors="pt")
    assert both.input_ids.dtype == both.attention_mask.dtype == torch.int64


def test_special_tokens_are_the_templates_affair(llama):
    ours = AutoTokenizer.from_pretrained(llama, add_bos_token=True)
    assert ours("a")["input_ids"][0] == ours.bos_token_id
    assert ours.bos_token_id not in ours.apply_chat_template(SHORT)
    with_bos = ours.apply_chat_template(SHORT, tokenizer_kwargs={"add_special_tokens": True})
    assert with_bos == [ours.bos_token_id, *ours.apply_chat_template(SHORT)]


# The assistant's tokens


@pytest.mark.parametrize(
    "options",
    [{}, {"padding": True, "return_tensors": "pt"}, {"padding": True, "return_tensors": "np"}],
    ids=str,
)
def test_masks(options, pair):
    options = {**options, "chat_template": MASKED, "return_dict": True, "return_assistant_tokens_mask": True}
    same(pair, CONVERSATIONS, **options)
    for messages in (LONG, LONG[1:]):
        same(pair, messages, **options)
    encoded = pair[0].apply_chat_template(LONG[:4], **{**options, "return_tensors": None})
    answer = [i for i, m in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if m]
    assert pair[0].decode(answer).replace("<|end|>", "|") == "Sure! Here are some ways:  1. A smoothie  |"


def test_masks_of_cut_texts(pair):
    """What is left of an answer is marked, from whichever side the text is cut."""
    ours = AutoTokenizer.from_pretrained(pair[0].name_or_path, chat_template=MASKED)
    options = {"return_dict": True, "return_assistant_tokens_mask": True}
    whole = ours.apply_chat_template(LONG, **options)["assistant_masks"]
    for length in range(1, len(whole)):
        for side in ("left", "right"):
            ours.truncation_side = side
            cut = ours.apply_chat_template(LONG, truncation=True, max_length=length, **options)
            assert cut["assistant_masks"] == (whole[:length] if side == "right" else whole[-length:])


def test_the_oracle_marks_less_of_a_cut_text(pair):
    """Cut inside the first answer, on the left, it marks nothing of the second."""
    options = {"return_dict": True, "return_assistant_tokens_mask": True, "chat_template": MASKED}
    options |= {"truncation": True, "max_length": 24}
    left = [type(t).from_pretrained(t.name_or_path, truncation_side="left") for t in pair]
    conversation = [*LONG[1:4], {"role": "assistant", "content": "x = 2"}]
    mine, theirs = (t.apply_chat_template(conversation, **options) for t in left)
    assert mine["input_ids"] == theirs["input_ids"]
    whole = pair[0].apply_chat_template(conversation, **{**options, "truncation": False})["assistant_masks"]
    assert mine["assistant_masks"] == whole[-24:]
    assert sum(theirs["assistant_masks"]) < sum(mine["assistant_masks"])


def test_a_template_that_begins_with_an_answer(pair):
    template = "{% generation %}{{ messages[0].content }}{% endgeneration %}<|end|>"
    options = {"chat_template": template, "return_dict": True, "return_assistant_tokens_mask": True}
    assert pair[0].apply_chat_template(SHORT, **options)["assistant_masks"][-2:] == [1, 0]
    theirs = pair[1].apply_chat_template(SHORT, **options)["assistant_masks"]
    assert (sum(theirs) == 0) == (MAJOR == 4)  # 4.57.6 does not see such a block


def test_threads_do_not_meet(pair):
    options = {"chat_template": MASKED, "return_dict": True, "return_assistant_tokens_mask": True}
    expected = [dict(pair[0].apply_chat_template(messages, **options)) for messages in CONVERSATIONS]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(
            lambda i: dict(pair[0].apply_chat_template(CONVERSATIONS[i % 4], **options)), range(80)
        )
    assert all(one == expected[i % 4] for i, one in enumerate(found))


# The final message left open


@pytest.mark.parametrize("template", ["Phi", "masked", "stripped"])
def test_an_open_message(template, pair):
    for final in ("The sum is", "The sum is  ", "The sum", "27", "x\n\n"):
        messages = [*SHORT, {"role": "assistant", "content": final}]
        options = {"chat_template": TEMPLATES[template], "continue_final_message": True}
        text = same(pair, messages, tokenize=False, **options)
        assert text.endswith(final if template != "stripped" else final.rstrip())
        same(pair, [messages, messages], return_dict=True, **options)
        assert messages[-1] == {"role": "assistant", "content": final}


def test_an_open_message_in_parts(pair):
    template = "{% for m in messages %}{% for p in m.content %}({{ p.text }}){% endfor %}{% endfor %}!"
    messages = [{"role": "user", "content": [{"text": "a"}, {"text": "b"}, {"type": "image", "text": "c"}]}]
    options = {"chat_template": template, "continue_final_message": True, "tokenize": False}
    assert same(pair, messages, **options) == "(a)(b)(c"
    assert messages[0]["content"][2] == {"type": "image", "text": "c"}
    with pytest.raises(ChatTemplateError, match="final message has no text"):
        pair[0].apply_chat_template([{"role": "user", "content": [{"type": "image"}]}], **options)


def test_an_open_message_that_the_template_leaves_out(pair):
    for template in ("{{ messages[0].content }}", "{{ messages[-1].content | upper }}"):
        messages = [*SHORT, {"role": "assistant", "content": "The sum"}]
        with pytest.raises(ChatTemplateError, match="leaves out or changes the final message: 'The sum'"):
            pair[0].apply_chat_template(messages, chat_template=template, continue_final_message=True)


# Tools and documents


def weather(city: str, days: int = 1, unit: Literal["C", "F"] = "C") -> str:
    """Forecast the weather,
    day by day.

    Args:
        city: Where to look,
            with its country
        days: How far ahead
        unit: Of the temperature (choices: ["C", "F"])

    Returns:
        The forecast: one line a day

    Raises:
        KeyError: for an unknown city
    """
    return f"{city} {days} {unit}"


def everything(
    a: list[int],
    b: dict[str, float],
    c: tuple[int, str],
    d: Union[int, str],  # noqa: UP007  (both spellings must do)
    e: list[str] | None,
    f: Any,
    g: bool | float = True,
    h: int | list[int] = 3,
    i: Literal["x", 3] = 3,
    j: list = [],  # noqa: B006
):
    """Take it all.

    Args:
        a: A
        b: B
        c: C
        d: D
        e: E
        f: F
        g: G (choices: ["yes", "no"])
        h: H
        i: I
        j: J
    """


@pytest.mark.parametrize("tool", [weather, everything], ids=lambda tool: tool.__name__)
def test_schemas_of_tools(tool):
    ours, theirs = schema_of(tool), transformers.utils.get_json_schema(tool)
    if tool is everything and MAJOR == 4:
        lost = {"h": {"type": ["array", "integer"]}, "j": {"type": "object"}}
        for name, schema in lost.items():
            properties = theirs["function"]["parameters"]["properties"]
            assert properties[name] == {**schema, "description": name.upper()}
            properties[name] = {
                "h": {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "integer"}}]},
                "j": {"type": "array"},
            }[name] | {"description": name.upper()}
    assert ours == theirs


def test_choices_that_are_no_texts():
    def ahead(days: int):
        """Look ahead.

        Args:
            days: How far (choices: [1, 3, 7])
        """

    properties = schema_of(ahead)["function"]["parameters"]["properties"]
    assert properties == {"days": {"type": "integer", "enum": [1, 3, 7], "description": "How far"}}


def test_tools_and_documents(pair):
    documents = [{"title": "Foxes", "text": "They jump."}]
    options = {"chat_template": TEMPLATES["shown"], "tokenize": False, "documents": documents}
    text = same(pair, SHORT, tools=[weather, {"type": "function", "function": {"name": "ö"}}], **options)
    assert '"name": "weather"' in text
    assert '"name": "ö"' in text
    assert text.endswith("Foxes: They jump.")


@pytest.mark.parametrize(
    ("tool", "message"),
    [
        (3, "a tool is 3"),
        (lambda x: x, "has no docstring"),
        ("weather", "a tool is 'weather'"),
    ],
    ids=str,
)
def test_tools_that_are_none(tool, message, pair):
    with pytest.raises(TokenizerError, match=message):
        pair[0].apply_chat_template(SHORT, tools=[tool])


def test_tools_that_say_too_little(pair):
    def unhinted(a):
        """Do.

        Args:
            a: A
        """

    def undescribed(a: int):
        """Do."""

    def badly_chosen(a: int):
        """Do.

        Args:
            a: A (choices: one of 1)
        """

    for tool, message in (
        (unhinted, "argument a of the tool unhinted has no type hint"),
        (undescribed, "undescribed does not describe its argument a"),
        (badly_chosen, "choices of the argument a of badly_chosen"),
    ):
        with pytest.raises(TokenizerError, match=message):
            pair[0].apply_chat_template(SHORT, tools=[tool])


# The sandbox


UNSAFE = [
    "{{ messages.__class__ }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages[0]['content'].__class__ }}",
    "{{ messages | attr('__class__') }}",
    "{{ messages | map(attribute='__class__') | list }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__globals__['json'] }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ self.__init__ }}",
    "{{ namespace.__init__ }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "{{ dict.mro() }}",
    "{{ '{0.__class__}'.format(messages) }}",
    "{% set x = {}.__class__ %}",
    "{{ namespace(__class__=1).__class__ }}",
    "{{ ''.join.__self__ }}",
    "{{ messages | groupby('__class__') }}",
    "{% for m in messages %}{{ loop._iterable }}{% endfor %}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'role': 'x'}) }}",
    "{{ messages.pop() }}",
]


@pytest.mark.parametrize("template", UNSAFE)
def test_a_template_that_reaches_for_python_raises(template, pair):
    messages = [dict(message) for message in SHORT]
    with pytest.raises(UnsafeTemplateError, match="not safe") as error:
        pair[0].apply_chat_template(messages, chat_template=template, tokenize=False)
    assert isinstance(error.value, TokenizerError | jinja2.exceptions.SecurityError)
    assert isinstance(error.value, jinja2.exceptions.SecurityError)
    assert messages == SHORT


@pytest.mark.parametrize(
    "template", ["{% import 'os' as os %}", "{% include '/etc/passwd' %}", "{{ open('x') }}"]
)
def test_a_template_sees_no_files(template, pair):
    with pytest.raises(ChatTemplateError):
        pair[0].apply_chat_template(SHORT, chat_template=template, tokenize=False)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}", "line 1"),
        ("a\nb\n{{ messages | nothing }}", "line 3.*nothing"),
        ("{{ raise_exception('Roles must alternate!') }}", "Roles must alternate!"),
        ("{{ messages[0].nothing.more }}", "nothing"),
        ("{{ 1 + 'a' }}", "cannot write this conversation"),
        ("{{ range(10000000) | list }}", "Range too big"),
    ],
)
def test_a_template_that_fails(template, message, pair):
    with pytest.raises(ChatTemplateError, match=message) as error:
        pair[0].apply_chat_template(SHORT, chat_template=template, tokenize=False)
    assert isinstance(error.value, jinja2.TemplateError)


def test_the_time(pair):
    template = "{{ strftime_now('%Y-%m-%d') }}"
    before = datetime.now()
    text = pair[0].apply_chat_template(SHORT, chat_template=template, tokenize=False)
    assert text in (f"{before:%Y-%m-%d}", f"{datetime.now():%Y-%m-%d}")


# Which template


def test_templates_by_name(llama):
    ours = AutoTokenizer.from_pretrained(llama)
    ours.chat_template = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]
    assert ours.chat_template == {"default": "D", "tool_use": "T"}
    assert ours.apply_chat_template(SHORT, tokenize=False) == "D"
    assert ours.apply_chat_template(SHORT, tokenize=False, tools=[]) == "T"
    assert ours.apply_chat_template(SHORT, tokenize=False, chat_template="tool_use") == "T"
    assert ours.apply_chat_template(SHORT, tokenize=False, chat_template="other {{ 1 }}") == "other 1"
    ours.chat_template = {"rag": "R"}
    with pytest.raises(TokenizerError, match="one of rag"):
        ours.get_chat_template()
    ours.chat_template = None
    with pytest.raises(TokenizerError, match="has no chat_template"):
        ours.apply_chat_template(SHORT)
    for wrong in (3, {"default": 3}, [{"name": "default"}], ["text"]):
        with pytest.raises(TokenizerError, match="chat_template"):
            ours.chat_template = wrong


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"conversation": []}, "at least one"),
        ({"conversation": "Hello"}, "a conversation is 'Hello'"),
        ({"conversation": ["Hello"]}, "a message is 'Hello'"),
        ({"conversation": [SHORT, []]}, "at least one"),
        ({"conversation": [SHORT, SHORT[0]]}, "a conversation is {"),
        ({"return_dict": True, "tokenize": False}, "return_dict is True"),
        ({"return_assistant_tokens_mask": True}, "needs return_dict=True"),
        (
            {"continue_final_message": True, "add_generation_prompt": True},
            "add_generation_prompt are both True",
        ),
        (
            {"continue_final_message": True, "return_dict": True, "return_assistant_tokens_mask": True},
            "return_assistant_tokens_mask are both True",
        ),
        ({"documents": ["text"]}, "a document is 'text'"),
        ({"padding": "longer"}, "padding is 'longer'"),
    ],
    ids=str,
)
def test_refusals(arguments, message, pair):
    with pytest.raises(TokenizerError, match=message):
        pair[0].apply_chat_template(**{"conversation": SHORT, **arguments})


@pytest.mark.parametrize("cls", [MvpTokenizer, MvpTokenizerFast])
def test_every_tokenizer_converses(cls, byte_level):
    both = [
        t.from_pretrained(byte_level)
        for t in (cls, getattr(transformers, cls.__name__, None) or transformers.AutoTokenizer)
    ]
    if MAJOR == 4:
        same(both, CONVERSATIONS, chat_template=PHI_TEMPLATE, return_dict=True, padding=True)
    ids = both[0].apply_chat_template(SHORT, chat_template=PHI_TEMPLATE)
    assert both[0].decode(ids) == "<|user|>\nWhat is 27 + 58?<|end|>\n</s>"
    if not cls.is_fast:
        with pytest.raises(TokenizerError, match="ends in Fast; this is a MvpTokenizer"):
            both[0].apply_chat_template(SHORT, return_dict=True, return_assistant_tokens_mask=True)


# Files


@pytest.mark.parametrize(
    "template", [PHI_TEMPLATE, {"default": MASKED, "tool_use": "T ö"}], ids=["one", "two"]
)
def test_saved_templates_load_in_both(template, llama, tmp_path):
    ours = AutoTokenizer.from_pretrained(llama, chat_template=template)
    assert ours.chat_template == template  # the setting wins over the file
    paths = ours.save_pretrained(tmp_path)
    assert sorted(paths) == sorted(map(str, tmp_path.iterdir()))
    (tmp_path / "config.json").write_text('{"model_type": "phimoe"}')
    for cls in (AutoTokenizer, transformers.AutoTokenizer):
        assert cls.from_pretrained(tmp_path).chat_template == template

    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for number, options in enumerate([{}, {"save_jinja_files": False}] if MAJOR == 4 else [{}]):
        folder = tmp_path / str(number)
        theirs.save_pretrained(folder, **options)
        (folder / "config.json").write_text('{"model_type": "phimoe"}')
        assert AutoTokenizer.from_pretrained(folder).chat_template == template


def test_an_older_template_does_not_survive(llama, tmp_path):
    ours = AutoTokenizer.from_pretrained(llama)
    ours.save_pretrained(tmp_path)
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "rag.jinja").write_text("R")
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == {"default": PHI_TEMPLATE, "rag": "R"}
    ours.chat_template = None
    ours.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template is None


def test_the_file_wins_over_the_config(llama, tmp_path):
    shutil.copytree(llama, tmp_path, dirs_exist_ok=True)
    (tmp_path / "chat_template.jinja").write_text("from the file ö", encoding="utf-8")
    (tmp_path / "config.json").write_text('{"model_type": "phimoe"}')
    for cls in (AutoTokenizer, transformers.AutoTokenizer):
        assert cls.from_pretrained(tmp_path).chat_template == "from the file ö"
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "chat_template": 3}))
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(TokenizerError, match="chat_template is 3"):
        AutoTokenizer.from_pretrained(tmp_path)


# Jinja2 is an extra


@pytest.mark.parametrize("found", ["absent", "old"])
def test_without_jinja2_the_extra_is_named(found, llama):
    code = f"""
import importlib.metadata, sys
if {found!r} == "absent":
    sys.modules["jinja2"] = None
else:
    real = importlib.metadata.version
    importlib.metadata.version = lambda name: "3.1.5" if name == "jinja2" else real(name)
from seq2seq_zoo import AutoTokenizer, MissingExtraError
tokenizer = AutoTokenizer.from_pretrained({str(llama)!r})
tokenizer("text")
try:
    tokenizer.apply_chat_template({SHORT!r})
except MissingExtraError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "pip install 'seq2seq-zoo[chat]'" in done.stdout, done.stderr
    assert ("3.1.5 is older than 3.1.6" in done.stdout) == (found == "old")
