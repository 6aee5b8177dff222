"""The loop: one optimiser step after the other, what it yields, and what stops it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Generator as Generates
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from scorefield.calculus import Generator, Share
from scorefield.checks import check_between, check_choice, check_count, check_non_negative, check_positive, check_rows
from scorefield.settings import PRECISIONS, TrainSettings
from scorefield.training.engine import Engine


class Batch(Protocol):
    """What a batch must be: a named tuple whose tensors have one row per sample, `index` numbering the data's rows."""

    @property
    def x(self) -> Tensor:
        """The samples, (B, *D)."""
        ...

    @property
    def y(self) -> Tensor | None:
        """Their labels, (B,), or None."""
        ...

    @property
    def index(self) -> Tensor:
        """Their numbers in the data set, (B,)."""
        ...


Objective = Callable[[nn.Module, Any, Generator], Tensor]


class Diverged(RuntimeError):
    """The loss or its gradient was not finite in three steps in a row."""


@dataclass(frozen=True)
class State:
    """All tensors that a checkpoint must hold, by name; detached, not copied."""

    step: int
    model: dict[str, Tensor]
    ema: dict[str, Tensor]
    optimizer: dict[str, Tensor]


@dataclass(frozen=True)
class Step:
    """What happened in one step.

    Attributes:
        step: number of steps done, from 1.
        loss: mean loss of the batch, over all processes.
        grad_norm: norm of the gradient before clipping.
        lr: learning rate used.
        seconds: how long the step took.
        samples: samples seen so far.
        skipped: the loss or gradient was not finite, and the step left the model as it was.
        state: the tensors to save; valid until the generator moves on.
        terms: mean of each term of the loss, by name, where the objective tells its terms.
    """

    step: int
    loss: float
    grad_norm: float
    lr: float
    seconds: float
    samples: int
    skipped: bool
    state: Callable[[], State]
    terms: Mapping[str, float] = field(default_factory=dict)


class _Loss(nn.Module):
    """The objective inside a module's forward, so that gradients of gradients survive data parallelism."""

    def __init__(self, model: nn.Module, objective: Objective, precision: str) -> None:
        super().__init__()
        self.model, self.objective, self.bf16 = model, objective, precision == "bf16"
        self.tell = getattr(objective, "terms", None)
        self.names: tuple[str, ...] = ()

    def forward(self, batch: Any, generator: Generator) -> Tensor:
        """The loss (B,), or its K terms (K, B) where the objective tells them."""
        with torch.autocast(batch.x.device.type, torch.bfloat16) if self.bf16 else nullcontext():
            if self.tell is None:
                loss = self.objective(self.model, batch, generator)
                check_rows("the objective's value", loss, batch.x)
                return loss
            terms = self.tell(self.model, batch, generator)
        for name, value in terms.items():
            check_rows(f"the objective's term {name}", value, batch.x)
        self.names = tuple(terms)
        return torch.stack(list(terms.values()))


