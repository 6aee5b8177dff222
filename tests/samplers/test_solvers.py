"""What the solvers promise beside their order: limits that coincide, adaptivity, grids, encoding, correctors."""

import math

import pytest
import torch
from exact_flow import LAW, MEAN, NOISES, VARIANCE, Fixed, at, close, gaussian_score, levels_of, normal
from torch import Generator

from scorefield.calculus import PerSample
from scorefield.densities import GaussianMixture
from scorefield.noise import VE, VP, Cosine
from scorefield.samplers import (
    DDIM,
    DDPM,
    MALA,
    AdaptiveODE,
    AdaptiveSDE,
    Ancestral,
    ChurnedHeun,
    Consistent,
    DPMSolver,
    Euler,
    EulerMaruyama,
    Heun,
    Langevin,
    LevelKernel,
    NonFinite,
    SDEDPMSolver,
    SignalToNoise,
    StochasticHeun,
    UniPC,
    consistent_annealed,
    encode,
    fit_solver,
    reverse,
    time_grid,
)
from scorefield.samplers.tables import cosine_weights, interpolation_weights

EACH = pytest.mark.parametrize("noise", NOISES, ids=lambda noise: type(noise).__name__)
CLOSE = GaussianMixture([0.3, 0.7], [[-2.0, 0.5], [1.0, -1.0]], [[[0.4, 0.1], [0.1, 0.6]], [[0.8, -0.3], [-0.3, 0.5]]])
SAME = [
    (DDIM(1.0), Ancestral()),
    (DDPM("small"), Ancestral()),
    (SDEDPMSolver(1), Ancestral()),
    (DDIM(), Euler()),
    (DPMSolver(1), Euler()),
    (DPMSolver(1, predicts="noise"), Euler()),
    (ChurnedHeun(churn=0.0, steps=9), Heun()),
    (Consistent(1.0), DDIM(1.0)),
]


@EACH
@pytest.mark.parametrize(("one", "other"), SAME[:-1], ids=str)
def test_methods_coincide_where_the_theory_says_so(noise, one, other):
    """Three steps with the same noise end in the same state to 1e-10."""
    x, times = normal(5, 3), [0.9, 0.7, 0.4, 0.1]
    ends = [
        reverse(gaussian_score(noise), noise, x, times=times, predictor=p, generator=Generator().manual_seed(3)).x
        for p in (one, other)
    ]
    close(*ends, 1e-10)


def test_ddpm_is_algorithm_two_of_its_paper():
    r"""Under VP: $x_s = (x_t - \beta\hat\epsilon/\sigma_t)/\sqrt{1-\beta} + \sqrt\beta z$ with $\beta = 1 - a^2$."""
    noise, x, z, t, s = VP(), normal(5, 3), normal(5, 3, seed=1), at(0.6), at(0.5)
    score, beta = gaussian_score(noise), 1 - (noise.alpha(t) / noise.alpha(s)) ** 2
    epsilon = -noise.sigma(t) * score(x, t)
    expected = (x - beta / noise.sigma(t) * epsilon) / (1 - beta).sqrt() + beta.sqrt() * z
    close(DDPM().step(score, noise, x, t, s, generator=Fixed(z))[0], expected, 1e-10)


def test_interpolation_weights_integrate_polynomials_exactly():
    """Against scipy-free quadrature: 20,000 midpoints, for rates -1, 0, 1, 2, steps up and down, small and large."""
    nodes = [0.0, -0.4, -1.1]
    for h in (-1.3, 0.05, 0.6, 2.0):
        u = (torch.arange(20_000, dtype=torch.float64) + 0.5) * h / 20_000
        for rate in (-1.0, 0.0, 1.0, 2.0):
            weight = rate * torch.exp(-rate * (h - u)) if rate else torch.ones_like(u)
            found = interpolation_weights(h, nodes, rate)
            for power in range(3):
                exact = (weight * u**power).sum().item() * h / 20_000
                assert sum(w * n**power for w, n in zip(found, nodes, strict=True)) == pytest.approx(exact, abs=1e-7)


