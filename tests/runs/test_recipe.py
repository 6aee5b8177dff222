"""Recipes: YAML there and back, what is refused, and the objective of a run."""

import dataclasses
import math

import pytest
import torch

from conftest import small_recipe
from scorefield.calculus import randn_like
from scorefield.data.batches import Batch
from scorefield.fields import ScoreModel
from scorefield.noise import VE, VP, Levels
from scorefield.runs import Run
from scorefield.runs.recipe import (
    LabelledNoise,
    build_noise,
    check_recipe,
    choose_noise,
    differences,
    from_yaml,
    noise_parameters,
    to_yaml,
)
from scorefield.settings import MLPSize, Recipe, Resolved, TrainSettings, UNetSize

RESOLVED = Resolved({"sigma_min": 0.1, "sigma_max": 9.0}, "unet", "log-normal", TrainSettings(steps=7))


def test_yaml_there_and_back(tmp_path):
    """A recipe and what was resolved are read as they were written."""
    recipe = Recipe("data.csv", label_column="kind", unet=UNetSize(width=48), seed=4)
    (tmp_path / "recipe.yaml").write_text(to_yaml(recipe, RESOLVED))
    assert from_yaml(tmp_path / "recipe.yaml") == (recipe, RESOLVED)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.replace("version: 1", "version: 2"), "version 2, this scorefield reads up to 1; upgrade"),
        (lambda t: t.replace("version: 1", ""), "must name its version"),
        (lambda t: t.replace("  seed: 4", "  sead: 4", 1), "unknown setting 'sead'; did you mean 'seed'"),
        (lambda t: "!!python/object/apply:os.system ['echo hacked']", "plain YAML"),
        (lambda t: t[: len(t) // 2] + "\n  : [", "plain YAML"),
        (lambda t: "- 1\n- 2\n", "must name its version"),
    ],
)
def test_a_bad_recipe_file_is_refused(tmp_path, change, message):
    """Newer, nameless, misspelt, tagged, broken: each with its own words, and nothing is run."""
    file = tmp_path / "recipe.yaml"
    file.write_text(change(to_yaml(Recipe("digits", seed=4), RESOLVED)))
    with pytest.raises(ValueError, match=message):
        from_yaml(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise": "vee"}, "noise must be one of .*'vee'; did you mean 've'"),
        ({"predicts": "epsilon"}, "predicts must be one of"),
        ({"precision": "fp8"}, "precision must be one of"),
        ({"network": "dit"}, "network must be one of unet, mlp"),
        ({"steps": 5, "seconds": 3.0}, "steps or seconds, not both"),
        ({"seconds": math.nan}, "seconds must be a finite number > 0"),
        ({"label_dropout": 1.5}, "label_dropout must lie in"),
        ({"tilt": 1.5}, r"tilt must lie in \[0, 1\], got 1.5"),
        ({"steps": 0}, "steps must be >= 1, got 0"),
        ({"batch_size": 0}, "batch_size must be >= 1"),
        ({"noise": "vp", "sigma_max": 9.0}, "sigma_max is a setting of noise ve and levels, got 9.0 for noise vp"),
        ({"objective": "sliced", "sigma_min": 0.1}, "got 0.1 for objective sliced, one law; leave it out"),
        ({"sigma_max": math.inf}, "sigma_max must be a finite number > 0, got inf"),
        ({"levels": 10}, "levels is a setting of noise levels, got 10 for noise ve"),
        ({"noise": "levels", "levels": 1}, "levels must be >= 2, got 1"),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    """Before anything is read: the value, the rule, the nearest name."""
    with pytest.raises(ValueError, match=message):
        check_recipe(dataclasses.replace(Recipe("digits"), **change))


def test_the_ends_of_a_schedule_may_be_given():
    """Song & Ermon's printed levels: ten from 1 to 0.01, whatever the data."""
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    noise = choose_noise(Recipe("digits", noise="levels", sigma_max=1.0, sigma_min=0.01, levels=10), x)
    assert noise_parameters(noise) == {"sigma_max": 1.0, "sigma_min": 0.01, "count": 10}
    assert noise_parameters(choose_noise(Recipe("digits", sigma_max=9.0), x))["sigma_max"] == 9.0


def test_differences_name_each_changed_setting_but_not_the_steps():
    """Steps may grow; everything else is named with both values."""
    old = small_recipe()
    assert differences(old, dataclasses.replace(old, steps=999)) == []
    assert differences(old, dataclasses.replace(old, seed=3)) == ["seed was 0 in this run, got 3"]
    assert "unet was" in differences(old, dataclasses.replace(old, unet=UNetSize(width=16)))[0]


@pytest.mark.parametrize("noise", [VE(0.1, 9.0), VP(0.2, 11.0), Levels(5.0, 0.1, 7)])
def test_a_schedule_is_rebuilt_from_its_parameters(noise):
    """Name and numbers are all there is to a schedule."""
    name = type(noise).__name__.lower()
    assert build_noise(name, noise_parameters(noise)) == noise


def flat_batch(n: int) -> Batch:
    return Batch(torch.zeros(n, 1, dtype=torch.float64), torch.zeros(n, dtype=torch.long), torch.arange(n))


@pytest.mark.parametrize("noise", [VE(0.01, 50.0), VP(), VE(0.3, 2.0)])
def test_levels_are_log_normal_in_sigma_over_alpha(noise):
    """log(sigma/alpha) has mean -0.5 and spread 1.2 (KS distance, alpha 1e-4), truncated to the schedule's range."""
    n = 20_000
    t = LabelledNoise(noise, "log-normal", 0.0).times(flat_batch(n), torch.Generator().manual_seed(0))
    z = ((noise.sigma(t) / noise.alpha(t)).log() + 0.5) / 1.2
    ends = torch.tensor([noise.t_min, noise.t_max], dtype=torch.float64)
    low, high = torch.special.ndtr(((noise.sigma(ends) / noise.alpha(ends)).log() + 0.5) / 1.2)
    u = ((torch.special.ndtr(z) - low) / (high - low)).sort().values
    distance = (u - torch.arange(n) / n).abs().max().item()
    assert distance < 2.23 / math.sqrt(n)
    assert t.min() >= noise.t_min and t.max() <= noise.t_max


def test_labels_are_hidden_at_the_stated_rate():
    """The fraction of -1 is label_dropout within 4 standard errors; the others stay as they are."""
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, x, t, y):
            seen.append(y)
            return torch.zeros_like(x)

    n, rate = 20_000, 0.1
    LabelledNoise(VE(0.1, 9.0), "uniform", rate)(Spy(), flat_batch(n), torch.Generator().manual_seed(1))
    hidden = (seen[0] == -1).double().mean().item()
    assert abs(hidden - rate) < 4 * math.sqrt(rate * (1 - rate) / n)
    assert set(seen[0].tolist()) == {-1, 0}


