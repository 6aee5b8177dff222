"""The command that does an experiment of the theory: experiment."""

from __future__ import annotations

import json
from pathlib import Path

from rich.markup import escape

from scorefield.checks import check_choice
from scorefield.cli import show
from scorefield.cli.codes import DONE
from scorefield.settings import EXPERIMENTS, ExperimentOptions


def experiment(options: ExperimentOptions) -> int:
    """Do an experiment, or find it done, and show what came out."""
    from scorefield.experiments import run_experiment

    check_choice("experiment", options.name, EXPERIMENTS)
    folder = Path(options.output or f"runs/experiments/{options.name}")
    root = None if options.root is None else Path(options.root)
    console = show.console(quiet=options.json)
    with console.status(f"experiment [cyan]{options.name}[/cyan] …"):
        outcome, before = run_experiment(options.name, folder, root=root, seed=options.seed, fresh=options.fresh)
    if options.json:
        print(json.dumps({"experiment": options.name, "seed": options.seed, **outcome.to_json()}, indent=2))
        return DONE
    if before:
        console.print(f"{escape(str(folder))} holds it; [cyan]--fresh[/cyan] does it anew.", soft_wrap=True)
    show.outcome(console, outcome)
    for shown, file in outcome.pictures.items():
        console.print(f"{escape(shown)}: [bold]{escape(str(folder / file))}[/bold]", soft_wrap=True)
    return DONE
