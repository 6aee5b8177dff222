r"""`ScoreDensity`: a density estimator for any array or data frame, learned at all noise levels."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

import scorefield
from scorefield.calculus import divergence
from scorefield.checks import check_between, check_count, check_positive
from scorefield.estimators.validation import Array, check_rows_of, check_weights, names_of
from scorefield.fields import at, denoise
from scorefield.neural.coordinates import Coordinates, check_columns
from scorefield.neural.folder import pack, read, temporary, unpack, write
from scorefield.neural.search import MOST, NEVER, create, resample, trial
from scorefield.neural.tables import Frame
from scorefield.runs import Run, run_likelihood
from scorefield.settings import MLPSize, Recipe, UNetSize

POWERS = (0.0, 0.5, 1.0)  # the coordinates that are compared
FEWEST = 5  # rows
MANY = 5000  # rows from which batches are larger
AVERAGED = 100  # steps over which the weights are averaged
PROBES = 32  # of the divergence of images


class ScoreDensity(BaseEstimator):
    r"""A neural density: a noise-conditional score network, trained with settings chosen from the data.

    It learns the score of the data at all noise levels; `sample` follows the probability flow from noise to data,
    `score_samples` back, and `denoise` is Tweedie's formula. **The law it has is that of the data blurred by its
    smallest noise level** (`noise_range_`), which is chosen well below the distance of neighbours.

    Tables are standardised and, as far as held-out rows like it, decorrelated. Network and steps are kept from learning
    small tables by heart: 15 % of the rows are held out, training goes on until their objective is best, and the
    network is then trained anew on all rows for that long. Images, (n, C, H, W) or (n, H, W), train for 2,000 steps.

    Categorical columns of a data frame (text, categories, truth values) are one-hot encoded, and samples are decoded.
    One-hot columns have no density: `score_samples`, `log_density` and `score` refuse them unless `dequantise`.

    Args:
        steps: optimiser steps; None finds them on held-out rows (vectors), or is 2,000 (images).
        decorrelate: p in $C^{-p/2}$, C the shrunk correlations: 0 standardises alone, 1 makes the columns uncorrelated;
            None compares 0, ½ and 1 by the log-density of held-out rows. Images are standardised as a whole.
        width: units of a hidden layer; None for 128, or 256 from 5,000 rows or 65 columns on. Images: channels of the
            U-Net, None for 32.
        depth: hidden layers. Not used for images.
        batch_size: rows of a step; None for 128, or 256 from 5,000 rows on.
        learning_rate: peak rate of AdamW, > 0.
        held_out: fraction of the rows held out while settings are chosen, in (0, 1).
        dequantise: add uniform noise in [0, 1) to the one-hot columns, which gives them a density: `score_samples` is
            then at $x + u$, and its mean over u bounds the log-probability from below.
        random_state: a seed, a `RandomState` or None: of held-out rows, weights, batches and noise.

    Attributes:
        run_: the run: network, noise and training rows, in learned coordinates.
        steps_: how many steps it trained for.
        decorrelate_: p.
        shape_: of an encoded sample, (d,) or (C, H, W).
        noise_range_: smallest and largest noise level, in standard deviations of the data; see `denoise`.
        n_features_in_, feature_names_in_: columns of the data (channels of images).

    Source: Song et al. 2021 (arXiv:2011.13456); Karras et al. 2022 (arXiv:2206.00364); for dequantisation Uria,
    Murray & Larochelle 2013.
    """

    n_features_in_: int
    feature_names_in_: np.ndarray
    _frame: Frame | None
    _coordinates: Coordinates | None

    def __init__(
        self,
        steps: int | None = None,
        decorrelate: float | None = None,
        width: int | None = None,
        depth: int = 3,
        batch_size: int | None = None,
        learning_rate: float = 2e-3,
        held_out: float = 0.15,
        dequantise: bool = False,
        random_state: Any = 0,
    ) -> None:
        self.steps = steps
        self.decorrelate = decorrelate
        self.width = width
        self.depth = depth
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.held_out = held_out
        self.dequantise = dequantise
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> ScoreDensity:
        """Learn the law of the rows.

        Args:
            X: (n, d), (n, H, W), (n, C, H, W), or a data frame.
            y: ignored.
            sample_weight: of the rows, >= 0: rows are drawn in proportion, four for each row of data; those held out
                are weighed exactly.

        Returns:
            self.

        Raises:
            ValueError, TypeError: bad data, weights or settings; fewer than 5 rows; a constant column, or one that is a
                linear function of others.
        """
        self._check_settings()
        rng = check_random_state(self.random_state)
        self._frame = Frame.of(X)
        x = self._rows(X, rng, fitting=True)
        w = check_weights(sample_weight, len(x))
        x, w = x[w > 0], w[w > 0]
        if len(x) < FEWEST:
            raise ValueError(f"{len(x)} samples have a weight > 0; ScoreDensity needs {FEWEST} or more")
        self.shape_ = x.shape[1:] if x.ndim != 3 else (1, *x.shape[1:])
        home = temporary()
        recipe = self._recipe(len(x), x.shape[1], int(rng.randint(2**31 - 1)))
        steps, power, self._coordinates = self.steps or MOST, 0.0, None
        if x.ndim == 2:
            check_columns(x, w, self.get_feature_names_out().tolist(), apart=self._apart())
            steps, power = self._choose(x, w, recipe, Path(home.name), rng)
            self._coordinates = Coordinates.of(x, w, power, apart=self._apart())
            x = self._coordinates.apply(x)
        run = create(replace(recipe, steps=steps), Path(home.name) / "run", resample(x, w, rng))
        for _ in run.train(checkpoint_seconds=NEVER):
            pass
        self.decorrelate_ = power
        return self._ready(run, home)

    def sample(self, n_samples: int = 1, random_state: Any = None) -> Any:
        """Draw rows in the units of the data: an array like X, or a data frame where X had categorical columns.

        Args:
            n_samples: how many, >= 1.
            random_state: a seed, a `RandomState` or None; the same seed gives the same rows.
        """
        check_is_fitted(self)
        count = int(n_samples) if isinstance(n_samples, np.integer) else n_samples
        check_count("n_samples", count)
        drawn = self.run_.sample(count, int(check_random_state(random_state).randint(2**31 - 1))).x.numpy()
        if self._coordinates is None:
            return drawn
        x = self._coordinates.undo(drawn)
        return x if self._frame is None else self._frame.decode(x)

    def score_samples(self, X: Any) -> Array:
        """The log-density of each row in nats and the units of the data, (n,), by the probability flow.

        Exact for vectors up to the steps of the flow; for images the divergence is estimated by 32 probes.

        Raises:
            ValueError: one-hot columns, which have no density, without `dequantise`.
        """
        z = self._to_learned(self._with_density(X))
        volume = 0.0 if self._coordinates is None else self._coordinates.log_volume
        return run_likelihood(self.run_, z, probes=PROBES).nats.numpy() + volume

    def log_density(self, X: Any) -> Array:
        """The same as `score_samples`: this density is normalised."""
        return self.score_samples(X)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        r"""Minus the mean implicit objective $\tfrac12\|s\|^2 + \operatorname{tr}\nabla s$ on X: higher is better.

        With s the `score_function`, in the units of the data; as all estimators' `score`, and no log-likelihood: for
        that take the mean of `score_samples`.

        Raises:
            ValueError: one-hot columns without `dequantise`.
        """
        x = self._with_density(X)
        how: dict[str, Any] = {"method": "exact"}
        if self._coordinates is None:
            how = {"method": "hutchinson", "probes": PROBES, "generator": torch.Generator().manual_seed(0)}
        s, trace = divergence(self._smallest, torch.from_numpy(x.astype(np.float64)), **how)
        rho = (s.flatten(1).square().sum(1) / 2 + trace).detach().numpy()
        if not np.isfinite(rho).all():
            raise ValueError("the objective overflows in float64; rescale the columns of X")
        return -float(check_weights(sample_weight, len(x)) @ rho)

    def score_function(self, X: Any) -> Array:
        """The gradient of the log-density at the smallest noise level, shaped like the encoded rows of X.

        Raises:
            ValueError: it overflows, as with columns of the size of 1e-320.
        """
        x = self._rows(X, check_random_state(0), fitting=False)
        with torch.no_grad():
            s = self._smallest(torch.from_numpy(x.astype(np.float64))).numpy()
        if not np.isfinite(s).all():
            raise ValueError("the score overflows in float64; rescale the columns of X")
        return s

    def denoise(self, X: Any, sigma: float) -> Array:
        r"""The posterior mean of clean rows given noised ones, by Tweedie's formula $x + \Sigma\,s(x, \sigma)$.

        Args:
            X: noised rows, as numbers, (n, *D).
            sigma: of noise with the covariance $\Sigma$ = `sigma`² `noise_covariance_`, which is diagonal, the noise
                `sigma` times the columns' standard deviations, where `decorrelate` is 0; within `noise_range_`.

        Raises:
            ValueError: sigma outside of `noise_range_`, or rows with categories, which no normal noise is added to.
        """
        check_is_fitted(self)
        check_between("sigma", sigma, *self.noise_range_)
        if self._frame is not None:
            raise ValueError("rows with categories cannot carry normal noise; fit the columns of numbers alone")
        noise = self.run_.noise
        t = noise.time_at(torch.tensor(sigma, dtype=torch.float64))
        x = self._to_learned(self._rows(X, check_random_state(0), fitting=False))
        with torch.no_grad():
            clean = denoise(self._model, noise, self.run_.dataset.info.scaling.apply(x).double(), t)
        z = self.run_.dataset.info.scaling.undo(clean, "float64")
        return z if self._coordinates is None else self._coordinates.undo(z)

    @property
    def noise_covariance_(self) -> Array:
        """Covariance of noise of level 1 in the units of the data, (d, d); for images its variance, ()."""
        scale = self.run_.dataset.info.scaling.scale
        if self._coordinates is None:
            return scale**2
        root = self._coordinates.scale[:, None] * np.linalg.solve(self._coordinates.root, np.diag(scale))
        return root @ root.T

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the encoded columns, those of `score_function`: column=category for one-hot ones."""
        names = names_of(self, self.n_features_in_) if self._frame is None else self._frame.names
        return np.array(names, dtype=object)

    def save(self, path: str | Path) -> Path:
        """Write the run folder, with `estimator.json` beside its recipe.

        `scorefield` reads it as any run; what it samples there is in learned coordinates, and `load` undoes them.

        Raises:
            ValueError: the folder exists and is not empty.
        """
        check_is_fitted(self)
        c = self._coordinates
        content = {
            "version": scorefield.__version__,
            "parameters": {k: v for k, v in self.get_params().items() if k != "random_state"},
            "decorrelate": self.decorrelate_,
            "n_features_in": self.n_features_in_,
            "feature_names_in": list(getattr(self, "feature_names_in_", [])),
            "columns": self._frame and self._frame.to_json(),
            "coordinates": c and {k: v.tolist() for k, v in vars(c).items()},
        }
        return write(self.run_, content, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> ScoreDensity:
        """Open what `save` wrote; the folder is used where it lies.

        Raises:
            ValueError: no run folder, or one without `estimator.json`.
        """
        run, content = read(Path(path))
        made = cls(**content["parameters"])
        made.n_features_in_, made.decorrelate_ = content["n_features_in"], content["decorrelate"]
        if content["feature_names_in"]:
            made.feature_names_in_ = np.array(content["feature_names_in"], dtype=object)
        made._frame = content["columns"] and Frame.from_json(content["columns"])
        c = content["coordinates"]
        made._coordinates = c and Coordinates(**{k: np.array(v) for k, v in c.items()})
        made.shape_ = run.dataset.shape
        return made._ready(run, None)

    def __getstate__(self) -> Any:
        """The run folder travels with a pickle, file by file."""
        state: Any = super().__getstate__()
        if "run_" not in state:
            return state
        return {k: v for k, v in state.items() if k not in ("run_", "_model")} | {"_home": pack(state["run_"])}

    def __setstate__(self, state: Any) -> None:
        """Unpack the run folder into a temporary one."""
        super().__setstate__(state)
        if "_home" in state:
            self._ready(*unpack(state["_home"]))

    def _ready(self, run: Run, home: Any) -> ScoreDensity:
        """Take in a trained run; the temporary folder that holds it lives as long as the estimator."""
        self.run_, self._home, self._model = run, home, run.load_model().double()
        self.steps_ = run.step
        noise = run.noise
        ends = noise.sigma(torch.tensor([noise.t_min, noise.t_max], dtype=torch.float64))
        self.noise_range_ = (float(ends[0]), float(ends[1]))
        return self

    def _check_settings(self) -> None:
        for name in ("steps", "width", "batch_size"):
            value = getattr(self, name)
            check_count(name, 1 if value is None else value)
        check_count("depth", self.depth)
        check_positive("learning_rate", self.learning_rate)
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must lie in (0, 1), like 0.15, got {self.held_out!r}")
        if self.decorrelate is not None:
            check_between("decorrelate", self.decorrelate, 0, 1)

    def _recipe(self, n: int, d: int, seed: int) -> Recipe:
        batch = self.batch_size or (256 if n >= MANY else 128)
        width = self.width or (256 if n >= MANY or d > 64 else 128)
        return Recipe(
            "",
            unet=UNetSize(width=self.width or UNetSize().width),
            mlp=MLPSize(width, self.depth),
            batch_size=batch,
            learning_rate=self.learning_rate,
            ema_samples=AVERAGED * batch,
            held_out=0.0,
            precision="fp32",
            seed=seed,
        )

    def _choose(self, x: Array, w: Array, recipe: Recipe, home: Path, rng: np.random.RandomState) -> tuple[int, float]:
        """Steps and power: what was asked for, or what held-out rows like best."""
        powers = POWERS if self.decorrelate is None else (float(self.decorrelate),)
        mixed = x.shape[1] if self._frame is None else int((~self._frame.one_hot).sum())
        powers = powers if mixed > 1 else (0.0,)
        if self.steps is not None and len(powers) == 1:
            return self.steps, powers[0]
        order = rng.permutation(len(x))
        cut = min(max(1, round(self.held_out * len(x))), len(x) - 3)
        kept, held = order[cut:], order[:cut]
        w_kept, w_held = w[kept] / w[kept].sum(), w[held] / w[held].sum()
        recipe, found = replace(recipe, steps=self.steps or MOST), []
        for k, power in enumerate(powers):
            to = Coordinates.of(x[kept], w_kept, power, apart=self._apart())
            rows = resample(to.apply(x[kept]), w_kept, rng)
            tried = trial(recipe, home / f"trial-{k}", rows, to.apply(x[held]), w_held, early=self.steps is None)
            found.append((tried.log_density + to.log_volume, power, tried.steps))
            shutil.rmtree(home / f"trial-{k}")
        _, power, steps = max(found)
        return (steps if self.steps is None else self.steps), power

    def _rows(self, X: Any, rng: np.random.RandomState, *, fitting: bool) -> np.ndarray:
        """X as numbers, checked: encoded where it holds categories, and dequantised if so wished."""
        if not fitting:
            check_is_fitted(self)
        if self._frame is not None:
            validate_data(self, X, reset=fitting, skip_check_array=True)
            # a checker of its own: the one of all estimators knows nothing of the frame's columns
            encoded = self._frame.encode(X)
            x = check_rows_of(BaseEstimator(), encoded, fitting=True, least=FEWEST if fitting else 1)
            return x + self._frame.one_hot * rng.uniform(size=x.shape) if self.dequantise else x
        if getattr(X, "ndim", 2) <= 2 or hasattr(X, "toarray"):
            x = check_rows_of(self, X, fitting=fitting, least=FEWEST)
        else:
            how: dict[str, Any] = {"dtype": "numeric", "allow_nd": True, "ensure_min_samples": FEWEST if fitting else 1}
            x = np.asarray(validate_data(self, X, reset=fitting, **how))
            x = x[:, None] if x.ndim == 3 else x
        if not fitting and x.shape[1:] != self.shape_:
            raise ValueError(f"X must have rows of shape {self.shape_}, as in fit, got {x.shape[1:]}")
        return x

    def _with_density(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        if self._frame is not None and not self.dequantise:
            raise ValueError(
                "one-hot columns have no density; fit with dequantise=True, which gives them one, or leave out the "
                f"columns {', '.join(c.name for c in self._frame.columns if c.categories is not None)}"
            )
        return self._rows(X, check_random_state(0), fitting=False)

    def _to_learned(self, x: np.ndarray) -> np.ndarray:
        return x if self._coordinates is None else self._coordinates.apply(x)

    def _apart(self) -> np.ndarray | None:
        return None if self._frame is None else self._frame.one_hot

    def _smallest(self, x: Tensor) -> Tensor:
        """The score at the smallest noise level, differentiable in x (B, *D), float64, all in the units of the data."""
        scaling, c = self.run_.dataset.info.scaling, self._coordinates
        z = x if c is None else (x - torch.from_numpy(c.centre)) / torch.from_numpy(c.scale) @ torch.from_numpy(c.root)
        mean, scale = torch.from_numpy(scaling.mean), torch.from_numpy(scaling.scale)
        t = torch.tensor(self.run_.noise.t_min, dtype=torch.float64)
        s = at(self._model, t)((z - mean) / scale) / scale
        return s if c is None else s @ torch.from_numpy(c.root) / torch.from_numpy(c.scale)
