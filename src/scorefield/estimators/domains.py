r"""Where data may lie, and the weight that makes score matching right there.

On a domain with a boundary, integration by parts leaves a boundary term, and the plain objective is biased unless the
density and its flux vanish there. With a weight $h(x) \ge 0$, one number per coordinate, that vanishes at the boundary,

$$ \tfrac12\,\mathbb E \sum_j h_j (s_j - \partial_j \log p)^2
   = \mathbb E \sum_j \left[ \tfrac12 h_j s_j^2 + h_j\,\partial_j s_j + (\partial_j h_j)\, s_j \right] + C . $$

**Conventions differ.** Here h multiplies the *squared* difference, as in Yu, Drton & Shojaie 2019 and in Liu, Kanamori
& Williams 2022 (their g). Hyvärinen 2007 and Scealy & Wood 2023 put a weight inside the square: theirs is $\sqrt h$, so
that Hyvärinen's x is our `"x2"`, and Scealy & Wood's h² is our h.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scorefield.checks import check_choice, check_positive
from scorefield.estimators.validation import Array

Scalar = Callable[[Tensor], Tensor]  # (B, d) -> (B,)
Weigh = Callable[[Tensor], tuple[Tensor, Tensor]]  # x -> h and its derivatives, both (B, d)
WEIGHTS = ("default", "x2", "distance", "plain")


@dataclass(frozen=True)
class Region:
    r"""A domain for data of d columns, with the weight of the objective.

    Args:
        name: the domain in words.
        low: lower ends of the coordinates, (d,), -inf where there are none.
        high: upper ends, (d,), inf where there are none.
        distance: to the boundary, (B, d) -> (B,), negative outside; None on the whole space.
        weigh: x (B, d) -> h and $\partial_j h_j$, both (B, d); None is the plain objective, h = 1.
        bounded: whether the domain is known to be bounded.
    """

    name: str
    low: Array
    high: Array
    distance: Scalar | None
    weigh: Weigh | None
    bounded: bool

    @property
    def whole(self) -> bool:
        """Whether this is the whole space."""
        return self.distance is None

    def check(self, x: Array) -> None:
        """Refuse rows outside, and rows on the boundary under the plain objective.

        Raises:
            ValueError: such a row, named.
        """
        if self.distance is None:
            return
        gap = self.distance(torch.from_numpy(x)).numpy()
        if (gap < 0).any():
            i = int((gap < 0).argmax())
            word = "Negative values in data passed to a half-line: row" if self.name == "half-line" else "row"
            raise ValueError(
                f"{word} {i} = {_shown(x[i])} lies outside of the domain, {self.name}; drop such rows, or give "
                "the domain that the data have"
            )
        if self.weigh is None and (gap == 0).any():
            i = int((gap == 0).argmax())
            raise ValueError(
                f"row {i} = {_shown(x[i])} touches the boundary of the domain, {self.name}, where the plain objective "
                'is biased; use a weight that vanishes there, such as weight="default"'
            )

    def inside(self, x: Tensor) -> Tensor:
        """Whether rows (B, d) lie strictly within, (B,)."""
        return x.isfinite().all(1) if self.distance is None else self.distance(x) > 0


def region_of(domain: Any, weight: Any, d: int) -> Region:
    r"""Read a domain and a weight, as the estimators take them, for data of d columns.

    | domain | the set | default weight |
    |---|---|---|
    | `"real"` | all of $\mathbb R^d$ | none |
    | `"half-line"` | $x_j \ge 0$ for every j | $h_j = x_j$ |
    | `("interval", a, b)` | $a \le x \le b$, every column | $h_j = (x_j - a)(b - x_j)$ |
    | `("box", low, high)` | its product; ends may be infinite | the same per coordinate, or the one finite factor |
    | `("ball", centre, radius)` | $\|x - c\| \le r$ | $h_j = r^2 - \|x - c\|^2$, all j |
    | `("polygon", vertices)` | d = 2, simple, in order | convex: product of distances to the sides; else the distance |
    | callable (B, d) -> (B,) | where it is >= 0: the distance to the boundary, or what vanishes there | itself, all j |

    Weights by name: `"default"` or None; `"x2"`, the square of the default; `("min", c)`, $\min(u_j, c)$ with $u_j$ the
    distance to the nearer end along coordinate j (in other domains the distance to the boundary); `"distance"`, the
    distance to the boundary, the same for all j; `"plain"`, $h = 1$: right only where the density vanishes at the
    boundary; or a torch callable (B, d) -> (B, d), differentiated by autodiff.

    Args:
        domain: one of the above.
        weight: one of the above.
        d: number of columns.

    Returns:
        the region.

    Raises:
        ValueError: an unknown name, ends in the wrong order or number, a radius that is not > 0, fewer than three
            vertices or crossing sides, a weight by name on the whole space.

    Source: Hyvärinen 2007 (x²); Yu, Drton & Shojaie 2019 (min(x, c)); Liu, Kanamori & Williams 2022 (distance).
    """
    ends = np.full(d, -np.inf), np.full(d, np.inf)
    if isinstance(domain, str):
        check_choice("domain", domain, ("real", "half-line"))
        if domain == "half-line":
            return _box("half-line", np.zeros(d), ends[1], weight)
        if callable(weight):
            return Region("real", *ends, None, _own(weight), bounded=False)
        if weight not in (None, "default", "plain"):
            raise ValueError(f'weight {weight!r} needs a domain with a boundary; give one, or weight=None on "real"')
        return Region("real", *ends, None, None, bounded=False)
    if callable(domain):
        distance: Any = domain
        return Region("a callable", *ends, distance, _chosen(weight, distance, distance), bounded=True)
    kind, *given = domain if isinstance(domain, (tuple, list)) and domain else (domain,)
    sizes = {"interval": 2, "box": 2, "ball": 2, "polygon": 1}
    if kind not in sizes or len(given) != sizes[kind]:
        raise ValueError(
            'domain must be "real", "half-line", ("interval", a, b), ("box", low, high), ("ball", centre, radius), '
            f'("polygon", vertices) or a callable distance to the boundary, got {domain!r}'
        )
    if kind == "ball":
        return _ball(_vector("centre", given[0], d), float(given[1]), weight)
    if kind == "polygon":
        return _polygon(np.asarray(given[0], dtype=np.float64), d, weight)
    low, high = _vector("low", given[0], d), _vector("high", given[1], d)
    if not (low < high).all():
        raise ValueError(f"a domain's lower ends must lie below its upper ends, got {given[0]!r} and {given[1]!r}")
    return _box(f"{kind} from {_shown(low)} to {_shown(high)}", low, high, weight)


def _box(name: str, low: Array, high: Array, weight: Any) -> Region:
    a, b = torch.from_numpy(low), torch.from_numpy(high)
    below, above = a.isfinite(), b.isfinite()

    def along(x: Tensor) -> Tensor:  # distance to the nearer end, per coordinate
        return torch.minimum(x - a, b - x)

    def smooth(x: Tensor) -> Tensor:
        return torch.where(below, x - a, 1.0) * torch.where(above, b - x, 1.0)

    def distance(x: Tensor) -> Tensor:
        return along(x).amin(1)

    bounded = bool((below & above).all())
    if not (below.any() or above.any()):
        return Region("real", low, high, None, None, bounded=False)
    if callable(weight) or (isinstance(weight, str) and weight in ("distance", "plain")):
        weigh = _chosen(weight, distance, distance)
    elif isinstance(weight, (tuple, list)):
        c = _cap(weight)
        weigh = _elementwise(lambda x: along(x).clamp(max=c))
    else:
        check_choice("weight", "default" if weight is None else weight, WEIGHTS)
        weigh = _elementwise((lambda x: smooth(x) ** 2) if weight == "x2" else smooth)
    return Region(name, low, high, distance, weigh, bounded)


def _ball(centre: Array, radius: float, weight: Any) -> Region:
    check_positive("radius", radius)
    c = torch.from_numpy(centre)

    def distance(x: Tensor) -> Tensor:
        return radius - torch.linalg.vector_norm(x - c, dim=1)

    def smooth(x: Tensor) -> Tensor:
        return radius**2 - ((x - c) ** 2).sum(1)

    name = f"ball of radius {radius:g} around {_shown(centre)}"
    return Region(name, centre - radius, centre + radius, distance, _chosen(weight, smooth, distance), bounded=True)


def _polygon(vertices: Array, d: int, weight: Any) -> Region:
    if d != 2 or vertices.ndim != 2 or vertices.shape[1] != 2 or len(vertices) < 3 or not np.isfinite(vertices).all():
        raise ValueError(
            f"a polygon is for 2 columns and has 3 or more vertices (m, 2), got {d} column(s) and {vertices.shape}"
        )
    ends = np.roll(vertices, -1, axis=0)
    area = float(np.sum(vertices[:, 0] * ends[:, 1] - vertices[:, 1] * ends[:, 0])) / 2
    if area < 0:
        vertices, ends = vertices[::-1].copy(), np.roll(vertices[::-1], -1, axis=0)
    if area == 0 or _crosses(vertices, ends):
        raise ValueError("the sides of a polygon must enclose an area and not cross; give its vertices in order")
    start, side = torch.from_numpy(vertices), torch.from_numpy(ends - vertices)
    length = torch.linalg.vector_norm(side, dim=1)
    inward = torch.stack([-side[:, 1], side[:, 0]], dim=1) / length[:, None]

    def lines(x: Tensor) -> Tensor:  # signed distances to the sides' lines, (B, m)
        return x @ inward.T - (start * inward).sum(1)

    def distance(x: Tensor) -> Tensor:
        from_start = x[:, None] - start
        along = ((from_start * side).sum(2) / length**2).clamp(0, 1)
        gap = torch.linalg.vector_norm(from_start - along[..., None] * side, dim=2).amin(1)
        rises = (start[:, 1] <= x[:, 1, None]) & (x[:, 1, None] < start[:, 1] + side[:, 1])
        falls = (start[:, 1] > x[:, 1, None]) & (x[:, 1, None] >= start[:, 1] + side[:, 1])
        left = lines(x) > 0
        winding = (rises & left).sum(1) - (falls & ~left).sum(1)
        return torch.where(winding != 0, gap, -gap)

    turns = side[:, 0] * side.roll(-1, 0)[:, 1] - side[:, 1] * side.roll(-1, 0)[:, 0]
    convex = bool((turns > 0).all())
    name = f"polygon of {len(vertices)} vertices"
    smooth = (lambda x: lines(x).prod(1)) if convex else distance
    low, high = vertices.min(0), vertices.max(0)
    return Region(name, low, high, distance, _chosen(weight, smooth, distance), bounded=True)


def _crosses(start: Array, end: Array) -> bool:
    """Whether two sides that are not neighbours meet."""

    def turn(p: Array, q: Array, r: Array) -> float:
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])

    m = len(start)
    for i in range(m):
        for j in range(i + 2, m - (i == 0)):
            a, b, c, e = start[i], end[i], start[j], end[j]
            if turn(a, b, c) * turn(a, b, e) <= 0 and turn(c, e, a) * turn(c, e, b) <= 0:
                return True
    return False


def _chosen(weight: Any, smooth: Scalar, distance: Scalar) -> Weigh | None:
    """The weight of a domain that has one for all coordinates."""
    if callable(weight):
        return _own(weight)
    if isinstance(weight, (tuple, list)):
        c = _cap(weight)
        return _common(lambda x: distance(x).clamp(max=c))
    check_choice("weight", "default" if weight is None else weight, WEIGHTS)
    if weight == "plain":
        return None
    if weight == "x2":
        return _common(lambda x: smooth(x) ** 2)
    return _common(distance if weight == "distance" else smooth)


def _cap(weight: Any) -> float:
    if len(weight) != 2 or weight[0] != "min":
        raise ValueError(f'a weight of two parts must be ("min", c), got {weight!r}')
    check_positive("c", weight[1])
    return float(weight[1])


def _common(g: Scalar) -> Weigh:
    """One weight for all coordinates, with its gradient."""

    def weigh(x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            value = g(at)
            if value.shape != (len(x),):
                raise ValueError(f"a distance must return one number per row, ({len(x)},), got {tuple(value.shape)}")
            (slope,) = torch.autograd.grad(value.sum(), at)
        return value.detach()[:, None].expand_as(x), slope

    return weigh


def _elementwise(h: Callable[[Tensor], Tensor]) -> Weigh:
    """Weights of which each depends on its own coordinate alone."""

    def weigh(x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            value = h(at)
            slope = torch.autograd.grad(value.sum(), at)[0] if value.requires_grad else torch.zeros_like(x)
        return value.detach(), slope

    return weigh


def _own(h: Any) -> Weigh:
    """A weight of the user's, any function of x."""

    def weigh(x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            value = h(x)
            if getattr(value, "shape", None) != x.shape:
                got = tuple(value.shape) if hasattr(value, "shape") else type(value).__name__
                raise ValueError(f"weight must return one number per coordinate, {tuple(x.shape)}, got {got}")
            if not bool((value >= 0).all()):
                raise ValueError(f"weight must be >= 0 on the data, got {value.min().item():g}")
            basis = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
            slopes = [torch.func.jvp(h, (x,), (e.expand_as(x).clone(),))[1][:, j] for j, e in enumerate(basis)]
        return value, torch.stack(slopes, dim=1)

    return weigh


def _vector(name: str, value: Any, d: int) -> Array:
    """A number per coordinate from one number or d."""
    out = np.asarray(value, dtype=np.float64)
    if out.shape not in ((), (d,)) or np.isnan(out).any():
        raise ValueError(f"{name} must be one number or {d}, one per column, got {value!r}")
    return np.broadcast_to(out, (d,)).copy()


def _shown(row: Array) -> str:
    values = ", ".join(f"{v:g}" for v in row[:4])
    return f"({values}{', …' if len(row) > 4 else ''})"
