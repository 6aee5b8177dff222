"""One figure of an evaluation, as it is shown and stored."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from scorefield.metrics import Estimate


@dataclass(frozen=True)
class Row:
    """One figure of an evaluation.

    Attributes:
        name: what was measured.
        samples: its value on the run's samples.
        real: the same figure for real data; None where there is none.
        reading: how to read it.
    """

    name: str
    samples: Estimate
    real: Estimate | None
    reading: str

    @property
    def ratio(self) -> float | None:
        """The samples' value over the real data's."""
        return self.samples.value / self.real.value if self.real is not None and self.real.value else None

    def to_json(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self) | {"ratio": self.ratio}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Row:
        """The row that `to_json` wrote."""
        real = None if content["real"] is None else Estimate.from_json(content["real"])
        return cls(content["name"], Estimate.from_json(content["samples"]), real, content["reading"])
