r"""Networks and energies as score fields $s(x, t) = \nabla_x \log p_t(x)$, and what to read off them.

`ScoreModel` turns a backbone F(x, c, y) into a score, whatever F predicts; `EnergyModel` takes the gradient of a
log-density. `at` fixes the time, `given` the label, `denoise` is Tweedie's formula.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from scorefield.calculus import NoisyScore, Score, expand, score_of
from scorefield.checks import check_choice, check_positive, check_rows
from scorefield.noise import Noise

PREDICTS = ("edm", "score", "noise", "data", "velocity")


class ScoreModel(nn.Module):
    r"""A score field made of a backbone F(c_in x, c_noise, y), by what F predicts.

    With $c^2 = \alpha^2 v + \sigma^2$, $v$ = data_scale² and input $x_t / c$, $c_{noise} = \frac14\log(\sigma/\alpha)$:

    | predicts | F estimates | score |
    |---|---|---|
    | `"edm"` | the preconditioned residual | $-x/c^2 + \alpha\sqrt v\,F/(\sigma c)$ |
    | `"score"` | $\sigma\, s$ | $F/\sigma$ |
    | `"noise"` | $z$ | $-F/\sigma$ |
    | `"data"` | $x_0$ | $(\alpha F - x)/\sigma^2$ |
    | `"velocity"` | $(\alpha z - \sigma x_0)/r$, $r^2 = \alpha^2+\sigma^2$ | $-x/r^2 - \alpha F/(\sigma r)$ |

    Args:
        network: backbone (x, c, y) -> tensor shaped like x.
        noise: the schedule.
        predicts: what the network estimates.
        data_scale: standard deviation of the data, > 0.

    Source: Karras et al. 2022 (arXiv:2206.00364), table 1 and appendix B.6, for any alpha and sigma; velocity:
    Salimans & Ho 2022 (arXiv:2202.00512), normalised for schedules that do not preserve the variance.
    """

    def __init__(self, network: nn.Module, noise: Noise, predicts: str = "edm", data_scale: float = 1.0) -> None:
        super().__init__()
        check_choice("predicts", predicts, PREDICTS)
        check_positive("data_scale", data_scale)
        self.network, self.noise, self.predicts, self.data_scale = network, noise, predicts, data_scale

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """The score at x (B, *D), times t (B,) or () and labels y (B,), -1 for no label; shape (B, *D)."""
        c_in, keep, gain, c_noise = self._coefficients(x, t)
        return expand(keep, x) * x + expand(gain, x) * self.network(expand(c_in, x) * x, c_noise, y).to(x.dtype)

    @property
    def with_divergence(self) -> Callable[..., tuple[Tensor, Tensor]]:
        """(x, t, y) -> the score (B, *D) and its exact divergence (B,); there where the network knows its own trace."""
        if not hasattr(self.network, "with_trace"):
            raise AttributeError(f"{type(self.network).__name__} has no with_trace")
        return self._with_divergence

    def _with_divergence(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        c_in, keep, gain, c_noise = self._coefficients(x, t)
        out, trace = self.network.with_trace(expand(c_in, x) * x, c_noise, y)  # pyright: ignore[reportCallIssue]
        divergence = keep.to(x) * x[0].numel() + (gain * c_in).to(x) * trace.to(x.dtype)
        return expand(keep, x) * x + expand(gain, x) * out.to(x.dtype), divergence

    def _coefficients(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """c_in, keep and gain of s = keep x + gain F(c_in x, c_noise, y), float64 (B,), and c_noise like `x`."""
        t = t.expand(len(x)) if t.ndim == 0 else t
        check_rows("t", t, x, "one time per sample")
        alpha, sigma = self.noise.alpha(t).double(), self.noise.sigma(t).double()
        c = (alpha**2 * self.data_scale**2 + sigma**2).sqrt()
        r = (alpha**2 + sigma**2).sqrt()
        keep, gain = {
            "edm": lambda: (-1 / c**2, alpha * self.data_scale / (sigma * c)),
            "score": lambda: (torch.zeros_like(sigma), 1 / sigma),
            "noise": lambda: (torch.zeros_like(sigma), -1 / sigma),
            "data": lambda: (-1 / sigma**2, alpha / sigma**2),
            "velocity": lambda: (-1 / r**2, -alpha / (sigma * r)),
        }[self.predicts]()
        return 1 / c, keep, gain, (torch.log(sigma / alpha) / 4).to(x)

    def residual_weight(self, t: Tensor) -> Tensor:
        r"""The weight $\sigma^2 c^2/(\alpha^2 v)$ under which denoising trains F against targets of unit variance.

        EDM's $\lambda(\sigma)$, written for the score (Karras et al. 2022, equation 8).
        """
        return self.noise.residual_weight(t, self.data_scale)


class EnergyModel(nn.Module):
    r"""A log-density $-E(x, t)$ given by a network with one output per sample; calling it gives the score.

    This is the one place where the sign of an energy is flipped: the network returns the energy E.

    Args:
        network: (x) or (x, t) or (x, t, y) -> energies (B,) or (B, 1), by what it is called with.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def log_density(self, x: Tensor, t: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        """Minus the energy, known up to a constant, shape (B,)."""
        given = (x,) if t is None else (x, t.expand(len(x)) if t.ndim == 0 else t)
        energy = self.network(*given) if y is None else self.network(*given, y)
        energy = energy[:, 0] if energy.ndim == 2 and energy.shape[1] == 1 else energy
        check_rows("the energy", energy, x)
        return -energy

    @property
    def with_divergence(self) -> Callable[..., tuple[Tensor, Tensor]]:
        """(x, t, y) -> the score (B, *D) and its exact divergence (B,); there where the network knows its Laplacian."""
        if not hasattr(self.network, "with_laplacian"):
            raise AttributeError(f"{type(self.network).__name__} has no with_laplacian")
        return self._with_divergence

    def _with_divergence(self, x: Tensor, t: Tensor | None = None, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        t = t.expand(len(x)) if t is not None and t.ndim == 0 else t
        _, gradient, laplacian = self.network.with_laplacian(x, t, y)  # pyright: ignore[reportCallIssue]
        return -gradient, -laplacian

    def forward(self, x: Tensor, t: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        """The score: the gradient of the log-density in x, shape (B, *D)."""
        return score_of(lambda at: self.log_density(at, t, y))(x)


class At:
    """A noise-conditional score at one time; forwards the log-density and the divergence where they exist."""

    def __init__(self, score: NoisyScore, t: Tensor | float) -> None:
        self._score = score
        self._t = t if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64)
        for name in ("log_density", "with_divergence"):
            if hasattr(score, name):
                method = getattr(score, name)
                setattr(self, name, lambda x, method=method: method(x, self._t.to(x.device)))

    def __call__(self, x: Tensor) -> Tensor:
        """The score at x (B, *D) and the fixed time."""
        return self._score(x, self._t.to(x.device))


def at(score: NoisyScore, t: Tensor | float) -> Score:
    """The score at one time `t`, () or (B,), as a plain score (B, *D) -> (B, *D)."""
    return At(score, t)


class Given:
    """A labelled model with its label fixed; forwards the log-density and the divergence where they exist."""

    def __init__(self, model: nn.Module, y: Tensor | None) -> None:
        self._model, self._y = model, y
        for name in ("log_density", "with_divergence"):
            if hasattr(model, name):
                method = getattr(model, name)
                setattr(self, name, lambda x, t, method=method: method(x, t, self._y))

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The score at x (B, *D) and times t, (B,) or ()."""
        return self._model(x, t, self._y)


def given(model: nn.Module, y: Tensor | None) -> NoisyScore:
    """A model s(x, t, y) with the labels `y` (B,) fixed: a noise-conditional score of that very batch."""
    return Given(model, y)


def denoise(score: NoisyScore, noise: Noise, x_t: Tensor, t: Tensor) -> Tensor:
    r"""The posterior mean by Tweedie's formula: $\mathbb E[x_0 \mid x_t] = (x_t + \sigma_t^2\, s(x_t, t))/\alpha_t$.

    Args:
        score: noise-conditional score.
        noise: the schedule that blurred the data.
        x_t: blurred samples (B, *D).
        t: their times, (B,) or ().

    Returns:
        the posterior mean of the clean samples, (B, *D).

    Source: Robbins 1956; Efron 2011, equation 2.8; here for any alpha.
    """
    return (x_t + expand(noise.sigma(t) ** 2, x_t) * score(x_t, t)) / expand(noise.alpha(t), x_t)
