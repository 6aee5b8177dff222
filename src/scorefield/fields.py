r"""Networks and energies as score fields $s(x, t) = \nabla_x \log p_t(x)$, and what to read off them.

`ScoreModel` turns a backbone F(x, c, y) into a score, whatever F predicts; `EnergyModel` takes the gradient of a
log-density. `at` fixes the time, `given` the label, `denoise` is Tweedie's formula.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from scorefield.calculus import NoisyScore, Score, expand, inner, score_of
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

    Without a schedule (`noise` None) the model is the score of one law, and there is no time: input $x/\sqrt v$, and
    `"edm"` predicts what the score is beside that of $N(0, vI)$, $s = -x/v + F/\sqrt v$; `"score"` all of it,
    $s = F/\sqrt v$.

    Args:
        network: backbone (x, c, y) -> tensor shaped like x.
        noise: the schedule; None for the score of one law.
        predicts: what the network estimates.
        data_scale: standard deviation of the data, > 0.

    Source: Karras et al. 2022 (arXiv:2206.00364), table 1 and appendix B.6, for any alpha and sigma; velocity:
    Salimans & Ho 2022 (arXiv:2202.00512), normalised for schedules that do not preserve the variance.
    """

    def __init__(self, network: nn.Module, noise: Noise | None, predicts: str = "edm", data_scale: float = 1.0) -> None:
        super().__init__()
        _check_model(noise, predicts, data_scale)
        self.network, self.noise, self.predicts, self.data_scale = network, noise, predicts, data_scale

    def forward(self, x: Tensor, t: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        """The score at x (B, *D), times t (B,) or () and labels y (B,), -1 for no label; shape (B, *D).

        A model without a schedule is called without t: as (x), or (x, None, y).
        """
        c_in, keep, gain, c_noise = self._coefficients(x, t)
        return expand(keep, x) * x + expand(gain, x) * self.network(expand(c_in, x) * x, c_noise, y).to(x.dtype)

    @property
    def with_divergence(self) -> Callable[..., tuple[Tensor, Tensor]]:
        """(x, t, y) -> the score (B, *D) and its exact divergence (B,); there where the network knows its own trace."""
        if not hasattr(self.network, "with_trace"):
            raise AttributeError(f"{type(self.network).__name__} has no with_trace")
        return self._with_divergence

    def _with_divergence(self, x: Tensor, t: Tensor | None = None, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        c_in, keep, gain, c_noise = self._coefficients(x, t)
        out, trace = self.network.with_trace(expand(c_in, x) * x, c_noise, y)  # pyright: ignore[reportCallIssue]
        divergence = keep.to(x) * x[0].numel() + (gain * c_in).to(x) * trace.to(x.dtype)
        return expand(keep, x) * x + expand(gain, x) * out.to(x.dtype), divergence

    def _coefficients(self, x: Tensor, t: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        if self.noise is None and t is not None:
            raise ValueError("t must be left out where there is no schedule; call the model as (x) or (x, None, y)")
        return _preconditioning(self.noise, self.predicts, self.data_scale, x, t)

    def residual_weight(self, t: Tensor) -> Tensor:
        r"""The weight $\sigma^2 c^2/(\alpha^2 v)$ under which denoising trains F against targets of unit variance.

        EDM's $\lambda(\sigma)$, written for the score (Karras et al. 2022, equation 8).
        """
        if self.noise is None:
            raise ValueError("a model without a schedule has no levels to weigh; train it by an objective of one law")
        return self.noise.residual_weight(t, self.data_scale)


class EnergyModel(nn.Module):
    r"""A log-density given by a network with one output per sample, the energy E; calling it gives the score.

    This is the one place where the sign of an energy is flipped. Alone, E is minus the log-density:
    $\log p(x, t) = -E(x, t)$ up to a constant.

    With a schedule E is preconditioned, so that $F(u) = -\nabla_u E(u)$ stands where the backbone of a `ScoreModel`
    with the same `predicts` stands. If that score is $k\,x + g\,F(c_{in} x, c_{noise}, y)$, the log-density is

    $$ \log p_t(x) = \tfrac12 k\,\|x\|^2 - \frac{g}{c_{in}}\, E(c_{in} x, c_{noise}, y) + \text{const}. $$

    Without a schedule, `predicts="edm"` makes E what tilts a normal law, as in `ScoreModel`:
    $\log p(x) = -\|x\|^2/2v - E(x/\sqrt v)$.

    Args:
        network: (x) or (x, c) or (x, c, y) -> energies (B,) or (B, 1), by what it is called with; c is t itself, as it
            was given, where there is no schedule. It must be twice differentiable in x to be trained.
        noise: the schedule; None for the energy of one law, or of a network that knows its own time.
        predicts: as in `ScoreModel`; None for `"edm"` with a schedule and `"score"`, the energy alone, without.
        data_scale: standard deviation of the data, > 0.

    Source: Salimans & Ho 2021 (Should EBMs model the energy or the score?); Du et al. 2023 (arXiv:2302.11552), for the
    noise as what the gradient predicts; here for every `predicts` and any alpha and sigma.
    """

    def __init__(
        self, network: nn.Module, noise: Noise | None = None, predicts: str | None = None, data_scale: float = 1.0
    ) -> None:
        super().__init__()
        predicts = predicts or ("score" if noise is None else "edm")
        _check_model(noise, predicts, data_scale)
        self.network, self.noise, self.predicts, self.data_scale = network, noise, predicts, data_scale

    def log_density(self, x: Tensor, t: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        """The log-density up to a constant (at each t its own), shape (B,)."""
        c_in, keep, gain, c = _preconditioning(self.noise, self.predicts, self.data_scale, x, t)
        u = expand(c_in, x) * x
        given = (u,) if c is None and y is None else (u, c) if y is None else (u, c, y)
        energy = self.network(*given)
        energy = energy[:, 0] if energy.ndim == 2 and energy.shape[1] == 1 else energy
        check_rows("the energy", energy, x)
        return keep.to(x) * inner(x, x) / 2 - (gain / c_in).to(x) * energy.to(x.dtype)

    @property
    def with_divergence(self) -> Callable[..., tuple[Tensor, Tensor]]:
        """(x, t, y) -> the score (B, *D) and its exact divergence (B,); there where the network knows its Laplacian."""
        if not hasattr(self.network, "with_laplacian"):
            raise AttributeError(f"{type(self.network).__name__} has no with_laplacian")
        return self._with_divergence

    def _with_divergence(self, x: Tensor, t: Tensor | None = None, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        c_in, keep, gain, c = _preconditioning(self.noise, self.predicts, self.data_scale, x, t)
        _, gradient, laplacian = self.network.with_laplacian(expand(c_in, x) * x, c, y)  # pyright: ignore[reportCallIssue]
        divergence = keep.to(x) * x[0].numel() - (gain * c_in).to(x) * laplacian.to(x.dtype)
        return expand(keep, x) * x - expand(gain, x) * gradient.to(x.dtype), divergence

    def forward(self, x: Tensor, t: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        """The score: the gradient of the log-density in x, shape (B, *D)."""
        return score_of(lambda at: self.log_density(at, t, y))(x)


class InnerEnergy(nn.Module):
    r"""An energy made of a backbone shaped like its input: $E(u) = b - \langle u, F(u, c, y)\rangle$, shape (B,).

    For images, where the backbone is a U-Net: $-\nabla_u E = F + (\nabla_u F)^\top u$, which is zero with a backbone
    that starts at zero. The constant b is learned where an objective sees it, as noise-contrastive estimation does.

    Args:
        network: backbone (u, c, y) -> tensor shaped like u, twice differentiable in u.

    Source: Salimans & Ho 2021, who take $\tfrac12\|u - F(u)\|^2$; the inner product alone, Du et al. 2023
    (arXiv:2302.11552).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.constant = network, nn.Parameter(torch.zeros(()))

    def forward(self, u: Tensor, c: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        """The energy, (B,)."""
        return self.constant - inner(u, self.network(u, c, y).to(u.dtype))


def _check_model(noise: Noise | None, predicts: str, data_scale: float) -> None:
    check_choice("predicts", predicts, PREDICTS)
    check_positive("data_scale", data_scale)
    if noise is None and predicts not in ("edm", "score"):
        raise ValueError(f"predicts must be edm or score where there is no schedule, got {predicts!r}; give a noise")


def _preconditioning(
    noise: Noise | None, predicts: str, data_scale: float, x: Tensor, t: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """c_in, keep and gain of s = keep x + gain F(c_in x, c, y), float64 (B,) or (), and c like `x`."""
    t = t.expand(len(x)) if t is not None and t.ndim == 0 else t
    if t is not None:
        check_rows("t", t, x, "one time per sample")
    if noise is None:
        unit = x.new_full((), 1 / data_scale, dtype=torch.float64)
        return unit, -(unit**2) if predicts == "edm" else torch.zeros_like(unit), unit, t
    if t is None:
        raise ValueError("t must be given to a model with noise levels: one time per sample, or a single one")
    alpha, sigma = noise.alpha(t).double(), noise.sigma(t).double()
    c = (alpha**2 * data_scale**2 + sigma**2).sqrt()
    r = (alpha**2 + sigma**2).sqrt()
    keep, gain = {
        "edm": lambda: (-1 / c**2, alpha * data_scale / (sigma * c)),
        "score": lambda: (torch.zeros_like(sigma), 1 / sigma),
        "noise": lambda: (torch.zeros_like(sigma), -1 / sigma),
        "data": lambda: (-1 / sigma**2, alpha / sigma**2),
        "velocity": lambda: (-1 / r**2, -alpha / (sigma * r)),
    }[predicts]()
    return 1 / c, keep, gain, (torch.log(sigma / alpha) / 4).to(x)


class At:
    """A noise-conditional score at one time; forwards the log-density and the divergence where they exist."""

    def __init__(self, score: Callable[..., Tensor], t: Tensor | float | None) -> None:
        self._score = score
        self._t = t if isinstance(t, Tensor) or t is None else torch.tensor(t, dtype=torch.float64)
        for name in ("log_density", "with_divergence"):
            if hasattr(score, name):
                method = getattr(score, name)
                setattr(self, name, lambda x, method=method: method(x, self._time(x)))
        if hasattr(score, "modules"):
            self.modules = getattr(score, "modules")  # noqa: B009  (pyright knows functions have none)

    def __call__(self, x: Tensor) -> Tensor:
        """The score at x (B, *D) and the fixed time."""
        return self._score(x, self._time(x))

    def _time(self, x: Tensor) -> Tensor | None:
        return None if self._t is None else self._t.to(x.device)


def at(score: NoisyScore, t: Tensor | float | None) -> Score:
    """The score at one time `t`, () or (B,), as a plain score (B, *D) -> (B, *D); None where it has no noise levels."""
    return At(score, t)


class Given:
    """A labelled model with its label fixed; forwards the log-density and the divergence where they exist."""

    def __init__(self, model: nn.Module, y: Tensor | None) -> None:
        self._model, self._y = model, y
        for name in ("log_density", "with_divergence"):
            if hasattr(model, name):
                method = getattr(model, name)
                setattr(self, name, lambda x, t, method=method: method(x, t, self._y))
        if hasattr(model, "modules"):
            self.modules = model.modules

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
