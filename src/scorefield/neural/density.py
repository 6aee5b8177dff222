r"""`ScoreDensity`: a density estimator for any array or data frame, learned at all noise levels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from scorefield.checks import check_between, check_count, check_positive
from scorefield.estimators.validation import Array, check_weights, names_of
from scorefield.neural import answers
from scorefield.neural.coordinates import check_columns, decorrelated
from scorefield.neural.folder import pack, read, temporary, unpack, write
from scorefield.neural.imputing import impute
from scorefield.neural.search import NEVER, choose, create, resample
from scorefield.neural.tables import Frame, incomplete, rows
from scorefield.runs import Run, run_likelihood
from scorefield.settings import MLPSize, Recipe, UNetSize

POWERS = (0.0, 0.5, 1.0)  # the coordinates that are compared
FEWEST = 5  # rows
MANY = 5000  # rows from which batches are larger
AVERAGED = 100  # steps over which the weights are averaged


class ScoreDensity(BaseEstimator):
    r"""A neural density: a noise-conditional score network, trained with settings chosen from the data.

    It learns the score of the data at all noise levels; `sample` follows the probability flow from noise to data,
    `score_samples` back, `denoise` is Tweedie's formula, and `impute` draws what rows miss. **The law it has is that of
    the data blurred by its smallest noise level** (`noise_range_`), which is chosen well below the distance of
    neighbours.

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
        run_: the run: network, noise, training rows and their scaling.
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
        x = rows(self, X, rng, fitting=True, least=FEWEST)
        w = check_weights(sample_weight, len(x))
        x, w = x[w > 0], w[w > 0]
        if len(x) < FEWEST:
            raise ValueError(f"{len(x)} samples have a weight > 0; ScoreDensity needs {FEWEST} or more")
        self.shape_ = x.shape[1:] if x.ndim != 3 else (1, *x.shape[1:])
        home, recipe = temporary(), self._recipe(len(x), x.shape[1], _seed(rng))
        power, scaling, names = 0.0, None, []
        if x.ndim == 2:
            names, apart = self.get_feature_names_out().tolist(), None if self._frame is None else self._frame.one_hot
            check_columns(x, w, names, apart=apart)
            powers = POWERS if self.decorrelate is None else (float(self.decorrelate),)
            mixed = x.shape[1] if apart is None else int((~apart).sum())
            how: Any = {"powers": powers if mixed > 1 else (0.0,), "held_out": self.held_out, "apart": apart}
            steps, power = choose(x, w, recipe, Path(home.name), rng, **how)
            recipe, scaling = replace(recipe, steps=steps), decorrelated(x, w, power, apart=apart)
        run = create(recipe, Path(home.name) / "run", resample(x, w, rng), scaling, names)
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
        x = self.run_.sample(count, _seed(random_state)).x.numpy()
        return x if self._frame is None else self._frame.decode(x)

    def score_samples(self, X: Any) -> Array:
        """The log-density of each row in nats and the units of the data, (n,), by the probability flow.

        Exact for vectors up to the steps of the flow; for images the divergence is estimated by 32 probes.

        Raises:
            ValueError: one-hot columns, which have no density, without `dequantise`.
        """
        return run_likelihood(self.run_, self._with_density(X), probes=answers.PROBES).nats.numpy()

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
        return -answers.objective(self.run_, self._model, x, check_weights(sample_weight, len(x)))

    def score_function(self, X: Any, sigma: float | None = None) -> Array:
        r"""The gradient of the log-density of noised rows, $\nabla_x \log p_\sigma$, shaped like the encoded rows of X.

        A network's error in the score grows like $1/\sigma$: at the smallest level it can exceed the score itself, and
        a level of 0.05 to 0.3 trades it for a blur of that size.

        Args:
            X: rows like those of `fit`.
            sigma: noise level, as in `denoise`; None for the smallest, which blurs least.

        Raises:
            ValueError: sigma outside of `noise_range_`, or a score that overflows, as with columns of 1e-320.
        """
        return answers.score(self.run_, self._model, self._rows(X), sigma)

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
        if self._frame is not None:
            raise ValueError("rows with categories cannot carry normal noise; fit the columns of numbers alone")
        return answers.denoised(self.run_, self._model, self._rows(X), sigma)

    def impute(self, X: Any, n_draws: int = 1, random_state: Any = None) -> Any:
        r"""Fill in missing values by draws from $p(x_M \mid x_K)$, the missing given the known; what is known stays.

        By the score of the posterior, from moments of the law given the noised row, and the reverse SDE: exact for
        Gaussian laws up to its steps; where the missing values have several modes, their shares are approximate.

        Args:
            X: rows like those of `fit`, with NaN (in columns of categories also None or NA) where a value is missing.
            n_draws: how many tables, each filled by other draws: their spread is the uncertainty, their mean
                estimates the conditional one.
            random_state: a seed, a `RandomState` or None; the same seed gives the same draws.

        Returns:
            a filled table like X (float64, or a data frame where there are categories); for `n_draws` > 1 an array
            (n_draws, n, *D), or a list of data frames. X itself, copied, where nothing is missing.

        Raises:
            ValueError: a row that misses every value, infinities, categories that `fit` did not see, or columns other
                than in `fit`.
        """
        check_is_fitted(self)
        check_count("n_draws", n_draws)
        rng = check_random_state(random_state)
        x = incomplete(self, X, rng)
        unknown = np.isnan(x).reshape(len(x), -1)
        if unknown.all(1).any():
            raise ValueError(
                f"row {int(unknown.all(1).argmax())} of X misses every value; leave it out; sample draws such rows"
            )
        gaps, filled = unknown.any(1), np.repeat(x[None], n_draws, 0)
        if gaps.any():
            holes, seed = np.concatenate(list(filled[:, gaps])), _seed(rng)
            drawn = impute(self._model, self.run_.noise, self.run_.dataset.info.scaling, holes, seed=seed)
            filled[:, gaps] = drawn.reshape(n_draws, -1, *x.shape[1:])
        tables = filled if self._frame is None else [self._frame.decode(table) for table in filled]
        return tables if n_draws > 1 else tables[0]

    @property
    def noise_covariance_(self) -> Array:
        """Covariance of noise of level 1 in the units of the data, (d, d); for images its variance, ()."""
        return answers.noise_covariance(self.run_.dataset.info.scaling)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the encoded columns, those of `score_function`: column=category for one-hot ones."""
        names = names_of(self, self.n_features_in_) if self._frame is None else self._frame.names
        return np.array(names, dtype=object)

    def save(self, path: str | Path) -> Path:
        """Write the run folder, with `estimator.json` beside its recipe.

        `scorefield` reads it as any run: `sample` and `likelihood` are in the units of the data. Where there are
        categories they speak of the encoded columns, by their names, and `load` decodes them.

        Raises:
            ValueError: the folder exists and is not empty.
        """
        check_is_fitted(self)
        return write(self, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> ScoreDensity:
        """Open what `save` wrote; the folder is used where it lies.

        Raises:
            ValueError: no run folder, or one without `estimator.json`.
        """
        return read(cls, Path(path))

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
        self.noise_range_ = answers.noise_range(run.noise)
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
            steps=self.steps,
            unet=UNetSize(width=self.width or UNetSize().width),
            mlp=MLPSize(width, self.depth),
            batch_size=batch,
            learning_rate=self.learning_rate,
            ema_samples=AVERAGED * batch,
            held_out=0.0,
            precision="fp32",
            seed=seed,
        )

    def _with_density(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        if self._frame is not None and not self.dequantise:
            raise ValueError(
                "one-hot columns have no density; fit with dequantise=True, which gives them one, or leave out the "
                f"columns {', '.join(c.name for c in self._frame.columns if c.categories is not None)}"
            )
        return self._rows(X)

    def _rows(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return rows(self, X, check_random_state(0), fitting=False)


def _seed(random_state: Any) -> int:
    return int(check_random_state(random_state).randint(2**31 - 1))
