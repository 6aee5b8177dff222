"""What `ScoreDensity` is given, as numbers; data frames with categories are one-hot encoded, and decoded again."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data

from scorefield.estimators.validation import Array, check_rows_of


@dataclass(frozen=True)
class Column:
    """One column of a data frame.

    Args:
        name: of the column.
        categories: its values, sorted; None for a column of numbers.
        categorical: whether the data frame calls it a category, and the decoded one should.
    """

    name: str
    categories: tuple[Any, ...] | None = None
    categorical: bool = False

    @property
    def width(self) -> int:
        """How many columns it takes, encoded."""
        return 1 if self.categories is None else len(self.categories)

    def encode(self, values: np.ndarray, *, missing: bool = False) -> np.ndarray:
        """Its values (n,) as numbers, (n, width); those that are missing, where they may be, as NaN.

        Raises:
            ValueError: a category that `fit` did not see.
        """
        if self.categories is None:
            return values.reshape(-1, 1)
        plain = values.tolist()
        absent = [_absent(value) for value in plain]
        hit = np.array(
            [
                [not gone and value == known for known in self.categories]
                for value, gone in zip(plain, absent, strict=True)
            ]
        )
        unknown = ~hit.any(1) & ~(np.array(absent) & missing)
        if unknown.any():
            i, known = int(unknown.argmax()), ", ".join(map(str, self.categories[:8]))
            raise ValueError(
                f"column {self.name!r} must hold categories seen in fit ({known}), got {values[i]!r} in row {i}; "
                "leave such rows out, or fit again with them"
            )
        return np.where(np.array(absent)[:, None], np.nan, hit)

    def decode(self, block: Array) -> np.ndarray:
        """The inverse of `encode`: the number itself, or the category whose column is largest."""
        if self.categories is None:
            return block[:, 0]
        return np.array(self.categories)[block.argmax(1)]


class Frame:
    """How the columns of a data frame become numbers.

    Args:
        columns: in their order, at least one of them categorical.
    """

    def __init__(self, columns: tuple[Column, ...]) -> None:
        self.columns = columns

    @staticmethod
    def of(X: Any) -> Frame | None:
        """What is to be encoded in X: None for arrays, and for data frames that hold nothing but numbers.

        Raises:
            ValueError: a category is missing.
        """
        if not (hasattr(X, "columns") and hasattr(X, "dtypes")):
            return None
        columns = tuple(_column(str(name), X[name]) for name in X.columns)
        return Frame(columns) if any(c.categories is not None for c in columns) else None

    def encode(self, X: Any, *, missing: bool = False) -> np.ndarray:
        """The columns as numbers, (n, d); an object array where a column of numbers holds something else."""
        return np.concatenate([c.encode(np.asarray(X[c.name]), missing=missing) for c in self.columns], axis=1)

    def decode(self, x: Array) -> Any:
        """Encoded rows (n, d) as a pandas data frame."""
        try:
            import pandas
        except ImportError as error:
            raise ImportError("data frames need pandas; pip install scorefield[data]") from error
        found, place = {}, 0
        for c in self.columns:
            values = c.decode(x[:, place : place + c.width])
            found[c.name] = pandas.Categorical(values, categories=list(c.categories or ())) if c.categorical else values
            place += c.width
        return pandas.DataFrame(found)

    @property
    def one_hot(self) -> np.ndarray:
        """Which encoded columns are one-hot, (d,)."""
        return np.repeat([c.categories is not None for c in self.columns], [c.width for c in self.columns])

    @property
    def names(self) -> list[str]:
        """Of the encoded columns: that of the column, or column=category."""
        return [name for c in self.columns for name in _names(c)]

    def to_json(self) -> list[dict[str, Any]]:
        """Plain numbers, texts and lists."""
        return [asdict(c) for c in self.columns]

    @staticmethod
    def from_json(content: list[dict[str, Any]]) -> Frame:
        """The inverse of `to_json`."""
        return Frame(
            tuple(Column(c["name"], c["categories"] and tuple(c["categories"]), c["categorical"]) for c in content)
        )


def rows(estimator: Any, X: Any, rng: np.random.RandomState, *, fitting: bool, least: int = 1) -> np.ndarray:
    """X as numbers, checked: encoded where it holds categories, and dequantised if so wished.

    Args:
        estimator: the `ScoreDensity` whose rows they are, with its `_frame`.
        X: as its `fit` takes it.
        rng: source of what dequantises.
        fitting: whether this is `fit`.
        least: how many rows are needed.

    Returns:
        rows, (n, d) or (n, C, H, W).
    """
    if estimator._frame is not None:
        validate_data(estimator, X, reset=fitting, skip_check_array=True)
        # a checker of its own: the one of all estimators knows nothing of the frame's columns
        encoded, caller = estimator._frame.encode(X), type(estimator).__name__
        x = check_rows_of(BaseEstimator(), encoded, fitting=True, least=least, caller=caller)
        return _dequantised(estimator, x, rng)
    if getattr(X, "ndim", 2) <= 2 or hasattr(X, "toarray"):
        x = check_rows_of(estimator, X, fitting=fitting, least=least)
    else:
        how: dict[str, Any] = {"dtype": "numeric", "allow_nd": True, "ensure_min_samples": least}
        x = np.asarray(validate_data(estimator, X, reset=fitting, **how))
        x = x[:, None] if x.ndim == 3 else x
    return x if fitting else _shaped(estimator, x)


def incomplete(estimator: Any, X: Any, rng: np.random.RandomState) -> Array:
    """The same for rows that may miss values, which are NaN: of a category all its columns."""
    how: dict[str, Any] = {"dtype": np.float64, "ensure_all_finite": "allow-nan", "allow_nd": True}
    if estimator._frame is not None:
        validate_data(estimator, X, reset=False, skip_check_array=True)
        return _dequantised(estimator, np.asarray(check_array(estimator._frame.encode(X, missing=True), **how)), rng)
    x = np.asarray(validate_data(estimator, X, reset=False, **how))
    return _shaped(estimator, x[:, None] if x.ndim == 3 else x)


def _dequantised(estimator: Any, x: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    return x + estimator._frame.one_hot * rng.uniform(size=x.shape) if estimator.dequantise else x


def _shaped(estimator: Any, x: np.ndarray) -> np.ndarray:
    if x.shape[1:] != estimator.shape_:
        raise ValueError(f"X must have rows of shape {estimator.shape_}, as in fit, got {x.shape[1:]}")
    return x


def _names(column: Column) -> list[str]:
    return [column.name] if column.categories is None else [f"{column.name}={value}" for value in column.categories]


def _column(name: str, series: Any) -> Column:
    values = np.asarray(series)
    categorical = str(series.dtype).lower() in ("category", "categorical", "enum")
    if not categorical and (values.dtype.kind in "iuf" or _numbers(values)):
        return Column(name)
    plain = values.tolist()
    missing = [i for i, value in enumerate(plain) if _absent(value)]
    if missing:
        raise ValueError(
            f"column {name!r} must not miss values, got {len(missing)}, the first in row {missing[0]}; leave those "
            "rows out, or give them a category of their own"
        )
    if not all(isinstance(value, (str, int, float)) for value in plain):
        bad = next(value for value in plain if not isinstance(value, (str, int, float)))
        raise TypeError(f"column {name!r} must hold numbers, texts or truth values, got {bad!r}; convert it")
    kinds = {isinstance(value, str) for value in plain}
    return Column(name, tuple(sorted(set(plain), key=str if len(kinds) > 1 else None)), categorical)


def _absent(value: Any) -> bool:
    return value is None or str(value) == "<NA>" or value != value


def _numbers(values: np.ndarray) -> bool:
    """Whether an object column holds numbers alone; missing ones are found when it is converted."""
    return values.dtype.kind == "O" and all(
        isinstance(v, (int, float, np.number)) and not isinstance(v, bool) for v in values.tolist()
    )
