"""Refusals: every message gives the value, the rule and, where there is one, the way out."""

import math

import numpy as np
import pytest
import torch

from scorefield.checks import (
    check_between,
    check_choice,
    check_count,
    check_floating,
    check_non_negative,
    check_positive,
    check_rows,
    check_score,
    check_shape,
    nearest,
)

X = torch.zeros(3, 2)

REFUSED = [
    (check_positive, ("h", 0.0), ValueError, "h must be a finite number > 0, got 0.0"),
    (check_positive, ("h", -0.1), ValueError, "h must be a finite number > 0, got -0.1"),
    (check_positive, ("h", math.nan), ValueError, "h must be a finite number > 0, got nan"),
    (check_positive, ("h", math.inf), ValueError, "h must be a finite number > 0, got inf"),
    (check_non_negative, ("v", -1e-9), ValueError, "v must be a finite number >= 0, got -1e-09"),
    (check_non_negative, ("v", math.nan), ValueError, "v must be a finite number >= 0, got nan"),
    (check_between, ("t", 1.1, 0.0, 1.0), ValueError, "t must lie in [0, 1], got 1.1"),
    (check_between, ("t", -1e-9, 0.0, 1.0), ValueError, "t must lie in [0, 1], got -1e-09"),
    (check_between, ("t", math.nan, 0.0, 1.0), ValueError, "t must lie in [0, 1], got nan"),
    (check_count, ("n", 0), ValueError, "n must be >= 1, got 0"),
    (check_count, ("n", 1, 2), ValueError, "n must be >= 2, got 1"),
    (check_count, ("n", 2.0), TypeError, "n must be an integer, got 2.0 (float)"),
    (check_count, ("n", True), TypeError, "n must be an integer, got True (bool)"),
    (
        check_choice,
        ("kind", "nise", ("noise", "data")),
        ValueError,
        "one of noise, data; got 'nise'; did you mean 'noise'?",
    ),
    (check_choice, ("kind", None, ("noise", "data")), ValueError, "kind must be one of noise, data; got None"),
    (check_floating, ("x", np.zeros((2, 2))), TypeError, "x must be a torch tensor, got ndarray; use torch.as_tensor"),
    (
        check_floating,
        ("x", X.long()),
        TypeError,
        "x must be floating point, got torch.int64; convert it with x.float()",
    ),
    (check_floating, ("x", X.bool()), TypeError, "x must be floating point, got torch.bool"),
    (check_floating, ("x", X.to(torch.complex64)), TypeError, "x must be floating point, got torch.complex64"),
    (check_floating, ("x", X[0]), ValueError, "x must have shape (B, *D) with at least two axes, got (2,)"),
    (check_shape, ("x", X, (3, 4), "like y"), ValueError, "x must have shape (3, 4) (like y), got (3, 2)"),
    (check_score, (X[:, :1], X), ValueError, "a score must return the shape of x, (3, 2), got (3, 1)"),
    (check_score, (None, X), ValueError, "a score must return the shape of x, (3, 2), got NoneType"),
    (check_score, (X.double(), X), TypeError, "a score must return the dtype of x, torch.float32, got torch.float64"),
    (check_rows, ("t", torch.zeros(2), X), ValueError, "t must have shape (3,) (one number per sample), got (2,)"),
    (check_rows, ("t", torch.zeros(3, 1), X, "one time"), ValueError, "t must have shape (3,) (one time), got (3, 1)"),
]

ACCEPTED = [
    (check_positive, ("h", 5e-324)),
    (check_non_negative, ("v", 0.0)),
    (check_between, ("t", 0.0, 0.0, 1.0)),
    (check_between, ("t", 1.0, 0.0, 1.0)),
    (check_count, ("n", 1)),
    (check_count, ("n", 0, 0)),
    (check_choice, ("kind", "data", ("noise", "data"))),
    (check_floating, ("x", X)),
    (check_floating, ("x", X.half()[:, :, None])),
    (check_shape, ("x", X, (3, 2), "anything")),
    (check_score, (X + 1, X)),
    (check_rows, ("t", torch.zeros(3), X)),
]


def name(value):
    return value.__name__ if callable(value) else None


@pytest.mark.parametrize(("check", "given", "error", "words"), REFUSED, ids=name)
def test_a_refusal_is_of_the_right_kind_and_gives_value_and_rule(check, given, error, words):
    """ValueError for a bad value, TypeError for a bad kind; the message names both the value and the rule."""
    with pytest.raises(error) as caught:
        check(*given)
    assert words in str(caught.value)


@pytest.mark.parametrize(("check", "given"), ACCEPTED, ids=name)
def test_the_ends_of_what_is_allowed_are_accepted(check, given):
    """Bounds that the rule includes pass without a word."""
    assert check(*given) is None


def test_the_nearest_name_is_offered_only_when_it_is_near():
    """A typing error is answered with the name that was meant; a wholly different word is not."""
    assert nearest("Huen", ["heun", "euler"]) == "; did you mean 'heun'?"
    assert nearest("zzz", ["heun", "euler"]) == ""
