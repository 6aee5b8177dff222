"""The samples of a run, as its sampler draws them: finite, settled, of the right weights, and its own."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import fisher_exact
from sklearn.cluster import KMeans
from torch import Tensor, nn

from scorefield.data import Dataset
from scorefield.diagnostics import copied, disagreement, mode_weights, signal_to_noise
from scorefield.diagnostics.rows import evenly
from scorefield.doctor.finding import LEVEL, Finding, judged, skipped
from scorefield.doctor.law import one_law
from scorefield.doctor.levels import slower
from scorefield.doctor.patient import Patient
from scorefield.doctor.rows import HELD_OUT, MOST
from scorefield.fields import at, given
from scorefield.noise import Noise
from scorefield.runs import Run
from scorefield.runs.draw import PREDICTORS, choose_sampler
from scorefield.runs.one_law import STEPS, tuned
from scorefield.samplers import Langevin, Samples, annealed_settings
from scorefield.samplers.ncsnv2 import variance_ratio
from scorefield.settings import FLOWS
from scorefield.training import Diverged

COUNT = {"vector": 1000, "image": 300}
LAW = 200  # where each is drawn by a chain of its own
AGAIN = {"vector": 200, "image": 48}  # samples drawn again by finer steps
STEPPED = 500  # rows at which a step is looked at
CHAINS = 50
MODES = 10
FACTOR = 1.5  # by which the weight of a mode may be off
INFLATED = 0.1  # by which the variance may be off: drift over noise of a Langevin step
FAR = 10  # times as far from the mean as any row: an exploded sample
MOVED = 0.1  # standard deviations that a coordinate may move when steps are made twice as fine
SETTLED = 2.3  # effective draws of a chain: the start's weight is e^(-2 · 2.3) = 1 %


@dataclass(frozen=True)
class How:
    """How samples are drawn: options of `scorefield sample`, None for its defaults."""

    sampler: str | None = None
    steps: int | None = None
    step_size: float | None = None
    epsilon: float | None = None
    seed: int = 0

    def options(self) -> dict[str, Any]:
        """As `Run.sample` takes them."""
        names = ("sampler", "steps", "step_size", "epsilon", "seed")
        return {name: getattr(self, name) for name in names}


def examine_samples(patient: Patient, run: Run, model: nn.Module, data: Dataset, how: How) -> list[Finding]:
    """All findings about what a run draws."""
    name = choose_sampler(how.sampler, run.recipe, step_size=how.step_size, epsilon=how.epsilon)
    step = _step_size(patient, run, model, data, how, name)
    again = patient.train(learning_rate=slower(patient))
    why = "Samples run away: the steps are too long for the score, or the score is wrong far from the data."
    mend = step.command if not step.healthy else again
    count = COUNT[data.info.kind] if run.recipe.at_all_levels else LAW
    try:
        drawn = run.sample(count, **how.options())
    except (Diverged, RuntimeError) as error:
        return [judged("samples", False, str(error), why, mend, severity="fault"), step]
    x = data.info.scaling.apply(drawn.x.numpy()).flatten(1).double()
    real = data.x_scaled(data.train_rows[evenly(len(data.train_rows), MOST)]).flatten(1).double()
    reach = (real - real.mean(0)).norm(dim=1).max().item()
    gone = int(((x - real.mean(0)).norm(dim=1) > FAR * reach).sum())
    evidence = f"{gone} of {len(x)} samples by {name} lie more than {FAR} times as far out as any row"
    found = [judged("samples", gone == 0, evidence, why, mend, severity="fault"), step]
    found.append(_solver(patient, run, data, how, name, drawn))
    found.append(_chains(patient, run, data, how, name))
    return [*found, _modes(patient, run, x, real), _memorisation(patient, run, data, x)]


def _solver(patient: Patient, run: Run, data: Dataset, how: How, name: str, drawn: Samples) -> Finding:
    if name not in FLOWS or name == "adaptive-ode":
        return skipped("solver", f"{name} does not follow one path from one start, or chooses its own steps")
    steps, n = how.steps or PREDICTORS[name][2], AGAIN[data.info.kind]
    finer = run.sample(n, **dataclasses.replace(how, steps=2 * steps).options())
    moved = disagreement(*(data.info.scaling.apply(s.x[:n].numpy()) for s in (drawn, finer)))
    median = moved.median().item()
    return judged(
        "solver",
        median <= MOVED,
        f"{steps} steps of {name} made twice as fine move a coordinate by {median:.2g} standard deviations (median of "
        f"{n} samples; {moved.max():.2g} at most; tolerated: {MOVED:g})",
        "Finer steps give other samples: the error of the solver is seen in them.",
        f"scorefield sample {patient.target} --sampler {name} --steps {4 * steps}",
    )


def _step_size(patient: Patient, run: Run, model: nn.Module, data: Dataset, how: How, name: str) -> Finding:
    if name == "annealed-langevin":
        return _annealed(patient, run.noise, data, how)
    if name not in ("langevin", "underdamped"):
        return skipped("step-size", f"{name} corrects its steps, or takes none of Langevin's")
    x, _, _ = one_law(run, model, data, data.train_rows[evenly(len(data.train_rows), STEPPED)], 4)
    score = at(given(model, None), None)
    kernel = tuned(name, score, x, how.step_size)
    h = kernel.step_size if isinstance(kernel, Langevin) else kernel.step_size**2 / 2  # pyright: ignore[reportAttributeAccessIssue]
    ratio = signal_to_noise(score, x, h)
    inflated = f"{1 / (1 - ratio):.2f} times" if ratio < 1 else "infinitely many times"
    return judged(
        "step-size",
        ratio <= INFLATED,
        f"drift over noise of a step is {ratio:.3g} at h = {h:.3g} (tolerated: {INFLATED:g}): the variance comes out "
        f"{inflated} too large, as for a Gaussian of this mean precision",
        "The Langevin step is too long for the law: chains spread wider than it, or run away.",
        f"scorefield sample {patient.target} --sampler {name}",
    )


def _annealed(patient: Patient, noise: Noise, data: Dataset, how: How) -> Finding:
    chosen = annealed_settings(noise, int(np.prod(data.shape)), steps_per_level=how.steps)
    bar = noise.ratio(chosen.levels)
    a = (chosen.epsilon if how.epsilon is None else how.epsilon) / noise.sigma(chosen.levels[-1]).item() ** 2
    gamma = (bar[:-1] / bar[1:]).max().item()
    left = variance_ratio(a, gamma, chosen.steps_per_level) if a < 2 else float("inf")
    return judged(
        "step-size",
        abs(left - 1) <= INFLATED,
        f"drift over noise of a step is {a / 2:.3g}; after {chosen.steps_per_level} steps a level's variance is "
        f"{left:.3g} of what the next expects (tolerated: {1 + INFLATED:g})",
        "Particles leave every level noisier than the next level's score was trained for: too few steps, or steps that "
        "are too short or too long.",
        f"scorefield sample {patient.target} --sampler annealed-langevin",
    )


def _chains(patient: Patient, run: Run, data: Dataset, how: How, name: str) -> Finding:
    if run.recipe.at_all_levels:
        return skipped("chains", "samples are transported, not drawn by chains at one law")
    common = data.info.classes[int(data.class_frequencies.argmax())] if run.classes else None
    label = common if run.recipe.label_dropout < 1 else None
    drawn = run.sample(CHAINS, label=label, denoise=False, path=True, **how.options())
    path = drawn.path[len(drawn.path) // 2 :] if drawn.path is not None else drawn.x[None]
    if len(path) < 4:
        return skipped("chains", f"{2 * len(path)} moves are too few to look at")
    kept = Samples(drawn.x, path)
    rhat, ess = kept.r_hat().max().item(), kept.ess().min().item() / path.shape[1]
    longer = 10 * (how.steps or STEPS)
    return judged(
        "chains",
        ess >= SETTLED,
        f"{path.shape[1]} chains, their second half of {len(path)} moves: R-hat {rhat:.3f} at most, {ess:.3g} "
        f"effective draws per chain at least (tolerated: {SETTLED})",
        "The chains have not forgotten where they started: samples are a mixture of the start and the law, and modes "
        "keep the weights of the start.",
        f"scorefield sample {patient.target} --steps {longer}",
    )


def _modes(patient: Patient, run: Run, x: Tensor, real: Tensor) -> Finding:
    k = min(MODES, len(real) // 50)
    if k < 2:
        return skipped("modes", f"{len(real)} rows are too few to tell modes apart")
    clusters = KMeans(k, n_init="auto", random_state=0).fit(real[evenly(len(real), 5000)].float().numpy())
    nearest = [np.asarray(clusters.predict(rows.float().numpy())) for rows in (x, real)]
    found = mode_weights(nearest[0], nearest[1], factor=FACTOR)
    shares = found.samples / found.samples.sum(), found.data / found.data.sum()
    worst = int(np.abs(np.log((shares[0] + 1e-3) / (shares[1] + 1e-3))).argmax())
    return judged(
        "modes",
        found.p_off >= LEVEL,
        f"of {k} clusters of the data, the most off holds {shares[0][worst]:.1%} of {len(x)} samples and "
        f"{shares[1][worst]:.1%} of the rows (tolerated: a factor of {FACTOR}); p = {found.p_off:.2g}, of equal "
        f"weights {found.p_value:.2g}",
        "A part of the data gets far too many or too few of the samples: a mode is missing or overweighted.",
        patient.train(steps=4 * run.resolved.training.steps, seconds=None),
    )


def _memorisation(patient: Patient, run: Run, data: Dataset, x: Tensor) -> Finding:
    if len(data.held_out_rows) < HELD_OUT:
        return skipped("memorisation", f"{len(data.held_out_rows)} rows are held out")
    train = data.x_scaled(data.train_rows).flatten(1).double()
    held = data.x_scaled(data.held_out_rows[evenly(len(data.held_out_rows), 2 * len(x))]).flatten(1).double()
    mine, real = copied(x, train), copied(held, train)
    a, b = int(mine.sum()), int(real.sum())
    p = float(np.asarray(fisher_exact([[a, len(mine) - a], [b, len(real) - b]], alternative="greater"))[1])
    return judged(
        "memorisation",
        p >= LEVEL,
        f"{a / len(mine):.1%} of {len(mine)} samples lie three times nearer to one training row than to the next, and "
        f"{b / len(real):.1%} of {len(real)} held-out rows; p = {p:.2g}",
        "Samples are copies of training rows: the network has learned them by heart.",
        patient.train(steps=max(1, run.resolved.training.steps // 4), seconds=None),
    )
