"""What the objectives cost and how noisy their gradients are: probes, finite differences, denoising, levels.

Run: .venv/bin/python benchmarks/objectives.py [--repeats 30] [--draws 100] [--plot docs/assets/objectives-variance.png]

Times are of loss and gradient in every parameter: processor time of one thread, what is compared in turn, the minimum.
The noise of a gradient is sqrt(E|g - Eg|^2) / |Eg| over draws of the probes or the noise, the batch and the network
fixed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from timing import best_times, machine, report
from torch import Generator, Tensor, nn

from scorefield.densities import GaussianMixture
from scorefield.fields import ScoreModel
from scorefield.networks import MLP, UNet
from scorefield.noise import VP
from scorefield.objectives import (
    denoising,
    draw_times,
    finite_difference_sliced,
    implicit,
    noise_conditional,
    sliced,
)
from scorefield.plots.style import COLOURS, DPI, FAINT, INK, dress, save
from scorefield.settings import MLPSize, UNetSize

Loss = Callable[[Generator], Tensor]
LAWS = ("rademacher", "sphere", "gaussian")
LABELS = {"rademacher": "Rademacher probes", "sphere": "probes on the sphere", "gaussian": "Gaussian probes"}
WAYS: dict[str, dict[str, bool]] = {
    "plain": {},
    "control variate": {"control_variate": True},
    "antithetic": {"antithetic": True},
    "both": {"antithetic": True, "control_variate": True},
}
SIGMAS = (0.01, 0.03, 0.1, 0.3)


class Measured(NamedTuple):
    """Seconds of loss and gradient, the relative noise of the gradient, and the standard deviation of the loss."""

    seconds: float
    noise: float
    loss: float


class Plain(nn.Module):
    """A network as the score of one law: no noise level, no labels."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """The score at x."""
        return self.network(x, torch.zeros(len(x))) if isinstance(self.network, UNet) else self.network(x)


class Structured(Plain):
    """The same, knowing its exact trace."""

    def with_divergence(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The score and its exact divergence, by the network's structure."""
        return self.network.with_trace(x)  # type: ignore[operator]


def gradient(loss: Tensor, model: nn.Module) -> Tensor:
    """Of the mean loss, all parameters in one vector."""
    found = torch.autograd.grad(loss.mean(), list(model.parameters()), materialize_grads=True, allow_unused=True)
    return torch.cat([g.flatten() for g in found])


def spread(loss: Loss, model: nn.Module, draws: int) -> tuple[Tensor, float, float]:
    """The mean gradient, the root of the trace of its covariance over the draws, and the loss's standard deviation."""
    values, rows = [], []
    for i in range(draws):
        value = loss(Generator().manual_seed(i))
        rows.append(gradient(value, model))
        values.append(value.detach().mean())
    gradients = torch.stack(rows).double()
    return gradients.mean(0), gradients.var(0).sum().sqrt().item(), torch.stack(values).double().std().item()


def measured(losses: Mapping[str, Loss], model: nn.Module, repeats: int, draws: int) -> dict[str, Measured]:
    """Time and noise of each loss; all have one mean gradient, and that of the least noisy stands for it."""
    g = Generator().manual_seed(0)
    steps = {name: lambda loss=loss: gradient(loss(g), model) for name, loss in losses.items()}
    times = best_times(steps, repeats=repeats, clock=time.process_time)
    found = {name: spread(loss, model, draws) for name, loss in losses.items()}
    size = min(found.values(), key=lambda f: f[1])[0].norm().item()
    return {name: Measured(times[name], deviation / size, value) for name, (_, deviation, value) in found.items()}


