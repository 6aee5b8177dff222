"""The options of each command."""

from __future__ import annotations

from dataclasses import dataclass


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
        guidance: scale w of guidance by the label: 0 ignores it, 1 is conditional (when not given), more sharpens.
        classifier: run folder of a classifier (train --classifier) whose gradient guides the run without labels,
            instead of the run's own labels.
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
    classifier: str | None = None
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
        root: folder with the files of a named data set (mnist, fashion-mnist, cifar10, celeba, celeba-32).
        label_column: name of a table's column that holds labels, which is left out.
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
        task: inpaint, denoise, deblur, superres or colourise.
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
        count: how many samples to draw for each figure (-n).
        against: other data to judge by, a file, a folder of images or a name; the run's own held-out rows when not
            given.
        root: folder with the files of a named data set, for --against.
        features: what distances of images are measured on: a folder written by `scorefield features`, or a TorchScript
            file of a feature network; principal components of the training images when not given.
        likelihood_rows: held-out images behind the bits per dimension, and as many of training; 0 for none.
        seed: seed of the samples.
        json: print JSON instead of a table.
    """

    run: str
    count: int = 1000
    against: str | None = None
    root: str | None = None
    features: str | None = None
    likelihood_rows: int = 32
    seed: int = 0
    json: bool = False


@dataclass(frozen=True)
class FeaturesOptions:
    """Learn a classifier from labelled images, whose features `evaluate --features` measures distances on.

    Args:
        data: labelled images: class folders, an .npz file with x and y, or a name (digits, mnist, fashion-mnist).
        output: folder to write (-o); features/NAME when not given.
        root: folder with the files of a named data set (mnist, fashion-mnist, cifar10, celeba, celeba-32).
        held_out: fraction of the rows kept out, to test the classifier on; that of the runs to be judged.
        seconds: training time on this machine; the number of steps is measured once.
        steps: number of steps, in place of seconds.
        seed: of the weights and the choice of held-out rows; that of the runs to be judged.
        json: print JSON instead of a table.
    """

    data: str
    output: str | None = None
    root: str | None = None
    held_out: float = 0.1
    seconds: float = 60.0
    steps: int | None = None
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
class DoctorOptions:
    """Say what is wrong with a run or with data, why, and what mends it; exit code 1 where something is.

    Args:
        target: run folder, or data that nothing was learned from yet: what `train` takes.
        root: folder with the files of a named data set.
        label_column: name of the .csv column that holds labels.
        rows: how many samples of a toy density to look at.
        sampler: whose samples are looked at, as in `sample`; so for steps, step_size and epsilon.
        steps: of the sampler.
        step_size: of a sampler of one law.
        epsilon: of annealed-langevin.
        seed: of the samples, and of the rows that would be held out.
        json: print JSON instead of findings in words.
    """

    target: str
    root: str | None = None
    label_column: str | None = None
    rows: int = 10_000
    sampler: str | None = None
    steps: int | None = None
    step_size: float | None = None
    epsilon: float | None = None
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


@dataclass(frozen=True)
class ExperimentOptions:
    """Do an experiment of the theory: its pictures, its figures and what to see in them.

    Args:
        name: fields, objectives, manifold, low-density, mixing, annealing, sde, ddpm, optimisation, lyu or ncsn.
        output: folder for its pictures and trained runs (-o); runs/experiments/NAME when not given.
        root: folder with the files of a data set, for manifold and ncsn; the embedded data when not given.
        seed: of everything random in it.
        fresh: do it anew even if the folder holds its outcome.
        json: print JSON instead of a table.
    """

    name: str
    output: str | None = None
    root: str | None = None
    seed: int = 0
    fresh: bool = False
    json: bool = False


@dataclass(frozen=True)
class ReportOptions:
    """Write a run's report: one HTML file that loads nothing and can be sent as it is.

    Args:
        run: run folder; a damaged one has a report too, which says what is wrong.
        output: .html file to write (-o); report.html in the run folder when not given.
        count: how many samples the figures are made from.
        seed: seed of the samples.
    """

    run: str
    output: str | None = None
    count: int = 1000
    seed: int = 0
