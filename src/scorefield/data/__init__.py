r"""Data: arrays, tables, images and named sets become one memory-mapped array, its labels and its scaling.

`prepare` reads and checks everything before it writes anything; `open_dataset` opens what it wrote; `Batches` is a
pure function of (seed, step). Networks see $(x - m) / c$ with $m$ and $c$ learned from the training rows (`Scaling`);
users see the data's own units.
"""

from scorefield.data.arrays import Table
from scorefield.data.batches import Batch, Batches
from scorefield.data.readers import names
from scorefield.data.scaling import Scaling
from scorefield.data.store import Dataset, DatasetInfo, open_dataset, prepare, read_columns, read_rows

__all__ = [
    "Batch",
    "Batches",
    "Dataset",
    "DatasetInfo",
    "Scaling",
    "Table",
    "names",
    "open_dataset",
    "prepare",
    "read_columns",
    "read_rows",
]
