"""The only place that words an error about an argument: the value, the rule, the way out."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def check_positive(name: str, value: float) -> None:
    """Refuse a number that is not finite and > 0."""
    if not (value > 0 and math.isfinite(value)):  # also catches nan
        raise ValueError(f"{name} must be a finite number > 0, got {value!r}")


def check_non_negative(name: str, value: float) -> None:
    """Refuse a number that is not finite and >= 0."""
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be a finite number >= 0, got {value!r}")


def check_between(name: str, value: float, low: float, high: float) -> None:
    """Refuse a number outside [low, high]."""
    if not low <= value <= high:
        raise ValueError(f"{name} must lie in [{low:g}, {high:g}], got {value!r}")


def check_count(name: str, value: int, least: int = 1) -> None:
    """Refuse what is not an integer >= `least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, got {value!r} ({type(value).__name__})")
    if value < least:
        raise ValueError(f"{name} must be >= {least}, got {value}")


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Refuse a name that is not among `choices`, and offer the nearest one."""
    known = list(choices)
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}{nearest(str(value), known)}")


def nearest(value: str, choices: Iterable[str]) -> str:
    """The words '; did you mean …?' where a known name is close to `value`, else nothing."""
    close = difflib.get_close_matches(value.lower(), list(choices), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def check_floating(name: str, x: Tensor) -> None:
    """Refuse a tensor that is not of a real floating dtype, or has no batch axis and sample axis."""
    if not hasattr(x, "is_floating_point"):
        raise TypeError(f"{name} must be a torch tensor, got {type(x).__name__}; use torch.as_tensor")
    if not x.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {x.dtype}; convert it with {name}.float()")
    if x.ndim < 2:
        raise ValueError(f"{name} must have shape (B, *D) with at least two axes, got {tuple(x.shape)}")


def check_shape(name: str, x: Tensor, shape: tuple[int, ...], rule: str) -> None:
    """Refuse a tensor whose shape is not `shape`; `rule` says in words what was asked for."""
    if tuple(x.shape) != tuple(shape):
        raise ValueError(f"{name} must have shape {tuple(shape)} ({rule}), got {tuple(x.shape)}")


def check_score(s: Tensor, x: Tensor) -> None:
    """Refuse what a score returned when it is not a tensor of the shape and dtype of `x`."""
    if tuple(getattr(s, "shape", ())) != tuple(x.shape):
        got = tuple(s.shape) if hasattr(s, "shape") else type(s).__name__
        raise ValueError(f"a score must return the shape of x, {tuple(x.shape)}, got {got}")
    if s.dtype != x.dtype:
        raise TypeError(f"a score must return the dtype of x, {x.dtype}, got {s.dtype}")


def check_rows(name: str, value: Tensor, x: Tensor, what: Any = "one number per sample") -> None:
    """Refuse a tensor that is not one number per row of `x`."""
    check_shape(name, value, (x.shape[0],), str(what))
