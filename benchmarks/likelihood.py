"""Log-likelihoods: errors beside what they say of themselves, calls, and time beside torchdiffeq's dopri5.

Run: .venv/bin/pip install --no-deps --target .peers --requirement benchmarks/peers.txt
     PYTHONPATH=.peers .venv/bin/python benchmarks/likelihood.py [--only accuracy hutchinson prior speed]

Scores are exact (correlated Gaussians with condition numbers up to 1000, mixtures of 3 to 25 correlated components; d =
2, 8, 64), so that log p is known; or small networks, trained for a moment, whose own density is known from a tolerance
a thousand times tighter, by both solvers. The peer is written as a user would: dopri5 on (x, log p) over [t_min, t_max]
with the same score and divergence, closed-form rates, and the loosest tolerance of a ladder (four to a power of ten)
at which its root-mean-square error is at most ours at our default tolerance. Ours counts its error estimate in.
Writes likelihood.json and likelihood.md to benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t as student
from timing import best_times, machine
from torch import Tensor
from torch.distributions import Categorical, Distribution, MixtureSameFamily, MultivariateNormal

from scorefield.calculus import NoisyScore, divergence
from scorefield.densities import Gaussian, GaussianMixture
from scorefield.fields import ScoreModel, at
from scorefield.likelihood import log_likelihood
from scorefield.networks import MLP
from scorefield.noise import VE, VP, Cosine, Noise, SubVP
from scorefield.objectives import noise_conditional
from scorefield.settings import MLPSize

RESULTS = Path(__file__).parent / "results"
NOISES: dict[str, Noise] = {"VE": VE(0.01, 50.0), "VP": VP(), "SubVP": SubVP(), "Cosine": Cosine()}
DIMENSIONS = (2, 8, 64)
Row = dict[str, Any]


def gaussian(d: int, condition: float) -> GaussianMixture:
    """Axes turned at random, variances from 1/condition to 1, a mean away from the origin."""
    g = torch.Generator().manual_seed(d)
    axes, _ = torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64))
    variances = torch.logspace(-math.log10(condition), 0, d, dtype=torch.float64)
    return Gaussian(torch.randn(d, generator=g, dtype=torch.float64), (axes * variances) @ axes.T)


def mixture(d: int, k: int) -> GaussianMixture:
    """Unequal weights, correlated components of width about 0.4 around means of size 2 per coordinate."""
    g = torch.Generator().manual_seed(100 * d + k)
    roots = torch.randn(k, d, d, generator=g, dtype=torch.float64) / math.sqrt(d)
    weights = torch.rand(k, generator=g, dtype=torch.float64) + 0.1
    means = 2 * torch.randn(k, d, generator=g, dtype=torch.float64)
    covariances = 0.15 * roots @ roots.mT + 0.02 * torch.eye(d, dtype=torch.float64)
    return GaussianMixture(weights / weights.sum(), means, covariances)


def laws(d: int) -> dict[str, GaussianMixture]:
    """The targets in d dimensions."""
    gaussians = {f"Gaussian, condition {c}": gaussian(d, c) for c in (1, 30, 1000)}
    return gaussians | {f"mixture of {k}": mixture(d, k) for k in (3, 10, 25)}


def problem(law: GaussianMixture, noise: Noise, count: int) -> tuple[Tensor, Tensor, Distribution]:
    """Draws at t_min, their log-density, and the exact law at t_max as a prior: what is left are the steps' errors."""
    start, end = law.blurred(noise, noise.t_min), law.blurred(noise, noise.t_max)
    x = start.sample((count,), generator=torch.Generator().manual_seed(1))
    prior = MixtureSameFamily(Categorical(end.weights), MultivariateNormal(end.means, end.covariances))
    return x, start.log_density(x), prior


