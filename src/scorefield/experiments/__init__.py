"""Each figure of the theory, one file each; and the demo."""

from scorefield.experiments.outcome import Outcome
from scorefield.experiments.table import run_experiment

__all__ = ["Outcome", "run_experiment"]
