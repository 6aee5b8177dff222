"""Bits per dimension and dequantisation."""

import math

import pytest
import torch

from scorefield.likelihood import bits_per_dim, dequantise


def test_uniform_data_on_a_grid_cost_the_log_of_its_size():
    """256 grey values of width 1/128, uniform: 8 bits per dimension; the same in other units."""
    d = 5
    for width in (1 / 128, 1.0):
        nats = torch.full((10,), -d * math.log(256 * width), dtype=torch.float64)  # the uniform density
        found = bits_per_dim(nats, d, width)
        assert found.value == pytest.approx(8, abs=1e-12)
        assert found.dequantisation == "uniform"


def test_variational_noise_pays_its_own_log_density():
    """With q uniform on the cell the variational figure is the uniform one; its name says which it is."""
    nats, width, d = torch.tensor([-3.0, -4.0], dtype=torch.float64), 0.5, 2
    log_q = torch.full((2,), -d * math.log(width), dtype=torch.float64)
    variational = bits_per_dim(nats, d, width, log_q=log_q)
    assert torch.allclose(variational.per_sample, bits_per_dim(nats, d, width).per_sample, atol=1e-12)
    assert variational.dequantisation == "variational"
    assert variational.standard_error == pytest.approx(0.5 / (2 * math.log(2)), abs=1e-12)  # of two numbers 1 nat apart


def test_dequantisation_stays_in_the_cell_and_is_uniform():
    """Mean 0 and variance width^2/12 within 4 s.e., nothing beyond half a width."""
    u = dequantise(torch.zeros(100_000, 1, dtype=torch.float64), 0.2, generator=torch.Generator().manual_seed(0))
    assert u.abs().max() <= 0.1
    assert abs(u.mean()) < 4 * 0.2 / math.sqrt(12 * 1e5)
    assert abs(u.var() / (0.04 / 12) - 1) < 4 * math.sqrt(0.8 / 1e5)


def test_bad_input_is_refused():
    """Widths and shapes."""
    with pytest.raises(ValueError, match="bin_width"):
        bits_per_dim(torch.zeros(2), 3, 0.0)
    with pytest.raises(ValueError, match="log_q"):
        bits_per_dim(torch.zeros(2), 3, 1.0, log_q=torch.zeros(3))
    with pytest.raises(TypeError, match="floating"):
        dequantise(torch.zeros(2, 2, dtype=torch.long), 1.0)
