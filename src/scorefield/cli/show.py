"""What the commands print: progress, tables, facts, notes."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from scorefield.cli.codes import DONE, INTERRUPTED
from scorefield.runs import Run
from scorefield.runs.log import read
from scorefield.training import Engine

if TYPE_CHECKING:
    from scorefield.doctor import Finding
    from scorefield.evaluation import Row
    from scorefield.experiments import Outcome
    from scorefield.metrics import Estimate
    from scorefield.runs.density import RunLikelihood
    from scorefield.theory import Claim
    from scorefield.theory import Row as Checked

TERMS = {"half_square": "½‖s‖²", "trace": "tr ∇s"}
UNBIASED = ("kernel distance", "MMD²", "n → ∞")  # near zero for real data too: their ratio means nothing


def console(*, quiet: bool = False) -> Console:
    """Where everything is printed; silent in all processes but the first."""
    return Console(quiet=quiet, highlight=False)


def training(
    run: Run, console: Console, command: str, *, checkpoint_seconds: float = 10.0, engine: Engine | None = None
) -> int:
    """Train with a live bar; when interrupted, finish the step, save, and say how to go on."""
    notes(run, console)
    config, mean = run.resolved.training, {}
    columns = (
        TextColumn("step {task.completed:,.0f}/{task.total:,.0f}"),
        BarColumn(),
        TextColumn("{task.fields[said]}"),
        TextColumn("{task.fields[rate]} samples/s"),
        TimeRemainingColumn(),
    )
    if run.finished:
        return DONE
    with stop_signals() as stopped, Progress(*columns, console=console, refresh_per_second=4) as progress:
        task = progress.add_task("", total=config.steps, completed=run.step, said="loss -", rate="-")
        with closing(run.train(checkpoint_seconds=checkpoint_seconds, engine=engine)) as steps:
            for step in steps:
                values = {"loss": step.loss, **step.terms}
                mean = {name: 0.98 * mean.get(name, value) + 0.02 * value for name, value in values.items()}
                rate = f"{config.batch_size / step.seconds:,.0f}"
                progress.update(task, completed=step.step, said=_said(mean), rate=rate)
                wanted = bool(stopped) if engine is None else engine.any(bool(stopped))
                if wanted and step.step < config.steps:
                    break
            else:
                return DONE
    console.print(
        f"Interrupted; saved at step {run.step:,}. Go on with: [cyan]{escape(command)}[/cyan]", soft_wrap=True
    )
    return INTERRUPTED


def _said(mean: Mapping[str, float]) -> str:
    """The loss and, where it is a sum of known terms, these in brackets."""
    terms = ", ".join(f"{TERMS[name]} {value:.4g}" for name, value in mean.items() if name in TERMS)
    return f"loss {mean['loss']:.4g}" + (f" ({terms})" if terms else "")


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying from them, so that the step can be finished and saved."""
    received: list[int] = []
    before = {s: signal.signal(s, lambda number, _: received.append(number)) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def table(console: Console, run: Run, rows: list[Row]) -> None:
    """What was trained, and its figures beside the same for real data."""
    data, model = run.dataset.info, run.load_model()
    log = read(run.path / "metrics.jsonl")
    seconds = log[-1]["training_seconds"] if log else 0.0
    console.print(
        f"\n[bold]Trained[/bold] on {data.shape[0] - data.held_out:,} {data.kind}s ({data.held_out} held out): "
        f"{sum(p.numel() for p in model.parameters()):,} parameters, {run.step:,} steps, {seconds:.0f} s, "
        f"{run.resolved.training.precision}\n"
    )
    figures = Table(title=f"Samples of {escape(str(run.path))} beside real data")
    figures.add_column("")
    for name in ("samples", "real data", "ratio"):
        figures.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        ratio = f"{row.ratio:.2f}" if row.ratio is not None and not row.name.endswith(UNBIASED) else ""
        real = _figure(row.real) if row.real is not None else ""
        name = f"{row.name}\n[dim]{row.reading}; n = {row.samples.n}[/dim]"
        figures.add_row(name, _figure(row.samples), real, ratio, end_section=True)
    console.print(figures)


def accuracy(console: Console, run: Run, found: Mapping[float, Estimate]) -> None:
    """How often a classifier is right on held-out rows, at each noise level beside the signal's."""
    n = next(iter(found.values())).n
    console.print(f"[bold]Accuracy[/bold] of {escape(str(run.path))} on {n:,} held-out rows, by noise over signal\n")
    facts(console, {f"σ/α = {ratio:.3g}": _figure(estimate) for ratio, estimate in found.items()})


def _figure(estimate: Estimate) -> str:
    """A value and its error; the interval where the error is 0 only because all rows agree."""
    if estimate.standard_error == 0 and estimate.interval is not None:
        low, high = estimate.interval
        return f"{estimate.value:.3g} ({low:.2g} to {high:.2g})"
    error = "" if estimate.standard_error is None else f" ± {estimate.standard_error:.1g}"
    return f"{estimate.value:.3g}{error}"


def theorems(console: Console, rows: list[Checked], seed: int, seconds: float) -> None:
    """Both sides of every theorem, a section for each part; green where they agree, red where they do not."""
    sides = Table(box=SIMPLE_HEAD, pad_edge=False)
    sides.add_column("theorem")
    for name in ("left", "", "right", "s.e.", ""):
        sides.add_column(name, justify="right", no_wrap=True)
    part = ""
    for row in rows:
        claim = row.claim
        if row.theorem.part != part:
            part = row.theorem.part
            sides.add_row(f"[bold cyan]{part}[/bold cyan]")
        verdict = "[bold green]✓[/bold green]" if claim.holds else "[bold red]✗[/bold red]"
        text = Group(f"[bold]{row.theorem.name}[/bold]", Padding(escape(row.theorem.statement), (0, 0, 0, 2)))
        sides.add_row(text, f"{claim.left:#.4g}", claim.relation, f"{claim.right:#.4g}", _error(claim), verdict)
    console.print(sides)
    failed = [row.theorem.name for row in rows if not row.claim.holds]
    verdict = f"[bold red]{len(failed)} fail: {', '.join(failed)}[/bold red]" if failed else "all hold"
    console.print(f"{len(rows)} theorems, {verdict}. Seed {seed}, {seconds:.1f} s.")
    console.print("✓: the sides agree within 4 s.e. and a numerical tolerance (shown as tol, where above 1e-4).")
    console.print("Where a statement ends in + C, the sides are the gap between two models: C drops out.")


def _error(claim: Claim) -> str:
    tolerance = f"tol {claim.tolerance:g}" if claim.tolerance >= 1e-4 else ""
    random = f"{claim.standard_error:.2g}" if claim.standard_error else "" if tolerance else "exact"
    return f"{random}\n[dim]{tolerance}[/dim]" if random and tolerance else random + tolerance


def likelihood(console: Console, found: RunLikelihood) -> None:
    """The mean log-density with its errors, whose law it is of, and bits per dimension where the data lie on a grid."""
    n, error = len(found.nats), found.standard_error
    content = {
        "log-density": f"{found.mean:.6g}{'' if error is None else f' ± {error:.2g}'} nats, mean of {n:,} rows",
        "spread": f"{found.nats.min():.4g} to {found.nats.max():.4g} nats",
    }
    if found.method == "hutchinson":
        content["probes"] = f"a row's standard error is {found.probe_se.mean():.2g} nats on average"
    if found.log_z is None:
        content["steps"] = f"twice as long they would have moved a row by {found.step_error.max():.2g} nats at most"
        content["calls"] = f"{found.evaluations} of the network per row, {found.method} divergence"
    else:
        z = found.log_z
        content["log Z"] = (
            f"{z.value:.4g} ± {z.standard_error:.2g} by annealed importance sampling, {z.effective_samples:.0f} of "
            f"{len(z.log_weights)} particles effective"
        )
    if found.bits is not None:
        spread = f" ± {found.bits.standard_error:.2g}" if n > 1 else ""
        content["bits/dim"] = f"{found.bits.value:.4g}{spread}, with {found.bits.dequantisation} dequantisation"
    content["law"] = found.law
    facts(console, content)


def findings(console: Console, target: str, found: list[Finding], seconds: float) -> None:
    """What the doctor found: what is healthy in a line each, what is not in words, with the command that mends it."""
    part = ""
    for finding in found:
        if finding.part != part:
            part = finding.part
            console.print(f"\n[bold cyan]{part}[/bold cyan]")
        mark = {"ok": "[green]✓[/green]", "skipped": "[dim]·[/dim]"}.get(finding.severity, "[bold red]✗[/bold red]")
        name = f"{finding.name:<14}" if finding.healthy else f"[bold]{finding.name:<14}[/bold]"
        line = Table.grid(padding=(0, 1))
        line.add_row(mark, name, Group(*_said_by(finding)))
        console.print(line)
        if not finding.healthy:
            console.print(f"[cyan]{escape(finding.command)}[/cyan]", soft_wrap=True)  # whole, so that it can be copied
    ill = [finding.name for finding in found if not finding.healthy]
    looked = sum(finding.severity != "skipped" for finding in found)
    verdict = f"[bold red]{len(ill)} found: {', '.join(ill)}[/bold red]" if ill else "[green]nothing found[/green]"
    console.print(f"\n{escape(target)}: {looked} checks, {verdict}. {seconds:.0f} s.", soft_wrap=True)


def _said_by(finding: Finding) -> list[str]:
    dim = finding.severity == "skipped"
    lines = [f"[dim]{escape(finding.evidence)}[/dim]" if dim else escape(finding.evidence)]
    if not finding.healthy:
        lines.append(f"[yellow]{escape(finding.why)}[/yellow]")
    return lines


def facts(console: Console, content: Mapping[str, str]) -> None:
    """Names and values, one per line."""
    width = max(len(name) for name in content)
    for name, value in content.items():
        console.print(f"[bold]{name:<{width}}[/bold]  {escape(value)}", soft_wrap=True)


def notes(run: Run, console: Console) -> None:
    """What was damaged in the run folder and passed over."""
    for note in run.notes:
        console.print(f"[yellow]note:[/yellow] {escape(note)}", soft_wrap=True)


def outcome(console: Console, found: Outcome) -> None:
    """An experiment's table, and what to see in it."""
    listed = Table(box=SIMPLE_HEAD, pad_edge=False)
    for k, name in enumerate(found.columns):
        listed.add_column(escape(name), justify="left" if k == 0 else "right")
    for row in found.rows:
        listed.add_row(*(escape(cell) if isinstance(cell, str) else f"{cell:.4g}" for cell in row))
    console.print(listed)
    for sentence in found.said:
        console.print(escape(sentence), soft_wrap=True)
    console.print(f"{found.seconds:.0f} s")
