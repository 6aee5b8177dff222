"""Bayes' rule, classifiers and sums of scores: exact where they are said to be, seen not to be elsewhere."""

import math

import pytest
import torch
from exact_posterior import A2, NOISES, TWO, Y2, exact_posterior

from scorefield.densities import GaussianMixture
from scorefield.guidance import bayes, classifier, mixture, plug_in, product
from scorefield.likelihood import log_likelihood
from scorefield.noise import VE, VP
from scorefield.samplers import MALA, Euler, LevelKernel, reverse, time_grid

ONE, OTHER = (
    GaussianMixture([1.0], [m], [c])
    for m, c in (([-1.0, 0.5], [[1.0, 0.3], [0.3, 0.7]]), ([1.0, 0.0], [[0.6, -0.2], [-0.2, 1.5]]))
)


def points(n: int = 60) -> torch.Tensor:
    return 2 * torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def evidence(noise):
    """log p(y | x_t) of `TWO` and A2: the posterior's blurred density times p(y), over the prior's."""
    law, log_y = exact_posterior(TWO, A2, Y2, 0.4)
    after, before = law.noisy_score(noise), TWO.noisy_score(noise)
    return lambda x, t: after.log_density(x, t) + log_y - before.log_density(x, t)


@pytest.mark.parametrize("noise", NOISES, ids=lambda n: type(n).__name__)
@pytest.mark.parametrize("t", [0.05, 0.5, 1.0])
def test_bayes_rule_gives_the_posterior_at_every_level(noise, t):
    """With the exact p(y | x_t) of a mixture: score and log-density to 1e-9."""
    law, log_y = exact_posterior(TWO, A2, Y2, 0.4)
    guided, exact = bayes(TWO.noisy_score(noise), evidence(noise)), law.noisy_score(noise)
    x, at = points(), torch.full((60,), t, dtype=torch.float64)
    torch.testing.assert_close(guided(x, at), exact(x, at), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(guided.log_density(x, at), exact.log_density(x, at) + log_y, rtol=1e-9, atol=1e-9)


def test_a_guided_score_has_a_likelihood():
    """Its divergence sees the guidance too, exactly and by probes: log p(x | y) within 2e-3 nats, or 4 s.e."""
    noise = VP()
    law, _ = exact_posterior(TWO, A2, Y2, 0.4)
    guided = bayes(TWO.noisy_score(noise), evidence(noise))
    x = law.sample((6,), generator=torch.Generator().manual_seed(1))
    found = log_likelihood(guided, noise, x, rtol=1e-6)
    torch.testing.assert_close(found.nats, law.log_density(x), rtol=0, atol=2e-3)
    probed = log_likelihood(
        guided, noise, x, rtol=1e-5, method="hutchinson", probes=16, generator=torch.Generator().manual_seed(2)
    )
    assert ((probed.nats - law.log_density(x)).abs() < 4 * probed.probe_se + 2e-3).all()


@pytest.mark.parametrize("noise", [VE(0.01, 20.0), VP()], ids=["VE", "VP"])
@pytest.mark.parametrize("t", [0.05, 0.5, 1.0])
def test_a_perfect_classifier_turns_the_mixture_into_its_component(noise, t):
    """Logits log w_k p_k(x, t): 1 is the component's score exactly, 0 the prior's, 3 the difference thrice."""
    parts = [GaussianMixture([1.0], m[None], c[None]) for m, c in zip(TWO.means, TWO.covariances, strict=True)]
    scores, prior = [p.noisy_score(noise) for p in parts], TWO.noisy_score(noise)

    def network(x, t):
        return torch.stack([w.log() + s.log_density(x, t) for w, s in zip(TWO.weights, scores, strict=True)], 1) + 7.0

    x, at = points(), torch.tensor(t, dtype=torch.float64)
    y = torch.arange(60) % 2
    wanted = torch.where(y[:, None] == 1, scores[1](x, at), scores[0](x, at))
    torch.testing.assert_close(classifier(prior, network, y)(x, at), wanted, rtol=1e-8, atol=1e-8)
    assert torch.equal(classifier(prior, network, y, scale=0.0)(x, at), prior(x, at))
    three = classifier(prior, network, y, scale=3.0)(x, at)
    torch.testing.assert_close(three, prior(x, at) + 3 * (wanted - prior(x, at)), rtol=1e-8, atol=1e-8)
    with pytest.raises(ValueError, match="y must hold classes 0 to 1, got 0 to 2"):
        classifier(prior, network, torch.arange(60) % 3)(x, at)
    with pytest.raises(ValueError, match=r"y must have shape \(60,\)"):
        classifier(prior, network, y[:5])(x, at)


@pytest.mark.parametrize("scale", [-0.1, math.inf, math.nan])
def test_scales_that_are_none_are_refused(scale):
    """Not finite or below zero."""
    with pytest.raises(ValueError, match="scale must be a finite number >= 0"):
        classifier(TWO.noisy_score(VP()), lambda x, t: x, torch.zeros(3, dtype=torch.long), scale)


def test_plugging_tweedies_mean_in_is_dps_for_a_linear_observation():
    """The same value and gradient, at once; without gradients it is no score."""
    from scorefield.guidance import posterior

    noise, t, x = VP(), torch.tensor(0.4, dtype=torch.float64), points()
    prior = TWO.noisy_score(noise)
    plugged = plug_in(prior, noise, lambda x: -((Y2 - x @ A2.T) ** 2).sum(1) / (2 * 0.16))
    dps = posterior(prior, noise, A2, Y2, sigma=0.4, method="dps")
    for ours, theirs in zip(plugged.parts(x, t), dps.parts(x, t), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(plugged(x, t), dps(x, t), rtol=1e-9, atol=1e-9)
    silent = plug_in(prior, noise, lambda x: (x.sum(1) > 0).double(), gradients=False)
    assert (silent.parts(x, t)[2] == 0).all()
    with pytest.raises(RuntimeError, match="is no score"):
        silent(x, t)


@pytest.mark.parametrize("noise", NOISES, ids=lambda n: type(n).__name__)
def test_a_mixture_of_scores_is_exact_at_every_level(noise):
    """Two of three components apart: the mixture's own blurred score and log-density."""
    scores = [ONE.noisy_score(noise), OTHER.noisy_score(noise)]
    whole = GaussianMixture(
        [0.25, 0.75], torch.cat([ONE.means, OTHER.means]), torch.cat([ONE.covariances, OTHER.covariances])
    )
    mixed, exact = mixture(scores, [1.0, 3.0]), whole.noisy_score(noise)
    for t in (0.01, 0.4, 1.0):
        x, at = points(), torch.full((60,), t, dtype=torch.float64)
        torch.testing.assert_close(mixed(x, at), exact(x, at), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(mixed.log_density(x, at), exact.log_density(x, at), rtol=1e-9, atol=1e-9)


def of_precisions(powers):
    """The normalised ONE^a OTHER^b: precisions and their means add."""
    inverses = [torch.linalg.inv(law.covariances[0]) for law in (ONE, OTHER)]
    total = sum(w * p for w, p in zip(powers, inverses, strict=True))
    pulled = sum(w * p @ law.means[0] for w, p, law in zip(powers, inverses, (ONE, OTHER), strict=True))
    covariance = torch.linalg.inv(total)
    return GaussianMixture([1.0], (covariance @ pulled)[None], ((covariance + covariance.T) / 2)[None])


@pytest.mark.parametrize("powers", [(1.0, 1.0), (2.0, 0.5), (1.5, -0.3)])
def test_products_and_powers_are_exact_at_the_datas_end_alone(powers):
    """At sigma_t -> 0 the score of the product law; at t = 0.5 something else, even for Gaussians."""
    noise, law = VE(1e-5, 20.0), of_precisions(powers)
    made = product([ONE.noisy_score(noise), OTHER.noisy_score(noise)], powers)
    x, end, middle = points(), torch.tensor(0.0, dtype=torch.float64), torch.tensor(0.8, dtype=torch.float64)
    torch.testing.assert_close(made(x, end), law.noisy_score(noise)(x, end), rtol=1e-7, atol=1e-7)
    assert (made(x, middle) - law.noisy_score(noise)(x, middle)).abs().max() > 0.01
    gaps = made.log_density(x, end) - law.noisy_score(noise).log_density(x, end)
    assert gaps.std() < 1e-6  # up to its constant


def test_a_corrector_repairs_a_product():
    """Without it the variance is off by more than 10 %; with MALA at every level mean and variance are right, 4 s.e."""
    noise, law = VE(0.02, 10.0), of_precisions((1.0, 1.0))
    made = product([ONE.noisy_score(noise), OTHER.noisy_score(noise)])
    start = 10 / math.sqrt(2) * torch.randn(4000, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    times = time_grid(noise, 40)
    plain = reverse(made, noise, start, times=times, predictor=Euler()).x
    assert (plain.var(0) / law.covariance.diagonal() - 1).abs().max() > 0.1
    g = torch.Generator().manual_seed(4)
    how = {"corrector": LevelKernel(MALA(0.3)), "corrections": 8}
    mended = reverse(made, noise, start, times=time_grid(noise, 40), predictor=Euler(), **how, generator=g)
    many = chain_at_the_end(made, noise, mended.x, g)
    assert ((many.mean(0) - law.mean).abs() < 4 * (law.covariance.diagonal() / 4000).sqrt()).all()
    assert ((many.var(0) / law.covariance.diagonal() - 1).abs() < 4 * math.sqrt(2 / 4000)).all()


def chain_at_the_end(made, noise, x, g):
    from scorefield.fields import at
    from scorefield.samplers import chain

    return chain(MALA(0.3), at(made, 0.0), x, steps=60, generator=g).x


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda s: product([]), ValueError, "powers must be one finite number per score"),
        (lambda s: product([s], [1.0, 2.0]), ValueError, r"got \[1.0, 2.0\] for 1 scores"),
        (lambda s: product([s], [math.nan]), ValueError, "one finite number per score"),
        (lambda s: mixture([s, s], [1.0, 0.0]), ValueError, "weights must be one finite number > 0 per score"),
        (lambda s: mixture([s, lambda x, t: x], [1.0, 1.0]), TypeError, "score 1 carries no log_density"),
        (lambda s: bayes(s, lambda x, t: x)(points(), torch.tensor(0.5)), ValueError, "one number per sample"),
    ],
)
def test_sums_that_cannot_be_are_refused(make, kind, message):
    """The value, the rule, the way out."""
    with pytest.raises(kind, match=message):
        make(TWO.noisy_score(VP()))
