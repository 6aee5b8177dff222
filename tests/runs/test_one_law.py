"""Runs of every objective: what is refused, what is settled, resumed, logged; a law learned at one level, and drawn."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from conftest import SMALL_UNET, small_recipe, trained
from scorefield.calculus import PerSample, inner, randn_like, score_of
from scorefield.data import Batch
from scorefield.fields import EnergyModel, ScoreModel
from scorefield.networks import MLP
from scorefield.runs import OneLaw, Run
from scorefield.runs import checkpoints as store
from scorefield.runs.draw import choose_sampler
from scorefield.runs.log import read
from scorefield.runs.one_law import draw_one_law, langevin_step, tuned
from scorefield.runs.recipe import check_recipe
from scorefield.runs.resolve import choose_sigma
from scorefield.samplers import Langevin
from scorefield.settings import AT_ALL_LEVELS, CONTRASTIVE, OBJECTIVES, MLPSize, Recipe

TINY = MLPSize(16, 2)


def vectors(**changes) -> Recipe:
    """A tiny network on the mixture that trains in a moment."""
    given = {"data": "gaussian-mixture", "steps": 6, "mlp": TINY, "batch_size": 16, "count": 300} | changes
    return Recipe(**given)


def tensors(run: Run) -> dict[str, torch.Tensor]:
    newest = store.complete(run.path / "checkpoints")[-1]
    return {f"{p}.{k}": v for p in store.PARTS for k, v in load_file(newest / f"{p}.safetensors").items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "enrgy"}, "model must be one of score, energy; got 'enrgy'; did you mean 'energy'"),
        ({"objective": "slised"}, "objective must be one of .*did you mean 'sliced'"),
        (
            {"objective": "noise-contrastive"},
            "model must be energy for objective noise-contrastive.*give --model energy",
        ),
        ({"objective": "denoising", "sigma": 0.0}, "sigma must be a finite number > 0, got 0.0"),
        ({"objective": "implicit", "sigma": -1.0}, "sigma must be a finite number >= 0, got -1.0"),
        ({"sigma": 0.1}, "sigma means nothing to objective noise-conditional, got 0.1; leave it out"),
        ({"objective": "sliced", "probes": 0}, "probes must be >= 1, got 0"),
        ({"objective": "implicit", "probes": 2}, "probes means nothing to objective implicit, got 2; leave it out"),
        ({"objective": "sliced", "noise": "vp"}, "noise means nothing to objective sliced, got 'vp'; leave it out"),
        ({"objective": "sliced", "predicts": "noise"}, "predicts must be edm or score for objective sliced"),
        ({"objective": "denoising", "tilt": 0.5}, "tilt means nothing to objective denoising, got 0.5"),
        ({"objective": "noise-conditional-sliced", "antithetic": True}, "antithetic means nothing to objective noise-"),
        ({"objective": "implicit", "antithetic": True}, "antithetic means nothing to objective implicit, got True"),
        ({"chain_steps": 3}, "chain_steps means nothing to objective noise-conditional, got 3"),
        ({"objective": "sliced", "chain_step_size": 0.1}, "chain_step_size means nothing to objective sliced"),
        ({"model": "energy", "compile": True}, "compile must be left out for model energy"),
        ({"objective": "finite-difference", "precision": "bf16"}, "precision must be fp32 or fp64 .* bf16 rounds"),
        ({"objective": "implicit", "compile": True}, "compile must be left out .* objective implicit"),
        ({"model": "energy", "objective": "persistent", "devices": 2, "batch_size": 16}, "devices must be 1"),
        ({"model": "energy", "objective": "persistent", "chain_step_size": 0.0}, "chain_step_size must be .* > 0"),
    ],
)
def test_what_does_not_go_together_is_refused(change, message):
    """An option is honoured or refused, with its value, the rule and the way out."""
    with pytest.raises(ValueError, match=message):
        check_recipe(dataclasses.replace(Recipe("two-moons"), **change))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_stops_and_goes_on_bit_for_bit(objective, tmp_path):
    """An energy stopped after 2 of 6 steps ends with the weights, moments, chains and log of an unbroken run."""
    whole = trained(vectors(model="energy", objective=objective), tmp_path / "whole")
    run = Run.create(vectors(model="energy", objective=objective), tmp_path / "pieces")
    steps = run.train(checkpoint_seconds=1e9)
    next(steps), next(steps)
    steps.close()
    for _ in Run.open(tmp_path / "pieces").train():
        pass
    a, b = tensors(whole), tensors(Run.open(tmp_path / "pieces"))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    logs = [[{k: v for k, v in e.items() if k != "training_seconds"} for e in read(r.path / "metrics.jsonl")]
            for r in (whole, run)]  # fmt: skip
    assert logs[0] == logs[1]


@pytest.mark.parametrize("model", ["score", "energy"])
@pytest.mark.parametrize("objective", [o for o in OBJECTIVES if o not in CONTRASTIVE])
def test_the_terms_of_the_implicit_and_sliced_objectives_are_logged_apart(model, objective, tmp_path):
    """half_square >= 0, trace, and their sum the loss; no such lines where the loss is no such sum."""
    run = trained(vectors(model=model, objective=objective, steps=3), tmp_path / "run")
    for entry in read(run.path / "metrics.jsonl"):
        if objective in ("implicit", "sliced"):
            assert entry["half_square"] > 0
            assert entry["half_square"] + entry["trace"] == pytest.approx(entry["loss"], rel=1e-12)
        else:
            assert "half_square" not in entry and "trace" not in entry


def test_the_first_step_of_an_untrained_field_has_the_terms_of_a_normal_law(tmp_path):
    """A fresh score network is -x: half the mean of |x|², about D/2 on scaled data, and the trace -D exactly."""
    run = Run.create(vectors(objective="implicit", batch_size=256), tmp_path / "run")
    first = next(run.train())
    assert first.terms["trace"] == pytest.approx(-2.0, abs=1e-6)
    assert first.terms["half_square"] == pytest.approx(1.0, abs=0.3)  # 4 s.e. of half a chi-square's mean of 512


def test_a_folder_from_before_these_settings_opens_and_goes_on(tmp_path):
    """Recipes without model and objective are those of a noise-conditional score network."""
    run = Run.create(small_recipe(steps=2), tmp_path / "old")
    content = yaml.safe_load((run.path / "recipe.yaml").read_text())
    for name in ("model", "objective", "sigma", "probes", "chain_steps", "chain_step_size"):
        del content["recipe"][name]
    (run.path / "recipe.yaml").write_text(yaml.safe_dump(content))
    resumed = Run.resume(small_recipe(steps=2), tmp_path / "old")
    assert [s.step for s in resumed.train()] == [1, 2]


def test_another_objective_is_another_run(tmp_path):
    """A changed objective is refused by name."""
    Run.create(vectors(objective="sliced"), tmp_path / "run")
    with pytest.raises(ValueError, match="objective was 'sliced' in this run, got 'implicit'"):
        Run.resume(vectors(objective="implicit"), tmp_path / "run")


def test_one_law_has_a_sigma_and_no_schedule(tmp_path):
    """A run without noise levels says so; its score takes no time; the other kind has no single sigma."""
    run = trained(vectors(model="energy", objective="denoising", sigma=0.25), tmp_path / "run")
    assert run.sigma == 0.25 and Run.open(run.path).sigma == 0.25
    with pytest.raises(RuntimeError, match="has no schedule: objective denoising learns one law"):
        run.noise  # noqa: B018
    x = torch.zeros(3, 2)
    assert run.score(x).shape == (3, 2) and run.score.log_density(x).shape == (3,)
    with pytest.raises(TypeError):
        run.score(x, torch.tensor(0.5))
    levels = Run.create(vectors(), tmp_path / "levels")
    with pytest.raises(RuntimeError, match="no single sigma"):
        levels.sigma  # noqa: B018


def grid(n: int, d: int = 2) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0))


def test_the_blur_is_what_was_asked_for_or_follows_the_rule():
    """Zero; for denoising a tenth, or the neighbours' distance over the root of D where that is larger."""
    assert choose_sigma(vectors(objective="sliced", sigma=0.3), grid(50)) == 0.3
    assert choose_sigma(vectors(objective="sliced"), grid(50)) == 0.0
    assert choose_sigma(vectors(objective="denoising"), grid(1000)) == 0.1
    x = grid(100, 30)
    nearest = torch.cdist(x, x).fill_diagonal_(math.inf).min(1).values.median().item()
    assert choose_sigma(vectors(objective="denoising"), x) == pytest.approx(nearest / math.sqrt(30), rel=1e-5)


