r"""The log-density of data under a run, in the units of the data.

A run learns scaled data, $x' = R\,(x - m)/c$; $\log p(x) = \log p'(x') - \sum_j \log c_j + \log|\det R|$. Where all
noise levels were learned, $\log p'$ is the probability flow's, from the very prior that `Run.sample` starts from. An
energy of one law is known up to its constant: $\log Z$ then comes from annealed importance sampling.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from scorefield.calculus import NoisyScore, PerSample, Score
from scorefield.checks import check_choice, check_count, check_positive
from scorefield.densities import GaussianMixture
from scorefield.fields import at, given
from scorefield.likelihood import (
    BitsPerDim,
    Grid,
    LogLikelihood,
    LogPartition,
    annealed_importance,
    bits_per_dim,
    dequantise,
    log_likelihood,
)
from scorefield.noise import Noise
from scorefield.runs.samples import prior_of, write_whole
from scorefield.samplers import MALA, warm_up

if TYPE_CHECKING:
    from scorefield.runs.run import Run

CHUNK = 100  # rows per call
PILOTS = 16  # training rows for which the steps are chosen where there are no probes: no row then depends on others
WIDE = 1.5  # standard deviation of the base of log Z, in those of the data: wider than what it must cover
KNOTS = 200  # temperatures between the base and the energy
WARM_UP = 100  # moves in which MALA finds its step size


@dataclass(frozen=True, eq=False)
class RunLikelihood:
    r"""Log-densities of rows under a run, each with its errors.

    Attributes:
        nats: $\log p(x)$ per row in the units of the data, (n,), float64.
        probe_se: standard error from random probes, (n,); 0 for the exact divergence.
        step_error: how much steps of twice the length would have changed, added up, (n,); 0 where no flow was
            followed.
        method: `"exact"`, `"hutchinson"`, or `"importance"` for an energy of one law.
        law: in words, whose density this is.
        evaluations: score calls per row.
        bits: bits per dimension, for data on a grid; None otherwise.
        log_z: the energy's normaliser, in scaled units; None where none was needed.
    """

    nats: Tensor
    probe_se: Tensor
    step_error: Tensor
    method: str
    law: str
    evaluations: int
    bits: BitsPerDim | None
    log_z: LogPartition | None

    def to_json(self) -> dict[str, Any]:
        """Means over the rows with their standard errors, and each row's values; plain numbers, for JSON."""
        log_z = self.log_z and {
            "value": self.log_z.value,
            "standard_error": self.log_z.standard_error,
            "effective_samples": self.log_z.effective_samples,
        }
        bits = self.bits and {
            "value": self.bits.value,
            "standard_error": self.bits.standard_error,
            "dequantisation": self.bits.dequantisation,
        }
        rows = {name: getattr(self, name).tolist() for name in ("nats", "probe_se", "step_error")}
        summary = {"n": len(self.nats), "mean_nats": self.mean, "standard_error": self.standard_error}
        how = {"method": self.method, "law": self.law, "evaluations": self.evaluations}
        return {**summary, **how, "bits_per_dim": bits, "log_z": log_z, "rows": rows}

    @property
    def mean(self) -> float:
        """The mean log-density over the rows."""
        return self.nats.mean().item()

    @property
    def standard_error(self) -> float | None:
        """Of the mean, from the spread over the rows; None for one row."""
        return self.nats.std().item() / math.sqrt(len(self.nats)) if len(self.nats) > 1 else None


