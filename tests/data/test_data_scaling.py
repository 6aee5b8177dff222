"""Scaling: mean 0 and deviation 1 whatever the units, and back."""

import numpy as np
import pytest
import torch

from scorefield.data import Scaling, Table, prepare
from scorefield.data.scaling import learn_scaling
from scorefield.settings import DataSettings

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


def test_mixed_columns_come_back_and_the_volume_is_the_determinant():
    """u = R diag(1/c) (x - m), undone to float64 rounding; log|det| by numpy from the map itself."""
    root = np.array([[1.0, -2.0, 0.0], [0.5, 1.0, 0.3], [0.0, 0.0, 4.0]])
    scaling = Scaling(np.array([100.0, 0.0, -1.0]), np.array([0.5, 1e-6, 3e2]), root)
    u = torch.from_numpy(Z)
    raw = scaling.mean + scaling.scale * np.linalg.solve(root, Z.T).T
    np.testing.assert_allclose(scaling.apply(raw), Z, atol=1e-6)
    np.testing.assert_allclose(scaling.undo(u, "float64"), raw, rtol=1e-12)
    np.testing.assert_allclose(scaling.undo(u.reshape(10, 500, 3), "float64"), raw.reshape(10, 500, 3), rtol=1e-12)
    jacobian = torch.autograd.functional.jacobian(scaling.differences, u[0]).numpy()
    assert np.isclose(scaling.log_volume((3,)), -np.linalg.slogdet(jacobian)[1], rtol=1e-12)
    again = Scaling.from_json(scaling.to_json())
    np.testing.assert_array_equal(again.root, root)


def test_the_volume_of_an_image_counts_every_pixel():
    assert np.isclose(Scaling(np.array(3.0), np.array(2.0)).log_volume((1, 4, 4)), -16 * np.log(2), rtol=1e-15)


def test_a_scaling_without_a_root_is_stored_as_before():
    plain = {"mean": [1.0, 2.0], "scale": [3.0, 4.0]}
    scaling = Scaling.from_json(plain)
    assert scaling.root is None
    assert scaling.to_json() == plain


def test_rows_in_memory_are_prepared_like_a_file(tmp_path):
    """The same arrays as from .npy; a scaling that is given is kept, and what is asked of rows is checked."""
    np.save(tmp_path / "z.npy", Z)
    settings = DataSettings("anything in words", held_out=0.2)
    given = Scaling(np.zeros(3), np.full(3, 2.0), 2 * np.eye(3))
    data = prepare(settings, tmp_path / "memory", table=Table(Z, None, ("a", "b", "c")), scaling=given)
    file = prepare(DataSettings(str(tmp_path / "z.npy"), held_out=0.2), tmp_path / "file")
    assert data.info.sha256 == file.info.sha256
    assert (data.info.source, data.info.columns) == ("anything in words", ("a", "b", "c"))
    np.testing.assert_allclose(data.x_scaled(slice(None)), Z, atol=1e-6)
    with pytest.raises(ValueError, match="held_out must"):
        prepare(DataSettings("words", held_out=2.0), tmp_path / "bad", table=Table(Z))
