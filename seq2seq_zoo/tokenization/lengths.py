"""From lists of ids to rows of the wanted length: truncation, special tokens, padding.

    ids of one text, or of two  ──truncate──▶  ──special tokens──▶  one row  ──pad──▶  BatchEncoding

This is the path of tokenizers that run in Python, and of `pad` and `prepare_for_model` for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from seq2seq_zoo.errors import TokenizerError

from .encoding import BatchEncoding
from .options import EncodeOptions, Lengths

if TYPE_CHECKING:
    from .base import Tokenizer

# What is put beside each padded value, apart from the ids themselves.
_ATTENTION, _TYPES, _SPECIAL = "attention_mask", "token_type_ids", "special_tokens_mask"


class Tokens(NamedTuple):
    """The ids of one text and, where asked for, the characters each stands for."""

    ids: list[int]
    offsets: list[tuple[int, int]] | None = None

    def without(self, cut: int, side: str) -> Tokens:
        """What is left when `cut` tokens go from one side."""
        kept = slice(cut, None) if side == "left" else slice(len(self.ids) - cut)
        return Tokens(self.ids[kept], None if self.offsets is None else self.offsets[kept])


def assemble(
    tokenizer: Tokenizer,
    first: Tokens,
    second: Tokens | None,
    options: EncodeOptions,
    lengths: Lengths,
    prepend_batch_axis: bool = True,
) -> BatchEncoding:
    """One row from the tokens of a text or a pair, padded and converted as `options` say."""
    data = build_row(tokenizer, first, second, options, lengths)
    pad_row(tokenizer, data, options, lengths.padding, lengths.max_length)
    if options.return_length:
        data["length"] = len(data["input_ids"])
    return BatchEncoding(data, tensor_type=options.return_tensors, prepend_batch_axis=prepend_batch_axis)


def build_row(
    tokenizer: Tokenizer, first: Tokens, second: Tokens | None, options: EncodeOptions, lengths: Lengths
) -> dict[str, Any]:
    """The values of one row, truncated and with special tokens, not padded and without attention mask."""
    if options.return_token_type_ids and not options.add_special_tokens:
        raise TokenizerError("return_token_type_ids is True, which needs add_special_tokens=True")
    if options.return_overflowing_tokens and lengths.truncation == "longest_first" and second is not None:
        raise TokenizerError(
            "return_overflowing_tokens with truncation='longest_first' has no answer for a pair in this "
            "tokenizer; truncation must be 'only_first' or 'only_second'"
        )
    special = tokenizer.num_special_tokens_to_add(second is not None) if options.add_special_tokens else 0
    total = len(first.ids) + (len(second.ids) if second is not None else 0) + special
    limit = lengths.max_length
    excess = max(0, total - limit) if lengths.truncation is not None and limit is not None else 0
    cut, second_cut = _cuts(len(first.ids), None if second is None else len(second.ids), excess, lengths)

    data: dict[str, Any] = {}
    side = tokenizer.truncation_side
    if options.return_overflowing_tokens:
        whole, n = (second.ids, second_cut) if second is not None and second_cut else (first.ids, cut)
        data["overflowing_tokens"] = _cut_off(whole, n, options.stride, side)
        data["num_truncated_tokens"] = total - limit if limit is not None else 0
    first = first.without(cut, side)
    second = None if second is None else second.without(second_cut, side)

    pair = None if second is None else second.ids
    if options.add_special_tokens:
        data["input_ids"] = tokenizer.build_inputs_with_special_tokens(first.ids, pair)
        mask = tokenizer.get_special_tokens_mask(first.ids, pair)
        types = tokenizer.create_token_type_ids_from_sequences(first.ids, pair)
    else:
        data["input_ids"] = first.ids + (pair or [])
        mask = types = [0] * len(data["input_ids"])
    if _wanted(options.return_token_type_ids, _TYPES, tokenizer):
        data[_TYPES] = list(types)
    if options.return_special_tokens_mask:
        data[_SPECIAL] = list(mask)
    if first.offsets is not None:
        spans = iter(first.offsets + ((second.offsets or []) if second is not None else []))
        data["offset_mapping"] = [(0, 0) if is_special else next(spans) for is_special in mask]
    return data


def pad_row(
    tokenizer: Tokenizer,
    data: dict[str, Any],
    options: EncodeOptions,
    padding: str | None,
    length: int | None,
) -> None:
    """Add the attention mask and fill one row up to `length` (or to the wanted multiple), in place."""
    name = tokenizer.model_input_names[0]
    ids = data[name]
    if _wanted(options.return_attention_mask, _ATTENTION, tokenizer):
        data.setdefault(_ATTENTION, [1] * len(ids))
    if padding is None:
        return
    target = len(ids) if padding == "longest" or length is None else length
    if options.pad_to_multiple_of:
        target = -(-target // options.pad_to_multiple_of) * options.pad_to_multiple_of
    missing = target - len(ids)
    if missing <= 0:
        return
    filler = {
        name: padding_id(tokenizer),
        _ATTENTION: 0,
        _TYPES: tokenizer.pad_token_type_id,
        _SPECIAL: 1,
        "offset_mapping": (0, 0),
    }
    left = (options.padding_side or tokenizer.padding_side) == "left"
    for key in filler.keys() & data.keys():
        values, fill = list(data[key]), [filler[key]] * missing
        data[key] = fill + values if left else values + fill


def pad_rows(
    tokenizer: Tokenizer, rows: list[dict[str, Any]], options: EncodeOptions, lengths: Lengths
) -> dict[str, Any]:
    """Rows, padded to one length, as one dict of lists."""
    name = tokenizer.model_input_names[0]
    longest = max(len(row[name]) for row in rows)
    padding, length = (
        ("max_length", longest) if lengths.padding == "longest" else (lengths.padding, lengths.max_length)
    )
    for row in rows:
        pad_row(tokenizer, row, options, padding, length)
    return {key: [row[key] for row in rows] for key in rows[0]}


def pad_encoded(tokenizer: Tokenizer, encoded: Any, options: EncodeOptions) -> BatchEncoding:
    """What `Tokenizer.pad` does."""
    name = tokenizer.model_input_names[0]
    if isinstance(encoded, list | tuple):
        if not encoded or not all(isinstance(row, Mapping) for row in encoded):
            raise TokenizerError(
                "encoded_inputs is a list that must hold at least one encoding, and only encodings"
            )
        encoded = {key: [row[key] for row in encoded] for key in encoded[0]}
    if not isinstance(encoded, Mapping) or name not in encoded:
        held = ", ".join(encoded) if isinstance(encoded, Mapping) else repr(encoded)
        raise TokenizerError(f"encoded_inputs must have {name!r}; it is {held}")

    tensors, data = None, {}
    for key, value in encoded.items():
        data[key], kind = _as_lists(value)
        tensors = tensors or kind
    tensors = options.return_tensors or tensors
    lengths = options.lengths(tokenizer.model_max_length)
    if not data[name]:
        return BatchEncoding(data, tensor_type=tensors)
    if not isinstance(data[name][0], list | tuple):
        pad_row(tokenizer, data, options, lengths.padding, lengths.max_length)
        return BatchEncoding(data, tensor_type=tensors)
    sizes = {key: len(value) for key, value in data.items()}
    if len(set(sizes.values())) > 1:
        raise TokenizerError(f"encoded_inputs must have as many rows under each name; it has {sizes}")
    rows = [{key: value[i] for key, value in data.items()} for i in range(len(data[name]))]
    return BatchEncoding(pad_rows(tokenizer, rows, options, lengths), tensor_type=tensors)


def padding_id(tokenizer: Tokenizer) -> int:
    """The id to pad with; TokenizerError if the tokenizer has none."""
    index = tokenizer.pad_token_id
    if index is None:
        raise TokenizerError(
            "padding is asked for but pad_token is None; set it, as in tokenizer.pad_token = "
            "tokenizer.eos_token"
        )
    return index


def _cuts(first: int, second: int | None, excess: int, lengths: Lengths) -> tuple[int, int]:
    """How many tokens the first and the second text lose."""
    if not excess:
        return 0, 0
    if second is None:
        # With one text there is nothing to choose; "only_second" then leaves it as it is.
        wanted = (0 if lengths.truncation == "only_second" else excess, 0)
    elif lengths.truncation == "only_first":
        wanted = (excess, 0)
    elif lengths.truncation == "only_second":
        wanted = (0, excess)
    else:
        # Even out the lengths, then take from both alike; an odd token comes from the second text.
        even = min(abs(first - second), excess)
        half = (excess - even) // 2
        rest = excess - even - half
        wanted = (even + half, rest) if first > second else (half, even + rest)
    if wanted[0] > first or wanted[1] > (second or 0):
        raise TokenizerError(
            f"max_length is {lengths.max_length}: truncation={lengths.truncation!r} would have to remove "
            f"{excess} tokens, but the texts have {first}{'' if second is None else f' and {second}'}"
        )
    return wanted


def _cut_off(values: list[int], cut: int, stride: int, side: str) -> list[int]:
    window = min(len(values), cut + stride) if cut else 0
    return values[:window] if side == "left" else values[len(values) - window :]


def _wanted(asked: bool | None, name: str, tokenizer: Tokenizer) -> bool:
    return name in tokenizer.model_input_names if asked is None else asked


def _as_lists(value: Any) -> tuple[Any, str | None]:
    """Nested lists, and which kind of tensor they were."""
    if isinstance(value, list | tuple):
        if value and hasattr(value[0], "tolist"):
            return [row.tolist() for row in value], _tensor_kind(value[0])
        return list(value), None
    if hasattr(value, "tolist"):
        return value.tolist(), _tensor_kind(value)
    raise TokenizerError(f"encoded_inputs holds {value!r}; it must hold lists or tensors of ids")


def _tensor_kind(value: Any) -> str:
    return "np" if type(value).__module__ == "numpy" else "pt"
