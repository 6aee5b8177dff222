"""The weights of a mixture: Langevin keeps those of its start, annealed Langevin finds the true ones.

Song and Ermon's mixture (2019, section 3): one part in five at (-5, -5), four in five at (5, 5).
"""

import torch

from scorefield.densities import GaussianMixture
from scorefield.noise import Levels
from scorefield.samplers import Langevin, annealed_langevin, chain


def share(x):
    """The share of the samples near (5, 5) and its standard error."""
    p = (x.sum(1) > 0).double().mean().item()
    return f"{p:.3f} ± {(p * (1 - p) / len(x)) ** 0.5:.3f}"


def main():
    law = GaussianMixture([0.2, 0.8], [[-5.0, -5.0], [5.0, 5.0]], torch.eye(2).repeat(2, 1, 1))
    g = torch.Generator().manual_seed(0)
    uniform = 16 * torch.rand(2000, 2, generator=g, dtype=torch.float64) - 8

    print("exact draws:       ", share(law.sample((2000,), generator=g)))
    print("Langevin:          ", share(chain(Langevin(0.05), law.score, uniform, steps=1000, generator=g).x))
    noise = Levels(sigma_max=15.0, sigma_min=0.1, count=20)
    start = 15 * torch.randn(2000, 2, generator=g, dtype=torch.float64)
    drawn = annealed_langevin(law.noisy_score(noise), noise, start, epsilon=0.002, steps_per_level=100, generator=g)
    print("annealed Langevin: ", share(drawn.x), f"with {drawn.evaluations} score calls")


if __name__ == "__main__":
    main()
