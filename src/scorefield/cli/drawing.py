"""Commands that use a run: sample, likelihood, restore."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
from rich.markup import escape

from scorefield.checks import check_count
from scorefield.cli import show
from scorefield.cli.codes import DONE
from scorefield.data import read_rows
from scorefield.runs import Run
from scorefield.runs.density import run_likelihood, write_likelihood
from scorefield.runs.draw import choose_sampler
from scorefield.runs.restoring import NAMED_MASKS, degradation, named_mask, write_restoration
from scorefield.runs.restoring import restore as restored
from scorefield.settings import DataSettings, LikelihoodOptions, RestoreOptions, SampleOptions
from scorefield.training import Engine


def sample(options: SampleOptions) -> int:
    """Draw samples and write them."""
    run = Run.open(options.run)
    classifier = None if options.classifier is None else Run.open(options.classifier)
    alone = options.devices == 1 and "WORLD_SIZE" not in os.environ
    engine = Engine(options.devices, alone=alone)
    drawn = run.sample(
        options.count,
        options.seed,
        options.label,
        sampler=options.sampler,
        steps=options.steps,
        step_size=options.step_size,
        epsilon=options.epsilon,
        guidance=options.guidance,
        classifier=classifier,
        engine=engine,
    )
    if engine.rank > 0:
        return DONE
    sampler = choose_sampler(options.sampler, run.recipe)
    name = f"{sampler}-{options.count}-seed{options.seed}-step{run.step}"
    classes = (classifier or run).classes
    name += f"-class{classes.index(options.label)}" if options.label is not None else ""
    name += f"-{options.steps}steps" if options.steps is not None else ""
    name += f"-h{options.step_size:g}" if options.step_size is not None else ""
    name += f"-guidance{options.guidance:g}" if options.guidance is not None else ""
    name += f"-by-{classifier.path.name}" if classifier is not None else ""
    name += f"-epsilon{options.epsilon:g}" if options.epsilon is not None else ""
    path = run.write_samples(drawn, options.output or run.path / "samples" / f"{name}.npz", classes=classes)
    console = show.console()
    show.notes(run, console)
    console.print(
        f"{options.count} samples, {drawn.evaluations} network calls each -> {escape(str(path))}", soft_wrap=True
    )
    return DONE


def likelihood(options: LikelihoodOptions) -> int:
    """Log-densities of data under a run."""
    run = Run.open(options.run)
    data = DataSettings(options.data, options.root, options.label_column)
    kept = run.dataset.held_out_rows
    if options.data != "held-out":
        rows = read_rows(data, seed=options.seed)
    elif len(kept):
        rows = np.asarray(run.dataset.x[kept])
    else:
        raise ValueError(f"{run.path} kept no rows out of training; give a file or a name")
    if options.count is not None:
        check_count("count", options.count)
        rows = rows[np.linspace(0, len(rows) - 1, min(options.count, len(rows))).round().astype(int)]
    found = run_likelihood(
        run,
        rows,
        label=options.label,
        method=options.method,
        probes=options.probes,
        rtol=options.rtol,
        bin_width=options.bin_width,
        particles=options.particles,
        seed=options.seed,
    )
    output = write_likelihood(Path(options.output), found) if options.output is not None else None
    console = show.console(quiet=options.json)
    if options.json:
        print(json.dumps({"run": str(run.path), "step": run.step, "seed": options.seed, **found.to_json()}, indent=2))
    show.notes(run, console)
    show.likelihood(console, found)
    if output is not None:
        console.print(f"{len(rows)} rows -> {escape(str(output))}", soft_wrap=True)
    return DONE


def restore(options: RestoreOptions) -> int:
    """Draw what a damaged sample may have been, and picture it."""
    from scorefield import plots

    run = Run.open(options.run)
    path = Path(options.output or run.path / "restored" / f"{options.task}-row{options.row}-{options.method}.npz")
    rows = read_rows(DataSettings(options.input), seed=options.seed)
    if not 0 <= options.row < len(rows):
        raise ValueError(f"row must lie in [0, {len(rows) - 1}], got {options.row}")
    named = options.mask in NAMED_MASKS
    known = None if options.mask is None or named else np.load(options.mask, allow_pickle=False)
    shape = run.dataset.shape
    known = named_mask(str(options.mask), shape) if named else known
    operator = degradation(options.task, shape, known=known, width=options.width, factor=options.factor)
    found = restored(
        run,
        rows[options.row],
        operator,
        n=options.count,
        label=options.label,
        sigma=options.noise,
        method=options.method,
        steps=options.steps,
        degrade=options.degrade,
        seed=options.seed,
    )
    console = show.console()
    show.notes(run, console)
    write_restoration(path, found)
    said = f", least effective particles {found.effective:.0f}" if found.effective is not None else ""
    console.print(
        f"{options.count} draws, {found.evaluations} network calls each{said} -> {escape(str(path))}", soft_wrap=True
    )
    if len(shape) == 3:
        truth = rows[options.row] if options.degrade else None
        drawn = plots.restoration(found.observed, found.draws, known=known, truth=truth)
        picture = plots.save(drawn, path.with_suffix(".png"))
        console.print(f"picture: {escape(str(picture))}", soft_wrap=True)
    return DONE
