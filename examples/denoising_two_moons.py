"""Denoising score matching of an energy on two moons, at one noise level.

What is learned is the score of the law blurred by the noise, so that is what it is held against.
"""

import torch

from scorefield.densities import TwoMoons, toy
from scorefield.fields import EnergyModel
from scorefield.networks import MLP
from scorefield.objectives import denoising, explicit
from scorefield.settings import MLPSize


def main():
    law, g = toy("two-moons"), torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = EnergyModel(MLP(2, MLPSize(width=64, depth=3), energy=True))
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3, betas=(0.9, 0.99))
    falling = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda k: min(1.0, 2 - 2 * k / 800))
    for step in range(800):
        x = law.sample((256,), generator=g).float()
        optimiser.zero_grad()
        loss = denoising(model, x, sigma=0.2, generator=g).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 20.0)
        optimiser.step()
        falling.step()
        if (step + 1) % 200 == 0:
            print(f"step {step + 1}: loss {loss.item():.2f}")

    blurred = TwoMoons((0.1**2 + 0.2**2) ** 0.5)  # what was learned is the score of the blurred law
    x = blurred.sample((5_000,), generator=g).float()
    error, power = explicit(model, x, blurred.score(x)), explicit(torch.zeros_like, x, blurred.score(x))
    print(f"half the Fisher divergence: {error.mean().item():.2f}, of {power.mean().item():.1f} for no score at all")


if __name__ == "__main__":
    main()
