"""Laws with known parameters as quadrature nodes: X, and the density as sample_weight."""

import numpy as np


def legendre(low, high, count=80):
    """Gauss-Legendre nodes and weights on an interval."""
    u, w = np.polynomial.legendre.leggauss(count)
    return (low + high) / 2 + (high - low) / 2 * u, (high - low) / 2 * w


def pieces(ends, count=60):
    """The same, split at the kinks."""
    parts = [legendre(a, b, count) for a, b in zip(ends[:-1], ends[1:], strict=True)]
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def product(*rules):
    """A product rule: rows (n, d) and weights."""
    grids = np.meshgrid(*(x for x, _ in rules), indexing="ij")
    weights = np.meshgrid(*(w for _, w in rules), indexing="ij")
    return np.stack([g.ravel() for g in grids], 1), np.prod([w.ravel() for w in weights], axis=0)


def disc(centre, radius, count=60):
    """Polar nodes on a disc."""
    (r, wr), angle = legendre(0, radius, count), 2 * np.pi * np.arange(2 * count) / (2 * count)
    r, wr, angle = (a.ravel() for a in np.broadcast_arrays(r[:, None], wr[:, None], angle[None]))
    return np.asarray(centre) + np.stack([r * np.cos(angle), r * np.sin(angle)], 1), wr * r * np.pi / count


def triangle(a, b, c, count=40):
    """Duffy's nodes on a triangle."""
    uv, w = product(legendre(0, 1, count), legendre(0, 1, count))
    a, b, c = map(np.asarray, (a, b, c))
    x = a + uv[:, :1] * (b - a) + uv[:, :1] * uv[:, 1:] * (c - b)
    area = (b - a)[0] * (c - a)[1] - (b - a)[1] * (c - a)[0]
    return x, w * uv[:, 0] * abs(area)


def stacked(*rules):
    """Several rules together."""
    return np.concatenate([x for x, _ in rules]), np.concatenate([w for _, w in rules])


def l_shape(count=40):
    """The L of three unit squares, split where the distance to its boundary has kinks, one of which is a parabola."""
    corner = 2 - np.sqrt(2)  # below the diagonal the distance is y, or that to the inner corner (1, 1)
    (x, wx), (v, wv) = legendre(corner, 1, count), legendre(0, 1, count)
    top = ((1 - x) ** 2 + 1) / 2
    under = np.stack([np.repeat(x, count), np.outer(top, v).ravel()], 1), np.outer(wx * top, wv).ravel()
    (angle, wa), (u, wu) = legendre(np.pi / 4, np.pi / 2, count), legendre(0, 1, count)
    reach = 1 / (1 + np.sin(angle))
    r = np.outer(reach, u)
    around = 1 - np.stack([(r * np.cos(angle)[:, None]).ravel(), (r * np.sin(angle)[:, None]).ravel()], 1)
    near = around, (np.outer(wa * reach, wu) * r).ravel()
    middle = (1.5, 0.5)
    arm = [((1, 0), (2, 0), middle), ((1, 0), middle, (1, 0.5)), ((2, 0), (2, 1), middle)]
    arm += [((1, 1), (2, 1), middle), ((1, 1), middle, (1, 0.5))]
    lower = stacked(triangle((0, 0), (corner, 0), (corner, corner)), under, near, *(triangle(*t) for t in arm))
    return stacked(lower, (lower[0][:, ::-1], lower[1]))


MEAN, PRECISION = np.array([0.4, -0.2]), np.array([[1.5, 0.4], [0.4, 2.0]])


def gaussian(x, mean=MEAN, precision=PRECISION):
    """exp(-(x - mean)' P (x - mean) / 2)."""
    z = x - mean
    return np.exp(-np.einsum("ni,ij,nj->n", z, precision, z) / 2)
