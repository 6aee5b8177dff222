"""What all estimators share: the public methods, each written once, around the few that an estimator must define."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from scorefield.checks import check_count
from scorefield.estimators.validation import Array, check_rows_of, check_weights


class ScoreEstimator(BaseEstimator, ABC):
    """An estimator of a score: defines `fit`, `_rho` and `_score`; what reaches these is checked, float64 (n, d)."""

    n_features_in_: int

    def __sklearn_tags__(self) -> Any:
        """As scikit-learn has them; positive data only where the domain is the half-line."""
        tags = super().__sklearn_tags__()
        domain = getattr(self, "domain", None)
        tags.input_tags.positive_only = isinstance(domain, str) and domain == "half-line"
        return tags

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        r"""Minus the mean objective on X, for model selection: higher is better.

        The objective is the implicit one, $\tfrac12\|s\|^2 + \operatorname{tr}\nabla s$, or the form of it that the
        estimator minimises (see there). On new data, values of models with the same domain and weight are comparable;
        their differences estimate half the difference in Fisher divergence. It is no log-likelihood.

        Args:
            X: rows, (n, d).
            y: ignored.
            sample_weight: of the rows, >= 0.

        Raises:
            ValueError: the objective overflows.
        """
        check_is_fitted(self)
        x = check_rows_of(self, X, fitting=False)
        with np.errstate(over="ignore", invalid="ignore"):
            value = float(check_weights(sample_weight, len(x)) @ self._rho(x))
        if not np.isfinite(value):
            raise ValueError("the objective overflows in float64; rescale the columns of X, in fit too")
        return -value

    def score_function(self, X: Any) -> Array:
        r"""The gradient $\nabla_x \log p$ of the fitted law at the rows of X, (n, d)."""
        check_is_fitted(self)
        return self._score(check_rows_of(self, X, fitting=False))

    @abstractmethod
    def _rho(self, x: Array) -> Array:
        """The objective of each row, (n,)."""

    @abstractmethod
    def _score(self, x: Array) -> Array:
        """The score of each row, (n, d)."""


def has_density(estimator: Any) -> bool:
    """Whether an estimator's model has a log-density; one that is fitted to a bare score sets `_scores_only`."""
    if getattr(estimator, "_scores_only", False):
        raise AttributeError("the model is a score without a log-density; fit an energy for this")
    return True


class Energy(ABC):
    """A mixin for models with a log-density: defines `_log_density`."""

    @available_if(has_density)
    def log_density(self, X: Any) -> Array:
        r"""The log-density at the rows of X up to a constant, (n,); -inf outside of the domain."""
        check_is_fitted(self)
        return self._log_density(check_rows_of(self, X, fitting=False))  # pyright: ignore[reportArgumentType]

    @abstractmethod
    def _log_density(self, x: Array) -> Array:
        """Of each row, (n,)."""


class Sampled(ABC):
    """A mixin for models that can be sampled: defines `_draw`; a fit sets `_improper`, by `say_improper`."""

    _improper: str | None

    @available_if(has_density)
    def sample(self, n_samples: int = 1, random_state: Any = None) -> Array:
        """Draw from the fitted law, (n_samples, d).

        Args:
            n_samples: how many rows, >= 1.
            random_state: a seed, a `RandomState` or None; the same seed gives the same rows.

        Raises:
            RuntimeError: the fitted model has no normalising constant.
        """
        check_is_fitted(self)
        count = int(n_samples) if isinstance(n_samples, np.integer) else n_samples
        check_count("n_samples", count)
        if self._improper is not None:
            raise RuntimeError(
                f"the fitted model cannot be sampled, it has no normalising constant: {self._improper}; "
                "give more data, another domain or another model"
            )
        return self._draw(count, check_random_state(random_state))

    @abstractmethod
    def _draw(self, count: int, rng: np.random.RandomState) -> Array:
        """Rows of the fitted law, (count, d)."""
