"""A run: a recipe, its data and its checkpoints in one folder; created, trained, resumed, sampled from."""

from scorefield.runs.checkpoints import Damaged, versions
from scorefield.runs.recipe import LabelledNoise, build_model, build_noise
from scorefield.runs.run import Locked, Run

__all__ = ["Damaged", "LabelledNoise", "Locked", "Run", "build_model", "build_noise", "versions"]
