r"""What can be wrong with data, noise, a score or samples, and how to see it: measurements, each a function.

Nothing here decides what is healthy, and nothing knows of runs: `scorefield.doctor` does both.
"""

from scorefield.diagnostics.dimension import levina_bickel, neighbour_distances, two_nn
from scorefield.diagnostics.rows import (
    Atoms,
    atoms,
    constant_columns,
    flat_directions,
    repeated_rows,
    rows_among,
    rows_not_finite,
    tail_share,
)
from scorefield.diagnostics.samples import Modes, copied, disagreement, mode_weights, signal_to_noise
from scorefield.diagnostics.schedules import log_widths, neighbour_scale, overlap, prior_gap, ripple
from scorefield.diagnostics.scores import (
    Corrected,
    Gaussian,
    Level,
    Lookup,
    at_level,
    energy_bounds,
    energy_shortfall,
    jacobian_parts,
    kernel_density,
)

__all__ = [
    "Atoms",
    "Corrected",
    "Gaussian",
    "Level",
    "Lookup",
    "Modes",
    "at_level",
    "atoms",
    "constant_columns",
    "copied",
    "disagreement",
    "energy_bounds",
    "energy_shortfall",
    "flat_directions",
    "jacobian_parts",
    "kernel_density",
    "levina_bickel",
    "log_widths",
    "mode_weights",
    "neighbour_distances",
    "neighbour_scale",
    "overlap",
    "prior_gap",
    "repeated_rows",
    "ripple",
    "rows_among",
    "rows_not_finite",
    "signal_to_noise",
    "tail_share",
    "two_nn",
]
