r"""Graphical models by score matching: a quadratic in a symmetric matrix, restricted to a graph or penalised.

The mean objective of a pairwise model falls into columns that share entries by symmetry only,

$$ J(K) = \sum_j \left( \tfrac12 k_j^\top \Gamma_j k_j - g_j^\top k_j \right), \qquad
   K = (k_1, \dots, k_d) = K^\top . $$

For the Gaussian $\Gamma_j = S$ and $g_j = e_j$, so that $J = \tfrac12 \operatorname{tr} KSK - \operatorname{tr} K$; for
other laws see `scorefield.estimators.nonnegative`. The penalty is $\lambda \sum_{i \ne j} |K_{ij}|$, both triangles
counted, so that the minimiser is told by (KKT), with $R_{ij} = (\Gamma_j k_j - g_j)_i$,

$$ R_{ii} = 0, \qquad R_{ij} + R_{ji} = -2\lambda \operatorname{sign} K_{ij} \text{ where } K_{ij} \ne 0, \qquad
   |R_{ij} + R_{ji}| \le 2\lambda \text{ elsewhere.} $$
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, cg

from scorefield.checks import check_between, check_choice, check_count, check_non_negative
from scorefield.estimators.validation import Array, effective

Index = NDArray[np.intp]
SELECT = ("ebic", "cv")
_TOLERANCE = 1e-10  # of the KKT conditions, relative to g
_SWEEPS = 1000
NO_ERRORS = (
    "an l1 penalty shrinks the estimate and chooses its graph: fit with penalty=0 and pattern=model.pattern_, to rows "
    "that did not choose the graph"
)


class Slots(NamedTuple):
    """Parameters as entries of columns: parameter k stands at (column, row) twice, with the factor `half`."""

    column: Index
    row: Index
    half: Array


@dataclass(frozen=True)
class Columns:
    r"""The quadratic J: $\Gamma_j$, (d, m, m), and $g_j$, (d, m); m = d, or more with parameters beside K."""

    forms: Array
    pull: Array

    def objective(self, K: Array) -> float:
        """J of the columns of K, (m, d)."""
        return float(np.sum(K.T * (self.slopes(K) - self.pull)) / 2)

    def slopes(self, K: Array) -> Array:
        r"""$\Gamma_j k_j - g_j$, one per row j, (d, m)."""
        if self.forms.strides[0] == 0:  # one for all columns
            return K.T @ self.forms[0] - self.pull
        return np.matmul(self.forms, K.T[:, :, None])[:, :, 0] - self.pull

    def system(self, slots: Slots) -> tuple[Array, Array]:
        """The Hessian (k, k) and the linear term (k,) of J in the parameters."""
        total, pull = 0.0, 0.0
        for c, r in zip(slots.column, slots.row, strict=True):
            pull = pull + slots.half * self.pull[c, r]
            for e, s in zip(slots.column, slots.row, strict=True):
                total = total + (c[:, None] == e) * self.forms[c[:, None], r[:, None], s]
        return np.asarray(total) * np.outer(slots.half, slots.half), np.asarray(pull)


def slots_of(allowed: Array) -> Slots:
    """The upper triangle of a symmetric pattern, row by row."""
    i, j = np.nonzero(np.triu(allowed))
    return Slots(np.array([j, i]), np.array([i, j]), np.where(i == j, 0.5, 1.0))


class Moments(Protocol):
    """What a model knows of some rows."""

    def columns(self, multiplier: float) -> Columns:
        r"""J on these rows, with the diagonals of $\Gamma_j$ multiplied."""
        ...

    def unit(self) -> float:
        """Variance over curvature of an edge's gradient at the empty graph, meant over the edges."""
        ...

    def held_out(self, K: Array, test: Any) -> float:
        """The objective on other rows of what was fitted on these."""
        ...


@dataclass(frozen=True)
class Path:
    """An l1 path: penalties from the largest, estimates (m, d, d), their numbers of edges, the criterion (or nan)."""

    penalties: Array
    precisions: Array
    edges: Array
    criterion: Array


