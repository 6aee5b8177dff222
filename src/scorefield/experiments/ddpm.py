r"""`ddpm`: the variational view. The bound in bits per dimension, term by term, and ancestral sampling beside the flow.

$$ -\log p(x) \le \underbrace{KL(q(x_T \mid x) \| p(x_T))}_{\text{prior}} + \sum_t \underbrace{L_t}_{\text{a
   denoising loss}} - \underbrace{\mathbb E \log p(x \mid x_0)}_{\text{decoder}} $$

Each $L_t$ is the squared error of the denoiser at t times half the fall of the signal-to-noise ratio: the loss of
denoising score matching under another weight. The score view needs no steps: the probability flow gives the
log-likelihood of its own model.

Source: Ho et al. 2020 (arXiv:2006.11239), equation 5; Kingma et al. 2021 (arXiv:2107.00630); Song et al. 2021.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from scorefield import plots
from scorefield.calculus import NoisyScore
from scorefield.experiments.ncsn import COUNT, distance, halves
from scorefield.experiments.outcome import Outcome
from scorefield.experiments.trained import trained
from scorefield.likelihood import ancestral_bound, dequantise
from scorefield.runs import Run
from scorefield.runs.density import run_likelihood
from scorefield.samplers import time_grid
from scorefield.settings import Recipe

TRAINING, STEPS, FLOW_ROWS = 700, (30, 100, 300, 1000), 64


def experiment(folder: Path, *, root: Path | None, seed: int) -> Outcome:
    """The bound at several numbers of steps, its terms, and two ways to draw.

    Args:
        folder: where the run and the pictures go.
        root: not used; the bundled digits.
        seed: of the run, the noise and the samples.
    """
    recipe = Recipe("digits", noise="vp", predicts="noise", steps=TRAINING, seed=seed)
    run = trained(recipe, folder / "digits-vp")
    rows = np.asarray(run.dataset.x[run.dataset.held_out_rows], dtype=np.float64)
    x = torch.from_numpy(rows)
    generator = torch.Generator().manual_seed(seed)
    u = run.dataset.info.scaling.apply(dequantise(x, 1.0, generator=generator).numpy())
    table, terms = [], {}
    for steps in STEPS:
        found = bits(run, run.score, u, steps, generator)
        terms[steps] = found
        total, parts = _total(found), (found["prior"], found["steps"].sum(0), found["decoder"])
        means = [part.mean().item() for part in (*parts, total)]
        table.append((f"bound, {steps} steps", *means, (total.std() / len(total) ** 0.5).item()))
    flow = run_likelihood(run, rows[:FLOW_ROWS], bin_width=1.0, probes=8, seed=seed).bits
    if flow is None:
        raise RuntimeError("the likelihood told no bits per dimension")
    table.append(("probability flow", "", "", "", flow.value, flow.standard_error))
    plots.save(_shares(run, terms[STEPS[1]]), folder / "ddpm-terms.png")
    drawn, calls, apart = {}, {}, {}
    for sampler, steps in (("ancestral", 100), ("heun", 18)):
        samples = run.sample(COUNT, seed=seed, sampler=sampler, steps=steps)
        drawn[sampler], calls[sampler] = samples.x[:12], samples.evaluations
        apart[sampler] = distance(run, run.dataset.info.scaling.apply(samples.x.numpy()), seed)
    names = [f"{name}, {calls[name]} calls" for name in drawn]
    figure = plots.image_grid(torch.stack(list(drawn.values())), row_names=names, value_range=(0, 16), smooth=True)
    plots.save(figure, folder / "ddpm-samples.png")
    said = (
        f"More steps tighten the bound: {table[0][4]:.2f} bits per dimension with {STEPS[0]} steps, {table[3][4]:.2f} "
        f"with {STEPS[-1]}; the flow's own model has {flow.value:.2f} ± {flow.standard_error:.2f}. Nearly all of it is "
        f"steps and decoder, the prior costs {table[3][1]:.2g}.",
        f"Fréchet distance of {COUNT} samples: {apart['ancestral']:.2f} by ancestral sampling ({calls['ancestral']} "
        f"calls), {apart['heun']:.2f} by Heun's method on the flow ({calls['heun']} calls), {halves(run, seed):.2f} "
        "between halves of the data.",
    )
    columns = ("bits per dimension", "prior", "steps", "decoder", "sum", "standard error")
    pictures = {
        "the share of each step in the bound": "ddpm-terms.png",
        "digits by ancestral sampling and by the flow": "ddpm-samples.png",
    }
    return Outcome(pictures, columns, tuple(table), said)


def bits(run: Run, score: NoisyScore, u: Tensor, steps: int, generator: torch.Generator) -> dict[str, Tensor]:
    """The terms of the bound for rows on a grid of spacing 1, in bits per dimension.

    Args:
        run: gives the schedule and the units.
        score: the learned score.
        u: dequantised rows in scaled units, (B, *D).
        steps: of the ancestral model, even in log(sigma/alpha), where the bound is tight near the data too.
        generator: source of the noise.

    Returns:
        prior (B,), steps (n, B) and decoder (B,), which takes in the width of the grid.
    """
    dimension = u[0].numel()
    found = ancestral_bound(
        score, run.noise, u, times=time_grid(run.noise, steps, spacing="log-snr"), variance=1.0, generator=generator
    )
    width = dimension * math.log(1.0 / float(run.dataset.info.scaling.scale))
    unit = dimension * math.log(2)
    return {"prior": found.prior / unit, "steps": found.steps / unit, "decoder": (found.decoder - width) / unit}


def _total(terms: dict[str, Tensor]) -> Tensor:
    return terms["prior"] + terms["steps"].sum(0) + terms["decoder"]


def _shares(run: Run, terms: dict[str, Tensor]) -> Figure:
    """Each step's share of the bound against the time it leaves."""
    mean = terms["steps"].mean(1)
    error = terms["steps"].std(1) / terms["steps"].shape[1] ** 0.5
    times = time_grid(run.noise, len(mean), spacing="log-snr")
    return plots.curves(
        run.noise.ratio(times)[:-1],
        {"L_t": mean},
        bands={"L_t": (mean - 1.96 * error, mean + 1.96 * error)},
        log_x=True,
        x_name="noise over signal σ/α, where the step begins",
        y_name="bits per dimension",
        title=f"The {len(mean)} terms of the bound",
    )
