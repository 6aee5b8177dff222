"""Pictures of samples, paths, fields and curves: every function returns a matplotlib `Figure`, `save` writes it.

The figures are made without pyplot and styled one by one: nothing global is touched and no window is opened. Arrays may
be torch tensors, NumPy arrays or lists. The colours are Okabe and Ito's, told apart by colour-blind readers.
"""

from scorefield.plots.images import image_grid, paths, restoration
from scorefield.plots.moving import moving_particles
from scorefield.plots.panels import Plane, intervals, planes, time_paths
from scorefield.plots.planes import Box, curves, scatter_paths, score_field
from scorefield.plots.style import COLOURS, DPI, Array, dress, save

__all__ = [
    "Array",
    "Box",
    "COLOURS",
    "DPI",
    "Plane",
    "curves",
    "dress",
    "image_grid",
    "intervals",
    "moving_particles",
    "paths",
    "planes",
    "restoration",
    "save",
    "scatter_paths",
    "score_field",
    "time_paths",
]