def test_cosine_weights_integrate_lines_exactly():
    """Against 20,000 midpoints: the integral of cos over the step, and of the angle times cos, up and down."""
    for start, end, other in ((1.5, 0.7, 1.55), (0.4, 0.01, 0.9), (0.2, 0.5, 0.1)):
        theta = start + (torch.arange(20_000, dtype=torch.float64) + 0.5) * (end - start) / 20_000
        area = lambda values: values.sum().item() * (end - start) / 20_000  # noqa: B023, E731
        assert sum(cosine_weights(start, end, [start])) == pytest.approx(area(theta.cos()), abs=1e-9)
        first, second = cosine_weights(start, end, [start, other])
        assert first + second == pytest.approx(area(theta.cos()), abs=1e-9)
        assert first * start + second * other == pytest.approx(area(theta * theta.cos()), abs=1e-9)


@EACH
def test_a_step_does_not_depend_on_the_table_of_its_grid(noise):
    """Steps made by hand on the schedule itself end where `reverse` ends, by every predictor that looks numbers up."""
    x, times, score = normal(4, 2), time_grid(noise, 5, start=0.9, end=0.1), CLOSE.noisy_score(noise)
    for predictor in (Heun(), DPMSolver(3), UniPC(3), EulerMaruyama(), StochasticHeun(), ChurnedHeun(4.0, 5)):
        state, memory, g = x, None, Generator().manual_seed(0)
        for t, s in zip(times, times[1:], strict=False):
            state, memory = predictor.step(score, noise, state, t, s, memory, generator=g)
        g = Generator().manual_seed(0)
        close(reverse(score, noise, x, times=times, predictor=predictor, generator=g).x, state)


def test_unipc_keeps_what_a_hook_did():
    r"""A copy changes nothing; for data at one point a shift arrives as $\sigma_s/\sigma_t$ of itself."""
    noise, x, times, score = VP(), normal(4, 2), [0.9, 0.7, 0.5, 0.3, 0.1], gaussian_score(VP(), variance=0.0)

    def run(project):
        return reverse(score, noise, x, times=times, predictor=UniPC(3), project=project, path=True).path

    plain, shift = run(None), 1e-3 * normal(4, 2, seed=1)
    close(run(lambda x, t: x.clone()), plain)
    moved = run(lambda x, t: x + shift if t == 0.5 else x)
    close(moved[:2], plain[:2])
    for k, t in ((2, 0.5), (3, 0.3), (4, 0.1)):
        close(moved[k] - plain[k], shift * noise.sigma(at(t)) / noise.sigma(at(0.5)))


@EACH
@pytest.mark.parametrize("tolerance", [1e-4, 1e-7])
def test_the_adaptive_flow_meets_its_tolerance(noise, tolerance):
    """From t_max to t_min the closed form of a Gaussian is met within 30 tolerances, and calls are counted."""
    x = 2 * normal(5, 3)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = levels_of(noise, noise.t_max), levels_of(noise, noise.t_min)
    scale = math.sqrt((alpha_s**2 * VARIANCE + sigma_s**2) / (alpha_t**2 * VARIANCE + sigma_t**2))
    exact = alpha_s * MEAN + scale * (x - alpha_t * MEAN)
    predictor = AdaptiveODE(rtol=tolerance, atol=tolerance)
    found = reverse(gaussian_score(noise), noise, x, times=[noise.t_max, noise.t_min], predictor=predictor)
    assert (found.x - exact).abs().max() < 30 * tolerance * exact.abs().max()
    assert found.evaluations % 6 == 1 and found.evaluations > 30


def test_the_adaptive_sde_ends_in_the_law_and_a_sample_does_not_know_its_batch():
    """Variance of 4,000 samples within 5 % and 4 s.e.; sample 2 alone equals itself among six."""
    noise, score = VP(), gaussian_score(VP())
    predictor = AdaptiveSDE(atol=0.004)
    found = reverse(
        score, noise, normal(4000, 1), times=[1.0, 1e-3], predictor=predictor, generator=Generator().manual_seed(1)
    )
    alpha, sigma = levels_of(noise, 1e-3)
    expected = alpha**2 * VARIANCE + sigma**2
    assert abs(found.x.var().item() / expected - 1) < 0.05 + 4 * math.sqrt(2 / 4000)
    x = normal(6, 2)
    rows = [
        reverse(score, noise, x[i], times=[1.0, 0.1], predictor=predictor, generator=PerSample(0, i)).x
        for i in ([0, 1, 2, 3, 4, 5], [2])
    ]
    close(rows[0][2], rows[1][0], 1e-12)


