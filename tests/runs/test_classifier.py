"""Classifiers as runs: the learned p(y | x_t, t) against Bayes' rule, guidance by it, and what is refused."""

import json

import numpy as np
import pytest
import torch

from conftest import small_recipe, trained
from scorefield.cli import main
from scorefield.densities import GaussianMixture
from scorefield.guidance import classifier
from scorefield.runs import Run
from scorefield.runs.classifying import accuracy_by_level, classifier_for
from scorefield.runs.recipe import check_recipe
from scorefield.settings import MLPSize, Recipe

WEIGHTS, MEANS = (0.35, 0.65), ([-1.2, 5.0], [1.2, 6.5])
COVARIANCES = ([[1.5, 0.4], [0.4, 0.8]], [[0.7, -0.3], [-0.3, 1.2]])
LAW = GaussianMixture(WEIGHTS, MEANS, COVARIANCES)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Run]:
    """A score of two classes without their labels, and two classifiers of them: same schedule, another."""
    folder = tmp_path_factory.mktemp("classifier")
    rng = np.random.default_rng(0)
    y = (rng.uniform(size=6000) < WEIGHTS[1]).astype(int)
    x = np.stack([rng.multivariate_normal(MEANS[k], COVARIANCES[k]) for k in y])
    np.savez(folder / "labelled.npz", x=x, y=np.array(["left", "right"])[y])
    np.save(folder / "bare.npy", x)
    size = {"mlp": MLPSize(32, 2), "learning_rate": 1e-2, "steps": 700}
    made = {
        "score": Recipe(str(folder / "bare.npy"), **size),
        "ve": Recipe(str(folder / "labelled.npz"), classifier=True, **size),
        "vp": Recipe(str(folder / "labelled.npz"), classifier=True, noise="vp", **size),
    }
    return {name: trained(recipe, folder / name) for name, recipe in made.items()}


def scaled_parts(run: Run) -> list[GaussianMixture]:
    """The classes in the run's scaled units."""
    mean, scale = (torch.as_tensor(v) for v in (run.dataset.info.scaling.mean, run.dataset.info.scaling.scale))
    return [
        GaussianMixture([1.0], (m - mean)[None] / scale, c[None] / (scale[:, None] * scale[None]))
        for m, c in zip(LAW.means, LAW.covariances, strict=True)
    ]


@pytest.mark.parametrize(("name", "ratio"), [("ve", 0.1), ("ve", 0.4), ("ve", 1.5), ("vp", 0.4), ("vp", 1.5)])
def test_the_learned_gradient_is_that_of_bayes_rule(runs, name, ratio):
    """∇ log p(y | x_t, t) at the law's own states: 25 % in the mean square, in the score run's units and levels.

    The classifier under VP never saw these levels by this name: it is asked in its own units. A gradient of zero is
    off by 100 %, one of the wrong sign by 200 %, one of the wrong scale of units by 40 % and more.
    """
    run = runs["score"]
    noise, parts = run.noise, scaled_parts(run)
    t = noise.time_at(torch.tensor(ratio, dtype=torch.float64))
    blurred = [part.noisy_score(noise) for part in parts]
    y = (torch.arange(2000) % 20 >= 7).long()  # 35 % and 65 %
    clean = torch.where(y[:, None] == 1, *(parts[k].sample((2000,), generator=_seeded(k)) for k in (1, 0)))
    x = noise.perturb(clean, t, torch.randn(2000, 2, generator=_seeded(2), dtype=torch.float64))
    prior = GaussianMixture(WEIGHTS, *(torch.cat([getattr(p, a) for p in parts]) for a in ("means", "covariances")))
    score = prior.noisy_score(noise)
    exact = torch.where(y[:, None] == 1, blurred[1](x, t), blurred[0](x, t)) - score(x, t)
    logits = classifier_for(run, runs[name], torch.zeros(1))
    guided = classifier(score, lambda x, t: logits(x.float(), t).double(), y)(x, t) - score(x, t)
    assert ((guided - exact).square().sum() / exact.square().sum()).sqrt() < 0.25
    said = logits(x.float(), t).log_softmax(1).double()
    true = torch.stack([torch.tensor(w).log() + b.log_density(x, t) for w, b in zip(WEIGHTS, blurred, strict=True)], 1)
    assert (said.exp() - true.softmax(1)).abs().mean() < 0.02


