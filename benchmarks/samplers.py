"""Langevin on exact mixture scores beside torchebm, and effective samples per second beside blackjax.

Run: .venv/bin/pip install --no-deps --target .peers torchebm==0.8.9
     .venv/bin/pip install --target .jax "jax[cpu]==0.10.2" blackjax==1.7.1
     PYTHONPATH=.peers:.jax .venv/bin/python benchmarks/samplers.py [--repeats 15] [--only langevin|memory|effective]

One thread, processor time (of all threads, should a peer use more); every figure is the median over repetitions that
alternate between the competitors in one process, and every ratio the median of the ratios of neighbouring repetitions.
A peer that is not installed is left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import resource
import statistics
import time
from collections.abc import Callable, Mapping

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import numpy as np
import torch
from timing import machine, report
from torch import Tensor

from scorefield.densities import Density, Funnel, Gaussian, GaussianMixture, MixtureScore
from scorefield.samplers import HMC, MALA, Langevin, Samples, chain, warm_up

PARTICLES, STEPS = 10_000, 50


def paired(functions: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Processor seconds of every call, the functions taking turns; two rounds to warm up are dropped."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for k in range(repeats + 2):
        for name, function in functions.items():
            start = time.process_time()
            function()
            seconds[name] += [time.process_time() - start] if k >= 2 else []
    return seconds


def ratio(a: list[float], b: list[float]) -> float:
    """The median of a/b over neighbouring repetitions."""
    return statistics.median(p / q for p, q in zip(a, b, strict=True))


def mixtures(d: int) -> dict[str, GaussianMixture]:
    """Mixtures in d dimensions, their components about two widths apart."""
    g = torch.Generator().manual_seed(0)
    identity = torch.eye(d, dtype=torch.float64)
    weights = {k: torch.arange(1, k + 1, dtype=torch.float64) / (k * (k + 1) / 2) for k in (4, 8)}
    means = {k: 3 / math.sqrt(d) * torch.randn(k, d, generator=g, dtype=torch.float64) for k in (4, 8)}
    variances = 0.5 + torch.rand(4, d, generator=g, dtype=torch.float64)
    root = torch.randn(4, d, d, generator=g, dtype=torch.float64) / math.sqrt(d)
    return {
        "4 components, one width": GaussianMixture(weights[4], means[4], identity.expand(4, d, d)),
        "8 components, one width": GaussianMixture(weights[8], means[8], identity.expand(8, d, d)),
        "4 components, diagonal": GaussianMixture(weights[4], means[4], torch.diag_embed(variances)),
        "4 components, any": GaussianMixture(weights[4], means[4], root @ root.mT + 0.3 * identity),
    }


def torchebm_langevin(law: GaussianMixture, x: Tensor, h: float) -> Callable[[], object] | None:
    """Torchebm's sampler on the same mixture, its energy by logsumexp; torchebm takes the gradient by autograd."""
    if importlib.util.find_spec("torchebm") is None:
        return None
    from torchebm.core import BaseModel
    from torchebm.samplers import LangevinDynamics

    precision = torch.linalg.inv(law.covariances).float()
    isotropic = torch.equal(law.covariances, torch.eye(x.shape[1]).double().expand_as(law.covariances))
    means, offset = law.means.float(), (law.weights.log() + torch.logdet(precision.double()) / 2).float()

    heights = (offset - means.square().sum(1) / 2)[:, None]

    class Mixture(BaseModel):
        def forward(self, at: Tensor) -> Tensor:
            if isotropic:  # components first, and |x|^2 outside: the fastest energy we found for torchebm
                return at.square().sum(1) / 2 - torch.addmm(heights, means, at.T).logsumexp(0)
            apart = at[:, None] - means
            squares = torch.einsum("bki,kij,bkj->bk", apart, precision, apart)
            return -torch.logsumexp(offset - squares / 2, 1)

    sampler = LangevinDynamics(Mixture(), step_size=h, noise_scale=1.0)
    return lambda: sampler.sample(x=x, n_steps=STEPS)


def langevin(repeats: int) -> None:
    """Steps per second of Langevin with 10,000 particles in float32."""
    for d in (2, 64):
        for name, law in mixtures(d).items():
            x, h = law.sample((PARTICLES,), generator=torch.Generator().manual_seed(1)).float(), 0.01
            score, buffer = law.prepared(torch.float32), torch.empty(PARTICLES, d)
            functions: dict[str, Callable[[], object]] = {
                "scorefield": lambda s=score, x=x, h=h: chain(Langevin(h), s, x, steps=STEPS),
                "the noise alone": lambda b=buffer: [b.normal_() for _ in range(STEPS)],
            }
            peer = torchebm_langevin(law, x, h)
            functions |= {} if peer is None else {"torchebm": peer}
            seconds = paired(functions, repeats)
            rows = {k: f"{STEPS / statistics.median(t):8.0f} steps/s" for k, t in seconds.items()}
            ours = seconds["scorefield"]
            rows["time over the noise's"] = f"{ratio(ours, seconds['the noise alone']):.2f} (target <= 3)"
            if peer is not None:
                target = 4 if d == 2 else 1.6
                rows["steps over torchebm's"] = f"{ratio(seconds['torchebm'], ours):.2f} (target >= {target})"
            report(f"Langevin, {PARTICLES} particles, d = {d}, {name}", rows)


