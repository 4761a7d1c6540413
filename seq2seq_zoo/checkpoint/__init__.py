"""From a folder or the hub to files, from files to tensors, from tensors to a module's parameters, and back."""

from seq2seq_zoo.checkpoint.resolve import resolve_file

__all__ = ["resolve_file"]
