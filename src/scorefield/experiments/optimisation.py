r"""`optimisation`: without its noise Langevin climbs to the modes, with its noise it samples.

$$ x' = x + h\,s(x) + \sqrt{2 h \tau}\,z $$

At temperature $\tau$ its law is $p^{1/\tau}$ up to a constant (and a bias of order h): p itself at $\tau = 1$; at
$\tau = 0$ the end of every path is a local maximum of $\log p$.

Source: Roberts & Tweedie 1996; Welling & Teh 2011, for the step between the two.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from scorefield import plots
from scorefield.densities import GaussianMixture, toy
from scorefield.experiments.outcome import Outcome
from scorefield.metrics import mmd
from scorefield.metrics.estimate import proportion
from scorefield.samplers import MALA, Ascent, Langevin, chain

COUNT, WALK, STEP = 1500, 3000, 0.02
NEAR = 0.25  # from a mode
TEMPERATURES = (0.03, 0.3)
BOX = (-4.0, 5.5, -4.0, 4.5)


def law() -> GaussianMixture:
    """Three components in the plane."""
    mixture = toy("gaussian-mixture")
    if not isinstance(mixture, GaussianMixture):
        raise TypeError("the toy gaussian-mixture is no GaussianMixture")
    return mixture


def modes(density: GaussianMixture) -> Tensor:
    """Where the means climb to, (K, 2): the local maxima."""
    return chain(Ascent(0.1), density.score, density.means.clone(), steps=2000).x


def near_a_mode(x: Tensor, places: Tensor) -> Tensor:
    """Whether each row is within NEAR of a mode, (B,)."""
    return torch.cdist(x, places).min(1).values < NEAR


def walks(density: GaussianMixture, *, count: int, steps: int, seed: int) -> dict[str, Tensor]:
    """The same start under each rule: particles (count, 2) at the end.

    Args:
        density: what to climb or to sample.
        count: particles, spread over the plane.
        steps: of each rule.
        seed: of the start and of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    x = density.mean + 2.5 * torch.randn(count, 2, generator=generator, dtype=torch.float64)
    ends = {"the start": x, "no noise": chain(Ascent(STEP), density.prepared(), x, steps=steps).x}
    score = density.prepared()
    for tau in TEMPERATURES:
        kernel = Langevin(tau * STEP)  # of the score over tau: the same drift, sqrt(tau) of the noise
        ends[f"temperature {tau:g}"] = chain(
            kernel, lambda u, tau=tau: score(u) / tau, x, steps=steps, generator=generator
        ).x
    ends["Langevin"] = chain(Langevin(STEP), score, x, steps=steps, generator=generator).x
    ends["MALA"] = chain(MALA(0.3), density, x, steps=steps // 3, totals=True, generator=generator).x
    return ends


def experiment(folder: Path, *, root: Path | None, seed: int) -> Outcome:
    """Ascent, three temperatures and MALA from one start, beside exact draws.

    Args:
        folder: where the picture goes.
        root: not used.
        seed: of the start, the noise and the draws.
    """
    density, generator = law(), torch.Generator().manual_seed(seed + 1)
    places = modes(density)
    exact, other = (density.sample((COUNT,), generator=generator) for _ in range(2))
    ends = walks(density, count=COUNT, steps=WALK, seed=seed) | {"exact draws": other}
    rows = []
    for name, x in ends.items():
        near = proportion(int(near_a_mode(x, places).sum()), len(x), len(x), "near a mode")
        apart = mmd(x, exact, bandwidth=1.0)
        height = density.log_density(x)
        error = apart.standard_error or 0.0
        rows.append((name, near.value, near.standard_error or 0.0, height.mean().item(), apart.value, error))
    shown = {
        "the start": "the start",
        "no noise": "without noise: the modes",
        "temperature 0.3": "0.3 of the noise's variance",
        "Langevin": "with noise: the law",
    }
    panels = [plots.Plane(title, density=density.log_density, points=ends[name]) for name, title in shown.items()]
    plots.save(plots.planes([panels[:2], panels[2:]], boxes=[BOX, BOX]), folder / "optimisation.png")
    table = {row[0]: row for row in rows}
    columns = (
        "rule",
        f"within {NEAR:g} of a mode",
        "standard error",
        "mean log p",
        "MMD² to exact draws",
        "standard error of it",
    )
    still, moving, drawn = table["no noise"], table["Langevin"], table["exact draws"]
    said = (
        f"Without noise {still[1]:.1%} of the particles end within {NEAR:g} of a mode, with it {moving[1]:.1%}, of "
        f"exact draws {drawn[1]:.1%}.",
        f"The law: MMD² to exact draws is {moving[4]:.2g} ± {moving[5]:.1g} for Langevin, {table['MALA'][4]:.2g} ± "
        f"{table['MALA'][5]:.1g} for MALA, and {still[4]:.2g} ± {still[5]:.1g} without noise: the highest density is "
        "not a sample.",
    )
    alt = (
        "Four panels over the same density of three components: particles spread at the start; three points without "
        "noise; tight clusters at 0.3 of the variance; clouds that fill the level sets with the full noise"
    )
    return Outcome({alt: "optimisation.png"}, columns, tuple(rows), said)
