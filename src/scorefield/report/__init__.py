"""A run as one self-contained HTML page: what it draws, how it got there, how good it is, what is wrong with it."""

from scorefield.report.page import write_report

__all__ = ["write_report"]
