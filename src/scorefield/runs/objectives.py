"""The objective of a run: at every noise level, or any objective of one law, by its name in the recipe."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from scorefield.calculus import Generator, inner, rand_rows, randn_like
from scorefield.checks import check_between, check_choice, check_count, check_non_negative, check_positive
from scorefield.fields import at, given
from scorefield.noise import Noise
from scorefield.objectives import (
    Replay,
    contrastive_divergence,
    denoising,
    finite_difference_sliced,
    implicit_terms,
    noise_conditional,
    noise_conditional_sliced,
    noise_contrastive,
    persistent_contrastive_divergence,
    sliced_terms,
    uniform_times,
)
from scorefield.samplers import MALA
from scorefield.settings import CONTRASTIVE, MODELS, OBJECTIVES, Recipe

LEVEL_MEAN, LEVEL_SPREAD = -0.5, 1.2  # of log(sigma/alpha) for data of unit scale: EDM's -1.2 at scale 0.5, and 1.2
WITH_PROBES = ("noise-conditional-sliced", "sliced", "finite-difference")
DENOISING = ("noise-conditional", "denoising")
WITH_CHAINS = ("contrastive-divergence", "persistent")
STEP = 0.02  # of finite differences, in units of the scaled data
DIFFERENTIATED = ("noise-conditional-sliced", "implicit", "sliced")  # their loss holds a derivative of the score in x
BAND, BANDS = "sigma/alpha", 4  # name and number of the bands of noise by which the loss is told


def check_objective(recipe: Recipe) -> None:
    """Refuse an objective, a model, or a setting of theirs that does not go with the others, with the way out."""
    if recipe.classifier:
        _refuse_idle(
            recipe,
            "a classifier",
            {name: False for name in ("model", "objective", "predicts", "label_dropout", "antithetic", "tilt")},
        )
    check_choice("model", recipe.model, MODELS)
    check_choice("objective", recipe.objective, OBJECTIVES)
    check_count("probes", recipe.probes)
    check_count("chain_steps", recipe.chain_steps)
    check_positive("chain_step_size", recipe.chain_step_size)
    check_between("tilt", recipe.tilt, 0.0, 1.0)
    if recipe.sigma is not None:
        (check_positive if recipe.objective == "denoising" else check_non_negative)("sigma", recipe.sigma)
    if recipe.objective in CONTRASTIVE and recipe.model != "energy":
        raise ValueError(
            f"model must be energy for objective {recipe.objective}, which compares log-densities, and a score network "
            f"has none; got {recipe.model!r}; give --model energy"
        )
    if recipe.compile and (recipe.model == "energy" or recipe.objective in DIFFERENTIATED):
        raise ValueError(
            f"compile must be left out for model {recipe.model} and objective {recipe.objective}: torch's compiler "
            "does not differentiate a derivative"
        )
    if recipe.objective == "finite-difference" and recipe.precision == "bf16":
        raise ValueError(
            "precision must be fp32 or fp64 for objective finite-difference: bf16 rounds its differences away"
        )
    if recipe.objective == "persistent" and recipe.devices > 1:
        raise ValueError(f"devices must be 1 for objective persistent, whose chains are one pool, got {recipe.devices}")
    if not recipe.at_all_levels and recipe.predicts not in ("edm", "score"):
        raise ValueError(
            f"predicts must be edm or score for objective {recipe.objective}, which learns one law without noise "
            f"levels; got {recipe.predicts!r}"
        )
    read = {
        "noise": recipe.at_all_levels,
        "sigma": not recipe.at_all_levels,
        "antithetic": recipe.objective in DENOISING,
        "tilt": recipe.at_all_levels,
        "probes": recipe.objective in WITH_PROBES,
        "chain_steps": recipe.objective in WITH_CHAINS,
        "chain_step_size": recipe.objective in WITH_CHAINS,
    }
    _refuse_idle(recipe, f"objective {recipe.objective}", read)


def _refuse_idle(recipe: Recipe, what: str, read: Mapping[str, bool]) -> None:
    """An option is honoured or refused: one that is not read must have its default."""
    for option in dataclasses.fields(Recipe):
        value = getattr(recipe, option.name)
        if not read.get(option.name, True) and value != option.default:
            raise ValueError(f"{option.name} means nothing to {what}, got {value!r}; leave it out")


class LabelledNoise:
    r"""The objective of a run at all noise levels, weighted so that the residual counts alike at every level.

    With a tilt the weight grows by $(1 + \alpha_t^2/\sigma_t^2)^{\text{tilt}}$: the variance of the target in units of
    the score is $1/\sigma_t^2$, but with antithetic noise it stays bounded as the noise vanishes, and the weight of
    least variance is then that of tilt 1.

    Levels are drawn log-normal in $\sigma_t/\alpha_t$ (Karras et al. 2022, table 1), within the schedule's range, or
    uniformly in t (over the levels of a `Levels`). Labels are hidden (-1) with probability `label_dropout`.

    Args:
        noise: the schedule.
        levels: `"log-normal"` or `"uniform"`.
        label_dropout: fraction of labels to hide.
        probes: None for denoising; else sliced score matching at the levels, with so many directions.
        antithetic: average over z and -z; denoising only.
        tilt: power of 1 + (alpha/sigma)² in the weight.
    """

    def __init__(
        self,
        noise: Noise,
        levels: str,
        label_dropout: float,
        probes: int | None = None,
        *,
        antithetic: bool = False,
        tilt: float = 0.0,
    ) -> None:
        check_choice("levels", levels, ("log-normal", "uniform"))
        self.noise, self.label_dropout, self.probes = noise, label_dropout, probes
        self.antithetic, self.tilt = antithetic, tilt
        self._table = _log_normal_times(noise) if levels == "log-normal" else None
        quarters = torch.linspace(0, 1, BANDS + 1, dtype=torch.float64)
        if self._table is None:
            edges = noise.t_min + (noise.t_max - noise.t_min) * quarters
        else:
            edges = self._table[(quarters * (len(self._table) - 1)).round().long()]
        ratio = noise.ratio(edges).tolist()
        self._edges = edges[1:-1]
        self.bands = tuple(f"{BAND} {low:.2g} to {high:.2g}" for low, high in pairwise(ratio))

    def times(self, batch: Any, generator: Generator) -> Tensor:
        """The time of each row: the first thing drawn from the generator, (B,), float64."""
        if self._table is None:
            return uniform_times(self.noise, batch.x, generator)
        place = rand_rows(batch.x, generator) * (len(self._table) - 1)
        table, below = self._table.to(place.device), place.long()
        return torch.lerp(table[below], table[below + 1], place - below)

    def levels(self, batch: Any, generator: Generator) -> Tensor:
        """The standard deviation of the noise in each row, for error messages."""
        return self.noise.sigma(self.times(batch, generator))

    def weight(self, t: Tensor) -> Tensor:
        """What the squared error of the score is multiplied by at each time, like t."""
        return self.noise.residual_weight(t) * (1 + self.noise.ratio(t) ** -2) ** self.tilt

    def __call__(self, model: Any, batch: Any, generator: Generator) -> Tensor:
        """Loss per sample, (B,)."""
        return self._at_its_time(model, batch, generator)[1]

    def terms(self, model: Any, batch: Any, generator: Generator) -> dict[str, Tensor]:
        """The same, apart by bands of noise over signal with a quarter of the rows in each: they add up to it."""
        t, loss = self._at_its_time(model, batch, generator)
        band = torch.bucketize(t, self._edges.to(t))
        return {name: torch.where(band == k, loss, 0.0) for k, name in enumerate(self.bands)}

    def _at_its_time(self, model: Any, batch: Any, generator: Generator) -> tuple[Tensor, Tensor]:
        """The time of each row and its loss, (B,) and (B,)."""
        t = self.times(batch, generator)
        y = hidden_labels(batch, self.label_dropout, generator)
        shared: dict[str, Any] = {"noise": self.noise, "y": y, "t": t, "weight": self.weight, "generator": generator}
        if self.probes is None:
            return t, noise_conditional(model, batch.x, **shared, antithetic=self.antithetic)
        return t, noise_conditional_sliced(model, batch.x, **shared, probes=self.probes)


class CrossEntropy:
    r"""The objective of a classifier at all noise levels: $-\log p(y \mid x_t, t)$, levels as in `LabelledNoise`.

    Args:
        noise: the schedule.
        levels: `"log-normal"` or `"uniform"`.
    """

    def __init__(self, noise: Noise, levels: str) -> None:
        self._drawn = LabelledNoise(noise, levels, 0.0)
        self.levels = self._drawn.levels

    def __call__(self, model: Any, batch: Any, generator: Generator) -> Tensor:
        """Loss per sample, (B,)."""
        t = self._drawn.times(batch, generator)
        x_t = self._drawn.noise.perturb(batch.x, t, randn_like(batch.x, generator))
        return cross_entropy(model(x_t, t), batch.y, reduction="none")


def hidden_labels(batch: Any, rate: float, generator: Generator) -> Tensor | None:
    """The labels (B,) of a batch, each replaced by -1, no label, with probability `rate`; None where there are none."""
    return None if batch.y is None else torch.where(rand_rows(batch.x, generator) < rate, -1, batch.y)


def _log_normal_times(noise: Noise, cells: int = 4096) -> Tensor:
    """Times at evenly spaced quantiles of the log-normal law of sigma/alpha, truncated to the schedule's range."""
    ends = torch.tensor([noise.t_min, noise.t_max], dtype=torch.float64)
    low, high = torch.special.ndtr((noise.ratio(ends).log() - LEVEL_MEAN) / LEVEL_SPREAD)
    u = torch.linspace(low.item(), high.item(), cells + 1, dtype=torch.float64)
    inside = noise.time_at(torch.exp(LEVEL_MEAN + LEVEL_SPREAD * torch.special.ndtri(u[1:-1])))
    return torch.cat([ends[:1], inside, ends[1:]])


