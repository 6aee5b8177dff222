"""What the commands print: progress, tables, facts, notes."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from scorefield.cli.codes import DONE, INTERRUPTED
from scorefield.runs import Run
from scorefield.runs.log import read
from scorefield.training import Engine

if TYPE_CHECKING:
    from scorefield.evaluation import Row
    from scorefield.metrics import Estimate

UNBIASED = ("kernel distance", "MMD²")  # near zero for real data too: their ratio means nothing


def console(*, quiet: bool = False) -> Console:
    """Where everything is printed; silent in all processes but the first."""
    return Console(quiet=quiet, highlight=False)


def training(
    run: Run, console: Console, command: str, *, checkpoint_seconds: float = 10.0, engine: Engine | None = None
) -> int:
    """Train with a live bar; when interrupted, finish the step, save, and say how to go on."""
    notes(run, console)
    config, loss = run.resolved.training, None
    columns = (
        TextColumn("step {task.completed:,.0f}/{task.total:,.0f}"),
        BarColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TextColumn("{task.fields[rate]} samples/s"),
        TimeRemainingColumn(),
    )
    if run.finished:
        return DONE
    with stop_signals() as stopped, Progress(*columns, console=console, refresh_per_second=4) as progress:
        task = progress.add_task("", total=config.steps, completed=run.step, loss="-", rate="-")
        with closing(run.train(checkpoint_seconds=checkpoint_seconds, engine=engine)) as steps:
            for step in steps:
                loss = step.loss if loss is None else 0.98 * loss + 0.02 * step.loss
                rate = f"{config.batch_size / step.seconds:,.0f}"
                progress.update(task, completed=step.step, loss=f"{loss:.4g}", rate=rate)
                wanted = bool(stopped) if engine is None else engine.any(bool(stopped))
                if wanted and step.step < config.steps:
                    break
            else:
                return DONE
    console.print(
        f"Interrupted; saved at step {run.step:,}. Go on with: [cyan]{escape(command)}[/cyan]", soft_wrap=True
    )
    return INTERRUPTED


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
        ratio = f"{row.ratio:.2f}" if row.ratio is not None and row.name not in UNBIASED else ""
        real = _figure(row.real) if row.real is not None else ""
        name = f"{row.name}\n[dim]{row.reading}; n = {row.samples.n}[/dim]"
        figures.add_row(name, _figure(row.samples), real, ratio, end_section=True)
    console.print(figures)


def _figure(estimate: Estimate) -> str:
    error = "" if estimate.standard_error is None else f" ± {estimate.standard_error:.1g}"
    return f"{estimate.value:.3g}{error}"


def facts(console: Console, content: Mapping[str, str]) -> None:
    """Names and values, one per line."""
    width = max(len(name) for name in content)
    for name, value in content.items():
        console.print(f"[bold]{name:<{width}}[/bold]  {escape(value)}", soft_wrap=True)


def notes(run: Run, console: Console) -> None:
    """What was damaged in the run folder and passed over."""
    for note in run.notes:
        console.print(f"[yellow]note:[/yellow] {escape(note)}", soft_wrap=True)
