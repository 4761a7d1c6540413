"""Special tokens: which token plays which role.

A role is one of seven names (`bos_token`, …) or the list `additional_special_tokens`. Reading gives text,
`…_id` gives the id; both can be assigned. Assigning changes who plays the role, not the vocabulary:
`add_special_tokens` does both. A role is held as text or as an `AddedToken`, which also says whether the
token takes the spaces beside it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, overload

from tokenizers import AddedToken

from seq2seq_zoo.errors import TokenizerError

Token: TypeAlias = str | AddedToken

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
ADDITIONAL = "additional_special_tokens"


class _Role:
    """The text of the token in a role, or None."""

    def __set_name__(self, owner: type[SpecialTokens], name: str) -> None:
        self.name = name

    @overload
    def __get__(self, tokenizer: None, owner: type[SpecialTokens]) -> _Role: ...
    @overload
    def __get__(self, tokenizer: SpecialTokens, owner: type[SpecialTokens]) -> str | None: ...
    def __get__(self, tokenizer: SpecialTokens | None, owner: type[SpecialTokens]) -> _Role | str | None:
        if tokenizer is None:
            return self
        token = tokenizer._roles[self.name]
        return None if token is None else text_of(token)

    def __set__(self, tokenizer: SpecialTokens, token: Token | None) -> None:
        if token is not None:
            _check_token(self.name, token)
        tokenizer._roles[self.name] = token


class _RoleId:
    """The id of the token in a role, or None."""

    def __set_name__(self, owner: type[SpecialTokens], name: str) -> None:
        self.role = name.removesuffix("_id")

    @overload
    def __get__(self, tokenizer: None, owner: type[SpecialTokens]) -> _RoleId: ...
    @overload
    def __get__(self, tokenizer: SpecialTokens, owner: type[SpecialTokens]) -> int | None: ...
    def __get__(self, tokenizer: SpecialTokens | None, owner: type[SpecialTokens]) -> _RoleId | int | None:
        if tokenizer is None:
            return self
        token = tokenizer._roles[self.role]
        return None if token is None else int(tokenizer.convert_tokens_to_ids(text_of(token)))

    def __set__(self, tokenizer: SpecialTokens, index: int | None) -> None:
        tokenizer._roles[self.role] = None if index is None else tokenizer._token_at(index, self.role)


class SpecialTokens(ABC):
    """The part of a tokenizer that knows the roles."""

    bos_token = _Role()
    eos_token = _Role()
    unk_token = _Role()
    sep_token = _Role()
    pad_token = _Role()
    cls_token = _Role()
    mask_token = _Role()
    bos_token_id = _RoleId()
    eos_token_id = _RoleId()
    unk_token_id = _RoleId()
    sep_token_id = _RoleId()
    pad_token_id = _RoleId()
    cls_token_id = _RoleId()
    mask_token_id = _RoleId()

    pad_token_type_id = 0
    """What token_type_ids have at padding."""

    def __init__(self, roles: Mapping[str, Token | None], additional: Sequence[Token] | None) -> None:
        self._roles: dict[str, Token | None] = dict.fromkeys(ROLES)
        for name, token in roles.items():
            if token is not None:
                _check_token(name, token)
            self._roles[name] = token
        self._additional: list[Token] = check_tokens(ADDITIONAL, additional or [])

    @abstractmethod
    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """The id of a token, or the ids of a list; what the vocabulary lacks gets the id of unk_token."""

    @abstractmethod
    def add_tokens(self, new_tokens: Token | Sequence[Token], special_tokens: bool = False) -> int:
        """Add tokens to the vocabulary."""

    @abstractmethod
    def _token_at(self, index: int, name: str) -> str:
        """The token of an id; TokenizerError, naming what asked for it, if there is none."""

    @property
    def additional_special_tokens(self) -> list[str]:
        """Special tokens without a role of their own."""
        return [text_of(token) for token in self._additional]

    @additional_special_tokens.setter
    def additional_special_tokens(self, tokens: Sequence[Token]) -> None:
        self._additional = check_tokens(ADDITIONAL, tokens)

    @property
    def additional_special_tokens_ids(self) -> list[int]:
        """Their ids."""
        return list(self.convert_tokens_to_ids(self.additional_special_tokens))

    @additional_special_tokens_ids.setter
    def additional_special_tokens_ids(self, ids: Sequence[int]) -> None:
        self._additional = [self._token_at(index, ADDITIONAL) for index in ids]

    @property
    def special_tokens(self) -> dict[str, Token | list[Token]]:
        """The roles that are taken, as they are held: text or AddedToken."""
        held: dict[str, Token | list[Token]] = {name: token for name, token in self._roles.items() if token}
        if self._additional:
            held[ADDITIONAL] = list(self._additional)
        return held

    @property
    def special_tokens_map(self) -> dict[str, str | list[str]]:
        """The roles that are taken, as text."""
        return {
            name: [text_of(t) for t in token] if isinstance(token, list) else text_of(token)
            for name, token in self.special_tokens.items()
        }

    def _held_tokens(self) -> list[Token]:
        """All special tokens as they are held, in the order of the roles; of equal texts the first counts."""
        tokens: dict[str, Token] = {}
        for held in self.special_tokens.values():
            for token in held if isinstance(held, list) else [held]:
                tokens.setdefault(text_of(token), token)
        return list(tokens.values())

    @property
    def all_special_tokens(self) -> list[str]:
        """All special tokens, each once, in the order of the roles."""
        return [text_of(token) for token in self._held_tokens()]

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of all special tokens."""
        return list(self.convert_tokens_to_ids(self.all_special_tokens))

    def add_special_tokens(
        self,
        special_tokens_dict: Mapping[str, Token | Sequence[Token]],
        replace_additional_special_tokens: bool = True,
    ) -> int:
        """Give tokens a role, and ids if they have none; returns how many ids are new.

        Additional special tokens take the place of the earlier ones or, without
        `replace_additional_special_tokens`, join them. New ids come after the last one: the model's
        embeddings have to grow with them.
        """
        added: list[Token] = []
        for name, value in special_tokens_dict.items():
            if name == ADDITIONAL:
                if isinstance(value, str | AddedToken):
                    raise TokenizerError(f"{ADDITIONAL} is {value!r}; it must be a list of tokens")
                tokens = [as_special(token) for token in check_tokens(ADDITIONAL, value)]
                if not replace_additional_special_tokens:
                    known = self.additional_special_tokens
                    tokens = [token for token in tokens if token.content not in known]
                if replace_additional_special_tokens and tokens:
                    self._additional = list(tokens)
                else:
                    self._additional.extend(tokens)
                added += tokens
            elif name in ROLES:
                if not isinstance(value, str | AddedToken):
                    raise TokenizerError(f"{name} is {value!r}; it must be a text or an AddedToken")
                token = as_special(value)
                self._roles[name] = token
                added.append(token)
            else:
                raise TokenizerError(
                    f"{name!r} is no role; the roles are {', '.join(ROLES)} and {ADDITIONAL}"
                )
        return self.add_tokens(added, special_tokens=True) if added else 0


def text_of(token: Token) -> str:
    """The token's text."""
    return token if isinstance(token, str) else str(token.content)


def as_special(token: Token, **flags: bool) -> AddedToken:
    """The token with the flags of a special token: never split, matched in the text as it stands."""
    if isinstance(token, str):
        return AddedToken(token, special=True, normalized=False, **flags)
    return token


def state_of(token: AddedToken) -> dict[str, Any]:
    """Text and flags, as files hold them."""
    return dict(token.__getstate__())


def _check_token(name: str, token: object) -> None:
    if not isinstance(token, str | AddedToken):
        raise TokenizerError(f"{name} is {token!r}; it must be a text, an AddedToken or None")


def check_tokens(name: str, tokens: object) -> list[Token]:
    """`tokens` as a list; TokenizerError, calling it `name`, if it is none, or holds anything else."""
    if not isinstance(tokens, list | tuple):
        raise TokenizerError(f"{name} is {tokens!r}; it must be a list of tokens")
    for token in tokens:
        _check_token(name, token)
    return list(tokens)
