r"""`sde`: noising forward, the reverse SDE and the probability flow, on the same particles; one law at every time.

$$ dx = f x\,dt + g\,dW, \qquad dx = [f x - g^2 s]\,dt + g\,d\bar W, \qquad dx = [f x - \tfrac12 g^2 s]\,dt $$

On the line the flow keeps the order of the particles, and the reverse SDE forgets it: two couplings of the same laws.

Source: Anderson 1982; Song et al. 2021 (arXiv:2011.13456), figure 2.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from scorefield import plots
from scorefield.densities import GaussianMixture
from scorefield.experiments.outcome import Outcome
from scorefield.metrics import mmd
from scorefield.noise import VP, Noise
from scorefield.samplers import EulerMaruyama, Heun, reverse

COUNT, SHOWN, STEPS, KEPT = 3000, 24, 800, 8  # particles; drawn; steps of each way; a state in eight is kept
TIMES = (1.0, 0.6, 0.4, 0.2, 0.1, 1e-3)  # at which the laws are compared
SPAN = (-4.0, 4.0)


def law() -> GaussianMixture:
    """Two bumps on the line."""
    return GaussianMixture([0.35, 0.65], [[-1.6], [1.1]], [[[0.06]], [[0.16]]])


def forward(x: Tensor, noise: Noise, times: Tensor, *, generator: torch.Generator) -> Tensor:
    r"""Paths of the noising SDE by its exact transitions, (T, B, d).

    $$ x_{t'} = \tfrac{\alpha'}{\alpha} x_t + \sqrt{\sigma'^2 - (\alpha'/\alpha)^2 \sigma^2}\; z $$

    Args:
        x: the data, (B, d).
        noise: the schedule.
        times: increasing, (T,); the path begins with the data's law at the first.
        generator: source of the noise.
    """
    alpha, sigma = noise.alpha(times), noise.sigma(times)
    path = [alpha[0] * x + sigma[0] * torch.randn(x.shape, generator=generator, dtype=x.dtype)]
    for k in range(1, len(times)):
        ratio = alpha[k] / alpha[k - 1]
        spread = (sigma[k] ** 2 - ratio**2 * sigma[k - 1] ** 2).sqrt()
        path.append(ratio * path[-1] + spread * torch.randn(x.shape, generator=generator, dtype=x.dtype))
    return torch.stack(path)


def ways(*, count: int, steps: int, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Decreasing times (T,), and the paths (T, count) along them of noising, the reverse SDE and the flow.

    Both ways back begin where noising ended. The grid is even in time, with `TIMES` in it.

    Args:
        count: particles.
        steps: of each way.
        seed: of the data and the noise.
    """
    noise, generator = VP(), torch.Generator().manual_seed(seed)
    score = law().noisy_score(noise)
    even = torch.linspace(TIMES[0], TIMES[-1], steps + 1, dtype=torch.float64)
    times = torch.cat([even, torch.tensor(TIMES, dtype=torch.float64)]).unique().flip(0)
    up = forward(law().sample((count,), generator=generator), noise, times.flip(0), generator=generator)
    sde = reverse(score, noise, up[-1], times=times, predictor=EulerMaruyama(), path=True, generator=generator)
    flow = reverse(score, noise, up[-1], times=times, predictor=Heun(), path=True)
    paths = {"noising": up.flip(0), "reverse SDE": sde.path, "probability flow": flow.path}
    return times, {name: path[..., 0] for name, path in paths.items() if path is not None}


def order(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation of two rows of numbers."""
    ranks = torch.stack([v.argsort().argsort().double() for v in (a, b)])
    return torch.corrcoef(ranks)[0, 1].item()


def experiment(folder: Path, *, root: Path | None, seed: int) -> Outcome:
    """The three ways, and their laws beside exact draws at six times.

    Args:
        folder: where the picture goes.
        root: not used.
        seed: of the data and the noise.
    """
    times, paths = ways(count=COUNT, steps=STEPS, seed=seed)
    generator, noise = torch.Generator().manual_seed(seed + 1), VP()
    rows, sizes = [], []
    for t in TIMES:
        k = int((times - t).abs().argmin())
        exact = law().blurred(noise, t).sample((COUNT,), generator=generator)
        found = [mmd(path[k][:, None], exact, bandwidth=0.5) for path in paths.values()]
        rows.append((t, *(cell for e in found for cell in (e.value, e.standard_error or 0.0))))
        sizes += [abs(e.value) / (e.standard_error or math.inf) for e in found]
    rows = tuple(rows)
    kept = {name: order(path[0], path[-1]) for name, path in paths.items()}
    plots.save(_picture(times, paths), folder / "sde.png")
    columns = ("time t", *(cell for name in paths for cell in (f"{name}: MMD²", "standard error")))
    said = (
        f"The laws of all three beside exact draws at six times: the largest MMD² is {max(sizes):.1f} standard errors.",
        f"The way differs: of the order at t = 1 the flow keeps all (rank correlation {kept['probability flow']:.3f}), "
        f"the reverse SDE {kept['reverse SDE']:.2f}, and noising {kept['noising']:.2f}.",
    )
    alt = (
        "Three panels of paths on the line over time, on the shaded law of each time: noising from two bumps to one "
        "normal law, jagged paths of the reverse SDE back, smooth paths of the probability flow that never cross"
    )
    return Outcome({alt: "sde.png"}, columns, rows, said)


def _picture(times: Tensor, paths: dict[str, Tensor]) -> Figure:
    noise = VP()
    grid = torch.linspace(TIMES[-1], 1, 240, dtype=torch.float64)
    x = torch.linspace(*SPAN, 240, dtype=torch.float64)[:, None]
    shade = torch.stack([law().blurred(noise, t.item()).log_density(x).exp() for t in grid], 1)
    some = {f"← {name}": (times[::KEPT], path[::KEPT, :SHOWN]) for name, path in paths.items() if name != "noising"}
    some = {"noising →": (times[::KEPT].flip(0), paths["noising"][::KEPT, :SHOWN].flip(0))} | some
    return plots.time_paths(some, density=shade, over=(0.0, 1.0, *SPAN))