def memory() -> None:
    """What a chain of a million particles in the plane adds to the process."""
    law = mixtures(2)["4 components, one width"]
    x = law.sample((1_000_000,)).float()
    for kernel in (Langevin(0.01), MALA(0.5)):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        chain(kernel, law.prepared(torch.float32), x, steps=100, totals=True)
        seconds = time.perf_counter() - start
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10
        name = type(kernel).__name__
        report(f"a million particles, 100 steps, {name}", {"seconds": f"{seconds:.1f}", "peak": f"+{grown:.0f} MiB"})


def targets() -> dict[str, tuple[Density | MixtureScore, Callable | None, Tensor]]:
    """A Gaussian in 50 dimensions with correlations 0.9^|i - j|, and Neal's funnel in 10: ours, jax's, and draws."""
    i = torch.arange(50)
    covariance = 0.9 ** (i[:, None] - i).abs().double()
    gaussian, funnel = Gaussian(torch.zeros(50), covariance), Funnel(10, 3.0, torch.float32)
    density: dict[str, Callable] = {}
    if importlib.util.find_spec("blackjax") is not None:
        import jax.numpy as jnp

        precision = jnp.asarray(torch.linalg.inv(covariance).float().numpy())
        density["gaussian"] = lambda x: -x @ precision @ x / 2
        density["funnel"] = lambda x: -(x[0] ** 2) / 18 - 4.5 * x[0] - jnp.sum(x[1:] ** 2) * jnp.exp(-x[0]) / 2
    g = torch.Generator().manual_seed(0)
    return {
        "Gaussian, d = 50": (
            gaussian.prepared(torch.float32),
            density.get("gaussian"),
            gaussian.sample((1000,), generator=g),
        ),
        "funnel, d = 10": (funnel, density.get("funnel"), funnel.sample((1000,), generator=g)),
    }


def blackjax_chain(kernel: HMC | MALA, density: Callable, x: Tensor, steps: int) -> Callable[[], np.ndarray]:
    """Blackjax's chains with the settings of `kernel`, vectorised over chains and compiled: the path (steps, B, d)."""
    import blackjax
    import jax
    import jax.numpy as jnp

    d = x.shape[1]
    if isinstance(kernel, HMC):
        algorithm = blackjax.hmc(density, kernel.step_size, jnp.ones(d), kernel.steps)
    else:
        algorithm = blackjax.mala(density, kernel.step_size)

    @jax.jit
    def run(key, start):  # noqa: ANN202
        def step(state, key):  # noqa: ANN202
            state, _ = jax.vmap(algorithm.step)(jax.random.split(key, len(x)), state)
            return state, state.position

        return jax.lax.scan(step, jax.vmap(algorithm.init)(start), jax.random.split(key, steps))[1]

    start, seeds = jnp.asarray(x.float().numpy()), iter(range(10**6))
    return lambda: np.array(run(jax.random.PRNGKey(next(seeds)), start).block_until_ready())


def effective(repeats: int, steps: int = 200) -> None:
    """Effective samples per second of HMC and MALA, for the coordinate that mixes worst; chains start in the law."""
    for name, (law, density, draws) in targets().items():
        for chains in (100, 1000):
            x = draws[:chains].float()
            for first in (MALA(0.01), HMC(0.1, 10)):
                g = torch.Generator().manual_seed(0)
                kernel, _ = warm_up(first, law, draws[:100].float(), steps=100, generator=g)
                ways: dict[str, Callable[[], object]] = {
                    "scorefield": lambda k=kernel, x=x, t=law: chain(k, t, x, steps=steps, keep=1).path
                }
                if density is not None:
                    ways["blackjax"] = blackjax_chain(kernel, density, x, steps)
                seconds = paired(ways, repeats)
                rates, rows = {}, {}
                for way, function in ways.items():
                    path = torch.as_tensor(function())
                    ess = Samples(path[-1], path).ess(method="mean").min().item()
                    rates[way] = [ess / t for t in seconds[way]]
                    rows[way] = f"{statistics.median(rates[way]):9.0f} ESS/s   {ess:8.0f} ESS of {steps * chains}"
                if density is not None:
                    rows["ratio (target >= 1)"] = f"{ratio(rates['scorefield'], rates['blackjax']):.2f}"
                report(f"{name}, {type(kernel).__name__}, step {kernel.step_size:.3g}, {chains} chains", rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--only", choices=("langevin", "memory", "effective"), default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(machine())
    if options.only in (None, "langevin"):
        langevin(options.repeats)
    if options.only in (None, "memory"):
        memory()
    if options.only in (None, "effective"):
        effective(max(3, options.repeats // 3))


if __name__ == "__main__":
    main()
