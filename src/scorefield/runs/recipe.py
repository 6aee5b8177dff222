"""A recipe as YAML, and what is built from it: the schedule, the model, the objective of training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from scorefield.calculus import Generator, rand_rows
from scorefield.checks import check_between, check_choice, check_positive, nearest
from scorefield.fields import PREDICTS, ScoreModel
from scorefield.networks import MLP, UNet
from scorefield.noise import VE, VP, Cosine, Levels, Noise, SubVP
from scorefield.objectives import noise_conditional
from scorefield.objectives.denoising import uniform_times
from scorefield.settings import NETWORKS, NOISES, PRECISIONS, MLPSize, Recipe, Resolved, TrainSettings, UNetSize
from scorefield.training import check_settings

VERSION = 1
LEVEL_MEAN, LEVEL_SPREAD = -0.5, 1.2  # of log(sigma/alpha) for data of unit scale: EDM's -1.2 at scale 0.5, and 1.2


def check_recipe(recipe: Recipe) -> None:
    """Refuse settings out of range, by name, before anything is read or written."""
    check_choice("noise", recipe.noise, NOISES)
    check_choice("predicts", recipe.predicts, PREDICTS)
    check_choice("precision", recipe.precision, ("auto", *PRECISIONS))
    if recipe.network is not None:
        check_choice("network", recipe.network, NETWORKS)
    if recipe.steps is not None and recipe.seconds is not None:
        raise ValueError(f"give steps or seconds, not both; got steps={recipe.steps} and seconds={recipe.seconds}")
    if recipe.seconds is not None:
        check_positive("seconds", recipe.seconds)
    check_between("label_dropout", recipe.label_dropout, 0, 1)
    check_settings(training_settings(recipe, 1 if recipe.steps is None else recipe.steps, "fp32"))


def training_settings(recipe: Recipe, steps: int, precision: str) -> TrainSettings:
    """The trainer's settings under a recipe."""
    same = {f.name: getattr(recipe, f.name) for f in dataclasses.fields(TrainSettings) if hasattr(recipe, f.name)}
    return TrainSettings(**{**same, "steps": steps, "precision": precision})


def choose_noise(recipe: Recipe, x: Tensor) -> Noise:
    """The schedule of a recipe; the ends of VE and Levels are chosen from the data `x`."""
    if recipe.noise == "ve":
        return VE.from_data(x)
    if recipe.noise == "levels":
        return Levels.from_data(x)
    return {"vp": VP, "subvp": SubVP, "cosine": Cosine}[recipe.noise]()


def noise_parameters(noise: Noise) -> dict[str, float]:
    """The numbers that define a schedule, by name."""
    names = [f.name for f in dataclasses.fields(noise) if f.name != "reasons"]  # pyright: ignore[reportArgumentType]
    return {name: getattr(noise, name) for name in names}


def build_noise(name: str, parameters: dict[str, float]) -> Noise:
    """The schedule of this name and these settings."""
    check_choice("noise", name, NOISES)
    kinds = {"ve": VE, "vp": VP, "subvp": SubVP, "cosine": Cosine, "levels": Levels}
    return kinds[name](**parameters)