def descend(columns: Columns, penalty: float, allowed: Array, start: Array) -> Array:
    r"""Minimise $J + \lambda\sum_{i\ne j}|K_{ij}|$ over symmetric K by coordinate descent on an active set.

    Entries without a common column do not see each other, so that they move together, round by round. Once the signs
    have settled their linear system is solved, so that the KKT conditions hold to rounding.

    Args:
        columns: J, with m = d.
        penalty: $\lambda \ge 0$.
        allowed: which entries may differ from 0, (d, d), symmetric, with its diagonal.
        start: a symmetric matrix to start from.

    Returns:
        K, (d, d).

    Raises:
        ValueError: no minimum is reached; then J has none, and a diagonal multiplier is missing.
    """
    forms, K = columns.forms, np.where(allowed, start, 0.0)
    curve = np.einsum("jii->ij", forms)
    own = np.eye(len(K), dtype=bool)
    curve, limit = curve + curve.T * ~own, 2 * penalty * ~own
    scale, rounds = float(np.abs(columns.pull).max()), tournament(len(K))
    goal, done = 1e-3, 0
    while done < _SWEEPS:
        slopes = columns.slopes(K)
        worst, active = _kkt(slopes, K, limit, allowed)
        if worst <= _TOLERANCE * scale:
            return K
        exact = _settle(columns, K, limit, own | (active & (K != 0))) if goal < 1e-3 else None
        if exact is not None and (np.sign(exact) == np.sign(K)).all():
            if _kkt(columns.slopes(exact), exact, limit, allowed)[0] <= _TOLERANCE * scale:
                return exact
        turns: list[tuple[Index, Index]] = [(i[on], j[on]) for i, j in rounds if (on := active[i, j]).any()]
        for _ in range(1 + 20 * len(K)):
            moved, done = 0.0, done + 1
            for i, j in turns:
                old, bend = K[i, j], curve[i, j]
                target = old * bend - np.where(i == j, slopes[i, i], slopes[j, i] + slopes[i, j])
                new = np.sign(target) * np.maximum(np.abs(target) - limit[i, j], 0.0) / bend
                step = new - old
                K[i, j] = K[j, i] = new
                slopes[j] += step[:, None] * forms[j, i]
                if i[0] != j[0]:
                    slopes[i] += step[:, None] * forms[i, j]
                moved = max(moved, float(np.abs(step * bend).max()))
            if not moved > goal * scale:  # also where it overflows
                break
        if not np.isfinite(K).all():
            break
        goal = max(goal / 10, _TOLERANCE / 10)
    raise ValueError(
        f"the l1 fit at penalty {penalty:.4g} does not converge: with as many columns as rows or dependent columns the "
        "objective has no minimum; give a larger penalty or a multiplier > 1, and columns of like size"
    )


def tournament(d: int) -> list[tuple[Index, Index]]:
    """The diagonal, then all pairs in rounds in which each of d columns meets one other at most."""
    players = np.append(np.arange(d), np.full(d % 2, d))  # one sits out
    rounds: list[tuple[Index, Index]] = [(np.arange(d), np.arange(d))]
    for _ in range(len(players) - 1):
        half = len(players) // 2
        i, j = np.sort([players[:half], players[: half - 1 : -1]], axis=0)
        rounds.append((i[j < d], j[j < d]))
        players = np.concatenate([players[:1], np.roll(players[1:], 1)])
    return rounds


def _kkt(slopes: Array, K: Array, limit: Array, allowed: Array) -> tuple[float, NDArray[np.bool_]]:
    """The largest violation of the KKT conditions, and the entries that are active or should be."""
    full = np.where(np.eye(len(K), dtype=bool), slopes, slopes + slopes.T)
    gap = np.where(K != 0, np.abs(full + limit * np.sign(K)), np.maximum(np.abs(full) - limit, 0.0))
    gap = np.where(allowed, gap, 0.0)
    return float(gap.max()), allowed & ((K != 0) | (gap > 0))


