"""Contrastive divergence on two moons: the data against the model's own samples from a short chain.

The chain's kernel is handed in; here ten Langevin steps that start at the data.
"""

import torch

from scorefield.densities import toy
from scorefield.fields import EnergyModel
from scorefield.networks import MLP
from scorefield.objectives import contrastive_divergence, explicit
from scorefield.samplers import Langevin
from scorefield.settings import MLPSize


def main():
    law, g = toy("two-moons"), torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = EnergyModel(MLP(2, MLPSize(width=64, depth=3), energy=True))
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3, betas=(0.9, 0.99))
    falling = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda k: min(1.0, 2 - 2 * k / 300))
    for step in range(300):
        x = law.sample((256,), generator=g).float()
        optimiser.zero_grad()
        loss = contrastive_divergence(model.log_density, x, kernel=Langevin(2e-3), steps=10, generator=g).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 20.0)
        optimiser.step()
        falling.step()
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}: loss {loss.item():.2f}")

    x = law.sample((5_000,), generator=g).float()  # fresh data: the true score is known here, and only here is used
    error, power = explicit(model, x, law.score(x)), explicit(torch.zeros_like, x, law.score(x))
    print(f"half the Fisher divergence: {error.mean().item():.2f}, of {power.mean().item():.1f} for no score at all")


if __name__ == "__main__":
    main()
