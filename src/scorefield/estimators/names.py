"""The parametric estimators by the names they have on the command line, and domains written in one word."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scorefield.checks import check_choice
from scorefield.estimators.bingham import Bingham
from scorefield.estimators.discrete import RatioMatching
from scorefield.estimators.family import ExponentialFamily
from scorefield.estimators.gaussian import Gaussian, TruncatedGaussian
from scorefield.estimators.graphical import GaussianGraphicalModel
from scorefield.estimators.nonnegative import NonNegativeGraphicalModel
from scorefield.estimators.simplex import TiltedPairwiseInteraction
from scorefield.estimators.von_mises_fisher import VonMisesFisher
from scorefield.settings import FAMILIES

# name -> the estimator on a domain, and the domain it has when none is given; None: it has one domain only
_MADE: dict[str, tuple[Callable[..., Any], str | None]] = {
    "gaussian": (Gaussian, None),
    "truncated-gaussian": (TruncatedGaussian, "half-line"),
    "exponential": (lambda domain: ExponentialFamily("exponential", domain=domain), "half-line"),
    "gamma": (lambda domain: ExponentialFamily("gamma", domain=domain), "half-line"),
    "quartic": (lambda domain: ExponentialFamily("quartic", domain=domain), "real"),
    "graphical": (GaussianGraphicalModel, None),
    "non-negative-graphical": (NonNegativeGraphicalModel, None),
    "von-mises-fisher": (VonMisesFisher, None),
    "bingham": (Bingham, None),
    "simplex": (TiltedPairwiseInteraction, None),
    "boltzmann": (RatioMatching, None),
}


def named(model: str, domain: str | None = None) -> Any:
    """An estimator, not fitted, by its name on the command line.

    Args:
        model: one of `settings.FAMILIES`.
        domain: see `domain_named`; None for the model's own.

    Raises:
        ValueError: an unknown model, a domain that is none, or one for a model that has a single domain.
    """
    check_choice("model", model, FAMILIES)
    made, own = _MADE[model]
    if own is None:
        if domain is not None:
            raise ValueError(f"domain must not be given for {model}, which has its own, got {domain!r}; leave it out")
        return made()
    return made(domain=domain_named(domain or own))


def domain_named(text: str) -> Any:
    """What `region_of` takes, for `half-line`, `interval:0:1`, `box:0,0:1,2`, `ball:0,0:1`, `polygon:0,0:1,0:0,1`.

    Raises:
        ValueError: another word, or numbers that are none or too many.
    """
    kind, *parts = text.split(":")
    if kind in ("real", "half-line") and not parts:
        return kind
    check_choice("domain", kind, ("real", "half-line", "interval", "box", "ball", "polygon"))
    try:
        numbers = [[float(number) for number in part.split(",")] for part in parts]
        if kind == "polygon":
            return kind, numbers
        first, second = numbers
        if kind == "interval":
            (low,), (high,) = first, second
            return kind, low, high
        if kind == "ball":
            (radius,) = second
            return kind, first, radius
    except ValueError:
        raise ValueError(
            "domain must be real, half-line, interval:A:B, box:A,..:B,.., ball:C,..:R or polygon:X,Y:X,Y:X,Y; "
            f"got {text!r}"
        ) from None
    return kind, first, second
