"""Features of images: learned and kept, opened or refused, and what a run is judged by with them."""

import hashlib
import json

import numpy as np
import pytest
import torch
from test_figures import Planted, figures

from scorefield.evaluation import accuracy_of, evaluate, learn_features, open_features
from scorefield.evaluation.classifier import Classifier
from scorefield.settings import DataSettings

NAME = "Fréchet distance on digits' features"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Features learned from the digits in 60 steps; do not write to it."""
    path = tmp_path_factory.mktemp("features") / "digits"
    steps = [step.step for step in learn_features(DataSettings("digits"), path, steps=60)]
    assert steps == list(range(1, 61))
    return path


@pytest.fixture(scope="module")
def samples(digits_run):
    """Real digits in random order, with their classes, to stand for samples."""
    order = np.random.default_rng(0).permutation(len(digits_run.dataset))[:400]
    return torch.from_numpy(np.array(digits_run.dataset.x[order])).float(), digits_run.dataset.labels(order)


def test_the_classifier_is_kept_with_its_accuracy_on_rows_it_did_not_see(folder, digits_run):
    """At least 95 % on the 180 rows that runs hold out too; the stored figure is what the opened network gives."""
    accuracy, features, data = accuracy_of(folder), open_features(folder), digits_run.dataset
    assert accuracy.n == 180 and accuracy.value > 0.95 and accuracy.interval[0] < accuracy.value
    seen, probabilities = features.of(data.x[data.held_out_rows])
    assert seen.shape == (180, 64) and seen.dtype == torch.float64
    torch.testing.assert_close(probabilities.sum(1), torch.ones(180, dtype=torch.float64))
    right = probabilities.argmax(1).eq(data.labels(data.held_out_rows)).double().mean().item()
    assert right == pytest.approx(accuracy.value)
    content = json.loads((folder / "features.json").read_text())
    assert content["data"]["x"] == data.info.sha256["x.npy"] and content["dimension"] == features.dimension == 64
    assert {p.name for p in folder.iterdir()} == {"features.json", "features.safetensors"}


def test_the_same_seed_learns_the_same_features(tmp_path):
    """And the program's own random numbers stay where they were."""
    before = torch.random.get_rng_state()
    for name in ("a", "b"):
        list(learn_features(DataSettings("digits"), tmp_path / name, steps=2, seed=3))
    assert torch.equal(torch.random.get_rng_state(), before)
    a, b = ((tmp_path / name / "features.safetensors").read_bytes() for name in ("a", "b"))
    assert a == b


def test_figures_say_whose_features_they_are_on(digits_run, folder, samples):
    """Real digits: agreement as good as held-out's, an inception score near it, distances about its; noise is seen."""
    rows = figures(Planted(digits_run, *samples), count=400, features=open_features(folder))
    assert rows["class agreement"].samples.value > 0.95 and rows["class agreement"].ratio > 0.95
    assert 0.9 < rows["inception score"].ratio < 1.1 and rows["inception score"].samples.value > 4
    assert rows[NAME].ratio < 1.3 and f"{NAME}, n → ∞" in rows and "digits' features" in rows["kernel distance"].reading
    noised = samples[0] + 6 * torch.randn(samples[0].shape, generator=torch.Generator().manual_seed(0))
    worse = figures(Planted(digits_run, noised, samples[1]), count=400, features=open_features(folder))
    assert worse[NAME].ratio > 2 and worse["precision"].ratio < 0.9


def test_rows_of_another_source_stand_in_for_held_out_ones(digits_run, samples, tmp_path):
    """Against ones and sevens, real digits of all classes are far off, and so is the real data beside them."""
    data = digits_run.dataset
    ones = np.flatnonzero(np.isin(np.array(data.y), (1, 7)))
    np.savez(tmp_path / "ones.npz", x=data.x[ones], y=np.array(data.y)[ones])
    rows = figures(
        Planted(digits_run, *samples), count=400, against=DataSettings(str(tmp_path / "ones.npz"), held_out=0)
    )
    name = "Fréchet distance on 32 principal components"
    assert rows[name].samples.value > 5 and rows[name].ratio == pytest.approx(1, abs=0.1)
    assert rows["recall"].samples.value > 0.8 and rows["precision"].samples.value < 0.5
    assert rows["class agreement"].real is None  # its classes are not the run's
    np.save(tmp_path / "small.npy", np.zeros((20, 8, 9)) + np.arange(20)[:, None, None])
    with pytest.raises(ValueError, match=r"rows of shape \(1, 8, 8\), .* has \(1, 8, 9\)"):
        evaluate(digits_run, count=100, against=DataSettings(str(tmp_path / "small.npy"), held_out=0))


class Means(torch.nn.Module):
    """Stands for a feature network: means of quarters of the three channels."""

    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        """Logits, or features when these are asked for."""
        assert x.dtype == torch.uint8
        found = torch.nn.functional.adaptive_avg_pool2d(x.float(), 2).flatten(1)
        return found if return_features else found[:, :1]


