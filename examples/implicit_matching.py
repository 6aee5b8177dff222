"""Fit a Gaussian's precision by each objective: the minimiser is the inverse covariance.

Denoising at level sigma fits the blurred law, whose precision is (S + sigma^2 I)^-1. Sliced and denoising carry the
noise of their draws, which falls with the number of samples; explicit and implicit are exact.
"""

import torch

from scorefield.densities import Gaussian
from scorefield.objectives import denoising, explicit, implicit, sliced


def fit(objective, start):
    """The matrix M that minimises the mean of `objective` over the score x -> -M x."""
    M = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([M], max_iter=50, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = objective(lambda x: -x @ ((M + M.T) / 2)).mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    return M.detach()


def main():
    law = Gaussian([0.0, 0.0], [[1.0, 0.5], [0.5, 0.8]])
    x = law.sample((5_000,), generator=torch.Generator().manual_seed(0))
    x = x - x.mean(0)
    S, eye, sigma = x.T @ x / len(x), torch.eye(2, dtype=torch.float64), 0.3

    def g():
        return torch.Generator().manual_seed(1)  # the same noise at every call, so that the minimum stands still

    fits = {
        "explicit": (lambda s: explicit(s, x, law.score(x)), torch.linalg.inv(law.covariance)),
        "implicit": (lambda s: implicit(s, x), torch.linalg.inv(S)),
        "sliced": (lambda s: sliced(s, x, generator=g()), torch.linalg.inv(S)),
        "denoising": (lambda s: denoising(s, x, sigma=sigma, generator=g()), torch.linalg.inv(S + sigma**2 * eye)),
    }
    for name, (objective, expected) in fits.items():
        off = (fit(objective, eye) - expected).abs().max().item()
        print(f"{name:<10} largest error of the precision: {off:.4f}")


if __name__ == "__main__":
    main()
