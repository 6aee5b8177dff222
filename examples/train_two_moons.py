"""Train a noise-conditional network on two moons; hold its score and its samples against the truth.

`train` is a generator of steps: this loop prints, yours may plot or stop.
"""

import torch

from scorefield.data import Batch
from scorefield.densities import TwoMoons, toy
from scorefield.fields import ScoreModel, at
from scorefield.metrics import fisher_divergence, mmd
from scorefield.networks import MLP
from scorefield.noise import VE
from scorefield.objectives import noise_conditional
from scorefield.samplers import Heun, reverse
from scorefield.settings import MLPSize, TrainSettings
from scorefield.training import train


def main():
    torch.manual_seed(0)
    law = toy("two-moons")
    data = law.sample((10_000,), generator=torch.Generator().manual_seed(0)).float()
    noise = VE(sigma_min=0.05, sigma_max=5.0)
    model = ScoreModel(MLP(2, MLPSize(width=64, depth=2)), noise, predicts="edm", data_scale=data.std().item())

    def batches(step):
        index = torch.randint(len(data), (256,), generator=torch.Generator().manual_seed(step))
        return Batch(data[index], None, index)

    def objective(model, batch, generator):
        weight = model.residual_weight
        return noise_conditional(model, batch.x, noise=noise, weight=weight, generator=generator)

    for step in train(
        model, objective, batches, TrainSettings(steps=600, batch_size=256, learning_rate=1e-2, ema_samples=20_000)
    ):
        if step.step % 200 == 0:
            print(f"step {step.step}: loss {step.loss:.3f}")
    model.load_state_dict(step.state().ema)

    blurred = TwoMoons((law.width**2 + 0.3**2) ** 0.5)  # the exact law at sigma = 0.3
    x, t = blurred.sample((1000,)).float(), noise.time_at(torch.tensor(0.3))
    print("error of the score at sigma = 0.3:", fisher_divergence(at(model, t), blurred.score, x))
    print("the same of a score of zeros:     ", fisher_divergence(torch.zeros_like, blurred.score, x))
    start, fresh = noise.prior((2,)).sample((1000,)).float(), law.sample((1000,)).float()
    drawn = reverse(model, noise, start, times=noise.rho_times(20), predictor=Heun())
    print("samples beside fresh data:        ", mmd(drawn.x, fresh))


if __name__ == "__main__":
    main()
