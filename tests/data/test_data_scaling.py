"""Scaling: mean 0 and deviation 1 whatever the units, and back."""

import numpy as np
import pytest
import torch

from scorefield.data import Scaling
from scorefield.data.scaling import learn_scaling

Z = np.random.default_rng(0).normal(size=(5_000, 3))


@pytest.mark.parametrize(
    ("mean", "spread"),
    [(100, 0.5), (0, 1e-6), (1e-6, 1e-6), (100, 1e-6), (-1e9, 3.0), (0, 1e200), (0, 1e-200), (5e-324, 1e150)],
)
def test_training_rows_get_mean_zero_and_deviation_one(mean, spread):
    raw = mean + spread * Z * [1, 10, 100]
    scaling = learn_scaling(lambda: np.array_split(raw, 7), ("a", "b", "c"))
    x = scaling.apply(raw).double()
    lost = 1e-15 * abs(mean) / spread  # what the rows themselves lost by being stored in float64
    assert x.mean(0).abs().max() < 1e-8 + lost
    assert (x.std(0, correction=0) - 1).abs().max() < 1e-7 + lost


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("mean", "spread"), [(100, 0.5), (1e-6, 1e-6), (100, 1e-4), (-1e4, 3.0)])
def test_undo_brings_back_every_value_to_the_float32_rounding_of_its_distance_from_the_mean(mean, spread, dtype):
    raw = (mean + spread * Z).astype(dtype)
    scaling = learn_scaling(lambda: [raw], ("a", "b", "c"))
    back = scaling.undo(scaling.apply(raw), dtype)
    assert back.dtype == dtype
    allowed = 2**-23 * np.abs(raw - scaling.mean) + 2 * np.finfo(dtype).eps * np.abs(raw)
    assert (np.abs(back.astype(float) - raw) <= allowed).all()


def test_undo_is_exact_to_float64_on_float64_tensors():
    scaling = Scaling(np.array([100.0, 0.0, -1e-6]), np.array([0.5, 1e-6, 1e-9]))
    raw = scaling.mean + scaling.scale * Z
    x = torch.from_numpy((raw - scaling.mean) / scaling.scale)
    np.testing.assert_allclose(scaling.undo(x, "float64"), raw, rtol=1e-12)


def test_images_have_one_mean_and_one_deviation_over_all_pixels():
    raw = np.random.default_rng(1).integers(0, 256, (50, 2, 4, 4), dtype=np.uint8)
    scaling = learn_scaling(lambda: [raw[:20], raw[20:]], ())
    assert scaling.mean.shape == scaling.scale.shape == ()
    np.testing.assert_allclose([scaling.mean, scaling.scale], [raw.mean(), raw.std()], rtol=1e-14)
    x = scaling.apply(raw)
    assert x.dtype == torch.float32
    np.testing.assert_allclose(x.numpy(), (raw - raw.mean()) / raw.std(), atol=1e-6)
    np.testing.assert_array_equal(np.rint(scaling.undo(x, "uint8")), raw)


def test_json_holds_the_scaling_to_the_last_bit():
    scaling = learn_scaling(lambda: [Z], ("a", "b", "c"))
    again = Scaling.from_json(scaling.to_json())
    np.testing.assert_array_equal([again.mean, again.scale], [scaling.mean, scaling.scale])


def test_apply_leaves_the_raw_samples_alone():
    raw = Z.copy()
    learn_scaling(lambda: [raw], ("a", "b", "c")).apply(raw)
    np.testing.assert_array_equal(raw, Z)
