"""Training as a generator of steps; the only room that knows the engine (Lightning Fabric).

Batch order and noise are functions of (seed, step), and each process draws the whole batch's noise and keeps its
share: a resumed run equals an unbroken one bit for bit, and many processes equal one up to rounding.
"""

from scorefield.training.calibration import Calibration, calibrate
from scorefield.training.engine import Engine, process_rank
from scorefield.training.loop import (
    Batch,
    Diverged,
    Objective,
    State,
    Step,
    check_settings,
    learning_rate,
    step_generator,
    train,
)

__all__ = [
    "Batch",
    "Calibration",
    "Diverged",
    "Engine",
    "Objective",
    "State",
    "Step",
    "calibrate",
    "check_settings",
    "learning_rate",
    "process_rank",
    "step_generator",
    "train",
]
