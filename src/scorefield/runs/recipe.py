"""A recipe as YAML, and what is built from it: the schedule, the model, the objective of training."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from scorefield.checks import check_between, check_choice, check_count, check_non_negative, check_positive, nearest
from scorefield.fields import PREDICTS, EnergyModel, InnerEnergy, ScoreModel
from scorefield.guidance import NoisyClassifier
from scorefield.guidance.classifiers import LastHidden
from scorefield.networks import MLP, UNet
from scorefield.noise import VE, VP, Cosine, Levels, Noise, SubVP
from scorefield.runs.objectives import CrossEntropy, LabelledNoise, OneLaw, check_objective
from scorefield.samplers import MALA
from scorefield.settings import NETWORKS, NOISES, PRECISIONS, MLPSize, Recipe, Resolved, TrainSettings, UNetSize
from scorefield.training import check_settings

VERSION = 1
POOL = 8  # persistent chains per sample of a batch


def check_recipe(recipe: Recipe) -> None:
    """Refuse settings out of range, by name, before anything is read or written."""
    check_choice("noise", recipe.noise, NOISES)
    check_choice("predicts", recipe.predicts, PREDICTS)
    check_objective(recipe)
    check_choice("precision", recipe.precision, ("auto", *PRECISIONS))
    if recipe.network is not None:
        check_choice("network", recipe.network, NETWORKS)
    if recipe.steps is not None and recipe.seconds is not None:
        raise ValueError(f"give steps or seconds, not both; got steps={recipe.steps} and seconds={recipe.seconds}")
    if recipe.seconds is not None:
        check_positive("seconds", recipe.seconds)
    check_between("label_dropout", recipe.label_dropout, 0, 1)
    _check_ends(recipe)
    check_settings(training_settings(recipe, 1 if recipe.steps is None else recipe.steps, "fp32"))


def _check_ends(recipe: Recipe) -> None:
    """Refuse ends of a schedule that has none to choose."""
    for name, takers in (("sigma_min", ("ve", "levels")), ("sigma_max", ("ve", "levels")), ("levels", ("levels",))):
        value = getattr(recipe, name)
        if value is not None and not (recipe.at_all_levels and recipe.noise in takers):
            what = f"noise {recipe.noise}" if recipe.at_all_levels else f"objective {recipe.objective}, one law"
            raise ValueError(
                f"{name} is a setting of noise {' and '.join(takers)}, got {value!r} for {what}; leave it out"
            )
        if value is not None and name != "levels":
            check_positive(name, value)
    if recipe.levels is not None:
        check_count("levels", recipe.levels, least=2)


def training_settings(recipe: Recipe, steps: int, precision: str) -> TrainSettings:
    """The trainer's settings under a recipe."""
    same = {f.name: getattr(recipe, f.name) for f in dataclasses.fields(TrainSettings) if hasattr(recipe, f.name)}
    return TrainSettings(**{**same, "steps": steps, "precision": precision})


def choose_noise(recipe: Recipe, x: Tensor) -> Noise:
    """The schedule of a recipe; what it does not say of VE and Levels is chosen from the data `x`."""
    ends = {"sigma_min": recipe.sigma_min, "sigma_max": recipe.sigma_max}
    if recipe.noise == "ve":
        return VE.from_data(x, **ends)
    if recipe.noise == "levels":
        return Levels.from_data(x, **ends, count=recipe.levels)
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


def build_model(recipe: Recipe, resolved: Resolved, shape: tuple[int, ...], classes: int) -> ScoreModel | EnergyModel:
    """The model of a recipe, its weights drawn from the recipe's seed."""
    energy = recipe.model == "energy"
    noise = build_noise(recipe.noise, resolved.noise) if recipe.at_all_levels else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        if resolved.network == "mlp":
            network: nn.Module = MLP(shape, recipe.mlp, classes=classes, energy=energy)
        else:
            network = UNet(shape, recipe.unet, classes=classes)
        if not energy:
            model: ScoreModel | EnergyModel = ScoreModel(network, noise, recipe.predicts)
        else:
            network = network if isinstance(network, MLP) else InnerEnergy(network)
            constant = network.head.bias if isinstance(network, MLP) else network.constant
            constant.requires_grad_(recipe.objective == "noise-contrastive")  # no other objective sees it
            model = EnergyModel(network, noise, recipe.predicts)
        if recipe.objective == "persistent":
            model.register_buffer("chains", torch.randn(POOL * recipe.batch_size, *shape))
    return model.double() if resolved.training.precision == "fp64" else model


def build_classifier(recipe: Recipe, resolved: Resolved, shape: tuple[int, ...], classes: int) -> NoisyClassifier:
    """The classifier of a recipe, its weights drawn from the recipe's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        if resolved.network == "mlp":
            network, features = LastHidden(MLP(shape, recipe.mlp)), recipe.mlp.width
        else:
            network, features = UNet(shape, recipe.unet), math.prod(shape)
        model = NoisyClassifier(network, build_noise(recipe.noise, resolved.noise), features, classes)
    return model.double() if resolved.training.precision == "fp64" else model


def build_objective(recipe: Recipe, resolved: Resolved) -> LabelledNoise | OneLaw | CrossEntropy:
    """The objective of a recipe, at the levels or at the one law that were settled."""
    if recipe.classifier:
        return CrossEntropy(build_noise(recipe.noise, resolved.noise), resolved.levels)
    if recipe.at_all_levels:
        probes = recipe.probes if recipe.objective == "noise-conditional-sliced" else None
        noise = build_noise(recipe.noise, resolved.noise)
        how: dict[str, Any] = {"antithetic": recipe.antithetic, "tilt": recipe.tilt}
        return LabelledNoise(noise, resolved.levels, recipe.label_dropout, probes, **how)
    return OneLaw(
        recipe.objective,
        resolved.noise["sigma"],
        recipe.label_dropout,
        probes=recipe.probes,
        antithetic=recipe.antithetic,
        chain=MALA(recipe.chain_step_size),
        chain_steps=recipe.chain_steps,
    )


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
        if recipe.at_all_levels:
            build_noise(recipe.noise, resolved.noise)
        else:
            check_non_negative("sigma", resolved.noise["sigma"])
    except (KeyError, TypeError, ValueError) as error:
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
