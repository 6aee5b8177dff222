"""The embedding of noise level and label: what it depends on, and what it refuses."""

import pytest
import torch
from torch import Generator, nn

from scorefield.networks.condition import Condition


def built(width=12, classes=3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Condition(width, classes).double()


C = torch.linspace(-1.5, 1.5, 5, dtype=torch.float64)


def test_the_embedding_is_the_network_of_its_fourier_features_plus_the_label():
    r"""$W_2\,\varphi(W_1[\cos \omega c, \sin \omega c])$ + the label's row, frequencies geometric from 1 to 40."""
    condition, y = built(), torch.tensor([0, 1, 2, 0, 1])
    omega = torch.tensor([40 ** (k / 2) for k in range(3)], dtype=torch.float64)
    torch.testing.assert_close(condition.omega.double(), omega, rtol=1e-6, atol=0)
    angle = C[:, None] * condition.omega.double()
    features = torch.cat([angle.cos(), angle.sin()], 1)
    expected = condition.level(nn.functional.silu(condition.entrance(features))) + condition.label.weight[y]
    torch.testing.assert_close(condition(C, y), expected, rtol=1e-12, atol=1e-12)
    assert condition(C, y).shape == (5, 12)


def test_no_label_is_minus_one_and_has_its_own_row():
    """None and -1 are the same and differ from every class; a mixed batch keeps each row's own meaning."""
    condition = built()
    none = condition(C)
    assert torch.equal(none, condition(C, torch.full((5,), -1)))
    for k in range(3):
        assert not torch.allclose(none, condition(C, torch.full((5,), k)))
    mixed = condition(C, torch.tensor([-1, 2, -1, 2, -1]))
    torch.testing.assert_close(mixed[0::2], none[0::2], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mixed[1::2], condition(C, torch.full((5,), 2))[1::2], rtol=1e-12, atol=1e-12)


def test_every_level_has_its_own_embedding():
    """Levels a hundredth apart are told apart, and no two of a wide range coincide."""
    e = built(classes=0)(torch.linspace(-2, 2, 401, dtype=torch.float64))
    assert torch.pdist(e).min() > 1e-4
    assert e.isfinite().all()


def test_the_embedding_is_smooth_in_the_level():
    """Its derivative by backpropagation equals a central difference to 1e-7."""
    condition, h = built(classes=0), 1e-5
    c = C.clone().requires_grad_()
    weights = torch.randn(12, dtype=torch.float64, generator=Generator().manual_seed(0))
    (slope,) = torch.autograd.grad((condition(c) @ weights).sum(), c)
    difference = (condition(C + h) - condition(C - h)) @ weights / (2 * h)
    torch.testing.assert_close(slope, difference, rtol=1e-7, atol=1e-7)


def test_labels_and_sizes_that_make_no_sense_are_refused():
    """Labels without classes, another number of labels than samples, a width below 2, fewer than 0 classes."""
    with pytest.raises(ValueError, match="labels were given to a network built with classes=0"):
        built(classes=0)(C, torch.zeros(5, dtype=torch.long))
    with pytest.raises(ValueError, match=r"y must have shape \(5,\) \(one label per sample\), got \(4,\)"):
        built()(C, torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match="width must be >= 2, got 1"):
        Condition(1)
    with pytest.raises(ValueError, match="classes must be >= 0, got -1"):
        Condition(8, -1)