class Counted:
    """A score that counts its calls and keeps its divergence."""

    def __init__(self, score: NoisyScore) -> None:
        self.score, self.calls = score, 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The score, counted."""
        self.calls += 1
        return self.score(x, t)

    def with_divergence(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The score and its divergence, one call."""
        self.calls += 1
        return self.score.with_divergence(x, t)  # pyright: ignore[reportFunctionMemberAccess]


def accuracy(count: int) -> list[Row]:
    """Errors and step errors over laws, schedules and tolerances, with the exact prior and with the score's own."""
    rows = []
    for d in DIMENSIONS:
        for name, law in laws(d).items():
            for schedule, noise in NOISES.items():
                x, truth, prior = problem(law, noise, count)
                for rtol in (1e-2, 1e-3, 1e-4, 1e-5):
                    for given in (prior, None):
                        score = Counted(law.noisy_score(noise))
                        found = log_likelihood(score, noise, x, rtol=rtol, prior=given)
                        assert found.evaluations == score.calls, (found.evaluations, score.calls)
                        error = (found.nats - truth).abs()
                        row: Row = {"d": d, "law": name, "schedule": schedule, "rtol": rtol, "calls": score.calls}
                        row |= {"prior": "exact" if given is not None else "the score's"}
                        row |= {
                            "points": len(x),
                            "worst": error.max().item() / d,
                            "above": int((error <= found.step_error).sum()),
                        }
                        rows.append(row | {"over": (found.step_error / error).median().item()})
    return rows


def hutchinson(count: int) -> list[Row]:
    """Coverage of 95 % Student intervals and bias of the estimate by 32 probes."""
    rows = []
    for d, name, law in (
        (8, "Gaussian", gaussian(8, 30)),
        (8, "mixture", mixture(8, 3)),
        (64, "Gaussian", gaussian(64, 30)),
    ):
        noise = VP()
        x, truth, prior = problem(law, noise, count)
        generator = torch.Generator().manual_seed(3)
        parts = [
            log_likelihood(
                law.noisy_score(noise), noise, some, method="hutchinson", probes=32, prior=prior, generator=generator
            )
            for some in x.split(500)
        ]
        nats, se, step = (torch.cat([getattr(p, key) for p in parts]) for key in ("nats", "probe_se", "step_error"))
        gap, fine = nats - truth, step <= se / 10
        covered = (gap.abs() <= float(student.ppf(0.975, 31)) * se)[fine].double().mean().item()
        bias = (gap.mean() / (gap.std() / math.sqrt(count))).item()
        rows.append({"d": d, "law": name, "cases": int(fine.sum()), "covered": covered, "bias in s.e.": bias})
    return rows


def priors() -> list[Row]:
    """What the law assumed at t_max costs: root-mean-square errors in nats, of one correlated mixture."""
    law, rows = mixture(8, 3), []
    for schedule, noise in NOISES.items():
        x, truth, _ = problem(law, noise, 200)
        known = noise.prior((8,), law.mean, law.covariance.diagonal())
        errors = {}
        for name, prior in (("plain", noise.prior((8,))), ("moments", known), ("read", None)):
            nats = log_likelihood(law.noisy_score(noise), noise, x, prior=prior, rtol=1e-7).nats
            errors[name] = (nats - truth).square().mean().sqrt().item()
        rows.append({"schedule": schedule} | errors)
    return rows


def rates(noise: Noise) -> Callable[[float], tuple[float, float]]:
    """F and g^2 in closed form, on numbers: the cheapest a user could write."""
    if isinstance(noise, VE):
        k = 2 * math.log(noise.sigma_max / noise.sigma_min)
        return lambda t: (0.0, k * noise.sigma_min**2 * math.exp(k * t))
    if isinstance(noise, Cosine):
        c = math.acos(noise.alpha_end)
        return lambda t: (-c * math.tan(c * t), 2 * c * math.tan(c * t))
    assert isinstance(noise, VP | SubVP)
    low, high = noise.beta_min, noise.beta_max

    def linear(t: float) -> tuple[float, float]:
        beta, whole = low + (high - low) * t, low * t + (high - low) * t * t / 2
        return -beta / 2, beta if isinstance(noise, VP) else -beta * math.expm1(-2 * whole)

    return linear


