"""A fit as a table: for people, notebooks and files."""

from __future__ import annotations

import html
import json
import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple


class Row(NamedTuple):
    """One parameter of a `Summary`; z and p are nan for one that was held fixed."""

    name: str
    estimate: float
    standard_error: float
    z: float
    p: float
    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """A fit as a table; prints as text, shows as HTML in notebooks.

    Args:
        estimator: its name.
        rows: one per parameter.
        level: of the intervals.
        n_samples: rows seen.
        objective: the mean objective at the estimate.
        condition_number: of the Hessian.
    """

    estimator: str
    rows: tuple[Row, ...]
    level: float
    n_samples: int
    objective: float
    condition_number: float

    def __str__(self) -> str:
        """Columns in line, numbers with five digits."""
        cells = [self._heads(), *(self._cells(row) for row in self.rows)]
        widths = [max(len(line[k]) for line in cells) for k in range(len(cells[0]))]
        lines = [
            "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
            for line in cells
        ]
        rule = "-" * len(lines[0])
        return "\n".join([self._title(), rule, lines[0], rule, *(line.rstrip() for line in lines[1:])])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in self._heads())
        body = "".join(
            f"<tr><th>{html.escape(name)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
            for name, *cells in map(self._cells, self.rows)
        )
        title = f"<caption>{html.escape(self._title())}</caption>"
        return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and words; what is not finite is None, so that it is JSON."""
        whole = asdict(self)
        whole["condition_number"] = _finite(self.condition_number)
        whole["rows"] = [
            {key: _finite(value) if isinstance(value, float) else value for key, value in row._asdict().items()}
            for row in self.rows
        ]
        return whole

    def to_json(self) -> str:
        """The same as text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)

    def _title(self) -> str:
        condition = f"condition number {self.condition_number:.3g}"
        return f"{self.estimator}: {self.n_samples} rows, objective {self.objective:.6g}, {condition}"

    def _heads(self) -> list[str]:
        tail = 100 * (1 - self.level) / 2
        return ["", "estimate", "s.e.", "z", "P>|z|", f"{tail:.3g} %", f"{100 - tail:.5g} %"]

    @staticmethod
    def _cells(row: Row) -> list[str]:
        if row.standard_error == 0:
            return [row.name, f"{row.estimate:.5g}", "fixed", "", "", "", ""]
        values = f"{row.estimate:.5g}", f"{row.standard_error:.3g}", f"{row.z:.2f}", f"{row.p:.3f}"
        return [row.name, *values, f"{row.low:.5g}", f"{row.high:.5g}"]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