def build_model(recipe: Recipe, resolved: Resolved, shape: tuple[int, ...], classes: int) -> ScoreModel:
    """The model of a recipe, its weights drawn from the recipe's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        if resolved.network == "unet":
            network: nn.Module = UNet(shape, recipe.unet, classes=classes)
        else:
            network = MLP(shape, recipe.mlp, classes=classes)
        model = ScoreModel(network, build_noise(recipe.noise, resolved.noise), recipe.predicts, data_scale=1.0)
    return model.double() if resolved.training.precision == "fp64" else model


class LabelledNoise:
    r"""The objective of a run: denoising at random levels, weighted so that the residual counts alike at every level.

    Levels are drawn log-normal in $\sigma_t/\alpha_t$ (Karras et al. 2022, table 1), within the schedule's range, or
    uniformly in t (over the levels of a `Levels`). Labels are hidden (-1) with probability `label_dropout`.

    Args:
        noise: the schedule.
        levels: `"log-normal"` or `"uniform"`.
        label_dropout: fraction of labels to hide.
    """

    def __init__(self, noise: Noise, levels: str, label_dropout: float) -> None:
        check_choice("levels", levels, ("log-normal", "uniform"))
        self.noise, self.label_dropout = noise, label_dropout
        self._table = _log_normal_times(noise) if levels == "log-normal" else None

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

    def __call__(self, model: Any, batch: Any, generator: Generator) -> Tensor:
        """Loss per sample, (B,)."""
        t, y = self.times(batch, generator), batch.y
        if y is not None:
            y = torch.where(rand_rows(batch.x, generator) < self.label_dropout, -1, y)
        weight = self.noise.residual_weight
        return noise_conditional(model, batch.x, noise=self.noise, y=y, t=t, weight=weight, generator=generator)


def _log_normal_times(noise: Noise, cells: int = 4096) -> Tensor:
    """Times at evenly spaced quantiles of the log-normal law of sigma/alpha, truncated to the schedule's range."""
    ends = torch.tensor([noise.t_min, noise.t_max], dtype=torch.float64)
    low, high = torch.special.ndtr(((noise.sigma(ends) / noise.alpha(ends)).log() - LEVEL_MEAN) / LEVEL_SPREAD)
    u = torch.linspace(low.item(), high.item(), cells + 1, dtype=torch.float64)
    inside = noise.time_at(torch.exp(LEVEL_MEAN + LEVEL_SPREAD * torch.special.ndtri(u[1:-1])))
    return torch.cat([ends[:1], inside, ends[1:]])


def to_yaml(recipe: Recipe, resolved: Resolved) -> str:
    """The text of recipe.yaml."""
    content = {"version": VERSION, "recipe": dataclasses.asdict(recipe), "resolved": dataclasses.asdict(resolved)}
    content["resolved"]["training"]["betas"] = list(resolved.training.betas)
    return yaml.safe_dump(content, sort_keys=False)


def from_yaml(path: Path) -> tuple[Recipe, Resolved]:
    """Read recipe.yaml; nothing but plain YAML is accepted.

    Raises:
        ValueError: the file is missing, not plain YAML, from a newer version, or holds unknown settings.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} must be a recipe in plain YAML, got: {error}") from error
    version = content.get("version") if isinstance(content, dict) else None
    if not isinstance(version, int):
        raise ValueError(f"{path} must name its version, got {version!r}; was it written by scorefield train?")
    if version > VERSION:
        raise ValueError(f"{path} is of version {version}, this scorefield reads up to {VERSION}; upgrade scorefield")
    parts = {"unet": UNetSize, "mlp": MLPSize}
    recipe = _build(Recipe, content.get("recipe"), path, parts)
    resolved = _build(Resolved, content.get("resolved"), path, {"training": TrainSettings})
    try:
        betas = tuple(float(b) for b in resolved.training.betas)
        resolved = dataclasses.replace(resolved, training=dataclasses.replace(resolved.training, betas=betas))
        check_recipe(recipe)
        check_settings(resolved.training)
        check_choice("network", resolved.network, NETWORKS)
        build_noise(recipe.noise, resolved.noise)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a recipe of this scorefield: {error}") from error
    return recipe, resolved


def _build(kind: Any, values: Any, path: Path, parts: dict[str, Any]) -> Any:
    known = [f.name for f in dataclasses.fields(kind)]
    for key in values if isinstance(values, dict) else ():
        if key not in known:
            raise ValueError(f"{path} has the unknown setting {key!r}{nearest(key, known)}; upgrade scorefield?")
    try:
        return kind(**{k: _build(parts[k], v, path, {}) if k in parts else v for k, v in values.items()})
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a whole recipe ({error})") from error


def differences(stored: Recipe, asked: Recipe) -> list[str]:
    """The settings, other than the number of steps, that differ between two recipes, in words."""
    names = [f.name for f in dataclasses.fields(Recipe) if f.name not in ("steps", "seconds")]
    pairs = [(name, getattr(stored, name), getattr(asked, name)) for name in names]
    if asked.seconds is not None:
        pairs.append(("seconds", stored.seconds, asked.seconds))
    return [f"{name} was {old!r} in this run, got {new!r}" for name, old, new in pairs if old != new]