def test_a_state_is_the_same_in_the_units_of_two_runs(runs, tmp_path):
    """One row, other scaling, other alpha: the classifier hears its own name of the state and of the level, to 1e-4."""
    x = np.load(runs["score"].recipe.data)
    np.save(tmp_path / "moved.npy", 0.5 * x + 3)
    moved = Run.create(Recipe(str(tmp_path / "moved.npy"), noise="vp", mlp=MLPSize(4, 1)), tmp_path / "moved")
    ours, theirs = (run.dataset.info.scaling for run in (moved, runs["vp"]))
    noise, levels, ratio = moved.noise, runs["vp"].noise, torch.tensor([0.3, 2.0], dtype=torch.float64)
    t, own = noise.time_at(ratio), levels.time_at(ratio * (ours.scale / theirs.scale).mean())
    state, expected = noise.alpha(t)[:, None] * ours.apply(x[:2]), levels.alpha(own)[:, None] * theirs.apply(x[:2])
    found = classifier_for(moved, runs["vp"], torch.zeros(1))(state.float(), t)
    torch.testing.assert_close(found, runs["vp"].load_classifier()(expected.float(), own), rtol=1e-4, atol=1e-4)


def test_guidance_by_a_classifier_draws_its_classes(runs):
    """An unlabelled score, guided at w = 1: mean and variance of each class, 4 s.e. of 1,000 and 10 % of training.

    By a sampler that draws noise: the flow would carry on that the class is not the law of all at the last level.
    """
    for k, name in enumerate(("left", "right")):
        drawn = runs["score"].sample(1000, label=name, classifier=runs["ve"], sampler="sde-dpm-solver", steps=25)
        assert (drawn.info["y"] == k).all()
        spread = LAW.covariances[k].diagonal().sqrt()
        gap = (drawn.x.mean(0) - LAW.means[k]).abs() / spread
        assert (gap < 4 / 1000**0.5 + 0.1).all()
        assert ((drawn.x.std(0) / spread - 1).abs() < 4 / 2000**0.5 + 0.1).all()
    free = runs["score"].sample(50, classifier=runs["ve"], guidance=0.0, steps=4)
    assert torch.equal(free.x, runs["score"].sample(50, steps=4).x)
    assert 0 < free.info["y"].double().mean() < 1


def test_accuracy_falls_from_the_data_s_own_to_guessing(runs):
    """Held-out rows: Bayes' accuracy at the least noise within 4 s.e., the larger class at the most."""
    found = accuracy_by_level(runs["ve"])
    values = list(found.values())
    x, labels = (v for v in _labelled(20_000))
    parts = [GaussianMixture([1.0], [m], [c]) for m, c in zip(MEANS, COVARIANCES, strict=True)]
    logs = torch.stack([torch.tensor(w).log() + p.log_density(x) for w, p in zip(WEIGHTS, parts, strict=True)], 1)
    best = (logs.argmax(1) == labels).double().mean().item()
    assert values[0].n == 600 and len(found) == 9
    assert abs(values[0].value - best) < 4 * (best * (1 - best) / 600) ** 0.5
    assert abs(values[-1].value - WEIGHTS[1]) < 4 * (WEIGHTS[0] * WEIGHTS[1] / 600) ** 0.5 + 0.02


