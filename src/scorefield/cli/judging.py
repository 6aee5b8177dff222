"""Commands that judge: evaluate, check."""

from __future__ import annotations

import json
import time

from scorefield.cli import show
from scorefield.cli.codes import BAD_NEWS, DONE
from scorefield.runs import Run
from scorefield.settings import CheckOptions, EvaluateOptions


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
