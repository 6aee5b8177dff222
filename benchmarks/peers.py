"""The same digits U-Net under other libraries: what their training and sampling loops cost beyond the network.

Run: .venv/bin/pip install --no-deps --target .peers --requirement benchmarks/peers.txt
     PYTHONPATH=.peers .venv/bin/python benchmarks/peers.py [--threads 1] [--repeats 15]

Every library trains the very same backbone in fp32 with its own loss and noise and a plain AdamW, as its tutorial does;
azula's Heun sampler, k-diffusion's sample_heun and diffusers' HeunDiscreteScheduler make ten second-order steps,
smalldiffusion's sampler twenty first-order ones. Files of smalldiffusion and k-diffusion are loaded one by one, because
the packages import torchvision.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path

import torch
from timing import best_times, machine, report
from torch import Tensor, nn
from train_step import bare, stepper

from scorefield.data.batches import Batch
from scorefield.fields import ScoreModel, given
from scorefield.networks import UNet
from scorefield.noise import VE
from scorefield.runs import LabelledNoise
from scorefield.samplers import Heun, reverse
from scorefield.settings import UNetSize

NOISE, STEPS, SIZE = VE(0.03, 13.0), 10, 100


class Backbone(nn.Module):
    """Our U-Net as the others call theirs: (x, level) with a level per sample or for all."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, c: Tensor, **_: object) -> Tensor:
        """The network's output."""
        return self.network(x, c.reshape(-1).expand(len(x)).to(x.dtype))


def alone(package: str, module: str) -> types.ModuleType:
    """One file of a package whose __init__ needs what is not here."""
    folder = next(Path(p) / package for p in sys.path if (Path(p) / package / f"{module}.py").is_file())
    parent = types.ModuleType(package)
    parent.__path__ = [str(folder)]
    sys.modules.setdefault(package, parent)
    spec = importlib.util.spec_from_file_location(f"{package}.{module}", folder / f"{module}.py")
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


def step_of(loss: Callable[[], Tensor], parameters: list[nn.Parameter]) -> Callable[[], float]:
    """A tutorial's training step."""
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)

    def step() -> float:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        return value.item()

    return step


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    import azula
    import azula.denoise
    import azula.noise
    import azula.sample
    import diffusers

    small = alone("smalldiffusion", "diffusion")
    sys.modules.setdefault("k_diffusion.utils", types.ModuleType("k_diffusion.utils"))
    sys.modules["k_diffusion.utils"].append_dims = lambda x, n: x[(...,) + (None,) * (n - x.ndim)]  # type: ignore[attr-defined]
    karras = alone("k_diffusion", "sampling")
    print(machine(), f"; azula {azula.__version__}, diffusers {diffusers.__version__}, smalldiffusion, k-diffusion")

    x = torch.randn(SIZE, 1, 8, 8)
    make: Callable[[], UNet] = lambda: copy.deepcopy(network)  # noqa: E731
    network = UNet((1, 8, 8), UNetSize())

    denoiser = azula.denoise.KarrasDenoiser(Backbone(make()), azula.noise.VESchedule(0.03, 13.0))
    theirs, schedule = Backbone(make()), small.ScheduleLogLinear(1000, 0.03, 13.0)
    plain, ddpm = Backbone(make()), diffusers.DDPMScheduler(1000)

    def small_loss() -> Tensor:
        x0, sigma, eps, _ = small.generate_train_sample(x, schedule)
        c = 1 / (1 + sigma**2).sqrt()
        return nn.functional.mse_loss(theirs((x0 + sigma * eps) * c, sigma.log() / 4), eps)

    def ddpm_loss() -> Tensor:
        noise, t = torch.randn_like(x), torch.randint(1000, (SIZE,))
        return nn.functional.mse_loss(plain(ddpm.add_noise(x, noise, t), t), noise)  # type: ignore[arg-type]

    batch = Batch(x, None, torch.arange(SIZE))
    objective = LabelledNoise(NOISE, "log-normal", 0.0)
    times = best_times(
        {
            "bare network, forward and backward": bare(make(), x, None, False),
            "scorefield (with clipping and moving average)": stepper(
                ScoreModel(make(), NOISE), objective, batch, "fp32", SIZE
            ),
            "azula": step_of(lambda: denoiser.loss(x, torch.rand(SIZE)).mean(), list(denoiser.parameters())),
            "smalldiffusion": step_of(small_loss, list(theirs.parameters())),
            "diffusers": step_of(ddpm_loss, list(plain.parameters())),
        },
        repeats=options.repeats,
    )
    base = next(iter(times.values()))
    report(f"training step, batch {SIZE}, fp32", {k: f"{1e3 * t:8.2f} ms  {t / base:6.3f} x" for k, t in times.items()})

    score, grid = given(ScoreModel(make(), NOISE), None), NOISE.rho_times(STEPS)
    sampler = azula.sample.HeunSampler(denoiser, start=1.0, stop=0.01, steps=STEPS, silent=True)
    heun = diffusers.HeunDiscreteScheduler(1000)
    sigmas = NOISE.sigma(grid).float()

    class Small(nn.Module):
        def predict_eps_cfg(self, at: Tensor, sigma: Tensor, cond: object, scale: float) -> Tensor:
            return theirs(at / (1 + sigma**2).sqrt(), sigma.log() / 4)

        def rand_input(self, n: int) -> Tensor:
            return torch.randn(n, 1, 8, 8)

    @torch.no_grad()
    def diffusers_heun() -> Tensor:
        heun.set_timesteps(STEPS + 1)
        at = x * heun.init_noise_sigma
        for t in heun.timesteps[: 2 * STEPS]:
            out = plain(heun.scale_model_input(at, t), t)
            at = heun.step(out, t, at).prev_sample  # type: ignore[union-attr]
        return at

    one_call_sigmas = schedule.sample_sigmas(2 * STEPS)
    from accelerate import Accelerator

    accelerator, small_model = Accelerator(cpu=True), Small()
    times = best_times(
        {
            "20 bare network calls": torch.no_grad()(lambda: [network(x, torch.zeros(SIZE)) for _ in range(2 * STEPS)]),
            "scorefield, Heun": lambda: reverse(score, NOISE, x, times=grid, predictor=Heun()),
            "azula, Heun": lambda: sampler(x),
            "k-diffusion, Heun": torch.no_grad()(
                lambda: karras.sample_heun(lambda at, s: at + theirs(at, s.log() / 4), x, sigmas, disable=True)
            ),
            "diffusers, Heun": diffusers_heun,
            "smalldiffusion, 20 first-order steps": lambda: list(
                small.samples(small_model, one_call_sigmas, xt=x, accelerator=accelerator)
            ),
        },
        repeats=options.repeats,
    )
    base = next(iter(times.values()))
    report(
        f"twenty network calls of a sampler, {SIZE} samples",
        {k: f"{1e3 * t:8.1f} ms  {t / base:6.3f} x" for k, t in times.items()},
    )


if __name__ == "__main__":
    main()
