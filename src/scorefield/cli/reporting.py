"""The command that writes a run's report: report."""

from __future__ import annotations

from rich.markup import escape

from scorefield.cli import show
from scorefield.cli.codes import DONE
from scorefield.settings import ReportOptions


def report(options: ReportOptions) -> int:
    """Write the page."""
    from scorefield.report import write_report

    console = show.console()
    with console.status("drawing samples and judging them …"):
        written = write_report(options.run, options.output, count=options.count, seed=options.seed)
    console.print(
        f"report: [bold]{escape(str(written))}[/bold] ({written.stat().st_size / 1e6:.1f} MB)", soft_wrap=True
    )
    return DONE
