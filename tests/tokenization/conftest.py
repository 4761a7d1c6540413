"""Tiny tokenizers, trained once a session, and both libraries' tokenizers on them."""

from __future__ import annotations

import io
import json
import shutil
from functools import cache

import pytest
import sentencepiece
import tokenizers

import seq2seq_zoo
from tests.tokenization.tokenizer_cases import CORPUS, PHI_TEMPLATE, quietly


@pytest.fixture(scope="session")
def byte_level(tmp_path_factory):
    """vocab.json and merges.txt of a byte-level BPE."""
    folder = tmp_path_factory.mktemp("byte_level")
    trained = tokenizers.ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(CORPUS * 4, vocab_size=800, special_tokens=special, show_progress=False)
    trained.save_model(str(folder))
    return folder


@pytest.fixture(scope="session")
def byte_level_with_gaps(tmp_path_factory):
    """The same by hand, with few of the 256 byte characters."""
    folder = tmp_path_factory.mktemp("byte_level_with_gaps")
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *"lowerstidnĠÃé", "Ġl", "Ġn", "Ġlo", "Ġlow", "er"]
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\nĠ l\nĠl o\nĠlo w\ne r\n")
    return folder


def _spiece(folder, **settings):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 4),
        model_writer=model,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
        **settings,
    )
    (folder / "spiece.model").write_bytes(model.getvalue())
    return folder


@pytest.fixture(scope="session")
def unigram(tmp_path_factory):
    """A spiece.model with normalization (nmt_nfkc), as mT5's."""
    return _spiece(tmp_path_factory.mktemp("unigram"), vocab_size=700, character_coverage=0.99)


@pytest.fixture(scope="session")
def unigram_with_bytes(tmp_path_factory):
    """A spiece.model that falls back to bytes and has a symbol of its own."""
    return _spiece(
        tmp_path_factory.mktemp("unigram_with_bytes"),
        vocab_size=900,
        character_coverage=0.98,
        byte_fallback=True,
        user_defined_symbols=["[SEP]"],
    )


@pytest.fixture(scope="session")
def unigram_identity(tmp_path_factory):
    """A spiece.model that normalizes nothing."""
    return _spiece(
        tmp_path_factory.mktemp("unigram_identity"), vocab_size=500, normalization_rule_name="identity"
    )


PHI_TOKENS = ("endoftext", "assistant", "placeholder1", "system", "end", "user")


@pytest.fixture(scope="session")
def llama_bare(tmp_path_factory):
    """A tokenizer.json alone, made as Llama's: BPE over ▁ for spaces, byte fallback, Phi's tokens added."""
    folder = tmp_path_factory.mktemp("llama_bare")
    special = ["<unk>", "<s>", "</s>"]
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split("▁", "merged_with_next"),
            tokenizers.pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    backend.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
    )
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=700,
        show_progress=False,
        special_tokens=[*special, *(f"<0x{byte:02X}>" for byte in range(256))],
        limit_alphabet=80,
    )
    backend.train_from_iterator([line for line in CORPUS if line.isascii()] * 4, trainer)
    state = json.loads(backend.to_str())
    # The bytes are ordinary tokens, and the merges alone say where words end.
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in special]
    state["pre_tokenizer"] = None
    backend = tokenizers.Tokenizer.from_str(json.dumps(state))
    backend.add_special_tokens(
        [
            tokenizers.AddedToken(f"<|{name}|>", normalized=False, rstrip=name not in ("endoftext", "end"))
            for name in PHI_TOKENS
        ]
    )
    backend.decoder = tokenizers.decoders.Sequence(
        [
            tokenizers.decoders.Replace("▁", " "),
            tokenizers.decoders.ByteFallback(),
            tokenizers.decoders.Fuse(),
            tokenizers.decoders.Strip(" ", 1, 0),
        ]
    )
    backend.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="session")
def llama(llama_bare, tmp_path_factory):
    """The same with the tokenizer_config.json of Phi-3.5-MoE-instruct, and what 5.x asks of its config.json:
    for this family it takes the file as it stands."""
    folder = tmp_path_factory.mktemp("llama")
    (folder / "config.json").write_text('{"model_type": "phimoe"}')
    shutil.copy(llama_bare / "tokenizer.json", folder)
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "add_bos_token": False,
                "add_eos_token": False,
                "bos_token": "<s>",
                "chat_template": PHI_TEMPLATE,
                "clean_up_tokenization_spaces": False,
                "eos_token": "<|endoftext|>",
                "legacy": False,
                "model_max_length": 131072,
                "pad_token": "<|endoftext|>",
                "padding_side": "left",
                "tokenizer_class": "LlamaTokenizer",
                "unk_token": "<unk>",
                "use_default_system_prompt": False,
            }
        )
    )
    return folder


@pytest.fixture(scope="session")
def folder_of(request, tmp_path_factory):
    """The folder of a fixture's files, or of the same saved by a class of the oracle."""

    @cache
    def folder(files, saved_by=None):
        original = request.getfixturevalue(files)
        if saved_by is None:
            return original
        import transformers

        saved = tmp_path_factory.mktemp(f"{files}_{saved_by}")
        quietly(getattr(transformers, saved_by).from_pretrained, original).save_pretrained(saved)
        return saved

    return folder


@pytest.fixture(scope="session")
def load(folder_of):
    """Fresh tokenizers of a case: ours and theirs."""
    import transformers

    transformers.logging.set_verbosity_error()

    def both(case):
        folder = folder_of(case.files, case.saved_by)
        ours = quietly(getattr(seq2seq_zoo, case.ours).from_pretrained, folder, **case.settings)
        theirs = quietly(getattr(transformers, case.theirs).from_pretrained, folder, **case.settings)
        return ours, theirs

    return both


@pytest.fixture(scope="session")
def loaded(load):
    """The same, kept for the session: for tests that change nothing."""
    kept = {}

    def both(case):
        if str(case) not in kept:
            kept[str(case)] = load(case)
        return kept[str(case)]

    return both
