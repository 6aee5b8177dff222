r"""The divergence $\operatorname{tr} \nabla_x s(x)$ of a score: exact by structure or by derivatives, or estimated."""

from __future__ import annotations

from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor

from scorefield.calculus.draws import LAWS, Generator, probe_like
from scorefield.calculus.forms import Opened, opened, summed_forms, vector_jacobian
from scorefield.calculus.scores import Score
from scorefield.checks import check_choice, check_count, check_floating, check_rows, check_score

METHODS = ("exact", "hutchinson", "hutch++")
_ROWS, _NUMBERS = 4096, 2**21  # of one batch of directions: fewer wait for calls, more for memory (measured on a CPU)


class Explanation(NamedTuple):
    """How a divergence was computed.

    `way` is a sentence; `products` counts the products with the Jacobian that each sample cost; `standard_error` (B,)
    is that of an estimate, from the spread of its probes: zero where exact, nan where there was a single probe.
    """

    way: str
    products: int
    standard_error: Tensor


@overload
def divergence(
    score: Score,
    x: Tensor,
    *,
    method: str = ...,
    probes: int = ...,
    law: str = ...,
    chunk: int | None = ...,
    explain: Literal[False] = ...,
    generator: Generator = ...,
) -> tuple[Tensor, Tensor]: ...
@overload
def divergence(
    score: Score,
    x: Tensor,
    *,
    method: str = ...,
    probes: int = ...,
    law: str = ...,
    chunk: int | None = ...,
    explain: Literal[True],
    generator: Generator = ...,
) -> tuple[Tensor, Tensor, Explanation]: ...
def divergence(
    score: Score,
    x: Tensor,
    *,
    method: str = "exact",
    probes: int = 1,
    law: str = "rademacher",
    chunk: int | None = None,
    explain: bool = False,
    generator: Generator = None,
) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Explanation]:
    r"""A score and its divergence $\operatorname{tr} \nabla_x s(x)$, differentiable again in x and in the parameters.

    * `"exact"`: the score's own `with_divergence(x) -> (s, div)` where it carries one; else $\sum_j e_j^\top \nabla_x
      s\, e_j$ over the basis: D products with the Jacobian.
    * `"hutchinson"`: $\frac1m \sum_k v_k^\top \nabla_x s\, v_k$, m products, unbiased (Hutchinson 1989).
    * `"hutch++"`: m products in three parts. With Q an orthonormal basis of the range of $(\nabla_x s)^\top S$, S m/3
      probes, $\operatorname{tr} Q^\top \nabla_x s\, Q$ is exact, and Hutchinson's estimate is left with
      $(I - QQ^\top)\, \nabla_x s\, (I - QQ^\top)$. Unbiased, exact where the rank of the Jacobian is at most m/3;
      it gains where a few eigenvalues dominate (Meyer et al. 2021).

    The score is called once. All products come from that one graph, `chunk` of them in memory at once, also where
    the result is differentiated. For that, where parameters or x require gradients and one chunk does not do, the
    gradient is found along with the value: wrap calls that want the value alone in `torch.no_grad()`, which keeps no
    graph and takes less than half of the time. Three cases keep the graph of every chunk, whatever `chunk`: x computed
    from the score's own parameters, parameters with hooks, and gradients that are differentiated again. It cannot run
    within the transforms of `torch.func`.

    Args:
        score: differentiable field, (B, *D) -> (B, *D), each row of its own point alone.
        x: points, shape (B, *D), floating point.
        method: `"exact"`, `"hutchinson"` or `"hutch++"`.
        probes: number m of products of an estimate, >= 1; for `"hutch++"` >= 3.
        law: law of the probes, `"rademacher"`, `"gaussian"` or `"sphere"` (see `probe_like`).
        chunk: how many products are taken in one batch, >= 1; 1 takes them one by one, for scores whose derivative
            cannot be batched; None is as many as make 4096 rows, or two million numbers if that is less, which is
            near the fastest for small networks on a CPU; large ones want less memory, so give less.
        explain: return an `Explanation` too.
        generator: source of the probes; the global one when None.

    Returns:
        the score (B, *D), its divergence (B,) and, if asked for, the `Explanation`.

    Raises:
        ValueError: an unknown method or law, too few probes, chunk < 1, or a score that returns another shape.
        TypeError: `x` is not floating point, or the score returned another dtype.
        RuntimeError: the score changes with x but its graph does not lead there (a constant score has divergence 0);
            its derivative cannot be batched; or torch.inference_mode is on.

    Source: Hutchinson 1989; Meyer, Musco, Musco & Woodruff 2021 (arXiv:2010.09649), algorithm 1, here for
    Jacobians that need not be symmetric.
    """
    check_floating("x", x)
    check_choice("method", method, METHODS)
    check_choice("law", law, LAWS)
    check_count("probes", probes, least=3 if method == "hutch++" else 1)
    chunk = max(1, min(_ROWS // max(len(x), 1), _NUMBERS // max(x.numel(), 1))) if chunk is None else chunk
    check_count("chunk", chunk)
    own = getattr(score, "with_divergence", None)
    if method == "exact" and own is not None:
        s, div = own(x)
        check_score(s, x)
        check_rows("the divergence", div, x)
        how = Explanation("structured: the score's own with_divergence", 0, torch.zeros_like(div))
        return (s, div, how) if explain else (s, div)
    at = opened(score, x)
    if method == "exact":
        div, how = _exact(at, chunk)
    else:
        rank = min(probes // 3, x.shape[1:].numel()) if method == "hutch++" else 0
        v = torch.stack([probe_like(x, law, generator) for _ in range(probes - rank)])
        div, how = _hutch_plus_plus(at, v, rank, chunk, law) if rank else _hutchinson(at, v, chunk, law)
    s = at.s if at.inputs is not None else at.s.detach()
    return (s, div, how) if explain else (s, div)


def _exact(at: Opened, chunk: int) -> tuple[Tensor, Explanation]:
    """The sum over the basis."""
    shape, d = at.x.shape, at.x.shape[1:].numel()

    def basis(first: int, last: int) -> Tensor:
        rows = torch.zeros(last - first, d, dtype=at.x.dtype, device=at.x.device)
        rows.diagonal(first).fill_(1)
        return rows.reshape(-1, 1, *shape[1:]).expand(-1, *shape)

    div, _ = summed_forms(at, basis, d, chunk)
    chunks = -(-d // chunk)
    way = f"exact: {d} derivatives in " + ("one batch" if chunks == 1 else f"{chunks} chunks of {chunk}")
    return div, Explanation(way, d, torch.zeros_like(div.detach()))


def _hutchinson(at: Opened, v: Tensor, chunk: int, law: str) -> tuple[Tensor, Explanation]:
    """The mean over probes (m, B, *D)."""
    total, forms = summed_forms(at, lambda first, last: v[first:last], len(v), chunk)
    return total / len(v), Explanation(f"hutchinson: {len(v)} {law} probes", len(v), _standard_error(forms))


def _hutch_plus_plus(at: Opened, v: Tensor, rank: int, chunk: int, law: str) -> tuple[Tensor, Explanation]:
    """The trace on the range of a sketch by the first `rank` probes, and the mean over the others on what is left."""
    n = len(v) - rank
    with torch.no_grad():  # any Q that does not know the other probes leaves value and gradient unbiased
        sketch = torch.cat([vector_jacobian(at.s, at.x, part) for part in v[:rank].split(chunk)])
        q = torch.linalg.qr(sketch.flatten(2).permute(1, 2, 0)).Q  # (B, d, rank)
        rest = v[rank:].flatten(2).permute(1, 2, 0)
        rest = rest - q @ (q.mT @ rest)
        both = torch.cat([q, rest / n**0.5], dim=2).permute(2, 0, 1).reshape(-1, *at.x.shape)
    div, forms = summed_forms(at, lambda first, last: both[first:last], rank + n, chunk)
    way = f"hutch++: the range of {rank} {law} probes, and {n} on the rest"
    return div, Explanation(way, 2 * rank + n, _standard_error(n * forms[rank:]))


def _standard_error(forms: Tensor) -> Tensor:
    """Of the mean over probes, (m, B) -> (B,)."""
    if len(forms) == 1:
        return torch.full_like(forms[0], float("nan"))
    return forms.std(0) / len(forms) ** 0.5
