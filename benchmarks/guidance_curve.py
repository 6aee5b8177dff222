"""Guidance by the label along its scale: does the class get clearer, and what does the law pay for it?

Run: .venv/bin/python benchmarks/guidance_curve.py runs/demo [--classifier runs/classifier] [--count 1000] [--draw-only]

(two minutes on one core, five with a classifier). Figures and their errors are those of `scorefield evaluate`:
agreement of a support vector machine, trained on the real images, with the class asked for; Fréchet distance on 32
principal components. Writes results/guidance_curve.json and .md, and two pictures for the docs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scorefield import plots
from scorefield.evaluation import evaluate
from scorefield.plots.style import COLOURS, DPI, FAINT, INK, dress
from scorefield.runs import Run

SCALES = (0.0, 1.0, 2.0, 4.0)
FIGURES = {
    "class agreement": "class agreement",
    "Fréchet distance": "Fréchet distance",
    "spread": "spread within a class",
}
RESULTS, ASSETS = Path(__file__).parent / "results", Path(__file__).parent.parent / "docs" / "assets"
Rows = list[dict[str, Any]]


def spread_within(run: Run, x: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
    """The mean over classes of the images' summed variances, over that of the real ones, and its standard error."""
    data = run.dataset
    real, labels = data.x_scaled(data.train_rows).flatten(1).double(), data.labels(data.train_rows)
    if labels is None:
        raise ValueError(f"{run.path} has no labels")
    ours = data.info.scaling.apply(x.numpy()).flatten(1).double()
    squares = [
        (v[k == c] - v[k == c].mean(0)).square().sum(1) for v, k in ((ours, y), (real, labels)) for c in k.unique()
    ]
    half = len(squares) // 2
    total, reference = (torch.stack([s.mean() for s in part]).mean() for part in (squares[:half], squares[half:]))
    errors = torch.stack([s.var() / len(s) for s in squares[:half]]).sum().sqrt() / half
    return {"value": (total / reference).item(), "standard_error": (errors / reference).item()}


def curve(run: Run, count: int, classifier: Run | None) -> Rows:
    """Every figure at every scale."""
    found: Rows = []
    plain = run.sample
    for scale in SCALES:
        drawn: list[Any] = []

        def sample(*given: Any, scale: float = scale, drawn: list[Any] = drawn, **how: Any) -> Any:
            drawn.append(plain(*given, guidance=scale, classifier=classifier, **how))
            return drawn[-1]

        run.sample = sample  # what `evaluate` judges
        judged = [dataclasses.asdict(row) for row in evaluate(run, count=count)]
        row = {name: next((r for r in judged if r["name"].startswith(name)), {}) for name in FIGURES}
        row["spread"] = {"samples": spread_within(run, drawn[0].x, drawn[0].info["y"])}
        found.append({"scale": scale, "classifier": classifier is not None, **row})
        print(scale, {name: round(row[name]["samples"]["value"], 3) for name in FIGURES}, flush=True)
    run.sample = plain
    return found


def table(results: dict[str, Any]) -> str:
    """Markdown: a line for each scale."""
    said = [
        "<!-- made by benchmarks/guidance_curve.py -->",
        f"The digits demo at step {results['step']:,}: {results['count']:,} samples at each scale, 18 steps of Heun.",
        "*Agreement*: of a support vector machine with the class asked for. *Fréchet*: distance to the held-out",
        "digits on 32 principal components; for real digits, of as many training ones. *Spread*: variance within a",
        "class over that of the real digits. The classifier had 400 steps.",
        "",
        "| guidance | scale w | agreement | Fréchet | spread |",
        "|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        kind = "classifier" if row["classifier"] else "classifier-free"
        cells = [figure(row[name]["samples"]) for name in FIGURES]
        said.append(f"| {kind} | {row['scale']:g} | {' | '.join(cells)} |")
    first = results["rows"][0]
    real = [figure(first[name]["real"]) for name in ("class agreement", "Fréchet distance")]
    said.append(f"| real digits | | {' | '.join(real)} | 1 |")
    return "\n".join(said) + "\n"


def figure(estimate: dict[str, Any]) -> str:
    """A value with its standard error."""
    return f"{estimate['value']:.3f} ± {estimate['standard_error']:.3f}"


def picture(results: dict[str, Any]) -> Figure:
    """Three small axes over the scale: agreement, distance, spread; 95 % bars; what real digits reach, dashed."""
    drawn = Figure(figsize=(7.6, 2.7), dpi=DPI, layout="constrained")
    for axes, name in zip(drawn.subplots(1, 3), FIGURES, strict=True):
        for i, by in enumerate(sorted({row["classifier"] for row in results["rows"]})):
            rows = [row for row in results["rows"] if row["classifier"] == by]
            line(axes, rows, name, i, "by a classifier" if by else "classifier-free")
        real = 1.0 if name == "spread" else results["rows"][0][name]["real"]["value"]
        axes.axhline(real, color=FAINT, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        axes.set_xlabel("scale w")
        axes.set_xticks([0, 1, 2, 3, 4])
        axes.set_ylim(0)
        axes.grid(axis="y", color="#e6e8ec", linewidth=0.7)
        dress(axes, FIGURES[name])
    words = {"textcoords": "offset points", "fontsize": 7.5, "color": INK, "ha": "center"}
    at = results["rows"][0]["Fréchet distance"]["real"]["value"]
    drawn.axes[1].annotate("real digits", (3, at), xytext=(0, -9), **words)
    if len({row["classifier"] for row in results["rows"]}) > 1:
        drawn.axes[1].legend(frameon=False, fontsize=8, labelcolor=INK, handlelength=1.4)
    return drawn


def line(axes: Axes, rows: Rows, name: str, i: int, label: str) -> None:
    """The i-th curve with its bars of 1.96 standard errors, a little aside of the one before."""
    values, errors = ([row[name]["samples"][key] for row in rows] for key in ("value", "standard_error"))
    axes.errorbar(
        [row["scale"] + 0.06 * i for row in rows], values, [1.96 * e for e in errors], color=COLOURS[i], label=label,
        linewidth=1.4, marker="o", markersize=3.2, markeredgewidth=0, elinewidth=0.9, capsize=1.5, zorder=3,
    )  # fmt: skip


def grid(run: Run) -> Figure:
    """The same noise at four scales, a row each: one digit of every class."""
    rows = []
    for scale in SCALES:
        drawn = [run.sample(3, seed=5, label=name, guidance=scale).x[2:] for name in run.classes]
        rows.append(torch.cat(drawn))
    limits = float(run.dataset.x.min()), float(run.dataset.x.max())
    names = [f"w = {scale:g}" for scale in SCALES]
    return plots.image_grid(torch.stack(rows), row_names=names, value_range=limits, smooth=True)


def main() -> None:
    """Measure, print, write and draw."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--classifier", type=Path, default=None)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--draw-only", action="store_true")
    options = parser.parse_args()
    run, kept = Run.open(options.run), RESULTS / "guidance_curve.json"
    if not options.draw_only:
        rows = curve(run, options.count, None)
        if options.classifier is not None:
            rows += curve(run, options.count, Run.open(options.classifier))
        kept.write_text(json.dumps({"step": run.step, "count": options.count, "rows": rows}, indent=1) + "\n")
    results = json.loads(kept.read_text())
    text = table(results)
    (RESULTS / "guidance_curve.md").write_text(text)
    plots.save(picture(results), ASSETS / "guidance-curve.png")
    plots.save(grid(run), ASSETS / "guidance-samples.png")
    print(text)


if __name__ == "__main__":
    main()
