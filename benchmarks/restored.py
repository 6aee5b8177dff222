"""Held-out images of a run half covered, shrunk and blurred, and restored: a picture for the docs.

Run: .venv/bin/python benchmarks/restored.py runs/demo digits --factor 2 --row 12     (half a minute on one core)
     .venv/bin/python benchmarks/restored.py runs/mnist mnist --factor 4 --width 2 --row 7
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from scorefield import plots
from scorefield.runs import Run, degradation, restore
from scorefield.runs.restoring import named_mask

ASSETS = Path(__file__).parent.parent / "docs" / "assets"
NOISE = 0.02  # on blurred images, as a part of the range


def restored(run: Run, row: int, task: str, *, width: float, factor: int, draws: int, smooth: bool) -> Image.Image:
    """One line of the picture."""
    x, shape = np.asarray(run.dataset.x[run.dataset.held_out_rows[row]]), run.dataset.shape
    known = named_mask("bottom", shape) if task == "inpaint" else None
    operator = degradation(task, shape, known=known, width=width, factor=factor)
    span = float(run.dataset.x.max()) - float(run.dataset.x.min())
    sigma = NOISE * span if task == "deblur" else 0.0
    found = restore(run, x, operator, n=draws, sigma=sigma, degrade=True)
    off = (operator(torch.from_numpy(found.draws).double()).numpy() - found.observed) / span
    error, spread = (float(np.sqrt(np.mean(v**2))) / span for v in (found.mean - x, found.spread))
    print(
        f"{task}: {found.evaluations} calls; of the range, A x - y {np.sqrt((off**2).mean()):.4f} (noise "
        f"{sigma / span:.2f}), error of the mean {error:.3f}, spread {spread:.3f}",
        flush=True,
    )
    file = io.BytesIO()
    shown = found.draws[:5]
    plots.restoration(found.observed, shown, known=known, truth=x, smooth=smooth).savefig(file, dpi="figure")
    return Image.open(file).convert("RGB")


def main() -> None:
    """Restore, stack, save."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--row", type=int, default=0, help="of the held-out images")
    parser.add_argument("--factor", type=int, default=4)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--smooth", action="store_true")
    options = parser.parse_args()
    how = {"width": options.width, "factor": options.factor, "draws": options.draws, "smooth": options.smooth}
    run = Run.open(options.run)
    lines = [restored(run, options.row, task, **how) for task in ("inpaint", "superres", "deblur")]
    whole = Image.new("RGB", (max(i.width for i in lines), sum(i.height for i in lines)), "white")
    for k, line in enumerate(lines):
        whole.paste(line, (0, sum(i.height for i in lines[:k])))
    whole.save(ASSETS / f"restored-{options.name}.png", optimize=True)


if __name__ == "__main__":
    main()
