"""Every command's options and the recipe of a run, as frozen dataclasses without torch, so that --help is instant."""

from __future__ import annotations

from dataclasses import dataclass, field

NOISES = ("ve", "vp", "subvp", "cosine", "levels")
NETWORKS = ("unet", "mlp")
PRECISIONS = ("fp32", "bf16", "fp64")
MODELS = ("score", "energy")
AT_ALL_LEVELS = ("noise-conditional", "noise-conditional-sliced")
CONTRASTIVE = ("noise-contrastive", "contrastive-divergence", "persistent")
OBJECTIVES = (*AT_ALL_LEVELS, "implicit", "sliced", "finite-difference", "denoising", *CONTRASTIVE)
KERNELS = ("langevin", "underdamped", "mala", "hmc")
FLOWS = ("heun", "euler", "unipc", "dpm-solver", "ddim", "adaptive-ode")
DIFFUSIONS = (
    *("ddpm", "ancestral", "churned-heun", "sde-dpm-solver", "stochastic-heun", "euler-maruyama"),
    *("predictor-corrector", "adaptive-sde", "annealed-langevin"),
)
FAMILIES = (
    *("gaussian", "truncated-gaussian", "exponential", "gamma", "quartic", "graphical", "non-negative-graphical"),
    *("von-mises-fisher", "bingham", "simplex", "boltzmann"),
)
SAMPLERS = (*FLOWS, *DIFFUSIONS, *KERNELS)


