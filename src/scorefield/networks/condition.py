"""What tells a backbone the noise level and the class: one embedding, shared by all backbones."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from scorefield.checks import check_count, check_rows


class Condition(nn.Module):
    r"""Embedding of the noise level c and the label y: (B,) and (B,) -> (B, width).

    The level enters as Fourier features $\cos(\omega_k c), \sin(\omega_k c)$ with $\omega_k$ spaced geometrically;
    the label as a learned row, of which one more stands for "no label": `y` None, or entries equal to -1.

    Args:
        width: features of the embedding.
        classes: number of classes; 0 for a network that takes no labels.
    """

    omega: Tensor

    def __init__(self, width: int, classes: int = 0) -> None:
        super().__init__()
        check_count("width", width, least=2)
        check_count("classes", classes, least=0)
        self.classes = classes
        half = max(1, width // 4)
        self.register_buffer("omega", torch.exp(torch.linspace(0.0, math.log(40.0), half)), persistent=False)
        self.width, self.entrance, self.level = width, nn.Linear(2 * half, width), nn.Linear(width, width)
        self.label = nn.Embedding(classes + 1, width) if classes else None

    def forward(self, c: Tensor, y: Tensor | None = None) -> Tensor:
        """The embedding (B, width) of levels c (B,) and labels y (B,)."""
        angle = c[:, None] * self.omega.to(c)
        features = torch.cat([angle.cos(), angle.sin()], dim=1).to(self.entrance.weight.dtype)
        embedding = self.level(nn.functional.silu(self.entrance(features)))
        if self.label is None:
            if y is not None:
                raise ValueError("labels were given to a network built with classes=0; build it with classes > 0")
            return embedding
        return embedding + self.label(self._rows(c, y))

    def _rows(self, c: Tensor, y: Tensor | None) -> Tensor:
        if y is None:
            return torch.full(c.shape, self.classes, dtype=torch.long, device=c.device)
        check_rows("y", y, c, "one label per sample")
        return torch.where(y < 0, self.classes, y)
