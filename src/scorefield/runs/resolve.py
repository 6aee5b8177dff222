"""What the data and the machine decide about a recipe, once, before step 1."""

from __future__ import annotations

import dataclasses
import math

from scorefield.data import Batches, Dataset
from scorefield.runs.recipe import (
    LabelledNoise,
    build_model,
    choose_noise,
    noise_parameters,
    training_settings,
)
from scorefield.settings import Recipe, Resolved
from scorefield.training import calibrate

STEPS = 2000


def resolve(recipe: Recipe, dataset: Dataset) -> Resolved:
    """Settle what the recipe leaves open: schedule, network, precision, number of steps."""
    image = dataset.info.kind == "image"
    rows = dataset.train_rows[:: max(1, len(dataset.train_rows) // 2000)]
    noise = choose_noise(recipe, dataset.x_scaled(rows))
    network = recipe.network or ("unet" if image else "mlp")
    levels = "log-normal" if image and recipe.noise != "levels" else "uniform"
    automatic = "auto" if network == "unet" else "fp32"
    precision = automatic if recipe.precision == "auto" else recipe.precision
    steps = recipe.steps or STEPS
    parameters = noise_parameters(noise)
    if precision == "auto" or recipe.seconds is not None:
        trial = Resolved(parameters, network, levels, training_settings(recipe, steps, "fp32"))
        if precision == "fp64":
            trial = dataclasses.replace(trial, training=training_settings(recipe, steps, "fp64"))
        config = dataclasses.replace(trial.training, devices=1)
        measured = calibrate(
            build_model(recipe, trial, dataset.shape, len(dataset.info.classes)),
            LabelledNoise(noise, levels, recipe.label_dropout),
            Batches(dataset, config.batch_size, config.seed),
            config,
            precision=precision,
        )
        precision = measured.precision
        steps = steps_for(recipe.seconds, measured.seconds_per_step) if recipe.seconds is not None else steps
    else:
        build_model(
            recipe,
            Resolved(parameters, network, levels, training_settings(recipe, steps, precision)),
            dataset.shape,
            len(dataset.info.classes),
        )
    return Resolved(parameters, network, levels, training_settings(recipe, steps, precision))


def steps_for(seconds: float, seconds_per_step: float) -> int:
    """How many steps fit into a time budget, at least 10."""
    return max(10, math.floor(seconds / seconds_per_step))