def cost_of_probes(repeats: int) -> None:
    """Five probes over one, on networks small and large."""
    cases: dict[str, tuple[nn.Module, Tensor]] = {}
    for d, depth, width, batch in ((2, 2, 128, 128), (16, 2, 128, 256), (64, 2, 128, 256), (64, 3, 256, 128)):
        cases[f"MLP {depth} x {width}, d = {d}, batch {batch}"] = MLP(d, MLPSize(width, depth)), torch.randn(batch, d)
    for width, batch in ((8, 16), (16, 64)):
        unet = UNet((1, 8, 8), UNetSize(width, 1))
        cases[f"U-Net of width {width}, 8 x 8, batch {batch}"] = unet, torch.randn(batch, 1, 8, 8)
    rows = {}
    for name, (network, x) in cases.items():
        for p in network.parameters():  # away from where it starts, at zero
            p.data += 0.05 * torch.randn_like(p)
        model = Plain(network)
        times = best_times(
            {
                f"{probes} probes": lambda probes=probes, model=model, x=x: gradient(
                    sliced(model, x, probes=probes), model
                )
                for probes in (1, 5)
            },
            repeats=repeats,
            clock=time.process_time,
        )
        one, five = times.values()
        rows[name] = f"{1e3 * one:8.2f} ms {1e3 * five:8.2f} ms {five / one:6.2f}"
    report("sliced, loss and gradient: one probe, five probes, ratio (target <= 2.2)", rows)


def data(d: int) -> GaussianMixture:
    """A mixture of four Gaussians, correlated, in d dimensions."""
    g = Generator().manual_seed(0)
    means = torch.randn(4, d, generator=g, dtype=torch.float64)
    roots = torch.randn(4, d, d, generator=g, dtype=torch.float64) * (0.6 / d**0.5)
    return GaussianMixture([0.25] * 4, means, roots @ roots.mT + 0.1 * torch.eye(d, dtype=torch.float64))


def trained(model: nn.Module, objective: Callable[[Tensor], Tensor], law: GaussianMixture, steps: int) -> None:
    """Bring the network half way to the score, so that its gradients are those of a training run."""
    optimiser, g = torch.optim.Adam(model.parameters(), lr=2e-3), Generator().manual_seed(1)
    for _ in range(steps):
        optimiser.zero_grad()
        objective(law.sample((256,), generator=g).float()).mean().backward()
        optimiser.step()


def half_trained(d: int) -> tuple[MLP, Tensor]:
    """An MLP on the way to the score of the data, and a batch of them."""
    law, network = data(d), MLP(d, MLPSize(128, 2))
    exact = Structured(network)
    trained(exact, lambda x: implicit(exact, x), law, 300)
    return network, law.sample((256,), generator=Generator().manual_seed(2)).float()


def estimators(network: MLP, x: Tensor, repeats: int, draws: int) -> dict[str, Measured]:
    """The implicit objective, exact by structure and by derivatives, and every estimate of it."""
    exact, model, law = Structured(network), Plain(network), data(x.shape[1])
    losses: dict[str, Loss] = {
        "exact, by structure": lambda g: implicit(exact, x),
        "exact, by derivatives": lambda g: implicit(model, x),
    }
    for kind in LAWS:
        for form, reduced in (("variance-reduced", True), ("plain", False)):
            for probes in (1, 2, 5, 10):
                losses[f"sliced, {form}, {kind}, {probes}"] = lambda g, given=(kind, probes, reduced): sliced(
                    model, x, law=given[0], probes=given[1], variance_reduced=given[2], generator=g
                )
    for probes in (3, 6, 12, 24):
        losses[f"Hutch++, {probes}"] = lambda g, probes=probes: implicit(
            model, x, method="hutch++", probes=probes, generator=g
        )
    for form, reduced in (("variance-reduced", True), ("plain", False)):
        for probes in (1, 2, 5):
            losses[f"finite differences, {form}, {probes}"] = lambda g, given=(probes, reduced): (
                finite_difference_sliced(model, x, step=0.05, probes=given[0], variance_reduced=given[1], generator=g)
            )
    found = measured(losses, network, repeats, draws)
    size = spread(losses["exact, by structure"], network, 2)[0].norm().item()
    _, deviation, value = spread(lambda g: implicit(exact, law.sample((256,), generator=g).float()), network, draws)
    return found | {"another batch of data": Measured(float("nan"), deviation / size, value)}


def techniques(network: MLP, x: Tensor, repeats: int, draws: int) -> dict[float, dict[str, Measured]]:
    """Denoising at several sigma, plain and in each way to less variance."""
    model, out = Plain(network), {}
    for sigma in SIGMAS:
        losses: dict[str, Loss] = {
            name: lambda g, way=way, sigma=sigma: denoising(model, x, sigma=sigma, **way, generator=g)
            for name, way in WAYS.items()
        }
        out[sigma] = measured(losses, network, repeats, draws)
    return out


