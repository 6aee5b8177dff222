"""One function per command: parse, call the library, print. Imported when a command runs, not for its help."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.markup import escape

from scorefield.checks import check_count
from scorefield.cli import show
from scorefield.cli.codes import BAD_NEWS, DONE
from scorefield.data import read_columns, read_rows
from scorefield.runs import Run, versions
from scorefield.runs.density import run_likelihood, write_likelihood
from scorefield.runs.draw import choose_sampler
from scorefield.runs.restoring import NAMED_MASKS, degradation, named_mask, write_restoration
from scorefield.runs.restoring import restore as restored
from scorefield.settings import (
    CheckOptions,
    DataSettings,
    DemoOptions,
    EvaluateOptions,
    FitOptions,
    InfoOptions,
    LikelihoodOptions,
    Recipe,
    RestoreOptions,
    SampleOptions,
    TrainOptions,
)
from scorefield.training import Engine, process_rank

if TYPE_CHECKING:
    from scorefield.evaluation import Row


def demo(options: DemoOptions) -> int:
    """Train, judge and draw the demo, or what of it is missing."""
    from scorefield.experiments import demo as digits

    console, path = show.console(), Path(options.output)
    if options.fresh and (path / "recipe.yaml").is_file():
        with Run.open(path).lock():
            shutil.rmtree(path)
    if (path / "recipe.yaml").is_file():
        run = Run.open(path)
        said = "is finished and used again" if run.finished else f"goes on from step {run.step:,}"
        console.print(f"The demo in {path} {said}; [cyan]scorefield demo --fresh[/cyan] trains anew.")
    else:
        console.print("Measuring this machine: the number of steps is decided once, now …")
        run = Run.create(digits.recipe(options.seconds), path)
    code = show.training(run, console, f"scorefield demo -o {shlex.quote(str(path))}")
    if code != DONE:
        return code
    show.table(console, run, _judged(run))
    console.print()
    for name, file in digits.pictures(run).items():
        console.print(f"{name}: [bold]{file}[/bold]", soft_wrap=True)
    console.print("\nTry next:")
    for command in (f"sample {path} -n 16 --label 3 -o threes.npz", f"evaluate {path}", "train two-moons"):
        console.print(f"  [cyan]scorefield {command}[/cyan]", soft_wrap=True)
    return DONE


def _judged(run: Run) -> list[Row]:
    """The evaluation of this very step, as stored beside the run, or made and stored now."""
    from scorefield import evaluation

    report = run.path / "evaluation.json"
    content = json.loads(report.read_text()) if report.is_file() else {}
    if content.get("step") == run.step:
        return [evaluation.Row.from_json(row) for row in content["rows"]]
    rows = evaluation.evaluate(run)
    report.write_text(json.dumps({"step": run.step, "rows": [row.to_json() for row in rows]}, indent=2) + "\n")
    return rows


def train(recipe: Recipe, options: TrainOptions) -> int:
    """Train, or resume where the same command stopped."""
    source = Path(recipe.data)
    path = Path(options.output or f"runs/{source.stem if source.is_file() else source.resolve().name}")
    console = show.console(quiet=process_rank() > 0)
    if process_rank() == 0:
        run = Run.resume(recipe, path) if (path / "recipe.yaml").is_file() else Run.create(recipe, path)
    engine = Engine(recipe.devices)
    engine.barrier()
    run = Run.open(path)
    info = run.dataset.info
    dropped = f"; {info.dropped_rows} rows with NaN or infinity dropped" if info.dropped_rows else ""
    said = f"{info.shape[0]:,} {info.kind}s of shape {tuple(info.shape[1:])} from {info.source}{dropped}"
    console.print(escape(said), soft_wrap=True)
    if run.finished:
        console.print(f"{escape(str(path))} is finished at step {run.step:,}; a larger --steps extends it.")
        return DONE
    if run.step:
        console.print(f"{escape(str(path))} goes on from step {run.step:,}.")
    command = f"scorefield {shlex.join(sys.argv[1:])}"
    code = show.training(run, console, command, checkpoint_seconds=options.checkpoint_seconds, engine=engine)
    if code == DONE:
        place = escape(shlex.quote(str(path)))
        console.print(f"Done: {place} at step {run.step:,}. Next: [cyan]scorefield sample {place} -n 64[/cyan]")
    return code


def sample(options: SampleOptions) -> int:
    """Draw samples and write them."""
    run = Run.open(options.run)
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
        engine=engine,
    )
    if engine.rank > 0:
        return DONE
    sampler = choose_sampler(options.sampler, run.recipe)
    name = f"{sampler}-{options.count}-seed{options.seed}-step{run.step}"
    name += f"-class{run.classes.index(options.label)}" if options.label is not None else ""
    name += f"-{options.steps}steps" if options.steps is not None else ""
    name += f"-h{options.step_size:g}" if options.step_size is not None else ""
    name += f"-guidance{options.guidance:g}" if options.guidance is not None else ""
    name += f"-epsilon{options.epsilon:g}" if options.epsilon is not None else ""
    path = run.write_samples(drawn, options.output or run.path / "samples" / f"{name}.npz")
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
        picture = plots.save(plots.restoration(found.observed, found.draws, known=known), path.with_suffix(".png"))
        console.print(f"picture: {escape(str(picture))}", soft_wrap=True)
    return DONE


def evaluate(options: EvaluateOptions) -> int:
    """Judge a run."""
    from scorefield import evaluation

    run = Run.open(options.run)
    rows = evaluation.evaluate(run, count=options.count, seed=options.seed)
    if options.json:
        content = {"run": str(run.path), "step": run.step, "seed": options.seed, "rows": [r.to_json() for r in rows]}
        print(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        show.notes(run, show.console())
        show.table(show.console(), run, rows)
    return DONE


def check(options: CheckOptions) -> int:
    """Compute both sides of every theorem."""
    import torch

    from scorefield import theory

    torch.set_num_threads(1)  # small tensors gain nothing from more, and lose much where cores are busy
    started, checked, console = time.perf_counter(), [], show.console(quiet=options.json)
    with console.status("checking …") as status:
        for row in theory.check(options.seed, options.only):
            status.update(f"checked [cyan]{row.theorem.name}[/cyan] …")
            checked.append(row)
    holds = all(row.claim.holds for row in checked)
    if options.json:
        content = {"seed": options.seed, "holds": holds, "rows": [row.to_json() for row in checked]}
        print(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        show.theorems(console, checked, options.seed, time.perf_counter() - started)
    return DONE if holds else BAD_NEWS


def fit(options: FitOptions) -> int:
    """Fit a statistical model and print it as a table."""
    from scorefield.estimators.names import named

    try:
        import pandas as pd
    except ModuleNotFoundError as error:
        raise ValueError("fit needs pandas for the names of columns: pip install 'scorefield[data]'") from error
    estimator: Any = named(options.model, options.domain)
    wanted = None if options.columns is None else [name.strip() for name in options.columns.split(",")]
    x, names = read_columns(options.data, wanted)
    table = pd.DataFrame(x, columns=list(names))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        estimator.fit(table)
        if hasattr(estimator, "pattern_") and not hasattr(estimator, "covariance_"):
            estimator = estimator.set_params(pattern=estimator.pattern_).fit(table)
            warnings.warn("the graph was chosen on these very rows, which the intervals do not know", stacklevel=1)
    summary, said = estimator.summary(options.level), [str(warning.message) for warning in caught]
    content = {"model": options.model, "data": options.data, **summary.to_dict(), "warnings": said}
    written = json.dumps(content, indent=2, ensure_ascii=False)
    if options.json:
        print(written)
    else:
        print(summary)
        for text in said:
            print(f"warning: {text}", file=sys.stderr)
    if options.output is not None:
        Path(options.output).write_text(written + "\n")
        print(f"written to {options.output}", file=sys.stderr)
    return DONE


def info(options: InfoOptions) -> int:
    """Say what a run holds and what comes next."""
    run, console = Run.open(options.run), show.console()
    show.notes(run, console)
    data, training = run.dataset.info, run.resolved.training
    resume = f"scorefield train {run.recipe.data} … -o {run.path}"
    show.facts(
        console,
        {
            "run": str(run.path),
            "step": f"{run.step:,} of {training.steps:,}",
            "data": f"{data.source}: {data.shape[0]:,} x {tuple(data.shape[1:])} {data.dtype}",
            "held out": f"{data.held_out:,} rows",
            "SHA-256": ", ".join(f"{name} {digest[:16]}…" for name, digest in data.sha256.items()),
            "classes": ", ".join(run.classes[:20]) or "none",
            "model": run.recipe.model,
            "objective": run.recipe.objective,
            "noise": str(run.noise) if run.recipe.at_all_levels else f"sigma {run.sigma:.4g}: one law, no levels",
            "network": f"{run.resolved.network} {getattr(run.recipe, run.resolved.network)}",
            "predicts": run.recipe.predicts,
            "training": f"batch {training.batch_size}, lr {training.learning_rate:g}, {training.precision}",
            "seed": str(training.seed),
            "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
            "next": f"scorefield sample {run.path} -n 64" if run.finished else resume,
        },
    )
    return DONE