def run_likelihood(
    run: Run,
    x: np.ndarray | Tensor,
    *,
    label: str | int | None = None,
    method: str | None = None,
    probes: int = 32,
    rtol: float = 1e-4,
    bin_width: float | None = None,
    particles: int = 1000,
    seed: int = 0,
) -> RunLikelihood:
    r"""Log-densities of rows in the units of the data, $\log p(x) = \log p'(x') + \log|\det \partial x'/\partial x|$.

    Args:
        run: a run with a checkpoint.
        x: rows, (n, *D), finite, in the units of the data.
        label: the class whose law is meant; None for the law of all classes.
        method: exact or hutchinson divergence along the probability flow; None for exact with vectors, hutchinson
            with images. Not for a run of one law, whose energy is normalised by importance sampling.
        probes: of hutchinson.
        rtol: tolerance of the flow's steps, which are chosen for 16 training rows and taken again for all; with
            hutchinson for each 100 rows of their own.
        bin_width: spacing of data that lie on a grid: uniform noise is added and bits per dimension are told.
        particles: of the importance sampling.
        seed: of probes, dequantisation and particles.

    Raises:
        ValueError: rows of another shape, an unknown label or method, or a run that has no density.
    """
    recipe, dataset, x = run.recipe, run.dataset, np.asarray(x)
    model, y = run.load_model(), run.label_number(label)
    law = run.noise if recipe.at_all_levels else run.sigma
    if not np.isfinite(x).all():
        raise ValueError("x must be finite, got nan or infinity; leave those rows out")
    if x.shape[1:] != dataset.shape:
        raise ValueError(f"data must have rows of shape {dataset.shape}, as the run's, got {x.shape[1:]}")
    check_count("seed", seed, least=0)
    if method is not None:
        check_choice("method", method, ("exact", "hutchinson"))
    if bin_width is not None:
        check_positive("bin_width", bin_width)
        x = dequantise(torch.from_numpy(x.astype(np.float64)), bin_width, generator=_seeded(seed)).numpy()
    vectors = dataset.info.kind == "vector"
    model = model.double() if vectors else model
    scaled = dataset.info.scaling.apply(x).to(next(model.parameters()))

    def score(n: int) -> NoisyScore:
        return given(model, None if y is None else torch.full((n,), y, device=scaled.device))

    log_z, sigma = None, law
    if isinstance(law, Noise):
        method = method or ("exact" if vectors else "hutchinson")
        sigma = law.sigma(torch.tensor(law.t_min, dtype=torch.float64)).item()
        train = dataset.train_rows[np.linspace(0, len(dataset.train_rows) - 1, PILOTS).round().astype(int)]
        found = _by_flow(
            score, law, scaled, dataset.x_scaled(train).to(scaled), method=method, probes=probes, rtol=rtol, seed=seed
        )
    else:
        if recipe.model != "energy" or not vectors:
            raise ValueError(
                "a density needs all noise levels, or an energy of vectors; this run learned "
                f"{'an energy of images' if recipe.model == 'energy' else 'a score'} at one law by objective "
                f"{recipe.objective}. Train with objective noise-conditional"
            )
        if method is not None:
            raise ValueError(f"method is an option of runs with all noise levels, got {method!r}; leave it out")
        method, log_z = "importance", _log_z(at(score(particles), None), dataset.shape, particles, seed)
        with torch.no_grad():
            levels = [at(score(len(rows)), None).log_density(rows) for rows in scaled.split(CHUNK)]  # pyright: ignore[reportFunctionMemberAccess]
        nats = torch.cat(levels).cpu() - log_z.value
        found = LogLikelihood(nats, torch.zeros_like(nats), torch.zeros_like(nats), 1)
    nats = found.nats + dataset.info.scaling.log_volume(dataset.shape)
    bits = None if bin_width is None else bits_per_dim(nats, math.prod(dataset.shape), bin_width)
    along = "" if dataset.info.scaling.root is None else " along decorrelated directions"
    said = f"the data with normal noise of {sigma:.3g} of their standard deviations{along}" if sigma else "the data"
    return RunLikelihood(nats, found.probe_se, found.step_error, method, said, found.evaluations, bits, log_z)


def _by_flow(
    score: Callable[[int], NoisyScore],
    noise: Noise,
    x: Tensor,
    pilots: Tensor,
    *,
    method: str,
    probes: int,
    rtol: float,
    seed: int,
) -> LogLikelihood:
    """The probability flow's log-likelihood of scaled rows, from the prior that samples start from.

    Chunk by chunk: without probes in the steps that the pilots need, else in their own. Row i has stream i of probes.
    """
    how = {"method": method, "probes": probes, "rtol": rtol, "prior": prior_of(noise, x.shape[1:])}

    def followed(rows: Tensor, first: int, steps: Grid | None) -> LogLikelihood:
        generator = PerSample(seed, range(first, first + len(rows)))
        return log_likelihood(score(len(rows)), noise, rows, **how, steps=steps, generator=generator)

    grid = followed(pilots, 0, None).grid if method == "exact" else None
    parts = [followed(rows, k * CHUNK, grid) for k, rows in enumerate(x.split(CHUNK))]
    nats, probe_se, step_error = (
        torch.cat([getattr(p, name) for p in parts]).cpu() for name in ("nats", "probe_se", "step_error")
    )
    return LogLikelihood(nats, probe_se, step_error, max(p.evaluations for p in parts))


def _log_z(target: Score, shape: tuple[int, ...], particles: int, seed: int) -> LogPartition:
    """Log Z of an energy of scaled vectors, from a normal law wider than the data, by MALA tuned to the energy."""
    d = shape[0]
    base = GaussianMixture([1.0], torch.zeros(1, d), WIDE**2 * torch.eye(d)[None])
    start = base.sample((particles,), generator=_seeded(seed))
    kernel, _ = warm_up(MALA(0.1), target, start, steps=WARM_UP, generator=_seeded(seed))
    energy = target.log_density  # pyright: ignore[reportFunctionMemberAccess]
    return annealed_importance(
        energy, base, kernel=kernel, particles=particles, betas=KNOTS, generator=_seeded(seed + 1)
    )


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def write_likelihood(path: Path, found: RunLikelihood) -> Path:
    """Write `nats`, `probe_se` and `step_error` of each row as .npz or .csv, whole or not at all.

    Raises:
        ValueError: the file is named otherwise.
    """
    if path.suffix not in (".npz", ".csv"):
        raise ValueError(f"likelihoods are written as .npz or .csv, got the output {path}; name it {path.stem}.csv")
    columns = {name: getattr(found, name).numpy() for name in ("nats", "probe_se", "step_error")}

    def fill(file: IO[bytes]) -> None:
        if path.suffix == ".npz":
            np.savez(file, allow_pickle=False, **columns)
        else:
            header = ",".join(columns)
            np.savetxt(file, np.stack(list(columns.values()), 1), "%.10g", ",", header=header, comments="")

    return write_whole(path, fill)