@EACH
def test_grids_are_even_in_what_they_are_named_after(noise):
    """Ends are exact, times decrease, and the named function of time has equal steps."""
    ratio = lambda t: noise.sigma(t) / noise.alpha(t)  # noqa: E731
    even = {
        "time": lambda t: t,
        "log-sigma": lambda t: noise.sigma(t).log(),
        "log-snr": lambda t: ratio(t).log(),
        "rho": lambda t: ratio(t) ** (1 / 7),
        "angle": lambda t: ratio(t).atan(),
        "root-angle": lambda t: ((6 * ratio(t)) ** 0.4).atan(),
        "band": lambda t: ((ratio(t) + 1 / 20) / (ratio(t) + 20)).log(),
    }
    for spacing, function in even.items():
        times = time_grid(noise, 12, spacing=spacing)
        assert (times[0], times[-1], len(times)) == (noise.t_max, noise.t_min, 13)
        steps = function(times).diff()
        close(steps, steps.mean().expand(12), 1e-6)
    close(time_grid(noise, 12, spacing="rho"), noise.rho_times(12), 1e-9)
    for predictor, name in ((None, "root-angle"), (UniPC(), "root-angle"), (Heun(), "band")):
        close(time_grid(noise, 7, predictor), time_grid(noise, 7, spacing=name), 0)
    close(time_grid(noise, 7, Heun(), spacing="time"), noise.times(7), 1e-12)
    custom = time_grid(noise, 4, spacing=lambda t: t**3, start=0.8, end=0.1)
    close(custom**3, torch.linspace(0.512, 0.001, 5, dtype=torch.float64), 1e-9)


def test_bad_grids_are_refused():
    """Unknown spacings, ends out of order, functions that fall."""
    with pytest.raises(ValueError, match="spacing must be one of .*; got 'log-snrs'; did you mean 'log-snr'"):
        time_grid(VP(), 5, spacing="log-snrs")
    with pytest.raises(ValueError, match="times must decrease within"):
        time_grid(VP(), 5, start=0.1, end=0.4)
    with pytest.raises(ValueError, match="spacing must increase with t"):
        time_grid(VP(), 5, spacing=lambda t: -t)
    with pytest.raises(ValueError, match="predictors must be deterministic ones"):
        fit_solver(lambda x, t: -x, VP(), normal(4, 2), 8, predictors=[Ancestral()])


def test_a_fitted_solver_errs_less_on_fresh_samples_than_any_first_grid():
    """On a mixture under Cosine with 10 calls: at most 0.6 of the default's error, with the error it measured."""
    noise, score = Cosine(), CLOSE.noisy_score(Cosine())
    fitted = fit_solver(score, noise, normal(24, 2, seed=5), 10, rounds=2, fine=64)
    x, default = normal(64, 2, seed=6), UniPC(3, predicts="velocity")
    exact = reverse(score, noise, x, times=time_grid(noise, 300, spacing="log-snr"), predictor=UniPC(3)).x

    def error(predictor, times):
        run = reverse(score, noise, x, times=times, predictor=predictor)
        assert run.evaluations == 10
        return (run.x - exact).square().mean().sqrt().item()

    ours = error(fitted.predictor, fitted.times)
    assert ours < 0.6 * error(default, time_grid(noise, 10))
    assert 0.3 < ours / fitted.error < 3


def test_the_search_of_a_fit_halves_the_error_of_its_first_grids():
    """On a Gaussian under VE with 8 calls, judged on fresh samples: at most half of what no rounds give."""
    noise, law = VE(0.01, 25.0), GaussianMixture([1.0], [[0.5, -0.5]], [[[0.9, 0.5], [0.5, 0.4]]])
    score, pilots, x = law.noisy_score(noise), 25 * normal(8, 2, seed=1), 25 * normal(64, 2, seed=2)
    exact = reverse(score, noise, x, times=time_grid(noise, 300, spacing="log-snr"), predictor=UniPC(3)).x
    errors = []
    for rounds in (0, 4):
        fitted = fit_solver(score, noise, pilots, 8, rounds=rounds, fine=32)
        end = reverse(score, noise, x, times=fitted.times, predictor=fitted.predictor)
        errors.append((end.x - exact).square().mean().sqrt().item())
    assert errors[1] < errors[0] / 2


