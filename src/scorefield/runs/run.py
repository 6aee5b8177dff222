"""`Run`: one folder with a recipe, its data and its checkpoints."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from scorefield.checks import check_count, check_non_negative, nearest
from scorefield.data import Batches, Dataset, Scaling, Table, open_dataset, prepare
from scorefield.fields import EnergyModel, ScoreModel, at, given
from scorefield.guidance import NoisyClassifier
from scorefield.noise import Noise
from scorefield.runs import checkpoints
from scorefield.runs.classifying import classifier_for
from scorefield.runs.draw import choose_way
from scorefield.runs.log import Log
from scorefield.runs.objectives import CrossEntropy, LabelledNoise, OneLaw
from scorefield.runs.recipe import (
    build_classifier,
    build_model,
    build_noise,
    build_objective,
    check_recipe,
    differences,
    from_yaml,
    to_yaml,
)
from scorefield.runs.resolve import resolve
from scorefield.runs.samples import choose_labels, in_chunks, write
from scorefield.samplers import Samples
from scorefield.settings import Recipe, Resolved
from scorefield.training import Engine, State, Step, train


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
    def create(
        cls, recipe: Recipe, path: str | Path, *, table: Table | None = None, scaling: Scaling | None = None
    ) -> Run:
        """Read and check the data, settle what the recipe leaves open, and only then make the folder.

        Args:
            recipe: what to train on what.
            path: the folder, which must not exist or be empty.
            table: the samples themselves, where they lie in memory; `recipe.data` then only says what they are.
            scaling: from the data's units to what the network sees; None learns mean and spread.

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
            dataset = prepare(recipe.data_settings(), staging, seed=recipe.seed, table=table, scaling=scaling)
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
    def provenance(self) -> dict[str, Any]:
        """What the newest checkpoint says of how it was made: versions, hardware, seconds; empty before the first."""
        return checkpoints.check(self._checkpoint) if self._checkpoint else {}

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
        """The schedule, in the units of the scaled data.

        Raises:
            RuntimeError: the run learned one law, without noise levels.
        """
        if not self.recipe.at_all_levels:
            raise RuntimeError(
                f"{self.path} has no schedule: objective {self.recipe.objective} learns one law; see its sigma, or "
                "train with objective noise-conditional"
            )
        return build_noise(self.recipe.noise, self.resolved.noise)

    @property
    def sigma(self) -> float:
        """The noise, in the units of the scaled data, that blurs the one law a run learned; 0 for the data's own.

        Raises:
            RuntimeError: the run learned all levels of a schedule.
        """
        if self.recipe.at_all_levels:
            raise RuntimeError(f"{self.path} has no single sigma: it learned all levels of its noise")
        return self.resolved.noise["sigma"]

    @property
    def score(self) -> Callable[..., Tensor]:
        """The learned score without labels, of the scaled data (mean 0, spread 1).

        It is called as (x, t), or as (x) where one law was learned; an energy's carries `log_density`.
        """
        score = given(self.load_model(), None)
        return score if self.recipe.at_all_levels else at(score, None)

    def objective(self) -> LabelledNoise | OneLaw | CrossEntropy:
        """The objective of training."""
        return build_objective(self.recipe, self.resolved)

    def load_model(self, *, ema: bool = True) -> ScoreModel | EnergyModel:
        """The trained network in plain torch, s(x, t, y) on scaled data, in evaluation mode.

        Where one law was learned it is called without t: as (x), or (x, None, y).

        Args:
            ema: the moving average of the weights; False for the last weights themselves.

        Raises:
            RuntimeError: there is no checkpoint yet, or the run holds a classifier.
        """
        if self.recipe.classifier:
            raise RuntimeError(
                f"{self.path} holds a classifier, which has no score; guide another run by it: scorefield sample RUN "
                f"--classifier {self.path}"
            )
        return self._loaded(self._new_model(), ema)  # pyright: ignore[reportReturnType]

    def load_classifier(self, *, ema: bool = True) -> NoisyClassifier:
        """The trained classifier in plain torch, logits (x, t) -> (B, K) of scaled data, in evaluation mode.

        Args:
            ema: the moving average of the weights; False for the last weights themselves.

        Raises:
            RuntimeError: there is no checkpoint yet, or the run holds a score.
        """
        if not self.recipe.classifier:
            raise RuntimeError(f"{self.path} holds a score and no classifier; train one with --classifier")
        return self._loaded(self._new_model(), ema)  # pyright: ignore[reportReturnType]

    def _new_model(self) -> ScoreModel | EnergyModel | NoisyClassifier:
        build = build_classifier if self.recipe.classifier else build_model
        return build(self.recipe, self.resolved, self.dataset.shape, len(self.classes))

    def _loaded(self, model: nn.Module, ema: bool) -> nn.Module:
        if self._checkpoint is None:
            raise RuntimeError(f"{self.path} has no checkpoint yet; run: scorefield train … -o {self.path}")
        if self._state is None or self._state.step != self.step:
            self._checkpoint, self._state = checkpoints.load_latest(self.path / "checkpoints")
        model.load_state_dict(self._state.ema if ema else self._state.model)
        return model.eval().requires_grad_(False)

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
        made = {"versions": checkpoints.versions(), "hardware": checkpoints.hardware()}
        extra = {"seed": self.recipe.seed, **made, "training_seconds": log.seconds}
        state = dataclasses.replace(step.state(), step=step.step)
        self._checkpoint = checkpoints.save(self.path / "checkpoints", state, extra)

    def sample(
        self,
        n: int,
        seed: int = 0,
        label: str | int | None = None,
        *,
        sampler: str | None = None,
        steps: int | None = None,
        step_size: float | None = None,
        epsilon: float | None = None,
        guidance: float | None = None,
        classifier: Run | None = None,
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
            sampler: one of `settings.SAMPLERS`; None for heun, or langevin for a run that learned one law.
            steps: steps of the sampler (per level for annealed-langevin); None for a good default.
            step_size: of a kernel of one law, in scaled units; None chooses it from the score.
            epsilon: of annealed-langevin (convention of 2020); None computes it.
            guidance: w of guidance by the label: 0 ignores it, 1 (None) is conditional, more sharpens.
            classifier: a run that holds a classifier, whose classes are drawn and whose gradient guides the score of
                this run without labels; None for this run's own labels.
            denoise: end with Tweedie's formula; False leaves the blur of the smallest noise level, or of the one law.
            path: keep the states on the way, in `path`.
            engine: processes that share the work; None for this one.

        Returns:
            samples with `x` (n, *D); `info["y"]` holds class numbers (n,) for labelled data.

        Raises:
            ValueError: n < 1, an unknown label or sampler, one that does not go with what was learned, or a label
                where none were learned.
            Diverged: samples that are not finite.
        """
        check_count("n", n)
        check_count("seed", seed, least=0)
        engine = engine or Engine(alone=True)
        model = self.load_model().to(engine.device)
        logits = None if classifier is None else classifier_for(self, classifier, next(model.parameters()))
        y = (classifier or self)._labels(n, seed, label)
        like = torch.zeros((n, *self.dataset.shape), dtype=next(model.parameters()).dtype)
        rows = self.dataset.train_rows[:: max(1, len(self.dataset.train_rows) // 500)]
        law = self.noise if self.recipe.at_all_levels else self.sigma
        if guidance is not None and y is None:
            raise ValueError(f"guidance needs a run with labels, got {guidance!r}; leave it out")
        if self.classes and self.recipe.label_dropout == 0 and (classifier or guidance not in (None, 1.0)):
            what = f"guidance, got {guidance!r}," if classifier is None else "a classifier"
            raise ValueError(f"{what} needs a run that saw some labels hidden (label_dropout > 0); leave it out")
        how = {"sampler": sampler, "steps": steps, "step_size": step_size, "epsilon": epsilon, "guidance": guidance}
        end: dict[str, Any] = {"logits": logits, "denoise": denoise, "path": path}
        way = choose_way(self.recipe, model, law, self.dataset.x_scaled(rows), **how, **end)
        drawn = in_chunks(way, like, y, seed, engine)
        kept = None if drawn.path is None else self._unscale(drawn.path)
        return dataclasses.replace(drawn, x=self._unscale(drawn.x), path=kept)

    def label_number(self, label: str | int | None) -> int | None:
        """The number of a class by its name; None for the law of all classes.

        Raises:
            ValueError: an unknown label, one where none were learned, or none where the law of all classes was not.
        """
        learned = self.classes if self.recipe.label_dropout < 1 else ()
        if label is None and learned and self.recipe.label_dropout == 0:
            raise ValueError(f"label must be given: this run never learned the law of all classes; one of {learned}")
        y = None if label is None else self._labels(1, 0, label)
        return None if y is None else int(y)

    def _labels(self, n: int, seed: int, label: str | int | None) -> Tensor | None:
        learned = self.classes if self.recipe.label_dropout < 1 else ()
        return choose_labels(n, seed, label, learned, self.dataset.class_frequencies)

    def _unscale(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self.dataset.info.scaling.undo(x, self.dataset.info.dtype))

    def write_samples(self, samples: Samples, path: str | Path, *, classes: Sequence[str] | None = None) -> Path:
        """Write an .npz: `x` in data units, the names `columns` of vectors, and `y`, the classes, for labelled data.

        Args:
            samples: what `sample` gave.
            path: the file, named .npz.
            classes: names of the classes that were drawn; None for this run's own.
        """
        return write(Path(path), samples, self.classes if classes is None else classes, self.dataset.info.columns)
