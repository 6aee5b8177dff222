"""Operators: linear, with the adjoint that belongs to them; what they do to known images."""

import math

import pytest
import torch

from scorefield.guidance import Operator, averaged, blurred, grey, masked

SHAPE = (3, 8, 6)
MASK = torch.arange(3 * 8 * 6).reshape(SHAPE) % 3 > 0
KINDS = {
    "masked": masked(MASK),
    "blurred": blurred(1.3),
    "averaged": averaged(2),
    "grey": grey(),
    "matrix": torch.randn(5, 144, generator=torch.Generator().manual_seed(9), dtype=torch.float64),
}


def images(n: int, seed: int, shape=SHAPE) -> torch.Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", KINDS)
def test_the_adjoint_belongs_to_the_operator(name):
    """<A x, y> = <x, A^T y> for each sample, to rounding."""
    a = Operator(KINDS[name], SHAPE)
    x = images(4, 0)
    y = images(4, 1, a.observed)
    left, right = (a(x) * y).flatten(1).sum(1), (x * a.adjoint(y)).flatten(1).sum(1)
    torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


def test_a_mask_keeps_and_a_mean_averages():
    """Known values come back, the others are 0; squares of two pixels and channels are averaged."""
    x = images(2, 2)
    assert torch.equal(masked(MASK)(x)[:, MASK], x[:, MASK]) and (masked(MASK)(x)[:, ~MASK] == 0).all()
    small = averaged(2)(x)
    assert small.shape == (2, 3, 4, 3)
    torch.testing.assert_close(small[1, 2, 3, 1], x[1, 2, 6:8, 2:4].mean())
    torch.testing.assert_close(grey((2, 2, 2))(x)[:, 0], (x[:, 0] + x[:, 1] + x[:, 2]) / 3)
    eye = 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2]
    torch.testing.assert_close(grey()(x), eye[:, None], rtol=1e-12, atol=1e-12)
    y = grey()(x)
    spread = torch.stack([0.299 * y[:, 0], 0.587 * y[:, 0], 0.114 * y[:, 0]], 1)
    torch.testing.assert_close(Operator(grey(), SHAPE).adjoint(y), spread, rtol=1e-12, atol=1e-12)


def test_a_blur_is_gaussian_and_keeps_constants():
    """A point becomes exp(-r²/2w²) normalised (separable); a constant stays, up to the border."""
    point = torch.zeros(1, 1, 21, 21, dtype=torch.float64)
    point[0, 0, 10, 10] = 1
    spot = blurred(1.5)(point)[0, 0]
    weights = torch.exp(-(torch.arange(-5, 6, dtype=torch.float64) ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    torch.testing.assert_close(spot[5:16, 5:16], torch.outer(weights, weights), rtol=1e-12, atol=1e-15)
    assert spot.sum().item() == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(blurred(1.5)(torch.full((1, 2, 9, 9), 3.0)), torch.full((1, 2, 9, 9), 3.0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: masked(MASK.float()), "mask must be boolean, True where a value is known, got torch.float32"),
        (lambda: masked(torch.ones(3, dtype=torch.bool)), "got 3 of 3; nothing is left to fill in"),
        (lambda: masked(torch.zeros(3, dtype=torch.bool)), "got 0 of 3; nothing is known"),
        (lambda: blurred(0.0), "width must be a finite number > 0, got 0.0"),
        (lambda: blurred(math.nan), "width must be a finite number > 0"),
        (lambda: averaged(1), "factor must be >= 2, got 1"),
        (lambda: grey((1.0, -0.5)), r"weights must be finite numbers >= 0, not all 0, got \(1.0, -0.5\)"),
        (lambda: grey((0.0, 0.0)), "weights must be finite numbers >= 0, not all 0"),
        (lambda: grey((1.0, math.inf)), "weights must be finite numbers >= 0"),
        (lambda: grey()(torch.zeros(2, 4, 8, 8)), "weights must be one per channel, 4, got 3"),
        (lambda: Operator(torch.ones(2, 3), (4,)), r"a matrix must have shape \(M, 4\)"),
        (lambda: Operator(lambda x: x.abs(), (4,)), r"A must be linear: a random probe .* left \d"),
        (lambda: Operator(lambda x: x.sum(), (4,)), r"A must map \(B, \*D\) to \(B, \*M\), got \(\)"),
    ],
)
def test_operators_that_are_none_are_refused(make, message):
    """The value, the rule, the way out."""
    with pytest.raises(ValueError, match=message):
        make()