class OneLaw:
    r"""The objective of a run that learns one law: that of its data, or of its data blurred, $x + \sigma z$.

    Labels are hidden (-1) with probability `label_dropout`. The contrastive objectives compare with N(0, I), the law
    of an energy of zero, and their fresh chains begin there.

    Args:
        name: the objective, one of those that learn one law.
        sigma: standard deviation of the noise, >= 0; > 0 for denoising.
        label_dropout: fraction of labels to hide.
        probes: directions per sample, of the sliced objectives.
        antithetic: average over z and -z, of denoising.
        chain: the move of the model's own chain, of the contrastive objectives.
        chain_steps: its steps per call.
    """

    def __init__(
        self,
        name: str,
        sigma: float,
        label_dropout: float,
        *,
        probes: int = 1,
        antithetic: bool = False,
        chain: MALA | None = None,
        chain_steps: int = 10,
    ) -> None:
        self.name, self.sigma, self.label_dropout, self.probes = name, sigma, label_dropout, probes
        self.antithetic, self.chain, self.chain_steps = antithetic, chain or MALA(0.01), chain_steps
        self._replay: Replay | None = None

    @property
    def terms(self) -> Callable[[Any, Any, Generator], dict[str, Tensor]]:
        r"""(model, batch, generator) -> $\tfrac12\|s\|^2$ and $\operatorname{tr}\nabla s$, each (B,), if known."""
        if self.name not in ("implicit", "sliced"):
            raise AttributeError(f"objective {self.name} is not the sum of ½‖s‖² and tr ∇s")
        return self._terms

    def _terms(self, model: Any, batch: Any, generator: Generator) -> dict[str, Tensor]:
        y = hidden_labels(batch, self.label_dropout, generator)
        x, score = self._blurred(batch.x, generator), at(given(model, y), None)
        if self.name == "implicit":
            half_square, trace = implicit_terms(score, x)
        else:
            half_square, trace = sliced_terms(score, x, probes=self.probes, generator=generator)
        return {"half_square": half_square, "trace": trace}

    def __call__(self, model: Any, batch: Any, generator: Generator) -> Tensor:
        """Loss per sample, (B,)."""
        if hasattr(self, "terms"):
            terms = self._terms(model, batch, generator)
            return terms["half_square"] + terms["trace"]
        y = hidden_labels(batch, self.label_dropout, generator)
        score = at(given(model, y), None)
        if self.name == "denoising":
            return denoising(score, batch.x, sigma=self.sigma, antithetic=self.antithetic, generator=generator)
        x = self._blurred(batch.x, generator)
        if self.name == "finite-difference":
            how: dict[str, Any] = {"step": STEP, "probes": self.probes, "generator": generator}
            return finite_difference_sliced(score, x, variance_reduced=not hasattr(score, "log_density"), **how)
        return self._contrast(model, x, y, generator)

    def _contrast(self, model: Any, x: Tensor, y: Tensor | None, generator: Generator) -> Tensor:
        normal, constant = _Normal(x[:1]), x[0].numel() * math.log(2 * math.pi) / 2

        def log_density(u: Tensor) -> Tensor:
            return model.log_density(u, None, y) - constant  # an energy of zero is then the normal law itself

        if self.name == "noise-contrastive":
            return noise_contrastive(log_density, x, noise=normal, generator=generator)
        chain: dict[str, Any] = {"kernel": self.chain, "steps": self.chain_steps, "generator": generator}
        if self.name == "contrastive-divergence":
            return contrastive_divergence(log_density, x, **chain)
        return persistent_contrastive_divergence(log_density, x, replay=self._pool(model, normal), **chain)

    def _pool(self, model: Any, normal: _Normal) -> Replay:
        """The chains, whose states are a buffer of the model, so that checkpoints hold them."""
        if self._replay is None:
            self._replay = Replay(normal, len(model.chains), generator=torch.Generator().manual_seed(0))
        self._replay.states = model.chains
        return self._replay

    def _blurred(self, x: Tensor, generator: Generator) -> Tensor:
        return x + self.sigma * randn_like(x, generator) if self.sigma else x


@dataclasses.dataclass(frozen=True)
class _Normal:
    """N(0, I) over samples shaped like one row, (1, *D)."""

    row: Tensor

    def log_density(self, x: Tensor) -> Tensor:
        return -inner(x, x) / 2 - x[0].numel() * math.log(2 * math.pi) / 2

    def score(self, x: Tensor) -> Tensor:
        return -x

    def sample(self, shape: Sequence[int], *, generator: Generator = None) -> Tensor:
        return randn_like(self.row.expand(*shape, *self.row.shape[1:]), generator)
