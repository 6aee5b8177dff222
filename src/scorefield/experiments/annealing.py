r"""`annealing`: particles through the levels, how strong the score is at each, and what the settings of Langevin do.

A step of annealed Langevin moves by $h_i s$ and shakes by $\sqrt{2 h_i}\, z$ with
$h_i = \epsilon \sigma_i^2/\sigma_L^2$. The signal beside the noise is

$$ \mathrm{SNR}_i = \frac{\mathbb E \|h_i s\|^2}{\mathbb E\|\sqrt{2 h_i}\,z\|^2} = \frac{h_i\, \mathbb E\|s\|^2}{2 D},
   \qquad \mathbb E\|s\|^2 = \operatorname{tr}(C + \sigma_i^2 I)^{-1} \text{ for a Gaussian,} $$

constant where $\sigma_i$ exceeds the data's spread in most directions, and falling like $\sigma_i^2$ where it does not.
Denoising score matching sees that little beside noise of unit size, so that a network trained on it says too much at
the smallest levels; averaged over z and -z, with more weight there, it says what is so.

Source: Song & Ermon 2019 (arXiv:1907.05600), section 4.3; Song & Ermon 2020 (arXiv:2006.09011), technique 4.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from scorefield import plots
from scorefield.calculus import NoisyScore, inner
from scorefield.densities import GaussianMixture, toy
from scorefield.experiments.outcome import Outcome
from scorefield.experiments.trained import stored, trained
from scorefield.fields import at
from scorefield.metrics import mmd
from scorefield.noise import Levels
from scorefield.runs import Run
from scorefield.samplers import Langevin, annealed_langevin, annealed_settings, chain
from scorefield.settings import DataSettings, MLPSize, Recipe

NAME, ROWS, PARTICLES = "gaussian-mixture", 20_000, 2000
TRAINED = {"noise": "levels", "steps": 12_000, "count": 400_000, "batch_size": 256, "ema_samples": 20_000}
SIZE = MLPSize(width=128)
FLOOR = 3e-4  # of MMD², about twice its standard error
BOX = (-4.5, 6.0, -4.5, 5.0)


def experiment(folder: Path, *, root: Path | None, seed: int) -> Outcome:
    """The moving picture, the strengths by level of two networks, the ablation.

    Args:
        folder: where the runs and the pictures go.
        root: not used; a mixture in the plane and the bundled digits' covariance.
        seed: of the runs, the rows and the particles.
    """
    plain = Recipe(NAME, mlp=SIZE, seed=seed, **TRAINED)
    paired = dataclasses.replace(plain, antithetic=True, tilt=0.5)
    run = trained(paired, folder / "antithetic")
    law, noise = scaled_law(run), run.noise
    assert isinstance(noise, Levels)
    rows = strengths((run.score, trained(plain, folder / "plain").score), law, noise, seed)
    sigma = noise.sigma(noise.levels)
    digits = digits_covariance(folder / "digits-data", seed)
    curves = {
        "network, z and -z": torch.tensor([row[1] for row in rows]),
        "network, z alone": torch.tensor([row[2] for row in rows]),
        "exact, the mixture": torch.tensor([row[3] for row in rows]),
        "Gaussian of the data's covariance": torch.tensor([row[4] for row in rows]),
        "Gaussian of the digits' covariance": sigma**2 * gaussian_power(digits, sigma) / len(digits),
    }
    figure = plots.curves(
        sigma,
        curves,
        log_x=True,
        log_y=True,
        x_name="noise level σ",
        y_name="σ² E‖s‖² / D",
        title="The score's strength",
    )
    plots.save(figure, folder / "annealing-strength.png")
    moving(folder / "annealing.gif", seed)
    settings, sentence = ablation(seed)
    plots.save(settings, folder / "annealing-settings.png")
    pairs, alone = (max(abs(row[k] / row[3] - 1) for row in rows) for k in (1, 2))
    first, last = rows[0], rows[-1]
    said = (
        f"Trained on z and -z, the network's signal-to-noise ratio agrees with the mixture's own within {pairs:.1%} at "
        f"every level; trained on z alone, within {alone:.0%}.",
        f"It is constant only at large noise: σ² E‖s‖²/D is {first[3]:.3g} at σ = {first[0]:.3g} and {last[3]:.2g} at "
        f"σ = {last[0]:.3g}.",
        sentence,
    )
    columns = ("σ", "σ²E‖s‖²/D, z and -z", "z alone", "exact", "Gaussian", "SNR, z and -z", "SNR, exact")
    pictures = {
        "particles through the noise levels": "annealing.gif",
        "the score's strength by noise level": "annealing-strength.png",
        "distance from the law for several ε, T and L": "annealing-settings.png",
    }
    return Outcome(pictures, columns, tuple(rows), said)


def scaled_law(run: Run) -> GaussianMixture:
    """The mixture in the units of a run."""
    law, scaling = toy(NAME), run.dataset.info.scaling
    assert isinstance(law, GaussianMixture)
    m, c = torch.from_numpy(scaling.mean), torch.from_numpy(scaling.scale)
    return GaussianMixture(law.weights, (law.means - m) / c, law.covariances / (c[:, None] * c))


def strengths(learned: Sequence[NoisyScore], law: GaussianMixture, noise: Levels, seed: int) -> list[tuple]:
    """Per level: σ, the mean power of each learned score, of the exact one (on the same rows), of a Gaussian; two SNRs.

    The ratios are those of the first learned score and of the exact one.
    """
    generator = torch.Generator().manual_seed(seed)
    x = law.sample((ROWS,), generator=generator)
    exact, d = law.noisy_score(noise), x.shape[1]
    covariance = torch.cov(x.T)
    epsilon, rows = annealed_settings(noise, d).epsilon, []
    for t in noise.levels:
        sigma = noise.sigma(t)
        x_t = noise.perturb(x, t.expand(len(x)), torch.randn(x.shape, generator=generator, dtype=x.dtype))
        scores = [*(score(x_t.float(), t).double().detach() for score in learned), exact(x_t, t)]
        power = [(inner(s, s).mean() * sigma**2 / d).item() for s in scores]
        gaussian = (sigma**2 * gaussian_power(covariance, sigma[None])[0] / d).item()
        step = epsilon / noise.sigma_min**2 / 2
        rows.append((sigma.item(), *power, gaussian, step * power[0], step * power[-1]))
    return rows


def gaussian_power(covariance: Tensor, sigma: Tensor) -> Tensor:
    """Tr (C + σ² I)⁻¹ at each level, (L,)."""
    return (1 / (torch.linalg.eigvalsh(covariance) + sigma[:, None] ** 2)).sum(1)


def digits_covariance(folder: Path, seed: int) -> Tensor:
    """The covariance of the bundled digits in units of all pixels' spread, (64, 64)."""
    data = stored(DataSettings("digits"), folder, seed=seed)
    return torch.cov(data.x_scaled(data.train_rows).flatten(1).double().T)


