"""What the data and the machine decide about a recipe, once, before step 1."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from scorefield.data import Batches, Dataset
from scorefield.noise import VE
from scorefield.runs.recipe import (
    build_classifier,
    build_model,
    build_objective,
    choose_noise,
    noise_parameters,
    training_settings,
)
from scorefield.settings import Recipe, Resolved
from scorefield.training import calibrate

STEPS = 2000
FLAT = 1e-3  # a direction in which scaled data spread less has no density to speak of


def resolve(recipe: Recipe, dataset: Dataset) -> Resolved:
    """Settle what the recipe leaves open: schedule or blur, network, precision, number of steps."""
    rows = dataset.train_rows[:: max(1, len(dataset.train_rows) // 2000)]
    image, x = dataset.info.kind == "image", dataset.x_scaled(rows)
    if recipe.at_all_levels:
        parameters = noise_parameters(choose_noise(recipe, x))
        levels = "log-normal" if image and recipe.noise != "levels" else "uniform"
    else:
        parameters, levels = {"sigma": choose_sigma(recipe, x)}, "one"
    network = recipe.network or ("unet" if image else "mlp")
    classes = len(dataset.info.classes)
    if recipe.classifier and classes < 2:
        raise ValueError(
            f"classifier needs data with labels of 2 classes or more, got {classes} in {dataset.info.source}; name "
            "them by --label-column, or train a score"
        )
    if recipe.objective == "persistent" and classes and recipe.label_dropout < 1:
        raise ValueError(
            f"label_dropout must be 1 for objective persistent on labelled data, since its chains have no labels; got "
            f"{recipe.label_dropout!r}"
        )
    fast = network == "unet" and recipe.model == "score" and recipe.objective != "finite-difference"
    automatic = "auto" if fast else "fp32"
    precision = automatic if recipe.precision == "auto" else recipe.precision
    steps = recipe.steps or STEPS
    start = "fp32" if precision == "auto" else precision
    trial = Resolved(parameters, network, levels, training_settings(recipe, steps, start))
    build = build_classifier if recipe.classifier else build_model
    model = build(recipe, trial, dataset.shape, classes)
    if precision == "auto" or recipe.seconds is not None:
        config = dataclasses.replace(trial.training, devices=1)
        batches = Batches(dataset, config.batch_size, config.seed)
        measured = calibrate(model, build_objective(recipe, trial), batches, config, precision=precision)
        precision = measured.precision
        steps = steps_for(recipe.seconds, measured.seconds_per_step) if recipe.seconds is not None else steps
    return Resolved(parameters, network, levels, training_settings(recipe, steps, precision))


def choose_sigma(recipe: Recipe, x: Tensor) -> float:
    r"""The noise that blurs the one law of a recipe, of scaled data `x` (n, *D).

    What was asked for. Else none, and for denoising a tenth of the data's standard deviation or, where neighbours lie
    farther apart, as in many dimensions, the median distance to a nearest neighbour over $\sqrt D$: a narrower blur
    keeps the samples apart.

    Raises:
        ValueError: no noise was asked for, and the data do not vary along some direction: the law has no density.
    """
    if recipe.sigma is not None:
        return recipe.sigma
    if recipe.objective == "denoising":
        return max(0.1, 10 * VE.from_data(x).sigma_min)
    flat = (x - x.mean(0)).flatten(1).double()
    variances = torch.linalg.eigvalsh(flat.T @ flat / len(x)) if len(x) > flat.shape[1] else flat.square().mean(0)
    if not variances.min() > FLAT**2:
        raise ValueError(
            f"sigma must be given for objective {recipe.objective} on data that vary by less than {FLAT:g} of their "
            "spread along some direction, where they have no density; 0.1 or more learns their law with that much noise"
        )
    return 0.0


def steps_for(seconds: float, seconds_per_step: float) -> int:
    """How many steps fit into a time budget, at least 10."""
    return max(10, math.floor(seconds / seconds_per_step))
