r"""Empirical Bayes by Tweedie's formula: means estimated from the score of what was observed, without a prior.

Observed $z = \mu + \sigma \varepsilon$, $\varepsilon \sim N(0, I)$, with $\mu$ from an unknown prior, the posterior
mean needs the marginal law of z alone:

$$ \mathbb E[\mu \mid z] = z + \sigma^2 s(z), \qquad s = \nabla \log p(z) . $$
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone

from scorefield.checks import check_between, check_positive, nearest
from scorefield.estimators.kernels import KernelExponentialFamily, KernelScore
from scorefield.estimators.kernels.rows import LARGEST, SMALLEST, check_scale
from scorefield.estimators.validation import Array, check_rows_of

MARGINALS = ("gaussian", "kernel", "kernel-exponential-family")


def tweedie(
    z: Any,
    sigma: float,
    *,
    marginal: Any = "gaussian",
    centre: Any = "mean",
    positive_part: bool = False,
    random_state: Any = None,
) -> Array:
    r"""Estimate $\mathbb E[\mu \mid z]$ for every observation from all of them.

    `marginal="gaussian"` is linear shrinkage towards a centre m with the unbiased estimate of the marginal precision,

    $$ \hat\mu_i = m + \left(I - \sigma^2 (n - d - 1 - c)\, A^{-1}\right)(z_i - m), \qquad
       A = \sum_i (z_i - m)(z_i - m)^\top, $$

    c = 1 where m is the mean of z, else 0. With d = 1 it is the estimator of James & Stein,
    $1 - (n - 2)\sigma^2/\|z\|^2$ about 0, and Lindley's $n - 3$ about the mean; with d > 1 that of Efron & Morris. The
    other marginals bend: they pull towards each mode of what was observed.

    Args:
        z: observations, (n,) or, for means in d dimensions, (n, d); all with the same noise.
        sigma: the noise's standard deviation > 0.
        marginal: "gaussian"; "kernel", a `KernelScore`, and "kernel-exponential-family", both chosen by held-out rows;
            an estimator with `fit` and `score_function`, which is cloned; or a score, (n, d) -> (n, d), of arrays.
        centre: of the Gaussian marginal: "mean", or the point m that is known, a number or (d,).
        positive_part: keep the Gaussian's shrinkage factors >= 0 (in the eigenvectors of A), which is never worse.
        random_state: source of the folds of "kernel" and "kernel-exponential-family".

    Returns:
        the posterior means, shaped like z.

    Raises:
        ValueError: too few observations for the marginal, or settings out of their range.
        TypeError: a marginal that is none of the above.

    Source: Efron 2011 (JASA 106), formula by Robbins 1956 after Tweedie; James & Stein 1961; Efron & Morris 1972.
    """
    if np.ndim(sigma) != 0:
        raise ValueError("sigma must be one number for all observations; divide z by its standard deviations first")
    check_positive("sigma", sigma)
    check_between("sigma", sigma, SMALLEST, LARGEST)
    given = z if np.ndim(z) != 1 else np.asarray(z).reshape(-1, 1)
    x = check_rows_of(BaseEstimator(), given, fitting=True, caller="tweedie")
    check_scale(x)
    means = x + sigma**2 * _marginal_score(x, marginal, centre, sigma, positive_part, random_state)
    if not np.isfinite(means).all():
        raise ValueError("the posterior means are not finite; give z and sigma in other units, or another marginal")
    return means.reshape(np.shape(z))


def _marginal_score(x: Array, marginal: Any, centre: Any, sigma: float, positive: bool, random_state: Any) -> Array:
    if isinstance(marginal, str):
        if marginal == "gaussian":
            return _shrinkage(x, centre, sigma, positive)
        if marginal == "kernel":
            return KernelScore("held-out", random_state=random_state).fit(x).score_function(x)
        if marginal == "kernel-exponential-family":
            family = KernelExponentialFamily("held-out", "held-out", random_state=random_state)
            return family.fit(x).score_function(x)
        raise ValueError(
            f"marginal must be one of {', '.join(MARGINALS)}, an estimator or a score; got {marginal!r}"
            + nearest(marginal, MARGINALS)
        )
    if hasattr(marginal, "fit") and hasattr(marginal, "score_function"):
        fresh: Any = clone(marginal)
        return fresh.fit(x).score_function(x)
    if not callable(marginal):
        raise TypeError(f"marginal must be a name, an estimator or a score, got {type(marginal).__name__}")
    score = np.asarray(marginal(x), dtype=np.float64)
    if score.shape != x.shape:
        raise ValueError(f"the marginal's score must have the shape of z, {x.shape}, got {score.shape}")
    return score


def _shrinkage(x: Array, centre: Any, sigma: float, positive: bool) -> Array:
    """The score of a Gaussian with the unbiased estimate of its precision, (n, d)."""
    n, d = x.shape
    fitted = isinstance(centre, str) and centre == "mean"
    freedom = n - d - 1 - fitted
    if freedom < 1:
        raise ValueError(f"the Gaussian marginal needs at least {d + 2 + fitted} rows for {d} columns, got {n}")
    apart = x - (x.mean(0) if fitted else _point(centre, d))
    unit = float(np.abs(apart).max())
    if not unit > 0:
        raise ValueError("all observations are equal; shrinkage needs some that differ")
    values, axes = np.linalg.eigh((apart / unit).T @ (apart / unit))
    if not values[0] > 1e-13 * values[-1]:
        raise ValueError("the observations lie in a subspace; drop columns that depend on others")
    precision = freedom / values / unit**2
    if positive:
        precision = np.minimum(precision, sigma**-2)
    return -(apart @ axes * precision) @ axes.T


def _point(centre: Any, d: int) -> Array:
    """A known centre, (d,)."""
    try:
        point = np.asarray(centre, dtype=np.float64)
    except (TypeError, ValueError):
        point = np.full((), np.nan)
    if point.shape not in ((), (d,)) or not (np.abs(point) <= LARGEST).all():
        raise ValueError(f'centre must be "mean", a number or {d} of them, within 1e100, got {centre!r}')
    return np.broadcast_to(point, (d,))
