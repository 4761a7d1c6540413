"""torch.export of every class that has no test of it in test_compile: one graph, for any rows and lengths.

Export traces what `torch.compile(fullgraph=True)` traces, and costs less.
"""

import inspect

import pytest
import torch

import seq2seq_zoo as zoo

pytestmark = pytest.mark.filterwarnings("ignore")  # of PyTorch's own compiler

V, PAD, END = 40, 0, 2
MARKS = {"pad_token_id": PAD, "eos_token_id": END, "vocab_size": V}
MVP = zoo.MvpConfig(
    **MARKS,
    d_model=16,
    encoder_layers=1,
    decoder_layers=1,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    encoder_ffn_dim=24,
    decoder_ffn_dim=24,
    max_position_embeddings=64,
    decoder_start_token_id=1,
)
MT5 = zoo.MT5Config(
    **MARKS, d_model=16, d_kv=4, d_ff=24, num_layers=1, num_heads=3, decoder_start_token_id=PAD
)
BERT = zoo.BertGenerationConfig(
    **MARKS,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=64,
    is_decoder=True,
)
PHIMOE = zoo.PhimoeConfig(
    **MARKS,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=4,
    intermediate_size=20,
    num_key_value_heads=2,
    num_local_experts=3,
    max_position_embeddings=64,
)
MEGA = zoo.MegaConfig(
    **MARKS,
    hidden_size=12,
    num_hidden_layers=1,
    intermediate_size=10,
    nffn_hidden_size=14,
    ema_projection_size=3,
    shared_representation_size=6,
    max_positions=64,
)

FREE = {
    zoo.MvpModel: MVP,
    zoo.MvpForSequenceClassification: MVP,
    zoo.MvpForQuestionAnswering: MVP,
    zoo.MvpForCausalLM: MVP,
    zoo.MT5Model: MT5,
    zoo.MT5EncoderModel: MT5,
    zoo.MT5ForSequenceClassification: MT5,
    zoo.MT5ForTokenClassification: MT5,
    zoo.MT5ForQuestionAnswering: MT5,
    zoo.BertGenerationEncoder: BERT,
    zoo.BertGenerationDecoder: BERT,
    zoo.PhimoeModel: PHIMOE,
    zoo.PhimoeForSequenceClassification: PHIMOE,
}
MEGAS = [
    zoo.MegaModel,
    zoo.MegaForMaskedLM,
    zoo.MegaForSequenceClassification,
    zoo.MegaForMultipleChoice,
    zoo.MegaForTokenClassification,
    zoo.MegaForQuestionAnswering,
]


def made(cls, config):
    torch.manual_seed(0)
    return cls(config).eval()


def inputs(model, rows, length):
    """Rows that end alike, of which the first begins with padding."""
    ids = torch.randint(4, V, (rows, length), generator=torch.Generator().manual_seed(length))
    ids[:, -1] = END
    mask = torch.ones_like(ids)
    ids[0, :2], mask[0, :2] = PAD, 0
    given = {"input_ids": ids, "attention_mask": mask}
    if isinstance(model, zoo.MegaForMultipleChoice):
        given = {name: tensor[:, None].repeat(1, 2, 1) for name, tensor in given.items()}
    if isinstance(model, (zoo.MvpModel, zoo.MT5Model)):
        given["decoder_input_ids"] = ids[:, -4:].contiguous()
    return given | _without_state(model)


def _without_state(model):
    return {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}


def exported(model, given, dims):
    """`dims` of every tensor of two dimensions or more: of its first and its last."""
    shapes = {
        name: {at: dim for at, dim in ((0, dims[0]), (value.dim() - 1, dims[1])) if dim is not None}
        for name, value in given.items()
        if isinstance(value, torch.Tensor)
    }
    if "decoder_input_ids" in shapes:
        shapes["decoder_input_ids"] = {0: dims[0], 1: torch.export.Dim("written", min=2, max=60)}
    shapes |= dict.fromkeys(given.keys() - shapes.keys())
    return torch.export.export(model, (), given, dynamic_shapes=shapes).module()


def assert_same(found, expected):
    """All that is there, the state left out."""
    assert type(found) is type(expected)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("cls", FREE, ids=lambda cls: cls.__name__)
@torch.no_grad()
def test_a_class_is_exported_for_any_rows_and_length(cls):
    model = made(cls, FREE[cls])
    dims = torch.export.Dim("rows", min=2, max=60), torch.export.Dim("length", min=3, max=60)
    graph = exported(model, inputs(model, 2, 7), dims)
    for shape in ((2, 7), (3, 12)):
        given = inputs(model, *shape)
        assert_same(graph(**given), model(**given))


@pytest.mark.parametrize("cls", MEGAS, ids=lambda cls: cls.__name__)
@torch.no_grad()
def test_mega_is_exported_for_any_rows_and_lengths_beyond_a_block(cls):
    """Moving averages go by blocks of 32 positions: a graph is either of one block, or of any more."""
    model = made(cls, MEGA)
    dims = torch.export.Dim("rows", min=2, max=60), torch.export.Dim("length", min=33, max=4000)
    graph = exported(model, inputs(model, 2, 45), dims)
    for shape in ((2, 45), (3, 33), (2, 128)):
        given = inputs(model, *shape)
        assert_same(graph(**given), model(**given))


@pytest.mark.parametrize("chunk", [None, 16])
@pytest.mark.parametrize("causal", [False, True])
@torch.no_grad()
def test_mega_is_exported_with_and_without_chunks(causal, chunk):
    """Both directions and one, padding before and behind; in one of them, lengths within a block as well."""
    one_way = {"is_decoder": True, "bidirectional": False} if causal else {}
    chunks = {} if chunk is None else {"use_chunking": True, "chunk_size": chunk}
    config = zoo.MegaConfig(**MEGA.to_dict() | one_way | chunks)
    model = made(zoo.MegaForCausalLM if causal else zoo.MegaForMaskedLM, config)
    rows = torch.export.Dim("rows", min=2, max=60)
    ranges = [(33, 4000, (45, 64, 300))]
    if causal and chunk is None:
        ranges.append((3, 32, (7, 32)))
    for few, most, lengths in ranges:
        length = torch.export.Dim("length", min=few, max=most)
        graph = exported(model, inputs(model, 2, lengths[0]), (rows, length))
        for count in lengths:
            given = inputs(model, 3, count)
            given["attention_mask"][1, -3:] = 0
            assert_same(graph(**given), model(**given))