def moving(file: Path, seed: int, particles: int = 400) -> None:
    """Particles under the exact scores, a frame per level and one in between."""
    law = toy(NAME)
    assert isinstance(law, GaussianMixture)
    noise = Levels(8.0, 0.05, 30)
    generator = torch.Generator().manual_seed(seed)
    chosen, x = annealed_settings(noise, 2), noise.prior((2,)).sample((particles,))
    frames, captions, score = [x], ["start"], law.noisy_score(noise)
    for level in chosen.levels:
        step = chosen.epsilon * (noise.sigma(level).item() / noise.sigma_min) ** 2
        x = chain(Langevin(step), at(score, level), x, steps=chosen.steps_per_level, generator=generator).x
        frames.append(x)
        captions.append(f"σ = {noise.sigma(level).item():.2f}")
    plots.moving_particles(
        {"annealed Langevin": torch.stack(frames)},
        file,
        box=BOX,
        density=law.log_density,
        captions=captions,
        per_second=5.0,
    )


def ablation(seed: int) -> tuple[Figure, str]:
    """Distance of annealed samples from the law when ε, T and L leave the computed ones."""
    law = toy(NAME)
    assert isinstance(law, GaussianMixture)
    real = law.sample((PARTICLES,), generator=torch.Generator().manual_seed(seed + 1))
    base = Levels.from_data(real)
    chosen = annealed_settings(base, 2)
    counts = sorted({max(2, base.count // 4), max(2, base.count // 2), base.count, 2 * base.count})
    found: dict[str, list[float]] = {}
    steps = [1, 2, 5, 10, 30]
    for count in counts:
        noise = Levels(base.sigma_max, base.sigma_min, count)
        found[f"L = {count}"] = [apart(law, noise, chosen.epsilon, T, real, seed) for T in steps]
    for factor in (0.1, 4.0):
        name, epsilon = f"L = {base.count}, {factor:g} ε", factor * chosen.epsilon
        found[name] = [apart(law, base, epsilon, T, real, seed) for T in steps]
    figure = plots.curves(
        torch.tensor(steps),
        {name: torch.tensor(values) for name, values in found.items()},
        log_x=True,
        log_y=True,
        x_name="steps per level T",
        y_name="MMD² from the law",
        title=f"What ε, T and L do (computed: L = {base.count}, T = {chosen.steps_per_level})",
    )
    at = found[f"L = {base.count}"]
    return figure, f"MMD² with the computed ε and L goes from {at[0]:.2g} at T = 1 to {at[-1]:.2g} at T = {steps[-1]}."


def apart(law: GaussianMixture, noise: Levels, epsilon: float, steps: int, real: Tensor, seed: int) -> float:
    """MMD² of annealed samples from rows of the law; below `FLOOR` it drowns in its error."""
    generator = torch.Generator().manual_seed(seed)
    x = noise.sigma_max * torch.randn(real.shape, generator=generator, dtype=real.dtype)
    how = {"epsilon": epsilon, "steps_per_level": steps, "convention": "ncsnv2"}
    x = annealed_langevin(law.noisy_score(noise), noise, x, **how, generator=generator).x
    return max(mmd(x, real).value, FLOOR)
