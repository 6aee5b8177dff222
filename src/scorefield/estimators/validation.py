"""What every estimator asks of its data and weights, checked once, at the door; all computing is in float64."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.exceptions import DataConversionWarning
from sklearn.utils.validation import check_array, validate_data

Array = NDArray[np.float64]


def check_rows_of(
    estimator: BaseEstimator, X: Any, *, fitting: bool, least: int = 2, caller: str | None = None
) -> Array:
    """A table as float64 (n, d), or an error that says what is wrong with it.

    Numeric object arrays are converted; float16 is upcast with a `DataConversionWarning`. In `fit` the number of
    columns and their names are kept as `n_features_in_` and `feature_names_in_`; later they must be the same.

    Args:
        estimator: whose data they are; errors carry its name.
        X: array or data frame, (n, d).
        fitting: whether this is `fit`.
        least: how many rows `fit` needs.
        caller: the name that errors carry, where it is not the estimator's.

    Returns:
        the rows.

    Raises:
        ValueError: not a table of finite real numbers, empty, fewer than `least` rows in `fit`, complex, or other
            columns than in `fit`.
        TypeError: sparse, or of objects that are no numbers.
    """
    if _half_precision(X):
        warnings.warn(
            "X is float16 and is computed with as float64; it still carries 3 digits only, so read it as float32 or "
            "float64 where there are more",
            DataConversionWarning,
            stacklevel=3,
        )
    try:
        how: Any = {"dtype": np.float64, "ensure_min_samples": least if fitting else 1}
        how |= {} if caller is None else {"estimator": caller}
        return np.require(validate_data(estimator, X, reset=fitting, **how), requirements=("C", "W"))  # W: for torch
    except ValueError as error:
        if "could not convert string" in str(error):
            raise ValueError(f"{error}; X must be numbers: drop or encode its text columns") from error
        raise


def check_weights(sample_weight: Any, n: int) -> Array:
    """Weights of the rows as shares, >= 0 with sum 1; 1/n each where None.

    Args:
        sample_weight: n numbers >= 0, in any unit, not all zero; or one number, which weighs all rows alike.
        n: how many rows.

    Returns:
        the shares, (n,), not to be written to.

    Raises:
        ValueError: another shape, negative, not finite, or all zero.
    """
    if sample_weight is None:
        return np.broadcast_to(np.float64(1 / n), (n,))  # no memory for equal shares
    if isinstance(sample_weight, Real):
        sample_weight = np.full(n, sample_weight)
    how: Any = {"ensure_2d": False, "dtype": np.float64, "input_name": "sample_weight"}
    w = np.asarray(check_array(sample_weight, **how))
    if w.shape != (n,):
        raise ValueError(f"sample_weight must have shape ({n},), one number per row, got {w.shape}")
    if (w < 0).any():
        i = int((w < 0).argmax())
        raise ValueError(f"sample_weight must be >= 0, got {w[i]:g} at row {i}; drop such rows or set them to 0")
    if not w.any():
        raise ValueError("sample_weight must not be zero everywhere; give some row a weight > 0")
    w = w / w.max()  # the sum of what is given may overflow
    return w / w.sum()


def check_fit_data(estimator: BaseEstimator, X: Any, sample_weight: Any, *, least: int = 2) -> tuple[Array, Array]:
    """Rows and their shares for `fit`: validated, and rows of weight zero left out.

    Raises:
        ValueError, TypeError: see `check_rows_of` and `check_weights`; fewer than `least` rows of weight > 0.
    """
    x = check_rows_of(estimator, X, fitting=True, least=least)
    w = check_weights(sample_weight, len(x))
    seen = w > 0
    if not seen.all():
        x, w = x[seen], w[seen]
        if len(x) < least:
            raise ValueError(f"{len(x)} sample(s) have a weight > 0; {type(estimator).__name__} needs {least} or more")
    return x, w


def effective(w: Array) -> float:
    r"""Kish's effective number of rows $1/\sum_i w_i^2$ of shares w: n where they are equal."""
    return float(1 / (w @ w))


def names_of(estimator: BaseEstimator, d: int) -> list[str]:
    """The names of the columns: those of the data frame, else x1, x2, …"""
    known: Sequence[str] | None = getattr(estimator, "feature_names_in_", None)
    return [str(name) for name in known] if known is not None else [f"x{j + 1}" for j in range(d)]


def _half_precision(X: Any) -> bool:
    if hasattr(X, "dtypes") and not hasattr(X, "dtype"):  # a data frame: one dtype per column
        return any(dtype == np.float16 for dtype in X.dtypes)
    return getattr(X, "dtype", None) == np.float16
