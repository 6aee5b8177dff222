"""The recipe of a run and its parts: the data, the networks' sizes, the trainer's settings, what was resolved."""

from __future__ import annotations

from dataclasses import dataclass, field

from scorefield.settings.names import AT_ALL_LEVELS


@dataclass(frozen=True)
class DataSettings:
    """Where the training data come from.

    Args:
        source: a file (.npy, .npz, .csv, .parquet, .zarr), images in a folder or archive, or the name of a data set.
        root: folder that holds the files of a named data set (mnist, fashion-mnist, cifar10, celeba, celeba-32).
        label_column: name of a table's column, or of celeba's attribute, that holds the labels.
        on_nonfinite: what to do with rows that hold NaN or infinity: error or drop (and count them).
        held_out: fraction of the rows kept out of training, to judge by.
        count: how many samples to draw from a toy density.
    """

    source: str
    root: str | None = None
    label_column: str | None = None
    on_nonfinite: str = "error"
    held_out: float = 0.1
    count: int = 10_000


@dataclass(frozen=True)
class MLPSize:
    """Size of the multilayer perceptron for vectors.

    Args:
        width: units per hidden layer.
        depth: number of hidden layers.
        activation: silu, tanh, softplus, gelu or sine.
    """

    width: int = 256
    depth: int = 3
    activation: str = "silu"


@dataclass(frozen=True)
class UNetSize:
    """Size of the U-Net for images.

    Args:
        width: channels at full resolution; doubled at each coarser one.
        blocks: residual blocks at each resolution, on the way down and again on the way up.
        resolutions: how many resolutions, each half the last.
        patch: side of the pixel patches folded into channels at the entrance.
    """

    width: int = 32
    blocks: int = 2
    resolutions: int = 2
    patch: int = 1


@dataclass(frozen=True)
class TrainSettings:
    """How `training.train` trains.

    Args:
        steps: number of optimiser steps.
        batch_size: samples per step, over all processes.
        learning_rate: peak learning rate of AdamW.
        betas: AdamW's decay rates of the two moments.
        weight_decay: AdamW's weight decay.
        warmup: steps over which the learning rate rises linearly, at most a tenth of all.
        decay: fraction of the steps, at the end, over which the learning rate falls linearly to zero.
        clip: largest norm of the gradient.
        ema_samples: horizon of the weights' moving average, in samples seen; shorter at the start.
        accumulate: micro-batches per step.
        precision: fp32, bf16 (mixed) or fp64.
        compile: whether to compile the network.
        devices: number of processes.
        seed: seed of the batch order and of the noise.
    """

    steps: int = 2000
    batch_size: int = 128
    learning_rate: float = 2e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    warmup: int = 50
    decay: float = 0.5
    clip: float = 1.0
    ema_samples: int = 40_000
    accumulate: int = 1
    precision: str = "fp32"
    compile: bool = False
    devices: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Recipe:
    """Train a score network or an energy; the same command resumes where it stopped.

    Args:
        data: a file (.npy, .npz, .csv, .parquet, .zarr), images in a folder or archive, or a name (digits, mnist, …).
        steps: number of optimiser steps; more than before extends a finished run (2,000 when neither is given).
        seconds: train for about this long instead: the number of steps is measured once, before step 1, and stored.
        devices: number of processes; fails if it does not get them.
        root: folder with the files of a named data set (mnist, fashion-mnist, cifar10, celeba, celeba-32).
        label_column: name of a table's column, or of celeba's attribute, that holds the labels.
        on_nonfinite: rows with NaN or infinity: error, or drop (and count them).
        held_out: fraction of rows kept out of training, to judge by.
        count: how many samples to draw from a toy density.
        model: score, a field; or energy, a log-density up to a constant, whose gradient is the score.
        objective: noise-conditional[-sliced] (all noise levels), implicit, sliced, finite-difference, denoising (one
            law), or, for energies, noise-contrastive, contrastive-divergence, persistent.
        noise: schedule: ve, vp, subvp, cosine or levels.
        sigma_min: smallest noise of ve and levels, in standard deviations of the data; chosen from the data when not
            given.
        sigma_max: their largest noise, likewise.
        levels: number of levels, of noise levels; chosen so that neighbours overlap when not given.
        sigma: noise that blurs the one law, in standard deviations of the data; none, or for denoising chosen from the
            data, when not given.
        probes: directions per sample, for sliced, finite-difference and noise-conditional-sliced.
        chain_steps: steps (MALA) of the model's own chain per step of training, for contrastive-divergence and
            persistent.
        chain_step_size: their step size h, in the variance of the data.
        antithetic: average the loss over each noise and its negative, for noise-conditional and denoising: twice the
            cost of a step, and a loss whose variance does not explode where the noise is small.
        tilt: power, from 0 to 1, of 1 + (alpha/sigma)² by which small noise counts more in the loss: at 0 the network's
            residual counts alike at every level, at 1 nearly the error of the score itself. Worth it with antithetic.
        predicts: what the network estimates: edm, score, noise, data or velocity.
        network: unet (images) or mlp (vectors); chosen from the data when not given.
        unet: size of the U-Net.
        mlp: size of the multilayer perceptron.
        batch_size: samples per step, over all processes.
        learning_rate: peak learning rate.
        ema_samples: horizon of the weights' moving average, in samples seen.
        accumulate: micro-batches per step.
        precision: auto (measured once, then stored), fp32, bf16 or fp64.
        label_dropout: fraction of labels hidden in training, so that the law without labels is learned too.
        classifier: learn p(label | noised data) at all noise levels instead of a score, to guide other runs with.
        compile: compile the network (minutes at the start; worth it for long runs on a card).
        seed: seed of the held-out rows, the initial weights, the batch order and the noise.
    """

    data: str
    steps: int | None = None
    seconds: float | None = None
    devices: int = 1
    root: str | None = None
    label_column: str | None = None
    on_nonfinite: str = "error"
    held_out: float = 0.1
    count: int = 10_000
    model: str = "score"
    objective: str = "noise-conditional"
    noise: str = "ve"
    sigma_min: float | None = None
    sigma_max: float | None = None
    levels: int | None = None
    sigma: float | None = None
    probes: int = 1
    chain_steps: int = 10
    chain_step_size: float = 0.01
    antithetic: bool = False
    tilt: float = 0.0
    predicts: str = "edm"
    network: str | None = None
    unet: UNetSize = field(default_factory=UNetSize)
    mlp: MLPSize = field(default_factory=MLPSize)
    batch_size: int = 128
    learning_rate: float = 2e-3
    ema_samples: int = 40_000
    accumulate: int = 1
    precision: str = "auto"
    label_dropout: float = 0.1
    classifier: bool = False
    compile: bool = False
    seed: int = 0

    @property
    def at_all_levels(self) -> bool:
        """Whether the law of the data is learned at every noise level of a schedule, and not as one law alone."""
        return self.objective in AT_ALL_LEVELS

    def data_settings(self) -> DataSettings:
        """The part of the recipe that says where the data come from."""
        return DataSettings(self.data, self.root, self.label_column, self.on_nonfinite, self.held_out, self.count)


@dataclass(frozen=True)
class Resolved:
    """What the recipe left open and the data and the machine decided, once, before step 1; stored beside it.

    Args:
        noise: settings of the schedule, by name; sigma alone where one law is learned.
        network: unet or mlp.
        levels: law of the noise levels trained on: log-normal in sigma/alpha, or uniform in t; one for one law.
        training: the trainer's settings.
    """

    noise: dict[str, float]
    network: str
    levels: str
    training: TrainSettings
