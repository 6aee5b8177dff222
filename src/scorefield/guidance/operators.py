"""Linear operators of observations: a matrix or a torch function, with its adjoint; masks, blurs, averages, grey."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from scorefield.checks import check_count, check_positive

LUMA = (0.299, 0.587, 0.114)  # red, green and blue in the brightness an eye sees, ITU-R BT.601
LINEAR = 1e-4  # largest relative defect of A(u + v) - A(u) - A(v) that rounding in float32 explains


class Operator:
    r"""A linear map A, (B, *D) -> (B, *M), that has been tried for linearity, with its adjoint.

    Args:
        a: a matrix (M, D) acting on flattened samples, or a torch function of a batch; its adjoint then comes by
            automatic differentiation.
        shape: shape (*D) of one sample.
        like: a tensor whose dtype and device suit a function that holds tensors of its own, such as the observation;
            it is tried with such samples, or with float32 on the CPU when None.

    Raises:
        ValueError: a matrix of another width; a function that is not linear (with the defect seen), or that mixes
            samples or gives another number of them.
    """

    def __init__(
        self, a: Tensor | Callable[[Tensor], Tensor], shape: Sequence[int], *, like: Tensor | None = None
    ) -> None:
        self.shape, width = tuple(shape), math.prod(shape)
        if isinstance(a, Tensor):
            if a.ndim != 2 or a.shape[1] != width:
                raise ValueError(
                    f"a matrix must have shape (M, {width}) for samples of shape {self.shape}, got {tuple(a.shape)}"
                )
            self._matrix: Tensor | None = a
            self._function = lambda x: x.flatten(1) @ a.to(x).T
        else:
            self._matrix, self._function = None, a
        self.observed = self._tried(like)

    def __call__(self, x: Tensor) -> Tensor:
        """A x, (B, *M)."""
        return self._function(x)

    def adjoint(self, y: Tensor) -> Tensor:
        r"""$A^\top y$, (B, *D); differentiable in y."""
        if self._matrix is not None:
            return (y @ self._matrix.to(y)).reshape(len(y), *self.shape)
        with torch.enable_grad():
            at = torch.zeros((len(y), *self.shape), dtype=y.dtype, device=y.device, requires_grad=True)
            image = self._function(at)
        return torch.autograd.grad(image, at, y, create_graph=torch.is_grad_enabled() and y.requires_grad)[0]

    def _tried(self, like: Tensor | None) -> tuple[int, ...]:
        """The shape (*M) of an observation, after a random probe of linearity."""
        g, like = torch.Generator().manual_seed(0), torch.zeros(()) if like is None else like
        dtype = torch.promote_types(like.dtype, torch.float32)
        u, v = (torch.randn((2, *self.shape), generator=g).to(like.device, dtype) for _ in range(2))
        with torch.no_grad():
            zero, one, other, both = (self(x) for x in (torch.zeros_like(u), u, v, 2 * u - 3 * v))
            alone = self(u[:1])
        if both.ndim < 1 or len(both) != 2:
            raise ValueError(f"A must map (B, *D) to (B, *M), got {tuple(both.shape)} from a batch of 2")
        size = max(both.abs().max().item(), 1e-30)
        defect = max((both - 2 * one + 3 * other).abs().max().item(), zero.abs().max().item()) / size
        if not defect <= LINEAR:
            raise ValueError(
                f"A must be linear: a random probe of A(2u - 3v) - 2A(u) + 3A(v) and A(0) left {defect:.2g} of its "
                "size; use plug_in for what is not"
            )
        if (alone[0] - one[0]).abs().max() > LINEAR * size:
            raise ValueError("A must treat each sample of a batch by itself; it gave another answer for a sample alone")
        return tuple(both.shape[1:])


def masked(mask: Tensor) -> Callable[[Tensor], Tensor]:
    """Keep what is known: x where `mask` (*D) is True, 0 elsewhere.

    Raises:
        ValueError: a mask that is not boolean, or that keeps everything or nothing.
    """
    check_mask(mask)
    return lambda x: x * mask.to(x)


def check_mask(mask: Tensor) -> None:
    """Refuse a mask that is not boolean, or that keeps everything or nothing."""
    if mask.dtype != torch.bool:
        raise ValueError(f"mask must be boolean, True where a value is known, got {mask.dtype}; use mask > 0")
    kept = int(mask.sum())
    if kept in (0, mask.numel()):
        raise ValueError(
            f"mask must keep some values and not others, got {kept} of {mask.numel()}; "
            f"{'nothing is known: sample without it' if not kept else 'nothing is left to fill in'}"
        )


def blurred(width: float) -> Callable[[Tensor], Tensor]:
    """Blur images (B, C, H, W) with a Gaussian of standard deviation `width` pixels; the border repeats.

    Raises:
        ValueError: a width that is not > 0.
    """
    check_positive("width", width)
    reach = math.ceil(3 * width)
    weights = torch.exp(-(torch.arange(-reach, reach + 1, dtype=torch.float64) ** 2) / (2 * width**2))
    weights /= weights.sum()

    def blur(x: Tensor) -> Tensor:
        channels, kernel = x.shape[1], weights.to(x)
        rows = _padded(x, (0, 0, reach, reach))
        rows = functional.conv2d(rows, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
        columns = _padded(rows, (reach, reach, 0, 0))
        return functional.conv2d(columns, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)

    return blur


def _padded(x: Tensor, sides: tuple[int, int, int, int]) -> Tensor:
    return functional.pad(x, sides, mode="replicate")


def averaged(factor: int) -> Callable[[Tensor], Tensor]:
    """Shrink images (B, C, H, W) by the mean over squares of `factor` pixels: what super-resolution undoes.

    Raises:
        ValueError: a factor < 2.
    """
    check_count("factor", factor, least=2)
    return lambda x: functional.avg_pool2d(x, factor)


def grey(weights: Sequence[float] = LUMA) -> Callable[[Tensor], Tensor]:
    """The weighted mean over the channels of images (B, C, H, W), (B, 1, H, W): what colourisation undoes.

    Args:
        weights: one finite number >= 0 per channel, not all 0; divided by their sum. Those of the eye when not given.

    Raises:
        ValueError: weights out of range; once called, another number of channels.
    """
    total = sum(weights)
    if not all(w >= 0 for w in weights) or not 0 < total < math.inf:
        raise ValueError(f"weights must be finite numbers >= 0, not all 0, got {tuple(weights)}")
    parts = torch.tensor([w / total for w in weights], dtype=torch.float64)

    def mean(x: Tensor) -> Tensor:
        if x.shape[1] != len(parts):
            raise ValueError(f"weights must be one per channel, {x.shape[1]}, got {len(parts)}")
        return (x * parts.to(x).view(-1, 1, 1)).sum(1, keepdim=True)

    return mean
