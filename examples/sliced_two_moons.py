"""Sliced score matching of an energy on two moons: one random direction in place of the trace.

Works for any network that can be differentiated twice.
"""

import torch

from scorefield.densities import toy
from scorefield.fields import EnergyModel
from scorefield.networks import MLP
from scorefield.objectives import explicit, sliced
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
        loss = sliced(model, x, generator=g).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 20.0)
        optimiser.step()
        falling.step()
        if (step + 1) % 200 == 0:
            print(f"step {step + 1}: loss {loss.item():.2f}")

    x = law.sample((5_000,), generator=g).float()  # fresh data: the true score is known here, and only here is used
    error, power = explicit(model, x, law.score(x)), explicit(torch.zeros_like, x, law.score(x))
    print(f"half the Fisher divergence: {error.mean().item():.2f}, of {power.mean().item():.1f} for no score at all")


if __name__ == "__main__":
    main()