def test_the_residual_counts_alike_at_every_level():
    """For a network that predicts 0 the loss of Gaussian data is half of one per dimension, whatever the level."""

    class Nothing(torch.nn.Module):
        def forward(self, x, c, y):
            return torch.zeros_like(x)

    noise, n = VP(), 40_000
    x = torch.randn(n, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    batch = Batch(x, None, torch.arange(n))
    objective = LabelledNoise(noise, "uniform", 0.0)
    generator = torch.Generator().manual_seed(3)
    t = objective.times(batch, torch.Generator().manual_seed(3))
    loss = 2 * objective(ScoreModel(Nothing(), noise), batch, generator)
    for part in (t < 0.3, (t >= 0.3) & (t < 0.7), t >= 0.7):
        assert abs(loss[part].mean() - 1) < 4 * loss[part].std() / part.sum().sqrt()


@pytest.mark.parametrize("tilt", [0.0, 0.5, 1.0])
def test_antithetic_noise_and_the_tilt_have_their_closed_form(tilt):
    r"""Score -kx, a mean over z and -z: $\frac w2 (k^2(x^2 + \sigma^2 z^2) - 2k z^2 + z^2/\sigma^2)$, row by row.

    The part that depends on k stays bounded as sigma vanishes; the plain loss has $k x z/\sigma$ there.
    The weight is $\sigma^2 (1 + \sigma^2)(1 + \sigma^{-2})^{\text{tilt}}$ for VE.
    """
    noise, n, k = VE(1e-3, 9.0), 500, 0.7
    x = torch.randn(n, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    batch, objective = Batch(x, None, torch.arange(n)), LabelledNoise(noise, "uniform", 0.0, antithetic=True, tilt=tilt)
    loss = objective(lambda x_t, t: -k * x_t, batch, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    sigma2, z2 = noise.sigma(objective.times(batch, generator)) ** 2, randn_like(x, generator)[:, 0] ** 2
    weight = sigma2 * (1 + sigma2) * (1 + 1 / sigma2) ** tilt
    known = weight / 2 * (k**2 * (x[:, 0] ** 2 + sigma2 * z2) - 2 * k * z2 + z2 / sigma2)
    torch.testing.assert_close(loss, known, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("objective", ["noise-conditional", "denoising"])
def test_paired_noise_of_a_recipe_reaches_its_objective(tmp_path, objective):
    """What is built from a recipe, read back from its folder; an objective of all levels has its tilt, too."""
    tilt = {"tilt": 0.25} if objective == "noise-conditional" else {"sigma": 0.5}
    for antithetic in (False, True):
        given = {"objective": objective, "antithetic": antithetic, "network": "mlp", "mlp": MLPSize(8, 1), **tilt}
        Run.create(Recipe("two-moons", steps=1, count=50, **given), tmp_path / str(antithetic))
        built = Run.open(tmp_path / str(antithetic)).objective()
        assert built.antithetic is antithetic
        assert getattr(built, "tilt", 0.25) == 0.25


def test_levels_for_messages_are_those_of_the_loss():
    """`levels` re-draws the same times as the loss did, from an equal generator."""
    objective = LabelledNoise(VE(0.1, 9.0), "log-normal", 0.1)
    batch = flat_batch(5)
    t = objective.times(batch, torch.Generator().manual_seed(5))
    assert torch.equal(objective.levels(batch, torch.Generator().manual_seed(5)), VE(0.1, 9.0).sigma(t))


@pytest.mark.parametrize("levels", ["log-normal", "uniform"])
def test_the_bands_of_noise_add_up_to_the_loss_and_share_the_rows(levels):
    """Four parts, each of its own rows alone: they add up to the loss to the bit; a quarter of the rows each."""

    class Nothing(torch.nn.Module):
        def forward(self, x, c, y):
            return torch.zeros_like(x)

    noise, n = VE(0.1, 9.0), 8000
    x = torch.randn(n, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    batch, objective = Batch(x, None, torch.arange(n)), LabelledNoise(noise, levels, 0.0)
    model = ScoreModel(Nothing(), noise)
    terms = objective.terms(model, batch, torch.Generator().manual_seed(3))
    assert torch.equal(sum(terms.values()), objective(model, batch, torch.Generator().manual_seed(3)))
    sigma = objective.levels(batch, torch.Generator().manual_seed(3))
    for name, loss in terms.items():
        low, high = (float(end) for end in name.removeprefix("sigma/alpha ").split(" to "))
        mine = sigma[loss > 0]
        assert abs(len(mine) / n - 0.25) < 4 * math.sqrt(0.25 * 0.75 / n)
        assert 0.94 * low < mine.min() and mine.max() < 1.06 * high  # the names have two digits