def train(
    model: nn.Module,
    objective: Objective,
    batches: Callable[[int], Any],
    config: TrainSettings,
    *,
    resume: State | None = None,
    engine: Engine | None = None,
) -> Generates[Step, None, None]:
    """Train a model by AdamW with a moving average of its weights, one `Step` at a time.

    Args:
        model: any module; its parameters change in place (they are float64 under fp64).
        objective: (model, batch, generator) -> loss per sample, (B,). It may carry `terms`, which takes the same and
            tells the terms of that loss by name, each (B,): then the loss is their sum, and each is reported apart.
        batches: step number from 0 -> a batch with `x` (B, *D), `y` (B,) or None and `index` (B,), all processes' rows.
        config: the settings.
        resume: what `Step.state()` returned earlier; training goes on from there.
        engine: processes that were started before; None starts `config.devices` of them.

    Yields:
        one `Step` per optimiser step, until `config.steps` are done.

    Raises:
        Diverged: three steps in a row, or the last ones, without a finite loss and gradient; names levels and rows.
        ValueError: settings out of range, or a batch that does not split evenly.
        RuntimeError: fewer processes than asked for.
    """
    check_settings(config)
    engine = engine or Engine(config.devices)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    parameters = [p for p in model.parameters() if p.requires_grad]
    core: Any = torch.compile(model, dynamic=False) if config.compile else model
    optimizer = torch.optim.AdamW(
        parameters, lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay, fused=True
    )
    criterion = _Loss(core, objective, config.precision)
    module, wrapped = engine.setup(criterion, optimizer)
    buffers, ema = list(model.buffers()), [p.detach().clone() for p in parameters]
    start = _load(resume, model, names, parameters, ema, optimizer) if resume is not None else 0

    def state() -> State:
        moments = {
            f"{name}.{key}": value
            for name, p in zip(names, parameters, strict=True)
            for key, value in optimizer.state[p].items()
        }
        weights = {k: v.detach() for k, v in model.state_dict().items()}
        return State(done, weights, {**weights, **dict(zip(names, ema, strict=True))}, moments)

    failures = 0
    for step in range(start, config.steps):
        clock = time.perf_counter()
        lr = learning_rate(config, step)
        for group in optimizer.param_groups:
            group["lr"] = lr
        kept = [b.clone() for b in buffers]
        means, norm = _gradient(engine, module, parameters, batches(step), config, step)
        loss = sum(means)
        finite = math.isfinite(loss) and math.isfinite(norm)
        if finite:
            wrapped.step()
            _average(ema, parameters, config, step)
        failures = 0 if finite else failures + 1
        message = _blame(model, objective, batches(step), config, step, engine) if failures == 3 else ""
        if not finite:
            for buffer, value in zip(buffers, kept, strict=True):
                buffer.copy_(value)
        for p in parameters:
            p.grad = None
        if message:
            raise Diverged(message)
        done = step + 1
        seconds, terms = time.perf_counter() - clock, dict(zip(criterion.names, means, strict=False))
        yield Step(done, loss, norm, lr, seconds, done * config.batch_size, not finite, state, terms)
    if failures:
        raise Diverged(_blame(model, objective, batches(config.steps - 1), config, config.steps - 1, engine))


def check_settings(config: TrainSettings) -> None:
    """Refuse settings out of range, by name."""
    for name in ("steps", "batch_size", "accumulate", "devices", "ema_samples"):
        check_count(name, getattr(config, name))
    for name in ("learning_rate", "clip"):
        check_positive(name, getattr(config, name))
    check_non_negative("weight_decay", config.weight_decay)
    check_count("warmup", config.warmup, least=0)
    check_count("seed", config.seed, least=0)
    if config.seed >= 2**63:
        raise ValueError(f"seed must be < 2**63, got {config.seed}")
    check_between("decay", config.decay, 0, 1)
    check_choice("precision", config.precision, PRECISIONS)
    shares = config.accumulate * config.devices
    if config.batch_size % shares:
        raise ValueError(
            f"batch_size must be a multiple of accumulate x devices = {shares}, got {config.batch_size}; "
            f"the nearest is {max(shares, round(config.batch_size / shares) * shares)}"
        )


