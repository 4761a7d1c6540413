"""Which tensors of a module go with which checkpoint keys: what loading and saving have in common.

Tied weights are one Parameter registered under several names. The rules may name each of them; the first rule
that gives one of the names is the primary, under whose key the tensor is saved, and the keys of the others
are tied copies, which a checkpoint may have besides or instead.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from seq2seq_zoo.checkpoint.keymap import KeyMap, Link, Rename
from seq2seq_zoo.errors import CheckpointError


@dataclass(frozen=True)
class Plan:
    """The tensors of a module by name, their ties, and the links that fill each of them exactly once."""

    tensors: dict[str, Tensor]
    """Parameters and persistent buffers, tied ones under each of their names."""

    tied: dict[str, tuple[str, ...]]
    """From each name that a link fills to all names of that tensor, itself first."""

    links: tuple[Link, ...]
    """What is written, and read where present."""

    copies: dict[str, str]
    """From the keys of tied copies to the keys of the links that carry the same tensors."""

    def bytes_of(self, link: Link) -> int:
        """How many bytes the tensors of a link have in the module."""
        return sum(self.tensors[name].nbytes for name in link.names)


def make_plan(module: nn.Module, key_map: KeyMap, tensors: dict[str, Tensor] | None = None) -> Plan:
    """Match every parameter and persistent buffer of `module` with the rules of `key_map`.

    `tensors` are those of `module.state_dict()`, which says them if they are not given.

    Raises CheckpointError if the rules give no key for some tensor: the map is not that of this module.
    """
    if tensors is None:
        tensors = module.state_dict(keep_vars=True)
    names_of: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        names_of.setdefault(id(tensor), []).append(name)

    carriers: dict[int, Link] = {}
    links: list[Link] = []
    tied: dict[str, tuple[str, ...]] = {}
    copies: dict[str, str] = {}
    for link in key_map.links({name: tuple(tensor.shape) for name, tensor in tensors.items()}):
        primary = carriers.get(id(tensors[link.names[0]]))
        if primary is not None and isinstance(link.rule, Rename) and isinstance(primary.rule, Rename):
            copies[link.keys[0]] = primary.keys[0]
            continue
        links.append(link)
        for name in link.names:
            identity = id(tensors[name])
            if identity in carriers:
                raise CheckpointError(f"{link.rule} fills {name}, a tied tensor that is filled already")
            carriers[identity] = link
            tied[name] = (name, *[other for other in names_of[identity] if other != name])

    uncovered = [names[0] for identity, names in names_of.items() if identity not in carriers]
    if uncovered:
        raise CheckpointError(
            f"the key map gives no checkpoint key for {len(uncovered)} tensors of {type(module).__name__}: "
            + ", ".join(uncovered)
        )
    return Plan(tensors, tied, tuple(links), copies)