def test_a_torchscript_network_gives_features_named_after_its_file(digits_run, samples, tmp_path):
    """Bytes of three channels in, what `return_features` gives out; rounded and clipped as an image would be."""
    path = tmp_path / "means.pt"
    torch.jit.script(Means()).save(str(path))
    features = open_features(path)
    assert (features.title, features.dimension) == ("means.pt's features", 12)
    x = np.array([[[[-3.0, 300.0], [7.4, 7.6]]]])
    torch.testing.assert_close(features.of(x)[0], torch.tensor([[0.0, 255.0, 7.0, 8.0] * 3]).double())
    rows = figures(Planted(digits_run, *samples), count=100, features=features)
    assert "Fréchet distance on means.pt's features" in rows and "inception score" not in rows


def test_the_standard_names_are_for_the_published_network_alone(digits_run, samples, tmp_path, monkeypatch):
    """A file of its digest gives an FID and a KID; one of any other digest, whatever it is called, does not."""
    path = tmp_path / "inception-2015-12-05.pt"
    torch.jit.script(Means()).save(str(path))
    assert not open_features(path).standard
    monkeypatch.setattr("scorefield.evaluation.features.INCEPTION", hashlib.sha256(path.read_bytes()).hexdigest())
    rows = figures(Planted(digits_run, *samples), count=100, features=open_features(path))
    assert {"FID", "FID, n → ∞", "KID"} <= set(rows) and not any("distance" in name for name in rows)


def test_bits_per_dimension_stand_beside_those_of_training_images(digits_run):
    """Where bytes lie on a grid, for as many rows of both, with the error of their mean; not asked for: no row."""
    rows = {row.name: row for row in evaluate(digits_run, count=100, likelihood_rows=4)}
    bits = rows["bits/dim"]
    assert bits.samples.n == bits.real.n == 4 and bits.samples.standard_error > 0 and 0 < bits.samples.value < 8
    again = run_bits(digits_run, digits_run.dataset.held_out_rows, 4)
    assert bits.samples.value == pytest.approx(again, rel=1e-6)


def run_bits(run, rows, count):
    from scorefield.runs.density import run_likelihood

    chosen = np.random.default_rng(0).permutation(rows)[:count]
    return run_likelihood(run, run.dataset.x[chosen], bin_width=1.0, probes=1, rtol=1e-2, seed=0).bits.value


def test_features_that_do_not_fit_are_refused(digits_run, vector_run, folder, tmp_path):
    """Vectors, another shape, too few rows for so many features, held-out rows that were learned from."""
    features = open_features(folder)
    with pytest.raises(ValueError, match="features are for images, the run learned vectors"):
        evaluate(vector_run, features=features)
    with pytest.raises(
        ValueError, match="must be >= 128, twice the 64 features of digits; got 100 samples, 100 held-out"
    ):
        evaluate(digits_run, count=100, features=features)
    other = tmp_path / "other"
    list(learn_features(DataSettings("digits"), other, steps=1, seed=1))
    with pytest.raises(ValueError, match="held out 180 by seed 1, the run 180 by seed 0; learn them again"):
        evaluate(digits_run, features=open_features(other))
    np.savez(tmp_path / "wide.npz", x=np.random.default_rng(0).integers(0, 9, (40, 9, 8)), y=np.arange(40) % 2)
    list(learn_features(DataSettings(str(tmp_path / "wide.npz")), tmp_path / "wide", steps=1))
    with pytest.raises(
        ValueError, match=r"wide's features take images of shape \(1, 9, 8\), the run's are \(1, 8, 8\)"
    ):
        evaluate(digits_run, features=open_features(tmp_path / "wide"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DataSettings("two-moons"), r"images with sides >= 8, two-moons holds \(2,\)"),
        (DataSettings("digits", held_out=0), "features need rows to test them on, digits keeps none out"),
        (DataSettings("plain.npy"), "by telling classes apart, plain.npy has 0; give labels"),
    ],
)
def test_data_that_teach_no_features_are_refused_and_nothing_is_left(data, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("plain.npy", np.random.default_rng(0).integers(0, 255, (20, 8, 8)))
    with pytest.raises(ValueError, match=message):
        next(learn_features(data, "features", steps=1))
    assert not (tmp_path / "features").exists()


def test_a_folder_in_use_and_damaged_or_strange_files_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="need a folder that does not exist yet"):
        next(learn_features(DataSettings("digits"), folder, steps=1))
    with pytest.raises(ValueError, match="must be a folder that scorefield features wrote"):
        open_features(tmp_path)
    (tmp_path / "no.pt").write_bytes(b"not a network")
    with pytest.raises(RuntimeError, match="no.pt is no TorchScript network"):
        open_features(tmp_path / "no.pt")
    torch.jit.script(torch.nn.Flatten(0)).save(str(tmp_path / "flat.pt"))
    with pytest.raises(RuntimeError, match="must map bytes .* to features"):
        open_features(tmp_path / "flat.pt")
    for name, change in (("features.safetensors", b"\0"), ("features.json", b"}")):
        damaged = tmp_path / name.replace(".", "-")
        damaged.mkdir()
        for file in folder.iterdir():
            (damaged / file.name).write_bytes(file.read_bytes() + (change if file.name == name else b""))
        with pytest.raises(RuntimeError, match=f"{name} is missing or damaged .* learn the features again"):
            open_features(damaged)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 14), (1, 28, 28), (3, 64, 64)])
def test_the_classifier_takes_images_of_any_size(shape):
    network = Classifier(shape, 5)
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    assert network(x).shape == (2, 5) and network.features(x).shape == (2, 64)
    assert sum(p.numel() for p in network.parameters()) < 1_000_000
