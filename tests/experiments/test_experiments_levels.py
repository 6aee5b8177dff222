"""The experiments on noise levels and images at small sizes: each shows what it says, by numbers that are known."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from scorefield.data import Scaling
from scorefield.densities import Gaussian, GaussianMixture
from scorefield.experiments import annealing, ddpm, manifold, ncsn
from scorefield.noise import VP, Levels
from scorefield.samplers import annealed_langevin, time_grid


def test_the_strength_of_an_exact_score_is_its_own_and_bounded_by_the_gaussians():
    """The exact score in a network's place agrees with itself, between a Gaussian's (Cramér–Rao) and 1; twice it: 4."""
    law = GaussianMixture([0.4, 0.6], [[-1.0, 0.0], [1.0, 0.5]], 0.1 * torch.eye(2).repeat(2, 1, 1))
    noise = Levels(5.0, 0.1, 6)
    exact = law.noisy_score(noise)
    found = annealing.strengths([exact, lambda x, t: 2 * exact(x, t)], law, noise, seed=0)
    for sigma, power, fourfold, same, gaussian, snr, exact_snr in found:
        assert power == pytest.approx(same, rel=1e-3)  # the network's side is given float32
        assert fourfold == pytest.approx(4 * power, rel=1e-6) and exact_snr / snr == pytest.approx(same / power)
        assert 0.97 * gaussian <= same <= 1.03, sigma  # 20,000 rows: one standard error is below 1 %
        assert snr / power == pytest.approx(annealing.annealed_settings(noise, 2).epsilon / 0.1**2 / 2)


def test_the_power_of_a_gaussian_score_is_the_trace_of_its_precision():
    """Against the inverse matrix."""
    root = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    covariance, sigma = root @ root.T, torch.tensor([0.1, 2.0], dtype=torch.float64)
    for found, s in zip(annealing.gaussian_power(covariance, sigma), sigma, strict=True):
        assert found == pytest.approx(
            torch.linalg.inv(covariance + s**2 * torch.eye(3, dtype=torch.float64)).trace().item(), rel=1e-9
        )


def test_fewer_and_shorter_steps_end_farther_from_the_law():
    """The ablation's measure: far off with one small step per level, near its floor with twenty."""
    law = annealing.toy(annealing.NAME)
    real = law.sample((600,), generator=torch.Generator().manual_seed(0))
    noise = Levels.from_data(real)
    epsilon = annealing.annealed_settings(noise, 2).epsilon
    poor, good = (annealing.apart(law, noise, f * epsilon, T, real, 0) for f, T in ((0.1, 1), (1.0, 20)))
    assert poor > 0.1 > 10 * good


def test_the_grid_of_the_bound_is_even_in_the_logarithm_of_noise_over_signal():
    """Equal ratios of sigma/alpha, from t_max down to t_min."""
    noise = VP()
    times = time_grid(noise, 12, spacing="log-snr")
    logs = (noise.sigma(times) / noise.alpha(times)).log()
    assert (times[0], times[-1]) == (noise.t_max, noise.t_min)
    assert torch.allclose(logs.diff(), logs.diff().mean().expand(12), rtol=1e-6)


def test_the_terms_of_the_bound_add_up_to_bits_of_rows_on_a_grid():
    """Their sum is -(bound + D log width)/(D log 2), and for an exact score it falls towards the entropy in bits."""
    law, noise, scale = Gaussian([0.0, 0.0], [[1.0, 0.6], [0.6, 1.0]]), VP(), 5.0
    run = SimpleNamespace(
        noise=noise, dataset=SimpleNamespace(info=SimpleNamespace(scaling=SimpleNamespace(scale=scale)))
    )
    u = law.sample((500,), generator=torch.Generator().manual_seed(0))
    truth = -(law.log_density(u).mean() - 2 * math.log(scale)) / (2 * math.log(2))
    gaps = []
    for steps in (100, 400):
        terms = ddpm.bits(run, law.noisy_score(noise), u, steps, torch.Generator().manual_seed(1))
        gaps.append((ddpm._total(terms).mean() - truth).item())
    assert 0 < gaps[1] < gaps[0] / 3 < 0.5  # the excess falls like 1/n: four times as many steps, a quarter


