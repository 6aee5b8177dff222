"""`Run`: one folder with a recipe, its data and its checkpoints."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import time
from collections.abc import Generator
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from scorefield.calculus import NoisyScore, PerSample
from scorefield.checks import check_count, check_non_negative, nearest
from scorefield.data import Batches, Dataset, open_dataset, prepare
from scorefield.fields import ScoreModel, given
from scorefield.noise import Noise
from scorefield.runs import checkpoints
from scorefield.runs.draw import draw
from scorefield.runs.log import Log
from scorefield.runs.recipe import (
    LabelledNoise,
    build_model,
    build_noise,
    check_recipe,
    differences,
    from_yaml,
    to_yaml,
)
from scorefield.runs.resolve import resolve
from scorefield.samplers import Samples
from scorefield.settings import Recipe, Resolved
from scorefield.training import Diverged, Engine, State, Step, train

CHUNK = 100  # samples per call of a sampler; fixed, so that no sample depends on the number of processes


class Locked(RuntimeError):
    """Another process is writing to the run folder."""


class Run:
    """A run folder: `Run.create(recipe, path)`, `Run.open(path)`; then `train`, `sample`, `load_model`.

    Attributes:
        path: the folder.
        recipe: what was asked for.
        resolved: what the data and the machine decided, once.
        dataset: the data, memory-mapped from the folder.
        notes: what was found damaged and passed over.
    """

    def __init__(self, path: Path, recipe: Recipe, resolved: Resolved, dataset: Dataset) -> None:
        self.path, self.recipe, self.resolved, self.dataset = path, recipe, resolved, dataset
        self._checkpoint, self.notes = checkpoints.latest(path / "checkpoints")
        self._state: State | None = None

    @classmethod
    def create(cls, recipe: Recipe, path: str | Path) -> Run:
        """Read and check the data, settle what the recipe leaves open, and only then make the folder.

        Args:
            recipe: what to train on what.
            path: the folder, which must not exist or be empty.

        Returns:
            the run, at step 0.

        Raises:
            ValueError: the recipe or its data are refused, or the folder holds something else. Nothing is left behind.
        """
        path = Path(path)
        check_recipe(recipe)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ValueError(f"a new run needs a folder that does not exist yet, got {path}; choose another")
        staging = path.parent / f".{path.name}.new-{os.getpid()}"
        missing = [p for p in (path.parent, *path.parent.parents) if not p.exists()]
        try:
            dataset = prepare(recipe.data_settings(), staging, seed=recipe.seed)
            resolved = resolve(recipe, dataset)
            (staging / "recipe.yaml").write_text(to_yaml(recipe, resolved))
            if path.exists():
                path.rmdir()
            staging.rename(path)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            for folder in missing:
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()
            raise
        return cls.open(path)

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Open a run folder for reading; it may be in training.

        Raises:
            ValueError: it is no run folder, or from a newer version.
            Damaged: no whole checkpoint is left, or the data are damaged.
        """
        path = Path(path)
        if not (path / "recipe.yaml").is_file():
            siblings = [p.parent.name for p in path.parent.glob("*/recipe.yaml")] if path.parent.is_dir() else []
            raise ValueError(f"a run folder holds recipe.yaml, got {path}{nearest(path.name, siblings)}")
        recipe, resolved = from_yaml(path / "recipe.yaml")
        return cls(path, recipe, resolved, open_dataset(path))

    @classmethod
    def resume(cls, recipe: Recipe, path: str | Path) -> Run:
        """Open the run that this very recipe made; a larger number of steps extends it.

        Raises:
            ValueError: another setting differs (named), or fewer steps are asked for than before.
        """
        run = cls.open(path)
        check_recipe(recipe)
        changed = differences(run.recipe, recipe)
        if changed:
            raise ValueError(f"{path} cannot go on with other settings: {'; '.join(changed)}; choose a new folder")
        before = run.resolved.training.steps
        if recipe.steps is not None and recipe.steps < before:
            raise ValueError(f"steps must be >= {before}, what this run was made for, got {recipe.steps}")
        if recipe.steps is not None and recipe.steps > before:
            run.dataset = open_dataset(run.path, verify=True)
            training = dataclasses.replace(run.resolved.training, steps=recipe.steps)
            run.resolved = dataclasses.replace(run.resolved, training=training)
            with run.lock():
                partial = run.path / ".recipe.yaml.new"
                partial.write_text(to_yaml(run.recipe, run.resolved))
                partial.replace(run.path / "recipe.yaml")
        return run

    @property
    def step(self) -> int:
        """The step of the newest whole checkpoint; 0 before the first."""
        return int(self._checkpoint.name) if self._checkpoint else 0

    @property
    def finished(self) -> bool:
        """Whether the last step has been saved."""
        return self.step >= self.resolved.training.steps

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; empty when the data have no labels."""
        return self.dataset.info.classes

    @property
    def noise(self) -> Noise:
        """The schedule, in the units of the scaled data."""
        return build_noise(self.recipe.noise, self.resolved.noise)

    @property
    def score(self) -> NoisyScore:
        """The learned score without labels, of the scaled data (mean 0, spread 1)."""
        return given(self.load_model(), None)

    def objective(self) -> LabelledNoise:
        """The objective of training."""
        return LabelledNoise(self.noise, self.resolved.levels, self.recipe.label_dropout)

    def load_model(self, *, ema: bool = True) -> ScoreModel:
        """The trained network in plain torch, s(x, t, y) on scaled data, in evaluation mode.

        Args:
            ema: the moving average of the weights; False for the last weights themselves.

        Raises:
            RuntimeError: there is no checkpoint yet.
        """
        if self._checkpoint is None:
            raise RuntimeError(f"{self.path} has no checkpoint yet; run: scorefield train … -o {self.path}")
        if self._state is None or self._state.step != self.step:
            self._checkpoint, self._state = checkpoints.load_latest(self.path / "checkpoints")
        state = self._state
        model = self._new_model()
        model.load_state_dict(state.ema if ema else state.model)
        return model.eval().requires_grad_(False)

    def _new_model(self) -> ScoreModel:
        return build_model(self.recipe, self.resolved, self.dataset.shape, len(self.classes))

    def lock(self) -> FileLock:
        """The lock of the writers, taken; use it in a `with`.

        Raises:
            Locked: another process has it.
        """
        lock = FileLock(self.path / "lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise Locked(f"{self.path} is being written by another process; wait for it, or choose another") from error
        return lock

    def train(self, *, checkpoint_seconds: float = 10.0, engine: Engine | None = None) -> Generator[Step, None, None]:
        """Train from the newest checkpoint to the last step; saves by the clock, at the end, and when closed.

        Args:
            checkpoint_seconds: time between checkpoints, >= 0.
            engine: processes that were started before; only the first one writes.

        Yields:
            one `Step` per optimiser step.

        Raises:
            Locked: another process is writing.
            Damaged: the data are not what was stored.
        """
        check_non_negative("checkpoint_seconds", checkpoint_seconds)
        config = self.resolved.training
        engine = engine or Engine(config.devices)
        if engine.rank > 0:
            yield from self._steps(engine)
            return
        with self.lock():
            self.dataset = open_dataset(self.path, verify=True)
            self._checkpoint, self.notes = checkpoints.latest(self.path / "checkpoints")
            log, saved, clock = Log(self.path / "metrics.jsonl", self.step), self.step, time.monotonic()
            good: Step | None = None
            try:
                for step in self._steps(engine):
                    log.write(step)
                    good = good if step.skipped else step
                    due = step.step == config.steps or time.monotonic() - clock >= checkpoint_seconds
                    if due and not step.skipped:
                        saved = step.step
                        self._save(step, log)
                        clock = time.monotonic()
                    yield step
            finally:
                if good is not None and good.step > saved:
                    self._save(good, log)  # skipped steps left its state as it was
                log.close()

    def _steps(self, engine: Engine) -> Generator[Step, None, None]:
        config = self.resolved.training
        state = checkpoints.load(self._checkpoint) if self._checkpoint else None
        batches = Batches(self.dataset, config.batch_size, config.seed)
        return train(self._new_model(), self.objective(), batches, config, resume=state, engine=engine)

    def _save(self, step: Step, log: Log) -> None:
        log.flush()
        extra = {"seed": self.recipe.seed, "versions": checkpoints.versions(), "training_seconds": log.seconds}
        state = dataclasses.replace(step.state(), step=step.step)
        self._checkpoint = checkpoints.save(self.path / "checkpoints", state, extra)

    def sample(
        self,
        n: int,
        seed: int = 0,
        label: str | int | None = None,
        *,
        sampler: str = "heun",
        steps: int | None = None,
        denoise: bool = True,
        path: bool = False,
        engine: Engine | None = None,
    ) -> Samples:
        """Draw samples in the units of the data.

        Sample i of a seed has the same noise whatever n is and however many processes share the work.

        Args:
            n: how many, >= 1.
            seed: an integer >= 0.
            label: the class to draw; None draws classes by their frequency (labelled data).
            sampler: heun, euler, euler-maruyama, ancestral or annealed-langevin.
            steps: steps of the sampler (per level for annealed-langevin); None for a good default.
            denoise: end with Tweedie's formula; False leaves the blur of the smallest noise level.
            path: keep the states on the way, in `path`.
            engine: processes that share the work; None for this one.

        Returns:
            samples with `x` (n, *D); `info["y"]` holds class numbers (n,) for labelled data.

        Raises:
            ValueError: n < 1, an unknown label or sampler, or a label for data without labels.
            Diverged: samples that are not finite.
        """
        check_count("n", n)
        check_count("seed", seed, least=0)
        engine = engine or Engine(alone=True)
        model, y = self.load_model().to(engine.device), self._labels(n, seed, label)
        whole = torch.zeros((n, *self.dataset.shape), dtype=next(model.parameters()).dtype)
        paths, evaluations = [], 0
        for k, first in enumerate(range(0, n, CHUNK)):
            rows = slice(first, min(first + CHUNK, n))
            if k % engine.world != engine.rank:
                continue
            labels = None if y is None else y[rows].to(engine.device)
            like = whole[rows].to(engine.device)
            generator = PerSample(seed, range(rows.start, rows.stop))
            score = given(model, labels)
            drawn = draw(score, self.noise, like, sampler, steps, denoise=denoise, path=path, generator=generator)
            whole[rows], evaluations = drawn.x.cpu(), drawn.evaluations
            paths += [] if drawn.path is None else [drawn.path.cpu()]
        whole = engine.sum(whole)
        bad = int((~whole.isfinite()).flatten(1).any(1).sum())
        if bad:
            raise Diverged(f"{bad} of {n} samples are not finite; the training diverged: train anew, more slowly")
        kept = self._unscale(torch.cat(paths, dim=1)) if paths else None
        return Samples(self._unscale(whole), kept, {} if y is None else {"y": y}, evaluations)

    def _unscale(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self.dataset.info.scaling.undo(x, self.dataset.info.dtype))

    def _labels(self, n: int, seed: int, label: str | int | None) -> Tensor | None:
        if not self.classes:
            if label is not None:
                raise ValueError(f"label must not be given for data without labels, got {label!r}")
            return None
        if label is None:
            u = PerSample(seed, range(2**62, 2**62 + n)).uniform(torch.empty(n, 1))
            cumulative = torch.from_numpy(np.cumsum(self.dataset.class_frequencies))
            return torch.searchsorted(cumulative / cumulative[-1], u, right=True).clamp(max=len(self.classes) - 1)
        if str(label) not in self.classes:
            known = ", ".join(self.classes[:20])
            raise ValueError(f"label must be one of {known}; got {label!r}{nearest(str(label), self.classes)}")
        return torch.full((n,), self.classes.index(str(label)), dtype=torch.long)

    def write_samples(self, samples: Samples, path: str | Path) -> Path:
        """Write an .npz with `x` in data units and, for labelled data, `y`: the names of the classes."""
        path = Path(path)
        if path.suffix != ".npz":
            raise ValueError(f"samples are written as .npz, got the output {path}; name it {path.with_suffix('.npz')}")
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {"x": samples.x.numpy()}
        if "y" in samples.info:
            names = np.array(self.classes)
            whole = all(re.fullmatch(r"0|-?[1-9][0-9]{0,17}", name) for name in self.classes)
            arrays["y"] = (names.astype(np.int64) if whole else names)[samples.info["y"].numpy()]
        partial = path.with_name(f".{path.name}.partial")
        with partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        return partial.replace(path)
