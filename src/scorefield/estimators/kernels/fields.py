r"""Two kernels whose functions are vector fields, and finite sums of them: the fields that kernel estimators fit.

In coordinates divided by the bandwidth, with $k = e^{-r^2/2}$, $\delta = x - y$ and $r = \|\delta\|$,

| | diagonal | curl-free |
|---|---|---|
| $\mathcal K(x, y)$ | $k\,I$ | $\partial_x \partial_y^\top k = k\,(I - \delta\delta^\top)$ |
| $\zeta_y(x) = \sum_j \partial_{y_j} \mathcal K(x, y) e_j$ | $k\,\delta$ | $k\,\delta\,(d + 2 - r^2)$ |
| $\nabla_x \cdot \mathcal K(x, y) c$ | $-k\,\delta^\top c$ | $-k\,\delta^\top c\,(d + 2 - r^2)$ |
| $\nabla_x \cdot \zeta_y(x)$ | $k\,(d - r^2)$ | $k\,(r^4 - 2(d + 2) r^2 + d(d + 2))$ |

The second $\zeta_y$ is $\nabla_x \Delta_y k$. They reproduce: $\langle s, \mathcal K(\cdot, y) c\rangle = s(y)^\top c$
and $\langle s, \zeta_y\rangle = \nabla \cdot s(y)$. A curl-free field has the potential
$\sum_m k\,\delta^\top c_m + a_m k\,(r^2 - d)$.

Source: Zhou, Shi & Zhu 2020 (arXiv:2005.10099), section 3; there $\zeta$ has the same sign.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from scorefield.estimators.validation import Array

KERNELS = ("diagonal", "curl-free")
_ENTRIES = 1 << 21  # of a block of the matrix of kernel values


def blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices of `rows` whose product with `columns` stays below two million entries."""
    size = max(1, _ENTRIES // max(columns, 1))
    return (slice(i, min(i + size, rows)) for i in range(0, rows, size))


def square_distances(x: Array, y: Array) -> Array:
    """From the differences themselves, so that close points far from the origin keep their digits, (n, m)."""
    return np.asarray(cdist(x, y, "sqeuclidean"), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class KernelField:
    r"""The field $s(x) = \frac1\ell \sum_m \mathcal K(x, z_m)\,c_m + a_m\,\zeta_{z_m}(x)$ in coordinates $x/\ell$.

    Args:
        kernel: one of `KERNELS`.
        bandwidth: $\ell$.
        centre: what is subtracted from x before it is divided, (d,).
        points: $z$, centred and divided, (M, d).
        vectors: $c$, (M, d).
        scalars: $a$, (M,).
    """

    kernel: str
    bandwidth: float
    centre: Array
    points: Array
    vectors: Array
    scalars: Array

    def score(self, x: Array) -> Array:
        """The field at x, (n, d) -> (n, d)."""
        return self._over_blocks(x, _values) / self.bandwidth

    def divergence(self, x: Array) -> Array:
        """The trace of its Jacobian, (n, d) -> (n,)."""
        return self._over_blocks(x, _divergence) / self.bandwidth**2

    def potential(self, x: Array) -> Array:
        """The function whose gradient the curl-free field is, (n, d) -> (n,)."""
        assert self.kernel == "curl-free"
        return self._over_blocks(x, _potential)

    def _over_blocks(self, x: Array, function) -> Array:  # noqa: ANN001
        z = (x - self.centre) / self.bandwidth
        return np.concatenate([function(self, z[rows]) for rows in blocks(len(z), len(self.points))])

    def at(self, z: Array) -> Array:
        """The field in divided coordinates, (n, d) -> (n, d)."""
        return np.concatenate([_values(self, z[rows]) for rows in blocks(len(z), len(self.points))])


def _kernel(field: KernelField, z: Array) -> tuple[Array, Array, Array]:
    """Squared distances r^2, kernel values k and the products of the differences with the vectors, each (n, M)."""
    q = square_distances(z, field.points)
    along = z @ field.vectors.T - np.einsum("md,md->m", field.points, field.vectors)
    return q, np.exp(-q / 2), along


def _values(field: KernelField, z: Array) -> Array:
    q, k, along = _kernel(field, z)
    if field.kernel == "diagonal":
        outward = k * field.scalars
    else:
        outward = k * (field.scalars * (z.shape[1] + 2 - q) - along)
    return k @ field.vectors + z * outward.sum(1, keepdims=True) - outward @ field.points


def _divergence(field: KernelField, z: Array) -> Array:
    (q, k, along), d, a = _kernel(field, z), z.shape[1], field.scalars
    if field.kernel == "diagonal":
        return (k * (a * (d - q) - along)).sum(1)
    return (k * (a * (q**2 - 2 * (d + 2) * q + d * (d + 2)) - along * (d + 2 - q))).sum(1)


def _potential(field: KernelField, z: Array) -> Array:
    q, k, along = _kernel(field, z)
    return (k * (along + field.scalars * (q - z.shape[1]))).sum(1)


def features(kernel: str, z: Array, points: Array) -> tuple[Array, Array]:
    r"""All $\mathcal K(\cdot, z_m) e_j$, then all $\zeta_{z_m}$, at z: values (n, d, P) and divergences (n, P)."""
    (n, d), m = z.shape, len(points)
    apart = z[:, None, :] - points  # (n, M, d)
    q = np.square(apart).sum(2)
    k = np.exp(-q / 2)
    values, divergence = np.zeros((n, d, m * (d + 1))), np.empty((n, m * (d + 1)))
    fields = values[:, :, : m * d].reshape(n, d, m, d, copy=False)
    for i in range(d):
        fields[:, i, :, i] = k
    if kernel == "diagonal":
        bend, values[:, :, m * d :] = k, np.moveaxis(k[:, :, None] * apart, 2, 1)
        divergence[:, m * d :] = k * (d - q)
    else:
        fields -= np.einsum("nm,nmi,nmj->nimj", k, apart, apart)
        bend = k * (d + 2 - q)
        values[:, :, m * d :] = np.moveaxis(bend[:, :, None] * apart, 2, 1)
        divergence[:, m * d :] = k * (q**2 - 2 * (d + 2) * q + d * (d + 2))
    divergence[:, : m * d] = (-bend[:, :, None] * apart).reshape(n, m * d)
    return values, divergence


def gram(kernel: str, z: Array) -> Array:
    r"""The matrix of $\mathcal K(z_a, z_b)$: (n, n) for the diagonal kernel, (nd, nd) for the curl-free one."""
    q = square_distances(z, z)
    k = np.exp(-q / 2)
    if kernel == "diagonal":
        return k
    (n, d), apart = z.shape, z[:, None, :] - z
    full = np.einsum("ab,abi,abj->aibj", -k, apart, apart)
    for i in range(d):
        full[:, i, :, i] += k
    return full.reshape(n * d, n * d)
