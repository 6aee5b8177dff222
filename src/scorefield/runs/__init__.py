"""A run: a recipe, its data and its checkpoints in one folder; created, trained, resumed, sampled from."""

from scorefield.runs.checkpoints import Damaged, versions
from scorefield.runs.classifying import accuracy_by_level
from scorefield.runs.density import RunLikelihood, run_likelihood
from scorefield.runs.objectives import CrossEntropy, LabelledNoise, OneLaw
from scorefield.runs.recipe import build_classifier, build_model, build_noise, build_objective
from scorefield.runs.restoring import Restoration, degradation, restore
from scorefield.runs.run import Locked, Run

__all__ = [
    "CrossEntropy",
    "Damaged",
    "LabelledNoise",
    "Locked",
    "OneLaw",
    "Restoration",
    "Run",
    "RunLikelihood",
    "accuracy_by_level",
    "build_classifier",
    "build_model",
    "build_noise",
    "build_objective",
    "degradation",
    "restore",
    "run_likelihood",
    "versions",
]