def _settle(columns: Columns, K: Array, limit: Array, graph: Array) -> Array | None:
    """The stationary point with the signs of K on a graph, by conjugate gradients; None where they do not converge."""
    i, j = np.nonzero(np.triu(graph))
    off, sign, zero = i != j, np.sign(K[i, j]), np.zeros_like(K)

    def full(theta: Array) -> Array:
        out = zero.copy()
        out[i, j] = out[j, i] = theta
        return out

    def gradient(theta: Array) -> Array:
        slopes = columns.slopes(full(theta))
        return slopes[i, j] + np.where(off, slopes[j, i], 0.0)

    offset = gradient(zero[i, j])
    curve = columns.forms[j, i, i] + np.where(off, columns.forms[i, j, j], 0.0)
    root = np.sqrt(curve)  # columns scaled to a curvature of 1
    how: Any = {"shape": (len(i), len(i)), "matvec": lambda v: (gradient(v / root) - offset) / root, "dtype": float}
    right = (-offset - limit[i, j] * sign) / root
    theta, failed = cg(LinearOperator(**how), right, K[i, j] * root, rtol=1e-13, maxiter=10 * len(K) + 200)
    return None if failed else full(theta / root)


def empty_graph(columns: Columns) -> tuple[Array, float]:
    """The diagonal minimiser, and the smallest penalty that leaves every edge out.

    Raises:
        ValueError: moments that overflow; a constant column.
    """
    own = np.arange(len(columns.pull))
    curve = columns.forms[own, own, own]
    if not (np.isfinite(columns.forms).all() and np.isfinite(columns.pull).all()):
        raise ValueError("the moments of X overflow in float64; rescale its columns")
    if not (curve > 0).all():
        j = int((curve > 0).argmin())
        raise ValueError(
            f"column {j} of X is constant, or too small to be squared: its precision is infinite; drop or rescale it"
        )
    K = np.diag(columns.pull[own, own] / curve)
    slopes = columns.slopes(K)
    both = np.abs(slopes + slopes.T) / 2
    np.fill_diagonal(both, 0.0)
    return K, float(both.max())


def follow(columns: Columns, penalties: Array, allowed: Array) -> Array:
    """Estimates at decreasing penalties, each from the one before, (m, d, d)."""
    K, out = empty_graph(columns)[0], []
    for penalty in penalties:
        K = descend(columns, float(penalty), allowed, K)
        out.append(K.copy())
    return np.array(out)


def ebic(columns: Columns, precisions: Array, n: float, gamma: float, unit: float) -> Array:
    r"""The extended Bayesian information criterion of each estimate's graph: lower is better.

    $$ 2n\,J(\hat K_E) / u + |E| \log n + 4\gamma |E| \log d $$

    $\hat K_E$ is refitted on the graph without the penalty, so that shrinkage is not taken for misfit; inf where the
    rows do not determine it. J is no log-likelihood and has a unit. It is divided by u, the variance of a gradient over
    its curvature, meant over the pairs of columns at the empty graph, so that an edge between independent columns
    gains about $\chi^2_1$, as by minus twice a log-likelihood. Then a common unit of the columns does not matter.

    Source: Lin, Drton & Shojaie 2016, with u = 1 and without the refit, which is Yu, Drton & Shojaie's (2019).
    """
    own = np.eye(len(columns.pull), dtype=bool)
    refitted = [_settle(columns, K, np.zeros_like(K), (K != 0) | own) for K in precisions]
    values = np.array([np.inf if K is None else columns.objective(K) for K in refitted])
    return 2 * n * values / unit + edges_of(precisions) * (np.log(n) + 4 * gamma * np.log(len(own)))


def edges_of(precisions: Array) -> Array:
    """How many edges each matrix has."""
    return (np.triu(precisions, 1) != 0).sum((-2, -1))


def diagonal_multiplier(n: float, d: int) -> float:
    r"""$2 - (1 + 4e \max(6 \log d / n, \sqrt{6 \log d / n}))^{-1}$ where n <= d, else 1.

    Source: Yu, Drton & Shojaie 2019, section 4.
    """
    if n > d:
        return 1.0
    ratio = 6 * np.log(d) / n
    return float(2 - 1 / (1 + 4 * np.e * max(ratio, np.sqrt(ratio))))


