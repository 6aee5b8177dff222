"""A finding of the doctor, the checks there are, and how often all of them together may cry wolf."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from scipy.stats import norm

CHECKS = {
    "folder": ("recipe", "data-files", "checkpoint"),
    "data": (
        *("finite", "constant", "redundant", "range", "duplicates", "leak", "discrete", "dimension", "balance"),
        "held-out",
    ),
    "noise": ("covers", "overlap", "smallest", "loss-share"),
    "score": ("weights", "energy", "divergence", "orthogonality", "trained", "overfit", "curl", "stein"),
    "sampling": ("samples", "solver", "chains", "step-size", "modes", "memorisation"),
}
"""The checks, by the part of the examination, in the order in which they are told."""

PART = {name: part for part, names in CHECKS.items() for name in names}

FALSE_ALARMS = 0.01
"""The chance that a healthy patient is told of any finding by chance, over all checks together."""

LEVEL = FALSE_ALARMS / len(PART)
"""The level of one check: by Bonferroni, whatever the dependence between them."""

Z = float(norm.isf(LEVEL))
"""So many standard errors must lie between what was measured and what is tolerated."""


def harm(dimension: int) -> float:
    r"""How many nats between the law learned and the data's are harmful: 2/9, and at least 0.01 bits per dimension.

    By Pinsker's inequality $\sqrt{KL/2}$ bounds the total variation: at 2/9 nats it is 1/3, and nobody tells more than
    two of three samples rightly from real ones. A hundredth of a bit per dimension is the last digit in which
    likelihoods of images are told.
    """
    return max(2 / 9, 0.01 * math.log(2) * dimension)


@dataclass(frozen=True)
class Finding:
    """What one check has to say.

    Attributes:
        name: of the check.
        severity: "ok", "warning" (it costs quality), "fault" (nothing good can come of it) or "skipped".
        healthy: whether nothing is wrong.
        evidence: what was measured, with its error and what would be tolerated; for "skipped", why it was.
        why: what is wrong and what comes of it; empty where healthy.
        command: what mends it; empty where healthy.
    """

    name: str
    severity: str
    healthy: bool
    evidence: str
    why: str = ""
    command: str = ""

    @property
    def part(self) -> str:
        """The part of the examination: folder, data, noise, score or sampling."""
        return PART[self.name]

    def to_json(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"part": self.part} | dataclasses.asdict(self)


def ok(name: str, evidence: str) -> Finding:
    """Nothing is wrong."""
    return Finding(name, "ok", True, evidence)


def skipped(name: str, reason: str) -> Finding:
    """The check has nothing to look at here."""
    return Finding(name, "skipped", True, reason)


def judged(name: str, healthy: bool, evidence: str, why: str, command: str, *, severity: str = "warning") -> Finding:
    """Healthy or not, as measured."""
    return ok(name, evidence) if healthy else Finding(name, severity, False, evidence, why, command)