@dataclass(frozen=True)
class DataSettings:
    """Where the training data come from.

    Args:
        source: a file (.npy, .npz, .csv), a folder of images, or the name of a bundled or toy data set.
        root: folder that holds the files of a named data set (mnist, fashion-mnist).
        label_column: name of the .csv column that holds the labels.
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
        data: a file (.npy, .npz, .csv), a folder of images, or a name (digits, mnist, fashion-mnist, two-moons, …).
        steps: number of optimiser steps; more than before extends a finished run (2,000 when neither is given).
        seconds: train for about this long instead: the number of steps is measured once, before step 1, and stored.
        devices: number of processes; fails if it does not get them.
        root: folder with the files of a named data set (mnist, fashion-mnist).
        label_column: name of the .csv column that holds the labels.
        on_nonfinite: rows with NaN or infinity: error, or drop (and count them).
        held_out: fraction of rows kept out of training, to judge by.
        count: how many samples to draw from a toy density.
        model: score, a field; or energy, a log-density up to a constant, whose gradient is the score.
        objective: noise-conditional[-sliced] (all noise levels), implicit, sliced, finite-difference, denoising (one
            law), or, for energies, noise-contrastive, contrastive-divergence, persistent.
        noise: schedule: ve, vp, subvp, cosine or levels; the ends of ve and levels are chosen from the data.
        sigma: noise that blurs the one law, in standard deviations of the data; none, or for denoising chosen from the
            data, when not given.
        probes: directions per sample, for sliced, finite-difference and noise-conditional-sliced.
        chain_steps: steps (MALA) of the model's own chain per step of training, for contrastive-divergence and
            persistent.
        chain_step_size: their step size h, in the variance of the data.
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
    sigma: float | None = None
    probes: int = 1
    chain_steps: int = 10
    chain_step_size: float = 0.01
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


@dataclass(frozen=True)
class TrainOptions:
    """Options of `train` that are not part of the recipe.

    Args:
        output: run folder (-o); runs/NAME-OF-DATA when not given.
        checkpoint_seconds: time between checkpoints.
    """

    output: str | None = None
    checkpoint_seconds: float = 10.0


@dataclass(frozen=True)
class SampleOptions:
    """Draw samples from a trained run, in the units of its data.

    Args:
        run: run folder written by `scorefield train`.
        count: how many samples (-n).
        output: .npz file to write (-o); RUN/samples/… when not given.
        label: the class to draw; classes are drawn by their frequency when not given.
        guidance: scale w of classifier-free guidance: 0 ignores the label, 1 is conditional (when not given), more
            sharpens.
        seed: the same seed gives the same samples, whatever the batch size or the number of devices.
        sampler: heun (when not given), euler, unipc, dpm-solver, ddim, adaptive-ode; with noise on the way ddpm,
            ancestral, churned-heun, sde-dpm-solver, stochastic-heun, euler-maruyama, predictor-corrector,
            adaptive-sde, annealed-langevin; for a run that learned one law langevin (when not given), underdamped,
            mala, hmc.
        steps: steps of the sampler; for annealed-langevin steps per level, computed when not given.
        step_size: of langevin, underdamped, mala or hmc, for scaled data; chosen from the score when not given.
        epsilon: of annealed-langevin (convention of 2020); computed when not given.
        devices: number of processes; fails if it does not get them.
    """

    run: str
    count: int = 64
    output: str | None = None
    label: str | None = None
    guidance: float | None = None
    seed: int = 0
    sampler: str | None = None
    steps: int | None = None
    step_size: float | None = None
    epsilon: float | None = None
    devices: int = 1


@dataclass(frozen=True)
class LikelihoodOptions:
    """Log-densities of data under a trained run, in nats and in the units of the data, each with its errors.

    Args:
        run: run folder written by `scorefield train`.
        data: a file (.npy, .npz, .csv), a folder of images, a name, or held-out: the rows the run kept out of training.
        output: .npz or .csv file to write, one entry per row (-o).
        root: folder with the files of a named data set (mnist, fashion-mnist).
        label_column: name of the .csv column that holds labels, which is left out.
        label: the class whose law is meant; the law of all classes when not given.
        count: how many rows at most, evenly spaced (-n); all when not given.
        method: exact, or hutchinson (random probes); exact for vectors and hutchinson for images when not given.
        probes: of hutchinson.
        rtol: tolerance of the flow's steps.
        bin_width: spacing of data that lie on a grid, such as 1 for whole numbers: they are dequantised uniformly, and
            bits per dimension are told.
        particles: of the annealed importance sampling that finds log Z, for an energy of one law.
        seed: of probes, dequantisation and particles.
        json: print JSON instead of a table.
    """

    run: str
    data: str
    output: str | None = None
    root: str | None = None
    label_column: str | None = None
    label: str | None = None
    count: int | None = None
    method: str | None = None
    probes: int = 32
    rtol: float = 1e-4
    bin_width: float | None = None
    particles: int = 1000
    seed: int = 0
    json: bool = False


@dataclass(frozen=True)
class FitOptions:
    """Fit a model known up to its constant by score matching, with standard errors.

    Args:
        model: gaussian, truncated-gaussian, exponential, gamma, quartic, graphical, non-negative-graphical,
            von-mises-fisher, bingham, simplex or boltzmann.
        data: a .csv file with a header, an .npy or .npz file, or the name of a bundled set of vectors.
        columns: names of the columns of a .csv to use, such as a,b,c; all when not given.
        domain: where the data may lie: real, half-line, interval:A:B, box:A,..:B,.. or ball:C,..:R; the model's own
            when not given.
        level: of the confidence intervals.
        output: .json file to write the fit to (-o).
        json: print JSON instead of a table.
    """

    model: str
    data: str
    columns: str | None = None
    domain: str | None = None
    level: float = 0.95
    output: str | None = None
    json: bool = False


@dataclass(frozen=True)
class RestoreOptions:
    """Restore what was masked, blurred, shrunk or made noisy: several draws of what it may have been, and their spread.

    Args:
        run: run folder written by `scorefield train`.
        input: a file (.npy, .npz, .csv, or an image) that holds the sample; of several, --row is taken.
        task: inpaint, denoise, deblur or superres.
        count: how many draws (-n).
        output: .npz file to write (-o), with a .png beside it for images; RUN/restored/… when not given.
        row: which sample of the input.
        degrade: the input is whole: mask, blur, shrink or make it noisy first.
        mask: of inpaint: .npy of booleans, True where known, or what is missing: left, right, top, bottom, centre.
        noise: standard deviation of the noise on the input, in the units of the data.
        width: of deblur, the blur's standard deviation in pixels.
        factor: of superres, how many times smaller the input is.
        label: the class of the sample, where it is known.
        method: moments, pigdm, dps or particles (exact in the limit, and slow).
        steps: of the sampler; 30 when not given, 200 for particles.
        seed: of the draws, and of the noise of --degrade.
    """

    run: str
    input: str
    task: str = "inpaint"
    count: int = 8
    output: str | None = None
    row: int = 0
    degrade: bool = False
    mask: str | None = None
    noise: float = 0.0
    width: float = 1.0
    factor: int = 2
    label: str | None = None
    method: str = "moments"
    steps: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class EvaluateOptions:
    """Judge a run: its samples beside held-out data, every figure with its error.

    Args:
        run: run folder.
        count: how many samples to draw for each figure.
        seed: seed of the samples.
        json: print JSON instead of a table.
    """

    run: str
    count: int = 1000
    seed: int = 0
    json: bool = False


@dataclass(frozen=True)
class CheckOptions:
    """Check the theorems: both sides of each computed, beside their error; exit code 1 where one fails.

    Args:
        only: the name of one theorem, or of a part: score, matching, denoising, dynamics or likelihood.
        seed: seed of all samples.
        json: print JSON instead of a table.
    """

    only: str | None = None
    seed: int = 0
    json: bool = False


@dataclass(frozen=True)
class InfoOptions:
    """Say what a run folder holds: recipe, step, data, versions, and the next command.

    Args:
        run: run folder.
    """

    run: str


@dataclass(frozen=True)
class DemoOptions:
    """Train on real handwritten digits, draw samples, score them, and leave pictures in a folder.

    Args:
        output: run folder.
        seconds: training time on this machine; the number of steps is measured once.
        fresh: train anew even if a finished demo is there.
    """

    output: str = "runs/demo"
    seconds: float = 100.0
    fresh: bool = False