@dataclass(frozen=True)
class Search:
    """How a graph is found: settings shared by the graphical models, checked."""

    penalty: Any
    multiplier: Any
    gamma: float
    folds: int
    count: int
    ratio: float | None

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if isinstance(self.penalty, str):
            check_choice("penalty", self.penalty, SELECT)
        elif self.penalty is not None:
            check_non_negative("penalty", self.penalty)
        if self.multiplier is not None:
            check_between("multiplier", self.multiplier, 1.0, 1e6)
        check_non_negative("gamma", self.gamma)
        for name, least in (("folds", 2), ("count", 1)):
            value = getattr(self, name)
            check_count(name, int(value) if isinstance(value, np.integer) else value, least=least)
        if self.ratio is not None:
            check_between("ratio", self.ratio, 1e-6, 1.0)

    def run(self, moments: Callable[[Array, Array], Moments], x: Array, w: Array, allowed: Array) -> tuple[Array, Path]:
        """The chosen estimate, and the path that it stands on."""
        known = moments(x, w)
        columns = known.columns(self._factor(w, x.shape[1]))
        penalties = self._penalties(columns, effective(w))
        precisions = follow(columns, penalties, allowed)
        if self.penalty == "cv":
            criterion = self._held_out(moments, x, w, allowed, penalties)
        elif self.penalty == "ebic":
            criterion = ebic(columns, precisions, effective(w), self.gamma, known.unit())
        else:
            criterion = np.full(len(penalties), np.nan)
        return precisions[_best(criterion)], Path(penalties, precisions, edges_of(precisions), criterion)

    def _factor(self, w: Array, d: int) -> float:
        return diagonal_multiplier(effective(w), d) if self.multiplier is None else float(self.multiplier)

    def _penalties(self, columns: Columns, n: float) -> Array:
        if not isinstance(self.penalty, str):
            return np.array([float(self.penalty)])
        noise = np.sqrt(np.log(len(columns.pull)) / n)
        ratio = np.clip(noise / 5, 1e-3, 0.2) if self.ratio is None else self.ratio
        return np.unique(empty_graph(columns)[1] * np.geomspace(1, ratio, self.count))[::-1]

    def _held_out(self, moments: Any, x: Array, w: Array, allowed: Array, penalties: Array) -> Array:
        """Mean objective on the rows i, i + folds, … under fits to the others, weighted by their shares."""
        if len(x) < 2 * self.folds:
            raise ValueError(f"{self.folds} folds need {2 * self.folds} rows or more, got {len(x)}; give fewer folds")
        total, part = np.zeros(len(penalties)), np.arange(len(x)) % self.folds
        for k in range(self.folds):
            test = part == k
            share = w[test].sum()
            fitted, seen = moments(x[~test], w[~test] / (1 - share)), moments(x[test], w[test] / share)
            columns = fitted.columns(self._factor(w[~test] / (1 - share), x.shape[1]))
            total += share * np.array([fitted.held_out(K, seen) for K in follow(columns, penalties, allowed)])
        return total


def _best(criterion: Array) -> int:
    """The place of the smallest value; of those equal to rounding, as eBIC's of one graph, the least shrunk."""
    if np.isnan(criterion).any() or not np.isfinite(criterion.min()):
        return 0
    return int(np.flatnonzero(criterion <= criterion.min() + 1e-9 * abs(criterion.min()))[-1])


def pattern_of(pattern: Any, d: int) -> Array:
    """Which entries of K may differ from 0; all where None.

    Raises:
        ValueError: not a symmetric table of d columns.
    """
    if pattern is None:
        return np.ones((d, d), dtype=bool)
    allowed = np.asarray(pattern)
    if allowed.shape != (d, d):
        raise ValueError(f"pattern must have shape ({d}, {d}), one row and column per column of X, got {allowed.shape}")
    allowed = allowed != 0
    if (allowed != allowed.T).any():
        i, j = (int(k) for k in np.argwhere(allowed != allowed.T)[0])
        raise ValueError(f"pattern must be symmetric: an edge ({i}, {j}) is also ({j}, {i})")
    return allowed | np.eye(d, dtype=bool)
