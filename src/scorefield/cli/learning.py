"""Commands that make a run and say what it holds: demo, train, info."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from scorefield.cli import show
from scorefield.cli.codes import DONE
from scorefield.runs import Run, versions
from scorefield.settings import DemoOptions, InfoOptions, Recipe, TrainOptions
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
        console.print(f"Done: {place} at step {run.step:,}. Next: [cyan]{_next(run, place)}[/cyan]")
    return code


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
            "model": "classifier" if run.recipe.classifier else run.recipe.model,
            "objective": "cross-entropy at all noise levels" if run.recipe.classifier else run.recipe.objective,
            "noise": str(run.noise) if run.recipe.at_all_levels else f"sigma {run.sigma:.4g}: one law, no levels",
            "network": f"{run.resolved.network} {getattr(run.recipe, run.resolved.network)}",
            "predicts": run.recipe.predicts,
            "training": f"batch {training.batch_size}, lr {training.learning_rate:g}, {training.precision}",
            "seed": str(training.seed),
            "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
            "next": _next(run, str(run.path)) if run.finished else resume,
        },
    )
    return DONE


def _next(run: Run, place: str) -> str:
    return (
        f"scorefield sample RUN --classifier {place}" if run.recipe.classifier else f"scorefield sample {place} -n 64"
    )
