"""A model small enough to read at a glance, with one of everything that a key map must deal with."""

from pathlib import Path

import torch
from torch import Tensor, nn

from seq2seq_zoo.checkpoint import Alias, Drop, KeyMap, Respell, Rules, Split, Stack, renames


class ToyLayer(nn.Module):
    def __init__(self, width: int, inner: int, experts: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.gate = nn.Parameter(torch.empty(inner, width))
        self.up = nn.Parameter(torch.empty(inner, width))
        self.experts = nn.Parameter(torch.empty(experts, inner, width))


class Toy(nn.Module):
    """The body: an embedding, layers, a persistent and a computed buffer."""

    offsets: Tensor
    positions: Tensor

    def __init__(
        self, vocab: int = 11, width: int = 4, inner: int = 3, experts: int = 3, depth: int = 2
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab, width)
        self.layers = nn.ModuleList([ToyLayer(width, inner, experts) for _ in range(depth)])
        self.register_buffer("offsets", torch.zeros(width))
        self.register_buffer("positions", torch.zeros(width), persistent=False)


class ToyWithHead(nn.Module):
    """The body below `model.`, and a head that shares the embedding."""

    def __init__(self, tied: bool = True, **sizes: int) -> None:
        super().__init__()
        self.model = Toy(**sizes)
        vocab, width = self.model.embedding.weight.shape
        self.lm_head = nn.Linear(width, vocab, bias=False)
        if tied:
            self.lm_head.weight = self.model.embedding.weight
        self.register_buffer("count", torch.zeros(1, dtype=torch.int64))


BODY = renames("""
    shared.weight                   -> embedding.weight
    encoder.{i}.{x:q|k}.{p}         -> layers.{i}.{x}_proj.{p}
    encoder.{i}.LayerNorm.{p}       -> layers.{i}.norm.{p}
    offsets                         -> offsets
""") + Rules(
    Split("encoder.{i}.gate_up", ("layers.{i}.gate", "layers.{i}.up")),
    Stack("encoder.{i}.experts.{e}.weight", "layers.{i}.experts"),
    Alias("encoder.embed.weight", "shared.weight"),
    Drop("encoder.position_ids", "0, 1, 2, ... as a buffer"),
    Respell("LayerNorm.gamma", "LayerNorm.weight"),
    Respell("LayerNorm.beta", "LayerNorm.bias"),
)
HEAD = renames("""
    lm_head.weight -> lm_head.weight
    count          -> count
""")
BODY_MAP = KeyMap(BODY, base_prefix="model.")
HEAD_MAP = KeyMap(BODY.under(theirs="model.", ours="model.") + HEAD, base_prefix="model.")


def initialise(module: nn.Module) -> None:
    """Recognisable values: 0.5 in parameters, 7 in buffers."""
    for parameter in module.parameters(recurse=False):
        parameter.fill_(0.5)
    for buffer in module.buffers(recurse=False):
        buffer.fill_(7)


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module with every parameter and buffer random."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 10)
    return module


def on_meta(cls: type[nn.Module], **options: object) -> nn.Module:
    with torch.device("meta"):
        return cls(**options)


def hub_state(module: nn.Module, key_map: KeyMap) -> dict[str, Tensor]:
    """The tensors of `module` under the hub's keys, worked out here by hand rather than by the key map."""
    prefix = "model." if isinstance(module, ToyWithHead) else ""
    body = module.model if prefix else module
    state = {"shared.weight": body.embedding.weight, "offsets": body.offsets}
    for i, layer in enumerate(body.layers):
        for kind in ("weight", "bias"):
            state[f"encoder.{i}.q.{kind}"] = getattr(layer.q_proj, kind)
            state[f"encoder.{i}.k.{kind}"] = getattr(layer.k_proj, kind)
            state[f"encoder.{i}.LayerNorm.{kind}"] = getattr(layer.norm, kind)
        state[f"encoder.{i}.gate_up"] = torch.cat([layer.gate, layer.up])
        for e in range(layer.experts.shape[0]):
            state[f"encoder.{i}.experts.{e}.weight"] = layer.experts[e].clone()
    state = {prefix + key: tensor for key, tensor in state.items()}
    if prefix:
        state["count"] = module.count
        if module.lm_head.weight is not body.embedding.weight:
            state["lm_head.weight"] = module.lm_head.weight
    return {key: tensor.detach() for key, tensor in state.items()}


def same(a: nn.Module, b: nn.Module) -> bool:
    """Whether all stored tensors are the same bits."""
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name]) for name in left
    )


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
