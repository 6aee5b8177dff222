"""Classifier-free guidance, autoguidance and negative labels: one batched call of a labelled model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from scorefield.checks import check_rows
from scorefield.guidance.bayes import check_scale
from scorefield.networks.condition import Condition

Labelled = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # s(x, t, y); y = -1 stands for no label


class ClassifierFree:
    """See `classifier_free`."""

    def __init__(
        self,
        model: Labelled,
        y: Tensor,
        scale: float,
        negative: Tensor | None,
        weak: Labelled | None,
        interval: tuple[float, float] | None,
    ) -> None:
        self._model, self._y, self._scale, self._weak, self._interval = model, y, scale, weak, interval
        self._against = torch.full_like(y, -1) if negative is None else negative

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The guided score at x (B, *D) and times t, (B,) or ()."""
        check_rows("y", self._y, x, "one class per sample")
        y, against, w = self._y.to(x.device), self._against.to(x.device), self._scale
        if self._interval is not None:
            inside = (t >= self._interval[0]) & (t <= self._interval[1])
            if not inside.any():
                return self._model(x, t, y)
            if not inside.all():  # some samples of a batch at times of their own
                guided = self._of(x, t, y, against, w)
                return torch.where(inside.reshape(-1, *(1,) * (x.ndim - 1)), guided, self._model(x, t, y))
        return self._of(x, t, y, against, w)

    def _of(self, x: Tensor, t: Tensor, y: Tensor, against: Tensor, w: float) -> Tensor:
        if w == 1:
            return self._model(x, t, y)
        if self._weak is not None:
            base = self._weak(x, t, y)
            return base if w == 0 else torch.lerp(base, self._model(x, t, y), w)
        if w == 0:
            return self._model(x, t, against)
        twice = t if t.ndim == 0 else torch.cat([t, t])
        base, wanted = self._model(torch.cat([x, x]), twice, torch.cat([against, y])).chunk(2)
        return torch.lerp(base, wanted, w)


def check_classes(name: str, y: Tensor, model: Labelled) -> None:
    """Refuse labels that a model did not learn, where it is a network that knows its classes."""
    parts = model.modules() if isinstance(model, nn.Module) else ()
    known = next((part.classes for part in parts if isinstance(part, Condition)), None)
    if known is None or not len(y) or (y.max() < known and y.min() >= -1):
        return
    raise ValueError(
        f"{name} must hold classes 0 to {known - 1}, or -1 for none, got {y.min().item()} to {y.max().item()}"
        if known
        else f"{name} must not be given to a model without labels, got {y.unique().tolist()[:5]}"
    )


def classifier_free(
    model: Labelled,
    y: Tensor,
    scale: float,
    *,
    negative: Tensor | None = None,
    weak: Labelled | None = None,
    interval: tuple[float, float] | None = None,
) -> ClassifierFree:
    r"""Classifier-free guidance: $s_\varnothing + w\,(s_y - s_\varnothing)$.

    w = 0 ignores the label, w = 1 is the conditional score, w > 1 sharpens; Ho & Salimans' own weight is w - 1. Both
    scores come from one call of the model on a batch of twice the size. For w other than 0 and 1 the result is in
    general not the score, at every t, of any one law blurred by the schedule.

    Args:
        model: s(x, t, y), trained with some labels hidden; y = -1 stands for none. `Run.load_model()` is one.
        y: the classes wanted, (B,) whole numbers, for this very batch.
        scale: w >= 0.
        negative: classes to move away from, (B,), in the place of no label.
        weak: a weaker model s(x, t, y) in the place of the same model without label: autoguidance.
        interval: guide only at times within (from, to); elsewhere w = 1. `noise.time_at` turns levels into times.

    Raises:
        ValueError: a scale that is not finite or < 0, labels that are no whole numbers, of another shape or outside the
            classes that a network knows, both `negative` and `weak`, or an interval that is none.

    Source: Ho & Salimans 2022 (arXiv:2207.12598); Karras et al. 2024 (arXiv:2406.02507), autoguidance; Kynkäänniemi et
    al. 2024 (arXiv:2404.07724), the interval.
    """
    check_scale(scale)
    for name, labels in (("y", y), ("negative", negative)):
        if labels is not None and (labels.ndim != 1 or labels.is_floating_point() or labels.shape != y.shape):
            raise ValueError(
                f"{name} must hold one whole number per sample, {tuple(y.shape[:1])}, got {tuple(labels.shape)} "
                f"{labels.dtype}"
            )
        if labels is not None:
            check_classes(name, labels, model)
    if negative is not None and weak is not None:
        raise ValueError("negative and weak both take the place of no label; give one of them")
    if interval is not None and not interval[0] < interval[1]:
        raise ValueError(f"interval must be two increasing times, got {interval}")
    return ClassifierFree(model, y, scale, negative, weak, interval)
