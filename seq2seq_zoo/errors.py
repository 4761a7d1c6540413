"""What can go wrong, by kind.

Every error the package raises on purpose is a `ZooError`; those caused by a bad argument or a bad file are
also a `ValueError`, so that callers need not know this module.
"""


class ZooError(Exception):
    """Base class of the errors raised by seq2seq_zoo."""


class ConfigError(ZooError, ValueError):
    """A configuration field is of the wrong type or has an impossible value."""


class CheckpointError(ZooError, ValueError):
    """A checkpoint is missing, damaged, or does not fit the model it is loaded into."""


class UnknownFamilyError(CheckpointError, ConfigError):
    """A config.json names a model_type that no family here has."""


class TokenizerError(ZooError, ValueError):
    """A tokenizer file is missing or damaged, or a text cannot be encoded as asked."""


class GenerationError(ZooError, ValueError):
    """An argument of `generate` is unknown, out of range, or does not fit the others."""


class UsageError(ZooError, ValueError):
    """An argument of `pipeline` or of the command is unknown, or does not fit the others."""


class MissingExtraError(ZooError, ImportError):
    """An optional library is needed; the message names the extra that installs it."""