@EACH
@pytest.mark.parametrize("predictor", [Heun(), DPMSolver(2), UniPC(2)], ids=str)
def test_encode_and_reverse_return_with_the_order_of_the_predictor(noise, predictor):
    """There and back from t = 0.2 to 0.8: the error falls by 2^order within 0.4 of the exponent."""
    x, score, gaps = (
        CLOSE.blurred(noise, 0.2).sample((6,), generator=Generator().manual_seed(0)),
        CLOSE.noisy_score(noise),
        [],
    )
    for n in (64, 128):
        times = torch.linspace(0.8, 0.2, n + 1, dtype=torch.float64)
        latent = encode(score, noise, x, times=times, predictor=predictor)
        gaps.append((reverse(score, noise, latent.x, times=times, predictor=predictor).x - x).abs().max().item())
    assert math.log2(gaps[0] / gaps[1]) > predictor.order - 0.4


def test_encode_refuses_noise():
    """A stochastic predictor cannot run upwards."""
    for predictor in (EulerMaruyama(), DDIM(0.5)):
        with pytest.raises(ValueError, match="encode needs a deterministic predictor"):
            encode(lambda x, t: -x, VP(), normal(2, 2), times=[0.9, 0.1], predictor=predictor)


def test_path_keeps_what_was_asked_for():
    """Every k-th state from the first, or those at given times; others are refused."""
    noise, x, times = VP(), normal(3, 2), [0.9, 0.7, 0.5, 0.3, 0.1]
    run = lambda path: reverse(lambda x, t: -x, noise, x, times=times, predictor=Euler(), path=path)  # noqa: E731
    whole = run(True).path
    close(run(2).path, whole[[0, 2, 4]])
    close(run([0.7, 0.1]).path, whole[[1, 4]])
    with pytest.raises(ValueError, match="path must be times of the grid, got \\[0.6\\]"):
        run([0.6])


@pytest.mark.parametrize("predictor", [Euler(), UniPC(3), AdaptiveODE(), AdaptiveSDE()], ids=lambda p: type(p).__name__)
def test_a_sample_that_breaks_is_named_and_the_others_go_on(predictor):
    """Sample 1 of 3 breaks below t = 0.6: the error says so and carries the others; a report returns them."""

    def score(x, t):
        bad = (torch.arange(len(x)) == 1)[:, None] & (t.reshape(-1, 1) < 0.6)
        return torch.where(bad, math.nan, -x)

    def run(rows, **options):
        times = [0.9, 0.7, 0.5, 0.3]
        g = PerSample(0, rows)
        return reverse(score, VP(), normal(3, 2)[: len(rows)], times=times, predictor=predictor, generator=g, **options)

    with pytest.raises(NonFinite, match=r"1 of 3 samples are not finite: sample 1 first, at step \d \(t = ") as caught:
        run([0, 1, 2])
    found = run([0, 1, 2], nonfinite="report")
    assert found.info["broke"].tolist()[0::2] == [-1, -1] and found.info["broke"][1] in (2, 3)
    assert found.x[[0, 2]].isfinite().all() and not found.x[1].isfinite().all()
    close(caught.value.samples.x[[0, 2]], found.x[[0, 2]])


def test_no_samples_are_carried_too():
    """A batch of none comes back as none, by every predictor."""
    for predictor in (Euler(), Heun(), UniPC(3), DPMSolver(3), Ancestral(), AdaptiveODE(), AdaptiveSDE()):
        found = reverse(lambda x, t: -x, VP(), normal(0, 2), times=[0.9, 0.5, 0.1], predictor=predictor)
        assert found.x.shape == (0, 2)