def test_a_classifier_of_images_is_a_run_like_any_other(digits_run, tmp_path, capsys):
    """Trained, resumed bit for bit, described, judged, and another run sampled by it; no score to sample itself."""
    path, whole = tmp_path / "classifier", tmp_path / "whole"
    argv = ["train", "digits", "--classifier", "--unet.width", "8", "--unet.blocks", "1", "--batch-size", "16"]
    argv += ["--precision", "fp32"]
    assert main([*argv, "--steps", "3", "-o", str(path)]) == 0
    assert "scorefield sample RUN --classifier" in capsys.readouterr().out
    assert main([*argv, "--steps", "5", "-o", str(path)]) == 0
    straight = trained(small_recipe(classifier=True, steps=5), whole)
    resumed = Run.open(path).load_classifier(ema=False).state_dict()
    assert resumed.keys() == straight.load_classifier().state_dict().keys()
    assert all(v.isfinite().all() for v in resumed.values())
    capsys.readouterr()
    assert main(["info", str(path)]) == 0
    assert "cross-entropy at all noise levels" in capsys.readouterr().out
    assert main(["evaluate", str(path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["accuracy"]
    assert len(rows) == 9 and all(0 <= row["value"] <= 1 and row["n"] == 180 for row in rows)
    assert main(["evaluate", str(path)]) == 0 and "σ/α = " in capsys.readouterr().out
    output = tmp_path / "threes.npz"
    sample = ["sample", str(digits_run.path), "--label", "3", "--guidance", "2", "-n", "2", "--steps", "2"]
    assert main([*sample, "--classifier", str(path), "-o", str(output)]) == 0
    with np.load(output, allow_pickle=False) as file:
        assert file["x"].shape == (2, 1, 8, 8) and (file["y"] == 3).all()
    capsys.readouterr()
    assert main(["sample", str(path)]) == 2
    assert "holds a classifier, which has no score; guide another run by it" in capsys.readouterr().err
    assert main([*sample, "--classifier", str(digits_run.path)]) == 2
    assert "classifier must be a run that holds one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "energy"}, "model means nothing to a classifier, got 'energy'; leave it out"),
        ({"objective": "sliced"}, "objective means nothing to a classifier"),
        ({"predicts": "noise"}, "predicts means nothing to a classifier"),
        ({"antithetic": True}, "antithetic means nothing to a classifier, got True"),
        ({"tilt": 0.5}, "tilt means nothing to a classifier, got 0.5"),
        ({"label_dropout": 0.2}, "label_dropout means nothing to a classifier, got 0.2"),
        ({"sigma": 0.2}, "sigma means nothing to objective noise-conditional"),
    ],
)
def test_options_that_a_classifier_does_not_read_are_refused(change, message):
    """The value, the rule, the way out."""
    with pytest.raises(ValueError, match=message):
        check_recipe(Recipe("digits", **{"classifier": True} | change))


def test_runs_that_do_not_go_together_are_refused(runs, digits_run, tmp_path):
    """No labels, another shape, other proportions, too little noise, unknown classes, one law, no law of all."""
    with pytest.raises(ValueError, match="classifier needs data with labels of 2 classes or more, got 0 in .*bare.npy"):
        Run.create(Recipe(runs["score"].recipe.data, classifier=True), tmp_path / "none")
    assert not (tmp_path / "none").exists()
    with pytest.raises(ValueError, match=r"classifier must be of samples of shape \(1, 8, 8\), .*ve has \(2,\)"):
        digits_run.sample(1, classifier=runs["ve"])
    with pytest.raises(ValueError, match="label must be one of left, right; got 'lft'; did you mean 'left'"):
        runs["score"].sample(1, label="lft", classifier=runs["ve"])
    with pytest.raises(RuntimeError, match="holds a score and no classifier; train one with --classifier"):
        runs["score"].load_classifier()
    x = np.load(runs["score"].recipe.data)
    np.save(tmp_path / "stretched.npy", x * [1.0, 3.0])
    stretched = trained(Recipe(str(tmp_path / "stretched.npy"), steps=1, mlp=MLPSize(4, 1)), tmp_path / "stretched")
    with pytest.raises(
        ValueError, match=r"in the same proportions as .*stretched, .*ve is off by a factor of (2\.9|3)"
    ):
        stretched.sample(1, classifier=runs["ve"])
    loud = trained(Recipe(str(runs["score"].recipe.data), noise="vp", steps=1, mlp=MLPSize(4, 1)), tmp_path / "loud")
    with pytest.raises(
        ValueError, match=r"must know noise up to 15\d times its data's spread, .*; train it with --noise vp"
    ):
        loud.sample(1, classifier=runs["ve"])
    how = {"label_dropout": 0.0, "steps": 1, "mlp": MLPSize(4, 1)}
    labelled = trained(Recipe(str(runs["ve"].recipe.data), **how), tmp_path / "labelled")
    with pytest.raises(ValueError, match="a classifier needs a run that saw some labels hidden .label_dropout > 0."):
        labelled.sample(1, classifier=runs["ve"])
    one = trained(Recipe(runs["score"].recipe.data, objective="sliced", steps=1, mlp=MLPSize(4, 1)), tmp_path / "one")
    with pytest.raises(RuntimeError, match="has no schedule: objective sliced learns one law"):
        one.sample(1, classifier=runs["ve"])


def _labelled(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    y = (torch.rand(n, generator=_seeded(5)) < WEIGHTS[1]).long()
    parts = [
        GaussianMixture([1.0], [m], [c]).sample((n,), generator=_seeded(6))
        for m, c in zip(MEANS, COVARIANCES, strict=True)
    ]
    return torch.where(y[:, None] == 1, parts[1], parts[0]), y


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
