"""Estimators behind a map of their data onto a manifold, so that scikit-learn's checks can feed them any table."""

import numpy as np


def rows_mapped(X, to):
    """A table of finite numbers, mapped row by row; anything else, and one column, as it is."""
    if hasattr(X, "toarray"):
        return X
    try:
        raw = np.asarray(X)
        x = raw if np.iscomplexobj(raw) else raw.astype(np.float64)
    except (TypeError, ValueError):
        return X
    if np.iscomplexobj(x) or x.ndim != 2 or not x.size or not np.isfinite(x).all():
        return X
    x = to(x)
    return type(X)(x, columns=X.columns, index=X.index) if hasattr(X, "columns") else x


class Mapped:
    """A mixin in front of an estimator; `to` maps rows (n, d) to rows (n, d)."""

    @staticmethod
    def to(x):
        raise NotImplementedError

    def fit(self, X, y=None, sample_weight=None):
        return super().fit(rows_mapped(X, self.to), y, sample_weight)

    def score(self, X, y=None, sample_weight=None):
        return super().score(rows_mapped(X, self.to), y, sample_weight)

    def score_function(self, X):
        return super().score_function(rows_mapped(X, self.to))

    def log_density(self, X):
        return super().log_density(rows_mapped(X, self.to))
