"""Classifier-free guidance: its formula, its calls, its relatives."""

import math

import pytest
import torch
from exact_posterior import TWO
from torch import Tensor

from scorefield.densities import GaussianMixture
from scorefield.fields import ScoreModel
from scorefield.guidance import classifier_free
from scorefield.networks import MLP
from scorefield.noise import VP
from scorefield.settings import MLPSize

NOISE = VP()
PARTS = [
    GaussianMixture([1.0], m[None], c[None]).noisy_score(NOISE) for m, c in zip(TWO.means, TWO.covariances, strict=True)
]
PRIOR = TWO.noisy_score(NOISE)
X = torch.randn(7, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
T = torch.tensor(0.3, dtype=torch.float64)
Y = torch.tensor([0, 1, 1, 0, 1, 0, 0])


class Model:
    """The exact labelled model of a mixture, which counts its calls and the rows of each."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        self.rows.append(len(x))
        y = torch.full((len(x),), -1) if y is None else y
        choice = torch.stack([PRIOR(x, t), PARTS[0](x, t), PARTS[1](x, t)])
        return choice[y + 1, torch.arange(len(x))]


def free() -> Tensor:
    return PRIOR(X, T)


def wanted(y: Tensor = Y) -> Tensor:
    return torch.where(y[:, None] == 1, PARTS[1](X, T), PARTS[0](X, T))


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 2.0, 4.0])
def test_the_formula_from_one_call(scale):
    """s_none + w (s_y - s_none); 0 and 1 need one call of the batch, the others one of twice its size."""
    model = Model()
    guided = classifier_free(model, Y, scale)(X, T)
    torch.testing.assert_close(guided, free() + scale * (wanted() - free()), rtol=1e-12, atol=1e-12)
    assert model.rows == [7 if scale in (0, 1) else 14]


def test_times_of_their_own_are_kept_with_their_samples():
    """t of shape (B,): as one sample at a time."""
    t = torch.linspace(0.1, 0.9, 7, dtype=torch.float64)
    whole = classifier_free(Model(), Y, 3.0)(X, t)
    for k in range(7):
        alone = classifier_free(Model(), Y[k : k + 1], 3.0)(X[k : k + 1], t[k : k + 1])
        torch.testing.assert_close(whole[k : k + 1], alone, rtol=1e-12, atol=1e-12)


def test_negative_labels_take_the_place_of_none():
    """s_neg + w (s_y - s_neg)."""
    guided = classifier_free(Model(), Y, 2.0, negative=1 - Y)(X, T)
    torch.testing.assert_close(guided, wanted(1 - Y) + 2 * (wanted() - wanted(1 - Y)), rtol=1e-12, atol=1e-12)
    none = classifier_free(Model(), Y, 0.0, negative=1 - Y)(X, T)
    torch.testing.assert_close(none, wanted(1 - Y), rtol=1e-12, atol=1e-12)


def test_a_weak_model_takes_the_place_of_the_same_model_without_labels():
    """s_weak(y) + w (s_y - s_weak(y)), one call of each."""
    model, calls = Model(), []

    def weak(x, t, y):
        calls.append(len(x))
        return 0.8 * Model()(x, t, y)

    guided = classifier_free(model, Y, 1.7, weak=weak)(X, T)
    torch.testing.assert_close(guided, 0.8 * wanted() + 1.7 * 0.2 * wanted(), rtol=1e-12, atol=1e-12)
    assert model.rows == calls == [7]
    torch.testing.assert_close(classifier_free(model, Y, 0.0, weak=weak)(X, T), 0.8 * wanted(), rtol=1e-12, atol=1e-12)


def test_outside_the_interval_the_conditional_score_alone_is_called():
    """w = 1 there, from a batch of plain size; mixed batches are split row by row."""
    model = Model()
    guided = classifier_free(model, Y, 4.0, interval=(0.4, 0.8))
    torch.testing.assert_close(guided(X, T), wanted(), rtol=1e-12, atol=1e-12)
    assert model.rows == [7]
    t = torch.tensor([0.3, 0.5, 0.8, 0.9, 0.4, 0.1, 0.6], dtype=torch.float64)
    inside = torch.tensor([False, True, True, False, True, False, True])
    full, one = classifier_free(Model(), Y, 4.0)(X, t), classifier_free(Model(), Y, 1.0)(X, t)
    torch.testing.assert_close(guided(X, t), torch.where(inside[:, None], full, one), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": -1.0}, "scale must be a finite number >= 0, got -1.0"),
        ({"scale": math.nan}, "scale must be a finite number >= 0"),
        ({"y": Y.double()}, r"y must hold one whole number per sample, \(7,\), got \(7,\) torch.float64"),
        ({"y": Y[None]}, "y must hold one whole number per sample"),
        ({"negative": Y[:3]}, "negative must hold one whole number per sample"),
        ({"negative": Y, "weak": Model()}, "negative and weak both take the place of no label"),
        ({"interval": (0.8, 0.4)}, r"interval must be two increasing times, got \(0.8, 0.4\)"),
    ],
)
def test_guidance_that_cannot_be_is_refused(change, message):
    """The value, the rule, the way out."""
    given = {"y": Y, "scale": 2.0} | change
    with pytest.raises(ValueError, match=message):
        classifier_free(Model(), given.pop("y"), given.pop("scale"), **given)


@pytest.mark.parametrize(
    ("classes", "y", "message"),
    [
        (2, [0, 2, 1], "y must hold classes 0 to 1, or -1 for none, got 0 to 2"),
        (2, [-2, 1, 1], "y must hold classes 0 to 1, or -1 for none, got -2 to 1"),
        (0, [0, 1, 0], r"y must not be given to a model without labels, got \[0, 1\]"),
    ],
)
def test_labels_that_a_network_did_not_learn_are_refused(classes, y, message):
    """The class after the last is the row that stands for no label: it must not be taken for a class."""
    model = ScoreModel(MLP(2, MLPSize(4, 1), classes=classes), NOISE)
    with pytest.raises(ValueError, match=message):
        classifier_free(model, torch.tensor(y), 2.0)
    if classes:
        classifier_free(model, torch.tensor([0, -1, 1]), 2.0)


def test_a_batch_of_another_size_is_refused():
    """The labels are those of this very batch."""
    with pytest.raises(ValueError, match=r"y must have shape \(3,\)"):
        classifier_free(Model(), Y, 2.0)(X[:3], T)
