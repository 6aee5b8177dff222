r"""Fitted to a score by pilot runs: the solver and the grid of times that err least with n steps.

What is measured is the error of the end state beside a fine run, on a few samples of the prior.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scorefield.calculus import NoisyScore
from scorefield.checks import check_count, check_floating
from scorefield.fields import denoise
from scorefield.noise import Noise
from scorefield.samplers.grids import SPACINGS, time_grid
from scorefield.samplers.langevin import Counted
from scorefield.samplers.multistep import UniPC
from scorefield.samplers.predictors import Predictor
from scorefield.samplers.reverse import reverse

CANDIDATES = (
    UniPC(2, "B2"),
    UniPC(3),
    UniPC(2, predicts="noise"),
    UniPC(3, predicts="noise"),
    UniPC(2, predicts="velocity"),
    UniPC(3, predicts="velocity"),
)
KNOTS = 8  # of the piecewise linear factor by which a grid's steps are changed


@dataclass(frozen=True)
class Fitted:
    """What `fit_solver` found.

    Attributes:
        predictor: the solver, for `reverse`.
        times: its grid, (n + 1,).
        error: root-mean-square error of a coordinate of the end state on the pilot samples.
        evaluations: how many times the score was called on the pilot batch.
    """

    predictor: Predictor
    times: Tensor
    error: float
    evaluations: int


@torch.no_grad()
def fit_solver(
    score: NoisyScore,
    noise: Noise,
    x: Tensor,
    n: int,
    *,
    predictors: Sequence[Predictor] = CANDIDATES,
    rounds: int = 8,
    fine: int = 128,
) -> Fitted:
    r"""The deterministic predictor and the grid of n steps that serve this score best, found once by pilot runs.

    A fine run with even steps in $\lambda = \log(\alpha/\sigma)$ measures the local error of a method of order k, whose
    density is $e(\lambda) \propto \frac{\alpha}{c}\,|\partial_\lambda^k \hat x_0|$ with
    $c^2 = \alpha^2 v + \sigma^2$, v the samples' variance; steps that share it equally have density $e^{1/(k+1)}$.
    Every predictor is tried on that grid and on the named ones of `time_grid`. The three best pairs are then improved:
    the steps near each of eight knots in turn are made longer or shorter if the measured error of the whole run falls.

    In many dimensions, where the flow parts between modes, one sample that is led to the wrong one outweighs all others
    in the error; the pilots say nothing about that unless they hold such a sample.

    Args:
        score: noise-conditional score.
        noise: the schedule.
        x: pilot states at t_max, (B, *D); 16 to 64 draws of the prior do.
        n: how many steps, >= 2.
        predictors: deterministic predictors to choose from.
        rounds: how often the knots are gone through; 0 leaves the first grids as they are. The whole costs about
            (50 + 24 rounds) n score calls of the pilot batch with the six default predictors, once for a score and n.
        fine: steps of the fine run, >= 16, and a quarter of those of the reference.

    Returns:
        the predictor, its times, the measured error and what finding them cost.

    Raises:
        ValueError: no predictor, or one that draws noise; counts that are too small.
        TypeError: `x` is not floating point.

    Source: Hooke & Jeeves 1961 for the search.
    """
    check_floating("x", x)
    check_count("n", n, least=2)
    check_count("rounds", rounds, least=0)
    check_count("fine", fine, least=16)
    if not predictors or any(getattr(p, "stochastic", False) for p in predictors):
        raise ValueError(f"predictors must be deterministic ones, at least one, got {predictors}")
    counted = Counted(score)
    end = reverse(counted, noise, x, times=time_grid(noise, 4 * fine, spacing="log-snr"), predictor=UniPC(3)).x

    def error(predictor: Predictor, times: Tensor) -> float:
        if not bool((times[1:] < times[:-1]).all()):  # rounding made two times one
            return math.inf
        arrived = reverse(counted, noise, x, times=times, predictor=predictor, nonfinite="report").x
        found = (arrived - end).square().mean().sqrt().item()
        return found if math.isfinite(found) else math.inf

    grids = [time_grid(noise, n, spacing=name) for name in SPACINGS if name != "log-sigma"]
    grids += _equal_errors(counted, noise, x, n, fine, end.var().item())
    tried = sorted(
        ((error(p, times), k, p, times) for p in predictors for k, times in enumerate(grids)),
        key=lambda entry: entry[0],
    )
    found = [_improved(error, noise, p, times, least, rounds) for least, _, p, times in tried[:3]]
    least, predictor, times = min(found, key=lambda entry: entry[0])
    return Fitted(predictor, times, least, counted.calls)


def _improved(
    error: Callable[[Predictor, Tensor], float],
    noise: Noise,
    predictor: Predictor,
    times: Tensor,
    least: float,
    rounds: int,
) -> tuple[float, Predictor, Tensor]:
    """Stretch the steps near each knot in turn, by more after a success, else by half as much the other way."""
    knots = min(KNOTS, len(times) - 1)
    strides = [0.5] * knots
    for _ in range(rounds):
        for knot in range(knots):
            trial = _stretched(noise, times, knot, knots, strides[knot])
            if (found := error(predictor, trial)) < least:
                times, least = trial, found
                strides[knot] *= 1.5
            else:
                strides[knot] *= -0.5
    return least, predictor, times


def _equal_errors(
    score: NoisyScore, noise: Noise, x: Tensor, n: int, fine: int, variance: float, order: int = 3
) -> list[Tensor]:
    """Grids whose steps share the local error of a fine run equally, with some or much of the mean density added."""
    times = time_grid(noise, fine, spacing="log-snr")
    path = reverse(score, noise, x, times=times, predictor=UniPC(2), path=True).path
    clean = []
    for state, t in zip(() if path is None else path, times, strict=True):
        clean.append(denoise(score, noise, state, t).flatten())
    change = torch.diff(torch.stack(clean), n=order, dim=0).square().mean(1).sqrt().double().cpu().numpy()
    alpha, sigma = noise.alpha(times), noise.sigma(times)
    shrunk = (alpha / (alpha**2 * variance + sigma**2).sqrt()).numpy()
    where = np.arange(fine + 1)
    density = (shrunk * np.interp(where, np.arange(len(change)) + order / 2, change)) ** (1 / (order + 1))
    density = np.convolve(np.pad(density, 3, mode="edge"), np.ones(7) / 7, "valid")
    marks, grids = (sigma / alpha).log(), []
    for floor in (0.1, 1.0):
        raised = density + floor * density.mean()
        total = np.concatenate([[0.0], np.cumsum((raised[1:] + raised[:-1]) / 2)])
        index = np.interp(np.linspace(0, total[-1], n + 1), total, where)
        grids.append(_at_ratio(noise, torch.from_numpy(np.interp(index, where, marks.numpy())), times))
    return grids


def _stretched(noise: Noise, grid: Tensor, knot: int, knots: int, change: float) -> Tensor:
    """The grid with its steps in log-SNR near one of the knots made longer by a factor, at the cost of the others."""
    marks = noise.ratio(grid).log()
    steps = marks.diff()
    position = torch.linspace(0, knots - 1, len(steps), dtype=torch.float64)
    steps = steps * (change * (1 - (position - knot).abs()).clamp(min=0)).exp()
    steps = steps * ((marks[-1] - marks[0]) / steps.sum())
    return _at_ratio(noise, torch.cat([marks[:1], marks[0] + steps.cumsum(0)]), grid)


def _at_ratio(noise: Noise, marks: Tensor, ends: Tensor) -> Tensor:
    """The times at which the logarithm of the noise-to-signal ratio has these values; the ends are exact."""
    return torch.cat([ends[:1], noise.time_at(marks[1:-1].exp()), ends[-1:]])