def dopri5(score: NoisyScore, noise: Noise, x: Tensor, prior: Distribution, rtol: float) -> tuple[Tensor, int]:
    """Log-likelihoods by torchdiffeq as a user writes them, and the calls of the score."""
    from torchdiffeq import odeint  # pyright: ignore[reportMissingImports]

    rate, d, calls = rates(noise), x.shape[1], 0

    def slope(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        f, g2 = rate(t.item())
        s, div = divergence(at(score, t), state[0])
        return f * state[0] - g2 / 2 * s, f * d - g2 / 2 * div

    start = (x, torch.zeros(len(x), dtype=x.dtype))
    ends = torch.tensor([noise.t_min, noise.t_max], dtype=torch.float64)
    with torch.no_grad():
        end, gathered = odeint(slope, start, ends, rtol=rtol, atol=rtol, method="dopri5")
        return prior.log_prob(end[-1]) + gathered[-1], calls


def trained(law: GaussianMixture, noise: Noise, width: int, depth: int) -> ScoreModel:
    """A small network after 300 steps."""
    torch.manual_seed(0)
    scale = law.covariance.diagonal().mean().sqrt().item()
    model = ScoreModel(MLP(len(law.mean), MLPSize(width=width, depth=depth)), noise, data_scale=scale)
    optimiser, g = torch.optim.Adam(model.parameters(), 2e-3), torch.Generator().manual_seed(0)
    for _ in range(300):
        x = (law.sample((256,), generator=g) - law.mean).float()
        loss = noise_conditional(model, x, noise=noise, weight=model.residual_weight, generator=g).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.double()


def beside(score: NoisyScore, noise: Noise, x: Tensor, prior: Distribution, truth: Tensor, repeats: int) -> Row:
    """Ours at its default tolerance and the peer at the loosest one that is at least as precise."""

    def error(nats: Tensor) -> float:
        return (nats - truth).square().mean().sqrt().item() / x[0].numel()

    ours = log_likelihood(score, noise, x, prior=prior)
    for quarter in range(4, 45):
        tolerance = 10 ** (-quarter / 4)
        try:
            theirs, calls = dopri5(score, noise, x, prior, tolerance)
        except AssertionError:  # it lost its way at this tolerance
            continue
        if error(theirs) <= error(ours.nats):
            break
    else:
        raise RuntimeError("dopri5 never was as precise")
    times = best_times(
        {
            "ours": lambda: log_likelihood(score, noise, x, prior=prior),
            "theirs": lambda: dopri5(score, noise, x, prior, tolerance),
        },
        repeats=repeats,
        warmup=1,
        clock=time.process_time,
    )
    row: Row = {"error": error(ours.nats), "calls": ours.evaluations, "ms": 1e3 * times["ours"]}
    row |= {"their tolerance": tolerance, "their error": error(theirs), "their calls": calls}
    above = ((ours.nats - truth).abs() <= ours.step_error).double().mean().item()
    return row | {"their ms": 1e3 * times["theirs"], "ratio": times["ours"] / times["theirs"], "above": above}


def speed(repeats: int) -> list[Row]:
    """Time at equal error, 100 points."""
    rows: list[Row] = []
    for d in DIMENSIONS:
        chosen = {"Gaussian": gaussian(d, 30), "mixture of 10": mixture(d, 10)}
        for schedule, noise in NOISES.items():
            for name, law in chosen.items():
                x, truth, prior = problem(law, noise, 100)
                row = beside(law.noisy_score(noise), noise, x, prior, truth, repeats)
                rows.append({"d": d, "score": name, "schedule": schedule} | row)
                print(rows[-1], flush=True)
            if schedule == "SubVP":
                continue
            law = chosen["mixture of 10"]
            model = trained(law, noise, 128, 2)
            x = problem(law, noise, 100)[0] - law.mean
            prior = noise.prior((d,), 0.0, law.covariance.diagonal())
            truth = log_likelihood(model, noise, x, prior=prior, rtol=1e-7).nats
            other, _ = dopri5(model, noise, x, prior, 1e-8)
            assert (truth - other).abs().max() < 1e-5 * d
            row = beside(model, noise, x, prior, truth, repeats)
            rows.append({"d": d, "score": "network", "schedule": schedule} | row)
            print(rows[-1], flush=True)
    return rows


def tables(found: dict[str, list[Row]]) -> str:
    """The figures as Markdown."""
    lines = []
    if "accuracy" in found:
        lines += ["| d | rtol | worst error, nats per dimension | step error ≥ error | median of step error / error |"]
        lines += ["|---|---|---|---|---|"]
        for d in DIMENSIONS:
            for rtol in (1e-2, 1e-3, 1e-4, 1e-5):
                rows = [r for r in found["accuracy"] if (r["d"], r["rtol"], r["prior"]) == (d, rtol, "exact")]
                above, points = sum(r["above"] for r in rows), sum(r["points"] for r in rows)
                worst, over = max(r["worst"] for r in rows), statistics.median(r["over"] for r in rows)
                share = f"{100 * above / points:.1f} % of {points}"
                lines.append(f"| {d} | {rtol:.0e} | {worst:.1e} | {share} | {over:.0f} |")
        own = [r for r in found["accuracy"] if r["prior"] != "exact" and r["rtol"] == 1e-4]
        lines += ["", f"With the prior read off the score, rtol 1e-4: worst {max(r['worst'] for r in own):.1e}.", ""]
    if "hutchinson" in found:
        lines += [
            "| d | score | cases | covered, 92 to 98 % | bias in standard errors, below 4 |",
            "|---|---|---|---|---|",
        ]
        for r in found["hutchinson"]:
            lines.append(
                f"| {r['d']} | {r['law']} | {r['cases']} | {100 * r['covered']:.1f} % | {r['bias in s.e.']:+.1f} |"
            )
        lines.append("")
    if "prior" in found:
        lines += ["| schedule | plain | the data's mean and variances | read off the score |", "|---|---|---|---|"]
        for r in found["prior"]:
            lines.append(f"| {r['schedule']} | {r['plain']:.1e} | {r['moments']:.1e} | {r['read']:.1e} |")
        lines.append("")
    if "speed" in found:
        lines += [
            "| score | d | schedule | error | calls | ms | dopri5: calls | ms | time over dopri5's |",
            "|" + "---|" * 9,
        ]
        for r in sorted(found["speed"], key=lambda r: (r["score"], r["d"])):
            ratio = f"{r['ratio']:.2f}" if r["ratio"] <= 0.6 else f"**{r['ratio']:.2f}**"
            cells = (r["score"], r["d"], r["schedule"], f"{r['error']:.0e}", r["calls"], f"{r['ms']:.0f}")
            lines.append("| " + " | ".join(map(str, (*cells, r["their calls"], f"{r['their ms']:.0f}", ratio))) + " |")
        ratios = [r["ratio"] for r in found["speed"]]
        inside = sum(r <= 0.6 for r in ratios)
        lines += ["", f"Median {statistics.median(ratios):.2f}; at most 0.6 in {inside} of {len(ratios)}.", ""]
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {
        "accuracy": lambda o: accuracy(o.points),
        "hutchinson": lambda o: hutchinson(2000),
        "prior": lambda _: priors(),
        "speed": lambda o: speed(o.repeats),
    }
    parser.add_argument("--only", nargs="+", choices=list(parts), default=list(parts))
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = options.out / "likelihood.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    print(machine())
    for name in options.only:
        found[name] = parts[name](options)
        print(tables({name: found[name]}), flush=True)
    options.out.mkdir(exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    (options.out / "likelihood.md").write_text(tables(found))


if __name__ == "__main__":
    main()