def test_thin_rows_have_empty_columns_and_their_loss_is_repeatable(tmp_path, monkeypatch):
    """Sixty-four pixels and thirty-two columns of zeros; the same seed, the same curve; noise changes it."""
    monkeypatch.setattr(manifold, "STEPS", {2: 4, 4: 3})
    x, name, unit = manifold.rows(tmp_path, None, seed=0)
    assert x.shape[1] == 96 and not x[:, 64:].any() and "digits" in name and unit == 1
    curve = manifold.losses(x, seed=0)
    assert len(curve) == 4 and np.array_equal(curve, manifold.losses(x, seed=0))
    assert not np.array_equal(curve, manifold.losses(x + 0.01 * torch.randn(x.shape), seed=0))
    images = x[:, :64].reshape(-1, 1, 8, 8)
    assert len(manifold.losses(images, seed=0)) == 3


def test_the_noise_of_2019_is_that_of_pixels_between_0_and_1(monkeypatch):
    """Scaled by c, bytes lie 1/c apart: noise of [0, 1] is 255/c times as large in those units."""
    scaling = SimpleNamespace(scale=np.array(51.0))
    images = torch.zeros(6, 3, 8, 8)
    data = SimpleNamespace(x_scaled=lambda rows: images[rows], train_rows=[1, 2], info=SimpleNamespace(scaling=scaling))
    monkeypatch.setattr(manifold, "stored", lambda *_, **__: data)
    x, name, unit = manifold.rows(Path("folder"), Path("root"), seed=0)
    assert x.shape == (2, 3, 8, 8) and name == "CIFAR-10" and unit == 5.0


def test_the_recipe_of_2019_in_scaled_units_is_that_on_pixels():
    """u in [0, 1] and v = (R u - m)/c: the same noise, the same samples: sigma times R/c, epsilon its square."""
    mean, scale, top = 4.0, 6.0, 16.0
    law = Gaussian([0.3] * 4, (0.04 * torch.eye(4)).tolist())
    pixels, reach = Levels(1.0, 0.01, 10), top / scale
    scaled = Levels(reach, 0.01 * reach, 10)

    def score(v, t):  # of v = (R u - m)/c
        return law.noisy_score(pixels)(((scale * v.double() + mean) / top).flatten(1), t).view_as(v).to(v) / reach

    info = SimpleNamespace(scaling=Scaling(np.array(mean), np.array(scale)), dtype="float64")
    data = SimpleNamespace(shape=(1, 2, 2), info=info, x=np.array([0.0, top]))
    run = SimpleNamespace(dataset=data, score=score, noise=scaled)
    found = ncsn.annealed(run, 5, 3, seed=0).double().flatten(1)
    generator = torch.Generator().manual_seed(0)
    start = torch.rand(5, 1, 2, 2, generator=generator)
    drawn = annealed_langevin(
        lambda x, t: law.noisy_score(pixels)(x.double().flatten(1), t).view_as(x).to(x),
        pixels,
        start,
        epsilon=2e-5,
        steps_per_level=3,
        convention="ncsn",
        generator=generator,
    ).x
    assert torch.allclose(found, (top * drawn.double().flatten(1) - mean) / scale, atol=1e-4)


def test_the_data_sets_of_a_root_are_found_by_their_names(tmp_path):
    """Folders inside, the folder itself, or the bundled digits; anything else is refused with the names."""
    assert ncsn.found(None) == {"digits": None}
    for name in ("mnist", "cifar10"):
        (tmp_path / "all" / name).mkdir(parents=True)
    assert list(ncsn.found(tmp_path / "all")) == ["mnist", "cifar10"]
    assert ncsn.found(tmp_path / "all" / "mnist") == {"mnist": tmp_path / "all" / "mnist"}
    with pytest.raises(ValueError, match="must be, or hold, a folder named mnist, fashion-mnist, cifar10, celeba"):
        ncsn.found(tmp_path)
