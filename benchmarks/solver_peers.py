"""The solvers of azula, diffusers and k-diffusion, each made to carry the same batch along the same levels.

Every library sees its own form of the state: azula the schedule itself, k-diffusion x/alpha with noise sigma/alpha,
diffusers the variance-preserving form of the same signal-to-noise ratio. Tweedie's mean of our exact score is its
model. A solver is (name, calls per step or None if it takes the calls themselves, run).
"""

from __future__ import annotations

import importlib
import logging
import sys
import types
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from peers import alone
from torch import Tensor

from scorefield.calculus import NoisyScore
from scorefield.fields import denoise
from scorefield.noise import Noise


class Problem(NamedTuple):
    """A score, its schedule and the batch at t_max."""

    score: NoisyScore
    noise: Noise
    x: Tensor


class Counter:
    """Tweedie's mean at (x, t), counted."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.calls = problem, 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The denoised state."""
        self.calls += 1
        return denoise(self.problem.score, self.problem.noise, x, t)


Run = Callable[[Problem, Tensor], tuple[Tensor, int]]


def azula_solvers() -> Iterator[tuple[str, int, Run]]:
    """Its deterministic samplers, orders 3 and 4 of each multistep one (REAB's error levels off at 1e-2: left out)."""
    sample = importlib.import_module("azula.sample")

    def runner(kind: type, **settings: Any) -> Run:
        def run(problem: Problem, times: Tensor) -> tuple[Tensor, int]:
            counter, n = Counter(problem), len(times) - 1
            marks = dict(zip(range(n + 1), times, strict=True))

            def at(u: Tensor) -> Tensor:  # azula walks evenly from 1 to 0; our grid stands there
                return torch.stack([marks[round((1 - v) * n)] for v in u.reshape(-1).tolist()]).reshape(u.shape)

            class Given:
                def schedule(self, u: Tensor) -> tuple[Tensor, Tensor]:
                    return problem.noise.alpha(at(u)), problem.noise.sigma(at(u))

                def __call__(self, x: Tensor, u: Tensor, **_: Any) -> SimpleNamespace:
                    return SimpleNamespace(mean=counter(x, at(u)))

            sampler = kind(Given(), steps=n, silent=True, dtype=torch.float64, **settings)
            return sampler(problem.x), counter.calls

        return run

    yield "azula Heun", 2, runner(sample.HeunSampler)
    for kind in ("zAB", "vAB", "zEAB", "xEAB"):
        for order in (3, 4):
            yield f"azula {kind} {order}", 1, runner(getattr(sample, f"{kind}Sampler"), order=order)


def k_diffusion_solvers() -> Iterator[tuple[str, int, Run]]:
    """Its deterministic samplers on sigma/alpha."""
    utilities = types.ModuleType("k_diffusion.utils")  # the real one imports torchvision
    utilities.append_dims = lambda x, n: x[(...,) + (None,) * (n - x.ndim)]  # type: ignore[attr-defined]
    sys.modules.setdefault("k_diffusion.utils", utilities)
    sampling = alone("k_diffusion", "sampling")

    def runner(function: Callable[..., Tensor], **settings: Any) -> Run:
        def run(problem: Problem, times: Tensor) -> tuple[Tensor, int]:
            noise, counter = problem.noise, Counter(problem)
            ratios = noise.sigma(times) / noise.alpha(times)

            def model(x: Tensor, sigma: Tensor) -> Tensor:
                t = noise.time_at(sigma.reshape(-1)[0].double())
                return counter(x * noise.alpha(t), t)

            x = function(model, problem.x / noise.alpha(times[0]), ratios, disable=True, **settings)
            return x * noise.alpha(times[-1]), counter.calls

        return run

    yield "k-diffusion Heun", 2, runner(sampling.sample_heun)
    yield "k-diffusion DPM++ 2M", 1, runner(sampling.sample_dpmpp_2m)
    yield "k-diffusion LMS 4", 1, runner(sampling.sample_lms, order=4)


def diffusers_solvers() -> Iterator[tuple[str, int, Run]]:
    """Its multistep schedulers with their own numerics and our levels."""
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    diffusers = importlib.import_module("diffusers")

    def runner(kind: str, **settings: Any) -> Run:
        def run(problem: Problem, times: Tensor) -> tuple[Tensor, int]:
            noise, counter, n = problem.noise, Counter(problem), len(times) - 1
            ratios = noise.sigma(times) / noise.alpha(times)
            keep = (1 + ratios**2).rsqrt()
            scheduler = getattr(diffusers, kind)(prediction_type="sample", **settings)
            scheduler.set_timesteps(n)
            scheduler.sigmas, scheduler.timesteps = ratios, torch.arange(n, 0, -1)
            x = problem.x / noise.alpha(times[0]) * keep[0]
            for k, mark in enumerate(scheduler.timesteps):
                clean = counter(x / keep[k] * noise.alpha(times[k]), times[k])
                x = scheduler.step(clean, mark, x).prev_sample
            return x / keep[-1] * noise.alpha(times[-1]), counter.calls

        return run

    settings = {"final_sigmas_type": "sigma_min"}
    for order in (2, 3):
        name = f"diffusers DPM++ {order}"
        yield name, 1, runner("DPMSolverMultistepScheduler", solver_order=order, **settings)
        for final in (True, False):
            last = "" if final else ", no low order at the end"
            name = f"diffusers UniPC {order}{last}"
            yield name, 1, runner("UniPCMultistepScheduler", solver_order=order, lower_order_final=final, **settings)
    yield "diffusers DEIS 3", 1, runner("DEISMultistepScheduler", solver_order=3)


def all_peers() -> list[tuple[str, int, Run]]:
    """Every solver of theirs; what is not installed is named in the error."""
    return [*azula_solvers(), *k_diffusion_solvers(), *diffusers_solvers()]
