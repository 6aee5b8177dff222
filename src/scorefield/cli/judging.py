"""Commands that judge, or prepare to: evaluate, features, check."""

from __future__ import annotations

import dataclasses
import json
import shlex
import time
from pathlib import Path

from rich.markup import escape

from scorefield.cli import show
from scorefield.cli.codes import BAD_NEWS, DONE
from scorefield.runs import Run
from scorefield.runs.classifying import accuracy_by_level
from scorefield.settings import CheckOptions, DataSettings, DoctorOptions, EvaluateOptions, FeaturesOptions


def evaluate(options: EvaluateOptions) -> int:
    """Judge a run."""
    from scorefield import evaluation

    if options.root is not None and options.against is None:
        raise ValueError(
            f"root is for --against only, got {options.root!r}; leave it out, or name the data by --against"
        )
    run = Run.open(options.run)
    if run.recipe.classifier:
        return _classifier(run, options)
    against = None if options.against is None else DataSettings(options.against, root=options.root, held_out=0)
    features = None if options.features is None else evaluation.open_features(options.features)
    how = {"count": options.count, "seed": options.seed, "likelihood_rows": options.likelihood_rows}
    rows = evaluation.evaluate(run, against=against, features=features, **how)
    if options.json:
        asked = {"seed": options.seed, "against": options.against, "features": options.features}
        content = {"run": str(run.path), "step": run.step, **asked, "rows": [r.to_json() for r in rows]}
        print(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        show.notes(run, show.console())
        show.table(show.console(), run, rows)
    return DONE


def _classifier(run: Run, options: EvaluateOptions) -> int:
    """How often a classifier is right on held-out rows, level by level."""
    found = accuracy_by_level(run, seed=options.seed)
    if options.json:
        rows = [{"sigma": sigma, **dataclasses.asdict(estimate)} for sigma, estimate in found.items()]
        print(json.dumps({"run": str(run.path), "step": run.step, "seed": options.seed, "accuracy": rows}, indent=2))
    else:
        show.notes(run, show.console())
        show.accuracy(show.console(), run, found)
    return DONE


def features(options: FeaturesOptions) -> int:
    """Learn features of a data set and say how good its classifier is."""
    from scorefield import evaluation

    console, source = show.console(quiet=options.json), Path(options.data)
    folder = Path(options.output or f"features/{source.stem if source.is_file() else source.resolve().name}")
    data = DataSettings(options.data, root=options.root, held_out=options.held_out)
    how = {"seconds": options.seconds, "steps": options.steps, "seed": options.seed}
    with console.status("learning …") as status:
        for step in evaluation.learn_features(data, folder, **how):
            if step.step % 10 == 0:
                status.update(f"step {step.step:,}, loss {step.loss:.3g}")
    accuracy = evaluation.accuracy_of(folder)
    if options.json:
        print(json.dumps({"folder": str(folder), "accuracy": dataclasses.asdict(accuracy)}, indent=2))
        return DONE
    low, high = accuracy.interval or (accuracy.value, accuracy.value)
    console.print(f"Test accuracy {accuracy.value:.2%} ({low:.2%} to {high:.2%}) {escape(accuracy.method)}")
    place = escape(shlex.quote(str(folder)))
    console.print(f"Next: [cyan]scorefield evaluate RUN --features {place}[/cyan]", soft_wrap=True)
    return DONE


def doctor(options: DoctorOptions) -> int:
    """Examine a run, or data."""
    import torch

    from scorefield.doctor import How, admit, examine_patient

    started, console = time.perf_counter(), show.console(quiet=options.json)
    how = How(options.sampler, options.steps, options.step_size, options.epsilon, options.seed)
    data = DataSettings(options.target, options.root, options.label_column, count=options.rows)
    with console.status(f"examining {escape(options.target)} …"), admit(options.target, data, how.seed) as patient:
        if patient.dataset is not None and patient.dataset.info.kind == "vector":
            torch.set_num_threads(1)  # small networks gain nothing from more, and lose much where cores are busy
        found = examine_patient(patient, how)
    healthy = all(finding.healthy for finding in found)
    if options.json:
        content = {"target": options.target, "healthy": healthy, "findings": [finding.to_json() for finding in found]}
        print(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        show.findings(console, options.target, found, time.perf_counter() - started)
    return DONE if healthy else BAD_NEWS


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