def test_the_signal_to_noise_step_is_the_papers_for_each_sample_alone():
    r"""$h = 2(r\|z\|/\|s\|)^2$ by hand, sample by sample; a neighbour a thousand times as large changes nothing."""
    x, z = normal(4, 3), normal(4, 3, seed=1)
    moved, info = SignalToNoise(0.2).step(lambda x, t: -2 * x, VP(), x, at(0.5), generator=Fixed(z))
    for i in range(4):
        h = 2 * (0.2 * z[i].norm() / (2 * x[i]).norm()) ** 2
        close(moved[i], x[i] - h * 2 * x[i] + (2 * h).sqrt() * z[i])
        close(info["step_size"][i], h)
    x = x * torch.tensor([1.0, 1000.0, 1.0, 1.0])[:, None].double()
    again, _ = SignalToNoise(0.2).step(lambda x, t: -2 * x, VP(), x, at(0.5), generator=Fixed(z))
    close(again[[0, 2, 3]], moved[[0, 2, 3]])


def test_a_level_kernel_scales_its_step_with_the_level_and_leaves_the_law():
    r"""Langevin moves by $h\sigma_t^2$; MALA on the blurred density keeps the variance of exact draws."""
    noise, t, z = VE(0.1, 10.0), at(0.5), normal(4, 2, seed=1)
    x, score = normal(4, 2), LAW.noisy_score(VE(0.1, 10.0))
    moved, _ = LevelKernel(Langevin(0.3)).step(score, noise, x, t, generator=Fixed(z))
    h = 0.3 * noise.sigma(t).item() ** 2
    close(moved, x + h * score(x, t) + math.sqrt(2 * h) * z)
    law = LAW.blurred(noise, 0.5)
    draws, g = law.sample((4000,), generator=Generator().manual_seed(0)), Generator().manual_seed(1)
    for _ in range(10):
        draws, info = LevelKernel(MALA(0.5)).step(score, noise, draws, t, generator=g)
    exact = law.covariance.diagonal()
    assert ((draws.var(0) - exact).abs() < 4.5 * exact * math.sqrt(2 / 4000)).all()
    with pytest.raises(TypeError, match="kernel must be a dataclass with a step_size, got str"):
        LevelKernel("mala")


@EACH
def test_consistent_sampling_of_a_point_keeps_every_level(noise):
    r"""For data at one point the spread on arrival is $\sigma_s$ exactly, by the state's weight and the draw's."""
    score, t, s = gaussian_score(noise, variance=0.0), at(0.5), at(0.45)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = levels_of(noise, 0.5), levels_of(noise, 0.45)
    x, ones, none = (
        torch.full((1, 1), alpha_t * MEAN + sigma_t, dtype=torch.float64),
        torch.ones(1, 1),
        torch.zeros(1, 1),
    )
    drift, spread = (
        (Consistent(0.6).step(score, noise, x, t, s, generator=Fixed(z))[0] - alpha_s * MEAN).item()
        for z in (none, ones)
    )
    assert drift**2 + (spread - drift) ** 2 == pytest.approx(sigma_s**2, rel=1e-9)
    with pytest.raises(ValueError, match=r"eta must be >= .* add levels"):
        Consistent(1e-6).step(score, noise, x, t, at(0.05))
    found = consistent_annealed(score, noise, x, eta=0.7, steps_per_level=8, generator=Generator().manual_seed(0))
    assert found.evaluations == 72


def test_bad_settings_are_refused():
    """Degrees, names, tolerances and settings of churn out of range."""
    for make, words in [
        (lambda: DPMSolver(4), "degree must be <= 3, got 4"),
        (lambda: DPMSolver(3, "euler"), "start must be one of matched, published"),
        (lambda: UniPC(2, "B3"), "variant must be one of exact, B1, B2"),
        (lambda: UniPC(2, predicts="score"), "predicts must be one of data, noise, velocity"),
        (lambda: SDEDPMSolver(3), "degree must be <= 2, got 3"),
        (lambda: SDEDPMSolver(2, "noise"), "predicts must be one of data, velocity"),
        (lambda: DDIM(1.5), "eta must lie in"),
        (lambda: DDPM("middle"), "variance must be one of large, small"),
        (lambda: ChurnedHeun(1.0, 5, 2.0, 1.0), "s_min must be <= s_max"),
        (lambda: AdaptiveODE(atol=0.0), "atol must be a finite number > 0"),
        (lambda: SignalToNoise(-0.1), "ratio must be a finite number > 0"),
        (lambda: Consistent(1.2), "eta must be <= 1"),
    ]:
        with pytest.raises(ValueError, match=words):
            make()