def levels(d: int, repeats: int, draws: int) -> None:
    """All levels together: by how times are drawn and by what is done at each."""
    law, noise = data(d), VP()
    model = ScoreModel(MLP(d, MLPSize(128, 2)), noise)
    trained(model, lambda x: noise_conditional(model, x, noise=noise), law, 300)
    x = law.sample((256,), generator=Generator().manual_seed(2)).float()
    ways: dict[str, dict] = {
        "uniform": {},
        "stratified": {"times": "stratified"},
        "importance, data_scale = 1": {"times": "importance", "data_scale": 1.0},
        "control variate": {"control_variate": True},
        "antithetic": {"antithetic": True},
        "antithetic, importance, data_scale = 1": {"antithetic": True, "times": "importance", "data_scale": 1.0},
    }
    losses: dict[str, Loss] = {
        name: lambda g, way=way: noise_conditional(model, x, noise=noise, **way, generator=g)
        for name, way in ways.items()
    }
    found = measured(losses, model, repeats, draws)
    report(f"noise_conditional under VP, weight sigma2, d = {d}, batch 256", against(found, "uniform"))

    given = {"noise": noise, "weight": "likelihood"}
    ways = {
        "importance": {"times": "importance"},
        "importance, data_scale = 1": {"times": "importance", "data_scale": 1.0},
        "antithetic, importance": {"antithetic": True, "times": "importance"},
    }
    squares = {}
    for name, way in ways.items():
        rows = []
        for i in range(10 * draws):
            point = x[i % len(x)][None]
            size = gradient(
                noise_conditional(model, point, **given, **way, generator=Generator().manual_seed(i)), model
            )
            scale = way.get("data_scale")
            _, factor = draw_times(
                noise, point, "importance", weight="likelihood", data_scale=scale, generator=Generator().manual_seed(i)
            )
            rows.append((size.square().sum().item(), 1 / factor.item()))
        squares[name] = torch.tensor(rows, dtype=torch.float64)
    found_squares = {"uniform": squares["importance"].prod(1).mean().item()}  # |g|^2 weighed back to uniform times
    found_squares |= {name: rows[:, 0].mean().item() for name, rows in squares.items()}
    report(
        f"noise_conditional under VP, weight likelihood, d = {d}: mean square of one sample's gradient",
        {
            name: f"{square:10.4g}, uniform's / {found_squares['uniform'] / square:9.1f}"
            for name, square in found_squares.items()
        },
    )


def against(found: Mapping[str, Measured], base: str) -> dict[str, str]:
    """Rows of a table: by what the variance falls, and what it costs."""
    one = found[base]
    return {
        name: f"gradient noise {m.noise:9.3f}, variance / {(one.noise / m.noise) ** 2:9.2f}   "
        f"loss's variance / {(one.loss / m.loss) ** 2:9.2f}   time {m.seconds / one.seconds:5.2f}"
        for name, m in found.items()
    }