def learning_rate(config: TrainSettings, step: int) -> float:
    """Linear warm-up, a plateau, and a linear fall to zero over the last part of the steps (step from 0)."""
    warmup = max(1, min(config.warmup, config.steps // 10))
    rising = (step + 1) / warmup
    falling = (config.steps - step) / max(1.0, config.decay * config.steps)
    return config.learning_rate * min(1.0, rising, falling)


def step_generator(seed: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The generator of one step's noise: a function of (seed, step) alone."""
    return torch.Generator(device).manual_seed((seed * 0x9E3779B97F4A7C15 + step) % 2**63)


def _gradient(
    engine: Engine, module: nn.Module, parameters: list[nn.Parameter], batch: Any, config: TrainSettings, step: int
) -> tuple[list[float], float]:
    """Accumulate this step's gradient over the micro-batches and clip it; the loss's mean terms, the norm before."""
    generator, parts = step_generator(config.seed, step, engine.device), config.accumulate
    total = torch.zeros((), dtype=torch.float64, device=engine.device)
    for k in range(parts):
        part, draws = _share(batch, k, config, engine, generator)
        last = k + 1 == parts
        total = total + engine.backward(lambda: module(part, draws).mean(-1) / parts, module, last=last)  # noqa: B023
    norm = nn.utils.clip_grad_norm_(parameters, config.clip)
    return (engine.sum(total) / engine.world).reshape(-1).tolist(), norm.item()


def _share(
    batch: Any, k: int, config: TrainSettings, engine: Engine, generator: torch.Generator
) -> tuple[Any, Generator]:
    """The rows of micro-batch k that are this process's own, and the draws that belong to them."""
    micro = config.batch_size // config.accumulate
    size = micro // engine.world
    first = k * micro + engine.rank * size
    own = slice(engine.rank * size, (engine.rank + 1) * size)
    draws = Share(generator, micro, own) if engine.world > 1 else generator
    return _to(batch, slice(first, first + size), engine.device, config.precision == "fp64"), draws


def _to(batch: Any, rows: slice, device: torch.device, double: bool) -> Any:
    moved: dict[str, Any] = {
        name: value if value is None else value[rows].to(device, non_blocking=True)
        for name, value in batch._asdict().items()
    }
    return type(batch)(**{**moved, "x": moved["x"].double() if double else moved["x"]})


def _average(ema: list[Tensor], parameters: Sequence[Tensor], config: TrainSettings, step: int) -> None:
    """Exponential moving average of the weights by samples seen; over the first samples a plain mean."""
    seen = (step + 1) * config.batch_size
    torch._foreach_lerp_(ema, list(parameters), min(1.0, config.batch_size / min(seen, config.ema_samples)))  # pyright: ignore[reportPrivateImportUsage]


def _load(
    state: State,
    model: nn.Module,
    names: list[str],
    parameters: list[nn.Parameter],
    ema: list[Tensor],
    optimizer: torch.optim.Optimizer,
) -> int:
    """Put a saved state back in place; the number of steps done."""
    model.load_state_dict(state.model)
    moments: dict[str, dict[str, Tensor]] = {name: {} for name in names}
    for key, value in state.optimizer.items():
        name, _, entry = key.rpartition(".")
        moments[name][entry] = value
    for name, p, average in zip(names, parameters, ema, strict=True):
        average.copy_(state.ema[name])
        # the moments must lie in memory like their parameter: the fused optimiser goes through both side by side
        like = {k: v.clone() if k == "step" else torch.empty_like(p).copy_(v) for k, v in moments[name].items()}
        optimizer.state[p] = like
    return state.step


def _blame(model: nn.Module, objective: Objective, batch: Any, config: TrainSettings, step: int, engine: Engine) -> str:
    """Which rows and, if the objective tells its `levels`, which noise levels were not finite."""
    part, draws = _share(batch, 0, config, engine, step_generator(config.seed, step, engine.device))
    with torch.no_grad():
        bad = ~torch.isfinite(objective(model, part, draws))
    message = f"training stopped at step {step + 1}: the loss or its gradient was not finite"
    if not bool(bad.any()):
        return f"{message}; the loss itself is finite, so its gradient overflows: lower the learning rate"
    message += f"; rows {part.index[bad.cpu()].tolist()[:8]} of the data"
    told = getattr(objective, "levels", None)
    if told is not None:
        _, draws = _share(batch, 0, config, engine, step_generator(config.seed, step, engine.device))
        levels = told(part, draws)[bad]
        message += f" at noise levels sigma {', '.join(f'{v:.3g}' for v in levels.tolist()[:8])}"
    return f"{message}; look at those rows, or lower the learning rate"
