"""Reverse SDE, ancestral sampling and probability flow under two schedules, with an exact score.

What is left is the solver's error and Monte Carlo's: compare the errors with the number of score calls.
"""

import torch

from scorefield.densities import toy
from scorefield.noise import VE, VP
from scorefield.samplers import Ancestral, Euler, EulerMaruyama, Heun, reverse


def main():
    law, n = toy("gaussian-mixture"), 20_000

    def report(name, x, calls):
        mean, spread = (x.mean(0) - law.mean).norm(), (x.T.cov() - law.covariance).norm()
        print(f"{name:<19}{calls:>4} calls: mean off by {mean:.3f}, covariance by {spread:.3f}")

    report("exact draws", law.sample((n,), generator=torch.Generator().manual_seed(0)), 0)
    for noise in (VE(sigma_min=0.01, sigma_max=20.0), VP()):
        score = law.noisy_score(noise)
        for predictor, steps in ((Heun(), 18), (Euler(), 50), (EulerMaruyama(), 200), (Ancestral(), 100)):
            g = torch.Generator().manual_seed(0)
            torch.manual_seed(0)
            start = noise.prior((2,), mean=law.mean, variance=law.covariance.diagonal()).sample((n,))
            times = noise.rho_times(steps) if isinstance(predictor, (Heun, Euler)) else noise.times(steps)
            drawn = reverse(score, noise, start, times=times, predictor=predictor, generator=g)
            report(f"{type(noise).__name__:<4}{type(predictor).__name__}", drawn.x, drawn.evaluations)


if __name__ == "__main__":
    main()