def picture(found: Mapping[str, Measured], by_sigma: Mapping[float, Mapping[str, Measured]]) -> Figure:
    """Noise against time: estimates of the implicit objective, and denoising."""
    figure = Figure(figsize=(9.4, 4.5), dpi=DPI, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, gridspec_kw={"width_ratios": (1.7, 1)})
    groups: dict[str, list[tuple[str, Measured]]] = {}
    for name, point in found.items():
        group, _, probes = name.rpartition(", ")
        if probes.isdigit():
            groups.setdefault(group, []).append((probes, point))
    kinds = dict(zip((*LAWS, "Hutch++", "finite differences"), COLOURS, strict=False))
    for group, points in groups.items():
        kind, plain = next(k for k in kinds if k in group), "plain" in group
        left.plot(
            [1e3 * m.seconds for _, m in points],
            [m.noise for _, m in points],
            color=kinds[kind],
            linestyle=(0, (4, 2)) if plain else "-",
            linewidth=1.2,
            marker={"Hutch++": "s", "finite differences": "D"}.get(kind, "o"),
            markersize=4,
            markerfacecolor="white" if plain else kinds[kind],
            label=None if plain else LABELS.get(kind, kind),
        )
    for group in ("sliced, variance-reduced, rademacher", "sliced, plain, rademacher"):
        for probes, m in groups[group]:
            word = {"1": "1 probe", "10": "10 probes"}.get(probes, probes)
            note(left, word, m, (2, 8) if probes == "1" else (0, -13), ha="center")
    for name in ("exact, by structure", "exact, by derivatives"):
        at = 1e3 * found[name].seconds
        left.axvline(at, color=FAINT, linewidth=0.9, zorder=0)
        how = {"rotation": 90, "ha": "right", "va": "top", "fontsize": 7.5, "color": INK}
        left.text(at / 1.02, 0.98, f"{name}: no noise", transform=left.get_xaxis_transform(), **how)
    note(left, "plain: dashed", groups["sliced, plain, rademacher"][2][1], (0, 24), ha="center")
    note(left, "variance-reduced: solid", groups["sliced, variance-reduced, rademacher"][2][1], (-30, -26), ha="center")
    batch = found["another batch of data"].noise
    for axes in (left, right):
        axes.axhline(batch, color=FAINT, linewidth=0.9, linestyle=":", zorder=0)
        axes.set(yscale="log", xlabel="milliseconds of loss and gradient")
    longest = found["exact, by derivatives"].seconds
    left.set(xscale="log", xlim=(1e3 * found["exact, by structure"].seconds / 1.35, 1e3 * longest * 1.1))
    left.set_xticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
    left.set_xlim(1e3 * found["exact, by structure"].seconds / 1.35, 1e3 * longest * 1.1)
    left.minorticks_on()
    left.xaxis.set_minor_formatter(NullFormatter())
    left.set_yticks([0.1, 1, 10], ["0.1", "1", "10"])
    note(left, "noise of the batch itself", Measured(longest, batch, 0), (-8, 3), ha="right")
    left.set_ylabel("noise of the gradient, relative to its size")
    marks = {"plain": ("o", 5, "full"), "control variate": ("D", 7, "none"), "antithetic": ("s", 4, "full")}
    best = {way: min(measures[way].seconds for measures in by_sigma.values()) for way in marks}  # whatever sigma
    for sigma, measures in by_sigma.items():
        pair = [measures[way]._replace(seconds=best[way]) for way in ("plain", "antithetic")]
        right.plot([1e3 * m.seconds for m in pair], [m.noise for m in pair], color=FAINT, linewidth=0.6, zorder=1)
        note(right, f"σ = {sigma:g}", pair[0], (-7, 0), ha="right", va="center")
    for (way, (mark, size, fill)), colour in zip(marks.items(), COLOURS, strict=False):
        noise = [measures[way].noise for measures in by_sigma.values()]
        at = [1e3 * best[way]] * len(noise)
        right.plot(at, noise, mark, color=colour, markersize=size, fillstyle=fill, label=way)
    right.set_xlim(0, 1.25 * right.get_xlim()[1])
    dress(left, "The data's own law: estimates of the implicit objective")
    dress(right, "The blurred law: denoising")
    for axes in (left, right):
        axes.legend(
            frameon=False,
            fontsize=7.5,
            labelcolor=INK,
            handlelength=1.6,
            loc="upper right" if axes is right else (0.42, 0.76),
        )
    return figure


def note(axes: Axes, text: str, at: Measured, shift: tuple[float, float], **how: str | float) -> None:
    """A word beside a point."""
    axes.annotate(
        text,
        (1e3 * at.seconds, at.noise),
        shift,
        textcoords="offset points",
        fontsize=7.5,
        color=INK,
        **how,  # type: ignore[arg-type]
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--plot", default=None, help="file for the picture of noise against time")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(machine())
    cost_of_probes(options.repeats)
    torch.manual_seed(1)  # whatever the repeats above drew
    network, x = half_trained(32)
    found = estimators(network, x, options.repeats, options.draws)
    rows = {name: f"{1e3 * m.seconds:8.2f} ms   gradient noise {m.noise:7.3f}" for name, m in found.items()}
    report("the implicit objective, MLP 2 x 128, d = 32, batch 256", rows)
    by_sigma = techniques(network, x, options.repeats, options.draws)
    for sigma, ways in by_sigma.items():
        report(f"denoising at sigma = {sigma}, same network (target at 0.01: variance / 5)", against(ways, "plain"))
    levels(32, options.repeats, options.draws)
    if options.plot:
        print(f"\npicture -> {save(picture(found, by_sigma), options.plot)}")


if __name__ == "__main__":
    main()
