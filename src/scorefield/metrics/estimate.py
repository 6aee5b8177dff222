"""A number with its uncertainty, and the two laws that its 95 % interval comes from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

Z95 = 1.959963984540054  # the normal distribution's 97.5 % point


@dataclass(frozen=True)
class Estimate:
    """A number and how well it is known.

    Args:
        value: the estimate.
        standard_error: of the value; None where it was not asked for.
        n: the number of samples judged (rows of the first argument).
        interval: the ends of the 95 % interval; None where there is no standard error.
        method: in words, how value and error were found.
        p_value: of a test, how likely a value as extreme would be if nothing were wrong; None where nothing was tested.
    """

    value: float
    standard_error: float | None
    n: int
    interval: tuple[float, float] | None
    method: str
    p_value: float | None = None

    def __str__(self) -> str:
        """Like `0.0123 ± 0.0045 (n = 898; method)`."""
        error = "" if self.standard_error is None else f" ± {self.standard_error:.2g}"
        error += "" if self.p_value is None else f", p = {self.p_value:.2g}"
        return f"{self.value:.4g}{error} (n = {self.n}; {self.method})"

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Estimate:
        """The estimate whose fields `dataclasses.asdict` gave, after a way through JSON."""
        ends = content["interval"]
        return cls(**{**content, "interval": None if ends is None else (ends[0], ends[1])})


def normal(value: float, error: float, n: int, method: str) -> Estimate:
    """A value whose error is normal."""
    return Estimate(value, error, n, (value - Z95 * error, value + Z95 * error), method)


def proportion(successes: int, trials: int, n: int, method: str) -> Estimate:
    """A proportion, its binomial standard error and Wilson's 95 % interval."""
    p = successes / trials
    centre = (p + Z95**2 / (2 * trials)) / (1 + Z95**2 / trials)
    half = Z95 * math.sqrt(p * (1 - p) / trials + Z95**2 / (4 * trials**2)) / (1 + Z95**2 / trials)
    interval = (max(0.0, centre - half) if successes else 0.0, min(1.0, centre + half) if successes < trials else 1.0)
    return Estimate(p, math.sqrt(p * (1 - p) / trials), n, interval, f"{method}, Wilson interval")
