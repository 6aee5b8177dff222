"""The tables and the picture of `guidance.py`, from its rows."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from scorefield.plots.style import COLOURS, DPI, FAINT, INK, dress, save

PICTURE = Path(__file__).parent.parent / "docs" / "assets" / "guidance-particles.png"
REJECTED = 0.01  # a p-value below it
FILLS = ("inpaint", "pigdm", "smc", "azula RePaint")  # `moments` is what `inpaint posterior` follows
LEAST = 100  # effective particles; cells below are marked
Row = dict[str, Any]


def by_method(cells: dict[str, list[Row]]) -> dict[tuple[str, str], dict[str, Row]]:
    """(method, sampler) -> problem -> cell, every cell with the ratio of its distance to that of exact draws."""
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for problem, rows in cells.items():
        floor = rows[0]
        for row in rows[1:]:
            ratio = row["distance"] / floor["distance"] if "distance" in row else math.inf
            more = {"ratio": ratio, "floor": floor}
            found.setdefault((row["method"], row["sampler"]), {})[problem] = row | more
    return found


def number(value: float) -> str:
    """Two figures; a cross for what never came."""
    return "×" if not math.isfinite(value) else f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def typical(rows: list[Row]) -> str:
    """Median and worst ratio."""
    if not rows:
        return ""
    ratios = [row["ratio"] for row in rows]
    return f"{number(statistics.median(ratios))} ({number(max(ratios))})"


def ranking(methods: dict[tuple[str, str], dict[str, Row]], problems: list[str]) -> list[str]:
    """One line for each method and sampler, the best on mixtures first."""
    lines = [
        "| method | sampler | Gaussian priors | mixtures | width | modes | miscalibrated | calls + products |",
        "|---|---|---|---|---|---|---|---|",
    ]

    def place(name: tuple[str, str]) -> tuple[float, float]:
        ratios = [methods[name][p]["ratio"] for p in problems if p.startswith("M")]
        return statistics.median(ratios), statistics.mean(min(r, 1e6) for r in ratios)

    for name in sorted((n for n in methods if set(problems) <= set(methods[n])), key=place):
        rows = [methods[name][p] for p in problems]
        single, mixed = (
            [r for p, r in zip(problems, rows, strict=True) if p.startswith(letter)] for letter in ("G", "M")
        )
        done = [r for r in rows if "width" in r]
        width = f"{min(r['width'] for r in done):.2f} to {max(r['width'] for r in done):.2f}" if done else ""
        modes = [r["modes"] for r in mixed if "modes" in r]
        tested = [r["p"] for r in rows if "p" in r]
        rejected = f"{sum(p < REJECTED for p in tested)} of {len(tested)}" if tested else ""
        calls = statistics.median(r["calls"] for r in rows)
        products = statistics.median(r["products"] for r in rows)
        marks = sum(r.get("effective", math.inf) < LEAST for r in rows)
        sampler = name[1] + (f", {marks} of {len(rows)} below {LEAST}" if marks else "")
        lines.append(
            f"| {name[0]} | {sampler} | {typical(single)} | {typical(mixed)} | {width} | "
            f"{f'{statistics.median(modes):.2f}' if modes else ''} | {rejected} | {calls:.0f} + {products:.0f} |"
        )
    return lines


def matrix(methods: dict[tuple[str, str], dict[str, Row]], grid: dict[str, list[Any]]) -> list[str]:
    """The ratio of every method on every problem; an asterisk where too few particles were effective."""
    lines = ["| method, sampler | " + " | ".join(grid) + " |", "|---|" + "---|" * len(grid)]
    for name, found in methods.items():
        cells = []
        for problem in grid:
            row = found.get(problem)
            mark = "*" if row and row.get("effective", math.inf) < LEAST else ""
            cells.append("" if row is None else number(row["ratio"]) + mark)
        lines.append(f"| {', '.join(filter(None, name))} | " + " | ".join(cells) + " |")
    return lines


def tested(methods: dict[tuple[str, str], dict[str, Row]]) -> list[str]:
    """Particles: the least effective number, and the largest t of known numbers."""
    lines = [
        "| problem | twist | least effective of 512 | largest t | within 1 % | distance |",
        "|---|---|---|---|---|---|",
    ]
    for (method, _), found in methods.items():
        if method.startswith("smc"):
            for problem, row in found.items():
                verdict = "yes" if row["within"] else "**no**"
                few = f"{row['effective']:.0f}" + ("*" if row["effective"] < LEAST else "")
                lines.append(
                    f"| {problem} | {method.removeprefix('smc, ')} | {few} | {row['t']:.1f} | {verdict} | "
                    f"{number(row['ratio'])} |"
                )
    return lines


def tables(results: dict[str, Any]) -> str:
    """Markdown."""
    cells, grid = results["cells"], {p: results["grid"][p] for p in results["cells"]}
    methods = by_method(cells)
    everywhere = list(grid)
    masks = [p for p in everywhere if grid[p][4]]
    lines = [
        "<!-- made by benchmarks/guidance.py -->",
        "Exact scores under VP, 1,024 draws given one y. *Gaussian priors* and *mixtures*: sliced Wasserstein distance",
        "to exact draws over that between two sets of exact draws, median (worst) over the problems; 1 is perfect, ×",
        "means that draws diverged or an adaptive solver gave up after 150 steps. *Width*: standard deviation over the",
        "exact one. *Modes*: total variation of the modes' weights. *Miscalibrated*: problems in which the ranks of",
        "the truth are not uniform (p < 0.01). *Calls + products*: of the score, and with its Jacobian.",
        "*converged*: as many iterations of the linear solver as A has rows.",
        "",
        *ranking({n: f for n, f in methods.items() if not n[0].startswith("inpaint")}, everywhere),
        "",
        "Where A is a mask, $\\sigma_y$ = 0.01 and 0.1; replacement takes y as it is:",
        "",
        *ranking({n: f for n, f in methods.items() if n[0].startswith(FILLS)}, masks),
        "",
        "Particles: 8 runs of 512, 200 steps; a t-test of six known numbers (means and variances along the narrowest",
        "and the widest axis, the weight of the largest mode, log p(y)) over the runs, at 1 % for each cell. An",
        f"asterisk marks fewer than {LEAST} effective particles at some time. Their distance is that of 1,024 draws",
        "from all 4,096 particles: a draw costs 13 times the calls of the other methods; azula's TDS has one run",
        "of 1,024. Ranks of `smc`: one problem, 128 observations.",
        "",
        *tested(methods),
        "",
        "The problems, and the distance on each over that of exact draws:",
        "",
        "| | d | components | condition | $\\sigma_y$ | A | exact distance |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {p} | {d} | {k} | {c} | {s} | {'mask' if m else 'matrix'} {max(1, min(d // 2, 4))} × {d} | "
            f"{cells[p][0]['distance']:.3f} |"
            for p, (d, k, c, s, m) in grid.items()
        ),
        "",
        *matrix(methods, grid),
    ]
    return "\n".join(lines) + "\n"


def picture(results: dict[str, Any]) -> None:
    """Error against the number of particles, beside what the score methods reach on the same problem."""
    if "by particles" not in results:
        return
    figure = Figure(figsize=(8.4, 3.8), dpi=DPI, layout="constrained")
    problem, rows = results["by particles"]["problem"], results["by particles"]["rows"]
    methods = by_method(results["cells"])
    beside = {
        "replace": ("inpaint replace", "SDE"),
        "RePaint": ("inpaint repaint", "SDE"),
        "pigdm": ("pigdm", "SDE"),
        "moments": ("moments", "SDE"),
    }
    counts = [row["particles"] for row in rows]
    for axes, key, title in zip(
        figure.subplots(1, 2), ("distance", "modes"), ("distance to exact draws", "weights of the modes"), strict=True
    ):
        axes.plot(counts, [row[key] for row in rows], color=COLOURS[0], marker="o", markersize=4, label="particles")
        for (label, name), colour in zip(beside.items(), COLOURS[1:], strict=False):
            axes.axhline(methods[name][problem][key], color=colour, linewidth=1.2, label=label)
        exact = results["cells"][problem][0][key]
        axes.axhline(exact, color=FAINT, linewidth=1.0, linestyle=(0, (4, 2)), label="1,024 exact draws")
        axes.set(xscale="log", yscale="log", xlabel="particles")
        axes.minorticks_off()
        axes.set_xticks(counts, [str(c) for c in counts])
        dress(axes, title)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    how = {"loc": "outside lower center", "ncols": 6, "frameon": False, "fontsize": 8, "labelcolor": INK}
    figure.legend(handles, labels, **how)
    save(figure, PICTURE)