@pytest.mark.parametrize("rows", [500, 3])
def test_data_without_a_density_need_a_blur(rows):
    """A direction without spread, along an axis or across: refused with the way out, and honoured with a sigma."""
    flat = torch.cat([grid(rows, 3), torch.zeros(rows, 1)], dim=1)
    with pytest.raises(ValueError, match="sigma must be given for objective implicit on data that vary by less"):
        choose_sigma(vectors(objective="implicit"), flat)
    assert choose_sigma(vectors(objective="implicit", sigma=0.1), flat) == 0.1
    across = grid(500, 2) @ torch.ones(2, 2)
    with pytest.raises(ValueError, match="0.1 or more learns their law with that much noise"):
        choose_sigma(vectors(objective="persistent"), across)


def test_digits_are_refused_by_the_objectives_that_need_a_density_and_nothing_is_left(tmp_path):
    """Some pixels are the same in every digit."""
    with pytest.raises(ValueError, match="sigma must be given for objective sliced"):
        Run.create(small_recipe(objective="sliced"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_persistent_chains_have_no_labels(tmp_path):
    """Labelled data are refused; with every label hidden they are learned, and drawn, without."""
    how = {"model": "energy", "objective": "persistent", "sigma": 0.3, "steps": 2}
    with pytest.raises(ValueError, match="label_dropout must be 1 for objective persistent on labelled data"):
        Run.create(small_recipe(**how), tmp_path / "run")
    run = trained(small_recipe(**how, label_dropout=1.0), tmp_path / "run")
    assert "y" not in run.sample(2, steps=3).info
    with pytest.raises(ValueError, match="label must not be given for a run without labels, got 3"):
        run.sample(2, label=3, steps=3)


def test_the_chains_of_a_persistent_run_move_and_are_saved(tmp_path):
    """Eight slots per sample of the batch; each step moves one batch of them; the checkpoint holds them."""
    recipe = vectors(model="energy", objective="persistent", steps=1)
    run = Run.create(recipe, tmp_path / "run")
    before = run._new_model().state_dict()["chains"]
    for _ in run.train():
        pass
    after = tensors(run)["model.chains"]
    assert before.shape == (128, 2)
    assert int((before != after).any(1).sum()) == 16


class Stiff(torch.nn.Module):
    """A score -k x, and its log-density."""

    def __init__(self, k):
        super().__init__()
        self.k = k

    def forward(self, x, t=None, y=None):
        return -self.k * x

    def log_density(self, x, t=None, y=None):
        return -self.k * x.square().sum(1) / 2


X = torch.randn(2000, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
BATCH = Batch(X, None, torch.arange(2000))


@pytest.mark.parametrize("sigma", [0.0, 0.5])
def test_the_objectives_of_one_law_on_a_normal_law_have_their_known_values(sigma):
    r"""Data N(0, I) blurred, score -k x: $k^2 w D/2 - k D$ with $w = 1 + \sigma^2$, within 4 standard errors.

    Denoising adds the constant $D/2\sigma^2$; noise-contrastive estimation knows N(0, I) by a loss of 2 log 2.
    """
    k, d, w = 0.8, 3, 1 + sigma**2
    expected = k**2 * w * d / 2 - k * d
    for name in ("implicit", "sliced", "finite-difference", *(["denoising"] if sigma else [])):
        loss = OneLaw(name, sigma, 0.0)(Stiff(k), BATCH, torch.Generator().manual_seed(2))
        known = expected + (d / (2 * sigma**2) if name == "denoising" else 0.0)
        assert abs(loss.mean() - known) < 4 * loss.std() / math.sqrt(len(X))
    if not sigma:
        loss = OneLaw("noise-contrastive", 0.0, 0.0)(Stiff(1.0), BATCH, torch.Generator().manual_seed(2))
        assert loss.mean().item() == pytest.approx(2 * math.log(2), abs=1e-12)


def test_antithetic_denoising_of_one_law_has_its_closed_form():
    r"""Score -kx: $\frac12 (k^2(\|x\|^2 + \sigma^2\|z\|^2) - 2k\|z\|^2 + \|z\|^2/\sigma^2)$ row by row."""
    k, sigma = 0.8, 0.01
    loss = OneLaw("denoising", sigma, 0.0, antithetic=True)(Stiff(k), BATCH, torch.Generator().manual_seed(2))
    x2, z2 = (inner(v, v) for v in (X, randn_like(X, torch.Generator().manual_seed(2))))
    known = (k**2 * (x2 + sigma**2 * z2) - 2 * k * z2 + z2 / sigma**2) / 2
    torch.testing.assert_close(loss, known, rtol=1e-9, atol=1e-12)


def test_contrastive_divergence_of_a_run_falls_as_the_energy_nears_the_law():
    """Its gradient in k at k = 1 is 0 in expectation and is that of the likelihood elsewhere: up at 2, down at 1/2."""
    signs = []
    for k in (0.5, 2.0):
        stiffness = torch.tensor(k, dtype=torch.float64, requires_grad=True)
        loss = OneLaw("contrastive-divergence", 0.0, 0.0)(Stiff(stiffness), BATCH, torch.Generator().manual_seed(0))
        signs.append(torch.autograd.grad(loss.mean(), stiffness)[0].sign().item())
    assert signs == [-1.0, 1.0]


def test_labels_reach_the_model_of_one_law():
    """The given ones, each hidden with the stated probability."""
    seen = []

    class Spy(Stiff):
        def forward(self, x, t=None, y=None):
            seen.append((t, y))
            return super().forward(x)

    batch = Batch(X, torch.zeros(2000, dtype=torch.long), torch.arange(2000))
    OneLaw("denoising", 0.1, 0.25)(Spy(1.0), batch, torch.Generator().manual_seed(0))
    (t, y), hidden = seen[0], (seen[0][1] == -1).double().mean().item()
    assert t is None and set(y.tolist()) == {-1, 0}
    assert abs(hidden - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 2000)


def test_langevin_draws_one_law_with_a_step_fit_to_it():
    """On N(0, diag(1, 1/9)): step 0.1 · 2/10, stationary variances 1/(k(1 - hk/2)), 4 standard errors."""
    precision = torch.tensor([1.0, 9.0], dtype=torch.float64)

    def score(x):
        return -precision * x

    x = torch.randn(100_000, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64) / precision.sqrt()
    h = langevin_step(score, x)
    assert h == pytest.approx(0.1 * 2 / 10, rel=0.02)
    like = torch.zeros(4000, 2, dtype=torch.float64)
    kernel, g = tuned("langevin", score, x, None), torch.Generator().manual_seed(4)
    drawn = draw_one_law(score, like, kernel, 0.0, steps=400, denoise=True, generator=g)
    expected = 1 / (precision * (1 - h * precision / 2))
    assert ((drawn.x.var(0) / expected - 1).abs() < 4 * math.sqrt(2 / 4000)).all()
    assert drawn.evaluations == 400


def test_the_blur_of_one_law_is_taken_off_by_tweedie():
    """For N(0, (1 + sigma²) I) the last step multiplies by 1/(1 + sigma²), and can be left out."""
    sigma, like = 0.5, torch.zeros(5, 2, dtype=torch.float64)
    how = {"steps": 7, "path": True}
    ends = [
        draw_one_law(
            lambda x: -x / 1.25, like, Langevin(0.1), sigma, denoise=d, **how, generator=PerSample(0, range(5))
        )
        for d in (True, False)
    ]
    torch.testing.assert_close(ends[0].x, ends[1].x / 1.25, rtol=1e-12, atol=1e-12)
    assert [e.evaluations for e in ends] == [8, 7] and [len(e.path) for e in ends] == [8, 7]


@pytest.mark.parametrize(
    ("objective", "sampler", "step_size", "message"),
    [
        (
            "sliced",
            "heun",
            None,
            "sampler must be langevin, underdamped, mala, hmc for a run of objective sliced.*got 'heun'",
        ),
        ("noise-conditional", "langevin", None, "take heun, or annealed-langevin"),
        ("noise-conditional", None, 0.1, "step_size is an option of langevin, underdamped, mala, hmc, got 0.1"),
        ("sliced", "langevn", None, "did you mean 'langevin'"),
    ],
)
def test_a_sampler_that_does_not_fit_is_refused(objective, sampler, step_size, message):
    """One law has no levels to come down from, and levels are more than one law."""
    with pytest.raises(ValueError, match=message):
        choose_sampler(sampler, Recipe("two-moons", objective=objective), step_size=step_size)


def test_samplers_have_their_defaults():
    """Heun through the levels, Langevin at one law."""
    for objective in OBJECTIVES:
        expected = "heun" if objective in AT_ALL_LEVELS else "langevin"
        assert choose_sampler(None, Recipe("two-moons", objective=objective)) == expected


@pytest.mark.parametrize("density", [True, False])
@pytest.mark.parametrize("name", ["langevin", "underdamped", "mala", "hmc"])
def test_every_kernel_is_tuned_to_one_law_and_draws_it(name, density):
    """N(0, diag(1, 1/9)): variances within 4 standard errors of 2,000 and the bias of the unadjusted ones (5 %)."""
    precision = torch.tensor([1.0, 9.0], dtype=torch.float64)
    score = (lambda x: -precision * x) if not density else score_of(lambda x: -(precision * x * x).sum(1) / 2)
    x = torch.randn(500, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64) / precision.sqrt()
    kernel, like = tuned(name, score, x, None), torch.zeros(2000, 2, dtype=torch.float64)
    g = torch.Generator().manual_seed(5)
    drawn = draw_one_law(score, like, kernel, 0.0, steps=60 if name == "hmc" else 200, denoise=True, generator=g).x
    bias = 0.0 if name in ("mala", "hmc") else 0.05
    assert ((drawn.var(0) * precision - 1).abs() < 4 * math.sqrt(2 / 2000) + bias).all()
    assert tuned(name, score, x, 0.07).step_size == 0.07


@pytest.mark.parametrize(
    ("sampler", "objective", "words"),
    [
        ("heun", "noise-conditional", "epsilon is an option of sampler annealed-langevin, got 0.1 for heun"),
        (None, "sliced", "epsilon is an option of sampler annealed-langevin, got 0.1 for langevin"),
    ],
)
def test_epsilon_is_annealed_langevins_alone(sampler, objective, words):
    """An option is honoured or refused."""
    with pytest.raises(ValueError, match=words):
        choose_sampler(sampler, Recipe("two-moons", objective=objective), epsilon=0.1)


def test_sample_i_of_one_law_is_the_same_in_any_batch(tmp_path):
    """One stream of noise per sample, as for every other sampler; another step size is another sample."""
    run = trained(vectors(model="energy", objective="sliced"), tmp_path / "run")
    many, few = run.sample(5, seed=3, steps=20).x, run.sample(2, seed=3, steps=20).x
    torch.testing.assert_close(many[:2], few, rtol=0, atol=1e-5)
    assert (run.sample(2, seed=3, steps=20, step_size=0.02).x - few).abs().max() > 1e-3


@pytest.mark.parametrize("network", ["mlp", "unet"])
@pytest.mark.parametrize("model", ["score", "energy"])
@pytest.mark.parametrize("objective", ["noise-conditional", "denoising", "sliced"])
def test_images_are_learned_as_fields_and_as_energies(network, model, objective, tmp_path):
    """By the U-Net and by the MLP, with labels, at all levels and at one law: finite, and drawn by class."""
    sigma = None if objective == "noise-conditional" else 0.3
    recipe = small_recipe(model=model, objective=objective, network=network, sigma=sigma, steps=2, mlp=TINY)
    run = trained(dataclasses.replace(recipe, unet=SMALL_UNET), tmp_path / "run")
    kind = EnergyModel if model == "energy" else ScoreModel
    assert isinstance(run.load_model(), kind) and run.resolved.training.precision == "fp32"
    drawn = run.sample(2, label=3, steps=3)
    assert drawn.x.shape == (2, 1, 8, 8) and drawn.info["y"].tolist() == [3, 3]


def test_an_energy_learns_a_gaussian_by_the_implicit_objective(tmp_path):
    """Correlated data: the relative Fisher divergence to the true score falls below 3 %, the log-density follows."""
    covariance = torch.tensor([[1.0, 0.6], [0.6, 0.8]], dtype=torch.float64)
    root = torch.linalg.cholesky(covariance)
    rows = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) @ root.T
    np.save(tmp_path / "gauss.npy", rows.numpy())
    recipe = Recipe(str(tmp_path / "gauss.npy"), steps=300, model="energy", objective="implicit", batch_size=128,
                    mlp=MLPSize(32, 2), learning_rate=5e-3)  # fmt: skip
    run = trained(recipe, tmp_path / "run")
    scaling = run.dataset.info.scaling
    scale = torch.as_tensor(scaling.scale)
    precision = torch.linalg.inv(covariance / (scale[:, None] * scale[None, :]))
    x = scaling.apply(rows[:2000].numpy()).double()
    truth, learned = -x @ precision, run.score(x.float()).double()
    assert (learned - truth).square().sum() < 0.03 * truth.square().sum()
    log_density = run.score.log_density(x.float()).double()
    exact = -(x @ precision * x).sum(1) / 2
    inside = exact > -3
    assert torch.corrcoef(torch.stack([log_density[inside], exact[inside]]))[0, 1] > 0.99
    drawn = run.sample(500, steps=100).x.double()
    assert (torch.cov(drawn.T) - covariance).abs().max() < 0.25
    assert json.loads((run.path / "metrics.jsonl").read_text().splitlines()[-1])["trace"] < 0


def test_the_constant_of_an_energy_is_learned_by_noise_contrastive_estimation_alone(tmp_path):
    """No other objective sees it: it keeps its first value there, and no gradient is looked for."""
    for objective in ("implicit", "noise-contrastive"):
        run = trained(vectors(model="energy", objective=objective), tmp_path / objective)
        first, last = run._new_model().network, run.load_model(ema=False).network
        assert isinstance(first, MLP) and isinstance(last, MLP)
        assert (first.head.bias == last.head.bias).item() == (objective == "implicit")
        assert first.head.bias.requires_grad == (objective == "noise-contrastive")  # unused ones stop many processes
