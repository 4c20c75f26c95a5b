"""Validate values loaded from a tensor file; errors name file and field."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from util.errors import UserError

_MAX_DEPTH, _MAX_VALUES = 40, 10_000_000  # a small file can nest and repeat values without end


def check_tensors(path: Path, named: Any, *, field: str) -> None:
    """Check a mapping of names to tensors.

    Each must have storage for all its elements: an expanded tensor claims more memory than the file has.

    Args:
        path: the file.
        named: the value to check.
        field: its name in the file.

    Raises:
        UserError: it is not a mapping of plain tensors; the first invalid one is named.
    """
    check(path, isinstance(named, Mapping), field=field, rule="be names and tensors", value=named)
    for name, tensor in named.items():
        check(path, isinstance(name, str), field=field, rule="have strings as names", value=name)
        check_tensor(path, tensor, field=f"{field}.{name}")


def check_tensor(path: Path, tensor: Any, *, field: str, finite: bool = True) -> None:
    """Check one tensor as `check_tensors` does."""
    check(path, isinstance(tensor, torch.Tensor), field=field, rule="be a tensor", value=tensor)
    is_plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    is_whole = is_plain and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
    if not is_whole or tensor.is_complex():
        raise UserError(
            f"{path}: {field} must be a plain tensor with storage for all elements; use another file"
        )
    if finite and tensor.is_floating_point() and not torch.isfinite(tensor).all():
        raise UserError(f"{path}: {field} must be finite, got NaN or infinite numbers; use another file")


def check_whole(path: Path, value: Any, *, field: str) -> None:
    """Check a non-negative integer of at most 63 bits; raises `UserError`."""
    is_whole = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63
    check(path, is_whole, field=field, rule="be a whole number of at least 0", value=value)


def check_plain(path: Path, value: Any, *, field: str) -> None:
    """Check nested mappings and lists of strings, finite numbers, booleans and None.

    Raises `UserError` for anything else, such as tensors.
    """
    pending, n_values = [(value, 0)], 0
    while pending:
        item, depth = pending.pop()
        n_values += 1
        if depth > _MAX_DEPTH or n_values > _MAX_VALUES:
            raise UserError(f"{path}: {field} holds too many or too deep values; use another file")
        if isinstance(item, Mapping):
            names_are_strings = all(isinstance(name, str) for name in item)
            check(path, names_are_strings, field=field, rule="have strings as names", value=list(item))
            pending += [(inner, depth + 1) for inner in item.values()]
        elif isinstance(item, list | tuple):
            pending += [(inner, depth + 1) for inner in item]
        else:
            is_plain = item is None or isinstance(item, str | int | float)
            is_plain = is_plain and not (isinstance(item, float) and not math.isfinite(item))
            check(path, is_plain, field=field, rule="hold plain values", value=item)


def check(path: Path, condition: bool, *, field: str, rule: str, value: Any) -> None:
    """Raise `UserError` unless a condition holds; `rule` completes "must ..."."""
    if not condition:
        text = " ".join(repr(value)[:200].split())[:60] if _is_short(value) else type(value).__name__
        raise UserError(f"{path}: {field} must {rule}, got {text}; use another file")


def _is_short(value: Any) -> bool:
    return (
        value is None
        or isinstance(value, str | float | bool)
        or (isinstance(value, int) and abs(value) < 1 << 64)
    )
