"""`ScoreDensity` beside scikit-learn's density estimators and imputers on its small tables.

Run: .venv/bin/python benchmarks/tables.py [--folds 5] [--only wine …]     (about 15 minutes on one core)
     .venv/bin/python benchmarks/tables.py --impute [--only wine …]        (2 minutes for wine: imputation.md)

Held-out log-likelihood, paired.

Cross-validation; within each fold GaussianMixture and KernelDensity choose their settings by
five-fold cross-validation of their own, and ScoreDensity its own by its held-out rows. All see columns that were
standardised on the training rows; log-likelihoods are in those units, in nats per row. Standard errors are over rows;
that rows of one fold share a fit is not in them.

Imputation: a tenth of the entries of the held-out rows is removed at random; all see whole training rows. Errors are in
standard deviations of the training rows' columns.
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
MISSING = 0.1  # of the entries
DRAWS = 20  # of a missing entry: 19 of the truth's 21 places among them are their middle, 90 %


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


def filled(train: np.ndarray, test: np.ndarray, seed: int) -> dict[str, object]:
    """Errors of what was removed from the test rows under each imputer, and the ranks of the truth among draws."""
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

    gaps = np.random.default_rng(seed).uniform(size=test.shape) < MISSING
    gaps[gaps.all(1)] = False
    known = np.where(gaps, np.nan, test)
    fitted = ScoreDensity(random_state=seed).fit(train)
    clock = time.process_time()
    draws = fitted.impute(known, n_draws=DRAWS, random_state=seed)
    seconds = time.process_time() - clock
    guesses = {"ScoreDensity, mean of the draws": draws.mean(0), "ScoreDensity, one draw": draws[0]}
    others = {
        "IterativeImputer": IterativeImputer(max_iter=100, random_state=seed),
        "KNNImputer": KNNImputer(),
        "mean": SimpleImputer(),
    }
    guesses |= {name: imputer.fit(train).transform(known) for name, imputer in others.items()}
    errors = {name: ((guess - test)[gaps]).tolist() for name, guess in guesses.items()}
    return {"errors": errors, "ranks": (draws < test).sum(0)[gaps].tolist(), "seconds": seconds, "rows": len(test)}


def imputation(name: str, folds: int) -> dict[str, object]:
    """All folds of one table, standardised by the training rows."""
    x, parts = rows_of(name), []
    for k, (train, test) in enumerate(KFold(folds, shuffle=True, random_state=0).split(x)):
        mean, scale = x[train].mean(0), x[train].std(0)
        parts.append(filled((x[train] - mean) / scale, (x[test] - mean) / scale, k))
        print(name, k, {m: round(rmse(np.array(e))[0], 3) for m, e in parts[-1]["errors"].items()}, flush=True)  # type: ignore[union-attr]
    return {"n": len(x), "d": x.shape[1], "folds": parts}


def rmse(errors: np.ndarray) -> tuple[float, float]:
    """Root mean square and its standard error over the entries."""
    mean, error = mean_and_error(errors**2)
    return math.sqrt(mean), error / (2 * math.sqrt(mean))


def imputation_table(results: dict[str, dict]) -> str:
    """Markdown: root mean square errors, their paired differences in squares, and how often draws hold the truth."""
    lines = [
        "| table | imputer | RMSE ± s.e. | mean square minus the first's, ± s.e. | truth in the draws' middle 90 % |",
        "|---|---|---|---|---|",
    ]
    for name, found in results.items():
        gathered = {m: np.concatenate([f["errors"][m] for f in found["folds"]]) for m in found["folds"][0]["errors"]}
        ranks = np.concatenate([f["ranks"] for f in found["folds"]])
        inside = (ranks >= 1) & (ranks <= DRAWS - 1)
        first = next(iter(gathered.values()))
        for k, (method, errors) in enumerate(gathered.items()):
            (value, error), (gain, paired) = rmse(errors), mean_and_error(errors**2 - first**2)
            said = f"{gain:+.2f} ± {paired:.2f}" if k else ""
            held = f"{100 * inside.mean():.0f} % of {len(ranks)}" if not k else ""
            lines.append(f"| {name} | {method} | {value:.2f} ± {error:.2f} | {said} | {held} |")
    return "\n".join(lines) + "\n"


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
    parser.add_argument("--impute", action="store_true", help="missing entries in place of densities")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.impute:
        results = {name: imputation(name, options.folds) for name in options.only}
        (RESULTS / "imputation.json").write_text(json.dumps({"machine": machine(), "tables": results}) + "\n")
        (RESULTS / "imputation.md").write_text(imputation_table(results))
        print(imputation_table(results))
        return
    kept = RESULTS / "tables.json"
    results = json.loads(kept.read_text())["tables"] if kept.is_file() else {}
    for name in options.only:
        results[name] = cross_validated(name, options.folds)
        kept.write_text(json.dumps({"machine": machine(), "tables": results}) + "\n")
        (RESULTS / "tables.md").write_text(table({k: results[k] for k in TABLES if k in results}))
    print(table(results))


if __name__ == "__main__":
    main()
