"""Backbones that know nothing of scores: (x, c, y) -> a tensor shaped like x."""

from scorefield.networks.mlp import MLP
from scorefield.networks.unet import UNet

__all__ = ["MLP", "UNet"]
