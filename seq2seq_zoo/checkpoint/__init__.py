"""From a folder or the hub to files, from files to tensors, from tensors to parameters, and back."""

from seq2seq_zoo.checkpoint.commit import weight_files, write_json_atomically
from seq2seq_zoo.checkpoint.formats import TensorInfo
from seq2seq_zoo.checkpoint.keymap import (
    Alias,
    Drop,
    KeyMap,
    Link,
    Rename,
    Respell,
    Rules,
    Split,
    Stack,
    renames,
)
from seq2seq_zoo.checkpoint.load import LoadReport, load_weights
from seq2seq_zoo.checkpoint.resolve import resolve_file
from seq2seq_zoo.checkpoint.save import save_weights
from seq2seq_zoo.checkpoint.weights import CONFIG, GENERATION_CONFIG, Weights, open_weights, unchanged

__all__ = [
    "CONFIG",
    "GENERATION_CONFIG",
    "Alias",
    "Drop",
    "KeyMap",
    "Link",
    "LoadReport",
    "Rename",
    "Respell",
    "Rules",
    "Split",
    "Stack",
    "TensorInfo",
    "Weights",
    "load_weights",
    "open_weights",
    "renames",
    "resolve_file",
    "save_weights",
    "unchanged",
    "weight_files",
    "write_json_atomically",
]
