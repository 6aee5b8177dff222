"""`ScoreDensity` beside scikit-learn's density estimators on its small tables: held-out log-likelihood, paired.

Run: .venv/bin/python benchmarks/tables.py [--folds 5] [--only wine …]     (about 15 minutes on one core)

Cross-validation; within each fold GaussianMixture and KernelDensity choose their settings by
five-fold cross-validation of their own, and ScoreDensity its own by its held-out rows. All see columns that were
standardised on the training rows; log-likelihoods are in those units, in nats per row. Standard errors are over rows;
that rows of one fold share a fit is not in them.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.model_selection import GridSearchCV, KFold
from timing import machine

from scorefield.neural import ScoreDensity

RESULTS = Path(__file__).parent / "results"
TABLES = {"wine": load_wine, "breast-cancer": load_breast_cancer, "diabetes": load_diabetes}
BINARY = {"diabetes": [1]}  # sex takes two values: a mixture that shrinks onto them has any likelihood it likes
MIXTURES = {
    "n_components": [1, 2, 3, 4, 6],
    "covariance_type": ["full", "tied", "diag"],
    "reg_covar": [1e-6, 1e-3, 1e-2, 1e-1],
}
BANDWIDTHS = {"bandwidth": np.geomspace(0.05, 2, 24)}


def rows_of(name: str) -> np.ndarray:
    """The table without its columns of two values."""
    return np.delete(TABLES[name]().data, BINARY.get(name, []), axis=1)


def judged(train: np.ndarray, test: np.ndarray, seed: int) -> dict[str, dict[str, object]]:
    """Log-densities of the test rows under each estimator, what it chose, and its processor time."""
    from sklearn.mixture import GaussianMixture
    from sklearn.neighbors import KernelDensity

    makers = {
        "ScoreDensity": lambda: ScoreDensity(random_state=seed),
        "GaussianMixture": lambda: GridSearchCV(GaussianMixture(random_state=seed), MIXTURES, cv=5),
        "KernelDensity": lambda: GridSearchCV(KernelDensity(), BANDWIDTHS, cv=5),
        "one Gaussian": lambda: GaussianMixture(),
    }
    found: dict[str, dict[str, object]] = {}
    for name, make in makers.items():
        clock = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # EM that did not converge within its steps, in the grid's worse corners
            fitted = make().fit(train)
        seconds = time.process_time() - clock
        best = getattr(fitted, "best_estimator_", fitted)
        chosen = getattr(fitted, "best_params_", {})
        if isinstance(best, ScoreDensity):
            chosen = {"steps": best.steps_, "decorrelate": best.decorrelate_}
        nats = best.score_samples(test)
        found[name] = {"nats": nats.tolist(), "seconds": seconds, "chosen": {k: float_of(v) for k, v in chosen.items()}}
    return found


def float_of(value: object) -> object:
    """A number that JSON holds, or the word itself."""
    return float(f"{float(value):.4g}") if isinstance(value, (int, float, np.number)) else value


def cross_validated(name: str, folds: int) -> dict[str, object]:
    """All folds of one table."""
    x, parts = rows_of(name), []
    for k, (train, test) in enumerate(KFold(folds, shuffle=True, random_state=0).split(x)):
        mean, scale = x[train].mean(0), x[train].std(0)
        parts.append(judged((x[train] - mean) / scale, (x[test] - mean) / scale, k))
        print(name, k, {m: round(float(np.mean(p["nats"])), 2) for m, p in parts[-1].items()}, flush=True)  # type: ignore[arg-type]
    return {"n": len(x), "d": x.shape[1], "folds": parts}


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Of rows."""
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def table(results: dict[str, dict]) -> str:
    """Markdown: mean nats per row, and the paired difference of ScoreDensity to each other estimator."""
    lines = [
        "| table | n × d | estimator | held-out nats per row | ScoreDensity minus it, ± s.e. | seconds per fold |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in results.items():
        ours = np.concatenate([fold["ScoreDensity"]["nats"] for fold in found["folds"]])
        for method in found["folds"][0]:
            theirs = np.concatenate([fold[method]["nats"] for fold in found["folds"]])
            mean, error = mean_and_error(theirs)
            gain, paired = mean_and_error(ours - theirs)
            difference = "" if method == "ScoreDensity" else f"{gain:+.2f} ± {paired:.2f}"
            seconds = np.mean([fold[method]["seconds"] for fold in found["folds"]])
            size = f"{found['n']} × {found['d']}"
            lines.append(f"| {name} | {size} | {method} | {mean:.2f} ± {error:.2f} | {difference} | {seconds:.1f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=list(TABLES), default=list(TABLES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    kept = RESULTS / "tables.json"
    results = json.loads(kept.read_text())["tables"] if kept.is_file() else {}
    for name in options.only:
        results[name] = cross_validated(name, options.folds)
        kept.write_text(json.dumps({"machine": machine(), "tables": results}) + "\n")
        (RESULTS / "tables.md").write_text(table({k: results[k] for k in TABLES if k in results}))
    print(table(results))


if __name__ == "__main__":
    main()
