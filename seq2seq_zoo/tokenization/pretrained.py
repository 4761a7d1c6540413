"""from_pretrained and save_pretrained: the part of a tokenizer that deals with its files."""

from __future__ import annotations

import os
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from tokenizers import AddedToken

from seq2seq_zoo.hub import Pushable, options_of_push, push_folder

from . import files
from .special_tokens import SpecialTokens, text_of

if TYPE_CHECKING:
    from typing_extensions import Self


class PretrainedTokens(SpecialTokens, Pushable):
    """A vocabulary, its added and its special tokens, to and from files."""

    vocab_files_names: ClassVar[dict[str, str]]
    """Constructor argument → file name, for the files that hold the vocabulary."""
    saved_settings: ClassVar[tuple[str, ...]] = ()
    """Attributes of the family that tokenizer_config.json keeps."""
    saved_class_name: ClassVar[str]
    """What tokenizer_config.json names as tokenizer_class."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Tokens of the vocabulary file, without added ones."""

    @property
    @abstractmethod
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """Id → token of those that are cut out of a text before the piece model sees it, by id."""

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """Token → id of the added tokens, by id."""
        return {text_of(token): index for index, token in self.added_tokens_decoder.items()}

    def get_added_vocab(self) -> dict[str, int]:
        """Token → id of the added tokens."""
        return self.added_tokens_encoder

    @abstractmethod
    def _config(self) -> dict[str, Any]:
        """What tokenizer_config.json says."""

    @abstractmethod
    def _write_vocabulary(self, folder: files.Replacing) -> None:
        """Write the vocabulary files."""

    @classmethod
    def from_pretrained(
        cls,
        where: str | os.PathLike[str],
        *,
        revision: str | None = None,
        subfolder: str = "",
        cache_dir: str | os.PathLike[str] | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool | None = None,
        **settings: Any,
    ) -> Self:
        """Load from a folder, a hub repository, or `bundled:NAME`.

        `settings` are constructor arguments and win over tokenizer_config.json. `trust_remote_code` changes
        nothing: a checkpoint's code is never run. A file that is missing, empty or damaged raises
        TokenizerError; a place that does not exist raises CheckpointError.
        """
        place = files.Place(where, revision, subfolder, cache_dir, token, local_files_only)
        return cls._from_place(place, settings)

    @classmethod
    def _from_place(cls, place: files.Place, overrides: dict[str, Any]) -> Self:
        settings = files.read_settings(place, overrides)
        for argument, name in cls.vocab_files_names.items():
            path = place.path(name)
            if path is not None:
                settings.setdefault(argument, str(path))
        settings.setdefault("name_or_path", os.fspath(place.where))
        return cls(**settings)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        filename_prefix: str | None = None,
        *,
        push_to_hub: bool = False,
        **push_options: Any,
    ) -> tuple[str, ...]:
        """Write the tokenizer's files as transformers 4.x does, which 5.x reads too; returns their paths.

        Each file is replaced in one step, and files of an earlier tokenizer in the same folder are removed.
        With push_to_hub they are uploaded, under the options of the method push_to_hub and repo_id, without
        which the repository is called as the directory.
        """
        push = options_of_push(self, save_directory, push_to_hub, push_options)
        with files.Replacing(save_directory, filename_prefix) as folder:
            folder.write_json(files.CONFIG, self._config())
            folder.write_json(files.SPECIAL_TOKENS_MAP, files.special_tokens_map_of(self))
            self._write_files(folder)
        if push_to_hub:
            push_folder(save_directory, names=[os.path.basename(path) for path in folder.paths], **push)
        return folder.paths

    def save_vocabulary(
        self, save_directory: str | os.PathLike[str], filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Write the vocabulary files alone; returns their paths."""
        with files.Replacing(save_directory, filename_prefix, remove_others=False) as folder:
            self._write_vocabulary(folder)
        return folder.paths

    def _write_files(self, folder: files.Replacing) -> None:
        added = {text: index for text, index in self.added_tokens_encoder.items() if index >= self.vocab_size}
        if added:
            folder.write_json(files.ADDED_TOKENS, added)
        self._write_vocabulary(folder)
